/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A qcow2 image of which every byte is hostile: read, written to, discarded,
 * checked and repaired. It may be refused or give errors; it must not crash, nor
 * grow without reason.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/util.h"
#include "disk/disk.h"
#include "disk/driver.h"
#include "disk/qcow2_check.h"
#include "fuzz.h"

#define IO_MAX KIB(64)
/* What a few small requests may add: clusters of 2 MiB, tables for them, refcounts. */
#define GROWTH_MAX MIB(64)

static void done(struct disk_req *req, int ret)
{
	assert(ret <= 0);
}

static void request(struct disk *disk, enum disk_op op, uint64_t off, uint64_t len)
{
	static uint8_t buf[IO_MAX];
	struct iovec iov = { buf, 0 };
	struct disk_req req = { .op = op, .iov = &iov, .iov_count = 1, .done = done };

	off = align_down(min_u64(off, disk_size(disk)), DISK_SECTOR);
	req.off = off;
	req.len = iov.iov_len = min_u64(min_u64(len, IO_MAX), disk_size(disk) - off);
	disk_queue(disk, &req);
	disk_kick(disk);
	disk_drain(disk);
}

static void use(struct loop *loop, const char *path, bool readonly)
{
	struct disk_options opt = { .readonly = readonly,
				    .format = DISK_FORMAT_QCOW2,
				    .engine = AIO_THREADS };
	struct disk *disk = NULL;
	struct err err = { .text = "" };
	uint64_t size;

	if (disk_open(loop, path, &opt, &disk, &err) < 0) {
		assert(err.text[0]);
		return;
	}
	size = disk_size(disk);
	for (unsigned i = 0; i < 4; i++) {
		request(disk, DISK_READ, size / 4 * i, 8192);
		request(disk, DISK_WRITE, size / 4 * i + 1024, i % 2 ? 512 : 3072);
	}
	request(disk, DISK_DISCARD, 0, 4096);
	request(disk, DISK_WRITE_ZEROES, size / 2, 2048);
	request(disk, DISK_FLUSH, 0, 0);
	request(disk, DISK_WRITE, 0, 1024);
	request(disk, DISK_READ, 0, IO_MAX);
	disk_close_checked(disk, &err);
}

static void check(int fd, enum qcow2_repair repair)
{
	struct file file = { .fd = fd };
	struct qcow2_check_result res;
	struct err err = { .text = "" };

	if (qcow2_check(&file, "f", repair, NULL, &res, &err) < 0)
		assert(err.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct loop *loop;
	struct stat st;
	char path[64];
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size || loop_new(&loop, NULL) < 0)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	use(loop, path, true);
	use(loop, path, false);
	check(fd, QCOW2_REPAIR_NONE);
	check(fd, QCOW2_REPAIR_ALL);
	use(loop, path, false);
	assert(fstat(fd, &st) == 0);
	assert((uint64_t)st.st_blocks * 512 < GROWTH_MAX);
	close(fd);
	loop_free(loop);
	return 0;
}
