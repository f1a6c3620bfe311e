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
};

/** command_state() - "running", "paused" or "stopped" */
const char *command_state(const struct commander *cmd);

#endif
