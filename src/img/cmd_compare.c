/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img compare [-f FORMAT] [-F FORMAT] A B */
#include <getopt.h>
#include <stdio.h>

#include "base/util.h"
#include "img/img.h"

#define CHUNK MIB(2)

struct compare_args {
	enum disk_format format[2];
};

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct compare_args *a = arg;

	return img_format(value, &a->format[letter == 'F'], err);
}

/* Where the next data is in one of the two; both have zeros until there. */
static uint64_t next_data(struct disk *disk[2], uint64_t off, uint64_t size)
{
	uint64_t best = size, start, end;

	for (unsigned i = 0; i < 2; i++) {
		int ret = disk_next_data(disk[i], off, &start, &end);

		if (ret == 0)
			best = min_u64(best, start);
		else if (ret != -ENXIO)
			return off;
	}
	return max_u64(best, off);
}

static int compare(struct disk *disk[2], char **names, struct err *err)
{
	_cleanup_free_ uint8_t *buf = malloc(2 * CHUNK);
	uint64_t size = min_u64(disk_size(disk[0]), disk_size(disk[1])), len;

	if (!buf)
		return err_set(err, ENOMEM, "out of memory");
	for (uint64_t off = next_data(disk, 0, size); off < size;
	     off = next_data(disk, off + len, size)) {
		len = min_u64(CHUNK, size - off);
		for (unsigned i = 0; i < 2; i++) {
			int ret = img_read(disk[i], off, len, buf + i * CHUNK);

			if (ret < 0)
				return err_set(err, -ret, "disk '%s': reading at %llu: %s",
					       names[i], (unsigned long long)off, strerror(-ret));
		}
		for (uint64_t i = 0; i < len; i++) {
			if (!memcmp(buf + i, buf + CHUNK + i, min_u64(4096, len - i))) {
				i += 4095;
				continue;
			}
			if (buf[i] == buf[CHUNK + i])
				continue;
			printf("the contents differ at byte %llu\n", (unsigned long long)(off + i));
			return IMG_NO;
		}
		img_progress("compare", off + len, size);
	}
	if (disk_size(disk[0]) != disk_size(disk[1])) {
		printf("the sizes differ: %llu and %llu bytes\n",
		       (unsigned long long)disk_size(disk[0]),
		       (unsigned long long)disk_size(disk[1]));
		return IMG_NO;
	}
	puts("the contents are the same");
	return IMG_GOOD;
}

int cmd_compare(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { 0 } };
	struct compare_args a = { 0 };
	struct disk *disk[2] = { NULL, NULL };
	struct loop *loop = NULL;
	int at, ret = img_options(argc, argv, "f:F:", options, take, &a, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 2)
		return img_usage(err, "compare: wants two files");
	ret = loop_new(&loop, err);
	for (unsigned i = 0; i < 2 && ret == 0; i++) {
		struct disk_options opt = { .readonly = true, .format = a.format[i] };

		ret = disk_open(loop, argv[at + (int)i], &opt, &disk[i], err);
	}
	if (ret == 0)
		ret = compare(disk, argv + at, err);
	disk_close(disk[0]);
	disk_close(disk[1]);
	loop_free(loop);
	return ret;
}
