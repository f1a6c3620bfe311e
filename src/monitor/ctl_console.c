/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `eyot-vmm ctl SOCKET console`: the terminal, in raw mode, against the
 * connection that has become the guest's console. Standard input that is no
 * terminal is sent as it is; its end means nothing.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/util.h"
#include "monitor/console.h"
#include "monitor/ctl.h"

static int write_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* From standard input to the guest; 1: the key to leave, or its end is reached by @ret_end. */
static int send_typed(int fd, bool is_tty, struct console_keys *keys, bool *ret_end)
{
	uint8_t in[1024], out[2 * sizeof(in)];
	ssize_t n = read(STDIN_FILENO, in, sizeof(in));
	size_t len = 0;

	if (n <= 0) {
		*ret_end = n == 0 || errno != EINTR;
		return 0;
	}
	for (ssize_t i = 0; i < n; i++) {
		int count = 1;

		if (is_tty)
			count = console_key(keys, in[i], out + len);
		else
			out[len] = in[i];
		if (count < 0)
			return 1;
		len += (size_t)count;
	}
	return write_all(fd, out, len);
}

int ctl_console(struct control_client *c)
{
	bool is_tty = isatty(STDIN_FILENO), ended = false;
	struct console_keys keys = { 0 };
	char *early;
	size_t len;
	int fd = control_take_socket(c, &early, &len), ret;

	signal(SIGPIPE, SIG_IGN);
	if (is_tty) {
		signal(SIGTTOU, SIG_IGN);
		console_raw_terminal();
		atexit(console_restore_terminal);
		fprintf(stderr, "%s: Ctrl-] or Ctrl-A x leaves\r\n", program_invocation_short_name);
	}
	ret = write_all(STDOUT_FILENO, early, len);
	free(early);
	while (ret == 0) {
		struct pollfd p[2] = { { .fd = fd, .events = POLLIN },
				       { .fd = ended ? -1 : STDIN_FILENO, .events = POLLIN } };
		char buf[4096];

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			ret = -errno;
		if (ret == 0 && p[1].revents)
			ret = send_typed(fd, is_tty, &keys, &ended);
		if (ret == 0 && p[0].revents) {
			ssize_t n = recv(fd, buf, sizeof(buf), 0);

			if (n == 0 || (n < 0 && errno != EINTR))
				break; /* the machine has ended */
			if (n > 0)
				ret = write_all(STDOUT_FILENO, buf, (size_t)n);
		}
	}
	console_restore_terminal();
	close(fd);
	return ret < 0 ? CTL_HOST : CTL_DONE;
}
