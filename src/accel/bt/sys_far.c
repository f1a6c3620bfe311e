/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far jumps and calls, through code segments, call gates and tasks
 * (Intel SDM 3A, 5.8; volume 2, CALL and JMP).
 */
#include "accel/bt/sys.h"

/* Commit a code segment that runs at the current privilege. */
static uint64_t go(struct bt_cpu *cpu, struct sys_desc *d, uint16_t sel, uint64_t off)
{
	struct vcpu_seg cs;

	sys_desc_set_accessed(cpu, d);
	cs = desc_seg(d, sel);
	sys_set_cs(cpu, &cs, cpu->cpl);
	bt_update_key(cpu);
	return off;
}

/* Offset within the target segment, for the mode it will run in. */
static void check_offset(struct bt_cpu *cpu, const struct sys_desc *d, uint64_t off)
{
	if (bt_long_mode(cpu) && desc_l(d) ? !sys_canonical(off) : off > desc_limit(d))
		sys_gp(cpu, 0);
}

static void check_code(struct bt_cpu *cpu, uint16_t sel, const struct sys_desc *d)
{
	uint32_t error = sel & 0xfffc;
	unsigned dpl = desc_dpl(d);

	if (bt_long_mode(cpu) && desc_l(d) && desc_db(d))
		sys_gp(cpu, error);
	if (desc_is_conforming(d) ? dpl > cpu->cpl : (sel & 3) > cpu->cpl || dpl != cpu->cpl)
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
}

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned size, params;
	struct sys_desc code;
};

/* A call gate and the code segment behind it. */
static void read_gate(struct bt_cpu *cpu, uint16_t sel, const struct sys_desc *d, bool call,
		      struct gate *g)
{
	uint32_t error = sel & 0xfffc, high = 0;
	unsigned dpl = desc_dpl(d);

	if (dpl < cpu->cpl || dpl < (sel & 3))
		sys_gp(cpu, error);
	if (bt_long_mode(cpu) && !sys_desc_high(cpu, sel, d, &high))
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
	g->sel = d->raw >> 16;
	g->size = bt_long_mode(cpu) ? 8 : desc_type(d) & 8 ? 4 : 2;
	g->params = d->raw >> 32 & 31;
	g->off = (d->raw & 0xffff) | (g->size >= 4 ? d->raw >> 32 & 0xffff0000 : 0) |
		 (uint64_t)high << 32;
	error = g->sel & 0xfffc;
	if (!error)
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, g->sel, &g->code) || !desc_is_code(&g->code) ||
	    desc_dpl(&g->code) > cpu->cpl ||
	    (!call && !desc_is_conforming(&g->code) && desc_dpl(&g->code) != cpu->cpl) ||
	    (bt_long_mode(cpu) && (!desc_l(&g->code) || desc_db(&g->code))))
		sys_gp(cpu, error);
	if (!desc_present(&g->code))
		bt_raise_err(cpu, VEC_NP, error);
}

/* TSS or task gate; returns the TSS's selector. */
static uint16_t check_task(struct bt_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	uint32_t error = sel & 0xfffc;

	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (sel & 3))
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
	return desc_type(d) == DESC_TASK ? d->raw >> 16 : sel;
}

static bool is_call_gate(const struct bt_cpu *cpu, const struct sys_desc *d)
{
	unsigned type = desc_type(d);

	return type == DESC_CALL32 || (type == DESC_CALL16 && !bt_long_mode(cpu));
}

static bool is_task(const struct bt_cpu *cpu, const struct sys_desc *d)
{
	unsigned type = desc_type(d);

	return !bt_long_mode(cpu) &&
	       (type == DESC_TASK || type == DESC_TSS16 || type == DESC_TSS32);
}

static void fetch(struct bt_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	if (!(sel & 0xfffc))
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, sel, d))
		sys_gp(cpu, sel & 0xfffc);
}

static uint64_t jmp_far(struct bt_cpu *cpu, uint16_t sel, uint64_t off, uint64_t next)
{
	struct sys_desc d;
	struct gate g;

	if (sys_real_segments(cpu)) {
		if (off > cpu->st.segs[SEG_CS].limit)
			sys_gp(cpu, 0);
		sys_real_seg(&cpu->st.segs[SEG_CS], sel);
		bt_update_key(cpu);
		return off;
	}
	fetch(cpu, sel, &d);
	if (desc_is_code(&d)) {
		check_code(cpu, sel, &d);
		check_offset(cpu, &d, off);
		return go(cpu, &d, sel, off);
	}
	if (desc_is_system(&d) && is_call_gate(cpu, &d)) {
		read_gate(cpu, sel, &d, false, &g);
		check_offset(cpu, &g.code, g.off);
		return go(cpu, &g.code, g.sel, g.off);
	}
	if (desc_is_system(&d) && is_task(cpu, &d))
		return sys_task_switch(cpu, check_task(cpu, sel, &d), TASK_JMP, -1, 0, next);
	sys_gp(cpu, sel & 0xfffc);
}

static uint64_t call_inner(struct bt_cpu *cpu, struct gate *g, uint64_t next)
{
	unsigned cpl = desc_dpl(&g->code);
	struct sys_stack outer, s;
	uint64_t params[31];
	struct vcpu_seg cs;

	sys_stack_current(cpu, &outer);
	s = outer;
	s.kind = BT_SUPER;
	if (g->size == 8) {
		s.sp = sys_tss_stack64(cpu, 4 + cpl * 8, 0);
		sys_null_seg(&s.ss, cpl, cpl);
		s.flat = true;
		s.mask = ~0ull;
		g->params = 0;
	} else {
		uint16_t ss;
		uint32_t esp;

		sys_tss_stack(cpu, cpl, 0, &ss, &esp);
		sys_check_stack_seg(cpu, ss, cpl, VEC_TS, 0, &s.ss);
		s.sp = esp;
		s.mask = s.ss.attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;
		s.error = ss & 0xfffc;
	}
	for (unsigned i = 0; i < g->params; i++)
		params[i] = sys_pop(cpu, &outer, g->size);
	sys_push(cpu, &s, g->size, cpu->st.segs[SEG_SS].selector);
	sys_push(cpu, &s, g->size, cpu->st.regs[REG_RSP]);
	for (unsigned i = g->params; i-- > 0;)
		sys_push(cpu, &s, g->size, params[i]);
	sys_push(cpu, &s, g->size, cpu->st.segs[SEG_CS].selector);
	sys_push(cpu, &s, g->size, next);
	check_offset(cpu, &g->code, g->off);
	sys_desc_set_accessed(cpu, &g->code);

	cpu->st.segs[SEG_SS] = s.ss;
	sys_stack_commit(cpu, &s);
	cs = desc_seg(&g->code, g->sel);
	sys_set_cs(cpu, &cs, cpl);
	bt_update_key(cpu);
	return g->off;
}

static uint64_t call_far(struct bt_cpu *cpu, uint16_t sel, uint64_t off, unsigned size,
			 uint64_t next)
{
	struct sys_stack s;
	struct sys_desc d;
	struct gate g;

	sys_stack_current(cpu, &s);
	if (sys_real_segments(cpu)) {
		if (off > cpu->st.segs[SEG_CS].limit)
			sys_gp(cpu, 0);
		sys_push(cpu, &s, size, cpu->st.segs[SEG_CS].selector);
		sys_push(cpu, &s, size, next);
		sys_stack_commit(cpu, &s);
		sys_real_seg(&cpu->st.segs[SEG_CS], sel);
		bt_update_key(cpu);
		return off;
	}
	fetch(cpu, sel, &d);
	if (desc_is_code(&d)) {
		check_code(cpu, sel, &d);
	} else if (desc_is_system(&d) && is_call_gate(cpu, &d)) {
		read_gate(cpu, sel, &d, true, &g);
		if (!desc_is_conforming(&g.code) && desc_dpl(&g.code) < cpu->cpl)
			return call_inner(cpu, &g, next);
		d = g.code;
		sel = g.sel;
		off = g.off;
		size = g.size;
	} else if (desc_is_system(&d) && is_task(cpu, &d)) {
		return sys_task_switch(cpu, check_task(cpu, sel, &d), TASK_CALL, -1, 0, next);
	} else {
		sys_gp(cpu, sel & 0xfffc);
	}
	sys_push(cpu, &s, size, cpu->st.segs[SEG_CS].selector);
	sys_push(cpu, &s, size, next);
	check_offset(cpu, &d, off);
	/* go() may fault on the accessed bit: rsp only after it */
	off = go(cpu, &d, sel, off);
	sys_stack_commit(cpu, &s);
	return off;
}

uint64_t sys_jmp_far(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return jmp_far(cpu, in->far_sel, in->imm & sys_size_mask(in->opsize), next);
}

uint64_t sys_call_far(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return call_far(cpu, in->far_sel, in->imm & sys_size_mask(in->opsize), in->opsize, next);
}

static uint16_t far_pointer(struct bt_cpu *cpu, const struct insn *in, uint64_t *ret_off)
{
	uint64_t la = bt_operand(cpu, in, in->opsize + 2, false);

	*ret_off = bt_ld(cpu, la, in->opsize, BT_CPL);
	return bt_ld(cpu, la + in->opsize, 2, BT_CPL);
}

uint64_t sys_jmp_far_mem(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t off;
	uint16_t sel = far_pointer(cpu, in, &off);

	return jmp_far(cpu, sel, off, next);
}

uint64_t sys_call_far_mem(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t off;
	uint16_t sel = far_pointer(cpu, in, &off);

	return call_far(cpu, sel, off, in->opsize, next);
}
