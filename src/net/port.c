/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port of a switch: frames over a UNIX stream socket (stream.h). The other
 * end is eyot-switch, or anything else that listens and speaks this framing,
 * passt for example.
 *
 * The connection is the cable. When it ends the guest sees its link go down;
 * from then on a new one is tried every RETRY_NS, and the link comes back.
 *
 * A frame on its way out is finished in software (checksum, segments) in a
 * private copy and put into the stream's ring; a batch is sent with one system
 * call. While ring and socket are full, frames stay in the guest's queue.
 *
 * A port of our own (net_port_pair()) is the same but for two things: frames go and
 * come whole, their headers before them, as the other end does what there
 * is to do; and there is nothing to connect to again.
 *
 * Threads: connecting, ending and everything about input happen on the loop
 * thread; `lock` guards `connected`, `stream` out and `frame` against senders.
 */
#include <pthread.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"
#include "net/stream.h"

#define RING_SIZE KIB(512) /* a frame in its smallest segments fits */
#define RETRY_NS 500000000ull

struct port {
	struct net_backend be;
	struct loop *loop;
	int (*connect)(void *arg, const struct sockaddr_un *addr);
	void *connect_arg;
	struct sockaddr_un addr; /* of a pair: unused */
	bool is_pair;
	struct loop_fd *source;
	struct loop_timer *retry; /* also ends a connection that is broken */
	bool broken;

	pthread_mutex_t lock;
	bool connected;
	struct net_stream stream;
	uint8_t frame[NET_FRAME_MAX], segment[NET_FRAME_MAX];
};

static struct port *port_of(struct net_backend *be)
{
	return container_of(be, struct port, be);
}

static void port_event(void *arg, uint32_t events)
{
	struct port *port = arg;

	if (events & EPOLLOUT) {
		pthread_mutex_lock(&port->lock);
		if (port->connected)
			net_stream_flush(&port->stream); /* an error shows when reading, too */
		pthread_mutex_unlock(&port->lock);
		net_tell_writable(&port->be);
	}
	if (events & ~(uint32_t)EPOLLOUT)
		net_tell_readable(&port->be, 0);
}

/* Begin on a connected socket, which is taken over. */
static int begin(struct port *port, int fd)
{
	int ret;

	pthread_mutex_lock(&port->lock);
	ret = net_stream_init(&port->stream, fd, RING_SIZE);
	if (ret < 0) {
		close(fd);
	} else {
		port->stream.extra = port->is_pair ? NET_HDR_LEN : 0;
		ret = loop_fd_add(port->loop, fd, EPOLLIN | EPOLLOUT | EPOLLET, port_event, port,
				  &port->source);
		if (ret < 0)
			net_stream_done(&port->stream);
	}
	port->connected = ret == 0;
	port->broken = false;
	pthread_mutex_unlock(&port->lock);
	return ret;
}

static int try_connect(struct port *port)
{
	int fd = port->connect ? port->connect(port->connect_arg, &port->addr)
			       : unix_connect(&port->addr);

	return fd < 0 ? fd : begin(port, fd);
}

static void disconnect(struct port *port)
{
	loop_fd_del(port->source);
	port->source = NULL;
	pthread_mutex_lock(&port->lock);
	port->connected = false;
	net_stream_done(&port->stream);
	pthread_mutex_unlock(&port->lock);
}

static void retry_fired(void *arg)
{
	struct port *port = arg;

	if (port->broken && port->connected) {
		disconnect(port);
		net_tell_link(&port->be, false);
		net_tell_writable(&port->be); /* what waits is lost with the cable */
	}
	if (port->is_pair)
		return;
	if (!port->connected && try_connect(port) < 0)
		loop_timer_arm(port->retry, clock_now_ns() + RETRY_NS);
	else
		net_tell_link(&port->be, true);
}

/* Not at once: a lock of the card's is held. */
static void break_off(struct port *port, const char *why)
{
	if (port->is_pair)
		log_error("user network: its process ended: the guest is without it from here on");
	else
		log_debug("switch '%s': %s", port->addr.sun_path, why);
	port->broken = true;
	loop_timer_arm(port->retry, 1);
}

static ssize_t port_receive(struct net_backend *be, unsigned queue, const struct iovec *iov,
			    unsigned count)
{
	struct port *port = port_of(be);
	const uint8_t *frame;
	ssize_t n;
	int ret = 0;

	if (!port->connected || port->broken)
		return -EAGAIN;
	while ((n = net_stream_take(&port->stream, &frame)) == 0 && ret == 0)
		ret = net_stream_read(&port->stream);
	if (n <= 0) {
		if (n < 0 || ret != -EAGAIN)
			break_off(port, n < 0 ? "it does not send frames" : "the connection ended");
		return -EAGAIN;
	}
	if (port->is_pair) {
		net_scatter(iov, count, frame, (size_t)n);
		return n - (ssize_t)NET_HDR_LEN;
	}
	memset(iov[0].iov_base, 0, NET_HDR_LEN);
	net_scatter(iov + 1, count - 1, frame, (size_t)n);
	return n;
}

static int put(struct port *port, const struct iovec *iov, unsigned count, size_t len)
{
	if (net_stream_room(&port->stream) < NET_STREAM_HEAD + len)
		net_stream_flush(&port->stream);
	return net_stream_put(&port->stream, iov, count, len) < 0 ? -EAGAIN : 0;
}

static int put_segments(struct port *port, const struct virtio_net_hdr_v1 *hdr, size_t len)
{
	struct net_gso gso;
	size_t need;

	if (net_gso_plan(port->frame, len, hdr, &gso) < 0)
		return 0;
	need = gso.payload + gso.segments * (gso.head + NET_STREAM_HEAD);
	if (need > RING_SIZE)
		return 0;
	if (net_stream_room(&port->stream) < need) {
		net_stream_flush(&port->stream);
		if (net_stream_room(&port->stream) < need)
			return -EAGAIN;
	}
	for (unsigned i = 0; i < gso.segments; i++) {
		struct iovec iov = { port->segment, net_gso_segment(&gso, i, port->segment) };

		net_stream_put(&port->stream, &iov, 1, iov.iov_len);
	}
	return 0;
}

static int port_send(struct net_backend *be, unsigned queue, const struct iovec *iov,
		     unsigned count, size_t len)
{
	const struct virtio_net_hdr_v1 *hdr = iov[0].iov_base;
	struct port *port = port_of(be);
	struct iovec whole = { port->frame, len };
	int ret = 0;

	pthread_mutex_lock(&port->lock);
	if (!port->connected)
		goto out; /* no cable */
	if (port->is_pair) {
		ret = put(port, iov, count, NET_HDR_LEN + len);
		goto out;
	}
	if (hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE &&
	    !(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
		ret = put(port, iov + 1, count - 1, len);
		goto out;
	}
	net_gather(port->frame, len, iov + 1, count - 1);
	if (hdr->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		ret = put_segments(port, hdr, len);
	} else {
		net_csum_complete(port->frame, len, hdr->csum_start, hdr->csum_offset);
		ret = put(port, &whole, 1, len);
	}
out:
	pthread_mutex_unlock(&port->lock);
	return ret;
}

static void port_flush(struct net_backend *be, unsigned queue)
{
	struct port *port = port_of(be);

	pthread_mutex_lock(&port->lock);
	if (port->connected)
		net_stream_flush(&port->stream);
	pthread_mutex_unlock(&port->lock);
}

static void port_free(struct net_backend *be)
{
	struct port *port = port_of(be);

	disconnect(port);
	loop_timer_del(port->retry);
	pthread_mutex_destroy(&port->lock);
	free(port);
}

static const struct net_backend_ops port_ops = {
	.receive = port_receive,
	.send = port_send,
	.flush = port_flush,
	.free = port_free,
};

static struct port *port_new(struct loop *loop, unsigned mtu)
{
	struct port *port = calloc(1, sizeof(*port));

	if (!port)
		return NULL;
	port->be =
	    (struct net_backend) { .ops = &port_ops, .queues = 1, .link_up = true, .mtu = mtu };
	port->loop = loop;
	port->stream.fd = -1;
	pthread_mutex_init(&port->lock, NULL);
	if (loop_timer_add(loop, retry_fired, port, &port->retry) < 0) {
		port_free(&port->be);
		return NULL;
	}
	return port;
}

int net_port_pair(struct loop *loop, int fd, unsigned mtu, struct net_backend **ret_be,
		  struct err *err)
{
	struct port *port = port_new(loop, mtu);
	int ret;

	if (!port) {
		close(fd);
		return err_set(err, ENOMEM, "out of memory");
	}
	port->is_pair = true;
	ret = begin(port, fd);
	if (ret < 0) {
		port_free(&port->be);
		return err_set(err, -ret, "%s", strerror(-ret));
	}
	*ret_be = &port->be;
	return 0;
}

int net_port_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		  struct err *err)
{
	struct port *port = port_new(loop, cfg->mtu);
	int ret;

	if (!port)
		return err_set(err, ENOMEM, "out of memory");
	port->connect = cfg->connect;
	port->connect_arg = cfg->connect_arg;
	ret = unix_address(cfg->path, &port->addr, err);
	if (ret == 0) {
		ret = try_connect(port);
		if (ret < 0)
			err_set(err, -ret, "'%s': %s", cfg->path,
				ret == -ECONNREFUSED || ret == -ENOENT
				    ? "no switch listens there; eyot-switch is one"
				    : strerror(-ret));
	}
	if (ret < 0) {
		port_free(&port->be);
		return ret;
	}
	*ret_be = &port->be;
	return 0;
}
