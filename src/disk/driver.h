/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the block layer: what a driver is, and what drivers share.
 */
#ifndef EYOT_DISK_DRIVER_H
#define EYOT_DISK_DRIVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "disk/disk.h"

struct disk_driver {
	/* Start a validated request; ends with disk_complete(), later and on the loop thread. Any
	 * thread. priv is disk->priv of the driver itself. */
	void (*start)(struct disk *disk, struct disk_req *req);
	/* See disk_read_now(); validated. */
	int (*read_now)(void *priv, const struct disk_req *req);
	/* As file_start() for a DISK_READ, on the disk's bytes: what an overlay reads through. */
	void (*read)(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		     void (*done)(struct disk_req *req, int ret));
	/* See disk_next_data(). */
	int (*next_data)(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end);
	/* See disk_grow(); checked but for what only the driver knows; NULL: cannot. */
	int (*grow)(struct disk *disk, uint64_t size, struct err *err);
	/* Called with nothing in flight; what is written back fails into @err. */
	int (*close)(struct disk *disk, struct err *err);
};

struct disk {
	const struct disk_driver *drv;
	void *priv;
	struct aio *aio;
	uint64_t size; /* bytes, whole sectors */
	unsigned sector, block_size;
	enum disk_format format;
	bool readonly;
	struct loop *loop;
	struct throttle *throttle; /* NULL: no limits */
	bool no_discard;	   /* discards do nothing, zeroes keep their space */
	void (*on_error)(void *arg, enum disk_op op, int ret); /* may be NULL */
	void *on_error_arg;
	_Atomic uint64_t stat_count[DISK_OPS], stat_bytes[DISK_OPS], stat_ns[DISK_OPS];
	_Atomic uint64_t stat_errors;
	atomic_uint inflight; /* requests between disk_queue() and the return of their completion */
};

/* A host file on which requests run. */
struct file {
	struct aio *aio;
	int fd;
	uint64_t eof; /* size when it was opened: data must be there up to here */
	bool direct;  /* O_DIRECT */
	bool unsafe;  /* a flush does nothing */
	atomic_bool no_punch_hole, no_zero_range, no_nowait;
	atomic_int flush_error; /* sticky, negative errno */
};

void disk_complete(struct disk_req *req, int ret);

static inline void req_list_init(struct req_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static inline void req_list_push(struct req_list *l, struct disk_req *req)
{
	req->wait_next = NULL;
	*l->tail = req;
	l->tail = &req->wait_next;
}

static inline struct disk_req *req_list_pop(struct req_list *l)
{
	struct disk_req *req = l->head;

	if (req) {
		l->head = req->wait_next;
		if (!l->head)
			l->tail = &l->head;
	}
	return req;
}

/**
 * image_format() - decide what an image is, by its name and what it begins with
 * @format: DISK_FORMAT_AUTO decides, others are taken as they are
 * @what: for errors, e.g. "disk"
 */
int image_format(struct file *file, const char *what, const char *path, enum disk_format format,
		 enum disk_format *ret_format, struct err *err);

/**
 * file_start() - run a request's operation on [@off, @off+@len) of a file
 * Data goes to or comes from the front of the request's iovecs, which are
 * consumed. @done runs on the loop thread.
 */
void file_start(struct file *file, struct disk_req *req, uint64_t off, uint64_t len,
		void (*done)(struct disk_req *req, int ret));

/** file_read_now() - fill a list of iovecs from @off on, if it can be done without waiting; 0 or
 * -EAGAIN */
int file_read_now(struct file *file, const struct iovec *iov, unsigned count, uint64_t off,
		  uint64_t len);

/** file_nop() - as file_start(), but nothing is done and the result is @result */
void file_nop(struct file *file, struct disk_req *req, int result,
	      void (*done)(struct disk_req *req, int ret));

/**
 * file_rw_now() - read or write at once, waiting for the host
 * For cold paths: opening, growing tables. Reads give zeros behind the end.
 * Return: 0 or -errno.
 */
int file_rw_now(struct file *file, bool write, void *buf, size_t len, uint64_t off);

/** file_sync_now() - fdatasync at once; as sticky as a flush */
int file_sync_now(struct file *file);

/** req_zero() - fill the first @len bytes of what a read is still to fill, and move on */
void req_zero(struct disk_req *req, uint64_t len);

/** req_skip() - move on by @len bytes that are where they belong */
void req_skip(struct disk_req *req, uint64_t len);

/** req_copy() - copy between @buf and the front of a request's iovecs, as its direction is, and
 * move on */
void req_copy(struct disk_req *req, void *buf, uint64_t len);

/**
 * file_open() - open an image's file and lock it
 * @path: a regular file or a block device
 * @opt: readonly and snapshot open it for reading alone; cache
 * @file: filled but for aio; its fd is the caller's to close
 * @ret_block: what the host writes efficiently, bytes
 *
 * file->eof is its size, which may be 0.
 */
int file_open(struct file *file, const char *path, const struct disk_options *opt,
	      unsigned *ret_block, struct err *err);

/** file_next_data() - see disk_next_data() */
int file_next_data(const struct file *file, uint64_t off, uint64_t size, uint64_t *ret_start,
		   uint64_t *ret_end);

/* Take over an open file: the disk's, also when it fails. */
int raw_open(struct disk *disk, const char *path, struct file *file, unsigned block,
	     const struct disk_options *opt, struct err *err);
int qcow2_open(struct disk *disk, const char *path, struct file *file, unsigned block,
	       const struct disk_options *opt, struct err *err);

/* A remote disk; disk/nbd_uri.h tells what @path looks like. */
int nbd_open(struct disk *disk, const char *path, const struct disk_options *opt, struct err *err);

/* Put a temporary overlay over a driver that was opened read-only. */
int overlay_open(struct disk *disk, struct err *err);

/* throttle.c: hold requests back until the limits let them start. */
int throttle_new(struct disk *disk, struct loop *loop, const struct disk_limits *limits,
		 struct err *err);
void throttle_set(struct throttle *t, const struct disk_limits *limits);
void throttle_free(struct throttle *t);
bool throttle_take(struct throttle *t, struct disk_req *req); /* false: it will start later */
void throttle_release(struct throttle *t); /* let all that waits start; loop thread */

/**
 * image_lock() - lock an image against other users, as QEMU does
 * @writable: whether this process is going to write
 * Return: 0; -EAGAIN with a text when another user excludes this one.
 */
int image_lock(int fd, const char *path, bool writable, struct err *err);

#endif
