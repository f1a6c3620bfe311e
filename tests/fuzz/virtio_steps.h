/* SPDX-License-Identifier: Apache-2.0 */
/* Steps that fuzzers of virtio devices have in common, whatever else they keep beside a device. */
#ifndef EYOT_TESTS_VIRTIO_STEPS_H
#define EYOT_TESTS_VIRTIO_STEPS_H

#include <assert.h>

#include "../unit/virtio_driver.h"
#include "fuzz.h"

/* Agree on @features and have all queues run, with @size entries each. */
static inline void step_start(struct driver *d, uint64_t features, uint16_t size)
{
	bool ok = drv_negotiate(d, features);

	assert(ok);
	drv_msix(d);
	for (unsigned i = 0; i < d->queue_count; i++)
		drv_queue(d, i, size, true);
	drv_ready(d);
}

/* A few bytes of what was saved change before it is loaded. The driver finds the device anew and
 * keeps its @queue_count queues. */
static inline void step_save_and_load(struct virtio_dev *dev, struct driver *d,
				      unsigned queue_count, struct fuzz_in *in)
{
	struct drv_queue queues[ARRAY_SIZE(d->q)];
	struct snap_writer w;
	struct snap_reader r;

	snap_writer_init(&w);
	virtio_dev_save(dev, &w);
	assert(!w.failed);
	for (unsigned n = (unsigned)fuzz_take(in, 1) & 3; n; n--) {
		size_t at = fuzz_take(in, 2) % w.len;

		w.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	snap_reader_init(&r, w.data, w.len);
	(void)virtio_dev_load(dev, &r, NULL);
	snap_writer_done(&w);
	memcpy(queues, d->q, sizeof(queues));
	drv_probe(d, d->m, d->slot); /* it may have moved */
	memcpy(d->q, queues, sizeof(queues));
	d->queue_count = queue_count;
}

#endif
