/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC (82093AA data sheet).
 *
 * Invariants
 * 1. Remote IRR is set only for level-triggered pins in fixed or lowest
 *    priority mode, from the delivery until the EOI of the vector; meanwhile
 *    the pin delivers nothing.
 * 2. A level-triggered pin that is asserted, unmasked and without remote IRR
 *    does not exist outside the lock: whatever makes one delivers it.
 * 3. An edge on a masked pin is lost.
 *
 * Messages are composed under the lock and sent after it, so one may arrive
 * just after the guest masked its pin, as on the real bus. The polarity bit is
 * kept for the guest to read: lines carry "asserted", not a voltage.
 */
#include "hw/ioapic.h"

#include <stdlib.h>

#include "vm/mem.h"

#define IOAPIC_SIZE 0x1000
#define IOREGSEL 0x00
#define IOWIN 0x10

#define RTE_DEST_LOGICAL (1ull << 11)
#define RTE_REMOTE_IRR IOAPIC_RTE_REMOTE_IRR
#define RTE_MASKED IOAPIC_RTE_MASKED
#define RTE_WRITABLE IOAPIC_RTE_WRITABLE

#define SNAP_NAME "ioapic"
#define SNAP_VERSION 1

struct ioapic {
	bool lock; /* spin lock: holders do a few loads and stores */
	uint8_t select, id;
	uint32_t lines; /* asserted pins */
	uint64_t rte[IOAPIC_PINS];
	struct lapic_set *set;
	struct bus *mmio;
};

static void lock(struct ioapic *io)
{
	while (__atomic_test_and_set(&io->lock, __ATOMIC_ACQUIRE))
		while (__atomic_load_n(&io->lock, __ATOMIC_RELAXED))
			__builtin_ia32_pause();
}

static void unlock(struct ioapic *io)
{
	__atomic_clear(&io->lock, __ATOMIC_RELEASE);
}

static unsigned rte_mode(uint64_t rte)
{
	return rte >> 8 & 7;
}

static void deliver(struct ioapic *io, uint64_t rte)
{
	lapic_deliver(io->set, (uint32_t)(rte >> 56), rte & RTE_DEST_LOGICAL, rte_mode(rte),
		      (uint8_t)rte, ioapic_rte_is_level(rte));
}

/* Under the lock: whether a level-triggered pin must deliver now; notes it in remote IRR */
static bool level_due(struct ioapic *io, unsigned pin)
{
	uint64_t rte = io->rte[pin];

	if (!(io->lines >> pin & 1) || !ioapic_rte_is_level(rte) ||
	    rte & (RTE_MASKED | RTE_REMOTE_IRR))
		return false;
	io->rte[pin] |= RTE_REMOTE_IRR;
	return true;
}

void ioapic_set_line(void *ioapic, unsigned pin, bool level)
{
	struct ioapic *io = ioapic;
	uint64_t rte;
	bool rising, due;

	if (pin >= IOAPIC_PINS)
		return;
	lock(io);
	rising = level && !(io->lines >> pin & 1);
	if (level)
		io->lines |= 1u << pin;
	else
		io->lines &= ~(1u << pin);
	rte = io->rte[pin];
	if (ioapic_rte_is_level(rte))
		due = level_due(io, pin);
	else
		due = rising && !(rte & RTE_MASKED);
	unlock(io);
	if (due)
		deliver(io, rte);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	uint64_t again[IOAPIC_PINS];
	unsigned count = 0;

	lock(io);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		if (!(io->rte[pin] & RTE_REMOTE_IRR) || (uint8_t)io->rte[pin] != vector)
			continue;
		io->rte[pin] &= ~RTE_REMOTE_IRR;
		if (level_due(io, pin))
			again[count++] = io->rte[pin];
	}
	unlock(io);
	for (unsigned i = 0; i < count; i++)
		deliver(io, again[i]);
}

static uint32_t read_window(struct ioapic *io)
{
	unsigned pin = (io->select - 0x10u) >> 1;

	switch (io->select) {
	case 0:
	case 2: /* arbitration ID: loaded with the ID */
		return (uint32_t)io->id << 24;
	case 1:
		return 0x11 | (IOAPIC_PINS - 1) << 16;
	}
	if (io->select < 0x10 || pin >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(io->rte[pin] >> (io->select & 1 ? 32 : 0));
}

/* Under the lock; true when *@ret_rte must be delivered after it */
static bool write_window(struct ioapic *io, uint32_t val, uint64_t *ret_rte)
{
	unsigned pin = (io->select - 0x10u) >> 1, shift = io->select & 1 ? 32 : 0;
	uint64_t rte;

	if (io->select == 0)
		io->id = val >> 24 & 0xf;
	if (io->select < 0x10 || pin >= IOAPIC_PINS)
		return false;
	rte = io->rte[pin] & ~(0xffffffffull << shift);
	rte |= (uint64_t)val << shift;
	rte = (rte & RTE_WRITABLE) | (io->rte[pin] & RTE_REMOTE_IRR);
	if (!ioapic_rte_is_level(rte))
		rte &= ~RTE_REMOTE_IRR;
	io->rte[pin] = rte;
	*ret_rte = rte;
	return level_due(io, pin);
}

static uint64_t ioapic_read(void *dev, uint64_t off, unsigned size)
{
	struct ioapic *io = dev;
	uint32_t val = 0;

	lock(io);
	if (off == IOREGSEL)
		val = io->select;
	else if (off == IOWIN)
		val = read_window(io);
	unlock(io);
	return val;
}

static void ioapic_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct ioapic *io = dev;
	uint64_t rte = 0;
	bool due = false;

	lock(io);
	if (off == IOREGSEL)
		io->select = (uint8_t)val;
	else if (off == IOWIN && size >= 4)
		due = write_window(io, (uint32_t)val, &rte);
	unlock(io);
	if (due)
		deliver(io, rte);
}

static const struct bus_ops ioapic_bus_ops = { ioapic_read, ioapic_write };

void ioapic_reset(struct ioapic *io)
{
	lock(io);
	io->select = io->id = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->rte[pin] = RTE_MASKED;
	unlock(io);
}

int ioapic_new(struct bus *mmio, struct lapic_set *set, struct ioapic **ret_ioapic, struct err *err)
{
	struct ioapic *io = calloc(1, sizeof(*io));
	int ret;

	if (!io)
		return err_set(err, ENOMEM, "I/O APIC: out of memory");
	io->set = set;
	io->mmio = mmio;
	ioapic_reset(io);
	ret = bus_add(mmio, MEM_IOAPIC_BASE, IOAPIC_SIZE, &ioapic_bus_ops, io);
	if (ret < 0) {
		free(io);
		return err_set(err, -ret, "I/O APIC: cannot claim its registers at 0x%llx",
			       MEM_IOAPIC_BASE);
	}
	*ret_ioapic = io;
	return 0;
}

void ioapic_free(struct ioapic *io)
{
	if (!io)
		return;
	bus_del(io->mmio, MEM_IOAPIC_BASE, io);
	free(io);
}

void ioapic_state_save(const struct ioapic_state *st, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u8(w, st->select);
	snap_put_u8(w, st->id);
	snap_put_u32(w, st->lines);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		snap_put_u64(w, st->rte[pin]);
	snap_close(w);
}

int ioapic_state_load(struct ioapic_state *st, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	st->select = snap_get_u8(r);
	st->id = snap_get_u8(r);
	st->lines = snap_get_u32(r);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		st->rte[pin] = snap_get_u64(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t rte = st->rte[pin];

		if (rte & ~(RTE_WRITABLE | RTE_REMOTE_IRR) ||
		    (rte & RTE_REMOTE_IRR && !ioapic_rte_is_level(rte)))
			return err_set(err, EBADMSG, "I/O APIC: saved pin %u is not valid", pin);
	}
	if (st->id > 15 || st->lines >> IOAPIC_PINS)
		return err_set(err, EBADMSG, "I/O APIC: saved state is not valid");
	return 0;
}

void ioapic_save(struct ioapic *io, struct snap_writer *w)
{
	struct ioapic_state st = { .select = io->select, .id = io->id, .lines = io->lines };

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		st.rte[pin] = io->rte[pin];
	ioapic_state_save(&st, w);
}

int ioapic_load(struct ioapic *io, struct snap_reader *r, struct err *err)
{
	struct ioapic_state st;
	int ret = ioapic_state_load(&st, r, err);

	if (ret < 0)
		return ret;
	lock(io);
	io->select = st.select;
	io->id = st.id;
	io->lines = st.lines;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->rte[pin] = st.rte[pin];
	unlock(io);
	return 0;
}
