/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: long work of the daemon's, watched until its end. */
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/cli.h"

#define BAR 30
#define CANCEL_S 60

static bool shown;

void progress_show(const struct cli *cli, const char *title, double fraction, const char *message)
{
	char bar[BAR + 1], text[160];

	if (cli->quiet || !isatty(STDERR_FILENO))
		return;
	snprintf(text, sizeof(text), "%s", message);
	text_clean(text);
	shown = true;
	if (fraction < 0) {
		fprintf(stderr, "\r\033[K%s: %.50s", title, *text ? text : "...");
	} else {
		memset(bar, ' ', BAR);
		memset(bar, '=', (size_t)((fraction > 1 ? 1 : fraction) * BAR));
		bar[BAR] = '\0';
		fprintf(stderr, "\r\033[K%s [%s] %3.0f %% %.50s", title, bar, fraction * 100, text);
	}
	fflush(stderr);
}

void progress_clear(void)
{
	if (shown)
		fputs("\r\033[K", stderr);
	shown = false;
}

static void show(const struct cli *cli, const char *title, const json_t *job, time_t began)
{
	const json_t *progress = json_object_get(job, "progress");
	const char *message = json_text(job, "message");
	char text[120];
	long s = (long)(time(NULL) - began);

	if (json_is_number(progress)) {
		progress_show(cli, title, json_number_value(progress), message);
		return;
	}
	snprintf(text, sizeof(text), s > 1 ? "%.60s (%ld s)" : "%.60s", *message ? message : "...",
		 s);
	progress_show(cli, title, -1, text);
}

/* Ctrl-C came. What cannot be undone goes on, and that is said. */
static int give_up(struct cli *cli, const char *id, const char *title, struct err *err)
{
	json_t *job = NULL;
	struct url u;
	struct err why;
	int ret;

	cli_forget_interrupt(); /* a second one ends the wait */
	progress_show(cli, title, -1, "being cancelled");
	url_init(&u, "/v1/jobs");
	url_add(&u, id);
	url_append(&u, "/cancel");
	url_param_number(&u, "wait", CANCEL_S);
	ret = api_change(cli, "POST", &u, NULL, &job, &why);
	progress_clear();
	if (ret == 0 && !strcmp(json_text(job, "state"), "cancelled"))
		err_set(err, EINTR, "%s: cancelled", title);
	else if (ret == 0)
		err_set(err, EINTR, "%s: interrupted; the job was already %s", title,
			json_text(job, "state"));
	else
		err_set(err, EINTR, "%s: interrupted, but it goes on (eyot job info %s): %.200s",
			title, id, why.text);
	json_decref(job);
	return -EINTR;
}

static int ended(const json_t *job, json_t **ret_result, struct err *err)
{
	const char *code = json_text(job, "error.code");
	json_t *result = json_object_get(job, "result");

	if (!strcmp(json_text(job, "state"), "done")) {
		if (ret_result)
			*ret_result = json_is_object(result) ? json_incref(result) : NULL;
		return 0;
	}
	err_set(err, EREMOTEIO, "%s", json_text(job, "error.detail"));
	text_clean(err->text);
	return !strcmp(code, "not-found") ? -ENOENT : -EREMOTEIO;
}

int job_wait(struct cli *cli, json_t *job, const char *title, json_t **ret_result, struct err *err)
{
	time_t began = time(NULL);
	char id[64];
	struct url u;
	int ret = 0;

	if (ret_result)
		*ret_result = NULL;
	if (json_is_true(json_object_get(job, "dry_run"))) {
		ret = out_plan(cli, job, err);
		json_decref(job);
		return ret;
	}
	snprintf(id, sizeof(id), "%s", json_text(job, "id"));
	while (ret == 0 && !strcmp(json_text(job, "state"), "running")) {
		show(cli, title, job, began);
		json_decref(job);
		job = NULL;
		url_init(&u, "/v1/jobs");
		url_add(&u, id);
		url_param_number(&u, "wait", 1);
		ret = api_get(cli, &u, &job, err);
	}
	progress_clear();
	if (ret == -EINTR)
		ret = give_up(cli, id, title, err);
	else if (ret == 0)
		ret = ended(job, ret_result, err);
	json_decref(job);
	return ret;
}

int job_run(struct cli *cli, const char *method, const struct url *u, json_t *body,
	    const char *title, json_t **ret_result, struct err *err)
{
	json_t *job = NULL;
	int ret = api_change(cli, method, u, body, &job, err);

	if (ret == 0 && job)
		ret = job_wait(cli, job, title, ret_result, err);
	else if (ret == 0 && ret_result)
		*ret_result = NULL;
	return ret;
}
