/* SPDX-License-Identifier: Apache-2.0 */
/* eyot ls [PATTERN], eyot info NAME... */
#include "cli/cli.h"

static const struct column instance_columns[] = {
	{ "NAME", "name", COLUMN_TEXT },
	{ "STATE", "state", COLUMN_TEXT },
	{ "IMAGE", "image.name", COLUMN_TEXT },
	{ "CPUS", "cpus", COLUMN_TEXT },
	{ "MEMORY", "memory_bytes", COLUMN_BYTES },
	{ "DISK", "disk_bytes", COLUMN_BYTES },
	{ "PORTS", "nics", COLUMN_PORTS },
	{ "CREATED", "created_at", COLUMN_TIME },
	{ 0 },
};

int instance_get(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	struct url u;

	url_instance(cli, &u, name, "");
	return api_get(cli, &u, ret, err);
}

int cmd_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *items;
	struct url u;
	int ret;

	url_init(&u, "/v1/instances");
	if (!arg_has(args, "all-projects"))
		url_param(&u, "project", cli->project);
	if (args->count)
		url_param(&u, "name", args->words[0]);
	if (arg_has(args, "state"))
		url_param(&u, "state", arg_value(args, "state"));
	if (arg_has(args, "label"))
		url_param(&u, "label", arg_value(args, "label"));
	ret = api_get_all(cli, &u, &items, err);
	if (ret < 0)
		return ret;
	ret = out_list(cli, instance_columns, items, err);
	json_decref(items);
	return ret;
}

static int out_objects(const struct cli *cli, const json_t *items, struct err *err)
{
	json_t *item;
	size_t i;
	int ret = 0;

	if (json_array_size(items) == 1)
		return out_object(cli, json_array_get(items, 0), err);
	if (cli->format == FORMAT_JSON || cli->format == FORMAT_YAML)
		return out_list(cli, instance_columns, items, err);
	json_array_foreach(items, i, item)
	{
		if (i)
			putchar('\n');
		ret = out_object(cli, item, err);
		if (ret < 0)
			break;
	}
	return ret;
}

int get_each(struct cli *cli, const struct cli_args *args, const char *path, struct err *err)
{
	json_t *items = json_array(), *one;
	int ret = 0;

	for (int i = 0; i < args->count && ret == 0; i++) {
		struct url u;

		if (path) {
			url_init(&u, path);
			url_add(&u, args->words[i]);
		} else {
			url_instance(cli, &u, args->words[i], "");
		}
		ret = api_get(cli, &u, &one, err);
		if (ret == 0)
			json_array_append_new(items, one);
	}
	if (ret == 0)
		ret = out_objects(cli, items, err);
	json_decref(items);
	return ret;
}

int cmd_info(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return get_each(cli, args, NULL, err);
}
