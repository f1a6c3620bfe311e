/* SPDX-License-Identifier: Apache-2.0 */
/* Taking values from a fuzzer's input; zeros after its end. */
#ifndef EYOT_TESTS_FUZZ_H
#define EYOT_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_in {
	const uint8_t *p;
	size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_in *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->left; i++) {
		v |= (uint64_t)*in->p++ << (8 * i);
		in->left--;
	}
	return v;
}

/* One of the access sizes of a bus: 1, 2, 4, 8 */
static inline unsigned fuzz_size(uint8_t v)
{
	return 1u << (v & 3);
}

#endif
