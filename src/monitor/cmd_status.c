/* SPDX-License-Identifier: Apache-2.0 */
/* `status` and `statistics`: what a machine is, and its figures. */
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include "base/util.h"
#include "monitor/command_priv.h"

#define NS_PER_MS 1000000

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

/* ---- status ---- */

static void describe_disk(const struct machine *m, unsigned i, json_t *list)
{
	const struct config_disk *d = m->disk_cfg[i];
	const struct disk *disk = m->disks[i];
	char id[MACHINE_ID_SIZE];

	json_array_append_new(list,
			      json_pack("{s:s, s:s, s:i, s:s, s:s, s:I, s:b, s:b}", "id",
					machine_disk_id(m, i, id), "kind", "disk", "slot",
					(int)m->blks[i]->pci.slot, "file", d->path, "format",
					disk_format(disk) == DISK_FORMAT_QCOW2 ? "qcow2" : "raw",
					"size_bytes", (json_int_t)disk_size(disk), "readonly",
					disk_readonly(disk), "snapshot", d->o.snapshot));
}

static void describe_net(const struct machine *m, unsigned i, json_t *list)
{
	struct virtio_net_info info;
	char id[MACHINE_ID_SIZE], mac[18];

	virtio_net_get_info(m->nets[i], &info);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", info.mac[0], info.mac[1],
		 info.mac[2], info.mac[3], info.mac[4], info.mac[5]);
	json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:s, s:s, s:s}", "id",
					      machine_net_id(m, i, id), "kind", "net", "slot",
					      (int)m->nets[i]->pci.slot, "backend",
					      net_kind_name(m->net_cfg[i]->net.kind), "mac", mac,
					      "link", info.link_up ? "up" : "down"));
}

static void describe_balloon(const struct machine *m, json_t *list)
{
	struct virtio_balloon_info info;
	json_t *o;

	virtio_balloon_get_info(m->balloon, &info);
	o = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I}", "id", "balloon", "kind", "balloon", "slot",
		      (int)m->balloon->pci.slot, "target_bytes", (json_int_t)info.target_bytes,
		      "actual_bytes", (json_int_t)info.actual_bytes, "reported_bytes",
		      (json_int_t)info.reported_bytes);
	json_array_append_new(list, o);
}

static json_t *devices(const struct machine *m)
{
	json_t *list = json_array();

	json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "id", "entropy", "kind", "entropy",
					      "slot", (int)m->rng->pci.slot));
	if (m->vcon)
		json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "id", "console", "kind",
						      "console", "slot", (int)m->vcon->pci.slot));
	if (m->vsock)
		json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I}", "id", "vsock", "kind",
						      "vsock", "slot", (int)m->vsock->pci.slot,
						      "cid", (json_int_t)m->cfg->vsock.cid));
	if (m->balloon)
		describe_balloon(m, list);
	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++)
		if (m->blks[i])
			describe_disk(m, i, list);
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
		if (m->nets[i])
			describe_net(m, i, list);
	return list;
}

void command_status(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	const struct machine *m = cmd->c.machine;
	uint64_t up = m->started_ns ? clock_now_ns() - m->started_ns : 0;

	control_reply(call,
		      json_pack("{s:s?, s:s, s:I, s:i, s:i, s:I, s:{s:s, s:s}, s:o}", "name",
				cmd->c.cfg->name, "state", command_state(cmd), "uptime_ms",
				(json_int_t)(up / NS_PER_MS), "boots", (int)m->boots, "cpus",
				(int)m->vm->cpu_count, "memory_bytes", (json_int_t)m->vm->mem.size,
				"accelerator", "name", cmd->c.accel, "reason", cmd->c.accel_reason,
				"devices", devices(m)));
}

/* ---- statistics ---- */

static uint64_t thread_time_ns(pthread_t thread)
{
	struct timespec ts;
	clockid_t clock;

	/* sandbox: loop: clock_gettime */
	if (pthread_getcpuclockid(thread, &clock) || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static json_t *vcpus(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->cpu_count; i++)
		json_array_append_new(
		    list, json_pack("{s:I, s:I}", "run_ns",
				    (json_int_t)(vm->cpus[i].has_thread
						     ? thread_time_ns(vm->cpus[i].thread)
						     : 0),
				    "returns", (json_int_t)atomic_load(&vm->cpus[i].returns)));
	return list;
}

/* The accelerator's own figures: lines of "name value". */
static json_t *accelerator(const struct vm *vm)
{
	json_t *figures = json_object();
	char text[1024] = "", name[64];
	unsigned long long value;

	if (vm->accel->stats)
		vm->accel->stats(vm->accel_vm, text, sizeof(text));
	for (const char *p = text; sscanf(p, "%63s %llu", name, &value) == 2;) {
		json_object_set_new(figures, name, number(value));
		p = strchr(p, '\n');
		if (!p)
			break;
		p++;
	}
	return figures;
}

/* What the guest said last of its memory; it is asked for more recent figures. */
static json_t *guest_memory(const struct machine *m)
{
	struct virtio_balloon_info info;
	json_t *o = json_object();

	if (!m->balloon)
		return o;
	virtio_balloon_get_info(m->balloon, &info);
	virtio_balloon_ask_stats(m->balloon);
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		if (info.known & 1u << i)
			json_object_set_new(o, virtio_balloon_stat_name(i), number(info.stats[i]));
	return o;
}

/* Resident memory of the process, and how much of the guest's RAM the host holds. */
static json_t *memory(const struct commander *cmd)
{
	unsigned long long size, resident, shared;
	json_t *o = json_object();
	char text[200];
	struct stat st;
	/* sandbox: loop: pread64 */
	ssize_t n = cmd->statm_fd < 0 ? -1 : pread(cmd->statm_fd, text, sizeof(text) - 1, 0);

	if (n > 0) {
		text[n] = '\0';
		if (sscanf(text, "%llu %llu %llu", &size, &resident, &shared) == 3) {
			json_object_set_new(o, "resident_bytes", number(resident * PAGE_SIZE));
			json_object_set_new(o, "shared_bytes", number(shared * PAGE_SIZE));
		}
	}
	/* sandbox: loop: newfstatat(*, *, *, AT_EMPTY_PATH) */
	if (cmd->c.machine->vm->mem.fd >= 0 && fstat(cmd->c.machine->vm->mem.fd, &st) == 0)
		json_object_set_new(o, "guest_bytes", number((uint64_t)st.st_blocks * 512));
	return o;
}

static json_t *disk_figures(const struct machine *m)
{
	static const char *const names[DISK_OPS] = { "read", "write", "flush", "discard",
						     "write_zeroes" };
	json_t *list = json_array();

	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++) {
		char id[MACHINE_ID_SIZE];
		struct disk_stats s;
		json_t *o;

		if (!m->blks[i])
			continue;
		disk_get_stats(m->disks[i], &s);
		o = json_pack("{s:s, s:I}", "id", machine_disk_id(m, i, id), "errors",
			      (json_int_t)s.errors);
		for (unsigned op = 0; op < DISK_OPS; op++)
			json_object_set_new(o, names[op],
					    json_pack("{s:I, s:I, s:I}", "requests",
						      (json_int_t)s.count[op], "bytes",
						      (json_int_t)s.bytes[op], "time_ns",
						      (json_int_t)s.time_ns[op]));
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *net_figures(const struct machine *m)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++) {
		struct virtio_net_info n;
		char id[MACHINE_ID_SIZE];

		if (!m->nets[i])
			continue;
		virtio_net_get_info(m->nets[i], &n);
		json_array_append_new(
		    list, json_pack("{s:s, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}}", "id",
				    machine_net_id(m, i, id), "received", "packets",
				    (json_int_t)n.rx_packets, "bytes", (json_int_t)n.rx_bytes,
				    "dropped", (json_int_t)n.rx_dropped, "sent", "packets",
				    (json_int_t)n.tx_packets, "bytes", (json_int_t)n.tx_bytes,
				    "dropped", (json_int_t)n.tx_dropped));
	}
	return list;
}

void command_statistics(struct control_call *call, void *opaque)
{
	struct commander *cmd = opaque;
	struct machine *m = cmd->c.machine;

	control_reply(call, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "vcpus", vcpus(m->vm),
				      "accelerator", accelerator(m->vm), "disks", disk_figures(m),
				      "nets", net_figures(m), "memory", memory(cmd), "guest_memory",
				      guest_memory(m)));
}
