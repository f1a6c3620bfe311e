/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC: making, saving and loading; vCPUs are stopped. */
#include "hw/lapic_priv.h"

#include <stdlib.h>
#include <string.h>

#include "vm/mem.h"

#define SNAP_NAME "lapic"
#define SNAP_VERSION 1

int lapic_set_new(unsigned count, struct lapic_set **ret_set)
{
	struct lapic_set *set;

	if (!count || count > LAPIC_MAX)
		return -EINVAL;
	set = calloc(1, sizeof(*set));
	if (!set)
		return -ENOMEM;
	if (posix_memalign((void **)&set->apics, 64, count * sizeof(*set->apics))) {
		free(set);
		return -ENOMEM;
	}
	memset(set->apics, 0, count * sizeof(*set->apics));
	set->count = count;
	*ret_set = set;
	return 0;
}

void lapic_set_free(struct lapic_set *set)
{
	if (!set)
		return;
	free(set->apics);
	free(set);
}

struct lapic *lapic_set_init(struct lapic_set *set, unsigned index, const struct lapic_ops *ops,
			     void *opaque)
{
	struct lapic *l = &set->apics[index];

	l->id = index;
	l->set = set;
	l->ops = ops;
	l->opaque = opaque;
	lapic_reset(l, false);
	return l;
}

void lapic_state_reset(struct lapic_state *st, uint32_t id)
{
	*st = (struct lapic_state) {
		.id = id,
		.base = MEM_LAPIC_BASE | APIC_BASE_EN | (id ? 0 : APIC_BASE_BSP),
		.svr = 0xff,
		.dfr = 0xffffffff,
	};
	for (unsigned i = 0; i < LVT_COUNT; i++)
		st->lvt[i] = LVT_MASKED;
	/* The boot processor starts in virtual wire mode, as firmware leaves it. */
	if (!id)
		st->lvt[LVT_LINT0] = LVT_MODE_EXTINT;
}

uint32_t lapic_lvt_mask(unsigned index)
{
	return lapic_lvt_writable[index];
}

void lapic_state_save(const struct lapic_state *st, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u32(w, st->id);
	snap_put_u64(w, st->base);
	for (unsigned i = 0; i < 4; i++) {
		snap_put_u64(w, st->irr[i]);
		snap_put_u64(w, st->tmr[i]);
		snap_put_u64(w, st->isr[i]);
	}
	snap_put_u32(w, st->events);
	snap_put_u32(w, st->esr_pending);
	snap_put_u32(w, st->esr);
	snap_put_u32(w, st->tpr);
	snap_put_u32(w, st->svr);
	snap_put_u32(w, st->ldr);
	snap_put_u32(w, st->dfr);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		snap_put_u32(w, st->lvt[i]);
	snap_put_u32(w, st->icr);
	snap_put_u32(w, st->icr2);
	snap_put_u32(w, st->divide);
	snap_put_u32(w, st->timer_initial);
	snap_put_u64(w, st->timer_left_ns);
	snap_put_u64(w, st->tsc_deadline);
	snap_close(w);
}

/* What the guest can bring about; anything else is no saved local APIC */
static bool state_valid(const struct lapic_state *st)
{
	bool deadline = (st->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;
	uint64_t left = st->timer_left_ns;

	if (st->base & 0x2ff || st->base >> MEM_PHYS_BITS ||
	    (st->base & APIC_BASE_MODE) == APIC_BASE_EXTD)
		return false;
	if ((st->irr[0] | st->isr[0]) & 0xffff ||
	    st->events & ~(0xffu << LAPIC_EV_SIPI_SHIFT | EV_MASK | EV_SECOND_NMI) ||
	    (st->esr | st->esr_pending) & ~ESR_BITS || st->tpr > 0xff || st->svr & ~SVR_WRITABLE ||
	    st->ldr & 0xffffff || ~st->dfr & 0x0fffffff || st->icr & ~ICR_BITS ||
	    st->divide & ~DIVIDE_BITS)
		return false;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		if (st->lvt[i] & ~lapic_lvt_writable[i])
			return false;
	if ((st->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_MODE)
		return false;
	/* The longest count is 2^32 times 128 ns; the shortest period is a few microseconds. */
	if (left > 1ull << 40 || (left && (deadline || !st->timer_initial)))
		return false;
	return deadline || !st->tsc_deadline;
}

int lapic_state_load(struct lapic_state *st, uint32_t id, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	st->id = snap_get_u32(r);
	st->base = snap_get_u64(r) & ~APIC_BASE_BSP;
	for (unsigned i = 0; i < 4; i++) {
		st->irr[i] = snap_get_u64(r);
		st->tmr[i] = snap_get_u64(r);
		st->isr[i] = snap_get_u64(r);
	}
	st->events = snap_get_u32(r);
	st->esr_pending = snap_get_u32(r);
	st->esr = snap_get_u32(r);
	st->tpr = snap_get_u32(r);
	st->svr = snap_get_u32(r);
	st->ldr = snap_get_u32(r);
	st->dfr = snap_get_u32(r);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		st->lvt[i] = snap_get_u32(r);
	st->icr = snap_get_u32(r);
	st->icr2 = snap_get_u32(r);
	st->divide = snap_get_u32(r);
	st->timer_initial = snap_get_u32(r);
	st->timer_left_ns = snap_get_u64(r);
	st->tsc_deadline = snap_get_u64(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (st->id != id || !state_valid(st))
		return err_set(err, EBADMSG, "local APIC %u: saved state is not valid", id);
	st->base |= id ? 0 : APIC_BASE_BSP;
	return 0;
}

void lapic_save(const struct lapic *l, struct snap_writer *w)
{
	uint64_t now = l->ops->now_ns(l->opaque);
	struct lapic_state st = {
		.id = l->id,
		.base = l->base,
		.events = l->events,
		.esr_pending = l->esr_pending,
		.esr = l->esr,
		.tpr = l->tpr,
		.svr = l->svr,
		.ldr = l->ldr,
		.dfr = l->dfr,
		.icr = l->icr,
		.icr2 = l->icr2,
		.divide = l->divide,
		.timer_initial = l->timer_initial,
		.tsc_deadline = l->tsc_deadline,
	};

	for (unsigned i = 0; i < 4; i++) {
		st.irr[i] = l->irr[i];
		st.tmr[i] = l->tmr[i];
		st.isr[i] = l->isr[i];
	}
	for (unsigned i = 0; i < LVT_COUNT; i++)
		st.lvt[i] = l->lvt[i];
	/* An overdue timer fires right after loading. */
	if (l->timer_deadline_ns)
		st.timer_left_ns = l->timer_deadline_ns > now ? l->timer_deadline_ns - now : 1;
	lapic_state_save(&st, w);
}

int lapic_load(struct lapic *l, struct snap_reader *r, struct err *err)
{
	struct lapic_state st;
	int ret = lapic_state_load(&st, l->id, r, err);

	if (ret < 0)
		return ret;
	l->base = st.base;
	for (unsigned i = 0; i < 4; i++) {
		l->irr[i] = st.irr[i];
		l->tmr[i] = st.tmr[i];
		l->isr[i] = st.isr[i];
	}
	for (unsigned i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = st.lvt[i];
	l->events = st.events;
	l->esr_pending = st.esr_pending;
	l->esr = st.esr;
	l->tpr = st.tpr;
	l->svr = st.svr;
	l->ldr = st.ldr;
	l->dfr = st.dfr;
	l->icr = st.icr;
	l->icr2 = st.icr2;
	l->divide = st.divide;
	l->timer_initial = st.timer_initial;
	l->timer_deadline_ns = st.timer_left_ns ? l->ops->now_ns(l->opaque) + st.timer_left_ns : 0;
	l->tsc_deadline = st.tsc_deadline;
	l->ppr = 0;
	lapic_update_ppr(l);
	lapic_timer_rearm(l);
	if (l->events || lapic_pending(l) >= 0)
		l->ops->kick(l->opaque);
	return 0;
}
