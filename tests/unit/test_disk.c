/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block layer on real files, on both I/O engines: data, scatter-gather,
 * sizes, overlays, locks (against qemu-io, when it is installed) and what
 * happens when the host fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/util.h"
#include "disk/disk.h"
#include "disk/driver.h"

#define IMAGE_SIZE MIB(4)

struct fixture {
	struct loop *loop;
	struct disk *disk;
	enum aio_engine engine;
	char path[64];
	uint8_t *image; /* what the disk must contain */
};

static enum aio_engine engine_under_test = AIO_THREADS;

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static void make_image(struct fixture *f, uint64_t size)
{
	int fd;

	snprintf(f->path, sizeof(f->path), "disk-test-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (uint64_t i = 0; i < size; i++)
		f->image[i] = pattern(i);
	assert_int_equal(write(fd, f->image, size), size);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	assert_non_null(f);
	f->engine = engine_under_test;
	f->image = calloc(1, IMAGE_SIZE + DISK_SECTOR);
	assert_int_equal(loop_new(&f->loop, &err), 0);
	make_image(f, IMAGE_SIZE);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	disk_close(f->disk);
	loop_free(f->loop);
	unlink(f->path);
	free(f->image);
	free(f);
	return 0;
}

static int try_open(struct fixture *f, bool readonly, bool snapshot, struct disk **ret,
		    struct err *err)
{
	struct disk_options opt = { .readonly = readonly,
				    .snapshot = snapshot,
				    .engine = f->engine };

	return disk_open(f->loop, f->path, &opt, ret, err);
}

static void open_disk(struct fixture *f, bool readonly, bool snapshot)
{
	struct err err = { "" };
	int ret = try_open(f, readonly, snapshot, &f->disk, &err);

	if (ret)
		fail_msg("%s", err.text);
}

struct waited {
	struct disk_req req;
	int ret;
	unsigned calls;
};

static void req_done(struct disk_req *req, int ret)
{
	struct waited *w = container_of(req, struct waited, req);

	w->ret = ret;
	w->calls++;
}

static int run(struct disk *disk, enum disk_op op, unsigned flags, uint64_t off, uint64_t len,
	       struct iovec *iov, unsigned n)
{
	struct waited w = { .req = { .op = op,
				     .flags = flags,
				     .off = off,
				     .len = len,
				     .iov = iov,
				     .iov_count = n,
				     .done = req_done } };

	disk_queue(disk, &w.req);
	assert_int_equal(w.calls, 0); /* never inside disk_queue() */
	disk_kick(disk);
	disk_drain(disk);
	assert_int_equal(w.calls, 1);
	return w.ret;
}

static int run_read(struct fixture *f, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };

	return run(f->disk, DISK_READ, 0, off, len, &iov, 1);
}

static int run_write(struct fixture *f, uint64_t off, const void *buf, uint64_t len)
{
	struct iovec iov = { (void *)buf, len };
	int ret = run(f->disk, DISK_WRITE, 0, off, len, &iov, 1);

	if (ret == 0)
		memcpy(f->image + off, buf, len);
	return ret;
}

static void check_all(struct fixture *f)
{
	uint64_t size = disk_size(f->disk);
	uint8_t *buf = malloc(size);

	assert_int_equal(run_read(f, 0, buf, size), 0);
	assert_memory_equal(buf, f->image, size);
	free(buf);
}

static void check_file(struct fixture *f, bool same)
{
	uint8_t *buf = malloc(IMAGE_SIZE);
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(pread(fd, buf, IMAGE_SIZE, 0), IMAGE_SIZE);
	close(fd);
	if (same)
		assert_memory_equal(buf, f->image, IMAGE_SIZE);
	else
		for (unsigned i = 0; i < IMAGE_SIZE; i++)
			if (buf[i] != pattern(i))
				fail_msg("the image changed at byte %u", i);
	free(buf);
}

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[8192];

	open_disk(f, false, false);
	if (f->engine == AIO_URING)
		assert_int_equal(disk_engine(f->disk), AIO_URING);
	assert_int_equal(disk_size(f->disk), IMAGE_SIZE);
	check_all(f);
	memset(buf, 0x5a, sizeof(buf));
	assert_int_equal(run_write(f, 512, buf, sizeof(buf)), 0);
	assert_int_equal(run_write(f, IMAGE_SIZE - 512, buf, 512), 0);
	check_all(f);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), 0);
	check_file(f, true);
}

static int read_now(struct fixture *f, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct disk_req req = {
		.op = DISK_READ, .off = off, .len = len, .iov = &iov, .iov_count = 1
	};

	return disk_read_now(f->disk, &req);
}

static void test_read_now(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[8192];
	int ret;

	open_disk(f, false, true);
	check_all(f); /* now it is in the cache */
	ret = read_now(f, 512, buf, 8192);
	if (ret == -EAGAIN)
		skip(); /* a file system without such reads */
	assert_int_equal(ret, 0);
	assert_memory_equal(buf, f->image + 512, 8192);
	/* Part image, part overlay: the long way */
	memset(buf, 3, 512);
	assert_int_equal(run_write(f, 4096, buf, 512), 0);
	assert_int_equal(read_now(f, 512, buf, 8192), -EAGAIN);
	assert_int_equal(read_now(f, 4096, buf, 512), 0);
	assert_memory_equal(buf, f->image + 4096, 512);
	/* Nothing but good reads */
	assert_int_equal(read_now(f, IMAGE_SIZE - 512, buf, 1024), -EAGAIN);
	assert_int_equal(read_now(f, 1, buf, 512), -EAGAIN);
	disk_close(f->disk);
	open_disk(f, false, false);
	truncate(f->path, 8192);
	assert_int_equal(read_now(f, 8192 - 512, buf, 1024), -EAGAIN);
}

static void test_scatter_gather(void **state)
{
	struct fixture *f = *state;
	uint8_t *buf = malloc(65536);
	struct iovec iov[300];
	uint64_t pos = 0;
	unsigned n = 0;

	open_disk(f, false, false);
	for (; pos < 32768 && n < 299; n++) {
		uint64_t len = (n * 37) % 251; /* zero-length elements, too */

		len = min_u64(len, 32768 - pos);
		iov[n] = (struct iovec) { buf + pos, len };
		pos += len;
	}
	iov[n++] = (struct iovec) { buf + pos, 32768 - pos };
	assert_int_equal(run(f->disk, DISK_READ, 0, 1024, 32768, iov, n), 0);
	assert_memory_equal(buf, f->image + 1024, 32768);
	free(buf);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[1024] = { 0 };
	struct iovec iov = { buf, 1024 };

	open_disk(f, true, false);
	assert_true(disk_readonly(f->disk));
	assert_int_equal(run_write(f, 0, buf, 512), -EROFS);
	assert_int_equal(run(f->disk, DISK_DISCARD, 0, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(run(f->disk, DISK_WRITE_ZEROES, 0, 0, 512, NULL, 0), -EROFS);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), 0);
	assert_int_equal(run_read(f, IMAGE_SIZE, buf, 512), -EINVAL);
	assert_int_equal(run_read(f, IMAGE_SIZE - 512, buf, 1024), -EINVAL);
	assert_int_equal(run_read(f, 0 - 512ull, buf, 1024), -EINVAL);
	assert_int_equal(run_read(f, 1, buf, 512), -EINVAL);
	assert_int_equal(run_read(f, 0, buf, 100), -EINVAL);
	assert_int_equal(run(f->disk, DISK_READ, 0, 0, 512, &iov, 1), -EINVAL);
	assert_int_equal(run(f->disk, DISK_READ, 0, 0, 2048, &iov, 1), -EINVAL);
	check_file(f, false);
}

static void test_zeroes_discard(void **state)
{
	struct fixture *f = *state;
	struct stat before, after;
	uint8_t buf[512];

	open_disk(f, false, false);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), 0);
	stat(f->path, &before);
	assert_int_equal(run(f->disk, DISK_WRITE_ZEROES, 0, 512, MIB(1), NULL, 0), 0);
	memset(f->image + 512, 0, MIB(1));
	check_all(f);
	stat(f->path, &after);
	assert_true(after.st_blocks >= before.st_blocks); /* the space is kept */

	assert_int_equal(run(f->disk, DISK_WRITE_ZEROES, DISK_REQ_UNMAP, MIB(2), MIB(1), NULL, 0),
			 0);
	memset(f->image + MIB(2), 0, MIB(1));
	check_all(f);
	stat(f->path, &after);
	assert_true(after.st_blocks <= before.st_blocks - 1500);

	/* The end: the file must keep its size. */
	assert_int_equal(run(f->disk, DISK_DISCARD, 0, IMAGE_SIZE - 4096, 4096, NULL, 0), 0);
	stat(f->path, &after);
	assert_int_equal(after.st_size, IMAGE_SIZE);
	assert_int_equal(run_read(f, IMAGE_SIZE - 512, buf, 512), 0);
}

static void test_odd_size(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	uint8_t buf[1024];

	truncate(f->path, 1000);
	memset(f->image + 1000, 0, 24);
	open_disk(f, false, false);
	assert_int_equal(disk_size(f->disk), 1024);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(run_read(f, 512, buf, 512), 0);
	assert_memory_equal(buf, f->image + 512, 512);
	memset(buf, 0x77, 512);
	assert_int_equal(run_write(f, 512, buf, 512), 0);
	check_all(f);
	stat(f->path, &st);
	assert_int_equal(st.st_size, 1024);
}

static void test_truncated_under_us(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[8192];

	open_disk(f, false, false);
	truncate(f->path, MIB(1) + 4096);
	assert_int_equal(run_read(f, MIB(1) - 4096, buf, 8192), 0);
	assert_int_equal(run_read(f, MIB(1), buf, 8192), -EIO);
	assert_int_equal(run_read(f, MIB(2), buf, 512), -EIO);
}

static void test_many_in_flight(void **state)
{
	enum { COUNT = 1000 };
	struct fixture *f = *state;
	struct waited *w = calloc(COUNT, sizeof(*w));
	struct iovec *iov = calloc(COUNT, sizeof(*iov));
	uint8_t *buf = malloc(COUNT * 4096);

	/* More than the engine takes at once. */
	open_disk(f, false, false);
	for (unsigned i = 0; i < COUNT; i++) {
		memset(buf + i * 4096, (int)(i % 251), 4096);
		memcpy(f->image + i * 4096, buf + i * 4096, 4096);
		iov[i] = (struct iovec) { buf + i * 4096, 4096 };
		w[i].req = (struct disk_req) { .op = DISK_WRITE,
					       .off = i * 4096,
					       .len = 4096,
					       .iov = &iov[i],
					       .iov_count = 1,
					       .done = req_done };
		disk_queue(f->disk, &w[i].req);
	}
	disk_kick(f->disk);
	disk_drain(f->disk);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(w[i].calls, 1);
		assert_int_equal(w[i].ret, 0);
	}
	check_all(f);
	free(w);
	free(iov);
	free(buf);
}

static void quit_done(struct disk_req *req, int ret)
{
	struct fixture *f = *(struct fixture **)(req + 1);

	loop_quit(f->loop, ret == 0 ? 42 : 1);
}

static void test_completion_on_loop(void **state)
{
	struct fixture *f = *state;
	struct {
		struct disk_req req;
		struct fixture *f;
	} r = { .f = f };
	uint8_t buf[512];
	struct iovec iov = { buf, 512 };

	open_disk(f, false, false);
	r.req = (struct disk_req) {
		.op = DISK_READ, .len = 512, .iov = &iov, .iov_count = 1, .done = quit_done
	};
	disk_queue(f->disk, &r.req);
	disk_kick(f->disk);
	assert_int_equal(loop_run(f->loop), 42);
	assert_memory_equal(buf, f->image, 512);
}

static void test_snapshot(void **state)
{
	struct fixture *f = *state;
	uint32_t seed = 12345;
	uint8_t *buf = malloc(65536);

	open_disk(f, false, true);
	assert_false(disk_readonly(f->disk));
	check_all(f);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t sector, count;

		seed = seed * 1664525 + 1013904223;
		sector = (seed >> 8) % (IMAGE_SIZE / 512 - 128);
		count = 1 + (seed >> 24) % 127;
		if (i % 3 == 0)
			count = 1 + count % 3;
		if (i % 16 == 7) {
			assert_int_equal(
			    run(f->disk, DISK_WRITE_ZEROES, 0, sector * 512, count * 512, NULL, 0),
			    0);
			memset(f->image + sector * 512, 0, count * 512);
		} else if (i % 16 == 11) {
			assert_int_equal(
			    run(f->disk, DISK_DISCARD, 0, sector * 512, count * 512, NULL, 0), 0);
			memset(f->image + sector * 512, 0, count * 512);
		} else {
			memset(buf, (int)i + 1, count * 512);
			assert_int_equal(run_write(f, sector * 512, buf, count * 512), 0);
		}
		if (i % 50 == 0)
			check_all(f);
	}
	check_all(f);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), 0);
	check_file(f, false);
	free(buf);
}

static void test_snapshot_of_readonly_file(void **state)
{
	struct fixture *f = *state;
	struct disk *other;
	struct err err;
	uint8_t buf[512] = { 1 };

	/* Two overlays over one image, and the image itself not writable. */
	chmod(f->path, 0400);
	open_disk(f, false, true);
	assert_int_equal(run_write(f, 0, buf, 512), 0);
	check_all(f);
	assert_int_equal(try_open(f, false, true, &other, &err), 0);
	disk_close(other);
}

static void test_no_temporary_directory(void **state)
{
	struct fixture *f = *state;
	struct err err = { "" };

	setenv("TMPDIR", "/nonexistent", 1);
	assert_int_equal(try_open(f, false, true, &f->disk, &err), -ENOENT);
	unsetenv("TMPDIR");
	assert_non_null(strstr(err.text, f->path));
	assert_non_null(strstr(err.text, "/nonexistent"));
}

static void test_locks(void **state)
{
	struct fixture *f = *state;
	struct disk *other = NULL;
	struct err err = { "" };

	open_disk(f, false, false);
	assert_int_equal(try_open(f, false, false, &other, &err), -EAGAIN);
	assert_non_null(strstr(err.text, f->path));
	assert_null(strchr(err.text, '\n'));
	assert_int_equal(try_open(f, true, false, &other, &err), -EAGAIN);
	assert_int_equal(try_open(f, false, true, &other, &err), -EAGAIN);
	disk_close(f->disk);

	open_disk(f, true, false);
	assert_int_equal(try_open(f, true, false, &other, &err), 0);
	disk_close(other);
	assert_int_equal(try_open(f, false, false, &other, &err), -EAGAIN);
	disk_close(f->disk);
	f->disk = NULL;
	assert_int_equal(try_open(f, false, false, &f->disk, &err), 0);
}

static int shell(const char *fmt, const char *path)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), fmt, path, path);
	return WEXITSTATUS(system(cmd));
}

/* A QEMU tool that holds the image until its standard input ends. */
static FILE *qemu_hold(const char *path, const char *how)
{
	char cmd[512], line[128] = "";
	FILE *p;

	snprintf(cmd, sizeof(cmd),
		 "{ echo 'read 0 512'; touch %s.held; cat %s.fifo; } | "
		 "qemu-io %s -f raw %s >/dev/null 2>&1",
		 path, path, how, path);
	snprintf(line, sizeof(line), "%s.fifo", path);
	assert_int_equal(mkfifo(line, 0600), 0);
	p = popen(cmd, "r");
	assert_non_null(p);
	/* Wait until its lock on byte 100 is there, 10 s at most. */
	for (unsigned i = 0; i < 1000; i++) {
		struct flock fl = { .l_type = F_WRLCK, .l_start = 100, .l_len = 1 };
		int fd = open(path, O_RDONLY);

		fcntl(fd, F_OFD_GETLK, &fl);
		close(fd);
		if (fl.l_type != F_UNLCK)
			return p;
		usleep(10000);
	}
	fail_msg("qemu-io does not lock the image");
	return NULL;
}

static void qemu_release(const char *path, FILE *p)
{
	char name[128];

	snprintf(name, sizeof(name), "%s.fifo", path);
	close(open(name, O_WRONLY));
	pclose(p);
	unlink(name);
	snprintf(name, sizeof(name), "%s.held", path);
	unlink(name);
}

static void test_locks_with_qemu(void **state)
{
	struct fixture *f = *state;
	struct err err = { "" };
	FILE *p;

	if (shell("command -v qemu-io >/dev/null", "") != 0)
		skip();
	/* We write: QEMU may not. */
	open_disk(f, false, false);
	assert_int_not_equal(shell("qemu-io -f raw -c 'write 0 512' %s >/dev/null 2>&1", f->path),
			     0);
	disk_close(f->disk);
	/* We read (or overlay): QEMU may read, not write. */
	open_disk(f, false, true);
	assert_int_not_equal(shell("qemu-io -f raw -c 'write 0 512' %s >/dev/null 2>&1", f->path),
			     0);
	assert_int_equal(shell("qemu-io -r -f raw -c 'read 0 512' %s >/dev/null 2>&1", f->path), 0);
	assert_int_equal(shell("qemu-img info %s >/dev/null 2>&1", f->path), 0);
	disk_close(f->disk);
	f->disk = NULL;
	/* QEMU writes: we may do nothing. */
	p = qemu_hold(f->path, "");
	assert_int_equal(try_open(f, false, false, &f->disk, &err), -EAGAIN);
	assert_int_equal(try_open(f, true, false, &f->disk, &err), -EAGAIN);
	qemu_release(f->path, p);
	/* QEMU has gone: the image is ours. */
	open_disk(f, false, false);
	check_all(f);
}

static void test_bad_images(void **state)
{
	struct fixture *f = *state;
	struct disk_options opt = { .readonly = true, .engine = f->engine };
	static const struct {
		const char *path;
		int ret;
	} bad[] = {
		{ "/nonexistent/image", -ENOENT },
		{ "/dev/null", -EINVAL },
		{ "/", -EINVAL },
	};
	struct disk *disk;
	struct err err;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(disk_open(f->loop, bad[i].path, &opt, &disk, &err), bad[i].ret);
		assert_non_null(strstr(err.text, bad[i].path));
	}
	truncate(f->path, 0);
	assert_int_equal(try_open(f, false, false, &disk, &err), -EINVAL);
}

/* In a child: its file size limit makes writes fail. */
static void limited_child(struct fixture *f)
{
	struct rlimit lim = { MIB(1), MIB(1) };
	uint8_t buf[8192] = { 1 };
	struct iovec iov = { buf, sizeof(buf) };
	int bad = 0;

	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &lim);
	if (try_open(f, false, false, &f->disk, NULL))
		_exit(100);
	bad |= run(f->disk, DISK_WRITE, 0, MIB(2), sizeof(buf), &iov, 1) != -EFBIG;
	iov = (struct iovec) { buf, sizeof(buf) };
	bad |= (run(f->disk, DISK_WRITE, 0, MIB(1) - 4096, sizeof(buf), &iov, 1) != -EFBIG) << 1;
	iov = (struct iovec) { buf, sizeof(buf) };
	bad |= (run(f->disk, DISK_WRITE, 0, 0, sizeof(buf), &iov, 1) != 0) << 2;
	disk_close(f->disk);
	_exit(bad);
}

static void test_file_size_limit(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

	truncate(f->path, 512); /* a hole behind, so that the limit matters */
	truncate(f->path, IMAGE_SIZE);
	pid = fork();
	if (pid == 0) {
		struct err err;

		if (loop_new(&f->loop, &err))
			_exit(101);
		limited_child(f);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return good;
}

/* A file system that is full: the write fails, the rest goes on. In a child with a tmpfs of its
 * own. */
static void full_child(struct fixture *f)
{
	static uint8_t buf[MIB(1)];
	struct iovec iov = { buf, sizeof(buf) };
	char uid_map[32], gid_map[32];
	int fd, bad = 0;

	snprintf(uid_map, sizeof(uid_map), "0 %u 1", geteuid());
	snprintf(gid_map, sizeof(gid_map), "0 %u 1", getegid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 || !put("/proc/self/setgroups", "deny") ||
	    !put("/proc/self/uid_map", uid_map) || !put("/proc/self/gid_map", gid_map) ||
	    mount("none", "/tmp", "tmpfs", 0, "size=256k") < 0)
		_exit(77);
	snprintf(f->path, sizeof(f->path), "/tmp/image");
	fd = open(f->path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, IMAGE_SIZE) < 0 || close(fd) < 0)
		_exit(100);
	if (try_open(f, false, false, &f->disk, NULL))
		_exit(101);
	bad |= run(f->disk, DISK_WRITE, 0, 0, sizeof(buf), &iov, 1) != -ENOSPC;
	iov = (struct iovec) { buf, 4096 };
	bad |= (run(f->disk, DISK_WRITE, 0, 0, 4096, &iov, 1) != 0) << 1;
	iov = (struct iovec) { buf, 4096 };
	bad |= (run(f->disk, DISK_READ, 0, MIB(2), 4096, &iov, 1) != 0) << 2;
	/* Zeroes with the space kept cannot be had, zeroes as a hole can. */
	bad |= (run(f->disk, DISK_WRITE_ZEROES, DISK_REQ_UNMAP, 0, MIB(2), NULL, 0) != 0) << 3;
	iov = (struct iovec) { buf, 128 << 10 };
	bad |= (run(f->disk, DISK_WRITE, 0, MIB(3), 128 << 10, &iov, 1) != 0) << 4;
	disk_close(f->disk);
	_exit(bad);
}

static void test_full_file_system(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct err err;

		if (loop_new(&f->loop, &err))
			_exit(102);
		full_child(f);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); /* no user namespaces here */
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* After a failed flush nobody knows what is on the disk: no later one may succeed. */
static void test_failed_flush_stays(void **state)
{
	struct fixture *f = *state;
	struct file *file;
	uint8_t buf[512] = { 1 };
	int pipe_fds[2], saved;

	open_disk(f, false, false);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), 0);
	file = f->disk->priv;
	saved = dup(file->fd);
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(dup2(pipe_fds[0], file->fd), file->fd); /* a pipe cannot be synced */
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), -EINVAL);
	assert_int_equal(dup2(saved, file->fd), file->fd);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), -EINVAL);
	assert_int_equal(run_write(f, 0, buf, 512), 0);
	assert_int_equal(run(f->disk, DISK_FLUSH, 0, 0, 0, NULL, 0), -EINVAL);
	close(saved);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

struct submitter {
	struct fixture *f;
	struct waited w[64];
	struct iovec iov[64];
	uint8_t *buf;
};

static void *submit_and_end(void *arg)
{
	struct submitter *s = arg;

	for (unsigned i = 0; i < 64; i++) {
		s->iov[i] = (struct iovec) { s->buf + i * 65536, 65536 };
		s->w[i].req = (struct disk_req) { .op = DISK_WRITE,
						  .off = i * 65536,
						  .len = 65536,
						  .iov = &s->iov[i],
						  .iov_count = 1,
						  .done = req_done };
		disk_queue(s->f->disk, &s->w[i].req);
	}
	disk_kick(s->f->disk);
	return NULL;
}

/* The kernel cancels what a thread has submitted when that thread ends: it must be done all the
 * same. */
static void test_submitter_ends(void **state)
{
	struct fixture *f = *state;
	struct submitter s = { .f = f, .buf = calloc(64, 65536) };
	pthread_t thread;

	open_disk(f, false, false);
	for (unsigned round = 0; round < 20; round++) {
		memset(s.buf, (int)round + 1, 64 * 65536);
		memset(s.w, 0, sizeof(s.w));
		assert_int_equal(pthread_create(&thread, NULL, submit_and_end, &s), 0);
		pthread_join(thread, NULL);
		disk_drain(f->disk);
		for (unsigned i = 0; i < 64; i++) {
			assert_int_equal(s.w[i].calls, 1);
			assert_int_equal(s.w[i].ret, 0);
		}
	}
	memcpy(f->image, s.buf, 64 * 65536);
	check_all(f);
	free(s.buf);
}

static int set_uring(void **state)
{
	engine_under_test = AIO_URING;
	return 0;
}

static int set_threads(void **state)
{
	engine_under_test = AIO_THREADS;
	return 0;
}

static bool uring_allowed(void)
{
	struct loop *loop;
	struct aio *aio;
	struct err err;
	int ret;

	if (loop_new(&loop, &err))
		return false;
	ret = aio_new(loop, AIO_URING, &aio, &err);
	if (ret == 0)
		aio_free(aio);
	loop_free(loop);
	return ret == 0;
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_read_write),
		T(test_read_now),
		T(test_scatter_gather),
		T(test_refused),
		T(test_zeroes_discard),
		T(test_odd_size),
		T(test_truncated_under_us),
		T(test_many_in_flight),
		T(test_completion_on_loop),
		T(test_snapshot),
		T(test_snapshot_of_readonly_file),
		T(test_no_temporary_directory),
		T(test_locks),
		T(test_locks_with_qemu),
		T(test_bad_images),
		T(test_file_size_limit),
		T(test_full_file_system),
		T(test_failed_flush_stays),
		T(test_submitter_ends),
	};
	int ret = cmocka_run_group_tests_name("threads", tests, set_threads, NULL);

	if (uring_allowed())
		ret |= cmocka_run_group_tests_name("io_uring", tests, set_uring, NULL);
	else
		print_message("io_uring is refused here: not tested\n");
	return ret;
}
