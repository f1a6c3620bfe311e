/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front of the block layer: opening, validation, counting what is in
 * flight. The work is done by a driver (raw.c, with overlay.c over it).
 *
 * Invariants
 * 1. Every request completes exactly once, on the loop thread, never inside
 *    disk_queue(): what is refused goes through the engine as an empty operation.
 * 2. disk->inflight counts a request until its completion has returned, so
 *    that after disk_drain() nothing of the disk's runs.
 */
#include "disk/disk.h"

#include "base/util.h"
#include "disk/driver.h"

void disk_complete(struct disk_req *req, int ret)
{
	struct disk *disk = req->disk;

	req->done(req, ret);
	atomic_fetch_sub_explicit(&disk->inflight, 1, memory_order_release);
}

static int check(const struct disk *disk, const struct disk_req *req)
{
	uint64_t total = 0;

	if (req->op == DISK_FLUSH)
		return 0;
	if (req->op != DISK_READ && disk->readonly)
		return -EROFS;
	if ((req->off | req->len) % DISK_SECTOR || req->off > disk->size ||
	    req->len > disk->size - req->off)
		return -EINVAL;
	if (req->op != DISK_READ && req->op != DISK_WRITE)
		return 0;
	if (req->iov_count > DISK_MAX_IOV)
		return -EINVAL;
	for (unsigned i = 0; i < req->iov_count; i++) {
		if (req->iov[i].iov_len > req->len - total)
			return -EINVAL;
		total += req->iov[i].iov_len;
	}
	return total == req->len ? 0 : -EINVAL;
}

static void refused_done(struct aio_op *aio, int res)
{
	struct disk_req *req = container_of(aio, struct disk_req, aio);

	disk_complete(req, req->result);
}

void disk_queue(struct disk *disk, struct disk_req *req)
{
	int ret = check(disk, req);

	req->disk = disk;
	req->cut = NULL;
	atomic_fetch_add_explicit(&disk->inflight, 1, memory_order_relaxed);
	if (ret == 0) {
		disk->drv->start(disk, req);
		return;
	}
	req->result = ret;
	req->aio.code = AIO_NOP;
	req->aio.done = refused_done;
	aio_queue(disk->aio, &req->aio);
}

int disk_read_now(struct disk *disk, const struct disk_req *req)
{
	if (req->op != DISK_READ || !req->len || check(disk, req) < 0)
		return -EAGAIN;
	return disk->drv->read_now(disk, req);
}

void disk_kick(struct disk *disk)
{
	aio_kick(disk->aio);
}

void disk_drain(struct disk *disk)
{
	while (atomic_load_explicit(&disk->inflight, memory_order_acquire))
		aio_wait(disk->aio);
}

int disk_open(struct loop *loop, const char *path, const struct disk_options *opt,
	      struct disk **ret_disk, struct err *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int ret;

	if (!disk)
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	ret = aio_new(loop, opt->engine, &disk->aio, err);
	if (ret < 0) {
		err_prefix(err, ret, "disk '%s'", path);
		goto out;
	}
	ret = raw_open(disk, path, opt, err);
	if (ret == 0 && opt->snapshot && !opt->readonly) {
		ret = overlay_open(disk, err);
		if (ret < 0)
			err_prefix(err, ret, "disk '%s'", path);
	}
out:
	if (ret < 0)
		disk_close(disk);
	else
		*ret_disk = disk;
	return ret;
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	if (disk->aio)
		disk_drain(disk);
	if (disk->drv)
		disk->drv->close(disk);
	aio_free(disk->aio);
	free(disk);
}

uint64_t disk_size(const struct disk *disk)
{
	return disk->size;
}

bool disk_readonly(const struct disk *disk)
{
	return disk->readonly;
}

unsigned disk_block_size(const struct disk *disk)
{
	return disk->block_size;
}

enum aio_engine disk_engine(const struct disk *disk)
{
	return aio_engine(disk->aio);
}
