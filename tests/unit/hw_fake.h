/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What device tests and fuzzers share: a clock that moves when told, an interrupt sink and
 * a platform that record what devices say, and save/load round trips.
 */
#ifndef EYOT_TESTS_HW_FAKE_H
#define EYOT_TESTS_HW_FAKE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/snap.h"
#include "base/util.h"
#include "hw/clock.h"
#include "hw/platform.h"
#include "vm/bus.h"
#include "vm/irq.h"

struct fake_timer {
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline_ns;
	bool used;
};

static struct fake {
	uint64_t now_ns;
	int64_t wall_ns;
	struct fake_timer timers[8];
	struct hw_clock clock;

	bool line[24];
	unsigned rises[24];
	unsigned msi_count;
	uint64_t msi_addr;
	uint32_t msi_data;
	struct irq_sink irq;

	unsigned resets, power_offs, panics, exits;
	uint32_t exit_value;
	struct platform_ops platform;

	struct bus pio, mmio;
} fake;

static uint64_t fake_now(void *opaque)
{
	return fake.now_ns;
}

static int64_t fake_wall(void *opaque)
{
	return fake.wall_ns;
}

static int fake_timer_new(void *opaque, void (*fn)(void *arg), void *arg, void **ret_timer)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fake.timers); i++) {
		if (fake.timers[i].used)
			continue;
		fake.timers[i] = (struct fake_timer) { .fn = fn, .arg = arg, .used = true };
		*ret_timer = &fake.timers[i];
		return 0;
	}
	return -ENOMEM;
}

static void fake_timer_arm(void *timer, uint64_t deadline_ns)
{
	((struct fake_timer *)timer)->deadline_ns = deadline_ns;
}

static void fake_timer_free(void *timer)
{
	if (timer)
		((struct fake_timer *)timer)->used = false;
}

static void fake_line(void *chip, unsigned gsi, bool level)
{
	assert(gsi < 24);
	if (level && !fake.line[gsi])
		fake.rises[gsi]++;
	fake.line[gsi] = level;
}

static void fake_msi(void *chip, uint64_t addr, uint32_t data)
{
	fake.msi_count++;
	fake.msi_addr = addr;
	fake.msi_data = data;
}

static void fake_reset(void *opaque)
{
	fake.resets++;
}

static void fake_power_off(void *opaque)
{
	fake.power_offs++;
}

static void fake_panic(void *opaque, unsigned events)
{
	fake.panics |= events;
}

static void fake_exit(void *opaque, uint32_t value)
{
	fake.exits++;
	fake.exit_value = value;
}

static inline void fake_init(void)
{
	memset(&fake, 0, sizeof(fake));
	fake.now_ns = 1000000000;
	fake.wall_ns = 1000000000ll * 1700000000; /* 2023-11-14 22:13:20 */
	fake.clock = (struct hw_clock) {
		.now_ns = fake_now,
		.wall_ns = fake_wall,
		.timer_new = fake_timer_new,
		.timer_arm = fake_timer_arm,
		.timer_free = fake_timer_free,
	};
	fake.irq = (struct irq_sink) { .line = fake_line, .msi = fake_msi };
	fake.platform = (struct platform_ops) {
		.reset = fake_reset,
		.power_off = fake_power_off,
		.panic = fake_panic,
		.debug_exit = fake_exit,
	};
	assert((bus_init(&fake.pio)) == 0);
	assert((bus_init(&fake.mmio)) == 0);
}

static inline void fake_done(void)
{
	/* nothing of a device may stay behind */
	assert((fake.pio.count) == 0);
	assert((fake.mmio.count) == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fake.timers); i++)
		assert(!fake.timers[i].used);
	bus_done(&fake.pio);
	bus_done(&fake.mmio);
}

/* Let @ns pass, firing timers in order at their time; at most @max_fires of them. Returns how many
 * fired. */
static inline unsigned fake_advance_max(uint64_t ns, unsigned max_fires)
{
	uint64_t end = fake.now_ns + ns;
	unsigned fires = 0;

	for (;;) {
		struct fake_timer *next = NULL;

		for (unsigned i = 0; i < ARRAY_SIZE(fake.timers); i++) {
			struct fake_timer *t = &fake.timers[i];

			if (t->used && t->deadline_ns && t->deadline_ns <= end &&
			    (!next || t->deadline_ns < next->deadline_ns))
				next = t;
		}
		if (!next)
			break;
		assert(fires < max_fires);
		fires++;
		if (next->deadline_ns > fake.now_ns) {
			fake.wall_ns += (int64_t)(next->deadline_ns - fake.now_ns);
			fake.now_ns = next->deadline_ns;
		}
		next->deadline_ns = 0;
		next->fn(next->arg);
	}
	fake.wall_ns += (int64_t)(end - fake.now_ns);
	fake.now_ns = end;
	return fires;
}

static inline unsigned fake_advance(uint64_t ns)
{
	return fake_advance_max(ns, 100000);
}

static inline uint8_t in8(uint16_t port)
{
	return (uint8_t)bus_read(&fake.pio, port, 1);
}

static inline void out8(uint16_t port, uint8_t val)
{
	bus_write(&fake.pio, port, 1, val);
}

#endif
