/* SPDX-License-Identifier: Apache-2.0 */
/* What test kernels find: the firmware configuration and the test device. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/fw_cfg.h"
#include "hw/testdev.h"

#define LOW_SIZE MEM_LOW_MAX
#define HIGH_SIZE GIB(1)

static struct fw_cfg *fw;
static struct testdev *dev;

static int setup(void **state)
{
	struct guest_mem mem = { .size = LOW_SIZE + HIGH_SIZE,
				 .slot_count = 2,
				 .slots = { { .gpa = 0, .size = LOW_SIZE },
					    { .gpa = MEM_HIGH_BASE, .size = HIGH_SIZE } } };

	fake_init();
	assert_int_equal(fw_cfg_new(&fake.pio, &mem, 3, &fw, NULL), 0);
	assert_int_equal(testdev_new(&fake.pio, &fake.mmio, &fake.irq, &dev, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	testdev_free(dev);
	fw_cfg_free(fw);
	fake_done();
	return 0;
}

static void select_item(uint16_t key)
{
	bus_write(&fake.pio, PORT_FW_CFG, 2, key);
}

static uint64_t get(unsigned bytes)
{
	uint64_t val = 0;

	for (unsigned i = 0; i < bytes; i++)
		val |= bus_read(&fake.pio, PORT_FW_CFG + 1, 1) << i * 8;
	return val;
}

static void test_items(void **state)
{
	select_item(0x00);
	assert_int_equal(get(4), 0x554d4551); /* "QEMU" */
	assert_int_equal(get(1), 0);	      /* behind its end */
	select_item(0x01);
	assert_int_equal(get(4), 1);
	select_item(0x03);
	assert_int_equal(get(8), LOW_SIZE + HIGH_SIZE);
	select_item(0x05);
	assert_int_equal(get(2), 3);
	select_item(0x05); /* selecting starts over */
	assert_int_equal(get(2), 3);
	select_item(0x0f);
	assert_int_equal(get(2), 3);
	select_item(0x11);
	assert_int_equal(get(8), 0);
	bus_write(&fake.pio, PORT_FW_CFG + 1, 1, 0x55);
	select_item(0x05);
	assert_int_equal(get(2), 3);
}

static void test_memory_map(void **state)
{
	uint16_t key;
	char name[57] = "";

	select_item(0x19);
	assert_int_equal(__builtin_bswap32((uint32_t)get(4)), 1);
	assert_int_equal(__builtin_bswap32((uint32_t)get(4)), 2 * 20);
	key = __builtin_bswap16((uint16_t)get(2));
	get(2);
	for (unsigned i = 0; i < 56; i++)
		name[i] = (char)get(1);
	assert_string_equal(name, "etc/e820");
	select_item(key);
	assert_int_equal(get(8), 0);
	assert_int_equal(get(8), LOW_SIZE);
	assert_int_equal(get(4), 1);
	assert_int_equal(get(8), MEM_HIGH_BASE);
	assert_int_equal(get(8), HIGH_SIZE);
	assert_int_equal(get(4), 1);
	assert_int_equal(get(4), 0);
}

static void test_fw_cfg_state(void **state)
{
	struct snap_writer w;
	struct snap_reader r;

	select_item(0x03);
	get(1);
	snap_writer_init(&w);
	fw_cfg_save(fw, &w);
	fw_cfg_reset(fw);
	assert_int_equal(get(1), 'Q');
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(fw_cfg_load(fw, &r, NULL), 0);
	assert_int_equal(get(7), (LOW_SIZE + HIGH_SIZE) >> 8);
	snap_writer_done(&w);
}

static void test_keep(void **state)
{
	bus_write(&fake.pio, PORT_TEST_KEEP, 4, 0x11223344);
	bus_write(&fake.pio, PORT_TEST_KEEP + 1, 1, 0xaa);
	assert_int_equal(bus_read(&fake.pio, PORT_TEST_KEEP, 4), 0x1122aa44);
	assert_int_equal(bus_read(&fake.pio, PORT_TEST_KEEP + 2, 2), 0x1122);
	testdev_reset(dev);
	assert_int_equal(bus_read(&fake.pio, PORT_TEST_KEEP, 4), 0);
}

static void test_lines(void **state)
{
	bus_write(&fake.pio, PORT_TEST_LINES + 14, 1, 1);
	assert_true(fake.line[14]);
	assert_int_equal(bus_read(&fake.pio, PORT_TEST_LINES + 14, 1), 1);
	bus_write(&fake.pio, PORT_TEST_LINES + 14, 1, 0);
	assert_false(fake.line[14]);
	bus_write(&fake.pio, PORT_TEST_LINES, 1, 1); /* the ISA timer's is elsewhere */
	assert_true(fake.line[GSI_PIT]);
	testdev_reset(dev);
	assert_false(fake.line[GSI_PIT]);
}

static void test_memory(void **state)
{
	struct snap_writer w;
	struct snap_reader r;

	bus_write(&fake.mmio, MMIO_TEST_MEMORY + 0xfff8, 8, 0x0123456789abcdef);
	bus_write(&fake.mmio, MMIO_TEST_MEMORY + 0xfffa, 2, 0xbeef);
	assert_int_equal(bus_read(&fake.mmio, MMIO_TEST_MEMORY + 0xfff8, 8), 0x01234567beefcdef);
	snap_writer_init(&w);
	testdev_save(dev, &w);
	testdev_reset(dev);
	assert_int_equal(bus_read(&fake.mmio, MMIO_TEST_MEMORY + 0xfff8, 8), 0);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(testdev_load(dev, &r, NULL), 0);
	assert_int_equal(bus_read(&fake.mmio, MMIO_TEST_MEMORY + 0xfffc, 4), 0x01234567);
	snap_reader_init(&r, w.data, w.len - 1);
	assert_true(testdev_load(dev, &r, NULL) < 0);
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_items, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_map, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fw_cfg_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
