/* SPDX-License-Identifier: Apache-2.0 */
/* Flags, registers, addresses, and the copy of an instruction with mapped registers; see
 * translate.c. */
#include "accel/bt/tr.h"

/* ---- flags ---- */

void tr_save_flags(struct out *o)
{
	e_mov_rr(o, T1, 0);
	out8(o, 0x9f);				     /* lahf */
	out8(o, 0x0f), out8(o, 0x90), out8(o, 0xc0); /* seto al */
	e_rcpu(o, false, 0x89, 0, CPU_OFF(flag_slot));
	e_mov_rr(o, 0, T1);
}

void tr_restore_flags(struct out *o)
{
	e_mov_rr(o, T1, 0);
	e_rcpu(o, false, 0x8b, 0, CPU_OFF(flag_slot));
	out8(o, 0x04), out8(o, 0x7f); /* add al, 0x7f */
	out8(o, 0x9e);		      /* sahf */
	e_mov_rr(o, 0, T1);
}

/* EFLAGS are about to be destroyed by our own code, before instruction cur's operation (or after
 * it). */
void tr_clobber_flags(struct tr *t, unsigned live)
{
	if (t->fs != FLAGS_HW)
		return;
	if (live) {
		tr_save_flags(&t->hot);
		t->fs = FLAGS_SLOT;
	} else {
		t->fs = FLAGS_DEAD;
	}
}

void tr_want_flags_hw(struct tr *t, unsigned live)
{
	if (t->fs == FLAGS_SLOT && live) {
		tr_restore_flags(&t->hot);
		t->fs = FLAGS_HW;
	}
}

void tr_want_flags_slot(struct tr *t, unsigned live)
{
	if (t->fs == FLAGS_HW && live) {
		tr_save_flags(&t->hot);
		t->fs = FLAGS_SLOT;
	}
}

static unsigned live_after(const struct tr *t)
{
	return t->live[t->cur + 1];
}

bool tr_must_restore(const struct tr *t, const struct insn *in)
{
	return t->fs == FLAGS_SLOT &&
	       ((in->flags_read & FL_ARITH) ||
		((in->flags_written & FL_ARITH) && (live_after(t) & ~in->flags_written)));
}

/* ---- registers and addresses ---- */

/* T1 <- T0 shifted right by @n; bits above the lower 64 - @n are anything */
void tr_emit_shifted(struct tr *t, struct out *o, uint8_t n)
{
	if (t->cache->rorx) {
		e_rorx_i(o, T1, T0, n);
	} else {
		e_mov_rr(o, T1, T0);
		e_shift_i(o, true, 5, T1, n);
	}
}

unsigned tr_use_reg(struct out *o, unsigned greg, unsigned scratch)
{
	if (reg_map[greg] != HOMED)
		return reg_map[greg];
	e_load(o, scratch, HOME_OFF(greg));
	return scratch;
}

void tr_add_imm64(struct tr *t, unsigned reg, int64_t v)
{
	if (v == (int32_t)v) {
		e_lea(&t->hot, true, reg, reg, v);
		return;
	}
	e_mov_ri64(&t->hot, T1, v);
	e_lea_sib(&t->hot, true, reg, reg, T1, 1, 0);
}

/* @dst (T0, or a pinned register's host) <- effective address; keeps flags; uses T0 and T1 */
void tr_emit_effective(struct tr *t, const struct insn *in, unsigned dst)
{
	struct out *o = &t->hot;
	bool w = in->addrsize == 8;

	if (in->base == INSN_RIP_REL) {
		e_load(o, T0, CPU_OFF(vbase));
		tr_add_imm64(t, T0, t->offs[t->cur + 1] + in->disp);
		if (!w)
			e_rr(o, false, 0x8b, dst, T0);
		else if (dst != T0)
			e_mov_rr(o, dst, T0);
		return;
	}
	if (in->base == INSN_NO_REG && in->index == INSN_NO_REG) {
		e_mov_ri64(o, dst,
			   w		       ? (uint64_t)in->disp
			   : in->addrsize == 4 ? (uint32_t)in->disp
					       : (uint16_t)in->disp);
		return;
	}

	int base = in->base != INSN_NO_REG ? (int)tr_use_reg(o, in->base, T0) : -1;
	int index = in->index != INSN_NO_REG ? (int)tr_use_reg(o, in->index, T1) : -1;

	if (index < 0 && !in->disp && in->addrsize >= 4) {
		if (base != (int)dst || !w)
			e_rr(o, w, 0x8b, dst, base);
	} else {
		e_lea_sib(o, w, dst, base, index, in->scale, in->disp);
	}
	if (in->addrsize == 2)
		enc_emit(o, &(struct enc) {
				.map = 1, .opcode = 0xb7, .reg = dst, .kind = RM_REG, .rm = dst });
}

struct bt_access *tr_new_access(struct tr *t, const struct insn *in, unsigned size, unsigned access,
				unsigned seg)
{
	struct bt_access *a = bt_cache_alloc(t->cache, sizeof(*a));

	a->block = t->b;
	a->insn = in;
	a->size = size;
	a->write = access;
	a->seg = seg;
	a->guest_off = t->offs[t->cur];
	a->next_off = t->offs[t->cur + 1];
	a->flags_in_slot = t->fs == FLAGS_SLOT;
	return a;
}

static bool seg_needs_check(const struct tr *t, unsigned seg)
{
	if (t->wide)
		return false;
	if (seg == SEG_CS || seg == SEG_FS || seg == SEG_GS)
		return true;
	return t->key & KEY_SEGS;
}

/* T0 <- linear address of @in's memory operand; flags are already safe */
void tr_emit_linear(struct tr *t, const struct insn *in, struct bt_access *a)
{
	struct out *o = &t->hot;

	tr_emit_effective(t, in, T0);
	if (t->wide) {
		if (in->seg == SEG_FS || in->seg == SEG_GS)
			e_rcpu(o, true, 0x03, T0,
			       in->seg == SEG_FS ? CPU_OFF(st.segs[SEG_FS].base)
						 : CPU_OFF(st.segs[SEG_GS].base));
	} else if (seg_needs_check(t, in->seg)) {
		e_mov_ri64(o, T1, (uintptr_t)a);
		e_call(o, t->ways->seg);
	}
}

/* ---- copying ---- */

/* The instruction about to be emitted may raise a host signal. */
void tr_fault_site(struct tr *t, struct out *o, bool flags_in_slot, bool window)
{
	if (t->fault_count < FAULT_ENTRIES)
		t->faults[t->fault_count++] =
		    (struct bt_fault_site) { .host_off = o->p - t->cache->base,
					     .guest_off = t->offs[t->cur],
					     .flags_in_slot = flags_in_slot,
					     .window = window };
}

static bool may_fault(const struct insn *in)
{
	return in->unit != UNIT_GPR || in->op == OP_DIV || in->op == OP_IDIV ||
	       in->op == OP_CMPXCHG16B;
}

static bool is_gpr(unsigned field)
{
	return field == FIELD_GPR || field == FIELD_GPR8;
}

static bool is_high8(const struct insn *in, unsigned field, unsigned reg)
{
	return field == FIELD_GPR8 && !in->rex && !in->vex && reg >= 4 && reg <= 7;
}

/* Map a register field; homed ones are loaded into @scratch when read. */
static unsigned map_field(struct out *o, const struct insn *in, unsigned field, unsigned reg,
			  unsigned scratch, struct enc *e)
{
	if (!is_gpr(field) || is_high8(in, field, reg))
		return reg;
	if (reg_map[reg] == HOMED) {
		if (in->gpr_read & 1u << reg)
			e_load(o, scratch, HOME_OFF(reg));
		return scratch;
	}
	if (field == FIELD_GPR8 && reg_map[reg] >= 4 && reg_map[reg] <= 7)
		e->force_rex = true;
	return reg_map[reg];
}

static void store_homed(struct out *o, const struct insn *in, unsigned field, unsigned reg,
			unsigned host)
{
	if (is_gpr(field) && !is_high8(in, field, reg) && reg_map[reg] == HOMED &&
	    (in->gpr_write & 1u << reg))
		e_store(o, host, HOME_OFF(reg));
}

static void operand(struct enc *e, struct host_at at)
{
	struct enc with = { ENC_AT(at) };

	e->kind = with.kind;
	e->fs = with.fs;
	e->base = with.base;
	e->index = with.index;
	e->scale = with.scale;
	e->disp = with.disp;
}

/* Whether a copy of @in needs registers of the guest's for something else meanwhile. */
bool tr_copy_borrows(const struct insn *in)
{
	return is_high8(in, in->reg_field, in->reg) || (in->vex && in->vvvv_field == FIELD_GPR);
}

/* The instruction with mapped registers; its memory operand, if any, @at. */
void tr_emit_copy(struct tr *t, struct out *o, const struct insn *in, struct host_at at,
		  bool flags_in_slot)
{
	struct enc e = { .lock = in->lock,
			 .map = in->map,
			 .opcode = in->opcode,
			 .vex = in->vex,
			 .vex_l = in->vex_l,
			 .vex_pp = in->vex_pp,
			 .w = in->w,
			 .imm = in->imm,
			 .imm_size = in->imm_size };
	unsigned reg = in->reg, rm = in->rm, reg_field = in->reg_field, rm_field = in->rm_field;
	int borrow = -1, third = -1;

	if (in->prefix == 0xf2 || in->prefix == 0xf3)
		e.rep = in->prefix;
	e.prefix66 = in->prefix == 0x66 || (in->unit == UNIT_GPR && in->opsize == 2 && !in->vex);
	if (!t->wide && in->vex && in->map == 3 && (in->opcode & 0xfe) == 0x60)
		e.w = false; /* vpcmpestrm, vpcmpestri: eax and edx */
	if (!t->wide && in->vex &&
	    (is_gpr(reg_field) || is_gpr(rm_field) || is_gpr(in->vvvv_field)))
		e.w = false;

	if (in->op == OP_MOV_MOFFS_LOAD || in->op == OP_MOV_MOFFS_STORE) {
		e.opcode = in->op == OP_MOV_MOFFS_LOAD ? in->opsize == 1 ? 0x8a : 0x8b
			   : in->opsize == 1	       ? 0x88
						       : 0x89;
		e.imm_size = 0;
		e.w = in->opsize == 8;
		operand(&e, at);
		if (at.part)
			tr_fault_site(t, o, flags_in_slot, true);
		enc_emit(o, &e);
		return;
	}
	if (in->op == OP_XCHG && in->opreg != INSN_NO_REG) { /* 90+r: as 87 /r */
		e.opcode = 0x87;
		reg = REG_RAX;
		rm = in->opreg;
		reg_field = rm_field = FIELD_GPR;
	} else if (in->opreg != INSN_NO_REG) {
		unsigned h = map_field(o, in, in->opreg_field, in->opreg, T1, &e);

		e.plus_reg = true;
		e.kind = RM_NONE;
		e.rm = h;
		if (is_high8(in, in->opreg_field, in->opreg))
			e.force_rex = false;
		enc_emit(o, &e);
		store_homed(o, in, in->opreg_field, in->opreg, h);
		return;
	} else if (!in->has_modrm && !in->mem) {
		e.kind = RM_NONE;
		if (may_fault(in))
			tr_fault_site(t, o, flags_in_slot, false);
		enc_emit(o, &e);
		return;
	}

	bool high = (is_high8(in, reg_field, reg)) || (!in->mem && is_high8(in, rm_field, rm));

	e.reg = map_field(o, in, reg_field, reg, T1, &e);
	if (in->mem) {
		operand(&e, at);
		if (high) { /* ah.. forbids REX, which r10 needs: borrow rsi as the base */
			borrow = REG_RSI;
			e_store(o, borrow, CPU_OFF(spill[0]));
			e_mov_rr(o, borrow, at.base);
			e.base = borrow;
		}
	} else {
		e.kind = RM_REG;
		if (is_gpr(reg_field) && is_gpr(rm_field) && reg == rm && reg_map[reg] == HOMED)
			e.rm = e.reg; /* one register: one copy of it */
		else
			e.rm = map_field(o, in, rm_field, rm, T0, &e);
		if (is_high8(in, rm_field, rm) &&
		    (e.reg & 8)) { /* movzx r15d(rsp), ah: through memory */
			e_store(o, rm - 4, CPU_OFF(spill[0]));
			e.kind = RM_CPU;
			e.disp = CPU_OFF(spill[0]) + 1;
		}
	}
	if (in->vex) {
		e.vvvv = in->vvvv;
		if (in->vvvv_field == FIELD_GPR) {
			bool t1_free = e.reg != T1, t0_free = !in->mem && e.rm != T0;

			if (reg_map[in->vvvv] != HOMED) {
				e.vvvv = reg_map[in->vvvv];
			} else if (is_gpr(reg_field) && in->vvvv == reg) {
				e.vvvv = e.reg;
			} else if (!in->mem && is_gpr(rm_field) && in->vvvv == rm) {
				e.vvvv = e.rm;
			} else if (t1_free || t0_free) {
				e.vvvv =
				    map_field(o, in, FIELD_GPR, in->vvvv, t1_free ? T1 : T0, &e);
			} else { /* all three homed: borrow a register that is not used */
				third = REG_RBP;
				for (unsigned r = 0; r < 16; r++)
					if (reg_map[r] == (int)r &&
					    !((in->gpr_read | in->gpr_write) & 1u << r))
						third = r;
				e_store(o, third, CPU_OFF(spill[0]));
				e.vvvv = map_field(o, in, FIELD_GPR, in->vvvv, third, &e);
			}
		}
	}
	if (at.part || may_fault(in))
		tr_fault_site(t, o, flags_in_slot, at.part);
	enc_emit(o, &e);
	store_homed(o, in, reg_field, reg, e.reg);
	if (!in->mem)
		store_homed(o, in, rm_field, rm, e.rm);
	if (in->vex && in->vvvv_field == FIELD_GPR)
		store_homed(o, in, FIELD_GPR, in->vvvv, e.vvvv);
	if (borrow >= 0)
		e_load(o, borrow, CPU_OFF(spill[0]));
	if (third >= 0)
		e_load(o, third, CPU_OFF(spill[0]));
}
