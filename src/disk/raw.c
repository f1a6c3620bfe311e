/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw images: the file's bytes are the disk's. Regular files and block
 * devices, through the page cache; a flush is fdatasync.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/util.h"
#include "disk/driver.h"

static void raw_close(struct disk *disk)
{
	struct file *file = disk->priv;

	close(file->fd);
	free(file);
}

static void raw_start(struct disk *disk, struct disk_req *req)
{
	file_start(disk->priv, req, req->off, req->len, disk_complete);
}

static int raw_read_now(struct disk *disk, const struct disk_req *req)
{
	return file_read_now(disk->priv, req->iov, req->iov_count, req->off, req->len);
}

static const struct disk_driver raw_driver = {
	.start = raw_start,
	.read_now = raw_read_now,
	.close = raw_close,
};

static int image_size(int fd, const char *path, uint64_t *ret_size, unsigned *ret_block,
		      struct err *err)
{
	struct stat st;

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
	if (!*ret_size)
		return err_set(err, EINVAL, "disk '%s': the image is empty", path);
	if (*ret_size > INT64_MAX - DISK_SECTOR)
		return err_set(err, EFBIG, "disk '%s': the image is too big", path);
	*ret_block = DISK_SECTOR;
	while (*ret_block < st.st_blksize && *ret_block < KIB(64))
		*ret_block *= 2;
	return 0;
}

int raw_open(struct disk *disk, const char *path, const struct disk_options *opt, struct err *err)
{
	bool writable = !opt->readonly && !opt->snapshot;
	_cleanup_close_ int fd = -1;
	struct file *file;
	uint64_t size;
	int ret;

	/* O_NONBLOCK: a FIFO must not hold us up before it is refused. */
	fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return err_set(err, errno, "disk '%s': cannot open it%s: %s", path,
			       writable && (errno == EACCES || errno == EROFS || errno == EPERM)
				   ? " for writing"
				   : "",
			       strerror(errno));
	ret = image_size(fd, path, &size, &disk->block_size, err);
	if (ret < 0)
		return ret;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	ret = image_lock(fd, path, writable, err);
	if (ret < 0)
		return ret;

	file = calloc(1, sizeof(*file));
	if (!file)
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	file->aio = disk->aio;
	file->fd = fd;
	file->eof = size;
	fd = -1;
	disk->priv = file;
	disk->drv = &raw_driver;
	disk->size = align_up(size, DISK_SECTOR);
	disk->readonly = !writable;
	return 0;
}
