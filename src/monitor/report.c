/* SPDX-License-Identifier: Apache-2.0 */
#include "monitor/report.h"

#include <ctype.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "base/util.h"

int config_report_parse(struct config *cfg, const char *text, struct err *err)
{
	struct stat st;
	char *end = NULL;
	long fd = -1;

	if (!strncmp(text, "fd:", 3) && isdigit((unsigned char)text[3]))
		fd = strtol(text + 3, &end, 10);
	if (fd < 0 || fd > 65535 || *end)
		return err_set(err, EINVAL, "report '%s': not fd:N", text);
	if (fd <= STDERR_FILENO || fstat((int)fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (fcntl((int)fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
		return err_set(err, EINVAL, "report '%s': not a file that is open for writing",
			       text);
	fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	cfg->report_fd = (int)fd;
	return 0;
}

const char *report_reason(enum vm_request_kind kind)
{
	static const char *const reasons[] = {
		[VM_NONE] = "failed",	[VM_RESET] = "rebooted", [VM_POWEROFF] = "powered-off",
		[VM_CRASH] = "crashed", [VM_QUIT] = "quit",	 [VM_DEBUG_EXIT] = "debug-exit",
		[VM_FAIL] = "failed",
	};

	return reasons[kind];
}

void report_end(struct config *cfg, enum vm_request_kind kind, const char *text, int status)
{
	json_t *line;
	_cleanup_free_ char *out = NULL;
	size_t len;

	if (cfg->report_fd < 0)
		return;
	line = json_pack("{s:s, s:s, s:i}", "reason", report_reason(kind), "text", text, "status",
			 status);
	out = line ? json_dumps(line, JSON_COMPACT) : NULL;
	json_decref(line);
	if (!out)
		return;
	len = strlen(out);
	out[len] = '\n'; /* in the place of its end */
	/* sandbox: loop: write */
	while (write(cfg->report_fd, out, len + 1) < 0 && errno == EINTR)
		;
	cfg->report_fd = -1;
}
