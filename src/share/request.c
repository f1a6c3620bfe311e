/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and replies. What a request says is copied into share->buf before it is looked at, zeros
 * behind it, so an argument that is too short reads as zeros and never beyond; file data alone
 * goes between the client's buffers and the file directly.
 *
 * Nothing that can block without end is offered: the client does locks among its own
 * processes itself, and files that are no plain files are never opened.
 */
#include <fcntl.h>

#include "base/util.h"
#include "share/share_priv.h"

#define MINOR 31 /* of protocol 7; with max_pages and explicit data invalidation */
#define NO_REPLY (1u << 0)
#define WRITES (1u << 1) /* refused on a share that is read-only */
#define NO_NODE (1u << 2)

static size_t copy_iov(const struct iovec *iov, unsigned count, void *buf, size_t len, bool out)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n = min_u64(iov[i].iov_len, len - done);

		if (out)
			memcpy(iov[i].iov_base, (uint8_t *)buf + done, n);
		else
			memcpy((uint8_t *)buf + done, iov[i].iov_base, n);
		done += n;
	}
	return done;
}

static uint64_t total(const struct iovec *iov, unsigned count)
{
	uint64_t len = 0;

	for (unsigned i = 0; i < count; i++)
		len += iov[i].iov_len;
	return len;
}

void put_attr(struct fuse_attr *a, const struct stat *st)
{
	*a = (struct fuse_attr) { .ino = st->st_ino,
				  .size = (uint64_t)st->st_size,
				  .blocks = (uint64_t)st->st_blocks,
				  .atime = (uint64_t)st->st_atim.tv_sec,
				  .mtime = (uint64_t)st->st_mtim.tv_sec,
				  .ctime = (uint64_t)st->st_ctim.tv_sec,
				  .atimensec = (uint32_t)st->st_atim.tv_nsec,
				  .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
				  .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
				  .mode = st->st_mode,
				  .nlink = (uint32_t)st->st_nlink,
				  .uid = st->st_uid,
				  .gid = st->st_gid,
				  .rdev = (uint32_t)st->st_rdev,
				  .blksize = (uint32_t)st->st_blksize };
}

void put_entry(struct fuse_entry_out *e, const struct node *n, const struct stat *st)
{
	*e = (struct fuse_entry_out) { .nodeid = node_id(n),
				       .generation = n->generation,
				       .entry_valid = SHARE_VALID_S,
				       .attr_valid = SHARE_VALID_S };
	put_attr(&e->attr, st);
}

static ssize_t reply(struct request *q, int error, const void *bytes, size_t len)
{
	struct {
		struct fuse_out_header head;
		uint8_t bytes[SHARE_BUF];
	} *r = (void *)q->s->reply;
	size_t all = sizeof(r->head) + len;

	if (all > q->out_len || all > sizeof(q->s->reply))
		return -EINVAL;
	if (len && (const uint8_t *)bytes != r->bytes)
		memmove(r->bytes, bytes, len);
	r->head = (struct fuse_out_header) { .len = (uint32_t)all,
					     .error = error,
					     .unique = q->in.unique };
	copy_iov(q->out_iov, q->out_count, r, all, true);
	return (ssize_t)all;
}

ssize_t reply_bytes(struct request *q, const void *bytes, size_t len)
{
	return reply(q, 0, bytes, len);
}

ssize_t reply_error(struct request *q, int error)
{
	return reply(q, error, NULL, 0);
}

ssize_t reply_data(struct request *q, size_t len)
{
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + len),
					.unique = q->in.unique };

	copy_iov(q->out_iov, q->out_count, &head, sizeof(head), true);
	return (ssize_t)head.len;
}

const char *arg_string(const struct request *q, size_t off)
{
	if (off >= q->arg_len || !memchr(q->arg + off, 0, q->arg_len - off))
		return NULL;
	return (const char *)q->arg + off;
}

/* ---- requests of no file ---- */

static ssize_t op_init(struct request *q)
{
	const struct fuse_init_in *in = (const void *)q->arg;
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
				     .minor = MINOR,
				     .max_background = 64,
				     .congestion_threshold = 48,
				     .max_write = SHARE_WRITE_MAX,
				     .max_pages = SHARE_WRITE_MAX / PAGE_SIZE,
				     .time_gran = 1 };

	if (in->major != FUSE_KERNEL_VERSION || in->minor < 28)
		return reply_error(q, -EPROTO);
	share_reset(q->s);
	out.max_readahead = in->max_readahead;
	out.flags =
	    in->flags &
	    (FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |
	     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV |
	     FUSE_AUTO_INVAL_DATA | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_DONT_MASK);
	return reply_bytes(q, &out, sizeof(out));
}

static ssize_t op_destroy(struct request *q)
{
	share_reset(q->s);
	return reply_error(q, 0);
}

static ssize_t op_forget(struct request *q)
{
	if (q->node)
		node_forget(q->s, q->node, ((const struct fuse_forget_in *)q->arg)->nlookup);
	return 0;
}

static ssize_t op_batch_forget(struct request *q)
{
	struct fuse_batch_forget_in in;
	struct fuse_forget_one one;

	memcpy(&in, q->arg, sizeof(in));
	for (uint32_t i = 0; i < in.count; i++) {
		size_t at = sizeof(in) + i * sizeof(one);
		struct node *n;

		if (at + sizeof(one) > q->arg_len)
			break;
		memcpy(&one, q->arg + at, sizeof(one));
		n = node_of(q->s, one.nodeid);
		if (n)
			node_forget(q->s, n, one.nlookup);
	}
	return 0;
}

static ssize_t op_nothing(struct request *q)
{
	return 0;
}

static const struct {
	share_op op;
	unsigned flags;
} ops[] = {
	[FUSE_LOOKUP] = { op_lookup, 0 },
	[FUSE_FORGET] = { op_forget, NO_REPLY | NO_NODE },
	[FUSE_GETATTR] = { op_getattr, 0 },
	[FUSE_SETATTR] = { op_setattr, WRITES },
	[FUSE_READLINK] = { op_readlink, 0 },
	[FUSE_SYMLINK] = { op_symlink, WRITES },
	[FUSE_MKNOD] = { op_mknod, WRITES },
	[FUSE_MKDIR] = { op_mkdir, WRITES },
	[FUSE_UNLINK] = { op_unlink, WRITES },
	[FUSE_RMDIR] = { op_unlink, WRITES },
	[FUSE_RENAME] = { op_rename, WRITES },
	[FUSE_LINK] = { op_link, WRITES },
	[FUSE_OPEN] = { op_open, 0 },
	[FUSE_READ] = { op_read, 0 },
	[FUSE_WRITE] = { op_write, WRITES },
	[FUSE_STATFS] = { op_statfs, 0 },
	[FUSE_RELEASE] = { op_release, 0 },
	[FUSE_FSYNC] = { op_fsync, 0 },
	[FUSE_SETXATTR] = { op_xattr, WRITES },
	[FUSE_GETXATTR] = { op_xattr, 0 },
	[FUSE_LISTXATTR] = { op_xattr, 0 },
	[FUSE_REMOVEXATTR] = { op_xattr, WRITES },
	[FUSE_FLUSH] = { op_flush, 0 },
	[FUSE_INIT] = { op_init, NO_NODE },
	[FUSE_OPENDIR] = { op_opendir, 0 },
	[FUSE_READDIR] = { op_readdir, 0 },
	[FUSE_RELEASEDIR] = { op_release, 0 },
	[FUSE_FSYNCDIR] = { op_fsync, 0 },
	[FUSE_CREATE] = { op_create, WRITES },
	[FUSE_INTERRUPT] = { op_nothing, NO_REPLY | NO_NODE },
	[FUSE_DESTROY] = { op_destroy, NO_NODE },
	[FUSE_BATCH_FORGET] = { op_batch_forget, NO_REPLY | NO_NODE },
	[FUSE_FALLOCATE] = { op_fallocate, WRITES },
	[FUSE_READDIRPLUS] = { op_readdir, 0 },
	[FUSE_RENAME2] = { op_rename, WRITES },
	[FUSE_LSEEK] = { op_lseek, 0 },
};

ssize_t share_request(struct share *s, const struct iovec *in, unsigned in_count,
		      const struct iovec *out, unsigned out_count)
{
	struct request q = { .s = s,
			     .in_iov = in,
			     .in_count = in_count,
			     .out_iov = out,
			     .out_count = out_count,
			     .in_len = total(in, in_count),
			     .out_len = total(out, out_count) };
	size_t len = copy_iov(in, in_count, s->buf, sizeof(s->buf) - 1, false);
	ssize_t ret;

	memset(s->buf + len, 0, sizeof(s->buf) - len);
	if (len < sizeof(q.in))
		return -EINVAL;
	memcpy(&q.in, s->buf, sizeof(q.in));
	if (q.in.len > q.in_len || q.in.len < sizeof(q.in))
		return -EINVAL;
	q.in_len = q.in.len;
	q.arg = s->buf + sizeof(q.in);
	q.arg_len = min_u64(len, q.in.len) - sizeof(q.in);
	q.node = node_of(s, q.in.nodeid);
	if (q.in.opcode >= ARRAY_SIZE(ops) || !ops[q.in.opcode].op)
		return reply_error(&q, -ENOSYS);
	if (!(ops[q.in.opcode].flags & NO_REPLY) && q.out_len < sizeof(struct fuse_out_header))
		return -EINVAL;
	if (!(ops[q.in.opcode].flags & NO_NODE)) {
		if (!q.node)
			return reply_error(&q, -ESTALE);
		if (ops[q.in.opcode].flags & WRITES && s->readonly)
			return reply_error(&q, -EROFS);
		q.node->refs++;
	}
	ret = ops[q.in.opcode].op(&q);
	if (!(ops[q.in.opcode].flags & NO_NODE))
		node_unref(s, q.node);
	return ret;
}

/* ---- life ---- */

int share_new(const char *path, bool readonly, struct share **ret_share, struct err *err)
{
	struct share *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return err_set(err, ENOMEM, "'%s': out of memory", path);
	s->root_fd = -1;
	s->readonly = readonly;
	TAILQ_INIT(&s->lru);
	ret = node_open_root(s, path, err);
	if (ret < 0) {
		share_free(s);
		return ret;
	}
	*ret_share = s;
	return 0;
}

void share_reset(struct share *s)
{
	for (unsigned i = 0; i < SHARE_HANDLES_MAX; i++)
		if (s->handles[i].node)
			handle_drop(s, &s->handles[i]);
	node_drop_all(s);
}

void share_free(struct share *s)
{
	if (!s)
		return;
	share_reset(s);
	if (s->root)
		free(s->root);
	free(s->nodes);
	if (s->root_fd >= 0)
		close(s->root_fd);
	free(s);
}

/* ---- saved state ---- */

static void save_node(const struct node *n, struct snap_writer *w)
{
	snap_put_u32(w, n->index);
	snap_put_u32(w, n->generation);
	snap_put_u32(w, n->parent->index);
	snap_put_u64(w, n->dev);
	snap_put_u64(w, n->ino);
	snap_put_u64(w, n->nlookup);
	snap_put_u32(w, n->type);
	snap_put_u8(w, (uint8_t)strlen(n->name));
	snap_put_bytes(w, n->name, strlen(n->name));
}

void share_save(struct share *s, struct snap_writer *w)
{
	snap_put_u32(w, s->generation);
	snap_put_u32(w, s->node_count - 1);
	for (uint32_t i = 1; i < s->node_room; i++)
		if (s->nodes[i])
			save_node(s->nodes[i], w);
	for (unsigned i = 0; i < SHARE_HANDLES_MAX; i++) {
		const struct handle *h = &s->handles[i];

		if (!h->node)
			continue;
		snap_put_u32(w, i + 1);
		snap_put_u32(w, h->node->index);
		snap_put_u32(w, h->generation);
		snap_put_u32(w, h->flags);
		snap_put_u8(w, h->dir != NULL);
	}
	snap_put_u32(w, 0);
}

/* Its parent is linked when all nodes are there: @parents has its index. */
static int load_node(struct share *s, struct snap_reader *r, uint32_t *parents)
{
	uint32_t index = snap_get_u32(r), generation = snap_get_u32(r), parent = snap_get_u32(r);
	char name[SHARE_NAME_MAX + 1] = "";
	struct node *n;
	uint8_t len;

	n = index ? node_restore(s, index, generation) : NULL;
	if (!n)
		return -EBADMSG;
	parents[index] = parent;
	n->dev = snap_get_u64(r);
	n->ino = snap_get_u64(r);
	n->nlookup = snap_get_u64(r);
	n->type = (mode_t)snap_get_u32(r) & S_IFMT;
	len = snap_get_u8(r);
	snap_get_bytes(r, name, len);
	if (r->bad || strlen(name) != len || !node_name_ok(name))
		return -EBADMSG;
	return node_set_name(n, name);
}

static int link_nodes(struct share *s, const uint32_t *parents)
{
	for (uint32_t i = 1; i < s->node_room; i++) {
		struct node *n = s->nodes[i];

		if (!n)
			continue;
		if (parents[i] >= s->node_room || !s->nodes[parents[i]])
			return -EBADMSG; /* those left without a parent are reset with the others */
		n->parent = s->nodes[parents[i]];
		n->parent->refs++;
		node_hash(s, n);
	}
	/* Every way up ends at the root. */
	for (uint32_t i = 1; i < s->node_room; i++) {
		struct node *n = s->nodes[i];
		uint32_t steps = 0;

		while (n && n->parent && steps++ <= SHARE_DEPTH_MAX)
			n = n->parent;
		if (n && n->parent)
			return -EBADMSG;
	}
	return 0;
}

static int load_nodes(struct share *s, struct snap_reader *r, uint32_t count)
{
	uint32_t *parents = calloc(SHARE_NODES_MAX, sizeof(*parents));
	int ret = parents ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < count && ret == 0; i++)
		ret = load_node(s, r, parents);
	if (ret == 0)
		ret = link_nodes(s, parents);
	free(parents);
	return ret;
}

static int load_handle(struct share *s, struct snap_reader *r, uint32_t place)
{
	uint32_t index = snap_get_u32(r), generation = snap_get_u32(r), flags = snap_get_u32(r);
	struct node *n = index < s->node_room ? s->nodes[index] : NULL;
	bool is_dir = snap_get_u8(r);
	struct handle *h;

	if (r->bad || !n || place > s->handle_max || s->handles[place - 1].node)
		return -EBADMSG;
	if (s->readonly && (flags & O_ACCMODE) != O_RDONLY)
		return -EBADMSG;
	h = &s->handles[place - 1];
	*h = (struct handle) { .node = n, .flags = flags, .generation = generation };
	n->refs++;
	/* What cannot be opened again gives EBADF. */
	h->fd = node_open(
	    s, n, is_dir ? O_RDONLY | O_DIRECTORY : (int)(flags & (O_ACCMODE | O_SYNC | O_DSYNC)));
	if (is_dir && h->fd >= 0)
		h->dir = fdopendir(h->fd);
	return 0;
}

int share_load(struct share *s, struct snap_reader *r, struct err *err)
{
	uint32_t count, place;
	int ret;

	share_reset(s);
	s->generation = snap_get_u32(r);
	count = snap_get_u32(r);
	ret = count < SHARE_NODES_MAX ? load_nodes(s, r, count) : -EBADMSG;
	while (ret == 0 && (place = snap_get_u32(r)))
		ret = load_handle(s, r, place);
	if (ret == 0)
		return 0;
	share_reset(s);
	return err_set(err, -ret, "saved files of a share are not valid");
}
