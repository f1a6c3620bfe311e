/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * Start of a 64-bit guest program, start of its other CPUs, exception entries and
 * the way to real mode and back. The memory map is in rt.h.
 */
#include "sel.h"

#define MSR_EFER 0xc0000080
#define CR0_INIT 0x80010033 /* PG WP NE ET MP PE */
#define CR4_INIT 0x620      /* OSXMMEXCPT OSFXSR PAE */

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.code32
	.globl _start
_start:
	cld
	cli
	movl %ebx, boot_info
	movl %eax, boot_magic
	movl $cpu0_stack_top, %esp
	movl $low_load, %esi
	movl $low_start, %edi
	movl $low_end, %ecx
	subl %edi, %ecx
	rep movsb
	lgdt boot_gdtr
	ljmp $KCS32, $1f
1:	movl $start_bsp, %ebx

/* Flat 32-bit code without paging to 64-bit code at ebx; esp is kept. */
enter64:
	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $CR4_INIT, %eax
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $0x901, %eax /* NXE LME SCE */
	wrmsr
	movl $CR0_INIT, %eax
	movl %eax, %cr0
	ljmp $KCS, $1f
	.code64
1:	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl %ebx, %ebx
	movl %esp, %esp
	jmp *%rbx

start_bsp:
	call rt_start
	ud2

start_ap:
	movq ap_stack, %rsp
	call rt_ap_start
	ud2

/* ---- exceptions ---- */
	.globl trap_stubs
	.balign 16
trap_stubs:
	vec = 0
	.rept 256
	.balign 16
	.if vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21 || vec == 29 || vec == 30
	.else
	pushq $0
	.endif
	pushq $vec
	jmp trap_common
	vec = vec + 1
	.endr
trap_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	movq %rsp, %rbx
	andq $-16, %rsp
	call trap_dispatch
	movq %rbx, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

/* ulong user_enter(fn, a, b, flags, stack, cs): see user_run_flags() */
	.globl user_enter
user_enter:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq $1f, trap_recover
	movq %rsp, trap_recover_sp
	movq %rdi, trap_insn
	pushq $UDS
	pushq %r8
	pushq %rcx
	pushq %r9
	cmpl $UCS32, %r9d
	jne 2f
	movl $UDS, %eax
	movl %eax, %ds
	movl %eax, %es
2:	pushq %rdi
	movq %rsi, %rdi
	movq %rdx, %rsi
	xorl %eax, %eax
	iretq
1:	movq $0, trap_recover
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

/* ---- real mode ---- */
	.globl real_call
real_call:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	pushfq
	cli
	subq $32, %rsp
	sgdt (%rsp)
	sidt 16(%rsp)
	movl %edi, low_fn
	movq %cr3, %rax
	movl %eax, low_cr3
	movq %cr4, %rax
	movl %eax, low_cr4
	movq %cr0, %rax
	movl %eax, low_cr0
	movq %rsp, low_rsp
	movl 2(%rsp), %eax /* base: below 4 GiB */
	movl %eax, low_gdtr + 2
	movw (%rsp), %ax
	movw %ax, low_gdtr
	movl $MSR_EFER, %ecx
	rdmsr
	movl %eax, low_efer
	pushq $KCS32
	pushq $low_32
	lretq
real_back:
	movq low_rsp, %rsp
	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	lgdt (%rsp)
	lidt 16(%rsp)
	addq $32, %rsp
	popfq
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

	.section .low.first, "awx"
	.code16
	/* 0x1000: where a start-up IPI with vector 1 begins, CS base 0x1000 */
ap_start:
	cli
	ljmp $0, $1f
1:	xorw %ax, %ax
	movw %ax, %ds
	lgdtl boot_gdtr_low
	movl %cr0, %eax
	andl $~0x60000000, %eax /* CD and NW as after power-on */
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $KCS32, $1f
	.code32
1:	movl $start_ap, %ebx
	jmp enter64
boot_gdtr_low:
	.word 0x6f
	.long boot_gdt

	.section .low, "awx"
	.code32
low_32:
	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %cr0, %eax
	andl $~0x80000000, %eax
	movl %eax, %cr0
	movl $MSR_EFER, %ecx
	rdmsr
	andl $~0x100, %eax
	wrmsr
	xorl %eax, %eax
	movl %eax, %cr4
	ljmp $KCS16, $1f
	.code16
1:	movw $KDS16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw %ax, %fs
	movw %ax, %gs
	lidtl low_ivt
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $0, $1f
1:	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw %ax, %fs
	movw %ax, %gs
	movl $0x9ff0, %esp
	movl low_fn, %ebx
	calll *%ebx
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl low_gdtr
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $KCS32, $1f
	.code32
1:	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl low_cr4, %eax
	movl %eax, %cr4
	movl low_cr3, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	movl low_efer, %eax
	wrmsr
	movl low_cr0, %eax
	movl %eax, %cr0
	ljmp $KCS, $real_back
	.code64
	.balign 8
low_rsp: .quad 0
low_fn: .long 0
low_cr0: .long 0
low_cr3: .long 0
low_cr4: .long 0
low_efer: .long 0
low_gdtr: .word 0; .long 0
low_ivt: .word 0x3ff; .long 0

	.data
	.globl boot_gdt
	.balign 8
boot_gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* KCS: 64-bit code */
	.quad 0x00cf93000000ffff /* KDS */
	.quad 0x00cffb000000ffff /* UCS32 */
	.quad 0x00cff3000000ffff /* UDS */
	.quad 0x00affb000000ffff /* UCS */
	.quad 0x00cff3000000ffff /* data after SYSEXIT */
	.quad 0x00cf9b000000ffff /* KCS32 */
	.quad 0x00009b000000ffff /* KCS16 */
	.quad 0x000093000000ffff /* KDS16 */
	.fill 4, 8, 0
boot_gdtr:
	.word . - boot_gdt - 1
	.long boot_gdt

	.balign 4096
	.globl boot_pml4
boot_pml4:
	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:
	.quad pd + 7, pd + 0x1007, pd + 0x2007, pd + 0x3007
	.fill 508, 8, 0
pd:
	n = 0
	.rept 2048
	.if n == 4
	.quad (n << 21) + 0x87 /* the page of CPL 3 */
	.else
	.quad (n << 21) + 0x83
	.endif
	n = n + 1
	.endr

	.section .user.data, "aw"
	.balign 16
	.globl user_stack
user_stack:
	.fill 8192, 1, 0
	.section .user.text, "ax"
	nop
	.section .note.GNU-stack, "", @progbits
