/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments: loading with the architecture's checks, descriptor table registers,
 * the instructions that look at descriptors, and the mode key
 * (Intel SDM 3A, chapters 3 and 5).
 *
 * A segment register loaded with a null selector is unusable; its base is
 * cleared. In real mode a load sets selector and base and keeps the limit, so
 * "unreal" mode works as on hardware.
 */
#include "accel/bt/sys.h"

bool sys_desc_read(struct bt_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	uint64_t base;
	uint32_t limit;

	if (sel & 4) {
		const struct vcpu_seg *ldt = &cpu->st.segs[SEG_LDT];

		if (ldt->attr & SEG_ATTR_UNUSABLE)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	} else {
		base = cpu->st.gdt.base;
		limit = cpu->st.gdt.limit;
	}
	if ((sel | 7u) > limit)
		return false;
	d->la = base + (sel & 0xfff8);
	if (!bt_long_mode(cpu))
		d->la = (uint32_t)d->la;
	d->raw = bt_ld(cpu, d->la, 8, BT_SUPER);
	return true;
}

bool sys_desc_high(struct bt_cpu *cpu, uint16_t sel, const struct sys_desc *d, uint32_t *ret_high)
{
	uint32_t limit = sel & 4 ? cpu->st.segs[SEG_LDT].limit : cpu->st.gdt.limit;
	uint64_t high;

	if ((sel | 7u) + 8 > limit)
		return false;
	high = bt_ld(cpu, d->la + 8, 8, BT_SUPER);
	*ret_high = high;
	return !(high >> 40 & 0x1f);
}

void sys_desc_set_accessed(struct bt_cpu *cpu, struct sys_desc *d)
{
	if (d->raw >> 40 & SEG_TYPE_A)
		return;
	d->raw |= (uint64_t)SEG_TYPE_A << 40;
	bt_st(cpu, d->la + 5, 1, d->raw >> 40 & 0xff, BT_SUPER);
}

void sys_null_seg(struct vcpu_seg *s, uint16_t sel, unsigned dpl)
{
	*s = (struct vcpu_seg) { .selector = sel,
				 .attr = SEG_ATTR_UNUSABLE | dpl << SEG_ATTR_DPL_SHIFT };
}

void sys_real_seg(struct vcpu_seg *s, uint16_t sel)
{
	if (s->attr & SEG_ATTR_UNUSABLE) {
		s->attr = SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_W | SEG_TYPE_A;
		s->limit = 0xffff;
	}
	s->selector = sel;
	s->base = (uint32_t)sel << 4;
}

void sys_vm86_seg(struct vcpu_seg *s, uint16_t sel)
{
	*s = (struct vcpu_seg) { .selector = sel,
				 .attr = SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_W | SEG_TYPE_A |
					 3u << SEG_ATTR_DPL_SHIFT,
				 .limit = 0xffff,
				 .base = (uint32_t)sel << 4 };
}

void sys_set_flat(struct vcpu_seg *s, uint16_t sel, uint32_t attr)
{
	*s = (struct vcpu_seg) { .selector = sel, .attr = attr, .limit = ~0u };
}

void sys_check_stack_seg(struct bt_cpu *cpu, uint16_t sel, unsigned cpl, unsigned vec_bad,
			 unsigned ext, struct vcpu_seg *ret_seg)
{
	uint32_t error = (sel & 0xfffc) | ext;
	struct sys_desc d;

	if (!(sel & 0xfffc))
		bt_raise_err(cpu, vec_bad, ext);
	if (!sys_desc_read(cpu, sel, &d) || (sel & 3) != cpl || desc_dpl(&d) != cpl ||
	    !desc_is_writable_data(&d))
		bt_raise_err(cpu, vec_bad, error);
	if (!desc_present(&d))
		bt_raise_err(cpu, VEC_SS, error);
	sys_desc_set_accessed(cpu, &d);
	*ret_seg = desc_seg(&d, sel);
}

void sys_check_data(struct bt_cpu *cpu, uint16_t sel, unsigned cpl, unsigned vec_bad,
		    struct vcpu_seg *ret_seg)
{
	struct sys_desc d;

	if (!(sel & 0xfffc)) {
		sys_null_seg(ret_seg, sel, 0);
		return;
	}
	if (!sys_desc_read(cpu, sel, &d) || desc_is_system(&d) ||
	    (desc_is_code(&d) && !(desc_type(&d) & SEG_TYPE_R)) ||
	    (!desc_is_conforming(&d) && ((sel & 3) > desc_dpl(&d) || cpl > desc_dpl(&d))))
		bt_raise_err(cpu, vec_bad, sel & 0xfffc);
	if (!desc_present(&d))
		bt_raise_err(cpu, VEC_NP, sel & 0xfffc);
	sys_desc_set_accessed(cpu, &d);
	*ret_seg = desc_seg(&d, sel);
}

void sys_load_seg(struct bt_cpu *cpu, unsigned seg, uint16_t sel)
{
	struct vcpu_seg *s = &cpu->st.segs[seg];

	if (sys_real_segments(cpu)) {
		sys_real_seg(s, sel);
	} else if (seg != SEG_SS) {
		sys_check_data(cpu, sel, cpu->cpl, VEC_GP, s);
	} else if (!(sel & 0xfffc) && bt_64bit(cpu) && cpu->cpl < 3 && sel == cpu->cpl) {
		sys_null_seg(s, sel, cpu->cpl);
	} else {
		sys_check_stack_seg(cpu, sel, cpu->cpl, VEC_GP, 0, s);
	}
	bt_update_key(cpu);
}

void sys_set_cs(struct bt_cpu *cpu, const struct vcpu_seg *cs, unsigned cpl)
{
	cpu->st.segs[SEG_CS] = *cs;
	cpu->st.segs[SEG_CS].selector = (cs->selector & ~3u) | cpl;
	cpu->cpl = cpl;
}

static bool is_flat(const struct vcpu_seg *s)
{
	return !s->base && s->limit == ~0u &&
	       (s->attr & (SEG_ATTR_UNUSABLE | SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_CODE |
			   SEG_TYPE_E | SEG_TYPE_W)) == (SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_W);
}

void bt_update_key(struct bt_cpu *cpu)
{
	const struct vcpu_state *st = &cpu->st;
	const struct vcpu_seg *cs = &st->segs[SEG_CS];
	uint32_t key;

	if (bt_64bit(cpu)) {
		key = MODE_64;
	} else {
		key = cs->attr & SEG_ATTR_DB ? MODE_32 : MODE_16;
		if (st->segs[SEG_SS].attr & SEG_ATTR_DB)
			key |= KEY_SS32;
		if (!is_flat(&st->segs[SEG_ES]) || !is_flat(&st->segs[SEG_SS]) ||
		    !is_flat(&st->segs[SEG_DS]))
			key |= KEY_SEGS;
		if (cs->base || cs->limit != ~0u)
			key |= KEY_CS;
	}
	if (cpu->cpl == 1 || cpu->cpl == 2)
		key |= KEY_INNER;
	if (cpu->cpl == 3) {
		key |= KEY_USER;
		if ((st->cr0 & CR0_AM) && (st->rflags & FL_AC))
			key |= KEY_ALIGN;
	} else if (!(st->cr4 & CR4_SMAP) || (st->rflags & FL_AC)) {
		key |= KEY_AC;
	}
	if ((st->cr0 & (CR0_EM | CR0_TS)) ||
	    (st->cr4 & cpu->vm->cr4_vector) != cpu->vm->cr4_vector ||
	    st->xcr0 != cpu->vm->xcr0_max || sys_real_segments(cpu))
		key |= KEY_FPU;
	if (cpu->int_shadow || sys_debugging(cpu))
		key |= KEY_ONE;
	if (key == (MODE_64 | KEY_USER) && cpu->spaces[cpu->space].window_on) {
		key |= KEY_WINDOW;
		cpu->window_base = cpu->spaces[cpu->space].window_base;
		cpu->window_low = cpu->spaces[cpu->space].window_low;
	}
	cpu->key = key;
}

/* ---- moves and loads ---- */

uint64_t sys_mov_from_seg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t sel = cpu->st.segs[in->seg_reg].selector;

	if (in->mem)
		sys_rm_set(cpu, in, 2, sel);
	else
		sys_set_gpr(cpu, in->rm, in->opsize, sel);
	return next;
}

uint64_t sys_mov_to_seg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t sel;

	if (in->seg_reg == SEG_CS || in->seg_reg > SEG_GS)
		sys_ud(cpu);
	sel = sys_rm_get(cpu, in, 2);
	sys_load_seg(cpu, in->seg_reg, sel);
	if (in->seg_reg == SEG_SS) {
		cpu->int_shadow = true;
		cpu->no_step = sys_debugging(cpu) ? NO_STEP_SS : 0;
		bt_update_key(cpu);
	}
	return next;
}

uint64_t sys_lseg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la = bt_operand(cpu, in, in->opsize + 2, false);
	uint64_t off = bt_ld(cpu, la, in->opsize, BT_CPL);
	uint16_t sel = bt_ld(cpu, la + in->opsize, 2, BT_CPL);

	sys_load_seg(cpu, in->seg_reg, sel);
	sys_set_gpr(cpu, in->reg, in->opsize, off);
	return next;
}

static void store_dtable(struct bt_cpu *cpu, const struct insn *in, const struct vcpu_dtable *t)
{
	unsigned size = bt_64bit(cpu) ? 8 : 4;
	uint64_t la;

	sys_need_umip(cpu);
	la = bt_operand(cpu, in, size + 2, true);
	bt_probe_write(cpu, la, size + 2, BT_CPL);
	bt_st(cpu, la, 2, t->limit, BT_CPL);
	bt_st(cpu, la + 2, size, t->base, BT_CPL);
}

uint64_t sys_sgdt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	store_dtable(cpu, in, &cpu->st.gdt);
	return next;
}

uint64_t sys_sidt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	store_dtable(cpu, in, &cpu->st.idt);
	return next;
}

static void load_dtable(struct bt_cpu *cpu, const struct insn *in, struct vcpu_dtable *t)
{
	unsigned size = bt_64bit(cpu) ? 8 : 4;
	uint64_t la, base;
	uint16_t limit;

	sys_need_cpl0(cpu);
	la = bt_operand(cpu, in, size + 2, false);
	limit = bt_ld(cpu, la, 2, BT_CPL);
	base = bt_ld(cpu, la + 2, size, BT_CPL);
	if (size == 8 && !sys_canonical(base))
		sys_gp(cpu, 0);
	if (in->opsize == 2)
		base &= 0xffffff;
	t->limit = limit;
	t->base = base;
}

uint64_t sys_lgdt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	load_dtable(cpu, in, &cpu->st.gdt);
	return next;
}

uint64_t sys_lidt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	load_dtable(cpu, in, &cpu->st.idt);
	return next;
}

static uint64_t store_selector(struct bt_cpu *cpu, const struct insn *in, uint16_t sel,
			       uint64_t next)
{
	if (sys_real_segments(cpu))
		sys_ud(cpu);
	sys_need_umip(cpu);
	if (in->mem)
		sys_rm_set(cpu, in, 2, sel);
	else
		sys_set_gpr(cpu, in->rm, in->opsize, sel);
	return next;
}

uint64_t sys_sldt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return store_selector(cpu, in, cpu->st.segs[SEG_LDT].selector, next);
}

uint64_t sys_str(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return store_selector(cpu, in, cpu->st.segs[SEG_TR].selector, next);
}

/* LLDT and LTR: a system descriptor of the GDT. */
static void load_system(struct bt_cpu *cpu, uint16_t sel, bool tss, struct sys_desc *d,
			struct vcpu_seg *ret_seg)
{
	uint32_t error = sel & 0xfffc, high = 0;
	unsigned type;

	if ((sel & 4) || !sys_desc_read(cpu, sel, d) || !desc_is_system(d))
		sys_gp(cpu, error);
	type = desc_type(d);
	if (!tss && type != DESC_LDT)
		sys_gp(cpu, error);
	if (tss && type != DESC_TSS32 && (type != DESC_TSS16 || bt_long_mode(cpu)))
		sys_gp(cpu, error);
	if (bt_long_mode(cpu) && !sys_desc_high(cpu, sel, d, &high))
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
	*ret_seg = desc_seg(d, sel);
	ret_seg->base |= (uint64_t)high << 32;
	if (bt_long_mode(cpu) && !sys_canonical(ret_seg->base))
		sys_gp(cpu, error);
}

uint64_t sys_lldt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_desc d;
	struct vcpu_seg seg;
	uint16_t sel;

	if (sys_real_segments(cpu))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	sel = sys_rm_get(cpu, in, 2);
	if (!(sel & 0xfffc))
		sys_null_seg(&seg, sel, 0);
	else
		load_system(cpu, sel, false, &d, &seg);
	cpu->st.segs[SEG_LDT] = seg;
	return next;
}

uint64_t sys_ltr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_desc d;
	struct vcpu_seg seg;
	uint16_t sel;

	if (sys_real_segments(cpu))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	sel = sys_rm_get(cpu, in, 2);
	if (!(sel & 0xfffc))
		sys_gp(cpu, 0);
	load_system(cpu, sel, true, &d, &seg);
	bt_st(cpu, d.la + 5, 1, (d.raw >> 40 & 0xff) | 2, BT_SUPER);
	seg.attr |= 2;
	cpu->st.segs[SEG_TR] = seg;
	return next;
}

/* ---- looking at descriptors ---- */

/* Whether the descriptor is within reach of the current privilege and the selector's RPL. */
static bool visible(const struct bt_cpu *cpu, uint16_t sel, const struct sys_desc *d)
{
	return desc_is_conforming(d) || (desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= (sel & 3));
}

static uint64_t verify(struct bt_cpu *cpu, const struct insn *in, uint64_t next, bool write)
{
	struct sys_desc d;
	uint16_t sel;
	bool ok = false;

	if (sys_real_segments(cpu))
		sys_ud(cpu);
	sel = sys_rm_get(cpu, in, 2);
	if ((sel & 0xfffc) && sys_desc_read(cpu, sel, &d) && !desc_is_system(&d) &&
	    visible(cpu, sel, &d)) {
		if (write)
			ok = desc_is_writable_data(&d);
		else
			ok = !desc_is_code(&d) || (desc_type(&d) & SEG_TYPE_R);
	}
	sys_set_flags(cpu, FL_ZF, ok ? FL_ZF : 0);
	return next;
}

uint64_t sys_verr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return verify(cpu, in, next, false);
}

uint64_t sys_verw(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return verify(cpu, in, next, true);
}

static bool look_up(struct bt_cpu *cpu, const struct insn *in, uint32_t types, struct sys_desc *d)
{
	uint16_t sel;
	uint32_t high;

	if (sys_real_segments(cpu))
		sys_ud(cpu);
	sel = sys_rm_get(cpu, in, 2);
	if (!(sel & 0xfffc) || !sys_desc_read(cpu, sel, d) || !visible(cpu, sel, d))
		return false;
	if (!desc_is_system(d))
		return true;
	if (bt_long_mode(cpu)) {
		types &=
		    1u << DESC_LDT | 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY | 1u << DESC_CALL32;
		if ((types >> desc_type(d) & 1) && !sys_desc_high(cpu, sel, d, &high))
			return false;
	}
	return types >> desc_type(d) & 1;
}

uint64_t sys_lar(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_desc d;
	bool ok = look_up(cpu, in,
			  1u << DESC_TSS16 | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY |
			      1u << DESC_CALL16 | 1u << DESC_TASK | 1u << DESC_TSS32 |
			      1u << DESC_TSS32_BUSY | 1u << DESC_CALL32,
			  &d);

	if (ok)
		sys_set_gpr(cpu, in->reg, in->opsize, d.raw >> 32 & 0xffff00);
	sys_set_flags(cpu, FL_ZF, ok ? FL_ZF : 0);
	return next;
}

uint64_t sys_lsl(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct sys_desc d;
	bool ok = look_up(cpu, in,
			  1u << DESC_TSS16 | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY |
			      1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY,
			  &d);

	if (ok)
		sys_set_gpr(cpu, in->reg, in->opsize, desc_limit(&d));
	sys_set_flags(cpu, FL_ZF, ok ? FL_ZF : 0);
	return next;
}

uint64_t sys_arpl(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t dst, src;
	bool low;

	if (sys_real_segments(cpu))
		sys_ud(cpu);
	src = cpu->st.regs[in->reg];
	dst = sys_rm_get(cpu, in, 2);
	low = (dst & 3) < (src & 3);
	if (low)
		sys_rm_set(cpu, in, 2, (dst & ~3u) | (src & 3));
	sys_set_flags(cpu, FL_ZF, low ? FL_ZF : 0);
	return next;
}

/* ---- FS and GS bases ---- */

uint64_t sys_swapgs(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t base = cpu->st.segs[SEG_GS].base;

	if (!bt_64bit(cpu))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	cpu->st.segs[SEG_GS].base = cpu->st.msr_kernel_gs_base;
	cpu->st.msr_kernel_gs_base = base;
	return next;
}

static void need_fsgsbase(struct bt_cpu *cpu)
{
	if (!bt_64bit(cpu) || !(cpu->st.cr4 & CR4_FSGSBASE))
		sys_ud(cpu);
}

uint64_t sys_rdfsbase(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	need_fsgsbase(cpu);
	sys_set_gpr(cpu, in->rm, in->opsize, cpu->st.segs[SEG_FS].base);
	return next;
}

uint64_t sys_rdgsbase(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	need_fsgsbase(cpu);
	sys_set_gpr(cpu, in->rm, in->opsize, cpu->st.segs[SEG_GS].base);
	return next;
}

static uint64_t write_base(struct bt_cpu *cpu, const struct insn *in, unsigned seg, uint64_t next)
{
	uint64_t base = sys_gpr(cpu, in->rm, in->opsize);

	need_fsgsbase(cpu);
	if (!sys_canonical(base))
		sys_gp(cpu, 0);
	cpu->st.segs[seg].base = base;
	return next;
}

uint64_t sys_wrfsbase(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return write_base(cpu, in, SEG_FS, next);
}

uint64_t sys_wrgsbase(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return write_base(cpu, in, SEG_GS, next);
}
