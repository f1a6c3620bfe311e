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
	 * thread. */
	void (*start)(struct disk *disk, struct disk_req *req);
	/* See disk_read_now(); validated. */
	int (*read_now)(struct disk *disk, const struct disk_req *req);
	void (*close)(struct disk *disk);
};

struct disk {
	const struct disk_driver *drv;
	void *priv;
	struct aio *aio;
	uint64_t size; /* bytes, whole sectors */
	unsigned block_size;
	bool readonly;
	atomic_uint inflight; /* requests between disk_queue() and the return of their completion */
};

/* A host file on which requests run. */
struct file {
	struct aio *aio;
	int fd;
	uint64_t eof; /* size when it was opened: data must be there up to here */
	atomic_bool no_punch_hole, no_zero_range, no_nowait;
	atomic_int flush_error; /* sticky, negative errno */
};

void disk_complete(struct disk_req *req, int ret);

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

int raw_open(struct disk *disk, const char *path, const struct disk_options *opt, struct err *err);

/* Put a temporary overlay over a driver that was opened read-only. */
int overlay_open(struct disk *disk, struct err *err);

/**
 * image_lock() - lock an image against other users, as QEMU does
 * @writable: whether this process is going to write
 * Return: 0; -EAGAIN with a text when another user excludes this one.
 */
int image_lock(int fd, const char *path, bool writable, struct err *err);

#endif
