/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop: from translated code to C and back, finding blocks, events and
 * sleep.
 *
 * Safe points: the top of the loop, and sleep. A vCPU that wants all others to
 * stand still (bt_exclusive_begin) waits until each is at one (in_code false).
 */
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>

#include "accel/bt/cache.h"
#include "accel/bt/window.h"
#include "hw/pic.h"

__thread struct bt_cpu *bt_self;

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

void bt_wake(struct bt_cpu *cpu, unsigned bits)
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
	if (bt_self)
		atomic_store(&bt_self->in_code, true);
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

/*
 * Take away what lets a vCPU write to the page at @host, or only look whether it has something.
 * Order: what translated code copies a tag to is looked at after the tags, so that a copy of one
 * that was replaced meanwhile is seen.
 */
static bool drop_write_tags(struct bt_cpu *cpu, uint64_t host, int64_t page, bool only_look)
{
	bool found = false;

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		struct bt_tlb *t = &cpu->tlb[k];

		for (unsigned i = 0; i < TLB_SIZE; i++) {
			if (t->at[i].host != host ||
			    (t->at[i].write >> PAGE_SHIFT & (TLB_SIZE - 1)) != i)
				continue;
			found = true;
			if (!only_look)
				t->at[i].write = ~t->at[i].write;
		}
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		struct bt_tlb *t = &cpu->tlb[k];

		if (t->stack_limit[0] && t->stack_host == host) {
			found = true;
			for (unsigned i = 0; i < TLB_STACK_SIZES && !only_look; i++)
				t->stack_limit[i] = 0;
		}
		for (unsigned i = 0; i < TLB_STATICS && t->static_used; i++) {
			if ((t->static_host[1][i] & ~0xfffull) != host)
				continue;
			found = true;
			if (!only_look)
				t->static_la[1][i] = TLB_STATIC_NONE;
		}
	}
	found |= bt_window_owned(cpu, page, only_look);
	/* host addresses that the block which runs may still use */
	for (unsigned i = 0; i < BT_GROUP_SLOTS; i++)
		found |= (cpu->group[i] & ~0xfffull) == host;
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
	drop_write_tags(cpu, (uintptr_t)host, page, false);
	/* pairs with the order of tag and code_map in bt_page_in() */
	if (vm->count > 1)
		/* sandbox: loop vcpu: membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) */
		others = !vm->membarrier ||
			 syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0;
	for (unsigned i = 0; i < vm->count && !others; i++)
		if (vm->cpus[i] && vm->cpus[i] != cpu)
			others = drop_write_tags(vm->cpus[i], (uintptr_t)host, page, true);
	if (!others)
		return true;
	pthread_mutex_unlock(&vm->lock);
	bt_exclusive_begin(vm, cpu);
	for (unsigned i = 0; i < vm->count; i++)
		if (vm->cpus[i])
			drop_write_tags(vm->cpus[i], (uintptr_t)host, page, false);
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

	/*
	 * Code that can write to itself may change what reads the flags; a 64-bit kernel is taken
	 * not to do that to the very block that runs.
	 */
	if (f.writable && (cpu->key & (KEY_USER | KEY_MODE_MASK)) != MODE_64)
		key_bits |= KEY_EXACT;

	uint64_t gpa = f.gpa + off, gpa_key = gpa << 16 | cpu->key | key_bits;
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
	unsigned class = bt_jc_class(b->key), place = bt_jc_index(cpu, class, cpu->st.rip) / 2;

	if (b->key & (KEY_ONE | KEY_PLAIN))
		return;
	struct bt_jc *jc = &cpu->jc[class];
	unsigned beside = place ^ 1;
	uint64_t was = jc->at[place].rip;

	if (was != cpu->st.rip && bt_jc_index(cpu, class, was) / 2 == place)
		jc->at[beside] = jc->at[place];
	else if (jc->at[beside].rip == cpu->st.rip)
		jc->at[beside].rip = ~cpu->st.rip;
	jc->at[place].rip = cpu->st.rip;
	jc->at[place].code = cpu->vm->cache->base + b->jc_entry;
	cpu->jc_used |= 1u << class;

	unsigned group = !(JC_USER_CLASSES & 1u << class);

	for (uint64_t page = code_linear(cpu) >> PAGE_SHIFT, end = page + (b->gpa2 != 0);
	     page <= end; page++)
		bt_jc_pages(cpu, group)->bits[page % JC_PAGES / 64] |= 1ull << (page & 63);
	if (!global)
		cpu->jc_nonglobal |= 1u << class;
	else if (!group)
		cpu->jc_user_global = true;
	if (group && (int64_t)cpu->st.rip >= 0)
		cpu->jc_kernel_low = true;
}

/* ---- entering and leaving translated code ---- */

void bt_flags_from_slot(struct bt_cpu *cpu)
{
	cpu->st.rflags = (cpu->st.rflags & ~(uint64_t)FL_ARITH) | (cpu->flag_slot >> 8 & 0xd5) |
			 (cpu->flag_slot & 1) << 11;
}

static void prepare(struct bt_cpu *cpu)
{
	cpu->flag_slot = (cpu->st.rflags & 0xd5) << 8 | (cpu->st.rflags >> 11 & 1);
	bt_fpu_unpark(cpu);
}

uint64_t bt_page_rip(struct bt_cpu *cpu, int32_t off)
{
	uint64_t rip = cpu->vbase + off;

	return bt_64bit(cpu)				 ? rip
	       : cpu->st.segs[SEG_CS].attr & SEG_ATTR_DB ? (uint32_t)rip
							 : (uint16_t)rip;
}

/* Enter @b next. */
static void resume_at(struct bt_cpu *cpu, struct bt_block *b)
{
	cpu->resume = b;
	cpu->resume_rip = cpu->st.rip;
	cpu->resume_flushes = cpu->vm->cache->stat_flushes;
}

_Noreturn void bt_run_step(struct bt_cpu *cpu)
{
	cpu->step = true;
	unwind(cpu);
}

/*
 * An address was not in the part of the window where it was expected: the first time, expect it in
 * the other. Return: whether the block is to be translated anew.
 */
static bool learn_part(struct bt_cpu *cpu, struct bt_exit *e)
{
	struct bt_vm *vm = cpu->vm;
	uint64_t bit, *hint = bt_window_hint(
			  vm->cache, (e->from->gpa & ~(PAGE_SIZE - 1ull)) + e->guest_off, &bit);
	bool news;

	pthread_mutex_lock(&vm->lock);
	news = !(*hint & bit) && e->from->valid;
	*hint |= bit;
	if (news)
		bt_cache_drop(vm, e->from);
	pthread_mutex_unlock(&vm->lock);
	return news;
}

/* Translated code came back through @e. */
static void left(struct bt_cpu *cpu, struct bt_exit *e)
{
	bool global;
	struct bt_block *b;
	uint32_t key_bits;
	uint64_t flushes;

	bt_flags_from_slot(cpu);
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
		cpu->st.rip = bt_page_rip(cpu, e->target_off);
		flushes = cpu->vm->cache->stat_flushes;
		key_bits = e->key_bits;
		if (key_bits == KEY_PLAIN && (cpu->key & KEY_WINDOW) && learn_part(cpu, e))
			key_bits = 0;
		b = find_block(cpu, key_bits, &global);
		jc_insert(cpu, b, global);
		pthread_mutex_lock(&cpu->vm->lock);
		if (!cpu->vm->opt_nolink && key_bits == e->key_bits &&
		    flushes == cpu->vm->cache->stat_flushes && b->valid &&
		    !(b->gpa2 && (b->key & KEY_PLAIN)))
			bt_cache_link(cpu->vm->cache, e, b); /* after a flush *e is gone */
		resume_at(cpu, b);
		pthread_mutex_unlock(&cpu->vm->lock);
		break;
	case EXIT_SYS:
		cpu->st.rip = bt_page_rip(cpu, e->guest_off);
		bt_sys_insn(cpu, e->insn);
		break;
	case EXIT_NEXT:
	case EXIT_POLL:
		cpu->st.rip = bt_page_rip(cpu, e->target_off);
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
	if (cpu->key & KEY_WINDOW) {
		if (cpu->spaces[cpu->space].window_stale)
			bt_window_check(cpu);
		if (cpu->window_pf.la)
			bt_window_after_pf(cpu);
	}

	const struct bt_ways *ways = &cpu->vm->cache->stubs.ways[!!(cpu->key & KEY_WINDOW)];
	struct bt_block *b = cpu->resume;

	if (b) {
		cpu->resume = NULL;
		if (cpu->resume_flushes == cpu->vm->cache->stat_flushes &&
		    cpu->resume_rip == cpu->st.rip &&
		    (b->key & ~(KEY_PLAIN | KEY_EXACT)) == cpu->key && b->valid && !b->gpa2) {
			cpu->vbase = cpu->st.rip - b->page_off;
			left(cpu, (struct bt_exit *)ways->enter_at(cpu, cpu->vm->cache->base +
									    b->entry[FLAGS_HW]));
			return;
		}
	}

	unsigned index = bt_jc_index(cpu, class, cpu->st.rip);

	left(cpu, (struct bt_exit *)ways->enter_jc(cpu, cpu->jc[class].at[index / 2].code, index));
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
	left(cpu, (struct bt_exit *)cpu->vm->cache->stubs.ways[0].enter_at(
		      cpu, cpu->vm->cache->base + b->entry[FLAGS_HW]));
	if (shadow && !cpu->int_shadow)
		bt_update_key(cpu);
	if (tf || (cpu->st.dr7 & 0xff))
		bt_debug_after(cpu, tf);
}

static void end_step(struct bt_cpu *cpu)
{
	if (!cpu->stepping)
		return;
	cpu->stepping = false;
	bt_update_key(cpu);
}

/* One instruction that a window had nothing for, without it. */
static void run_step(struct bt_cpu *cpu)
{
	cpu->step = false;
	cpu->stepping = true;
	cpu->key = (cpu->key & ~KEY_WINDOW) | KEY_ONE;
	run_one(cpu);
	end_step(cpu);
}

/* ---- events ---- */

void bt_take_messages(struct bt_cpu *cpu)
{
	uint8_t vector;
	unsigned ev =
	    lapic_take_events(cpu->lapic, LAPIC_EV_INIT | LAPIC_EV_NMI | LAPIC_EV_SIPI, &vector);

	if (ev & LAPIC_EV_NMI)
		cpu->nmi_pending = true;
	if (ev & LAPIC_EV_INIT) {
		bt_cpu_reset(cpu, true);
		cpu->nmi_pending = false;
	}
	/* A start-up message that is pending with an INIT came after it. A CPU that does not wait
	 * for one ignores it, such as the second one that kernels send to be sure. */
	if ((ev & LAPIC_EV_SIPI) && cpu->wait_sipi)
		bt_cpu_sipi(cpu, vector);
}

static void take_events(struct bt_cpu *cpu)
{
	unsigned p = atomic_exchange(&cpu->pending, 0);

	bt_window_heat(cpu);
	if (p & PENDING_TIMER) {
		lapic_timer_fire(cpu->lapic);
	}
	if (atomic_exchange(&cpu->kicked, false)) {
		cpu->exit->reason = VCPU_EXIT_KICKED;
		cpu->exit->rip = cpu->st.rip;
		cpu->exit->text[0] = 0;
		cpu->exit_wanted = true;
		atomic_fetch_or(&cpu->pending, PENDING_EVENT); /* look at the rest when run again */
		return;
	}
	bt_take_messages(cpu);
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

void bt_run_loop(struct bt_cpu *cpu)
{
	int vector;

	__builtin_setjmp(cpu->jmp);
	cpu = bt_self;
	end_step(cpu);
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
		if (cpu->taken >= 0) {
			vector = cpu->taken;
			cpu->taken = -1;
			cpu->halted = false;
			bt_deliver_interrupt(cpu, vector);
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
		if (cpu->halted && atomic_exchange(&cpu->unhalt, false))
			cpu->halted = false;
		if (cpu->halted) {
			cpu->int_shadow = false;
			bt_update_key(cpu);
			sleep_until_event(cpu);
			continue;
		}
		if (cpu->vm->opt_window && cpu->key == (MODE_64 | KEY_USER))
			bt_window_attach(cpu);
		if (cpu->step)
			run_step(cpu);
		else if (cpu->key & KEY_ONE)
			run_one(cpu);
		else
			run_blocks(cpu);
	}
	atomic_store(&cpu->in_code, false);
}
