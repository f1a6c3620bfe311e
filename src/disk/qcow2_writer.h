/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a new qcow2 image from its first cluster to its last. */
#ifndef EYOT_DISK_QCOW2_WRITER_H
#define EYOT_DISK_QCOW2_WRITER_H

#include "disk/driver.h"
#include "disk/qcow2_format.h"

struct qcow2_new {
	unsigned version;	 /* 2 or 3 */
	unsigned cluster_bits;	 /* 9 to 21 */
	unsigned refcount_order; /* 0 to 6; 4 in version 2 */
	enum qcow2_compression compression;
	uint64_t size;	     /* of the virtual disk, bytes */
	const char *backing; /* NULL: none */
	const char *backing_format;
};

struct qcow2_writer;

/**
 * qcow2_writer_new() - begin an image
 * @file: open for writing and empty; borrowed
 * @new: checked here; strings are borrowed until the end
 *
 * Until qcow2_writer_finish() has succeeded the file is no image.
 */
int qcow2_writer_new(struct file *file, const char *what, const struct qcow2_new *new,
		     struct qcow2_writer **ret_writer, struct err *err);

/**
 * qcow2_writer_put() - store a cluster
 * @off: in the virtual disk, a multiple of the cluster size, higher than all before
 * @data: a whole cluster
 * @packed, @packed_len: the same compressed, or NULL
 * Return: 0 or -errno.
 */
int qcow2_writer_put(struct qcow2_writer *w, uint64_t off, const void *data, const void *packed,
		     size_t packed_len);

/** qcow2_writer_zero() - a cluster of zeros where the backing file would show through; as _put() */
int qcow2_writer_zero(struct qcow2_writer *w, uint64_t off);

/** qcow2_writer_finish() - write the tables, sync, then the header; 0 or -errno */
int qcow2_writer_finish(struct qcow2_writer *w);
void qcow2_writer_free(struct qcow2_writer *w);

/**
 * qcow2_compress() - pack one cluster
 * @out: room for @len bytes
 * Return: length; 0: it does not become shorter.
 */
size_t qcow2_compress(enum qcow2_compression kind, const void *in, size_t len, void *out);

#endif
