/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs share: options, sizes, opening and making files, reading, the progress bar. */
#include "img/img.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/parse.h"
#include "base/util.h"

int img_usage(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

int img_options(int argc, char **argv, const char *letters, const struct option *spec,
		int (*take)(void *arg, int letter, const char *value, struct err *err), void *arg,
		int *ret_rest, struct err *err)
{
	int letter, ret;

	opterr = 0;
	optind = 1;
	while ((letter = getopt_long(argc, argv, letters, spec, NULL)) != -1) {
		if (letter == '?' || letter == ':')
			return img_usage(err,
					 "%s: option '%s': unknown, or its value is missing; "
					 "see eyot-img --help",
					 argv[0], argv[optind - 1]);
		ret = take(arg, letter, optarg, err);
		if (ret < 0)
			return ret;
	}
	*ret_rest = optind;
	return 0;
}

int img_format(const char *text, enum disk_format *ret, struct err *err)
{
	if (!strcmp(text, "raw"))
		*ret = DISK_FORMAT_RAW;
	else if (!strcmp(text, "qcow2"))
		*ret = DISK_FORMAT_QCOW2;
	else
		return img_usage(err, "format '%s': neither raw nor qcow2", text);
	return 0;
}

int img_size(const char *text, uint64_t *ret_bytes, struct err *err)
{
	if (size_parse(text, ret_bytes) < 0 || *ret_bytes > INT64_MAX - DISK_SECTOR)
		return img_usage(err, "size '%s': not a size such as 512M or 20G", text);
	return 0;
}

int img_compression(const char *text, enum qcow2_compression *ret, struct err *err)
{
	if (!strcmp(text, "zlib"))
		*ret = QCOW2_ZLIB;
	else if (!strcmp(text, "zstd"))
		*ret = QCOW2_ZSTD;
	else
		return img_usage(err, "compression '%s': neither zlib nor zstd", text);
	return 0;
}

const char *img_format_name(enum disk_format format)
{
	return format == DISK_FORMAT_QCOW2 ? "qcow2" : "raw";
}

enum disk_format img_by_name(const char *path)
{
	size_t len = strlen(path);

	return len > 6 && !strcmp(path + len - 6, ".qcow2") ? DISK_FORMAT_QCOW2 : DISK_FORMAT_RAW;
}

int img_open_file(const char *path, bool writable, enum disk_format format, struct file *file,
		  enum disk_format *ret_format, struct err *err)
{
	struct disk_options opt = { .readonly = !writable };
	unsigned block;
	int ret = file_open(file, path, &opt, &block, err);

	if (ret < 0)
		return ret;
	ret = image_format(file, "disk", path, format, ret_format, err);
	if (ret < 0) {
		close(file->fd);
		file->fd = -1;
	}
	return ret;
}

int img_new_file(const char *path, bool force, struct file *file, bool *ret_made, struct err *err)
{
	struct disk_options opt = { 0 };
	unsigned block;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), ret;

	*file = (struct file) { .fd = -1 };
	*ret_made = fd >= 0;
	if (fd < 0 && errno == EEXIST && !force)
		return err_set(err, EEXIST, "file '%s': exists; --force overwrites it", path);
	if (fd < 0 && errno != EEXIST)
		return err_set(err, errno, "file '%s': %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	ret = file_open(file, path, &opt, &block, err);
	if (ret == 0 && !*ret_made && ftruncate(file->fd, 0) < 0 && errno != EINVAL) {
		ret = err_set(err, errno, "file '%s': %s", path, strerror(errno));
		close(file->fd);
		file->fd = -1;
	}
	if (ret < 0 && *ret_made)
		unlink(path);
	return ret;
}

struct read_req {
	struct disk_req req;
	int ret;
};

static void read_done(struct disk_req *req, int ret)
{
	container_of(req, struct read_req, req)->ret = ret;
}

int img_read(struct disk *disk, uint64_t off, uint64_t len, void *buf)
{
	struct iovec iov = { buf, len };
	struct read_req r = { .req = { .op = DISK_READ,
				       .off = off,
				       .len = len,
				       .iov = &iov,
				       .iov_count = 1,
				       .done = read_done } };

	disk_queue(disk, &r.req);
	disk_kick(disk);
	disk_drain(disk);
	return r.ret;
}

bool img_is_zero(const void *buf, size_t len)
{
	const uint8_t *p = buf;

	/* Each byte equals the one before it, and the first is zero. */
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

void img_progress(const char *what, uint64_t done, uint64_t total)
{
	static int shown = -1;
	int percent = total ? (int)((double)done / (double)total * 100) : 100;
	char bar[41];

	if (percent == shown || !isatty(STDERR_FILENO))
		return;
	shown = percent;
	memset(bar, ' ', sizeof(bar) - 1);
	memset(bar, '=', (size_t)percent * (sizeof(bar) - 1) / 100);
	bar[sizeof(bar) - 1] = '\0';
	fprintf(stderr, "\r%s [%s] %3d %%%s", what, bar, percent, done == total ? "\n" : "");
}

/* ---- new images ---- */

static int power_of_two(uint64_t v, unsigned *ret_log2)
{
	if (!v || v & (v - 1))
		return -EINVAL;
	*ret_log2 = (unsigned)__builtin_ctzll(v);
	return 0;
}

int img_new_option(struct img_new *n, int letter, const char *value, struct err *err)
{
	uint64_t v = 0;

	switch (letter) {
	case 'C':
		if (size_parse(value, &v) < 0 || power_of_two(v, &n->q.cluster_bits) < 0)
			return img_usage(err, "cluster '%s': not a power of two from 512 to 2M",
					 value);
		return 0;
	case 'R':
		if (size_parse(value, &v) < 0 || power_of_two(v, &n->q.refcount_order) < 0)
			return img_usage(err, "refcount-bits '%s': not a power of two from 1 to 64",
					 value);
		return 0;
	case 'V':
		if (strcmp(value, "2") && strcmp(value, "3"))
			return img_usage(err, "compat '%s': neither 2 nor 3", value);
		n->q.version = (unsigned)(value[0] - '0');
		return 0;
	case 'Z':
		return img_compression(value, &n->q.compression, err);
	case '!':
		n->force = true;
		return 0;
	default:
		return img_usage(err, "option -%c: not known", letter);
	}
}

int img_create_qcow2(const char *path, struct img_new *n, struct err *err)
{
	struct qcow2_writer *w = NULL;
	struct file file;
	char what[300];
	bool made;
	int ret = img_new_file(path, n->force, &file, &made, err);

	if (ret < 0)
		return ret;
	snprintf(what, sizeof(what), "file '%.280s'", path);
	ret = qcow2_writer_new(&file, what, &n->q, &w, err);
	if (ret == 0) {
		ret = qcow2_writer_finish(w);
		if (ret < 0)
			err_set(err, -ret, "%s: %s", what, strerror(-ret));
	}
	qcow2_writer_free(w);
	close(file.fd);
	if (ret < 0 && made)
		unlink(path);
	return ret;
}
