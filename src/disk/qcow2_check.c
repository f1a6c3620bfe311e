/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking and repairing qcow2 images at rest
 *
 * First everything that leads to a cluster is followed and counted: header,
 * tables, snapshots, mappings. Then the counts are held against the refcounts
 * in the file, and the flags "refcount is exactly one" against the counts.
 *
 *   error   a refcount that is too low, or a wrong flag or entry: data may get lost
 *   leak    a refcount that is too high: space is wasted
 *
 * Repair of leaks lowers refcounts in place. Repair of all writes a whole new
 * refcount structure from the counts (qcow2_refs.c) and sets the flags
 * right; entries that lead nowhere are told and left. What persistent bitmaps
 * use is not known here, so an image with them is checked but not repaired.
 */
#include "disk/qcow2_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"

struct check {
	struct file *file;
	struct qcow2_header h;
	struct qcow2_snapshots snapshots;
	const char *what;
	const struct qcow2_report *report;
	struct qcow2_check_result *res;
	struct qcow2_refs refs;
	uint64_t cluster, file_clusters;
	uint64_t refcount_errors; /* those that a new refcount structure mends */
	bool repair_flags, flags_changed;
	struct err *err;
};

static void say(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct check *c, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (!c->report)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->report->line(c->report->arg, text);
}

#define ULL(x) ((unsigned long long)(x))

/* Count a reference; false: it leads nowhere. */
static bool refer(struct check *c, const char *name, uint64_t off, uint64_t len)
{
	if (off % c->cluster || off + len > c->file_clusters * c->cluster || off + len < off) {
		say(c, "error: %s at %#llx: %s", name, ULL(off),
		    off % c->cluster ? "not at a cluster's start" : "behind the file's end");
		c->res->errors++;
		return false;
	}
	qcow2_refs_add(&c->refs, off / c->cluster, (len + c->cluster - 1) / c->cluster, 1);
	return true;
}

static int read_failed(struct check *c, const char *name, int ret)
{
	return err_set(c->err, -ret, "%s: %s: %s", c->what, name, strerror(-ret));
}

static void count_entry(struct check *c, uint64_t guest, uint64_t entry, bool active)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	uint32_t len;

	if (entry & QCOW2_COMPRESSED) {
		if (!qcow2_compressed_place(entry, c->h.cluster_bits, &off, &len) ||
		    align_down(off, c->cluster) >= c->file_clusters * c->cluster ||
		    entry & QCOW2_COPIED || c->h.incompatible & QCOW2_INCOMPAT_DATA_FILE) {
			say(c, "error: guest offset %#llx: bad compressed cluster %#llx",
			    ULL(guest), ULL(entry));
			c->res->errors++;
			return;
		}
		qcow2_refs_add(&c->refs, off / c->cluster,
			       (off + len - 1) / c->cluster - off / c->cluster + 1, 1);
		c->res->compressed += active;
		c->res->allocated += active;
		return;
	}
	if (entry & QCOW2_L2_RESERVED || (entry & QCOW2_ZERO && c->h.version < 3)) {
		say(c, "error: guest offset %#llx: reserved bits in entry %#llx", ULL(guest),
		    ULL(entry));
		c->res->errors++;
		return;
	}
	if (c->h.incompatible & QCOW2_INCOMPAT_DATA_FILE) {
		if ((off || entry & QCOW2_COPIED) && off != guest) {
			say(c, "error: guest offset %#llx: at %#llx of the data file", ULL(guest),
			    ULL(off));
			c->res->errors++;
		}
		c->res->allocated += active && (off || entry & QCOW2_COPIED);
		return;
	}
	if (off && refer(c, "data cluster", off, c->cluster))
		c->res->allocated += active && !(entry & QCOW2_ZERO);
}

static int count_l2(struct check *c, uint64_t guest, uint64_t table, bool active)
{
	_cleanup_free_ uint8_t *l2 = malloc(c->cluster);
	int ret = l2 ? file_rw_now(c->file, false, l2, c->cluster, table) : -ENOMEM;

	if (ret < 0)
		return read_failed(c, "L2 table", ret);
	for (uint64_t i = 0; i < c->cluster / 8; i++) {
		uint64_t entry = get_be64(l2 + i * 8);

		if (entry)
			count_entry(c, guest + i * c->cluster, entry, active);
	}
	return 0;
}

static int load_l1(struct check *c, uint64_t off, uint32_t size, uint8_t **ret_l1)
{
	uint64_t bytes = align_up((uint64_t)size * 8, DISK_SECTOR);
	uint8_t *l1 = malloc(bytes + 1);
	int ret = l1 ? file_rw_now(c->file, false, l1, bytes, off) : -ENOMEM;

	if (ret < 0) {
		free(l1);
		return read_failed(c, "L1 table", ret);
	}
	*ret_l1 = l1;
	return 0;
}

static int count_l1(struct check *c, uint64_t off, uint32_t size, bool active)
{
	_cleanup_free_ uint8_t *l1 = NULL;
	uint64_t span = c->cluster / 8 * c->cluster;
	int ret;

	if (!size || !refer(c, "L1 table", off, (uint64_t)size * 8))
		return 0;
	ret = load_l1(c, off, size, &l1);
	for (uint32_t i = 0; i < size && ret == 0; i++) {
		uint64_t entry = get_be64(l1 + (uint64_t)i * 8), at = entry & QCOW2_OFFSET_MASK;

		if (entry & QCOW2_L1_RESERVED) {
			say(c, "error: L1 entry %u: reserved bits are set (%#llx)", i, ULL(entry));
			c->res->errors++;
		} else if (at && refer(c, "L2 table", at, c->cluster)) {
			/* Each L1 table may lead there once: no image can keep us busy for ever. */
			if (qcow2_refs_get(&c->refs, at / c->cluster) <= c->snapshots.count + 1) {
				ret = count_l2(c, i * span, at, active);
			} else {
				say(c, "error: L2 table at %#llx: used more than once", ULL(at));
				c->res->errors++;
			}
		}
	}
	return ret;
}

static int count_all(struct check *c)
{
	const struct qcow2_header *h = &c->h;
	int ret;

	refer(c, "header", 0, c->cluster);
	ret = count_l1(c, h->l1_offset, h->l1_size, true);
	if (h->snapshot_count && ret == 0)
		refer(c, "snapshot table", h->snapshots_offset, c->snapshots.bytes);
	for (uint32_t i = 0; i < c->snapshots.count && ret == 0; i++)
		ret = count_l1(c, c->snapshots.list[i].l1_offset, c->snapshots.list[i].l1_size,
			       false);
	if (ret == 0 && c->refs.failed)
		ret = err_set(c->err, ENOMEM, "%s: out of memory", c->what);
	return ret;
}

/* ---- refcounts ---- */

/* Compare a block with the counts, and lower what is too high if asked to. */
static int check_block(struct check *c, uint64_t number, uint64_t at, bool lower)
{
	uint64_t per_block = c->cluster * 8 >> c->h.refcount_order;
	_cleanup_free_ uint8_t *block = malloc(c->cluster);
	bool changed = false;
	int ret = block ? 0 : -ENOMEM;

	if (ret == 0 && at)
		ret = file_rw_now(c->file, false, block, c->cluster, at);
	else if (ret == 0)
		memset(block, 0, c->cluster);
	if (ret < 0)
		return read_failed(c, "refcount block", ret);
	for (uint64_t i = 0; i < per_block; i++) {
		uint64_t index = number * per_block + i, want = qcow2_refs_get(&c->refs, index);
		uint64_t have = qcow2_refcount(block, c->h.refcount_order, i);

		if (have < want) {
			say(c, "error: cluster %llu at %#llx: used %llu times, refcount is %llu",
			    ULL(index), ULL(index * c->cluster), ULL(want), ULL(have));
			c->res->errors++;
			c->refcount_errors++;
		} else if (have > want && lower) {
			qcow2_refcount_set(block, c->h.refcount_order, i, want);
			c->res->leaks_fixed++;
			changed = true;
		} else if (have > want && !c->h.has_bitmaps) {
			say(c, "leak: cluster %llu at %#llx: used %llu times, refcount is %llu",
			    ULL(index), ULL(index * c->cluster), ULL(want), ULL(have));
			c->res->leaks++;
		}
	}
	ret = changed ? file_rw_now(c->file, true, block, c->cluster, at) : 0;
	return ret < 0 ? read_failed(c, "refcount block", ret) : 0;
}

static int check_refcounts(struct check *c, enum qcow2_repair repair)
{
	uint64_t entries = (uint64_t)c->h.reftable_clusters << (c->h.cluster_bits - 3);
	uint64_t per_block = c->cluster * 8 >> c->h.refcount_order;
	uint64_t blocks = (c->refs.count + per_block - 1) / per_block, errors = c->res->errors;
	_cleanup_free_ uint8_t *table = malloc(entries * 8);
	int ret =
	    table ? file_rw_now(c->file, false, table, entries * 8, c->h.reftable_offset) : -ENOMEM;

	if (ret < 0)
		return read_failed(c, "refcount table", ret);
	if (!refer(c, "refcount table", c->h.reftable_offset, entries * 8))
		memset(table, 0, entries * 8);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t at = get_be64(table + i * 8);

		if (at && (at % DISK_SECTOR || !refer(c, "refcount block", at, c->cluster)))
			put_be64(table + i * 8, 0);
		else if (at && qcow2_refs_get(&c->refs, at / c->cluster) > 1) {
			say(c, "error: refcount block at %#llx: also used for something else",
			    ULL(at));
			c->res->errors++;
			put_be64(table + i * 8, 0); /* each block is looked at once */
		}
	}
	c->refcount_errors += c->res->errors - errors;
	blocks = max_u64(blocks, (c->refs.count + per_block - 1) / per_block);
	for (uint64_t i = 0; i < max_u64(entries, blocks) && ret == 0; i++) {
		uint64_t at = i < entries ? get_be64(table + i * 8) : 0;

		if (at || qcow2_refs_any(&c->refs, i * per_block, per_block))
			ret = check_block(c, i, at, at && repair == QCOW2_REPAIR_LEAKS);
	}
	return ret;
}

/* Take the present refcount structure out of the counts. */
static int uncount_refcounts(struct check *c)
{
	uint64_t entries = (uint64_t)c->h.reftable_clusters << (c->h.cluster_bits - 3);
	_cleanup_free_ uint8_t *table = malloc(entries * 8);
	uint64_t bytes = c->file_clusters * c->cluster;
	int ret =
	    table ? file_rw_now(c->file, false, table, entries * 8, c->h.reftable_offset) : -ENOMEM;

	if (ret < 0)
		return read_failed(c, "refcount table", ret);
	if (c->h.reftable_offset + entries * 8 > bytes)
		return 0; /* it was not counted */
	qcow2_refs_add(&c->refs, c->h.reftable_offset / c->cluster, c->h.reftable_clusters, -1);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t at = get_be64(table + i * 8);

		if (at && at % c->cluster == 0 && at + c->cluster <= bytes && at + c->cluster > at)
			qcow2_refs_add(&c->refs, at / c->cluster, 1, -1);
	}
	return 0;
}

/* ---- the flag "refcount is exactly one" ---- */

static bool fix_flag(struct check *c, const char *name, uint8_t *p, uint64_t guest)
{
	uint64_t entry = get_be64(p), off = entry & QCOW2_OFFSET_MASK;
	bool external = c->h.incompatible & QCOW2_INCOMPAT_DATA_FILE && name[0] == 'd';
	bool single = external || qcow2_refs_get(&c->refs, off / c->cluster) == 1;

	if ((!off && !external) || (external && !off && !(entry & QCOW2_COPIED)) ||
	    !!(entry & QCOW2_COPIED) == single)
		return false;
	if (!c->repair_flags) {
		say(c, "error: %s at %#llx (guest offset %#llx): flagged as used %s", name,
		    ULL(off), ULL(guest),
		    single ? "by others, but is not" : "once, but is used more often");
		c->res->errors++;
		return false;
	}
	put_be64(p, single ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED);
	c->res->errors_fixed++;
	return true;
}

static int check_flags(struct check *c)
{
	uint64_t span = c->cluster / 8 * c->cluster, size = (uint64_t)c->h.l1_size * 8;
	_cleanup_free_ uint8_t *l1 = NULL, *l2 = malloc(c->cluster);
	uint64_t bytes = c->file_clusters * c->cluster;
	bool changed = false;
	int ret = load_l1(c, c->h.l1_offset, c->h.l1_size, &l1);

	if (ret == 0 && !l2)
		ret = read_failed(c, "L2 table", -ENOMEM);
	for (uint64_t i = 0; i < c->h.l1_size && ret == 0; i++) {
		uint64_t off = get_be64(l1 + i * 8) & QCOW2_OFFSET_MASK;
		bool l2_changed = false;

		if (!off || off % c->cluster || off + c->cluster > bytes ||
		    qcow2_refs_get(&c->refs, off / c->cluster) > c->snapshots.count + 1)
			continue;
		changed |= fix_flag(c, "L2 table", l1 + i * 8, i * span);
		ret = file_rw_now(c->file, false, l2, c->cluster, off);
		for (uint64_t k = 0; k < c->cluster / 8 && ret == 0; k++)
			if (get_be64(l2 + k * 8) && !(get_be64(l2 + k * 8) & QCOW2_COMPRESSED))
				l2_changed |= fix_flag(c, "data cluster", l2 + k * 8,
						       i * span + k * c->cluster);
		if (l2_changed && ret == 0)
			ret = file_rw_now(c->file, true, l2, c->cluster, off);
		if (ret < 0)
			ret = read_failed(c, "L2 table", ret);
	}
	if (changed && ret == 0) {
		ret = file_rw_now(c->file, true, l1, align_up(size, DISK_SECTOR), c->h.l1_offset);
		if (ret < 0)
			ret = read_failed(c, "L1 table", ret);
	}
	return ret;
}

/* ---- repair ---- */

static int repair_all(struct check *c)
{
	struct qcow2_check_result *res = c->res;
	int ret = 0;

	if (c->refcount_errors || res->leaks) {
		ret = uncount_refcounts(c);
		if (ret == 0)
			ret = qcow2_refs_write(&c->refs, c->file, &c->h, 0);
		if (ret == -ERANGE)
			return err_set(
			    c->err, ERANGE,
			    "%s: a cluster is used more often than its refcount can tell", c->what);
		if (ret == 0)
			ret = qcow2_header_switch(c->file, &c->h);
		if (ret < 0)
			return read_failed(c, "new refcounts", ret);
		res->errors -= c->refcount_errors;
		res->errors_fixed += c->refcount_errors;
		res->leaks_fixed += res->leaks;
		res->leaks = 0;
	}
	return 0;
}

static int finish_repair(struct check *c)
{
	int ret;

	if (c->res->errors)
		return 0;
	c->h.incompatible &= ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	ret = qcow2_header_switch(c->file, &c->h);
	return ret < 0 ? read_failed(c, "header", ret) : 0;
}

static int run(struct check *c, enum qcow2_repair repair)
{
	int ret = count_all(c);

	if (ret == 0)
		ret = check_refcounts(c, repair);
	if (ret == 0 && repair == QCOW2_REPAIR_ALL)
		ret = repair_all(c);
	c->repair_flags = repair == QCOW2_REPAIR_ALL;
	if (ret == 0)
		ret = check_flags(c);
	if (ret == 0 && repair == QCOW2_REPAIR_ALL)
		ret = finish_repair(c);
	if (ret == 0 && repair == QCOW2_REPAIR_LEAKS)
		ret = file_sync_now(c->file);
	return ret;
}

int qcow2_check_refs(struct file *file, const char *what, enum qcow2_repair repair,
		     const struct qcow2_report *report, struct qcow2_check_result *result,
		     struct qcow2_refs *refs, struct err *err)
{
	struct check c = {
		.file = file, .what = what, .report = report, .res = result, .err = err
	};
	struct stat st;
	int ret;

	memset(result, 0, sizeof(*result));
	if (fstat(file->fd, &st) < 0)
		return err_set(err, errno, "%s: %s", what, strerror(errno));
	if (S_ISREG(st.st_mode))
		file->eof = (uint64_t)st.st_size;
	ret = qcow2_header_read(file, what, &c.h, err);
	if (ret == 0 && repair && c.h.has_bitmaps)
		ret = err_set(err, ENOTSUP,
			      "%s: has persistent bitmaps, which are lost to a repair by Eyot: use "
			      "qemu-img check -r",
			      what);
	if (ret == 0)
		ret = qcow2_snapshots_read(file, what, &c.h, &c.snapshots, err);
	if (ret < 0)
		return ret;
	c.cluster = 1ull << c.h.cluster_bits;
	c.file_clusters = (file->eof + c.cluster - 1) >> c.h.cluster_bits;
	result->clusters = (c.h.size + c.cluster - 1) >> c.h.cluster_bits;
	ret = run(&c, repair);
	if (ret == 0 && refs)
		ret = uncount_refcounts(&c);
	if (ret == 0 && refs) {
		*refs = c.refs;
		c.refs = (struct qcow2_refs) { 0 };
	}
	if (fstat(file->fd, &st) == 0)
		result->file_size = (uint64_t)st.st_size;
	qcow2_snapshots_done(&c.snapshots);
	qcow2_refs_done(&c.refs);
	return ret;
}
