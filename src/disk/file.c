/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on a host file
 *
 * A request is a chain of host operations, one at a time: each completion
 * either starts the next one (a short transfer goes on, an operation the file
 * system does not have falls back) or ends the request.
 *
 * Scatter-gather lists are consumed from the front, in place. When a part ends
 * inside an element, that element is cut for the time of the operation
 * (req->cut) and mended before the list moves on.
 *
 * Zeroes and discards: space may be given back: punch a hole; else a zero
 * range, which keeps it; where the file system has neither, zeros are written
 * (a discard does nothing). What is found missing is remembered per file.
 *
 * Direct I/O (O_DIRECT) wants aligned memory. A guest may place its buffers
 * anywhere; those that do not fit go through a buffer made for the occasion,
 * a part at a time. The storage's block is 512 bytes (raw_fd_open() sees to
 * it), so offsets always fit.
 *
 * Flush: after a failed fdatasync the kernel may have dropped the dirty pages
 * and will report success next time, although data is gone. So the first
 * error stays: every later flush fails.
 */
#include <fcntl.h>
#include <limits.h>

#include "base/util.h"
#include "disk/driver.h"

#define RETRY_MAX 64
#define RW_MAX MIB(1024) /* bytes of one host call */
#define ZERO_CHUNK KIB(256)
#define DIRECT_CHUNK MIB(1) /* bytes of one host call that needs an aligned buffer */
#define DIRECT_ALIGN 4096u

enum { STAGE_PUNCH, STAGE_ZERO_RANGE, STAGE_WRITE };

static uint8_t zeros[ZERO_CHUNK]
    __attribute__((aligned(4096))); /* never written: one shared zero page */

static void file_submit(struct disk_req *req);

static void mend_cut(struct disk_req *req)
{
	if (req->cut)
		req->cut->iov_len = req->cut_len;
	req->cut = NULL;
}

/* Take @len bytes off the front of the list. */
static void iov_advance(struct disk_req *req, uint64_t len)
{
	mend_cut(req);
	while (req->iov_count && len >= req->iov->iov_len) {
		len -= req->iov->iov_len;
		req->iov++;
		req->iov_count--;
	}
	if (len) {
		req->iov->iov_base = (uint8_t *)req->iov->iov_base + len;
		req->iov->iov_len -= len;
	}
}

/* How many elements from the front hold @len bytes; the last one is cut to fit. */
static unsigned iov_cut(struct disk_req *req, uint64_t len)
{
	unsigned i;

	for (i = 0; i < req->iov_count && len; i++) {
		if (req->iov[i].iov_len > len) {
			req->cut = &req->iov[i];
			req->cut_len = req->cut->iov_len;
			req->cut->iov_len = len;
		}
		len -= req->iov[i].iov_len;
	}
	return i;
}

void req_zero(struct disk_req *req, uint64_t len)
{
	unsigned n = iov_cut(req, len);

	for (unsigned i = 0; i < n; i++)
		memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
	iov_advance(req, len);
}

void req_skip(struct disk_req *req, uint64_t len)
{
	iov_advance(req, len);
}

void req_copy(struct disk_req *req, void *buf, uint64_t len)
{
	unsigned n = iov_cut(req, len);
	uint8_t *p = buf;

	for (unsigned i = 0; i < n; i++) {
		if (req->op == DISK_READ)
			memcpy(req->iov[i].iov_base, p, req->iov[i].iov_len);
		else
			memcpy(p, req->iov[i].iov_base, req->iov[i].iov_len);
		p += req->iov[i].iov_len;
	}
	iov_advance(req, len);
}

static bool is_aligned(const struct iovec *iov, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (((uintptr_t)iov[i].iov_base | iov[i].iov_len) % DISK_SECTOR)
			return false;
	return true;
}

/* Put an aligned buffer in the place of the list; 0 or -ENOMEM. */
static int bounce_begin(struct disk_req *req)
{
	struct file_op *op = &req->fop;
	size_t len = min_u64(op->left, DIRECT_CHUNK);
	void *buf = aligned_alloc(DIRECT_ALIGN, align_up(len, DIRECT_ALIGN));

	if (!buf)
		return -ENOMEM;
	op->bounce = (struct iovec) { buf, len };
	if (req->op == DISK_WRITE) {
		uint8_t *p = buf;
		size_t left = len;

		for (unsigned i = 0; left; i++) {
			size_t n = min_u64(left, req->iov[i].iov_len);

			memcpy(p, req->iov[i].iov_base, n);
			p += n;
			left -= n;
		}
	}
	req->aio.iov = &op->bounce;
	req->aio.iov_count = 1;
	return 0;
}

/* The operation on the aligned buffer is over; the caller moves the list on by @res bytes. */
static void bounce_end(struct disk_req *req, int res)
{
	struct file_op *op = &req->fop;
	const uint8_t *p = op->bounce.iov_base;
	size_t left = res > 0 ? (size_t)res : 0;

	for (unsigned i = 0; left && req->op == DISK_READ; i++) {
		size_t n = min_u64(left, req->iov[i].iov_len);

		memcpy(req->iov[i].iov_base, p, n);
		p += n;
		left -= n;
	}
	free(op->bounce.iov_base);
	op->bounce.iov_base = NULL;
}

static void finish(struct disk_req *req, int ret)
{
	mend_cut(req);
	req->fop.done(req, ret);
}

/* Returns whether more is to do. */
static bool rw_step(struct disk_req *req, int res)
{
	struct file_op *op = &req->fop;
	bool is_read = req->op == DISK_READ;

	if (res < 0) {
		finish(req, res);
		return false;
	}
	if (res == 0 && is_read && op->off >= op->file->eof) {
		req_zero(req, op->left);
		op->left = 0;
	} else if (res == 0) {
		/* A file cut short under us, or a device that takes no more. */
		finish(req, is_read ? -EIO : -ENOSPC);
		return false;
	} else {
		iov_advance(req, (uint64_t)res);
		op->off += (uint64_t)res;
		op->left -= (uint64_t)res;
	}
	if (op->left)
		return true;
	finish(req,
	       0); /* which may start the request's next part: nothing of it is ours any more */
	return false;
}

static bool is_missing(int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -ENOTTY;
}

static void discard_step(struct disk_req *req, int res)
{
	if (is_missing(res)) {
		atomic_store(&req->fop.file->no_punch_hole, true);
		res = 0;
	}
	/* A host that wants coarser alignment: a discard is a hint. */
	finish(req, res == -EINVAL ? 0 : res);
}

static bool zeroes_step(struct disk_req *req, int res)
{
	struct file_op *op = &req->fop;

	if (op->stage == STAGE_WRITE) {
		if (res <= 0) {
			finish(req, res ? res : -ENOSPC);
			return false;
		}
		op->off += (uint64_t)res;
		op->left -= (uint64_t)res;
		if (op->left)
			return true;
		finish(req, 0);
		return false;
	}
	if (!is_missing(res) && res != -EINVAL) {
		finish(req, res);
		return false;
	}
	if (res != -EINVAL)
		atomic_store(op->stage == STAGE_PUNCH ? &op->file->no_punch_hole
						      : &op->file->no_zero_range,
			     true);
	op->stage++;
	return true;
}

static void file_aio_done(struct aio_op *aio, int res)
{
	struct disk_req *req = container_of(aio, struct disk_req, aio);
	struct file_op *op = &req->fop;
	bool more = false;

	mend_cut(req);
	if (op->bounce.iov_base)
		bounce_end(req, res);
	/* ECANCELED: the thread that submitted has ended. */
	if ((res == -EAGAIN || res == -EINTR || res == -ECANCELED) && op->retries < RETRY_MAX) {
		op->retries++;
		more = true;
	} else {
		switch (req->op) {
		case DISK_READ:
		case DISK_WRITE:
			more = rw_step(req, res);
			break;
		case DISK_FLUSH:
			if (res < 0)
				atomic_store(&op->file->flush_error, res);
			finish(req, atomic_load(&op->file->flush_error));
			break;
		case DISK_DISCARD:
			discard_step(req, res);
			break;
		case DISK_WRITE_ZEROES:
			more = zeroes_step(req, res);
			break;
		}
	}
	if (more)
		file_submit(req);
}

static void nop_done(struct aio_op *aio, int res)
{
	struct disk_req *req = container_of(aio, struct disk_req, aio);

	finish(req, req->result);
}

static void submit_nop(struct disk_req *req, int result)
{
	req->result = result;
	req->aio.code = AIO_NOP;
	req->aio.done = nop_done;
	aio_queue(req->fop.file->aio, &req->aio);
}

/* Prepare fallocate or the writing of zeros, by the stage reached. */
static void prepare_zeroes(struct disk_req *req)
{
	struct file_op *op = &req->fop;
	struct aio_op *aio = &req->aio;

	if (op->stage == STAGE_PUNCH &&
	    (!(req->flags & DISK_REQ_UNMAP) || atomic_load(&op->file->no_punch_hole)))
		op->stage = STAGE_ZERO_RANGE;
	if (op->stage == STAGE_ZERO_RANGE && atomic_load(&op->file->no_zero_range))
		op->stage = STAGE_WRITE;
	if (op->stage == STAGE_WRITE) {
		op->zero_iov.iov_base = zeros;
		op->zero_iov.iov_len = min_u64(op->left, sizeof(zeros));
		aio->code = AIO_WRITEV;
		aio->iov = &op->zero_iov;
		aio->iov_count = 1;
		return;
	}
	aio->code = AIO_FALLOCATE;
	aio->mode = FALLOC_FL_KEEP_SIZE |
		    (op->stage == STAGE_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

static void file_submit(struct disk_req *req)
{
	struct file_op *op = &req->fop;
	struct aio_op *aio = &req->aio;

	aio->fd = op->file->fd;
	aio->off = op->off;
	aio->len = op->left;
	aio->done = file_aio_done;
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
		aio->code = req->op == DISK_READ ? AIO_READV : AIO_WRITEV;
		aio->iov = req->iov;
		aio->iov_count = iov_cut(req, min_u64(op->left, RW_MAX));
		if (op->file->direct && !is_aligned(aio->iov, aio->iov_count)) {
			mend_cut(req);
			if (bounce_begin(req) < 0) {
				submit_nop(req, -ENOMEM);
				return;
			}
		}
		break;
	case DISK_FLUSH:
		if (op->file->unsafe) {
			submit_nop(req, 0);
			return;
		}
		if (atomic_load(&op->file->flush_error)) {
			submit_nop(req, atomic_load(&op->file->flush_error));
			return;
		}
		aio->code = AIO_FDATASYNC;
		break;
	case DISK_DISCARD:
		if (atomic_load(&op->file->no_punch_hole)) {
			submit_nop(req, 0);
			return;
		}
		aio->code = AIO_FALLOCATE;
		aio->mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
		break;
	case DISK_WRITE_ZEROES:
		prepare_zeroes(req);
		break;
	}
	aio_queue(op->file->aio, aio);
}

void file_start(struct file *file, struct disk_req *req, uint64_t off, uint64_t len,
		void (*done)(struct disk_req *req, int ret))
{
	req->fop = (struct file_op) { .file = file, .off = off, .left = len, .done = done };
	req->cut = NULL;
	if (!len && req->op != DISK_FLUSH)
		submit_nop(req, 0);
	else
		file_submit(req);
}

void file_nop(struct file *file, struct disk_req *req, int result,
	      void (*done)(struct disk_req *req, int ret))
{
	req->fop = (struct file_op) { .file = file, .done = done };
	req->cut = NULL;
	submit_nop(req, result);
}

int file_read_now(struct file *file, const struct iovec *iov, unsigned count, uint64_t off,
		  uint64_t len)
{
	ssize_t n;

	if (atomic_load_explicit(&file->no_nowait, memory_order_relaxed) || file->direct)
		return -EAGAIN;
	/* sandbox: loop vcpu: preadv2 */
	n = preadv2(file->fd, iov, (int)count, (off_t)off, RWF_NOWAIT);
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		atomic_store(&file->no_nowait, true);
	/* Errors and ends of files are for the long way. */
	return n >= 0 && (uint64_t)n == len ? 0 : -EAGAIN;
}

int file_rw_now(struct file *file, bool write, void *buf, size_t len, uint64_t off)
{
	void *aligned = NULL;
	uint8_t *p = buf;
	size_t buf_len = len;
	int ret = 0;

	if (file->direct) {
		len = align_up(len, DISK_SECTOR); /* short are reads only */
		p = aligned = aligned_alloc(DIRECT_ALIGN, align_up(len, DIRECT_ALIGN));
		if (!aligned)
			return -ENOMEM;
		if (write)
			memcpy(p, buf, len);
	}
	for (size_t pos = 0; pos < len && !ret;) {
		/* sandbox: loop vcpu: pread64, pwrite64 */
		ssize_t n = write ? pwrite(file->fd, p + pos, len - pos, (off_t)(off + pos))
				  : pread(file->fd, p + pos, len - pos, (off_t)(off + pos));

		if (n < 0 && errno != EINTR) {
			ret = -errno;
		} else if (n == 0 && write) {
			ret = -ENOSPC;
		} else if (n == 0) {
			memset(p + pos, 0, len - pos);
			break;
		} else if (n > 0) {
			pos += (size_t)n;
		}
	}
	if (aligned && !write && !ret)
		memcpy(buf, aligned, buf_len);
	free(aligned);
	return ret;
}

int file_sync_now(struct file *file)
{
	int error = atomic_load(&file->flush_error);

	if (error || file->unsafe)
		return error;
	/* sandbox: loop vcpu: fdatasync */
	if (fdatasync(file->fd) == 0)
		return 0;
	error = -errno;
	atomic_store(&file->flush_error, error);
	return error;
}
