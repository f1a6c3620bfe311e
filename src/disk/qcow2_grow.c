/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a qcow2 disk larger while it is in use
 *
 * The new entries of the L1 table come into the rest of the clusters that it has: with
 * clusters of 64 KiB they reach to 4 TiB. They are zero, and on stable storage, before one sector
 * of the header has the new sizes; so the image is the old or the new one at any moment. Moving the
 * table is left to eyot-img, for images at rest.
 */
#include <stdio.h>

#include "disk/qcow2.h"

static void flushed(struct disk_req *req, int ret)
{
	req->result = ret;
}

/* All that is in memory alone goes to the file, so that tables and header may be written by hand.
 */
static int write_back(struct disk *disk)
{
	struct disk_req req = { .op = DISK_FLUSH, .done = flushed };

	disk_queue(disk, &req);
	disk_kick(disk);
	disk_drain(disk);
	return req.result;
}

static int check(const struct layer *l, uint64_t entries, struct err *err)
{
	uint64_t room = align_up((uint64_t)l->l1_size * 8, l->cluster) / 8;

	if (l->corrupt)
		return err_set(err, EUCLEAN, "the image is corrupt");
	if (l->h.version < 3 && l->h.snapshot_count)
		return err_set(err, EOPNOTSUPP, "snapshots of version 2 have no size of their own");
	if (l->backing && l->backing->size > l->size)
		return err_set(err, EOPNOTSUPP,
			       "its backing file is larger than it and would show behind its end");
	if (entries > room)
		return err_set(err, EOPNOTSUPP,
			       "its L1 table has room for %llu bytes at most while it is in use; "
			       "eyot-img resize can do more when it is not",
			       (unsigned long long)min_u64(room * l2_span(l), INT64_MAX));
	return 0;
}

static int write_tables(struct layer *l, uint32_t entries, uint64_t size)
{
	uint64_t from = align_down((uint64_t)l->l1_size * 8, DISK_SECTOR);
	uint64_t to = align_up((uint64_t)entries * 8, DISK_SECTOR);
	uint8_t field[QCOW2_AT_L1_SIZE + 4 - QCOW2_AT_SIZE] = {
		0
	}; /* between them: no encryption */
	int ret = 0;

	memset(l->l1 + (uint64_t)l->l1_size * 8, 0, (entries - l->l1_size) * 8ull);
	if (entries > l->l1_size)
		ret = file_rw_now(&l->file, true, l->l1 + from, to - from, l->h.l1_offset + from);
	if (ret == 0)
		ret = file_sync_now(&l->file);
	put_be64(field, size);
	put_be32(field + QCOW2_AT_L1_SIZE - QCOW2_AT_SIZE, entries);
	if (ret == 0)
		ret = header_write(l, QCOW2_AT_SIZE, field, sizeof(field));
	return ret < 0 ? ret : file_sync_now(&l->file);
}

int qcow2_grow(struct disk *disk, uint64_t size, struct err *err)
{
	struct qcow2 *q = disk->priv;
	struct layer *l = q->top;
	uint64_t entries = qcow2_l1_entries(size, l->cluster_bits);
	int ret = check(l, entries, err);

	if (ret < 0)
		return ret;
	entries = max_u64(entries, l->l1_size);
	ret = write_back(disk);
	if (ret == 0) {
		enter(q, false);
		ret = write_tables(l, (uint32_t)entries, size);
		if (ret == 0) {
			l->l1_size = l->h.l1_size = (uint32_t)entries;
			l->h.size = l->size = size;
			disk->size = size;
		}
		qcow2_leave(q);
	}
	return ret < 0 ? err_set(err, -ret, "%s", strerror(-ret)) : 0;
}
