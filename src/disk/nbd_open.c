/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a remote disk: the client process is started and told what to connect to, what it says of
 * the server's export is checked, and its beginning is looked at.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/log.h"
#include "disk/nbd_priv.h"
#include "disk/qcow2_format.h"

#define BLOCK_MAX 4096u /* of a server; Linux takes no larger sectors */
#define ENVIRONMENT "EYOT_NBD"
#define START_GRACE_S 10

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
	st->log_level = log_level();
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
	nbd_begin(n, &req, 0, n->disk->sector, look_done);
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

static void socket_event(void *arg, uint32_t events)
{
	nbd_ready(arg);
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
