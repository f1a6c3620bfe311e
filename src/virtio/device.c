/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all virtio devices share: status, features, reset, interrupts, state.
 *
 * Reset while requests are in flight: the queues stop at once, so nothing is
 * returned to the driver any more, but buffers may still be written. The
 * status register therefore goes on showing its old value until the last
 * chain is back; drivers wait for 0 (virtio 1.2, 4.1.4.3.1, 4.1.4.3.2).
 * Meanwhile the transport ignores writes to the common configuration.
 *
 * Notifications before DRIVER_OK are not lost: setting it looks at all queues.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/util.h"
#include "virtio/virtio.h"

#define SNAP_VERSION 1
#define FEATURES_COMMON                                                                            \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |                        \
	 1ull << VIRTIO_RING_F_EVENT_IDX)

static void notify_locked(struct virtio_dev *dev, struct virtq *vq)
{
	if (vq->running && pci_bus_master(&dev->pci))
		dev->ops->notify(dev, vq);
}

void virtio_queue_notify(struct virtio_dev *dev, unsigned queue)
{
	struct virtq *vq = &dev->queues[queue];

	pthread_mutex_lock(&vq->lock);
	notify_locked(dev, vq);
	pthread_mutex_unlock(&vq->lock);
}

/* ---- doorbells ---- */

static void doorbell_rang(void *arg, uint32_t events)
{
	struct virtq *vq = arg;
	uint64_t count;

	/* sandbox: loop vcpu: read */
	if (read(vq->doorbell_fd, &count, sizeof(count)) == sizeof(count))
		virtio_queue_notify(vq->dev, vq->index);
}

static int add_doorbell(struct virtio_dev *dev, struct virtq *vq)
{
	/* sandbox: loop vcpu: eventfd2 */
	/* sandbox: loop: eventfd2 */
	vq->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vq->doorbell_fd < 0)
		return -errno;
	return loop_fd_add(dev->env.loop, vq->doorbell_fd, EPOLLIN, doorbell_rang, vq,
			   &vq->doorbell);
}

static void remove_doorbell(struct virtq *vq)
{
	loop_fd_del(vq->doorbell);
	if (vq->doorbell_fd >= 0)
		/* sandbox: loop vcpu: close */
		close(vq->doorbell_fd);
}

static void resume_fired(void *arg)
{
	struct virtio_dev *dev = arg;

	for (unsigned i = 0; i < dev->queue_count; i++)
		virtio_queue_notify(dev, i);
}

void virtio_resume_soon(struct virtio_dev *dev)
{
	loop_timer_arm(dev->resume, 1);
}

/* A queue's interrupt (bit VIRTIO_PCI_ISR_QUEUE, 1) or the configuration's. */
static void raise_interrupt(struct virtio_dev *dev, uint16_t vector, uint8_t isr_bit)
{
	if (pci_msix_enabled(&dev->pci)) {
		if (vector != VIRTQ_NO_VECTOR)
			pci_msix_fire(&dev->pci, vector);
		return;
	}
	pthread_mutex_lock(&dev->isr_lock);
	dev->isr |= isr_bit;
	pci_intx_set(&dev->pci, true);
	pthread_mutex_unlock(&dev->isr_lock);
}

void virtio_queue_interrupt(struct virtio_dev *dev, uint16_t vector)
{
	raise_interrupt(dev, vector, 1);
}

uint8_t virtio_isr_take(struct virtio_dev *dev)
{
	uint8_t isr;

	pthread_mutex_lock(&dev->isr_lock);
	isr = dev->isr;
	dev->isr = 0;
	pci_intx_set(&dev->pci, false);
	pthread_mutex_unlock(&dev->isr_lock);
	return isr;
}

void virtio_needs_reset(struct virtio_dev *dev, unsigned queue, const char *why)
{
	unsigned old = atomic_fetch_or(&dev->status, VIRTIO_CONFIG_S_NEEDS_RESET);

	if (old & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	log_debug("%s in slot %u: queue %u needs a reset: %s", dev->ops->name, dev->pci.slot, queue,
		  why);
	if (old & VIRTIO_CONFIG_S_DRIVER_OK)
		raise_interrupt(dev, atomic_load(&dev->config_vector), VIRTIO_PCI_ISR_CONFIG);
}

void virtio_config_changed(struct virtio_dev *dev)
{
	pthread_mutex_lock(&dev->lock);
	dev->config_generation++;
	if (atomic_load(&dev->status) & VIRTIO_CONFIG_S_DRIVER_OK)
		raise_interrupt(dev, atomic_load(&dev->config_vector), VIRTIO_PCI_ISR_CONFIG);
	pthread_mutex_unlock(&dev->lock);
}

static void start_queue(struct virtio_dev *dev, struct virtq *vq)
{
	struct err err;

	pthread_mutex_lock(&vq->lock);
	if (vq->enabled && !vq->running) {
		if (virtq_start(vq, dev->accepted, &err) < 0)
			virtio_needs_reset(dev, vq->index, err.text);
		else
			notify_locked(dev, vq);
	}
	pthread_mutex_unlock(&vq->lock);
}

void virtio_queue_enable(struct virtio_dev *dev, struct virtq *vq)
{
	pthread_mutex_lock(&vq->lock);
	vq->enabled = true;
	pthread_mutex_unlock(&vq->lock);
	if (atomic_load(&dev->status) & VIRTIO_CONFIG_S_DRIVER_OK)
		start_queue(dev, vq);
}

/* Ends the reset if no chain is out. */
static void try_finish_reset(struct virtio_dev *dev)
{
	unsigned inflight = 0;

	for (unsigned i = 0; i < dev->queue_count; i++) {
		pthread_mutex_lock(&dev->queues[i].lock);
		inflight += dev->queues[i].inflight;
		pthread_mutex_unlock(&dev->queues[i].lock);
	}
	if (inflight)
		return;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		pthread_mutex_lock(&dev->queues[i].lock);
		virtq_clear(&dev->queues[i]);
		pthread_mutex_unlock(&dev->queues[i].lock);
	}
	dev->accepted = 0;
	dev->feature_select = dev->driver_feature_select = 0;
	dev->queue_select = 0;
	atomic_store(&dev->config_vector, VIRTQ_NO_VECTOR);
	virtio_isr_take(dev);
	if (dev->ops->reset)
		dev->ops->reset(dev);
	dev->resetting = false;
	atomic_store(&dev->status, 0);
}

void virtio_reset_continue(struct virtio_dev *dev)
{
	pthread_mutex_lock(&dev->lock);
	if (dev->resetting)
		try_finish_reset(dev);
	pthread_mutex_unlock(&dev->lock);
}

static void begin_reset(struct virtio_dev *dev)
{
	dev->resetting = true;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtq *vq = &dev->queues[i];

		pthread_mutex_lock(&vq->lock);
		vq->running = vq->frozen = vq->enabled = false;
		vq->stopping = true;
		pthread_mutex_unlock(&vq->lock);
	}
	try_finish_reset(dev);
}

void virtio_set_feature_word(struct virtio_dev *dev, uint32_t word, uint32_t bits)
{
	if (word > 1 || atomic_load(&dev->status) & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	dev->accepted &= word ? 0xffffffffull : ~0xffffffffull;
	dev->accepted |= (uint64_t)bits << 32 * word;
}

void virtio_set_status(struct virtio_dev *dev, uint8_t status)
{
	unsigned old = atomic_load(&dev->status);

	if (!status) {
		begin_reset(dev);
		return;
	}
	/* Acceptable: nothing that was not offered, and the standard's version. */
	if (status & ~old & VIRTIO_CONFIG_S_FEATURES_OK &&
	    (dev->accepted & ~dev->offered || !virtio_has(dev, VIRTIO_F_VERSION_1)))
		status &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((status | old) & VIRTIO_CONFIG_S_FEATURES_OK))
		status &= ~VIRTIO_CONFIG_S_DRIVER_OK;
	if (status & ~old & VIRTIO_CONFIG_S_FEATURES_OK && dev->ops->features_ok)
		dev->ops->features_ok(dev);
	/* Bits are only ever added; NEEDS_RESET may be set by others at this moment. */
	atomic_fetch_or(&dev->status, status & ~VIRTIO_CONFIG_S_NEEDS_RESET);
	if (status & ~old & VIRTIO_CONFIG_S_DRIVER_OK)
		for (unsigned i = 0; i < dev->queue_count; i++)
			start_queue(dev, &dev->queues[i]);
}

int virtio_dev_init(struct virtio_dev *dev, const struct virtio_dev_ops *ops,
		    const struct virtio_env *env, unsigned slot, uint64_t features,
		    unsigned queue_count, unsigned config_len, struct err *err)
{
	int ret;

	if (!queue_count || queue_count > VIRTIO_MAX_QUEUES)
		return err_set(err, EINVAL, "%s: %u queues, not 1 to %u", ops->name, queue_count,
			       VIRTIO_MAX_QUEUES);
	*dev = (struct virtio_dev) { .ops = ops,
				     .env = *env,
				     .offered = features | FEATURES_COMMON,
				     .queue_count = queue_count,
				     .config_len = config_len };
	atomic_store(&dev->config_vector, VIRTQ_NO_VECTOR);
	dev->queues = calloc(queue_count, sizeof(*dev->queues));
	if (!dev->queues)
		return err_set(err, ENOMEM, "%s: out of memory", ops->name);
	ret = loop_timer_add(env->loop, resume_fired, dev, &dev->resume);
	if (ret < 0) {
		free(dev->queues);
		return err_set(err, -ret, "%s: timer: %s", ops->name, strerror(-ret));
	}
	pthread_mutex_init(&dev->lock, NULL);
	pthread_mutex_init(&dev->isr_lock, NULL);
	for (unsigned i = 0; i < queue_count; i++)
		virtq_init(&dev->queues[i], dev, i, env->mem);
	for (unsigned i = 0; i < queue_count && env->doorbells && ret == 0; i++) {
		ret = add_doorbell(dev, &dev->queues[i]);
		if (ret < 0)
			err_set(err, -ret, "queue %u: doorbell: %s", i, strerror(-ret));
	}
	if (ret == 0)
		ret = virtio_pci_init(dev, slot, err);
	if (ret < 0) {
		err_prefix(err, ret, "%s", ops->name);
		dev->pci.host = NULL;
		virtio_dev_done(dev);
	}
	return ret;
}

void virtio_dev_done(struct virtio_dev *dev)
{
	if (dev->pci.host)
		pci_dev_done(&dev->pci);
	loop_timer_del(dev->resume);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		remove_doorbell(&dev->queues[i]);
		virtq_done(&dev->queues[i]);
	}
	pthread_mutex_destroy(&dev->isr_lock);
	pthread_mutex_destroy(&dev->lock);
	free(dev->queues);
}

void virtio_dev_quiesce(struct virtio_dev *dev)
{
	/* No vCPU runs: what rang until now is all there is. */
	for (unsigned i = 0; i < dev->queue_count; i++)
		if (dev->queues[i].doorbell_fd >= 0)
			doorbell_rang(&dev->queues[i], 0);
	if (dev->ops->drain)
		dev->ops->drain(dev);
}

void virtio_dev_freeze(struct virtio_dev *dev)
{
	virtio_dev_quiesce(dev);
	dev->frozen = true;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtq *vq = &dev->queues[i];

		pthread_mutex_lock(&vq->lock);
		vq->frozen |= vq->running;
		vq->running = false;
		pthread_mutex_unlock(&vq->lock);
	}
}

void virtio_dev_thaw(struct virtio_dev *dev)
{
	dev->frozen = false;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtq *vq = &dev->queues[i];

		pthread_mutex_lock(&vq->lock);
		vq->running |= vq->frozen;
		vq->frozen = false;
		pthread_mutex_unlock(&vq->lock);
	}
	virtio_resume_soon(dev); /* what came from either side meanwhile */
}

void virtio_dev_reset(struct virtio_dev *dev)
{
	pthread_mutex_lock(&dev->lock);
	begin_reset(dev);
	pthread_mutex_unlock(&dev->lock);
	virtio_dev_quiesce(dev); /* ends the reset when chains were out */
	pci_dev_reset(&dev->pci);
}

void virtio_dev_free(struct virtio_dev *dev)
{
	if (!dev)
		return;
	virtio_dev_reset(dev);
	dev->ops->free(dev);
}

void virtio_dev_save(struct virtio_dev *dev, struct snap_writer *w)
{
	virtio_dev_quiesce(dev);
	snap_begin(w, dev->ops->name, SNAP_VERSION);
	pthread_mutex_lock(&dev->lock);
	snap_put_u64(w, dev->accepted);
	snap_put_u32(w, dev->feature_select);
	snap_put_u32(w, dev->driver_feature_select);
	snap_put_u16(w, dev->queue_select);
	snap_put_u8(w, (uint8_t)atomic_load(&dev->status));
	snap_put_u8(w, dev->config_generation);
	snap_put_u16(w, atomic_load(&dev->config_vector));
	snap_put_u8(w, dev->isr);
	snap_put_u16(w, (uint16_t)dev->queue_count);
	for (unsigned i = 0; i < dev->queue_count; i++)
		virtq_save(&dev->queues[i], w);
	if (dev->ops->save)
		dev->ops->save(dev, w);
	pthread_mutex_unlock(&dev->lock);
	snap_close(w);
	pci_dev_save(&dev->pci, w);
}

/* The common part, device lock held; queues that ran are marked running and not started yet. */
static int load_common(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	uint16_t vector;
	int ret = 0;

	dev->accepted = snap_get_u64(r);
	dev->feature_select = snap_get_u32(r);
	dev->driver_feature_select = snap_get_u32(r);
	dev->queue_select = snap_get_u16(r);
	atomic_store(&dev->status, snap_get_u8(r));
	dev->config_generation = snap_get_u8(r);
	vector = snap_get_u16(r);
	dev->isr = snap_get_u8(r) & 3;
	if (snap_get_u16(r) != dev->queue_count)
		return err_set(err, EBADMSG, "saved with another number of queues");
	if (atomic_load(&dev->status) & VIRTIO_CONFIG_S_FEATURES_OK &&
	    dev->accepted & ~dev->offered)
		return err_set(err, EBADMSG, "saved with features that this device does not have");
	if (vector != VIRTQ_NO_VECTOR && vector >= dev->pci.msix.count)
		return err_set(err, EBADMSG, "bad configuration vector");
	atomic_store(&dev->config_vector, vector);
	for (unsigned i = 0; i < dev->queue_count && !ret; i++)
		ret = virtq_load(&dev->queues[i], r, dev->pci.msix.count, err);
	if (!ret && dev->ops->load)
		ret = dev->ops->load(dev, r, err);
	return ret;
}

static int start_loaded(struct virtio_dev *dev, struct err *err)
{
	bool ready = atomic_load(&dev->status) & VIRTIO_CONFIG_S_DRIVER_OK;
	int ret = 0;

	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtq *vq = &dev->queues[i];

		if (!vq->running)
			continue;
		vq->running = false;
		if (!ret && ready && vq->enabled)
			ret = virtq_start(vq, dev->accepted, err);
		vq->frozen = dev->frozen && vq->running;
		vq->running &= !vq->frozen;
	}
	return ret < 0 ? err_set(err, EBADMSG, "saved queues are unusable") : 0;
}

int virtio_dev_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret;

	virtio_dev_reset(dev);
	ret = snap_open(r, dev->ops->name, SNAP_VERSION, &version, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&dev->lock);
	ret = load_common(dev, r, err);
	if (ret == 0)
		ret = snap_end(r, err);
	if (ret == 0)
		ret = start_loaded(dev, err);
	if (ret < 0) {
		for (unsigned i = 0; i < dev->queue_count; i++)
			dev->queues[i].running = false;
		begin_reset(dev);
	}
	pthread_mutex_unlock(&dev->lock);
	if (ret < 0)
		return err_prefix(err, ret, "%s in slot %u", dev->ops->name, dev->pci.slot);
	ret = pci_dev_load(&dev->pci, r, err);
	if (ret == 0)
		virtio_resume_soon(
		    dev); /* a notification may have come between the last look and the save */
	return ret;
}
