/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings: from guest offsets to what is stored ("Cluster mapping")
 *
 * Every table offset and entry is checked when it is used: aligned, inside the
 * file, no reserved bits, and, before anything is written there, not a table
 * itself. What fails makes the request fail with -EIO and marks the image.
 *
 * A hole shows the next file of the chain; behind that file's end, and at the
 * end of the chain, are zeros.
 */
#include "disk/qcow2.h"

uint64_t l2_span(const struct layer *l)
{
	return l->cluster / 8 * l->cluster;
}

static uint64_t l1_index(const struct layer *l, uint64_t off)
{
	return off / l2_span(l);
}

bool l1_present(const struct layer *l, uint64_t off)
{
	return get_be64(l->l1 + l1_index(l, off) * 8) & QCOW2_OFFSET_MASK;
}

/* Where the L2 table for @off is; 0: there is none; -EIO */
static int l2_table(struct layer *l, uint64_t off, uint64_t *ret_table, bool *ret_copied)
{
	uint64_t index = l1_index(l, off), entry = get_be64(l->l1 + index * 8);
	uint64_t table = entry & QCOW2_OFFSET_MASK;

	*ret_table = table;
	*ret_copied = entry & QCOW2_COPIED;
	if (entry & QCOW2_L1_RESERVED)
		return qcow2_corrupt(l, "L1 entry %llu: reserved bits are set (%#llx)",
				     (unsigned long long)index, (unsigned long long)entry);
	if (table % l->cluster || (table && table + l->cluster > l->file_end))
		return qcow2_corrupt(l, "L2 table at %#llx: %s", (unsigned long long)table,
				     table % l->cluster ? "not at a cluster's start"
							: "behind the file's end");
	return 0;
}

static int bad_entry(struct layer *l, uint64_t off, uint64_t entry, const char *why)
{
	return qcow2_corrupt(l, "L2 entry of guest offset %#llx (%#llx): %s",
			     (unsigned long long)align_down(off, l->cluster),
			     (unsigned long long)entry, why);
}

int parse_entry(struct layer *l, uint64_t off, uint64_t entry, struct mapping *m)
{
	m->entry = entry;
	m->copied = entry & QCOW2_COPIED;
	m->host = entry & QCOW2_OFFSET_MASK;
	if (entry & QCOW2_COMPRESSED) {
		if (l->external)
			return bad_entry(l, off, entry, "compressed, with an external data file");
		m->kind = MAP_COMPRESSED;
		m->copied = false;
		return 0;
	}
	if (entry & QCOW2_L2_RESERVED)
		return bad_entry(l, off, entry, "reserved bits are set");
	if (entry & QCOW2_ZERO && l->h.version < 3)
		return bad_entry(l, off, entry, "zero cluster in an image of version 2");
	if (m->host % l->cluster)
		return bad_entry(l, off, entry, "not at a cluster's start");
	if (l->external && (m->host || m->copied) && m->host != align_down(off, l->cluster))
		return bad_entry(l, off, entry, "not at the guest's offset in the data file");
	if (entry & QCOW2_ZERO)
		m->kind = MAP_ZERO;
	else if (m->host || (l->external && m->copied))
		m->kind = MAP_DATA;
	else if (m->copied)
		return bad_entry(l, off, entry, "marked as allocated, at offset 0");
	else
		m->kind = MAP_HOLE;
	return 0;
}

static bool goes_on(const struct layer *l, const struct mapping *first, const struct mapping *m,
		    uint64_t clusters)
{
	if (m->kind != first->kind || m->copied != first->copied)
		return false;
	switch (m->kind) {
	case MAP_HOLE:
		return true;
	case MAP_ZERO:
		return !m->host == !first->host;
	case MAP_DATA:
		return m->host == first->host + clusters * l->cluster;
	case MAP_COMPRESSED:
		break;
	}
	return false;
}

int layer_map(struct layer *l, struct disk_req *req, uint64_t off, uint64_t len,
	      struct mapping *ret)
{
	uint64_t table, in_cluster, span, index, got, count = 1;
	struct slot *slot;
	bool copied;
	int res;

	*ret = (struct mapping) { .kind = MAP_HOLE, .layer = l };
	if (l->raw) {
		ret->kind = MAP_DATA;
		ret->host = off;
		ret->len = len;
		return 0;
	}
	in_cluster = off % l->cluster;
	span = l2_span(l);
	res = l2_table(l, off, &table, &copied);
	if (res < 0)
		return res;
	if (!table) {
		ret->len = min_u64(len, span - off % span);
		return 0;
	}
	index = off / l->cluster % (l->cluster / 8) * 8; /* in bytes */
	res = cache_get(l, table + index, SLOT_L2, req, &slot);
	if (res)
		return res;
	index %= l->q->slice_size;
	res = parse_entry(l, off, get_be64(slot->data + index), ret);
	if (res < 0)
		return res;
	for (got = l->cluster - in_cluster; got < len; got += l->cluster, count++) {
		struct mapping m;

		if (index + count * 8 >= l->q->slice_size || ret->kind == MAP_COMPRESSED)
			break;
		if (parse_entry(l, off + got, get_be64(slot->data + index + count * 8), &m) < 0 ||
		    !goes_on(l, ret, &m, count))
			break;
	}
	ret->len = min_u64(got, len);
	/* A table that is shared makes all below it shared. */
	ret->copied &= copied;
	if (ret->kind == MAP_DATA)
		ret->host += in_cluster;
	return 0;
}

int chain_map(struct layer *l, struct disk_req *req, uint64_t off, uint64_t len,
	      struct mapping *ret)
{
	for (; l && off < l->size; l = l->backing) {
		int res = layer_map(l, req, off, min_u64(len, l->size - off), ret);

		if (res || ret->kind != MAP_HOLE)
			return res;
		len = ret->len;
	}
	*ret = (struct mapping) { .kind = MAP_ZERO, .len = len };
	return 0;
}

bool hole_is_zero(const struct layer *l, uint64_t off)
{
	return !l->backing || off >= l->backing->size;
}

/* ---- changes ---- */

static void l1_set(struct layer *l, uint64_t off, uint64_t entry)
{
	uint64_t at = l1_index(l, off) * 8;

	put_be64(l->l1 + at, entry);
	dirty_note(&l->q->l1_dirty, at, 8);
}

/* Tables are few; making one waits for the host, but not for its disk. */
int l2_ensure(struct layer *l, struct disk_req *req, uint64_t off)
{
	uint64_t old, host = 0;
	_cleanup_free_ uint8_t *buf = NULL;
	unsigned count;
	bool copied, fresh;
	int ret = l2_table(l, off, &old, &copied);

	if (ret < 0 || (old && copied))
		return ret;
	/* What leads to a new table must not get into the file before the table is safe there. */
	ret = commit_end_wait(l->q, req);
	if (ret == 0)
		ret = alloc_clusters(l, req, 1, &host, &count, &fresh);
	if (ret)
		return ret;
	buf = calloc(1, l->cluster);
	ret = buf ? 0 : -ENOMEM;
	if (ret == 0 && old)
		ret = file_rw_now(&l->file, false, buf, l->cluster, old);
	if (ret == 0)
		ret = file_rw_now(&l->file, true, buf, l->cluster, host);
	if (ret < 0) {
		free_now(l, host, l->cluster);
		return ret;
	}
	cache_forget(l, host, l->cluster);
	table_note(l, host);
	l1_set(l, off, host | QCOW2_COPIED);
	if (old)
		free_later(l, old, l->cluster);
	return 0;
}

int l2_slice(struct layer *l, struct disk_req *req, uint64_t off, struct slot **ret_slot,
	     unsigned *ret_index, unsigned *ret_left)
{
	uint64_t table, index = off / l->cluster % (l->cluster / 8) * 8;
	bool copied;
	int ret = l2_table(l, off, &table, &copied);

	if (ret == 0)
		ret = commit_links_wait(l->q, req);
	if (ret == 0 && (!table || !copied))
		ret = -EIO; /* l2_ensure() came before */
	if (ret == 0)
		ret = cache_get_write(l, table + index, SLOT_L2, req, ret_slot);
	if (ret)
		return ret;
	index %= l->q->slice_size;
	*ret_index = (unsigned)index / 8;
	*ret_left = l->q->slice_size / 8 - *ret_index;
	return 0;
}

int l2_set(struct layer *l, struct slot *slot, unsigned index, uint64_t entry)
{
	uint8_t *p = slot->data + (size_t)index * 8;
	uint64_t old = get_be64(p), off;
	uint32_t len;

	if (old == entry)
		return 0;
	if (old & QCOW2_COMPRESSED) {
		if (!qcow2_compressed_place(old, l->cluster_bits, &off, &len))
			return qcow2_corrupt(l, "compressed cluster (%#llx): no possible place",
					     (unsigned long long)old);
		free_later(l, off, len);
	} else if (!l->external && old & QCOW2_OFFSET_MASK &&
		   (old & QCOW2_OFFSET_MASK) != (entry & QCOW2_OFFSET_MASK)) {
		free_later(l, old & QCOW2_OFFSET_MASK, l->cluster);
	}
	put_be64(p, entry);
	cache_dirty(l->q, slot);
	return 0;
}
