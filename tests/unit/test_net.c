/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net: framing, the switch against slow and hostile machines, back ends.
 *
 * Long, since all back ends are driven by one card and the machines of one segment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/sock.h"
#include "base/util.h"
#include "net/net.h"
#include "net/stream.h"
#include "net/switch.h"
#include "net_frames.h"

static struct loop *loop;
static struct loop_timer *stop;
static char dir[] = "/tmp/eyot-net-XXXXXX", path[64];

static void stop_fired(void *arg)
{
	loop_quit(loop, 0);
}

static void run_for(unsigned ms)
{
	loop_timer_arm(stop, clock_now_ns() + ms * 1000000ull);
	loop_run(loop);
}

static int setup(void **state)
{
	struct err err;

	strcpy(dir, "/tmp/eyot-net-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	return loop_new(&loop, &err) || loop_timer_add(loop, stop_fired, NULL, &stop);
}

static int teardown(void **state)
{
	loop_timer_del(stop);
	loop_free(loop);
	unlink(path);
	return rmdir(dir);
}

/* ---- machines on a switch ---- */

/* Reads of it wait a moment, not for ever. */
static int patient(int fd)
{
	struct timeval limit = { .tv_usec = 20000 };

	assert_true(fd >= 0);
	fcntl(fd, F_SETFL, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	run_for(2);
	return fd;
}

static int join(void)
{
	struct sockaddr_un addr;

	assert_int_equal(unix_address(path, &addr, NULL), 0);
	return patient(unix_connect(&addr));
}

static void fill(uint8_t *f, size_t len, uint32_t dst, uint32_t src)
{
	memset(f, 0, len);
	put_le32(f + 4, len - 4); /* the head of the framing is written below */
	f[0] = (uint8_t)((len - 4) >> 24);
	f[1] = (uint8_t)((len - 4) >> 16);
	f[2] = (uint8_t)((len - 4) >> 8);
	f[3] = (uint8_t)(len - 4);
	memset(f + 4, 0, 12);
	f[4] = dst == 0xffffffff ? 0xff : 2;
	put_le32(f + 6, dst);
	f[10] = 2;
	put_le32(f + 12, src);
	for (size_t i = 16; i < len; i++)
		f[i] = (uint8_t)(i + dst);
}

static bool say(int fd, size_t len, uint32_t dst, uint32_t src)
{
	static uint8_t f[4 + NET_FRAME_MAX];

	fill(f, len + 4, dst, src);
	return send(fd, f, len + 4, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len + 4;
}

/* The length of the next frame; 0: there is none */
static size_t hear(int fd)
{
	static uint8_t f[NET_FRAME_MAX];
	uint8_t head[4];
	size_t len;

	run_for(1);
	if (recv(fd, head, 4, MSG_WAITALL) != 4)
		return 0;
	len = (size_t)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
	assert_true(len <= sizeof(f));
	for (size_t done = 0; done < len;) {
		ssize_t n = recv(fd, f + done, len - done, 0);

		if (n > 0)
			done += (size_t)n;
		else
			run_for(1);
	}
	return len;
}

static void test_switch(void **state)
{
	struct net_switch *sw;
	struct switch_stats stats;
	struct err err;
	int a, b, c;

	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	assert_int_equal(switch_new(loop, path, &sw, &err), -EADDRINUSE);
	a = join();
	b = join();
	c = join();
	assert_true(say(a, 60, 0xffffffff, 1)); /* to all */
	assert_int_equal(hear(b), 60);
	assert_int_equal(hear(c), 60);
	assert_int_equal(hear(a), 0);
	assert_true(say(b, 61, 1, 2)); /* known: to one */
	assert_int_equal(hear(a), 61);
	assert_int_equal(hear(c), 0);
	assert_true(say(a, 62, 3, 1)); /* unknown: to all others */
	assert_int_equal(hear(b), 62);
	assert_int_equal(hear(c), 62);
	assert_true(say(a, 63, 1, 1)); /* to itself: to nobody */
	assert_int_equal(hear(a) + hear(b) + hear(c), 0);
	assert_true(say(c, 64, 0xffffffff, 1)); /* 1 moved to another port */
	assert_int_equal(hear(a), 64);
	assert_int_equal(hear(b), 64);
	assert_true(say(b, 65, 1, 2));
	assert_int_equal(hear(c), 65);
	assert_int_equal(hear(a), 0);
	close(c); /* its addresses go with it */
	run_for(5);
	switch_get_stats(sw, &stats);
	assert_int_equal(stats.ports, 2);
	assert_int_equal(stats.macs, 1);
	assert_true(say(b, 66, 1, 2));
	assert_int_equal(hear(a), 66);
	assert_true(say(b, NET_FRAME_MAX, 9, 2));
	assert_int_equal(hear(a), NET_FRAME_MAX);
	close(a);
	close(b);
	switch_free(sw);
	assert_int_equal(access(path, F_OK), -1);
}

/* A frame in many pieces, many in one, none in a few bytes, and what is no frame */
static void test_framing(void **state)
{
	struct net_switch *sw;
	struct switch_stats stats;
	uint8_t f[4000];
	struct err err;
	int a, b;

	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	a = join();
	b = join();
	fill(f, 104, 9, 1);
	for (unsigned i = 0; i < 104; i++) {
		assert_int_equal(write(a, f + i, 1), 1);
		if (i % 10 == 0)
			run_for(1);
	}
	assert_int_equal(hear(b), 100);
	for (unsigned i = 0; i < 20; i++)
		fill(f + i * 104, 104, 9, 1);
	memset(f + 2080, 0, 4); /* a frame of no bytes, and one of 13, are none */
	put_le32(f + 2084, htonl(13));
	memset(f + 2088, 1, 13);
	fill(f + 2101, 104, 9, 1);
	assert_int_equal(write(a, f, 2205), 2205);
	for (unsigned i = 0; i < 21; i++)
		assert_int_equal(hear(b), 100);
	assert_int_equal(hear(b), 0);
	/* Half a frame holds up nobody but its sender. */
	assert_int_equal(write(a, f, 50), 50);
	assert_true(say(b, 60, 1, 2));
	assert_int_equal(hear(a), 60);
	close(a);
	run_for(5);
	a = join();
	put_le32(f, htonl(NET_FRAME_MAX + 1));
	assert_int_equal(write(a, f, 4), 4);
	run_for(5);
	assert_int_equal(recv(a, f, 1, 0), 0); /* ended */
	switch_get_stats(sw, &stats);
	assert_int_equal(stats.ports, 1);
	assert_true(say(b, 60, 9, 2));
	close(a);
	close(b);
	switch_free(sw);
}

static void test_slow_machine(void **state)
{
	struct net_switch *sw;
	struct switch_stats stats;
	struct err err;
	int slow, a, b;

	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	slow = join();
	a = join();
	b = join();
	assert_true(say(b, 60, 0xffffffff, 2));
	assert_int_equal(hear(a), 60);
	/* 20 MB to all: the one that does not read loses, the other loses nothing. */
	for (unsigned i = 0; i < 2000; i++) {
		while (!say(a, 10000, 0xffffffff, 1))
			run_for(1);
		assert_int_equal(hear(b), 10000);
	}
	switch_get_stats(sw, &stats);
	assert_in_range(stats.dropped, 1500, 2000);
	/* Once it reads again it gets whole frames. */
	for (unsigned i = 0; i < 100; i++)
		assert_true(hear(slow));
	close(slow);
	close(a);
	close(b);
	switch_free(sw);
}

static void test_flood_of_addresses(void **state)
{
	struct net_switch *sw;
	struct switch_stats stats;
	struct err err;
	int bad, a, b;

	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	bad = join();
	a = join();
	b = join();
	assert_true(say(a, 60, 0x777, 1));
	assert_int_equal(hear(b), 60);
	assert_int_equal(hear(bad), 60);
	for (unsigned i = 0; i < 20000; i++)
		while (!say(bad, 60, 0x1000000 + i, 0x1000000 + i)) /* to itself: no noise */
			run_for(1);
	run_for(5);
	switch_get_stats(sw, &stats);
	assert_int_equal(stats.macs, SWITCH_PORT_MACS + 1);
	assert_true(say(b, 61, 1, 2)); /* still goes to one */
	assert_int_equal(hear(a), 61);
	assert_int_equal(hear(bad), 0);
	/* An address of the last ones is known, one of the first is not. */
	assert_true(say(b, 62, 0x1000000 + 19999, 2));
	assert_int_equal(hear(a), 0);
	assert_int_equal(hear(bad), 62);
	assert_true(say(b, 63, 0x1000000, 2));
	assert_int_equal(hear(a), 63);
	close(bad);
	close(a);
	close(b);
	switch_free(sw);
}

static void test_many_ports(void **state)
{
	int fds[SWITCH_PORTS_MAX + 1];
	struct net_switch *sw;
	struct switch_stats stats;
	struct err err;
	char byte;

	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = join();
	switch_get_stats(sw, &stats);
	assert_int_equal(stats.ports, SWITCH_PORTS_MAX);
	assert_int_equal(recv(fds[SWITCH_PORTS_MAX], &byte, 1, 0), 0); /* refused */
	close(fds[3]);
	run_for(5);
	close(fds[SWITCH_PORTS_MAX]);
	fds[3] = join();
	assert_true(say(fds[3], 60, 0xffffffff, 3));
	assert_int_equal(hear(fds[0]), 60);
	for (unsigned i = 0; i < SWITCH_PORTS_MAX; i++)
		close(fds[i]);
	switch_free(sw);
	/* A socket that nobody listens at is taken over; another file is not. */
	assert_int_equal(switch_new(loop, path, &sw, &err), 0);
	switch_free(sw);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(switch_new(loop, path, &sw, &err), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
}

/* ---- a card's port ---- */

struct card {
	unsigned readable, writable, ups, downs;
};

static void card_readable(void *opaque, unsigned queue)
{
	((struct card *)opaque)->readable++;
}

static void card_writable(void *opaque)
{
	((struct card *)opaque)->writable++;
}

static void card_link(void *opaque, bool up)
{
	struct card *c = opaque;

	*(up ? &c->ups : &c->downs) += 1;
}

static const struct net_nic_ops card_ops = { card_readable, card_writable, card_link };

static int listen_at(void)
{
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	unix_address(path, &addr, NULL);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static ssize_t take_frame(struct net_backend *be, uint8_t *frame, struct virtio_net_hdr_v1 *hdr)
{
	struct iovec iov[] = { { hdr, sizeof(*hdr) },
			       { frame, 100 },
			       { frame + 100, NET_FRAME_MAX } };

	return be->ops->receive(be, 0, iov, 3);
}

static int give_frame(struct net_backend *be, const struct virtio_net_hdr_v1 *hdr, uint8_t *frame,
		      size_t len)
{
	struct iovec iov[] = { { (void *)hdr, sizeof(*hdr) },
			       { frame, 20 },
			       { frame + 20, len - 20 } };
	int ret = be->ops->send(be, 0, iov, 3, len);

	be->ops->flush(be, 0);
	return ret;
}

static void test_port(void **state)
{
	struct net_config cfg = { .kind = NET_SWITCH, .queues = 1, .path = path };
	static uint8_t frame[NET_FRAME_MAX + 100], got[NET_FRAME_MAX];
	struct virtio_net_hdr_v1 hdr = { 0 };
	struct card card = { 0 };
	struct net_backend *be;
	struct err err;
	size_t len;
	int listener, peer, n;

	assert_int_equal(net_open(loop, &cfg, &be, &err), -ENOENT);
	listener = listen_at();
	assert_int_equal(net_open(loop, &cfg, &be, &err), 0);
	net_attach(be, &card_ops, &card);
	peer = patient(accept(listener, NULL, NULL));
	run_for(2);
	fill(frame, 1004, 5, 6);
	assert_int_equal(write(peer, frame, 1004), 1004);
	run_for(2);
	assert_true(card.readable);
	assert_int_equal(take_frame(be, got, &hdr), 1000);
	assert_memory_equal(got, frame + 4, 1000);
	assert_int_equal(take_frame(be, got, &hdr), -EAGAIN);

	/* Out: as it is, with a checksum to be made, in segments */
	len = tcp_frame(frame, false, false, 3000);
	assert_int_equal(give_frame(be, &hdr, frame, len), 0);
	assert_int_equal(hear(peer), len);
	hdr = (struct virtio_net_hdr_v1) { .flags = 1, .csum_start = 38, .csum_offset = 16 };
	assert_int_equal(give_frame(be, &hdr, frame, len), 0);
	assert_int_equal(hear(peer), len);
	hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	hdr.gso_size = 1400;
	assert_int_equal(give_frame(be, &hdr, frame, len), 0);
	assert_int_equal(hear(peer), 62 + 1400);
	assert_int_equal(hear(peer), 62 + 1400);
	assert_int_equal(hear(peer), 62 + 200);
	frame[12] = 9; /* not what the header says: lost */
	assert_int_equal(give_frame(be, &hdr, frame, len), 0);
	assert_int_equal(hear(peer), 0);

	/* A peer that does not read: frames wait, and go on when it does. */
	hdr = (struct virtio_net_hdr_v1) { 0 };
	for (n = 0; n < 10000 && give_frame(be, &hdr, frame, 1500) == 0; n++)
		;
	assert_in_range(n, 100, 9999);
	run_for(2);
	card.writable = 0;
	for (int i = 0; i < n; i++)
		assert_int_equal(hear(peer), 1500);
	assert_true(card.writable);
	assert_int_equal(give_frame(be, &hdr, frame, 1500), 0);

	/* The peer dies: the link goes; frames are lost, not stuck; it comes back. */
	close(peer);
	run_for(2);
	take_frame(be, got, &hdr);
	run_for(20);
	assert_int_equal(card.downs, 1);
	/* The listener's queue has taken the next connection already. */
	peer = patient(accept(listener, NULL, NULL));
	assert_true(peer >= 0);
	assert_int_equal(card.ups, 1);
	close(peer);
	close(listener);
	run_for(2);
	take_frame(be, got, &hdr);
	run_for(20);
	assert_int_equal(card.downs, 2);
	for (n = 0; n < 1000; n++)
		assert_int_equal(give_frame(be, &hdr, frame, 1500), 0);
	unlink(path);
	listener = listen_at();
	run_for(700);
	assert_int_equal(card.ups, 2);
	peer = patient(accept(listener, NULL, NULL));

	/* One that sends no frames is as good as dead. */
	memset(frame, 0xff, 8);
	assert_int_equal(write(peer, frame, 8), 8);
	run_for(2);
	assert_int_equal(take_frame(be, got, &hdr), -EAGAIN);
	run_for(20);
	assert_int_equal(card.downs, 3);
	net_attach(be, NULL, NULL);
	net_free(be);
	close(peer);
	close(listener);
}

/* ---- the user network ---- */

/* An ARP request for 10.0.2.2 is answered; a frame of any content does no harm. */
static void test_user(void **state)
{
	struct net_config cfg = { .kind = NET_USER, .queues = 1, .forward_count = 1 };
	struct sockaddr_in *host = (struct sockaddr_in *)&cfg.forwards[0].host,
			   *guest = (struct sockaddr_in *)&cfg.forwards[0].guest;
	static const uint8_t arp[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,	 0, 0, 0,  0,
					 1,    8,    6,	   0,	 1,    8,    0,	 6, 4, 0,  1,
					 2,    0,    0,	   0,	 0,    1,    10, 0, 2, 15, 0,
					 0,    0,    0,	   0,	 0,    10,   0,	 2, 2 };
	static uint8_t frame[2000], got[NET_FRAME_MAX + 100];
	struct virtio_net_hdr_v1 hdr = { 0 };
	struct net_backend *be, *second;
	struct card card = { 0 };
	struct err err = { "" };
	socklen_t len = sizeof(*host);
	ssize_t n;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	host->sin_family = guest->sin_family = AF_INET;
	host->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)host, sizeof(*host)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)host, &len), 0);
	assert_int_equal(listen(fd, 1), 0);
	guest->sin_port = htons(7);
	assert_true(net_open(loop, &cfg, &be, &err) < 0); /* the port is taken */
	assert_non_null(strstr(err.text, "forward"));
	close(fd);
	assert_int_equal(net_open(loop, &cfg, &be, &err), 0);
	net_attach(be, &card_ops, &card);
	assert_true(be->on_loop);
	memcpy(frame, arp, sizeof(arp));
	assert_int_equal(give_frame(be, &hdr, frame, 60), 0);
	assert_true(card.readable);
	do
		n = take_frame(be, got, &hdr);
	while (n > 0 && (get_le16(got + 12) != 0x0608 || got[21] != 2));
	assert_true(n > 0);
	assert_memory_equal(got, arp + 6, 6);
	assert_memory_equal(got + 28, arp + 38, 4);

	/* A client of the forwarded port brings a SYN to the guest. */
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	connect(fd, (struct sockaddr *)host, sizeof(*host));
	run_for(20);
	do
		n = take_frame(be, got, &hdr);
	while (n > 0 && (get_le16(got + 12) != 0x0008 || got[23] != 6));
	assert_true(n > 0);
	assert_int_equal(got[36] << 8 | got[37], 7);
	close(fd);

	for (unsigned i = 0; i < 20000; i++) {
		uint32_t x = i * 2654435761u;

		frame[14 + x % 60] = (uint8_t)(x >> 16);
		frame[12] = 8;
		frame[13] = x & 1 ? 0 : 6;
		if (i % 64 == 0)
			memset(frame + 14, 0x45, 100);
		hdr = (struct virtio_net_hdr_v1) { 0 };
		if (i % 3 == 0)
			hdr = (struct virtio_net_hdr_v1) { .flags = 1,
							   .gso_type = 1,
							   .gso_size = 100 };
		give_frame(be, &hdr, frame, 20 + x % 1900);
		while (i % 100 == 0 && take_frame(be, got, &hdr) > 0)
			;
	}
	/* It may be had twice; ports of the host only once. */
	cfg.forward_count = 0;
	cfg.restricted = true;
	assert_int_equal(net_open(loop, &cfg, &second, &err), 0);
	net_free(second);
	net_attach(be, NULL, NULL);
	net_free(be);
}

static void test_tap_errors(void **state)
{
	struct net_config cfg = { .kind = NET_TAP,
				  .queues = 1,
				  .ifname = "a-name-that-is-too-long" };
	struct net_backend *be;
	struct err err;

	assert_int_equal(net_open(loop, &cfg, &be, &err), -EINVAL);
	assert_string_equal(err.text, "interface 'a-name-that-is-too-long': a name has at most 15 "
				      "characters");
	cfg.ifname = NULL;
	cfg.fd_count = 1;
	cfg.fds[0] = 1000;
	assert_int_equal(net_open(loop, &cfg, &be, &err), -EBADF);
	cfg.fds[0] = open("/dev/null", O_RDWR);
	assert_int_equal(net_open(loop, &cfg, &be, &err), -EINVAL);
	assert_non_null(strstr(err.text, "not a TAP interface"));
	close(cfg.fds[0]);
}

static int open_tap(short flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	int fd = open("/dev/net/tun", O_RDWR);

	assert_true(fd >= 0);
	strcpy(ifr.ifr_name, "given%d");
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	return fd;
}

/* A frame out of the card is seen on the interface @name, and one on it by the card. */
static void check_tap(struct net_backend *be, const char *name)
{
	static uint8_t
	    frame[NET_FRAME_MAX +
		  100] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
			   0,	 0,    0,    0,	   1,	 0x88, 0xb5 /* for experiments */ };
	struct sockaddr_ll addr = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(0x88b5),
				    .sll_ifindex = (int)if_nametoindex(name) };
	int fd = patient(socket(AF_PACKET, SOCK_RAW, 0));
	struct virtio_net_hdr_v1 hdr = { 0 };
	struct card card = { 0 };
	uint8_t got[2000];
	ssize_t n;

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	net_attach(be, &card_ops, &card);
	be->ops->set_offloads(be,
			      1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4);
	struct iovec iov[] = { { &hdr, sizeof(hdr) }, { frame, 20 }, { frame + 20, 80 } };

	assert_int_equal(be->ops->send(be, 0, iov, 3, 100), 0);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 100);
	assert_memory_equal(got, frame, 100);
	frame[14] = 77;
	assert_int_equal(send(fd, frame, 1000, 0), 1000);
	run_for(5);
	assert_true(card.readable);
	do /* the kernel says something of its own, too */
		n = take_frame(be, got, &hdr);
	while (n > 0 && (n != 1000 || got[14] != 77));
	assert_int_equal(n, 1000);
	frame[14] = 0;
	close(fd);
	net_attach(be, NULL, NULL);
	net_free(be);
}

/* In a network namespace of its own, which the program does not leave: the last test */
static void test_tap(void **state)
{
	struct net_config cfg = { .kind = NET_TAP, .queues = 2 };
	struct net_backend *be;
	struct err err = { "" };
	struct ifreq ifr = { .ifr_flags = IFF_UP };
	int fd, sock;

	if (access("/dev/net/tun", R_OK | W_OK) < 0 || unshare(CLONE_NEWNET) < 0)
		skip();
	if (net_open(loop, &cfg, &be, &err) < 0)
		fail_msg("%s", err.text);
	check_tap(be, "eyot0");
	cfg.ifname = "mine";
	cfg.mtu = 9000;
	cfg.queues = 1;
	if (net_open(loop, &cfg, &be, &err) < 0)
		fail_msg("%s", err.text);
	check_tap(be, "mine");
	cfg.bridge = "none";
	assert_int_equal(net_open(loop, &cfg, &be, &err), -ENODEV);
	assert_string_equal(err.text, "bridge 'none': there is none of that name");
	cfg.bridge = "lo";
	assert_int_equal(net_open(loop, &cfg, &be, &err), -EOPNOTSUPP);
	cfg.ifname = cfg.bridge = NULL;
	cfg.fd_count = 1;
	cfg.fds[0] = open_tap(IFF_TAP | IFF_NO_PI);
	assert_int_equal(net_open(loop, &cfg, &be, &err), -EINVAL);
	assert_non_null(strstr(err.text, "was not opened with TAP, NO_PI and VNET_HDR"));
	close(cfg.fds[0]);
	fd = open_tap(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	sock = socket(AF_INET, SOCK_DGRAM, 0);
	strcpy(ifr.ifr_name, "given0");
	assert_int_equal(ioctl(sock, SIOCSIFFLAGS, &ifr), 0);
	close(sock);
	cfg.fds[0] = fd;
	if (net_open(loop, &cfg, &be, &err) < 0)
		fail_msg("%s", err.text);
	check_tap(be, "given0");
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_switch),	      T(test_framing),
		T(test_slow_machine), T(test_flood_of_addresses),
		T(test_many_ports),   T(test_port),
		T(test_user),	      T(test_tap_errors),
		T(test_tap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
