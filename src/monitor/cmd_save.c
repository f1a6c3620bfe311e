/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `save`: the machine into a file whose descriptor the client sends. The client gives the file
 * its name when all is there (see docs/control.md).
 */
#include <stdio.h>

#include "base/util.h"
#include "monitor/command_priv.h"

enum then { THEN_GO_ON, THEN_PAUSE, THEN_QUIT };

static enum then then_of(struct control_call *call)
{
	const char *text = control_get_text(control_args(call), "then", "go-on");

	return !strcmp(text, "quit") ? THEN_QUIT : !strcmp(text, "pause") ? THEN_PAUSE : THEN_GO_ON;
}

static void progress(void *arg, unsigned percent)
{
	commander_event(arg, "saving", json_pack("{s:i}", "percent", (int)percent));
}

static void saved(void *arg, int ret, uint64_t bytes)
{
	struct commander *cmd = arg;
	struct control_call *call = cmd->save;
	enum then then = then_of(call);
	struct err err;

	cmd->save = NULL;
	commander_event(cmd, "saved", json_pack("{s:b}", "good", ret == 0));
	if (ret < 0) {
		if (cmd->save_pauses)
			machine_resume(cmd->c.machine);
		err_set(&err, -ret, "save: %s", strerror(-ret));
		control_fail(call, ret, &err);
		return;
	}
	if (cmd->save_pauses)
		commander_event(cmd, "paused", NULL);
	if (then == THEN_QUIT)
		vm_request(machine_vm(cmd->c.machine), VM_QUIT, 0, "saved");
	control_reply(
	    call, json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "state", command_state(cmd)));
}

void command_save(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct machine_save_ops ops = { .progress = progress, .done = saved, .arg = cmd };
	int fd, ret = 0;
	struct err err;

	if (command_refuse_while_saving(call, cmd))
		return;
	fd = control_take_fd(call);
	if (fd < 0)
		ret = err_set(&err, EINVAL,
			      "save: send the descriptor of an empty file along, as eyot-vmm ctl "
			      "does");
	/* Paused from before it is saved on: nothing happens in between. */
	cmd->save_pauses = then_of(call) != THEN_GO_ON && !cmd->c.machine->paused;
	if (ret == 0 && cmd->save_pauses)
		ret = machine_pause(cmd->c.machine, &err);
	cmd->save = call;
	if (ret == 0)
		ret = machine_save(cmd->c.machine, fd, &ops, &err);
	else if (fd >= 0)
		close(fd);
	if (ret == 0)
		return;
	if (cmd->save_pauses)
		machine_resume(cmd->c.machine);
	cmd->save = NULL;
	control_fail(call, ret, &err);
}

bool command_refuse_while_saving(struct control_call *call, struct commander *cmd)
{
	struct err err;

	if (!machine_saving(cmd->c.machine))
		return false;
	err_set(&err, EBUSY, "%s: the machine is being saved", control_call_name(call));
	control_fail(call, -EBUSY, &err);
	return true;
}
