/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A spec is what a client asked an instance to be, checked, with all defaults. In memory and in the
 * store it is the JSON text of its members, since it is read only when a machine is started.
 */
#include <arpa/inet.h>
#include <stdio.h>

#include "base/util.h"
#include "manager/fields.h"
#include "manager/instance.h"

static bool absolute_is(const char *text)
{
	return *text == '/';
}

static bool address_is(const char *text)
{
	struct in_addr a;

	return inet_pton(AF_INET, text, &a) == 1;
}

static bool tag_is(const char *text)
{
	return name_is(text) && strlen(text) <= 36;
}

static const struct field restart_fields[] = {
	{ "policy", FIELD_WORD, .choices = "no|on-failure|always", .def = "\"no\"" },
	{ "limit", FIELD_NUMBER, .min = 1, .max = 1000, .def = "10" },
	{ 0 },
};

static const struct field forward_fields[] = {
	{ "protocol", FIELD_WORD, .choices = "tcp|udp", .def = "\"tcp\"" },
	{ "host_address", FIELD_TEXT, .min = 1, .max = 15, .is = address_is,
	  .wants = "an IPv4 address", .def = "\"127.0.0.1\"" },
	{ "host_port", FIELD_NUMBER, .required = true, .min = 1, .max = 65535 },
	{ "guest_port", FIELD_NUMBER, .required = true, .min = 1, .max = 65535 },
	{ 0 },
};

static const struct field nic_fields[] = {
	{ "network", FIELD_WORD, .required = true, .choices = "user" },
	{ "forwards", FIELD_LIST, .max = 64, .fields = forward_fields, .def = "[]" },
	{ 0 },
};

static const struct field share_fields[] = {
	{ "tag", FIELD_TEXT, .required = true, .min = 1, .max = 36, .is = tag_is,
	  .wants = "letters, digits, dots, underscores and hyphens" },
	{ "path", FIELD_TEXT, .required = true, .min = 1, .max = PATH_SIZE - 1, .is = absolute_is,
	  .wants = "an absolute path" },
	{ "guest_path", FIELD_TEXT, .min = 1, .max = PATH_SIZE - 1, .is = absolute_is,
	  .wants = "an absolute path" },
	{ "read_only", FIELD_BOOL, .def = "false" },
	{ 0 },
};

#define NAME_FIELD                                                                                 \
	{                                                                                          \
		"name", FIELD_TEXT,                                                                \
		    .min = 1, .max = NAME_SIZE - 1, .is = name_is,                                 \
		    .wants =                                                                       \
			"letters, digits, dots, underscores and hyphens after a letter or digit"   \
	}
#define CHANGEABLE_FIELDS                                                                          \
	{ "cpus", FIELD_NUMBER, .min = 1, .max = 64, .def = "1" },                                 \
	    { "memory_bytes", FIELD_NUMBER, .min = MIB(16), .max = GIB(64), .def = "536870912" },  \
	    { "accelerator", FIELD_WORD, .choices = "auto|kvm|bt", .def = "\"auto\"" },            \
	    { "restart", FIELD_OBJECT, .fields = restart_fields,                                   \
	      .def = "{\"policy\": \"no\", \"limit\": 10}" },                                      \
	    { "nics", FIELD_LIST, .max = 8, .fields = nic_fields,                                  \
	      .def = "[{\"network\": \"user\", \"forwards\": []}]" },                              \
	    { "shares", FIELD_LIST, .max = 3, .fields = share_fields, .def = "[]" },               \
	    { "cmdline", FIELD_TEXT, .max = 1023, .def = "\"\"" },                                 \
	{                                                                                          \
		"labels", FIELD_LABELS, .def = "{}"                                                \
	}
#define DISK_FIELD                                                                                 \
	{                                                                                          \
		"disk_bytes", FIELD_NUMBER, .min = MIB(1), .max = GIB(16384)                       \
	}

static const struct field create_fields[] = {
	NAME_FIELD,
	{ "image", FIELD_TEXT, .required = true, .min = 1, .max = 127 },
	{ "start", FIELD_BOOL, .def = "false" },
	{ "ephemeral", FIELD_BOOL, .def = "false" },
	DISK_FIELD,
	CHANGEABLE_FIELDS,
	{ 0 },
};

static const struct field patch_fields[] = { NAME_FIELD, CHANGEABLE_FIELDS, { 0 } };

/* What a stored spec has; disk_bytes is there from the time the image is known. */
static const struct field spec_fields[] = {
	{ "ephemeral", FIELD_BOOL, .def = "false" },
	{ "disk_bytes", FIELD_NUMBER, .min = 0, .max = GIB(16384), .def = "0" },
	CHANGEABLE_FIELDS,
	{ 0 },
};

void spec_done(struct spec *spec)
{
	free(spec->text);
	spec->text = NULL;
}

/* Two forwards of one port, two shares of one tag */
static int check_clashes(const json_t *spec, struct err *err)
{
	const json_t *nics = json_object_get(spec, "nics"),
		     *shares = json_object_get(spec, "shares");
	size_t i, k, n = 0;
	json_t *nic, *f, *share;
	struct {
		const char *protocol, *address;
		json_int_t port;
	} seen[64 * 8];

	json_array_foreach((json_t *)nics, i, nic)
	    json_array_foreach(json_object_get(nic, "forwards"), k, f)
	{
		seen[n].protocol = json_string_value(json_object_get(f, "protocol"));
		seen[n].address = json_string_value(json_object_get(f, "host_address"));
		seen[n].port = json_integer_value(json_object_get(f, "host_port"));
		for (size_t j = 0; j < n; j++)
			if (seen[j].port == seen[n].port &&
			    !strcmp(seen[j].protocol, seen[n].protocol) &&
			    !strcmp(seen[j].address, seen[n].address))
				return err_set(
				    err, EINVAL, "'nics': port %s:%s:%lld is forwarded twice",
				    seen[n].protocol, seen[n].address, (long long)seen[n].port);
		n++;
	}
	json_array_foreach((json_t *)shares, i, share) for (k = 0; k < i; k++) if (
	    json_equal(json_object_get(share, "tag"),
		       json_object_get(json_array_get(shares, k),
				       "tag"))) return err_set(err, EINVAL,
							       "'shares': tag '%s' is there twice",
							       json_string_value(
								   json_object_get(share, "tag")));
	return 0;
}

/* @json is a checked spec */
static int take(const json_t *json, struct spec *ret, struct err *err)
{
	const json_t *restart = json_object_get(json, "restart");
	const char *policy = json_string_value(json_object_get(restart, "policy"));
	int r = check_clashes(json, err);

	if (r < 0)
		return r;
	*ret = (struct spec) {
		.text = json_dumps(json, JSON_COMPACT),
		.cpus = (unsigned)json_integer_value(json_object_get(json, "cpus")),
		.memory_bytes = (uint64_t)json_integer_value(json_object_get(json, "memory_bytes")),
		.disk_bytes = (uint64_t)json_integer_value(json_object_get(json, "disk_bytes")),
		.limit = (unsigned)json_integer_value(json_object_get(restart, "limit")),
		.policy = !strcmp(policy, "always")	  ? RESTART_ALWAYS
			  : !strcmp(policy, "on-failure") ? RESTART_ON_FAILURE
							  : RESTART_NO,
		.ephemeral = json_is_true(json_object_get(json, "ephemeral")),
	};
	return ret->text ? 0 : err_set(err, ENOMEM, "out of memory");
}

int spec_load(const char *text, struct spec *ret, struct err *err)
{
	json_t *json = json_loads(text, 0, NULL), *checked = NULL;
	int r = fields_check(spec_fields, json, "", true, &checked, err);

	if (r == 0)
		r = take(checked, ret, err);
	json_decref(checked);
	json_decref(json);
	return r;
}

int spec_set_disk(struct spec *spec, uint64_t bytes)
{
	json_t *json = json_loads(spec->text, 0, NULL);
	char *text;

	json_object_set_new(json, "disk_bytes", json_integer((json_int_t)bytes));
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (!text)
		return -ENOMEM;
	free(spec->text);
	spec->text = text;
	spec->disk_bytes = bytes;
	return 0;
}

static void take_name(json_t *json, const char *key, char *out, size_t size)
{
	const char *value = json_string_value(json_object_get(json, key));

	snprintf(out, size, "%s", value ? value : "");
	json_object_del(json, key);
}

int spec_parse(const json_t *body, struct spec *ret, char ret_name[NAME_SIZE], char ret_image[128],
	       bool *ret_start, struct err *err)
{
	json_t *checked = NULL, *spec = NULL;
	int r = fields_check(create_fields, body, "", true, &checked, err);

	if (r < 0)
		return r;
	take_name(checked, "name", ret_name, NAME_SIZE);
	take_name(checked, "image", ret_image, 128);
	*ret_start = json_is_true(json_object_get(checked, "start"));
	json_object_del(checked, "start");
	/* once more for the order of a stored spec, so that equal ones have equal texts */
	r = fields_check(spec_fields, checked, "", true, &spec, err);
	if (r == 0)
		r = take(spec, ret, err);
	json_decref(spec);
	json_decref(checked);
	return r;
}

/* RFC 7396 */
static void merge(json_t *into, const json_t *patch)
{
	const char *key;
	json_t *value, *old;

	json_object_foreach((json_t *)patch, key, value)
	{
		old = json_object_get(into, key);
		if (json_is_null(value))
			json_object_del(into, key);
		else if (json_is_object(value) && json_is_object(old))
			merge(old, value);
		else
			json_object_set(into, key, value);
	}
}

int spec_patch(const struct spec *spec, const json_t *patch, struct spec *ret,
	       char ret_name[NAME_SIZE], struct err *err)
{
	json_t *old = NULL, *checked = NULL, *merged = NULL;
	int r = fields_check(patch_fields, patch, "", false, &checked, err);

	if (r == 0 && !json_object_size(patch))
		r = err_set(err, EINVAL, "the patch changes nothing");
	if (r == 0) {
		take_name(checked, "name", ret_name, NAME_SIZE);
		old = json_loads(spec->text, 0, NULL);
		if (!old)
			r = err_set(err, ENOMEM, "out of memory");
	}
	if (r == 0) {
		merge(old, checked);
		r = fields_check(spec_fields, old, "", true, &merged, err);
	}
	if (r == 0)
		r = take(merged, ret, err);
	json_decref(merged);
	json_decref(checked);
	json_decref(old);
	return r;
}

void spec_pending(const char *spec, const char *started, struct text *out)
{
	static const char *const of_machine[] = { "cpus", "memory_bytes", "accelerator",
						  "nics", "shares",	  "cmdline" };
	json_t *a, *b;
	bool any = false;

	text_add(out, "[", 1);
	if (started && strcmp(spec, started)) {
		a = json_loads(spec, 0, NULL);
		b = json_loads(started, 0, NULL);
		for (unsigned i = 0; i < ARRAY_SIZE(of_machine); i++)
			if (!json_equal(json_object_get(a, of_machine[i]),
					json_object_get(b, of_machine[i]))) {
				text_printf(out, "%s\"%s\"", any ? "," : "", of_machine[i]);
				any = true;
			}
		json_decref(a);
		json_decref(b);
	}
	text_add(out, "]", 1);
}
