/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtqueues against drivers that break the rules, through the entropy
 * device: each violation ends in DEVICE_NEEDS_RESET, never in a hang or a
 * wild access; what is unusual but allowed works.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "virtio_driver.h"

#define F(bit) (1ull << (bit))
#define SIZE 16

struct fixture {
	struct machine m;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t data;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_env env;
	struct err err;

	machine_init(&f->m);
	env = machine_env(&f->m);
	assert_int_equal(virtio_rng_new(&env, DRV_SLOT, &f->dev, &err), 0);
	drv_probe(&f->d, &f->m, DRV_SLOT);
	f->data = guest_alloc(&f->m, 4096, 4096);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_dev_free(f->dev);
	machine_done(&f->m);
	free(f);
	return 0;
}

static void start_with(struct fixture *f, uint64_t features)
{
	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1) | features));
	drv_queue(&f->d, 0, SIZE, false);
	drv_ready(&f->d);
}

static void start(struct fixture *f)
{
	start_with(f, F(VIRTIO_RING_F_INDIRECT_DESC));
}

static bool needs_reset(struct fixture *f)
{
	return drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void offer_and_expect_break(struct fixture *f)
{
	q_offer(&f->d, &f->d.q[0], 0);
	q_kick(&f->d, 0);
	assert_true(needs_reset(f));
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 0);
	/* It stays broken, quietly. */
	q_kick(&f->d, 0);
	machine_run(&f->m, 1);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 0);
}

static void desc(struct fixture *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		 uint16_t next)
{
	q_desc(&f->d, f->d.q[0].desc, i, addr, len, flags, next);
}

static void test_works(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data, 64, true };
	static const uint8_t zeros[64];
	uint32_t len;

	start(f);
	for (unsigned i = 0; i < 70000; i++) { /* indices wrap */
		q_add(&f->d, &f->d.q[0], &buf, 1);
		q_kick(&f->d, 0);
		assert_true(q_wait(&f->d, &f->d.q[0], NULL, &len));
		assert_int_equal(len, 64);
	}
	assert_memory_not_equal(guest(&f->m, f->data, 64), zeros, 64);
}

static void test_loop(void **state)
{
	struct fixture *f = *state;

	start(f);
	desc(f, 0, f->data, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	desc(f, 1, f->data, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
	offer_and_expect_break(f);
}

static void test_loop_of_empty_buffers(void **state)
{
	struct fixture *f = *state;

	start(f);
	desc(f, 0, f->data, 0, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
	offer_and_expect_break(f);
}

static void test_indirect_loop(void **state)
{
	struct fixture *f = *state;

	start(f);
	desc(f, 0, f->data, 32, VRING_DESC_F_INDIRECT, 0);
	q_desc(&f->d, f->data, 0, f->data, 4, VRING_DESC_F_NEXT, 1);
	q_desc(&f->d, f->data, 1, f->data, 4, VRING_DESC_F_NEXT, 0);
	offer_and_expect_break(f);
}

static void test_head_out_of_range(void **state)
{
	struct fixture *f = *state;

	start(f);
	q_offer(&f->d, &f->d.q[0], SIZE);
	q_kick(&f->d, 0);
	assert_true(needs_reset(f));
}

static void test_next_out_of_range(void **state)
{
	struct fixture *f = *state;

	start(f);
	desc(f, 0, f->data, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, SIZE);
	offer_and_expect_break(f);
}

static void test_too_many_available(void **state)
{
	struct fixture *f = *state;

	start(f);
	*q_avail_idx(&f->d, &f->d.q[0]) = SIZE + 1;
	q_kick(&f->d, 0);
	assert_true(needs_reset(f));
}

static void test_readable_after_writable(void **state)
{
	struct fixture *f = *state;

	start(f);
	desc(f, 0, f->data, 8, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	desc(f, 1, f->data, 8, 0, 0);
	offer_and_expect_break(f);
}

static void test_bad_buffers(void **state)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {
		{ DRV_RAM, 1 },	   { DRV_RAM - 1, 2 }, { ~0ull, 1 },	   { ~0ull - 7, 16 },
		{ 0, 0xffffffff }, { 0xfee00000, 4 },  { 1ull << 63, 64 },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		start(f);
		desc(f, 0, bad[i].addr, bad[i].len, VRING_DESC_F_WRITE, 0);
		offer_and_expect_break(f);
	}
}

static void test_bad_indirect(void **state)
{
	static const struct {
		uint64_t off;
		uint32_t len;
		uint16_t flags;
	} bad[] = {
		{ 0, 0, 0 },
		{ 0, 15, 0 },
		{ 0, 17, 0 },
		{ 0, 16 * 257, 0 },
		{ DRV_RAM, 16, 0 },
		{ ~0ull - 0x100000, 32, 0 },
		{ 0, 16, VRING_DESC_F_NEXT },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		start(f);
		q_desc(&f->d, f->data, 0, f->data, 4, VRING_DESC_F_WRITE, 0);
		desc(f, 0, f->data + bad[i].off, bad[i].len, VRING_DESC_F_INDIRECT | bad[i].flags,
		     1);
		desc(f, 1, f->data, 4, VRING_DESC_F_WRITE, 0);
		offer_and_expect_break(f);
	}
	/* A table in a table */
	start(f);
	q_desc(&f->d, f->data, 0, f->data, 16, VRING_DESC_F_INDIRECT, 0);
	desc(f, 0, f->data, 16, VRING_DESC_F_INDIRECT, 0);
	offer_and_expect_break(f);
	/* Not negotiated */
	start_with(f, 0);
	q_desc(&f->d, f->data, 0, f->data, 4, VRING_DESC_F_WRITE, 0);
	desc(f, 0, f->data, 16, VRING_DESC_F_INDIRECT, 0);
	offer_and_expect_break(f);
}

static void test_long_indirect(void **state)
{
	struct fixture *f = *state;
	uint64_t table = guest_alloc(&f->m, 16 * 256, 16);
	uint32_t len;

	/* As long as may be, longer than the ring */
	start(f);
	for (unsigned i = 0; i < 256; i++)
		q_desc(&f->d, table, i, f->data, 1,
		       VRING_DESC_F_WRITE | (i < 255 ? VRING_DESC_F_NEXT : 0), (uint16_t)(i + 1));
	desc(f, 0, table, 16 * 256, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
	q_offer(&f->d, &f->d.q[0], 0);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, &len));
	assert_int_equal(len, 256);
	/* One buffer more */
	desc(f, 0, f->data, 1, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	desc(f, 1, table, 16 * 256, VRING_DESC_F_INDIRECT, 0);
	q_offer(&f->d, &f->d.q[0], 0);
	q_kick(&f->d, 0);
	assert_true(needs_reset(f));
}

static void test_bad_rings(void **state)
{
	static const struct {
		unsigned reg, size;
		uint64_t val;
	} bad[] = {
		{ VIRTIO_PCI_COMMON_Q_SIZE, 2, 0 },
		{ VIRTIO_PCI_COMMON_Q_SIZE, 2, 3 },
		{ VIRTIO_PCI_COMMON_Q_SIZE, 2, 512 },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x10008 },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 8, DRV_RAM },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 8, 0x10001 },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 8, DRV_RAM - 6 },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 8, 0x10002 },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 8, ~0ull - 3 },
		{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0xffffffff },
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1)));
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, SIZE);
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, f->data);
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, f->data);
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_USEDLO, 8, f->data);
		drv_set(&f->d, bad[i].reg, bad[i].size, bad[i].val);
		drv_set(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		drv_ready(&f->d);
		assert_true(needs_reset(f));
		q_kick(&f->d, 0);
	}
	/* Registers of a queue that does not exist, and its notification */
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	q_kick(&f->d, 1);
	q_kick(&f->d, 500);
}

static void test_fixed_once_enabled(void **state)
{
	struct fixture *f = *state;
	uint64_t desc_gpa;

	start(f);
	desc_gpa = drv_get(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8);
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x1000);
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8), desc_gpa);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), SIZE);
	/* A vector that does not exist reads back as none. */
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
}

static void test_no_access_without_bus_master(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data, 64, true };

	start(f);
	drv_config_write(&f->d, PCI_REG_COMMAND, 2, PCI_COMMAND_MEMORY);
	q_add(&f->d, &f->d.q[0], &buf, 1);
	q_kick(&f->d, 0);
	machine_run(&f->m, 1);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 0);
	drv_config_write(&f->d, PCI_REG_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
}

static void test_offered_before_ready(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data, 64, true };

	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1)));
	drv_queue(&f->d, 0, SIZE, false);
	q_add(&f->d, &f->d.q[0], &buf, 1);
	q_kick(&f->d, 0);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 0);
	drv_ready(&f->d);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
}

static void test_interrupt_suppression(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data, 64, true };

	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1)));
	drv_msix(&f->d);
	drv_queue(&f->d, 0, SIZE, true);
	drv_ready(&f->d);
	*(uint16_t *)guest(&f->m, f->d.q[0].avail, 2) = VRING_AVAIL_F_NO_INTERRUPT;
	q_add(&f->d, &f->d.q[0], &buf, 1);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
	assert_int_equal(f->m.msi[0x41], 0);
	*(uint16_t *)guest(&f->m, f->d.q[0].avail, 2) = 0;
	q_add(&f->d, &f->d.q[0], &buf, 1);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
	assert_int_equal(f->m.msi[0x41], 1);
}

static void written(void *arg, uint64_t gpa, uint64_t len)
{
	uint64_t *seen = arg;

	if (gpa == seen[0])
		seen[1] += len;
}

static void test_writes_are_told(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data + 100, 64, true };
	uint64_t seen[2] = { f->data + 100, 0 };

	/* As if code of the buffer's page were cached */
	f->m.mem.code_map = calloc(1, DRV_RAM >> PAGE_SHIFT);
	f->m.mem.code_map[f->data >> PAGE_SHIFT] = 1;
	f->m.mem.written = written;
	f->m.mem.written_arg = seen;
	start(f);
	q_add(&f->d, &f->d.q[0], &buf, 1);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
	assert_int_equal(seen[1], 64);
	free(f->m.mem.code_map);
	f->m.mem.code_map = NULL;
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_works),
		T(test_loop),
		T(test_loop_of_empty_buffers),
		T(test_indirect_loop),
		T(test_head_out_of_range),
		T(test_next_out_of_range),
		T(test_too_many_available),
		T(test_readable_after_writable),
		T(test_bad_buffers),
		T(test_bad_indirect),
		T(test_long_indirect),
		T(test_bad_rings),
		T(test_fixed_once_enabled),
		T(test_no_access_without_bus_master),
		T(test_offered_before_ready),
		T(test_interrupt_suppression),
		T(test_writes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
