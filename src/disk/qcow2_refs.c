/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refcounts of a whole image in memory
 *
 * What works on images at rest (repair, snapshots, resizing, new images) counts
 * every cluster, changes the counts as it likes, and writes a new refcount
 * structure behind the rest of the file. Then one sector of the header leads to
 * all new tables at once: before that write the old image is whole, after it the
 * new one. The old structure's clusters are free in the new one.
 */
#include <sys/mman.h>

#include "base/util.h"
#include "disk/qcow2_check.h"

#define REFS_PAGE 1024u

/* Zeros that cost memory only where something is counted: a file may be far longer than what it
 * holds. */
static void *grow(void *old, uint64_t old_len, uint64_t len)
{
	void *p = old ? mremap(old, old_len, len, MREMAP_MAYMOVE)
		      : mmap(NULL, len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool make_room(struct qcow2_refs *r, uint64_t count)
{
	uint64_t room = r->room ? r->room : PAGE_SIZE * REFS_PAGE;
	void *counts, *touched;

	if (count > UINT32_MAX) {
		r->failed = true;
		return false;
	}
	while (room < count)
		room *= 2;
	if (room > r->room) {
		counts = grow(r->counts, r->room * sizeof(*r->counts), room * sizeof(*r->counts));
		if (counts)
			r->counts = counts;
		touched = counts ? grow(r->touched, r->room / REFS_PAGE, room / REFS_PAGE) : NULL;
		if (!touched) {
			r->failed = true;
			return false;
		}
		r->touched = touched;
		r->room = room;
	}
	r->count = max_u64(r->count, count);
	return true;
}

void qcow2_refs_done(struct qcow2_refs *r)
{
	if (r->counts)
		munmap(r->counts, r->room * sizeof(*r->counts));
	if (r->touched)
		munmap(r->touched, r->room / REFS_PAGE);
	*r = (struct qcow2_refs) { 0 };
}

uint32_t qcow2_refs_get(const struct qcow2_refs *r, uint64_t cluster)
{
	return cluster < r->count ? r->counts[cluster] : 0;
}

void qcow2_refs_add(struct qcow2_refs *r, uint64_t cluster, uint64_t count, int by)
{
	if (!count || !make_room(r, cluster + count))
		return;
	for (uint64_t i = cluster; i < cluster + count; i++) {
		r->counts[i] = (uint32_t)((int64_t)r->counts[i] + by);
		r->touched[i / REFS_PAGE] = 1;
	}
}

bool qcow2_refs_any(const struct qcow2_refs *r, uint64_t cluster, uint64_t count)
{
	uint64_t end = min_u64(cluster + count, r->count);

	for (uint64_t i = cluster; i < end; i++) {
		if (!r->touched[i / REFS_PAGE])
			i |= REFS_PAGE - 1;
		else if (r->counts[i])
			return true;
	}
	return false;
}

uint64_t qcow2_refs_append(struct qcow2_refs *r, uint64_t count)
{
	uint64_t first = r->count;

	qcow2_refs_add(r, first, count, 1);
	return first;
}

static uint64_t max_refs(unsigned order)
{
	return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

/* How many blocks describe everything, themselves and the table included; the table's clusters */
static void measure(const struct qcow2_refs *r, const struct qcow2_header *h, uint64_t spare,
		    uint64_t *ret_blocks, uint64_t *ret_table)
{
	uint64_t per_block = (8ull << h->cluster_bits) >> h->refcount_order;
	uint64_t per_table = 1ull << (h->cluster_bits - 3), used = 0, blocks = 0, table = 0, last;
	uint64_t tail = r->count / per_block; /* the first block that new clusters fall into */

	for (uint64_t b = 0; b < tail; b++)
		used += qcow2_refs_any(r, b * per_block, per_block);
	for (;;) {
		last = (r->count + blocks + table) / per_block; /* one too many at worst */
		if (blocks == used + last - tail + 1 && table * per_table >= last + 1 + spare)
			break;
		blocks = used + last - tail + 1;
		table = max_u64(table, (last + 1 + spare + per_table - 1) / per_table);
	}
	*ret_blocks = blocks;
	*ret_table = table;
}

int qcow2_refs_write(struct qcow2_refs *r, struct file *file, struct qcow2_header *h,
		     uint64_t spare)
{
	uint64_t cluster = 1ull << h->cluster_bits, blocks, table, first, at;
	uint64_t per_block = cluster * 8 >> h->refcount_order, limit = max_refs(h->refcount_order);
	_cleanup_free_ uint8_t *block = NULL, *tab = NULL;
	int ret = 0;

	measure(r, h, spare, &blocks, &table);
	first = qcow2_refs_append(r, blocks + table);
	block = malloc(cluster);
	tab = calloc(table, cluster);
	if (r->failed || !block || !tab)
		return -ENOMEM;
	if (table << h->cluster_bits > QCOW2_REFTABLE_BYTES_MAX)
		return -EFBIG;
	at = first + table;
	for (uint64_t b = 0; b * per_block < r->count && !ret; b++) {
		if (!qcow2_refs_any(r, b * per_block, per_block))
			continue;
		memset(block, 0, cluster);
		for (uint64_t i = 0; i < per_block && b * per_block + i < r->count; i++) {
			uint32_t refs = r->counts[b * per_block + i];

			if (refs > limit)
				return -ERANGE;
			if (refs)
				qcow2_refcount_set(block, h->refcount_order, i, refs);
		}
		put_be64(tab + b * 8, at << h->cluster_bits);
		ret = file_rw_now(file, true, block, cluster, at++ << h->cluster_bits);
	}
	if (ret == 0)
		ret = file_rw_now(file, true, tab, table << h->cluster_bits,
				  first << h->cluster_bits);
	h->reftable_offset = first << h->cluster_bits;
	h->reftable_clusters = (uint32_t)table;
	return ret;
}

int qcow2_header_switch(struct file *file, const struct qcow2_header *h)
{
	uint8_t head[DISK_SECTOR];
	int ret = file_sync_now(file);

	if (ret == 0)
		ret = file_rw_now(file, false, head, sizeof(head), 0);
	if (ret < 0)
		return ret;
	put_be64(head + QCOW2_AT_SIZE, h->size);
	put_be32(head + QCOW2_AT_L1_SIZE, h->l1_size);
	put_be64(head + QCOW2_AT_L1_OFFSET, h->l1_offset);
	put_be64(head + QCOW2_AT_REFTABLE, h->reftable_offset);
	put_be32(head + QCOW2_AT_REFTABLE_CLUSTERS, h->reftable_clusters);
	put_be32(head + QCOW2_AT_SNAPSHOTS, h->snapshot_count);
	put_be64(head + QCOW2_AT_SNAPSHOTS_OFFSET, h->snapshots_offset);
	if (h->version >= 3) {
		put_be64(head + QCOW2_AT_INCOMPATIBLE, h->incompatible);
		put_be64(head + QCOW2_AT_AUTOCLEAR, h->autoclear);
	}
	ret = file_rw_now(file, true, head, sizeof(head), 0);
	return ret == 0 ? file_sync_now(file) : ret;
}
