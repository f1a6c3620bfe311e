/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of cold paths: a negative errno as the return value, and one line of
 * text that says what, which and why. Hot paths return only the code.
 */
#ifndef EYOT_BASE_ERR_H
#define EYOT_BASE_ERR_H

#include <errno.h>

struct err {
	char text[512];
};

/**
 * err_set() - describe a failure
 * @err: where the text goes; may be NULL
 * @errnum: positive errno value
 * @fmt: printf format, e.g. "disk '%s': %s"
 *
 * Return: -@errnum, so that callers can write `return err_set(...)`.
 */
int err_set(struct err *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/**
 * err_prefix() - put context in front of an error on its way up
 * @err: an error that err_set() filled; may be NULL
 * @ret: the negative errno to hand on
 * @fmt: printf format of the context; ": " is added
 *
 * Return: @ret.
 */
int err_prefix(struct err *err, int ret, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
