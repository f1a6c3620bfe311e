/* SPDX-License-Identifier: Apache-2.0 */
/* eyot console NAME: straight to the machine's control socket (docs/control.md, "The console") */
#include "cli/cmd_exec.h"
#include "control/client.h"
#include "monitor/ctl.h"

int console_of(struct cli *cli, const char *name, struct err *err)
{
	struct control_client *client;
	json_t *endpoints, *result = NULL;
	const char *code;
	struct url u;
	int ret;

	url_instance(cli, &u, name, "/endpoints");
	ret = api_get(cli, &u, &endpoints, err);
	if (ret < 0)
		return ret;
	ret = control_connect(json_text(endpoints, "control"), &client, err);
	json_decref(endpoints);
	if (ret < 0)
		return ret == -EINVAL ? -EIO : ret;
	ret = control_call(client, "console", NULL, NULL, 0, &result, &code, err);
	json_decref(result);
	if (ret < 0) {
		control_disconnect(client);
		return ret == -EREMOTEIO ? ret : -EIO;
	}
	return ctl_console(client) == CTL_DONE
		   ? 0
		   : err_set(err, EIO, "instance '%s': the connection to its console broke", name);
}

int cmd_console(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return console_of(cli, args->words[0], err);
}
