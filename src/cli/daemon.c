/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the daemon is, and how a user's own one is started.
 *
 * 1. It runs in a session of its own, without a terminal, and writes its log to eyotd.log among its
 * data.
 * 2. Of several that are started at a time one gets the lock on the data; the others leave with
 *    status DAEMON_RUNS, and their starters wait until the first one listens.
 * 3. The end of the pipe that it is given (--ready-fd) closes when it listens, and when it has
 *    ended: what it was is told by its exit status.
 */
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/sock.h"
#include "base/util.h"
#include "cli/cli.h"

#define DAEMON_RUNS 10
#define START_TRIES 3
#define START_MS 20000 /* a database may have to be checked first */
#define READY_FD 3

static int own_run_folder(char out[CLI_SOCKET_MAX], struct err *err)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	int n = run && *run == '/'
		    ? snprintf(out, CLI_SOCKET_MAX, "%s/eyot", run)
		    : snprintf(out, CLI_SOCKET_MAX, "/tmp/eyot-%u", (unsigned)geteuid());

	return n < CLI_SOCKET_MAX - 16 ? 0
				       : err_set(err, ENAMETOOLONG, "XDG_RUNTIME_DIR: too long");
}

/* Where anybody may make folders, as in /tmp, somebody else's must not be taken for ours. */
static int check_run_folder(const char *path, struct err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0; /* the daemon will make it */
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return err_set(err, EPERM, "folder '%s': is not this user's alone", path);
	return 0;
}

int daemon_socket(struct cli *cli, struct err *err)
{
	char folder[CLI_SOCKET_MAX] = "/run/eyot";
	const char *given = cli->given_socket;
	int ret = 0;

	if (*cli->socket)
		return 0;
	if (given && *given) {
		if (snprintf(cli->socket, sizeof(cli->socket), "%s", given) >=
		    (int)sizeof(cli->socket))
			ret = err_set(err, ENAMETOOLONG, "socket '%.40s...': too long", given);
		return ret;
	}
	if (!cli->system) {
		ret = own_run_folder(folder, err);
		if (ret == 0)
			ret = check_run_folder(folder, err);
	}
	if (ret == 0)
		snprintf(cli->socket, sizeof(cli->socket), "%.490s/eyotd.sock", folder);
	return ret;
}

/* 0: somebody listens; -ENOENT, -ECONNREFUSED: nobody does */
static int knock(const struct cli *cli, struct err *err)
{
	struct sockaddr_un addr;
	int ret = unix_address(cli->socket, &addr, err), fd;

	if (ret < 0)
		return ret;
	fd = unix_connect(&addr);
	if (fd == -EAGAIN)
		return 0; /* many are waiting there */
	if (fd < 0)
		return err_set(err, -fd, "daemon '%s': %s", cli->socket, strerror(-fd));
	close(fd);
	return 0;
}

/* ---- its start ---- */

static int find_eyotd(char out[CLI_SOCKET_MAX], struct err *err)
{
	static const char *const places[] = { "eyotd", "../manager/eyotd" };
	const char *given = getenv("EYOT_EYOTD");
	char self[CLI_SOCKET_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 20);
	char *slash;

	if (given && *given) {
		snprintf(out, CLI_SOCKET_MAX, "%s", given);
		return 0;
	}
	if (n <= 0)
		return err_set(err, errno, "/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	slash = strrchr(self, '/');
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(out, CLI_SOCKET_MAX, "%.*s/%s", (int)(slash - self), self, places[i]);
		if (access(out, X_OK) == 0)
			return 0;
	}
	return err_set(err, ENOENT, "the program eyotd: is not beside '%s'", self);
}

/* Its log; when it cannot be made the daemon will say why it cannot work there either. */
static int open_log(off_t *ret_from)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	struct passwd *pw = getpwuid(geteuid());
	char path[CLI_SOCKET_MAX];
	int fd;

	if (!home && pw)
		home = pw->pw_dir;
	if (data && *data == '/')
		snprintf(path, sizeof(path), "%.400s/eyot/eyotd.log", data);
	else
		snprintf(path, sizeof(path), "%.400s/.local/share/eyot/eyotd.log",
			 home ? home : "/tmp");
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		/* as the daemon would make them */
		mkdir(path, strchr(p + 1, '/') ? 0755 : 0700);
		*p = '/';
	}
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	*ret_from = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	return fd;
}

static _Noreturn void become_daemon(const char *program, int log, int ready)
{
	char ready_text[] = "3"; /* READY_FD */
	char *argv[] = { (char *)program, "--ready-fd", ready_text, NULL };
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	ready = fcntl(ready, F_DUPFD, 10);
	log = fcntl(log >= 0 ? log : null, F_DUPFD, 10);
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	dup2(ready, READY_FD);
	syscall(SYS_close_range, READY_FD + 1, ~0u, 0u);
	if (chdir("/") == 0)
		execv(program, argv);
	dprintf(STDERR_FILENO, "eyotd: error: '%s': %s\n", program, strerror(errno));
	_exit(CLI_HOST);
}

/* The last line it wrote, for people */
static void last_words(int log, off_t from, char *out, size_t size)
{
	char text[2048], *line;
	ssize_t n = log >= 0 ? pread(log, text, sizeof(text) - 1, from) : 0;

	text[n > 0 ? n : 0] = '\0';
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	if (!strncmp(line, "eyotd: error: ", 14))
		line += 14;
	text_clean(line);
	snprintf(out, size, "%s", *line ? line : "it says nothing");
}

/* Until the pipe's other end is closed; 0, -EINTR, -ETIMEDOUT */
static int wait_ready(int fd)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN },
			       { .fd = signals_fd(), .events = POLLIN } };
	int n = poll(p, 2, START_MS);

	if (cli_interrupted())
		return -EINTR;
	return n == 0 ? -ETIMEDOUT : 0;
}

/* What has come of the daemon that said it is ready, or ended: 0: it listens, or another one does
 * or will */
static int judge(const struct cli *cli, pid_t pid, int log, off_t from, struct err *err)
{
	char words[400];
	int status = 0;
	pid_t ended = 0;

	/* the end of the pipe comes a moment before the end of the process */
	for (unsigned i = 0; i < 50 && ended == 0 && knock(cli, err) < 0; i++) {
		ended = waitpid(pid, &status, WNOHANG);
		if (ended == 0)
			cli_sleep_ms(10);
	}
	if (ended != pid || (WIFEXITED(status) && WEXITSTATUS(status) == DAEMON_RUNS))
		return 0;
	last_words(log, from, words, sizeof(words));
	return err_set(err, EHOSTDOWN, "the daemon does not start: %s", words);
}

static int start_daemon(const struct cli *cli, struct err *err)
{
	char program[CLI_SOCKET_MAX];
	int ready[2], ret = find_eyotd(program, err);
	_cleanup_close_ int log = -1;
	off_t from;
	pid_t pid;

	if (ret < 0)
		return ret;
	log = open_log(&from);
	if (pipe2(ready, O_CLOEXEC) < 0)
		return err_set(err, errno, "pipe: %s", strerror(errno));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		become_daemon(program, log, ready[1]);
	close(ready[1]);
	if (pid < 0) {
		close(ready[0]);
		return err_set(err, errno, "fork: %s", strerror(errno));
	}
	ret = wait_ready(ready[0]);
	close(ready[0]);
	if (ret == -EINTR)
		return err_set(err, EINTR, "interrupted");
	if (ret < 0)
		return err_set(err, ETIMEDOUT, "the daemon does not listen after %d s",
			       START_MS / 1000);
	return judge(cli, pid, log, from, err);
}

int daemon_reach(struct cli *cli, struct err *err)
{
	int ret = daemon_socket(cli, err);

	if (ret == 0)
		ret = knock(cli, err);
	for (unsigned i = 0; i < START_TRIES && (ret == -ENOENT || ret == -ECONNREFUSED); i++) {
		if (cli->system || cli->given_socket)
			return err_set(err, EHOSTDOWN, "daemon '%s': does not run", cli->socket);
		ret = start_daemon(cli, err);
		if (ret < 0)
			return ret;
		ret = knock(cli, err);
		/* another's daemon is on its way */
		for (unsigned k = 0; k < START_MS / 50 && (ret == -ENOENT || ret == -ECONNREFUSED);
		     k++) {
			if (cli_sleep_ms(50) < 0)
				return err_set(err, EINTR, "interrupted");
			ret = knock(cli, err);
		}
	}
	return ret == -ENOENT ? -EHOSTDOWN : ret;
}
