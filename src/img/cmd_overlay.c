/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-img overlay -b BACKING [-F FORMAT] FILE [SIZE]
 *
 * The backing file's format is always told in the overlay, so that nobody ever has to guess it.
 */
#include <getopt.h>
#include <stdio.h>

#include "base/util.h"
#include "img/img.h"

struct overlay_args {
	struct img_new n;
	const char *backing;
	enum disk_format backing_format;
};

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct overlay_args *a = arg;

	if (letter == 'b')
		a->backing = value;
	else if (letter == 'F')
		return img_format(value, &a->backing_format, err);
	else
		return img_new_option(&a->n, letter, value, err);
	return 0;
}

/* As the disk will find it: relative to the overlay's folder */
static int open_backing(struct overlay_args *a, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	struct disk_options opt = { .readonly = true, .format = a->backing_format };
	struct loop *loop = NULL;
	struct disk *disk = NULL;
	char *full = NULL;
	int ret = loop_new(&loop, err);

	if (ret < 0)
		return ret;
	if (!slash || a->backing[0] == '/')
		full = strdup(a->backing);
	else if (asprintf(&full, "%.*s/%s", (int)(slash - path), path, a->backing) < 0)
		full = NULL;
	ret =
	    full ? disk_open(loop, full, &opt, &disk, err) : err_set(err, ENOMEM, "out of memory");
	if (ret == 0) {
		a->n.q.backing_format = img_format_name(disk_format(disk));
		if (!a->n.q.size)
			a->n.q.size = disk_size(disk);
		disk_close(disk);
	}
	free(full);
	loop_free(loop);
	return ret;
}

int cmd_overlay(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "backing", required_argument, NULL, 'b' },
						 { "backing-format", required_argument, NULL, 'F' },
						 IMG_NEW_OPTIONS,
						 { 0 } };
	struct overlay_args a = { .n = IMG_NEW_DEFAULTS };
	int at, ret = img_options(argc, argv, "b:F:", options, take, &a, &at, err);

	if (ret < 0)
		return ret;
	if (!a.backing || argc - at < 1 || argc - at > 2)
		return img_usage(err, "overlay: wants -b and the backing file, and a file");
	if (argc - at == 2)
		ret = img_size(argv[at + 1], &a.n.q.size, err);
	if (ret == 0)
		ret = open_backing(&a, argv[at], err);
	if (ret < 0)
		return ret;
	a.n.q.size = align_up(a.n.q.size, DISK_SECTOR);
	a.n.q.backing = a.backing;
	return img_create_qcow2(argv[at], &a.n, err);
}
