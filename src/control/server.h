/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serving end of the control protocol: clients of the same user on a UNIX
 * socket, commands of a table, events. Loop thread only.
 */
#ifndef EYOT_CONTROL_SERVER_H
#define EYOT_CONTROL_SERVER_H

#include "control/message.h"
#include "loop/loop.h"

#define CONTROL_CLIENTS_MAX 32
#define CONTROL_CALLS_MAX 16 /* unanswered requests of a client */
#define CONTROL_FDS_MAX 4    /* descriptors that a client may send ahead of their request */
#define CONTROL_EVENTS_KEPT 128

struct control_server;

struct control_server_config {
	struct loop *loop;
	const struct control_command *table; /* borrowed */
	void *opaque;			     /* of the commands */
	/* Object that the greeting has beside the protocol's version; a new reference or NULL */
	json_t *(*greet)(void *opaque);
};

/**
 * control_server_new() - begin to serve
 * @where: a path, or "fd:N": an inherited socket, listening or already connected
 *
 * Return: 0; -errno with a text that begins with "control".
 */
int control_server_new(const struct control_server_config *cfg, const char *where,
		       struct control_server **ret_server, struct err *err);

/**
 * control_server_free() - end it; NULL is fine
 * Unanswered calls are failed ("cancelled"), what clients take at once is sent, the path removed.
 */
void control_server_free(struct control_server *server);

/** control_server_release_socket() - the path that was made, for the caller to remove and free */
char *control_server_release_socket(struct control_server *server);

/** control_event() - tell all subscribers; @data: an object, taken over; NULL: none */
void control_event(struct control_server *server, const char *name, json_t *data);

/* ---- for commands ---- */

const json_t *control_args(const struct control_call *call);

/** control_call_name() - the command's name, for texts */
const char *control_call_name(const struct control_call *call);

/** control_take_fd() - the next descriptor that came with the request, the caller's from now on;
 * -1: none is left */
int control_take_fd(struct control_call *call);

/** control_reply() - answer with a result, taken over; NULL: an empty object. @call is gone */
void control_reply(struct control_call *call, json_t *result);

/** control_fail() - answer with an error: its code follows from @ret, a negative errno. @call is
 * gone */
void control_fail(struct control_call *call, int ret, const struct err *err);

/** control_fail_code() - the same with a code of the caller's own */
void control_fail_code(struct control_call *call, const char *code, const char *text);

/**
 * control_hand_over() - answer, then give the connection away
 * @fn: is given the socket, which it owns, and the bytes that came behind the request; called
 * when the client has taken the answer, or never
 */
void control_hand_over(struct control_call *call, json_t *result,
		       void (*fn)(void *arg, int fd, const void *bytes, size_t len), void *arg);

/**
 * control_subscribe() - answer, and send events from now on
 * @since: also the kept ones with higher numbers; UINT64_MAX: none
 */
void control_subscribe(struct control_call *call, uint64_t since);

#endif
