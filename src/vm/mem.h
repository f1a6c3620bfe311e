/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: one memfd, mapped once, seen by the guest in up to two slots:
 * [0, MEM_LOW_MAX) and from 4 GiB up. The mapping is MAP_SHARED, so that
 * other processes (vhost-user, migration) can be given the descriptor.
 * Where small pages cost much and the host gives huge ones to private memory only, it is
 * private memory without a descriptor (guest_mem_init_huge()).
 *
 * Immutable after start-up, so any thread may look up addresses. RAM content
 * is guest-controlled and changes under the reader: copy, then validate.
 */
#ifndef EYOT_VM_MEM_H
#define EYOT_VM_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/util.h"

/* The physical memory map; the same on both accelerators (see DESIGN: the machine a guest sees). */
#define MEM_LOW_MAX GIB(3)	     /* RAM below 4 GiB ends here at most */
#define MEM_PCI32_BASE 0xc0000000ull /* 32-bit PCI window */
#define MEM_PCI32_SIZE 0x20000000ull
#define MEM_ECAM_BASE 0xe0000000ull /* PCI Express configuration space, bus 0 only */
#define MEM_ECAM_SIZE 0x00100000ull
#define MEM_IOAPIC_BASE 0xfec00000ull
#define MEM_LAPIC_BASE 0xfee00000ull
#define MEM_HIGH_BASE GIB(4)	       /* RAM above 4 GiB starts here */
#define MEM_PCI64_BASE 0x4000000000ull /* 64-bit PCI window: 256 GiB .. 512 GiB */
#define MEM_PCI64_SIZE 0x4000000000ull
#define MEM_PHYS_BITS 39

struct mem_slot {
	uint64_t gpa, size; /* bytes, page multiples */
	uint8_t *hva;
	uint64_t fd_offset;
};

struct guest_mem {
	int fd;	       /* -1: private memory */
	uint64_t size; /* RAM in all, bytes */
	unsigned slot_count;
	struct mem_slot slots[2];

	/*
	 * Set by an accelerator that keeps translated code: a byte per RAM page (by
	 * memfd offset), nonzero while code of it is cached, and whom to tell of writes.
	 */
	uint8_t *code_map;
	void (*written)(void *arg, uint64_t gpa, uint64_t len);
	void *written_arg;
};

/**
 * guest_mem_note_write() - a device wrote [@gpa, @gpa+@len), RAM of one slot
 * To be called after the data is in place and before the guest is told. Any thread.
 */
static inline void guest_mem_note_write(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	if (!mem->code_map || !len)
		return;
	for (unsigned i = 0; i < mem->slot_count; i++) {
		const struct mem_slot *s = &mem->slots[i];

		if (gpa - s->gpa >= s->size)
			continue;

		uint64_t first = (s->fd_offset + (gpa - s->gpa)) >> PAGE_SHIFT;
		uint64_t last = (s->fd_offset + (gpa - s->gpa) + len - 1) >> PAGE_SHIFT;

		for (uint64_t page = first; page <= last; page++) {
			if (__atomic_load_n(&mem->code_map[page], __ATOMIC_SEQ_CST)) {
				mem->written(mem->written_arg, gpa, len);
				return;
			}
		}
	}
}

/**
 * guest_mem_init() - make and map guest RAM
 * @size: bytes, a multiple of 4 KiB, 1 MiB to 64 GiB
 */
int guest_mem_init(struct guest_mem *mem, uint64_t size, struct err *err);

/** guest_mem_init_huge() - the same, but private memory unless the host has huge pages for shared
 * one */
int guest_mem_init_huge(struct guest_mem *mem, uint64_t size, struct err *err);
void guest_mem_done(struct guest_mem *mem);

/**
 * guest_mem_discard() - make the whole pages of [@hva, @hva+@len), which is RAM, read zero and give
 * them back to the host; then comes guest_mem_note_write(), as after any write. Any thread.
 * Return: 0 or -errno: the host does not take them, they are as they were.
 */
int guest_mem_discard(const struct guest_mem *mem, void *hva, uint64_t len);

/** guest_mem_clear() - make all of it read zero and give it back to the host; 0 or -errno */
int guest_mem_clear(struct guest_mem *mem);

/** guest_mem_ptr() - host address of [@gpa, @gpa+@len); NULL when not wholly RAM of one slot */
static inline void *guest_mem_ptr(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->slot_count; i++) {
		const struct mem_slot *s = &mem->slots[i];

		if (gpa >= s->gpa && gpa - s->gpa < s->size && len <= s->size - (gpa - s->gpa))
			return s->hva + (gpa - s->gpa);
	}
	return NULL;
}

#endif
