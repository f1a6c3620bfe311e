/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio entropy device (virtio 1.2, 5.4): buffers are filled from the host
 * kernel's generator, at once, on the thread that notifies. A buffer gets at
 * most FILL_MAX bytes, so that no notification takes long.
 */
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "base/util.h"
#include "virtio/virtio.h"

#define PCI_CLASS_OTHER 0x00ff00
#define FILL_MAX KIB(4)

struct rng {
	struct virtio_dev dev;
	struct virtq_chain chain; /* under the queue's lock */
};

static uint32_t fill(const struct virtq_chain *chain)
{
	uint8_t bytes[FILL_MAX];
	ssize_t got;

	do
		/* sandbox: loop vcpu: getrandom */
		got = getrandom(bytes, min_u64(chain->in_len, sizeof(bytes)), 0);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		return 0;
	return (uint32_t)iov_copy_to(chain->iov + chain->out_count, chain->in_count, 0, bytes,
				     (size_t)got);
}

static void rng_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct rng *rng = container_of(dev, struct rng, dev);
	unsigned taken = 0;

	do {
		virtq_kick_disable(vq);
		while (virtq_pop(vq, &rng->chain) > 0) {
			virtq_push(vq, &rng->chain, fill(&rng->chain));
			if (++taken == VIRTQ_MAX_SIZE) {
				virtio_resume_soon(dev);
				virtq_signal(vq);
				return;
			}
		}
	} while (virtq_kick_enable(vq));
	virtq_signal(vq);
}

static void rng_free(struct virtio_dev *dev)
{
	virtio_dev_done(dev);
	free(container_of(dev, struct rng, dev));
}

static const struct virtio_dev_ops rng_ops = {
	.name = "virtio-rng",
	.device_id = VIRTIO_ID_RNG,
	.class_code = PCI_CLASS_OTHER,
	.notify = rng_notify,
	.free = rng_free,
};

int virtio_rng_new(const struct virtio_env *env, unsigned slot, struct virtio_dev **ret_dev,
		   struct err *err)
{
	struct rng *rng = calloc(1, sizeof(*rng));
	int ret;

	if (!rng)
		return err_set(err, ENOMEM, "virtio-rng: out of memory");
	ret = virtio_dev_init(&rng->dev, &rng_ops, env, slot, 0, 1, 0, err);
	if (ret < 0)
		free(rng);
	else
		*ret_dev = &rng->dev;
	return ret;
}
