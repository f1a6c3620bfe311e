/* SPDX-License-Identifier: Apache-2.0 */
/* A simple client of the control protocol: one thread, waits for answers. */
#ifndef EYOT_CONTROL_CLIENT_H
#define EYOT_CONTROL_CLIENT_H

#include <jansson.h>

#include "base/err.h"

struct control_client;

/**
 * control_connect() - connect and read the greeting
 * Return: 0; -EPROTO: the other end speaks another version, or another protocol; other -errno.
 */
int control_connect(const char *path, struct control_client **ret_client, struct err *err);
void control_disconnect(struct control_client *c); /* NULL is fine */

/** control_greeting() - what the monitor said of itself; borrowed */
const json_t *control_greeting(const struct control_client *c);

/**
 * control_call() - send a request and wait for its answer
 * @args: taken over; NULL: none
 * @fds, @fd_count: descriptors that go with it, still the caller's
 * @ret_result: a new reference
 * @ret_code: on -EREMOTEIO the error's code; borrowed until the next call
 *
 * Events that come meanwhile are dropped. Return: 0; -EREMOTEIO: the monitor
 * refused, its text in @err; other -errno: the connection is of no use any more.
 */
int control_call(struct control_client *c, const char *command, json_t *args, const int *fds,
		 unsigned fd_count, json_t **ret_result, const char **ret_code, struct err *err);

/** control_next() - wait for one more line, e.g. an event; -ENODATA: the other end has closed */
int control_next(struct control_client *c, json_t **ret_object, struct err *err);

/** control_take_socket() - the bare connection, and what came behind the last answer; @c is gone */
int control_take_socket(struct control_client *c, char **ret_bytes, size_t *ret_len);

#endif
