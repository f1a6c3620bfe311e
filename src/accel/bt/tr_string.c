/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stos and movs, single or repeated: when they go upwards and stay within a page on each side that
 * the TLB has, the host's own instruction on host addresses. Everything else leaves for
 * sys_string.c.
 */
#include "accel/bt/tr.h"

bool tr_string_inline(const struct tr *t, const struct insn *in)
{
	return t->wide && !(t->key & (KEY_ALIGN | KEY_ONE)) && in->addrsize == 8 &&
	       (in->op == OP_STOS || (in->seg != SEG_FS && in->seg != SEG_GS));
}

/* The jump that was just emitted, its rel32 at hot.p - 4, leaves for C. */
static void leave(struct tr *t, struct aside *a)
{
	a->fields[a->count++] = t->hot.p - 4;
}

static void jcc_leave(struct tr *t, struct aside *a, unsigned cc)
{
	out8(&t->hot, 0x0f), out8(&t->hot, 0x80 | cc);
	t->hot.p += 4;
	leave(t, a);
}

/* T0 <- host address for the bytes at guest register @reg; leaves when they are not all there. */
static void emit_side(struct tr *t, const struct insn *in, unsigned reg, bool write,
		      struct aside *a)
{
	struct out *o = &t->hot;
	struct probe p = { .kind = PROBE_TLB, .write = write, .size = in->rep ? 1 : in->opsize };

	e_mov_rr(o, T0, reg);
	a->fields[a->count++] = tr_emit_tlb(t, o, &p);
	if (!in->rep)
		return;
	e_rr(o, false, 0x8b, T1, T0);
	e_ri(o, false, 4, T1, PAGE_SIZE - 1);
	e_lea_sib(o, true, T1, T1, REG_RCX, in->opsize, 0);
	enc_emit(o, &(struct enc) { .w = true,
				    .opcode = 0x81,
				    .reg = 7,
				    .kind = RM_REG,
				    .rm = T1,
				    .imm = PAGE_SIZE,
				    .imm_size = 4 });
	jcc_leave(t, a, 7);
}

/* @dst <- guest register @reg behind the last element */
static void emit_end(struct out *o, const struct insn *in, unsigned dst, unsigned reg)
{
	if (in->rep)
		e_lea_sib(o, true, dst, reg, REG_RCX, in->opsize, 0);
	else
		e_lea(o, true, dst, reg, in->opsize);
}

void tr_emit_string(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	struct aside a = { .count = 0 };
	bool movs = in->op == OP_MOVS;

	tr_clobber_flags(t, t->live[t->cur]);
	enc_emit(o, &(struct enc) { .opcode = 0xf7, /* test dword [rflags], DF */
				    .kind = RM_CPU,
				    .disp = CPU_OFF(st.rflags),
				    .imm = FL_DF,
				    .imm_size = 4 });
	jcc_leave(t, &a, 5);
	if (in->rep) { /* so that the sums below do not wrap */
		e_ri(o, true, 7, REG_RCX, (int32_t)(PAGE_SIZE / in->opsize));
		jcc_leave(t, &a, 7);
	}
	if (movs) {
		emit_side(t, in, REG_RSI, false, &a);
		e_store(o, T0, CPU_OFF(spill[1]));
	}
	emit_side(t, in, REG_RDI, true, &a);
	emit_end(o, in, T1, REG_RDI);
	e_mov_rr(o, REG_RDI, T0);
	if (movs) {
		emit_end(o, in, T0, REG_RSI);
		e_load(o, REG_RSI, CPU_OFF(spill[1]));
	}
	enc_emit(o, &(struct enc) { .rep = in->rep ? 0xf3 : 0,
				    .prefix66 = in->opsize == 2,
				    .w = in->opsize == 8,
				    .opcode = (movs ? 0xa4 : 0xaa) | (in->opsize != 1),
				    .kind = RM_NONE });
	e_mov_rr(o, REG_RDI, T1);
	if (movs)
		e_mov_rr(o, REG_RSI, T0);
	tr_emit_aside(t, in, &a);
}
