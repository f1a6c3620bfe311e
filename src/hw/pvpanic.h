/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports through which a guest tells the monitor about itself: pvpanic (the
 * guest's kernel crashed) and the debug exit port. Neither has any state.
 */
#ifndef EYOT_HW_PVPANIC_H
#define EYOT_HW_PVPANIC_H

#include "base/err.h"
#include "hw/platform.h"
#include "vm/bus.h"

/**
 * pvpanic_add() - claim PORT_PVPANIC; platform->panic() hears PVPANIC_* bits
 * @platform: borrowed until pvpanic_del()
 */
int pvpanic_add(struct bus *pio, const struct platform_ops *platform, struct err *err);
void pvpanic_del(struct bus *pio, const struct platform_ops *platform);

/** debug_exit_add() - claim PORT_DEBUG_EXIT; platform->debug_exit() hears what is written */
int debug_exit_add(struct bus *pio, const struct platform_ops *platform, struct err *err);
void debug_exit_del(struct bus *pio, const struct platform_ops *platform);

#endif
