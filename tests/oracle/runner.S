/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * What runs in the guest: a loop in ring 0 that takes a case from the slot,
 * puts the code in place, goes to user mode by iretq, and on the exception
 * that ends the case leaves all of its state in the slot.
 *
 * The code is copied to guest memory as it is. It knows its addresses by the
 * numbers in layout.h only. TSS.RSP0 is GUEST_STACK, so the frame of an
 * exception and the registers pushed behind it stand at a fixed place that
 * the host reads.
 */
#include "layout.h"

#define SLOT (GUEST_KVA + GUEST_SLOT)
#define IN (SLOT + SLOT_IN)
#define OUT (SLOT + SLOT_OUT)
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101

	.section .rodata
	.balign 16
	.globl guest_runner, guest_runner_end, guest_stubs
	.code64
guest_runner:
	mov $(GUEST_KVA + GUEST_STACK), %rsp
	xor %eax, %eax
	out %al, $GUEST_PORT            /* the host looks at the result and may put the next case */
	mov SLOT + SLOT_CMD, %eax
	cmp $SLOT_CMD_RUN, %eax
	je 1f
	pause
	jmp guest_runner
1:	movl $SLOT_CMD_WAIT, SLOT + SLOT_CMD
	mov SLOT + SLOT_COPY_SRC, %rsi
	mov SLOT + SLOT_COPY_DST, %rdi
	mov SLOT + SLOT_COPY_LEN, %rcx
	cld
	rep movsb
	movzwl IN + ST_DS, %eax
	mov %eax, %ds
	movzwl IN + ST_ES, %eax
	mov %eax, %es
	movzwl IN + ST_FS, %eax
	mov %eax, %fs
	movzwl IN + ST_GS, %eax
	mov %eax, %gs
	mov $MSR_FS_BASE, %ecx
	mov IN + ST_FS_BASE, %eax
	mov IN + ST_FS_BASE + 4, %edx
	wrmsr
	mov $MSR_GS_BASE, %ecx
	mov IN + ST_GS_BASE, %eax
	mov IN + ST_GS_BASE + 4, %edx
	wrmsr
	mov $7, %eax
	xor %edx, %edx
	xrstor64 IN + ST_XSAVE
	movzwl IN + ST_SS, %eax
	push %rax
	push IN + 4*8
	push IN + ST_RFLAGS
	movzwl IN + ST_CS, %eax
	push %rax
	push IN + ST_RIP
	mov IN + 0*8, %rax
	mov IN + 1*8, %rcx
	mov IN + 2*8, %rdx
	mov IN + 3*8, %rbx
	mov IN + 5*8, %rbp
	mov IN + 6*8, %rsi
	mov IN + 7*8, %rdi
	mov IN + 8*8, %r8
	mov IN + 9*8, %r9
	mov IN + 10*8, %r10
	mov IN + 11*8, %r11
	mov IN + 12*8, %r12
	mov IN + 13*8, %r13
	mov IN + 14*8, %r14
	mov IN + 15*8, %r15
	iretq

/* Stack: vector, error code, rip, cs, rflags, rsp, ss */
stub_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	testb $3, (15+3)*8(%rsp)
	jz stub_panic
	mov %cr2, %rax
	mov %rax, SLOT + SLOT_CR2
	mov %ds, OUT + ST_DS
	mov %es, OUT + ST_ES
	mov %fs, OUT + ST_FS
	mov %gs, OUT + ST_GS
	mov $MSR_FS_BASE, %ecx
	rdmsr
	mov %eax, OUT + ST_FS_BASE
	mov %edx, OUT + ST_FS_BASE + 4
	mov $MSR_GS_BASE, %ecx
	rdmsr
	mov %eax, OUT + ST_GS_BASE
	mov %edx, OUT + ST_GS_BASE + 4
	mov $7, %eax
	xor %edx, %edx
	xsave64 OUT + ST_XSAVE
	movl $1, SLOT + SLOT_DONE
	jmp guest_runner

/* An exception of the runner itself: say which and stop */
stub_panic:
	mov 15*8(%rsp), %rax
	or $0x100, %eax
	mov %eax, SLOT + SLOT_PANIC
	mov (15+2)*8(%rsp), %rax
	mov %rax, SLOT + SLOT_CR2
	out %al, $GUEST_PORT
2:	pause
	jmp 2b

	.balign 16
guest_stubs:                            /* one every 16 bytes */
	vector = 0
	.rept 256
	.balign 16, 0x90
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp stub_common
	vector = vector + 1
	.endr
guest_runner_end:

/*
 * The boot stub, for machines that start the image through the multiboot
 * protocol: from 32-bit protected mode to the runner. Stands at GUEST_IMAGE.
 */
	.balign 16
	.globl guest_boot, guest_boot_end
	.code32
guest_boot:
	.long 0x1badb002, 0x00010003, -(0x1badb002 + 0x00010003)
	.long GUEST_IMAGE, GUEST_IMAGE, 0, 0, GUEST_IMAGE + (boot32 - guest_boot)
boot32:
	lgdt GUEST_IMAGE + (boot_gdtr32 - guest_boot)
	mov $0x000506a0, %eax           /* PAE, PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE */
	mov %eax, %cr4
	mov $GUEST_TABLES, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax                 /* SCE, LME, NXE */
	wrmsr
	mov $0x80050033, %eax           /* PG, AM, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmp $SEL_KERNEL_CS, $GUEST_IMAGE + (boot64 - guest_boot)
	.code64
boot64:
	mov $(GUEST_KVA + GUEST_IMAGE + (boot_high - guest_boot)), %rax
	jmp *%rax
boot_high:
	lgdt boot_gdtr - boot_high + GUEST_KVA + GUEST_IMAGE + (boot_high - guest_boot)
	lidt boot_idtr - boot_high + GUEST_KVA + GUEST_IMAGE + (boot_high - guest_boot)
	xor %eax, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	mov $SEL_TSS, %eax
	ltr %ax
	xor %ecx, %ecx
	xor %edx, %edx
	mov $7, %eax
	xsetbv
	movq $0, GUEST_KVA + GUEST_TABLES + 15*4096 + 0x100*8 /* the identity mapping of this page */
	movq $0, GUEST_KVA + GUEST_TABLES + 15*4096 + 0x104*8 /* and of the GDT */
	mov %cr3, %rax
	mov %rax, %cr3
	mov $(GUEST_KVA + GUEST_RUNNER), %rax
	jmp *%rax
	.balign 8
boot_gdtr32:
	.word 0x7f
	.long GUEST_GDT
	.balign 8
boot_gdtr:
	.word 0x7f
	.quad GUEST_KVA + GUEST_GDT
	.balign 8
boot_idtr:
	.word 0xfff
	.quad GUEST_KVA + GUEST_IDT
guest_boot_end:

	.section .note.GNU-stack, "", @progbits
