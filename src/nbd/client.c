/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread that waits for two descriptors: the machine's socket and the
 * server's, which is libnbd's.
 *
 * A part is busy from the machine's request to our answer, and sent while it is
 * with the server. When the connection breaks, those that were sent wait again, and go
 * to the server with the next connection: reads, and writes to the same place with the same data,
 * may be done twice. Attempts to connect go on for ever, with pauses that become longer; but parts
 * wait for at most st->reconnect_s from the loss on, then they fail, and so do new ones until there
 * is a connection.
 *
 * What a server has confirmed and not flushed may be lost with it. So after a
 * loss the next flush fails if writes were confirmed since the last one that
 * succeeded: no flush ever tells more than is true.
 *
 * A server that says nothing for st->timeout_s while it has something to do is
 * taken for lost. An export that has another size or other blocks than at first
 * is not what the guest knows: it stays lost.
 *
 * What libnbd calls by itself, the resolver of host names and the TLS library included:
 *
 * sandbox: nbd libc: socket(AF_INET), socket(AF_INET6), socket(AF_UNIX), socket(AF_NETLINK),
 * connect, bind, getsockname, getpeername, setsockopt, getsockopt, shutdown, sendto, recvfrom,
 * sendmsg, recvmsg, sendmmsg, poll, read, write, writev, close, lseek, newfstatat, access, ioctl(*,
 * FIONREAD), fcntl(*, F_GETFL), fcntl(*, F_SETFL), fcntl(*, F_SETFD), fcntl(*, F_GETFD), uname,
 * getrandom, geteuid, getuid, openat(*, *, ~O_ACCMODE | O_CREAT)
 */
#include "nbd/client.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define RETRY_FIRST_NS (NS_PER_S / 2)
#define RETRY_MAX_NS (8 * NS_PER_S)
#define GOODBYE_NS (NS_PER_S / 5)
#define EVENTS_MAX 16

struct part {
	struct client *c;
	struct nbd_request r;
	bool busy, sent;
	uint64_t writes; /* a flush: what it covers */
};

struct client {
	const struct nbd_start *st;
	uint8_t *memory;
	struct nbd_handle *h; /* NULL: no connection, and none is being made */
	bool up;	      /* connected */
	bool serving;	      /* the machine knows of the export: failures are not told as texts */
	struct nbd_hello server;
	struct err why; /* of the latest failure */

	struct part parts[NBD_SLOTS];
	unsigned sent;
	bool closing;	      /* the server said that it is about to end */
	bool gave_up;	      /* requests do not wait */
	bool changed;	      /* no way back */
	uint64_t progress_ns; /* when the server said something last, or was asked while idle */
	uint64_t lost_ns, retry_ns, retry_wait_ns, began_ns;

	uint64_t writes, flushed; /* confirmed by the server; covered by a flush */
	bool lost_writes;

	struct nbd_answer out[NBD_SLOTS + EVENTS_MAX];
	unsigned out_count;
	uint8_t in[NBD_SLOTS * sizeof(struct nbd_request)];
	size_t in_len;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- to the machine ---- */

static void flush_answers(struct client *c)
{
	size_t len = c->out_count * sizeof(c->out[0]);

	/* A machine that is gone shows when we read. */
	if (len)
		send(NBD_FD_SOCKET, c->out, len, MSG_NOSIGNAL);
	c->out_count = 0;
}

static void tell(struct client *c, uint32_t event, int errnum)
{
	if (c->out_count == NBD_SLOTS + EVENTS_MAX)
		flush_answers(c);
	c->out[c->out_count++] = (struct nbd_answer) { event, -errnum };
}

static void answer(struct part *p, int ret)
{
	struct client *c = p->c;

	if (c->out_count == NBD_SLOTS + EVENTS_MAX)
		flush_answers(c);
	p->busy = p->sent = false;
	c->out[c->out_count++] = (struct nbd_answer) { p->r.slot, ret };
}

static void fail_busy(struct client *c)
{
	for (unsigned i = 0; i < NBD_SLOTS; i++)
		if (c->parts[i].busy && !c->parts[i].sent)
			answer(&c->parts[i], -EIO);
}

/* ---- to the server ---- */

static bool is_write(const struct part *p)
{
	return p->r.op == NBD_WRITE || p->r.op == NBD_ZERO || p->r.op == NBD_TRIM;
}

/* libnbd calls this once for each command, also when it dies: nothing of its may be called here. */
static int command_done(void *arg, int *error)
{
	struct part *p = arg;
	struct client *c = p->c;
	int ret = -*error;

	c->sent--;
	p->sent = false;
	if (*error == ENOTCONN || *error == ESHUTDOWN) {
		c->closing = true;
		return 1; /* it stays busy: the next connection's */
	}
	c->progress_ns = now_ns();
	if (ret == 0 && is_write(p) && !(p->r.flags & NBD_FUA))
		c->writes++;
	if (ret == 0 && p->r.op == NBD_FLUSH) {
		if (c->lost_writes)
			ret = -EIO;
		c->lost_writes = false;
		c->flushed = p->writes;
	}
	answer(p, ret);
	return 1;
}

static void send_part(struct client *c, struct part *p)
{
	const struct nbd_request *r = &p->r;
	uint8_t *data = c->memory + (size_t)r->slot * NBD_SLOT_BYTES;
	nbd_completion_callback done = { .callback = command_done, .user_data = p };
	uint32_t flags = r->flags & NBD_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
	int64_t cookie = -1;

	if (!c->sent)
		c->progress_ns = now_ns();
	c->sent++;
	p->sent = true;
	p->writes = c->writes;
	switch ((enum nbd_op)r->op) {
	case NBD_READ:
		cookie = nbd_aio_pread(c->h, data, r->len, r->off, done, 0);
		break;
	case NBD_WRITE:
		cookie = nbd_aio_pwrite(c->h, data, r->len, r->off, done, flags);
		break;
	case NBD_FLUSH:
		cookie = nbd_aio_flush(c->h, done, 0);
		break;
	case NBD_TRIM:
		cookie = nbd_aio_trim(c->h, r->len, r->off, done, flags);
		break;
	case NBD_ZERO:
		flags |= r->flags & NBD_NO_HOLE ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
		cookie = nbd_aio_zero(c->h, r->len, r->off, done, flags);
		break;
	case NBD_HURRY: /* never a part */
		break;
	}
	if (cookie >= 0)
		return;
	/* Not taken: the connection has died, or libnbd itself finds fault with it. */
	c->sent--;
	p->sent = false;
	if (!nbd_aio_is_dead(c->h) && !nbd_aio_is_closed(c->h))
		answer(p, nbd_get_errno() > 0 ? -nbd_get_errno() : -EIO);
}

/* ---- the connection ---- */

static int note_failure(struct client *c, int errnum, const char *text)
{
	return err_set(&c->why, errnum > 0 ? errnum : EIO, "%s", text);
}

static int note_libnbd(struct client *c)
{
	const char *text = nbd_get_error(), *colon;

	/* "nbd_aio_connect_tcp: what happened" */
	colon = text ? strstr(text, ": ") : NULL;
	return note_failure(c, nbd_get_errno(), colon ? colon + 2 : text ? text : "unknown");
}

static int settings(struct client *c)
{
	const struct nbd_uri *u = &c->st->uri;
	int ret = nbd_set_export_name(c->h, u->export);

	if (ret == 0)
		ret = nbd_set_tls(c->h, u->tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE);
	if (ret == 0 && u->user[0])
		ret = nbd_set_tls_username(c->h, u->user);
	if (ret == 0 && c->st->tls_certs[0])
		ret = nbd_set_tls_certificates(c->h, c->st->tls_certs);
	if (ret == 0 && c->st->tls_certs[0])
		ret = nbd_set_tls_verify_peer(c->h, true);
	if (ret == 0 && c->st->tls_psk[0])
		ret = nbd_set_tls_psk_file(c->h, c->st->tls_psk);
	/* The buffers are the machine's: nothing of ours shows through in them. */
	if (ret == 0)
		ret = nbd_set_pread_initialize(c->h, false);
	return ret;
}

/* Begin to connect; 0, or -errno with c->why. */
static int connect_begin(struct client *c)
{
	const struct nbd_uri *u = &c->st->uri;
	int ret;

	c->closing = false;
	c->began_ns = now_ns();
	c->h = nbd_create();
	ret = c->h ? settings(c) : -1;
	if (ret == 0)
		ret = u->host[0] ? nbd_aio_connect_tcp(c->h, u->host, u->port)
				 : nbd_aio_connect_unix(c->h, u->socket);
	if (ret == 0)
		return 0;
	ret = note_libnbd(c);
	nbd_close(c->h);
	c->h = NULL;
	return ret;
}

static uint32_t block(struct client *c, int which)
{
	int64_t bytes = nbd_get_block_size(c->h, which);

	return bytes > 0 ? (uint32_t)min_u64((uint64_t)bytes, UINT32_MAX) : 0;
}

/* What the server says of its export; 0, or -errno with c->why. */
static int describe(struct client *c, struct nbd_hello *s)
{
	int64_t size = nbd_get_size(c->h);

	*s = (struct nbd_hello) { 0 };
	if (size < 0)
		return note_libnbd(c);
	s->size = (uint64_t)size;
	s->min_block = block(c, LIBNBD_SIZE_MINIMUM);
	s->pref_block = block(c, LIBNBD_SIZE_PREFERRED);
	s->max_block = block(c, LIBNBD_SIZE_MAXIMUM);
	s->readonly = nbd_is_read_only(c->h) != 0;
	s->can_flush = nbd_can_flush(c->h) > 0;
	s->can_trim = nbd_can_trim(c->h) > 0;
	s->can_zero = nbd_can_zero(c->h) > 0;
	s->can_fua = nbd_can_fua(c->h) > 0;
	return 0;
}

static bool is_same(const struct nbd_hello *a, const struct nbd_hello *b)
{
	return a->size == b->size && a->min_block == b->min_block && a->max_block == b->max_block &&
	       a->readonly == b->readonly && a->can_flush == b->can_flush &&
	       a->can_trim == b->can_trim && a->can_zero == b->can_zero && a->can_fua == b->can_fua;
}

static void drop(struct client *c)
{
	nbd_close(c->h);
	c->h = NULL;
	c->up = false;
	/* What has not completed as not connected is forgotten without a word. */
	for (unsigned i = 0; i < NBD_SLOTS; i++)
		c->parts[i].sent = false;
	c->sent = 0;
}

/* The connection is gone, or an attempt has failed; c->why tells. */
static void lost(struct client *c, int errnum)
{
	bool was_up = c->up;

	drop(c);
	if (!c->serving)
		return;
	if (was_up) {
		c->lost_ns = now_ns();
		c->retry_wait_ns = RETRY_FIRST_NS;
		c->gave_up = false;
		if (c->writes != c->flushed)
			c->lost_writes = true;
		c->flushed = c->writes;
		tell(c, NBD_EVENT_LOST, errnum);
	} else {
		c->retry_wait_ns = min_u64(c->retry_wait_ns * 2, RETRY_MAX_NS);
	}
	c->retry_ns = now_ns() + c->retry_wait_ns;
}

static void came_up(struct client *c)
{
	struct nbd_hello s;

	if (describe(c, &s) < 0) {
		lost(c, EPROTO);
		return;
	}
	if (c->serving && !is_same(&s, &c->server)) {
		drop(c);
		c->changed = c->gave_up = true;
		tell(c, NBD_EVENT_CHANGED, ESTALE);
		fail_busy(c);
		return;
	}
	c->up = true;
	c->gave_up = false;
	if (!c->serving) {
		c->server = s;
		return;
	}
	tell(c, NBD_EVENT_BACK, 0);
	for (unsigned i = 0; i < NBD_SLOTS; i++)
		if (c->parts[i].busy)
			send_part(c, &c->parts[i]);
}

/* After anything was done with the handle: what has become of it. */
static void look(struct client *c)
{
	if (!c->h)
		return;
	if (c->closing || nbd_aio_is_dead(c->h) || nbd_aio_is_closed(c->h)) {
		if (!c->why.text[0])
			note_failure(c, ECONNRESET, "the server closed the connection");
		lost(c, ECONNRESET);
	} else if (!c->up && nbd_aio_is_ready(c->h)) {
		came_up(c);
	}
}

static void notify(struct client *c, short revents)
{
	unsigned want = nbd_aio_get_direction(c->h);
	int ret = 0;

	c->why.text[0] = '\0';
	if (revents & (POLLIN | POLLHUP | POLLERR) && want & LIBNBD_AIO_DIRECTION_READ)
		ret = nbd_aio_notify_read(c->h);
	else if (revents & (POLLOUT | POLLHUP | POLLERR) && want & LIBNBD_AIO_DIRECTION_WRITE)
		ret = nbd_aio_notify_write(c->h);
	if (ret < 0)
		note_libnbd(c);
	look(c);
}

/* ---- time ---- */

static uint64_t timeout_ns(const struct client *c)
{
	return c->st->timeout_s * NS_PER_S;
}

/* When something is to be done although nothing comes; 0: never. */
static uint64_t next_deadline(const struct client *c)
{
	uint64_t t = 0;

	if (c->h && !c->up)
		t = c->began_ns + timeout_ns(c);
	else if (c->up && c->sent)
		t = c->progress_ns + timeout_ns(c);
	else if (!c->h && !c->changed)
		t = c->retry_ns;
	if (!c->up && !c->gave_up) {
		uint64_t end = c->lost_ns + c->st->reconnect_s * NS_PER_S;

		t = t && t < end ? t : end;
	}
	return t;
}

static void time_passes(struct client *c)
{
	uint64_t now = now_ns();

	if (c->h && ((!c->up && now >= c->began_ns + timeout_ns(c)) ||
		     (c->up && c->sent && now >= c->progress_ns + timeout_ns(c)))) {
		note_failure(c, ETIMEDOUT, "the server says nothing");
		lost(c, ETIMEDOUT);
	}
	if (!c->up && !c->gave_up && now >= c->lost_ns + c->st->reconnect_s * NS_PER_S) {
		c->gave_up = true;
		tell(c, NBD_EVENT_GAVE_UP, ETIMEDOUT);
	}
	if (c->gave_up && !c->up)
		fail_busy(c);
	if (c->serving && !c->h && !c->changed && now >= c->retry_ns && connect_begin(c) < 0) {
		c->retry_wait_ns = min_u64(c->retry_wait_ns * 2, RETRY_MAX_NS);
		c->retry_ns = now + c->retry_wait_ns;
	}
	look(c);
}

static int wait_ms(uint64_t deadline_ns)
{
	uint64_t now = now_ns();

	if (!deadline_ns)
		return -1;
	return deadline_ns <= now ? 0 : (int)min_u64((deadline_ns - now) / 1000000 + 1, 3600000);
}

/* ---- from the machine ---- */

static bool is_good(const struct client *c, const struct nbd_request *r)
{
	uint32_t max = r->op == NBD_READ || r->op == NBD_WRITE ? NBD_SLOT_BYTES : NBD_ZERO_MAX;

	if (r->slot >= NBD_SLOTS || c->parts[r->slot].busy || r->op > NBD_ZERO)
		return false;
	if (r->op == NBD_FLUSH)
		return !r->len;
	return r->len && r->len <= max && r->off <= c->server.size &&
	       r->len <= c->server.size - r->off;
}

/* The machine does not wait any longer. */
static void hurry(struct client *c)
{
	if (c->up && c->sent) {
		note_failure(c, ETIMEDOUT, "the machine does not wait any longer");
		lost(c, ETIMEDOUT);
	}
	if (c->up)
		return;
	c->gave_up = true;
	fail_busy(c);
}

/* Return: 1: go on; 0: the machine is gone; -EPROTO. */
static int take_requests(struct client *c)
{
	size_t at = 0;
	ssize_t n = recv(NBD_FD_SOCKET, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 1;
	if (n <= 0)
		return 0;
	c->in_len += (size_t)n;
	for (; c->in_len - at >= sizeof(struct nbd_request); at += sizeof(struct nbd_request)) {
		struct nbd_request r;
		struct part *p;

		memcpy(&r, c->in + at, sizeof(r));
		if (r.op == NBD_HURRY) {
			hurry(c);
			continue;
		}
		if (!is_good(c, &r))
			return -EPROTO;
		p = &c->parts[r.slot];
		p->r = r;
		p->busy = true;
		if (c->up)
			send_part(c, p);
		else if (c->gave_up)
			answer(p, -EIO);
	}
	c->in_len -= at;
	memmove(c->in, c->in + at, c->in_len);
	look(c);
	return 1;
}

/* Say goodbye as long as that takes no time. */
static void goodbye(struct client *c)
{
	uint64_t end = now_ns() + GOODBYE_NS;

	if (!c->up || nbd_aio_disconnect(c->h, 0) < 0)
		return;
	while (now_ns() < end && !nbd_aio_is_closed(c->h) && !nbd_aio_is_dead(c->h)) {
		unsigned want = nbd_aio_get_direction(c->h);
		struct pollfd pfd = { .fd = nbd_aio_get_fd(c->h) };

		pfd.events = (short)((want & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				     (want & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		if (poll(&pfd, 1, wait_ms(end)) <= 0)
			return;
		if (pfd.revents & ~POLLOUT && want & LIBNBD_AIO_DIRECTION_READ)
			nbd_aio_notify_read(c->h);
		else
			nbd_aio_notify_write(c->h);
	}
}

/* Wait for something and deal with it; as take_requests(). */
static int step(struct client *c, bool machine)
{
	struct pollfd pfd[2] = { { .fd = machine ? NBD_FD_SOCKET : -1, .events = POLLIN },
				 { .fd = c->h ? nbd_aio_get_fd(c->h) : -1 } };
	unsigned want = c->h ? nbd_aio_get_direction(c->h) : 0;
	int ret = 1;

	pfd[1].events = (short)((want & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				(want & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	flush_answers(c);
	if (poll(pfd, 2, wait_ms(next_deadline(c))) < 0 && errno != EINTR)
		return -errno;
	if (pfd[1].revents)
		notify(c, pfd[1].revents);
	if (pfd[0].revents)
		ret = take_requests(c);
	time_passes(c);
	return ret;
}

int client_new(const struct nbd_start *st, uint8_t *memory, struct client **ret_client,
	       struct nbd_hello *ret_hello, struct err *err)
{
	struct client *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	c->st = st;
	c->memory = memory;
	c->gave_up = true;
	for (unsigned i = 0; i < NBD_SLOTS; i++)
		c->parts[i].c = c;
	ret = connect_begin(c);
	if (ret == 0) {
		look(c);
		while (c->h && !c->up)
			step(c, false);
		ret = c->up ? 0 : -EIO;
	}
	if (ret < 0) {
		err_set(err, EIO, "%s", c->why.text);
		client_free(c);
		return ret;
	}
	c->serving = true;
	*ret_hello = c->server;
	*ret_client = c;
	return 0;
}

void client_free(struct client *c)
{
	if (c)
		nbd_close(c->h);
	free(c);
}

int client_run(struct client *c)
{
	int ret;

	do {
		ret = step(c, true);
	} while (ret > 0);
	if (ret == 0)
		goodbye(c);
	return ret;
}
