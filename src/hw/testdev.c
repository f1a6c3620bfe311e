/* SPDX-License-Identifier: Apache-2.0 */
/* Three ranges and one lock. Lines are set with the lock dropped: see testdev.h. */
#include "hw/testdev.h"

#include <pthread.h>

#include "base/util.h"
#include "hw/platform.h"

#define KEEP_SIZE 4
#define LINES 24
#define MEMORY_SIZE 0x10000u

struct testdev {
	pthread_mutex_t lock; /* all below but the pointers */
	uint32_t kept;
	uint32_t lines; /* levels, a bit each */
	uint8_t memory[MEMORY_SIZE];
	struct bus *pio, *mmio;
	const struct irq_sink *irq;
};

static uint64_t keep_read(void *dev, uint64_t off, unsigned size)
{
	struct testdev *t = dev;

	return (uint64_t)__atomic_load_n(&t->kept, __ATOMIC_RELAXED) >> off * 8;
}

static void keep_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct testdev *t = dev;
	uint32_t mask = (uint32_t)(((1ull << size * 8) - 1) << off * 8);

	pthread_mutex_lock(&t->lock);
	t->kept = (t->kept & ~mask) | ((uint32_t)(val << off * 8) & mask);
	pthread_mutex_unlock(&t->lock);
}

static uint64_t line_read(void *dev, uint64_t off, unsigned size)
{
	struct testdev *t = dev;

	return __atomic_load_n(&t->lines, __ATOMIC_RELAXED) >> off & 1;
}

/* The ISA timer's line is wired to another pin. */
static void set_line(struct testdev *t, unsigned line, bool level)
{
	irq_line(t->irq, line ? line : GSI_PIT, level);
}

static void line_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct testdev *t = dev;
	uint32_t bit = 1u << off;

	pthread_mutex_lock(&t->lock);
	__atomic_store_n(&t->lines, val ? t->lines | bit : t->lines & ~bit, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&t->lock);
	set_line(t, (unsigned)off, val != 0);
}

static uint64_t memory_read(void *dev, uint64_t off, unsigned size)
{
	struct testdev *t = dev;
	uint64_t val = 0;

	pthread_mutex_lock(&t->lock);
	memcpy(&val, t->memory + off, size);
	pthread_mutex_unlock(&t->lock);
	return val;
}

static void memory_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct testdev *t = dev;

	pthread_mutex_lock(&t->lock);
	memcpy(t->memory + off, &val, size);
	pthread_mutex_unlock(&t->lock);
}

static const struct bus_ops keep_ops = { keep_read, keep_write };
static const struct bus_ops line_ops = { line_read, line_write };
static const struct bus_ops memory_ops = { memory_read, memory_write };

int testdev_new(struct bus *pio, struct bus *mmio, const struct irq_sink *irq,
		struct testdev **ret_dev, struct err *err)
{
	struct testdev *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return err_set(err, ENOMEM, "test device: out of memory");
	pthread_mutex_init(&t->lock, NULL);
	t->pio = pio;
	t->mmio = mmio;
	t->irq = irq;
	ret = bus_add(pio, PORT_TEST_KEEP, KEEP_SIZE, &keep_ops, t);
	if (!ret)
		ret = bus_add(pio, PORT_TEST_LINES, LINES, &line_ops, t);
	if (!ret)
		ret = bus_add(mmio, MMIO_TEST_MEMORY, MEMORY_SIZE, &memory_ops, t);
	if (ret < 0) {
		testdev_free(t);
		return err_set(err, -ret, "test device: %s", strerror(-ret));
	}
	*ret_dev = t;
	return 0;
}

void testdev_free(struct testdev *t)
{
	if (!t)
		return;
	bus_del(t->pio, PORT_TEST_KEEP, t);
	bus_del(t->pio, PORT_TEST_LINES, t);
	bus_del(t->mmio, MMIO_TEST_MEMORY, t);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

void testdev_reset(struct testdev *t)
{
	uint32_t lines;

	pthread_mutex_lock(&t->lock);
	lines = t->lines;
	__atomic_store_n(&t->lines, 0, __ATOMIC_RELAXED);
	t->kept = 0;
	memset(t->memory, 0, sizeof(t->memory));
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < LINES; i++) {
		if (lines >> i & 1)
			set_line(t, i, false);
	}
}

#define SNAP_NAME "testdev"
#define SNAP_VERSION 1

void testdev_save(struct testdev *t, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u32(w, t->kept);
	snap_put_u32(w, t->lines);
	snap_put_bytes(w, t->memory, sizeof(t->memory));
	snap_close(w);
}

/* The levels of the lines come back with the interrupt controllers. */
int testdev_load(struct testdev *t, struct snap_reader *r, struct err *err)
{
	uint8_t *memory = malloc(MEMORY_SIZE);
	uint32_t version, kept, lines;
	int ret;

	if (!memory)
		return err_set(err, ENOMEM, "test device: out of memory");
	ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);
	if (ret < 0)
		goto out;
	kept = snap_get_u32(r);
	lines = snap_get_u32(r) & ((1u << LINES) - 1);
	snap_get_bytes(r, memory, MEMORY_SIZE);
	ret = snap_end(r, err);
	if (ret < 0)
		goto out;
	pthread_mutex_lock(&t->lock);
	t->kept = kept;
	t->lines = lines;
	memcpy(t->memory, memory, MEMORY_SIZE);
	pthread_mutex_unlock(&t->lock);
out:
	free(memory);
	return ret;
}
