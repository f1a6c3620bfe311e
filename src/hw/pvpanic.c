/* SPDX-License-Identifier: Apache-2.0 */
/* pvpanic and the debug exit port: a callback behind a port each. */
#include "hw/pvpanic.h"

#include <string.h>

#define PVPANIC_EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)
#define DEBUG_EXIT_SIZE 4

static uint64_t panic_read(void *dev, uint64_t off, unsigned size)
{
	return PVPANIC_EVENTS;
}

static void panic_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	const struct platform_ops *platform = dev;

	if (val & PVPANIC_EVENTS && platform->panic)
		platform->panic(platform->opaque, (unsigned)val & PVPANIC_EVENTS);
}

static uint64_t exit_read(void *dev, uint64_t off, unsigned size)
{
	return 0;
}

static void exit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	const struct platform_ops *platform = dev;

	if (platform->debug_exit)
		platform->debug_exit(platform->opaque, (uint32_t)val);
}

static const struct bus_ops panic_ops = { panic_read, panic_write };
static const struct bus_ops exit_ops = { exit_read, exit_write };

static int claim(struct bus *pio, uint64_t port, uint64_t size, const struct bus_ops *ops,
		 const struct platform_ops *platform, const char *name, struct err *err)
{
	int ret = bus_add(pio, port, size, ops, (void *)platform);

	if (ret < 0)
		return err_set(err, -ret, "%s: cannot claim port 0x%llx: %s", name,
			       (unsigned long long)port, strerror(-ret));
	return 0;
}

int pvpanic_add(struct bus *pio, const struct platform_ops *platform, struct err *err)
{
	return claim(pio, PORT_PVPANIC, 1, &panic_ops, platform, "pvpanic", err);
}

void pvpanic_del(struct bus *pio, const struct platform_ops *platform)
{
	bus_del(pio, PORT_PVPANIC, (void *)platform);
}

int debug_exit_add(struct bus *pio, const struct platform_ops *platform, struct err *err)
{
	return claim(pio, PORT_DEBUG_EXIT, DEBUG_EXIT_SIZE, &exit_ops, platform, "debug exit", err);
}

void debug_exit_del(struct bus *pio, const struct platform_ops *platform)
{
	bus_del(pio, PORT_DEBUG_EXIT, (void *)platform);
}
