/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder of the host for a client of the FUSE protocol (Linux, include/uapi/linux/fuse.h, 7.x),
 * with the rights of the user who runs this. One thread at a time uses a share.
 */
#ifndef EYOT_SHARE_SHARE_H
#define EYOT_SHARE_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/snap.h"

struct share;

/**
 * share_new() - open the folder @path
 * Raises this process's soft limit of open files: the client's files need descriptors.
 */
int share_new(const char *path, bool readonly, struct share **ret_share, struct err *err);
void share_free(struct share *s); /* NULL is fine */

/** share_reset() - the client is gone: close all that it has open */
void share_reset(struct share *s);

/**
 * share_request() - do one request
 * @in: the request, header first; it is copied before it is checked, but for data to be written
 * @out: room for the reply
 * Return: bytes of the reply, 0: this request has none; -EINVAL: it is no request at all.
 */
ssize_t share_request(struct share *s, const struct iovec *in, unsigned in_count,
		      const struct iovec *out, unsigned out_count);

/** share_save(), share_load() - what the client knows and has open; files that are gone or are
 * others now give ESTALE afterwards */
void share_save(struct share *s, struct snap_writer *w);
int share_load(struct share *s, struct snap_reader *r, struct err *err);

#endif
