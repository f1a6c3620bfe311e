/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network of the guest's own, without any right on the host: libslirp speaks
 * TCP/IP with the guest (10.0.2.0/24, fec0::/64, DHCP, router advertisements,
 * DNS) and opens ordinary sockets on the host for it. Everything of it runs on
 * the loop thread.
 *
 * libslirp says anew before each sleep which of its sockets to watch. They are
 * in an epoll set of their own, which the loop watches as one descriptor; only
 * what changed since the last time costs a system call. A socket that is
 * closed is taken out by the callback for that, so that a new one of the same
 * number is not mistaken for it.
 *
 * libslirp cannot be told to wait with a frame for the guest, so frames pass
 * through a ring. While it holds much, the sockets are not read: what is in
 * flight then is bounded by the windows of the guest's own TCP. What does not
 * fit is lost, as on any network.
 *
 * Frames of the guest may be large TCP packets: libslirp takes bytes out of
 * them and does not care for their size in IPv4. In IPv6 it answers that they
 * are too big, so those are cut.
 */
#include <arpa/inet.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"

#define RING_SIZE MIB(2) /* a power of two */
#define RING_MUCH KIB(512)
#define EVENTS_MAX 64
#define FDS_MAX 4096 /* sockets of a higher number are not watched */

struct watch {
	uint32_t events, revents; /* EPOLL*; events 0: not in the set */
	bool seen;		  /* asked for in the present round */
};

struct user {
	struct net_backend be;
	struct loop *loop;
	Slirp *slirp;
	int epfd;
	struct loop_fd *source;
	struct loop_timer *tick;
	struct watch *watches; /* by descriptor */
	int fd_end;	       /* beyond the highest that was watched */
	bool held_back;	       /* sockets are not read, for the ring holds much */

	uint8_t *ring; /* frames, each after its length, 4 bytes */
	uint64_t head, tail;
	uint8_t frame[NET_FRAME_MAX], segment[NET_FRAME_MAX];
};

static struct user *user_of(struct net_backend *be)
{
	return container_of(be, struct user, be);
}

/* ---- ring ---- */

static void ring_put(struct user *u, const void *bytes, size_t len)
{
	size_t at = u->head & (RING_SIZE - 1), first = min_u64(len, RING_SIZE - at);

	memcpy(u->ring + at, bytes, first);
	memcpy(u->ring, (const uint8_t *)bytes + first, len - first);
	u->head += len;
}

static void ring_get(struct user *u, void *bytes, size_t len)
{
	size_t at = u->tail & (RING_SIZE - 1), first = min_u64(len, RING_SIZE - at);

	memcpy(bytes, u->ring + at, first);
	memcpy((uint8_t *)bytes + first, u->ring, len - first);
	u->tail += len;
}

/* ---- what libslirp asks for ---- */

static ssize_t cb_send_packet(const void *frame, size_t len, void *opaque)
{
	struct user *u = opaque;
	uint32_t head = (uint32_t)len;

	if (len < NET_FRAME_MIN || len > NET_FRAME_MAX ||
	    RING_SIZE - (u->head - u->tail) < sizeof(head) + len)
		return (ssize_t)len; /* lost */
	ring_put(u, &head, sizeof(head));
	ring_put(u, frame, len);
	return (ssize_t)len;
}

static void cb_guest_error(const char *text, void *opaque)
{
	log_debug("user network: %s", text);
}

static int64_t cb_clock_ns(void *opaque)
{
	return (int64_t)clock_now_ns();
}

struct user_timer {
	struct user *user;
	struct loop_timer *timer;
	SlirpTimerId id;
	void *cb_opaque;
};

static void watch_again(struct user *u);

static void timer_fired(void *arg)
{
	struct user_timer *t = arg;
	struct user *u = t->user;

	slirp_handle_timer(u->slirp, t->id, t->cb_opaque);
	watch_again(u);
	net_tell_readable(&u->be, 0);
}

static void *cb_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct user_timer *t = calloc(1, sizeof(*t));
	struct user *u = opaque;

	if (!t)
		abort(); /* libslirp knows no failure here */
	*t = (struct user_timer) { .user = u, .id = id, .cb_opaque = cb_opaque };
	if (loop_timer_add(u->loop, timer_fired, t, &t->timer) < 0)
		abort();
	return t;
}

static void cb_timer_free(void *timer, void *opaque)
{
	struct user_timer *t = timer;

	if (!t)
		return;
	loop_timer_del(t->timer);
	free(t);
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	loop_timer_arm(((struct user_timer *)timer)->timer, (uint64_t)expire_ms * 1000000 + 1);
}

static void cb_notify(void *opaque)
{
}

/* ---- its sockets ---- */

static uint32_t to_epoll(int events)
{
	return (events & SLIRP_POLL_IN ? EPOLLIN : 0) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0) |
	       (events & SLIRP_POLL_PRI ? EPOLLPRI : 0);
}

static int from_epoll(uint32_t events)
{
	return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
	       (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
	       (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

static void watch_set(struct user *u, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };
	struct watch *w = &u->watches[fd];

	if (w->events == events)
		return;
	if (epoll_ctl(u->epfd,
		      !events	  ? EPOLL_CTL_DEL
		      : w->events ? EPOLL_CTL_MOD
				  : EPOLL_CTL_ADD,
		      fd, &ev) < 0) {
		/* Closed behind our back; the next round finds it as it is then. */
		log_debug("user network: watching %d: %s", fd, strerror(errno));
		events = 0;
	}
	w->events = events;
}

static void cb_register(int fd, void *opaque)
{
}

static void cb_unregister(int fd, void *opaque)
{
	struct user *u = opaque;

	if (fd < 0 || fd >= FDS_MAX)
		return;
	watch_set(u, fd, 0);
	u->watches[fd] = (struct watch) { 0 };
}

static int cb_add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;
	uint32_t wanted = to_epoll(events);

	if (fd < 0 || fd >= FDS_MAX)
		return -1;
	if (u->held_back)
		wanted &= ~(uint32_t)(EPOLLIN | EPOLLPRI);
	u->watches[fd].seen = wanted != 0;
	if (wanted)
		watch_set(u, fd, wanted);
	if (fd >= u->fd_end)
		u->fd_end = fd + 1;
	return fd;
}

static int cb_get_revents(int fd, void *opaque)
{
	return fd < 0 ? 0 : from_epoll(((struct user *)opaque)->watches[fd].revents);
}

static void watch_again(struct user *u)
{
	uint32_t timeout_ms = UINT32_MAX; /* unless libslirp has something to look after */

	u->held_back = u->head - u->tail > RING_MUCH;
	slirp_pollfds_fill(u->slirp, &timeout_ms, cb_add_poll, u);
	for (int fd = 0; fd < u->fd_end; fd++) {
		if (!u->watches[fd].seen)
			watch_set(u, fd, 0);
		u->watches[fd].seen = false;
	}
	loop_timer_arm(u->tick,
		       timeout_ms == UINT32_MAX ? 0 : clock_now_ns() + timeout_ms * 1000000ull + 1);
}

static void serve(struct user *u)
{
	struct epoll_event ev[EVENTS_MAX];
	int n = epoll_wait(u->epfd, ev, EVENTS_MAX, 0);

	for (int i = 0; i < n; i++)
		u->watches[ev[i].data.fd].revents = ev[i].events;
	/*
	 * sandbox: net libc: socket(AF_INET), socket(AF_INET6), connect, bind, listen, accept,
	 *   accept4, getsockname, getpeername, getsockopt, setsockopt, shutdown, sendto, sendmsg,
	 *   recvfrom, recvmsg, read, readv, write, writev, ioctl(*, FIONBIO), ioctl(*, FIONREAD),
	 *   fcntl(*, F_GETFL), fcntl(*, F_SETFL), fcntl(*, F_SETFD), fcntl(*, F_GETFD), close,
	 * lseek, openat(*, *, ~O_ACCMODE | O_CREAT), newfstatat, getrandom, getuid, poll,
	 * epoll_ctl, epoll_wait
	 */
	slirp_pollfds_poll(u->slirp, n < 0, cb_get_revents, u);
	for (int i = 0; i < n; i++)
		u->watches[ev[i].data.fd].revents = 0;
	watch_again(u);
	net_tell_readable(&u->be, 0);
}

static void sockets_ready(void *arg, uint32_t events)
{
	serve(arg);
}

static void tick_fired(void *arg)
{
	serve(arg);
}

/* ---- the card's side ---- */

static ssize_t user_receive(struct net_backend *be, unsigned queue, const struct iovec *iov,
			    unsigned count)
{
	struct virtio_net_hdr_v1 *hdr = iov[0].iov_base;
	struct user *u = user_of(be);
	uint32_t len, left;

	if (u->head == u->tail) {
		u->head = u->tail = 0; /* the same few pages again, warm in the cache */
		if (u->held_back)
			watch_again(u);
		return -EAGAIN;
	}
	ring_get(u, &len, sizeof(len));
	left = len;
	for (unsigned i = 1; i < count && left; i++) {
		uint32_t n = (uint32_t)min_u64(iov[i].iov_len, left);

		ring_get(u, iov[i].iov_base, n);
		left -= n;
	}
	u->tail += left;
	memset(hdr, 0, sizeof(*hdr));
	hdr->flags = VIRTIO_NET_HDR_F_DATA_VALID; /* libslirp has just made it */
	return len;
}

static int user_send(struct net_backend *be, unsigned queue, const struct iovec *iov,
		     unsigned count, size_t len)
{
	const struct virtio_net_hdr_v1 *hdr = iov[0].iov_base;
	struct user *u = user_of(be);
	struct net_gso gso;

	net_gather(u->frame, len, iov + 1, count - 1);
	if (hdr->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
		if (net_gso_plan(u->frame, len, hdr, &gso) < 0)
			return 0;
		for (unsigned i = 0; gso.v6 && i < gso.segments; i++)
			slirp_input(u->slirp, u->segment,
				    (int)net_gso_segment(&gso, i, u->segment));
		if (gso.v6 || net_gso_whole(&gso, u->frame) < 0)
			return 0;
	} else if (hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		net_csum_complete(u->frame, len, hdr->csum_start, hdr->csum_offset);
	}
	slirp_input(u->slirp, u->frame, (int)len);
	return 0;
}

static void user_flush(struct net_backend *be, unsigned queue)
{
	struct user *u = user_of(be);

	watch_again(u);
	if (u->head != u->tail)
		net_tell_readable(be, 0);
}

static void user_free(struct net_backend *be)
{
	struct user *u = user_of(be);

	if (u->slirp)
		slirp_cleanup(u->slirp);
	loop_fd_del(u->source);
	loop_timer_del(u->tick);
	if (u->epfd >= 0)
		close(u->epfd);
	free(u->watches);
	free(u->ring);
	free(u);
}

static const struct net_backend_ops user_ops = {
	.receive = user_receive,
	.send = user_send,
	.flush = user_flush,
	.free = user_free,
};

static const SlirpCb callbacks = {
	.send_packet = cb_send_packet,
	.guest_error = cb_guest_error,
	.clock_get_ns = cb_clock_ns,
	.timer_free = cb_timer_free,
	.timer_mod = cb_timer_mod,
	.register_poll_fd = cb_register,
	.unregister_poll_fd = cb_unregister,
	.notify = cb_notify,
	.timer_new_opaque = cb_timer_new,
};

static int start_slirp(struct user *u, const struct net_config *cfg, struct err *err)
{
	SlirpConfig sc = {
		.version = 4,
		.restricted = cfg->restricted,
		.in_enabled = true,
		.in6_enabled = true,
		.vprefix_len = 64,
		.vhostname = "eyot",
		.if_mtu = u->be.mtu,
		.if_mru = u->be.mtu,
		.disable_host_loopback = cfg->no_host_loopback,
	};

	inet_pton(AF_INET, "10.0.2.0", &sc.vnetwork);
	inet_pton(AF_INET, "255.255.255.0", &sc.vnetmask);
	inet_pton(AF_INET, "10.0.2.2", &sc.vhost);
	inet_pton(AF_INET, "10.0.2.15", &sc.vdhcp_start);
	inet_pton(AF_INET, "10.0.2.3", &sc.vnameserver);
	inet_pton(AF_INET6, "fec0::", &sc.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &sc.vhost6);
	inet_pton(AF_INET6, "fec0::3", &sc.vnameserver6);
	u->slirp = slirp_new(&sc, &callbacks, u);
	if (!u->slirp)
		return err_set(err, EINVAL, "libslirp does not start");
	for (unsigned i = 0; i < cfg->forward_count; i++) {
		const struct net_forward *f = &cfg->forwards[i];
		socklen_t len = f->host.ss_family == AF_INET ? sizeof(struct sockaddr_in)
							     : sizeof(struct sockaddr_in6);

		if (slirp_add_hostxfwd(u->slirp, (const struct sockaddr *)&f->host, len,
				       (const struct sockaddr *)&f->guest, len,
				       f->udp ? SLIRP_HOSTFWD_UDP : 0) < 0)
			return err_set(err, errno, "forward '%s port %u': %s",
				       f->udp ? "UDP" : "TCP",
				       ntohs(((const struct sockaddr_in *)&f->host)->sin_port),
				       strerror(errno));
	}
	return 0;
}

int net_user_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		  struct err *err)
{
	struct user *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return err_set(err, ENOMEM, "out of memory");
	u->be = (struct net_backend) {
		.ops = &user_ops, .queues = 1, .on_loop = true, .link_up = true, .mtu = cfg->mtu
	};
	u->loop = loop;
	u->ring = malloc(RING_SIZE);
	u->watches = calloc(FDS_MAX, sizeof(*u->watches));
	u->epfd = epoll_create1(EPOLL_CLOEXEC);
	ret = u->epfd < 0 ? -errno : u->ring && u->watches ? 0 : -ENOMEM;
	if (ret == 0)
		ret = loop_timer_add(loop, tick_fired, u, &u->tick);
	if (ret == 0)
		ret = loop_fd_add(loop, u->epfd, EPOLLIN, sockets_ready, u, &u->source);
	if (ret < 0)
		err_set(err, -ret, "%s", strerror(-ret));
	else
		ret = start_slirp(u, cfg, err);
	if (ret < 0) {
		user_free(&u->be);
		return ret;
	}
	watch_again(u);
	*ret_be = &u->be;
	return 0;
}
