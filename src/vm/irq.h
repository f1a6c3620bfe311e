/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where devices send interrupts: the accelerator's interrupt controllers
 * (hw/ on bt, the kernel's on KVM). Any thread.
 */
#ifndef EYOT_VM_IRQ_H
#define EYOT_VM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

struct irq_sink {
	/* Level of an interrupt line: @gsi 0..23, IOAPIC pin (ISA IRQ 0 arrives at pin 2; 1, 3.. at
	 * their own) */
	void (*line)(void *chip, unsigned gsi, bool level);
	/* Message signalled interrupt: address 0xfeexxxxx and data as in the MSI capability */
	void (*msi)(void *chip, uint64_t addr, uint32_t data);
	void *chip;
};

static inline void irq_line(const struct irq_sink *sink, unsigned gsi, bool level)
{
	sink->line(sink->chip, gsi, level);
}

static inline void irq_msi(const struct irq_sink *sink, uint64_t addr, uint32_t data)
{
	sink->msi(sink->chip, addr, data);
}

#endif
