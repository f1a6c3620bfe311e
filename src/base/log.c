/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log's name and level are the one piece of process-wide state of this
 * library: set once by main before any thread starts, only read afterwards.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *log_name = "eyot";
static enum log_level log_max = LOG_WARN;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_init(const char *name, enum log_level level)
{
	log_name = name;
	log_max = level;
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
	for (unsigned i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
		if (!strcmp(text, level_names[i])) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

enum log_level log_level(void)
{
	return log_max;
}

_Bool log_enabled(enum log_level level)
{
	return level <= log_max;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	int saved = errno, len, more;
	va_list ap;

	if (!log_enabled(level))
		return;
	len = snprintf(line, sizeof(line), "%s: %s: ", log_name, level_names[level]);
	if (len < 0 || (size_t)len >= sizeof(line) - 1)
		return;
	va_start(ap, fmt);
	more = vsnprintf(line + len, sizeof(line) - 1 - (size_t)len, fmt, ap);
	va_end(ap);
	if (more > 0)
		len += more;
	if ((size_t)len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	/* One message is one line: names of files and what files hold may have anything in them. */
	for (int i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	/* sandbox: all: write */
	while (write(STDERR_FILENO, line, (size_t)len) < 0 && errno == EINTR)
		;
	errno = saved;
}
