/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox of a machine's processes.
 *
 *   keeper ----- the process that was started: waits for the machine, passes signals on
 *     `- machine ----- loop, vCPU, worker and share threads, in namespaces of their own
 *          |- network ----- one for each user network (net/user_proc.c)
 *          `- NBD client ----- one for each remote disk (src/nbd)
 *
 * The keeper is made first, because a PID namespace begins with a new process. The machine then
 * opens what it needs as the invoking user, and sandbox_confine() takes everything else away while
 * there is but one thread. Each thread puts on its own filter of system calls when it begins its
 * work.
 */
#ifndef EYOT_SANDBOX_SANDBOX_H
#define EYOT_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/err.h"

/* Lists of system calls; the names stand in annotations, in lower case. */
enum sandbox_role {
	SANDBOX_LOOP,
	SANDBOX_VCPU,
	SANDBOX_WORKER,
	SANDBOX_SHARE,
	SANDBOX_NET,
	SANDBOX_NBD,
	SANDBOX_KEEPER
};
#define SANDBOX_ROLES 7

/* ---- keeper.c ---- */

struct keeper;

/**
 * keeper_start() - go on in a new process, in a PID namespace of its own where that is allowed
 * @ret_keeper: in the new process: the way to the keeper
 *
 * Only the new process returns. The old one stays as the keeper: it passes signals on, keeps
 * nothing open but the standard descriptors, and ends as the new one does. When it is killed,
 * so is the new one.
 *
 * Return: 0; -errno with a text when there cannot be a new process.
 */
int keeper_start(struct keeper **ret_keeper, struct err *err);
void keeper_free(struct keeper *keeper);

/** keeper_unlink_later() - have the socket at @path removed at the end; before keeper_seal() */
int keeper_unlink_later(struct keeper *keeper, const char *path);

/** keeper_allow_ports() - allow keeper_connect() to @path with "_" and a number behind it */
int keeper_allow_ports(struct keeper *keeper, const char *path);

/** keeper_seal() - from now on the keeper does nothing but connect where it has connected before */
int keeper_seal(struct keeper *keeper);

/**
 * keeper_connect() - a non-blocking stream socket that is connected to @addr; or -errno
 *
 * After keeper_seal() only to addresses that were asked for before it.
 */
int keeper_connect(struct keeper *keeper, const struct sockaddr_un *addr);

/** keeper_in_foreground() - whether the terminal is ours; process groups are not seen from inside
 */
bool keeper_in_foreground(const struct keeper *keeper);

/* ---- confine.c ---- */

struct confinement {
	bool host_network;	  /* keeps the host's network */
	const char *const *shown; /* files and folders that stay, ended by NULL; NULL: none */
	bool many_files;	  /* keeps the limit of open files as it is */
};

/**
 * sandbox_confine() - give up all that can be given up at once
 *
 * Namespaces of its own for users, mounts, IPC, host name and network; an empty root that cannot
 * be written; no capability, no way to new ones; not to be traced or dumped; a limit on
 * descriptors. The calling process has one thread. What this host refuses is told in one
 * line of the log, and the rest is done.
 */
int sandbox_confine(const struct confinement *c, struct err *err);

/* ---- filter.c ---- */

struct sandbox_filters;

/**
 * sandbox_filters_new() - make the filters of the @roles (a mask of 1 << SANDBOX_*)
 *
 * For all threads that there will be; the process must not need new privileges any more.
 */
int sandbox_filters_new(unsigned roles, struct sandbox_filters **ret_filters, struct err *err);
void sandbox_filters_free(struct sandbox_filters *filters);

/**
 * sandbox_filter_thread() - from now on the calling thread has its role's system calls only
 *
 * A thread it makes afterwards starts with this filter, and can only have less. Others fail with
 * EPERM, and the first few are told in the log: they are a mistake of ours or an attack.
 */
int sandbox_filter_thread(const struct sandbox_filters *filters, enum sandbox_role role);

/*
 * Run on every confined thread; a program for tests has one, that tries what an attacker would.
 */
void sandbox_test_hook(enum sandbox_role role) __attribute__((weak));

#endif
