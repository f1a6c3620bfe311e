/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a machine (disk/nbd.c) and the process that is its NBD client (src/nbd):
 * a stream socket with messages of fixed size, and a piece of shared memory
 * with a slot of data for each request. The socket is descriptor 3 of the
 * client, the memory 4.
 *
 * Each side holds what the other one says to be hostile: the client reads what
 * a server sends, the machine runs a guest.
 */
#ifndef EYOT_DISK_NBD_PROTO_H
#define EYOT_DISK_NBD_PROTO_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/util.h"
#include "disk/nbd_uri.h"

#define NBD_PROGRAM "eyot-nbd"
#define NBD_FD_SOCKET 3
#define NBD_FD_MEMORY 4
#define NBD_SLOTS 128u
#define NBD_SLOT_BYTES KIB(256)
#define NBD_ZERO_MAX MIB(128) /* bytes of one request to zero or trim */

/* The machine's first message */
struct nbd_start {
	struct nbd_uri uri;
	char tls_certs[PATH_MAX], tls_psk[PATH_MAX]; /* absolute; "": none */
	uint32_t reconnect_s;			     /* how long requests wait for the server */
	uint32_t timeout_s;			     /* how long the server may say nothing */
	bool sandbox;
	uint32_t log_level; /* enum log_level */
};

/* The client's first one, when it is connected or cannot be */
struct nbd_hello {
	int ret; /* 0 or -errno */
	struct err err;
	uint64_t size;			/* bytes */
	uint32_t min_block, pref_block; /* bytes; 0: the server does not tell */
	uint32_t max_block;		/* of one read or write; 0: not told */
	bool readonly, can_flush, can_trim, can_zero, can_fua;
};

/* NBD_HURRY has no slot and no answer: what waits for the server or its connection shall fail now.
 */
enum nbd_op { NBD_READ, NBD_WRITE, NBD_FLUSH, NBD_TRIM, NBD_ZERO, NBD_HURRY };

#define NBD_FUA 1u     /* a write: on stable storage before the answer */
#define NBD_NO_HOLE 2u /* a zeroing: keep the space */

/* Machine to client; the data of a write is in the slot */
struct nbd_request {
	uint32_t slot;
	uint16_t op, flags; /* enum nbd_op, NBD_* */
	uint64_t off;
	uint32_t len; /* at most NBD_SLOT_BYTES for reads and writes, NBD_ZERO_MAX else */
	uint32_t reserved;
};

/* Client to machine: the end of a request, or with NBD_EVENT news of the connection */
struct nbd_answer {
	uint32_t slot;
	int32_t ret; /* 0 or -errno; of an event: the errno, negative */
};

#define NBD_EVENT 0x80000000u
#define NBD_EVENT_LOST (NBD_EVENT | 0)	  /* the connection is gone */
#define NBD_EVENT_BACK (NBD_EVENT | 1)	  /* and is there again */
#define NBD_EVENT_GAVE_UP (NBD_EVENT | 2) /* requests do not wait for it any longer */
#define NBD_EVENT_CHANGED (NBD_EVENT | 3) /* the export is not what it was: no way back */

#endif
