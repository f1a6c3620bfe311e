/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker processes: a fork of the daemon that runs one function and ends. It has nothing of the
 * daemon's but memory as it was, a pipe to tell how far it is, and a process group of its own, so
 * that it and the programs it runs can be ended together. It ends when the daemon does.
 */
#ifndef EYOT_MANAGER_WORKER_H
#define EYOT_MANAGER_WORKER_H

#include "manager/manager.h"

struct worker;

struct worker_ops {
	/* In the worker. Return 0 or -errno with a text */
	int (*run)(struct worker *w, void *arg, struct text *ret_result, struct err *err);
	/* In the daemon, on the loop thread */
	void (*progress)(void *owner, double fraction, const char *text);
	/* It is gone. @ret: what run() returned, -ECANCELED when it was cancelled; @result: of
	 * run(), or the error's text */
	void (*ended)(void *owner, int ret, const char *result);
};

/**
 * worker_start() - start one
 * @ops: a constant
 * @arg: run() has a copy of it, with all of memory; the caller's may go
 */
int worker_start(struct manager *m, const struct worker_ops *ops, void *arg, void *owner,
		 struct worker **ret, struct err *err);

/** worker_cancel() - end it; ended() comes later */
void worker_cancel(struct worker *w);

/* ---- in the worker ---- */

/** worker_tell() - how far it is; @fraction negative: cannot be told. At most some a second are
 * sent */
void worker_tell(struct worker *w, double fraction, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/**
 * worker_exec() - run a program and wait for it
 * @argv: ended by NULL; [0] is its path
 * @ret_output: its standard output; NULL: not wanted
 * @tell: whether lines of its standard error are progress; else the last one is the error's text
 */
int worker_exec(struct worker *w, const char *const *argv, struct text *ret_output, bool tell,
		struct err *err);

#endif
