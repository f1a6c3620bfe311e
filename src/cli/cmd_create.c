/* SPDX-License-Identifier: Apache-2.0 */
/* eyot create IMAGE, and what `run` has of it */
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"

int image_ensure(struct cli *cli, const char *name, json_t **ret, struct err *err)
{
	struct url u;
	int r;

	url_init(&u, "/v1/images");
	url_add(&u, name);
	r = api_get(cli, &u, ret, err);
	if (r != -ENOENT || strcmp(name, "debian/12"))
		return r;
	url_init(&u, "/v1/images");
	return job_run(cli, "POST", &u,
		       json_pack("{s:s, s:{s:s}}", "name", name, "source", "build", name),
		       "building debian/12", ret, err);
}

int create_instance(struct cli *cli, const char *image, json_t *spec, json_t **ret, struct err *err)
{
	json_t *found = NULL, *name = json_string(image);
	char title[100];
	struct url u;
	int r;

	*ret = NULL;
	if (!name) {
		json_decref(spec);
		return cli_usage(err, "image: its name is not UTF-8");
	}
	json_object_set_new(spec, "image", name);
	r = image_ensure(cli, image, &found, err);
	if (r < 0 || !found) {
		/* a dry run said that the image would be built: no more can be known */
		json_decref(spec);
		return r;
	}
	json_decref(found);
	snprintf(title, sizeof(title), "%.80s",
		 *json_text(spec, "name") ? json_text(spec, "name") : image);
	url_init(&u, "/v1/instances");
	if (strcmp(cli->project, "default"))
		url_param(&u, "project", cli->project);
	return job_run(cli, "POST", &u, spec, title, ret, err);
}

int cmd_create(struct cli *cli, const struct cli_args *args, struct err *err)
{
	json_t *spec = json_object(), *instance, *list;
	int ret = spec_from_args(args, spec, err);

	if (ret < 0) {
		json_decref(spec);
		return ret;
	}
	if (arg_has(args, "start"))
		json_object_set_new(spec, "start", json_true());
	ret = create_instance(cli, args->words[0], spec, &instance, err);
	if (ret < 0 || !instance)
		return ret;
	list = json_pack("[o]", instance);
	ret = out_results(cli, list, err);
	json_decref(list);
	return ret;
}
