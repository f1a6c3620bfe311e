/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that breaks the rules, on every virtio device there is: descriptors that
 * point outside of RAM, loop, nest or do not fit; queues that cannot be; registers written
 * at random; and rings that a second CPU changes while the device reads them. The device
 * asks for a reset (virtio 1.2, 2.1.2) where the driver broke the queue, and works after it.
 *
 * Long, since a guest program is one file: it brings its own driver, and each kind of breach is
 * tried on each device.
 */
#include "rt.h"

/* Common configuration (virtio 1.2, 4.1.4.3) */
#define C_DFSEL 0x00
#define C_DF 0x04
#define C_GFSEL 0x08
#define C_GF 0x0c
#define C_NUMQ 0x12
#define C_STATUS 0x14
#define C_QSEL 0x16
#define C_QSIZE 0x18
#define C_QENABLE 0x1c
#define C_QNOFF 0x1e
#define C_QDESC 0x20
#define C_QAVAIL 0x28
#define C_QUSED 0x30

#define S_OK 0x0f /* acknowledge, driver, driver ok, features ok */
#define S_FEATURES 0x0b
#define S_NEEDS_RESET 0x40

#define D_NEXT 1
#define D_WRITE 2
#define D_INDIRECT 4

#define F_INDIRECT (1u << 28)
#define BAR_BASE 0xc0000000u
#define QSIZE 16
#define DEVICES_MAX 8
#define WAIT_TSC 6000000000ull
#define RACE_TSC 1500000000ull

enum {
	ID_NET = 1,
	ID_BLK = 2,
	ID_CONSOLE = 3,
	ID_RNG = 4,
	ID_BALLOON = 5,
	ID_VSOCK = 19,
	ID_FS = 26
};

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

struct queue {
	struct desc *desc;
	volatile u16 *avail; /* flags, idx, ring */
	volatile u16 *used;  /* flags, idx, elements of 8 bytes */
	volatile u32 *bell;
	u16 seen;
};

struct device {
	unsigned slot, id;
	const char *name;
	unsigned q; /* the queue whose chains it takes at once */
	volatile u8 *common, *config, *notify;
	u32 notify_step;
	struct queue queue;
	u8 *data; /* a page for buffers */
};

static struct device devices[DEVICES_MAX];
static unsigned device_count;

/* ---- PCI ---- */

static u32 pci_read(unsigned slot, unsigned off)
{
	outl(0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
	return inl(0xcfc) >> (off & 3) * 8;
}

static void pci_write(unsigned slot, unsigned off, u32 v)
{
	outl(0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
	outl(0xcfc, v);
}

static void place_bars(unsigned slot)
{
	pci_write(slot, 0x10, BAR_BASE + slot * 0x10000);
	pci_write(slot, 0x14, BAR_BASE + slot * 0x10000 + 0x8000);
	pci_write(slot, 4, 6); /* memory, bus master */
}

static volatile u8 *structure(unsigned slot, unsigned cap)
{
	unsigned bar = pci_read(slot, cap + 4) & 0xff;

	return (volatile u8 *)(ulong)((pci_read(slot, 0x10 + 4 * bar) & ~0xfu) +
				      pci_read(slot, cap + 8));
}

static void find(unsigned slot)
{
	static const struct {
		unsigned id, q;
		const char *name;
	} known[] = {
		{ ID_NET, 1, "net" }, { ID_BLK, 0, "blk" },	    { ID_CONSOLE, 1, "console" },
		{ ID_RNG, 0, "rng" }, { ID_BALLOON, 0, "balloon" }, { ID_VSOCK, 1, "vsock" },
		{ ID_FS, 1, "fs" }
	};
	struct device *d = &devices[device_count];
	u32 id = pci_read(slot, 0);

	if ((id & 0xffff) != 0x1af4 || device_count == DEVICES_MAX)
		return;
	for (unsigned i = 0; i < ARRAY_LEN(known); i++)
		if (id >> 16 == 0x1040 + known[i].id)
			*d = (struct device) { .slot = slot,
					       .id = known[i].id,
					       .q = known[i].q,
					       .name = known[i].name };
	if (!d->id)
		return;
	place_bars(slot);
	for (unsigned cap = pci_read(slot, 0x34) & 0xff; cap;
	     cap = pci_read(slot, cap + 1) & 0xff) {
		if ((pci_read(slot, cap) & 0xff) != 9)
			continue;
		switch (pci_read(slot, cap + 3) & 0xff) {
		case 1:
			d->common = structure(slot, cap);
			break;
		case 2:
			d->notify = structure(slot, cap);
			d->notify_step = pci_read(slot, cap + 16);
			break;
		case 4:
			d->config = structure(slot, cap);
			break;
		}
	}
	d->queue.desc = page_alloc();
	d->queue.avail = page_alloc();
	d->queue.used = page_alloc();
	d->data = page_alloc();
	device_count++;
}

/* ---- driver ---- */

#define REG8(d, off) (*(volatile u8 *)((d)->common + (off)))
#define REG16(d, off) (*(volatile u16 *)((d)->common + (off)))
#define REG32(d, off) (*(volatile u32 *)((d)->common + (off)))

static void put_address(struct device *d, unsigned reg, u64 gpa)
{
	REG32(d, reg) = (u32)gpa;
	REG32(d, reg + 4) = (u32)(gpa >> 32);
}

static bool reset(struct device *d)
{
	u64 end = rdtsc() + WAIT_TSC;

	REG8(d, C_STATUS) = 0;
	while (REG8(d, C_STATUS) != 0)
		if (rdtsc() > end)
			return false;
	return true;
}

static void fill_queue_regs(struct device *d)
{
	struct queue *q = &d->queue;

	REG16(d, C_QSEL) = (u16)d->q;
	REG16(d, C_QSIZE) = QSIZE;
	put_address(d, C_QDESC, (ulong)q->desc);
	put_address(d, C_QAVAIL, (ulong)q->avail);
	put_address(d, C_QUSED, (ulong)q->used);
	q->bell = (volatile u32 *)(d->notify + REG16(d, C_QNOFF) * d->notify_step);
}

static void features(struct device *d)
{
	REG8(d, C_STATUS) = 1;
	REG8(d, C_STATUS) = 3;
	REG32(d, C_GFSEL) = 0;
	REG32(d, C_GF) = F_INDIRECT;
	REG32(d, C_GFSEL) = 1;
	REG32(d, C_GF) = 1; /* VERSION_1 */
	REG8(d, C_STATUS) = S_FEATURES;
}

static bool begin(struct device *d)
{
	struct queue *q = &d->queue;

	if (!reset(d))
		return false;
	memset(q->desc, 0, 4096);
	memset((void *)q->avail, 0, 4096);
	memset((void *)q->used, 0, 4096);
	q->seen = 0;
	features(d);
	fill_queue_regs(d);
	REG16(d, C_QENABLE) = 1;
	REG8(d, C_STATUS) = S_OK;
	return REG8(d, C_STATUS) == S_OK;
}

static void offer(struct device *d, u16 head)
{
	struct queue *q = &d->queue;

	q->avail[2 + q->avail[1] % QSIZE] = head;
	barrier();
	q->avail[1]++;
	barrier();
	*q->bell = d->q;
}

static bool wait_used(struct device *d)
{
	u64 end = rdtsc() + WAIT_TSC;

	while (d->queue.used[1] == d->queue.seen)
		if (rdtsc() > end)
			return false;
	d->queue.seen = d->queue.used[1];
	return true;
}

/* Whether the device asks for a reset, given some time. */
static bool wait_needs_reset(struct device *d)
{
	u64 end = rdtsc() + WAIT_TSC;

	while (!(REG8(d, C_STATUS) & S_NEEDS_RESET))
		if (rdtsc() > end)
			return false;
	return true;
}

/* A chain as the device wants it, from descriptor 0 on. */
static void good_chain(struct device *d)
{
	struct desc *desc = d->queue.desc;
	ulong data = (ulong)d->data;

	memset(d->data, 0, 4096);
	switch (d->id) {
	case ID_BLK: /* read sector 0 */
		desc[0] = (struct desc) { data, 16, D_NEXT, 1 };
		desc[1] = (struct desc) { data + 512, 512, D_NEXT | D_WRITE, 2 };
		desc[2] = (struct desc) { data + 2048, 1, D_WRITE, 0 };
		d->data[2048] = 0xff;
		break;
	case ID_NET: /* header and a frame to nobody */
		memset(d->data + 12, 0x42, 60);
		desc[0] = (struct desc) { data, 72, 0, 0 };
		break;
	case ID_CONSOLE:
		memcpy(d->data, "\r", 1);
		desc[0] = (struct desc) { data, 1, 0, 0 };
		break;
	case ID_RNG:
		desc[0] = (struct desc) { data, 64, D_WRITE, 0 };
		break;
	case ID_BALLOON: /* pages that are not there, whatever part of it is taken for a list */
		memset(d->data, 0xff, 4096);
		desc[0] = (struct desc) { data, 16, 0, 0 };
		break;
	case ID_VSOCK: /* a packet of nobody: not answered */
		desc[0] = (struct desc) { data, 44, 0, 0 };
		break;
	case ID_FS: /* an operation that there is none of */
		((u32 *)d->data)[0] = 40;
		((u32 *)d->data)[1] = 9999;
		((u32 *)d->data)[2] = 1;
		desc[0] = (struct desc) { data, 40, D_NEXT, 1 };
		desc[1] = (struct desc) { data + 512, 64, D_WRITE, 0 };
		break;
	}
}

static bool works(struct device *d)
{
	if (!begin(d))
		return false;
	good_chain(d);
	offer(d, 0);
	return wait_used(d) && !(REG8(d, C_STATUS) & S_NEEDS_RESET) &&
	       (d->id != ID_BLK || d->data[2048] == 0);
}

/* ---- broken chains ---- */

struct attack {
	const char *name;
	void (*make)(struct device *d); /* descriptors, from 0 on; offered afterwards */
};

static void set(struct device *d, unsigned at, u64 addr, u32 len, u16 flags, u16 next)
{
	d->queue.desc[at] = (struct desc) { addr, len, flags, next };
}

static void beyond_ram(struct device *d)
{
	set(d, 0, mem_top, 64, 0, 0);
}

static void across_the_end(struct device *d)
{
	set(d, 0, mem_top - 32, 64, 0, 0);
}

static void overflow(struct device *d)
{
	set(d, 0, ~0ull - 15, 64, 0, 0);
}

static void huge(struct device *d)
{
	set(d, 0, (ulong)d->data, 0xffffffff, 0, 0);
}

static void in_lapic(struct device *d)
{
	set(d, 0, 0xfee00000, 64, 0, 0);
}

static void in_itself(struct device *d)
{
	set(d, 0, (ulong)d->common, 56, 0, 0);
}

static void in_ecam(struct device *d)
{
	set(d, 0, 0xe0000000, 256, D_WRITE, 0);
}

static void loop(struct device *d)
{
	set(d, 0, (ulong)d->data, 16, D_NEXT, 1);
	set(d, 1, (ulong)d->data, 16, D_NEXT, 0);
}

static void self_loop(struct device *d)
{
	set(d, 0, (ulong)d->data, 16, D_NEXT, 0);
}

static void loop_of_nothing(struct device *d)
{
	set(d, 0, (ulong)d->data, 0, D_NEXT, 0);
}

static void next_out_of_range(struct device *d)
{
	set(d, 0, (ulong)d->data, 16, D_NEXT, QSIZE);
}

static void readable_after_writable(struct device *d)
{
	set(d, 0, (ulong)d->data, 16, D_NEXT | D_WRITE, 1);
	set(d, 1, (ulong)d->data, 16, 0, 0);
}

static void indirect(struct device *d, u32 len, u16 flags)
{
	memset(d->data, 0, 4096);
	set(d, 0, (ulong)d->data, len, D_INDIRECT | flags, 0);
}

static void indirect_empty(struct device *d)
{
	indirect(d, 0, 0);
}

static void indirect_odd(struct device *d)
{
	indirect(d, 24, 0);
}

static void indirect_oversized(struct device *d)
{
	indirect(d, 0x100000, 0);
}

static void indirect_most(struct device *d)
{
	indirect(d, 0xfffffff0, 0);
}

static void indirect_with_next(struct device *d)
{
	indirect(d, 16, D_NEXT);
}

static void indirect_nested(struct device *d)
{
	indirect(d, 32, 0);
	((struct desc *)d->data)[0] = (struct desc) { (ulong)d->data, 32, D_INDIRECT, 0 };
}

static void indirect_beyond_ram(struct device *d)
{
	set(d, 0, mem_top, 16, D_INDIRECT, 0);
}

static void indirect_in_mmio(struct device *d)
{
	set(d, 0, (ulong)d->common, 16, D_INDIRECT, 0);
}

static void indirect_loop(struct device *d)
{
	indirect(d, 32, 0);
	((struct desc *)d->data)[0] = (struct desc) { (ulong)d->data + 64, 16, D_NEXT, 1 };
	((struct desc *)d->data)[1] = (struct desc) { (ulong)d->data + 64, 16, D_NEXT, 0 };
}

static void indirect_next_out(struct device *d)
{
	indirect(d, 16, 0);
	((struct desc *)d->data)[0] = (struct desc) { (ulong)d->data + 64, 16, D_NEXT, 1 };
}

static const struct attack attacks[] = {
	{ "a buffer beyond RAM", beyond_ram },
	{ "a buffer across the end of RAM", across_the_end },
	{ "a buffer whose end overflows", overflow },
	{ "a buffer of 4 GiB", huge },
	{ "a buffer in the local APIC", in_lapic },
	{ "a buffer in the device's own registers", in_itself },
	{ "a buffer in configuration space", in_ecam },
	{ "a loop", loop },
	{ "a descriptor that follows itself", self_loop },
	{ "a loop of empty descriptors", loop_of_nothing },
	{ "a next one out of range", next_out_of_range },
	{ "readable after writable", readable_after_writable },
	{ "an empty indirect table", indirect_empty },
	{ "an indirect table of one and a half", indirect_odd },
	{ "an oversized indirect table", indirect_oversized },
	{ "the largest indirect table", indirect_most },
	{ "an indirect descriptor with a next one", indirect_with_next },
	{ "a nested indirect table", indirect_nested },
	{ "an indirect table beyond RAM", indirect_beyond_ram },
	{ "an indirect table in registers", indirect_in_mmio },
	{ "a loop in an indirect table", indirect_loop },
	{ "a next one out of an indirect table", indirect_next_out },
};

/* ---- chains that are whole, and make no sense to their device ---- */

static void eight_bytes(struct device *d)
{
	memset(d->data, 0, 4096);
	set(d, 0, (ulong)d->data, 8, D_NEXT, 1);
	set(d, 1, (ulong)d->data + 512, 64, D_WRITE, 0);
}

static void no_status(struct device *d)
{
	good_chain(d);
	set(d, 0, (ulong)d->data, 16, 0, 0);
}

static void longer_than_it_is(struct device *d)
{
	good_chain(d);
	((u32 *)d->data)[d->id == ID_VSOCK ? 6 : 0] = 0xffffffff;
}

static void one_more_than_it_is(struct device *d)
{
	good_chain(d);
	((u32 *)d->data)[d->id == ID_VSOCK ? 6 : 0]++;
}

static void half_a_number(struct device *d)
{
	good_chain(d);
	d->queue.desc[0].len = 6;
}

static void long_list(struct device *d)
{
	good_chain(d);
	d->queue.desc[0].len = 0x100000;
}

static const struct {
	unsigned id;
	struct attack attack;
} own_attacks[] = {
	{ ID_BLK, { "a request without a header", eight_bytes } },
	{ ID_BLK, { "a request without a status", no_status } },
	{ ID_NET, { "a frame without a header", eight_bytes } },
	{ ID_VSOCK, { "a packet without a header", eight_bytes } },
	{ ID_VSOCK, { "a packet of 4 GiB", longer_than_it_is } },
	{ ID_VSOCK, { "a packet that is cut short", one_more_than_it_is } },
	{ ID_BALLOON, { "a page and a half", half_a_number } },
	{ ID_BALLOON, { "a list of a mebibyte", long_list } },
	{ ID_FS, { "a request without a header", eight_bytes } },
	{ ID_FS, { "a request of 4 GiB", longer_than_it_is } },
	{ ID_FS, { "a request that is cut short", one_more_than_it_is } },
};

static const char *label(struct device *d, const char *what)
{
	static char text[96];
	unsigned n = 0;

	for (const char *p = d->name; *p; p++)
		text[n++] = *p;
	text[n++] = ':';
	text[n++] = ' ';
	for (; *what && n < sizeof(text) - 1; what++)
		text[n++] = *what;
	text[n] = 0;
	return text;
}

static void expect_needs_reset(struct device *d, const char *what)
{
	bool asked = wait_needs_reset(d);
	u16 used = d->queue.used[1];

	if (!asked || used != 0)
		fail(label(d, what), "status %#x, %u used", REG8(d, C_STATUS), used);
	else if (!works(d))
		fail(label(d, what), "it does not work after the reset: status %#x",
		     REG8(d, C_STATUS));
	else
		ok(label(d, what));
}

static void attack(struct device *d, const struct attack *a)
{
	if (!begin(d)) {
		fail(label(d, a->name), "it does not begin");
		return;
	}
	a->make(d);
	offer(d, 0);
	expect_needs_reset(d, a->name);
}

static void chains(struct device *d)
{
	for (unsigned i = 0; i < ARRAY_LEN(attacks); i++)
		attack(d, &attacks[i]);
	for (unsigned i = 0; i < ARRAY_LEN(own_attacks); i++)
		if (own_attacks[i].id == d->id)
			attack(d, &own_attacks[i].attack);
	begin(d);
	good_chain(d);
	offer(d, QSIZE);
	expect_needs_reset(d, "a head out of range");
	begin(d);
	good_chain(d);
	d->queue.avail[1] = QSIZE + 1;
	*d->queue.bell = d->q;
	expect_needs_reset(d, "more chains than the ring holds");
}

/* ---- broken queues ---- */

static void queue_with(struct device *d, const char *what, unsigned reg, u64 val)
{
	if (!reset(d)) {
		fail(label(d, what), "it does not reset");
		return;
	}
	features(d);
	fill_queue_regs(d);
	if (reg == C_QSIZE)
		REG16(d, reg) = (u16)val;
	else
		put_address(d, reg, val);
	REG16(d, C_QENABLE) = 1;
	REG8(d, C_STATUS) = S_OK;
	/* A size that cannot be may be refused when it is written, too; then all is well. */
	if (reg == C_QSIZE && !(REG8(d, C_STATUS) & S_NEEDS_RESET) && REG16(d, C_QSIZE) != val) {
		check(works(d), label(d, what), "refused, but does not work: status %#x",
		      REG8(d, C_STATUS));
		return;
	}
	memset((void *)d->queue.used, 0, 4096);
	expect_needs_reset(d, what);
}

static void queues(struct device *d)
{
	queue_with(d, "a queue of no size", C_QSIZE, 0);
	queue_with(d, "a queue of 3", C_QSIZE, 3);
	queue_with(d, "a queue of 32768", C_QSIZE, 32768);
	queue_with(d, "descriptors beyond RAM", C_QDESC, mem_top);
	queue_with(d, "descriptors across the end of RAM", C_QDESC, mem_top - 16);
	queue_with(d, "descriptors at the end of all", C_QDESC, ~0xfull);
	queue_with(d, "descriptors in registers", C_QDESC, (ulong)d->common);
	queue_with(d, "descriptors not aligned", C_QDESC, (ulong)d->queue.desc + 8);
	queue_with(d, "an available ring beyond RAM", C_QAVAIL, mem_top);
	queue_with(d, "an available ring not aligned", C_QAVAIL, (ulong)d->queue.avail + 1);
	queue_with(d, "a used ring across the end of RAM", C_QUSED, mem_top - 4);
	queue_with(d, "a used ring in the local APIC", C_QUSED, 0xfee00000);
	queue_with(d, "a used ring not aligned", C_QUSED, (ulong)d->queue.used + 2);
}

/* ---- at random ---- */

static u64 rng_state;

static u32 random32(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (u32)(rng_state >> 16);
}

static void registers(struct device *d)
{
	volatile u8 *parts[] = { d->common, d->config, d->notify };

	for (unsigned i = 0; i < 20000; i++) {
		volatile u8 *p = parts[random32() % 3];
		unsigned off = random32() % 64;
		u32 v = random32() & 1 ? random32() : random32() % 4;

		if (!p)
			continue;
		switch (random32() % 6) {
		case 0:
			p[off] = (u8)v;
			break;
		case 1:
			*(volatile u16 *)(p + (off & ~1u)) = (u16)v;
			break;
		case 2:
			*(volatile u32 *)(p + (off & ~3u)) = v;
			break;
		case 3:
			*(volatile u64 *)(p + (off & ~7u)) = v;
			break;
		case 4:
			*(volatile u16 *)(p + off) = (u16)v; /* not aligned */
			break;
		case 5:
			(void)*(volatile u32 *)(p + off);
			break;
		}
	}
	check(works(d), label(d, "registers written at random"), "it does not work afterwards: %#x",
	      REG8(d, C_STATUS));
}

/* The capability that gives access to the BARs (virtio 1.2, 4.1.4.9), or 0 */
static unsigned access_capability(unsigned slot)
{
	unsigned cap = pci_read(slot, 0x34) & 0xff;

	while (cap && !((pci_read(slot, cap) & 0xff) == 9 && (pci_read(slot, cap + 3) & 0xff) == 5))
		cap = pci_read(slot, cap + 1) & 0xff;
	return cap;
}

/*
 * The whole of configuration space; the BARs wander over RAM and other devices meanwhile. Left out
 * is the way to the MSI-X table: a message made at random may reset a CPU, as it should.
 */
static void config_space(struct device *d)
{
	static const u32 places[] = {
		0xfee00000, 0xfec00000, 0xe0000000, 0, 0xfffff000, 0xffffffff
	};

	unsigned access = access_capability(d->slot);

	begin(d);
	good_chain(d);
	for (unsigned i = 0; i < 20000; i++) {
		u32 off = random32() % 64 * 4;

		if (i % 16 == 0) {
			pci_write(d->slot, 0x10 + (i & 16) / 4,
				  places[random32() % ARRAY_LEN(places)]);
			pci_write(d->slot, 4, random32() & 1 ? 6 : 4);
		} else if (off >= 0x40 || i & 1) {
			(void)pci_read(d->slot, off);
			if (off >= 0x40 && (off < access || off >= access + 20))
				pci_write(d->slot, off, random32());
		}
		/* decoding stays off while a BAR lies over what this program needs */
		pci_write(d->slot, 4, 4);
	}
	pci_write(d->slot, 4, 0);
	/* MSI-X off again */
	for (unsigned cap = pci_read(d->slot, 0x34) & 0xff; cap;
	     cap = pci_read(d->slot, cap + 1) & 0xff)
		if ((pci_read(d->slot, cap) & 0xff) == 0x11)
			pci_write(d->slot, cap, 0);
	place_bars(d->slot);
	check(works(d), label(d, "configuration space written at random"),
	      "it does not work afterwards: %#x", REG8(d, C_STATUS));
}

/* ---- racing ---- */

struct race {
	struct device *d;
	volatile bool stop;
};

/* On the second CPU: between good and bad, as fast as it goes. */
static void change_rings(void *arg)
{
	struct race *r = arg;
	volatile struct desc *desc = r->d->queue.desc;
	static const u64 bad[] = { 0xfee00000, ~0ull - 15, 0x4000000, 0x3fffff0 };
	u64 good = (ulong)r->d->data;

	for (unsigned i = 0; !r->stop; i++) {
		unsigned at = i % 4;

		desc[at].addr = bad[i / 4 % ARRAY_LEN(bad)];
		desc[at].addr = good + at * 512;
		desc[at].len = 0xffffffff;
		desc[at].len = i % 700;
		desc[at].next = (u16)(i % (QSIZE + 2));
		desc[at].flags = (u16)(i >> 3 & 7);
		desc[at].flags = D_WRITE;
		if (i % 64 == 0)
			r->d->queue.avail[2 + i / 64 % QSIZE] = (u16)(i % 7);
		if (i % 4096 == 0)
			r->d->queue.avail[1] += 3;
	}
}

static void change_registers(void *arg)
{
	struct race *r = arg;

	for (unsigned i = 0; !r->stop; i++) {
		if (i % 8 == 0)
			REG8(r->d, C_STATUS) = 0;
		else if (i % 8 == 4)
			begin(r->d);
		*r->d->queue.bell = r->d->q;
	}
}

static void race(struct device *d, const char *what, void (*other)(void *arg))
{
	struct race r = { .d = d };
	u64 end = rdtsc() + RACE_TSC;
	unsigned resets = 0, offers = 0;

	begin(d);
	good_chain(d);
	smp_run(1, other, &r);
	while (rdtsc() < end) {
		good_chain(d);
		offer(d, (u16)(offers++ % 4));
		if (REG8(d, C_STATUS) & S_NEEDS_RESET || !(REG8(d, C_STATUS) & 4)) {
			resets++;
			begin(d);
		}
	}
	r.stop = true;
	if (!smp_wait(1)) {
		fail(label(d, what), "the other CPU does not end");
		return;
	}
	check(works(d), label(d, what), "it does not work after %u offers and %u resets: %#x",
	      offers, resets, REG8(d, C_STATUS));
}

int main(void)
{
	rng_state = random_seed ? random_seed : 0x9e3779b97f4a7c15;
	for (unsigned slot = 0; slot < 32; slot++)
		find(slot);
	check(device_count >= 4, "the devices to try", "only %u", device_count);
	for (unsigned i = 0; i < device_count; i++) {
		struct device *d = &devices[i];

		if (!check(works(d), label(d, "works"), "status %#x", REG8(d, C_STATUS)))
			continue;
		chains(d);
		queues(d);
		registers(d);
		config_space(d);
	}
	if (smp_start() < 2) {
		skip("races", "one CPU");
		return 0;
	}
	for (unsigned i = 0; i < device_count; i++) {
		race(&devices[i], "rings change while they are read", change_rings);
		race(&devices[i], "resets and notifications from two CPUs", change_registers);
	}
	for (unsigned i = 0; i < device_count; i++)
		check(works(&devices[i]), label(&devices[i], "works at the end"), "status %#x",
		      REG8(&devices[i], C_STATUS));
	return 0;
}
