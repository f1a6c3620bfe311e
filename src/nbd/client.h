/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EYOT_NBD_CLIENT_H
#define EYOT_NBD_CLIENT_H

#include "disk/nbd_proto.h"

struct client;

/**
 * client_new() - connect to the server of @st
 * @memory: NBD_SLOTS slots, shared with the machine
 * @ret_hello: what the server says of its export; filled on success
 *
 * Waits for at most @st->timeout_s. Return: 0; -errno with a text.
 */
int client_new(const struct nbd_start *st, uint8_t *memory, struct client **ret_client,
	       struct nbd_hello *ret_hello, struct err *err);

/** client_run() - serve the machine until its end of the socket is closed; 0, or -errno: it broke
 * the protocol */
int client_run(struct client *c);

void client_free(struct client *c); /* NULL is fine */

#endif
