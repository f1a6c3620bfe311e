/* SPDX-License-Identifier: Apache-2.0 */
/* eyot exec NAME COMMAND... */
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/agent.h"
#include "cli/cmd_exec.h"

/* "NAME=value", or "NAME" for the value that it has here; the terminal's kind goes along. */
static int make_env(const struct cli_args *args, bool terminal, const char **env,
		    char *held[CLI_GIVEN_MAX], struct err *err)
{
	unsigned count = 0, held_count = 0, pos = 0;
	const char *text;

	if (terminal && getenv("TERM")) {
		if (asprintf(&held[held_count++], "TERM=%s", getenv("TERM")) < 0)
			return err_set(err, ENOMEM, "out of memory");
		env[count++] = held[0];
	}
	while ((text = arg_next(args, "env", &pos))) {
		if (!*text || *text == '=')
			return cli_usage(err, "--env '%.60s': is not NAME=VALUE", text);
		if (strchr(text, '=')) {
			env[count++] = text;
		} else if (getenv(text)) {
			if (asprintf(&held[held_count], "%s=%s", text, getenv(text)) < 0)
				return err_set(err, ENOMEM, "out of memory");
			env[count++] = held[held_count++];
		}
	}
	return 0;
}

int exec_in(struct cli *cli, const struct cli_args *args, const char *name, char **argv,
	    struct err *err)
{
	bool terminal = !arg_has(args, "no-tty") && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	const char *env[CLI_GIVEN_MAX + 2] = { NULL };
	char *held[CLI_GIVEN_MAX + 1] = { NULL };
	struct agent_command cmd = { .argv = (const char *const *)argv,
				     .env = env,
				     .user = arg_value(args, "user"),
				     .folder = arg_value(args, "workdir"),
				     .terminal = terminal,
				     .forward = true,
				     .in = STDIN_FILENO,
				     .out = STDOUT_FILENO,
				     .err = STDERR_FILENO };
	int64_t wait_s = AGENT_WAIT_S;
	int fd, status = 0, ret = arg_number(args, "wait", 0, 86400, &wait_s, err);

	if (ret == 0)
		ret = make_env(args, terminal, env, held, err);
	if (ret == 0)
		ret = agent_connect(cli, name, (unsigned)wait_s, &fd, err);
	if (ret == 0)
		ret = agent_run(fd, &cmd, &status, err);
	for (unsigned i = 0; i < ARRAY_SIZE(held); i++)
		free(held[i]);
	if (ret == -ENOEXEC) {
		/* the shells' statuses: 127 there is no such program, 126 it cannot be run */
		log_error("%s", err->text);
		return status;
	}
	return ret < 0 ? ret : status;
}

int cmd_exec(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return exec_in(cli, args, args->words[0], args->words + 1, err);
}
