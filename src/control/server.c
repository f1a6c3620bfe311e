/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients are the owner's own programs, but a bug in one of them must not hold
 * up a machine. So everything a client can make us keep is bounded, and nothing
 * waits for a client:
 *
 * 1. A request has at most CONTROL_LINE_MAX bytes; a longer one ends its client.
 * 2. While more than OUT_HIGH bytes wait for a client, none of its requests is
 *    read. OUT_MAX ends it.
 * 3. An event that would wait behind more than OUT_HIGH bytes is left out; the
 *    numbers of events show the gap, and those kept can be asked for.
 * 4. A client is freed only in settle(), never under a command that it sent.
 * 5. A call outlives its client: what runs on after a client has gone is answered
 *    to nobody.
 */
#include "control/server.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"

#define OUT_HIGH KIB(256)
#define OUT_MAX MIB(4)
#define ACCEPT_BATCH 16
#define ACCEPT_RETRY_NS 100000000ull
#define READS_AT_HANGUP 64

struct client {
	struct control_server *server;
	int fd;
	struct loop_fd *source;
	uint32_t watched;
	char *in; /* CONTROL_LINE_MAX + 1 bytes */
	size_t in_len;
	char *out;
	size_t out_len, out_cap;
	int fds[CONTROL_FDS_MAX];
	unsigned fd_count, call_count;
	bool subscribed;
	bool eof;     /* nothing more will come; answers still go out */
	bool closing; /* to be dropped when all is sent */
	bool broken;  /* to be dropped */
	bool deaf;    /* answers are for nobody */
	unsigned busy;
	void (*hand_over)(void *arg, int fd, const void *bytes, size_t len);
	void *hand_over_arg;
};

struct control_call {
	struct control_server *server;
	struct client *client; /* NULL: has gone */
	struct control_request req;
	int fds[CONTROL_FDS_MAX];
	unsigned fd_count, fd_next;
	struct control_call *prev, *next;
};

struct control_server {
	struct control_server_config cfg;
	int listen_fd;
	struct loop_fd *listen_source;
	struct loop_timer *accept_timer; /* tries again when descriptors had run out */
	char *path;			 /* to be unlinked; NULL: none */
	struct client *clients[CONTROL_CLIENTS_MAX];
	struct control_call *calls;
	char *events[CONTROL_EVENTS_KEPT];
	uint64_t next_event; /* number of the next one; the first is 1 */
};

static void client_event(void *arg, uint32_t events);

/* ---- output ---- */

static void flush_out(struct client *c)
{
	size_t done = 0;

	while (done < c->out_len && !c->broken) {
		/* sandbox: loop: sendto */
		ssize_t n =
		    send(c->fd, c->out + done, c->out_len - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0)
			done += (size_t)n;
		else if (errno == EAGAIN)
			break;
		else if (errno == EPIPE || errno == ECONNRESET)
			c->deaf = true; /* what it sent before it left is still read */
		else if (errno != EINTR)
			c->broken = true;
		if (c->deaf)
			done = c->out_len;
	}
	c->out_len -= done;
	memmove(c->out, c->out + done, c->out_len);
	if (!c->out_len && c->out_cap > KIB(64)) {
		free(c->out);
		c->out = NULL;
		c->out_cap = 0;
	}
}

static void put_line(struct client *c, const char *text)
{
	size_t len = strlen(text), need = c->out_len + len + 1;

	if (c->broken || c->deaf)
		return;
	if (need > c->out_cap) {
		size_t cap = need + KIB(4);
		char *p = need <= OUT_MAX ? realloc(c->out, cap) : NULL;

		if (!p) {
			log_debug("control: a client that does not read is dropped");
			c->broken = true;
			return;
		}
		c->out = p;
		c->out_cap = cap;
	}
	memcpy(c->out + c->out_len, text, len);
	c->out[c->out_len + len] = '\n';
	c->out_len = need;
	flush_out(c);
}

/* Takes @object over. */
static void put_json(struct client *c, json_t *object)
{
	_cleanup_free_ char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	if (text)
		put_line(c, text);
	else
		c->broken = true; /* out of memory */
}

static void put_error(struct client *c, const json_t *id, const char *code, const char *text)
{
	json_t *nothing = id ? json_incref((json_t *)id) : json_null();

	put_json(c, json_pack("{s:o, s:{s:s, s:s}}", "id", nothing, "error", "code", code,
			      "message", text));
}

/* ---- the life of a client ---- */

static void close_fds(int *fds, unsigned first, unsigned count)
{
	for (unsigned i = first; i < count; i++)
		close(fds[i]);
}

/* Forget the client; its socket is closed unless it was handed over. */
static void client_free(struct client *c)
{
	struct control_server *server = c->server;

	for (struct control_call *call = server->calls; call; call = call->next)
		if (call->client == c)
			call->client = NULL;
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (server->clients[i] == c)
			server->clients[i] = NULL;
	loop_fd_del(c->source);
	close_fds(c->fds, 0, c->fd_count);
	if (c->fd >= 0)
		close(c->fd);
	free(c->in);
	free(c->out);
	free(c);
}

static void give_away(struct client *c)
{
	void (*fn)(void *arg, int fd, const void *bytes, size_t len) = c->hand_over;
	void *arg = c->hand_over_arg;
	char *in = c->in;
	size_t len = c->in_len;
	int fd = c->fd;

	c->in = NULL;
	c->fd = -1;
	client_free(c);
	fn(arg, fd, in, len);
	free(in);
}

/* Act on what has become of the client, unless a command of its is running. */
static void settle(struct client *c)
{
	uint32_t want = 0;

	if (c->busy)
		return;
	if (c->eof && !c->out_len && !c->call_count && !c->subscribed && !c->hand_over)
		c->closing = true;
	if (c->broken || (c->closing && !c->out_len)) {
		client_free(c);
		return;
	}
	if (c->hand_over && !c->out_len) {
		give_away(c);
		return;
	}
	if (!c->eof && !c->closing && !c->hand_over && c->out_len <= OUT_HIGH)
		want |= EPOLLIN;
	if (c->out_len)
		want |= EPOLLOUT;
	if (want != c->watched && loop_fd_modify(c->source, want) == 0)
		c->watched = want;
}

/* ---- calls ---- */

static void call_free(struct control_call *call)
{
	if (call->prev)
		call->prev->next = call->next;
	else
		call->server->calls = call->next;
	if (call->next)
		call->next->prev = call->prev;
	if (call->client)
		call->client->call_count--;
	close_fds(call->fds, call->fd_next, call->fd_count);
	control_request_done(&call->req);
	free(call);
}

/* The end of every answer. */
static void call_answered(struct control_call *call)
{
	struct client *c = call->client;

	call_free(call);
	if (c)
		settle(c);
}

const json_t *control_args(const struct control_call *call)
{
	return call->req.args;
}

const char *control_call_name(const struct control_call *call)
{
	return call->req.command->name;
}

int control_take_fd(struct control_call *call)
{
	return call->fd_next < call->fd_count ? call->fds[call->fd_next++] : -1;
}

static void put_result(struct control_call *call, json_t *result)
{
	if (!result)
		result = json_object();
	if (call->client)
		put_json(call->client,
			 json_pack("{s:O, s:o}", "id", call->req.id, "result", result));
	else
		json_decref(result);
}

void control_reply(struct control_call *call, json_t *result)
{
	put_result(call, result);
	call_answered(call);
}

void control_fail_code(struct control_call *call, const char *code, const char *text)
{
	if (call->client)
		put_error(call->client, call->req.id, code, text);
	call_answered(call);
}

void control_fail(struct control_call *call, int ret, const struct err *err)
{
	control_fail_code(call, control_code(ret), err->text);
}

void control_hand_over(struct control_call *call, json_t *result,
		       void (*fn)(void *arg, int fd, const void *bytes, size_t len), void *arg)
{
	put_result(call, result);
	if (call->client) {
		call->client->hand_over = fn;
		call->client->hand_over_arg = arg;
	}
	call_answered(call);
}

static void run_line(struct client *c, const char *line, size_t len)
{
	struct control_server *server = c->server;
	struct control_call *call = calloc(1, sizeof(*call));
	const char *code = "host";
	struct err err = { .text = "out of memory" };

	if (!call) {
		put_error(c, NULL, code, err.text);
		return;
	}
	call->server = server;
	call->client = c;
	call->next = server->calls;
	if (call->next)
		call->next->prev = call;
	server->calls = call;
	c->call_count++;
	memcpy(call->fds, c->fds, sizeof(c->fds));
	call->fd_count = c->fd_count;
	c->fd_count = 0;

	c->busy++;
	if (control_parse(server->cfg.table, line, len, &call->req, &code, &err) < 0) {
		control_fail_code(call, code, err.text);
	} else if (call->fd_count > call->req.command->fds) {
		snprintf(err.text, sizeof(err.text), "command '%s': takes %u descriptors, not %u",
			 call->req.command->name, call->req.command->fds, call->fd_count);
		control_fail_code(call, "bad-request", err.text);
	} else if (c->call_count > CONTROL_CALLS_MAX) {
		control_fail_code(call, "busy", "more requests than may wait for their answers");
	} else {
		call->req.command->run(call, server->cfg.opaque);
	}
	c->busy--;
}

/* ---- input ---- */

static void run_lines(struct client *c)
{
	size_t at = 0;

	while (!c->broken && !c->closing && !c->hand_over && c->out_len <= OUT_HIGH) {
		char *end = memchr(c->in + at, '\n', c->in_len - at);

		if (!end)
			break;
		*end = '\0';
		run_line(c, c->in + at, (size_t)(end - (c->in + at)));
		at = (size_t)(end - c->in) + 1;
	}
	c->in_len -= at;
	memmove(c->in, c->in + at, c->in_len);
	if (c->in_len > CONTROL_LINE_MAX && !memchr(c->in, '\n', c->in_len)) {
		put_error(c, NULL, "too-long", "request: is longer than 64 KiB");
		c->closing = true;
		c->in_len = 0;
	}
}

static void keep_fds(struct client *c, struct msghdr *msg)
{
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(msg); cm; cm = CMSG_NXTHDR(msg, cm)) {
		unsigned count = (unsigned)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		for (unsigned i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cm) + i * sizeof(fd), sizeof(fd));
			if (c->fd_count < CONTROL_FDS_MAX) {
				c->fds[c->fd_count++] = fd;
			} else {
				close(fd);
				c->broken = true;
			}
		}
	}
	if (msg->msg_flags & MSG_CTRUNC)
		c->broken = true;
}

/* Read once; false: nothing came. */
static bool receive(struct client *c)
{
	union {
		char buf[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { c->in + c->in_len, CONTROL_LINE_MAX + 1 - c->in_len };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	ssize_t n;

	if (!iov.iov_len)
		return false;
	/* sandbox: loop: recvmsg */
	n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0) {
		c->broken |= errno != EAGAIN && errno != EINTR;
		return false;
	}
	keep_fds(c, &msg);
	c->eof |= n == 0;
	c->in_len += (size_t)n;
	return n > 0;
}

static void client_event(void *arg, uint32_t events)
{
	struct client *c = arg;

	if (events & EPOLLOUT)
		flush_out(c);
	if (events & (EPOLLHUP | EPOLLERR)) {
		/* Nobody reads any more; what was asked for before is still done. */
		for (unsigned i = 0; i < READS_AT_HANGUP && receive(c) && !c->broken; i++)
			run_lines(c);
		c->broken = true;
	} else if (events & EPOLLIN) {
		receive(c);
	}
	run_lines(c);
	settle(c);
}

/* ---- connections ---- */

static int add_client(struct control_server *server, int fd)
{
	struct client *c;
	json_t *hello;
	unsigned at = 0;
	int ret;

	while (at < CONTROL_CLIENTS_MAX && server->clients[at])
		at++;
	if (at == CONTROL_CLIENTS_MAX)
		return -EBUSY;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->server = server;
	c->fd = fd;
	c->watched = EPOLLIN;
	c->in = malloc(CONTROL_LINE_MAX + 1);
	ret = c->in ? loop_fd_add(server->cfg.loop, fd, EPOLLIN, client_event, c, &c->source)
		    : -ENOMEM;
	if (ret < 0) {
		c->fd = -1;
		client_free(c);
		return ret;
	}
	server->clients[at] = c;
	hello = server->cfg.greet ? server->cfg.greet(server->cfg.opaque) : json_object();
	json_object_set_new(hello, "protocol", json_integer(CONTROL_PROTOCOL));
	json_object_set_new(hello, "event", json_integer((json_int_t)server->next_event - 1));
	put_json(c, json_pack("{s:o}", "eyot", hello));
	settle(c);
	return 0;
}

static bool may_connect(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	/* sandbox: loop: getsockopt, geteuid */
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static void refuse(int fd, const char *code, const char *text)
{
	char line[200];
	int len =
	    snprintf(line, sizeof(line),
		     "{\"id\":null,\"error\":{\"code\":\"%s\",\"message\":\"%s\"}}\n", code, text);

	if (send(fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) != len)
		log_debug("control: a refused client did not take the reason");
	close(fd);
}

static void accept_clients(void *arg, uint32_t events)
{
	struct control_server *server = arg;

	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		/* sandbox: loop: accept4 */
		int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), ret;

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
			/* The connection stays ready: do not spin on it. */
			loop_fd_modify(server->listen_source, 0);
			loop_timer_arm(server->accept_timer, clock_now_ns() + ACCEPT_RETRY_NS);
		}
		if (fd < 0)
			return;
		if (!may_connect(fd)) {
			refuse(fd, "not-allowed", "control: this machine belongs to another user");
			continue;
		}
		ret = add_client(server, fd);
		if (ret < 0)
			refuse(fd, ret == -EBUSY ? "busy" : "host",
			       ret == -EBUSY ? "control: there are too many clients"
					     : "control: the host lacks memory");
	}
}

static void accept_again(void *arg)
{
	struct control_server *server = arg;

	loop_fd_modify(server->listen_source, EPOLLIN);
}

/* ---- events ---- */

static bool is_subscriber(const struct client *c)
{
	return c && c->subscribed && !c->closing && !c->broken && c->out_len <= OUT_HIGH;
}

void control_event(struct control_server *server, const char *name, json_t *data)
{
	struct timespec now;
	json_t *event;
	char *text, **kept;

	if (!server) {
		json_decref(data);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	event = json_pack("{s:s, s:I, s:I, s:o}", "event", name, "number",
			  (json_int_t)server->next_event, "time_ms",
			  (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, "data",
			  data ? data : json_object());
	text = event ? json_dumps(event, JSON_COMPACT) : NULL;
	json_decref(event);
	kept = &server->events[server->next_event++ % CONTROL_EVENTS_KEPT];
	free(*kept);
	*kept = text; /* NULL, out of memory: a gap */
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX && text; i++) {
		if (is_subscriber(server->clients[i])) {
			put_line(server->clients[i], text);
			settle(server->clients[i]);
		}
	}
}

void control_subscribe(struct control_call *call, uint64_t since)
{
	struct control_server *server = call->server;
	uint64_t last = server->next_event - 1, first = since < last ? since + 1 : last + 1;
	struct client *c = call->client;

	if (last >= CONTROL_EVENTS_KEPT && first <= last - CONTROL_EVENTS_KEPT)
		first = last - CONTROL_EVENTS_KEPT + 1;
	put_result(call, json_pack("{s:I, s:I}", "last", (json_int_t)last, "lost",
				   (json_int_t)(since < last ? first - since - 1 : 0)));
	if (c) {
		c->subscribed = true;
		for (uint64_t n = first; n <= last; n++)
			if (server->events[n % CONTROL_EVENTS_KEPT])
				put_line(c, server->events[n % CONTROL_EVENTS_KEPT]);
	}
	call_answered(call);
}

/* ---- begin and end ---- */

/* A socket that a supervisor made; -errno with a text. */
static int inherited(const char *number, bool *ret_listens, struct err *err)
{
	int domain, type, listens;
	socklen_t len = sizeof(int);
	char *end;
	long fd = strtol(number, &end, 10);

	if (!*number || *end || fd < 0 || fd > 1 << 20)
		return err_set(err, EINVAL, "control 'fd:%s': not a descriptor's number", number);
	if (getsockopt((int)fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
	    getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0)
		return err_set(err, errno, "control 'fd:%s': %s", number, strerror(errno));
	if (domain != AF_UNIX || type != SOCK_STREAM)
		return err_set(err, EINVAL, "control 'fd:%s': is not a UNIX stream socket", number);
	if (fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl((int)fd, F_SETFL, O_NONBLOCK) < 0)
		return err_set(err, errno, "control 'fd:%s': %s", number, strerror(errno));
	*ret_listens = listens;
	return (int)fd;
}

static int open_socket(struct control_server *server, const char *where, struct err *err)
{
	bool listens = true;
	int fd, ret;

	if (!strncmp(where, "fd:", 3)) {
		fd = inherited(where + 3, &listens, err);
		if (fd < 0)
			return fd;
	} else {
		fd = unix_listen(where, CONTROL_CLIENTS_MAX, err);
		if (fd < 0)
			return err_prefix(err, fd, "control");
		server->path = strdup(where);
	}
	if (!listens) {
		ret = add_client(server, fd);
	} else {
		server->listen_fd = fd;
		ret = loop_fd_add(server->cfg.loop, fd, EPOLLIN, accept_clients, server,
				  &server->listen_source);
	}
	return ret < 0 ? err_set(err, -ret, "control '%s': %s", where, strerror(-ret)) : 0;
}

int control_server_new(const struct control_server_config *cfg, const char *where,
		       struct control_server **ret_server, struct err *err)
{
	struct control_server *server = calloc(1, sizeof(*server));
	int ret;

	if (!server)
		return err_set(err, ENOMEM, "control '%s': out of memory", where);
	server->cfg = *cfg;
	server->listen_fd = -1;
	server->next_event = 1;
	ret = loop_timer_add(cfg->loop, accept_again, server, &server->accept_timer);
	ret = ret < 0 ? err_set(err, -ret, "control '%s': timer: %s", where, strerror(-ret))
		      : open_socket(server, where, err);
	if (ret < 0) {
		control_server_free(server);
		return ret;
	}
	*ret_server = server;
	return 0;
}

char *control_server_release_path(struct control_server *server)
{
	char *path = server->path;

	server->path = NULL;
	return path;
}

void control_server_free(struct control_server *server)
{
	if (!server)
		return;
	/* Removed first: who comes now shall start anew, not wait for us. */
	if (server->path)
		unlink(server->path);
	free(server->path);
	while (server->calls) {
		struct control_call *call = server->calls;

		if (call->client) {
			call->client->busy++;
			put_error(call->client, call->req.id, "cancelled", "the machine has ended");
		}
		call_free(call);
	}
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (server->clients[i])
			client_free(server->clients[i]);
	for (unsigned i = 0; i < CONTROL_EVENTS_KEPT; i++)
		free(server->events[i]);
	loop_fd_del(server->listen_source);
	loop_timer_del(server->accept_timer);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	free(server);
}
