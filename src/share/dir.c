/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading folders. The place in a folder is the host's own cookie (d_off), so a client may
 * stop and go on where it likes, and folders of any size need no memory here.
 */
#include <fcntl.h>

#include "base/util.h"
#include "share/share_priv.h"

#define ROUND(n) align_up(n, 8)

ssize_t op_opendir(struct request *q)
{
	struct fuse_open_out out = { 0 };
	int fd = node_open(q->s, q->node, O_RDONLY | O_DIRECTORY), ret;
	DIR *dir;

	if (fd < 0)
		return reply_error(q, fd);
	/* sandbox: share: fcntl(*, F_GETFL), fcntl(*, F_SETFD), newfstatat, close */
	dir = fdopendir(fd);
	if (!dir) {
		ret = -errno;
		close(fd);
		return reply_error(q, ret);
	}
	ret = handle_new(q->s, q->node, fd, dir, O_RDONLY, &out.fh);
	if (ret < 0) {
		closedir(dir);
		return reply_error(q, ret);
	}
	return reply_bytes(q, &out, sizeof(out));
}

static size_t entry_len(const struct dirent *de, bool plus)
{
	return ROUND((plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET) + strlen(de->d_name));
}

/* Write one entry; with @plus it is a lookup as well, which the client counts. */
static void put_dirent(struct request *q, uint8_t *at, const struct dirent *de, bool plus)
{
	struct fuse_direntplus *full = (void *)at;
	struct fuse_dirent *d = plus ? &full->dirent : (void *)at;
	struct stat st;
	struct node *n;

	memset(at, 0, entry_len(de, plus));
	if (plus && node_name_ok(de->d_name) &&
	    node_lookup(q->s, q->node, de->d_name, &n, &st) == 0)
		put_entry(&full->entry_out, n, &st);
	d->ino = de->d_ino;
	d->off = (uint64_t)de->d_off;
	d->namelen = (uint32_t)strlen(de->d_name);
	d->type = de->d_type;
	memcpy(d->name, de->d_name, d->namelen);
}

ssize_t op_readdir(struct request *q)
{
	const struct fuse_read_in *in = (const void *)q->arg;
	struct handle *h = handle_of(q->s, in->fh, q->node, true);
	bool plus = q->in.opcode == FUSE_READDIRPLUS;
	uint8_t *bytes = q->s->reply + sizeof(struct fuse_out_header);
	size_t room = min_u64(SHARE_BUF, q->out_len) - sizeof(struct fuse_out_header), len = 0;
	size_t largest = ROUND(FUSE_NAME_OFFSET_DIRENTPLUS + SHARE_NAME_MAX + 1);

	if (!h)
		return reply_error(q, -EBADF);
	room = min_u64(room, in->size);
	if (telldir(h->dir) != (long)in->offset)
		seekdir(h->dir, (long)in->offset);
	/* An entry that was read and does not fit has to be read again: stop before that. */
	while (!len || room - len >= largest) {
		long before = telldir(h->dir);
		struct dirent *de;

		errno = 0;
		/* sandbox: share: getdents64 */
		de = readdir(h->dir);
		if (!de && errno && !len)
			return reply_error(q, -errno);
		if (!de)
			break;
		if (entry_len(de, plus) > room - len) {
			seekdir(h->dir, before);
			if (!len)
				return reply_error(q, -EINVAL);
			break;
		}
		put_dirent(q, bytes + len, de, plus);
		len += entry_len(de, plus);
	}
	return reply_bytes(q, bytes, len);
}
