/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the control socket, on a running machine. Loop thread. */
#ifndef EYOT_MONITOR_COMMAND_H
#define EYOT_MONITOR_COMMAND_H

#include "control/server.h"
#include "monitor/machine.h"

struct commander;

/* All commands, in the order in which they are listed; also what `eyot-vmm ctl` knows. */
extern const struct control_command command_table[];

struct commander_config {
	struct loop *loop;
	const struct config *cfg;
	struct machine *machine;
	struct console *con;
	int pid;			  /* of the process that was started, seen from outside */
	const char *accel, *accel_reason; /* what runs the vCPUs, and why */
};

/**
 * commander_new() - open the control socket
 * @where: a path or "fd:N"
 * @cc: copied; what it points to is borrowed
 */
int commander_new(const struct commander_config *cc, const char *where, struct commander **ret_cmd,
		  struct err *err);
/** commander_release_socket() - control_server_release_socket() of its server; NULL is fine */
char *commander_release_socket(struct commander *cmd);

void commander_free(struct commander *cmd); /* before the machine; NULL is fine */

/** commander_event() - tell those who listen; @data is taken over, may be NULL; @cmd NULL is fine
 */
void commander_event(struct commander *cmd, const char *name, json_t *data);

/** commander_removed() - a disk or card has gone */
void commander_removed(struct commander *cmd, unsigned slot, const char *id);

/** commander_stopped() - tell them that the machine has ended; @status: what eyot-vmm exits with */
void commander_stopped(struct commander *cmd, const struct vm_request *req, int status);

/* One file each beside command.c */
void command_status(struct control_call *call, void *opaque);
void command_statistics(struct control_call *call, void *opaque);

#endif
