/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC: priorities, routing, timer, mode changes, save and load. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/util.h"
#include "hw/lapic.h"

#define CPUS 20
#define BASE 0xfee00000ull
#define EN (1u << 11)
#define EXTD (1u << 10)

static struct cpu {
	unsigned kicks, eois;
	uint8_t last_eoi;
	uint64_t timer;
} cpu[CPUS];
static uint64_t now, tsc;
static struct lapic_set *set;
static struct lapic *l[CPUS];

static void on_kick(void *opaque)
{
	((struct cpu *)opaque)->kicks++;
}

static void on_timer(void *opaque, uint64_t deadline)
{
	((struct cpu *)opaque)->timer = deadline;
}

static uint64_t on_now(void *opaque)
{
	return now;
}

static uint64_t on_tsc(void *opaque)
{
	return tsc;
}

/* The guest's TSC runs at 2 GHz from @tsc at @now */
static uint64_t on_tsc_to_ns(void *opaque, uint64_t t)
{
	return t <= tsc ? now : now + (t - tsc + 1) / 2;
}

static void on_eoi(void *opaque, uint8_t vector)
{
	((struct cpu *)opaque)->eois++;
	((struct cpu *)opaque)->last_eoi = vector;
}

static const struct lapic_ops ops = { on_kick, on_timer, on_now, on_tsc, on_tsc_to_ns, on_eoi };

static int setup(void **state)
{
	memset(cpu, 0, sizeof(cpu));
	now = 1000000;
	tsc = 5000;
	assert_int_equal(lapic_set_new(CPUS, &set), 0);
	for (unsigned i = 0; i < CPUS; i++) {
		l[i] = lapic_set_init(set, i, &ops, &cpu[i]);
		lapic_mmio_write(l[i], 0xf0, 0x1ff);
	}
	return 0;
}

static int teardown(void **state)
{
	lapic_set_free(set);
	return 0;
}

static void x2(unsigned i)
{
	assert_true(lapic_msr_write(l[i], 0x1b, BASE | EN | EXTD));
}

static uint64_t rdmsr(unsigned i, uint32_t msr)
{
	uint64_t v = 0;

	assert_true(lapic_msr_read(l[i], msr, &v));
	return v;
}

static void test_priority(void **state)
{
	assert_int_equal(lapic_pending(l[0]), -1);
	lapic_post(l[0], 0x41, false);
	lapic_post(l[0], 0x63, false);
	assert_int_equal(cpu[0].kicks, 2);
	lapic_post(l[0], 0x63, false);
	assert_int_equal(cpu[0].kicks, 2); /* was requested already */
	assert_int_equal(lapic_pending(l[0]), 0x63);
	assert_int_equal(lapic_ack(l[0]), 0x63);
	assert_int_equal(lapic_mmio_read(l[0], 0xa0), 0x60);
	assert_int_equal(lapic_mmio_read(l[0], 0x130), 1u << 3); /* ISR 0x60..0x7f */
	assert_int_equal(lapic_mmio_read(l[0], 0x220), 1u << 1); /* IRR 0x40..0x5f */
	assert_int_equal(lapic_pending(l[0]), -1);
	assert_int_equal(lapic_ack(l[0]), -1);
	lapic_post(l[0], 0x6f, false); /* same class: waits */
	assert_int_equal(lapic_pending(l[0]), -1);
	lapic_post(l[0], 0xd0, false);
	assert_int_equal(lapic_ack(l[0]), 0xd0);
	lapic_mmio_write(l[0], 0xb0, 0);
	assert_int_equal(lapic_pending(l[0]), -1);
	cpu[0].kicks = 0;
	lapic_mmio_write(l[0], 0xb0, 0);
	assert_int_equal(cpu[0].kicks, 1); /* the uncovered request is told */
	assert_int_equal(lapic_pending(l[0]), 0x6f);
	assert_int_equal(cpu[0].eois, 0); /* all were edge-triggered */
}

static void test_tpr(void **state)
{
	lapic_set_cr8(l[0], 6);
	assert_int_equal(lapic_mmio_read(l[0], 0x80), 0x60);
	lapic_post(l[0], 0x6f, false);
	assert_int_equal(lapic_pending(l[0]), -1);
	lapic_mmio_write(l[0], 0x80, 0x5f);
	assert_int_equal(lapic_get_cr8(l[0]), 5);
	assert_int_equal(lapic_pending(l[0]), 0x6f);
	assert_int_equal(lapic_mmio_read(l[0], 0xa0), 0x5f);
}

static void test_level_eoi(void **state)
{
	lapic_post(l[0], 0x51, true);
	assert_int_equal(lapic_mmio_read(l[0], 0x1a0), 1u << 17);
	assert_int_equal(lapic_ack(l[0]), 0x51);
	lapic_mmio_write(l[0], 0xb0, 0);
	assert_int_equal(cpu[0].eois, 1);
	assert_int_equal(cpu[0].last_eoi, 0x51);
	lapic_mmio_write(l[0], 0xb0, 0); /* nothing in service */
	assert_int_equal(cpu[0].eois, 1);
	lapic_post(l[0], 0x51, false);
	assert_int_equal(lapic_mmio_read(l[0], 0x1a0), 0);
}

static void test_software_disable(void **state)
{
	lapic_mmio_write(l[0], 0x350, 0x10700 & ~0x10000);
	assert_int_equal(lapic_mmio_read(l[0], 0x350), 0x700);
	lapic_mmio_write(l[0], 0xf0, 0xff);
	assert_int_equal(lapic_mmio_read(l[0], 0x350), 0x10700);
	lapic_mmio_write(l[0], 0x350, 0x700); /* mask cannot be cleared now */
	assert_int_equal(lapic_mmio_read(l[0], 0x350), 0x10700);
	lapic_post(l[0], 0x40, false);
	assert_int_equal(lapic_pending(l[0]), -1);
	lapic_deliver(set, 0, false, 4, 0, false); /* NMI still comes */
	assert_int_equal(lapic_take_events(l[0], 0xff, NULL), LAPIC_EV_NMI);

	/* of three NMIs before one is taken two count */
	for (unsigned i = 0; i < 3; i++)
		lapic_deliver(set, 0, false, 4, 0, false);
	assert_int_equal(lapic_take_events(l[0], LAPIC_EV_INIT, NULL), 0);
	assert_int_equal(lapic_take_events(l[0], 0xff, NULL), LAPIC_EV_NMI);
	assert_int_equal(lapic_take_events(l[0], 0xff, NULL), LAPIC_EV_NMI);
	assert_int_equal(lapic_take_events(l[0], 0xff, NULL), 0);
}

static void test_icr_xapic(void **state)
{
	uint8_t vec = 0;

	lapic_mmio_write(l[0], 0x310, 3u << 24);
	lapic_mmio_write(l[0], 0x300, 0x45);
	assert_int_equal(lapic_pending(l[3]), 0x45);
	assert_int_equal(lapic_pending(l[2]), -1);
	lapic_mmio_write(l[0], 0x310, 0xffu << 24); /* broadcast */
	lapic_mmio_write(l[0], 0x300, 0x46);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_pending(l[i]), 0x46);
	lapic_mmio_write(l[0], 0x300, 0x40047); /* self */
	assert_int_equal(lapic_pending(l[0]), 0x47);
	assert_int_equal(lapic_pending(l[1]), 0x46);
	lapic_mmio_write(l[1], 0x300, 0xc0048); /* all but self */
	assert_int_equal(lapic_pending(l[1]), 0x46);
	assert_int_equal(lapic_pending(l[0]), 0x48);
	assert_int_equal(lapic_pending(l[19]), 0x48);
	lapic_mmio_write(l[1], 0x300, 0x80049); /* all */
	assert_int_equal(lapic_pending(l[1]), 0x49);

	lapic_mmio_write(l[0], 0x310, 2u << 24);
	lapic_mmio_write(l[0], 0x300, 0x4500);
	assert_int_equal(lapic_take_events(l[2], 0xff, &vec), LAPIC_EV_INIT);
	lapic_mmio_write(l[0], 0x300, 0x8500); /* de-assert: nothing */
	assert_int_equal(lapic_take_events(l[2], 0xff, &vec), 0);
	lapic_mmio_write(l[0], 0x300, 0x4699);
	assert_int_equal(lapic_take_events(l[2], LAPIC_EV_INIT, &vec), 0);
	assert_int_equal(lapic_take_events(l[2], LAPIC_EV_SIPI, &vec), LAPIC_EV_SIPI);
	assert_int_equal(vec, 0x99);
	lapic_mmio_write(l[0], 0x300, 0x4698); /* left over from before the INIT: dropped */
	lapic_mmio_write(l[0], 0x300, 0x4500);
	assert_int_equal(lapic_take_events(l[2], 0xff, &vec), LAPIC_EV_INIT);
}

static void test_logical(void **state)
{
	lapic_mmio_write(l[1], 0xd0, 0x02000000);
	lapic_mmio_write(l[2], 0xd0, 0x04000000);
	lapic_deliver(set, 0x06, true, 0, 0x50, false);
	assert_int_equal(lapic_pending(l[0]), -1);
	assert_int_equal(lapic_pending(l[1]), 0x50);
	assert_int_equal(lapic_pending(l[2]), 0x50);
	/* cluster model: cluster 3, members 1 and 2 */
	lapic_mmio_write(l[1], 0xe0, 0x0fffffff);
	lapic_mmio_write(l[1], 0xd0, 0x31000000);
	lapic_mmio_write(l[2], 0xe0, 0x0fffffff);
	lapic_mmio_write(l[2], 0xd0, 0x42000000);
	lapic_deliver(set, 0x33, true, 0, 0x51, false);
	assert_int_equal(lapic_pending(l[1]), 0x51);
	assert_int_equal(lapic_pending(l[2]), 0x50);
}

static void test_lowest_priority(void **state)
{
	unsigned hits[3] = { 0 };

	lapic_set_cr8(l[0], 8);
	for (unsigned i = 0; i < 3; i++)
		lapic_mmio_write(l[i], 0xd0, 0x01000000u << i);
	for (unsigned n = 0; n < 40; n++) {
		lapic_deliver(set, 0x07, true, 1, 0x90, false);
		for (unsigned i = 0; i < 3; i++) {
			if (lapic_pending(l[i]) != 0x90)
				continue;
			hits[i]++;
			lapic_ack(l[i]);
			lapic_mmio_write(l[i], 0xb0, 0);
		}
	}
	assert_int_equal(hits[0], 0); /* busier */
	assert_int_equal(hits[1] + hits[2], 40);
	assert_true(hits[1] && hits[2]);
	/* a software-disabled APIC is never chosen */
	lapic_mmio_write(l[1], 0xf0, 0xff);
	lapic_mmio_write(l[2], 0xf0, 0xff);
	lapic_deliver(set, 0x07, true, 1, 0x91, false);
	assert_int_equal(lapic_pending(l[0]), 0x91);
}

static void test_msi(void **state)
{
	lapic_deliver_msi(set, 0xfee05000, 0x4071);
	assert_int_equal(lapic_pending(l[5]), 0x71);
	lapic_deliver_msi(set, 0xfee06000, 0xc072);
	assert_int_equal(lapic_mmio_read(l[6], 0x1b0), 1u << 18); /* level */
	assert_int_equal(lapic_pending(l[6]), 0x72);
}

static void test_errors(void **state)
{
	lapic_mmio_write(l[0], 0x370, 0xe0);
	lapic_mmio_write(l[0], 0x300, 0x4000f); /* illegal vector */
	assert_int_equal(lapic_pending(l[0]), 0xe0);
	assert_int_equal(lapic_mmio_read(l[0], 0x280), 0);
	lapic_mmio_write(l[0], 0x280, 0);
	assert_int_equal(lapic_mmio_read(l[0], 0x280), 0x20);
	lapic_deliver(set, 0, false, 0, 0x03, false);
	lapic_mmio_write(l[0], 0x280, 0);
	assert_int_equal(lapic_mmio_read(l[0], 0x280), 0x40);
	lapic_mmio_write(l[0], 0x280, 0);
	assert_int_equal(lapic_mmio_read(l[0], 0x280), 0);
}

static void test_base_transitions(void **state)
{
	uint64_t v;

	assert_int_equal(rdmsr(0, 0x1b), BASE | EN | 0x100);
	assert_int_equal(rdmsr(1, 0x1b), BASE | EN);
	assert_false(lapic_msr_read(l[0], 0x802, &v)); /* not in x2APIC mode */
	assert_false(lapic_msr_write(l[0], 0x1b, BASE | EXTD));
	assert_false(lapic_msr_write(l[0], 0x1b, BASE | EN | 1));
	assert_false(lapic_msr_write(l[0], 0x1b, BASE | EN | 1ull << 39));
	x2(0);
	assert_int_equal(lapic_base(l[0]), BASE | EN | EXTD | 0x100);
	assert_false(lapic_msr_write(l[0], 0x1b, BASE | EN)); /* back to xAPIC only through off */
	assert_int_equal(lapic_mmio_read(l[0], 0x30), 0xffffffff);
	assert_true(lapic_msr_write(l[0], 0x1b, BASE));
	assert_false(
	    lapic_msr_write(l[0], 0x1b, BASE | EN | EXTD)); /* off to x2APIC: not directly */
	lapic_post(l[0], 0x80, false);
	lapic_deliver(set, 0, false, 4, 0, false);
	assert_int_equal(lapic_pending(l[0]), -1);
	assert_int_equal(lapic_take_events(l[0], 0xff, NULL), 0);
	assert_true(lapic_msr_write(l[0], 0x1b, BASE | EN));
	assert_int_equal(lapic_mmio_read(l[0], 0xf0), 0xff); /* state was lost */
}

static void test_x2apic(void **state)
{
	uint64_t v;

	for (unsigned i = 0; i < CPUS; i++)
		x2(i);
	assert_int_equal(rdmsr(19, 0x802), 19);
	assert_int_equal(rdmsr(19, 0x80d), 0x10008);
	assert_int_equal(rdmsr(0, 0x803), 0x50014);
	assert_true(lapic_msr_write(l[0], 0x830, 19ull << 32 | 0x55));
	assert_int_equal(lapic_pending(l[19]), 0x55);
	assert_int_equal(rdmsr(0, 0x830), 19ull << 32 | 0x55);
	assert_true(
	    lapic_msr_write(l[0], 0x830, 0x1000cull << 32 | 0x856)); /* logical: 18 and 19 */
	assert_int_equal(lapic_pending(l[18]), 0x56);
	assert_int_equal(lapic_pending(l[19]), 0x56);
	assert_int_equal(lapic_pending(l[3]), -1);
	assert_true(lapic_msr_write(l[0], 0x830, 0xffull << 32 | 0x57)); /* 255 is one CPU here */
	assert_int_equal(lapic_pending(l[2]), -1);
	assert_true(lapic_msr_write(l[0], 0x830, 0xffffffffull << 32 | 0x57));
	assert_int_equal(lapic_pending(l[2]), 0x57);
	assert_true(lapic_msr_write(l[0], 0x83f, 0x58)); /* self IPI */
	assert_int_equal(lapic_pending(l[0]), 0x58);
	assert_false(lapic_msr_read(l[0], 0x83f, &v));
	assert_false(lapic_msr_write(l[0], 0x83f, 0x158));
	assert_false(lapic_msr_write(l[0], 0x802, 1)); /* read-only */
	assert_false(lapic_msr_write(l[0], 0x80d, 1));
	assert_false(lapic_msr_read(l[0], 0x80e, &v)); /* no DFR */
	assert_false(lapic_msr_read(l[0], 0x831, &v)); /* no ICR2 */
	assert_false(lapic_msr_read(l[0], 0x80b, &v)); /* EOI is write-only */
	assert_false(lapic_msr_write(l[0], 0x80b, 1));
	assert_true(lapic_msr_write(l[0], 0x80b, 0));
	assert_false(lapic_msr_write(l[0], 0x808, 0x100));
	assert_false(lapic_msr_write(l[0], 0x808, 1ull << 32));
	assert_false(lapic_msr_write(l[0], 0x828, 1));
	assert_false(lapic_msr_write(l[0], 0x832, 1u << 20));
	assert_false(lapic_msr_write(l[0], 0x830, 1u << 20));
	assert_false(lapic_msr_write(l[0], 0x8ff, 0));
	/* INIT keeps mode and ID */
	lapic_reset(l[19], true);
	assert_int_equal(rdmsr(19, 0x802), 19);
	assert_int_equal(lapic_pending(l[19]), -1);
}

static void test_timer_oneshot(void **state)
{
	lapic_mmio_write(l[0], 0x320, 0x30);
	lapic_mmio_write(l[0], 0x3e0, 0x3); /* divide by 16 */
	lapic_mmio_write(l[0], 0x380, 1000);
	assert_int_equal(cpu[0].timer, now + 16000);
	now += 8000;
	assert_int_equal(lapic_mmio_read(l[0], 0x390), 500);
	lapic_timer_fire(l[0]); /* too early */
	assert_int_equal(lapic_pending(l[0]), -1);
	lapic_mmio_write(l[0], 0x3e0, 0xb); /* divide by 1: 500 counts left */
	assert_int_equal(cpu[0].timer, now + 500);
	now += 500;
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_ack(l[0]), 0x30);
	assert_int_equal(lapic_mmio_read(l[0], 0x390), 0);
	lapic_mmio_write(l[0], 0xb0, 0);
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_pending(l[0]), -1); /* once */
	lapic_mmio_write(l[0], 0x380, 1000);
	lapic_mmio_write(l[0], 0x380, 0);
	assert_int_equal(cpu[0].timer, 0);
	lapic_mmio_write(l[0], 0x320, 0x10030); /* masked: no interrupt */
	lapic_mmio_write(l[0], 0x380, 10);
	now += 10;
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_pending(l[0]), -1);
}

static void test_timer_periodic(void **state)
{
	uint64_t start = now;

	lapic_mmio_write(l[0], 0x320, 0x20031);
	lapic_mmio_write(l[0], 0x3e0, 0xb);
	lapic_mmio_write(l[0], 0x380, 1000000);
	now += 1000000;
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_ack(l[0]), 0x31);
	lapic_mmio_write(l[0], 0xb0, 0);
	assert_int_equal(cpu[0].timer, start + 2000000);
	assert_int_equal(lapic_mmio_read(l[0], 0x390), 1000000);
	now = start + 4200000; /* late: the phase stays */
	assert_int_equal(lapic_mmio_read(l[0], 0x390), 800000);
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_pending(l[0]), 0x31);
	assert_int_equal(cpu[0].timer, start + 5000000);
	/* a silly period is slowed down */
	lapic_mmio_write(l[0], 0x380, 1);
	assert_true(cpu[0].timer >= now + 1000);
}

static void test_timer_deadline(void **state)
{
	assert_true(lapic_msr_write(l[0], 0x6e0, 6000)); /* ignored in one-shot mode */
	assert_int_equal(rdmsr(0, 0x6e0), 0);
	lapic_mmio_write(l[0], 0x320, 0x40032);
	assert_true(lapic_msr_write(l[0], 0x6e0, 7000));
	assert_int_equal(cpu[0].timer, now + 1000);
	assert_int_equal(rdmsr(0, 0x6e0), 7000);
	lapic_mmio_write(l[0], 0x380, 5); /* ignored */
	assert_int_equal(lapic_mmio_read(l[0], 0x390), 0);
	tsc = 6999;
	now += 999;
	lapic_timer_fire(l[0]); /* a tick too early */
	assert_int_equal(lapic_pending(l[0]), -1);
	assert_int_equal(cpu[0].timer, now + 1);
	tsc = 7000;
	now++;
	lapic_timer_fire(l[0]);
	assert_int_equal(lapic_ack(l[0]), 0x32);
	assert_int_equal(rdmsr(0, 0x6e0), 0);
	lapic_mmio_write(l[0], 0xb0, 0);
	assert_true(lapic_msr_write(l[0], 0x6e0, 100)); /* in the past: at once */
	assert_int_equal(lapic_ack(l[0]), 0x32);
	assert_true(lapic_msr_write(l[0], 0x6e0, 9000));
	lapic_mmio_write(l[0], 0x320, 0x32); /* leaving the mode disarms */
	assert_int_equal(cpu[0].timer, 0);
	lapic_mmio_write(l[0], 0x320, 0x40032);
	assert_int_equal(rdmsr(0, 0x6e0), 0);
}

static void test_save_load(void **state)
{
	struct snap_writer w;
	struct snap_reader r;
	struct err err;

	lapic_mmio_write(l[2], 0x320, 0x20031);
	lapic_mmio_write(l[2], 0x380, 1000000);
	lapic_set_cr8(l[2], 3);
	lapic_mmio_write(l[2], 0xd0, 0x08000000);
	lapic_post(l[2], 0x61, true);
	lapic_post(l[2], 0x81, false);
	assert_int_equal(lapic_ack(l[2]), 0x81);
	lapic_post_event(l[2], LAPIC_EV_SIPI, 0x12);
	now += 1000;
	snap_writer_init(&w);
	lapic_save(l[2], &w);
	lapic_reset(l[2], false);
	now = 77000000;
	cpu[2].kicks = 0;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(lapic_load(l[2], &r, &err), 0);
	assert_int_equal(cpu[2].timer, now + 2000000 - 1000);
	assert_int_equal(lapic_get_cr8(l[2]), 3);
	assert_int_equal(lapic_mmio_read(l[2], 0xa0), 0x80);
	assert_int_equal(lapic_mmio_read(l[2], 0xd0), 0x08000000);
	assert_int_equal(lapic_pending(l[2]), -1);
	assert_true(cpu[2].kicks >= 1);
	lapic_mmio_write(l[2], 0xb0, 0);
	assert_int_equal(lapic_ack(l[2]), 0x61);
	lapic_mmio_write(l[2], 0xb0, 0);
	assert_int_equal(cpu[2].last_eoi, 0x61);
	assert_int_equal(lapic_take_events(l[2], 0xff, NULL), LAPIC_EV_SIPI);
	/* the state of another APIC, or a cut one, is refused and changes nothing */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(lapic_load(l[3], &r, &err), -EBADMSG);
	snap_reader_init(&r, w.data, w.len - 1);
	assert_int_equal(lapic_load(l[2], &r, &err), -EBADMSG);
	assert_int_equal(lapic_pending(l[2]), -1);
	w.data[26] = 1; /* vector 0 cannot be requested */
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(lapic_load(l[2], &r, &err), -EBADMSG);
	w.data[26] = 0;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(lapic_load(l[2], &r, &err), 0);
	snap_writer_done(&w);
}

static void test_extint(void **state)
{
	assert_true(lapic_takes_extint(l[0])); /* virtual wire mode */
	assert_false(lapic_takes_extint(l[1]));
	lapic_mmio_write(l[0], 0x350, 0x10700);
	assert_false(lapic_takes_extint(l[0]));
	lapic_mmio_write(l[0], 0x350, 0x400);
	assert_false(lapic_takes_extint(l[0]));
	assert_true(lapic_msr_write(l[0], 0x1b, BASE));
	assert_true(lapic_takes_extint(l[0]));
	lapic_reset(l[0], false);
	assert_int_equal(lapic_mmio_read(l[0], 0x350), 0x700);
	assert_int_equal(lapic_mmio_read(l[1], 0x350), 0x10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(test_priority),	 T(test_tpr),
		T(test_level_eoi),	 T(test_software_disable),
		T(test_icr_xapic),	 T(test_logical),
		T(test_lowest_priority), T(test_msi),
		T(test_errors),		 T(test_base_transitions),
		T(test_x2apic),		 T(test_timer_oneshot),
		T(test_timer_periodic),	 T(test_timer_deadline),
		T(test_save_load),	 T(test_extint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
