/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How exceptions are delivered: error codes of segment loads, gates and their checks, and
 * one exception that meets another (Intel SDM 3A, chapter "Interrupt and Exception
 * Handling").
 */
#include "rt.h"

#define VA 0x10000000000ul

USER_TEXT __attribute__((naked)) static void u_load4(void)
{
	__asm__("movl (%rdi), %eax; int $0x40");
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
	check(!trap.hit && (cpus[0].gdt[s / 8] >> 40 & 1), "accessed bit set by a load",
	      "descriptor %#lx", (ulong)cpus[0].gdt[s / 8]);
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

#define UMIP_INSN(name, insn)                                                                      \
	USER_TEXT __attribute__((naked)) static void name(void)                                    \
	{                                                                                          \
		__asm__(insn "; int $0x40");                                                       \
	}
UMIP_INSN(u_sgdt, "sgdt (%rdi)")
UMIP_INSN(u_sidt, "sidt (%rdi)")
UMIP_INSN(u_sldt, "sldt %eax")
UMIP_INSN(u_str, "str %eax")
UMIP_INSN(u_smsw, "smsw %eax")

static void umip(void)
{
	static const struct {
		const char *name, *with;
		const void *fn;
	} list[] = {
		{ "CPL 3: sgdt", "UMIP: sgdt is #GP(0)", u_sgdt },
		{ "CPL 3: sidt", "UMIP: sidt is #GP(0)", u_sidt },
		{ "CPL 3: sldt", "UMIP: sldt is #GP(0)", u_sldt },
		{ "CPL 3: str", "UMIP: str is #GP(0)", u_str },
		{ "CPL 3: smsw", "UMIP: smsw is #GP(0)", u_smsw },
	};

	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		user_run(list[i].fn, (ulong)user_stack, 0);
		check(trap.vector == V_USER_RET, list[i].name, "vector %u", trap.vector);
	}
	if (!cpuid_has(7, 0, 'c', 2)) {
		skip("UMIP", "not in CPUID");
		return;
	}
	write_cr4(read_cr4() | CR4_UMIP);
	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		user_run(list[i].fn, (ulong)user_stack, 0);
		expect(list[i].with, V_GP, 0, AT_INSN);
	}
	TRY("smsw %%eax; str %%eax; sgdt (%0)", ::"r"(user_stack) : "eax", "memory");
	expect_none("UMIP: does not matter at CPL 0");
	write_cr4(read_cr4() & ~CR4_UMIP);
}

static void gates(void)
{
	struct dtable old, small;

	user_run(u_int41, 0, 0);
	expect("#GP: int through a gate of DPL 0", V_GP, 0x41 * 8 + 2, AT_INSN);
	user_run(u_int3, 0, 0);
	check(trap.vector == V_BP && trap.ip == (ulong)u_int3 + 1, "CPL 3: int3", "vector %u",
	      trap.vector);
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
	small = (struct dtable) { 0x41 * 16 + 14, old.base };
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
		{ "CPL 3: hlt is #GP(0)", u_hlt },	 { "CPL 3: cli is #GP(0)", u_cli },
		{ "CPL 3: in is #GP(0)", u_in },	 { "CPL 3: wrmsr is #GP(0)", u_wrmsr },
		{ "CPL 3: rdmsr is #GP(0)", u_rdmsr },	 { "CPL 3: lgdt is #GP(0)", u_lgdt },
		{ "CPL 3: clts is #GP(0)", u_clts },	 { "CPL 3: lmsw is #GP(0)", u_lmsw },
		{ "CPL 3: sysret is #GP(0)", u_sysret }, { "CPL 3: mov from DR7 is #GP(0)", u_dr },
		{ "CPL 3: wbinvd is #GP(0)", u_wbinvd }, { "CPL 3: swapgs is #GP(0)", u_swapgs },
		{ "CPL 3: ltr is #GP(0)", u_ltr },
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
	segments();
	gates();
	umip();
	nested();
	return 0;
}
