/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TAP: an Ethernet interface of the host's kernel. Frames cross with their
 * virtio header, so checksums and segmentation stay undone between guests, and
 * between a guest and the kernel. A frame is read straight into the guest's
 * buffers and written straight from them, on whatever thread needs it: the
 * kernel serialises what it must.
 *
 * The descriptors are watched edge-triggered: one event for each arrival, and
 * none while a guest does not take its frames; they wait in the kernel's
 * queue, which drops what is too much.
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/util.h"
#include "net/net.h"

#define TUN_PATH "/dev/net/tun"
#define NEW_NAME "eyot%d" /* the kernel counts */

struct tap_queue {
	struct tap *tap;
	unsigned index;
	int fd;
	struct loop_fd *source;
};

struct tap {
	struct net_backend be;
	char name[IFNAMSIZ];
	struct tap_queue queues[NET_QUEUES_MAX];
};

static struct tap *tap_of(struct net_backend *be)
{
	return container_of(be, struct tap, be);
}

static ssize_t tap_receive(struct net_backend *be, unsigned queue, const struct iovec *iov,
			   unsigned count)
{
	/* sandbox: loop vcpu: readv */
	ssize_t n = readv(tap_of(be)->queues[queue].fd, iov, (int)count);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return n < (ssize_t)(NET_HDR_LEN + NET_FRAME_MIN) ? -EAGAIN : n - (ssize_t)NET_HDR_LEN;
}

static int tap_send(struct net_backend *be, unsigned queue, const struct iovec *iov, unsigned count,
		    size_t len)
{
	/* An interface that is down, full or gone loses the frame. */
	/* sandbox: loop vcpu: writev */
	if (writev(tap_of(be)->queues[queue].fd, iov, (int)count) < 0)
		log_debug("tap '%s': a frame is lost: %s", tap_of(be)->name, strerror(errno));
	return 0;
}

static void tap_set_offloads(struct net_backend *be, uint64_t features)
{
	unsigned flags = 0;

	if (features >> VIRTIO_NET_F_GUEST_CSUM & 1) {
		flags |= TUN_F_CSUM;
		if (features >> VIRTIO_NET_F_GUEST_TSO4 & 1)
			flags |= TUN_F_TSO4;
		if (features >> VIRTIO_NET_F_GUEST_TSO6 & 1)
			flags |= TUN_F_TSO6;
		if (flags & (TUN_F_TSO4 | TUN_F_TSO6) && features >> VIRTIO_NET_F_GUEST_ECN & 1)
			flags |= TUN_F_TSO_ECN;
	}
	/* sandbox: loop vcpu: ioctl(*, TUNSETOFFLOAD) */
	if (ioctl(tap_of(be)->queues[0].fd, TUNSETOFFLOAD, flags) < 0)
		log_debug("tap '%s': offloads %#x: %s", tap_of(be)->name, flags, strerror(errno));
}

static void tap_event(void *arg, uint32_t events)
{
	struct tap_queue *q = arg;

	if (events & EPOLLERR) /* the interface was deleted */
		net_tell_link(&q->tap->be, false);
	else
		net_tell_readable(&q->tap->be, q->index);
}

static void tap_free(struct net_backend *be)
{
	struct tap *tap = tap_of(be);

	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		loop_fd_del(tap->queues[i].source);
		if (tap->queues[i].fd >= 0)
			close(tap->queues[i].fd);
	}
	free(tap);
}

static const struct net_backend_ops tap_ops = {
	.receive = tap_receive,
	.send = tap_send,
	.set_offloads = tap_set_offloads,
	.free = tap_free,
};

/* A descriptor that somebody else has opened */
static int take_given(struct tap *tap, unsigned i, int fd, struct err *err)
{
	struct ifreq ifr;
	int flags = fcntl(fd, F_GETFL);

	/* sandbox: loop: ioctl(*, TUNGETIFF) */
	memset(&ifr, 0, sizeof(ifr));
	if (flags < 0)
		return err_set(err, errno, "fd '%d': %s", fd, strerror(errno));
	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return err_set(err, EINVAL, "fd '%d': not a TAP interface", fd);
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_VNET_HDR) ||
	    !(ifr.ifr_flags & IFF_NO_PI))
		return err_set(err, EINVAL, "fd '%d': was not opened with TAP, NO_PI and VNET_HDR",
			       fd);
	/* sandbox: loop: fcntl(*, F_GETFL), fcntl(*, F_SETFL), fcntl(*, F_SETFD) */
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(err, errno, "fd '%d': %s", fd, strerror(errno));
	memcpy(tap->name, ifr.ifr_name, sizeof(tap->name));
	tap->queues[i].fd = fd;
	return 0;
}

static int open_queue(struct tap *tap, unsigned i, struct err *err)
{
	struct ifreq ifr;
	int fd = open(TUN_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK), ret;

	if (fd < 0)
		return err_set(err, errno, "'%s': %s", TUN_PATH, strerror(errno));
	tap->queues[i].fd = fd;
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_name, tap->name, sizeof(ifr.ifr_name));
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (tap->be.queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		ret = errno;
		return err_set(err, ret, "interface '%s': %s", tap->name,
			       ret == EPERM ? "it is not yours, and making one needs CAP_NET_ADMIN"
			       : ret == EBUSY  ? "another program uses it"
			       : ret == EINVAL ? "it is not a TAP interface of so many queues"
					       : strerror(ret));
	}
	memcpy(tap->name, ifr.ifr_name, sizeof(tap->name));
	return 0;
}

static int open_queues(struct tap *tap, const struct net_config *cfg, struct err *err)
{
	int hdr_len = NET_HDR_LEN, ret = 0;

	if (cfg->ifname && strlen(cfg->ifname) >= IFNAMSIZ)
		return err_set(err, EINVAL, "interface '%s': a name has at most %u characters",
			       cfg->ifname, IFNAMSIZ - 1);
	strcpy(tap->name, cfg->ifname ? cfg->ifname : NEW_NAME);
	for (unsigned i = 0; i < tap->be.queues && ret == 0; i++) {
		/* sandbox: loop: ioctl(*, TUNSETVNETHDRSZ) */
		ret =
		    cfg->fd_count ? take_given(tap, i, cfg->fds[i], err) : open_queue(tap, i, err);
		if (ret == 0 && ioctl(tap->queues[i].fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
			ret = err_set(err, errno, "interface '%s': header size: %s", tap->name,
				      strerror(errno));
	}
	return ret;
}

static int change(int sock, struct ifreq *ifr, unsigned long request, const char *name,
		  const char *what, struct err *err)
{
	if (ioctl(sock, request, ifr) < 0)
		return err_set(err, errno, "interface '%s': %s: %s", name, what, strerror(errno));
	return 0;
}

/* MTU, bridge, up: what is so already needs no right to change it */
static int set_up_interface(const struct tap *tap, const struct net_config *cfg, struct err *err)
{
	_cleanup_close_ int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr;
	int ret;

	if (sock < 0)
		return err_set(err, errno, "socket: %s", strerror(errno));
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_name, tap->name, sizeof(ifr.ifr_name));
	ret = change(sock, &ifr, SIOCGIFMTU, tap->name, "MTU", err);
	if (ret == 0 && cfg->mtu && ifr.ifr_mtu != (int)cfg->mtu) {
		ifr.ifr_mtu = (int)cfg->mtu;
		ret = change(sock, &ifr, SIOCSIFMTU, tap->name, "MTU", err);
	}
	if (ret == 0 && cfg->bridge) {
		unsigned index = if_nametoindex(tap->name);

		if (strlen(cfg->bridge) >= IFNAMSIZ || !if_nametoindex(cfg->bridge))
			return err_set(err, ENODEV, "bridge '%s': there is none of that name",
				       cfg->bridge);
		memset(&ifr, 0, sizeof(ifr));
		strcpy(ifr.ifr_name, cfg->bridge);
		ifr.ifr_ifindex = (int)index;
		if (ioctl(sock, SIOCBRADDIF, &ifr) < 0)
			return err_set(err, errno, "bridge '%s': %s", cfg->bridge,
				       errno == EOPNOTSUPP ? "it is not a bridge"
				       : errno == EBUSY	   ? "the interface is in another bridge"
							   : strerror(errno));
	}
	memset(&ifr, 0, sizeof(ifr));
	memcpy(ifr.ifr_name, tap->name, sizeof(ifr.ifr_name));
	if (ret == 0)
		ret = change(sock, &ifr, SIOCGIFFLAGS, tap->name, "flags", err);
	if (ret == 0 && !(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		ret = change(sock, &ifr, SIOCSIFFLAGS, tap->name, "up", err);
	}
	return ret;
}

int net_tap_open(struct loop *loop, const struct net_config *cfg, struct net_backend **ret_be,
		 struct err *err)
{
	struct tap *tap = calloc(1, sizeof(*tap));
	int ret;

	if (!tap)
		return err_set(err, ENOMEM, "out of memory");
	tap->be = (struct net_backend) { .ops = &tap_ops,
					 .queues = cfg->queues,
					 .guest_gso = true,
					 .link_up = true,
					 .mtu = cfg->mtu };
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++)
		tap->queues[i] = (struct tap_queue) { .tap = tap, .index = i, .fd = -1 };
	ret = open_queues(tap, cfg, err);
	/* Whoever hands over descriptors has set up their interface, too. */
	if (ret == 0 && !cfg->fd_count)
		ret = set_up_interface(tap, cfg, err);
	for (unsigned i = 0; i < cfg->queues && ret == 0; i++) {
		ret = loop_fd_add(loop, tap->queues[i].fd, EPOLLIN | EPOLLET, tap_event,
				  &tap->queues[i], &tap->queues[i].source);
		if (ret < 0)
			err_set(err, -ret, "interface '%s': %s", tap->name, strerror(-ret));
	}
	if (ret < 0) {
		tap_free(&tap->be);
		return ret;
	}
	log_debug("tap: interface '%s'", tap->name);
	*ret_be = &tap->be;
	return 0;
}
