/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/signals.h"

#include <signal.h>

#include "base/util.h"
#include "monitor/console.h"

/* A bug of ours: leave the terminal usable, then die by the signal. */
static void on_fatal_signal(int signo)
{
	console_restore_terminal();
	/* sandbox: loop vcpu worker: rt_sigaction */
	signal(signo, SIG_DFL);
	raise(signo);
}

int signals_init(struct loop *loop, void (*end)(void *arg, int signo),
		 void (*power)(void *arg, int signo), void *arg, struct err *err)
{
	static const int ends[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
	static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE };
	int ret = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ends) && ret == 0; i++)
		ret = loop_signal_add(loop, ends[i], end, arg);
	if (ret == 0)
		ret = loop_signal_add(loop, SIGPWR, power, arg);
	if (ret < 0)
		return err_set(err, -ret, "signals: %s", strerror(-ret));
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		signal(fatal[i], on_fatal_signal);
	/* Both are errors of the write that meets them. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	return 0;
}
