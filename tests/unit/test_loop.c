/* SPDX-License-Identifier: Apache-2.0 */
/* loop: descriptors, timers, signals, calls from other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>

#include "base/util.h"
#include "loop/loop.h"

struct fixture {
	struct loop *loop;
	int pipe_a[2], pipe_b[2];
	struct loop_fd *a, *b;
	struct loop_timer *timer, *other;
	unsigned calls, fired;
	uint64_t at_ns;
	pthread_t thread;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	*state = f;
	return loop_new(&f->loop, &err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	free(f);
	return 0;
}

static void quit_7(void *arg)
{
	loop_quit(((struct fixture *)arg)->loop, 7);
}

static void test_call_and_quit(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(loop_call(f->loop, quit_7, f), 0);
	assert_int_equal(loop_run(f->loop), 7);
	assert_int_equal(loop_call(f->loop, quit_7, f), 0);
	assert_int_equal(loop_run(f->loop), 7); /* runs again */
}

static void count_call(void *arg)
{
	struct fixture *f = arg;

	if (++f->calls == 1000)
		loop_quit(f->loop, 0);
}

static void *caller(void *arg)
{
	struct fixture *f = arg;

	for (unsigned i = 0; i < 1000; i++)
		if (loop_call(f->loop, count_call, f) < 0)
			abort();
	return NULL;
}

static void test_calls_from_a_thread(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pthread_create(&f->thread, NULL, caller, f), 0);
	assert_int_equal(loop_run(f->loop), 0);
	pthread_join(f->thread, NULL);
	assert_int_equal(f->calls, 1000);
}

/* Both pipes are readable in one batch; whichever comes first removes the other. */
static void on_readable(void *arg, uint32_t events)
{
	struct fixture *f = arg;

	assert_true(events & EPOLLIN);
	f->calls++;
	loop_fd_del(f->a);
	loop_fd_del(f->b);
	f->a = f->b = NULL;
	loop_call(f->loop, quit_7, f);
}

static void test_remove_in_callback(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pipe(f->pipe_a), 0);
	assert_int_equal(pipe(f->pipe_b), 0);
	assert_int_equal(loop_fd_add(f->loop, f->pipe_a[0], EPOLLIN, on_readable, f, &f->a), 0);
	assert_int_equal(loop_fd_add(f->loop, f->pipe_b[0], EPOLLIN, on_readable, f, &f->b), 0);
	assert_int_equal(write(f->pipe_a[1], "x", 1), 1);
	assert_int_equal(write(f->pipe_b[1], "x", 1), 1);
	assert_int_equal(loop_run(f->loop), 7);
	assert_int_equal(f->calls, 1);
	for (unsigned i = 0; i < 2; i++) {
		close(f->pipe_a[i]);
		close(f->pipe_b[i]);
	}
}

static void on_timer(void *arg)
{
	struct fixture *f = arg;

	f->fired++;
	f->at_ns = clock_now_ns();
	loop_quit(f->loop, 1);
}

static void on_other(void *arg)
{
	fail_msg("a disarmed timer fired");
}

static void test_timer(void **state)
{
	struct fixture *f = *state;
	uint64_t deadline = clock_now_ns() + 20000000;

	assert_int_equal(loop_timer_add(f->loop, on_timer, f, &f->timer), 0);
	assert_int_equal(loop_timer_add(f->loop, on_other, f, &f->other), 0);
	loop_timer_arm(f->other, clock_now_ns() + 1000000);
	loop_timer_arm(f->other, 0);
	loop_timer_arm(f->timer, deadline);
	assert_int_equal(loop_run(f->loop), 1);
	assert_true(f->at_ns >= deadline);
	assert_int_equal(f->fired, 1);
	/* A deadline in the past fires at once. */
	loop_timer_arm(f->timer, 1);
	assert_int_equal(loop_run(f->loop), 1);
	assert_int_equal(f->fired, 2);
	loop_timer_del(f->timer);
	loop_timer_del(f->other);
}

static void on_signal(void *arg, int signo)
{
	loop_quit(((struct fixture *)arg)->loop, signo);
}

static void test_signal(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(loop_signal_add(f->loop, SIGUSR2, on_signal, f), 0);
	raise(SIGUSR2);
	assert_int_equal(loop_run(f->loop), SIGUSR2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_call_and_quit),
		T(test_calls_from_a_thread),
		T(test_remove_in_callback),
		T(test_timer),
		T(test_signal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
