/* SPDX-License-Identifier: Apache-2.0 */
/* What this host can do for virtual machines, for people and for programs. */
#ifndef EYOT_MONITOR_PROBE_H
#define EYOT_MONITOR_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"

/**
 * probe_host() - try everything and report it
 * @json: one JSON object instead of lines for people
 *
 * Takes at most some seconds, and a few hundredths of one where nothing hangs.
 * Return: 0 or -errno with a text.
 */
int probe_host(FILE *out, bool json, struct err *err);

/** probe_os() - add processor and kernel to @root; 0 or -ENOMEM */
int probe_os(json_t *root);

#endif
