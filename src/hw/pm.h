/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (ACPI 6.4, chapter 4): PM1a event and control registers,
 * PM timer, power button, general purpose events; interrupt GSI_SCI. Ports are in platform.h.
 */
#ifndef EYOT_HW_PM_H
#define EYOT_HW_PM_H

#include "base/err.h"
#include "base/snap.h"
#include "hw/clock.h"
#include "hw/platform.h"
#include "vm/bus.h"
#include "vm/irq.h"

#define PM_TIMER_HZ 3579545

struct pm;

/** pm_new() - claims PORT_PM_BASE on @pio; @irq, @clock and @platform (may be NULL) are borrowed */
int pm_new(struct bus *pio, const struct irq_sink *irq, const struct hw_clock *clock,
	   const struct platform_ops *platform, struct pm **ret_pm, struct err *err);
void pm_free(struct pm *pm); /* loop thread */

/** pm_power_button() - press the fixed power button; any thread */
void pm_power_button(struct pm *pm);

/** pm_gpe_raise() - general purpose event @bit (PM_GPE_*) happened; any thread */
void pm_gpe_raise(struct pm *pm, unsigned bit);

void pm_reset(struct pm *pm);
void pm_save(struct pm *pm, struct snap_writer *w);
int pm_load(struct pm *pm, struct snap_reader *r, struct err *err);

#endif
