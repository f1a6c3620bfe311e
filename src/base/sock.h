/* SPDX-License-Identifier: Apache-2.0 */
/* UNIX stream sockets with a path. */
#ifndef EYOT_BASE_SOCK_H
#define EYOT_BASE_SOCK_H

#include <sys/un.h>

#include "base/err.h"

/** unix_address() - fill an address; -EINVAL with a text when the path does not fit */
int unix_address(const char *path, struct sockaddr_un *addr, struct err *err);

/** unix_connect() - a connected, non-blocking descriptor, or -errno */
int unix_connect(const struct sockaddr_un *addr);

/**
 * unix_listen() - listen at a path, for the owner alone (mode 0600)
 * @backlog: connections that may wait
 *
 * A socket that a program left behind when it died is taken over; one at which
 * somebody listens, or a file of another kind, is not. The caller unlinks the
 * path when it ends. Changes the process's umask for a moment: one thread.
 *
 * Return: a non-blocking descriptor; -errno with a text that begins with the path.
 */
int unix_listen(const char *path, int backlog, struct err *err);

#endif
