/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of qcow2 headers and snapshot tables. A field is used only after it
 * was checked; what the file says about lengths is bounded before anything is
 * allocated or read by it. Text of the file is made printable before it gets
 * into a message.
 */
#include "disk/qcow2_format.h"

#include <ctype.h>
#include <stdio.h>

#include "base/util.h"
#include "disk/driver.h"

#define NAMES_MAX 256 /* entries of the feature name table that are looked at */
#define NAME_ENTRY 48 /* bytes of one */
#define NAME_LEN 46   /* of its text */
#define SNAPSHOT_FIXED 40
#define SNAPSHOT_EXTRA_KNOWN 16
#define SNAPSHOT_EXTRA_MAX 1024
#define SIZE_MAX_BYTES ((uint64_t)INT64_MAX - (1u << QCOW2_CLUSTER_BITS_MAX))

uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits)
{
	unsigned shift = 2 * cluster_bits - 3; /* bytes that one L2 table maps */

	return (size >> shift) + ((size & ((1ull << shift) - 1)) != 0);
}

/* Printable copy, as long as @size allows. */
static void copy_text(char *out, size_t size, const uint8_t *in, size_t len)
{
	size_t n = 0;

	for (; n < len && n + 1 < size && in[n]; n++)
		out[n] = (char)(isprint(in[n]) ? in[n] : '?');
	out[n] = '\0';
}

struct names {
	const uint8_t *table;
	size_t count;
};

static void feature_name(const struct names *names, unsigned bit, char *out, size_t size)
{
	for (size_t i = 0; i < names->count; i++) {
		const uint8_t *e = names->table + i * NAME_ENTRY;

		if (e[0] == 0 && e[1] == bit && e[2]) {
			copy_text(out, size, e + 2, NAME_LEN);
			return;
		}
	}
	snprintf(out, size, "number %u", bit);
}

static int check_features(const struct qcow2_header *h, const struct names *names, const char *what,
			  struct err *err)
{
	uint64_t known = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DATA_FILE |
			 QCOW2_INCOMPAT_COMPRESSION;
	char name[NAME_LEN + 1];

	if (h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2)
		return err_set(err, ENOTSUP,
			       "%s: needs the feature 'extended L2 entries', which is not "
			       "supported; qemu-img convert makes an image without it",
			       what);
	for (unsigned bit = 0; bit < 64; bit++) {
		if (!((h->incompatible & ~known) >> bit & 1))
			continue;
		feature_name(names, bit, name, sizeof(name));
		return err_set(err, ENOTSUP, "%s: needs the feature '%s', which is not supported",
			       what, name);
	}
	return 0;
}

/* A string that names a file: no NUL inside. */
static int take_name(char *out, const uint8_t *in, uint64_t len, const char *what,
		     const char *field, struct err *err)
{
	if (len > QCOW2_NAME_MAX || memchr(in, 0, len))
		return err_set(err, EINVAL, "%s: header: the name of the %s is malformed", what,
			       field);
	memcpy(out, in, len);
	out[len] = '\0';
	return 0;
}

/* "Header extensions": from the header's end to @end. */
static int read_extensions(struct qcow2_header *h, const uint8_t *head, uint64_t end,
			   struct names *names, const char *what, struct err *err)
{
	uint64_t at = h->length;
	int ret = 0;

	while (at + 8 <= end && ret == 0) {
		uint32_t type = get_be32(head + at);
		uint64_t len = get_be32(head + at + 4);
		const uint8_t *data = head + at + 8;

		if (type == QCOW2_EXT_END)
			return 0;
		if (len > end - at - 8)
			return err_set(err, EINVAL,
				       "%s: header extension %#x does not end before the header "
				       "does",
				       what, type);
		switch (type) {
		case QCOW2_EXT_BACKING_FORMAT:
			copy_text(h->backing_format, sizeof(h->backing_format), data, len);
			break;
		case QCOW2_EXT_FEATURE_NAMES:
			names->table = data;
			names->count = min_u64(len / NAME_ENTRY, NAMES_MAX);
			break;
		case QCOW2_EXT_BITMAPS:
			h->has_bitmaps = true;
			break;
		case QCOW2_EXT_DATA_FILE:
			ret = take_name(h->data_file, data, len, what, "data file", err);
			break;
		default:
			break;
		}
		at += 8 + align_up(len, 8);
	}
	return ret;
}

static int check_table(const char *what, const char *name, uint64_t off, uint64_t bytes,
		       const struct qcow2_header *h, struct err *err)
{
	uint64_t cluster = 1ull << h->cluster_bits;

	if (bytes && (off % cluster || off < cluster || off > (uint64_t)INT64_MAX - bytes))
		return err_set(err, EINVAL, "%s: header: %s at %#llx: no possible place", what,
			       name, (unsigned long long)off);
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a_len && b_len && a < b + b_len && b < a + a_len;
}

static int check_tables(const struct qcow2_header *h, const char *what, struct err *err)
{
	uint64_t l1 = (uint64_t)h->l1_size * 8;
	uint64_t reft = (uint64_t)h->reftable_clusters << h->cluster_bits;
	int ret;

	if (l1 > QCOW2_L1_BYTES_MAX)
		return err_set(err, EFBIG, "%s: header: L1 table with %u entries: too big", what,
			       h->l1_size);
	if (h->l1_size < qcow2_l1_entries(h->size, h->cluster_bits))
		return err_set(err, EINVAL, "%s: header: L1 table with %u entries: too small", what,
			       h->l1_size);
	if (!reft || reft > QCOW2_REFTABLE_BYTES_MAX)
		return err_set(err, EINVAL, "%s: header: refcount table of %u clusters: %s", what,
			       h->reftable_clusters, reft ? "too big" : "missing");
	if (h->snapshot_count > QCOW2_SNAPSHOTS_MAX)
		return err_set(err, EFBIG, "%s: header: %u snapshots: too many", what,
			       h->snapshot_count);
	ret = check_table(what, "L1 table", h->l1_offset, l1, h, err);
	if (ret == 0)
		ret = check_table(what, "refcount table", h->reftable_offset, reft, h, err);
	if (ret == 0)
		ret = check_table(what, "snapshot table", h->snapshots_offset,
				  h->snapshot_count ? SNAPSHOT_FIXED : 0, h, err);
	if (ret == 0 && overlap(h->l1_offset, l1, h->reftable_offset, reft))
		ret = err_set(err, EINVAL, "%s: header: the L1 and refcount tables overlap", what);
	return ret;
}

static int parse_fixed(struct qcow2_header *h, const uint8_t *p, const char *what, struct err *err)
{
	uint32_t crypt = get_be32(p + 32);

	if (get_be32(p) != QCOW2_MAGIC)
		return err_set(err, EINVAL, "%s: not a qcow2 image", what);
	h->version = get_be32(p + 4);
	if (h->version != 2 && h->version != 3)
		return err_set(err, ENOTSUP, "%s: qcow2 version %u is not supported", what,
			       h->version);
	h->cluster_bits = get_be32(p + 20);
	if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(err, EINVAL, "%s: header: cluster_bits is %u, not from 9 to 21",
			       what, h->cluster_bits);
	if (crypt)
		return err_set(err, ENOTSUP, "%s: is encrypted (%s), which is not supported", what,
			       crypt == 1   ? "AES"
			       : crypt == 2 ? "LUKS"
					    : "by an unknown method");
	h->size = get_be64(p + QCOW2_AT_SIZE);
	if (h->size > SIZE_MAX_BYTES)
		return err_set(err, EFBIG, "%s: header: the disk is too big", what);
	h->l1_size = get_be32(p + QCOW2_AT_L1_SIZE);
	h->l1_offset = get_be64(p + QCOW2_AT_L1_OFFSET);
	h->reftable_offset = get_be64(p + QCOW2_AT_REFTABLE);
	h->reftable_clusters = get_be32(p + QCOW2_AT_REFTABLE_CLUSTERS);
	h->snapshot_count = get_be32(p + QCOW2_AT_SNAPSHOTS);
	h->snapshots_offset = get_be64(p + QCOW2_AT_SNAPSHOTS_OFFSET);
	h->length = QCOW2_V2_LENGTH;
	h->refcount_order = 4;
	if (h->version == 2)
		return 0;
	h->incompatible = get_be64(p + QCOW2_AT_INCOMPATIBLE);
	h->compatible = get_be64(p + QCOW2_AT_COMPATIBLE);
	h->autoclear = get_be64(p + QCOW2_AT_AUTOCLEAR);
	h->refcount_order = get_be32(p + QCOW2_AT_REFCOUNT_ORDER);
	h->length = get_be32(p + QCOW2_AT_LENGTH);
	if (h->refcount_order > 6)
		return err_set(err, EINVAL, "%s: header: refcounts of 2^%u bits", what,
			       h->refcount_order);
	if (h->length < QCOW2_V3_LENGTH || h->length % 8 || h->length > 1u << h->cluster_bits)
		return err_set(err, EINVAL, "%s: header: its length is %u", what, h->length);
	if (h->length > QCOW2_AT_COMPRESSION)
		h->compression = p[QCOW2_AT_COMPRESSION];
	return 0;
}

int qcow2_header_read(struct file *file, const char *what, struct qcow2_header *h, struct err *err)
{
	_cleanup_free_ uint8_t *head = NULL;
	uint8_t first[DISK_SECTOR];
	struct names names = { 0 };
	uint64_t backing, cluster, end;
	uint32_t backing_len;
	int ret;

	memset(h, 0, sizeof(*h));
	ret = file_rw_now(file, false, first, sizeof(first), 0);
	if (ret < 0)
		return err_set(err, -ret, "%s: cannot read the header: %s", what, strerror(-ret));
	ret = parse_fixed(h, first, what, err);
	if (ret < 0)
		return ret;
	cluster = end = 1ull << h->cluster_bits;
	head = malloc(cluster);
	if (!head)
		return err_set(err, ENOMEM, "%s: out of memory", what);
	ret = file_rw_now(file, false, head, cluster, 0);
	if (ret < 0)
		return err_set(err, -ret, "%s: cannot read the header: %s", what, strerror(-ret));
	backing = get_be64(head + QCOW2_AT_BACKING);
	backing_len = get_be32(head + QCOW2_AT_BACKING + 8);
	if (backing) {
		if (backing > cluster || backing_len > cluster - backing || !backing_len)
			return err_set(err, EINVAL,
				       "%s: header: the backing file's name is outside of it",
				       what);
		h->has_backing = true;
		end = backing < h->length ? h->length : backing;
		ret = take_name(h->backing, head + backing, backing_len, what, "backing file", err);
	}
	if (ret == 0)
		ret = read_extensions(h, head, end, &names, what, err);
	if (ret == 0)
		ret = check_features(h, &names, what, err);
	if (ret == 0 && !(h->incompatible & QCOW2_INCOMPAT_COMPRESSION) != !h->compression)
		ret = err_set(err, EINVAL, "%s: header: compression type and features disagree",
			      what);
	if (ret == 0 && h->compression > QCOW2_ZSTD)
		ret = err_set(err, ENOTSUP, "%s: compression type %u is not supported", what,
			      h->compression);
	if (ret == 0 && (h->incompatible & QCOW2_INCOMPAT_DATA_FILE) && h->snapshot_count)
		ret = err_set(err, EINVAL, "%s: header: an external data file and snapshots", what);
	return ret == 0 ? check_tables(h, what, err) : ret;
}

/* ---- snapshots ("Snapshots") ---- */

static char *dup_text(const uint8_t *in, size_t len)
{
	char *out = malloc(len + 1);

	if (out)
		copy_text(out, len + 1, in, len);
	return out;
}

static int parse_snapshot(struct qcow2_snapshot *s, const uint8_t *p, uint64_t left,
			  const struct qcow2_header *h, uint64_t *ret_len)
{
	uint32_t extra = get_be32(p + 36);
	unsigned id_len = get_be16(p + 12), name_len = get_be16(p + 14);
	uint64_t len = SNAPSHOT_FIXED + (uint64_t)extra + id_len + name_len;

	if (extra > SNAPSHOT_EXTRA_MAX || len > left)
		return -EINVAL;
	s->l1_offset = get_be64(p);
	s->l1_size = get_be32(p + 8);
	s->date_s = get_be32(p + 16);
	s->date_ns = get_be32(p + 20);
	s->vm_clock_ns = get_be64(p + 24);
	s->vm_state_size = extra >= 8 ? get_be64(p + 40) : get_be32(p + 32);
	s->size = extra >= 16 ? get_be64(p + 48) : h->size;
	if (extra > SNAPSHOT_EXTRA_KNOWN) {
		s->extra_len = extra - SNAPSHOT_EXTRA_KNOWN;
		s->extra = malloc(s->extra_len);
		if (!s->extra)
			return -ENOMEM;
		memcpy(s->extra, p + SNAPSHOT_FIXED + SNAPSHOT_EXTRA_KNOWN, s->extra_len);
	}
	s->id = dup_text(p + SNAPSHOT_FIXED + extra, id_len);
	s->name = dup_text(p + SNAPSHOT_FIXED + extra + id_len, name_len);
	if (!s->id || !s->name)
		return -ENOMEM;
	if (s->l1_offset % (1ull << h->cluster_bits) || s->l1_offset > INT64_MAX / 2 ||
	    (uint64_t)s->l1_size * 8 > QCOW2_L1_BYTES_MAX || s->size > SIZE_MAX_BYTES ||
	    s->l1_size < qcow2_l1_entries(s->size, h->cluster_bits))
		return -EINVAL;
	*ret_len = align_up(len, 8);
	return 0;
}

int qcow2_snapshots_read(struct file *file, const char *what, const struct qcow2_header *h,
			 struct qcow2_snapshots *ret_s, struct err *err)
{
	struct qcow2_snapshots s = { 0 };
	_cleanup_free_ uint8_t *table = NULL;
	uint64_t size, at = 0;
	int ret = 0;

	*ret_s = s;
	if (!h->snapshot_count)
		return 0;
	if (h->snapshots_offset >= file->eof)
		return err_set(err, EINVAL, "%s: snapshot table: behind the file's end", what);
	/* Its length is known only when it was read; no entry is longer than this. */
	size = min_u64((uint64_t)h->snapshot_count * (SNAPSHOT_FIXED + SNAPSHOT_EXTRA_MAX + 131072),
		       min_u64(QCOW2_SNAPSHOT_TABLE_MAX, file->eof - h->snapshots_offset));
	table = malloc(size + SNAPSHOT_FIXED);
	s.list = calloc(h->snapshot_count, sizeof(*s.list));
	if (!table || !s.list) {
		qcow2_snapshots_done(&s);
		return err_set(err, ENOMEM, "%s: out of memory", what);
	}
	ret = file_rw_now(file, false, table, size, h->snapshots_offset);
	if (ret < 0)
		err_set(err, -ret, "%s: snapshot table: %s", what, strerror(-ret));
	while (ret == 0 && s.count < h->snapshot_count) {
		uint64_t len = 0;

		ret = size - at < SNAPSHOT_FIXED
			  ? -EINVAL
			  : parse_snapshot(&s.list[s.count++], table + at, size - at, h, &len);
		if (ret < 0)
			err_set(err, -ret, "%s: snapshot table: entry %u is malformed", what,
				s.count);
		at += len;
		at = min_u64(at, size);
	}
	s.bytes = at;
	if (ret < 0)
		qcow2_snapshots_done(&s);
	else
		*ret_s = s;
	return ret;
}

void qcow2_snapshots_done(struct qcow2_snapshots *s)
{
	for (uint32_t i = 0; i < s->count; i++) {
		free(s->list[i].extra);
		free(s->list[i].id);
		free(s->list[i].name);
	}
	free(s->list);
	*s = (struct qcow2_snapshots) { 0 };
}

const struct qcow2_snapshot *qcow2_snapshot_find(const struct qcow2_snapshots *s, const char *name)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (!strcmp(s->list[i].id, name))
			return &s->list[i];
	for (uint32_t i = 0; i < s->count; i++)
		if (!strcmp(s->list[i].name, name))
			return &s->list[i];
	return NULL;
}
