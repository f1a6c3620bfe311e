/* SPDX-License-Identifier: Apache-2.0 */
/* The console device, driven through its PCI registers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "virtio_driver.h"

#define F(bit) (1ull << (bit))
#define TO_GUEST 0
#define FROM_GUEST 1

struct fixture {
	struct machine m;
	struct virtio_console_backend backend;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t data;
	uint8_t out[200000];
	size_t out_len, out_room;
	unsigned ready_calls;
	unsigned flood, floods; /* chains that the backend's call adds, as a busy driver would */
};

static size_t output(void *opaque, const uint8_t *bytes, size_t len)
{
	struct fixture *f = opaque;
	size_t n = min_u64(len, f->out_room);

	if (f->floods < f->flood) {
		q_add(&f->d, &f->d.q[FROM_GUEST],
		      &(struct drv_buf) { f->data + ++f->floods, 1, false }, 1);
	}
	memcpy(f->out + f->out_len, bytes, n);
	f->out_len += n;
	f->out_room -= n;
	return n;
}

static void input_ready(void *opaque)
{
	((struct fixture *)opaque)->ready_calls++;
}

static void plug(struct fixture *f)
{
	struct virtio_env env = machine_env(&f->m);
	struct err err;

	assert_int_equal(virtio_console_new(&env, DRV_SLOT, &f->backend, &f->dev, &err), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	machine_init(&f->m);
	f->backend = (struct virtio_console_backend) { output, input_ready, f };
	f->out_room = sizeof(f->out);
	f->data = guest_alloc(&f->m, MIB(1), 4096);
	plug(f);
	drv_probe(&f->d, &f->m, DRV_SLOT);
	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1)));
	drv_queue(&f->d, TO_GUEST, 16, false);
	drv_queue(&f->d, FROM_GUEST, 16, false);
	drv_ready(&f->d);
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

static void send(struct fixture *f, uint64_t off, uint32_t len)
{
	struct drv_buf buf = { f->data + off, len, false };

	q_add(&f->d, &f->d.q[FROM_GUEST], &buf, 1);
	q_kick(&f->d, FROM_GUEST);
}

static void fill(struct fixture *f, uint32_t len)
{
	uint8_t *p = guest(&f->m, f->data, len);

	for (uint32_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 7 + i / 256);
}

static void wait_output(struct fixture *f, size_t len)
{
	for (unsigned i = 0; i < 1000 && f->out_len < len; i++)
		machine_run(&f->m, 2);
	assert_int_equal(f->out_len, len);
	assert_memory_equal(f->out, guest(&f->m, f->data, len), len);
}

static void test_output(void **state)
{
	struct fixture *f = *state;

	fill(f, 1000);
	send(f, 0, 100);
	send(f, 100, 900);
	assert_int_equal(f->out_len, 0); /* never on the vCPU's thread */
	assert_true(q_wait(&f->d, &f->d.q[FROM_GUEST], NULL, NULL));
	assert_true(q_wait(&f->d, &f->d.q[FROM_GUEST], NULL, NULL));
	wait_output(f, 1000);
}

/* A driver that always has more must not keep the loop from its other work; nothing is lost. */
static void test_endless_output(void **state)
{
	struct fixture *f = *state;

	fill(f, 1001);
	f->flood = 1000;
	send(f, 0, 1);
	virtio_console_flush(f->dev);
	assert_in_range(f->floods, 1, 100);
	wait_output(f, 1001);
}

static void test_large_output_and_slow_backend(void **state)
{
	struct fixture *f = *state;

	/* More than the device holds; the backend takes it in portions. */
	fill(f, 150000);
	f->out_room = 0;
	send(f, 0, 50000);
	send(f, 50000, 100000);
	machine_run(&f->m, 20);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[FROM_GUEST]), 0); /* the guest waits */
	for (unsigned i = 0; i < 200 && f->out_len < 60000; i++) {
		f->out_room = 777;
		machine_run(&f->m, 7);
	}
	assert_int_equal(q_used_idx(&f->d, &f->d.q[FROM_GUEST]), 1);
	f->out_room = sizeof(f->out) - f->out_len;
	wait_output(f, 150000);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[FROM_GUEST]), 2);
}

static void test_input(void **state)
{
	struct fixture *f = *state;
	struct drv_buf buf = { f->data, 8, true };
	uint32_t len;

	/* No buffer: refused; once there is one the backend hears of it. */
	assert_int_equal(virtio_console_receive(f->dev, (const uint8_t *)"hello world", 11), 0);
	machine_run(&f->m, 1);
	assert_int_equal(f->ready_calls, 0);
	q_add(&f->d, &f->d.q[TO_GUEST], &buf, 1);
	q_kick(&f->d, TO_GUEST);
	machine_run(&f->m, 1);
	assert_int_equal(f->ready_calls, 1);
	assert_int_equal(virtio_console_receive(f->dev, (const uint8_t *)"hello world", 11), 8);
	assert_true(q_wait(&f->d, &f->d.q[TO_GUEST], NULL, &len));
	assert_int_equal(len, 8);
	assert_memory_equal(guest(&f->m, f->data, 8), "hello wo", 8);
	q_add(&f->d, &f->d.q[TO_GUEST], &buf, 1);
	q_kick(&f->d, TO_GUEST);
	machine_run(&f->m, 1);
	assert_int_equal(f->ready_calls, 2);
	assert_int_equal(virtio_console_receive(f->dev, (const uint8_t *)"rld", 3), 3);
}

static void test_reset_with_output_waiting(void **state)
{
	struct fixture *f = *state;

	fill(f, 50000);
	f->out_room = 0;
	send(f, 0, 50000);
	machine_run(&f->m, 2);
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(drv_status(&f->d), 0); /* no chain is out */
	f->out_room = sizeof(f->out);
	machine_run(&f->m, 20);
	assert_in_range(f->out_len, 1, 49999); /* what the device had taken */
	assert_memory_equal(f->out, guest(&f->m, f->data, f->out_len), f->out_len);
}

static void test_save_load(void **state)
{
	struct fixture *f = *state;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };

	fill(f, 60000);
	f->out_room = 1000;
	send(f, 0, 60000);
	machine_run(&f->m, 2);
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	virtio_dev_free(f->dev);
	plug(f);
	snap_reader_init(&r, w.data, w.len);
	if (virtio_dev_load(f->dev, &r, &err))
		fail_msg("%s", err.text);
	f->out_room = sizeof(f->out) - f->out_len;
	wait_output(f, 60000); /* not a byte lost or twice */
	for (size_t i = 0; i < w.len; i += 7) {
		snap_reader_init(&r, w.data, i);
		assert_int_equal(virtio_dev_load(f->dev, &r, &err), -EBADMSG);
	}
	snap_writer_done(&w);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_output),
		T(test_endless_output),
		T(test_large_output_and_slow_backend),
		T(test_input),
		T(test_reset_with_output_waiting),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
