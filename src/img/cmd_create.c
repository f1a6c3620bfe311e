/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img create [--format raw|qcow2] FILE SIZE */
#include <getopt.h>

#include "base/util.h"
#include "img/img.h"

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct img_new *n = arg;

	return letter == 'f' ? img_format(value, &n->format, err)
			     : img_new_option(n, letter, value, err);
}

static int create_raw(const char *path, const struct img_new *n, struct err *err)
{
	struct file file;
	bool made;
	int ret = img_new_file(path, n->force, &file, &made, err);

	if (ret < 0)
		return ret;
	if (ftruncate(file.fd, (off_t)n->q.size) < 0)
		ret = err_set(err, errno, "file '%s': %s", path, strerror(errno));
	close(file.fd);
	if (ret < 0 && made)
		unlink(path);
	return ret;
}

int cmd_create(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "format", required_argument, NULL, 'f' },
						 IMG_NEW_OPTIONS,
						 { 0 } };
	struct img_new n = IMG_NEW_DEFAULTS;
	int at, ret = img_options(argc, argv, "f:", options, take, &n, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 2)
		return img_usage(err, "create: wants a file and a size");
	ret = img_size(argv[at + 1], &n.q.size, err);
	if (ret < 0)
		return ret;
	n.q.size = align_up(n.q.size, DISK_SECTOR);
	if (n.format == DISK_FORMAT_AUTO)
		n.format = img_by_name(argv[at]);
	return n.format == DISK_FORMAT_QCOW2 ? img_create_qcow2(argv[at], &n, err)
					     : create_raw(argv[at], &n, err);
}
