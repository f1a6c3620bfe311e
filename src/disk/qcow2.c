/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images: opening a chain of files, closing, telling of corruption
 *
 * An image and the files it is based on become a chain of layers under one
 * lock. Only the top one is ever written to. Backing files are opened for
 * reading, with a reader's lock; their names are relative to the file that
 * names them. How deep a chain may be is bounded, and it may not lead back to
 * a file that is in it.
 *
 * A backing file whose format the image does not tell is opened by the same
 * rule as a disk's own (disk.h, DISK_FORMAT_AUTO): never guessed by what a
 * guest may have written into it.
 *
 * An image whose refcounts may be wrong (the dirty bit: its last writer kept
 * them lazily and crashed) is repaired before it is written to. Eyot itself
 * keeps refcounts always, the feature bit only permits not to.
 */
#include "disk/qcow2.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"
#include "disk/qcow2_check.h"

/* ---- corruption ---- */

int header_write(struct layer *l, unsigned at, const void *field, unsigned len)
{
	uint8_t head[DISK_SECTOR] __attribute__((aligned(DISK_SECTOR)));
	int ret = file_rw_now(&l->file, false, head, sizeof(head), 0);

	if (ret < 0)
		return ret;
	memcpy(head + at, field, len);
	return file_rw_now(&l->file, true, head, sizeof(head), 0);
}

int qcow2_corrupt(struct layer *l, const char *fmt, ...)
{
	uint8_t bits[8];
	char text[256];
	va_list ap;

	if (l->corrupt)
		return -EIO;
	l->corrupt = true;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_error("disk '%s': the image is corrupt: %s%s", l->path, text,
		  l->writable ? "; nothing is written to it any more" : "");
	if (!l->writable || l->h.version < 3)
		return -EIO;
	l->h.incompatible |= QCOW2_INCOMPAT_CORRUPT;
	put_be64(bits, l->h.incompatible);
	if (header_write(l, QCOW2_AT_INCOMPATIBLE, bits, sizeof(bits)) < 0)
		log_error("disk '%s': cannot mark it as corrupt", l->path);
	return -EIO;
}

/* ---- which clusters hold tables ---- */

static uint64_t table_hash(const struct layer *l, uint64_t off)
{
	return ((off >> l->cluster_bits) * 0x9e3779b97f4a7c15ull >> 20) & l->tables_mask;
}

void table_note(struct layer *l, uint64_t off)
{
	uint64_t bit = table_hash(l, off);

	l->tables[bit / 64] |= 1ull << (bit % 64);
}

static bool in_tables(const struct layer *l, uint64_t off)
{
	for (uint32_t i = 0; i < l->l1_size; i++)
		if ((get_be64(l->l1 + (uint64_t)i * 8) & QCOW2_OFFSET_MASK) == off)
			return true;
	for (uint64_t i = 0; i < l->reftable_size; i++)
		if ((get_be64(l->reftable + i * 8) & QCOW2_REFTABLE_MASK) == off)
			return true;
	return false;
}

static bool overlaps(uint64_t off, uint64_t len, uint64_t table, uint64_t bytes)
{
	return off < table + bytes && table < off + len;
}

/* The filter says no for nearly all; only when it does not, tables are searched. */
bool table_at(const struct layer *l, uint64_t off, uint64_t len)
{
	uint64_t first = align_down(off, l->cluster);

	if (first == 0 || overlaps(off, len, l->h.l1_offset, (uint64_t)l->h.l1_size * 8) ||
	    overlaps(off, len, l->h.reftable_offset,
		     (uint64_t)l->h.reftable_clusters << l->cluster_bits) ||
	    overlaps(off, len, l->h.snapshots_offset, l->snapshots_bytes))
		return true;
	for (uint64_t at = first; at < off + len; at += l->cluster) {
		uint64_t bit = table_hash(l, at);

		if (l->tables[bit / 64] >> (bit % 64) & 1 && in_tables(l, at))
			return true;
	}
	return false;
}

static int make_filter(struct layer *l)
{
	uint64_t bits = 65536;

	while (bits < 16 * (l->l1_size + l->reftable_size))
		bits *= 2;
	l->tables_mask = bits - 1;
	l->tables = calloc(bits / 64, sizeof(uint64_t));
	if (!l->tables)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->l1_size; i++)
		table_note(l, get_be64(l->l1 + (uint64_t)i * 8) & QCOW2_OFFSET_MASK);
	for (uint64_t i = 0; i < l->reftable_size; i++)
		table_note(l, get_be64(l->reftable + i * 8) & QCOW2_REFTABLE_MASK);
	return 0;
}

/* ---- opening ---- */

static void layer_free(struct layer *l)
{
	if (l->file.fd >= 0)
		close(l->file.fd);
	if (l->data_file.fd >= 0)
		close(l->data_file.fd);
	free(l->path);
	free(l->l1);
	free(l->reftable);
	free(l->tables);
	free(l);
}

static struct layer *layer_new(struct qcow2 *q, const char *path, const struct file *file,
			       struct err *err)
{
	struct layer *l = calloc(1, sizeof(*l));
	struct stat st;

	if (l)
		l->path = strdup(path);
	if (!l || !l->path || fstat(file->fd, &st) < 0) {
		close(file->fd);
		free(l ? l->path : NULL);
		free(l);
		err_set(err, ENOMEM, "disk '%s': out of memory", path);
		return NULL;
	}
	l->q = q;
	l->file = *file;
	l->file.aio = q->disk->aio;
	l->data_file.fd = -1;
	l->data = &l->file;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	return l;
}

/* A table of the file, whole clusters */
static int load_table(struct layer *l, const char *what, const char *name, uint64_t off,
		      uint64_t bytes, uint8_t **ret_table, struct err *err)
{
	uint64_t len = align_up(max_u64(bytes, 1), l->cluster);
	uint8_t *table;
	int ret;

	if (bytes && off + bytes > l->file_end)
		return err_set(err, EINVAL, "%s: header: %s at %#llx: behind the file's end", what,
			       name, (unsigned long long)off);
	table = aligned_alloc(PAGE_SIZE, align_up(len, PAGE_SIZE));
	if (!table)
		return err_set(err, ENOMEM, "%s: out of memory", what);
	memset(table, 0, len);
	ret = bytes ? file_rw_now(&l->file, false, table, len, off) : 0;
	if (ret < 0) {
		free(table);
		return err_set(err, -ret, "%s: %s: %s", what, name, strerror(-ret));
	}
	*ret_table = table;
	return 0;
}

/* The name in a file of the chain, as seen from that file's folder */
static char *beside(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');
	char *out;

	if (!slash || name[0] == '/')
		return strdup(name);
	return asprintf(&out, "%.*s/%s", (int)(slash - path), path, name) < 0 ? NULL : out;
}

/* QEMU's names for things that are no files: "nbd:host:port", "json:{...}" */
static bool is_file_name(const char *name)
{
	size_t colon = strcspn(name, ":"), slash = strcspn(name, "/");

	return !name[colon] || slash < colon;
}

static int open_data_file(struct layer *l, const struct disk_options *opt, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	unsigned block;
	int ret;

	l->external = l->h.incompatible & QCOW2_INCOMPAT_DATA_FILE;
	if (!l->external)
		return 0;
	if (!l->h.data_file[0] || !is_file_name(l->h.data_file))
		return err_set(err, EINVAL, "disk '%s': header: no usable name of the data file",
			       l->path);
	path = beside(l->path, l->h.data_file);
	if (!path)
		return err_set(err, ENOMEM, "disk '%s': out of memory", l->path);
	ret = file_open(&l->data_file, path, opt, &block, err);
	if (ret < 0)
		return err_prefix(err, ret, "disk '%s': its data file", l->path);
	l->data_file.aio = l->q->disk->aio;
	l->data = &l->data_file;
	return 0;
}

static int use_snapshot(struct layer *l, const char *what, const char *name, struct err *err)
{
	struct qcow2_snapshots list;
	const struct qcow2_snapshot *s;
	int ret;

	ret = qcow2_snapshots_read(&l->file, what, &l->h, &list, err);
	if (ret < 0)
		return ret;
	l->snapshots_bytes = list.bytes;
	if (name) {
		s = qcow2_snapshot_find(&list, name);
		if (s) {
			l->h.l1_offset = s->l1_offset;
			l->h.l1_size = s->l1_size;
			l->h.size = s->size;
		} else {
			ret = err_set(err, ENOENT, "%s: has no snapshot '%s'", what, name);
		}
	}
	qcow2_snapshots_done(&list);
	return ret;
}

static int load_tables(struct layer *l, const char *what, struct err *err)
{
	int ret;

	l->cluster_bits = l->h.cluster_bits;
	l->cluster = 1ull << l->cluster_bits;
	l->size = align_up(l->h.size, DISK_SECTOR);
	l->l1_size = l->h.l1_size;
	l->file_end = align_up(l->file.eof, l->cluster);
	ret =
	    load_table(l, what, "L1 table", l->h.l1_offset, (uint64_t)l->l1_size * 8, &l->l1, err);
	if (ret < 0 || !l->writable)
		return ret;
	l->reftable_size = (uint64_t)l->h.reftable_clusters << (l->cluster_bits - 3);
	ret = load_table(l, what, "refcount table", l->h.reftable_offset, l->reftable_size * 8,
			 &l->reftable, err);
	if (ret == 0 && make_filter(l) < 0)
		ret = err_set(err, ENOMEM, "%s: out of memory", what);
	return ret;
}

/* What has to be done before the first write. */
static int prepare_writing(struct layer *l, const char *what, struct err *err)
{
	struct qcow2_check_result result;
	uint8_t bits[8];
	int ret;

	if (l->h.incompatible & QCOW2_INCOMPAT_CORRUPT)
		return err_set(err, EROFS,
			       "%s: is marked as corrupt: eyot-img check --repair all may help; "
			       "readonly opens it as it is",
			       what);
	if (l->h.incompatible & QCOW2_INCOMPAT_DIRTY) {
		log_info("%s: was not closed cleanly: repairing its refcounts", what);
		ret = qcow2_check(&l->file, what, QCOW2_REPAIR_ALL, NULL, &result, err);
		if (ret < 0)
			return ret;
		if (result.errors)
			return err_set(err, EROFS, "%s: could not be repaired: see eyot-img check",
				       what);
		l->file.eof = max_u64(l->file.eof, result.file_size);
		ret = qcow2_header_read(&l->file, what, &l->h, err);
		if (ret < 0)
			return ret;
	}
	/* "autoclear_features": bitmaps are not kept up to date, and what is unknown neither. */
	if (l->h.autoclear & ~QCOW2_AUTOCLEAR_RAW_DATA) {
		l->h.autoclear &= QCOW2_AUTOCLEAR_RAW_DATA;
		put_be64(bits, l->h.autoclear);
		ret = header_write(l, QCOW2_AT_AUTOCLEAR, bits, sizeof(bits));
		if (ret == 0)
			ret = file_sync_now(&l->file);
		if (ret < 0)
			return err_set(err, -ret, "%s: cannot write its header: %s", what,
				       strerror(-ret));
	}
	return 0;
}

static int open_layer(struct layer *l, const struct disk_options *opt, struct err *err)
{
	char what[300];
	int ret;

	snprintf(what, sizeof(what), "disk '%.280s'", l->path);
	ret = qcow2_header_read(&l->file, what, &l->h, err);
	if (ret < 0)
		return ret;
	l->writable = !opt->readonly && !opt->snapshot;
	if (l->writable)
		ret = prepare_writing(l, what, err);
	if (ret == 0)
		ret = open_data_file(l, opt, err);
	if (ret == 0)
		ret = use_snapshot(l, what, opt->internal, err);
	return ret == 0 ? load_tables(l, what, err) : ret;
}

static int open_backing(struct qcow2 *q, struct layer *l, enum disk_cache cache,
			struct layer **ret_layer, struct err *err)
{
	static const struct disk_options defaults = { .readonly = true };
	struct disk_options opt = defaults;
	_cleanup_free_ char *path = NULL;
	enum disk_format format = DISK_FORMAT_AUTO;
	struct layer *b;
	struct file file;
	unsigned block;
	int ret;

	opt.cache = cache;
	if (!is_file_name(l->h.backing))
		return err_set(err, ENOTSUP,
			       "disk '%s': its backing file '%s' is not a file's name", l->path,
			       l->h.backing);
	if (!strcmp(l->h.backing_format, "raw"))
		format = DISK_FORMAT_RAW;
	else if (!strcmp(l->h.backing_format, "qcow2"))
		format = DISK_FORMAT_QCOW2;
	else if (l->h.backing_format[0])
		return err_set(err, ENOTSUP, "disk '%s': the backing format '%s' is not supported",
			       l->path, l->h.backing_format);
	path = beside(l->path, l->h.backing);
	if (!path)
		return err_set(err, ENOMEM, "disk '%s': out of memory", l->path);
	ret = file_open(&file, path, &opt, &block, err);
	if (ret == 0) {
		file.aio = q->disk->aio;
		ret = image_format(&file, "disk", path, format, &format, err);
		if (ret < 0)
			close(file.fd);
	}
	if (ret < 0)
		return err_prefix(err, ret, "disk '%s': its backing file", l->path);
	b = layer_new(q, path, &file, err);
	if (!b)
		return -ENOMEM;
	b->raw = format == DISK_FORMAT_RAW;
	b->size = align_up(b->file.eof, DISK_SECTOR);
	*ret_layer = b;
	return 0;
}

static int open_chain(struct qcow2 *q, const struct disk_options *opt, struct err *err)
{
	struct disk_options below = { .readonly = true, .cache = opt->cache };
	struct layer *l = q->top;
	unsigned depth = 1;
	int ret = open_layer(l, opt, err);

	while (ret == 0 && !l->raw && l->h.has_backing) {
		if (depth++ == LAYERS_MAX)
			return err_set(err, ELOOP, "disk '%s': more than %u files in the chain",
				       q->top->path, LAYERS_MAX);
		ret = open_backing(q, l, opt->cache, &l->backing, err);
		if (ret < 0)
			return ret;
		for (const struct layer *o = q->top; o != l->backing; o = o->backing)
			if (o->dev == l->backing->dev && o->ino == l->backing->ino)
				return err_set(err, ELOOP,
					       "disk '%s': the chain of backing files leads back "
					       "to '%s'",
					       q->top->path, l->backing->path);
		l = l->backing;
		if (!l->raw)
			ret = open_layer(l, &below, err);
	}
	return ret;
}

static void lists_init(struct qcow2 *q)
{
	req_list_init(&q->runnable);
	req_list_init(&q->finished);
	req_list_init(&q->commit.now);
	req_list_init(&q->commit.next);
	req_list_init(&q->commit.links);
	req_list_init(&q->commit.end);
}

static void free_all(struct qcow2 *q)
{
	struct layer *next;

	cache_done(q);
	for (struct layer *l = q->top; l; l = next) {
		next = l->backing;
		layer_free(l);
	}
	free(q->unlinked.list);
	free(q->committing.list);
	free(q->ready.list);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

/* Write back what is only in memory; until nothing is left, or it fails. */
static int write_back(struct qcow2 *q)
{
	bool tried = false;

	for (;;) {
		bool clean, idle;
		int error;

		enter(q, true);
		clean = commit_is_clean(q);
		idle = q->commit.phase == COMMIT_IDLE && !q->commit.again && !q->freer_busy;
		error = tried ? q->commit.error : 0;
		if (!clean && idle && !error) {
			commit_start(q);
			tried = true;
		}
		qcow2_leave(q);
		if (clean || (idle && error))
			return error;
		aio_wait(q->disk->aio);
	}
}

static int qcow2_close(struct disk *disk, struct err *err)
{
	struct qcow2 *q = disk->priv;
	int ret = q->top->writable ? write_back(q) : 0;

	if (ret == 0 && q->top->writable)
		ret = file_sync_now(&q->top->file);
	if (ret < 0)
		err_set(err, -ret, "disk '%s': not all of it could be written: %s", q->top->path,
			strerror(-ret));
	free_all(q);
	return ret;
}

/* Holes by whole L2 tables, which are in memory: coarse, but it skips what is large. */
static int qcow2_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	struct qcow2 *q = disk->priv;
	uint64_t best = UINT64_MAX, end = 0;

	for (struct layer *l = q->top; l; l = l->backing) {
		uint64_t size = min_u64(l->size, disk->size), start, stop;

		if (l->raw) {
			if (file_next_data(&l->file, off, size, &start, &stop) < 0)
				continue;
		} else {
			start = off;
			while (start < size && !l1_present(l, start))
				start += l2_span(l) - start % l2_span(l);
			stop = start;
			while (stop < size && l1_present(l, stop))
				stop += l2_span(l) - stop % l2_span(l);
			stop = min_u64(stop, size);
		}
		if (start >= size)
			continue;
		if (start < best) {
			best = start;
			end = stop;
		} else if (start <= end) {
			end = max_u64(end, stop);
		}
	}
	*ret_start = best;
	*ret_end = end;
	return best == UINT64_MAX ? -ENXIO : 0;
}

static const struct disk_driver qcow2_driver = {
	.grow = qcow2_grow,
	.start = qcow2_start,
	.read_now = qcow2_read_now,
	.read = qcow2_read,
	.next_data = qcow2_next_data,
	.close = qcow2_close,
};

int qcow2_open(struct disk *disk, const char *path, struct file *file, unsigned block,
	       const struct disk_options *opt, struct err *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int ret;

	if (!q) {
		close(file->fd);
		return err_set(err, ENOMEM, "disk '%s': out of memory", path);
	}
	q->disk = disk;
	pthread_mutex_init(&q->lock, NULL);
	lists_init(q);
	q->top = layer_new(q, path, file, err);
	ret = q->top ? 0 : -ENOMEM;
	if (ret == 0 && opt->internal && !opt->readonly && !opt->snapshot)
		ret = err_set(err, EINVAL, "disk '%s': a snapshot inside of it can only be read",
			      path);
	if (ret == 0)
		ret = open_chain(q, opt, err);
	if (ret == 0 && !q->top->size)
		ret = err_set(err, EINVAL, "disk '%s': the image is empty", path);
	if (ret == 0) {
		q->slice_size = 1u << SLICE_BITS_MAX;
		for (const struct layer *l = q->top; l; l = l->backing)
			if (!l->raw)
				q->slice_size = (unsigned)min_u64(q->slice_size, l->cluster);
		ret = cache_init(q, err);
	}
	if (ret < 0) {
		free_all(q);
		return ret;
	}
	disk->priv = q;
	disk->drv = &qcow2_driver;
	disk->size = q->top->size;
	disk->block_size = block;
	disk->readonly = !q->top->writable;
	disk->format = DISK_FORMAT_QCOW2;
	return 0;
}
