/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accesses at the edges: non-canonical addresses, and operands and instructions that
 * cross a page. A fault on the second page must leave everything as it was.
 */
#include "rt.h"

#define VA 0x10000000000ul /* private to a test */

/* ---- non-canonical addresses ---- */
static void canonical(void)
{
	ulong bad = 0x8000000000000000, low = 0x0000800000000000, high = 0xffff7fffffffffff;

	TRY("movb (%0), %%al", ::"r"(bad) : "rax", "memory");
	expect("canonical: read is #GP(0)", V_GP, 0, AT_INSN);
	TRY("movb $0, (%0)", ::"r"(low) : "memory");
	expect("canonical: first address above the lower half", V_GP, 0, AT_INSN);
	TRY("movb $0, (%0)", ::"r"(high) : "memory");
	expect("canonical: last address below the upper half", V_GP, 0, AT_INSN);
	TRY("movb $0, (%0)", ::"r"(low - 1) : "memory");
	expect_pf("canonical: last address of the lower half", PF_W, low - 1, AT_INSN);
	TRY("movb $0, (%0)", ::"r"(high + 1) : "memory");
	expect_pf("canonical: first address of the upper half", PF_W, high + 1, AT_INSN);
	TRY("xchg %0, %%rbp; movb (%%rbp), %%al; 778: xchg %0, %%rbp",
	    : "+r"(bad)::"rax", "memory", "rbp");
	expect("canonical: through rbp is #SS(0)", V_SS, 0, ANYWHERE);
	bad = 0x8000000000000000;
	trap_ist(true);
	TRY("movq %0, %%rsp; push %%rax", ::"r"(bad) : "memory");
	expect("canonical: push is #SS(0)", V_SS, 0, ANYWHERE);
	TRY("movq %0, %%rsp; pop %%rax", ::"r"(bad) : "rax", "memory");
	expect("canonical: pop is #SS(0)", V_SS, 0, ANYWHERE);
	trap_ist(false);
	TRY("jmp *%0", ::"r"(bad) : "memory");
	expect("canonical: jmp is #GP(0) at the jmp", V_GP, 0, AT_INSN);
	ulong sp;
	TRY("movq %%rsp, %0; call *%1", : "=&r"(sp) : "r"(bad) : "memory");
	expect("canonical: call is #GP(0)", V_GP, 0, ANYWHERE);
	check_eq("canonical: call pushed nothing", trap.sp, sp);
	TRY("push %0; ret", ::"r"(bad) : "memory");
	expect("canonical: ret is #GP(0)", V_GP, 0, ANYWHERE);
	check_eq("canonical: ret popped nothing", trap.sp, trap_recover_sp - 8);
	TRY("prefetcht0 (%0); lea 8(%0), %%rax; nopl (%0)", ::"r"(bad) : "rax", "memory");
	expect_none("canonical: prefetch, lea and nop do not look");
	TRY("invlpg (%0)", ::"r"(bad) : "memory");
	expect_none("canonical: invlpg is a no-operation");
	TRY("movb %%fs:(%0), %%al", ::"r"(bad) : "rax", "memory");
	expect("canonical: with fs is #GP(0)", V_GP, 0, AT_INSN);
	map(low - PAGE, (ulong)page_alloc(), PTE_P | PTE_W);
	TRY("movq (%0), %%rax", ::"r"(low - 4) : "rax", "memory");
	expect("canonical: operand that ends beyond the lower half", V_GP, 0, AT_INSN);
	map(low - PAGE, 0, 0);
	TRY("lgdt (%0)", ::"r"(bad) : "memory");
	expect("canonical: lgdt operand", V_GP, 0, AT_INSN);
	/* the address wraps to 0 at 64 bits: bytes -4.. of the top page, then 0 */
	TRY("movq (%0), %%rax", ::"r"(-4l) : "rax", "memory");
	expect_pf("canonical: top of the address space, not mapped", 0, -4l, AT_INSN);
}

/* ---- accesses that cross a page ---- */
static void crossing(void)
{
	u64 a = (ulong)page_alloc(), b = (ulong)page_alloc();
	volatile u8 *pa = (volatile u8 *)a;
	ulong end = VA + PAGE;

	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, b, 0);
	memset((void *)(a + PAGE - 64), 0x5a, 64);
	TRY("movq %1, (%0)", ::"r"(end - 3), "r"(-1l) : "memory");
	expect_pf("crossing: write", PF_W, end, AT_INSN);
	check(pa[4095] == 0x5a && pa[4093] == 0x5a, "crossing: write left the first page alone",
	      "%#x", pa[4095]);
	TRY("movq (%0), %%rax", ::"r"(end - 1) : "rax", "memory");
	expect_pf("crossing: read", 0, end, AT_INSN);
	TRY("lock addq $1, (%0)", ::"r"(end - 4) : "memory", "cc");
	expect_pf("crossing: locked add", PF_W, end, AT_INSN);
	check_eq("crossing: locked add left the first page alone", pa[4092], 0x5a);
	ulong r = 7;
	TRY("xchg %0, (%1)", : "+r"(r) : "r"(end - 4) : "memory");
	expect_pf("crossing: xchg", PF_W, end, AT_INSN);
	check(trap.hit && r == 7 && pa[4092] == 0x5a, "crossing: xchg changed nothing", "%#lx %#x",
	      r, pa[4092]);
	trap_ist(true);
	TRY("movq %0, %%rsp; pushq %%rax", ::"r"(end + 4) : "memory");
	trap_ist(false);
	expect_pf("crossing: push", PF_W, end, ANYWHERE);
	check(trap.sp == end + 4 && pa[4092] == 0x5a, "crossing: push changed nothing", "rsp %#lx",
	      trap.sp);
	TRY("movups %%xmm0, (%0)", ::"r"(end - 8) : "memory");
	expect_pf("crossing: movups store", PF_W, end, AT_INSN);
	check_eq("crossing: movups left the first page alone", pa[4090], 0x5a);
	if (cpuid_has(1, 0, 'd', 24)) {
		TRY("fxsave64 (%0)", ::"r"(end - 256) : "memory");
		trap.cr2 &= ~(PAGE - 1); /* CPUs differ in the byte they look at first */
		expect_pf("crossing: fxsave", PF_W, end, AT_INSN);
	}
	TRY("fnsave (%0)", ::"r"(end - 64) : "memory");
	trap.cr2 &= ~(PAGE - 1);
	expect_pf("crossing: fnsave", PF_W, end, AT_INSN);
	check_eq("crossing: fnsave left the first page alone", pa[4090], 0x5a);
	TRY("sidt (%0)", ::"r"(end - 5) : "memory");
	expect_pf("crossing: sidt", PF_W, end, AT_INSN);
	TRY("lidt (%0)", ::"r"(end - 5) : "memory");
	expect_pf("crossing: lidt", 0, end, AT_INSN);
	/* first page absent, second present */
	map(VA, a, 0);
	map(VA + PAGE, b, PTE_P | PTE_W);
	TRY("movq (%0), %%rax", ::"r"(end - 3) : "rax", "memory");
	expect_pf("crossing: fault on the first page", 0, end - 3, AT_INSN);
	/* both absent: the lower one is reported */
	map(VA + PAGE, b, 0);
	TRY("movq (%0), %%rax", ::"r"(end - 3) : "rax", "memory");
	check(trap.vector == V_PF && (trap.cr2 == end - 3 || trap.cr2 == end),
	      "crossing: both absent", "cr2 %#lx", trap.cr2);
	/* second page read-only */
	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, b, PTE_P);
	TRY("movq %%rax, (%0)", ::"r"(end - 3) : "memory");
	expect_pf("crossing: second page read-only", PF_P | PF_W, end, AT_INSN);
	check_eq("crossing: read-only: first page alone", pa[4095], 0x5a);
	/* a read across is fine */
	TRY("movq (%0), %%rax", ::"r"(end - 3) : "rax", "memory");
	expect_none("crossing: read of both");

	/* instruction that crosses: mov $imm32, %eax; ret with its last bytes on an absent page */
	static const u8 code[] = { 0xb8, 1, 2, 3, 4, 0xc3 };
	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, b, 0);
	memcpy((void *)(a + PAGE - 3), code, 3);
	memcpy((void *)b, code + 3, 3);
	TRY("call *%0", ::"r"(end - 3) : "rax", "memory");
	expect_pf("crossing: instruction fetch", PF_I, end, ANYWHERE);
	check_eq("crossing: saved RIP is the instruction's start", trap.ip, end - 3);
	map(VA + PAGE, b, PTE_P | PTE_NX);
	TRY("call *%0", ::"r"(end - 3) : "rax", "memory");
	expect_pf("crossing: fetch from NX", PF_I | PF_P, end, ANYWHERE);
	map(VA + PAGE, b, PTE_P);
	ulong ax = 0;
	TRY("call *%1", : "+a"(ax) : "r"(end - 3) : "memory");
	check(!trap.hit && ax == 0x04030201, "crossing: instruction runs", "vector %u rax %#lx",
	      trap.vector, ax);
	/* the same with the second page moved to other bytes: nothing stale */
	u64 c = (ulong)page_alloc();
	memcpy((void *)c, "\x07\x08\xc3", 3);
	map(VA + PAGE, c, PTE_P);
	TRY("call *%1", : "+a"(ax) : "r"(end - 3) : "memory");
	check_eq("crossing: second page remapped, new bytes run", ax, 0x08070201);
	/* a complete instruction at the page's end does not touch the next page */
	map(VA + PAGE, b, 0);
	memcpy((void *)(a + PAGE - 1), "\xc3", 1);
	TRY("call *%0", ::"r"(end - 1) : "memory");
	expect_none("crossing: instruction at the very end");
	map(VA, 0, 0);
	map(VA + PAGE, 0, 0);
}

int main(void)
{
	canonical();
	crossing();
	return 0;
}
