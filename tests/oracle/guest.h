/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest image and the slot through which cases go in and results come
 * out; the same for every accelerator.
 */
#ifndef EYOT_ORACLE_GUEST_H
#define EYOT_ORACLE_GUEST_H

#include "oracle.h"

struct guest_slot {
	volatile uint32_t cmd, done;
	uint64_t copy_src, copy_dst, copy_len;
	uint64_t cr2;
	volatile uint32_t
	    panic; /* 0x100 | vector when the runner itself faulted; cr2 is then its rip */
	uint8_t pad[20];
	struct oracle_state in, out;
	uint8_t pad2[SLOT_CODE - SLOT_OUT - ST_SIZE];
	uint8_t code[2 * PAGE];
};

_Static_assert(offsetof(struct guest_slot, panic) == SLOT_PANIC, "layout.h disagrees");
_Static_assert(offsetof(struct guest_slot, in) == SLOT_IN, "layout.h disagrees");
_Static_assert(offsetof(struct guest_slot, out) == SLOT_OUT, "layout.h disagrees");
_Static_assert(offsetof(struct guest_slot, code) == SLOT_CODE, "layout.h disagrees");

struct guest {
	uint8_t *ram; /* guest physical address 0 */
	struct guest_slot *slot;
	uint8_t *live[PAGE_COUNT];
	struct oracle_image image;
};

/** guest_build() - write the image into guest memory; @multiboot: with the boot stub's identity
 * mapping */
void guest_build(struct guest *g, uint8_t *ram, bool multiboot);

/** guest_put() - give a case to the runner */
void guest_put(struct guest *g, const struct oracle_case *c);

/** guest_take() - read the result of a case that is done */
void guest_take(struct guest *g, const struct oracle_case *c, struct oracle_result *res);

/** guest_abandon() - forget a case that never ended */
void guest_abandon(struct guest *g, const struct oracle_case *c);

#endif
