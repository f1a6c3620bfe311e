/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot run IMAGE [COMMAND...]: create, start, run, and with --rm remove.
 *
 * With --rm the instance is removed whatever happens from the moment it is there: an error, Ctrl-C,
 * the end of the command. It is marked ephemeral, too, so a guest that powers off by itself is
 * removed by the daemon.
 */
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/agent.h"
#include "cli/cmd_exec.h"

static void remove_instance(struct cli *cli, const char *id)
{
	struct err err = { .text = "" };
	struct url u;

	cli_forget_interrupt();
	url_instance(cli, &u, id, "");
	url_param(&u, "force", "true");
	/* gone by itself: it has powered off */
	if (job_run(cli, "DELETE", &u, NULL, "removing", NULL, &err) < 0 && *err.text &&
	    !strstr(err.text, "there is none"))
		log_warn("%s", err.text);
}

/* What is done in an instance that runs; the command's status */
static int use(struct cli *cli, const struct cli_args *args, const json_t *instance,
	       struct err *err)
{
	const char *name = json_text(instance, "name");
	json_t *image;
	bool agent;
	int ret = image_ensure(cli, json_text(instance, "image.id"), &image, err);

	if (ret < 0)
		return ret;
	agent = json_is_true(json_object_get(image, "agent"));
	json_decref(image);
	if (agent)
		return exec_in(cli, args, name, args->count > 1 ? args->words + 1 : NULL, err);
	/* without an agent in the guest its console is all there is */
	if (args->count > 1)
		return err_set(err, EREMOTEIO,
			       "image '%.128s': has no agent that could run a command",
			       args->words[0]);
	return console_of(cli, name, err);
}

static int print_started(const struct cli *cli, const json_t *instance, struct err *err)
{
	json_t *list = json_pack("[O]", instance);
	int ret = out_results(cli, list, err);

	json_decref(list);
	return ret;
}

int cmd_run(struct cli *cli, const struct cli_args *args, struct err *err)
{
	bool rm = arg_has(args, "rm"), detach = arg_has(args, "detach");
	bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	bool used = args->count > 1 || (terminal && !detach);
	json_t *spec, *instance;
	int ret;

	if (detach && args->count > 1)
		return cli_usage(
		    err, "run: --detach starts the instance alone; run the command by exec");
	spec = json_pack("{s:b, s:b}", "start", 1, "ephemeral", rm);
	ret = spec_from_args(args, spec, err);
	if (ret < 0) {
		json_decref(spec);
		return ret;
	}
	ret = create_instance(cli, args->words[0], spec, &instance, err);
	if (ret < 0 || !instance)
		return ret;
	if (used)
		ret = use(cli, args, instance, err);
	if (rm && used)
		remove_instance(cli, json_text(instance, "id"));
	else if (!used)
		ret = print_started(cli, instance, err);
	else if (ret >= 0 && args->count == 1 && !cli->quiet)
		fprintf(stderr, "eyot: instance '%s' goes on: eyot shell, stop and rm know it\n",
			json_text(instance, "name"));
	json_decref(instance);
	return ret;
}
