/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot logs NAME. On a terminal, control characters and escape sequences are left out: what a guest
 * says must not move the cursor or change what is there. Elsewhere, and with --raw, it is what
 * came.
 */
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"

#define POLL_MS 250
#define BYTES_MAX 1048576

struct filter {
	bool plain;
	enum { TEXT, ESCAPE, SEQUENCE } state; /* ECMA-48, 5.4: ESC [ parameters final */
};

static bool shown(struct filter *f, unsigned char c)
{
	switch (f->state) {
	case ESCAPE:
		f->state = c == '[' ? SEQUENCE : TEXT;
		return false;
	case SEQUENCE:
		if (c >= 0x40 && c <= 0x7e)
			f->state = TEXT;
		return false;
	case TEXT:
		break;
	}
	if (c == 0x1b)
		f->state = ESCAPE;
	return c >= 0x20 ? c != 0x7f : c == '\n' || c == '\t';
}

static int print(struct filter *f, const char *text, size_t len, struct err *err)
{
	if (!f->plain) {
		fwrite(text, 1, len, stdout);
	} else {
		for (size_t i = 0; i < len; i++)
			if (shown(f, (unsigned char)text[i]))
				putchar(text[i]);
	}
	return fflush(stdout) == 0 ? 0 : err_set(err, EIO, "standard output: cannot be written");
}

/* Where the last @lines begin */
static size_t skip_to(const char *text, size_t len, int64_t lines)
{
	size_t i = len;

	if (i && text[i - 1] == '\n')
		i--;
	for (; i > 0; i--)
		if (text[i - 1] == '\n' && --lines == 0)
			break;
	return i;
}

static bool may_say_more(const char *state)
{
	static const char *const silent[] = { "stopped", "failed", "creating", "deleting" };

	for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
		if (!strcmp(state, silent[i]))
			return false;
	return true;
}

static int get(struct cli *cli, const struct cli_args *args, const uint64_t *offset, char **ret,
	       size_t *ret_len, uint64_t *ret_next, struct err *err)
{
	struct url u;

	url_instance(cli, &u, args->words[0], "/logs");
	if (arg_has(args, "monitor"))
		url_param(&u, "source", "monitor");
	url_param_number(&u, "bytes", BYTES_MAX);
	if (offset)
		url_param_number(&u, "offset", (int64_t)*offset);
	return api_get_text(cli, &u, ret, ret_len, ret_next, err);
}

static int follow(struct cli *cli, const struct cli_args *args, struct filter *f, uint64_t next,
		  struct err *err)
{
	bool last = false;
	int ret = 0;

	while (ret == 0 && !last) {
		json_t *instance;
		char *text;
		size_t len;

		ret = cli_sleep_ms(POLL_MS);
		if (ret < 0)
			break;
		/* its state first: what it said before it stopped is there then */
		ret = instance_get(cli, args->words[0], &instance, err);
		if (ret < 0)
			return ret == -ENOENT ? 0 : ret; /* it is gone, so this is the end */
		last = !may_say_more(json_text(instance, "state"));
		json_decref(instance);
		ret = get(cli, args, &next, &text, &len, &next, err);
		if (ret == 0) {
			ret = print(f, text ? text : "", len, err);
			free(text);
		}
	}
	if (ret == -EINTR)
		*err->text = '\0'; /* how one leaves it */
	return ret;
}

int cmd_logs(struct cli *cli, const struct cli_args *args, struct err *err)
{
	struct filter f = { .plain = isatty(STDOUT_FILENO) && !arg_has(args, "raw") };
	int64_t lines = 0;
	uint64_t next = 0;
	char *text;
	size_t len, from;
	int ret = arg_number(args, "lines", 1, 1000000, &lines, err);

	if (ret == 0)
		ret = get(cli, args, NULL, &text, &len, &next, err);
	if (ret < 0)
		return ret;
	from = lines ? skip_to(text ? text : "", len, lines) : 0;
	ret = print(&f, text ? text + from : "", len - from, err);
	free(text);
	if (ret == 0 && arg_has(args, "follow"))
		ret = follow(cli, args, &f, next, err);
	return ret;
}
