/* SPDX-License-Identifier: Apache-2.0 */
/* A line of the control protocol, against the commands that eyot-vmm has. */
#include <string.h>

#include "base/util.h"
#include "monitor/command.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = { .text = "" };
	struct control_request req;
	const char *code = NULL, *key;
	json_t *value;

	if (control_parse(command_table, (const char *)data, size, &req, &code, &err) < 0) {
		if (!code || !err.text[0])
			abort();
		control_request_done(&req);
		return 0;
	}
	/* What passed is a known command with known arguments, all required ones among them. */
	if (!req.command || !json_is_object(req.args) || !req.id)
		abort();
	json_object_foreach(req.args, key, value)
	{
		const struct control_arg *arg = control_find_arg(req.command, key);

		if (!arg || control_check_arg(req.command, arg, value, &err) < 0)
			abort();
	}
	for (const struct control_arg *a = req.command->args; a && a->name; a++)
		if (a->required && !json_object_get(req.args, a->name))
			abort();
	control_request_done(&req);
	return 0;
}
