/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and attributes. Everything is done as the user who runs this program, and belongs to that
 * user. Set-user-ID and set-group-ID bits never reach files of the host: they would hand that
 * user's rights to others there. Device files are refused; of extended attributes there
 * are those of the user namespace.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "base/util.h"
#include "share/share_priv.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#define MODE_FILE 01777
#define MODE_DIR 03777
#define XATTR_MAX (SHARE_BUF - 512)

static ssize_t reply_entry(struct request *q, const char *name)
{
	struct fuse_entry_out out;
	struct stat st;
	struct node *n;
	int ret = node_lookup(q->s, q->node, name, &n, &st);

	if (ret < 0)
		return reply_error(q, ret);
	put_entry(&out, n, &st);
	return reply_bytes(q, &out, sizeof(out));
}

ssize_t op_lookup(struct request *q)
{
	const char *name = arg_string(q, 0);

	if (!name || !node_name_ok(name))
		return reply_error(q,
				   name && strlen(name) > SHARE_NAME_MAX ? -ENAMETOOLONG : -EINVAL);
	return reply_entry(q, name);
}

/* The node's descriptor, or that of an open file that has lost its name */
static int any_fd(struct request *q)
{
	int fd = node_fd(q->s, q->node);
	struct handle *h = fd == -ESTALE ? handle_for(q->s, q->node) : NULL;

	return h ? h->fd : fd;
}

static ssize_t reply_attr(struct request *q)
{
	struct fuse_attr_out out = { .attr_valid = SHARE_VALID_S };
	int fd = any_fd(q);
	struct stat st;

	if (fd < 0)
		return reply_error(q, fd);
	if (fstat(fd, &st) < 0)
		return reply_error(q, -errno);
	put_attr(&out.attr, &st);
	return reply_bytes(q, &out, sizeof(out));
}

ssize_t op_getattr(struct request *q)
{
	return reply_attr(q);
}

static int set_mode(struct request *q, mode_t mode)
{
	int fd, ret;

	if (S_ISLNK(q->node->type))
		return -EOPNOTSUPP;
	mode &= S_ISDIR(q->node->type) ? MODE_DIR : MODE_FILE;
	fd = any_fd(q);
	if (fd < 0)
		return fd;
	/* sandbox: share: fchmodat2 */
	if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOSYS && errno != EINVAL)
		return -errno;
	/* Linux before 6.6 wants a file that is open. */
	fd = node_open(q->s, q->node, O_RDONLY);
	if (fd == -EACCES)
		fd = node_open(q->s, q->node, O_WRONLY);
	if (fd < 0)
		return fd;
	/* sandbox: share: fchmod */
	ret = fchmod(fd, mode) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int set_size(struct request *q, const struct fuse_setattr_in *in)
{
	struct handle *h = in->valid & FATTR_FH ? handle_of(q->s, in->fh, q->node, false)
						: handle_for(q->s, q->node);
	int fd, ret;

	if (h && (h->flags & O_ACCMODE) != O_RDONLY)
		/* sandbox: share: ftruncate */
		return ftruncate(h->fd, (off_t)in->size) < 0 ? -errno : 0;
	if (!S_ISREG(q->node->type))
		return -EINVAL;
	fd = node_open(q->s, q->node, O_WRONLY);
	if (fd < 0)
		return fd;
	ret = ftruncate(fd, (off_t)in->size) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static int set_times(struct request *q, const struct fuse_setattr_in *in)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	int fd = any_fd(q);

	if (fd < 0)
		return fd;
	if (in->valid & FATTR_ATIME)
		ts[0] = (struct timespec) { (time_t)in->atime, in->valid & FATTR_ATIME_NOW
								   ? UTIME_NOW
								   : (long)in->atimensec };
	if (in->valid & FATTR_MTIME)
		ts[1] = (struct timespec) { (time_t)in->mtime, in->valid & FATTR_MTIME_NOW
								   ? UTIME_NOW
								   : (long)in->mtimensec };
	/* sandbox: share: utimensat */
	return utimensat(fd, "", ts, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

ssize_t op_setattr(struct request *q)
{
	struct fuse_setattr_in in;
	int ret = 0, fd;

	memcpy(&in, q->arg, sizeof(in));
	if (in.valid & FATTR_MODE)
		ret = set_mode(q, in.mode);
	if (ret == 0 && in.valid & (FATTR_UID | FATTR_GID)) {
		fd = any_fd(q);
		ret = fd;
		if (fd >= 0)
			/* sandbox: share: fchownat */
			ret = fchownat(fd, "", in.valid & FATTR_UID ? in.uid : (uid_t)-1,
				       in.valid & FATTR_GID ? in.gid : (gid_t)-1, AT_EMPTY_PATH) < 0
				  ? -errno
				  : 0;
	}
	if (ret == 0 && in.valid & FATTR_SIZE)
		ret = set_size(q, &in);
	if (ret == 0 && in.valid & (FATTR_ATIME | FATTR_MTIME))
		ret = set_times(q, &in);
	return ret < 0 ? reply_error(q, ret) : reply_attr(q);
}

ssize_t op_readlink(struct request *q)
{
	char target[4096];
	int fd = node_fd(q->s, q->node);
	/* sandbox: share: readlinkat */
	ssize_t n = fd < 0 ? fd : readlinkat(fd, "", target, sizeof(target));

	if (fd < 0 || n < 0)
		return reply_error(q, fd < 0 ? fd : -errno);
	return reply_bytes(q, target, (size_t)n);
}

/* What makes something of a name: 0 or -errno of @made, then the new node */
static ssize_t made(struct request *q, const char *name, int ret)
{
	return ret < 0 ? reply_error(q, -errno) : reply_entry(q, name);
}

ssize_t op_symlink(struct request *q)
{
	const char *name = arg_string(q, 0);
	const char *target = name ? arg_string(q, strlen(name) + 1) : NULL;
	int at = node_fd(q->s, q->node);

	if (!target || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	if (at < 0)
		return reply_error(q, at);
	/* sandbox: share: symlinkat */
	return made(q, name, symlinkat(target, at, name));
}

ssize_t op_mknod(struct request *q)
{
	const struct fuse_mknod_in *in = (const void *)q->arg;
	const char *name = arg_string(q, sizeof(*in));
	mode_t type = in->mode & S_IFMT, mode = in->mode & ~in->umask & MODE_FILE;
	int at = node_fd(q->s, q->node);

	if (!name || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK)
		return reply_error(q, -EPERM);
	if (at < 0)
		return reply_error(q, at);
	/* sandbox: share: mknodat */
	return made(q, name, mknodat(at, name, type | mode, 0));
}

ssize_t op_mkdir(struct request *q)
{
	const struct fuse_mkdir_in *in = (const void *)q->arg;
	const char *name = arg_string(q, sizeof(*in));
	int at = node_fd(q->s, q->node);

	if (!name || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	if (at < 0)
		return reply_error(q, at);
	/* sandbox: share: mkdirat */
	return made(q, name, mkdirat(at, name, in->mode & ~in->umask & MODE_DIR));
}

ssize_t op_unlink(struct request *q)
{
	const char *name = arg_string(q, 0);
	int at;

	if (!name || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	node_keep(q->s, q->node, name);
	at = node_fd(q->s, q->node);
	if (at < 0)
		return reply_error(q, at);
	/* sandbox: share: unlinkat */
	if (unlinkat(at, name, q->in.opcode == FUSE_RMDIR ? AT_REMOVEDIR : 0) < 0)
		return reply_error(q, -errno);
	return reply_error(q, 0);
}

ssize_t op_rename(struct request *q)
{
	const struct fuse_rename2_in *in2 = (const void *)q->arg;
	bool two = q->in.opcode == FUSE_RENAME2;
	size_t at = two ? sizeof(*in2) : sizeof(struct fuse_rename_in);
	uint32_t flags = two ? in2->flags : 0;
	const char *from = arg_string(q, at);
	const char *to = from ? arg_string(q, at + strlen(from) + 1) : NULL;
	struct node *dir = node_of(q->s, in2->newdir);
	_cleanup_close_ int from_fd = -1;
	int to_fd;

	if (!to || !node_name_ok(from) || !node_name_ok(to) ||
	    flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return reply_error(q, -EINVAL);
	if (!dir)
		return reply_error(q, -ESTALE);
	if (!flags)
		node_keep(q->s, dir, to);
	to_fd = node_fd(q->s, q->node);
	/* sandbox: share: fcntl(*, F_DUPFD_CLOEXEC) */
	from_fd = to_fd < 0 ? to_fd : fcntl(to_fd, F_DUPFD_CLOEXEC, 0);
	if (from_fd >= 0)
		to_fd = node_fd(q->s, dir);
	if (from_fd < 0 || to_fd < 0)
		return reply_error(q, to_fd < 0 ? to_fd : -errno);
	/* sandbox: share: renameat2, renameat */
	if (renameat2(from_fd, from, to_fd, to, flags) < 0)
		return reply_error(q, -errno);
	node_moved(q->s, dir, to);
	if (flags & RENAME_EXCHANGE)
		node_moved(q->s, q->node, from);
	return reply_error(q, 0);
}

ssize_t op_link(struct request *q)
{
	const struct fuse_link_in *in = (const void *)q->arg;
	const char *name = arg_string(q, sizeof(*in));
	struct node *n = node_of(q->s, in->oldnodeid);
	_cleanup_close_ int from_fd = -1;
	int fd;

	if (!name || !node_name_ok(name))
		return reply_error(q, -EINVAL);
	if (!n || !n->parent)
		return reply_error(q, n ? -EPERM : -ESTALE);
	fd = node_fd(q->s, n); /* whether its name still leads to it */
	if (fd >= 0)
		fd = node_fd(q->s, n->parent);
	from_fd = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (from_fd >= 0)
		fd = node_fd(q->s, q->node);
	if (from_fd < 0 || fd < 0)
		return reply_error(q, fd < 0 ? fd : -errno);
	/* sandbox: share: linkat */
	return made(q, name, linkat(from_fd, n->name, fd, name, 0));
}

ssize_t op_statfs(struct request *q)
{
	struct fuse_statfs_out out = { 0 };
	struct statvfs v;

	/* sandbox: share: fstatfs */
	if (fstatvfs(q->s->root_fd, &v) < 0)
		return reply_error(q, -errno);
	out.st = (struct fuse_kstatfs) { .blocks = v.f_blocks,
					 .bfree = v.f_bfree,
					 .bavail = v.f_bavail,
					 .files = v.f_files,
					 .ffree = v.f_ffree,
					 .bsize = (uint32_t)v.f_bsize,
					 .namelen = SHARE_NAME_MAX,
					 .frsize = (uint32_t)v.f_frsize };
	return reply_bytes(q, &out, sizeof(out));
}

/* ---- extended attributes ---- */

/* Keep the names of the user namespace alone */
static size_t filter_names(char *names, size_t len)
{
	size_t kept = 0;

	for (size_t i = 0, n; i < len; i += n) {
		n = strnlen(names + i, len - i) + 1;
		if (strncmp(names + i, "user.", 5))
			continue;
		memmove(names + kept, names + i, n);
		kept += n;
	}
	return kept;
}

static ssize_t do_xattr(struct request *q, int fd, const char *name, char *buf, uint32_t size)
{
	const struct fuse_setxattr_in *set = (const void *)q->arg;
	size_t at;

	switch (q->in.opcode) {
	case FUSE_GETXATTR:
		/* sandbox: share: fgetxattr */
		return fgetxattr(fd, name, buf, XATTR_MAX);
	case FUSE_LISTXATTR:
		/* sandbox: share: flistxattr */
		return flistxattr(fd, buf, XATTR_MAX);
	case FUSE_REMOVEXATTR:
		/* sandbox: share: fremovexattr */
		return fremovexattr(fd, name);
	}
	at = FUSE_COMPAT_SETXATTR_IN_SIZE + strlen(name) + 1;
	if (size > q->arg_len - at) {
		errno = E2BIG;
		return -1;
	}
	/* sandbox: share: fsetxattr */
	return fsetxattr(fd, name, q->arg + at, size, (int)set->flags);
}

ssize_t op_xattr(struct request *q)
{
	bool list = q->in.opcode == FUSE_LISTXATTR, get = q->in.opcode == FUSE_GETXATTR;
	uint32_t size = q->in.opcode == FUSE_REMOVEXATTR ? 0 : get_le32(q->arg);
	size_t at = get ? sizeof(struct fuse_getxattr_in) : 0;
	struct fuse_getxattr_out out = { 0 };
	struct handle *h = handle_for(q->s, q->node);
	char buf[XATTR_MAX];
	const char *name;
	ssize_t n;
	int fd;

	if (q->in.opcode == FUSE_SETXATTR)
		at = FUSE_COMPAT_SETXATTR_IN_SIZE;
	name = list ? "user.list" : arg_string(q, at);
	if (!name)
		return reply_error(q, -EINVAL);
	if (strncmp(name, "user.", 5) || (!S_ISREG(q->node->type) && !S_ISDIR(q->node->type))) {
		if (!list)
			return reply_error(q, get ? -ENODATA : -EOPNOTSUPP);
		fd = -1;
		n = 0;
	} else {
		fd = h ? fcntl(h->fd, F_DUPFD_CLOEXEC, 0) : node_open(q->s, q->node, O_RDONLY);
		if (fd < 0)
			return reply_error(q, fd == -1 ? -EMFILE : fd);
		n = do_xattr(q, fd, name, buf, size);
		if (n < 0)
			n = -errno;
		close(fd);
	}
	if (n < 0)
		return reply_error(q, (int)n);
	if (list)
		n = (ssize_t)filter_names(buf, (size_t)n);
	if (!list && !get)
		return reply_error(q, 0);
	out.size = (uint32_t)n;
	if (!size)
		return reply_bytes(q, &out, sizeof(out));
	return n > size ? reply_error(q, -ERANGE) : reply_bytes(q, buf, (size_t)n);
}
