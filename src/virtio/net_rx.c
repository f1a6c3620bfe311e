/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receive, on the loop thread: the device pulls. Chains are staged for as many
 * bytes as the latest frame had and the back end fills their buffers in place;
 * what is more than expected ends in `bounce` and is copied on. So a stream of
 * frames of one size is never copied, and nobody needs to know sizes before.
 * With merged buffers (MRG_RXBUF) a frame takes as many chains as it needs,
 * else one. When there are no buffers the frames stay where they are, and a
 * notification of the driver starts the next look.
 *
 * Invariants
 * 1. Staged chains are the latest ones taken; when the receiver leaves, those
 *    that were not used go back (virtq_unpop()), so none is out between calls.
 * 2. Used chains of a frame become visible at once, after its header.
 * 3. A driver gets only frames that it can have expected: segments and half
 *    checksums within guest_offloads, addresses within its filter.
 * 4. What one call does is bounded by NET_BATCH_MAX frames; a timer goes on.
 * 5. Frames may wait outside without an event to come only while `starved`.
 */
#include "base/util.h"
#include "net/offload.h"
#include "virtio/net_priv.h"

#define F(bit) (1ull << VIRTIO_NET_F_##bit)

/* Have chains for @len bytes, at least one. Returns 1; 0: there are no more; -EINVAL: broken. */
static int stage(struct net *net, struct net_pair *p, uint64_t len)
{
	bool merge = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	struct virtq_chain *c = &p->rx_chain;

	if (!merge && p->staged_count)
		return p->staged_len >= len;
	while (!p->staged_count || (merge && p->staged_len < len)) {
		unsigned at = p->staged_first + p->staged_count;
		int ret;

		if (at == VIRTQ_MAX_SIZE)
			return 0;
		ret = virtq_pop(p->rx, c);
		if (ret <= 0)
			return ret;
		if (!c->in_len) {
			virtq_drop(p->rx);
			return virtq_break(p->rx, "a receive buffer that cannot be written");
		}
		if (p->iov_first + p->iov_count + c->in_count > NET_RX_IOV_MAX) {
			virtq_unpop(p->rx);
			return 0; /* crumbs: the frame is lost, smaller ones are not */
		}
		memcpy(&p->staged_iov[p->iov_first + p->iov_count], c->iov + c->out_count,
		       c->in_count * sizeof(struct iovec));
		p->iov_count += c->in_count;
		p->staged[at] = (struct net_rx_chain) { c->head, (uint16_t)c->in_count,
							(uint32_t)min_u64(c->in_len, UINT32_MAX) };
		p->staged_count++;
		p->staged_len += p->staged[at].len;
	}
	return 1;
}

/* The chains that were not used go back. */
static void unstage(struct net_pair *p)
{
	while (p->staged_count) {
		virtq_unpop(p->rx);
		p->staged_count--;
	}
	p->staged_first = p->iov_first = p->iov_count = 0;
	p->staged_len = 0;
}

/* Make room at the end of the arrays for what a frame may need. */
static void compact(struct net_pair *p)
{
	memmove(p->staged, p->staged + p->staged_first, p->staged_count * sizeof(p->staged[0]));
	memmove(p->staged_iov, p->staged_iov + p->iov_first, p->iov_count * sizeof(struct iovec));
	p->staged_first = p->iov_first = 0;
}

/* Header and frame, @len bytes together, are in the staged buffers: give them to the driver. */
static void give(struct net_pair *p, uint64_t len)
{
	unsigned used = 0;

	while (len) {
		struct net_rx_chain *c = &p->staged[p->staged_first];
		uint32_t part = (uint32_t)min_u64(len, c->len);

		virtq_note(p->rx, &p->staged_iov[p->iov_first], c->iov_count, part);
		virtq_fill(p->rx, used++, c->head, part);
		p->staged_first++;
		p->staged_count--;
		p->iov_first += c->iov_count;
		p->iov_count -= c->iov_count;
		p->staged_len -= c->len;
		len -= part;
	}
	virtq_publish(p->rx, used);
}

/* How many chains the first @len staged bytes take */
static uint16_t chains_of(const struct net_pair *p, uint64_t len)
{
	uint16_t n = 0;

	while (len) {
		len -= min_u64(len, p->staged[p->staged_first + n].len);
		n++;
	}
	return n;
}

/* Whether the driver can have expected such a frame; @hdr becomes what it is told. */
static bool rx_wanted(struct net *net, struct virtio_net_hdr_v1 *hdr, const uint8_t *dst)
{
	uint64_t offloads = atomic_load(&net->guest_offloads);
	bool takes;

	pthread_mutex_lock(&net->lock);
	takes = net_filter_takes(net, dst);
	pthread_mutex_unlock(&net->lock);
	if (!takes || !atomic_load(&net->link_up))
		return false;
	if (!(offloads & F(GUEST_CSUM))) {
		if (hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			return false;
		hdr->flags = 0;
	}
	switch (hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return offloads & F(GUEST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return offloads & F(GUEST_TSO6);
	default:
		return false;
	}
}

/* Returns 1 when a frame came, lost ones included; 0: no frame, or no buffers (starved). */
static int rx_frame(struct net *net, struct net_pair *p, unsigned source)
{
	struct iovec iov[NET_RX_IOV_MAX + 2];
	struct virtio_net_hdr_v1 hdr;
	uint8_t dst[ETH_ALEN];
	unsigned count = 1;
	uint64_t room;
	ssize_t len;
	int ret;

	compact(p);
	ret = stage(net, p, NET_HDR_LEN + p->guess);
	if (!p->staged_count) {
		if (ret == 0 && virtq_kick_enable(p->rx))
			return 1;
		p->starved = true; /* or broken: then its next start brings them in */
		return 0;
	}
	room = p->staged_len > NET_HDR_LEN ? p->staged_len - NET_HDR_LEN : 0;
	iov[0] = (struct iovec) { &hdr, sizeof(hdr) };
	count += iov_slice(iov + 1, p->staged_iov, p->iov_count, NET_HDR_LEN, room);
	iov[count] = (struct iovec) { net->bounce, NET_FRAME_MAX };
	len = net->be->ops->receive(net->be, source, iov, count + 1);
	if (len < 0)
		return 0;
	p->guess = (size_t)len;
	iov_copy_from(iov + 1, count, 0, dst, sizeof(dst));
	net_bucket_take(net, &net->rx_bucket, (size_t)len);
	if (!rx_wanted(net, &hdr, dst)) {
		net_count(&net->rx_dropped, 1);
		return 1;
	}
	net_pcap_write(net->pcap, iov + 1, count, (size_t)len);
	if ((uint64_t)len > room) {
		if (stage(net, p, NET_HDR_LEN + (uint64_t)len) <= 0) {
			net_count(&net->rx_dropped, 1);
			return 1; /* too large for what the driver offers */
		}
		iov_copy_to(p->staged_iov, p->iov_count, NET_HDR_LEN + room, net->bounce,
			    (uint64_t)len - room);
	}
	hdr.num_buffers = chains_of(p, NET_HDR_LEN + (uint64_t)len);
	iov_copy_to(p->staged_iov, p->iov_count, 0, &hdr, sizeof(hdr));
	give(p, NET_HDR_LEN + (uint64_t)len);
	net_count(&net->rx_packets, 1);
	net_count(&net->rx_bytes, (uint64_t)len);
	return 1;
}

void net_rx_run(struct net *net, unsigned source)
{
	struct net_pair *p = &net->pairs[source % atomic_load(&net->pairs_used)];
	unsigned taken = 0;

	virtq_lock(p->rx);
	if (!p->rx->running || !pci_bus_master(&net->dev.pci)) {
		p->starved = true; /* its start is a notification, too */
		goto out;
	}
	virtq_kick_disable(p->rx);
	for (;;) {
		uint64_t wait =
		    taken++ == NET_BATCH_MAX ? 1 : net_bucket_wait(net, &net->rx_bucket);

		if (wait) {
			loop_timer_arm(net->rx_timer, wait);
			break;
		}
		if (rx_frame(net, p, source) <= 0)
			break;
	}
	unstage(p);
	virtq_signal(p->rx);
out:
	virtq_unlock_done(p->rx);
}

void net_rx_fired(void *arg)
{
	struct net *net = arg;

	for (unsigned i = 0; i < net->be->queues; i++)
		net_rx_run(net, i);
}

void net_rx_notify(struct net *net, struct net_pair *p)
{
	/* The first notification after DRIVER_OK or a load: now it is known what the driver takes.
	 */
	if (!atomic_exchange(&net->offloads_told, true) && net->be->ops->set_offloads)
		net->be->ops->set_offloads(net->be, atomic_load(&net->guest_offloads));
	if (p->starved) {
		p->starved = false;
		loop_timer_arm(net->rx_timer, 1);
	}
}
