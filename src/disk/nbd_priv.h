/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the driver for remote disks: nbd.c has the requests, nbd_open.c the beginning. */
#ifndef EYOT_DISK_NBD_PRIV_H
#define EYOT_DISK_NBD_PRIV_H

#include <pthread.h>
#include <sys/types.h>

#include "disk/driver.h"
#include "disk/nbd_proto.h"

#define NBD_ANSWERS 64

struct nbd_slot {
	struct disk_req *req; /* NULL: free */
	uint64_t pos;	      /* a read: where in the request's list its data goes */
	uint32_t len;
};

struct nbd {
	struct disk *disk;
	char *name; /* for the log */
	pid_t pid;
	int fd;
	uint8_t *memory;
	struct loop_fd *source;
	struct nbd_hello server; /* checked */
	uint32_t chunk;		 /* bytes of a part that has data */
	bool fua, unsafe;

	pthread_mutex_t lock;
	bool dead;
	struct nbd_slot slots[NBD_SLOTS];
	uint32_t free[NBD_SLOTS];
	unsigned free_count;
	struct req_list waiting;
	struct nbd_request out[NBD_SLOTS];
	unsigned out_count;
	uint8_t in[NBD_ANSWERS * sizeof(struct nbd_answer)]; /* loop thread */
	size_t in_len;
};

extern const struct disk_driver nbd_driver;

/* As file_start(); from the loop thread or a vCPU's */
void nbd_begin(struct nbd *n, struct disk_req *req, uint64_t off, uint64_t len,
	       void (*done)(struct disk_req *req, int ret));

/* Those of struct aio_extra */
void nbd_ready(void *arg);
void nbd_kick(void *arg);
void nbd_hurry(void *arg);

void nbd_free(struct nbd *n);

#endif
