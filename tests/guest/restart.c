/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that fault in the middle and are run again after the handler mapped
 * the page: nothing may be seen half done, except where the architecture says so
 * (repeated string instructions, gathers). Then IRET to every privilege level, its
 * checks, and the stacks of handlers.
 */
#include "rt.h"

#define VA 0x10000000000ul
#define PAGES 8

static u64 pool[PAGES];
static unsigned faults;
static struct frame first; /* registers at the first fault */
static ulong fault_addr[8];

static void on_pf(struct frame *f)
{
	ulong cr2 = read_cr2();

	if (cr2 - VA >= PAGES * PAGE || faults >= 8 || (f->error & PF_P)) {
		print("FAIL restart: page fault at %#lx error %#lx ip %#lx\n", cr2, f->error,
		      f->ip);
		guest_exit(1);
	}
	if (!faults)
		first = *f;
	fault_addr[faults++] = cr2;
	*(volatile u64 *)pte_of(boot_pml4, cr2, 1) |= PTE_P;
}

/* Pages whose bit in @present is 0 fault once. */
static void prepare(unsigned present)
{
	faults = 0;
	for (unsigned i = 0; i < PAGES; i++)
		map(VA + i * PAGE, pool[i], PTE_W | (present >> i & 1 ? PTE_P : 0));
}

static u8 *phys(unsigned page)
{
	return (u8 *)pool[page];
}

#define P1 (VA + PAGE)

static void stack_insns(void)
{
	ulong a, b, c;

	/* push crosses from page 1 (present) down? The stack grows down: 4 bytes on page 0 (absent)
	 */
	prepare(~1u);
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq %3, %%rsp; pushq %4; movq %%rsp, %0; popq %1; movq %%rsp, %2; "
	    "movq %%rbx, %%rsp"
	    : "=&r"(a), "=&r"(b), "=&r"(c)
	    : "r"(P1 + 4), "r"(0x1122334455667788ul)
	    : "rbx", "memory");
	check(a == P1 - 4 && b == 0x1122334455667788 && c == P1 + 4 && faults == 1 &&
		  first.sp == P1 + 4,
	      "push, pop: across pages", "%#lx %#lx %#lx faults %u rsp %#lx", a, b, c, faults,
	      first.sp);

	prepare(~2u);
	*(u64 *)(phys(0) + 8) = 0xabcdef;
	__asm__ volatile("pushq (%0); popq 8(%1)" ::"r"(VA + 8), "r"(P1) : "memory");
	check(faults == 1 && *(u64 *)(phys(1) + 8) == 0xabcdef, "pop to memory", "faults %u %#lx",
	      faults, *(u64 *)(phys(1) + 8));

	/* pop (%rsp): the address uses the RSP after the pop; the fault restores it */
	prepare(~2u);
	*(u64 *)(phys(0) + PAGE - 8) = 0x77;
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq %1, %%rsp; popq (%%rsp); movq %%rsp, %0; movq %%rbx, %%rsp"
	    : "=&r"(a)
	    : "r"(P1 - 8)
	    : "rbx", "memory");
	check(a == P1 && faults == 1 && first.sp == P1 - 8 && *(u64 *)phys(1) == 0x77,
	      "pop to (rsp)", "rsp %#lx faults %u at %#lx value %#lx", a, faults, first.sp,
	      *(u64 *)phys(1));

	prepare(~1u);
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq %1, %%rsp; call 1f; 1: movq %%rsp, %0; movq %%rbx, %%rsp"
	    : "=&r"(a)
	    : "r"(P1 + 4)
	    : "rbx", "memory");
	check(a == P1 - 4 && faults == 1 && first.sp == P1 + 4, "call: stack faults",
	      "rsp %#lx faults %u at %#lx", a, faults, first.sp);
}

static void stack_insns2(void)
{
	ulong a = 0, b = 0;

	/* call through memory that faults; the push must not happen first */
	prepare(~2u);
	__asm__ volatile("movq $2f, %%rax; movq %%rax, (%2); movq %%rsp, %0; jmp 1f; 2: movq "
			 "%%rsp, %1; ret; 1: call *(%3)"
			 : "=&r"(a), "=&r"(b)
			 : "r"(phys(1)), "r"(P1)
			 : "rax", "memory");
	check(faults == 1 && first.sp == a && b == a - 8, "call through memory that faults",
	      "faults %u rsp %#lx %#lx %#lx", faults, first.sp, a, b);
	/* ret from a faulting stack */
	prepare(~2u);
	__asm__ volatile("movq $1f, %%rax; movq %%rax, (%2); movq %%rsp, %%rbx; movq %3, %%rsp; "
			 "ret $16; 1: movq %%rsp, %0; "
			 "movq %%rbx, %%rsp"
			 : "=&r"(a), "=&r"(b)
			 : "r"(phys(1)), "r"(P1)
			 : "rax", "rbx", "memory");
	check(faults == 1 && first.sp == P1 && a == P1 + 24, "ret imm16: stack faults",
	      "faults %u rsp %#lx", faults, a);
	/* enter and leave */
	prepare(~1u);
	__asm__ volatile("movq %%rsp, %%rbx; movq %%rbp, %%rcx; movq %2, %%rsp; movl $0x55, %%ebp; "
			 "enter $32, $0; "
			 "movq %%rsp, %0; movq %%rbp, %1; movq %%rbx, %%rsp; movq %%rcx, %%rbp"
			 : "=&r"(a), "=&r"(b)
			 : "r"(P1)
			 : "rbx", "rcx", "memory");
	check(faults == 1 && first.sp == P1 && first.bp == 0x55 && b == P1 - 8 && a == P1 - 40 &&
		  *(u64 *)(phys(0) + 4088) == 0x55,
	      "enter: stack faults", "faults %u rsp %#lx rbp %#lx", faults, a, b);
	prepare(~2u);
	*(u64 *)phys(1) = 0x66;
	__asm__ volatile("movq %%rsp, %%rbx; movq %%rbp, %%rcx; movq %2, %%rbp; leave; movq %%rsp, "
			 "%0; movq %%rbp, %1; "
			 "movq %%rbx, %%rsp; movq %%rcx, %%rbp"
			 : "=&r"(a), "=&r"(b)
			 : "r"(P1)
			 : "rbx", "rcx", "memory");
	check(faults == 1 && first.bp == P1 && a == P1 + 8 && b == 0x66, "leave: stack faults",
	      "faults %u rsp %#lx rbp %#lx at %#lx", faults, a, b, first.bp);
	/* nested enter reads the old frames, then pushes */
	prepare(~3u);
	*(u64 *)(phys(1) + 0x100 - 8) = 0xf0;
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq %%rbp, %%rcx; movq %2, %%rsp; movq %3, %%rbp; enter $16, $2; "
	    "movq %%rsp, %0; movq %%rbp, %1; movq %%rbx, %%rsp; movq %%rcx, %%rbp"
	    : "=&r"(a), "=&r"(b)
	    : "r"(P1), "r"(P1 + 0x100)
	    : "rbx", "rcx", "memory");
	check(faults == 2 && b == P1 - 8 && a == P1 - 24 - 16 &&
		  *(u64 *)(phys(0) + 4088) == P1 + 0x100 && *(u64 *)(phys(0) + 4080) == 0xf0 &&
		  *(u64 *)(phys(0) + 4072) == P1 - 8,
	      "enter: nesting level 2", "faults %u rsp %#lx rbp %#lx %#lx %#lx", faults, a, b,
	      *(u64 *)(phys(0) + 4080), *(u64 *)(phys(0) + 4072));
	/* popf and iretq with a faulting stack */
	prepare(~2u);
	*(u64 *)phys(1) = 0x8d7;
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq %1, %%rsp; popfq; movq %%rbx, %%rsp; pushfq; popq %0"
	    : "=&r"(a)
	    : "r"(P1)
	    : "rbx", "memory", "cc");
	check(faults == 1 && (a & 0x8d5) == 0x8d5 && first.sp == P1, "popf: stack faults",
	      "faults %u flags %#lx", faults, a);
	prepare(~2u);
	__asm__ volatile(
	    "movq %%rsp, %%rbx; movq $1f, %%rax; movq %%rax, -8(%1); movq %2, (%3); movq $2, "
	    "8(%3); movq %%rsp, 16(%3);"
	    "movq %4, 24(%3); leaq -8(%1), %%rsp; iretq; 1: movq %%rsp, %0; movq %%rbx, %%rsp"
	    : "=&r"(a)
	    : "r"(P1), "r"((ulong)KCS), "r"(phys(1)), "r"((ulong)KDS)
	    : "rax", "rbx", "memory", "cc");
	check(faults == 1 && first.sp == P1 - 8, "iretq: stack faults in the middle",
	      "faults %u rsp %#lx", faults, first.sp);
}

static void strings(void)
{
	ulong c, s, d;

	/* copy 3 pages, two destination pages and one source page absent */
	for (unsigned i = 0; i < PAGE; i++)
		phys(0)[i] = i * 7, phys(1)[i] = i * 11, phys(2)[i] = i * 13;
	memset(phys(4), 0, PAGE);
	memset(phys(5), 0, PAGE);
	prepare(~(1u << 1 | 1u << 4 | 1u << 6));
	c = 2 * PAGE + 100, s = VA + 50, d = VA + 4 * PAGE + 10;
	__asm__ volatile("cld; rep movsb" : "+c"(c), "+S"(s), "+D"(d)::"memory");
	check(faults == 3 && c == 0 && s == VA + 50 + 2 * PAGE + 100 && d == VA + 6 * PAGE + 110,
	      "rep movsb: registers", "faults %u rcx %lu", faults, c);
	bool same = true;
	for (unsigned i = 0; i < 2 * PAGE + 100; i++) {
		unsigned so = 50 + i, dd = 10 + i;
		same &= phys(so / PAGE)[so % PAGE] == phys(4 + dd / PAGE)[dd % PAGE];
	}
	check(same, "rep movsb: bytes", "differ");
	/* at a fault, the registers show the progress: count and pointers agree, all before is
	 * stored */
	prepare(~(1u << 5));
	memset(phys(4), 0xee, PAGE);
	c = 300, s = VA, d = VA + 5 * PAGE - 100;
	__asm__ volatile("cld; rep movsb" : "+c"(c), "+S"(s), "+D"(d)::"memory");
	check(faults == 1 && first.di == VA + 5 * PAGE && first.cx == 200 && first.si == VA + 100 &&
		  phys(4)[PAGE - 1] == phys(0)[99],
	      "rep movsb: state at the fault", "faults %u rdi %#lx rcx %lu rsi %#lx", faults,
	      first.di, first.cx, first.si);
	prepare(~(1u << 4));
	c = 100, s = VA + PAGE - 8, d = VA + 5 * PAGE + 64;
	__asm__ volatile("std; rep movsq; cld" : "+c"(c), "+S"(s), "+D"(d)::"memory");
	check(faults == 1 && c == 0 && first.di == VA + 5 * PAGE - 8 && first.cx == 91 &&
		  (first.flags & FL_DF),
	      "rep movsq downwards", "faults %u rdi %#lx rcx %lu", faults, first.di, first.cx);
	prepare(~(1u << 5));
	c = 64, d = VA + 5 * PAGE - 4 * 16 - 2;
	__asm__ volatile("cld; rep stosl" : "+c"(c), "+D"(d) : "a"(0x12345678) : "memory");
	check(faults == 1 && first.cx == 48 && first.di == VA + 5 * PAGE - 2 &&
		  *(u32 *)(phys(5) + 2) == 0x12345678,
	      "rep stosl: element across the pages", "faults %u rcx %lu rdi %#lx", faults, first.cx,
	      first.di);
	/* scas and cmps */
	prepare(~(1u << 1));
	memset(phys(0), 1, PAGE);
	memset(phys(1), 1, PAGE);
	phys(1)[20] = 9;
	c = 1000, d = VA + PAGE - 10;
	__asm__ volatile("cld; repne scasb" : "+c"(c), "+D"(d) : "a"(9) : "memory", "cc");
	check(faults == 1 && d == P1 + 21 && c == 1000 - 31 && first.cx == 990, "repne scasb",
	      "faults %u rdi %#lx rcx %lu", faults, d, c);
	prepare(~(1u << 3));
	memset(phys(2), 1, PAGE);
	memset(phys(3), 1, PAGE);
	phys(3)[5] = 2;
	c = 500, s = VA + 3 * PAGE - 20, d = VA + 100;
	__asm__ volatile("cld; repe cmpsb" : "+c"(c), "+S"(s), "+D"(d)::"memory", "cc");
	check(faults == 1 && s == VA + 3 * PAGE + 6 && c == 500 - 26 && first.si == VA + 3 * PAGE &&
		  first.cx == 480,
	      "repe cmpsb", "faults %u rsi %#lx rcx %lu", faults, s, c);
	prepare(~(1u << 1));
	ulong ax = 0;
	s = P1 - 4;
	__asm__ volatile("cld; lodsq" : "+a"(ax), "+S"(s)::"memory");
	check(faults == 1 && s == P1 + 4 && first.si == P1 - 4, "lodsq across pages",
	      "faults %u rsi %#lx", faults, s);
	prepare(0xff);
	c = 0x100000005, s = VA, d = VA + 0x100;
	__asm__ volatile("addr32 rep stosb"
			 : "+c"(c)
			 : "a"(0), "D"(d & 0)
			 : "memory"); /* ecx = 5 at address 0 */
	check_eq("addr32 rep stosb: counts with ecx", c, 0);
	c = 0, s = 0x8000000000000000, d = 0x8000000000000000;
	TRY("cld; rep movsb", : "+c"(c), "+S"(s), "+D"(d)::"memory");
	expect_none("rep movsb of count 0 does not touch memory");
}

static void read_modify_write(void)
{
	ulong a, b, c, d;
	u8 cf;

	prepare(~2u);
	*(u64 *)phys(1) = 41;
	__asm__ volatile("lock incq (%0)" ::"r"(P1) : "memory", "cc");
	check(faults == 1 && *(u64 *)phys(1) == 42, "lock inc", "faults %u value %lu", faults,
	      *(u64 *)phys(1));
	prepare(~2u);
	a = 5;
	__asm__ volatile("lock xaddq %0, (%1)" : "+r"(a) : "r"(P1) : "memory", "cc");
	check(faults == 1 && a == 42 && *(u64 *)phys(1) == 47, "lock xadd", "faults %u %lu", faults,
	      a);
	prepare(~2u);
	a = 9;
	__asm__ volatile("xchgq %0, (%1)" : "+r"(a) : "r"(P1) : "memory");
	check(faults == 1 && a == 47 && *(u64 *)phys(1) == 9, "xchg", "faults %u %lu", faults, a);
	prepare(~2u);
	a = 9;
	__asm__ volatile("lock cmpxchgq %2, (%1)" : "+a"(a) : "r"(P1), "r"(100ul) : "memory", "cc");
	check(faults == 1 && a == 9 && *(u64 *)phys(1) == 100, "lock cmpxchg", "faults %u %lu",
	      faults, a);
	/* carry survives the restart */
	prepare(~2u);
	__asm__ volatile("stc; adcq $1, (%1); setc %0" : "=q"(cf) : "r"(P1) : "memory", "cc");
	check(faults == 1 && *(u64 *)phys(1) == 102 && !cf && (first.flags & 1),
	      "adc keeps the carry", "value %lu", *(u64 *)phys(1));
	prepare(~2u);
	__asm__ volatile("stc; rclq $1, (%1); setc %0" : "=q"(cf) : "r"(P1) : "memory", "cc");
	check(faults == 1 && *(u64 *)phys(1) == 205 && !cf, "rcl keeps the carry", "value %lu",
	      *(u64 *)phys(1));
	prepare(~2u);
	a = 0xf000000000000000;
	__asm__ volatile("shldq $4, %1, (%0)" ::"r"(P1), "r"(a) : "memory", "cc");
	check(faults == 1 && *(u64 *)phys(1) == (205 << 4 | 15), "shld", "value %lu",
	      *(u64 *)phys(1));
	prepare(~2u);
	*(u64 *)phys(1) = 0;
	__asm__ volatile("lock btsq %2, (%1); setc %0"
			 : "=q"(cf)
			 : "r"(VA), "r"(PAGE * 8 + 13)
			 : "memory", "cc");
	check(faults == 1 && !cf && *(u64 *)phys(1) == 1 << 13 && fault_addr[0] >> 12 == P1 >> 12,
	      "bts with a bit offset beyond the operand", "faults %u value %#lx", faults,
	      *(u64 *)phys(1));
	prepare(~2u);
	__asm__ volatile("btq %2, (%1); setc %0"
			 : "=q"(cf)
			 : "r"(VA + 2 * PAGE), "r"(-(long)PAGE * 8 + 13)
			 : "memory", "cc");
	check(faults == 1 && cf == 1, "bt with a negative bit offset", "faults %u carry %u", faults,
	      cf);
	if (cpuid_has(1, 0, 'c', 13)) {
		prepare(~2u);
		((u64 *)phys(1))[0] = 1, ((u64 *)phys(1))[1] = 2;
		a = 1, d = 2, b = 3, c = 4;
		u8 zf;
		__asm__ volatile("lock cmpxchg16b (%3); setz %2"
				 : "+a"(a), "+d"(d), "=q"(zf)
				 : "r"(P1), "b"(b), "c"(c)
				 : "memory", "cc");
		check(faults == 1 && zf && ((u64 *)phys(1))[0] == 3 && ((u64 *)phys(1))[1] == 4,
		      "cmpxchg16b", "faults %u zf %u", faults, zf);
	}
	prepare(~2u);
	((u32 *)phys(1))[0] = 1, ((u32 *)phys(1))[1] = 2;
	a = 7, d = 8;
	__asm__ volatile("lock cmpxchg8b (%2)"
			 : "+a"(a), "+d"(d)
			 : "r"(P1), "b"(3ul), "c"(4ul)
			 : "memory", "cc");
	check(faults == 1 && a == 1 && d == 2, "cmpxchg8b that fails loads edx:eax",
	      "faults %u %lu %lu", faults, a, d);
	prepare(~2u);
	*(u64 *)phys(1) = 100;
	a = 1000, d = 0;
	__asm__ volatile("divq (%2)" : "+a"(a), "+d"(d) : "r"(P1) : "memory", "cc");
	check(faults == 1 && a == 10 && d == 0, "div by memory", "faults %u %lu", faults, a);
	/* the destination is the base register */
	prepare(~2u);
	*(u64 *)phys(1) = 0xfeed;
	a = P1;
	__asm__ volatile("movq (%0), %0" : "+r"(a)::"memory");
	check(faults == 1 && a == 0xfeed, "mov to its own base", "faults %u %#lx", faults, a);
	prepare(~2u);
	phys(1)[3] = 0x5c;
	a = P1, c = 3;
	__asm__ volatile("xlatb" : "+a"(c) : "b"(a) : "memory");
	check(faults == 1 && (c & 0xff) == 0x5c, "xlat", "faults %u %#lx", faults, c);
	prepare(~2u);
	__asm__ volatile(
	    "xorl %%eax, %%eax; stc; sbbl $0, (%1); lahf; movzbl %%ah, %%eax; movq %%rax, %0"
	    : "=r"(a)
	    : "r"(P1)
	    : "rax", "memory", "cc");
	check_eq("sbb: one fault", faults, 1);
	/* conditional move reads memory even when the condition is false */
	prepare(~2u);
	a = 1;
	__asm__ volatile("xorl %%eax, %%eax; cmovnzq (%1), %0"
			 : "+r"(a)
			 : "r"(P1)
			 : "rax", "memory", "cc");
	check(faults == 1 && a == 1, "cmov reads though its condition is false", "faults %u",
	      faults);
	prepare(~2u);
	__asm__ volatile("xorl %%eax, %%eax; setnz (%0)" ::"r"(P1) : "rax", "memory", "cc");
	check(faults == 1 && phys(1)[0] == 0, "setcc writes", "faults %u", faults);
}

static void vector_insns(void)
{
	if (!cpuid_has(7, 0, 'b', 5) || !cpuid_has(1, 0, 'c', 26)) {
		skip("gather", "no AVX2");
		return;
	}
	write_cr4(read_cr4() | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
	static u32 index[8] = { 0, 4, 1024, 1028, 2048, 2052, 3072, 3076 }, mask[8], out[8];
	bool good = true;
	prepare(~0xeu); /* pages 1, 2 and 3 absent */
	for (unsigned i = 0; i < 8; i++)
		*(u32 *)(phys(i / 2) + (index[i] & 1023) * 4) = 100 + i;
	__asm__ volatile(
	    "vmovdqu %1, %%ymm1; vpcmpeqd %%ymm2, %%ymm2, %%ymm2; vpxor %%ymm0, %%ymm0, %%ymm0;"
	    "vpgatherdd %%ymm2, (%3,%%ymm1,4), %%ymm0; vmovdqu %%ymm0, %0; vmovdqu %%ymm2, %2"
	    : "=m"(out)
	    : "m"(index), "m"(mask), "r"(VA)
	    : "memory");
	for (unsigned i = 0; i < 8; i++)
		good &= out[i] == 100 + i && mask[i] == 0;
	check(good && faults == 3, "vpgatherdd: three faults", "faults %u %u %u", faults, out[0],
	      out[7]);
	/* masked-out lanes do not fault */
	prepare(~2u);
	static u32 m2[8] = { ~0u, ~0u, 0, 0, 0, 0, 0, 0 };
	__asm__ volatile("vmovdqu %1, %%ymm2; vpmaskmovd (%2), %%ymm2, %%ymm0; vmovdqu %%ymm0, %0; "
			 "vpmaskmovd %%ymm0, %%ymm2, (%2)"
			 : "=m"(out)
			 : "m"(m2), "r"(P1 - 8)
			 : "memory");
	check_eq("vpmaskmovd: masked-out lanes do not fault", faults, 0);
	prepare(~2u);
	m2[2] = ~0u;
	__asm__ volatile("vmovdqu %0, %%ymm2; vpmaskmovd %%ymm0, %%ymm2, (%1)" ::"m"(m2),
			 "r"(P1 - 8)
			 : "memory");
	check(faults == 1, "vpmaskmovd: a selected lane faults", "faults %u", faults);
	prepare(~2u);
	__asm__ volatile("vpcmpeqd %%ymm3, %%ymm3, %%ymm3; vmovdqu %%ymm3, (%0); vmovdqu (%0), "
			 "%%ymm4; vmovdqu %%ymm4, %1" ::"r"(P1 - 5),
			 "m"(out)
			 : "memory");
	check(faults == 1 && out[0] == ~0u && out[7] == ~0u && phys(1)[0] == 0xff,
	      "vmovdqu across pages", "faults %u", faults);
	prepare(~3u);
	static u8 image[512] __attribute__((aligned(16))), *far = (u8 *)(VA + PAGE - 256);
	__asm__ volatile("fxsave64 (%0); fxrstor64 (%0)" ::"r"(far), "m"(image) : "memory");
	check(faults == 2, "fxsave across two absent pages", "faults %u", faults);
}

/* ---- handlers' stacks, IRET ---- */
static ulong seen_sp, seen_ss, seen_cs, seen_frame_ss;
static void see(struct frame *f)
{
	seen_sp = (ulong)f;
	__asm__ volatile("mov %%ss, %0; mov %%cs, %1" : "=r"(seen_ss), "=r"(seen_cs));
	seen_frame_ss = f->ss;
	trap.sp = f->sp;
}
USER_TEXT __attribute__((naked)) static void u_int3(void)
{
	__asm__("movq %rsp, %rax; int3; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_ret(void)
{
	__asm__("pushf; pop %rax; int $0x40");
}

static void stacks(void)
{
	ulong a, frame = sizeof(struct frame);

	on_vector(V_BP, see);
	for (unsigned off = 0; off < 16; off += 3) {
		__asm__ volatile(
		    "movq %%rsp, %%rbx; subq %1, %%rsp; movq %%rsp, %0; int3; movq %%rbx, %%rsp"
		    : "=&r"(a)
		    : "r"((ulong)off)
		    : "rbx", "memory");
		if (off == 9)
			check(trap.sp == a && seen_sp + frame == (a & ~15ul),
			      "stack: aligned to 16 before the frame, old RSP saved",
			      "rsp %#lx saved %#lx frame %#lx", a, trap.sp, seen_sp);
	}
	check_eq("stack: SS unchanged at the same level", seen_ss, KDS);
	idt[V_BP].ist = 2;
	__asm__ volatile("int3");
	check_eq("stack: IST2", seen_sp + frame, cpus[0].tss.ist[1]);
	user_run(u_int3, 0, 0);
	check_eq("stack: IST2 from CPL 3", seen_sp + frame, cpus[0].tss.ist[1]);
	idt_default(V_BP);
	user_run(u_int3, 0, 0);
	check_eq("stack: RSP0 from CPL 3", seen_sp + frame, cpus[0].tss.rsp[0]);
	check_eq("stack: null SS after a change of level", seen_ss, 0);
	check_eq("stack: SS of CPL 3 saved", seen_frame_ss, UDS);
	check_eq("stack: CS of the handler", seen_cs, KCS);
	on_vector(V_BP, NULL);
	user_run_flags(u_ret, 0, 0, 0x3000);
	check((trap.regs.ax & 0x3000) == 0x3000, "iret: IOPL 3 set from CPL 0", "%#lx",
	      trap.regs.ax);
}

/* iretq with the five values; what follows is an exception or V_USER_RET */
static void try_iret(ulong ip, ulong cs, ulong flags, ulong sp, ulong ss)
{
	TRY("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; 779: iretq", ::"r"(ss), "r"(sp),
	    "r"(flags), "r"(cs), "r"(ip)
	    : "memory", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "cc");
}
__asm__(".text\nring_code: mov %cs, %eax; int $0x40\n");
extern u8 ring_code[];
__asm__(".section .user.text,\"ax\"\n.code32\nuser32: movl $0x1234, %ecx; movl %esp, %edx; pushl "
	"%ecx; popl %eax; mov %cs, %ebx; int $0x40\n.code64\n.text\n");
extern u8 user32[];
USER_TEXT __attribute__((naked)) static void u_iret(void)
{
	__asm__("mov %rsp, %rdx; mov %ss, %eax; push %rax; push %rdx; push %rdi; mov %cs, %eax; "
		"push %rax; push $1f; iretq;"
		"1: pushf; pop %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_iret_up(void)
{
	__asm__("push $0x10; push %rsp; push $2; push $8; push $1f; iretq; 1: int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_popf(void)
{
	__asm__("push %rdi; popf; pushf; pop %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_segs(void)
{
	__asm__("mov %ds, %eax; mov %es, %ecx; int $0x40");
}

static void iret(void)
{
	ulong stack = (ulong)page_alloc() + PAGE, ustack = (ulong)user_stack + USTACK_SIZE - 64;

	gdt_set(0, FREE_SEL, 0, 0xfffff, 0xbb, 0xa);	  /* 64-bit code DPL 1 */
	gdt_set(0, FREE_SEL + 8, 0, 0xfffff, 0xb3, 0xc);  /* data DPL 1 */
	gdt_set(0, FREE_SEL + 16, 0, 0xfffff, 0xdb, 0xa); /* DPL 2 */
	gdt_set(0, FREE_SEL + 24, 0, 0xfffff, 0xd3, 0xc);
	try_iret((ulong)ring_code, FREE_SEL | 1, 2, stack, (FREE_SEL + 8) | 1);
	check(trap.vector == V_USER_RET && trap.cs == (FREE_SEL | 1) &&
		  trap.regs.ax == (FREE_SEL | 1) && trap.ss == ((FREE_SEL + 8) | 1),
	      "iret: to CPL 1", "vector %u error %#lx cs %#lx ss %#lx", trap.vector, trap.error,
	      trap.cs, trap.ss);
	try_iret((ulong)ring_code, (FREE_SEL + 16) | 2, 2, stack, (FREE_SEL + 24) | 2);
	check(trap.vector == V_USER_RET && trap.cs == ((FREE_SEL + 16) | 2), "iret: to CPL 2",
	      "vector %u error %#lx cs %#lx", trap.vector, trap.error, trap.cs);
	try_iret((ulong)ring_code, FREE_SEL | 1, 2, stack, 1);
	check(trap.vector == V_USER_RET && trap.ss == 1, "iret: to CPL 1 with a null SS",
	      "vector %u error %#lx ss %#lx", trap.vector, trap.error, trap.ss);
	try_iret((ulong)ring_code, KCS, 2, stack, 0);
	check(trap.vector == V_USER_RET && trap.ss == 0 && trap.sp == stack,
	      "iret: to CPL 0 with a null SS", "vector %u ss %#lx sp %#lx", trap.vector, trap.ss,
	      trap.sp);
	try_iret((ulong)user32, UCS32, 2, 0xdead00000000 | ustack, UDS);
	check(trap.vector == V_USER_RET && trap.cs == UCS32 && trap.regs.ax == 0x1234 &&
		  trap.regs.dx == ustack && trap.sp == ustack,
	      "iret: to 32-bit code of CPL 3", "vector %u error %#lx cs %#lx sp %#lx", trap.vector,
	      trap.error, trap.cs, trap.sp);
	try_iret((ulong)ring_code, 0, 2, stack, KDS);
	expect("iret: null CS", V_GP, 0, ANYWHERE);
	try_iret((ulong)ring_code, KDS, 2, stack, KDS);
	expect("iret: CS is data", V_GP, KDS, ANYWHERE);
	try_iret((ulong)ring_code, UCS & ~3, 2, stack, KDS);
	expect("iret: RPL 0 with a CS of DPL 3", V_GP, UCS & ~3, ANYWHERE);
	try_iret((ulong)u_ret, KCS | 3, 2, ustack, UDS);
	expect("iret: RPL 3 with a CS of DPL 0", V_GP, KCS, ANYWHERE);
	try_iret((ulong)u_ret, UCS, 2, ustack, KDS);
	expect("iret: SS of the wrong level", V_GP, KDS, ANYWHERE);
	try_iret((ulong)u_ret, UCS, 2, ustack, 0);
	expect("iret: null SS to CPL 3", V_GP, 0, ANYWHERE);
	try_iret((ulong)u_ret, UCS, 2, ustack, 3);
	expect("iret: null SS with RPL 3 to CPL 3", V_GP, 0, ANYWHERE);
	try_iret((ulong)u_ret, UCS, 2, ustack, UCS);
	expect("iret: SS is code", V_GP, UCS & ~3, ANYWHERE);
	try_iret(0x8000000000000000, KCS, 2, stack, KDS);
	expect("iret: RIP not canonical", V_GP, 0, ANYWHERE);
	try_iret((ulong)ring_code, 0xfff8, 2, stack, KDS);
	expect("iret: CS beyond the table", V_GP, 0xfff8, ANYWHERE);
	gdt_set(0, FREE_SEL + 32, 0, 0xfffff, 0x1b, 0xa);
	try_iret((ulong)ring_code, FREE_SEL + 32, 2, stack, KDS);
	expect("iret: CS not present", V_NP, FREE_SEL + 32, ANYWHERE);
	gdt_set(0, FREE_SEL + 32, 0, 0xfffff, 0x73, 0xc);
	try_iret((ulong)u_ret, UCS, 2, ustack, (FREE_SEL + 32) | 3);
	expect("iret: SS not present", V_SS, FREE_SEL + 32, ANYWHERE);
	TRY("pushfq; orq $0x4000, (%%rsp); popfq; iretq", ::: "memory", "cc");
	expect("iret: NT in 64-bit mode", V_GP, 0, ANYWHERE);

	user_run_flags(u_iret, 0x3ed7 & ~FL_TF, 0, 0);
	check((trap.regs.ax & 0x3200) == 0 && (trap.regs.ax & 0x8d5) == (0x8d5 & 0x3ed7),
	      "iret at CPL 3 keeps IF and IOPL", "vector %u flags %#lx", trap.vector, trap.regs.ax);
	user_run_flags(u_popf, 0x3ed7 & ~0x100, 0, 0);
	check((trap.regs.ax & 0x3200) == 0 && trap.vector == V_USER_RET,
	      "popf at CPL 3 keeps IF and IOPL", "vector %u flags %#lx", trap.vector, trap.regs.ax);
	user_run_flags(u_popf, 0x200, 0, 0x3000);
	check((trap.regs.ax & 0x3200) == 0x3200, "popf at CPL 3 with IOPL 3 sets IF",
	      "vector %u flags %#lx", trap.vector, trap.regs.ax);
	user_run(u_iret_up, 0, 0);
	expect("iret: from CPL 3 to CPL 0", V_GP, KCS, ANYWHERE);
	__asm__ volatile("mov %0, %%ds; mov %1, %%es" ::"r"(KDS), "r"(UDS));
	user_run(u_segs, 0, 0);
	check((trap.regs.ax & 0xffff) == 0 && (trap.regs.cx & 0xffff) == UDS,
	      "iret to CPL 3 drops a DS of DPL 0, keeps an ES of DPL 3", "ds %#lx es %#lx",
	      trap.regs.ax, trap.regs.cx);
	/* RF is restored and cleared after one instruction; VIP and VIF only matter with VME */
	try_iret((ulong)ring_code, KCS, 0x200cd7, stack, KDS);
	check(trap.vector == V_USER_RET && (trap.flags & 0x200cd5) == 0x200cd5,
	      "iret: restores ID and the arithmetic flags", "flags %#lx", trap.flags);
	/* iretl in 64-bit mode pops five 32-bit values */
	ulong ss = KDS, sp = 0;
	TRY("movq %%rsp, %0; subq $20, %%rsp; movl $1f, (%%rsp); movl %2, 4(%%rsp); movl $2, "
	    "8(%%rsp); movl %k0, 12(%%rsp); movl %1, 16(%%rsp);"
	    "iretl; 1:",
	    : "+&r"(sp)
	    : "r"((u32)ss), "r"(KCS)
	    : "memory", "cc");
	expect_none("iret: 32-bit operand size");
}

int main(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		pool[i] = (ulong)page_alloc();
	idt[V_PF].ist = 1;
	on_vector(V_PF, on_pf);
	stack_insns();
	stack_insns2();
	strings();
	read_modify_write();
	vector_insns();
	on_vector(V_PF, NULL);
	idt_default(V_PF);
	stacks();
	iret();
	return 0;
}
