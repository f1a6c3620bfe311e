/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Back ends of network cards: one small interface, made by net_open().
 *
 * Frames come and go as lists of buffers whose first is a virtio header of the
 * caller's own (struct virtio_net_hdr_v1; virtio 1.2, 5.1.6), checked by the
 * card before send() sees it. The rest is the Ethernet frame, without FCS.
 *
 * Threads: open, attach, receive and free on the loop thread; send and flush
 * on any thread, for one queue at a time, on the loop thread alone when the
 * back end says on_loop. The callbacks of struct net_nic_ops come on the loop
 * thread, without locks. A back end may take its own lock in any of its
 * operations, and calls back without it.
 */
#ifndef EYOT_NET_NET_H
#define EYOT_NET_NET_H

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/err.h"
#include "loop/loop.h"

#define NET_HDR_LEN sizeof(struct virtio_net_hdr_v1)
#define NET_FRAME_MIN 14
/* The largest IPv6 packet without jumbograms, its Ethernet head and a VLAN tag, rounded up */
#define NET_FRAME_MAX 65600
#define NET_QUEUES_MAX 8
#define NET_FORWARDS_MAX 32
#define NET_MTU_MIN 68
#define NET_MTU_MAX 65521

struct net_backend;

/* The card, as its back end sees it */
struct net_nic_ops {
	/* There may be frames to receive() on @queue; told once for each arrival (edge) */
	void (*readable)(void *opaque, unsigned queue);
	/* send() may be tried again after -EAGAIN */
	void (*writable)(void *opaque);
	/* The cable came or went */
	void (*link)(void *opaque, bool up);
};

struct net_backend_ops {
	/*
	 * Take the next frame into @iov, the header into iov[0]. The list has room for the
	 * largest frame. Return: the frame's bytes, the header not counted; -EAGAIN: none now.
	 */
	ssize_t (*receive)(struct net_backend *be, unsigned queue, const struct iovec *iov,
			   unsigned count);
	/* Return: 0, sent or lost as on any network; -EAGAIN: nothing was taken, wait for writable
	 */
	int (*send)(struct net_backend *be, unsigned queue, const struct iovec *iov, unsigned count,
		    size_t len);
	/* The end of a batch of send(); may be NULL */
	void (*flush)(struct net_backend *be, unsigned queue);
	/* Which GUEST_* features the driver takes, as a mask of feature bits; any thread; may be
	 * NULL */
	void (*set_offloads)(struct net_backend *be, uint64_t features);
	void (*free)(struct net_backend *be);
};

struct net_backend {
	const struct net_backend_ops *ops;
	unsigned queues;	       /* receive() has so many independent sources */
	bool guest_gso;		       /* receive() may give large and half-checksummed frames */
	bool on_loop;		       /* send() wants the loop thread */
	bool link_up;		       /* at first; later changes are told */
	unsigned mtu;		       /* what the card shall tell its guest; 0: nothing */
	const struct net_nic_ops *nic; /* NULL until attached */
	void *opaque;
};

enum net_kind { NET_USER, NET_TAP, NET_SWITCH };
#define NET_KINDS 3

/* A port of the host that leads to one of the guest; addresses of one family */
struct net_forward {
	bool udp;
	struct sockaddr_storage host, guest;
};

struct net_config {
	enum net_kind kind;
	unsigned queues; /* 1 to NET_QUEUES_MAX */
	unsigned mtu;	 /* 0: the back end's own */

	/* user */
	bool restricted;       /* nothing but the forwards */
	bool no_host_loopback; /* the gateway's address does not lead to the host's own ports */
	struct net_forward forwards[NET_FORWARDS_MAX];
	unsigned forward_count;

	/* tap */
	char *ifname, *bridge;	 /* NULL: a new name, no bridge */
	int fds[NET_QUEUES_MAX]; /* open descriptors of an interface; taken over by net_open() */
	unsigned fd_count;

	/*
	 * Called in the process that a user network gets of its own, when that has what it needs;
	 * NULL: the user network runs in this process. From a program with one thread.
	 */
	int (*confine)(struct err *err);

	/* switch */
	char *path;
	/* Instead of unix_connect(), where that is not allowed any more; NULL: that */
	int (*connect)(void *arg, const struct sockaddr_un *addr);
	void *connect_arg;
};

/** net_kind_name() - "user", "tap" or "switch" */
const char *net_kind_name(enum net_kind kind);

/**
 * net_open() - make the back end of one card
 * @cfg: checked by its reader as far as a text can be
 * Return: 0; -errno with a text that does not repeat the kind.
 */
int net_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
	     struct err *err);

/** net_attach() - tell @nic of frames from now on; loop thread */
void net_attach(struct net_backend *be, const struct net_nic_ops *nic, void *opaque);

/** net_free() - end it; the card is gone or detached (net_attach() with NULL); NULL is fine */
void net_free(struct net_backend *be);

/* The kinds, for net_open() */
int net_user_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		  struct err *err);
int net_tap_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		 struct err *err);
int net_port_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		  struct err *err);

/** net_user_own_process() - net_user_open() with the network in a process of its own (user_proc.c)
 */
int net_user_own_process(struct loop *loop, const struct net_config *cfg,
			 struct net_backend **ret_be, struct err *err);

/**
 * net_port_pair() - a port whose other end is a process of ours: frames keep their headers
 * @fd: the connected socket; taken over in any case. When it ends, the cable is gone for good.
 */
int net_port_pair(struct loop *loop, int fd, unsigned mtu, struct net_backend **ret_be,
		  struct err *err);

static inline void net_tell_readable(struct net_backend *be, unsigned queue)
{
	if (be->nic)
		be->nic->readable(be->opaque, queue);
}

static inline void net_tell_writable(struct net_backend *be)
{
	if (be->nic)
		be->nic->writable(be->opaque);
}

static inline void net_tell_link(struct net_backend *be, bool up)
{
	be->link_up = up;
	if (be->nic)
		be->nic->link(be->opaque, up);
}

#endif
