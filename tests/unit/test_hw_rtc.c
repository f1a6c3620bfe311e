/* SPDX-License-Identifier: Apache-2.0 */
/* CMOS clock: formats, setting, update cycle, interrupts, memory sizes, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/rtc.h"

static struct rtc *rtc;

static int setup(void **state)
{
	fake_init();
	assert_int_equal(rtc_new(&fake.pio, &fake.irq, &fake.clock, GIB(3), GIB(1), &rtc, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	rtc_free(rtc);
	fake_done();
	return 0;
}

static uint8_t get(uint8_t index)
{
	out8(0x70, index);
	return in8(0x71);
}

static void put(uint8_t index, uint8_t val)
{
	out8(0x70, index);
	out8(0x71, val);
}

static void assert_time(unsigned h, unsigned m, unsigned s)
{
	assert_int_equal(get(4), h);
	assert_int_equal(get(2), m);
	assert_int_equal(get(0), s);
}

/* Tuesday 2023-11-14 22:13:20 UTC */
static void test_time(void **state)
{
	assert_int_equal(get(0x0d), 0x80);
	assert_time(0x22, 0x13, 0x20);
	assert_int_equal(get(6), 3);
	assert_int_equal(get(7), 0x14);
	assert_int_equal(get(8), 0x11);
	assert_int_equal(get(9), 0x23);
	assert_int_equal(get(0x32), 0x20);
	put(0x0b, 0x06); /* binary */
	assert_time(22, 13, 20);
	put(0x0b, 0x04); /* 12 hours */
	assert_int_equal(get(4), 0x80 | 10);
	fake_advance(2 * 3600 * 1000000000ull);
	assert_int_equal(get(4), 12); /* midnight */
	assert_int_equal(get(7), 15);
}

static void test_set(void **state)
{
	put(0x0b, 0x82);
	put(4, 0x01);
	put(2, 0x02);
	put(0, 0x03);
	put(9, 0x99);
	put(0x32, 0x19);
	fake_advance(5000000000);
	assert_time(0x01, 0x02, 0x03); /* stands still */
	put(0x0b, 0x02);
	assert_time(0x01, 0x02, 0x03);
	fake_advance(499999999);
	assert_int_equal(get(0), 0x03);
	fake_advance(1);
	assert_int_equal(get(0), 0x04);
	assert_int_equal(get(9), 0x99);
	/* without SET a byte changes at once */
	put(2, 0x59);
	assert_time(0x01, 0x59, 0x04);
	fake_advance(60000000000);
	assert_time(0x02, 0x00, 0x04);
	/* reset keeps the time */
	rtc_reset(rtc);
	assert_time(0x02, 0x00, 0x04);
}

static void test_nonsense_time(void **state)
{
	put(0x0b, 0x86);
	for (uint8_t i = 0; i < 10; i++)
		put(i, 0xff);
	put(0x32, 0xff);
	put(0x0b, 0x76);
	fake_advance(3000000000);
	assert_int_equal(get(0x32) * 100 + get(9), 2115); /* the last year it can show */
	put(0x0b, 0x86);
	for (uint8_t i = 0; i < 10; i++)
		put(i, 0);
	put(0x32, 0);
	put(0x0b, 0x76);
	fake_advance(3000000000);
	assert_int_equal(get(0x32) * 100 + get(9), 1900);
}

static void test_update_in_progress(void **state)
{
	assert_int_equal(get(0x0a), 0x26);
	fake_advance(999755999);
	assert_int_equal(get(0x0a), 0x26);
	fake_advance(1);
	assert_int_equal(get(0x0a), 0xa6);
	fake_advance(244000);
	assert_int_equal(get(0x0a), 0x26);
	assert_int_equal(get(0), 0x21);
	assert_int_equal(get(0x0c) & 0x10, 0x10); /* flag without its interrupt */
	assert_int_equal(get(0x0c) & 0x10, 0);
}

static void test_update_interrupt(void **state)
{
	get(0x0c);
	put(0x0b, 0x12);
	assert_false(fake.line[8]);
	fake_advance(999999999);
	assert_false(fake.line[8]);
	fake_advance(1);
	assert_true(fake.line[8]);
	assert_int_equal(fake_advance(10000000000), 0); /* unserved: the host may sleep */
	assert_int_equal(get(0x0c) & 0x90, 0x90);
	assert_false(fake.line[8]);
	fake_advance(1000000000);
	assert_true(fake.line[8]);
	put(0x0b, 0x02); /* disabling drops the line */
	assert_false(fake.line[8]);
}

static void test_alarm(void **state)
{
	put(5, 0xff); /* any hour */
	put(3, 0x15);
	put(1, 0x05);
	get(0x0c);
	put(0x0b, 0x22);
	fake_advance(104999999999); /* 22:13:20 to 22:15:05 */
	assert_false(fake.line[8]);
	fake_advance(1);
	assert_true(fake.line[8]);
	assert_int_equal(get(0x0c) & 0xa0, 0xa0);
	fake_advance(3600000000000 - 1);
	assert_false(fake.line[8]);
	fake_advance(1);
	assert_true(fake.line[8]);
	get(0x0c);
	put(3, 0x77); /* never */
	assert_true(fake_advance(86400000000000) <= 1441);
	assert_false(fake.line[8]);
}

static void test_periodic(void **state)
{
	unsigned n = 0;

	get(0x0c);
	put(0x0b, 0x42);
	for (unsigned i = 0; i < 10000; i++) { /* 1024 Hz, served */
		fake_advance(100000);
		if (fake.line[8]) {
			assert_int_equal(get(0x0c) & 0xc0, 0xc0);
			n++;
		}
	}
	assert_in_range(n, 1023, 1025);
	put(0x0a, 0x20); /* rate 0: none */
	get(0x0c);
	fake_advance(1000000000);
	assert_false(fake.line[8]);
}

static void test_memory_sizes(void **state)
{
	assert_int_equal(get(0x15) | get(0x16) << 8, 640);
	assert_int_equal(get(0x34) | get(0x35) << 8, (GIB(3) - MIB(16)) >> 16);
	assert_int_equal(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, GIB(1) >> 16);
	put(0x50, 0xa5);
	assert_int_equal(get(0xd0), 0xa5); /* bit 7 is the NMI mask */
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	put(0x0b, 0x12);
	put(4, 0x05);
	put(0x60, 0x77);
	out8(0x70, 0x60);
	snap_writer_init(&w);
	rtc_save(rtc, &w);
	put(4, 0x09);
	put(0x60, 0);
	rtc_reset(rtc);
	fake.now_ns = 5; /* another host */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(rtc_load(rtc, &r, &err), 0);
	assert_int_equal(in8(0x71), 0x77);
	assert_time(0x05, 0x13, 0x20);
	fake_advance(1000000000);
	assert_true(fake.line[8]);
	for (size_t cut = 0; cut < w.len; cut++) {
		snap_reader_init(&r, w.data, cut);
		assert_int_equal(rtc_load(rtc, &r, &err), -EBADMSG);
	}
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_time),
		T(test_set),
		T(test_nonsense_time),
		T(test_update_in_progress),
		T(test_update_interrupt),
		T(test_alarm),
		T(test_periodic),
		T(test_memory_sizes),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
