/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments and modes seen from 64-bit code: real mode (and unreal mode) through
 * real_call(), 32-bit code in compatibility mode, call gates, LAR, LSL, VERR, VERW.
 * What needs legacy protected mode is in protected.c.
 */
#include "rt.h"

/* ---- real mode: code in the low 32 KiB ---- */
#define LOW(name, code)                                                                            \
	__asm__(".section .low,\"awx\"\n.code16\n" #name ":\n" code "\nretl\n.code64\n.text\n");   \
	extern u8 name[]
__asm__(".section .low,\"awx\"\n.balign 8\nlw: .fill 32, 4, 0\n.text\n");
extern volatile u32 lw[32]; /* results */

LOW(r_arith, "movw $0x7fff, %ax; addw $1, %ax; pushfw; popw lw; movw %ax, lw+4; movl $0x12345678, "
	     "%eax; movb $0xff, %al; incb %al; movl %eax, lw+8;"
	     "movw $0xffff, %ax; movw $0xffff, %dx; mulw %dx; movw %ax, lw+12; movw %dx, lw+14; "
	     "movw $5, %cx; movl $0x80000000, %eax; shrl %cl, %eax;"
	     "movl %eax, lw+16");
LOW(r_seg, "movw $0x1000, %ax; movw %ax, %ds; movw $0x1234, %bx; movl $0xcafe, %ecx; movl %ecx, "
	   "4(%bx); xorw %ax, %ax; movw %ax, %ds;"
	   "movw $0x1123, %ax; movw %ax, %es; movl %es:8, %eax; movl %eax, lw");
/* 16-bit addresses wrap at 64 KiB inside the segment */
LOW(r_wrap, "movw $0x2000, %ax; movw %ax, %ds; movb $0x11, 0x0005; movw $0xfff0, %bx; movb "
	    "0x15(%bx), %al; xorw %cx, %cx; movw %cx, %ds; movb %al, lw;"
	    "movw $0x2000, %ax; movw %ax, %ds; movw $0xfffe, %si; movw $0xfffe, %di; movw %ds, "
	    "%ax; movw %ax, %es; movw $4, %cx; movl $0x44332211, 0xfffc; "
	    "movw $0x6655, 0; cld; movw $0xfffc, %si; movw $0x100, %di; movw $6, %cx; rep movsb; "
	    "movl 0x100, %eax; movw 0x104, %dx; movw %si, %bx; xorw %cx, %cx; "
	    "movw %cx, %ds; movl %eax, lw+4; movw %dx, lw+8; movw %bx, lw+12");
/* far jump and call, return with a count */
LOW(r_far, "movw $0, lw; lcall $0x100, $(1f - 0x1000); movw %cs, lw+4; jmp 2f; 1: incw lw; movw "
	   "%cs, %ax; movw %ax, lw+8; lretw; 2:"
	   "pushw $0x55; pushw $0x66; movw %sp, %bx; pushw %cs; pushw $4f; movw $3f, %ax; pushw "
	   "%cs; pushw %ax; lretw $0; 3: lretw $4; 4: movw %sp, %cx; subw %bx, %cx; "
	   "movw %cx, lw+12; ljmp $0x10, $(5f - 0x100); 5: movw %cs, lw+16; ljmp $0, $6f; 6: movw "
	   "%cs, lw+20");
/* INT and IRET through the vector table; flags */
LOW(r_int, "movw $1f, 0x200; movw %cs, 0x202; sti; stc; int $0x80; movw %ax, lw; pushfw; popw "
	   "lw+4; cli; movw %sp, lw+12; jmp 2f;"
	   "1: movw $0x4242, %ax; pushfw; popw lw+8; pushw %bp; movw %sp, %bp; movw 2(%bp), %cx; "
	   "movw %cx, lw+16; movw 6(%bp), %cx; movw %cx, lw+20; popw %bp; iretw; 2: "
	   "movw $2b, lw+24");
/* exceptions in real mode: divide error, bound, invalid opcode; each saves the address of the
 * instruction */
LOW(r_exc, "pushl 0; pushl 24; movw $3f, 0; movw $0, 2; movw $3f, 24; movw $0, 26; xorw %dx, %dx; "
	   "xorw %cx, %cx; movw $5, %ax; movw $1f, lw+8; 1: divw %cx; "
	   "movw $2f, lw+12; 2: ud2; popl 24; popl 0; jmp 4f; 3: pushw %bp; movw %sp, %bp; movw "
	   "2(%bp), %bx; incw lw; movw lw, %di; shlw $2, %di; movw %bx, lw+12(%di);"
	   "addw $2, 2(%bp); popw %bp; iretw; 4:");
/* segment limit of real mode: #GP (13) for an access across 0xffff */
LOW(r_limit, "pushl 52; movw $2f, 52; movw $0, 54; movw $0, lw; movw $0xffff, %bx; movw $1f, lw+4; "
	     "1: movw (%bx), %ax; jmp 3f; 2: pushw %bp; movw %sp, %bp; movw 2(%bp), %bx; "
	     "movw %bx, lw+8; movw $3f, 2(%bp); popw %bp; incw lw; iretw; 3: popl 52");
/* big real ("unreal") mode: load a flat limit in protected mode, keep it */
LOW(r_unreal, "cli; movl %cr0, %eax; movl %eax, %edx; orl $1, %eax; movl %eax, %cr0; movw $0x10, "
	      "%cx; movw %cx, %ds; movl %edx, %cr0; xorw %cx, %cx; movw %cx, %ds;"
	      "movl $0x500000, %ebx; movl (%ebx), %ecx; movl $0x12abcdef, (%ebx); movl (%ebx), "
	      "%eax; movl %ecx, (%ebx); movl %eax, lw");
/* lgdt, sgdt, smsw, string and stack forms */
LOW(r_misc, "smsw %ax; movw %ax, lw; sgdtw lw+4; movw $0x1234, %ax; pushw %ax; pushl $0x89abcdef; "
	    "popl %ebx; popw %cx; movl %ebx, lw+12; movw %cx, lw+16; pushaw; popaw; "
	    "movl $0x11112222, %esi; pushal; movl $0, %esi; popal; movl %esi, lw+20; movw $3, %cx; "
	    "xorw %ax, %ax; 1: addw %cx, %ax; loopw 1b; movw %ax, lw+24;"
	    "movw $0x0109, %ax; addb $0x08, %al; daa; movw %ax, lw+28; movw $0x0a0b, %ax; aam; "
	    "movw %ax, lw+32; movw $0x0203, %ax; aad; movw %ax, lw+36; "
	    "movw $0x000f, %ax; aaa; movw %ax, lw+40; movb $0x33, %al; subb $0x09, %al; das; movb "
	    "%al, lw+44; xorw %cx, %cx; jcxz 2f; movw $1, lw+48; 2: "
	    "lesw 3f, %di; movw %di, lw+52; movw %es, %ax; movw %ax, lw+56; xorw %ax, %ax; movw "
	    "%ax, %es; jmp 4f; 3: .word 0x1111, 0x2222; 4: ");
/* 32-bit operands and addresses with prefixes */
LOW(r_32, "movl $0x10000, %ebx; movl $2, %ecx; movl $0x01020304, lw+4; leal -4(%ebx,%ecx,2), %eax; "
	  "movl %eax, lw; movl $lw, %edi; movl $7, (%edi,%ecx,4); xorl %eax, %eax; "
	  "decl %eax; shldl $16, %eax, lw+4; bswapl %eax; bsrl %ebx, %eax; movl %eax, lw+12; cwtl; "
	  "movw $0x8000, %ax; cwtl; movl %eax, lw+16; cltd; movl %edx, lw+20");

static void real_mode(void)
{
	for (unsigned i = 0; i < 32; i++)
		lw[i] = 0;
	real_call(r_arith);
	check((lw[0] & 0x8d5) == 0x894 && lw[1] == 0x8000, "real: 16-bit add and its flags",
	      "flags %#x ax %#x", lw[0], lw[1]);
	check_eq("real: byte register of eax", lw[2], 0x12345600);
	check_eq("real: 16-bit mul", lw[3], 0xfffe0001);
	check_eq("real: 32-bit shift", lw[4], 0x04000000);
	real_call(r_seg);
	check_eq("real: segment times 16", lw[0], 0xcafe);
	real_call(r_wrap);
	check_eq("real: 16-bit address wraps", lw[0] & 0xff, 0x11);
	check(lw[1] == 0x44332211 && (lw[2] & 0xffff) == 0x6655 && (lw[3] & 0xffff) == 2,
	      "real: rep movsb wraps", "%#x %#x si %#x", lw[1], lw[2], lw[3]);
	for (unsigned i = 0; i < 8; i++)
		lw[i] = 0;
	real_call(r_far);
	check((lw[0] & 0xffff) == 1 && (lw[2] & 0xffff) == 0x100 && (lw[1] & 0xffff) == 0,
	      "real: far call and return", "%#x cs %#x %#x", lw[0], lw[2], lw[1]);
	check_eq("real: far return with a count", lw[3] & 0xffff, 4);
	check((lw[4] & 0xffff) == 0x10 && (lw[5] & 0xffff) == 0, "real: far jump", "cs %#x %#x",
	      lw[4], lw[5]);
	real_call(r_int);
	check((lw[0] & 0xffff) == 0x4242, "real: int", "ax %#x", lw[0]);
	check((lw[1] & 0x201) == 0x201, "real: iret restores IF and CF", "flags %#x", lw[1]);
	check((lw[2] & 0x300) == 0, "real: int clears IF and TF", "flags %#x", lw[2]);
	check((lw[5] & 0x201) == 0x201, "real: int saved the flags", "%#x", lw[5]);
	lw[0] = 0;
	real_call(r_exc);
	check((lw[0] & 0xffff) == 2 && (lw[4] & 0xffff) == (lw[2] & 0xffff),
	      "real: #DE saves the instruction's address", "%u exceptions, ip %#x want %#x", lw[0],
	      lw[4], lw[2]);
	check((lw[5] & 0xffff) == (lw[3] & 0xffff), "real: #UD saves the instruction's address",
	      "ip %#x want %#x", lw[5], lw[3]);
	real_call(r_limit);
	check((lw[0] & 0xffff) == 1 && (lw[1] & 0xffff) == (lw[2] & 0xffff),
	      "real: #GP for an access across the limit", "%u, ip %#x want %#x", lw[0], lw[2],
	      lw[1]);
	real_call(r_unreal);
	check_eq("unreal: limit of 4 GiB stays after protected mode", lw[0], 0x12abcdef);
	for (unsigned i = 0; i < 16; i++)
		lw[i] = 0;
	real_call(r_misc);
	check_eq("real: smsw, PE clear", lw[0] & 1, 0);
	check(lw[3] == 0x89abcdef && (lw[4] & 0xffff) == 0x1234, "real: pushes of 2 and 4 bytes",
	      "%#x %#x", lw[3], lw[4]);
	check_eq("real: pushal and popal", lw[5], 0x11112222);
	check_eq("real: loop", lw[6] & 0xffff, 6);
	check_eq("real: daa", lw[7] & 0xffff, 0x0117);
	check_eq("real: aam", lw[8] & 0xffff, 0x0101);
	check_eq("real: aad", lw[9] & 0xffff, 0x0017);
	check_eq("real: aaa", lw[10] & 0xffff, 0x0105);
	check_eq("real: das", lw[11] & 0xff, 0x24);
	check_eq("real: jcxz", lw[12], 0);
	check((lw[13] & 0xffff) == 0x1111 && (lw[14] & 0xffff) == 0x2222, "real: les", "%#x %#x",
	      lw[13], lw[14]);
	real_call(r_32);
	check_eq("real: 32-bit address arithmetic", lw[0], 0x10000);
	check(lw[2] == 7 && lw[1] == 0x0304ffff, "real: store through a 32-bit address, shld",
	      "%#x %#x", lw[2], lw[1]);
	check_eq("real: bsr", lw[3], 16);
	check(lw[4] == 0xffff8000 && lw[5] == 0xffffffff, "real: cwde, cdq", "%#x %#x", lw[4],
	      lw[5]);
	/* and back many times */
	for (unsigned i = 0; i < 100; i++)
		real_call(r_seg);
	ok("real: to and fro 100 times");
}

/* ---- compatibility mode ---- */
static ulong compat_area[8] __attribute__((used));
#define C32(name, code)                                                                            \
	__asm__(".text\n.code32\n" #name ":\n" code "\nlretl\n.code64\n");                         \
	extern u8 name[]
C32(c_sizes, "movl $0xffffffff, %eax; incl %eax; movl %eax, compat_area; pushl $0x12345678; popl "
	     "%ecx; movl %ecx, compat_area+8; pushal; movl $9, 28(%esp); popal; movl %eax, "
	     "compat_area+16; .byte 0x40; movl %eax, compat_area+24; movl $0x80000010, %ebx; leal "
	     "(%ebx,%ebx), %edx; movl %edx, compat_area+32");
C32(c_wrap, "movl $0xfffffff0, %ebx; leal compat_area+0x10, %ecx; movl $0x77, %eax; movl %eax, "
	    "(%ebx,%ecx); movl $0x88, compat_area+8");
C32(c_segs, "movw $0x60, %ax; movw %ax, %es; movl %es:4, %ecx; movl %ecx, compat_area; movl "
	    "$0xbeef, %es:8; movw $0x10, %ax; movw %ax, %es");
C32(c_limit, "movw $0x60, %ax; movw %ax, %es; movl %es:0xffd, %ecx");
C32(c_null, "xorl %eax, %eax; movw %ax, %es; movl %es:(%eax), %ecx");
C32(c_ro, "movw $0x68, %ax; movw %ax, %es; movl %ecx, %es:(%eax)");
C32(c_expand_ok, "movw $0x70, %ax; movw %ax, %es; movl %es:0x1000, %ecx; movl $1, compat_area");
C32(c_expand_bad, "movw $0x70, %ax; movw %ax, %es; movl %es:0xfff, %ecx");
C32(c_insns, "movw $0x1234, %ax; arpl %ax, %ax; pushl %ds; popl %ds; movl $0x10ff, %eax; aam; movl "
	     "%eax, compat_area; movb $0x15, %al; addb $0x27, %al; daa; movb %al, compat_area+8; "
	     "lahf; sahf; movl $0x20, %ecx; shll %cl, %ecx; movl %ecx, compat_area+16; .byte 0xd6; "
	     "movb %al, compat_area+24");
C32(c_long_jump, "ljmp $8, $1f; .code64; 1: movq $-1, %rax; movq %rax, compat_area; pushq $0x38; "
		 "pushq $2f; lretq; .code32; 2: movl %esp, %eax; movl %eax, compat_area+8");

static void compat(const void *fn)
{
	struct far p = { (u32)(ulong)fn, KCS32 };

	TRY("mov %1, %%ds; mov %1, %%es; lcall *%0; mov %1, %%es", ::"m"(p), "r"(KDS)
	    : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "memory",
	      "cc");
}

static void compatibility(void)
{
	volatile ulong *a = (volatile ulong *)compat_area;
	u8 *data = page_alloc();

	compat(c_sizes);
	check(!trap.hit && (u32)a[0] == 0 && (u32)a[1] == 0x12345678,
	      "compat: 32-bit operands and stack", "vector %u %#lx %#lx", trap.vector, a[0], a[1]);
	check((u32)a[2] == 9 && (u32)a[3] == 10, "compat: pushal, popal; 0x40 is inc", "%#lx %#lx",
	      a[2], a[3]);
	check_eq("compat: lea wraps at 32 bits", (u32)a[4], 0x20);
	compat(c_wrap);
	check(!trap.hit && (u32)a[0] == 0x77 && (u32)a[1] == 0x88,
	      "compat: effective addresses wrap at 32 bits", "vector %u cr2 %#lx %#lx", trap.vector,
	      trap.cr2, a[0]);
	/* bases and limits count */
	gdt_set(0, 0x60, (ulong)data, 0xfff, 0x93, 4);
	gdt_set(0, 0x68, 0, 0xfffff, 0x91, 0xc);
	gdt_set(0, 0x70, (ulong)data, 0xfff, 0x97, 4); /* expand-down: offsets above 0xfff */
	*(u32 *)(data + 4) = 0xabcd;
	compat(c_segs);
	check(!trap.hit && (u32)a[0] == 0xabcd && *(u32 *)(data + 8) == 0xbeef,
	      "compat: segment base", "vector %u %#lx", trap.vector, a[0]);
	compat(c_limit);
	check(trap.hit && trap.vector == V_GP && trap.error == 0, "compat: segment limit",
	      "vector %u", trap.vector);
	compat(c_null);
	check(trap.hit && trap.vector == V_GP && trap.error == 0, "compat: null ES is #GP",
	      "vector %u", trap.vector);
	compat(c_ro);
	check(trap.hit && trap.vector == V_GP && trap.error == 0,
	      "compat: write to a read-only segment is #GP", "vector %u", trap.vector);
	a[0] = 0;
	compat(c_expand_ok);
	check(!trap.hit && (u32)a[0] == 1, "compat: expand-down, above the limit", "vector %u",
	      trap.vector);
	compat(c_expand_bad);
	check(trap.hit && trap.vector == V_GP, "compat: expand-down, below the limit is #GP",
	      "vector %u", trap.vector);
	compat(c_insns);
	check(!trap.hit && ((u32)a[0] & 0xffff) == 0x1905 && ((u8)a[1]) == 0x42 &&
		  (u32)a[2] == 0x20 && ((u8)a[3] == 0 || (u8)a[3] == 0xff),
	      "compat: instructions 64-bit mode lacks", "vector %u %#lx %#lx %#lx", trap.vector,
	      a[0], a[1], a[2]);
	compat(c_long_jump);
	check(!trap.hit && a[0] == ~0ul && (u32)a[1],
	      "compat: to 64-bit code and back by far jumps", "vector %u error %#lx %#lx",
	      trap.vector, trap.error, a[0]);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(KDS));
}

/* 64-bit code ignores base and limit of ES, CS, SS, DS */
static void flat64(void)
{
	static ulong v = 0x55;
	ulong r = 0;

	gdt_set(0, FREE_SEL, 0x1000, 0, 0x93, 0);
	TRY("mov %2, %%ds; mov %2, %%es; movq %1, %0; movq %%es:%1, %0; mov %3, %%ds; mov %3, %%es",
	    : "=&r"(r)
	    : "m"(v), "r"(FREE_SEL), "r"(KDS)
	    : "memory");
	check(!trap.hit && r == 0x55, "64-bit: base and limit of DS and ES are ignored",
	      "vector %u", trap.vector);
	TRY("mov %2, %%ds; movq %1, %0; mov %3, %%ds",
	    : "=&r"(r)
	    : "m"(v), "r"(0), "r"(KDS)
	    : "memory");
	check(!trap.hit && r == 0x55, "64-bit: null DS works", "vector %u", trap.vector);
	gdt_set(0, FREE_SEL, (ulong)&v - 8, 0, 0x91, 0);
	TRY("mov %1, %%fs; movq %%fs:8, %0; movq $7, %%fs:8; mov %2, %%fs",
	    : "=&r"(r)
	    : "r"(FREE_SEL), "r"(0)
	    : "memory");
	check(!trap.hit && r == 0x55 && v == 7,
	      "64-bit: FS has its base, but neither limit nor type", "vector %u %#lx", trap.vector,
	      r);
}

/* ---- LAR, LSL, VERR, VERW ---- */
static bool zf_lar(unsigned sel, ulong *ar)
{
	bool z;
	ulong a = 0xdead;
	__asm__ volatile("lar %2, %1; setz %0" : "=q"(z), "+r"(a) : "r"((ulong)sel) : "cc");
	*ar = a;
	return z;
}
static bool zf_lsl(unsigned sel, ulong *l)
{
	bool z;
	ulong a = 0xdead;
	__asm__ volatile("lsl %2, %1; setz %0" : "=q"(z), "+r"(a) : "r"((ulong)sel) : "cc");
	*l = a;
	return z;
}
static bool verr(unsigned sel)
{
	bool z;
	__asm__ volatile("verr %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}
static bool verw(unsigned sel)
{
	bool z;
	__asm__ volatile("verw %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}

static void inspect(void)
{
	ulong a = 0;

	check(zf_lar(KDS, &a) && (a & 0xfff0ff00) == 0x00c09300, "LAR: data", "%#lx", a);
	check(zf_lar(KCS, &a) && (a & 0xfff0ff00) == 0x00a09b00, "LAR: code", "%#lx", a);
	check(!zf_lar(0, &a) && a == 0xdead, "LAR: null", "%#lx", a);
	check(!zf_lar(0xfff8, &a), "LAR: beyond the table", "%#lx", a);
	check(!zf_lar(KDS | 3, &a), "LAR: RPL above DPL", "%#lx", a);
	check(zf_lar(TSS_SEL, &a) && (a & 0xff00) == 0x8b00, "LAR: TSS", "%#lx", a);
	gdt_set(0, FREE_SEL, 0, 0xfffff, 0x12, 0xc);
	check(zf_lar(FREE_SEL, &a), "LAR: not present is no matter", "%#lx", a);
	gdt_set(0, FREE_SEL, 0, 0, 0x8e, 0);
	check(!zf_lar(FREE_SEL, &a), "LAR: interrupt gate", "%#lx", a);
	gdt_set(0, FREE_SEL, 0, 0, 0x8c, 0);
	cpus[0].gdt[FREE_SEL / 8 + 1] = 0;
	check(zf_lar(FREE_SEL, &a), "LAR: call gate", "%#lx", a);
	check(!zf_lsl(FREE_SEL, &a), "LSL: call gate", "%#lx", a);
	check(zf_lsl(KDS, &a) && a == 0xffffffff, "LSL: with granularity", "%#lx", a);
	gdt_set(0, FREE_SEL, 0, 0x12345, 0x93, 0);
	check(zf_lsl(FREE_SEL, &a) && a == 0x12345, "LSL: in bytes", "%#lx", a);
	check(zf_lsl(TSS_SEL, &a) && a == sizeof(struct tss) - 1, "LSL: TSS", "%#lx", a);
	check(!zf_lsl(0, &a) && a == 0xdead, "LSL: null", "%#lx", a);
	check(verr(KDS) && verw(KDS), "VERR, VERW: data", "no");
	check(verr(KCS) && !verw(KCS), "VERR, VERW: code", "wrong");
	check(!verr(0) && !verw(0), "VERR, VERW: null", "wrong");
	gdt_set(0, FREE_SEL, 0, 0xfffff, 0x99, 0xa);
	check(!verr(FREE_SEL), "VERR: execute-only code", "wrong");
	gdt_set(0, FREE_SEL, 0, 0xfffff, 0x91, 0xc);
	check(verr(FREE_SEL) && !verw(FREE_SEL), "VERW: read-only data", "wrong");
	check(!verr(TSS_SEL), "VERR: system segment", "wrong");
	check(!verr(KDS | 3) && verr(UDS), "VERR: privilege", "wrong");
	u16 s = 0;
	ulong s64 = ~0ul;
	__asm__ volatile("str %0; str %1" : "=m"(s), "=r"(s64));
	check(s == TSS_SEL && s64 == TSS_SEL, "STR", "%#x %#lx", s, s64);
	__asm__ volatile("sldt %0" : "=r"(s64));
	check_eq("SLDT", s64, 0);
	struct dtable g, i;
	__asm__ volatile("sgdt %0; sidt %1" : "=m"(g), "=m"(i));
	check(g.base == (ulong)cpus[0].gdt && g.limit == sizeof(cpus[0].gdt) - 1, "SGDT",
	      "%#lx %#x", g.base, g.limit);
	check(i.base == (ulong)idt && i.limit == sizeof(idt) - 1, "SIDT", "%#lx %#x", i.base,
	      i.limit);
	/* mov from a segment register: 16 bits to memory, zero-extended to registers */
	static u32 mem = 0xffffffff;
	ulong r = ~0ul;
	__asm__ volatile("mov %%ss, %0; mov %%ss, %1" : "=m"(mem), "=r"(r));
	check(mem == (0xffff0000 | KDS) && r == KDS, "mov from SS", "%#x %#lx", mem, r);
	__asm__ volatile("pushq %%fs; popq %0" : "=r"(r));
	check_eq("push fs", r & 0xffff, 0);
}

/* ---- call gates ---- */
u64 gate_cs, gate_sp, gate_ss, gate_ret_cs, gate_old_sp;
__asm__(".text\ngate_entry: mov %cs, %eax; movq %rax, gate_cs; movq %rsp, gate_sp; mov %ss, %eax; "
	"movq %rax, gate_ss; movq 8(%rsp), %rax; movq %rax, gate_ret_cs;"
	"movq 16(%rsp), %rax; movq %rax, gate_old_sp; lretq\n");
extern u8 gate_entry[];
__asm__(".section .user.text,\"ax\"\nu_gate: movq %rsp, %rbx; movl $0, -8(%rsp); movl $0x63, "
	"-4(%rsp); lcall *-8(%rsp); cmpq %rsp, %rbx; setne %al; movzbl %al, %eax; int $0x40\n"
	"u_gate_jmp: movl $0, -8(%rsp); movl $0x63, -4(%rsp); ljmp *-8(%rsp)\nu_conf: mov %cs, "
	"%eax; lcall *u_conf_ptr; int $0x40\n"
	".code32\nu_gate32: movl %esp, %ebx; lcall $0x63, $0; cmpl %esp, %ebx; setne %al; movzbl "
	"%al, %eax; int $0x40\n.code64\n"
	"u_conf_fn: mov %cs, %ecx; lretl\n"
	".section .user.data,\"aw\"\n.globl u_conf_ptr\nu_conf_ptr: .long u_conf_fn; .word "
	"0x73\n.text\n");
extern u8 u_gate[], u_gate_jmp[], u_gate32[], u_conf[];

static void set_gate(unsigned sel, ulong off, unsigned cs, unsigned access)
{
	cpus[0].gdt[sel / 8] =
	    (off & 0xffff) | (u64)cs << 16 | (u64)access << 40 | (off >> 16 & 0xffff) << 48;
	cpus[0].gdt[sel / 8 + 1] = off >> 32;
}

static void gates(void)
{
	ulong top = cpus[0].tss.rsp[0];

	set_gate(FREE_SEL, (ulong)gate_entry, KCS, 0xec);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_USER_RET && trap.regs.ax == 0, "call gate: CPL 3 to 0 and back",
	      "vector %u error %#lx", trap.vector, trap.error);
	check(gate_cs == KCS && gate_ss == 0 && gate_sp == top - 32, "call gate: CS, null SS, RSP0",
	      "cs %#llx ss %#llx rsp %#llx", (unsigned long long)gate_cs,
	      (unsigned long long)gate_ss, (unsigned long long)gate_sp);
	check(gate_ret_cs == UCS && gate_old_sp == (ulong)user_stack + USTACK_SIZE - 64,
	      "call gate: frame of four", "cs %#llx rsp %#llx", (unsigned long long)gate_ret_cs,
	      (unsigned long long)gate_old_sp);
	user32_run(u_gate32, 0, 0, 0);
	check(trap.vector == V_USER_RET && (u32)trap.regs.ax == 0 && gate_ret_cs == UCS32,
	      "call gate: from 32-bit code", "vector %u error %#lx", trap.vector, trap.error);
	user_run(u_gate_jmp, 0, 0);
	check(trap.vector == V_GP && trap.error == KCS, "call gate: jmp to more privilege is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, (ulong)gate_entry, KCS, 0x8c);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == FREE_SEL, "call gate: DPL 0 from CPL 3 is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, (ulong)gate_entry, KCS, 0x6c);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_NP && trap.error == FREE_SEL, "call gate: not present",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, (ulong)gate_entry, KDS, 0xec);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == KDS, "call gate: to data is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, (ulong)gate_entry, KCS32, 0xec);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == KCS32, "call gate: to 32-bit code is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, 0x8000000000000000, KCS, 0xec);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == 0, "call gate: offset not canonical is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	set_gate(FREE_SEL, (ulong)gate_entry, 0, 0xec);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == 0, "call gate: null selector is #GP",
	      "vector %u error %#lx", trap.vector, trap.error);
	/* from CPL 0: no stack switch */
	set_gate(FREE_SEL, (ulong)gate_entry, KCS, 0xec);
	struct far p = { 0, FREE_SEL };
	ulong sp;
	TRY("movq %%rsp, %0; lcall *%1", : "=&r"(sp) : "m"(p) : "rax", "memory");
	check(!trap.hit && gate_sp == sp - 16, "call gate: same level keeps the stack", "vector %u",
	      trap.vector);
	/* conforming code keeps the CPL; its 64-bit segment has DPL 0 */
	gdt_set(0, 0x70, 0, 0xfffff, 0x9f, 0xa);
	user_run(u_conf, 0, 0);
	check(trap.vector == V_USER_RET && (trap.regs.cx & 0xffff) == 0x73 && trap.cs == UCS,
	      "conforming code keeps the CPL", "vector %u error %#lx cs %#lx", trap.vector,
	      trap.error, trap.regs.cx);
	/* lret to CPL 3 with a count */
	TRY("pushq %0; pushq %1; pushq $0xbad; pushq %2; pushq %3; lretq $8", ::"r"((ulong)UDS),
	    "r"((ulong)user_stack + 4096), "r"((ulong)UCS), "r"(u_conf + 0)
	    : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "memory");
	check(trap.hit, "lret: pops its count on both stacks", "none");
}

int main(void)
{
	real_mode();
	compatibility();
	flat64();
	inspect();
	gates();
	return 0;
}
