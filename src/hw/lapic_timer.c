/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timer of the local APIC (Intel SDM 3A, "APIC Timer"). Under the rules of
 * lapic.c: no vector registers, no calls beside the accelerator's callbacks.
 *
 * In one-shot and periodic mode the timer counts at 1 GHz before division. It
 * keeps the time at which the count reaches zero; the current count is
 * derived. In TSC-deadline mode it keeps the deadline alone. The state of the
 * mode that is not selected is zero.
 */
#include "hw/lapic_priv.h"

/* A periodic timer fires at most this often, so that its guest cannot keep the host's timers busy.
 */
#define TIMER_PERIOD_MIN_NS 10000

static uint64_t timer_unit_ns(const struct lapic *l)
{
	unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);

	return 1ull << ((code + 1) & 7);
}

static uint32_t timer_mode(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

static uint64_t timer_period_ns(const struct lapic *l)
{
	uint64_t period = l->timer_initial * timer_unit_ns(l);

	return period < TIMER_PERIOD_MIN_NS ? TIMER_PERIOD_MIN_NS : period;
}

/* Tell the accelerator the deadline that the state asks for */
void lapic_timer_rearm(struct lapic *l)
{
	uint64_t at = l->timer_deadline_ns;

	if (timer_mode(l) == LVT_TIMER_DEADLINE) {
		at = 0;
		if (l->tsc_deadline) {
			at = l->ops->tsc_to_ns(l->opaque, l->tsc_deadline);
			if (!at)
				at = 1;
		}
	}
	l->ops->timer_arm(l->opaque, at);
}

void lapic_timer_shift(struct lapic *l, uint64_t ns)
{
	if (l->timer_deadline_ns)
		l->timer_deadline_ns += ns;
	lapic_timer_rearm(l);
}

static void timer_post(struct lapic *l)
{
	uint32_t lvt = l->lvt[LVT_TIMER];

	if (!(lvt & LVT_MASKED))
		lapic_post(l, (uint8_t)lvt, false);
}

void lapic_timer_fire(struct lapic *l)
{
	uint64_t now, behind, period;

	if (timer_mode(l) == LVT_TIMER_DEADLINE) {
		if (!l->tsc_deadline)
			return;
		if (l->ops->guest_tsc(l->opaque) < l->tsc_deadline) {
			lapic_timer_rearm(l);
			return;
		}
		l->tsc_deadline = 0;
		timer_post(l);
		return;
	}
	if (!l->timer_deadline_ns)
		return;
	now = l->ops->now_ns(l->opaque);
	if (now >= l->timer_deadline_ns) {
		if (timer_mode(l) == LVT_TIMER_PERIODIC) {
			/* Periods that passed unserved are dropped, as on a CPU that kept
			 * interrupts off. */
			period = timer_period_ns(l);
			behind = now - l->timer_deadline_ns;
			l->timer_deadline_ns = now + period - behind % period;
		} else {
			l->timer_deadline_ns = 0;
		}
		timer_post(l);
		if (!l->timer_deadline_ns)
			return;
	}
	lapic_timer_rearm(l);
}

uint32_t lapic_timer_current(const struct lapic *l)
{
	uint64_t now, left, unit = timer_unit_ns(l);

	if (!l->timer_deadline_ns)
		return 0;
	now = l->ops->now_ns(l->opaque);
	if (now < l->timer_deadline_ns) {
		left = l->timer_deadline_ns - now;
	} else {
		uint64_t period = timer_period_ns(l);

		if (timer_mode(l) != LVT_TIMER_PERIODIC)
			return 0;
		left = period - (now - l->timer_deadline_ns) % period;
	}
	left = (left + unit - 1) / unit;
	return left > l->timer_initial ? l->timer_initial : (uint32_t)left;
}

void lapic_timer_set_initial(struct lapic *l, uint32_t val)
{
	if (timer_mode(l) == LVT_TIMER_DEADLINE)
		return;
	l->timer_initial = val;
	l->timer_deadline_ns = 0;
	if (val) {
		uint64_t ns = timer_mode(l) == LVT_TIMER_PERIODIC ? timer_period_ns(l)
								  : val * timer_unit_ns(l);

		l->timer_deadline_ns = l->ops->now_ns(l->opaque) + ns;
	}
	lapic_timer_rearm(l);
}

void lapic_timer_set_divide(struct lapic *l, uint32_t val)
{
	uint32_t left = lapic_timer_current(l);

	l->divide = val & DIVIDE_BITS;
	if (!l->timer_deadline_ns)
		return;
	/* The count goes on from where it stands, at the new rate. */
	l->timer_deadline_ns = l->ops->now_ns(l->opaque) + left * timer_unit_ns(l);
	lapic_timer_rearm(l);
}

void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc)
{
	if (timer_mode(l) != LVT_TIMER_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	if (tsc && l->ops->guest_tsc(l->opaque) >= tsc) {
		l->tsc_deadline = 0;
		timer_post(l);
	}
	lapic_timer_rearm(l);
}
