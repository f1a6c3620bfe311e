/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one machine model: which devices there are, where, and in which order
 * they are reset, saved and loaded. Loop thread.
 */
#ifndef EYOT_MONITOR_MACHINE_H
#define EYOT_MONITOR_MACHINE_H

#include "accel/accel.h"
#include "base/err.h"
#include "loop/loop.h"
#include "monitor/config.h"
#include "monitor/console.h"
#include "vm/vm.h"

struct machine;

struct machine_events {
	/* The machine stopped for good. */
	void (*stopped)(void *arg, const struct vm_request *req);
	/* The guest has been reset and starts again; may be NULL. */
	void (*reset)(void *arg);
	/* The guest's kernel panicked and starts its crash kernel; may be NULL. */
	void (*crash_kernel)(void *arg);
	/* The host failed a disk's request, @missed more since this was told last; may be NULL. */
	void (*disk_error)(void *arg, const char *id, enum disk_op op, int ret, unsigned missed);
	/* A disk or card has gone; may be NULL. */
	void (*removed)(void *arg, unsigned slot, const char *id);
	void *arg;
};

/**
 * machine_new() - make the machine of @cfg
 * @cfg, @con, @events: borrowed for the machine's life
 */
int machine_new(const struct config *cfg, struct loop *loop, const struct accel_ops *accel,
		struct console *con, const struct machine_events *events,
		struct machine **ret_machine, struct err *err);
/** machine_free() - stop and free it; what a vCPU that does not stop may use is left; NULL is fine
 */
void machine_free(struct machine *m);

/** machine_start() - boot it */
int machine_start(struct machine *m, struct err *err);

/** machine_flush_console() - hand over what the guest printed, waiting a little for a slow reader
 */
void machine_flush_console(struct machine *m);

/** machine_power_button() - ask the guest's operating system to power off */
void machine_power_button(struct machine *m);

/** machine_pause() - stop the guest; nothing when it is paused. Return: 0; -ETIMEDOUT as vm_pause()
 */
int machine_pause(struct machine *m, struct err *err);
/** machine_resume() - the counterpart; nothing when it is not paused */
void machine_resume(struct machine *m);

struct machine_save_ops {
	void (*progress)(void *arg, unsigned percent);
	/* All is on stable storage, or @ret is -errno; @bytes: written. The machine goes on. */
	void (*done)(void *arg, int ret, uint64_t bytes);
	void *arg;
};

/**
 * machine_save() - save the machine into a file; it does not run meanwhile
 * @fd: an empty regular file open for writing; taken over in any case
 * @ops: copied
 *
 * Return: 0: ops->done tells the rest, later; -EBUSY, -EINVAL, what the host says.
 */
int machine_save(struct machine *m, int fd, const struct machine_save_ops *ops, struct err *err);
bool machine_saving(const struct machine *m);
unsigned machine_save_percent(const struct machine *m);
/** machine_save_abort() - end it now, with -ECANCELED; nothing when there is none; NULL is fine */
void machine_save_abort(struct machine *m);

/** machine_nmi() - a non-maskable interrupt for each processor, as from a front panel's button */
void machine_nmi(struct machine *m);

struct vm *machine_vm(struct machine *m);

#endif
