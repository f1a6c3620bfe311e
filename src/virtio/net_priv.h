/* SPDX-License-Identifier: Apache-2.0 */
/* The network device's own: what net.c, net_rx.c (receive) and net_ctrl.c (commands) share. */
#ifndef EYOT_VIRTIO_NET_PRIV_H
#define EYOT_VIRTIO_NET_PRIV_H

#include <linux/if_ether.h>

#include "net/net.h"
#include "net/pcap.h"
#include "virtio/virtio.h"

#define NET_RX_IOV_MAX 512 /* buffers that wait to be filled */
#define NET_FILTER_MAX 64  /* addresses of each of both tables */

/* A chain of the receive queue that was taken and not filled yet */
struct net_rx_chain {
	uint16_t head;
	uint16_t iov_count;
	uint32_t len;
};

struct net_pair {
	struct virtq *rx, *tx;

	/* Under the receive queue's lock, loop thread */
	struct virtq_chain rx_chain;		    /* the one just taken */
	struct net_rx_chain staged[VIRTQ_MAX_SIZE]; /* in their order ... */
	struct iovec staged_iov[NET_RX_IOV_MAX];    /* ... with their buffers */
	unsigned staged_first, staged_count, iov_first, iov_count;
	uint64_t staged_len; /* bytes of all */
	size_t guess;	     /* bytes of the latest frame: the next one may be as large */
	bool starved;	     /* frames may be waiting; more buffers bring them in */

	/* Under the transmit queue's lock */
	struct virtq_chain tx_chain;
	struct iovec tx_iov[VIRTQ_MAX_CHAIN + 1];
};

/* Bytes a second; a frame may overdraw it, the next one waits. */
struct net_bucket {
	int64_t level;	  /* bytes */
	uint64_t time_ns; /* of the level */
};

struct net_filter {
	bool promisc, allmulti;
	bool all[2]; /* too many addresses were given: [0] unicast, [1] multicast */
	unsigned count[2];
	uint8_t macs[2][NET_FILTER_MAX][ETH_ALEN];
};

struct net {
	struct virtio_dev dev;
	struct net_backend *be;
	struct net_pcap *pcap; /* NULL: none */
	unsigned pair_max;
	uint16_t mtu;
	uint64_t rate;			 /* bytes a second, each way; 0: no limit */
	struct loop_timer *rx_timer;	 /* looks for frames that wait outside */
	struct loop_timer *tx_timer;	 /* looks for frames that wait in the queues */
	struct loop_timer *config_timer; /* tells the driver of changed configuration */
	atomic_uint pairs_used;
	atomic_bool link_up; /* what the driver is shown */
	bool unplugged;	     /* the cable, by virtio_net_set_link(); loop thread */
	_Atomic uint64_t rx_packets, rx_bytes, rx_dropped;
	_Atomic uint64_t tx_packets, tx_bytes, tx_dropped;
	atomic_bool offloads_told; /* the back end knows guest_offloads */
	_Atomic uint64_t guest_offloads;

	/* Innermost: guards what follows */
	pthread_mutex_t lock;
	uint8_t mac[ETH_ALEN], own_mac[ETH_ALEN]; /* own: after a reset */
	struct net_filter filter;
	bool announce; /* the driver shall tell the network where it is */
	struct net_bucket rx_bucket, tx_bucket;

	uint8_t *bounce; /* the rest of a frame larger than expected; loop thread */
	struct net_pair *pairs;
	struct virtq_chain ctrl_chain; /* under the control queue's lock */
};

#define NET_GUEST_OFFLOADS                                                                         \
	(1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 |                       \
	 1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN)

#define NET_BATCH_MAX 128 /* frames that one call takes */

static inline void net_count(_Atomic uint64_t *figure, uint64_t n)
{
	atomic_fetch_add_explicit(figure, n, memory_order_relaxed);
}

/** net_bucket_wait() - 0: a frame may go; else when to look again, in clock_now_ns() */
uint64_t net_bucket_wait(struct net *net, struct net_bucket *b);
void net_bucket_take(struct net *net, struct net_bucket *b, size_t len);

/** net_rx_run() - take frames of the back end's queue @source in; loop thread, no lock held */
void net_rx_run(struct net *net, unsigned source);

/** net_rx_fired() - the same for all queues; @arg: the device */
void net_rx_fired(void *arg);

/** net_rx_notify() - the driver made receive buffers available; queue lock held */
void net_rx_notify(struct net *net, struct net_pair *p);

/** net_ctrl_index() - which queue takes commands; it depends on what was negotiated */
static inline unsigned net_ctrl_index(const struct net *net)
{
	return virtio_has(&net->dev, VIRTIO_NET_F_MQ) ? 2 * net->pair_max : 2;
}

/** net_ctrl_notify() - obey the commands in the control queue @vq, whose lock is held */
void net_ctrl_notify(struct net *net, struct virtq *vq);

/** net_filter_reset() - as after a reset: everything is received */
void net_filter_reset(struct net_filter *f);

/** net_filter_takes() - whether the guest wants a frame for @dst; net->lock held */
bool net_filter_takes(const struct net *net, const uint8_t *dst);

/** net_ctrl_save(), net_ctrl_load() - addresses and filter */
void net_ctrl_save(struct net *net, struct snap_writer *w);
int net_ctrl_load(struct net *net, struct snap_reader *r, struct err *err);

#endif
