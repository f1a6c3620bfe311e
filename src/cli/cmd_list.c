/* SPDX-License-Identifier: Apache-2.0 */
/* eyot network, project, job, audit, host, version: what is only looked at */
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "version.h"

static int list(struct cli *cli, const char *path, const struct column *columns, struct err *err)
{
	json_t *items;
	struct url u;
	int ret;

	url_init(&u, path);
	ret = api_get_all(cli, &u, &items, err);
	if (ret < 0)
		return ret;
	ret = out_list(cli, columns, items, err);
	json_decref(items);
	return ret;
}

int cmd_network_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = { { "NAME", "name", COLUMN_TEXT },
						 { "KIND", "kind", COLUMN_TEXT },
						 { "BUILTIN", "builtin", COLUMN_TEXT },
						 { 0 } };

	return list(cli, "/v1/networks", columns, err);
}

int cmd_network_info(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return get_each(cli, args, "/v1/networks", err);
}

int cmd_project_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = {
		{ "NAME", "name", COLUMN_TEXT },
		{ "INSTANCES", "instances", COLUMN_TEXT },
		{ "CPUS", "cpus", COLUMN_TEXT },
		{ "MEMORY", "memory_bytes", COLUMN_BYTES },
		{ "DISK", "disk_bytes", COLUMN_BYTES },
		{ "CREATED", "created_at", COLUMN_TIME },
		{ 0 },
	};

	return list(cli, "/v1/projects", columns, err);
}

int cmd_audit(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = {
		{ "NUMBER", "number", COLUMN_TEXT },   { "AT", "at", COLUMN_TEXT },
		{ "USER", "uid", COLUMN_TEXT },	       { "STATUS", "status", COLUMN_TEXT },
		{ "REQUEST", "request", COLUMN_TEXT }, { "TARGET", "target", COLUMN_TEXT },
		{ "DETAIL", "detail", COLUMN_TEXT },   { 0 },
	};

	return list(cli, "/v1/audit", columns, err);
}

/* ---- jobs ---- */

int cmd_job_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = {
		{ "ID", "id", COLUMN_TEXT },
		{ "KIND", "kind", COLUMN_TEXT },
		{ "STATE", "state", COLUMN_TEXT },
		{ "TARGET", "target", COLUMN_TEXT },
		{ "CREATED", "created_at", COLUMN_TIME },
		{ 0 },
	};

	return list(cli, "/v1/jobs", columns, err);
}

int cmd_job_info(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return get_each(cli, args, "/v1/jobs", err);
}

int cmd_job_cancel(struct cli *cli, const struct cli_args *args, struct err *err)
{
	int first = 0;

	for (int i = 0; i < args->count && first != -EINTR; i++) {
		json_t *job = NULL;
		struct url u;
		int ret;

		url_init(&u, "/v1/jobs");
		url_add(&u, args->words[i]);
		url_append(&u, "/cancel");
		url_param_number(&u, "wait", 60);
		ret = api_change(cli, "POST", &u, NULL, &job, err);
		if (ret == 0 && cli->dry_run)
			ret = out_plan(cli, job, err);
		json_decref(job);
		if (ret < 0)
			log_error("%s", err->text);
		first = first ? first : ret;
	}
	return first ? cli_status(NULL, first) : CLI_DONE;
}

/* ---- the host ---- */

static int get_host(struct cli *cli, json_t **ret, struct err *err)
{
	struct url u;

	url_init(&u, "/v1/host");
	return api_get(cli, &u, ret, err);
}

int cmd_host_info(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *host;
	int ret = get_host(cli, &host, err);

	if (ret < 0)
		return ret;
	ret = out_object(cli, host, err);
	json_decref(host);
	return ret;
}

/* The status is 4 when nothing here can run a machine. */
int cmd_host_check(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = { { "ACCELERATOR", "name", COLUMN_TEXT },
						 { "USABLE", "usable", COLUMN_TEXT },
						 { "REASON", "reason", COLUMN_TEXT },
						 { 0 } };
	json_t *host, *accelerator;
	bool usable = false;
	size_t i;
	int ret = get_host(cli, &host, err);

	if (ret < 0)
		return ret;
	json_array_foreach(json_object_get(host, "accelerators"), i, accelerator) usable |=
	    json_is_true(json_object_get(accelerator, "usable"));
	ret = out_list(cli, columns, json_object_get(host, "accelerators"), err);
	json_decref(host);
	return ret < 0 ? ret : usable ? CLI_DONE : CLI_REFUSED;
}

int cmd_version(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *service, *both;
	struct url u;
	int ret;

	url_init(&u, "/v1");
	ret = api_get(cli, &u, &service, err);
	if (ret < 0)
		return ret;
	both = json_pack("{s:s, s:o}", "eyot", EYOT_VERSION, "daemon", service);
	ret = out_object(cli, both, err);
	json_decref(both);
	return ret;
}
