/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why ACPI and not PCI Express's own hot plug: devices stay on the root bus, so
 * there are neither bridges with windows to lay out nor bus numbers to hand
 * out; a guest removes a device when it is asked to, not after the five
 * seconds' grace of an attention button; and Linux (acpiphp) has it built in
 * wherever it has ACPI and PCI.
 *
 * Registers at PORT_HOTPLUG, 4 bytes each, a bit per slot:
 *   0 changed   look at these slots; reading clears
 *   4 wanted    release these, please; reading clears
 *   8 eject     written by _EJ0: these are released
 *
 * A change sets a bit and raises PM_GPE_HOTPLUG, whose method reads both registers
 * and notifies the slots' devices. A slot that the guest has ejected reads as
 * empty at once, so that a scan of the bus right after it finds nothing; its
 * device is freed later, on the loop thread.
 */
#include "hw/hotplug.h"

#include <pthread.h>

#include "base/util.h"

#define REG_CHANGED 0
#define REG_WANTED 4
#define REG_EJECT 8

#define SNAP_NAME "hotplug"
#define SNAP_VERSION 1

struct hotplug {
	struct hotplug_config cfg;
	pthread_mutex_t lock; /* guards what follows */
	uint32_t changed, wanted;
};

static uint64_t hotplug_read(void *dev, uint64_t off, unsigned size)
{
	struct hotplug *hp = dev;
	uint32_t *reg = off == REG_CHANGED ? &hp->changed : off == REG_WANTED ? &hp->wanted : NULL;
	uint32_t val = 0;

	if (size != 4 || !reg)
		return 0;
	pthread_mutex_lock(&hp->lock);
	val = *reg;
	*reg = 0;
	pthread_mutex_unlock(&hp->lock);
	return val;
}

static void hotplug_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct hotplug *hp = dev;
	uint32_t slots = (uint32_t)val & hp->cfg.slots;

	if (size != 4 || off != REG_EJECT)
		return;
	for (unsigned slot = 0; slot < PCI_SLOT_COUNT; slot++)
		if (slots & 1u << slot)
			pci_hide(hp->cfg.pci, slot);
	if (slots)
		hp->cfg.ejected(hp->cfg.opaque, slots);
}

static const struct bus_ops hotplug_ops = { hotplug_read, hotplug_write };

static void raise_bit(struct hotplug *hp, uint32_t *reg, unsigned slot)
{
	pthread_mutex_lock(&hp->lock);
	*reg |= 1u << slot;
	pthread_mutex_unlock(&hp->lock);
	pm_gpe_raise(hp->cfg.pm, PM_GPE_HOTPLUG);
}

void hotplug_changed(struct hotplug *hp, unsigned slot)
{
	raise_bit(hp, &hp->changed, slot);
}

void hotplug_ask(struct hotplug *hp, unsigned slot)
{
	raise_bit(hp, &hp->wanted, slot);
}

void hotplug_reset(struct hotplug *hp)
{
	pthread_mutex_lock(&hp->lock);
	hp->changed = hp->wanted = 0;
	pthread_mutex_unlock(&hp->lock);
}

int hotplug_new(const struct hotplug_config *cfg, struct hotplug **ret_hp, struct err *err)
{
	struct hotplug *hp = calloc(1, sizeof(*hp));
	int ret;

	if (!hp)
		return err_set(err, ENOMEM, "hot plug: out of memory");
	hp->cfg = *cfg;
	pthread_mutex_init(&hp->lock, NULL);
	ret = bus_add(cfg->pio, PORT_HOTPLUG, PORT_HOTPLUG_SIZE, &hotplug_ops, hp);
	if (ret < 0) {
		hotplug_free(hp);
		return err_set(err, -ret, "hot plug: cannot claim its ports: %s", strerror(-ret));
	}
	*ret_hp = hp;
	return 0;
}

void hotplug_free(struct hotplug *hp)
{
	if (!hp)
		return;
	bus_del(hp->cfg.pio, PORT_HOTPLUG, hp);
	pthread_mutex_destroy(&hp->lock);
	free(hp);
}

void hotplug_save(struct hotplug *hp, struct snap_writer *w)
{
	pthread_mutex_lock(&hp->lock);
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u32(w, hp->changed);
	snap_put_u32(w, hp->wanted);
	snap_close(w);
	pthread_mutex_unlock(&hp->lock);
}

int hotplug_load(struct hotplug *hp, struct snap_reader *r, struct err *err)
{
	uint32_t changed, wanted, version;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	changed = snap_get_u32(r);
	wanted = snap_get_u32(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if ((changed | wanted) & ~hp->cfg.slots)
		return err_set(err, EBADMSG, "hot plug: saved state names slots that are fixed");
	pthread_mutex_lock(&hp->lock);
	hp->changed = changed;
	hp->wanted = wanted;
	pthread_mutex_unlock(&hp->lock);
	return 0;
}
