/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions: vector, error code, saved RIP and flags of each kind (Intel SDM 3A, chapter
 * "Interrupt and Exception Handling"). Delivery is in delivery.c, restart of interrupted
 * instructions and IRET in restart.c.
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
	check(trap.regs.ax == 0x1234 && trap.regs.dx == 0, "#DE: registers unchanged", "rax %#lx",
	      trap.regs.ax);
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
	check(!trap.hit && (a & 0xffff) == 0x80, "#DE: idiv 8 bits, quotient -128 is fine",
	      "vector %u ax %#lx", trap.vector, a & 0xffff);
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
#define COMPAT(name, code)                                                                         \
	__asm__(".text\n.code32\n" #name ":\n" code "\nlret\n.code64\n");                          \
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

	TRY("mov %2, %%ds; mov %2, %%es; lcall *%1",
	    : "=a"(r)
	    : "m"(p), "r"(KDS)
	    : "rcx", "rdx", "rbx", "rsi", "rdi", "rbp", "memory", "cc");
	return r;
}

static void compat_only(void)
{
	compat(c_into);
	check(trap.hit && trap.vector == V_OF && trap.cs == KCS32 && trap.ip == (ulong)c_into + 5,
	      "#OF: into with OF", "vector %u cs %#lx ip %ld", trap.vector, trap.cs,
	      trap.ip - (ulong)c_into);
	ulong r = compat(c_into_not);
	check(!trap.hit && r == 77, "#OF: into without OF", "vector %u", trap.vector);
	compat(c_bound);
	check(trap.hit && trap.vector == V_BR && trap.ip == (ulong)c_bound + 5, "#BR: above",
	      "vector %u ip %ld", trap.vector, trap.ip - (ulong)c_bound);
	compat(c_bound_neg);
	check(trap.hit && trap.vector == V_BR && trap.ip == (ulong)c_bound_neg + 5, "#BR: below",
	      "vector %u", trap.vector);
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
		check(trap.hit && trap.vector == V_UD && trap.ip == (ulong)page, name,
		      "%s vector %u error %#lx at +%ld", trap.hit ? "" : "none", trap.vector,
		      trap.error, (long)(trap.ip - (ulong)page));
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
	TRY("ldmxcsr %0; xorps %%xmm1, %%xmm1; movss %1, %%xmm0; divss %%xmm1, %%xmm0", ::"m"(csr),
	    "m"(one)
	    : "memory");
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
	TRY("pushf; orl $0x40000, (%%rsp); popf; movl 1(%0), %%eax; pushf; andl $~0x40000, "
	    "(%%rsp); popf",
	    ::"r"(p)
	    : "rax", "memory", "cc");
	expect_none("#AC: not at CPL 0");
	write_cr0(cr0 & ~CR0_AM);
	user_run_flags(u_load4, p + 1, 0, FL_AC);
	check_eq("#AC: not without AM", trap.vector, V_USER_RET);
	write_cr0(cr0);
}

int main(void)
{
	simple();
	compat_only();
	undefined();
	fpu();
	alignment();
	return 0;
}
