/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues
 *
 * Rings and descriptors lie in guest RAM and may change at any moment: each
 * value is read once, into a local, and then checked. What a driver can get
 * wrong ends in virtq_break(): the queue takes and returns nothing any more and
 * the device shows DEVICE_NEEDS_RESET.
 *
 * Invariants
 * 1. While `running`, desc, avail and used point to whole rings of `size`
 *    entries in guest RAM, aligned as the standard asks.
 * 2. A chain's buffers lie in guest RAM. Every chain walk ends: direct
 *    descriptors are bounded by the ring's size, indirect ones by their table,
 *    all together by VIRTQ_MAX_CHAIN.
 * 3. `inflight` chains are out. Only after it has become 0 does a reset end,
 *    so that nothing of the old driver's is written into the new one's memory.
 *
 * An indirect table may be longer than the ring (Linux makes such ones when
 * it asks for small rings); it may follow direct descriptors (2.7.5.3.2).
 *
 * Barriers: the load-acquire of avail->idx pairs with the driver's write
 * barrier between ring entry and index; the store-release of used->idx with
 * its read barrier. The full fences in virtq_signal() and virtq_kick_enable()
 * order "index, then look at the other side's wish" and pair with the
 * driver's own full barriers (2.7.7.2, 2.7.10.1).
 */
#include "virtio/queue.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "base/util.h"
#include "virtio/virtio.h"

#define DESC_SIZE 16
#define AVAIL_FLAGS 0
#define AVAIL_IDX 2
#define AVAIL_RING 4
#define USED_FLAGS 0
#define USED_IDX 2
#define USED_RING 4
#define USED_ELEM_SIZE 8

static uint16_t load16(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static uint16_t load16_acquire(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
}

static void store16_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
}

static uint8_t *used_event_of(const struct virtq *vq)
{
	return vq->avail + AVAIL_RING + 2 * vq->size;
}

static uint8_t *avail_event_of(const struct virtq *vq)
{
	return vq->used + USED_RING + USED_ELEM_SIZE * vq->size;
}

void virtq_init(struct virtq *vq, struct virtio_dev *dev, unsigned index,
		const struct guest_mem *mem)
{
	*vq = (struct virtq) { .dev = dev, .index = index, .mem = mem, .doorbell_fd = -1 };
	pthread_mutex_init(&vq->lock, NULL);
	virtq_clear(vq);
}

void virtq_done(struct virtq *vq)
{
	pthread_mutex_destroy(&vq->lock);
}

void virtq_clear(struct virtq *vq)
{
	vq->size = VIRTQ_MAX_SIZE;
	vq->desc_gpa = vq->avail_gpa = vq->used_gpa = 0;
	vq->enabled = vq->running = vq->frozen = vq->stopping = false;
	atomic_store(&vq->vector, VIRTQ_NO_VECTOR);
	vq->last_avail = vq->used_idx = vq->signalled_used = 0;
}

int virtq_start(struct virtq *vq, uint64_t features, struct err *err)
{
	uint32_t size = vq->size;

	if (!size || size > VIRTQ_MAX_SIZE || size & (size - 1))
		return err_set(err, EINVAL, "queue %u: bad size %u", vq->index, size);
	if (vq->desc_gpa % 16 || vq->avail_gpa % 2 || vq->used_gpa % 4)
		return err_set(err, EINVAL, "queue %u: misaligned ring", vq->index);
	vq->desc = guest_mem_ptr(vq->mem, vq->desc_gpa, DESC_SIZE * size);
	vq->avail = guest_mem_ptr(vq->mem, vq->avail_gpa, AVAIL_RING + 2 * size + 2);
	vq->used = guest_mem_ptr(vq->mem, vq->used_gpa, USED_RING + USED_ELEM_SIZE * size + 2);
	if (!vq->desc || !vq->avail || !vq->used)
		return err_set(err, EINVAL, "queue %u: ring outside of RAM", vq->index);
	vq->event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
	vq->indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	vq->running = true;
	return 0;
}

int virtq_break(struct virtq *vq, const char *why)
{
	vq->running = false;
	virtio_needs_reset(vq->dev, vq->index, why);
	return -EINVAL;
}

static const char *add_buffer(const struct virtq *vq, struct virtq_chain *chain,
			      const struct vring_desc *desc)
{
	bool in = desc->flags & VRING_DESC_F_WRITE;
	unsigned n = chain->out_count + chain->in_count;
	void *hva;

	if (!in && chain->in_count)
		return "a readable buffer after a writable one";
	if (!desc->len)
		return NULL; /* nothing to see, nothing to do */
	if (n == VIRTQ_MAX_CHAIN)
		return "the chain is too long";
	hva = guest_mem_ptr(vq->mem, desc->addr, desc->len);
	if (!hva)
		return "a buffer outside of RAM";
	chain->iov[n] = (struct iovec) { hva, desc->len };
	if (in) {
		chain->in_count++;
		chain->in_len += desc->len;
	} else {
		chain->out_count++;
		chain->out_len += desc->len;
	}
	return NULL;
}

/* Returns NULL or what is wrong. */
static const char *walk_chain(const struct virtq *vq, uint16_t head, struct virtq_chain *chain)
{
	const uint8_t *table = vq->desc;
	uint32_t count = vq->size, idx = head, steps = 0;
	bool is_indirect = false;
	struct vring_desc desc;
	const char *why;

	chain->head = head;
	chain->out_count = chain->in_count = 0;
	chain->out_len = chain->in_len = 0;
	for (;;) {
		if (idx >= count)
			return "a descriptor index out of range";
		if (steps++ == count)
			return "a loop of descriptors";
		memcpy(&desc, table + DESC_SIZE * idx, sizeof(desc));
		__asm__ volatile("" ::: "memory"); /* what is checked is what was copied */
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			if (!vq->indirect || is_indirect)
				return "an indirect descriptor where none may be";
			if (desc.flags & VRING_DESC_F_NEXT)
				return "an indirect descriptor that has a next one";
			if (!desc.len || desc.len % DESC_SIZE ||
			    desc.len / DESC_SIZE > VIRTQ_MAX_CHAIN)
				return "an indirect table of bad length";
			table = guest_mem_ptr(vq->mem, desc.addr, desc.len);
			if (!table)
				return "an indirect table outside of RAM";
			is_indirect = true;
			count = desc.len / DESC_SIZE;
			idx = steps = 0;
			continue;
		}
		why = add_buffer(vq, chain, &desc);
		if (why)
			return why;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return NULL;
		idx = desc.next;
	}
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
	const char *why;
	uint16_t waiting, head;

	if (!vq->running)
		return 0;
	waiting = (uint16_t)(load16_acquire(vq->avail + AVAIL_IDX) - vq->last_avail);
	if (!waiting)
		return 0;
	if (waiting > vq->size)
		return virtq_break(vq, "more chains available than the ring holds");
	head = load16(vq->avail + AVAIL_RING + 2 * (vq->last_avail % vq->size));
	why = walk_chain(vq, head, chain);
	if (why)
		return virtq_break(vq, why);
	vq->last_avail++;
	vq->inflight++;
	return 1;
}

static uint64_t gpa_of(const struct guest_mem *mem, const void *hva)
{
	for (unsigned i = 0; i < mem->slot_count; i++) {
		uint64_t off = (uint64_t)((const uint8_t *)hva - mem->slots[i].hva);

		if (off < mem->slots[i].size)
			return mem->slots[i].gpa + off;
	}
	return 0;
}

void virtq_note(const struct virtq *vq, const struct iovec *iov, unsigned count, uint64_t written)
{
	if (!vq->mem->code_map)
		return; /* nobody caches what is in RAM (translated code) */
	for (unsigned i = 0; i < count && written; i++) {
		uint64_t len = min_u64(iov[i].iov_len, written);

		guest_mem_note_write(vq->mem, gpa_of(vq->mem, iov[i].iov_base), len);
		written -= len;
	}
}

void virtq_fill(struct virtq *vq, unsigned ahead, uint16_t head, uint32_t written)
{
	uint8_t *elem;

	if (!vq->running)
		return;
	elem =
	    vq->used + USED_RING + USED_ELEM_SIZE * ((uint16_t)(vq->used_idx + ahead) % vq->size);
	put_le32(elem, head);
	put_le32(elem + 4, written);
}

void virtq_publish(struct virtq *vq, unsigned count)
{
	vq->inflight -= count;
	if (!vq->running)
		return;
	vq->used_idx += (uint16_t)count;
	store16_release(vq->used + USED_IDX, vq->used_idx);
	guest_mem_note_write(vq->mem, vq->used_gpa, USED_RING + USED_ELEM_SIZE * vq->size);
}

void virtq_push(struct virtq *vq, const struct virtq_chain *chain, uint32_t written)
{
	/* Data that a failed read left behind counts as well: all buffers. */
	virtq_note(vq, chain->iov + chain->out_count, chain->in_count, chain->in_len);
	virtq_fill(vq, 0, chain->head, written);
	virtq_publish(vq, 1);
}

void virtq_unpop(struct virtq *vq)
{
	vq->inflight--;
	vq->last_avail--;
}

void virtq_drop(struct virtq *vq)
{
	vq->inflight--;
}

void virtq_signal(struct virtq *vq)
{
	uint16_t old = vq->signalled_used, now = vq->used_idx;
	bool wanted;

	if (!vq->running || old == now)
		return;
	atomic_thread_fence(memory_order_seq_cst);
	if (vq->event_idx) {
		uint16_t event = load16(used_event_of(vq));

		wanted = vring_need_event(event, now, old);
	} else {
		wanted = !(load16(vq->avail + AVAIL_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
	}
	vq->signalled_used = now;
	if (wanted)
		virtio_queue_interrupt(vq->dev, atomic_load(&vq->vector));
}

void virtq_kick_disable(struct virtq *vq)
{
	/* With event indices, one that is not moved on has the same effect. */
	if (vq->running && !vq->event_idx)
		store16(vq->used + USED_FLAGS, VRING_USED_F_NO_NOTIFY);
}

bool virtq_kick_enable(struct virtq *vq)
{
	if (!vq->running)
		return false;
	if (vq->event_idx)
		store16(avail_event_of(vq), vq->last_avail);
	else
		store16(vq->used + USED_FLAGS, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return load16(vq->avail + AVAIL_IDX) != vq->last_avail;
}

void virtq_lock(struct virtq *vq)
{
	pthread_mutex_lock(&vq->lock);
}

void virtq_unlock_done(struct virtq *vq)
{
	bool idle = vq->stopping && !vq->inflight;

	pthread_mutex_unlock(&vq->lock);
	if (idle)
		virtio_reset_continue(vq->dev);
}

void virtq_save(struct virtq *vq, struct snap_writer *w)
{
	snap_put_u16(w, vq->size);
	snap_put_u64(w, vq->desc_gpa);
	snap_put_u64(w, vq->avail_gpa);
	snap_put_u64(w, vq->used_gpa);
	snap_put_u8(w, vq->enabled);
	snap_put_u8(w, vq->running || vq->frozen);
	snap_put_u16(w, atomic_load(&vq->vector));
	snap_put_u16(w, vq->last_avail);
	snap_put_u16(w, vq->used_idx);
	snap_put_u16(w, vq->signalled_used);
}

int virtq_load(struct virtq *vq, struct snap_reader *r, unsigned vector_count, struct err *err)
{
	uint16_t vector;

	virtq_clear(vq);
	vq->size = snap_get_u16(r);
	vq->desc_gpa = snap_get_u64(r);
	vq->avail_gpa = snap_get_u64(r);
	vq->used_gpa = snap_get_u64(r);
	vq->enabled = snap_get_u8(r);
	vq->running = snap_get_u8(r); /* the caller checks and starts it */
	vector = snap_get_u16(r);
	vq->last_avail = snap_get_u16(r);
	vq->used_idx = snap_get_u16(r);
	vq->signalled_used = snap_get_u16(r);
	if (vector != VIRTQ_NO_VECTOR && vector >= vector_count)
		return err_set(err, EBADMSG, "queue %u: vector %u of %u", vq->index, vector,
			       vector_count);
	atomic_store(&vq->vector, vector);
	return 0;
}

size_t iov_copy_from(const struct iovec *iov, unsigned count, uint64_t off, void *buf, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = min_u64(iov[i].iov_len - off, len - done);
		memcpy((uint8_t *)buf + done, (const uint8_t *)iov[i].iov_base + off, n);
		done += n;
		off = 0;
	}
	return done;
}

size_t iov_copy_to(const struct iovec *iov, unsigned count, uint64_t off, const void *buf,
		   size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = min_u64(iov[i].iov_len - off, len - done);
		memcpy((uint8_t *)iov[i].iov_base + off, (const uint8_t *)buf + done, n);
		done += n;
		off = 0;
	}
	return done;
}

unsigned iov_slice(struct iovec *dst, const struct iovec *iov, unsigned count, uint64_t off,
		   uint64_t len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count && len; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		dst[n].iov_base = (uint8_t *)iov[i].iov_base + off;
		dst[n].iov_len = min_u64(iov[i].iov_len - off, len);
		len -= dst[n].iov_len;
		off = 0;
		n++;
	}
	return n;
}
