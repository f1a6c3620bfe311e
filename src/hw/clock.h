/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time as devices see it: a monotonic clock, wall-clock time and one-shot
 * timers. The product's clock runs on the event loop; tests inject their own.
 */
#ifndef EYOT_HW_CLOCK_H
#define EYOT_HW_CLOCK_H

#include <stdbool.h>
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

/*
 * The same clock, but for its monotonic part, which can be stopped: time of a guest
 * that is paused now and then.
 */
struct guest_clock;

struct guest_clock *guest_clock_new(struct loop *loop); /* NULL: out of memory */
void guest_clock_free(struct guest_clock *gc);		/* after its timers; NULL is fine */
void guest_clock_init(struct guest_clock *gc, struct hw_clock *clock);

/** guest_clock_stop() - stop it, or let it go on; no vCPU runs; loop thread */
void guest_clock_stop(struct guest_clock *gc, bool stopped);

#endif
