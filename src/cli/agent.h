/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of the guest's agent (docs/agent.md): one command over one connection. */
#ifndef EYOT_CLI_AGENT_H
#define EYOT_CLI_AGENT_H

#include "cli/cli.h"

#define AGENT_WAIT_S 300 /* a guest may be slow to boot */

struct agent_command {
	const char *const *argv;   /* ended by NULL; NULL: the user's login shell */
	const char *const *env;	   /* "NAME=value", ended by NULL; NULL: none */
	const char *user, *folder; /* NULL: root, the user's home */
	bool terminal;		   /* ours, in raw mode, becomes the command's */
	bool forward;		   /* signals that we get are sent on; else Ctrl-C ends the wait */
	int in, out, err;	   /* of ours; in -1: it gets none */
};

/**
 * agent_connect() - reach the agent of a machine that runs
 * @wait_s: how long it may take to come up
 *
 * Return: 0; -EREMOTEIO: the machine does not run, or its image has no agent; -ETIMEDOUT; -EINTR;
 * other -errno.
 */
int agent_connect(struct cli *cli, const char *instance, unsigned wait_s, int *ret_fd,
		  struct err *err);

/**
 * agent_run() - run a command until it ends
 * @fd: of agent_connect(), closed here
 *
 * Return: its exit status; -EPROTO, -EIO: the connection broke; -ENOEXEC: it could not be started,
 * with a text, @ret_status is 126 or 127 then.
 */
int agent_run(int fd, const struct agent_command *cmd, int *ret_status, struct err *err);

#endif
