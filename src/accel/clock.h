/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's clock as a saved section: what kvm-clock shows, and the rate of the TSC. */
#ifndef EYOT_ACCEL_CLOCK_H
#define EYOT_ACCEL_CLOCK_H

#include "base/snap.h"

#define CLOCK_SECTION "clock"
#define CLOCK_VERSION 1

static inline void accel_clock_save(struct snap_writer *w, uint64_t ns, uint32_t tsc_khz)
{
	snap_begin(w, CLOCK_SECTION, CLOCK_VERSION);
	snap_put_u64(w, ns);
	snap_put_u32(w, tsc_khz);
	snap_close(w);
}

static inline int accel_clock_load(struct snap_reader *r, uint64_t *ret_ns, uint32_t *ret_tsc_khz,
				   struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, CLOCK_SECTION, CLOCK_VERSION, &version, err);

	if (ret < 0)
		return ret;
	*ret_ns = snap_get_u64(r);
	*ret_tsc_khz = snap_get_u32(r);
	return snap_end(r, err);
}

/** accel_same_khz() - whether two measured rates are one: within a thousandth, as rates are
 * measured */
static inline int accel_same_khz(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) <= b / 1000;
}

#endif
