/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio socket device (virtio 1.2, 5.10): stream connections between the guest
 * and UNIX sockets of the host; those are in vsock_conn.c.
 *
 * Threads. Notifications only wake the loop thread, which does everything else:
 * connections are opened and closed there anyway, no lock guards them, and all
 * system calls are one thread's. A reset, which may come on a vCPU's thread,
 * leaves a mark, and whatever the loop thread does here begins with a look at it.
 *
 * From the guest: packets go to the connection's socket straight from the
 * guest's buffers; what the socket does not take waits in a ring of VSOCK_BUF
 * bytes, which is also what the guest may send ahead (buf_alloc).
 *
 * To the guest: connections with something to say take turns. A read fills the
 * data parts of up to VSOCK_STAGE_MAX chains at once, because Linux offers 4 KiB
 * each; then every chain gets its header. Packets without data come first.
 *
 * Invariants
 * 1. No chain is out between two calls, so nothing needs draining.
 * 2. A connection never has more data on the way to the guest than the guest
 *    said it has room for, and the guest's data never exceeds the ring: a guest
 *    that sends more loses the connection.
 * 3. Replies to what has no connection wait in `rsts`. While that is full the
 *    transmit queue is not looked at (5.10.6.1.1): a guest that offers no
 *    receive buffers holds up itself alone.
 * 4. One call carries at most BATCH_MAX packets each way; a timer goes on.
 *
 * Connections are not saved: their other ends stay behind. A machine that is
 * loaded gets the event for that (5.10.6.7) and its guest closes them.
 */
#include <linux/virtio_ids.h>

#include "base/util.h"
#include "virtio/vsock_priv.h"

#define PCI_CLASS_OTHER 0x00ff00
#define QUEUE_RX 0
#define QUEUE_TX 1
#define QUEUE_EVENT 2
#define BATCH_MAX 128
#define READ_MAX ((uint32_t)KIB(64)) /* bytes of one turn of a connection */

static struct vsock *vsock_of(struct virtio_dev *dev)
{
	return container_of(dev, struct vsock, dev);
}

/* ---- from the guest ---- */

static void refuse(struct vsock *vs, const struct virtio_vsock_hdr *hdr)
{
	if (hdr->op == VIRTIO_VSOCK_OP_RST)
		return; /* never answered */
	vs->rsts[vs->rst_count++] = (struct virtio_vsock_hdr) { .src_cid = hdr->dst_cid,
								.dst_cid = hdr->src_cid,
								.src_port = hdr->dst_port,
								.dst_port = hdr->src_port,
								.type = hdr->type,
								.op = VIRTIO_VSOCK_OP_RST };
}

/* The chain in tx_chain; the queue is not locked. There is room for one refusal. */
static void take_packet(struct vsock *vs, const struct virtio_vsock_hdr *hdr)
{
	struct vsock_conn *conn;

	if (hdr->src_cid != vs->cid)
		return; /* somebody else's: nobody is there to be answered */
	if (hdr->dst_cid != VSOCK_CID_HOST || hdr->type != VIRTIO_VSOCK_TYPE_STREAM) {
		refuse(vs, hdr);
		return;
	}
	conn = vsock_find(vs, hdr->src_port, hdr->dst_port);
	if (conn)
		vsock_conn_packet(conn, hdr, vs->tx_chain.iov, vs->tx_chain.out_count);
	else if (hdr->op != VIRTIO_VSOCK_OP_REQUEST || vsock_guest_connects(vs, hdr) < 0)
		refuse(vs, hdr);
}

static void tx_run(struct vsock *vs)
{
	struct virtq *vq = &vs->dev.queues[QUEUE_TX];
	struct virtq_chain *chain = &vs->tx_chain;
	unsigned taken = 0;

	virtq_lock(vq);
	do {
		virtq_kick_disable(vq);
		while (vs->rst_count < VSOCK_RSTS_MAX && pci_bus_master(&vs->dev.pci) &&
		       virtq_pop(vq, chain) > 0) {
			struct virtio_vsock_hdr hdr = { .len = UINT32_MAX };

			iov_copy_from(chain->iov, chain->out_count, 0, &hdr, sizeof(hdr));
			if (chain->out_len < sizeof(hdr) ||
			    hdr.len > chain->out_len - sizeof(hdr)) {
				virtq_drop(vq);
				virtq_break(vq, "a packet that is shorter than it says");
				goto out;
			}
			pthread_mutex_unlock(&vq->lock);
			take_packet(vs, &hdr);
			virtq_lock(vq);
			virtq_push(vq, chain, 0);
			if (++taken == BATCH_MAX) {
				loop_timer_arm(vs->work, 1);
				goto out;
			}
		}
		if (vs->rst_count == VSOCK_RSTS_MAX)
			break; /* receive buffers bring us back */
	} while (virtq_kick_enable(vq) && pci_bus_master(&vs->dev.pci));
out:
	virtq_signal(vq);
	virtq_unlock_done(vq);
}

/* ---- to the guest ---- */

/* Have chains for @len bytes of data, at least one chain. Returns 1; 0: there is none; -EINVAL. */
static int stage(struct vsock *vs, struct virtq *vq, uint32_t len)
{
	struct virtq_chain *c = &vs->rx_chain;
	uint64_t room = 0;

	vs->stage_count = vs->stage_used = vs->stage_iovs = 0;
	while (vs->stage_count < VSOCK_STAGE_MAX && (!vs->stage_count || room < len)) {
		int ret = virtq_pop(vq, c);

		if (ret <= 0)
			return ret < 0 ? ret : vs->stage_count > 0;
		if (c->in_len <= VSOCK_HDR_LEN) {
			virtq_drop(vq);
			return virtq_break(vq, "a receive buffer without room for header and data");
		}
		if (vs->stage_iovs + c->in_count > ARRAY_SIZE(vs->stage_iov)) {
			virtq_unpop(vq);
			return 1;
		}
		memcpy(vs->stage_iov + vs->stage_iovs, c->iov + c->out_count,
		       c->in_count * sizeof(struct iovec));
		vs->stage[vs->stage_count].head = c->head;
		vs->stage[vs->stage_count].first = vs->stage_iovs;
		vs->stage[vs->stage_count].count = c->in_count;
		vs->stage[vs->stage_count].room =
		    (uint32_t)min_u64(c->in_len - VSOCK_HDR_LEN, READ_MAX);
		room += vs->stage[vs->stage_count].room;
		vs->stage_iovs += c->in_count;
		vs->stage_count++;
	}
	return 1;
}

/* Chains that were not used go back, and those used become visible. */
static void unstage(struct vsock *vs, struct virtq *vq)
{
	for (unsigned i = vs->stage_used; i < vs->stage_count; i++)
		virtq_unpop(vq);
	virtq_publish(vq, vs->stage_used);
	vs->stage_count = vs->stage_used = 0;
}

/* The next staged chain, whose data is in place, becomes a packet. */
static void give(struct vsock *vs, struct virtq *vq, const struct virtio_vsock_hdr *hdr)
{
	unsigned i = vs->stage_used;
	const struct iovec *iov = vs->stage_iov + vs->stage[i].first;
	uint32_t len = VSOCK_HDR_LEN + hdr->len;

	iov_copy_to(iov, vs->stage[i].count, 0, hdr, sizeof(*hdr));
	virtq_note(vq, iov, vs->stage[i].count, len);
	virtq_fill(vq, i, vs->stage[i].head, len);
	vs->stage_used++;
}

static void fill_header(struct vsock_conn *conn, struct virtio_vsock_hdr *hdr, unsigned op)
{
	*hdr = (struct virtio_vsock_hdr) { .src_cid = VSOCK_CID_HOST,
					   .dst_cid = conn->vs->cid,
					   .src_port = conn->host_port,
					   .dst_port = conn->guest_port,
					   .type = VIRTIO_VSOCK_TYPE_STREAM,
					   .op = (uint16_t)op,
					   .flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? conn->told : 0,
					   .buf_alloc = VSOCK_BUF,
					   .fwd_cnt = conn->fwd_cnt };
	conn->fwd_told = conn->fwd_cnt;
}

/* Data of @conn into the staged chains */
static void give_data(struct vsock *vs, struct virtq *vq, struct vsock_conn *conn)
{
	uint32_t room = vsock_conn_credit(conn);
	unsigned iovs = 0;
	size_t len;

	for (unsigned i = 0; i < vs->stage_count && room; i++) {
		uint32_t part = (uint32_t)min_u64(vs->stage[i].room, room);

		iovs += iov_slice(vs->data_iov + iovs, vs->stage_iov + vs->stage[i].first,
				  vs->stage[i].count, VSOCK_HDR_LEN, part);
		room -= part;
	}
	len = vsock_conn_read(conn, vs->data_iov, iovs);
	for (unsigned i = 0; len; i++) {
		struct virtio_vsock_hdr hdr;

		fill_header(conn, &hdr, VIRTIO_VSOCK_OP_RW);
		hdr.len = (uint32_t)min_u64(vs->stage[i].room, len);
		give(vs, vq, &hdr);
		len -= hdr.len;
	}
}

/* One turn: the eldest refusal, or what the next connection has. Returns as stage(). */
static int rx_turn(struct vsock *vs, struct virtq *vq)
{
	struct vsock_conn *conn = TAILQ_FIRST(&vs->ready);
	struct virtio_vsock_hdr hdr;
	unsigned op = 0;
	uint32_t want = 0;
	int ret;

	if (!vs->rst_count) {
		op = vsock_conn_next(conn);
		if (!op)
			want = (uint32_t)min_u64(min_u64(vsock_conn_credit(conn), READ_MAX),
						 max_u64(PAGE_SIZE, 2 * (uint64_t)conn->guess));
	}
	ret = stage(vs, vq, want);
	if (ret <= 0)
		return ret;
	if (vs->rst_count) {
		give(vs, vq, &vs->rsts[0]);
		memmove(vs->rsts, vs->rsts + 1, --vs->rst_count * sizeof(vs->rsts[0]));
	} else if (op) {
		fill_header(conn, &hdr, op);
		give(vs, vq, &hdr);
		vsock_conn_sent(conn, op);
	} else {
		give_data(vs, vq, conn);
		TAILQ_REMOVE(&vs->ready, conn, ready);
		conn->queued = false;
		vsock_conn_queue(conn); /* behind the others */
	}
	unstage(vs, vq);
	return 1;
}

static void rx_run(struct vsock *vs)
{
	struct virtq *vq = &vs->dev.queues[QUEUE_RX];
	unsigned turns = 0;

	virtq_lock(vq);
	if (!vq->running || !pci_bus_master(&vs->dev.pci)) {
		vs->rx_starved = true; /* its start is a notification, too */
		goto out;
	}
	virtq_kick_disable(vq);
	while (vs->rst_count || !TAILQ_EMPTY(&vs->ready)) {
		int ret;

		if (turns++ == BATCH_MAX) {
			loop_timer_arm(vs->work, 1);
			break;
		}
		ret = rx_turn(vs, vq);
		if (ret < 0) {
			unstage(vs, vq);
			break;
		}
		if (ret == 0 && !virtq_kick_enable(vq)) {
			vs->rx_starved = true;
			break;
		}
	}
	virtq_signal(vq);
out:
	virtq_unlock_done(vq);
}

void vsock_run(struct vsock *vs)
{
	if (atomic_exchange(&vs->was_reset, false))
		vsock_drop_all(vs);
	rx_run(vs);
	tx_run(vs);
	if (vs->rst_count || !TAILQ_EMPTY(&vs->ready))
		rx_run(vs);
}

static void work_fired(void *arg)
{
	vsock_run(arg);
}

/* ---- device ---- */

/* Event queue's lock held, any thread */
static void send_event(struct vsock *vs, struct virtq *vq)
{
	static const struct virtio_vsock_event event = { VIRTIO_VSOCK_EVENT_TRANSPORT_RESET };
	struct virtq_chain *chain;

	if (!vs->event_pending)
		return;
	chain = malloc(sizeof(*chain)); /* once in a machine's life */
	if (!chain)
		return;
	if (virtq_pop(vq, chain) > 0) {
		if (chain->in_len < sizeof(event)) {
			virtq_drop(vq);
			virtq_break(vq, "an event buffer without room for an event");
		} else {
			iov_copy_to(chain->iov + chain->out_count, chain->in_count, 0, &event,
				    sizeof(event));
			virtq_push(vq, chain, sizeof(event));
			virtq_signal(vq);
			vs->event_pending = false;
		}
	}
	free(chain);
}

static void vsock_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct vsock *vs = vsock_of(dev);

	if (vq->index == QUEUE_EVENT) {
		send_event(vs, vq);
	} else if (vq->index == QUEUE_TX) {
		virtq_kick_disable(vq);
		loop_timer_arm(vs->work, 1);
	} else if (vs->rx_starved) {
		vs->rx_starved = false;
		loop_timer_arm(vs->work, 1);
	}
}

static void vsock_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct virtio_vsock_config config = { .guest_cid = vsock_of(dev)->cid };

	memcpy(buf, (const uint8_t *)&config + off, len);
}

static void set_event(struct vsock *vs, bool pending)
{
	virtq_lock(&vs->dev.queues[QUEUE_EVENT]);
	vs->event_pending = pending;
	pthread_mutex_unlock(&vs->dev.queues[QUEUE_EVENT].lock);
}

static void vsock_reset(struct virtio_dev *dev)
{
	struct vsock *vs = vsock_of(dev);

	set_event(vs, false);
	atomic_store(&vs->was_reset, true);
	loop_timer_arm(vs->work, 1);
}

/* Nothing is saved: a loaded machine has no connections, and its driver is told so. */
static int vsock_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	set_event(vsock_of(dev), true);
	return 0;
}

static void free_parts(struct vsock *vs)
{
	vsock_drop_all(vs);
	vsock_host_close(vs);
	loop_timer_del(vs->work);
	loop_timer_del(vs->reap);
	free(vs);
}

static void vsock_free(struct virtio_dev *dev)
{
	virtio_dev_done(dev);
	free_parts(vsock_of(dev));
}

static const struct virtio_dev_ops vsock_ops = {
	.name = "virtio-vsock",
	.device_id = VIRTIO_ID_VSOCK,
	.class_code = PCI_CLASS_OTHER,
	.notify = vsock_notify,
	.config_read = vsock_config_read,
	.reset = vsock_reset,
	.load = vsock_load,
	.free = vsock_free,
};

int virtio_vsock_new(const struct virtio_env *env, unsigned slot, uint32_t cid, const char *path,
		     struct virtio_dev **ret_dev, struct err *err)
{
	struct vsock *vs = calloc(1, sizeof(*vs));
	int ret;

	if (!vs)
		return err_set(err, ENOMEM, "virtio-vsock: out of memory");
	vs->cid = cid;
	vs->dir_fd = vs->cwd_fd = vs->listen_fd = -1;
	vs->rx_starved = true;
	vs->dev.env = *env;
	TAILQ_INIT(&vs->ready);
	ret = loop_timer_add(env->loop, work_fired, vs, &vs->work);
	if (ret == 0)
		ret = loop_timer_add(env->loop, vsock_reap_fired, vs, &vs->reap);
	if (ret < 0)
		err_set(err, -ret, "timer: %s", strerror(-ret));
	else
		ret = vsock_host_open(vs, path, err);
	if (ret < 0)
		err_prefix(err, ret, "vsock");
	else
		ret = virtio_dev_init(&vs->dev, &vsock_ops, env, slot, 0, 3,
				      sizeof(struct virtio_vsock_config), err);
	if (ret < 0) {
		free_parts(vs);
		return ret;
	}
	*ret_dev = &vs->dev;
	return 0;
}
