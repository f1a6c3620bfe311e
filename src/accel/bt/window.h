/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows: pages of a busy address space mapped where translated code reaches them without a check.
 *
 * A window is a part of the host's address space that mirrors the guest's user addresses at a
 * constant distance. Code with KEY_WINDOW has that distance in fs and copies memory operands as
 * they are, behind an fs prefix: instead of finding the page for each access, it looks once for
 * each base register and block whether the address has the bits of WINDOW_MASK set. What is not
 * mapped there faults; the signal handler maps it and goes on, or sends the thread to C, which runs
 * the one instruction without a window.
 *
 * Programs linked to fixed addresses have those, and their heap, below 1 TiB. That is mirrored in a
 * second part of the window, at another distance, which is added in a register.
 *
 * Where. The 47 bits of a user address are 32 clusters of 4 TiB. Linux puts programs into cluster
 * 0x15, libraries and stacks into 0x1f, in the guest as on the host; both match the mask, and so do
 * 0x17 and 0x1d. Moved down by 1, 5, 0x11 or 0x15 clusters, these four come to lie in clusters with
 * even numbers and never two windows in one, so between any two parts of windows, and between those
 * and the host's own clusters, is a cluster of nothing: no displacement reaches across. Everything
 * but the host's own clusters is reserved without access. The lower parts lie in the middle of such
 * clusters. Addresses of the upper half, and those that are not canonical, fault by the hardware's
 * own checks: none of the moves makes one of the lower half out of them.
 *
 * A window is part of its vCPU's TLB: what is flushed there is unmapped here. It is writable only
 * where the tables say so, D is set, and no translated code stands on the page.
 *
 * Mapping costs about what ten thousand checks cost, so only address spaces that have run for some
 * time get a window, and one that costs more than a small part of the time it runs loses it, for
 * longer each time.
 *
 * Threads: as struct bt_cpu, but for bt_window_owned(). Each vCPU has windows of its own.
 */
#ifndef EYOT_ACCEL_BT_WINDOW_H
#define EYOT_ACCEL_BT_WINDOW_H

#include "accel/bt/bt.h"

#define WINDOW_CLUSTER 42 /* log2 of its bytes */
#define WINDOW_MASK (0x15ull << WINDOW_CLUSTER)
#define WINDOW_LOW_BITS 40	  /* of an address in the lower part */
#define HWCAP2_FSGSBASE (1u << 1) /* of AT_HWCAP2: user code may change fs and gs itself */

/**
 * bt_windows_new() - reserve room for windows; without it none will be used
 * Reports at log level info why a host has none. Once, before the first vCPU.
 */
void bt_windows_new(struct bt_vm *vm);
void bt_windows_free(struct bt_vm *vm);

enum window_answer {
	WINDOW_AGAIN, /* it is mapped now */
	WINDOW_STEP,  /* nothing for a window: run the instruction without it */
	WINDOW_RAISE, /* raise #PF as cpu->window_pf says */
};

/**
 * bt_window_fault() - an access to host address @host faulted
 * Safe in a signal handler that interrupted translated code.
 * @pc: of the host's instruction
 */
enum window_answer bt_window_fault(struct bt_cpu *cpu, uint64_t pc, uint64_t host, bool write);

/** bt_window_after_pf() - the guest is back from cpu->window_pf: map what it put there */
void bt_window_after_pf(struct bt_cpu *cpu);

/** bt_window_heat() - from time to time, between blocks: who gets a window, who loses it */
void bt_window_heat(struct bt_cpu *cpu);

/** bt_window_attach() - give the present address space a window, between blocks */
void bt_window_attach(struct bt_cpu *cpu);

/*
 * Flushes: of all that @s has mapped, which bt_window_check() looks at before the space runs with
 * its window again; of the page at @la in the present space.
 */
void bt_window_flush(struct bt_cpu *cpu, struct bt_space *s);
void bt_window_check(struct bt_cpu *cpu);
void bt_window_drop_page(struct bt_cpu *cpu, uint64_t la);

/** bt_window_detach() - take @s's window, if it has one, for another */
void bt_window_detach(struct bt_cpu *cpu, struct bt_space *s);

/**
 * bt_window_owned() - code is put on RAM page @page: take it out of @cpu's windows
 * @only_look: any thread; else the vCPU's own, or inside bt_exclusive_begin/end
 * Return: whether it was writable in one.
 */
bool bt_window_owned(struct bt_cpu *cpu, int64_t page, bool only_look);

#endif
