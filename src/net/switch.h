/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A learning Ethernet switch between stream sockets (stream.h): the machines
 * of one user on one segment. Loop thread.
 */
#ifndef EYOT_NET_SWITCH_H
#define EYOT_NET_SWITCH_H

#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

#define SWITCH_PORTS_MAX 64
#define SWITCH_PORT_MACS 64 /* addresses kept for a port; the oldest goes for a new one */

struct net_switch;

struct switch_stats {
	unsigned ports, macs;
	uint64_t forwarded, flooded, dropped; /* frames; dropped: no room at their port */
};

/**
 * switch_new() - listen at a UNIX socket, open to this user alone
 * Return: 0; -EADDRINUSE when another one listens there; -errno, with a text.
 */
int switch_new(struct loop *loop, const char *path, struct net_switch **ret_sw, struct err *err);

/** switch_join() - also connect to something that listens at @path, passt for example */
int switch_join(struct net_switch *sw, const char *path, struct err *err);

/** switch_free() - end all ports, remove the socket; NULL is fine */
void switch_free(struct net_switch *sw);

void switch_get_stats(const struct net_switch *sw, struct switch_stats *ret_stats);

#endif
