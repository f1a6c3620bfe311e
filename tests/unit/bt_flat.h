/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine without a translator, for testing the system part of bt by itself:
 * one vCPU over flat memory (linear = physical, 1 MiB) whose pages can be taken
 * away, exceptions that end in the test instead of a run loop, and
 * instructions given as bytes.
 */
#ifndef EYOT_TESTS_BT_FLAT_H
#define EYOT_TESTS_BT_FLAT_H

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "accel/bt/cache.h"
#include "accel/bt/sys.h"
#include "base/util.h"

#define FLAT_SIZE 0x100000u

static struct bt_cpu flat_cpu;
static struct bt_vm flat_vm;
static struct lapic_set *flat_lapics;
static uint8_t flat_mem[FLAT_SIZE] __attribute__((aligned(4096)));
static bool flat_absent[FLAT_SIZE >> 12], flat_mmio[FLAT_SIZE >> 12];
static uint64_t flat_port_value;
static unsigned flat_port, flat_flushes;
static jmp_buf flat_jmp;
static bool flat_failed;
static enum vcpu_exit_reason flat_reason;

/* ---- what run.c provides ---- */

_Noreturn void bt_raise(struct bt_cpu *cpu, unsigned vector)
{
	cpu->exc.valid = true;
	cpu->exc.has_error = false;
	cpu->exc.vector = vector;
	longjmp(flat_jmp, 1);
}

_Noreturn void bt_raise_err(struct bt_cpu *cpu, unsigned vector, uint32_t error)
{
	cpu->exc.valid = cpu->exc.has_error = true;
	cpu->exc.vector = vector;
	cpu->exc.error = error;
	longjmp(flat_jmp, 1);
}

_Noreturn void bt_raise_pf(struct bt_cpu *cpu, uint64_t la, uint32_t error)
{
	cpu->exc.cr2 = la;
	bt_raise_err(cpu, VEC_PF, error);
}

_Noreturn void bt_fail(struct bt_cpu *cpu, enum vcpu_exit_reason reason, const char *text)
{
	flat_failed = true;
	flat_reason = reason;
	longjmp(flat_jmp, 1);
}

void bt_wake(struct bt_cpu *cpu, unsigned bits)
{
	atomic_fetch_or(&cpu->pending, bits);
}

__attribute__((noinline)) void bt_fpu_park(struct bt_cpu *cpu)
{
	if (!cpu->fpu_parked)
		__asm__ volatile("xsave64 %0" : "+m"(cpu->st.xsave) : "a"(7), "d"(0) : "memory");
	cpu->fpu_parked = true;
}

__attribute__((noinline)) void bt_fpu_unpark(struct bt_cpu *cpu)
{
	if (cpu->fpu_parked)
		__asm__ volatile("xrstor64 %0" : : "m"(cpu->st.xsave), "a"(7), "d"(0) : "memory");
	cpu->fpu_parked = false;
}

uint64_t bt_pio_read(struct bt_cpu *cpu, uint16_t port, unsigned size)
{
	flat_port = port;
	return flat_port_value & sys_size_mask(size);
}

void bt_pio_write(struct bt_cpu *cpu, uint16_t port, unsigned size, uint64_t val)
{
	flat_port = port;
	flat_port_value = val;
}

uint64_t bt_guest_tsc(struct bt_cpu *cpu)
{
	return 1000 + cpu->tsc_offset;
}

/* ---- what mmu.c provides ---- */

static void flat_check(struct bt_cpu *cpu, uint64_t la, unsigned size, bool write,
		       enum bt_kind kind)
{
	for (unsigned i = 0; i < size; i++) {
		if (la + i >= FLAT_SIZE || flat_absent[(la + i) >> 12])
			bt_raise_pf(cpu, la + i,
				    (write ? PF_ERR_W : 0) |
					(kind == BT_CPL && cpu->cpl == 3 ? PF_ERR_U : 0));
	}
}

uint64_t bt_ld(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	uint64_t val = 0;

	flat_check(cpu, la, size, false, kind);
	memcpy(&val, flat_mem + la, size);
	return val;
}

void bt_st(struct bt_cpu *cpu, uint64_t la, unsigned size, uint64_t val, enum bt_kind kind)
{
	flat_check(cpu, la, size, true, kind);
	memcpy(flat_mem + la, &val, size);
}

void bt_probe_read(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	flat_check(cpu, la, size, false, kind);
}

void bt_probe_write(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	flat_check(cpu, la, size, true, kind);
}

void bt_ld_bytes(struct bt_cpu *cpu, uint64_t la, void *dst, unsigned len, enum bt_kind kind)
{
	flat_check(cpu, la, len, false, kind);
	bt_copy(dst, flat_mem + la, len);
}

void bt_st_bytes(struct bt_cpu *cpu, uint64_t la, const void *src, unsigned len, enum bt_kind kind)
{
	flat_check(cpu, la, len, true, kind);
	bt_copy(flat_mem + la, src, len);
}

void *bt_host_ptr(struct bt_cpu *cpu, uint64_t la, bool write, enum bt_kind kind)
{
	flat_check(cpu, la, 1, write, kind);
	return flat_mmio[la >> 12] ? NULL : flat_mem + la;
}

uint64_t bt_seg_linear(struct bt_cpu *cpu, unsigned seg, uint64_t off, unsigned size, bool write)
{
	const struct vcpu_seg *s = &cpu->st.segs[seg];

	if (bt_64bit(cpu)) {
		uint64_t la = off + (seg == SEG_FS || seg == SEG_GS ? s->base : 0);

		if (!sys_canonical(la))
			bt_raise_err(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
		return la;
	}
	if (off + size - 1 > s->limit)
		bt_raise_err(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
	return (uint32_t)(s->base + off);
}

uint64_t bt_effective(struct bt_cpu *cpu, const struct insn *in)
{
	uint64_t ea = in->disp;

	if (in->base == INSN_RIP_REL)
		ea += cpu->st.rip + in->len;
	else if (in->base != INSN_NO_REG)
		ea += cpu->st.regs[in->base];
	if (in->index != INSN_NO_REG)
		ea += cpu->st.regs[in->index] * in->scale;
	return ea & sys_size_mask(in->addrsize);
}

uint64_t bt_operand(struct bt_cpu *cpu, const struct insn *in, unsigned size, bool write)
{
	return bt_seg_linear(cpu, in->seg, bt_effective(cpu, in), size, write);
}

void bt_tlb_flush_all(struct bt_cpu *cpu)
{
	flat_flushes++;
}

void bt_tlb_flush_nonglobal(struct bt_cpu *cpu)
{
	flat_flushes++;
}

void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la)
{
	flat_flushes++;
}

void bt_set_cr3(struct bt_cpu *cpu, uint64_t cr3, bool keep)
{
	cpu->st.cr3 = cr3;
	flat_flushes++;
}

void bt_forget_space(struct bt_cpu *cpu, unsigned pcid)
{
}

uint64_t bt_phys_ld(struct bt_cpu *cpu, uint64_t gpa, unsigned size)
{
	uint64_t val = 0;

	memcpy(&val, flat_mem + gpa, size);
	return val;
}

void bt_phys_st(struct bt_cpu *cpu, uint64_t gpa, unsigned size, uint64_t val)
{
	memcpy(flat_mem + gpa, &val, size);
}

bool bt_fetch_page(struct bt_cpu *cpu, uint64_t la, bool quiet, struct bt_fetch *f)
{
	f->host = la < FLAT_SIZE ? flat_mem + (la & ~0xfffull) : NULL;
	return f->host != NULL;
}

/* ---- the machine ---- */

#define FLAT_GDT 0x1000u
#define FLAT_IDT 0x2000u
#define FLAT_TSS 0x3000u
#define FLAT_CODE 0x10000u
#define FLAT_STACK 0x20000u

enum {
	GDT_CODE = 0x08,
	GDT_DATA = 0x10,
	GDT_CODE32 = 0x18,
	GDT_UDATA = 0x20,
	GDT_UCODE = 0x28,
	GDT_TSS = 0x30,
	GDT_UCODE32 = 0x40,
	GDT_ABSENT = 0x48,
	GDT_RODATA = 0x50,
	GDT_CONF = 0x58,
	GDT_XONLY = 0x60,
	GDT_LDT = 0x68,
	GDT_LIMIT = 0x7f
};

static inline void flat_desc(unsigned sel, uint64_t raw)
{
	put_le64(flat_mem + FLAT_GDT + sel, raw);
}

static inline void flat_nop_kick(void *opaque)
{
}

static inline void flat_nop_arm(void *opaque, uint64_t deadline)
{
}

static inline uint64_t flat_zero(void *opaque)
{
	return 0;
}

static inline uint64_t flat_same(void *opaque, uint64_t tsc)
{
	return tsc;
}

static inline void flat_eoi(void *opaque, uint8_t vector)
{
}

/* A kernel in 64-bit mode with descriptors, TSS and all present pages. */
static inline struct bt_cpu *flat_long(void)
{
	static const struct lapic_ops ops = { flat_nop_kick, flat_nop_arm, flat_zero,
					      flat_zero,     flat_same,	   flat_eoi };
	struct bt_cpu *cpu = &flat_cpu;
	struct vcpu_state *st = &cpu->st;

	memset(flat_mem, 0, sizeof(flat_mem));
	memset(flat_absent, 0, sizeof(flat_absent));
	memset(flat_mmio, 0, sizeof(flat_mmio));
	memset(cpu, 0, sizeof(*cpu));
	if (!flat_lapics)
		lapic_set_new(2, &flat_lapics);
	flat_vm.count = 2;
	flat_vm.tsc_khz = 2000000;
	flat_vm.lapics = flat_lapics;
	cpu->vm = &flat_vm;
	cpu->lapic = lapic_set_init(flat_lapics, 0, &ops, cpu);
	bt_cpuid_init(NULL);
	bt_cpu_offer(&flat_vm.cpu);
	bt_cpu_reset(cpu, false);

	flat_desc(GDT_CODE, 0x00af9a000000ffff);
	flat_desc(GDT_DATA, 0x00cf92000000ffff);
	flat_desc(GDT_CODE32, 0x00cf9a000000ffff);
	flat_desc(GDT_UDATA, 0x00cff2000000ffff);
	flat_desc(GDT_UCODE, 0x00affa000000ffff);
	flat_desc(GDT_TSS, 0x0000890000000067 | (uint64_t)FLAT_TSS << 16);
	flat_desc(GDT_UCODE32, 0x00cffa000000ffff);
	flat_desc(GDT_ABSENT, 0x00cf72000000ffff);
	flat_desc(GDT_RODATA, 0x00cf90000000ffff);
	flat_desc(GDT_CONF, 0x00cf9e000000ffff);
	flat_desc(GDT_XONLY, 0x00cf98000000ffff);
	flat_desc(GDT_LDT, 0x0000820000000fff);
	st->gdt = (struct vcpu_dtable) { FLAT_GDT, GDT_LIMIT };
	st->idt = (struct vcpu_dtable) { FLAT_IDT, 0xfff };
	st->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	st->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_FSGSBASE;
	st->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	st->xcr0 = sys_xcr0_max();
	sys_set_flat(&st->segs[SEG_CS], GDT_CODE, 0xa09b);
	for (unsigned i = 0; i <= SEG_GS; i++) {
		if (i != SEG_CS)
			sys_set_flat(&st->segs[i], GDT_DATA, 0xc093);
	}
	st->segs[SEG_TR] = (struct vcpu_seg) { GDT_TSS, 0x8b, 0x67, FLAT_TSS };
	put_le64(flat_mem + FLAT_TSS + 4, FLAT_STACK + 0x2000);
	put_le64(flat_mem + FLAT_TSS + 36, FLAT_STACK + 0x4008);
	st->rip = FLAT_CODE;
	st->regs[REG_RSP] = FLAT_STACK + 0x1000;
	cpu->cpl = 0;
	bt_update_key(cpu);
	return cpu;
}

/* The same kernel in 32-bit protected mode. */
static inline struct bt_cpu *flat_protected(void)
{
	struct bt_cpu *cpu = flat_long();

	cpu->st.efer = 0;
	sys_set_flat(&cpu->st.segs[SEG_CS], GDT_CODE32, 0xc09b);
	put_le32(flat_mem + FLAT_TSS + 4, FLAT_STACK + 0x2000);
	put_le32(flat_mem + FLAT_TSS + 8, GDT_DATA);
	bt_update_key(cpu);
	return cpu;
}

static inline struct bt_cpu *flat_real(void)
{
	struct bt_cpu *cpu = flat_long();

	bt_cpu_reset(cpu, false);
	cpu->st.idt.limit = 0x3ff;
	for (unsigned i = 0; i <= SEG_GS; i++)
		sys_real_seg(&cpu->st.segs[i], i == SEG_CS   ? 0x1000
					       : i == SEG_SS ? 0x2000
							     : 0x3000);
	cpu->st.regs[REG_RSP] = 0x1000;
	cpu->st.rip = 0x100;
	bt_update_key(cpu);
	return cpu;
}

static inline void flat_to_user(struct bt_cpu *cpu)
{
	bool lm = bt_long_mode(cpu);

	sys_set_flat(&cpu->st.segs[SEG_CS], (lm ? GDT_UCODE : GDT_UCODE32) | 3,
		     lm ? 0xa0fb : 0xc0fb);
	sys_set_flat(&cpu->st.segs[SEG_SS], GDT_UDATA | 3, 0xc0f3);
	cpu->cpl = 3;
	bt_update_key(cpu);
}

/* ---- running ---- */

/* Execute one instruction. Returns -1, or the vector it raised (then st is as before). */
static inline int flat_run(struct bt_cpu *cpu, const char *bytes, unsigned len)
{
	struct insn in;

	cpu->exc.valid = flat_failed = false;
	if (insn_decode(cpu->key & KEY_MODE_MASK, (const uint8_t *)bytes, len, &in) ||
	    in.len != len) {
		fprintf(stderr, "test: the decoder does not know %u bytes\n", len);
		abort();
	}
	if (setjmp(flat_jmp))
		return flat_failed ? 1000 : cpu->exc.vector;
	bt_sys_insn(cpu, &in);
	return -1;
}

#define RUN(cpu, bytes) flat_run(cpu, bytes, sizeof(bytes) - 1)

/* Deliver what is in cpu->exc as the run loop does: again and again until it gets through. -1:
 * machine stopped. */
static inline int flat_deliver(struct bt_cpu *cpu)
{
	volatile int tries = 0;

	flat_failed = false;
	setjmp(flat_jmp);
	if (flat_failed)
		return -1;
	if (!cpu->exc.valid || tries++ > 8)
		return tries;
	bt_deliver_exception(cpu);
	return tries;
}

static inline void flat_exception(struct bt_cpu *cpu, unsigned vector, int64_t error)
{
	cpu->exc.valid = true;
	cpu->exc.vector = vector;
	cpu->exc.has_error = error >= 0;
	cpu->exc.error = error;
	cpu->delivering = -1;
}

/* Gate of long mode: @type_dpl is the byte with P, DPL and type */
static inline void flat_gate(unsigned vector, uint16_t sel, uint8_t type_dpl, unsigned ist,
			     uint64_t target)
{
	uint8_t *g = flat_mem + FLAT_IDT + vector * 16;

	put_le64(g, (target & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 |
			(uint64_t)type_dpl << 40 | (target & 0xffff0000) << 32);
	put_le64(g + 8, target >> 32);
}

static inline void flat_gate32(unsigned vector, uint16_t sel, uint8_t type_dpl, uint32_t target)
{
	put_le64(flat_mem + FLAT_IDT + vector * 8, (target & 0xffff) | (uint64_t)sel << 16 |
						       (uint64_t)type_dpl << 40 |
						       (uint64_t)(target & 0xffff0000) << 32);
}

static inline uint64_t flat_at(uint64_t la)
{
	return get_le64(flat_mem + la);
}

#endif
