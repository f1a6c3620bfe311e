/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pair of 8259A interrupt controllers (Intel 8259A data sheet), cascaded
 * through IRQ 2 of the first, with the edge/level control registers.
 *
 * Invariants
 * 1. The second chip's output is the first's line 2; both outputs are
 *    recomputed after every change (settle()).
 * 2. An edge is latched in IRR until acknowledged, even when its line falls
 *    before; that spares devices from holding their lines.
 *
 * Power-on masks everything: no firmware has set vectors yet. Single mode,
 * 8080 mode and buffered mode do not exist.
 */
#include "hw/pic.h"

#include <stdlib.h>

#include "hw/platform.h"

#define CASCADE 2
#define SPURIOUS 7

#define ICW1 0x10
#define ICW1_ICW4 0x01
#define ICW4_AUTO_EOI 0x02
#define ICW4_NESTED 0x10
#define OCW3 0x08

#define SNAP_NAME "pic"
#define SNAP_VERSION 1

static const uint8_t elcr_mask[2] = { PIC_ELCR_MASTER, PIC_ELCR_SLAVE };

struct pic {
	bool lock;
	bool output; /* read without the lock */
	struct pic_chip_state chip[2];
	void (*intr)(void *opaque);
	void *opaque;
	struct bus *pio;
};

static void lock(struct pic *pic)
{
	while (__atomic_test_and_set(&pic->lock, __ATOMIC_ACQUIRE))
		while (__atomic_load_n(&pic->lock, __ATOMIC_RELAXED))
			__builtin_ia32_pause();
}

/* Distance of the most important bit of @mask from the highest priority; 8: none */
static unsigned priority(const struct pic_chip_state *c, uint8_t mask)
{
	unsigned p = 0;

	while (p < 8 && !(mask >> ((p + c->first) & 7) & 1))
		p++;
	return p;
}

/* The IRQ this chip asks to have served; -1: none */
static int requested(const struct pic *pic, const struct pic_chip_state *c)
{
	uint8_t serving = c->isr;
	unsigned want = priority(c, c->irr & ~c->imr);

	if (want == 8)
		return -1;
	if (c->special_mask)
		serving &= ~c->imr;
	if (c->nested && c == &pic->chip[0])
		serving &= ~(1 << CASCADE);
	return want < priority(c, serving) ? (int)((want + c->first) & 7) : -1;
}

static void set_line(struct pic_chip_state *c, unsigned irq, bool level)
{
	uint8_t bit = (uint8_t)(1 << irq);

	if (c->elcr & bit)
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !(c->lines & bit))
		c->irr |= bit;
	c->lines = level ? c->lines | bit : c->lines & ~bit;
}

/* Recompute both outputs; true when the pair's rose */
static bool settle(struct pic *pic)
{
	bool cascade = requested(pic, &pic->chip[1]) >= 0, output, rose;

	set_line(&pic->chip[0], CASCADE, cascade);
	if (!cascade)
		pic->chip[0].irr &= ~(1 << CASCADE);
	output = requested(pic, &pic->chip[0]) >= 0;
	rose = output && !pic->output;
	__atomic_store_n(&pic->output, output, __ATOMIC_RELEASE);
	return rose;
}

static void settle_and_unlock(struct pic *pic)
{
	bool rose = settle(pic);

	__atomic_clear(&pic->lock, __ATOMIC_RELEASE);
	if (rose && pic->intr)
		pic->intr(pic->opaque);
}

void pic_set_gsi(struct pic *pic, unsigned gsi, bool level)
{
	unsigned irq = gsi == GSI_PIT ? 0 : gsi;

	if (gsi == 0 || irq > 15)
		return;
	lock(pic);
	set_line(&pic->chip[irq >> 3], irq & 7, level);
	settle_and_unlock(pic);
}

bool pic_pending(const struct pic *pic)
{
	return __atomic_load_n(&pic->output, __ATOMIC_ACQUIRE);
}

static void acknowledge(struct pic_chip_state *c, unsigned irq)
{
	uint8_t bit = (uint8_t)(1 << irq);

	if (c->auto_eoi) {
		if (c->rotate_aeoi)
			c->first = (irq + 1) & 7;
	} else {
		c->isr |= bit;
	}
	if (!(c->elcr & bit))
		c->irr &= ~bit;
}

int pic_ack(struct pic *pic)
{
	int irq, vector;

	lock(pic);
	irq = requested(pic, &pic->chip[0]);
	if (irq == CASCADE) {
		int second = requested(pic, &pic->chip[1]);

		acknowledge(&pic->chip[0], CASCADE);
		if (second >= 0)
			acknowledge(&pic->chip[1], (unsigned)second);
		vector = pic->chip[1].base + (second >= 0 ? second : SPURIOUS);
	} else {
		if (irq >= 0)
			acknowledge(&pic->chip[0], (unsigned)irq);
		vector = pic->chip[0].base + (irq >= 0 ? irq : SPURIOUS);
	}
	settle_and_unlock(pic);
	return vector;
}

static void write_icw1(struct pic_chip_state *c, uint8_t val)
{
	c->irr &= c->elcr; /* edges are forgotten */
	c->lines &= c->elcr;
	c->imr = c->isr = c->first = 0;
	c->auto_eoi = c->rotate_aeoi = c->special_mask = c->nested = false;
	c->read_isr = c->poll = false;
	c->expect_icw4 = val & ICW1_ICW4;
	c->init = 2;
}

/* Operation command word 2: end of interrupt, rotation */
static void write_ocw2(struct pic_chip_state *c, uint8_t val)
{
	unsigned irq = val & 7, p;

	switch (val >> 5) {
	case 0:
	case 4:
		c->rotate_aeoi = val & 0x80;
		break;
	case 1:
	case 5:
		p = priority(c, c->special_mask ? c->isr & ~c->imr : c->isr);
		if (p == 8)
			break;
		irq = (p + c->first) & 7;
		c->isr &= ~(1 << irq);
		if (val & 0x80)
			c->first = (irq + 1) & 7;
		break;
	case 3:
		c->isr &= ~(1 << irq);
		break;
	case 6:
		c->first = (irq + 1) & 7;
		break;
	case 7:
		c->isr &= ~(1 << irq);
		c->first = (irq + 1) & 7;
		break;
	}
}

static void write_command(struct pic_chip_state *c, uint8_t val)
{
	if (val & ICW1) {
		write_icw1(c, val);
	} else if (val & OCW3) {
		if (val & 0x04)
			c->poll = true;
		if (val & 0x02)
			c->read_isr = val & 0x01;
		if (val & 0x40)
			c->special_mask = val & 0x20;
	} else {
		write_ocw2(c, val);
	}
}

static void write_data(struct pic_chip_state *c, uint8_t val)
{
	switch (c->init) {
	case 2:
		c->base = val & 0xf8;
		c->init = 3;
		break;
	case 3: /* cascade wiring is fixed */
		c->init = c->expect_icw4 ? 4 : 0;
		break;
	case 4:
		c->nested = val & ICW4_NESTED;
		c->auto_eoi = val & ICW4_AUTO_EOI;
		c->init = 0;
		break;
	default:
		c->imr = val;
		break;
	}
}

static uint8_t read_chip(struct pic *pic, struct pic_chip_state *c, bool data)
{
	int irq;

	if (c->poll) { /* a poll command makes the next read an acknowledge cycle */
		c->poll = false;
		irq = requested(pic, c);
		if (irq < 0)
			return 0;
		acknowledge(c, (unsigned)irq);
		return (uint8_t)(0x80 | irq);
	}
	if (data)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static uint64_t access_read(struct pic *pic, struct pic_chip_state *c, uint64_t off, unsigned size)
{
	uint64_t val = 0;

	lock(pic);
	for (unsigned i = 0; i < size; i++)
		val |= (uint64_t)read_chip(pic, c, (off + i) & 1) << (8 * i);
	settle_and_unlock(pic);
	return val;
}

static void access_write(struct pic *pic, struct pic_chip_state *c, uint64_t off, unsigned size,
			 uint64_t val)
{
	lock(pic);
	for (unsigned i = 0; i < size; i++, val >>= 8) {
		if ((off + i) & 1)
			write_data(c, (uint8_t)val);
		else
			write_command(c, (uint8_t)val);
	}
	settle_and_unlock(pic);
}

static uint64_t first_read(void *dev, uint64_t off, unsigned size)
{
	struct pic *pic = dev;

	return access_read(pic, &pic->chip[0], off, size);
}

static void first_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pic *pic = dev;

	access_write(pic, &pic->chip[0], off, size, val);
}

static uint64_t second_read(void *dev, uint64_t off, unsigned size)
{
	struct pic *pic = dev;

	return access_read(pic, &pic->chip[1], off, size);
}

static void second_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pic *pic = dev;

	access_write(pic, &pic->chip[1], off, size, val);
}

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size)
{
	struct pic *pic = dev;
	uint64_t val = 0;

	for (unsigned i = 0; i < size; i++)
		val |= (uint64_t)pic->chip[(off + i) & 1].elcr << (8 * i);
	return val;
}

static void elcr_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct pic *pic = dev;

	lock(pic);
	for (unsigned i = 0; i < size; i++) {
		struct pic_chip_state *c = &pic->chip[(off + i) & 1];

		c->elcr = (uint8_t)(val >> (8 * i)) & elcr_mask[(off + i) & 1];
	}
	settle_and_unlock(pic);
}

static const struct bus_ops first_ops = { first_read, first_write };
static const struct bus_ops second_ops = { second_read, second_write };
static const struct bus_ops elcr_ops = { elcr_read, elcr_write };

void pic_reset(struct pic *pic)
{
	lock(pic);
	for (unsigned i = 0; i < 2; i++) {
		struct pic_chip_state *c = &pic->chip[i];

		write_icw1(c, 0);
		c->init = 0;
		c->irr = c->base = c->elcr = 0;
		c->imr = 0xff;
	}
	settle_and_unlock(pic);
}

int pic_new(struct bus *pio, void (*intr)(void *opaque), void *opaque, struct pic **ret_pic,
	    struct err *err)
{
	struct pic *pic = calloc(1, sizeof(*pic));
	int ret;

	if (!pic)
		return err_set(err, ENOMEM, "8259: out of memory");
	pic->pio = pio;
	pic->intr = intr;
	pic->opaque = opaque;
	pic_reset(pic);
	ret = bus_add(pio, PORT_PIC_MASTER, 2, &first_ops, pic);
	if (!ret)
		ret = bus_add(pio, PORT_PIC_SLAVE, 2, &second_ops, pic);
	if (!ret)
		ret = bus_add(pio, PORT_ELCR, 2, &elcr_ops, pic);
	if (ret < 0) {
		pic_free(pic);
		return err_set(err, -ret, "8259: cannot claim its ports");
	}
	*ret_pic = pic;
	return 0;
}

void pic_free(struct pic *pic)
{
	if (!pic)
		return;
	bus_del(pic->pio, PORT_PIC_MASTER, pic);
	bus_del(pic->pio, PORT_PIC_SLAVE, pic);
	bus_del(pic->pio, PORT_ELCR, pic);
	free(pic);
}

void pic_state_reset(struct pic_chip_state chip[2])
{
	for (unsigned i = 0; i < 2; i++)
		chip[i] = (struct pic_chip_state) { .imr = 0xff };
}

void pic_state_save(const struct pic_chip_state chip[2], struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	for (unsigned i = 0; i < 2; i++) {
		const struct pic_chip_state *c = &chip[i];

		snap_put_u8(w, c->irr);
		snap_put_u8(w, c->imr);
		snap_put_u8(w, c->isr);
		snap_put_u8(w, c->elcr);
		snap_put_u8(w, c->lines);
		snap_put_u8(w, c->base);
		snap_put_u8(w, c->first);
		snap_put_u8(w, c->init);
		snap_put_u8(w, (uint8_t)(c->expect_icw4 | c->auto_eoi << 1 | c->rotate_aeoi << 2 |
					 c->special_mask << 3 | c->nested << 4 | c->read_isr << 5 |
					 c->poll << 6));
	}
	snap_close(w);
}

static bool load_chip(struct pic_chip_state *c, uint8_t elcr_valid, struct snap_reader *r)
{
	uint8_t flags;

	c->irr = snap_get_u8(r);
	c->imr = snap_get_u8(r);
	c->isr = snap_get_u8(r);
	c->elcr = snap_get_u8(r);
	c->lines = snap_get_u8(r);
	c->base = snap_get_u8(r);
	c->first = snap_get_u8(r);
	c->init = snap_get_u8(r);
	flags = snap_get_u8(r);
	c->expect_icw4 = flags & 1;
	c->auto_eoi = flags & 2;
	c->rotate_aeoi = flags & 4;
	c->special_mask = flags & 8;
	c->nested = flags & 0x10;
	c->read_isr = flags & 0x20;
	c->poll = flags & 0x40;
	return !(c->elcr & ~elcr_valid) && !(c->base & 7) && c->first < 8 &&
	       (!c->init || (c->init >= 2 && c->init <= 4));
}

int pic_state_load(struct pic_chip_state chip[2], struct snap_reader *r, struct err *err)
{
	uint32_t version;
	bool valid = true;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < 2; i++)
		valid = load_chip(&chip[i], elcr_mask[i], r) && valid;
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	return valid ? 0 : err_set(err, EBADMSG, "8259: saved state is not valid");
}

void pic_save(struct pic *pic, struct snap_writer *w)
{
	pic_state_save(pic->chip, w);
}

int pic_load(struct pic *pic, struct snap_reader *r, struct err *err)
{
	struct pic_chip_state chip[2];
	int ret = pic_state_load(chip, r, err);

	if (ret < 0)
		return ret;
	lock(pic);
	pic->chip[0] = chip[0];
	pic->chip[1] = chip[1];
	settle_and_unlock(pic);
	return 0;
}
