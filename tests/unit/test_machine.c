/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor: a whole machine is saved in the middle of its work, and another
 * one, on the same accelerator or another, goes on where it stopped.
 *
 * usage: test-machine KERNEL [FROM TO [CPU]]
 * KERNEL is built from tests/system/cli/guest.c; FROM and TO are names of
 * accelerators (default: bt, both times); CPU is a choice as for --cpu.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <stdio.h>

#include "accel_named.h"
#include "base/util.h"
#include "loop/loop.h"
#include "monitor/machine.h"

#define LINUX_WORDS "console=ttyS0 panic=-1"

static const char *kernel, *cpu = "host";
static const struct accel_ops *from, *to;

/* A machine that prints 1, 2, 3 ..., and what is seen of it. */
struct side {
	struct loop *loop;
	struct config cfg;
	struct console *con;
	struct machine *m;
	struct loop_timer *poll;
	char path[64], disk[64];
	const char *want_text; /* or this text; may be NULL */
	unsigned want;	       /* stop once this many lines are there */
	struct vm_request end;
};

static char *console_text(struct side *s)
{
	static char text[1 << 20];
	FILE *f = fopen(s->path, "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	return text;
}

static void poll_console(void *arg)
{
	struct side *s = arg;
	unsigned lines = 0;

	for (const char *p = console_text(s); (p = strchr(p, '\n')); p++)
		lines++;
	if (lines >= s->want || (s->want_text && strstr(console_text(s), s->want_text)))
		loop_quit(s->loop, 0);
	else
		loop_timer_arm(s->poll, clock_now_ns() + 5000000);
}

static void on_stopped(void *arg, const struct vm_request *req)
{
	struct side *s = arg;

	s->end = *req;
	loop_quit(s->loop, 1);
}

static void make(struct side *s, const struct accel_ops *accel, const char *path, uint64_t memory,
		 unsigned cpus, const char *cmdline)
{
	static const char *const console[] = { "/tmp/eyot-machine-XXXXXX",
					       "/tmp/eyot-disk-XXXXXX" };
	struct machine_events events = { .stopped = on_stopped, .arg = s };
	struct err err;
	int fd;

	memset(s, 0, sizeof(*s));
	strcpy(s->path, console[0]);
	strcpy(s->disk, console[1]);
	fd = mkstemp(s->path);
	assert_true(fd >= 0);
	close(fd);
	fd = mkstemp(s->disk);
	assert_true(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	close(fd);
	assert_int_equal(loop_new(&s->loop, &err), 0);
	assert_int_equal(loop_timer_add(s->loop, poll_console, s, &s->poll), 0);
	assert_int_equal(config_init(&s->cfg, &err), 0);
	free(s->cfg.cmdline);
	s->cfg.cmdline = strdup(cmdline);
	s->cfg.kernel = strdup(path);
	s->cfg.cpus = cpus;
	assert_int_equal(cpu_model_parse(cpu, &s->cfg.cpu, &err), 0);
	s->cfg.memory_bytes = memory;
	s->cfg.disks[0].path = strdup(s->disk);
	s->cfg.disk_count = 1;
	assert_int_equal(console_open(s->loop, CONSOLE_FILE, s->path, NULL, NULL, &s->con, &err),
			 0);
	if (machine_new(&s->cfg, s->loop, accel, s->con, &events, &s->m, &err) < 0)
		fail_msg("%s", err.text);
}

static void done(struct side *s)
{
	machine_free(s->m);
	console_close(s->con);
	loop_timer_del(s->poll);
	loop_free(s->loop);
	config_done(&s->cfg);
	unlink(s->path);
	unlink(s->disk);
}

static void run_until(struct side *s, unsigned lines)
{
	s->want = lines;
	loop_timer_arm(s->poll, 1);
	if (loop_run(s->loop) != 0)
		fail_msg("the machine stopped: %s", s->end.text);
}

static void save_and_go_on(unsigned cpus)
{
	struct side a, b;
	struct snap_writer w;
	struct snap_reader r;
	struct err err;
	unsigned long n, last = 0;
	char *text, *line;
	size_t skip;

	make(&a, from, kernel, MIB(16), cpus, "numbers");
	if (machine_start(a.m, &err) < 0)
		fail_msg("%s", err.text);
	run_until(&a, 300);
	assert_int_equal(vm_pause(machine_vm(a.m), &err), 0);
	machine_flush_console(a.m);
	snap_writer_init(&w);
	if (vm_save(machine_vm(a.m), &w, &err) < 0)
		fail_msg("%s", err.text);

	/* The other machine has booted, then gets the first one's RAM and state. */
	make(&b, to, kernel, MIB(16), cpus, "say:other hang");
	assert_int_equal(machine_start(b.m, &err), 0);
	run_until(&b, 1);
	assert_int_equal(vm_pause(machine_vm(b.m), &err), 0);
	memcpy(machine_vm(b.m)->mem.slots[0].hva, machine_vm(a.m)->mem.slots[0].hva, MIB(16));
	snap_reader_init(&r, w.data, w.len);
	if (vm_load(machine_vm(b.m), &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(r.pos, r.len);
	snap_writer_done(&w);
	text = console_text(&a);
	done(&a);
	line = strrchr(text, '\n');
	while (line > text && line[-1] != '\n')
		line--;
	last = strtoul(line, NULL, 10);
	assert_true(last >= 300);

	vm_resume(machine_vm(b.m));
	skip = strlen(console_text(&b));
	run_until(&b, 300);
	assert_int_equal(vm_pause(machine_vm(b.m), &err), 0);
	machine_flush_console(b.m);
	text = console_text(&b) + skip;
	/* Its first line may be the rest of one: from the second on they count up without a gap. */
	line = strchr(text, '\n') + 1;
	for (unsigned i = 0; i < 250; i++) {
		char *end;

		n = strtoul(line, &end, 10);
		assert_int_equal(*end, '\n');
		if (i == 0)
			assert_in_range(n, last + 1, last + 2);
		else
			assert_int_equal(n, last + 1);
		last = n;
		line = end + 1;
	}
	done(&b);
}

static void test_one_cpu(void **state)
{
	save_and_go_on(1);
}

static void test_two_cpus(void **state)
{
	save_and_go_on(2);
}

/* A kernel of the guest disks or of this machine */
static void find_kernel(glob_t *g, const char *name, const char *installed)
{
	const char *home = getenv("HOME"), *cache = getenv("EYOT_CACHE");
	char pattern[4096];

	snprintf(pattern, sizeof(pattern), "%s%s/guest/*/vmlinuz-%s",
		 cache	? cache
		 : home ? home
			: "",
		 cache ? "" : "/.cache/eyot", name);
	glob(installed, 0, NULL, g);
	glob(pattern, GLOB_APPEND, NULL, g);
	if (g->gl_pathc == 0) {
		globfree(g);
		skip();
	}
}

static void run_until_text(struct side *s, const char *text)
{
	s->want = UINT32_MAX;
	s->want_text = text;
	loop_timer_arm(s->poll, 1);
	if (loop_run(s->loop) != 0)
		fail_msg("the machine stopped: %s", s->end.text);
}

/* Linux that goes on in another machine learns that there may be two of it, and renews its random
 * numbers. Debian's cloud kernel has no driver for that. */
static void test_generation_id(void **state)
{
	static const char *const cmdline =
	    "console=ttyS0 root=/dev/nowhere rootwait random.trust_cpu=on";
	struct side a, b;
	struct snap_writer w;
	struct snap_reader r;
	glob_t g = { 0 };
	struct err err;

	if (from != to)
		skip(); /* a device's affair, not the accelerators' */
	find_kernel(&g, "generic", "/boot/vmlinuz-*[0-9]-amd64");
	make(&a, from, g.gl_pathv[0], MIB(192), 1, cmdline);
	if (machine_start(a.m, &err) < 0)
		fail_msg("%s", err.text);
	run_until_text(&a, "Waiting for root device");
	assert_int_equal(vm_pause(machine_vm(a.m), &err), 0);
	snap_writer_init(&w);
	assert_int_equal(vm_save(machine_vm(a.m), &w, &err), 0);
	assert_null(strstr(console_text(&a), "virtual machine fork"));
	make(&b, to, g.gl_pathv[0], MIB(192), 1, cmdline);
	globfree(&g);
	assert_int_equal(vm_pause(machine_vm(b.m), &err), 0);
	assert_int_equal(machine_start(b.m, &err), 0);
	memcpy(machine_vm(b.m)->mem.slots[0].hva, machine_vm(a.m)->mem.slots[0].hva, MIB(192));
	done(&a);
	snap_reader_init(&r, w.data, w.len);
	if (vm_load(machine_vm(b.m), &r, &err) < 0)
		fail_msg("%s", err.text);
	snap_writer_done(&w);
	vm_resume(machine_vm(b.m));
	run_until_text(&b, "crng reseeded due to virtual machine fork");
	done(&b);
}

/* Linux, saved at some moment of its boot, comes to the same end in the other machine. */
static void test_linux(void **state)
{
	struct side a, b;
	struct snap_writer w;
	struct snap_reader r;
	glob_t g = { 0 };
	struct err err;

	find_kernel(&g, "cloud", "/boot/vmlinuz-*-cloud-amd64");
	make(&a, from, g.gl_pathv[0], MIB(128), 2, LINUX_WORDS);
	if (machine_start(a.m, &err) < 0)
		fail_msg("%s", err.text);
	run_until(&a, 120);
	assert_int_equal(vm_pause(machine_vm(a.m), &err), 0);
	snap_writer_init(&w);
	assert_int_equal(vm_save(machine_vm(a.m), &w, &err), 0);
	assert_null(strstr(console_text(&a), "Kernel panic"));

	make(&b, to, g.gl_pathv[0], MIB(128), 2, LINUX_WORDS);
	globfree(&g);
	assert_int_equal(vm_pause(machine_vm(b.m), &err), 0);
	assert_int_equal(machine_start(b.m, &err), 0);
	memcpy(machine_vm(b.m)->mem.slots[0].hva, machine_vm(a.m)->mem.slots[0].hva, MIB(128));
	done(&a);
	snap_reader_init(&r, w.data, w.len);
	if (vm_load(machine_vm(b.m), &r, &err) < 0)
		fail_msg("%s", err.text);
	snap_writer_done(&w);
	b.cfg.no_reboot = machine_vm(b.m)->no_reboot = true;
	vm_resume(machine_vm(b.m));
	b.want = UINT32_MAX;
	loop_run(b.loop);
	assert_int_equal(b.end.kind, VM_RESET); /* panic=-1 */
	machine_flush_console(b.m);
	assert_null(strstr(console_text(&b), "Linux version")); /* it did not boot anew */
	if (!strstr(console_text(&b), "Unable to mount root fs"))
		fail_msg("another end than the missing root disk: %.3000s", console_text(&b));
	assert_null(strstr(console_text(&b), "BUG:"));
	assert_null(strstr(console_text(&b), "WARNING:"));
	done(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_cpu),
		cmocka_unit_test(test_two_cpus),
		cmocka_unit_test(test_linux),
		cmocka_unit_test(test_generation_id),
	};

	if (argc != 2 && argc != 4 && argc != 5) {
		fprintf(stderr, "usage: %s KERNEL [FROM TO [CPU]]\n", argv[0]);
		return 2;
	}
	kernel = argv[1];
	if (argc == 5)
		cpu = argv[4];
	from = accel_named(argc > 2 ? argv[2] : "bt");
	to = accel_named(argc > 2 ? argv[3] : "bt");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
