/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 8254 interval timer at ports 0x40-0x43, with the PC's port 0x61: gate and
 * output of channel 2 and the refresh toggle. Channel 0 raises GSI_PIT.
 */
#ifndef EYOT_HW_PIT_H
#define EYOT_HW_PIT_H

#include "base/err.h"
#include "base/snap.h"
#include "hw/clock.h"
#include "vm/bus.h"
#include "vm/irq.h"

#define PIT_HZ 1193182

struct pit;

/** pit_new() - claims its ports on @pio; @irq and @clock are borrowed */
int pit_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	    struct pit **ret_pit, struct err *err);
void pit_free(struct pit *p); /* loop thread */
void pit_reset(struct pit *p);
void pit_save(struct pit *p, struct snap_writer *w);
int pit_load(struct pit *p, struct snap_reader *r, struct err *err);

#endif
