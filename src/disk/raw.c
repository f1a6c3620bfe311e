/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: the file's bytes are the disk's. Regular files and block
 * devices; a flush is fdatasync. Opening a file is here for all formats.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/util.h"
#include "disk/driver.h"

static int raw_close(struct disk *disk, struct err *err)
{
	struct file *file = disk->priv;

	close(file->fd);
	free(file);
	return 0;
}

static void raw_start(struct disk *disk, struct disk_req *req)
{
	file_start(disk->priv, req, req->off, req->len, disk_complete);
}

static int raw_read_now(void *priv, const struct disk_req *req)
{
	return file_read_now(priv, req->iov, req->iov_count, req->off, req->len);
}

static void raw_read(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		     void (*done)(struct disk_req *req, int ret))
{
	file_start(priv, req, off, len, done);
}

static int raw_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	return file_next_data(disk->priv, off, disk->size, ret_start, ret_end);
}

/* What lies behind the end of the file reads as zeros, and a write makes it longer. */
static int raw_grow(struct disk *disk, uint64_t size, struct err *err)
{
	struct file *file = disk->priv;
	uint64_t host;
	struct stat st;

	/* sandbox: loop: newfstatat(*, *, *, AT_EMPTY_PATH), ioctl(*, BLKGETSIZE64), ftruncate */
	if (fstat(file->fd, &st) < 0)
		return err_set(err, errno, "%s", strerror(errno));
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(file->fd, BLKGETSIZE64, &host) < 0 || host < size)
			return err_set(err, ENOSPC, "the block device is smaller than that");
	} else if ((uint64_t)st.st_size < size && ftruncate(file->fd, (off_t)size) < 0) {
		return err_set(err, errno, "%s", strerror(errno));
	}
	file->eof = size;
	disk->size = size;
	return 0;
}

static const struct disk_driver raw_driver = {
	.grow = raw_grow,
	.start = raw_start,
	.read_now = raw_read_now,
	.read = raw_read,
	.next_data = raw_next_data,
	.close = raw_close,
};

int file_next_data(const struct file *file, uint64_t off, uint64_t size, uint64_t *ret_start,
		   uint64_t *ret_end)
{
	off_t start, end;

	if (off >= size || off >= file->eof)
		return -ENXIO;
	start = lseek(file->fd, (off_t)off, SEEK_DATA);
	if (start < 0 && errno == ENXIO)
		return -ENXIO;
	if (start < 0) { /* a file system or device that does not tell */
		*ret_start = off;
		*ret_end = size;
		return 0;
	}
	end = lseek(file->fd, start, SEEK_HOLE);
	*ret_start = align_down((uint64_t)start, DISK_SECTOR);
	*ret_end = end < 0 ? size : min_u64(align_up((uint64_t)end, DISK_SECTOR), size);
	return *ret_start < size ? 0 : -ENXIO;
}

static int image_size(int fd, const char *path, uint64_t *ret_size, unsigned *ret_block,
		      struct err *err)
{
	struct stat st;

	/* sandbox: loop: newfstatat(*, *, *, AT_EMPTY_PATH), ioctl(*, BLKGETSIZE64) */
	if (fstat(fd, &st) < 0)
		return err_set(err, errno, "disk '%s': %s", path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		*ret_size = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, ret_size) < 0)
			return err_set(err, errno, "disk '%s': size unknown: %s", path,
				       strerror(errno));
	} else {
		return err_set(err, EINVAL, "disk '%s': neither a file nor a block device", path);
	}
	if (*ret_size > INT64_MAX - DISK_SECTOR)
		return err_set(err, EFBIG, "disk '%s': the image is too big", path);
	*ret_block = DISK_SECTOR;
	while (*ret_block < st.st_blksize && *ret_block < KIB(64))
		*ret_block *= 2;
	return 0;
}

/* Direct I/O is set when the file is open and found good: some file systems have none, some
 * storage has blocks that sectors of ours do not fill. */
static int go_direct(int fd, const char *path, struct err *err)
{
	void *buf = NULL;
	ssize_t n;

	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) < 0)
		return err_set(err, errno,
			       "disk '%s': cache=none: this file system has no direct I/O", path);
	if (posix_memalign(&buf, PAGE_SIZE, PAGE_SIZE))
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	n = pread(fd, (uint8_t *)buf + DISK_SECTOR, DISK_SECTOR, DISK_SECTOR);
	free(buf);
	if (n < 0)
		return err_set(err, errno,
			       "disk '%s': cache=none: the storage below cannot transfer sectors "
			       "of 512 bytes: %s",
			       path, strerror(errno));
	return 0;
}

/* A descriptor of our own for a file that somebody else has opened. */
static int take_fd(int fd, bool writable)
{
	/* sandbox: loop: fcntl(*, F_GETFL), fcntl(*, F_DUPFD_CLOEXEC) */
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && (flags & O_ACCMODE) != (writable ? O_RDWR : O_RDONLY) &&
	    (writable || (flags & O_ACCMODE) != O_RDWR)) {
		errno = EACCES;
		return -1;
	}
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

int file_open(struct file *file, const char *path, const struct disk_options *opt,
	      unsigned *ret_block, struct err *err)
{
	bool writable = !opt->readonly && !opt->snapshot;
	_cleanup_close_ int fd = -1;
	int ret;

	*file = (struct file) { .fd = -1 };
	/* O_NONBLOCK: a FIFO must not hold us up before it is refused. */
	fd = opt->has_fd
		 ? take_fd(opt->fd, writable)
		 : open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return err_set(err, errno, "disk '%s': cannot open it%s: %s", path,
			       writable && (errno == EACCES || errno == EROFS || errno == EPERM)
				   ? " for writing"
				   : "",
			       strerror(errno));
	ret = image_size(fd, path, &file->eof, ret_block, err);
	if (ret < 0)
		return ret;
	/* sandbox: loop: fcntl(*, F_SETFL), fcntl(*, F_GETFL) */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	ret = image_lock(fd, path, writable, err);
	if (ret == 0 && opt->cache == DISK_CACHE_NONE)
		ret = go_direct(fd, path, err);
	if (ret < 0)
		return ret;
	file->direct = opt->cache == DISK_CACHE_NONE;
	file->unsafe = opt->cache == DISK_CACHE_UNSAFE;
	file->fd = fd;
	fd = -1;
	return 0;
}

int raw_open(struct disk *disk, const char *path, struct file *file, unsigned block,
	     const struct disk_options *opt, struct err *err)
{
	struct file *own;

	if (!file->eof) {
		close(file->fd);
		return err_set(err, EINVAL, "disk '%s': the image is empty", path);
	}
	own = calloc(1, sizeof(*own));
	if (!own) {
		close(file->fd);
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	}
	*own = *file;
	own->aio = disk->aio;
	disk->priv = own;
	disk->drv = &raw_driver;
	disk->size = align_up(own->eof, DISK_SECTOR);
	disk->block_size = block;
	disk->readonly = opt->readonly || opt->snapshot;
	disk->format = DISK_FORMAT_RAW;
	return 0;
}
