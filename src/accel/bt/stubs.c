/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixed pieces of host code at the start of the code cache: ways between
 * C and translated code.
 *
 * Inside translated code: guest registers where emit.h says, rsp the struct
 * bt_cpu. C runs on the thread's own stack; under the top of that, while
 * translated code runs, stands the struct bt_cpu's address. Code with KEY_WINDOW has the window's
 * base in fs, which is the C library's otherwise; its ways change that.
 */
#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

/* All guest registers to st.regs; rax is free then. */
static void save_regs(struct out *o)
{
	for (unsigned i = 0; i < 16; i++)
		if (reg_map[i] != HOMED)
			e_store(o, reg_map[i], REG_OFF(i));
	for (unsigned i = 0; i < 16; i++) {
		if (reg_map[i] != HOMED)
			continue;
		e_load(o, REG_RAX, HOME_OFF(i));
		e_store(o, REG_RAX, REG_OFF(i));
	}
}

static void load_regs(struct out *o)
{
	for (unsigned i = 0; i < 16; i++) {
		if (reg_map[i] != HOMED)
			continue;
		e_load(o, REG_RAX, REG_OFF(i));
		e_store(o, REG_RAX, HOME_OFF(i));
	}
	for (unsigned i = 0; i < 16; i++)
		if (reg_map[i] != HOMED)
			e_load(o, reg_map[i], REG_OFF(i));
}

/* rax, rcx, rdx, rsi, rdi, r8, r9: what a C function may have changed */
static void load_volatile(struct out *o)
{
	static const uint8_t regs[] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_R8, REG_R9
	};

	for (unsigned i = 0; i < sizeof(regs); i++)
		e_load(o, regs[i], REG_OFF(regs[i]));
}

static void push(struct out *o, unsigned reg)
{
	if (reg & 8)
		out8(o, 0x41);
	out8(o, 0x50 | (reg & 7));
}

static void pop(struct out *o, unsigned reg)
{
	if (reg & 8)
		out8(o, 0x41);
	out8(o, 0x58 | (reg & 7));
}

static const uint8_t callee_saved[] = { 3, 5, 12, 13, 14, 15 };

/* eax (ah, al) <- lahf, seto */
static void flags_to_ax(struct out *o)
{
	out8(o, 0x9f);
	out8(o, 0x0f), out8(o, 0x90), out8(o, 0xc0);
}

static void flags_from_ax(struct out *o)
{
	out8(o, 0x04), out8(o, 0x7f); /* add al, 0x7f: OF */
	out8(o, 0x9e);		      /* sahf */
}

/* fs <- what stands at @off; spoils @scratch */
static void set_fs(struct out *o, bool window, int32_t off, unsigned scratch)
{
	if (!window)
		return;
	e_load(o, scratch, off);
	e_wrfsbase(o, scratch);
}

/* On entry rdi = cpu, rsi = second argument. */
static void enter_prologue(struct out *o, bool window)
{
	for (unsigned i = 0; i < sizeof(callee_saved); i++)
		push(o, callee_saved[i]);
	push(o, REG_RDI); /* and rsp is aligned to 16 */
	e_rm(o, true, 0x89, REG_RSP, REG_RDI, CPU_OFF(host_rsp));
	e_mov_rr(o, REG_RSP, REG_RDI);
	set_fs(o, window, CPU_OFF(window_base), REG_RAX);
}

/* Leave translated code: return rax to who called enter. */
static void leave(struct out *o, bool window)
{
	set_fs(o, window, CPU_OFF(host_fs), T0);
	e_load(o, REG_RSP, CPU_OFF(host_rsp));
	o->depth = 0;
	e_ri(o, true, 0, REG_RSP, 8);
	for (int i = sizeof(callee_saved) - 1; i >= 0; i--)
		pop(o, callee_saved[i]);
	out8(o, 0xc3);
}

static void c_call(struct out *o, const void *fn)
{
	e_mov_ri64(o, 0, (uintptr_t)fn);
	out8(o, 0xff), out8(o, 0xd0); /* call rax */
}

/* From a stub that was called: @fn(cpu, rsi, rdx). Afterwards rsp is the stub's again. */
static void call_from_stub(struct out *o, const void *fn, bool window)
{
	set_fs(o, window, CPU_OFF(host_fs), REG_RAX);
	e_lea(o, true, REG_RDI, REG_RSP, o->depth);
	e_load(o, REG_RSP, CPU_OFF(host_rsp));
	c_call(o, fn);
	e_rm(o, true, 0x8b, REG_RSP, REG_RSP, 0);
	e_lea(o, true, REG_RSP, REG_RSP, -o->depth);
	set_fs(o, window, CPU_OFF(window_base), T1);
}

/* Flags from the slot, as bt_enter() in run.c put them there. */
static void load_state(struct out *o)
{
	e_rcpu(o, false, 0x8b, 0, CPU_OFF(flag_slot));
	flags_from_ax(o);
	load_regs(o);
}

/* A C function called from the middle of a block: (cpu, T0, T1) -> T0. Flags are not kept. */
static const uint8_t *make_call(struct out *o, const void *fn, bool window)
{
	const uint8_t *start = o->p;

	o->depth = 8;
	save_regs(o);
	e_mov_rr(o, REG_RSI, T0);
	e_mov_rr(o, REG_RDX, T1);
	call_from_stub(o, fn, window);
	e_mov_rr(o, T0, REG_RAX);
	load_volatile(o);
	out8(o, 0xc3);
	o->depth = 0;
	return start;
}

/*
 * After a store on the slow path: T1 = access; keeps T0 and flags. When C says so
 * (the running block is no more), leaves the block after the instruction.
 */
static const uint8_t *make_commit(struct out *o, bool window)
{
	const uint8_t *start = o->p;

	o->depth = 8;
	save_regs(o);
	flags_to_ax(o);
	e_store(o, REG_RAX, CPU_OFF(spill[3]));
	e_store(o, T0, CPU_OFF(spill[2]));
	e_mov_rr(o, REG_RSI, T1);
	call_from_stub(o, bt_slow_commit, window);
	e_rr(o, true, 0x85, REG_RAX, REG_RAX); /* test */

	uint8_t *jz = o->p;

	out8(o, 0x74), out8(o, 0);
	/* rax is the struct bt_exit; C put the flags into the slot */
	leave(o, window);
	jz[1] = o->p - (jz + 2);
	o->depth = 8;
	e_load(o, T0, CPU_OFF(spill[2]));
	e_rcpu(o, false, 0x8b, 0, CPU_OFF(spill[3]));
	flags_from_ax(o);
	load_volatile(o);
	out8(o, 0xc3);
	o->depth = 0;
	return start;
}

static void exit_tail(struct out *o, bool window)
{
	e_mov_rr(o, REG_RAX, T1);
	e_store(o, T0, CPU_OFF(arg[0]));
	leave(o, window);
}

static void make_ways(struct bt_cache *c, struct out *o, bool window)
{
	struct bt_ways *s = &c->stubs.ways[window];

	/* exit with flags in the hardware */
	s->exit_hw = o->p;
	save_regs(o);
	flags_to_ax(o);
	e_store(o, 0, CPU_OFF(flag_slot));
	exit_tail(o, window);

	s->exit_slot = o->p;
	save_regs(o);
	exit_tail(o, window);

	s->jc_exit = o->p;
	e_mov_ri64(o, T1, (uintptr_t)&c->miss_exit);
	e_jmp(o, s->exit_slot);

	/* enter_at(cpu, code): direct entry, flags from the slot */
	s->enter_at = (void *)o->p;
	enter_prologue(o, window);
	e_mov_rr(o, T1, 6);
	load_state(o);
	out8(o, 0x41), out8(o, 0xff), out8(o, 0xe3); /* jmp r11 */

	/* enter_jc(cpu, what the jump cache has for st.rip, its index): flags stay in the slot */
	s->enter_jc = (void *)o->p;
	enter_prologue(o, window);
	e_load(o, T0, CPU_OFF(st.rip));
	e_mov_rr(o, T1, REG_RDX);
	e_store(o, REG_RSI, CPU_OFF(spill[2]));
	load_regs(o);
	enc_emit(
	    o, &(struct enc) {
		   .opcode = 0xff, .reg = 4, .kind = RM_CPU, .disp = CPU_OFF(spill[2]) }); /* jmp */

	s->slow = make_call(o, bt_slow_access, window);
	s->seg = make_call(o, bt_slow_seg, window);
	s->check = make_call(o, bt_slow_check, window);
	s->commit = make_commit(o, window);
}

void bt_stubs_make(struct bt_vm *vm)
{
	struct bt_cache *c = vm->cache;
	struct out o = { c->hot };
	struct bt_stubs *s = &c->stubs;

	c->miss_exit = (struct bt_exit) { .kind = EXIT_INDIRECT, .flags = FLAGS_SLOT };
	make_ways(c, &o, false);
	make_ways(c, &o, true);
	for (unsigned k = 0; k < JC_CLASSES; k++) {
		uint32_t jc = offsetof(struct bt_cpu, jc) + k * sizeof(struct bt_jc);

		/*
		 * Ends: the two of a pair never have the same rip, so when the one beside matches
		 * but leads back here (its block was dropped, or it is empty), the one beside that
		 * does not match.
		 */
		s->jc_miss[k] = o.p;
		e_ri(&o, false, 6, T1, 2);
		e_rcpu8(&o, true, 0x3b, T0, T1, jc + offsetof(struct bt_jc, at[0].rip));
		e_jcc(&o, 5, s->ways[k == JC_WINDOW].jc_exit);
		e_jmp_cpu8(&o, T1, jc + offsetof(struct bt_jc, at[0].code));
	}

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		int32_t tlb = offsetof(struct bt_cpu, tlb) + k * sizeof(struct bt_tlb);

		s->stack_page[k] = o.p;
		o.depth = 8;
		e_store(&o, T1, CPU_OFF(spill[2]));
		e_rcpu8(&o, true, 0x8b, T1, T1, tlb + offsetof(struct bt_tlb, at[0].write));
		e_store(&o, T1, tlb + offsetof(struct bt_tlb, stack_tag));
		e_load(&o, T1, CPU_OFF(spill[2]));
		e_rcpu8(&o, true, 0x8b, T1, T1, tlb + offsetof(struct bt_tlb, at[0].host));
		e_store(&o, T1, tlb + offsetof(struct bt_tlb, stack_host));
		for (unsigned i = 0; i < TLB_STACK_SIZES; i++)
			e_store_imm32(&o, tlb + offsetof(struct bt_tlb, stack_limit) + 8 * i,
				      PAGE_SIZE - (64u << 2 * i) + 1);
		out8(&o, 0xc3);
		o.depth = 0;
	}

	s->landing = o.p;
	c_call(&o, bt_landing);
	out8(&o, 0x0f), out8(&o, 0x0b);

	c->hot = (uint8_t *)(((uintptr_t)o.p + 63) & ~63ull);
}
