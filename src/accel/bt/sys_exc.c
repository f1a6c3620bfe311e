/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delivery of exceptions and interrupts in real, protected and long mode
 * (Intel SDM 3A, chapter 6).
 *
 * Everything that can fault comes before the first change of st, so a fault
 * on the way finds the interrupted state, and cpu->delivering tells what was
 * on the way: that decides about double and triple faults. Stack frames are
 * written below the new stack pointer before it is committed.
 */
#include "accel/bt/sys.h"

static bool is_contributory(unsigned vec)
{
	return vec == VEC_DE || (vec >= VEC_TS && vec <= VEC_GP);
}

/* Faults push RF set, so that an instruction breakpoint does not hit again on return. */
static bool is_fault(unsigned vec)
{
	return vec != VEC_DB && vec != VEC_BP && vec != VEC_OF && vec != VEC_NMI && vec != VEC_DF &&
	       vec != VEC_MC;
}

uint64_t sys_tss_stack64(struct bt_cpu *cpu, unsigned slot_offset, unsigned ext)
{
	const struct vcpu_seg *tr = &cpu->st.segs[SEG_TR];

	if (slot_offset + 7 > tr->limit)
		bt_raise_err(cpu, VEC_TS, (tr->selector & 0xfffc) | ext);
	return bt_ld(cpu, tr->base + slot_offset, 8, BT_SUPER);
}

void sys_tss_stack(struct bt_cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ret_ss,
		   uint32_t *ret_esp)
{
	const struct vcpu_seg *tr = &cpu->st.segs[SEG_TR];
	bool wide = tr->attr & 8;
	unsigned off = wide ? 4 + 8 * cpl : 2 + 4 * cpl;

	if (off + (wide ? 5 : 3) > tr->limit)
		bt_raise_err(cpu, VEC_TS, (tr->selector & 0xfffc) | ext);
	*ret_esp = bt_ld(cpu, (uint32_t)(tr->base + off), wide ? 4 : 2, BT_SUPER);
	*ret_ss = bt_ld(cpu, (uint32_t)(tr->base + off + (wide ? 4 : 2)), 2, BT_SUPER);
}

/* The gate's code segment; returns the privilege to run at. */
static unsigned check_target(struct bt_cpu *cpu, uint16_t sel, unsigned ext, struct sys_desc *d)
{
	uint32_t error = (sel & 0xfffc) | ext;

	if (!(sel & 0xfffc))
		sys_gp(cpu, ext);
	if (!sys_desc_read(cpu, sel, d) || !desc_is_code(d) || desc_dpl(d) > cpu->cpl ||
	    (bt_long_mode(cpu) && (!desc_l(d) || desc_db(d))))
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
	return desc_is_conforming(d) ? cpu->cpl : desc_dpl(d);
}

static void enter_handler(struct bt_cpu *cpu, struct sys_desc *d, uint16_t sel, unsigned cpl,
			  bool keep_if)
{
	struct vcpu_seg cs = desc_seg(d, sel);

	sys_set_cs(cpu, &cs, cpl);
	cpu->st.rflags &= ~(uint64_t)(FL_TF | FL_NT | FL_RF | FL_VM | (keep_if ? 0 : FL_IF));
	bt_update_key(cpu);
}

/* The frame's top is pushed first: that is where a fault hits. */
static void push_frame(struct bt_cpu *cpu, uint64_t rsp, const uint64_t *frame, unsigned n,
		       enum bt_kind kind)
{
	if ((rsp & 0xfff) + n * 8 > 0x1000) {
		while (n-- > 0)
			bt_st(cpu, rsp + n * 8, 8, frame[n], kind);
		return;
	}
	bt_st(cpu, rsp + (n - 1) * 8, 8, frame[n - 1], kind);
	bt_st_bytes(cpu, rsp, frame, n * 8, kind);
}

static void deliver_long(struct bt_cpu *cpu, unsigned vector, bool soft, int64_t error,
			 unsigned ext, uint64_t rip, uint64_t flags)
{
	uint32_t idt_error = vector * 8 + 2 + ext;
	unsigned cpl, type, ist, n = 0;
	uint64_t lo, hi, rsp, frame[6];
	struct sys_desc d;
	uint16_t sel;

	if (vector * 16 + 15 > cpu->st.idt.limit)
		sys_gp(cpu, idt_error);
	lo = bt_ld(cpu, cpu->st.idt.base + vector * 16, 8, BT_SUPER);
	hi = bt_ld(cpu, cpu->st.idt.base + vector * 16 + 8, 8, BT_SUPER);
	type = lo >> 40 & 0x1f;
	if (type != DESC_INT32 && type != DESC_TRAP32)
		sys_gp(cpu, idt_error);
	if (soft && (lo >> 45 & 3) < cpu->cpl)
		sys_gp(cpu, idt_error);
	if (!(lo >> 47 & 1))
		bt_raise_err(cpu, VEC_NP, idt_error);
	sel = lo >> 16;
	cpl = check_target(cpu, sel, ext, &d);
	ist = lo >> 32 & 7;
	if (ist)
		rsp = sys_tss_stack64(cpu, 28 + ist * 8, ext);
	else if (cpl < cpu->cpl)
		rsp = sys_tss_stack64(cpu, 4 + cpl * 8, ext);
	else
		rsp = cpu->st.regs[REG_RSP];
	lo = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
	if (!sys_canonical(lo))
		sys_gp(cpu, ext);
	rsp &= ~0xfull;
	if (error >= 0)
		frame[n++] = error;
	frame[n++] = rip;
	frame[n++] = cpu->st.segs[SEG_CS].selector;
	frame[n++] = flags;
	frame[n++] = cpu->st.regs[REG_RSP];
	frame[n++] = cpu->st.segs[SEG_SS].selector;
	rsp -= n * 8;
	if (!sys_canonical(rsp) || !sys_canonical(rsp + n * 8 - 1))
		bt_raise_err(cpu, VEC_SS, ext);
	push_frame(cpu, rsp, frame, n, cpl == 3 ? BT_CPL : BT_SUPER);
	sys_desc_set_accessed(cpu, &d);

	if (cpl != cpu->cpl)
		sys_null_seg(&cpu->st.segs[SEG_SS], cpl, cpl);
	cpu->st.regs[REG_RSP] = rsp;
	cpu->st.rip = lo;
	enter_handler(cpu, &d, sel, cpl, type == DESC_TRAP32);
}

/* Data segments in the order in which leaving virtual-8086 mode pushes them */
static const uint8_t vm86_data[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };

static void deliver_protected(struct bt_cpu *cpu, unsigned vector, bool soft, int64_t error,
			      unsigned ext, uint64_t rip, uint64_t flags)
{
	uint32_t idt_error = vector * 8 + 2 + ext;
	unsigned cpl, type, size;
	struct sys_stack s;
	struct sys_desc d;
	uint64_t gate, off;
	uint16_t sel;

	if (vector * 8 + 7 > cpu->st.idt.limit)
		sys_gp(cpu, idt_error);
	gate = bt_ld(cpu, (uint32_t)(cpu->st.idt.base + vector * 8), 8, BT_SUPER);
	type = gate >> 40 & 0x1f;
	if (type != DESC_TASK && (type & ~8u) != DESC_INT16 && (type & ~8u) != DESC_TRAP16)
		sys_gp(cpu, idt_error);
	if (soft && (gate >> 45 & 3) < cpu->cpl)
		sys_gp(cpu, idt_error);
	if (!(gate >> 47 & 1))
		bt_raise_err(cpu, VEC_NP, idt_error);
	sel = gate >> 16;
	if (type == DESC_TASK) {
		sys_task_switch(cpu, sel, TASK_INT, error, ext, rip);
		return;
	}
	size = type & 8 ? 4 : 2;
	off = (gate & 0xffff) | (size == 4 ? gate >> 32 & 0xffff0000 : 0);
	cpl = check_target(cpu, sel, ext, &d);
	sys_stack_current(cpu, &s);
	s.error = ext;
	if (sys_vm86(cpu) && cpl)
		sys_gp(cpu, (sel & 0xfffc) | ext);
	if (cpl < cpu->cpl) {
		uint16_t ss;
		uint32_t esp;

		sys_tss_stack(cpu, cpl, ext, &ss, &esp);
		sys_check_stack_seg(cpu, ss, cpl, VEC_TS, ext, &s.ss);
		s.sp = esp;
		s.mask = s.ss.attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;
		s.error = (ss & 0xfffc) | ext;
		s.kind = BT_SUPER;
		if (sys_vm86(cpu)) {
			for (unsigned i = 0; i < 4; i++)
				sys_push(cpu, &s, size, cpu->st.segs[vm86_data[i]].selector);
		}
		sys_push(cpu, &s, size, cpu->st.segs[SEG_SS].selector);
		sys_push(cpu, &s, size, cpu->st.regs[REG_RSP]);
	} else if (cpl < 3) {
		s.kind = BT_SUPER;
	}
	sys_push(cpu, &s, size, flags);
	sys_push(cpu, &s, size, cpu->st.segs[SEG_CS].selector);
	sys_push(cpu, &s, size, rip);
	if (error >= 0)
		sys_push(cpu, &s, size, error);
	if (off > desc_limit(&d))
		sys_gp(cpu, ext);
	sys_desc_set_accessed(cpu, &d);

	if (sys_vm86(cpu)) {
		for (unsigned i = 0; i < 4; i++)
			sys_null_seg(&cpu->st.segs[vm86_data[i]], 0, 0);
	}
	cpu->st.segs[SEG_SS] = s.ss;
	sys_stack_commit(cpu, &s);
	cpu->st.rip = off;
	enter_handler(cpu, &d, sel, cpl, type & 1);
}

static void deliver_real(struct bt_cpu *cpu, unsigned vector, unsigned ext, uint64_t rip)
{
	struct sys_stack s;
	uint32_t gate;

	if (vector * 4 + 3 > cpu->st.idt.limit)
		sys_gp(cpu, vector * 8 + 2 + ext);
	gate = bt_ld(cpu, (uint32_t)(cpu->st.idt.base + vector * 4), 4, BT_SUPER);
	sys_stack_current(cpu, &s);
	sys_push(cpu, &s, 2, cpu->st.rflags);
	sys_push(cpu, &s, 2, cpu->st.segs[SEG_CS].selector);
	sys_push(cpu, &s, 2, rip);

	sys_stack_commit(cpu, &s);
	cpu->st.rflags &= ~(uint64_t)(FL_TF | FL_IF | FL_RF | FL_AC);
	sys_real_seg(&cpu->st.segs[SEG_CS], gate >> 16);
	cpu->st.rip = gate & 0xffff;
	bt_update_key(cpu);
}

void sys_deliver(struct bt_cpu *cpu, unsigned vector, bool soft, int64_t error, unsigned ext,
		 uint64_t rip)
{
	uint64_t flags = cpu->st.rflags;

	if (cpu->delivering < DELIVER_SOFT && is_fault(vector))
		flags |= FL_RF;
	if (sys_real_mode(cpu))
		deliver_real(cpu, vector, ext, rip);
	else if (bt_long_mode(cpu))
		deliver_long(cpu, vector, soft, error, ext, rip, flags);
	else
		deliver_protected(cpu, vector, soft, error, ext, rip, flags);
	cpu->delivering = -1;
	cpu->halted = false;
}

void bt_deliver_exception(struct bt_cpu *cpu)
{
	int first = cpu->delivering;
	unsigned vector = cpu->exc.vector, ext = 1;
	int64_t error = cpu->exc.has_error ? (int64_t)cpu->exc.error : -1;

	if (vector == VEC_PF)
		cpu->st.cr2 = cpu->exc.cr2;
	if (first >= 0 && first < DELIVER_SOFT) {
		bool second_bad = is_contributory(vector) || vector == VEC_PF;

		if (first == VEC_DF && second_bad)
			bt_fail(cpu, VCPU_EXIT_TRIPLE_FAULT, "triple fault");
		if ((is_contributory(first) && is_contributory(vector)) ||
		    (first == VEC_PF && second_bad)) {
			vector = VEC_DF;
			error = 0;
		}
	}
	if (vector == VEC_DB)
		cpu->st.dr7 &= ~(1ull << 13);
	cpu->delivering = vector;
	cpu->exc.valid = false;
	sys_deliver(cpu, vector, false, error, ext, cpu->st.rip);
}

void bt_deliver_interrupt(struct bt_cpu *cpu, unsigned vector)
{
	cpu->delivering = DELIVER_INTERRUPT | vector;
	if (vector == VEC_NMI)
		cpu->nmi_masked = true;
	sys_deliver(cpu, vector, false, -1, 1, cpu->st.rip);
}

/* ---- software interrupts ---- */

static uint64_t soft_interrupt(struct bt_cpu *cpu, unsigned vector, bool check_dpl, uint64_t next)
{
	bool step = cpu->st.rflags & FL_TF;

	cpu->delivering = DELIVER_SOFT | vector;
	sys_deliver(cpu, vector, check_dpl, -1, 0, next);
	cpu->no_step = step ? NO_STEP_HANDLER : 0;
	return cpu->st.rip;
}

uint64_t sys_int(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_check_vm86(cpu);
	return soft_interrupt(cpu, (uint8_t)in->imm, true, next);
}

uint64_t sys_int3(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return soft_interrupt(cpu, VEC_BP, true, next);
}

uint64_t sys_into(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return cpu->st.rflags & FL_OF ? soft_interrupt(cpu, VEC_OF, true, next) : next;
}

/* INT1 checks no DPL. */
uint64_t sys_int1(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t rip = soft_interrupt(cpu, VEC_DB, false, next);

	cpu->watch_hits = cpu->watch_held = 0; /* this #DB reports them */
	return rip;
}
