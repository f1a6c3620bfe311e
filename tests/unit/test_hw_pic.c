/* SPDX-License-Identifier: Apache-2.0 */
/* 8259 pair: initialisation, priorities, cascade, EOI kinds, edge and level, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/pic.h"

static struct pic *pic;
static unsigned intrs;

static void on_intr(void *opaque)
{
	intrs++;
}

static int setup(void **state)
{
	fake_init();
	intrs = 0;
	assert_int_equal(pic_new(&fake.pio, on_intr, NULL, &pic, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	pic_free(pic);
	fake_done();
	return 0;
}

static void program(uint8_t icw4)
{
	out8(0x20, 0x11);
	out8(0x21, 0x30);
	out8(0x21, 0x04);
	out8(0x21, icw4);
	out8(0xa0, 0x11);
	out8(0xa1, 0x38);
	out8(0xa1, 0x02);
	out8(0xa1, icw4);
	out8(0x21, 0);
	out8(0xa1, 0);
}

static void pulse(unsigned gsi)
{
	pic_set_gsi(pic, gsi, true);
	pic_set_gsi(pic, gsi, false);
}

static void test_probe(void **state)
{
	assert_int_equal(in8(0x21), 0xff);
	out8(0xa1, 0xff);
	out8(0x21, 0xfb); /* how kernels tell that there is one */
	assert_int_equal(in8(0x21), 0xfb);
	pulse(4);
	assert_false(pic_pending(pic)); /* masked */
	assert_int_equal(in8(0x20), 1 << 4);
}

static void test_priority(void **state)
{
	program(1);
	pulse(4);
	assert_int_equal(intrs, 1);
	pulse(2); /* GSI 2 is IRQ 0 */
	assert_true(pic_pending(pic));
	assert_int_equal(pic_ack(pic), 0x30);
	assert_false(pic_pending(pic));
	out8(0x20, 0x0b);
	assert_int_equal(in8(0x20), 1);
	out8(0x20, 0x20); /* EOI */
	assert_int_equal(pic_ack(pic), 0x34);
	pulse(4); /* waits for its EOI */
	assert_false(pic_pending(pic));
	out8(0x20, 0x64); /* specific */
	assert_int_equal(pic_ack(pic), 0x34);
	out8(0x20, 0x20);
	assert_int_equal(pic_ack(pic), 0x37); /* nothing: spurious */
	assert_int_equal(in8(0x20), 0);
	pic_set_gsi(pic, 0, true);
	pic_set_gsi(pic, 16, true);
	assert_false(pic_pending(pic));
}

static void test_cascade(void **state)
{
	program(1);
	pulse(8);
	assert_true(pic_pending(pic));
	assert_int_equal(pic_ack(pic), 0x38);
	pulse(9); /* lower in the second chip */
	assert_false(pic_pending(pic));
	out8(0xa0, 0x20);
	assert_false(pic_pending(pic)); /* the first still serves the cascade */
	out8(0x20, 0x20);
	assert_int_equal(pic_ack(pic), 0x39);
}

static void test_level(void **state)
{
	program(1);
	out8(0x4d0, 0xff);
	out8(0x4d1, 0xff);
	assert_int_equal(bus_read(&fake.pio, 0x4d0, 2), 0xdef8);
	pic_set_gsi(pic, 11, true);
	assert_int_equal(pic_ack(pic), 0x3b);
	out8(0xa0, 0x20);
	out8(0x20, 0x20);
	assert_int_equal(pic_ack(pic), 0x3b); /* still asserted */
	pic_set_gsi(pic, 11, false);
	out8(0xa0, 0x20);
	out8(0x20, 0x20);
	assert_false(pic_pending(pic));
}

static void test_modes(void **state)
{
	program(3); /* automatic EOI */
	pulse(4);
	pulse(4);
	assert_int_equal(pic_ack(pic), 0x34);
	pulse(4);
	assert_int_equal(pic_ack(pic), 0x34);
	program(1);
	out8(0x20, 0xc4); /* IRQ 5 first, 4 last */
	pulse(3);
	pulse(5);
	assert_int_equal(pic_ack(pic), 0x35);
	out8(0x20, 0xa0); /* rotate: 5 last */
	assert_int_equal(pic_ack(pic), 0x33);
	out8(0x20, 0x20);
	out8(0x20, 0x68 | 0x0c); /* poll */
	assert_int_equal(in8(0x20), 0);
	pulse(6);
	out8(0x20, 0x0c);
	assert_int_equal(in8(0x20), 0x86);
	assert_false(pic_pending(pic));
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	program(1);
	pulse(4);
	pic_ack(pic);
	pulse(3);
	snap_writer_init(&w);
	pic_save(pic, &w);
	pic_reset(pic);
	assert_int_equal(in8(0x21), 0xff);
	assert_false(pic_pending(pic));
	intrs = 0;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(pic_load(pic, &r, &err), 0);
	assert_int_equal(intrs, 1);
	assert_int_equal(pic_ack(pic), 0x33);
	for (size_t cut = 0; cut < w.len; cut++) {
		snap_reader_init(&r, w.data, cut);
		assert_int_equal(pic_load(pic, &r, &err), -EBADMSG);
	}
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_probe), T(test_priority), T(test_cascade),
		T(test_level), T(test_modes),	 T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
