/* SPDX-License-Identifier: Apache-2.0 */
/* JSON values as a YAML 1.1 document; libyaml knows which texts need quotes in a stream, we which
 * in our types. */
#include <string.h>
#include <yaml.h>

#include "base/util.h"
#include "cli/cli.h"

/* Texts that would be read as something else when they stood plain */
static bool needs_quotes(const char *text)
{
	static const char *const words[] = {
		"",   "~",   "null", "true", "false", "yes",  "no",
		"on", "off", "y",    "n",    ".nan",  ".inf", "-.inf"
	};

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcasecmp(text, words[i]))
			return true;
	return strchr("0123456789+-.=<!&*%@`'\"|>?:#[]{},", *text) != NULL;
}

static int put_scalar(yaml_emitter_t *e, const char *text, bool is_text)
{
	yaml_event_t event;
	yaml_scalar_style_t style = YAML_PLAIN_SCALAR_STYLE;

	if (is_text && strchr(text, '\n'))
		style = YAML_DOUBLE_QUOTED_SCALAR_STYLE;
	else if (is_text && needs_quotes(text))
		style = YAML_SINGLE_QUOTED_SCALAR_STYLE;
	return yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text,
					    (int)strlen(text), 1, 1, style) &&
	       yaml_emitter_emit(e, &event);
}

static int put_value(yaml_emitter_t *e, const json_t *value);

static int put_list(yaml_emitter_t *e, const json_t *list)
{
	yaml_event_t event;
	json_t *item;
	size_t i;

	if (!yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_ANY_SEQUENCE_STYLE) ||
	    !yaml_emitter_emit(e, &event))
		return 0;
	json_array_foreach(list, i, item) if (!put_value(e, item)) return 0;
	return yaml_sequence_end_event_initialize(&event) && yaml_emitter_emit(e, &event);
}

static int put_object(yaml_emitter_t *e, const json_t *object)
{
	yaml_event_t event;
	const char *key;
	json_t *value;

	if (!yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_ANY_MAPPING_STYLE) ||
	    !yaml_emitter_emit(e, &event))
		return 0;
	json_object_foreach((json_t *)object, key,
			    value) if (!put_scalar(e, key, true) || !put_value(e, value)) return 0;
	return yaml_mapping_end_event_initialize(&event) && yaml_emitter_emit(e, &event);
}

static int put_value(yaml_emitter_t *e, const json_t *value)
{
	char *text;
	int ret;

	if (json_is_object(value))
		return put_object(e, value);
	if (json_is_array(value))
		return put_list(e, value);
	if (json_is_string(value))
		return put_scalar(e, json_string_value(value), true);
	text = json_dumps(value, JSON_ENCODE_ANY);
	ret = text && put_scalar(e, text, false);
	free(text);
	return ret;
}

int out_yaml(const json_t *value, struct err *err)
{
	yaml_emitter_t e;
	yaml_event_t event;
	int good;

	if (!yaml_emitter_initialize(&e))
		return err_set(err, ENOMEM, "out of memory");
	yaml_emitter_set_output_file(&e, stdout);
	yaml_emitter_set_unicode(&e, 1);
	good = yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING) &&
	       yaml_emitter_emit(&e, &event) &&
	       yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 0) &&
	       yaml_emitter_emit(&e, &event) && put_value(&e, value) &&
	       yaml_document_end_event_initialize(&event, 1) && yaml_emitter_emit(&e, &event) &&
	       yaml_stream_end_event_initialize(&event) && yaml_emitter_emit(&e, &event);
	yaml_emitter_delete(&e);
	return good && fflush(stdout) == 0
		   ? 0
		   : err_set(err, EIO, "standard output: cannot be written");
}
