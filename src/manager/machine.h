/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine of an instance: a process of eyot-vmm in a session of its own, which lives on when
 * the daemon ends.
 *
 * Files in the instance's folder: `report` (locked for the machine's life; the first line is the
 * process ID, the last how it ended), root.qcow2, initrd, console.log, monitor.log. Sockets:
 * control, vsock.
 *
 * What ends here completes the instance's job (instance->job): a start when the machine greets,
 * a stop, restart or removal when it is gone.
 */
#ifndef EYOT_MANAGER_MACHINE_H
#define EYOT_MANAGER_MACHINE_H

#include <sys/types.h>

#include "manager/instance.h"

struct machine;

/**
 * machine_start() - start it, in state starting
 *
 * Return: 0: it is on its way; -ENOSPC: it is not admitted; other -errno. On failure the state is
 * as it was before, and the job is the caller's.
 */
int machine_start(struct instance *inst, struct err *err);

/** machine_start_for() - the same as @job asks; when it fails, so does the job */
void machine_start_for(struct instance *inst, struct job *job);

/**
 * machine_stop() - have it end; nothing when that has begun with less time
 * @timeout_s: for the guest to power off by itself; 0: none
 */
void machine_stop(struct instance *inst, unsigned timeout_s);

/** machine_pause() - or go on; ends the instance's job */
void machine_pause(struct instance *inst, bool pause);

/** machines_reconcile() - find out what became of all instances; once, at start */
void machines_reconcile(struct manager *m);

/** machine_forget() - let go of it, as the daemon ends; NULL is fine */
void machine_forget(struct machine *mc);

pid_t machine_pid(const struct machine *mc);

/** instance_remove() - delete it, now that there is no machine; ends its job */
void instance_remove(struct instance *inst);

/* ---- launch.c ---- */

/**
 * launch() - start the process
 * @ret_pid_fd: the caller's
 * Return: 0; -EBUSY: there is a machine already, by the lock; other -errno.
 */
int launch(struct instance *inst, pid_t *ret_pid, int *ret_pid_fd, struct err *err);

/** launch_probe() - whether there is a machine, by the lock; @ret_pid: 0: none */
void launch_probe(const char *folder, pid_t *ret_pid);

/* ---- exit.c ---- */

enum exit_reason {
	EXIT_POWERED_OFF,
	EXIT_REBOOTED,
	EXIT_CRASHED,
	EXIT_QUIT,
	EXIT_DEBUG_EXIT,
	EXIT_FAILED,
	EXIT_KILLED,
	EXIT_STOPPED
};

/**
 * exit_read() - how the machine ended, from its report and what it left
 * @ret_text: one line
 *
 * Sets the instance's last_exit.
 */
enum exit_reason exit_read(struct instance *inst, struct err *ret_text);

#endif
