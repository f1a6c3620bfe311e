/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request at a time over a blocking socket. The buffer grows with what the
 * monitor sends, up to a bound: a monitor is of the same user, but may be any
 * program that listens at the path.
 */
#include "control/client.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "base/sock.h"
#include "base/util.h"
#include "control/message.h"

#define IN_MAX MIB(16)
#define FDS_MAX 4

struct control_client {
	int fd;
	char *in;
	size_t in_len, in_cap;
	json_t *greeting;
	char code[64];
	json_int_t last_id;
};

static int read_more(struct control_client *c, struct err *err)
{
	ssize_t n;

	if (c->in_len == c->in_cap) {
		size_t cap = c->in_cap ? 2 * c->in_cap : KIB(16);
		char *p = cap <= IN_MAX ? realloc(c->in, cap) : NULL;

		if (!p)
			return err_set(err, EPROTO, "a line that is longer than 16 MiB");
		c->in = p;
		c->in_cap = cap;
	}
	do
		n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != ECONNRESET)
		return err_set(err, errno, "%s", strerror(errno));
	if (n <= 0)
		return err_set(err, ENODATA, "the monitor has closed the connection");
	c->in_len += (size_t)n;
	return 0;
}

int control_next(struct control_client *c, json_t **ret_object, struct err *err)
{
	json_error_t je;
	json_t *object;
	char *end;

	while (!(end = c->in_len ? memchr(c->in, '\n', c->in_len) : NULL)) {
		int ret = read_more(c, err);

		if (ret < 0)
			return ret;
	}
	object = json_loadb(c->in, (size_t)(end - c->in), 0, &je);
	c->in_len -= (size_t)(end + 1 - c->in);
	memmove(c->in, end + 1, c->in_len);
	if (!json_is_object(object)) {
		json_decref(object);
		return err_set(err, EPROTO, "does not speak the control protocol");
	}
	*ret_object = object;
	return 0;
}

static int take_greeting(struct control_client *c, struct err *err)
{
	json_t *line, *hello, *error, *protocol;
	int ret = control_next(c, &line, err);

	if (ret < 0)
		return ret;
	hello = json_object_get(line, "eyot");
	error = json_object_get(json_object_get(line, "error"), "message");
	protocol = json_object_get(hello, "protocol");
	if (json_is_string(error))
		ret = err_set(err, EBUSY, "%s", json_string_value(error));
	else if (!json_is_integer(protocol))
		ret = err_set(err, EPROTO, "does not speak the control protocol");
	else if (json_integer_value(protocol) != CONTROL_PROTOCOL)
		ret = err_set(err, EPROTO, "speaks version %lld of the control protocol, not %d",
			      (long long)json_integer_value(protocol), CONTROL_PROTOCOL);
	else
		c->greeting = json_incref(hello);
	json_decref(line);
	return ret;
}

int control_connect(const char *path, struct control_client **ret_client, struct err *err)
{
	struct control_client *c = calloc(1, sizeof(*c));
	struct sockaddr_un addr;
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	c->fd = -1;
	ret = unix_address(path, &addr, err);
	if (ret == 0) {
		c->fd = ret = unix_connect(&addr);
		if (c->fd < 0)
			err_set(err, -ret, "'%s': %s%s", path, strerror(-ret),
				ret == -ECONNREFUSED ? ": no monitor listens there" : "");
		else if (fcntl(c->fd, F_SETFL, 0) < 0)
			ret = err_set(err, errno, "'%s': %s", path, strerror(errno));
		else
			ret = take_greeting(c, err);
		if (ret == -EBUSY || ret == -EPROTO || ret == -ENODATA)
			err_prefix(err, ret, "'%s'", path);
	}
	if (ret < 0)
		control_disconnect(c);
	else
		*ret_client = c;
	return ret;
}

void control_disconnect(struct control_client *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	json_decref(c->greeting);
	free(c->in);
	free(c);
}

const json_t *control_greeting(const struct control_client *c)
{
	return c->greeting;
}

/* The descriptors go with the first byte. */
static int send_all(struct control_client *c, const char *text, size_t len, const int *fds,
		    unsigned fd_count, struct err *err)
{
	union {
		char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	size_t done = 0;

	if (fd_count > FDS_MAX)
		return err_set(err, EINVAL, "more than %d descriptors", FDS_MAX);
	while (done < len) {
		struct iovec iov = { (char *)text + done, len - done };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (fd_count && !done) {
			struct cmsghdr *cm = &control.align;

			cm->cmsg_level = SOL_SOCKET;
			cm->cmsg_type = SCM_RIGHTS;
			cm->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
			memcpy(CMSG_DATA(cm), fds, fd_count * sizeof(int));
			msg.msg_control = control.buf;
			msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		}
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return err_set(err, errno, "%s", strerror(errno));
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

/* Of @line, the answer to the last request. */
static int take_answer(struct control_client *c, json_t *line, json_t **ret_result,
		       const char **ret_code, struct err *err)
{
	json_t *error = json_object_get(line, "error"), *result = json_object_get(line, "result");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *text = json_string_value(json_object_get(error, "message"));

	if (json_is_object(result)) {
		*ret_result = json_incref(result);
		return 0;
	}
	if (!code || !text)
		return err_set(err, EPROTO, "does not speak the control protocol");
	strncpy(c->code, code, sizeof(c->code) - 1);
	*ret_code = c->code;
	return err_set(err, EREMOTEIO, "%s", text);
}

int control_call(struct control_client *c, const char *command, json_t *args, const int *fds,
		 unsigned fd_count, json_t **ret_result, const char **ret_code, struct err *err)
{
	json_t *request = json_pack("{s:I, s:s, s:o}", "id", ++c->last_id, "command", command,
				    "arguments", args ? args : json_object());
	_cleanup_free_ char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	size_t len;
	int ret;

	json_decref(request);
	if (!text)
		return err_set(err, ENOMEM, "out of memory");
	len = strlen(text);
	text[len] = '\n'; /* in the place of its end */
	ret = send_all(c, text, len + 1, fds, fd_count, err);
	while (ret == 0) {
		json_t *line, *id;

		ret = control_next(c, &line, err);
		if (ret < 0)
			break;
		id = json_object_get(line, "id");
		if (!id || (json_is_integer(id) && json_integer_value(id) != c->last_id)) {
			json_decref(line);
			continue;
		}
		ret = take_answer(c, line, ret_result, ret_code, err);
		json_decref(line);
		break;
	}
	return ret;
}

int control_take_socket(struct control_client *c, char **ret_bytes, size_t *ret_len)
{
	int fd = c->fd;

	*ret_bytes = c->in;
	*ret_len = c->in_len;
	c->in = NULL;
	c->fd = -1;
	control_disconnect(c);
	return fd;
}
