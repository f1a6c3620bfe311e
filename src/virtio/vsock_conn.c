/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the socket device. All on the loop thread.
 *
 * A client of the host connects to the listening socket PATH, sends
 * "CONNECT PORT\n" and gets "OK HOSTPORT\n" once the guest has taken the
 * connection; a guest that connects to port N of the host (CID 2) reaches
 * whoever listens at PATH_N. This is how Firecracker and Cloud Hypervisor do it.
 *
 * Sockets are watched with edges: `readable` and `writable` stand until a call
 * says otherwise, so what waits for the guest costs no system call.
 *
 * Ends. `heard` is what the guest will not do any more, `told` what we said the
 * host will not. The end of the host's data becomes SHUTDOWN of our sending
 * side; that nobody reads any more, of our receiving side. Both said: the socket
 * is closed, and the guest has CLOSE_NS for its RST. Both heard and the ring
 * empty: a RST ends it (virtio 1.2, 5.10.6.5). A guest that says RST after it has
 * shut its sending side (Linux gives up like this) still has its data delivered.
 *
 * Names. The folder is opened at the start; later only the name in it is used,
 * from there (fchdir(): sockets know no connectat()). No other thread uses
 * relative names. The guest chooses nothing but the number in the name.
 */
#include <ctype.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "virtio/vsock_priv.h"

#define HELLO_MAX 32 /* bytes of a client's first line */
#define HELLO_NS 10000000000ull
#define CLOSE_NS 8000000000ull
#define REAP_NS 500000000ull
#define HOST_PORT_FIRST 0x40000000u
#define BACKLOG 64
#define BIT(op) (1u << VIRTIO_VSOCK_OP_##op)

static void conn_event(void *arg, uint32_t events);

/* ---- the table ---- */

static struct vsock_conn **bucket_of(struct vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	return &vs->buckets[(guest_port * 31 + host_port) % VSOCK_BUCKETS];
}

struct vsock_conn *vsock_find(struct vsock *vs, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_conn *c = *bucket_of(vs, guest_port, host_port);

	while (c && (c->guest_port != guest_port || c->host_port != host_port))
		c = c->next_hash;
	return c;
}

static void hash(struct vsock_conn *c)
{
	struct vsock_conn **at = bucket_of(c->vs, c->guest_port, c->host_port);

	c->next_hash = *at;
	*at = c;
}

static void unhash(struct vsock_conn *c)
{
	struct vsock_conn **at = bucket_of(c->vs, c->guest_port, c->host_port);

	while (*at && *at != c)
		at = &(*at)->next_hash;
	if (*at)
		*at = c->next_hash;
}

/* A connection that lives on @fd, which is its own from here on; NULL: there is no room. */
static struct vsock_conn *conn_new(struct vsock *vs, int fd, enum vsock_state state)
{
	struct vsock_conn *c = NULL;
	unsigned slot = 0;

	while (slot < VSOCK_CONNS_MAX && vs->conns[slot])
		slot++;
	if (slot < VSOCK_CONNS_MAX)
		c = calloc(1, sizeof(*c));
	if (!c)
		goto fail;
	*c = (struct vsock_conn) {
		.vs = vs, .state = state, .slot = slot, .fd = fd, .writable = true
	};
	if (loop_fd_add(vs->dev.env.loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn_event,
			c, &c->source) < 0)
		goto fail;
	vs->conns[slot] = c;
	return c;
fail:
	free(c);
	close(fd);
	return NULL;
}

static void close_fd(struct vsock_conn *c)
{
	if (c->fd < 0)
		return;
	loop_fd_del(c->source);
	close(c->fd);
	c->source = NULL;
	c->fd = -1;
	c->readable = c->writable = false;
}

static void conn_free(struct vsock_conn *c)
{
	close_fd(c);
	unhash(c);
	if (c->queued)
		TAILQ_REMOVE(&c->vs->ready, c, ready);
	c->vs->conns[c->slot] = NULL;
	free(c->ring);
	free(c);
}

void vsock_drop_all(struct vsock *vs)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
		if (vs->conns[i])
			conn_free(vs->conns[i]);
	vs->rst_count = 0;
}

static void set_deadline(struct vsock_conn *c, uint64_t after_ns)
{
	c->deadline_ns = clock_now_ns() + after_ns;
	loop_timer_arm(c->vs->reap, clock_now_ns() + REAP_NS);
}

/* ---- what the guest is to be sent ---- */

uint32_t vsock_conn_credit(const struct vsock_conn *c)
{
	uint32_t used = c->sent - c->peer_fwd;

	return used < c->peer_alloc ? c->peer_alloc - used : 0;
}

static bool has_data(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN && c->readable && !(c->told & VIRTIO_VSOCK_SHUTDOWN_SEND) &&
	       !(c->heard & VIRTIO_VSOCK_SHUTDOWN_RCV) && vsock_conn_credit(c);
}

void vsock_conn_queue(struct vsock_conn *c)
{
	bool wants = c->state != VSOCK_DRAIN && (c->pending || has_data(c));

	if (wants == c->queued)
		return;
	if (wants)
		TAILQ_INSERT_TAIL(&c->vs->ready, c, ready);
	else
		TAILQ_REMOVE(&c->vs->ready, c, ready);
	c->queued = wants;
}

unsigned vsock_conn_next(struct vsock_conn *c)
{
	static const unsigned order[] = { VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_REQUEST,
					  VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_CREDIT_UPDATE,
					  VIRTIO_VSOCK_OP_SHUTDOWN };

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		if (c->pending >> order[i] & 1)
			return order[i];
	return 0;
}

void vsock_conn_sent(struct vsock_conn *c, unsigned op)
{
	if (op == VIRTIO_VSOCK_OP_RST) {
		conn_free(c);
		return;
	}
	c->pending &= ~(1u << op | BIT(CREDIT_UPDATE)); /* every packet tells the credit */
	vsock_conn_queue(c);
}

/* The guest shall forget it; nothing else is said any more. */
static void end(struct vsock_conn *c)
{
	close_fd(c);
	c->state = VSOCK_CLOSING;
	c->deadline_ns = 0;
	c->pending = BIT(RST);
	vsock_conn_queue(c);
}

/* The host will not do @what (VIRTIO_VSOCK_SHUTDOWN_*) any more. */
static void tell(struct vsock_conn *c, uint32_t what)
{
	if ((c->told & what) == what || c->state != VSOCK_OPEN)
		return;
	c->told |= what;
	c->pending |= BIT(SHUTDOWN);
	if (c->told == VSOCK_BOTH) {
		close_fd(c);
		c->state = VSOCK_CLOSING;
		set_deadline(c, CLOSE_NS);
	}
}

/* ---- to the host ---- */

/* Nobody reads what the guest sends: it counts as read. */
static void nobody_reads(struct vsock_conn *c)
{
	c->fwd_cnt += c->head - c->tail;
	c->tail = c->head;
	c->hung = true;
	c->writable = false;
	tell(c, VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* Send as much as the socket takes; returns the bytes. */
static size_t send_now(struct vsock_conn *c, struct iovec *iov, unsigned count)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
	ssize_t n;

	if (!c->writable)
		return 0;
	/* sandbox: loop: sendmsg */
	do
		n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return (size_t)n;
	c->writable = false;
	if (errno != EAGAIN)
		nobody_reads(c);
	return 0;
}

static void flush(struct vsock_conn *c)
{
	while (c->head != c->tail && c->writable) {
		uint32_t at = c->tail % VSOCK_BUF, len = c->head - c->tail;
		struct iovec iov[2] = { { c->ring + at, min_u64(len, VSOCK_BUF - at) },
					{ c->ring, 0 } };
		size_t n;

		iov[1].iov_len = len - iov[0].iov_len;
		n = send_now(c, iov, 2);
		c->tail += (uint32_t)n;
		c->fwd_cnt += (uint32_t)n;
	}
}

/* Data of the guest; false: more than it may send. */
static bool take_data(struct vsock_conn *c, const struct iovec *iov, unsigned count, uint32_t len)
{
	struct iovec part[VIRTQ_MAX_CHAIN];
	uint32_t done = 0;

	if (c->hung || c->told & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		c->fwd_cnt += len;
		return true;
	}
	if (len > VSOCK_BUF - (c->head - c->tail))
		return false;
	if (c->head == c->tail && len)
		done = (uint32_t)send_now(c, part, iov_slice(part, iov, count, VSOCK_HDR_LEN, len));
	c->fwd_cnt += done;
	if (c->hung) {
		c->fwd_cnt += len - done;
		return true;
	}
	if (done < len && !c->ring)
		c->ring = malloc(VSOCK_BUF);
	if (done < len && !c->ring)
		return false;
	while (done < len) {
		uint32_t at = c->head % VSOCK_BUF;
		size_t n = iov_copy_from(iov, count, VSOCK_HDR_LEN + done, c->ring + at,
					 min_u64(len - done, VSOCK_BUF - at));

		c->head += (uint32_t)n;
		done += (uint32_t)n;
	}
	return true;
}

/* What follows from the state as it is now; @c may be gone afterwards. */
static void update(struct vsock_conn *c)
{
	bool empty = c->head == c->tail;

	if (c->state == VSOCK_DRAIN) {
		if (empty || c->fd < 0)
			conn_free(c);
		return;
	}
	if (c->state == VSOCK_OPEN && empty && c->heard & ~c->shut & VIRTIO_VSOCK_SHUTDOWN_SEND) {
		/* sandbox: loop: shutdown */
		shutdown(c->fd, SHUT_WR);
		c->shut |= VIRTIO_VSOCK_SHUTDOWN_SEND;
	}
	if (c->state == VSOCK_OPEN && c->heard & ~c->shut & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		shutdown(c->fd, SHUT_RD); /* the host's writers learn of it */
		c->shut |= VIRTIO_VSOCK_SHUTDOWN_RCV;
	}
	if (c->heard == VSOCK_BOTH && (empty || c->fd < 0))
		end(c);
	if (c->state == VSOCK_OPEN && c->fwd_cnt - c->fwd_told >= VSOCK_BUF / 2)
		c->pending |= BIT(CREDIT_UPDATE);
	vsock_conn_queue(c);
}

size_t vsock_conn_read(struct vsock_conn *c, struct iovec *iov, unsigned count)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = count };
	ssize_t n;

	/* sandbox: loop: recvmsg */
	do
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		c->sent += (uint32_t)n;
		c->guess = (uint32_t)n;
		return (size_t)n;
	}
	c->readable = false;
	if (n == 0)
		tell(c, c->hung ? VSOCK_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND);
	else if (errno != EAGAIN)
		tell(c, VSOCK_BOTH);
	return 0;
}

/* ---- packets of the guest ---- */

static void answered(struct vsock_conn *c)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "OK %u\n", c->host_port);

	c->state = VSOCK_OPEN;
	c->deadline_ns = 0;
	c->readable = true;
	/* sandbox: loop: sendto */
	if (send(c->fd, text, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len)
		tell(c, VSOCK_BOTH);
}

static void heard_reset(struct vsock_conn *c)
{
	unhash(c);
	if (c->fd < 0 || c->head == c->tail || !(c->heard & VIRTIO_VSOCK_SHUTDOWN_SEND)) {
		conn_free(c);
		return;
	}
	c->state = VSOCK_DRAIN;
	vsock_conn_queue(c);
}

void vsock_conn_packet(struct vsock_conn *c, const struct virtio_vsock_hdr *hdr,
		       const struct iovec *iov, unsigned count)
{
	bool up = c->state == VSOCK_OPEN || c->state == VSOCK_CLOSING, good = false;

	c->peer_alloc = hdr->buf_alloc;
	c->peer_fwd = hdr->fwd_cnt;
	if (c->pending & BIT(RST) && hdr->op != VIRTIO_VSOCK_OP_RST)
		return; /* it is over already */
	switch (hdr->op) {
	case VIRTIO_VSOCK_OP_RST:
		heard_reset(c);
		return;
	case VIRTIO_VSOCK_OP_RESPONSE:
		good = c->state == VSOCK_ASKED && !c->pending;
		if (good)
			answered(c);
		break;
	case VIRTIO_VSOCK_OP_RW:
		good = up && !(c->heard & VIRTIO_VSOCK_SHUTDOWN_SEND) &&
		       take_data(c, iov, count, hdr->len);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		c->pending |= up ? BIT(CREDIT_UPDATE) : 0;
		good = up;
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		good = up;
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		c->heard |= hdr->flags & VSOCK_BOTH;
		good = up;
		break;
	}
	if (!good)
		end(c);
	else
		update(c);
}

/* A stream socket at PATH_@port; the descriptor or -errno */
static int connect_port(struct vsock *vs, uint32_t port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (vs->dev.env.connect) {
		if (snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vs->path, port) >=
		    (int)sizeof(addr.sun_path))
			return -ENAMETOOLONG;
		return vs->dev.env.connect(vs->dev.env.connect_arg, &addr);
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vs->base, port);
	if (fchdir(vs->dir_fd) < 0)
		return -errno;
	fd = unix_connect(&addr);
	if (fchdir(vs->cwd_fd) < 0)
		log_debug("vsock: back to the working directory: %s", strerror(errno));
	return fd;
}

int vsock_guest_connects(struct vsock *vs, const struct virtio_vsock_hdr *hdr)
{
	int fd = connect_port(vs, hdr->dst_port);
	struct vsock_conn *c;

	if (fd < 0)
		return fd;
	c = conn_new(vs, fd, VSOCK_OPEN);
	if (!c)
		return -ENFILE;
	c->guest_port = hdr->src_port;
	c->host_port = hdr->dst_port;
	c->peer_alloc = hdr->buf_alloc;
	c->peer_fwd = hdr->fwd_cnt;
	c->pending = BIT(RESPONSE);
	hash(c);
	vsock_conn_queue(c);
	return 0;
}

/* ---- clients of the host ---- */

static bool parse_hello(const char *text, size_t len, uint32_t *ret_port)
{
	unsigned long long port = 0;
	size_t i = 8;

	if (len < 10 || len > 19 || strncmp(text, "CONNECT ", 8))
		return false;
	for (; i < len - 1 && isdigit((unsigned char)text[i]); i++)
		port = port * 10 + (unsigned)(text[i] - '0');
	*ret_port = (uint32_t)port;
	return i == len - 1 && port < UINT32_MAX;
}

/* The client names the guest's port; nothing behind that line is read yet. */
static void read_hello(struct vsock_conn *c)
{
	struct vsock *vs = c->vs;
	char text[HELLO_MAX];
	/* sandbox: loop: recvfrom */
	ssize_t n = recv(c->fd, text, sizeof(text), MSG_PEEK | MSG_DONTWAIT);
	char *end = n > 0 ? memchr(text, '\n', (size_t)n) : NULL;
	size_t len = end ? (size_t)(end - text) + 1 : 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0 && n < HELLO_MAX && !end && !c->hung)
		return;
	/* No driver: say so at once, by closing. */
	if (!len || !parse_hello(text, len, &c->guest_port) ||
	    recv(c->fd, text, len, MSG_DONTWAIT) != (ssize_t)len ||
	    !(atomic_load(&vs->dev.status) & VIRTIO_CONFIG_S_DRIVER_OK)) {
		conn_free(c);
		return;
	}
	do
		c->host_port = HOST_PORT_FIRST | vs->next_port++;
	while (vsock_find(vs, c->guest_port, c->host_port));
	c->state = VSOCK_ASKED;
	c->pending = BIT(REQUEST);
	hash(c);
	set_deadline(c, HELLO_NS);
	vsock_conn_queue(c);
}

static void conn_event(void *arg, uint32_t events)
{
	struct vsock_conn *c = arg;
	struct vsock *vs = c->vs;

	if (events & (EPOLLHUP | EPOLLERR))
		c->hung = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->readable = true;
	if (events & EPOLLOUT)
		c->writable = true;
	if (atomic_load(&vs->was_reset)) {
		vsock_run(vs); /* @c goes, too */
		return;
	}
	if (c->state == VSOCK_HELLO) {
		read_hello(c);
	} else {
		if (c->hung && (c->state == VSOCK_ASKED)) {
			c->told = VSOCK_BOTH; /* the client has lost patience */
			end(c);
		} else {
			flush(c);
			if (c->hung && c->told & VIRTIO_VSOCK_SHUTDOWN_SEND)
				tell(c, VSOCK_BOTH);
			update(c);
		}
	}
	vsock_run(vs);
}

static void accept_client(void *arg, uint32_t events)
{
	struct vsock *vs = arg;
	/* sandbox: loop: accept4 */
	int fd = accept4(vs->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct vsock_conn *c;

	if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		/* No descriptors: look again a little later. */
		loop_fd_modify(vs->listen_source, 0);
		loop_timer_arm(vs->reap, clock_now_ns() + REAP_NS);
	}
	if (fd < 0)
		return;
	c = conn_new(vs, fd, VSOCK_HELLO);
	if (c)
		set_deadline(c, HELLO_NS);
}

void vsock_reap_fired(void *arg)
{
	struct vsock *vs = arg;
	uint64_t now = clock_now_ns();
	bool more = false;

	loop_fd_modify(vs->listen_source, EPOLLIN);
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct vsock_conn *c = vs->conns[i];

		if (!c || !c->deadline_ns)
			continue;
		if (c->deadline_ns > now)
			more = true;
		else if (c->state == VSOCK_HELLO)
			conn_free(c);
		else
			end(c);
	}
	if (more)
		loop_timer_arm(vs->reap, now + REAP_NS);
	vsock_run(vs);
}

/* ---- the listening socket ---- */

int vsock_host_open(struct vsock *vs, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int ret;

	if (!dir)
		return err_set(err, ENOMEM, "'%s': out of memory", path);
	/* "_4294967295" is put behind it. */
	if (strlen(slash ? slash + 1 : path) >= sizeof(vs->base) || !*(slash ? slash + 1 : path))
		return err_set(err, EINVAL, "'%s': its last part has not 1 to %zu characters", path,
			       sizeof(vs->base) - 1);
	strcpy(vs->base, slash ? slash + 1 : path);
	vs->path = strdup(path);
	if (!vs->path)
		return err_set(err, ENOMEM, "'%s': out of memory", path);
	/* In a sandbox no folder of the host stays open. */
	if (!vs->dev.env.connect) {
		vs->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		vs->cwd_fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (vs->dir_fd < 0 || vs->cwd_fd < 0)
			return err_set(err, errno, "'%s': %s", dir, strerror(errno));
	}
	vs->listen_fd = unix_listen(path, BACKLOG, err);
	if (vs->listen_fd < 0)
		return vs->listen_fd;
	ret = loop_fd_add(vs->dev.env.loop, vs->listen_fd, EPOLLIN, accept_client, vs,
			  &vs->listen_source);
	return ret < 0 ? err_set(err, -ret, "'%s': %s", path, strerror(-ret)) : 0;
}

void vsock_host_close(struct vsock *vs)
{
	loop_fd_del(vs->listen_source);
	if (vs->listen_fd >= 0) {
		close(vs->listen_fd);
		/* Whoever connects for this process removes its socket, too. */
		if (!vs->dev.env.connect)
			unlinkat(vs->dir_fd, vs->base, 0);
	}
	free(vs->path);
	if (vs->dir_fd >= 0)
		close(vs->dir_fd);
	if (vs->cwd_fd >= 0)
		close(vs->cwd_fd);
}
