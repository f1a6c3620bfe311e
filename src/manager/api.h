/* SPDX-License-Identifier: Apache-2.0 */
/* The routes of docs/api/openapi.yaml: the table is in api.c, what they do in api_*.c. */
#ifndef EYOT_MANAGER_API_H
#define EYOT_MANAGER_API_H

#include "manager/http.h"

struct route {
	const char *method;
	const char *pattern; /* "{}": one part of the path; "{*}": the rest of it */
	enum role role;
	bool change;		/* is kept by its key, audited, and may be a dry run */
	const char *parameters; /* of the query that it takes, each with a blank behind it */
	void (*run)(struct request *r);
};

/** api_keep_job() - remember the answer by the request's key before the job has ended */
void api_keep_job(struct request *r, const char *id);

/** api_job() - begin a job for a request and its instance (or NULL); NULL: answered with an error
 */
struct job *api_job(struct request *r, const char *kind, const char *target, struct instance *inst);

/** api_list_begin() - begin a list in @t; api_list_end() ends it; @next: NULL: there is no more */
void api_list_begin(struct text *t);
void api_list_end(struct text *t, const char *next, uint64_t total);

/* api_instance.c */
void api_instances_list(struct request *r);
void api_instance_create(struct request *r);
void api_instance_get(struct request *r);
void api_instance_patch(struct request *r);
void api_instance_delete(struct request *r);
/* api_action.c */
void api_instance_start(struct request *r);
void api_instance_stop(struct request *r);
void api_instance_restart(struct request *r);
void api_instance_pause(struct request *r);
void api_instance_resume(struct request *r);
void api_instance_logs(struct request *r);
void api_instance_endpoints(struct request *r);
/* api_image.c */
void api_images_list(struct request *r);
void api_image_create(struct request *r);
void api_image_get(struct request *r);
void api_image_delete(struct request *r);
/* api_host.c */
void api_service(struct request *r);
void api_host(struct request *r);
void api_metrics(struct request *r);
void api_projects_list(struct request *r);
void api_networks_list(struct request *r);
void api_network_get(struct request *r);
/* api_job.c */
void api_jobs_list(struct request *r);
void api_job_get(struct request *r);
void api_job_cancel(struct request *r);
void api_events(struct request *r);
void api_audit_list(struct request *r);

/** api_find_instance() - the one that the request names; NULL: answered with an error */
struct instance *api_find_instance(struct request *r);

#endif
