/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk has one table of keys, for the command line and for JSON. A flag may stand
 * without a value; in JSON its value is true or false.
 */
#include "monitor/config_disk.h"

#include <ctype.h>
#include <stdio.h>

#include "base/parse.h"
#include "base/util.h"
#include "disk/nbd_uri.h"
#include "virtio/virtio.h"

#define SERIAL_MAX 20	      /* bytes, what virtio has room for */
#define RATE_MAX (1ull << 40) /* requests or bytes a second */
#define BURST_MAX 3600	      /* seconds */
#define WAIT_MAX 86400	      /* seconds */

static int bad(const struct config_disk *d, const char *key, const char *value, const char *want,
	       struct err *err)
{
	return err_set(err, EINVAL, "disk '%s': %s '%s': %s", d->path, key, value, want);
}

static int set_format(struct config_disk *d, const char *value, struct err *err)
{
	if (!strcmp(value, "auto"))
		d->o.format = DISK_FORMAT_AUTO;
	else if (!strcmp(value, "raw"))
		d->o.format = DISK_FORMAT_RAW;
	else if (!strcmp(value, "qcow2"))
		d->o.format = DISK_FORMAT_QCOW2;
	else
		return bad(d, "format", value, "not one of auto, raw, qcow2", err);
	return 0;
}

static int set_cache(struct config_disk *d, const char *value, struct err *err)
{
	if (!strcmp(value, "writeback"))
		d->o.cache = DISK_CACHE_WRITEBACK;
	else if (!strcmp(value, "none"))
		d->o.cache = DISK_CACHE_NONE;
	else if (!strcmp(value, "unsafe"))
		d->o.cache = DISK_CACHE_UNSAFE;
	else
		return bad(d, "cache", value, "not one of writeback, none, unsafe", err);
	return 0;
}

static int set_discard(struct config_disk *d, const char *value, struct err *err)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return bad(d, "discard", value, "neither on nor off", err);
	d->o.no_discard = value[1] == 'f';
	return 0;
}

/* A whole number from 1 to @max; units as for sizes. */
static int number(const struct config_disk *d, const char *key, const char *value, uint64_t max,
		  uint64_t *ret, struct err *err)
{
	char want[64];

	if (size_parse(value, ret) == 0 && *ret >= 1 && *ret <= max)
		return 0;
	snprintf(want, sizeof(want), "not a number from 1 to %llu", (unsigned long long)max);
	return bad(d, key, value, want, err);
}

static int set_queues(struct config_disk *d, const char *value, struct err *err)
{
	uint64_t n = 0;
	int ret = number(d, "queues", value, VIRTIO_MAX_QUEUES, &n, err);

	d->queues = (unsigned)n;
	return ret;
}

static int set_iops(struct config_disk *d, const char *value, struct err *err)
{
	return number(d, "iops", value, RATE_MAX, &d->o.limits.iops, err);
}

static int set_bps(struct config_disk *d, const char *value, struct err *err)
{
	return number(d, "bps", value, RATE_MAX, &d->o.limits.bps, err);
}

static int set_burst(struct config_disk *d, const char *value, struct err *err)
{
	uint64_t n = 0;
	int ret = number(d, "burst", value, BURST_MAX, &n, err);

	d->o.limits.burst_s = (unsigned)n;
	return ret;
}

static int set_serial(struct config_disk *d, const char *value, struct err *err)
{
	size_t len = strlen(value);
	char *copy;

	if (len == 0 || len > SERIAL_MAX)
		return bad(d, "serial", value, "not from 1 to 20 characters", err);
	for (const char *p = value; *p; p++)
		if (!isgraph((unsigned char)*p))
			return bad(d, "serial", value, "spaces or control characters in it", err);
	copy = strdup(value);
	if (!copy)
		return err_set(err, ENOMEM, "disk '%s': out of memory", d->path);
	free(d->serial);
	d->serial = copy;
	return 0;
}

static int set_id(struct config_disk *d, const char *value, struct err *err)
{
	char *copy;

	if (config_id_check(value) < 0)
		return bad(d, "id", value, "not 1 to 63 letters, digits, '.', '_' and '-'", err);
	copy = strdup(value);
	if (!copy)
		return err_set(err, ENOMEM, "disk '%s': out of memory", d->path);
	free(d->id);
	d->id = copy;
	return 0;
}

static int set_place(struct config_disk *d, const char *value, struct err *err)
{
	uint64_t n = 0;

	if (size_parse(value, &n) < 0 || n >= CONFIG_DISKS_MAX)
		return bad(d, "place", value, "not a number from 0 to 15", err);
	d->place = (unsigned)n + 1;
	return 0;
}

static int set_text(struct config_disk *d, const char *key, const char *value, char **ret,
		    struct err *err)
{
	char *copy;

	if (!*value)
		return bad(d, key, value, "must not be empty", err);
	copy = strdup(value);
	if (!copy)
		return err_set(err, ENOMEM, "disk '%s': out of memory", d->path);
	free(*ret);
	*ret = copy;
	return 0;
}

static int set_tls_certs(struct config_disk *d, const char *value, struct err *err)
{
	int ret = set_text(d, "tls-certs", value, &d->tls_certs, err);

	d->o.tls_certs = d->tls_certs;
	return ret;
}

static int set_tls_psk(struct config_disk *d, const char *value, struct err *err)
{
	int ret = set_text(d, "tls-psk", value, &d->tls_psk, err);

	d->o.tls_psk = d->tls_psk;
	return ret;
}

static int set_reconnect(struct config_disk *d, const char *value, struct err *err)
{
	uint64_t n = 0;
	int ret = number(d, "reconnect", value, WAIT_MAX, &n, err);

	d->o.reconnect_s = (unsigned)n;
	return ret;
}

static int set_timeout(struct config_disk *d, const char *value, struct err *err)
{
	uint64_t n = 0;
	int ret = number(d, "timeout", value, WAIT_MAX, &n, err);

	d->o.timeout_s = (unsigned)n;
	return ret;
}

static const struct key {
	const char *name;
	int (*set)(struct config_disk *d, const char *value, struct err *err); /* NULL: a flag */
	size_t flag;
} keys[] = {
	{ "readonly", NULL, offsetof(struct config_disk, o.readonly) },
	{ "snapshot", NULL, offsetof(struct config_disk, o.snapshot) },
	{ "format", set_format, 0 },
	{ "cache", set_cache, 0 },
	{ "discard", set_discard, 0 },
	{ "queues", set_queues, 0 },
	{ "serial", set_serial, 0 },
	{ "id", set_id, 0 },
	{ "iops", set_iops, 0 },
	{ "bps", set_bps, 0 },
	{ "burst", set_burst, 0 },
	{ "place", set_place, 0 },
	{ "tls-certs", set_tls_certs, 0 },
	{ "tls-psk", set_tls_psk, 0 },
	{ "reconnect", set_reconnect, 0 },
	{ "timeout", set_timeout, 0 },
};

static const struct key *find_key(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		if (strlen(keys[i].name) == len && !strncmp(keys[i].name, name, len))
			return &keys[i];
	return NULL;
}

void config_disk_done(struct config_disk *d)
{
	free(d->path);
	free(d->serial);
	free(d->id);
	free(d->tls_certs);
	free(d->tls_psk);
	memset(d, 0, sizeof(*d));
}

void config_disks_drop(struct config *cfg)
{
	for (unsigned i = 0; i < cfg->disk_count; i++)
		config_disk_done(&cfg->disks[i]);
	cfg->disk_count = 0;
}

/* A new disk without settings; it counts when config_disk_add() has taken it. */
static int new_disk(struct config *cfg, const char *path, struct config_disk *d, struct err *err)
{
	memset(d, 0, sizeof(*d));
	if (cfg->disk_count == CONFIG_DISKS_MAX)
		return err_set(err, EINVAL, "disk '%s': more than %u disks", path,
			       CONFIG_DISKS_MAX);
	if (!*path)
		return err_set(err, EINVAL, "disk '': must not be empty");
	d->path = strdup(path);
	return d->path ? 0 : err_set(err, ENOMEM, "disk '%s': out of memory", path);
}

/* What is for addresses of NBD servers only, and what such an address must be. */
static int check_remote(const struct config_disk *d, struct err *err)
{
	struct nbd_uri uri;
	int ret;

	if (!nbd_uri_is(d->path)) {
		if (!d->tls_certs && !d->tls_psk && !d->o.reconnect_s && !d->o.timeout_s)
			return 0;
		return err_set(err, EINVAL,
			       "disk '%s': tls-certs, tls-psk, reconnect and timeout are for "
			       "nbd:// addresses",
			       d->path);
	}
	ret = nbd_uri_parse(d->path, &uri, err);
	return ret < 0 ? err_prefix(err, ret, "disk '%s'", d->path) : 0;
}

/* Take over @d when it makes sense; free it when not. */
static int add(struct config *cfg, struct config_disk *d, int ret, struct err *err)
{
	if (ret == 0 && d->o.readonly && d->o.snapshot)
		ret = err_set(err, EINVAL, "disk '%s': readonly and snapshot exclude each other",
			      d->path);
	if (ret == 0 && d->o.limits.burst_s && !d->o.limits.iops && !d->o.limits.bps)
		ret = err_set(err, EINVAL, "disk '%s': burst without iops or bps", d->path);
	if (ret == 0)
		ret = check_remote(d, err);
	if (ret == 0)
		cfg->disks[cfg->disk_count++] = *d;
	else
		config_disk_done(d);
	return ret;
}

static int set_key(struct config_disk *d, const char *p, size_t len, struct err *err)
{
	const char *eq = memchr(p, '=', len);
	const struct key *key = find_key(p, eq ? (size_t)(eq - p) : len);
	_cleanup_free_ char *value = NULL;

	if (!key)
		return err_set(err, EINVAL, "disk '%s': unknown key '%.*s'", d->path, (int)len, p);
	if (!key->set && !eq) {
		*(bool *)((char *)d + key->flag) = true;
		return 0;
	}
	if (!key->set || !eq)
		return err_set(err, EINVAL, "disk '%s': '%s' %s", d->path, key->name,
			       eq ? "takes no value" : "needs a value");
	value = strndup(eq + 1, len - (size_t)(eq + 1 - p));
	return value ? key->set(d, value, err)
		     : err_set(err, ENOMEM, "disk '%s': out of memory", d->path);
}

int config_disk_parse(struct config *cfg, const char *text, struct err *err)
{
	_cleanup_free_ char *path = calloc(1, strlen(text) + 1);
	struct config_disk d;
	const char *p = text;
	char *out = path;
	int ret;

	if (!path)
		return err_set(err, ENOMEM, "disk '%s': out of memory", text);
	while (*p && (*p != ',' || p[1] == ',')) {
		p += *p == ',';
		*out++ = *p++;
	}
	ret = new_disk(cfg, path, &d, err);
	while (*p && ret == 0) {
		size_t len = strcspn(++p, ",");

		ret = set_key(&d, p, len, err);
		p += len;
	}
	return add(cfg, &d, ret, err);
}

static bool takes_text(const struct key *key)
{
	return key->set == set_serial || key->set == set_id || key->set == set_tls_certs ||
	       key->set == set_tls_psk;
}

static int json_key(struct config_disk *d, const char *what, const char *name, json_t *value,
		    struct err *err)
{
	const struct key *key = find_key(name, strlen(name));
	char number_text[32];

	if (!key)
		return err_set(err, EINVAL, "config '%s': disks: unknown key '%s'", what, name);
	if (!key->set && json_is_boolean(value)) {
		*(bool *)((char *)d + key->flag) = json_is_true(value);
		return 0;
	}
	if (key->set == set_discard && json_is_boolean(value))
		return set_discard(d, json_is_true(value) ? "on" : "off", err);
	if (key->set && json_is_string(value))
		return key->set(d, json_string_value(value), err);
	if (key->set && json_is_integer(value) && !takes_text(key)) {
		snprintf(number_text, sizeof(number_text), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		return key->set(d, number_text, err);
	}
	return err_set(err, EINVAL, "config '%s': disks: '%s' has the wrong type", what, name);
}

int config_disk_json(struct config *cfg, const char *what, json_t *item, struct err *err)
{
	json_t *file = json_object_get(item, "file"), *value;
	struct config_disk d;
	const char *name;
	int ret;

	if (json_is_string(item))
		return config_disk_parse(cfg, json_string_value(item), err);
	if (!json_is_object(item))
		return err_set(err, EINVAL, "config '%s': disks: neither a string nor an object",
			       what);
	if (file && !json_is_string(file))
		return err_set(err, EINVAL, "config '%s': disks: 'file' has the wrong type", what);
	ret = new_disk(cfg, file ? json_string_value(file) : "?", &d, err);
	json_object_foreach(item, name, value)
	{
		if (ret == 0 && strcmp(name, "file"))
			ret = json_key(&d, what, name, value, err);
	}
	if (ret == 0 && !file)
		ret = err_set(err, EINVAL, "config '%s': disks: 'file' is missing", what);
	return add(cfg, &d, ret, err);
}
