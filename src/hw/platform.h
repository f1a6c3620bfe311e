/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The platform in numbers: ports, interrupt lines and register values that the
 * devices, the ACPI writer and the boot code share, and what the platform
 * asks of the machine. Memory-mapped areas are in vm/mem.h.
 */
#ifndef EYOT_HW_PLATFORM_H
#define EYOT_HW_PLATFORM_H

#include <stdint.h>

/* Legacy ports, where every PC has them */
#define PORT_PIC_MASTER 0x20 /* 2 ports */
#define PORT_PIT 0x40	     /* 4 ports */
#define PORT_KBC_DATA 0x60   /* keyboard controller: reset pulse only */
#define PORT_NMI_STATUS 0x61 /* PIT channel 2 gate and output, refresh toggle */
#define PORT_KBC_COMMAND 0x64
#define PORT_RTC 0x70		 /* 2 ports */
#define PORT_SYSTEM_CONTROL 0x92 /* A20 (always on), reset */
#define PORT_PIC_SLAVE 0xa0	 /* 2 ports */
#define PORT_COM1 0x3f8		 /* 8 ports */
#define PORT_ELCR 0x4d0		 /* 2 ports */
#define PORT_PCI_ADDRESS 0xcf8
#define PORT_RESET_CONTROL 0xcf9
#define PORT_PCI_DATA 0xcfc

/* Ports of our own choice; ACPI tells the guest */
#define PORT_DEBUG_EXIT 0xf4 /* 4 ports, only with --debug-exit */
#define PORT_PVPANIC 0x505
#define PORT_PM_BASE 0x600
#define PORT_PM1A_EVT (PORT_PM_BASE + 0)  /* 4 ports: status, enable */
#define PORT_PM1A_CNT (PORT_PM_BASE + 4)  /* 2 ports */
#define PORT_PM_TMR (PORT_PM_BASE + 8)	  /* 4 ports, 32-bit counter: FADT TMR_VAL_EXT is set */
#define PORT_PM_GPE0 (PORT_PM_BASE + 0xc) /* 4 ports: status, enable of 16 events */
#define PORT_PM_SIZE 0x10
#define PORT_HOTPLUG 0x620 /* 12 ports; see hotplug.c */
#define PORT_HOTPLUG_SIZE 12

/* Where test kernels look for them; only with --debug-exit */
#define PORT_FW_CFG 0x510	       /* 2 ports */
#define PORT_TEST_KEEP 0xe0	       /* 4 ports */
#define PORT_TEST_LINES 0x2000	       /* 24 ports */
#define MMIO_TEST_MEMORY 0xff000000ull /* 64 KiB */

/* FADT: RESET_REG is the byte at PORT_RESET_CONTROL, RESET_VALUE this */
#define PM_RESET_VALUE 0x06
/* Of the PM1 status and enable registers */
#define PM_STS_POWER_BUTTON 0x0100u
/* SLP_TYPa of \_S5; SMI_CMD is 0: the platform is always in ACPI mode (SCI_EN reads 1) */
#define PM_SLP_TYP_S5 5

/* General purpose events: the event device's _EVT (vm/acpi.c) says what they mean */
#define PM_GPE_HOTPLUG 1 /* the hot plug registers have something */
#define PM_GPE_GENID 5	 /* the generation ID has changed */

/* Interrupt lines: IOAPIC pins (= GSIs). MADT overrides ISA 0 -> GSI 2 and ISA 9 -> level, active
 * high. */
#define GSI_PIT 2
#define GSI_COM1 4
#define GSI_RTC 8
#define GSI_SCI 9
#define GSI_PCI_FIRST                                                                              \
	16 /* 16..19: legacy PCI interrupts, level, active high; see pci_intx_gsi()                \
	    */

/* I/O ports that PCI BARs are given */
#define PCI_IO_BASE 0xc000
#define PCI_IO_SIZE 0x4000

/* What pvpanic reports */
#define PVPANIC_PANICKED 1u
#define PVPANIC_CRASH_LOADED 2u

/*
 * What the platform asks of the machine. Called on a vCPU's thread with no
 * device lock held; they only note the request and kick. Members may be NULL.
 */
struct platform_ops {
	void (*reset)(void *opaque);		      /* 0xcf9 or keyboard controller pulse */
	void (*power_off)(void *opaque);	      /* ACPI S5 */
	void (*panic)(void *opaque, unsigned events); /* PVPANIC_* bits */
	void (*debug_exit)(void *opaque,
			   uint32_t value); /* what was written to the debug exit port */
	void *opaque;
};

#endif
