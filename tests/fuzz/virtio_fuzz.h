/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio device of a kind the input chooses, for the fuzzers of queues and transport. */
#ifndef EYOT_TESTS_VIRTIO_FUZZ_H
#define EYOT_TESTS_VIRTIO_FUZZ_H

#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>

#include "../unit/virtio_driver.h"
#include "disk/disk.h"
#include "fuzz.h"

#define IMAGE_SIZE KIB(64)

struct target {
	struct machine m;
	struct disk *disk;
	struct virtio_dev *dev;
	struct virtio_console_backend backend;
	struct driver d;
	int image;
	unsigned kind;
};

static inline size_t target_output(void *opaque, const uint8_t *bytes, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++) /* all must be readable */
		sum += bytes[i];
	return sum & 1 ? len : len / 2;
}

static inline void target_plug(struct target *t)
{
	struct virtio_env env = machine_env(&t->m);
	struct disk_options opt = { .readonly = t->kind == 3, .snapshot = t->kind == 4 };
	char path[64];
	int ret;

	t->backend = (struct virtio_console_backend) { target_output, NULL, t };
	switch (t->kind) {
	case 0:
		ret = virtio_rng_new(&env, DRV_SLOT, &t->dev, NULL);
		break;
	case 1:
		ret = virtio_console_new(&env, DRV_SLOT, &t->backend, &t->dev, NULL);
		break;
	default:
		t->image = memfd_create("image", MFD_CLOEXEC);
		assert(t->image >= 0 && !ftruncate(t->image, IMAGE_SIZE));
		snprintf(path, sizeof(path), "/proc/self/fd/%d", t->image);
		ret = disk_open(t->m.loop, path, &opt, &t->disk, NULL);
		assert(!ret);
		ret = virtio_blk_new(&env, DRV_SLOT, t->disk, "fuzz", 2, &t->dev, NULL);
		break;
	}
	assert(!ret);
	drv_probe(&t->d, &t->m, DRV_SLOT);
}

static inline void target_init(struct target *t, unsigned kind)
{
	memset(t, 0, sizeof(*t));
	t->image = -1;
	t->kind = kind % 5;
	machine_init(&t->m);
	target_plug(t);
}

/* All that is in flight ends; nothing of it is left out. */
static inline void target_drain(struct target *t)
{
	virtio_dev_quiesce(t->dev);
	for (unsigned i = 0; i < t->dev->queue_count; i++)
		assert(t->dev->queues[i].inflight == 0);
}

static inline void target_done(struct target *t)
{
	virtio_dev_reset(t->dev);
	assert(atomic_load(&t->dev->status) == 0);
	virtio_dev_free(t->dev);
	disk_close(t->disk);
	if (t->image >= 0)
		close(t->image);
	machine_done(&t->m);
}

#endif
