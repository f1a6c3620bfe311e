/* SPDX-License-Identifier: Apache-2.0 */
/* Paths and queries of requests; whatever comes from the user is escaped (RFC 3986, 2.3). */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"

static void put(struct url *u, const char *text, size_t len)
{
	if (u->len + len >= URL_SIZE) {
		u->len = URL_SIZE; /* nothing fits behind it any more */
		return;
	}
	memcpy(u->text + u->len, text, len);
	u->len += len;
	u->text[u->len] = '\0';
}

static void put_escaped(struct url *u, const char *text)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				    "0123456789-._~";
	char hex[4];

	for (; *text; text++) {
		if (strchr(plain, *text)) {
			put(u, text, 1);
		} else {
			snprintf(hex, sizeof(hex), "%%%02X", (unsigned char)*text);
			put(u, hex, 3);
		}
	}
}

void url_init(struct url *u, const char *path)
{
	u->len = 0;
	u->query = false;
	url_append(u, path);
}

void url_append(struct url *u, const char *path)
{
	put(u, path, strlen(path));
}

void url_add(struct url *u, const char *name)
{
	put(u, "/", 1);
	/* "." and ".." would be taken for steps on the path */
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		put(u, "%2E%2E", strlen(name) * 3);
	else
		put_escaped(u, name);
}

void url_param(struct url *u, const char *key, const char *value)
{
	put(u, u->query ? "&" : "?", 1);
	u->query = true;
	url_append(u, key);
	put(u, "=", 1);
	put_escaped(u, value);
}

void url_param_number(struct url *u, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	url_param(u, key, text);
}

void url_instance(const struct cli *cli, struct url *u, const char *name, const char *action)
{
	url_init(u, "/v1/instances");
	url_add(u, name);
	url_append(u, action);
	if (strcmp(cli->project, "default"))
		url_param(u, "project", cli->project);
}
