/* SPDX-License-Identifier: Apache-2.0 */
/* The table of verbs, and options that several of them have */
#include "cli/cli.h"

#define SPEC_OPTIONS                                                                               \
	{ "cpus", 'c', "N", "number of CPUs (default: 1)" },                                       \
	    { "memory", 'm', "SIZE", "memory, as 512M or 2G (default: 512M)" },                    \
	    { "port", 'p', "[ADDRESS:]PORT:GUEST[/udp]",                                           \
	      "lead a port of this host to one of the guest's; several may be given" },            \
	    { "restart", 0, "POLICY[:TIMES]", "no, on-failure or always (default: no)",            \
	      .choices = "no|on-failure|always" },                                                 \
	    { "accel", 0, "NAME", "auto, kvm or bt (default: auto)", .choices = "auto|kvm|bt" },   \
	    { "cmdline", 0, "WORDS", "further words for the guest's kernel" },                     \
	    { "volume", 'v', "FOLDER:GUEST[:ro]",                                                  \
	      "share a folder of this host, mounted in the guest; up to three", COMPLETE_FILE },   \
	{                                                                                          \
		"label", 'l', "KEY[=VALUE]", "a label; several may be given"                       \
	}

#define NEW_OPTIONS                                                                                \
	{ "name", 0, "NAME", "what it is called (default: made from the image's name)" },          \
	    SPEC_OPTIONS, { "disk", 0, "SIZE", "size of its disk (default: the image's)" },        \
	{                                                                                          \
		"no-network", 0, NULL, "without a network card"                                    \
	}

#define EXEC_OPTIONS                                                                               \
	{ "env", 'e', "NAME[=VALUE]", "a variable of the command's; several may be given" },       \
	    { "user", 'u', "NAME", "the guest's user it runs as (default: root)" },                \
	{                                                                                          \
		"workdir", 'w', "FOLDER", "where it runs (default: the user's home)"               \
	}
#define NO_TTY_OPTION                                                                              \
	{                                                                                          \
		"no-tty", 'T', NULL, "no terminal for it, even if there is one here"               \
	}
#define WAIT_OPTION                                                                                \
	{                                                                                          \
		"wait", 0, "SECONDS", "how long the guest may take to answer (default: 300)"       \
	}

const struct cli_option create_options[] = {
	NEW_OPTIONS,
	{ "start", 's', NULL, "start it" },
	{ 0 },
};

const struct cli_option run_options[] = {
	NEW_OPTIONS,
	{ "rm", 0, NULL, "remove it when the command or shell has ended" },
	{ "detach", 'd', NULL, "only start it" },
	EXEC_OPTIONS,
	NO_TTY_OPTION,
	WAIT_OPTION,
	{ 0 },
};

const struct cli_option set_options[] = {
	SPEC_OPTIONS,
	{ "no-ports", 0, NULL, "lead no ports to it" },
	{ "no-volumes", 0, NULL, "share no folders with it" },
	{ "no-label", 0, "KEY", "take a label off" },
	{ 0 },
};

static const struct cli_option exec_options[] = { EXEC_OPTIONS, NO_TTY_OPTION, WAIT_OPTION, { 0 } };
static const struct cli_option shell_options[] = { EXEC_OPTIONS, WAIT_OPTION, { 0 } };
static const struct cli_option cp_options[] = { WAIT_OPTION, { 0 } };
static const struct cli_option stop_options[] = {
	{ "timeout", 't', "SECONDS",
	  "how long the guest may take to power off; 0: end it at once (default: 60)" },
	{ 0 },
};
static const struct cli_option rm_options[] = {
	{ "force", 'F', NULL, "also those that run, as by pulling the plug" },
	{ 0 },
};
static const struct cli_option ls_options[] = {
	{ "state", 's', "STATE", "only those in this state",
	  .choices = "creating|stopped|starting|running|paused|stopping|restarting|failed|stuck|"
		     "deleting" },
	{ "label", 'l', "KEY[=VALUE]", "only those with this label" },
	{ "all-projects", 'A', NULL, "of all projects" },
	{ 0 },
};
static const struct cli_option logs_options[] = {
	{ "follow", 'F', NULL, "go on with what comes, until it stops" },
	{ "lines", 'l', "N", "the last lines alone" },
	{ "monitor", 'M', NULL, "of eyot-vmm, not of the guest's console" },
	{ "raw", 'r', NULL, "with control characters, on a terminal as well" },
	{ 0 },
};
static const struct cli_option events_options[] = {
	{ "since", 's', "NUMBER", "also those behind this one" },
	{ "instance", 'i', "NAME", "only this instance's", COMPLETE_INSTANCE },
	{ 0 },
};
static const struct cli_option wait_options[] = {
	{ "state", 's', "STATE", "running, stopped or gone (default: stopped)",
	  .choices = "running|stopped|gone" },
	{ "timeout", 't', "SECONDS", "at most so long; then the status is 5" },
	{ 0 },
};
static const struct cli_option top_options[] = {
	{ "delay", 'd', "SECONDS", "between two looks (default: 2)" },
	{ "count", 'c', "N", "so many looks, then end" },
	{ 0 },
};
static const struct cli_option import_options[] = {
	{ "kernel", 'k', "FILE", "the kernel", COMPLETE_FILE },
	{ "initrd", 'i', "FILE", "its initial RAM disk", COMPLETE_FILE },
	{ "disk", 'd', "FILE", "its disk", COMPLETE_FILE },
	{ "disk-format", 0, "FORMAT", "raw or qcow2 (default: raw)", .choices = "raw|qcow2" },
	{ "cmdline", 0, "WORDS", "the kernel's command line" },
	{ 0 },
};

const struct cli_verb cli_verbs[] = {
	{ "run", "IMAGE [[--] COMMAND...]",
	  "Make an instance, start it, run a command or a shell in it",
	  "Without a command and on a terminal it is a login shell; the instance goes on when the\n"
	  "shell has ended, unless --rm is given. An image debian/12 that is not there is built "
	  "first.\n",
	  cmd_run, run_options, 1, 1, COMPLETE_IMAGE, .changes = true, .command = true,
	  .status = true },
	{ "create", "IMAGE", "Make an instance", NULL, cmd_create, create_options, 1, 1,
	  COMPLETE_IMAGE, .changes = true },
	{ "start", "NAME...", "Start instances", NULL, cmd_start, NULL, 1, -1, COMPLETE_INSTANCE,
	  .changes = true },
	{ "stop", "NAME...", "Power instances off",
	  "The guest is asked by its power button; when it has not in time it is ended.\n",
	  cmd_stop, stop_options, 1, -1, COMPLETE_INSTANCE, .changes = true },
	{ "restart", "NAME...", "Stop instances and start them", NULL, cmd_restart, stop_options, 1,
	  -1, COMPLETE_INSTANCE, .changes = true },
	{ "pause", "NAME...", "Let their processors stand still", NULL, cmd_pause, NULL, 1, -1,
	  COMPLETE_INSTANCE, .changes = true },
	{ "resume", "NAME...", "Let them go on", NULL, cmd_resume, NULL, 1, -1, COMPLETE_INSTANCE,
	  .changes = true },
	{ "rm", "NAME...", "Remove instances and their disks", NULL, cmd_rm, rm_options, 1, -1,
	  COMPLETE_INSTANCE, .changes = true },
	{ "ls", "[PATTERN]", "List instances",
	  "In the pattern * stands for any characters, ? for one.\n", cmd_ls, ls_options, 0, 1,
	  COMPLETE_INSTANCE },
	{ "info", "NAME...", "All there is to say of instances", NULL, cmd_info, NULL, 1, -1,
	  COMPLETE_INSTANCE },
	{ "shell", "NAME", "A login shell in the guest", NULL, cmd_shell, shell_options, 1, 1,
	  COMPLETE_INSTANCE, .status = true },
	{ "exec", "NAME [--] COMMAND...", "Run a command in the guest",
	  "Its standard streams and its exit status are the command's, signals are sent on.\n",
	  cmd_exec, exec_options, 2, 1, COMPLETE_INSTANCE, .command = true, .status = true },
	{ "cp", "FROM TO", "Copy a file or folder into a guest or out of it",
	  "NAME:PATH is a path of the guest's. Into a folder that is there it is copied by its "
	  "name.\n",
	  cmd_cp, cp_options, 2, 2, COMPLETE_COPY },
	{ "console", "NAME", "The guest's console", "Ctrl-] or Ctrl-A x leaves it.\n", cmd_console,
	  NULL, 1, 1, COMPLETE_INSTANCE },
	{ "logs", "NAME", "What the guest's console said", NULL, cmd_logs, logs_options, 1, 1,
	  COMPLETE_INSTANCE },
	{ "events", "", "What happens, as it happens", "Ctrl-C ends it.\n", cmd_events,
	  events_options, 0, 0 },
	{ "wait", "NAME...", "Wait until instances are in a state", NULL, cmd_wait, wait_options, 1,
	  -1, COMPLETE_INSTANCE },
	{ "top", "", "What running instances take of this host", "Ctrl-C ends it.\n", cmd_top,
	  top_options, 0, 0 },
	{ "rename", "NAME NEW", "Give an instance another name", NULL, cmd_rename, NULL, 2, 2,
	  COMPLETE_INSTANCE, .changes = true },
	{ "set", "NAME", "Change the settings of an instance",
	  "Those of a machine that runs take effect with its next start.\n", cmd_set, set_options,
	  1, 1, COMPLETE_INSTANCE, .changes = true },
	{ "port ls", "NAME", "List the ports that lead to an instance", NULL, cmd_port_ls, NULL, 1,
	  1, COMPLETE_INSTANCE },
	{ "port add", "NAME [ADDRESS:]PORT:GUEST[/udp]...",
	  "Lead ports of this host to an instance", "They take effect with its next start.\n",
	  cmd_port_add, NULL, 2, -1, COMPLETE_INSTANCE, .changes = true },
	{ "port rm", "NAME PORT[/udp]...", "Lead them there no more",
	  "It takes effect with its next start.\n", cmd_port_rm, NULL, 2, -1, COMPLETE_INSTANCE,
	  .changes = true },
	{ "image ls", "", "List images", NULL, cmd_image_ls, NULL, 0, 0 },
	{ "image info", "IMAGE...", "All there is to say of images", NULL, cmd_image_info, NULL, 1,
	  -1, COMPLETE_IMAGE },
	{ "image build", "debian/12 [NAME]", "Build an image from Debian's packages", NULL,
	  cmd_image_build, NULL, 1, 2, .changes = true },
	{ "image import", "--kernel FILE [--initrd FILE] [--disk FILE] NAME",
	  "Make an image from files", NULL, cmd_image_import, import_options, 1, 1,
	  .changes = true },
	{ "image rm", "IMAGE...", "Remove images that no instance uses", NULL, cmd_image_rm, NULL,
	  1, -1, COMPLETE_IMAGE, .changes = true },
	{ "image prune", "", "Remove all images that no instance uses", NULL, cmd_image_prune, NULL,
	  0, 0, .changes = true },
	{ "network ls", "", "List networks", NULL, cmd_network_ls, NULL, 0, 0 },
	{ "network info", "NAME...", "All there is to say of networks", NULL, cmd_network_info,
	  NULL, 1, -1, COMPLETE_NETWORK },
	{ "project ls", "", "List projects", NULL, cmd_project_ls, NULL, 0, 0 },
	{ "job ls", "", "List jobs", NULL, cmd_job_ls, NULL, 0, 0 },
	{ "job info", "ID...", "All there is to say of jobs", NULL, cmd_job_info, NULL, 1, -1,
	  COMPLETE_JOB },
	{ "job cancel", "ID...", "Give jobs up", NULL, cmd_job_cancel, NULL, 1, -1, COMPLETE_JOB,
	  .changes = true },
	{ "audit", "", "Who changed what, and when", NULL, cmd_audit, NULL, 0, 0 },
	{ "host info", "", "This host, and what of it is taken", NULL, cmd_host_info, NULL, 0, 0 },
	{ "host check", "", "Whether this host can run machines", NULL, cmd_host_check, NULL, 0,
	  0 },
	{ "version", "", "Versions of this program and of the daemon", NULL, cmd_version, NULL, 0,
	  0 },
	{ "completion", "bash|zsh", "Print a script for completion in a shell",
	  "  source <(eyot completion bash)\n", cmd_completion, NULL, 1, 1 },
	{ 0 },
};
