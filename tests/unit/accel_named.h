/* SPDX-License-Identifier: Apache-2.0 */
/* Which accelerators a test of whole machines runs on: named on its command line. */
#ifndef EYOT_TESTS_ACCEL_NAMED_H
#define EYOT_TESTS_ACCEL_NAMED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/accel.h"

/* The one of this name; without it, or when it is of no use here, the test ends. */
static const struct accel_ops *accel_named(const char *name)
{
	struct accel_probe probe;
	struct err err = { .text = "" };

	for (unsigned i = 0; accel_list[i]; i++) {
		if (strcmp(accel_list[i]->name, name))
			continue;
		if (accel_list[i]->probe(&probe, PROBE_ASKED_MS, &err) == 0)
			return accel_list[i];
		fprintf(stderr, "accelerator '%s': %s\n", name, err.text);
		exit(2);
	}
	fprintf(stderr, "accelerator '%s': not in this build\n", name);
	exit(2);
}

#endif
