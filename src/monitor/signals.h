/* SPDX-License-Identifier: Apache-2.0 */
/* The signals that eyot-vmm reacts to. */
#ifndef EYOT_MONITOR_SIGNALS_H
#define EYOT_MONITOR_SIGNALS_H

#include "base/err.h"
#include "loop/loop.h"

/**
 * signals_init() - before any other thread exists
 * @end: SIGTERM, SIGINT, SIGHUP or SIGQUIT came
 * @power: SIGPWR came: the power button
 *
 * Both run on the loop thread. Fatal signals restore the terminal first.
 */
int signals_init(struct loop *loop, void (*end)(void *arg, int signo),
		 void (*power)(void *arg, int signo), void *arg, struct err *err);

#endif
