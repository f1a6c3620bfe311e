/* SPDX-License-Identifier: Apache-2.0 */
/* What all of eyotd shares. One thread: nothing here is locked. */
#ifndef EYOT_MANAGER_MANAGER_H
#define EYOT_MANAGER_MANAGER_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "loop/loop.h"
#include "manager/store.h"
#include "manager/text.h"

#define PATH_SIZE 512  /* of paths, their end counted */
#define DIR_SIZE 320   /* of folders that others are in */
#define AGENT_PORT 700 /* docs/agent.md */

struct http;
struct instance;
struct image;
struct job;

struct paths {
	char data[DIR_SIZE]; /* the store, images, disks */
	char run[DIR_SIZE];  /* sockets */
	char socket[PATH_SIZE];
	char vmm[PATH_SIZE], img[PATH_SIZE], guest_image[PATH_SIZE]; /* programs */
	char guest[PATH_SIZE]; /* folder of the programs that run in guests */
};

/* A growing list of pointers in some order */
struct list {
	void **items;
	size_t count, cap;
};

struct manager {
	struct loop *loop;
	struct store *store;
	struct http *http;
	struct paths paths;
	bool system; /* the daemon of the system, not of a user */
	bool ending;
	uid_t uid;
	uint64_t started_ms;
	int lock_fd; /* the folder of data is ours */
	int64_t last_event;
	struct list by_id, by_name; /* instances */
	struct list images;	    /* by id */
	struct job *jobs;	    /* those that run */
	struct {
		double cpus, memory, disk;
	} overcommit;
	unsigned long long cpu_total, cpu_idle; /* of host.c: what /proc/stat said last */
};

/* ---- paths.c ---- */

/** paths_init() - find folders and programs, make the folders; @data, @run: NULL: the usual ones */
int paths_init(struct paths *p, bool system, const char *data, const char *run, struct err *err);

/** paths_remove() - remove a folder and what is in it, one level deep; a missing one is fine */
int paths_remove(const char *dir, struct err *err);

/* ---- list.c ---- */

/**
 * list_find() - where an item is or belongs
 * @cmp: how an item stands to @key, as strcmp()
 *
 * Return: the index of the first item that is not before @key.
 */
size_t list_find(const struct list *list, int (*cmp)(const void *item, const void *key),
		 const void *key);
int list_insert(struct list *list, size_t at, void *item);
void list_remove(struct list *list, size_t at);

/* ---- event.c ---- */

/**
 * event_emit() - record something that happened and tell who listens
 * @inst: what it happened to; NULL: @name says it
 * @data: JSON of an object, "{}" for none
 */
void event_emit(struct manager *m, const char *type, const struct instance *inst, const char *name,
		const char *data);

/** event_read() - kept events behind @after, their JSON; as store_read() */
void event_read(struct manager *m, int64_t after, int64_t limit, const char *instance,
		bool (*fn)(void *arg, int64_t number, const char *text), void *arg);
#define EVENTS_KEPT 10000

/** audit() - add a row to the audit log; @uid -1: the daemon itself */
void audit(struct manager *m, int64_t uid, int64_t pid, const char *request, const char *target,
	   int status, const char *detail);

#endif
