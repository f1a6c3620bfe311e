/* SPDX-License-Identifier: Apache-2.0 */
/* What the PCI files share: the host's state, and how configuration writes reach interrupts. */
#ifndef EYOT_HW_PCI_PRIV_H
#define EYOT_HW_PCI_PRIV_H

#include "hw/pci.h"

#define PCI_INTX_LINES 4

struct pci_host {
	pthread_mutex_t lock; /* configuration spaces, devs, address */
	struct pci_dev *devs[PCI_SLOT_COUNT];
	uint32_t address;      /* port 0xcf8 */
	uint8_t reset_control; /* port 0xcf9 */

	pthread_mutex_t intx_lock; /* innermost: line counts and the devices' intx_* */
	unsigned intx_count[PCI_INTX_LINES];

	struct bus *pio, *mmio;
	const struct irq_sink *irq;
	const struct platform_ops *platform;
	struct pci_dev bridge;
};

/* Host lock held: the guest may have written the message control or the command register. */
void pci_msix_update(struct pci_dev *dev);
void pci_intx_update(struct pci_dev *dev);

void pci_msix_reset(struct pci_dev *dev);
void pci_msix_done(struct pci_dev *dev);
void pci_msix_save(struct pci_dev *dev, struct snap_writer *w);
/* Reads table and pending bits; false when they do not fit this device */
bool pci_msix_load(struct pci_dev *dev, struct snap_reader *r);

#endif
