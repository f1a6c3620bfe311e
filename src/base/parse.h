/* SPDX-License-Identifier: Apache-2.0 */
/* Values in text. */
#ifndef EYOT_BASE_PARSE_H
#define EYOT_BASE_PARSE_H

#include <stddef.h>
#include <stdint.h>

/** size_parse() - "512M", "2G", "65536K", "1048576"; 0 or -EINVAL, -ERANGE */
int size_parse(const char *text, uint64_t *ret_bytes);

/** size_format() - bytes as people read them, "1.5 GiB"; @buf */
const char *size_format(uint64_t bytes, char *buf, size_t size);

/**
 * list_next() - the next word of a list with commas, double ones made single
 * @text: moves behind it, to NULL after the last
 * @word: as long as *@text
 */
void list_next(const char **text, char *word);

#endif
