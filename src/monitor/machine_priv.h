/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's inside, for the files that make, describe and change it. Loop thread. */
#ifndef EYOT_MONITOR_MACHINE_PRIV_H
#define EYOT_MONITOR_MACHINE_PRIV_H

#include <stdatomic.h>

#include "disk/disk.h"
#include "hw/clock.h"
#include "hw/fw_cfg.h"
#include "hw/genid.h"
#include "hw/hotplug.h"
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
#define SLOT_VSOCK (SLOT_NETS + CONFIG_NETS_MAX)
#define SLOT_BALLOON (SLOT_VSOCK + 1)
#define SLOT_SHARES (SLOT_BALLOON + 1)

#define PLATFORM_ROWS 8
#define MACHINE_ID_SIZE 64 /* of a device's id, its end included */
#define TEST_ROWS 2
#define TABLE_MAX                                                                                  \
	(PLATFORM_ROWS + TEST_ROWS + 4 + CONFIG_DISKS_MAX + CONFIG_NETS_MAX + CONFIG_SHARES_MAX)

struct machine {
	const struct config *cfg;
	struct machine_events events;
	struct vm *vm;
	struct console *con;
	struct hw_clock clock, host_clock; /* guest time; the console's */
	struct guest_clock *guest_clock;
	struct platform_ops platform;
	struct boot_file kernel, initrd;
	struct uart_backend uart_backend;
	struct console_port uart_port;
	struct uart *uart;
	struct pit *pit;
	struct rtc *rtc;
	struct kbc *kbc;
	struct pm *pm;
	struct genid *genid; /* NULL: none */
	struct pci_host *pci;
	struct hotplug *hotplug;
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
	struct virtio_dev *shares[CONFIG_SHARES_MAX];
	struct virtio_dev *vsock, *balloon;		      /* NULL: none */
	const struct config_disk *disk_cfg[CONFIG_DISKS_MAX]; /* of the disks that are there */
	const struct config_net *net_cfg[CONFIG_NETS_MAX];
	struct config_disk *own_disk_cfg[CONFIG_DISKS_MAX]; /* of those that came later */
	struct config_net *own_net_cfg[CONFIG_NETS_MAX];
	struct machine_disk_watch {
		struct machine *m;
		unsigned index, missed;
		uint64_t told_ns;
	} watches[CONFIG_DISKS_MAX];
	uint32_t removing;	  /* slots whose release was asked for */
	uint32_t vacating;	  /* slots emptied by force, which the guest has not released yet */
	_Atomic uint32_t ejected; /* slots that the guest has released, not yet freed */
	struct vm_device table[TABLE_MAX];
	unsigned table_count;
	uint64_t started_ns; /* clock_now_ns() */
	unsigned boots;	     /* times that the guest was started: 1, and each reset */
	bool paused;	     /* by machine_pause() */
	struct saver *saver; /* NULL: it is not being saved */
	int load_fd;	     /* of the saved machine to go on with; -1: none */
	atomic_bool crash_told;
};

/* machine_save.c */
/** machine_load() - the machine in load_fd; before it runs */
int machine_load(struct machine *m, struct err *err);

/* Make the device of disk_cfg[@i] or net_cfg[@i]; vCPUs parked or not yet started. */
int machine_make_disk(struct machine *m, unsigned i, struct err *err);
int machine_make_net(struct machine *m, unsigned i, struct err *err);
void machine_fill_table(struct machine *m);

/* machine_hotplug.c; @buf: MACHINE_ID_SIZE bytes for a default id */
const char *machine_disk_id(const struct machine *m, unsigned i, char *buf);
const char *machine_net_id(const struct machine *m, unsigned i, char *buf);
const char *machine_slot_id(const struct machine *m, unsigned slot, char *buf);

/** machine_give_places() - those of the configuration into disk_cfg and net_cfg: first what has a
 * place of its own, then the others from the front; -EEXIST with a text */
int machine_give_places(struct machine *m, struct err *err);

/** machine_check_id() - whether the id of a device to be made is free; -EEXIST with a text */
int machine_check_id(const struct machine *m, unsigned slot, struct err *err);

/** machine_find() - the slot of a disk or card; 0: there is none of that id */
unsigned machine_find(const struct machine *m, const char *id);

/**
 * machine_add_disk() - hot plug
 * @d: taken over on success; in a sandbox its image is open already (o.has_fd)
 * @ret_id: MACHINE_ID_SIZE bytes
 * Return: 0; -ENOSPC, -EEXIST, -EAGAIN (another program uses the image), what opening it gives.
 */
int machine_add_disk(struct machine *m, struct config_disk *d, char *ret_id, struct err *err);
int machine_add_net(struct machine *m, struct config_net *n, char *ret_id, struct err *err);

/** machine_ask_removal() - ask the guest to release a slot; events.removed tells when it has */
void machine_ask_removal(struct machine *m, unsigned slot);
/** machine_give_up_removal() - a reset shall not take it away; the guest still may release it */
void machine_give_up_removal(struct machine *m, unsigned slot);
/** machine_remove_now() - take a device away, whatever the guest does with it */
void machine_remove_now(struct machine *m, unsigned slot);
/** machine_finish_removals() - after a reset: nobody uses what was to be released */
void machine_finish_removals(struct machine *m);

uint32_t machine_hotplug_slots(void);
int machine_add_hotplug(struct machine *m, struct err *err);
void machine_forget_config(struct machine *m, unsigned slot);

#endif
