/* SPDX-License-Identifier: Apache-2.0 */
/* 16550A serial port (National PC16550D data sheet). */
#ifndef EYOT_HW_UART_H
#define EYOT_HW_UART_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"
#include "hw/clock.h"
#include "vm/bus.h"
#include "vm/irq.h"

struct uart;

/* The other end of the line; all on the loop thread, no lock held. */
struct uart_backend {
	/*
	 * Bytes from the guest, as many as gathered since the last call. Must not block.
	 * Return: how many were taken; the rest comes again a little later.
	 */
	size_t (*output)(void *opaque, const uint8_t *bytes, size_t len);
	/* There is room again after uart_can_receive() said 0; may be NULL */
	void (*input_ready)(void *opaque);
	void *opaque;
};

/**
 * uart_new() - a serial port at @port on @pio, interrupting through @gsi
 * @irq, @clock, @backend: borrowed, outliving the port
 */
int uart_new(struct bus *pio, uint16_t port, const struct irq_sink *irq, unsigned gsi,
	     const struct hw_clock *clock, const struct uart_backend *backend,
	     struct uart **ret_uart, struct err *err);
void uart_free(struct uart *u); /* loop thread */

/** uart_can_receive() - bytes that uart_receive() would take now; any thread */
size_t uart_can_receive(struct uart *u);

/** uart_receive() - bytes for the guest; any thread. Return: how many were taken */
size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t len);

/** uart_flush() - hand gathered output to the backend now; loop thread. Return: bytes still waiting
 */
size_t uart_flush(struct uart *u);

void uart_reset(struct uart *u);
void uart_save(struct uart *u, struct snap_writer *w);
int uart_load(struct uart *u, struct snap_reader *r, struct err *err);

#endif
