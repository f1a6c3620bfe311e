/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs, events and the audit log: lists whose items are numbered, and `after` is a number. */
#include <ctype.h>
#include <microhttpd.h>
#include <stdio.h>

#include "base/util.h"
#include "manager/api.h"
#include "manager/instance.h"

struct page {
	struct text t;
	int64_t limit, count, last;
	bool more;
};

/* -1: answered with an error; 0 when there is none */
static int64_t number_of(struct request *r, const char *text)
{
	char *end;
	long long n;

	if (!text)
		return 0;
	errno = 0;
	n = strtoll(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno) {
		reply_error(r, 400, "bad-request", "'after': '%.40s' is no number", text);
		return -1;
	}
	return n;
}

/* Room for one more item; false: the page is full */
static bool begin_item(struct page *p, int64_t number)
{
	if (p->count == p->limit) {
		p->more = true;
		return false;
	}
	if (p->count++)
		text_add(&p->t, ",", 1);
	p->last = number;
	return true;
}

static void end_page(struct request *r, struct page *p, int64_t total)
{
	char next[32];

	snprintf(next, sizeof(next), "%lld", (long long)p->last);
	api_list_end(&p->t, p->more ? next : NULL, (uint64_t)total);
	reply(r, 200, &p->t);
}

/* ---- jobs ---- */

struct job_page {
	struct page page;
	struct manager *m;
};

static bool add_job(void *arg, struct store_row *row)
{
	struct job_page *p = arg;
	const char *text = store_text(row, 1);
	struct job *running = job_running(p->m, store_text(row, 2));

	if (!begin_item(&p->page, store_int(row, 0)))
		return false;
	if (running) /* how far it is now */
		job_text(running, &p->page.t);
	else
		text_add(&p->page.t, text, strlen(text));
	return true;
}

void api_jobs_list(struct request *r)
{
	static const char *const states[] = { "running", "done", "failed", "cancelled" };
	struct job_page p = { .page.limit = request_number(r, "limit", 1000), .m = r->m };
	int64_t after = number_of(r, request_text(r, "after")), total;
	const char *state = request_text(r, "state");
	bool known = !state;

	for (unsigned i = 0; !known && i < ARRAY_SIZE(states); i++)
		known = !strcmp(state, states[i]);
	if (after >= 0 && !known)
		reply_error(r, 400, "bad-request", "'state': '%s' is none", state);
	if (after < 0 || !known)
		return;
	api_list_begin(&p.page.t);
	if (state) {
		store_read(r->m->store, add_job, &p,
			   "SELECT number, text, id FROM jobs WHERE state = ? AND number > ? ORDER "
			   "BY number",
			   "ti", state, after);
		total = store_count(r->m->store, "SELECT count(*) FROM jobs WHERE state = ?", "t",
				    state);
	} else {
		store_read(r->m->store, add_job, &p,
			   "SELECT number, text, id FROM jobs WHERE number > ? ORDER BY number",
			   "i", after);
		total = store_count(r->m->store, "SELECT count(*) FROM jobs", "");
	}
	end_page(r, &p.page, total);
}

static bool find_job(struct request *r)
{
	struct text t = { 0 };
	bool there = job_load_text(r->m, r->arg, &t);

	text_done(&t);
	if (!there)
		reply_error(r, 404, "not-found", "job '%.40s': there is none", r->arg);
	return there;
}

void api_job_get(struct request *r)
{
	if (find_job(r))
		reply_job(r, r->arg, (unsigned)request_number(r, "wait", 0));
}

void api_job_cancel(struct request *r)
{
	struct job *job;
	char id[ID_SIZE];

	if (!find_job(r))
		return;
	job = job_running(r->m, r->arg);
	if (!job || !job->cancel) {
		reply_error(r, 409, "wrong-state", "job '%s': %s", r->arg,
			    job ? "cannot be given up any more" : "has ended");
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "give up job '%s'", r->arg);
		return;
	}
	snprintf(id, sizeof(id), "%s", job->id);
	job->cancel(job);
	api_keep_job(r, id);
	reply_job(r, id, (unsigned)request_number(r, "wait", 0));
}

/* ---- events ---- */

static bool add_event(void *arg, int64_t number, const char *text)
{
	struct page *p = arg;

	if (!begin_item(p, number))
		return false;
	text_add(&p->t, text, strlen(text));
	return true;
}

void api_events(struct request *r)
{
	const char *accept = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Accept");
	const char *seen =
	    MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Last-Event-ID");
	const char *text = request_text(r, "after"), *instance = request_text(r, "instance");
	struct page p = { .limit = request_number(r, "limit", 1000) };
	bool stream = accept && strstr(accept, "text/event-stream");
	int64_t after = number_of(r, stream && seen ? seen : text), total;

	if (after < 0)
		return;
	if (stream) {
		reply_stream(r, text || seen ? after : r->m->last_event, instance);
		return;
	}
	api_list_begin(&p.t);
	event_read(r->m, after, p.limit + 1, instance, add_event, &p);
	total = instance
		    ? store_count(r->m->store, "SELECT count(*) FROM events WHERE instance = ?",
				  "t", instance)
		    : store_count(r->m->store, "SELECT count(*) FROM events", "");
	end_page(r, &p, total);
}

/* ---- the audit log ---- */

static bool add_entry(void *arg, struct store_row *row)
{
	struct page *p = arg;
	const char *request = store_text(row, 4), *target = store_text(row, 5);
	const char *detail = store_text(row, 7);

	if (!begin_item(p, store_int(row, 0)))
		return false;
	text_printf(&p->t, "{\"number\":%lld,\"at\":", (long long)store_int(row, 0));
	text_time(&p->t, (uint64_t)store_int(row, 1));
	text_printf(&p->t, ",\"uid\":%lld,\"pid\":%lld,\"request\":", (long long)store_int(row, 2),
		    (long long)store_int(row, 3));
	text_string(&p->t, request, strlen(request));
	text_printf(&p->t, ",\"target\":");
	text_string(&p->t, target, strlen(target));
	text_printf(&p->t, ",\"status\":%lld,\"detail\":", (long long)store_int(row, 6));
	text_string(&p->t, detail, strlen(detail));
	text_add(&p->t, "}", 1);
	return true;
}

void api_audit_list(struct request *r)
{
	struct page p = { .limit = request_number(r, "limit", 1000) };
	int64_t after = number_of(r, request_text(r, "after"));

	if (after < 0)
		return;
	api_list_begin(&p.t);
	store_read(
	    r->m->store, add_entry, &p,
	    "SELECT number, at_ms, uid, pid, request, target, status, detail FROM audit WHERE "
	    "number > ? ORDER BY number",
	    "i", after);
	end_page(r, &p, store_count(r->m->store, "SELECT count(*) FROM audit", ""));
}
