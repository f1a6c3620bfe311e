/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine is only as trusted as its guest's escape from it is unlikely: lines are bounded, and
 * what does not look like the protocol ends the connection. Requests are short, so that the socket
 * takes each whole; one that it does not take ends the connection too.
 */
#include "manager/link.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/sock.h"
#include "base/util.h"
#include "manager/text.h"

#define LINE_LIMIT MIB(1)
#define CALLS_MAX 16 /* what a machine takes of one client */

struct link {
	int fd;
	struct loop_fd *source;
	const struct link_ops *ops;
	void *arg;
	bool greeted, lost;
	bool busy;   /* on_socket() is at it, and frees it then */
	bool closed; /* by its owner */
	struct text in;
	json_int_t last_id;
	struct {
		json_int_t id; /* 0: free */
		void (*fn)(void *arg, const json_t *result, const char *error);
		void *arg;
	} calls[CALLS_MAX];
};

static void lose(struct link *l, const char *why)
{
	if (l->lost)
		return;
	l->lost = true;
	loop_fd_del(l->source);
	l->source = NULL;
	l->ops->lost(l->arg, why);
}

static void take_answer(struct link *l, const json_t *line)
{
	json_int_t id = json_integer_value(json_object_get(line, "id"));
	const json_t *result = json_object_get(line, "result");
	const char *text =
	    json_string_value(json_object_get(json_object_get(line, "error"), "message"));

	for (unsigned i = 0; id > 0 && i < CALLS_MAX; i++) {
		if (l->calls[i].id != id)
			continue;
		l->calls[i].id = 0;
		if (l->calls[i].fn)
			l->calls[i].fn(l->calls[i].arg, json_is_object(result) ? result : NULL,
				       text ? text : "an answer without a text");
		return;
	}
}

static void take_line(struct link *l, const char *bytes, size_t len)
{
	json_t *line = json_loadb(bytes, len, 0, NULL);
	const json_t *hello = json_object_get(line, "eyot");
	const char *event = json_string_value(json_object_get(line, "event"));

	if (!l->greeted) {
		if (json_integer_value(json_object_get(hello, "protocol")) != 1) {
			lose(l, "speaks another protocol");
		} else {
			l->greeted = true;
			l->ops->greeted(l->arg, hello);
		}
	} else if (event) {
		l->ops->event(l->arg, event, json_object_get(line, "data"));
	} else if (json_object_get(line, "id")) {
		take_answer(l, line);
	} else {
		lose(l, "speaks another protocol");
	}
	json_decref(line);
}

static void take_lines(struct link *l)
{
	size_t done = 0;
	char *end;

	while (!l->lost && done < l->in.len &&
	       (end = memchr(l->in.data + done, '\n', l->in.len - done))) {
		size_t len = (size_t)(end - (l->in.data + done));
		char *line = l->in.data + done;

		done += len + 1;
		take_line(l, line, len);
	}
	memmove(l->in.data, l->in.data + done, l->in.len - done);
	l->in.len -= done;
	if (l->in.len > LINE_LIMIT)
		lose(l, "sends a line without end");
}

static void free_link(struct link *l)
{
	text_done(&l->in);
	free(l);
}

static void on_socket(void *arg, uint32_t events)
{
	struct link *l = arg;
	char buf[16384];
	ssize_t n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		lose(l, "has closed the connection");
		return;
	}
	text_add(&l->in, buf, (size_t)n);
	l->busy = true;
	take_lines(l);
	l->busy = false;
	if (l->closed)
		free_link(l);
}

int link_open(struct loop *loop, const char *path, const struct link_ops *ops, void *arg,
	      struct link **ret, struct err *err)
{
	struct link *l = calloc(1, sizeof(*l));
	struct sockaddr_un addr;
	int r;

	if (!l)
		return err_set(err, ENOMEM, "out of memory");
	*l = (struct link) { .fd = -1, .ops = ops, .arg = arg };
	r = unix_address(path, &addr, err);
	if (r == 0) {
		l->fd = r = unix_connect(&addr);
		if (r < 0)
			err_set(err, -r, "control socket '%s': %s", path, strerror(-r));
		else
			r = loop_fd_add(loop, l->fd, EPOLLIN, on_socket, l, &l->source);
	}
	if (r < 0) {
		link_close(l);
		return r;
	}
	*ret = l;
	return 0;
}

void link_close(struct link *l)
{
	if (!l)
		return;
	loop_fd_del(l->source);
	if (l->fd >= 0)
		close(l->fd);
	l->source = NULL;
	l->fd = -1;
	l->lost = l->closed = true;
	if (!l->busy)
		free_link(l);
}

int link_call(struct link *l, const char *command, json_t *args,
	      void (*fn)(void *arg, const json_t *result, const char *error), void *arg)
{
	json_t *request;
	char *text;
	size_t len;
	unsigned i;
	ssize_t n = -1;

	for (i = 0; l && i < CALLS_MAX && l->calls[i].id; i++)
		;
	if (!l || i == CALLS_MAX || l->lost) {
		json_decref(args);
		return !l || l->lost ? -EPIPE : -EAGAIN;
	}
	request = json_pack("{s:I, s:s, s:o}", "id", ++l->last_id, "command", command, "arguments",
			    args ? args : json_object());
	text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!text)
		return -ENOMEM;
	len = strlen(text);
	text[len++] = '\n';
	n = send(l->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	free(text);
	if (n != (ssize_t)len)
		return -EPIPE;
	l->calls[i].id = l->last_id;
	l->calls[i].fn = fn;
	l->calls[i].arg = arg;
	return 0;
}
