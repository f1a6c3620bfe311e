/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Edges that a translator of blocks can fall over: neighbouring accesses whose displacements
 * span all of 32 bits, branches as long as they can be, and what stands at a page's end.
 */
#include "rt.h"

#define VA 0x10000000000ul
#define FAR_VA (VA + 0x80000000ul) /* where a branch of nearly 2 GiB from VA leads */

static u8 *frames; /* three physical pages in a row; the middle one is mapped nowhere near */

static void fill(unsigned frame, u64 with)
{
	u64 *p = (u64 *)(frames + frame * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i++)
		p[i] = with;
}

/*
 * Two loads of one block that touch each other at VA + PAGE: virtual neighbours, not physical ones.
 * The displacements are such that their sum with the size does not fit 32 bits.
 */
static void displacement_top(void)
{
	ulong base = VA + PAGE - 0x7fffffff, a = 0, b = 0;

	map(VA, (ulong)frames, PTE_P | PTE_W);
	map(VA + PAGE, (ulong)frames + 2 * PAGE, PTE_P | PTE_W);
	fill(0, 0x1111);
	fill(1, 0xbad);
	fill(2, 0x3333);
	for (volatile int i = 0; i < 3; i++) /* what is cached counts from the second time on */
		__asm__ volatile("movq 0x7fffffff(%2), %0; movq 0x7ffffff7(%2), %1"
				 : "=&r"(a), "=&r"(b)
				 : "r"(base));
	check(a == 0x3333 && b == 0x1111, "loads at the largest displacement", "%#lx %#lx", a, b);
	for (volatile int i = 0; i < 3; i++)
		__asm__ volatile("movq %0, 0x7fffffff(%1); movq %0, 0x7ffffff7(%1)" ::"r"(0x55ul),
				 "r"(base)
				 : "memory");
	check(*(u64 *)(frames + PAGE) == 0xbad && *(u64 *)(frames + 2 * PAGE) == 0x55 &&
		  *(u64 *)(frames + PAGE - 8) == 0x55,
	      "stores at the largest displacement", "%#lx %#lx %#lx", *(ulong *)(frames + PAGE - 8),
	      *(ulong *)(frames + PAGE), *(ulong *)(frames + 2 * PAGE));
}

/*
 * The base moves by a constant between two accesses, and the lower address is too far from the
 * first one's base for a displacement: 4 GiB further up is something else.
 */
static void displacement_bottom(void)
{
	ulong base = VA + 0x800003f8ul, a = 0, b = 0;

	map(VA + PAGE, (ulong)frames, PTE_P | PTE_W);
	map(VA + PAGE + 0x100000000ul, (ulong)frames + PAGE, PTE_P | PTE_W);
	fill(0, 0x1111);
	fill(1, 0xbad);
	*(u64 *)(frames + 8) = 0x2222;
	*(u64 *)(frames + 0x3f8) = 0x4444;
	for (volatile int i = 0; i < 3; i++) {
		*(volatile u64 *)(VA + PAGE + 0x100000000ul);
		__asm__ volatile("addq $0x1000, %2; movq -0x80000000(%2), %0; subq $0x1000, %2; "
				 "movq -0x7ffff3f0(%2), %1"
				 : "=&r"(a), "=&r"(b), "+b"(base)::"cc");
	}
	check(a == 0x4444 && b == 0x2222, "loads at the smallest displacement", "%#lx %#lx", a, b);
}

static void put_branch(u8 *at, u8 opcode, int32_t rel)
{
	*at = opcode;
	memcpy(at + 1, &rel, 4);
}

/* Relative branches of the greatest length, over both signs. */
static void far_branches(void)
{
	u8 *near = page_alloc(), *far = page_alloc();

	map(VA, (ulong)near, PTE_P | PTE_W);
	map(FAR_VA, (ulong)far, PTE_P | PTE_W);
	put_branch(near, 0xe9, 0x7fffffff); /* leads to VA + 5 + 0x7fffffff */
	far[4] = 0xc3;
	TRY("call *%0", ::"r"(VA) : "memory");
	expect_none("jmp 2 GiB up");
	near[0x10] = 0xe8; /* call, then ret */
	put_branch(near + 0x10, 0xe8, 0x7fffffff - 0x10);
	near[0x15] = 0xc3;
	TRY("call *%0", ::"r"(VA + 0x10) : "memory");
	expect_none("call 2 GiB up");
	near[0x20] = 0x31, near[0x21] = 0xc0; /* xor eax, eax; je */
	near[0x22] = 0x0f;
	put_branch(near + 0x23, 0x84, 0x7fffffff - 0x20);
	far[4 + 0x28 - 5 - 0x20] = 0xc3;
	TRY("call *%0", ::"r"(VA + 0x20) : "rax", "cc", "memory");
	expect_none("je 2 GiB up");

	/* from the last bytes of a page down */
	put_branch(far + 0xff0, 0xe9, -0x80000000ll);
	near[0xff5] = 0xc3;
	TRY("call *%0", ::"r"(FAR_VA + 0xff0) : "memory");
	expect_none("jmp 2 GiB down");
}

int main(void)
{
	frames = pages_alloc(3, PAGE);
	displacement_top();
	displacement_bottom();
	far_branches();
	return 0;
}
