/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all routes have in common: which one it is, who may, the query, the body's JSON, keys,
 * audit.
 *
 * An answer is kept by its key when something was done: for a job at once, with the job's path in
 * the place of a body, so that a repetition finds the job as it is by then; else with its body. A
 * request that was refused did nothing, and is judged anew when it comes again.
 */
#include "manager/api.h"

#include <gnutls/crypto.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <strings.h>

#include "base/parse.h"
#include "base/util.h"
#include "manager/fields.h"
#include "manager/instance.h"

#define KEY_MAX 128
#define KEY_KEPT_MS (24 * 3600 * 1000ll)
#define PAGE "limit after "
#define CHANGE "dry_run "
#define JOB "dry_run wait "
#define OPERATORS "eyot"

static const struct route routes[] = {
	{ "GET", "/v1", ROLE_VIEWER, false, "", api_service },
	{ "GET", "/v1/host", ROLE_VIEWER, false, "", api_host },
	{ "GET", "/metrics", ROLE_VIEWER, false, "", api_metrics },
	{ "GET", "/v1/audit", ROLE_ADMIN, false, PAGE, api_audit_list },
	{ "GET", "/v1/projects", ROLE_VIEWER, false, PAGE, api_projects_list },
	{ "GET", "/v1/networks", ROLE_VIEWER, false, PAGE, api_networks_list },
	{ "GET", "/v1/networks/{}", ROLE_VIEWER, false, "", api_network_get },
	{ "GET", "/v1/images", ROLE_VIEWER, false, PAGE, api_images_list },
	{ "POST", "/v1/images", ROLE_OPERATOR, true, JOB, api_image_create },
	{ "GET", "/v1/images/{*}", ROLE_VIEWER, false, "", api_image_get },
	{ "DELETE", "/v1/images/{*}", ROLE_OPERATOR, true, CHANGE, api_image_delete },
	{ "GET", "/v1/instances", ROLE_VIEWER, false, PAGE "project state name label ",
	  api_instances_list },
	{ "POST", "/v1/instances", ROLE_OPERATOR, true, JOB "project ", api_instance_create },
	{ "GET", "/v1/instances/{}", ROLE_VIEWER, false, "project ", api_instance_get },
	{ "PATCH", "/v1/instances/{}", ROLE_OPERATOR, true, CHANGE "project ", api_instance_patch },
	{ "DELETE", "/v1/instances/{}", ROLE_OPERATOR, true, JOB "project force ",
	  api_instance_delete },
	{ "POST", "/v1/instances/{}/start", ROLE_OPERATOR, true, JOB "project ",
	  api_instance_start },
	{ "POST", "/v1/instances/{}/stop", ROLE_OPERATOR, true, JOB "project ", api_instance_stop },
	{ "POST", "/v1/instances/{}/restart", ROLE_OPERATOR, true, JOB "project ",
	  api_instance_restart },
	{ "POST", "/v1/instances/{}/pause", ROLE_OPERATOR, true, JOB "project ",
	  api_instance_pause },
	{ "POST", "/v1/instances/{}/resume", ROLE_OPERATOR, true, JOB "project ",
	  api_instance_resume },
	{ "GET", "/v1/instances/{}/logs", ROLE_VIEWER, false, "project source bytes offset ",
	  api_instance_logs },
	{ "GET", "/v1/instances/{}/endpoints", ROLE_OPERATOR, false, "project ",
	  api_instance_endpoints },
	{ "GET", "/v1/jobs", ROLE_VIEWER, false, PAGE "state ", api_jobs_list },
	{ "GET", "/v1/jobs/{}", ROLE_VIEWER, false, "wait ", api_job_get },
	{ "POST", "/v1/jobs/{}/cancel", ROLE_OPERATOR, true, JOB, api_job_cancel },
	{ "GET", "/v1/events", ROLE_VIEWER, false, PAGE "instance ", api_events },
};

static const struct field query_fields[] = {
	{ "limit", FIELD_NUMBER, .min = 1, .max = 100000 },
	{ "after", FIELD_TEXT, .min = 1, .max = 255 },
	{ "dry_run", FIELD_BOOL },
	{ "wait", FIELD_NUMBER, .min = 0, .max = 600 },
	{ "force", FIELD_BOOL },
	{ "project", FIELD_TEXT, .min = 1, .max = NAME_SIZE - 1, .is = name_is,
	  .wants = "the name of a project" },
	{ "state", FIELD_TEXT, .min = 1, .max = 20 },
	{ "name", FIELD_TEXT, .min = 1, .max = 63 },
	{ "label", FIELD_TEXT, .min = 1, .max = 127 },
	{ "source", FIELD_WORD, .choices = "console|monitor" },
	{ "bytes", FIELD_NUMBER, .min = 1, .max = MIB(1) },
	{ "offset", FIELD_NUMBER, .min = 0, .max = INT64_MAX },
	{ "instance", FIELD_TEXT, .min = 16, .max = 16, .is = id_is,
	  .wants = "the id of an instance" },
	{ 0 },
};

/* ---- routes ---- */

/* 1: it fits, with the variable part in @ret_arg */
static int fits(const char *pattern, const char *path, char **ret_arg)
{
	const char *brace = strchr(pattern, '{'), *rest;
	size_t head = brace ? (size_t)(brace - pattern) : 0, len;

	if (!brace)
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, head) || !path[head])
		return 0;
	if (brace[1] == '*') {
		*ret_arg = strdup(path + head);
		return *ret_arg != NULL;
	}
	rest = brace + 2;
	len = strcspn(path + head, "/");
	if (!len || strcmp(path + head + len, rest))
		return 0;
	*ret_arg = strndup(path + head, len);
	return *ret_arg != NULL;
}

static void find_route(struct request *r, bool *ret_other_method)
{
	const char *method = !strcmp(r->method, "HEAD") ? "GET" : r->method;
	char *arg = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(routes) && !r->route; i++) {
		if (!fits(routes[i].pattern, r->path, &arg))
			continue;
		if (strcmp(routes[i].method, method)) {
			*ret_other_method = true;
			free(arg);
		} else {
			r->route = &routes[i];
			r->arg = arg;
		}
		arg = NULL;
	}
}

/* Of the system's daemon, by the groups that the user has */
static enum role role_by_group(uid_t uid)
{
	struct passwd *pw = getpwuid(uid);
	struct group *gr = getgrnam(OPERATORS);
	gid_t groups[256];
	int count = ARRAY_SIZE(groups);

	if (!pw || !gr || getgrouplist(pw->pw_name, pw->pw_gid, groups, &count) < 0)
		return ROLE_NONE;
	for (int i = 0; i < count; i++)
		if (groups[i] == gr->gr_gid)
			return ROLE_OPERATOR;
	return ROLE_NONE;
}

static enum role role_of(const struct manager *m, int64_t uid)
{
	if (uid < 0)
		return ROLE_NONE;
	if (uid == 0 || uid == m->uid)
		return ROLE_ADMIN;
	return m->system ? role_by_group((uid_t)uid) : ROLE_NONE;
}

/* ---- the query ---- */

static bool takes(const struct route *route, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = route->parameters; *p; p = strchr(p, ' ') + 1)
		if (len && !strncmp(p, name, len) && p[len] == ' ')
			return true;
	return false;
}

/* Texts become what their field is. */
static json_t *typed(const struct field *f, json_t *value)
{
	const char *text = json_string_value(value);
	char *end;
	long long n;

	if (f->type == FIELD_BOOL && text && !strcmp(text, "true"))
		return json_true();
	if (f->type == FIELD_BOOL && text && !strcmp(text, "false"))
		return json_false();
	if (f->type == FIELD_NUMBER && text && *text) {
		errno = 0;
		n = strtoll(text, &end, 10);
		if (!*end && !errno)
			return json_integer(n);
	}
	return json_incref(value);
}

static int check_query(struct request *r, struct err *err)
{
	json_t *values = json_object(), *value, *checked = NULL;
	const char *key;
	int ret = 0;

	json_object_foreach(r->query, key, value)
	{
		const struct field *f = query_fields;

		while (f->name && strcmp(f->name, key))
			f++;
		if (!f->name || !takes(r->route, key)) {
			ret = err_set(err, EINVAL, "query parameter '%.60s': unknown", key);
			break;
		}
		json_object_set_new(values, key, typed(f, value));
	}
	if (ret == 0)
		ret = fields_check(query_fields, values, "", true, &checked, err);
	json_decref(values);
	if (ret == 0) {
		json_decref(r->query);
		r->query = checked;
	}
	return ret;
}

/* ---- keys ---- */

static void digest_of(const struct request *r, char out[65])
{
	struct text t = { 0 };
	uint8_t hash[32];

	text_printf(&t, "%s %s ", r->method, r->path);
	text_json(&t, r->query);
	text_add(&t, r->body.data ? r->body.data : "", r->body.len);
	gnutls_hash_fast(GNUTLS_DIG_SHA256, t.data, t.len, hash);
	for (unsigned i = 0; i < sizeof(hash); i++)
		snprintf(out + 2 * i, 3, "%02x", hash[i]);
	text_done(&t);
}

static bool take_kept(void *arg, struct store_row *row)
{
	json_t *kept = arg;

	json_object_set_new(kept, "request", json_string(store_text(row, 0)));
	json_object_set_new(kept, "status", json_integer(store_int(row, 1)));
	json_object_set_new(kept, "location", json_string(store_text(row, 2)));
	json_object_set_new(kept, "body", json_string(store_text(row, 3)));
	return false;
}

/* true: the key was used, and the request is answered */
static bool replay(struct request *r)
{
	json_t *kept = json_object();
	const char *request, *body, *location;
	char digest[65];
	struct text t = { 0 };

	store_read(r->m->store, take_kept, kept,
		   "SELECT request, status, location, body FROM answers WHERE uid = ? AND key = ? "
		   "AND at_ms > ?",
		   "iti", r->uid, r->key, (int64_t)time_now_ms() - KEY_KEPT_MS);
	request = json_string_value(json_object_get(kept, "request"));
	body = json_string_value(json_object_get(kept, "body"));
	location = json_string_value(json_object_get(kept, "location"));
	if (request) {
		digest_of(r, digest);
		if (strcmp(request, digest)) {
			reply_error(r, 422, "key-reused",
				    "Idempotency-Key '%.60s': was used for another request",
				    r->key);
		} else {
			r->replayed = true;
			if (location && strlen(location) > 9) {
				reply_job(r, location + 9, (unsigned)request_number(r, "wait", 0));
			} else {
				text_printf(&t, "%s", body ? body : "");
				reply(r, (int)json_integer_value(json_object_get(kept, "status")),
				      &t);
			}
		}
	}
	json_decref(kept);
	return request != NULL;
}

static void keep(struct request *r, int status, const char *location, const char *body)
{
	char digest[65];

	if (!r->key || r->replayed || r->dry_run || r->counted)
		return;
	r->counted = true;
	digest_of(r, digest);
	store_write(r->m->store, "DELETE FROM answers WHERE at_ms < ?", "i",
		    (int64_t)time_now_ms() - KEY_KEPT_MS);
	store_write(r->m->store, "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
		    "ittiitt", r->uid, r->key, digest, (int64_t)time_now_ms(), (int64_t)status,
		    location, body);
}

void api_keep_job(struct request *r, const char *id)
{
	char location[40];

	snprintf(location, sizeof(location), "/v1/jobs/%s", id);
	keep(r, 202, location, "");
}

void api_answered(struct request *r)
{
	char line[300];
	json_t *problem;
	const char *detail = NULL;

	if (!r->route || !r->route->change || r->dry_run || r->replayed)
		return;
	if (r->status < 300)
		keep(r, r->status, NULL, r->answer.data ? r->answer.data : "");
	problem = r->status >= 400 ? json_loadb(r->answer.data, r->answer.len, 0, NULL) : NULL;
	detail = json_string_value(json_object_get(problem, "detail"));
	snprintf(line, sizeof(line), "%s %.250s", r->method, r->path);
	audit(r->m, r->uid, r->pid, line,
	      r->audit_target ? r->audit_target
	      : r->arg	      ? r->arg
			      : "",
	      r->status, detail ? detail : "");
	json_decref(problem);
}

/* ---- requests ---- */

void api_begin(struct request *r)
{
	bool other_method = false;
	size_t key_len = r->key ? strlen(r->key) : 0;

	r->role = role_of(r->m, r->uid);
	find_route(r, &other_method);
	if (!r->route)
		reply_error(r, other_method ? 405 : 404,
			    other_method ? "method-not-allowed" : "not-found", "%s %.200s: %s",
			    r->method, r->path,
			    other_method ? "has other methods only" : "there is no such path");
	else if (r->role < r->route->role)
		reply_error(r, 403, "forbidden", "user %lld may not %s %.200s", (long long)r->uid,
			    r->method, r->path);
	else if (r->key && (!r->route->change || !key_len || key_len > KEY_MAX))
		reply_error(r, 400, "bad-request", "Idempotency-Key: %s",
			    r->route->change ? "not from 1 to 128 characters" : "nothing changes");
}

void api_run(struct request *r)
{
	struct err err;
	json_error_t je;

	if (r->too_large) {
		reply_error(r, 413, "too-large", "the body: larger than %llu KiB",
			    (unsigned long long)(HTTP_BODY_MAX / 1024));
		return;
	}
	if (check_query(r, &err) < 0) {
		reply_error(r, 400, "bad-request", "%s", err.text);
		return;
	}
	r->dry_run = json_is_true(json_object_get(r->query, "dry_run"));
	if (r->body.len) {
		r->json = json_loadb(r->body.data, r->body.len, JSON_REJECT_DUPLICATES, &je);
		if (!r->json) {
			reply_error(r, 400, "bad-request", "the body is no JSON: %s, line %d",
				    je.text, je.line);
			return;
		}
	}
	if (r->key && replay(r))
		return;
	r->route->run(r);
}

struct job *api_job(struct request *r, const char *kind, const char *target, struct instance *inst)
{
	struct job *job = job_new(r->m, kind, target, r->uid, r->pid);

	if (!job) {
		reply_error(r, 500, "internal", "out of memory");
		return NULL;
	}
	job->inst = inst;
	if (inst)
		inst->job = job;
	api_keep_job(r, job->id);
	return job;
}

void api_list_begin(struct text *t)
{
	text_printf(t, "{\"items\":[");
}

void api_list_end(struct text *t, const char *next, uint64_t total)
{
	text_printf(t, "],\"next\":");
	if (next)
		text_string(t, next, strlen(next));
	else
		text_printf(t, "null");
	text_printf(t, ",\"total\":%llu}", (unsigned long long)total);
}
