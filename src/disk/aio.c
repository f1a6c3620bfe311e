/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * io_uring: the thread that queues fills submission entries under the lock and
 * aio_kick() enters the kernel once for all of them. The kernel counts
 * completions on an eventfd in the loop. Entries in flight are bounded by the
 * completion ring's size, so that it cannot overflow; what comes on top waits
 * in a list, which completions move on.
 *
 * The ring is restricted before its first use: it reads, writes, syncs and
 * allocates, and can do nothing else for whoever takes the process over, the
 * opening of files above all.
 *
 * Threads: operations wait in a list; a thread takes one, runs the blocking
 * call and puts it into the done list, whose first entry signals the eventfd.
 * The loop thread starts them, with the first operation: until then
 * a program may still need to have a single thread.
 *
 * Invariants
 * 1. `inflight` = entries handed to the ring (or the threads) whose completion
 *    was not reaped yet; at most RING_DEPTH with io_uring.
 * 2. The waiting list is empty unless inflight = RING_DEPTH.
 * 3. Completions run without the lock.
 *
 * When the kernel refuses a submission for want of memory, the entries stay in
 * the ring and a timer tries again.
 */
#include "disk/aio.h"

#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/util.h"

#define RING_DEPTH 256
#define THREAD_COUNT 4
#define THREAD_STACK KIB(128)
#define RETRY_NS 1000000
#define THREADS_RETRY_NS 100000000
#define REAP_BATCH 64

struct op_list {
	struct aio_op *head, **tail;
};

struct aio {
	enum aio_engine engine;
	struct loop *loop;
	struct loop_fd *source;
	struct loop_timer *retry;
	int efd;
	pthread_mutex_t lock;
	unsigned inflight;
	struct op_list waiting, finished;
	struct aio_extra extra; /* fd -1: none */
	/* io_uring */
	struct io_uring ring;
	bool ring_ready;
	unsigned unsubmitted;
	/* threads */
	pthread_cond_t work;
	pthread_t threads[THREAD_COUNT];
	unsigned thread_count;
	bool stop;
};

static void list_init(struct op_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static void list_push(struct op_list *l, struct aio_op *op)
{
	op->next = NULL;
	*l->tail = op;
	l->tail = &op->next;
}

static struct aio_op *list_pop(struct op_list *l)
{
	struct aio_op *op = l->head;

	if (op) {
		l->head = op->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return op;
}

/* Under the lock, with inflight < RING_DEPTH: there is a free entry, as the ring has that many. */
static bool ring_put(struct aio *aio, struct aio_op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&aio->ring);

	if (!sqe)
		return false;
	switch (op->code) {
	case AIO_NOP:
		io_uring_prep_nop(sqe);
		break;
	case AIO_READV:
		io_uring_prep_readv(sqe, op->fd, op->iov, op->iov_count, op->off);
		break;
	case AIO_WRITEV:
		io_uring_prep_writev(sqe, op->fd, op->iov, op->iov_count, op->off);
		break;
	case AIO_FDATASYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case AIO_FALLOCATE:
		io_uring_prep_fallocate(sqe, op->fd, op->mode, (off_t)op->off, (off_t)op->len);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
	aio->inflight++;
	aio->unsubmitted++;
	return true;
}

/* Under the lock. */
static void ring_submit(struct aio *aio)
{
	while (aio->unsubmitted) {
		/* sandbox: loop vcpu: io_uring_enter */
		int n = io_uring_submit(&aio->ring);

		if (n <= 0) {
			log_debug("io_uring: submission refused: %s", strerror(-n));
			loop_timer_arm(aio->retry, clock_now_ns() + RETRY_NS);
			return;
		}
		aio->unsubmitted -= min_u64(aio->unsubmitted, n);
	}
}

static int thread_run_op(const struct aio_op *op)
{
	ssize_t ret = 0;

	switch (op->code) {
	case AIO_NOP:
		break;
	case AIO_READV:
		/* sandbox: loop worker: preadv */
		ret = preadv(op->fd, op->iov, (int)op->iov_count, (off_t)op->off);
		break;
	case AIO_WRITEV:
		/* sandbox: loop worker: pwritev */
		ret = pwritev(op->fd, op->iov, (int)op->iov_count, (off_t)op->off);
		break;
	case AIO_FDATASYNC:
		/* sandbox: loop worker: fdatasync */
		ret = fdatasync(op->fd);
		break;
	case AIO_FALLOCATE:
		/* sandbox: loop worker: fallocate */
		ret = fallocate(op->fd, op->mode, (off_t)op->off, (off_t)op->len);
		break;
	}
	return ret < 0 ? -errno : (int)ret;
}

static void signal_loop(struct aio *aio)
{
	uint64_t one = 1;

	/* sandbox: loop worker: write */
	while (write(aio->efd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void *thread_main(void *arg)
{
	struct aio *aio = arg;

	if (loop_thread_begin(aio->loop, LOOP_THREAD_WORKER) < 0)
		abort(); /* kernels that take the loop thread's filter take this one */
	pthread_mutex_lock(&aio->lock);
	for (;;) {
		struct aio_op *op;
		bool first;

		while (!aio->waiting.head && !aio->stop)
			pthread_cond_wait(&aio->work, &aio->lock);
		op = list_pop(&aio->waiting);
		if (!op)
			break;
		pthread_mutex_unlock(&aio->lock);
		op->res = thread_run_op(op);
		pthread_mutex_lock(&aio->lock);
		first = !aio->finished.head;
		list_push(&aio->finished, op);
		if (first)
			signal_loop(aio);
	}
	pthread_mutex_unlock(&aio->lock);
	return NULL;
}

void aio_queue(struct aio *aio, struct aio_op *op)
{
	pthread_mutex_lock(&aio->lock);
	if (aio->engine == AIO_THREADS) {
		aio->inflight++;
		list_push(&aio->waiting, op);
		if (aio->thread_count)
			pthread_cond_signal(&aio->work);
		else
			loop_timer_arm(aio->retry, 1);
	} else if (aio->inflight >= RING_DEPTH || !ring_put(aio, op)) {
		list_push(&aio->waiting, op);
	}
	pthread_mutex_unlock(&aio->lock);
}

void aio_kick(struct aio *aio)
{
	if (aio->extra.fd >= 0)
		aio->extra.kick(aio->extra.arg);
	if (aio->engine != AIO_URING)
		return;
	pthread_mutex_lock(&aio->lock);
	ring_submit(aio);
	pthread_mutex_unlock(&aio->lock);
}

/* Take finished operations off the ring or the list; returns how many. */
static unsigned reap(struct aio *aio, struct aio_op **ops)
{
	unsigned n = 0;

	pthread_mutex_lock(&aio->lock);
	if (aio->engine == AIO_URING) {
		struct io_uring_cqe *cqes[REAP_BATCH];

		n = io_uring_peek_batch_cqe(&aio->ring, cqes, REAP_BATCH);
		for (unsigned i = 0; i < n; i++) {
			ops[i] = io_uring_cqe_get_data(cqes[i]);
			ops[i]->res = cqes[i]->res;
		}
		io_uring_cq_advance(&aio->ring, n);
		aio->inflight -= n;
		while (aio->waiting.head && aio->inflight < RING_DEPTH) {
			if (!ring_put(aio, aio->waiting.head))
				break;
			list_pop(&aio->waiting);
		}
		ring_submit(aio);
	} else {
		while (n < REAP_BATCH && aio->finished.head)
			ops[n++] = list_pop(&aio->finished);
		aio->inflight -= n;
	}
	pthread_mutex_unlock(&aio->lock);
	return n;
}

static void complete_all(struct aio *aio)
{
	struct aio_op *ops[REAP_BATCH];
	unsigned n;

	/* Bounded, so that a busy disk leaves the loop to others: one eventfd signal was eaten,
	 * hence again. */
	for (unsigned round = 0; round < RING_DEPTH / REAP_BATCH; round++) {
		n = reap(aio, ops);
		for (unsigned i = 0; i < n; i++)
			ops[i]->done(ops[i], ops[i]->res);
		/* What completions have started goes to the host at once. */
		aio_kick(aio);
		if (n < REAP_BATCH)
			return;
	}
	signal_loop(aio);
}

static void eventfd_ready(void *arg, uint32_t events)
{
	struct aio *aio = arg;
	uint64_t count;

	/* Reset before reaping: what finishes later signals again. */
	/* sandbox: loop: read */
	if (read(aio->efd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	complete_all(aio);
}

/* Those that could be started; more are tried for while there are none. Loop thread. */
static void threads_start(struct aio *aio)
{
	pthread_attr_t attr;
	sigset_t all, old;
	unsigned count;
	int ret = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for other threads */
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, max_u64(THREAD_STACK, PTHREAD_STACK_MIN));
	/* sandbox: loop: clone(CLONE_THREAD_FLAGS) */
	for (count = 0; count < THREAD_COUNT && !ret; count += !ret)
		ret = pthread_create(&aio->threads[count], &attr, thread_main, aio);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_mutex_lock(&aio->lock);
	aio->thread_count = count;
	pthread_mutex_unlock(&aio->lock);
	if (count)
		return;
	log_warn("disk: no thread for its input and output: %s", strerror(ret));
	loop_timer_arm(aio->retry, clock_now_ns() + THREADS_RETRY_NS);
}

static void retry_fired(void *arg)
{
	struct aio *aio = arg;

	if (aio->engine == AIO_URING)
		aio_kick(aio);
	else if (!aio->thread_count)
		threads_start(aio);
}

void aio_wait(struct aio *aio)
{
	struct pollfd pfd[2] = { { .fd = aio->efd, .events = POLLIN },
				 { .fd = aio->extra.fd, .events = POLLIN } };

	if (aio->engine == AIO_THREADS && !aio->thread_count)
		threads_start(aio);
	aio_kick(aio);
	/* The timeout covers a refused submission, whose timer cannot run meanwhile. */
	/* sandbox: loop: poll */
	if (poll(pfd, 2, 10) <= 0)
		return;
	if (pfd[0].revents)
		eventfd_ready(aio, EPOLLIN);
	if (pfd[1].revents)
		aio->extra.ready(aio->extra.arg);
}

static int uring_start(struct aio *aio)
{
#define ALLOW(op)                                                                                  \
	{                                                                                          \
		.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_##op                      \
	}
	static const struct io_uring_restriction allowed[] = {
		ALLOW(NOP), ALLOW(READV), ALLOW(WRITEV), ALLOW(FSYNC), ALLOW(FALLOCATE),
	};
#undef ALLOW
	struct io_uring_probe *probe;
	bool usable;
	int ret;

	ret = io_uring_queue_init(RING_DEPTH, &aio->ring,
				  IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED);
	if (ret < 0)
		return ret;
	aio->ring_ready = true;
	probe = io_uring_get_probe_ring(&aio->ring);
	usable = probe && io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
	io_uring_free_probe(probe);
	if (!usable || *aio->ring.sq.kring_entries < RING_DEPTH)
		return -ENOSYS;
	ret = io_uring_register_eventfd(&aio->ring, aio->efd);
	/* The functions for these two are declared by liburing 2.3 but not in it. */
	if (ret == 0)
		ret = io_uring_register(aio->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed,
					ARRAY_SIZE(allowed));
	return ret < 0
		   ? ret
		   : io_uring_register(aio->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int aio_new(struct loop *loop, enum aio_engine engine, struct aio **ret_aio, struct err *err)
{
	struct aio *aio = calloc(1, sizeof(*aio));
	int ret = 0;

	if (!aio)
		return err_set(err, ENOMEM, "out of memory");
	aio->loop = loop;
	pthread_mutex_init(&aio->lock, NULL);
	pthread_cond_init(&aio->work, NULL);
	list_init(&aio->waiting);
	list_init(&aio->finished);
	aio->extra.fd = -1;
	aio->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (aio->efd < 0) {
		ret = err_set(err, errno, "eventfd: %s", strerror(errno));
		goto out;
	}
	ret = loop_fd_add(loop, aio->efd, EPOLLIN, eventfd_ready, aio, &aio->source);
	if (!ret)
		ret = loop_timer_add(loop, retry_fired, aio, &aio->retry);
	if (ret < 0) {
		err_set(err, -ret, "event loop: %s", strerror(-ret));
		goto out;
	}

	aio->engine = AIO_URING;
	if (engine != AIO_THREADS) {
		ret = uring_start(aio);
		if (ret < 0 && engine == AIO_URING) {
			err_set(err, -ret, "io_uring: %s", strerror(-ret));
			goto out;
		}
		if (ret < 0)
			log_debug("io_uring is refused (%s): disks use threads", strerror(-ret));
	}
	if (engine == AIO_THREADS || ret < 0) {
		aio->engine = AIO_THREADS;
		ret = 0;
	}
out:
	if (ret < 0)
		aio_free(aio);
	else
		*ret_aio = aio;
	return ret;
}

void aio_free(struct aio *aio)
{
	if (!aio)
		return;
	pthread_mutex_lock(&aio->lock);
	aio->stop = true;
	pthread_cond_broadcast(&aio->work);
	pthread_mutex_unlock(&aio->lock);
	for (unsigned i = 0; i < aio->thread_count; i++)
		pthread_join(aio->threads[i], NULL);
	if (aio->ring_ready)
		io_uring_queue_exit(&aio->ring);
	if (aio->retry)
		loop_timer_del(aio->retry);
	if (aio->source)
		loop_fd_del(aio->source);
	if (aio->efd >= 0)
		close(aio->efd);
	pthread_cond_destroy(&aio->work);
	pthread_mutex_destroy(&aio->lock);
	free(aio);
}

void aio_hurry(struct aio *aio)
{
	if (aio->extra.fd >= 0)
		aio->extra.hurry(aio->extra.arg);
}

void aio_set_extra(struct aio *aio, const struct aio_extra *extra)
{
	aio->extra = extra ? *extra : (struct aio_extra) { .fd = -1 };
}

enum aio_engine aio_engine(const struct aio *aio)
{
	return aio->engine;
}
