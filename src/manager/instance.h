/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances: all of them are in memory, each change is written through to the store.
 *
 *   creating -> stopped -> starting -> running <-> paused
 *   running, paused -> stopping -> stopped
 *   starting, running, paused -> failed or restarting (the machine ended) -> starting
 *   any -> deleting
 *
 * A state is written before the step that it stands for is begun. machine.c moves instances
 * between the states that have to do with their machine.
 */
#ifndef EYOT_MANAGER_INSTANCE_H
#define EYOT_MANAGER_INSTANCE_H

#include "manager/manager.h"

enum instance_state {
	INST_CREATING,
	INST_STOPPED,
	INST_STARTING,
	INST_RUNNING,
	INST_PAUSED,
	INST_STOPPING,
	INST_RESTARTING,
	INST_FAILED,
	INST_STUCK,
	INST_DELETING,
};
#define INST_STATES 10

enum restart_policy { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS };

/* Numbers of a spec that are wanted often; the rest stays JSON. */
struct spec {
	char *text; /* JSON of an object, checked; the instance's */
	unsigned cpus;
	uint64_t memory_bytes, disk_bytes;
	enum restart_policy policy;
	unsigned limit;
	bool ephemeral;
};

struct machine;

struct instance {
	struct manager *m;
	char id[ID_SIZE], name[NAME_SIZE], project[NAME_SIZE];
	struct image *image;
	char image_name[128];
	enum instance_state state;
	bool want_running;
	bool asked_stop; /* of the machine there is or was last: it was told to end */
	struct spec spec;
	char *started_spec; /* what the machine was started with; NULL: never was */
	uint64_t created_ms, changed_ms, started_ms, restart_ms; /* 0: none */
	unsigned restarts;
	char *last_exit; /* JSON; NULL: none */
	char *text;	 /* JSON of the whole, NULL: to be made anew */
	size_t text_len;
	struct machine *machine; /* NULL: there is none */
	struct job *job;	 /* what is being done with it; NULL: nothing */
	struct loop_timer *restart_timer;
};

const char *instance_state_name(enum instance_state state);
int instance_state_parse(const char *text, enum instance_state *ret);

/** instances_load() - take all from the store; images come first */
int instances_load(struct manager *m, struct err *err);
void instances_free(struct manager *m);

/** instance_find() - by id or by name; NULL: there is none */
struct instance *instance_find(struct manager *m, const char *project, const char *name);
struct instance *instance_by_id(struct manager *m, const char *id);

/** instance_at() - index in by_name of the first one behind a project and name; "": the first */
size_t instance_behind(struct manager *m, const char *project, const char *name);

/**
 * instance_new() - one more, in state creating, written down
 * @spec: taken over
 */
int instance_new(struct manager *m, const char *project, const char *name, struct image *image,
		 const char *image_name, struct spec *spec, struct instance **ret, struct err *err);

/** instance_drop() - forget it, and have the store do so; it has no machine and no job */
void instance_drop(struct instance *inst);

/** instance_set_state() - write the new state down and tell; the same one again only writes */
void instance_set_state(struct instance *inst, enum instance_state state, const char *reason);

/** instance_write() - members were changed: write them down */
void instance_write(struct instance *inst);

/** instance_rename() - -EEXIST: the name is taken */
int instance_rename(struct instance *inst, const char *name, struct err *err);

/** instance_text() - its JSON, borrowed until it changes; NULL: out of memory */
const char *instance_text(struct instance *inst, size_t *ret_len);

/** instance_path() - a file of its folder of data; @name "": the folder */
void instance_path(const struct instance *inst, const char *name, char out[PATH_SIZE]);
/** instance_run_path() - the same for sockets */
void instance_run_path(const struct instance *inst, const char *name, char out[PATH_SIZE]);

/* ---- spec.c ---- */

/**
 * spec_parse() - check the settings of a new instance
 * @body: what the client sent
 * @ret_name, @ret_image: "" when there is no name
 * @ret_start: whether it is to be started
 */
int spec_parse(const json_t *body, struct spec *ret, char ret_name[NAME_SIZE], char ret_image[128],
	       bool *ret_start, struct err *err);

/** spec_patch() - a changed copy; @ret_name as above */
int spec_patch(const struct spec *spec, const json_t *patch, struct spec *ret,
	       char ret_name[NAME_SIZE], struct err *err);

/** spec_load() - from the store; @text is copied */
int spec_load(const char *text, struct spec *ret, struct err *err);
/** spec_set_disk() - the disk's size, when it is known; 0 or -ENOMEM */
int spec_set_disk(struct spec *spec, uint64_t bytes);
void spec_done(struct spec *spec);

/** spec_pending() - add a JSON list of the members in which they differ; NULL @started: none */
void spec_pending(const char *spec, const char *started, struct text *out);

#endif
