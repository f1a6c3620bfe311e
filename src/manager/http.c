/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmicrohttpd parses and writes; it runs on our loop: its epoll descriptor is watched, and its
 * time-outs are a timer of ours. We accept connections ourselves, because who connects decides
 * whether there is room.
 *
 * 1. A request is in no list, in `waiting` (for a job) or in `streams`; it leaves the list before
 * it is freed, in request_ended(), which the library calls once for each.
 * 2. A request that is suspended has no answer yet, or is a stream that has sent all there is.
 * 3. What is written to the store is committed before an answer is handed to the library.
 * 4. A client has a limit of time from when it connects, or from the end of its last request, until
 * the whole next request is here; clients that trickle are cut off by it.
 */
#include "manager/http.h"

#include <fcntl.h>
#include <grp.h>
#include <microhttpd.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"

#define SECOND_NS 1000000000ull
#define REQUEST_TIME_NS (30 * SECOND_NS)
#define SILENT_TIMEOUT_S 120 /* of a client that does not take its answer */
#define CONNECTION_MEMORY KIB(32)
#define HEARTBEAT_NS (15 * SECOND_NS)
#define STREAM_BLOCK KIB(16)
#define STREAM_EVENTS 64 /* read at a time */

struct client {
	struct client *next;
	int fd;
	int64_t uid, pid;
	uint64_t deadline_ns; /* 0: none */
};

struct http {
	struct manager *m;
	struct MHD_Daemon *daemon;
	int listen_fd;
	struct loop_fd *listen_source, *epoll_source;
	struct loop_timer *timer, *sweep_timer;
	struct client *clients;
	struct request *waiting, *streams;
	uint64_t heartbeat_ns;
};

/* ---- answers ---- */

static void resume(struct request *r)
{
	if (r->suspended) {
		r->suspended = false;
		MHD_resume_connection(r->connection);
		loop_timer_arm(r->m->http->timer, 1); /* the library is to look at it at once */
	}
}

static void answer(struct request *r, int status, const char *type, struct text *text)
{
	r->status = status;
	r->type = type;
	r->answer = *text;
	*text = (struct text) { 0 };
	api_answered(r);
	if (store_commit(r->m->store) < 0) {
		text_done(&r->answer);
		r->status = 503;
		r->type = "application/problem+json";
		text_printf(&r->answer,
			    "{\"title\":\"Service Unavailable\",\"status\":503,\"code\":"
			    "\"unavailable\",\"detail\":\"the store cannot be written\"}");
	}
	resume(r);
}

void reply(struct request *r, int status, struct text *text)
{
	answer(r, status, "application/json", text);
}

void reply_text(struct request *r, const char *type, struct text *text)
{
	answer(r, 200, type, text);
}

void reply_problem(struct request *r, const struct problem *p)
{
	struct text t = { 0 };

	problem_text(p, &t);
	answer(r, p->status, "application/problem+json", &t);
}

void reply_error(struct request *r, int status, const char *code, const char *fmt, ...)
{
	struct problem p = { .status = status, .code = code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p.err.text, sizeof(p.err.text), fmt, ap);
	va_end(ap);
	reply_problem(r, &p);
}

void reply_errno(struct request *r, int ret, const struct err *err)
{
	struct problem p;

	problem_of(&p, ret);
	p.err = *err;
	reply_problem(r, &p);
}

void reply_plan(struct request *r, const char *fmt, ...)
{
	struct text t = { 0 };
	char line[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	text_printf(&t, "{\"dry_run\":true,\"actions\":[");
	text_string(&t, line, strlen(line));
	text_printf(&t, "]}");
	reply(r, 200, &t);
}

void reply_job(struct request *r, const char *id, unsigned wait_s)
{
	struct http *h = r->m->http;
	bool running = job_running(r->m, id) != NULL;
	struct text t = { 0 };

	if (!r->location && asprintf(&r->location, "/v1/jobs/%s", id) < 0)
		r->location = NULL;
	if (running && wait_s) {
		snprintf(r->wait_job, sizeof(r->wait_job), "%s", id);
		r->wait_until_ns = clock_now_ns() + wait_s * SECOND_NS;
		r->next = h->waiting;
		h->waiting = r;
		loop_timer_arm(h->sweep_timer, clock_now_ns() + SECOND_NS / 4);
		return;
	}
	job_load_text(r->m, id, &t);
	reply(r, running && strcmp(r->method, "GET") ? 202 : 200, &t);
}

static void leave_list(struct request **list, const struct request *r)
{
	for (; *list; list = &(*list)->next)
		if (*list == r) {
			*list = r->next;
			return;
		}
}

/* With the job as it is; NULL: as it was when it ended */
static void end_wait(struct http *h, struct request *r, const struct text *ended)
{
	struct text t = { 0 };

	leave_list(&h->waiting, r);
	if (ended)
		text_add(&t, ended->data, ended->len);
	else
		job_load_text(r->m, r->wait_job, &t);
	*r->wait_job = '\0';
	reply(r, !ended && strcmp(r->method, "GET") ? 202 : 200, &t);
}

void http_job_ended(struct http *h, const char *id, const struct text *text)
{
	struct request *r, *next;

	for (r = h ? h->waiting : NULL; r; r = next) {
		next = r->next;
		if (!strcmp(r->wait_job, id))
			end_wait(h, r, text);
	}
}

int64_t request_number(const struct request *r, const char *name, int64_t def)
{
	const json_t *v = json_object_get(r->query, name);

	return json_is_integer(v) ? json_integer_value(v) : def;
}

const char *request_text(const struct request *r, const char *name)
{
	return json_string_value(json_object_get(r->query, name));
}

/* ---- streams ---- */

static bool add_event(void *arg, int64_t number, const char *text)
{
	static const char key[] = "\"type\":\"";
	struct request *r = arg;
	const char *type = strstr(text, key);
	size_t len = type ? strcspn(type + sizeof(key) - 1, "\"") : 0;

	r->stream_after = number;
	text_printf(&r->stream, "id: %lld\nevent: %.*s\ndata: %s\n\n", (long long)number, (int)len,
		    type ? type + sizeof(key) - 1 : "", text);
	return true;
}

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct request *r = cls;
	size_t len;

	if (r->stream_sent == r->stream.len) {
		r->stream.len = r->stream_sent = 0;
		if (store_commit(r->m->store) < 0 || r->m->ending)
			return MHD_CONTENT_READER_END_OF_STREAM;
		event_read(r->m, r->stream_after, STREAM_EVENTS,
			   *r->stream_instance ? r->stream_instance : NULL, add_event, r);
	}
	len = min_u64(r->stream.len - r->stream_sent, max);
	if (r->stream.failed)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (!len) {
		r->stream_waits = r->suspended = true;
		MHD_suspend_connection(r->connection);
		return 0;
	}
	memcpy(buf, r->stream.data + r->stream_sent, len);
	r->stream_sent += len;
	return (ssize_t)len;
}

void reply_stream(struct request *r, int64_t after, const char *instance)
{
	int64_t first = r->m->last_event - EVENTS_KEPT;

	r->is_stream = true;
	r->stream_after = after;
	if (instance)
		snprintf(r->stream_instance, sizeof(r->stream_instance), "%s", instance);
	if (after < first) {
		text_printf(&r->stream, "event: events.lost\ndata: {\"lost\":%lld}\n\n",
			    (long long)(first - after));
		r->stream_after = first;
	} else {
		text_printf(&r->stream, ": events\n\n"); /* so that the head is sent at once */
	}
	r->status = 200;
	r->next = r->m->http->streams;
	r->m->http->streams = r;
}

static void wake(struct request *r)
{
	if (r->stream_waits) {
		r->stream_waits = false;
		resume(r);
	}
}

void http_wake_streams(struct http *h)
{
	for (struct request *r = h ? h->streams : NULL; r; r = r->next)
		wake(r);
}

static void heartbeat(struct http *h)
{
	for (struct request *r = h->streams; r; r = r->next)
		if (r->stream_waits) {
			text_printf(&r->stream, ": \n\n");
			wake(r);
		}
}

/* ---- requests ---- */

static enum MHD_Result queue(struct request *r)
{
	struct MHD_Response *response;
	enum MHD_Result ret;
	char number[32];

	if (r->is_stream) {
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK,
							     stream_read, r, NULL);
		r->type = "text/event-stream";
	} else {
		response = MHD_create_response_from_buffer(r->answer.len, r->answer.data,
							   MHD_RESPMEM_MUST_FREE);
		if (response)
			r->answer = (struct text) { 0 };
	}
	if (!response)
		return MHD_NO;
	if (r->type && r->status != 204)
		MHD_add_response_header(response, "Content-Type", r->type);
	MHD_add_response_header(response, "Cache-Control", "no-store");
	if (r->location)
		MHD_add_response_header(response, "Location", r->location);
	if (r->replayed)
		MHD_add_response_header(response, "Idempotent-Replay", "true");
	if (r->has_offset) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)r->next_offset);
		MHD_add_response_header(response, "Eyot-Next-Offset", number);
	}
	ret = MHD_queue_response(r->connection, (unsigned)r->status, response);
	MHD_destroy_response(response);
	return ret;
}

static struct client *client_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

static enum MHD_Result take_argument(void *cls, enum MHD_ValueKind kind, const char *key,
				     const char *value)
{
	struct request *r = cls;
	json_t *text = json_string(value ? value : "");

	/* NULL: no UTF-8; an empty name is known by no route, and refused as such */
	if (!text || json_object_set_new(r->query, key, text) < 0)
		json_object_set_new(r->query, "", json_null());
	return MHD_YES;
}

static struct request *request_new(struct http *h, struct MHD_Connection *connection,
				   const char *url, const char *method)
{
	struct request *r = calloc(1, sizeof(*r));
	struct client *c = client_of(connection);
	const char *key =
	    MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Idempotency-Key");

	if (!r)
		return NULL;
	r->m = h->m;
	r->connection = connection;
	r->method = strdup(method);
	r->path = strdup(url);
	r->key = key ? strdup(key) : NULL;
	r->query = json_object();
	r->uid = c ? c->uid : -1;
	r->pid = c ? c->pid : -1;
	if (!r->method || !r->path || !r->query) {
		free(r->method);
		free(r->path);
		json_decref(r->query);
		free(r);
		return NULL;
	}
	MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, take_argument, r);
	return r;
}

static void take_body(struct request *r, const char *data, size_t len)
{
	if (r->body.len + len > HTTP_BODY_MAX)
		r->too_large = true;
	else
		text_add(&r->body, data, len);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_size, void **con_cls)
{
	struct http *h = cls;
	struct request *r = *con_cls;

	if (!r) {
		*con_cls = r = request_new(h, connection, url, method);
		if (r)
			api_begin(r);
		return r ? MHD_YES : MHD_NO;
	}
	if (*upload_size) {
		take_body(r, upload, *upload_size);
		*upload_size = 0;
		return MHD_YES;
	}
	if (!r->begun) {
		struct client *c = client_of(connection);

		if (c)
			c->deadline_ns = 0;
		r->begun = true;
		if (!r->status)
			api_run(r);
		if (!r->status) {
			r->suspended = true;
			MHD_suspend_connection(connection);
			return MHD_YES;
		}
	}
	return r->status ? queue(r) : MHD_YES;
}

static void request_ended(void *cls, struct MHD_Connection *connection, void **con_cls,
			  enum MHD_RequestTerminationCode code)
{
	struct http *h = cls;
	struct request *r = *con_cls;
	struct client *c = client_of(connection);

	if (c)
		c->deadline_ns = clock_now_ns() + REQUEST_TIME_NS;
	if (!r)
		return;
	if (*r->wait_job)
		leave_list(&h->waiting, r);
	if (r->is_stream)
		leave_list(&h->streams, r);
	text_done(&r->body);
	text_done(&r->answer);
	text_done(&r->stream);
	json_decref(r->query);
	json_decref(r->json);
	free(r->method);
	free(r->path);
	free(r->arg);
	free(r->key);
	free(r->location);
	free(r);
	*con_cls = NULL;
}

/* ---- connections ---- */

static void run(struct http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	MHD_run(h->daemon);
	if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
		loop_timer_arm(h->timer, clock_now_ns() + 1 + ms * 1000000);
	else
		loop_timer_arm(h->timer, 0);
}

static void on_epoll(void *arg, uint32_t events)
{
	run(arg);
}

static void on_timer(void *arg)
{
	run(arg);
}

/* Once a second while there is somebody: limits of time, heartbeats */
static void on_sweep(void *arg)
{
	struct http *h = arg;
	uint64_t now = clock_now_ns();
	struct request *r, *next;

	for (struct client *c = h->clients; c; c = c->next)
		if (c->deadline_ns && now > c->deadline_ns) {
			c->deadline_ns = 0;
			shutdown(c->fd, SHUT_RDWR);
		}
	for (r = h->waiting; r; r = next) {
		next = r->next;
		if (now >= r->wait_until_ns)
			end_wait(h, r, NULL);
	}
	if (now > h->heartbeat_ns + HEARTBEAT_NS) {
		h->heartbeat_ns = now;
		heartbeat(h);
	}
	if (h->clients)
		loop_timer_arm(h->sweep_timer, now + SECOND_NS / 4);
}

static void notify_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
			      enum MHD_ConnectionNotificationCode code)
{
	struct http *h = cls;
	struct client *c;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)
			     ->connect_fd;
		struct ucred who;
		socklen_t len = sizeof(who);

		c = calloc(1, sizeof(*c));
		if (!c || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0) {
			free(c);
			return; /* requests of nobody are refused */
		}
		*c = (struct client) { .next = h->clients,
				       .fd = fd,
				       .uid = who.uid,
				       .pid = who.pid,
				       .deadline_ns = clock_now_ns() + REQUEST_TIME_NS };
		h->clients = c;
		*socket_context = c;
		return;
	}
	c = *socket_context;
	for (struct client **at = &h->clients; c && *at; at = &(*at)->next)
		if (*at == c) {
			*at = c->next;
			break;
		}
	free(c);
	*socket_context = NULL;
}

static bool has_room(struct http *h, int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);
	unsigned all = 0, same = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return false;
	for (struct client *c = h->clients; c; c = c->next) {
		all++;
		same += c->uid == who.uid;
	}
	return all < HTTP_CONNECTIONS_MAX && same < HTTP_USER_CONNECTIONS_MAX;
}

static void on_connection(void *arg, uint32_t events)
{
	static const char full[] =
	    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
	    "Connection: close\r\nContent-Length: 93\r\n\r\n"
	    "{\"title\":\"Service "
	    "Unavailable\",\"status\":503,\"code\":\"unavailable\",\"detail\":\"too "
	    "many clients\"}";
	struct http *h = arg;
	int fd;

	while ((fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		struct sockaddr_un addr = { .sun_family = AF_UNIX };

		if (!has_room(h, fd)) {
			send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
			close(fd);
			continue;
		}
		/* on failure it has closed the socket */
		MHD_add_connection(h->daemon, fd, (struct sockaddr *)&addr, sizeof(sa_family_t));
	}
	if (errno == EMFILE || errno == ENFILE)
		log_warn("connections: %s", strerror(errno));
	loop_timer_arm(h->sweep_timer, clock_now_ns() + SECOND_NS / 4);
	run(h);
}

int http_new(struct manager *m, struct http **ret, struct err *err)
{
	struct http *h = calloc(1, sizeof(*h));
	const union MHD_DaemonInfo *info;
	int r;

	if (!h)
		return err_set(err, ENOMEM, "out of memory");
	h->m = m;
	h->listen_fd = r = unix_listen(m->paths.socket, 128, err);
	if (r < 0)
		goto fail;
	if (m->system && chmod(m->paths.socket, 0666) < 0) {
		r = err_set(err, errno, "'%s': %s", m->paths.socket, strerror(errno));
		goto fail;
	}
	h->daemon = MHD_start_daemon(
	    MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0,
	    NULL, NULL, on_request, h, MHD_OPTION_NOTIFY_COMPLETED, request_ended, h,
	    MHD_OPTION_NOTIFY_CONNECTION, notify_connection, h, MHD_OPTION_CONNECTION_LIMIT,
	    HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, SILENT_TIMEOUT_S,
	    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
	info = h->daemon ? MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info) {
		r = err_set(err, EIO, "HTTP: the library cannot be started");
		goto fail;
	}
	r = loop_timer_add(m->loop, on_timer, h, &h->timer);
	if (r == 0)
		r = loop_timer_add(m->loop, on_sweep, h, &h->sweep_timer);
	if (r == 0)
		r = loop_fd_add(m->loop, info->epoll_fd, EPOLLIN, on_epoll, h, &h->epoll_source);
	if (r == 0)
		r = loop_fd_add(m->loop, h->listen_fd, EPOLLIN, on_connection, h,
				&h->listen_source);
	if (r < 0) {
		err_set(err, -r, "HTTP: %s", strerror(-r));
		goto fail;
	}
	*ret = h;
	return 0;
fail:
	http_free(h);
	return r;
}

void http_free(struct http *h)
{
	struct request *r;

	if (!h)
		return;
	/* none may be suspended when the library ends */
	for (r = h->streams; r; r = r->next)
		wake(r);
	while (h->waiting)
		end_wait(h, h->waiting, NULL);
	loop_fd_del(h->epoll_source);
	loop_fd_del(h->listen_source);
	if (h->daemon) {
		MHD_run(h->daemon);
		MHD_stop_daemon(h->daemon);
	}
	loop_timer_del(h->timer);
	loop_timer_del(h->sweep_timer);
	if (h->listen_fd >= 0) {
		close(h->listen_fd);
		unlink(h->m->paths.socket);
	}
	free(h);
}
