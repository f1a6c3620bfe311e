/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line is a JSON object with "id", "command" and, when there are any,
 * "arguments". It is checked whole before anything is done: unknown keys,
 * commands and arguments are refused by name, each value has the type and the
 * bounds that the table gives. Handlers meet only what passed.
 */
#include "control/message.h"

#include <string.h>

#include "base/util.h"

/* What a client wrote goes into error texts: not more of it than this. */
#define SHOWN_MAX 40

static const struct {
	int err;
	const char *code;
} codes[] = {
	{ EINVAL, "bad-argument" }, { ENOENT, "not-found" },   { EBUSY, "busy" },
	{ ENOSPC, "no-room" },	    { EAGAIN, "locked" },      { ETIMEDOUT, "timeout" },
	{ ECANCELED, "cancelled" }, { EEXIST, "exists" },      { EOPNOTSUPP, "unsupported" },
	{ EPROTO, "wrong-state" },  { EACCES, "not-allowed" }, { EPERM, "not-allowed" },
};

const char *control_code(int ret)
{
	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++)
		if (codes[i].err == -ret)
			return codes[i].code;
	return "host";
}

const struct control_command *control_find(const struct control_command *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return table;
	return NULL;
}

const struct control_arg *control_find_arg(const struct control_command *cmd, const char *name)
{
	for (const struct control_arg *a = cmd->args; a && a->name; a++)
		if (!strcmp(a->name, name))
			return a;
	return NULL;
}

static bool is_choice(const char *choices, const char *word)
{
	size_t len = strlen(word);

	if (strchr(word, '|'))
		return false;
	for (const char *p = choices; len && p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (!strncmp(p, word, len) && (p[len] == '|' || !p[len]))
			return true;
	return false;
}

int control_check_arg(const struct control_command *cmd, const struct control_arg *arg,
		      const json_t *value, struct err *err)
{
	switch (arg->type) {
	case CONTROL_FLAG:
		if (json_is_boolean(value))
			return 0;
		return err_set(err, EINVAL, "command '%s': '%s' is neither true nor false",
			       cmd->name, arg->name);
	case CONTROL_NUMBER:
	case CONTROL_SIZE:
		if (json_is_integer(value) && json_integer_value(value) >= 0 &&
		    (uint64_t)json_integer_value(value) >= arg->min &&
		    (uint64_t)json_integer_value(value) <= arg->max)
			return 0;
		return err_set(err, EINVAL, "command '%s': '%s' is not a number from %llu to %llu",
			       cmd->name, arg->name, (unsigned long long)arg->min,
			       (unsigned long long)arg->max);
	case CONTROL_TEXT:
		if (json_is_string(value) && json_string_length(value) >= arg->min &&
		    json_string_length(value) <= arg->max)
			return 0;
		return err_set(err, EINVAL,
			       "command '%s': '%s' is not a text of %llu to %llu bytes", cmd->name,
			       arg->name, (unsigned long long)arg->min,
			       (unsigned long long)arg->max);
	case CONTROL_WORD:
		if (json_is_string(value) && is_choice(arg->choices, json_string_value(value)))
			return 0;
		return err_set(err, EINVAL, "command '%s': '%s' is not one of %s", cmd->name,
			       arg->name, arg->choices);
	case CONTROL_CONFIG:
		if (json_is_string(value) || json_is_object(value))
			return 0;
		return err_set(err, EINVAL, "command '%s': '%s' is neither a string nor an object",
			       cmd->name, arg->name);
	}
	return -EINVAL;
}

static int check_args(struct control_request *req, struct err *err)
{
	const struct control_command *cmd = req->command;
	const char *key;
	json_t *value;

	json_object_foreach(req->args, key, value)
	{
		const struct control_arg *arg = control_find_arg(cmd, key);
		int ret = arg ? control_check_arg(cmd, arg, value, err)
			      : err_set(err, EINVAL, "command '%s': unknown argument '%.*s'",
					cmd->name, SHOWN_MAX, key);

		if (ret < 0)
			return ret;
	}
	for (const struct control_arg *a = cmd->args; a && a->name; a++)
		if (a->required && !json_object_get(req->args, a->name))
			return err_set(err, EINVAL, "command '%s': '%s' is missing", cmd->name,
				       a->name);
	return 0;
}

static int take_id(const json_t *root, struct control_request *req, struct err *err)
{
	json_t *id = json_object_get(root, "id");

	if (!json_is_integer(id) &&
	    !(json_is_string(id) && json_string_length(id) <= CONTROL_ID_MAX))
		return err_set(err, EINVAL,
			       "request: 'id' is not a number or a text of at most %d bytes",
			       CONTROL_ID_MAX);
	req->id = json_incref(id);
	return 0;
}

static int check_shape(const json_t *root, struct err *err)
{
	const json_t *args = json_object_get(root, "arguments");
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)root, key, value)
	{
		if (strcmp(key, "id") && strcmp(key, "command") && strcmp(key, "arguments"))
			return err_set(err, EINVAL, "request: unknown key '%.*s'", SHOWN_MAX, key);
	}
	if (!json_is_string(json_object_get(root, "command")))
		return err_set(err, EINVAL, "request: 'command' is missing or not a text");
	if (args && !json_is_object(args))
		return err_set(err, EINVAL, "request: 'arguments' is not an object");
	return 0;
}

int control_parse(const struct control_command *table, const char *line, size_t len,
		  struct control_request *req, const char **ret_code, struct err *err)
{
	json_error_t je;
	json_t *root, *args;
	int ret;

	*req = (struct control_request) { 0 };
	root = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
	if (!root) {
		*ret_code = "bad-json";
		return err_set(err, EINVAL, "request: not JSON: %s", je.text);
	}
	*ret_code = "bad-request";
	if (!json_is_object(root))
		ret = err_set(err, EINVAL, "request: not a JSON object");
	else
		ret = take_id(root, req, err);
	if (ret == 0)
		ret = check_shape(root, err);
	if (ret == 0) {
		const char *name = json_string_value(json_object_get(root, "command"));

		req->command = control_find(table, name);
		if (!req->command) {
			*ret_code = "unknown-command";
			ret = err_set(err, EINVAL, "command '%.*s': unknown", SHOWN_MAX, name);
		}
	}
	if (ret == 0) {
		*ret_code = "bad-argument";
		args = json_object_get(root, "arguments");
		req->args = args ? json_incref(args) : json_object();
		ret = req->args ? check_args(req, err) : err_set(err, ENOMEM, "out of memory");
	}
	json_decref(root);
	return ret;
}

void control_request_done(struct control_request *req)
{
	json_decref(req->id);
	json_decref(req->args);
	*req = (struct control_request) { 0 };
}

static json_t *describe_arg(const struct control_arg *a)
{
	static const char *const types[] = { "flag", "number", "size", "text", "word", "config" };
	json_t *o = json_pack("{s:s, s:b, s:s}", "type", types[a->type], "required", a->required,
			      "help", a->help);

	if (a->type == CONTROL_WORD)
		json_object_set_new(o, "choices", json_string(a->choices));
	if (a->type == CONTROL_NUMBER || a->type == CONTROL_SIZE || a->type == CONTROL_TEXT) {
		json_object_set_new(o, "min", json_integer((json_int_t)a->min));
		json_object_set_new(o, "max", json_integer((json_int_t)a->max));
	}
	return o;
}

json_t *control_describe(const struct control_command *table)
{
	json_t *all = json_object();

	for (; all && table->name; table++) {
		json_t *args = json_object();

		for (const struct control_arg *a = table->args; a && a->name; a++)
			json_object_set_new(args, a->name, describe_arg(a));
		json_object_set_new(
		    all, table->name,
		    json_pack("{s:s, s:o}", "help", table->help, "arguments", args));
	}
	return all;
}

bool control_get_flag(const json_t *args, const char *name, bool def)
{
	const json_t *v = json_object_get(args, name);

	return v ? json_is_true(v) : def;
}

uint64_t control_get_number(const json_t *args, const char *name, uint64_t def)
{
	const json_t *v = json_object_get(args, name);

	return v ? (uint64_t)json_integer_value(v) : def;
}

const char *control_get_text(const json_t *args, const char *name, const char *def)
{
	const json_t *v = json_object_get(args, name);

	return v ? json_string_value(v) : def;
}
