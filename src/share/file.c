/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files. A handle is named by its place and a count, so that one that was closed is not
 * mistaken for the next. The client has its own append mode and page cache; data goes
 * between its buffers and the file.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>

#include "base/util.h"
#include "share/share_priv.h"

#define OPEN_FLAGS (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC)
#define IOV_ROOM 260

int handle_new(struct share *s, struct node *n, int fd, DIR *dir, uint32_t flags, uint64_t *ret_fh)
{
	for (unsigned i = 0; i < s->handle_max; i++) {
		struct handle *h = &s->handles[i];

		if (h->node)
			continue;
		*h = (struct handle) { .node = n,
				       .fd = fd,
				       .dir = dir,
				       .flags = flags & ~(uint32_t)O_TRUNC,
				       .generation = h->generation + 1 };
		n->refs++;
		*ret_fh = (uint64_t)h->generation << 32 | i;
		return 0;
	}
	return -ENFILE;
}

struct handle *handle_of(struct share *s, uint64_t fh, const struct node *n, bool dir)
{
	struct handle *h = (uint32_t)fh < SHARE_HANDLES_MAX ? &s->handles[(uint32_t)fh] : NULL;

	if (!h || h->node != n || h->generation != fh >> 32 || (h->dir != NULL) != dir || h->fd < 0)
		return NULL;
	return h;
}

struct handle *handle_for(struct share *s, const struct node *n)
{
	for (unsigned i = 0; i < s->handle_max; i++)
		if (s->handles[i].node == n && !s->handles[i].dir && s->handles[i].fd >= 0)
			return &s->handles[i];
	return NULL;
}

void handle_drop(struct share *s, struct handle *h)
{
	struct node *n = h->node;

	if (h->dir)
		closedir(h->dir);
	else if (h->fd >= 0)
		close(h->fd);
	h->dir = NULL;
	h->fd = -1;
	h->node = NULL;
	node_unref(s, n);
}

ssize_t op_open(struct request *q)
{
	const struct fuse_open_in *in = (const void *)q->arg;
	struct fuse_open_out out = { 0 };
	int flags = (int)in->flags & OPEN_FLAGS, fd, ret;

	if (q->s->readonly && ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC))
		return reply_error(q, -EROFS);
	if (!S_ISREG(q->node->type))
		return reply_error(q, S_ISDIR(q->node->type) ? -EISDIR : -EPERM);
	fd = node_open(q->s, q->node, flags);
	if (fd < 0)
		return reply_error(q, fd);
	ret = handle_new(q->s, q->node, fd, NULL, (uint32_t)flags, &out.fh);
	if (ret < 0) {
		close(fd);
		return reply_error(q, ret);
	}
	return reply_bytes(q, &out, sizeof(out));
}

ssize_t op_create(struct request *q)
{
	const struct fuse_create_in *in = (const void *)q->arg;
	const char *name = arg_string(q, sizeof(*in));
	int flags = (int)in->flags & (OPEN_FLAGS | O_EXCL), at = node_fd(q->s, q->node), fd;
	mode_t mode = in->mode & ~in->umask & 01777;
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { 0 };
	struct stat st, other;
	struct node *n;

	if (!name || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	if (at < 0)
		return reply_error(q, at);
	/* A file that is there may be a pipe: it is opened as all others are. */
	/* sandbox: share: openat */
	fd = openat(at, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode);
	if (fd < 0 && (errno != EEXIST || flags & O_EXCL))
		return reply_error(q, -errno);
	if (fd >= 0 && fstat(fd, &other) < 0)
		other.st_ino = 0;
	int ret = node_lookup(q->s, q->node, name, &n, &st);

	if (ret == 0 && !S_ISREG(st.st_mode))
		ret = -EEXIST;
	else if (ret == 0 && fd < 0)
		ret = fd = node_open(q->s, n, flags & ~O_EXCL);
	else if (ret == 0 && (st.st_ino != other.st_ino || st.st_dev != other.st_dev))
		ret = -ESTALE;
	if (ret >= 0)
		ret = handle_new(q->s, n, fd, NULL, (uint32_t)flags & ~(uint32_t)O_EXCL,
				 &out.open.fh);
	if (ret < 0) {
		if (fd >= 0)
			close(fd);
		return reply_error(q, ret);
	}
	if (fstat(fd, &st) < 0)
		return reply_error(q, -errno);
	put_entry(&out.entry, n, &st);
	return reply_bytes(q, &out, sizeof(out));
}

/* The part of @iov from @off on, @len bytes at most, in @dst of IOV_ROOM; returns its entries */
static unsigned slice(struct iovec *dst, const struct iovec *iov, unsigned count, uint64_t off,
		      uint64_t len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count && len && n < IOV_ROOM; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		dst[n].iov_base = (uint8_t *)iov[i].iov_base + off;
		dst[n].iov_len = min_u64(iov[i].iov_len - off, len);
		len -= dst[n++].iov_len;
		off = 0;
	}
	return n;
}

ssize_t op_read(struct request *q)
{
	const struct fuse_read_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, false);
	uint64_t room = q->out_len - sizeof(struct fuse_out_header);
	struct iovec iov[IOV_ROOM];
	unsigned count = slice(iov, q->out_iov, q->out_count, sizeof(struct fuse_out_header),
			       min_u64(room, min_u64(in->size, SHARE_WRITE_MAX)));
	ssize_t n;

	if (!h)
		return reply_error(q, -EBADF);
	/* sandbox: share: preadv */
	n = preadv(h->fd, iov, (int)count, (off_t)in->offset);
	return n < 0 ? reply_error(q, -errno) : reply_data(q, (size_t)n);
}

ssize_t op_write(struct request *q)
{
	const struct fuse_write_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, false);
	size_t head = sizeof(q->in) + sizeof(*in);
	struct fuse_write_out out = { 0 };
	struct iovec iov[IOV_ROOM];
	ssize_t n;

	if (!h)
		return reply_error(q, -EBADF);
	if (q->in_len < head || in->size > q->in_len - head || in->size > SHARE_WRITE_MAX)
		return reply_error(q, -EINVAL);
	/* sandbox: share: pwritev */
	n = pwritev(h->fd, iov, (int)slice(iov, q->in_iov, q->in_count, head, in->size),
		    (off_t)in->offset);
	if (n < 0)
		return reply_error(q, -errno);
	out.size = (uint32_t)n;
	return reply_bytes(q, &out, sizeof(out));
}

ssize_t op_release(struct request *q)
{
	const struct fuse_release_in *in = (const void *)q->arg;
	struct handle *h =
	    (uint32_t)in->fh < SHARE_HANDLES_MAX ? &q->s->handles[(uint32_t)in->fh] : NULL;

	if (!h || h->node != q->node || h->generation != in->fh >> 32)
		return reply_error(q, -EBADF);
	handle_drop(q->s, h);
	return reply_error(q, 0);
}

ssize_t op_fsync(struct request *q)
{
	const struct fuse_fsync_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, q->in.opcode == FUSE_FSYNCDIR);
	int ret;

	if (!h)
		return reply_error(q, -EBADF);
	/* sandbox: share: fdatasync, fsync */
	ret = in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(h->fd) : fsync(h->fd);
	return reply_error(q, ret < 0 ? -errno : 0);
}

ssize_t op_flush(struct request *q)
{
	const struct fuse_flush_in *in = (const void *)q->arg;

	return reply_error(q, handle_of(q->s, in->fh, q->node, false) ? 0 : -EBADF);
}

ssize_t op_lseek(struct request *q)
{
	const struct fuse_lseek_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, false);
	struct fuse_lseek_out out = { 0 };
	off_t at;

	if (!h)
		return reply_error(q, -EBADF);
	if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
		return reply_error(q, -EINVAL);
	/* sandbox: share: lseek */
	at = lseek(h->fd, (off_t)in->offset, (int)in->whence);
	if (at < 0)
		return reply_error(q, -errno);
	out.offset = (uint64_t)at;
	return reply_bytes(q, &out, sizeof(out));
}

ssize_t op_fallocate(struct request *q)
{
	const struct fuse_fallocate_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, false);

	if (!h)
		return reply_error(q, -EBADF);
	if (in->mode &
	    ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return reply_error(q, -EOPNOTSUPP);
	return reply_error(
	    /* sandbox: share: fallocate */
	    q,
	    fallocate(h->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0);
}
