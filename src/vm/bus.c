/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges sorted by base in one array; a lookup is a binary search under the
 * read lock, which copies the range out so that the callback runs unlocked.
 * An access that no single range holds wholly is done byte by byte, as a bus
 * with byte lanes does: each byte goes to its own claimant.
 */
#include "vm/bus.h"

#include "base/util.h"

int bus_init(struct bus *bus)
{
	memset(bus, 0, sizeof(*bus));
	return -pthread_rwlock_init(&bus->lock, NULL);
}

void bus_done(struct bus *bus)
{
	pthread_rwlock_destroy(&bus->lock);
	free(bus->ranges);
	memset(bus, 0, sizeof(*bus));
}

/* Index of the first range that ends after @addr; count when there is none. Lock held. */
static unsigned first_ending_after(const struct bus *bus, uint64_t addr)
{
	unsigned lo = 0, hi = bus->count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (bus->ranges[mid].base + (bus->ranges[mid].size - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *dev)
{
	unsigned at;
	int ret = 0;

	if (!size || base + (size - 1) < base)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	at = first_ending_after(bus, base);
	if (at < bus->count && bus->ranges[at].base <= base + (size - 1)) {
		ret = -EEXIST;
		goto out;
	}
	if (bus->count == bus->cap) {
		unsigned cap = bus->cap ? bus->cap * 2 : 16;
		struct bus_range *p = realloc(bus->ranges, cap * sizeof(*p));

		if (!p) {
			ret = -ENOMEM;
			goto out;
		}
		bus->ranges = p;
		bus->cap = cap;
	}
	memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(*bus->ranges));
	bus->ranges[at] = (struct bus_range) { .base = base, .size = size, .ops = ops, .dev = dev };
	bus->count++;
out:
	pthread_rwlock_unlock(&bus->lock);
	return ret;
}

void bus_del(struct bus *bus, uint64_t base, void *dev)
{
	unsigned at;

	pthread_rwlock_wrlock(&bus->lock);
	at = first_ending_after(bus, base);
	if (at < bus->count && bus->ranges[at].base == base && bus->ranges[at].dev == dev) {
		bus->count--;
		memmove(&bus->ranges[at], &bus->ranges[at + 1],
			(bus->count - at) * sizeof(*bus->ranges));
	}
	pthread_rwlock_unlock(&bus->lock);
}

enum claim { CLAIM_NONE, CLAIM_WHOLE, CLAIM_PART };

static enum claim lookup(struct bus *bus, uint64_t addr, unsigned size, struct bus_range *ret_range)
{
	uint64_t last = addr + (size - 1);
	enum claim claim = CLAIM_NONE;
	unsigned at;

	pthread_rwlock_rdlock(&bus->lock);
	at = first_ending_after(bus, addr);
	if (at < bus->count && last >= addr && bus->ranges[at].base <= last) {
		*ret_range = bus->ranges[at];
		claim = addr >= ret_range->base && last - ret_range->base < ret_range->size
			    ? CLAIM_WHOLE
			    : CLAIM_PART;
	}
	pthread_rwlock_unlock(&bus->lock);
	return claim;
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
	uint64_t mask = size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
	struct bus_range r;

	switch (lookup(bus, addr, size, &r)) {
	case CLAIM_WHOLE:
		return r.ops->read(r.dev, addr - r.base, size) & mask;
	case CLAIM_PART: {
		uint64_t val = 0;

		for (unsigned i = 0; i < size; i++)
			val |= bus_read(bus, addr + i, 1) << (i * 8);
		return val;
	}
	case CLAIM_NONE:
		break;
	}
	return mask;
}

void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t val)
{
	struct bus_range r;

	switch (lookup(bus, addr, size, &r)) {
	case CLAIM_WHOLE:
		if (size < 8)
			val &= (1ull << (size * 8)) - 1;
		r.ops->write(r.dev, addr - r.base, size, val);
		break;
	case CLAIM_PART:
		for (unsigned i = 0; i < size; i++)
			bus_write(bus, addr + i, 1, (val >> (i * 8)) & 0xff);
		break;
	case CLAIM_NONE:
		break;
	}
}
