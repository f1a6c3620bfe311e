/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/* Start of a 32-bit guest program (flat protected mode, paging off) and its exception entries. */
#include "sel.h"

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.globl _start
_start:
	cld
	cli
	movl %ebx, boot_info
	movl %eax, boot_magic
	movl $cpu0_stack_top, %esp
	lgdt boot_gdtr
	ljmp $KCS, $1f
1:	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl $0x10033, %eax /* WP NE ET MP PE */
	movl %eax, %cr0
	movl $0x600, %eax /* OSXMMEXCPT OSFXSR */
	movl %eax, %cr4
	call rt_start
	ud2

	.globl trap_stubs
	.balign 16
trap_stubs:
	vec = 0
	.rept 256
	.balign 16
	.if vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21 || vec == 29 || vec == 30
	.else
	pushl $0
	.endif
	pushl $vec
	jmp trap_common
	vec = vec + 1
	.endr
trap_common:
	pushal
	pushl %ds
	pushl %es
	pushl %fs
	pushl %gs
	movl $KDS, %eax
	movl %eax, %ds
	movl %eax, %es
	cld
	pushl %esp
	call trap_dispatch
	addl $4, %esp
	popl %gs
	popl %fs
	popl %es
	popl %ds
	popal
	addl $8, %esp
	iretl

/* trap_resume(frame, sp): on at frame->ip with its registers, at CPL 0, on the stack sp */
	.globl trap_resume
trap_resume:
	movl 4(%esp), %eax
	movl 8(%esp), %edx
	movl $KDS, %ecx
	movl %ecx, %ss
	leal -12(%edx), %esp
	/* the frame may end where the new stack begins: read, then write */
	movl 56(%eax), %ecx
	movl 64(%eax), %esi
	movl 44(%eax), %edi
	movl %ecx, 8(%esp)
	movl %esi, 4(%esp)
	movl %edi, (%esp)
	movl 16(%eax), %edi
	movl 20(%eax), %esi
	movl 24(%eax), %ebp
	movl 32(%eax), %ebx
	movl 36(%eax), %edx
	movl 40(%eax), %ecx
	pushl %ecx
	movl $KDS, %ecx
	movl %ecx, %ds
	movl %ecx, %es
	popl %ecx
	popl %eax
	popfl
	ret

/* void user_enter(fn, a, b, flags, stack): see user_run_flags() */
	.globl user_enter
user_enter:
	pushl %ebx
	pushl %ebp
	pushl %esi
	pushl %edi
	movl $1f, trap_recover
	movl %esp, trap_recover_sp
	movl 20(%esp), %eax
	movl %eax, trap_insn
	movl 24(%esp), %edi
	movl 28(%esp), %esi
	movl 32(%esp), %ecx
	movl 36(%esp), %edx
	movl $UDS, %ebx
	movl %ebx, %ds
	movl %ebx, %es
	pushl %ebx
	pushl %edx
	pushl %ecx
	pushl $UCS
	pushl %eax
	xorl %eax, %eax
	iretl
1:	movl $0, trap_recover
	popl %edi
	popl %esi
	popl %ebp
	popl %ebx
	ret

	.data
	.globl boot_gdt
	.balign 8
boot_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* KCS */
	.quad 0x00cf93000000ffff /* KDS */
	.quad 0x00cffb000000ffff /* UCS */
	.quad 0x00cff3000000ffff /* UDS */
	.fill 3, 8, 0
boot_gdtr:
	.word . - boot_gdt - 1
	.long boot_gdt

	/* an empty segment would be placed at address 0 */
	.section .low, "awx"
	.long 0

	.section .user.data, "aw"
	.balign 16
	.globl user_stack
user_stack:
	.fill 8192, 1, 0
	.section .user.text, "ax"
	nop
	.section .note.GNU-stack, "", @progbits
