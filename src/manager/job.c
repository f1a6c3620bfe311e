/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/job.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/util.h"
#include "manager/http.h"
#include "manager/instance.h"

#define KEPT_MS (24 * 3600 * 1000ll)

void problem_of(struct problem *p, int ret)
{
	static const struct {
		int errnum, status;
		const char *code;
	} table[] = {
		{ EINVAL, 422, "invalid" },	 { ENOENT, 404, "not-found" },
		{ EEXIST, 409, "exists" },	 { EBUSY, 409, "busy" },
		{ ENOSPC, 409, "no-room" },	 { ETIMEDOUT, 504, "timeout" },
		{ ECANCELED, 409, "cancelled" }, { EACCES, 403, "forbidden" },
		{ ENOMEM, 500, "internal" },
	};

	p->status = 500;
	p->code = "host";
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].errnum == -ret) {
			p->status = table[i].status;
			p->code = table[i].code;
		}
}

void problem_text(const struct problem *p, struct text *out)
{
	const char *phrase = MHD_get_reason_phrase_for((unsigned)p->status);

	text_printf(out, "{\"title\":\"%s\",\"status\":%d,\"code\":\"%s\",\"detail\":", phrase,
		    p->status, p->code);
	text_string(out, p->err.text, strlen(p->err.text));
	text_add(out, "}", 1);
}

/* @result, @error: JSON or NULL */
static void render(const struct job *job, const char *state, const char *result, const char *error,
		   uint64_t ended_ms, struct text *out)
{
	text_printf(out, "{\"id\":\"%s\",\"kind\":\"%s\",\"state\":\"%s\",\"target\":", job->id,
		    job->kind, state);
	text_string(out, job->target, strlen(job->target));
	if (job->progress < 0)
		text_printf(out, ",\"progress\":null,\"message\":");
	else
		text_printf(out, ",\"progress\":%.3f,\"message\":", job->progress);
	text_string(out, job->message, strlen(job->message));
	text_printf(out, ",\"cancellable\":%s,\"result\":%s,\"error\":%s,\"created_at\":",
		    !ended_ms && job->cancel ? "true" : "false", result ? result : "null",
		    error ? error : "null");
	text_time(out, job->created_ms);
	text_printf(out, ",\"ended_at\":");
	text_time(out, ended_ms);
	text_add(out, "}", 1);
}

void job_text(const struct job *job, struct text *out)
{
	render(job, "running", NULL, NULL, 0, out);
}

struct job *job_new(struct manager *m, const char *kind, const char *target, int64_t uid,
		    int64_t pid)
{
	struct job *job = calloc(1, sizeof(*job));
	struct text t = { 0 };

	if (!job)
		return NULL;
	job->m = m;
	job->kind = kind;
	job->uid = uid;
	job->pid = pid;
	job->progress = -1;
	id_new(job->id);
	snprintf(job->target, sizeof(job->target), "%s", target);
	job->created_ms = time_now_ms();
	job_text(job, &t);
	store_write(
	    m->store,
	    "INSERT INTO jobs (id, kind, target, state, text, created_ms, ended_ms) VALUES (?, ?, "
	    "?, 'running', ?, ?, 0)",
	    "tttti", job->id, kind, job->target, t.data ? t.data : "{}", (int64_t)job->created_ms);
	text_done(&t);
	t = (struct text) { 0 };
	text_printf(&t, "{\"kind\":\"%s\",\"job\":\"%s\"}", kind, job->id);
	event_emit(m, "job.started", NULL, job->target, t.data ? t.data : "{}");
	text_done(&t);
	job->next = m->jobs;
	m->jobs = job;
	return job;
}

static void end(struct job *job, const char *state, const char *result, const struct problem *p)
{
	struct manager *m = job->m;
	struct text t = { 0 }, error = { 0 }, data = { 0 };
	uint64_t now = time_now_ms();
	char request[64];

	if (p)
		problem_text(p, &error);
	else
		job->progress = 1;
	render(job, state, result, error.data, now, &t);
	store_write(m->store, "UPDATE jobs SET state = ?, text = ?, ended_ms = ? WHERE id = ?",
		    "ttit", state, t.data ? t.data : "{}", (int64_t)now, job->id);
	text_printf(&data, "{\"kind\":\"%s\",\"job\":\"%s\",\"state\":\"%s\"}", job->kind, job->id,
		    state);
	event_emit(m, "job.ended", NULL, job->target, data.data ? data.data : "{}");
	snprintf(request, sizeof(request), "job %s", job->kind);
	audit(m, job->uid, job->pid, request, job->target, p ? p->status : 200,
	      p ? p->err.text : "done");
	for (struct job **at = &m->jobs; *at; at = &(*at)->next)
		if (*at == job) {
			*at = job->next;
			break;
		}
	if (job->inst && job->inst->job == job)
		job->inst->job = NULL;
	http_job_ended(m->http, job->id, &t);
	text_done(&t);
	text_done(&error);
	text_done(&data);
	free(job);
}

void job_done(struct job *job, const char *result)
{
	if (job)
		end(job, "done", result, NULL);
}

void job_failed(struct job *job, const struct problem *p)
{
	if (job)
		end(job, !strcmp(p->code, "cancelled") ? "cancelled" : "failed", NULL, p);
}

void job_fail(struct job *job, int status, const char *code, const char *fmt, ...)
{
	struct problem p = { .status = status, .code = code };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p.err.text, sizeof(p.err.text), fmt, ap);
	va_end(ap);
	job_failed(job, &p);
}

struct job *job_running(struct manager *m, const char *id)
{
	struct job *job = m->jobs;

	while (job && strcmp(job->id, id))
		job = job->next;
	return job;
}

static bool take_text(void *arg, struct store_row *row)
{
	const char *text = store_text(row, 0);

	text_add(arg, text, strlen(text));
	return false;
}

bool job_load_text(struct manager *m, const char *id, struct text *out)
{
	struct job *job = job_running(m, id);

	if (job)
		job_text(job, out);
	else
		store_read(m->store, take_text, out, "SELECT text FROM jobs WHERE id = ?", "t", id);
	return out->len > 0;
}

static bool interrupt(void *arg, struct store_row *row)
{
	static const struct problem p = { .status = 500,
					  .code = "interrupted",
					  .err.text = "the daemon ended while the job ran" };
	json_t *list = arg, *job = json_loads(store_text(row, 0), 0, NULL), *error;
	struct text t = { 0 };
	char now[TIME_SIZE];

	problem_text(&p, &t);
	error = t.data ? json_loads(t.data, 0, NULL) : NULL;
	time_format(now, time_now_ms());
	json_object_set_new(job, "state", json_string("failed"));
	json_object_set_new(job, "cancellable", json_false());
	json_object_set_new(job, "ended_at", json_string(now));
	json_object_set_new(job, "error", error ? error : json_null());
	json_array_append_new(list, job);
	text_done(&t);
	return true;
}

void jobs_interrupted(struct manager *m)
{
	json_t *list = json_array(), *job;
	size_t i;

	store_read(m->store, interrupt, list, "SELECT text FROM jobs WHERE state = 'running'", "");
	json_array_foreach(list, i, job)
	{
		char *text = json_dumps(job, JSON_COMPACT);

		store_write(m->store,
			    "UPDATE jobs SET state = 'failed', text = ?, ended_ms = ? WHERE id = ?",
			    "tit", text, (int64_t)time_now_ms(),
			    json_string_value(json_object_get(job, "id")));
		free(text);
	}
	json_decref(list);
}

void jobs_tidy(struct manager *m)
{
	store_write(m->store, "DELETE FROM jobs WHERE ended_ms > 0 AND ended_ms < ?", "i",
		    (int64_t)time_now_ms() - KEPT_MS);
}

void jobs_free(struct manager *m)
{
	while (m->jobs) {
		struct job *job = m->jobs;

		m->jobs = job->next;
		free(job);
	}
}
