/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clocks of running machines: the host's monotonic and real time, with timers on the event
 * loop; and guest time, which is the host's without what passed while it stood. A timer of the
 * latter keeps its deadline, so that it can be armed anew when time goes on.
 */
#include "hw/clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "loop/loop.h"

static uint64_t host_now_ns(void *opaque)
{
	return clock_now_ns();
}

static int64_t host_wall_ns(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int host_timer_new(void *opaque, void (*fn)(void *arg), void *arg, void **ret_timer)
{
	struct loop_timer *timer;
	int ret = loop_timer_add(opaque, fn, arg, &timer);

	if (ret < 0)
		return ret;
	*ret_timer = timer;
	return 0;
}

static void host_timer_arm(void *timer, uint64_t deadline_ns)
{
	loop_timer_arm(timer, deadline_ns);
}

static void host_timer_free(void *timer)
{
	if (timer)
		loop_timer_del(timer);
}

void hw_clock_init_loop(struct hw_clock *clock, struct loop *loop)
{
	*clock = (struct hw_clock) {
		.now_ns = host_now_ns,
		.wall_ns = host_wall_ns,
		.timer_new = host_timer_new,
		.timer_arm = host_timer_arm,
		.timer_free = host_timer_free,
		.opaque = loop,
	};
}

/* ---- guest time ---- */

struct guest_timer {
	struct guest_clock *gc;
	struct loop_timer *timer;
	void (*fn)(void *arg);
	void *arg;
	_Atomic uint64_t deadline_ns; /* guest time; 0: disarmed */
	struct guest_timer *next;
};

struct guest_clock {
	struct loop *loop;
	_Atomic uint64_t behind_ns;  /* host time less guest time */
	_Atomic uint64_t stopped_ns; /* host time at which it was stopped; 0: it runs */
	struct guest_timer *timers;  /* loop thread */
};

static uint64_t guest_now_ns(void *opaque)
{
	struct guest_clock *gc = opaque;
	uint64_t stopped = atomic_load(&gc->stopped_ns);

	return (stopped ? stopped : clock_now_ns()) - atomic_load(&gc->behind_ns);
}

static void guest_timer_arm(void *timer, uint64_t deadline_ns)
{
	struct guest_timer *t = timer;

	atomic_store(&t->deadline_ns, deadline_ns);
	if (!atomic_load(&t->gc->stopped_ns))
		loop_timer_arm(t->timer,
			       deadline_ns ? deadline_ns + atomic_load(&t->gc->behind_ns) : 0);
}

static void guest_timer_fired(void *arg)
{
	struct guest_timer *t = arg;
	uint64_t deadline = atomic_load(&t->deadline_ns);

	/* Stopped just now: it fires again when time goes on. */
	if (!deadline || atomic_load(&t->gc->stopped_ns))
		return;
	/* Unless another thread arms it at this moment */
	atomic_compare_exchange_strong(&t->deadline_ns, &deadline, 0);
	t->fn(t->arg);
}

static int guest_timer_new(void *opaque, void (*fn)(void *arg), void *arg, void **ret_timer)
{
	struct guest_timer *t = calloc(1, sizeof(*t));
	struct guest_clock *gc = opaque;
	int ret = t ? loop_timer_add(gc->loop, guest_timer_fired, t, &t->timer) : -ENOMEM;

	if (ret < 0) {
		free(t);
		return ret;
	}
	t->gc = gc;
	t->fn = fn;
	t->arg = arg;
	t->next = gc->timers;
	gc->timers = t;
	*ret_timer = t;
	return 0;
}

static void guest_timer_free(void *timer)
{
	struct guest_timer *t = timer, **at;

	if (!t)
		return;
	for (at = &t->gc->timers; *at != t; at = &(*at)->next)
		;
	*at = t->next;
	loop_timer_del(t->timer);
	free(t);
}

struct guest_clock *guest_clock_new(struct loop *loop)
{
	struct guest_clock *gc = calloc(1, sizeof(*gc));

	if (gc)
		gc->loop = loop;
	return gc;
}

void guest_clock_free(struct guest_clock *gc)
{
	free(gc);
}

void guest_clock_init(struct guest_clock *gc, struct hw_clock *clock)
{
	*clock = (struct hw_clock) {
		.now_ns = guest_now_ns,
		.wall_ns = host_wall_ns,
		.timer_new = guest_timer_new,
		.timer_arm = guest_timer_arm,
		.timer_free = guest_timer_free,
		.opaque = gc,
	};
}

void guest_clock_stop(struct guest_clock *gc, bool stopped)
{
	uint64_t now = clock_now_ns();

	if (stopped) {
		atomic_store(&gc->stopped_ns, now);
		return;
	}
	atomic_fetch_add(&gc->behind_ns, now - atomic_load(&gc->stopped_ns));
	atomic_store(&gc->stopped_ns, 0);
	for (struct guest_timer *t = gc->timers; t; t = t->next)
		guest_timer_arm(t, atomic_load(&t->deadline_ns));
}
