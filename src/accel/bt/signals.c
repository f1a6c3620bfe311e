/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host signals of a vCPU's thread.
 *
 * Translated code may fault on copied instructions (#DE, #XM, #MF, alignment
 * #GP): the handler finds the guest instruction by the host address and sends
 * the thread to bt_landing(), which raises the guest's exception. The local
 * APIC's timer is a POSIX timer that signals the vCPU's own thread; its
 * handler only sets pending bits.
 */
/* glibc's names for the registers of a signal frame collide with ours; they are GNU extensions. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE
#include <signal.h>
#include <asm/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

#define TIMER_SIGNAL (SIGRTMIN + 1)

/* ---- signals ---- */

void bt_landing(void)
{
	struct bt_cpu *cpu = bt_self;
	unsigned v = cpu->signal_vector;

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

static void on_fault(int signo, siginfo_t *info, void *context)
{
	static const int8_t from[16] = { G_RAX, G_RCX, G_RDX, G_RBX, G_R15, G_RBP, G_RSI, G_RDI,
					 G_R8,	G_R9,  -1,    -1,    G_R12, G_R13, G_R14, -1 };
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	struct bt_cpu *cpu = bt_self;
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

	for (unsigned i = 0; i < 16; i++)
		cpu->st.regs[i] = from[i] >= 0 ? (uint64_t)g[from[i]] : cpu->home[HOME_INDEX(i)];
	cpu->signal_vector = g[G_TRAPNO];
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
	g[G_RIP] = (greg_t)c->stubs.landing;
	g[G_RSP] = cpu->host_rsp;
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
