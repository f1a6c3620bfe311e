/* SPDX-License-Identifier: Apache-2.0 */
/*
 * General-purpose instructions in C, for the cases the translator leaves:
 * division (it may fault), decimal adjustment, segmented moves and the like.
 * Flags that the manuals leave undefined keep their value.
 */
#include "accel/bt/sys.h"

/* ---- operands and flags ---- */

static bool is_high_byte(const struct insn *in, unsigned reg, unsigned size)
{
	return size == 1 && !in->rex && !in->vex && reg >= 4 && reg < 8;
}

uint64_t sys_reg_get(const struct bt_cpu *cpu, const struct insn *in, unsigned reg, unsigned size)
{
	if (is_high_byte(in, reg, size))
		return cpu->st.regs[reg - 4] >> 8 & 0xff;
	return sys_gpr(cpu, reg, size);
}

void sys_reg_set(struct bt_cpu *cpu, const struct insn *in, unsigned reg, unsigned size,
		 uint64_t val)
{
	if (is_high_byte(in, reg, size)) {
		uint64_t *r = &cpu->st.regs[reg - 4];

		*r = (*r & ~0xff00ull) | (val & 0xff) << 8;
	} else {
		sys_set_gpr(cpu, reg, size, val);
	}
}

uint64_t sys_rm_get(struct bt_cpu *cpu, const struct insn *in, unsigned size)
{
	if (in->mem)
		return bt_ld(cpu, bt_operand(cpu, in, size, false), size, BT_CPL);
	return sys_reg_get(cpu, in, in->rm, size);
}

void sys_rm_set(struct bt_cpu *cpu, const struct insn *in, unsigned size, uint64_t val)
{
	if (in->mem)
		bt_st(cpu, bt_operand(cpu, in, size, true), size, val & sys_size_mask(size),
		      BT_CPL);
	else
		sys_reg_set(cpu, in, in->rm, size, val);
}

void sys_set_flags(struct bt_cpu *cpu, uint32_t mask, uint32_t flags)
{
	cpu->st.rflags = (cpu->st.rflags & ~(uint64_t)mask) | (flags & mask);
}

uint32_t sys_flags_szp(uint64_t val, unsigned size)
{
	uint32_t flags = 0;
	uint8_t p = val;

	p ^= p >> 4;
	p ^= p >> 2;
	p ^= p >> 1;
	if (!(p & 1))
		flags |= FL_PF;
	if (!(val & sys_size_mask(size)))
		flags |= FL_ZF;
	if (val >> (size * 8 - 1) & 1)
		flags |= FL_SF;
	return flags;
}

uint32_t sys_flags_sub(uint64_t a, uint64_t b, unsigned size)
{
	uint64_t r = a - b;
	uint32_t flags = sys_flags_szp(r, size);

	if ((a & sys_size_mask(size)) < (b & sys_size_mask(size)))
		flags |= FL_CF;
	flags |= (a ^ b ^ r) & FL_AF;
	if (((a ^ b) & (a ^ r)) >> (size * 8 - 1) & 1)
		flags |= FL_OF;
	return flags;
}

uint32_t sys_flags_add(uint64_t a, uint64_t b, unsigned size)
{
	uint64_t r = a + b;
	uint32_t flags = sys_flags_szp(r, size);

	if ((r & sys_size_mask(size)) < (a & sys_size_mask(size)))
		flags |= FL_CF;
	flags |= (a ^ b ^ r) & FL_AF;
	if ((~(a ^ b) & (a ^ r)) >> (size * 8 - 1) & 1)
		flags |= FL_OF;
	return flags;
}

bool sys_cond(unsigned cc, uint64_t rflags)
{
	bool cf = rflags & FL_CF, zf = rflags & FL_ZF, sf = rflags & FL_SF, of = rflags & FL_OF,
	     yes;

	switch (cc >> 1 & 7) {
	case 0:
		yes = of;
		break;
	case 1:
		yes = cf;
		break;
	case 2:
		yes = zf;
		break;
	case 3:
		yes = cf || zf;
		break;
	case 4:
		yes = sf;
		break;
	case 5:
		yes = rflags & FL_PF;
		break;
	case 6:
		yes = sf != of;
		break;
	default:
		yes = zf || sf != of;
		break;
	}
	return yes != (cc & 1);
}

/* ---- moves ---- */

uint64_t sys_nop(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return next;
}

uint64_t sys_lea(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_gpr(cpu, in->reg, in->opsize, bt_effective(cpu, in));
	return next;
}

uint64_t sys_moffs_load(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la = bt_operand(cpu, in, in->opsize, false);

	sys_set_gpr(cpu, REG_RAX, in->opsize, bt_ld(cpu, la, in->opsize, BT_CPL));
	return next;
}

uint64_t sys_moffs_store(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la = bt_operand(cpu, in, in->opsize, true);

	bt_st(cpu, la, in->opsize, sys_gpr(cpu, REG_RAX, in->opsize), BT_CPL);
	return next;
}

uint64_t sys_xlat(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t off =
	    (cpu->st.regs[REG_RBX] + (cpu->st.regs[REG_RAX] & 0xff)) & sys_size_mask(in->addrsize);
	uint64_t la = bt_seg_linear(cpu, in->seg, off, 1, false);

	sys_set_gpr(cpu, REG_RAX, 1, bt_ld(cpu, la, 1, BT_CPL));
	return next;
}

uint64_t sys_cbw(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t a = cpu->st.regs[REG_RAX];

	if (in->opsize == 2)
		a = (int8_t)a;
	else if (in->opsize == 4)
		a = (int16_t)a;
	else
		a = (int32_t)a;
	sys_set_gpr(cpu, REG_RAX, in->opsize, a);
	return next;
}

uint64_t sys_cwd(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	bool negative = cpu->st.regs[REG_RAX] >> (in->opsize * 8 - 1) & 1;

	sys_set_gpr(cpu, REG_RDX, in->opsize, negative ? ~0ull : 0);
	return next;
}

/* ---- multiplication and division ---- */

/* Byte forms keep their double-width value in ax, the others in rdx:rax. */
static void set_product(struct bt_cpu *cpu, unsigned size, uint64_t lo, uint64_t hi)
{
	if (size == 1) {
		sys_set_gpr(cpu, REG_RAX, 2, (lo & 0xff) | hi << 8);
		return;
	}
	sys_set_gpr(cpu, REG_RAX, size, lo);
	sys_set_gpr(cpu, REG_RDX, size, hi);
}

static int64_t sign_extend(uint64_t val, unsigned size)
{
	unsigned shift = 64 - size * 8;

	return (int64_t)(val << shift) >> shift;
}

uint64_t sys_mul(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t src = sys_rm_get(cpu, in, size), a = sys_gpr(cpu, REG_RAX, size), lo, hi;
	bool wide;

	if (in->op == OP_MUL) {
		unsigned __int128 p = (unsigned __int128)a * src;

		lo = (uint64_t)p & sys_size_mask(size);
		hi = size == 8 ? (uint64_t)(p >> 64) : (uint64_t)p >> size * 8;
		wide = hi != 0;
	} else {
		__int128 p = (__int128)sign_extend(a, size) * sign_extend(src, size);

		lo = (uint64_t)p & sys_size_mask(size);
		hi = size == 8 ? (uint64_t)((unsigned __int128)p >> 64) : (uint64_t)p >> size * 8;
		wide = p != sign_extend(lo, size);
	}
	set_product(cpu, size, lo, hi);
	sys_set_flags(cpu, FL_CF | FL_OF, wide ? FL_CF | FL_OF : 0);
	return next;
}

static void get_dividend(struct bt_cpu *cpu, unsigned size, uint64_t *lo, uint64_t *hi)
{
	if (size == 1) {
		*lo = cpu->st.regs[REG_RAX] & 0xff;
		*hi = cpu->st.regs[REG_RAX] >> 8 & 0xff;
	} else {
		*lo = sys_gpr(cpu, REG_RAX, size);
		*hi = sys_gpr(cpu, REG_RDX, size);
	}
}

/* @hi < @div, so the quotient fits. */
static uint64_t divide(uint64_t hi, uint64_t lo, uint64_t div, unsigned size, uint64_t *rem)
{
	uint64_t q;

	if (size < 8) {
		lo |= hi << size * 8;
		hi = 0;
	}
	__asm__("divq %4" : "=a"(q), "=d"(*rem) : "0"(lo), "1"(hi), "r"(div) : "cc");
	return q;
}

uint64_t sys_div(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t div = sys_rm_get(cpu, in, size), lo, hi, q, rem;

	get_dividend(cpu, size, &lo, &hi);
	if (hi >= div)
		bt_raise(cpu, VEC_DE);
	q = divide(hi, lo, div, size, &rem);
	set_product(cpu, size, q, rem);
	return next;
}

uint64_t sys_idiv(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t src = sys_rm_get(cpu, in, size), mask = sys_size_mask(size), lo, hi, q, rem, div,
		 most;
	bool neg_div = src >> (size * 8 - 1) & 1, neg;

	get_dividend(cpu, size, &lo, &hi);
	neg = hi >> (size * 8 - 1) & 1;
	if (neg) {
		lo = -lo & mask;
		hi = (~hi + !lo) & mask;
	}
	div = neg_div ? -src & mask : src;
	if (hi >= div)
		bt_raise(cpu, VEC_DE);
	q = divide(hi, lo, div, size, &rem);
	most = 1ull << (size * 8 - 1);
	if (q > most || (q == most && neg == neg_div))
		bt_raise(cpu, VEC_DE);
	set_product(cpu, size, (neg != neg_div ? -q : q) & mask, (neg ? -rem : rem) & mask);
	return next;
}

/* ---- flags ---- */

uint64_t sys_lahf(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	cpu->st.regs[REG_RAX] = (cpu->st.regs[REG_RAX] & ~0xff00ull) | (cpu->st.rflags & 0xd7) << 8;
	return next;
}

uint64_t sys_sahf(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_flags(cpu, FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF,
		      cpu->st.regs[REG_RAX] >> 8 & 0xff);
	return next;
}

uint64_t sys_salc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_gpr(cpu, REG_RAX, 1, cpu->st.rflags & FL_CF ? 0xff : 0);
	return next;
}

uint64_t sys_clc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_flags(cpu, FL_CF, 0);
	return next;
}

uint64_t sys_stc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_flags(cpu, FL_CF, FL_CF);
	return next;
}

uint64_t sys_cmc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	cpu->st.rflags ^= FL_CF;
	return next;
}

uint64_t sys_cld(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	cpu->st.rflags &= ~(uint64_t)FL_DF;
	return next;
}

uint64_t sys_std(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	cpu->st.rflags |= FL_DF;
	return next;
}

/* ---- decimal adjustment (outside 64-bit mode) ---- */

static uint64_t decimal(struct bt_cpu *cpu, bool subtract, uint64_t next)
{
	uint8_t old = cpu->st.regs[REG_RAX], al = old;
	bool cf = cpu->st.rflags & FL_CF, af = false, carry = false;

	if ((old & 0xf) > 9 || (cpu->st.rflags & FL_AF)) {
		carry = cf || (subtract ? old < 6 : old > 0xf9);
		al += subtract ? -6 : 6;
		af = true;
	}
	if (old > 0x99 || cf) {
		al += subtract ? -0x60 : 0x60;
		carry = true;
	}
	sys_set_gpr(cpu, REG_RAX, 1, al);
	sys_set_flags(cpu, FL_CF | FL_AF | FL_SF | FL_ZF | FL_PF,
		      (carry ? FL_CF : 0) | (af ? FL_AF : 0) | sys_flags_szp(al, 1));
	return next;
}

uint64_t sys_daa(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return decimal(cpu, false, next);
}

uint64_t sys_das(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return decimal(cpu, true, next);
}

static uint64_t ascii(struct bt_cpu *cpu, bool subtract, uint64_t next)
{
	uint16_t ax = cpu->st.regs[REG_RAX];
	bool adjust = (ax & 0xf) > 9 || (cpu->st.rflags & FL_AF);

	if (adjust)
		ax += subtract ? -0x106 : 0x106;
	sys_set_gpr(cpu, REG_RAX, 2, ax & 0xff0f);
	sys_set_flags(cpu, FL_CF | FL_AF, adjust ? FL_CF | FL_AF : 0);
	return next;
}

uint64_t sys_aaa(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return ascii(cpu, false, next);
}

uint64_t sys_aas(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return ascii(cpu, true, next);
}

uint64_t sys_aam(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint8_t base = in->imm, al = cpu->st.regs[REG_RAX];

	if (!base)
		bt_raise(cpu, VEC_DE);
	sys_set_gpr(cpu, REG_RAX, 2, (al / base) << 8 | al % base);
	sys_set_flags(cpu, FL_SF | FL_ZF | FL_PF, sys_flags_szp(al % base, 1));
	return next;
}

uint64_t sys_aad(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t ax = cpu->st.regs[REG_RAX];
	uint8_t al = (ax & 0xff) + (ax >> 8) * (uint8_t)in->imm;

	sys_set_gpr(cpu, REG_RAX, 2, al);
	sys_set_flags(cpu, FL_SF | FL_ZF | FL_PF, sys_flags_szp(al, 1));
	return next;
}

uint64_t sys_bound(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t la = bt_operand(cpu, in, size * 2, false);
	int64_t lower = sign_extend(bt_ld(cpu, la, size, BT_CPL), size);
	int64_t upper = sign_extend(bt_ld(cpu, la + size, size, BT_CPL), size);
	int64_t index = sign_extend(sys_gpr(cpu, in->reg, size), size);

	if (index < lower || index > upper)
		bt_raise(cpu, VEC_BR);
	return next;
}
