/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * Into a case and out of it again on the host CPU.
 *
 * native_enter() loads a whole user state and leaves through iretq, which
 * sets rip, rflags, rsp and the code segment (64-bit or compatibility mode)
 * at once. The case ends in a signal: native_sig_entry is the handler, on an
 * alternate stack, with the case's FS base still in place. It makes C usable,
 * asks native_signal() and either returns to the interrupted code or leaves
 * native_enter() for good; no sigreturn is needed as nothing is blocked.
 */
#include "layout.h"

	.local native_sp
	.comm native_sp, 8, 8

	.text
	.globl native_enter
	.type native_enter, @function
/* void native_enter(const struct oracle_state *st) */
native_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, native_sp(%rip)
	mov $0xe7, %eax                 /* with AVX-512 state as at reset, where there is any */
	xor %edx, %edx
	xrstor64 ST_XSAVE(%rdi)
	movzwl ST_DS(%rdi), %eax
	mov %eax, %ds
	movzwl ST_ES(%rdi), %eax
	mov %eax, %es
	movzwl ST_FS(%rdi), %eax
	mov %eax, %fs
	movzwl ST_GS(%rdi), %eax
	mov %eax, %gs
	mov ST_FS_BASE(%rdi), %rax
	wrfsbase %rax
	mov ST_GS_BASE(%rdi), %rax
	wrgsbase %rax
	movzwl ST_SS(%rdi), %eax
	push %rax
	push 4*8(%rdi)
	push ST_RFLAGS(%rdi)
	movzwl ST_CS(%rdi), %eax
	push %rax
	push ST_RIP(%rdi)
	mov 0*8(%rdi), %rax
	mov 1*8(%rdi), %rcx
	mov 2*8(%rdi), %rdx
	mov 3*8(%rdi), %rbx
	mov 5*8(%rdi), %rbp
	mov 6*8(%rdi), %rsi
	mov 8*8(%rdi), %r8
	mov 9*8(%rdi), %r9
	mov 10*8(%rdi), %r10
	mov 11*8(%rdi), %r11
	mov 12*8(%rdi), %r12
	mov 13*8(%rdi), %r13
	mov 14*8(%rdi), %r14
	mov 15*8(%rdi), %r15
	mov 7*8(%rdi), %rdi
	iretq
	.size native_enter, . - native_enter

	.globl native_sig_entry
	.type native_sig_entry, @function
/* void native_sig_entry(int sig, siginfo_t *info, void *uc) */
native_sig_entry:
	pushfq                          /* the case may have set AC, which our own code cannot bear */
	andl $0x204000, (%rsp)          /* ID and NT stay: sigreturn does not bring them back */
	orl $0x202, (%rsp)
	popfq
	sub $40, %rsp                   /* struct native_segs; keeps the stack aligned */
	rdfsbase %rax
	mov %rax, (%rsp)
	rdgsbase %rax
	mov %rax, 8(%rsp)
	mov %ds, 16(%rsp)
	mov %es, 18(%rsp)
	mov %fs, 20(%rsp)
	mov %gs, 22(%rsp)
	mov native_libc_fs(%rip), %rax
	wrfsbase %rax
	mov %rsp, %rcx
	call native_signal
	test %eax, %eax
	jnz 1f
	mov (%rsp), %rax
	wrfsbase %rax
	add $40, %rsp
	ret
1:	push $0x202
	popfq
	xor %eax, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov native_libc_fs(%rip), %rax
	wrfsbase %rax
	mov native_sp(%rip), %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.size native_sig_entry, . - native_sig_entry

	.section .note.GNU-stack, "", @progbits
