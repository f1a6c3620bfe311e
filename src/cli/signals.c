/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A signal that ends us is put into a pipe, which everything that waits watches: so it is never
 * missed between a look at the flag and the wait.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "monitor/console.h"

static volatile sig_atomic_t interrupted;
static int pipe_fds[2] = { -1, -1 };

static void on_signal(int signo)
{
	int saved = errno;

	if (interrupted && signo == SIGINT) {
		console_restore_terminal();
		_exit(CLI_INTERRUPTED);
	}
	interrupted = 1;
	if (write(pipe_fds[1], "", 1) < 0)
		errno = saved; /* full: it is readable */
	errno = saved;
}

int signals_init(struct err *err)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };

	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set(err, errno, "pipe: %s", strerror(errno));
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	return 0;
}

bool cli_interrupted(void)
{
	return interrupted;
}

void cli_forget_interrupt(void)
{
	char buf[64];

	interrupted = 0;
	while (read(pipe_fds[0], buf, sizeof(buf)) > 0)
		;
}

int signals_fd(void)
{
	return pipe_fds[0];
}

int cli_sleep_ms(unsigned ms)
{
	struct pollfd p = { .fd = pipe_fds[0], .events = POLLIN };

	poll(&p, 1, (int)ms);
	return interrupted ? -EINTR : 0;
}
