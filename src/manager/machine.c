/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 1. inst->machine is there from the start of the process until its lock is free again; a state
 * that needs a machine is left in the same turn.
 * 2. Signals go through the pidfd, so never to another process; to stop is SIGPWR (the power
 *    button), SIGTERM, SIGKILL, which need no connection and work on a machine that hangs.
 * 3. A process that is gone may have left its lock behind for a moment (the keeper ends a little
 * before the machine, when both are killed): the end is the lock's.
 */
#include "manager/machine.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>

#include "base/log.h"
#include "base/util.h"
#include "manager/host.h"
#include "manager/image.h"
#include "manager/job.h"
#include "manager/link.h"

#define SECOND_NS 1000000000ull
#define GREETING_TIMEOUT_NS (60 * SECOND_NS)
#define TERM_TIMEOUT_NS (5 * SECOND_NS)
#define PRESS_EVERY_NS (3 * SECOND_NS)
#define LOCK_POLL_NS 10000000ull
#define RESTART_MAX_S 60
#define STEADY_MS (10 * 60 * 1000) /* of running: then failures are counted anew */

enum stop_phase { NOT_STOPPING, BUTTON_PRESSED, TOLD_TO_END, KILLED };

struct machine {
	struct instance *inst;
	pid_t pid;
	int pid_fd; /* -1: the process is gone, its lock may not be */
	struct loop_fd *pid_source;
	struct link *link;	  /* NULL: none */
	struct loop_timer *timer; /* the next step of a stop; the greeting's limit; the lock */
	enum stop_phase phase;
	uint64_t button_ends_ns; /* until when it may power off by itself */
};

static void machine_gone(struct instance *inst);

pid_t machine_pid(const struct machine *mc)
{
	return mc->pid;
}

static bool job_is(const struct job *job, const char *kind)
{
	return job && !strcmp(job->kind, kind);
}

static void job_done_with(struct instance *inst)
{
	job_done(inst->job, instance_text(inst, NULL));
}

void machine_forget(struct machine *mc)
{
	if (!mc)
		return;
	link_close(mc->link);
	loop_fd_del(mc->pid_source);
	loop_timer_del(mc->timer);
	if (mc->pid_fd >= 0)
		close(mc->pid_fd);
	mc->inst->machine = NULL;
	free(mc);
}

/* ---- what it tells ---- */

static void on_greeted(void *arg, const json_t *greeting)
{
	struct machine *mc = arg;
	struct instance *inst = mc->inst;
	const char *state = json_string_value(json_object_get(greeting, "state"));
	bool paused = state && !strcmp(state, "paused"), started = inst->state == INST_STARTING;

	link_call(mc->link, "events", NULL, NULL, NULL);
	if (inst->state == INST_STOPPING)
		return;
	loop_timer_arm(mc->timer, 0);
	if (started)
		inst->started_ms = time_now_ms();
	instance_set_state(inst, paused ? INST_PAUSED : INST_RUNNING, "its machine runs");
	if (started && inst->job)
		job_done_with(inst);
}

static void on_event(void *arg, const char *name, const json_t *data)
{
	struct machine *mc = arg;
	struct instance *inst = mc->inst;

	if (!strcmp(name, "paused") && inst->state == INST_RUNNING)
		instance_set_state(inst, INST_PAUSED, "paused");
	else if (!strcmp(name, "resumed") && inst->state == INST_PAUSED)
		instance_set_state(inst, INST_RUNNING, "resumed");
	else if (!strcmp(name, "reset") || !strcmp(name, "disk-error")) {
		char type[48];
		struct text t = { 0 };

		snprintf(type, sizeof(type), "instance.%s", name);
		text_json(&t, data);
		event_emit(inst->m, type, inst, inst->name, t.failed || !data ? "{}" : t.data);
		text_done(&t);
	}
}

/* A machine that ends closes its socket a little before; one that does not end is stuck. */
static void on_lost(void *arg, const char *why)
{
	struct machine *mc = arg;

	log_debug("instance %s: control socket: %s", mc->inst->name, why);
	if (mc->phase == NOT_STOPPING)
		loop_timer_arm(mc->timer, clock_now_ns() + 2 * SECOND_NS);
}

static const struct link_ops link_ops = { on_greeted, on_event, on_lost };

static int connect_to(struct machine *mc, struct err *err)
{
	char path[PATH_SIZE];

	link_close(mc->link);
	mc->link = NULL;
	instance_run_path(mc->inst, "control", path);
	return link_open(mc->inst->m->loop, path, &link_ops, mc, &mc->link, err);
}

/* ---- stopping ---- */

static void send_signal(struct machine *mc, int signo)
{
	if (mc->pid_fd >= 0)
		syscall(SYS_pidfd_send_signal, mc->pid_fd, signo, NULL, 0u);
}

/* Again and again: a guest that starts does not hear it yet. */
static void press_button(struct machine *mc)
{
	uint64_t again = clock_now_ns() + PRESS_EVERY_NS;

	mc->phase = BUTTON_PRESSED;
	send_signal(mc, SIGPWR);
	loop_timer_arm(mc->timer, min_u64(again, mc->button_ends_ns));
}

static void stop_step(struct machine *mc)
{
	if (mc->phase == BUTTON_PRESSED && clock_now_ns() < mc->button_ends_ns) {
		press_button(mc);
		return;
	}
	switch (mc->phase) {
	case NOT_STOPPING:
	case BUTTON_PRESSED:
		mc->phase = TOLD_TO_END;
		send_signal(mc, SIGTERM);
		loop_timer_arm(mc->timer, clock_now_ns() + TERM_TIMEOUT_NS);
		break;
	case TOLD_TO_END:
	case KILLED:
		mc->phase = KILLED;
		send_signal(mc, SIGKILL);
		loop_timer_arm(mc->timer, clock_now_ns() + TERM_TIMEOUT_NS);
		break;
	}
}

static void on_timer(void *arg)
{
	struct machine *mc = arg;
	struct instance *inst = mc->inst;
	pid_t pid;

	if (mc->pid_fd < 0) {
		char folder[PATH_SIZE];

		instance_path(inst, "", folder);
		launch_probe(folder, &pid);
		if (pid)
			loop_timer_arm(mc->timer, clock_now_ns() + LOCK_POLL_NS);
		else
			machine_gone(inst);
	} else if (mc->phase != NOT_STOPPING) {
		stop_step(mc);
	} else if (inst->state == INST_STARTING) {
		log_warn("instance %s: its machine does not greet; it is ended", inst->name);
		stop_step(mc);
	} else if (inst->state != INST_STUCK) {
		instance_set_state(inst, INST_STUCK, "its machine does not answer");
		if (inst->job)
			job_fail(inst->job, 504, "timeout",
				 "instance '%s': its machine does not answer", inst->name);
	}
}

void machine_stop(struct instance *inst, unsigned timeout_s)
{
	struct machine *mc = inst->machine;
	uint64_t now = clock_now_ns();
	bool listens = inst->state == INST_RUNNING || inst->state == INST_PAUSED;

	if (!mc) {
		if (inst->job)
			machine_gone(inst);
		return;
	}
	inst->asked_stop = true;
	if (inst->state != INST_DELETING)
		instance_set_state(inst, INST_STOPPING, "asked to stop");
	store_commit(inst->m->store);
	if (mc->pid_fd < 0)
		return; /* it ends just now */
	if (timeout_s && listens && mc->phase == NOT_STOPPING) {
		link_call(mc->link, "resume", NULL, NULL, NULL);
		mc->button_ends_ns = now + timeout_s * SECOND_NS;
		press_button(mc);
	} else if (timeout_s && mc->phase == BUTTON_PRESSED) {
		mc->button_ends_ns = min_u64(mc->button_ends_ns, now + timeout_s * SECOND_NS);
		press_button(mc);
	} else if (mc->phase < TOLD_TO_END) {
		mc->button_ends_ns = 0;
		stop_step(mc);
	}
}

/* ---- the end ---- */

static void remove_files(const struct instance *inst)
{
	char path[PATH_SIZE];
	struct err err;

	instance_path(inst, "", path);
	if (paths_remove(path, &err) < 0)
		log_warn("%s", err.text);
	instance_run_path(inst, "", path);
	if (paths_remove(path, &err) < 0)
		log_warn("%s", err.text);
}

void instance_remove(struct instance *inst)
{
	struct job *job = inst->job;

	instance_set_state(inst, INST_DELETING, "asked to be removed");
	if (store_commit(inst->m->store) < 0)
		return;
	remove_files(inst);
	if (job)
		job->inst = NULL;
	instance_drop(inst);
	job_done(job, NULL);
}

static void on_restart(void *arg)
{
	struct instance *inst = arg;
	struct err err;

	if (inst->state != INST_RESTARTING || inst->machine || inst->job)
		return;
	inst->restart_ms = 0;
	inst->restarts++;
	if (machine_start(inst, &err) < 0) {
		inst->want_running = false;
		instance_set_state(inst, INST_FAILED, err.text);
	}
}

/* Whether and when it is started again by its policy */
static bool arrange_restart(struct instance *inst, enum exit_reason reason)
{
	bool wanted = inst->spec.policy == RESTART_ALWAYS ||
		      (inst->spec.policy == RESTART_ON_FAILURE && reason != EXIT_POWERED_OFF);
	uint64_t now = time_now_ms(), wait_s = RESTART_MAX_S;

	if (!wanted || reason == EXIT_STOPPED || !inst->want_running || inst->spec.ephemeral)
		return false;
	if (inst->started_ms && now > inst->started_ms + STEADY_MS)
		inst->restarts = 0;
	if (inst->restarts >= inst->spec.limit)
		return false;
	if (inst->restarts < 6)
		wait_s = 1u << inst->restarts;
	inst->restart_ms = now + wait_s * 1000;
	if (!inst->restart_timer &&
	    loop_timer_add(inst->m->loop, on_restart, inst, &inst->restart_timer) < 0)
		return false;
	loop_timer_arm(inst->restart_timer, clock_now_ns() + wait_s * SECOND_NS);
	return true;
}

void machine_start_for(struct instance *inst, struct job *job)
{
	struct problem p;
	int ret = machine_start(inst, &p.err);

	if (ret >= 0)
		return;
	inst->want_running = false;
	instance_write(inst);
	problem_of(&p, ret);
	job_failed(job, &p);
}

/* By whom or what its end was wanted; the job at hand decides. */
static void after_end(struct instance *inst, enum exit_reason reason, const char *why)
{
	struct job *job = inst->job;
	bool failed_to_start = inst->state == INST_STARTING;

	if (inst->state == INST_DELETING) {
		instance_remove(inst);
		return;
	}
	if (job_is(job, "instance.restart") && inst->state == INST_STOPPING) {
		instance_set_state(inst, INST_STOPPED, why);
		inst->asked_stop = false;
		machine_start_for(inst, job);
		return;
	}
	if (arrange_restart(inst, reason)) {
		instance_set_state(inst, INST_RESTARTING, why);
	} else {
		inst->want_running = false;
		instance_set_state(inst,
				   reason == EXIT_STOPPED || reason == EXIT_POWERED_OFF
				       ? INST_STOPPED
				       : INST_FAILED,
				   why);
	}
	if (job_is(job, "instance.stop"))
		job_done_with(inst);
	else if (job)
		job_fail(job, 500, "host", "instance '%s': its machine ended%s: %s", inst->name,
			 failed_to_start ? " while it started" : "", why);
	if (inst->spec.ephemeral && inst->state != INST_RESTARTING)
		instance_remove(inst);
}

/* Its lock is free. */
static void machine_gone(struct instance *inst)
{
	struct err why = { .text = "" };
	enum exit_reason reason;
	char path[PATH_SIZE];

	reason = exit_read(inst, &why);
	instance_run_path(inst, "control", path);
	unlink(path);
	instance_run_path(inst, "vsock", path);
	unlink(path);
	machine_forget(inst->machine);
	after_end(inst, reason, why.text);
}

static void on_process_end(void *arg, uint32_t events)
{
	struct machine *mc = arg;

	waitpid(mc->pid, NULL, WNOHANG); /* ours, unless it was taken over */
	loop_fd_del(mc->pid_source);
	mc->pid_source = NULL;
	close(mc->pid_fd);
	mc->pid_fd = -1;
	/* what it said last must not change what comes: the timer is the lock's from here */
	link_close(mc->link);
	mc->link = NULL;
	on_timer(mc);
}

/* ---- the beginning ---- */

static int attach(struct instance *inst, pid_t pid, int pid_fd, struct machine **ret,
		  struct err *err)
{
	struct machine *mc = calloc(1, sizeof(*mc));
	int r;

	if (!mc) {
		close(pid_fd);
		return err_set(err, ENOMEM, "out of memory");
	}
	*mc = (struct machine) { .inst = inst, .pid = pid, .pid_fd = pid_fd };
	inst->machine = mc;
	r = loop_timer_add(inst->m->loop, on_timer, mc, &mc->timer);
	if (r == 0)
		r = loop_fd_add(inst->m->loop, pid_fd, EPOLLIN, on_process_end, mc,
				&mc->pid_source);
	if (r < 0) {
		send_signal(mc, SIGKILL);
		machine_forget(mc);
		return err_set(err, -r, "instance '%s': %s", inst->name, strerror(-r));
	}
	*ret = mc;
	return 0;
}

int machine_start(struct instance *inst, struct err *err)
{
	enum instance_state before = inst->state;
	struct machine *mc;
	int pid_fd, ret = host_admit(inst->m, inst, err);
	pid_t pid;

	if (ret < 0)
		return ret;
	inst->want_running = true;
	inst->asked_stop = false;
	inst->restart_ms = 0;
	free(inst->started_spec);
	inst->started_spec = strdup(inst->spec.text);
	instance_set_state(inst, INST_STARTING, "asked to start");
	/* on the disk before there is a process, so that a daemon that starts looks for it */
	ret = store_commit(inst->m->store);
	if (ret < 0)
		err_set(err, EIO, "the store cannot be written");
	if (ret == 0)
		ret = launch(inst, &pid, &pid_fd, err);
	if (ret == 0)
		ret = attach(inst, pid, pid_fd, &mc, err);
	if (ret < 0) {
		instance_set_state(inst, before, err->text);
		return ret;
	}
	instance_write(inst); /* it has a process ID now */
	loop_timer_arm(mc->timer, clock_now_ns() + GREETING_TIMEOUT_NS);
	if (connect_to(mc, err) < 0) /* then its end or the limit tells the rest */
		log_debug("instance %s: %s", inst->name, err->text);
	return 0;
}

/* ---- pausing ---- */

static void on_paused(void *arg, const json_t *result, const char *error)
{
	struct machine *mc = arg;
	struct instance *inst = mc->inst;
	const char *state = json_string_value(json_object_get(result, "state"));

	if (result)
		instance_set_state(inst,
				   state && !strcmp(state, "paused") ? INST_PAUSED : INST_RUNNING,
				   "asked to");
	if (!inst->job)
		return;
	if (result)
		job_done_with(inst);
	else
		job_fail(inst->job, 504, "timeout", "instance '%s': %s", inst->name, error);
}

void machine_pause(struct instance *inst, bool pause)
{
	struct machine *mc = inst->machine;
	int ret = link_call(mc->link, pause ? "pause" : "resume", NULL, on_paused, mc);

	if (ret < 0)
		job_fail(inst->job, 504, "timeout",
			 "instance '%s': its machine does not answer: %s", inst->name,
			 strerror(-ret));
}

/* ---- at the daemon's start ---- */

static bool may_have_machine(enum instance_state state)
{
	return state != INST_STOPPED && state != INST_FAILED && state != INST_CREATING;
}

/* A machine that the last daemon left */
static void take_over(struct instance *inst, pid_t pid)
{
	int pid_fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0u) : -1;
	struct machine *mc;
	struct err err;
	char folder[PATH_SIZE];
	pid_t again;

	/* The lock is held now, so @pid is no other process's; else it has just gone. */
	instance_path(inst, "", folder);
	launch_probe(folder, &again);
	if (!again || pid_fd < 0 || attach(inst, pid, pid_fd, &mc, &err) < 0) {
		log_warn("instance %s: its machine ends just now", inst->name);
		machine_gone(inst);
		return;
	}
	log_info("instance %s: process %d taken over", inst->name, (int)pid);
	instance_write(inst);
	if (inst->state == INST_STOPPING || inst->state == INST_DELETING) {
		stop_step(mc);
		return;
	}
	if (inst->state == INST_RESTARTING)
		instance_set_state(inst, INST_STARTING, "found running");
	loop_timer_arm(mc->timer, clock_now_ns() + GREETING_TIMEOUT_NS);
	if (connect_to(mc, &err) < 0) {
		log_warn("instance %s: %s", inst->name, err.text);
		loop_timer_arm(mc->timer, clock_now_ns() + SECOND_NS);
	}
}

static void reconcile(struct instance *inst)
{
	char folder[PATH_SIZE];
	pid_t pid;

	instance_path(inst, "", folder);
	launch_probe(folder, &pid);
	if (pid) {
		take_over(inst, pid);
		return;
	}
	if (inst->state == INST_RESTARTING) {
		uint64_t now = time_now_ms();
		uint64_t wait_ms = inst->restart_ms > now ? inst->restart_ms - now : 0;

		if (loop_timer_add(inst->m->loop, on_restart, inst, &inst->restart_timer) == 0)
			loop_timer_arm(inst->restart_timer,
				       clock_now_ns() + 1 + min_u64(wait_ms, 60000) * 1000000);
		return;
	}
	machine_gone(inst);
}

/* What a creation or a removal that was cut short left; machines of nobody are ended. */
static void remove_strays(struct manager *m)
{
	const char *const places[][2] = { { m->paths.data, "instances" }, { m->paths.run, "i" } };
	char path[PATH_SIZE], below[PATH_SIZE + 300];
	struct dirent *e;
	struct err err;
	pid_t pid;

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		DIR *dir;

		snprintf(path, sizeof(path), "%s/%s", places[i][0], places[i][1]);
		dir = opendir(path);
		while (dir && (e = readdir(dir))) {
			if (!id_is(e->d_name) || instance_by_id(m, e->d_name))
				continue;
			snprintf(below, sizeof(below), "%s/%s", path, e->d_name);
			launch_probe(below, &pid);
			if (pid > 0)
				kill(pid, SIGKILL);
			if (paths_remove(below, &err) < 0)
				log_warn("%s", err.text);
		}
		if (dir)
			closedir(dir);
	}
}

void machines_reconcile(struct manager *m)
{
	struct instance **list = calloc(m->by_id.count + 1, sizeof(*list));
	size_t count = 0;

	for (size_t i = 0; list && i < m->by_id.count; i++) {
		struct instance *inst = m->by_id.items[i];

		if (may_have_machine(inst->state) || inst->state == INST_CREATING)
			list[count++] = inst;
	}
	/* each may remove itself from the list of all */
	for (size_t i = 0; i < count; i++) {
		if (list[i]->state == INST_CREATING)
			instance_remove(list[i]);
		else
			reconcile(list[i]);
	}
	free(list);
	remove_strays(m);
}
