/* SPDX-License-Identifier: Apache-2.0 */
/* eyot-img info [--json] [-f FORMAT] FILE|ADDRESS: the header alone is read, no other file is
 * opened */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "base/parse.h"
#include "base/util.h"
#include "disk/nbd_uri.h"
#include "img/img.h"

struct info_args {
	enum disk_format format;
	bool json;
};

struct info {
	const char *path;
	enum disk_format format;
	uint64_t size, used;
	bool is_remote; /* and nobody tells how much is used */
	struct qcow2_header h;
	struct qcow2_snapshots snapshots;
};

static int take(void *arg, int letter, const char *value, struct err *err)
{
	struct info_args *a = arg;

	if (letter == 'f')
		return img_format(value, &a->format, err);
	a->json = true;
	return 0;
}

/* A name of the file's in a message: nothing that moves the cursor */
static const char *printable(const char *name, char *buf, size_t size)
{
	size_t n = 0;

	for (; name[n] && n + 1 < size; n++)
		buf[n] = (unsigned char)name[n] < ' ' || name[n] == 0x7f ? '?' : name[n];
	buf[n] = '\0';
	return buf;
}

static void print_qcow2(const struct info *i)
{
	const struct qcow2_header *h = &i->h;
	char buf[QCOW2_NAME_MAX + 1], when[32];

	printf("version:     %u\n", h->version);
	printf("cluster:     %llu bytes\n", 1ull << h->cluster_bits);
	printf("refcounts:   %u bits%s\n", 1u << h->refcount_order,
	       h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS ? ", may be lazy" : "");
	printf("compression: %s\n", h->compression == QCOW2_ZSTD ? "zstd" : "zlib");
	if (h->has_backing)
		printf("backing:     %s (%s)\n", printable(h->backing, buf, sizeof(buf)),
		       h->backing_format[0] ? h->backing_format : "format not told");
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		printf("data file:   %s\n", printable(h->data_file, buf, sizeof(buf)));
	if (h->incompatible & QCOW2_INCOMPAT_DIRTY)
		puts("state:       not closed cleanly, is repaired when it is opened");
	if (h->incompatible & QCOW2_INCOMPAT_CORRUPT)
		puts("state:       corrupt, see eyot-img check");
	for (uint32_t k = 0; k < i->snapshots.count; k++) {
		const struct qcow2_snapshot *s = &i->snapshots.list[k];
		time_t t = s->date_s;
		struct tm tm;

		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
		printf("snapshot:    %s '%s' of %s\n", s->id, s->name, when);
	}
}

static void print_people(const struct info *i)
{
	char a[32], b[32];

	printf("image:       %s\n", i->path);
	printf("format:      %s\n", img_format_name(i->format));
	printf("size:        %s (%llu bytes)\n", size_format(i->size, a, sizeof(a)),
	       (unsigned long long)i->size);
	if (!i->is_remote)
		printf("on disk:     %s\n", size_format(i->used, b, sizeof(b)));
	if (i->format == DISK_FORMAT_QCOW2)
		print_qcow2(i);
}

/* Text of the file's may be no UTF-8, of which JSON consists. */
static void set_text(json_t *o, const char *key, const char *text)
{
	char buf[QCOW2_NAME_MAX + 1];
	json_t *s = json_string(text);

	if (!s) {
		size_t n = 0;

		for (; text[n] && n + 1 < sizeof(buf); n++)
			buf[n] = (unsigned char)text[n] < 0x80 ? text[n] : '?';
		buf[n] = '\0';
		s = json_string(buf);
	}
	json_object_set_new(o, key, s);
}

static void set_number(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static void json_qcow2(json_t *o, const struct info *i)
{
	const struct qcow2_header *h = &i->h;
	json_t *list = json_array();

	set_number(o, "version", h->version);
	set_number(o, "cluster_bytes", 1ull << h->cluster_bits);
	set_number(o, "refcount_bits", 1ull << h->refcount_order);
	set_text(o, "compression", h->compression == QCOW2_ZSTD ? "zstd" : "zlib");
	if (h->has_backing)
		set_text(o, "backing", h->backing);
	if (h->backing_format[0])
		set_text(o, "backing_format", h->backing_format);
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		set_text(o, "data_file", h->data_file);
	json_object_set_new(o, "dirty", json_boolean(h->incompatible & QCOW2_INCOMPAT_DIRTY));
	json_object_set_new(o, "corrupt", json_boolean(h->incompatible & QCOW2_INCOMPAT_CORRUPT));
	for (uint32_t k = 0; k < i->snapshots.count; k++) {
		const struct qcow2_snapshot *s = &i->snapshots.list[k];
		json_t *e = json_object();

		set_text(e, "id", s->id);
		set_text(e, "name", s->name);
		set_number(e, "size", s->size);
		set_number(e, "date_s", s->date_s);
		json_array_append_new(list, e);
	}
	json_object_set_new(o, "snapshots", list);
}

static void print_json(const struct info *i)
{
	json_t *o = json_object();

	set_text(o, "image", i->path);
	set_text(o, "format", img_format_name(i->format));
	set_number(o, "size", i->size);
	if (!i->is_remote)
		set_number(o, "used", i->used);
	if (i->format == DISK_FORMAT_QCOW2)
		json_qcow2(o, i);
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

/* An export of an NBD server: it has a size, and nothing else is told of it. */
static int ask_server(struct info *i, enum disk_format format, struct err *err)
{
	struct disk_options opt = { .readonly = true, .format = format };
	struct loop *loop = NULL;
	struct disk *disk;
	int ret = loop_new(&loop, err);

	if (ret == 0)
		ret = disk_open(loop, i->path, &opt, &disk, err);
	if (ret == 0) {
		i->size = disk_size(disk);
		i->format = disk_format(disk);
		i->is_remote = true;
		disk_close(disk);
	}
	loop_free(loop);
	return ret;
}

static int read_file(struct info *i, enum disk_format format, struct err *err)
{
	struct file file;
	struct stat st;
	char what[300];
	int ret = img_open_file(i->path, false, format, &file, &i->format, err);

	if (ret < 0)
		return ret;
	i->size = align_up(file.eof, DISK_SECTOR);
	if (fstat(file.fd, &st) == 0)
		i->used = (uint64_t)st.st_blocks * 512;
	if (i->format == DISK_FORMAT_QCOW2) {
		snprintf(what, sizeof(what), "disk '%.280s'", i->path);
		ret = qcow2_header_read(&file, what, &i->h, err);
		if (ret == 0)
			ret = qcow2_snapshots_read(&file, what, &i->h, &i->snapshots, err);
		i->size = i->h.size;
	}
	close(file.fd);
	return ret;
}

int cmd_info(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "format", required_argument, NULL, 'f' },
						 { "json", no_argument, NULL, 'j' },
						 { 0 } };
	struct info_args a = { 0 };
	struct info i = { 0 };
	int at, ret = img_options(argc, argv, "f:", options, take, &a, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 1)
		return img_usage(err, "info: wants a file");
	i.path = argv[at];
	ret = nbd_uri_is(i.path) ? ask_server(&i, a.format, err) : read_file(&i, a.format, err);
	if (ret < 0)
		return ret;
	if (a.json)
		print_json(&i);
	else
		print_people(&i);
	qcow2_snapshots_done(&i.snapshots);
	return IMG_GOOD;
}
