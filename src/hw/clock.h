/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time as devices see it: a monotonic clock, wall-clock time and one-shot
 * timers. The product's clock runs on the event loop; tests inject their own.
 */
#ifndef EYOT_HW_CLOCK_H
#define EYOT_HW_CLOCK_H

#include <stdint.h>

struct loop;

struct hw_clock {
	uint64_t (*now_ns)(void *opaque); /* monotonic; any thread */
	int64_t (*wall_ns)(void *opaque); /* since 1970-01-01 00:00 UTC; any thread */
	/* A disarmed one-shot timer; 0 or -errno. @fn runs on the loop thread, no lock held. */
	int (*timer_new)(void *opaque, void (*fn)(void *arg), void *arg, void **ret_timer);
	void (*timer_arm)(void *timer, uint64_t deadline_ns); /* 0 disarms; any thread */
	void (*timer_free)(void *timer);
	void *opaque;
};

/** hw_clock_init_loop() - the real clock, with timers on @loop (borrowed) */
void hw_clock_init_loop(struct hw_clock *clock, struct loop *loop);

#endif
