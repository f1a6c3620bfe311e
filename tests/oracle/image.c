/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initial memory of a case: code pages full of int3 with the case's bytes
 * in them, data pages of values that instructions find interesting, made from
 * a seed so that a case file needs to hold only the seed.
 */
#include <string.h>
#include <sys/mman.h>

#include "oracle.h"
#include "rng.h"

const uint64_t oracle_page_va[PAGE_COUNT] = {
	[PAGE_CODE0] = CODE_BASE,
	[PAGE_CODE1] = CODE_BASE + PAGE,
	[PAGE_DATA0] = DATA_BASE,
	[PAGE_DATA1] = DATA_BASE + PAGE,
	[PAGE_DATA2] = DATA_BASE + 2 * PAGE,
	[PAGE_RO] = DATA_BASE + 3 * PAGE,
	[PAGE_HIGH] = HIGH_BASE,
	[PAGE_LOW] = LOW_BASE,
};

bool oracle_low_page;

void image_probe(void)
{
	void *p = mmap((void *)LOW_BASE, PAGE, PROT_READ,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	oracle_low_page = p == (void *)LOW_BASE;
	if (p != MAP_FAILED)
		munmap(p, PAGE);
}

static const uint64_t interesting[] = {
	0,
	1,
	~0ull,
	0x7fffffffffffffff,
	0x8000000000000000,
	0x7fffffff80000000,
	0x00000001ffffffff,
	0x7fff80007f80ff01,
	0x8080808080808080,
	0x0102030405060708,
	/* doubles: 1, -1, 0.5, max, min normal, denormal, inf, -inf, quiet and signalling NaN */
	0x3ff0000000000000,
	0xbff0000000000000,
	0x3fe0000000000000,
	0x7fefffffffffffff,
	0x0010000000000000,
	0x000fffffffffffff,
	0x7ff0000000000000,
	0xfff0000000000000,
	0x7ff8000000000001,
	0x7ff0000000000001,
	0x41dfffffffc00000,
	0x43e0000000000000,
	/* pairs of floats of the same kinds */
	0x3f800000bf800000,
	0x7f7fffff00800000,
	0x007fffff7f800000,
	0xff8000007fc00001,
	0x7f80000180000000,
	0x4effffff4f000000,
	0x5f0000003f000000,
};

static void fill_page(struct rng *r, uint8_t *page)
{
	unsigned off = 0;

	while (off < PAGE) {
		uint64_t v = rng_next(r);

		if (rng_pct(r, 40))
			v = interesting[rng_below(r, sizeof(interesting) / sizeof(interesting[0]))];
		else if (rng_pct(r, 20))
			v = (v & 0x800fffffffffffff) | ((uint64_t)(0x3f0 + rng_below(r, 32)) << 52);
		memcpy(page + off, &v, 8);
		off += 8;
	}
}

static void fill_data(struct oracle_image *im, uint64_t seed)
{
	struct rng r = rng_for(seed, 0x0da7a);

	memset(im->pages, 0xcc, 2 * PAGE);
	for (unsigned p = PAGE_DATA0; p < PAGE_COUNT; p++) {
		if (seed)
			fill_page(&r, im->pages[p]);
		else
			memset(im->pages[p], 0, PAGE);
	}
	for (unsigned i = 0; i < 256; i++) {
		uint64_t v = CODE_BASE + rng_below(&r, 2 * PAGE);

		memcpy(&im->pages[PAGE_DATA1][0x800 + i * 8], &v, 8);
	}
	for (unsigned i = 0; i < 128; i++) {
		uint64_t v = DATA_BASE + rng_below(&r, 3 * PAGE - 64);

		memcpy(&im->pages[PAGE_DATA2][i * 8], &v, 8);
	}
}

void image_set(struct oracle_image *im, const struct oracle_case *c)
{
	uint64_t off = c->in.rip - CODE_BASE;

	if (!im->valid || im->seed != c->data_seed) {
		fill_data(im, c->data_seed);
		im->seed = c->data_seed;
		im->valid = true;
	}
	/* Code that would run past the end of the code pages is cut off there. */
	for (unsigned i = 0; i < c->code_len && off + i < 2 * PAGE; i++)
		im->pages[0][off + i] = c->code[i];
}

void image_unset(struct oracle_image *im, const struct oracle_case *c)
{
	uint64_t off = c->in.rip - CODE_BASE;

	for (unsigned i = 0; i < c->code_len && off + i < 2 * PAGE; i++)
		im->pages[0][off + i] = 0xcc;
}

void image_collect(const struct oracle_image *im, uint8_t *const live[PAGE_COUNT],
		   struct oracle_result *res, unsigned from)
{
	res->changed = 0;
	for (unsigned p = 0; p < PAGE_COUNT; p++) {
		if (!live[p] || !memcmp(im->pages[p], live[p], PAGE))
			continue;
		res->changed |= 1u << p;
		memcpy(res->pages[p], live[p], PAGE);
		if (p >= from)
			memcpy(live[p], im->pages[p], PAGE);
	}
}
