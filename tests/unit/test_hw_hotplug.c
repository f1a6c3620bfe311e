/* SPDX-License-Identifier: Apache-2.0 */
/* Hot plug: the registers, the event, slots that read empty, addresses that are used again. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/hotplug.h"
#include "vm/mem.h"

#define SLOTS 0x38u /* 3, 4, 5 */
#define CHANGED PORT_HOTPLUG
#define WANTED (PORT_HOTPLUG + 4)
#define EJECT (PORT_HOTPLUG + 8)

static struct pci_host *host;
static struct pm *pm;
static struct hotplug *hp;
static struct pci_dev fixed, dev;
static uint32_t ejected;
static unsigned ejections;

static const struct pci_ids ids = { 0x1af4, 0x1042, 0x1af4, 0x0002, 0x018000, 1 };

static uint64_t on_read(void *opaque, uint64_t off, unsigned size)
{
	return 0x11223344;
}

static void on_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
}

static const struct bus_ops bar_ops = { on_read, on_write };

static void on_ejected(void *opaque, uint32_t slots)
{
	ejected = slots;
	ejections++;
}

static void add(struct pci_dev *d, unsigned slot)
{
	assert_int_equal(pci_dev_init(d, host, slot, "dev", &ids, NULL, NULL), 0);
	assert_int_equal(pci_add_bar(d, 0, 0x4000, PCI_BAR_MEM32, &bar_ops, d), 0);
}

static int setup(void **state)
{
	struct hotplug_config cfg = { .pio = &fake.pio, .slots = SLOTS, .ejected = on_ejected };

	fake_init();
	ejected = ejections = 0;
	if (pci_host_new(&fake.pio, &fake.mmio, &fake.irq, &fake.platform, &host, NULL) < 0 ||
	    pm_new(&fake.pio, &fake.irq, &fake.clock, &fake.platform, &pm, NULL) < 0)
		return -1;
	cfg.pci = host;
	cfg.pm = pm;
	add(&fixed, 1);
	add(&dev, 3);
	return hotplug_new(&cfg, &hp, NULL);
}

static int teardown(void **state)
{
	hotplug_free(hp);
	pci_dev_done(&dev);
	pci_dev_done(&fixed);
	pm_free(pm);
	pci_host_free(host);
	bus_done(&fake.pio);
	bus_done(&fake.mmio);
	return 0;
}

static void test_event(void **state)
{
	bus_write(&fake.pio, PORT_PM_GPE0 + 2, 1, 1u << PM_GPE_HOTPLUG);
	assert_false(fake.line[GSI_SCI]);
	hotplug_changed(hp, 4);
	hotplug_ask(hp, 3);
	assert_true(fake.line[GSI_SCI]);
	assert_int_equal(bus_read(&fake.pio, PORT_PM_GPE0, 1), 1u << PM_GPE_HOTPLUG);
	assert_int_equal(bus_read(&fake.pio, CHANGED, 4), 1u << 4);
	assert_int_equal(bus_read(&fake.pio, WANTED, 4), 1u << 3);
	/* Reading cleared them; the status bit is cleared by writing it. */
	assert_int_equal(bus_read(&fake.pio, CHANGED, 4), 0);
	assert_int_equal(bus_read(&fake.pio, WANTED, 4), 0);
	bus_write(&fake.pio, PORT_PM_GPE0, 1, 1u << PM_GPE_HOTPLUG);
	assert_false(fake.line[GSI_SCI]);
	/* Nothing while the guest has the event disabled */
	bus_write(&fake.pio, PORT_PM_GPE0 + 2, 1, 0);
	hotplug_ask(hp, 3);
	assert_false(fake.line[GSI_SCI]);
	hotplug_reset(hp);
	assert_int_equal(bus_read(&fake.pio, WANTED, 4), 0);
}

static void test_eject(void **state)
{
	uint64_t addr = pci_config_read(host, 3, PCI_REG_BAR0, 4);

	pci_config_write(host, 3, PCI_REG_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(bus_read(&fake.mmio, addr, 4), 0x11223344);
	/* Not of these widths, and not slots that are fixed */
	bus_write(&fake.pio, EJECT, 1, 1u << 3);
	bus_write(&fake.pio, EJECT, 4, 1u << 1);
	assert_int_equal(ejections, 0);
	bus_write(&fake.pio, EJECT, 4, 0xffffffff & ~(1u << 5));
	assert_int_equal(ejected, 1u << 3 | 1u << 4);
	assert_int_equal(pci_config_read(host, 3, 0, 4), 0xffffffff);
	assert_int_equal(bus_read(&fake.mmio, addr, 4), 0xffffffff);
	assert_false(pci_bus_master(&dev));
	assert_int_not_equal(pci_config_read(host, 1, 0, 4), 0xffffffff);
	/* Writes are lost on it. */
	pci_config_write(host, 3, PCI_REG_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(bus_read(&fake.mmio, addr, 4), 0xffffffff);
}

static void test_addresses(void **state)
{
	uint32_t addr = pci_config_read(host, 3, PCI_REG_BAR0, 4);
	struct pci_dev more;

	/* Coming and going must not use the window up. */
	for (unsigned i = 0; i < 3 * (MEM_PCI32_SIZE / 0x4000) && i < 300000; i++) {
		pci_dev_done(&dev);
		add(&dev, 3);
	}
	assert_int_equal(pci_config_read(host, 3, PCI_REG_BAR0, 4), addr);
	add(&more, 4);
	assert_int_not_equal(pci_config_read(host, 4, PCI_REG_BAR0, 4), addr);
	pci_dev_done(&more);
}

static void test_state(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	hotplug_changed(hp, 5);
	hotplug_ask(hp, 4);
	snap_writer_init(&w);
	hotplug_save(hp, &w);
	hotplug_reset(hp);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(hotplug_load(hp, &r, &err), 0);
	assert_int_equal(bus_read(&fake.pio, CHANGED, 4), 1u << 5);
	assert_int_equal(bus_read(&fake.pio, WANTED, 4), 1u << 4);
	/* A slot that cannot change */
	w.data[w.len - 8] = 2;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(hotplug_load(hp, &r, &err), -EBADMSG);
	for (size_t len = 0; len < w.len; len++) {
		snap_reader_init(&r, w.data, len);
		assert_true(hotplug_load(hp, &r, &err) < 0);
	}
	snap_writer_done(&w);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { T(test_event), T(test_eject), T(test_addresses),
					    T(test_state) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
