/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets with a name in the file system. */
#ifndef EYOT_NET_UNIX_H
#define EYOT_NET_UNIX_H

#include <sys/un.h>

#include "base/err.h"

/** net_unix_address() - fill in @path; -EINVAL with a text when it is too long */
int net_unix_address(const char *path, struct sockaddr_un *addr, struct err *err);

/** net_unix_connect() - a non-blocking stream socket connected to @addr; the descriptor or -errno
 */
int net_unix_connect(const struct sockaddr_un *addr);

/**
 * net_unix_listen() - a non-blocking stream socket that listens at @addr, for this user alone
 * A socket that a program left behind when it died is taken over; one that somebody listens at,
 * or a file of another kind, is not. Start-up only: the process's umask changes for a moment.
 * Return: the descriptor, whose name the caller unlinks at the end; or -errno.
 */
int net_unix_listen(const struct sockaddr_un *addr, int backlog);

#endif
