/* SPDX-License-Identifier: Apache-2.0 */
/* Flushing the software TLBs, the instruction TLB and the jump caches. */
#include "accel/bt/cache.h"

/* Forget the places that are reached without the tags. */
static void flush_fast(struct bt_tlb *t)
{
	for (unsigned i = 0; i < TLB_STACK_SIZES; i++)
		t->stack_limit[i] = 0;
	if (!t->static_used)
		return;
	for (unsigned w = 0; w < 2; w++)
		for (unsigned i = 0; i < TLB_STATICS; i++)
			t->static_la[w][i] = TLB_STATIC_NONE;
	t->static_used = 0;
}

static void flush_class(struct bt_tlb *t)
{
	t->static_used = 1; /* at the start they are not even empty */
	flush_fast(t);
	bt_fill(t->read, 0xff, sizeof(t->read));
	bt_fill(t->write, 0xff, sizeof(t->write));
	/* ~0 is an invalid tag in every slot but the last, where it would match the last page */
	t->read[TLB_SIZE - 1] = t->write[TLB_SIZE - 1] = 0;
	t->large_lo = t->large_hi = 0;
	t->fresh_count = 0;
}

/* What MOV CR3 drops: all of the user class, what is not global of the others. */
static void flush_fresh(struct bt_tlb *t, bool user)
{
	if (t->fresh_count > TLB_FRESH && user) {
		flush_class(t);
		return;
	}

	bool all = t->fresh_count > TLB_FRESH;

	if (t->fresh_count) /* else all that was filled is global */
		flush_fast(t);
	for (unsigned k = 0, n = all ? TLB_SIZE : t->fresh_count; k < n; k++) {
		unsigned i = all ? k : t->fresh[k];

		if (user || !t->global[i])
			t->read[i] = t->write[i] = ~((uint64_t)i << PAGE_SHIFT);
	}
	if (user)
		t->large_lo = t->large_hi = 0;
	t->fresh_count = 0;
}

static void itlb_clear(struct bt_cpu *cpu, bool global)
{
	if (global)
		cpu->itlb_large_lo = cpu->itlb_large_hi = 0;
	for (unsigned u = 0; u < 2; u++)
		for (unsigned i = 0; i < ITLB_SIZE; i++)
			if (global || !cpu->itlb[u][i].global)
				cpu->itlb[u][i].la = ~0ull;
}

#define JC_USER_CLASSES (1u << JC_USER64 | 1u << JC_USER32)

/* Nothing is found in an empty table: code leads to the miss stub, and the two of a pair differ. */
static void jc_empty(struct bt_cpu *cpu, unsigned class)
{
	for (unsigned i = 0; i < JC_SIZE; i++) {
		cpu->jc[class].at[i].code = (void *)cpu->vm->cache->stubs.jc_miss[class];
		cpu->jc[class].at[i].rip = i & 1;
	}
}

void bt_jc_clear(struct bt_cpu *cpu, unsigned mask)
{
	mask &= cpu->jc_used;
	for (unsigned i = 0; i < 2; i++) {
		unsigned group = i ? ~JC_USER_CLASSES : JC_USER_CLASSES;

		if ((mask & group) && (cpu->jc_used & group & ~mask) == 0)
			bt_fill(cpu->jc_pages[i], 0, sizeof(cpu->jc_pages[i]));
	}
	cpu->stat_jc_clears += mask != 0;
	for (unsigned i = 0; i < JC_CLASSES; i++) {
		if (!(mask & 1u << i))
			continue;
		cpu->jc_gen[i] += JC_GENERATION;
		if (!(cpu->jc_gen[i] & JC_MASK))
			jc_empty(cpu, i);
	}
	cpu->jc_used &= ~mask;
	cpu->jc_nonglobal &= ~mask;
}

void bt_jc_forget(struct bt_cpu *cpu)
{
	for (unsigned k = 0; k < JC_CLASSES; k++)
		jc_empty(cpu, k);
	bt_fill(cpu->jc_pages, 0, sizeof(cpu->jc_pages));
	cpu->jc_used = cpu->jc_nonglobal = 0;
	bt_fill(cpu->find, 0, sizeof(cpu->find));
}

void bt_tlb_flush_all(struct bt_cpu *cpu)
{
	cpu->stat_tlb_flushes++;
	for (unsigned i = 0; i < TLB_CLASSES; i++)
		flush_class(&cpu->tlb[i]);
	itlb_clear(cpu, true);
	bt_jc_clear(cpu, ~0u);
}

void bt_tlb_flush_nonglobal(struct bt_cpu *cpu)
{
	cpu->stat_tlb_flushes++;
	for (unsigned k = 0; k < TLB_CLASSES; k++)
		flush_fresh(&cpu->tlb[k], k == TLB_USER);
	itlb_clear(cpu, false);
	bt_jc_clear(cpu, 1u << JC_USER64 | 1u << JC_USER32 | cpu->jc_nonglobal);
}

void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la)
{
	uint64_t page = la & ~0xfffull;
	unsigned i = la >> PAGE_SHIFT & (TLB_SIZE - 1);

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		struct bt_tlb *t = &cpu->tlb[k];

		flush_fast(t);
		if (la >= t->large_lo && la < t->large_hi)
			flush_class(t);
		else if (t->read[i] == page || t->write[i] == page)
			t->read[i] = t->write[i] = ~page;
	}
	if (la >= cpu->itlb_large_lo && la < cpu->itlb_large_hi) {
		itlb_clear(cpu, true);
		bt_jc_clear(cpu, ~0u);
		return;
	}
	for (unsigned u = 0; u < 2; u++) {
		struct bt_itlb *e = &cpu->itlb[u][la >> PAGE_SHIFT & (ITLB_SIZE - 1)];
		unsigned bit = la >> PAGE_SHIFT & (JC_PAGES - 1);

		if (e->la == page)
			e->la = ~0ull;
		if (cpu->jc_pages[u][bit / 64] >> (bit & 63) & 1)
			bt_jc_clear(cpu, u ? ~JC_USER_CLASSES : JC_USER_CLASSES);
	}
}
