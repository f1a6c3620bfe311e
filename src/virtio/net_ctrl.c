/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control queue of a network device (virtio 1.2, 5.1.6.5) and what its
 * commands set. A command that makes no sense is answered with an error; one
 * that has no room for an answer breaks the queue.
 */
#include "virtio/net_priv.h"

#include "base/util.h"

#define COMMAND_HEAD sizeof(struct virtio_net_ctrl_hdr)
#define COMMANDS_MAX VIRTQ_MAX_SIZE /* in one go */

struct command {
	const struct virtq_chain *chain;
	uint8_t class, cmd;
	uint64_t len; /* bytes after the head */
};

/* Copy @len bytes from @off on, which must all be there. */
static bool take(const struct command *c, uint64_t off, void *buf, size_t len)
{
	return off + len <= c->len && iov_copy_from(c->chain->iov, c->chain->out_count,
						    COMMAND_HEAD + off, buf, len) == len;
}

void net_filter_reset(struct net_filter *f)
{
	*f = (struct net_filter) { .promisc = true };
}

bool net_filter_takes(const struct net *net, const uint8_t *dst)
{
	static const uint8_t broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct net_filter *f = &net->filter;
	bool multi = dst[0] & 1;

	if (f->promisc || f->all[multi] || (multi && f->allmulti) ||
	    !memcmp(dst, broadcast, ETH_ALEN) || (!multi && !memcmp(dst, net->mac, ETH_ALEN)))
		return true;
	for (unsigned i = 0; i < f->count[multi]; i++)
		if (!memcmp(dst, f->macs[multi][i], ETH_ALEN))
			return true;
	return false;
}

static bool set_rx_mode(struct net *net, const struct command *c)
{
	uint8_t on;

	if (c->len != 1 || !take(c, 0, &on, 1))
		return false;
	pthread_mutex_lock(&net->lock);
	if (c->cmd == VIRTIO_NET_CTRL_RX_PROMISC)
		net->filter.promisc = on;
	else if (c->cmd == VIRTIO_NET_CTRL_RX_ALLMULTI)
		net->filter.allmulti = on;
	pthread_mutex_unlock(&net->lock);
	return c->cmd == VIRTIO_NET_CTRL_RX_PROMISC || c->cmd == VIRTIO_NET_CTRL_RX_ALLMULTI;
}

/* Two tables, each its length and the addresses: unicast, multicast */
static bool set_mac_table(struct net *net, const struct command *c)
{
	struct net_filter f = { .promisc = false };
	uint64_t off = 0;

	for (unsigned t = 0; t < 2; t++) {
		uint32_t entries;

		if (!take(c, off, &entries, sizeof(entries)))
			return false;
		off += sizeof(entries);
		if (entries > (c->len - off) / ETH_ALEN)
			return false;
		f.all[t] = entries > NET_FILTER_MAX;
		f.count[t] = f.all[t] ? 0 : entries;
		if (!take(c, off, f.macs[t], f.count[t] * ETH_ALEN))
			return false;
		off += (uint64_t)entries * ETH_ALEN;
	}
	if (off != c->len)
		return false;
	pthread_mutex_lock(&net->lock);
	f.promisc = net->filter.promisc;
	f.allmulti = net->filter.allmulti;
	net->filter = f;
	pthread_mutex_unlock(&net->lock);
	return true;
}

static bool set_mac(struct net *net, const struct command *c)
{
	uint8_t mac[ETH_ALEN];

	if (c->len != ETH_ALEN || !take(c, 0, mac, ETH_ALEN) || mac[0] & 1)
		return false;
	pthread_mutex_lock(&net->lock);
	memcpy(net->mac, mac, ETH_ALEN);
	pthread_mutex_unlock(&net->lock);
	return true;
}

static bool set_pairs(struct net *net, const struct command *c)
{
	uint16_t pairs;

	if (c->cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || c->len != sizeof(pairs) ||
	    !take(c, 0, &pairs, sizeof(pairs)) || !pairs || pairs > net->pair_max)
		return false;
	atomic_store(&net->pairs_used, pairs);
	return true;
}

static bool set_offloads(struct net *net, const struct command *c)
{
	uint64_t offloads;

	if (c->cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || c->len != sizeof(offloads) ||
	    !take(c, 0, &offloads, sizeof(offloads)) ||
	    offloads & ~(net->dev.accepted & NET_GUEST_OFFLOADS))
		return false;
	atomic_store(&net->guest_offloads, offloads);
	if (net->be->ops->set_offloads)
		net->be->ops->set_offloads(net->be, offloads);
	return true;
}

static bool announced(struct net *net, const struct command *c)
{
	if (c->cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK || c->len)
		return false;
	pthread_mutex_lock(&net->lock);
	net->announce = false;
	pthread_mutex_unlock(&net->lock);
	return true;
}

static bool obey(struct net *net, const struct command *c)
{
	static const uint8_t needs[] = {
		[VIRTIO_NET_CTRL_RX] = VIRTIO_NET_F_CTRL_RX,
		[VIRTIO_NET_CTRL_MAC] = VIRTIO_NET_F_CTRL_RX,
		[VIRTIO_NET_CTRL_ANNOUNCE] = VIRTIO_NET_F_GUEST_ANNOUNCE,
		[VIRTIO_NET_CTRL_MQ] = VIRTIO_NET_F_MQ,
		[VIRTIO_NET_CTRL_GUEST_OFFLOADS] = VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
	};
	bool is_mac = c->class == VIRTIO_NET_CTRL_MAC && c->cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET;

	if (c->class >= ARRAY_SIZE(needs) ||
	    !virtio_has(&net->dev, is_mac ? VIRTIO_NET_F_CTRL_MAC_ADDR : needs[c->class]))
		return false;
	switch (c->class) {
	case VIRTIO_NET_CTRL_RX:
		return set_rx_mode(net, c);
	case VIRTIO_NET_CTRL_MAC:
		return is_mac ? set_mac(net, c)
			      : c->cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET && set_mac_table(net, c);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return announced(net, c);
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(net, c);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return set_offloads(net, c);
	default: /* VLAN filter: not offered */
		return false;
	}
}

static int run_command(struct net *net, struct virtq *vq)
{
	const struct virtq_chain *chain = &net->ctrl_chain;
	struct command c = { .chain = chain };
	uint8_t head[COMMAND_HEAD], ack;

	if (chain->out_len < COMMAND_HEAD || !chain->in_len) {
		virtq_drop(vq);
		return virtq_break(vq, "a command without head or room for an answer");
	}
	iov_copy_from(chain->iov, chain->out_count, 0, head, sizeof(head));
	c.class = head[0];
	c.cmd = head[1];
	c.len = chain->out_len - COMMAND_HEAD;
	ack = obey(net, &c) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	iov_copy_to(chain->iov + chain->out_count, chain->in_count, 0, &ack, 1);
	virtq_push(vq, chain, 1);
	return 0;
}

void net_ctrl_notify(struct net *net, struct virtq *vq)
{
	unsigned taken = 0;

	do {
		virtq_kick_disable(vq);
		while (virtq_pop(vq, &net->ctrl_chain) > 0) {
			if (run_command(net, vq) < 0)
				return;
			if (++taken == COMMANDS_MAX) {
				virtio_resume_soon(&net->dev);
				goto out;
			}
		}
	} while (virtq_kick_enable(vq));
out:
	virtq_signal(vq);
}

void net_ctrl_save(struct net *net, struct snap_writer *w)
{
	const struct net_filter *f = &net->filter;

	pthread_mutex_lock(&net->lock);
	snap_put_bytes(w, net->mac, ETH_ALEN);
	snap_put_bytes(w, net->own_mac, ETH_ALEN);
	snap_put_u8(w, (uint8_t)(f->promisc | f->allmulti << 1));
	for (unsigned t = 0; t < 2; t++) {
		snap_put_u8(w, f->all[t]);
		snap_put_u8(w, (uint8_t)f->count[t]);
		snap_put_bytes(w, f->macs[t], f->count[t] * ETH_ALEN);
	}
	pthread_mutex_unlock(&net->lock);
}

int net_ctrl_load(struct net *net, struct snap_reader *r, struct err *err)
{
	struct net_filter f = { .promisc = false };
	uint8_t mac[ETH_ALEN], own[ETH_ALEN], modes;

	snap_get_bytes(r, mac, ETH_ALEN);
	snap_get_bytes(r, own, ETH_ALEN);
	modes = snap_get_u8(r);
	f.promisc = modes & 1;
	f.allmulti = modes & 2;
	for (unsigned t = 0; t < 2; t++) {
		f.all[t] = snap_get_u8(r);
		f.count[t] = snap_get_u8(r);
		if (f.count[t] > NET_FILTER_MAX)
			return err_set(err, EBADMSG, "%u addresses saved, at most %u fit",
				       f.count[t], NET_FILTER_MAX);
		snap_get_bytes(r, f.macs[t], f.count[t] * ETH_ALEN);
	}
	pthread_mutex_lock(&net->lock);
	memcpy(net->mac, mac, ETH_ALEN);
	memcpy(net->own_mac, own, ETH_ALEN);
	net->filter = f;
	pthread_mutex_unlock(&net->lock);
	return 0;
}
