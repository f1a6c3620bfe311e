/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio network device (virtio 1.2, 5.1): queue pairs, receive 2i and transmit
 * 2i + 1, and a control queue (net_ctrl.c).
 *
 * Transmit. Frames go to the back end straight from the guest's buffers, on
 * the thread that notifies: a change of threads costs more than the system call
 * of a TAP interface or a socket. A back end that lives on the loop thread
 * (on_loop) has its frames sent there, and the queue is not locked meanwhile.
 * The header is copied, then checked, and only the copy is used. A frame that
 * makes no sense is dropped and its buffers given back; a chain without room
 * for a header breaks the queue.
 *
 * Receive: net_rx.c.
 *
 * Locks: device, queue, back end, net->lock.
 */
#include <linux/virtio_ids.h>

#include "base/util.h"
#include "net/offload.h"
#include "virtio/net_priv.h"

#define PCI_CLASS_NETWORK_ETHERNET 0x020000
#define RATE_BURST_MIN KIB(128)
#define RATE_BURST_PARTS 20 /* of a second */
#define NS_PER_S 1000000000ull
#define F(bit) (1ull << VIRTIO_NET_F_##bit)

static struct net *net_of(struct virtio_dev *dev)
{
	return container_of(dev, struct net, dev);
}

/* ---- rate ---- */

static int64_t burst_of(const struct net *net)
{
	return (int64_t)max_u64(net->rate / RATE_BURST_PARTS, RATE_BURST_MIN);
}

uint64_t net_bucket_wait(struct net *net, struct net_bucket *b)
{
	uint64_t now, wait = 0;

	if (!net->rate)
		return 0;
	pthread_mutex_lock(&net->lock);
	now = clock_now_ns();
	/* What accrues in a second fills the bucket in any case. */
	b->level += (int64_t)((unsigned __int128)min_u64(now - b->time_ns, NS_PER_S) * net->rate /
			      NS_PER_S);
	if (b->level > burst_of(net))
		b->level = burst_of(net);
	b->time_ns = now;
	if (b->level <= 0)
		wait = now + 1 +
		       (uint64_t)((unsigned __int128)(uint64_t)-b->level * NS_PER_S / net->rate);
	pthread_mutex_unlock(&net->lock);
	return wait;
}

void net_bucket_take(struct net *net, struct net_bucket *b, size_t len)
{
	if (!net->rate)
		return;
	pthread_mutex_lock(&net->lock);
	b->level -= (int64_t)len;
	pthread_mutex_unlock(&net->lock);
}

/* ---- transmit ---- */

/* The chain just taken; -EAGAIN: it must wait; -EINVAL: the queue is broken. */
static int tx_frame(struct net *net, struct net_pair *p)
{
	struct virtq_chain *c = &p->tx_chain;
	struct virtio_net_hdr_v1 hdr;
	uint64_t len = c->out_len - NET_HDR_LEN;
	struct virtq *vq = p->tx;
	unsigned count;
	int ret;

	if (c->out_len < NET_HDR_LEN) {
		virtq_drop(vq);
		return virtq_break(vq, "a frame without a header");
	}
	iov_copy_from(c->iov, c->out_count, 0, &hdr, sizeof(hdr));
	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX ||
	    net_hdr_check(&hdr, len, virtio_has(&net->dev, VIRTIO_NET_F_CSUM),
			  virtio_has(&net->dev, VIRTIO_NET_F_HOST_TSO4),
			  virtio_has(&net->dev, VIRTIO_NET_F_HOST_TSO6),
			  virtio_has(&net->dev, VIRTIO_NET_F_HOST_ECN)) < 0 ||
	    !atomic_load(&net->link_up)) {
		net_count(&net->tx_dropped, 1);
		return 0;
	}
	p->tx_iov[0] = (struct iovec) { &hdr, sizeof(hdr) };
	count = 1 + iov_slice(p->tx_iov + 1, c->iov, c->out_count, NET_HDR_LEN, len);
	if (net->be->on_loop)
		pthread_mutex_unlock(&vq->lock);
	ret = net->be->ops->send(net->be, vq->index / 2 % net->be->queues, p->tx_iov, count, len);
	if (net->be->on_loop)
		virtq_lock(vq);
	if (ret == 0) {
		net_count(&net->tx_packets, 1);
		net_count(&net->tx_bytes, len);
		net_bucket_take(net, &net->tx_bucket, len);
		net_pcap_write(net->pcap, p->tx_iov + 1, count - 1, len);
	}
	return ret;
}

static void flush(struct net *net, struct net_pair *p)
{
	if (net->be->ops->flush)
		net->be->ops->flush(net->be, p->tx->index / 2 % net->be->queues);
}

/* Take what the driver offers; queue lock held. Returns whether something was sent. */
static bool tx_run(struct net *net, struct net_pair *p)
{
	struct virtq *vq = p->tx;
	unsigned taken = 0;

	do {
		virtq_kick_disable(vq);
		for (;;) {
			uint64_t wait =
			    taken == NET_BATCH_MAX ? 1 : net_bucket_wait(net, &net->tx_bucket);
			int ret;

			if (wait) {
				loop_timer_arm(net->tx_timer, wait);
				goto out;
			}
			ret = virtq_pop(vq, &p->tx_chain);
			if (ret < 0)
				goto out;
			if (ret == 0)
				break;
			ret = tx_frame(net, p);
			if (ret == -EAGAIN)
				virtq_unpop(vq); /* the back end tells when it has room */
			if (ret < 0)
				goto out;
			virtq_push(vq, &p->tx_chain, 0);
			taken++;
		}
	} while (virtq_kick_enable(vq));
out:
	if (taken && !net->be->on_loop)
		flush(net, p);
	virtq_signal(vq);
	return taken;
}

static void tx_fired(void *arg)
{
	struct net *net = arg;

	for (unsigned i = 0; i < net->pair_max; i++) {
		struct net_pair *p = &net->pairs[i];
		bool sent = false;

		virtq_lock(p->tx);
		if (p->tx->running && pci_bus_master(&net->dev.pci))
			sent = tx_run(net, p);
		virtq_unlock_done(p->tx);
		if (sent && net->be->on_loop)
			flush(net, p); /* it may call back at once: without a lock */
	}
}

static void tx_notify(struct net *net, struct net_pair *p)
{
	if (net->be->on_loop) {
		virtq_kick_disable(p->tx);
		loop_timer_arm(net->tx_timer, 1);
	} else {
		tx_run(net, p);
	}
}

/* ---- back end ---- */

static void nic_readable(void *opaque, unsigned queue)
{
	net_rx_run(opaque, queue);
}

static void nic_writable(void *opaque)
{
	tx_fired(opaque);
}

static void show_link(struct net *net)
{
	bool up = net->be->link_up && !net->unplugged;

	if (atomic_exchange(&net->link_up, up) != up)
		virtio_config_changed(&net->dev);
}

static void nic_link(void *opaque, bool up)
{
	show_link(opaque);
}

static const struct net_nic_ops nic_ops = { nic_readable, nic_writable, nic_link };

void virtio_net_set_link(struct virtio_dev *dev, bool up)
{
	struct net *net = net_of(dev);

	net->unplugged = !up;
	show_link(net);
}

void virtio_net_set_rate(struct virtio_dev *dev, uint64_t rate)
{
	struct net *net = net_of(dev);

	net->rate = rate;
	loop_timer_arm(net->rx_timer, 1);
	loop_timer_arm(net->tx_timer, 1);
}

void virtio_net_get_info(struct virtio_dev *dev, struct virtio_net_info *ret_info)
{
	struct net *net = net_of(dev);

	pthread_mutex_lock(&net->lock);
	memcpy(ret_info->mac, net->mac, ETH_ALEN);
	pthread_mutex_unlock(&net->lock);
	ret_info->link_up = atomic_load(&net->link_up);
	ret_info->rate = net->rate;
	ret_info->rx_packets = atomic_load(&net->rx_packets);
	ret_info->rx_bytes = atomic_load(&net->rx_bytes);
	ret_info->rx_dropped = atomic_load(&net->rx_dropped);
	ret_info->tx_packets = atomic_load(&net->tx_packets);
	ret_info->tx_bytes = atomic_load(&net->tx_bytes);
	ret_info->tx_dropped = atomic_load(&net->tx_dropped);
}

/* ---- device ---- */

static void net_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct net *net = net_of(dev);
	unsigned pair = vq->index / 2;

	if (vq->index == net_ctrl_index(net)) {
		if (virtio_has(dev, VIRTIO_NET_F_CTRL_VQ))
			net_ctrl_notify(net, vq);
		return;
	}
	if (pair >= net->pair_max || (pair && !virtio_has(dev, VIRTIO_NET_F_MQ)))
		return;
	if (vq->index & 1)
		tx_notify(net, &net->pairs[pair]);
	else
		net_rx_notify(net, &net->pairs[pair]);
}

static void net_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct net *net = net_of(dev);
	struct virtio_net_config config = { .max_virtqueue_pairs = (uint16_t)net->pair_max,
					    .mtu = net->mtu };

	pthread_mutex_lock(&net->lock);
	memcpy(config.mac, net->mac, ETH_ALEN);
	config.status = (atomic_load(&net->link_up) ? VIRTIO_NET_S_LINK_UP : 0) |
			(net->announce ? VIRTIO_NET_S_ANNOUNCE : 0);
	pthread_mutex_unlock(&net->lock);
	memcpy(buf, (const uint8_t *)&config + off, len);
}

static void net_features_ok(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);

	atomic_store(&net->guest_offloads, dev->accepted & NET_GUEST_OFFLOADS);
	atomic_store(&net->offloads_told, false);
}

static void net_reset(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);

	atomic_store(&net->pairs_used, 1);
	net_features_ok(dev);
	pthread_mutex_lock(&net->lock);
	memcpy(net->mac, net->own_mac, ETH_ALEN);
	net_filter_reset(&net->filter);
	net->announce = false;
	pthread_mutex_unlock(&net->lock);
}

static void net_save(struct virtio_dev *dev, struct snap_writer *w)
{
	struct net *net = net_of(dev);

	net_ctrl_save(net, w);
	snap_put_u16(w, (uint16_t)atomic_load(&net->pairs_used));
	snap_put_u64(w, atomic_load(&net->guest_offloads));
}

static int net_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	struct net *net = net_of(dev);
	uint64_t offloads;
	uint16_t pairs;
	int ret = net_ctrl_load(net, r, err);

	if (ret < 0)
		return ret;
	pairs = snap_get_u16(r);
	offloads = snap_get_u64(r);
	if (!pairs || pairs > net->pair_max)
		return err_set(err, EBADMSG, "%u queue pairs saved, there are %u", pairs,
			       net->pair_max);
	if (offloads & ~(dev->accepted & NET_GUEST_OFFLOADS))
		return err_set(err, EBADMSG, "saved offloads %#llx were not negotiated",
			       (unsigned long long)offloads);
	atomic_store(&net->pairs_used, pairs);
	atomic_store(&net->guest_offloads, offloads);
	atomic_store(&net->offloads_told, false);
	for (unsigned i = 0; i < net->pair_max; i++)
		net->pairs[i].starved = true;
	/* The network has to learn where the machine is now. */
	pthread_mutex_lock(&net->lock);
	net->announce = virtio_has(dev, VIRTIO_NET_F_GUEST_ANNOUNCE);
	pthread_mutex_unlock(&net->lock);
	loop_timer_arm(net->config_timer, 1);
	return 0;
}

static void config_fired(void *arg)
{
	virtio_config_changed(&((struct net *)arg)->dev);
}

/* Ends the back end, too. */
static void net_free_parts(struct net *net)
{
	if (net->be)
		net_attach(net->be, NULL, NULL);
	net_free(net->be);
	net_pcap_close(net->pcap);
	loop_timer_del(net->rx_timer);
	loop_timer_del(net->tx_timer);
	loop_timer_del(net->config_timer);
	pthread_mutex_destroy(&net->lock);
	free(net->pairs);
	free(net->bounce);
	free(net);
}

static void net_dev_free(struct virtio_dev *dev)
{
	struct net *net = net_of(dev);

	net_attach(net->be, NULL, NULL);
	virtio_dev_done(dev);
	net_free_parts(net);
}

static const struct virtio_dev_ops net_ops = {
	.name = "virtio-net",
	.device_id = VIRTIO_ID_NET,
	.class_code = PCI_CLASS_NETWORK_ETHERNET,
	.notify = net_notify,
	.config_read = net_config_read,
	.features_ok = net_features_ok,
	.reset = net_reset,
	.save = net_save,
	.load = net_load,
	.free = net_dev_free,
};

static int make_parts(struct net *net, const struct virtio_net_options *opt, struct err *err)
{
	int ret;

	net->bounce = malloc(NET_FRAME_MAX);
	net->pairs = calloc(net->pair_max, sizeof(*net->pairs));
	if (!net->bounce || !net->pairs)
		return err_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; i < net->pair_max; i++)
		net->pairs[i].starved = true;
	ret = loop_timer_add(net->dev.env.loop, net_rx_fired, net, &net->rx_timer);
	if (ret == 0)
		ret = loop_timer_add(net->dev.env.loop, tx_fired, net, &net->tx_timer);
	if (ret == 0)
		ret = loop_timer_add(net->dev.env.loop, config_fired, net, &net->config_timer);
	if (ret < 0)
		return err_set(err, -ret, "timer: %s", strerror(-ret));
	return opt->pcap ? net_pcap_open(opt->pcap, &net->pcap, err) : 0;
}

static uint64_t features_of(const struct net *net)
{
	uint64_t features = F(CSUM) | F(GUEST_CSUM) | F(MAC) | F(HOST_TSO4) | F(HOST_TSO6) |
			    F(HOST_ECN) | F(MRG_RXBUF) | F(STATUS) | F(CTRL_VQ) | F(CTRL_RX) |
			    F(CTRL_MAC_ADDR) | F(GUEST_ANNOUNCE);

	if (net->be->guest_gso)
		features |= F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN) | F(CTRL_GUEST_OFFLOADS);
	if (net->pair_max > 1)
		features |= F(MQ);
	if (net->mtu)
		features |= F(MTU);
	return features;
}

int virtio_net_new(const struct virtio_env *env, unsigned slot, struct net_backend *be,
		   const struct virtio_net_options *opt, struct virtio_dev **ret_dev,
		   struct err *err)
{
	struct net *net = calloc(1, sizeof(*net));
	int ret;

	if (!net)
		return err_set(err, ENOMEM, "virtio-net: out of memory");
	net->pair_max = opt->queue_pairs;
	net->mtu = (uint16_t)be->mtu;
	net->rate = opt->rate;
	net->dev.env = *env;
	net->be = be;
	memcpy(net->mac, opt->mac, ETH_ALEN);
	memcpy(net->own_mac, opt->mac, ETH_ALEN);
	atomic_store(&net->pairs_used, 1);
	atomic_store(&net->link_up, be->link_up);
	net_filter_reset(&net->filter);
	pthread_mutex_init(&net->lock, NULL);
	ret = make_parts(net, opt, err);
	if (ret < 0)
		err_prefix(err, ret, "virtio-net");
	else
		ret = virtio_dev_init(&net->dev, &net_ops, env, slot, features_of(net),
				      2 * net->pair_max + 1,
				      offsetof(struct virtio_net_config, mtu) + 2, err);
	if (ret < 0) {
		net->be = NULL; /* still the caller's */
		net_free_parts(net);
		return ret;
	}
	for (unsigned i = 0; i < net->pair_max; i++) {
		net->pairs[i].rx = &net->dev.queues[2 * i];
		net->pairs[i].tx = &net->dev.queues[2 * i + 1];
	}
	net_attach(be, &nic_ops, net);
	*ret_dev = &net->dev;
	return 0;
}
