/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One epoll set; every registered descriptor carries a struct source.
 *
 * 1. A removed source is only marked dead and freed after the batch of events
 *    at hand, because a later event of that batch may point at it.
 * 2. Other threads touch: the queue of calls (its mutex), the quit flag
 *    (atomic), the eventfd that wakes the loop, and timer descriptors (the
 *    kernel serialises timerfd_settime()).
 * 3. A timer's callback runs only when its descriptor can be read, so a timer
 *    disarmed or moved by another thread after it went off stays silent.
 */
#include "loop/loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/util.h"

#define LOOP_BATCH 32

struct source {
	struct loop *loop;
	int fd;
	bool dead;
	void (*dispatch)(struct source *s, uint32_t events);
	void *arg;
	struct source *next; /* in the list of dead sources, or of signals */
};

struct loop_fd {
	struct source s;
	void (*fn)(void *arg, uint32_t events);
};

struct loop_timer {
	struct source s;
	void (*fn)(void *arg);
};

struct loop_signal {
	struct source s;
	int signo;
	void (*fn)(void *arg, int signo);
};

struct call {
	struct call *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	int epfd;
	struct source wake; /* its fd: the eventfd */
	struct source *dead;
	struct source *signals;
	atomic_bool quit;
	atomic_int quit_code;
	pthread_mutex_t call_lock; /* guards the queue below */
	struct call *calls, **calls_tail;
	int (*thread_hook)(void *arg, enum loop_thread kind);
	void *thread_arg;
};

uint64_t clock_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int source_add(struct loop *loop, struct source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	s->loop = loop;
	/* sandbox: loop net: epoll_ctl */
	return epoll_ctl(loop->epfd, EPOLL_CTL_ADD, s->fd, &ev) < 0 ? -errno : 0;
}

static void source_del(struct source *s)
{
	/* sandbox: loop net: epoll_ctl */
	epoll_ctl(s->loop->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	s->dead = true;
	s->next = s->loop->dead;
	s->loop->dead = s;
}

static void free_dead(struct loop *loop)
{
	while (loop->dead) {
		struct source *s = loop->dead;

		loop->dead = s->next;
		free(s); /* the source stands first in its object */
	}
}

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	/* EAGAIN means the counter is full: then the loop is awake anyway. */
	/* sandbox: loop vcpu worker net: write */
	while (write(loop->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void wake_dispatch(struct source *s, uint32_t events)
{
	struct loop *loop = s->loop;
	struct call *list;
	uint64_t count;

	/* sandbox: loop net: read */
	if (read(s->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
		return;
	pthread_mutex_lock(&loop->call_lock);
	list = loop->calls;
	loop->calls = NULL;
	loop->calls_tail = &loop->calls;
	pthread_mutex_unlock(&loop->call_lock);
	while (list) {
		struct call *c = list;

		list = c->next;
		c->fn(c->arg);
		free(c);
	}
}

int loop_new(struct loop **ret_loop, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int ret;

	if (!loop)
		return err_set(err, ENOMEM, "event loop: out of memory");
	loop->calls_tail = &loop->calls;
	pthread_mutex_init(&loop->call_lock, NULL);
	loop->wake.fd = -1;
	loop->wake.dispatch = wake_dispatch;
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0) {
		ret = err_set(err, errno, "event loop: epoll: %s", strerror(errno));
		goto fail;
	}
	loop->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake.fd < 0) {
		ret = err_set(err, errno, "event loop: eventfd: %s", strerror(errno));
		goto fail;
	}
	ret = source_add(loop, &loop->wake, EPOLLIN);
	if (ret < 0) {
		err_set(err, -ret, "event loop: epoll: %s", strerror(-ret));
		goto fail;
	}
	*ret_loop = loop;
	return 0;
fail:
	loop_free(loop);
	return ret;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	free_dead(loop);
	while (loop->signals) {
		struct source *s = loop->signals;

		loop->signals = s->next;
		close(s->fd);
		free(s);
	}
	while (loop->calls) {
		struct call *c = loop->calls;

		loop->calls = c->next;
		free(c);
	}
	if (loop->wake.fd >= 0)
		close(loop->wake.fd);
	if (loop->epfd >= 0)
		close(loop->epfd);
	pthread_mutex_destroy(&loop->call_lock);
	free(loop);
}

int loop_run(struct loop *loop)
{
	struct epoll_event ev[LOOP_BATCH];

	while (!atomic_load(&loop->quit)) {
		/* sandbox: loop net: epoll_wait */
		int n = epoll_wait(loop->epfd, ev, LOOP_BATCH, -1);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		for (int i = 0; i < n; i++) {
			struct source *s = ev[i].data.ptr;

			if (!s->dead)
				s->dispatch(s, ev[i].events);
		}
		free_dead(loop);
	}
	atomic_store(&loop->quit, false);
	return atomic_load(&loop->quit_code);
}

void loop_quit(struct loop *loop, int code)
{
	atomic_store(&loop->quit_code, code);
	atomic_store(&loop->quit, true);
	wake(loop);
}

static void fd_dispatch(struct source *s, uint32_t events)
{
	((struct loop_fd *)s)->fn(s->arg, events);
}

int loop_fd_add(struct loop *loop, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events),
		void *arg, struct loop_fd **ret_source)
{
	struct loop_fd *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return -ENOMEM;
	f->s.fd = fd;
	f->s.dispatch = fd_dispatch;
	f->s.arg = arg;
	f->fn = fn;
	ret = source_add(loop, &f->s, events);
	if (ret < 0) {
		free(f);
		return ret;
	}
	*ret_source = f;
	return 0;
}

int loop_fd_modify(struct loop_fd *source, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = &source->s };

	/* sandbox: loop vcpu net: epoll_ctl */
	return epoll_ctl(source->s.loop->epfd, EPOLL_CTL_MOD, source->s.fd, &ev) < 0 ? -errno : 0;
}

void loop_fd_del(struct loop_fd *source)
{
	if (source)
		source_del(&source->s);
}

static void timer_dispatch(struct source *s, uint32_t events)
{
	uint64_t count;

	if (read(s->fd, &count, sizeof(count)) == sizeof(count))
		((struct loop_timer *)s)->fn(s->arg);
}

int loop_timer_add(struct loop *loop, void (*fn)(void *arg), void *arg,
		   struct loop_timer **ret_timer)
{
	struct loop_timer *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return -ENOMEM;
	t->s.dispatch = timer_dispatch;
	t->s.arg = arg;
	t->fn = fn;
	/* sandbox: loop net: timerfd_create */
	/* sandbox: loop: timerfd_create */
	t->s.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (t->s.fd < 0) {
		ret = -errno;
		free(t);
		return ret;
	}
	ret = source_add(loop, &t->s, EPOLLIN);
	if (ret < 0) {
		close(t->s.fd);
		free(t);
		return ret;
	}
	*ret_timer = t;
	return 0;
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
	struct itimerspec its = {
		.it_value.tv_sec = (time_t)(deadline_ns / 1000000000u),
		.it_value.tv_nsec = (long)(deadline_ns % 1000000000u),
	};

	/* sandbox: loop vcpu worker net: timerfd_settime */
	timerfd_settime(timer->s.fd, TFD_TIMER_ABSTIME, &its, NULL);
}

void loop_timer_del(struct loop_timer *timer)
{
	if (!timer)
		return;
	source_del(&timer->s);
	/* sandbox: loop net: close */
	close(timer->s.fd);
}

static void signal_dispatch(struct source *s, uint32_t events)
{
	struct loop_signal *sig = (struct loop_signal *)s;
	struct signalfd_siginfo info;

	if (read(s->fd, &info, sizeof(info)) == sizeof(info))
		sig->fn(s->arg, sig->signo);
}

int loop_signal_add(struct loop *loop, int signo, void (*fn)(void *arg, int signo), void *arg)
{
	struct loop_signal *sig = calloc(1, sizeof(*sig));
	sigset_t set;
	int ret;

	if (!sig)
		return -ENOMEM;
	sig->signo = signo;
	sig->fn = fn;
	sig->s.arg = arg;
	sig->s.dispatch = signal_dispatch;
	sigemptyset(&set);
	sigaddset(&set, signo);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sig->s.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sig->s.fd < 0) {
		ret = -errno;
		free(sig);
		return ret;
	}
	ret = source_add(loop, &sig->s, EPOLLIN);
	if (ret < 0) {
		close(sig->s.fd);
		free(sig);
		return ret;
	}
	sig->s.next = loop->signals;
	loop->signals = &sig->s;
	return 0;
}

int loop_call(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->fn = fn;
	c->arg = arg;
	pthread_mutex_lock(&loop->call_lock);
	*loop->calls_tail = c;
	loop->calls_tail = &c->next;
	pthread_mutex_unlock(&loop->call_lock);
	wake(loop);
	return 0;
}

void loop_set_thread_hook(struct loop *loop, int (*fn)(void *arg, enum loop_thread kind), void *arg)
{
	loop->thread_hook = fn;
	loop->thread_arg = arg;
}

int loop_thread_begin(struct loop *loop, enum loop_thread kind)
{
	return loop->thread_hook ? loop->thread_hook(loop->thread_arg, kind) : 0;
}
