/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers that C and assembly share: where things stand in memory and in structures. */
#ifndef EYOT_ORACLE_LAYOUT_H
#define EYOT_ORACLE_LAYOUT_H

/* Offsets in struct oracle_state */
#define ST_RIP 128
#define ST_RFLAGS 136
#define ST_FS_BASE 144
#define ST_GS_BASE 152
#define ST_DS 160
#define ST_ES 162
#define ST_FS 164
#define ST_GS 166
#define ST_CS 168
#define ST_SS 170
#define ST_XSAVE 192
#define ST_SIZE 1024

/*
 * The guest's physical memory. The kernel part is mapped at GUEST_KVA + gpa
 * for the supervisor; everything stands in one image that starts at
 * GUEST_IMAGE (1 MiB, where a multiboot loader puts it).
 */
#define GUEST_KVA 0xffffffff80000000
#define GUEST_IMAGE 0x100000  /* boot stub */
#define GUEST_RUNNER 0x101000 /* the runner's code */
#define GUEST_GDT 0x104000
#define GUEST_IDT 0x105000
#define GUEST_TSS 0x106000
#define GUEST_STACK 0x108000  /* top; grows down into the page below */
#define GUEST_TABLES 0x108000 /* page tables, 16 pages */
#define GUEST_SLOT 0x120000   /* struct guest_slot */
#define GUEST_USER 0x130000   /* the pages that user code sees, in the order of enum oracle_page */
#define GUEST_IMAGE_END 0x140000

#define GUEST_PORT 0xe8

/* Offsets in struct guest_slot */
#define SLOT_CMD 0
#define SLOT_DONE 4
#define SLOT_COPY_SRC 8
#define SLOT_COPY_DST 16
#define SLOT_COPY_LEN 24
#define SLOT_CR2 32
#define SLOT_PANIC 40
#define SLOT_IN 64
#define SLOT_OUT 1088
#define SLOT_CODE 4096

#define SLOT_CMD_WAIT 0
#define SLOT_CMD_RUN 1

/* Selectors, as on Linux so that both sides read the same */
#define SEL_KERNEL_CS 0x10
#define SEL_KERNEL_DS 0x18
#define SEL_USER32_CS 0x23
#define SEL_USER_DS 0x2b
#define SEL_USER64_CS 0x33
#define SEL_TSS 0x40

#endif
