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
		TRY("pushf; orq %1, (%%rsp); popf; movb (%0), %%al; pushf; andq $~0x40000, "
		    "(%%rsp); popf",
		    ::"r"(va), "r"(flags)
		    : "rax", "memory", "cc");
	else if (a == WRITE)
		TRY("pushf; orq %1, (%%rsp); popf; movb $0xc3, (%0); pushf; andq $~0x40000, "
		    "(%%rsp); popf",
		    ::"r"(va), "r"(flags)
		    : "memory", "cc");
	else
		TRY("pushf; orq %1, (%%rsp); popf; call *%0; pushf; andq $~0x40000, (%%rsp); popf",
		    ::"r"(va), "r"(flags)
		    : "memory", "cc");
}

struct config {
	bool wp, smep, smap, nxe;
};

static void config_set(const struct config *c)
{
	write_cr0((read_cr0() & ~CR0_WP) | (c->wp ? CR0_WP : 0));
	write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | (c->smep ? CR4_SMEP : 0) |
		  (c->smap ? CR4_SMAP : 0));
	wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~(u64)EFER_NXE) | (c->nxe ? EFER_NXE : 0));
}

struct want {
	bool fault;
	ulong error;
};

/* What the architecture says; @leaf the leaf entry, @mid the entry above it (others permit all). */
static struct want model(const struct config *c, u64 leaf, u64 mid, enum access a, bool user,
			 bool ac)
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
		  (!user && u && a == EXEC && c->smep) ||
		  (!user && u && a != EXEC && c->smap && !ac);
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
			fail(name,
			     "%s: %s by CPL %d, leaf %#lx above %#lx: got %s vector %u error %#lx "
			     "cr2 %#lx, "
			     "want %s %#lx; after: leaf %#lx above %#lx",
			     what, access_name[a], user ? 3 : 0, l, m, fault ? "fault" : "none",
			     trap.vector, trap.error, trap.cr2, w.fault ? "fault" : "none", w.error,
			     l2, m2);
	}
	*mid = mid_base | PTE_P | PTE_W | PTE_U;
	*leaf = 0;
	invlpg(va);
	if (bad)
		print("# %s: %u of %u differ\n", name, bad, done);
	else
		ok(name);
	config_set(&(struct config) { .wp = true, .nxe = true });
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
			if ((level == 3 && !huge) || (list[i].c.smep && !smep) ||
			    (list[i].c.smap && !smap))
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
	__asm__ volatile("prefetcht0 (%0); lea (%0), %%rax; invlpg (%0)" ::"r"(p)
			 : "rax", "memory");
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
	check_eq("AD: 2M write elsewhere sets D", *(volatile u64 *)pde & (PTE_A | PTE_D),
		 PTE_A | PTE_D);
	*(volatile u64 *)pde = 0;
	invlpg(VA + LARGE);

	/* A write that crosses two pages sets D in both. */
	u64 *a = map(VA, page, PTE_P | PTE_W),
	    *b = map(VA + PAGE, (ulong)page_alloc(), PTE_P | PTE_W);
	*(volatile u64 *)(VA + PAGE - 3) = 0x1122334455667788;
	check((*a & PTE_D) && (*b & PTE_D), "AD: crossing write sets D in both", "%#lx %#lx", *a,
	      *b);
	check_eq("AD: crossing write stores all bytes", *(volatile u64 *)(VA + PAGE - 3),
		 0x1122334455667788);

	/* Page tables that map themselves: the walk's A bits are seen through the mapping. */
	u64 *pt = pte_of(root, VA, 1);
	u64 pt_pa = (ulong)pt & ~(PAGE - 1);
	map(VA + 2 * PAGE, pt_pa, PTE_P | PTE_W);
	volatile u64 *alias = (volatile u64 *)(VA + 2 * PAGE) + ((VA >> 12) & 511);
	*alias = page | PTE_P | PTE_W;
	invlpg(VA);
	*p = 3;
	check_eq("AD: seen through an alias of the page table", *alias & (PTE_A | PTE_D),
		 PTE_A | PTE_D);
	alias[3] = (page + 0) | PTE_P | PTE_W;
	check_eq("table: entry written through the alias is used", *(volatile u32 *)(VA + 3 * PAGE),
		 3);
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
	new = (struct dtable) { old.limit, VA };
	map(VA, gdt_pa, PTE_P | PTE_W);
	__asm__ volatile("lgdt %0" ::"m"(new));
	user_run(user_load_ds, UDS, 0);
	bool fine = check_eq("implicit: descriptor on a supervisor page read for CPL 3",
			     trap.vector, V_USER_RET);
	if (fine) {
		/* the accessed bit is written with supervisor rights, too */
		((u64 *)gdt_pa)[UDS / 8] &= ~(1ull << 40);
		user_run(user_load_ds, UDS, 0);
		check(trap.vector == V_USER_RET && ((volatile u64 *)gdt_pa)[UDS / 8] & 1ull << 40,
		      "implicit: accessed bit of a descriptor written", "vector %u descriptor %#lx",
		      trap.vector, ((u64 *)gdt_pa)[UDS / 8]);
	}
	__asm__ volatile("lgdt %0" ::"m"(old));

	/* not-present descriptor page: #PF with supervisor error code at CPL 3 */
	gdt_set(0, FREE_SEL, 0, 0xfffff, 0xf3, 0xc);
	memcpy((void *)gdt_pa, (void *)old.base, old.limit + 1);
	/* the table's first page holds what the handlers need, the second the tested selector */
	new = (struct dtable) { 0x1fff, VA };
	map(VA, gdt_pa, PTE_P | PTE_W);
	map(VA + PAGE, gdt_pa + PAGE, 0);
	__asm__ volatile("lgdt %0" ::"m"(new));
	user_run(user_load_ds, 0x1003, 0);
	expect_pf("implicit: descriptor on an absent page, error code of a supervisor", 0,
		  VA + 0x1000, AT_INSN);
	((u64 *)(gdt_pa + PAGE))[0] = 0x00cff3000000ffff;
	if (cpuid_has(7, 0, 'b', 20)) {
		map(VA + PAGE, gdt_pa + PAGE, PTE_P | PTE_W | PTE_U);
		write_cr4(read_cr4() | CR4_SMAP);
		user_run_flags(user_load_ds, 0x1003, 0, FL_AC);
		expect_pf("implicit: descriptor on a user page under SMAP, AC does not help", PF_P,
			  VA + 0x1000, AT_INSN);
		write_cr4(read_cr4() & ~CR4_SMAP);
		user_run(user_load_ds, 0x1003, 0);
		check_eq("implicit: descriptor on a user page without SMAP", trap.vector,
			 V_USER_RET);
	}
	/* read-only page, WP: writing the accessed bit faults */
	((u64 *)(gdt_pa + PAGE))[0] = 0x00cff2000000ffff;
	map(VA + PAGE, gdt_pa + PAGE, PTE_P);
	user_run(user_load_ds, 0x1003, 0);
	trap.cr2 &= ~7ul; /* which of the descriptor's bytes is reported is not defined */
	expect_pf("implicit: accessed bit on a read-only page", PF_P | PF_W, VA + 0x1000, AT_INSN);
	__asm__ volatile("lgdt %0" ::"m"(old));

	/* the stack of a handler from CPL 3, not present: #PF while pushing becomes #DF only on
	 * IST; use TSS.RSP0 */
	u64 idt_pa = (ulong)page_alloc();
	struct dtable old_idt, new_idt;
	__asm__ volatile("sidt %0" : "=m"(old_idt));
	memcpy((void *)idt_pa, idt, sizeof(idt));
	new_idt = (struct dtable) { sizeof(idt) - 1, VA + 2 * PAGE };
	map(VA + 2 * PAGE, idt_pa, PTE_P);
	__asm__ volatile("lidt %0" ::"m"(new_idt));
	user_run(user_int3, 0, 0);
	check(trap.vector == V_BP, "implicit: IDT on a supervisor read-only page", "vector %u",
	      trap.vector);
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
	TRY("stac; movb $1, (%0); pushf; andq $~0x40000, (%%rsp); popf; movb $2, (%0)", ::"r"(VA)
	    : "memory", "cc");
	expect_pf("smap: popf that clears AC forbids", PF_P | PF_W, VA, ANYWHERE);
	TRY("stac; ud2", ::: "memory");
	check(trap.vector == V_UD && (trap.flags & FL_AC), "smap: AC saved by an exception",
	      "vector %u flags %#lx", trap.vector, trap.flags);
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect_pf("smap: AC of an earlier fault does not leak", PF_P, VA, AT_INSN);
	TRY("movq %0, %%rsi; movl $4, %%ecx; cld; rep lodsb", ::"r"(VA)
	    : "rsi", "rcx", "rax", "memory");
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
	check(!trap.hit && v == cr2, "cr2: mod field ignored", "vector %u value %#lx", trap.vector,
	      v);
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
	control();
	return 0;
}
