/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Temporary overlay (the `snapshot` option)
 *
 * Writes go to a nameless sparse file in $TMPDIR (/var/tmp unless set), at the
 * offset they have in the image; a bitmap with one bit a sector tells which
 * sectors stand there. As no unit is coarser than a sector, a write never has to
 * copy its neighbours, and concurrent writes have nothing in common but words
 * of the bitmap. The bitmap is a sparse anonymous mapping: what is not written
 * costs nothing.
 *
 * Invariants
 * 1. A set bit: the sector's data is in the overlay. Bits are only ever set,
 *    after the data has arrived and before the request completes.
 * 2. A clear bit: nobody was told that a write of the sector succeeded. The
 *    overlay may hold parts of failed writes there; nothing reads them.
 *
 * A read is cut into runs of equal bits, one after another. Discarded and
 * zeroed sectors count as written: the overlay has (or gets) holes there. A
 * flush does nothing: all is gone with the process anyhow.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/util.h"
#include "disk/driver.h"

struct overlay {
	const struct disk_driver *base_drv;
	void *base_priv;
	struct file file;
	_Atomic uint64_t *bits;
	size_t bits_len;
};

static bool bit_get(const struct overlay *ov, uint64_t sector)
{
	return atomic_load_explicit(&ov->bits[sector / 64], memory_order_acquire) >> (sector % 64) &
	       1;
}

static void bits_set(struct overlay *ov, uint64_t sector, uint64_t count)
{
	while (count) {
		unsigned bit = sector % 64;
		uint64_t n = min_u64(64 - bit, count);
		uint64_t mask = (n == 64 ? ~0ull : (1ull << n) - 1) << bit;

		atomic_fetch_or_explicit(&ov->bits[sector / 64], mask, memory_order_release);
		sector += n;
		count -= n;
	}
}

/* Length in sectors of the run of equal bits from @sector, at most @max. */
static uint64_t run_length(const struct overlay *ov, uint64_t sector, uint64_t max)
{
	uint64_t flip = bit_get(ov, sector) ? ~0ull : 0, n = 0;

	while (n < max) {
		unsigned bit = (sector + n) % 64;
		uint64_t word =
		    atomic_load_explicit(&ov->bits[(sector + n) / 64], memory_order_acquire);
		uint64_t other = (word ^ flip) >> bit;

		if (other)
			return min_u64(n + (uint64_t)__builtin_ctzll(other), max);
		n += 64 - bit;
	}
	return max;
}

static void read_next(struct disk_req *req);

static void read_done(struct disk_req *req, int ret)
{
	req->pos += req->run;
	if (ret < 0 || req->pos == req->len)
		disk_complete(req, ret);
	else
		read_next(req);
}

static void read_next(struct disk_req *req)
{
	struct overlay *ov = req->disk->priv;
	uint64_t off = req->off + req->pos, sector = off / DISK_SECTOR;

	req->run = run_length(ov, sector, (req->len - req->pos) / DISK_SECTOR) * DISK_SECTOR;
	if (bit_get(ov, sector))
		file_start(&ov->file, req, off, req->run, read_done);
	else
		ov->base_drv->read(ov->base_priv, req, off, req->run, read_done);
}

static void write_done(struct disk_req *req, int ret)
{
	if (ret == 0)
		bits_set(req->disk->priv, req->off / DISK_SECTOR, req->len / DISK_SECTOR);
	disk_complete(req, ret);
}

static void overlay_start(struct disk *disk, struct disk_req *req)
{
	struct overlay *ov = disk->priv;

	switch (req->op) {
	case DISK_READ:
		req->pos = 0;
		if (req->len)
			read_next(req);
		else
			file_start(&ov->file, req, 0, 0, disk_complete);
		break;
	case DISK_DISCARD:
		/* Where holes cannot be punched nothing would happen: the old data must stay
		 * visible then. */
		req->op = DISK_WRITE_ZEROES;
		req->flags |= DISK_REQ_UNMAP;
		file_start(&ov->file, req, req->off, req->len, write_done);
		break;
	case DISK_WRITE:
	case DISK_WRITE_ZEROES:
		req->flags |= DISK_REQ_UNMAP; /* the space is not worth keeping */
		file_start(&ov->file, req, req->off, req->len, write_done);
		break;
	case DISK_FLUSH:
		req->op = DISK_READ; /* of nothing */
		file_start(&ov->file, req, 0, 0, disk_complete);
		break;
	}
}

/* Only what lies wholly in one of the files. */
static int overlay_read_now(void *priv, const struct disk_req *req)
{
	struct overlay *ov = priv;
	uint64_t sector = req->off / DISK_SECTOR, count = req->len / DISK_SECTOR;

	if (run_length(ov, sector, count) != count)
		return -EAGAIN;
	if (!bit_get(ov, sector))
		return ov->base_drv->read_now(ov->base_priv, req);
	return file_read_now(&ov->file, req->iov, req->iov_count, req->off, req->len);
}

static void overlay_free(struct overlay *ov)
{
	if (ov->bits)
		munmap((void *)ov->bits, ov->bits_len);
	if (ov->file.fd >= 0)
		close(ov->file.fd);
	free(ov);
}

static int overlay_close(struct disk *disk, struct err *err)
{
	struct overlay *ov = disk->priv;
	int ret;

	disk->priv = ov->base_priv;
	ret = ov->base_drv->close(disk, err);
	overlay_free(ov);
	return ret;
}

/* Nobody copies from a disk that is about to vanish: no need to look closely. */
static int overlay_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start,
			     uint64_t *ret_end)
{
	*ret_start = off;
	*ret_end = disk->size;
	return off < disk->size ? 0 : -ENXIO;
}

static const struct disk_driver overlay_driver = {
	.start = overlay_start,
	.read_now = overlay_read_now,
	.next_data = overlay_next_data,
	.close = overlay_close,
};

static int temporary_file(const char *dir)
{
	char path[4096];
	int fd;

	fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd < 0 ? -errno : fd;
	if (snprintf(path, sizeof(path), "%s/eyot-overlay-XXXXXX", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	unlink(path);
	return fd;
}

int overlay_open(struct disk *disk, struct err *err)
{
	const char *dir = getenv("TMPDIR");
	struct overlay *ov = calloc(1, sizeof(*ov));

	if (!ov)
		return err_set(err, ENOMEM, "snapshot: out of memory");
	if (!dir || !*dir)
		dir = "/var/tmp";
	ov->file.aio = disk->aio;
	ov->file.fd = temporary_file(dir);
	if (ov->file.fd < 0) {
		int ret = err_set(err, -ov->file.fd, "snapshot: no temporary file in '%s': %s", dir,
				  strerror(-ov->file.fd));

		overlay_free(ov);
		return ret;
	}
	ov->bits_len = align_up((disk->size / DISK_SECTOR + 63) / 64 * 8, PAGE_SIZE);
	ov->bits = mmap(NULL, ov->bits_len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ov->bits == MAP_FAILED) {
		int ret = err_set(err, errno, "snapshot: no room for the map of %zu bytes: %s",
				  ov->bits_len, strerror(errno));

		ov->bits = NULL;
		overlay_free(ov);
		return ret;
	}
	ov->base_drv = disk->drv;
	ov->base_priv = disk->priv;
	disk->drv = &overlay_driver;
	disk->priv = ov;
	disk->readonly = false;
	return 0;
}
