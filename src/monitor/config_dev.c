/* SPDX-License-Identifier: Apache-2.0 */
/* Each device has a table of keys; an object of JSON becomes the text that an option would have. */
#include "monitor/config_dev.h"

#include <ctype.h>
#include <stdio.h>

#include "base/parse.h"
#include "base/util.h"
#include "hw/genid.h"

#define CID_MIN 3 /* 0: hypervisor, 1: the machine itself, 2: its host */
#define CID_MAX 0xfffffffeu

struct key {
	const char *name;
	int (*set)(void *dev, const char *value, struct err *err);
};

/* Set the keys of @text; errors name the option @what. */
static int set_keys(void *dev, const char *what, const struct key *keys, unsigned count,
		    const char *text, struct err *err)
{
	_cleanup_free_ char *word = malloc(strlen(text) + 1);
	const char *rest = text;
	unsigned given = 0;

	if (!word)
		return err_set(err, ENOMEM, "%s '%s': out of memory", what, text);
	while (rest) {
		unsigned i = 0;
		char *eq;
		int ret;

		list_next(&rest, word);
		eq = strchr(word, '=');
		if (!eq)
			return err_set(err, EINVAL, "%s '%s': '%s' is not KEY=VALUE", what, text,
				       word);
		*eq = '\0';
		while (i < count && strcmp(keys[i].name, word))
			i++;
		if (i == count)
			return err_set(err, EINVAL, "%s '%s': unknown key '%s'", what, text, word);
		if (given >> i & 1)
			return err_set(err, EINVAL, "%s '%s': '%s' is given twice", what, text,
				       word);
		given |= 1u << i;
		ret = keys[i].set(dev, eq + 1, err);
		if (ret < 0)
			return err_prefix(err, ret, "%s '%s'", what, text);
	}
	return 0;
}

static int copy_text(char **where, const char *key, const char *value, struct err *err)
{
	char *copy = strdup(value);

	if (!copy)
		return err_set(err, ENOMEM, "%s '%s': out of memory", key, value);
	free(*where);
	*where = copy;
	return *value ? 0 : err_set(err, EINVAL, "%s '': must not be empty", key);
}

/* ---- vsock ---- */

static int set_cid(void *dev, const char *value, struct err *err)
{
	struct config_vsock *v = dev;
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno || n < CID_MIN || n > CID_MAX)
		return err_set(err, EINVAL, "cid '%s': not a number from %u to %u", value, CID_MIN,
			       CID_MAX);
	v->cid = (uint32_t)n;
	return 0;
}

static int set_path(void *dev, const char *value, struct err *err)
{
	return copy_text(&((struct config_vsock *)dev)->path, "path", value, err);
}

int config_vsock_parse(struct config *cfg, const char *text, struct err *err)
{
	static const struct key keys[] = { { "cid", set_cid }, { "path", set_path } };
	struct config_vsock v = { 0 };
	int ret = set_keys(&v, "vsock", keys, ARRAY_SIZE(keys), text, err);

	if (ret == 0 && (!v.cid || !v.path))
		ret = err_set(err, EINVAL, "vsock '%s': '%s' is missing", text,
			      v.cid ? "path" : "cid");
	if (ret < 0) {
		config_vsock_done(&v);
		return ret;
	}
	config_vsock_done(&cfg->vsock);
	cfg->vsock = v;
	return 0;
}

void config_vsock_done(struct config_vsock *v)
{
	free(v->path);
	*v = (struct config_vsock) { 0 };
}

/* ---- generation ID ---- */

int config_genid_parse(struct config *cfg, const char *text, struct err *err)
{
	bool given = strcmp(text, "auto") && strcmp(text, "off");

	if (given && genid_parse(text, cfg->genid) < 0)
		return err_set(err, EINVAL, "genid '%s': not one of auto, off, a GUID", text);
	cfg->has_genid = given;
	cfg->no_genid = !strcmp(text, "off");
	return 0;
}

/* ---- balloon ---- */

int config_balloon_parse(struct config *cfg, const char *text, struct err *err)
{
	uint64_t bytes = 0;

	if (strcmp(text, "on") && strcmp(text, "off") &&
	    (size_parse(text, &bytes) < 0 || !bytes || bytes % PAGE_SIZE))
		return err_set(err, EINVAL,
			       "balloon '%s': not one of on, off, a multiple of 4K such as 512M",
			       text);
	cfg->balloon = strcmp(text, "off");
	cfg->balloon_bytes = bytes;
	return 0;
}

/* ---- JSON ---- */

static void put_text(FILE *f, const char *text, bool key)
{
	for (; *text; text++) {
		fputc(key && *text == '_' ? '-' : *text, f);
		if (*text == ',')
			fputc(',', f);
	}
}

char *config_json_list(json_t *object)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	const char *key, *comma = "";
	bool good = f;
	json_t *value;

	if (!f)
		return NULL;
	json_object_foreach(object, key, value)
	{
		fputs(comma, f);
		put_text(f, key, true);
		fputc('=', f);
		if (json_is_string(value))
			put_text(f, json_string_value(value), false);
		else if (json_is_boolean(value))
			fputs(json_is_true(value) ? "on" : "off", f);
		else if (json_is_integer(value))
			fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		else
			good = false;
		comma = ",";
	}
	if (fclose(f) == 0 && good && text && *text)
		return text;
	free(text);
	return NULL;
}
