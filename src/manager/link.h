/* SPDX-License-Identifier: Apache-2.0 */
/* The manager's end of a machine's control socket (docs/control.md), without waiting. Loop thread.
 */
#ifndef EYOT_MANAGER_LINK_H
#define EYOT_MANAGER_LINK_H

#include <jansson.h>

#include "base/err.h"
#include "loop/loop.h"

struct link;

struct link_ops {
	/* The machine runs; @greeting is its "eyot" object */
	void (*greeted)(void *arg, const json_t *greeting);
	void (*event)(void *arg, const char *name, const json_t *data);
	/* The connection is of no use any more; link_close() is still to be called */
	void (*lost)(void *arg, const char *why);
};

int link_open(struct loop *loop, const char *path, const struct link_ops *ops, void *arg,
	      struct link **ret, struct err *err);
void link_close(struct link *l); /* answers that are not there yet do not come; NULL is fine */

/**
 * link_call() - send a request
 * @l: NULL is fine: the connection is lost
 * @args: taken over; NULL: none
 * @fn: gets the result, or NULL and the error's text; NULL: nobody wants to know
 *
 * Return: 0; -EAGAIN: too many are unanswered; -EPIPE: the connection is lost.
 */
int link_call(struct link *l, const char *command, json_t *args,
	      void (*fn)(void *arg, const json_t *result, const char *error), void *arg);

#endif
