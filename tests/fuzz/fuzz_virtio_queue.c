/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtqueues: rings and descriptors of any content.
 *
 * Input: device, features and queue; then rounds. A round fills descriptors
 * of the ring and of an indirect table (6 bytes each: address, length, flags
 * and next in a form that mostly hits RAM), offers heads, kicks and lets the
 * requests end. Headers of block requests lie in the first page.
 */
#include "virtio_fuzz.h"

#define SIZE 16
#define TABLE_ENTRIES 16
#define AREA KIB(64)

struct rings {
	uint64_t area, table; /* guest physical */
};

static void put_desc(struct target *t, const struct rings *r, uint64_t table, struct fuzz_in *in)
{
	unsigned i = (unsigned)fuzz_take(in, 1) % SIZE;
	uint64_t addr = fuzz_take(in, 2), len = fuzz_take(in, 2);
	uint16_t flags = (uint16_t)fuzz_take(in, 1), next = flags >> 4;

	if (flags & VRING_DESC_F_INDIRECT && table != r->table) {
		addr = r->table;
		len = len % 20 * 16 + (len >> 12 == 15);
	} else if (addr >> 8 == 0xff) {
		addr = addr << 48 | addr; /* nowhere */
	} else {
		addr = r->area + addr;
	}
	q_desc(&t->d, table, i, addr, (uint32_t)len, flags & 15, next % (SIZE + (next == 15)));
}

static void round_trip(struct target *t, const struct rings *r, unsigned queue, struct fuzz_in *in)
{
	struct drv_queue *q = &t->d.q[queue];
	unsigned ops = 1 + (unsigned)fuzz_take(in, 1) % 32;

	while (ops-- && in->left) {
		unsigned op = (unsigned)fuzz_take(in, 1);

		switch (op & 7) {
		case 0:
		case 1:
		case 2:
			put_desc(t, r, q->desc, in);
			break;
		case 3:
			put_desc(t, r, r->table, in);
			break;
		case 4:
			q_offer(&t->d, q, (uint16_t)(fuzz_take(in, 1) % (SIZE + (op == 0xfc))));
			break;
		case 5: /* what the device may read: a block request's type, sector, ranges */
			put_le64(guest(&t->m, r->area + (fuzz_take(in, 1) << 3), 8),
				 fuzz_take(in, 1 + (op >> 5)));
			break;
		case 6: /* flags, event index, or the index itself */
			if (op & 8)
				*(uint16_t *)guest(&t->m, q->avail + 4 + 2 * SIZE, 2) =
				    (uint16_t)fuzz_take(in, 2);
			else if (op == 0xf6)
				*q_avail_idx(&t->d, q) = (uint16_t)fuzz_take(in, 2);
			else
				*(uint16_t *)guest(&t->m, q->avail, 2) = (uint16_t)fuzz_take(in, 1);
			break;
		default:
			q_kick(&t->d, queue);
			if (op & 8)
				machine_run(&t->m, 0);
			break;
		}
	}
	q_kick(&t->d, queue);
	if (t->kind == TARGET_CONSOLE)
		virtio_console_receive(t->dev, (const uint8_t *)"input from outside", 18);
	if (fuzz_take(in, 1) % 8 == 0) { /* a reset with requests out */
		drv_set(&t->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		target_drain(t);
		assert(drv_status(&t->d) == 0);
	}
	target_drain(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	unsigned kind = (unsigned)fuzz_take(&in, 1), queue;
	uint64_t features;
	struct rings r;
	struct target t;

	target_init(&t, kind);
	features = (fuzz_take(&in, 8) & drv_offered(&t.d)) | 1ull << VIRTIO_F_VERSION_1;
	r.area = guest_alloc(&t.m, AREA, 4096);
	r.table = guest_alloc(&t.m, 16 * TABLE_ENTRIES, 16);
	while (in.left && t.m.brk < DRV_RAM / 2) {
		target_start(&t, features, SIZE);
		queue = (unsigned)fuzz_take(&in, 1) % t.d.queue_count;
		round_trip(&t, &r, queue, &in);
	}
	target_done(&t);
	return 0;
}
