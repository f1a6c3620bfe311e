/* SPDX-License-Identifier: Apache-2.0 */
/* eyot rename NAME NEW, eyot set NAME, eyot port ls|add|rm NAME: changes of an instance's settings
 */
#include <string.h>

#include "cli/cli.h"

static int patch(struct cli *cli, const char *name, json_t *body, struct err *err)
{
	json_t *answer, *list;
	struct url u;
	int ret;

	url_instance(cli, &u, name, "");
	ret = api_change(cli, "PATCH", &u, body, &answer, err);
	if (ret < 0)
		return ret;
	if (json_is_true(json_object_get(answer, "dry_run"))) {
		ret = out_plan(cli, answer, err);
		json_decref(answer);
		return ret;
	}
	if (json_array_size(json_object_get(answer, "pending")) && !cli->quiet)
		fprintf(stderr,
			"eyot: instance '%s' runs as it was started: what differs takes effect "
			"with its next start\n",
			name);
	list = json_pack("[o]", answer);
	ret = out_results(cli, list, err);
	json_decref(list);
	return ret;
}

int cmd_rename(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *body = json_pack("{s:s}", "name", args->words[1]);

	return body ? patch(cli, args->words[0], body, err)
		    : cli_usage(err, "rename: the new name is not UTF-8");
}

int cmd_set(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *body = json_object();
	int ret = spec_from_args(args, body, err);

	if (ret == 0 && !json_object_size(body))
		ret = cli_usage(err, "set: nothing is to be changed; see eyot set --help");
	if (ret < 0) {
		json_decref(body);
		return ret;
	}
	return patch(cli, args->words[0], body, err);
}

/* ---- ports ---- */

/* The network cards of an instance, a new reference; those of @ret_instance are left as they are */
static int get_nics(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	json_t *instance;
	int r = instance_get(cli, name, &instance, err);

	if (r < 0)
		return r;
	*ret = json_deep_copy(json_object_get(instance, "nics"));
	json_decref(instance);
	return *ret
		   ? 0
		   : err_set(err, EPROTO, "instance '%s': the daemon tells no network cards", name);
}

int cmd_port_ls(struct cli *cli, const struct cli_args *args, struct err *err)
{
	static const struct column columns[] = {
		{ "PORT", "host_port", COLUMN_TEXT },	 { "ADDRESS", "host_address", COLUMN_TEXT },
		{ "PROTOCOL", "protocol", COLUMN_TEXT }, { "GUEST", "guest_port", COLUMN_TEXT },
		{ "NETWORK", "network", COLUMN_TEXT },	 { 0 },
	};
	json_t *nics, *nic, *f, *all;
	size_t i, k;
	int ret = get_nics(cli, args->words[0], &nics, err);

	if (ret < 0)
		return ret;
	all = json_array();
	json_array_foreach(nics, i, nic) json_array_foreach(json_object_get(nic, "forwards"), k, f)
	{
		json_object_set(f, "network", json_object_get(nic, "network"));
		json_array_append(all, f);
	}
	ret = out_list(cli, columns, all, err);
	json_decref(all);
	json_decref(nics);
	return ret;
}

int cmd_port_add(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *nics, *f, *forwards;
	int ret = get_nics(cli, args->words[0], &nics, err);

	if (ret < 0)
		return ret;
	forwards = json_object_get(json_array_get(nics, 0), "forwards");
	if (!forwards)
		ret = err_set(err, EREMOTEIO, "instance '%s': has no network card", args->words[0]);
	for (int i = 1; i < args->count && ret == 0; i++) {
		ret = spec_forward(args->words[i], &f, err);
		if (ret == 0)
			json_array_append_new(forwards, f);
	}
	if (ret < 0) {
		json_decref(nics);
		return ret;
	}
	return patch(cli, args->words[0], json_pack("{s:o}", "nics", nics), err);
}

/* Take a port of the host off; whether it was there */
static bool take_off(json_t *nics, const char *word)
{
	bool udp = strchr(word, '/') && !strcmp(strchr(word, '/'), "/udp"), found = false;
	json_t *nic, *f, *forwards;
	size_t i, k;
	char *end;
	long port = strtol(word, &end, 10);

	if (end == word || (*end && strcmp(end, "/udp") && strcmp(end, "/tcp")))
		return false;
	json_array_foreach(nics, i, nic)
	{
		forwards = json_object_get(nic, "forwards");
		for (k = 0; k < json_array_size(forwards);) {
			f = json_array_get(forwards, k);
			if (json_integer_value(json_object_get(f, "host_port")) == port &&
			    !strcmp(json_text(f, "protocol"), udp ? "udp" : "tcp")) {
				json_array_remove(forwards, k);
				found = true;
			} else {
				k++;
			}
		}
	}
	return found;
}

int cmd_port_rm(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *nics;
	int ret = get_nics(cli, args->words[0], &nics, err);

	if (ret < 0)
		return ret;
	for (int i = 1; i < args->count && ret == 0; i++)
		if (!take_off(nics, args->words[i]))
			ret = err_set(err, ENOENT, "instance '%s': port '%.40s' leads nowhere",
				      args->words[0], args->words[i]);
	if (ret < 0) {
		json_decref(nics);
		return ret;
	}
	return patch(cli, args->words[0], json_pack("{s:o}", "nics", nics), err);
}
