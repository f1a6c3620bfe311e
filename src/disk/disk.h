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
#define DISK_TIMEOUT_S 60

struct disk;
struct disk_req;
struct file;
struct layer;
struct bounce;

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
	uint64_t pos; /* of a remote disk: bytes that are in parts already */
	int error;    /* of one: what the request ends with */
	struct iovec zero_iov, bounce;
	void (*done)(struct disk_req *req, int ret);
};

struct req_list {
	struct disk_req *head, **tail;
};

/* How far a request on a qcow2 image is; see qcow2_io.c. */
struct qcow2_op {
	void (*done)(struct disk_req *req, int ret);
	uint64_t off, end; /* guest bytes: what is still to do */
	uint64_t run;	   /* bytes of the present part */
	uint64_t host;	   /* where the clusters allocated for it are */
	unsigned clusters; /* how many */
	unsigned char state;
	bool ranged;	   /* stands in the list of ranges */
	bool granted;	   /* and may go on */
	bool exclusive;	   /* no other request may touch its clusters */
	bool owned;	   /* the clusters are to be freed when it fails */
	bool from_zero;	   /* what its cluster showed are zeros */
	int error;	   /* of what it waited for */
	struct layer *top; /* a read: where it begins */
	struct bounce *bounce;
	struct disk_req *prev, *next; /* list of ranges */
	struct req_list blocked;      /* requests that wait for this one's range */
};

struct disk_req {
	/* Filled by the caller. iov and what it points to belong to the disk until completion; its
	 * entries change. */
	enum disk_op op;
	unsigned flags;	    /* DISK_REQ_* */
	uint64_t off, len;  /* bytes, multiples of disk_sector(); 0 for a flush */
	struct iovec *iov;  /* sum of the lengths = len, for read and write */
	unsigned iov_count; /* at most DISK_MAX_IOV */
	void (*done)(struct disk_req *req, int ret); /* loop thread; 0 or -errno */

	/* Private */
	struct disk *disk;
	uint64_t queued_ns; /* clock_now_ns() */
	struct aio_op aio;
	struct file_op fop;
	struct iovec *cut;	    /* shortened to end the present part */
	size_t cut_len;		    /* its full length */
	uint64_t pos;		    /* overlay: how far the request is */
	uint64_t run;		    /* overlay: length of the present part */
	int result;		    /* of a request that was refused */
	struct disk_req *wait_next; /* in the list of what it waits for */
	struct qcow2_op q;
};

enum disk_format {
	/* By the file's name: .qcow2 is a qcow2 image, everything else raw. When the content
	 * contradicts the name the disk is refused: a guest can write to a raw image whatever it
	 * likes, a header that names files of the host included. */
	DISK_FORMAT_AUTO,
	DISK_FORMAT_RAW,
	DISK_FORMAT_QCOW2,
};

enum disk_cache {
	DISK_CACHE_WRITEBACK, /* the host's page cache; a flush is a flush */
	DISK_CACHE_NONE,      /* O_DIRECT */
	DISK_CACHE_UNSAFE,    /* a flush does not wait for the host's disk */
};

/* Limits; 0: none. Up to `burst_s` seconds' worth may come at once after a pause. */
struct disk_limits {
	uint64_t iops, bps;
	unsigned burst_s;
};

struct disk_options {
	bool readonly;
	bool snapshot;		/* writes go to a temporary file and are gone with the disk */
	bool no_discard;	/* discards do nothing, zeroes keep their space */
	enum aio_engine engine; /* AIO_AUTO unless a test asks */
	enum disk_format format;
	enum disk_cache cache;
	bool has_fd; /* the image is open already, as fd, which is borrowed */
	int fd;
	const char *internal; /* name or ID of a qcow2 image's own snapshot; needs readonly */
	/* Of remote disks; borrowed for disk_open() */
	const char *tls_certs, *tls_psk; /* a folder, a file; NULL: none */
	unsigned reconnect_s;		 /* how long requests wait for a server that went away */
	unsigned timeout_s;		 /* how long a server may say nothing; 0: DISK_TIMEOUT_S */
	bool sandbox;			 /* the client process confines itself */
	struct disk_limits limits;
};

/**
 * disk_open() - open and lock an image
 * @loop: completions run there; borrowed
 * @path: a regular file, a block device, or the address of an export (disk/nbd_uri.h)
 * @opt: see struct disk_options
 * @ret_disk: owned by the caller, ended by disk_close()
 * @err: one line that names the image
 *
 * Return: 0; -EAGAIN when another process uses the image in a way that excludes
 * this one; other -errno.
 */
int disk_open(struct loop *loop, const char *path, const struct disk_options *opt,
	      struct disk **ret_disk, struct err *err);

/** disk_close() - wait for what is in flight, write back, then close; NULL is fine; loop thread */
void disk_close(struct disk *disk);

/**
 * disk_close_checked() - as disk_close(), and tell whether all is on the host's disk
 * @disk: is gone in any case
 */
int disk_close_checked(struct disk *disk, struct err *err);

/** disk_size() - bytes, a multiple of DISK_SECTOR */
uint64_t disk_size(const struct disk *disk);

/** disk_format() - what kind of image it is; never DISK_FORMAT_AUTO */
enum disk_format disk_format(const struct disk *disk);

/** disk_readonly() - whether writes are refused */
bool disk_readonly(const struct disk *disk);

/** disk_discards() - whether discards are passed on */
bool disk_discards(const struct disk *disk);

/** disk_sector() - what requests must be multiples of, bytes: DISK_SECTOR, or more of a remote disk
 */
unsigned disk_sector(const struct disk *disk);

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

/**
 * disk_next_data() - find what may differ from zeros
 * @off: where to look from, bytes
 * @ret_start, @ret_end: a part that may have data; all between @off and @ret_start is zeros
 *
 * Cold, may wait for the host; only while nothing writes. Return: 0; -ENXIO
 * when all that follows is zeros; other -errno.
 */
int disk_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end);

#define DISK_OPS 5

struct disk_stats {
	uint64_t
	    count[DISK_OPS]; /* requests that are done, by enum disk_op, failed ones included */
	uint64_t bytes[DISK_OPS];
	uint64_t time_ns[DISK_OPS]; /* from disk_queue() to completion, limits included */
	uint64_t errors;
};

/** disk_get_stats() - figures since it was opened; any thread */
void disk_get_stats(struct disk *disk, struct disk_stats *ret_stats);

/**
 * disk_on_error() - be told when the host fails a request, before its completion
 * @fn: on the loop thread; @ret: a negative errno
 */
void disk_on_error(struct disk *disk, void (*fn)(void *arg, enum disk_op op, int ret), void *arg);

/**
 * disk_grow() - make the disk larger, while it is in use
 * @size: bytes; a block device's must be what the host made of it
 *
 * Nothing may be queued meanwhile. Return: 0; -EINVAL: smaller, or no multiple of
 * DISK_SECTOR; -EROFS; -EOPNOTSUPP: this format cannot; what the host says.
 */
int disk_grow(struct disk *disk, uint64_t size, struct err *err);

/** disk_set_limits() - new limits, all; nothing may be queued meanwhile; 0 or -ENOMEM */
int disk_set_limits(struct disk *disk, const struct disk_limits *limits, struct err *err);

/** disk_kick() - hand all queued requests to the host */
void disk_kick(struct disk *disk);

/** disk_drain() - wait until no request is in flight, running their completions; loop thread */
void disk_drain(struct disk *disk);

#endif
