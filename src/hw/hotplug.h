/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hot plug of PCI devices through ACPI: three registers by which the guest's
 * firmware tables learn which slots have changed, and give slots back.
 * vm/acpi.c writes the AML that works them.
 */
#ifndef EYOT_HW_HOTPLUG_H
#define EYOT_HW_HOTPLUG_H

#include "base/err.h"
#include "base/snap.h"
#include "hw/pci.h"
#include "hw/pm.h"
#include "vm/bus.h"

struct hotplug;

struct hotplug_config {
	struct bus *pio; /* claims PORT_HOTPLUG */
	struct pci_host *pci;
	struct pm *pm;	/* raises PM_GPE_HOTPLUG */
	uint32_t slots; /* which can be changed, a bit each */
	/* The guest has released @slots, which may be empty: they answer no more, their devices may
	 * be freed soon. On a vCPU's thread, without locks. */
	void (*ejected)(void *opaque, uint32_t slots);
	void *opaque;
};

int hotplug_new(const struct hotplug_config *cfg, struct hotplug **ret_hp, struct err *err);
void hotplug_free(struct hotplug *hp);

/** hotplug_changed() - have the guest look at a slot: something came */
void hotplug_changed(struct hotplug *hp, unsigned slot);

/** hotplug_ask() - ask the guest to release a slot, also when its device has gone without asking */
void hotplug_ask(struct hotplug *hp, unsigned slot);

void hotplug_reset(struct hotplug *hp);
void hotplug_save(struct hotplug *hp, struct snap_writer *w);
int hotplug_load(struct hotplug *hp, struct snap_reader *r, struct err *err);

#endif
