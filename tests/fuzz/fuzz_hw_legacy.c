/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PIT, RTC, ACPI registers, keyboard controller and 8259 pair: any sequence of
 * port accesses, time, saves and loads. Whatever the guest does, timers may
 * fire only at a bounded rate.
 */
#include "fuzz.h"

#include "../unit/hw_fake.h"
#include "hw/kbc.h"
#include "hw/pic.h"
#include "hw/pit.h"
#include "hw/pm.h"
#include "hw/rtc.h"

static struct pit *pit;
static struct rtc *rtc;
static struct pm *pm;
static struct kbc *kbc;
static struct pic *pic;

static void on_line(void *chip, unsigned gsi, bool level)
{
	fake_line(chip, gsi, level);
	pic_set_gsi(pic, gsi, level);
}

static const uint16_t ports[] = {
	0x40,
	0x41,
	0x42,
	0x43,
	0x61,
	0x70,
	0x71,
	0x60,
	0x64,
	0x92,
	0x20,
	0x21,
	0xa0,
	0xa1,
	0x4d0,
	0x4d1,
	PORT_PM_BASE,
	PORT_PM_BASE + 1,
	PORT_PM_BASE + 2,
	PORT_PM_BASE + 3,
	PORT_PM_BASE + 4,
	PORT_PM_BASE + 5,
	PORT_PM_TMR,
	PORT_PM_TMR + 3,
};

static void load(unsigned which, const uint8_t *data, size_t len)
{
	struct snap_reader r;
	struct err err;

	snap_reader_init(&r, data, len);
	switch (which % 5) {
	case 0:
		pit_load(pit, &r, &err);
		break;
	case 1:
		rtc_load(rtc, &r, &err);
		break;
	case 2:
		pm_load(pm, &r, &err);
		break;
	case 3:
		kbc_load(kbc, &r, &err);
		break;
	default:
		pic_load(pic, &r, &err);
		break;
	}
}

static void save_and_load(unsigned which, struct fuzz_in *in)
{
	struct snap_writer w;
	unsigned n = (unsigned)fuzz_take(in, 1) & 3;

	snap_writer_init(&w);
	switch (which % 5) {
	case 0:
		pit_save(pit, &w);
		break;
	case 1:
		rtc_save(rtc, &w);
		break;
	case 2:
		pm_save(pm, &w);
		break;
	case 3:
		kbc_save(kbc, &w);
		break;
	default:
		pic_save(pic, &w);
		break;
	}
	assert(!w.failed);
	while (n--) {
		size_t at = fuzz_take(in, 1) % w.len;

		w.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	load(which, w.data, w.len);
	snap_writer_done(&w);
}

static void step(struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), which;
	uint64_t ns;

	switch (op & 7) {
	case 0:
	case 1:
	case 2:
		out8(ports[(op >> 3) % ARRAY_SIZE(ports)], (uint8_t)fuzz_take(in, 1));
		break;
	case 3:
		in8(ports[(op >> 3) % ARRAY_SIZE(ports)]);
		break;
	case 4: /* wide accesses */
		which = (unsigned)fuzz_take(in, 1) % ARRAY_SIZE(ports);
		if (op & 8)
			bus_read(&fake.pio, ports[which], op & 16 ? 2 : 4);
		else
			bus_write(&fake.pio, ports[which], op & 16 ? 2 : 4, fuzz_take(in, 4));
		break;
	case 5:
		ns = fuzz_take(in, 3) << (op >> 3 & 7);
		fake_advance_max(ns, (unsigned)(ns / 50000) + 1000);
		break;
	case 6:
		save_and_load(op >> 3, in);
		break;
	default:
		if (op & 0x80) {
			load(op >> 3 & 15, in->p, in->left);
			in->left = 0;
		} else if (op & 0x40) {
			pic_ack(pic);
		} else if (op & 0x20) {
			fake.wall_ns += (int64_t)(int16_t)fuzz_take(in, 2) * 1000000000;
		} else {
			pm_power_button(pm);
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };

	fake_init();
	assert(!pic_new(&fake.pio, NULL, NULL, &pic, NULL));
	fake.irq.line = on_line;
	assert(!pit_new(&fake.pio, &fake.irq, &fake.clock, &pit, NULL));
	assert(!rtc_new(&fake.pio, &fake.irq, &fake.clock, GIB(1), 0, &rtc, NULL));
	assert(!pm_new(&fake.pio, &fake.irq, &fake.clock, &fake.platform, &pm, NULL));
	assert(!kbc_new(&fake.pio, &fake.platform, &kbc, NULL));
	while (in.left)
		step(&in);
	kbc_free(kbc);
	pm_free(pm);
	rtc_free(rtc);
	pit_free(pit);
	pic_free(pic);
	fake_done();
	return 0;
}
