/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs of eyot-img share. */
#ifndef EYOT_IMG_IMG_H
#define EYOT_IMG_IMG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "disk/disk.h"
#include "disk/driver.h"
#include "disk/qcow2_format.h"
#include "disk/qcow2_writer.h"

/* Exit statuses; man/eyot-img.1 explains them. */
enum { IMG_GOOD = 0, IMG_NO = 1, IMG_FAILED = 2, IMG_LEAKS = 3 };

/* A verb: its arguments (argv[0] is its name); returns the exit status, or -errno with a text. */
typedef int img_verb(int argc, char **argv, struct err *err);

img_verb cmd_create, cmd_overlay, cmd_info, cmd_check, cmd_convert, cmd_resize, cmd_compare,
    cmd_snapshot;

/* Usage errors */
int img_usage(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/**
 * img_options() - take options off the arguments
 * @spec: a getopt_long() option table, ended by an empty entry; each with val = a letter
 * @take: called for each option; returns 0 or -errno
 * @ret_rest: index of the first argument that is no option
 */
struct option;
int img_options(int argc, char **argv, const char *letters, const struct option *spec,
		int (*take)(void *arg, int letter, const char *value, struct err *err), void *arg,
		int *ret_rest, struct err *err);

int img_format(const char *text, enum disk_format *ret, struct err *err); /* raw, qcow2 */
int img_size(const char *text, uint64_t *ret_bytes, struct err *err);
int img_compression(const char *text, enum qcow2_compression *ret, struct err *err);
const char *img_format_name(enum disk_format format);

/** img_by_name() - what a new file is to be: qcow2 when it is named so */
enum disk_format img_by_name(const char *path);

/** img_open_file() - open and lock a file as @path, its format found as for a disk */
int img_open_file(const char *path, bool writable, enum disk_format format, struct file *file,
		  enum disk_format *ret_format, struct err *err);

/**
 * img_new_file() - make a file, or take one that is there if @force is set
 * It is locked and empty. @ret_made: it was not there before.
 */
int img_new_file(const char *path, bool force, struct file *file, bool *ret_made, struct err *err);

/** img_read() - read from a disk and wait for it; 0 or -errno */
int img_read(struct disk *disk, uint64_t off, uint64_t len, void *buf);

bool img_is_zero(const void *buf, size_t len);

/** img_progress() - a bar on the terminal, if there is one; @done = @total ends it */
void img_progress(const char *what, uint64_t done, uint64_t total);

/* New qcow2 images: options that create, overlay and convert share. */
struct img_new {
	struct qcow2_new q;
	enum disk_format format; /* DISK_FORMAT_AUTO: by the name */
	bool force;
};

#define IMG_NEW_DEFAULTS                                                                           \
	{                                                                                          \
		.q = {.version = 3, .cluster_bits = 16, .refcount_order = 4 }                      \
	}

/** img_new_option() - take one of the options --cluster, --compat, --refcount-bits; see cmd_create
 */
int img_new_option(struct img_new *n, int letter, const char *value, struct err *err);

#define IMG_NEW_OPTIONS                                                                            \
	{ "cluster", required_argument, NULL, 'C' }, { "compat", required_argument, NULL, 'V' },   \
	    { "refcount-bits", required_argument, NULL, 'R' },                                     \
	    { "compression", required_argument, NULL, 'Z' },                                       \
	{                                                                                          \
		"force", no_argument, NULL, '!'                                                    \
	}

/** img_create_qcow2() - an image without data */
int img_create_qcow2(const char *path, struct img_new *n, struct err *err);

#endif
