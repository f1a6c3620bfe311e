/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI registers, reset ports, pvpanic and debug exit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/genid.h"
#include "hw/kbc.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"

static struct pm *pm;
static struct kbc *kbc;

static int setup(void **state)
{
	fake_init();
	assert_int_equal(pm_new(&fake.pio, &fake.irq, &fake.clock, &fake.platform, &pm, NULL), 0);
	assert_int_equal(kbc_new(&fake.pio, &fake.platform, &kbc, NULL), 0);
	assert_int_equal(pvpanic_add(&fake.pio, &fake.platform, NULL), 0);
	assert_int_equal(debug_exit_add(&fake.pio, &fake.platform, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	debug_exit_del(&fake.pio, &fake.platform);
	pvpanic_del(&fake.pio, &fake.platform);
	kbc_free(kbc);
	pm_free(pm);
	fake_done();
	return 0;
}

static uint16_t in16(uint16_t port)
{
	return (uint16_t)bus_read(&fake.pio, port, 2);
}

static void out16(uint16_t port, uint16_t val)
{
	bus_write(&fake.pio, port, 2, val);
}

static void test_power_off(void **state)
{
	assert_int_equal(in16(PORT_PM1A_CNT), 1);
	out16(PORT_PM1A_CNT, PM_SLP_TYP_S5 << 10); /* no SLP_EN */
	assert_int_equal(in16(PORT_PM1A_CNT), 1 | PM_SLP_TYP_S5 << 10);
	out16(PORT_PM1A_CNT, 3 << 10 | 1 << 13); /* S3 does not exist */
	assert_int_equal(fake.power_offs, 0);
	out16(PORT_PM1A_CNT, PM_SLP_TYP_S5 << 10 | 1 << 13);
	assert_int_equal(fake.power_offs, 1);
	assert_int_equal(in16(PORT_PM1A_CNT) & 1 << 13, 0); /* write-only */
}

static void test_power_button(void **state)
{
	pm_power_button(pm);
	assert_false(fake.line[GSI_SCI]);
	assert_int_equal(in16(PORT_PM1A_EVT), 0x100);
	out16(PORT_PM1A_EVT + 2, 0x100);
	assert_true(fake.line[GSI_SCI]);
	out16(PORT_PM1A_EVT, 0xfeff); /* others cleared: no matter */
	assert_true(fake.line[GSI_SCI]);
	out8(PORT_PM1A_EVT + 1, 0x01); /* write 1 to clear, as a byte */
	assert_false(fake.line[GSI_SCI]);
	assert_int_equal(in16(PORT_PM1A_EVT), 0);
	assert_int_equal(bus_read(&fake.pio, PORT_PM1A_EVT, 4), 0x01000000);
}

static void test_general_purpose_events(void **state)
{
	pm_gpe_raise(pm, 3);
	assert_int_equal(in16(PORT_PM_GPE0), 1 << 3);
	assert_false(fake.line[GSI_SCI]);
	out8(PORT_PM_GPE0 + 3, 0xff); /* others */
	assert_false(fake.line[GSI_SCI]);
	out8(PORT_PM_GPE0 + 2, 1 << 3);
	assert_true(fake.line[GSI_SCI]);
	assert_int_equal(bus_read(&fake.pio, PORT_PM_GPE0, 4), 0xff080008);
	out8(PORT_PM_GPE0, 0xf7);
	assert_true(fake.line[GSI_SCI]);
	out8(PORT_PM_GPE0, 1 << 3); /* write 1 to clear */
	assert_false(fake.line[GSI_SCI]);
	pm_gpe_raise(pm, 12);
	assert_true(fake.line[GSI_SCI]);
	pm_reset(pm);
	assert_false(fake.line[GSI_SCI]);
	assert_int_equal(bus_read(&fake.pio, PORT_PM_GPE0, 4), 0);
}

#define GENID_GPA 0x5010

static void load_genid(struct genid *g, const struct snap_writer *w)
{
	struct snap_reader r;

	snap_reader_init(&r, w->data, w->len);
	assert_int_equal(genid_load(g, &r, NULL), 0);
	for (size_t i = 0; i < w->len; i++) {
		snap_reader_init(&r, w->data, i);
		assert_int_equal(genid_load(g, &r, NULL), -EBADMSG);
	}
}

static void test_generation_id(void **state)
{
	uint8_t fixed[GENID_LEN], first[GENID_LEN], *at;
	struct genid *g, *other, *same;
	struct guest_mem mem;
	struct snap_writer w;

	assert_int_equal(guest_mem_init(&mem, MIB(1), NULL), 0);
	at = guest_mem_ptr(&mem, GENID_GPA, GENID_LEN);
	assert_int_equal(genid_parse("01020304-0506-0708-090a-0b0c0d0e0f10", fixed), 0);
	assert_int_equal(genid_new(&mem, GENID_GPA, pm, NULL, &g, NULL), 0);
	assert_int_equal(genid_new(&mem, GENID_GPA, pm, NULL, &other, NULL), 0);
	assert_int_equal(genid_new(&mem, GENID_GPA, pm, fixed, &same, NULL), 0);
	genid_store(g);
	memcpy(first, at, GENID_LEN);
	genid_store(other);
	assert_memory_not_equal(at, first, GENID_LEN);
	genid_store(g); /* a reset changes nothing */
	assert_memory_equal(at, first, GENID_LEN);
	snap_writer_init(&w);
	genid_save(g, &w);
	assert_int_equal(in16(PORT_PM_GPE0), 0);
	load_genid(g, &w); /* even the machine that was saved is another one now */
	assert_int_equal(in16(PORT_PM_GPE0), 1 << PM_GPE_GENID);
	assert_memory_not_equal(at, first, GENID_LEN);
	out16(PORT_PM_GPE0, 0xffff);
	load_genid(same, &w);
	assert_int_equal(in16(PORT_PM_GPE0), 1 << PM_GPE_GENID);
	assert_memory_equal(at, fixed, GENID_LEN);
	out16(PORT_PM_GPE0, 0xffff);
	snap_writer_done(&w);
	snap_writer_init(&w);
	genid_save(same, &w);
	load_genid(same, &w); /* moved, not copied: its owner says so with the same ID */
	assert_int_equal(in16(PORT_PM_GPE0), 0);
	snap_writer_done(&w);
	genid_free(g);
	genid_free(other);
	genid_free(same);
	guest_mem_done(&mem);
}

static void test_timer(void **state)
{
	uint32_t t0 = (uint32_t)bus_read(&fake.pio, PORT_PM_TMR, 4);

	fake_advance(1000000000);
	assert_int_equal((uint32_t)bus_read(&fake.pio, PORT_PM_TMR, 4) - t0, PM_TIMER_HZ);
	bus_write(&fake.pio, PORT_PM_TMR, 4, 0); /* read-only */
	assert_int_equal((uint32_t)bus_read(&fake.pio, PORT_PM_TMR, 4) - t0, PM_TIMER_HZ);
	out16(PORT_PM1A_EVT + 2, 1);
	fake_advance(598000000000);
	assert_false(fake.line[GSI_SCI]);
	fake_advance(2000000000); /* bit 31 changes after 599.9 s */
	assert_true(fake.line[GSI_SCI]);
	out16(PORT_PM1A_EVT, 1);
	assert_false(fake.line[GSI_SCI]);
	fake_advance(600000000000);
	assert_true(fake.line[GSI_SCI]);
}

static void test_reset_ports(void **state)
{
	assert_int_equal(in8(0x64) & 3, 0); /* no key, ready for commands */
	out8(0x64, 0xff);		    /* pulses nothing */
	out8(0x64, 0x60);
	out8(0x60, 0x00); /* command byte: no output port */
	assert_int_equal(fake.resets, 0);
	out8(0x64, 0xfe);
	assert_int_equal(fake.resets, 1);
	out8(0x64, 0xd1);
	out8(0x60, 0xdf); /* A20 on */
	assert_int_equal(fake.resets, 1);
	out8(0x64, 0xd0);
	assert_int_equal(in8(0x64) & 1, 1);
	assert_int_equal(in8(0x60) & 3, 3);
	assert_int_equal(in8(0x64) & 1, 0);
	assert_int_equal(in8(0x92), 2);
	out8(0x92, 2);
	assert_int_equal(fake.resets, 1);
	out8(0x92, 3);
	assert_int_equal(fake.resets, 2);
}

static void test_panic_and_exit(void **state)
{
	assert_int_equal(in8(PORT_PVPANIC), 3);
	out8(PORT_PVPANIC, 0x80);
	assert_int_equal(fake.panics, 0);
	out8(PORT_PVPANIC, 1);
	assert_int_equal(fake.panics, PVPANIC_PANICKED);
	bus_write(&fake.pio, PORT_DEBUG_EXIT, 4, 0x1234567);
	assert_int_equal(fake.exits, 1);
	assert_int_equal(fake.exit_value, 0x1234567);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;
	uint32_t t;

	fake_advance(3000000000);
	pm_gpe_raise(pm, 2); /* holds the line up alone */
	out16(PORT_PM_GPE0 + 2, 1 << 2);
	pm_power_button(pm);
	out16(PORT_PM1A_EVT + 2, 0x100);
	t = (uint32_t)bus_read(&fake.pio, PORT_PM_TMR, 4);
	snap_writer_init(&w);
	pm_save(pm, &w);
	kbc_save(kbc, &w);
	pm_reset(pm);
	assert_false(fake.line[GSI_SCI]);
	fake_advance(123456789);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pm_load(pm, &r, &err), 0);
	assert_int_equal(kbc_load(kbc, &r, &err), 0);
	assert_true(fake.line[GSI_SCI]);
	out16(PORT_PM1A_EVT, 0x100);
	assert_true(fake.line[GSI_SCI]);
	assert_int_equal(bus_read(&fake.pio, PORT_PM_GPE0, 4), 0x00040004);
	out16(PORT_PM_GPE0, 1 << 2);
	assert_false(fake.line[GSI_SCI]);
	assert_int_equal(bus_read(&fake.pio, PORT_PM_TMR, 4), t);
	snap_reader_init(&r, w.data, 12);
	assert_int_equal(pm_load(pm, &r, &err), -EBADMSG);
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_power_off),	T(test_power_button),
		T(test_timer),		T(test_general_purpose_events),
		T(test_generation_id),	T(test_reset_ports),
		T(test_panic_and_exit), T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
