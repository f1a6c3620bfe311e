/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log goes to standard error, a line a message: "name: level: text".
 * Library code logs at debug level only; the main that decides logs once.
 * Control characters in it are shown as '?'.
 * Any thread may log; a line is written by one write(2).
 */
#ifndef EYOT_BASE_LOG_H
#define EYOT_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/**
 * log_init() - set the program name and the most detailed level that is shown
 * @name: borrowed, must outlive all logging
 * @level: messages above it are dropped
 */
void log_init(const char *name, enum log_level level);

/** log_level_parse() - "error", "warn", "info" or "debug"; -EINVAL for others */
int log_level_parse(const char *text, enum log_level *ret_level);

/** log_enabled() - whether a message of @level would be shown */
_Bool log_enabled(enum log_level level);

/** log_level() - the most detailed level that is shown, for a program that this one starts */
enum log_level log_level(void);

void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_DEBUG))                                                        \
			log_msg(LOG_DEBUG, __VA_ARGS__);                                           \
	} while (0)

#endif
