/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front of the block layer: opening, validation, counting what is in
 * flight. The work is done by a driver (raw.c, qcow2.c, nbd.c, with overlay.c
 * over one of them).
 *
 * Invariants
 * 1. Every request completes exactly once, on the loop thread, never inside
 *    disk_queue(): what is refused goes through the engine as an empty operation.
 * 2. disk->inflight counts a request until its completion has returned, so
 *    that after disk_drain() nothing of the disk's runs.
 */
#include "disk/disk.h"

#include "base/log.h"
#include "base/util.h"
#include "disk/driver.h"
#include "disk/nbd_uri.h"
#include "disk/qcow2_format.h"

#define DRAIN_PATIENCE_NS 5000000000ull /* the loop does nothing else meanwhile */

static void add(_Atomic uint64_t *sum, uint64_t n)
{
	atomic_fetch_add_explicit(sum, n, memory_order_relaxed);
}

/* Requests that we refused say nothing of the host. */
static bool is_host_error(int ret)
{
	return ret < 0 && ret != -EINVAL && ret != -EROFS;
}

void disk_complete(struct disk_req *req, int ret)
{
	struct disk *disk = req->disk;

	add(&disk->stat_count[req->op], 1);
	add(&disk->stat_bytes[req->op], req->op == DISK_FLUSH ? 0 : req->len);
	add(&disk->stat_ns[req->op], clock_now_ns() - req->queued_ns);
	if (ret < 0)
		add(&disk->stat_errors, 1);
	if (is_host_error(ret) && disk->on_error)
		disk->on_error(disk->on_error_arg, req->op, ret);
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
	if ((req->off | req->len) % disk->sector || req->off > disk->size ||
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
	req->queued_ns = clock_now_ns();
	req->cut = NULL;
	atomic_fetch_add_explicit(&disk->inflight, 1, memory_order_relaxed);
	if (disk->no_discard && req->op == DISK_WRITE_ZEROES)
		req->flags &= ~DISK_REQ_UNMAP;
	if (ret == 0 && !(disk->no_discard && req->op == DISK_DISCARD)) {
		if (!disk->throttle || throttle_take(disk->throttle, req))
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
	if (req->op != DISK_READ || !req->len || disk->throttle || check(disk, req) < 0)
		return -EAGAIN;
	if (disk->drv->read_now(disk->priv, req) < 0)
		return -EAGAIN;
	add(&disk->stat_count[DISK_READ], 1);
	add(&disk->stat_bytes[DISK_READ], req->len);
	return 0;
}

void disk_get_stats(struct disk *disk, struct disk_stats *ret_stats)
{
	for (unsigned i = 0; i < DISK_OPS; i++) {
		ret_stats->count[i] = atomic_load(&disk->stat_count[i]);
		ret_stats->bytes[i] = atomic_load(&disk->stat_bytes[i]);
		ret_stats->time_ns[i] = atomic_load(&disk->stat_ns[i]);
	}
	ret_stats->errors = atomic_load(&disk->stat_errors);
}

void disk_on_error(struct disk *disk, void (*fn)(void *arg, enum disk_op op, int ret), void *arg)
{
	disk->on_error = fn;
	disk->on_error_arg = arg;
}

int disk_grow(struct disk *disk, uint64_t size, struct err *err)
{
	if (disk->readonly)
		return err_set(err, EROFS, "it is read-only");
	if (size % DISK_SECTOR || size < disk->size || size > INT64_MAX - DISK_SECTOR)
		return err_set(err, EINVAL, "%llu bytes: not a multiple of %u from its %llu on",
			       (unsigned long long)size, DISK_SECTOR,
			       (unsigned long long)disk->size);
	if (!disk->drv->grow)
		return err_set(err, EOPNOTSUPP,
			       "its format cannot grow in use; eyot-img resize can when it is not");
	disk_drain(disk);
	return disk->drv->grow(disk, size, err);
}

int disk_set_limits(struct disk *disk, const struct disk_limits *limits, struct err *err)
{
	if (!disk->throttle)
		return throttle_new(disk, disk->loop, limits, err);
	throttle_set(disk->throttle, limits);
	return 0;
}

void disk_kick(struct disk *disk)
{
	aio_kick(disk->aio);
}

void disk_drain(struct disk *disk)
{
	uint64_t hurry_ns = clock_now_ns() + DRAIN_PATIENCE_NS;

	while (atomic_load_explicit(&disk->inflight, memory_order_acquire)) {
		if (disk->throttle)
			throttle_release(disk->throttle);
		aio_wait(disk->aio);
		if (hurry_ns && clock_now_ns() > hurry_ns) {
			aio_hurry(disk->aio);
			hurry_ns = 0;
		}
	}
}

int image_format(struct file *file, const char *what, const char *path, enum disk_format format,
		 enum disk_format *ret_format, struct err *err)
{
	size_t len = strlen(path);
	bool named = len > 6 && !strcmp(path + len - 6, ".qcow2"), is;
	uint8_t head[DISK_SECTOR];
	int ret;

	*ret_format = format;
	if (format != DISK_FORMAT_AUTO)
		return 0;
	ret = file_rw_now(file, false, head, sizeof(head), 0);
	if (ret < 0)
		return err_set(err, -ret, "%s '%s': cannot read it: %s", what, path,
			       strerror(-ret));
	is = get_be32(head) == QCOW2_MAGIC;
	if (is && !named)
		return err_set(
		    err, EINVAL,
		    "%s '%s': begins like a qcow2 image but is not named .qcow2: say "
		    "format=qcow2 if you made it, format=raw if a guest may have written "
		    "that",
		    what, path);
	if (named && !is)
		return err_set(err, EINVAL,
			       "%s '%s': is named .qcow2 but is no qcow2 image: say format=raw if "
			       "it is a raw one",
			       what, path);
	*ret_format = is ? DISK_FORMAT_QCOW2 : DISK_FORMAT_RAW;
	return 0;
}

static int open_image(struct disk *disk, const char *path, const struct disk_options *opt,
		      struct err *err)
{
	enum disk_format format;
	struct file file;
	unsigned block;
	int ret;

	if (nbd_uri_is(path))
		return nbd_open(disk, path, opt, err);
	ret = file_open(&file, path, opt, &block, err);
	if (ret < 0)
		return ret;
	file.aio = disk->aio;
	ret = image_format(&file, "disk", path, opt->format, &format, err);
	if (ret == 0 && opt->internal && format != DISK_FORMAT_QCOW2)
		ret = err_set(err, EINVAL, "disk '%s': a raw image has no snapshots", path);
	if (ret < 0) {
		close(file.fd);
		return ret;
	}
	return format == DISK_FORMAT_QCOW2 ? qcow2_open(disk, path, &file, block, opt, err)
					   : raw_open(disk, path, &file, block, opt, err);
}

int disk_open(struct loop *loop, const char *path, const struct disk_options *opt,
	      struct disk **ret_disk, struct err *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int ret;

	if (!disk)
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	disk->no_discard = opt->no_discard;
	disk->loop = loop;
	disk->sector = DISK_SECTOR;
	ret = aio_new(loop, opt->engine, &disk->aio, err);
	if (ret == 0 && (opt->limits.iops || opt->limits.bps))
		ret = throttle_new(disk, loop, &opt->limits, err);
	if (ret < 0) {
		err_prefix(err, ret, "disk '%s'", path);
		goto out;
	}
	ret = open_image(disk, path, opt, err);
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

int disk_close_checked(struct disk *disk, struct err *err)
{
	int ret = 0;

	if (!disk)
		return 0;
	if (disk->aio)
		disk_drain(disk);
	if (disk->drv)
		ret = disk->drv->close(disk, err);
	throttle_free(disk->throttle);
	aio_free(disk->aio);
	free(disk);
	return ret;
}

void disk_close(struct disk *disk)
{
	struct err err = { "" };

	if (disk_close_checked(disk, &err) < 0)
		log_error("%s", err.text);
}

int disk_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	return disk->drv->next_data(disk, off, ret_start, ret_end);
}

enum disk_format disk_format(const struct disk *disk)
{
	return disk->format;
}

bool disk_discards(const struct disk *disk)
{
	return !disk->no_discard;
}

uint64_t disk_size(const struct disk *disk)
{
	return disk->size;
}

bool disk_readonly(const struct disk *disk)
{
	return disk->readonly;
}

unsigned disk_sector(const struct disk *disk)
{
	return disk->sector;
}

unsigned disk_block_size(const struct disk *disk)
{
	return disk->block_size;
}

enum aio_engine disk_engine(const struct disk *disk)
{
	return aio_engine(disk->aio);
}
