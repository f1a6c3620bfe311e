/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sorted lists of all instances: by id, and by project and name, which is the order of answers.
 * The JSON of an instance is put together when it is wanted and kept until something changes, so
 * that a list of thousands is a copy.
 */
#include "manager/instance.h"

#include <stdio.h>

#include "base/util.h"
#include "manager/image.h"
#include "manager/machine.h"

static const char *const state_names[INST_STATES] = {
	[INST_CREATING] = "creating", [INST_STOPPED] = "stopped",
	[INST_STARTING] = "starting", [INST_RUNNING] = "running",
	[INST_PAUSED] = "paused",     [INST_STOPPING] = "stopping",
	[INST_FAILED] = "failed",     [INST_RESTARTING] = "restarting",
	[INST_STUCK] = "stuck",	      [INST_DELETING] = "deleting",
};

struct name_key {
	const char *project, *name;
};

const char *instance_state_name(enum instance_state state)
{
	return state_names[state];
}

int instance_state_parse(const char *text, enum instance_state *ret)
{
	for (unsigned i = 0; i < INST_STATES; i++)
		if (!strcmp(text, state_names[i])) {
			*ret = (enum instance_state)i;
			return 0;
		}
	return -EINVAL;
}

static int compare_id(const void *item, const void *key)
{
	return strcmp(((const struct instance *)item)->id, key);
}

static int compare_name(const void *item, const void *key)
{
	const struct instance *inst = item;
	const struct name_key *k = key;
	int c = strcmp(inst->project, k->project);

	return c ? c : strcmp(inst->name, k->name);
}

static size_t place(struct manager *m, const char *project, const char *name)
{
	return list_find(&m->by_name, compare_name, &(struct name_key) { project, name });
}

struct instance *instance_by_id(struct manager *m, const char *id)
{
	size_t at = list_find(&m->by_id, compare_id, id);
	struct instance *inst = at < m->by_id.count ? m->by_id.items[at] : NULL;

	return inst && !strcmp(inst->id, id) ? inst : NULL;
}

struct instance *instance_find(struct manager *m, const char *project, const char *name)
{
	size_t at = place(m, project, name);
	struct instance *inst = at < m->by_name.count ? m->by_name.items[at] : NULL;

	if (inst && !strcmp(inst->name, name) && !strcmp(inst->project, project))
		return inst;
	inst = id_is(name) ? instance_by_id(m, name) : NULL;
	return inst && !strcmp(inst->project, project) ? inst : NULL;
}

size_t instance_behind(struct manager *m, const char *project, const char *name)
{
	size_t at = place(m, project, name);
	struct instance *inst = at < m->by_name.count ? m->by_name.items[at] : NULL;

	return inst && !strcmp(inst->name, name) && !strcmp(inst->project, project) ? at + 1 : at;
}

/* ---- in memory ---- */

static void free_instance(struct instance *inst)
{
	loop_timer_del(inst->restart_timer);
	spec_done(&inst->spec);
	free(inst->started_spec);
	free(inst->last_exit);
	free(inst->text);
	free(inst);
}

static int add(struct instance *inst)
{
	struct manager *m = inst->m;
	int ret = list_insert(&m->by_id, list_find(&m->by_id, compare_id, inst->id), inst);

	if (ret < 0)
		return ret;
	ret = list_insert(&m->by_name, place(m, inst->project, inst->name), inst);
	if (ret < 0)
		list_remove(&m->by_id, list_find(&m->by_id, compare_id, inst->id));
	else
		inst->image->instances++;
	return ret;
}

static void changed(struct instance *inst)
{
	free(inst->text);
	inst->text = NULL;
}

/* ---- the store ---- */

static struct instance *from_row(struct manager *m, struct store_row *row, struct err *err)
{
	struct instance *inst = calloc(1, sizeof(*inst));
	const char *text;

	if (!inst)
		return NULL;
	inst->m = m;
	snprintf(inst->id, sizeof(inst->id), "%s", store_text(row, 0));
	snprintf(inst->project, sizeof(inst->project), "%s", store_text(row, 1));
	snprintf(inst->name, sizeof(inst->name), "%s", store_text(row, 2));
	inst->image = image_find(m, store_text(row, 3));
	snprintf(inst->image_name, sizeof(inst->image_name), "%s", store_text(row, 4));
	inst->want_running = store_int(row, 6);
	inst->asked_stop = store_int(row, 7);
	inst->created_ms = (uint64_t)store_int(row, 9);
	inst->changed_ms = (uint64_t)store_int(row, 10);
	inst->started_ms = (uint64_t)store_int(row, 11);
	inst->restarts = (unsigned)store_int(row, 12);
	inst->restart_ms = (uint64_t)store_int(row, 13);
	text = store_text(row, 14);
	inst->started_spec = text ? strdup(text) : NULL;
	text = store_text(row, 15);
	inst->last_exit = text ? strdup(text) : NULL;
	if (!inst->image || instance_state_parse(store_text(row, 5), &inst->state) < 0 ||
	    spec_load(store_text(row, 8), &inst->spec, err) < 0) {
		free_instance(inst);
		return NULL;
	}
	return inst;
}

struct loading {
	struct manager *m;
	struct err *err;
	int ret;
};

static bool load_row(void *arg, struct store_row *row)
{
	struct loading *l = arg;
	struct err why = { .text = "unknown image or state" };
	struct instance *inst = from_row(l->m, row, &why);

	if (!inst || add(inst) < 0)
		l->ret = err_set(l->err, EUCLEAN, "store: instance '%s': %s", store_text(row, 0),
				 why.text);
	return l->ret == 0;
}

int instances_load(struct manager *m, struct err *err)
{
	struct loading l = { .m = m, .err = err };

	store_read(
	    m->store, load_row, &l,
	    "SELECT id, project, name, image, image_name, state, want_running, asked_stop, spec, "
	    "created_ms, changed_ms, started_ms, restarts, restart_ms, started_spec, last_exit "
	    "FROM instances ORDER BY project, name",
	    "");
	return l.ret;
}

void instances_free(struct manager *m)
{
	for (size_t i = 0; i < m->by_id.count; i++) {
		struct instance *inst = m->by_id.items[i];

		machine_forget(inst->machine);
		free_instance(inst);
	}
	free(m->by_id.items);
	free(m->by_name.items);
}

void instance_write(struct instance *inst)
{
	inst->changed_ms = time_now_ms();
	changed(inst);
	store_write(
	    inst->m->store,
	    "UPDATE instances SET name = ?, state = ?, want_running = ?, asked_stop = ?, spec = ?, "
	    "changed_ms = ?, started_ms = ?, restarts = ?, restart_ms = ?, started_spec = ?, "
	    "last_exit = ? WHERE id = ?",
	    "ttiitiiiittt", inst->name, state_names[inst->state], (int64_t)inst->want_running,
	    (int64_t)inst->asked_stop, inst->spec.text, (int64_t)inst->changed_ms,
	    (int64_t)inst->started_ms, (int64_t)inst->restarts, (int64_t)inst->restart_ms,
	    inst->started_spec, inst->last_exit, inst->id);
}

void instance_set_state(struct instance *inst, enum instance_state state, const char *reason)
{
	struct text data = { 0 };
	enum instance_state from = inst->state;

	inst->state = state;
	instance_write(inst);
	if (from == state)
		return;
	text_printf(&data, "{\"from\":\"%s\",\"to\":\"%s\",\"reason\":", state_names[from],
		    state_names[state]);
	text_string(&data, reason, strlen(reason));
	text_add(&data, "}", 1);
	event_emit(inst->m, "instance.state", inst, inst->name, data.failed ? "{}" : data.data);
	text_done(&data);
}

int instance_new(struct manager *m, const char *project, const char *name, struct image *image,
		 const char *image_name, struct spec *spec, struct instance **ret, struct err *err)
{
	struct instance *inst = calloc(1, sizeof(*inst));

	if (!inst)
		return err_set(err, ENOMEM, "out of memory");
	inst->m = m;
	do
		id_new(inst->id);
	while (instance_by_id(m, inst->id));
	snprintf(inst->project, sizeof(inst->project), "%s", project);
	snprintf(inst->name, sizeof(inst->name), "%s", name);
	snprintf(inst->image_name, sizeof(inst->image_name), "%s", image_name);
	inst->image = image;
	inst->spec = *spec;
	inst->created_ms = inst->changed_ms = time_now_ms();
	if (add(inst) < 0) {
		inst->spec.text = NULL;
		free_instance(inst);
		return err_set(err, ENOMEM, "out of memory");
	}
	*spec = (struct spec) { 0 };
	store_write(
	    m->store,
	    "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, 0, 0, 0, NULL, NULL)",
	    "tttttttii", inst->id, inst->project, inst->name, image->id, inst->image_name,
	    state_names[inst->state], inst->spec.text, (int64_t)inst->created_ms,
	    (int64_t)inst->changed_ms);
	event_emit(m, "instance.created", inst, inst->name, "{}");
	*ret = inst;
	return 0;
}

void instance_drop(struct instance *inst)
{
	struct manager *m = inst->m;

	store_write(m->store, "DELETE FROM instances WHERE id = ?", "t", inst->id);
	event_emit(m, "instance.deleted", inst, inst->name, "{}");
	list_remove(&m->by_id, list_find(&m->by_id, compare_id, inst->id));
	list_remove(&m->by_name, place(m, inst->project, inst->name));
	inst->image->instances--;
	free_instance(inst);
}

int instance_rename(struct instance *inst, const char *name, struct err *err)
{
	struct manager *m = inst->m;

	if (!strcmp(inst->name, name))
		return 0;
	if (instance_find(m, inst->project, name))
		return err_set(err, EEXIST, "instance '%s': there is one in project '%s'", name,
			       inst->project);
	list_remove(&m->by_name, place(m, inst->project, inst->name));
	snprintf(inst->name, sizeof(inst->name), "%s", name);
	/* it had a place before, so there is room */
	list_insert(&m->by_name, place(m, inst->project, inst->name), inst);
	instance_write(inst);
	return 0;
}

/* ---- JSON ---- */

const char *instance_text(struct instance *inst, size_t *ret_len)
{
	struct text t = { 0 };
	const char *spec = inst->spec.text; /* an object that is never empty */

	if (!inst->text) {
		text_printf(&t,
			    "{\"id\":\"%s\",\"name\":\"%s\",\"project\":\"%s\",\"state\":\"%s\","
			    "\"desired\":\"%s\",\"image\":{\"id\":\"%s\",\"name\":\"%s\"},",
			    inst->id, inst->name, inst->project, state_names[inst->state],
			    inst->want_running ? "running" : "stopped", inst->image->id,
			    inst->image_name);
		text_add(&t, spec + 1, strlen(spec) - 2);
		text_printf(&t, ",\"created_at\":");
		text_time(&t, inst->created_ms);
		text_printf(&t, ",\"changed_at\":");
		text_time(&t, inst->changed_ms);
		text_printf(&t, ",\"started_at\":");
		text_time(&t, inst->machine ? inst->started_ms : 0);
		if (inst->machine && machine_pid(inst->machine) > 0)
			text_printf(&t, ",\"pid\":%d", (int)machine_pid(inst->machine));
		else
			text_printf(&t, ",\"pid\":null");
		text_printf(&t, ",\"restarts\":%u,\"restart_at\":", inst->restarts);
		text_time(&t, inst->restart_ms);
		text_printf(&t, ",\"pending\":");
		spec_pending(spec, inst->machine ? inst->started_spec : NULL, &t);
		text_printf(&t, ",\"last_exit\":%s}", inst->last_exit ? inst->last_exit : "null");
		if (t.failed) {
			text_done(&t);
			return NULL;
		}
		inst->text = t.data;
		inst->text_len = t.len;
	}
	if (ret_len)
		*ret_len = inst->text_len;
	return inst->text;
}

void instance_path(const struct instance *inst, const char *name, char out[PATH_SIZE])
{
	snprintf(out, PATH_SIZE, "%s/instances/%s%s%s", inst->m->paths.data, inst->id,
		 *name ? "/" : "", name);
}

void instance_run_path(const struct instance *inst, const char *name, char out[PATH_SIZE])
{
	snprintf(out, PATH_SIZE, "%s/i/%s%s%s", inst->m->paths.run, inst->id, *name ? "/" : "",
		 name);
}
