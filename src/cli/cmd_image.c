/* SPDX-License-Identifier: Apache-2.0 */
/* eyot image ls, info, build, import, rm, prune */
#include <limits.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/cli.h"

static const struct column image_columns[] = {
	{ "NAME", "names", COLUMN_LIST },	  { "ID", "id", COLUMN_ID },
	{ "SIZE", "size_bytes", COLUMN_BYTES },	  { "DISK", "disk_bytes", COLUMN_BYTES },
	{ "AGENT", "agent", COLUMN_TEXT },	  { "USED BY", "used_by", COLUMN_TEXT },
	{ "CREATED", "created_at", COLUMN_TIME }, { 0 },
};

static int get_images(struct cli *cli, json_t **ret, struct err *err)
{
	struct url u;

	url_init(&u, "/v1/images");
	return api_get_all(cli, &u, ret, err);
}

int cmd_image_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *items;
	int ret = get_images(cli, &items, err);

	if (ret < 0)
		return ret;
	ret = out_list(cli, image_columns, items, err);
	json_decref(items);
	return ret;
}

int cmd_image_info(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return get_each(cli, args, "/v1/images", err);
}

/* ---- making ---- */

static int make(struct cli *cli, const char *name, json_t *source, const char *title,
		struct err *err)
{
	json_t *body = json_pack("{s:s, s:o}", "name", name, "source", source), *image, *list;
	struct url u;
	int ret;

	if (!body)
		return cli_usage(err, "image: its name is not UTF-8");
	url_init(&u, "/v1/images");
	ret = job_run(cli, "POST", &u, body, title, &image, err);
	if (ret < 0 || !image)
		return ret;
	list = json_pack("[o]", image);
	if (cli->format == FORMAT_TABLE && !cli->quiet)
		printf("%s: %.12s\n", name, json_text(image, "id"));
	else
		ret = out_list(cli, image_columns, list, err);
	json_decref(list);
	return ret;
}

int cmd_image_build(struct cli *cli, const struct cli_args *args, struct err *err)
{
	const char *what = args->words[0], *name = args->count > 1 ? args->words[1] : what;
	json_t *source = json_pack("{s:s}", "build", what);
	char title[100];

	if (!source)
		return cli_usage(err, "image: its name is not UTF-8");
	snprintf(title, sizeof(title), "building %.80s", what);
	return make(cli, name, source, title, err);
}

/* The daemon wants absolute paths; where it stands is not where we stand. */
static int set_path(const struct cli_args *args, const char *option, json_t *source,
		    struct err *err)
{
	const char *path = arg_value(args, option);
	char real[PATH_MAX];
	json_t *text;

	if (!path)
		return 0;
	if (!realpath(path, real))
		return err_set(err, ENOENT, "--%s '%.300s': %s", option, path, strerror(errno));
	text = json_string(real);
	if (!text)
		return cli_usage(err, "--%s: its name is not UTF-8", option);
	return json_object_set_new(source, option, text) == 0 ? 0 : -ENOMEM;
}

int cmd_image_import(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *source = json_object();
	const char *format = arg_value(args, "disk-format"), *cmdline = arg_value(args, "cmdline");
	int ret = arg_has(args, "kernel") ? 0 : cli_usage(err, "image import: --kernel is missing");

	if (ret == 0)
		ret = set_path(args, "kernel", source, err);
	if (ret == 0)
		ret = set_path(args, "initrd", source, err);
	if (ret == 0)
		ret = set_path(args, "disk", source, err);
	if (ret < 0) {
		json_decref(source);
		return ret;
	}
	if (format)
		json_object_set_new(source, "disk_format", json_string(format));
	if (cmdline)
		json_object_set_new(source, "cmdline", json_string(cmdline));
	return make(cli, args->words[0], source, "importing", err);
}

/* ---- removal ---- */

static int remove_one(struct cli *cli, const char *name, struct err *err)
{
	json_t *answer = NULL;
	struct url u;
	int ret;

	url_init(&u, "/v1/images");
	url_add(&u, name);
	ret = api_change(cli, "DELETE", &u, NULL, &answer, err);
	if (ret == 0 && answer)
		ret = out_plan(cli, answer, err);
	json_decref(answer);
	return ret;
}

int cmd_image_rm(struct cli *cli, const struct cli_args *args, struct err *err)
{
	int first = 0;

	for (int i = 0; i < args->count && first != -EINTR; i++) {
		int ret = remove_one(cli, args->words[i], err);

		if (ret < 0)
			log_error("%s", err->text);
		first = first ? first : ret;
	}
	return first ? cli_status(NULL, first) : CLI_DONE;
}

int cmd_image_prune(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *items, *image, *gone = json_array();
	size_t i;
	int ret = get_images(cli, &items, err);

	if (ret < 0) {
		json_decref(gone);
		return ret;
	}
	json_array_foreach(items, i, image)
	{
		if (json_integer_value(json_object_get(image, "used_by")))
			continue;
		ret = remove_one(cli, json_text(image, "id"), err);
		/* an instance of it was made meanwhile */
		if (ret == -EREMOTEIO)
			ret = 0;
		else if (ret == 0)
			json_array_append(gone, image);
		if (ret < 0)
			break;
	}
	if (ret == 0 && !cli->dry_run)
		ret = out_list(cli, image_columns, gone, err);
	json_decref(gone);
	json_decref(items);
	return ret;
}
