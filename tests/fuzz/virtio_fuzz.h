/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio device of a kind the input chooses, for the fuzzers of queues and transport. */
#ifndef EYOT_TESTS_VIRTIO_FUZZ_H
#define EYOT_TESTS_VIRTIO_FUZZ_H

#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "virtio_steps.h"

#define IMAGE_SIZE KIB(64)
#define FUZZ_CID 42

enum target_kind {
	TARGET_RNG,
	TARGET_CONSOLE,
	TARGET_BLK,
	TARGET_BLK_READONLY,
	TARGET_BLK_SNAPSHOT,
	TARGET_VSOCK,
	TARGET_BALLOON,
	TARGET_FS,
	TARGET_KINDS,
};

struct target {
	struct machine m;
	struct disk *disk;
	struct virtio_dev *dev;
	struct virtio_console_backend backend;
	struct driver d;
	int image;
	unsigned kind;
	char path[64]; /* of what the device has in the file system */
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
	struct disk_options opt = { .readonly = t->kind == TARGET_BLK_READONLY,
				    .snapshot = t->kind == TARGET_BLK_SNAPSHOT };
	char path[64];
	int ret;

	t->backend = (struct virtio_console_backend) { target_output, NULL, t };
	switch (t->kind) {
	case TARGET_RNG:
		ret = virtio_rng_new(&env, DRV_SLOT, &t->dev, NULL);
		break;
	case TARGET_CONSOLE:
		ret = virtio_console_new(&env, DRV_SLOT, &t->backend, &t->dev, NULL);
		break;
	case TARGET_VSOCK:
		snprintf(t->path, sizeof(t->path), "/tmp/eyot-fuzz-vsock-%d", getpid());
		ret = virtio_vsock_new(&env, DRV_SLOT, FUZZ_CID, t->path, &t->dev, NULL);
		break;
	case TARGET_BALLOON:
		ret = virtio_balloon_new(&env, DRV_SLOT, DRV_RAM / 2, &t->dev, NULL);
		break;
	case TARGET_FS:
		snprintf(t->path, sizeof(t->path), "/tmp/eyot-fuzz-fs-%d", getpid());
		mkdir(t->path, 0755);
		ret = virtio_fs_new(&env, DRV_SLOT, "fuzz", t->path, false, &t->dev, NULL);
		if (!ret)
			ret = virtio_fs_start(t->dev, NULL);
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
	t->kind = kind % TARGET_KINDS;
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

/* Have the driver and its queues run, unless they do. */
static inline void target_start(struct target *t, uint64_t features, uint16_t size)
{
	if (drv_status(&t->d) & VIRTIO_CONFIG_S_DRIVER_OK &&
	    !(drv_status(&t->d) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	step_start(&t->d, features, size);
}

static inline void target_done(struct target *t)
{
	virtio_dev_reset(t->dev);
	assert(atomic_load(&t->dev->status) == 0);
	virtio_dev_free(t->dev);
	disk_close(t->disk);
	if (t->image >= 0)
		close(t->image);
	if (t->kind == TARGET_FS) {
		char command[96];

		snprintf(command, sizeof(command), "rm -rf %s", t->path);
		assert(system(command) == 0);
	}
	machine_done(&t->m);
}

#endif
