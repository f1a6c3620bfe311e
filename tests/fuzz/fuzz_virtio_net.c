/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network device: frames of any header and content both ways, commands of
 * any kind, rings of any shape, resets, saves and loads in between. What is
 * sent also goes through the software offloads, as behind a switch.
 *
 * Input: features, pairs; then steps, an operation byte with its operands.
 */
#include <assert.h>

#include "../unit/net_fake.h"
#include "virtio_steps.h"

#define SIZE 16
#define AREA KIB(64)
#define TABLE_ENTRIES 16

struct target {
	struct machine m;
	struct fake_net net;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t area, table;
	uint64_t features;
	uint8_t bytes[4096];
	uint8_t large[NET_FRAME_MAX];
};

/* As a port of a switch does it */
static void offload(struct target *t, const struct fake_frame *s)
{
	static uint8_t out[NET_FRAME_MAX];
	struct net_gso gso;

	if (s->hdr.gso_type) {
		if (net_gso_plan(s->bytes, s->len, &s->hdr, &gso) < 0)
			return;
		assert(gso.segments <= NET_FRAME_MAX / 48 + 1);
		for (unsigned i = 0; i < gso.segments; i++)
			assert(net_gso_segment(&gso, i, out) <= gso.head + s->hdr.gso_size);
		net_gso_whole(&gso, s->bytes);
	} else if (s->hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		net_csum_complete(s->bytes, s->len, s->hdr.csum_start, s->hdr.csum_offset);
	}
}

static void put_desc(struct target *t, uint64_t table, struct fuzz_in *in)
{
	unsigned i = (unsigned)fuzz_take(in, 1) % SIZE;
	uint64_t addr = fuzz_take(in, 2), len = fuzz_take(in, 2);
	uint16_t flags = (uint16_t)fuzz_take(in, 1), next = flags >> 4;

	if (flags & VRING_DESC_F_INDIRECT && table != t->table) {
		addr = t->table;
		len = len % 20 * 16 + (len >> 12 == 15);
	} else if (addr >> 8 == 0xff) {
		addr = addr << 48 | addr; /* nowhere */
	} else {
		addr = t->area + addr;
	}
	q_desc(&t->d, table, i, addr, (uint32_t)len, flags & 15, next % (SIZE + (next == 15)));
}

/* A frame or a command with a header of the input's, in order */
static void transmit(struct target *t, unsigned queue, struct fuzz_in *in)
{
	uint32_t head = queue & 1 ? 12 : 2, len = (uint32_t)fuzz_take(in, 2);
	struct drv_buf bufs[3] = { { t->area, head, false },
				   { t->area + 64, len, false },
				   { t->area + 32, 1, true } };

	for (unsigned i = 0; i < head; i++)
		*(uint8_t *)guest(&t->m, t->area + i, 1) = (uint8_t)fuzz_take(in, 1);
	for (unsigned i = 0; i < 80 && i < len; i++)
		*(uint8_t *)guest(&t->m, t->area + 64 + i, 1) = (uint8_t)fuzz_take(in, 1);
	q_add(&t->d, &t->d.q[queue], bufs, queue & 1 ? 2 : 3);
	q_kick(&t->d, queue);
}

static void step(struct target *t, struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), queue = (op >> 4) % t->d.queue_count;
	struct drv_queue *q = &t->d.q[queue];
	size_t len;

	switch (op & 15) {
	case 0:
	case 1:
		transmit(t, queue, in);
		break;
	case 2: /* receive buffers */
		for (unsigned n = (unsigned)fuzz_take(in, 1) % SIZE, i = 0; i < n; i++)
			q_add(&t->d, q,
			      &(struct drv_buf) { t->area + i * 2048,
						  (uint32_t)fuzz_take(in, 1) * 8, true },
			      1);
		q_kick(&t->d, queue);
		break;
	case 3:
	case 4: /* a frame comes */
		len = NET_FRAME_MIN + fuzz_take(in, 2) % (NET_FRAME_MAX - NET_FRAME_MIN);
		t->large[0] = (uint8_t)fuzz_take(in, 1);
		fake_arrives(&t->net, t->large, len, (uint8_t)fuzz_take(in, 1),
			     (uint8_t)fuzz_take(in, 1), false);
		net_tell_readable(&t->net.be, op >> 7);
		break;
	case 5:
		put_desc(t, q->desc, in);
		break;
	case 6:
		put_desc(t, t->table, in);
		break;
	case 7:
		q_offer(&t->d, q, (uint16_t)(fuzz_take(in, 1) % (SIZE + (op == 0xf7))));
		break;
	case 8:
		q_kick(&t->d, queue);
		break;
	case 9:
		machine_run(&t->m, 0);
		break;
	case 10:
		t->net.send_room = (unsigned)fuzz_take(in, 1);
		net_tell_writable(&t->net.be);
		break;
	case 11:
		net_tell_link(&t->net.be, op & 16);
		break;
	case 12:
		step_save_and_load(t->dev, &t->d, t->dev->queue_count, in);
		break;
	case 13:
		put_le64(guest(&t->m, t->area + (fuzz_take(in, 1) << 3), 8), fuzz_take(in, 8));
		break;
	case 14:
		bus_read(&t->m.mmio, t->d.device + (op >> 4), 1);
		break;
	default:
		drv_set(&t->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		assert(drv_status(&t->d) == 0);
		break;
	}
	for (unsigned i = 0; i < t->net.sent_count && i < FAKE_FRAMES; i++) {
		offload(t, &t->net.sent[i]);
		free(t->net.sent[i].bytes);
	}
	t->net.sent_count = 0;
	for (unsigned i = 0; i < t->dev->queue_count; i++)
		assert(t->dev->queues[i].inflight == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct virtio_net_options opt = { .mac = { 2, 0, 0, 0, 0, 1 } };
	static struct target t;
	struct virtio_env env;
	uint64_t features = fuzz_take(&in, 8);
	unsigned shape = (unsigned)fuzz_take(&in, 1);
	int ret;

	memset(&t, 0, sizeof(t));
	machine_init(&t.m);
	env = machine_env(&t.m);
	fake_init(&t.net);
	opt.queue_pairs = 1 + shape % 3;
	opt.rate = shape & 16 ? 1000000 : 0;
	t.net.be.queues = shape & 32 ? opt.queue_pairs : 1;
	t.net.be.on_loop = shape & 64;
	ret = virtio_net_new(&env, DRV_SLOT, &t.net.be, &opt, &t.dev, NULL);
	assert(!ret);
	drv_probe(&t.d, &t.m, DRV_SLOT);
	t.features = (features & drv_offered(&t.d)) | 1ull << VIRTIO_F_VERSION_1;
	t.area = guest_alloc(&t.m, AREA + 65536, 4096);
	t.table = guest_alloc(&t.m, 16 * TABLE_ENTRIES, 16);
	for (unsigned i = 0; i < 300 && in.left && t.m.brk < DRV_RAM / 2; i++) {
		if (drv_get(&t.d, VIRTIO_PCI_COMMON_NUMQ, 2) != t.dev->queue_count)
			break; /* loaded to where its registers cannot be reached */
		if (!(drv_status(&t.d) & VIRTIO_CONFIG_S_DRIVER_OK) ||
		    drv_status(&t.d) & VIRTIO_CONFIG_S_NEEDS_RESET)
			step_start(&t.d, t.features, SIZE);
		step(&t, &in);
	}
	virtio_dev_free(t.dev);
	assert(t.net.freed);
	machine_done(&t.m);
	return 0;
}
