/* SPDX-License-Identifier: Apache-2.0 */
/* Initial register contents: values at which instructions change their behaviour. */
#include <string.h>

#include "gen.h"

uint64_t gen_value(struct rng *r)
{
	switch (rng_below(r, 12)) {
	case 0:
		return 0;
	case 1:
		return 1;
	case 2:
		return ~0ull;
	case 3: /* around a sign or size boundary */
		return (1ull << (8 * (1 + rng_below(r, 8)) - rng_below(r, 2))) - 2 +
		       rng_below(r, 4);
	case 4:
		return -((1ull << (8 * (1 + rng_below(r, 8)) - 1)) - 2 + rng_below(r, 4));
	case 5:
		return rng_below(r, 256);
	case 6:
		return 1ull << rng_below(r, 64);
	case 7:
		return (uint32_t)rng_next(r);
	case 8:
		return (int64_t)(int32_t)rng_next(r);
	case 9:
		return -(uint64_t)rng_below(r, 256);
	default:
		return rng_next(r);
	}
}

uint64_t gen_data_pointer(struct rng *r)
{
	uint64_t off = rng_below(r, 3 * PAGE - 64);

	return DATA_BASE + (rng_pct(r, 70) ? off & ~15ull : off);
}

static const uint32_t floats[] = { 0,	       0x80000000, 0x3f800000, 0xbf800000, 0x3f000000,
				   0x7f7fffff, 0x00800000, 0x007fffff, 1,	   0x7f800000,
				   0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 0x4f000000,
				   0xcf000000, 0x4effffff, 0x5f000000, 0x40490fdb, 0x3eaaaaab };
static const uint64_t doubles[] = { 0,
				    1ull << 63,
				    0x3ff0000000000000,
				    0xbff0000000000000,
				    0x3fe0000000000000,
				    0x7fefffffffffffff,
				    0x0010000000000000,
				    0x000fffffffffffff,
				    1,
				    0x7ff0000000000000,
				    0xfff0000000000000,
				    0x7ff8000000000000,
				    0x7ff0000000000001,
				    0x41dfffffffc00000,
				    0xc1e0000000000000,
				    0x43e0000000000000,
				    0x400921fb54442d18,
				    0x36a0000000000000 };

static uint64_t vec_lane(struct rng *r, unsigned kind)
{
	switch (kind) {
	case 0:
		return rng_next(r);
	case 1:
		return floats[rng_below(r, sizeof(floats) / 4)] |
		       (uint64_t)floats[rng_below(r, sizeof(floats) / 4)] << 32;
	case 2:
		return doubles[rng_below(r, sizeof(doubles) / 8)];
	case 3: { /* ordinary floats */
		uint64_t v = rng_next(r);

		return (v & 0x80ffffff80ffffff) | 0x3e0000003e000000 | (v & 0x0300000003000000);
	}
	case 4: /* ordinary doubles */
		return (rng_next(r) & 0x800fffffffffffff) | (uint64_t)(0x3f0 + rng_below(r, 32))
								<< 52;
	case 5:
		return gen_value(r);
	case 6:
		return rng_below(r, 256) | (uint64_t)rng_below(r, 256) << 32;
	default:
		return 0;
	}
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = v;
	p[1] = v >> 8;
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, 8);
}

static void fill_x87(struct rng *r, uint8_t *xs)
{
	unsigned fcw = 0x37f, fsw = rng_below(r, 8) << 11,
		 ftw = rng_pct(r, 50) ? 0xff : rng_below(r, 256);

	if (rng_pct(r, 30))
		fcw = (fcw & ~0xf00u) | rng_below(r, 16) << 8;
	if (rng_pct(r, 12))
		fcw &= ~0x3fu | rng_below(r, 64);
	if (rng_pct(r, 15))
		fsw |= rng_below(r, 128);
	if (rng_pct(r, 50))
		fsw |= rng_next(r) & 0x4700;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080; /* a pending exception shows in the summary bits */
	if (rng_pct(r, 15))
		ftw = 0;
	put16(xs + XS_FCW, fcw);
	put16(xs + XS_FSW, fsw);
	xs[XS_FTW] = ftw;
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *st = xs + XS_ST + i * 16;
		uint64_t mant = rng_next(r);
		unsigned exp = 0x3fff - 16 + rng_below(r, 80);

		switch (rng_below(r, 10)) {
		case 0:
			mant = 0;
			exp = 0;
			break;
		case 1:
			exp = 0x7fff;
			mant = rng_pct(r, 50) ? 1ull << 63 : mant;
			break;
		case 2: /* denormal, pseudo-denormal */
			exp = 0;
			break;
		case 3: /* MMX */
			exp = 0xffff;
			mant = vec_lane(r, rng_below(r, 7));
			break;
		case 4: /* unnormal, extreme exponents */
			exp = rng_below(r, 0x8000);
			break;
		default:
			mant |= 1ull << 63;
			if (rng_pct(r, 30))
				mant &= ~0ull << (32 + rng_below(r, 32));
		}
		put64(st, mant);
		put16(st + 8, exp | (rng_pct(r, 40) ? 0x8000 : 0));
	}
}

void gen_state(struct gen *g)
{
	struct oracle_state *s = &g->c->in;
	struct rng *r = &g->r;
	uint32_t mxcsr = 0x1f80;

	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = rng_pct(r, 40)   ? gen_data_pointer(r)
			    : rng_pct(r, 20) ? rng_below(r, 64)
					     : gen_value(r);
	if (rng_pct(r, 90))
		s->gpr[4] = DATA_BASE + 256 + rng_below(r, 3 * PAGE - 512);
	if (rng_pct(r, 85))
		s->gpr[4] &= ~15ull;
	s->rflags = 0x202 | (rng_next(r) & 0x8d5);
	if (rng_pct(r, 15))
		s->rflags |= 0x400;
	if (g->o->alignment_check && rng_pct(r, 50))
		s->rflags |= 0x40000;
	if (rng_pct(r, 2))
		s->rflags |= 0x100;
	if (rng_pct(r, 5))
		s->rflags |= 0x200000;
	if (g->o->mode == ORACLE_64) {
		s->cs = SEL_USER64_CS;
		s->fs_base = rng_pct(r, 50) ? gen_data_pointer(r) : rng_next(r) & 0x7fffffffffff;
		s->gs_base = rng_pct(r, 50) ? gen_data_pointer(r)
					    : 0xffff800000000000 | (rng_next(r) & 0x7fffffffffff);
	} else {
		s->cs = SEL_USER32_CS;
		s->ds = s->es = s->fs = s->gs = SEL_USER_DS;
		s->fs_base = rng_pct(r, 50) ? 0 : (uint32_t)rng_next(r);
		s->gs_base = rng_pct(r, 50) ? 0 : (uint32_t)rng_next(r);
		for (unsigned i = 0; i < 16; i++)
			s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
	}
	s->ss = SEL_USER_DS;
	if (rng_pct(r, 20))
		mxcsr = (mxcsr & ~0xe040u) | rng_below(r, 8) << 13 | rng_below(r, 2) << 6;
	if (rng_pct(r, 10))
		mxcsr &= ~0x1f80u | rng_below(r, 64) << 7;
	if (rng_pct(r, 15))
		mxcsr |= rng_below(r, 64);
	memcpy(s->xsave + XS_MXCSR, &mxcsr, 4);
	fill_x87(r, s->xsave);
	for (unsigned i = 0; i < 16; i++) {
		unsigned kind = rng_below(r, 8);

		if (g->o->mode == ORACLE_32 && i >= 8)
			break;
		for (unsigned k = 0; k < 2; k++) {
			put64(s->xsave + XS_XMM + i * 16 + k * 8, vec_lane(r, kind));
			put64(s->xsave + XS_YMMH + i * 16 + k * 8, vec_lane(r, kind));
		}
	}
	put64(s->xsave + XS_BV, 7);
}
