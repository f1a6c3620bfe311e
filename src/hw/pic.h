/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pair of 8259A interrupt controllers (ports 0x20/0x21, 0xa0/0xa1, ELCR
 * 0x4d0/0x4d1), for accelerators that have none of their own.
 *
 * Any thread. Like the I/O APIC it may be called while the guest's vector
 * registers are live: general registers only, a spin lock, and no calls
 * beside @intr.
 *
 * An accelerator forwards every line change with pic_set_gsi(), and before
 * entering the boot processor, when pic_pending() and lapic_takes_extint() and
 * interrupts are enabled, injects the vector of pic_ack(); these come before
 * the local APIC's own.
 */
#ifndef EYOT_HW_PIC_H
#define EYOT_HW_PIC_H

#include <stdbool.h>

#include "base/err.h"
#include "base/snap.h"
#include "vm/bus.h"

struct pic;

/**
 * pic_new() - claims its ports on @pio
 * @intr: the pair's output rose: make the boot processor look. May be NULL
 */
int pic_new(struct bus *pio, void (*intr)(void *opaque), void *opaque, struct pic **ret_pic,
	    struct err *err);
void pic_free(struct pic *pic);

/** pic_set_gsi() - level of a line by its GSI: 2 is ISA IRQ 0, 1 and 3..15 their own, others not
 * here */
void pic_set_gsi(struct pic *pic, unsigned gsi, bool level);

/** pic_pending() - whether the output is asserted; cheap */
bool pic_pending(const struct pic *pic);

/** pic_ack() - interrupt acknowledge cycle; the vector (a spurious one when the request went away)
 */
int pic_ack(struct pic *pic);

void pic_reset(struct pic *pic);
void pic_save(struct pic *pic, struct snap_writer *w);
int pic_load(struct pic *pic, struct snap_reader *r, struct err *err);

/* What one 8259A is saved as, on every accelerator. */
struct pic_chip_state {
	uint8_t irr, imr, isr, elcr, lines;
	uint8_t base;  /* vector of IRQ 0, a multiple of 8 */
	uint8_t first; /* IRQ of the highest priority */
	uint8_t init;  /* initialisation word expected next: 2, 3, 4; 0: none */
	bool expect_icw4, auto_eoi, rotate_aeoi, special_mask, nested;
	bool read_isr, poll;
};

/* IRQs that can be level-triggered: not 0, 1, 2, 8 and 13 */
#define PIC_ELCR_MASTER 0xf8
#define PIC_ELCR_SLAVE 0xde

/** pic_state_reset() - the power-on state of the pair: everything masked */
void pic_state_reset(struct pic_chip_state chip[2]);
void pic_state_save(const struct pic_chip_state chip[2], struct snap_writer *w);
/** pic_state_load() - a saved pair, checked; -EBADMSG */
int pic_state_load(struct pic_chip_state chip[2], struct snap_reader *r, struct err *err);

#endif
