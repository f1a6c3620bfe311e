/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img snapshot list|create|apply|delete FILE [NAME] */
#include <getopt.h>
#include <stdio.h>
#include <time.h>

#include "base/parse.h"
#include "base/util.h"
#include "disk/qcow2_edit.h"
#include "img/img.h"

static int list(struct file *file, const char *what, struct err *err)
{
	struct qcow2_snapshots all;
	struct qcow2_header h;
	char when[32], size[32];
	int ret = qcow2_header_read(file, what, &h, err);

	if (ret == 0)
		ret = qcow2_snapshots_read(file, what, &h, &all, err);
	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < all.count; i++) {
		time_t t = all.list[i].date_s;
		struct tm tm;

		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
		printf("%-4s %-24s %s %10s\n", all.list[i].id, all.list[i].name, when,
		       size_format(all.list[i].size, size, sizeof(size)));
	}
	qcow2_snapshots_done(&all);
	return IMG_GOOD;
}

static int take(void *arg, int letter, const char *value, struct err *err)
{
	return img_format(value, arg, err);
}

int cmd_snapshot(int argc, char **argv, struct err *err)
{
	static const struct {
		const char *name;
		int (*run)(struct file *file, const char *what, const char *name, struct err *err);
	} verbs[] = { { "create", qcow2_snapshot_create },
		      { "apply", qcow2_snapshot_apply },
		      { "delete", qcow2_snapshot_delete } };
	static const struct option options[] = { { "format", required_argument, NULL, 'f' },
						 { 0 } };
	enum disk_format format = DISK_FORMAT_AUTO;
	struct file file;
	char what[300];
	bool lists;
	int at, ret = img_options(argc, argv, "f:", options, take, &format, &at, err);

	if (ret < 0)
		return ret;
	lists = argc - at == 2 && !strcmp(argv[at], "list");
	if (!lists && argc - at != 3)
		return img_usage(err, "snapshot: wants list and a file, or create, apply or delete "
				      "with a file and a name");
	ret = img_open_file(argv[at + 1], !lists, format, &file, &format, err);
	if (ret < 0)
		return ret;
	snprintf(what, sizeof(what), "disk '%.280s'", argv[at + 1]);
	if (format != DISK_FORMAT_QCOW2)
		ret = err_set(err, ENOTSUP, "%s: a raw image has no snapshots", what);
	else if (lists)
		ret = list(&file, what, err);
	else
		ret = img_usage(err, "snapshot: '%s': not one of list, create, apply, delete",
				argv[at]);
	for (unsigned i = 0; format == DISK_FORMAT_QCOW2 && i < ARRAY_SIZE(verbs); i++)
		if (!lists && !strcmp(argv[at], verbs[i].name))
			ret = verbs[i].run(&file, what, argv[at + 2], err);
	close(file.fd);
	return ret;
}
