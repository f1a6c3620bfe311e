/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Remote disks: an export of an NBD server
 *
 *   guest -- this driver ==socket, shared memory== eyot-nbd == TCP, TLS == server
 *
 * The NBD client is a process of its own (src/nbd). A machine inside its
 * sandbox can make no connection, and whoever takes over the client by what a server
 * sends finds neither guest memory nor other disks there. It costs one copy
 * of the data and one change of processes a batch.
 *
 * Data goes through slots of memory shared with the client. A request is cut into parts of
 * a slot each, which run side by side; what finds no free slot waits in order.
 * Messages are collected until disk_kick() and sent with one system call: with
 * NBD_SLOTS of them at most they always fit into the socket's buffer.
 *
 * Invariants
 * 1. A slot is free, or its part is with the client and slots[].req its request.
 * 2. op.stage of a request counts its parts that are with the client, op.left
 *    is what has no part yet; it is in the list exactly while op.left > 0 or it is a flush
 *    without part.
 * 3. Nothing that comes from the client is used before it is held against these.
 *    When it breaks them, or ends, every request fails with EIO, now and later.
 *
 * Locks: nbd.lock guards all but what is constant; completions run without it.
 */
#include "disk/nbd_proto.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "disk/driver.h"
#include "disk/qcow2_format.h"

#define BLOCK_MAX 4096u /* of a server; Linux takes no larger sectors */
#define ENVIRONMENT "EYOT_NBD"
#define START_GRACE_S 10
#define END_TRIES 100
#define END_WAIT_NS 10000000
#define ANSWERS 64

struct slot {
	struct disk_req *req; /* NULL: free */
	uint64_t pos;	      /* a read: where in the request's list its data goes */
	uint32_t len;
};

struct nbd {
	struct disk *disk;
	char *name; /* for the log */
	pid_t pid;
	int fd;
	uint8_t *memory;
	struct loop_fd *source;
	struct nbd_hello server; /* checked */
	uint32_t chunk;		 /* bytes of a part that has data */
	bool fua, unsafe;

	pthread_mutex_t lock;
	bool dead;
	struct slot slots[NBD_SLOTS];
	uint32_t free[NBD_SLOTS];
	unsigned free_count;
	struct req_list waiting;
	struct nbd_request out[NBD_SLOTS];
	unsigned out_count;
	uint8_t in[ANSWERS * sizeof(struct nbd_answer)]; /* loop thread */
	size_t in_len;
};

static uint8_t *slot_data(struct nbd *n, uint32_t slot)
{
	return n->memory + (size_t)slot * NBD_SLOT_BYTES;
}

/* ---- requests to the client; under the lock ---- */

static void fill(struct nbd *n, struct disk_req *req, uint32_t slot, struct nbd_request *m)
{
	struct file_op *op = &req->fop;
	bool bulk = (req->op == DISK_DISCARD && n->server.can_trim) ||
		    (req->op == DISK_WRITE_ZEROES && n->server.can_zero);
	struct slot *s = &n->slots[slot];

	*m = (struct nbd_request) { .slot = slot, .off = op->off };
	m->len = (uint32_t)min_u64(op->left, bulk ? NBD_ZERO_MAX : n->chunk);
	switch (req->op) {
	case DISK_READ:
		m->op = NBD_READ;
		break;
	case DISK_WRITE:
		m->op = NBD_WRITE;
		req_copy(req, slot_data(n, slot), m->len);
		break;
	case DISK_FLUSH:
		m->op = NBD_FLUSH;
		break;
	case DISK_DISCARD:
		m->op = NBD_TRIM;
		break;
	case DISK_WRITE_ZEROES:
		m->op = bulk ? NBD_ZERO : NBD_WRITE;
		m->flags = bulk && !(req->flags & DISK_REQ_UNMAP) ? NBD_NO_HOLE : 0;
		if (!bulk)
			memset(slot_data(n, slot), 0, m->len);
		break;
	}
	if (n->fua && (m->op == NBD_WRITE || m->op == NBD_ZERO || m->op == NBD_TRIM))
		m->flags |= NBD_FUA;
	*s = (struct slot) { .req = req, .pos = op->pos, .len = m->len };
	op->off += m->len;
	op->pos += m->len;
	op->left -= m->len;
	op->stage++;
}

static void feed(struct nbd *n)
{
	while (n->waiting.head && n->free_count) {
		struct disk_req *req = n->waiting.head;

		fill(n, req, n->free[--n->free_count], &n->out[n->out_count++]);
		if (!req->fop.left)
			req_list_pop(&n->waiting);
	}
}

/* The client is gone or not to be trusted: all that is with it ends with the next event. */
static void give_up(struct nbd *n, const char *why)
{
	if (n->dead)
		return;
	log_error("disk '%s': its client process %s: requests fail", n->name, why);
	n->dead = true;
	n->out_count = 0;
	/* sandbox: loop vcpu: shutdown */
	shutdown(n->fd, SHUT_RDWR);
}

static void nbd_kick(void *arg)
{
	struct nbd *n = arg;
	size_t len;

	pthread_mutex_lock(&n->lock);
	len = n->out_count * sizeof(n->out[0]);
	/* sandbox: loop vcpu: sendto */
	if (len && send(n->fd, n->out, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
		give_up(n, "takes no requests");
	n->out_count = 0;
	pthread_mutex_unlock(&n->lock);
}

static void nbd_hurry(void *arg)
{
	struct nbd_request m = { .op = NBD_HURRY };
	struct nbd *n = arg;

	nbd_kick(n);
	pthread_mutex_lock(&n->lock);
	if (!n->dead && send(n->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(m))
		give_up(n, "takes no requests");
	pthread_mutex_unlock(&n->lock);
}

static void nop_done(struct aio_op *aio, int res)
{
	struct disk_req *req = container_of(aio, struct disk_req, aio);

	req->fop.done(req, req->fop.error);
}

/* End a request that no client is asked for, on the loop thread. */
static void end_soon(struct nbd *n, struct disk_req *req, int error)
{
	req->fop.error = error;
	req->aio.code = AIO_NOP;
	req->aio.done = nop_done;
	aio_queue(n->disk->aio, &req->aio);
}

static void begin(struct nbd *n, struct disk_req *req, uint64_t off, uint64_t len,
		  void (*done)(struct disk_req *req, int ret))
{
	bool nothing = (!len && req->op != DISK_FLUSH) ||
		       (req->op == DISK_DISCARD && !n->server.can_trim) ||
		       (req->op == DISK_FLUSH && (n->unsafe || !n->server.can_flush));

	req->fop = (struct file_op) { .off = off, .left = len, .done = done };
	req->cut = NULL;
	pthread_mutex_lock(&n->lock);
	if (nothing || n->dead) {
		end_soon(n, req, n->dead ? -EIO : 0);
	} else {
		req_list_push(&n->waiting, req);
		feed(n);
	}
	pthread_mutex_unlock(&n->lock);
}

/* ---- answers ---- */

static void told(struct nbd *n, const struct nbd_answer *a)
{
	const char *why = a->ret < 0 && a->ret > -4096 ? strerror(-a->ret) : "";

	switch (a->slot) {
	case NBD_EVENT_LOST:
		log_warn("disk '%s': connection lost: %s", n->name, why);
		break;
	case NBD_EVENT_BACK:
		log_info("disk '%s': connected again", n->name);
		break;
	case NBD_EVENT_GAVE_UP:
		log_error("disk '%s': not connected again in time: requests fail until it is",
			  n->name);
		break;
	case NBD_EVENT_CHANGED:
		log_error("disk '%s': the export is another one since the connection was lost: "
			  "requests fail",
			  n->name);
		break;
	}
}

/* Bytes of a part into the request's list, which stays as it is. */
static void scatter(const struct disk_req *req, uint64_t pos, const uint8_t *from, size_t len)
{
	for (const struct iovec *v = req->iov; len; v++) {
		size_t n;

		if (pos >= v->iov_len) {
			pos -= v->iov_len;
			continue;
		}
		n = min_u64(v->iov_len - pos, len);
		memcpy((uint8_t *)v->iov_base + pos, from, n);
		from += n;
		len -= n;
		pos = 0;
	}
}

/* A part is over; under the lock. Requests that end go to @ended. */
static void part_done(struct nbd *n, uint32_t slot, int ret, struct req_list *ended)
{
	struct slot *s = &n->slots[slot];
	struct disk_req *req = s->req;
	struct file_op *op = &req->fop;

	if (ret == 0 && req->op == DISK_READ)
		scatter(req, s->pos, slot_data(n, slot), s->len);
	s->req = NULL;
	n->free[n->free_count++] = slot;
	op->stage--;
	if (ret < 0) {
		op->error = ret;
		/* One with parts to come is the first that waits: none overtakes it. */
		if (op->left)
			req_list_pop(&n->waiting);
		op->left = 0;
	}
	if (!op->left && !op->stage)
		req_list_push(ended, req);
}

static bool is_good(const struct nbd *n, const struct nbd_answer *a)
{
	return a->slot < NBD_SLOTS && n->slots[a->slot].req && a->ret <= 0 && a->ret > -4096;
}

static void fail_all(struct nbd *n, struct req_list *ended)
{
	struct disk_req *req;

	for (uint32_t i = 0; i < NBD_SLOTS; i++)
		if (n->slots[i].req)
			part_done(n, i, -EIO, ended);
	while ((req = req_list_pop(&n->waiting))) {
		req->fop.error = -EIO;
		req_list_push(ended, req);
	}
}

static void end_all(struct req_list *ended)
{
	struct disk_req *req;

	while ((req = req_list_pop(ended))) {
		if (req->op == DISK_READ && !req->fop.error)
			req_skip(req, req->fop.pos);
		req->fop.done(req, req->fop.error);
	}
}

/* What the socket has; false: nothing. */
static bool take_answers(struct nbd *n)
{
	struct req_list ended;
	struct nbd_answer a;
	size_t at = 0;
	/* sandbox: loop: recvfrom */
	ssize_t len = recv(n->fd, n->in + n->in_len, sizeof(n->in) - n->in_len, MSG_DONTWAIT);

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	req_list_init(&ended);
	pthread_mutex_lock(&n->lock);
	n->in_len += len > 0 ? (size_t)len : 0;
	if (len <= 0)
		give_up(n, "ended");
	for (; !n->dead && n->in_len - at >= sizeof(a); at += sizeof(a)) {
		memcpy(&a, n->in + at, sizeof(a));
		if (a.slot & NBD_EVENT)
			told(n, &a);
		else if (is_good(n, &a))
			part_done(n, a.slot, a.ret, &ended);
		else
			give_up(n, "makes no sense");
	}
	n->in_len -= at;
	memmove(n->in, n->in + at, n->in_len);
	if (n->dead)
		fail_all(n, &ended);
	feed(n);
	pthread_mutex_unlock(&n->lock);
	end_all(&ended);
	return len > 0;
}

static void nbd_ready(void *arg)
{
	struct nbd *n = arg;

	/* One message a slot and round at most: the loop is not held for ever. */
	for (unsigned i = 0; i < NBD_SLOTS / ANSWERS && take_answers(n); i++)
		;
	if (n->dead && n->source) {
		loop_fd_del(n->source);
		n->source = NULL;
	}
	aio_kick(n->disk->aio);
}

static void socket_event(void *arg, uint32_t events)
{
	nbd_ready(arg);
}

/* ---- the driver ---- */

static void nbd_start(struct disk *disk, struct disk_req *req)
{
	begin(disk->priv, req, req->off, req->len, disk_complete);
}

static int nbd_read_now(void *priv, const struct disk_req *req)
{
	return -EAGAIN;
}

static void nbd_read(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		     void (*done)(struct disk_req *req, int ret))
{
	begin(priv, req, off, len, done);
}

static int nbd_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	*ret_start = off;
	*ret_end = disk->size;
	return off < disk->size ? 0 : -ENXIO;
}

static void nbd_free(struct nbd *n)
{
	if (n->source)
		loop_fd_del(n->source);
	aio_set_extra(n->disk->aio, NULL);
	if (n->fd >= 0)
		close(n->fd);
	if (n->memory)
		munmap(n->memory, (size_t)NBD_SLOTS * NBD_SLOT_BYTES);
	/* It ends when the socket does; one that has lost its mind shall not hold us. */
	for (unsigned i = 0; n->pid > 0 && i < END_TRIES; i++) {
		/* sandbox: loop: wait4 */
		if (waitpid(n->pid, NULL, WNOHANG) != 0)
			break;
		/* sandbox: loop: clock_nanosleep */
		nanosleep(&(struct timespec) { .tv_nsec = END_WAIT_NS }, NULL);
	}
	pthread_mutex_destroy(&n->lock);
	free(n->name);
	free(n);
}

static int nbd_close(struct disk *disk, struct err *err)
{
	nbd_free(disk->priv);
	return 0;
}

static const struct disk_driver nbd_driver = {
	.start = nbd_start,
	.read_now = nbd_read_now,
	.read = nbd_read,
	.next_data = nbd_next_data,
	.close = nbd_close,
};

/* ---- opening ---- */

/* The client stands beside our own program, or where a build puts it. */
static int find_program(char *path, size_t size)
{
	static const char *const places[] = { "", "../nbd/" };
	const char *given = getenv(ENVIRONMENT);
	char own[PATH_MAX], *slash;
	ssize_t len;

	if (given)
		return snprintf(path, size, "%s", given) < (int)size ? 0 : -ENAMETOOLONG;
	len = readlink("/proc/self/exe", own, sizeof(own) - 1);
	if (len <= 0)
		return -errno;
	own[len] = '\0';
	slash = strrchr(own, '/');
	if (slash)
		slash[1] = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
		if (snprintf(path, size, "%s%s" NBD_PROGRAM, own, places[i]) < (int)size &&
		    access(path, X_OK) == 0)
			return 0;
	return -ENOENT;
}

static int spawn(struct nbd *n, int socket, int memory, struct err *err)
{
	static char name[] = NBD_PROGRAM;
	char path[PATH_MAX + 32], *argv[] = { name, NULL };
	int ret = find_program(path, sizeof(path));
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none;

	if (ret < 0)
		return err_set(err, -ret,
			       "the program " NBD_PROGRAM ": %s (" ENVIRONMENT " may name it)",
			       strerror(-ret));
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_addopen(&fa, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&fa, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	/* Both were made above 4, so neither is overwritten before it is copied. */
	posix_spawn_file_actions_adddup2(&fa, socket, NBD_FD_SOCKET);
	posix_spawn_file_actions_adddup2(&fa, memory, NBD_FD_MEMORY);
	posix_spawn_file_actions_addclosefrom_np(&fa, NBD_FD_MEMORY + 1);
	ret = -posix_spawn(&n->pid, path, &fa, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	return ret < 0 ? err_set(err, -ret, "%s: %s", path, strerror(-ret)) : 0;
}

/* A descriptor of the same thing above those that the client gets. */
static int lift(int fd)
{
	int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, NBD_FD_MEMORY + 1);

	if (fd >= 0)
		close(fd);
	return high;
}

static int make_memory(struct nbd *n, int *ret_fd)
{
	size_t size = (size_t)NBD_SLOTS * NBD_SLOT_BYTES;
	int fd = lift(memfd_create("eyot-nbd", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	void *p;

	/* Sealed: who has the other end cannot take pages away from under us. */
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	n->memory = p;
	*ret_fd = fd;
	return 0;
}

static int absolute(const char *what, const char *path, char *buf, struct err *err)
{
	if (path && !realpath(path, buf))
		return err_set(err, errno, "%s '%s': %s", what, path, strerror(errno));
	return 0;
}

static int absolute_socket(struct nbd_uri *u, struct err *err)
{
	char full[PATH_MAX];
	int ret = absolute("socket", u->socket, full, err);

	if (ret == 0 && strlen(full) >= sizeof(u->socket))
		return err_set(err, ENAMETOOLONG, "socket '%s': the path is too long", full);
	if (ret == 0)
		strcpy(u->socket, full);
	return ret;
}

static int describe(const char *text, const struct disk_options *opt, struct nbd_start *st,
		    struct err *err)
{
	int ret = nbd_uri_parse(text, &st->uri, err);
	char ca[PATH_MAX + 16];

	if (ret == 0)
		ret = absolute("tls-certs", opt->tls_certs, st->tls_certs, err);
	if (ret == 0)
		ret = absolute("tls-psk", opt->tls_psk, st->tls_psk, err);
	if (ret == 0 && st->uri.socket[0])
		ret = absolute_socket(&st->uri, err);
	if (ret < 0)
		return ret;
	snprintf(ca, sizeof(ca), "%s/ca-cert.pem", st->tls_certs);
	if (st->uri.tls != (opt->tls_certs || opt->tls_psk))
		return err_set(err, EINVAL,
			       st->uri.tls ? "TLS needs tls-certs or tls-psk"
					   : "tls-certs and tls-psk are for nbds:// addresses");
	if (opt->tls_psk && !st->uri.user[0])
		return err_set(err, EINVAL, "tls-psk needs a user: nbds://USER@HOST");
	if (opt->tls_certs && !st->uri.host[0])
		return err_set(err, EINVAL,
			       "certificates name hosts: over a UNIX socket TLS needs tls-psk");
	if (opt->tls_certs && faccessat(AT_FDCWD, ca, R_OK, 0) < 0)
		return err_set(err, errno, "tls-certs '%s': no ca-cert.pem to be read there: %s",
			       opt->tls_certs, strerror(errno));
	st->reconnect_s = opt->reconnect_s;
	st->timeout_s = opt->timeout_s ? opt->timeout_s : DISK_TIMEOUT_S;
	st->sandbox = opt->sandbox;
	return 0;
}

/* The client's first message, which may take as long as the server's silence may. */
static int greet(struct nbd *n, const struct nbd_start *st, struct err *err)
{
	struct timeval limit = { .tv_sec = st->timeout_s + START_GRACE_S };
	struct nbd_hello *s = &n->server;
	ssize_t len;

	if (send(n->fd, st, sizeof(*st), MSG_NOSIGNAL) != sizeof(*st))
		return err_set(err, EIO, "its client process ended at once");
	setsockopt(n->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	len = recv(n->fd, s, sizeof(*s), MSG_WAITALL);
	if (len < 0 && errno == EAGAIN)
		return err_set(err, ETIMEDOUT, "no answer in time");
	if (len != sizeof(*s))
		return err_set(err, EIO, "its client process ended at once");
	s->err.text[sizeof(s->err.text) - 1] = '\0';
	if (s->ret < 0)
		return err_set(err, s->ret > -4096 ? -s->ret : EIO, "%s", s->err.text);
	return 0;
}

static bool is_block(uint32_t bytes)
{
	return !(bytes & (bytes - 1));
}

/* What the server says of its export, and what we make of it. */
static int check_server(struct nbd *n, const struct disk_options *opt, struct err *err)
{
	struct nbd_hello *s = &n->server;
	uint32_t sector;

	s->min_block = s->min_block ? s->min_block : 1;
	if (!is_block(s->min_block) || s->min_block > BLOCK_MAX)
		return err_set(err, EOPNOTSUPP,
			       "the server wants blocks of %u bytes; up to %u will do",
			       s->min_block, BLOCK_MAX);
	sector = s->min_block > DISK_SECTOR ? s->min_block : DISK_SECTOR;
	if (!s->size || s->size > INT64_MAX - BLOCK_MAX || s->size % sector)
		return err_set(err, EINVAL,
			       "the export has %llu bytes: not a number of blocks of %u bytes",
			       (unsigned long long)s->size, sector);
	if (s->max_block && s->max_block < sector)
		return err_set(err, EOPNOTSUPP,
			       "the server takes %u bytes at once, fewer than a block of %u",
			       s->max_block, sector);
	if (s->readonly && !opt->readonly && !opt->snapshot)
		return err_set(err, EROFS, "the export is read-only: say readonly or snapshot");
	n->chunk = NBD_SLOT_BYTES;
	if (s->max_block && s->max_block < n->chunk)
		n->chunk = (uint32_t)align_down(s->max_block, sector);
	n->unsafe = opt->cache == DISK_CACHE_UNSAFE;
	/* Where there is no flush, each write is one, if the server can do that. */
	n->fua = !s->can_flush && s->can_fua && !n->unsafe;
	if (!s->can_flush && !s->can_fua && !opt->readonly && !opt->snapshot)
		log_warn("disk '%s': the server has no flush: nothing tells when writes are safe",
			 n->name);
	n->disk->size = s->size;
	n->disk->sector = sector;
	n->disk->block_size = sector;
	if (is_block(s->pref_block) && s->pref_block > sector)
		n->disk->block_size = (unsigned)min_u64(s->pref_block, KIB(64));
	n->disk->readonly = opt->readonly || opt->snapshot;
	n->disk->format = DISK_FORMAT_RAW;
	return 0;
}

static void look_done(struct disk_req *req, int ret)
{
	req->result = ret;
}

/* As for files: a raw disk that looks like an image of another kind was perhaps meant as one. */
static int look(struct nbd *n, enum disk_format format, struct err *err)
{
	_cleanup_free_ uint8_t *head = calloc(1, n->disk->sector);
	struct iovec iov = { head, n->disk->sector };
	struct disk_req req = { .op = DISK_READ, .iov = &iov, .iov_count = 1, .result = 1 };

	if (format == DISK_FORMAT_RAW)
		return 0;
	if (!head)
		return err_set(err, ENOMEM, "out of memory");
	begin(n, &req, 0, n->disk->sector, look_done);
	nbd_kick(n);
	while (req.result == 1)
		aio_wait(n->disk->aio);
	if (req.result < 0)
		return err_set(err, -req.result, "cannot read it: %s", strerror(-req.result));
	if (get_be32(head) == QCOW2_MAGIC)
		return err_set(err, EINVAL,
			       "begins like a qcow2 image: the server shall open it as one "
			       "(qemu-nbd -f qcow2), or say format=raw if a guest may have written "
			       "that");
	return 0;
}

static int connect_client(struct nbd *n, const struct nbd_start *st, struct err *err)
{
	_cleanup_close_ int theirs = -1, memory = -1;
	int fds[2], ret = make_memory(n, &memory);

	if (ret == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		ret = -errno;
	if (ret < 0)
		return err_set(err, -ret, "%s", strerror(-ret));
	n->fd = lift(fds[0]);
	theirs = lift(fds[1]);
	ret = n->fd < 0 || theirs < 0 ? err_set(err, EMFILE, "%s", strerror(EMFILE)) : 0;
	if (ret == 0)
		ret = spawn(n, theirs, memory, err);
	close(theirs);
	theirs = -1;
	return ret < 0 ? ret : greet(n, st, err);
}

int nbd_open(struct disk *disk, const char *path, const struct disk_options *opt, struct err *err)
{
	struct nbd_start *st = calloc(1, sizeof(*st));
	struct nbd *n = calloc(1, sizeof(*n));
	struct aio_extra extra = {
		.ready = nbd_ready, .kick = nbd_kick, .hurry = nbd_hurry, .arg = n
	};
	int ret;

	if (!st || !n) {
		free(st);
		free(n);
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	}
	n->disk = disk;
	n->fd = -1;
	n->name = strdup(path);
	pthread_mutex_init(&n->lock, NULL);
	req_list_init(&n->waiting);
	for (uint32_t i = 0; i < NBD_SLOTS; i++)
		n->free[n->free_count++] = NBD_SLOTS - 1 - i;
	ret = describe(path, opt, st, err);
	if (ret == 0 && (opt->format == DISK_FORMAT_QCOW2 || opt->internal))
		ret = err_set(err, EOPNOTSUPP,
			      "images on NBD servers are raw: the server shall open it "
			      "as what it is (qemu-nbd -f qcow2)");
	if (ret == 0)
		ret = connect_client(n, st, err);
	if (ret == 0)
		ret = check_server(n, opt, err);
	extra.fd = n->fd;
	if (ret == 0)
		aio_set_extra(disk->aio, &extra);
	if (ret == 0)
		ret = look(n, opt->format, err);
	if (ret == 0) {
		ret = loop_fd_add(disk->loop, n->fd, EPOLLIN, socket_event, n, &n->source);
		if (ret < 0)
			err_set(err, -ret, "event loop: %s", strerror(-ret));
	}
	free(st);
	if (ret < 0) {
		nbd_free(n);
		return err_prefix(err, ret, "disk '%s'", path);
	}
	disk->priv = n;
	disk->drv = &nbd_driver;
	return 0;
}
