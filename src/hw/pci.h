/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI Express root bus: one bus (0), up to 32 single-function devices, reached
 * through ports 0xcf8/0xcfc and through ECAM (PCI Local Bus 3.0; PCI Express
 * Base 3.0, 7.2).
 *
 * No firmware runs before the guest, so pci_add_bar() gives every BAR an
 * address; the guest may move it. A BAR is on the bus only while the command
 * register enables its space. Decode is off after reset.
 *
 * Threads and locks: the host's lock guards all configuration space; BAR
 * callbacks run without any PCI lock; MSI-X state has a lock of its own per
 * device, INTx levels one per host, both innermost. So pci_msix_fire(),
 * pci_intx_set(), pci_bus_master() may be called from any thread, under a
 * device's own lock. The hooks in struct pci_dev_ops run under the host's lock
 * and may take the device's lock: never access configuration space (nor
 * pci_dev_save/load/reset) while holding it.
 */
#ifndef EYOT_HW_PCI_H
#define EYOT_HW_PCI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"
#include "hw/platform.h"
#include "vm/bus.h"
#include "vm/irq.h"

#define PCI_CONFIG_SIZE 256 /* without PCI Express capability there is no more, in ECAM either */
#define PCI_BAR_COUNT 6
#define PCI_SLOT_COUNT 32
#define PCI_MSIX_MAX 256 /* vectors of a device */

/* Registers that devices meet */
#define PCI_REG_COMMAND 0x04
#define PCI_REG_STATUS 0x06
#define PCI_REG_BAR0 0x10
#define PCI_REG_CAP_PTR 0x34
#define PCI_REG_INT_LINE 0x3c
#define PCI_REG_INT_PIN 0x3d

#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400

#define PCI_CAP_ID_VENDOR 0x09
#define PCI_CAP_ID_EXPRESS 0x10
#define PCI_CAP_ID_MSIX 0x11

/* Flags of pci_add_bar(); one kind, and PREFETCH with memory */
#define PCI_BAR_MEM32 0x0u
#define PCI_BAR_IO 0x1u
#define PCI_BAR_MEM64 0x4u /* takes the next BAR, too; placed above 4 GiB */
#define PCI_BAR_PREFETCH 0x8u

struct pci_host;
struct pci_dev;

struct pci_ids {
	uint16_t vendor, device;
	uint16_t subsys_vendor, subsys_device;
	uint32_t class_code; /* 24 bits: base class, subclass, interface, e.g. 0x010000 */
	uint8_t revision;
};

/* Hooks of a device; all optional. Under the host's lock. */
struct pci_dev_ops {
	/* Before the guest reads [@off, @off+@size) of the configuration: refresh dev->config */
	void (*config_read)(struct pci_dev *dev, unsigned off, unsigned size);
	/* After the guest's write went through the masks */
	void (*config_written)(struct pci_dev *dev, unsigned off, unsigned size);
	/* After MSI-X enable, function mask or an entry changed; under the MSI-X lock, not always
	 * the host's: note it only */
	void (*msix_changed)(struct pci_dev *dev);
	/* BAR @idx came to @addr on @bus, or is about to leave it */
	void (*bar_moved)(struct pci_dev *dev, unsigned idx, struct bus *bus, uint64_t addr,
			  bool mapped);
};

struct pci_bar {
	uint64_t size;	  /* bytes, a power of two; 0: none (or upper half of a 64-bit BAR) */
	uint64_t initial; /* address given at start and by reset */
	uint64_t mapped;  /* where it stands on the bus now */
	bool is_mapped;
	unsigned flags;
	const struct bus_ops *ops;
	void *opaque;
};

struct pci_msix_entry {
	uint64_t addr;
	uint32_t data, ctrl; /* ctrl bit 0: masked */
};

struct pci_msix {
	pthread_mutex_t lock;
	unsigned count;	      /* vectors; 0: no MSI-X */
	unsigned cap;	      /* offset of the capability */
	bool enabled, masked; /* message control bits, mirrored */
	struct pci_msix_entry *table;
	uint64_t pending[PCI_MSIX_MAX / 64];
};

/* Embedded in a device; fields are the PCI core's, except config of own capabilities. */
struct pci_dev {
	struct pci_host *host;
	const char *name; /* borrowed */
	unsigned slot;
	const struct pci_dev_ops *ops; /* may be NULL */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t wmask[PCI_CONFIG_SIZE];	  /* bits the guest may write */
	uint8_t w1cmask[PCI_CONFIG_SIZE]; /* bits the guest clears by writing 1 */
	uint8_t initial[PCI_CONFIG_SIZE]; /* what reset restores; see pci_dev_reset() */
	struct pci_bar bars[PCI_BAR_COUNT];
	unsigned cap_end;  /* next free byte for a capability */
	unsigned cap_last; /* the last capability, 0: none */
	struct pci_msix msix;
	atomic_bool master; /* bus master enable */
	bool hidden;	    /* the guest has ejected it: the slot reads empty; see pci_hide() */
	bool intx_level;    /* what the device asks for; under the host's INTx lock */
	bool intx_disabled; /* mirror of the command register; under the host's INTx lock */
	bool intx_asserted; /* counted in the host's line; under the host's INTx lock */
};

/**
 * pci_host_new() - make the root bus with its host bridge at slot 0
 * @pio: claims ports 0xcf8-0xcff (port 0xcf9 is the reset control register)
 * @mmio: claims the ECAM area; BARs come and go on both buses
 * @irq, @platform: borrowed; @platform may be NULL
 *
 * Return: 0 or -errno with a text.
 */
int pci_host_new(struct bus *pio, struct bus *mmio, const struct irq_sink *irq,
		 const struct platform_ops *platform, struct pci_host **ret_host, struct err *err);
void pci_host_free(struct pci_host *host); /* after pci_dev_done() of every device */
void pci_host_reset(
    struct pci_host *host); /* address register and host bridge; devices reset by their owners */
void pci_host_save(struct pci_host *host, struct snap_writer *w);
int pci_host_load(struct pci_host *host, struct snap_reader *r, struct err *err);

/* Configuration accesses as the guest makes them; @off + @size must not exceed 4096, @size 1, 2
 * or 4. */
uint32_t pci_config_read(struct pci_host *host, unsigned slot, unsigned off, unsigned size);
void pci_config_write(struct pci_host *host, unsigned slot, unsigned off, unsigned size,
		      uint32_t val);

/** pci_intx_gsi() - interrupt line of a slot's pin (1: INTA .. 4: INTD): 16 + (slot + pin - 1) % 4
 */
static inline unsigned pci_intx_gsi(unsigned slot, unsigned pin)
{
	return GSI_PCI_FIRST + (slot + pin - 1) % 4;
}

/**
 * pci_dev_init() - put a device on the bus
 * @dev: embedded in the caller's device; zeroed here
 * @slot: 1..31 (0 is the host bridge)
 * @name: for errors, borrowed
 * @ops: hooks, may be NULL
 *
 * Interrupt pin INTA is set. Before the guest runs, add BARs and capabilities.
 * Return: 0; -EBUSY when the slot is taken, -EINVAL.
 */
int pci_dev_init(struct pci_dev *dev, struct pci_host *host, unsigned slot, const char *name,
		 const struct pci_ids *ids, const struct pci_dev_ops *ops, struct err *err);

/** pci_dev_done() - take its BARs off the buses and leave the slot; no callback runs afterwards
 * from PCI */
void pci_dev_done(struct pci_dev *dev);

/**
 * pci_hide() - make a slot read as empty and take its device off the buses
 * For a device that the guest has released, until its owner ends it. Any thread.
 * Return: whether there was one.
 */
bool pci_hide(struct pci_host *host, unsigned slot);

/**
 * pci_add_bar() - add a BAR
 * @idx: 0..5 (0..4 with PCI_BAR_MEM64)
 * @size: bytes, a power of two, at least 16 (memory) or 4 (I/O, at most 256)
 * @flags: PCI_BAR_*
 * @ops, @opaque: register callbacks, as on a bus; offsets from the BAR's start
 *
 * Return: 0; -EINVAL; -ENOSPC when the window is full.
 */
int pci_add_bar(struct pci_dev *dev, unsigned idx, uint64_t size, unsigned flags,
		const struct bus_ops *ops, void *opaque);

/**
 * pci_add_cap() - append a capability
 * @id: capability ID
 * @bytes: its content after ID and next pointer; may be NULL for zeros
 * @len: bytes of content
 * @wmask: bits the guest may write, @len bytes; NULL: none
 *
 * Return: the capability's offset in configuration space; -ENOSPC.
 */
int pci_add_cap(struct pci_dev *dev, uint8_t id, const void *bytes, unsigned len,
		const void *wmask);

/** pci_msix_bar_size() - bytes of a BAR that holds table and PBA of @nvectors */
uint64_t pci_msix_bar_size(unsigned nvectors);

/**
 * pci_msix_init() - add MSI-X: the capability, and a 32-bit memory BAR @bar
 * of its own that holds the table (at 0) and the PBA (in its second half)
 * @nvectors: 1..PCI_MSIX_MAX
 *
 * Return: 0; -EINVAL, -ENOMEM, -ENOSPC.
 */
int pci_msix_init(struct pci_dev *dev, unsigned bar, unsigned nvectors);

/** pci_msix_enabled() - whether the guest uses MSI-X now (else INTx) */
bool pci_msix_enabled(struct pci_dev *dev);

/** pci_msix_fire() - send @vector, or note it pending while masked; nothing while MSI-X or bus
 * mastering is off */
void pci_msix_fire(struct pci_dev *dev, unsigned vector);

/** pci_msix_message() - message of @vector; false when it is masked or MSI-X is off */
bool pci_msix_message(struct pci_dev *dev, unsigned vector, uint64_t *ret_addr, uint32_t *ret_data);

/** pci_intx_set() - level of the device's INTA; has no effect on the line while disabled by the
 * guest */
void pci_intx_set(struct pci_dev *dev, bool level);

/** pci_bus_master() - whether the device may access memory */
static inline bool pci_bus_master(struct pci_dev *dev)
{
	return atomic_load_explicit(&dev->master, memory_order_acquire);
}

/** pci_dev_reset() - configuration as pci_add_*() left it, decode off, MSI-X cleared, INTx low */
void pci_dev_reset(struct pci_dev *dev);
void pci_dev_save(struct pci_dev *dev, struct snap_writer *w);
/* Into a device built the same way; -EBADMSG when it is not. */
int pci_dev_load(struct pci_dev *dev, struct snap_reader *r, struct err *err);

#endif
