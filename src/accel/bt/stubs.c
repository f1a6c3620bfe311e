/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixed pieces of host code at the start of the code cache: ways between
 * C and translated code.
 *
 * Inside translated code: pinned guest registers in host registers (emit.h),
 * rsp as enter left it (16-byte aligned), gs the struct bt_cpu.
 */
#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

static void save_pinned(struct out *o)
{
	for (unsigned i = 0; i < 16; i++)
		if (reg_map[i] != HOMED)
			e_store_gs(o, reg_map[i], REG_OFF(i));
}

static void load_pinned(struct out *o)
{
	for (unsigned i = 0; i < 16; i++)
		if (reg_map[i] != HOMED)
			e_load_gs(o, reg_map[i], REG_OFF(i));
}

/* rax, rcx, rdx, rsi, rdi, r8, r9: what a C function may have changed */
static void load_volatile(struct out *o)
{
	static const uint8_t regs[] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_R8, REG_R9
	};

	for (unsigned i = 0; i < sizeof(regs); i++)
		e_load_gs(o, regs[i], REG_OFF(regs[i]));
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

/* On entry rdi = cpu (also in gs), rsi = second argument. */
static void enter_prologue(struct out *o)
{
	for (unsigned i = 0; i < sizeof(callee_saved); i++)
		push(o, callee_saved[i]);
	e_ri(o, true, 5, 4, 8); /* sub rsp, 8: aligned to 16 */
	enc_emit(
	    o, &(struct enc) {
		   .w = true, .opcode = 0x89, .reg = 4, .kind = RM_GS, .disp = CPU_OFF(host_rsp) });
}

/* Flags from the slot, as bt_enter() in run.c put them there. */
static void load_state(struct out *o)
{
	e_rgs(o, false, 0x8b, 0, CPU_OFF(flag_slot));
	flags_from_ax(o);
	load_pinned(o);
}

static void c_call(struct out *o, const void *fn)
{
	e_mov_ri64(o, 0, (uintptr_t)fn);
	out8(o, 0xff), out8(o, 0xd0); /* call rax */
}

/* A C function called from the middle of a block: (cpu, T0, T1) -> T0. Flags are not kept. */
static const uint8_t *make_call(struct out *o, const void *fn)
{
	const uint8_t *start = o->p;

	save_pinned(o);
	e_mov_rr(o, 6, T0);
	e_mov_rr(o, 2, T1);
	e_load_gs(o, 7, CPU_OFF(self));
	e_ri(o, true, 5, 4, 8);
	c_call(o, fn);
	e_ri(o, true, 0, 4, 8);
	e_mov_rr(o, T0, 0);
	load_volatile(o);
	out8(o, 0xc3);
	return start;
}

/*
 * After a store on the slow path: T1 = access; keeps T0 and flags. When C says so
 * (the running block is no more), leaves the block after the instruction.
 */
static const uint8_t *make_commit(struct out *o)
{
	const uint8_t *start = o->p;

	save_pinned(o);
	flags_to_ax(o);
	e_store_gs(o, 0, CPU_OFF(spill[3]));
	e_store_gs(o, T0, CPU_OFF(spill[2]));
	e_load_gs(o, 7, CPU_OFF(self));
	e_mov_rr(o, 6, T1);
	e_ri(o, true, 5, 4, 8);
	c_call(o, bt_slow_commit);
	e_ri(o, true, 0, 4, 8);
	e_rr(o, true, 0x85, 0, 0); /* test rax, rax */

	uint8_t *jz = o->p;

	out8(o, 0x74), out8(o, 0);
	/* leave: rax is the struct bt_exit; C put the flags into the slot */
	e_rgs(o, true, 0x8b, 4, CPU_OFF(host_rsp));
	e_ri(o, true, 0, 4, 8);
	for (int i = sizeof(callee_saved) - 1; i >= 0; i--)
		pop(o, callee_saved[i]);
	out8(o, 0xc3);
	jz[1] = o->p - (jz + 2);
	e_load_gs(o, T0, CPU_OFF(spill[2]));
	e_rgs(o, false, 0x8b, 0, CPU_OFF(spill[3]));
	flags_from_ax(o);
	load_volatile(o);
	out8(o, 0xc3);
	return start;
}

static void exit_tail(struct out *o)
{
	e_mov_rr(o, 0, T1);
	e_store_gs(o, T0, CPU_OFF(arg[0]));
	e_rgs(o, true, 0x8b, 4, CPU_OFF(host_rsp));
	e_ri(o, true, 0, 4, 8);
	for (int i = sizeof(callee_saved) - 1; i >= 0; i--)
		pop(o, callee_saved[i]);
	out8(o, 0xc3);
}

void bt_stubs_make(struct bt_vm *vm)
{
	struct bt_cache *c = vm->cache;
	struct out o = { c->hot };
	struct bt_stubs *s = &c->stubs;

	/* exit with flags in the hardware */
	s->exit_hw = o.p;
	save_pinned(&o);
	flags_to_ax(&o);
	e_store_gs(&o, 0, CPU_OFF(flag_slot));
	exit_tail(&o);

	s->exit_slot = o.p;
	save_pinned(&o);
	exit_tail(&o);

	c->miss_exit = (struct bt_exit) { .kind = EXIT_INDIRECT, .flags = FLAGS_SLOT };
	s->jc_exit = o.p;
	e_mov_ri64(&o, T1, (uintptr_t)&c->miss_exit);
	e_jmp(&o, s->exit_slot);
	for (unsigned k = 0; k < JC_CLASSES; k++) {
		uint32_t jc = offsetof(struct bt_cpu, jc) + k * sizeof(struct bt_jc);

		/*
		 * Ends: the two of a pair never have the same rip, so when the one beside matches
		 * but leads back here (its block was dropped, or it is empty), the one beside that
		 * does not match.
		 */
		s->jc_miss[k] = o.p;
		e_ri(&o, false, 6, T1, 2);
		e_rgs8(&o, true, 0x3b, T0, T1, jc + offsetof(struct bt_jc, at[0].rip));
		e_jcc(&o, 5, s->jc_exit);
		e_jmp_gs8(&o, T1, jc + offsetof(struct bt_jc, at[0].code));
	}

	/* enter_at(cpu, code): direct entry, flags from the slot */
	s->enter_at = (void *)o.p;
	enter_prologue(&o);
	e_mov_rr(&o, T1, 6);
	load_state(&o);
	out8(&o, 0x41), out8(&o, 0xff), out8(&o, 0xe3); /* jmp r11 */

	/* enter_jc(cpu, what the jump cache has for st.rip, its index): flags stay in the slot */
	s->enter_jc = (void *)o.p;
	enter_prologue(&o);
	e_load_gs(&o, T0, CPU_OFF(st.rip));
	e_mov_rr(&o, T1, 2);
	e_rm(&o, true, 0x89, 6, 4, 0); /* mov [rsp], rsi */
	load_pinned(&o);
	out8(&o, 0xff), out8(&o, 0x24), out8(&o, 0x24); /* jmp [rsp] */

	s->slow = make_call(&o, bt_slow_access);
	s->seg = make_call(&o, bt_slow_seg);
	s->check = make_call(&o, bt_slow_check);
	s->commit = make_commit(&o);

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		int32_t tlb = offsetof(struct bt_cpu, tlb) + k * sizeof(struct bt_tlb);

		s->stack_page[k] = o.p;
		e_store_gs(&o, T1, CPU_OFF(spill[2]));
		e_rgs8(&o, true, 0x8b, T1, T1, tlb + offsetof(struct bt_tlb, at[0].write));
		e_store_gs(&o, T1, tlb + offsetof(struct bt_tlb, stack_tag));
		e_load_gs(&o, T1, CPU_OFF(spill[2]));
		e_rgs8(&o, true, 0x8b, T1, T1, tlb + offsetof(struct bt_tlb, at[0].host));
		e_store_gs(&o, T1, tlb + offsetof(struct bt_tlb, stack_host));
		for (unsigned i = 0; i < TLB_STACK_SIZES; i++)
			e_mov_gs_imm32(&o, tlb + offsetof(struct bt_tlb, stack_limit) + 8 * i,
				       PAGE_SIZE - (64u << 2 * i) + 1);
		out8(&o, 0xc3);
	}

	s->landing = o.p;
	c_call(&o, bt_landing);
	out8(&o, 0x0f), out8(&o, 0x0b);

	c->hot = (uint8_t *)(((uintptr_t)o.p + 63) & ~63ull);
}
