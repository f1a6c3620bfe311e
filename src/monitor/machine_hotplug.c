/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks and network cards that come and go while the machine runs.
 *
 * A new device is made while all vCPUs are parked, so that the guest never sees
 * half of one; then its slot is announced. A removal asks the guest first
 * (hw/hotplug.h). What the guest releases reads as empty from that moment on,
 * on the vCPU's thread; the loop thread then parks the vCPUs, so that none is in
 * one of the device's callbacks, and frees it. By force the guest is asked
 * afterwards to release what has gone; until it does, nothing new comes to that
 * slot, as its answer would be taken for the new device's.
 *
 * Disk i has slot SLOT_DISKS + i, card i slot SLOT_NETS + i, whether they were
 * there at start or came later; the device table is made anew after each change,
 * so that saved state has one order.
 */
#include <stdio.h>

#include "base/util.h"
#include "monitor/config_disk.h"
#include "monitor/machine_priv.h"

const char *machine_disk_id(const struct machine *m, unsigned i, char *buf)
{
	snprintf(buf, MACHINE_ID_SIZE, "disk%u", i);
	return m->disk_cfg[i] && m->disk_cfg[i]->id ? m->disk_cfg[i]->id : buf;
}

const char *machine_net_id(const struct machine *m, unsigned i, char *buf)
{
	snprintf(buf, MACHINE_ID_SIZE, "net%u", i);
	return m->net_cfg[i] && m->net_cfg[i]->id ? m->net_cfg[i]->id : buf;
}

unsigned machine_find(const struct machine *m, const char *id)
{
	char buf[MACHINE_ID_SIZE];

	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++)
		if (m->blks[i] && !strcmp(machine_disk_id(m, i, buf), id))
			return SLOT_DISKS + i;
	for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
		if (m->nets[i] && !strcmp(machine_net_id(m, i, buf), id))
			return SLOT_NETS + i;
	return 0;
}

const char *machine_slot_id(const struct machine *m, unsigned slot, char *buf)
{
	return slot >= SLOT_NETS ? machine_net_id(m, slot - SLOT_NETS, buf)
				 : machine_disk_id(m, slot - SLOT_DISKS, buf);
}

static struct virtio_dev *at_slot(const struct machine *m, unsigned slot)
{
	if (slot >= SLOT_NETS && slot < SLOT_NETS + CONFIG_NETS_MAX)
		return m->nets[slot - SLOT_NETS];
	return slot >= SLOT_DISKS && slot < SLOT_NETS ? m->blks[slot - SLOT_DISKS] : NULL;
}

/* ---- places ---- */

int machine_give_places(struct machine *m, struct err *err)
{
	const struct config *cfg = m->cfg;

	for (unsigned pass = 0; pass < 2; pass++) {
		unsigned next = 0;

		for (unsigned i = 0; i < cfg->disk_count; i++) {
			const struct config_disk *d = &cfg->disks[i];

			if ((d->place == 0) != pass)
				continue;
			while (pass && m->disk_cfg[next])
				next++;
			if (m->disk_cfg[pass ? next : d->place - 1])
				return err_set(err, EEXIST, "disk '%s': place %u is taken", d->path,
					       d->place - 1);
			m->disk_cfg[pass ? next : d->place - 1] = d;
		}
		next = 0;
		for (unsigned i = 0; i < cfg->net_count; i++) {
			const struct config_net *n = &cfg->nets[i];

			if ((n->place == 0) != pass)
				continue;
			while (pass && m->net_cfg[next])
				next++;
			if (m->net_cfg[pass ? next : n->place - 1])
				return err_set(err, EEXIST, "net '%s': place %u is taken",
					       net_kind_name(n->net.kind), n->place - 1);
			m->net_cfg[pass ? next : n->place - 1] = n;
		}
	}
	return 0;
}

/* ---- adding ---- */

int machine_check_id(const struct machine *m, unsigned slot, struct err *err)
{
	char buf[MACHINE_ID_SIZE];
	const char *id = machine_slot_id(m, slot, buf);

	return machine_find(m, id) ? err_set(err, EEXIST, "id '%s': two devices have it", id) : 0;
}

/* The slot of @place, or the first free one of @count from @first on; 0: none. */
static unsigned free_place(const struct machine *m, unsigned first, unsigned count, unsigned place)
{
	for (unsigned slot = first; slot < first + count; slot++)
		if (!at_slot(m, slot) && !(m->vacating & 1u << slot) &&
		    (!place || slot == first + place - 1))
			return slot;
	return 0;
}

/* Make the device of @slot, whose configuration is in its place; the guest is not told yet. */
static int plug(struct machine *m, unsigned slot, char *ret_id, struct err *err)
{
	bool is_net = slot >= SLOT_NETS;
	int ret = vm_park(m->vm, err);

	snprintf(ret_id, MACHINE_ID_SIZE, "%s", machine_slot_id(m, slot, ret_id));
	if (ret < 0)
		return ret;
	ret = is_net ? machine_make_net(m, slot - SLOT_NETS, err)
		     : machine_make_disk(m, slot - SLOT_DISKS, err);
	if (ret == 0)
		machine_fill_table(m);
	vm_resume(m->vm);
	return ret;
}

int machine_add_disk(struct machine *m, struct config_disk *d, char *ret_id, struct err *err)
{
	unsigned slot = free_place(m, SLOT_DISKS, CONFIG_DISKS_MAX, d->place),
		 i = slot - SLOT_DISKS;
	struct config_disk *own;
	int ret;

	if (!slot)
		return err_set(err, ENOSPC, "disk '%s': %s taken", d->path,
			       d->place ? "its place is" : "all places for disks are");
	own = malloc(sizeof(*own));
	if (!own)
		return err_set(err, ENOMEM, "disk '%s': out of memory", d->path);
	*own = *d;
	m->disk_cfg[i] = own;
	ret = plug(m, slot, ret_id, err);
	if (ret < 0) {
		disk_close(m->disks[i]);
		m->disks[i] = NULL;
		m->disk_cfg[i] = NULL;
		free(own);
		return ret;
	}
	own->o.has_fd = false; /* it was the caller's */
	m->own_disk_cfg[i] = own;
	memset(d, 0, sizeof(*d));
	hotplug_changed(m->hotplug, slot);
	return 0;
}

int machine_add_net(struct machine *m, struct config_net *n, char *ret_id, struct err *err)
{
	unsigned slot = free_place(m, SLOT_NETS, CONFIG_NETS_MAX, n->place), i = slot - SLOT_NETS;
	struct config_net *own;
	int ret;

	if (!slot)
		return err_set(err, ENOSPC, "net: %s taken",
			       n->place ? "its place is" : "all places for cards are");
	own = malloc(sizeof(*own));
	if (!own)
		return err_set(err, ENOMEM, "net: out of memory");
	*own = *n;
	m->net_cfg[i] = own;
	ret = plug(m, slot, ret_id, err);
	if (ret < 0) {
		m->net_cfg[i] = NULL;
		free(own);
		return ret;
	}
	m->own_net_cfg[i] = own;
	memset(n, 0, sizeof(*n));
	hotplug_changed(m->hotplug, slot);
	return 0;
}

/* ---- removing ---- */

void machine_forget_config(struct machine *m, unsigned slot)
{
	if (slot >= SLOT_NETS) {
		unsigned i = slot - SLOT_NETS;

		if (m->own_net_cfg[i])
			config_net_done(m->own_net_cfg[i]);
		free(m->own_net_cfg[i]);
		m->own_net_cfg[i] = NULL;
		m->net_cfg[i] = NULL;
	} else {
		unsigned i = slot - SLOT_DISKS;

		if (m->own_disk_cfg[i])
			config_disk_done(m->own_disk_cfg[i]);
		free(m->own_disk_cfg[i]);
		m->own_disk_cfg[i] = NULL;
		m->disk_cfg[i] = NULL;
	}
}

/* vCPUs are parked. */
static void free_slot(struct machine *m, unsigned slot)
{
	char buf[MACHINE_ID_SIZE], id[MACHINE_ID_SIZE];
	bool is_net = slot >= SLOT_NETS;

	snprintf(id, sizeof(id), "%s", machine_slot_id(m, slot, buf));
	if (is_net) {
		virtio_dev_free(m->nets[slot - SLOT_NETS]);
		m->nets[slot - SLOT_NETS] = NULL;
	} else {
		virtio_dev_free(m->blks[slot - SLOT_DISKS]);
		disk_close(m->disks[slot - SLOT_DISKS]);
		m->blks[slot - SLOT_DISKS] = NULL;
		m->disks[slot - SLOT_DISKS] = NULL;
	}
	machine_forget_config(m, slot);
	machine_fill_table(m);
	m->removing &= ~(1u << slot);
	if (m->events.removed)
		m->events.removed(m->events.arg, slot, id);
}

static void free_slots(struct machine *m, uint32_t slots)
{
	struct err err;

	/* A machine that cannot be parked is about to end. */
	if (vm_park(m->vm, &err) < 0)
		return;
	for (unsigned slot = 0; slot < PCI_SLOT_COUNT; slot++)
		if (slots & 1u << slot && at_slot(m, slot))
			free_slot(m, slot);
	vm_resume(m->vm);
}

/* The guest has released slots: on the loop thread. */
static void free_ejected(void *arg)
{
	struct machine *m = arg;

	uint32_t slots = atomic_exchange(&m->ejected, 0);

	m->vacating &= ~slots;
	free_slots(m, slots);
}

/* The same on the vCPU's thread. */
static void ejected(void *opaque, uint32_t slots)
{
	struct machine *m = opaque;

	atomic_fetch_or(&m->ejected, slots);
	loop_call(m->vm->loop, free_ejected, m);
}

void machine_ask_removal(struct machine *m, unsigned slot)
{
	m->removing |= 1u << slot;
	hotplug_ask(m->hotplug, slot);
}

void machine_give_up_removal(struct machine *m, unsigned slot)
{
	m->removing &= ~(1u << slot);
}

void machine_remove_now(struct machine *m, unsigned slot)
{
	struct err err;

	/* What is in flight still completes: a driver may wait for it for ever. */
	if (vm_park(m->vm, &err) < 0)
		return;
	virtio_dev_quiesce(at_slot(m, slot));
	pci_hide(m->pci, slot);
	free_slots(m, 1u << slot);
	vm_resume(m->vm);
	m->vacating |= 1u << slot;
	hotplug_ask(m->hotplug, slot);
}

void machine_finish_removals(struct machine *m)
{
	m->vacating = 0;
	free_slots(m, m->removing);
}

uint32_t machine_hotplug_slots(void)
{
	return ((1u << CONFIG_DISKS_MAX) - 1) << SLOT_DISKS | ((1u << CONFIG_NETS_MAX) - 1)
								  << SLOT_NETS;
}

int machine_add_hotplug(struct machine *m, struct err *err)
{
	struct hotplug_config cfg = { .pio = &m->vm->pio,
				      .pci = m->pci,
				      .pm = m->pm,
				      .slots = machine_hotplug_slots(),
				      .ejected = ejected,
				      .opaque = m };

	return hotplug_new(&cfg, &m->hotplug, err);
}
