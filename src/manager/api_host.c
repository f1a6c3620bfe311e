/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/util.h"
#include "manager/api.h"
#include "manager/host.h"
#include "version.h"

void api_service(struct request *r)
{
	static const char *const roles[] = { "none", "viewer", "operator", "admin" };
	struct manager *m = r->m;
	struct text t = { 0 };

	text_printf(&t,
		    "{\"api\":\"v1\",\"version\":\"%s\",\"mode\":\"%s\",\"pid\":%d,\"started_at\":",
		    EYOT_VERSION, m->system ? "system" : "user", (int)getpid());
	text_time(&t, m->started_ms);
	text_printf(&t, ",\"user\":{\"uid\":%lld,\"role\":\"%s\"},\"data\":", (long long)r->uid,
		    roles[r->role]);
	text_string(&t, m->paths.data, strlen(m->paths.data));
	text_printf(&t, ",\"socket\":");
	text_string(&t, m->paths.socket, strlen(m->paths.socket));
	text_add(&t, "}", 1);
	reply(r, 200, &t);
}

void api_host(struct request *r)
{
	struct text t = { 0 };

	host_text(r->m, &t);
	reply(r, 200, &t);
}

void api_metrics(struct request *r)
{
	struct text t = { 0 };

	host_metrics(r->m, &t);
	reply_text(r, "text/plain; version=0.0.4", &t);
}

/* ---- projects ---- */

struct page {
	struct request *r;
	struct text t;
	uint64_t limit, count;
	char next[256];
	bool more;
};

static bool add_project(void *arg, struct store_row *row)
{
	struct page *p = arg;

	if (p->count == p->limit) {
		p->more = true;
		return false;
	}
	if (p->count++)
		text_add(&p->t, ",", 1);
	snprintf(p->next, sizeof(p->next), "%s", store_text(row, 0));
	host_project_text(p->r->m, p->next, (uint64_t)store_int(row, 1), &p->t);
	return true;
}

void api_projects_list(struct request *r)
{
	struct page p = { .r = r, .limit = (uint64_t)request_number(r, "limit", 1000) };
	const char *after = request_text(r, "after");

	api_list_begin(&p.t);
	store_read(r->m->store, add_project, &p,
		   "SELECT name, created_ms FROM projects WHERE name > ? ORDER BY name", "t",
		   after ? after : "");
	api_list_end(&p.t, p.more ? p.next : NULL,
		     (uint64_t)store_count(r->m->store, "SELECT count(*) FROM projects", ""));
	reply(r, 200, &p.t);
}

/* ---- networks: the one that is built in ---- */

static const char user_network[] = "{\"name\":\"user\",\"kind\":\"user\",\"builtin\":true}";

void api_networks_list(struct request *r)
{
	const char *after = request_text(r, "after");
	struct text t = { 0 };

	api_list_begin(&t);
	if (!after || strcmp(after, "user") < 0)
		text_printf(&t, "%s", user_network);
	api_list_end(&t, NULL, 1);
	reply(r, 200, &t);
}

void api_network_get(struct request *r)
{
	struct text t = { 0 };

	if (strcmp(r->arg, "user")) {
		reply_error(r, 404, "not-found", "network '%.64s': there is none", r->arg);
		return;
	}
	text_printf(&t, "%s", user_network);
	reply(r, 200, &t);
}
