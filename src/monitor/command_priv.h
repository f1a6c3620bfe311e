/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of commands share. */
#ifndef EYOT_MONITOR_COMMAND_PRIV_H
#define EYOT_MONITOR_COMMAND_PRIV_H

#include "monitor/command.h"
#include "monitor/machine_priv.h"

struct commander {
	struct commander_config c;
	struct control_server *server;
	int statm_fd; /* /proc/self/statm: opened before a sandbox hides it */
	bool stopped;
	struct control_call *save; /* that runs; NULL: none */
	bool save_pauses;	   /* and has paused the machine */
	struct removal {
		struct commander *cmd;
		struct control_call *call; /* NULL: none */
		struct loop_timer *timer;
		uint64_t timeout_ms;
		char id[MACHINE_ID_SIZE];
	} removals[PCI_SLOT_COUNT];
};

/* cmd_device.c */
void command_disk_add(struct control_call *call, void *opaque);
void command_net_add(struct control_call *call, void *opaque);
void command_device_remove(struct control_call *call, void *opaque);
void command_disk_resize(struct control_call *call, void *opaque);
void command_disk_limits(struct control_call *call, void *opaque);
void command_net_limits(struct control_call *call, void *opaque);
void command_net_link(struct control_call *call, void *opaque);
void command_removals_done(struct commander *cmd);

/* cmd_save.c */
void command_save(struct control_call *call, void *opaque);
/** command_refuse_while_saving() - whether @call has been refused for that reason */
bool command_refuse_while_saving(struct control_call *call, struct commander *cmd);

/* cmd_balloon.c */
void command_balloon(struct control_call *call, void *opaque);

/** command_state() - "running", "paused", "saving" or "stopped" */
const char *command_state(const struct commander *cmd);

#endif
