/* SPDX-License-Identifier: Apache-2.0 */
/* Changes to whole qcow2 images at rest: size, snapshots. */
#ifndef EYOT_DISK_QCOW2_EDIT_H
#define EYOT_DISK_QCOW2_EDIT_H

#include "disk/driver.h"
#include "disk/qcow2_check.h"
#include "disk/qcow2_format.h"

/*
 * All of these take an image that is open for writing and locked, refuse one with
 * errors, and leave either the old or the new image, whenever they are
 * interrupted. @what: for errors, e.g. "disk 'a.qcow2'". Return: 0 or -errno
 * with a text.
 */

/** qcow2_resize() - @size: bytes, a multiple of DISK_SECTOR; smaller loses what is behind it */
int qcow2_resize(struct file *file, const char *what, uint64_t size, struct err *err);

/** qcow2_snapshot_create() - keep the present content under a name */
int qcow2_snapshot_create(struct file *file, const char *what, const char *name, struct err *err);

/** qcow2_snapshot_apply() - go back to a snapshot (ID or name); the present content is lost */
int qcow2_snapshot_apply(struct file *file, const char *what, const char *name, struct err *err);

/** qcow2_snapshot_delete() - forget a snapshot (ID or name) */
int qcow2_snapshot_delete(struct file *file, const char *what, const char *name, struct err *err);

#endif
