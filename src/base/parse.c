/* SPDX-License-Identifier: Apache-2.0 */
#include "base/parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned long long n;
	const char *unit;
	unsigned shift = 0;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1])
			return -EINVAL;
		shift = 10u * (unsigned)(unit - units + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = (uint64_t)n << shift;
	return 0;
}

const char *size_format(uint64_t bytes, char *buf, size_t size)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	unsigned i = 0;

	for (; v >= 1024 && i + 1 < ARRAY_SIZE(units); i++)
		v /= 1024;
	snprintf(buf, size, i && v < 100 ? "%.1f %s" : "%.0f %s", v, units[i]);
	return buf;
}

void list_next(const char **text, char *word)
{
	const char *p = *text;

	while (*p && (*p != ',' || p[1] == ',')) {
		p += *p == ',';
		*word++ = *p++;
	}
	*word = '\0';
	*text = *p ? p + 1 : NULL;
}
