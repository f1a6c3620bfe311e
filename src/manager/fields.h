/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON that a client sent, checked whole against a table, with defaults filled in. The tables say
 * what docs/api/openapi.yaml says of request bodies.
 */
#ifndef EYOT_MANAGER_FIELDS_H
#define EYOT_MANAGER_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum field_type {
	FIELD_BOOL,
	FIELD_NUMBER, /* an integer from min to max */
	FIELD_TEXT,   /* min to max bytes, no control characters */
	FIELD_WORD,   /* one of choices */
	FIELD_OBJECT, /* as in fields */
	FIELD_LIST,   /* at most max objects, as in fields */
	FIELD_LABELS, /* an object of short texts */
};

struct field {
	const char *name; /* NULL: the end of the table */
	enum field_type type;
	bool required;
	int64_t min, max;
	const char *choices;	      /* "auto|kvm|bt" */
	bool (*is)(const char *text); /* a further test of a text; NULL: none */
	const char *wants;	      /* what it must be, for the message about that test */
	const struct field *fields;   /* of objects and lists */
	const char *def;	      /* JSON of the default; NULL: stays away */
};

/**
 * fields_check() - check an object
 * @where: the object's place for messages, "" or ending with a dot
 * @defaults: whether to fill them in, and to miss what is required
 * @ret: a new object with the table's members, in its order
 *
 * Return: 0; -EINVAL with a text that names the member; -ENOMEM.
 */
int fields_check(const struct field *table, const json_t *object, const char *where, bool defaults,
		 json_t **ret, struct err *err);

#endif
