/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 1. No more than AGENT_CREDIT bytes of input are on their way that the guest has not taken, so a
 * send never waits for a command that reads nothing; and whatever the command writes is always
 * taken here.
 * 2. What the guest sends is checked: a frame that is too long or that makes no sense ends the
 * connection.
 * 3. The terminal is put back by console_restore_terminal(), which is called at exit as well.
 */
#include "cli/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/sock.h"
#include "base/util.h"
#include "loop/loop.h"
#include "monitor/console.h"

#define FRAME_MAX 65536u
#define FRAME_HEAD 5
#define AGENT_CREDIT 65536u
#define AGENT_VERSION 1
#define FLAG_TERMINAL 1
#define FLAG_LOGIN 2
#define ANSWER_MS 2000 /* to CONNECT; then it is asked anew */

struct session {
	int fd, in, out, err;
	bool terminal;
	uint32_t credit;
	uint8_t frame[FRAME_HEAD + FRAME_MAX];
	size_t len;
};

/* ---- the connection ---- */

static int send_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* "OK number\n", a byte at a time: what follows is the agent's. 0; -EAGAIN: nobody listens yet */
static int read_ok(int fd)
{
	char line[40];
	size_t len = 0;

	while (len < sizeof(line) - 1) {
		struct pollfd p[2] = { { .fd = fd, .events = POLLIN },
				       { .fd = signals_fd(), .events = POLLIN } };
		int n = poll(p, 2, ANSWER_MS);

		if (cli_interrupted())
			return -EINTR;
		if (n <= 0 || recv(fd, line + len, 1, 0) <= 0)
			return -EAGAIN;
		if (line[len++] == '\n')
			return len > 3 && !memcmp(line, "OK ", 3) ? 0 : -EPROTO;
	}
	return -EPROTO;
}

static int try_connect(const char *path, int port, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr;
	char line[32];
	int ret = unix_address(path, &addr, err), fd;

	if (ret < 0)
		return ret;
	fd = unix_connect(&addr);
	if (fd < 0)
		return -EAGAIN; /* it has just ended, or has not begun */
	fcntl(fd, F_SETFL, 0);
	snprintf(line, sizeof(line), "CONNECT %d\n", port);
	ret = send_all(fd, line, strlen(line));
	if (ret == 0)
		ret = read_ok(fd);
	if (ret < 0) {
		close(fd);
		return ret == -EPROTO || ret == -EINTR ? ret : -EAGAIN;
	}
	*ret_fd = fd;
	return 0;
}

/* An image without an agent would be waited for in vain. */
static int check_agent(struct cli *cli, const char *name, struct err *err)
{
	json_t *instance, *image;
	struct url u;
	int ret = instance_get(cli, name, &instance, err);

	if (ret < 0)
		return ret;
	url_init(&u, "/v1/images");
	url_add(&u, json_text(instance, "image.id"));
	ret = api_get(cli, &u, &image, err);
	if (ret == 0 && !json_is_true(json_object_get(image, "agent")))
		ret = err_set(
		    err, EREMOTEIO,
		    "instance '%s': its image '%s' has no agent, which exec, shell and cp need",
		    name, json_text(instance, "image.name"));
	if (ret == 0)
		json_decref(image);
	json_decref(instance);
	return ret;
}

int agent_connect(struct cli *cli, const char *instance, unsigned wait_s, int *ret_fd,
		  struct err *err)
{
	uint64_t end = clock_now_ns() + wait_s * 1000000000ull;
	unsigned tries = 0, pause_ms = 20;
	struct url u;
	int ret = 0;

	url_instance(cli, &u, instance, "/endpoints");
	while (ret == 0) {
		json_t *endpoints;

		ret = api_get(cli, &u, &endpoints, err);
		if (ret < 0)
			break;
		ret = try_connect(json_text(endpoints, "vsock"),
				  (int)json_integer_value(json_object_get(endpoints, "agent_port")),
				  ret_fd, err);
		json_decref(endpoints);
		if (ret != -EAGAIN)
			break;
		ret = tries++ ? 0 : check_agent(cli, instance, err);
		if (ret == 0 && clock_now_ns() >= end)
			ret = err_set(err, ETIMEDOUT, "instance '%s': its agent does not answer",
				      instance);
		if (ret == 0) {
			progress_show(cli, instance, -1, "waiting for the guest");
			ret = cli_sleep_ms(pause_ms);
			pause_ms = pause_ms < 200 ? pause_ms * 2 : 200;
		}
	}
	progress_clear();
	if (ret == -EPROTO)
		err_set(err, EPROTO, "instance '%s': its socket answers strangely", instance);
	if (ret == -EINTR)
		err_set(err, EINTR, "interrupted");
	return ret;
}

/* ---- the request ---- */

struct packet {
	uint8_t data[FRAME_MAX];
	size_t len;
	bool full;
};

static void put_bytes(struct packet *p, const void *bytes, size_t len)
{
	if (p->full || p->len + len > sizeof(p->data)) {
		p->full = true;
		return;
	}
	memcpy(p->data + p->len, bytes, len);
	p->len += len;
}

static void put_number(struct packet *p, size_t v)
{
	uint8_t le[2];

	put_le16(le, (uint16_t)v);
	put_bytes(p, le, 2);
	if (v > UINT16_MAX)
		p->full = true;
}

static void put_text(struct packet *p, const char *text)
{
	put_bytes(p, text, strlen(text) + 1);
}

static void put_texts(struct packet *p, const char *const *texts)
{
	size_t count = 0;

	while (texts && texts[count])
		count++;
	put_number(p, count);
	for (size_t i = 0; i < count; i++)
		put_text(p, texts[i]);
}

static int send_frame(int fd, char type, const void *data, size_t len)
{
	uint8_t head[FRAME_HEAD] = { (uint8_t)type };
	int ret;

	put_le32(head + 1, (uint32_t)len);
	ret = send_all(fd, head, sizeof(head));
	return ret == 0 ? send_all(fd, data, len) : ret;
}

static void get_size(struct winsize *ws)
{
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, ws) < 0 || !ws->ws_row || !ws->ws_col)
		*ws = (struct winsize) { .ws_row = 24, .ws_col = 80 };
}

static int send_request(int fd, const struct agent_command *cmd, struct err *err)
{
	struct packet *p = calloc(1, sizeof(*p));
	struct winsize ws = { 0 };
	uint8_t head[2] = { AGENT_VERSION, 0 };
	int ret;

	if (!p)
		return err_set(err, ENOMEM, "out of memory");
	head[1] = (uint8_t)((cmd->terminal ? FLAG_TERMINAL : 0) | (cmd->argv ? 0 : FLAG_LOGIN));
	if (cmd->terminal)
		get_size(&ws);
	put_bytes(p, head, 2);
	put_number(p, ws.ws_row);
	put_number(p, ws.ws_col);
	put_text(p, cmd->user ? cmd->user : "");
	put_text(p, cmd->folder ? cmd->folder : "");
	put_texts(p, cmd->env);
	put_texts(p, cmd->argv);
	ret = p->full ? err_set(err, E2BIG, "the command and its variables are too long") : 0;
	if (ret == 0 && send_frame(fd, 'x', p->data, p->len) < 0)
		ret = err_set(err, EIO, "the guest's agent has closed the connection");
	free(p);
	return ret;
}

/* ---- the streams ---- */

static volatile sig_atomic_t pending[NSIG];
static int wake_fds[2] = { -1, -1 };

static void note_signal(int signo)
{
	int saved = errno;

	pending[signo] = 1;
	if (write(wake_fds[1], "", 1) < 0)
		errno = saved; /* full: it is readable */
	errno = saved;
}

static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };

static int watch_signals(const struct agent_command *cmd, struct sigaction *old)
{
	struct sigaction sa = { .sa_handler = note_signal };

	if (wake_fds[0] < 0 && pipe2(wake_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	for (unsigned i = 0; i < ARRAY_SIZE(forwarded); i++)
		sigaction(forwarded[i], cmd->forward ? &sa : NULL, &old[i]);
	if (cmd->terminal)
		sigaction(SIGWINCH, &sa, NULL);
	return 0;
}

static void unwatch_signals(const struct agent_command *cmd, const struct sigaction *old)
{
	for (unsigned i = 0; i < ARRAY_SIZE(forwarded); i++)
		sigaction(forwarded[i], &old[i], NULL);
	if (cmd->terminal)
		signal(SIGWINCH, SIG_DFL);
}

static int send_signals(struct session *s)
{
	char drain[64];
	int ret = 0;

	while (read(wake_fds[0], drain, sizeof(drain)) > 0)
		;
	for (int signo = 1; signo < NSIG && ret == 0; signo++) {
		uint8_t data[4] = { (uint8_t)signo };
		struct winsize ws;

		if (!pending[signo])
			continue;
		pending[signo] = 0;
		if (signo != SIGWINCH) {
			ret = send_frame(s->fd, 'k', data, 1);
			continue;
		}
		get_size(&ws);
		put_le16(data, ws.ws_row);
		put_le16(data + 2, ws.ws_col);
		ret = send_frame(s->fd, 'w', data, 4);
	}
	return ret;
}

/* A terminal that another process of ours has in the background reads as EIO: the end, too. */
static int send_input(struct session *s)
{
	uint8_t buf[16384];
	ssize_t n = read(s->in, buf, min_u64(sizeof(buf), s->credit));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0) {
		s->in = -1;
		n = 0;
	}
	s->credit -= (uint32_t)n;
	return send_frame(s->fd, 'i', buf, (size_t)n);
}

static int write_out(int fd, const uint8_t *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };

			poll(&p, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n > 0) {
			bytes += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* A whole frame. 0; 1: the command has ended, or has not begun (@ret_status, and a text) */
static int take_frame(struct session *s, uint32_t len, int *ret_status, struct err *err)
{
	const uint8_t *data = s->frame + FRAME_HEAD;
	int ret = 0;

	switch (s->frame[0]) {
	case 'S':
		return 0;
	case 'a':
		if (len != 4 || get_le32(data) > AGENT_CREDIT - s->credit)
			break;
		s->credit += get_le32(data);
		return 0;
	case 'o':
	case 'e':
		ret = write_out(s->frame[0] == 'o' ? s->out : s->err, data, len);
		return ret < 0 ? err_set(err, EIO, "output: %s", strerror(-ret)) : 0;
	case 's':
		if (len != 1)
			break;
		*ret_status = data[0];
		return 1;
	case 'E':
		if (len < 2 || (data[0] != 126 && data[0] != 127))
			break;
		*ret_status = data[0];
		snprintf(err->text, sizeof(err->text), "%.*s", (int)min_u64(len - 1, 400),
			 (const char *)data + 1);
		text_clean(err->text);
		return -ENOEXEC;
	}
	return err_set(err, EPROTO, "the guest's agent does not keep to its protocol");
}

static int from_agent(struct session *s, int *ret_status, struct err *err)
{
	uint32_t len = s->len >= FRAME_HEAD ? get_le32(s->frame + 1) : 0;
	ssize_t n = recv(s->fd, s->frame + s->len, FRAME_HEAD + len - s->len, MSG_DONTWAIT);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0)
		return err_set(err, EIO, "the connection to the guest has ended");
	s->len += (size_t)n;
	if (s->len < FRAME_HEAD)
		return 0;
	len = get_le32(s->frame + 1);
	if (len > FRAME_MAX)
		return err_set(err, EPROTO, "the guest's agent does not keep to its protocol");
	if (s->len < FRAME_HEAD + len)
		return 0;
	s->len = 0;
	return take_frame(s, len, ret_status, err);
}

static int serve(struct session *s, const struct agent_command *cmd, int *ret_status,
		 struct err *err)
{
	int ret = 0;

	while (ret == 0) {
		struct pollfd p[3] = {
			{ .fd = s->fd, .events = POLLIN },
			{ .fd = s->credit ? s->in : -1, .events = POLLIN },
			{ .fd = cmd->forward ? wake_fds[0] : signals_fd(), .events = POLLIN },
		};

		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return err_set(err, errno, "poll: %s", strerror(errno));
		if (!cmd->forward && cli_interrupted())
			return err_set(err, EINTR, "interrupted");
		if (p[0].revents)
			ret = from_agent(s, ret_status, err);
		if (ret == 0 && p[2].revents && send_signals(s) < 0)
			s->in = -1; /* it is gone: what it said last is still to be read */
		if (ret == 0 && p[1].revents && s->in >= 0 && send_input(s) < 0)
			s->in = -1;
	}
	return ret < 0 ? ret : 0;
}

int agent_run(int fd, const struct agent_command *cmd, int *ret_status, struct err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	struct sigaction old[ARRAY_SIZE(forwarded)];
	int ret = s ? send_request(fd, cmd, err) : err_set(err, ENOMEM, "out of memory");

	if (ret == 0 && watch_signals(cmd, old) < 0)
		ret = err_set(err, errno, "pipe: %s", strerror(errno));
	if (ret == 0) {
		*s = (struct session) { .fd = fd,
					.in = cmd->in,
					.out = cmd->out,
					.err = cmd->err,
					.terminal = cmd->terminal,
					.credit = AGENT_CREDIT };
		if (cmd->terminal) {
			atexit(console_restore_terminal);
			console_raw_terminal();
		}
		if (cmd->in < 0)
			send_frame(fd, 'i', "", 0);
		ret = serve(s, cmd, ret_status, err);
		console_restore_terminal();
		unwatch_signals(cmd, old);
	}
	close(fd);
	free(s);
	return ret;
}
