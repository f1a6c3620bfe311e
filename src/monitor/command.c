/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of commands, and those that take a line or two. Everything here is
 * on the loop thread. What takes long is answered later: its call is kept with
 * what it waits for.
 */
#include <fcntl.h>

#include "base/log.h"
#include "base/util.h"
#include "monitor/command_priv.h"
#include "monitor/report.h"
#include "version.h"

/* ---- the machine's life ---- */

const char *command_state(const struct commander *cmd)
{
	return cmd->stopped			? "stopped"
	       : machine_saving(cmd->c.machine) ? "saving"
	       : cmd->c.machine->paused		? "paused"
						: "running";
}

static void reply_state(struct control_call *call, const struct commander *cmd)
{
	control_reply(call, json_pack("{s:s}", "state", command_state(cmd)));
}

static void run_pause(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct err err;
	bool was = cmd->c.machine->paused;
	int ret = machine_pause(cmd->c.machine, &err);

	if (ret < 0) {
		control_fail(call, ret, &err);
		return;
	}
	if (!was)
		commander_event(cmd, "paused", NULL);
	reply_state(call, cmd);
}

static void run_resume(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	bool was = cmd->c.machine->paused;

	machine_resume(cmd->c.machine);
	if (was)
		commander_event(cmd, "resumed", NULL);
	reply_state(call, cmd);
}

static void run_reset(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;

	if (command_refuse_while_saving(call, cmd))
		return;
	vm_request(machine_vm(cmd->c.machine), VM_RESET, 0, "reset by the control socket");
	control_reply(call, NULL);
}

static void run_power_button(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;

	machine_power_button(cmd->c.machine);
	control_reply(call, NULL);
}

static void run_nmi(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;

	machine_nmi(cmd->c.machine);
	control_reply(call, NULL);
}

static void run_quit(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;

	vm_request(machine_vm(cmd->c.machine), VM_QUIT, 0, "asked to by the control socket");
	control_reply(call, NULL);
}

/* ---- the protocol's own ---- */

/* ---- console ---- */

static void watch_console(void *arg, int fd, const void *bytes, size_t len)
{
	struct commander *cmd = arg;

	if (console_watch(cmd->c.con, fd, bytes, len, true) < 0)
		log_debug("control: a watcher of the console was turned away");
}

static void watch_console_anew(void *arg, int fd, const void *bytes, size_t len)
{
	struct commander *cmd = arg;

	if (console_watch(cmd->c.con, fd, bytes, len, false) < 0)
		log_debug("control: a watcher of the console was turned away");
}

static void run_console(struct control_call *call, void *opaque)
{
	bool history = control_get_flag(control_args(call), "history", true);
	struct commander *cmd = opaque;
	int fd = control_take_fd(call), ret;
	struct err err;

	ret = console_may_watch(cmd->c.con, &err);
	if (ret == 0 && fd < 0) {
		control_hand_over(call, NULL, history ? watch_console : watch_console_anew, cmd);
		return;
	}
	if (ret == 0) {
		ret = console_watch(cmd->c.con, fd, "", 0, history);
		if (ret < 0)
			err_set(&err, -ret, "console: the descriptor: %s", strerror(-ret));
	} else if (fd >= 0) {
		close(fd);
	}
	if (ret < 0)
		control_fail(call, ret, &err);
	else
		control_reply(call, NULL);
}

static void run_events(struct control_call *call, void *opaque)
{
	control_subscribe(call, control_get_number(control_args(call), "since", UINT64_MAX));
}

static void run_commands(struct control_call *call, void *opaque)
{
	control_reply(call, control_describe(command_table));
}

static const struct control_arg events_args[] = {
	{ "since", CONTROL_NUMBER, false, 0, INT64_MAX, NULL,
	  "begin with those kept after this number" },
	{ NULL },
};

#define ID(what)                                                                                   \
	{                                                                                          \
		"id", CONTROL_TEXT, true, 1, CONFIG_ID_MAX, NULL, what                             \
	}
#define RATE_MAX (1ll << 40)

static const struct control_arg save_args[] = {
	{ "file", CONTROL_TEXT, true, 1, 4096, NULL, "the client makes it, under this name" },
	{ "then", CONTROL_WORD, false, 0, 0, "go-on|pause|quit",
	  "what the machine does when it is saved (default: go-on)" },
	{ NULL },
};
static const struct control_arg disk_add_args[] = {
	{ "disk", CONTROL_CONFIG, true, 0, 0, NULL, "as after --disk: FILE[,KEY=VALUE]..." },
	{ NULL },
};
static const struct control_arg net_add_args[] = {
	{ "net", CONTROL_CONFIG, true, 0, 0, NULL, "as after --net: KIND[,KEY=VALUE]..." },
	{ NULL },
};
static const struct control_arg remove_args[] = {
	ID("the disk's or card's"),
	{ "timeout_ms", CONTROL_NUMBER, false, 1, 3600000, NULL,
	  "how long the guest may take, 30000 when not given" },
	{ "force", CONTROL_FLAG, false, 0, 0, NULL, "take it away without asking the guest" },
	{ NULL },
};
static const struct control_arg resize_args[] = {
	ID("the disk's"),
	{ "size", CONTROL_SIZE, true, 512, INT64_MAX, NULL, "not less than it has" },
	{ NULL },
};
static const struct control_arg disk_limits_args[] = {
	ID("the disk's"),
	{ "iops", CONTROL_NUMBER, false, 0, RATE_MAX, NULL, "requests a second; 0: no limit" },
	{ "bps", CONTROL_SIZE, false, 0, RATE_MAX, NULL, "bytes a second; 0: no limit" },
	{ "burst", CONTROL_NUMBER, false, 1, 3600, NULL, "seconds' worth that may come at once" },
	{ NULL },
};
static const struct control_arg net_limits_args[] = {
	ID("the card's"),
	{ "rate", CONTROL_SIZE, true, 0, RATE_MAX, NULL, "bytes a second, each way; 0: no limit" },
	{ NULL },
};
static const struct control_arg link_args[] = {
	ID("the card's"),
	{ "link", CONTROL_WORD, true, 0, 0, "up|down", "the cable is in, or out" },
	{ NULL },
};
#undef ID
static const struct control_arg balloon_args[] = {
	{ "target", CONTROL_SIZE, false, 4096, INT64_MAX, NULL,
	  "memory that the guest shall have" },
	{ NULL },
};
static const struct control_arg console_args[] = {
	{ "history", CONTROL_FLAG, false, 0, 0, NULL,
	  "begin with the latest 64 KiB (default: on)" },
	{ NULL },
};

const struct control_command command_table[] = {
	{ "status", "what the machine is and does", NULL, 0, command_status },
	{ "statistics", "figures of vCPUs, devices and the monitor", NULL, 0, command_statistics },
	{ "pause", "stop the guest until resume", NULL, 0, run_pause },
	{ "resume", "let a paused guest go on", NULL, 0, run_resume },
	{ "reset", "press the reset button", NULL, 0, run_reset },
	{ "power-button", "press the power button: the guest shuts down", NULL, 0,
	  run_power_button },
	{ "nmi", "send a non-maskable interrupt to all processors", NULL, 0, run_nmi },
	{ "quit", "end the machine at once", NULL, 0, run_quit },
	{ "save", "save the machine into a file, for eyot-vmm --load", save_args, 1, command_save },
	{ "disk-add", "add a disk", disk_add_args, 1, command_disk_add },
	{ "net-add", "add a network card", net_add_args, CONTROL_FDS_MAX, command_net_add },
	{ "device-remove", "have the guest release a disk or card, and take it away", remove_args,
	  0, command_device_remove },
	{ "disk-resize", "make a disk larger", resize_args, 0, command_disk_resize },
	{ "disk-limits", "set a disk's limits, all of them", disk_limits_args, 0,
	  command_disk_limits },
	{ "net-limits", "set a card's rate", net_limits_args, 0, command_net_limits },
	{ "net-link", "plug a card's cable in or out", link_args, 0, command_net_link },
	{ "balloon", "show the balloon and the guest's memory, or set what it shall have",
	  balloon_args, 0, command_balloon },
	{ "console", "the connection becomes the guest's console", console_args, 1, run_console },
	{ "events", "tell what happens from now on", events_args, 0, run_events },
	{ "commands", "list the commands with their arguments", NULL, 0, run_commands },
	{ NULL },
};

/* ---- begin, end, events ---- */

static json_t *greet(void *opaque)
{
	struct commander *cmd = opaque;

	return json_pack("{s:s, s:s?, s:i, s:s}", "version", EYOT_VERSION, "name", cmd->c.cfg->name,
			 "pid", cmd->c.pid, "state", command_state(cmd));
}

int commander_new(const struct commander_config *cc, const char *where, struct commander **ret_cmd,
		  struct err *err)
{
	struct commander *cmd = calloc(1, sizeof(*cmd));
	struct control_server_config sc = {
		.loop = cc->loop, .table = command_table, .opaque = cmd, .greet = greet
	};
	int ret;

	if (!cmd)
		return err_set(err, ENOMEM, "control '%s': out of memory", where);
	cmd->c = *cc;
	json_object_seed(0); /* now: it reads /dev/urandom, which a sandbox hides later */
	cmd->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ret = control_server_new(&sc, where, &cmd->server, err);
	if (ret < 0) {
		commander_free(cmd);
		return ret;
	}
	*ret_cmd = cmd;
	return 0;
}

char *commander_release_socket(struct commander *cmd)
{
	return cmd ? control_server_release_socket(cmd->server) : NULL;
}

void commander_free(struct commander *cmd)
{
	if (!cmd)
		return;
	machine_save_abort(cmd->c.machine);
	command_removals_done(cmd);
	control_server_free(cmd->server);
	if (cmd->statm_fd >= 0)
		close(cmd->statm_fd);
	free(cmd);
}

void commander_event(struct commander *cmd, const char *name, json_t *data)
{
	if (cmd)
		control_event(cmd->server, name, data);
	else
		json_decref(data);
}

void commander_stopped(struct commander *cmd, const struct vm_request *req, int status)
{
	if (!cmd)
		return;
	cmd->stopped = true;
	commander_event(cmd, "stopped",
			json_pack("{s:s, s:s, s:i}", "reason", report_reason(req->kind), "text",
				  req->text, "status", status));
}
