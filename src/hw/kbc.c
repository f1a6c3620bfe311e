/* SPDX-License-Identifier: Apache-2.0 */
/* The resetting half of a keyboard controller; see kbc.h. */
#include "hw/kbc.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/util.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_IDLE 0x1c /* system flag, last write was a command, not inhibited */
#define CMD_READ_OUTPUT 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_PULSE 0xf0 /* lower half: output lines that stay high */
#define OUTPUT_NO_RESET 0x01
#define OUTPUT_A20 0x02

struct kbc {
	pthread_mutex_t lock;
	bool output_full;	/* the output port's value waits at 0x60 */
	bool expect_output;	/* the next byte at 0x60 goes to the output port */
	uint8_t system_control; /* port 0x92 */
	struct bus *pio;
	const struct platform_ops *platform;
};

static void request_reset(struct kbc *k)
{
	if (k->platform && k->platform->reset)
		k->platform->reset(k->platform->opaque);
}

static uint64_t data_read(void *dev, uint64_t off, unsigned size)
{
	struct kbc *k = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&k->lock);
	if (k->output_full)
		val = OUTPUT_NO_RESET | OUTPUT_A20;
	k->output_full = false;
	pthread_mutex_unlock(&k->lock);
	return val;
}

static void data_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct kbc *k = dev;
	bool reset;

	pthread_mutex_lock(&k->lock);
	reset = k->expect_output && !(val & OUTPUT_NO_RESET);
	k->expect_output = false;
	pthread_mutex_unlock(&k->lock);
	if (reset)
		request_reset(k);
}

static uint64_t status_read(void *dev, uint64_t off, unsigned size)
{
	struct kbc *k = dev;
	uint64_t val;

	pthread_mutex_lock(&k->lock);
	val = STATUS_IDLE | (k->output_full ? STATUS_OUTPUT_FULL : 0);
	pthread_mutex_unlock(&k->lock);
	return val;
}

static void command_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct kbc *k = dev;
	uint8_t cmd = (uint8_t)val;

	pthread_mutex_lock(&k->lock);
	k->expect_output = cmd == CMD_WRITE_OUTPUT;
	if (cmd == CMD_READ_OUTPUT)
		k->output_full = true;
	pthread_mutex_unlock(&k->lock);
	if (cmd >= CMD_PULSE && !(cmd & OUTPUT_NO_RESET))
		request_reset(k);
}

static uint64_t control_read(void *dev, uint64_t off, unsigned size)
{
	struct kbc *k = dev;

	return __atomic_load_n(&k->system_control, __ATOMIC_RELAXED) | OUTPUT_A20;
}

static void control_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct kbc *k = dev;
	uint8_t old = __atomic_exchange_n(&k->system_control, val & 1, __ATOMIC_RELAXED);

	if (val & 1 && !old)
		request_reset(k);
}

static const struct bus_ops data_ops = { data_read, data_write };
static const struct bus_ops command_ops = { status_read, command_write };
static const struct bus_ops control_ops = { control_read, control_write };

void kbc_reset(struct kbc *k)
{
	pthread_mutex_lock(&k->lock);
	k->output_full = k->expect_output = false;
	__atomic_store_n(&k->system_control, 0, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&k->lock);
}

int kbc_new(struct bus *pio, const struct platform_ops *platform, struct kbc **ret_kbc,
	    struct err *err)
{
	struct kbc *k = calloc(1, sizeof(*k));
	int ret;

	if (!k)
		return err_set(err, ENOMEM, "keyboard controller: out of memory");
	pthread_mutex_init(&k->lock, NULL);
	k->pio = pio;
	k->platform = platform;
	ret = bus_add(pio, PORT_KBC_DATA, 1, &data_ops, k);
	if (!ret)
		ret = bus_add(pio, PORT_KBC_COMMAND, 1, &command_ops, k);
	if (!ret)
		ret = bus_add(pio, PORT_SYSTEM_CONTROL, 1, &control_ops, k);
	if (ret < 0) {
		kbc_free(k);
		return err_set(err, -ret, "keyboard controller: %s", strerror(-ret));
	}
	*ret_kbc = k;
	return 0;
}

void kbc_free(struct kbc *k)
{
	if (!k)
		return;
	bus_del(k->pio, PORT_KBC_DATA, k);
	bus_del(k->pio, PORT_KBC_COMMAND, k);
	bus_del(k->pio, PORT_SYSTEM_CONTROL, k);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

#define SNAP_NAME "kbc"
#define SNAP_VERSION 1

void kbc_save(struct kbc *k, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u8(w, k->output_full);
	snap_put_u8(w, k->expect_output);
	snap_put_u8(w, k->system_control);
	snap_close(w);
}

int kbc_load(struct kbc *k, struct snap_reader *r, struct err *err)
{
	bool output_full, expect_output;
	uint8_t system_control;
	uint32_t version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	output_full = snap_get_u8(r) & 1;
	expect_output = snap_get_u8(r) & 1;
	system_control = snap_get_u8(r) & 1;
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&k->lock);
	k->output_full = output_full;
	k->expect_output = expect_output;
	__atomic_store_n(&k->system_control, system_control, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&k->lock);
	return 0;
}
