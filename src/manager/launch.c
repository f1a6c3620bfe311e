/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of a machine's process.
 *
 * 1. The report is locked here, then handed to the child; our own copy is closed at once. So from
 *    the lock on there is never a moment in which another start could succeed, and when the child
 *    is gone, whatever happened to us, the lock is too.
 * 2. The child writes its process ID there before it becomes eyot-vmm.
 * 3. The control socket listens before the child runs: to connect is to wait for its greeting.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/sock.h"
#include "base/util.h"
#include "manager/archive.h"
#include "manager/image.h"
#include "manager/machine.h"

#define ARGS_MAX 160
#define REPORT_FD 3
#define CONTROL_FD 4

struct args {
	char *v[ARGS_MAX + 1];
	unsigned count;
	bool failed;
};

static void add(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->count == ARGS_MAX) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->count], fmt, ap) < 0)
		a->failed = true;
	else
		a->count++;
	va_end(ap);
	a->v[a->count] = NULL;
}

static void args_done(struct args *a)
{
	for (unsigned i = 0; i < a->count; i++)
		free(a->v[i]);
}

/* Commas in values are written twice. */
static const char *doubled(const char *path, char out[2 * PATH_SIZE])
{
	char *to = out;

	for (; *path; path++) {
		*to++ = *path;
		if (*path == ',')
			*to++ = ',';
	}
	*to = '\0';
	return out;
}

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* The address depends on the instance alone, not on its name. */
static void add_nics(struct args *a, const struct instance *inst, const json_t *nics)
{
	json_t *nic, *f;
	size_t i, k;

	json_array_foreach((json_t *)nics, i, nic)
	{
		struct text t = { 0 };

		text_printf(&t, "user,mac=02:%.2s:%.2s:%.2s:%.2s:%02zx", inst->id, inst->id + 2,
			    inst->id + 4, inst->id + 6, i);
		json_array_foreach(json_object_get(nic, "forwards"), k, f) text_printf(
		    &t, ",forward=%s:%s:%lld:%lld", text_of(f, "protocol"),
		    text_of(f, "host_address"), json_integer_value(json_object_get(f, "host_port")),
		    json_integer_value(json_object_get(f, "guest_port")));
		add(a, "--net");
		add(a, "%s", t.failed ? "" : t.data);
		text_done(&t);
	}
}

static void add_shares(struct args *a, const json_t *shares)
{
	char path[2 * PATH_SIZE];
	json_t *share;
	size_t i;

	json_array_foreach((json_t *)shares, i, share)
	{
		add(a, "--share");
		add(a, "tag=%s,path=%s%s", text_of(share, "tag"),
		    doubled(text_of(share, "path"), path),
		    json_is_true(json_object_get(share, "read_only")) ? ",readonly=on" : "");
	}
}

static void make_args(struct args *a, const struct instance *inst, const json_t *spec)
{
	struct manager *m = inst->m;
	const struct image *img = inst->image;
	const struct image_part *parts = img->parts;
	char path[PATH_SIZE], twice[2 * PATH_SIZE];
	const char *cmdline = text_of(spec, "cmdline");

	add(a, "%s", m->paths.vmm);
	add(a, "--name=%s", inst->id);
	add(a, "--report=fd:%d", REPORT_FD);
	add(a, "--control=fd:%d", CONTROL_FD);
	add(a, "--accel=%s", text_of(spec, "accelerator"));
	add(a, "--cpus=%u", inst->spec.cpus);
	add(a, "--memory=%llu", (unsigned long long)inst->spec.memory_bytes);
	image_part_path(m, &parts[PART_KERNEL], path);
	add(a, "--kernel=%s", path);
	if (img->agent) {
		instance_path(inst, "initrd", path);
		add(a, "--initrd=%s", path);
	} else if (*parts[PART_INITRD].digest) {
		image_part_path(m, &parts[PART_INITRD], path);
		add(a, "--initrd=%s", path);
	}
	if (img->disk_bytes) {
		instance_path(inst, "root.qcow2", path);
		add(a, "--disk=%s,format=qcow2,id=root", doubled(path, twice));
	}
	add_nics(a, inst, json_object_get(spec, "nics"));
	add_shares(a, json_object_get(spec, "shares"));
	instance_run_path(inst, "vsock", path);
	add(a, "--vsock=cid=3,path=%s", doubled(path, twice));
	instance_path(inst, "console.log", path);
	add(a, "--console=file:%s", path);
	add(a, "--cmdline=%s%s%s%s%s", img->cmdline, img->agent ? " systemd.hostname=" : "",
	    img->agent ? inst->name : "", *cmdline ? " " : "", cmdline);
}

/* What the agent mounts: TAG TAB PATH TAB ro or rw */
static void add_mounts(struct text *archive, const json_t *shares)
{
	struct text t = { 0 };
	json_t *share;
	size_t i;

	json_array_foreach((json_t *)shares, i, share) if (text_of(share, "guest_path"))
	    text_printf(&t, "%s\t%s\t%s\n", text_of(share, "tag"), text_of(share, "guest_path"),
			json_is_true(json_object_get(share, "read_only")) ? "ro" : "rw");
	if (t.len)
		archive_bytes(archive, "eyot/mounts", false, t.data, t.len);
	text_done(&t);
}

/* The image's initial RAM disk with ours behind it */
static int write_initrd(const struct instance *inst, const json_t *spec, struct err *err)
{
	char from[PATH_SIZE], to[PATH_SIZE], agent[PATH_SIZE + 32], buf[65536];
	struct text t = { 0 };
	int in, out, ret;
	ssize_t n;

	snprintf(agent, sizeof(agent), "%s/eyot-vsock-agent", inst->m->paths.guest);
	archive_folder(&t, "eyot");
	ret = archive_file(&t, "eyot/vsock-agent", true, agent, err);
	add_mounts(&t, json_object_get(spec, "shares"));
	archive_end(&t);
	image_part_path(inst->m, &inst->image->parts[PART_INITRD], from);
	instance_path(inst, "initrd", to);
	in = open(from, O_RDONLY | O_CLOEXEC);
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (ret == 0 && (in < 0 || out < 0))
		ret = err_set(err, errno, "'%s': %s", in < 0 ? from : to, strerror(errno));
	while (ret == 0 && (n = read(in, buf, sizeof(buf))) != 0)
		if (n < 0 || write(out, buf, (size_t)n) != n)
			ret = err_set(err, errno, "'%s': %s", to, strerror(errno));
	if (ret == 0 && (t.failed || write(out, t.data, t.len) != (ssize_t)t.len))
		ret = err_set(err, errno, "'%s': %s", to, strerror(errno));
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	text_done(&t);
	return ret;
}

static int open_report(const struct instance *inst, struct err *err)
{
	char path[PATH_SIZE];
	int fd;

	instance_path(inst, "report", path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0600);
	if (fd < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int e = errno == EWOULDBLOCK ? EBUSY : errno;

		close(fd);
		return err_set(err, e, "instance '%s': %s", inst->name,
			       e == EBUSY ? "its last machine still runs" : strerror(e));
	}
	if (ftruncate(fd, 0) < 0) {
		close(fd);
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	}
	return fd;
}

static _Noreturn void become_monitor(char **argv, int report, int control, int log)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dprintf(report, "%d\n", (int)getpid());
	/* out of each other's way first */
	report = fcntl(report, F_DUPFD, 10);
	control = fcntl(control, F_DUPFD, 10);
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	if (dup2(report, REPORT_FD) == REPORT_FD && dup2(control, CONTROL_FD) == CONTROL_FD) {
		syscall(SYS_close_range, CONTROL_FD + 1, ~0u, 0u);
		execv(argv[0], argv);
	}
	dprintf(REPORT_FD, "{\"reason\":\"failed\",\"text\":\"eyot-vmm: %s\",\"status\":8}\n",
		strerror(errno));
	_exit(8);
}

static int spawn(struct instance *inst, struct args *a, int report, int control, pid_t *ret_pid,
		 int *ret_pid_fd, struct err *err)
{
	char path[PATH_SIZE];
	int log, ret = 0;
	pid_t pid;

	instance_path(inst, "monitor.log", path);
	log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (log < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		become_monitor(a->v, report, control, log);
	if (pid < 0)
		ret = err_set(err, errno, "fork: %s", strerror(errno));
	close(log);
	if (ret == 0) {
		*ret_pid_fd = (int)syscall(SYS_pidfd_open, pid, 0u);
		*ret_pid = pid;
		if (*ret_pid_fd < 0) {
			ret = err_set(err, errno, "pidfd: %s", strerror(errno));
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
	}
	return ret;
}

int launch(struct instance *inst, pid_t *ret_pid, int *ret_pid_fd, struct err *err)
{
	json_t *spec = json_loads(inst->spec.text, 0, NULL);
	char path[PATH_SIZE];
	struct args a = { 0 };
	int report, control = -1, ret;

	report = ret = open_report(inst, err);
	if (ret < 0) {
		json_decref(spec);
		return ret;
	}
	ret = 0;
	if (inst->image->agent)
		ret = write_initrd(inst, spec, err);
	if (ret == 0) {
		instance_run_path(inst, "", path);
		mkdir(path, 0700);
		instance_run_path(inst, "control", path);
		unlink(path); /* nobody listens there: the lock is ours */
		control = ret = unix_listen(path, 32, err);
	}
	if (ret >= 0) {
		make_args(&a, inst, spec);
		ret = a.failed ? err_set(err, ENOMEM, "out of memory")
			       : spawn(inst, &a, report, control, ret_pid, ret_pid_fd, err);
	}
	args_done(&a);
	if (control >= 0)
		close(control);
	close(report);
	json_decref(spec);
	return ret;
}

void launch_probe(const char *folder, pid_t *ret_pid)
{
	char path[PATH_SIZE + 16], line[32];
	int fd;
	ssize_t n;

	*ret_pid = 0;
	snprintf(path, sizeof(path), "%s/report", folder);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		n = pread(fd, line, sizeof(line) - 1, 0);
		line[n > 0 ? n : 0] = '\0';
		*ret_pid = (pid_t)strtol(line, NULL, 10);
		if (*ret_pid <= 0)
			*ret_pid = -1; /* it is about to write it */
	}
	close(fd);
}
