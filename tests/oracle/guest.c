/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the guest image (descriptor tables, page tables, runner) and moves
 * cases and results through the slot.
 *
 * The host writes data pages directly: no code is ever translated from them
 * (they are not executable). Code pages are written by the guest itself, from
 * slot.code, half of the time through another linear address than the one
 * they run at: that is one more test of self-modifying code.
 */
#include <string.h>

#include "guest.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)

extern const uint8_t guest_runner[], guest_runner_end[], guest_stubs[], guest_boot[],
    guest_boot_end[];

struct tables {
	uint8_t *ram;
	unsigned used;
};

static uint64_t *table(struct tables *t, uint64_t gpa)
{
	return (uint64_t *)(t->ram + gpa);
}

static uint64_t next_table(struct tables *t, uint64_t *entry)
{
	if (!*entry) {
		uint64_t gpa = GUEST_TABLES + (uint64_t)t->used++ * PAGE;

		memset(t->ram + gpa, 0, PAGE);
		*entry = gpa | PTE_P | PTE_W | PTE_U | PTE_A;
	}
	return *entry & 0xfffffffff000ull;
}

static void map(struct tables *t, uint64_t va, uint64_t pte)
{
	uint64_t gpa = GUEST_TABLES;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		gpa = next_table(t, &table(t, gpa)[(va >> shift) & 511]);
	table(t, gpa)[(va >> 12) & 511] = pte;
}

static void map_kernel(struct tables *t)
{
	uint64_t va = GUEST_KVA, gpa = GUEST_TABLES;

	for (unsigned shift = 39; shift > 21; shift -= 9)
		gpa = next_table(t, &table(t, gpa)[(va >> shift) & 511]);
	for (unsigned i = 0; i < 4; i++)
		table(t, gpa)[((va >> 21) & 511) + i] =
		    ((uint64_t)i << 21) | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS;
}

static void build_tables(uint8_t *ram, bool multiboot)
{
	struct tables t = { ram, 1 };

	memset(ram + GUEST_TABLES, 0, 16 * PAGE);
	map_kernel(&t);
	for (unsigned p = 0; p < PAGE_COUNT; p++) {
		uint64_t pte = (GUEST_USER + (uint64_t)p * PAGE) | PTE_P | PTE_U | PTE_A | PTE_D;

		if (p == PAGE_LOW && !oracle_low_page)
			continue;
		if (p != PAGE_RO)
			pte |= PTE_W;
		if (p != PAGE_CODE0 && p != PAGE_CODE1)
			pte |= PTE_NX;
		map(&t, oracle_page_va[p], pte);
	}
	if (multiboot) {
		/* The table of the first 2 MiB is the one that LOW uses; the stub expects it as the
		 * last. */
		uint64_t *pd =
		    table(&t, table(&t, table(&t, GUEST_TABLES)[0] & 0xfffffffff000ull)[0] &
				  0xfffffffff000ull);
		uint64_t old = pd[0] & 0xfffffffff000ull, last = GUEST_TABLES + 15 * PAGE;

		if (old)
			memcpy(ram + last, ram + old, PAGE);
		pd[0] = last | PTE_P | PTE_W | PTE_U | PTE_A;
		table(&t, last)[GUEST_IMAGE >> 12] = GUEST_IMAGE | PTE_P | PTE_W | PTE_A | PTE_D;
		table(&t, last)[GUEST_GDT >> 12] = GUEST_GDT | PTE_P | PTE_W | PTE_A | PTE_D;
	}
}

static void build_descriptors(uint8_t *ram)
{
	uint64_t *gdt = (uint64_t *)(ram + GUEST_GDT), *idt = (uint64_t *)(ram + GUEST_IDT);
	uint64_t tss = GUEST_KVA + GUEST_TSS, stack = GUEST_KVA + GUEST_STACK;

	memset(gdt, 0, PAGE);
	gdt[1] = 0x00cf9b000000ffff; /* 32-bit kernel code */
	gdt[2] = 0x00af9b000000ffff; /* kernel code */
	gdt[3] = 0x00cf93000000ffff; /* kernel data */
	gdt[4] = 0x00cffb000000ffff; /* 32-bit user code */
	gdt[5] = 0x00cff3000000ffff; /* user data */
	gdt[6] = 0x00affb000000ffff; /* user code */
	gdt[8] = 0x67 | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	gdt[9] = tss >> 32;
	memset(ram + GUEST_TSS, 0, PAGE);
	memcpy(ram + GUEST_TSS + 4, &stack, 8);
	ram[GUEST_TSS + 102] = 104; /* no I/O bitmap */
	for (unsigned v = 0; v < 256; v++) {
		uint64_t h =
		    GUEST_KVA + GUEST_RUNNER + (uint64_t)(guest_stubs - guest_runner) + v * 16;
		uint64_t dpl = v == 3 || v == 4 ? 3 : 0;

		idt[v * 2] = (h & 0xffff) | (uint64_t)SEL_KERNEL_CS << 16 |
			     (0x8e00ull | dpl << 13) << 32 | (h >> 16 & 0xffff) << 48;
		idt[v * 2 + 1] = h >> 32;
	}
}

void guest_build(struct guest *g, uint8_t *ram, bool multiboot)
{
	memset(g, 0, sizeof(*g));
	memset(ram + GUEST_IMAGE, 0, GUEST_IMAGE_END - GUEST_IMAGE);
	memcpy(ram + GUEST_IMAGE, guest_boot, guest_boot_end - guest_boot);
	memcpy(ram + GUEST_RUNNER, guest_runner, guest_runner_end - guest_runner);
	build_descriptors(ram);
	build_tables(ram, multiboot);
	memset(ram + GUEST_USER, 0xcc, 2 * PAGE);
	g->ram = ram;
	g->slot = (struct guest_slot *)(ram + GUEST_SLOT);
	memset(g->slot->code, 0xcc, 2 * PAGE);
	for (unsigned p = 0; p < PAGE_COUNT; p++)
		if (p != PAGE_LOW || oracle_low_page)
			g->live[p] = ram + GUEST_USER + (uint64_t)p * PAGE;
}

/* The range of the guest's code pages that differs from what they must hold now. */
static void plan_copy(struct guest *g, const struct oracle_case *c)
{
	const uint8_t *want = g->image.pages[0], *have = g->live[0];
	unsigned lo = 0, hi = 2 * PAGE;

	memcpy(g->slot->code, want, 2 * PAGE);
	while (lo < hi && want[lo] == have[lo])
		lo++;
	while (hi > lo && want[hi - 1] == have[hi - 1])
		hi--;
	g->slot->copy_src = GUEST_KVA + GUEST_SLOT + SLOT_CODE + lo;
	g->slot->copy_dst = (c->number & 1 ? GUEST_KVA + GUEST_USER : CODE_BASE) + lo;
	g->slot->copy_len = hi - lo;
}

void guest_put(struct guest *g, const struct oracle_case *c)
{
	image_set(&g->image, c);
	for (unsigned p = PAGE_DATA0; p < PAGE_COUNT; p++)
		if (g->live[p] && memcmp(g->live[p], g->image.pages[p], PAGE))
			memcpy(g->live[p], g->image.pages[p], PAGE);
	plan_copy(g, c);
	g->slot->in = c->in;
	g->slot->done = 0;
	__atomic_store_n(&g->slot->cmd, SLOT_CMD_RUN, __ATOMIC_RELEASE);
}

/* Registers stand below the stack top in the order the stub pushed them. */
static void take_regs(const struct guest *g, struct oracle_result *res)
{
	static const uint8_t order[15] = { 0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
	const uint64_t *top = (const uint64_t *)(g->ram + GUEST_STACK);
	struct oracle_state *o = &res->out;

	o->ss = top[-1];
	o->gpr[4] = top[-2];
	o->rflags = top[-3];
	o->cs = top[-4];
	o->rip = top[-5];
	res->error = top[-6];
	res->vector = top[-7];
	for (unsigned i = 0; i < 15; i++)
		o->gpr[order[i]] = top[-8 - (int)i];
}

void guest_take(struct guest *g, const struct oracle_case *c, struct oracle_result *res)
{
	memset(res, 0, offsetof(struct oracle_result, pages));
	res->status = RES_OK;
	res->out = g->slot->out;
	res->cr2 = g->slot->cr2;
	take_regs(g, res);
	image_collect(&g->image, g->live, res, PAGE_DATA0);
	image_unset(&g->image, c);
}

void guest_abandon(struct guest *g, const struct oracle_case *c)
{
	image_unset(&g->image, c);
}
