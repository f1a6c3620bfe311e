/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several vCPU threads at one block device, each with its own queue, while the
 * loop completes their requests; then resets amid all of that. Most useful in
 * a build with -Db_sanitize=thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sched.h>
#include <stdio.h>

#include "disk/disk.h"
#include "virtio_driver.h"

#define F(bit) (1ull << (bit))
#define THREADS 3
#define ROUNDS 400
#define PART KIB(256) /* of the image, for each thread */

struct fixture {
	struct machine m;
	struct disk *disk;
	struct virtio_dev *dev;
	struct driver d;
	char path[64];
	atomic_uint running, failures;
	atomic_bool resetting;
};

struct vcpu {
	struct fixture *f;
	unsigned index;
	uint64_t hdr, status, data, event;
	pthread_t thread;
};

static int setup_engine(void **state, enum aio_engine engine)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct disk_options opt = { .engine = engine };
	struct virtio_env env;
	struct err err = { "" };
	int fd;

	machine_init(&f->m);
	snprintf(f->path, sizeof(f->path), "threads-test-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, THREADS * PART), 0);
	close(fd);
	env = machine_env(&f->m);
	if (disk_open(f->m.loop, f->path, &opt, &f->disk, &err) ||
	    virtio_blk_new(&env, DRV_SLOT, f->disk, NULL, THREADS, &f->dev, &err))
		fail_msg("%s", err.text);
	drv_probe(&f->d, &f->m, DRV_SLOT);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_engine(state, AIO_AUTO);
}

static int setup_threads(void **state)
{
	return setup_engine(state, AIO_THREADS);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_dev_free(f->dev);
	disk_close(f->disk);
	machine_done(&f->m);
	unlink(f->path);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1) | F(VIRTIO_BLK_F_FLUSH) |
					     F(VIRTIO_BLK_F_MQ) | F(VIRTIO_RING_F_EVENT_IDX)));
	drv_msix(&f->d);
	for (unsigned i = 0; i < THREADS; i++)
		drv_queue(&f->d, i, 64, true);
	drv_ready(&f->d);
}

/* Submit one request and wait for it on this thread; false when a reset swallowed it. */
static bool request(struct vcpu *v, uint32_t type, uint64_t sector, uint32_t len)
{
	struct fixture *f = v->f;
	struct drv_queue *q = &f->d.q[v->index];
	struct drv_buf bufs[3] = { { v->hdr, 16, false },
				   { v->data, len, type == VIRTIO_BLK_T_IN },
				   { v->status, 1, true } };
	uint64_t until = clock_now_ns() + 20000000000ull;

	*(struct virtio_blk_outhdr *)guest(&f->m, v->hdr, 16) =
	    (struct virtio_blk_outhdr) { .type = type, .sector = sector };
	if (type == VIRTIO_BLK_T_FLUSH)
		bufs[1] = bufs[2];
	q_add(&f->d, q, bufs, type == VIRTIO_BLK_T_FLUSH ? 2 : 3);
	q_kick(&f->d, v->index);
	while (q_used_idx(&f->d, q) == q->last_used) {
		if (atomic_load(&f->resetting))
			return false;
		if (clock_now_ns() > until) {
			atomic_fetch_add(&f->failures, 1);
			return false;
		}
		sched_yield();
	}
	q->last_used++;
	if (*(uint8_t *)guest(&f->m, v->status, 1) != VIRTIO_BLK_S_OK)
		atomic_fetch_add(&f->failures, 1);
	return true;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct fixture *f = v->f;
	uint8_t *p = guest(&f->m, v->data, 4096);
	uint32_t seed = v->index + 1;
	uint8_t shadow[PART / 4096] = { 0 };

	for (unsigned i = 0; i < ROUNDS && !atomic_load(&f->failures); i++) {
		uint32_t page;

		seed = seed * 1664525 + 1013904223;
		page = (seed >> 8) % (PART / 4096);
		if (i % 3 == 0) {
			memset(p, (int)(i % 255 + 1), 4096);
			if (!request(v, VIRTIO_BLK_T_OUT, (v->index * PART + page * 4096) / 512,
				     4096))
				break;
			shadow[page] = (uint8_t)(i % 255 + 1);
		} else {
			if (!request(v, VIRTIO_BLK_T_IN, (v->index * PART + page * 4096) / 512,
				     4096))
				break;
			if (p[0] != shadow[page] || p[4095] != shadow[page])
				atomic_fetch_add(&f->failures, 1);
		}
		if (i % 64 == 63 && !request(v, VIRTIO_BLK_T_FLUSH, 0, 0))
			break;
		drv_get(&f->d, VIRTIO_PCI_COMMON_STATUS, 1);
	}
	atomic_fetch_sub(&f->running, 1);
	return NULL;
}

static void start_vcpus(struct fixture *f, struct vcpu *vcpus)
{
	atomic_store(&f->running, THREADS);
	for (unsigned i = 0; i < THREADS; i++) {
		struct vcpu *v = &vcpus[i];

		*v = (struct vcpu) { .f = f, .index = i };
		v->hdr = guest_alloc(&f->m, 16, 64);
		v->status = guest_alloc(&f->m, 1, 64);
		v->data = guest_alloc(&f->m, 4096, 4096);
		assert_int_equal(pthread_create(&v->thread, NULL, vcpu_main, v), 0);
	}
}

static void test_queues_side_by_side(void **state)
{
	struct fixture *f = *state;
	struct vcpu vcpus[THREADS];

	start(f);
	start_vcpus(f, vcpus);
	while (atomic_load(&f->running))
		machine_run(&f->m, 2);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(vcpus[i].thread, NULL);
	assert_int_equal(f->failures, 0);
}

struct resetter {
	struct fixture *f;
	unsigned delay_us;
	atomic_bool done;
};

static void *reset_main(void *arg)
{
	struct resetter *r = arg;

	usleep(r->delay_us);
	drv_set(&r->f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	while (drv_status(&r->f->d)) /* the loop thread ends it */
		sched_yield();
	atomic_store(&r->f->resetting, true);
	atomic_store(&r->done, true);
	return NULL;
}

static void test_reset_amid_requests(void **state)
{
	struct fixture *f = *state;

	for (unsigned round = 0; round < 20; round++) {
		struct resetter r = { .f = f, .delay_us = round * 150 };
		struct vcpu vcpus[THREADS];
		pthread_t thread;

		/* The image is written anew each time: only what was written in this round is read.
		 */
		atomic_store(&f->resetting, false);
		f->m.brk = 0x10000;
		assert_int_equal(truncate(f->path, 0), 0);
		assert_int_equal(truncate(f->path, THREADS * PART), 0);
		start(f);
		start_vcpus(f, vcpus);
		assert_int_equal(pthread_create(&thread, NULL, reset_main, &r), 0);
		while (!atomic_load(&r.done) || atomic_load(&f->running))
			machine_run(&f->m, 1);
		pthread_join(thread, NULL);
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(vcpus[i].thread, NULL);
		assert_int_equal(f->failures, 0);
		for (unsigned i = 0; i < THREADS; i++)
			assert_int_equal(f->dev->queues[i].inflight, 0);
	}
}

int main(void)
{
#define T(fn)                                                                                      \
	cmocka_unit_test_setup_teardown(fn, setup, teardown),                                      \
	    cmocka_unit_test_setup_teardown(fn, setup_threads, teardown)
	const struct CMUnitTest tests[] = { T(test_queues_side_by_side),
					    T(test_reset_amid_requests) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
