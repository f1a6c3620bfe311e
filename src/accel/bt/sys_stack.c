/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stack in every mode, near control transfers and the instructions built
 * of them. The translator does most of these inline; what is here serves
 * 16-bit and segmented code and the far transfers.
 */
#include "accel/bt/sys.h"

void sys_stack_current(struct bt_cpu *cpu, struct sys_stack *s)
{
	s->ss = cpu->st.segs[SEG_SS];
	s->sp = cpu->st.regs[REG_RSP];
	s->flat = bt_64bit(cpu);
	s->mask = s->flat ? ~0ull : s->ss.attr & SEG_ATTR_DB ? 0xffffffffull : 0xffffull;
	s->error = 0;
	s->kind = BT_CPL;
}

uint64_t sys_stack_range(struct bt_cpu *cpu, const struct sys_stack *s, uint64_t off, unsigned size,
			 bool write)
{
	uint64_t last = off + size - 1;
	bool bad;

	if (s->flat) {
		if (!sys_canonical(off) || !sys_canonical(last))
			bt_raise_err(cpu, VEC_SS, s->error);
		return off;
	}
	if (s->ss.attr & SEG_ATTR_UNUSABLE)
		bad = true;
	else if ((s->ss.attr & (SEG_TYPE_CODE | SEG_TYPE_E)) == SEG_TYPE_E)
		bad = off <= s->ss.limit ||
		      last > (s->ss.attr & SEG_ATTR_DB ? 0xffffffffull : 0xffffull);
	else
		bad = last > s->ss.limit;
	if (bad || (write && !sys_real_mode(cpu) &&
		    (s->ss.attr & (SEG_TYPE_CODE | SEG_TYPE_W)) != SEG_TYPE_W))
		bt_raise_err(cpu, VEC_SS, s->error);
	return (uint32_t)(s->ss.base + off);
}

void sys_push(struct bt_cpu *cpu, struct sys_stack *s, unsigned size, uint64_t val)
{
	uint64_t sp = (s->sp - size) & s->mask;

	bt_st(cpu, sys_stack_range(cpu, s, sp, size, true), size, val & sys_size_mask(size),
	      s->kind);
	s->sp = (s->sp & ~s->mask) | sp;
}

uint64_t sys_pop(struct bt_cpu *cpu, struct sys_stack *s, unsigned size)
{
	uint64_t sp = s->sp & s->mask;
	uint64_t val = bt_ld(cpu, sys_stack_range(cpu, s, sp, size, false), size, s->kind);

	s->sp = (s->sp & ~s->mask) | ((sp + size) & s->mask);
	return val;
}

void sys_stack_commit(struct bt_cpu *cpu, const struct sys_stack *s)
{
	cpu->st.regs[REG_RSP] = s->mask == 0xffffffff ? (uint32_t)s->sp : s->sp;
}

static uint64_t push_one(struct bt_cpu *cpu, const struct insn *in, uint64_t val, uint64_t next)
{
	struct sys_stack s;

	sys_stack_current(cpu, &s);
	sys_push(cpu, &s, in->opsize, val);
	sys_stack_commit(cpu, &s);
	return next;
}

uint64_t sys_push_reg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return push_one(cpu, in, cpu->st.regs[in->opreg], next);
}

uint64_t sys_push_imm(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return push_one(cpu, in, in->imm, next);
}

uint64_t sys_push_rm(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return push_one(cpu, in, sys_rm_get(cpu, in, in->opsize), next);
}

uint64_t sys_pop_reg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_stack s;
	uint64_t val;

	sys_stack_current(cpu, &s);
	val = sys_pop(cpu, &s, in->opsize);
	sys_stack_commit(cpu, &s);
	sys_set_gpr(cpu, in->opreg, in->opsize, val);
	return next;
}

/* An address by rsp uses its value after the pop. */
uint64_t sys_pop_rm(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t old = cpu->st.regs[REG_RSP], val, la;
	struct sys_stack s;

	sys_stack_current(cpu, &s);
	val = sys_pop(cpu, &s, in->opsize);
	if (!in->mem) {
		sys_stack_commit(cpu, &s);
		sys_set_gpr(cpu, in->rm, in->opsize, val);
		return next;
	}
	if (in->base == REG_RSP) {
		struct insn moved = *in;

		/* the displacement moves instead of the register, so that a fault finds rsp
		 * unchanged */
		moved.disp += s.sp - old;
		la = bt_operand(cpu, &moved, in->opsize, true);
	} else {
		la = bt_operand(cpu, in, in->opsize, true);
	}
	bt_st(cpu, la, in->opsize, val, BT_CPL);
	sys_stack_commit(cpu, &s);
	return next;
}

uint64_t sys_push_seg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return push_one(cpu, in, cpu->st.segs[in->seg_reg].selector, next);
}

uint64_t sys_pop_seg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_stack s;
	uint16_t sel;

	sys_stack_current(cpu, &s);
	sel = sys_pop(cpu, &s, in->opsize);
	sys_load_seg(cpu, in->seg_reg, sel);
	sys_stack_commit(cpu, &s);
	if (in->seg_reg == SEG_SS) {
		cpu->int_shadow = true;
		cpu->no_step = sys_debugging(cpu) ? NO_STEP_SS : 0;
		bt_update_key(cpu);
	}
	return next;
}

uint64_t sys_pusha(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_stack s;

	sys_stack_current(cpu, &s);
	for (unsigned r = 0; r < 8; r++)
		sys_push(cpu, &s, in->opsize, cpu->st.regs[r]);
	sys_stack_commit(cpu, &s);
	return next;
}

uint64_t sys_popa(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_stack s;
	uint64_t val[8];

	sys_stack_current(cpu, &s);
	for (int r = 7; r >= 0; r--)
		val[r] = sys_pop(cpu, &s, in->opsize);
	sys_stack_commit(cpu, &s);
	for (unsigned r = 0; r < 8; r++) {
		if (r != REG_RSP)
			sys_set_gpr(cpu, r, in->opsize, val[r]);
	}
	return next;
}

uint64_t sys_pushf(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_check_vm86(cpu);
	return push_one(cpu, in, cpu->st.rflags & ~(uint64_t)(FL_RF | FL_VM), next);
}

uint64_t sys_popf(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t change = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID;
	uint64_t old = cpu->st.rflags;
	struct sys_stack s;
	uint64_t val;

	sys_check_vm86(cpu);
	if (cpu->cpl == 0)
		change |= FL_IOPL;
	if (cpu->cpl <= sys_iopl(cpu))
		change |= FL_IF;
	if (in->opsize == 2)
		change &= 0xffff;
	sys_stack_current(cpu, &s);
	val = sys_pop(cpu, &s, in->opsize);
	sys_stack_commit(cpu, &s);
	cpu->st.rflags = ((old & ~change) | (val & change)) & ~(uint64_t)FL_RF;
	if ((old ^ cpu->st.rflags) & (FL_TF | FL_AC)) {
		bt_update_key(cpu);
	}
	return next;
}

uint64_t sys_enter(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize, level = in->imm2 & 31;
	uint64_t frame, bp = cpu->st.regs[REG_RBP];
	struct sys_stack s;

	sys_stack_current(cpu, &s);
	sys_push(cpu, &s, size, bp);
	frame = s.sp;
	if (level) {
		for (unsigned i = 1; i < level; i++) {
			uint64_t la;

			bp -= size;
			la = sys_stack_range(cpu, &s, bp & s.mask, size, false);
			sys_push(cpu, &s, size, bt_ld(cpu, la, size, BT_CPL));
		}
		sys_push(cpu, &s, size, frame);
	}
	s.sp = (s.sp & ~s.mask) | ((s.sp - (uint16_t)in->imm) & s.mask);
	/* the new stack top must be writable */
	bt_probe_write(cpu, sys_stack_range(cpu, &s, s.sp & s.mask, size, true), size, BT_CPL);
	sys_stack_commit(cpu, &s);
	sys_set_gpr(cpu, REG_RBP, size, frame);
	return next;
}

uint64_t sys_leave(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_stack s;
	uint64_t val;

	sys_stack_current(cpu, &s);
	s.sp = (s.sp & ~s.mask) | (cpu->st.regs[REG_RBP] & s.mask);
	val = sys_pop(cpu, &s, in->opsize);
	sys_stack_commit(cpu, &s);
	sys_set_gpr(cpu, REG_RBP, in->opsize, val);
	return next;
}

/* ---- near control transfer ---- */

unsigned sys_branch_size(const struct bt_cpu *cpu, const struct insn *in)
{
	return bt_64bit(cpu) ? 8 : in->opsize == 2 ? 2 : 4;
}

uint64_t sys_near_target(struct bt_cpu *cpu, unsigned opsize, uint64_t target)
{
	target &= sys_size_mask(opsize);
	if (bt_64bit(cpu) ? !sys_canonical(target) : target > cpu->st.segs[SEG_CS].limit)
		sys_gp(cpu, 0);
	return target;
}

uint64_t sys_jmp(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return sys_near_target(cpu, sys_branch_size(cpu, in), next + in->imm);
}

uint64_t sys_jcc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return sys_cond(in->cc, cpu->st.rflags) ? sys_jmp(cpu, in, next) : next;
}

static uint64_t call_to(struct bt_cpu *cpu, unsigned size, uint64_t target, uint64_t next)
{
	struct sys_stack s;

	target = sys_near_target(cpu, size, target);
	sys_stack_current(cpu, &s);
	sys_push(cpu, &s, size, next);
	sys_stack_commit(cpu, &s);
	return target;
}

uint64_t sys_call(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return call_to(cpu, sys_branch_size(cpu, in), next + in->imm, next);
}

uint64_t sys_jmp_rm(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = sys_branch_size(cpu, in);

	return sys_near_target(cpu, size, sys_rm_get(cpu, in, size));
}

uint64_t sys_call_rm(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = sys_branch_size(cpu, in);

	return call_to(cpu, size, sys_rm_get(cpu, in, size), next);
}

uint64_t sys_ret(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = sys_branch_size(cpu, in);
	struct sys_stack s;
	uint64_t target;

	sys_stack_current(cpu, &s);
	target = sys_near_target(cpu, size, sys_pop(cpu, &s, size));
	s.sp = (s.sp & ~s.mask) | ((s.sp + (uint16_t)in->imm) & s.mask);
	sys_stack_commit(cpu, &s);
	return target;
}

uint64_t sys_loop(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t count = (cpu->st.regs[REG_RCX] - 1) & sys_size_mask(in->addrsize);
	bool zf = cpu->st.rflags & FL_ZF, take = count;
	uint64_t target = next;

	if (in->op == OP_LOOPE)
		take = take && zf;
	else if (in->op == OP_LOOPNE)
		take = take && !zf;
	if (take)
		target = sys_jmp(cpu, in, next);
	sys_set_gpr(cpu, REG_RCX, in->addrsize, count);
	return target;
}

uint64_t sys_jcxz(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return sys_gpr(cpu, REG_RCX, in->addrsize) ? next : sys_jmp(cpu, in, next);
}
