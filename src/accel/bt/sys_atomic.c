/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-modify-write instructions with identities of their own. On plain guest
 * memory they run as locked host instructions, so they are atomic towards the
 * other vCPUs; device memory, pages with translated code and operands that
 * cross a page are read and written apart.
 */
#include "accel/bt/sys.h"

static uint64_t cas(void *p, unsigned size, uint64_t old, uint64_t val)
{
	switch (size) {
	case 1:
		__asm__ volatile("lock cmpxchgb %b2, %1"
				 : "+a"(old), "+m"(*(uint8_t *)p)
				 : "q"(val)
				 : "cc", "memory");
		return (uint8_t)old;
	case 2:
		__asm__ volatile("lock cmpxchgw %w2, %1"
				 : "+a"(old), "+m"(*(uint16_t *)p)
				 : "r"(val)
				 : "cc", "memory");
		return (uint16_t)old;
	case 4:
		__asm__ volatile("lock cmpxchgl %k2, %1"
				 : "+a"(old), "+m"(*(uint32_t *)p)
				 : "r"(val)
				 : "cc", "memory");
		return (uint32_t)old;
	default:
		__asm__ volatile("lock cmpxchgq %2, %1"
				 : "+a"(old), "+m"(*(uint64_t *)p)
				 : "r"(val)
				 : "cc", "memory");
		return old;
	}
}

static uint64_t load(const void *p, unsigned size)
{
	uint64_t val;

	switch (size) {
	case 1:
		__asm__ volatile("movzbl %1, %k0" : "=r"(val) : "m"(*(const uint8_t *)p));
		break;
	case 2:
		__asm__ volatile("movzwl %1, %k0" : "=r"(val) : "m"(*(const uint16_t *)p));
		break;
	case 4:
		__asm__ volatile("movl %1, %k0" : "=r"(val) : "m"(*(const uint32_t *)p));
		break;
	default:
		__asm__ volatile("movq %1, %0" : "=r"(val) : "m"(*(const uint64_t *)p));
		break;
	}
	return val;
}

/* A memory operand to be changed: plain host memory, or NULL with the write known to be allowed. */
static void *rmw_ptr(struct bt_cpu *cpu, uint64_t la, unsigned size)
{
	if ((la & 0xfff) + size <= 0x1000) {
		void *p = bt_host_ptr(cpu, la, true, BT_CPL);

		if (p)
			return p;
	}
	bt_probe_write(cpu, la, size, BT_CPL);
	return NULL;
}

enum rmw { RMW_XCHG, RMW_ADD, RMW_SET, RMW_RESET, RMW_FLIP };

static uint64_t apply(enum rmw how, uint64_t old, uint64_t val)
{
	switch (how) {
	case RMW_XCHG:
		return val;
	case RMW_ADD:
		return old + val;
	case RMW_SET:
		return old | val;
	case RMW_RESET:
		return old & ~val;
	default:
		return old ^ val;
	}
}

/* Returns the old value. */
static uint64_t rmw(struct bt_cpu *cpu, uint64_t la, unsigned size, enum rmw how, uint64_t val)
{
	void *p = rmw_ptr(cpu, la, size);
	uint64_t old, seen;

	if (!p) {
		old = bt_ld(cpu, la, size, BT_CPL);
		bt_st(cpu, la, size, apply(how, old, val) & sys_size_mask(size), BT_CPL);
		return old;
	}
	old = load(p, size);
	while ((seen = cas(p, size, old, apply(how, old, val))) != old)
		old = seen;
	return old;
}

uint64_t sys_xchg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize, reg = in->opreg != INSN_NO_REG ? REG_RAX : in->reg;
	unsigned other = in->opreg != INSN_NO_REG ? in->opreg : in->rm;
	uint64_t val = sys_reg_get(cpu, in, reg, size), old;

	if (in->mem) {
		old = rmw(cpu, bt_operand(cpu, in, size, true), size, RMW_XCHG, val);
	} else {
		old = sys_reg_get(cpu, in, other, size);
		sys_reg_set(cpu, in, other, size, val);
	}
	sys_reg_set(cpu, in, reg, size, old);
	return next;
}

uint64_t sys_xadd(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t val = sys_reg_get(cpu, in, in->reg, size), old;

	if (in->mem) {
		old = rmw(cpu, bt_operand(cpu, in, size, true), size, RMW_ADD, val);
		sys_reg_set(cpu, in, in->reg, size, old);
	} else {
		old = sys_reg_get(cpu, in, in->rm, size);
		sys_reg_set(cpu, in, in->reg, size, old);
		sys_reg_set(cpu, in, in->rm, size, old + val);
	}
	sys_set_flags(cpu, FL_ARITH, sys_flags_add(old, val, size));
	return next;
}

uint64_t sys_cmpxchg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize;
	uint64_t expect = sys_gpr(cpu, REG_RAX, size), val = sys_reg_get(cpu, in, in->reg, size),
		 old;

	if (in->mem) {
		uint64_t la = bt_operand(cpu, in, size, true);
		void *p = rmw_ptr(cpu, la, size);

		if (p) {
			old = cas(p, size, expect, val);
		} else {
			old = bt_ld(cpu, la, size, BT_CPL);
			bt_st(cpu, la, size, old == expect ? val : old, BT_CPL);
		}
	} else {
		old = sys_reg_get(cpu, in, in->rm, size);
		if (old == expect)
			sys_reg_set(cpu, in, in->rm, size, val);
		else if (size == 4)
			sys_reg_set(cpu, in, in->rm, size, old);
	}
	if (old != expect)
		sys_set_gpr(cpu, REG_RAX, size, old);
	sys_set_flags(cpu, FL_ARITH, sys_flags_sub(expect, old, size));
	return next;
}

uint64_t sys_cmpxchg8b(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned half = in->op == OP_CMPXCHG16B ? 8 : 4;
	uint64_t la = bt_operand(cpu, in, half * 2, true);
	uint64_t lo = sys_gpr(cpu, REG_RAX, half), hi = sys_gpr(cpu, REG_RDX, half);
	uint64_t new_lo = sys_gpr(cpu, REG_RBX, half), new_hi = sys_gpr(cpu, REG_RCX, half);
	uint64_t old_lo = lo, old_hi = hi;
	bool same;
	void *p;

	if (half == 8 && (la & 15))
		sys_gp(cpu, 0);
	p = rmw_ptr(cpu, la, half * 2);
	if (p && half == 4) {
		__asm__ volatile("lock cmpxchg8b %2"
				 : "+a"(old_lo), "+d"(old_hi), "+m"(*(uint64_t *)p)
				 : "b"(new_lo), "c"(new_hi)
				 : "cc", "memory");
		old_lo = (uint32_t)old_lo;
		old_hi = (uint32_t)old_hi;
	} else if (p) {
		__asm__ volatile("lock cmpxchg16b %2"
				 : "+a"(old_lo), "+d"(old_hi), "+m"(*(unsigned __int128 *)p)
				 : "b"(new_lo), "c"(new_hi)
				 : "cc", "memory");
	} else {
		old_lo = bt_ld(cpu, la, half, BT_CPL);
		old_hi = bt_ld(cpu, la + half, half, BT_CPL);
		if (old_lo == lo && old_hi == hi) {
			bt_st(cpu, la, half, new_lo, BT_CPL);
			bt_st(cpu, la + half, half, new_hi, BT_CPL);
		}
	}
	same = old_lo == lo && old_hi == hi;
	if (!same) {
		sys_set_gpr(cpu, REG_RAX, half, old_lo);
		sys_set_gpr(cpu, REG_RDX, half, old_hi);
	}
	sys_set_flags(cpu, FL_ZF, same ? FL_ZF : 0);
	return next;
}

/* bt, bts, btr, btc with a register bit offset: a signed index into memory around the operand */
uint64_t sys_bittest(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize, bits = size * 8, shift = 64 - bits;
	int64_t index = (int64_t)(cpu->st.regs[in->reg] << shift) >> shift;
	uint64_t bit = 1ull << (index & (bits - 1)), old, la, off;
	int64_t words = index >> __builtin_ctz(bits);

	off = (bt_effective(cpu, in) + words * size) & sys_size_mask(in->addrsize);
	la = bt_seg_linear(cpu, in->seg, off, size, in->opcode != 0xa3);
	switch (in->opcode) {
	case 0xa3:
		old = bt_ld(cpu, la, size, BT_CPL);
		break;
	case 0xab:
		old = rmw(cpu, la, size, RMW_SET, bit);
		break;
	case 0xb3:
		old = rmw(cpu, la, size, RMW_RESET, bit);
		break;
	default:
		old = rmw(cpu, la, size, RMW_FLIP, bit);
		break;
	}
	sys_set_flags(cpu, FL_CF, old & bit ? FL_CF : 0);
	return next;
}
