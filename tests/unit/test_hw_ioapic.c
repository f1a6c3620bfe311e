/* SPDX-License-Identifier: Apache-2.0 */
/* I/O APIC: edge and level, remote IRR and EOI, masks, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/ioapic.h"
#include "vm/mem.h"

static struct lapic_set *set;
static struct lapic *l[2];
static struct ioapic *io;

static void on_kick(void *opaque)
{
}

static void on_timer(void *opaque, uint64_t deadline)
{
}

static uint64_t on_time(void *opaque)
{
	return 1;
}

static uint64_t on_tsc_to_ns(void *opaque, uint64_t tsc)
{
	return tsc;
}

static void on_eoi(void *opaque, uint8_t vector)
{
	ioapic_eoi(io, vector);
}

static const struct lapic_ops ops = { on_kick, on_timer, on_time, on_time, on_tsc_to_ns, on_eoi };

static int setup(void **state)
{
	fake_init();
	assert_int_equal(lapic_set_new(2, &set), 0);
	for (unsigned i = 0; i < 2; i++) {
		l[i] = lapic_set_init(set, i, &ops, NULL);
		lapic_mmio_write(l[i], 0xf0, 0x1ff);
	}
	assert_int_equal(ioapic_new(&fake.mmio, set, &io, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	ioapic_free(io);
	lapic_set_free(set);
	fake_done();
	return 0;
}

static uint32_t reg_read(uint8_t index)
{
	bus_write(&fake.mmio, MEM_IOAPIC_BASE, 4, index);
	return (uint32_t)bus_read(&fake.mmio, MEM_IOAPIC_BASE + 0x10, 4);
}

static void reg_write(uint8_t index, uint32_t val)
{
	bus_write(&fake.mmio, MEM_IOAPIC_BASE, 4, index);
	bus_write(&fake.mmio, MEM_IOAPIC_BASE + 0x10, 4, val);
}

static void set_rte(unsigned pin, uint64_t rte)
{
	reg_write((uint8_t)(0x11 + 2 * pin), (uint32_t)(rte >> 32));
	reg_write((uint8_t)(0x10 + 2 * pin), (uint32_t)rte);
}

static void eoi(unsigned i)
{
	lapic_mmio_write(l[i], 0xb0, 0);
}

static void test_registers(void **state)
{
	assert_int_equal(reg_read(1), 0x170011);
	assert_int_equal(reg_read(0x10), 0x10000);
	reg_write(0, 0xff000000);
	assert_int_equal(reg_read(0), 0x0f000000);
	reg_write(0x10, 0xffffffff);
	assert_int_equal(reg_read(0x10), 0x1afff); /* status and remote IRR are read-only */
	reg_write(0x3f, 0x12345678);
	assert_int_equal(reg_read(0x3f), 0x12000000);
	reg_write(0x40, 0xffffffff); /* beyond the table */
	assert_int_equal(reg_read(0x40), 0);
	assert_int_equal(reg_read(0xff), 0);
}

static void test_edge(void **state)
{
	set_rte(4, 1ull << 56 | 0x34);
	ioapic_set_line(io, 4, true);
	assert_int_equal(lapic_ack(l[1]), 0x34);
	eoi(1);
	ioapic_set_line(io, 4, true); /* no new edge */
	assert_int_equal(lapic_pending(l[1]), -1);
	ioapic_set_line(io, 4, false);
	ioapic_set_line(io, 4, true);
	assert_int_equal(lapic_ack(l[1]), 0x34);
	eoi(1);
	ioapic_set_line(io, 4, false);
	set_rte(4, 1ull << 56 | 0x10034);
	ioapic_set_line(io, 4, true); /* masked: lost */
	set_rte(4, 1ull << 56 | 0x34);
	assert_int_equal(lapic_pending(l[1]), -1);
	ioapic_set_line(io, 24, true); /* no such pin */
}

static void test_level(void **state)
{
	set_rte(16, 0x8051);
	ioapic_set_line(io, 16, true);
	assert_int_equal(reg_read(0x30), 0xc051); /* remote IRR */
	assert_int_equal(lapic_ack(l[0]), 0x51);
	eoi(0); /* still asserted: again */
	assert_int_equal(lapic_ack(l[0]), 0x51);
	ioapic_set_line(io, 16, false);
	ioapic_set_line(io, 16, true);
	assert_int_equal(lapic_pending(l[0]), -1); /* remote IRR holds it */
	ioapic_set_line(io, 16, false);
	eoi(0);
	assert_int_equal(lapic_pending(l[0]), -1);
	assert_int_equal(reg_read(0x30), 0x8051);
	/* unmasking an asserted pin delivers */
	set_rte(16, 0x18051);
	ioapic_set_line(io, 16, true);
	assert_int_equal(lapic_pending(l[0]), -1);
	set_rte(16, 0x8051);
	assert_int_equal(lapic_pending(l[0]), 0x51);
	/* switching to edge and back clears remote IRR */
	set_rte(16, 0x10051);
	assert_int_equal(reg_read(0x30), 0x10051);
}

static void test_modes(void **state)
{
	set_rte(3, 1ull << 56 | 0x400); /* NMI */
	ioapic_set_line(io, 3, true);
	assert_int_equal(lapic_take_events(l[1], 0xff, NULL), LAPIC_EV_NMI);
	lapic_mmio_write(l[1], 0xd0, 0x02000000);
	set_rte(5, 2ull << 56 | 0x961); /* logical, lowest priority */
	ioapic_set_line(io, 5, true);
	assert_int_equal(lapic_pending(l[1]), 0x61);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;

	set_rte(16, 0x8051);
	ioapic_set_line(io, 16, true);
	lapic_ack(l[0]);
	snap_writer_init(&w);
	ioapic_save(io, &w);
	ioapic_reset(io);
	assert_int_equal(reg_read(0x30), 0x10000);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(ioapic_load(io, &r, NULL), 0);
	assert_int_equal(reg_read(0x30), 0xc051);
	eoi(0); /* the line is still known to be asserted */
	assert_int_equal(lapic_ack(l[0]), 0x51);
	w.data[w.len - 8 * 24 + 2] = 0xff; /* pin 0: bits that do not exist */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(ioapic_load(io, &r, NULL), -EBADMSG);
	assert_int_equal(reg_read(0x30), 0xc051);
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_registers), T(test_edge), T(test_level), T(test_modes), T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
