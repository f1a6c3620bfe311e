/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An address space of device registers: port I/O (64 KiB) or memory-mapped.
 * Lookups happen on vCPU threads, changes (a PCI BAR moved) on any; a
 * read-write lock guards the table. Callbacks run without the bus lock and
 * take their device's own.
 */
#ifndef EYOT_VM_BUS_H
#define EYOT_VM_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct bus_ops {
	/* @off: bytes from the range's start; @size: 1, 2, 4 or 8. Accesses never cross a range's
	 * end. */
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t val);
};

struct bus_range {
	uint64_t base, size;
	const struct bus_ops *ops;
	void *dev;
};

struct bus {
	pthread_rwlock_t lock;
	struct bus_range *ranges; /* sorted by base, never overlapping */
	unsigned count, cap;

	/*
	 * Set by an accelerator that turns writes (of any width) to @addr into counts of the
	 * eventfd @fd by itself; such a write reaches no range. 0 or -errno.
	 */
	int (*doorbell)(void *arg, uint64_t addr, int fd, bool on);
	void *doorbell_arg;
};

int bus_init(struct bus *bus);
void bus_done(struct bus *bus);

/** bus_add() - claim [@base, @base+@size); -EEXIST when it overlaps, -ENOMEM */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev);

/** bus_del() - give up the range of @dev that starts at @base */
void bus_del(struct bus *bus, uint64_t base, void *dev);

/**
 * bus_doorbell() - have writes to @addr counted in @fd, or no longer
 * Return: 0; -EOPNOTSUPP when the accelerator does not: writes go to the range, as ever; -errno.
 */
static inline int bus_doorbell(struct bus *bus, uint64_t addr, int fd, bool on)
{
	return bus->doorbell ? bus->doorbell(bus->doorbell_arg, addr, fd, on) : -EOPNOTSUPP;
}

/**
 * bus_read() - read a register
 * Return: the value; all ones (of @size bytes) when nobody claims the address.
 */
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size);

/** bus_write() - write a register; ignored when nobody claims the address */
void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t val);

#endif
