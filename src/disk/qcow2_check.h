/* SPDX-License-Identifier: Apache-2.0 */
/* Work on whole qcow2 images that nobody uses: checking, repairing, refcounts in memory. */
#ifndef EYOT_DISK_QCOW2_CHECK_H
#define EYOT_DISK_QCOW2_CHECK_H

#include "disk/driver.h"
#include "disk/qcow2_format.h"

enum qcow2_repair { QCOW2_REPAIR_NONE, QCOW2_REPAIR_LEAKS, QCOW2_REPAIR_ALL };

struct qcow2_check_result {
	uint64_t errors, leaks; /* that are there, after what was repaired */
	uint64_t errors_fixed, leaks_fixed;
	uint64_t clusters, allocated, compressed; /* guest clusters */
	uint64_t file_size;			  /* bytes, after the check */
};

struct qcow2_report {
	void (*line)(void *arg, const char *text); /* one finding */
	void *arg;
};

/* A count for each host cluster. */
struct qcow2_refs {
	uint32_t *counts;
	uint64_t count, room;
	uint8_t *touched; /* for each REFS_PAGE counts: whether one of them was ever changed */
	bool failed;	  /* memory was missing */
};

void qcow2_refs_done(struct qcow2_refs *r);
/* Whether any of @count clusters may be in use */
bool qcow2_refs_any(const struct qcow2_refs *r, uint64_t cluster, uint64_t count);
uint32_t qcow2_refs_get(const struct qcow2_refs *r, uint64_t cluster);
void qcow2_refs_add(struct qcow2_refs *r, uint64_t cluster, uint64_t count, int by);
/* @count clusters in a row behind all that are in use; their counts become 1 */
uint64_t qcow2_refs_append(struct qcow2_refs *r, uint64_t count);

/**
 * qcow2_refs_write() - write new refcount blocks and a new table behind everything else
 * @h: cluster size and refcount width; its place of the table is set, in memory
 * @spare: entries the table should have beyond what is needed
 *
 * The old table and blocks must not be counted in @r. The caller syncs, and
 * then makes the header lead to the new table. Return: 0; -ERANGE when a count
 * does not fit the image's width; other -errno.
 */
int qcow2_refs_write(struct qcow2_refs *r, struct file *file, struct qcow2_header *h,
		     uint64_t spare);

/**
 * qcow2_check() - count what is in use and compare with refcounts and flags
 * @what: for messages, e.g. "disk 'a.qcow2'"
 * @report: NULL: findings are only counted
 * @refs: NULL, or where the counts go, without the present refcount structures
 *
 * Nothing else may use the image. Return: 0 when the check was made, whatever
 * it found; -errno when it could not be.
 */
int qcow2_check_refs(struct file *file, const char *what, enum qcow2_repair repair,
		     const struct qcow2_report *report, struct qcow2_check_result *result,
		     struct qcow2_refs *refs, struct err *err);

static inline int qcow2_check(struct file *file, const char *what, enum qcow2_repair repair,
			      const struct qcow2_report *report, struct qcow2_check_result *result,
			      struct err *err)
{
	return qcow2_check_refs(file, what, repair, report, result, NULL, err);
}

/** qcow2_header_switch() - make the header lead to the tables that @h names: one sector, synced */
int qcow2_header_switch(struct file *file, const struct qcow2_header *h);

#endif
