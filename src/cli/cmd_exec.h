/* SPDX-License-Identifier: Apache-2.0 */
/* What `exec`, `shell` and `run` share */
#ifndef EYOT_CLI_CMD_EXEC_H
#define EYOT_CLI_CMD_EXEC_H

#include "cli/cli.h"

/**
 * exec_in() - run a command in the guest with this program's streams
 * @args: for options --env, --user, --workdir, --no-tty, --wait
 * @argv: ended by NULL, as in argv of main(); NULL: a login shell
 * Return: its exit status; -errno with a text.
 */
int exec_in(struct cli *cli, const struct cli_args *args, const char *name, char **argv,
	    struct err *err);

/** console_of() - this terminal becomes the guest's console until the key to leave */
int console_of(struct cli *cli, const char *name, struct err *err);

#endif
