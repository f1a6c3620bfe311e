/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: file descriptors, timers, signals and calls from other
 * threads, over one epoll set. One loop thread per process; all callbacks run
 * on it. Only loop_call() and loop_quit() may be used from other threads.
 *
 * A source may be removed from any callback, its own included.
 */
#ifndef EYOT_LOOP_LOOP_H
#define EYOT_LOOP_LOOP_H

#include <stdint.h>

#include "base/err.h"

struct loop;
struct loop_fd;
struct loop_timer;

/** loop_new() - make a loop; 0 or -errno */
int loop_new(struct loop **ret_loop, struct err *err);
void loop_free(struct loop *loop);

/** loop_run() - dispatch until loop_quit(); returns the code given to it */
int loop_run(struct loop *loop);
void loop_quit(struct loop *loop, int code);

/**
 * loop_fd_add() - watch a file descriptor
 * @events: EPOLLIN, EPOLLOUT, ... (level-triggered)
 * @fn: called with the events that came
 * @ret_source: owned by the caller, ended by loop_fd_del(); the descriptor stays open
 */
int loop_fd_add(struct loop *loop, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events),
		void *arg, struct loop_fd **ret_source);
int loop_fd_modify(struct loop_fd *source, uint32_t events);
void loop_fd_del(struct loop_fd *source);

/** loop_timer_add() - a one-shot timer, disarmed at first; CLOCK_MONOTONIC */
int loop_timer_add(struct loop *loop, void (*fn)(void *arg), void *arg,
		   struct loop_timer **ret_timer);

/**
 * loop_timer_arm() - set the deadline
 * @deadline_ns: CLOCK_MONOTONIC in nanoseconds; 0 disarms. Any thread may arm.
 */
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_del(struct loop_timer *timer);

/** loop_signal_add() - watch a signal, which is blocked in the calling thread */
int loop_signal_add(struct loop *loop, int signo, void (*fn)(void *arg, int signo), void *arg);

/** loop_call() - run @fn(@arg) on the loop thread soon; any thread; 0 or -ENOMEM */
int loop_call(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Threads that work beside the loop thread, and belong to its process */
enum loop_thread { LOOP_THREAD_VCPU, LOOP_THREAD_WORKER, LOOP_THREAD_SHARE };

/** loop_set_thread_hook() - what each such thread does before its work; set before the first one */
void loop_set_thread_hook(struct loop *loop, int (*fn)(void *arg, enum loop_thread kind),
			  void *arg);

/** loop_thread_begin() - run the hook on the calling thread; 0 or -errno */
int loop_thread_begin(struct loop *loop, enum loop_thread kind);

/** clock_now_ns() - CLOCK_MONOTONIC in nanoseconds */
uint64_t clock_now_ns(void);

#endif
