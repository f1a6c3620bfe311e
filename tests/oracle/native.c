/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native side: the host CPU runs the case.
 *
 * The pages of a case are mapped in this process at the addresses that the
 * guest uses; the program itself is position-independent and lives far away.
 * Every exception arrives as a signal whose frame holds the registers, the
 * XSAVE area and, from the kernel, vector, error code and fault address.
 *
 * Nothing a case does may reach the system: a seccomp filter stops every
 * system call made from below 4 GiB, and a timer ends cases that loop.
 */
#include <elf.h>
#include <errno.h>
#include <immintrin.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "oracle.h"

#define TICK_US 4000
#define ALT_STACK_BYTES 65536
#define HWCAP2_FSGSBASE_BIT 2

struct native {
	struct oracle_image image;
	uint8_t *live[PAGE_COUNT];
};

/* The handler can only find its state in globals: one case runs at a time in this process. */
uint64_t native_libc_fs;
static struct oracle_result *running; /* NULL between cases */
static uint64_t case_seq, tick_seq;

struct native_segs { /* what native_sig_entry found */
	uint64_t fs_base, gs_base;
	uint16_t ds, es, fs, gs;
};

void native_enter(const struct oracle_state *st);
void native_sig_entry(int sig, siginfo_t *info, void *uc);
int native_signal(int sig, siginfo_t *info, void *ucv, const struct native_segs *segs);

static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				     REG_RSI, REG_RDI, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15 };

static void keep_state(struct oracle_result *res, const ucontext_t *uc,
		       const struct native_segs *segs)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	struct oracle_state *o = &res->out;

	for (unsigned i = 0; i < 16; i++)
		o->gpr[i] = g[greg_of[i]];
	o->rip = g[REG_RIP];
	o->rflags = g[REG_EFL];
	o->cs = g[REG_CSGSFS] & 0xffff;
	o->ss = (uint64_t)g[REG_CSGSFS] >> 48;
	o->fs_base = segs->fs_base;
	o->gs_base = segs->gs_base;
	o->ds = segs->ds;
	o->es = segs->es;
	o->fs = segs->fs;
	o->gs = segs->gs;
	memcpy(o->xsave, uc->uc_mcontext.fpregs, XSAVE_BYTES);
	res->vector = g[REG_TRAPNO];
	res->error = g[REG_ERR];
	res->cr2 = g[REG_CR2];
}

/* From native_sig_entry: 0 to go on with what was interrupted, 1 to end the case. */
int native_signal(int sig, siginfo_t *info, void *ucv, const struct native_segs *segs)
{
	if (sig == SIGPROF) {
		bool stuck = running && tick_seq == case_seq;

		tick_seq = case_seq;
		if (!stuck)
			return 0;
		running->status = RES_TIMEOUT;
		return 1;
	}
	if (!running) {
		static const char text[] = "native side: a fault of its own\n";

		(void)!write(2, text, sizeof(text) - 1);
		_exit(4);
	}
	running->status = sig == SIGSYS ? RES_SYSCALL : RES_OK;
	keep_state(running, ucv, segs);
	return 1;
}

static int map_pages(struct native *n)
{
	static const struct {
		unsigned first, count;
		int prot;
	} groups[] = {
		{ PAGE_CODE0, 2, PROT_READ | PROT_WRITE | PROT_EXEC },
		{ PAGE_DATA0, 4, PROT_READ | PROT_WRITE },
		{ PAGE_HIGH, 1, PROT_READ | PROT_WRITE },
		{ PAGE_LOW, 1, PROT_READ | PROT_WRITE },
	};

	for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		uint64_t va = oracle_page_va[groups[i].first];

		if (groups[i].first == PAGE_LOW && !oracle_low_page)
			continue;
		size_t len = (size_t)groups[i].count * PAGE;
		void *p =
		    mmap((void *)va, len, groups[i].prot,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);

		if (p != (void *)va) {
			fprintf(stderr, "native side: cannot map %#lx: %s\n", (unsigned long)va,
				strerror(errno));
			return -1;
		}
		for (unsigned k = 0; k < groups[i].count; k++)
			n->live[groups[i].first + k] = (uint8_t *)p + (size_t)k * PAGE;
	}
	memset(n->live[PAGE_CODE0], 0xcc, 2 * PAGE);
	mprotect(n->live[PAGE_RO], PAGE, PROT_READ);
	return 0;
}

/*
 * System calls of the case become SIGSYS: those of 32-bit code, which may return elsewhere than
 * they came from, and those with an instruction pointer below 4 GiB.
 */
static int stop_syscalls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0) {
		fprintf(stderr, "native side: cannot install a seccomp filter: %s\n",
			strerror(errno));
		return -1;
	}
	return 0;
}

static int catch_signals(void)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGPROF };
	struct itimerval tick = { { 0, TICK_US }, { 0, TICK_US } };
	struct sigaction sa = { .sa_sigaction = native_sig_entry,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t alt = { .ss_size = ALT_STACK_BYTES };

	alt.ss_sp =
	    mmap(NULL, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (alt.ss_sp == MAP_FAILED || sigaltstack(&alt, NULL) < 0) {
		fprintf(stderr, "native side: cannot set a signal stack: %s\n", strerror(errno));
		return -1;
	}
	for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		sigaction(sigs[i], &sa, NULL);
	setitimer(ITIMER_PROF, &tick, NULL);
	return 0;
}

static int native_init(void **ret_ctx)
{
	struct native *n;

	if (!(getauxval(AT_HWCAP2) & (1u << (HWCAP2_FSGSBASE_BIT - 1))) ||
	    !__builtin_cpu_supports("avx")) {
		fprintf(stderr, "native side: needs a CPU and kernel with FSGSBASE and AVX\n");
		return -2;
	}
	n = calloc(1, sizeof(*n));
	if (!n || map_pages(n) < 0)
		return -1;
	__asm__ volatile("rdfsbase %0" : "=r"(native_libc_fs));
	if (catch_signals() < 0 || stop_syscalls() < 0)
		return -1;
	*ret_ctx = n;
	return 0;
}

static void run_one(struct native *n, const struct oracle_case *c, struct oracle_result *res)
{
	uint64_t off = c->in.rip - CODE_BASE;
	size_t len = c->code_len;

	image_set(&n->image, c);
	for (unsigned p = PAGE_DATA0; p < PAGE_COUNT; p++) {
		if (!n->live[p])
			continue;
		if (p == PAGE_RO) {
			if (!memcmp(n->live[p], n->image.pages[p], PAGE))
				continue;
			mprotect(n->live[p], PAGE, PROT_READ | PROT_WRITE);
			memcpy(n->live[p], n->image.pages[p], PAGE);
			mprotect(n->live[p], PAGE, PROT_READ);
		} else if (memcmp(n->live[p], n->image.pages[p], PAGE)) {
			memcpy(n->live[p], n->image.pages[p], PAGE);
		}
	}
	if (off + len > 2 * PAGE)
		len = 2 * PAGE - off;
	memcpy(n->live[0] + off, c->code, len);

	memset(res, 0, offsetof(struct oracle_result, pages));
	case_seq++;
	running = res;
	native_enter(&c->in);
	running = NULL;

	image_collect(&n->image, n->live, res, 0);
	image_unset(&n->image, c);
	memset(n->live[0] + off, 0xcc, len);
}

static void native_run(void *ctx, const struct oracle_case *cases, struct oracle_result *results,
		       unsigned from, unsigned n, volatile unsigned *cur)
{
	for (unsigned i = from; i < n; i++) {
		*cur = i;
		run_one(ctx, &cases[i], &results[i]);
	}
}

const struct oracle_side side_native = { "native", native_init, native_run };
