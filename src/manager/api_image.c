/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base/util.h"
#include "manager/api.h"
#include "manager/fields.h"
#include "manager/host.h"
#include "manager/image.h"
#include "manager/worker.h"

static bool absolute_is(const char *text)
{
	return *text == '/';
}

#define PATH_FIELD(name_, required_)                                                               \
	{                                                                                          \
		name_, FIELD_TEXT, .required = required_, .min = 1, .max = PATH_SIZE - 1,          \
				   .is = absolute_is, .wants = "an absolute path"                  \
	}

static const struct field build_fields[] = {
	{ "build", FIELD_WORD, .required = true, .choices = "debian/12" },
	{ 0 },
};

static const struct field file_fields[] = {
	PATH_FIELD("kernel", true),
	PATH_FIELD("initrd", false),
	PATH_FIELD("disk", false),
	{ "disk_format", FIELD_WORD, .choices = "raw|qcow2", .def = "\"raw\"" },
	{ "cmdline", FIELD_TEXT, .max = 2047, .def = "\"console=ttyS0\"" },
	{ 0 },
};

#define NAME_FIELD                                                                                 \
	{                                                                                          \
		"name", FIELD_TEXT, .min = 1, .max = 127, .is = image_name_is,                     \
				    .wants = "lower-case names with slashes between them"          \
	}

static const struct field create_build_fields[] = {
	NAME_FIELD,
	{ "source", FIELD_OBJECT, .required = true, .fields = build_fields },
	{ 0 },
};

static const struct field create_file_fields[] = {
	NAME_FIELD,
	{ "source", FIELD_OBJECT, .required = true, .fields = file_fields },
	{ 0 },
};

struct making {
	struct manager *m;
	struct job *job;
	struct worker *worker;
	char name[128]; /* "": none */
};

static struct image *find(struct request *r)
{
	struct image *img = image_find(r->m, r->arg);

	if (!img)
		reply_error(r, 404, "not-found", "image '%.128s': there is none, or not only one",
			    r->arg);
	return img;
}

static int compare_id(const void *item, const void *key)
{
	return strcmp(((const struct image *)item)->id, key);
}

void api_images_list(struct request *r)
{
	struct list *all = &r->m->images;
	const char *after = request_text(r, "after"), *next = NULL;
	uint64_t limit = (uint64_t)request_number(r, "limit", 1000), count = 0;
	size_t i = after ? list_find(all, compare_id, after) : 0;
	struct text t = { 0 };

	if (after && i < all->count && !strcmp(((struct image *)all->items[i])->id, after))
		i++;
	api_list_begin(&t);
	for (; i < all->count && count < limit; i++) {
		struct image *img = all->items[i];

		if (count++)
			text_add(&t, ",", 1);
		image_text(img, &t);
		next = img->id;
	}
	api_list_end(&t, i < all->count ? next : NULL, all->count);
	reply(r, 200, &t);
}

void api_image_get(struct request *r)
{
	struct image *img = find(r);
	struct text t = { 0 };

	if (!img)
		return;
	image_text(img, &t);
	reply(r, 200, &t);
}

void api_image_delete(struct request *r)
{
	struct image *img = find(r);
	struct text t = { 0 };

	if (!img)
		return;
	if (img->instances) {
		reply_error(r, 409, "in-use", "image '%s': %u instances use it", r->arg,
			    img->instances);
		return;
	}
	if (r->dry_run) {
		reply_plan(r, "remove image '%s'", r->arg);
		return;
	}
	image_remove(r->m, img);
	reply(r, 204, &t);
}

/* ---- making ---- */

static void on_progress(void *owner, double fraction, const char *text)
{
	struct making *mk = owner;

	mk->job->progress = fraction;
	snprintf(mk->job->message, sizeof(mk->job->message), "%s", text);
}

static void on_ended(void *owner, int ret, const char *result)
{
	struct making *mk = owner;
	struct problem p;
	struct image *img;
	struct text t = { 0 };

	image_drop_temporary(mk->m, mk->job->id);
	if (ret == 0)
		ret = image_take(mk->m, result, *mk->name ? mk->name : NULL, &img, &p.err);
	else
		snprintf(p.err.text, sizeof(p.err.text), "image '%s': %s", mk->job->target, result);
	if (ret < 0) {
		problem_of(&p, ret);
		job_failed(mk->job, &p);
	} else {
		image_text(img, &t);
		job_done(mk->job, t.failed ? NULL : t.data);
		text_done(&t);
	}
	free(mk);
}

static const struct worker_ops making_ops = { image_work, on_progress, on_ended };

static void cancel_making(struct job *job)
{
	worker_cancel(((struct making *)job->owner)->worker);
}

static void take_text(const json_t *source, const char *key, char *out, size_t size)
{
	const char *text = json_string_value(json_object_get(source, key));

	snprintf(out, size, "%s", text ? text : "");
}

static void begin(struct request *r, struct image_order *order, const char *name)
{
	struct making *mk = calloc(1, sizeof(*mk));
	struct job *job = NULL;
	struct problem p;
	char id[ID_SIZE];
	int ret;

	if (mk)
		job = api_job(r, order->source.build ? "image.build" : "image.import",
			      *name ? name : "image", NULL);
	if (!job) {
		if (!mk)
			reply_error(r, 500, "internal", "out of memory");
		free(mk);
		return;
	}
	snprintf(id, sizeof(id), "%s", job->id);
	mk->m = r->m;
	mk->job = job;
	snprintf(mk->name, sizeof(mk->name), "%s", name);
	snprintf(order->id, sizeof(order->id), "%s", id);
	store_commit(r->m->store);
	ret = worker_start(r->m, &making_ops, order, mk, &mk->worker, &p.err);
	if (ret < 0) {
		problem_of(&p, ret);
		job_failed(job, &p);
		free(mk);
	} else {
		job->owner = mk;
		job->cancel = cancel_making;
	}
	reply_job(r, id, (unsigned)request_number(r, "wait", 0));
}

void api_image_create(struct request *r)
{
	const json_t *asked = json_object_get(r->json, "source"), *source;
	bool build = json_object_get(asked, "build") != NULL;
	struct image_order *order;
	json_t *checked;
	char name[128];
	struct err err;
	int ret = fields_check(build ? create_build_fields : create_file_fields, r->json, "", true,
			       &checked, &err);

	if (ret < 0) {
		reply_errno(r, ret, &err);
		return;
	}
	source = json_object_get(checked, "source");
	take_text(checked, "name", name, sizeof(name));
	if (build && !*name)
		take_text(source, "build", name, sizeof(name));
	order = calloc(1, sizeof(*order));
	if (order) {
		order->m = r->m;
		order->source.build = build;
		take_text(source, "kernel", order->source.kernel, PATH_SIZE);
		take_text(source, "initrd", order->source.initrd, PATH_SIZE);
		take_text(source, "disk", order->source.disk, PATH_SIZE);
		take_text(source, "disk_format", order->source.disk_format,
			  sizeof(order->source.disk_format));
		take_text(source, "cmdline", order->source.cmdline, sizeof(order->source.cmdline));
	}
	ret = host_admit_disk(r->m, 0, &err);
	if (!order)
		reply_error(r, 500, "internal", "out of memory");
	else if (!build && r->role < ROLE_ADMIN)
		reply_error(r, 403, "forbidden", "user %lld may not have files of the host read",
			    (long long)r->uid);
	else if (ret < 0)
		reply_errno(r, ret, &err);
	else if (r->dry_run)
		reply_plan(r, "%s image '%s'", build ? "build" : "import", *name ? name : "-");
	else
		begin(r, order, name);
	free(order);
	json_decref(checked);
}
