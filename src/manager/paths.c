/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folders: data in $XDG_DATA_HOME/eyot (~/.local/share/eyot), sockets in $XDG_RUNTIME_DIR/eyot
 * (/tmp/eyot-UID where the system has none); of the system's daemon /var/lib/eyot and /run/eyot.
 * Programs: where an environment variable says, else beside this one when it was installed, else
 * where the build left them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"
#include "manager/manager.h"

/* The socket of a machine, "/i/ID/control", must fit behind it into a socket's address. */
#define RUN_MAX 70

/* Make @path, and what is above it; the last one must be ours alone. */
static int make_folder(const char *path, struct err *err)
{
	char part[PATH_SIZE];
	struct stat st;

	snprintf(part, sizeof(part), "%s", path);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		mkdir(part, 0755);
		*p = '/';
	}
	if (mkdir(part, 0700) < 0 && errno != EEXIST)
		return err_set(err, errno, "folder '%s': %s", path, strerror(errno));
	if (lstat(part, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "folder '%s': is none", path);
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return err_set(err, EPERM, "folder '%s': others may write there", path);
	return 0;
}

static int join_in(char *out, int size, const char *dir, const char *name, struct err *err)
{
	if (snprintf(out, (size_t)size, "%s%s", dir, name) >= size)
		return err_set(err, ENAMETOOLONG, "path '%.60s...%s': too long", dir, name);
	return 0;
}

static int join(char out[PATH_SIZE], const char *dir, const char *name, struct err *err)
{
	return join_in(out, PATH_SIZE, dir, name, err);
}

static int user_folders(struct paths *p, struct err *err)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	const char *run = getenv("XDG_RUNTIME_DIR");
	struct passwd *pw = getpwuid(geteuid());
	char tmp[64];
	int ret;

	if (!home && pw)
		home = pw->pw_dir;
	if (data && *data == '/')
		ret = join_in(p->data, DIR_SIZE, data, "/eyot", err);
	else
		ret = join_in(p->data, DIR_SIZE, home ? home : "/tmp", "/.local/share/eyot", err);
	snprintf(tmp, sizeof(tmp), "/tmp/eyot-%u", (unsigned)geteuid());
	if (ret == 0)
		ret = run && *run == '/' ? join_in(p->run, DIR_SIZE, run, "/eyot", err)
					 : join_in(p->run, DIR_SIZE, tmp, "", err);
	return ret;
}

/* @built: below the folder of build output, which holds src/manager/eyotd */
static int find_program(char out[PATH_SIZE], const char *variable, const char *self,
			const char *beside, const char *built, struct err *err)
{
	const char *given = getenv(variable);
	char path[PATH_SIZE];

	if (given && *given) {
		if (!realpath(given, path))
			return err_set(err, errno, "%s '%s': %s", variable, given, strerror(errno));
		return join(out, path, "", err);
	}
	if (join(out, self, beside, err) == 0 && access(out, R_OK) == 0)
		return 0;
	return *built == '/' ? join(out, built, "", err) : join(out, self, built, err);
}

static int find_programs(struct paths *p, struct err *err)
{
	char self[PATH_SIZE];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;
	int ret;

	if (n <= 0)
		return err_set(err, errno, "/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	slash = strrchr(self, '/');
	slash[1] = '\0';
	ret = find_program(p->vmm, "EYOT_VMM", self, "eyot-vmm", "../monitor/eyot-vmm", err);
	if (ret == 0)
		ret = find_program(p->img, "EYOT_IMG", self, "eyot-img", "../img/eyot-img", err);
	if (ret == 0)
		ret = find_program(p->guest_image, "EYOT_GUEST_IMAGE", self,
				   "../libexec/eyot/guest-image", EYOT_SOURCE "/tools/guest-image",
				   err);
	if (ret == 0)
		ret = find_program(p->guest, "EYOT_GUEST", self, "../libexec/eyot/guest",
				   "../../tools/guest", err);
	return ret;
}

int paths_init(struct paths *p, bool system, const char *data, const char *run, struct err *err)
{
	static const char *const below[] = { "/instances", "/blobs" };
	char path[PATH_SIZE];
	int ret = 0;

	if (system) {
		snprintf(p->data, sizeof(p->data), "/var/lib/eyot");
		snprintf(p->run, sizeof(p->run), "/run/eyot");
	} else {
		ret = user_folders(p, err);
	}
	if (ret == 0 && data)
		ret = join_in(p->data, DIR_SIZE, data, "", err);
	if (ret == 0 && run)
		ret = join_in(p->run, DIR_SIZE, run, "", err);
	if (ret == 0 && strlen(p->run) > RUN_MAX)
		ret = err_set(err, ENAMETOOLONG,
			      "folder '%s': more than %d characters, and sockets are to be in it",
			      p->run, RUN_MAX);
	if (ret == 0)
		ret = make_folder(p->data, err);
	if (ret == 0)
		ret = make_folder(p->run, err);
	for (unsigned i = 0; ret == 0 && i < ARRAY_SIZE(below); i++) {
		ret = join(path, p->data, below[i], err);
		if (ret == 0)
			ret = make_folder(path, err);
	}
	if (ret == 0)
		ret = join(path, p->run, "/i", err);
	if (ret == 0)
		ret = make_folder(path, err);
	if (ret == 0)
		ret = join(p->socket, p->run, "/eyotd.sock", err);
	return ret < 0 ? ret : find_programs(p, err);
}

int paths_remove(const char *path, struct err *err)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int ret = 0;

	if (!dir)
		return errno == ENOENT ? 0 : err_set(err, errno, "'%s': %s", path, strerror(errno));
	while (ret == 0 && (e = readdir(dir))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd(dir), e->d_name, 0) < 0 && errno != ENOENT)
			ret = err_set(err, errno, "'%s/%s': %s", path, e->d_name, strerror(errno));
	}
	closedir(dir);
	if (ret == 0 && rmdir(path) < 0 && errno != ENOENT)
		ret = err_set(err, errno, "'%s': %s", path, strerror(errno));
	return ret;
}
