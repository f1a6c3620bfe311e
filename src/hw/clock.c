/* SPDX-License-Identifier: Apache-2.0 */
/* The clock of running machines: the host's monotonic and real time, timers on the event loop. */
#include "hw/clock.h"

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
