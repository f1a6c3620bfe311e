/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing tables back, in an order that survives a crash
 *
 * Whatever part of what was not synced a crash leaves, the image must be
 * consistent, but for leaked clusters, and must hold what was flushed. A
 * commit makes it so in steps, each of which is on the disk before the next
 * one begins:
 *
 *   1. refcount blocks; the data that writes have stored so far
 *   2. the refcount table, when a block was added
 *   3. L2 tables: they lead to data of step 1, which has its refcounts
 *   4. the L1 table, when an L2 table was added
 *   5. clusters that no table leads to any more are freed
 *
 * Steps with nothing to write are left out: a flush of writes in place is one
 * fdatasync. Flushes that arrive meanwhile share the next commit.
 *
 * Invariants
 * 1. Between the start of a commit that writes L2 tables and the end of their
 *    writing no L2 entry changes: a later one would lead to data that step 1
 *    did not sync. Such requests wait in `links`.
 * 2. No table is added to the L1 or refcount table while a commit runs.
 * 3. Refcounts may change at any time: a raised one is a leak at worst, and
 *    lowered are only those that the file's tables do not count on.
 * 4. A commit that fails leaves what it did not write dirty, and what it did
 *    not free unlinked: the next one tries again.
 */
#include "disk/qcow2.h"

void dirty_note(struct dirty_range *d, uint64_t off, uint64_t len)
{
	if (d->lo == d->hi)
		*d = (struct dirty_range) { off, off + len };
	d->lo = min_u64(d->lo, off);
	d->hi = max_u64(d->hi, off + len);
}

static bool is_dirty(const struct dirty_range *d)
{
	return d->lo != d->hi;
}

bool commit_is_clean(const struct qcow2 *q)
{
	return q->commit.phase == COMMIT_IDLE && !q->commit.again && !q->dirty_count &&
	       !is_dirty(&q->l1_dirty) && !is_dirty(&q->reftable_dirty) && !q->unlinked.count &&
	       !q->ready.count && !q->freer_busy;
}

void commit_start(struct qcow2 *q)
{
	q->commit.again = true;
}

void commit_flush(struct qcow2 *q, struct disk_req *req)
{
	req_list_push(&q->commit.next, req);
	commit_start(q);
}

int commit_links_wait(struct qcow2 *q, struct disk_req *req)
{
	struct commit *c = &q->commit;

	if (!c->has_l2 || c->phase == COMMIT_IDLE || c->phase > COMMIT_L2)
		return 0;
	req_list_push(&c->links, req);
	return WAIT;
}

int commit_end_wait(struct qcow2 *q, struct disk_req *req)
{
	if (q->commit.phase == COMMIT_IDLE)
		return 0;
	req_list_push(&q->commit.end, req);
	return WAIT;
}

static void advance(struct qcow2 *q);

static void op_done(struct qcow2 *q, int ret)
{
	if (ret < 0 && !q->commit.error)
		q->commit.error = ret;
	if (!--q->commit.pending)
		advance(q);
}

/* ---- slots ---- */

static void slot_written(struct disk_req *req, int ret)
{
	struct slot *s = container_of(req, struct slot, req);
	struct qcow2 *q = s->layer->q;

	enter(q, true);
	cache_written(q, s);
	if (ret < 0)
		cache_dirty(q, s);
	op_done(q, ret);
	qcow2_leave(q);
}

static void write_slots(struct qcow2 *q, enum slot_kind kind)
{
	struct slot *s = q->dirty[kind], *next;

	q->dirty[kind] = NULL;
	for (; s; s = next) {
		next = s->dirty_next;
		s->dirty = false;
		q->dirty_count--;
		s->state = SLOT_WRITING;
		s->iov = (struct iovec) { s->data, q->slice_size };
		s->req.op = DISK_WRITE;
		s->req.iov = &s->iov;
		s->req.iov_count = 1;
		q->commit.pending++;
		q->commit.wrote = true;
		file_start(&s->layer->file, &s->req, s->off, q->slice_size, slot_written);
	}
}

/* ---- tables and syncs ---- */

static void table_written(struct disk_req *req, int ret)
{
	struct qcow2 *q = container_of(req, struct qcow2, commit.table_req);
	bool l1 = q->commit.phase == COMMIT_L1;

	enter(q, true);
	if (ret < 0) /* no tables were added meanwhile: the range is still the one written */
		dirty_note(l1 ? &q->l1_dirty : &q->reftable_dirty, req->off, req->len);
	op_done(q, ret);
	qcow2_leave(q);
}

static void write_table(struct qcow2 *q, uint8_t *table, uint64_t at, struct dirty_range *dirty)
{
	struct disk_req *req = &q->commit.table_req;
	uint64_t lo = align_down(dirty->lo, DISK_SECTOR), hi = align_up(dirty->hi, DISK_SECTOR);

	if (!is_dirty(dirty))
		return;
	*dirty = (struct dirty_range) { 0 };
	q->commit.table_iov = (struct iovec) { table + lo, hi - lo };
	req->op = DISK_WRITE;
	req->off = lo;
	req->len = hi - lo;
	req->iov = &q->commit.table_iov;
	req->iov_count = 1;
	q->commit.pending++;
	q->commit.wrote = true;
	file_start(&q->top->file, req, at + lo, hi - lo, table_written);
}

static void synced(struct disk_req *req, int ret)
{
	struct qcow2 *q = req->q.top->q;

	enter(q, true);
	op_done(q, ret);
	qcow2_leave(q);
}

static void sync_files(struct qcow2 *q)
{
	struct layer *l = q->top;

	for (unsigned i = 0; i < (l->external ? 2 : 1); i++) {
		struct disk_req *req = &q->commit.sync_req[i];

		req->op = DISK_FLUSH;
		req->q.top = l;
		q->commit.pending++;
		file_start(i ? &l->data_file : &l->file, req, 0, 0, synced);
	}
}

/* ---- phases ---- */

static void end_commit(struct qcow2 *q)
{
	struct commit *c = &q->commit;
	struct disk_req *req;
	int error = c->error;

	c->phase = COMMIT_IDLE;
	extents_move(error ? &q->unlinked : &q->ready, &q->committing);
	freer_wake(q);
	qcow2_wake(q, &c->links, 0);
	qcow2_wake(q, &c->end, error);
	while ((req = req_list_pop(&c->now)))
		qcow2_finish(q, req, error);
}

static void begin_commit(struct qcow2 *q)
{
	struct commit *c = &q->commit;

	c->again = false;
	c->error = q->top->corrupt ? -EIO : 0;
	c->pending = 0;
	c->has_l2 = q->dirty[SLOT_L2];
	c->now = c->next;
	if (!c->now.head)
		req_list_init(&c->now);
	req_list_init(&c->next);
	extents_move(&q->committing, &q->unlinked);
	c->phase = COMMIT_REFS;
	if (!c->error)
		write_slots(q, SLOT_REFS);
}

/* Nothing of the present phase is in flight: go on to the next one that has something to do. */
static void advance(struct qcow2 *q)
{
	struct commit *c = &q->commit;
	struct layer *l = q->top;

	while (!c->pending) {
		if (c->error || c->phase == COMMIT_SYNC_L1) {
			end_commit(q);
			return;
		}
		switch (c->phase++) {
		case COMMIT_REFS:
			sync_files(q);
			c->wrote = false;
			break;
		case COMMIT_SYNC_DATA:
			write_table(q, l->reftable, l->h.reftable_offset, &q->reftable_dirty);
			break;
		case COMMIT_REFTABLE:
		case COMMIT_L2:
		case COMMIT_L1:
			if (c->phase - 1 == COMMIT_L2)
				qcow2_wake(q, &c->links, 0);
			if (c->wrote)
				sync_files(q);
			c->wrote = false;
			break;
		case COMMIT_SYNC_REFTABLE:
			if (c->has_l2)
				write_slots(q, SLOT_L2);
			break;
		case COMMIT_SYNC_L2:
			write_table(q, l->l1, l->h.l1_offset, &q->l1_dirty);
			break;
		case COMMIT_IDLE:
		case COMMIT_SYNC_L1:
			return;
		}
	}
}

/* Called when nothing else can run. */
bool commit_poll(struct qcow2 *q)
{
	if (!q->commit.again || q->commit.phase != COMMIT_IDLE)
		return false;
	begin_commit(q);
	advance(q);
	return true;
}
