/* SPDX-License-Identifier: Apache-2.0 */
#include <fnmatch.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"
#include "manager/api.h"
#include "manager/host.h"
#include "manager/image.h"
#include "manager/instance.h"
#include "manager/machine.h"
#include "manager/worker.h"

static const char *project_of(const struct request *r)
{
	const char *project = request_text(r, "project");

	return project ? project : "default";
}

struct instance *api_find_instance(struct request *r)
{
	const char *project = project_of(r);
	struct instance *inst = instance_find(r->m, project, r->arg);

	if (!inst)
		reply_error(r, 404, "not-found", "instance '%.64s': there is none in project '%s'",
			    r->arg, project);
	return inst;
}

/* ---- lists ---- */

struct filter {
	const char *project, *name;
	const char *label; /* what make_needle() has made of it */
	int state;	   /* -1: any */
};

/*
 * What a spec with that label has in its text. Names of labels need no escapes, and quotes within
 * values have them, so this stands nowhere else behind "labels".
 */
static int make_needle(const char *label, struct text *out)
{
	const char *equals = strchr(label, '=');
	json_t *value = equals ? json_string(equals + 1) : NULL;

	text_printf(out, "\"%.*s\":", (int)(equals ? (size_t)(equals - label) : strlen(label)),
		    label);
	if (equals)
		text_json(out, value);
	json_decref(value);
	return out->failed ? -ENOMEM : 0;
}

static bool has_label(const struct instance *inst, const char *needle)
{
	const char *labels = strstr(inst->spec.text, "\"labels\":{"); /* the last member */

	return labels && strstr(labels + 10, needle);
}

static bool passes(const struct instance *inst, const struct filter *f)
{
	return (!f->project || !strcmp(inst->project, f->project)) &&
	       (f->state < 0 || (int)inst->state == f->state) &&
	       (!f->name || fnmatch(f->name, inst->name, FNM_NOESCAPE) == 0) &&
	       (!f->label || has_label(inst, f->label));
}

/* Where the items behind "PROJECT/NAME" begin */
static size_t behind(struct manager *m, const char *after)
{
	const char *slash = after ? strchr(after, '/') : NULL;
	char project[NAME_SIZE];

	if (!slash || slash - after >= NAME_SIZE)
		return 0;
	snprintf(project, sizeof(project), "%.*s", (int)(slash - after), after);
	return instance_behind(m, project, slash + 1);
}

void api_instances_list(struct request *r)
{
	struct list *all = &r->m->by_name;
	const char *state = request_text(r, "state"), *label = request_text(r, "label");
	struct filter f = { request_text(r, "project"), request_text(r, "name"), NULL, -1 };
	struct text needle = { 0 };
	uint64_t limit = (uint64_t)request_number(r, "limit", 1000), total = 0, count = 0;
	size_t from = behind(r->m, request_text(r, "after"));
	char next[2 * NAME_SIZE + 1] = "";
	bool more = false;
	struct text t = { 0 };

	if (state) {
		enum instance_state s;

		if (instance_state_parse(state, &s) < 0) {
			reply_error(r, 400, "bad-request", "'state': '%s' is none", state);
			return;
		}
		f.state = (int)s;
	}
	if (label && make_needle(label, &needle) == 0)
		f.label = needle.data;
	api_list_begin(&t);
	for (size_t i = 0; i < all->count; i++) {
		struct instance *inst = all->items[i];
		size_t len;
		const char *text;

		if (!passes(inst, &f))
			continue;
		total++;
		if (i < from)
			continue;
		if (count == limit) {
			more = true;
			continue;
		}
		text = instance_text(inst, &len);
		if (count++)
			text_add(&t, ",", 1);
		text_add(&t, text ? text : "null", text ? len : 4);
		snprintf(next, sizeof(next), "%s/%s", inst->project, inst->name);
	}
	api_list_end(&t, more ? next : NULL, total);
	text_done(&needle);
	reply(r, 200, &t);
}

void api_instance_get(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	struct text t = { 0 };
	const char *text;
	size_t len = 0;

	if (!inst)
		return;
	text = instance_text(inst, &len);
	text_add(&t, text ? text : "null", text ? len : 4);
	reply(r, 200, &t);
}

/* ---- creation ---- */

struct creation {
	struct instance *inst;
	struct worker *worker;
	const char *argv[10];
	char blob[PATH_SIZE], disk[PATH_SIZE], size[32];
};

static int make_disk(struct worker *w, void *arg, struct text *ret_result, struct err *err)
{
	struct creation *c = arg;

	return worker_exec(w, c->argv, NULL, false, err);
}

static void creation_failed(struct instance *inst, const struct problem *p)
{
	struct job *job = inst->job;

	inst->job = NULL;
	if (job)
		job->inst = NULL;
	instance_remove(inst);
	job_failed(job, p);
}

/* Its disk is there. */
static void created(struct instance *inst)
{
	struct job *job = inst->job;
	struct problem p;
	int ret;

	instance_set_state(inst, INST_STOPPED, "created");
	job->cancel = NULL;
	if (!job->start) {
		job_done(job, instance_text(inst, NULL));
		return;
	}
	ret = machine_start(inst, &p.err);
	if (ret < 0) {
		problem_of(&p, ret);
		creation_failed(inst, &p);
	}
}

static void disk_ended(void *owner, int ret, const char *result)
{
	struct creation *c = owner;
	struct instance *inst = c->inst;
	struct problem p;

	free(c);
	if (ret == 0) {
		created(inst);
		return;
	}
	problem_of(&p, ret);
	snprintf(p.err.text, sizeof(p.err.text), "instance '%s': its disk: %s", inst->name, result);
	creation_failed(inst, &p);
}

static const struct worker_ops disk_ops = { .run = make_disk, .ended = disk_ended };

static void cancel_creation(struct job *job)
{
	worker_cancel(((struct creation *)job->owner)->worker);
}

static int begin_disk(struct instance *inst, struct err *err)
{
	struct manager *m = inst->m;
	struct creation *c = calloc(1, sizeof(*c));
	unsigned n = 0;
	int ret;

	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	c->inst = inst;
	image_part_path(m, &inst->image->parts[PART_DISK], c->blob);
	instance_path(inst, "root.qcow2", c->disk);
	snprintf(c->size, sizeof(c->size), "%llu", (unsigned long long)inst->spec.disk_bytes);
	c->argv[n++] = m->paths.img;
	c->argv[n++] = "overlay";
	c->argv[n++] = "-b";
	c->argv[n++] = c->blob;
	c->argv[n++] = "-F";
	c->argv[n++] = inst->image->disk_format;
	c->argv[n++] = c->disk;
	c->argv[n++] = c->size;
	ret = worker_start(m, &disk_ops, c, c, &c->worker, err);
	if (ret < 0) {
		free(c);
		return ret;
	}
	inst->job->owner = c;
	inst->job->cancel = cancel_creation;
	return 0;
}

/* "debian/12" becomes "debian-12-3f2a". */
static void make_name(struct manager *m, const char *project, const char *image,
		      char out[NAME_SIZE])
{
	char id[ID_SIZE], base[40];

	snprintf(base, sizeof(base), "%s", image);
	for (char *p = base; *p; p++)
		if (*p == '/')
			*p = '-';
	do {
		id_new(id);
		snprintf(out, NAME_SIZE, "%s-%.4s", base, id);
	} while (instance_find(m, project, out));
}

/* Against the image; the size of the disk is known then */
static int fit_disk(struct manager *m, const struct image *img, struct spec *spec, struct err *err)
{
	if (!img->disk_bytes && spec->disk_bytes)
		return err_set(err, EINVAL, "'disk_bytes': the image has no disk");
	if (spec->disk_bytes && spec->disk_bytes < img->disk_bytes)
		return err_set(err, EINVAL, "'disk_bytes': less than the image's %llu",
			       (unsigned long long)img->disk_bytes);
	if (!spec->disk_bytes && img->disk_bytes && spec_set_disk(spec, img->disk_bytes) < 0)
		return err_set(err, ENOMEM, "out of memory");
	return img->disk_bytes ? host_admit_disk(m, spec->disk_bytes, err) : 0;
}

static bool project_is(struct request *r, const char *project)
{
	bool is = store_count(r->m->store, "SELECT count(*) FROM projects WHERE name = ?", "t",
			      project) > 0;

	if (!is)
		reply_error(r, 404, "not-found", "project '%s': there is none", project);
	return is;
}

static void begin_creation(struct request *r, const char *name, struct image *img,
			   const char *image_name, struct spec *spec, bool start)
{
	struct instance *inst;
	struct job *job;
	struct err err;
	char path[PATH_SIZE], id[ID_SIZE];
	struct problem p;
	int ret = instance_new(r->m, project_of(r), name, img, image_name, spec, &inst, &err);

	if (ret < 0) {
		reply_errno(r, ret, &err);
		return;
	}
	job = api_job(r, "instance.create", inst->id, inst);
	if (!job) {
		instance_drop(inst);
		return;
	}
	job->start = start;
	snprintf(id, sizeof(id), "%s", job->id);
	instance_path(inst, "", path);
	/* known to the store first: what is on the disk belongs to somebody */
	ret = store_commit(r->m->store);
	if (ret == 0 && mkdir(path, 0700) < 0)
		ret = err_set(&p.err, errno, "'%s': %s", path, strerror(errno));
	if (ret == 0 && img->disk_bytes)
		ret = begin_disk(inst, &p.err);
	if (ret < 0) {
		problem_of(&p, ret);
		creation_failed(inst, &p);
	} else if (!img->disk_bytes) {
		created(inst);
	}
	reply_job(r, id, (unsigned)request_number(r, "wait", 0));
}

void api_instance_create(struct request *r)
{
	char name[NAME_SIZE], image_name[128];
	const char *project = project_of(r);
	struct image *img = NULL;
	struct spec spec = { 0 };
	bool start;
	struct err err;
	int ret = spec_parse(r->json, &spec, name, image_name, &start, &err);

	if (ret < 0) {
		reply_errno(r, ret, &err);
		return;
	}
	if (!project_is(r, project))
		goto out;
	img = image_find(r->m, image_name);
	if (!img) {
		reply_error(r, 404, "not-found", "image '%s': there is none", image_name);
		goto out;
	}
	if (!*name)
		make_name(r->m, project, img->name_count ? img->names[0] : "vm", name);
	ret = instance_find(r->m, project, name)
		  ? err_set(&err, EEXIST, "instance '%s': there is one in project '%s'", name,
			    project)
		  : fit_disk(r->m, img, &spec, &err);
	if (ret == 0 && start) {
		struct instance asked = { .spec = spec };

		snprintf(asked.name, sizeof(asked.name), "%s", name);
		ret = host_admit(r->m, &asked, &err);
	}
	if (ret < 0)
		reply_errno(r, ret, &err);
	else if (r->dry_run)
		reply_plan(r, "create instance '%s' of image '%s'%s", name, image_name,
			   start ? " and start it" : "");
	else
		begin_creation(r, name, img, image_name, &spec, start);
out:
	spec_done(&spec);
}

/* ---- changes ---- */

void api_instance_patch(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	char name[NAME_SIZE];
	struct spec spec = { 0 };
	struct text t = { 0 };
	struct err err;
	const char *text;
	int ret;

	if (!inst)
		return;
	ret = spec_patch(&inst->spec, r->json, &spec, name, &err);
	if (ret == 0 && *name && strcmp(name, inst->name) &&
	    instance_find(r->m, inst->project, name))
		ret = err_set(&err, EEXIST, "instance '%s': there is one in project '%s'", name,
			      inst->project);
	if (ret == 0 && inst->state == INST_DELETING)
		ret = err_set(&err, EBUSY, "instance '%s': is being removed", inst->name);
	if (ret < 0) {
		reply_errno(r, ret, &err);
	} else if (r->dry_run) {
		reply_plan(r, "change instance '%s'", inst->name);
	} else {
		spec_done(&inst->spec);
		inst->spec = spec;
		spec = (struct spec) { 0 };
		if (*name)
			ret = instance_rename(inst, name, &err);
		instance_write(inst);
		event_emit(r->m, "instance.changed", inst, inst->name, "{}");
		text = instance_text(inst, NULL);
		text_printf(&t, "%s", text ? text : "null");
		reply(r, 200, &t);
	}
	spec_done(&spec);
}

void api_instance_delete(struct request *r)
{
	struct instance *inst = api_find_instance(r);
	bool force = json_is_true(json_object_get(r->query, "force"));
	struct job *job;
	char id[ID_SIZE];

	if (!inst)
		return;
	if (inst->machine && !force) {
		reply_error(r, 409, "wrong-state",
			    "instance '%s': is %s; stop it first, or force=true", inst->name,
			    instance_state_name(inst->state));
		return;
	}
	if (inst->job && (!force || inst->state == INST_CREATING || inst->state == INST_DELETING)) {
		reply_error(r, 409, "busy", "instance '%s': job %s is at it", inst->name,
			    inst->job->kind);
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "%sremove instance '%s' and its disk",
			   inst->machine ? "end and " : "", inst->name);
		return;
	}
	if (inst->job)
		job_fail(inst->job, 409, "cancelled", "instance '%s' is removed", inst->name);
	job = api_job(r, "instance.delete", inst->id, inst);
	if (!job)
		return;
	snprintf(id, sizeof(id), "%s", job->id);
	inst->want_running = false;
	if (inst->machine) {
		instance_set_state(inst, INST_DELETING, "asked to be removed");
		machine_stop(inst, 0);
	} else {
		instance_remove(inst);
	}
	reply_job(r, id, (unsigned)request_number(r, "wait", 0));
}
