/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs: what may take long. One that runs is in memory and in the store; one that has ended is in
 * the store alone, for a day. What was running when the daemon ended is found failed at its next
 * start, with code "interrupted".
 */
#ifndef EYOT_MANAGER_JOB_H
#define EYOT_MANAGER_JOB_H

#include "manager/manager.h"

struct problem {
	int status;	  /* of HTTP */
	const char *code; /* a constant */
	struct err err;
};

struct job {
	struct manager *m;
	struct job *next;
	char id[ID_SIZE];
	const char *kind; /* a constant */
	char target[128];
	int64_t uid, pid; /* who asked */
	double progress;  /* negative: cannot be told */
	char message[200];
	uint64_t created_ms;
	/* Gives it up, now or soon, and ends the job as cancelled; NULL: cannot be done any more */
	void (*cancel)(struct job *job);
	void *owner;	       /* of cancel() */
	struct instance *inst; /* whose job it is; NULL: of none */
	bool start;	       /* of a creation or restart: and then start it */
};

/** job_new() - begin one; NULL: out of memory */
struct job *job_new(struct manager *m, const char *kind, const char *target, int64_t uid,
		    int64_t pid);

/** job_done() - it is done; @result: JSON, NULL: none. @job is gone */
void job_done(struct job *job, const char *result);

/** job_failed() - it is not; "cancelled" as @p's code says that it was. @job is gone */
void job_failed(struct job *job, const struct problem *p);

/** job_fail() - the same */
void job_fail(struct job *job, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

void job_text(const struct job *job, struct text *out);
struct job *job_running(struct manager *m, const char *id); /* NULL: it does not run */

/** job_load_text() - JSON of any job, running or ended; false: there is none */
bool job_load_text(struct manager *m, const char *id, struct text *out);

/** jobs_interrupted() - those that ran when the daemon ended have failed; at start */
void jobs_interrupted(struct manager *m);

/** jobs_tidy() - forget old ones */
void jobs_tidy(struct manager *m);
void jobs_free(struct manager *m);

/** problem_text() - as RFC 9457 has it */
void problem_text(const struct problem *p, struct text *out);

/** problem_of() - from a negative errno: the usual status and code; err is left alone */
void problem_of(struct problem *p, int ret);

#endif
