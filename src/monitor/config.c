/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings have one table: the name of the option, which is also the key in
 * JSON with '_' for '-', and the function that checks and stores its text.
 *
 * The file of --config is read first, so the command line wins wherever it
 * stands; its --disk options replace the disks of the file, --net likewise.
 */
#include "monitor/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/parse.h"
#include "base/util.h"
#include "monitor/config_dev.h"
#include "monitor/config_disk.h"
#include "monitor/report.h"
#include "vm/mem.h"
#include "vm/vm.h"

#define CONFIG_FILE_MAX MIB(1)
#define MEMORY_MIN MIB(2)
#define MEMORY_MAX GIB(64)
/* The runtimes of sanitizers make system calls of their own, on no list of ours. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_DEFAULT false
#else
#define SANDBOX_DEFAULT true
#endif

static int set_string(char **where, const char *what, const char *text, struct err *err)
{
	char *copy;

	if (!*text)
		return err_set(err, EINVAL, "%s '': must not be empty", what);
	copy = strdup(text);
	if (!copy)
		return err_set(err, ENOMEM, "%s '%s': out of memory", what, text);
	free(*where);
	*where = copy;
	return 0;
}

static int set_accel(struct config *cfg, const char *text, struct err *err)
{
	if (strcmp(text, "auto") && strcmp(text, "bt") && strcmp(text, "kvm"))
		return err_set(err, EINVAL, "accel '%s': not one of auto, bt, kvm", text);
	return set_string(&cfg->accel, "accel", text, err);
}

static int set_cpus(struct config *cfg, const char *text, struct err *err)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || n < 1 || n > VM_CPUS_MAX)
		return err_set(err, EINVAL, "cpus '%s': not a number from 1 to %u", text,
			       VM_CPUS_MAX);
	cfg->cpus = (unsigned)n;
	return 0;
}

static int set_cpu(struct config *cfg, const char *text, struct err *err)
{
	return cpu_model_parse(text, &cfg->cpu, err);
}

static int set_memory(struct config *cfg, const char *text, struct err *err)
{
	uint64_t n;

	if (size_parse(text, &n) == -EINVAL)
		return err_set(err, EINVAL, "memory '%s': not a size such as 512M or 2G", text);
	if (size_parse(text, &n) < 0 || n < MEMORY_MIN || n > MEMORY_MAX)
		return err_set(err, EINVAL, "memory '%s': not from 2M to 64G", text);
	if (n % PAGE_SIZE)
		return err_set(err, EINVAL, "memory '%s': not a multiple of 4K", text);
	cfg->memory_bytes = n;
	return 0;
}

static int set_kernel(struct config *cfg, const char *text, struct err *err)
{
	return set_string(&cfg->kernel, "kernel", text, err);
}

static int set_initrd(struct config *cfg, const char *text, struct err *err)
{
	return set_string(&cfg->initrd, "initrd", text, err);
}

static int set_cmdline(struct config *cfg, const char *text, struct err *err)
{
	char *copy = strdup(text);

	if (!copy)
		return err_set(err, ENOMEM, "cmdline: out of memory");
	free(cfg->cmdline);
	cfg->cmdline = copy;
	return 0;
}

static int set_net(struct config *cfg, const char *text, struct err *err)
{
	int ret;

	if (cfg->net_count == CONFIG_NETS_MAX)
		return err_set(err, EINVAL, "net '%s': more than %u cards", text, CONFIG_NETS_MAX);
	ret = config_net_parse(&cfg->nets[cfg->net_count], text, err);
	if (ret == 0)
		cfg->net_count++;
	return ret;
}

static int set_console(struct config *cfg, const char *text, struct err *err)
{
	enum console_kind kind;
	const char *path = NULL;

	if (!strcmp(text, "stdio")) {
		kind = CONSOLE_STDIO;
	} else if (!strcmp(text, "pty")) {
		kind = CONSOLE_PTY;
	} else if (!strncmp(text, "file:", 5) && text[5]) {
		kind = CONSOLE_FILE;
		path = text + 5;
	} else if (!strncmp(text, "unix:", 5) && text[5]) {
		kind = CONSOLE_UNIX;
		path = text + 5;
	} else {
		return err_set(err, EINVAL,
			       "console '%s': not one of stdio, pty, file:PATH, unix:PATH", text);
	}
	cfg->console = kind;
	return path ? set_string(&cfg->console_path, "console", path, err) : 0;
}

int config_id_check(const char *text)
{
	size_t len = strlen(text);

	for (const char *p = text; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return -EINVAL;
	return len && len <= CONFIG_ID_MAX ? 0 : -EINVAL;
}

static int set_name(struct config *cfg, const char *text, struct err *err)
{
	size_t len = strlen(text);

	if (len == 0 || len > CONFIG_ID_MAX)
		return err_set(err, EINVAL, "name '%.80s': not from 1 to %u characters", text,
			       CONFIG_ID_MAX);
	if (config_id_check(text) < 0)
		return err_set(err, EINVAL, "name '%s': only letters, digits, '.', '_' and '-'",
			       text);
	return set_string(&cfg->name, "name", text, err);
}

static int set_log(struct config *cfg, const char *text, struct err *err)
{
	if (log_level_parse(text, &cfg->log) < 0)
		return err_set(err, EINVAL, "log '%s': not one of error, warn, info, debug", text);
	return 0;
}

static int set_sandbox(struct config *cfg, const char *text, struct err *err)
{
	cfg->sandbox = !strcmp(text, "on");
	if (!cfg->sandbox && strcmp(text, "off"))
		return err_set(err, EINVAL, "sandbox '%s': neither on nor off", text);
	return 0;
}

static int set_load(struct config *cfg, const char *text, struct err *err)
{
	return set_string(&cfg->load, "load", text, err);
}

static int set_control(struct config *cfg, const char *text, struct err *err)
{
	return set_string(&cfg->control, "control", text, err);
}

static int set_accel_debug(struct config *cfg, const char *text, struct err *err)
{
	return set_string(&cfg->accel_debug, "accel-debug", text, err);
}

struct setting {
	const char *name;
	int (*set)(struct config *cfg, const char *text, struct err *err); /* NULL: a flag */
	size_t flag;							   /* offset of its bool */
};

static const struct setting settings[] = {
	{ "accel", set_accel, 0 },
	{ "cpu", set_cpu, 0 },
	{ "cpus", set_cpus, 0 },
	{ "memory", set_memory, 0 },
	{ "kernel", set_kernel, 0 },
	{ "initrd", set_initrd, 0 },
	{ "cmdline", set_cmdline, 0 },
	{ "disk", config_disk_parse, 0 },
	{ "net", set_net, 0 },
	{ "share", config_share_parse, 0 },
	{ "vsock", config_vsock_parse, 0 },
	{ "balloon", config_balloon_parse, 0 },
	{ "genid", config_genid_parse, 0 },
	{ "console", set_console, 0 },
	{ "control", set_control, 0 },
	{ "report", config_report_parse, 0 },
	{ "load", set_load, 0 },
	{ "debug-exit", NULL, offsetof(struct config, debug_exit) },
	{ "no-reboot", NULL, offsetof(struct config, no_reboot) },
	{ "name", set_name, 0 },
	{ "log", set_log, 0 },
	{ "sandbox", set_sandbox, 0 },
	{ "accel-debug", set_accel_debug, 0 },
};

static const struct setting *find_setting(const char *name, size_t len, char dash)
{
	for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
		const char *s = settings[i].name;
		size_t k;

		if (strlen(s) != len)
			continue;
		for (k = 0; k < len; k++)
			if (name[k] != (s[k] == '-' ? dash : s[k]))
				break;
		if (k == len)
			return &settings[i];
	}
	return NULL;
}

/* ---- JSON ---- */

static void drop_nets(struct config *cfg)
{
	while (cfg->net_count)
		config_net_done(&cfg->nets[--cfg->net_count]);
}

static int json_disks(struct config *cfg, const char *what, json_t *list, struct err *err)
{
	json_t *item;
	size_t i;

	if (!json_is_array(list))
		return err_set(err, EINVAL, "config '%s': 'disks' is not a list", what);
	config_disks_drop(cfg);
	json_array_foreach(list, i, item)
	{
		int ret = config_disk_json(cfg, what, item, err);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static int json_net(struct config *cfg, const char *what, json_t *item, struct err *err)
{
	int ret;

	if (json_is_string(item)) {
		ret = set_net(cfg, json_string_value(item), err);
	} else if (!json_is_object(item)) {
		ret = err_set(err, EINVAL, "nets: neither a string nor an object");
	} else if (cfg->net_count == CONFIG_NETS_MAX) {
		ret = err_set(err, EINVAL, "nets: more than %u cards", CONFIG_NETS_MAX);
	} else {
		ret = config_net_json(&cfg->nets[cfg->net_count], item, err);
		cfg->net_count += ret == 0;
	}
	return ret < 0 ? err_prefix(err, ret, "config '%s'", what) : 0;
}

static int json_nets(struct config *cfg, const char *what, json_t *list, struct err *err)
{
	json_t *item;
	size_t i;

	if (!json_is_array(list))
		return err_set(err, EINVAL, "config '%s': 'nets' is not a list", what);
	drop_nets(cfg);
	json_array_foreach(list, i, item)
	{
		int ret = json_net(cfg, what, item, err);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static int json_shares(struct config *cfg, const char *what, json_t *list, struct err *err)
{
	json_t *item;
	size_t i;

	if (!json_is_array(list))
		return err_set(err, EINVAL, "config '%s': 'shares' is not a list", what);
	config_shares_drop(cfg);
	json_array_foreach(list, i, item)
	{
		_cleanup_free_ char *text = json_is_string(item)   ? strdup(json_string_value(item))
					    : json_is_object(item) ? config_json_list(item)
								   : NULL;
		int ret = text ? config_share_parse(cfg, text, err)
			       : err_set(err, EINVAL, "shares: values of wrong types");

		if (ret < 0)
			return err_prefix(err, ret, "config '%s'", what);
	}
	return 0;
}

/* KEY=VALUE,..., in JSON also an object */
static bool is_list(const struct setting *s)
{
	return s->set == config_vsock_parse;
}

static int json_setting(struct config *cfg, const char *what, const char *key, json_t *value,
			struct err *err)
{
	const struct setting *s = find_setting(key, strlen(key), '_');
	char number[32];
	int ret;

	/* Several disks and networks have lists of their own. */
	if (!s || s->set == config_disk_parse || s->set == set_net || s->set == config_share_parse)
		return err_set(err, EINVAL, "config '%s': unknown key '%s'", what, key);
	if (!s->set) {
		if (!json_is_boolean(value))
			return err_set(err, EINVAL, "config '%s': '%s' is neither true nor false",
				       what, key);
		*(bool *)((char *)cfg + s->flag) = json_is_true(value);
		return 0;
	}
	if (json_is_string(value)) {
		ret = s->set(cfg, json_string_value(value), err);
	} else if (json_is_boolean(value) && s->set == config_balloon_parse) {
		ret = s->set(cfg, json_is_true(value) ? "on" : "off", err);
	} else if (json_is_object(value) && is_list(s)) {
		_cleanup_free_ char *list = config_json_list(value);

		if (!list)
			return err_set(err, EINVAL, "config '%s': '%s' has values of wrong types",
				       what, key);
		ret = s->set(cfg, list, err);
	} else if (json_is_integer(value) &&
		   (s->set == set_cpus || s->set == set_memory || s->set == config_balloon_parse)) {
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		ret = s->set(cfg, number, err);
	} else {
		return err_set(err, EINVAL, "config '%s': '%s' has the wrong type", what, key);
	}
	return ret < 0 ? err_prefix(err, ret, "config '%s'", what) : 0;
}

int config_parse_json(struct config *cfg, const char *what, const char *text, size_t len,
		      struct err *err)
{
	json_error_t je;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je), *value;
	const char *key;
	int ret = 0;

	if (!root)
		return err_set(err, EINVAL, "config '%s': line %d: %s", what, je.line, je.text);
	if (!json_is_object(root)) {
		ret = err_set(err, EINVAL, "config '%s': not a JSON object", what);
	} else {
		json_object_foreach(root, key, value)
		{
			ret = !strcmp(key, "disks")    ? json_disks(cfg, what, value, err)
			      : !strcmp(key, "nets")   ? json_nets(cfg, what, value, err)
			      : !strcmp(key, "shares") ? json_shares(cfg, what, value, err)
						       : json_setting(cfg, what, key, value, err);
			if (ret < 0)
				break;
		}
	}
	json_decref(root);
	return ret;
}

static int parse_file(struct config *cfg, const char *path, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, errno, "config '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)CONFIG_FILE_MAX)
		return err_set(err, EINVAL, "config '%s': not a regular file of at most 1 MiB",
			       path);
	text = malloc(CONFIG_FILE_MAX);
	if (!text)
		return err_set(err, ENOMEM, "config '%s': out of memory", path);
	while (len < CONFIG_FILE_MAX) {
		ssize_t n = read(fd, text + len, CONFIG_FILE_MAX - len);

		if (n < 0)
			return err_set(err, errno, "config '%s': %s", path, strerror(errno));
		if (n == 0)
			break;
		len += (size_t)n;
	}
	return config_parse_json(cfg, path, text, len, err);
}

/* ---- command line ---- */

/* The option at argv[*i] and its value; *i moves to the last word used. */
static int take_option(int argc, char **argv, int *i, const struct setting **ret_s,
		       const char **ret_value, bool *ret_is_config, struct err *err)
{
	const char *word = argv[*i], *name = word + 2, *eq;
	const struct setting *s;
	size_t len;

	if (strncmp(word, "--", 2) || !*name)
		return err_set(err, EINVAL, "argument '%s': not an option; see --help", word);
	eq = strchr(name, '=');
	len = eq ? (size_t)(eq - name) : strlen(name);
	*ret_is_config = len == 6 && !strncmp(name, "config", len);
	s = *ret_is_config ? NULL : find_setting(name, len, '-');
	if (!s && !*ret_is_config)
		return err_set(err, EINVAL, "option '--%.*s': unknown; see --help", (int)len, name);
	*ret_s = s;
	*ret_value = NULL;
	if (s && !s->set) {
		if (eq)
			return err_set(err, EINVAL, "option '--%s': takes no value", s->name);
		return 0;
	}
	if (eq) {
		*ret_value = eq + 1;
	} else if (*i + 1 < argc) {
		*ret_value = argv[++*i];
	} else {
		return err_set(err, EINVAL, "option '--%s': its value is missing", name);
	}
	return 0;
}

int config_parse_args(struct config *cfg, int argc, char **argv, enum config_action *ret_action,
		      struct err *err)
{
	bool disks_dropped = false, nets_dropped = false, shares_dropped = false;

	*ret_action = CONFIG_RUN;
	if (argc >= 2 && !strcmp(argv[1], "--probe")) {
		cfg->json = argc == 3 && !strcmp(argv[2], "--json");
		if (argc > 2 && !cfg->json)
			return err_set(err, EINVAL,
				       "argument '%s': --probe takes nothing but --json",
				       argv[argc > 3 ? 3 : 2]);
		*ret_action = CONFIG_PROBE;
		return 0;
	}
	for (unsigned pass = 0; pass < 2; pass++) {
		for (int i = 1; i < argc; i++) {
			const struct setting *s = NULL;
			const char *value = NULL;
			bool is_config = false;
			int ret;

			if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "--version")) {
				*ret_action = argv[i][2] == 'h' ? CONFIG_HELP : CONFIG_VERSION;
				return 0;
			}
			ret = take_option(argc, argv, &i, &s, &value, &is_config, err);
			if (ret == 0 && pass == 0 && is_config)
				ret = parse_file(cfg, value, err);
			if (ret < 0)
				return ret;
			if (pass == 0 || is_config)
				continue;
			if (!s->set) {
				*(bool *)((char *)cfg + s->flag) = true;
				continue;
			}
			if (s->set == config_disk_parse && !disks_dropped) {
				config_disks_drop(cfg);
				disks_dropped = true;
			}
			if (s->set == set_net && !nets_dropped) {
				drop_nets(cfg);
				nets_dropped = true;
			}
			if (s->set == config_share_parse && !shares_dropped) {
				config_shares_drop(cfg);
				shares_dropped = true;
			}
			ret = s->set(cfg, value, err);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

int config_check(const struct config *cfg, struct err *err)
{
	if (!cfg->kernel)
		return err_set(err, EINVAL,
			       "option '--kernel': is missing; it names the kernel to boot");
	if (cfg->balloon_bytes > cfg->memory_bytes)
		return err_set(err, EINVAL, "balloon '%lluK': more than the memory there is",
			       (unsigned long long)(cfg->balloon_bytes >> 10));
	return 0;
}

int config_init(struct config *cfg, struct err *err)
{
	memset(cfg, 0, sizeof(*cfg));
	cfg->cpus = 1;
	cfg->memory_bytes = MIB(512);
	cfg->console = CONSOLE_STDIO;
	cfg->log = LOG_INFO;
	cfg->sandbox = SANDBOX_DEFAULT;
	cfg->report_fd = -1;
	cfg->accel = strdup("auto");
	cfg->cmdline = strdup("console=ttyS0");
	if (!cfg->accel || !cfg->cmdline) {
		config_done(cfg);
		return err_set(err, ENOMEM, "out of memory");
	}
	return 0;
}

void config_done(struct config *cfg)
{
	config_disks_drop(cfg);
	drop_nets(cfg);
	config_shares_drop(cfg);
	config_vsock_done(&cfg->vsock);
	free(cfg->accel);
	free(cfg->kernel);
	free(cfg->initrd);
	free(cfg->cmdline);
	free(cfg->console_path);
	free(cfg->control);
	free(cfg->load);
	free(cfg->name);
	free(cfg->accel_debug);
	memset(cfg, 0, sizeof(*cfg));
}

const char *config_usage(void)
{
	return "usage: eyot-vmm [OPTION]... --kernel FILE\n"
	       "       eyot-vmm --probe [--json]\n"
	       "       eyot-vmm ctl SOCKET COMMAND [ARGUMENT]...; see eyot-vmm ctl --help\n"
	       "Run one virtual machine, or tell what this host can do for such.\n"
	       "\n"
	       "  --kernel FILE       bzImage, ELF (64-bit Linux, PVH) or multiboot kernel\n"
	       "  --initrd FILE       initial RAM disk, or the multiboot kernel's module\n"
	       "  --cmdline TEXT      kernel command line (default: console=ttyS0)\n"
	       "  --cpus N            virtual CPUs, 1 to 64 (default: 1)\n"
	       "  --memory SIZE       RAM, 2M to 64G (default: 512M)\n"
	       "  --disk FILE[,readonly][,snapshot][,KEY=VALUE]...\n"
	       "                      add a disk; snapshot: writes are gone at the end; "
	       "repeatable;\n"
	       "                      format=auto|raw|qcow2, cache=writeback|none|unsafe, "
	       "discard=on|off,\n"
	       "                      id=NAME, queues=N, serial=TEXT, iops=N, bps=SIZE, "
	       "burst=SECONDS\n"
	       "  --net user|tap|switch[,KEY=VALUE]...\n"
	       "                      add a network card; repeatable; keys of all: id, mac, mtu,\n"
	       "                      queues, rate, pcap; of user: forward, restrict,\n"
	       "                      host-loopback; of tap: ifname, bridge, fd; of switch: path\n"
	       "  --share tag=NAME,path=FOLDER[,readonly=on]\n"
	       "                      share a folder; the guest mounts it as file system "
	       "virtiofs;\n"
	       "                      repeatable\n"
	       "  --vsock cid=N,path=FILE\n"
	       "                      sockets between guest and host: FILE is that of the host's\n"
	       "                      clients, FILE_PORT of those who listen for the guest\n"
	       "  --balloon on|off|SIZE\n"
	       "                      give memory that the guest does not use back to the host;\n"
	       "                      SIZE: what it shall have at first (default: off)\n"
	       "  --genid auto|off|GUID\n"
	       "                      generation ID: a new one after each load (default), none, "
	       "this\n"
	       "  --console stdio|pty|file:PATH|unix:PATH\n"
	       "                      where the guest's console is (default: stdio; Ctrl-] "
	       "leaves)\n"
	       "  --load FILE         go on with a machine that `eyot-vmm ctl save` has saved\n"
	       "  --control PATH|fd:N where to listen for `eyot-vmm ctl` and other programs\n"
	       "  --report fd:N       an open file for how the machine ended\n"
	       "  --cpu MODEL[,+FEATURE][,-FEATURE]...\n"
	       "                      what the guest's CPUs are: host (default), portable, "
	       "x86-64-v1 to -v4\n"
	       "  --accel auto|bt|kvm what runs the CPUs (default: auto)\n"
	       "  --accel-debug TEXT  options for people who debug the accelerator\n"
	       "  --debug-exit        port 0xf4: writing V ends with status ((V << 1) | 1) & 0xff\n"
	       "  --no-reboot         end when the guest reboots\n"
	       "  --name NAME         the machine's name\n"
	       "  --sandbox on|off    give up all rights before the guest runs (default: on)\n"
	       "  --log LEVEL         error, warn, info or debug (default: info)\n"
	       "  --config FILE       the same settings from a JSON file; options win\n"
	       "  --probe [--json]    what the host can do: accelerators, CPU, kernel\n"
	       "  --help, --version\n"
	       "\n"
	       "Exit status: 0 powered off, 2 bad usage or configuration, 4 guest crashed,\n"
	       "6 rebooted with --no-reboot, 8 host error, 10 ended from outside; odd: "
	       "--debug-exit.\n";
}
