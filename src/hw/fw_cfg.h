/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration interface that firmware and test kernels know from QEMU
 * (its documentation, "QEMU Firmware Configuration (fw_cfg) Device"), read
 * only and without DMA: signature, id, RAM size, number of CPUs and the memory
 * map. It is there with --debug-exit only: other guests have ACPI for all that.
 */
#ifndef EYOT_HW_FW_CFG_H
#define EYOT_HW_FW_CFG_H

#include "base/err.h"
#include "base/snap.h"
#include "vm/bus.h"
#include "vm/mem.h"

struct fw_cfg;

/** fw_cfg_new() - claim PORT_FW_CFG; @mem is only read while this runs */
int fw_cfg_new(struct bus *pio, const struct guest_mem *mem, unsigned cpu_count,
	       struct fw_cfg **ret_fw, struct err *err);
void fw_cfg_free(struct fw_cfg *fw);
void fw_cfg_reset(struct fw_cfg *fw);
void fw_cfg_save(struct fw_cfg *fw, struct snap_writer *w);
int fw_cfg_load(struct fw_cfg *fw, struct snap_reader *r, struct err *err);

#endif
