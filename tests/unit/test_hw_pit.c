/* SPDX-License-Identifier: Apache-2.0 */
/* PIT: counting, latches, modes, gate and output of channel 2, interrupts, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/pit.h"

static struct pit *p;

static int setup(void **state)
{
	fake_init();
	assert_int_equal(pit_new(&fake.pio, &fake.irq, &fake.clock, &p, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	pit_free(p);
	fake_done();
	return 0;
}

static uint64_t ticks_ns(uint64_t ticks)
{
	return (ticks * 1000000000ull + PIT_HZ - 1) / PIT_HZ;
}

static unsigned read_latched(unsigned ch)
{
	unsigned lo;

	out8(0x43, (uint8_t)(ch << 6));
	lo = in8((uint16_t)(0x40 + ch));
	return lo | (unsigned)in8((uint16_t)(0x40 + ch)) << 8;
}

static void load(unsigned ch, unsigned mode, unsigned count)
{
	out8(0x43, (uint8_t)(ch << 6 | 0x30 | mode << 1));
	out8((uint16_t)(0x40 + ch), (uint8_t)count);
	out8((uint16_t)(0x40 + ch), (uint8_t)(count >> 8));
}

static void test_calibration(void **state)
{
	/* what kernels do to find their TSC's frequency: channel 2, mode 0, watch the output */
	out8(0x61, (in8(0x61) & ~2) | 1);
	load(2, 0, 11932); /* 10 ms */
	assert_int_equal(in8(0x61) & 0x20, 0);
	fake_advance(ticks_ns(1932));
	assert_int_equal(read_latched(2), 10000);
	fake_advance(ticks_ns(11932) - ticks_ns(1932) - 1);
	assert_int_equal(in8(0x61) & 0x20, 0);
	fake_advance(1);
	assert_int_equal(in8(0x61) & 0x20, 0x20);
	assert_int_equal(read_latched(2), 0);
	fake_advance(ticks_ns(12000) - ticks_ns(11932));
	assert_int_equal(read_latched(2), 65536 - 68); /* counts on */
}

static void test_gate(void **state)
{
	load(2, 0, 1000); /* the gate is low: stands */
	fake_advance(ticks_ns(500));
	assert_int_equal(read_latched(2), 1000);
	out8(0x61, 1);
	fake_advance(ticks_ns(400));
	assert_int_equal(read_latched(2), 600);
	out8(0x61, 0);
	fake_advance(ticks_ns(5000));
	assert_int_equal(read_latched(2), 600);
	out8(0x61, 1);
	fake_advance(ticks_ns(600) + 1);
	assert_int_equal(in8(0x61) & 0x20, 0x20);
	/* mode 1: a rise of the gate starts the shot */
	out8(0x61, 0);
	load(2, 1, 100);
	assert_int_equal(in8(0x61) & 0x20, 0x20);
	out8(0x61, 1);
	assert_int_equal(in8(0x61) & 0x20, 0);
	fake_advance(ticks_ns(100));
	assert_int_equal(in8(0x61) & 0x20, 0x20);
}

static void test_refresh_toggle(void **state)
{
	unsigned toggles = 0, last = in8(0x61) & 0x10;

	for (unsigned i = 0; i < 1000; i++) {
		unsigned now;

		fake_advance(1000);
		now = in8(0x61) & 0x10;
		toggles += now != last;
		last = now;
	}
	assert_in_range(toggles, 64, 69); /* 15.085 us each over 1 ms */
}

static void test_rate_generator(void **state)
{
	load(0, 2, 1193); /* about 1 kHz */
	fake_advance(ticks_ns(1193) - 1);
	assert_int_equal(fake.rises[GSI_PIT], 0);
	fake_advance(1);
	assert_int_equal(fake.rises[GSI_PIT], 1);
	assert_int_equal(read_latched(0), 1193);
	fake_advance(1000000000);
	assert_in_range(fake.rises[GSI_PIT], 1000, 1002);
	out8(0x43, 0x34); /* a control word stops it */
	fake_advance(1000000000);
	assert_in_range(fake.rises[GSI_PIT], 1000, 1002);
}

static void test_one_shot(void **state)
{
	load(0, 0, 500);
	fake_advance(ticks_ns(500) - 1);
	assert_int_equal(fake.rises[GSI_PIT], 0);
	fake_advance(1);
	assert_int_equal(fake.rises[GSI_PIT], 1);
	fake_advance(1000000000);
	assert_int_equal(fake.rises[GSI_PIT], 1);
	/* mode 0 with the first byte alone does not count */
	load(0, 0, 500);
	out8(0x40, 10);
	fake_advance(1000000000);
	assert_int_equal(fake.rises[GSI_PIT], 1);
	/* mode 4: one strobe */
	load(0, 4, 500);
	fake_advance(1000000000);
	assert_int_equal(fake.rises[GSI_PIT], 2);
}

static void test_storm_is_bounded(void **state)
{
	load(0, 2, 1);
	fake_advance_max(1000000000, 20001);
	assert_true(fake.rises[GSI_PIT] > 1000);
}

static void test_read_back(void **state)
{
	load(0, 3, 1000);
	fake_advance(ticks_ns(100));
	out8(0x43, 0xc2); /* status and count of channel 0 */
	assert_int_equal(in8(0x40), 0x80 | 0x36);
	assert_int_equal(in8(0x40), 800 & 0xff);
	assert_int_equal(in8(0x40), 800 >> 8);
	fake_advance(ticks_ns(500));
	out8(0x43, 0xe2); /* status: second half, output low */
	assert_int_equal(in8(0x40), 0x36);
	out8(0x43, 0x36);
	out8(0x43, 0xe2); /* null count */
	assert_int_equal(in8(0x40), 0x80 | 0x40 | 0x36);
	/* a latched count stays until read */
	load(0, 2, 1000);
	fake_advance(ticks_ns(100));
	out8(0x43, 0);
	fake_advance(ticks_ns(100));
	out8(0x43, 0);
	assert_int_equal(in8(0x40), 900 & 0xff);
	assert_int_equal(in8(0x40), 900 >> 8);
	assert_int_equal(read_latched(0), 800);
}

static void test_bcd(void **state)
{
	out8(0x43, 0x31);
	out8(0x40, 0x00);
	out8(0x40, 0x10); /* 1000 */
	fake_advance(ticks_ns(1));
	assert_int_equal(read_latched(0), 0x0999);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	out8(0x61, 3);
	load(0, 2, 10000);
	load(2, 0, 60000);
	fake_advance(ticks_ns(15000));
	assert_int_equal(fake.rises[GSI_PIT], 1);
	snap_writer_init(&w);
	pit_save(p, &w);
	pit_reset(p);
	assert_int_equal(in8(0x61) & 0x23, 0x20);
	fake_advance(5000000000);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pit_load(p, &r, &err), 0);
	assert_int_equal(in8(0x61) & 0x23, 3);
	assert_int_equal(read_latched(0), 5000);
	assert_int_equal(read_latched(2), 45000);
	fake_advance(ticks_ns(5000));
	assert_int_equal(fake.rises[GSI_PIT], 2);
	for (size_t cut = 0; cut < w.len; cut++) {
		snap_reader_init(&r, w.data, cut);
		assert_int_equal(pit_load(p, &r, &err), -EBADMSG);
	}
	memset(w.data + 25, 0, 4); /* channel 0: a count of zero does not exist */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pit_load(p, &r, &err), -EBADMSG);
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_calibration),	T(test_gate),	  T(test_refresh_toggle),
		T(test_rate_generator), T(test_one_shot), T(test_storm_is_bounded),
		T(test_read_back),	T(test_bcd),	  T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
