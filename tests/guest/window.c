/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory as code of CPL 3 sees it where Linux puts programs, libraries and what is linked to fixed
 * addresses: permissions, A and D bits, large pages, aliases, code, and changes of the tables. A
 * translator may map such memory straight into its own address space; nothing of that may be seen.
 */
#include "rt.h"

static u64 *root;

static const struct region {
	const char *name;
	u64 va;
} regions[] = {
	{ "program", 0x555555554000 },
	{ "libraries", 0x7ffff7c00000 },
	{ "fixed", 0x8000000000 },
	{ "elsewhere", 0x123456600000 },
};

/* ---- what user code does; the address is in rdi ---- */

USER_TEXT __attribute__((naked)) static void user_load(void)
{
	__asm__("mov (%rdi), %rax; int $0x40");
}

USER_TEXT __attribute__((naked)) static void user_store(void)
{
	__asm__("mov %rsi, (%rdi); int $0x40");
}

USER_TEXT __attribute__((naked)) static void user_inc(void)
{
	__asm__("lock incq (%rdi); mov (%rdi), %rax; int $0x40");
}

/* through registers that a translator may keep elsewhere, with an index and far displacements */
USER_TEXT __attribute__((naked)) static void user_ways(void)
{
	__asm__(
	    "xor %eax, %eax;"
	    "mov %rdi, %r10; add 8(%r10), %rax;"
	    "mov $2, %r11d; add (%r10,%r11,8), %rax;"
	    "lea -0x10000000(%rdi), %r15; add 0x10000018(%r15), %rax;"
	    "mov $0x40000000, %ecx; lea (%rdi,%rcx), %rdx; add -0x3fffffe0(%rdx), %rax;"
	    "lea 0x28(%rdi), %rbp; add (%rbp), %rax; add $8, %rbp; add (%rbp), %rax;"
	    "lea 0x38(%rdi), %rsp; pop %rcx; add %rcx, %rax; push $5; addl -8(%rsp), %eax;"
	    "mov 0x39(%rdi), %ch; bts %r11, 0x40(%rdi); movzbl 0x40(%rdi), %edx; add %rdx, %rax;"
	    "int $0x40");
}

USER_TEXT __attribute__((naked)) static void user_push(void)
{
	__asm__("mov %rdi, %rsp; push %rsi; int $0x40");
}

USER_TEXT __attribute__((naked)) static void user_movaps(void)
{
	__asm__("movaps (%rdi), %xmm0; int $0x40");
}

USER_TEXT __attribute__((naked)) static void user_call(void)
{
	__asm__("call *%rdi; int $0x40");
}

/* store a byte into code, then call it */
USER_TEXT __attribute__((naked)) static void user_patch(void)
{
	__asm__("mov %sil, 1(%rdi); call *%rdi; int $0x40");
}

static u64 load(u64 va)
{
	return user_run(user_load, va, 0);
}

static u64 *set(u64 va, u64 pa, u64 bits)
{
	return map(va, pa, pa ? PTE_U | PTE_P | bits : 0);
}

static u64 *frame(u64 value)
{
	u64 *p = page_alloc();

	*p = value;
	return p;
}

/* ---- one region ---- */

static void remaps(u64 va)
{
	u64 *a = frame(0xaaaa), *b = frame(0xbbbb);
	volatile u64 *e = set(va, (ulong)a, PTE_W);

	check_eq("loaded", load(va), 0xaaaa);
	*e = (ulong)b | PTE_P | PTE_U;
	invlpg(va);
	check_eq("remapped, INVLPG", load(va), 0xbbbb);
	*e = (ulong)a | PTE_P | PTE_U;
	write_cr3(read_cr3());
	check_eq("remapped, CR3", load(va), 0xaaaa);
	*e = 0;
	write_cr3(read_cr3());
	load(va);
	expect_pf("unmapped, CR3", PF_U, va, ANYWHERE);
	*e = (ulong)a | PTE_P | PTE_U;
	check_eq("mapped", load(va), 0xaaaa);
	user_run(user_store, va, 1);
	expect_pf("store to a read-only page", PF_P | PF_W | PF_U, va, ANYWHERE);
	*e |= PTE_W;
	user_run(user_store, va, 0x1234);
	check_eq("store after the right was given", *a, 0x1234);
	*e &= ~PTE_W;
	invlpg(va);
	user_run(user_inc, va, 0);
	expect_pf("store after the right was taken", PF_P | PF_W | PF_U, va, ANYWHERE);
	*e |= PTE_W;
	user_run(user_store, va, 1);
	*e &= ~PTE_W; /* A and D stay */
	write_cr3(read_cr3());
	user_run(user_inc, va, 0);
	expect_pf("store after the right was taken, CR3", PF_P | PF_W | PF_U, va, ANYWHERE);
	*e &= ~PTE_U;
	write_cr3(read_cr3());
	load(va);
	expect_pf("load of a supervisor's page", PF_P | PF_U, va, ANYWHERE);
	set(va, 0, 0);
}

static void bits(u64 va)
{
	volatile u64 *e = set(va, (ulong)frame(7), PTE_W);

	load(va);
	check_eq("A after a load", *e & (PTE_A | PTE_D), PTE_A);
	user_run(user_store, va, 8);
	check_eq("D after a store", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	*e &= ~(PTE_A | PTE_D);
	invlpg(va);
	load(va);
	check_eq("A again after INVLPG", *e & (PTE_A | PTE_D), PTE_A);
	user_run(user_store, va, 9);
	*e &= ~(PTE_A | PTE_D);
	write_cr3(read_cr3());
	user_run(user_inc, va, 0);
	check_eq("A and D again after CR3", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	set(va, 0, 0);
}

static void pages(u64 va)
{
	u64 *a = frame(0x11), *b = frame(0x22);

	/* 8 bytes over two pages that are not neighbours */
	set(va, (ulong)b, PTE_W);
	set(va + PAGE, (ulong)a, PTE_W);
	user_run(user_store, va + PAGE - 3, 0x8877665544332211);
	check_eq("store across two pages: second", *a, 0x8877665544);
	check_eq("load across two pages", load(va + PAGE - 3), 0x8877665544332211);
	set(va + PAGE, 0, 0);
	user_run(user_store, va + PAGE - 3, 0);
	expect_pf("store across two pages, second missing", PF_W | PF_U, va + PAGE, ANYWHERE);
	check_eq("nothing of it done", load(va + PAGE - 8) >> 40, 0x332211);
	user_run(user_push, va + 4, 0);
	expect_pf("push below the first page", PF_W | PF_U, va - 4, ANYWHERE);
	check_eq("rsp as before", trap.regs.sp, va + 4);

	/* an access across two pages that are the same frame, as Linux's page of zeroes is
	 * everywhere */
	set(va, (ulong)a, PTE_W);
	set(va + PAGE, (ulong)a, PTE_W);
	user_run(user_store, va + PAGE - 4, 0x1111222233334444);
	check_eq("store across one frame at two addresses", *(u32 *)a, 0x11112222);
	check_eq("load across it", load(va + PAGE - 4), 0x1111222233334444);
	*a = 0x11;
	set(va, (ulong)b, PTE_W);

	/* one frame at two addresses, then only at the other */
	set(va + 16 * PAGE, (ulong)a, PTE_W);
	set(va + 32 * PAGE, (ulong)a, PTE_W);
	user_run(user_store, va + 16 * PAGE, 1);
	user_run(user_inc, va + 32 * PAGE, 0);
	check_eq("aliases", load(va + 16 * PAGE), 2);
	set(va + 16 * PAGE, (ulong)b, PTE_W);
	user_run(user_store, va + 32 * PAGE, 3);
	check_eq("one moved on", load(va + 16 * PAGE), 0x22);
	check_eq("the other stays", load(va + 32 * PAGE), 3);
	set(va + 16 * PAGE, (ulong)a, PTE_W);
	load(va + 16 * PAGE);
	load(va + 32 * PAGE);
	*(volatile u64 *)pte_of(root, va + 16 * PAGE, 1) = (ulong)b | PTE_P | PTE_U | PTE_A;
	write_cr3(read_cr3());
	check_eq("one moved on, CR3", load(va + 16 * PAGE), 0x22);
	load(va + 16 * PAGE);
	set(va + 16 * PAGE, (ulong)a, PTE_W | PTE_A);
	load(va + 16 * PAGE);
	load(va + 32 * PAGE);
	*(volatile u64 *)pte_of(root, va + 32 * PAGE, 1) = (ulong)b | PTE_P | PTE_U | PTE_A;
	write_cr3(read_cr3());
	check_eq("the other moved on, CR3", load(va + 32 * PAGE), 0x22);

	for (unsigned i = 0; i < 8; i++)
		b[1 + i] = 1 << i;
	b[8] = 0;
	user_run(user_ways, va, 0);
	check_eq("registers, indexes, displacements", trap.regs.ax,
		 1 + 2 + 4 + 8 + 16 + 32 + 64 + 32 + 4);
	user_run(user_movaps, va + 8, 0);
	expect("movaps, not aligned", V_GP, 0, ANYWHERE);
	for (unsigned i = 0; i < 64; i++)
		set(va + i * PAGE, 0, 0);
}

static void large(u64 va)
{
	u64 *p = pages_alloc(1024, LARGE), at = va & ~(LARGE - 1);
	volatile u64 *e = pte_of(root, at, 2);
	u64 was = *e;

	p[0] = 1, p[300 * 512] = 2, p[512 * 512] = 3;
	*e = (ulong)p | PTE_P | PTE_W | PTE_U | PTE_PS;
	write_cr3(read_cr3());
	check_eq("2M page", load(at), 1);
	check_eq("2M page, further on", load(at + 300 * PAGE), 2);
	user_run(user_store, at + 8, 9);
	check_eq("2M page written", p[1], 9);
	*e = ((ulong)p + LARGE) | PTE_P | PTE_W | PTE_U | PTE_PS;
	invlpg(at + 17 * PAGE);
	check_eq("2M page replaced, INVLPG in its middle", load(at), 3);
	*e = (ulong)p | PTE_P | PTE_U | PTE_PS;
	invlpg(at);
	load(at);
	*e |= PTE_W;
	user_run(user_store, at + 300 * PAGE, 4);
	*e &= ~PTE_W; /* A and D stay */
	write_cr3(read_cr3());
	user_run(user_store, at + 300 * PAGE, 5);
	expect_pf("2M page read-only, CR3", PF_P | PF_W | PF_U, at + 300 * PAGE, ANYWHERE);
	*e = was;
	invlpg(at);
}

static void code(u64 va)
{
	u8 *p = page_alloc();
	unsigned other = 64 * PAGE;

	p[0] = 0xb8, *(u32 *)(p + 1) = 1, p[5] = 0xc3; /* mov $1, %eax; ret */
	set(va, (ulong)p, PTE_W);
	set(va + other, (ulong)p, PTE_W);
	user_run(user_store, va + 64, 5); /* written before there is code */
	check_eq("code", user_run(user_call, va + other, 0), 1);
	user_run(user_store, va + 72, 6);
	check_eq("code that wrote into itself", user_run(user_patch, va, 2), 2);
	check_eq("seen at the other address", user_run(user_call, va + other, 0), 2);
	for (unsigned i = 3; i < 40; i++) {
		if (user_run(user_patch, i & 1 ? va : va + other, i) != i) {
			fail("code written many times", "round %u", i);
			break;
		}
	}
	check_eq("data beside code", load(va + 72), 6);
	set(va, 0, 0);
	set(va + other, 0, 0);
}

/* More pages than any table of a translator has places; some change at each flush of all. */
static void many(u64 va)
{
	enum { COUNT = 600 };
	static u64 *frames[COUNT];
	bool good = true;

	for (unsigned i = 0; i < COUNT; i++) {
		frames[i] = frame(i);
		*pte_of(root, va + i * PAGE, 1) = (ulong)frames[i] | PTE_P | PTE_W | PTE_U;
	}
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < COUNT && good; i++) {
			u64 got = user_run(user_inc, va + i * PAGE, 0);

			if (got != *frames[i] || got < i + 1)
				good = check_eq("many pages", got, *frames[i]);
		}
		for (unsigned i = round; i < COUNT; i += 7 - round) { /* swap with the next */
			volatile u64 *e = pte_of(root, va + i * PAGE, 1);
			u64 *f = frames[i];
			unsigned k = (i + 1) % COUNT;

			*f = k, *frames[k] = i;
			frames[i] = frames[k];
			frames[k] = f;
			*e = (ulong)frames[i] | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
			*(volatile u64 *)pte_of(root, va + k * PAGE, 1) =
			    (ulong)f | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
		}
		write_cr3(read_cr3());
	}
	check(good, "many pages, some swapped at each flush", "see above");
	for (unsigned i = 0; i < COUNT; i++)
		*pte_of(root, va + i * PAGE, 1) = 0;
	write_cr3(read_cr3());
}

/* Pages far apart, at distances that are powers of two. */
static void apart(u64 va)
{
	enum { COUNT = 12, STEP = 32 << 20 };
	u64 *frames[COUNT];
	bool good = true;

	for (unsigned i = 0; i < COUNT; i++) {
		frames[i] = frame(i);
		set(va - i * (ulong)STEP, (ulong)frames[i], PTE_W);
		user_run(user_inc, va - i * (ulong)STEP, 0);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		frames[i] = frame(100 + i);
		set(va - i * (ulong)STEP, (ulong)frames[i], PTE_W);
		good &= load(va - i * (ulong)STEP) == 100 + i;
	}
	check(good, "pages far apart, replaced one by one", "an old one was seen");
	for (unsigned i = 0; i < COUNT; i++)
		set(va - i * (ulong)STEP, 0, 0);
}

/* ---- several address spaces ---- */

#define SPACES 7

static void spaces(u64 va)
{
	static u64 *roots[SPACES];
	bool pcid = cpuid_has(1, 0, 'c', 17), good = true;

	for (unsigned i = 0; i < SPACES; i++) {
		roots[i] = pml4_clone();
		roots[i][va >> 39 & 511] = 0;
		*pte_of(roots[i], va, 1) = (ulong)frame(100 * i) | PTE_P | PTE_W | PTE_U;
	}
	if (pcid)
		write_cr4(read_cr4() | CR4_PCIDE);
	for (unsigned n = 0; n < 200 && good; n++) {
		unsigned i = n * 5 % SPACES;

		write_cr3((ulong)roots[i] | (pcid ? i + 1 : 0) | (pcid && n & 3 ? 1ul << 63 : 0));
		good = user_run(user_inc, va, 0) == 100 * i + n / SPACES + 1;
	}
	check(good, "each address space has its own memory", "another's was seen");
	write_cr3((ulong)root);
	if (pcid)
		write_cr4(read_cr4() & ~CR4_PCIDE);
}

static void nowhere(void)
{
	load(0x8000000000000000);
	expect("load, not canonical", V_GP, 0, ANYWHERE);
	load(0x1555555554000);
	expect("load, not canonical, low bits as a program's", V_GP, 0, ANYWHERE);
	load(0x1000000000000);
	expect("load, not canonical, low bits of a fixed address", V_GP, 0, ANYWHERE);
	user_run(user_push, 0x8000000000000000, 0);
	expect("push, not canonical", V_SS, 0, ANYWHERE);
	load(0xffffffffff600000);
	expect_pf("load from the upper half", PF_U, 0xffffffffff600000, ANYWHERE);
	load(0xfffffffffffffff8);
	expect_pf("load from the last bytes", PF_U, 0xfffffffffffffff8, ANYWHERE);
	load(0x400000);
	expect_pf("load of the supervisor's memory", PF_P | PF_U, 0x400000, ANYWHERE);
}

int main(void)
{
	root = boot_pml4;
	fpu_on();
	for (unsigned i = 0; i < ARRAY_LEN(regions); i++) {
		u64 va = regions[i].va;

		print("# %s\n", regions[i].name);
		remaps(va);
		bits(va);
		pages(va);
		large(va);
		code(va);
		many(va);
		apart(va);
		spaces(va);
	}
	nowhere();
	return 0;
}
