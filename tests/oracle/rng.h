/* SPDX-License-Identifier: Apache-2.0 */
/* Small seeded random numbers (splitmix64): the same everywhere for the same seed. */
#ifndef EYOT_ORACLE_RNG_H
#define EYOT_ORACLE_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
	uint64_t s;
};

static inline uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* 0 .. n-1 */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
	return (uint32_t)(((rng_next(r) >> 32) * n) >> 32);
}

/* true in @percent of 100 */
static inline bool rng_pct(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

static inline struct rng rng_for(uint64_t seed, uint64_t number)
{
	struct rng r = { seed * 0xd1342543de82ef95ull + number };

	rng_next(&r);
	r.s ^= number << 17;
	return r;
}

#endif
