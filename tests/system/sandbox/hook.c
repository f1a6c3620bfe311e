/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A monitor that was taken over: on each of its threads, confined as in the
 * product, it tries what an attacker would. Each attempt prints one line:
 * "loop: open: refused" or "loop: open: ALLOWED".
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "sandbox/sandbox.h"

static const char *const names[] = { "loop", "vcpu", "worker", "share", "net", "nbd", "keeper" };

static void say(enum sandbox_role role, const char *what, int allowed)
{
	char line[128];
	int len = snprintf(line, sizeof(line), "hook: %s: %s: %s\n", names[role], what,
			   allowed ? "ALLOWED" : "refused");

	if (write(2, line, (size_t)len) < 0)
		_exit(99);
}

static void files(enum sandbox_role role)
{
	/* These two processes read the resolver's files, in a root that has little else. */
	bool reads = role == SANDBOX_NET || role == SANDBOX_NBD;

	say(role, "open", open("/etc/passwd", O_RDONLY) >= 0);
	say(role, "open a folder", open("/", O_RDONLY) >= 0 && !reads);
	say(role, "create", open("/eyot-was-here", O_WRONLY | O_CREAT, 0600) >= 0);
	say(role, "open a device", open("/dev/null", O_RDWR) >= 0);
	say(role, "open by handle", syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0) >= 0);
	say(role, "unlink", unlink("/etc/resolv.conf") == 0);
	say(role, "rename", rename("/etc/resolv.conf", "/x") == 0);
	say(role, "link", link("/etc/resolv.conf", "/x") == 0);
	say(role, "chmod", chmod("/", 0777) == 0);
	say(role, "chroot", chroot("/") == 0);
	say(role, "mount", mount("none", "/", "tmpfs", 0, NULL) == 0);
	say(role, "umount", umount2("/", MNT_DETACH) == 0);
	say(role, "memfd", memfd_create("x", 0) >= 0);
}

static void processes(enum sandbox_role role)
{
	static char *const argv[] = { "sh", NULL };
	int other = getpid() == 1 ? 2 : 1;
	pid_t pid;

	say(role, "exec", execve("/bin/sh", argv, NULL) == 0);
	pid = (pid_t)syscall(SYS_fork);
	if (pid == 0)
		_exit(0);
	say(role, "fork", pid > 0);
	pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		_exit(0);
	say(role, "clone", pid > 0);
	say(role, "ptrace", ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
	say(role, "attach", ptrace(PTRACE_SEIZE, getppid(), NULL, NULL) == 0);
	say(role, "kill", kill(1, 0) == 0);
	say(role, "signal another process", syscall(SYS_tgkill, other, other, 0) == 0);
	say(role, "read another's memory",
	    syscall(SYS_process_vm_readv, 2, NULL, 0, NULL, 0, 0) >= 0);
	say(role, "pidfd", syscall(SYS_pidfd_open, 1, 0) >= 0);
	say(role, "unshare", unshare(CLONE_NEWUSER) == 0);
	say(role, "setns", setns(0, 0) == 0);
	say(role, "become root", syscall(SYS_setuid, 0) == 0);
	say(role, "capset", syscall(SYS_capset, NULL, NULL) == 0);
}

static void kernel(enum sandbox_role role)
{
	struct io_uring_params params = { 0 };
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1
	};
	void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	say(role, "keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0) >= 0);
	say(role, "bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0);
	say(role, "perf", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0) >= 0);
	say(role, "userfaultfd", syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY) >= 0);
	say(role, "a new ring", syscall(SYS_io_uring_setup, 4, &params) >= 0);
	say(role, "change a ring", syscall(SYS_io_uring_register, 0, 0, NULL, 0) >= 0);
	say(role, "new code",
	    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
		MAP_FAILED);
	say(role, "code from data", mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
	say(role, "type into the terminal", ioctl(0, TIOCSTI, "x") == 0);
	say(role, "load a module", syscall(SYS_finit_module, 0, "", 0) == 0);
	say(role, "reboot", syscall(SYS_reboot, 0, 0, 0, 0) == 0);
	say(role, "prctl", syscall(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0) == 0);
	munmap(code, 4096);
}

static void sockets(enum sandbox_role role)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "\0eyot-test" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	say(role, "connect", fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
	say(role, "packets", socket(AF_PACKET, SOCK_RAW, 0) >= 0);
	if (role == SANDBOX_NBD)
		return; /* servers are local, too; netlink tells the resolver of addresses */
	say(role, "UNIX socket", fd >= 0);
	say(role, "netlink", socket(AF_NETLINK, SOCK_RAW, 0) >= 0);
	if (role != SANDBOX_NET)
		say(role, "network", socket(AF_INET, SOCK_STREAM, 0) >= 0);
}

/* The disk's own ring, found among the open descriptors: an entry that opens a file. */
static void ring(enum sandbox_role role)
{
	struct io_uring_params p = { 0 };
	uint8_t *sq, *cq;
	struct io_uring_sqe *sqe;
	int fd, res = 0, found = 0;

	for (fd = 3; fd < 200 && !found; fd++)
		found = syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0) == 0;
	fd--;
	if (!found) {
		say(role, "no ring to try", 1);
		return;
	}
	/* The layout of Linux's rings since 5.4: heads and tails first, both queues in one area */
	sq = mmap(NULL, 1 << 15, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	sqe = mmap(NULL, 1 << 14, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || sqe == MAP_FAILED) {
		say(role, "no map of the ring", 1);
		return;
	}
	cq = sq;
	for (unsigned try = 0; try < 2; try++) {
		_Atomic uint32_t *sq_tail = (void *)(sq + 4), *cq_head = (void *)(cq + 8),
				 *cq_tail = (void *)(cq + 12);
		unsigned mask = ((uint32_t *)sq)[4], at = *sq_tail & mask, seen = *cq_tail;
		struct sockaddr_in in = { .sin_family = AF_INET };

		memset(&sqe[at], 0, sizeof(*sqe));
		sqe[at].opcode = try ? IORING_OP_SOCKET : IORING_OP_OPENAT;
		sqe[at].fd = try ? AF_INET : AT_FDCWD;
		sqe[at].off = try ? SOCK_STREAM : 0;
		sqe[at].addr = try ? 0 : (uintptr_t) "/";
		(void)in;
		/* the array of indices is the identity, as liburing leaves it */
		*sq_tail += 1;
		syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0);
		for (unsigned i = 0; i < 1000 && *cq_tail == seen; i++)
			sched_yield();
		if (*cq_tail == seen) {
			say(role, "the ring does not answer", 1);
			return;
		}
		res = ((struct io_uring_cqe *)(cq + 64))[seen & ((uint32_t *)sq)[5]].res;
		*cq_head += 1;
		say(role, try ? "socket through the ring" : "open through the ring", res >= 0);
	}
	(void)p;
}

void sandbox_test_hook(enum sandbox_role role)
{
	files(role);
	processes(role);
	kernel(role);
	sockets(role);
	/* The vCPU's thread runs beside the loop's: one of them may touch the ring. */
	if (role == SANDBOX_LOOP)
		ring(role);
	say(role, "the end", 0);
}
