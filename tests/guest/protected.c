/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Legacy protected mode: segments with bases and limits, 16-bit segments, LDT, privilege
 * levels with gates that copy parameters, task switches (Intel SDM 3A, chapters
 * "Protection" and "Task Management").
 */
#include "rt.h"

#define S(n) (FREE_SEL + (n)*8) /* selectors of the tests */
static u8 *area;

/* ---- data segments ---- */
static void set(unsigned n, ulong base, u32 limit, u8 access, u8 flags)
{
	gdt_set(0, S(n), base, limit, access, flags);
}
#define ES_READ(off, size)                                                                         \
	TRY("mov %1, %%es; mov" size " %%es:(%0), %%eax", ::"r"(off), "r"(S(0)) : "eax", "memory")
#define ES_WRITE(off, size)                                                                        \
	TRY("mov %1, %%es; mov" size " %%eax, %%es:(%0)", ::"r"(off), "r"(S(0)) : "eax", "memory")
#define SS_READ(off)                                                                               \
	TRY("mov %%ss, %%edx; mov %1, %%ss; movl %%ss:(%0), %%eax; mov %%edx, %%ss", ::"r"(off),   \
	    "r"(S(0))                                                                              \
	    : "eax", "edx", "memory")

static void data_segments(void)
{
	set(0, (ulong)area, 0xfff, 0x93, 4);
	ES_READ(0xffc, "l");
	expect_none("limit: last four bytes");
	ES_READ(0xffd, "l");
	expect("limit: one byte beyond", V_GP, 0, ANYWHERE);
	ES_WRITE(0x1000, "l");
	expect("limit: write beyond", V_GP, 0, ANYWHERE);
	ES_READ(0xfffffffe, "l");
	expect("limit: access that wraps at 4 GiB", V_GP, 0, ANYWHERE);
	set(0, 0, 0x7ff, 0x93,
	    0xc); /* below 8 MiB: the stack is inside, for the handler needs it */
	SS_READ(0x800000);
	expect("limit: through SS is #SS(0)", V_SS, 0, ANYWHERE);
	SS_READ(0x7ffffc);
	expect_none("limit: through SS, inside");
	set(0, (ulong)area, 0, 0x93, 0xc);
	ES_READ(0xffc, "l");
	expect_none("limit: granularity of 4 KiB, limit 0");
	ES_READ(0x1000, "l");
	expect("limit: granularity of 4 KiB, beyond", V_GP, 0, ANYWHERE);
	set(0, (ulong)area, 0xfff, 0x97, 4);
	ES_READ(0x1000, "l");
	expect_none("expand-down: first byte above the limit");
	ES_READ(0xfff, "l");
	expect("expand-down: at the limit", V_GP, 0, ANYWHERE);
	ES_READ(0xfffc, "l");
	expect_none("expand-down: big");
	ES_READ(0x10000, "l");
	expect_none("expand-down: big reaches above 64 KiB");
	set(0, (ulong)area, 0xfff, 0x97, 0);
	ES_READ(0xfffc, "l");
	expect_none("expand-down: small, up to 64 KiB");
	ES_READ(0xfffd, "l");
	expect("expand-down: small, beyond 64 KiB", V_GP, 0, ANYWHERE);
	set(0, (ulong)area, 0xfff, 0x91, 4);
	ES_READ(0, "l");
	expect_none("read-only: read");
	ES_WRITE(0, "l");
	expect("read-only: write", V_GP, 0, ANYWHERE);
	set(0, (ulong)area, 0xfff, 0x9b, 4);
	ES_READ(0, "l");
	expect_none("readable code as data: read");
	ES_WRITE(0, "l");
	expect("readable code as data: write", V_GP, 0, ANYWHERE);
	TRY("mov %0, %%es; movb %%es:0, %%al", ::"r"(0) : "eax", "memory");
	expect("null ES: use is #GP", V_GP, 0, ANYWHERE);
	TRY("movb $0, %%cs:(%0)", ::"r"(area) : "memory");
	expect("CS: write is #GP", V_GP, 0, AT_INSN);
	/* linear addresses wrap at 4 GiB */
	ulong v;
	*(u32 *)(area + 16) = 0x600d;
	set(0, (ulong)area + 32, 0xfffff, 0x93, 0xc);
	TRY("mov %2, %%es; movl %%es:(%1), %0", : "=&r"(v) : "r"(-16), "r"(S(0)) : "memory");
	check(!trap.hit && v == 0x600d, "base plus offset wraps at 4 GiB", "vector %u %#lx",
	      trap.vector, v);
	TRY("mov %1, %%fs; mov %1, %%gs; movl %%fs:-16, %%eax; movl %%eax, %%gs:-12; mov %2, %%fs; "
	    "mov %2, %%gs",
	    ::"r"(0), "r"(S(0)), "r"(0)
	    : "eax", "memory");
	check(!trap.hit && *(u32 *)(area + 20) == 0x600d, "FS and GS with a base", "vector %u",
	      trap.vector);
	/* strings with different segments; the reload of a changed descriptor */
	set(0, (ulong)area + 256, 0xff, 0x93, 4);
	TRY("mov %0, %%es; cld; xorl %%edi, %%edi; movl $0x120, %%ecx; movb $0x3c, %%al; rep stosb",
	    ::"r"(S(0))
	    : "eax", "ecx", "edi", "memory");
	check(trap.hit && trap.vector == V_GP && trap.regs.di == 0x100 && trap.regs.cx == 0x20 &&
		  area[256 + 255] == 0x3c,
	      "rep stosb up to the limit", "vector %u edi %#lx ecx %#lx", trap.vector, trap.regs.di,
	      trap.regs.cx);
	set(0, (ulong)area, 0xfff, 0x93, 4);
	TRY("mov %0, %%es", ::"r"(S(0)));
	set(0, 0, 0, 0x13, 4);
	TRY("movl %%es:0, %%eax", ::: "eax");
	expect_none("a loaded segment does not see its descriptor change");
	/* les, lds, lfs, lgs, lss */
	set(0, (ulong)area, 0xfff, 0x93, 4);
	struct {
		u32 off;
		u16 sel;
	} __attribute__((packed)) p = { 0x1234, S(0) };
	u32 off = 0, sel = 0;
	TRY("les %2, %0; mov %%es, %1", : "=&r"(off), "=&r"(sel) : "m"(p) : "memory");
	check(!trap.hit && off == 0x1234 && (sel & 0xffff) == S(0), "les", "vector %u %#x %#x",
	      trap.vector, off, sel);
	p.sel = 0xfff8;
	off = 7;
	TRY("les %1, %0", : "+r"(off) : "m"(p) : "memory");
	check(trap.hit && trap.vector == V_GP && trap.error == 0xfff8 && off == 7,
	      "les that faults changes nothing", "vector %u %#x", trap.vector, off);
	__asm__ volatile("mov %0, %%es" ::"r"(KDS));
}

/* ---- code segments, 16-bit segments ---- */
__asm__(".text\n.code32\nfar_fn: mov %cs, %eax; lret\nfar_fn8: mov %cs, %eax; lret $8\n"
	".code16\ncode16: movw $0x1234, %ax; addw %ax, %ax; pushw %ax; popw %cx; movl $0x89abcdef, "
	"%edx; lretl\n"
	"past: nop; nop; nop; nop; lretl\n.code32\n");
extern u8 far_fn[], far_fn8[], code16[], past[];
static void code_segments(void)
{
	static struct far p; /* not on the stack: some cases push */
	ulong a = 0, b;

	p = (struct far) { 0, S(1) };

	set(1, (ulong)far_fn, 0xfff, 0x9b, 4);
	TRY("lcall *%1", : "=a"(a) : "m"(p) : "memory");
	check(!trap.hit && (a & 0xffff) == S(1), "far call: code segment with a base",
	      "vector %u error %#lx", trap.vector, trap.error);
	p.off = far_fn8 - far_fn;
	TRY("movl %%esp, %1; pushl $1; pushl $2; lcall *%2; subl %%esp, %1",
	    : "=&a"(a), "=&r"(b)
	    : "m"(p)
	    : "memory");
	check(!trap.hit && b == 0, "far return with a count", "vector %u, %ld bytes", trap.vector,
	      b);
	set(1, (ulong)far_fn, 1, 0x9b, 4);
	p.off = 5;
	TRY("lcall *%0", ::"m"(p) : "eax", "memory");
	expect("far call: beyond the limit is #GP(0)", V_GP, 0, AT_INSN);
	set(1, (ulong)past, 2, 0x9b, 0);
	p.off = 0;
	TRY("lcall *%0", ::"m"(p) : "eax", "memory");
	check(trap.hit && trap.vector == V_GP && trap.error == 0 && trap.cs == S(1) && trap.ip == 3,
	      "running past the limit is #GP(0)", "vector %u cs %#lx ip %#lx", trap.vector, trap.cs,
	      trap.ip);
	/* 16-bit code; its pushw and popl see the 32-bit stack */
	set(1, (ulong)code16, 0xffff, 0x9b, 0);
	TRY("lcall *%2", : "=&a"(a), "=&d"(b) : "m"(p) : "ecx", "memory");
	check(!trap.hit && (a & 0xffff) == 0x2468 && b == 0x89abcdef, "16-bit code segment",
	      "vector %u error %#lx %#lx %#lx", trap.vector, trap.error, a, b);
	/* 16-bit stack: only SP moves */
	set(2, (ulong)area, 0xffff, 0x93, 0);
	TRY("movl %%esp, %%ebx; mov %%ss, %%ecx; movl $0xabcd0000, %%edx; mov %2, %%ss; movl "
	    "%%edx, %%esp; pushl $0x11223344; movl %%esp, %0; popl %1; movl %%esp, %%edx;"
	    "mov %%ecx, %%ss; movl %%ebx, %%esp",
	    : "=&r"(a), "=&S"(b)
	    : "D"(S(2))
	    : "ebx", "ecx", "edx", "memory");
	check(!trap.hit && a == 0xabcdfffc && b == 0x11223344 &&
		  *(u32 *)(area + 0xfffc) == 0x11223344,
	      "16-bit stack: SP wraps, upper half stays", "vector %u esp %#lx %#lx", trap.vector, a,
	      b);
	/* stack limit */
	set(2, (ulong)area, 0xf, 0x93, 4);
	TRY("movl %%esp, %%ebx; mov %%ss, %%ecx; mov %0, %%ss; movl $0x12, %%esp; mov %%ecx, %%ss; "
	    "movl %%ebx, %%esp",
	    ::"D"(S(2))
	    : "ebx", "ecx", "memory");
	expect_none("stack segment with a limit: loading is fine");
	set(7, 0, 0xfffff, 0x99, 0xc);
	/* conforming code at the same level, and data checks through CS */
	set(1, 0, 0xfffff, 0x9f, 0xc);
	p.off = (ulong)far_fn;
	TRY("lcall *%1", : "=a"(a) : "m"(p) : "memory");
	check(!trap.hit && (a & 0xffff) == S(1), "conforming code from CPL 0", "vector %u",
	      trap.vector);
	set(1, 0, 0xfffff, 0xff, 0xc);
	TRY("lcall *%0", ::"m"(p) : "eax", "memory");
	expect("conforming code of DPL 3 from CPL 0 is #GP", V_GP, S(1), AT_INSN);
	__asm__ volatile("ljmp %0, $1f; 1: ljmp %1, $2f; 2:" ::"i"(S(7)), "i"(KCS) : "memory");
	ok("far jmp to execute-only code and back");
}

/* ---- LDT ---- */
static void ldt(void)
{
	u64 *t = page_alloc();

	memcpy(t, &cpus[0].gdt[KDS / 8], 8);
	set(3, (ulong)t, 15, 0x82, 0);
	TRY("lldt %w0", ::"r"(S(3)));
	expect_none("lldt");
	TRY("mov %0, %%es; movl %%es:(%1), %%eax", ::"r"(4), "r"(area) : "eax");
	expect_none("LDT: data segment");
	TRY("mov %0, %%es", ::"r"(0xc));
	expect("LDT: entry of type 0 is #GP", V_GP, 0xc, AT_INSN);
	TRY("mov %0, %%es", ::"r"(0x14));
	expect("LDT: beyond its limit", V_GP, 0x14, AT_INSN);
	ulong s;
	__asm__ volatile("sldt %0" : "=r"(s));
	check_eq("sldt", s & 0xffff, S(3));
	TRY("lldt %w0", ::"r"(4));
	expect("lldt: a selector of the LDT is #GP", V_GP, 4, AT_INSN);
	__asm__ volatile("mov %0, %%es; lldt %w1" ::"r"(KDS), "r"(0));
}

/* ---- privilege: gates with parameters ---- */
u32 g_args[4], g_cs, g_ss, g_sp, g_ret;
__asm__(".text\ngate_fn: movl 8(%esp), %eax; movl %eax, g_args; movl 12(%esp), %eax; movl %eax, "
	"g_args+4; mov %cs, %eax; movl %eax, g_cs; mov %ss, %eax; movl %eax, g_ss;"
	"movl %esp, g_sp; movl 16(%esp), %eax; movl %eax, g_args+8; lret $8\n"
	"gate_fn16: movzwl 4(%esp), %eax; movl %eax, g_args; movzwl 6(%esp), %eax; movl %eax, "
	"g_args+4; movl %esp, g_sp; lretw $4\n"
	"gate_fn0: mov %cs, %eax; movl %eax, g_cs; mov %ds, %eax; movl %eax, g_ss; movl %esp, "
	"g_sp; lret\n"
	"ring1: mov %cs, %eax; movl %esp, %edx; mov %ss, %ecx; int $0x40\n");
extern u8 gate_fn[], gate_fn16[], gate_fn0[], ring1[];
__asm__(".section .user.text,\"ax\"\n"
	"u_gate: movl %esp, %ebx; pushl $0x2222; pushl $0x1111; lcall $0x73, $0; subl %esp, %ebx; "
	"mov %cs, %eax; mov %es, %ecx; int $0x40\n"
	"u_gate16: movl %esp, %ebx; pushw $0x4444; pushw $0x3333; lcallw $0x73, $0; subl %esp, "
	"%ebx; int $0x40\n"
	"u_conf: lcall $0x7b, $far_fn; int $0x40\n"
	"u_arpl: movl $0x10, %eax; movl $3, %ecx; arpl %cx, %ax; setz %bl; movl $0x13, %edx; arpl "
	"%cx, %dx; setz %bh; int $0x40\n"
	"u_cli: cli\nu_lss0: movl $0x10, %eax; mov %eax, %ss\nu_lds0: movl $0x10, %eax; mov %eax, "
	"%ds\nu_jmp0: ljmp $8, $far_fn\nu_int41: int $0x41\n"
	"u_intr: int $0x42; int $0x40\n.text\n");
extern u8 u_gate[], u_gate16[], u_conf[], u_arpl[], u_cli[], u_lss0[], u_lds0[], u_jmp0[],
    u_int41[], u_intr[];

static void set_gate(unsigned sel, void *fn, unsigned cs, u8 access, unsigned params)
{
	cpus[0].gdt[sel / 8] = ((ulong)fn & 0xffff) | (u64)cs << 16 | (u64)params << 32 |
			       (u64)access << 40 | (u64)((ulong)fn >> 16) << 48;
}

static void privilege(void)
{
	ulong top = cpus[0].tss.sp0;

	set_gate(0x70, gate_fn, KCS, 0xec, 2);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_USER_RET && g_args[0] == 0x1111 && g_args[1] == 0x2222,
	      "call gate: two parameters copied", "vector %u error %#lx %#x %#x", trap.vector,
	      trap.error, g_args[0], g_args[1]);
	check(g_cs == KCS && g_ss == KDS && g_sp == top - 24, "call gate: new CS, SS, ESP",
	      "%#x %#x %#x", g_cs, g_ss, g_sp);
	check_eq("call gate: old ESP saved as it was", g_args[2],
		 (ulong)user_stack + USTACK_SIZE - 64 - 8);
	check_eq("call gate: return pops the parameters of both stacks", trap.regs.bx, 0);
	set_gate(0x70, gate_fn0, KCS, 0x8c, 0);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_GP && trap.error == 0x70, "call gate: DPL", "vector %u error %#lx",
	      trap.vector, trap.error);
	set_gate(0x70, gate_fn0, KCS, 0x6c, 0);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_NP && trap.error == 0x70, "call gate: not present",
	      "vector %u error %#lx", trap.vector, trap.error);
	/* to ring 1 */
	gdt_set(0, S(4), 0, 0xfffff, 0xbb, 0xc);
	gdt_set(0, S(5), 0, 0xfffff, 0xb3, 0xc);
	cpus[0].tss.ss1 = S(5) | 1;
	cpus[0].tss.sp1 = (ulong)area + PAGE;
	set_gate(0x70, ring1, S(4), 0xec, 0);
	user_run(u_gate, 0, 0);
	check(trap.vector == V_USER_RET && (trap.regs.ax & 0xffff) == (S(4) | 1) &&
		  trap.regs.dx == (ulong)area + PAGE - 16 && (trap.regs.cx & 0xffff) == (S(5) | 1),
	      "call gate: to CPL 1", "vector %u error %#lx cs %#lx esp %#lx ss %#lx", trap.vector,
	      trap.error, trap.regs.ax, trap.regs.dx, trap.regs.cx);
	cpus[0].tss.ss1 = KDS;
	user_run(u_gate, 0, 0);
	check(trap.vector == V_TS && trap.error == KDS, "call gate: #TS for a wrong SS1",
	      "vector %u error %#lx", trap.vector, trap.error);
	/* conforming */
	gdt_set(0, 0x78, 0, 0xfffff, 0x9f, 0xc);
	user_run(u_conf, 0, 0);
	check(trap.vector == V_USER_RET && (trap.regs.ax & 0xffff) == 0x7b,
	      "conforming code keeps CPL 3", "vector %u error %#lx %#lx", trap.vector, trap.error,
	      trap.regs.ax);
	/* return to an outer level drops data segments of the inner */
	__asm__ volatile("mov %0, %%es" ::"r"(KDS));
	set_gate(0x70, gate_fn0, KCS, 0xec, 0);
	user_run(u_arpl, 0, 0);
	check((trap.regs.ax & 0xffff) == 0x13 && (trap.regs.bx & 0xff) == 1 &&
		  (trap.regs.dx & 0xffff) == 0x13 && (trap.regs.bx >> 8 & 0xff) == 0,
	      "ARPL", "%#lx %#lx", trap.regs.ax, trap.regs.bx);
	user_run(u_cli, 0, 0);
	expect("CPL 3: cli is #GP", V_GP, 0, AT_INSN);
	user_run(u_lss0, 0, 0);
	expect("CPL 3: SS of DPL 0 is #GP", V_GP, KDS, ANYWHERE);
	user_run(u_lds0, 0, 0);
	expect("CPL 3: DS of DPL 0 is #GP", V_GP, KDS, ANYWHERE);
	user_run(u_jmp0, 0, 0);
	expect("CPL 3: far jmp to CPL 0 is #GP", V_GP, KCS, AT_INSN);
	user_run(u_int41, 0, 0);
	expect("CPL 3: int through a gate of DPL 0 is #GP", V_GP, 0x41 * 8 + 2, AT_INSN);
	/* trap gates leave IF alone, interrupt gates clear it */
	idt_set(0x42, (void *)(((ulong)idt[0x42].off1 << 16) | idt[0x42].off0), 3, 0);
	user_run(u_intr, 0, 0);
	check_eq("interrupt gate from CPL 3", trap.vector, 0x42);
	idt_default(0x42);
}

u32 fl_seen;
__asm__(".text\nflags_entry: pushfl; popl fl_seen; iretl\nflags_entry16: pushfl; popl fl_seen; "
	"iretw\n");
extern u8 flags_entry[], flags_entry16[];
static void idt_gates(void)
{
	idt_set(0x43, flags_entry, 0, 0);
	__asm__ volatile("sti; int $0x43; cli" ::: "memory");
	check(!(fl_seen & FL_IF), "interrupt gate clears IF", "%#x", fl_seen);
	idt[0x43].type = 0x8f;
	__asm__ volatile("sti; int $0x43; cli" ::: "memory");
	check(fl_seen & FL_IF, "trap gate keeps IF", "%#x", fl_seen);
	/* 16-bit gate: a frame of three words; the handler checks SP and goes back by iretw */
	gdt_set(0, S(1), (ulong)flags_entry16 & ~0xffful, 0xffff, 0x9b, 4);
	gdt_set(0, S(2), (ulong)area, 0xffff, 0x9b, 0);
	idt_set(0x43, (void *)((ulong)flags_entry16 & 0xfff), 0, 0);
	idt[0x43].sel = S(1);
	idt[0x43].type = 0x86;
	static const u8 low[] = { 0xcd, 0x43, 0x66,
				  0xcb }; /* int 0x43; retl in a 16-bit segment at area */
	memcpy(area, low, sizeof(low));
	static struct far p = { 0, S(2) };
	fl_seen = 0;
	TRY("lcall *%0", ::"m"(p) : "memory");
	check((fl_seen & 2) && !trap.hit, "16-bit interrupt gate and iretw",
	      "flags %#x: vector %u error %#lx", fl_seen, trap.vector, trap.error);
	idt_default(0x43);
	idt[0x41].sel = KDS;
	TRY("int $0x41", ::: "memory");
	expect("gate to data is #GP", V_GP, KDS, AT_INSN);
	idt_default(0x41);
	idt[0x41].type = 0x8c;
	TRY("int $0x41", ::: "memory");
	expect("call gate in the IDT is #GP", V_GP, 0x41 * 8 + 2, AT_INSN);
	idt_default(0x41);
	/* into and bound */
	TRY("movb $0x7f, %%al; addb $1, %%al; into", ::: "eax", "cc", "memory");
	expect("into", V_OF, 0, AFTER_INSN);
	static u32 b[2] = { 1, 5 };
	TRY("bound %0, %1", ::"r"(6), "m"(b) : "memory");
	expect("bound", V_BR, 0, AT_INSN);
	TRY(".byte 0x66, 0x0f, 0x0b", ::: "memory");
	expect("ud2 with a prefix", V_UD, 0, AT_INSN);
}

/* ---- tasks ---- */
static struct tss task __attribute__((aligned(128)));
static u8 task_stack[4096] __attribute__((aligned(16)));
volatile u32 t_ran, t_flags, t_ax, t_tr, t_cr0;
__asm__(".text\ntask_entry: movl %eax, t_ax; pushfl; popl t_flags; str t_tr; movl %cr0, %eax; movl "
	"%eax, t_cr0; clts; incl t_ran; iretl; incl t_ran; iretl\n"
	"task_jmp: movl %eax, t_ax; incl t_ran; clts; ljmp $0x28, $0\n"
	"");
extern u8 task_entry[], task_jmp[];

static void task_set(struct tss *t, void *ip)
{
	memset(t, 0, sizeof(*t));
	t->ip = (ulong)ip;
	t->flags = 2;
	t->cs = KCS;
	t->ds = t->es = t->ss = KDS;
	t->sp = (ulong)task_stack + sizeof(task_stack);
	t->cr3 = read_cr3();
	t->iomap = sizeof(*t);
	t->ax = 0x7a5c;
}

static void tasks(void)
{
	static struct far p = { 0, S(6) };
	u64 *gdt = cpus[0].gdt;

	task_set(&task, task_entry);
	gdt_set(0, S(6), (ulong)&task, 103, 0x89, 0);
	TRY("lcall *%0", ::"m"(p) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	check(!trap.hit && t_ran == 1 && t_ax == 0x7a5c, "task: call and return by iret",
	      "vector %u error %#lx ran %u", trap.vector, trap.error, t_ran);
	check(t_flags & FL_NT, "task: NT set in the called task", "%#x", t_flags);
	check(t_cr0 & CR0_TS, "task: TS set by the switch", "%#x", t_cr0);
	check((t_tr & 0xffff) == S(6), "task: TR", "%#x", t_tr);
	check_eq("task: back link", task.link & 0xffff, TSS_SEL);
	check_eq("task: not busy afterwards", gdt[S(6) / 8] >> 41 & 1, 0);
	check_eq("task: the caller stays busy", gdt[TSS_SEL / 8] >> 41 & 1, 1);
	check(read_cr0() & CR0_TS, "task: TS set by the way back", "%#lx", read_cr0());
	__asm__ volatile("clts");
	/* again: it goes on after its iret */
	TRY("lcall *%0", ::"m"(p) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	check(!trap.hit && t_ran == 2, "task: goes on where it left", "vector %u ran %u",
	      trap.vector, t_ran);
	__asm__ volatile("clts");
	/* jmp there and back */
	task_set(&task, task_jmp);
	ulong bx = 0x1357, after = 0;
	TRY("ljmp *%2",
	    : "+b"(bx), "+D"(after)
	    : "m"(p)
	    : "eax", "ecx", "edx", "esi", "memory", "cc");
	check(!trap.hit && t_ran == 3 && bx == 0x1357,
	      "task: jmp there and back keeps the registers",
	      "vector %u error %#lx ran %u ebx %#lx", trap.vector, trap.error, t_ran, bx);
	check_eq("task: jmp clears the busy bit of the old task", gdt[S(6) / 8] >> 41 & 1, 0);
	__asm__ volatile("clts; pushfl; andl $~0x4000, (%%esp); popfl" ::: "memory", "cc");
	/* faults */
	gdt_set(0, S(6), (ulong)&task, 103, 0x8b, 0);
	TRY("lcall *%0", ::"m"(p) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	expect("task: busy one is #GP", V_GP, S(6), AT_INSN);
	gdt_set(0, S(6), (ulong)&task, 103, 0x09, 0);
	TRY("lcall *%0", ::"m"(p) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	expect("task: not present", V_NP, S(6), AT_INSN);
	gdt_set(0, S(6), (ulong)&task, 102, 0x89, 0);
	TRY("lcall *%0", ::"m"(p) : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	expect("task: limit below 103 is #TS", V_TS, S(6), AT_INSN);
	/* software interrupt through a task gate */
	task_set(&task, task_entry);
	gdt_set(0, S(6), (ulong)&task, 103, 0x89, 0);
	idt[0x45] = (struct gate) { .sel = S(6), .type = 0x85 };
	t_ran = 0;
	TRY("int $0x45", ::: "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
	check(!trap.hit && t_ran == 1, "task gate: int and iret", "vector %u error %#lx ran %u",
	      trap.vector, trap.error, t_ran);
	__asm__ volatile("clts");
	idt_default(0x45);
}

/* ---- SYSENTER outside long mode ---- */
u32 se_cs, se_sp;
__asm__(".text\nse_entry: mov %cs, %eax; movl %eax, se_cs; movl %esp, se_sp; int $0x46\n.section "
	".user.text,\"ax\"\nu_sysenter: sysenter\n"
	"u_after: mov %cs, %eax; mov %ss, %ebx; int $0x40\n.text\n");
extern u8 se_entry[], u_sysenter[], u_after[];
static void sysenter(void)
{
	if (!cpuid_has(1, 0, 'd', 11)) {
		skip("sysenter", "not in CPUID");
		return;
	}
	wrmsr(MSR_SYSENTER_CS, 0);
	user_run(u_sysenter, 0, 0);
	expect("sysenter: #GP with a null CS MSR", V_GP, 0, AT_INSN);
	wrmsr(MSR_SYSENTER_CS, KCS);
	wrmsr(MSR_SYSENTER_ESP, (ulong)area + PAGE);
	wrmsr(MSR_SYSENTER_EIP, (ulong)se_entry);
	user_run(u_sysenter, 0, 0);
	check(trap.vector == 0x46 && (se_cs & 0xffff) == KCS && se_sp == (ulong)area + PAGE,
	      "sysenter", "vector %u cs %#x esp %#x", trap.vector, se_cs, se_sp);
	TRY("movl %0, %%edx; movl %1, %%ecx; sysexit", ::"r"(u_after), "r"((ulong)user_stack + 4096)
	    : "eax", "ebx", "ecx", "edx", "memory");
	check(trap.vector == V_USER_RET && trap.cs == UCS && (trap.regs.bx & 0xffff) == UDS,
	      "sysexit", "vector %u cs %#lx", trap.vector, trap.cs);
	wrmsr(MSR_SYSENTER_CS, 0);
}

/* ---- virtual-8086 mode ---- */
/* 16-bit code, copied to V86_AT; each ends with HLT, which is #GP there. */
#define V86_AT 0x20000ul
__asm__(
    ".text\n.code16\n"
    "v_basic: movw $0x1234, %ax; addw %ax, %ax; pushw %ax; popw %cx; mov %ds, %dx; movw $0x77, "
    "%bx; movw %bx, 0x10; mov %cs, %si; mov %ss, %di; hlt\n"
    "v_int: int $0x47\nv_int3: int3\nv_cli: cli\nv_pushf: pushfw; popw %ax; hlt\nv_popf: pushw "
    "$0x3202; popfw; pushfw; popw %ax; hlt\n"
    "v_iret: iretw\nv_in: inb $0xee, %al; hlt\nv_limit: movw $0xffff, %bx; movw (%bx), %ax; hlt\n"
    "v_far: ljmp $0x2001, $(v_far2 - v_basic - 0x10)\nv_far2: mov %cs, %ax; hlt\nv_arpl: arpl "
    "%ax, %bx\nv_lldt: lldt %ax\nv_cr: movl %cr0, %eax\nv_end:\n.code32\n");
extern u8 v_basic[], v_int[], v_int3[], v_cli[], v_pushf[], v_popf[], v_iret[], v_in[], v_limit[],
    v_far[], v_arpl[], v_lldt[], v_cr[], v_end[];

static void v86_run(const u8 *fn, ulong flags)
{
	static ulong fl, ip; /* no register is free in the asm */

	fl = flags | FL_VM | 2;
	ip = fn - v_basic;
	memcpy((void *)V86_AT, v_basic, v_end - v_basic);
	TRY("pushl $0; pushl $0; pushl $0x3000; pushl $0x3000; pushl $0x4000; pushl $0x800; pushl "
	    "%0; pushl $0x2000; pushl %1; iretl",
	    ::"m"(fl), "m"(ip)
	    : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
}
static ulong v86_at(const u8 *fn)
{
	return fn - v_basic;
}

static void v86(void)
{
	*(volatile u16 *)0x30010ul = 0;
	v86_run(v_basic, 0);
	check(trap.hit && trap.vector == V_GP && trap.error == 0 && (trap.flags & FL_VM),
	      "V86: entered by iret, hlt is #GP(0)", "hit %d vector %u flags %#lx", trap.hit,
	      trap.vector, trap.flags);
	check((trap.regs.cx & 0xffff) == 0x2468 && (trap.regs.dx & 0xffff) == 0x3000 &&
		  *(volatile u16 *)0x30010ul == 0x77,
	      "V86: segments times 16", "%#lx %#lx", trap.regs.cx, trap.regs.dx);
	check((trap.regs.si & 0xffff) == 0x2000 && (trap.regs.di & 0xffff) == 0x4000 &&
		  trap.cs == 0x2000 && trap.ss == 0x4000 && trap.sp == 0x800,
	      "V86: CS, SS, SP", "%#lx %#lx %#lx", trap.cs, trap.ss, trap.sp);
	check(trap.regs.ds == 0 && trap.regs.es == 0 && trap.regs.fs == 0,
	      "V86: data segments are null in the handler", "%#lx", trap.regs.ds);
	v86_run(v_int, 0);
	check(trap.vector == V_GP && trap.ip == v86_at(v_int), "V86: int with IOPL 0 is #GP",
	      "vector %u", trap.vector);
	idt_set(0x47, (void *)(((ulong)idt[0x47].off1 << 16) | idt[0x47].off0), 3, 0);
	v86_run(v_int, 0x3000);
	check(trap.vector == 0x47 && trap.ip == v86_at(v_int) + 2,
	      "V86: int with IOPL 3 goes through the IDT", "vector %u", trap.vector);
	idt_default(0x47);
	v86_run(v_int3, 0);
	check(trap.vector == V_BP && trap.ip == v86_at(v_int3) + 1, "V86: int3 with IOPL 0",
	      "vector %u", trap.vector);
	v86_run(v_cli, 0);
	check(trap.vector == V_GP, "V86: cli with IOPL 0 is #GP", "vector %u", trap.vector);
	v86_run(v_pushf, 0);
	check(trap.vector == V_GP && trap.ip == v86_at(v_pushf), "V86: pushf with IOPL 0 is #GP",
	      "vector %u", trap.vector);
	v86_run(v_pushf, 0x3000);
	check(trap.vector == V_GP && trap.ip == v86_at(v_pushf) + 2 &&
		  (trap.regs.ax & 0x3000) == 0x3000,
	      "V86: pushf with IOPL 3", "vector %u %#lx", trap.vector, trap.regs.ax);
	v86_run(v_popf, 0x3000);
	check((trap.regs.ax & 0x3200) == 0x3200 && (trap.flags & FL_VM),
	      "V86: popf with IOPL 3 sets IF, keeps VM", "%#lx", trap.regs.ax);
	v86_run(v_iret, 0);
	check(trap.vector == V_GP && trap.ip == v86_at(v_iret), "V86: iret with IOPL 0 is #GP",
	      "vector %u", trap.vector);
	v86_run(v_in, 0x3000);
	check(trap.vector == V_GP && trap.ip == v86_at(v_in),
	      "V86: in looks at the bitmap whatever IOPL is", "vector %u ip %#lx", trap.vector,
	      trap.ip);
	v86_run(v_limit, 0);
	check(trap.vector == V_GP && trap.ip == v86_at(v_limit) + 3, "V86: limit of 64 KiB",
	      "vector %u ip %#lx", trap.vector, trap.ip);
	v86_run(v_far, 0);
	check(trap.vector == V_GP && (trap.regs.ax & 0xffff) == 0x2001 && trap.cs == 0x2001,
	      "V86: far jmp", "vector %u cs %#lx", trap.vector, trap.cs);
	v86_run(v_arpl, 0);
	check(trap.vector == V_UD && trap.ip == v86_at(v_arpl), "V86: arpl is #UD", "vector %u",
	      trap.vector);
	v86_run(v_lldt, 0);
	check(trap.vector == V_UD && trap.ip == v86_at(v_lldt), "V86: lldt is #UD", "vector %u",
	      trap.vector);
	v86_run(v_cr, 0);
	check(trap.vector == V_GP && trap.ip == v86_at(v_cr), "V86: mov from CR0 is #GP",
	      "vector %u", trap.vector);
}

int main(void)
{
	area = pages_alloc(32, PAGE);
	data_segments();
	code_segments();
	ldt();
	privilege();
	idt_gates();
	sysenter();
	tasks();
	v86();
	return 0;
}
