/* SPDX-License-Identifier: Apache-2.0 */
/* eyot wait NAME... */
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "loop/loop.h"

#define POLL_MS 100

/* 1: it is in the state; 0: not yet; -errno. An instance that is gone is stopped as well. */
static int look(struct cli *cli, const char *name, const char *wanted, struct err *err)
{
	json_t *instance;
	const char *state;
	int ret = instance_get(cli, name, &instance, err);

	if (ret == -ENOENT)
		return strcmp(wanted, "running") ? 1 : ret;
	if (ret < 0)
		return ret;
	state = json_text(instance, "state");
	ret = !strcmp(state, wanted) || (!strcmp(wanted, "stopped") && !strcmp(state, "failed"));
	if (!strcmp(wanted, "running") && !strcmp(state, "failed"))
		ret = err_set(err, EREMOTEIO, "instance '%s': has failed: %.200s", name,
			      json_text(instance, "last_exit.text"));
	json_decref(instance);
	return ret;
}

int cmd_wait(struct cli *cli, const struct cli_args *args, struct err *err)
{
	const char *wanted = arg_value(args, "state");
	int64_t timeout_s = -1;
	uint64_t end;
	json_t *instance;
	int ret = arg_number(args, "timeout", 0, 86400 * 365, &timeout_s, err);

	if (!wanted)
		wanted = "stopped";
	if (ret == 0 && strcmp(wanted, "stopped") && strcmp(wanted, "running") &&
	    strcmp(wanted, "gone"))
		ret =
		    cli_usage(err, "--state '%.40s': is not one of running, stopped, gone", wanted);
	/* one that never was is a mistake, one that goes meanwhile is what was waited for */
	for (int i = 0; i < args->count && ret == 0 && strcmp(wanted, "gone"); i++) {
		ret = instance_get(cli, args->words[i], &instance, err);
		if (ret == 0)
			json_decref(instance);
	}
	end = clock_now_ns() + (uint64_t)timeout_s * 1000000000ull;
	for (int i = 0; i < args->count && ret == 0; i++) {
		while ((ret = look(cli, args->words[i], wanted, err)) == 0) {
			if (timeout_s >= 0 && clock_now_ns() >= end)
				return err_set(err, ETIMEDOUT,
					       "instance '%s': is not %s after %lld s",
					       args->words[i], wanted, (long long)timeout_s);
			if (cli_sleep_ms(POLL_MS) < 0)
				return err_set(err, EINTR, "interrupted");
		}
		if (ret > 0)
			ret = 0;
	}
	return ret;
}
