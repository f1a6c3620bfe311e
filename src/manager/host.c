/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promised are CPUs and memory of instances that have a machine or are getting one, and the size to
 * which all disks may grow. It is summed up when it is wanted: 20 000 instances take some 50 us.
 */
#include "manager/host.h"

#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "base/util.h"
#include "manager/image.h"

#define HOST_MEMORY MIB(256) /* kept for the host */
#define DISK_FLOOR MIB(256)  /* of really free space: a full disk stops everything */

static bool takes_memory(const struct instance *inst)
{
	return inst->machine || inst->state == INST_STARTING;
}

static uint64_t meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];
	size_t len = strlen(key);

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':' &&
		    sscanf(line + len + 1, "%llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return KIB(kib);
}

/* Processors at work, on average since the last call */
static double busy_cpus(struct manager *m, double cpus)
{
	FILE *f = fopen("/proc/stat", "re");
	unsigned long long v[8] = { 0 }, total = 0, idle;
	double busy = 0;

	if (f && fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2],
			&v[3], &v[4], &v[5], &v[6], &v[7]) == 8) {
		for (unsigned i = 0; i < ARRAY_SIZE(v); i++)
			total += v[i];
		idle = v[3] + v[4];
		if (total > m->cpu_total)
			busy = 1 - (double)(idle - m->cpu_idle) / (double)(total - m->cpu_total);
		m->cpu_total = total;
		m->cpu_idle = idle;
	}
	if (f)
		fclose(f);
	return busy < 0 ? 0 : busy * cpus;
}

void host_measure(struct manager *m, struct host *h)
{
	struct statvfs fs = { 0 };
	double unit;

	*h = (struct host) { 0 };
	for (size_t i = 0; i < m->by_id.count; i++) {
		const struct instance *inst = m->by_id.items[i];

		h->disk.used += (double)inst->spec.disk_bytes;
		if (takes_memory(inst)) {
			h->cpus.used += inst->spec.cpus;
			h->memory.used += (double)inst->spec.memory_bytes;
		}
	}
	h->cpus.total = get_nprocs();
	h->cpus.limit = h->cpus.total * m->overcommit.cpus;
	h->memory.total = (double)meminfo("MemTotal");
	h->memory.limit = h->memory.total * m->overcommit.memory - (double)HOST_MEMORY;
	h->memory.in_use = h->memory.total - (double)meminfo("MemAvailable");
	statvfs(m->paths.data, &fs);
	unit = (double)fs.f_frsize;
	h->disk.total = (double)fs.f_blocks * unit;
	h->disk.limit = h->disk.total * m->overcommit.disk;
	h->disk.in_use = h->disk.total - (double)fs.f_bavail * unit;
}

static const char *size_text(double bytes, char out[32])
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
	unsigned i = 0;

	bytes /= 1024;
	for (; i < ARRAY_SIZE(units) - 1 && bytes >= 1024; i++)
		bytes /= 1024;
	snprintf(out, 32, bytes < 10 ? "%.2f %s" : "%.1f %s", bytes, units[i]);
	return out;
}

int host_admit(struct manager *m, const struct instance *inst, struct err *err)
{
	char a[32], b[32], c[32], d[32];
	struct host h;
	double cpus, memory;

	host_measure(m, &h);
	/* on its way already, when it is restarted */
	cpus = takes_memory(inst) ? 0 : inst->spec.cpus;
	memory = takes_memory(inst) ? 0 : (double)inst->spec.memory_bytes;
	if (h.cpus.used + cpus > h.cpus.limit)
		return err_set(
		    err, ENOSPC,
		    "no room for instance '%s': it wants %u CPUs, and of the %.0f that may "
		    "be promised (%.0f, over-commit %.4g) %.0f are",
		    inst->name, inst->spec.cpus, h.cpus.limit, h.cpus.total, m->overcommit.cpus,
		    h.cpus.used);
	if (h.memory.used + memory > h.memory.limit)
		return err_set(
		    err, ENOSPC,
		    "no room for instance '%s': it wants %s of memory, and of the %s that "
		    "may be promised (%s, over-commit %.4g, less 256 MiB for the host) %s are",
		    inst->name, size_text(memory, a), size_text(h.memory.limit, b),
		    size_text(h.memory.total, c), m->overcommit.memory,
		    size_text(h.memory.used, d));
	return 0;
}

int host_admit_disk(struct manager *m, uint64_t bytes, struct err *err)
{
	char a[32], b[32], c[32], d[32];
	struct host h;
	double left;

	host_measure(m, &h);
	left = h.disk.total - h.disk.in_use;
	if (h.disk.used + (double)bytes > h.disk.limit)
		return err_set(err, ENOSPC,
			       "no room for a disk of %s: of the %s that may be promised (%s, "
			       "over-commit %.4g) %s are",
			       size_text((double)bytes, a), size_text(h.disk.limit, b),
			       size_text(h.disk.total, c), m->overcommit.disk,
			       size_text(h.disk.used, d));
	if (left < (double)DISK_FLOOR)
		return err_set(err, ENOSPC,
			       "no room for a disk: '%s' has %s left, and %s stay free",
			       m->paths.data, size_text(left, a), size_text((double)DISK_FLOOR, b));
	return 0;
}

/* ---- texts ---- */

static void resource_text(const char *name, const struct resource *r, struct text *out)
{
	text_printf(out,
		    "\"%s\":{\"total\":%.15g,\"limit\":%.15g,\"used\":%.15g,\"free\":%.15g,"
		    "\"in_use\":%.15g,\"utilisation\":%.4f}",
		    name, r->total, r->limit, r->used, r->limit > r->used ? r->limit - r->used : 0,
		    r->in_use, r->total > 0 ? r->in_use / r->total : 0);
}

static void count_states(struct manager *m, unsigned counts[INST_STATES])
{
	memset(counts, 0, INST_STATES * sizeof(*counts));
	for (size_t i = 0; i < m->by_id.count; i++)
		counts[((struct instance *)m->by_id.items[i])->state]++;
}

void host_text(struct manager *m, struct text *out)
{
	unsigned counts[INST_STATES];
	struct utsname uts = { 0 };
	bool kvm = access("/dev/kvm", R_OK | W_OK) == 0;
	struct host h;

	uname(&uts);
	host_measure(m, &h);
	h.cpus.in_use = busy_cpus(m, h.cpus.total);
	count_states(m, counts);
	text_printf(out, "{\"name\":");
	text_string(out, uts.nodename, strlen(uts.nodename));
	text_printf(out, ",\"kernel\":");
	text_string(out, uts.release, strlen(uts.release));
	text_add(out, ",", 1);
	resource_text("cpus", &h.cpus, out);
	text_add(out, ",", 1);
	resource_text("memory_bytes", &h.memory, out);
	text_add(out, ",", 1);
	resource_text("disk_bytes", &h.disk, out);
	text_printf(out, ",\"instances\":{");
	for (unsigned i = 0; i < INST_STATES; i++)
		text_printf(out, "%s\"%s\":%u", i ? "," : "",
			    instance_state_name((enum instance_state)i), counts[i]);
	text_printf(
	    out,
	    "},\"overcommit\":{\"cpus\":%.6g,\"memory\":%.6g,\"disk\":%.6g},\"accelerators\":["
	    "{\"name\":\"kvm\",\"usable\":%s,\"reason\":\"%s\"},{\"name\":\"bt\",\"usable\":true,"
	    "\"reason\":\"translates; needs nothing of the host\"}]}",
	    m->overcommit.cpus, m->overcommit.memory, m->overcommit.disk, kvm ? "true" : "false",
	    kvm ? "/dev/kvm can be opened; each machine tries it out"
		: "/dev/kvm cannot be opened");
}

void host_project_text(struct manager *m, const char *project, uint64_t created_ms,
		       struct text *out)
{
	uint64_t cpus = 0, memory = 0, disk = 0, count = 0;

	for (size_t i = instance_behind(m, project, ""); i < m->by_name.count; i++) {
		const struct instance *inst = m->by_name.items[i];

		if (strcmp(inst->project, project))
			break;
		count++;
		disk += inst->spec.disk_bytes;
		if (takes_memory(inst)) {
			cpus += inst->spec.cpus;
			memory += inst->spec.memory_bytes;
		}
	}
	text_printf(out, "{\"name\":\"%s\",\"created_at\":", project);
	text_time(out, created_ms);
	text_printf(out,
		    ",\"instances\":%llu,\"cpus\":%llu,\"memory_bytes\":%llu,\"disk_bytes\":%llu}",
		    (unsigned long long)count, (unsigned long long)cpus, (unsigned long long)memory,
		    (unsigned long long)disk);
}

static void metric(struct text *out, const char *name, const char *help, double value)
{
	text_printf(out, "# HELP eyot_%s %s\n# TYPE eyot_%s gauge\neyot_%s %.15g\n", name, help,
		    name, name, value);
}

void host_metrics(struct manager *m, struct text *out)
{
	unsigned counts[INST_STATES];
	struct host h;

	host_measure(m, &h);
	count_states(m, counts);
	metric(out, "cpus_total", "Processors of the host.", h.cpus.total);
	metric(out, "cpus_limit", "Processors that may be promised.", h.cpus.limit);
	metric(out, "cpus_used", "Processors promised to machines that run.", h.cpus.used);
	metric(out, "memory_total_bytes", "Memory of the host.", h.memory.total);
	metric(out, "memory_limit_bytes", "Memory that may be promised.", h.memory.limit);
	metric(out, "memory_used_bytes", "Memory promised to machines that run.", h.memory.used);
	metric(out, "memory_in_use_bytes", "Memory of the host that is taken.", h.memory.in_use);
	metric(out, "disk_total_bytes", "Size of the file system with the data.", h.disk.total);
	metric(out, "disk_limit_bytes", "Disk that may be promised.", h.disk.limit);
	metric(out, "disk_used_bytes", "What all disks may grow to.", h.disk.used);
	metric(out, "disk_in_use_bytes", "What of the file system is taken.", h.disk.in_use);
	metric(out, "images", "Images.", (double)m->images.count);
	metric(out, "events_total", "Events since the store was made.", (double)m->last_event);
	text_printf(out,
		    "# HELP eyot_instances Instances by state.\n# TYPE eyot_instances gauge\n");
	for (unsigned i = 0; i < INST_STATES; i++)
		text_printf(out, "eyot_instances{state=\"%s\"} %u\n",
			    instance_state_name((enum instance_state)i), counts[i]);
}
