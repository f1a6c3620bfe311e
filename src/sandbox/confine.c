/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In this order, because each step needs what a later one takes: namespaces
 * (with the user namespace's privileges), root, capabilities, limits.
 *
 * Not limited: the size of files, since images grow and captures have no end;
 * the number of processes, since the kernel's own workers of io_uring count
 * and the filters forbid new processes anyway.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "sandbox/sandbox.h"
#include "sandbox/sandbox_priv.h"

#define FILES_MAX 4096

/* What could not be done, for one line */
struct notes {
	char text[300];
};

static void note(struct notes *n, const char *what, int errnum)
{
	size_t len = strlen(n->text);

	snprintf(n->text + len, sizeof(n->text) - len, "%sno %s (%s)", len ? "; " : "", what,
		 strerror(errnum));
}

static int write_text(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int sandbox_map_ids(uid_t uid, gid_t gid)
{
	char text[64];
	int ret = write_text("/proc/self/setgroups", "deny");

	if (ret == -ENOENT) /* a kernel without it has no need of it */
		ret = 0;
	snprintf(text, sizeof(text), "%u %u 1\n", uid, uid);
	if (ret == 0)
		ret = write_text("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "%u %u 1\n", gid, gid);
	return ret < 0 ? ret : write_text("/proc/self/gid_map", text);
}

bool sandbox_has_cap(unsigned cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &head, data) < 0)
		return false;
	return data[cap / 32].effective >> cap % 32 & 1;
}

bool sandbox_has_any_cap(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	return syscall(SYS_capget, &head, data) == 0 && (data[0].effective | data[1].effective);
}

/* 0 when the mount namespace is our own, to change as we like. */
static int new_namespaces(bool host_network, struct notes *n)
{
	int flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (host_network ? 0 : CLONE_NEWNET);
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int ret;

	if (unshare(flags | CLONE_NEWUSER) == 0) {
		ret = sandbox_map_ids(uid, gid);
		if (ret < 0)
			note(n, "own user IDs", -ret);
		return 0;
	}
	ret = -errno;
	if (sandbox_has_cap(CAP_SYS_ADMIN) && unshare(flags) == 0) {
		note(n, "user namespace", -ret);
		return 0;
	}
	note(n, "namespaces and empty root", -ret);
	return ret;
}

/* A file or folder of the old root in the new one, at the same place. */
static int show(const char *path)
{
	char at[PATH_MAX], *slash;
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return -errno;

	if (snprintf(at, sizeof(at), ".%s", path) >= (int)sizeof(at))
		return -ENAMETOOLONG;
	for (slash = strchr(at + 2, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(at, 0755) < 0 && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(at, 0755) < 0 && errno != EEXIST)
			return -errno;
	} else {
		fd = open(at, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
		if (fd < 0)
			return -errno;
		close(fd);
	}
	/* Recursive: what is mounted below may not be uncovered by us. */
	if (mount(path, at, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -errno;
	return 0;
}

/*
 * The new root is mounted on /proc, a folder that every system has. pivot_root() onto itself stacks
 * the old root upon the new one, from where it is taken off.
 */
static int empty_root(const char *const *shown)
{
	static const char at[] = "/proc";

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", at, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "size=256k,nr_inodes=64,mode=0555") < 0 ||
	    chdir(at) < 0)
		return -errno;
	/* Without a file its reader does without: on some hosts it is not there. */
	for (; shown && *shown; shown++)
		show(*shown);
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
	    chdir("/") < 0 ||
	    mount(NULL, "/", NULL,
		  MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return -errno;
	return 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	/* Without the right to, there is nothing that could be had again: no_new_privs sees to
	 * that. */
	for (unsigned cap = 0; cap <= 63; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			break;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return syscall(SYS_capset, &head, none) < 0 ? -errno : 0;
}

static void limit(int resource, rlim_t max)
{
	struct rlimit r;

	if (getrlimit(resource, &r) < 0)
		return;
	r.rlim_max = r.rlim_max < max ? r.rlim_max : max;
	r.rlim_cur = r.rlim_cur < r.rlim_max ? r.rlim_cur : r.rlim_max;
	setrlimit(resource, &r);
}

int sandbox_confine(const struct confinement *c, struct err *err)
{
	struct notes n = { "" };
	int ret = new_namespaces(c->host_network, &n);

	if (ret == 0) {
		ret = empty_root(c->shown);
		if (ret < 0)
			note(&n, "empty root", -ret);
	}
	ret = drop_capabilities();
	if (ret == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		ret = -errno;
	if (ret < 0)
		return err_set(err, -ret, "sandbox: cannot give up privileges: %s", strerror(-ret));
	if (!c->many_files)
		limit(RLIMIT_NOFILE, FILES_MAX);
	limit(RLIMIT_CORE, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	/* The changes of credentials have undone what keeper_start() asked for. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (n.text[0])
		log_info("sandbox: %s: this host refuses; the rest is applied", n.text);
	return 0;
}
