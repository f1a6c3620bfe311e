/* SPDX-License-Identifier: Apache-2.0 */
/* Host instruction encoding (Intel SDM volume 2, chapter 2). */
#include "accel/bt/emit.h"

/* Whether a displacement of one byte from rsp reaches it; else it goes by gs. */
static bool by_rsp(const struct out *o, const struct enc *e)
{
	return e->kind == RM_CPU && e->disp + o->depth == (int8_t)(e->disp + o->depth);
}

static void emit_modrm(struct out *o, const struct enc *e)
{
	unsigned reg = (e->reg & 7) << 3;

	switch (e->kind) {
	case RM_REG:
		out8(o, 0xc0 | reg | (e->rm & 7));
		return;
	case RM_CPU:
		if (by_rsp(o, e)) {
			out8(o, 0x40 | reg | 4);
			out8(o, 0x24);
			out8(o, e->disp + o->depth);
			return;
		}
		out8(o, reg | 4); /* SIB without base and index: absolute disp32 */
		out8(o, 0x25);
		out32(o, e->disp);
		return;
	case RM_CPU_INDEX8:
		out8(o, reg | 4);
		out8(o, 0xc0 | (e->index & 7) << 3 | 5);
		out32(o, e->disp);
		return;
	default:
		break;
	}

	bool sib = e->kind == RM_SIB || (e->base & 7) == 4;
	unsigned mod = e->disp == 0 && (e->base & 7) != 5 ? 0 : e->disp == (int8_t)e->disp ? 1 : 2;

	out8(o, mod << 6 | reg | (sib ? 4 : e->base & 7));
	if (sib) {
		unsigned ss = e->scale == 8 ? 3 : e->scale == 4 ? 2 : e->scale == 2 ? 1 : 0;
		unsigned index = e->kind == RM_SIB ? e->index & 7 : 4;

		out8(o, (e->kind == RM_SIB ? ss << 6 : 0) | index << 3 | (e->base & 7));
	}
	if (mod == 1)
		out8(o, e->disp);
	else if (mod == 2)
		out32(o, e->disp);
}

void enc_emit(struct out *o, const struct enc *e)
{
	bool x = (e->kind == RM_SIB || e->kind == RM_CPU_INDEX8) && (e->index & 8);
	bool b = e->kind == RM_REG || e->plus_reg	   ? e->rm & 8
		 : e->kind == RM_BASE || e->kind == RM_SIB ? e->base & 8
							   : 0;
	bool r = e->reg & 8;

	if (e->lock)
		out8(o, 0xf0);
	if (e->kind == RM_CPU_INDEX8 || (e->kind == RM_CPU && !by_rsp(o, e)))
		out8(o, 0x65);
	if (e->fs)
		out8(o, 0x64);
	if (e->vex) {
		if (!x && !b && !e->w && e->map == 1) {
			out8(o, 0xc5);
			out8(o, (r ? 0 : 0x80) | (~e->vvvv & 15) << 3 | e->vex_l << 2 | e->vex_pp);
		} else {
			out8(o, 0xc4);
			out8(o, (r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | e->map);
			out8(o,
			     (e->w ? 0x80 : 0) | (~e->vvvv & 15) << 3 | e->vex_l << 2 | e->vex_pp);
		}
		out8(o, e->opcode);
	} else {
		if (e->prefix66)
			out8(o, 0x66);
		if (e->rep)
			out8(o, e->rep);

		uint8_t rex = (e->w ? 8 : 0) | (r ? 4 : 0) | (x ? 2 : 0) | (b ? 1 : 0);

		if (rex || e->force_rex)
			out8(o, 0x40 | rex);
		if (e->map)
			out8(o, 0x0f);
		if (e->map == 2)
			out8(o, 0x38);
		if (e->map == 3)
			out8(o, 0x3a);
		out8(o, e->plus_reg ? (e->opcode & ~7) | (e->rm & 7) : e->opcode);
	}
	if (!e->plus_reg && e->kind != RM_NONE)
		emit_modrm(o, e);
	for (unsigned i = 0; i < e->imm_size; i++)
		out8(o, (uint64_t)e->imm >> (8 * i));
}

void e_rr(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned rm)
{
	enc_emit(o,
		 &(struct enc) { .w = w, .opcode = opcode, .reg = reg, .kind = RM_REG, .rm = rm });
}

void e_rm(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned base, int32_t disp)
{
	enc_emit(o, &(struct enc) { .w = w,
				    .opcode = opcode,
				    .reg = reg,
				    .kind = RM_BASE,
				    .base = base,
				    .disp = disp });
}

void e_at(struct out *o, bool w, uint8_t opcode, unsigned reg, struct host_at at)
{
	enc_emit(o, &(struct enc) { .w = w, .opcode = opcode, .reg = reg, ENC_AT(at) });
}

void e_rcpu(struct out *o, bool w, uint8_t opcode, unsigned reg, int32_t off)
{
	enc_emit(
	    o, &(struct enc) { .w = w, .opcode = opcode, .reg = reg, .kind = RM_CPU, .disp = off });
}

void e_rcpu8(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned index, int32_t off)
{
	enc_emit(o, &(struct enc) { .w = w,
				    .opcode = opcode,
				    .reg = reg,
				    .kind = RM_CPU_INDEX8,
				    .index = index,
				    .disp = off });
}

void e_ri(struct out *o, bool w, unsigned ext, unsigned rm, int32_t imm)
{
	bool small = imm == (int8_t)imm;

	enc_emit(o, &(struct enc) { .w = w,
				    .opcode = small ? 0x83 : 0x81,
				    .reg = ext,
				    .kind = RM_REG,
				    .rm = rm,
				    .imm = imm,
				    .imm_size = small ? 1 : 4 });
}

void e_mov_ri64(struct out *o, unsigned reg, uint64_t imm)
{
	if (imm == (uint32_t)imm)
		enc_emit(
		    o,
		    &(struct enc) {
			.opcode = 0xb8, .plus_reg = true, .rm = reg, .imm = imm, .imm_size = 4 });
	else if ((int64_t)imm == (int32_t)imm)
		enc_emit(o, &(struct enc) { .w = true,
					    .opcode = 0xc7,
					    .kind = RM_REG,
					    .rm = reg,
					    .imm = imm,
					    .imm_size = 4 });
	else
		enc_emit(o, &(struct enc) { .w = true,
					    .opcode = 0xb8,
					    .plus_reg = true,
					    .rm = reg,
					    .imm = imm,
					    .imm_size = 8 });
}

void e_store_imm32(struct out *o, int32_t off, uint32_t imm)
{
	enc_emit(o, &(struct enc) {
			.opcode = 0xc7, .kind = RM_CPU, .disp = off, .imm = imm, .imm_size = 4 });
}

void e_lea(struct out *o, bool w, unsigned dst, unsigned base, int32_t disp)
{
	e_rm(o, w, 0x8d, dst, base, disp);
}

void e_lea_sib(struct out *o, bool w, unsigned dst, int base, int index, unsigned scale,
	       int32_t disp)
{
	if (index < 0) {
		e_lea(o, w, dst, base, disp);
		return;
	}
	if (base >= 0) {
		enc_emit(o, &(struct enc) { .w = w,
					    .opcode = 0x8d,
					    .reg = dst,
					    .kind = RM_SIB,
					    .base = base,
					    .index = index,
					    .scale = scale,
					    .disp = disp });
		return;
	}
	/* index without base: mod 0, base 101, disp32 */
	out8(o, 0x40 | (w ? 8 : 0) | (dst & 8 ? 4 : 0) | (index & 8 ? 2 : 0));
	out8(o, 0x8d);
	out8(o, (dst & 7) << 3 | 4);
	out8(o, (scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0) << 6 | (index & 7) << 3 | 5);
	out32(o, disp);
}

void e_shift_i(struct out *o, bool w, unsigned ext, unsigned rm, uint8_t n)
{
	enc_emit(o, &(struct enc) { .w = w,
				    .opcode = 0xc1,
				    .reg = ext,
				    .kind = RM_REG,
				    .rm = rm,
				    .imm = n,
				    .imm_size = 1 });
}

void e_rorx_i(struct out *o, unsigned dst, unsigned src, uint8_t n)
{
	enc_emit(o, &(struct enc) { .vex = true,
				    .vex_pp = 3,
				    .map = 3,
				    .w = true,
				    .opcode = 0xf0,
				    .reg = dst,
				    .kind = RM_REG,
				    .rm = src,
				    .imm = n,
				    .imm_size = 1 });
}

void e_wrfsbase(struct out *o, unsigned reg)
{
	enc_emit(o, &(struct enc) { .rep = 0xf3,
				    .w = true,
				    .map = 1,
				    .opcode = 0xae,
				    .reg = 2,
				    .kind = RM_REG,
				    .rm = reg });
}

void e_jmp_cpu8(struct out *o, unsigned index, int32_t off)
{
	enc_emit(
	    o, &(struct enc) {
		   .opcode = 0xff, .reg = 4, .kind = RM_CPU_INDEX8, .index = index, .disp = off });
}

void e_jmp(struct out *o, const void *target)
{
	out8(o, 0xe9);
	out32(o, (int32_t)((const uint8_t *)target - (o->p + 4)));
}

void e_call(struct out *o, const void *target)
{
	out8(o, 0xe8);
	out32(o, (int32_t)((const uint8_t *)target - (o->p + 4)));
}

void e_jcc(struct out *o, unsigned cc, const void *target)
{
	out8(o, 0x0f);
	out8(o, 0x80 | cc);
	out32(o, (int32_t)((const uint8_t *)target - (o->p + 4)));
}

static void align_field(struct out *o, unsigned opcode_len)
{
	static const uint8_t nops[4][3] = { { 0 }, { 0x90 }, { 0x66, 0x90 }, { 0x0f, 0x1f, 0x00 } };
	unsigned pos = ((uintptr_t)o->p + opcode_len) & 7;
	unsigned pad = pos > 4 ? 8 - pos : 0;

	for (unsigned i = 0; i < pad; i++)
		out8(o, nops[pad][i]);
}

uint8_t *e_jmp_patchable(struct out *o)
{
	align_field(o, 1);
	out8(o, 0xe9);
	o->p += 4;
	return o->p - 4;
}

uint8_t *e_jcc_patchable(struct out *o, unsigned cc)
{
	align_field(o, 2);
	out8(o, 0x0f);
	out8(o, 0x80 | cc);
	o->p += 4;
	return o->p - 4;
}
