/* SPDX-License-Identifier: Apache-2.0 */
/* The share's own. Functions return 0 or -errno, the client's errno. */
#ifndef EYOT_SHARE_SHARE_PRIV_H
#define EYOT_SHARE_SHARE_PRIV_H

#include <dirent.h>
#include <linux/fuse.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "share/share.h"

#define SHARE_NODES_MAX (1u << 19)
#define SHARE_BUCKETS (1u << 14)
#define SHARE_NAME_MAX 255
#define SHARE_DEPTH_MAX 1024 /* of folders, where descriptors have to be opened again */
#define SHARE_HANDLES_MAX 4096
#define SHARE_WRITE_MAX (1u << 20)
#define SHARE_VALID_S 1 /* how long the client may believe names and attributes */
#define SHARE_BUF 8192	/* names and other small parts of requests and replies */

struct node {
	struct node *next_hash, *parent; /* parent: NULL for the root */
	uint32_t index, generation;
	uint64_t dev, ino, nlookup;
	uint32_t refs; /* nodes whose parent this is, handles, and whoever uses it now */
	mode_t type;
	int fd;	     /* O_PATH; -1: closed to save descriptors */
	bool pinned; /* it has no name any more: its descriptor is all there is */
	bool listed; /* in the list of descriptors that may be closed */
	TAILQ_ENTRY(node) lru;
	char *name; /* in its parent, as last heard */
};

struct handle {
	struct node *node; /* NULL: free */
	int fd;
	DIR *dir;
	uint32_t flags; /* as opened */
	uint32_t generation;
};

struct share {
	int root_fd;
	bool readonly;
	struct node *root;
	struct node **nodes; /* by index; NULL: free */
	uint32_t node_room, node_count, free_from, generation;
	struct node *buckets[SHARE_BUCKETS];
	TAILQ_HEAD(, node) lru;
	unsigned fd_count, fd_max, pin_count; /* descriptors of nodes */
	struct handle handles[SHARE_HANDLES_MAX];
	unsigned handle_max;
	_Alignas(8) uint8_t buf[SHARE_BUF]; /* the request's fixed parts and names */
	_Alignas(8) uint8_t reply[SHARE_BUF];
};

/* A request being done */
struct request {
	struct share *s;
	struct fuse_in_header in;
	struct node *node; /* of in.nodeid */
	const uint8_t
	    *arg;	/* what follows the header, as far as it fits SHARE_BUF; zeros behind it */
	size_t arg_len; /* copied bytes */
	const struct iovec *in_iov, *out_iov;
	unsigned in_count, out_count;
	uint64_t in_len, out_len; /* bytes of all */
};

/* node.c */
int node_open_root(struct share *s, const char *path, struct err *err);
void node_drop_all(struct share *s);
struct node *node_of(struct share *s, uint64_t nodeid);
uint64_t node_id(const struct node *n);
/* A name that is one part of a path and leads nowhere else */
bool node_name_ok(const char *name);
/* Its O_PATH descriptor, valid until the next node_fd(); or -errno */
int node_fd(struct share *s, struct node *n);
/* Open the file itself; the caller closes it */
int node_open(struct share *s, struct node *n, int flags);
/* Find @name in @dir: its node with one lookup more, and its attributes */
int node_lookup(struct share *s, struct node *dir, const char *name, struct node **ret,
		struct stat *ret_st);
void node_forget(struct share *s, struct node *n, uint64_t count);
void node_unref(struct share *s, struct node *n);
/* @name in @dir is about to lose its file: keep that file's descriptor if the client knows it */
void node_keep(struct share *s, struct node *dir, const char *name);
/* Its file is now @name in @dir */
void node_moved(struct share *s, struct node *dir, const char *name);
int node_set_name(struct node *n, const char *name);
/* A node of saved state: the caller fills it in and hashes it */
void node_hash(struct share *s, struct node *n);
struct node *node_restore(struct share *s, uint32_t index, uint32_t generation);

/* handles (file.c) */
int handle_new(struct share *s, struct node *n, int fd, DIR *dir, uint32_t flags, uint64_t *ret_fh);
struct handle *handle_of(struct share *s, uint64_t fh, const struct node *n, bool dir);
struct handle *handle_for(struct share *s, const struct node *n); /* any file handle of it */
void handle_drop(struct share *s, struct handle *h);

/* request.c */
void put_attr(struct fuse_attr *a, const struct stat *st);
void put_entry(struct fuse_entry_out *e, const struct node *n, const struct stat *st);
/* The reply; returns bytes of all, or -EINVAL: the client has no room for it */
ssize_t reply_bytes(struct request *q, const void *bytes, size_t len);
ssize_t reply_error(struct request *q, int error); /* negative errno or 0 */
ssize_t reply_data(struct request *q, size_t len); /* which stand behind the header already */
/* A string of the request from @off on; NULL: it does not end */
const char *arg_string(const struct request *q, size_t off);

/* What they do */
typedef ssize_t (*share_op)(struct request *q);
ssize_t op_lookup(struct request *q);
ssize_t op_getattr(struct request *q);
ssize_t op_setattr(struct request *q);
ssize_t op_readlink(struct request *q);
ssize_t op_symlink(struct request *q);
ssize_t op_mknod(struct request *q);
ssize_t op_mkdir(struct request *q);
ssize_t op_unlink(struct request *q);
ssize_t op_rename(struct request *q);
ssize_t op_link(struct request *q);
ssize_t op_open(struct request *q);
ssize_t op_create(struct request *q);
ssize_t op_read(struct request *q);
ssize_t op_write(struct request *q);
ssize_t op_statfs(struct request *q);
ssize_t op_release(struct request *q);
ssize_t op_fsync(struct request *q);
ssize_t op_flush(struct request *q);
ssize_t op_lseek(struct request *q);
ssize_t op_fallocate(struct request *q);
ssize_t op_xattr(struct request *q);
ssize_t op_opendir(struct request *q);
ssize_t op_readdir(struct request *q);

#endif
