/* SPDX-License-Identifier: Apache-2.0 */
/* Serial port: any sequence of register accesses, input, host speed, time, saves and loads. */
#include "fuzz.h"

#include "../unit/hw_fake.h"
#include "hw/uart.h"

static size_t room;

static size_t on_output(void *opaque, const uint8_t *bytes, size_t len)
{
	size_t n = min_u64(len, room);
	volatile uint8_t sum = 0;

	for (size_t i = 0; i < n; i++) /* all of it must be there to read */
		sum = (uint8_t)(sum + bytes[i]);
	room -= n;
	return n;
}

static void on_ready(void *opaque)
{
	assert(uart_can_receive(opaque) > 0);
}

static void load(struct uart *u, const uint8_t *data, size_t len)
{
	struct snap_reader r;
	struct err err;

	snap_reader_init(&r, data, len);
	uart_load(u, &r, &err);
}

static void step(struct uart *u, struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), size = fuzz_size(op >> 6 & 1);
	uint16_t port = PORT_COM1 + (op >> 3 & 7);
	uint8_t bytes[64];
	struct snap_writer w;
	size_t len, can;

	switch (op & 7) {
	case 0:
	case 1:
		bus_write(&fake.pio, port, size, fuzz_take(in, 2));
		break;
	case 2:
		bus_read(&fake.pio, port, size);
		break;
	case 3:
		len = fuzz_take(in, 1) % sizeof(bytes);
		memset(bytes, (int)len, sizeof(bytes));
		can = uart_can_receive(u);
		assert(uart_receive(u, bytes, len) == min_u64(len, can));
		break;
	case 4: /* a long burst of output */
		len = fuzz_take(in, 2);
		while (len--)
			out8(PORT_COM1, (uint8_t)len);
		break;
	case 5:
		room = fuzz_take(in, 2);
		fake_advance_max(fuzz_take(in, 2) * 10000, 2000);
		break;
	case 6:
		snap_writer_init(&w);
		uart_save(u, &w);
		assert(!w.failed);
		if (op & 8)
			w.data[fuzz_take(in, 1) % w.len] = (uint8_t)fuzz_take(in, 1);
		load(u, w.data, w.len);
		snap_writer_done(&w);
		break;
	default:
		if (op & 8) {
			load(u, in->p, in->left);
			in->left = 0;
		} else {
			uart_reset(u);
		}
		break;
	}
	/* a gated interrupt is never asserted */
	if (!(in8(PORT_COM1 + 4) & 8))
		assert(!fake.line[GSI_COM1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct uart_backend backend = { on_output, on_ready, NULL };
	struct fuzz_in in = { data, size };
	struct uart *u;

	fake_init();
	room = 1000;
	assert(
	    !uart_new(&fake.pio, PORT_COM1, &fake.irq, GSI_COM1, &fake.clock, &backend, &u, NULL));
	backend.opaque = u;
	while (in.left)
		step(u, &in);
	/* a host that takes everything empties the port */
	room = SIZE_MAX;
	assert(uart_flush(u) == 0);
	uart_free(u);
	fake_done();
	return 0;
}
