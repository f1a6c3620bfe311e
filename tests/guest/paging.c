/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four-level paging. The first half compares every combination of permission bits
 * with a model of the architecture (Intel SDM 3A, chapter "Paging"): fault or not, exact
 * error code, CR2, accessed and dirty bits. The rest are single cases.
 */
#include "rt.h"

#define VA 0x10000000000ul /* 1 GiB aligned, private to a test */

enum access { READ, WRITE, EXEC };
static const char *const access_name[] = { "read", "write", "exec" };

static u64 *root;

/* CPL 3: read, write or call the address in rdi */
USER_TEXT __attribute__((naked)) static void user_read(void)
{
	__asm__("movb (%rdi), %al; int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_write(void)
{
	__asm__("movb $0xc3, (%rdi); int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_exec(void)
{
	__asm__("call *%rdi; int $0x40");
}
static const void *const user_fn[] = { user_read, user_write, user_exec };

static void kernel_access(enum access a, ulong va, bool ac)
{
	ulong flags = ac ? FL_AC : 0;

	/* AC is set inside the TRY: only the one access runs with it */
	if (a == READ)
		TRY("pushf; orq %1, (%%rsp); popf; movb (%0), %%al; pushf; andq $~0x40000, (%%rsp); popf",
		    ::"r"(va), "r"(flags) : "rax", "memory", "cc");
	else if (a == WRITE)
		TRY("pushf; orq %1, (%%rsp); popf; movb $0xc3, (%0); pushf; andq $~0x40000, (%%rsp); popf",
		    ::"r"(va), "r"(flags) : "memory", "cc");
	else
		TRY("pushf; orq %1, (%%rsp); popf; call *%0; pushf; andq $~0x40000, (%%rsp); popf",
		    ::"r"(va), "r"(flags) : "memory", "cc");
}

struct config {
	bool wp, smep, smap, nxe;
};

static void config_set(const struct config *c)
{
	write_cr0((read_cr0() & ~CR0_WP) | (c->wp ? CR0_WP : 0));
	write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | (c->smep ? CR4_SMEP : 0) | (c->smap ? CR4_SMAP : 0));
	wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~(u64)EFER_NXE) | (c->nxe ? EFER_NXE : 0));
}

struct want {
	bool fault;
	ulong error;
};

/* What the architecture says; @leaf the leaf entry, @mid the entry above it (others permit all). */
static struct want model(const struct config *c, u64 leaf, u64 mid, enum access a, bool user, bool ac)
{
	struct want w = { true, (a == WRITE ? PF_W : 0) | (user ? PF_U : 0) |
			  (a == EXEC && (c->nxe || c->smep) ? PF_I : 0) };
	bool u = leaf & mid & PTE_U, wr = leaf & mid & PTE_W, nx = (leaf | mid) & PTE_NX;

	if (!(mid & PTE_P))
		return w;
	if (!c->nxe && (mid & PTE_NX)) {
		w.error |= PF_P | PF_RSVD;
		return w;
	}
	if (!(leaf & PTE_P))
		return w;
	w.error |= PF_P;
	if (!c->nxe && (leaf & PTE_NX)) {
		w.error |= PF_RSVD;
		return w;
	}
	w.fault = (user && !u) || (a == WRITE && !wr && (user || c->wp)) || (a == EXEC && nx) ||
		  (!user && u && a == EXEC && c->smep) || (!user && u && a != EXEC && c->smap && !ac);
	return w;
}

static u64 phys_of_code; /* a page whose first byte is RET */

/*
 * All permission bits of the leaf (@level: 1 4K, 2 2M, 3 1G) and the entry above,
 * every access, both privilege levels.
 */
static void matrix(const char *name, unsigned level, const struct config *c, bool ac)
{
	u64 size = level == 1 ? PAGE : level == 2 ? LARGE : 1ul << 30;
	u64 va = VA + (phys_of_code & (size - 1)), *leaf = pte_of(root, va, level);
	u64 *mid = pte_of(root, va, level + 1), *top = level < 3 ? pte_of(root, va, 4) : NULL;
	u64 mid_base = *mid & ~(PTE_W | PTE_U | PTE_NX);
	u64 leaf_base = (phys_of_code & ~(size - 1)) | (level > 1 ? PTE_PS : 0);
	unsigned bad = 0, done = 0;

	config_set(c);
	for (unsigned i = 0; i < 256 * 6; i++) {
		static const u64 bits[] = { PTE_P, PTE_W, PTE_U, PTE_NX };
		u64 l = leaf_base, m = mid_base & ~PTE_P;
		enum access a = i % 3;
		bool user = i / 3 % 2;

		for (unsigned b = 0; b < 4; b++) {
			l |= i / 6 >> b & 1 ? bits[b] : 0;
			m |= i / 6 >> (4 + b) & 1 ? bits[b] : 0;
		}
		m &= ~(PTE_A | PTE_D);
		*(volatile u64 *)leaf = l;
		*(volatile u64 *)mid = m;
		if (top)
			*(volatile u64 *)top &= ~PTE_A;
		invlpg(va);
		struct want w = model(c, l, m, a, user, ac);
		if (user)
			user_run_flags(user_fn[a], va, 0, ac ? FL_AC : 0);
		else
			kernel_access(a, va, ac);
		u64 l2 = *(volatile u64 *)leaf, m2 = *(volatile u64 *)mid;
		bool fault = trap.hit && trap.vector != V_USER_RET;
		const char *what = NULL;

		if (fault != w.fault || (fault && (trap.vector != V_PF || trap.error != w.error)))
			what = "outcome";
		else if (fault && trap.cr2 != va)
			what = "cr2";
		else if (fault && a == EXEC && trap.ip != va)
			what = "rip";
		else if (fault && l2 != l)
			what = "leaf changed by a fault";
		else if (!fault && (l2 != (l | PTE_A | (a == WRITE ? PTE_D : 0))))
			what = "leaf A/D";
		else if (!fault && m2 != (m | PTE_A))
			what = "A of the entry above";
		else if (!fault && top && !(*(volatile u64 *)top & PTE_A))
			what = "A of the PML4 entry";
		done++;
		if (what && !bad++)
			fail(name, "%s: %s by CPL %d, leaf %#lx above %#lx: got %s vector %u error %#lx cr2 %#lx, "
			     "want %s %#lx; after: leaf %#lx above %#lx", what, access_name[a], user ? 3 : 0,
			     l, m, fault ? "fault" : "none", trap.vector, trap.error, trap.cr2,
			     w.fault ? "fault" : "none", w.error, l2, m2);
	}
	*mid = mid_base | PTE_P | PTE_W | PTE_U;
	*leaf = 0;
	invlpg(va);
	if (bad)
		print("# %s: %u of %u differ\n", name, bad, done);
	else
		ok(name);
	config_set(&(struct config){ .wp = true, .nxe = true });
}

static void matrices(void)
{
	static const struct {
		const char *name;
		struct config c;
		bool ac;
	} list[] = {
		{ "wp", { .wp = 1, .nxe = 1 }, 0 },
		{ "no wp", { .nxe = 1 }, 0 },
		{ "no nxe", { .wp = 1 }, 0 },
		{ "smep", { .wp = 1, .smep = 1, .nxe = 1 }, 0 },
		{ "smep without nxe", { .wp = 1, .smep = 1 }, 0 },
		{ "smap", { .wp = 1, .smap = 1, .nxe = 1 }, 0 },
		{ "smap with AC", { .wp = 1, .smap = 1, .nxe = 1 }, 1 },
		{ "smep and smap, no wp", { .smep = 1, .smap = 1, .nxe = 1 }, 0 },
	};
	static const char *const size_name[] = { "", "4K", "2M", "1G" };
	bool smep = cpuid_has(7, 0, 'b', 7), smap = cpuid_has(7, 0, 'b', 20);
	bool huge = cpuid_has(0x80000001, 0, 'd', 26);

	for (unsigned level = 1; level <= 3; level++)
		for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
			char name[64] = "permissions ";
			char *p = name + 12;

			for (const char *s = size_name[level]; *s; s++)
				*p++ = *s;
			*p++ = ' ';
			for (const char *s = list[i].name; *s; s++)
				*p++ = *s;
			*p = 0;
			if ((level == 3 && !huge) || (list[i].c.smep && !smep) || (list[i].c.smap && !smap))
				skip(name, "not in CPUID");
			else
				matrix(name, level, &list[i].c, list[i].ac);
		}
}

/* ---- accessed and dirty ---- */
static void accessed_dirty(void)
{
	u64 page = (ulong)page_alloc(), *e = map(VA, page, PTE_P | PTE_W);
	volatile u64 *pte = e;
	volatile u32 *p = (volatile u32 *)VA;

	(void)*p;
	check_eq("AD: read sets A only", *pte & (PTE_A | PTE_D), PTE_A);
	*p = 1;
	check_eq("AD: write after a read sets D", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~PTE_D;
	invlpg(VA);
	*p = 2;
	check_eq("AD: D set again after invlpg", *pte & PTE_D, PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("lock cmpxchgl %1, (%0)" ::"r"(p), "r"(5), "a"(99) : "memory", "cc");
	check_eq("AD: failing cmpxchg writes", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("cmpl $0, (%0)" ::"r"(p) : "memory", "cc");
	check_eq("AD: cmp does not write", *pte & (PTE_A | PTE_D), PTE_A);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("orl $0, (%0)" ::"r"(p) : "memory", "cc");
	check_eq("AD: or of zero writes", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("push (%0); pop (%0)" ::"r"(p) : "memory");
	check_eq("AD: pop to memory writes", *pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("prefetcht0 (%0); lea (%0), %%rax; invlpg (%0)" ::"r"(p) : "rax", "memory");
	check(!(*pte & PTE_D), "AD: prefetch and lea do not set D", "pte %#lx", *pte);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(VA);
	__asm__ volatile("xor %%ecx, %%ecx; rep stosb" ::"D"(p) : "rcx", "memory");
	check_eq("AD: rep stos of count 0 touches nothing", *pte & (PTE_A | PTE_D), 0);

	u64 pa2 = (ulong)pages_alloc(512, LARGE), *pde = pte_of(root, VA + LARGE, 2);
	*(volatile u64 *)pde = pa2 | PTE_P | PTE_W | PTE_PS;
	invlpg(VA + LARGE);
	(void)*(volatile u8 *)(VA + LARGE + 5 * PAGE);
	check_eq("AD: 2M read sets A only", *(volatile u64 *)pde & (PTE_A | PTE_D), PTE_A);
	*(volatile u8 *)(VA + LARGE + 7 * PAGE) = 1;
	check_eq("AD: 2M write elsewhere sets D", *(volatile u64 *)pde & (PTE_A | PTE_D), PTE_A | PTE_D);
	*(volatile u64 *)pde = 0;
	invlpg(VA + LARGE);

	/* A write that crosses two pages sets D in both. */
	u64 *a = map(VA, page, PTE_P | PTE_W), *b = map(VA + PAGE, (ulong)page_alloc(), PTE_P | PTE_W);
	*(volatile u64 *)(VA + PAGE - 3) = 0x1122334455667788;
	check((*a & PTE_D) && (*b & PTE_D), "AD: crossing write sets D in both", "%#lx %#lx", *a, *b);
	check_eq("AD: crossing write stores all bytes", *(volatile u64 *)(VA + PAGE - 3), 0x1122334455667788);

	/* Page tables that map themselves: the walk's A bits are seen through the mapping. */
	u64 *pt = pte_of(root, VA, 1);
	u64 pt_pa = (ulong)pt & ~(PAGE - 1);
	map(VA + 2 * PAGE, pt_pa, PTE_P | PTE_W);
	volatile u64 *alias = (volatile u64 *)(VA + 2 * PAGE) + ((VA >> 12) & 511);
	*alias = page | PTE_P | PTE_W;
	invlpg(VA);
	*p = 3;
	check_eq("AD: seen through an alias of the page table", *alias & (PTE_A | PTE_D), PTE_A | PTE_D);
	alias[3] = (page + 0) | PTE_P | PTE_W;
	check_eq("table: entry written through the alias is used", *(volatile u32 *)(VA + 3 * PAGE), 3);
	alias[3] = 0;
	invlpg(VA + 3 * PAGE);
	for (unsigned i = 0; i < 4; i++)
		map(VA + i * PAGE, 0, 0);
}

/* ---- reserved bits ---- */
static void reserved(void)
{
	unsigned width = cpuid(0x80000008, 0).a & 0xff;
	u64 page = (ulong)page_alloc(), *e[5];

	for (unsigned l = 1; l <= 4; l++)
		e[l] = pte_of(root, VA, l);
	*e[1] = page | PTE_P | PTE_W | PTE_U;
	invlpg(VA);
	static const char *const name[] = { "", "reserved: PTE address", "reserved: PDE address",
					    "reserved: PDPTE address", "reserved: PML4E address" };
	for (unsigned l = 1; l <= 4; l++) {
		if (width >= 52) {
			skip(name[l], "52 physical address bits");
			continue;
		}
		u64 old = *e[l];
		*(volatile u64 *)e[l] = old | 1ull << width;
		invlpg(VA);
		TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
		expect_pf(name[l], PF_P | PF_RSVD, VA, AT_INSN);
		*(volatile u64 *)e[l] = old;
		invlpg(VA);
	}
	u64 old = *e[4];
	*(volatile u64 *)e[4] = old | PTE_PS;
	invlpg(VA);
	TRY("movb $0, (%0)", ::"r"(VA) : "memory");
	expect_pf("reserved: PS in PML4E", PF_P | PF_RSVD | PF_W, VA, AT_INSN);
	*(volatile u64 *)e[4] = old;
	invlpg(VA);

	old = *e[2];
	*(volatile u64 *)e[2] = 0x2000 | PTE_P | PTE_W | PTE_U | PTE_PS;
	invlpg(VA);
	user_run(user_read, VA, 0);
	expect_pf("reserved: bit 13 of a 2M page, CPL 3", PF_P | PF_RSVD | PF_U, VA, AT_INSN);
	*(volatile u64 *)e[2] = 0x100000 | PTE_P | PTE_W | PTE_U | PTE_PS;
	invlpg(VA);
	TRY("call *%0", ::"r"(VA) : "memory");
	expect_pf("reserved: bit 20 of a 2M page, fetch", PF_P | PF_RSVD | PF_I, VA, ANYWHERE);
	/* bit 12 there is PAT, not reserved */
	*(volatile u64 *)e[2] = 0x1000 | PTE_P | PTE_W | PTE_U | PTE_PS;
	invlpg(VA);
	TRY("movb 0x7000(%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_none("reserved: bit 12 of a 2M page is PAT");
	*(volatile u64 *)e[2] = old;
	invlpg(VA);
	if (cpuid_has(0x80000001, 0, 'd', 26)) {
		old = *e[3];
		*(volatile u64 *)e[3] = (1ull << 29) | PTE_P | PTE_W | PTE_U | PTE_PS;
		invlpg(VA);
		TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
		expect_pf("reserved: bit 29 of a 1G page", PF_P | PF_RSVD, VA, AT_INSN);
		*(volatile u64 *)e[3] = old;
		invlpg(VA);
	} else {
		skip("reserved: bit 29 of a 1G page", "no 1G pages");
	}
	/* not present: other bits are free */
	*(volatile u64 *)e[1] = ~PTE_P;
	invlpg(VA);
	TRY("movb $1, (%0)", ::"r"(VA) : "memory");
	expect_pf("reserved: ignored when not present", PF_W, VA, AT_INSN);
	/* available bits 9-11 and 52-58 mean nothing */
	*(volatile u64 *)e[1] = page | PTE_P | PTE_W | 0xe00 | 0x7full << 52;
	invlpg(VA);
	TRY("movb $1, (%0)", ::"r"(VA) : "memory");
	expect_none("reserved: bits 9-11 and 52-58 are available");
	map(VA, 0, 0);
}

/* ---- implicit supervisor accesses ---- */
USER_TEXT __attribute__((naked)) static void user_load_ds(void)
{
	__asm__("mov %edi, %ds; int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_int3(void)
{
	__asm__("int3");
}

static void implicit(void)
{
	u64 gdt_pa = (ulong)pages_alloc(2, PAGE);
	struct dtable old, new;

	__asm__ volatile("sgdt %0" : "=m"(old));
	memcpy((void *)gdt_pa, (void *)old.base, old.limit + 1);
	new = (struct dtable){ old.limit, VA };
	map(VA, gdt_pa, PTE_P | PTE_W);
	__asm__ volatile("lgdt %0" ::"m"(new));
	user_run(user_load_ds, UDS, 0);
	bool fine = check_eq("implicit: descriptor on a supervisor page read for CPL 3", trap.vector, V_USER_RET);
	if (fine) {
		/* the accessed bit is written with supervisor rights, too */
		((u64 *)gdt_pa)[UDS / 8] &= ~(1ull << 40);
		user_run(user_load_ds, UDS, 0);
		check(trap.vector == V_USER_RET && ((volatile u64 *)gdt_pa)[UDS / 8] & 1ull << 40,
		      "implicit: accessed bit of a descriptor written", "vector %u descriptor %#lx", trap.vector,
		      ((u64 *)gdt_pa)[UDS / 8]);
	}
	__asm__ volatile("lgdt %0" ::"m"(old));

	/* not-present descriptor page: #PF with supervisor error code at CPL 3 */
	gdt_set(0, FREE_SEL, 0, 0xfffff, 0xf3, 0xc);
	memcpy((void *)gdt_pa, (void *)old.base, old.limit + 1);
	/* the table's first page holds what the handlers need, the second the tested selector */
	new = (struct dtable){ 0x1fff, VA };
	map(VA, gdt_pa, PTE_P | PTE_W);
	map(VA + PAGE, gdt_pa + PAGE, 0);
	__asm__ volatile("lgdt %0" ::"m"(new));
	user_run(user_load_ds, 0x1003, 0);
	expect_pf("implicit: descriptor on an absent page, error code of a supervisor", 0, VA + 0x1000, AT_INSN);
	((u64 *)(gdt_pa + PAGE))[0] = 0x00cff3000000ffff;
	if (cpuid_has(7, 0, 'b', 20)) {
		map(VA + PAGE, gdt_pa + PAGE, PTE_P | PTE_W | PTE_U);
		write_cr4(read_cr4() | CR4_SMAP);
		user_run_flags(user_load_ds, 0x1003, 0, FL_AC);
		expect_pf("implicit: descriptor on a user page under SMAP, AC does not help", PF_P, VA + 0x1000, AT_INSN);
		write_cr4(read_cr4() & ~CR4_SMAP);
		user_run(user_load_ds, 0x1003, 0);
		check_eq("implicit: descriptor on a user page without SMAP", trap.vector, V_USER_RET);
	}
	/* read-only page, WP: writing the accessed bit faults */
	((u64 *)(gdt_pa + PAGE))[0] = 0x00cff2000000ffff;
	map(VA + PAGE, gdt_pa + PAGE, PTE_P);
	user_run(user_load_ds, 0x1003, 0);
	trap.cr2 &= ~7ul; /* which of the descriptor's bytes is reported is not defined */
	expect_pf("implicit: accessed bit on a read-only page", PF_P | PF_W, VA + 0x1000, AT_INSN);
	__asm__ volatile("lgdt %0" ::"m"(old));

	/* the stack of a handler from CPL 3, not present: #PF while pushing becomes #DF only on IST; use TSS.RSP0 */
	u64 idt_pa = (ulong)page_alloc();
	struct dtable old_idt, new_idt;
	__asm__ volatile("sidt %0" : "=m"(old_idt));
	memcpy((void *)idt_pa, idt, sizeof(idt));
	new_idt = (struct dtable){ sizeof(idt) - 1, VA + 2 * PAGE };
	map(VA + 2 * PAGE, idt_pa, PTE_P);
	__asm__ volatile("lidt %0" ::"m"(new_idt));
	user_run(user_int3, 0, 0);
	check(trap.vector == V_BP, "implicit: IDT on a supervisor read-only page", "vector %u", trap.vector);
	TRY("ud2", ::: "memory");
	expect("implicit: IDT elsewhere, CPL 0", V_UD, 0, AT_INSN);
	__asm__ volatile("lidt %0" ::"m"(old_idt));
	for (unsigned i = 0; i < 3; i++)
		map(VA + i * PAGE, 0, 0);
}

/* ---- SMAP's instructions ---- */
static void smap_insns(void)
{
	if (!cpuid_has(7, 0, 'b', 20)) {
		skip("smap: stac and clac", "not in CPUID");
		return;
	}
	u64 page = (ulong)page_alloc();

	map(VA, page, PTE_P | PTE_W | PTE_U);
	write_cr4(read_cr4() | CR4_SMAP);
	TRY("stac; movb $1, (%0); clac", ::"r"(VA) : "memory");
	expect_none("smap: stac allows");
	TRY("stac; clac; movb $1, (%0)", ::"r"(VA) : "memory");
	expect_pf("smap: clac forbids at once", PF_P | PF_W, VA, ANYWHERE);
	check(!(trap.flags & FL_AC), "smap: AC clear in the saved flags", "%#lx", trap.flags);
	TRY("stac; movb $1, (%0); pushf; andq $~0x40000, (%%rsp); popf; movb $2, (%0)", ::"r"(VA) : "memory", "cc");
	expect_pf("smap: popf that clears AC forbids", PF_P | PF_W, VA, ANYWHERE);
	TRY("stac; ud2", ::: "memory");
	check(trap.vector == V_UD && (trap.flags & FL_AC), "smap: AC saved by an exception", "vector %u flags %#lx",
	      trap.vector, trap.flags);
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_pf("smap: AC of an earlier fault does not leak", PF_P, VA, AT_INSN);
	TRY("movq %0, %%rsi; movl $4, %%ecx; cld; rep lodsb", ::"r"(VA) : "rsi", "rcx", "rax", "memory");
	expect_pf("smap: string instruction", PF_P, VA, ANYWHERE);
	write_cr4(read_cr4() & ~CR4_SMAP);
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_none("smap: off again by CR4");
	map(VA, 0, 0);
}

USER_TEXT __attribute__((naked)) static void user_stac(void)
{
	__asm__("stac; int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_invlpg(void)
{
	__asm__("invlpg (%rdi); int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_invpcid(void)
{
	__asm__("invpcid (%rsi), %rdi; int $0x40");
}
USER_TEXT __attribute__((naked)) static void user_cr3(void)
{
	__asm__("mov %cr3, %rax; int $0x40");
}

static void privileged(void)
{
	if (cpuid_has(7, 0, 'b', 20)) {
		user_run(user_stac, 0, 0);
		expect("CPL 3: stac is #UD", V_UD, 0, AT_INSN);
	}
	user_run(user_invlpg, VA, 0);
	expect("CPL 3: invlpg is #GP", V_GP, 0, AT_INSN);
	user_run(user_cr3, 0, 0);
	expect("CPL 3: mov from CR3 is #GP", V_GP, 0, AT_INSN);
}

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
	TRY("xchg %0, %%rbp; movb (%%rbp), %%al; 778: xchg %0, %%rbp", : "+r"(bad)::"rax", "memory", "rbp");
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
	check(pa[4095] == 0x5a && pa[4093] == 0x5a, "crossing: write left the first page alone", "%#x", pa[4095]);
	TRY("movq (%0), %%rax", ::"r"(end - 1) : "rax", "memory");
	expect_pf("crossing: read", 0, end, AT_INSN);
	TRY("lock addq $1, (%0)", ::"r"(end - 4) : "memory", "cc");
	expect_pf("crossing: locked add", PF_W, end, AT_INSN);
	check_eq("crossing: locked add left the first page alone", pa[4092], 0x5a);
	ulong r = 7;
	TRY("xchg %0, (%1)", : "+r"(r) : "r"(end - 4) : "memory");
	expect_pf("crossing: xchg", PF_W, end, AT_INSN);
	check(trap.hit && r == 7 && pa[4092] == 0x5a, "crossing: xchg changed nothing", "%#lx %#x", r, pa[4092]);
	trap_ist(true);
	TRY("movq %0, %%rsp; pushq %%rax", ::"r"(end + 4) : "memory");
	trap_ist(false);
	expect_pf("crossing: push", PF_W, end, ANYWHERE);
	check(trap.sp == end + 4 && pa[4092] == 0x5a, "crossing: push changed nothing", "rsp %#lx", trap.sp);
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
	check(trap.vector == V_PF && (trap.cr2 == end - 3 || trap.cr2 == end), "crossing: both absent", "cr2 %#lx",
	      trap.cr2);
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
	check(!trap.hit && ax == 0x04030201, "crossing: instruction runs", "vector %u rax %#lx", trap.vector, ax);
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
	/* a handler that adds the permission and returns, without invlpg: the fault drops the entry */
	*(u64 *)a = 0xaaaa;
	(void)*p;
	on_vector(V_PF, on_pf_map);
	trap_begin();
	*p = 0x1234;
	on_vector(V_PF, NULL);
	check(trap.hit && trap.error == (PF_P | PF_W) && *(volatile u64 *)a == 0x1234,
	      "tlb: permission added by the handler", "hit %d error %#lx value %#lx", trap.hit, trap.error, *(u64 *)a);
	map(VA, a, 0);
	on_vector(V_PF, on_pf_map);
	trap_begin();
	__asm__ volatile("incq (%0)" ::"r"(VA) : "memory", "cc");
	on_vector(V_PF, NULL);
	check(trap.hit && trap.error == PF_W && *(volatile u64 *)a == 0x1235, "tlb: page made present by the handler",
	      "hit %d error %#lx value %#lx", trap.hit, trap.error, *(u64 *)a);

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
		struct { u64 pcid, addr; } d = { 2, VA };
#define INVPCID(type) TRY("invpcid %0, %1", ::"m"(d), "r"((ulong)(type)) : "memory")
		*(volatile u64 *)e2 = b | PTE_P | PTE_W;
		INVPCID(0);
		check(!trap.hit && *p == 2, "invpcid: one address", "vector %u value %lu", trap.vector, *p);
		*(volatile u64 *)e2 = a | PTE_P | PTE_W;
		d.addr = 0;
		INVPCID(1);
		check(!trap.hit && *p == 1, "invpcid: one PCID", "vector %u value %lu", trap.vector, *p);
		*(volatile u64 *)e2 = b | PTE_P | PTE_W;
		d.pcid = 0;
		INVPCID(2);
		check(!trap.hit && *p == 2, "invpcid: all with globals", "vector %u value %lu", trap.vector, *p);
		*(volatile u64 *)e2 = a | PTE_P | PTE_W;
		INVPCID(3);
		check(!trap.hit && *p == 1, "invpcid: all without globals", "vector %u value %lu", trap.vector, *p);
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

/* ---- control register checks ---- */
static void control(void)
{
	if (!hostile("cr0: PG without PE is #GP")) {
		TRY_WRITE_CR(0, (read_cr0() & ~CR0_PE));
		expect("cr0: PG without PE is #GP", V_GP, 0, AT_INSN);
	}
	TRY_WRITE_CR(0, (read_cr0() | CR0_NW) & ~CR0_CD);
	expect("cr0: NW without CD is #GP", V_GP, 0, AT_INSN);
	TRY_WRITE_CR(0, read_cr0() | 1ul << 32);
	expect("cr0: bit 32 is #GP", V_GP, 0, AT_INSN);
	if (!hostile("cr0: clearing PG in 64-bit mode is #GP")) {
		TRY_WRITE_CR(0, (read_cr0() & ~CR0_PG));
		expect("cr0: clearing PG in 64-bit mode is #GP", V_GP, 0, AT_INSN);
	}
	if (!hostile("cr4: clearing PAE in long mode is #GP")) {
		TRY_WRITE_CR(4, (read_cr4() & ~CR4_PAE));
		expect("cr4: clearing PAE in long mode is #GP", V_GP, 0, AT_INSN);
	}
	if (!hostile("cr4: reserved bit is #GP")) {
		TRY_WRITE_CR(4, read_cr4() | 1ul << 31);
		expect("cr4: reserved bit is #GP", V_GP, 0, AT_INSN);
	}
	if (!hostile("efer: clearing LME with paging is #GP")) {
		try_wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_LME);
		expect("efer: clearing LME with paging is #GP", V_GP, 0, AT_INSN);
	}
	try_wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1ul << 40);
	expect("efer: reserved bit is #GP", V_GP, 0, AT_INSN);
	ulong efer = rdmsr(MSR_EFER);
	try_wrmsr(MSR_EFER, efer & ~(u64)EFER_LMA);
	check(rdmsr(MSR_EFER) == efer, "efer: LMA is read-only", "%#lx", rdmsr(MSR_EFER));
	TRY(".byte 0x0f, 0x20, 0xc8", ::: "rax", "memory"); /* mov %cr1, %rax */
	expect("cr1: #UD", V_UD, 0, AT_INSN);
	TRY(".byte 0x0f, 0x20, 0xe8", ::: "rax", "memory"); /* mov %cr5, %rax */
	expect("cr5: #UD", V_UD, 0, AT_INSN);
	ulong cr2 = 0xffff800012345678;
	write_cr2(cr2);
	check_eq("cr2: keeps what is written", read_cr2(), cr2);
	/* mod bits of mov cr are ignored: always registers */
	ulong v = 0;
	TRY(".byte 0x0f, 0x20, 0x10", : "=a"(v)::"memory"); /* mov %cr2, %rax with mod 0 */
	check(!trap.hit && v == cr2, "cr2: mod field ignored", "vector %u value %#lx", trap.vector, v);
	ulong sw = 0;
	__asm__ volatile("smsw %0" : "=r"(sw));
	check_eq("cr0: smsw", sw & 0xffff, read_cr0() & 0xffff);
	ulong cr0 = read_cr0();
	__asm__ volatile("lmsw %w0" ::"r"((u16)((cr0 | CR0_TS) & ~CR0_PE)));
	check_eq("cr0: lmsw sets TS, cannot clear PE", read_cr0(), cr0 | CR0_TS);
	__asm__ volatile("clts");
	check_eq("cr0: clts", read_cr0(), cr0 & ~CR0_TS);
}

int main(void)
{
	root = boot_pml4;
	phys_of_code = (ulong)pages_alloc(1, PAGE);
	*(u8 *)phys_of_code = 0xc3;
	matrices();
	accessed_dirty();
	reserved();
	implicit();
	smap_insns();
	privileged();
	canonical();
	crossing();
	tlb();
	roots();
	control();
	return 0;
}
