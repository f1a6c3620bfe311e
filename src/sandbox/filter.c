/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filter is a list of system calls, some with conditions on their arguments;
 * the kernel holds each call of the thread against it. sandbox_lists.h is
 * made by the build from the annotations in the sources.
 *
 * All filters are compiled when there is one thread, and put on by each thread
 * for itself. A refused call raises SIGSYS, whose handler tells of it and lets the
 * call fail with EPERM: a mistake in a list costs the machine one operation
 * and shows in the log. `clone3` cannot be judged (its arguments are in
 * memory); it is answered as by an old kernel, and the C library then takes
 * `clone`.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <asm/prctl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>

#include "base/log.h"
#include "base/util.h"
#include "sandbox/sandbox.h"

/*
 * What the C library calls by itself: memory, locks, the ends of threads and signals.
 *
 * sandbox: all libc: brk, munmap, madvise, mremap(*, *, *, ~MREMAP_FIXED),
 *   mmap(*, *, ~PROT_EXEC), mprotect(*, *, ~PROT_EXEC), futex, sched_yield, sched_getaffinity,
 *   set_robust_list, rseq, sigaltstack, rt_sigprocmask, rt_sigreturn, restart_syscall,
 *   clock_gettime, sysinfo, getpid, gettid, tgkill(PID), exit, exit_group
 */
#define ROLE_LOOP (1 << SANDBOX_LOOP)
#define ROLE_VCPU (1 << SANDBOX_VCPU)
#define ROLE_WORKER (1 << SANDBOX_WORKER)
#define ROLE_SHARE (1 << SANDBOX_SHARE)
#define ROLE_NET (1 << SANDBOX_NET)
#define ROLE_NBD (1 << SANDBOX_NBD)
#define ROLE_KEEPER (1 << SANDBOX_KEEPER)
#define ROLE_ALL                                                                                   \
	(ROLE_LOOP | ROLE_VCPU | ROLE_WORKER | ROLE_SHARE | ROLE_NET | ROLE_NBD | ROLE_KEEPER)

/* What the C library makes a thread with */
#define CLONE_THREAD_FLAGS                                                                         \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |        \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

#define ARGS_MAX 6
#define TOLD_MAX 16

enum match { ANY, EQUAL, NONE_OF, OWN_PID };

struct arg {
	enum match match;
	uint32_t val;
};

struct rule {
	unsigned roles;
	int nr;
	struct arg args[ARGS_MAX];
};

#ifndef __NR_fchmodat2 /* Linux 6.6 */
#define __NR_fchmodat2 452
#endif

#include "sandbox_lists.h"

struct sandbox_filters {
	struct sock_fprog progs[SANDBOX_ROLES]; /* a length of 0: not made */
};

static const char *const role_names[SANDBOX_ROLES] = {
	[SANDBOX_LOOP] = "loop",     [SANDBOX_VCPU] = "vCPU",	[SANDBOX_WORKER] = "worker",
	[SANDBOX_SHARE] = "share",   [SANDBOX_NET] = "network", [SANDBOX_NBD] = "nbd",
	[SANDBOX_KEEPER] = "keeper",
};

/* For the handler alone: which list the thread has. */
static _Thread_local const char *thread_role = "a";

static void on_refused(int signo, siginfo_t *info, void *context)
{
	static atomic_uint told;
	ucontext_t *uc = context;

	if (atomic_fetch_add(&told, 1) < TOLD_MAX)
		log_error("sandbox: refused system call %d on %s thread", info->si_syscall,
			  thread_role);
	uc->uc_mcontext.gregs[REG_RAX] = -EPERM;
}

static int add_rule(scmp_filter_ctx ctx, const struct rule *r)
{
	struct scmp_arg_cmp cmp[ARGS_MAX];
	unsigned count = 0;

	for (unsigned i = 0; i < ARGS_MAX; i++) {
		const struct arg *a = &r->args[i];

		/* Arguments of these kinds are ints: the upper half is not looked at by the kernel.
		 */
		if (a->match == EQUAL)
			cmp[count++] = SCMP_CMP(i, SCMP_CMP_MASKED_EQ, 0xffffffffu, a->val);
		else if (a->match == NONE_OF)
			cmp[count++] = SCMP_CMP(i, SCMP_CMP_MASKED_EQ, a->val, 0);
		else if (a->match == OWN_PID)
			cmp[count++] =
			    SCMP_CMP(i, SCMP_CMP_MASKED_EQ, 0xffffffffu, (unsigned)getpid());
	}
	return seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, r->nr, count, cmp);
}

/* The compiled program as the kernel takes it. */
static int export(scmp_filter_ctx ctx, struct sock_fprog *prog)
{
	_cleanup_close_ int fd = memfd_create("eyot-filter", MFD_CLOEXEC);
	int ret = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
	off_t len = ret < 0 ? 0 : lseek(fd, 0, SEEK_END);

	if (ret < 0 || len <= 0)
		return ret < 0 ? ret : -EIO;
	prog->filter = malloc((size_t)len);
	if (!prog->filter)
		return -ENOMEM;
	if (pread(fd, prog->filter, (size_t)len, 0) != len)
		return -EIO;
	prog->len = (unsigned short)((size_t)len / sizeof(*prog->filter));
	return 0;
}

static int make(enum sandbox_role role, struct sock_fprog *prog)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int ret = ctx ? 0 : -ENOMEM;

	for (unsigned i = 0; i < ARRAY_SIZE(rules) && ret == 0; i++)
		if (rules[i].roles & 1u << role)
			ret = add_rule(ctx, &rules[i]);
	if (ret == 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (ret == 0)
		ret = export(ctx, prog);
	seccomp_release(ctx);
	return ret;
}

int sandbox_filters_new(unsigned roles, struct sandbox_filters **ret_filters, struct err *err)
{
	struct sigaction sa = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };
	struct sandbox_filters *f = calloc(1, sizeof(*f));
	int ret = f ? 0 : -ENOMEM;

	for (unsigned i = 0; i < SANDBOX_ROLES && ret == 0; i++)
		if (roles & 1u << i)
			ret = make((enum sandbox_role)i, &f->progs[i]);
	if (ret < 0) {
		sandbox_filters_free(f);
		return err_set(err, -ret, "sandbox: filters of system calls: %s", strerror(-ret));
	}
	sigaction(SIGSYS, &sa, NULL);
	*ret_filters = f;
	return 0;
}

void sandbox_filters_free(struct sandbox_filters *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < SANDBOX_ROLES; i++)
		free(f->progs[i].filter);
	free(f);
}

int sandbox_filter_thread(const struct sandbox_filters *f, enum sandbox_role role)
{
	sigset_t set;

	if (!f->progs[role].len)
		return -EINVAL;
	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	thread_role = role_names[role];
	/*
	 * Workers are made by the loop thread, under its filter: they may still put on their own.
	 *
	 * sandbox: loop: prctl(PR_SET_NO_NEW_PRIVS), seccomp(SECCOMP_SET_MODE_FILTER)
	 */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &f->progs[role]) < 0)
		return -errno;
	return 0;
}
