/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop: from translated code to C and back, finding blocks, events,
 * sleep, signals; and the accelerator's interface.
 *
 * Safe points: the top of the loop, and sleep. A vCPU that wants all others to
 * stand still (bt_exclusive_begin) waits until each is at one (in_code false).
 *
 * Signals: translated code may fault on copied instructions (#DE, #XM, #MF,
 * alignment #GP); the handler finds the guest instruction by the host address
 * and sends the thread to bt_landing(), which raises the guest's exception.
 */
/* glibc's names for the registers of a signal frame collide with ours; they are GNU extensions. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <asm/prctl.h>
#include <sys/syscall.h>
#include <stdio.h>
#include <ucontext.h>

#include "accel/bt/cache.h"
#include "accel/bt/sys.h"
#include "base/log.h"
#include "hw/ioapic.h"
#include "hw/pic.h"

#define CACHE_DEFAULT MIB(64)
#define CACHE_SMALL MIB(1) /* debug option small-cache: starts anew all the time */
#define TIMER_SIGNAL (SIGRTMIN + 1)

static __thread struct bt_cpu *self;

/* ---- time ---- */

static uint64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

static uint64_t rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

uint64_t bt_guest_tsc(struct bt_cpu *cpu)
{
	return rdtsc() + cpu->tsc_offset;
}

static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	return (unsigned __int128)a * b / c;
}

/* Host TSC frequency against CLOCK_MONOTONIC, over about 4 ms. */
static uint64_t measure_tsc_khz(void)
{
	uint64_t n0 = mono_ns(), t0 = rdtsc(), n1, t1;

	do {
		n1 = mono_ns();
		t1 = rdtsc();
	} while (n1 - n0 < 4000000);
	return mul_div(t1 - t0, 1000000, n1 - n0);
}

/* ---- exceptions ---- */

static _Noreturn void unwind(struct bt_cpu *cpu)
{
	__builtin_longjmp(cpu->jmp, 1);
}

_Noreturn void bt_raise(struct bt_cpu *cpu, unsigned vector)
{
	cpu->exc.valid = true;
	cpu->exc.has_error = cpu->exc.soft = false;
	cpu->exc.vector = vector;
	cpu->exc.error = 0;
	unwind(cpu);
}

_Noreturn void bt_raise_err(struct bt_cpu *cpu, unsigned vector, uint32_t error)
{
	cpu->exc.valid = cpu->exc.has_error = true;
	cpu->exc.soft = false;
	cpu->exc.vector = vector;
	cpu->exc.error = error;
	unwind(cpu);
}

_Noreturn void bt_raise_pf(struct bt_cpu *cpu, uint64_t la, uint32_t error)
{
	cpu->exc.cr2 = la;
	bt_raise_err(cpu, VEC_PF, error);
}

_Noreturn void bt_fail(struct bt_cpu *cpu, enum vcpu_exit_reason reason, const char *text)
{
	unsigned i = 0;

	cpu->exit->reason = reason;
	cpu->exit->rip = cpu->st.rip;
	for (; text[i] && i + 1 < sizeof(cpu->exit->text); i++)
		cpu->exit->text[i] = text[i];
	cpu->exit->text[i] = 0;
	cpu->exit_wanted = true;
	unwind(cpu);
}

/* ---- FPU state ---- */

void bt_fpu_park(struct bt_cpu *cpu)
{
	static const uint32_t mxcsr = 0x1f80;

	if (cpu->fpu_parked)
		return;
	__asm__ volatile("xsave %0" : "=m"(cpu->st.xsave) : "a"(7), "d"(0) : "memory");
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	cpu->fpu_parked = true;
}

void bt_fpu_unpark(struct bt_cpu *cpu)
{
	if (!cpu->fpu_parked)
		return;
	__asm__ volatile("xrstor %0" : : "m"(cpu->st.xsave), "a"(7), "d"(0) : "memory");
	cpu->fpu_parked = false;
}

uint64_t bt_pio_read(struct bt_cpu *cpu, uint16_t port, unsigned size)
{
	bt_fpu_park(cpu);
	return bus_read(cpu->vm->pio, port, size);
}

void bt_pio_write(struct bt_cpu *cpu, uint16_t port, unsigned size, uint64_t val)
{
	bt_fpu_park(cpu);
	bus_write(cpu->vm->pio, port, size, val);
}

/* ---- waking and stopping ---- */

static void wake(struct bt_cpu *cpu, unsigned bits)
{
	atomic_fetch_or(&cpu->pending, bits);
	atomic_fetch_add(&cpu->futex, 1);
	if (atomic_load(&cpu->asleep)) /* set before the sleeper looks at pending */
		syscall(SYS_futex, &cpu->futex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void bt_exclusive_begin(struct bt_vm *vm, struct bt_cpu *me)
{
	if (me)
		atomic_store(&me->in_code, false);
	pthread_mutex_lock(&vm->exclusive);
	atomic_store(&vm->stopping, true);
	for (unsigned i = 0; i < vm->count; i++) {
		struct bt_cpu *cpu = vm->cpus[i];

		if (!cpu || cpu == me)
			continue;
		while (atomic_load(&cpu->in_code)) {
			atomic_fetch_or(&cpu->pending, PENDING_EVENT);
			sched_yield();
		}
	}
}

void bt_exclusive_end(struct bt_vm *vm)
{
	/* before the lock goes: who takes it next must wait for this vCPU, too */
	if (self)
		atomic_store(&self->in_code, true);
	atomic_store(&vm->stopping, false);
	pthread_mutex_unlock(&vm->exclusive);
}

/* Let an exclusive section pass; afterwards in_code is set. */
static void safe_point(struct bt_cpu *cpu)
{
	if (!atomic_load_explicit(&cpu->in_code, memory_order_relaxed))
		atomic_store(&cpu->in_code, true);
	while (atomic_load(&cpu->vm->stopping)) {
		atomic_store(&cpu->in_code, false);
		pthread_mutex_lock(&cpu->vm->exclusive);
		pthread_mutex_unlock(&cpu->vm->exclusive);
		atomic_store(&cpu->in_code, true);
	}
}

static void sleep_until_event(struct bt_cpu *cpu)
{
	unsigned seq = atomic_load(&cpu->futex);

	atomic_store(&cpu->in_code, false);
	atomic_store(&cpu->asleep, true);
	/* The LAPIC timer's signal ends the sleep, too: it changes the futex. */
	if (!atomic_load(&cpu->pending))
		syscall(SYS_futex, &cpu->futex, FUTEX_WAIT_PRIVATE, seq, NULL, NULL, 0);
	atomic_store(&cpu->asleep, false);
}

/* ---- finding blocks ---- */

static uint64_t code_linear(const struct bt_cpu *cpu)
{
	return bt_64bit(cpu) ? cpu->st.rip : (uint32_t)(cpu->st.segs[SEG_CS].base + cpu->st.rip);
}

static bool drop_write_tags(struct bt_cpu *cpu, uint64_t host, bool only_look)
{
	bool found = false;

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		struct bt_tlb *t = &cpu->tlb[k];

		for (unsigned i = 0; i < TLB_SIZE; i++) {
			if (t->host[i] != host || (t->write[i] >> PAGE_SHIFT & (TLB_SIZE - 1)) != i)
				continue;
			found = true;
			if (!only_look)
				t->write[i] = ~t->write[i];
		}
	}
	return found;
}

/*
 * Make sure that writes to a RAM page are noticed from now on. vm->lock is held; false when
 * it was dropped meanwhile (other vCPUs had to be stopped).
 */
static bool own_page(struct bt_cpu *cpu, uint64_t gpa, const uint8_t *host)
{
	struct bt_vm *vm = cpu->vm;
	int64_t page = ram_page(vm->mem, gpa);
	bool others = false;

	if (page < 0 || vm->mem->code_map[page])
		return true;
	__atomic_store_n(&vm->mem->code_map[page], 1, __ATOMIC_SEQ_CST);
	drop_write_tags(cpu, (uintptr_t)host, false);
	for (unsigned i = 0; i < vm->count && !others; i++)
		if (vm->cpus[i] && vm->cpus[i] != cpu)
			others = drop_write_tags(vm->cpus[i], (uintptr_t)host, true);
	if (!others)
		return true;
	pthread_mutex_unlock(&vm->lock);
	bt_exclusive_begin(vm, cpu);
	for (unsigned i = 0; i < vm->count; i++)
		if (vm->cpus[i])
			drop_write_tags(vm->cpus[i], (uintptr_t)host, false);
	bt_exclusive_end(vm);
	pthread_mutex_lock(&vm->lock);
	return false;
}

/* The block at st.rip under the current key and @key_bits; translates it when there is none. Raises
 * fetch faults. */
static struct bt_block *find_block(struct bt_cpu *cpu, uint32_t key_bits, bool *ret_global)
{
	static const uint8_t ones[PAGE_SIZE] = { [0 ... PAGE_SIZE - 1] = 0xff };
	struct bt_vm *vm = cpu->vm;
	uint64_t la = code_linear(cpu);
	unsigned off = la & (PAGE_SIZE - 1);
	struct bt_fetch f, f2 = { 0 };
	struct bt_block *b;

	bt_fetch_page(cpu, la, false, &f);
	if (!f.host)
		f.host = ones;
	if (off > PAGE_SIZE - INSN_MAX) {
		uint64_t next = (la | (PAGE_SIZE - 1)) + 1;

		if (!bt_fetch_page(cpu, bt_long_mode(cpu) ? next : (uint32_t)next, true, &f2)) {
			struct insn in;

			f2 = (struct bt_fetch) { 0 };
			if (insn_decode(cpu->key & KEY_MODE_MASK, f.host + off, PAGE_SIZE - off,
					&in) == -EAGAIN)
				bt_fetch_page(cpu, bt_long_mode(cpu) ? next : (uint32_t)next, false,
					      &f2);
		} else if (!f2.host) {
			f2.host = ones;
		}
	}

	uint64_t gpa = f.gpa + off, gpa_key = gpa << 12 | cpu->key | key_bits;
	struct bt_find *lately =
	    &cpu->find[(gpa ^ gpa >> 12 ^ (cpu->key | key_bits) << 4) & (FIND_SIZE - 1)];

	/* Blocks stay where they are until the cache starts anew, which empties find[], too. */
	if (lately->gpa_key == gpa_key && lately->block &&
	    __atomic_load_n(&lately->block->valid, __ATOMIC_ACQUIRE) &&
	    (!lately->block->gpa2 || lately->block->gpa2 == f2.gpa)) {
		*ret_global = f.global && (!lately->block->gpa2 || f2.global);
		return lately->block;
	}
	pthread_mutex_lock(&vm->lock);
again:
	b = bt_cache_find(vm, gpa, f2.gpa, cpu->key | key_bits);
	if (!b) {
		if (!bt_cache_room(vm->cache)) {
			pthread_mutex_unlock(&vm->lock);
			bt_exclusive_begin(vm, cpu);
			pthread_mutex_lock(&vm->lock);
			if (!bt_cache_room(vm->cache))
				bt_cache_flush(vm);
			pthread_mutex_unlock(&vm->lock);
			bt_exclusive_end(vm);
			pthread_mutex_lock(&vm->lock);
			goto again;
		}
		if (!own_page(cpu, gpa, f.host) || (f2.host && !own_page(cpu, f2.gpa, f2.host)))
			goto again;
		b = bt_translate(cpu, cpu->key | key_bits, gpa, f.host + off, PAGE_SIZE - off,
				 f2.host, f2.gpa);
		bt_cache_insert(vm, b);
	}
	lately->gpa_key = gpa_key;
	lately->block = b;
	*ret_global = f.global && (!b->gpa2 || f2.global);
	pthread_mutex_unlock(&vm->lock);
	return b;
}

static void jc_insert(struct bt_cpu *cpu, struct bt_block *b, bool global)
{
	unsigned class = bt_jc_class(b->key), i = bt_jc_index(cpu->st.rip);

	if (b->key & (KEY_ONE | KEY_PLAIN))
		return;
	struct bt_jc *jc = &cpu->jc[class];
	unsigned beside = i ^ 1;

	if (jc->rip[i] != cpu->st.rip && bt_jc_index(jc->rip[i]) == i) {
		jc->rip[beside] = jc->rip[i];
		jc->code[beside] = jc->code[i];
	} else if (jc->rip[beside] == cpu->st.rip) {
		jc->rip[beside] = bt_jc_invalid(beside);
	}
	jc->rip[i] = cpu->st.rip;
	jc->code[i] = cpu->vm->cache->base + b->jc_entry;
	cpu->jc_used |= 1u << class;

	unsigned group = class != JC_USER64 && class != JC_USER32;

	for (uint64_t page = code_linear(cpu) >> PAGE_SHIFT, end = page + (b->gpa2 != 0);
	     page <= end; page++)
		cpu->jc_pages[group][page % JC_PAGES / 64] |= 1ull << (page & 63);
	if (!global)
		cpu->jc_nonglobal |= 1u << class;
}

/* ---- entering and leaving translated code ---- */

static void flags_from_slot(struct bt_cpu *cpu)
{
	cpu->st.rflags = (cpu->st.rflags & ~(uint64_t)FL_ARITH) | (cpu->flag_slot >> 8 & 0xd5) |
			 (cpu->flag_slot & 1) << 11;
}

static void prepare(struct bt_cpu *cpu)
{
	cpu->flag_slot = (cpu->st.rflags & 0xd5) << 8 | (cpu->st.rflags >> 11 & 1);
	bt_fpu_unpark(cpu);
}

static uint64_t page_rip(struct bt_cpu *cpu, int32_t off)
{
	uint64_t rip = cpu->vbase + off;

	return bt_64bit(cpu)				 ? rip
	       : cpu->st.segs[SEG_CS].attr & SEG_ATTR_DB ? (uint32_t)rip
							 : (uint16_t)rip;
}

/* Translated code came back through @e. */
static void left(struct bt_cpu *cpu, struct bt_exit *e)
{
	bool global;
	struct bt_block *b;
	uint64_t flushes;

	flags_from_slot(cpu);
	cpu->stat_exits[e->kind]++;
	switch ((enum bt_exit_kind)e->kind) {
	case EXIT_INDIRECT:
		cpu->st.rip = cpu->arg[0];
		if (!atomic_load(&cpu->pending) && !(cpu->key & KEY_ONE)) {
			b = find_block(cpu, 0, &global);
			jc_insert(cpu, b, global);
		}
		break;
	case EXIT_DIRECT:
		cpu->st.rip = page_rip(cpu, e->target_off);
		flushes = cpu->vm->cache->stat_flushes;
		b = find_block(cpu, e->key_bits, &global);
		jc_insert(cpu, b, global);
		pthread_mutex_lock(&cpu->vm->lock);
		if (!cpu->vm->opt_nolink && flushes == cpu->vm->cache->stat_flushes && b->valid &&
		    !(b->gpa2 && (b->key & KEY_PLAIN)))
			bt_cache_link(cpu->vm->cache, e, b); /* after a flush *e is gone */
		cpu->resume = b;
		cpu->resume_rip = cpu->st.rip;
		cpu->resume_flushes = cpu->vm->cache->stat_flushes;
		pthread_mutex_unlock(&cpu->vm->lock);
		break;
	case EXIT_SYS:
		cpu->st.rip = page_rip(cpu, e->guest_off);
		bt_sys_insn(cpu, e->insn);
		break;
	case EXIT_NEXT:
	case EXIT_POLL:
		cpu->st.rip = page_rip(cpu, e->target_off);
		break;
	}
}

static void run_blocks(struct bt_cpu *cpu)
{
	unsigned class = bt_jc_class(cpu->key);

	if (class == JC_OTHER && cpu->jc_other_key != cpu->key) {
		bt_jc_clear(cpu, 1u << JC_OTHER);
		cpu->jc_other_key = cpu->key;
	}
	prepare(cpu);

	struct bt_block *b = cpu->resume;

	if (b) {
		cpu->resume = NULL;
		if (cpu->resume_flushes == cpu->vm->cache->stat_flushes &&
		    cpu->resume_rip == cpu->st.rip && (b->key & ~KEY_PLAIN) == cpu->key &&
		    b->valid && !b->gpa2) {
			cpu->vbase = cpu->st.rip - b->page_off;
			left(cpu, (struct bt_exit *)cpu->vm->cache->stubs.enter_at(
				      cpu, cpu->vm->cache->base + b->entry));
			return;
		}
	}
	left(cpu, (struct bt_exit *)cpu->vm->cache->stubs.enter_jc(
		      cpu, offsetof(struct bt_cpu, jc) + class * sizeof(struct bt_jc) +
			       offsetof(struct bt_jc, code)));
}

static void run_one(struct bt_cpu *cpu)
{
	bool tf = cpu->st.rflags & FL_TF, shadow = cpu->int_shadow, global;
	struct bt_block *b;

	if (cpu->st.dr7 & 0xff)
		bt_debug_code(cpu, code_linear(cpu));
	b = find_block(cpu, 0, &global);
	cpu->int_shadow = false;
	prepare(cpu);
	cpu->vbase = cpu->st.rip - b->page_off;
	left(cpu, (struct bt_exit *)cpu->vm->cache->stubs.enter_at(cpu, cpu->vm->cache->base +
									    b->entry));
	if (shadow && !cpu->int_shadow)
		bt_update_key(cpu);
	if (tf || (cpu->st.dr7 & 0xff))
		bt_debug_after(cpu, tf);
}

/* ---- events ---- */

static void take_events(struct bt_cpu *cpu)
{
	unsigned p = atomic_exchange(&cpu->pending, 0), ev;
	uint8_t vector;

	if (p & PENDING_TIMER)
		lapic_timer_fire(cpu->lapic);
	if (atomic_exchange(&cpu->kicked, false)) {
		cpu->exit->reason = VCPU_EXIT_KICKED;
		cpu->exit->rip = cpu->st.rip;
		cpu->exit->text[0] = 0;
		cpu->exit_wanted = true;
		atomic_fetch_or(&cpu->pending, PENDING_EVENT); /* look at the rest when run again */
		return;
	}
	ev = lapic_take_events(cpu->lapic,
			       LAPIC_EV_INIT | LAPIC_EV_NMI | (cpu->wait_sipi ? LAPIC_EV_SIPI : 0),
			       &vector);
	if (ev & LAPIC_EV_NMI)
		cpu->nmi_pending = true;
	if (ev & LAPIC_EV_INIT) {
		bt_cpu_reset(cpu, true);
		cpu->nmi_pending = false;
		ev |= lapic_take_events(cpu->lapic, LAPIC_EV_SIPI, &vector) & LAPIC_EV_SIPI;
	}
	if ((ev & LAPIC_EV_SIPI) && cpu->wait_sipi)
		bt_cpu_sipi(cpu, vector);
}

/* The next maskable interrupt that the CPU may take now; -1: none. */
static int next_interrupt(struct bt_cpu *cpu)
{
	bool ext = cpu->index == 0 && pic_pending(cpu->vm->pic) && lapic_takes_extint(cpu->lapic);

	cpu->irq_waiting = ext || lapic_pending(cpu->lapic) >= 0;
	if (!cpu->irq_waiting || !(cpu->st.rflags & FL_IF) || cpu->int_shadow)
		return -1;
	return ext ? pic_ack(cpu->vm->pic) : lapic_ack(cpu->lapic);
}

static void run_loop(struct bt_cpu *cpu)
{
	int vector;

	__builtin_setjmp(cpu->jmp);
	cpu = self;
	while (!cpu->exit_wanted) {
		safe_point(cpu);
		if (cpu->exc.valid) {
			bt_deliver_exception(cpu);
			continue;
		}
		if (atomic_load_explicit(&cpu->pending, memory_order_relaxed)) {
			take_events(cpu);
			if (cpu->exit_wanted)
				break;
		}
		if (cpu->wait_sipi) {
			sleep_until_event(cpu);
			continue;
		}
		if (cpu->nmi_pending && !cpu->nmi_masked && !cpu->int_shadow) {
			cpu->nmi_pending = cpu->halted = false;
			bt_deliver_interrupt(cpu, VEC_NMI);
			continue;
		}
		vector = next_interrupt(cpu);
		if (vector >= 0) {
			cpu->halted = false;
			bt_deliver_interrupt(cpu, vector);
			continue;
		}
		if (cpu->halted) {
			cpu->int_shadow = false;
			bt_update_key(cpu);
			sleep_until_event(cpu);
			continue;
		}
		if (cpu->key & KEY_ONE)
			run_one(cpu);
		else
			run_blocks(cpu);
	}
	atomic_store(&cpu->in_code, false);
}

/* ---- signals ---- */

void bt_landing(void)
{
	struct bt_cpu *cpu = self;
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
	struct bt_cpu *cpu = self;
	const uint8_t *pc = (const uint8_t *)g[G_RIP];
	struct bt_cache *c = cpu ? cpu->vm->cache : NULL;

	if (!c || pc < c->base || pc >= c->base + c->size) {
		signal(signo,
		       SIG_DFL); /* a bug of ours: die by the signal when the instruction repeats */
		return;
	}

	struct bt_block *b = bt_cache_block_at(c, pc);
	const struct bt_fault_site *site = b ? bt_cache_fault_site(c, b, pc) : NULL;

	for (unsigned i = 0; i < 16; i++)
		if (from[i] >= 0)
			cpu->st.regs[i] = g[from[i]];
	cpu->signal_vector = g[G_TRAPNO];
	if (!site) {
		cpu->signal_vector = VEC_PF;
	} else {
		cpu->st.rip = page_rip(cpu, site->guest_off);
		if (site->flags_in_slot)
			flags_from_slot(cpu);
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

static void install_signals(void)
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
static void bind_thread(struct bt_cpu *cpu)
{
	sigset_t set;
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID,
			       .sigev_signo = TIMER_SIGNAL,
			       .sigev_value.sival_ptr = cpu };

	self = cpu;
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
		timer_delete(cpu->timer);
	cpu->timer_made = timer_create(CLOCK_MONOTONIC, &ev, &cpu->timer) == 0;
	if (cpu->timer_deadline_ns)
		cpu->lapic_ops->timer_arm(cpu, cpu->timer_deadline_ns);
}

/* ---- local APIC callbacks ---- */

static void op_kick(void *opaque)
{
	wake(opaque, PENDING_EVENT);
}

static void op_timer_arm(void *opaque, uint64_t deadline_ns)
{
	struct bt_cpu *cpu = opaque;
	struct itimerspec its = { .it_value = { deadline_ns / 1000000000u,
						deadline_ns % 1000000000u } };

	cpu->timer_deadline_ns = deadline_ns;
	if (cpu->timer_made)
		syscall(SYS_timer_settime, (long)(intptr_t)cpu->timer, TIMER_ABSTIME, &its, NULL);
}

static uint64_t op_now_ns(void *opaque)
{
	return mono_ns();
}

static uint64_t op_guest_tsc(void *opaque)
{
	return bt_guest_tsc(opaque);
}

static uint64_t op_tsc_to_ns(void *opaque, uint64_t tsc)
{
	struct bt_cpu *cpu = opaque;
	uint64_t now = bt_guest_tsc(cpu), ns = mono_ns();

	if ((int64_t)(tsc - now) <= 0)
		return ns;
	if (tsc - now > (uint64_t)cpu->vm->tsc_khz * 1000 * 86400 * 365)
		return ns + 86400ull * 365 * 1000000000;
	return ns + mul_div(tsc - now, 1000000, cpu->vm->tsc_khz);
}

static void op_eoi(void *opaque, uint8_t vector)
{
	struct bt_cpu *cpu = opaque;

	ioapic_eoi(cpu->vm->ioapic, vector);
}

static const struct lapic_ops lapic_ops = {
	.kick = op_kick,
	.timer_arm = op_timer_arm,
	.now_ns = op_now_ns,
	.guest_tsc = op_guest_tsc,
	.tsc_to_ns = op_tsc_to_ns,
	.eoi = op_eoi,
};

/* ---- the accelerator's interface ---- */

static int bt_probe(struct err *err)
{
	return bt_cpuid_init(err);
}

static void msi(void *chip, uint64_t addr, uint32_t data)
{
	lapic_deliver_msi(chip, addr, data);
}

static void irq_line_set(void *chip, unsigned gsi, bool level)
{
	struct bt_vm *vm = chip;

	ioapic_set_line(vm->ioapic, gsi, level);
	pic_set_gsi(vm->pic, gsi, level);
}

static void irq_msi_send(void *chip, uint64_t addr, uint32_t data)
{
	struct bt_vm *vm = chip;

	msi(vm->lapics, addr, data);
}

/* The 8259 pair's output is wired to vCPU 0. */
static void pic_kick(void *opaque)
{
	struct bt_vm *vm = opaque;

	if (vm->cpus[0])
		wake(vm->cpus[0], PENDING_EVENT);
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; p && (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == 0 || p[n] == ','))
			return true;
	return false;
}

static void bt_stats(struct accel_vm *avm, char *buf, unsigned size)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	struct bt_cache *c = vm->cache;
	uint64_t exits[EXIT_KINDS] = { 0 }, fills = 0, mmio = 0, jc_clears = 0, flushes = 0;

	for (unsigned i = 0; i < vm->count; i++) {
		if (!vm->cpus[i])
			continue;
		for (unsigned k = 0; k < EXIT_KINDS; k++)
			exits[k] += vm->cpus[i]->stat_exits[k];
		fills += vm->cpus[i]->stat_tlb_fills;
		mmio += vm->cpus[i]->stat_mmio;
		jc_clears += vm->cpus[i]->stat_jc_clears;
		flushes += vm->cpus[i]->stat_tlb_flushes;
	}
	snprintf(buf, size,
		 "blocks %llu\nblocks_invalidated %llu\ncache_flushes %llu\nguest_code_bytes "
		 "%llu\nhot_bytes %zu\n"
		 "cold_bytes %zu\nrecord_bytes %zu\nexits_direct %llu\nexits_indirect "
		 "%llu\nexits_sys %llu\n"
		 "exits_next %llu\nexits_poll %llu\ntlb_fills %llu\ntlb_flushes "
		 "%llu\njump_cache_clears %llu\nmmio %llu\n",
		 (unsigned long long)c->stat_blocks, (unsigned long long)c->stat_invalidated,
		 (unsigned long long)c->stat_flushes, (unsigned long long)c->stat_guest_bytes,
		 (size_t)(c->hot - c->hot_start), (size_t)(c->cold - c->cold_start), c->arena_used,
		 (unsigned long long)exits[EXIT_DIRECT], (unsigned long long)exits[EXIT_INDIRECT],
		 (unsigned long long)exits[EXIT_SYS], (unsigned long long)exits[EXIT_NEXT],
		 (unsigned long long)exits[EXIT_POLL], (unsigned long long)fills,
		 (unsigned long long)flushes, (unsigned long long)jc_clears,
		 (unsigned long long)mmio);
}

static void bt_vm_free(struct accel_vm *avm)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	if (!vm)
		return;
	pic_free(vm->pic);
	ioapic_free(vm->ioapic);
	lapic_set_free(vm->lapics);
	bt_cache_free(vm);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->exclusive);
	free(vm);
}

static int bt_vm_new(const struct accel_config *cfg, struct accel_vm **ret_vm,
		     struct irq_sink *ret_irq, struct err *err)
{
	struct bt_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return err_set(err, ENOMEM, "bt: out of memory");
	vm->mem = cfg->mem;
	vm->pio = cfg->pio;
	vm->mmio = cfg->mmio;
	vm->count = cfg->vcpu_count;
	vm->opt_exact_flags = has_word(cfg->debug, "exact-flags");
	vm->opt_nolink = has_word(cfg->debug, "nolink");
	vm->opt_nogroup = has_word(cfg->debug, "nogroup");
	vm->opt_stats = has_word(cfg->debug, "stats");
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->exclusive, NULL);
	r = bt_cpuid_init(err);
	if (!r) {
		vm->tsc_khz = measure_tsc_khz();
		r = bt_cache_new(vm,
				 has_word(cfg->debug, "small-cache") ? CACHE_SMALL
				 : cfg->code_cache_bytes	     ? cfg->code_cache_bytes
								     : CACHE_DEFAULT,
				 err);
	}
	if (!r && (r = lapic_set_new(vm->count, &vm->lapics)))
		err_set(err, -r, "bt: cannot make the local APICs");
	if (!r)
		r = ioapic_new(cfg->mmio, vm->lapics, &vm->ioapic, err);
	if (!r)
		r = pic_new(cfg->pio, pic_kick, vm, &vm->pic, err);
	if (r) {
		bt_vm_free((struct accel_vm *)vm);
		return r;
	}
	install_signals();
	*ret_irq = (struct irq_sink) { .line = irq_line_set, .msi = irq_msi_send, .chip = vm };
	*ret_vm = (struct accel_vm *)vm;
	return 0;
}

static int bt_vcpu_new(struct accel_vm *avm, unsigned index, struct accel_vcpu **ret_vcpu,
		       struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	struct bt_cpu *cpu =
	    mmap(NULL, sizeof(*cpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (cpu == MAP_FAILED)
		return err_set(err, ENOMEM, "bt: out of memory for vCPU %u", index);
	cpu->self = cpu;
	cpu->vm = vm;
	cpu->index = index;
	cpu->delivering = -1;
	cpu->lapic_ops = &lapic_ops;
	cpu->commit_exit = calloc(1, sizeof(struct bt_exit));
	cpu->translator = calloc(1, bt_translator_size());
	if (!cpu->commit_exit || !cpu->translator) {
		free(cpu->commit_exit);
		free(cpu->translator);
		munmap(cpu, sizeof(*cpu));
		return err_set(err, ENOMEM, "bt: out of memory for vCPU %u", index);
	}
	bt_jc_forget(cpu);
	bt_tlb_flush_all(cpu);
	cpu->lapic = lapic_set_init(vm->lapics, index, &lapic_ops, cpu);
	cpu->fpu_parked = true;
	bt_cpu_reset(cpu, false);
	vm->cpus[index] = cpu;
	*ret_vcpu = (struct accel_vcpu *)cpu;
	return 0;
}

static void bt_vcpu_free(struct accel_vcpu *v)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;
	char text[1024];

	if (!cpu)
		return;
	if (cpu->vm->opt_stats && cpu->index == 0) {
		bt_stats((struct accel_vm *)cpu->vm, text, sizeof(text));
		for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
			log_info("bt: %.*s", (int)(end - line), line);
	}
	if (cpu->timer_made)
		timer_delete(cpu->timer);
	cpu->vm->cpus[cpu->index] = NULL;
	free(cpu->commit_exit);
	free(cpu->translator);
	munmap(cpu, sizeof(*cpu));
}

static void bt_vcpu_run(struct accel_vcpu *v, struct vcpu_exit *exit)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	if (self != cpu)
		bind_thread(cpu);
	cpu->exit = exit;
	cpu->exit_wanted = false;
	run_loop(cpu);
	bt_fpu_park(cpu);
	cpu->exit = NULL;
}

static void bt_vcpu_kick(struct accel_vcpu *v)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	atomic_store(&cpu->kicked, true);
	wake(cpu, PENDING_EVENT);
}

static void bt_get_state(struct accel_vcpu *v, struct vcpu_state *st)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	*st = cpu->st;
	st->cr8 = lapic_get_cr8(cpu->lapic);
	st->msr_apic_base = lapic_base(cpu->lapic);
	st->tsc = bt_guest_tsc(cpu);
	st->run_state = cpu->wait_sipi ? VCPU_WAIT_SIPI : cpu->halted ? VCPU_HALTED : VCPU_RUNNING;
	st->nmi_masked = cpu->nmi_masked;
	st->nmi_pending = cpu->nmi_pending;
	st->interrupt_shadow = cpu->int_shadow;
	st->exception_pending = cpu->exc.valid;
	st->exception_vector = cpu->exc.vector;
	st->exception_has_error = cpu->exc.has_error;
	st->exception_error = cpu->exc.error;
}

/*
 * The state has no time of its own, so between saving and setting some ticks pass, others on each
 * vCPU. What lies within a tenth of a second of vCPU 0 (or of the present) is meant to be the same.
 */
static void set_tsc(struct bt_cpu *cpu, uint64_t tsc)
{
	uint64_t near =
	    cpu->index && cpu->vm->cpus[0] ? cpu->vm->cpus[0]->tsc_offset : cpu->tsc_offset;
	int64_t off = (int64_t)(tsc - rdtsc() - near);

	if (tsc &&
	    (off > (int64_t)cpu->vm->tsc_khz * 100 || off < -(int64_t)cpu->vm->tsc_khz * 100))
		cpu->tsc_offset = near + off;
	else if (tsc)
		cpu->tsc_offset = near;
}

static int bt_set_state(struct accel_vcpu *v, const struct vcpu_state *st, struct err *err)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	if (st->cr8 > 15)
		return err_set(err, EINVAL, "vCPU %u: cr8 %#llx is out of range", cpu->index,
			       (unsigned long long)st->cr8);
	if ((get_le64(st->xsave + 512) & ~(uint64_t)sys_xcr0_max()) || get_le64(st->xsave + 520) ||
	    get_le64(st->xsave + 528) || (get_le32(st->xsave + 24) & ~sys_mxcsr_mask()))
		return err_set(err, EINVAL, "vCPU %u: the FPU image is not valid", cpu->index);
	cpu->st = *st;
	cpu->resume = NULL;
	cpu->fpu_parked = true;
	lapic_set_cr8(cpu->lapic, st->cr8);
	set_tsc(cpu, st->tsc);
	cpu->wait_sipi = st->run_state == VCPU_WAIT_SIPI;
	cpu->halted = st->run_state == VCPU_HALTED;
	cpu->nmi_masked = st->nmi_masked;
	cpu->nmi_pending = st->nmi_pending;
	cpu->int_shadow = st->interrupt_shadow;
	cpu->exc.valid = st->exception_pending;
	cpu->exc.vector = st->exception_vector;
	cpu->exc.has_error = st->exception_has_error;
	cpu->exc.error = st->exception_error;
	cpu->exc.cr2 = st->cr2;
	cpu->exc.soft = false;
	cpu->delivering = -1;
	cpu->cpl = st->segs[SEG_SS].attr >> SEG_ATTR_DPL_SHIFT & 3;
	bt_tlb_flush_all(cpu);
	bt_update_key(cpu);
	atomic_fetch_or(&cpu->pending, PENDING_EVENT);
	return 0;
}

static int bt_save(struct accel_vm *avm, struct snap_writer *w)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	pic_save(vm->pic, w);
	ioapic_save(vm->ioapic, w);
	for (unsigned i = 0; i < vm->count; i++)
		lapic_save(vm->cpus[i]->lapic, w);
	return 0;
}

static int bt_load(struct accel_vm *avm, struct snap_reader *r, struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	int ret = pic_load(vm->pic, r, err);

	if (!ret)
		ret = ioapic_load(vm->ioapic, r, err);

	for (unsigned i = 0; i < vm->count && !ret; i++)
		ret = lapic_load(vm->cpus[i]->lapic, r, err);

	/* guest memory was replaced under the translations */
	pthread_mutex_lock(&vm->lock);
	bt_cache_flush(vm);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

static void bt_reset(struct accel_vm *avm)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	pthread_mutex_lock(&vm->lock);
	bt_cache_flush(vm);
	pthread_mutex_unlock(&vm->lock);
	pic_reset(vm->pic);
	ioapic_reset(vm->ioapic);
	for (unsigned i = 0; i < vm->count; i++) {
		vm->cpus[i]->exc.valid = vm->cpus[i]->nmi_pending = false;
		vm->cpus[i]->delivering = -1;
		bt_cpu_reset(vm->cpus[i], false);
		bt_tlb_flush_all(vm->cpus[i]);
	}
}

const struct accel_ops accel_bt = {
	.name = "bt",
	.probe = bt_probe,
	.vm_new = bt_vm_new,
	.vm_free = bt_vm_free,
	.vcpu_new = bt_vcpu_new,
	.vcpu_free = bt_vcpu_free,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_get_state = bt_get_state,
	.vcpu_set_state = bt_set_state,
	.save = bt_save,
	.load = bt_load,
	.reset = bt_reset,
	.stats = bt_stats,
};
