/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the control protocol: what commands look like, and the check of a
 * line against that. docs/control.md is the reference.
 */
#ifndef EYOT_CONTROL_MESSAGE_H
#define EYOT_CONTROL_MESSAGE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define CONTROL_PROTOCOL 1
#define CONTROL_LINE_MAX 65536 /* bytes of a request, its newline not counted */
#define CONTROL_ID_MAX 64      /* bytes of an id that is a string */
#define CONTROL_ARGS_MAX 16

enum control_type {
	CONTROL_FLAG,	/* true or false */
	CONTROL_NUMBER, /* from min to max */
	CONTROL_SIZE,	/* the same, bytes: people may write 4G */
	CONTROL_TEXT,	/* from min to max bytes */
	CONTROL_WORD,	/* one of choices */
	CONTROL_CONFIG, /* a string or an object, as in a configuration file */
};

struct control_arg {
	const char *name; /* NULL: the end of the list */
	enum control_type type;
	bool required;
	uint64_t min, max;
	const char *choices; /* "up|down" */
	const char *help;
};

struct control_call;

struct control_command {
	const char *name; /* NULL: the end of the table */
	const char *help;
	const struct control_arg *args; /* NULL: none */
	unsigned fds;			/* descriptors that may come with it */
	/* Loop thread. Ends, now or later, with control_reply(), _fail() or _hand_over(). */
	void (*run)(struct control_call *call, void *opaque);
};

struct control_request {
	json_t *id; /* integer or string; NULL when none could be read */
	const struct control_command *command;
	json_t *args; /* an object, checked; never NULL after success */
};

/**
 * control_parse() - check one line
 * @table: the commands, ended by a NULL name
 * @line, @len: bytes without the newline; any bytes
 * @req: filled as far as could be read, also on failure; control_request_done() ends it
 * @ret_code: on failure the error's code for the reply
 * @err: on failure its text
 *
 * Return: 0; -EINVAL or -ENOMEM.
 */
int control_parse(const struct control_command *table, const char *line, size_t len,
		  struct control_request *req, const char **ret_code, struct err *err);
void control_request_done(struct control_request *req);

/** control_find() - a command by name; NULL: there is none */
const struct control_command *control_find(const struct control_command *table, const char *name);

/** control_find_arg() - an argument by name; NULL: there is none */
const struct control_arg *control_find_arg(const struct control_command *cmd, const char *name);

/** control_check_arg() - whether a value fits; -EINVAL with a text that names command and argument
 */
int control_check_arg(const struct control_command *cmd, const struct control_arg *arg,
		      const json_t *value, struct err *err);

/** control_describe() - the table as JSON, for programs; NULL: out of memory */
json_t *control_describe(const struct control_command *table);

/** control_code() - the error code for a negative errno */
const char *control_code(int ret);

/* Arguments of a checked request; @def when it is not there. */
bool control_get_flag(const json_t *args, const char *name, bool def);
uint64_t control_get_number(const json_t *args, const char *name, uint64_t def);
const char *control_get_text(const json_t *args, const char *name, const char *def);

#endif
