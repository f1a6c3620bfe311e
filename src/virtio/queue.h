/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues, the device's side (virtio 1.2, 2.7).
 *
 * Everything here is called with the queue's lock held, unless said otherwise.
 */
#ifndef EYOT_VIRTIO_QUEUE_H
#define EYOT_VIRTIO_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/snap.h"
#include "vm/mem.h"

#define VIRTQ_MAX_SIZE 256  /* descriptors of a ring, a power of two */
#define VIRTQ_MAX_CHAIN 256 /* buffers of a chain, indirect ones included */
#define VIRTQ_NO_VECTOR 0xffff

struct loop_fd;
struct virtio_dev;

struct virtq {
	struct virtio_dev *dev;
	unsigned index;
	pthread_mutex_t lock;

	/* What the driver set; changed under the device's lock and this one */
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	bool enabled;
	_Atomic uint16_t vector; /* MSI-X vector or VIRTQ_NO_VECTOR */

	bool running; /* enabled, valid, and the driver is ready: chains may be taken and given back
		       */
	bool frozen;  /* would be running, but the machine is paused */
	bool stopping; /* a reset waits for the chains that are out */
	bool event_idx, indirect;
	uint8_t *desc, *avail, *used; /* in guest RAM; valid while running */
	const struct guest_mem *mem;

	int doorbell_fd; /* counts notifications that no vCPU thread brings; -1: all come that way
			  */
	struct loop_fd *doorbell;

	uint16_t last_avail; /* next entry of the available ring */
	uint16_t used_idx;
	uint16_t signalled_used; /* used_idx when the driver was last told */
	unsigned inflight;	 /* chains taken and not given back */
};

/* A descriptor chain: what the device reads comes first in iov, then what it writes. */
struct virtq_chain {
	uint16_t head;
	unsigned out_count, in_count;
	uint64_t out_len, in_len; /* bytes */
	struct iovec iov[VIRTQ_MAX_CHAIN];
};

void virtq_init(struct virtq *vq, struct virtio_dev *dev, unsigned index,
		const struct guest_mem *mem);
void virtq_done(struct virtq *vq);

/** virtq_clear() - registers and indices as after a reset */
void virtq_clear(struct virtq *vq);

/**
 * virtq_start() - check the driver's settings and let the queue run
 * @features: as negotiated
 * Return: 0; -EINVAL with a text when size or addresses are unusable.
 */
int virtq_start(struct virtq *vq, uint64_t features, struct err *err);

/**
 * virtq_pop() - take the next available chain
 * Return: 1; 0 when there is none; -EINVAL when the driver broke the rules:
 * the queue has stopped and the device asks for a reset then.
 */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain);

/**
 * virtq_push() - give a chain back
 * @written: bytes the device wrote, from the first writable one on
 * Nothing reaches the guest when the queue was stopped meanwhile.
 */
void virtq_push(struct virtq *vq, const struct virtq_chain *chain, uint32_t written);

/*
 * Several chains become used at once: virtq_fill() each, @ahead counting from 0, then
 * virtq_publish(). The caller announces what it wrote into their buffers (virtq_note()).
 */
void virtq_fill(struct virtq *vq, unsigned ahead, uint16_t head, uint32_t written);
void virtq_publish(struct virtq *vq, unsigned count);

/** virtq_note() - the first @written bytes of @iov, buffers of a chain, were written */
void virtq_note(const struct virtq *vq, const struct iovec *iov, unsigned count, uint64_t written);

/** virtq_unpop() - put the chain taken last back into the queue; all taken after it are back */
void virtq_unpop(struct virtq *vq);

/** virtq_drop() - forget a chain that is never given back; the queue must be broken next */
void virtq_drop(struct virtq *vq);

/** virtq_signal() - interrupt the driver if it wants to know of what was pushed since the last time
 */
void virtq_signal(struct virtq *vq);

/** virtq_kick_disable() - the driver need not notify now; a hint */
void virtq_kick_disable(struct virtq *vq);

/** virtq_kick_enable() - the driver shall notify again; true when chains came meanwhile: take them
 * first */
bool virtq_kick_enable(struct virtq *vq);

/** virtq_break() - the driver broke the rules: stop the queue, ask for a reset; returns -EINVAL */
int virtq_break(struct virtq *vq, const char *why);

void virtq_lock(struct virtq *vq);

/** virtq_unlock_done() - unlock after virtq_push() on the loop thread; goes on with a waiting reset
 */
void virtq_unlock_done(struct virtq *vq);

void virtq_save(struct virtq *vq, struct snap_writer *w);

/** virtq_load() - into a stopped queue; `running` says afterwards whether it ran: the caller starts
 * it */
int virtq_load(struct virtq *vq, struct snap_reader *r, unsigned vector_count, struct err *err);

/* Scatter-gather lists of chains: copy out of or into the bytes from @off on; returns how many were
 * there. */
size_t iov_copy_from(const struct iovec *iov, unsigned count, uint64_t off, void *buf, size_t len);
size_t iov_copy_to(const struct iovec *iov, unsigned count, uint64_t off, const void *buf,
		   size_t len);

/** iov_slice() - list of the bytes [@off, @off+@len) of another list, which has them; returns its
 * entries */
unsigned iov_slice(struct iovec *dst, const struct iovec *iov, unsigned count, uint64_t off,
		   uint64_t len);

#endif
