/* SPDX-License-Identifier: Apache-2.0 */
/* Serial port: interrupts, FIFO, loopback, flow control against a slow host, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "hw_fake.h"

#include "hw/uart.h"

#define P PORT_COM1

static struct uart *u;
static uint8_t got[65536];
static size_t got_len, room;
static unsigned calls, ready_calls;

static size_t on_output(void *opaque, const uint8_t *bytes, size_t len)
{
	calls++;
	len = min_u64(len, room);
	room -= len;
	memcpy(got + got_len, bytes, len);
	got_len += len;
	return len;
}

static void on_ready(void *opaque)
{
	ready_calls++;
}

static const struct uart_backend backend = { on_output, on_ready, NULL };

static int setup(void **state)
{
	fake_init();
	got_len = calls = ready_calls = 0;
	room = sizeof(got);
	assert_int_equal(uart_new(&fake.pio, P, &fake.irq, 4, &fake.clock, &backend, &u, NULL), 0);
	return 0;
}

static int teardown(void **state)
{
	uart_free(u);
	fake_done();
	return 0;
}

static void test_probe(void **state)
{
	out8(P + 7, 0x5a);
	assert_int_equal(in8(P + 7), 0x5a);
	out8(P + 1, 0xff);
	assert_int_equal(in8(P + 1), 0x0f);
	out8(P + 1, 0);
	assert_int_equal(in8(P + 2), 0x01);
	out8(P + 2, 0x01);
	assert_int_equal(in8(P + 2), 0xc1);
	assert_int_equal(in8(P + 5), 0x60);
	assert_int_equal(in8(P + 6), 0xb0);
	out8(P + 3, 0x83);
	out8(P, 0x01);
	out8(P + 1, 0x02);
	assert_int_equal(in8(P), 0x01);
	assert_int_equal(in8(P + 1), 0x02);
	out8(P + 3, 0x03);
	assert_int_equal(in8(P + 1), 0);
}

static void test_loopback(void **state)
{
	out8(P + 4, 0x1a); /* loop, OUT2, RTS: the probe of common drivers */
	assert_int_equal(in8(P + 6) & 0xf0, 0x90);
	in8(P + 6);
	out8(P + 4, 0x1e); /* OUT1: ring */
	assert_int_equal(in8(P + 6), 0xd0);
	out8(P + 4, 0x1a); /* its trailing edge is noted */
	assert_int_equal(in8(P + 6), 0x94);
	out8(P, 'x');
	assert_int_equal(in8(P + 5), 0x61);
	out8(P, 'y'); /* no FIFO: overrun */
	assert_int_equal(in8(P + 5), 0x63);
	assert_int_equal(in8(P + 5), 0x61);
	assert_int_equal(in8(P), 'x');
	fake_advance(10000000);
	assert_int_equal(got_len, 0); /* nothing left the port */
	/* input waits outside */
	assert_int_equal(uart_receive(u, (const uint8_t *)"q", 1), 1);
	assert_int_equal(in8(P + 5), 0x60);
	out8(P + 4, 0x0b);
	assert_int_equal(in8(P + 5), 0x61);
	assert_int_equal(in8(P), 'q');
}

static void test_output_is_batched(void **state)
{
	for (const char *s = "hello\n"; *s; s++)
		out8(P, (uint8_t)*s);
	assert_int_equal(calls, 0);
	fake_advance(1000000);
	assert_int_equal(calls, 1);
	assert_memory_equal(got, "hello\n", 6);
	assert_int_equal(got_len, 6);
	assert_int_equal(fake_advance(1000000000), 0); /* idle port, idle host */
}

static void test_thre_interrupt(void **state)
{
	out8(P + 2, 0x01);
	out8(P + 1, 0x02);
	assert_false(fake.line[4]); /* OUT2 gates */
	out8(P + 4, 0x08);
	assert_true(fake.line[4]);
	assert_int_equal(in8(P + 2), 0xc2);
	assert_false(fake.line[4]); /* reading IIR takes it back */
	assert_int_equal(in8(P + 2), 0xc1);
	out8(P + 1, 0);
	out8(P + 1, 0x02); /* enabling again asks again */
	assert_true(fake.line[4]);
	in8(P + 2);
	out8(P, 'a');
	assert_true(fake.line[4]);
	out8(P + 4, 0);
	assert_false(fake.line[4]);
}

static void test_slow_host(void **state)
{
	unsigned n = 0;

	room = 100;
	out8(P + 2, 0x01);
	while (in8(P + 5) & 0x20 && n < 100000) {
		for (unsigned i = 0; i < 16; i++)
			out8(P, (uint8_t)n++);
	}
	assert_true(n >= 4096 && n < sizeof(got)); /* bounded */
	out8(P + 4, 0x08);
	out8(P + 1, 0x02);
	assert_false(fake.line[4]); /* transmitter is busy */
	fake_advance(1000000);
	assert_int_equal(got_len, 100);
	assert_true(in8(P + 5) & 0x20);
	assert_true(fake.line[4]); /* and told */
	room = sizeof(got) - got_len;
	fake_advance(100000000);
	assert_int_equal(got_len, n); /* nothing was lost */
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(got[i], (uint8_t)i);
}

static void test_input(void **state)
{
	uint8_t bytes[2000];
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	out8(P + 2, 0x81); /* trigger 8 */
	out8(P + 4, 0x08);
	out8(P + 1, 0x01);
	assert_int_equal(uart_receive(u, bytes, 3), 3);
	assert_true(fake.line[4]);
	assert_int_equal(in8(P + 2), 0xcc); /* below the trigger: timeout */
	assert_int_equal(uart_receive(u, bytes + 3, 9), 9);
	assert_int_equal(in8(P + 2), 0xc4);
	n = 12;
	while (uart_can_receive(u)) {
		size_t took = uart_receive(u, bytes + n, sizeof(bytes) - n);

		assert_true(took > 0);
		n += took;
	}
	assert_true(n < sizeof(bytes));
	fake_advance(1000000);
	assert_int_equal(ready_calls, 0);
	for (unsigned i = 0; i < n; i++) {
		assert_true(in8(P + 5) & 1);
		assert_int_equal(in8(P), bytes[i]);
	}
	assert_int_equal(in8(P + 5) & 3, 0); /* no overrun */
	assert_false(fake.line[4]);
	fake_advance(1000000);
	assert_int_equal(ready_calls, 1);
	/* clearing the FIFO */
	uart_receive(u, bytes, 4);
	out8(P + 2, 0x83);
	assert_int_equal(in8(P + 5) & 1, 0);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	out8(P + 2, 0x01);
	out8(P + 4, 0x08);
	out8(P + 1, 0x01);
	uart_receive(u, (const uint8_t *)"abcdefghijklmnopqrstuvwxyz", 26);
	out8(P, 'o');
	out8(P, 'k');
	snap_writer_init(&w);
	uart_save(u, &w);
	fake_advance(1000000);
	uart_reset(u);
	got_len = 0;
	assert_false(fake.line[4]);
	assert_int_equal(in8(P + 1), 0);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(uart_load(u, &r, &err), 0);
	assert_true(fake.line[4]);
	for (char c = 'a'; c <= 'z'; c++)
		assert_int_equal(in8(P), c);
	fake_advance(1000000);
	assert_int_equal(got_len, 2);
	assert_memory_equal(got, "ok", 2);
	for (size_t cut = 0; cut < w.len; cut++) {
		snap_reader_init(&r, w.data, cut);
		assert_int_equal(uart_load(u, &r, &err), -EBADMSG);
	}
	assert_int_equal(in8(P + 5) & 1, 0);
	assert_int_equal(w.data[24], 16); /* more in the FIFO than it holds */
	w.data[24] = 17;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(uart_load(u, &r, &err), -EBADMSG);
	snap_writer_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_probe),		T(test_loopback),  T(test_output_is_batched),
		T(test_thre_interrupt), T(test_slow_host), T(test_input),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
