/* SPDX-License-Identifier: Apache-2.0 */
/* The system part of bt over flat memory: delivery, returns, segments, strings, state images, MSRs,
 * CPUID. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bt_flat.h"

#define HANDLER 0x18000u

/* ---- delivery ---- */

static void test_deliver_inner(void **state)
{
	struct bt_cpu *cpu = flat_long();
	uint64_t sp = FLAT_STACK + 0x2000;

	flat_to_user(cpu);
	flat_gate(VEC_GP, GDT_CODE, 0x8e, 0, HANDLER);
	cpu->st.rflags = FL_FIXED | FL_IF | FL_CF | FL_NT | FL_TF;
	cpu->st.regs[REG_RSP] = 0x12345;
	flat_exception(cpu, VEC_GP, 0x28);
	assert_int_equal(flat_deliver(cpu), 1);
	assert_int_equal(cpu->st.rip, HANDLER);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->st.segs[SEG_CS].selector, GDT_CODE);
	assert_int_equal(cpu->st.segs[SEG_SS].selector, 0);
	assert_true(cpu->st.segs[SEG_SS].attr & SEG_ATTR_UNUSABLE);
	assert_int_equal(cpu->st.regs[REG_RSP], sp - 48);
	assert_int_equal(flat_at(sp - 48), 0x28);
	assert_int_equal(flat_at(sp - 40), FLAT_CODE);
	assert_int_equal(flat_at(sp - 32), GDT_UCODE | 3);
	assert_int_equal(flat_at(sp - 24), FL_FIXED | FL_IF | FL_CF | FL_NT | FL_TF | FL_RF);
	assert_int_equal(flat_at(sp - 16), 0x12345);
	assert_int_equal(flat_at(sp - 8), GDT_UDATA | 3);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_CF);
	assert_int_equal(cpu->delivering, -1);
	assert_true(flat_mem[FLAT_GDT + GDT_CODE + 5] & 1);
	assert_false(cpu->key & KEY_USER);
}

static void test_deliver_same_level(void **state)
{
	struct bt_cpu *cpu = flat_long();

	flat_gate(VEC_UD, GDT_CODE, 0x8f, 0, HANDLER);
	cpu->st.rflags |= FL_IF;
	cpu->st.regs[REG_RSP] = FLAT_STACK + 0x1007;
	flat_exception(cpu, VEC_UD, -1);
	assert_int_equal(flat_deliver(cpu), 1);
	/* aligned to 16 before five words; a trap gate keeps IF; SS stays */
	assert_int_equal(cpu->st.regs[REG_RSP], FLAT_STACK + 0x1000 - 40);
	assert_int_equal(cpu->st.segs[SEG_SS].selector, GDT_DATA);
	assert_true(cpu->st.rflags & FL_IF);

	/* IST 1 counts without a change of privilege */
	cpu = flat_long();
	flat_gate(VEC_UD, GDT_CODE, 0x8e, 1, HANDLER);
	flat_exception(cpu, VEC_UD, -1);
	assert_int_equal(flat_deliver(cpu), 1);
	assert_int_equal(cpu->st.regs[REG_RSP], FLAT_STACK + 0x4000 - 40);
}

/* What a broken gate raises while @vector is delivered: error code of the following fault. */
static void check_broken_gate(uint16_t sel, uint8_t type, unsigned want_vector, uint32_t want_error)
{
	struct bt_cpu *cpu = flat_long();

	flat_gate(VEC_UD, sel, type, 0, HANDLER);
	flat_gate(want_vector, GDT_CODE, 0x8e, 0, HANDLER + 0x100);
	flat_exception(cpu, VEC_UD, -1);
	assert_int_equal(flat_deliver(cpu), 2);
	assert_int_equal(cpu->st.rip, HANDLER + 0x100);
	assert_int_equal(flat_at(cpu->st.regs[REG_RSP]), want_error);
	assert_int_equal(flat_at(cpu->st.regs[REG_RSP] + 8), FLAT_CODE);
}

static void test_deliver_errors(void **state)
{
	check_broken_gate(GDT_CODE, 0x86, VEC_GP, VEC_UD * 8 + 3); /* 16-bit gate */
	check_broken_gate(GDT_CODE, 0x0e, VEC_NP, VEC_UD * 8 + 3); /* not present */
	check_broken_gate(0, 0x8e, VEC_GP, 1);
	check_broken_gate(GDT_DATA, 0x8e, VEC_GP, GDT_DATA + 1);
	check_broken_gate(GDT_CODE32, 0x8e, VEC_GP, GDT_CODE32 + 1); /* not 64-bit */
	check_broken_gate(0x80, 0x8e, VEC_GP, 0x81);		     /* beyond the table */
}

static void test_double_fault(void **state)
{
	struct bt_cpu *cpu = flat_long();

	/* #GP whose gate is absent: #NP while a contributory fault is delivered */
	flat_gate(VEC_DF, GDT_CODE, 0x8e, 1, HANDLER);
	flat_exception(cpu, VEC_GP, 8);
	assert_int_equal(flat_deliver(cpu), 2);
	assert_int_equal(cpu->st.rip, HANDLER);
	assert_int_equal(flat_at(cpu->st.regs[REG_RSP]), 0);

	/* #PF then #GP (bad gate) is a double fault, too; CR2 is set */
	cpu = flat_long();
	flat_gate(VEC_DF, GDT_CODE, 0x8e, 1, HANDLER);
	cpu->exc.cr2 = 0x1234;
	flat_exception(cpu, VEC_PF, 2);
	assert_int_equal(flat_deliver(cpu), 2);
	assert_int_equal(cpu->st.rip, HANDLER);
	assert_int_equal(cpu->st.cr2, 0x1234);

	/* #GP then #PF are served one after the other: the stack is not there */
	cpu = flat_long();
	flat_gate(VEC_GP, GDT_CODE, 0x8e, 0, HANDLER);
	flat_gate(VEC_PF, GDT_CODE, 0x8e, 1, HANDLER + 0x10);
	flat_absent[FLAT_STACK >> 12] = true;
	flat_exception(cpu, VEC_GP, 8);
	assert_int_equal(flat_deliver(cpu), 2);
	assert_int_equal(cpu->st.rip, HANDLER + 0x10);
	assert_int_equal(cpu->st.cr2, FLAT_STACK + 0x1000 - 8);

	/* nothing there at all: shutdown */
	cpu = flat_long();
	cpu->st.idt.limit = 0;
	flat_exception(cpu, VEC_GP, 8);
	assert_int_equal(flat_deliver(cpu), -1);
	assert_int_equal(flat_reason, VCPU_EXIT_TRIPLE_FAULT);
}

static void test_deliver_protected(void **state)
{
	struct bt_cpu *cpu = flat_protected();
	uint32_t sp = FLAT_STACK + 0x2000;

	flat_to_user(cpu);
	cpu->st.regs[REG_RSP] = 0x4444;
	flat_gate32(0x80, GDT_CODE32, 0xef, HANDLER);
	assert_int_equal(RUN(cpu, "\xcd\x80"), -1);
	assert_int_equal(cpu->st.rip, HANDLER);
	assert_int_equal(cpu->st.segs[SEG_SS].selector, GDT_DATA);
	assert_int_equal(cpu->st.regs[REG_RSP], sp - 20);
	assert_int_equal(get_le32(flat_mem + sp - 20), FLAT_CODE + 2);
	assert_int_equal(get_le32(flat_mem + sp - 16), GDT_UCODE32 | 3);
	assert_int_equal(get_le32(flat_mem + sp - 8), 0x4444);
	assert_int_equal(get_le32(flat_mem + sp - 4), GDT_UDATA | 3);

	/* and back */
	assert_int_equal(RUN(cpu, "\xcf"), -1);
	assert_int_equal(cpu->st.rip, FLAT_CODE + 2);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->st.regs[REG_RSP], 0x4444);
	/* DS was the kernel's */
	assert_int_equal(cpu->st.segs[SEG_DS].selector, 0);

	/* DPL of the gate counts for software interrupts; no EXT bit */
	flat_gate32(0x80, GDT_CODE32, 0x8f, HANDLER);
	assert_int_equal(RUN(cpu, "\xcd\x80"), VEC_GP);
	assert_int_equal(cpu->exc.error, 0x80 * 8 + 2);

	/* inner stack of wrong privilege */
	flat_gate32(0x80, GDT_CODE32, 0xef, HANDLER);
	put_le32(flat_mem + FLAT_TSS + 8, GDT_UDATA);
	assert_int_equal(RUN(cpu, "\xcd\x80"), VEC_TS);
	assert_int_equal(cpu->exc.error, GDT_UDATA);
}

static void test_real_interrupt(void **state)
{
	struct bt_cpu *cpu = flat_real();

	put_le16(flat_mem + 0x21 * 4, 0x1234);
	put_le16(flat_mem + 0x21 * 4 + 2, 0x4000);
	cpu->st.rflags |= FL_IF | FL_TF | FL_ZF;
	assert_int_equal(RUN(cpu, "\xcd\x21"), -1);
	assert_int_equal(cpu->st.rip, 0x1234);
	assert_int_equal(cpu->st.segs[SEG_CS].base, 0x40000);
	assert_int_equal(cpu->st.rflags & (FL_IF | FL_TF), 0);
	assert_int_equal(cpu->st.regs[REG_RSP], 0xffa);
	assert_int_equal(get_le16(flat_mem + 0x20000 + 0xffa), 0x102);
	assert_int_equal(get_le16(flat_mem + 0x20000 + 0xffc), 0x1000);
	assert_int_equal(RUN(cpu, "\xcf"), -1);
	assert_int_equal(cpu->st.rip, 0x102);
	assert_int_equal(cpu->st.segs[SEG_CS].base, 0x10000);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_IF | FL_TF | FL_ZF);
}

static void test_vm86(void **state)
{
	struct bt_cpu *cpu = flat_protected();
	uint32_t sp = FLAT_STACK + 0x2000;
	const uint32_t frame[] = { 0x50, 0x4000, FL_VM | FL_IF | 2, 0xfffe, 0x5000, 0x1, 0x2,
				   0x3,	 0x4 };

	/* in by IRET */
	memcpy(flat_mem + cpu->st.regs[REG_RSP], frame, sizeof(frame));
	assert_int_equal(RUN(cpu, "\xcf"), -1);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->st.rip, 0x50);
	assert_int_equal(cpu->st.segs[SEG_CS].base, 0x40000);
	assert_int_equal(cpu->st.segs[SEG_SS].base, 0x50000);
	assert_int_equal(cpu->st.segs[SEG_GS].base, 0x40);
	assert_int_equal(cpu->key & KEY_MODE_MASK, MODE_16);

	/* sensitive instructions at IOPL 0 */
	assert_int_equal(RUN(cpu, "\x9c"), VEC_GP);
	assert_int_equal(RUN(cpu, "\x9d"), VEC_GP);
	assert_int_equal(RUN(cpu, "\xcd\x21"), VEC_GP);
	assert_int_equal(cpu->exc.error, 0);
	assert_int_equal(RUN(cpu, "\xcf"), VEC_GP);
	assert_int_equal(RUN(cpu, "\xfa"), VEC_GP);
	assert_int_equal(RUN(cpu, "\x0f\x00\xc8"), VEC_UD); /* str */
	cpu->st.regs[REG_RAX] = 0x1234;
	assert_int_equal(RUN(cpu, "\x8e\xd8"), -1); /* mov ds, ax */
	assert_int_equal(cpu->st.segs[SEG_DS].base, 0x12340);

	/* out by an exception */
	cpu->st.rip = 0x77;
	flat_gate32(VEC_GP, GDT_CODE32, 0x8e, HANDLER);
	flat_exception(cpu, VEC_GP, 0);
	assert_int_equal(flat_deliver(cpu), 1);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->st.regs[REG_RSP], sp - 40);
	assert_int_equal(get_le32(flat_mem + sp - 36), 0x77);
	assert_true(get_le32(flat_mem + sp - 28) & FL_VM);
	assert_int_equal(get_le32(flat_mem + sp - 20), 0x5000);
	assert_int_equal(get_le32(flat_mem + sp - 12), 0x1234); /* ds */
	assert_int_equal(get_le32(flat_mem + sp - 4), 4);	/* gs */
	assert_false(cpu->st.rflags & FL_VM);
	assert_true(cpu->st.segs[SEG_DS].attr & SEG_ATTR_UNUSABLE);
}

/* ---- returns and system calls ---- */

static void set_frame(struct bt_cpu *cpu, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp,
		      uint64_t ss)
{
	const uint64_t frame[] = { rip, cs, flags, rsp, ss };

	memcpy(flat_mem + cpu->st.regs[REG_RSP], frame, sizeof(frame));
}

static void test_iretq(void **state)
{
	struct bt_cpu *cpu = flat_long();

	set_frame(cpu, 0x5000, GDT_UCODE | 3, FL_IF | FL_NT | FL_VM | FL_IOPL, 0x6000,
		  GDT_UDATA | 3);
	assert_int_equal(RUN(cpu, "\x48\xcf"), -1);
	assert_int_equal(cpu->st.rip, 0x5000);
	assert_int_equal(cpu->st.regs[REG_RSP], 0x6000);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_IF | FL_NT | FL_IOPL);
	assert_true(cpu->key & KEY_USER);

	/* a null SS is for inner 64-bit code only */
	cpu = flat_long();
	set_frame(cpu, 0x5000, GDT_CODE, 0, 0x6000, 0);
	assert_int_equal(RUN(cpu, "\x48\xcf"), -1);
	assert_true(cpu->st.segs[SEG_SS].attr & SEG_ATTR_UNUSABLE);
	cpu = flat_long();
	set_frame(cpu, 0x5000, GDT_UCODE | 3, 0, 0x6000, 3);
	assert_int_equal(RUN(cpu, "\x48\xcf"), VEC_GP);
	assert_int_equal(cpu->exc.error, 0);
	assert_int_equal(cpu->st.rip, FLAT_CODE);
	set_frame(cpu, 0x5000, GDT_UCODE | 3, 0, 0x6000, GDT_DATA | 3);
	assert_int_equal(RUN(cpu, "\x48\xcf"), VEC_GP);
	assert_int_equal(cpu->exc.error, GDT_DATA);
	set_frame(cpu, 0x800000000000, GDT_UCODE | 3, 0, 0x6000, GDT_UDATA | 3);
	assert_int_equal(RUN(cpu, "\x48\xcf"), VEC_GP);
	assert_int_equal(cpu->exc.error, 0);
	cpu->st.rflags |= FL_NT;
	set_frame(cpu, 0x5000, GDT_UCODE | 3, 0, 0x6000, GDT_UDATA | 3);
	assert_int_equal(RUN(cpu, "\x48\xcf"), VEC_GP);
}

static void test_syscall(void **state)
{
	struct bt_cpu *cpu = flat_long();

	flat_to_user(cpu);
	cpu->st.msr_star = 0x0018ull << 48 | (uint64_t)GDT_CODE << 32;
	cpu->st.msr_lstar = 0x7000;
	cpu->st.msr_sfmask = FL_IF | FL_DF;
	cpu->st.rflags = FL_FIXED | FL_IF | FL_DF | FL_CF;
	assert_int_equal(RUN(cpu, "\x0f\x05"), -1);
	assert_int_equal(cpu->st.rip, 0x7000);
	assert_int_equal(cpu->st.regs[REG_RCX], FLAT_CODE + 2);
	assert_int_equal(cpu->st.regs[REG_R11], FL_FIXED | FL_IF | FL_DF | FL_CF);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_CF);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->st.segs[SEG_SS].selector, GDT_DATA);
	assert_int_equal(RUN(cpu, "\x48\x0f\x07"), -1);
	assert_int_equal(cpu->st.rip, FLAT_CODE + 2);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_IF | FL_DF | FL_CF);
	assert_int_equal(cpu->cpl, 3);
	assert_int_equal(cpu->st.segs[SEG_CS].selector, 0x28 | 3);
	assert_int_equal(cpu->st.segs[SEG_SS].selector, 0x20 | 3);
	assert_int_equal(RUN(cpu, "\x48\x0f\x07"), VEC_GP); /* not at CPL 3 */
	cpu->st.efer &= ~EFER_SCE;
	assert_int_equal(RUN(cpu, "\x0f\x05"), VEC_UD);
}

static void test_popf(void **state)
{
	struct bt_cpu *cpu = flat_long();

	flat_to_user(cpu);
	put_le64(flat_mem + cpu->st.regs[REG_RSP], 0xffffffffffffffff);
	assert_int_equal(RUN(cpu, "\x9d"), -1);
	assert_int_equal(cpu->st.rflags,
			 FL_FIXED | FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID);
	assert_true(cpu->key & KEY_ONE);
	cpu = flat_long();
	put_le64(flat_mem + cpu->st.regs[REG_RSP], FL_IOPL | FL_IF);
	assert_int_equal(RUN(cpu, "\x9d"), -1);
	assert_int_equal(cpu->st.rflags, FL_FIXED | FL_IOPL | FL_IF);
}

/* ---- segments ---- */

static void test_load_segment(void **state)
{
	static const struct {
		bool user;
		uint16_t sel;
		int ds, ds_error, ss, ss_error;
	} cases[] = {
		{ false, 0, -1, 0, VEC_GP, 0 },
		{ false, 3, -1, 0, VEC_GP, 0 },
		{ false, GDT_DATA, -1, 0, -1, 0 },
		{ false, GDT_DATA | 3, VEC_GP, GDT_DATA, VEC_GP, GDT_DATA },
		{ false, GDT_UDATA, -1, 0, VEC_GP, GDT_UDATA },
		{ false, GDT_RODATA, -1, 0, VEC_GP, GDT_RODATA },
		{ false, GDT_ABSENT, VEC_NP, GDT_ABSENT, VEC_GP, GDT_ABSENT },
		{ false, GDT_CODE32, -1, 0, VEC_GP, GDT_CODE32 },
		{ false, GDT_XONLY, VEC_GP, GDT_XONLY, VEC_GP, GDT_XONLY },
		{ false, GDT_TSS, VEC_GP, GDT_TSS, VEC_GP, GDT_TSS },
		{ false, 0x80, VEC_GP, 0x80, VEC_GP, 0x80 },
		{ false, GDT_DATA | 4, VEC_GP, GDT_DATA | 4, VEC_GP, GDT_DATA | 4 }, /* no LDT */
		{ true, GDT_UDATA | 3, -1, 0, -1, 0 },
		{ true, GDT_UDATA, -1, 0, VEC_GP, GDT_UDATA },
		{ true, GDT_DATA, VEC_GP, GDT_DATA, VEC_GP, GDT_DATA },
		{ true, GDT_CONF, -1, 0, VEC_GP, GDT_CONF },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		for (unsigned k = 0; k < 2; k++) {
			struct bt_cpu *cpu = flat_protected();
			int want = k ? cases[i].ss : cases[i].ds, got;

			if (cases[i].user)
				flat_to_user(cpu);
			cpu->st.segs[SEG_LDT].attr |= SEG_ATTR_UNUSABLE;
			cpu->st.regs[REG_RAX] = cases[i].sel;
			got = k ? RUN(cpu, "\x8e\xd0") : RUN(cpu, "\x8e\xd8");
			if (got != want)
				fail_msg("case %u %s: got %d, want %d", i, k ? "ss" : "ds", got,
					 want);
			if (want >= 0) {
				assert_int_equal(cpu->exc.error,
						 k ? cases[i].ss_error : cases[i].ds_error);
				continue;
			}
			assert_int_equal(cpu->st.segs[k ? SEG_SS : SEG_DS].selector, cases[i].sel);
			if (cases[i].sel & 0xfffc)
				assert_true(flat_mem[FLAT_GDT + (cases[i].sel & ~7u) + 5] & 1);
			assert_int_equal(cpu->int_shadow, k);
		}
	}
	/* an absent stack segment of the right kind */
	struct bt_cpu *cpu = flat_protected();

	flat_desc(GDT_ABSENT, 0x00cf12000000ffff);
	cpu->st.regs[REG_RAX] = GDT_ABSENT;
	assert_int_equal(RUN(cpu, "\x8e\xd0"), VEC_SS);
	assert_int_equal(cpu->exc.error, GDT_ABSENT);
}

static void test_key(void **state)
{
	struct bt_cpu *cpu = flat_protected();

	assert_int_equal(cpu->key &
			     (KEY_MODE_MASK | KEY_SEGS | KEY_CS | KEY_SS32 | KEY_USER | KEY_FPU),
			 MODE_32 | KEY_SS32);
	cpu->st.segs[SEG_DS].base = 16;
	bt_update_key(cpu);
	assert_true(cpu->key & KEY_SEGS);
	sys_null_seg(&cpu->st.segs[SEG_DS], 0, 0);
	bt_update_key(cpu);
	assert_true(cpu->key & KEY_SEGS);
	cpu->st.cr0 |= CR0_TS;
	bt_update_key(cpu);
	assert_true(cpu->key & KEY_FPU);
	cpu = flat_long();
	assert_int_equal(cpu->key & KEY_MODE_MASK, MODE_64);
	assert_true(cpu->key & KEY_AC);
	cpu->st.cr4 |= CR4_SMAP;
	bt_update_key(cpu);
	assert_false(cpu->key & KEY_AC);
	assert_int_equal(RUN(cpu, "\x0f\x01\xcb"), -1); /* stac */
	assert_true(cpu->key & KEY_AC);
	cpu->st.dr7 = 0x401;
	bt_update_key(cpu);
	assert_true(cpu->key & KEY_ONE);
}

/* ---- control registers, MSRs, CPUID ---- */

static int write_cr(struct bt_cpu *cpu, unsigned cr, uint64_t val)
{
	cpu->st.regs[REG_RAX] = val;
	switch (cr) {
	case 0:
		return RUN(cpu, "\x0f\x22\xc0");
	case 3:
		return RUN(cpu, "\x0f\x22\xd8");
	default:
		return RUN(cpu, "\x0f\x22\xe0");
	}
}

static void test_control_registers(void **state)
{
	struct bt_cpu *cpu = flat_long();
	uint64_t cr0 = cpu->st.cr0, cr4 = cpu->st.cr4;

	assert_int_equal(write_cr(cpu, 0, cr0 & ~CR0_PG), VEC_GP); /* 64-bit code */
	assert_int_equal(write_cr(cpu, 0, cr0 & ~CR0_PE), VEC_GP);
	assert_int_equal(write_cr(cpu, 0, cr0 | CR0_NW), VEC_GP);
	assert_int_equal(write_cr(cpu, 0, cr0 | 1ull << 32), VEC_GP);
	assert_int_equal(write_cr(cpu, 4, cr4 & ~CR4_PAE), VEC_GP);
	assert_int_equal(write_cr(cpu, 4, cr4 | 1ull << 12), VEC_GP); /* 5-level paging */
	cpu->st.cr3 = 0x1001;
	assert_int_equal(write_cr(cpu, 4, cr4 | CR4_PCIDE), VEC_GP); /* PCID in use */
	cpu->st.cr3 = 0x1000;
	assert_int_equal(write_cr(cpu, 4, cr4 | CR4_PCIDE), -1);
	assert_int_equal(write_cr(cpu, 3, 1ull << 63 | 0x5003), -1);
	assert_int_equal(cpu->st.cr3, 0x5003);
	assert_int_equal(write_cr(cpu, 3, 1ull << 40), VEC_GP);
	assert_int_equal(write_cr(cpu, 0, cr0 & ~CR0_WP), -1);
	flat_to_user(cpu);
	assert_int_equal(write_cr(cpu, 0, cr0), VEC_GP);

	/* into long mode */
	cpu = flat_protected();
	cpu->st.cr0 = CR0_PE | CR0_ET;
	cpu->st.cr4 = 0;
	cpu->st.efer = EFER_LME;
	assert_int_equal(write_cr(cpu, 0, CR0_PE | CR0_PG), VEC_GP); /* without PAE */
	cpu->st.cr4 = CR4_PAE;
	flat_flushes = 0;
	assert_int_equal(write_cr(cpu, 0, CR0_PE | CR0_PG), -1);
	assert_true(cpu->st.efer & EFER_LMA);
	assert_true(flat_flushes > 0);
	assert_int_equal(write_cr(cpu, 0, CR0_PE), -1);
	assert_false(cpu->st.efer & EFER_LMA);
}

static int wrmsr(struct bt_cpu *cpu, uint32_t msr, uint64_t val)
{
	cpu->st.regs[REG_RCX] = msr;
	cpu->st.regs[REG_RAX] = (uint32_t)val;
	cpu->st.regs[REG_RDX] = val >> 32;
	return RUN(cpu, "\x0f\x30");
}

static uint64_t rdmsr(struct bt_cpu *cpu, uint32_t msr)
{
	cpu->st.regs[REG_RCX] = msr;
	assert_int_equal(RUN(cpu, "\x0f\x32"), -1);
	return cpu->st.regs[REG_RAX] | cpu->st.regs[REG_RDX] << 32;
}

static void test_msrs(void **state)
{
	struct bt_cpu *cpu = flat_long();

	assert_int_equal(wrmsr(cpu, 0xc0000101, 0xffff800000001000), -1);
	assert_int_equal(cpu->st.segs[SEG_GS].base, 0xffff800000001000);
	assert_int_equal(rdmsr(cpu, 0xc0000101), 0xffff800000001000);
	assert_int_equal(wrmsr(cpu, 0xc0000101, 0x800000000000), VEC_GP);
	assert_int_equal(wrmsr(cpu, 0xc0000080, EFER_NXE | EFER_SCE),
			 VEC_GP); /* LME under paging */
	assert_int_equal(wrmsr(cpu, 0xc0000080, cpu->st.efer | 1ull << 20), VEC_GP);
	assert_int_equal(wrmsr(cpu, 0x277, 0x0007040600070402), VEC_GP);
	assert_int_equal(wrmsr(cpu, 0x277, 0x0007010600070106), -1);
	assert_int_equal(wrmsr(cpu, 0x12345678, 0), VEC_GP);
	cpu->st.regs[REG_RCX] = 0x12345678;
	assert_int_equal(RUN(cpu, "\x0f\x32"), VEC_GP);
	flat_to_user(cpu);
	assert_int_equal(wrmsr(cpu, 0xc0000101, 0), VEC_GP);
}

static void test_kvm_clock(void **state)
{
	struct bt_cpu *cpu = flat_long();
	uint8_t *t = flat_mem + 0x8000;
	uint64_t ns;

	assert_int_equal(wrmsr(cpu, 0x4b564d01, 0x8001), -1);
	assert_int_equal(get_le32(t) & 1, 0);
	assert_true(get_le32(t) > 0);
	assert_int_equal(t[29], 1);
	/* two million ticks of 2 GHz are a millisecond */
	ns = 2000000;
	ns = (int8_t)t[28] < 0 ? ns >> -(int8_t)t[28] : ns << t[28];
	ns = (uint64_t)((unsigned __int128)ns * get_le32(t + 24) >> 32);
	assert_true(ns >= 999999 && ns <= 1000000);
}

static void cpuid(struct bt_cpu *cpu, uint32_t leaf, uint32_t sub)
{
	cpu->st.regs[REG_RAX] = leaf;
	cpu->st.regs[REG_RCX] = sub;
	assert_int_equal(RUN(cpu, "\x0f\xa2"), -1);
}

static void test_cpuid(void **state)
{
	struct bt_cpu *cpu = flat_long();

	cpuid(cpu, 1, 0);
	assert_true(cpu->st.regs[REG_RCX] & 1u << 31);
	assert_true(cpu->st.regs[REG_RCX] & 1u << 27);		   /* OSXSAVE follows CR4 */
	assert_false(cpu->st.regs[REG_RCX] & (1u << 3 | 1u << 5)); /* MONITOR, VMX */
	cpu->st.cr4 &= ~CR4_OSXSAVE;
	cpuid(cpu, 1, 0);
	assert_false(cpu->st.regs[REG_RCX] & 1u << 27);
	cpuid(cpu, 7, 0);
	assert_false(cpu->st.regs[REG_RBX] & (1u << 16 | 1u << 11 | 1u << 4)); /* AVX-512, TSX */
	assert_false(cpu->st.regs[REG_RCX] & (1u << 16 | 1u << 3 | 1u << 7));  /* LA57, PKU, CET */
	cpuid(cpu, 0xd, 0);
	assert_int_equal(cpu->st.regs[REG_RAX], sys_xcr0_max());
	assert_int_equal(cpu->st.regs[REG_RBX], sys_xcr0_max() & 4 ? 832 : 576);
	cpu->st.xcr0 = 1;
	cpuid(cpu, 0xd, 0);
	assert_int_equal(cpu->st.regs[REG_RBX], 576);
	cpuid(cpu, 0x40000000, 0);
	assert_int_equal(cpu->st.regs[REG_RBX], 0x4b4d564b);
	cpuid(cpu, 0x80000008, 0);
	assert_int_equal(cpu->st.regs[REG_RAX] & 0xff, 39);
	cpuid(cpu, 0xb, 1);
	assert_int_equal(cpu->st.regs[REG_RBX], 2);
}

/* ---- strings ---- */

static void test_movs(void **state)
{
	struct bt_cpu *cpu = flat_long();

	/* overlap by one: the first byte is propagated */
	flat_mem[0x30000] = 0x5a;
	cpu->st.regs[REG_RSI] = 0x30000;
	cpu->st.regs[REG_RDI] = 0x30001;
	cpu->st.regs[REG_RCX] = 0x2000;
	assert_int_equal(RUN(cpu, "\xf3\xa4"), -1);
	for (unsigned i = 0; i <= 0x2000; i++)
		assert_int_equal(flat_mem[0x30000 + i], 0x5a);
	assert_int_equal(cpu->st.regs[REG_RCX], 0);
	assert_int_equal(cpu->st.regs[REG_RDI], 0x32001);
	assert_int_equal(cpu->st.rip, FLAT_CODE + 2);

	/* downwards, in words, across a page */
	cpu = flat_long();
	for (unsigned i = 0; i < 0x1000; i++)
		put_le32(flat_mem + 0x30800 + i * 4, i);
	cpu->st.rflags |= FL_DF;
	cpu->st.regs[REG_RSI] = 0x30800 + 0xfff * 4;
	cpu->st.regs[REG_RDI] = 0x50802 + 0xfff * 4;
	cpu->st.regs[REG_RCX] = 0x1000;
	assert_int_equal(RUN(cpu, "\xf3\xa5"), -1);
	assert_memory_equal(flat_mem + 0x50802, flat_mem + 0x30800, 0x4000);
	assert_int_equal(flat_mem[0x50801], 0);
	assert_int_equal(cpu->st.regs[REG_RSI], 0x30800 - 4);

	/* a fault in the middle leaves the state of its iteration */
	cpu = flat_long();
	flat_absent[0x42] = true;
	cpu->st.regs[REG_RSI] = 0x30000;
	cpu->st.regs[REG_RDI] = 0x41004;
	cpu->st.regs[REG_RCX] = 0x400;
	assert_int_equal(RUN(cpu, "\xf3\x48\xa5"), VEC_PF);
	assert_int_equal(cpu->exc.cr2, 0x42000); /* the eight bytes at 41ffc */
	assert_int_equal(cpu->st.regs[REG_RDI], 0x41ffc);
	assert_int_equal(cpu->st.regs[REG_RSI], 0x30ff8);
	assert_int_equal(cpu->st.regs[REG_RCX], 0x400 - 0x1ff);
	assert_int_equal(cpu->st.rip, FLAT_CODE);

	/* long ones come back in between */
	cpu = flat_long();
	cpu->st.regs[REG_RSI] = 0x30000;
	cpu->st.regs[REG_RDI] = 0x50000;
	cpu->st.regs[REG_RCX] = 0x18000;
	assert_int_equal(RUN(cpu, "\xf3\xa4"), -1);
	assert_int_equal(cpu->st.rip, FLAT_CODE);
	assert_int_equal(cpu->st.regs[REG_RCX], 0x8000);
}

static void test_stos_wrap(void **state)
{
	struct bt_cpu *cpu = flat_real();

	/* di wraps within the segment at 30000 */
	cpu->st.regs[REG_RAX] = 0x1177;
	cpu->st.regs[REG_RDI] = 0xabcd0000fffe;
	cpu->st.regs[REG_RCX] = 0xffff0004;
	assert_int_equal(RUN(cpu, "\xf3\xaa"), -1);
	assert_int_equal(flat_mem[0x3ffff], 0x77);
	assert_int_equal(flat_mem[0x30001], 0x77);
	assert_int_equal(flat_mem[0x30002], 0);
	assert_int_equal(flat_mem[0x40000], 0);
	assert_int_equal(cpu->st.regs[REG_RDI], 0xabcd00000002);
	assert_int_equal(cpu->st.regs[REG_RCX], 0xffff0000);
}

static void test_scas_cmps(void **state)
{
	struct bt_cpu *cpu = flat_long();

	flat_mem[0x30ffe + 0x123] = 7;
	cpu->st.regs[REG_RAX] = 7;
	cpu->st.regs[REG_RDI] = 0x30ffe;
	cpu->st.regs[REG_RCX] = 0x1000;
	assert_int_equal(RUN(cpu, "\xf2\xae"), -1); /* repne scasb */
	assert_int_equal(cpu->st.regs[REG_RDI], 0x30ffe + 0x124);
	assert_int_equal(cpu->st.regs[REG_RCX], 0x1000 - 0x124);
	assert_true(cpu->st.rflags & FL_ZF);
	assert_int_equal(cpu->st.rip, FLAT_CODE + 2);

	/* repe cmpsd ends at the difference; flags of the last comparison */
	cpu = flat_long();
	put_le32(flat_mem + 0x30008, 5);
	put_le32(flat_mem + 0x38008, 6);
	cpu->st.regs[REG_RSI] = 0x30000;
	cpu->st.regs[REG_RDI] = 0x38000;
	cpu->st.regs[REG_RCX] = 10;
	assert_int_equal(RUN(cpu, "\xf3\xa7"), -1);
	assert_int_equal(cpu->st.regs[REG_RCX], 7);
	assert_int_equal(cpu->st.rflags & FL_ARITH, FL_CF | FL_SF | FL_AF | FL_PF);

	/* a count of zero changes nothing */
	cpu->st.rip = FLAT_CODE;
	cpu->st.regs[REG_RCX] = 0;
	cpu->st.regs[REG_RSI] = 1ull << 60;
	assert_int_equal(RUN(cpu, "\xf3\xa7"), -1);
	assert_int_equal(cpu->st.rflags & FL_ARITH, FL_CF | FL_SF | FL_AF | FL_PF);
}

/* ---- ports ---- */

static void test_io_bitmap(void **state)
{
	struct bt_cpu *cpu = flat_long();

	flat_to_user(cpu);
	flat_port_value = 0x1234;
	cpu->st.regs[REG_RDX] = 0x3f8;
	assert_int_equal(RUN(cpu, "\xec"), VEC_GP); /* no room for a bitmap */
	cpu->st.segs[SEG_TR].limit = 0x68 + 0x80;
	put_le16(flat_mem + FLAT_TSS + 102, 0x68);
	assert_int_equal(RUN(cpu, "\xec"), -1);
	assert_int_equal(cpu->st.regs[REG_RAX], 0x34);
	assert_int_equal(flat_port, 0x3f8);
	flat_mem[FLAT_TSS + 0x68 + 0x3f8 / 8] = 2;
	assert_int_equal(RUN(cpu, "\xec"), -1);
	assert_int_equal(RUN(cpu, "\x66\xed"), VEC_GP);
	assert_int_equal(cpu->exc.error, 0);
	cpu->st.rflags |= FL_IOPL;
	assert_int_equal(RUN(cpu, "\x66\xed"), -1);
	assert_int_equal(cpu->st.regs[REG_RAX], 0x1234);
}

/* ---- arithmetic ---- */

static void test_idiv(void **state)
{
	static const struct {
		int64_t hi, lo, div;
		int vec;
		int64_t quot, rem;
	} cases[] = {
		{ -1, -7, 2, -1, -3, -1 },
		{ 0, 7, -2, -1, -3, 1 },
		{ -1, INT64_MIN, 1, -1, INT64_MIN, 0 },
		{ -1, INT64_MIN, -1, VEC_DE, 0, 0 },
		{ 0, 5, 0, VEC_DE, 0, 0 },
		{ 1, 0, 1, VEC_DE, 0, 0 },
		{ 1, 0, 4, -1, 1ll << 62, 0 },
		{ INT64_MIN, 0, -1, VEC_DE, 0, 0 },
		{ -2, 0, 4, -1, INT64_MIN, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bt_cpu *cpu = flat_long();

		cpu->st.regs[REG_RDX] = cases[i].hi;
		cpu->st.regs[REG_RAX] = cases[i].lo;
		cpu->st.regs[REG_RBX] = cases[i].div;
		assert_int_equal(RUN(cpu, "\x48\xf7\xfb"), cases[i].vec);
		if (cases[i].vec >= 0)
			continue;
		assert_int_equal(cpu->st.regs[REG_RAX], cases[i].quot);
		assert_int_equal(cpu->st.regs[REG_RDX], cases[i].rem);
	}
	struct bt_cpu *cpu = flat_long();

	cpu->st.regs[REG_RAX] = 0xff80; /* -128 / 1 in bytes */
	cpu->st.regs[REG_RBX] = 1;
	assert_int_equal(RUN(cpu, "\xf6\xfb"), -1);
	assert_int_equal(cpu->st.regs[REG_RAX], 0x0080);
	cpu->st.regs[REG_RAX] = 0xff7f;
	assert_int_equal(RUN(cpu, "\xf6\xfb"), VEC_DE);
}

static void test_cmpxchg16b(void **state)
{
	struct bt_cpu *cpu = flat_long();

	for (unsigned k = 0; k < 2; k++) {
		flat_mmio[0x30] = k; /* the second time without plain memory */
		put_le64(flat_mem + 0x30010, 1);
		put_le64(flat_mem + 0x30018, 2);
		cpu->st.regs[REG_RSI] = 0x30010;
		cpu->st.regs[REG_RAX] = 1;
		cpu->st.regs[REG_RDX] = 3;
		cpu->st.regs[REG_RBX] = 8;
		cpu->st.regs[REG_RCX] = 9;
		assert_int_equal(RUN(cpu, "\xf0\x48\x0f\xc7\x0e"), -1);
		assert_false(cpu->st.rflags & FL_ZF);
		assert_int_equal(cpu->st.regs[REG_RDX], 2);
		assert_int_equal(RUN(cpu, "\xf0\x48\x0f\xc7\x0e"), -1);
		assert_true(cpu->st.rflags & FL_ZF);
		assert_int_equal(flat_at(0x30010), 8);
		assert_int_equal(flat_at(0x30018), 9);
	}
	cpu->st.regs[REG_RSI]++;
	assert_int_equal(RUN(cpu, "\xf0\x48\x0f\xc7\x0e"), VEC_GP);
}

/* ---- state images ---- */

#define IMAGE 0x30000u

static void fill_fpu(struct bt_cpu *cpu)
{
	uint8_t *img = sys_fpu_image(cpu);

	put_le16(img, 0x27f);
	put_le32(img + 24, 0x1fa0);
	for (unsigned i = 0; i < 256; i++) {
		img[160 + i] = i;
		img[576 + i] = ~i;
	}
}

static void test_xsave(void **state)
{
	/* xsavec [rsi], xsave [rsi] */
	static const char *saves[] = { "\x0f\xc7\x26", "\x0f\xae\x26" };

	for (unsigned k = 0; k < 4; k++) {
		struct bt_cpu *cpu = flat_long();
		uint64_t at = k & 2 ? IMAGE + 0xe00 : IMAGE; /* in a page, across two */

		if (!sys_guest_has(FEAT_XSAVEC) || sys_xcr0_max() != 7)
			skip();
		memset(flat_mem + at, 0xee, 1024);
		memset(flat_mem + at + 512, 0,
		       8); /* XSAVE keeps bits of components it does not save */
		put_le64(flat_mem + at + 528, 0);
		fill_fpu(cpu);
		cpu->st.regs[REG_RSI] = at;
		cpu->st.regs[REG_RAX] = ~0u;
		cpu->st.regs[REG_RDX] = ~0u;
		assert_int_equal(flat_run(cpu, saves[k & 1], 3), -1);
		bt_fpu_park(cpu);
		assert_int_equal(flat_at(at + 512), 7);
		assert_int_equal(flat_at(at + 520), k & 1 ? 0xeeeeeeeeeeeeeeee : 7 | 1ull << 63);
		assert_int_equal(get_le32(flat_mem + at + 24), 0x1fa0);
		assert_int_equal(flat_mem[at + 160 + 17], 17);
		assert_int_equal(flat_mem[at + 576 + 17], (uint8_t)~17);
		assert_int_equal(flat_mem[at + 832], 0xee);

		/* change everything, load it back */
		assert_int_equal(flat_at(at + 536),
				 0xeeeeeeeeeeeeeeee); /* the header's rest is left alone */
		memset(flat_mem + at + 528, 0, 48);
		if (k & 1)
			memset(flat_mem + at + 520, 0, 8);
		memset(sys_fpu_image(cpu) + 160, 0, 256);
		memset(cpu->st.xsave + 576, 0, 256);
		assert_int_equal(RUN(cpu, "\x0f\xae\x2e"), -1);
		bt_fpu_park(cpu);
		sys_fpu_image(cpu);
		assert_memory_equal(cpu->st.xsave + 160, flat_mem + at + 160, 256);
		assert_memory_equal(cpu->st.xsave + 576, flat_mem + at + 576, 256);
		assert_int_equal(get_le32(cpu->st.xsave + 24), 0x1fa0);
		assert_int_equal(get_le16(cpu->st.xsave), 0x27f);
	}
}

static void check_bad_image(unsigned off, uint64_t val, int want)
{
	struct bt_cpu *cpu = flat_long();

	put_le32(flat_mem + IMAGE + 24, 0x1f80);
	put_le64(flat_mem + IMAGE + 512, 3);
	put_le64(flat_mem + IMAGE + off, val);
	cpu->st.regs[REG_RSI] = IMAGE;
	cpu->st.regs[REG_RAX] = 7;
	assert_int_equal(RUN(cpu, "\x0f\xae\x2e"), want);
	bt_fpu_park(cpu);
}

static void test_xrstor_checks(void **state)
{
	check_bad_image(512, 3, -1);
	check_bad_image(512, 8, VEC_GP);	      /* a component that is not enabled */
	check_bad_image(520, 1, VEC_GP);	      /* XCOMP_BV in the standard form */
	check_bad_image(528, 1, VEC_GP);	      /* reserved */
	check_bad_image(536, 1, -1);		      /* not checked in the standard form */
	check_bad_image(520, 1ull << 63 | 1, VEC_GP); /* XSTATE_BV beyond XCOMP_BV */
	check_bad_image(520, 1ull << 63 | 3, -1);
	check_bad_image(520, 1ull << 63 | 11, VEC_GP);
	check_bad_image(24, 0xffff1f80, VEC_GP); /* MXCSR */

	struct bt_cpu *cpu = flat_long();

	cpu->st.regs[REG_RSI] = IMAGE + 32;
	assert_int_equal(RUN(cpu, "\x0f\xae\x2e"), VEC_GP);
	cpu->st.cr0 |= CR0_TS;
	assert_int_equal(RUN(cpu, "\x0f\xae\x2e"), VEC_NM);
	cpu->st.cr4 &= ~CR4_OSXSAVE;
	assert_int_equal(RUN(cpu, "\x0f\xae\x2e"), VEC_UD);
}

static void test_gather(void **state)
{
	struct bt_cpu *cpu = flat_long();
	uint8_t *img;

	if (!sys_guest_has(FEAT_AVX2))
		skip();
	/* vpgatherdd xmm1, [rsi + xmm2 * 4], xmm3: element 2 faults, element 1 is off */
	for (unsigned i = 0; i < 16; i++)
		put_le32(flat_mem + 0x30000 + i * 4, 0x100 + i);
	flat_absent[0x31] = true;
	cpu->st.regs[REG_RSI] = 0x30000;
	img = sys_fpu_image(cpu);
	memset(img + 160 + 16, 0xcc, 16);
	put_le32(img + 160 + 32 + 0, 3);
	put_le32(img + 160 + 32 + 4, 0x7fffffff);
	put_le32(img + 160 + 32 + 8, 0x400);
	put_le32(img + 160 + 32 + 12, 5);
	memset(img + 160 + 48, 0, 16);
	put_le32(img + 160 + 48 + 0, 1u << 31);
	put_le32(img + 160 + 48 + 8, 1u << 31);
	put_le32(img + 160 + 48 + 12, 1u << 31);
	assert_int_equal(RUN(cpu, "\xc4\xe2\x61\x90\x0c\x96"), VEC_PF);
	assert_int_equal(cpu->exc.cr2, 0x31000);
	assert_int_equal(get_le32(img + 160 + 16), 0x103);
	assert_int_equal(get_le32(img + 160 + 48), 0);
	assert_int_equal(get_le32(img + 160 + 48 + 8), ~0u);
	flat_absent[0x31] = false;
	put_le32(flat_mem + 0x31000, 0x77);
	assert_int_equal(RUN(cpu, "\xc4\xe2\x61\x90\x0c\x96"), -1);
	assert_int_equal(get_le32(img + 160 + 16 + 4), 0xcccccccc);
	assert_int_equal(get_le32(img + 160 + 16 + 8), 0x77);
	assert_int_equal(get_le32(img + 160 + 16 + 12), 0x105);
	assert_int_equal(get_le64(img + 160 + 48), 0);
	assert_int_equal(get_le64(img + 160 + 48 + 8), 0);
}

/* ---- reset ---- */

static void test_reset(void **state)
{
	struct bt_cpu *cpu = flat_long();

	cpu->index = 1;
	cpu->st.xcr0 = 3;
	bt_cpu_reset(cpu, true);
	assert_int_equal(cpu->st.rip, 0xfff0);
	assert_int_equal(cpu->st.segs[SEG_CS].base, 0xffff0000);
	assert_int_equal(cpu->st.xcr0, 3); /* INIT keeps it */
	assert_int_equal(cpu->key & KEY_MODE_MASK, MODE_16);
	assert_true(cpu->wait_sipi);
	bt_cpu_sipi(cpu, 0x9a);
	assert_false(cpu->wait_sipi);
	assert_int_equal(cpu->st.segs[SEG_CS].base, 0x9a000);
	assert_int_equal(cpu->st.segs[SEG_CS].selector, 0x9a00);
	assert_int_equal(cpu->st.rip, 0);
	bt_cpu_reset(cpu, false);
	assert_int_equal(cpu->st.xcr0, 1);
	cpu->index = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_deliver_inner),
		cmocka_unit_test(test_deliver_same_level),
		cmocka_unit_test(test_deliver_errors),
		cmocka_unit_test(test_double_fault),
		cmocka_unit_test(test_deliver_protected),
		cmocka_unit_test(test_real_interrupt),
		cmocka_unit_test(test_vm86),
		cmocka_unit_test(test_iretq),
		cmocka_unit_test(test_syscall),
		cmocka_unit_test(test_popf),
		cmocka_unit_test(test_load_segment),
		cmocka_unit_test(test_key),
		cmocka_unit_test(test_control_registers),
		cmocka_unit_test(test_msrs),
		cmocka_unit_test(test_kvm_clock),
		cmocka_unit_test(test_cpuid),
		cmocka_unit_test(test_movs),
		cmocka_unit_test(test_stos_wrap),
		cmocka_unit_test(test_scas_cmps),
		cmocka_unit_test(test_io_bitmap),
		cmocka_unit_test(test_idiv),
		cmocka_unit_test(test_cmpxchg16b),
		cmocka_unit_test(test_xsave),
		cmocka_unit_test(test_xrstor_checks),
		cmocka_unit_test(test_gather),
		cmocka_unit_test(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
