/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual machine generation ID: 128 bits that change when a machine is loaded from
 * saved state, so that its guest knows that another one may go on from the same state. The
 * protocol is Microsoft's ("Virtual Machine Generation ID", 2012): ACPI names the place in RAM, and
 * an event tells of a change. All on the loop thread, vCPUs parked.
 */
#ifndef EYOT_HW_GENID_H
#define EYOT_HW_GENID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"
#include "hw/pm.h"
#include "vm/mem.h"

#define GENID_LEN 16

/** genid_parse() - a GUID in text, with or without braces, as it lies in memory; 0 or -EINVAL */
int genid_parse(const char *text, uint8_t *ret_id);

struct genid;

/**
 * genid_new() - @mem, @pm: borrowed
 * @gpa: where the ID is in RAM
 * @fixed: the ID; NULL: a random one, another one after each load
 */
int genid_new(const struct guest_mem *mem, uint64_t gpa, struct pm *pm, const uint8_t *fixed,
	      struct genid **ret_genid, struct err *err);
void genid_free(struct genid *g); /* NULL is fine */

/** genid_store() - put it into RAM, which has been cleared */
void genid_store(struct genid *g);

void genid_save(struct genid *g, struct snap_writer *w);

/** genid_load() - after RAM and @pm were loaded: the guest is told unless the ID is the one saved
 */
int genid_load(struct genid *g, struct snap_reader *r, struct err *err);

#endif
