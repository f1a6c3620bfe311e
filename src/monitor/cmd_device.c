/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands on disks and network cards. A removal is answered when the guest has
 * released the device, or when its time is up; the guest may still release it
 * later, which an event tells.
 */
#include <stdio.h>

#include "base/util.h"
#include "disk/nbd_uri.h"
#include "monitor/command_priv.h"
#include "monitor/config_disk.h"

#define REMOVE_TIMEOUT_MS 30000
#define NS_PER_MS 1000000ull

/* ---- adding ---- */

static void added(struct control_call *call, struct commander *cmd, const char *kind,
		  const char *id)
{
	unsigned slot = machine_find(cmd->c.machine, id);

	commander_event(cmd, "device-added",
			json_pack("{s:s, s:s, s:i}", "id", id, "kind", kind, "slot", (int)slot));
	control_reply(call, json_pack("{s:s, s:i}", "id", id, "slot", (int)slot));
}

/* Inside the sandbox there are no files, and no system call to make a ring of io_uring. */
static int give_image(struct config_disk *d, int fd, bool sandbox, struct err *err)
{
	struct disk_options *o = &d->o;

	if (nbd_uri_is(d->path))
		return sandbox ? err_set(err, EOPNOTSUPP,
					 "disk-add: the sandbox lets no process be made for a "
					 "remote disk while the guest runs; --sandbox off does")
			       : 0;
	o->has_fd = fd >= 0;
	o->fd = fd;
	if (sandbox)
		o->engine = AIO_THREADS;
	if (sandbox && fd < 0)
		return err_set(err, EACCES,
			       "disk-add: the sandbox opens no files: send the image's descriptor "
			       "along, as eyot-vmm ctl does");
	return 0;
}

void command_disk_add(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct config *scratch = calloc(1, sizeof(*scratch));
	struct err err = { .text = "out of memory" };
	char id[MACHINE_ID_SIZE];
	int fd = control_take_fd(call), ret = -ENOMEM;

	if (scratch)
		ret = config_disk_json(scratch, "disk-add",
				       json_object_get(control_args(call), "disk"), &err);
	if (ret == 0)
		ret = give_image(&scratch->disks[0], fd, cmd->c.cfg->sandbox, &err);
	if (ret == 0)
		ret = machine_add_disk(cmd->c.machine, &scratch->disks[0], id, &err);
	if (scratch)
		config_disks_drop(scratch);
	free(scratch);
	if (fd >= 0)
		close(fd);
	if (ret < 0)
		control_fail(call, ret, &err);
	else
		added(call, cmd, "disk", id);
}

/* Numbers of descriptors are the client's: what it sent along takes their place, in order. */
static int give_fds(struct config_net *net, struct control_call *call, bool sandbox,
		    struct err *err)
{
	unsigned count = 0;
	int fd;

	while ((fd = control_take_fd(call)) >= 0) {
		if (count < net->net.fd_count)
			net->net.fds[count] = fd;
		else
			close(fd);
		count++;
	}
	if (count != net->net.fd_count) {
		for (unsigned i = 0; i < count && i < net->net.fd_count; i++)
			close(net->net.fds[i]);
		net->net.fd_count = 0;
		return err_set(err, EINVAL,
			       "net-add: as many descriptors must come along as there are fd=");
	}
	if (sandbox && !count)
		return err_set(err, EOPNOTSUPP,
			       "net-add: the sandbox lets no network be made while the guest runs, "
			       "but takes an open one (tap,fd=N); --sandbox off does");
	return 0;
}

void command_net_add(struct control_call *call, void *opaque)
{
	json_t *value = json_object_get(control_args(call), "net");
	struct commander *cmd = opaque;
	char id[MACHINE_ID_SIZE];
	struct config_net net;
	struct err err;
	int ret;

	ret = json_is_string(value) ? config_net_parse(&net, json_string_value(value), &err)
				    : config_net_json(&net, value, &err);
	if (ret == 0) {
		ret = give_fds(&net, call, cmd->c.cfg->sandbox, &err);
		if (ret == 0)
			ret = machine_add_net(cmd->c.machine, &net, id, &err);
		config_net_done(&net);
	}
	if (ret < 0)
		control_fail(call, ret, &err);
	else
		added(call, cmd, "net", id);
}

/* ---- finding ---- */

/* The slot that the call's id names, of a disk or a card or, with NULL, of either; 0: answered. */
static unsigned find(struct control_call *call, struct commander *cmd, const char *kind)
{
	const char *id = control_get_text(control_args(call), "id", "");
	unsigned slot = machine_find(cmd->c.machine, id);
	struct err err;
	int ret = 0;

	if (!slot)
		ret =
		    err_set(&err, ENOENT, "device '%s': there is no disk or card of that name", id);
	else if (kind && !strcmp(kind, "disk") != (slot < SLOT_NETS))
		ret = err_set(&err, EINVAL, "device '%s': is not a %s", id, kind);
	if (ret == 0)
		return slot;
	control_fail(call, ret, &err);
	return 0;
}

/* ---- removing ---- */

static void removal_end(struct removal *r)
{
	loop_timer_del(r->timer);
	*r = (struct removal) { 0 };
}

static void removal_timeout(void *arg)
{
	struct removal *r = arg;
	struct control_call *call = r->call;
	struct err err;

	err_set(&err, ETIMEDOUT,
		"device '%s': the guest did not release it within %llu ms; force=on takes it away",
		r->id, (unsigned long long)r->timeout_ms);
	machine_give_up_removal(r->cmd->c.machine, (unsigned)(r - r->cmd->removals));
	removal_end(r);
	control_fail(call, -ETIMEDOUT, &err);
}

void command_device_remove(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	unsigned slot = find(call, cmd, NULL);
	struct removal *r = &cmd->removals[slot];
	struct err err;
	int ret;

	if (!slot)
		return;
	if (r->call) {
		err_set(&err, EBUSY, "device '%s': is being removed", r->id);
		control_fail(call, -EBUSY, &err);
		return;
	}
	ret = loop_timer_add(cmd->c.loop, removal_timeout, r, &r->timer);
	if (ret < 0) {
		err_set(&err, -ret, "timer: %s", strerror(-ret));
		control_fail(call, ret, &err);
		return;
	}
	r->cmd = cmd;
	r->call = call;
	snprintf(r->id, sizeof(r->id), "%s", control_get_text(control_args(call), "id", ""));
	if (control_get_flag(control_args(call), "force", false)) {
		machine_remove_now(cmd->c.machine, slot);
		return;
	}
	r->timeout_ms = control_get_number(control_args(call), "timeout_ms", REMOVE_TIMEOUT_MS);
	loop_timer_arm(r->timer, clock_now_ns() + r->timeout_ms * NS_PER_MS);
	machine_ask_removal(cmd->c.machine, slot);
}

void commander_removed(struct commander *cmd, unsigned slot, const char *id)
{
	struct control_call *call;

	if (!cmd)
		return;
	call = cmd->removals[slot].call;
	commander_event(cmd, "device-removed",
			json_pack("{s:s, s:i}", "id", id, "slot", (int)slot));
	if (!call)
		return;
	removal_end(&cmd->removals[slot]);
	control_reply(call, json_pack("{s:s}", "id", id));
}

void command_removals_done(struct commander *cmd)
{
	for (unsigned i = 0; i < PCI_SLOT_COUNT; i++)
		if (cmd->removals[i].call)
			removal_end(&cmd->removals[i]); /* the server fails the call */
}

/* ---- changing ---- */

/* vCPUs parked for a change; false: the call was answered. */
static bool park_for(struct control_call *call, struct machine *m)
{
	struct err err;
	int ret = vm_park(m->vm, &err);

	if (ret < 0)
		control_fail(call, ret, &err);
	return ret == 0;
}

void command_disk_resize(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct machine *m = cmd->c.machine;
	unsigned slot = find(call, cmd, "disk"), i = slot - SLOT_DISKS;
	char id[MACHINE_ID_SIZE];
	struct err err;
	int ret;

	if (!slot || !park_for(call, m))
		return;
	ret = disk_grow(m->disks[i], control_get_number(control_args(call), "size", 0), &err);
	vm_resume(m->vm);
	if (ret < 0) {
		err_prefix(&err, ret, "disk '%s'", machine_disk_id(m, i, id));
		control_fail(call, ret, &err);
		return;
	}
	virtio_blk_resized(m->blks[i]);
	control_reply(call, json_pack("{s:I}", "size_bytes", (json_int_t)disk_size(m->disks[i])));
}

void command_disk_limits(struct control_call *call, void *opaque)
{
	const json_t *args = control_args(call);
	struct disk_limits limits = { .iops = control_get_number(args, "iops", 0),
				      .bps = control_get_number(args, "bps", 0),
				      .burst_s = (unsigned)control_get_number(args, "burst", 0) };
	struct commander *cmd = opaque;
	struct machine *m = cmd->c.machine;
	unsigned slot = find(call, cmd, "disk");
	struct err err;
	int ret;

	if (!slot || !park_for(call, m))
		return;
	ret = disk_set_limits(m->disks[slot - SLOT_DISKS], &limits, &err);
	vm_resume(m->vm);
	if (ret < 0)
		control_fail(call, ret, &err);
	else
		control_reply(call, NULL);
}

void command_net_limits(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct machine *m = cmd->c.machine;
	unsigned slot = find(call, cmd, "net");

	if (!slot || !park_for(call, m))
		return;
	virtio_net_set_rate(m->nets[slot - SLOT_NETS],
			    control_get_number(control_args(call), "rate", 0));
	vm_resume(m->vm);
	control_reply(call, NULL);
}

void command_net_link(struct control_call *call, void *opaque)
{
	bool up = !strcmp(control_get_text(control_args(call), "link", ""), "up");
	struct commander *cmd = opaque;
	struct virtio_net_info info;
	unsigned slot = find(call, cmd, "net");
	struct virtio_dev *dev;

	if (!slot)
		return;
	dev = cmd->c.machine->nets[slot - SLOT_NETS];
	virtio_net_set_link(dev, up);
	virtio_net_get_info(dev, &info);
	/* Up needs the network's side, too: a switch that has gone keeps it down. */
	control_reply(call, json_pack("{s:s}", "link", info.link_up ? "up" : "down"));
}
