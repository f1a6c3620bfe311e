/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors of the runtime's GDT, for C and assembly. */
#ifndef EYOT_GUEST_SEL_H
#define EYOT_GUEST_SEL_H

#ifdef __x86_64__
/* The order suits SYSCALL/SYSRET (STAR 0x18:0x08) and SYSENTER/SYSEXIT (0x08). */
#define KCS 0x08
#define KDS 0x10
#define UCS32 0x1b
#define UDS 0x23
#define UCS 0x2b
#define KCS32 0x38
#define KCS16 0x40
#define KDS16 0x48
#define TSS_SEL 0x50
#define FREE_SEL 0x60 /* the first of the slots for tests */
#else
#define KCS 0x08
#define KDS 0x10
#define UCS 0x1b
#define UDS 0x23
#define TSS_SEL 0x28
#define FREE_SEL 0x30
#endif
#define GDT_LEN 64
#define V_USER_RET 0x40 /* INT of CPL 3 that ends user_run() */

#endif
