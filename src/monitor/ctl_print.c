/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Results for people: an object's members by line, names without underscores;
 * lists of objects as tables; bytes and times in units. What the monitor says is
 * printed without its control characters: names of files and the like may have
 * any.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "monitor/ctl.h"

#define CELL_MAX 64

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), n = strlen(end);

	return len > n && !strcmp(text + len - n, end);
}

static void format_bytes(uint64_t n, char *buf, size_t size)
{
	static const char units[] = "KMGT";
	unsigned u = 0;

	if (n < KIB(10)) {
		snprintf(buf, size, "%" PRIu64, n);
		return;
	}
	while (n >= KIB(10240) && u < 3) {
		n >>= 10;
		u++;
	}
	snprintf(buf, size, "%.1f %ciB", (double)n / 1024, units[u]);
}

static void format_integer(const char *key, json_int_t value, char *buf, size_t size)
{
	if (ends_with(key, "_bytes") || !strcmp(key, "bytes"))
		format_bytes((uint64_t)value, buf, size);
	else if (ends_with(key, "_ms"))
		snprintf(buf, size, "%.3f s", (double)value / 1e3);
	else if (ends_with(key, "_ns"))
		snprintf(buf, size, "%.6f s", (double)value / 1e9);
	else
		snprintf(buf, size, "%" JSON_INTEGER_FORMAT, value);
}

static void format(const char *key, const json_t *value, char *buf, size_t size)
{
	if (json_is_integer(value))
		format_integer(key, json_integer_value(value), buf, size);
	else if (json_is_string(value))
		snprintf(buf, size, "%s", json_string_value(value));
	else if (json_is_real(value))
		snprintf(buf, size, "%.3f", json_real_value(value));
	else if (json_is_boolean(value))
		snprintf(buf, size, "%s", json_is_true(value) ? "yes" : "no");
	else
		snprintf(buf, size, "-");
	for (char *p = buf; *p; p++)
		if (iscntrl((unsigned char)*p))
			*p = '?';
}

static void format_key(const char *key, char *buf, size_t size)
{
	static const char *const units[] = { "_bytes", "_ms", "_ns" };
	size_t len;

	snprintf(buf, size, "%s", key);
	for (unsigned i = 0; i < ARRAY_SIZE(units); i++)
		if (ends_with(buf, units[i]))
			buf[strlen(buf) - strlen(units[i])] = '\0';
	len = strlen(buf);
	for (size_t i = 0; i < len; i++)
		if (buf[i] == '_')
			buf[i] = ' ';
}

static void print_object(const json_t *object, unsigned indent);

/* Simple members of an object in one line */
static void print_row(const json_t *object, unsigned indent)
{
	const char *key, *gap = "";
	json_t *value;

	printf("%*s", (int)indent, "");
	json_object_foreach((json_t *)object, key, value)
	{
		char text[256], name[CELL_MAX];

		if (json_is_null(value) || json_is_object(value) || json_is_array(value))
			continue;
		format(key, value, text, sizeof(text));
		format_key(key, name, sizeof(name));
		if (!strcmp(key, "id"))
			printf("%s%s:", gap, text);
		else
			printf("%s%s %s", gap, name, text);
		gap = !strcmp(key, "id") ? " " : ", ";
	}
	putchar('\n');
	json_object_foreach((json_t *)object, key, value)
	{
		char name[CELL_MAX];

		if (!json_is_object(value))
			continue;
		format_key(key, name, sizeof(name));
		printf("%*s%s:\n", (int)indent + 2, "", name);
		print_row(value, indent + 4);
	}
}

static void print_object(const json_t *object, unsigned indent)
{
	const char *key;
	json_t *value, *item;
	size_t i;

	json_object_foreach((json_t *)object, key, value)
	{
		char text[1024], name[CELL_MAX];

		format_key(key, name, sizeof(name));
		if (json_is_null(value))
			continue;
		if (json_is_object(value)) {
			printf("%*s%s:\n", (int)indent, "", name);
			print_object(value, indent + 2);
		} else if (json_is_array(value)) {
			if (json_array_size(value))
				printf("%*s%s:\n", (int)indent, "", name);
			json_array_foreach(value, i, item)
			{
				print_row(item, indent + 2);
			}
		} else {
			format(key, value, text, sizeof(text));
			printf("%*s%s: %s\n", (int)indent, "", name, text);
		}
	}
}

void ctl_print(const char *command, const json_t *result)
{
	print_object(result, 0);
}

void ctl_print_event(const json_t *event)
{
	json_int_t ms = json_integer_value(json_object_get(event, "time_ms"));
	const char *name = json_string_value(json_object_get(event, "event")), *key;
	time_t seconds = (time_t)(ms / 1000);
	char clock[32] = "", text[512];
	struct tm tm;
	json_t *value;

	if (localtime_r(&seconds, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	format("", json_object_get(event, "event"), text, sizeof(text));
	printf("%s.%03d %s", clock, (int)(ms % 1000), name ? text : "?");
	json_object_foreach(json_object_get(event, "data"), key, value)
	{
		char label[CELL_MAX];

		format(key, value, text, sizeof(text));
		format_key(key, label, sizeof(label));
		printf(" %s=%s", label, text);
	}
	putchar('\n');
}
