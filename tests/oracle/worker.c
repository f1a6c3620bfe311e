/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A side runs in a child process: a case can kill it, and then the parent
 * notes which case it was, starts another child and goes on behind it.
 * Cases and results stand in shared memory; a pipe each way carries the word
 * to begin and the word that all is done.
 */
#include <err.h>
#include <fcntl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "oracle.h"

#define EXIT_CANNOT 77 /* what test runners take for "skipped" */

struct worker {
	const struct oracle_side *side;
	unsigned which;
	pid_t pid;
	int to, from;
	struct batch *batch;
};

struct command {
	struct batch *batch;
	unsigned from;
};

struct batch *batch_new(void)
{
	struct batch *b =
	    mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (b == MAP_FAILED)
		err(1, "cannot map a batch of %zu bytes", sizeof(*b));
	return b;
}

static void child(const struct oracle_side *side, unsigned which, int in, int out)
{
	struct command cmd;
	void *ctx;
	char ok = 0;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ret = side->init(&ctx);
	if (ret < 0)
		_exit(ret == -2 ? EXIT_CANNOT : 3);
	if (write(out, &ok, 1) != 1)
		_exit(0);
	while (read(in, &cmd, sizeof(cmd)) == sizeof(cmd)) {
		side->run(ctx, cmd.batch->cases, cmd.batch->results[which], cmd.from, cmd.batch->n,
			  &cmd.batch->cur[which]);
		if (write(out, &ok, 1) != 1)
			break;
	}
	_exit(0);
}

static void spawn(struct worker *w)
{
	int to[2], from[2];
	char ok;

	if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		err(1, "cannot make a pipe");
	fflush(NULL);
	w->pid = fork();
	if (w->pid < 0)
		err(1, "cannot start a process for the %s side", w->side->name);
	if (!w->pid) {
		close(to[1]);
		close(from[0]);
		child(w->side, w->which, to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	w->to = to[1];
	w->from = from[0];
	if (read(w->from, &ok, 1) != 1) {
		int status = 0;

		waitpid(w->pid, &status, 0);
		if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_CANNOT)
			exit(EXIT_CANNOT);
		errx(1, "the %s side does not start", w->side->name);
	}
}

struct worker *worker_start(const struct oracle_side *side, unsigned which)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		err(1, "no memory");
	w->side = side;
	w->which = which;
	spawn(w);
	return w;
}

static void submit_from(struct worker *w, unsigned from)
{
	struct command cmd = { w->batch, from };

	w->batch->cur[w->which] = from;
	if (write(w->to, &cmd, sizeof(cmd)) != sizeof(cmd) && errno != EPIPE)
		err(1, "cannot reach the %s side", w->side->name);
}

void worker_submit(struct worker *w, struct batch *b)
{
	w->batch = b;
	for (unsigned i = 0; i < b->n; i++)
		b->results[w->which][i].status = RES_NONE;
	submit_from(w, 0);
}

/* The child is gone: blame the case that was running. True when there is more to run. */
static bool note_crash(struct worker *w)
{
	struct batch *b = w->batch;
	unsigned cur = b->cur[w->which];
	struct oracle_result *res;
	int status = 0;

	waitpid(w->pid, &status, 0);
	close(w->to);
	close(w->from);
	if (cur >= b->n)
		cur = b->n - 1;
	res = &b->results[w->which][cur];
	memset(res, 0, offsetof(struct oracle_result, pages));
	res->status = RES_CRASH;
	if (WIFSIGNALED(status))
		snprintf(res->text, sizeof(res->text), "killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(res->text, sizeof(res->text), "exited with status %d",
			 WEXITSTATUS(status));
	spawn(w);
	if (cur + 1 >= b->n)
		return false;
	submit_from(w, cur + 1);
	return true;
}

void worker_wait(struct worker *w)
{
	char ok;

	for (;;) {
		ssize_t n = read(w->from, &ok, 1);

		if (n == 1)
			return;
		if (n < 0 && errno == EINTR)
			continue;
		if (!note_crash(w))
			return;
	}
}

void worker_stop(struct worker *w)
{
	close(w->to);
	close(w->from);
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
	free(w);
}
