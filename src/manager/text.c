/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "base/util.h"

static bool grow(struct text *t, size_t more)
{
	size_t cap = t->cap ? t->cap : 256;
	char *data;

	if (t->failed)
		return false;
	if (t->data && t->len + more + 1 <= t->cap)
		return true;
	while (cap < t->len + more + 1)
		cap *= 2;
	data = realloc(t->data, cap);
	if (!data) {
		t->failed = true;
		return false;
	}
	t->data = data;
	t->cap = cap;
	return true;
}

void text_done(struct text *t)
{
	free(t->data);
	*t = (struct text) { 0 };
}

void text_add(struct text *t, const char *bytes, size_t len)
{
	if (!grow(t, len))
		return;
	memcpy(t->data + t->len, bytes, len);
	t->len += len;
	t->data[t->len] = '\0';
}

void text_printf(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !grow(t, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(t->data + t->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	t->len += (size_t)n;
}

/* Bytes of the UTF-8 sequence at @p (RFC 3629, 4), 0: it is none */
static size_t utf8_length(const uint8_t *p, size_t len)
{
	size_t n = *p < 0x80		     ? 1
		   : *p >= 0xc2 && *p < 0xe0 ? 2
		   : (*p & 0xf0) == 0xe0     ? 3
		   : *p >= 0xf0 && *p < 0xf5 ? 4
					     : 0;

	if (!n || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

void text_string(struct text *t, const char *bytes, size_t len)
{
	const uint8_t *p = (const uint8_t *)bytes;

	text_add(t, "\"", 1);
	for (size_t i = 0; i < len;) {
		size_t n = utf8_length(p + i, len - i);

		if (n == 1 && (p[i] < 0x20 || p[i] == '"' || p[i] == '\\' || p[i] == 0x7f))
			text_printf(t, "\\u%04x", p[i]);
		else if (n)
			text_add(t, bytes + i, n);
		else
			text_add(t, "?", 1);
		i += n ? n : 1;
	}
	text_add(t, "\"", 1);
}

void text_time(struct text *t, uint64_t ms)
{
	char out[TIME_SIZE];

	if (!ms) {
		text_add(t, "null", 4);
		return;
	}
	time_format(out, ms);
	text_printf(t, "\"%s\"", out);
}

void text_json(struct text *t, const json_t *value)
{
	_cleanup_free_ char *out = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

	if (!value)
		text_add(t, "null", 4);
	else if (out)
		text_add(t, out, strlen(out));
	else
		t->failed = true;
}

uint64_t time_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void time_format(char out[TIME_SIZE], uint64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm;
	size_t n;

	gmtime_r(&seconds, &tm);
	n = strftime(out, TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, TIME_SIZE - n, ".%03uZ", (unsigned)(ms % 1000));
}

void id_new(char out[ID_SIZE])
{
	uint64_t v;

	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	snprintf(out, ID_SIZE, "%016llx", (unsigned long long)v);
}

bool id_is(const char *text)
{
	return strspn(text, "0123456789abcdef") == ID_SIZE - 1 && !text[ID_SIZE - 1];
}

#define LOWER "abcdefghijklmnopqrstuvwxyz0123456789"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

bool name_is(const char *text)
{
	size_t len = strlen(text);

	return len && len < NAME_SIZE && strspn(text, LOWER UPPER) &&
	       strspn(text, LOWER UPPER "._-") == len;
}

bool image_name_is(const char *text)
{
	size_t len = strlen(text);
	const char *p = text;

	if (len > 127)
		return false;
	for (;;) {
		size_t n = strspn(p, LOWER "._-");

		if (!n || !strspn(p, LOWER))
			return false;
		p += n;
		if (!*p)
			return true;
		if (*p++ != '/')
			return false;
	}
}
