/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes an instruction meet something: memory operands hit the data area (or,
 * by purpose, its edges), branches find code, counts stay small, divisions
 * divide. It sets initial registers that no earlier instruction of the case
 * relies on, and displacements and branch distances in the bytes.
 */
#include <string.h>

#include "gen.h"

static bool is64(const struct gen *g)
{
	return g->o->mode == ORACLE_64;
}

static void set_gpr(struct gen *g, unsigned i, uint64_t v)
{
	g->c->in.gpr[i] = is64(g) ? v : (uint32_t)v;
	g->fixed |= 1u << i;
}

static uint64_t aligned(struct gen *g, uint64_t va, unsigned size)
{
	unsigned a = 1;

	while (a < size && a < 64)
		a <<= 1;
	return rng_pct(&g->r, 65) ? va & ~(uint64_t)(a - 1) : va;
}

/* Where a memory operand of @size bytes shall lie */
static uint64_t pick_target(struct gen *g, unsigned size, unsigned addr_bits)
{
	struct rng *r = &g->r;
	unsigned x = rng_below(r, 100), part = 1 + rng_below(r, size ? size : 1);

	if (size > 2 * PAGE || !size)
		size = 1;
	if (addr_bits == 16)
		return x < 90 ? LOW_BASE + rng_below(r, PAGE - size)
			      : LOW_BASE + (x & 1 ? PAGE : 0) - part;
	if (x < 72)
		return aligned(g, DATA_BASE + rng_below(r, 3 * PAGE - size), size);
	if (x < 78)
		return DATA_BASE + PAGE * (1 + rng_below(r, 2)) - part;
	if (x < 80)
		return DATA_BASE + 3 * PAGE - part;
	if (x < 82)
		return aligned(g, DATA_BASE + 3 * PAGE + rng_below(r, PAGE), size);
	if (x < 84)
		return DATA_BASE + 4 * PAGE - part;
	if (x < 86)
		return DATA_BASE - part;
	if (x < 88)
		return DATA_BASE + 5 * PAGE + rng_below(r, PAGE);
	if (x < 90) {
		uint64_t va = g->c->in.rip + rng_below(r, 64);

		return g->insns > 1 ? va : aligned(g, va, size);
	}
	if (x < 91)
		return LOW_BASE + rng_below(r, PAGE);
	if (addr_bits != 64)
		return aligned(g, DATA_BASE + rng_below(r, 3 * PAGE - size), size);
	if (x < 96)
		return aligned(g, HIGH_BASE + rng_below(r, PAGE - size), size);
	if (x < 98)
		return HIGH_BASE + (x & 1 ? PAGE : 0) - part;
	if (x < 99)
		return rng_pct(r, 50) ? 0x800000000000 : (rng_next(r) >> 2) | 1ull << 61;
	return 0xffff900000000000 + (rng_next(r) & 0xffffffffff);
}

static uint64_t seg_base(const struct gen *g, ZydisRegister seg)
{
	if (seg == ZYDIS_REGISTER_FS)
		return g->c->in.fs_base;
	if (seg == ZYDIS_REGISTER_GS)
		return g->c->in.gs_base;
	return 0;
}

static int gpr_id(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(reg);
	case ZYDIS_REGCLASS_GPR8: {
		int id = ZydisRegisterGetId(reg);

		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
			return reg - ZYDIS_REGISTER_AH;
		return id & 15;
	}
	default:
		return -1;
	}
}

static uint64_t width_mask(unsigned bits)
{
	return bits >= 64 ? ~0ull : (1ull << bits) - 1;
}

/* Set the low @bits of a register; what stands above must not matter */
static void set_addr_gpr(struct gen *g, int i, uint64_t v, unsigned bits)
{
	uint64_t mask = width_mask(bits), junk = rng_pct(&g->r, 40) ? rng_next(&g->r) : 0;

	set_gpr(g, i, (v & mask) | (junk & ~mask));
}

static bool patch_disp(struct gen_insn *in, int64_t disp)
{
	unsigned bytes = in->z.raw.disp.size / 8;

	if (!bytes)
		return disp == 0;
	if (bytes < 8) {
		int64_t lim = 1ll << (bytes * 8 - 1);

		if (disp < -lim || disp >= lim)
			return false;
	}
	memcpy(in->bytes + in->z.raw.disp.offset, &disp, bytes);
	return true;
}

static void aim_vsib(struct gen *g, unsigned vec)
{
	for (unsigned half = 0; half < 2; half++) {
		uint8_t *p = g->c->in.xsave + (half ? XS_YMMH : XS_XMM) + vec * 16;

		for (unsigned k = 0; k < 4; k++) {
			int32_t v = (int32_t)rng_below(&g->r, 300) - 20;

			if (rng_pct(&g->r, 70))
				memcpy(p + k * 4, &v, 4);
			if ((k & 1) && rng_pct(&g->r, 50)) {
				int32_t high = v >> 31;

				memcpy(p + k * 4 - 4, &v, 4);
				memcpy(p + k * 4, &high, 4);
			}
		}
	}
}

static bool is_free(const struct gen *g, int reg)
{
	return reg >= 0 && !(g->fixed >> reg & 1);
}

static void aim_mem(struct gen *g, struct gen_insn *in, const ZydisDecodedOperand *op, uint64_t va,
		    uint64_t target)
{
	unsigned bits = in->z.address_width;
	int base = gpr_id(op->mem.base), index = gpr_id(op->mem.index);
	uint64_t scale = op->mem.scale ? op->mem.scale : 1, idx = 0;
	int64_t disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
	bool visible = op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN;

	target -= seg_base(g, op->mem.segment);
	if (is64(g) && seg_base(g, op->mem.segment) &&
	    (int64_t)(target << 16) >> 16 != (int64_t)target)
		target = gen_data_pointer(&g->r) - seg_base(g, op->mem.segment);
	if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
		patch_disp(in, (int64_t)target - (int64_t)(va + in->len));
		return;
	}
	if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
		aim_vsib(g, ZydisRegisterGetId(op->mem.index) & 15);
		index = -1;
	}
	if (visible && in->z.raw.disp.size == 32 && base >= 0 && rng_pct(&g->r, 80)) {
		disp = (int64_t)rng_below(&g->r, 4096) - 2048;
		patch_disp(in, disp);
	}
	if (visible && base >= 0 && base < 8 && index < 0)
		g->base = base;
	if (index >= 0 && index != base) {
		if (is_free(g, index))
			set_addr_gpr(g, index, (uint64_t)((int64_t)rng_below(&g->r, 200) - 40),
				     bits);
		idx = g->c->in.gpr[index] * scale;
	}
	if (base >= 0 && base == index) {
		if (is_free(g, base))
			set_addr_gpr(g, base, (target - (uint64_t)disp) / (1 + scale), bits);
	} else if (is_free(g, base)) {
		set_addr_gpr(g, base, target - idx - (uint64_t)disp, bits);
	} else if (visible && in->z.raw.disp.size >= 16) {
		int64_t want = (int64_t)(target - idx - (base >= 0 ? g->c->in.gpr[base] : 0));

		if (bits == 32)
			want = (int32_t)want;
		else if (bits == 16)
			want = (int16_t)want;
		if (rng_pct(&g->r, 60))
			want = (int64_t)rng_below(&g->r, 9000) - 4500;
		patch_disp(in, want);
	}
}

static void aim_branch(struct gen *g, struct gen_insn *in)
{
	unsigned bytes = in->z.raw.imm[0].size / 8;
	int64_t dist;

	if (rng_pct(&g->r, 94))
		dist = rng_below(&g->r, 24);
	else if (in->z.meta.category == ZYDIS_CATEGORY_UNCOND_BR || rng_pct(&g->r, 60))
		dist = (int64_t)rng_below(&g->r, bytes == 1 ? 128 : 12000);
	else
		dist = -(int64_t)rng_below(&g->r, 100);
	if (bytes == 1 && dist > 127)
		dist = 127;
	memcpy(in->bytes + in->z.raw.imm[0].offset, &dist, bytes);
}

static void aim_div(struct gen *g, const struct gen_insn *in)
{
	uint64_t low = g->c->in.gpr[0];
	unsigned bits = in->z.operand_width;
	bool neg;

	if (!rng_pct(&g->r, 75) || !is_free(g, 0) || !is_free(g, 2))
		return;
	if (bits == 8) {
		set_gpr(g, 0, (low & ~0xff00ull) | rng_below(&g->r, 20) << 8);
		return;
	}
	neg = in->z.mnemonic == ZYDIS_MNEMONIC_IDIV && (low >> (bits - 1) & 1);
	set_gpr(g, 2, neg ? ~0ull : rng_below(&g->r, 8));
}

static uint64_t code_pointer(struct gen *g)
{
	return rng_pct(&g->r, 60) ? g->c->in.rip + rng_below(&g->r, 80)
				  : CODE_BASE + rng_below(&g->r, 2 * PAGE);
}

/* Registers that count, and values that some instructions need to do anything */
static void aim_special(struct gen *g, struct gen_insn *in)
{
	const uint64_t rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
	unsigned x = rng_below(&g->r, 100);

	if (in->z.attributes & rep && is_free(g, 1))
		set_addr_gpr(g, 1,
			     x < 65   ? rng_below(&g->r, 40)
			     : x < 90 ? rng_below(&g->r, 400)
				      : gen_value(&g->r),
			     in->z.address_width);
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		if (is_free(g, 1) && x < 95)
			set_addr_gpr(g, 1, rng_below(&g->r, 6), in->z.address_width);
		break;
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		aim_div(g, in);
		break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: {
		int reg = in->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER
			      ? gpr_id(in->ops[1].reg.value)
			      : -1;

		if (is_free(g, reg) && x < 80)
			set_addr_gpr(g, reg, (uint64_t)((int64_t)rng_below(&g->r, 6000) - 3000),
				     in->z.operand_width);
		break;
	}
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_JMP:
		if (in->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_free(g, gpr_id(in->ops[0].reg.value)) && x < 75)
			set_gpr(g, gpr_id(in->ops[0].reg.value), code_pointer(g));
		break;
	case ZYDIS_MNEMONIC_CMPXCHG: /* half of the time equal */
		if (in->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && x < 50 && is_free(g, 0) &&
		    gpr_id(in->ops[0].reg.value) >= 0)
			g->c->in.gpr[0] = g->c->in.gpr[gpr_id(in->ops[0].reg.value)];
		break;
	case ZYDIS_MNEMONIC_LEAVE:
		if (is_free(g, 5) && x < 90)
			set_gpr(g, 5, gen_data_pointer(&g->r));
		break;
	default:
		break;
	}
}

void gen_aim(struct gen *g, struct gen_insn *in, uint64_t va)
{
	bool to_code = in->z.mnemonic == ZYDIS_MNEMONIC_CALL ||
		       in->z.mnemonic == ZYDIS_MNEMONIC_JMP || in->z.mnemonic == ZYDIS_MNEMONIC_RET;

	aim_special(g, in);
	for (unsigned i = 0; i < in->z.operand_count; i++) {
		const ZydisDecodedOperand *op = &in->ops[i];
		uint64_t target;

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		target = pick_target(g, op->size / 8, in->z.address_width);
		if (to_code && (op->actions & ZYDIS_OPERAND_ACTION_READ) && rng_pct(&g->r, 75))
			target = PTR_CODE_VA + 8 * rng_below(&g->r, 255);
		if (op->mem.base == ZYDIS_REGISTER_RSP || op->mem.base == ZYDIS_REGISTER_ESP ||
		    op->mem.base == ZYDIS_REGISTER_SP) {
			/* the stack keeps its place most of the time */
			if (in->z.mnemonic != ZYDIS_MNEMONIC_RET && rng_pct(&g->r, 85))
				continue;
		}
		aim_mem(g, in, op, va, target);
	}
	if (in->z.raw.imm[0].is_relative)
		aim_branch(g, in);
}
