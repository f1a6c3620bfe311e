/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot start, stop, restart, pause, resume, rm: the same of any number of instances.
 *
 * All jobs are begun before the first is waited for, so they run side by side. One that fails does
 * not keep the others from it; the status is that of the first failure.
 */
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/cli.h"

struct action {
	const char *method, *path; /* "/start" */
	const char *query;	   /* "force", or NULL */
	json_t *body;		   /* borrowed; may be NULL */
};

/* Tells a failure; @first keeps the first one */
static void note(int ret, const struct err *err, int *first)
{
	if (ret == 0)
		return;
	log_error("%s", err->text);
	if (*first == 0)
		*first = ret;
}

static int act(struct cli *cli, const struct cli_args *args, const struct action *a,
	       struct err *err)
{
	json_t **jobs = calloc((size_t)args->count, sizeof(json_t *)), *results = json_array();
	int first = 0, ret;

	if (!jobs || !results) {
		free(jobs);
		json_decref(results);
		return err_set(err, ENOMEM, "out of memory");
	}
	for (int i = 0; i < args->count && first != -EINTR; i++) {
		struct url u;

		url_instance(cli, &u, args->words[i], a->path);
		if (a->query)
			url_param(&u, a->query, "true");
		note(api_change(cli, a->method, &u, json_incref(a->body), &jobs[i], err), err,
		     &first);
	}
	for (int i = 0; i < args->count; i++) {
		json_t *result = NULL;

		if (!jobs[i])
			continue;
		note(job_wait(cli, jobs[i], args->words[i], &result, err), err, &first);
		if (result)
			json_array_append_new(results, result);
	}
	ret = cli->dry_run || !strcmp(a->method, "DELETE") ? 0 : out_results(cli, results, err);
	json_decref(results);
	free(jobs);
	if (ret < 0)
		return ret;
	return first ? cli_status(NULL, first) : CLI_DONE;
}

static int act_plainly(struct cli *cli, const struct cli_args *args, const char *path,
		       struct err *err)
{
	const struct action a = { .method = "POST", .path = path };

	return act(cli, args, &a, err);
}

static int act_stopping(struct cli *cli, const struct cli_args *args, const char *path,
			struct err *err)
{
	int64_t timeout_s = 60;
	int ret = arg_number(args, "timeout", 0, 3600, &timeout_s, err);
	struct action a = { .method = "POST", .path = path };

	if (ret < 0)
		return ret;
	a.body = json_pack("{s:I}", "timeout_s", (json_int_t)timeout_s);
	ret = act(cli, args, &a, err);
	json_decref(a.body);
	return ret;
}

int cmd_start(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return act_plainly(cli, args, "/start", err);
}

int cmd_stop(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return act_stopping(cli, args, "/stop", err);
}

int cmd_restart(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return act_stopping(cli, args, "/restart", err);
}

int cmd_pause(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return act_plainly(cli, args, "/pause", err);
}

int cmd_resume(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return act_plainly(cli, args, "/resume", err);
}

int cmd_rm(struct cli *cli, const struct cli_args *args, struct err *err)
{
	const struct action a = { .method = "DELETE",
				  .path = "",
				  .query = arg_has(args, "force") ? "force" : NULL };

	return act(cli, args, &a, err);
}
