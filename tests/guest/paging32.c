/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paging of 32-bit protected mode: two levels with 4K and 4M pages, and PAE with three
 * levels, 4K and 2M pages and NX. As in paging.c, permission bits are compared with a model.
 */
#include "rt.h"

#define VA 0x40000000ul

USER_TEXT __attribute__((naked)) static void u_read(void)
{
	__asm__("movb (%edi), %al; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_write(void)
{
	__asm__("movb $0xc3, (%edi); int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_exec(void)
{
	__asm__("call *%edi; int $0x40");
}
static const void *const user_fn[] = { u_read, u_write, u_exec };
static const char *const access_name[] = { "read", "write", "exec" };
enum access { READ, WRITE, EXEC };

static void kernel_access(enum access a, ulong va)
{
	if (a == READ)
		TRY("movb (%0), %%al", ::"r"(va) : "eax", "memory");
	else if (a == WRITE)
		TRY("movb $0xc3, (%0)", ::"r"(va) : "memory");
	else
		TRY("call *%0", ::"r"(va) : "memory");
}

struct config {
	bool pae, wp, smep, nxe;
};

static void pager_on(ulong cr3, const struct config *c)
{
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr4((read_cr4() & ~(CR4_PAE | CR4_PSE | CR4_SMEP)) | CR4_PSE |
		  (c->pae ? CR4_PAE : 0) | (c->smep ? CR4_SMEP : 0));
	wrmsr(MSR_EFER, c->nxe ? EFER_NXE : 0);
	write_cr3(cr3);
	write_cr0((read_cr0() & ~CR0_WP) | CR0_PG | (c->wp ? CR0_WP : 0));
}
static void pager_off(void)
{
	write_cr0((read_cr0() & ~CR0_PG) | CR0_WP);
	write_cr4(read_cr4() & ~(CR4_PAE | CR4_SMEP));
}

/* Entries of @width bytes: leaf and the one above it. */
static u64 get(const volatile void *p, bool pae)
{
	return pae ? *(volatile u64 *)p : *(volatile u32 *)p;
}
static void put(volatile void *p, u64 v, bool pae)
{
	if (pae)
		*(volatile u64 *)p = v;
	else
		*(volatile u32 *)p = v;
}

static void matrix(const char *name, const struct config *c, volatile void *leaf,
		   volatile void *mid, u64 page, bool large)
{
	unsigned bad = 0, n = c->pae ? 16 : 8;
	u64 mid_old = mid ? get(mid, c->pae) : 0,
	    mid_base = mid_old & ~(u64)(PTE_P | PTE_W | PTE_U | PTE_A | PTE_D);
	ulong va = VA + (large ? 0x5000 : 0);

	for (unsigned i = 0; i < (mid ? n * n : n) * 6; i++) {
		static const u64 bits[] = { PTE_P, PTE_W, PTE_U, PTE_NX };
		enum access a = i % 3;
		bool user = i / 3 % 2;
		u64 l = page | (large ? PTE_PS : 0), m = mid_base;

		for (unsigned b = 0; b < (c->pae ? 4 : 3); b++) {
			l |= (i / 6 % n) >> b & 1 ? bits[b] : 0;
			m |= (i / 6 / n) >> b & 1 ? bits[b] : 0;
		}
		put(leaf, l, c->pae);
		if (mid)
			put(mid, m, c->pae);
		invlpg(va);
		if (user)
			user_run(user_fn[a], va, 0);
		else
			kernel_access(a, va);

		ulong error = (a == WRITE ? PF_W : 0) | (user ? PF_U : 0) |
			      (a == EXEC && ((c->pae && c->nxe) || c->smep) ? PF_I : 0);
		bool both_u = (l & PTE_U) && (!mid || (m & PTE_U)),
		     both_w = (l & PTE_W) && (!mid || (m & PTE_W));
		bool nx = c->pae && ((l & PTE_NX) || (mid && (m & PTE_NX))), fault;
		if (mid && !(m & PTE_P)) {
			fault = true;
		} else if (mid && c->pae && !c->nxe && (m & PTE_NX)) {
			fault = true, error |= PF_P | PF_RSVD;
		} else if (!(l & PTE_P)) {
			fault = true;
		} else if (c->pae && !c->nxe && (l & PTE_NX)) {
			fault = true, error |= PF_P | PF_RSVD;
		} else {
			error |= PF_P;
			fault = (user && !both_u) || (a == WRITE && !both_w && (user || c->wp)) ||
				(a == EXEC && nx) || (!user && both_u && a == EXEC && c->smep);
		}
		bool hit = trap.hit && trap.vector != V_USER_RET;
		u64 l2 = get(leaf, c->pae);
		const char *what = NULL;
		if (hit != fault || (hit && (trap.vector != V_PF || trap.error != error)))
			what = "outcome";
		else if (hit && trap.cr2 != va)
			what = "cr2";
		else if (hit && l2 != l)
			what = "leaf changed by a fault";
		else if (!hit && l2 != (l | PTE_A | (a == WRITE ? PTE_D : 0)))
			what = "leaf A/D";
		else if (!hit && mid && get(mid, c->pae) != (m | PTE_A))
			what = "A of the entry above";
		if (what && !bad++)
			fail(name,
			     "%s: %s by CPL %d, leaf %#llx above %#llx: vector %u error %#lx, want "
			     "%s %#lx; after: %#llx",
			     what, access_name[a], user ? 3 : 0, (unsigned long long)l,
			     (unsigned long long)m, hit ? trap.vector : 0, trap.error,
			     fault ? "fault" : "none", error, (unsigned long long)l2);
	}
	if (mid)
		put(mid, mid_old | PTE_P | PTE_W | PTE_U, c->pae);
	put(leaf, 0, c->pae);
	invlpg(va);
	if (!bad)
		ok(name);
}

/* ---- two levels ---- */
static void two_levels(void)
{
	u32 *pd = page_alloc(), *pt = page_alloc();
	u8 *page = page_alloc();
	u8 *big = pages_alloc(1024, 4ul << 20);
	bool smep = cpuid_has(7, 0, 'b', 7);

	page[0] = big[0x5000] = 0xc3;
	for (unsigned i = 0; i < 1024; i++)
		pd[i] = i < 256 || i >= 0x3f0 ? i << 22 | 0x83 | (i == 2 ? 4 : 0) : 0;
	pd[VA >> 22] = (ulong)pt | 7;
	static const struct {
		const char *name, *big_name;
		struct config c;
	} list[] = {
		{ "32-bit 4K, wp", "32-bit 4M, wp", { .wp = 1 } },
		{ "32-bit 4K, no wp", "32-bit 4M, no wp", { 0 } },
		{ "32-bit 4K, smep", "32-bit 4M, smep", { .wp = 1, .smep = 1 } },
		{ "32-bit 4K, nxe means nothing",
		  "32-bit 4M, nxe means nothing",
		  { .wp = 1, .nxe = 1 } },
	};
	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		if (list[i].c.smep && !smep)
			continue;
		pager_on((ulong)pd, &list[i].c);
		pd[VA >> 22] = (ulong)pt | 7;
		matrix(list[i].name, &list[i].c, &pt[0], &pd[VA >> 22], (ulong)page, false);
		matrix(list[i].big_name, &list[i].c, &pd[VA >> 22], NULL, (ulong)big, true);
		pd[VA >> 22] = (ulong)pt | 7;
		write_cr3((ulong)pd);
	}
	static const struct config plain = { .wp = 1 };
	pager_on((ulong)pd, &plain);
	/* reserved bits of a 4M entry */
	pd[VA >> 22] = (ulong)big | 0x83 | 1 << 21;
	invlpg(VA);
	kernel_access(READ, VA);
	expect_pf("32-bit 4M: bit 21 is reserved", PF_P | PF_RSVD, VA, AT_INSN);
	pd[VA >> 22] = (ulong)big | 0x83 | 1 << 12;
	invlpg(VA);
	kernel_access(READ, VA + 0x5000);
	expect_none("32-bit 4M: bit 12 is PAT");
	pd[VA >> 22] = (ulong)pt | 7;
	pt[1] = (ulong)page | 3;
	invlpg(VA + PAGE);
	/* the 4 GiB wrap: the last page and the first */
	static volatile u32 v;
	TRY("movl %%fs:0, %%eax", ::: "eax");
	expect("32-bit: null FS is #GP", V_GP, 0, AT_INSN);
	/* paging off and on again: the page tables are not used in between */
	*(volatile u32 *)(VA + PAGE + 8) = 0x1234;
	pager_off();
	v = *(volatile u32 *)(page + 8);
	check_eq("32-bit: the same memory with paging off", v, 0x1234);
	pager_on((ulong)pd, &plain);
	check_eq("32-bit: and on again", *(volatile u32 *)(VA + PAGE + 8), 0x1234);
	/* invlpg, CR3 */
	u32 *other = page_alloc();
	other[2] = 0x5678;
	pt[1] = (ulong)other | 3;
	invlpg(VA + PAGE);
	check_eq("32-bit: invlpg", *(volatile u32 *)(VA + PAGE + 8), 0x5678);
	pt[1] = (ulong)page | 3;
	write_cr3((ulong)pd);
	check_eq("32-bit: CR3", *(volatile u32 *)(VA + PAGE + 8), 0x1234);
	/* access across two pages */
	pt[2] = (ulong)other | 3;
	invlpg(VA + 2 * PAGE);
	*(volatile u32 *)(VA + 2 * PAGE - 2) = 0xaabbccdd;
	check(*(u16 *)(page + 4094) == 0xccdd && *(volatile u16 *)other == 0xaabb,
	      "32-bit: store across two pages", "%#x %#x", *(u16 *)(page + 4094), *(u16 *)other);
	pt[2] = 0;
	invlpg(VA + 2 * PAGE);
	TRY("movl %0, (%1)", ::"r"(0), "r"(VA + 2 * PAGE - 2) : "memory");
	expect_pf("32-bit: store across, second page absent", PF_W, VA + 2 * PAGE, AT_INSN);
	check_eq("32-bit: nothing stored", *(u16 *)(page + 4094), 0xccdd);
	pager_off();
}

/* ---- PAE ---- */

/* The walk marks no pointer entry as accessed; the bit is reserved, so what marks it cannot load
 * them again. */
static void check_pointers(u64 *pdpt)
{
	u64 marked = (pdpt[0] | pdpt[1] | pdpt[2] | pdpt[3]) & PTE_A;

	check_eq("PAE: pointer entries stay as they are", marked, 0);
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] &= ~(u64)PTE_A;
}

static bool is_amd(void)
{
	u32 a = 0, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	return b == 0x68747541 /* Auth */ || b == 0x6f677948 /* Hygo */;
}

static void pae(void)
{
	u64 *pdpt = page_alloc(), *pt = page_alloc(), *pd[4];
	u8 *page = page_alloc(), *big = pages_alloc(512, LARGE);
	bool smep = cpuid_has(7, 0, 'b', 7);

	page[0] = big[0x5000] = 0xc3;
	for (unsigned i = 0; i < 4; i++) {
		pd[i] = page_alloc();
		pdpt[i] = (ulong)pd[i] | PTE_P;
		for (unsigned k = 0; k < 512; k++) {
			u32 at = i << 30 | k << 21;
			if (at < 0x10000000 || at >= 0xfc000000)
				pd[i][k] = at | 0x83 | (at == 0x800000 ? PTE_U : 0);
		}
	}
	u64 *pde = &pd[1][0];
	static const struct {
		const char *name, *big_name;
		struct config c;
	} list[] = {
		{ "PAE 4K, wp", "PAE 2M, wp", { .pae = 1, .wp = 1, .nxe = 1 } },
		{ "PAE 4K, no wp", "PAE 2M, no wp", { .pae = 1, .nxe = 1 } },
		{ "PAE 4K, no nxe", "PAE 2M, no nxe", { .pae = 1, .wp = 1 } },
		{ "PAE 4K, smep", "PAE 2M, smep", { .pae = 1, .wp = 1, .smep = 1, .nxe = 1 } },
	};
	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		if (list[i].c.smep && !smep)
			continue;
		pager_on((ulong)pdpt, &list[i].c);
		*pde = (ulong)pt | 7;
		matrix(list[i].name, &list[i].c, &pt[0], pde, (ulong)page, false);
		matrix(list[i].big_name, &list[i].c, pde, NULL, (ulong)big, true);
		*pde = (ulong)pt | 7;
		write_cr3((ulong)pdpt);
		pager_off();
		check_pointers(pdpt);
	}
	pager_on((ulong)pdpt, &list[0].c);
	*(volatile u64 *)pde = (ulong)pt | 7;
	pt[0] = (ulong)page | 3 | 1ull << 52;
	write_cr3((ulong)pdpt);
	kernel_access(READ, VA);
	expect_pf("PAE: bit 52 is reserved", PF_P | PF_RSVD, VA, AT_INSN);
	pt[0] = (ulong)page | 3;
	*(volatile u64 *)pde = (ulong)big | 0x83 | 1 << 13;
	write_cr3((ulong)pdpt);
	kernel_access(READ, VA);
	expect_pf("PAE: bit 13 of a 2M page is reserved", PF_P | PF_RSVD, VA, AT_INSN);
	*(volatile u64 *)pde = (ulong)pt | 7;
	/* page directory pointers are checked when CR3 is written; CR3 has a 32-byte granule */
	u64 *bad = (u64 *)((u8 *)page_alloc() + 0x120);
	memcpy(bad, pdpt, 32);
	TRY("mov %0, %%cr3", ::"r"(bad) : "memory");
	expect_none("PAE: CR3 at a multiple of 32 bytes");
	bad[1] |= PTE_W;
	TRY("mov %0, %%cr3", ::"r"(bad) : "memory");
	/* With AMD's nested paging the entries are read when they are used (APM 2, 15.25.10). */
	if (on_kvm && is_amd() && !trap.hit) {
		kernel_access(READ, VA);
		expect_pf("PAE: reserved bit of a pointer entry is found when used", PF_P | PF_RSVD,
			  VA, AT_INSN);
	} else {
		expect("PAE: reserved bit of a pointer entry is #GP", V_GP, 0, AT_INSN);
	}
	bad[1] = 0;
	TRY("mov %0, %%cr3", ::"r"(bad) : "memory");
	expect_none("PAE: absent pointer entry");
	kernel_access(WRITE, VA);
	expect_pf("PAE: fault through an absent pointer entry", PF_W, VA, AT_INSN);
	write_cr3((ulong)pdpt);
	kernel_access(WRITE, VA);
	expect_none("PAE: back");
	/* from PAE to two levels and back with paging off in between is done by pager_on above */
	TRY("mov %0, %%cr4", ::"r"(read_cr4() | CR4_PCIDE) : "memory");
	expect("PAE: PCIDE outside long mode is #GP", V_GP, 0, AT_INSN);
	pager_off();
	wrmsr(MSR_EFER, 0);
}

int main(void)
{
	two_levels();
	pae();
	return 0;
}
