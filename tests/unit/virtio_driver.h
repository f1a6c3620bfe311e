/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small virtio driver for tests: it works on devices as a guest does,
 * through configuration space, BARs on the memory bus and rings in guest RAM.
 */
#ifndef EYOT_TESTS_VIRTIO_DRIVER_H
#define EYOT_TESTS_VIRTIO_DRIVER_H

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "base/util.h"
#include "hw/pci.h"
#include "loop/loop.h"
#include "virtio/virtio.h"

#define DRV_RAM MIB(16)
#define DRV_SLOT 3
#define DRV_VECTORS 8

struct machine {
	struct guest_mem mem;
	struct bus pio, mmio;
	struct irq_sink irq;
	struct pci_host *pci;
	struct loop *loop;
	struct loop_timer *stop;
	uint64_t brk;	      /* next free byte of guest RAM */
	atomic_uint msi[256]; /* by vector */
	int line[24];
};

struct drv_queue {
	uint16_t size, free_desc, last_used;
	uint64_t desc, avail, used;
};

struct driver {
	struct machine *m;
	unsigned slot;
	uint64_t common, isr, device, notify; /* guest physical addresses */
	uint32_t multiplier, device_len;
	uint64_t msix_table;
	unsigned cfg_cap, msix_cap, queue_count;
	uint64_t features;
	struct drv_queue q[8];
};

struct drv_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* by the device */
};

static inline void machine_line(void *chip, unsigned gsi, bool level)
{
	((struct machine *)chip)->line[gsi] = level;
}

static inline void machine_msi(void *chip, uint64_t addr, uint32_t data)
{
	atomic_fetch_add(&((struct machine *)chip)->msi[data & 0xff], 1);
}

static inline void machine_stop(void *arg)
{
	loop_quit(((struct machine *)arg)->loop, 0);
}

static inline void machine_init(struct machine *m)
{
	struct err err;

	memset(m, 0, sizeof(*m));
	m->irq = (struct irq_sink) { .line = machine_line, .msi = machine_msi, .chip = m };
	m->brk = 0x10000;
	if (loop_new(&m->loop, &err) || loop_timer_add(m->loop, machine_stop, m, &m->stop) ||
	    guest_mem_init(&m->mem, DRV_RAM, &err) || bus_init(&m->pio) || bus_init(&m->mmio) ||
	    pci_host_new(&m->pio, &m->mmio, &m->irq, NULL, &m->pci, &err))
		abort();
}

static inline void machine_done(struct machine *m)
{
	pci_host_free(m->pci);
	bus_done(&m->pio);
	bus_done(&m->mmio);
	guest_mem_done(&m->mem);
	loop_timer_del(m->stop);
	loop_free(m->loop);
}

static inline struct virtio_env machine_env(struct machine *m)
{
	return (struct virtio_env) { .mem = &m->mem, .pci = m->pci, .loop = m->loop };
}

/* Let the loop run for a moment. */
static inline void machine_run(struct machine *m, unsigned ms)
{
	loop_timer_arm(m->stop, clock_now_ns() + ms * 1000000ull);
	loop_run(m->loop);
}

static inline uint64_t guest_alloc(struct machine *m, uint64_t len, uint64_t align)
{
	uint64_t gpa = align_up(m->brk, align);

	m->brk = gpa + len;
	if (m->brk > DRV_RAM)
		abort();
	return gpa;
}

static inline void *guest(struct machine *m, uint64_t gpa, uint64_t len)
{
	return guest_mem_ptr(&m->mem, gpa, len);
}

static inline uint32_t drv_config(struct driver *d, unsigned off, unsigned size)
{
	return (uint32_t)bus_read(&d->m->mmio, MEM_ECAM_BASE + ((uint64_t)d->slot << 15) + off,
				  size);
}

static inline void drv_config_write(struct driver *d, unsigned off, unsigned size, uint32_t val)
{
	bus_write(&d->m->mmio, MEM_ECAM_BASE + ((uint64_t)d->slot << 15) + off, size, val);
}

static inline uint64_t drv_bar(struct driver *d, unsigned bar)
{
	return drv_config(d, 0x10 + 4 * bar, 4) & ~0xfu;
}

static inline void drv_probe(struct driver *d, struct machine *m, unsigned slot)
{
	memset(d, 0, sizeof(*d));
	d->m = m;
	d->slot = slot;
	drv_config_write(d, PCI_REG_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (unsigned cap = drv_config(d, PCI_REG_CAP_PTR, 1); cap;
	     cap = drv_config(d, cap + 1, 1)) {
		uint64_t at;

		if (drv_config(d, cap, 1) == PCI_CAP_ID_MSIX) {
			d->msix_cap = cap;
			d->msix_table = drv_bar(d, drv_config(d, cap + 4, 4) & 7) +
					(drv_config(d, cap + 4, 4) & ~7u);
			continue;
		}
		if (drv_config(d, cap, 1) != PCI_CAP_ID_VENDOR)
			continue;
		at = drv_bar(d, drv_config(d, cap + 4, 1)) + drv_config(d, cap + 8, 4);
		switch (drv_config(d, cap + 3, 1)) {
		case VIRTIO_PCI_CAP_COMMON_CFG:
			d->common = at;
			break;
		case VIRTIO_PCI_CAP_ISR_CFG:
			d->isr = at;
			break;
		case VIRTIO_PCI_CAP_DEVICE_CFG:
			d->device = at;
			d->device_len = drv_config(d, cap + 12, 4);
			break;
		case VIRTIO_PCI_CAP_NOTIFY_CFG:
			d->notify = at;
			d->multiplier = drv_config(d, cap + 16, 4);
			break;
		case VIRTIO_PCI_CAP_PCI_CFG:
			d->cfg_cap = cap;
			break;
		}
	}
}

static inline uint64_t drv_get(struct driver *d, unsigned reg, unsigned size)
{
	return bus_read(&d->m->mmio, d->common + reg, size);
}

static inline void drv_set(struct driver *d, unsigned reg, unsigned size, uint64_t val)
{
	bus_write(&d->m->mmio, d->common + reg, size, val);
}

static inline uint8_t drv_status(struct driver *d)
{
	return (uint8_t)drv_get(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline uint64_t drv_offered(struct driver *d)
{
	uint64_t lo;

	drv_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	lo = drv_get(d, VIRTIO_PCI_COMMON_DF, 4);
	drv_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return lo | drv_get(d, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

/* Reset and negotiate; false when the device does not take the features. */
static inline bool drv_negotiate(struct driver *d, uint64_t features)
{
	drv_set(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	drv_set(d, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	drv_set(d, VIRTIO_PCI_COMMON_STATUS, 1,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	drv_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	drv_set(d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)features);
	drv_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	drv_set(d, VIRTIO_PCI_COMMON_GF, 4, features >> 32);
	drv_set(d, VIRTIO_PCI_COMMON_STATUS, 1, drv_status(d) | VIRTIO_CONFIG_S_FEATURES_OK);
	d->features = features;
	d->queue_count = (unsigned)drv_get(d, VIRTIO_PCI_COMMON_NUMQ, 2);
	return drv_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

/* MSI-X: vector i of the device is CPU vector 0x40 + i. */
static inline void drv_msix(struct driver *d)
{
	for (unsigned i = 0; i <= d->queue_count && i < DRV_VECTORS; i++) {
		bus_write(&d->m->mmio, d->msix_table + 16 * i, 4, 0xfee00000);
		bus_write(&d->m->mmio, d->msix_table + 16 * i + 4, 4, 0);
		bus_write(&d->m->mmio, d->msix_table + 16 * i + 8, 4, 0x40 + i);
		bus_write(&d->m->mmio, d->msix_table + 16 * i + 12, 4, 0);
	}
	drv_config_write(d, d->msix_cap + 2, 2, 0x8000);
	drv_set(d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
}

static inline void drv_queue(struct driver *d, unsigned i, uint16_t size, bool msix)
{
	struct drv_queue *q = &d->q[i];

	memset(q, 0, sizeof(*q));
	q->size = size;
	q->desc = guest_alloc(d->m, 16 * size, 16);
	q->avail = guest_alloc(d->m, 6 + 2 * size, 2);
	q->used = guest_alloc(d->m, 6 + 8 * size, 4);
	memset(guest(d->m, q->avail, 6 + 2 * size), 0, 6 + 2 * size);
	memset(guest(d->m, q->used, 6 + 8 * size), 0, 6 + 8 * size);
	drv_set(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
	drv_set(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	if (msix)
		drv_set(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, i + 1);
	drv_set(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)q->desc);
	drv_set(d, VIRTIO_PCI_COMMON_Q_DESCHI, 4, q->desc >> 32);
	drv_set(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, q->avail);
	drv_set(d, VIRTIO_PCI_COMMON_Q_USEDLO, 8, q->used);
	drv_set(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static inline void drv_ready(struct driver *d)
{
	drv_set(d, VIRTIO_PCI_COMMON_STATUS, 1, drv_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline uint16_t *q_avail_idx(struct driver *d, struct drv_queue *q)
{
	return (uint16_t *)guest(d->m, q->avail, 4) + 1;
}

static inline uint16_t q_used_idx(struct driver *d, struct drv_queue *q)
{
	return __atomic_load_n((uint16_t *)guest(d->m, q->used, 4) + 1, __ATOMIC_ACQUIRE);
}

static inline void q_desc(struct driver *d, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
			  uint16_t flags, uint16_t next)
{
	struct vring_desc *desc = guest(d->m, table + 16 * i, 16);

	*desc = (struct vring_desc) { .addr = addr, .len = len, .flags = flags, .next = next };
}

static inline void q_offer(struct driver *d, struct drv_queue *q, uint16_t head)
{
	uint16_t *idx = q_avail_idx(d, q);
	uint16_t *ring = guest(d->m, q->avail + 4, 2 * q->size);

	ring[*idx % q->size] = head;
	__atomic_store_n(idx, (uint16_t)(*idx + 1), __ATOMIC_RELEASE);
}

/* Offer a chain; descriptors are taken round the ring: the caller keeps few in flight. Returns the
 * head. */
static inline uint16_t q_add(struct driver *d, struct drv_queue *q, const struct drv_buf *bufs,
			     unsigned n)
{
	uint16_t head = q->free_desc % q->size;

	for (unsigned i = 0; i < n; i++)
		q_desc(d, q->desc, (q->free_desc + i) % q->size, bufs[i].gpa, bufs[i].len,
		       (bufs[i].write ? VRING_DESC_F_WRITE : 0) |
			   (i + 1 < n ? VRING_DESC_F_NEXT : 0),
		       (q->free_desc + i + 1) % q->size);
	q->free_desc = (uint16_t)((q->free_desc + n) % q->size);
	q_offer(d, q, head);
	return head;
}

static inline uint16_t q_add_indirect(struct driver *d, struct drv_queue *q,
				      const struct drv_buf *bufs, unsigned n)
{
	uint64_t table = guest_alloc(d->m, 16 * n, 16);
	uint16_t head = q->free_desc++ % q->size;

	for (unsigned i = 0; i < n; i++)
		q_desc(d, table, i, bufs[i].gpa, bufs[i].len,
		       (bufs[i].write ? VRING_DESC_F_WRITE : 0) |
			   (i + 1 < n ? VRING_DESC_F_NEXT : 0),
		       (uint16_t)(i + 1));
	q_desc(d, q->desc, head, table, 16 * n, VRING_DESC_F_INDIRECT, 0);
	q_offer(d, q, head);
	return head;
}

static inline void q_kick(struct driver *d, unsigned i)
{
	bus_write(&d->m->mmio, d->notify + i * d->multiplier, 2, i);
}

/* Wait for a used entry, 5 s at most; false: none came. */
static inline bool q_wait(struct driver *d, struct drv_queue *q, uint32_t *ret_head,
			  uint32_t *ret_len)
{
	const uint8_t *elem;

	for (unsigned i = 0; i < 2500 && q_used_idx(d, q) == q->last_used; i++)
		machine_run(d->m, 2);
	if (q_used_idx(d, q) == q->last_used)
		return false;
	elem = guest(d->m, q->used + 4 + 8 * (q->last_used % q->size), 8);
	q->last_used++;
	if (ret_head)
		*ret_head = get_le32(elem);
	if (ret_len)
		*ret_len = get_le32(elem + 4);
	return true;
}

#endif
