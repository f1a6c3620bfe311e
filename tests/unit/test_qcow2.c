/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images: random requests against a flat model, on images of every shape
 * that qemu-img makes and of our own; qemu-img is the judge of what is left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "disk/qcow2_format.h"
#include "qcow2_model.h"

/* The host's disk is not what is tested: where threads do the I/O, nobody waits for it. */
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
	return 0;
}

static char folder[] = "qcow2-test-XXXXXX";
static struct loop *loop;

static int setup_group(void **state)
{
	return enter_folder(folder, &loop);
}

static int teardown_group(void **state)
{
	return leave_folder(folder, loop);
}

static int try_open(const char *path, struct disk_options opt, struct disk **ret_disk,
		    struct err *err)
{
	return disk_open(loop, path, &opt, ret_disk, err);
}

static struct disk *open_disk(const char *path, struct disk_options opt)
{
	struct err err = { "" };
	struct disk *disk = NULL;

	if (try_open(path, opt, &disk, &err))
		fail_msg("%s", err.text);
	return disk;
}

static void check_image(const char *path)
{
	if (shell("qemu-img check -q %s >check.log 2>&1", path)) {
		shell("head -20 check.log");
		fail_msg("qemu-img check: %s is not consistent", path);
	}
}

struct shape {
	const char *options; /* of qemu-img create */
	uint64_t size;
	unsigned ops;
	enum disk_cache cache;
};

static void run_shape(const struct shape *s, const char *backing, uint32_t seed)
{
	struct disk_options opt = { .cache = s->cache,
				    .engine = seed % 4 ? AIO_THREADS : AIO_AUTO };
	struct model m;
	struct err err = { "" };

	shell("rm -f t.qcow2 t.raw");
	if (shell("qemu-img create -q -f qcow2 -o %s %s t.qcow2 %llu", s->options, backing,
		  (unsigned long long)s->size))
		fail_msg("qemu-img create -o %s", s->options);
	model_init(&m, s->size, KIB(300), seed);
	if (*backing) {
		int fd;

		assert_int_equal(shell("qemu-img convert -t unsafe -O raw t.qcow2 t.raw"), 0);
		fd = open("t.raw", O_RDONLY);
		assert_int_equal(pread(fd, m.image, s->size, 0), s->size);
		close(fd);
	}
	for (unsigned round = 0; round < 2; round++) {
		m.disk = open_disk("t.qcow2", opt);
		assert_int_equal(disk_size(m.disk), s->size);
		model_run(&m, s->ops, m.disk->aio);
		if (!m.errors)
			model_check_all(&m);
		if (m.errors)
			fail_msg("%s %s: seed %u", s->options, backing, seed);
		if (disk_close_checked(m.disk, &err))
			fail_msg("%s", err.text);
		check_image("t.qcow2");
		assert_int_equal(shell("qemu-img convert -t unsafe -O raw t.qcow2 t.raw"), 0);
		if (!model_same_file(&m, "t.raw"))
			fail_msg("%s %s: seed %u: qemu-img reads something else", s->options,
				 backing, seed);
	}
	model_done(&m);
}

static void test_shapes(void **state)
{
	static const struct shape shapes[] = {
		{ "cluster_size=65536", MIB(8), 1500 },
		{ "cluster_size=512", MIB(4), 1500 },
		{ "cluster_size=1024", MIB(4), 1000 },
		{ "cluster_size=2048", MIB(4), 1000 },
		{ "cluster_size=4096", MIB(8), 1000, DISK_CACHE_NONE },
		{ "cluster_size=8192", MIB(8), 1000, DISK_CACHE_UNSAFE },
		{ "cluster_size=16384", MIB(8), 1000 },
		{ "cluster_size=32768", MIB(8) + 5120, 1000 },
		{ "cluster_size=131072", MIB(16), 600 },
		{ "cluster_size=262144", MIB(16), 600 },
		{ "cluster_size=524288", MIB(16), 400 },
		{ "cluster_size=1048576", MIB(32), 300 },
		{ "cluster_size=2097152", MIB(32), 300 },
		{ "compat=0.10", MIB(8), 1000 },
		{ "compat=0.10,cluster_size=512", MIB(2), 1000 },
		{ "refcount_bits=1", MIB(8), 800 },
		{ "refcount_bits=2,cluster_size=512", MIB(4), 1000 },
		{ "refcount_bits=4,cluster_size=4096", MIB(8), 800 },
		{ "refcount_bits=8", MIB(8), 800 },
		{ "refcount_bits=32,cluster_size=1024", MIB(4), 800 },
		{ "refcount_bits=64,cluster_size=512", MIB(4), 1000, DISK_CACHE_NONE },
		{ "lazy_refcounts=on", MIB(8), 800 },
		{ "preallocation=metadata", MIB(8), 800 },
		{ "preallocation=falloc,cluster_size=4096", MIB(8), 800 },
		{ "cluster_size=4096", MIB(8), 1000 },
		{ "data_file=t.data,cluster_size=4096", MIB(8), 800 },
		{ "data_file=t.data,data_file_raw=on", MIB(8), 800 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		shell("rm -f t.data");
		run_shape(&shapes[i], "", i + 1);
	}
}

static void make_base(void)
{
	assert_int_equal(
	    shell("rm -f base.* && head -c 5000000 /dev/urandom > base.raw && "
		  "head -c 1000000 /dev/zero >> base.raw && "
		  "truncate -s 6291456 base.raw && "
		  "qemu-img convert -f raw -O qcow2 base.raw base.qcow2 && "
		  "qemu-img convert -c -f raw -O qcow2 base.raw base.zlib.qcow2 && "
		  "qemu-img convert -c -f raw -O qcow2 -o "
		  "compression_type=zstd,cluster_size=4096 base.raw base.zstd.qcow2 && "
		  "qemu-img create -q -f qcow2 -b base.zlib.qcow2 -F qcow2 mid.qcow2 8M && "
		  "qemu-io -c 'write -P 7 1M 100k' -c 'write -z 2M 1M' mid.qcow2 >/dev/null"),
	    0);
}

static void test_backing(void **state)
{
	static const char *const bases[] = {
		"-b base.raw -F raw",	       "-b base.qcow2 -F qcow2",
		"-b base.zlib.qcow2 -F qcow2", "-b base.zstd.qcow2 -F qcow2",
		"-b mid.qcow2 -F qcow2",
	};
	static const struct shape shapes[] = {
		{ "cluster_size=65536", MIB(8), 800 },
		{ "cluster_size=4096", MIB(8), 800, DISK_CACHE_NONE },
		{ "cluster_size=512", MIB(7), 800 },
		{ "cluster_size=2097152", MIB(8), 200 },
		{ "compat=0.10", MIB(8), 800 },
	};

	make_base();
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(bases); k++)
			run_shape(&shapes[i], bases[k], i * 16 + k + 1);
}

/* Clusters that snapshots share are copied; what a snapshot shows stays. */
static void test_snapshots(void **state)
{
	struct disk_options opt = { 0 }, inner = { .readonly = true, .internal = "one" };
	struct disk *disk;
	struct model m, old;
	struct err err = { "" };
	char how[64];

	for (unsigned v = 0; v < 4; v++) {
		snprintf(how, sizeof(how), "compat=%s,cluster_size=%u", v & 1 ? "1.1" : "0.10",
			 v & 2 ? 512 : 65536);
		shell("rm -f t.qcow2");
		assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s t.qcow2 4M", how), 0);
		model_init(&m, MIB(4), KIB(300), 77 + v);
		model_init(&old, MIB(4), KIB(300), 78);
		for (unsigned round = 0; round < 3; round++) {
			m.disk = open_disk("t.qcow2", opt);
			model_run(&m, 500, m.disk->aio);
			model_check_all(&m);
			assert_int_equal(m.errors, 0);
			if (disk_close_checked(m.disk, &err))
				fail_msg("%s", err.text);
			check_image("t.qcow2");
			assert_int_equal(shell("qemu-img snapshot -c %s t.qcow2", round == 0 ? "one"
										  : round == 1
										      ? "two"
										      : "three"),
					 0);
			if (round == 0)
				memcpy(old.image, m.image, MIB(4));
		}
		old.disk = open_disk("t.qcow2", inner);
		assert_true(disk_readonly(old.disk));
		model_check_all(&old);
		assert_int_equal(old.errors, 0);
		disk_close(old.disk);
		inner.internal = "4";
		assert_int_equal(try_open("t.qcow2", inner, &disk, &err), -ENOENT);
		assert_string_equal(err.text, "disk 't.qcow2': has no snapshot '4'");
		inner.internal = "one";
		model_done(&m);
		model_done(&old);
	}
}

/* A snapshot (temporary overlay) of a qcow2 image with a backing file */
static void test_temporary(void **state)
{
	struct disk_options opt = { .snapshot = true };
	struct model m;
	int fd;

	make_base();
	assert_int_equal(
	    shell("cp mid.qcow2 before && qemu-img convert -t unsafe -O raw mid.qcow2 t.raw"), 0);
	model_init(&m, MIB(8), KIB(300), 5);
	fd = open("t.raw", O_RDONLY);
	assert_int_equal(pread(fd, m.image, MIB(8), 0), MIB(8));
	close(fd);
	m.disk = open_disk("mid.qcow2", opt);
	model_run(&m, 1500, m.disk->aio);
	model_check_all(&m);
	assert_int_equal(m.errors, 0);
	disk_close(m.disk);
	model_done(&m);
	assert_int_equal(shell("cmp mid.qcow2 before"), 0);
}

static void refused(const char *path, enum disk_format format, const char *want)
{
	struct disk_options opt = { .format = format };
	struct disk *disk = NULL;
	struct err err = { "" };

	if (try_open(path, opt, &disk, &err) == 0)
		fail_msg("%s was taken", path);
	if (!strstr(err.text, want))
		fail_msg("'%s' is not in '%s'", want, err.text);
}

static void poke(const char *path, uint64_t at, uint64_t value, unsigned bytes)
{
	uint8_t buf[8];
	int fd = open(path, O_WRONLY);

	put_be64(buf, value << (64 - 8 * bytes));
	assert_int_equal(pwrite(fd, buf, bytes, (off_t)at), bytes);
	close(fd);
}

static void fresh(void)
{
	assert_int_equal(shell("rm -f t.qcow2; qemu-img create -q -f qcow2 t.qcow2 8M"), 0);
}

static void test_format_is_not_guessed(void **state)
{
	struct disk_options opt = { 0 };

	fresh();
	assert_int_equal(
	    shell("cp t.qcow2 t.img; rm -f raw.qcow2; truncate -s 1M raw.qcow2 raw.img"), 0);
	refused("t.img", DISK_FORMAT_AUTO, "begins like a qcow2 image but is not named .qcow2");
	refused("raw.qcow2", DISK_FORMAT_AUTO, "is named .qcow2 but is no qcow2 image");
	refused("raw.img", DISK_FORMAT_QCOW2, "disk 'raw.img': not a qcow2 image");
	disk_close(open_disk("raw.img", opt));
	opt.format = DISK_FORMAT_RAW;
	disk_close(open_disk("t.img", opt));
	disk_close(open_disk("raw.qcow2", opt));
	opt.format = DISK_FORMAT_QCOW2;
	disk_close(open_disk("t.img", opt));
	/* The same for a backing file whose format is not told */
	assert_int_equal(shell("rm -f over.qcow2; qemu-img create -q -f qcow2 -b t.img -F qcow2 "
			       "over.qcow2"),
			 0);
	poke("over.qcow2", 112, 0x11111111, 4); /* the extension that tells it */
	refused("over.qcow2", DISK_FORMAT_AUTO,
		"disk 'over.qcow2': its backing file: disk 't.img': begins like");
}

static void test_refused_headers(void **state)
{
	static const struct {
		unsigned at, bytes;
		uint64_t value;
		const char *want;
	} bad[] = {
		{ 4, 4, 4, "qcow2 version 4 is not supported" },
		{ 20, 4, 8, "cluster_bits is 8" },
		{ 20, 4, 22, "cluster_bits is 22" },
		{ 24, 8, ~0ull, "the disk is too big" },
		{ 24, 8, GIB(4) * 1024, "L1 table with 1 entries: too small" },
		{ 32, 4, 1, "is encrypted (AES)" },
		{ 32, 4, 2, "is encrypted (LUKS)" },
		{ 36, 4, 0, "too small" },
		{ 36, 4, 0x7fffffff, "too big" },
		{ 40, 8, 3, "L1 table at 0x3: no possible place" },
		{ 40, 8, 0, "L1 table at 0: no possible place" },
		{ 40, 8, 65536, "tables overlap" },
		{ 40, 8, 1ull << 40, "L1 table at 0x10000000000: behind the file's end" },
		{ 48, 8, 1ull << 40, "refcount table at 0x10000000000: behind the file's end" },
		{ 48, 8, 5, "refcount table at 0x5: no possible place" },
		{ 56, 4, 0, "refcount table of 0 clusters: missing" },
		{ 56, 4, 100000, "too big" },
		{ 60, 4, 70000, "70000 snapshots: too many" },
		{ 60, 4, 1, "no possible place" },
		{ 72, 8, 16, "'extended L2 entries'" },
		{ 72, 8, 1 << 20, "'number 20'" },
		{ 72, 8, 2, "is marked as corrupt" },
		{ 72, 8, 4, "no usable name of the data file" },
		{ 72, 8, 8, "compression type and features disagree" },
		{ 96, 4, 7, "refcounts of 2^7 bits" },
		{ 100, 4, 96, "its length is 96" },
		{ 100, 4, 0xfffffff8, "its length is" },
		{ 104, 1, 1, "compression type and features disagree" },
		{ 8, 8, 65530, "name is outside of it" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		fresh();
		poke("t.qcow2", bad[i].at, bad[i].value, bad[i].bytes);
		refused("t.qcow2", DISK_FORMAT_AUTO, bad[i].want);
	}
	/* The image's own name for a feature, made printable: the table follows at 112. */
	fresh();
	poke("t.qcow2", 120, 0x0014ull << 48 | 0x6e65770a6f6bull, 8);
	poke("t.qcow2", 128, 0, 8);
	poke("t.qcow2", 72, 1 << 20, 8);
	refused("t.qcow2", DISK_FORMAT_AUTO, "needs the feature 'new?ok'");
}

static int run_one(struct disk *disk, enum disk_op op, uint64_t off, uint64_t len, void *buf);

struct one {
	struct disk_req req;
	int ret;
};

static void one_done(struct disk_req *req, int ret)
{
	container_of(req, struct one, req)->ret = ret;
}

static int run_one(struct disk *disk, enum disk_op op, uint64_t off, uint64_t len, void *buf)
{
	struct iovec iov = { buf, len };
	struct one o = { .req = { .op = op,
				  .off = off,
				  .len = len,
				  .iov = &iov,
				  .iov_count = 1,
				  .done = one_done },
			 .ret = 1 };

	disk_queue(disk, &o.req);
	disk_kick(disk);
	disk_drain(disk);
	return o.ret;
}

static uint64_t peek(const char *path, uint64_t at)
{
	uint8_t buf[8] = { 0 };
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, buf, 8, (off_t)at), 8);
	close(fd);
	return get_be64(buf);
}

/* What is wrong is found when it is used: I/O errors, the corrupt bit, nothing else written. */
static void test_corrupt_entries(void **state)
{
	enum { L1, L2, REF };
	static const struct {
		int where;
		uint64_t value;
		bool read_fails, write_fails;
	} bad[] = {
		{ L1, 1, true, true }, /* reserved */
		{ L1, 0x0100000000000000ull, true, true },
		{ L1, QCOW2_COPIED | 0x50200, true, true },	  /* not aligned */
		{ L1, QCOW2_COPIED | 0x70000000000, true, true }, /* behind the end */
		{ L2, QCOW2_COPIED | 0x50200, true, true },
		{ L2, QCOW2_COPIED | 0x50002, true, true },
		{ L2, QCOW2_COPIED, true, true },
		{ L2, QCOW2_COPIED | 0x70000000000, false, true },
		{ L2, QCOW2_COPIED | 0x10000, false, true }, /* the refcount table */
		{ L2, QCOW2_COPIED | 0x20000, false, true }, /* a refcount block */
		{ L2, QCOW2_COPIED | 0x30000, false, true }, /* the L1 table */
		{ L2, QCOW2_COPIED | 0x40000, false, true }, /* itself */
		{ L2, QCOW2_COMPRESSED, true, true },
		{ L2, QCOW2_COMPRESSED | 0x0fffffffffffffull, true, true },
		{ REF, 3, false, true },
		{ REF, 0x70000000000, false, true },
	};
	struct disk_options opt = { 0 };
	uint8_t buf[4096];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct disk *disk;
		int ret;

		fresh();
		assert_int_equal(shell("qemu-io -c 'write 0 64k' t.qcow2 >/dev/null"), 0);
		assert_true(peek("t.qcow2", 0x30000) == (QCOW2_COPIED | 0x40000));
		poke("t.qcow2",
		     bad[i].where == L1	  ? 0x30000
		     : bad[i].where == L2 ? 0x40000
					  : 0x10000,
		     bad[i].value, 8);
		disk = open_disk("t.qcow2", opt);
		ret = run_one(disk, DISK_READ, 0, 4096, buf);
		if (bad[i].read_fails != (ret == -EIO))
			fail_msg("case %u: a read gave %d", i, ret);
		ret = run_one(disk, DISK_WRITE, bad[i].where == REF ? MIB(1) : 0, 4096, buf);
		if (bad[i].write_fails != (ret == -EIO))
			fail_msg("case %u: a write gave %d", i, ret);
		disk_close(disk);
		/* Data that cannot be unpacked says nothing about the tables. */
		if (bad[i].value == (QCOW2_COMPRESSED | 0x0fffffffffffffull))
			continue;
		if (!(peek("t.qcow2", 72) & QCOW2_INCOMPAT_CORRUPT))
			fail_msg("case %u: the corrupt bit is not set", i);
		refused("t.qcow2", DISK_FORMAT_AUTO, "is marked as corrupt");
	}
}

static void test_chains(void **state)
{
	struct disk_options ro = { .readonly = true };
	struct disk *disk;
	struct err err = { "" };

	/* Relative to the file that names it, from another folder */
	assert_int_equal(
	    shell("rm -rf sub && mkdir sub && qemu-img create -q -f raw sub/b.img 1M && "
		  "cd sub && qemu-img create -q -f qcow2 -b b.img -F raw o.qcow2"),
	    0);
	disk_close(open_disk("sub/o.qcow2", (struct disk_options) { 0 }));
	/* A ring */
	assert_int_equal(
	    shell("cd sub && qemu-img create -q -f qcow2 -u -b y.qcow2 -F qcow2 x.qcow2 1M &&"
		  "qemu-img create -q -f qcow2 -u -b x.qcow2 -F qcow2 y.qcow2 1M"),
	    0);
	assert_int_equal(try_open("sub/x.qcow2", ro, &disk, &err), -ELOOP);
	assert_non_null(strstr(err.text, "leads back to 'sub/x.qcow2'"));
	/* Too deep */
	assert_int_equal(
	    shell("cd sub && p=b.img f=raw; for i in $(seq 70); do qemu-img create -q "
		  "-f qcow2 -u -b $p -F $f d$i.qcow2 1M || exit 1; p=d$i.qcow2 f=qcow2; done"),
	    0);
	assert_int_equal(try_open("sub/d70.qcow2", ro, &disk, &err), -ELOOP);
	disk_close(open_disk("sub/d63.qcow2", ro));
	/* Not there; no file; a format unknown to us */
	assert_int_equal(
	    shell("cd sub && qemu-img create -q -f qcow2 -u -b nowhere -F raw n.qcow2 1M && "
		  "qemu-img create -q -f qcow2 -u -b nbd:h:1 -F raw p.qcow2 1M && "
		  "qemu-img create -q -f qcow2 -u -b b.img -F vmdk v.qcow2 1M"),
	    0);
	assert_int_equal(try_open("sub/n.qcow2", ro, &disk, &err), -ENOENT);
	assert_non_null(
	    strstr(err.text, "disk 'sub/n.qcow2': its backing file: disk 'sub/nowhere'"));
	refused("sub/p.qcow2", DISK_FORMAT_AUTO, "its backing file 'nbd:h:1' is not a file's name");
	refused("sub/v.qcow2", DISK_FORMAT_AUTO, "the backing format 'vmdk' is not supported");
}

/* A writer that kept refcounts lazily and crashed */
static void test_dirty(void **state)
{
	struct disk_options opt = { 0 };
	uint8_t buf[4096];
	struct disk *disk;

	assert_int_equal(
	    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o lazy_refcounts=on t.qcow2 8M;"
		  "(qemu-io -c 'write -P 5 1M 300k' -c flush -c 'sigraise 9' t.qcow2 "
		  ">/dev/null) >/dev/null 2>&1; true"),
	    0);
	assert_int_equal(peek("t.qcow2", 72), QCOW2_INCOMPAT_DIRTY);
	disk = open_disk("t.qcow2", opt);
	assert_int_equal(run_one(disk, DISK_READ, MIB(1), 4096, buf), 0);
	assert_int_equal(buf[0], 5);
	assert_int_equal(run_one(disk, DISK_WRITE, MIB(3), 4096, buf), 0);
	disk_close(disk);
	assert_int_equal(peek("t.qcow2", 72), 0);
	check_image("t.qcow2");
}

/* In version 2 there are no zero clusters: zeros over a backing file are stored, and the file has
 * to become long enough for them. */
static void test_stored_zeroes(void **state)
{
	struct disk_options opt = { 0 };
	struct disk *disk;
	uint8_t buf[4096];

	make_base();
	assert_int_equal(
	    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o compat=0.10 -b base.raw "
		  "-F raw t.qcow2"),
	    0);
	disk = open_disk("t.qcow2", opt);
	assert_int_equal(run_one(disk, DISK_WRITE_ZEROES, 0, MIB(1), NULL), 0);
	disk_close(disk);
	check_image("t.qcow2");
	disk = open_disk("t.qcow2", opt);
	assert_int_equal(run_one(disk, DISK_READ, MIB(1) - 4096, 4096, buf), 0);
	assert_true(buf[0] == 0 && !memcmp(buf, buf + 1, 4095));
	memset(buf, 9, sizeof(buf));
	assert_int_equal(run_one(disk, DISK_WRITE, MIB(1) - 4096, 4096, buf), 0);
	disk_close(disk);
	check_image("t.qcow2");
}

static void test_locks(void **state)
{
	struct disk_options opt = { 0 }, ro = { .readonly = true };
	struct disk *disk, *other;
	struct err err;

	make_base();
	disk = open_disk("mid.qcow2", opt);
	assert_int_equal(try_open("mid.qcow2", ro, &other, &err), -EAGAIN);
	assert_int_equal(try_open("base.zlib.qcow2", opt, &other, &err), -EAGAIN);
	assert_int_equal(try_open("base.zlib.qcow2", ro, &other, &err), 0);
	disk_close(other);
	assert_int_not_equal(shell("qemu-io -c 'write 0 4k' base.zlib.qcow2 >/dev/null 2>&1"), 0);
	disk_close(disk);
}

/* Several threads queue at once, as vCPUs do: each has its own sectors of shared clusters. */
enum { SUBMITTERS = 3, ROUNDS = 300, SHARE = 8 };

struct submitter {
	struct disk *disk;
	unsigned number;
	uint8_t buf[SHARE][1024];
	atomic_uint left;
	atomic_int failed;
};

struct submitted {
	struct disk_req req;
	struct submitter *s;
};

static void submitted_done(struct disk_req *req, int ret)
{
	struct submitter *s = container_of(req, struct submitted, req)->s;

	if (ret < 0)
		atomic_store(&s->failed, ret);
	atomic_fetch_sub(&s->left, 1);
}

/* Writes, zeroes and discards its sectors, over and over; the last round writes. */
static void *submit(void *arg)
{
	struct submitter *s = arg;
	struct submitted req[SHARE];
	struct iovec iov[SHARE];

	for (unsigned round = 0; round < ROUNDS; round++) {
		enum disk_op op = round == ROUNDS - 1 ? DISK_WRITE
				  : round % 7 == 3    ? DISK_WRITE_ZEROES
				  : round % 7 == 5    ? DISK_DISCARD
				  : round % 50 == 49  ? DISK_FLUSH
						      : DISK_WRITE;

		atomic_store(&s->left, SHARE);
		for (unsigned i = 0; i < SHARE; i++) {
			memset(s->buf[i], (int)(s->number * 64 + i + 1), sizeof(s->buf[i]));
			iov[i] = (struct iovec) { s->buf[i], sizeof(s->buf[i]) };
			req[i] = (struct submitted) { .s = s,
						      .req = { .op = op,
							       .flags = DISK_REQ_UNMAP,
							       .off = (i * SUBMITTERS + s->number) *
								      1024,
							       .len = 1024,
							       .iov = &iov[i],
							       .iov_count = 1,
							       .done = submitted_done } };
			disk_queue(s->disk, &req[i].req);
		}
		disk_kick(s->disk);
		while (atomic_load(&s->left))
			sched_yield();
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct disk_options opt = { 0 };
	struct submitter s[SUBMITTERS] = { 0 };
	pthread_t threads[SUBMITTERS];
	uint8_t buf[1024];

	for (unsigned k = 0; k < 2; k++) {
		assert_int_equal(
		    shell("rm -f t.qcow2; qemu-img create -q -f qcow2 -o cluster_size=%u "
			  "t.qcow2 8M",
			  k ? 4096 : 65536),
		    0);
		opt.engine = k ? AIO_THREADS : AIO_AUTO;
		for (unsigned i = 0; i < SUBMITTERS; i++) {
			s[i].disk = i ? s[0].disk : open_disk("t.qcow2", opt);
			s[i].number = i;
		}
		for (unsigned i = 0; i < SUBMITTERS; i++) {
			atomic_store(&s[i].left, 1);
			assert_int_equal(pthread_create(&threads[i], NULL, submit, &s[i]), 0);
		}
		for (unsigned i = 0; i < SUBMITTERS; i++)
			while (pthread_tryjoin_np(threads[i], NULL))
				aio_wait(s[0].disk->aio);
		for (unsigned i = 0; i < SUBMITTERS * SHARE; i++) {
			assert_int_equal(run_one(s[0].disk, DISK_READ, i * 1024, 1024, buf), 0);
			for (unsigned b = 0; b < 1024; b++)
				assert_int_equal(buf[b], i % SUBMITTERS * 64 + i / SUBMITTERS + 1);
		}
		for (unsigned i = 0; i < SUBMITTERS; i++)
			assert_int_equal(atomic_load(&s[i].failed), 0);
		disk_close(s[0].disk);
		check_image("t.qcow2");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format_is_not_guessed),
		cmocka_unit_test(test_refused_headers),
		cmocka_unit_test(test_corrupt_entries),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_stored_zeroes),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_temporary),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_shapes),
	};

	return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
