/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output is written as it comes, without blocking. A pseudo-terminal or socket
 * whose reader sleeps holds the guest up for a second at most, then its output
 * is dropped until the reader moves on; standard output has no such limit, for
 * what a script reads must be whole.
 *
 * Input is held back while the guest has no room, but for a terminal: there it
 * is always read, so that the key to leave works with a guest that hangs.
 *
 * Watchers (console_watch()) get what is kept of the output, from a ring: each has
 * a place in it, and one that falls behind by more than the ring goes on with
 * the oldest byte there is. So they cost neither the guest nor us anything.
 *
 * The terminal's settings are in a global, because they must be restored from
 * a handler of fatal signals and at exit, too.
 */
#include "monitor/console.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <termios.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"

#define KEY_LEAVE 0x1d	/* Ctrl-] */
#define KEY_PREFIX 0x01 /* Ctrl-A */
#define WRITE_CHUNK 512 /* what a ready terminal or pipe takes without blocking */
#define STALL_NS 1000000000ull

struct watcher {
	struct console *con;
	int fd; /* -1: none */
	struct loop_fd *source;
	uint32_t watched;
	uint64_t pos; /* bytes of output that it has, or has missed */
};

struct console {
	struct loop *loop;
	enum console_kind kind;
	int in_fd, out_fd, listen_fd, slave_fd; /* -1: none */
	struct loop_fd *in_source, *listen_source;
	bool in_is_tty, in_plain; /* in_plain: a file, always readable, unknown to epoll */
	bool out_dead;
	struct console_keys keys;
	uint64_t stalled_ns; /* since when output is not taken; 0: it flows */
	char *unlink_path;
	const struct console_port *port;
	uint8_t held[4096]; /* input that the guest has not taken yet */
	size_t held_len;
	uint8_t ring[CONSOLE_KEPT]; /* the latest output */
	uint64_t ring_head;	    /* bytes ever put */
	struct watcher watchers[CONSOLE_WATCHERS_MAX];
	void (*leave)(void *arg);
	void *arg;
};

static struct termios saved_termios;
static atomic_bool terminal_is_raw;
static bool (*foreground_fn)(void *arg); /* NULL: looked up here */
static void *foreground_arg;

void console_ask_foreground(bool (*fn)(void *arg), void *arg)
{
	foreground_fn = fn;
	foreground_arg = arg;
}

static bool in_foreground(void)
{
	return foreground_fn ? foreground_fn(foreground_arg) : tcgetpgrp(STDIN_FILENO) == getpgrp();
}

void console_restore_terminal(void)
{
	/* Not from the background: the call would stop us there. */
	if (atomic_exchange(&terminal_is_raw, false))
		/* sandbox: loop: ioctl(*, TCSETS) */
		tcsetattr(STDIN_FILENO, TCSANOW, &saved_termios);
}

void console_raw_terminal(void)
{
	struct termios t;

	if (!in_foreground())
		return; /* in the background: the shell owns the terminal */
	/* sandbox: loop: ioctl(*, TCGETS) */
	if (!atomic_load(&terminal_is_raw) && tcgetattr(STDIN_FILENO, &saved_termios) < 0)
		return;
	t = saved_termios;
	t.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INLCR | IGNCR | INPCK | ISTRIP | IXON);
	t.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
	t.c_cflag |= CS8;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	atomic_store(&terminal_is_raw, true);
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static void continued(void *arg, int signo)
{
	console_raw_terminal(); /* back in the foreground after a stop */
}

/* ---- input ---- */

static void hold(struct console *con, const uint8_t *bytes, size_t len)
{
	size_t room = sizeof(con->held) - con->held_len;

	if (len > room)
		len = room;
	memcpy(con->held + con->held_len, bytes, len);
	con->held_len += len;
}

int console_key(struct console_keys *keys, uint8_t c, uint8_t *ret)
{
	int count = 0;

	if (c == KEY_LEAVE || (keys->prefix && c == 'x')) {
		keys->prefix = false;
		return -1;
	}
	if (!keys->prefix && c == KEY_PREFIX) {
		keys->prefix = true;
		return 0;
	}
	/* Ctrl-A twice, or Ctrl-A a, is one Ctrl-A; before any other key it was meant for the
	 * guest. */
	if (keys->prefix) {
		keys->prefix = false;
		ret[count++] = KEY_PREFIX;
		if (c == KEY_PREFIX || c == 'a')
			return count;
	}
	ret[count++] = c;
	return count;
}

static void hold_typed(struct console *con, const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t keys[2];
		int count = console_key(&con->keys, bytes[i], keys);

		if (count < 0)
			con->leave(con->arg);
		else
			hold(con, keys, (size_t)count);
	}
}

static void feed_guest(struct console *con)
{
	while (con->held_len && con->port) {
		size_t n = con->port->receive(con->port->dev, con->held, con->held_len);

		if (n == 0)
			break;
		con->held_len -= n;
		memmove(con->held, con->held + n, con->held_len);
	}
}

static void end_input(struct console *con)
{
	loop_fd_del(con->in_source);
	con->in_source = NULL;
	con->in_plain = false;
	if (con->kind == CONSOLE_UNIX && con->in_fd >= 0) {
		/* sandbox: loop vcpu: close */
		close(con->in_fd);
		con->in_fd = con->out_fd = -1;
		con->stalled_ns = 0;
		con->held_len = 0;
	}
}

/* Read once; false when there is nothing more to read now. */
static bool read_input(struct console *con)
{
	uint8_t buf[1024];
	size_t want = sizeof(con->held) - con->held_len;
	ssize_t n;

	if (want > sizeof(buf) || con->in_is_tty)
		want = sizeof(buf);
	if (want == 0)
		return false;
	/* sandbox: loop vcpu: read */
	n = read(con->in_fd, buf, want);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		end_input(con);
		return false;
	}
	if (con->in_is_tty)
		hold_typed(con, buf, (size_t)n);
	else
		hold(con, buf, (size_t)n);
	feed_guest(con);
	return true;
}

/* What a watcher's socket shall tell: room while it is behind, input while the guest takes it. */
static void watch_interest(struct watcher *w)
{
	uint32_t want = 0;

	if (w->fd < 0)
		return;
	if (w->pos != w->con->ring_head)
		want |= EPOLLOUT;
	if (w->con->held_len == 0)
		want |= EPOLLIN;
	if (want != w->watched && loop_fd_modify(w->source, want) == 0)
		w->watched = want;
}

/* Read on only while the guest takes what was read. */
static void pump_input(struct console *con)
{
	feed_guest(con);
	while (con->in_plain && con->held_len == 0 && con->port)
		if (!read_input(con))
			break;
	if (con->in_source && !con->in_is_tty)
		loop_fd_modify(con->in_source, con->held_len ? 0 : EPOLLIN);
	for (unsigned i = 0; i < CONSOLE_WATCHERS_MAX; i++)
		watch_interest(&con->watchers[i]);
}

static void input_event(void *arg, uint32_t events)
{
	struct console *con = arg;

	read_input(con);
	pump_input(con);
}

void console_input_ready(struct console *con)
{
	pump_input(con);
}

void console_attach(struct console *con, const struct console_port *port)
{
	con->port = port;
	pump_input(con);
}

static int watch_input(struct console *con, struct err *err)
{
	int ret = loop_fd_add(con->loop, con->in_fd, EPOLLIN, input_event, con, &con->in_source);

	if (ret == -EPERM) { /* a file or /dev/null: never waits */
		con->in_plain = true;
		return 0;
	}
	return ret < 0 ? err_set(err, -ret, "console: watch its input: %s", strerror(-ret)) : 0;
}

/* ---- output ---- */

static bool drop_stalled(struct console *con)
{
	if (con->kind != CONSOLE_PTY && con->kind != CONSOLE_UNIX)
		return false;
	if (!con->stalled_ns)
		con->stalled_ns = clock_now_ns();
	return clock_now_ns() - con->stalled_ns > STALL_NS;
}

static size_t outer_output(struct console *con, const uint8_t *bytes, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct pollfd p = { .fd = con->out_fd, .events = POLLOUT };
		ssize_t n;

		if (con->out_dead || con->out_fd < 0)
			return len;
		/* sandbox: loop vcpu: poll */
		if (poll(&p, 1, 0) == 0)
			return drop_stalled(con) ? len : done;
		/* sandbox: loop vcpu: write */
		n = write(con->out_fd, bytes + done, min_u64(len - done, WRITE_CHUNK));
		if (n > 0) {
			done += (size_t)n;
			con->stalled_ns = 0;
		} else if (n < 0 && errno == EAGAIN) {
			return drop_stalled(con) ? len : done;
		} else if (n < 0 && errno != EINTR) {
			if (con->kind == CONSOLE_UNIX) {
				end_input(con);
			} else {
				log_warn("console: write: %s; its output is dropped from here on",
					 strerror(errno));
				con->out_dead = true;
			}
			return len;
		}
	}
	return done;
}

/* ---- watchers ---- */

static void end_watch(struct watcher *w)
{
	loop_fd_del(w->source);
	close(w->fd);
	*w = (struct watcher) { .con = w->con, .fd = -1 };
}

static void feed_watcher(struct watcher *w)
{
	const struct console *con = w->con;

	if (con->ring_head - w->pos > CONSOLE_KEPT)
		w->pos = con->ring_head - CONSOLE_KEPT;
	while (w->pos != con->ring_head) {
		size_t at = w->pos % CONSOLE_KEPT;
		size_t len = min_u64(con->ring_head - w->pos, CONSOLE_KEPT - at);
		/* sandbox: loop: sendto */
		ssize_t n = send(w->fd, con->ring + at, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			end_watch(w);
			return;
		}
		if (n < 0)
			break;
		w->pos += (uint64_t)n;
	}
	watch_interest(w);
}

static void watcher_event(void *arg, uint32_t events)
{
	struct watcher *w = arg;
	struct console *con = w->con;
	size_t room = sizeof(con->held) - con->held_len;
	ssize_t n;

	if (events & EPOLLIN && room) {
		/* sandbox: loop: recvfrom */
		n = recv(w->fd, con->held + con->held_len, room, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			end_watch(w);
			return;
		}
		con->held_len += n > 0 ? (size_t)n : 0;
		pump_input(con);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		end_watch(w);
		return;
	}
	if (events & EPOLLOUT)
		feed_watcher(w);
}

static struct watcher *free_watcher(const struct console *con)
{
	for (unsigned i = 0; i < CONSOLE_WATCHERS_MAX; i++)
		if (con->watchers[i].fd < 0)
			return (struct watcher *)&con->watchers[i];
	return NULL;
}

int console_may_watch(const struct console *con, struct err *err)
{
	return free_watcher(con)
		   ? 0
		   : err_set(err, EBUSY, "console: has %d watchers already", CONSOLE_WATCHERS_MAX);
}

int console_watch(struct console *con, int fd, const void *bytes, size_t len, bool history)
{
	struct watcher *w = free_watcher(con);
	int type, ret = -EBUSY;
	socklen_t size = sizeof(type);

	if (w)
		/* sandbox: loop: getsockopt */
		ret = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ? -errno
		      : type != SOCK_STREAM				    ? -EINVAL
									    : 0;
	if (ret == 0)
		ret = loop_fd_add(con->loop, fd, EPOLLIN, watcher_event, w, &w->source);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	w->fd = fd;
	w->watched = EPOLLIN;
	w->pos = history ? 0 : con->ring_head;
	hold(con, bytes, len);
	pump_input(con);
	feed_watcher(w);
	return 0;
}

size_t console_output(struct console *con, const uint8_t *bytes, size_t len)
{
	size_t taken = outer_output(con, bytes, len);

	for (size_t i = 0; i < taken;) {
		size_t at = con->ring_head % CONSOLE_KEPT;
		size_t n = min_u64(taken - i, CONSOLE_KEPT - at);

		memcpy(con->ring + at, bytes + i, n);
		con->ring_head += n;
		i += n;
	}
	/* One that is behind already is told when it has room. */
	for (unsigned i = 0; taken && i < CONSOLE_WATCHERS_MAX; i++)
		if (con->watchers[i].fd >= 0 && !(con->watchers[i].watched & EPOLLOUT))
			feed_watcher(&con->watchers[i]);
	return taken;
}

/* ---- the kinds ---- */

static int open_stdio(struct console *con, struct err *err)
{
	int ret;

	con->in_fd = STDIN_FILENO;
	con->out_fd = STDOUT_FILENO;
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		con->in_fd = -1;
	if (fcntl(STDOUT_FILENO, F_GETFD) < 0)
		con->out_fd = -1;
	if (con->in_fd < 0)
		return 0;
	con->in_is_tty = isatty(STDIN_FILENO);
	if (con->in_is_tty) {
		/* From the background the terminal is neither set nor read. */
		signal(SIGTTOU, SIG_IGN);
		if (!in_foreground())
			return 0;
		console_raw_terminal();
		atexit(console_restore_terminal);
		ret = loop_signal_add(con->loop, SIGCONT, continued, con);
		if (ret < 0)
			return err_set(err, -ret, "console: signals: %s", strerror(-ret));
		fprintf(stderr, "eyot-vmm: Ctrl-] or Ctrl-A x leaves\r\n");
	}
	return watch_input(con, err);
}

static int open_pty(struct console *con, struct err *err)
{
	struct termios t;
	char name[64];

	con->in_fd = con->out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (con->in_fd < 0 || grantpt(con->in_fd) < 0 || unlockpt(con->in_fd) < 0 ||
	    ptsname_r(con->in_fd, name, sizeof(name)) != 0)
		return err_set(err, errno, "console 'pty': %s", strerror(errno));
	/* Held open, so that our end does not see a hang-up while nobody else has it open. */
	con->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (con->slave_fd < 0 || tcgetattr(con->slave_fd, &t) < 0)
		return err_set(err, errno, "console 'pty': %s: %s", name, strerror(errno));
	cfmakeraw(&t);
	tcsetattr(con->slave_fd, TCSANOW, &t);
	fprintf(stderr, "eyot-vmm: console is %s\n", name);
	return watch_input(con, err);
}

static int open_file(struct console *con, const char *path, struct err *err)
{
	con->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
	if (con->out_fd < 0)
		return err_set(err, errno, "console 'file:%s': %s", path, strerror(errno));
	return 0;
}

static void accept_client(void *arg, uint32_t events)
{
	struct console *con = arg;
	/* sandbox: loop: accept4 */
	int fd = accept4(con->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct err err;

	if (fd < 0)
		return;
	if (con->in_fd >= 0) { /* one at a time */
		close(fd);
		return;
	}
	con->in_fd = con->out_fd = fd;
	if (watch_input(con, &err) < 0) {
		log_warn("%s", err.text);
		end_input(con);
	}
}

static int open_unix(struct console *con, const char *path, struct err *err)
{
	int ret = unix_listen(path, 1, err);

	if (ret < 0)
		return err_prefix(err, ret, "console 'unix:'");
	con->listen_fd = ret;
	con->unlink_path = strdup(path);
	ret = loop_fd_add(con->loop, con->listen_fd, EPOLLIN, accept_client, con,
			  &con->listen_source);
	return ret < 0 ? err_set(err, -ret, "console 'unix:%s': %s", path, strerror(-ret)) : 0;
}

int console_open(struct loop *loop, enum console_kind kind, const char *path,
		 void (*leave)(void *arg), void *arg, struct console **ret_console, struct err *err)
{
	struct console *con = calloc(1, sizeof(*con));
	int ret = -EINVAL;

	if (!con)
		return err_set(err, ENOMEM, "console: out of memory");
	con->loop = loop;
	con->kind = kind;
	con->in_fd = con->out_fd = con->listen_fd = con->slave_fd = -1;
	for (unsigned i = 0; i < CONSOLE_WATCHERS_MAX; i++)
		con->watchers[i] = (struct watcher) { .con = con, .fd = -1 };
	con->leave = leave;
	con->arg = arg;
	switch (kind) {
	case CONSOLE_STDIO:
		ret = open_stdio(con, err);
		break;
	case CONSOLE_PTY:
		ret = open_pty(con, err);
		break;
	case CONSOLE_FILE:
		ret = open_file(con, path, err);
		break;
	case CONSOLE_UNIX:
		ret = open_unix(con, path, err);
		break;
	}
	if (ret < 0) {
		console_close(con);
		return ret;
	}
	*ret_console = con;
	return 0;
}

char *console_release_socket(struct console *con)
{
	char *path = con->unlink_path;

	con->unlink_path = NULL;
	return path;
}

void console_close(struct console *con)
{
	if (!con)
		return;
	console_restore_terminal();
	for (unsigned i = 0; i < CONSOLE_WATCHERS_MAX; i++)
		if (con->watchers[i].fd >= 0)
			end_watch(&con->watchers[i]);
	loop_fd_del(con->in_source);
	loop_fd_del(con->listen_source);
	if (con->kind != CONSOLE_STDIO) {
		if (con->in_fd >= 0)
			close(con->in_fd);
		if (con->out_fd >= 0 && con->out_fd != con->in_fd)
			close(con->out_fd);
	}
	if (con->slave_fd >= 0)
		close(con->slave_fd);
	if (con->listen_fd >= 0)
		close(con->listen_fd);
	if (con->unlink_path)
		unlink(con->unlink_path);
	free(con->unlink_path);
	free(con);
}
