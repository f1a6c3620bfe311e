/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes shaped like instructions: every opcode map, opcode, prefix and ModRM
 * shape comes up with a fair share. What is no instruction is thrown away or,
 * seldom, kept to see that it is undefined on both sides.
 */
#include <string.h>

#include "gen.h"

enum enc {
	ENC_MAP0,
	ENC_0F,
	ENC_0F38,
	ENC_0F3A,
	ENC_VEX1,
	ENC_VEX2,
	ENC_VEX3,
	ENC_X87,
	ENC_RANDOM
};

static const uint8_t weights[] = { 30, 26, 12, 8, 16, 16, 10, 9, 1 };

struct out {
	uint8_t *p;
	unsigned n;
};

static void put(struct out *o, unsigned byte)
{
	if (o->n < 15)
		o->p[o->n++] = byte;
}

static enum enc pick_enc(struct rng *r)
{
	unsigned total = 0, x;

	for (unsigned i = 0; i < sizeof(weights); i++)
		total += weights[i];
	x = rng_below(r, total);
	for (unsigned i = 0; i < sizeof(weights); i++) {
		if (x < weights[i])
			return i;
		x -= weights[i];
	}
	return ENC_MAP0;
}

static bool is_prefix(unsigned b, enum oracle_mode mode)
{
	switch (b) {
	case 0x0f:
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xc4:
	case 0xc5:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	case 0x62: /* bound in 32-bit code */
		return mode == ORACLE_64;
	default:
		return mode == ORACLE_64 && (b & 0xf0) == 0x40;
	}
}

static void put_legacy_prefixes(struct gen *g, struct out *o, enum enc e)
{
	static const uint8_t segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x64, 0x65 };
	struct rng *r = &g->r;
	bool vex = e >= ENC_VEX1 && e <= ENC_VEX3;
	unsigned x = rng_below(r, 100);

	if (rng_pct(r, 4))
		put(o, segs[rng_below(r, sizeof(segs))]);
	if (rng_pct(r, g->o->mode == ORACLE_64 ? 5 : 3))
		put(o, 0x67);
	if (vex && !rng_pct(r, 1))
		return;
	if (!vex && rng_pct(r, 5))
		put(o, 0xf0);
	if (e == ENC_MAP0 || e == ENC_X87) {
		if (x < 15)
			put(o, 0x66);
		else if (x < 22)
			put(o, 0xf3);
		else if (x < 28)
			put(o, 0xf2);
		else if (x < 30) {
			put(o, 0x66);
			put(o, 0xf3);
		}
	} else {
		if (x < 28)
			put(o, 0x66);
		else if (x < 44)
			put(o, 0xf3);
		else if (x < 60)
			put(o, 0xf2);
		else if (x < 63) {
			put(o, rng_pct(r, 50) ? 0xf2 : 0xf3);
			put(o, 0x66);
		}
	}
}

static void put_modrm(struct gen *g, struct out *o)
{
	struct rng *r = &g->r;
	unsigned mod = rng_pct(r, 42) ? 3 : rng_below(r, 3);
	unsigned rm = rng_below(r, 8);

	/* several accesses by one register: what a translator likes to check once */
	if (g->base >= 0 && mod != 3 && rng_pct(r, 50)) {
		rm = (unsigned)g->base;
		mod = rm == 5 || rng_pct(r, 70) ? 1 + rng_below(r, 2) : mod;
	}

	put(o, mod << 6 | rng_below(r, 8) << 3 | rm);
	if (mod != 3 && rm == 4)
		put(o, rng_next(r) & 0xff);
}

static void put_vex(struct gen *g, struct out *o, unsigned map)
{
	struct rng *r = &g->r;
	unsigned pp = rng_below(r, 4), l = rng_below(r, 2), w = rng_pct(r, 30);
	unsigned vvvv = rng_pct(r, 40) ? 15 : rng_below(r, 16);
	unsigned rxb = g->o->mode == ORACLE_64 ? rng_below(r, 8) : 7;

	if (g->o->mode == ORACLE_32)
		vvvv |= 8;
	if (map == 1 && rng_pct(r, 50)) {
		put(o, 0xc5);
		put(o, (rxb & 4) << 5 | vvvv << 3 | l << 2 | pp |
			   (g->o->mode == ORACLE_32 ? 0xc0 : 0));
		return;
	}
	put(o, 0xc4);
	put(o, rxb << 5 | map);
	put(o, w << 7 | vvvv << 3 | l << 2 | pp);
}

/* A number of prefixes: also more than an instruction may have */
static void put_random(struct gen *g, struct out *o)
{
	static const uint8_t some[] = { 0x66, 0x67, 0x2e, 0x64, 0xf2, 0xf3, 0xf0, 0x48, 0x40 };
	unsigned n = rng_below(&g->r, 3) ? rng_below(&g->r, 4) : rng_below(&g->r, 16);

	if (rng_pct(&g->r, 25)) {
		put(o, 0x62);
	} else {
		while (n--)
			put(o, some[rng_below(&g->r, sizeof(some))]);
	}
	while (o->n < 15)
		put(o, rng_next(&g->r) & 0xff);
}

unsigned gen_bytes(struct gen *g, uint8_t bytes[16])
{
	struct out o = { bytes, 0 };
	struct rng *r = &g->r;
	enum enc e = pick_enc(r);
	unsigned op;

	memset(bytes, 0, 16);
	if (rng_below(r, 400) == 0) { /* seldom met by chance, everywhere in real code */
		memcpy(bytes, (uint8_t[]) { 0xf3, 0x0f, 0x1e, rng_pct(r, 70) ? 0xfa : 0xfb }, 4);
		return 15;
	}
	if (e == ENC_RANDOM) {
		put_random(g, &o);
		return 15;
	}
	put_legacy_prefixes(g, &o, e);
	if (e >= ENC_VEX1 && e <= ENC_VEX3) {
		put_vex(g, &o, e - ENC_VEX1 + 1);
		put(&o, rng_below(r, 256));
	} else {
		if (g->o->mode == ORACLE_64 && rng_pct(r, 55))
			put(&o, 0x40 | rng_below(r, 16));
		if (e == ENC_X87) {
			put(&o, 0xd8 + rng_below(r, 8));
		} else if (e == ENC_MAP0) {
			do
				op = rng_below(r, 256);
			while (is_prefix(op, g->o->mode));
			put(&o, op);
		} else {
			put(&o, 0x0f);
			if (e == ENC_0F38)
				put(&o, 0x38);
			else if (e == ENC_0F3A)
				put(&o, 0x3a);
			op = rng_below(r, 256);
			put(&o, op);
		}
	}
	put_modrm(g, &o);
	while (o.n < 15) {
		uint64_t v = gen_value(r);

		for (unsigned i = 0; i < 4; i++)
			put(&o, v >> (8 * i) & 0xff);
	}
	return 15;
}
