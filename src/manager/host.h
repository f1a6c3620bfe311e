/* SPDX-License-Identifier: Apache-2.0 */
/* What the host has, what was promised of it, and whether more can be. */
#ifndef EYOT_MANAGER_HOST_H
#define EYOT_MANAGER_HOST_H

#include "manager/instance.h"

struct resource {
	double total, limit, used, in_use;
};

struct host {
	struct resource cpus, memory, disk;
};

void host_measure(struct manager *m, struct host *ret);

/** host_admit() - whether @inst may be started now; -ENOSPC with the numbers */
int host_admit(struct manager *m, const struct instance *inst, struct err *err);

/** host_admit_disk() - whether there is room for a disk of that size; -ENOSPC with the numbers */
int host_admit_disk(struct manager *m, uint64_t bytes, struct err *err);

/** host_text() - as in docs/api/openapi.yaml, Host */
void host_text(struct manager *m, struct text *out);
void host_project_text(struct manager *m, const char *project, uint64_t created_ms,
		       struct text *out);

/** host_metrics() - text for Prometheus */
void host_metrics(struct manager *m, struct text *out);

#endif
