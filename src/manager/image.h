/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images: sets of parts, each part a file that is stored once by the SHA-256 of its content, in
 * blobs/, and never written again. An image's id is the SHA-256 of its manifest:
 *
 *   {"agent":true,"cmdline":"...","parts":[{"kind":"kernel","digest":"...","size_bytes":1},...]}
 *
 * with members and parts in that order. Names are for people and move.
 */
#ifndef EYOT_MANAGER_IMAGE_H
#define EYOT_MANAGER_IMAGE_H

#include "manager/manager.h"

#define DIGEST_SIZE 65

enum image_part_kind { PART_KERNEL, PART_INITRD, PART_DISK };
#define PART_KINDS 3

struct image_part {
	char digest[DIGEST_SIZE]; /* "": the image has no such part */
	uint64_t size_bytes;
};

struct image {
	char id[DIGEST_SIZE];
	uint64_t created_ms;
	struct image_part parts[PART_KINDS];
	char cmdline[2048];
	char disk_format[8]; /* "raw" or "qcow2" */
	uint64_t disk_bytes; /* the size that a guest sees, 0: no disk */
	bool agent;	     /* its guests run what we add to their initial RAM disk */
	unsigned instances;  /* that use it */
	char (*names)[128];
	unsigned name_count;
};

int images_load(struct manager *m, struct err *err);
void images_free(struct manager *m);

/** image_find() - by name, id, or an id's beginning of 12 or more; NULL: none, or several */
struct image *image_find(struct manager *m, const char *name);

/**
 * image_take() - add what a worker made
 * @manifest: JSON text, checked here
 * @name: NULL: none
 */
int image_take(struct manager *m, const char *manifest, const char *name, struct image **ret,
	       struct err *err);

/** image_remove() - it and the parts that no other image has; it is not in use */
void image_remove(struct manager *m, struct image *img);

/** image_drop_temporary() - remove what the work on an order has left */
void image_drop_temporary(struct manager *m, const char *id);

void image_text(const struct image *img, struct text *out);
void image_part_path(const struct manager *m, const struct image_part *part, char out[PATH_SIZE]);

/* ---- image_work.c: in worker processes ---- */

struct worker;

struct image_source {
	char kernel[PATH_SIZE], initrd[PATH_SIZE], disk[PATH_SIZE]; /* "": none */
	char disk_format[8];
	char cmdline[2048];
	bool build; /* Debian 12 from packages, instead of the files */
};

struct image_order {
	struct manager *m;
	char id[ID_SIZE]; /* in the names of files that are not whole */
	struct image_source source;
};

/** image_work() - make the parts and say the manifest; @arg is a struct image_order */
int image_work(struct worker *w, void *arg, struct text *ret_result, struct err *err);

#endif
