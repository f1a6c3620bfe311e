/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper is the process that the user or the manager knows. It does for
 * the machine what takes a view of the host: it passes signals on and ends as
 * the machine ends; removes the machine's sockets; and connects again to
 * switches that went away. All paths are told to it before the machine's guest
 * runs; after that (the seal) it takes none but connects to addresses known
 * from before.
 *
 * Messages are datagrams of one struct message each way; the answer to a
 * connect is an error number, with the socket as SCM_RIGHTS when it is 0.
 *
 * A machine that was killed has not put the terminal's settings back: the
 * keeper does it.
 *
 * Whether the terminal is ours is written into a page that both processes
 * have, at the start and whenever the keeper is continued; then the machine
 * is continued too, to look at it.
 */
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/log.h"
#include "base/util.h"
#include "sandbox/sandbox.h"
#include "sandbox/sandbox_priv.h"

#define PATHS_MAX 32

enum message_kind { UNLINK_LATER, SEAL, CONNECT };

struct message {
	enum message_kind kind;
	int error; /* of an answer */
	struct sockaddr_un addr;
};

struct shared {
	atomic_bool foreground;
};

struct keeper {
	int fd;
	struct shared *shared;
};

/* ---- the keeper's side ---- */

struct keeping {
	pid_t child;
	int fd, signal_fd;
	int fatal; /* a signal that ends both */
	struct termios terminal;
	bool has_terminal;
	struct shared *shared;
	bool sealed;
	struct sockaddr_un unlinks[PATHS_MAX], connects[PATHS_MAX];
	unsigned unlink_count, connect_count;
};

static const int passed_on[] = { SIGTERM, SIGINT,  SIGHUP,  SIGQUIT, SIGPWR,
				 SIGUSR1, SIGUSR2, SIGCONT, SIGABRT };

static void look_at_terminal(struct shared *shared)
{
	atomic_store(&shared->foreground,
		     isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp());
}

static int answer(struct keeping *k, int error, int fd)
{
	struct message m = { .kind = CONNECT, .error = error };
	struct iovec iov = { &m, sizeof(m) };
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	/* sandbox: keeper: sendmsg */
	return sendmsg(k->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* Before the seal an address becomes known by being asked for. */
static bool is_known(struct keeping *k, const struct sockaddr_un *addr)
{
	for (unsigned i = 0; i < k->connect_count; i++)
		if (!strcmp(k->connects[i].sun_path, addr->sun_path))
			return true;
	if (k->sealed || k->connect_count == PATHS_MAX)
		return false;
	k->connects[k->connect_count++] = *addr;
	return true;
}

static void connect_for(struct keeping *k, const struct sockaddr_un *addr)
{
	int fd, error = 0;

	if (!is_known(k, addr)) {
		answer(k, EPERM, -1);
		return;
	}
	/* sandbox: keeper: socket(AF_UNIX), connect */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		error = errno;
	answer(k, error, error ? -1 : fd);
	/* sandbox: keeper: close */
	if (fd >= 0)
		close(fd);
}

/* One message; false when the machine's end is closed. */
static bool serve(struct keeping *k)
{
	struct message m;
	/* sandbox: keeper: recvfrom */
	ssize_t n = recv(k->fd, &m, sizeof(m), MSG_DONTWAIT);

	if (n == 0)
		return false;
	if (n != sizeof(m) || m.addr.sun_family != AF_UNIX ||
	    !memchr(m.addr.sun_path, 0, sizeof(m.addr.sun_path)))
		return n < 0;
	switch (m.kind) {
	case UNLINK_LATER:
		if (!k->sealed && k->unlink_count < PATHS_MAX)
			k->unlinks[k->unlink_count++] = m.addr;
		break;
	case SEAL:
		k->sealed = true;
		break;
	case CONNECT:
		connect_for(k, &m.addr);
		break;
	}
	return true;
}

static void on_signal(struct keeping *k)
{
	struct signalfd_siginfo info;

	/* sandbox: keeper: read */
	if (read(k->signal_fd, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGCHLD)
		return;
	/* sandbox: keeper libc: ioctl(*, TCGETS), ioctl(*, TIOCGPGRP), getpgrp */
	if (info.ssi_signo == SIGCONT)
		look_at_terminal(k->shared);
	/* The first process of a PID namespace cannot be ended by all that ends others. */
	if (info.ssi_signo == SIGABRT)
		k->fatal = SIGABRT;
	/* sandbox: keeper: kill */
	kill(k->child, k->fatal ? SIGKILL : (int)info.ssi_signo);
}

/* Leave as the machine did. */
static _Noreturn void leave(struct keeping *k, int status)
{
	for (unsigned i = 0; i < k->unlink_count; i++) {
		const char *path = k->unlinks[i].sun_path;
		struct stat st;

		/* sandbox: keeper: newfstatat, unlink */
		if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
			unlink(path);
	}
	if (WIFSIGNALED(status)) {
		int signo = k->fatal ? k->fatal : WTERMSIG(status);
		sigset_t set;

		look_at_terminal(k->shared);
		/* sandbox: keeper: ioctl(*, TCSETS) */
		if (k->has_terminal && atomic_load(&k->shared->foreground))
			tcsetattr(STDIN_FILENO, TCSANOW, &k->terminal);
		/* sandbox: keeper: rt_sigaction, tgkill(PID) */
		signal(signo, SIG_DFL);
		sigemptyset(&set);
		sigaddset(&set, signo);
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		raise(signo);
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 8);
}

static _Noreturn void keep(struct keeping *k, const sigset_t *signals)
{
	struct sandbox_filters *filters;
	bool open = true;
	struct err err;
	int status;

	k->has_terminal = tcgetattr(STDIN_FILENO, &k->terminal) == 0;
	k->signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (sandbox_filters_new(1u << SANDBOX_KEEPER, &filters, &err) == 0)
		sandbox_filter_thread(filters, SANDBOX_KEEPER);
	for (;;) {
		struct pollfd p[2] = { { .fd = k->signal_fd, .events = POLLIN },
				       { .fd = open ? k->fd : -1, .events = POLLIN } };

		/* sandbox: keeper: wait4 */
		if (waitpid(k->child, &status, WNOHANG) == k->child)
			leave(k, status);
		/* sandbox: keeper: poll */
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			open = serve(k);
		if (p[0].revents)
			on_signal(k);
	}
	_exit(8);
}

/* Nothing of what the caller was given may stay open because of us: taps, pipes. */
static void close_others(int keep_fd)
{
	if (dup2(keep_fd, 3) == 3)
		syscall(SYS_close_range, 4u, ~0u, 0u);
}

/* ---- the machine's side ---- */

/* As fork(), but into new namespaces; nothing of the C library's has threads or locks yet. */
static pid_t fork_into(int flags)
{
	return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

/*
 * Without privileges the user namespace is made with the process, since it is what allows the PID
 * namespace; files open as before. With some privilege it is left for later (confine.c): opening
 * TAP interfaces and files of others may need it.
 */
static pid_t new_process(void)
{
	int flags = sandbox_has_cap(CAP_SYS_ADMIN) ? CLONE_NEWPID
		    : sandbox_has_any_cap()	   ? 0
						   : CLONE_NEWUSER | CLONE_NEWPID;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	pid_t pid = fork_into(flags);

	if (pid < 0 && flags) {
		flags = 0;
		pid = fork_into(0);
	}
	if (pid == 0 && flags & CLONE_NEWUSER && sandbox_map_ids(uid, gid) < 0) {
		log_error("sandbox: the user namespace takes no user ID: %s; --sandbox off goes "
			  "without",
			  strerror(errno));
		_exit(8);
	}
	if (pid == 0 && !(flags & CLONE_NEWPID))
		log_info("sandbox: no PID namespace here; the rest is applied");
	return pid;
}

int keeper_start(struct keeper **ret_keeper, struct err *err)
{
	struct keeper *keeper = calloc(1, sizeof(*keeper));
	struct shared *shared =
	    mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigset_t set, old;
	int fds[2];
	pid_t pid;

	if (!keeper || shared == MAP_FAILED ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
		free(keeper);
		return err_set(err, errno, "sandbox: %s", strerror(errno));
	}
	look_at_terminal(shared);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (unsigned i = 0; i < ARRAY_SIZE(passed_on); i++)
		sigaddset(&set, passed_on[i]);
	sigprocmask(SIG_BLOCK, &set, &old);
	pid = new_process();
	if (pid < 0)
		return err_set(err, errno, "sandbox: a process for the machine: %s",
			       strerror(errno));
	if (pid > 0) {
		struct keeping *k = calloc(1, sizeof(*k));

		if (!k)
			_exit(8);
		close_others(fds[0]);
		*k = (struct keeping) { .child = pid, .fd = 3, .shared = shared };
		keep(k, &set);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	close(fds[0]);
	sigprocmask(SIG_SETMASK, &old, NULL);
	keeper->fd = fds[1];
	keeper->shared = shared;
	*ret_keeper = keeper;
	return 0;
}

void keeper_free(struct keeper *keeper)
{
	if (!keeper)
		return;
	close(keeper->fd);
	munmap(keeper->shared, sizeof(*keeper->shared));
	free(keeper);
}

static int tell(struct keeper *keeper, enum message_kind kind, const struct sockaddr_un *addr)
{
	struct message m = { .kind = kind, .addr.sun_family = AF_UNIX };

	if (addr)
		m.addr = *addr;
	/* sandbox: loop: sendto */
	return send(keeper->fd, &m, sizeof(m), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int keeper_unlink_later(struct keeper *keeper, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path) >=
	    (int)sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	return tell(keeper, UNLINK_LATER, &addr);
}

int keeper_seal(struct keeper *keeper)
{
	return tell(keeper, SEAL, NULL);
}

int keeper_connect(struct keeper *keeper, const struct sockaddr_un *addr)
{
	struct message m;
	struct iovec iov = { &m, sizeof(m) };
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *c;
	int ret = tell(keeper, CONNECT, addr), fd;

	if (ret < 0)
		return ret;
	/* sandbox: loop: recvmsg */
	if (recvmsg(keeper->fd, &msg, MSG_CMSG_CLOEXEC) != sizeof(m))
		return -EPIPE;
	c = CMSG_FIRSTHDR(&msg);
	if (m.error || !c || c->cmsg_type != SCM_RIGHTS)
		return m.error ? -m.error : -EPROTO;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

bool keeper_in_foreground(const struct keeper *keeper)
{
	return atomic_load(&keeper->shared->foreground);
}
