/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files that the client knows. A node is found by device and inode, so that hard
 * links are one; it remembers its folder and its name there, by which it is opened again.
 *
 * 1. A file is only ever reached from its folder's descriptor by one name without a slash, not
 *    "." and not "..", following no link (openat2() sees to it): whatever is renamed meanwhile, by
 *    whomever, nothing outside of the folder that is shared can be meant.
 * 2. What is opened by name must be the inode that the node stands for; else ESTALE.
 * 3. Open descriptors are bounded by fd_max: the one used longest ago is closed. That of a
 *    file without a name stays while there is room (its node is pinned).
 * 4. A node lives while the client counts lookups of it or something points at it.
 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "share/share_priv.h"

#define FILES_WANTED 16384
#define FDS_OF_LIMIT 4 /* one part in so many is for nodes, another one for handles */

static int open_beneath(int dir_fd, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)(flags | O_NOFOLLOW | O_CLOEXEC),
				.resolve =
				    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
	/* sandbox: share: openat2 */
	long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

bool node_name_ok(const char *name)
{
	size_t len = strlen(name);

	return len && len <= SHARE_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") &&
	       strcmp(name, "..");
}

uint64_t node_id(const struct node *n)
{
	return n->parent ? (uint64_t)n->generation << 32 | (n->index + 1) : FUSE_ROOT_ID;
}

struct node *node_of(struct share *s, uint64_t nodeid)
{
	uint32_t index = (uint32_t)nodeid - 1;
	struct node *n = index < s->node_room ? s->nodes[index] : NULL;

	return n && node_id(n) == nodeid ? n : NULL;
}

/* ---- table ---- */

static struct node **bucket_of(struct share *s, uint64_t dev, uint64_t ino)
{
	return &s->buckets[(ino * 0x9e3779b97f4a7c15ull + dev) >> 50 & (SHARE_BUCKETS - 1)];
}

static struct node *find(struct share *s, const struct stat *st)
{
	struct node *n = *bucket_of(s, st->st_dev, st->st_ino);

	while (n &&
	       (n->dev != st->st_dev || n->ino != st->st_ino || n->type != (st->st_mode & S_IFMT)))
		n = n->next_hash;
	return n;
}

void node_hash(struct share *s, struct node *n)
{
	struct node **at = bucket_of(s, n->dev, n->ino);

	n->next_hash = *at;
	*at = n;
}

static void unhash(struct share *s, struct node *n)
{
	struct node **at = bucket_of(s, n->dev, n->ino);

	while (*at && *at != n)
		at = &(*at)->next_hash;
	if (*at)
		*at = n->next_hash;
}

/* An empty place from @index on becomes a node's; NULL: the table is full. */
static struct node *place(struct share *s, uint32_t index)
{
	struct node *n;

	while (index < s->node_room && s->nodes[index])
		index++;
	if (index >= SHARE_NODES_MAX)
		return NULL;
	if (index >= s->node_room) {
		uint32_t room = (uint32_t)max_u64(1024, 2 * (uint64_t)s->node_room);
		struct node **more;

		while (room <= index)
			room *= 2;
		more = realloc(s->nodes, room * sizeof(*more));
		if (!more)
			return NULL;
		memset(more + s->node_room, 0, (room - s->node_room) * sizeof(*more));
		s->nodes = more;
		s->node_room = room;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->fd = -1;
	n->index = index;
	s->nodes[index] = n;
	s->node_count++;
	return n;
}

struct node *node_restore(struct share *s, uint32_t index, uint32_t generation)
{
	struct node *n;

	if (index >= SHARE_NODES_MAX || (index < s->node_room && s->nodes[index]))
		return NULL;
	n = place(s, index);
	if (n)
		n->generation = generation;
	return n;
}

static void close_fd(struct share *s, struct node *n)
{
	if (n->fd < 0)
		return;
	if (n->listed)
		TAILQ_REMOVE(&s->lru, n, lru);
	n->listed = false;
	if (n->pinned)
		s->pin_count--;
	n->pinned = false;
	close(n->fd);
	n->fd = -1;
	s->fd_count--;
}

static void set_fd(struct share *s, struct node *n, int fd)
{
	struct node *oldest;

	while (s->fd_count >= s->fd_max && (oldest = TAILQ_FIRST(&s->lru)))
		close_fd(s, oldest);
	n->fd = fd;
	n->listed = true;
	TAILQ_INSERT_TAIL(&s->lru, n, lru);
	s->fd_count++;
}

/* Free @n and what only it kept alive, if nobody needs it. */
static void settle(struct share *s, struct node *n)
{
	while (n && n->parent && !n->nlookup && !n->refs) {
		struct node *parent = n->parent;

		close_fd(s, n);
		unhash(s, n);
		s->nodes[n->index] = NULL;
		s->node_count--;
		if (n->index < s->free_from)
			s->free_from = n->index;
		free(n->name);
		free(n);
		parent->refs--;
		n = parent;
	}
}

void node_unref(struct share *s, struct node *n)
{
	n->refs--;
	settle(s, n);
}

void node_forget(struct share *s, struct node *n, uint64_t count)
{
	n->nlookup -= min_u64(n->nlookup, count);
	settle(s, n);
}

void node_drop_all(struct share *s)
{
	for (uint32_t i = 1; i < s->node_room; i++) {
		struct node *n = s->nodes[i];

		if (!n)
			continue;
		close_fd(s, n);
		free(n->name);
		free(n);
		s->nodes[i] = NULL;
	}
	memset(s->buckets, 0, sizeof(s->buckets));
	s->node_count = 1;
	s->free_from = 1;
	if (s->root) {
		s->root->refs = 0;
		s->root->next_hash = NULL;
		node_hash(s, s->root);
	}
}

/* ---- descriptors ---- */

static int fd_at_depth(struct share *s, struct node *n, unsigned depth)
{
	struct stat st;
	int dir, fd;

	if (!n->parent)
		return s->root_fd;
	if (n->fd >= 0) {
		if (n->listed) {
			TAILQ_REMOVE(&s->lru, n, lru);
			TAILQ_INSERT_TAIL(&s->lru, n, lru);
		}
		return n->fd;
	}
	if (depth == SHARE_DEPTH_MAX)
		return -ENAMETOOLONG;
	dir = fd_at_depth(s, n->parent, depth + 1);
	if (dir < 0)
		return dir;
	fd = open_beneath(dir, n->name, O_PATH);
	if (fd < 0)
		return fd == -ENOENT || fd == -ENOTDIR ? -ESTALE : fd;
	/* sandbox: share: newfstatat, close */
	if (fstat(fd, &st) < 0 || st.st_dev != n->dev || st.st_ino != n->ino ||
	    (st.st_mode & S_IFMT) != n->type) {
		close(fd);
		return -ESTALE;
	}
	set_fd(s, n, fd);
	return fd;
}

int node_fd(struct share *s, struct node *n)
{
	return fd_at_depth(s, n, 0);
}

int node_open(struct share *s, struct node *n, int flags)
{
	struct stat st;
	int dir, fd;

	/* Pipes and devices are the client's own affair, and could hold us up. */
	if (!S_ISREG(n->type) && !S_ISDIR(n->type))
		return -EPERM;
	if (!n->parent)
		return open_beneath(s->root_fd, ".", flags);
	if (n->pinned && S_ISDIR(n->type))
		return open_beneath(n->fd, ".", flags);
	dir = node_fd(s, n->parent);
	if (dir < 0)
		return dir;
	fd = open_beneath(dir, n->name, flags | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	if (fstat(fd, &st) < 0 || st.st_dev != n->dev || st.st_ino != n->ino) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

int node_set_name(struct node *n, const char *name)
{
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	free(n->name);
	n->name = copy;
	return 0;
}

/* @n is @name in @dir. */
static int move(struct share *s, struct node *n, struct node *dir, const char *name)
{
	struct node *old = n->parent;
	int ret = node_set_name(n, name);

	if (ret < 0)
		return ret;
	if (old != dir) {
		/* A folder never comes to lie in itself: the host's kernel has done it already. */
		dir->refs++;
		n->parent = dir;
		if (old)
			node_unref(s, old);
	}
	return 0;
}

static bool is_above(const struct node *n, const struct node *below)
{
	while (below && below != n)
		below = below->parent;
	return below;
}

static struct node *add(struct share *s, struct node *dir, const char *name, const struct stat *st)
{
	struct node *n = place(s, max_u64(s->free_from, 1));

	if (!n)
		return NULL;
	s->free_from = n->index + 1;
	n->generation = ++s->generation & 0x7fffffff;
	n->dev = st->st_dev;
	n->ino = st->st_ino;
	n->type = st->st_mode & S_IFMT;
	node_hash(s, n);
	n->parent = dir;
	dir->refs++;
	if (node_set_name(n, name) < 0) {
		settle(s, n);
		return NULL;
	}
	return n;
}

int node_lookup(struct share *s, struct node *dir, const char *name, struct node **ret,
		struct stat *st)
{
	int at = node_fd(s, dir), fd;
	struct node *n;

	if (at < 0)
		return at;
	fd = open_beneath(at, name, O_PATH);
	if (fd < 0)
		return fd == -ELOOP ? -EIO : fd;
	if (fstat(fd, st) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	n = find(s, st);
	if (!n) {
		n = add(s, dir, name, st);
		if (!n) {
			close(fd);
			return -ENOMEM;
		}
	} else if (n->parent && !is_above(n, dir)) {
		/* What it is called now is the best to find it again. */
		n->refs++;
		if (move(s, n, dir, name) < 0)
			close_fd(s, n);
		n->refs--;
	}
	if (n->parent && n->fd < 0)
		set_fd(s, n, fd);
	else
		close(fd);
	n->nlookup++;
	*ret = n;
	return 0;
}

/* The node of what is @name in @dir; NULL: nothing is, or the client does not know it */
static struct node *known(struct share *s, struct node *dir, const char *name, struct stat *st)
{
	int at = node_fd(s, dir);

	/* sandbox: share: newfstatat */
	if (at < 0 || fstatat(at, name, st, AT_SYMLINK_NOFOLLOW) < 0)
		return NULL;
	return find(s, st);
}

void node_keep(struct share *s, struct node *dir, const char *name)
{
	struct stat st;
	struct node *n = known(s, dir, name, &st);

	if (!n || !n->parent || (st.st_nlink > 1 && !S_ISDIR(st.st_mode)) || n->pinned)
		return;
	if (s->pin_count >= s->fd_max / 2 || node_fd(s, n) < 0) {
		unhash(s, n); /* its number may be another file's soon */
		return;
	}
	TAILQ_REMOVE(&s->lru, n, lru);
	n->listed = false;
	n->pinned = true;
	s->pin_count++;
}

void node_moved(struct share *s, struct node *dir, const char *name)
{
	struct stat st;
	struct node *n = known(s, dir, name, &st);

	if (!n || !n->parent || is_above(n, dir))
		return;
	n->refs++;
	if (move(s, n, dir, name) < 0)
		close_fd(s, n); /* not to be found again: ESTALE */
	node_unref(s, n);
}

int node_open_root(struct share *s, const char *path, struct err *err)
{
	struct rlimit limit;
	struct stat st;

	s->root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->root_fd < 0 || fstat(s->root_fd, &st) < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return err_set(err, errno, "limit of open files: %s", strerror(errno));
	if (limit.rlim_cur < FILES_WANTED) {
		limit.rlim_cur = min_u64(limit.rlim_max, FILES_WANTED);
		(void)setrlimit(RLIMIT_NOFILE, &limit);
		(void)getrlimit(RLIMIT_NOFILE, &limit);
	}
	s->fd_max = (unsigned)max_u64(16, min_u64(limit.rlim_cur / FDS_OF_LIMIT, 4096));
	s->handle_max =
	    (unsigned)max_u64(16, min_u64(limit.rlim_cur / FDS_OF_LIMIT, SHARE_HANDLES_MAX));
	TAILQ_INIT(&s->lru);
	s->root = place(s, 0);
	if (!s->root)
		return err_set(err, ENOMEM, "'%s': out of memory", path);
	s->root->dev = st.st_dev;
	s->root->ino = st.st_ino;
	s->root->type = S_IFDIR;
	s->root->nlookup = 1;
	node_hash(s, s->root);
	s->free_from = 1;
	return 0;
}
