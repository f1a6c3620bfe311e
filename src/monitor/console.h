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

struct console;

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

/** console_input_ready() - the port has room again */
void console_input_ready(struct console *con);

/** console_restore_terminal() - only that; safe in a signal handler and at exit */
void console_restore_terminal(void);

#endif
