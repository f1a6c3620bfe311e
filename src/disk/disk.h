/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block layer: a disk image behind an asynchronous interface.
 *
 * Requests are embedded in the caller's own, preallocated structures; nothing
 * is allocated between disk_queue() and the completion. Completions run on the
 * loop thread with no lock of the block layer held. A host error ends a
 * request with its negative errno, never the process. The main ignores SIGXFSZ,
 * so that a file size limit is such an error, too.
 *
 * Size: images are seen in whole sectors of 512 bytes, rounded up, as QEMU does
 * it. What lies behind the end of a file reads as zeros; writing there makes
 * the file longer. A file that becomes shorter than it was when it was opened
 * gives I/O errors where its data is gone.
 *
 * Threads: disk_queue() and disk_kick() on any thread, under any lock of the
 * caller's that its completion may take; everything else on the loop thread.
 */
#ifndef EYOT_DISK_DISK_H
#define EYOT_DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "disk/aio.h"
#include "loop/loop.h"

#define DISK_SECTOR_SHIFT 9
#define DISK_SECTOR 512u
#define DISK_MAX_IOV 1024 /* iovecs of a request */

struct disk;
struct disk_req;
struct file;

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,	   /* all writes completed so far are on stable storage */
	DISK_DISCARD,	   /* content is no longer needed; reads give the old content or zeros */
	DISK_WRITE_ZEROES, /* see DISK_REQ_UNMAP */
};

#define DISK_REQ_UNMAP 1u /* write zeroes: the space may be given back to the host */

/* Which part of a request is under way on one file; private to the drivers. */
struct file_op {
	struct file *file;
	uint64_t off, left; /* where in the file, how much is left, bytes */
	unsigned stage, retries;
	struct iovec zero_iov;
	void (*done)(struct disk_req *req, int ret);
};

struct disk_req {
	/* Filled by the caller. iov and what it points to belong to the disk until completion; its
	 * entries change. */
	enum disk_op op;
	unsigned flags;	    /* DISK_REQ_* */
	uint64_t off, len;  /* bytes, multiples of DISK_SECTOR; 0 for a flush */
	struct iovec *iov;  /* sum of the lengths = len, for read and write */
	unsigned iov_count; /* at most DISK_MAX_IOV */
	void (*done)(struct disk_req *req, int ret); /* loop thread; 0 or -errno */

	/* Private */
	struct disk *disk;
	struct aio_op aio;
	struct file_op fop;
	struct iovec *cut; /* shortened to end the present part */
	size_t cut_len;	   /* its full length */
	uint64_t pos;	   /* overlay: how far the request is */
	uint64_t run;	   /* overlay: length of the present part */
	int result;	   /* of a request that was refused */
};

struct disk_options {
	bool readonly;
	bool snapshot;		/* writes go to a temporary file and are gone with the disk */
	enum aio_engine engine; /* AIO_AUTO unless a test asks */
};

/**
 * disk_open() - open and lock an image
 * @loop: completions run there; borrowed
 * @path: a regular file or a block device, raw content
 * @opt: see struct disk_options
 * @ret_disk: owned by the caller, ended by disk_close()
 * @err: one line that names the image
 *
 * Return: 0; -EAGAIN when another process uses the image in a way that excludes
 * this one; other -errno.
 */
int disk_open(struct loop *loop, const char *path, const struct disk_options *opt,
	      struct disk **ret_disk, struct err *err);

/** disk_close() - wait for what is in flight, then close; NULL is fine; loop thread */
void disk_close(struct disk *disk);

/** disk_size() - bytes, a multiple of DISK_SECTOR */
uint64_t disk_size(const struct disk *disk);

/** disk_readonly() - whether writes are refused */
bool disk_readonly(const struct disk *disk);

/** disk_block_size() - what the host writes efficiently, bytes, a power of two from 512 to 64 KiB
 */
unsigned disk_block_size(const struct disk *disk);

/** disk_engine() - how I/O is done here: AIO_URING or AIO_THREADS */
enum aio_engine disk_engine(const struct disk *disk);

/**
 * disk_queue() - start a request
 * A request that is out of range or writes to a read-only disk completes with
 * -EINVAL or -EROFS. It may be held back until disk_kick().
 */
void disk_queue(struct disk *disk, struct disk_req *req);

/**
 * disk_read_now() - try to read without waiting, from the host's page cache
 * @req: filled as for disk_queue(); its done is not called
 *
 * Any thread. Saves the way through the loop thread, several times the cost of
 * such a read. Return: 0: done; -EAGAIN: not to be had at once, the buffers'
 * content is undefined: use disk_queue().
 */
int disk_read_now(struct disk *disk, const struct disk_req *req);

/** disk_kick() - hand all queued requests to the host */
void disk_kick(struct disk *disk);

/** disk_drain() - wait until no request is in flight, running their completions; loop thread */
void disk_drain(struct disk *disk);

#endif
