/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-vmm: one virtual machine in one process. Reads the configuration, puts
 * console and machine together, runs the event loop and turns the machine's
 * end into an exit status. This is the one place that prints errors.
 *
 * Status values of ours are even: those of the debug exit port are odd.
 */
#include <stdio.h>
#include <sys/prctl.h>

#include "accel/accel.h"
#include "base/log.h"
#include "base/util.h"
#include "loop/loop.h"
#include "monitor/command.h"
#include "monitor/config.h"
#include "monitor/console.h"
#include "monitor/ctl.h"
#include "monitor/machine.h"
#include "monitor/probe.h"
#include "monitor/report.h"
#include "monitor/signals.h"
#include "monitor/vmm_sandbox.h"
#include "version.h"

enum {
	STATUS_POWERED_OFF = 0,
	STATUS_USAGE = 2,
	STATUS_CRASHED = 4,
	STATUS_REBOOTED = 6,
	STATUS_HOST = 8,
	STATUS_ENDED = 10,
};

struct program {
	struct config cfg;
	struct loop *loop;
	struct console *con;
	struct machine *machine;
	struct commander *cmd; /* NULL: without --control */
	char accel_reason[400];
	pid_t pid; /* of what was started, which is not this process when there is a keeper */
	struct vmm_sandbox *sandbox; /* NULL: --sandbox off */
};

/* ---- ends ---- */

static void on_stopped(void *arg, const struct vm_request *req)
{
	struct program *p = arg;
	int status = STATUS_HOST;

	/* What the guest said last comes before what is said about it. */
	machine_flush_console(p->machine);
	console_restore_terminal();
	switch (req->kind) {
	case VM_POWEROFF:
		status = STATUS_POWERED_OFF;
		break;
	case VM_RESET:
		status = STATUS_REBOOTED;
		break;
	case VM_CRASH:
		log_error("guest crashed: %s", req->text);
		status = STATUS_CRASHED;
		break;
	case VM_DEBUG_EXIT:
		status = (int)((req->code << 1 | 1) & 0xff);
		break;
	case VM_QUIT:
		log_info("ended: %s", req->text);
		status = STATUS_ENDED;
		break;
	case VM_FAIL:
	case VM_NONE:
		log_error("%s", req->text);
		status = STATUS_HOST;
		break;
	}
	report_end(&p->cfg, req->kind, req->text, status);
	commander_stopped(p->cmd, req, status);
	loop_quit(p->loop, status);
}

static void on_reset(void *arg)
{
	struct program *p = arg;

	commander_event(p->cmd, "reset", NULL);
}

static void on_crash_kernel(void *arg)
{
	struct program *p = arg;

	commander_event(p->cmd, "crash-kernel", NULL);
}

static void on_removed(void *arg, unsigned slot, const char *id)
{
	struct program *p = arg;

	commander_removed(p->cmd, slot, id);
}

static void on_disk_error(void *arg, const char *id, enum disk_op op, int ret, unsigned missed)
{
	static const char *const names[DISK_OPS] = { "read", "write", "flush", "discard",
						     "write-zeroes" };
	struct program *p = arg;

	commander_event(p->cmd, "disk-error",
			json_pack("{s:s, s:s, s:s, s:i}", "id", id, "operation", names[op], "text",
				  strerror(-ret), "more", (int)missed));
}

static void on_leave(void *arg)
{
	struct program *p = arg;

	if (p->machine)
		vm_request(machine_vm(p->machine), VM_QUIT, 0, "the key to leave was typed");
}

static void on_end_signal(void *arg, int signo)
{
	struct program *p = arg;

	if (p->machine)
		vm_request(machine_vm(p->machine), VM_QUIT, 0, "signal %d (%s)", signo,
			   strsignal(signo));
	else
		loop_quit(p->loop, STATUS_ENDED);
}

static void on_power_signal(void *arg, int signo)
{
	struct program *p = arg;

	if (p->machine)
		machine_power_button(p->machine);
}

/* ---- accelerator ---- */

static const struct accel_ops *find_accel(const char *name)
{
	for (unsigned i = 0; accel_list[i]; i++)
		if (!strcmp(accel_list[i]->name, name))
			return accel_list[i];
	return NULL;
}

/*
 * @ret_status: what a failure means: an unusable accelerator is the host's fault, an unknown one
 * the caller's.
 */
static int choose_accel(struct program *p, const struct accel_ops **ret_accel, int *ret_status,
			struct err *err)
{
	const char *name = p->cfg.accel;
	struct err why = { .text = "" };
	struct accel_probe probe;
	char passed[400] = "";
	int ret;

	if (strcmp(name, "auto")) {
		const struct accel_ops *a = find_accel(name);

		if (!a)
			return err_set(err, EINVAL, "accel '%s': not in this version of eyot-vmm",
				       name);
		ret = a->probe(&probe, PROBE_ASKED_MS, err);
		if (ret < 0) {
			*ret_status = STATUS_HOST;
			return err_prefix(err, ret, "accel '%s'", name);
		}
		snprintf(p->accel_reason, sizeof(p->accel_reason), "asked for");
		*ret_accel = a;
		return 0;
	}
	for (unsigned i = 0; accel_list[i]; i++) {
		size_t len = strlen(passed);
		int unusable = accel_list[i]->probe(&probe, PROBE_MS, &why);

		log_debug("accelerator %s: probed in %.1f ms, %.1f of them without a processor",
			  accel_list[i]->name, probe.took_us / 1000.0, probe.waited_us / 1000.0);
		if (!unusable) {
			*ret_accel = accel_list[i];
			snprintf(p->accel_reason, sizeof(p->accel_reason), "%.200s%.190s",
				 probe.reason, passed);
			log_info("accelerator %s: chosen: %s%s", accel_list[i]->name, probe.reason,
				 passed);
			return 0;
		}
		snprintf(passed + len, sizeof(passed) - len, "; not %s: %s", accel_list[i]->name,
			 why.text);
	}
	*ret_status = STATUS_HOST;
	return err_set(err, ENODEV, "accel 'auto': none works here%s", passed);
}

/* ---- main ---- */

static int open_control(struct program *p, const char *accel, struct err *err)
{
	struct commander_config cc = { .loop = p->loop,
				       .cfg = &p->cfg,
				       .machine = p->machine,
				       .con = p->con,
				       .pid = p->pid,
				       .accel = accel,
				       .accel_reason = p->accel_reason };

	return commander_new(&cc, p->cfg.control, &p->cmd, err);
}

static int run(struct program *p, struct err *err, int *ret_status)
{
	struct machine_events events = {
		.stopped = on_stopped,
		.reset = on_reset,
		.crash_kernel = on_crash_kernel,
		.disk_error = on_disk_error,
		.removed = on_removed,
		.arg = p,
	};
	const struct accel_ops *accel = NULL;
	int ret;

	*ret_status = STATUS_HOST;
	p->pid = getpid();
	ret = p->cfg.sandbox ? vmm_sandbox_start(&p->cfg, &p->sandbox, err) : 0;
	if (ret < 0)
		return ret;
	if (p->cfg.name)
		prctl(PR_SET_NAME, p->cfg.name);
	ret = loop_new(&p->loop, err);
	if (ret == 0)
		ret = signals_init(p->loop, on_end_signal, on_power_signal, p, err);
	if (ret < 0)
		return ret;
	/* From here on a failure is the fault of what was asked for, or of a file it names. */
	*ret_status = STATUS_USAGE;
	ret = choose_accel(p, &accel, ret_status, err);
	if (ret == 0)
		ret = console_open(p->loop, p->cfg.console, p->cfg.console_path, on_leave, p,
				   &p->con, err);
	if (ret == 0) {
		if (p->sandbox)
			vmm_sandbox_socket(p->sandbox, console_release_socket(p->con));
		ret = machine_new(&p->cfg, p->loop, accel, p->con, &events, &p->machine, err);
	}
	if (ret == 0 && p->cfg.control)
		ret = open_control(p, accel->name, err);
	if (p->sandbox)
		vmm_sandbox_socket(p->sandbox, commander_release_socket(p->cmd));
	if (ret == 0) {
		ret = vmm_sandbox_close(p->sandbox, p->loop, err);
		if (ret < 0)
			*ret_status = STATUS_HOST;
	}
	if (ret == 0)
		ret = machine_start(p->machine, err);
	if (ret == 0)
		ret = vmm_sandbox_filter_loop(p->sandbox, err);
	if (ret == -ENOMEM || ret == -EMFILE || ret == -ENFILE || ret == -EIO)
		*ret_status = STATUS_HOST;
	if (ret < 0)
		return ret;
	commander_event(p->cmd, "started", NULL);
	ret = loop_run(p->loop);
	if (ret < 0)
		return err_set(err, -ret, "event loop: %s", strerror(-ret));
	*ret_status = ret;
	return 0;
}

int main(int argc, char **argv)
{
	struct program p = { 0 };
	enum config_action action;
	struct err err = { .text = "" };
	int ret, status = STATUS_USAGE;

	if (argc > 1 && !strcmp(argv[1], "ctl"))
		return ctl_main(argc - 1, argv + 1);
	log_init("eyot-vmm", LOG_INFO);
	ret = config_init(&p.cfg, &err);
	if (ret == 0)
		ret = config_parse_args(&p.cfg, argc, argv, &action, &err);
	if (ret == 0 && action == CONFIG_PROBE) {
		ret = probe_host(stdout, p.cfg.json, &err);
		if (ret < 0)
			log_error("%s", err.text);
		config_done(&p.cfg);
		return ret == 0 ? 0 : STATUS_HOST;
	}
	if (ret == 0 && action != CONFIG_RUN) {
		fputs(action == CONFIG_HELP ? config_usage() : "eyot-vmm " EYOT_VERSION "\n",
		      stdout);
		config_done(&p.cfg);
		return fflush(stdout) == 0 ? 0 : STATUS_HOST;
	}
	if (ret == 0)
		ret = config_check(&p.cfg, &err);
	if (ret == 0) {
		log_init("eyot-vmm", p.cfg.log);
		ret = run(&p, &err, &status);
	}
	console_restore_terminal();
	if (ret < 0) {
		log_error("%s", err.text);
		report_end(&p.cfg, VM_FAIL, err.text, status);
	}
	commander_free(p.cmd);
	machine_free(p.machine);
	console_close(p.con);
	loop_free(p.loop);
	vmm_sandbox_free(p.sandbox);
	config_done(&p.cfg);
	return status;
}
