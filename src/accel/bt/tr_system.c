/* SPDX-License-Identifier: Apache-2.0 */
/* System instructions that are frequent enough to be translated inline. */
#include "accel/bt/tr.h"

void tr_emit_rdtsc(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	tr_clobber_flags(t, t->live[t->cur]);
	if (t->key & KEY_USER) { /* test dword [cr4], TSD; jnz */
		enc_emit(o, &(struct enc) { .opcode = 0xf7,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(st.cr4),
					    .imm = CR4_TSD,
					    .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x85);
		o->p += 4;
		tr_emit_sys_aside(t, in);
	}
	out8(o, 0x0f), out8(o, 0x31);
	e_shift_i(o, true, 4, REG_RDX, 32);
	e_rr(o, true, 0x0b, REG_RAX, REG_RDX);
	e_rcpu(o, true, 0x03, REG_RAX, CPU_OFF(tsc_offset));
	e_mov_rr(o, REG_RDX, REG_RAX);
	e_shift_i(o, true, 5, REG_RDX, 32);
	e_rr(o, false, 0x8b, REG_RAX, REG_RAX);
	if (in->op == OP_RDTSCP)
		e_rcpu(o, false, 0x8b, REG_RCX, CPU_OFF(st.msr_tsc_aux));
}

/* Bits of rflags that are not arithmetic: @ext 1 or, 4 and */
void tr_emit_rflags(struct out *o, unsigned ext, uint32_t imm)
{
	enc_emit(o, &(struct enc) { .opcode = 0x81,
				    .reg = ext,
				    .kind = RM_CPU,
				    .disp = CPU_OFF(st.rflags),
				    .imm = imm,
				    .imm_size = 4 });
}

/* spill[1] <- the image of rflags that PUSHF stores; then the push */
void tr_emit_pushf(struct tr *t)
{
	struct out *o = &t->hot;

	tr_want_flags_slot(t, FL_ARITH);
	e_rcpu(o, false, 0x8b, T0, CPU_OFF(flag_slot));
	e_rr(o, false, 0x8b, T1, T0);
	e_ri(o, false, 4, T0, 1);
	e_shift_i(o, false, 4, T0, 11); /* OF */
	e_shift_i(o, false, 5, T1, 8);
	e_ri(o, false, 4, T1, 0xd5);
	e_rr(o, false, 0x0b, T0, T1);
	e_rcpu(o, false, 0x8b, T1, CPU_OFF(st.rflags));
	e_ri(o, false, 4, T1, (int32_t) ~(FL_ARITH | FL_RF | FL_VM));
	e_rr(o, false, 0x0b, T0, T1);
	e_store(o, T0, CPU_OFF(spill[1]));
	tr_emit_push(t, MOP_PUSH_SPILL, 0, false);
}

void tr_emit_sti(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	tr_clobber_flags(t, t->live[t->cur]);
	/*
	 * Nothing waits: the shadow would protect from nothing, as the next instruction is in this
	 * block and polls stand between blocks.
	 */
	enc_emit(o, &(struct enc) { .opcode = 0x83,
				    .reg = 7,
				    .kind = RM_CPU,
				    .disp = CPU_OFF(irq_waiting),
				    .imm_size = 1 });
	out8(o, 0x0f), out8(o, 0x85);
	o->p += 4;
	tr_emit_sys_aside(t, in);
	tr_emit_rflags(o, 1, FL_IF);
}

/* stac, clac: the key changes, and with it the TLB class */
void tr_emit_ac(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	unsigned live = t->live[t->cur + 1];
	bool set = in->op == OP_STAC;
	struct bt_exit *e;

	if (t->offs[t->cur + 1] >= (int)PAGE_SIZE || t->cross) {
		tr_emit_sys(t, in);
		return;
	}
	tr_clobber_flags(t, live);
	if (!set &&
	    (t->key & KEY_AC)) { /* AC matters only under SMAP: test dword [cr4], SMAP; jz */
		enc_emit(o, &(struct enc) { .opcode = 0xf7,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(st.cr4),
					    .imm = CR4_SMAP,
					    .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x84);
		o->p += 4;
		tr_emit_sys_aside(t, in);
	}
	tr_emit_rflags(o, set ? 1 : 4, set ? FL_AC : ~FL_AC);
	if (set != !!(t->key & KEY_AC))
		enc_emit(o, &(struct enc) { .opcode = 0x83,
					    .reg = set ? 1 : 4,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(key),
					    .imm = set ? (int)KEY_AC : ~(int)KEY_AC,
					    .imm_size = 1 });
	e = tr_new_exit(t, EXIT_DIRECT);
	e->target_off = t->offs[t->cur + 1];
	tr_emit_linkable(t, e_jmp_patchable(o), e);
}

void tr_emit_from_cr(struct tr *t, const struct insn *in)
{
	static const int32_t off[5] = { CPU_OFF(st.cr0), 0, CPU_OFF(st.cr2), CPU_OFF(st.cr3),
					CPU_OFF(st.cr4) };

	e_load(&t->hot, T0, off[in->reg]);
	tr_set_reg(t, in->rm, T0);
}

void tr_emit_fsgsbase(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	bool fs = in->op == OP_RDFSBASE || in->op == OP_WRFSBASE, w = in->opsize == 8;
	int32_t base = fs ? CPU_OFF(st.segs[SEG_FS].base) : CPU_OFF(st.segs[SEG_GS].base);
	struct aside a = { .count = 0 };

	tr_clobber_flags(t, t->live[t->cur]);
	enc_emit(o, &(struct enc) { .opcode = 0xf7, /* test dword [cr4], FSGSBASE */
				    .kind = RM_CPU,
				    .disp = CPU_OFF(st.cr4),
				    .imm = CR4_FSGSBASE,
				    .imm_size = 4 });
	out8(o, 0x0f), out8(o, 0x84); /* jz */
	o->p += 4;
	a.fields[a.count++] = o->p - 4;
	if (in->op == OP_RDFSBASE || in->op == OP_RDGSBASE) {
		e_rcpu(o, w, 0x8b, T0, base);
		tr_set_reg(t, in->rm, T0);
	} else {
		e_rr(o, w, 0x8b, T0, tr_use_reg(o, in->rm, T0));
		e_mov_rr(o, T1, T0); /* canonical? */
		e_shift_i(o, true, 4, T1, 16);
		e_shift_i(o, true, 7, T1, 16);
		e_rr(o, true, 0x3b, T1, T0);
		out8(o, 0x0f), out8(o, 0x85);
		o->p += 4;
		a.fields[a.count++] = o->p - 4;
		e_store(o, T0, base);
	}
	tr_emit_aside(t, in, &a);
}
