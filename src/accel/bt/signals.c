/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host signals of a vCPU's thread.
 *
 * Translated code may fault on copied instructions (#DE, #XM, #MF, alignment
 * #GP): the handler finds the guest instruction by the host address and sends
 * the thread to bt_landing(), which raises the guest's exception. The local
 * APIC's timer is a POSIX timer that signals the vCPU's own thread; its
 * handler only sets pending bits.
 *
 * Code with KEY_WINDOW has something of ours in fs. So handlers find the vCPU by gs, which is
 * always its, and give fs back to the C library before they call anything; on_timer() needs
 * neither.
 */
/* glibc's names for the registers of a signal frame collide with ours; they are GNU extensions. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE
#include <signal.h>
#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "accel/bt/cache.h"
#include "accel/bt/emit.h"
#include "accel/bt/window.h"

#define TIMER_SIGNAL (SIGRTMIN + 1)
/* No exceptions: what bt_window_fault() says */
#define SIGNAL_STEP 256
#define SIGNAL_RAISE 257

static bool has_fsgsbase;

/* ---- signals ---- */

void bt_landing(void)
{
	struct bt_cpu *cpu = bt_self;
	unsigned v = cpu->signal_vector;

	if (v == SIGNAL_STEP)
		bt_run_step(cpu);
	if (v == SIGNAL_RAISE)
		bt_raise_pf(cpu, cpu->window_pf.la, cpu->window_pf.error & ~(1u << 31));
	if (v == VEC_XM && !(cpu->st.cr4 & CR4_OSXMMEXCPT))
		v = VEC_UD;
	if (v == VEC_GP)
		bt_raise_err(cpu, v, 0);
	if (v == VEC_PF)
		bt_fail(cpu, VCPU_EXIT_ERROR,
			"internal error: translated code touched unmapped host memory");
	bt_raise(cpu, v);
}

/* Places in gregs[] (sys/ucontext.h of glibc, x86-64) */
enum {
	G_R8,
	G_R9,
	G_R10,
	G_R11,
	G_R12,
	G_R13,
	G_R14,
	G_R15,
	G_RDI,
	G_RSI,
	G_RBP,
	G_RBX,
	G_RDX,
	G_RAX,
	G_RCX,
	G_RSP,
	G_RIP,
	G_EFL,
	G_SEGS,
	G_ERR,
	G_TRAPNO
};

static void handle_fault(struct bt_cpu *cpu, int signo, siginfo_t *info, ucontext_t *uc)
{
	static const int8_t from[16] = { G_RAX, G_RCX, G_RDX, G_RBX, G_R15, G_RBP, G_RSI, G_RDI,
					 G_R8,	G_R9,  -1,    -1,    G_R12, G_R13, G_R14, -1 };
	greg_t *g = uc->uc_mcontext.gregs;
	const uint8_t *pc = (const uint8_t *)g[G_RIP];
	struct bt_cache *c = cpu ? cpu->vm->cache : NULL;

	if (!c || pc < c->base || pc >= c->base + c->size) {
		/* sandbox: loop vcpu: rt_sigaction */
		signal(signo,
		       SIG_DFL); /* a bug of ours: die by the signal when the instruction repeats */
		return;
	}

	struct bt_block *b = bt_cache_block_at(c, pc);
	const struct bt_fault_site *site = b ? bt_cache_fault_site(c, b, pc) : NULL;

	enum window_answer window = WINDOW_STEP;

	if (site && site->window && g[G_TRAPNO] == VEC_PF) {
		window = bt_window_fault(cpu, (uintptr_t)pc, (uintptr_t)info->si_addr,
					 g[G_ERR] & PF_ERR_W);
		if (window == WINDOW_AGAIN)
			return;
	}
	for (unsigned i = 0; i < 16; i++)
		cpu->st.regs[i] = from[i] >= 0 ? (uint64_t)g[from[i]] : cpu->home[HOME_INDEX(i)];
	cpu->signal_vector = g[G_TRAPNO];
	if (site && site->window && (signo == SIGSEGV || signo == SIGBUS))
		cpu->signal_vector = window == WINDOW_RAISE ? SIGNAL_RAISE : SIGNAL_STEP;
	if (!site) {
		cpu->signal_vector = VEC_PF;
	} else {
		cpu->st.rip = bt_page_rip(cpu, site->guest_off);
		if (site->flags_in_slot)
			bt_flags_from_slot(cpu);
		else
			cpu->st.rflags =
			    (cpu->st.rflags & ~(uint64_t)FL_ARITH) | (g[G_EFL] & FL_ARITH);
	}
	if (cpu->signal_vector == SIGNAL_STEP)
		cpu->stat_window_steps++;
	g[G_RIP] = (greg_t)c->stubs.landing;
	g[G_RSP] = cpu->host_rsp;
}

static void on_fault(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	struct bt_cpu *cpu;
	uint64_t fs;

	if (!has_fsgsbase) {
		handle_fault(bt_self, signo, info, context);
		return;
	}
	__asm__ volatile("rdgsbase %0" : "=r"(cpu));
	if (!cpu) {
		handle_fault(NULL, signo, info, context);
		return;
	}
	__asm__ volatile("rdfsbase %0" : "=r"(fs));
	__asm__ volatile("wrfsbase %0" : : "r"(cpu->host_fs) : "memory");
	handle_fault(cpu, signo, info, context);
	if (uc->uc_mcontext.gregs[G_RIP] != (greg_t)cpu->vm->cache->stubs.landing)
		__asm__ volatile("wrfsbase %0" : : "r"(fs) : "memory");
}

static void on_timer(int signo, siginfo_t *info, void *context)
{
	struct bt_cpu *cpu = info->si_value.sival_ptr;

	atomic_fetch_or(&cpu->pending, PENDING_TIMER | PENDING_EVENT);
	atomic_fetch_add(&cpu->futex, 1);
}

void bt_install_signals(void)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	has_fsgsbase = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sa.sa_sigaction = on_timer;
	sa.sa_flags = SA_SIGINFO | SA_RESTART;
	sigaction(TIMER_SIGNAL, &sa, NULL);
}

/* The vCPU's thread, first time: gs, signals, timer. */
void bt_bind_thread(struct bt_cpu *cpu)
{
	sigset_t set;
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID,
			       .sigev_signo = TIMER_SIGNAL,
			       .sigev_value.sival_ptr = cpu };

	bt_self = cpu;
	/* the ABI's thread control block starts with its own address */
	__asm__ volatile("mov %%fs:0, %0" : "=r"(cpu->host_fs));
	/* sandbox: vcpu: arch_prctl(ARCH_SET_GS) */
	syscall(SYS_arch_prctl, ARCH_SET_GS, cpu);
	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	sigaddset(&set, SIGFPE);
	sigaddset(&set, SIGILL);
	sigaddset(&set, TIMER_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	ev._sigev_un._tid = syscall(SYS_gettid);
	if (cpu->timer_made)
		/* sandbox: vcpu: timer_delete, timer_create */
		timer_delete(cpu->timer);
	cpu->timer_made = timer_create(CLOCK_MONOTONIC, &ev, &cpu->timer) == 0;
	if (cpu->timer_deadline_ns)
		cpu->lapic_ops->timer_arm(cpu, cpu->timer_deadline_ns);
}
