/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"
#include "manager/api.h"
#include "manager/fields.h"
#include "manager/host.h"
#include "manager/instance.h"
#include "manager/machine.h"

#define STOP_TIMEOUT_S 60

static const struct field stop_fields[] = {
	{ "timeout_s", FIELD_NUMBER, .min = 0, .max = 3600, .def = "60" },
	{ 0 },
};

/* Nothing else is being done with it; else the request is answered. */
static bool is_free(struct request *r, struct instance *inst)
{
	if (inst->job)
		reply_error(r, 409, "busy", "instance '%s': job %s is at it", inst->name,
			    inst->job->kind);
	return !inst->job;
}

static void wrong_state(struct request *r, const struct instance *inst, const char *wanted)
{
	reply_error(r, 409, "wrong-state", "instance '%s': is %s, not %s", inst->name,
		    instance_state_name(inst->state), wanted);
}

static void answer_job(struct request *r, const char *id)
{
	reply_job(r, id, (unsigned)request_number(r, "wait", 0));
}

/* What asks for nothing has nothing to do: a job that is done. */
static void done_already(struct request *r, struct instance *inst, const char *kind)
{
	struct job *job = api_job(r, kind, inst->id, inst);
	char id[ID_SIZE];

	if (!job)
		return;
	snprintf(id, sizeof(id), "%s", job->id);
	job_done(job, instance_text(inst, NULL));
	answer_job(r, id);
}

void api_instance_start(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	struct job *job;
	struct problem p;
	char id[ID_SIZE];
	int ret;

	if (!inst || !is_free(r, inst))
		return;
	if (inst->state == INST_RUNNING) {
		if (r->dry_run)
			reply_plan(r, "nothing: instance '%s' runs", inst->name);
		else
			done_already(r, inst, "instance.start");
		return;
	}
	if (inst->machine || (inst->state != INST_STOPPED && inst->state != INST_FAILED &&
			      inst->state != INST_RESTARTING)) {
		wrong_state(r, inst, "stopped");
		return;
	}
	ret = host_admit(r->m, inst, &p.err);
	if (ret < 0) {
		reply_errno(r, ret, &p.err);
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "start instance '%s'", inst->name);
		return;
	}
	job = api_job(r, "instance.start", inst->id, inst);
	if (!job)
		return;
	snprintf(id, sizeof(id), "%s", job->id);
	inst->restarts = 0;
	machine_start_for(inst, job);
	answer_job(r, id);
}

/* The time to power off, of a body that may be missing; false: answered */
static bool take_timeout(struct request *r, unsigned *ret)
{
	json_t *checked;
	struct err err;

	*ret = STOP_TIMEOUT_S;
	if (!r->json)
		return true;
	if (fields_check(stop_fields, r->json, "", true, &checked, &err) < 0) {
		reply_errno(r, -EINVAL, &err);
		return false;
	}
	*ret = (unsigned)json_integer_value(json_object_get(checked, "timeout_s"));
	json_decref(checked);
	return true;
}

static void stop(struct request *r, const char *kind)
{
	struct instance *inst = api_find_instance(r);
	bool again = !strcmp(kind, "instance.restart");
	unsigned timeout_s;
	struct job *job;
	char id[ID_SIZE];

	if (!inst || !take_timeout(r, &timeout_s))
		return;
	/* a stop outdoes whatever was asked for before */
	if (inst->state == INST_CREATING || inst->state == INST_DELETING || (inst->job && again)) {
		is_free(r, inst);
		return;
	}
	if (again && !inst->machine) {
		wrong_state(r, inst, "running");
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "%s instance '%s'%s", inst->machine ? "stop" : "leave", inst->name,
			   again ? " and start it" : "");
		return;
	}
	if (inst->job)
		job_fail(inst->job, 409, "cancelled", "instance '%s' was asked to stop",
			 inst->name);
	inst->want_running = again;
	if (!inst->machine) {
		inst->restart_ms = 0;
		if (inst->state == INST_RESTARTING)
			instance_set_state(inst, INST_STOPPED, "asked to stop");
		else
			instance_write(inst);
		done_already(r, inst, kind);
		return;
	}
	job = api_job(r, kind, inst->id, inst);
	if (!job)
		return;
	snprintf(id, sizeof(id), "%s", job->id);
	machine_stop(inst, timeout_s);
	answer_job(r, id);
}

void api_instance_stop(struct request *r)
{
	stop(r, "instance.stop");
}

void api_instance_restart(struct request *r)
{
	stop(r, "instance.restart");
}

static void pause_or_resume(struct request *r, bool pause)
{
	const char *kind = pause ? "instance.pause" : "instance.resume";
	struct instance *inst = api_find_instance(r);
	struct job *job;
	char id[ID_SIZE];

	if (!inst || !is_free(r, inst))
		return;
	if (!inst->machine || (inst->state != INST_RUNNING && inst->state != INST_PAUSED)) {
		wrong_state(r, inst, pause ? "running" : "paused");
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "%s instance '%s'", pause ? "pause" : "resume", inst->name);
		return;
	}
	job = api_job(r, kind, inst->id, inst);
	if (!job)
		return;
	snprintf(id, sizeof(id), "%s", job->id);
	machine_pause(inst, pause);
	answer_job(r, id);
}

void api_instance_pause(struct request *r)
{
	pause_or_resume(r, true);
}

void api_instance_resume(struct request *r)
{
	pause_or_resume(r, false);
}

/* ---- what it says, and where it is ---- */

void api_instance_logs(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	const char *source = request_text(r, "source");
	uint64_t bytes = (uint64_t)request_number(r, "bytes", KIB(64)), from, size = 0;
	char path[PATH_SIZE];
	struct text t = { 0 };
	struct stat st;
	char *buf;
	ssize_t n = 0;
	int fd;

	if (!inst)
		return;
	instance_path(inst, source && !strcmp(source, "monitor") ? "monitor.log" : "console.log",
		      path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && fstat(fd, &st) == 0)
		size = (uint64_t)st.st_size;
	from = size > bytes ? size - bytes : 0;
	if (json_object_get(r->query, "offset"))
		from = min_u64((uint64_t)request_number(r, "offset", 0), size);
	buf = malloc(bytes);
	if (fd >= 0 && buf)
		n = pread(fd, buf, bytes, (off_t)from);
	if (n > 0)
		text_add(&t, buf, (size_t)n);
	free(buf);
	if (fd >= 0)
		close(fd);
	r->has_offset = true;
	r->next_offset = from + (n > 0 ? (uint64_t)n : 0);
	reply_text(r, "text/plain", &t);
}

void api_instance_endpoints(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	char path[PATH_SIZE];
	struct text t = { 0 };

	if (!inst)
		return;
	if (!inst->machine) {
		wrong_state(r, inst, "running");
		return;
	}
	instance_run_path(inst, "control", path);
	text_printf(&t, "{\"control\":");
	text_string(&t, path, strlen(path));
	instance_run_path(inst, "vsock", path);
	text_printf(&t, ",\"vsock\":");
	text_string(&t, path, strlen(path));
	text_printf(&t, ",\"agent_port\":%d}", AGENT_PORT);
	reply(r, 200, &t);
}
