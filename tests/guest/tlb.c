/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must be seen after a change of the page tables: INVLPG, CR3, global pages, PCID,
 * INVPCID (Intel SDM 3A, "Caching Translation Information"). A stale entry is an error only
 * where the architecture forbids it.
 */
#include "rt.h"

#define VA 0x10000000000ul /* private to a test */

#define INVPCID(type) TRY("invpcid %0, %1", ::"m"(d), "r"((ulong)(type)) : "memory")

static u64 *root;

USER_TEXT __attribute__((naked)) static void user_invpcid(void)
{
	__asm__("invpcid (%rsi), %rdi; int $0x40");
}

/* ---- TLB ---- */
static void on_pf_map(struct frame *f)
{
	volatile u64 *e = pte_of(root, VA, 1);

	if (read_cr2() != VA) {
		print("FAIL tlb: fault at %#lx\n", read_cr2());
		guest_exit(1);
	}
	*e |= PTE_P | PTE_W;
	trap.hit = true;
	trap.error = f->error;
}

static void tlb(void)
{
	u64 a = (ulong)page_alloc(), b = (ulong)page_alloc(), *e;
	volatile u64 *p = (volatile u64 *)VA;

	*(u64 *)a = 0xaaaa;
	*(u64 *)b = 0xbbbb;
	e = map(VA, a, PTE_P | PTE_W);
	(void)*p;
	*(volatile u64 *)e = b | PTE_P | PTE_W;
	invlpg(VA);
	check_eq("tlb: remapped, invlpg", *p, 0xbbbb);
	*(volatile u64 *)e = a | PTE_P | PTE_W;
	write_cr3(read_cr3());
	check_eq("tlb: remapped, CR3 written", *p, 0xaaaa);
	*(volatile u64 *)e = 0;
	invlpg(VA);
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_pf("tlb: unmapped, invlpg", 0, VA, AT_INSN);
	*(volatile u64 *)e = a | PTE_P | PTE_W;
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_none("tlb: absent entries are not cached");
	*p = 1;
	*(volatile u64 *)e = a | PTE_P;
	invlpg(VA);
	TRY("movb $0, (%0)", ::"r"(VA) : "memory");
	expect_pf("tlb: write permission taken away, invlpg", PF_P | PF_W, VA, AT_INSN);
	/* a handler that adds the permission and returns, without invlpg: the fault drops the entry
	 */
	*(u64 *)a = 0xaaaa;
	(void)*p;
	on_vector(V_PF, on_pf_map);
	trap_begin();
	*p = 0x1234;
	on_vector(V_PF, NULL);
	check(trap.hit && trap.error == (PF_P | PF_W) && *(volatile u64 *)a == 0x1234,
	      "tlb: permission added by the handler", "hit %d error %#lx value %#lx", trap.hit,
	      trap.error, *(u64 *)a);
	map(VA, a, 0);
	on_vector(V_PF, on_pf_map);
	trap_begin();
	__asm__ volatile("incq (%0)" ::"r"(VA) : "memory", "cc");
	on_vector(V_PF, NULL);
	check(trap.hit && trap.error == PF_W && *(volatile u64 *)a == 0x1235,
	      "tlb: page made present by the handler", "hit %d error %#lx value %#lx", trap.hit,
	      trap.error, *(u64 *)a);

	/* upper entries: pointing a PDE to another table */
	volatile u64 *pde = pte_of(root, VA, 2);
	u64 *pt2 = page_alloc(), old = *pde;
	pt2[0] = b | PTE_P | PTE_W;
	(void)*p;
	*pde = (ulong)pt2 | PTE_P | PTE_W | PTE_U;
	invlpg(VA);
	check_eq("tlb: other page table, invlpg", *p, 0xbbbb);
	*pde = old;
	write_cr3(read_cr3());
	check_eq("tlb: old page table, CR3", *p, 0x1235);
	/* a 2M page split into 4K and joined again */
	u64 big = (ulong)pages_alloc(512, LARGE);
	*(u64 *)big = 0xb16;
	*(u64 *)(big + PAGE) = 0xb17;
	*pde = big | PTE_P | PTE_W | PTE_PS;
	invlpg(VA);
	check_eq("tlb: 2M page", p[512], 0xb17);
	*pde = old;
	invlpg(VA);
	map(VA + PAGE, b, PTE_P);
	check_eq("tlb: 2M page split: first", *p, 0x1235);
	check_eq("tlb: 2M page split: second", p[512], 0xbbbb);
	*pde = big | PTE_P | PTE_W | PTE_PS;
	invlpg(VA + PAGE);
	invlpg(VA);
	check_eq("tlb: joined", p[512], 0xb17);
	/* invlpg of one address of a large page drops all of it */
	(void)p[0];
	(void)p[512];
	*pde = 0;
	invlpg(VA + 123 * PAGE + 5);
	TRY("movb (%0), %%al", ::"r"(VA + PAGE) : "rax", "memory");
	expect_pf("tlb: invlpg anywhere in a 2M page drops it", 0, VA + PAGE, AT_INSN);
	*pde = old;
	invlpg(VA);

	/* global pages */
	u64 cr4 = read_cr4();
	write_cr4(cr4 | CR4_PGE);
	*(volatile u64 *)e = a | PTE_P | PTE_W | PTE_G;
	invlpg(VA);
	(void)*p;
	*(volatile u64 *)e = b | PTE_P | PTE_W | PTE_G;
	write_cr3(read_cr3());
	u64 v = *p;
	check(v == 0xbbbb || v == 0x1235, "tlb: global entry after CR3: old or new", "%#lx", v);
	write_cr4(cr4 & ~CR4_PGE);
	check_eq("tlb: clearing PGE drops global entries", *p, 0xbbbb);
	write_cr4(cr4 | CR4_PGE);
	(void)*p;
	*(volatile u64 *)e = a | PTE_P | PTE_W | PTE_G;
	write_cr4(cr4 & ~CR4_PGE);
	write_cr4(cr4 | CR4_PGE);
	check_eq("tlb: toggling PGE drops global entries", *p, 0x1235);
	(void)*p;
	*(volatile u64 *)e = b | PTE_P | PTE_W | PTE_G;
	invlpg(VA);
	check_eq("tlb: invlpg drops a global entry", *p, 0xbbbb);
	write_cr4(cr4);
	*(volatile u64 *)e = 0;
	invlpg(VA);

	/* code through a remapped page */
	((u8 *)a)[0] = 0xb8, *(u32 *)(a + 1) = 11, ((u8 *)a)[5] = 0xc3;
	((u8 *)b)[0] = 0xb8, *(u32 *)(b + 1) = 22, ((u8 *)b)[5] = 0xc3;
	bool good = true;
	for (unsigned i = 0; i < 50; i++) {
		map(VA, i & 1 ? b : a, PTE_P);
		u32 (*fn)(void) = (u32(*)(void))VA;
		good &= fn() == (i & 1 ? 22 : 11);
	}
	check(good, "tlb: code page remapped many times", "wrong code ran");
	map(VA, 0, 0);
}

/* ---- other roots, PCID ---- */
static void roots(void)
{
	u64 *r2 = pml4_clone(), a = (ulong)page_alloc(), b = (ulong)page_alloc();
	volatile u64 *p = (volatile u64 *)VA;
	bool good = true;

	*(u64 *)a = 1;
	*(u64 *)b = 2;
	((u8 *)a)[64] = ((u8 *)b)[64] = 0xb8;
	*(u32 *)(a + 65) = 101;
	*(u32 *)(b + 65) = 102;
	((u8 *)a)[69] = ((u8 *)b)[69] = 0xc3;
	r2[VA >> 39 & 511] = 0;
	*pte_of(root, VA, 1) = a | PTE_P | PTE_W;
	*pte_of(r2, VA, 1) = b | PTE_P | PTE_W;
	for (unsigned i = 0; i < 20; i++) {
		write_cr3((ulong)root);
		good &= *p == 1 && ((u32(*)(void))(VA + 64))() == 101;
		write_cr3((ulong)r2);
		good &= *p == 2 && ((u32(*)(void))(VA + 64))() == 102;
	}
	write_cr3((ulong)root);
	check(good, "cr3: two address spaces, data and code", "wrong page seen");
	if (!cpuid_has(1, 0, 'c', 17)) {
		skip("pcid", "not in CPUID");
		goto out;
	}
	TRY_WRITE_CR(4, (read_cr4() | CR4_PCIDE));
	expect_none("pcid: enable");
	write_cr4(read_cr4() & ~CR4_PCIDE);
	write_cr3((ulong)root | 0x10); /* PCD: becomes PCID 0x10 */
	TRY_WRITE_CR(4, (read_cr4() | CR4_PCIDE));
	expect("pcid: enable with CR3 bits 11:0 set is #GP", V_GP, 0, AT_INSN);
	write_cr3((ulong)root);
	write_cr4(read_cr4() | CR4_PCIDE);
	TRY_WRITE_CR(0, (read_cr0() & ~CR0_PG));
	expect("pcid: clearing CR0.PG is #GP", V_GP, 0, AT_INSN);
	good = true;
	write_cr3((ulong)root | 1);
	write_cr3((ulong)r2 | 2);
	for (unsigned i = 0; i < 20; i++) {
		write_cr3((ulong)root | 1 | (i & 1 ? 1ul << 63 : 0));
		good &= *p == 1 && ((u32(*)(void))(VA + 64))() == 101;
		write_cr3((ulong)r2 | 2 | (i & 2 ? 1ul << 63 : 0));
		good &= *p == 2 && ((u32(*)(void))(VA + 64))() == 102;
	}
	check(good, "pcid: NOFLUSH switches between two spaces", "wrong page seen");
	check_eq("pcid: bit 63 reads as 0", read_cr3(), (ulong)r2 | 2);
	/* CR3 write without NOFLUSH drops what the PCID had */
	u64 *e2 = pte_of(r2, VA, 1);
	(void)*p;
	*(volatile u64 *)e2 = a | PTE_P | PTE_W;
	write_cr3((ulong)r2 | 2);
	check_eq("pcid: CR3 without NOFLUSH drops its entries", *p, 1);
	*(volatile u64 *)e2 = b | PTE_P | PTE_W;
	invlpg(VA);
	check_eq("pcid: invlpg in the current PCID", *p, 2);
	/* changed while another PCID is current, then flushed by the switch */
	write_cr3((ulong)root | 1 | 1ul << 63);
	*(volatile u64 *)e2 = a | PTE_P | PTE_W;
	write_cr3((ulong)r2 | 2);
	check_eq("pcid: changed from another space, switch flushes", *p, 1);
	TRY_WRITE_CR(3, (ulong)root | 1ul << 62);
	expect("pcid: CR3 bit 62 is #GP", V_GP, 0, AT_INSN);

	if (!cpuid_has(7, 0, 'b', 10)) {
		skip("invpcid", "not in CPUID");
	} else {
		struct {
			u64 pcid, addr;
		} d = { 2, VA };

		*(volatile u64 *)e2 = b | PTE_P | PTE_W;
		INVPCID(0);
		check(!trap.hit && *p == 2, "invpcid: one address", "vector %u value %lu",
		      trap.vector, *p);
		*(volatile u64 *)e2 = a | PTE_P | PTE_W;
		d.addr = 0;
		INVPCID(1);
		check(!trap.hit && *p == 1, "invpcid: one PCID", "vector %u value %lu", trap.vector,
		      *p);
		*(volatile u64 *)e2 = b | PTE_P | PTE_W;
		d.pcid = 0;
		INVPCID(2);
		check(!trap.hit && *p == 2, "invpcid: all with globals", "vector %u value %lu",
		      trap.vector, *p);
		*(volatile u64 *)e2 = a | PTE_P | PTE_W;
		INVPCID(3);
		check(!trap.hit && *p == 1, "invpcid: all without globals", "vector %u value %lu",
		      trap.vector, *p);
		/* globals under types 1 and 3 may stay; type 2 must drop them */
		write_cr4(read_cr4() | CR4_PGE);
		*(volatile u64 *)e2 = a | PTE_P | PTE_W | PTE_G;
		INVPCID(2);
		(void)*p;
		*(volatile u64 *)e2 = b | PTE_P | PTE_W | PTE_G;
		INVPCID(2);
		check_eq("invpcid: type 2 drops global entries", *p, 2);
		write_cr4(read_cr4() & ~CR4_PGE);
		/* of another PCID */
		write_cr3((ulong)root | 1 | 1ul << 63);
		(void)*p;
		*(volatile u64 *)e2 = a | PTE_P | PTE_W;
		d.pcid = 2, d.addr = VA;
		INVPCID(0);
		write_cr3((ulong)r2 | 2 | 1ul << 63);
		check_eq("invpcid: address of another PCID", *p, 1);
		INVPCID(4);
		expect("invpcid: type 4 is #GP", V_GP, 0, AT_INSN);
		d.pcid = 0x1000;
		INVPCID(1);
		expect("invpcid: reserved bits of the descriptor are #GP", V_GP, 0, AT_INSN);
		d.pcid = 2, d.addr = 0x8000000000000000;
		INVPCID(0);
		expect("invpcid: non-canonical address is #GP", V_GP, 0, AT_INSN);
		user_run(user_invpcid, 0, (ulong)user_stack);
		expect("invpcid: CPL 3 is #GP", V_GP, 0, AT_INSN);
	}
	write_cr3((ulong)root);
	write_cr4(read_cr4() & ~CR4_PCIDE);
out:
	write_cr3((ulong)root);
	*pte_of(root, VA, 1) = 0;
	invlpg(VA);
	if (!hostile("cr3: bit 63 without PCIDE is #GP")) {
		TRY_WRITE_CR(3, (ulong)root | 1ul << 63);
		expect("cr3: bit 63 without PCIDE is #GP", V_GP, 0, AT_INSN);
	}
	write_cr3((ulong)root);
}

/* ---- code of CPL 3 in several spaces ---- */

#define USPACES 10 /* more than an implementation may keep at once */

USER_TEXT __attribute__((naked)) static void user_call(void)
{
	__asm__("call *%rdi; int $0x40");
}

static u64 *uroot[USPACES], uframe[USPACES + 2];

/* In @space, what does the function at VA return? */
static u32 call_in(unsigned space, bool noflush)
{
	write_cr3((ulong)uroot[space] | (space + 1) | (noflush ? 1ul << 63 : 0));
	return (u32)user_run(user_call, VA, 0);
}

static void set_page(unsigned space, unsigned frame, u64 bits)
{
	*(volatile u64 *)pte_of(uroot[space], VA, 1) = uframe[frame] | PTE_P | PTE_U | bits;
}

/* Another space's page is changed, and invalidated from here by INVPCID @type. */
static void other_space(const char *name, unsigned type)
{
	struct {
		u64 pcid, addr;
	} d = { 1, VA };

	set_page(0, 0, 0);
	call_in(0, false);
	call_in(1, false);
	call_in(0, true);
	call_in(1, true);
	set_page(0, USPACES, 0);
	if (type == 0)
		d.pcid = 1;
	INVPCID(type);
	check_eq(name, call_in(0, true), USPACES);
}

static void user_spaces(void)
{
	bool good = true;

	if (!cpuid_has(1, 0, 'c', 17)) {
		skip("user spaces", "no PCID in CPUID");
		return;
	}
	for (unsigned i = 0; i < USPACES + 2; i++) {
		u8 *code = page_alloc();

		code[0] = 0xb8; /* mov eax, i; ret */
		*(u32 *)(code + 1) = i;
		code[5] = 0xc3;
		uframe[i] = (ulong)code;
	}
	for (unsigned i = 0; i < USPACES; i++) {
		uroot[i] = pml4_clone();
		uroot[i][VA >> 39 & 511] = 0;
		set_page(i, i, 0);
	}
	write_cr4(read_cr4() | CR4_PCIDE);
	for (unsigned i = 0; i < 4 * USPACES; i++)
		good &= call_in(i % USPACES, i >= USPACES) == i % USPACES;
	for (unsigned i = 0; i < 100; i++)
		good &= call_in(i * 7 % 3, true) == i * 7 % 3;
	check(good, "user spaces: each runs its own code", "another space's code ran");
	set_page(0, USPACES, 0);
	check_eq("user spaces: changed from another one, switch flushes", call_in(0, false),
		 USPACES);
	if (cpuid_has(7, 0, 'b', 10)) {
		other_space("user spaces: invpcid of one address from another one", 0);
		other_space("user spaces: invpcid of the PCID from another one", 1);
		other_space("user spaces: invpcid of all without globals from another one", 3);
		other_space("user spaces: invpcid of all from another one", 2);
	}
	write_cr4(read_cr4() | CR4_PGE);
	set_page(0, 0, PTE_G);
	set_page(1, 0, PTE_G);
	call_in(0, false);
	call_in(1, false);
	call_in(0, true);
	call_in(1, true);
	set_page(0, USPACES + 1, PTE_G);
	set_page(1, USPACES + 1, PTE_G);
	invlpg(VA);
	check_eq("user spaces: invlpg drops a global page of all", call_in(0, true), USPACES + 1);
	write_cr4(read_cr4() & ~CR4_PGE);
	write_cr3((ulong)root);
	write_cr4(read_cr4() & ~CR4_PCIDE);
}

int main(void)
{
	root = boot_pml4;
	fpu_on();
	tlb();
	roots();
	user_spaces();
	return 0;
}
