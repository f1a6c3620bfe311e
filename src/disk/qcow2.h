/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the qcow2 driver. qcow2.c opens and closes, qcow2_io.c takes
 * requests through their states, qcow2_map.c finds and changes mappings,
 * qcow2_cache.c holds parts of tables, qcow2_alloc.c finds and frees clusters,
 * qcow2_commit.c writes tables back in a safe order, qcow2_grow.c makes a disk larger.
 *
 * Functions that may have to wait take the request that wants something and
 * return 0, WAIT or a negative errno; after WAIT the request stands in the list of
 * what it waits for and is stepped again when that has changed. All run under
 * qcow2.lock.
 */
#ifndef EYOT_DISK_QCOW2_H
#define EYOT_DISK_QCOW2_H

#include <pthread.h>

#include "base/util.h"
#include "disk/driver.h"
#include "disk/qcow2_format.h"

#define WAIT 1
#define LAYERS_MAX 64
#define SLICE_BITS_MAX 12 /* tables are cached in slices of up to 4 KiB */

/* A file of the chain. */
struct layer {
	struct qcow2 *q;
	struct layer *backing;
	char *path;
	bool raw; /* the rest is for qcow2 files */
	bool writable;
	bool unreadable; /* a compressed cluster that is none was told */
	bool corrupt;	 /* was told and marked; nothing is written any more */
	bool external;	 /* data is in a file of its own, at the guest's offsets */
	struct file file, data_file;
	struct file *data; /* one of these two */
	uint64_t size;	   /* of the disk it describes, bytes */
	uint64_t dev, ino; /* to find a chain that bites its tail */
	struct qcow2_header h;
	unsigned cluster_bits, slice_bits;
	uint64_t cluster;	/* bytes */
	uint64_t file_end;	/* bytes, whole clusters: nothing was ever written behind it */
	uint8_t *l1, *reftable; /* as in the file, big-endian; whole clusters */
	uint32_t l1_size;
	uint64_t reftable_size; /* entries */
	uint64_t snapshots_bytes;
	uint64_t *tables; /* filter: hashed bits of clusters that hold tables */
	uint64_t tables_mask;
};

/* A growing list of clusters of the host's file. */
struct extents {
	struct extent {
		uint64_t first, count;
	} * list;
	size_t count, room;
};

enum slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY, SLOT_WRITING };
enum slot_kind { SLOT_REFS, SLOT_L2, SLOT_KINDS };

/* A cached slice of a table. */
struct slot {
	struct layer *layer;
	uint64_t off; /* in the layer's file, bytes */
	enum slot_state state;
	enum slot_kind kind;
	bool dirty;
	uint8_t *data;
	struct slot *hash_next, *lru_prev, *lru_next, *dirty_next;
	struct req_list waiters;
	struct disk_req req;
	struct iovec iov;
};

enum map_kind { MAP_HOLE, MAP_ZERO, MAP_DATA, MAP_COMPRESSED };

/* Room to copy or unpack a cluster. */
struct bounce {
	bool used;
	struct layer *key_layer; /* whose compressed cluster is in `unpacked` */
	uint64_t key_entry;
	uint8_t *buf, *packed, *unpacked;
	struct disk_req *owner; /* whose cluster is copied */
	struct disk_req req;	/* reads the old cluster, then writes the new one */
	struct iovec iov;
	struct disk_req *reader; /* who waits for `unpacked` */
	struct mapping {
		enum map_kind kind;
		bool copied;   /* nobody else uses the cluster: it may be written in place */
		uint64_t host; /* data: bytes; zero: a cluster kept for it, or 0 */
		uint64_t len;  /* bytes that go on like this, at most what was asked for */
		uint64_t entry;
		struct layer *layer;
	} packed_map;
	struct disk_req packed_req;
	struct iovec packed_iov;
};

enum commit_phase {
	COMMIT_IDLE,
	COMMIT_REFS,
	COMMIT_SYNC_DATA,
	COMMIT_REFTABLE,
	COMMIT_SYNC_REFTABLE,
	COMMIT_L2,
	COMMIT_SYNC_L2,
	COMMIT_L1,
	COMMIT_SYNC_L1,
};

struct commit {
	enum commit_phase phase;
	unsigned pending; /* operations of the phase in flight */
	int error;
	bool has_l2, wrote;
	bool again;		   /* somebody wants another one after this */
	struct req_list now, next; /* flushes that this one and the next one satisfy */
	struct req_list links;	   /* requests that wait to change mappings */
	struct req_list end;	   /* requests that wait for its end */
	struct disk_req table_req, sync_req[2];
	struct iovec table_iov;
};

/* Bytes of an in-memory table that are not in the file; none when lo = hi. */
struct dirty_range {
	uint64_t lo, hi;
};

struct qcow2 {
	struct disk *disk;
	struct layer *top;
	bool closing;

	pthread_mutex_t lock; /* guards what follows, and all layers */
	bool on_loop;	      /* who holds it is on the loop thread: completions may follow */
	struct req_list runnable, finished;
	struct disk_req *ranges_head, *ranges_tail; /* requests by arrival, see qcow2_io.c */

	struct slot *slots, **hash;
	unsigned slot_count, slots_used, hash_mask, slice_size;
	uint8_t *slot_data;
	size_t slot_data_len;
	struct slot lru; /* list head; next is the most recently used one */
	struct slot *dirty[SLOT_KINDS];
	unsigned dirty_count;

	struct bounce *bounces;
	unsigned bounce_count;
	uint8_t *bounce_data;
	size_t bounce_data_len;
	struct req_list bounce_waiters;

	uint64_t free_hint; /* no cluster below is known to be free */
	struct dirty_range l1_dirty, reftable_dirty;
	struct commit commit;
	struct extents unlinked;   /* no mapping in memory leads there any more */
	struct extents committing; /* neither will one in the file, after this commit */
	struct extents ready;	   /* to be freed */
	struct extent freeing;	   /* what is being freed */
	uint64_t punched_count;	   /* clusters at its front without space of the host's */
	struct disk_req freer;
	bool freer_busy, freer_punched;
};

static inline void enter(struct qcow2 *q, bool on_loop)
{
	pthread_mutex_lock(&q->lock);
	q->on_loop = on_loop;
}

/* qcow2_io.c */
void qcow2_leave(struct qcow2 *q); /* run what can run, unlock, call completions */
void qcow2_wake(struct qcow2 *q, struct req_list *waiters, int error);
void qcow2_finish(struct qcow2 *q, struct disk_req *req, int ret);
void qcow2_start(struct disk *disk, struct disk_req *req);
int qcow2_read_now(void *priv, const struct disk_req *req);
void qcow2_read(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		void (*done)(struct disk_req *req, int ret));

/* qcow2.c */
/* Tell once that an image is corrupt, mark it, and let nothing be written any more; -EIO */
int qcow2_corrupt(struct layer *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Change bytes of the header, waiting for the host but not for its disk; 0 or -errno */
int header_write(struct layer *l, unsigned at, const void *field, unsigned len);
void table_note(struct layer *l, uint64_t off); /* a cluster holds a table from now on */
bool table_at(const struct layer *l, uint64_t off, uint64_t len); /* or the header */

/* qcow2_grow.c */
int qcow2_grow(struct disk *disk, uint64_t size, struct err *err); /* see disk_grow() */

/* qcow2_map.c */
/* What a layer itself has at @off; @len > 0 is cut to what is alike */
int layer_map(struct layer *l, struct disk_req *req, uint64_t off, uint64_t len,
	      struct mapping *ret);
/* Likewise through the chain from @l on: never MAP_HOLE */
int chain_map(struct layer *l, struct disk_req *req, uint64_t off, uint64_t len,
	      struct mapping *ret);
/* Whether what a hole at @off shows is zeros for sure */
int parse_entry(struct layer *l, uint64_t off, uint64_t entry, struct mapping *m);
bool hole_is_zero(const struct layer *l, uint64_t off);
/* Have a writable L2 table for @off */
int l2_ensure(struct layer *l, struct disk_req *req, uint64_t off);
/* The slice with @off's entry for writing, the entry's place in it, and how many follow it */
int l2_slice(struct layer *l, struct disk_req *req, uint64_t off, struct slot **ret_slot,
	     unsigned *ret_index, unsigned *ret_left);
/* Change an entry; the old one's clusters are freed when it is safe */
int l2_set(struct layer *l, struct slot *slot, unsigned index, uint64_t entry);
bool l1_present(const struct layer *l, uint64_t off);
uint64_t l2_span(const struct layer *l); /* bytes that one L2 table maps */

/* qcow2_cache.c */
int cache_init(struct qcow2 *q, struct err *err);
void cache_done(struct qcow2 *q);
/* @req: NULL: only look. */
int cache_get(struct layer *l, uint64_t off, enum slot_kind kind, struct disk_req *req,
	      struct slot **ret);
int cache_get_write(struct layer *l, uint64_t off, enum slot_kind kind, struct disk_req *req,
		    struct slot **ret);
void cache_dirty(struct qcow2 *q, struct slot *slot);
void cache_forget(struct layer *l, uint64_t off, uint64_t len);
void cache_written(struct qcow2 *q, struct slot *slot);
struct bounce *bounce_get(struct qcow2 *q, struct disk_req *req); /* NULL: wait */
struct bounce *bounce_find(struct qcow2 *q, const struct layer *l, uint64_t entry);
void bounce_put(struct qcow2 *q, struct bounce *b);

/* qcow2_alloc.c */
/* Up to @want clusters in a row; at least one */
int alloc_clusters(struct layer *l, struct disk_req *req, unsigned want, uint64_t *ret_host,
		   unsigned *ret_count, bool *ret_fresh);
void extents_add(struct extents *e, uint64_t first, uint64_t count);
void extents_move(struct extents *to, struct extents *from);
void free_later(struct layer *l, uint64_t off, uint64_t len); /* after the next commit */
void free_now(struct layer *l, uint64_t off, uint64_t len);   /* nothing ever led there */
void freer_step(struct qcow2 *q);
void freer_wake(struct qcow2 *q); /* there may be something to free */
uint64_t refs_per_block(const struct layer *l);

/* qcow2_commit.c */
void dirty_note(struct dirty_range *d, uint64_t off, uint64_t len);
bool commit_is_clean(const struct qcow2 *q);
void commit_start(struct qcow2 *q); /* or once more when one is under way */
void commit_flush(struct qcow2 *q, struct disk_req *req);
int commit_links_wait(struct qcow2 *q, struct disk_req *req); /* until mappings may change */
bool commit_poll(struct qcow2 *q); /* begin one when it is wanted; nothing else can run */
int commit_end_wait(struct qcow2 *q, struct disk_req *req); /* until none is under way */

#endif
