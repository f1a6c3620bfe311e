/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/fields.h"

#include <stdio.h>
#include <string.h>

#define LABELS_MAX 32
#define LABEL_MAX 63
#define WHERE_SIZE 160

static const struct field *find(const struct field *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return table;
	return NULL;
}

static bool is_choice(const char *choices, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = choices; p; p = strchr(p, '|')) {
		p += *p == '|';
		if (!strncmp(p, word, len) && (p[len] == '|' || !p[len]) && len)
			return true;
	}
	return false;
}

static bool has_control(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return true;
	return false;
}

static int check_text(const struct field *f, const json_t *value, const char *at, struct err *err)
{
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);

	if (!text)
		return err_set(err, EINVAL, "'%s': is no text", at);
	if (len != strlen(text) || has_control(text, len))
		return err_set(err, EINVAL, "'%s': has control characters", at);
	if (f->type == FIELD_WORD) {
		if (!is_choice(f->choices, text))
			return err_set(err, EINVAL, "'%s': '%.40s' is not one of %s", at, text,
				       f->choices);
		return 0;
	}
	if ((int64_t)len < f->min || (int64_t)len > f->max)
		return err_set(err, EINVAL, "'%s': not from %lld to %lld characters", at,
			       (long long)f->min, (long long)f->max);
	if (f->is && !f->is(text))
		return err_set(err, EINVAL, "'%s': '%.60s' is not %s", at, text, f->wants);
	return 0;
}

static bool label_key_is(const char *key)
{
	static const char allowed[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-";
	size_t len = strlen(key);

	return len && len <= LABEL_MAX && !strchr("._/-", key[0]) && strspn(key, allowed) == len;
}

static int check_labels(const json_t *value, const char *at, bool defaults, struct err *err)
{
	const char *key;
	json_t *label;

	if (!json_is_object(value))
		return err_set(err, EINVAL, "'%s': is no object", at);
	if (json_object_size(value) > LABELS_MAX)
		return err_set(err, EINVAL, "'%s': more than %d", at, LABELS_MAX);
	json_object_foreach((json_t *)value, key, label)
	{
		size_t len = json_string_length(label);

		if (!label_key_is(key))
			return err_set(err, EINVAL, "'%s': '%.60s' is no name of a label", at, key);
		if (!defaults && json_is_null(label))
			continue; /* of a patch: take it away */
		if (!json_is_string(label) || len > LABEL_MAX ||
		    len != strlen(json_string_value(label)) ||
		    has_control(json_string_value(label), len))
			return err_set(err, EINVAL, "'%s.%s': is no text of at most %d characters",
				       at, key, LABEL_MAX);
	}
	return 0;
}

static int check_list(const struct field *f, const json_t *value, const char *at, json_t **ret,
		      struct err *err)
{
	json_t *list = json_array(), *item, *checked;
	char where[WHERE_SIZE + 32];
	size_t i;
	int r = 0;

	if (!json_is_array(value))
		r = err_set(err, EINVAL, "'%s': is no list", at);
	else if ((int64_t)json_array_size(value) > f->max)
		r = err_set(err, EINVAL, "'%s': more than %lld", at, (long long)f->max);
	else
		json_array_foreach((json_t *)value, i, item)
		{
			snprintf(where, sizeof(where), "%s[%zu].", at, i);
			r = fields_check(f->fields, item, where, true, &checked, err);
			if (r < 0)
				break;
			json_array_append_new(list, checked);
		}
	if (r < 0)
		json_decref(list);
	else
		*ret = list;
	return r;
}

static int check_value(const struct field *f, json_t *value, const char *at, bool defaults,
		       json_t **ret, struct err *err)
{
	char where[WHERE_SIZE + 2];
	int r = 0;

	switch (f->type) {
	case FIELD_BOOL:
		if (!json_is_boolean(value))
			r = err_set(err, EINVAL, "'%s': is neither true nor false", at);
		break;
	case FIELD_NUMBER:
		if (!json_is_integer(value) || json_integer_value(value) < f->min ||
		    json_integer_value(value) > f->max)
			r = err_set(err, EINVAL, "'%s': not a whole number from %lld to %lld", at,
				    (long long)f->min, (long long)f->max);
		break;
	case FIELD_TEXT:
	case FIELD_WORD:
		r = check_text(f, value, at, err);
		break;
	case FIELD_LABELS:
		r = check_labels(value, at, defaults, err);
		break;
	case FIELD_OBJECT:
		snprintf(where, sizeof(where), "%s.", at);
		return fields_check(f->fields, value, where, defaults, ret, err);
	case FIELD_LIST:
		return check_list(f, value, at, ret, err);
	}
	if (r == 0)
		*ret = json_incref(value);
	return r;
}

int fields_check(const struct field *table, const json_t *object, const char *where, bool defaults,
		 json_t **ret, struct err *err)
{
	json_t *checked = json_object(), *value;
	char at[WHERE_SIZE];
	const char *key;
	int r = 0;

	if (!json_is_object(object))
		r = err_set(err, EINVAL, "'%.*s': is no object", (int)(strlen(where) - !!*where),
			    where);
	else
		json_object_foreach((json_t *)object, key, value) if (!find(table, key))
		{
			r = err_set(err, EINVAL, "'%s%.60s': unknown", where, key);
			break;
		}
	for (const struct field *f = table; r == 0 && f->name; f++) {
		json_t *out = NULL;

		snprintf(at, sizeof(at), "%s%s", where, f->name);
		value = json_object_get(object, f->name);
		if (value)
			r = check_value(f, value, at, defaults, &out, err);
		else if (defaults && f->required)
			r = err_set(err, EINVAL, "'%s': is missing", at);
		else if (defaults && f->def)
			out = json_loads(f->def, JSON_DECODE_ANY, NULL);
		if (r == 0 && out)
			json_object_set_new(checked, f->name, out);
	}
	if (r < 0)
		json_decref(checked);
	else
		*ret = checked;
	return r;
}
