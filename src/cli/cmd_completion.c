/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion: the shells' scripts ask `eyot __complete WORD...` what may stand in the place of the
 * last word. The answer is a line each, or ":files". No daemon is started for it.
 */
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"

static const char bash_script[] =
    "_eyot() {\n"
    "\tlocal cur=${COMP_WORDS[COMP_CWORD]} out\n"
    "\tout=$(\"${COMP_WORDS[0]}\" __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
    "\tif [[ $out == :files ]]; then\n"
    "\t\tcompopt -o filenames\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "\telse\n"
    "\t\tmapfile -t COMPREPLY < <(compgen -W \"$out\" -- \"$cur\")\n"
    "\tfi\n"
    "}\n"
    "complete -F _eyot eyot\n";

static const char zsh_script[] =
    "#compdef eyot\n"
    "_eyot() {\n"
    "\tlocal -a out\n"
    "\tout=(\"${(@f)$(\"${words[1]}\" __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
    "\tif [[ $out[1] == :files ]]; then\n"
    "\t\t_files\n"
    "\telse\n"
    "\t\tcompadd -a out\n"
    "\tfi\n"
    "}\n"
    "compdef _eyot eyot\n";

int cmd_completion(struct cli *cli, const struct cli_args *args, struct err *err)
{
	if (!strcmp(args->words[0], "bash"))
		fputs(bash_script, stdout);
	else if (!strcmp(args->words[0], "zsh"))
		fputs(zsh_script, stdout);
	else
		return cli_usage(err, "completion '%.40s': is not bash or zsh", args->words[0]);
	return CLI_DONE;
}

/* ---- what may stand there ---- */

static void offer(const char *text, size_t len, const char *begun)
{
	if (len >= strlen(begun) && !strncmp(text, begun, strlen(begun)))
		printf("%.*s\n", (int)len, text);
}

/* The first words of verbs, each once: "image ls" and "image rm" stand together */
static void offer_verbs(const char *begun)
{
	const char *last = "";
	size_t last_len = 0;

	for (const struct cli_verb *v = cli_verbs; v->name; v++) {
		size_t len = strcspn(v->name, " ");

		if (len == last_len && !strncmp(v->name, last, len))
			continue;
		offer(v->name, len, begun);
		last = v->name;
		last_len = len;
	}
}

static void offer_seconds(const char *group, const char *begun)
{
	size_t len = strlen(group);

	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (!strncmp(v->name, group, len) && v->name[len] == ' ')
			offer(v->name + len + 1, strlen(v->name + len + 1), begun);
}

static void offer_options(const struct cli_option *options, const char *begun)
{
	char text[64];

	for (const struct cli_option *o = options; o && o->name; o++) {
		snprintf(text, sizeof(text), "--%s", o->name);
		offer(text, strlen(text), begun);
	}
}

static void offer_choices(const char *choices, const char *begun)
{
	while (*choices) {
		size_t len = strcspn(choices, "|");

		offer(choices, len, begun);
		choices += len + (choices[len] == '|');
	}
}

static void offer_names(struct cli *cli, const char *path, const char *key, const char *end,
			const char *begun)
{
	json_t *items, *item, *name;
	char text[160];
	struct url u;
	struct err err;
	size_t i, k;

	url_init(&u, path);
	if (!strcmp(path, "/v1/instances"))
		url_param(&u, "project", cli->project);
	if (api_get_all(cli, &u, &items, &err) < 0)
		return;
	json_array_foreach(items, i, item)
	{
		const json_t *value = json_object_get(item, key);

		if (json_is_string(value)) {
			snprintf(text, sizeof(text), "%s%s", json_string_value(value), end);
			offer(text, strlen(text), begun);
		}
		json_array_foreach(value, k, name)
		    offer(json_string_value(name), json_string_length(name), begun);
	}
	json_decref(items);
}

static void offer_kind(struct cli *cli, enum cli_complete kind, const char *begun)
{
	switch (kind) {
	case COMPLETE_NOTHING:
		break;
	case COMPLETE_INSTANCE:
		offer_names(cli, "/v1/instances", "name", "", begun);
		break;
	case COMPLETE_IMAGE:
		offer("debian/12", 9, begun);
		offer_names(cli, "/v1/images", "names", "", begun);
		break;
	case COMPLETE_NETWORK:
		offer_names(cli, "/v1/networks", "name", "", begun);
		break;
	case COMPLETE_JOB:
		offer_names(cli, "/v1/jobs", "id", "", begun);
		break;
	case COMPLETE_COPY:
		if (*begun && !strpbrk(begun, "./:"))
			offer_names(cli, "/v1/instances", "name", ":", begun);
		else
			puts(":files");
		break;
	case COMPLETE_FILE:
		puts(":files");
		break;
	}
}

/* The option whose value the next word is, or NULL */
static const struct cli_option *awaits_value(const struct cli_option *options, const char *word)
{
	for (const struct cli_option *o = options; o && o->name; o++)
		if (o->arg && ((o->letter && word[0] == '-' && word[1] == o->letter && !word[2]) ||
			       (!strncmp(word, "--", 2) && !strcmp(word + 2, o->name))))
			return o;
	return NULL;
}

int completion_answer(struct cli *cli, int argc, char **argv)
{
	const char *begun = argc > 0 ? argv[argc - 1] : "";
	const struct cli_option *o = NULL;
	const struct cli_verb *verb;
	struct err err;
	int used = 0;

	if (signals_init(&err) < 0 || daemon_socket(cli, &err) < 0)
		return CLI_HOST;
	cli->given_socket = cli->socket; /* so that none is started */
	if (argc <= 1) {
		offer_verbs(begun);
		return CLI_DONE;
	}
	verb = cli_find_verb(argc - 1, argv, &used);
	if (!verb) {
		if (argc == 2)
			offer_seconds(argv[0], begun);
		return CLI_DONE;
	}
	if (argc > used + 1) {
		o = awaits_value(verb->options, argv[argc - 2]);
		o = o ? o : awaits_value(cli_common_options, argv[argc - 2]);
	}
	if (o && o->choices) {
		offer_choices(o->choices, begun);
	} else if (o) {
		offer_kind(cli, o->complete, begun);
	} else if (*begun == '-') {
		offer_options(verb->options, begun);
		if (verb->changes)
			offer_options(cli_dry_run_options, begun);
		offer_options(cli_common_options, begun);
	} else {
		offer_kind(cli, verb->complete, begun);
	}
	return fflush(stdout) == 0 ? CLI_DONE : CLI_HOST;
}
