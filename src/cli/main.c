/* SPDX-License-Identifier: Apache-2.0 */
/* eyot: finds the verb, and is the one place that prints its error. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "cli/cli.h"
#include "version.h"

int cli_status(const struct cli_verb *verb, int ret)
{
	if (ret >= 0)
		return ret;
	if (ret == -EINTR)
		return CLI_INTERRUPTED;
	if (verb && verb->status)
		return CLI_EXEC_ERROR;
	switch (ret) {
	case -EINVAL:
		return CLI_USAGE;
	case -ENOENT:
		return CLI_NOT_FOUND;
	case -EREMOTEIO:
		return CLI_REFUSED;
	case -ETIMEDOUT:
		return CLI_TIMEOUT;
	default:
		return CLI_HOST;
	}
}

/* Options that stand before the verb */
static int take_leading(struct cli *cli, int argc, char **argv, int *ret_at, bool *ret_help,
			bool *ret_version, struct err *err)
{
	int at = 1;

	for (; at < argc && argv[at][0] == '-' && argv[at][1]; at++) {
		const struct cli_option *o = cli_common_options;
		const char *value = NULL;
		int ret;

		if (!strcmp(argv[at], "--version")) {
			*ret_version = true;
			continue;
		}
		for (; o->name; o++) {
			const char *word = argv[at];
			size_t len = strlen(o->name);

			if (o->letter && word[1] == o->letter && !word[2])
				break;
			if (!strncmp(word, "--", 2) && !strncmp(word + 2, o->name, len) &&
			    (!word[2 + len] || (word[2 + len] == '=' && o->arg))) {
				value = word[2 + len] ? word + 3 + len : NULL;
				break;
			}
		}
		if (!o->name)
			return cli_usage(err, "option '%.60s': unknown; see eyot --help", argv[at]);
		if (o->arg && !value && at + 1 == argc)
			return cli_usage(err, "option '%.60s' wants a value", argv[at]);
		if (o->arg && !value)
			value = argv[++at];
		ret = cli_take_common(cli, o, value, err);
		if (ret < 0)
			return ret;
		*ret_help |= ret > 0;
	}
	*ret_at = at;
	return 0;
}

static int no_verb(int argc, char **argv, struct err *err)
{
	if (argc < 1)
		return cli_usage(err, "no verb; see eyot --help");
	if (cli_is_group(argv[0])) {
		if (argc > 1 && strcmp(argv[1], "--help") && strcmp(argv[1], "-h"))
			return cli_usage(err, "verb '%.40s %.40s': unknown; see eyot %.40s --help",
					 argv[0], argv[1], argv[0]);
		cli_print_group_help(argv[0]);
		return argc > 1 ? CLI_DONE : CLI_USAGE;
	}
	return cli_usage(err, "verb '%.60s': unknown; see eyot --help", argv[0]);
}

static int run(struct cli *cli, int argc, char **argv, const struct cli_verb **ret_verb,
	       struct err *err)
{
	bool help = false, version = false;
	struct cli_args args;
	int at = 1, used = 0, ret;

	ret = take_leading(cli, argc, argv, &at, &help, &version, err);
	if (ret < 0)
		return ret;
	if (version) {
		puts("eyot " EYOT_VERSION);
		return CLI_DONE;
	}
	if (help && at == argc) {
		cli_print_help();
		return CLI_DONE;
	}
	if (at < argc && !strcmp(argv[at], "help")) {
		/* `help` for `--help`, as one would type it */
		*ret_verb = cli_find_verb(argc - at - 1, argv + at + 1, &used);
		if (*ret_verb)
			cli_print_verb_help(*ret_verb);
		else if (at + 1 < argc && cli_is_group(argv[at + 1]))
			cli_print_group_help(argv[at + 1]);
		else if (at + 1 < argc)
			return no_verb(argc - at - 1, argv + at + 1, err);
		else
			cli_print_help();
		return CLI_DONE;
	}
	*ret_verb = cli_find_verb(argc - at, argv + at, &used);
	if (!*ret_verb)
		return no_verb(argc - at, argv + at, err);
	ret = cli_parse(cli, *ret_verb, argc - at - used, argv + at + used, &args, &help, err);
	if (ret == 0 && help) {
		cli_print_verb_help(*ret_verb);
		return CLI_DONE;
	}
	if (ret == 0)
		ret = signals_init(err);
	return ret < 0 ? ret : (*ret_verb)->run(cli, &args, err);
}

int main(int argc, char **argv)
{
	const struct cli_verb *verb = NULL;
	struct cli cli = { .project = getenv("EYOT_PROJECT"),
			   .given_socket = getenv("EYOT_SOCKET") };
	struct err err = { .text = "" };
	int ret;

	setlocale(LC_CTYPE, "");
	log_init("eyot", LOG_INFO);
	if (!cli.project || !*cli.project)
		cli.project = "default";
	if (cli.given_socket && !*cli.given_socket)
		cli.given_socket = NULL;
	if (argc > 1 && !strcmp(argv[1], "__complete")) {
		ret = completion_answer(&cli, argc - 2, argv + 2);
		http_free(cli.http);
		return ret;
	}
	ret = run(&cli, argc, argv, &verb, &err);
	http_free(cli.http);
	progress_clear();
	if (fflush(stdout) != 0 && ret >= 0)
		ret = err_set(&err, EIO, "standard output: cannot be written");
	if (ret < 0 && *err.text)
		log_error("%s", err.text);
	return cli_status(verb, ret);
}
