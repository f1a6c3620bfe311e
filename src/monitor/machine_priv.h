/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's inside, for the files that make, describe and change it. Loop thread. */
#ifndef EYOT_MONITOR_MACHINE_PRIV_H
#define EYOT_MONITOR_MACHINE_PRIV_H

#include <stdatomic.h>

#include "disk/disk.h"
#include "hw/clock.h"
#include "hw/fw_cfg.h"
#include "hw/kbc.h"
#include "hw/pci.h"
#include "hw/pit.h"
#include "hw/platform.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "hw/rtc.h"
#include "hw/testdev.h"
#include "hw/uart.h"
#include "monitor/machine.h"
#include "net/net.h"
#include "virtio/virtio.h"
#include "vm/boot.h"

/* PCI slots; the host bridge has 0. */
#define SLOT_RNG 1
#define SLOT_CONSOLE 2
#define SLOT_DISKS 3
#define SLOT_NETS (SLOT_DISKS + CONFIG_DISKS_MAX)

#define PLATFORM_ROWS 6
#define TEST_ROWS 2
#define TABLE_MAX (PLATFORM_ROWS + TEST_ROWS + 2 + CONFIG_DISKS_MAX + CONFIG_NETS_MAX)

struct machine {
	const struct config *cfg;
	struct machine_events events;
	struct vm *vm;
	struct console *con;
	struct hw_clock clock;
	struct platform_ops platform;
	struct boot_file kernel, initrd;
	struct uart_backend uart_backend;
	struct console_port uart_port;
	struct uart *uart;
	struct pit *pit;
	struct rtc *rtc;
	struct kbc *kbc;
	struct pm *pm;
	struct pci_host *pci;
	bool has_pvpanic, has_debug_exit;
	struct fw_cfg *fw_cfg; /* these two: NULL without --debug-exit */
	struct testdev *testdev;
	struct virtio_dev *rng, *vcon; /* vcon: NULL when the guest is not told to use it */
	struct virtio_console_backend vcon_backend;
	struct console_port vcon_port;
	bool input_to_vcon;
	struct disk *disks[CONFIG_DISKS_MAX];
	struct virtio_dev *blks[CONFIG_DISKS_MAX];
	struct virtio_dev *nets[CONFIG_NETS_MAX];
	struct vm_device table[TABLE_MAX];
	unsigned table_count;
	uint64_t started_ns; /* clock_now_ns() */
	unsigned boots;	     /* times that the guest was started: 1, and each reset */
	bool paused;	     /* by machine_pause() */
	atomic_bool crash_told;
};

#endif
