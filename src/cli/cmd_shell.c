/* SPDX-License-Identifier: Apache-2.0 */
/* eyot shell NAME */
#include "cli/cmd_exec.h"

int cmd_shell(struct cli *cli, const struct cli_args *args, struct err *err)
{
	return exec_in(cli, args, args->words[0], NULL, err);
}
