/* SPDX-License-Identifier: Apache-2.0 */
/* What options ask an instance to be, as the daemon wants it */
#include <limits.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"
#include "cli/cli.h"

static int set_size(const struct cli_args *args, const char *option, const char *member,
		    json_t *spec, struct err *err)
{
	const char *text = arg_value(args, option);
	uint64_t bytes;

	if (!text)
		return 0;
	if (size_parse(text, &bytes) < 0 || bytes > INT64_MAX)
		return cli_usage(err, "--%s '%.40s': is not a size such as 512M or 4G", option,
				 text);
	json_object_set_new(spec, member, json_integer((json_int_t)bytes));
	return 0;
}

static int set_text(const struct cli_args *args, const char *option, const char *member,
		    json_t *spec, struct err *err)
{
	const char *text = arg_value(args, option);
	json_t *value = text ? json_string(text) : NULL;

	if (text && !value)
		return cli_usage(err, "--%s: is not UTF-8", option);
	if (value)
		json_object_set_new(spec, member, value);
	return 0;
}

/* "on-failure:5" */
static int set_restart(const struct cli_args *args, json_t *spec, struct err *err)
{
	const char *text = arg_value(args, "restart"), *colon = text ? strchr(text, ':') : NULL;
	json_t *restart;
	char *end;
	long limit = 0;

	if (!text)
		return 0;
	if (colon) {
		limit = strtol(colon + 1, &end, 10);
		if (end == colon + 1 || *end || limit < 1 || limit > 1000)
			return cli_usage(
			    err, "--restart '%.40s': not a number from 1 to 1000 after ':'", text);
	}
	restart = json_object();
	json_object_set_new(restart, "policy",
			    json_stringn(text, colon ? (size_t)(colon - text) : strlen(text)));
	if (colon)
		json_object_set_new(restart, "limit", json_integer(limit));
	json_object_set_new(spec, "restart", restart);
	return 0;
}

static int set_labels(const struct cli_args *args, json_t *spec, struct err *err)
{
	json_t *labels = json_object();
	const char *text;
	unsigned pos = 0;

	while ((text = arg_next(args, "label", &pos))) {
		size_t len = strcspn(text, "=");
		char key[128];

		if (!len || len >= sizeof(key)) {
			json_decref(labels);
			return cli_usage(err, "--label '%.60s': is not KEY=VALUE", text);
		}
		snprintf(key, sizeof(key), "%.*s", (int)len, text);
		json_object_set_new(labels, key, json_string(text[len] ? text + len + 1 : ""));
	}
	pos = 0;
	while ((text = arg_next(args, "no-label", &pos)))
		json_object_set_new(labels, text, json_null());
	if (json_object_size(labels))
		json_object_set(spec, "labels", labels);
	json_decref(labels);
	return 0;
}

static bool port_is(const char *text, size_t len, json_int_t *ret)
{
	json_int_t v = 0;

	if (!len || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		v = v * 10 + (text[i] - '0');
	}
	*ret = v;
	return v >= 1 && v <= 65535;
}

int spec_forward(const char *text, json_t **ret, struct err *err)
{
	const char *slash = strchr(text, '/'), *end = slash ? slash : text + strlen(text);
	const char *guest = memrchr(text, ':', (size_t)(end - text)), *host = NULL;
	json_int_t host_port, guest_port;
	bool good = guest && (!slash || !strcmp(slash, "/udp") || !strcmp(slash, "/tcp"));

	if (good) {
		host = memrchr(text, ':', (size_t)(guest - text));
		host = host ? host + 1 : text;
		good = port_is(host, (size_t)(guest - host), &host_port) &&
		       port_is(guest + 1, (size_t)(end - guest - 1), &guest_port);
	}
	if (!good)
		return cli_usage(err, "port '%.60s': is not [ADDRESS:]PORT:GUEST[/udp]", text);
	*ret = json_object();
	json_object_set_new(*ret, "protocol", json_string(slash ? slash + 1 : "tcp"));
	if (host != text)
		json_object_set_new(*ret, "host_address",
				    json_stringn(text, (size_t)(host - text) - 1));
	json_object_set_new(*ret, "host_port", json_integer(host_port));
	json_object_set_new(*ret, "guest_port", json_integer(guest_port));
	return 0;
}

static int set_ports(const struct cli_args *args, json_t *spec, struct err *err)
{
	json_t *forwards, *nics, *nic, *f;
	const char *text;
	unsigned pos = 0;
	int ret = 0;

	if (arg_has(args, "no-network") && arg_has(args, "port"))
		return cli_usage(err, "--no-network and --port: not both");
	if (!arg_has(args, "no-network") && !arg_has(args, "port") && !arg_has(args, "no-ports"))
		return 0;
	nics = json_array();
	json_object_set_new(spec, "nics", nics);
	if (arg_has(args, "no-network"))
		return 0;
	nic = json_object();
	forwards = json_array();
	json_object_set_new(nic, "network", json_string("user"));
	json_object_set_new(nic, "forwards", forwards);
	json_array_append_new(nics, nic);
	while (ret == 0 && (text = arg_next(args, "port", &pos))) {
		ret = spec_forward(text, &f, err);
		if (ret == 0)
			json_array_append_new(forwards, f);
	}
	return ret;
}

/* "FOLDER:GUEST[:ro]"; of the colons the last one with a path behind it is meant */
static int add_share(const char *text, unsigned number, json_t *shares, struct err *err)
{
	const char *end = text + strlen(text), *colon;
	bool read_only = end - text > 3 && !strcmp(end - 3, ":ro");
	char host[PATH_MAX], real[PATH_MAX], tag[16];
	json_t *share;

	if (read_only)
		end -= 3;
	colon = memrchr(text, ':', (size_t)(end - text));
	if (!colon || colon == text || colon[1] != '/' || colon - text >= PATH_MAX)
		return cli_usage(err, "--volume '%.200s': is not FOLDER:/GUEST/FOLDER[:ro]", text);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	if (!realpath(host, real))
		return cli_usage(err, "--volume '%.200s': %s", host, strerror(errno));
	snprintf(tag, sizeof(tag), "v%u", number);
	share = json_pack("{s:s, s:s, s:s%, s:b}", "tag", tag, "path", real, "guest_path",
			  colon + 1, (size_t)(end - colon - 1), "read_only", read_only);
	if (!share)
		return cli_usage(err, "--volume '%.200s': is not UTF-8", host);
	json_array_append_new(shares, share);
	return 0;
}

static int set_shares(const struct cli_args *args, json_t *spec, struct err *err)
{
	json_t *shares = json_array();
	const char *text;
	unsigned pos = 0, count = 0;
	int ret = 0;

	while (ret == 0 && (text = arg_next(args, "volume", &pos)))
		ret = add_share(text, count++, shares, err);
	if (ret == 0 && (count || arg_has(args, "no-volumes")))
		json_object_set(spec, "shares", shares);
	json_decref(shares);
	return ret;
}

int spec_from_args(const struct cli_args *args, json_t *spec, struct err *err)
{
	int64_t cpus = 0;
	int ret = arg_number(args, "cpus", 1, 64, &cpus, err);

	if (ret == 0 && cpus)
		json_object_set_new(spec, "cpus", json_integer(cpus));
	if (ret == 0)
		ret = set_size(args, "memory", "memory_bytes", spec, err);
	if (ret == 0)
		ret = set_size(args, "disk", "disk_bytes", spec, err);
	if (ret == 0)
		ret = set_text(args, "name", "name", spec, err);
	if (ret == 0)
		ret = set_text(args, "accel", "accelerator", spec, err);
	if (ret == 0)
		ret = set_text(args, "cmdline", "cmdline", spec, err);
	if (ret == 0)
		ret = set_restart(args, spec, err);
	if (ret == 0)
		ret = set_labels(args, spec, err);
	if (ret == 0)
		ret = set_ports(args, spec, err);
	if (ret == 0)
		ret = set_shares(args, spec, err);
	return ret;
}
