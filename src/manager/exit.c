/* SPDX-License-Identifier: Apache-2.0 */
/* Everything read here was written by a machine: bounded, and taken for nothing but text. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/util.h"
#include "manager/machine.h"

#define REPORT_MAX 4096
#define CONSOLE_TAIL 4096
#define CONSOLE_LINES 20

static const char *const reasons[] = {
	[EXIT_POWERED_OFF] = "powered-off", [EXIT_REBOOTED] = "rebooted",
	[EXIT_CRASHED] = "crashed",	    [EXIT_QUIT] = "quit",
	[EXIT_DEBUG_EXIT] = "debug-exit",   [EXIT_FAILED] = "failed",
	[EXIT_KILLED] = "killed",	    [EXIT_STOPPED] = "stopped"
};

/* The end of a file, at most @size - 1 bytes, and a zero byte */
static size_t read_tail(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	ssize_t n = 0;

	if (fd >= 0 && fstat(fd, &st) == 0) {
		off_t from = st.st_size > (off_t)size - 1 ? st.st_size - (off_t)size + 1 : 0;

		n = pread(fd, buf, size - 1, from);
	}
	if (fd >= 0)
		close(fd);
	if (n < 0)
		n = 0;
	buf[n] = '\0';
	return (size_t)n;
}

/* The last lines, without what moves a terminal's cursor */
static void add_console(const struct instance *inst, struct text *out)
{
	char path[PATH_SIZE], buf[CONSOLE_TAIL], clean[CONSOLE_TAIL];
	size_t len, n = 0, lines = 0, start;

	instance_path(inst, "console.log", path);
	len = read_tail(path, buf, sizeof(buf));
	for (size_t i = 0; i < len; i++) {
		if (buf[i] == '\x1b' && buf[i + 1] == '[') {
			i += 2;
			while (i < len && (unsigned char)(buf[i] - 0x20) < 0x20)
				i++;
		} else if (buf[i] == '\n' || buf[i] == '\t' || (unsigned char)buf[i] >= 0x20) {
			clean[n++] = buf[i];
		}
	}
	while (n && clean[n - 1] == '\n')
		n--;
	for (start = n; start && lines < CONSOLE_LINES; start--)
		if (clean[start - 1] == '\n' && ++lines == CONSOLE_LINES)
			break;
	text_string(out, clean + start, n - start);
}

/* The last line of the report; NULL: the machine left none */
static json_t *read_report(const struct instance *inst)
{
	char path[PATH_SIZE], buf[REPORT_MAX], *line;
	size_t len;

	instance_path(inst, "report", path);
	len = read_tail(path, buf, sizeof(buf));
	if (len && buf[len - 1] == '\n')
		buf[--len] = '\0';
	line = strrchr(buf, '\n');
	return line ? json_loads(line + 1, 0, NULL) : NULL;
}

static enum exit_reason reason_of(const char *word)
{
	for (unsigned i = 0; word && i < ARRAY_SIZE(reasons); i++)
		if (!strcmp(reasons[i], word))
			return (enum exit_reason)i;
	return EXIT_FAILED;
}

enum exit_reason exit_read(struct instance *inst, struct err *ret_text)
{
	json_t *report = read_report(inst);
	const char *word = json_string_value(json_object_get(report, "reason"));
	const char *said = json_string_value(json_object_get(report, "text"));
	const json_t *status = json_object_get(report, "status");
	enum exit_reason reason = report ? reason_of(word) : EXIT_KILLED;
	struct text t = { 0 };

	if (!report)
		snprintf(ret_text->text, sizeof(ret_text->text),
			 "its process ended without a word");
	else
		snprintf(ret_text->text, sizeof(ret_text->text), "%s",
			 said && *said ? said : reasons[reason]);
	if (inst->asked_stop)
		reason = EXIT_STOPPED;
	text_printf(&t, "{\"at\":");
	text_time(&t, time_now_ms());
	text_printf(&t, ",\"reason\":\"%s\",\"text\":", reasons[reason]);
	text_string(&t, ret_text->text, strlen(ret_text->text));
	if (json_is_integer(status))
		text_printf(&t,
			    ",\"status\":%lld,\"console\":", (long long)json_integer_value(status));
	else
		text_printf(&t, ",\"status\":null,\"console\":");
	add_console(inst, &t);
	text_add(&t, "}", 1);
	json_decref(report);
	if (!t.failed) {
		free(inst->last_exit);
		inst->last_exit = t.data;
	}
	return reason;
}
