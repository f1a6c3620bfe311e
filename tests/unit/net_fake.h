/* SPDX-License-Identifier: Apache-2.0 */
/* A back end that remembers what was sent and gives what a test put into it. */
#ifndef EYOT_TESTS_NET_FAKE_H
#define EYOT_TESTS_NET_FAKE_H

#include "net/net.h"
#include "net/offload.h"
#include "virtio_driver.h"

#define FAKE_FRAMES 64

struct fake_frame {
	struct virtio_net_hdr_v1 hdr;
	size_t len;
	uint8_t *bytes;
};

struct fake_net {
	struct net_backend be;
	struct fake_frame sent[FAKE_FRAMES], waiting[FAKE_FRAMES];
	unsigned sent_count, first, waiting_count, send_room, flushes;
	uint64_t offloads;
	unsigned offload_calls;
	bool freed;
};

static inline ssize_t fake_receive(struct net_backend *be, unsigned queue, const struct iovec *iov,
				   unsigned count)
{
	struct fake_net *f = container_of(be, struct fake_net, be);
	struct fake_frame *w = &f->waiting[f->first];

	if (f->first == f->waiting_count)
		return -EAGAIN;
	f->first++;
	memcpy(iov[0].iov_base, &w->hdr, sizeof(w->hdr));
	if (net_scatter(iov + 1, count - 1, w->bytes, w->len) != w->len)
		abort(); /* the list must have room for the largest frame */
	free(w->bytes);
	return (ssize_t)w->len;
}

static inline int fake_send(struct net_backend *be, unsigned queue, const struct iovec *iov,
			    unsigned count, size_t len)
{
	struct fake_net *f = container_of(be, struct fake_net, be);
	struct fake_frame *s = &f->sent[f->sent_count % FAKE_FRAMES];

	if (!f->send_room)
		return -EAGAIN;
	f->send_room--;
	if (f->sent_count++ >= FAKE_FRAMES)
		free(s->bytes);
	memcpy(&s->hdr, iov[0].iov_base, sizeof(s->hdr));
	s->len = len;
	s->bytes = malloc(len);
	if (net_gather(s->bytes, len, iov + 1, count - 1) != len)
		abort();
	return 0;
}

static inline void fake_flush(struct net_backend *be, unsigned queue)
{
	container_of(be, struct fake_net, be)->flushes++;
}

static inline void fake_set_offloads(struct net_backend *be, uint64_t features)
{
	struct fake_net *f = container_of(be, struct fake_net, be);

	f->offloads = features;
	f->offload_calls++;
}

static inline void fake_free(struct net_backend *be)
{
	struct fake_net *f = container_of(be, struct fake_net, be);

	for (unsigned i = f->first; i < f->waiting_count; i++)
		free(f->waiting[i].bytes);
	for (unsigned i = 0; i < f->sent_count && i < FAKE_FRAMES; i++)
		free(f->sent[i].bytes);
	f->first = f->waiting_count = f->sent_count = 0;
	f->freed = true;
}

static const struct net_backend_ops fake_ops = { .receive = fake_receive,
						 .send = fake_send,
						 .flush = fake_flush,
						 .set_offloads = fake_set_offloads,
						 .free = fake_free };

static inline void fake_init(struct fake_net *f)
{
	*f = (struct fake_net) {
		.be = { .ops = &fake_ops, .queues = 1, .guest_gso = true, .link_up = true },
		.send_room = UINT32_MAX
	};
}

/* A frame for the guest; it is told of it when @tell. */
static inline void fake_arrives(struct fake_net *f, const void *bytes, size_t len, uint8_t flags,
				uint8_t gso_type, bool tell)
{
	struct fake_frame *w;

	if (f->first == f->waiting_count)
		f->first = f->waiting_count = 0;
	if (f->waiting_count == FAKE_FRAMES)
		return;
	w = &f->waiting[f->waiting_count++];
	*w = (struct fake_frame) { .hdr = { .flags = flags, .gso_type = gso_type }, .len = len };
	w->bytes = malloc(len);
	memcpy(w->bytes, bytes, len);
	if (tell)
		net_tell_readable(&f->be, 0);
}

#endif
