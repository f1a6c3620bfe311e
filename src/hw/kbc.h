/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left of the keyboard controller: ways to reset the machine (the
 * 0xfe pulse at port 0x64, the output port, port 0x92) and the A20 gate, which
 * is always open. No keyboard, no mouse: FADT must say that there is no 8042.
 */
#ifndef EYOT_HW_KBC_H
#define EYOT_HW_KBC_H

#include "base/err.h"
#include "base/snap.h"
#include "hw/platform.h"
#include "vm/bus.h"

struct kbc;

/** kbc_new() - claims ports 0x60, 0x64 and 0x92 on @pio; @platform is borrowed, may be NULL */
int kbc_new(struct bus *pio, const struct platform_ops *platform, struct kbc **ret_kbc,
	    struct err *err);
void kbc_free(struct kbc *k);
void kbc_reset(struct kbc *k);
void kbc_save(struct kbc *k, struct snap_writer *w);
int kbc_load(struct kbc *k, struct snap_reader *r, struct err *err);

#endif
