/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New images
 *
 * Clusters come in the order of the virtual disk, so one L2 table is under work at a
 * time; it is stored when the next one begins. The file's order: header, L1 table,
 * then data and L2 tables as they come, refcounts last. The header is written
 * when all else is on the disk.
 *
 * Compressed clusters are packed byte after byte; a host cluster of such data counts a
 * reference for each of them that touches it.
 */
#include "disk/qcow2_writer.h"

#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "disk/qcow2_check.h"

#define FEATURE_ENTRY 48
#define ZLIB_WINDOW (-12) /* raw deflate; QEMU unpacks with a window of 4 KiB */

struct qcow2_writer {
	struct file *file;
	const struct qcow2_new *new;
	struct qcow2_header h;
	uint64_t cluster;
	struct qcow2_refs refs;
	uint8_t *l1, *l2;
	uint64_t l2_index; /* which part of the L1 table `l2` is for */
	bool l2_used;
	uint64_t packed_at; /* where the next compressed cluster begins, bytes; 0: nowhere yet */
};

static int check_new(const char *what, const struct qcow2_new *n, struct err *err)
{
	if (n->version != 2 && n->version != 3)
		return err_set(err, EINVAL, "%s: qcow2 version %u: not 2 or 3", what, n->version);
	if (n->cluster_bits < QCOW2_CLUSTER_BITS_MIN || n->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(err, EINVAL, "%s: cluster size: not a power of two from 512 to 2M",
			       what);
	if (n->refcount_order > 6 || (n->version == 2 && n->refcount_order != 4))
		return err_set(err, EINVAL,
			       "%s: refcount width: not a power of two from 1 to 64, or not 16 in "
			       "version 2",
			       what);
	if (n->version == 2 && n->compression != QCOW2_ZLIB)
		return err_set(err, EINVAL, "%s: version 2 has zlib compression only", what);
	if (qcow2_l1_entries(n->size, n->cluster_bits) * 8 > QCOW2_L1_BYTES_MAX)
		return err_set(
		    err, EFBIG,
		    "%s: the disk is too big for clusters of %llu bytes; larger ones help", what,
		    1ull << n->cluster_bits);
	if (n->backing && (strlen(n->backing) > QCOW2_NAME_MAX ||
			   strlen(n->backing) + 600 > 1ull << n->cluster_bits))
		return err_set(err, ENAMETOOLONG, "%s: the backing file's name is too long", what);
	return 0;
}

int qcow2_writer_new(struct file *file, const char *what, const struct qcow2_new *new,
		     struct qcow2_writer **ret_writer, struct err *err)
{
	struct qcow2_writer *w;
	uint64_t l1_clusters;
	int ret = check_new(what, new, err);

	if (ret < 0)
		return ret;
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_set(err, ENOMEM, "%s: out of memory", what);
	w->file = file;
	w->new = new;
	w->cluster = 1ull << new->cluster_bits;
	w->h = (struct qcow2_header) {
		.version = new->version,
		.cluster_bits = new->cluster_bits,
		.refcount_order = new->refcount_order,
		.size = new->size,
		.l1_size = (uint32_t)qcow2_l1_entries(new->size, new->cluster_bits),
		.compression = new->compression,
		.incompatible = new->compression ? QCOW2_INCOMPAT_COMPRESSION : 0,
	};
	/* One entry at least: a table at an offset of 0 would be the header. */
	l1_clusters = align_up(max_u64(w->h.l1_size, 1) * 8, w->cluster) >> new->cluster_bits;
	qcow2_refs_append(&w->refs, 1);
	w->h.l1_offset = qcow2_refs_append(&w->refs, l1_clusters) << new->cluster_bits;
	w->l1 = calloc(l1_clusters, w->cluster);
	w->l2 = calloc(1, w->cluster);
	if (!w->l1 || !w->l2 || w->refs.failed) {
		qcow2_writer_free(w);
		return err_set(err, ENOMEM, "%s: out of memory", what);
	}
	*ret_writer = w;
	return 0;
}

void qcow2_writer_free(struct qcow2_writer *w)
{
	if (!w)
		return;
	qcow2_refs_done(&w->refs);
	free(w->l1);
	free(w->l2);
	free(w);
}

static int store_l2(struct qcow2_writer *w)
{
	uint64_t at;

	if (!w->l2_used)
		return 0;
	at = qcow2_refs_append(&w->refs, 1) << w->h.cluster_bits;
	put_be64(w->l1 + w->l2_index * 8, at | QCOW2_COPIED);
	w->l2_used = false;
	return file_rw_now(w->file, true, w->l2, w->cluster, at);
}

static int set_entry(struct qcow2_writer *w, uint64_t off, uint64_t entry)
{
	uint64_t n = off >> w->h.cluster_bits, per_table = w->cluster / 8;
	int ret;

	if (!w->l2_used || w->l2_index != n / per_table) {
		ret = store_l2(w);
		if (ret < 0)
			return ret;
		memset(w->l2, 0, w->cluster);
		w->l2_index = n / per_table;
		w->l2_used = true;
	}
	put_be64(w->l2 + n % per_table * 8, entry);
	return 0;
}

static int put_packed(struct qcow2_writer *w, uint64_t off, const void *packed, size_t len)
{
	unsigned x = 62 - (w->h.cluster_bits - 8);
	uint64_t at = w->packed_at, bits = w->h.cluster_bits, room = -at & (w->cluster - 1);
	uint64_t entry;
	int ret;

	/* On in the cluster begun, and over its end if the next one is free. */
	if (!at || (len > room && (at + room) >> bits != w->refs.count))
		at = w->refs.count << bits;
	entry = QCOW2_COMPRESSED | ((at % 512 + len - 1) / 512) << x | at;
	if (at >= 1ull << (x < 56 ? x : 56))
		return -EFBIG;
	qcow2_refs_add(&w->refs, at >> bits, ((at + len - 1) >> bits) - (at >> bits) + 1, 1);
	w->packed_at = at + len;
	if (!(w->packed_at & (w->cluster - 1)))
		w->packed_at = 0;
	ret = file_rw_now(w->file, true, (void *)packed, len, at);
	return ret < 0 ? ret : set_entry(w, off, entry);
}

int qcow2_writer_put(struct qcow2_writer *w, uint64_t off, const void *data, const void *packed,
		     size_t packed_len)
{
	uint64_t at;
	int ret;

	if (packed)
		return put_packed(w, off, packed, packed_len);
	at = qcow2_refs_append(&w->refs, 1) << w->h.cluster_bits;
	ret = file_rw_now(w->file, true, (void *)data, w->cluster, at);
	return ret < 0 ? ret : set_entry(w, off, at | QCOW2_COPIED);
}

int qcow2_writer_zero(struct qcow2_writer *w, uint64_t off)
{
	return w->h.version < 3 ? -ENOTSUP : set_entry(w, off, QCOW2_ZERO);
}

static uint8_t *put_extension(uint8_t *p, uint32_t type, const void *data, size_t len)
{
	put_be32(p, type);
	put_be32(p + 4, (uint32_t)len);
	memcpy(p + 8, data, len);
	return p + 8 + align_up(len, 8);
}

static void put_header(struct qcow2_writer *w, uint8_t *head)
{
	static const struct {
		uint8_t type, bit;
		char name[FEATURE_ENTRY - 2];
	} features[] = {
		{ 0, 0, "dirty bit" },		 { 0, 1, "corrupt bit" },
		{ 0, 2, "external data file" },	 { 0, 3, "compression type" },
		{ 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
	};
	const struct qcow2_new *n = w->new;
	uint8_t *p = head + QCOW2_V2_LENGTH;

	put_be32(head, QCOW2_MAGIC);
	put_be32(head + 4, w->h.version);
	put_be32(head + 20, w->h.cluster_bits);
	put_be64(head + QCOW2_AT_SIZE, w->h.size);
	put_be32(head + QCOW2_AT_L1_SIZE, w->h.l1_size);
	put_be64(head + QCOW2_AT_L1_OFFSET, w->h.l1_offset);
	put_be64(head + QCOW2_AT_REFTABLE, w->h.reftable_offset);
	put_be32(head + QCOW2_AT_REFTABLE_CLUSTERS, w->h.reftable_clusters);
	if (w->h.version >= 3) {
		put_be64(head + QCOW2_AT_INCOMPATIBLE, w->h.incompatible);
		put_be32(head + QCOW2_AT_REFCOUNT_ORDER, w->h.refcount_order);
		put_be32(head + QCOW2_AT_LENGTH, QCOW2_V3_LENGTH + 8);
		head[QCOW2_AT_COMPRESSION] = (uint8_t)w->h.compression;
		p = head + QCOW2_V3_LENGTH + 8;
	}
	if (n->backing && n->backing_format)
		p = put_extension(p, QCOW2_EXT_BACKING_FORMAT, n->backing_format,
				  strlen(n->backing_format));
	if (w->h.version >= 3 && w->cluster >= 1024)
		p = put_extension(p, QCOW2_EXT_FEATURE_NAMES, features, sizeof(features));
	p += 8; /* the end of the extensions: zeros */
	if (n->backing) {
		put_be64(head + QCOW2_AT_BACKING, (uint64_t)(p - head));
		put_be32(head + QCOW2_AT_BACKING + 8, (uint32_t)strlen(n->backing));
		memcpy(p, n->backing, strlen(n->backing));
	}
}

int qcow2_writer_finish(struct qcow2_writer *w)
{
	_cleanup_free_ uint8_t *head = calloc(1, w->cluster);
	uint64_t l1_bytes = align_up(max_u64(w->h.l1_size, 1) * 8, w->cluster);
	int ret = head ? store_l2(w) : -ENOMEM;

	if (ret == 0)
		ret = file_rw_now(w->file, true, w->l1, l1_bytes, w->h.l1_offset);
	if (ret == 0)
		ret = qcow2_refs_write(&w->refs, w->file, &w->h, 0);
	if (ret == 0)
		ret = file_sync_now(w->file);
	if (ret < 0)
		return ret;
	put_header(w, head);
	ret = file_rw_now(w->file, true, head, w->cluster, 0);
	return ret == 0 ? file_sync_now(w->file) : ret;
}

static size_t deflate_cluster(const void *in, size_t len, void *out)
{
	z_stream z = { .next_in = (void *)in,
		       .avail_in = (uInt)len,
		       .next_out = out,
		       .avail_out = (uInt)len - 1 };
	int ret;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, ZLIB_WINDOW, 9,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return 0;
	ret = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return ret == Z_STREAM_END ? len - 1 - z.avail_out : 0;
}

size_t qcow2_compress(enum qcow2_compression kind, const void *in, size_t len, void *out)
{
	size_t n;

	if (kind == QCOW2_ZLIB)
		return deflate_cluster(in, len, out);
	n = ZSTD_compress(out, len - 1, in, len, ZSTD_CLEVEL_DEFAULT);
	return ZSTD_isError(n) ? 0 : n;
}
