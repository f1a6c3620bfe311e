/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line is read by tables: the same ones that --help and completion print. Options may
 * stand anywhere before "--"; of verbs that take a command of the guest's, those behind the
 * first word of the command belong to the command.
 */
#include <getopt.h>
#include <stdarg.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"

#define OPTIONS_MAX 40

const struct cli_option cli_common_options[] = {
	{ "format", 'f', "FORMAT", "table, compact, json, csv or yaml",
	  .choices = "table|compact|json|csv|yaml" },
	{ "quiet", 'q', NULL, "names alone, no progress" },
	{ "project", 0, "NAME", "the project (default: $EYOT_PROJECT, or default)" },
	{ "socket", 0, "PATH", "the daemon's socket (default: $EYOT_SOCKET, or this user's)",
	  COMPLETE_FILE },
	{ "system", 0, NULL, "the daemon of the system, not this user's" },
	{ "help", 'h', NULL, "this text" },
	{ 0 },
};

const struct cli_option cli_dry_run_options[] = {
	{ "dry-run", 'n', NULL, "say what would be done, and do nothing" },
	{ 0 },
};

const struct cli_verb *cli_find_verb(int argc, char **argv, int *ret_used)
{
	for (const struct cli_verb *v = cli_verbs; v->name; v++) {
		size_t len = argc > 0 ? strlen(argv[0]) : 0;

		if (!len || strncmp(v->name, argv[0], len))
			continue;
		if (!v->name[len]) {
			*ret_used = 1;
			return v;
		}
		if (v->name[len] == ' ' && argc > 1 && !strcmp(v->name + len + 1, argv[1])) {
			*ret_used = 2;
			return v;
		}
	}
	return NULL;
}

int cli_usage(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int parse_format(const char *text, enum cli_format *ret, struct err *err)
{
	static const char *const names[] = { "table", "compact", "json", "csv", "yaml" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(text, names[i])) {
			*ret = (enum cli_format)i;
			return 0;
		}
	return cli_usage(err, "format '%.40s': is not one of table, compact, json, csv, yaml",
			 text);
}

int cli_take_common(struct cli *cli, const struct cli_option *option, const char *value,
		    struct err *err)
{
	if (!strcmp(option->name, "format"))
		return parse_format(value, &cli->format, err);
	if (!strcmp(option->name, "quiet"))
		cli->quiet = true;
	else if (!strcmp(option->name, "project"))
		cli->project = value;
	else if (!strcmp(option->name, "socket"))
		cli->given_socket = value;
	else if (!strcmp(option->name, "system"))
		cli->system = true;
	else if (!strcmp(option->name, "dry-run"))
		cli->dry_run = true;
	else
		return 1;
	return 0;
}

struct getopt_table {
	struct option longs[OPTIONS_MAX + 1];
	const struct cli_option *of[OPTIONS_MAX];
	char letters[2 * OPTIONS_MAX + 4];
	unsigned count;
};

static void add_options(struct getopt_table *t, const struct cli_option *options)
{
	for (const struct cli_option *o = options; o && o->name && t->count < OPTIONS_MAX; o++) {
		size_t len = strlen(t->letters);

		t->longs[t->count].name = o->name;
		t->longs[t->count].has_arg = o->arg ? required_argument : no_argument;
		t->longs[t->count].val = 256 + (int)t->count;
		t->of[t->count++] = o;
		if (o->letter) {
			t->letters[len] = o->letter;
			t->letters[len + 1] = o->arg ? ':' : '\0';
		}
	}
}

static const struct cli_option *option_of(const struct getopt_table *t, int c)
{
	if (c >= 256)
		return t->of[c - 256];
	for (unsigned i = 0; i < t->count; i++)
		if (t->of[i]->letter == c)
			return t->of[i];
	return NULL;
}

static int bad_option(const struct cli_verb *verb, const struct getopt_table *t, int c, char *word,
		      struct err *err)
{
	if (c == ':')
		return cli_usage(err, "%s: option '%.60s' wants a value", verb->name, word);
	if (optopt >= 256)
		return cli_usage(err, "%s: option '--%s' takes no value", verb->name,
				 t->of[optopt - 256]->name);
	if (optopt)
		return cli_usage(err, "%s: option '-%c': unknown; see eyot %s --help", verb->name,
				 optopt, verb->name);
	return cli_usage(err, "%s: option '%.60s': unknown; see eyot %s --help", verb->name, word,
			 verb->name);
}

static int take(struct cli *cli, struct cli_args *args, const struct cli_option *o,
		const char *value, struct err *err)
{
	int ret = cli_take_common(cli, o, value, err);

	if (ret <= 0)
		return ret;
	if (args->given_count == CLI_GIVEN_MAX)
		return cli_usage(err, "more than %d options", CLI_GIVEN_MAX);
	args->given[args->given_count].option = o;
	args->given[args->given_count++].value = value ? value : "";
	return 0;
}

static int check_words(const struct cli_verb *verb, struct cli_args *args, struct err *err)
{
	if (args->count < verb->min)
		return cli_usage(err, "%s: wants %s; see eyot %s --help", verb->name, verb->words,
				 verb->name);
	args->command = args->count;
	if (verb->command && args->count > verb->max)
		args->command = verb->max;
	else if (verb->max >= 0 && args->count > verb->max)
		return cli_usage(err, "%s: '%.60s' is too much; see eyot %s --help", verb->name,
				 args->words[verb->max], verb->name);
	for (int i = 0; i < args->command; i++)
		if (!*args->words[i])
			return cli_usage(err, "%s: wants %s, not an empty word", verb->name,
					 verb->words);
	return 0;
}

int cli_parse(struct cli *cli, const struct cli_verb *verb, int argc, char **argv,
	      struct cli_args *ret_args, bool *ret_help, struct err *err)
{
	struct getopt_table t = { .letters = "-:" };
	char *words[2] = { NULL, NULL };
	int c, count = 0, ret = 0;

	memset(ret_args, 0, sizeof(*ret_args));
	*ret_help = false;
	add_options(&t, cli_common_options);
	if (verb->changes)
		add_options(&t, cli_dry_run_options);
	add_options(&t, verb->options);
	if (!verb->command)
		memmove(t.letters, t.letters + 1, strlen(t.letters)); /* it moves words back */
	optind = 0;
	opterr = 0;
	/* argv[-1], the verb's own word, stands where getopt() wants the program's name */
	while (ret == 0 && (c = getopt_long(argc + 1, argv - 1, t.letters, t.longs, NULL)) != -1) {
		const struct cli_option *o = c == '?' || c == ':' ? NULL : option_of(&t, c);

		if (c == 1) {
			/* what follows the first word of a command is the command's */
			if (count == verb->max) {
				optind--;
				break;
			}
			words[count++] = optarg;
			continue;
		}
		if (!o)
			return bad_option(verb, &t, c, (argv - 1)[optind - 1], err);
		if (!strcmp(o->name, "help")) {
			*ret_help = true;
			return 0;
		}
		ret = take(cli, ret_args, o, o->arg ? optarg : NULL, err);
	}
	if (ret < 0)
		return ret;
	/* the words before go where they join what is left */
	ret_args->words = argv - 1 + optind - count;
	ret_args->count = argc + 1 - optind + count;
	for (int i = 0; i < count; i++)
		ret_args->words[i] = words[i];
	return check_words(verb, ret_args, err);
}

bool arg_has(const struct cli_args *args, const char *name)
{
	return arg_value(args, name) != NULL;
}

const char *arg_value(const struct cli_args *args, const char *name)
{
	const char *value, *last = NULL;
	unsigned pos = 0;

	while ((value = arg_next(args, name, &pos)))
		last = value;
	return last;
}

const char *arg_next(const struct cli_args *args, const char *name, unsigned *pos)
{
	while (*pos < args->given_count) {
		unsigned i = (*pos)++;

		if (!strcmp(args->given[i].option->name, name))
			return args->given[i].value;
	}
	return NULL;
}

int arg_number(const struct cli_args *args, const char *name, int64_t min, int64_t max,
	       int64_t *ret, struct err *err)
{
	const char *text = arg_value(args, name);
	char *end;
	long long v;

	if (!text)
		return 0;
	errno = 0;
	v = strtoll(text, &end, 10);
	if (errno || end == text || *end || v < min || v > max)
		return cli_usage(err, "--%s '%.40s': is not a number from %lld to %lld", name, text,
				 (long long)min, (long long)max);
	*ret = v;
	return 0;
}
