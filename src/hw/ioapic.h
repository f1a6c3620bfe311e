/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC with 24 pins (82093AA data sheet), for accelerators that have none
 * of their own.
 *
 * Any thread. Like the local APIC it may be called while the guest's vector
 * registers are live: ioapic_eoi() and ioapic_set_line() use general
 * registers only and call nothing but lapic_deliver(). A spin lock guards the
 * redirection table; it is never held across a call.
 */
#ifndef EYOT_HW_IOAPIC_H
#define EYOT_HW_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"
#include "hw/lapic.h"
#include "vm/bus.h"

#define IOAPIC_PINS 24

struct ioapic;

/**
 * ioapic_new() - make the I/O APIC, which claims MEM_IOAPIC_BASE on @mmio
 * @set: where messages go; borrowed
 */
int ioapic_new(struct bus *mmio, struct lapic_set *set, struct ioapic **ret_ioapic,
	       struct err *err);
void ioapic_free(struct ioapic *io);

/** ioapic_set_line() - level of an input pin; asserted is true. Has the type of irq_sink.line. */
void ioapic_set_line(void *ioapic, unsigned pin, bool level);

/** ioapic_eoi() - a local APIC completed level-triggered @vector */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

/** ioapic_reset() - mask all pins; line levels stay what the devices say */
void ioapic_reset(struct ioapic *io);
void ioapic_save(struct ioapic *io, struct snap_writer *w);
int ioapic_load(struct ioapic *io, struct snap_reader *r, struct err *err);

#define IOAPIC_RTE_REMOTE_IRR (1ull << 14)
#define IOAPIC_RTE_LEVEL (1ull << 15)
#define IOAPIC_RTE_MASKED (1ull << 16)
#define IOAPIC_RTE_WRITABLE 0xff0000000001afffull

/* What an I/O APIC is saved as, on every accelerator. */
struct ioapic_state {
	uint8_t select, id;
	uint32_t lines; /* asserted pins */
	uint64_t rte[IOAPIC_PINS];
};

/** ioapic_rte_is_level() - whether a redirection entry sends level-triggered interrupts */
static inline bool ioapic_rte_is_level(uint64_t rte)
{
	return rte & IOAPIC_RTE_LEVEL && (rte >> 8 & 7) <= 1;
}

void ioapic_state_save(const struct ioapic_state *st, struct snap_writer *w);
/** ioapic_state_load() - a saved state, checked; -EBADMSG */
int ioapic_state_load(struct ioapic_state *st, struct snap_reader *r, struct err *err);

#endif
