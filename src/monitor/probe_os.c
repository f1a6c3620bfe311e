/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Abilities are tried where that is cheap and harmless, not concluded from
 * versions: user namespaces by making one, io_uring by setting one up.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "monitor/probe.h"

/* Flags of /proc/cpuinfo that matter to guests, their speed or their isolation */
static const char *const wanted_flags[] = {
	"vmx",	      "svm",	 "ept",	     "npt",	     "sse4_2",	    "avx",
	"avx2",	      "avx512f", "bmi2",     "fma",	     "aes",	    "sha_ni",
	"xsave",      "xsaves",	 "fsgsbase", "pcid",	     "invpcid",	    "smep",
	"smap",	      "umip",	 "pku",	     "ospke",	     "cx16",	    "erms",
	"pdpe1gb",    "x2apic",	 "rdtscp",   "constant_tsc", "nonstop_tsc", "tsc_deadline_timer",
	"hypervisor",
};

/* The first line of a small file without its end; false when it cannot be read. */
static bool read_line(const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n < 0)
		return false;
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return true;
}

/* The word in brackets of "always [madvise] never" */
static json_t *chosen_word(const char *path)
{
	char text[256], *open_at, *close_at;

	if (!read_line(path, text, sizeof(text)) || !(open_at = strchr(text, '[')) ||
	    !(close_at = strchr(open_at, ']')))
		return json_null();
	*close_at = 0;
	return json_string(open_at + 1);
}

static json_t *number_in(const char *path)
{
	char text[64];

	return read_line(path, text, sizeof(text)) ? json_integer(atoll(text)) : json_null();
}

/* ---- the processor ---- */

/* Whether @flag stands as a word of its own in @flags, which begins with a space */
static bool has_flag(const char *flags, const char *flag)
{
	size_t len = strlen(flag);

	for (const char *p = flags; (p = strstr(p, flag)); p += len)
		if (p[-1] == ' ' && (p[len] == ' ' || p[len] == '\n' || !p[len]))
			return true;
	return false;
}

static json_t *cpu(void)
{
	json_t *flags = json_array();
	char line[8192], model[128] = "";
	FILE *f = fopen("/proc/cpuinfo", "re");
	unsigned a, b, c, d;
	bool pku = __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 4 & 1;

	while (f && fgets(line, sizeof(line), f) && line[0] != '\n') {
		const char *value = strchr(line, ':');

		if (value && !strncmp(line, "model name", 10))
			snprintf(model, sizeof(model), "%.*s", (int)strcspn(value + 2, "\n"),
				 value + 2);
		if (!value || strncmp(line, "flags", 5))
			continue;
		for (unsigned i = 0; i < ARRAY_SIZE(wanted_flags); i++)
			if (has_flag(value, wanted_flags[i]))
				json_array_append_new(flags, json_string(wanted_flags[i]));
	}
	if (f)
		fclose(f);
	return json_pack("{s:s, s:I, s:o, s:b}", "model", model, "count",
			 (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "features", flags, "pku", pku);
}

static json_t *nested(void)
{
	static const char *const paths[] = { "/sys/module/kvm_intel/parameters/nested",
					     "/sys/module/kvm_amd/parameters/nested" };
	unsigned a, b, c, d;
	char name[13] = "", text[8];
	json_t *guests = json_null();

	__cpuid(1, a, b, c, d);
	if (c >> 31) {
		__cpuid(0x40000000, a, b, c, d);
		memcpy(name, &b, 4);
		memcpy(name + 4, &c, 4);
		memcpy(name + 8, &d, 4);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++)
		if (read_line(paths[i], text, sizeof(text)))
			guests = json_boolean(text[0] == 'Y' || text[0] == '1');
	return json_pack("{s:o, s:o}", "host_is_guest_of",
			 name[0] ? json_string(name) : json_null(), "kvm_offers_nested", guests);
}

/* ---- the kernel ---- */

static bool user_namespace_works(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

static bool io_uring_works(void)
{
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static const char *tun_state(void)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		return "usable";
	}
	return errno == EACCES || errno == EPERM ? "forbidden" : "absent";
}

static int cgroup_version(void)
{
	struct statfs fs;

	if (statfs("/sys/fs/cgroup", &fs) < 0)
		return 0;
	if (fs.f_type == CGROUP2_SUPER_MAGIC)
		return 2;
	return access("/sys/fs/cgroup/memory", F_OK) == 0 || access("/sys/fs/cgroup/cpu", F_OK) == 0
		   ? 1
		   : 0;
}

static json_t *huge_pages(void)
{
	return json_pack(
	    "{s:o, s:o, s:o, s:o}", "transparent",
	    chosen_word("/sys/kernel/mm/transparent_hugepage/enabled"), "shared_memory",
	    chosen_word("/sys/kernel/mm/transparent_hugepage/shmem_enabled"), "reserved_2m",
	    number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "free_2m",
	    number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"));
}

int probe_os(json_t *root)
{
	json_t *os =
	    json_pack("{s:o, s:o, s:o, s:i, s:b, s:s, s:b}", "cpu", cpu(), "nested", nested(),
		      "huge_pages", huge_pages(), "cgroup", cgroup_version(), "user_namespaces",
		      user_namespace_works(), "tun", tun_state(), "io_uring", io_uring_works());
	int ret = os ? json_object_update(root, os) : -1;

	json_decref(os);
	return ret < 0 ? -ENOMEM : 0;
}
