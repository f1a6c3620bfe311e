/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot cp FROM TO, one of them NAME:PATH.
 *
 * The sender is `tar`, the receiver a small script around it; the one runs here, the other in the
 * guest by its agent, whichever way the copy goes.
 *
 * 1. What comes is unpacked into a new folder beside the target, must be one file or folder of
 * plain kinds, and only then goes to the target, under the name that was asked for. So a guest that
 * sends something else reaches no other file of ours, and a copy that broke leaves what was there.
 * 2. Owners are not carried over: what is copied is the receiver's.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/util.h"
#include "cli/agent.h"

/* $1 path */
static const char send_script[] =
    "p=$(readlink -e -- \"$1\") || { echo \"eyot: '$1': there is none\" >&2; exit 1; }\n"
    "[ \"$p\" != / ] || { echo \"eyot: '/' cannot be copied whole\" >&2; exit 1; }\n"
    "exec tar -cf - -C \"$(dirname -- \"$p\")\" -- \"$(basename -- \"$p\")\"\n";

/* $1 target, $2 the name for it in a folder that is there, $3 options of tar */
static const char receive_script[] =
    "set -eu\n"
    "umask 022\n"
    "die() { echo \"eyot: $*\" >&2; exit 1; }\n"
    "to=$1\n"
    "case $to in */) [ -d \"$to\" ] || die \"'$to': is no folder\" ;; esac\n"
    "[ ! -d \"$to\" ] || to=${to%/}/$2\n"
    "dir=$(dirname -- \"$to\")\n"
    "[ -d \"$dir\" ] || die \"'$dir': there is no such folder\"\n"
    "tmp=$(mktemp -d -- \"$dir/.eyot-cp.XXXXXX\")\n"
    "trap 'rm -rf -- \"$tmp\"' EXIT\n"
    "trap 'exit 1' HUP INT TERM\n"
    "tar -xf - -C \"$tmp\" --no-same-owner $3\n"
    "got=$(ls -A -- \"$tmp\")\n"
    "[ -n \"$got\" ] || die 'nothing came'\n"
    "[ -e \"$tmp/$got\" ] || [ -L \"$tmp/$got\" ] || die 'more came than one file or folder'\n"
    "[ -z \"$(find \"$tmp\" ! -type f ! -type d ! -type l -print)\" ] || die 'devices or pipes "
    "came'\n"
    "if [ -d \"$tmp/$got\" ] && [ ! -L \"$tmp/$got\" ] && [ -d \"$to\" ]; then\n"
    "cp -a -- \"$tmp/$got/.\" \"$to/\"\n"
    "else\n"
    "mv -fT -- \"$tmp/$got\" \"$to\"\n"
    "fi\n";

struct end {
	char instance[64]; /* "": here */
	const char *path;
};

/* "web:/etc/fstab"; a path with a slash before the colon is one of this host's */
static void parse_end(const char *text, struct end *e)
{
	const char *colon = strchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;

	*e->instance = '\0';
	e->path = text;
	if (len && len < sizeof(e->instance) && !memchr(text, '/', len)) {
		memcpy(e->instance, text, len);
		e->instance[len] = '\0';
		e->path = colon + 1;
	}
}

/* The last part of a path; -EINVAL when it has none of its own */
static int base_name(const char *path, char out[NAME_MAX + 1], struct err *err)
{
	char copy[PATH_MAX];
	size_t len = (size_t)snprintf(copy, sizeof(copy), "%s", path);
	char *slash;

	while (len > 1 && len < sizeof(copy) && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = strrchr(copy, '/');
	slash = slash ? slash + 1 : copy;
	if (!*slash || !strcmp(slash, ".") || !strcmp(slash, "..") || strlen(slash) > NAME_MAX)
		return cli_usage(err, "cp: '%.200s': its last part is no name", path);
	snprintf(out, NAME_MAX + 1, "%s", slash);
	return 0;
}

/* Start a script here with one of its streams at @fd */
static pid_t start_here(const char *const *argv, int fd, int as)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		signal(SIGPIPE, SIG_DFL);
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		signal(SIGHUP, SIG_DFL);
		dup2(fd, as);
		execvp(argv[0], (char *const *)argv);
		dprintf(STDERR_FILENO, "eyot: %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	return pid;
}

/* 0 when it ended well; what went wrong it has said itself */
static int wait_here(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int copy(int agent, const struct end *from, const struct end *to, const char *name,
		struct err *err)
{
	const char *send[] = { "sh", "-c", send_script, "sh", from->path, NULL };
	bool out = !*to->instance; /* of the guest */
	const char *receive[] = {
		"sh",
		"-c",
		receive_script,
		"sh",
		*to->path ? to->path : ".",
		name,
		out ? "--no-same-permissions" : "-p",
		NULL,
	};
	struct agent_command cmd = { .argv = out ? send : receive, .in = -1, .out = 2, .err = 2 };
	int pipe_fds[2], status = 1, ret;
	bool bad;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_set(err, errno, "pipe: %s", strerror(errno));
	pid = out ? start_here(receive, pipe_fds[0], STDIN_FILENO)
		  : start_here(send, pipe_fds[1], STDOUT_FILENO);
	close(pipe_fds[out ? 0 : 1]);
	if (out)
		cmd.out = pipe_fds[1];
	else
		cmd.in = pipe_fds[0];
	ret = pid < 0 ? err_set(err, errno, "fork: %s", strerror(errno))
		      : agent_run(agent, &cmd, &status, err);
	/* an archive that is cut off here must not be taken for a whole one */
	if (pid > 0 && ret < 0)
		kill(pid, SIGTERM);
	close(pipe_fds[out ? 1 : 0]);
	bad = pid > 0 && wait_here(pid) < 0;
	if (ret == -EIO && bad)
		ret = 0; /* its pipe broke since it had ended, for a reason that it told */
	if (ret == 0 && (status || bad))
		ret = err_set(err, EREMOTEIO, "cp: '%.200s' was not copied", from->path);
	return ret;
}

int cmd_cp(struct cli *cli, const struct cli_args *args, struct err *err)
{
	struct end from, to;
	char name[NAME_MAX + 1];
	int64_t wait_s = AGENT_WAIT_S;
	int fd, ret = arg_number(args, "wait", 0, 86400, &wait_s, err);

	parse_end(args->words[0], &from);
	parse_end(args->words[1], &to);
	if (ret == 0 && !*from.instance == !*to.instance)
		ret = cli_usage(err, "cp: one of FROM and TO is NAME:PATH");
	if (ret == 0)
		ret = base_name(from.path, name, err);
	if (ret == 0)
		ret = agent_connect(cli, *from.instance ? from.instance : to.instance,
				    (unsigned)wait_s, &fd, err);
	if (ret < 0)
		return ret;
	signal(SIGPIPE, SIG_IGN);
	return copy(fd, &from, &to, name, err);
}
