/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network device, driven through its PCI registers, over a back end that remembers.
 *
 * Long, since receiving, sending, commands, limits and saved state are of one device with one
 * fixture, whose queues all of them share.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "net_fake.h"

#include <sched.h>
#include <stdio.h>

#define F(bit) (1ull << (bit))
#define NF(name) F(VIRTIO_NET_F_##name)
#define BASE F(VIRTIO_F_VERSION_1)
#define HDR 12
#define SIZE 32
#define RX 0
#define TX 1

static const uint8_t own_mac[6] = { 2, 0, 0, 0, 0, 1 };

struct fixture {
	struct machine m;
	struct fake_net net;
	struct virtio_net_options opt;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t data; /* 1 MiB of guest memory */
	uint8_t frame[NET_FRAME_MAX];
};

static void plug(struct fixture *f)
{
	struct virtio_env env = machine_env(&f->m);
	struct err err;

	fake_init(&f->net);
	f->net.be.queues = f->opt.queue_pairs;
	f->net.be.mtu = 1400;
	assert_int_equal(virtio_net_new(&env, DRV_SLOT, &f->net.be, &f->opt, &f->dev, &err), 0);
	drv_probe(&f->d, &f->m, DRV_SLOT);
}

static void start(struct fixture *f, uint64_t features)
{
	assert_true(drv_negotiate(&f->d, BASE | features));
	drv_msix(&f->d);
	for (unsigned i = 0; i < f->d.queue_count; i++)
		drv_queue(&f->d, i, SIZE, true);
	drv_ready(&f->d);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	machine_init(&f->m);
	f->data = guest_alloc(&f->m, MIB(1), 4096);
	f->opt.queue_pairs = 1;
	memcpy(f->opt.mac, own_mac, 6);
	plug(f);
	memcpy(f->frame, own_mac, 6);
	for (size_t i = 6; i < sizeof(f->frame); i++)
		f->frame[i] = (uint8_t)(i * 7 + i / 256);
	f->frame[6] &= 0xfe;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_dev_free(f->dev);
	assert_true(f->net.freed);
	machine_done(&f->m);
	free(f);
	return 0;
}

static void replug(struct fixture *f, unsigned pairs, uint64_t rate)
{
	virtio_dev_free(f->dev);
	f->opt.queue_pairs = pairs;
	f->opt.rate = rate;
	plug(f);
}

static uint8_t *at(struct fixture *f, uint64_t off)
{
	return guest(&f->m, f->data + off, 1);
}

/* Offer a frame of @len bytes behind @hdr to queue @queue. */
static void transmit(struct fixture *f, unsigned queue, const struct virtio_net_hdr_v1 *hdr,
		     uint32_t len)
{
	struct drv_buf bufs[] = { { f->data, HDR, false }, { f->data + 4096, len, false } };

	memcpy(at(f, 0), hdr, HDR);
	memcpy(at(f, 4096), f->frame, len);
	q_add(&f->d, &f->d.q[queue], bufs, 2);
	q_kick(&f->d, queue);
}

static void buffers(struct fixture *f, unsigned queue, unsigned n, uint32_t len)
{
	for (unsigned i = 0; i < n; i++)
		q_add(&f->d, &f->d.q[queue],
		      &(struct drv_buf) { f->data + 65536 + i * len, len, true }, 1);
	q_kick(&f->d, queue);
	machine_run(&f->m, 1);
}

static void arrives(struct fixture *f, size_t len)
{
	fake_arrives(&f->net, f->frame, len, 0, 0, true);
}

static const struct virtio_net_hdr_v1 plain = { 0 };

static void test_config(void **state)
{
	struct fixture *f = *state;
	struct virtio_net_config config = { 0 };

	for (unsigned i = 0; i < f->d.device_len; i++)
		((uint8_t *)&config)[i] = (uint8_t)bus_read(&f->m.mmio, f->d.device + i, 1);
	assert_memory_equal(config.mac, own_mac, 6);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.mtu, 1400);
	assert_int_equal(config.max_virtqueue_pairs, 1);
	assert_true(drv_offered(&f->d) & NF(MTU));
	assert_false(drv_offered(&f->d) & NF(MQ));
}

static void test_send(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	transmit(f, TX, &plain, 60);
	transmit(f, TX, &plain, 1514);
	assert_int_equal(f->net.sent_count, 2); /* on the thread that notified */
	assert_int_equal(f->net.sent[1].len, 1514);
	assert_memory_equal(f->net.sent[1].bytes, f->frame, 1514);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[TX]), 2);
	assert_true(f->net.flushes >= 1);
	assert_int_equal(atomic_load(&f->m.msi[0x40 + TX + 1]), 2);
}

static void test_send_on_loop(void **state)
{
	struct fixture *f = *state;

	f->net.be.on_loop = true;
	start(f, 0);
	transmit(f, TX, &plain, 60);
	assert_int_equal(f->net.sent_count, 0);
	assert_true(q_wait(&f->d, &f->d.q[TX], NULL, NULL));
	assert_int_equal(f->net.sent_count, 1);
}

static void test_backend_is_full(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	f->net.send_room = 1;
	for (unsigned i = 0; i < 3; i++)
		transmit(f, TX, &plain, 60 + i);
	assert_int_equal(f->net.sent_count, 1);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[TX]), 1);
	f->net.send_room = 5;
	f->net.be.nic->writable(f->net.be.opaque);
	assert_int_equal(f->net.sent_count, 3);
	assert_int_equal(f->net.sent[2].len, 62);
	/* What waits does not hold up a reset. */
	f->net.send_room = 0;
	transmit(f, TX, &plain, 60);
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(drv_status(&f->d), 0);
}

/* Bad headers: the frame is dropped, its buffers come back, the device works on. */
static void test_bad_headers(void **state)
{
	struct fixture *f = *state;
	const struct {
		struct virtio_net_hdr_v1 hdr;
		uint32_t len;
		bool good;
	} cases[] = {
		{ { .flags = 1, .csum_start = 34, .csum_offset = 16 }, 100, true },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 64 }, 100, true },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 65 }, 100, false },
		{ { .flags = 1, .csum_start = 65535, .csum_offset = 65535 }, 100, false },
		{ { .flags = 1, .csum_start = 101, .csum_offset = 0 }, 100, false },
		{ { .flags = 0, .csum_start = 65535, .csum_offset = 65535 }, 100, true },
		{ { .gso_type = 1, .gso_size = 1000, .flags = 1, .csum_start = 34 }, 5000, true },
		{ { .gso_type = 1, .gso_size = 1000 }, 5000, false }, /* no checksum */
		{ { .gso_type = 1, .gso_size = 0, .flags = 1 }, 5000, false },
		{ { .gso_type = 1, .gso_size = 1, .flags = 1 }, 5000, false },
		{ { .gso_type = 0x81, .gso_size = 1000, .flags = 1 }, 5000, false }, /* no ECN */
		{ { .gso_type = 3, .gso_size = 1000, .flags = 1 }, 5000, false },    /* UFO */
		{ { .gso_type = 4, .gso_size = 1000, .flags = 1 }, 5000, false },    /* not taken */
		{ { .gso_type = 0x80 }, 100, false },
		{ { .gso_type = 77, .gso_size = 1000, .flags = 1 }, 5000, false },
		{ { .hdr_len = 65535 }, 100, true }, /* a hint only */
		{ { .flags = 0 }, 13, false },
		{ { .flags = 0 }, 14, true },
		{ { .flags = 0 }, NET_FRAME_MAX, true },
		{ { .flags = 0 }, NET_FRAME_MAX + 1, false },
	};
	unsigned sent = 0;

	start(f, NF(CSUM) | NF(HOST_TSO4));
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct drv_buf bufs[] = { { f->data, HDR, false },
					  { f->data + 4096, cases[i].len, false } };

		memcpy(at(f, 0), &cases[i].hdr, HDR);
		q_add(&f->d, &f->d.q[TX], bufs, 2);
		q_kick(&f->d, TX);
		sent += cases[i].good;
		if (f->net.sent_count != sent)
			fail_msg("case %u", i);
		assert_true(q_wait(&f->d, &f->d.q[TX], NULL, NULL));
	}
	assert_false(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* Nothing that was not negotiated. */
static void test_offloads_not_taken(void **state)
{
	struct fixture *f = *state;
	struct virtio_net_hdr_v1 hdr = { .flags = 1, .csum_start = 34, .csum_offset = 16 };

	start(f, 0);
	transmit(f, TX, &hdr, 100);
	assert_int_equal(f->net.sent_count, 0);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[TX]), 1);
}

static void test_no_header(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	q_add(&f->d, &f->d.q[TX], &(struct drv_buf) { f->data, HDR - 1, false }, 1);
	q_kick(&f->d, TX);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(f->dev->queues[TX].inflight, 0);
	start(f, 0);
	transmit(f, TX, &plain, 60);
	assert_int_equal(f->net.sent_count, 1);
	/* A receive buffer that is none */
	q_add(&f->d, &f->d.q[RX], &(struct drv_buf) { f->data, 100, false }, 1);
	q_kick(&f->d, RX);
	arrives(f, 60);
	machine_run(&f->m, 1);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* The header in pieces, the frame in one buffer with it: layouts are the driver's affair. */
static void test_odd_layouts(void **state)
{
	struct fixture *f = *state;
	struct drv_buf bufs[] = { { f->data, 5, false },
				  { f->data + 100, 7, false },
				  { f->data + 200, 1, false },
				  { f->data + 300, 59, false } };

	start(f, 0);
	memset(at(f, 0), 0, 4096);
	memcpy(at(f, 200), f->frame, 1);
	memcpy(at(f, 300), f->frame + 1, 59);
	q_add(&f->d, &f->d.q[TX], bufs, 4);
	bufs[0] = (struct drv_buf) { f->data + 1000, HDR + 60, false };
	memcpy(at(f, 1000 + HDR), f->frame, 60);
	q_add(&f->d, &f->d.q[TX], bufs, 1);
	q_kick(&f->d, TX);
	assert_int_equal(f->net.sent_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(f->net.sent[i].len, 60);
		assert_memory_equal(f->net.sent[i].bytes, f->frame, 60);
	}
}

static void test_receive(void **state)
{
	struct fixture *f = *state;
	uint32_t len;

	start(f, 0);
	arrives(f, 60); /* no buffers yet: it waits outside */
	assert_int_equal(f->net.first, 0);
	buffers(f, RX, 3, 2048);
	assert_true(q_wait(&f->d, &f->d.q[RX], NULL, &len));
	assert_int_equal(len, HDR + 60);
	assert_memory_equal(at(f, 65536 + HDR), f->frame, 60);
	assert_int_equal(get_le16(at(f, 65536 + 10)), 1); /* num_buffers */
	arrives(f, 2048 - HDR);
	assert_true(q_wait(&f->d, &f->d.q[RX], NULL, &len));
	assert_int_equal(len, 2048);
	assert_memory_equal(at(f, 65536 + 2048 + HDR), f->frame, 2048 - HDR);
	/* One chain a frame without merging: this one is lost, its buffer is not. */
	arrives(f, 2048);
	arrives(f, 61);
	assert_true(q_wait(&f->d, &f->d.q[RX], NULL, &len));
	assert_int_equal(len, HDR + 61);
	assert_int_equal(f->dev->queues[RX].inflight, 0);
}

static void expect_merged(struct fixture *f, size_t len, uint32_t buffer, uint64_t from)
{
	unsigned n = (unsigned)((len + HDR + buffer - 1) / buffer);
	struct drv_queue *q = &f->d.q[RX];
	uint32_t got = 0, left = (uint32_t)len + HDR;

	assert_int_equal((uint16_t)(q_used_idx(&f->d, q) - q->last_used), n);
	for (unsigned i = 0; i < n; i++) {
		assert_true(q_wait(&f->d, q, NULL, &got));
		assert_int_equal(got, min_u64(left, buffer));
		left -= got;
	}
	assert_int_equal(get_le16(at(f, from + 10)), n);
	assert_memory_equal(at(f, from + HDR), f->frame, len);
}

static void test_merged_buffers(void **state)
{
	static const size_t sizes[] = { 60, 1514, 9000, 60, 5000, 5000, 31 * 512 - HDR };
	struct fixture *f = *state;

	start(f, NF(MRG_RXBUF));
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		start(f, NF(MRG_RXBUF));
		buffers(f, RX, 31, 512);
		arrives(f, sizes[i]);
		expect_merged(f, sizes[i], 512, 65536);
		if (sizes[i] < 15000) { /* what was staged and not used is there for the next */
			arrives(f, 60);
			assert_true(q_wait(&f->d, &f->d.q[RX], NULL, NULL));
		}
		assert_int_equal(f->dev->queues[RX].inflight, 0);
		f->m.brk = f->data + MIB(1);
	}
	/* More than all buffers: lost, and nothing else is. */
	start(f, NF(MRG_RXBUF));
	buffers(f, RX, 31, 512);
	arrives(f, 31 * 512);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 0);
	arrives(f, 100);
	expect_merged(f, 100, 512, 65536);
}

/* What the driver did not take never reaches it. */
static void test_receive_offloads(void **state)
{
	struct fixture *f = *state;

	start(f, NF(GUEST_CSUM) | NF(GUEST_TSO4) | NF(CTRL_VQ) | NF(CTRL_GUEST_OFFLOADS));
	buffers(f, RX, 8, 4096);
	assert_int_equal(f->net.offload_calls, 1);
	assert_true(f->net.offloads == (NF(GUEST_CSUM) | NF(GUEST_TSO4)));
	fake_arrives(&f->net, f->frame, 100, VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, true);
	fake_arrives(&f->net, f->frame, 101, 1, VIRTIO_NET_HDR_GSO_TCPV4, true);
	fake_arrives(&f->net, f->frame, 102, 1, VIRTIO_NET_HDR_GSO_TCPV6, true);
	fake_arrives(&f->net, f->frame, 103, 1, VIRTIO_NET_HDR_GSO_UDP, true);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 2);
	start(f, 0);
	buffers(f, RX, 8, 4096);
	assert_int_equal(f->net.offload_calls, 2);
	assert_true(f->net.offloads == 0);
	fake_arrives(&f->net, f->frame, 100, VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, true);
	fake_arrives(&f->net, f->frame, 101, VIRTIO_NET_HDR_F_DATA_VALID, 0, true);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 1);
	assert_int_equal(*at(f, 65536), 0);
}

/* Run a command; returns the answer. */
static uint8_t command(struct fixture *f, unsigned queue, uint8_t class, uint8_t cmd,
		       const void *data, uint32_t len)
{
	struct drv_buf bufs[] = { { f->data, 2, false },
				  { f->data + 64, len, false },
				  { f->data + 32, 1, true } };

	*at(f, 0) = class;
	*at(f, 1) = cmd;
	*at(f, 32) = 0x55;
	memcpy(at(f, 64), data, len);
	q_add(&f->d, &f->d.q[queue], bufs, 3);
	q_kick(&f->d, queue);
	assert_true(q_wait(&f->d, &f->d.q[queue], NULL, NULL));
	return *at(f, 32);
}

#define CTRL_FEATURES                                                                              \
	(NF(CTRL_VQ) | NF(CTRL_RX) | NF(CTRL_MAC_ADDR) | NF(GUEST_ANNOUNCE) | NF(STATUS))

/* How many of three frames come in: to own_mac, to another machine, to a group */
static unsigned come_in(struct fixture *f)
{
	uint16_t before = q_used_idx(&f->d, &f->d.q[RX]), n;
	uint8_t first = f->frame[0], last = f->frame[5];

	buffers(f, RX, 4, 256);
	arrives(f, 60);
	f->frame[5] = 9;
	arrives(f, 60);
	f->frame[0] = 0x33;
	arrives(f, 60);
	f->frame[0] = first;
	f->frame[5] = last;
	n = (uint16_t)(q_used_idx(&f->d, &f->d.q[RX]) - before);
	while (f->d.q[RX].last_used != q_used_idx(&f->d, &f->d.q[RX]))
		q_wait(&f->d, &f->d.q[RX], NULL, NULL);
	return n;
}

static void test_filter(void **state)
{
	struct fixture *f = *state;
	static const uint8_t on = 1, off = 0;
	uint8_t table[8 + 6 * 2] = {
		1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0x33, 0, 0, 0, 0, 9
	};
	uint8_t big[8 + 6 * 100] = { 100 };

	start(f, CTRL_FEATURES);
	assert_int_equal(come_in(f), 3); /* promiscuous at first */
	assert_int_equal(command(f, 2, 0, 0, &off, 1), 0);
	assert_int_equal(come_in(f), 1);
	assert_int_equal(command(f, 2, 0, 1, &on, 1), 0); /* all groups */
	assert_int_equal(come_in(f), 2);
	assert_int_equal(command(f, 2, 0, 1, &off, 1), 0);
	assert_int_equal(command(f, 2, 1, 0, table, sizeof(table)), 0);
	assert_int_equal(come_in(f), 3);
	assert_int_equal(command(f, 2, 1, 0, big, sizeof(big)), 0); /* too many: all of them */
	assert_int_equal(come_in(f), 2);
	/* Tables whose lengths lie change nothing. */
	table[0] = 3;
	assert_int_equal(command(f, 2, 1, 0, table, sizeof(table)), 1);
	table[0] = 0xff;
	table[3] = 0xff;
	assert_int_equal(command(f, 2, 1, 0, table, sizeof(table)), 1);
	assert_int_equal(command(f, 2, 1, 0, table, 3), 1);
	assert_int_equal(command(f, 2, 0, 0, table, 2), 1);
	assert_int_equal(command(f, 2, 0, 7, &on, 1), 1);
	assert_int_equal(command(f, 2, 9, 0, &on, 1), 1);
	assert_int_equal(command(f, 2, 2, 0, &on, 1), 1);  /* VLANs */
	assert_int_equal(command(f, 2, 4, 0, "\2", 2), 1); /* MQ, which is not there */
	assert_int_equal(come_in(f), 2);
	start(f, CTRL_FEATURES);
	assert_int_equal(come_in(f), 3);
}

static void test_set_mac(void **state)
{
	struct fixture *f = *state;
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 9 }, group[6] = { 3, 0, 0, 0, 0, 9 };
	static const uint8_t off;

	start(f, CTRL_FEATURES);
	assert_int_equal(command(f, 2, 1, 1, group, 6), 1);
	assert_int_equal(command(f, 2, 1, 1, mac, 5), 1);
	assert_int_equal(command(f, 2, 1, 1, mac, 6), 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 5, 1), 9);
	assert_int_equal(command(f, 2, 0, 0, &off, 1), 0);
	f->frame[5] = 9;
	assert_int_equal(come_in(f), 2); /* both are for 9 */
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 5, 1), 1);
}

static void test_bad_commands(void **state)
{
	struct fixture *f = *state;
	struct drv_buf head = { f->data, 2, false };

	start(f, CTRL_FEATURES);
	q_add(&f->d, &f->d.q[2], &head, 1); /* no room for the answer */
	q_kick(&f->d, 2);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	start(f, CTRL_FEATURES);
	q_add(&f->d, &f->d.q[2], &(struct drv_buf) { f->data, 1, true }, 1);
	q_kick(&f->d, 2);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	/* Without the feature the queue is nobody's. */
	start(f, 0);
	q_add(&f->d, &f->d.q[2], &head, 1);
	q_kick(&f->d, 2);
	assert_false(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[2]), 0);
}

static void test_link(void **state)
{
	struct fixture *f = *state;

	start(f, CTRL_FEATURES);
	buffers(f, RX, 4, 256);
	net_tell_link(&f->net.be, false);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 6, 2), 0);
	assert_int_equal(atomic_load(&f->m.msi[0x40]), 1);
	virtio_net_set_link(f->dev, false); /* no news */
	assert_int_equal(atomic_load(&f->m.msi[0x40]), 1);
	arrives(f, 60);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 0);
	/* The cable and the other end: both must be there. */
	net_tell_link(&f->net.be, true);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 6, 2), 0);
	virtio_net_set_link(f->dev, true);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(atomic_load(&f->m.msi[0x40]), 2);
	arrives(f, 60);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 1);
}

static void test_queue_pairs(void **state)
{
	struct fixture *f = *state;
	uint16_t n = 2;

	replug(f, 3, 0);
	start(f, CTRL_FEATURES | NF(MQ));
	assert_int_equal(f->d.queue_count, 7);
	for (unsigned i = 0; i < 3; i++) {
		buffers(f, 2 * i, 4, 256);
		transmit(f, 2 * i + 1, &plain, 60 + i);
	}
	assert_int_equal(f->net.sent_count, 3);
	f->net.be.nic->readable(f->net.be.opaque, 1);
	fake_arrives(&f->net, f->frame, 60, 0, 0, false);
	f->net.be.nic->readable(f->net.be.opaque, 1); /* one pair is in use: all come there */
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 1);
	assert_int_equal(command(f, 6, 4, 0, &n, 2), 0);
	fake_arrives(&f->net, f->frame, 60, 0, 0, false);
	f->net.be.nic->readable(f->net.be.opaque, 1);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[2]), 1);
	n = 0;
	assert_int_equal(command(f, 6, 4, 0, &n, 2), 1);
	n = 4;
	assert_int_equal(command(f, 6, 4, 0, &n, 2), 1);
	/* A driver that does not know of pairs finds its commands' queue third. */
	start(f, CTRL_FEATURES);
	assert_int_equal(command(f, 2, 0, 0, "", 1), 0);
	transmit(f, 1, &plain, 60);
	assert_int_equal(f->net.sent_count, 4);
	transmit(f, 3, &plain, 60);
	assert_int_equal(f->net.sent_count, 4);
}

static void test_rate(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;
	unsigned n = 0;

	/* 1 MB/s with 128 KiB at once: 400 KB take 270 ms */
	replug(f, 1, 1000000);
	start(f, 0);
	start_ns = clock_now_ns();
	while (n < 40 && clock_now_ns() - start_ns < 5000000000ull) {
		transmit(f, TX, &plain, 10000);
		n++;
		assert_true(q_wait(&f->d, &f->d.q[TX], NULL, NULL));
	}
	assert_int_equal(f->net.sent_count, 40);
	assert_true(clock_now_ns() - start_ns >= 240000000ull);
	start_ns = clock_now_ns();
	for (n = 0; n < 40; n++) {
		q_add(&f->d, &f->d.q[RX], &(struct drv_buf) { f->data + 65536, 12000, true }, 1);
		q_kick(&f->d, RX);
		arrives(f, 10000);
		assert_true(q_wait(&f->d, &f->d.q[RX], NULL, NULL));
	}
	assert_true(clock_now_ns() - start_ns >= 240000000ull);
}

static void test_pcap(void **state)
{
	struct fixture *f = *state;
	char path[] = "/tmp/eyot-pcap-XXXXXX";
	uint8_t bytes[4096];
	FILE *file;
	size_t n;

	close(mkstemp(path));
	f->opt.pcap = path;
	replug(f, 1, 0);
	start(f, 0);
	buffers(f, RX, 4, 2048);
	transmit(f, TX, &plain, 60);
	arrives(f, 1000);
	file = fopen(path, "r");
	n = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	unlink(path);
	f->opt.pcap = NULL;
	assert_int_equal(n, 24 + 16 + 60 + 16 + 1000);
	assert_int_equal(get_le32(bytes), 0xa1b2c3d4);
	assert_int_equal(get_le32(bytes + 20), 1);
	assert_int_equal(get_le32(bytes + 24 + 8), 60);
	assert_memory_equal(bytes + 40, f->frame, 60);
	assert_int_equal(get_le32(bytes + 100 + 8), 1000);
	assert_memory_equal(bytes + 116, f->frame, 1000);
}

static void test_save_and_load(void **state)
{
	struct fixture *f = *state;
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 7 }, off;
	struct driver d;
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	start(f, CTRL_FEATURES | NF(GUEST_CSUM));
	assert_int_equal(command(f, 2, 1, 1, mac, 6), 0);
	assert_int_equal(command(f, 2, 0, 0, &off, 1), 0);
	f->net.send_room = 0;
	transmit(f, TX, &plain, 60); /* it waits */
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	d = f->d; /* it does not notice */
	replug(f, 1, 0);
	f->d = d;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(virtio_dev_load(f->dev, &r, &err), 0);
	assert_int_equal(r.pos, r.len);
	machine_run(&f->m, 2);
	assert_int_equal(f->net.sent_count, 1); /* the frame that waited */
	assert_true(f->net.offloads == NF(GUEST_CSUM));
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 5, 1), 7);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 6, 2),
			 VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(atomic_load(&f->m.msi[0x40]), 1);
	assert_int_equal(command(f, 2, 3, 0, "", 0), 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(come_in(f), 0);
	/* Every byte of the state may be anything. */
	for (size_t i = 0; i < w.len; i++) {
		w.data[i] ^= 0xff;
		snap_reader_init(&r, w.data, w.len);
		(void)virtio_dev_load(f->dev, &r, NULL);
		w.data[i] ^= 0xff;
	}
	snap_writer_done(&w);
}

/* Frames that come while the machine is paused change nothing of the guest's; then all go on. */
static void test_frozen(void **state)
{
	struct fixture *f = *state;
	uint8_t *before = malloc(MIB(1));
	struct snap_writer w;
	struct snap_reader r;
	struct err err;
	uint32_t len;

	start(f, 0);
	buffers(f, RX, 3, 2048);
	transmit(f, TX, &plain, 60);
	assert_int_equal(f->net.sent_count, 1);
	virtio_dev_freeze(f->dev);
	memcpy(before, at(f, 0), MIB(1));
	arrives(f, 60);
	machine_run(&f->m, 2);
	assert_memory_equal(before, at(f, 0), MIB(1));
	assert_int_equal(f->net.first, 0); /* it waits outside */
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 0);
	transmit(f, TX, &plain, 61);
	machine_run(&f->m, 2);
	assert_int_equal(f->net.sent_count, 1);
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	/* State that is loaded is frozen as well. */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(virtio_dev_load(f->dev, &r, &err), 0);
	snap_writer_done(&w);
	machine_run(&f->m, 2);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), 0);
	virtio_dev_thaw(f->dev);
	assert_true(q_wait(&f->d, &f->d.q[RX], NULL, &len));
	assert_int_equal(len, HDR + 60);
	assert_int_equal(f->net.sent_count, 2);
	free(before);
}

#define THREAD_FRAMES 3000

/* A vCPU that sends as fast as it can */
static void *vcpu_main(void *arg)
{
	struct fixture *f = arg;
	struct drv_queue *q = &f->d.q[TX];
	struct drv_buf bufs[] = { { f->data, HDR, false }, { f->data + 4096, 100, false } };

	for (unsigned i = 0; i < THREAD_FRAMES; i++) {
		while ((uint16_t)(*q_avail_idx(&f->d, q) - q_used_idx(&f->d, q)) >= SIZE / 2)
			sched_yield();
		q_add(&f->d, q, bufs, 2);
		q_kick(&f->d, TX);
	}
	return NULL;
}

/* Frames both ways, the link and the limits, all at once: for the thread sanitizer above all */
static void both_ways(struct fixture *f, bool on_loop, uint64_t rate)
{
	struct virtio_net_info info;
	struct drv_queue *rx;
	pthread_t vcpu;
	unsigned came = 0;

	replug(f, 1, rate);
	f->net.be.on_loop = on_loop;
	start(f, NF(MRG_RXBUF) | NF(STATUS) | F(VIRTIO_RING_F_EVENT_IDX));
	rx = &f->d.q[RX];
	memset(at(f, 0), 0, HDR);
	memcpy(at(f, 4096), f->frame, 100);
	assert_int_equal(pthread_create(&vcpu, NULL, vcpu_main, f), 0);
	for (unsigned i = 0; i < 300; i++) {
		buffers(f, RX, 1, 512);
		arrives(f, 60 + i);
		if (i % 50 == 0) {
			virtio_net_set_link(f->dev, false);
			virtio_net_set_link(f->dev, true);
		}
		while (rx->last_used != q_used_idx(&f->d, rx)) {
			rx->last_used++;
			came++;
		}
	}
	while ((uint16_t)(q_used_idx(&f->d, &f->d.q[TX])) != THREAD_FRAMES)
		machine_run(&f->m, 1);
	pthread_join(vcpu, NULL);
	virtio_net_get_info(f->dev, &info);
	assert_int_equal(f->net.sent_count + info.tx_dropped, THREAD_FRAMES);
	assert_int_equal(f->net.sent_count, info.tx_packets);
	assert_int_equal(came, info.rx_packets);
	assert_true(came >= 250);
}

static void test_threads(void **state)
{
	both_ways(*state, false, 0);
	both_ways(*state, true, 0);
	both_ways(*state, false, 2000000);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_config),
		T(test_send),
		T(test_send_on_loop),
		T(test_backend_is_full),
		T(test_bad_headers),
		T(test_offloads_not_taken),
		T(test_no_header),
		T(test_odd_layouts),
		T(test_receive),
		T(test_merged_buffers),
		T(test_receive_offloads),
		T(test_filter),
		T(test_set_mac),
		T(test_bad_commands),
		T(test_link),
		T(test_queue_pairs),
		T(test_rate),
		T(test_pcap),
		T(test_save_and_load),
		T(test_frozen),
		T(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
