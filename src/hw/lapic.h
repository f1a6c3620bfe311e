/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APIC, xAPIC and x2APIC, with TSC-deadline timer (Intel SDM 3A, chapter 11 "APIC").
 *
 * Threads: everything runs on the owning vCPU's thread, except lapic_post(),
 * lapic_post_event() and lapic_deliver(), which any thread may call. What
 * crosses threads is atomic: the posted request bitmap, the trigger-mode bitmap and the event bits;
 * after changing them the poster calls ops->kick. There is no lock.
 */
#ifndef EYOT_HW_LAPIC_H
#define EYOT_HW_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/snap.h"

struct lapic;
struct lapic_set;

enum lapic_event { LAPIC_EV_INIT = 1, LAPIC_EV_SIPI = 2, LAPIC_EV_NMI = 4, LAPIC_EV_SMI = 8 };

struct lapic_ops {
	/* Something is pending for this vCPU: end its sleep, make it look. Any thread. */
	void (*kick)(void *opaque);
	/*
	 * Call lapic_timer_fire() on the vCPU's thread at @deadline_ns (CLOCK_MONOTONIC);
	 * 0 disarms. Called on the vCPU's thread (or while it is stopped).
	 */
	void (*timer_arm)(void *opaque, uint64_t deadline_ns);
	uint64_t (*now_ns)(void *opaque);    /* CLOCK_MONOTONIC */
	uint64_t (*guest_tsc)(void *opaque); /* the guest's TSC now */
	uint64_t (*tsc_to_ns)(void *opaque,
			      uint64_t tsc); /* CLOCK_MONOTONIC when the guest's TSC reaches @tsc */
	/* A level-triggered vector was completed; goes to the IOAPIC. */
	void (*eoi)(void *opaque, uint8_t vector);
};

/* All local APICs of a machine; routes inter-processor and message signalled interrupts. */
int lapic_set_new(unsigned count, struct lapic_set **ret_set);
void lapic_set_free(struct lapic_set *set);

/** lapic_set_init() - give APIC @index (its APIC ID, too) its callbacks; before any use */
struct lapic *lapic_set_init(struct lapic_set *set, unsigned index, const struct lapic_ops *ops,
			     void *opaque);

/**
 * lapic_deliver() - route an interrupt message (MSI, IOAPIC or IPI)
 * @dest: destination APIC ID or logical mask; @logical: destination mode
 * @mode: delivery mode 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT
 * @level: trigger mode is level
 */
void lapic_deliver(struct lapic_set *set, uint32_t dest, bool logical, unsigned mode,
		   uint8_t vector, bool level);

/** lapic_deliver_msi() - the same from an MSI address and data */
void lapic_deliver_msi(struct lapic_set *set, uint64_t addr, uint32_t data);

void lapic_post(struct lapic *l, uint8_t vector, bool level);
void lapic_post_event(struct lapic *l, unsigned events, uint8_t sipi_vector);

/** lapic_pending() - vector of the highest interrupt above the processor priority; -1: none */
int lapic_pending(struct lapic *l);
/** lapic_ack() - accept it: request becomes in-service; returns the vector, -1 when there is none
 * (any more) */
int lapic_ack(struct lapic *l);
/** lapic_take_events() - fetch and clear pending events (of @mask) and the start-up vector */
unsigned lapic_take_events(struct lapic *l, unsigned mask, uint8_t *ret_sipi_vector);

void lapic_timer_fire(struct lapic *l);
/** lapic_timer_shift() - the accelerator's clocks stood for @ns: so did the timer; vCPU stopped */
void lapic_timer_shift(struct lapic *l, uint64_t ns);

/* xAPIC page, offset 0..4095; 32-bit registers. */
uint32_t lapic_mmio_read(struct lapic *l, uint32_t off);
void lapic_mmio_write(struct lapic *l, uint32_t off, uint32_t val);

/**
 * lapic_msr_read() - IA32_APIC_BASE (0x1b), IA32_TSC_DEADLINE (0x6e0), x2APIC 0x800..0x8ff
 * Return: false when the access must raise #GP.
 */
bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *ret_val);
bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t val);

uint8_t lapic_get_cr8(struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint8_t cr8);
uint64_t lapic_base(const struct lapic *l); /* IA32_APIC_BASE */
/** lapic_takes_extint() - whether the 8259 pair's output reaches this CPU: LINT0 set to ExtINT, or
 * APIC off */
bool lapic_takes_extint(const struct lapic *l);
void lapic_reset(struct lapic *l, bool init); /* @init: by INIT: keeps the APIC ID and base */

void lapic_save(const struct lapic *l, struct snap_writer *w);
int lapic_load(struct lapic *l, struct snap_reader *r, struct err *err);

#define LAPIC_LVT_COUNT 6 /* timer, thermal, performance, LINT0, LINT1, error */

/* Bits of lapic_state.events above LAPIC_EV_*: a second NMI waits; vector of the start-up message
 */
#define LAPIC_EV_SECOND_NMI 0x10u
#define LAPIC_EV_SIPI_SHIFT 8

/*
 * What a local APIC is saved as, on every accelerator. Registers are as in the xAPIC page; ldr is
 * 0 in x2APIC mode, where it follows from the ID.
 */
struct lapic_state {
	uint32_t id;
	uint64_t base; /* IA32_APIC_BASE */
	uint64_t irr[4], tmr[4], isr[4];
	uint32_t events;      /* LAPIC_EV_*, as above */
	uint32_t esr_pending; /* errors not yet shown in esr */
	uint32_t esr, tpr, svr, ldr, dfr, lvt[LAPIC_LVT_COUNT], icr, icr2, divide, timer_initial;
	uint64_t timer_left_ns; /* until the count reaches zero; 0: stopped */
	uint64_t tsc_deadline;	/* 0: disarmed */
};

/** lapic_state_reset() - the power-on state of APIC @id */
void lapic_state_reset(struct lapic_state *st, uint32_t id);
void lapic_state_save(const struct lapic_state *st, struct snap_writer *w);
/** lapic_state_load() - the saved state of APIC @id, checked; -EBADMSG */
int lapic_state_load(struct lapic_state *st, uint32_t id, struct snap_reader *r, struct err *err);
/** lapic_lvt_mask() - the bits of a local vector table entry that a guest can set */
uint32_t lapic_lvt_mask(unsigned index);

#endif
