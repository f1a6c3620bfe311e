/* SPDX-License-Identifier: Apache-2.0 */
/* PCI: ways to configuration space, BARs, capabilities, MSI-X, INTx, reset, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/pci.h"
#include "vm/mem.h"

static struct pci_host *host;
static struct pci_dev dev, other;
static uint64_t reg;
static unsigned hook_reads, hook_writes, hook_msix;

static uint64_t on_read(void *opaque, uint64_t off, unsigned size)
{
	return reg + off;
}

static void on_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	reg = val;
}

static void on_config_read(struct pci_dev *d, unsigned off, unsigned size)
{
	hook_reads++;
}

static void on_config_written(struct pci_dev *d, unsigned off, unsigned size)
{
	hook_writes++;
}

static void on_msix(struct pci_dev *d)
{
	hook_msix++;
}

static const struct bus_ops bar_ops = { on_read, on_write };
static const struct pci_dev_ops dev_ops = { on_config_read, on_config_written, on_msix };
static const struct pci_ids ids = { 0x1af4, 0x1042, 0x1af4, 0x0002, 0x018000, 1 };

static int setup(void **state)
{
	static const uint8_t cap[] = { 16, 1, 2, 3 }, cap_mask[] = { 0, 0, 0xf0, 0 };

	fake_init();
	reg = hook_reads = hook_writes = hook_msix = 0;
	assert_int_equal(
	    pci_host_new(&fake.pio, &fake.mmio, &fake.irq, &fake.platform, &host, NULL), 0);
	assert_int_equal(pci_dev_init(&dev, host, 3, "dev", &ids, &dev_ops, NULL), 0);
	assert_int_equal(
	    pci_add_bar(&dev, 0, 0x4000, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &bar_ops, &dev), 0);
	assert_int_equal(pci_add_bar(&dev, 2, 0x20, PCI_BAR_IO, &bar_ops, &dev), 0);
	assert_int_equal(pci_add_cap(&dev, PCI_CAP_ID_VENDOR, cap, sizeof(cap), cap_mask), 0x40);
	assert_int_equal(pci_msix_init(&dev, 4, 5), 0);
	assert_int_equal(pci_dev_init(&other, host, 7, "other", &ids, NULL, NULL), 0);
	assert_int_equal(pci_add_bar(&other, 0, 0x1000, PCI_BAR_MEM32, &bar_ops, &other), 0);
	return 0;
}

static int teardown(void **state)
{
	pci_dev_done(&other);
	pci_dev_done(&dev);
	pci_host_free(host);
	fake_done();
	return 0;
}

static uint32_t rd(unsigned off, unsigned size)
{
	return pci_config_read(host, 3, off, size);
}

static void wr(unsigned off, unsigned size, uint32_t val)
{
	pci_config_write(host, 3, off, size, val);
}

static void test_ways(void **state)
{
	bus_write(&fake.pio, 0xcf8, 4, 0x80001800);
	assert_int_equal(bus_read(&fake.pio, 0xcf8, 4), 0x80001800);
	assert_int_equal(bus_read(&fake.pio, 0xcfc, 4), 0x10421af4);
	assert_int_equal(bus_read(&fake.pio, 0xcfe, 2), 0x1042);
	assert_int_equal(bus_read(&fake.pio, 0xcfd, 1), 0x1a);
	bus_write(&fake.pio, 0xcf8, 4, 0x00001800); /* not enabled */
	assert_int_equal(bus_read(&fake.pio, 0xcfc, 4), 0xffffffff);
	bus_write(&fake.pio, 0xcf8, 4, 0x80001900); /* function 1 */
	assert_int_equal(bus_read(&fake.pio, 0xcfc, 4), 0xffffffff);
	bus_write(&fake.pio, 0xcf8, 4, 0x80011800); /* bus 1 */
	assert_int_equal(bus_read(&fake.pio, 0xcfc, 4), 0xffffffff);
	bus_write(&fake.pio, 0xcf8, 4, 0x80000000);
	assert_int_equal(bus_read(&fake.pio, 0xcfc, 4), 0x00081b36);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15), 4), 0x10421af4);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15), 8), 0x0010000010421af4);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15) + 8, 4), 0x01800001);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15) + 0x100, 4), 0xffffffff);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + 0x100, 4), 0xffffffff);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (4 << 15), 2), 0xffff);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15 | 1 << 12), 4), 0xffffffff);
	assert_int_equal(bus_read(&fake.mmio, MEM_ECAM_BASE + (3 << 15) + 0xffe, 4) >> 16, 0xffff);
	assert_true(hook_reads > 0);
	bus_write(&fake.mmio, MEM_ECAM_BASE + (3 << 15), 8, ~0ull); /* IDs are read-only */
	assert_int_equal(rd(0, 4), 0x10421af4);
	assert_true(hook_writes > 0);
	assert_int_equal(pci_config_read(host, 99, 0, 4), 0xffffffff);
	assert_int_equal(pci_config_read(host, 3, 4095, 4), 0xffffffff);
	pci_config_write(host, 3, 4095, 4, 0);
}

static void test_reset_port(void **state)
{
	out8(0xcf9, 0x02);
	assert_int_equal(fake.resets, 0);
	out8(0xcf9, PM_RESET_VALUE);
	assert_int_equal(fake.resets, 1);
	assert_int_equal(in8(0xcf9), 6);
	out8(0xcf9, PM_RESET_VALUE); /* no rise */
	assert_int_equal(fake.resets, 1);
	assert_int_equal(bus_read(&fake.pio, 0xcf8, 4), 0);
}

static void test_init_errors(void **state)
{
	struct pci_dev d;
	struct err err;

	assert_int_equal(pci_dev_init(&d, host, 3, "twin", &ids, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, "slot 3"));
	assert_int_equal(pci_dev_init(&d, host, 0, "zero", &ids, NULL, &err), -EINVAL);
	assert_int_equal(pci_dev_init(&d, host, 32, "out", &ids, NULL, &err), -EINVAL);
	assert_int_equal(pci_add_bar(&dev, 1, 0x1000, PCI_BAR_MEM32, &bar_ops, &dev),
			 -EINVAL); /* upper half of 0 */
	assert_int_equal(pci_add_bar(&dev, 5, 0x1000, PCI_BAR_MEM64, &bar_ops, &dev), -EINVAL);
	assert_int_equal(pci_add_bar(&dev, 5, 0x1001, PCI_BAR_MEM32, &bar_ops, &dev), -EINVAL);
	assert_int_equal(pci_add_bar(&dev, 5, 0x200, PCI_BAR_IO, &bar_ops, &dev), -EINVAL);
	assert_int_equal(pci_add_bar(&dev, 5, 1ull << 40, PCI_BAR_MEM32, &bar_ops, &dev), -ENOSPC);
	assert_int_equal(pci_add_cap(&dev, 9, NULL, 250, NULL), -ENOSPC);
}

static void test_bars(void **state)
{
	uint64_t base;

	assert_int_equal(rd(0x10, 4), (uint32_t)MEM_PCI64_BASE | 0xc);
	assert_int_equal(rd(0x14, 4), MEM_PCI64_BASE >> 32);
	assert_int_equal(rd(0x18, 4), PCI_IO_BASE | 1);
	/* sizing */
	wr(0x10, 4, 0xffffffff);
	wr(0x14, 4, 0xffffffff);
	assert_int_equal(rd(0x10, 4), 0xffffc00c);
	assert_int_equal(rd(0x14, 4), 0xffffffff);
	wr(0x18, 4, 0xffffffff);
	assert_int_equal(rd(0x18, 4), 0xffffffe1);
	wr(0x1c, 4, 0xffffffff); /* no such BAR */
	assert_int_equal(rd(0x1c, 4), 0);
	wr(0x10, 4, (uint32_t)MEM_PCI64_BASE);
	wr(0x14, 4, MEM_PCI64_BASE >> 32);
	wr(0x18, 4, PCI_IO_BASE);
	reg = 0x100;
	assert_int_equal(bus_read(&fake.mmio, MEM_PCI64_BASE, 4), 0xffffffff); /* decode is off */
	wr(4, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(bus_read(&fake.mmio, MEM_PCI64_BASE + 0x3ffc, 4), 0x40fc);
	assert_int_equal(bus_read(&fake.pio, PCI_IO_BASE, 4), 0xffffffff);
	wr(4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
	assert_int_equal(bus_read(&fake.pio, PCI_IO_BASE + 4, 4), 0x104);
	/* move */
	base = MEM_PCI64_BASE + 0x100000000;
	wr(0x14, 4, (uint32_t)(base >> 32));
	assert_int_equal(bus_read(&fake.mmio, MEM_PCI64_BASE, 4), 0xffffffff);
	assert_int_equal(bus_read(&fake.mmio, base + 8, 4), 0x108);
	/* out of the windows: nowhere, above all not over RAM or interrupt controllers */
	wr(0x14, 4, 0);
	wr(0x10, 4, 0);
	assert_int_equal(bus_read(&fake.mmio, 0, 4), 0xffffffff);
	wr(0x10, 4, (uint32_t)MEM_LAPIC_BASE);
	assert_int_equal(bus_read(&fake.mmio, MEM_LAPIC_BASE, 4), 0xffffffff);
	/* a 64-bit BAR may stand in the 32-bit window */
	wr(0x10, 4, 0xd0000000);
	assert_int_equal(bus_read(&fake.mmio, 0xd0000000, 4), 0x100);
	wr(4, 2, 0);
	assert_int_equal(bus_read(&fake.mmio, 0xd0000000, 4), 0xffffffff);
}

static void test_bar_conflict(void **state)
{
	uint32_t mine = 0xd0000000, his = 0xd8000000;

	pci_config_write(host, 7, 0x10, 4, his);
	wr(4, 2, PCI_COMMAND_MEMORY);
	pci_config_write(host, 7, 4, 2, PCI_COMMAND_MEMORY);
	reg = 1;
	wr(0x10, 4, his); /* where the other one stands: waits */
	wr(0x14, 4, 0);
	assert_int_equal(bus_read(&fake.mmio, his + 0x2000, 4), 0xffffffff);
	pci_config_write(host, 7, 0x10, 4, mine); /* goes away */
	assert_int_equal(bus_read(&fake.mmio, his + 0x2000, 4), 0x2001);
	assert_int_equal(bus_read(&fake.mmio, mine, 4), 1);
}

static void test_caps(void **state)
{
	assert_int_equal(rd(6, 2) & 0x10, 0x10);
	assert_int_equal(rd(0x34, 1), 0x40);
	assert_int_equal(rd(0x40, 4), 0x01104809);
	wr(0x44, 2, 0xffff);
	assert_int_equal(rd(0x44, 2), 0x03f2);
	assert_int_equal(rd(0x48, 4), 0x00040011); /* last, 5 vectors */
	assert_int_equal(rd(0x4c, 4), 4);
	assert_int_equal(rd(0x50, 4), 0x804);
}

static uint64_t msix_bar;

static void msix_entry(unsigned v, uint64_t addr, uint32_t data, uint32_t ctrl)
{
	bus_write(&fake.mmio, msix_bar + 16 * v, 8, addr);
	bus_write(&fake.mmio, msix_bar + 16 * v + 8, 4, data);
	bus_write(&fake.mmio, msix_bar + 16 * v + 12, 4, ctrl);
}

static void test_msix(void **state)
{
	msix_bar = rd(0x20, 4) & ~0xfu;
	wr(4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(pci_bus_master(&dev));
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 12, 4), 1); /* masked at first */
	msix_entry(2, 0xfee01003, 0x4055, 0);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 32, 8), 0xfee01000);
	pci_msix_fire(&dev, 2); /* not enabled */
	assert_int_equal(fake.msi_count, 0);
	wr(0x4a, 2, 0x8000);
	assert_true(pci_msix_enabled(&dev));
	assert_true(hook_msix > 0);
	pci_msix_fire(&dev, 2);
	assert_int_equal(fake.msi_count, 1);
	assert_int_equal(fake.msi_addr, 0xfee01000);
	assert_int_equal(fake.msi_data, 0x4055);
	pci_msix_fire(&dev, 5); /* no such vector */
	assert_int_equal(fake.msi_count, 1);
	/* masked vector: pending until unmasked, once */
	bus_write(&fake.mmio, msix_bar + 44, 4, 1);
	pci_msix_fire(&dev, 2);
	pci_msix_fire(&dev, 2);
	assert_int_equal(fake.msi_count, 1);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 0x800, 8), 1 << 2);
	bus_write(&fake.mmio, msix_bar + 0x800, 8, 0); /* PBA is read-only */
	bus_write(&fake.mmio, msix_bar + 44, 4, 0);
	assert_int_equal(fake.msi_count, 2);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 0x800, 8), 0);
	/* masked function */
	wr(0x4a, 2, 0xc000);
	pci_msix_fire(&dev, 2);
	assert_int_equal(fake.msi_count, 2);
	wr(0x4a, 2, 0x8000);
	assert_int_equal(fake.msi_count, 3);
	/* no bus mastering, no message */
	wr(4, 2, PCI_COMMAND_MEMORY);
	pci_msix_fire(&dev, 2);
	assert_int_equal(fake.msi_count, 3);
	/* an address that is no interrupt is no way to reach anything else */
	wr(4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	msix_entry(2, 0x1000, 1, 0);
	pci_msix_fire(&dev, 2);
	assert_int_equal(fake.msi_count, 3);
	/* odd accesses do nothing */
	bus_write(&fake.mmio, msix_bar + 34, 2, 0xffff);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 32, 4), 0x1000);
	bus_write(&fake.mmio, msix_bar + 16 * 5, 4, 0xffff);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 16 * 5, 4), 0);
}

static void test_intx(void **state)
{
	unsigned gsi = pci_intx_gsi(3, 1);

	assert_int_equal(gsi, 19);
	assert_int_equal(pci_intx_gsi(7, 1), 19); /* shared */
	pci_intx_set(&dev, true);
	assert_true(fake.line[gsi]);
	assert_int_equal(rd(6, 2) & 8, 8);
	pci_intx_set(&other, true);
	pci_intx_set(&dev, false);
	assert_true(fake.line[gsi]);
	assert_int_equal(rd(6, 2) & 8, 0);
	pci_intx_set(&other, false);
	assert_false(fake.line[gsi]);
	pci_intx_set(&dev, true);
	wr(4, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(fake.line[gsi]);
	assert_int_equal(rd(6, 2) & 8, 8);
	wr(4, 2, 0);
	assert_true(fake.line[gsi]);
	wr(0x4a, 2, 0x8000); /* MSI-X takes its place */
	assert_false(fake.line[gsi]);
	wr(0x4a, 2, 0);
	assert_true(fake.line[gsi]);
	pci_dev_reset(&dev);
	assert_false(fake.line[gsi]);
}

static void test_reset(void **state)
{
	wr(4, 2, 0xffff);
	assert_int_equal(rd(4, 2), 0x0547);
	wr(0x10, 4, 0xd0000000);
	wr(0x44, 2, 0xffff);
	wr(0x4a, 2, 0x8000);
	msix_bar = rd(0x20, 4) & ~0xfu;
	msix_entry(1, 0xfee00000, 0x40, 0);
	pci_dev_reset(&dev);
	assert_int_equal(rd(4, 2), 0);
	assert_int_equal(rd(0x10, 4), (uint32_t)MEM_PCI64_BASE | 0xc);
	assert_int_equal(rd(0x44, 2), 0x0302);
	assert_false(pci_msix_enabled(&dev));
	assert_false(pci_bus_master(&dev));
	wr(4, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 16, 8), 0);
	assert_int_equal(bus_read(&fake.mmio, msix_bar + 28, 4), 1);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	bus_write(&fake.pio, 0xcf8, 4, 0x80001810);
	wr(4, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	wr(0x14, 4, 0x41);
	msix_bar = rd(0x20, 4) & ~0xfu;
	msix_entry(1, 0xfee00000, 0x40, 1);
	wr(0x4a, 2, 0x8000);
	pci_msix_fire(&dev, 1);
	snap_writer_init(&w);
	pci_host_save(host, &w);
	pci_dev_save(&dev, &w);
	pci_dev_reset(&dev);
	pci_host_reset(host);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pci_host_load(host, &r, &err), 0);
	assert_int_equal(pci_dev_load(&dev, &r, &err), 0);
	assert_int_equal(bus_read(&fake.pio, 0xcf8, 4), 0x80001810);
	reg = 5;
	assert_int_equal(bus_read(&fake.mmio, 0x4100000000, 4), 5);
	assert_int_equal(fake.msi_count, 0);
	bus_write(&fake.mmio, msix_bar + 28, 4, 0); /* the pending vector comes now */
	assert_int_equal(fake.msi_count, 1);
	/* another device's state is refused */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pci_host_load(host, &r, &err), 0);
	assert_int_equal(pci_dev_load(&other, &r, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "other"));
	for (size_t cut = 0; cut < w.len; cut += 3) {
		snap_reader_init(&r, w.data, cut);
		assert_true(pci_host_load(host, &r, &err) < 0 || pci_dev_load(&dev, &r, &err) < 0);
	}
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_ways),	      T(test_reset_port), T(test_init_errors), T(test_bars),
		T(test_bar_conflict), T(test_caps),	  T(test_msix),	       T(test_intx),
		T(test_reset),	      T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
