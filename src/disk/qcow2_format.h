/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The qcow2 file format, as far as Eyot knows it (QEMU, docs/interop/qcow2.txt;
 * sections are named where they are used): constants, the header and the
 * snapshot table, both checked when they are read.
 */
#ifndef EYOT_DISK_QCOW2_FORMAT_H
#define EYOT_DISK_QCOW2_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct file;

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
/* QEMU's limits; they bound what is kept in memory. */
#define QCOW2_L1_BYTES_MAX (32u << 20)
#define QCOW2_REFTABLE_BYTES_MAX (8u << 20)
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_SNAPSHOT_TABLE_MAX (64u << 20) /* bytes */
#define QCOW2_NAME_MAX 1023		     /* of a backing file */

/* "Header": fields by their offset */
enum {
	QCOW2_AT_BACKING = 8,
	QCOW2_AT_SIZE = 24,
	QCOW2_AT_L1_SIZE = 36,
	QCOW2_AT_L1_OFFSET = 40,
	QCOW2_AT_REFTABLE = 48,
	QCOW2_AT_REFTABLE_CLUSTERS = 56,
	QCOW2_AT_SNAPSHOTS = 60,
	QCOW2_AT_SNAPSHOTS_OFFSET = 64,
	QCOW2_V2_LENGTH = 72,
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_COMPATIBLE = 80,
	QCOW2_AT_AUTOCLEAR = 88,
	QCOW2_AT_REFCOUNT_ORDER = 96,
	QCOW2_AT_LENGTH = 100,
	QCOW2_AT_COMPRESSION = 104,
	QCOW2_V3_LENGTH = 104,
};

#define QCOW2_INCOMPAT_DIRTY (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define QCOW2_COMPAT_LAZY_REFCOUNTS (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS (1ull << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA (1ull << 1)

#define QCOW2_EXT_END 0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_DATA_FILE 0x44415441u

/* "Cluster mapping" */
#define QCOW2_COPIED (1ull << 63)
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO (1ull << 0)
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED (~(QCOW2_COPIED | QCOW2_OFFSET_MASK))
#define QCOW2_L2_RESERVED (~(QCOW2_COPIED | QCOW2_COMPRESSED | QCOW2_OFFSET_MASK | QCOW2_ZERO))
#define QCOW2_REFTABLE_MASK (~0x1ffull)

enum qcow2_compression { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };

struct qcow2_header {
	unsigned version, cluster_bits, refcount_order;
	uint64_t size;	  /* of the virtual disk, bytes */
	uint32_t l1_size; /* entries */
	uint32_t reftable_clusters, snapshot_count;
	uint64_t l1_offset, reftable_offset, snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t length;
	enum qcow2_compression compression;
	bool has_backing, has_bitmaps;
	char backing[QCOW2_NAME_MAX + 1];
	char backing_format[16]; /* empty: not told */
	char data_file[QCOW2_NAME_MAX + 1];
};

struct qcow2_snapshot {
	uint64_t l1_offset, size; /* @size: of the virtual disk then, bytes */
	uint32_t l1_size;
	uint64_t vm_state_size;
	uint32_t date_s, date_ns;
	uint64_t vm_clock_ns;
	uint8_t *extra; /* what follows the known part of the extra data */
	uint32_t extra_len;
	char *id, *name;
};

struct qcow2_snapshots {
	struct qcow2_snapshot *list;
	uint32_t count;
	uint64_t bytes; /* length of the table in the file */
};

/**
 * qcow2_header_read() - read the header and check all of it that can be checked by itself
 * @what: for errors, e.g. "disk 'a.qcow2'"
 * @h: filled
 *
 * Refuses features it does not know by the names the image has for them.
 * Return: 0; -EINVAL, -ENOTSUP or the errno of reading.
 */
int qcow2_header_read(struct file *file, const char *what, struct qcow2_header *h, struct err *err);

/** qcow2_l1_entries() - how many L1 entries a disk of @size bytes needs */
uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits);

/** qcow2_snapshots_read() - the snapshot table, checked; @ret: ended by qcow2_snapshots_done() */
int qcow2_snapshots_read(struct file *file, const char *what, const struct qcow2_header *h,
			 struct qcow2_snapshots *ret, struct err *err);
void qcow2_snapshots_done(struct qcow2_snapshots *s);

/** qcow2_snapshot_find() - by ID or name; NULL when there is none */
const struct qcow2_snapshot *qcow2_snapshot_find(const struct qcow2_snapshots *s, const char *name);

/** qcow2_refcount() - an entry of a refcount block, or of a part of one; @order: log2 of its bits
 */
uint64_t qcow2_refcount(const void *block, unsigned order, uint64_t index);
void qcow2_refcount_set(void *block, unsigned order, uint64_t index, uint64_t value);

/** qcow2_compressed_place() - where a compressed cluster's data is, bytes; false: no such place */
bool qcow2_compressed_place(uint64_t entry, unsigned cluster_bits, uint64_t *ret_off,
			    uint32_t *ret_len);

/**
 * qcow2_decompress() - unpack one cluster
 * @in, @in_len: data that may have bytes of others behind its end
 * @out, @out_len: the cluster, filled completely
 * Return: 0 or -EIO.
 */
int qcow2_decompress(enum qcow2_compression kind, const void *in, size_t in_len, void *out,
		     size_t out_len);

#endif
