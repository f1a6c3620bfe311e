/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What test kernels expect of a machine besides the debug exit port, at the
 * places where they look for it: a port that keeps what was written, one port
 * per interrupt line that sets its level, and memory that is registers, not
 * RAM. It is there with --debug-exit only.
 */
#ifndef EYOT_HW_TESTDEV_H
#define EYOT_HW_TESTDEV_H

#include "base/err.h"
#include "base/snap.h"
#include "vm/bus.h"
#include "vm/irq.h"

struct testdev;

int testdev_new(struct bus *pio, struct bus *mmio, const struct irq_sink *irq,
		struct testdev **ret_dev, struct err *err);
void testdev_free(struct testdev *t);
void testdev_reset(struct testdev *t);
void testdev_save(struct testdev *t, struct snap_writer *w);
int testdev_load(struct testdev *t, struct snap_reader *r, struct err *err);

#endif
