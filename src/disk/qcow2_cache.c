/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of table slices, and the pool of bounce buffers
 *
 * L2 tables and refcount blocks are cached in slices of up to 4 KiB, found by
 * their place in the file: random access to a large disk reads 4 KiB a miss, not
 * a cluster. One cache serves all files of the chain. Its memory is reserved at
 * once and touched as it is used.
 *
 * Invariants
 * 1. A slot that is loading or being written does not change and is not evicted.
 * 2. A dirty slot is ready (or being written again later) and stands in the
 *    list of its kind; it leaves only through a commit.
 * 3. When half of the slots are dirty a commit is started, so that there is
 *    always something to evict soon.
 */
#include <sys/mman.h>

#include "disk/qcow2.h"

#define CACHE_BYTES MIB(32)
#define SLOTS_MIN 64
#define BOUNCE_BYTES MIB(4)
#define BOUNCE_MAX 16

static unsigned hash_of(const struct qcow2 *q, const struct layer *l, uint64_t off)
{
	uint64_t h = (off / q->slice_size) * 0x9e3779b97f4a7c15ull + (uintptr_t)l * 0x85ebca6bull;

	return (unsigned)(h >> 32) & q->hash_mask;
}

static void lru_unlink(struct slot *s)
{
	s->lru_prev->lru_next = s->lru_next;
	s->lru_next->lru_prev = s->lru_prev;
}

static void lru_front(struct qcow2 *q, struct slot *s)
{
	s->lru_next = q->lru.lru_next;
	s->lru_prev = &q->lru;
	q->lru.lru_next->lru_prev = s;
	q->lru.lru_next = s;
}

static void hash_remove(struct qcow2 *q, struct slot *s)
{
	struct slot **p = &q->hash[hash_of(q, s->layer, s->off)];

	while (*p != s)
		p = &(*p)->hash_next;
	*p = s->hash_next;
	s->state = SLOT_EMPTY;
}

static struct slot *find(struct qcow2 *q, const struct layer *l, uint64_t off)
{
	struct slot *s = q->hash[hash_of(q, l, off)];

	while (s && (s->layer != l || s->off != off))
		s = s->hash_next;
	return s;
}

/* A slot to fill; NULL: all are in use. */
static struct slot *take_slot(struct qcow2 *q)
{
	struct slot *s;

	if (q->slots_used < q->slot_count) {
		s = &q->slots[q->slots_used];
		s->data = q->slot_data + (size_t)q->slots_used++ * q->slice_size;
		req_list_init(&s->waiters);
		lru_front(q, s);
		return s;
	}
	for (s = q->lru.lru_prev; s != &q->lru; s = s->lru_prev) {
		if (s->state == SLOT_EMPTY)
			return s;
		if (s->state == SLOT_READY && !s->dirty) {
			hash_remove(q, s);
			return s;
		}
	}
	return NULL;
}

static void loaded(struct disk_req *req, int ret)
{
	struct slot *s = container_of(req, struct slot, req);
	struct qcow2 *q = s->layer->q;

	enter(q, true);
	s->state = SLOT_READY;
	if (ret < 0)
		hash_remove(q, s);
	qcow2_wake(q, &s->waiters, ret);
	qcow2_leave(q);
}

static void load(struct slot *s)
{
	s->state = SLOT_LOADING;
	s->iov = (struct iovec) { s->data, s->layer->q->slice_size };
	s->req.op = DISK_READ;
	s->req.iov = &s->iov;
	s->req.iov_count = 1;
	file_start(&s->layer->file, &s->req, s->off, s->iov.iov_len, loaded);
}

int cache_get(struct layer *l, uint64_t off, enum slot_kind kind, struct disk_req *req,
	      struct slot **ret)
{
	struct qcow2 *q = l->q;
	struct slot *s;

	off = align_down(off, q->slice_size);
	s = find(q, l, off);
	if (!s) {
		if (!req)
			return WAIT;
		s = take_slot(q);
		if (!s) {
			commit_start(q);
			req_list_push(&q->commit.end, req);
			return WAIT;
		}
		s->layer = l;
		s->off = off;
		s->kind = kind;
		s->dirty = false;
		s->hash_next = q->hash[hash_of(q, l, off)];
		q->hash[hash_of(q, l, off)] = s;
		load(s);
	}
	if (s->kind != kind)
		return qcow2_corrupt(l, "cluster at %#llx: is an L2 table and a refcount block",
				     (unsigned long long)align_down(off, l->cluster));
	lru_unlink(s);
	lru_front(q, s);
	if (s->state == SLOT_LOADING) {
		if (req)
			req_list_push(&s->waiters, req);
		return WAIT;
	}
	*ret = s;
	return 0;
}

int cache_get_write(struct layer *l, uint64_t off, enum slot_kind kind, struct disk_req *req,
		    struct slot **ret)
{
	int got = cache_get(l, off, kind, req, ret);

	if (got == 0 && (*ret)->state == SLOT_WRITING) {
		req_list_push(&(*ret)->waiters, req);
		return WAIT;
	}
	return got;
}

void cache_dirty(struct qcow2 *q, struct slot *s)
{
	if (s->dirty)
		return;
	s->dirty = true;
	s->dirty_next = q->dirty[s->kind];
	q->dirty[s->kind] = s;
	if (++q->dirty_count > q->slot_count / 2)
		commit_start(q);
}

/* The clusters were free until now: what was cached of them is of another time. */
void cache_forget(struct layer *l, uint64_t off, uint64_t len)
{
	for (uint64_t at = off; at < off + len; at += l->q->slice_size) {
		struct slot *s = find(l->q, l, at);

		if (s && s->state == SLOT_READY && !s->dirty)
			hash_remove(l->q, s);
	}
}

void cache_written(struct qcow2 *q, struct slot *s)
{
	s->state = SLOT_READY;
	qcow2_wake(q, &s->waiters, 0);
}

/* ---- bounce buffers ---- */

struct bounce *bounce_find(struct qcow2 *q, const struct layer *l, uint64_t entry)
{
	for (unsigned i = 0; i < q->bounce_count; i++)
		if (q->bounces[i].key_layer == l && q->bounces[i].key_entry == entry)
			return &q->bounces[i];
	return NULL;
}

struct bounce *bounce_get(struct qcow2 *q, struct disk_req *req)
{
	struct bounce *best = NULL;

	for (unsigned i = 0; i < q->bounce_count; i++) {
		struct bounce *b = &q->bounces[i];

		if (!b->used && (!best || !b->key_layer))
			best = b;
	}
	if (!best) {
		req_list_push(&q->bounce_waiters, req);
		return NULL;
	}
	best->used = true;
	best->key_layer = NULL;
	return best;
}

void bounce_put(struct qcow2 *q, struct bounce *b)
{
	b->used = false;
	qcow2_wake(q, &q->bounce_waiters, 0);
}

/* ---- life ---- */

static void *reserve(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static uint64_t max_cluster(const struct qcow2 *q)
{
	uint64_t max = 0;

	for (const struct layer *l = q->top; l; l = l->backing)
		max = max_u64(max, l->cluster);
	return max;
}

int cache_init(struct qcow2 *q, struct err *err)
{
	uint64_t cluster = max_cluster(q), buckets = 1, slices = SLOTS_MIN;

	/* All tables of a chain of small disks fit; large ones share what there is. */
	for (const struct layer *l = q->top; l; l = l->backing)
		if (!l->raw)
			slices += 2 * (l->size >> l->cluster_bits) * 8 / q->slice_size + SLOTS_MIN;
	q->slot_count = (unsigned)min_u64(slices, CACHE_BYTES / q->slice_size);
	while (buckets < q->slot_count)
		buckets *= 2;
	q->hash_mask = (unsigned)buckets - 1;
	q->slots = calloc(q->slot_count, sizeof(*q->slots));
	q->hash = calloc(buckets, sizeof(struct slot *));
	q->slot_data_len = align_up((size_t)q->slot_count * q->slice_size, PAGE_SIZE);
	q->slot_data = reserve(q->slot_data_len);
	q->lru.lru_next = q->lru.lru_prev = &q->lru;

	q->bounce_count = (unsigned)min_u64(BOUNCE_MAX, max_u64(2, BOUNCE_BYTES / cluster));
	q->bounces = calloc(q->bounce_count, sizeof(*q->bounces));
	/* A compressed cluster has up to twice its size in sectors, see its descriptor. */
	q->bounce_data_len = q->bounce_count * (size_t)(4 * cluster + 4 * PAGE_SIZE);
	q->bounce_data = reserve(q->bounce_data_len);
	req_list_init(&q->bounce_waiters);
	if (!q->slots || !q->hash || !q->slot_data || !q->bounces || !q->bounce_data)
		return err_set(err, ENOMEM, "disk '%s': out of memory", q->top->path);
	for (unsigned i = 0; i < q->bounce_count; i++) {
		struct bounce *b = &q->bounces[i];

		b->buf = q->bounce_data + i * (size_t)(4 * cluster + 4 * PAGE_SIZE);
		b->unpacked = b->buf + align_up(cluster, PAGE_SIZE);
		b->packed = b->unpacked + align_up(cluster, PAGE_SIZE);
	}
	return 0;
}

void cache_done(struct qcow2 *q)
{
	if (q->slot_data)
		munmap(q->slot_data, q->slot_data_len);
	if (q->bounce_data)
		munmap(q->bounce_data, q->bounce_data_len);
	free(q->slots);
	free(q->hash);
	free(q->bounces);
}
