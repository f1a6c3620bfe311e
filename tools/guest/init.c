/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First program of the guest: loads what the root disk needs and hands over.
 *
 * A stock kernel has virtio and sometimes ext4 as modules. The initial RAM disk that
 * tools/guest-image builds holds this program, those modules alone (/modules, named so that
 * their sorted order is the load order) and what tools/run adds (/eyot). This program
 *   1. mounts /dev, /proc and /run;
 *   2. loads the modules;
 *   3. moves /eyot to /run/eyot, with a systemd unit when it holds a command to run or an agent;
 *   4. mounts the root disk (root=, rootfstype=, ro or rw) and becomes its /sbin/init (init=).
 *
 * It is linked statically and uses nothing but the kernel. When it cannot go on it says why
 * on the console and powers off, so that whoever waits for the guest sees an end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOT_WAIT_MS 10000
#define ROOT_POLL_US 500

struct boot_options {
	char root[128];
	char fstype[32];
	char init[128];
	unsigned long flags;
	bool wants_net; /* the command of tools/run needs the network */
};

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
	va_list ap;

	fputs("eyot-init: ", stdout);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	fputs("; powering off\n", stdout);
	fflush(stdout);
	sleep(1); /* the console's own buffer */
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void mount_at(const char *type, const char *where, unsigned long flags, const char *data)
{
	mkdir(where, 0755);
	if (mount(type, where, type, flags, data))
		fail("mount %s: %s", where, strerror(errno));
}

static void load_module(const char *name)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "/modules/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("%s: %s", path, strerror(errno));
	if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
		fail("load %s: %s", path, strerror(errno));
	close(fd);
	unlink(path);
}

static int no_dots(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void load_modules(void)
{
	struct dirent **names;
	int n = scandir("/modules", &names, no_dots, alphasort);

	for (int i = 0; i < n; i++)
		load_module(names[i]->d_name);
}

static void take(char *to, size_t size, const char *from)
{
	if (strlen(from) >= size)
		fail("kernel command line: '%s' is too long", from);
	strcpy(to, from);
}

static void read_options(struct boot_options *o)
{
	static char line[8192];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	char *save = NULL;

	if (n < 0)
		fail("/proc/cmdline: %s", strerror(errno));
	line[n] = '\0';
	close(fd);
	for (char *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (!strncmp(w, "root=", 5))
			take(o->root, sizeof(o->root), w + 5);
		else if (!strncmp(w, "rootfstype=", 11))
			take(o->fstype, sizeof(o->fstype), w + 11);
		else if (!strncmp(w, "init=", 5))
			take(o->init, sizeof(o->init), w + 5);
		else if (!strcmp(w, "eyot.net"))
			o->wants_net = true;
		else if (!strcmp(w, "ro"))
			o->flags |= MS_RDONLY;
		else if (!strcmp(w, "rw"))
			o->flags &= ~(unsigned long)MS_RDONLY;
	}
}

static void copy_file(const char *from, const char *to)
{
	static char buf[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	ssize_t n;

	if (in < 0 || out < 0 || fstat(in, &st) || fchmod(out, st.st_mode & 0777))
		fail("copy %s to %s: %s", from, to, strerror(errno));
	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, (size_t)n) != n)
			fail("copy %s to %s: %s", from, to, strerror(errno));
	close(in);
	close(out);
	unlink(from);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("write %s: %s", path, strerror(errno));
	close(fd);
}

/* The units live in /run, where systemd looks too, so the disk stays as Debian has it. */
static void add_units(bool wants_net)
{
	mkdir("/run/systemd", 0755);
	mkdir("/run/systemd/system", 0755);
	write_text("/run/systemd/system/eyot-run.target", "[Unit]\n"
							  "Description=Run one command\n"
							  "Requires=basic.target\n"
							  "Wants=eyot-run.service\n"
							  "After=basic.target\n"
							  "AllowIsolate=yes\n");
	write_text("/run/systemd/system/eyot-run.service",
		   "[Unit]\n"
		   "Description=The command of tools/run\n"
		   "After=basic.target systemd-user-sessions.service\n"
		   "SuccessAction=poweroff\n"
		   "FailureAction=poweroff\n"
		   "[Service]\n"
		   "Type=oneshot\n"
		   "ExecStart=/run/eyot/agent\n"
		   "Environment=HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8\n"
		   "Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
		   "WorkingDirectory=/root\n"
		   "TimeoutStartSec=infinity\n"
		   "TasksMax=infinity\n"
		   "LimitCORE=infinity\n");
	if (!wants_net)
		return;
	mkdir("/run/systemd/system/eyot-run.service.d", 0755);
	write_text("/run/systemd/system/eyot-run.service.d/network.conf",
		   "[Service]\n"
		   "ExecStartPre=-/lib/systemd/systemd-networkd-wait-online --any -4 "
		   "--timeout=30\n");
}

/* The agent of managed machines; systemd starts it as early as it can be of use. */
static void add_agent_unit(void)
{
	static const char wants[] = "/run/systemd/system/basic.target.wants";

	mkdir("/run/systemd", 0755);
	mkdir("/run/systemd/system", 0755);
	mkdir(wants, 0755);
	write_text("/run/systemd/system/eyot-vsock-agent.service",
		   "[Unit]\n"
		   "Description=Agent for the host's commands\n"
		   "DefaultDependencies=no\n"
		   "After=sysinit.target\n"
		   "Conflicts=shutdown.target\n"
		   "Before=shutdown.target\n"
		   "[Service]\n"
		   "ExecStartPre=-/sbin/modprobe vmw_vsock_virtio_transport\n"
		   "ExecStart=/run/eyot/vsock-agent\n"
		   "Restart=always\n"
		   "RestartSec=1\n"
		   "KillMode=process\n"
		   "TasksMax=infinity\n"
		   "LimitCORE=infinity\n");
	if (symlink("../eyot-vsock-agent.service",
		    "/run/systemd/system/basic.target.wants/eyot-vsock-agent.service"))
		fail("%s: %s", wants, strerror(errno));
}

static void move_run_files(bool wants_net)
{
	struct dirent **names;
	int n = scandir("/eyot", &names, no_dots, alphasort);

	if (n <= 0)
		return;
	mkdir("/run/eyot", 0755);
	for (int i = 0; i < n; i++) {
		char from[512], to[512];

		snprintf(from, sizeof(from), "/eyot/%s", names[i]->d_name);
		snprintf(to, sizeof(to), "/run/eyot/%s", names[i]->d_name);
		copy_file(from, to);
	}
	if (!access("/run/eyot/argv", F_OK))
		add_units(wants_net);
	if (!access("/run/eyot/vsock-agent", F_OK))
		add_agent_unit();
}

static void mount_root(const struct boot_options *o)
{
	int waited_us = 0;

	mkdir("/root", 0755);
	while (mount(o->root, "/root", o->fstype, o->flags, NULL)) {
		if (errno != ENOENT && errno != ENXIO && errno != ENODEV)
			fail("mount %s as %s: %s", o->root, o->fstype, strerror(errno));
		if (waited_us >= ROOT_WAIT_MS * 1000)
			fail("root disk %s did not come within %d s", o->root, ROOT_WAIT_MS / 1000);
		usleep(ROOT_POLL_US);
		waited_us += ROOT_POLL_US;
	}
}

int main(int argc, char **argv)
{
	struct boot_options o = {
		.root = "/dev/vda", .fstype = "ext4", .init = "/sbin/init", .flags = MS_RDONLY
	};
	static const char *const moved[] = { "/dev", "/proc", "/run" };

	if (getpid() != 1) {
		fputs("eyot-init: is the guest's first program, nothing else\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("eyot-init: start");
	mkdir("/dev", 0755);
	if (mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") && errno != EBUSY)
		fail("mount /dev: %s", strerror(errno));
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755,size=20%");
	read_options(&o);
	load_modules();
	move_run_files(o.wants_net);
	mount_root(&o);
	for (size_t i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
		char to[64];

		snprintf(to, sizeof(to), "/root%s", moved[i]);
		if (mount(moved[i], to, NULL, MS_MOVE, NULL))
			fail("move %s: %s", moved[i], strerror(errno));
	}
	unlink("/init");
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("change to the root disk: %s", strerror(errno));
	argv[0] = o.init;
	execv(o.init, argv);
	fail("%s: %s", o.init, strerror(errno));
}
