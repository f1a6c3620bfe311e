/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches through 16-bit and 32-bit TSSs (Intel SDM 3A,
 * chapter 8). Up to the commit point faults belong to the old task; from
 * there on to the new one, whose registers are then in st.
 */
#include "accel/bt/sys.h"

/* Offsets in the two kinds of TSS; registers and segments follow one another in steps of @size. */
struct layout {
	unsigned size, limit, cr3, ip, flags, regs, segs, seg_count, ldt;
};

static const struct layout tss32 = { 4, 0x67, 0x1c, 0x20, 0x24, 0x28, 0x48, 6, 0x60 };
static const struct layout tss16 = { 2, 0x2b, 0, 0x0e, 0x10, 0x12, 0x22, 4, 0x2a };

struct task {
	uint64_t cr3, ip, flags, regs[8];
	uint16_t segs[6], ldt;
};

static const struct layout *layout_of(unsigned type)
{
	return type & 8 ? &tss32 : &tss16;
}

static uint64_t at(uint64_t base, unsigned off)
{
	return (uint32_t)(base + off);
}

static void save_task(struct bt_cpu *cpu, const struct layout *l, uint64_t base, uint64_t ip,
		      uint64_t flags)
{
	bt_probe_write(cpu, at(base, l->ip), l->segs + l->seg_count * l->size - l->ip, BT_SUPER);
	bt_st(cpu, at(base, l->ip), l->size, ip & sys_size_mask(l->size), BT_SUPER);
	bt_st(cpu, at(base, l->flags), l->size, flags & sys_size_mask(l->size), BT_SUPER);
	for (unsigned i = 0; i < 8; i++)
		bt_st(cpu, at(base, l->regs + i * l->size), l->size, sys_gpr(cpu, i, l->size),
		      BT_SUPER);
	for (unsigned i = 0; i < l->seg_count; i++)
		bt_st(cpu, at(base, l->segs + i * l->size), 2, cpu->st.segs[i].selector, BT_SUPER);
}

static void load_task(struct bt_cpu *cpu, const struct layout *l, uint64_t base, struct task *t)
{
	t->cr3 = l->cr3 ? bt_ld(cpu, at(base, l->cr3), 4, BT_SUPER) : cpu->st.cr3;
	t->ip = bt_ld(cpu, at(base, l->ip), l->size, BT_SUPER);
	t->flags = bt_ld(cpu, at(base, l->flags), l->size, BT_SUPER);
	for (unsigned i = 0; i < 8; i++) {
		t->regs[i] = bt_ld(cpu, at(base, l->regs + i * l->size), l->size, BT_SUPER);
		if (l->size == 2)
			t->regs[i] |= 0xffff0000;
	}
	for (unsigned i = 0; i < 6; i++)
		t->segs[i] =
		    i < l->seg_count ? bt_ld(cpu, at(base, l->segs + i * l->size), 2, BT_SUPER) : 0;
	t->ldt = bt_ld(cpu, at(base, l->ldt), 2, BT_SUPER);
}

/* The busy bit of a TSS descriptor in the GDT. */
static void set_busy(struct bt_cpu *cpu, uint16_t sel, bool busy)
{
	uint64_t la = at(cpu->st.gdt.base, (sel & 0xfff8) + 5);
	uint8_t type = bt_ld(cpu, la, 1, BT_SUPER);

	bt_st(cpu, la, 1, busy ? type | 2 : type & ~2, BT_SUPER);
}

static void load_ldt(struct bt_cpu *cpu, uint16_t sel)
{
	struct sys_desc d;

	if (!(sel & 0xfffc))
		return;
	if ((sel & 4) || !sys_desc_read(cpu, sel, &d) || !desc_is_system(&d) ||
	    desc_type(&d) != DESC_LDT || !desc_present(&d))
		bt_raise_err(cpu, VEC_TS, sel & 0xfffc);
	cpu->st.segs[SEG_LDT] = desc_seg(&d, sel);
}

static void load_cs(struct bt_cpu *cpu, uint16_t sel)
{
	unsigned rpl = sel & 3;
	struct vcpu_seg cs;
	struct sys_desc d;

	if (!(sel & 0xfffc) || !sys_desc_read(cpu, sel, &d) || !desc_is_code(&d) ||
	    (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		bt_raise_err(cpu, VEC_TS, sel & 0xfffc);
	if (!desc_present(&d))
		bt_raise_err(cpu, VEC_NP, sel & 0xfffc);
	sys_desc_set_accessed(cpu, &d);
	cs = desc_seg(&d, sel);
	sys_set_cs(cpu, &cs, rpl);
}

/* The descriptor of the task to enter. */
static void check_tss(struct bt_cpu *cpu, uint16_t sel, enum sys_task_how how, unsigned ext,
		      struct sys_desc *d)
{
	unsigned vec = how == TASK_IRET || how == TASK_INT ? VEC_TS : VEC_GP, type;
	uint32_t error = (sel & 0xfffc) | ext;

	if (!(sel & 0xfffc) || (sel & 4) || !sys_desc_read(cpu, sel, d) || !desc_is_system(d))
		bt_raise_err(cpu, vec, error);
	type = desc_type(d);
	if (how == TASK_IRET ? type != DESC_TSS32_BUSY && type != DESC_TSS16_BUSY
			     : type != DESC_TSS32 && type != DESC_TSS16)
		bt_raise_err(cpu, vec, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
	if (desc_limit(d) < layout_of(type)->limit)
		bt_raise_err(cpu, VEC_TS, error);
}

/* Registers and bare selectors of the new task; its segments are checked afterwards. */
static void enter_task(struct bt_cpu *cpu, const struct task *t)
{
	struct vcpu_state *st = &cpu->st;

	if ((st->cr0 & CR0_PG) && t->cr3 != st->cr3)
		bt_set_cr3(cpu, t->cr3, false);
	st->rip = t->ip;
	st->rflags = (t->flags & 0x3f7fd5) | FL_FIXED; /* VM included */
	for (unsigned i = 0; i < 8; i++)
		st->regs[i] = t->regs[i];
	cpu->cpl = sys_vm86(cpu) ? 3 : t->segs[SEG_CS] & 3;
	for (unsigned i = 0; i < 6; i++) {
		if (sys_vm86(cpu))
			sys_vm86_seg(&st->segs[i], t->segs[i]);
		else
			sys_null_seg(&st->segs[i], t->segs[i], cpu->cpl);
	}
	sys_null_seg(&st->segs[SEG_LDT], t->ldt, 0);
	bt_update_key(cpu);
}

static void load_segments(struct bt_cpu *cpu, const struct task *t)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	load_ldt(cpu, t->ldt);
	if (sys_vm86(cpu))
		return;
	load_cs(cpu, t->segs[SEG_CS]);
	sys_check_stack_seg(cpu, t->segs[SEG_SS], cpu->cpl, VEC_TS, 0, &cpu->st.segs[SEG_SS]);
	for (unsigned i = 0; i < 4; i++)
		sys_check_data(cpu, t->segs[data[i]], cpu->cpl, VEC_TS, &cpu->st.segs[data[i]]);
	bt_update_key(cpu);
}

uint64_t sys_task_switch(struct bt_cpu *cpu, uint16_t sel, enum sys_task_how how, int64_t error,
			 unsigned ext, uint64_t next_rip)
{
	struct vcpu_seg *tr = &cpu->st.segs[SEG_TR];
	const struct layout *old_l = layout_of(tr->attr), *new_l;
	uint64_t flags = cpu->st.rflags, base;
	uint16_t old_sel = tr->selector;
	struct sys_desc d;
	struct task t;

	check_tss(cpu, sel, how, ext, &d);
	new_l = layout_of(desc_type(&d));
	base = desc_base(&d);
	if (tr->limit < old_l->limit)
		bt_raise_err(cpu, VEC_TS, (old_sel & 0xfffc) | ext);
	load_task(cpu, new_l, base, &t);
	if (how == TASK_IRET)
		flags &= ~(uint64_t)FL_NT;
	save_task(cpu, old_l, tr->base, next_rip, flags);
	if (how == TASK_JMP || how == TASK_IRET)
		set_busy(cpu, old_sel, false);
	if (how == TASK_CALL || how == TASK_INT) {
		bt_st(cpu, at(base, 0), 2, old_sel, BT_SUPER);
		t.flags |= FL_NT;
	}
	if (how != TASK_IRET)
		set_busy(cpu, sel, true);
	*tr = desc_seg(&d, sel);
	tr->attr |= 2;
	cpu->st.cr0 |= CR0_TS;
	enter_task(cpu, &t);
	load_segments(cpu, &t);
	if (error >= 0) {
		struct sys_stack s;

		sys_stack_current(cpu, &s);
		s.error = ext;
		sys_push(cpu, &s, new_l->size, error);
		sys_stack_commit(cpu, &s);
	}
	if (t.ip > cpu->st.segs[SEG_CS].limit)
		sys_gp(cpu, ext);
	return t.ip;
}
