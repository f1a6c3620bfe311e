/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous operations on files: io_uring, or a few threads where the host
 * refuses io_uring (containers often do).
 *
 * aio_queue() and aio_kick() on any thread; completions on the loop thread. What
 * a completion queues needs no kick: a batch of completions ends with one.
 */
#ifndef EYOT_DISK_AIO_H
#define EYOT_DISK_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "loop/loop.h"

enum aio_engine { AIO_AUTO, AIO_URING, AIO_THREADS };

enum aio_code { AIO_NOP, AIO_READV, AIO_WRITEV, AIO_FDATASYNC, AIO_FALLOCATE };

struct aio;

struct aio_op {
	enum aio_code code;
	int fd;
	int mode; /* AIO_FALLOCATE: FALLOC_FL_* */
	struct iovec *iov;
	unsigned iov_count;
	uint64_t off, len;			  /* @len: AIO_FALLOCATE only */
	void (*done)(struct aio_op *op, int res); /* bytes or 0, or -errno */
	struct aio_op *next;			  /* private */
	int res;				  /* private */
};

/** aio_new() - @engine AIO_AUTO takes io_uring where it works; 0 or -errno */
int aio_new(struct loop *loop, enum aio_engine engine, struct aio **ret_aio, struct err *err);

/** aio_free() - nothing may be in flight; loop thread */
void aio_free(struct aio *aio);

enum aio_engine aio_engine(const struct aio *aio);
void aio_queue(struct aio *aio, struct aio_op *op);
void aio_kick(struct aio *aio);

/* Requests that are done elsewhere, by a process with which a descriptor speaks */
struct aio_extra {
	int fd;			  /* readable: something may be finished */
	void (*ready)(void *arg); /* run completions; loop thread */
	void (*kick)(void *arg);  /* with aio_kick() */
	void (*hurry)(void *arg); /* with aio_hurry() */
	void *arg;
};

/** aio_set_extra() - kick and wait for these, too; copied; NULL: no longer. Nothing is in flight.
 */
void aio_set_extra(struct aio *aio, const struct aio_extra *extra);

/** aio_hurry() - what may take long shall rather fail; loop thread */
void aio_hurry(struct aio *aio);

/** aio_wait() - run completions, waiting for at least one; something must be in flight; loop thread
 */
void aio_wait(struct aio *aio);

#endif
