/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio console (virtio 1.2, 5.3): one port, queue 0 to the guest, queue 1
 * from it.
 *
 * Output: a notification copies what the driver sends into a ring on the
 * vCPU's thread, gives the buffers back and wakes the loop, which passes the
 * bytes to the backend. A backend that does not take all is asked again a
 * little later. While the ring is full, chains stay in the queue: the guest
 * waits, the vCPU does not. A chain that fits only in part is put back, and its
 * rest is taken next time; so no chain is ever out between two calls.
 *
 * Input: bytes go straight into the driver's buffers on the loop thread. What
 * finds no buffer is refused; once there are buffers again the backend hears
 * of it.
 *
 * Locks: output ring and all about output are guarded by queue 1's lock,
 * input by queue 0's.
 */
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "base/util.h"
#include "virtio/virtio.h"

#define PCI_CLASS_COMMUNICATION_OTHER 0x078000
#define QUEUE_TO_GUEST 0
#define QUEUE_FROM_GUEST 1
#define RING_SIZE KIB(16) /* a power of two */
#define RETRY_NS 5000000ull
/* What one pass of the loop takes at most of a driver that refills as fast as we take. */
#define PASS_PARTS 16 /* of output, each at most the ring */

struct console {
	struct virtio_dev dev;
	const struct virtio_console_backend *backend;
	struct loop_timer *output_timer, *input_timer;

	/* Output, under queue 1's lock */
	uint8_t ring[RING_SIZE];
	uint32_t head, tail; /* bytes ever put and taken; their difference is in the ring */
	uint64_t out_pos;    /* how much of the next chain was taken already */
	struct virtq_chain out_chain;

	/* Input, under queue 0's lock */
	bool input_refused;
	struct virtq_chain in_chain;
};

static struct console *console_of(struct virtio_dev *dev)
{
	return container_of(dev, struct console, dev);
}

/* Copy as much of the present chain as there is room for; true when it is done. */
static bool take_chain(struct console *c)
{
	struct virtq_chain *chain = &c->out_chain;

	while (c->out_pos < chain->out_len) {
		uint32_t at = c->head % RING_SIZE, room = RING_SIZE - (c->head - c->tail);
		size_t n = iov_copy_from(chain->iov, chain->out_count, c->out_pos, c->ring + at,
					 min_u64(room, RING_SIZE - at));

		if (!n)
			return false;
		c->head += n;
		c->out_pos += n;
	}
	return true;
}

/* Queue 1's lock held. */
static void gather_output(struct console *c, struct virtq *vq)
{
	unsigned taken = 0;

	do {
		virtq_kick_disable(vq);
		while (virtq_pop(vq, &c->out_chain) > 0) {
			if (!take_chain(c)) {
				virtq_unpop(vq);
				goto out; /* the loop makes room, then goes on */
			}
			virtq_push(vq, &c->out_chain, 0);
			c->out_pos = 0;
			if (++taken == VIRTQ_MAX_SIZE) {
				virtio_resume_soon(&c->dev);
				goto out;
			}
		}
	} while (virtq_kick_enable(vq));
out:
	virtq_signal(vq);
	if (c->head != c->tail)
		loop_timer_arm(c->output_timer, 1);
}

static void console_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct console *c = console_of(dev);

	if (vq->index == QUEUE_FROM_GUEST)
		gather_output(c, vq);
	else if (c->input_refused)
		loop_timer_arm(c->input_timer, 1);
}

size_t virtio_console_flush(struct virtio_dev *dev)
{
	struct console *c = console_of(dev);
	struct virtq *vq = &dev->queues[QUEUE_FROM_GUEST];
	unsigned parts = 0;
	size_t waiting;

	virtq_lock(vq);
	while (c->head != c->tail && parts++ < PASS_PARTS) {
		uint32_t at = c->tail % RING_SIZE;
		size_t n = min_u64(c->head - c->tail, RING_SIZE - at), taken;

		/* The part is stable without the lock: only this thread moves the tail. */
		pthread_mutex_unlock(&vq->lock);
		taken = c->backend->output(c->backend->opaque, c->ring + at, n);
		virtq_lock(vq);
		c->tail += min_u64(taken, n);
		if (vq->running)
			gather_output(c, vq);
		if (taken < n)
			break;
	}
	waiting = c->head - c->tail;
	pthread_mutex_unlock(&vq->lock);
	return waiting;
}

static void output_fired(void *arg)
{
	struct console *c = arg;

	if (virtio_console_flush(&c->dev))
		loop_timer_arm(c->output_timer, clock_now_ns() + RETRY_NS);
}

static void input_fired(void *arg)
{
	struct console *c = arg;
	struct virtq *vq = &c->dev.queues[QUEUE_TO_GUEST];
	bool tell;

	virtq_lock(vq);
	tell = c->input_refused;
	c->input_refused = false;
	pthread_mutex_unlock(&vq->lock);
	if (tell && c->backend->input_ready)
		c->backend->input_ready(c->backend->opaque);
}

size_t virtio_console_receive(struct virtio_dev *dev, const uint8_t *bytes, size_t len)
{
	struct console *c = console_of(dev);
	struct virtq *vq = &dev->queues[QUEUE_TO_GUEST];
	unsigned taken = 0;
	size_t done = 0;

	virtq_lock(vq);
	virtq_kick_disable(vq);
	while (done < len) {
		struct virtq_chain *chain = &c->in_chain;
		size_t n;
		int ret;

		if (taken++ == VIRTQ_MAX_SIZE) { /* buffers without room, as it seems */
			c->input_refused = true;
			loop_timer_arm(c->input_timer, 1);
			break;
		}
		ret = virtq_pop(vq, chain);
		if (ret == 0 && virtq_kick_enable(vq))
			continue;
		if (ret <= 0) {
			c->input_refused = true;
			break;
		}
		n = iov_copy_to(chain->iov + chain->out_count, chain->in_count, 0, bytes + done,
				len - done);
		virtq_push(vq, chain, (uint32_t)n);
		done += n;
	}
	virtq_signal(vq);
	pthread_mutex_unlock(&vq->lock);
	return done;
}

/* What the guest sent before the reset is still sent on. */
static void console_reset(struct virtio_dev *dev)
{
	struct console *c = console_of(dev);

	virtq_lock(&dev->queues[QUEUE_FROM_GUEST]);
	c->out_pos = 0;
	pthread_mutex_unlock(&dev->queues[QUEUE_FROM_GUEST].lock);
}

static void console_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct virtio_console_config config = { .max_nr_ports = 1 };

	memcpy(buf, (const uint8_t *)&config + off, len);
}

static void console_save(struct virtio_dev *dev, struct snap_writer *w)
{
	struct console *c = console_of(dev);

	snap_put_u64(w, c->out_pos);
	snap_put_u32(w, c->head - c->tail);
	for (uint32_t i = c->tail; i != c->head; i++)
		snap_put_u8(w, c->ring[i % RING_SIZE]);
}

static int console_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	struct console *c = console_of(dev);
	uint64_t out_pos = snap_get_u64(r);
	uint32_t n = snap_get_u32(r);

	if (n > RING_SIZE)
		return err_set(err, EBADMSG, "%u bytes of output saved, at most %u fit", n,
			       (unsigned)RING_SIZE);
	c->out_pos = out_pos;
	c->tail = 0;
	c->head = n;
	snap_get_bytes(r, c->ring, n);
	if (n)
		loop_timer_arm(c->output_timer, 1);
	return 0;
}

static void console_free(struct virtio_dev *dev)
{
	struct console *c = console_of(dev);

	virtio_dev_done(dev);
	loop_timer_del(c->output_timer);
	loop_timer_del(c->input_timer);
	free(c);
}

static const struct virtio_dev_ops console_ops = {
	.name = "virtio-console",
	.device_id = VIRTIO_ID_CONSOLE,
	.class_code = PCI_CLASS_COMMUNICATION_OTHER,
	.notify = console_notify,
	.config_read = console_config_read,
	.reset = console_reset,
	.save = console_save,
	.load = console_load,
	.free = console_free,
};

int virtio_console_new(const struct virtio_env *env, unsigned slot,
		       const struct virtio_console_backend *backend, struct virtio_dev **ret_dev,
		       struct err *err)
{
	struct console *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "virtio-console: out of memory");
	c->backend = backend;
	ret = loop_timer_add(env->loop, output_fired, c, &c->output_timer);
	if (ret == 0)
		ret = loop_timer_add(env->loop, input_fired, c, &c->input_timer);
	if (ret < 0)
		err_set(err, -ret, "virtio-console: timer: %s", strerror(-ret));
	else
		ret = virtio_dev_init(&c->dev, &console_ops, env, slot, 0, 2,
				      sizeof(struct virtio_console_config), err);
	if (ret < 0) {
		if (c->output_timer)
			loop_timer_del(c->output_timer);
		if (c->input_timer)
			loop_timer_del(c->input_timer);
		free(c);
		return ret;
	}
	*ret_dev = &c->dev;
	return 0;
}
