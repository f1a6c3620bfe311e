/* SPDX-License-Identifier: Apache-2.0 */
/* `eyot-vmm ctl`: the control socket from a shell. */
#ifndef EYOT_MONITOR_CTL_H
#define EYOT_MONITOR_CTL_H

#include <jansson.h>
#include <stdbool.h>

#include "control/client.h"
#include "control/message.h"

/* Its exit status */
enum {
	CTL_DONE = 0,
	CTL_USAGE = 2,
	CTL_REFUSED = 4, /* by the monitor */
	CTL_HOST = 8,	 /* no monitor there, or the connection broke */
};

/** ctl_main() - the program behind `ctl`; @argv[0] is that word. Return: the exit status */
int ctl_main(int argc, char **argv);

/**
 * ctl_parse() - the arguments of a command from words
 * @words: KEY=VALUE, a flag's name, or values in the order of the table
 * @ret_args: an object that fits the table, a new reference
 */
int ctl_parse(const struct control_command *cmd, char **words, int count, json_t **ret_args,
	      struct err *err);

/** ctl_console() - connect the terminal with a console until the key to leave; the exit status */
int ctl_console(struct control_client *c);

/** ctl_print() - a result, for people */
void ctl_print(const char *command, const json_t *result);

/** ctl_print_event() - a line for people */
void ctl_print_event(const json_t *event);

#endif
