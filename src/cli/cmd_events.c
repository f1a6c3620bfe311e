/* SPDX-License-Identifier: Apache-2.0 */
/* eyot events */
#include <string.h>
#include <time.h>

#include "cli/cli.h"

struct watch {
	const struct cli *cli;
	struct err *err;
};

/* "21:40:05 instance.state web: from stopped, to starting" */
static int on_event(void *arg, json_t *event)
{
	struct watch *w = arg;
	time_t at = (time_t)text_seconds(json_text(event, "at"));
	const char *key, *gap = ":";
	char line[1024], clock[32] = "";
	json_t *value;
	struct tm tm;
	size_t len;

	if (localtime_r(&at, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	snprintf(line, sizeof(line), "%s %s %s", clock, json_text(event, "type"),
		 json_text(event, "name"));
	json_object_foreach(json_object_get(event, "data"), key, value)
	{
		len = strlen(line);
		if (json_is_string(value) && *json_string_value(value))
			snprintf(line + len, sizeof(line) - len, "%s %s %s", gap, key,
				 json_string_value(value));
		else if (json_is_integer(value))
			snprintf(line + len, sizeof(line) - len, "%s %s %lld", gap, key,
				 (long long)json_integer_value(value));
		else
			continue;
		gap = ",";
	}
	text_clean(line);
	return out_line(w->cli, event, line, w->err);
}

int cmd_events(struct cli *cli, const struct cli_args *args, struct err *err)
{
	struct watch w = { cli, err };
	int64_t since = -1;
	json_t *instance;
	struct url u;
	int ret = arg_number(args, "since", 0, INT64_MAX, &since, err);

	url_init(&u, "/v1/events");
	if (ret == 0 && since >= 0)
		url_param_number(&u, "after", since);
	if (ret == 0 && arg_has(args, "instance")) {
		ret = instance_get(cli, arg_value(args, "instance"), &instance, err);
		if (ret == 0) {
			url_param(&u, "instance", json_text(instance, "id"));
			json_decref(instance);
		}
	}
	if (ret == 0)
		ret = api_stream(cli, &u, on_event, &w, err);
	if (ret == -EINTR)
		*err->text = '\0'; /* how one leaves it */
	return ret == 0 ? err_set(err, EHOSTDOWN, "the daemon has ended") : ret;
}
