/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of a disk: requests and bytes a second
 *
 * One token bucket each. A bucket fills at the limit's rate up to `burst_s`
 * seconds' worth; a request may start while both hold something, and then takes
 * what it costs, below zero if need be: so a request larger than the bucket
 * passes, too, and is paid for afterwards. What may not start waits in order;
 * a timer lets it go on when the emptier bucket is above zero again.
 *
 * Tokens are counted in billionths, so that an interval in nanoseconds times
 * the rate is exact.
 */
#include <pthread.h>

#include "base/util.h"
#include "disk/driver.h"

#define NS_PER_S 1000000000ll

struct bucket {
	uint64_t rate;	     /* tokens a second; 0: no limit */
	__int128 level, max; /* billionths of a token */
};

struct throttle {
	struct disk *disk;
	struct loop_timer *timer;
	pthread_mutex_t lock; /* guards what follows */
	struct bucket ops, bytes;
	uint64_t last_ns;
	struct req_list waiting;
};

static void fill(struct bucket *b, uint64_t ns)
{
	b->level += (__int128)b->rate * (__int128)ns;
	if (b->level > b->max)
		b->level = b->max;
}

static bool empty(const struct bucket *b)
{
	return b->rate && b->level <= 0;
}

static uint64_t wait_ns(const struct bucket *b)
{
	return empty(b) ? (uint64_t)(-b->level / b->rate) + 1 : 0;
}

/* Under the lock. */
static bool take(struct throttle *t, const struct disk_req *req)
{
	uint64_t now = clock_now_ns(), past = now - t->last_ns;

	t->last_ns = now;
	fill(&t->ops, past);
	fill(&t->bytes, past);
	if (empty(&t->ops) || empty(&t->bytes))
		return false;
	t->ops.level -= t->ops.rate ? NS_PER_S : 0;
	if (t->bytes.rate && (req->op == DISK_READ || req->op == DISK_WRITE))
		t->bytes.level -= (__int128)req->len * NS_PER_S;
	return true;
}

static void arm(struct throttle *t)
{
	loop_timer_arm(t->timer, t->last_ns + max_u64(wait_ns(&t->ops), wait_ns(&t->bytes)));
}

bool throttle_take(struct throttle *t, struct disk_req *req)
{
	bool good;

	pthread_mutex_lock(&t->lock);
	good = !t->waiting.head && take(t, req);
	if (!good) {
		if (!t->waiting.head)
			arm(t);
		req_list_push(&t->waiting, req);
	}
	pthread_mutex_unlock(&t->lock);
	return good;
}

static void start_waiting(struct throttle *t, bool all)
{
	struct req_list ready;
	struct disk_req *req;

	req_list_init(&ready);
	pthread_mutex_lock(&t->lock);
	while (t->waiting.head && (all || take(t, t->waiting.head)))
		req_list_push(&ready, req_list_pop(&t->waiting));
	if (t->waiting.head)
		arm(t);
	pthread_mutex_unlock(&t->lock);
	while ((req = req_list_pop(&ready)))
		t->disk->drv->start(t->disk, req);
	aio_kick(t->disk->aio);
}

static void timer_fired(void *arg)
{
	start_waiting(arg, false);
}

void throttle_release(struct throttle *t)
{
	start_waiting(t, true);
}

static void bucket_init(struct bucket *b, uint64_t rate, unsigned burst_s)
{
	b->rate = rate;
	b->max = b->level = (__int128)rate * NS_PER_S * (burst_s ? burst_s : 1);
}

int throttle_new(struct disk *disk, struct loop *loop, const struct disk_limits *limits,
		 struct err *err)
{
	struct throttle *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return err_set(err, ENOMEM, "out of memory");
	t->disk = disk;
	pthread_mutex_init(&t->lock, NULL);
	req_list_init(&t->waiting);
	bucket_init(&t->ops, limits->iops, limits->burst_s);
	bucket_init(&t->bytes, limits->bps, limits->burst_s);
	t->last_ns = clock_now_ns();
	ret = loop_timer_add(loop, timer_fired, t, &t->timer);
	if (ret < 0) {
		throttle_free(t);
		return err_set(err, -ret, "event loop: %s", strerror(-ret));
	}
	disk->throttle = t;
	return 0;
}

void throttle_set(struct throttle *t, const struct disk_limits *limits)
{
	pthread_mutex_lock(&t->lock);
	bucket_init(&t->ops, limits->iops, limits->burst_s);
	bucket_init(&t->bytes, limits->bps, limits->burst_s);
	t->last_ns = clock_now_ns();
	pthread_mutex_unlock(&t->lock);
	start_waiting(t, false);
}

void throttle_free(struct throttle *t)
{
	if (!t)
		return;
	if (t->timer)
		loop_timer_del(t->timer);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
