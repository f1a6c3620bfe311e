/* SPDX-License-Identifier: Apache-2.0 */
/* Events are numbered without a gap, also across restarts; the store keeps the latest. */
#include <stdio.h>

#include "base/util.h"
#include "manager/http.h"
#include "manager/instance.h"

#define TRIM_EVERY 256

void event_emit(struct manager *m, const char *type, const struct instance *inst, const char *name,
		const char *data)
{
	struct text t = { 0 };

	m->last_event++;
	text_printf(&t, "{\"number\":%lld,\"at\":", (long long)m->last_event);
	text_time(&t, time_now_ms());
	text_printf(&t, ",\"type\":\"%s\",\"instance\":", type);
	text_printf(&t, inst ? "\"%s\"" : "null", inst ? inst->id : "");
	text_printf(&t, ",\"name\":");
	text_string(&t, name, strlen(name));
	text_printf(&t, ",\"data\":%s}", data);
	if (!t.failed)
		store_write(m->store, "INSERT INTO events VALUES (?, ?, ?)", "itt", m->last_event,
			    inst ? inst->id : NULL, t.data);
	text_done(&t);
	if (m->last_event % TRIM_EVERY == 0)
		store_write(m->store, "DELETE FROM events WHERE number <= ?", "i",
			    m->last_event - EVENTS_KEPT);
	http_wake_streams(m->http);
}

struct reading {
	bool (*fn)(void *arg, int64_t number, const char *text);
	void *arg;
};

static bool read_row(void *arg, struct store_row *row)
{
	struct reading *r = arg;

	return r->fn(r->arg, store_int(row, 0), store_text(row, 1));
}

void event_read(struct manager *m, int64_t after, int64_t limit, const char *instance,
		bool (*fn)(void *arg, int64_t number, const char *text), void *arg)
{
	struct reading r = { fn, arg };

	if (instance)
		store_read(
		    m->store, read_row, &r,
		    "SELECT number, text FROM events WHERE number > ? AND instance = ? ORDER BY "
		    "number LIMIT ?",
		    "iti", after, instance, limit);
	else
		store_read(
		    m->store, read_row, &r,
		    "SELECT number, text FROM events WHERE number > ? ORDER BY number LIMIT ?",
		    "ii", after, limit);
}

void audit(struct manager *m, int64_t uid, int64_t pid, const char *request, const char *target,
	   int status, const char *detail)
{
	store_write(
	    m->store,
	    "INSERT INTO audit (at_ms, uid, pid, request, target, status, detail) VALUES (?, ?, ?, "
	    "?, ?, ?, ?)",
	    "iiittit", (int64_t)time_now_ms(), uid, pid, request, target, (int64_t)status, detail);
}
