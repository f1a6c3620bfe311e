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

void lapic_save(const struct lapic *l, struct snap_writer *w)
{
	uint64_t now = l->ops->now_ns(l->opaque), left = 0;

	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u32(w, l->id);
	snap_put_u64(w, l->base);
	for (unsigned i = 0; i < 4; i++) {
		snap_put_u64(w, l->irr[i]);
		snap_put_u64(w, l->tmr[i]);
		snap_put_u64(w, l->isr[i]);
	}
	snap_put_u32(w, l->events);
	snap_put_u32(w, l->esr_pending);
	snap_put_u32(w, l->esr);
	snap_put_u32(w, l->tpr);
	snap_put_u32(w, l->svr);
	snap_put_u32(w, l->ldr);
	snap_put_u32(w, l->dfr);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		snap_put_u32(w, l->lvt[i]);
	snap_put_u32(w, l->icr);
	snap_put_u32(w, l->icr2);
	snap_put_u32(w, l->divide);
	snap_put_u32(w, l->timer_initial);
	/* Time left, 0: stopped; an overdue timer fires right after loading */
	if (l->timer_deadline_ns)
		left = l->timer_deadline_ns > now ? l->timer_deadline_ns - now : 1;
	snap_put_u64(w, left);
	snap_put_u64(w, l->tsc_deadline);
	snap_close(w);
}

/* What the guest can bring about; anything else is no saved local APIC */
static bool state_valid(const struct lapic *l, uint64_t left)
{
	bool deadline = (l->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;

	if (l->base & 0x2ff || l->base >> MEM_PHYS_BITS ||
	    (l->base & APIC_BASE_MODE) == APIC_BASE_EXTD)
		return false;
	if ((l->irr[0] | l->isr[0]) & 0xffff || l->events & ~(0xff00u | EV_MASK | EV_SECOND_NMI) ||
	    (l->esr | l->esr_pending) & ~ESR_BITS || l->tpr > 0xff || l->svr & ~SVR_WRITABLE ||
	    l->ldr & 0xffffff || ~l->dfr & 0x0fffffff || l->icr & ~ICR_BITS ||
	    l->divide & ~DIVIDE_BITS)
		return false;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		if (l->lvt[i] & ~lapic_lvt_writable[i])
			return false;
	if ((l->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_MODE)
		return false;
	/* The longest count is 2^32 times 128 ns; the shortest period is a few microseconds. */
	if (left > 1ull << 40 || (left && (deadline || !l->timer_initial)))
		return false;
	return deadline || !l->tsc_deadline;
}

int lapic_load(struct lapic *l, struct snap_reader *r, struct err *err)
{
	struct lapic in = *l;
	uint64_t left, now;
	uint32_t version, id;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	id = snap_get_u32(r);
	in.base = snap_get_u64(r) & ~APIC_BASE_BSP;
	for (unsigned i = 0; i < 4; i++) {
		in.irr[i] = snap_get_u64(r);
		in.tmr[i] = snap_get_u64(r);
		in.isr[i] = snap_get_u64(r);
	}
	in.events = snap_get_u32(r);
	in.esr_pending = snap_get_u32(r);
	in.esr = snap_get_u32(r);
	in.tpr = snap_get_u32(r);
	in.svr = snap_get_u32(r);
	in.ldr = snap_get_u32(r);
	in.dfr = snap_get_u32(r);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		in.lvt[i] = snap_get_u32(r);
	in.icr = snap_get_u32(r);
	in.icr2 = snap_get_u32(r);
	in.divide = snap_get_u32(r);
	in.timer_initial = snap_get_u32(r);
	left = snap_get_u64(r);
	in.tsc_deadline = snap_get_u64(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (id != l->id || !state_valid(&in, left))
		return err_set(err, EBADMSG, "local APIC %u: saved state is not valid", l->id);
	now = l->ops->now_ns(l->opaque);
	in.timer_deadline_ns = left ? now + left : 0;
	in.base |= l->id ? 0 : APIC_BASE_BSP;
	in.ppr = 0;
	*l = in;
	lapic_update_ppr(l);
	lapic_timer_rearm(l);
	if (l->events || lapic_pending(l) >= 0)
		l->ops->kick(l->opaque);
	return 0;
}
