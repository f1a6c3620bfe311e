/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts of PCI devices: MSI-X and legacy INTx.
 *
 * MSI-X (PCI Local Bus 3.0, 6.8.2): the guest writes the table through a BAR;
 * a vector fired while it or the function is masked stays pending and is sent
 * when both masks are gone. Messages go out under the device's MSI-X lock, so
 * none is sent after a mask has been written.
 *
 * INTx: four level-triggered lines shared by all slots; a line is asserted
 * while any device asserts its pin. A device that uses MSI-X asserts none.
 */
#include "hw/pci_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define MSIX_CONTROL 2 /* offset within the capability */
#define MSIX_CONTROL_ENABLE 0x8000
#define MSIX_CONTROL_MASK 0x4000
#define MSIX_ENTRY_SIZE 16
#define MSIX_ENTRY_MASKED 1u

static bool test_pending(const struct pci_msix *m, unsigned vector)
{
	return m->pending[vector / 64] >> (vector % 64) & 1;
}

/* MSI-X lock held */
static void send_vector(struct pci_dev *dev, unsigned vector)
{
	struct pci_msix *m = &dev->msix;
	const struct pci_msix_entry *e = &m->table[vector];

	if (m->masked || e->ctrl & MSIX_ENTRY_MASKED) {
		m->pending[vector / 64] |= 1ull << (vector % 64);
		return;
	}
	m->pending[vector / 64] &= ~(1ull << (vector % 64));
	/* Only writes to the interrupt range are interrupts; others would be plain memory writes,
	 * which no driver asks for. */
	if (pci_bus_master(dev) && e->addr >> 20 == 0xfee)
		irq_msi(dev->host->irq, e->addr, e->data);
}

static void send_pending(struct pci_dev *dev)
{
	struct pci_msix *m = &dev->msix;

	if (!m->enabled || m->masked)
		return;
	for (unsigned v = 0; v < m->count; v++)
		if (test_pending(m, v))
			send_vector(dev, v);
}

static void changed(struct pci_dev *dev)
{
	if (dev->ops && dev->ops->msix_changed)
		dev->ops->msix_changed(dev);
}

static unsigned pba_offset(const struct pci_msix *m)
{
	return (unsigned)(pci_msix_bar_size(m->count) / 2);
}

static uint32_t table_read32(struct pci_msix *m, uint64_t off)
{
	uint64_t at = off - pba_offset(m);

	if (off < m->count * MSIX_ENTRY_SIZE) {
		const struct pci_msix_entry *e = &m->table[off / MSIX_ENTRY_SIZE];

		switch (off % MSIX_ENTRY_SIZE) {
		case 0:
			return (uint32_t)e->addr;
		case 4:
			return (uint32_t)(e->addr >> 32);
		case 8:
			return e->data;
		default:
			return e->ctrl;
		}
	}
	if (off < pba_offset(m) || at >= sizeof(m->pending))
		return 0;
	return (uint32_t)(m->pending[at / 8] >> (at & 4 ? 32 : 0));
}

static void table_write32(struct pci_dev *dev, uint64_t off, uint32_t val)
{
	struct pci_msix *m = &dev->msix;
	unsigned vector = (unsigned)(off / MSIX_ENTRY_SIZE);
	struct pci_msix_entry *e;

	if (off >= m->count * MSIX_ENTRY_SIZE)
		return;
	e = &m->table[vector];
	switch (off % MSIX_ENTRY_SIZE) {
	case 0:
		e->addr = (e->addr & ~0xffffffffull) | (val & ~3u);
		break;
	case 4:
		e->addr = (e->addr & 0xffffffff) | (uint64_t)val << 32;
		break;
	case 8:
		e->data = val;
		break;
	default:
		e->ctrl = val & MSIX_ENTRY_MASKED;
		if (m->enabled && test_pending(m, vector))
			send_vector(dev, vector);
		break;
	}
	changed(dev);
}

/* The specification allows aligned accesses of 4 and 8 bytes; others read zero and write nothing.
 */
static uint64_t table_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_dev *dev = opaque;
	uint64_t val;

	if (size < 4 || off % size)
		return 0;
	pthread_mutex_lock(&dev->msix.lock);
	val = table_read32(&dev->msix, off);
	if (size == 8)
		val |= (uint64_t)table_read32(&dev->msix, off + 4) << 32;
	pthread_mutex_unlock(&dev->msix.lock);
	return val;
}

static void table_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_dev *dev = opaque;

	if (size < 4 || off % size)
		return;
	pthread_mutex_lock(&dev->msix.lock);
	table_write32(dev, off, (uint32_t)val);
	if (size == 8)
		table_write32(dev, off + 4, (uint32_t)(val >> 32));
	pthread_mutex_unlock(&dev->msix.lock);
}

static const struct bus_ops table_ops = { table_read, table_write };

uint64_t pci_msix_bar_size(unsigned nvectors)
{
	uint64_t table = 2048;

	while (table < (uint64_t)nvectors * MSIX_ENTRY_SIZE)
		table *= 2;
	return 2 * table;
}

int pci_msix_init(struct pci_dev *dev, unsigned bar, unsigned nvectors)
{
	struct pci_msix *m = &dev->msix;
	uint8_t cap[10], wmask[10] = { 0, (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK) >> 8 };
	int ret;

	if (!nvectors || nvectors > PCI_MSIX_MAX || m->count)
		return -EINVAL;
	m->table = calloc(nvectors, sizeof(*m->table));
	if (!m->table)
		return -ENOMEM;
	m->count = nvectors;
	put_le16(cap, (uint16_t)(nvectors - 1));
	put_le32(cap + 2, bar);
	put_le32(cap + 6, pba_offset(m) | bar);
	ret = pci_add_bar(dev, bar, pci_msix_bar_size(nvectors), PCI_BAR_MEM32, &table_ops, dev);
	if (!ret)
		ret = pci_add_cap(dev, PCI_CAP_ID_MSIX, cap, sizeof(cap), wmask);
	if (ret < 0) {
		free(m->table);
		m->table = NULL;
		m->count = 0;
		return ret;
	}
	m->cap = (unsigned)ret;
	pci_msix_reset(dev);
	return 0;
}

void pci_msix_done(struct pci_dev *dev)
{
	free(dev->msix.table);
	dev->msix.table = NULL;
	dev->msix.count = 0;
	pthread_mutex_destroy(&dev->msix.lock);
}

void pci_msix_reset(struct pci_dev *dev)
{
	struct pci_msix *m = &dev->msix;

	pthread_mutex_lock(&m->lock);
	for (unsigned v = 0; v < m->count; v++)
		m->table[v] = (struct pci_msix_entry) { .ctrl = MSIX_ENTRY_MASKED };
	memset(m->pending, 0, sizeof(m->pending));
	pthread_mutex_unlock(&m->lock);
}

void pci_msix_update(struct pci_dev *dev)
{
	struct pci_msix *m = &dev->msix;
	uint16_t control;
	bool enabled, masked;

	if (!m->count)
		return;
	control = get_le16(dev->config + m->cap + MSIX_CONTROL);
	enabled = control & MSIX_CONTROL_ENABLE;
	masked = control & MSIX_CONTROL_MASK;
	pthread_mutex_lock(&m->lock);
	if (enabled != m->enabled || masked != m->masked) {
		__atomic_store_n(&m->enabled, enabled, __ATOMIC_RELAXED);
		m->masked = masked;
		if (!enabled)
			memset(m->pending, 0, sizeof(m->pending));
		send_pending(dev);
		changed(dev);
	}
	pthread_mutex_unlock(&m->lock);
}

bool pci_msix_enabled(struct pci_dev *dev)
{
	return __atomic_load_n(&dev->msix.enabled, __ATOMIC_RELAXED);
}

void pci_msix_fire(struct pci_dev *dev, unsigned vector)
{
	struct pci_msix *m = &dev->msix;

	pthread_mutex_lock(&m->lock);
	if (m->enabled && vector < m->count)
		send_vector(dev, vector);
	pthread_mutex_unlock(&m->lock);
}

bool pci_msix_message(struct pci_dev *dev, unsigned vector, uint64_t *ret_addr, uint32_t *ret_data)
{
	struct pci_msix *m = &dev->msix;
	bool ok = false;

	pthread_mutex_lock(&m->lock);
	if (m->enabled && !m->masked && vector < m->count &&
	    !(m->table[vector].ctrl & MSIX_ENTRY_MASKED)) {
		*ret_addr = m->table[vector].addr;
		*ret_data = m->table[vector].data;
		ok = true;
	}
	pthread_mutex_unlock(&m->lock);
	return ok;
}

void pci_msix_save(struct pci_dev *dev, struct snap_writer *w)
{
	struct pci_msix *m = &dev->msix;

	pthread_mutex_lock(&m->lock);
	snap_put_u16(w, (uint16_t)m->count);
	for (unsigned v = 0; v < m->count; v++) {
		snap_put_u64(w, m->table[v].addr);
		snap_put_u32(w, m->table[v].data);
		snap_put_u32(w, m->table[v].ctrl);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(m->pending); i++)
		snap_put_u64(w, m->pending[i]);
	pthread_mutex_unlock(&m->lock);
}

bool pci_msix_load(struct pci_dev *dev, struct snap_reader *r)
{
	struct pci_msix *m = &dev->msix;
	bool valid = snap_get_u16(r) == m->count;

	if (!valid)
		return false;
	pthread_mutex_lock(&m->lock);
	for (unsigned v = 0; v < m->count; v++) {
		m->table[v].addr = snap_get_u64(r) & ~3ull;
		m->table[v].data = snap_get_u32(r);
		m->table[v].ctrl = snap_get_u32(r) & MSIX_ENTRY_MASKED;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(m->pending); i++) {
		uint64_t bits = snap_get_u64(r);

		if (m->count < 64 * (i + 1))
			bits &= m->count > 64 * i ? (1ull << (m->count - 64 * i)) - 1 : 0;
		m->pending[i] = bits;
	}
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* --- INTx --- */

/* INTx lock held: bring the device's share of its line up to date */
static void intx_apply(struct pci_dev *dev)
{
	struct pci_host *host = dev->host;
	unsigned gsi = pci_intx_gsi(dev->slot, 1);
	unsigned *count = &host->intx_count[gsi - GSI_PCI_FIRST];
	bool want = dev->intx_level && !dev->intx_disabled;

	if (want == dev->intx_asserted)
		return;
	dev->intx_asserted = want;
	if (want ? (*count)++ == 0 : --(*count) == 0)
		irq_line(host->irq, gsi, want);
}

void pci_intx_update(struct pci_dev *dev)
{
	uint16_t command = get_le16(dev->config + PCI_REG_COMMAND);

	pthread_mutex_lock(&dev->host->intx_lock);
	dev->intx_disabled = command & PCI_COMMAND_INTX_DISABLE || pci_msix_enabled(dev);
	intx_apply(dev);
	pthread_mutex_unlock(&dev->host->intx_lock);
}

void pci_intx_set(struct pci_dev *dev, bool level)
{
	pthread_mutex_lock(&dev->host->intx_lock);
	__atomic_store_n(&dev->intx_level, level, __ATOMIC_RELAXED);
	intx_apply(dev);
	pthread_mutex_unlock(&dev->host->intx_lock);
}
