/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Archives for initial RAM disks: cpio in the format "newc", as the kernel unpacks it
 * (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). Several may follow one
 * another.
 */
#ifndef EYOT_MANAGER_ARCHIVE_H
#define EYOT_MANAGER_ARCHIVE_H

#include "base/err.h"
#include "manager/text.h"

void archive_folder(struct text *t, const char *name);
void archive_bytes(struct text *t, const char *name, bool program, const void *bytes, size_t len);

/** archive_file() - add a file of the host, of 64 MiB at most */
int archive_file(struct text *t, const char *name, bool program, const char *path, struct err *err);
void archive_end(struct text *t);

#endif
