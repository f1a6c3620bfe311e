/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon, driven through its PCI registers; what the host gets back is counted in its memfd.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_balloon.h>
#include <sys/stat.h>

#include "virtio_driver.h"

#define F(bit) (1ull << VIRTIO_BALLOON_F_##bit)
#define ALL (1ull << VIRTIO_F_VERSION_1 | F(STATS_VQ) | F(DEFLATE_ON_OOM) | F(REPORTING))
#define INFLATE 0
#define DEFLATE 1
#define STATS 2
#define PAGES 512
#define PAGE 4096u

struct fixture {
	struct machine m;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t pages, list;
	uint8_t code_map[DRV_RAM / PAGE];
	unsigned dropped; /* bytes of translated code that changed */
};

static void written(void *arg, uint64_t gpa, uint64_t len)
{
	((struct fixture *)arg)->dropped += (unsigned)len;
}

static void plug(struct fixture *f, uint64_t target)
{
	struct virtio_env env = machine_env(&f->m);
	struct err err = { "" };

	if (virtio_balloon_new(&env, DRV_SLOT, target, &f->dev, &err) < 0)
		fail_msg("%s", err.text);
}

static void start(struct fixture *f, uint64_t features)
{
	drv_probe(&f->d, &f->m, DRV_SLOT);
	assert_true(drv_negotiate(&f->d, features));
	drv_msix(&f->d);
	for (unsigned i = 0; i < f->d.queue_count; i++)
		drv_queue(&f->d, i, 16, true);
	drv_ready(&f->d);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	machine_init(&f->m);
	f->m.mem.code_map = f->code_map;
	f->m.mem.written = written;
	f->m.mem.written_arg = f;
	f->list = guest_alloc(&f->m, KIB(64), PAGE);
	f->pages = guest_alloc(&f->m, PAGES * PAGE, PAGE);
	memset(guest(&f->m, 0, DRV_RAM), 0xaa, DRV_RAM);
	plug(f, DRV_RAM);
	start(f, ALL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_dev_free(f->dev);
	machine_done(&f->m);
	free(f);
	return 0;
}

/* Pages of the host's memory that the guest's has */
static unsigned host_pages(struct fixture *f)
{
	struct stat st;

	assert_int_equal(fstat(f->m.mem.fd, &st), 0);
	return (unsigned)(st.st_blocks * 512 / PAGE);
}

static bool is_zero(struct fixture *f, unsigned page)
{
	const uint8_t *p = guest(&f->m, f->pages + page * PAGE, PAGE);

	return p[0] == 0 && !memcmp(p, p + 1, PAGE - 1);
}

static void give_up(struct fixture *f, const uint32_t *pfns, unsigned n)
{
	memcpy(guest(&f->m, f->list, n * 4), pfns, n * 4);
	q_add(&f->d, &f->d.q[INFLATE], &(struct drv_buf) { f->list, n * 4, false }, 1);
	q_kick(&f->d, INFLATE);
	assert_true(q_wait(&f->d, &f->d.q[INFLATE], NULL, NULL));
}

static void test_inflate(void **state)
{
	struct fixture *f = *state;
	uint32_t first = (uint32_t)(f->pages / PAGE);
	/* In no order, one twice, and some that are no RAM */
	uint32_t pfns[] = { first + 9,	first + 3,	first + 2, first + 9,
			    0xffffffff, DRV_RAM / PAGE, first + 4, 0xc0000 };
	unsigned before = host_pages(f);

	f->code_map[first + 3] = 1;
	give_up(f, pfns, ARRAY_SIZE(pfns));
	assert_int_equal(host_pages(f), before - 4);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(is_zero(f, i), (i >= 2 && i <= 4) || i == 9);
	assert_in_range(f->dropped, PAGE,
			3 * PAGE); /* code of page 3, and of no page that stayed */
	/* Deflation needs nothing: the pages are there when they are used. */
	q_add(&f->d, &f->d.q[DEFLATE], &(struct drv_buf) { f->list, 8, false }, 1);
	q_kick(&f->d, DEFLATE);
	assert_true(q_wait(&f->d, &f->d.q[DEFLATE], NULL, NULL));
	memset(guest(&f->m, f->pages + 2 * PAGE, PAGE), 1, PAGE);
	assert_false(is_zero(f, 2));
}

/* The end of RAM in the middle of a run */
static void test_inflate_across_the_end(void **state)
{
	struct fixture *f = *state;
	uint32_t last = DRV_RAM / PAGE - 1, pfns[] = { last, last + 1, last - 1, last + 2 };
	unsigned before;

	memset(guest(&f->m, DRV_RAM - 3 * PAGE, 3 * PAGE), 1, 3 * PAGE);
	before = host_pages(f);
	give_up(f, pfns, 4);
	assert_int_equal(host_pages(f), before - 2);
}

static void test_malformed(void **state)
{
	struct fixture *f = *state;
	static const uint32_t lengths[] = { 3, 4097 * 4 };

	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		q_add(&f->d, &f->d.q[INFLATE], &(struct drv_buf) { f->list, lengths[i], false }, 1);
		q_kick(&f->d, INFLATE);
		assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		start(f, ALL);
	}
	assert_false(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void test_reporting(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_info info;
	unsigned before;
	uint32_t first = (uint32_t)(f->pages / PAGE);

	f->code_map[first + 40] = 1;
	for (unsigned queue = 3; queue < 5;
	     queue++) { /* where Linux, and where the standard has it */
		struct drv_buf bufs[] = { { f->pages + 32 * queue * PAGE, 16 * PAGE, true },
					  { f->pages + (32 * queue + 20) * PAGE + 100, 2 * PAGE,
					    true } };

		before = host_pages(f);
		q_add(&f->d, &f->d.q[queue], bufs, 2);
		q_kick(&f->d, queue);
		assert_true(q_wait(&f->d, &f->d.q[queue], NULL, NULL));
		/* Of a buffer that is not aligned, the whole pages */
		assert_int_equal(host_pages(f), before - 17);
		assert_true(is_zero(f, 32 * queue) && is_zero(f, 32 * queue + 15));
		assert_false(is_zero(f, 32 * queue + 16));
		assert_true(is_zero(f, 32 * queue + 21) && !is_zero(f, 32 * queue + 20) &&
			    !is_zero(f, 32 * queue + 22));
	}
	assert_int_equal(f->dropped, 0);
	q_add(&f->d, &f->d.q[3], &(struct drv_buf) { f->pages + 40 * PAGE, PAGE, true }, 1);
	q_kick(&f->d, 3);
	assert_int_equal(f->dropped, PAGE);
	virtio_balloon_get_info(f->dev, &info);
	assert_int_equal(info.reported_bytes, 2 * 18 * PAGE + PAGE);
	/* Without statistics, Linux's queue for reports is the third. */
	start(f, ALL & ~F(STATS_VQ));
	q_add(&f->d, &f->d.q[2], &(struct drv_buf) { f->pages + 50 * PAGE, PAGE, true }, 1);
	q_kick(&f->d, 2);
	assert_true(is_zero(f, 50));
}

static void put_stat(struct fixture *f, unsigned i, uint16_t tag, uint64_t val)
{
	uint8_t *p = guest(&f->m, f->list + 10 * i, 10);

	put_le16(p, tag);
	put_le64(p + 2, val);
}

static void test_statistics(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_info info;

	put_stat(f, 0, VIRTIO_BALLOON_S_MEMFREE, 12345);
	put_stat(f, 1, VIRTIO_BALLOON_S_NR + 5, 15);
	put_stat(f, 2, 999, 1);
	q_add(&f->d, &f->d.q[STATS], &(struct drv_buf) { f->list, 35, false }, 1);
	q_kick(&f->d, STATS);
	virtio_balloon_get_info(f->dev, &info);
	assert_int_equal(info.known, 1 << BALLOON_FREE | 1 << BALLOON_DIRECT_RECLAIMS);
	assert_int_equal(info.stats[BALLOON_FREE], 12345);
	assert_int_equal(info.stats[BALLOON_DIRECT_RECLAIMS], 15);
	assert_string_equal(virtio_balloon_stat_name(BALLOON_FREE), "free-memory");
	/* The driver keeps no buffer until it is asked again. */
	assert_int_equal(q_used_idx(&f->d, &f->d.q[STATS]), 0);
	virtio_balloon_ask_stats(f->dev);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[STATS]), 1);
	virtio_balloon_ask_stats(f->dev); /* none there */
	put_stat(f, 0, VIRTIO_BALLOON_S_MEMFREE, 54321);
	q_add(&f->d, &f->d.q[STATS], &(struct drv_buf) { f->list, 10, false }, 1);
	q_kick(&f->d, STATS);
	virtio_balloon_get_info(f->dev, &info);
	assert_int_equal(info.known, 1 << BALLOON_FREE);
	assert_int_equal(info.stats[BALLOON_FREE], 54321);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[STATS]), 1);
}

static void test_target_and_state(void **state)
{
	struct fixture *f = *state;
	struct virtio_balloon_info info;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };
	unsigned told;

	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 4), 0);
	told = f->m.msi[0x40];
	assert_int_equal(virtio_balloon_set_target(f->dev, DRV_RAM + PAGE), -EINVAL);
	assert_int_equal(virtio_balloon_set_target(f->dev, MIB(12)), 0);
	machine_run(&f->m, 5);
	assert_int_equal(f->m.msi[0x40], told + 1);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 4), MIB(4) / PAGE);
	bus_write(&f->m.mmio, f->d.device + 4, 4, 77);
	bus_write(&f->m.mmio, f->d.device, 4, 5); /* not the driver's */
	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 8), 77ull << 32 | MIB(4) / PAGE);
	virtio_balloon_get_info(f->dev, &info);
	assert_int_equal(info.target_bytes, MIB(12));
	assert_int_equal(info.actual_bytes, DRV_RAM - 77 * PAGE);
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	virtio_dev_free(f->dev);
	plug(f, DRV_RAM);
	snap_reader_init(&r, w.data, w.len);
	if (virtio_dev_load(f->dev, &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 8), 77ull << 32 | MIB(4) / PAGE);
	for (size_t i = 0; i < w.len; i += 5) {
		snap_reader_init(&r, w.data, i);
		assert_int_equal(virtio_dev_load(f->dev, &r, &err), -EBADMSG);
	}
	snap_writer_done(&w);
	start(f, ALL); /* a reset lets the target be */
	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 4), MIB(4) / PAGE);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 4, 4), 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_inflate),    T(test_inflate_across_the_end),
		T(test_malformed),  T(test_reporting),
		T(test_statistics), T(test_target_and_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
