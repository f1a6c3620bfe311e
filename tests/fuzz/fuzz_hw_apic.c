/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APICs and I/O APIC: any sequence of register accesses, messages, line
 * changes, acknowledgements, time, saves and loads.
 */
#include "fuzz.h"

#include "../unit/hw_fake.h"
#include "hw/ioapic.h"
#include "hw/lapic.h"
#include "vm/mem.h"

#define CPUS 3

static struct lapic_set *set;
static struct lapic *l[CPUS];
static struct ioapic *io;
static uint64_t timer[CPUS];

static void on_kick(void *opaque)
{
}

static void on_timer(void *opaque, uint64_t deadline)
{
	*(uint64_t *)opaque = deadline;
}

static uint64_t on_now(void *opaque)
{
	return fake.now_ns;
}

static uint64_t on_tsc(void *opaque)
{
	return fake.now_ns * 2;
}

static uint64_t on_tsc_to_ns(void *opaque, uint64_t tsc)
{
	return tsc / 2 + (tsc & 1);
}

static void on_eoi(void *opaque, uint8_t vector)
{
	assert(vector >= 16);
	ioapic_eoi(io, vector);
}

static const struct lapic_ops ops = { on_kick, on_timer, on_now, on_tsc, on_tsc_to_ns, on_eoi };

static void advance(uint64_t ns)
{
	fake.now_ns += ns;
	for (unsigned i = 0; i < CPUS; i++) {
		if (!timer[i] || timer[i] > fake.now_ns)
			continue;
		timer[i] = 0;
		lapic_timer_fire(l[i]);
		/* one firing settles everything up to now */
		assert(!timer[i] || timer[i] > fake.now_ns);
	}
}

static void load(struct lapic *apic, bool ioapic, const uint8_t *data, size_t len)
{
	struct snap_reader r;
	struct err err;

	snap_reader_init(&r, data, len);
	if (ioapic)
		ioapic_load(io, &r, &err);
	else
		lapic_load(apic, &r, &err);
}

static void save_and_load(struct lapic *apic, bool ioapic, struct fuzz_in *in)
{
	struct snap_writer w;
	unsigned n = (unsigned)fuzz_take(in, 1) & 3;

	snap_writer_init(&w);
	if (ioapic)
		ioapic_save(io, &w);
	else
		lapic_save(apic, &w);
	assert(!w.failed);
	while (n--) {
		size_t at = fuzz_take(in, 1) % w.len;

		w.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	load(apic, ioapic, w.data, w.len);
	snap_writer_done(&w);
}

static void step(struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1);
	struct lapic *apic = l[(op >> 4) % CPUS];
	uint64_t v;
	uint32_t a;
	int vector;

	switch (op & 15) {
	case 0:
	case 1:
		a = (uint32_t)fuzz_take(in, 1) << 4;
		lapic_mmio_write(apic, a, (uint32_t)fuzz_take(in, 4));
		break;
	case 2:
		lapic_mmio_read(apic, (uint32_t)fuzz_take(in, 2) & 0xfff);
		break;
	case 3:
		a = 0x800 + (uint32_t)fuzz_take(in, 1);
		lapic_msr_write(apic, a, fuzz_take(in, 8));
		break;
	case 4:
		lapic_msr_read(apic, 0x800 + (uint32_t)fuzz_take(in, 1), &v);
		break;
	case 5:
		lapic_msr_write(apic, 0x1b, MEM_LAPIC_BASE | (fuzz_take(in, 1) & 0x0f) << 8);
		break;
	case 6:
		lapic_msr_write(apic, 0x6e0, fake.now_ns * 2 + fuzz_take(in, 3));
		break;
	case 7:
		vector = lapic_pending(apic);
		assert(vector == -1 || vector >= 16);
		assert(lapic_ack(apic) == vector);
		assert(vector < 0 || lapic_pending(apic) == -1 ||
		       lapic_pending(apic) >> 4 > vector >> 4);
		break;
	case 8:
		a = (uint32_t)fuzz_take(in, 1);
		lapic_deliver(set, a, op & 16, (unsigned)fuzz_take(in, 1) & 7,
			      (uint8_t)fuzz_take(in, 1), op & 32);
		break;
	case 9:
		v = fuzz_take(in, 4);
		lapic_deliver_msi(set, v, (uint32_t)fuzz_take(in, 4));
		break;
	case 10:
		bus_write(&fake.mmio, MEM_IOAPIC_BASE, 4, fuzz_take(in, 1) & 0x3f);
		bus_write(&fake.mmio, MEM_IOAPIC_BASE + 0x10, 4, fuzz_take(in, 4));
		break;
	case 11:
		bus_read(&fake.mmio, MEM_IOAPIC_BASE + fuzz_take(in, 2) % 0xff8,
			 fuzz_size(op >> 4));
		break;
	case 12:
		ioapic_set_line(io, (unsigned)fuzz_take(in, 1) & 31, op & 16);
		break;
	case 13:
		advance(fuzz_take(in, 3) * 16);
		break;
	case 14:
		save_and_load(apic, op & 128, in);
		break;
	default:
		if (op & 64) {
			load(apic, op & 128, in->p, in->left);
			in->left = 0;
		} else if (op & 128) {
			lapic_reset(apic, true);
		} else {
			lapic_take_events(apic, 0xff, NULL);
			lapic_set_cr8(apic, (uint8_t)(op >> 4));
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };

	fake_init();
	memset(timer, 0, sizeof(timer));
	assert(!lapic_set_new(CPUS, &set));
	for (unsigned i = 0; i < CPUS; i++) {
		l[i] = lapic_set_init(set, i, &ops, &timer[i]);
		lapic_mmio_write(l[i], 0xf0, 0x1ff);
	}
	assert(!ioapic_new(&fake.mmio, set, &io, NULL));
	while (in.left)
		step(&in);
	ioapic_free(io);
	lapic_set_free(set);
	fake_done();
	return 0;
}
