/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of the command line become a request by the same table that the
 * monitor checks it against, so a new command is one here, too.
 */
#include "monitor/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/parse.h"
#include "base/util.h"
#include "disk/nbd_uri.h"
#include "monitor/command.h"
#include "monitor/config_disk.h"
#include "monitor/config_net.h"

struct ctl {
	const char *path;
	bool json;
	struct control_client *client;
};

/* ---- words to arguments ---- */

static json_t *parse_flag(const char *text)
{
	if (!strcmp(text, "on") || !strcmp(text, "true"))
		return json_true();
	if (!strcmp(text, "off") || !strcmp(text, "false"))
		return json_false();
	return NULL;
}

static json_t *parse_number(const char *text)
{
	uint64_t n;

	/* Sizes and numbers alike: 4G, 1000. */
	if (size_parse(text, &n) < 0 || n > INT64_MAX)
		return NULL;
	return json_integer((json_int_t)n);
}

/* NULL: cannot be read as what the argument wants. */
static json_t *parse_value(const struct control_arg *arg, const char *text)
{
	switch (arg->type) {
	case CONTROL_FLAG:
		return parse_flag(text);
	case CONTROL_NUMBER:
	case CONTROL_SIZE:
		return parse_number(text);
	case CONTROL_CONFIG:
		if (*text == '{')
			return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
		return json_string(text);
	case CONTROL_TEXT:
	case CONTROL_WORD:
		return json_string(text);
	}
	return NULL;
}

/* Which argument a word is for, and where its value begins; NULL: one too many. */
static const struct control_arg *arg_of(const struct control_command *cmd, const json_t *args,
					const char *word, const char **ret_value)
{
	size_t len = strcspn(word, "=");

	for (const struct control_arg *a = cmd->args; a && a->name; a++) {
		if (strlen(a->name) != len || strncmp(a->name, word, len))
			continue;
		if (word[len] == '=' || a->type == CONTROL_FLAG) {
			*ret_value = word[len] ? word + len + 1 : "on";
			return a;
		}
	}
	*ret_value = word;
	for (const struct control_arg *a = cmd->args; a && a->name; a++)
		if (!json_object_get(args, a->name))
			return a;
	return NULL;
}

int ctl_parse(const struct control_command *cmd, char **words, int count, json_t **ret_args,
	      struct err *err)
{
	json_t *args = json_object();
	int ret = 0;

	for (int i = 0; i < count && ret == 0; i++) {
		const char *text;
		const struct control_arg *arg = arg_of(cmd, args, words[i], &text);
		json_t *value = arg ? parse_value(arg, text) : NULL;

		if (!arg)
			ret = err_set(err, EINVAL, "command '%s': takes no argument '%s'",
				      cmd->name, words[i]);
		else if (!value)
			ret = err_set(err, EINVAL, "command '%s': %s '%s': is not a %s", cmd->name,
				      arg->name, text,
				      arg->type == CONTROL_FLAG	    ? "flag (on, off)"
				      : arg->type == CONTROL_CONFIG ? "configuration"
				      : arg->type == CONTROL_SIZE   ? "size such as 4G"
								    : "number");
		else
			ret = control_check_arg(cmd, arg, value, err);
		if (ret == 0 && json_object_get(args, arg->name))
			ret = err_set(err, EINVAL, "command '%s': '%s' is given twice", cmd->name,
				      arg->name);
		if (ret == 0)
			json_object_set(args, arg->name, value);
		json_decref(value);
	}
	for (const struct control_arg *a = cmd->args; a && a->name && ret == 0; a++)
		if (a->required && !json_object_get(args, a->name))
			ret = err_set(err, EINVAL, "command '%s': '%s' is missing", cmd->name,
				      a->name);
	if (ret < 0)
		json_decref(args);
	else
		*ret_args = args;
	return ret;
}

/* ---- help ---- */

static void print_usage(void)
{
	printf("usage: eyot-vmm ctl [--json] SOCKET COMMAND [ARGUMENT]...\n"
	       "Tell a running eyot-vmm, started with --control SOCKET, what to do.\n"
	       "\n"
	       "An argument is a value, in the order shown, or NAME=VALUE.\n"
	       "\n");
	for (const struct control_command *c = command_table; c->name; c++) {
		printf("  %s", c->name);
		for (const struct control_arg *a = c->args; a && a->name; a++)
			printf(a->required ? " %s" : " [%s]", a->name);
		printf("\n        %s\n", c->help);
		for (const struct control_arg *a = c->args; a && a->name; a++)
			printf("        %-12s %s%s%s%s\n", a->name, a->help, a->choices ? " (" : "",
			       a->choices ? a->choices : "", a->choices ? ")" : "");
	}
	printf("\nExit status: 0 done, 2 bad usage, 4 refused by the monitor, 8 no connection.\n");
}

/* ---- run ---- */

/* @status, after telling why; for programs on standard output, too. */
static int failed(const struct ctl *ctl, int status, const char *code, const struct err *err)
{
	log_error("%s", err->text);
	if (ctl->json) {
		json_t *o =
		    json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", err->text);

		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	}
	return status;
}

/* @result is taken over. */
static void show(const struct ctl *ctl, const char *command, json_t *result)
{
	if (ctl->json) {
		json_dumpf(result, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		ctl_print(command, result);
	}
	json_decref(result);
}

static int print_events(const struct ctl *ctl)
{
	struct err err;
	json_t *event;
	int ret;

	while ((ret = control_next(ctl->client, &event, &err)) == 0) {
		if (ctl->json) {
			json_dumpf(event, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			ctl_print_event(event);
		}
		json_decref(event);
		if (fflush(stdout))
			return CTL_HOST;
	}
	/* The end of the machine is the end of its events. */
	return ret == -ENODATA ? CTL_DONE : failed(ctl, CTL_HOST, "host", &err);
}

/*
 * The image that a disk's configuration names, opened for the monitor, which may have no view of
 * the host's files; -1: it shall see for itself, and tell what is wrong.
 */
static int open_image(json_t *disk)
{
	struct config *cfg = calloc(1, sizeof(*cfg));
	struct err err;
	int fd = -1;

	errno = EINVAL;
	if (cfg && config_disk_json(cfg, "disk-add", disk, &err) == 0) {
		const struct disk_options *o = &cfg->disks[0].o;

		errno = EINVAL;
		if (!nbd_uri_is(cfg->disks[0].path))
			fd = open(cfg->disks[0].path,
				  (o->readonly || o->snapshot ? O_RDONLY : O_RDWR) | O_CLOEXEC |
				      O_NOCTTY | O_NONBLOCK);
		config_disks_drop(cfg);
	}
	free(cfg);
	return fd;
}

/* ---- save ---- */

/* The name becomes that of the finished file, on stable storage; 0 or -errno. */
static int give_name(const char *temp, const char *path)
{
	char folder[PATH_MAX], *slash;
	int fd, ret;

	if (rename(temp, path) < 0)
		return -errno;
	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = '\0';
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ret = fd < 0 || fsync(fd) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return ret;
}

/*
 * Into a file beside the wanted one, which takes its place when all is there. A machine
 * that shall end stays paused until then.
 */
static int save(struct ctl *ctl, const struct control_command *cmd, json_t *args)
{
	const char *path = json_string_value(json_object_get(args, "file")), *code = "host";
	bool quits = !strcmp(control_get_text(args, "then", ""), "quit");
	char temp[PATH_MAX];
	json_t *result = NULL;
	struct err err;
	int fd, ret;

	snprintf(temp, sizeof(temp), "%s.%ld", path, (long)getpid());
	fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		err_set(&err, errno, "save: file '%s': %s", temp, strerror(errno));
		json_decref(args);
		return failed(ctl, CTL_USAGE, control_code(-errno), &err);
	}
	if (quits)
		json_object_set_new(args, "then", json_string("pause"));
	ret = control_call(ctl->client, cmd->name, json_incref(args), &fd, 1, &result, &code, &err);
	close(fd);
	if (ret == 0) {
		ret = give_name(temp, path);
		if (ret < 0) {
			err_set(&err, -ret, "save: file '%s': %s", path, strerror(-ret));
			code = control_code(ret);
			json_decref(result);
		}
	}
	json_decref(args);
	if (ret < 0) {
		unlink(temp);
		return failed(ctl, ret == -EREMOTEIO ? CTL_REFUSED : CTL_HOST, code, &err);
	}
	if (quits) {
		json_t *ended = NULL;

		ret = control_call(ctl->client, "quit", NULL, NULL, 0, &ended, &code, &err);
		json_decref(ended);
		json_object_set_new(result, "state", json_string("stopped"));
	}
	show(ctl, cmd->name, result);
	if (ret < 0)
		return failed(ctl, CTL_HOST, code, &err);
	return fflush(stdout) ? CTL_HOST : CTL_DONE;
}

/* Descriptors of a TAP interface that we were started with; returns how many. */
static unsigned given_fds(json_t *value, int fds[CONTROL_FDS_MAX])
{
	struct config_net net;
	unsigned count = 0;
	struct err err;

	if ((json_is_string(value) ? config_net_parse(&net, json_string_value(value), &err)
				   : config_net_json(&net, value, &err)) < 0)
		return 0; /* the monitor tells what is wrong */
	while (count < net.net.fd_count && count < CONTROL_FDS_MAX) {
		fds[count] = net.net.fds[count];
		count++;
	}
	net.net.fd_count = 0; /* they stay open until they are sent */
	config_net_done(&net);
	return count;
}

static int run(struct ctl *ctl, const struct control_command *cmd, json_t *args)
{
	const char *code = "host";
	json_t *result = NULL;
	unsigned fd_count = 0;
	int fds[CONTROL_FDS_MAX], ret;
	struct err err;

	if (!strcmp(cmd->name, "save"))
		return save(ctl, cmd, args);
	if (!strcmp(cmd->name, "net-add"))
		fd_count = given_fds(json_object_get(args, "net"), fds);
	if (!strcmp(cmd->name, "disk-add")) {
		fds[0] = open_image(json_object_get(args, "disk"));
		fd_count = fds[0] >= 0;
		if (fds[0] < 0 && (errno == ENOENT || errno == EACCES)) {
			/* Not the monitor's words: it may see less than this. */
			err_set(&err, errno, "disk-add: its image: %s", strerror(errno));
			json_decref(args);
			return failed(ctl, CTL_USAGE, control_code(-errno), &err);
		}
	}
	ret = control_call(ctl->client, cmd->name, args, fds, fd_count, &result, &code, &err);
	for (unsigned i = 0; i < fd_count; i++)
		close(fds[i]);

	if (ret < 0)
		return failed(ctl, ret == -EREMOTEIO ? CTL_REFUSED : CTL_HOST, code, &err);
	if (!strcmp(cmd->name, "console")) {
		json_decref(result);
		ret = ctl_console(ctl->client);
		ctl->client = NULL;
		return ret;
	}
	if (!strcmp(cmd->name, "events")) {
		json_decref(result);
		return print_events(ctl);
	}
	show(ctl, cmd->name, result);
	return fflush(stdout) ? CTL_HOST : CTL_DONE;
}

int ctl_main(int argc, char **argv)
{
	struct ctl ctl = { 0 };
	const struct control_command *cmd;
	json_t *args = NULL;
	struct err err;
	int at = 1, ret;

	log_init("eyot-vmm", LOG_INFO);
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		print_usage();
		return fflush(stdout) ? CTL_HOST : CTL_DONE;
	}
	if (at < argc && !strcmp(argv[at], "--json")) {
		ctl.json = true;
		at++;
	}
	if (argc - at < 2 || argv[at][0] == '-') {
		err_set(&err, EINVAL, "ctl: takes SOCKET and COMMAND; see eyot-vmm ctl --help");
		return failed(&ctl, CTL_USAGE, "bad-argument", &err);
	}
	ctl.path = argv[at];
	/* --json is for programs, which put it where they like. */
	if (!strcmp(argv[argc - 1], "--json")) {
		ctl.json = true;
		argc--;
	}
	cmd = argc - at < 2 ? NULL : control_find(command_table, argv[at + 1]);
	if (!cmd) {
		err_set(&err, EINVAL, "command '%s': unknown; see eyot-vmm ctl --help",
			argc - at < 2 ? "" : argv[at + 1]);
		return failed(&ctl, CTL_USAGE, "unknown-command", &err);
	}
	if (ctl_parse(cmd, argv + at + 2, argc - at - 2, &args, &err) < 0)
		return failed(&ctl, CTL_USAGE, "bad-argument", &err);
	ret = control_connect(ctl.path, &ctl.client, &err);
	if (ret < 0) {
		json_decref(args);
		return failed(&ctl, CTL_HOST, "host", &err);
	}
	ret = run(&ctl, cmd, args);
	control_disconnect(ctl.client);
	return ret;
}
