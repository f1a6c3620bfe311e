/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux moves from machine to machine in the midst of disk I/O: fio writes and
 * verifies a disk with many requests in flight; every fraction of a second the
 * machine is saved, freed, and another one goes on with the same disks and a
 * network of the same kind, through which pings go all the time, on the next
 * accelerator of a list.
 *
 * usage: test-machine_disk SOURCE BUILD [SLOWER CPU ACCEL...]
 * SLOWER: how many times slower than a usual one this host is; CPU: more
 * for the kernel's command line; ACCEL: the accelerators, in turn (default: bt).
 * Skipped when no guest disk with fio was made yet; tests/run makes it first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <stdio.h>
#include <sys/stat.h>

#include "accel_named.h"
#include "base/util.h"
#include "loop/loop.h"
#include "monitor/machine.h"

#define MEMORY MIB(192)
#define HOPS 8
#define ACCELS_MAX 4
#define DISK_SIZE MIB(64)

static const char *source, *build, *cpu = "host";
static unsigned slower = 1;
static const struct accel_ops *accels[ACCELS_MAX];
static unsigned accel_count;

/* Passes of fio until the guest has run for 12 s (times @slower): longer than all hops take. */
static const char script[] =
    "#!/bin/sh\n"
    "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /tmp; cd /tmp\n"
    "ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0\n"
    "ping -q -i 0.05 10.0.2.2 > /tmp/ping & p=$!\n"
    "n=0; s=0; echo fio begins\n"
    "while read up rest < /proc/uptime && test ${up%.*} -lt $seconds && test $s = 0; do\n"
    "fio --name=t --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=24 --rw=randwrite "
    "--bsrange=512-64k --size=24m --loops=2 --verify=crc32c --verify_fatal=1 --randseed=$n "
    "--verify_state_save=0 --minimal >/tmp/out 2>&1; s=$?; n=$((n + 1))\n"
    "done\n"
    "test $s = 0 || cat /tmp/out\n"
    "kill -INT $p; wait $p; cat /tmp/ping\n"
    "grep -qE ' ([0-9]|10)(\\.[0-9]+)?% packet loss' /tmp/ping && echo pings came back\n"
    "ip -s link show eth0\n"
    "dmesg | grep -E 'I/O error|BUG:|WARNING:|Call Trace'\n"
    "echo fio left with $s after $n passes\n"
    "sleep 1; echo o > /proc/sysrq-trigger; sleep 100\n";

struct host {
	struct loop *loop;
	struct loop_timer *timer;
	struct config cfg;
	struct console *con;
	struct machine *m;
	struct vm_request end;
};

static char folder[4096], kernel[4200], root[4096];
static char initrd[] = "/tmp/eyot-hops-initrd-XXXXXX",
	    script_path[] = "/tmp/eyot-hops-script-XXXXXX", disk[] = "/tmp/eyot-hops-disk-XXXXXX",
	    console[] = "/tmp/eyot-hops-console-XXXXXX";

static bool console_has(const char *text_wanted)
{
	static char text[1 << 20];
	FILE *f = fopen(console, "r");
	size_t n = fread(text, 1, sizeof(text) - 1, f);

	fclose(f);
	text[n] = '\0';
	return strstr(text, text_wanted);
}

static void on_stopped(void *arg, const struct vm_request *req)
{
	struct host *h = arg;

	h->end = *req;
	loop_quit(h->loop, 1);
}

static void on_timer(void *arg)
{
	loop_quit(((struct host *)arg)->loop, 0);
}

static void make(struct host *h, unsigned hops)
{
	struct machine_events events = { .stopped = on_stopped, .arg = h };
	struct err err = { "" };
	char cmdline[400];

	memset(h, 0, sizeof(*h));
	assert_int_equal(loop_new(&h->loop, &err), 0);
	assert_int_equal(loop_timer_add(h->loop, on_timer, h, &h->timer), 0);
	assert_int_equal(config_init(&h->cfg, &err), 0);
	free(h->cfg.cmdline);
	snprintf(cmdline, sizeof(cmdline),
		 "console=ttyS0 root=/dev/vda ro init=/run/eyot/hops panic=-1 quiet "
		 "seconds=%u",
		 12 * slower);
	assert_int_equal(cpu_model_parse(cpu, &h->cfg.cpu, &err), 0);
	h->cfg.cmdline = strdup(cmdline);
	h->cfg.kernel = strdup(kernel);
	h->cfg.initrd = strdup(initrd);
	h->cfg.cpus = 2;
	h->cfg.memory_bytes = MEMORY;
	h->cfg.disks[0].path = strdup(root);
	h->cfg.disks[0].o.readonly = true;
	h->cfg.disks[1].path = strdup(disk);
	h->cfg.disk_count = 2;
	assert_int_equal(config_net_parse(&h->cfg.nets[0], "user", &err), 0);
	h->cfg.net_count = 1;
	assert_int_equal(console_open(h->loop, CONSOLE_FILE, console, NULL, NULL, &h->con, &err),
			 0);
	if (machine_new(&h->cfg, h->loop, accels[hops % accel_count], h->con, &events, &h->m,
			&err) < 0)
		fail_msg("%s", err.text);
}

static void done(struct host *h)
{
	machine_free(h->m);
	console_close(h->con);
	loop_timer_del(h->timer);
	loop_free(h->loop);
	config_done(&h->cfg);
}

/* Run for a while; true when the machine ended. */
static bool run_for(struct host *h, unsigned ms)
{
	loop_timer_arm(h->timer, clock_now_ns() + (uint64_t)ms * slower * 1000000u);
	return loop_run(h->loop) == 1;
}

/* The machine ends; another one, made anew, has its RAM and state. */
static void hop(struct host *h, unsigned hops)
{
	uint8_t *ram = malloc(MEMORY);
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };

	assert_non_null(ram);
	assert_int_equal(vm_pause(machine_vm(h->m), &err), 0);
	snap_writer_init(&w);
	if (vm_save(machine_vm(h->m), &w, &err) < 0)
		fail_msg("%s", err.text);
	memcpy(ram, machine_vm(h->m)->mem.slots[0].hva, MEMORY);
	done(h);

	make(h, hops);
	assert_int_equal(vm_pause(machine_vm(h->m), &err), 0);
	if (machine_start(h->m, &err) < 0)
		fail_msg("%s", err.text);
	memcpy(machine_vm(h->m)->mem.slots[0].hva, ram, MEMORY);
	free(ram);
	snap_reader_init(&r, w.data, w.len);
	if (vm_load(machine_vm(h->m), &r, &err) < 0)
		fail_msg("%s", err.text);
	snap_writer_done(&w);
	vm_resume(machine_vm(h->m));
}

static void make_file(char *path, const void *data, size_t len, off_t size)
{
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static bool find_guest(void)
{
	const char *home = getenv("HOME"), *cache = getenv("EYOT_CACHE");
	glob_t g = { 0 };
	struct stat st;
	time_t newest = -1;

	snprintf(folder, sizeof(folder), "%s%s/guest/test-*/modules-cloud/*-virtio_net.ko",
		 cache	? cache
		 : home ? home
			: "",
		 cache ? "" : "/.cache/eyot");
	/* tools/guest-image touches the folder that is in use; others are of older recipes */
	glob(folder, 0, NULL, &g);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		char *path = g.gl_pathv[i];

		*strrchr(path, '/') = '\0';
		*strrchr(path, '/') = '\0';
		if (stat(path, &st) < 0 || st.st_mtime <= newest)
			continue;
		newest = st.st_mtime;
		snprintf(root, sizeof(root), "%s/disk.img", path);
		snprintf(kernel, sizeof(kernel), "%s/vmlinuz-cloud", path);
	}
	if (newest >= 0)
		snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(root, '/') - root), root);
	globfree(&g);
	return newest >= 0;
}

static void test_hops(void **state)
{
	char cmd[16384];
	struct host h;
	struct err err = { "" };
	bool ended = false;
	unsigned hops = 0;

	make_file(script_path, script, sizeof(script) - 1, sizeof(script) - 1);
	make_file(initrd, "", 0, 0);
	make_file(disk, "", 0, DISK_SIZE);
	make_file(console, "", 0, 0);
	snprintf(cmd, sizeof(cmd),
		 "%s/tools/guest-initrd %s %s/modules-cloud %s/tools/guest/eyot-init hops=%s",
		 source, initrd, folder, build, script_path);
	assert_int_equal(system(cmd), 0);

	make(&h, 0);
	if (machine_start(h.m, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; !console_has("fio begins"); i++)
		assert_true(i < 1000 && !run_for(&h, 100));
	while (hops < HOPS && !ended) {
		hop(&h, ++hops);
		ended = run_for(&h, 300 + 70 * hops);
	}
	assert_true(hops >= accel_count);
	if (!ended)
		ended = run_for(&h, 100000);
	assert_true(ended);
	machine_flush_console(h.m);
	done(&h);
	if (!console_has("fio left with 0") || console_has("after 0 passes") ||
	    !console_has("pings came back") || console_has("I/O error") || console_has("BUG:"))
		fail_msg("see %s", console);
	unlink(script_path);
	unlink(initrd);
	unlink(disk);
	unlink(console);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_hops) };

	if (argc < 3 || argc > 5 + ACCELS_MAX) {
		fprintf(stderr, "usage: %s SOURCE BUILD [SLOWER CPU ACCEL...]\n", argv[0]);
		return 2;
	}
	source = argv[1];
	build = argv[2];
	if (argc > 3)
		slower = (unsigned)atoi(argv[3]);
	if (argc > 4)
		cpu = argv[4];
	for (int i = 5; i < argc; i++)
		accels[accel_count++] = accel_named(argv[i]);
	if (accel_count == 0)
		accels[accel_count++] = accel_named("bt");
	if (!find_guest()) {
		puts("no guest disk is there; tools/guest-image --flavour test makes it");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
