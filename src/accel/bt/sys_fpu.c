/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State images of x87, SSE and AVX: XSAVE, FXSAVE and FSAVE families
 * (Intel SDM volume 1, chapter 13).
 *
 * The guest's state is the hardware's, so the host's own instructions make
 * and load the images. What the guest gives to load is copied and validated
 * first: the host must not fault, and another vCPU may change the image
 * meanwhile. Only XSAVE, XSAVEC and XRSTOR are used: the modified-state
 * optimisation of XSAVEOPT and XSAVES goes by host addresses.
 *
 * The x87 instruction and data pointers would show addresses of translated
 * code; images hold zeros in their place.
 *
 * Outside 64-bit mode xmm8..15 belong to nobody: they are neither written to
 * memory nor changed.
 */
#include "accel/bt/sys.h"

#include "base/util.h"

#define IMAGE_MAX 832 /* legacy part, header, AVX */
#define OFF_MXCSR 24
#define OFF_XSTATE_BV 512
#define OFF_XCOMP_BV 520
#define OFF_AVX 576
#define XCOMP_COMPACT (1ull << 63)

/* Upper registers: xmm8..15 in the legacy area, their high halves in the AVX area. */
#define OFF_XMM8 288
#define OFF_XMM_END 416
#define OFF_YMM8 (OFF_AVX + 128)

struct image {
	uint8_t b[IMAGE_MAX] __attribute__((aligned(64)));
};

static void host_xsave(void *p, uint32_t mask)
{
	__asm__ volatile("xsave64 %0" : "+m"(*(struct image *)p) : "a"(mask), "d"(0));
}

static void host_xsavec(void *p, uint32_t mask)
{
	__asm__ volatile("xsavec64 %0" : "+m"(*(struct image *)p) : "a"(mask), "d"(0));
}

static void host_xrstor(const void *p, uint32_t mask)
{
	__asm__ volatile("xrstor64 %0" : : "m"(*(const struct image *)p), "a"(mask), "d"(0));
}

static void clear_pointers(uint8_t *p)
{
	put_le16(p + 6, 0);
	put_le64(p + 8, 0);
	put_le64(p + 16, 0);
}

uint8_t *sys_fpu_image(struct bt_cpu *cpu)
{
	uint8_t *p = cpu->st.xsave;
	uint64_t bv;

	bt_fpu_park(cpu);
	bv = get_le64(p + OFF_XSTATE_BV);
	if (!(bv & 1)) {
		bt_fill(p, 0, OFF_MXCSR);
		bt_fill(p + 32, 0, 128);
		put_le16(p, 0x37f);
	}
	if (!(bv & 2))
		bt_fill(p + 160, 0, 256);
	if (!(bv & 4))
		bt_fill(p + OFF_AVX, 0, 256);
	put_le64(p + OFF_XSTATE_BV, sys_xcr0_max());
	return p;
}

void sys_fpu_reset(struct bt_cpu *cpu)
{
	uint8_t *p = cpu->st.xsave;

	bt_fill(p, 0, IMAGE_MAX);
	put_le16(p, 0x40);
	p[4] = 0xff; /* all registers hold zero */
	put_le32(p + OFF_MXCSR, 0x1f80);
	put_le64(p + OFF_XSTATE_BV, 3);
	cpu->fpu_parked = true;
}

/* ---- XSAVE ---- */

static uint32_t xsave_begin(struct bt_cpu *cpu)
{
	if (!(cpu->st.cr4 & CR4_OSXSAVE))
		sys_ud(cpu);
	if (cpu->st.cr0 & CR0_TS)
		bt_raise(cpu, VEC_NM);
	return (uint32_t)cpu->st.regs[REG_RAX] & cpu->st.xcr0;
}

static uint64_t save(struct bt_cpu *cpu, const struct insn *in, bool compact, uint64_t next)
{
	uint32_t mask = xsave_begin(cpu);
	unsigned size = mask & 4 ? IMAGE_MAX : OFF_AVX;
	uint64_t la = bt_operand(cpu, in, size, true);
	bool narrow = !bt_64bit(cpu);
	struct image img, old;
	uint8_t *p = NULL;

	if (la & 63)
		sys_gp(cpu, 0);
	if (!narrow && (la & 0xfff) + size <= 0x1000)
		p = bt_host_ptr(cpu, la, true, BT_CPL);
	if (!p) {
		bt_probe_write(cpu, la, size, BT_CPL);
		bt_ld_bytes(cpu, la, img.b, size, BT_CPL);
		if (narrow)
			bt_copy(old.b, img.b, size);
	}
	bt_fpu_unpark(cpu);
	if (compact)
		host_xsavec(p ? p : img.b, mask);
	else
		host_xsave(p ? p : img.b, mask);
	if ((mask & 1) && (!compact || ((p ? p : img.b)[OFF_XSTATE_BV] & 1)))
		clear_pointers(p ? p : img.b);
	if (p)
		return next;
	if (narrow) {
		bt_copy(img.b + OFF_XMM8, old.b + OFF_XMM8, OFF_XMM_END - OFF_XMM8);
		if (mask & 4)
			bt_copy(img.b + OFF_YMM8, old.b + OFF_YMM8, IMAGE_MAX - OFF_YMM8);
	}
	bt_st_bytes(cpu, la, img.b, size, BT_CPL);
	return next;
}

uint64_t sys_xsave(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return save(cpu, in, false, next);
}

uint64_t sys_xsavec(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return save(cpu, in, true, next);
}

/* The header's rules; the components to be loaded from memory, or -1 for #GP. */
static int check_header(const struct bt_cpu *cpu, const uint8_t *img, uint32_t mask)
{
	uint64_t bv = get_le64(img + OFF_XSTATE_BV), comp = get_le64(img + OFF_XCOMP_BV);
	uint64_t valid = cpu->st.xcr0;

	if (get_le64(img + OFF_XCOMP_BV + 8))
		return -1;
	if (comp & XCOMP_COMPACT) {
		if (!sys_guest_has(FEAT_XSAVEC))
			return -1;
		comp &= ~XCOMP_COMPACT;
		if ((comp & ~valid) || (bv & ~comp))
			return -1;
		for (unsigned i = OFF_XCOMP_BV + 16; i < OFF_AVX; i += 8) {
			if (get_le64(img + i))
				return -1;
		}
		if ((mask & bv & 2) && (get_le32(img + OFF_MXCSR) & ~sys_mxcsr_mask()))
			return -1;
	} else {
		if (comp || (bv & ~valid))
			return -1;
		if ((mask & 6) && (get_le32(img + OFF_MXCSR) & ~sys_mxcsr_mask()))
			return -1;
	}
	return mask & bv;
}

/* Load an image, leaving xmm8..15 as they are. */
static void load_narrow(const struct image *img, uint32_t mask)
{
	struct image upper, all;

	bt_fill(&upper, 0, sizeof(upper));
	bt_fill(&all, 0, sizeof(all));
	host_xsave(&upper, sys_xcr0_max());
	host_xrstor(img, mask);
	host_xsave(&all, sys_xcr0_max());
	bt_copy(all.b + OFF_XMM8, upper.b + OFF_XMM8, OFF_XMM_END - OFF_XMM8);
	bt_copy(all.b + OFF_YMM8, upper.b + OFF_YMM8, IMAGE_MAX - OFF_YMM8);
	all.b[OFF_XSTATE_BV] |= sys_xcr0_max() & 6;
	host_xrstor(&all, sys_xcr0_max());
}

uint64_t sys_xrstor(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint32_t mask = xsave_begin(cpu);
	uint64_t la = bt_operand(cpu, in, OFF_AVX, false);
	struct image img;
	int from_memory;

	if (la & 63)
		sys_gp(cpu, 0);
	bt_ld_bytes(cpu, la, img.b, OFF_AVX, BT_CPL);
	from_memory = check_header(cpu, img.b, mask);
	if (from_memory < 0)
		sys_gp(cpu, 0);
	if (from_memory & 4) {
		bt_operand(cpu, in, IMAGE_MAX, false);
		bt_ld_bytes(cpu, la + OFF_AVX, img.b + OFF_AVX, IMAGE_MAX - OFF_AVX, BT_CPL);
	}
	bt_fpu_unpark(cpu);
	if (bt_64bit(cpu))
		host_xrstor(&img, mask);
	else
		load_narrow(&img, mask);
	return next;
}

/* ---- FXSAVE ---- */

static void fx_check(struct bt_cpu *cpu, uint64_t la)
{
	if (cpu->st.cr0 & (CR0_EM | CR0_TS))
		bt_raise(cpu, VEC_NM);
	if (la & 15)
		sys_gp(cpu, 0);
}

uint64_t sys_fxsave(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la = bt_operand(cpu, in, 512, true);
	struct image img;

	fx_check(cpu, la);
	bt_probe_write(cpu, la, 512, BT_CPL);
	bt_fpu_unpark(cpu);
	__asm__ volatile("fxsave64 %0" : "=m"(img));
	clear_pointers(img.b);
	bt_st_bytes(cpu, la, img.b, bt_64bit(cpu) ? OFF_XMM_END : OFF_XMM8, BT_CPL);
	return next;
}

uint64_t sys_fxrstor(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la = bt_operand(cpu, in, 512, false);
	struct image img, now;

	fx_check(cpu, la);
	bt_ld_bytes(cpu, la, img.b, 512, BT_CPL);
	if (get_le32(img.b + OFF_MXCSR) & ~sys_mxcsr_mask())
		sys_gp(cpu, 0);
	bt_fpu_unpark(cpu);
	if (!bt_64bit(cpu)) {
		__asm__ volatile("fxsave64 %0" : "=m"(now));
		bt_copy(img.b + OFF_XMM8, now.b + OFF_XMM8, OFF_XMM_END - OFF_XMM8);
	}
	__asm__ volatile("fxrstor64 %0" : : "m"(img));
	return next;
}

/* ---- x87 environment and FSAVE ---- */

/* 32-bit environment: control, status, tag word, then four words of pointers, each in 4 bytes */
#define ENV32 28u
#define ENV16 14u
#define X87_REGS 80u

static unsigned env_size(const struct insn *in)
{
	return in->opsize == 2 ? ENV16 : ENV32;
}

/* From the host's 32-bit form to the guest's, without pointers. */
static void env_out(const uint8_t *host, uint8_t *guest, unsigned size)
{
	unsigned step = size / 7;

	bt_fill(guest, 0, size);
	for (unsigned i = 0; i < 3; i++) {
		put_le16(guest + i * step, get_le16(host + i * 4));
		if (step == 4)
			put_le16(guest + i * 4 + 2, 0xffff);
	}
}

static void env_in(uint8_t *host, const uint8_t *guest, unsigned size)
{
	unsigned step = size / 7;

	bt_fill(host, 0, ENV32);
	for (unsigned i = 0; i < 3; i++)
		put_le16(host + i * 4, get_le16(guest + i * step));
}

/* FLDENV and FRSTOR wait: a pending exception must not hit the host in C code. */
static void x87_check_pending(struct bt_cpu *cpu)
{
	uint16_t sw;

	__asm__ volatile("fnstsw %0" : "=a"(sw));
	if (sw & 0x80)
		bt_raise(cpu, VEC_MF);
}

uint64_t sys_fstenv(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = env_size(in);
	uint64_t la = bt_operand(cpu, in, size, true);
	uint8_t host[ENV32], guest[ENV32];

	bt_probe_write(cpu, la, size, BT_CPL);
	bt_fpu_unpark(cpu);
	__asm__ volatile("fnstenv %0" : "=m"(host));
	env_out(host, guest, size);
	bt_st_bytes(cpu, la, guest, size, BT_CPL);
	return next;
}

uint64_t sys_fldenv(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = env_size(in);
	uint64_t la = bt_operand(cpu, in, size, false);
	uint8_t host[ENV32], guest[ENV32];

	bt_ld_bytes(cpu, la, guest, size, BT_CPL);
	env_in(host, guest, size);
	bt_fpu_unpark(cpu);
	x87_check_pending(cpu);
	__asm__ volatile("fldenv %0" : : "m"(host));
	return next;
}

uint64_t sys_fsave(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = env_size(in);
	uint64_t la = bt_operand(cpu, in, size + X87_REGS, true);
	uint8_t host[ENV32 + X87_REGS], guest[ENV32 + X87_REGS];

	bt_probe_write(cpu, la, size + X87_REGS, BT_CPL);
	bt_fpu_unpark(cpu);
	__asm__ volatile("fnsave %0" : "=m"(host));
	env_out(host, guest, size);
	bt_copy(guest + size, host + ENV32, X87_REGS);
	bt_st_bytes(cpu, la, guest, size + X87_REGS, BT_CPL);
	return next;
}

uint64_t sys_frstor(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = env_size(in);
	uint64_t la = bt_operand(cpu, in, size + X87_REGS, false);
	uint8_t host[ENV32 + X87_REGS], guest[ENV32 + X87_REGS];

	bt_ld_bytes(cpu, la, guest, size + X87_REGS, BT_CPL);
	env_in(host, guest, size);
	bt_copy(host + ENV32, guest + size, X87_REGS);
	bt_fpu_unpark(cpu);
	x87_check_pending(cpu);
	__asm__ volatile("frstor %0" : : "m"(host));
	return next;
}

/* ---- availability ---- */

void bt_fpu_check(struct bt_cpu *cpu, const struct insn *in)
{
	const struct vcpu_state *st = &cpu->st;

	switch (in->unit) {
	case UNIT_X87:
		if (st->cr0 & (CR0_EM | CR0_TS))
			bt_raise(cpu, VEC_NM);
		break;
	case UNIT_FWAIT:
		if ((st->cr0 & CR0_MP) && (st->cr0 & CR0_TS))
			bt_raise(cpu, VEC_NM);
		break;
	case UNIT_MMX:
		if (st->cr0 & CR0_EM)
			bt_raise(cpu, VEC_UD);
		if (st->cr0 & CR0_TS)
			bt_raise(cpu, VEC_NM);
		break;
	case UNIT_SSE:
		if ((st->cr0 & CR0_EM) || !(st->cr4 & CR4_OSFXSR))
			bt_raise(cpu, VEC_UD);
		if (st->cr0 & CR0_TS)
			bt_raise(cpu, VEC_NM);
		break;
	case UNIT_AVX:
		if (sys_real_segments(cpu) || !(st->cr4 & CR4_OSXSAVE) || (st->xcr0 & 6) != 6)
			bt_raise(cpu, VEC_UD);
		if (st->cr0 & CR0_TS)
			bt_raise(cpu, VEC_NM);
		break;
	default:
		break;
	}
}
