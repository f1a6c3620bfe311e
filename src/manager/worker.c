/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines of the pipe: "P FRACTION TEXT" progress, "R TEXT" the result, "E NUMBER TEXT" an error. The
 * worker is our own code, but it reads what others wrote: lines are bounded and cut.
 *
 * The end is the process's (a pidfd), after which the pipe is read out: a program that a worker
 * left behind cannot hold things up.
 */
#include "manager/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"

#define LINE_MAX_BYTES KIB(64)
#define TELL_EVERY_NS 100000000ull
#define KILL_AFTER_NS 15000000000ull

struct worker {
	struct manager *m;
	const struct worker_ops *ops;
	void *owner;
	pid_t pid;
	int pid_fd, pipe_fd;
	struct loop_fd *pid_source, *pipe_source;
	struct loop_timer *kill_timer;
	bool cancelled;
	struct text in;
	char *result; /* of the line R or E, with its letter */
	uint64_t told_ns;
};

/* ---- the worker's side ---- */

static void on_term(int signo)
{
	/* Programs it runs are of its group; they get it too, and this one ignores it from now on.
	 */
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	_exit(143);
}

static void send_line(struct worker *w, const char *head, const char *text)
{
	struct text line = { 0 };
	size_t done = 0;

	text_printf(&line, "%s %s", head, text);
	for (size_t i = 0; i < line.len; i++)
		if (line.data[i] == '\n' || line.data[i] == '\r')
			line.data[i] = ' ';
	if (line.len > LINE_MAX_BYTES - 1)
		line.len = LINE_MAX_BYTES - 1;
	text_add(&line, "\n", 1);
	while (!line.failed && done < line.len) {
		ssize_t n = write(w->pipe_fd, line.data + done, line.len - done);

		if (n < 0 && errno != EINTR)
			break;
		if (n > 0)
			done += (size_t)n;
	}
	text_done(&line);
}

void worker_tell(struct worker *w, double fraction, const char *fmt, ...)
{
	char text[256], head[32];
	uint64_t now = clock_now_ns();
	va_list ap;

	if (now - w->told_ns < TELL_EVERY_NS)
		return;
	w->told_ns = now;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(head, sizeof(head), "P %.4f", fraction);
	send_line(w, head, text);
}

/* The last line of what a program said, without "name: " before it */
static void last_line(const struct text *said, char *out, size_t size)
{
	size_t end = said->len, start;

	while (end && (said->data[end - 1] == '\n' || said->data[end - 1] == '\r'))
		end--;
	start = end;
	while (start && said->data[start - 1] != '\n' && said->data[start - 1] != '\r')
		start--;
	snprintf(out, size, "%.*s", (int)(end - start), said->data ? said->data + start : "");
}

static int gather(struct worker *w, int out, int errors, struct text *ret_output, struct text *said,
		  bool tell)
{
	struct pollfd p[2] = { { .fd = out, .events = POLLIN },
			       { .fd = errors, .events = POLLIN } };
	char buf[8192], line[256];

	while (p[0].fd >= 0 || p[1].fd >= 0) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < 2; i++) {
			ssize_t n;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			n = read(p[i].fd, buf, sizeof(buf));
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0) {
				p[i].fd = -1;
			} else if (i == 0) {
				if (ret_output && ret_output->len < MIB(1))
					text_add(ret_output, buf, (size_t)n);
			} else {
				if (said->len > KIB(256))
					said->len = 0;
				text_add(said, buf, (size_t)n);
				last_line(said, line, sizeof(line));
				if (tell)
					worker_tell(w, -1, "%s", line);
			}
		}
	}
	return 0;
}

int worker_exec(struct worker *w, const char *const *argv, struct text *ret_output, bool tell,
		struct err *err)
{
	int out[2], errors[2], status, ret;
	struct text said = { 0 };
	const char *name = strrchr(argv[0], '/');
	char line[300];
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0)
		return err_set(err, errno, "pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		return err_set(err, errno, "fork: %s", strerror(errno));
	if (pid == 0) {
		signal(SIGTERM, SIG_DFL);
		dup2(out[1], STDOUT_FILENO);
		dup2(errors[1], STDERR_FILENO);
		execv(argv[0], (char *const *)argv);
		dprintf(STDERR_FILENO, "%s\n", strerror(errno));
		_exit(127);
	}
	close(out[1]);
	close(errors[1]);
	ret = gather(w, out[0], errors[0], ret_output, &said, tell);
	close(out[0]);
	close(errors[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	last_line(&said, line, sizeof(line));
	text_done(&said);
	if (ret == 0 && (!WIFEXITED(status) || WEXITSTATUS(status)))
		ret = err_set(err, EIO, "%s: %s", name ? name + 1 : argv[0],
			      *line ? line : "failed without a word");
	return ret;
}

static _Noreturn void be_worker(struct worker *w, pid_t parent, void *arg)
{
	struct err err = { .text = "" };
	struct text result = { 0 };
	char head[32];
	sigset_t none;
	int ret;

	setpgid(0, 0);
	sigemptyset(&none);
	signal(SIGTERM, on_term);
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(143);
	if (dup2(w->pipe_fd, 3) < 0 || fcntl(3, F_SETFD, FD_CLOEXEC) < 0)
		_exit(1);
	syscall(SYS_close_range, 4u, ~0u, 0u);
	w->pipe_fd = 3;
	w->told_ns = 0;
	ret = w->ops->run(w, arg, &result, &err);
	if (ret == 0 && result.failed)
		ret = err_set(&err, ENOMEM, "out of memory");
	if (ret < 0) {
		snprintf(head, sizeof(head), "E %d", -ret);
		send_line(w, head, err.text);
	} else {
		send_line(w, "R", result.data ? result.data : "");
	}
	_exit(ret < 0);
}

/* ---- the daemon's side ---- */

static void take_line(struct worker *w, char *line)
{
	char *text;

	if (line[0] == 'P' && line[1] == ' ') {
		double fraction = strtod(line + 2, &text);

		if (*text == ' ' && w->ops->progress && !w->cancelled)
			w->ops->progress(w->owner, fraction > 1 ? 1 : fraction, text + 1);
	} else if ((line[0] == 'R' || line[0] == 'E') && line[1] == ' ' && !w->result) {
		w->result = strdup(line);
	}
}

/* false: no more comes */
static bool read_pipe(struct worker *w)
{
	char buf[8192];
	ssize_t n;

	while ((n = read(w->pipe_fd, buf, sizeof(buf))) > 0) {
		char *end;

		text_add(&w->in, buf, (size_t)n);
		while (w->in.len && (end = memchr(w->in.data, '\n', w->in.len))) {
			size_t len = (size_t)(end - w->in.data) + 1;

			*end = '\0';
			take_line(w, w->in.data);
			memmove(w->in.data, w->in.data + len, w->in.len - len);
			w->in.len -= len;
		}
		if (w->in.len > 2 * LINE_MAX_BYTES)
			w->in.len = 0;
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void on_pipe(void *arg, uint32_t events)
{
	struct worker *w = arg;

	if (!read_pipe(w)) {
		loop_fd_del(w->pipe_source);
		w->pipe_source = NULL;
	}
}

static void free_worker(struct worker *w)
{
	loop_fd_del(w->pid_source);
	loop_fd_del(w->pipe_source);
	loop_timer_del(w->kill_timer);
	if (w->pid_fd >= 0)
		close(w->pid_fd);
	if (w->pipe_fd >= 0)
		close(w->pipe_fd);
	text_done(&w->in);
	free(w->result);
	free(w);
}

static void on_end(void *arg, uint32_t events)
{
	struct worker *w = arg;
	const char *text = "the worker process ended without a word";
	char *rest;
	int status, ret = -EIO;

	read_pipe(w);
	waitpid(w->pid, &status, 0);
	if (w->result && w->result[0] == 'R') {
		ret = 0;
		text = w->result + 2;
	} else if (w->result) {
		ret = -(int)strtol(w->result + 2, &rest, 10);
		text = *rest ? rest + 1 : rest;
	}
	if (w->cancelled) {
		ret = -ECANCELED;
		text = "cancelled";
	}
	w->ops->ended(w->owner, ret, text);
	free_worker(w);
}

static void on_kill(void *arg)
{
	struct worker *w = arg;

	kill(-w->pid, SIGKILL);
}

int worker_start(struct manager *m, const struct worker_ops *ops, void *arg, void *owner,
		 struct worker **ret, struct err *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	pid_t parent = getpid();
	int fds[2], r;

	if (!w || pipe2(fds, O_CLOEXEC) < 0) {
		free(w);
		return err_set(err, errno, "worker: %s", strerror(errno));
	}
	*w =
	    (struct worker) { .m = m, .ops = ops, .owner = owner, .pid_fd = -1, .pipe_fd = fds[1] };
	fflush(NULL);
	w->pid = fork();
	if (w->pid == 0)
		be_worker(w, parent, arg);
	close(fds[1]);
	w->pipe_fd = fds[0];
	if (w->pid < 0) {
		r = err_set(err, errno, "worker: fork: %s", strerror(errno));
		free_worker(w);
		return r;
	}
	setpgid(w->pid, w->pid); /* on both sides: whoever comes first */
	fcntl(w->pipe_fd, F_SETFL, O_NONBLOCK);
	w->pid_fd = (int)syscall(SYS_pidfd_open, w->pid, 0u);
	r = w->pid_fd < 0 ? -errno : 0;
	if (r == 0)
		r = loop_fd_add(m->loop, w->pid_fd, EPOLLIN, on_end, w, &w->pid_source);
	if (r == 0)
		r = loop_fd_add(m->loop, w->pipe_fd, EPOLLIN, on_pipe, w, &w->pipe_source);
	if (r == 0)
		r = loop_timer_add(m->loop, on_kill, w, &w->kill_timer);
	if (r < 0) {
		kill(-w->pid, SIGKILL);
		waitpid(w->pid, NULL, 0);
		free_worker(w);
		return err_set(err, -r, "worker: %s", strerror(-r));
	}
	*ret = w;
	return 0;
}

void worker_cancel(struct worker *w)
{
	if (w->cancelled)
		return;
	w->cancelled = true;
	kill(-w->pid, SIGTERM);
	loop_timer_arm(w->kill_timer, clock_now_ns() + KILL_AFTER_NS);
}
