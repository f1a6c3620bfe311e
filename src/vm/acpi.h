/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables of the machine and its reset vector, written to guest RAM in 0xE0000..0xFFFFF. */
#ifndef EYOT_VM_ACPI_H
#define EYOT_VM_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vm/mem.h"

#define ACPI_AREA_BASE 0xe0000u
#define ACPI_AREA_SIZE 0x20000u

#define ACPI_GENID_GPA (ACPI_AREA_BASE + ACPI_AREA_SIZE - PAGE_SIZE) /* a page without tables */

struct acpi_config {
	unsigned cpu_count;	/* 1 to 64; APIC IDs 0 .. count-1 */
	uint32_t hotplug_slots; /* PCI slots that can change, a bit each */
	bool has_genid;		/* a generation ID is at ACPI_GENID_GPA */
};

/**
 * acpi_build() - make all tables, and the code at F000:FFF0
 * @area: ACPI_AREA_SIZE bytes that the guest sees at ACPI_AREA_BASE; zeroed here
 * @ret_rsdp_gpa: where the root pointer stands
 *
 * Return: 0; -ENOSPC when they do not fit.
 */
int acpi_build(const struct acpi_config *cfg, uint8_t *area, uint64_t *ret_rsdp_gpa,
	       struct err *err);

#endif
