/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Editing qcow2 images at rest
 *
 * Each change counts all references (qcow2_check.c), puts new tables behind the file's
 * end and changes the counts for them, writes a new refcount structure, and
 * switches the header to all of it with one sector (qcow2_refs.c). Nothing that the old
 * header leads to is changed before, but for two things that do no harm:
 * the flag "refcount is exactly one" may be taken away early, and a
 * shrinking disk's lost end is cleared.
 *
 * The flags of the new image are set right at the end; without them writes
 * copy more than they have to, that is all.
 */
#include "disk/qcow2_edit.h"

#include <stdio.h>
#include <time.h>

#include "base/util.h"

#define SNAPSHOT_HEAD 56 /* bytes, with the known extra data */

struct edit {
	struct file *file;
	const char *what;
	struct err *err;
	struct qcow2_header h;
	struct qcow2_snapshots snapshots;
	struct qcow2_refs refs;
	uint64_t cluster;
};

static int failed(struct edit *e, int ret)
{
	if (ret == -ERANGE)
		return err_set(e->err, ERANGE,
			       "%s: a cluster would be used more often than a refcount of %u bits "
			       "can tell",
			       e->what, 1u << e->h.refcount_order);
	return ret < 0 ? err_set(e->err, -ret, "%s: %s", e->what, strerror(-ret)) : ret;
}

static int begin(struct edit *e, struct file *file, const char *what, struct err *err)
{
	struct qcow2_check_result res;
	int ret;

	*e = (struct edit) { .file = file, .what = what, .err = err };
	ret = qcow2_check_refs(file, what, QCOW2_REPAIR_NONE, NULL, &res, &e->refs, err);
	if (ret == 0)
		ret = qcow2_header_read(file, what, &e->h, err);
	if (ret == 0 && e->h.has_bitmaps)
		ret =
		    err_set(err, ENOTSUP,
			    "%s: has persistent bitmaps, which would be lost: use qemu-img", what);
	if (ret == 0 && res.errors && !(e->h.incompatible & QCOW2_INCOMPAT_DIRTY))
		ret = err_set(err, EUCLEAN, "%s: has %llu errors: see eyot-img check", what,
			      (unsigned long long)res.errors);
	if (ret == 0 && e->h.incompatible & QCOW2_INCOMPAT_CORRUPT)
		ret = err_set(err, EUCLEAN, "%s: is marked as corrupt: see eyot-img check", what);
	if (ret == 0)
		ret = qcow2_snapshots_read(file, what, &e->h, &e->snapshots, err);
	e->cluster = 1ull << e->h.cluster_bits;
	e->h.autoclear &= QCOW2_AUTOCLEAR_RAW_DATA;
	return ret;
}

static void end(struct edit *e)
{
	qcow2_snapshots_done(&e->snapshots);
	qcow2_refs_done(&e->refs);
}

static uint64_t clusters_of(const struct edit *e, uint64_t bytes)
{
	return (bytes + e->cluster - 1) >> e->h.cluster_bits;
}

/* An L1 table in memory, whole clusters; @size entries of it from the file */
static uint8_t *load_l1(struct edit *e, uint64_t off, uint32_t size, uint32_t room)
{
	uint8_t *l1 = calloc(clusters_of(e, (uint64_t)room * 8) + 1, e->cluster);

	if (l1 && file_rw_now(e->file, false, l1,
			      align_up((uint64_t)min_u64(size, room) * 8, DISK_SECTOR), off) < 0) {
		free(l1);
		return NULL;
	}
	if (l1)
		memset(l1 + min_u64(size, room) * 8, 0, e->cluster);
	return l1;
}

static void refer_entry(struct edit *e, uint64_t entry, int by)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	uint32_t len = (uint32_t)e->cluster;

	if (entry & QCOW2_COMPRESSED &&
	    !qcow2_compressed_place(entry, e->h.cluster_bits, &off, &len))
		return;
	if (off && !(e->h.incompatible & QCOW2_INCOMPAT_DATA_FILE))
		qcow2_refs_add(
		    &e->refs, off >> e->h.cluster_bits,
		    ((off + len - 1) >> e->h.cluster_bits) - (off >> e->h.cluster_bits) + 1, by);
}

/* Count all that an L1 table leads to; @unflag: and take the flags away, table and L2 tables. */
static int refer_l1(struct edit *e, uint8_t *l1, uint32_t size, int by, bool unflag)
{
	_cleanup_free_ uint8_t *l2 = malloc(e->cluster);
	int ret = l2 ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < size && ret == 0; i++) {
		uint64_t entry = get_be64(l1 + (uint64_t)i * 8), at = entry & QCOW2_OFFSET_MASK;
		bool changed = false;

		if (!at)
			continue;
		if (unflag)
			put_be64(l1 + (uint64_t)i * 8, at);
		qcow2_refs_add(&e->refs, at >> e->h.cluster_bits, 1, by);
		ret = file_rw_now(e->file, false, l2, e->cluster, at);
		for (uint64_t k = 0; k < e->cluster / 8 && ret == 0; k++) {
			entry = get_be64(l2 + k * 8);
			refer_entry(e, entry, by);
			if (unflag && entry & QCOW2_COPIED) {
				put_be64(l2 + k * 8, entry & ~QCOW2_COPIED);
				changed = true;
			}
		}
		if (changed && ret == 0)
			ret = file_rw_now(e->file, true, l2, e->cluster, at);
	}
	return e->refs.failed ? -ENOMEM : ret;
}

/* Store a table of @bytes behind the file's end. */
static int append(struct edit *e, uint8_t *table, uint64_t bytes, uint64_t *ret_off)
{
	uint64_t n = clusters_of(e, max_u64(bytes, 1));

	*ret_off = qcow2_refs_append(&e->refs, n) << e->h.cluster_bits;
	return e->refs.failed ? -ENOMEM
			      : file_rw_now(e->file, true, table, n << e->h.cluster_bits, *ret_off);
}

static void drop(struct edit *e, uint64_t off, uint64_t bytes)
{
	qcow2_refs_add(&e->refs, off >> e->h.cluster_bits, clusters_of(e, bytes), -1);
}

/* Switch to what was made, and set the flags. */
static int commit(struct edit *e)
{
	struct qcow2_check_result res;
	int ret = qcow2_refs_write(&e->refs, e->file, &e->h, 0);

	if (ret == 0)
		ret = qcow2_header_switch(e->file, &e->h);
	if (ret < 0)
		return failed(e, ret);
	return qcow2_check(e->file, e->what, QCOW2_REPAIR_ALL, NULL, &res, e->err);
}

/* ---- size ---- */

/* Clear what is mapped behind @size. */
static int cut_off(struct edit *e, uint64_t size)
{
	uint64_t first = clusters_of(e, size), per_table = e->cluster / 8;
	_cleanup_free_ uint8_t *l1 = load_l1(e, e->h.l1_offset, e->h.l1_size, e->h.l1_size);
	_cleanup_free_ uint8_t *l2 = malloc(e->cluster);
	int ret = l1 && l2 ? 0 : -ENOMEM;

	for (uint64_t i = first / per_table; i < e->h.l1_size && ret == 0; i++) {
		uint64_t at = get_be64(l1 + i * 8) & QCOW2_OFFSET_MASK;

		if (!at)
			continue;
		ret = file_rw_now(e->file, false, l2, e->cluster, at);
		for (uint64_t k = i == first / per_table ? first % per_table : 0;
		     k < per_table && ret == 0; k++) {
			refer_entry(e, get_be64(l2 + k * 8), -1);
			put_be64(l2 + k * 8, 0);
		}
		if (ret == 0)
			ret = file_rw_now(e->file, true, l2, e->cluster, at);
	}
	return ret;
}

static int resize(struct edit *e, uint64_t size)
{
	uint64_t entries = qcow2_l1_entries(size, e->h.cluster_bits), old = e->h.l1_offset;
	_cleanup_free_ uint8_t *l1 = NULL;
	int ret = 0;

	if (entries * 8 > QCOW2_L1_BYTES_MAX)
		return err_set(e->err, EFBIG, "%s: too big for clusters of %llu bytes", e->what,
			       (unsigned long long)e->cluster);
	if (size < e->h.size && e->h.snapshot_count)
		return err_set(e->err, ENOTSUP, "%s: cannot shrink: it has snapshots", e->what);
	if (e->h.version < 3 && e->h.snapshot_count)
		return err_set(
		    e->err, ENOTSUP,
		    "%s: cannot resize: snapshots of version 2 have no size of their own", e->what);
	if (size < e->h.size)
		ret = cut_off(e, size);
	if (ret == 0 && entries > e->h.l1_size) {
		l1 = load_l1(e, old, e->h.l1_size, (uint32_t)entries);
		ret = l1 ? append(e, l1, entries * 8, &e->h.l1_offset) : -ENOMEM;
		drop(e, old, (uint64_t)e->h.l1_size * 8);
		e->h.l1_size = (uint32_t)entries;
	}
	e->h.size = size;
	return ret < 0 ? failed(e, ret) : commit(e);
}

int qcow2_resize(struct file *file, const char *what, uint64_t size, struct err *err)
{
	struct edit e;
	int ret = begin(&e, file, what, err);

	if (ret == 0)
		ret = resize(&e, size);
	end(&e);
	return ret;
}

/* ---- snapshots ---- */

/* The table with all but one of its old entries, and a new one ("Snapshots") */
static int put_snapshots(struct edit *e, const struct qcow2_snapshot *without,
			 const struct qcow2_snapshot *with)
{
	uint64_t len = 0, room = e->cluster, off = 0, old = e->h.snapshots_offset;
	uint8_t *table;
	uint32_t count = 0;
	int ret = 0;

	for (uint32_t i = 0; i <= e->snapshots.count; i++) {
		const struct qcow2_snapshot *s =
		    i < e->snapshots.count ? &e->snapshots.list[i] : with;

		if (s)
			room += SNAPSHOT_HEAD + s->extra_len + strlen(s->id) + strlen(s->name) + 8;
	}
	if (room > QCOW2_SNAPSHOT_TABLE_MAX)
		return -EFBIG;
	table = calloc(clusters_of(e, room), e->cluster);
	if (!table)
		return -ENOMEM;
	for (uint32_t i = 0; i <= e->snapshots.count; i++) {
		const struct qcow2_snapshot *s =
		    i < e->snapshots.count ? &e->snapshots.list[i] : with;
		uint8_t *p = table + len;

		if (!s || s == without)
			continue;
		put_be64(p, s->l1_offset);
		put_be32(p + 8, s->l1_size);
		put_be16(p + 12, (uint16_t)strlen(s->id));
		put_be16(p + 14, (uint16_t)strlen(s->name));
		put_be32(p + 16, s->date_s);
		put_be32(p + 20, s->date_ns);
		put_be64(p + 24, s->vm_clock_ns);
		put_be32(p + 32, (uint32_t)min_u64(s->vm_state_size, UINT32_MAX));
		put_be32(p + 36, 16 + s->extra_len);
		put_be64(p + 40, s->vm_state_size);
		put_be64(p + 48, s->size);
		p += SNAPSHOT_HEAD;
		if (s->extra_len)
			memcpy(p, s->extra, s->extra_len);
		p += s->extra_len;
		p = mempcpy(p, s->id, strlen(s->id));
		p = mempcpy(p, s->name, strlen(s->name));
		len = align_up((uint64_t)(p - table), 8);
		count++;
	}
	if (count)
		ret = append(e, table, len, &off);
	drop(e, old, e->snapshots.bytes);
	e->h.snapshots_offset = off;
	e->h.snapshot_count = count;
	free(table);
	return ret;
}

static int create(struct edit *e, const char *name)
{
	struct qcow2_snapshot s = { .name = (char *)name, .size = e->h.size };
	_cleanup_free_ uint8_t *l1 = load_l1(e, e->h.l1_offset, e->h.l1_size, e->h.l1_size);
	uint64_t old_l1 = e->h.l1_offset;
	struct timespec now;
	unsigned long id = 0;
	char id_text[24];
	int ret = l1 ? 0 : -ENOMEM;

	if (!*name || strlen(name) > 255)
		return err_set(e->err, EINVAL, "%s: snapshot '%.40s': not from 1 to 255 characters",
			       e->what, name);
	if (e->h.incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return err_set(e->err, ENOTSUP, "%s: has an external data file: no snapshots",
			       e->what);
	if (e->snapshots.count == QCOW2_SNAPSHOTS_MAX)
		return err_set(e->err, EFBIG, "%s: has too many snapshots", e->what);
	for (uint32_t i = 0; i < e->snapshots.count; i++) {
		if (!strcmp(e->snapshots.list[i].name, name))
			return err_set(e->err, EEXIST, "%s: has a snapshot '%s' already", e->what,
				       name);
		id = max_u64(id, strtoul(e->snapshots.list[i].id, NULL, 10));
	}
	snprintf(id_text, sizeof(id_text), "%lu", id + 1);
	clock_gettime(CLOCK_REALTIME, &now);
	s.id = id_text;
	s.date_s = (uint32_t)now.tv_sec;
	s.date_ns = (uint32_t)now.tv_nsec;
	s.l1_size = e->h.l1_size;
	/* A refcount that is too narrow must be found before flags are taken away. */
	for (uint64_t i = 0; i < e->refs.count && ret == 0; i++)
		if (e->refs.counts[i] >= (1ull << min_u64(1u << e->h.refcount_order, 32)) - 1)
			ret = -ERANGE;
	if (ret == 0)
		ret = refer_l1(e, l1, e->h.l1_size, 1, true);
	if (ret == 0)
		ret = file_rw_now(e->file, true, l1,
				  clusters_of(e, e->h.l1_size * 8ull) * e->cluster, old_l1);
	if (ret == 0)
		ret = append(e, l1, e->h.l1_size * 8ull, &s.l1_offset);
	if (ret == 0)
		ret = put_snapshots(e, NULL, &s);
	return ret < 0 ? failed(e, ret) : commit(e);
}

static const struct qcow2_snapshot *find(struct edit *e, const char *name)
{
	const struct qcow2_snapshot *s = qcow2_snapshot_find(&e->snapshots, name);

	if (!s)
		err_set(e->err, ENOENT, "%s: has no snapshot '%s'", e->what, name);
	return s;
}

static int apply(struct edit *e, const char *name)
{
	const struct qcow2_snapshot *s = find(e, name);
	_cleanup_free_ uint8_t *now = NULL, *then = NULL;
	uint32_t size;
	int ret;

	if (!s)
		return -ENOENT;
	size = (uint32_t)max_u64(s->l1_size, 1);
	now = load_l1(e, e->h.l1_offset, e->h.l1_size, e->h.l1_size);
	then = load_l1(e, s->l1_offset, s->l1_size, size);
	ret = now && then ? 0 : -ENOMEM;
	/* First up, then down: a cluster of both stays above zero. */
	if (ret == 0)
		ret = refer_l1(e, then, s->l1_size, 1, true);
	if (ret == 0)
		ret = refer_l1(e, now, e->h.l1_size, -1, false);
	drop(e, e->h.l1_offset, e->h.l1_size * 8ull);
	if (ret == 0)
		ret = append(e, then, size * 8ull, &e->h.l1_offset);
	e->h.l1_size = s->l1_size;
	e->h.size = s->size;
	return ret < 0 ? failed(e, ret) : commit(e);
}

static int delete (struct edit *e, const char *name)
{
	const struct qcow2_snapshot *s = find(e, name);
	_cleanup_free_ uint8_t *l1 = NULL;
	int ret;

	if (!s)
		return -ENOENT;
	l1 = load_l1(e, s->l1_offset, s->l1_size, s->l1_size);
	ret = l1 ? refer_l1(e, l1, s->l1_size, -1, false) : -ENOMEM;
	drop(e, s->l1_offset, s->l1_size * 8ull);
	if (ret == 0)
		ret = put_snapshots(e, s, NULL);
	return ret < 0 ? failed(e, ret) : commit(e);
}

static int with_edit(struct file *file, const char *what, const char *name,
		     int (*change)(struct edit *e, const char *name), struct err *err)
{
	struct edit e;
	int ret = begin(&e, file, what, err);

	if (ret == 0)
		ret = change(&e, name);
	end(&e);
	return ret;
}

int qcow2_snapshot_create(struct file *file, const char *what, const char *name, struct err *err)
{
	return with_edit(file, what, name, create, err);
}

int qcow2_snapshot_apply(struct file *file, const char *what, const char *name, struct err *err)
{
	return with_edit(file, what, name, apply, err);
}

int qcow2_snapshot_delete(struct file *file, const char *what, const char *name, struct err *err)
{
	return with_edit(file, what, name, delete, err);
}
