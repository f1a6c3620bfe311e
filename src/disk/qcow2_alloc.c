/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host clusters: finding and freeing ("Host cluster management")
 *
 * First fit from a hint, below which nothing is known to be free. A cluster is
 * allocated by setting its refcount to 1 in the cache.
 *
 * Freeing has three stations, so that no cluster is used again while a mapping
 * in the file may lead to it, whatever a crash leaves there:
 *   unlinked    the mapping in memory is gone;
 *   committing  a commit is writing the tables; when it has succeeded
 *   ready       the refcount is lowered, and where it becomes 0 the space is
 *               given back to the host first.
 * When memory for these lists is missing, clusters are leaked: they stay
 * allocated, which `eyot-img check --repair leaks` finds.
 *
 * Refcount blocks and a longer refcount table are made when the first cluster
 * behind the present ones is wanted. The table's length doubles each time, so
 * that the waiting for the host's disk that this takes is rare.
 */
#include "disk/qcow2.h"

/* So much unlinked space is worth a commit of its own. */
#define UNLINKED_MAX 65536

uint64_t refs_per_block(const struct layer *l)
{
	return l->cluster * 8 >> l->h.refcount_order;
}

/* ---- lists ---- */

void extents_add(struct extents *e, uint64_t first, uint64_t count)
{
	if (e->count) {
		struct extent *last = &e->list[e->count - 1];

		if (last->first + last->count == first) {
			last->count += count;
			return;
		}
	}
	if (e->count == e->room) {
		size_t room = e->room ? e->room * 2 : 64;
		struct extent *list = realloc(e->list, room * sizeof(*list));

		if (!list)
			return; /* leaked */
		e->list = list;
		e->room = room;
	}
	e->list[e->count++] = (struct extent) { first, count };
}

void extents_move(struct extents *to, struct extents *from)
{
	if (!to->count) {
		struct extents t = *to;

		*to = *from;
		*from = t;
		return;
	}
	for (size_t i = 0; i < from->count; i++)
		extents_add(to, from->list[i].first, from->list[i].count);
	from->count = 0;
}

static void add_range(struct layer *l, struct extents *e, uint64_t off, uint64_t len)
{
	uint64_t first = off >> l->cluster_bits, last = (off + len - 1) >> l->cluster_bits;

	extents_add(e, first, last - first + 1);
}

void free_later(struct layer *l, uint64_t off, uint64_t len)
{
	add_range(l, &l->q->unlinked, off, len);
	if (l->q->unlinked.count > UNLINKED_MAX)
		commit_start(l->q);
}

void free_now(struct layer *l, uint64_t off, uint64_t len)
{
	if (l->external)
		return;
	add_range(l, &l->q->ready, off, len);
	freer_wake(l->q);
}

/* ---- refcount structures ---- */

/* A longer table, at the start of the range that the old one does not reach. */
static int grow_table(struct layer *l)
{
	uint64_t per_block = refs_per_block(l), area = l->reftable_size * per_block;
	uint64_t want = l->reftable_size * 2, clusters, blocks = 1, old_size, old_off;
	_cleanup_free_ uint8_t *block = NULL;
	uint8_t *table, field[12];
	int ret = 0;

	if (want * 8 > QCOW2_REFTABLE_BYTES_MAX || area >= 1ull << (56 - l->cluster_bits))
		return -EFBIG;
	clusters = align_up(want * 8, l->cluster) >> l->cluster_bits;
	while (blocks * per_block < clusters + blocks)
		blocks++;
	table = aligned_alloc(PAGE_SIZE, align_up(clusters << l->cluster_bits, PAGE_SIZE));
	block = calloc(1, l->cluster);
	if (!table || !block) {
		free(table);
		return -ENOMEM;
	}
	memset(table, 0, clusters << l->cluster_bits);
	memcpy(table, l->reftable, l->reftable_size * 8);
	for (uint64_t i = 0; i < blocks && !ret; i++) {
		uint64_t at = (area + clusters + i) << l->cluster_bits;

		memset(block, 0, l->cluster);
		for (uint64_t k = i * per_block; k < (i + 1) * per_block && k < clusters + blocks;
		     k++)
			qcow2_refcount_set(block, l->h.refcount_order, k - i * per_block, 1);
		put_be64(table + (l->reftable_size + i) * 8, at);
		ret = file_rw_now(&l->file, true, block, l->cluster, at);
	}
	if (ret == 0)
		ret = file_rw_now(&l->file, true, table, clusters << l->cluster_bits,
				  area << l->cluster_bits);
	if (ret == 0)
		ret = file_sync_now(&l->file);
	if (ret == 0) {
		put_be64(field, area << l->cluster_bits);
		put_be32(field + 8, (uint32_t)clusters);
		ret = header_write(l, QCOW2_AT_REFTABLE, field, sizeof(field));
	}
	if (ret == 0)
		ret = file_sync_now(&l->file);
	if (ret < 0) {
		free(table);
		return ret;
	}
	old_off = l->h.reftable_offset;
	old_size = align_up(l->reftable_size * 8, l->cluster);
	for (uint64_t i = 0; i < clusters + blocks; i++)
		table_note(l, (area + i) << l->cluster_bits);
	free(l->reftable);
	l->reftable = table;
	l->reftable_size = clusters << (l->cluster_bits - 3);
	l->h.reftable_offset = area << l->cluster_bits;
	l->h.reftable_clusters = (uint32_t)clusters;
	l->file_end = max_u64(l->file_end, (area + clusters + blocks) << l->cluster_bits);
	l->q->reftable_dirty = (struct dirty_range) { 0 };
	free_now(l, old_off, old_size);
	return 0;
}

/* A block for the range of @index, in the range's first free cluster: @index itself. */
static int make_block(struct layer *l, uint64_t index)
{
	uint64_t per_block = refs_per_block(l), at = index << l->cluster_bits;
	_cleanup_free_ uint8_t *block = calloc(1, l->cluster);
	int ret;

	if (!block)
		return -ENOMEM;
	if (table_at(l, at, l->cluster))
		return qcow2_corrupt(l, "cluster at %#llx: a table without a refcount",
				     (unsigned long long)at);
	qcow2_refcount_set(block, l->h.refcount_order, index % per_block, 1);
	ret = file_rw_now(&l->file, true, block, l->cluster, at);
	if (ret < 0)
		return ret;
	cache_forget(l, at, l->cluster);
	table_note(l, at);
	put_be64(l->reftable + index / per_block * 8, at);
	dirty_note(&l->q->reftable_dirty, index / per_block * 8, 8);
	l->file_end = max_u64(l->file_end, at + l->cluster);
	return 0;
}

/* The slice with the refcount of cluster @index; *ret_slot NULL: there is no block. */
static int refs_slice(struct layer *l, struct disk_req *req, uint64_t index, struct slot **ret_slot,
		      uint64_t *ret_first, unsigned *ret_count)
{
	uint64_t per_block = refs_per_block(l), entry, at, per_slice;

	*ret_slot = NULL;
	if (index / per_block >= l->reftable_size)
		return 0;
	entry = get_be64(l->reftable + index / per_block * 8);
	if (!(entry & QCOW2_REFTABLE_MASK))
		return 0;
	if (entry % l->cluster || entry + l->cluster > l->file_end || entry > INT64_MAX)
		return qcow2_corrupt(l, "refcount block at %#llx: %s", (unsigned long long)entry,
				     entry % l->cluster ? "not at a cluster's start"
							: "behind the file's end");
	per_slice = (uint64_t)l->q->slice_size * 8 >> l->h.refcount_order;
	at = index % per_block / per_slice * l->q->slice_size;
	*ret_first = align_down(index, per_slice);
	*ret_count = (unsigned)per_slice;
	return cache_get_write(l, entry + at, SLOT_REFS, req, ret_slot);
}

/* Set the refcounts of free clusters from @index on to 1; returns how many. */
static unsigned take_run(struct layer *l, struct slot *slot, uint64_t first, unsigned in_slice,
			 uint64_t index, unsigned want)
{
	unsigned n = 0;

	while (n < want && index + n < first + in_slice &&
	       !qcow2_refcount(slot->data, l->h.refcount_order, index + n - first)) {
		if (table_at(l, (index + n) << l->cluster_bits, l->cluster))
			break;
		n++;
	}
	for (unsigned i = 0; i < n; i++)
		qcow2_refcount_set(slot->data, l->h.refcount_order, index + i - first, 1);
	if (n)
		cache_dirty(l->q, slot);
	return n;
}

int alloc_clusters(struct layer *l, struct disk_req *req, unsigned want, uint64_t *ret_host,
		   unsigned *ret_count, bool *ret_fresh)
{
	struct qcow2 *q = l->q;

	for (;;) {
		uint64_t index = q->free_hint, first = 0;
		unsigned in_slice = 0;
		struct slot *slot;
		int ret;

		if (l->corrupt)
			return -EIO;
		ret = refs_slice(l, req, index, &slot, &first, &in_slice);
		if (ret)
			return ret;
		if (!slot) {
			ret = commit_end_wait(q, req);
			if (ret == 0)
				ret = index / refs_per_block(l) >= l->reftable_size
					  ? grow_table(l)
					  : make_block(l, index);
			if (ret)
				return ret;
			continue;
		}
		while (index < first + in_slice &&
		       qcow2_refcount(slot->data, l->h.refcount_order, index - first))
			index++;
		q->free_hint = index;
		if (index == first + in_slice)
			continue;
		*ret_count = take_run(l, slot, first, in_slice, index, want);
		if (!*ret_count)
			return qcow2_corrupt(l, "cluster at %#llx: a table with refcount 0",
					     (unsigned long long)(index << l->cluster_bits));
		*ret_host = index << l->cluster_bits;
		*ret_fresh = *ret_host >= l->file_end;
		q->free_hint = index + *ret_count;
		l->file_end = max_u64(l->file_end, (index + *ret_count) << l->cluster_bits);
		return 0;
	}
}

/* ---- freeing ---- */

static void lower(struct layer *l, struct slot *slot, uint64_t first, uint64_t index,
		  uint64_t count)
{
	struct qcow2 *q = l->q;
	unsigned order = l->h.refcount_order;

	for (uint64_t i = index; i < index + count; i++) {
		uint64_t refs = qcow2_refcount(slot->data, order, i - first);

		qcow2_refcount_set(slot->data, order, i - first, refs - 1);
		if (refs == 1 && i < q->free_hint)
			q->free_hint = i;
	}
	cache_dirty(q, slot);
}

static void punched(struct disk_req *req, int ret)
{
	struct qcow2 *q = container_of(req, struct qcow2, freer);

	/* Whether it succeeded or not: the space is free for us. */
	enter(q, true);
	q->freer_punched = true;
	req_list_push(&q->runnable, &q->freer);
	qcow2_leave(q);
}

/* Free a run of clusters with alike refcounts from the front of q->freeing. */
static int free_some(struct qcow2 *q)
{
	struct layer *l = q->top;
	struct extent *e = &q->freeing;
	uint64_t first = 0, n = 1, index = e->first, max, refs;
	unsigned in_slice = 0, order = l->h.refcount_order;
	struct slot *slot;
	int ret = refs_slice(l, &q->freer, index, &slot, &first, &in_slice);

	if (ret)
		return ret;
	refs = slot ? qcow2_refcount(slot->data, order, index - first) : 0;
	if (!refs)
		return qcow2_corrupt(l, "cluster at %#llx: its refcount is 0 although it was used",
				     (unsigned long long)(index << l->cluster_bits));
	max = min_u64(e->count, first + in_slice - index);
	while (n < max) {
		uint64_t next = qcow2_refcount(slot->data, order, index + n - first);

		if (!next || (next > 1) != (refs > 1))
			break;
		n++;
	}
	if (q->freer_punched)
		n = min_u64(n, q->punched_count);
	if (table_at(l, index << l->cluster_bits, n << l->cluster_bits))
		return -EIO;
	if (refs == 1 && !q->disk->no_discard && !q->freer_punched) {
		q->punched_count = n;
		q->freer.op = DISK_DISCARD;
		file_start(&l->file, &q->freer, index << l->cluster_bits, n << l->cluster_bits,
			   punched);
		return WAIT;
	}
	q->freer_punched = false;
	lower(l, slot, first, index, n);
	e->first += n;
	e->count -= n;
	return 0;
}

void freer_step(struct qcow2 *q)
{
	for (;;) {
		int ret = q->freer.q.error;

		q->freer.q.error = 0;
		if (ret == 0 && q->freeing.count)
			ret = free_some(q);
		if (ret == WAIT)
			return;
		if (ret < 0) /* leaked */
			q->freeing.count = 0;
		if (q->freeing.count)
			continue;
		q->freer_punched = false;
		if (!q->ready.count)
			break;
		q->freeing = q->ready.list[--q->ready.count];
	}
	q->freer_busy = false;
}

void freer_wake(struct qcow2 *q)
{
	if (q->freer_busy || !q->ready.count)
		return;
	q->freer_busy = true;
	req_list_push(&q->runnable, &q->freer);
}
