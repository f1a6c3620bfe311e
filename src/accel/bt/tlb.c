/* SPDX-License-Identifier: Apache-2.0 */
/* Flushing the software TLBs, the instruction TLB and the jump caches. */
#include "accel/bt/cache.h"
#include "accel/bt/window.h"

static void flush_stack(struct bt_tlb *t)
{
	for (unsigned i = 0; i < TLB_STACK_SIZES; i++)
		t->stack_limit[i] = 0;
}

static void flush_statics(struct bt_tlb *t)
{
	if (!t->static_used)
		return;
	for (unsigned w = 0; w < 2; w++)
		for (unsigned i = 0; i < TLB_STATICS; i++)
			t->static_la[w][i] = TLB_STATIC_NONE;
	t->static_used = t->static_low = 0;
}

/* Forget the places that are reached without the tags. */
static void flush_fast(struct bt_tlb *t)
{
	flush_stack(t);
	flush_statics(t);
}

/* The same for those on the page at @la; kernels drop users' pages all the time, and have none of
 * their own there. */
static void flush_fast_page(struct bt_tlb *t, uint64_t la)
{
	if (t->stack_tag == (la & ~0xfffull))
		flush_stack(t);
	if ((int64_t)la < 0 || t->static_low)
		flush_statics(t);
}

static void flush_class(struct bt_tlb *t)
{
	t->static_used = 1; /* at the start they are not even empty */
	flush_fast(t);
	bt_fill(t->at, 0xff, sizeof(t->at));
	/* ~0 is an invalid tag in every slot but the last, where it would match the last page */
	t->at[TLB_SIZE - 1].read = t->at[TLB_SIZE - 1].write = 0;
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

		if (user || !t->at[i].global)
			t->at[i].read = t->at[i].write = ~((uint64_t)i << PAGE_SHIFT);
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

/* Nothing is found in an empty table: code leads to the miss stub, and the two of a pair differ. */
static void jc_empty(struct bt_cpu *cpu, unsigned class)
{
	for (unsigned i = 0; i < JC_SIZE; i++) {
		cpu->jc[class].at[i].code = (void *)cpu->vm->cache->stubs.jc_miss[class];
		cpu->jc[class].at[i].rip = i & 1;
	}
}

static void forget_space(struct bt_cpu *cpu, unsigned i)
{
	cpu->spaces[i].cr3 = SPACE_NONE;
	bt_window_detach(cpu, &cpu->spaces[i]);
}

/* Forget all spaces but the present one. */
static void forget_spaces(struct bt_cpu *cpu)
{
	for (unsigned i = 0; i < SPACES; i++)
		if (i != cpu->space)
			forget_space(cpu, i);
	cpu->spaces[cpu->space].cr3 = cpu->st.cr3;
}

static void new_generation(struct bt_cpu *cpu, unsigned class)
{
	cpu->jc_gen[class] = cpu->jc_last[class] += JC_GENERATION;
	if (cpu->jc_gen[class] & JC_MASK)
		return;
	jc_empty(cpu, class); /* numbers come round: what older generations left would be found */
	forget_spaces(cpu);
}

/* Empty the classes in @mask, the user classes for the present space only. */
void bt_jc_clear(struct bt_cpu *cpu, unsigned mask)
{
	mask &= cpu->jc_used;
	for (unsigned i = 0; i < 2; i++) {
		unsigned group = i ? ~JC_USER_CLASSES : JC_USER_CLASSES;

		if ((mask & group) && (cpu->jc_used & group & ~mask) == 0)
			bt_fill(bt_jc_pages(cpu, i), 0, sizeof(struct bt_jc_pages));
	}
	cpu->stat_jc_clears += mask != 0;
	for (unsigned i = 0; i < JC_CLASSES; i++)
		if (mask & 1u << i)
			new_generation(cpu, i);
	cpu->jc_used &= ~mask;
	cpu->jc_nonglobal &= ~mask;
}

void bt_jc_forget(struct bt_cpu *cpu)
{
	for (unsigned k = 0; k < JC_CLASSES; k++)
		jc_empty(cpu, k);
	for (unsigned i = 0; i < 2; i++)
		bt_fill(bt_jc_pages(cpu, i), 0, sizeof(struct bt_jc_pages));
	forget_spaces(cpu);
	cpu->jc_used = cpu->jc_nonglobal = 0;
	cpu->jc_user_global = cpu->jc_kernel_low = false;
	bt_fill(cpu->find, 0, sizeof(cpu->find));
}

/* Make @cr3's space the present one, with what is still good of it or empty. */
static void enter_space(struct bt_cpu *cpu, uint64_t cr3, bool keep)
{
	struct bt_space *s = &cpu->spaces[cpu->space];
	unsigned i, pcid = cr3 & 0xfff;

	for (unsigned k = 0; k < JC_CLASSES; k++)
		if (JC_USER_CLASSES & 1u << k)
			s->gen[k] = cpu->jc_gen[k];
	for (i = 0; i < SPACES; i++)
		if (cpu->spaces[i].cr3 != SPACE_NONE && (cpu->spaces[i].cr3 & 0xfff) == pcid)
			break;
	if (i == SPACES) {
		cpu->space_next = (cpu->space_next + 1) % SPACES;
		if (cpu->space_next == cpu->space)
			cpu->space_next = (cpu->space_next + 1) % SPACES;
		i = cpu->space_next;
		keep = false;
	}
	s = &cpu->spaces[i];
	cpu->space = i;
	if (s->cr3 != cr3) {
		bt_window_detach(cpu, s);
		s->heat = (struct bt_heat) { 0 };
		keep = false;
	}
	s->cr3 = cr3;
	cpu->jc_used |= JC_USER_CLASSES;
	if (keep) {
		for (unsigned k = 0; k < JC_CLASSES; k++)
			if (JC_USER_CLASSES & 1u << k)
				cpu->jc_gen[k] = s->gen[k];
	} else {
		bt_window_flush(cpu, s);
		bt_jc_clear(cpu, JC_USER_CLASSES);
	}
}

void bt_tlb_flush_all(struct bt_cpu *cpu)
{
	cpu->stat_tlb_flushes++;
	for (unsigned i = 0; i < TLB_CLASSES; i++)
		flush_class(&cpu->tlb[i]);
	itlb_clear(cpu, true);
	bt_jc_clear(cpu, ~0u);
	bt_window_flush(cpu, &cpu->spaces[cpu->space]);
	forget_spaces(cpu);
}

static void tlb_flush_nonglobal(struct bt_cpu *cpu)
{
	cpu->stat_tlb_flushes++;
	for (unsigned k = 0; k < TLB_CLASSES; k++)
		flush_fresh(&cpu->tlb[k], k == TLB_USER);
	itlb_clear(cpu, false);
	bt_jc_clear(cpu, cpu->jc_nonglobal & ~JC_USER_CLASSES);
}

void bt_tlb_flush_nonglobal(struct bt_cpu *cpu)
{
	tlb_flush_nonglobal(cpu);
	bt_jc_clear(cpu, JC_USER_CLASSES);
	bt_window_flush(cpu, &cpu->spaces[cpu->space]);
	forget_spaces(cpu);
}

void bt_set_cr3(struct bt_cpu *cpu, uint64_t cr3, bool keep)
{
	if (keep && cr3 == cpu->st.cr3)
		return;
	tlb_flush_nonglobal(cpu);
	cpu->st.cr3 = cr3;
	if (cpu->st.cr4 & CR4_PCIDE) {
		enter_space(cpu, cr3, keep);
	} else {
		struct bt_space *s = &cpu->spaces[cpu->space];

		bt_jc_clear(cpu, JC_USER_CLASSES);
		bt_window_flush(cpu, s);
		if (s->cr3 != cr3) {
			bt_window_detach(cpu, s);
			s->heat = (struct bt_heat) { 0 };
		}
		s->cr3 = cr3;
	}
}

void bt_forget_space(struct bt_cpu *cpu, unsigned pcid)
{
	for (unsigned i = 0; i < SPACES; i++)
		if (i != cpu->space && (cpu->spaces[i].cr3 & 0xfff) == pcid)
			forget_space(cpu, i);
}

void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la)
{
	uint64_t page = la & ~0xfffull;
	unsigned i = la >> PAGE_SHIFT & (TLB_SIZE - 1);

	for (unsigned k = 0; k < TLB_CLASSES; k++) {
		struct bt_tlb *t = &cpu->tlb[k];

		flush_fast_page(t, la);
		if (la >= t->large_lo && la < t->large_hi)
			flush_class(t);
		else if (t->at[i].read == page || t->at[i].write == page)
			t->at[i].read = t->at[i].write = ~page;
	}
	bt_window_drop_page(cpu, la);
	if (cpu->jc_user_global) /* such a page is in all spaces */
		forget_spaces(cpu);
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
		if (u && (int64_t)la >= 0 && !cpu->jc_kernel_low)
			continue; /* kernels drop users' pages all the time */
		if (bt_jc_pages(cpu, u)->bits[bit / 64] >> (bit & 63) & 1)
			bt_jc_clear(cpu, u ? ~JC_USER_CLASSES : JC_USER_CLASSES);
	}
}
