/* SPDX-License-Identifier: Apache-2.0 */
/* Growing texts, JSON in them, times and ids. */
#ifndef EYOT_MANAGER_TEXT_H
#define EYOT_MANAGER_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_SIZE 17   /* of a resource: 16 hexadecimal digits and the end */
#define NAME_SIZE 64 /* of a name: at most 63 characters and the end */
#define TIME_SIZE 32

struct text {
	char *data; /* ends with a zero byte once something was added */
	size_t len, cap;
	bool failed; /* out of memory: what was added is not complete */
};

void text_done(struct text *t);
void text_add(struct text *t, const char *bytes, size_t len);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** text_string() - add a JSON string, with its quotes; bytes that are no UTF-8 become '?' */
void text_string(struct text *t, const char *bytes, size_t len);

/** text_time() - add a JSON string with a time, or null for 0; @ms since the epoch */
void text_time(struct text *t, uint64_t ms);

/** text_json() - add a value; NULL: null */
void text_json(struct text *t, const json_t *value);

/** time_now_ms() - CLOCK_REALTIME in milliseconds since the epoch */
uint64_t time_now_ms(void);

/** time_format() - RFC 3339, in UTC, with milliseconds */
void time_format(char out[TIME_SIZE], uint64_t ms);

/** id_new() - a random id */
void id_new(char out[ID_SIZE]);
bool id_is(const char *text);

/** name_is() - letters, digits, dots, underscores, hyphens; begins with a letter or digit */
bool name_is(const char *text);

/** image_name_is() - lower-case names with slashes between them, at most 127 characters */
bool image_name_is(const char *text);

#endif
