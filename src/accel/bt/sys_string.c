/* SPDX-License-Identifier: Apache-2.0 */
/*
 * String instructions.
 *
 * A REP instruction is worked off in chunks that stay within a page on each
 * side, within the segment limit and without wrapping the address size; rsi,
 * rdi and rcx are committed after each chunk, so a fault in the next one finds
 * the state of the iteration it belongs to. A call works off at most BUDGET
 * bytes and then returns with rip still at the instruction: interrupts get in.
 * Chunks on plain memory use the host's own string instruction of the same
 * element size and direction, so overlapping moves come out as on hardware.
 */
#include "accel/bt/sys.h"
#include "base/util.h"

#define BUDGET 65536u

struct str {
	unsigned size; /* element, bytes */
	uint64_t mask; /* address size */
	uint64_t left; /* elements still to do within the budget */
	bool rep, down;
};

static void str_init(struct bt_cpu *cpu, const struct insn *in, struct str *s)
{
	s->size = in->opsize;
	s->mask = sys_size_mask(in->addrsize);
	s->rep = in->rep != 0;
	s->down = cpu->st.rflags & FL_DF;
	s->left = 1;
	if (s->rep) {
		s->left = cpu->st.regs[REG_RCX] & s->mask;
		if (s->left > BUDGET / s->size)
			s->left = BUDGET / s->size;
		if (s->left > 1 && (cpu->key & KEY_ONE))
			s->left = 1;
	}
}

static void advance(struct bt_cpu *cpu, const struct insn *in, const struct str *s, unsigned reg,
		    uint64_t n)
{
	uint64_t off = cpu->st.regs[reg], bytes = n * s->size;

	sys_set_gpr(cpu, reg, in->addrsize, s->down ? off - bytes : off + bytes);
}

/* Elements done: count them off. Returns whether more are to be done in this call. */
static bool done(struct bt_cpu *cpu, const struct insn *in, struct str *s, uint64_t n)
{
	if (s->rep)
		sys_set_gpr(cpu, REG_RCX, in->addrsize, cpu->st.regs[REG_RCX] - n);
	s->left -= n;
	return s->left > 0;
}

static uint64_t finish(struct bt_cpu *cpu, const struct str *s, uint64_t next)
{
	return s->rep && (cpu->st.regs[REG_RCX] & s->mask) ? cpu->st.rip : next;
}

/*
 * One side of a chunk. The first element is checked by bt_seg_linear(); returns its linear address
 * and lowers *n to how many elements from there on need no further check. *n is 0 when
 * the first element itself crosses a page.
 */
static uint64_t side(struct bt_cpu *cpu, const struct str *s, unsigned seg, unsigned reg,
		     bool write, uint64_t *n)
{
	uint64_t off = cpu->st.regs[reg] & s->mask,
		 la = bt_seg_linear(cpu, seg, off, s->size, write), max;
	const struct vcpu_seg *sg = &cpu->st.segs[seg];

	if ((la & 0xfff) + s->size > 0x1000) {
		*n = 0;
		return la;
	}
	max = s->down ? (la & 0xfff) / s->size + 1 : (0x1000 - (la & 0xfff)) / s->size;
	if (max < *n)
		*n = max;
	if (s->mask != ~0ull) {
		/* without wrapping the address */
		max = s->down ? off / s->size + 1 : (s->mask - off + 1) / s->size;
		if (max < *n)
			*n = max;
	}
	if (!bt_64bit(cpu)) {
		if ((sg->attr & (SEG_TYPE_CODE | SEG_TYPE_E)) == SEG_TYPE_E)
			max = 1;
		else
			max = s->down ? *n : ((uint64_t)sg->limit - off + 1) / s->size;
		if (max < *n)
			*n = max;
	}
	return la;
}

#define HOST_REP(name, body)                                                                       \
	static void name(bool down, unsigned size, void *dst, const void *src, uint64_t n,         \
			 uint64_t a)                                                               \
	{                                                                                          \
		if (down)                                                                          \
			__asm__ volatile("std");                                                   \
		switch (size) {                                                                    \
		case 1:                                                                            \
			body("b");                                                                 \
			break;                                                                     \
		case 2:                                                                            \
			body("w");                                                                 \
			break;                                                                     \
		case 4:                                                                            \
			body("l");                                                                 \
			break;                                                                     \
		default:                                                                           \
			body("q");                                                                 \
			break;                                                                     \
		}                                                                                  \
		if (down)                                                                          \
			__asm__ volatile("cld");                                                   \
	}
#define BODY_MOVS(s) __asm__ volatile("rep movs" s : "+D"(dst), "+S"(src), "+c"(n) : : "memory")
#define BODY_STOS(s) __asm__ volatile("rep stos" s : "+D"(dst), "+c"(n) : "a"(a) : "memory")
HOST_REP(host_movs, BODY_MOVS)
HOST_REP(host_stos, BODY_STOS)

uint64_t sys_movs(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct str s;

	str_init(cpu, in, &s);
	while (s.left) {
		uint64_t n = s.left, src, dst;
		void *hs = NULL, *hd = NULL;

		src = side(cpu, &s, in->seg, REG_RSI, false, &n);
		dst = side(cpu, &s, SEG_ES, REG_RDI, true, &n);
		if (n) {
			hs = bt_host_ptr(cpu, src, false, BT_CPL);
			if (hs)
				hd = bt_host_ptr(cpu, dst, true, BT_CPL);
		}
		if (hs && hd) {
			host_movs(s.down, s.size, hd, hs, n, 0);
		} else {
			n = 1;
			bt_st(cpu, dst, s.size, bt_ld(cpu, src, s.size, BT_CPL), BT_CPL);
		}
		advance(cpu, in, &s, REG_RSI, n);
		advance(cpu, in, &s, REG_RDI, n);
		if (!done(cpu, in, &s, n))
			break;
	}
	return finish(cpu, &s, next);
}

uint64_t sys_stos(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t a = cpu->st.regs[REG_RAX];
	struct str s;

	str_init(cpu, in, &s);
	while (s.left) {
		uint64_t n = s.left, dst = side(cpu, &s, SEG_ES, REG_RDI, true, &n);
		void *hd = n ? bt_host_ptr(cpu, dst, true, BT_CPL) : NULL;

		if (hd) {
			host_stos(s.down, s.size, hd, NULL, n, a);
		} else {
			n = 1;
			bt_st(cpu, dst, s.size, a & sys_size_mask(s.size), BT_CPL);
		}
		advance(cpu, in, &s, REG_RDI, n);
		if (!done(cpu, in, &s, n))
			break;
	}
	return finish(cpu, &s, next);
}

uint64_t sys_lods(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	struct str s;

	str_init(cpu, in, &s);
	while (s.left) {
		uint64_t n = 1, src = side(cpu, &s, in->seg, REG_RSI, false, &n);

		sys_set_gpr(cpu, REG_RAX, s.size, bt_ld(cpu, src, s.size, BT_CPL));
		advance(cpu, in, &s, REG_RSI, 1);
		if (!done(cpu, in, &s, 1))
			break;
	}
	return finish(cpu, &s, next);
}

static uint64_t element(const uint8_t *p, unsigned size)
{
	switch (size) {
	case 1:
		return *p;
	case 2:
		return get_le16(p);
	case 4:
		return get_le32(p);
	default:
		return get_le64(p);
	}
}

/* SCAS compares the accumulator with [rdi], CMPS [rsi] with [rdi]; both end early on the wanted ZF.
 */
static uint64_t compare(struct bt_cpu *cpu, const struct insn *in, bool cmps, uint64_t next)
{
	uint64_t a = sys_gpr(cpu, REG_RAX, in->opsize), b, n, src = 0, dst, i;
	bool want = in->rep == 0xf3, ended = false;
	struct str s;

	str_init(cpu, in, &s);
	while (s.left && !ended) {
		uint8_t *ps = NULL, *pd = NULL;

		n = s.left;
		if (cmps)
			src = side(cpu, &s, in->seg, REG_RSI, false, &n);
		dst = side(cpu, &s, SEG_ES, REG_RDI, false, &n);
		if (n) {
			if (cmps)
				ps = bt_host_ptr(cpu, src, false, BT_CPL);
			if (ps || !cmps)
				pd = bt_host_ptr(cpu, dst, false, BT_CPL);
		}
		if (!pd) {
			n = 1;
			if (cmps)
				a = bt_ld(cpu, src, s.size, BT_CPL);
			b = bt_ld(cpu, dst, s.size, BT_CPL);
			ended = (a == b) != want;
		} else {
			int64_t step = s.down ? -(int64_t)s.size : s.size;

			i = 0;
			do {
				if (cmps) {
					a = element(ps, s.size);
					ps += step;
				}
				b = element(pd, s.size);
				pd += step;
				i++;
				ended = (a == b) != want;
			} while (i < n && !ended);
			n = i;
		}
		if (cmps)
			advance(cpu, in, &s, REG_RSI, n);
		advance(cpu, in, &s, REG_RDI, n);
		sys_set_flags(cpu, FL_ARITH, sys_flags_sub(a, b, s.size));
		done(cpu, in, &s, n);
	}
	return s.rep && ended ? next : finish(cpu, &s, next);
}

uint64_t sys_scas(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return compare(cpu, in, false, next);
}

uint64_t sys_cmps(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return compare(cpu, in, true, next);
}

/* ---- ports ---- */

static bool interrupted(struct bt_cpu *cpu)
{
	return atomic_load_explicit(&cpu->pending, memory_order_relaxed);
}

uint64_t sys_ins(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t port = cpu->st.regs[REG_RDX];
	struct str s;

	str_init(cpu, in, &s);
	sys_io_check(cpu, port, s.size);
	while (s.left) {
		uint64_t n = 1, dst = side(cpu, &s, SEG_ES, REG_RDI, true, &n);

		bt_probe_write(cpu, dst, s.size, BT_CPL);
		bt_st(cpu, dst, s.size, bt_pio_read(cpu, port, s.size), BT_CPL);
		advance(cpu, in, &s, REG_RDI, 1);
		if (!done(cpu, in, &s, 1) || interrupted(cpu))
			break;
	}
	return finish(cpu, &s, next);
}

uint64_t sys_outs(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t port = cpu->st.regs[REG_RDX];
	struct str s;

	str_init(cpu, in, &s);
	sys_io_check(cpu, port, s.size);
	while (s.left) {
		uint64_t n = 1, src = side(cpu, &s, in->seg, REG_RSI, false, &n);

		bt_pio_write(cpu, port, s.size, bt_ld(cpu, src, s.size, BT_CPL));
		advance(cpu, in, &s, REG_RSI, 1);
		if (!done(cpu, in, &s, 1) || interrupted(cpu))
			break;
	}
	return finish(cpu, &s, next);
}
