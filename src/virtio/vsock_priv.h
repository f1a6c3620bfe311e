/* SPDX-License-Identifier: Apache-2.0 */
/* The socket device's own: what vsock.c (queues) and vsock_conn.c (connections) share. */
#ifndef EYOT_VIRTIO_VSOCK_PRIV_H
#define EYOT_VIRTIO_VSOCK_PRIV_H

#include <linux/virtio_vsock.h>
#include <sys/queue.h>
#include <sys/un.h>

#include "virtio/virtio.h"

#define VSOCK_CID_HOST 2
#define VSOCK_CONNS_MAX 256
#define VSOCK_BUCKETS 256
#define VSOCK_BUF                                                                                  \
	((uint32_t)KIB(128)) /* bytes of the guest's that wait for the host; power of 2            \
			      */
#define VSOCK_RSTS_MAX 64    /* refusals that wait for a buffer */
#define VSOCK_STAGE_MAX 32   /* chains that one read from the host fills */
#define VSOCK_HDR_LEN sizeof(struct virtio_vsock_hdr)
#define VSOCK_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

enum vsock_state {
	VSOCK_HELLO,   /* a client of the host has not named a port yet */
	VSOCK_ASKED,   /* the guest was asked for a connection */
	VSOCK_OPEN,    /* both sides have it */
	VSOCK_CLOSING, /* the host's socket is closed, the guest does not know it for sure */
	VSOCK_DRAIN,   /* the guest has forgotten it, the host has not read all */
};

struct vsock_conn {
	struct vsock *vs;
	enum vsock_state state;
	unsigned slot; /* in vs->conns */
	uint32_t guest_port, host_port;
	struct vsock_conn *next_hash;
	TAILQ_ENTRY(vsock_conn) ready;
	bool queued; /* in the list of those with something for the guest */
	unsigned
	    pending; /* packets that the guest is to be sent, a mask of 1 << VIRTIO_VSOCK_OP_* */
	uint32_t told, heard; /* VIRTIO_VSOCK_SHUTDOWN_*: said to the guest, said by it */
	uint32_t shut;	      /* of heard, what the socket knows */
	uint64_t deadline_ns; /* of the state; 0: none */

	int fd; /* -1: closed */
	struct loop_fd *source;
	bool readable, writable; /* as the edges told, until the socket says otherwise */
	bool hung;		 /* nobody is at its other end */

	/* From the guest: what the socket did not take at once */
	uint8_t *ring; /* VSOCK_BUF bytes, or NULL: never needed so far */
	uint32_t head, tail;
	uint32_t fwd_cnt, fwd_told; /* bytes gone to the host; what the guest knows of that */

	/* To the guest */
	uint32_t peer_alloc, peer_fwd, sent;
	uint32_t guess; /* bytes of the latest read: the next one may bring as much */
};

struct vsock {
	struct virtio_dev dev;
	uint32_t cid;
	int dir_fd, cwd_fd; /* where the sockets are; where this process is */
	char *path;	    /* as it was given */
	char base[80];	    /* the listening socket's name in dir_fd */
	int listen_fd;
	struct loop_fd *listen_source;
	struct loop_timer *work, *reap;
	atomic_bool was_reset; /* the connections belong to a driver that is gone */

	bool rx_starved;    /* under the receive queue's lock: its next notification starts work */
	bool event_pending; /* under the event queue's lock: tell of a transport reset */

	/* The loop thread's alone */
	struct vsock_conn *conns[VSOCK_CONNS_MAX], *buckets[VSOCK_BUCKETS];
	TAILQ_HEAD(, vsock_conn) ready;
	struct virtio_vsock_hdr rsts[VSOCK_RSTS_MAX];
	unsigned rst_count;
	uint32_t next_port;
	struct virtq_chain tx_chain, rx_chain;
	struct {
		uint16_t head;
		unsigned first, count; /* its part of stage_iov, headers included */
		uint32_t room;	       /* bytes behind the header */
	} stage[VSOCK_STAGE_MAX];
	unsigned stage_count, stage_used;
	struct iovec stage_iov[2 * VIRTQ_MAX_CHAIN], data_iov[2 * VIRTQ_MAX_CHAIN];
	unsigned stage_iovs;
};

/** vsock_find() - the connection of these ports; NULL: there is none */
struct vsock_conn *vsock_find(struct vsock *vs, uint32_t guest_port, uint32_t host_port);

/** vsock_guest_connects() - the guest asks for @hdr's ports; 0 or -errno: refuse it */
int vsock_guest_connects(struct vsock *vs, const struct virtio_vsock_hdr *hdr);

/**
 * vsock_conn_packet() - the guest sent a packet of @conn, which may be gone afterwards
 * @iov: starts with @hdr; data of @hdr->len bytes follows
 */
void vsock_conn_packet(struct vsock_conn *conn, const struct virtio_vsock_hdr *hdr,
		       const struct iovec *iov, unsigned count);

/** vsock_conn_credit() - bytes the guest has room for */
uint32_t vsock_conn_credit(const struct vsock_conn *conn);

/**
 * vsock_conn_read() - bytes of the host's for the guest
 * Return: how many; 0: none now, or none any more (@conn has noted it).
 */
size_t vsock_conn_read(struct vsock_conn *conn, struct iovec *iov, unsigned count);

/** vsock_conn_next() - the next packet for the guest that is no data; its VIRTIO_VSOCK_OP_*, 0:
 * none
 */
unsigned vsock_conn_next(struct vsock_conn *conn);

/** vsock_conn_sent() - the guest got @op; @conn is gone after a RST */
void vsock_conn_sent(struct vsock_conn *conn, unsigned op);

/** vsock_conn_queue() - put @conn where it belongs: among those with something for the guest, or
 * not
 */
void vsock_conn_queue(struct vsock_conn *conn);

/** vsock_drop_all() - forget all connections and refusals */
void vsock_drop_all(struct vsock *vs);

/** vsock_host_open(), vsock_host_close() - the listening socket */
int vsock_host_open(struct vsock *vs, const char *path, struct err *err);
void vsock_host_close(struct vsock *vs);

/** vsock_reap_fired() - end what is overdue; @arg: the device */
void vsock_reap_fired(void *arg);

/** vsock_run() - carry packets both ways as far as there are any; loop thread */
void vsock_run(struct vsock *vs);

#endif
