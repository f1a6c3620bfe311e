/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console's outer end: a terminal, a pseudo-terminal, a file or a socket.
 * The guest's end is a port: the serial port, or a virtio console. Loop thread.
 */
#ifndef EYOT_MONITOR_CONSOLE_H
#define EYOT_MONITOR_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "monitor/config.h"

#define CONSOLE_KEPT 65536
#define CONSOLE_WATCHERS_MAX 8

struct console;

/* Of keys that were typed: whether the one that begins a command was. */
struct console_keys {
	bool prefix;
};

/**
 * console_key() - tell what the guest gets from what is typed from what is meant for us
 * @ret: two bytes
 * Return: how many bytes are the guest's; -1: the key to leave.
 */
int console_key(struct console_keys *keys, uint8_t c, uint8_t *ret);

/* Where input goes. */
struct console_port {
	/* Takes what it has room for now; console_input_ready() when there is room again. */
	size_t (*receive)(void *dev, const uint8_t *bytes, size_t len);
	void *dev;
};

/**
 * console_open() - open the outer end
 * @path: of CONSOLE_FILE and CONSOLE_UNIX
 * @leave: the user typed the key to leave
 */
int console_open(struct loop *loop, enum console_kind kind, const char *path,
		 void (*leave)(void *arg), void *arg, struct console **ret_console,
		 struct err *err);

/**
 * console_ask_foreground() - who knows whether the terminal is this process's
 *
 * For a process that does not see its process group by itself; before console_open().
 */
void console_ask_foreground(bool (*fn)(void *arg), void *arg);

/**
 * console_release_socket() - the path of the socket that was made, for the caller to remove
 * Return: the path, to be freed; NULL when there is none.
 */
char *console_release_socket(struct console *con);

/** console_close() - restore the terminal, remove what was made; NULL is fine */
void console_close(struct console *con);

/** console_attach() - the port that gets input; borrowed until it is replaced; NULL: none */
void console_attach(struct console *con, const struct console_port *port);

/**
 * console_output() - bytes from the guest; never blocks
 * Return: how many were taken; fewer when the other side is slow.
 */
size_t console_output(struct console *con, const uint8_t *bytes, size_t len);

/** console_may_watch() - 0, or -EBUSY with a text: there are too many watchers */
int console_may_watch(const struct console *con, struct err *err);

/**
 * console_watch() - one more reader, and writer, beside the outer end
 * @fd: a stream socket, taken over
 * @bytes, @len: input that came with it
 * @history: begin with the latest output that is kept, CONSOLE_KEPT bytes at most
 *
 * A watcher that does not read misses output; the guest does not wait for it. Return: 0; -errno.
 */
int console_watch(struct console *con, int fd, const void *bytes, size_t len, bool history);

/** console_input_ready() - the port has room again */
void console_input_ready(struct console *con);

/** console_raw_terminal() - standard input as typed, until console_restore_terminal() */
void console_raw_terminal(void);

/** console_restore_terminal() - only that; safe in a signal handler and at exit */
void console_restore_terminal(void);

#endif
