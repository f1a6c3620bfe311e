/* SPDX-License-Identifier: Apache-2.0 */
/* What lapic.c and lapic_timer.c (hot paths) and lapic_state.c (making, saving, loading) share. */
#ifndef EYOT_HW_LAPIC_PRIV_H
#define EYOT_HW_LAPIC_PRIV_H

#include "hw/lapic.h"

#define LAPIC_MAX 255 /* xAPIC IDs 0..254 */

#define APIC_BASE_BSP (1ull << 8)
#define APIC_BASE_EXTD (1ull << 10)
#define APIC_BASE_EN (1ull << 11)
#define APIC_BASE_MODE (APIC_BASE_EN | APIC_BASE_EXTD)

/* Register offsets in the xAPIC page; x2APIC MSR 0x800 + offset / 16 */
enum {
	APIC_ID = 0x020,
	APIC_VERSION = 0x030,
	APIC_TPR = 0x080,
	APIC_APR = 0x090,
	APIC_PPR = 0x0a0,
	APIC_EOI = 0x0b0,
	APIC_RRR = 0x0c0,
	APIC_LDR = 0x0d0,
	APIC_DFR = 0x0e0,
	APIC_SVR = 0x0f0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR2 = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_THERMAL = 0x330,
	APIC_LVT_PERF = 0x340,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INITIAL = 0x380,
	APIC_TIMER_CURRENT = 0x390,
	APIC_TIMER_DIVIDE = 0x3e0,
	APIC_SELF_IPI = 0x3f0,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR };
#define LVT_COUNT LAPIC_LVT_COUNT

#define LVT_MASKED (1u << 16)
#define LVT_MODE (7u << 8)
#define LVT_MODE_EXTINT (7u << 8)
#define LVT_TIMER_MODE (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)
#define SVR_ENABLED (1u << 8)
#define SVR_WRITABLE 0x3ffu
#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_BITS 0xefu
#define ICR_BITS 0xccfffu /* without delivery status */
#define DIVIDE_BITS 0xbu

/*
 * "shared" fields are read or changed by other threads, always through
 * __atomic builtins; the others belong to the vCPU's thread.
 */
/* Of NMIs that come before any is taken two count, as a CPU serves one and remembers another. */
#define EV_SECOND_NMI LAPIC_EV_SECOND_NMI
#define EV_MASK 0x0fu

struct lapic {
	/* shared, changed by posters */
	uint64_t irr[4] __attribute__((aligned(64)));
	uint64_t tmr[4];
	uint32_t events; /* LAPIC_EV_* in bits 0..3, EV_SECOND_NMI in 4, start-up vector in 8..15 */
	uint32_t esr_pending;
	/* shared, changed by the owner */
	uint32_t ppr __attribute__((aligned(64)));
	uint32_t svr, ldr, dfr;
	uint32_t lvt[LVT_COUNT];
	uint64_t base; /* IA32_APIC_BASE */
	/* the owner's */
	uint64_t isr[4];
	uint32_t tpr, esr, icr, icr2, divide;
	uint32_t timer_initial;
	uint64_t
	    timer_deadline_ns; /* counter reaches zero; 0: stopped (one-shot and periodic mode) */
	uint64_t tsc_deadline; /* 0: disarmed */
	/* constant */
	uint32_t id;
	const struct lapic_ops *ops;
	void *opaque;
	struct lapic_set *set;
};

struct lapic_set {
	unsigned count;
	uint32_t rotate; /* atomic: where the next lowest-priority search starts */
	struct lapic *apics;
};

extern const uint32_t lapic_lvt_writable[LVT_COUNT];

void lapic_update_ppr(struct lapic *l);
void lapic_timer_rearm(struct lapic *l);
uint32_t lapic_timer_current(const struct lapic *l);
void lapic_timer_set_initial(struct lapic *l, uint32_t val);
void lapic_timer_set_divide(struct lapic *l, uint32_t val);
void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc); /* IA32_TSC_DEADLINE */

static inline bool lapic_is_x2(const struct lapic *l)
{
	return (__atomic_load_n(&l->base, __ATOMIC_RELAXED) & APIC_BASE_MODE) == APIC_BASE_MODE;
}

/* x2APIC logical ID: cluster in the upper half, one bit in the lower (SDM 3A, "Logical Destination
 * Mode in x2APIC Mode") */
static inline uint32_t lapic_x2_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

#endif
