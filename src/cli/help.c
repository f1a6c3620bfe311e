/* SPDX-License-Identifier: Apache-2.0 */
/* --help, from the tables of verbs and options */
#include <string.h>

#include "cli/cli.h"

#define WORDS_COLUMN 34

static void print_verb_line(const struct cli_verb *v)
{
	char left[120];

	snprintf(left, sizeof(left), "%s%s%s", v->name, *v->words ? " " : "", v->words);
	if (strlen(left) >= WORDS_COLUMN)
		printf("  %s\n  %-*s%s\n", left, WORDS_COLUMN, "", v->summary);
	else
		printf("  %-*s%s\n", WORDS_COLUMN, left, v->summary);
}

static void print_options(const struct cli_option *options)
{
	for (const struct cli_option *o = options; o && o->name; o++) {
		char left[80], letter[6] = "    ";

		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c, ", o->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->arg ? " " : "",
			 o->arg ? o->arg : "");
		if (strlen(left) >= WORDS_COLUMN)
			printf("  %s\n  %-*s%s\n", left, WORDS_COLUMN, "", o->help);
		else
			printf("  %-*s%s\n", WORDS_COLUMN, left, o->help);
	}
}

void cli_print_help(void)
{
	fputs("usage: eyot VERB [OPTION]... [ARGUMENT]...\n"
	      "Virtual machines: make them, run them, look into them.\n"
	      "\n"
	      "  eyot run debian/12                a Debian machine, and a shell in it\n"
	      "  eyot run --rm debian/12 -- uname -a\n"
	      "                                    one command in a machine of its own\n"
	      "\n",
	      stdout);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		print_verb_line(v);
	fputs("\nOptions of all verbs:\n", stdout);
	print_options(cli_common_options);
	fputs(
	    "\nExit status: 0 done, 2 bad usage, 3 there is no such thing, 4 refused or failed,\n"
	    "5 time is up, 8 no daemon or no connection, 130 Ctrl-C. Of run, exec and shell it is\n"
	    "the command's; 125 when it could not be run at all.\n"
	    "`eyot VERB --help` tells more.\n",
	    stdout);
}

bool cli_is_group(const char *word)
{
	size_t len = strlen(word);

	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (!strncmp(v->name, word, len) && v->name[len] == ' ')
			return true;
	return false;
}

void cli_print_group_help(const char *group)
{
	size_t len = strlen(group);

	printf("usage: eyot %s VERB [OPTION]... [ARGUMENT]...\n\n", group);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (!strncmp(v->name, group, len) && v->name[len] == ' ')
			print_verb_line(v);
}

void cli_print_verb_help(const struct cli_verb *v)
{
	printf("usage: eyot %s [OPTION]...%s%s\n%s.\n", v->name, *v->words ? " " : "", v->words,
	       v->summary);
	if (v->about)
		printf("\n%s", v->about);
	if (v->options || v->changes)
		fputs("\nOptions:\n", stdout);
	print_options(v->options);
	if (v->changes)
		print_options(cli_dry_run_options);
	fputs("\nOptions of all verbs:\n", stdout);
	print_options(cli_common_options);
}
