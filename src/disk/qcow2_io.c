/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on qcow2 images
 *
 * A request is a state machine that works itself from its first byte to its
 * last, one part (a run of clusters that are alike) at a time. It is stepped
 * under the disk's lock by whoever holds it: the thread that queues it, or the
 * loop thread in a completion. When all it needs is cached, as it is for most
 * requests, it is submitted to the host by the thread that queued it. It waits by
 * standing in a list: of a slot that is loading, of a commit, of the pool of
 * bounce buffers, of the request whose clusters it wants to touch. Whoever
 * changes that moves the list to `runnable`, and they look again.
 *
 *   READ   map, read; again
 *   WRITE  map; written in place, or: ALLOC, data to the new clusters (whole, or
 *          COPY and STORE: what is around the data is read into a bounce
 *          buffer and written with it), LINK: entries lead to them; again
 *   RANGE  zeroes and discards: entries change; parts of clusters as WRITE
 *
 * Ranges: requests that touch the same clusters at the same time. What only reads
 * or writes in place may overlap with its like; what changes entries is alone:
 * a write in place must not end in a cluster that a discard has freed and
 * another write was given. Requests stand in a list in the order they came,
 * and wait for every conflicting one before them, so none starves. A write
 * is entered as shared; when it has to allocate it goes to the end of the list,
 * as exclusive. Nobody waits for a range while holding one, so there is no circle.
 *
 * Invariants
 * 1. Data is stored before an entry leads to it; a write completes after that.
 * 2. A cluster that was allocated is, until it is linked, known to its request alone,
 *    which frees it when it fails.
 * 3. Completions run without the lock, on the loop thread; a request that ends on
 *    another thread goes through the engine as an empty operation.
 */
#include "base/log.h"
#include "disk/qcow2.h"

enum { READ, WRITE, RANGE, COPY, STORE, LINK };

/* ---- running ---- */

void qcow2_wake(struct qcow2 *q, struct req_list *waiters, int error)
{
	struct disk_req *req;

	while ((req = req_list_pop(waiters))) {
		req->q.error = error;
		req_list_push(&q->runnable, req);
	}
}

static void range_leave(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;

	if (!op->ranged)
		return;
	*(op->prev ? &op->prev->q.next : &q->ranges_head) = op->next;
	*(op->next ? &op->next->q.prev : &q->ranges_tail) = op->prev;
	op->ranged = false;
	qcow2_wake(q, &op->blocked, 0);
}

static void range_enter(struct qcow2 *q, struct disk_req *req, bool exclusive)
{
	struct qcow2_op *op = &req->q;

	op->exclusive = exclusive;
	op->ranged = true;
	op->granted = false;
	op->prev = q->ranges_tail;
	op->next = NULL;
	*(op->prev ? &op->prev->q.next : &q->ranges_head) = req;
	q->ranges_tail = req;
	req_list_init(&op->blocked);
}

/* 0: no request before this one is in its way */
static int range_wait(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	uint64_t cluster = q->top->cluster, first = align_down(op->off, cluster);
	uint64_t end = align_up(op->end, cluster);

	for (struct disk_req *r = q->ranges_head; r != req; r = r->q.next) {
		if ((op->exclusive || r->q.exclusive) && first < align_up(r->q.end, cluster) &&
		    align_down(r->q.off, cluster) < end) {
			req_list_push(&r->q.blocked, req);
			return WAIT;
		}
	}
	op->granted = true;
	return 0;
}

static int range_upgrade(struct qcow2 *q, struct disk_req *req)
{
	range_leave(q, req);
	range_enter(q, req, true);
	return range_wait(q, req);
}

void qcow2_finish(struct qcow2 *q, struct disk_req *req, int ret)
{
	range_leave(q, req);
	req->result = ret;
	if (q->on_loop)
		req_list_push(&q->finished, req);
	else
		file_nop(&q->top->file, req, ret, req->q.done);
}

static void fail(struct qcow2 *q, struct disk_req *req, int ret)
{
	struct qcow2_op *op = &req->q;

	if (op->owned)
		free_now(q->top, op->host, (uint64_t)op->clusters << q->top->cluster_bits);
	op->owned = false;
	if (op->bounce && req != &op->bounce->req)
		bounce_put(q, op->bounce);
	op->bounce = NULL;
	qcow2_finish(q, req, ret);
}

static int read_step(struct qcow2 *q, struct disk_req *req);
static int write_step(struct qcow2 *q, struct disk_req *req);
static int range_step(struct qcow2 *q, struct disk_req *req);
static int copy_step(struct qcow2 *q, struct disk_req *req);
static int store_step(struct qcow2 *q, struct disk_req *req);
static int link_step(struct qcow2 *q, struct disk_req *req);

static void step(struct qcow2 *q, struct disk_req *req)
{
	static int (*const steps[])(struct qcow2 *, struct disk_req *) = {
		[READ] = read_step, [WRITE] = write_step, [RANGE] = range_step,
		[COPY] = copy_step, [STORE] = store_step, [LINK] = link_step,
	};
	struct qcow2_op *op = &req->q;
	int ret;

	if (req == &q->freer) {
		freer_step(q);
		return;
	}
	ret = op->error;
	op->error = 0;
	if (ret == 0 && op->ranged && !op->granted)
		ret = range_wait(q, req);
	while (ret == 0)
		ret = steps[op->state](q, req);
	if (ret < 0)
		fail(q, req, ret);
}

void qcow2_leave(struct qcow2 *q)
{
	struct req_list ended;
	struct disk_req *req;

	do {
		while ((req = req_list_pop(&q->runnable)))
			step(q, req);
	} while (commit_poll(q) || q->runnable.head);
	req_list_init(&ended);
	while ((req = req_list_pop(&q->finished)))
		req_list_push(&ended, req);
	pthread_mutex_unlock(&q->lock);
	while ((req = req_list_pop(&ended)))
		req->q.done(req, req->result);
}

static void go_on(struct qcow2 *q, struct disk_req *req, int error)
{
	enter(q, true);
	req->q.error = error;
	req_list_push(&q->runnable, req);
	qcow2_leave(q);
}

/* The request's present part was read, or written in place. */
static void part_done(struct disk_req *req, int ret)
{
	struct qcow2 *q = req->q.top->q;

	enter(q, true);
	if (ret == 0)
		req->q.off += req->q.run; /* others look at it */
	req->q.error = ret;
	req_list_push(&q->runnable, req);
	qcow2_leave(q);
}

/* ---- reading ---- */

static void packed_read(struct disk_req *packed_req, int ret)
{
	struct bounce *b = container_of(packed_req, struct bounce, packed_req);
	struct layer *l = b->packed_map.layer;
	struct disk_req *reader = b->reader;
	struct qcow2 *q = l->q;
	uint64_t off;
	uint32_t len;

	qcow2_compressed_place(b->packed_map.entry, l->cluster_bits, &off, &len);
	if (ret == 0)
		ret = qcow2_decompress(l->h.compression, b->packed + off % DISK_SECTOR, len,
				       b->unpacked, l->cluster);
	enter(q, true);
	if (ret == 0) {
		b->key_layer = l;
		b->key_entry = b->packed_map.entry;
	} else if (!l->unreadable) {
		l->unreadable = true;
		log_error("disk '%s': compressed cluster at %#llx cannot be read: %s", l->path,
			  (unsigned long long)off, strerror(-ret));
	}
	reader->q.error = ret;
	req_list_push(&q->runnable, reader);
	if (reader->q.bounce != b) /* not lent by the cluster's copy */
		bounce_put(q, b);
	qcow2_leave(q);
}

static int read_compressed(struct qcow2 *q, struct disk_req *req, const struct mapping *m)
{
	struct layer *l = m->layer;
	struct bounce *b = bounce_find(q, l, m->entry);
	uint64_t off;
	uint32_t len;

	if (b) {
		req_copy(req, b->unpacked + req->q.off % l->cluster, m->len);
		req->q.off += m->len;
		return 0;
	}
	if (!qcow2_compressed_place(m->entry, l->cluster_bits, &off, &len))
		return qcow2_corrupt(l, "compressed cluster (%#llx): no possible place",
				     (unsigned long long)m->entry);
	/* A copy's own buffer has room for this, too: with another one it could wait for ever. */
	b = req->q.bounce ? req->q.bounce : bounce_get(q, req);
	if (!b)
		return WAIT;
	b->key_layer = NULL;
	b->reader = req;
	b->packed_map = *m;
	b->packed_iov = (struct iovec) { b->packed, off % DISK_SECTOR + len };
	b->packed_req.op = DISK_READ;
	b->packed_req.iov = &b->packed_iov;
	b->packed_req.iov_count = 1;
	file_start(&l->file, &b->packed_req, align_down(off, DISK_SECTOR), b->packed_iov.iov_len,
		   packed_read);
	return WAIT;
}

static int read_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct mapping m;
	int ret;

	if (op->off == op->end) {
		qcow2_finish(q, req, 0);
		return WAIT;
	}
	ret = chain_map(q->top, req, op->off, op->end - op->off, &m);
	if (ret)
		return ret;
	if (m.kind == MAP_COMPRESSED)
		return read_compressed(q, req, &m);
	if (m.kind == MAP_ZERO) {
		req_zero(req, m.len);
		op->off += m.len;
		return 0;
	}
	op->run = m.len;
	file_start(m.layer->data, req, m.host, m.len, part_done);
	return WAIT;
}

/* ---- writing ---- */

static int check_target(struct layer *l, uint64_t host, uint64_t len)
{
	if (l->external)
		return 0;
	if (host + len > l->file_end)
		return qcow2_corrupt(l, "data cluster at %#llx: behind the file's end",
				     (unsigned long long)align_down(host, l->cluster));
	if (table_at(l, host, len))
		return qcow2_corrupt(l, "data cluster at %#llx: is a table",
				     (unsigned long long)align_down(host, l->cluster));
	return 0;
}

static void data_stored(struct disk_req *req, int ret)
{
	req->q.state = LINK;
	go_on(req->q.top->q, req, ret);
}

/* New clusters for the request's next part, at most @left bytes; there is an L2 table. */
static int write_new(struct qcow2 *q, struct disk_req *req, const struct mapping *m, uint64_t left)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	uint64_t in = op->off % l->cluster, start = op->off - in;
	bool part = in || left < l->cluster, fresh = false;
	unsigned per_slice = q->slice_size / 8, want = 1;
	int ret;

	if (!part)
		want = (unsigned)min_u64(min_u64(m->len, left) / l->cluster,
					 per_slice - start / l->cluster % per_slice);
	op->clusters = want;
	op->owned = false;
	if (l->external) {
		op->host = start;
	} else if (m->kind == MAP_ZERO && m->host && m->copied) {
		op->host = m->host;
		op->clusters = want = 1;
		ret = check_target(l, m->host, l->cluster);
		if (ret)
			return ret;
	} else {
		ret = alloc_clusters(l, req, want, &op->host, &op->clusters, &fresh);
		if (ret)
			return ret;
		op->owned = true;
	}
	op->run = part ? min_u64(left, l->cluster - in) : op->clusters * l->cluster;
	op->from_zero = m->kind == MAP_ZERO || (m->kind == MAP_HOLE && hole_is_zero(l, start));
	/* Zeros are stored as data here: a hole behind the file's end would leave it too short. */
	if (req->op != DISK_WRITE || (part && !(fresh && op->from_zero))) {
		op->from_zero |= !part;
		op->state = COPY;
		return 0;
	}
	file_start(l->data, req, op->host + in, op->run, data_stored);
	return WAIT;
}

/* The part is data that is this image's alone: to the clusters that there are. */
static int write_in_place(struct layer *l, struct disk_req *req, const struct mapping *m)
{
	int ret = check_target(l, m->host, m->len);

	if (ret)
		return ret;
	req->q.run = m->len;
	file_start(l->data, req, m->host, m->len, part_done);
	return WAIT;
}

static int write_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	struct mapping m;
	int ret;

	if (op->off == op->end) {
		qcow2_finish(q, req, 0);
		return WAIT;
	}
	ret = l->corrupt ? -EIO : layer_map(l, req, op->off, op->end - op->off, &m);
	if (ret)
		return ret;
	if (m.kind == MAP_DATA && m.copied)
		return write_in_place(l, req, &m);
	if (!op->exclusive)
		return range_upgrade(q, req);
	ret = l2_ensure(l, req, op->off);
	return ret ? ret : write_new(q, req, &m, op->end - op->off);
}

/* The cluster's old content is in the bounce buffer. */
static void source_read(struct disk_req *req, int ret)
{
	struct bounce *b = container_of(req, struct bounce, req);

	b->owner->q.state = STORE;
	go_on(req->q.top->q, b->owner, ret);
}

static int copy_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	uint64_t start = align_down(op->off, l->cluster);
	uint64_t len = min_u64(l->cluster, l->size - start);
	struct bounce *b = bounce_get(q, req);

	if (!b)
		return WAIT;
	op->bounce = b;
	if (op->from_zero) {
		memset(b->buf, 0, l->cluster);
		op->state = STORE;
		return 0;
	}
	memset(b->buf + len, 0, l->cluster - len);
	b->owner = req;
	b->iov = (struct iovec) { b->buf, len };
	b->req.op = DISK_READ;
	b->req.iov = &b->iov;
	b->req.iov_count = 1;
	b->req.q = (struct qcow2_op) { .done = source_read,
				       .off = start,
				       .end = start + len,
				       .state = READ,
				       .top = l,
				       .bounce = b };
	req_list_push(&q->runnable, &b->req);
	return WAIT;
}

static void bounce_stored(struct disk_req *req, int ret)
{
	struct bounce *b = container_of(req, struct bounce, req);

	data_stored(b->owner, ret);
}

static int store_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	struct bounce *b = op->bounce;
	uint64_t in = op->off % l->cluster;
	/* A data file ends where the disk does. */
	uint64_t len = l->external ? min_u64(l->cluster, l->size - (op->off - in)) : l->cluster;

	if (req->op == DISK_WRITE)
		req_copy(req, b->buf + in, op->run);
	else
		memset(b->buf + in, 0, op->run);
	b->owner = req;
	b->iov = (struct iovec) { b->buf, len };
	b->req.op = DISK_WRITE;
	b->req.iov = &b->iov;
	b->req.iov_count = 1;
	file_start(l->data, &b->req, op->host, len, bounce_stored);
	return WAIT;
}

static int link_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	unsigned index, left;
	struct slot *slot;
	int ret = l->corrupt ? -EIO : l2_slice(l, req, op->off, &slot, &index, &left);

	for (unsigned i = 0; i < op->clusters && !ret; i++)
		ret = l2_set(l, slot, index + i, (op->host + i * l->cluster) | QCOW2_COPIED);
	if (ret)
		return ret;
	op->owned = false;
	if (op->bounce)
		bounce_put(q, op->bounce);
	op->bounce = NULL;
	op->off += op->run;
	op->state = req->op == DISK_WRITE ? WRITE : RANGE;
	return 0;
}

/* ---- zeroes and discards ---- */

/* @len bytes inside of one cluster, or a cluster that has to become zeros the long way */
static int zero_part(struct qcow2 *q, struct disk_req *req, uint64_t len)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	struct mapping m;
	int ret = layer_map(l, req, op->off, len, &m);

	if (ret)
		return ret;
	if (m.kind == MAP_ZERO || (m.kind == MAP_HOLE && hole_is_zero(l, op->off))) {
		op->off += m.len;
		return 0;
	}
	if (m.kind == MAP_DATA && m.copied)
		return write_in_place(l, req, &m);
	ret = l2_ensure(l, req, op->off);
	return ret ? ret : write_new(q, req, &m, len);
}

/* What an entry becomes; -EIO in @ret_entry's place as the return value */
static int cleared_entry(struct layer *l, const struct disk_req *req, uint64_t off, uint64_t entry,
			 uint64_t *ret_entry)
{
	bool unmap = req->op == DISK_DISCARD || req->flags & DISK_REQ_UNMAP;
	uint64_t gone = hole_is_zero(l, off) ? 0 : QCOW2_ZERO;
	struct mapping m;
	int ret = parse_entry(l, off, entry, &m);

	*ret_entry = entry;
	if (ret)
		return ret;
	switch (m.kind) {
	case MAP_HOLE:
		if (req->op == DISK_WRITE_ZEROES)
			*ret_entry = gone;
		break;
	case MAP_ZERO:
		if (unmap)
			*ret_entry = gone;
		break;
	case MAP_DATA:
		*ret_entry = unmap || !m.copied || l->h.version < 3 ? gone : entry | QCOW2_ZERO;
		break;
	case MAP_COMPRESSED:
		*ret_entry = gone;
		break;
	}
	return 0;
}

static int clear_entries(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	unsigned index, left;
	struct slot *slot;
	int ret = l2_ensure(l, req, op->off);

	if (ret == 0)
		ret = l2_slice(l, req, op->off, &slot, &index, &left);
	for (; ret == 0 && left && op->off < op->end; index++, left--) {
		uint64_t step = min_u64(op->end - op->off, l->cluster), entry;

		if (step < l->cluster && op->end != l->size)
			break; /* a part of a cluster */
		if (l->h.version < 3 && !hole_is_zero(l, op->off))
			break;
		ret = cleared_entry(l, req, op->off, get_be64(slot->data + index * 8), &entry);
		if (ret == 0)
			ret = l2_set(l, slot, index, entry);
		if (ret == 0)
			op->off += step;
	}
	return ret;
}

static int range_step(struct qcow2 *q, struct disk_req *req)
{
	struct qcow2_op *op = &req->q;
	struct layer *l = q->top;
	uint64_t in = op->off % l->cluster, left = op->end - op->off, part;
	bool whole = !in && (left >= l->cluster || op->end == l->size);
	/* Without a flag for zeros they can only be stored; and a data file has its own. */
	bool store = l->external || (l->h.version < 3 && !hole_is_zero(l, op->off));

	if (!left) {
		qcow2_finish(q, req, 0);
		return WAIT;
	}
	if (l->corrupt)
		return -EIO;
	part = min_u64(left, l->cluster - in);
	if (!l1_present(l, op->off) && (req->op == DISK_DISCARD || hole_is_zero(l, op->off))) {
		op->off += min_u64(left, l2_span(l) - op->off % l2_span(l));
		return 0;
	}
	if (l->external && req->op == DISK_DISCARD) {
		struct mapping m;
		int ret = layer_map(l, req, op->off, left, &m);

		if (ret)
			return ret;
		op->run = m.len;
		if (m.kind == MAP_DATA)
			file_start(l->data, req, m.host, m.len, part_done);
		else
			op->off += m.len;
		return m.kind == MAP_DATA ? WAIT : 0;
	}
	if (req->op == DISK_DISCARD && (!whole || store)) {
		op->off += part;
		return 0;
	}
	return !whole || store ? zero_part(q, req, part) : clear_entries(q, req);
}

/* ---- entries ---- */

void qcow2_start(struct disk *disk, struct disk_req *req)
{
	struct qcow2 *q = disk->priv;
	bool change = req->op == DISK_DISCARD || req->op == DISK_WRITE_ZEROES;

	enter(q, false);
	req->q = (struct qcow2_op) { .done = disk_complete,
				     .off = req->off,
				     .end = req->off + req->len,
				     .state = req->op == DISK_READ ? READ
					      : change		   ? RANGE
								   : WRITE,
				     .top = q->top };
	if (req->op == DISK_FLUSH) {
		if (q->top->writable)
			commit_flush(q, req);
		else
			qcow2_finish(q, req, 0);
	} else {
		if (q->top->writable)
			range_enter(q, req, change);
		req_list_push(&q->runnable, req);
	}
	qcow2_leave(q);
}

void qcow2_read(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		void (*done)(struct disk_req *req, int ret))
{
	struct qcow2 *q = priv;

	enter(q, false);
	req->q = (struct qcow2_op) {
		.done = done, .off = off, .end = off + len, .state = READ, .top = q->top
	};
	req_list_push(&q->runnable, req);
	qcow2_leave(q);
}

int qcow2_read_now(void *priv, const struct disk_req *req)
{
	struct qcow2 *q = priv;
	struct mapping m;
	int ret;

	if (pthread_mutex_trylock(&q->lock))
		return -EAGAIN;
	ret = chain_map(q->top, NULL, req->off, req->len, &m);
	if (ret == 0 && m.len == req->len && m.kind == MAP_DATA) {
		/* Under the lock: so the cluster cannot get another owner meanwhile. */
		ret = file_read_now(m.layer->data, req->iov, req->iov_count, m.host, m.len);
	} else if (ret == 0 && m.len == req->len && m.kind == MAP_ZERO) {
		for (unsigned i = 0; i < req->iov_count; i++)
			memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
	} else {
		ret = -EAGAIN;
	}
	pthread_mutex_unlock(&q->lock);
	return ret;
}
