/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APIC: what happens while vCPUs run (Intel SDM 3A, the APIC chapter).
 *
 * The binary translator calls this file while the guest's vector registers
 * are live in the host's: it is built with -mgeneral-regs-only and calls
 * nothing but the accelerator's own callbacks (tests check its undefined
 * symbols). The timer is in lapic_timer.c, making, saving and loading in
 * lapic_state.c.
 *
 * Invariants
 * 1. Posters set TMR before IRR (release); the owner reads IRR (acquire) and
 *    then TMR, so a vector's trigger mode is that of the request it serves.
 * 2. Only the owner clears IRR bits, and only it touches ISR, so lapic_ack()
 *    cannot lose a request.
 * 3. PPR is a function of TPR and ISR, recomputed whenever one changes. When
 *    it falls and uncovers a request, ops->kick is called: an accelerator
 *    that saw the request blocked may forget it.
 *
 * Limits: no CMCI, no EOI broadcast suppression, no remote read (reserved in
 * current processors). The APIC ID is read-only.
 */
#include "hw/lapic_priv.h"

#include "vm/mem.h"

const uint32_t lapic_lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,	[LVT_ERROR] = 0x100ff,
};

static uint32_t load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

/* Highest vector set in a 256-bit map, -1: none */
static int highest(const uint64_t map[4])
{
	for (int i = 3; i >= 0; i--) {
		uint64_t w = __atomic_load_n(&map[i], __ATOMIC_ACQUIRE);

		if (w)
			return i * 64 + 63 - __builtin_clzll(w);
	}
	return -1;
}

static bool test_vector(const uint64_t map[4], uint8_t vector)
{
	return __atomic_load_n(&map[vector >> 6], __ATOMIC_RELAXED) >> (vector & 63) & 1;
}

int lapic_pending(struct lapic *l)
{
	int vector;

	if (!(__atomic_load_n(&l->irr[0], __ATOMIC_RELAXED) |
	      __atomic_load_n(&l->irr[1], __ATOMIC_RELAXED) |
	      __atomic_load_n(&l->irr[2], __ATOMIC_RELAXED) |
	      __atomic_load_n(&l->irr[3], __ATOMIC_RELAXED)))
		return -1;
	vector = highest(l->irr);
	return vector >> 4 > (int)(l->ppr >> 4) ? vector : -1;
}

void lapic_update_ppr(struct lapic *l)
{
	int isr = highest(l->isr);
	uint32_t old = l->ppr, ppr = l->tpr;

	if (isr >= 0 && (uint32_t)isr >> 4 > l->tpr >> 4)
		ppr = (uint32_t)isr & 0xf0;
	store32(&l->ppr, ppr);
	if (ppr >> 4 < old >> 4 && lapic_pending(l) >= 0)
		l->ops->kick(l->opaque);
}

int lapic_ack(struct lapic *l)
{
	int vector = lapic_pending(l);

	if (vector < 0)
		return -1;
	__atomic_fetch_and(&l->irr[vector >> 6], ~(1ull << (vector & 63)), __ATOMIC_ACQ_REL);
	l->isr[vector >> 6] |= 1ull << (vector & 63);
	lapic_update_ppr(l);
	return vector;
}

static bool accepts_fixed(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED) & APIC_BASE_EN &&
	       load32(&l->svr) & SVR_ENABLED;
}

/* Set a request bit, whatever the state of the APIC */
static void request(struct lapic *l, uint8_t vector, bool level)
{
	uint64_t bit = 1ull << (vector & 63);

	if (level)
		__atomic_fetch_or(&l->tmr[vector >> 6], bit, __ATOMIC_RELAXED);
	else if (test_vector(l->tmr, vector))
		__atomic_fetch_and(&l->tmr[vector >> 6], ~bit, __ATOMIC_RELAXED);
	/* release: pairs with the acquire in highest() */
	if (!(__atomic_fetch_or(&l->irr[vector >> 6], bit, __ATOMIC_ACQ_REL) & bit))
		l->ops->kick(l->opaque);
}

static void raise_error(struct lapic *l, uint32_t bit)
{
	uint32_t lvt = load32(&l->lvt[LVT_ERROR]);

	if (__atomic_fetch_or(&l->esr_pending, bit, __ATOMIC_RELAXED) & bit)
		return;
	if (lvt & LVT_MASKED)
		return;
	if ((lvt & 0xff) < 16)
		__atomic_fetch_or(&l->esr_pending, ESR_RECV_ILLEGAL, __ATOMIC_RELAXED);
	else
		request(l, (uint8_t)lvt, false);
}

void lapic_post(struct lapic *l, uint8_t vector, bool level)
{
	if (!accepts_fixed(l))
		return;
	if (vector < 16)
		raise_error(l, ESR_RECV_ILLEGAL);
	else
		request(l, vector, level);
}

void lapic_post_event(struct lapic *l, unsigned events, uint8_t sipi_vector)
{
	uint32_t old = load32(&l->events), new;

	do {
		/* A start-up message that came before an INIT must not start what the INIT stops.
		 */
		new = (events & LAPIC_EV_INIT ? old & ~(uint32_t)LAPIC_EV_SIPI : old) |
		      (events & EV_MASK);
		if (events & old & LAPIC_EV_NMI)
			new |= EV_SECOND_NMI;
		if (events & LAPIC_EV_SIPI)
			new = (new & 0xff) | (uint32_t)sipi_vector << 8;
	} while (!__atomic_compare_exchange_n(&l->events, &old, new, true, __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
	l->ops->kick(l->opaque);
}

unsigned lapic_take_events(struct lapic *l, unsigned mask, uint8_t *ret_sipi_vector)
{
	uint32_t old = load32(&l->events), new;

	do {
		if (!(old & mask & EV_MASK))
			return 0;
		new = old & ~(mask & EV_MASK);
		if ((mask & LAPIC_EV_NMI) && (old & EV_SECOND_NMI))
			new = (new & ~EV_SECOND_NMI) | LAPIC_EV_NMI;
	} while (!__atomic_compare_exchange_n(&l->events, &old, new, true, __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
	if (ret_sipi_vector)
		*ret_sipi_vector = (uint8_t)(old >> 8);
	if (new &mask & LAPIC_EV_NMI)
		l->ops->kick(l->opaque); /* there is another one to look for */
	return old & mask & EV_MASK;
}

/* --- routing --- */

static bool matches(const struct lapic *l, uint32_t dest, bool logical)
{
	uint32_t ldr;

	if (!(__atomic_load_n(&l->base, __ATOMIC_RELAXED) & APIC_BASE_EN))
		return false;
	if (!logical)
		return dest == l->id;
	if (lapic_is_x2(l)) {
		ldr = lapic_x2_ldr(l->id);
		return dest >> 16 == ldr >> 16 && dest & ldr & 0xffff;
	}
	if (dest > 0xff)
		return false;
	ldr = load32(&l->ldr) >> 24;
	if (load32(&l->dfr) >> 28 == 0xf)
		return ldr & dest;
	return ldr >> 4 == dest >> 4 && ldr & dest & 0xf;
}

static void accept(struct lapic *l, unsigned mode, uint8_t vector, bool level)
{
	if (!(__atomic_load_n(&l->base, __ATOMIC_RELAXED) & APIC_BASE_EN))
		return;
	switch (mode) {
	case 0:
	case 1:
		lapic_post(l, vector, level);
		break;
	case 2:
		lapic_post_event(l, LAPIC_EV_SMI, 0);
		break;
	case 4:
		lapic_post_event(l, LAPIC_EV_NMI, 0);
		break;
	case 5:
		lapic_post_event(l, LAPIC_EV_INIT, 0);
		break;
	case 6:
		lapic_post_event(l, LAPIC_EV_SIPI, vector);
		break;
	}
}

/* @broadcast: to all that are enabled; @except: the sender of "all excluding self", or NULL */
static void route(struct lapic_set *set, uint32_t dest, bool logical, bool broadcast,
		  const struct lapic *except, unsigned mode, uint8_t vector, bool level)
{
	struct lapic *best = NULL;
	uint32_t best_ppr = 0, start;

	if (mode != 1) {
		for (unsigned i = 0; i < set->count; i++) {
			struct lapic *l = &set->apics[i];

			if (l->ops && l != except && (broadcast || matches(l, dest, logical)))
				accept(l, mode, vector, level);
		}
		return;
	}
	start = __atomic_fetch_add(&set->rotate, 1, __ATOMIC_RELAXED) % set->count;
	for (unsigned i = 0; i < set->count; i++) {
		struct lapic *l =
		    &set->apics[start + i < set->count ? start + i : start + i - set->count];
		uint32_t ppr;

		if (!l->ops || l == except || !accepts_fixed(l) ||
		    !(broadcast || matches(l, dest, logical)))
			continue;
		ppr = load32(&l->ppr) >> 4;
		if (!best || ppr < best_ppr) {
			best = l;
			best_ppr = ppr;
		}
	}
	if (best)
		lapic_post(best, vector, level);
}

void lapic_deliver(struct lapic_set *set, uint32_t dest, bool logical, unsigned mode,
		   uint8_t vector, bool level)
{
	route(set, dest, logical, dest == 0xff || dest == 0xffffffff, NULL, mode, vector, level);
}

void lapic_deliver_msi(struct lapic_set *set, uint64_t addr, uint32_t data)
{
	lapic_deliver(set, (uint32_t)(addr >> 12) & 0xff, addr & 4, data >> 8 & 7, (uint8_t)data,
		      data & 0x8000);
}

static void send_ipi(struct lapic *l, uint32_t icr, uint32_t dest, bool x2)
{
	unsigned mode = icr >> 8 & 7, shorthand = icr >> 18 & 3;
	uint8_t vector = (uint8_t)icr;
	bool broadcast = dest == (x2 ? 0xffffffffu : 0xffu);

	if (mode == 3 || mode == 7)
		return; /* reserved */
	if (mode <= 1 && vector < 16) {
		raise_error(l, ESR_SEND_ILLEGAL);
		return;
	}
	if (mode == 5 && (icr & 0xc000) == 0x8000)
		return; /* INIT level de-assert: nothing on current processors */
	/* The trigger mode matters to INIT alone; IPIs are edge-triggered. */
	switch (shorthand) {
	case 0:
		route(l->set, dest, icr & 0x800, broadcast, NULL, mode, vector, false);
		break;
	case 1:
		accept(l, mode, vector, false);
		break;
	default:
		route(l->set, 0, false, true, shorthand == 3 ? l : NULL, mode, vector, false);
		break;
	}
}

/* --- registers --- */

static void set_lvt(struct lapic *l, unsigned i, uint32_t val)
{
	uint32_t old = l->lvt[i];

	val &= lapic_lvt_writable[i];
	if (!(l->svr & SVR_ENABLED))
		val |= LVT_MASKED;
	if (i == LVT_TIMER && (val & LVT_TIMER_MODE) == LVT_TIMER_MODE)
		val &= ~LVT_TIMER_MODE; /* reserved mode: act as one-shot */
	store32(&l->lvt[i], val);
	/* Entering or leaving deadline mode disarms the timer. */
	if (i == LVT_TIMER && (old ^ val) & LVT_TIMER_DEADLINE) {
		l->timer_initial = 0;
		l->timer_deadline_ns = 0;
		l->tsc_deadline = 0;
		lapic_timer_rearm(l);
	}
}

static void set_svr(struct lapic *l, uint32_t val)
{
	store32(&l->svr, val & SVR_WRITABLE);
	if (!(val & SVR_ENABLED))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			store32(&l->lvt[i], l->lvt[i] | LVT_MASKED);
}

static void set_tpr(struct lapic *l, uint32_t tpr)
{
	l->tpr = tpr & 0xff;
	lapic_update_ppr(l);
}

static void end_of_interrupt(struct lapic *l)
{
	int vector = highest(l->isr);
	bool level;

	if (vector < 0)
		return;
	level = test_vector(l->tmr, (uint8_t)vector);
	l->isr[vector >> 6] &= ~(1ull << (vector & 63));
	if (level)
		l->ops->eoi(l->opaque, (uint8_t)vector);
	lapic_update_ppr(l);
}

static uint32_t vector_reg(const uint64_t map[4], uint32_t off)
{
	unsigned i = off >> 4 & 7;

	return (uint32_t)(__atomic_load_n(&map[i >> 1], __ATOMIC_RELAXED) >> (i & 1 ? 32 : 0));
}

/* Read the register at @off, a multiple of 16; false when there is none */
static bool reg_read(struct lapic *l, uint32_t off, bool x2, uint32_t *ret)
{
	switch (off) {
	case APIC_ID:
		*ret = x2 ? l->id : l->id << 24;
		return true;
	case APIC_VERSION:
		*ret = 0x14 | (LVT_COUNT - 1) << 16;
		return true;
	case APIC_TPR:
		*ret = l->tpr;
		return true;
	case APIC_PPR:
		*ret = l->ppr;
		return true;
	case APIC_APR:
	case APIC_RRR:
	case APIC_EOI:
		*ret = 0;
		return !x2;
	case APIC_LDR:
		*ret = x2 ? lapic_x2_ldr(l->id) : l->ldr;
		return true;
	case APIC_DFR:
		*ret = l->dfr;
		return !x2;
	case APIC_SVR:
		*ret = l->svr;
		return true;
	case APIC_ISR ... APIC_ISR + 0x70:
		*ret = vector_reg(l->isr, off);
		return true;
	case APIC_TMR ... APIC_TMR + 0x70:
		*ret = vector_reg(l->tmr, off);
		return true;
	case APIC_IRR ... APIC_IRR + 0x70:
		*ret = vector_reg(l->irr, off);
		return true;
	case APIC_ESR:
		*ret = l->esr;
		return true;
	case APIC_ICR:
		*ret = l->icr;
		return true;
	case APIC_ICR2:
		*ret = l->icr2;
		return !x2;
	case APIC_LVT_TIMER ... APIC_LVT_ERROR:
		*ret = l->lvt[(off - APIC_LVT_TIMER) >> 4];
		return true;
	case APIC_TIMER_INITIAL:
		*ret = l->timer_initial;
		return true;
	case APIC_TIMER_CURRENT:
		*ret = lapic_timer_current(l);
		return true;
	case APIC_TIMER_DIVIDE:
		*ret = l->divide;
		return true;
	}
	return false;
}

/* Registers that both modes write alike; false when there is none at @off */
static bool reg_write(struct lapic *l, uint32_t off, uint32_t val)
{
	switch (off) {
	case APIC_TPR:
		set_tpr(l, val);
		return true;
	case APIC_EOI:
		end_of_interrupt(l);
		return true;
	case APIC_SVR:
		set_svr(l, val);
		return true;
	case APIC_ESR:
		l->esr = __atomic_exchange_n(&l->esr_pending, 0, __ATOMIC_RELAXED);
		return true;
	case APIC_LVT_TIMER ... APIC_LVT_ERROR:
		set_lvt(l, (off - APIC_LVT_TIMER) >> 4, val);
		return true;
	case APIC_TIMER_INITIAL:
		lapic_timer_set_initial(l, val);
		return true;
	case APIC_TIMER_DIVIDE:
		lapic_timer_set_divide(l, val);
		return true;
	}
	return false;
}

uint32_t lapic_mmio_read(struct lapic *l, uint32_t off)
{
	uint32_t val = 0;

	if ((l->base & APIC_BASE_MODE) != APIC_BASE_EN)
		return 0xffffffff;
	if (off & 15 || off > 0xff0)
		return 0;
	reg_read(l, off, false, &val);
	return val;
}

void lapic_mmio_write(struct lapic *l, uint32_t off, uint32_t val)
{
	if ((l->base & APIC_BASE_MODE) != APIC_BASE_EN || off & 15 || off > 0xff0)
		return;
	switch (off) {
	case APIC_LDR:
		store32(&l->ldr, val & 0xff000000);
		break;
	case APIC_DFR:
		store32(&l->dfr, val | 0x0fffffff);
		break;
	case APIC_ICR2:
		l->icr2 = val & 0xff000000;
		break;
	case APIC_ICR:
		l->icr = val & ICR_BITS;
		send_ipi(l, l->icr, l->icr2 >> 24, false);
		break;
	default:
		reg_write(l, off, val);
		break;
	}
}

/* Bits that must be zero in an x2APIC register, else #GP; all ones where nothing may be written */
static uint32_t x2_reserved(uint32_t off)
{
	switch (off) {
	case APIC_TPR:
		return ~0xffu;
	case APIC_EOI:
	case APIC_ESR:
		return ~0u;
	case APIC_SVR:
		return ~SVR_WRITABLE;
	case APIC_LVT_TIMER ... APIC_LVT_ERROR:
		/* delivery status and remote IRR are read-only, not reserved */
		return ~(lapic_lvt_writable[(off - APIC_LVT_TIMER) >> 4] | 1u << 12 | 1u << 14);
	case APIC_TIMER_DIVIDE:
		return ~DIVIDE_BITS;
	}
	return 0;
}

static bool x2_write(struct lapic *l, uint32_t off, uint64_t val)
{
	switch (off) {
	case APIC_ICR:
		if ((uint32_t)val & ~(ICR_BITS | 1u << 12))
			return false;
		l->icr = (uint32_t)val & ICR_BITS;
		l->icr2 = (uint32_t)(val >> 32);
		send_ipi(l, l->icr, l->icr2, true);
		return true;
	case APIC_SELF_IPI:
		if (val > 0xff)
			return false;
		if (val < 16)
			raise_error(l, ESR_SEND_ILLEGAL);
		else
			lapic_post(l, (uint8_t)val, false);
		return true;
	}
	if (val >> 32 || (uint32_t)val & x2_reserved(off))
		return false;
	return reg_write(l, off, (uint32_t)val);
}

static bool set_base(struct lapic *l, uint64_t val)
{
	uint64_t old = l->base;

	if (val & 0x2ff || val >> MEM_PHYS_BITS)
		return false;
	if ((val & APIC_BASE_MODE) == APIC_BASE_EXTD)
		return false;
	if ((old & APIC_BASE_MODE) == APIC_BASE_MODE && (val & APIC_BASE_MODE) == APIC_BASE_EN)
		return false;
	if (!(old & APIC_BASE_EN) && val & APIC_BASE_EXTD)
		return false;
	val = (val & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
	if (old & APIC_BASE_EN && !(val & APIC_BASE_EN))
		lapic_reset(l, true);
	else if ((old ^ val) & APIC_BASE_EXTD)
		l->icr2 = 0;
	__atomic_store_n(&l->base, val, __ATOMIC_RELAXED);
	return true;
}

bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *ret_val)
{
	uint32_t val, off;

	if (msr == 0x1b) {
		*ret_val = l->base;
		return true;
	}
	if (msr == 0x6e0) {
		*ret_val = l->tsc_deadline; /* 0 in the other modes */
		return true;
	}
	if (msr < 0x800 || msr > 0x8ff || !lapic_is_x2(l))
		return false;
	off = (msr - 0x800) << 4;
	if (!reg_read(l, off, true, &val))
		return false;
	*ret_val = val;
	if (off == APIC_ICR)
		*ret_val |= (uint64_t)l->icr2 << 32;
	return true;
}

bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t val)
{
	if (msr == 0x1b)
		return set_base(l, val);
	if (msr == 0x6e0) {
		lapic_timer_set_deadline(l, val);
		return true;
	}
	if (msr < 0x800 || msr > 0x8ff || !lapic_is_x2(l))
		return false;
	return x2_write(l, (msr - 0x800) << 4, val);
}

uint8_t lapic_get_cr8(struct lapic *l)
{
	return (uint8_t)(l->tpr >> 4);
}

void lapic_set_cr8(struct lapic *l, uint8_t cr8)
{
	set_tpr(l, (uint32_t)(cr8 & 15) << 4);
}

uint64_t lapic_base(const struct lapic *l)
{
	return l->base;
}

bool lapic_takes_extint(const struct lapic *l)
{
	uint32_t lint0 = l->lvt[LVT_LINT0];

	if (!(l->base & APIC_BASE_EN))
		return l->id == 0; /* only the boot processor is wired to the 8259 pair */
	return !(lint0 & LVT_MASKED) && (lint0 & LVT_MODE) == LVT_MODE_EXTINT;
}

void lapic_reset(struct lapic *l, bool init)
{
	if (!init)
		__atomic_store_n(&l->base,
				 MEM_LAPIC_BASE | APIC_BASE_EN | (l->id ? 0 : APIC_BASE_BSP),
				 __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 4; i++) {
		__atomic_store_n(&l->irr[i], 0, __ATOMIC_RELAXED);
		__atomic_store_n(&l->tmr[i], 0, __ATOMIC_RELAXED);
		l->isr[i] = 0;
	}
	if (!init)
		store32(&l->events, 0);
	store32(&l->esr_pending, 0);
	store32(&l->svr, 0xff);
	store32(&l->ldr, 0);
	store32(&l->dfr, 0xffffffff);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		store32(&l->lvt[i], LVT_MASKED);
	/* The boot processor starts in virtual wire mode, as firmware leaves it. */
	if (!init && !l->id)
		store32(&l->lvt[LVT_LINT0], LVT_MODE_EXTINT);
	l->tpr = l->esr = l->icr = l->icr2 = l->divide = l->timer_initial = 0;
	store32(&l->ppr, 0);
	l->timer_deadline_ns = l->tsc_deadline = 0;
	lapic_timer_rearm(l);
}
