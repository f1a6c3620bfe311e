/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers in the format that was asked for.
 *
 * Tables and compact lists are for people: sizes have units, times are ages, and control
 * characters, which names of others may have, are shown as '?'. The other formats have the values
 * as the daemon sent them.
 */
#include <inttypes.h>
#include <string.h>
#include <wchar.h>

#include "base/parse.h"
#include "base/util.h"
#include "cli/cli.h"

#define CELL 256
#define COLUMNS_MAX 16

static int check_stdout(struct err *err)
{
	return fflush(stdout) == 0 ? 0 : err_set(err, EIO, "standard output: cannot be written");
}

static int print_json(const json_t *value, size_t flags, struct err *err)
{
	if (json_dumpf(value, stdout, flags | JSON_REAL_PRECISION(10) | JSON_ENCODE_ANY) < 0)
		return err_set(err, EIO, "standard output: cannot be written");
	putchar('\n');
	return check_stdout(err);
}

/* ---- one value ---- */

static void add(char *buf, size_t size, const char *text)
{
	size_t len = strlen(buf);

	snprintf(buf + len, size - len, "%s%s", len ? "," : "", text);
}

static void format_ports(const json_t *nics, char *buf, size_t size)
{
	json_t *nic, *f;
	size_t i, k;

	json_array_foreach(nics, i, nic) json_array_foreach(json_object_get(nic, "forwards"), k, f)
	{
		const char *address = json_text(f, "host_address");
		bool usual = !strcmp(address, "127.0.0.1");
		char one[80];

		snprintf(one, sizeof(one), "%.20s%s%lld:%lld%s", usual ? "" : address,
			 usual ? "" : ":",
			 (long long)json_integer_value(json_object_get(f, "host_port")),
			 (long long)json_integer_value(json_object_get(f, "guest_port")),
			 strcmp(json_text(f, "protocol"), "udp") ? "" : "/udp");
		add(buf, size, one);
	}
}

static void format_list(const json_t *list, char *buf, size_t size)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item) if (json_is_string(item))
	    add(buf, size, json_string_value(item));
}

/* Any value, plainly */
static void format_plain(const json_t *value, char *buf, size_t size)
{
	switch (json_typeof(value)) {
	case JSON_STRING:
		snprintf(buf, size, "%s", json_string_value(value));
		break;
	case JSON_INTEGER:
		snprintf(buf, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		break;
	case JSON_REAL:
		snprintf(buf, size, "%.6g", json_real_value(value));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		snprintf(buf, size, "%s", json_is_true(value) ? "yes" : "no");
		break;
	case JSON_NULL:
		snprintf(buf, size, "-");
		break;
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (json_dumpb(value, buf, size - 1, JSON_COMPACT) < size)
			buf[json_dumpb(value, buf, size - 1, JSON_COMPACT)] = '\0';
		else
			snprintf(buf, size, "...");
		break;
	}
}

static void format_people(const json_t *value, enum column_kind kind, char *buf, size_t size)
{
	*buf = '\0';
	if (kind == COLUMN_BYTES && json_is_number(value))
		size_format((uint64_t)json_number_value(value), buf, size);
	else if (kind == COLUMN_TIME && json_is_string(value))
		text_age(json_string_value(value), buf, size);
	else if (kind == COLUMN_ID && json_is_string(value))
		snprintf(buf, size, "%.12s", json_string_value(value));
	else if (kind == COLUMN_LIST)
		format_list(value, buf, size);
	else if (kind == COLUMN_PORTS)
		format_ports(value, buf, size);
	else if (value)
		format_plain(value, buf, size);
	if (!*buf)
		snprintf(buf, size, "-");
	text_clean(buf);
}

/* Columns of the terminal that a text takes */
static int width_of(const char *text)
{
	wchar_t wide[CELL];
	size_t n = mbstowcs(wide, text, CELL);
	int w = n == (size_t)-1 ? -1 : wcswidth(wide, n);

	return w < 0 ? (int)strlen(text) : w;
}

/* ---- lists ---- */

static int print_table(const struct column *columns, const json_t *items, struct err *err)
{
	int widths[COLUMNS_MAX];
	unsigned count = 0;
	char cell[CELL];
	json_t *item;
	size_t i;

	for (; columns[count].title && count < COLUMNS_MAX; count++)
		widths[count] = (int)strlen(columns[count].title);
	json_array_foreach(items, i, item) for (unsigned c = 0; c < count; c++)
	{
		format_people(json_at(item, columns[c].path), columns[c].kind, cell, CELL);
		if (width_of(cell) > widths[c])
			widths[c] = width_of(cell);
	}
	for (unsigned c = 0; c < count; c++)
		printf("%-*s%s", c + 1 < count ? widths[c] : 0, columns[c].title,
		       c + 1 < count ? "  " : "\n");
	json_array_foreach(items, i, item) for (unsigned c = 0; c < count; c++)
	{
		format_people(json_at(item, columns[c].path), columns[c].kind, cell, CELL);
		fputs(cell, stdout);
		if (c + 1 < count)
			printf("%*s", widths[c] - width_of(cell) + 2, "");
		else
			putchar('\n');
	}
	return check_stdout(err);
}

static int print_compact(const struct column *columns, const json_t *items, struct err *err)
{
	char cell[CELL];
	json_t *item;
	size_t i;

	json_array_foreach(items, i, item) for (const struct column *c = columns; c->title; c++)
	{
		format_people(json_at(item, c->path), c->kind, cell, CELL);
		printf("%s%c", cell, c[1].title ? '\t' : '\n');
	}
	return check_stdout(err);
}

/* RFC 4180, 2.6 and 2.7 */
static void print_csv_cell(const char *text)
{
	if (!strpbrk(text, ",\"\r\n")) {
		fputs(text, stdout);
		return;
	}
	putchar('"');
	for (; *text; text++) {
		if (*text == '"')
			putchar('"');
		putchar(*text);
	}
	putchar('"');
}

static void print_csv_value(const json_t *value, enum column_kind kind)
{
	char *text = NULL, cell[4096] = "";

	if (json_is_boolean(value))
		fputs(json_is_true(value) ? "true" : "false", stdout);
	else if (json_is_string(value))
		print_csv_cell(json_string_value(value));
	else if (kind == COLUMN_PORTS || kind == COLUMN_LIST) {
		format_people(value, kind, cell, sizeof(cell));
		print_csv_cell(strcmp(cell, "-") ? cell : "");
	} else if (value && !json_is_null(value)) {
		text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		print_csv_cell(text ? text : "");
	}
	free(text);
}

static int print_csv(const struct column *columns, const json_t *items, struct err *err)
{
	json_t *item;
	size_t i;

	for (const struct column *c = columns; c->title; c++)
		printf("%s%s", c->path, c[1].title ? "," : "\r\n");
	json_array_foreach(items, i, item) for (const struct column *c = columns; c->title; c++)
	{
		print_csv_value(json_at(item, c->path), c->kind);
		fputs(c[1].title ? "," : "\r\n", stdout);
	}
	return check_stdout(err);
}

static int print_first(const struct column *columns, const json_t *items, struct err *err)
{
	char cell[CELL];
	json_t *item;
	size_t i;

	json_array_foreach(items, i, item)
	{
		const json_t *value = json_at(item, columns->path);

		if (json_is_array(value))
			value = json_array_get(value, 0);
		if (!json_is_string(value) && !json_is_number(value))
			value = json_object_get(item, "id");
		format_people(value, COLUMN_TEXT, cell, CELL);
		puts(cell);
	}
	return check_stdout(err);
}

int out_list(const struct cli *cli, const struct column *columns, const json_t *items,
	     struct err *err)
{
	if (cli->quiet)
		return print_first(columns, items, err);
	switch (cli->format) {
	case FORMAT_TABLE:
		return print_table(columns, items, err);
	case FORMAT_COMPACT:
		return print_compact(columns, items, err);
	case FORMAT_JSON:
		return print_json(items, JSON_INDENT(2), err);
	case FORMAT_CSV:
		return print_csv(columns, items, err);
	case FORMAT_YAML:
		return out_yaml(items, err);
	}
	return 0;
}

/* ---- one thing ---- */

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), n = strlen(end);

	return len > n && !strcmp(text + len - n, end);
}

static void print_object(const json_t *object, int indent);

static void print_items(const json_t *list, int indent)
{
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		char cell[1024];

		if (json_is_object(item)) {
			if (i)
				putchar('\n');
			print_object(item, indent);
		} else {
			format_people(item, COLUMN_TEXT, cell, sizeof(cell));
			printf("%*s%s\n", indent, "", cell);
		}
	}
}

/* Text of many lines, such as the console's last ones, under its name */
static void print_lines(const char *text, int indent)
{
	while (*text) {
		size_t len = strcspn(text, "\n");
		char line[1024];

		snprintf(line, sizeof(line), "%.*s", (int)(len < 1000 ? len : 1000), text);
		line[strcspn(line, "\r")] = '\0';
		text_clean(line);
		printf("%*s%s\n", indent, "", line);
		text += len + (text[len] == '\n');
	}
}

static void print_member(const char *key, const json_t *value, int indent)
{
	bool bytes = ends_with(key, "_bytes"), time = ends_with(key, "_at");
	char name[64], cell[1024], age[40];

	snprintf(name, sizeof(name), "%.*s", (int)(strlen(key) - (bytes ? 6 : time ? 3 : 0)), key);
	for (char *p = name; *p; p++)
		if (*p == '_')
			*p = ' ';
	if (json_is_null(value) || (json_is_string(value) && !*json_string_value(value)) ||
	    ((json_is_object(value) || json_is_array(value)) && !json_array_size(value) &&
	     !json_object_size(value)))
		return;
	if (json_is_object(value) && bytes) {
		/* of a resource: its members are sizes */
		const char *k;
		json_t *v;

		printf("%*s%s:\n", indent, "", name);
		json_object_foreach((json_t *)value, k, v)
		{
			bool share = !strcmp(k, "utilisation");

			format_people(v, share ? COLUMN_TEXT : COLUMN_BYTES, cell, sizeof(cell));
			printf("%*s%s: %s\n", indent + 2, "", strcmp(k, "in_use") ? k : "in use",
			       cell);
		}
	} else if (json_is_object(value)) {
		printf("%*s%s:\n", indent, "", name);
		print_object(value, indent + 2);
	} else if (json_is_array(value)) {
		printf("%*s%s:\n", indent, "", name);
		print_items(value, indent + 2);
	} else if (json_is_string(value) && strchr(json_string_value(value), '\n')) {
		printf("%*s%s:\n", indent, "", name);
		print_lines(json_string_value(value), indent + 2);
	} else {
		format_people(value, bytes ? COLUMN_BYTES : COLUMN_TEXT, cell, sizeof(cell));
		if (time)
			printf("%*s%s: %s (%s ago)\n", indent, "", name, cell,
			       text_age(json_string_value(value), age, sizeof(age)));
		else
			printf("%*s%s: %s\n", indent, "", name, cell);
	}
}

static void print_object(const json_t *object, int indent)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)object, key, value) print_member(key, value, indent);
}

/* Members of members get names with dots. */
static void flatten(const json_t *object, const char *prefix, json_t *into)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)object, key, value)
	{
		char name[256];

		snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
		if (json_is_object(value))
			flatten(value, name, into);
		else
			json_object_set(into, name, value);
	}
}

/* The values of a flat object, in one line */
static void print_csv_row(const json_t *flat)
{
	const char *key, *gap = "";
	json_t *value;

	json_object_foreach((json_t *)flat, key, value)
	{
		fputs(gap, stdout);
		print_csv_value(value, COLUMN_TEXT);
		gap = ",";
	}
	fputs("\r\n", stdout);
}

static int print_flat(const json_t *object, bool csv, struct err *err)
{
	json_t *flat = json_object(), *value;
	const char *key, *gap = "";
	char cell[1024];

	flatten(object, "", flat);
	json_object_foreach(flat, key, value)
	{
		if (csv) {
			fputs(gap, stdout);
			print_csv_cell(key);
			gap = ",";
			continue;
		}
		format_people(value, COLUMN_TEXT, cell, sizeof(cell));
		printf("%s\t%s\n", key, cell);
	}
	if (csv) {
		fputs("\r\n", stdout);
		print_csv_row(flat);
	}
	json_decref(flat);
	return check_stdout(err);
}

int out_object(const struct cli *cli, const json_t *object, struct err *err)
{
	switch (cli->format) {
	case FORMAT_TABLE:
		print_object(object, 0);
		return check_stdout(err);
	case FORMAT_COMPACT:
		return print_flat(object, false, err);
	case FORMAT_JSON:
		return print_json(object, JSON_INDENT(2), err);
	case FORMAT_CSV:
		return print_flat(object, true, err);
	case FORMAT_YAML:
		return out_yaml(object, err);
	}
	return 0;
}

/* ---- changes ---- */

int out_results(const struct cli *cli, const json_t *items, struct err *err)
{
	static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT },
						 { "STATE", "state", COLUMN_TEXT },
						 { 0 } };
	json_t *item;
	size_t i;

	if (cli->format != FORMAT_TABLE || cli->quiet)
		return out_list(cli, columns, items, err);
	json_array_foreach(items, i, item)
	{
		char line[CELL];

		snprintf(line, sizeof(line), "%s: %s", json_text(item, "name"),
			 json_text(item, "state"));
		text_clean(line);
		puts(line);
	}
	return check_stdout(err);
}

int out_plan(const struct cli *cli, const json_t *plan, struct err *err)
{
	if (cli->format == FORMAT_TABLE || cli->format == FORMAT_COMPACT) {
		print_items(json_object_get(plan, "actions"), 0);
		return check_stdout(err);
	}
	return out_object(cli, plan, err);
}

int out_line(const struct cli *cli, const json_t *item, const char *text, struct err *err)
{
	json_t *flat;

	switch (cli->format) {
	case FORMAT_JSON:
		return print_json(item, JSON_COMPACT, err);
	case FORMAT_YAML:
		return out_yaml(item, err);
	case FORMAT_CSV:
		flat = json_object();
		flatten(item, "", flat);
		print_csv_row(flat);
		json_decref(flat);
		return check_stdout(err);
	default:
		puts(text);
		return check_stdout(err);
	}
}
