/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP end: a UNIX socket, connections with known users, requests with whole bodies, answers
 * now or later, streams of events. What requests mean is api.c's.
 */
#ifndef EYOT_MANAGER_HTTP_H
#define EYOT_MANAGER_HTTP_H

#include "manager/job.h"
#include "manager/manager.h"

#define HTTP_BODY_MAX KIB(256)
#define HTTP_CONNECTIONS_MAX 1024
#define HTTP_USER_CONNECTIONS_MAX 512

struct MHD_Connection;

enum role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };

struct route;

struct request {
	struct manager *m;
	struct MHD_Connection *connection;
	struct request *next; /* of those that wait for a job, or are streams */
	char *method, *path;
	const struct route *route; /* NULL: none was found */
	char *arg;		   /* the part of the path that stands for a resource; NULL: none */
	json_t *query;		   /* an object of texts */
	char *key;		   /* Idempotency-Key; NULL: none */
	int64_t uid, pid;
	enum role role;
	struct text body;
	json_t *json; /* the body; NULL: there was none */
	bool dry_run, begun, too_large;
	bool suspended;
	/* the answer; status 0: not yet */
	int status;
	const char *type;
	char *location;
	struct text answer;
	char wait_job[ID_SIZE]; /* "" : waits for nothing */
	uint64_t wait_until_ns;
	/* of a stream of events */
	bool is_stream, stream_waits;
	int64_t stream_after;
	char stream_instance[ID_SIZE];
	struct text stream;
	size_t stream_sent;
	uint64_t next_offset; /* of a log */
	bool has_offset, replayed;
	const char *audit_target; /* borrowed */
	bool counted;		  /* it is in no list any more */
};

int http_new(struct manager *m, struct http **ret, struct err *err);
void http_free(struct http *h);

/** http_wake_streams() - there is an event; NULL is fine */
void http_wake_streams(struct http *h);

/** http_job_ended() - answer those who wait for it; @text: its JSON */
void http_job_ended(struct http *h, const char *id, const struct text *text);

/* ---- for routes: each request is answered once, by one of these ---- */

/** reply() - with JSON that @text has, which is taken over */
void reply(struct request *r, int status, struct text *text);
/** reply_text() - with a text of another type, a constant */
void reply_text(struct request *r, const char *type, struct text *text);
void reply_problem(struct request *r, const struct problem *p);
void reply_error(struct request *r, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/** reply_errno() - with the status that belongs to a negative errno */
void reply_errno(struct request *r, int ret, const struct err *err);

/** reply_plan() - of a dry run: one line of what would be done */
void reply_plan(struct request *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** reply_job() - with a job, which may have ended: at once, or when it ends within `wait` */
void reply_job(struct request *r, const char *id, unsigned wait_s);

/** reply_stream() - with events from now on */
void reply_stream(struct request *r, int64_t after, const char *instance);

/** request_number() - a query parameter; @def when it is not there. It was checked */
int64_t request_number(const struct request *r, const char *name, int64_t def);
const char *request_text(const struct request *r, const char *name);

/* ---- api.c ---- */

/** api_begin() - the head is here: find the route; may answer already */
void api_begin(struct request *r);

/** api_run() - the whole request is here: answer it, now or later */
void api_run(struct request *r);

/** api_answered() - the answer is there: keep and audit it */
void api_answered(struct request *r);

#endif
