/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-img resize [--shrink] [-f FORMAT] FILE [+|-]SIZE
 *
 * What an overlay gains must be zeros, although its backing file may be longer: those are written.
 */
#include <getopt.h>
#include <stdio.h>

#include "base/util.h"
#include "disk/qcow2_edit.h"
#include "img/img.h"

struct resize_args {
	enum disk_format format;
	bool shrink;
};

struct zero_req {
	struct disk_req req;
	int ret;
};

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct resize_args *a = arg;

	if (letter == 'f')
		return img_format(value, &a->format, err);
	a->shrink = true;
	return 0;
}

static int new_size(const char *text, uint64_t old, uint64_t *ret_size, struct err *err)
{
	bool plus = text[0] == '+', minus = text[0] == '-';
	uint64_t n;
	int ret = img_size(text + (plus || minus), &n, err);

	if (ret < 0)
		return ret;
	if (minus && n >= old)
		return img_usage(err, "size '%s': nothing would be left", text);
	*ret_size = align_up(plus ? old + n : minus ? old - n : n, DISK_SECTOR);
	if (!*ret_size || *ret_size > INT64_MAX / 2)
		return img_usage(err, "size '%s': no possible size", text);
	return 0;
}

static void zero_done(struct disk_req *req, int ret)
{
	container_of(req, struct zero_req, req)->ret = ret;
}

static int zero_gain(const char *path, uint64_t from, struct err *err)
{
	struct disk_options opt = { .format = DISK_FORMAT_QCOW2 };
	struct zero_req z = { .ret = 0 };
	struct loop *loop = NULL;
	struct disk *disk = NULL;
	int ret = loop_new(&loop, err);

	if (ret == 0)
		ret = disk_open(loop, path, &opt, &disk, err);
	if (ret == 0) {
		z.req = (struct disk_req) { .op = DISK_WRITE_ZEROES,
					    .flags = DISK_REQ_UNMAP,
					    .off = from,
					    .len = disk_size(disk) - from,
					    .done = zero_done };
		disk_queue(disk, &z.req);
		disk_kick(disk);
		disk_drain(disk);
		ret = z.ret;
		if (ret < 0)
			err_set(err, -ret, "disk '%s': cannot write zeros at its end: %s", path,
				strerror(-ret));
		if (ret == 0)
			ret = disk_close_checked(disk, err);
		else
			disk_close(disk);
	}
	loop_free(loop);
	return ret;
}

static int check_shrink(const struct resize_args *a, const char *path, uint64_t old, uint64_t size,
			struct err *err)
{
	if (size < old && !a->shrink)
		return err_set(err, EINVAL,
			       "disk '%s': would lose what is behind the new end; --shrink if that "
			       "is meant",
			       path);
	return 0;
}

static int resize_qcow2(const struct resize_args *a, const char *path, const char *text,
			struct file *file, struct err *err)
{
	struct qcow2_header h;
	uint64_t size = 0;
	char what[300];
	int ret;

	snprintf(what, sizeof(what), "disk '%.280s'", path);
	ret = qcow2_header_read(file, what, &h, err);
	if (ret == 0)
		ret = new_size(text, h.size, &size, err);
	if (ret == 0)
		ret = check_shrink(a, path, h.size, size, err);
	if (ret == 0)
		ret = qcow2_resize(file, what, size, err);
	close(file->fd);
	if (ret == 0 && size > h.size && h.has_backing)
		ret = zero_gain(path, align_up(h.size, DISK_SECTOR), err);
	return ret;
}

static int resize_raw(const struct resize_args *a, const char *path, const char *text,
		      struct file *file, struct err *err)
{
	uint64_t size = 0;
	int ret = new_size(text, file->eof, &size, err);

	if (ret == 0)
		ret = check_shrink(a, path, file->eof, size, err);
	if (ret == 0 && ftruncate(file->fd, (off_t)size) < 0)
		ret = err_set(err, errno, "disk '%s': %s", path, strerror(errno));
	close(file->fd);
	return ret;
}

int cmd_resize(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "format", required_argument, NULL, 'f' },
						 { "shrink", no_argument, NULL, 's' },
						 { 0 } };
	struct resize_args a = { 0 };
	enum disk_format format;
	struct file file;
	/* "+" first: an argument such as -1G is no option. */
	int at, ret = img_options(argc, argv, "+f:", options, take, &a, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 2)
		return img_usage(err, "resize: wants a file and a size");
	ret = img_open_file(argv[at], true, a.format, &file, &format, err);
	if (ret < 0)
		return ret;
	return format == DISK_FORMAT_QCOW2 ? resize_qcow2(&a, argv[at], argv[at + 1], &file, err)
					   : resize_raw(&a, argv[at], argv[at + 1], &file, err);
}
