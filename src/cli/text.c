/* SPDX-License-Identifier: Apache-2.0 */
/* Values of answers, as people read them */
#include <ctype.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "cli/cli.h"

const json_t *json_at(const json_t *object, const char *path)
{
	char key[64];

	while (object) {
		size_t len = strcspn(path, ".");

		if (len >= sizeof(key))
			return NULL;
		memcpy(key, path, len);
		key[len] = '\0';
		object = json_object_get(object, key);
		if (!path[len])
			break;
		path += len + 1;
	}
	return object;
}

const char *json_text(const json_t *object, const char *path)
{
	const char *text = json_string_value(json_at(object, path));

	return text ? text : "";
}

void text_clean(char *text)
{
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			*text = '?';
}

int64_t text_seconds(const char *time)
{
	struct tm tm = { 0 };
	const char *end = strptime(time, "%Y-%m-%dT%H:%M:%S", &tm);

	return end ? (int64_t)timegm(&tm) : -1;
}

const char *text_age(const char *when, char *buf, size_t size)
{
	static const struct {
		int64_t seconds;
		const char *name;
	} units[] = { { 86400, "d" }, { 3600, "h" }, { 60, "min" }, { 1, "s" } };
	int64_t then = text_seconds(when), age = (int64_t)time(NULL) - then;
	unsigned i = 0;

	if (then < 0) {
		snprintf(buf, size, "-");
		return buf;
	}
	if (age < 0)
		age = 0;
	/* two of a unit at least, so that it is not too coarse */
	while (i < ARRAY_SIZE(units) - 1 && age < 2 * units[i].seconds)
		i++;
	snprintf(buf, size, "%lld %s", (long long)(age / units[i].seconds), units[i].name);
	return buf;
}
