/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A serial port.
 *
 * The line is infinitely fast: a byte written is sent at once, and received
 * bytes below the FIFO's trigger level count as timed out at once. Output
 * gathers in a bounded buffer that the loop thread hands to the backend, so a
 * vCPU never waits for the host; when the buffer is nearly full, the
 * transmitter stays busy (THRE clear) until the backend took some. Input
 * waits in a queue of its own, so nothing overruns.
 *
 * Invariants
 * 1. out_head - out_tail and in_head - in_tail are fill levels; the indices
 *    run freely, buffer sizes are powers of two.
 * 2. The loop thread alone advances out_tail, so it may hand the buffer's
 *    content to the backend without the lock.
 * 3. The interrupt line is update_irq()'s function of the registers.
 *
 * Line settings (divisor, parity, word length) are stored and have no effect.
 */
#include "hw/uart.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/util.h"

#define UART_PORTS 8
#define FIFO_SIZE 16
#define OUT_SIZE 16384u
#define IN_SIZE 1024u
#define GATHER_NS 300000 /* how long output gathers */
#define RETRY_NS 5000000 /* how soon a backend that took too little is asked again */

#define IER_RX 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02

#define LCR_DLAB 0x80

#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_BITS 0x1f

#define LSR_DATA 0x01
#define LSR_OVERRUN 0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

#define SNAP_NAME "uart"
#define SNAP_VERSION 1

struct uart {
	pthread_mutex_t lock;
	uint8_t ier, lcr, mcr, scratch, fcr;
	uint8_t msr; /* delta bits in the lower half */
	uint16_t divisor;
	bool overrun;
	bool thre_pending; /* the transmitter-empty interrupt waits to be seen */
	bool tx_held;	   /* the guest saw, or would see, a busy transmitter */
	bool rx_refused;   /* the backend was told there is no room */
	bool irq_level;
	uint8_t fifo[FIFO_SIZE];
	unsigned fifo_count;
	uint8_t in[IN_SIZE], out[OUT_SIZE];
	uint32_t in_head, in_tail, out_head, out_tail;
	bool flush_armed;

	struct bus *pio;
	uint16_t port;
	unsigned gsi;
	const struct irq_sink *irq;
	const struct hw_clock *clock;
	const struct uart_backend *backend;
	void *out_timer, *in_timer;
};

static unsigned fifo_depth(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned fifo_trigger(const struct uart *u)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

static uint32_t out_room(const struct uart *u)
{
	return OUT_SIZE - (u->out_head - u->out_tail);
}

static bool tx_ready(const struct uart *u)
{
	return u->mcr & MCR_LOOP || out_room(u) >= FIFO_SIZE;
}

/* Interrupt identification, by priority; 1: none */
static uint8_t identify(const struct uart *u)
{
	if (u->ier & IER_LINE && u->overrun)
		return 0x6;
	if (u->ier & IER_RX && u->fifo_count)
		return u->fifo_count >= fifo_trigger(u) ? 0x4 : 0xc;
	if (u->ier & IER_THRE && u->thre_pending)
		return 0x2;
	if (u->ier & IER_MODEM && u->msr & 0xf)
		return 0x0;
	return 0x1;
}

static void update_irq(struct uart *u)
{
	bool level = u->mcr & MCR_OUT2 && identify(u) != 1;

	if (level == u->irq_level)
		return;
	u->irq_level = level;
	irq_line(u->irq, u->gsi, level);
}

/* Move waiting input into the receiver; not while it is looped back */
static void fill_fifo(struct uart *u)
{
	if (u->mcr & MCR_LOOP)
		return;
	while (u->fifo_count < fifo_depth(u) && u->in_head != u->in_tail)
		u->fifo[u->fifo_count++] = u->in[u->in_tail++ % IN_SIZE];
	if (u->rx_refused && u->in_head - u->in_tail <= IN_SIZE / 2) {
		u->rx_refused = false;
		u->clock->timer_arm(u->in_timer, u->clock->now_ns(u->clock->opaque));
	}
}

static void update_modem(struct uart *u)
{
	uint8_t old = u->msr, lines = MSR_CTS | MSR_DSR | MSR_DCD;

	if (u->mcr & MCR_LOOP)
		lines = (u->mcr & 0x01 ? MSR_DSR : 0) | (u->mcr & 0x02 ? MSR_CTS : 0) |
			(u->mcr & 0x04 ? MSR_RI : 0) | (u->mcr & 0x08 ? MSR_DCD : 0);
	u->msr = lines | (old & 0xf) | ((old ^ lines) >> 4 & 0xb);
	if (old & MSR_RI && !(lines & MSR_RI)) /* only the ring's trailing edge counts */
		u->msr |= 0x4;
}

static void transmit(struct uart *u, uint8_t byte)
{
	u->thre_pending = false;
	if (u->mcr & MCR_LOOP) {
		if (u->fifo_count < fifo_depth(u))
			u->fifo[u->fifo_count++] = byte;
		else
			u->overrun = true;
	} else if (out_room(u)) {
		u->out[u->out_head++ % OUT_SIZE] = byte;
		if (!u->flush_armed) {
			u->flush_armed = true;
			u->clock->timer_arm(u->out_timer,
					    u->clock->now_ns(u->clock->opaque) + GATHER_NS);
		}
	} /* else: written against a busy transmitter; lost as on the real line */
	if (tx_ready(u))
		u->thre_pending = true;
	else
		u->tx_held = true;
}

static void release_transmitter(struct uart *u)
{
	if (!u->tx_held || !tx_ready(u))
		return;
	u->tx_held = false;
	u->thre_pending = true;
}

static uint8_t receive(struct uart *u)
{
	uint8_t byte;

	if (!u->fifo_count)
		return 0;
	byte = u->fifo[0];
	u->fifo_count--;
	memmove(u->fifo, u->fifo + 1, u->fifo_count);
	fill_fifo(u);
	return byte;
}

static void write_fcr(struct uart *u, uint8_t val)
{
	if ((val ^ u->fcr) & FCR_ENABLE || val & FCR_CLEAR_RX)
		u->fifo_count = 0;
	u->fcr = val & FCR_ENABLE ? val & 0xc1 : 0;
	fill_fifo(u);
}

static uint8_t read_reg(struct uart *u, unsigned reg)
{
	uint8_t val;

	switch (reg) {
	case 0:
		return u->lcr & LCR_DLAB ? (uint8_t)u->divisor : receive(u);
	case 1:
		return u->lcr & LCR_DLAB ? u->divisor >> 8 : u->ier;
	case 2:
		val = identify(u);
		if (val == 0x2)
			u->thre_pending = false;
		return val | (u->fcr & FCR_ENABLE ? 0xc0 : 0);
	case 3:
		return u->lcr;
	case 4:
		return u->mcr;
	case 5:
		val = (u->fifo_count ? LSR_DATA : 0) | (u->overrun ? LSR_OVERRUN : 0);
		if (tx_ready(u))
			val |= LSR_THRE | LSR_TEMT;
		else
			u->tx_held = true;
		u->overrun = false;
		return val;
	case 6:
		val = u->msr;
		u->msr &= 0xf0;
		return val;
	default:
		return u->scratch;
	}
}

static void write_reg(struct uart *u, unsigned reg, uint8_t val)
{
	switch (reg) {
	case 0:
		if (u->lcr & LCR_DLAB)
			u->divisor = (u->divisor & 0xff00) | val;
		else
			transmit(u, val);
		break;
	case 1:
		if (u->lcr & LCR_DLAB) {
			u->divisor = (uint16_t)((u->divisor & 0xff) | val << 8);
			break;
		}
		if (val & IER_THRE && !(u->ier & IER_THRE)) {
			if (tx_ready(u))
				u->thre_pending = true;
			else
				u->tx_held = true;
		}
		u->ier = val & 0xf;
		break;
	case 2:
		write_fcr(u, val);
		break;
	case 3:
		u->lcr = val;
		break;
	case 4:
		u->mcr = val & MCR_BITS;
		update_modem(u);
		fill_fifo(u);
		release_transmitter(u);
		break;
	case 7:
		u->scratch = val;
		break;
	}
}

/* Wider accesses reach consecutive registers, as on an 8-bit bus. */
static uint64_t uart_read(void *dev, uint64_t off, unsigned size)
{
	struct uart *u = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < size; i++)
		val |= (uint64_t)read_reg(u, (off + i) & 7) << (8 * i);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	return val;
}

static void uart_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct uart *u = dev;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < size; i++)
		write_reg(u, (off + i) & 7, (uint8_t)(val >> (8 * i)));
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

static const struct bus_ops uart_bus_ops = { uart_read, uart_write };

size_t uart_can_receive(struct uart *u)
{
	size_t room;

	pthread_mutex_lock(&u->lock);
	room = IN_SIZE - (u->in_head - u->in_tail);
	if (!room)
		u->rx_refused = true;
	pthread_mutex_unlock(&u->lock);
	return room;
}

size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&u->lock);
	while (n < len && u->in_head - u->in_tail < IN_SIZE)
		u->in[u->in_head++ % IN_SIZE] = bytes[n++];
	if (n < len)
		u->rx_refused = true;
	fill_fifo(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	return n;
}

size_t uart_flush(struct uart *u)
{
	uint32_t left;

	pthread_mutex_lock(&u->lock);
	u->flush_armed = false;
	while ((left = u->out_head - u->out_tail)) {
		uint32_t at = u->out_tail % OUT_SIZE;
		size_t len = min_u64(left, OUT_SIZE - at), taken;

		pthread_mutex_unlock(&u->lock);
		taken = u->backend->output(u->backend->opaque, u->out + at, len);
		pthread_mutex_lock(&u->lock);
		u->out_tail += (uint32_t)min_u64(taken, len);
		if (taken < len)
			break;
	}
	left = u->out_head - u->out_tail;
	if (left && !u->flush_armed) {
		u->flush_armed = true;
		u->clock->timer_arm(u->out_timer, u->clock->now_ns(u->clock->opaque) + RETRY_NS);
	}
	release_transmitter(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	return left;
}

static void out_timer_fn(void *arg)
{
	uart_flush(arg);
}

static void in_timer_fn(void *arg)
{
	struct uart *u = arg;

	if (u->backend->input_ready)
		u->backend->input_ready(u->backend->opaque);
}

/* Power-on registers; bytes on their way in either direction stay */
static void reset_regs(struct uart *u)
{
	u->ier = u->lcr = u->mcr = u->scratch = u->fcr = 0;
	u->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	u->divisor = 12; /* 9600 baud */
	u->overrun = u->thre_pending = u->tx_held = false;
	u->fifo_count = 0;
}

void uart_reset(struct uart *u)
{
	pthread_mutex_lock(&u->lock);
	reset_regs(u);
	fill_fifo(u); /* nobody else would: the other end waits for room */
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

int uart_new(struct bus *pio, uint16_t port, const struct irq_sink *irq, unsigned gsi,
	     const struct hw_clock *clock, const struct uart_backend *backend,
	     struct uart **ret_uart, struct err *err)
{
	struct uart *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return err_set(err, ENOMEM, "serial port 0x%x: out of memory", port);
	pthread_mutex_init(&u->lock, NULL);
	u->pio = pio;
	u->port = port;
	u->irq = irq;
	u->gsi = gsi;
	u->clock = clock;
	u->backend = backend;
	reset_regs(u);
	ret = clock->timer_new(clock->opaque, out_timer_fn, u, &u->out_timer);
	if (!ret)
		ret = clock->timer_new(clock->opaque, in_timer_fn, u, &u->in_timer);
	if (!ret)
		ret = bus_add(pio, port, UART_PORTS, &uart_bus_ops, u);
	if (ret < 0) {
		clock->timer_free(u->in_timer);
		clock->timer_free(u->out_timer);
		pthread_mutex_destroy(&u->lock);
		free(u);
		return err_set(err, -ret, "serial port 0x%x: %s", port, strerror(-ret));
	}
	*ret_uart = u;
	return 0;
}

void uart_free(struct uart *u)
{
	if (!u)
		return;
	bus_del(u->pio, u->port, u);
	u->clock->timer_free(u->in_timer);
	u->clock->timer_free(u->out_timer);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

void uart_save(struct uart *u, struct snap_writer *w)
{
	pthread_mutex_lock(&u->lock);
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u16(w, u->port);
	snap_put_u8(w, u->ier);
	snap_put_u8(w, u->lcr);
	snap_put_u8(w, u->mcr);
	snap_put_u8(w, u->scratch);
	snap_put_u8(w, u->fcr);
	snap_put_u8(w, u->msr);
	snap_put_u16(w, u->divisor);
	snap_put_u8(w, (uint8_t)(u->overrun | u->thre_pending << 1 | u->tx_held << 2));
	snap_put_u8(w, (uint8_t)u->fifo_count);
	snap_put_bytes(w, u->fifo, FIFO_SIZE);
	snap_put_u32(w, u->in_head - u->in_tail);
	for (uint32_t i = u->in_tail; i != u->in_head; i++)
		snap_put_u8(w, u->in[i % IN_SIZE]);
	snap_put_u32(w, u->out_head - u->out_tail);
	for (uint32_t i = u->out_tail; i != u->out_head; i++)
		snap_put_u8(w, u->out[i % OUT_SIZE]);
	snap_close(w);
	pthread_mutex_unlock(&u->lock);
}

int uart_load(struct uart *u, struct snap_reader *r, struct err *err)
{
	uint32_t version, in_count, out_count;
	uint8_t flags;
	uint16_t port;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&u->lock);
	port = snap_get_u16(r);
	u->ier = snap_get_u8(r) & 0xf;
	u->lcr = snap_get_u8(r);
	u->mcr = snap_get_u8(r) & MCR_BITS;
	u->scratch = snap_get_u8(r);
	u->fcr = snap_get_u8(r) & 0xc1;
	u->msr = snap_get_u8(r);
	u->divisor = snap_get_u16(r);
	flags = snap_get_u8(r);
	u->overrun = flags & 1;
	u->thre_pending = flags & 2;
	u->tx_held = flags & 4;
	u->fifo_count = snap_get_u8(r);
	snap_get_bytes(r, u->fifo, FIFO_SIZE);
	u->in_head = u->in_tail = u->out_head = u->out_tail = 0;
	in_count = snap_get_u32(r);
	for (uint32_t i = 0; i < in_count && i < IN_SIZE; i++)
		u->in[u->in_head++] = snap_get_u8(r);
	out_count = snap_get_u32(r);
	for (uint32_t i = 0; i < out_count && i < OUT_SIZE; i++)
		u->out[u->out_head++] = snap_get_u8(r);
	ret = snap_end(r, err);
	if (!ret && (port != u->port || u->fifo_count > fifo_depth(u) || in_count > IN_SIZE ||
		     out_count > OUT_SIZE))
		ret = err_set(err, EBADMSG, "serial port 0x%x: saved state is not valid", u->port);
	if (ret < 0) {
		u->in_head = u->out_head = 0;
		reset_regs(u);
	}
	u->rx_refused = false;
	u->flush_armed = u->out_head != 0;
	if (u->flush_armed)
		u->clock->timer_arm(u->out_timer, u->clock->now_ns(u->clock->opaque));
	/* The interrupt controller restores its own view of the line; state it once more all the
	 * same. */
	u->irq_level = u->mcr & MCR_OUT2 && identify(u) != 1;
	irq_line(u->irq, u->gsi, u->irq_level);
	pthread_mutex_unlock(&u->lock);
	return ret;
}
