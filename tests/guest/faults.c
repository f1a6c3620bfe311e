/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions: vector, error code, saved RIP and flags of each kind, and how one that
 * meets another is delivered (Intel SDM 3A, chapter "Interrupt and Exception Handling").
 * Restart of interrupted instructions and IRET are in restart.c.
 */
#include "rt.h"

#define VA 0x10000000000ul

/* ---- #DE, #BP, #OF, #BR, #DB ---- */
static void simple(void)
{
	ulong a = 0x1234, d = 0, z = 0;

	TRY("divb %b1", : "+a"(a) : "r"(z) : "cc");
	expect("#DE: 8 bits", V_DE, 0, AT_INSN);
	TRY("divw %w2", : "+a"(a), "+d"(d) : "r"(z) : "cc");
	expect("#DE: 16 bits", V_DE, 0, AT_INSN);
	TRY("divl %k2", : "+a"(a), "+d"(d) : "r"(z) : "cc");
	expect("#DE: 32 bits", V_DE, 0, AT_INSN);
	TRY("divq %2", : "+a"(a), "+d"(d) : "r"(z) : "cc");
	expect("#DE: 64 bits", V_DE, 0, AT_INSN);
	check(trap.regs.ax == 0x1234 && trap.regs.dx == 0, "#DE: registers unchanged", "rax %#lx", trap.regs.ax);
	d = 5;
	TRY("divq %2", : "+a"(a), "+d"(d) : "r"(5ul) : "cc");
	expect("#DE: quotient too big", V_DE, 0, AT_INSN);
	a = 0x80000000, d = 0xffffffff;
	TRY("idivl %k2", : "+a"(a), "+d"(d) : "r"(-1) : "cc");
	expect("#DE: idiv of the smallest by -1", V_DE, 0, AT_INSN);
	a = 0x100;
	TRY("idivb %b1", : "+a"(a) : "r"(2) : "cc");
	expect("#DE: idiv 8 bits, quotient 128", V_DE, 0, AT_INSN);
	a = 0xff00;
	TRY("idivb %b1", : "+a"(a) : "r"(2) : "cc");
	check(!trap.hit && (a & 0xffff) == 0x80, "#DE: idiv 8 bits, quotient -128 is fine", "vector %u ax %#lx",
	      trap.vector, a & 0xffff);
	TRY("int3", ::: "memory");
	expect("#BP: int3 saves the next RIP", V_BP, 0, AFTER_INSN);
	check(!(trap.flags & FL_RF), "#BP: RF clear in the saved flags", "%#lx", trap.flags);
	TRY(".byte 0xcd, 0x03", ::: "memory");
	expect("#BP: int 3 saves the next RIP", V_BP, 0, AFTER_INSN);
	TRY("int $4", ::: "memory");
	expect("#OF: int 4", V_OF, 0, AFTER_INSN);
	TRY("int $0x31", ::: "memory");
	expect("int: software interrupt", 0x31, 0, AFTER_INSN);
	TRY(".byte 0xf1", ::: "memory");
	expect("#DB: int1 saves the next RIP", V_DB, 0, AFTER_INSN);
	TRY("ud2", ::: "memory");
	check(trap.flags & FL_RF, "#UD: RF set in the saved flags", "%#lx", trap.flags);
	TRY("movb (%0), %%al", ::"r"(VA) : "rax");
	check(trap.flags & FL_RF, "#PF: RF set in the saved flags", "%#lx", trap.flags);
	ulong f1, f2;
	TRY("pushf; pop %0; orq $0x8d5, %0; push %0; popf; ud2", : "=&r"(f1)::"memory", "cc");
	f2 = trap.flags;
	check((f2 & 0x8d5) == 0x8d5, "flags: arithmetic flags saved", "%#lx", f2);
	TRY("std; ud2", ::: "memory", "cc");
	check(trap.flags & FL_DF, "flags: DF saved", "%#lx", trap.flags);
}

/* 32-bit code: far call with the flat 32-bit segment; ends with lret. */
struct far {
	u32 off;
	u16 sel;
} __attribute__((packed));
#define COMPAT(name, code) \
	__asm__(".text\n.code32\n" #name ":\n" code "\nlret\n.code64\n"); \
	extern u8 name[]

COMPAT(c_into, "movb $0x7f, %al; addb $1, %al; into; nop");
COMPAT(c_into_not, "xorl %eax, %eax; into; movl $77, %eax");
COMPAT(c_bound, "movl $5, %eax; bound %eax, c_bounds");
COMPAT(c_bound_ok, "movl $4, %eax; bound %eax, c_bounds; movl $78, %eax");
COMPAT(c_bound_neg, "movl $-3, %eax; bound %eax, c_bounds");
u32 c_bounds[2] = { -2, 4 };

static ulong compat(const void *fn)
{
	struct far p = { (u32)(ulong)fn, KCS32 };
	ulong r = 0;

	TRY("mov %2, %%ds; mov %2, %%es; lcall *%1", : "=a"(r) : "m"(p), "r"(KDS)
	    : "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "memory", "cc");
	return r;
}

static void compat_only(void)
{
	compat(c_into);
	check(trap.hit && trap.vector == V_OF && trap.cs == KCS32 && trap.ip == (ulong)c_into + 5,
	      "#OF: into with OF", "vector %u cs %#lx ip %ld", trap.vector, trap.cs, trap.ip - (ulong)c_into);
	ulong r = compat(c_into_not);
	check(!trap.hit && r == 77, "#OF: into without OF", "vector %u", trap.vector);
	compat(c_bound);
	check(trap.hit && trap.vector == V_BR && trap.ip == (ulong)c_bound + 5, "#BR: above", "vector %u ip %ld",
	      trap.vector, trap.ip - (ulong)c_bound);
	compat(c_bound_neg);
	check(trap.hit && trap.vector == V_BR && trap.ip == (ulong)c_bound_neg + 5, "#BR: below", "vector %u",
	      trap.vector);
	r = compat(c_bound_ok);
	check(!trap.hit && r == 78, "#BR: inside", "vector %u", trap.vector);
}

/* ---- #UD ---- */
static void undefined(void)
{
	static const struct {
		const char *name;
		u8 len, code[16];
	} list[] = {
		{ "ud2", 2, { 0x0f, 0x0b } },
		{ "ud1", 3, { 0x0f, 0xb9, 0xc0 } },
		{ "lock nop", 2, { 0xf0, 0x90 } },
		{ "lock mov", 3, { 0xf0, 0x89, 0x07 } },
		{ "lock add to a register", 3, { 0xf0, 0x01, 0xc0 } },
		{ "lock add from memory", 3, { 0xf0, 0x03, 0x07 } },
		{ "lock cmp", 3, { 0xf0, 0x39, 0x07 } },
		{ "lock test", 3, { 0xf0, 0x85, 0x07 } },
		{ "lock bt", 4, { 0xf0, 0x0f, 0xa3, 0x07 } },
		{ "lock push", 2, { 0xf0, 0x50 } },
		{ "lock shl", 3, { 0xf0, 0xd1, 0x27 } },
		{ "lock movsb", 2, { 0xf0, 0xa4 } },
		{ "lock mul", 3, { 0xf0, 0xf7, 0x27 } },
		{ "lock jmp", 3, { 0xf0, 0xeb, 0x00 } },
		{ "lock cpuid", 3, { 0xf0, 0x0f, 0xa2 } },
		{ "lock xchg of registers", 3, { 0xf0, 0x87, 0xc9 } },
		{ "push es", 1, { 0x06 } },
		{ "pop es", 1, { 0x07 } },
		{ "push cs", 1, { 0x0e } },
		{ "push ss", 1, { 0x16 } },
		{ "pop ss", 1, { 0x17 } },
		{ "push ds", 1, { 0x1e } },
		{ "pop ds", 1, { 0x1f } },
		{ "daa", 1, { 0x27 } },
		{ "das", 1, { 0x2f } },
		{ "aaa", 1, { 0x37 } },
		{ "aas", 1, { 0x3f } },
		{ "pusha", 1, { 0x60 } },
		{ "popa", 1, { 0x61 } },
		{ "opcode 82", 3, { 0x82, 0xc0, 0x01 } },
		{ "call far immediate", 7, { 0x9a, 0, 0, 0, 0, 8, 0 } },
		{ "into", 1, { 0xce } },
		{ "aam", 2, { 0xd4, 0x0a } },
		{ "aad", 2, { 0xd5, 0x0a } },
		{ "salc", 1, { 0xd6 } },
		{ "jmp far immediate", 7, { 0xea, 0, 0, 0, 0, 8, 0 } },
		{ "mov to CS", 2, { 0x8e, 0xc8 } },
		{ "mov to segment 6", 2, { 0x8e, 0xf0 } },
		{ "mov to segment 7", 2, { 0x8e, 0xf8 } },
		{ "mov from segment 6", 2, { 0x8c, 0xf0 } },
		{ "lea of a register", 2, { 0x8d, 0xc0 } },
		{ "opcode fe /2", 2, { 0xfe, 0xd0 } },
		{ "opcode ff /7", 2, { 0xff, 0xf8 } },
		{ "far call of a register", 2, { 0xff, 0xd8 } },
		{ "far jmp of a register", 2, { 0xff, 0xe8 } },
		{ "opcode c6 /1", 3, { 0xc6, 0xc8, 0x00 } },
		{ "opcode c7 /2", 6, { 0xc7, 0xd0, 0, 0, 0, 0 } },
		{ "opcode 8f /0 needs one, /1", 2, { 0x8f, 0xc9 } },
		{ "opcode 0f ba /0", 4, { 0x0f, 0xba, 0xc0, 0x01 } },
		{ "cmpxchg8b of a register", 3, { 0x0f, 0xc7, 0xc8 } },
		{ "opcode 0f c7 /0", 3, { 0x0f, 0xc7, 0xc0 } },
		{ "opcode 0f 04", 2, { 0x0f, 0x04 } },
		{ "opcode 0f 0a", 2, { 0x0f, 0x0a } },
		{ "opcode 0f 24", 3, { 0x0f, 0x24, 0xc0 } },
		{ "opcode 0f 26", 3, { 0x0f, 0x26, 0xc0 } },
		{ "opcode 0f 39", 3, { 0x0f, 0x39, 0xc0 } },
		{ "mov from CR1", 3, { 0x0f, 0x20, 0xc8 } },
		{ "mov to CR9", 4, { 0x44, 0x0f, 0x22, 0xc8 } },
		{ "opcode 0f 38 ff", 4, { 0x0f, 0x38, 0xff, 0xc0 } },
		{ "opcode 0f 3a ff", 5, { 0x0f, 0x3a, 0xff, 0xc0, 0 } },
		{ "opcode 0f 00 /6", 3, { 0x0f, 0x00, 0xf0 } },
		{ "movntps between registers", 3, { 0x0f, 0x2b, 0xc0 } },
		{ "movlps store to a register", 3, { 0x0f, 0x13, 0xc0 } },
		{ "lddqu of a register", 4, { 0xf2, 0x0f, 0xf0, 0xc0 } },
		{ "fld tword of st form db /4 f0", 2, { 0xdb, 0xe7 } },
		{ "x87 d9 d1", 2, { 0xd9, 0xd1 } },
		{ "x87 da ea", 2, { 0xda, 0xea } },
		{ "monitor without support bits: lock", 4, { 0xf0, 0x0f, 0x01, 0xc8 } },
		{ "lock before VEX", 5, { 0xf0, 0xc5, 0xf8, 0x77, 0x90 } },
		{ "66 before VEX", 4, { 0x66, 0xc5, 0xf8, 0x77 } },
		{ "f3 before VEX", 4, { 0xf3, 0xc5, 0xf8, 0x77 } },
		{ "REX before VEX", 4, { 0x48, 0xc5, 0xf8, 0x77 } },
		{ "VEX map 0", 5, { 0xc4, 0xe0, 0x78, 0x77, 0x90 } },
		{ "sysret is privileged, vmcall without VMX", 3, { 0x0f, 0x01, 0xc4 } },
		{ "getsec", 2, { 0x0f, 0x37 } },
		{ "rsm", 2, { 0x0f, 0xaa } },
	};
	u8 *page = page_alloc();

	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		char name[64] = "#UD: ";
		unsigned n = 5;

		for (const char *s = list[i].name; *s && n < 62; s++)
			name[n++] = *s;
		memset(page, 0x90, 64);
		memcpy(page, list[i].code, list[i].len);
		page[list[i].len] = 0xcd; /* int 0x41: it ran */
		page[list[i].len + 1] = 0x41;
		TRY("call *%0", ::"r"(page), "D"(page + 256)
		    : "rax", "rcx", "rdx", "rbx", "rsi", "memory", "cc");
		check(trap.hit && trap.vector == V_UD && trap.ip == (ulong)page, name, "%s vector %u error %#lx at +%ld",
		      trap.hit ? "" : "none", trap.vector, trap.error, (long)(trap.ip - (ulong)page));
	}
	/* lengths */
	memset(page, 0x66, 16);
	page[15] = 0x90;
	page[16] = 0xc3;
	TRY("call *%0", ::"r"(page) : "memory");
	expect("length: 16 bytes is #GP(0)", V_GP, 0, ANYWHERE);
	check_eq("length: saved RIP", trap.ip, (ulong)page);
	page[14] = 0x90;
	page[15] = 0xc3;
	TRY("call *%0", ::"r"(page) : "memory");
	expect_none("length: 15 bytes is fine");
}

/* ---- FPU: #NM, #MF, #XM ---- */
static void fpu(void)
{
	ulong cr0 = read_cr0(), cr4 = read_cr4();

	__asm__ volatile("fninit");
	write_cr0(cr0 | CR0_TS);
	TRY("fnop", ::: "memory");
	expect("#NM: x87 with TS", V_NM, 0, AT_INSN);
	TRY("movaps %%xmm0, %%xmm0", ::: "memory");
	expect("#NM: SSE with TS", V_NM, 0, AT_INSN);
	TRY("emms", ::: "memory");
	expect("#NM: MMX with TS", V_NM, 0, AT_INSN);
	TRY("fwait", ::: "memory");
	expect("#NM: fwait with TS and MP", V_NM, 0, AT_INSN);
	u32 m = 0;
	TRY("stmxcsr %0", : "=m"(m)::"memory");
	expect("#NM: stmxcsr with TS", V_NM, 0, AT_INSN);
	TRY("ldmxcsr %0", ::"m"(m) : "memory");
	expect("#NM: ldmxcsr with TS", V_NM, 0, AT_INSN);
	static u8 image[512] __attribute__((aligned(16)));
	TRY("fxsave64 %0", : "=m"(image)::"memory");
	expect("#NM: fxsave with TS", V_NM, 0, AT_INSN);
	TRY("sfence; lfence; mfence; movnti %%eax, %0; prefetchnta %0; pause", : "=m"(m)::"memory");
	expect_none("#NM: not for fences, movnti and prefetch");
	if (cpuid_has(1, 0, 'c', 20)) {
		TRY("crc32l %%ecx, %%eax", ::: "rax");
		expect_none("#NM: not for crc32");
	}
	/* the state is not touched: memory fault or #NM first? #NM */
	TRY("fldl (%0)", ::"r"(VA) : "memory");
	expect("#NM: before a page fault", V_NM, 0, AT_INSN);
	write_cr0((cr0 | CR0_TS) & ~CR0_MP);
	TRY("fwait", ::: "memory");
	expect_none("#NM: not for fwait without MP");
	write_cr0((cr0 & ~CR0_TS) | CR0_EM);
	TRY("fnop", ::: "memory");
	expect("#NM: x87 with EM", V_NM, 0, AT_INSN);
	TRY("fwait", ::: "memory");
	expect_none("#NM: not for fwait with EM alone");
	TRY("movaps %%xmm0, %%xmm0", ::: "memory");
	expect("#UD: SSE with EM", V_UD, 0, AT_INSN);
	TRY("emms", ::: "memory");
	expect("#UD: MMX with EM", V_UD, 0, AT_INSN);
	write_cr0(cr0 & ~(CR0_TS | CR0_EM));
	write_cr4(cr4 & ~CR4_OSFXSR);
	TRY("movaps %%xmm0, %%xmm0", ::: "memory");
	expect("#UD: SSE without OSFXSR", V_UD, 0, AT_INSN);
	TRY("movd %%eax, %%mm0; emms", ::: "memory");
	expect_none("#UD: MMX does not need OSFXSR");
	write_cr4(cr4);

	u16 cw = 0x037b, sw = 0; /* ZE unmasked */
	TRY("fninit; fldcw %0; fld1; fldz; fdivrp", ::"m"(cw) : "memory");
	expect_none("#MF: not by the instruction itself");
	__asm__ volatile("fnstsw %0" : "=m"(sw));
	check_eq("#MF: summary and ZE set", sw & 0x84, 0x84);
	TRY("fwait", ::: "memory");
	expect("#MF: fwait", V_MF, 0, AT_INSN);
	TRY("fld1", ::: "memory");
	expect("#MF: next waiting instruction", V_MF, 0, AT_INSN);
	TRY("movd %%eax, %%mm0", ::: "memory");
	expect("#MF: MMX", V_MF, 0, AT_INSN);
	TRY("fnstcw %0; fnstsw %0; fnclex", : "=m"(sw)::"memory");
	expect_none("#MF: not for the no-wait forms");
	TRY("fwait", ::: "memory");
	expect_none("#MF: gone after fnclex");
	cw = 0x037f;
	TRY("fninit; fld1; fldz; fdivrp; fldcw %0; fwait", ::"m"(cw) : "memory");
	expect_none("#MF: masked");
	cw = 0x037b;
	TRY("fldcw %0", ::"m"(cw) : "memory");
	expect_none("#MF: unmasking raises nothing itself");
	TRY("fwait", ::: "memory");
	expect("#MF: unmasked pending error", V_MF, 0, AT_INSN);
	__asm__ volatile("fninit");

	u32 csr = 0x1f80 & ~(1u << 9), one = 0x3f800000; /* ZM clear */
	TRY("ldmxcsr %0; xorps %%xmm1, %%xmm1; movss %1, %%xmm0; divss %%xmm1, %%xmm0", ::"m"(csr), "m"(one) : "memory");
	expect("#XM: divide by zero", V_XM, 0, ANYWHERE);
	u32 v = 0;
	__asm__ volatile("movss %%xmm0, %0; stmxcsr %1" : "=m"(v), "=m"(m));
	check_eq("#XM: destination unchanged", v, one);
	check_eq("#XM: flag set", m & 4, 4);
	TRY("divss %%xmm1, %%xmm0", ::: "memory");
	expect("#XM: at the instruction", V_XM, 0, AT_INSN);
	write_cr4(cr4 & ~CR4_OSXMMEXCPT);
	TRY("divss %%xmm1, %%xmm0", ::: "memory");
	expect("#XM: #UD without OSXMMEXCPT", V_UD, 0, AT_INSN);
	write_cr4(cr4);
	csr = 0x1f80;
	TRY("ldmxcsr %0; divss %%xmm1, %%xmm0", ::"m"(csr) : "memory");
	expect_none("#XM: masked");
	csr = 0x11f80;
	TRY("ldmxcsr %0", ::"m"(csr) : "memory");
	expect("#GP: reserved bits of MXCSR", V_GP, 0, AT_INSN);
	csr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" ::"m"(csr));
	TRY("movaps 8(%0), %%xmm0", ::"r"(image) : "memory");
	expect("#GP: misaligned movaps", V_GP, 0, AT_INSN);
	TRY("addps 4(%0), %%xmm0", ::"r"(image) : "memory");
	expect("#GP: misaligned SSE operand", V_GP, 0, AT_INSN);
	TRY("fxsave64 8(%0)", ::"r"(image) : "memory");
	expect("#GP: misaligned fxsave", V_GP, 0, AT_INSN);
	if (cpuid_has(1, 0, 'c', 13)) {
		TRY("lock cmpxchg16b 8(%0)", ::"r"(image) : "rax", "rdx", "memory", "cc");
		expect("#GP: misaligned cmpxchg16b", V_GP, 0, AT_INSN);
	}
}

/* ---- #AC ---- */
USER_TEXT __attribute__((naked)) static void u_load4(void)
{
	__asm__("movl (%rdi), %eax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_store2(void)
{
	__asm__("movw %ax, (%rdi); int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_load8(void)
{
	__asm__("movq (%rdi), %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_byte(void)
{
	__asm__("movb (%rdi), %al; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_push(void)
{
	__asm__("subq $3, %rsp; push %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_popf_ac(void)
{
	__asm__("pushf; orl $0x40000, (%rsp); popf; movl 1(%rdi), %eax; int $0x40");
}

static void alignment(void)
{
	ulong p = (ulong)user_stack, cr0 = read_cr0();

	write_cr0(cr0 | CR0_AM);
	user_run_flags(u_load4, p + 1, 0, FL_AC);
	expect("#AC: 4 bytes at CPL 3", V_AC, 0, AT_INSN);
	user_run_flags(u_load4, p + 2, 0, FL_AC);
	expect("#AC: 4 bytes at 2", V_AC, 0, AT_INSN);
	user_run_flags(u_load4, p + 4, 0, FL_AC);
	check_eq("#AC: aligned", trap.vector, V_USER_RET);
	user_run_flags(u_store2, p + 1, 0, FL_AC);
	expect("#AC: 2-byte store", V_AC, 0, AT_INSN);
	user_run_flags(u_load8, p + 4, 0, FL_AC);
	expect("#AC: 8 bytes at 4", V_AC, 0, AT_INSN);
	user_run_flags(u_byte, p + 1, 0, FL_AC);
	check_eq("#AC: bytes are always aligned", trap.vector, V_USER_RET);
	user_run_flags(u_push, p, 0, FL_AC);
	check(trap.vector == V_AC && trap.error == 0, "#AC: push", "vector %u", trap.vector);
	user_run_flags(u_load4, p + 1, 0, 0);
	check_eq("#AC: not without AC", trap.vector, V_USER_RET);
	user_run_flags(u_popf_ac, p, 0, 0);
	check(trap.vector == V_AC, "#AC: after popf at CPL 3", "vector %u", trap.vector);
	TRY("pushf; orl $0x40000, (%%rsp); popf; movl 1(%0), %%eax; pushf; andl $~0x40000, (%%rsp); popf", ::"r"(p)
	    : "rax", "memory", "cc");
	expect_none("#AC: not at CPL 0");
	write_cr0(cr0 & ~CR0_AM);
	user_run_flags(u_load4, p + 1, 0, FL_AC);
	check_eq("#AC: not without AM", trap.vector, V_USER_RET);
	write_cr0(cr0);
}

/* ---- #NP, #SS, #GP and #TS through segments ---- */
__asm__(".text\nfar_ran: int $0x41\n"); /* where no test may get */
extern u8 far_ran[];

#define LOAD(seg, sel) TRY("mov %0, %%" #seg, ::"r"(sel) : "memory")
static void segments(void)
{
	const unsigned s = FREE_SEL;

	gdt_set(0, s, 0, 0xfffff, 0x13, 0xc); /* data, not present */
	LOAD(ds, s);
	expect("#NP: data segment", V_NP, s, AT_INSN);
	LOAD(ss, s);
	expect("#SS: stack segment not present", V_SS, s, AT_INSN);
	LOAD(fs, s | 3);
	expect("#GP before #NP: RPL 3 above DPL 0", V_GP, s, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0x99, 0xa); /* execute-only code */
	LOAD(ds, s);
	expect("#GP: DS from execute-only code", V_GP, s, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0x91, 0xc); /* read-only data */
	LOAD(es, s);
	expect_none("ES from read-only data");
	LOAD(ss, s);
	expect("#GP: SS from read-only data", V_GP, s, AT_INSN);
	LOAD(ss, UDS);
	expect("#GP: SS with RPL and DPL 3 at CPL 0", V_GP, UDS & ~3, AT_INSN);
	LOAD(ss, KDS | 3);
	expect("#GP: SS with RPL 3 at CPL 0", V_GP, KDS, AT_INSN);
	if (!hostile("#GP: null SS with RPL 3")) {
		LOAD(ss, 3);
		expect("#GP: null SS with RPL 3", V_GP, 0, AT_INSN);
	}
	LOAD(ss, 0);
	expect_none("null SS at CPL 0");
	LOAD(ss, KDS);
	LOAD(ds, 3);
	expect_none("null DS with RPL 3");
	LOAD(ds, TSS_SEL);
	expect("#GP: DS from a system segment", V_GP, TSS_SEL, AT_INSN);
	LOAD(ds, 0xfff8);
	expect("#GP: beyond the table", V_GP, 0xfff8, AT_INSN);
	LOAD(ds, 0xffff);
	expect("#GP: beyond the LDT, RPL not in the error code", V_GP, 0xfffc, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0x92, 0xc); /* data, not yet accessed */
	LOAD(gs, s);
	check(!trap.hit && (cpus[0].gdt[s / 8] >> 40 & 1), "accessed bit set by a load", "descriptor %#lx",
	      (ulong)cpus[0].gdt[s / 8]);
	LOAD(gs, 0);

	struct far far = { (u32)(ulong)far_ran, s };
	TRY("lcall *%0", ::"m"(far) : "memory");
	expect("#GP: far call to data", V_GP, s, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0x1b, 0xa);
	TRY("ljmp *%0", ::"m"(far) : "memory");
	expect("#NP: far jmp", V_NP, s, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0x9b, 0xe); /* L and D */
	TRY("ljmp *%0", ::"m"(far) : "memory");
	expect("#GP: far jmp to code with L and D", V_GP, s, AT_INSN);
	gdt_set(0, s, 0, 0xfffff, 0xfb, 0xa);
	TRY("ljmp *%0", ::"m"(far) : "memory");
	expect("#GP: far jmp to DPL 3", V_GP, s, AT_INSN);
	far.sel = 0;
	TRY("ljmp *%0", ::"m"(far) : "memory");
	expect("#GP: far jmp to null", V_GP, 0, AT_INSN);
	TRY("push %q0; push $0; lretq", ::"r"(0ul) : "memory");
	expect("#GP: lret to null", V_GP, 0, ANYWHERE);
	TRY("push %q0; push $0; lretq", ::"r"((ulong)KDS) : "memory");
	expect("#GP: lret to data", V_GP, KDS, ANYWHERE);
	TRY("ltr %w0", ::"r"(TSS_SEL) : "memory");
	expect("#GP: ltr of a busy TSS", V_GP, TSS_SEL, AT_INSN);
	if (!hostile("#GP: ltr of null")) {
		TRY("ltr %w0", ::"r"(0) : "memory");
		expect("#GP: ltr of null", V_GP, 0, AT_INSN);
	}
	TRY("ltr %w0", ::"r"(KDS) : "memory");
	expect("#GP: ltr of data", V_GP, KDS, AT_INSN);
	gdt_set(0, s, (ulong)&cpus[0].tss, 103, 0x09, 0);
	cpus[0].gdt[s / 8 + 1] = 0;
	TRY("ltr %w0", ::"r"(s) : "memory");
	expect("#NP: ltr", V_NP, s, AT_INSN);
	TRY("lldt %w0", ::"r"(0) : "memory");
	expect_none("lldt of null");
	TRY("lldt %w0", ::"r"(TSS_SEL) : "memory");
	expect("#GP: lldt of a TSS", V_GP, TSS_SEL, AT_INSN);
	gdt_set(0, s, (ulong)page_alloc(), 15, 0x02, 0);
	TRY("lldt %w0", ::"r"(s) : "memory");
	expect("#NP: lldt", V_NP, s, AT_INSN);
	gdt_set(0, s, (ulong)page_alloc(), 15, 0x82, 0);
	TRY("lldt %w0", ::"r"(s) : "memory");
	expect_none("lldt");
	LOAD(ds, 4);
	expect("#GP: LDT entry of type 0", V_GP, 4, AT_INSN);
	LOAD(ds, 0x14);
	expect("#GP: beyond the LDT's limit", V_GP, 0x14, AT_INSN);
	__asm__ volatile("lldt %w0" ::"r"(0));
	LOAD(ds, KDS);
	LOAD(es, KDS);
}

/* ---- gates ---- */
USER_TEXT __attribute__((naked)) static void u_int41(void)
{
	__asm__("int $0x41");
}
USER_TEXT __attribute__((naked)) static void u_int3(void)
{
	__asm__("int3");
}
USER_TEXT __attribute__((naked)) static void u_hlt(void)
{
	__asm__("hlt");
}
USER_TEXT __attribute__((naked)) static void u_cli(void)
{
	__asm__("cli");
}
USER_TEXT __attribute__((naked)) static void u_in(void)
{
	__asm__("inb $0x80, %al");
}
USER_TEXT __attribute__((naked)) static void u_wrmsr(void)
{
	__asm__("wrmsr");
}
USER_TEXT __attribute__((naked)) static void u_lgdt(void)
{
	__asm__("lgdt (%rdi)");
}
USER_TEXT __attribute__((naked)) static void u_clts(void)
{
	__asm__("clts");
}
USER_TEXT __attribute__((naked)) static void u_rdmsr(void)
{
	__asm__("rdmsr");
}
USER_TEXT __attribute__((naked)) static void u_lmsw(void)
{
	__asm__("lmsw %ax");
}
USER_TEXT __attribute__((naked)) static void u_sysret(void)
{
	__asm__("sysretq");
}
USER_TEXT __attribute__((naked)) static void u_dr(void)
{
	__asm__("mov %dr7, %rax");
}
USER_TEXT __attribute__((naked)) static void u_wbinvd(void)
{
	__asm__("wbinvd");
}
USER_TEXT __attribute__((naked)) static void u_swapgs(void)
{
	__asm__("swapgs");
}
USER_TEXT __attribute__((naked)) static void u_ltr(void)
{
	__asm__("ltr %ax");
}

static void gates(void)
{
	struct dtable old, small;

	user_run(u_int41, 0, 0);
	expect("#GP: int through a gate of DPL 0", V_GP, 0x41 * 8 + 2, AT_INSN);
	user_run(u_int3, 0, 0);
	check(trap.vector == V_BP && trap.ip == (ulong)u_int3 + 1, "CPL 3: int3", "vector %u", trap.vector);
	idt_set(V_BP, (void *)0, 0, 0);
	user_run(u_int3, 0, 0);
	expect("#GP: int3 through a gate of DPL 0", V_GP, V_BP * 8 + 2, AT_INSN);
	idt_default(V_BP);
	idt[0x41].type &= ~0x80;
	TRY("int $0x41", ::: "memory");
	expect("#NP: absent gate", V_NP, 0x41 * 8 + 2, AT_INSN);
	idt[0x41].type = 0x85;
	TRY("int $0x41", ::: "memory");
	expect("#GP: task gate in long mode", V_GP, 0x41 * 8 + 2, AT_INSN);
	idt[0x41].type = 0x86;
	TRY("int $0x41", ::: "memory");
	expect("#GP: 16-bit gate in long mode", V_GP, 0x41 * 8 + 2, AT_INSN);
	idt_default(0x41);
	idt[0x41].sel = 0;
	TRY("int $0x41", ::: "memory");
	expect("#GP: gate with a null selector", V_GP, 0, AT_INSN);
	idt[0x41].sel = KDS;
	TRY("int $0x41", ::: "memory");
	expect("#GP: gate to data", V_GP, KDS, AT_INSN);
	idt[0x41].sel = KCS32;
	TRY("int $0x41", ::: "memory");
	expect("#GP: gate to 32-bit code", V_GP, KCS32, AT_INSN);
	idt_default(0x41);
	__asm__ volatile("sidt %0" : "=m"(old));
	small = (struct dtable){ 0x41 * 16 + 14, old.base };
	__asm__ volatile("lidt %0" ::"m"(small));
	TRY("int $0x41", ::: "memory");
	expect("#GP: beyond the IDT's limit", V_GP, 0x41 * 8 + 2, AT_INSN);
	__asm__ volatile("lidt %0" ::"m"(old));
	idt[V_UD].type &= ~0x80;
	TRY("ud2", ::: "memory");
	expect("#NP: absent gate of an exception has EXT", V_NP, V_UD * 8 + 3, AT_INSN);
	idt_default(V_UD);
	idt[V_BP].type &= ~0x80;
	TRY("int3", ::: "memory");
	expect("#NP: absent gate of int3 has no EXT", V_NP, V_BP * 8 + 2, AT_INSN);
	idt_default(V_BP);

	static const struct {
		const char *name;
		const void *fn;
	} priv[] = {
		{ "CPL 3: hlt is #GP(0)", u_hlt }, { "CPL 3: cli is #GP(0)", u_cli }, { "CPL 3: in is #GP(0)", u_in },
		{ "CPL 3: wrmsr is #GP(0)", u_wrmsr }, { "CPL 3: rdmsr is #GP(0)", u_rdmsr },
		{ "CPL 3: lgdt is #GP(0)", u_lgdt }, { "CPL 3: clts is #GP(0)", u_clts },
		{ "CPL 3: lmsw is #GP(0)", u_lmsw }, { "CPL 3: sysret is #GP(0)", u_sysret },
		{ "CPL 3: mov from DR7 is #GP(0)", u_dr }, { "CPL 3: wbinvd is #GP(0)", u_wbinvd },
		{ "CPL 3: swapgs is #GP(0)", u_swapgs }, { "CPL 3: ltr is #GP(0)", u_ltr },
	};
	for (unsigned i = 0; i < ARRAY_LEN(priv); i++) {
		user_run(priv[i].fn, 0, 0);
		expect(priv[i].name, V_GP, 0, AT_INSN);
	}
}

/* ---- one exception meets another ---- */
static void nested(void)
{
	/* #DF on a stack of its own */
	idt[V_DF].ist = 1;
	idt[V_GP].type &= ~0x80;
	TRY("mov %0, %%ss", ::"r"(KDS | 3) : "memory");
	expect("#DF: absent gate for #GP", V_DF, 0, ANYWHERE);
	idt_default(V_GP);
	idt[V_DE].type &= ~0x80;
	TRY("divl %k0", ::"r"(0), "a"(1), "d"(0) : "cc");
	expect("#DF: absent gate for #DE", V_DF, 0, ANYWHERE);
	idt_default(V_DE);
	idt[V_PF].type &= ~0x80;
	TRY("movb (%0), %%al", ::"r"(VA) : "rax", "memory");
	expect("#DF: absent gate for #PF", V_DF, 0, ANYWHERE);
	idt_default(V_PF);
	idt[V_UD].sel = 0;
	TRY("ud2", ::: "memory");
	expect("#GP, not #DF: null selector in the gate of #UD", V_GP, 1, AT_INSN);
	idt_default(V_UD);

	/* the handler's stack is not mapped */
	cpus[0].tss.ist[1] = VA + 0x1000;
	idt[V_GP].ist = 2;
	TRY("mov %0, %%ss", ::"r"(KDS | 3) : "memory");
	expect_pf("#PF, not #DF: stack of the #GP handler absent", PF_W, VA + 0xff8, AT_INSN);
	idt_default(V_GP);
	idt[V_UD].ist = 2;
	TRY("ud2", ::: "memory");
	expect_pf("#PF: stack of the #UD handler absent", PF_W, VA + 0xff8, AT_INSN);
	idt_default(V_UD);
	idt[V_PF].ist = 2;
	TRY("movb (%0), %%al", ::"r"(VA + 0x5000) : "rax", "memory");
	expect("#DF: stack of the #PF handler absent", V_DF, 0, ANYWHERE);
	idt_default(V_PF);
	idt[0x41].ist = 2;
	TRY("int $0x41", ::: "memory");
	expect_pf("#PF: stack of a software interrupt absent", PF_W, VA + 0xff8, AT_INSN);
	idt_default(0x41);
	cpus[0].tss.ist[1] = 0x8000000000000000;
	idt[V_UD].ist = 2;
	TRY("ud2", ::: "memory");
	expect("#SS: IST not canonical, with EXT", V_SS, 1, AT_INSN);
	idt_default(V_UD);
	idt[V_GP].ist = 2;
	TRY("mov %0, %%ss", ::"r"(KDS | 3) : "memory");
	expect("#DF: IST of #GP not canonical", V_DF, 0, ANYWHERE);
	idt_default(V_GP);
	cpus[0].tss.ist[1] = (ulong)cpus[0].ist_stack[1] + 4096;

	/* from CPL 3: RSP0 absent */
	ulong rsp0 = cpus[0].tss.rsp[0];
	cpus[0].tss.rsp[0] = VA + 0x1000;
	idt[V_PF].ist = 1;
	user_run(u_hlt, 0, 0);
	expect_pf("#PF: RSP0 absent while #GP is delivered", PF_W, VA + 0xff8, AT_INSN);
	check_eq("#PF: with the CS of CPL 3", trap.cs, UCS);
	idt[V_PF].ist = 0;
	user_run(u_load4, VA, 0);
	expect("#DF: RSP0 absent while #PF is delivered", V_DF, 0, ANYWHERE);
	cpus[0].tss.rsp[0] = rsp0;
	idt_default(V_PF);

	/* the page of the IDT is absent */
	struct dtable old, there = { 0xfff, VA };
	u64 copy = (ulong)page_alloc();
	memcpy((void *)copy, idt, sizeof(idt));
	map(VA, copy, 0);
	/* entries from 0x80 on another page: 0x800 is in the same page; split with an offset */
	there.base = VA + PAGE - 0x80 * 16;
	u64 two = (ulong)pages_alloc(2, PAGE);
	memcpy((void *)(two + PAGE - 0x80 * 16), idt, sizeof(idt));
	map(VA, two, PTE_P | PTE_W);
	map(VA + PAGE, two + PAGE, 0);
	__asm__ volatile("sidt %0" : "=m"(old));
	__asm__ volatile("lidt %0" ::"m"(there));
	TRY("int $0x90", ::: "memory");
	__asm__ volatile("lidt %0" ::"m"(old));
	trap.cr2 &= ~15ul;
	expect_pf("#PF: gate on an absent page", 0, VA + PAGE + 0x10 * 16, AT_INSN);
	map(VA, 0, 0);
	map(VA + PAGE, 0, 0);
	idt_default(V_DF);
}

int main(void)
{
	simple();
	compat_only();
	undefined();
	fpu();
	alignment();
	segments();
	gates();
	nested();
	return 0;
}
