/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images and the end of the world: power cuts and failing hosts
 *
 * The linker puts the functions below in the place of the C library's, so every
 * write, hole and sync of the driver is recorded with the time it began and
 * ended. A power cut at some time leaves what a sync had made safe by then, and
 * of the rest any sectors. From the record such files are built, many for
 * each run: each must be consistent (leaks are allowed), and every sector must
 * have what was flushed, or something that was written there later.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "disk/qcow2.h"
#include "disk/qcow2_check.h"
#include "disk/qcow2_edit.h"
#include "disk/qcow2_format.h"
#include "qcow2_model.h"

static char folder[] = "qcow2-crash-XXXXXX";
static struct loop *loop;

/* ---- the record ---- */

struct event {
	enum { EV_WRITE, EV_HOLE, EV_SYNC } kind;
	uint64_t off, len, began, ended;
	uint8_t *data;
};

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;
static struct event *events;
static size_t event_count, event_room;
static atomic_ullong now;
static int recorded_fd = -1;

static atomic_int fail_in, fail_with; /* the Nth write fails */
static atomic_int sync_fail_in;

static uint64_t tick(void)
{
	return atomic_fetch_add(&now, 1);
}

static void record(struct event e)
{
	pthread_mutex_lock(&record_lock);
	if (event_count == event_room) {
		event_room = event_room ? event_room * 2 : 1024;
		events = realloc(events, event_room * sizeof(*events));
	}
	events[event_count++] = e;
	pthread_mutex_unlock(&record_lock);
}

static void record_forget(void)
{
	for (size_t i = 0; i < event_count; i++)
		free(events[i].data);
	event_count = 0;
	atomic_store(&now, 1);
}

static bool fails(void)
{
	return atomic_load(&fail_in) > 0 && atomic_fetch_sub(&fail_in, 1) == 1;
}

ssize_t __real_pwritev64(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t off);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t off)
{
	struct event e = { .kind = EV_WRITE, .off = (uint64_t)off, .began = tick() };
	size_t len = 0;
	ssize_t ret;

	if (fails()) {
		errno = atomic_load(&fail_with);
		return -1;
	}
	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	e.data = malloc(len);
	for (int i = 0; i < n; i++) {
		memcpy(e.data + e.len, iov[i].iov_base, iov[i].iov_len);
		e.len += iov[i].iov_len;
	}
	ret = __real_pwritev64(fd, iov, n, off);
	e.ended = tick();
	if (fd == recorded_fd)
		record(e);
	else
		free(e.data);
	return ret;
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	struct iovec iov = { (void *)buf, len };

	return __wrap_pwritev64(fd, &iov, 1, off);
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	struct event e = { .kind = EV_SYNC, .began = tick() };

	if (atomic_load(&sync_fail_in) > 0 && atomic_fetch_sub(&sync_fail_in, 1) == 1) {
		errno = EIO;
		return -1;
	}
	/* The host's disk is not what is tested: no need to wait for it. */
	e.ended = tick();
	if (fd == recorded_fd)
		record(e);
	return 0;
}

int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	struct event e = {
		.kind = EV_HOLE, .off = (uint64_t)off, .len = (uint64_t)len, .began = tick()
	};
	int ret = __real_fallocate64(fd, mode, off, len);

	e.ended = tick();
	if (fd == recorded_fd && ret == 0)
		record(e);
	return ret;
}

/* ---- what may stand in each sector ---- */

struct version {
	uint64_t stamp, at; /* content; stamp 0: zeros */
	bool discard;	    /* ... or what was there before */
	uint64_t submitted, completed;
};

struct history {
	struct version *list;
	unsigned count;
};

static struct history *sectors;
static struct flush {
	uint64_t submitted, completed;
} flushes[10000];
static unsigned flush_count;
static uint64_t req_began[MODEL_FLIGHT];

static void on_submit(struct model_req *r)
{
	struct model *m = r->m;

	req_began[r - m->r] = tick();
	if (r->req.op == DISK_READ || r->req.op == DISK_FLUSH)
		return;
	for (uint64_t at = 0; at < r->len; at += DISK_SECTOR) {
		struct history *h = &sectors[(r->off + at) / DISK_SECTOR];

		h->list = realloc(h->list, (h->count + 1) * sizeof(*h->list));
		h->list[h->count++] =
		    (struct version) { .stamp = r->req.op == DISK_WRITE ? r->stamp : 0,
				       .at = at,
				       .discard = r->req.op == DISK_DISCARD,
				       .submitted = req_began[r - m->r],
				       .completed = UINT64_MAX };
	}
}

static void on_complete(struct model_req *r, int ret)
{
	uint64_t t = tick();

	if (ret < 0)
		return;
	if (r->req.op == DISK_FLUSH) {
		flushes[flush_count++] = (struct flush) { req_began[r - r->m->r], t };
		return;
	}
	if (r->req.op == DISK_READ)
		return;
	for (uint64_t at = 0; at < r->len; at += DISK_SECTOR) {
		struct history *h = &sectors[(r->off + at) / DISK_SECTOR];

		h->list[h->count - 1].completed = t;
	}
}

static bool has_version(const uint8_t *p, const struct version *v)
{
	for (uint64_t i = 0; i < DISK_SECTOR; i += 8)
		if (get_le64(p + i) !=
		    (v->stamp ? v->stamp * 0x9e3779b97f4a7c15ull + v->at + i : 0))
			return false;
	return true;
}

static bool sector_good(uint64_t s, const uint8_t *p, const uint8_t *first, uint64_t cut)
{
	const struct history *h = &sectors[s];
	uint64_t flushed = 0;

	for (unsigned i = 0; i < flush_count; i++)
		if (flushes[i].completed <= cut)
			flushed = max_u64(flushed, flushes[i].submitted);
	/* From the newest backwards, to one that was flushed */
	for (unsigned i = h->count; i-- > 0;) {
		const struct version *v = &h->list[i];

		if (v->submitted > cut)
			continue;
		if (has_version(p, v))
			return true;
		if (v->completed < flushed && !v->discard)
			return false;
	}
	return !memcmp(p, first, DISK_SECTOR);
}

/* ---- power cuts ---- */

/* Apply an event to the file, whole or the sectors that luck chooses. */
static void apply(int fd, const struct event *e, unsigned percent, struct model *m)
{
	static const uint8_t zeros[DISK_SECTOR];

	for (uint64_t at = 0; at < e->len; at += DISK_SECTOR) {
		uint64_t n = min_u64(DISK_SECTOR, e->len - at);
		off_t size;

		if (model_rng(m) % 100 >= percent)
			continue;
		if (e->kind == EV_HOLE) {
			size = lseek(fd, 0, SEEK_END);
			if (e->off + at >= (uint64_t)size)
				break;
			n = min_u64(n, (uint64_t)size - (e->off + at));
		}
		assert_int_equal(
		    __real_pwritev64(
			fd,
			&(struct iovec) { e->kind == EV_HOLE ? (void *)zeros : e->data + at, n }, 1,
			(off_t)(e->off + at)),
		    n);
	}
}

static void build(const char *path, uint64_t cut, struct model *m)
{
	static const unsigned percents[] = { 0, 100, 50, 10, 90 };
	unsigned percent = percents[model_rng(m) % 5], whole = model_rng(m) % 2;
	uint64_t safe = 0;
	int fd;

	assert_int_equal(shell("cp start.qcow2 %s", path), 0);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	for (size_t i = 0; i < event_count; i++)
		if (events[i].kind == EV_SYNC && events[i].ended <= cut)
			safe = max_u64(safe, events[i].began);
	for (size_t i = 0; i < event_count; i++) {
		const struct event *e = &events[i];

		if (e->kind == EV_SYNC || e->began > cut)
			continue;
		if (e->ended < safe)
			apply(fd, e, 100, m);
		else if (!whole || model_rng(m) % 100 < percent)
			apply(fd, e, whole ? 100 : percent, m);
	}
	close(fd);
}

static void say(void *arg, const char *text)
{
	if (!strncmp(text, "error", 5))
		print_message("%s\n", text);
}

static uint64_t count_errors(const char *path)
{
	struct file file = { .fd = open(path, O_RDWR) };
	struct qcow2_report report = { say, NULL };
	struct qcow2_check_result res;
	struct err err = { "" };

	assert_true(file.fd >= 0);
	if (qcow2_check(&file, path, QCOW2_REPAIR_NONE, &report, &res, &err))
		fail_msg("%s", err.text);
	close(file.fd);
	return res.errors;
}

static void read_all(const char *path, uint8_t *image, uint64_t size)
{
	struct disk_options opt = { .readonly = true };
	struct err err = { "" };
	struct model reader;

	model_init(&reader, size, KIB(100), 1);
	if (disk_open(loop, path, &opt, &reader.disk, &err))
		fail_msg("%s", err.text);
	memset(reader.unsure, 1, size / DISK_SECTOR); /* take what is there */
	model_check_all(&reader);
	disk_close(reader.disk);
	assert_int_equal(reader.errors, 0);
	memcpy(image, reader.image, size);
	model_done(&reader);
}

static void check_cut(const char *path, uint64_t cut, struct model *m, const uint8_t *first)
{
	_cleanup_free_ uint8_t *image = malloc(m->size);

	if (count_errors(path))
		fail_msg("cut at %llu: the image is not consistent", (unsigned long long)cut);
	read_all(path, image, m->size);
	for (uint64_t s = 0; s < m->size / DISK_SECTOR; s++)
		if (!sector_good(s, image + s * DISK_SECTOR, first + s * DISK_SECTOR, cut))
			fail_msg("cut at %llu: sector %llu has lost what was flushed",
				 (unsigned long long)cut, (unsigned long long)s);
}

static void fill_first(const char *path, uint8_t *first, uint64_t size)
{
	int fd;

	assert_int_equal(shell("qemu-img convert -t unsafe -O raw %s first.raw", path), 0);
	fd = open("first.raw", O_RDONLY);
	assert_int_equal(pread(fd, first, size, 0), size);
	close(fd);
}

struct world {
	const char *options, *backing;
	uint64_t size;
	unsigned ops, cuts;
	enum { NO_SNAPSHOT, SNAPSHOT } snapshot;
};

static void make_start(const struct world *w)
{
	assert_int_equal(
	    shell("rm -f start.qcow2 base.raw && head -c 1500000 /dev/urandom > base.raw && "
		  "truncate -s 2M base.raw && "
		  "qemu-img create -q -f qcow2 -o %s %s start.qcow2 %llu",
		  w->options, w->backing, (unsigned long long)w->size),
	    0);
	if (w->snapshot)
		assert_int_equal(shell("qemu-io -c 'write -P 3 0 1M' start.qcow2 >/dev/null && "
				       "qemu-img snapshot -c s start.qcow2"),
				 0);
}

static void run_world(const struct world *w, uint32_t seed)
{
	struct disk_options opt = { .engine = AIO_THREADS };
	_cleanup_free_ uint8_t *first = malloc(w->size);
	struct err err = { "" };
	struct model m;

	make_start(w);
	assert_int_equal(shell("cp start.qcow2 t.qcow2"), 0);
	fill_first("start.qcow2", first, w->size);
	model_init(&m, w->size, KIB(100), seed);
	memcpy(m.image, first, w->size);
	m.submitted = on_submit;
	m.completed = on_complete;
	sectors = calloc(w->size / DISK_SECTOR, sizeof(*sectors));
	flush_count = 0;
	record_forget();
	if (disk_open(loop, "t.qcow2", &opt, &m.disk, &err))
		fail_msg("%s", err.text);
	recorded_fd = ((struct qcow2 *)m.disk->priv)->top->file.fd;
	model_run(&m, w->ops, m.disk->aio);
	model_check_all(&m);
	assert_int_equal(m.errors, 0);
	for (unsigned i = 0; i < w->cuts; i++) {
		uint64_t cut = model_rng(&m) % atomic_load(&now);

		build("cut.qcow2", cut, &m);
		check_cut("cut.qcow2", cut, &m, first);
		if (i % 8 == 0 && shell("qemu-img check -q cut.qcow2 >check.log 2>&1; "
					"test $? = 0 -o $? = 3")) {
			shell("head check.log");
			fail_msg("cut at %llu: qemu-img finds errors", (unsigned long long)cut);
		}
	}
	recorded_fd = -1;
	disk_close(m.disk);
	for (uint64_t s = 0; s < w->size / DISK_SECTOR; s++)
		free(sectors[s].list);
	free(sectors);
	model_done(&m);
}

static void test_power_cuts(void **state)
{
	static const struct world worlds[] = {
		{ "cluster_size=65536", "", MIB(4), 400, 60, NO_SNAPSHOT },
		{ "cluster_size=4096", "", MIB(4), 400, 60, NO_SNAPSHOT },
		{ "cluster_size=512", "", MIB(1), 500, 60, NO_SNAPSHOT },
		{ "cluster_size=512,refcount_bits=64", "", MIB(1), 500, 60, NO_SNAPSHOT },
		{ "cluster_size=65536", "-b base.raw -F raw", MIB(3), 400, 60, NO_SNAPSHOT },
		{ "cluster_size=4096", "-b base.raw -F raw", MIB(3), 400, 60, NO_SNAPSHOT },
		{ "cluster_size=4096,compat=0.10", "", MIB(2), 400, 40, NO_SNAPSHOT },
		{ "cluster_size=4096", "", MIB(2), 400, 60, SNAPSHOT },
		{ "cluster_size=512", "", MIB(1), 400, 60, SNAPSHOT },
	};
	const char *seed = getenv("SEED");

	for (unsigned i = 0; i < ARRAY_SIZE(worlds); i++)
		run_world(&worlds[i], (seed ? (uint32_t)atoi(seed) : 1) * 100 + i);
}

/* Work on images at rest that is interrupted: the old content or the new one, and nothing that a
 * repair could not mend. */
static void test_cut_edits(void **state)
{
	static const struct {
		int (*edit)(struct file *file, const char *what, const char *name, struct err *err);
		const char *name;
	} edits[] = { { qcow2_snapshot_create, "new" },
		      { qcow2_snapshot_apply, "s" },
		      { qcow2_snapshot_delete, "s" } };
	enum { SIZE = 2 << 20 };
	static uint8_t before[SIZE], after[SIZE], then[SIZE], snap[SIZE];
	struct model m;

	model_init(&m, SIZE, 4096, 4711);
	for (unsigned i = 0; i < ARRAY_SIZE(edits) * 2; i++) {
		const char *name = edits[i / 2].name;
		struct qcow2_check_result res;
		struct file file = { 0 };
		struct err err = { "" };

		assert_int_equal(
		    shell("rm -f start.qcow2; qemu-img create -q -f qcow2 -o cluster_size=%u "
			  "start.qcow2 2M && qemu-io -c 'write -P 3 0 1M' start.qcow2 "
			  ">/dev/null && qemu-img snapshot -c s start.qcow2 && "
			  "qemu-io -c 'write -P 4 512k 1M' start.qcow2 >/dev/null && "
			  "cp start.qcow2 t.qcow2",
			  i % 2 ? 512 : 65536),
		    0);
		read_all("start.qcow2", before, SIZE);
		assert_int_equal(shell("qemu-img convert -l s -O raw start.qcow2 snap.raw"), 0);
		file.fd = open("snap.raw", O_RDONLY);
		assert_int_equal(pread(file.fd, snap, SIZE, 0), SIZE);
		close(file.fd);
		file.fd = open("t.qcow2", O_RDWR);
		record_forget();
		recorded_fd = file.fd;
		if (edits[i / 2].edit(&file, "t", name, &err))
			fail_msg("%s", err.text);
		recorded_fd = -1;
		close(file.fd);
		read_all("t.qcow2", after, SIZE);
		assert_memory_equal(after, i / 2 == 1 ? snap : before, SIZE);
		for (unsigned k = 0; k < 40; k++) {
			uint64_t cut = model_rng(&m) % atomic_load(&now);

			build("cut.qcow2", cut, &m);
			file = (struct file) { .fd = open("cut.qcow2", O_RDWR) };
			if (qcow2_check(&file, "cut", QCOW2_REPAIR_ALL, NULL, &res, &err))
				fail_msg("%s", err.text);
			close(file.fd);
			assert_int_equal(res.errors, 0);
			if (shell("qemu-img check -q cut.qcow2 >check.log 2>&1"))
				fail_msg("edit %u, cut at %llu: not mended", i,
					 (unsigned long long)cut);
			read_all("cut.qcow2", then, SIZE);
			if (memcmp(then, before, SIZE) && memcmp(then, after, SIZE))
				fail_msg("edit %u, cut at %llu: neither old nor new", i,
					 (unsigned long long)cut);
		}
	}
	model_done(&m);
}

/* ---- failing hosts ---- */

/* One write after the other fails: the guest is told, nothing else happens. */
static void test_failing_writes(void **state)
{
	static const char *const shapes[] = { "cluster_size=4096", "cluster_size=65536",
					      "cluster_size=512" };
	struct disk_options opt = { .engine = AIO_THREADS };
	struct err err = { "" };
	struct model m;

	for (unsigned i = 0; i < 24; i++) {
		assert_int_equal(
		    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o %s t.qcow2 2M",
			  shapes[i % 3]),
		    0);
		model_init(&m, MIB(2), KIB(100), 300 + i);
		m.may_fail = true;
		if (disk_open(loop, "t.qcow2", &opt, &m.disk, &err))
			fail_msg("%s", err.text);
		for (unsigned k = 0; k < 12; k++) {
			atomic_store(&fail_with, k % 2 ? ENOSPC : EIO);
			atomic_store(&fail_in, 1 + (int)(model_rng(&m) % 30));
			model_run(&m, 30, m.disk->aio);
		}
		atomic_store(&fail_in, 0);
		model_check_all(&m);
		assert_int_equal(m.errors, 0);
		if (disk_close_checked(m.disk, &err))
			fail_msg("%s", err.text);
		assert_int_equal(count_errors("t.qcow2"), 0);
		opt.readonly = true;
		if (disk_open(loop, "t.qcow2", &opt, &m.disk, &err))
			fail_msg("%s", err.text);
		opt.readonly = false;
		model_check_all(&m);
		assert_int_equal(m.errors, 0);
		disk_close(m.disk);
		model_done(&m);
	}
}

/* A sync that fails: no later flush succeeds, and the image stays consistent. */
static void test_failing_syncs(void **state)
{
	struct disk_options opt = { .engine = AIO_THREADS };
	struct err err = { "" };
	struct model m;

	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o "
				       "cluster_size=4096 t.qcow2 2M"),
				 0);
		model_init(&m, MIB(2), KIB(100), 400 + i);
		m.may_fail = true;
		if (disk_open(loop, "t.qcow2", &opt, &m.disk, &err))
			fail_msg("%s", err.text);
		atomic_store(&sync_fail_in, 1 + (int)i * 3);
		while (atomic_load(&sync_fail_in) > 0)
			model_run(&m, 100, m.disk->aio);
		model_run(&m, 100, m.disk->aio);
		model_check_all(&m);
		assert_int_equal(m.errors, 0);
		assert_int_equal(disk_close_checked(m.disk, &err), -EIO);
		assert_non_null(strstr(err.text, "disk 't.qcow2': not all of it could be written"));
		assert_int_equal(count_errors("t.qcow2"), 0);
		model_done(&m);
	}
}

static int setup_group(void **state)
{
	return enter_folder(folder, &loop);
}

static int teardown_group(void **state)
{
	record_forget();
	free(events);
	return leave_folder(folder, loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_cut_edits),
		cmocka_unit_test(test_failing_writes),
		cmocka_unit_test(test_failing_syncs),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
