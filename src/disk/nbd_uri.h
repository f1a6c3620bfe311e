/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of exports of NBD servers, as the protocol's authors write them:
 *
 *   nbd://[USER@]HOST[:PORT][/EXPORT]         nbds://... with TLS
 *   nbd+unix://[USER@]/[EXPORT]?socket=PATH   nbds+unix://...
 */
#ifndef EYOT_DISK_NBD_URI_H
#define EYOT_DISK_NBD_URI_H

#include <stdbool.h>

#include "base/err.h"

struct nbd_uri {
	bool tls;
	char user[128];	   /* of TLS with shared keys; "": not told */
	char host[256];	   /* "": a UNIX socket */
	char port[8];	   /* decimal */
	char socket[108];  /* path */
	char export[1024]; /* "": the server's default */
};

/** nbd_uri_is() - whether a disk's name begins as such an address */
bool nbd_uri_is(const char *text);

/** nbd_uri_parse() - 0; -EINVAL with a text that says what is wrong with it */
int nbd_uri_parse(const char *text, struct nbd_uri *ret, struct err *err);

#endif
