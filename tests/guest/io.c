/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Port input and output: sizes, string forms and their faults, and who may do it: IOPL
 * and the I/O bitmap of the task state segment (Intel SDM 1, chapter "Input/Output").
 */
#include "rt.h"

#define VA 0x10000000000ul
#define FREE_PORT 0x2f0 /* nobody is there: reads are all ones */

static void sizes(void)
{
	ulong a = 0x1122334455667788;

	__asm__ volatile("inb %w1, %b0" : "+a"(a) : "d"(FREE_PORT));
	check_eq("inb changes AL alone", a, 0x11223344556677ff);
	a = 0x1122334455667788;
	__asm__ volatile("inw %w1, %w0" : "+a"(a) : "d"(FREE_PORT));
	check_eq("inw changes AX alone", a, 0x112233445566ffff);
	a = 0x1122334455667788;
	__asm__ volatile("inl %w1, %k0" : "+a"(a) : "d"(FREE_PORT));
	check_eq("inl clears the upper half", a, 0xffffffff);
	a = 0x1122334455667788;
	__asm__ volatile("inb $0xee, %b0" : "+a"(a));
	check_eq("inb of an immediate port", a & ~0xfful, 0x1122334455667700);
	/* upper bits of DX beyond 16 do not matter */
	a = 0;
	__asm__ volatile("inb %w1, %b0" : "+a"(a) : "d"(0xffff0000 | FREE_PORT));
	check_eq("only DX counts", a, 0xff);
	/* PCI configuration address: only 32-bit writes reach it */
	outl(0xcf8, 0x80000000);
	check_eq("0xcf8: reads back", inl(0xcf8), 0x80000000);
	u32 id = inl(0xcfc);
	check(id != 0xffffffff && (id & 0xffff), "PCI: host bridge", "%#x", id);
	check_eq("PCI: 16-bit read", inw(0xcfe), id >> 16);
	check_eq("PCI: 8-bit read", inb(0xcfd), id >> 8 & 0xff);
	outl(0xcf8, 0x80000000 | 31 << 11 | 7 << 8);
	check(inl(0xcfc) == 0xffffffff || inl(0xcfc) != 0, "PCI: function that is not there", "%#x",
	      inl(0xcfc));
	outl(0xcf8, 0);
	/* serial port: scratch register */
	outb(0x3ff, 0x5a);
	check_eq("outb and inb: UART scratch", inb(0x3ff), 0x5a);
	outb(0x3ff, 0xa5);
	check_eq("outb again", inb(0x3ff), 0xa5);
}

static void strings(void)
{
	u8 *p = page_alloc();
	ulong c, d, s;

	memset(p, 0, 64);
	c = 5, d = (ulong)p;
	__asm__ volatile("cld; rep insb" : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	check(c == 0 && d == (ulong)p + 5 && p[4] == 0xff && p[5] == 0, "rep insb",
	      "rcx %lu rdi %#lx", c, d);
	memset(p, 0, 64);
	c = 3, d = (ulong)p;
	__asm__ volatile("cld; rep insw" : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	check(c == 0 && d == (ulong)p + 6 && p[5] == 0xff && p[6] == 0, "rep insw",
	      "rcx %lu rdi %#lx", c, d);
	memset(p, 0, 64);
	c = 2, d = (ulong)p;
	__asm__ volatile("cld; rep insl" : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	check(c == 0 && d == (ulong)p + 8 && p[7] == 0xff && p[8] == 0, "rep insl",
	      "rcx %lu rdi %#lx", c, d);
	memset(p, 0, 64);
	c = 4, d = (ulong)p + 32;
	__asm__ volatile("std; rep insb; cld" : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	check(d == (ulong)p + 28 && p[29] == 0xff && p[28] == 0 && p[32] == 0xff,
	      "rep insb downwards", "rdi %#lx", d);
	/* outs: the last byte stays in the scratch register */
	for (unsigned i = 0; i < 16; i++)
		p[i] = 0x10 + i;
	c = 7, s = (ulong)p;
	__asm__ volatile("cld; rep outsb" : "+c"(c), "+S"(s) : "d"(0x3ff) : "memory");
	check(c == 0 && s == (ulong)p + 7 && inb(0x3ff) == 0x16, "rep outsb",
	      "rcx %lu rsi %#lx last %#x", c, s, inb(0x3ff));
	s = (ulong)p + 8;
	__asm__ volatile("cld; outsb" : "+S"(s) : "d"(0x3ff) : "memory");
	check(s == (ulong)p + 9 && inb(0x3ff) == 0x18, "outsb", "rsi %#lx last %#x", s, inb(0x3ff));
	wrmsr(MSR_FS_BASE, (ulong)p);
	s = 3;
	__asm__ volatile("cld; fs; outsb" : "+S"(s) : "d"(0x3ff) : "memory");
	check(s == 4 && inb(0x3ff) == 0x13, "outsb with fs", "rsi %#lx last %#x", s, inb(0x3ff));
	wrmsr(MSR_FS_BASE, 0);
	s = 0xffffffff00000000ul | (ulong)p;
	c = 0xffffffff00000002ul;
	__asm__ volatile("cld; addr32 rep outsb" : "+c"(c), "+S"(s) : "d"(0x3ff) : "memory");
	check(c == 0 && s == (ulong)p + 2 && inb(0x3ff) == 0x11, "addr32 rep outsb",
	      "rcx %#lx rsi %#lx last %#x", c, s, inb(0x3ff));
	c = 0, d = 0x8000000000000000;
	TRY("rep insb", : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	expect_none("rep insb of count 0");
	/* faults: memory */
	map(VA, (ulong)p, PTE_P | PTE_W);
	map(VA + PAGE, 0, 0);
	c = 10, d = VA + PAGE - 4;
	TRY("cld; rep insb", : "+c"(c), "+D"(d) : "d"(FREE_PORT) : "memory");
	expect_pf("rep insb: page fault", PF_W, VA + PAGE, ANYWHERE);
	check(trap.regs.cx == 6 && trap.regs.di == VA + PAGE, "rep insb: registers at the fault",
	      "rcx %lu rdi %#lx", trap.regs.cx, trap.regs.di);
	c = 10, s = VA + PAGE - 4;
	TRY("cld; rep outsb", : "+c"(c), "+S"(s) : "d"(0x3ff) : "memory");
	expect_pf("rep outsb: page fault", 0, VA + PAGE, ANYWHERE);
	check(trap.regs.cx == 6 && trap.regs.si == VA + PAGE, "rep outsb: registers at the fault",
	      "rcx %lu rsi %#lx", trap.regs.cx, trap.regs.si);
	map(VA, (ulong)p, PTE_P);
	TRY("insb", ::"d"(FREE_PORT), "D"(VA) : "memory");
	expect_pf("insb: read-only page", PF_P | PF_W, VA, AT_INSN);
	TRY("insb", ::"d"(FREE_PORT), "D"(0x8000000000000000) : "memory");
	expect("insb: not canonical", V_GP, 0, AT_INSN);
	map(VA, 0, 0);
}

USER_TEXT __attribute__((naked)) static void u_inb(void)
{
	__asm__("movq %rdi, %rdx; inb %dx, %al; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_inw(void)
{
	__asm__("movq %rdi, %rdx; inw %dx, %ax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_inl(void)
{
	__asm__("movq %rdi, %rdx; inl %dx, %eax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_outb(void)
{
	__asm__("movq %rdi, %rdx; outb %al, %dx; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_insb(void)
{
	__asm__("movq %rdi, %rdx; movq %rsi, %rdi; insb; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_outsb(void)
{
	__asm__("movq %rdi, %rdx; outsb; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_cli(void)
{
	__asm__("cli; sti; cli; pushf; pop %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_in80(void)
{
	__asm__("inb $0xee, %al; int $0x40");
}

static void allowed(const char *name, const void *fn, ulong port, ulong flags, bool yes)
{
	user_run_flags(fn, port, (ulong)user_stack, flags);
	if (yes)
		check(trap.vector == V_USER_RET, name, "vector %u error %#lx", trap.vector,
		      trap.error);
	else
		check(trap.vector == V_GP && trap.error == 0 && trap.cs == UCS, name,
		      "vector %u error %#lx", trap.vector, trap.error);
}

static void permissions(void)
{
	struct tss *t = &cpus[0].tss;
	u8 *map8 = t->bitmap;

	allowed("CPL 3, IOPL 0, no bitmap: inb is #GP", u_inb, FREE_PORT, 0, false);
	allowed("CPL 3, IOPL 0, no bitmap: outb is #GP", u_outb, FREE_PORT, 0, false);
	allowed("CPL 3, IOPL 0, no bitmap: immediate port is #GP", u_in80, 0, 0, false);
	allowed("CPL 3, IOPL 2: inb is #GP", u_inb, FREE_PORT, 0x2000, false);
	allowed("CPL 3, IOPL 3: inb", u_inb, FREE_PORT, 0x3000, true);
	allowed("CPL 3, IOPL 3: inl", u_inl, FREE_PORT, 0x3000, true);
	allowed("CPL 3, IOPL 3: insb", u_insb, FREE_PORT, 0x3000, true);
	user_run_flags(u_cli, 0, 0, 0x3000);
	check(trap.vector == V_USER_RET && !(trap.regs.ax & FL_IF), "CPL 3, IOPL 3: cli and sti",
	      "vector %u", trap.vector);
	user_run_flags(u_cli, 0, 0, 0x2000);
	check(trap.vector == V_GP, "CPL 3, IOPL 2: cli is #GP", "vector %u", trap.vector);
	/* bitmap: everything closed but FREE_PORT .. +1 */
	t->iomap = (ulong)map8 - (ulong)t;
	memset(map8, 0xff, sizeof(t->bitmap));
	map8[FREE_PORT / 8] = 0xfc;
	allowed("bitmap: open port", u_inb, FREE_PORT, 0, true);
	allowed("bitmap: next open port", u_inb, FREE_PORT + 1, 0, true);
	allowed("bitmap: closed port", u_inb, FREE_PORT + 2, 0, false);
	allowed("bitmap: two open ports", u_inw, FREE_PORT, 0, true);
	allowed("bitmap: the second of two is closed", u_inw, FREE_PORT + 1, 0, false);
	allowed("bitmap: four ports, two closed", u_inl, FREE_PORT, 0, false);
	allowed("bitmap: insb of an open port", u_insb, FREE_PORT, 0, true);
	allowed("bitmap: insb of a closed port", u_insb, FREE_PORT + 3, 0, false);
	allowed("bitmap: outsb of a closed port", u_outsb, FREE_PORT + 3, 0, false);
	/* ports across two bytes of the bitmap */
	map8[FREE_PORT / 8] = 0;
	map8[FREE_PORT / 8 + 1] = 0xff;
	allowed("bitmap: across bytes, closed", u_inw, FREE_PORT + 7, 0, false);
	map8[FREE_PORT / 8 + 1] = 0xfe;
	allowed("bitmap: across bytes, open", u_inw, FREE_PORT + 7, 0, true);
	map8[FREE_PORT / 8 + 1] = 0xf8;
	allowed("bitmap: four across bytes, open", u_inl, FREE_PORT + 7, 0, true);
	/* the last port: its check reads the byte behind the map */
	map8[8191] = 0x7f;
	allowed("bitmap: port 0xffff", u_inb, 0xffff, 0, true);
	allowed("bitmap: two ports from 0xffff", u_inw, 0xffff, 0, false);
	/* bitmap beyond the limit of the segment */
	gdt_set(0, TSS_SEL, (ulong)t, (ulong)map8 - (ulong)t + 0x10, 0x89, 0);
	__asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
	allowed("bitmap: beyond the limit is closed", u_inb, FREE_PORT, 0, false);
	map8[0] = 0;
	allowed("bitmap: inside the limit", u_inb, 2, 0, true);
	t->iomap = 0xffff;
	gdt_set(0, TSS_SEL, (ulong)t, sizeof(*t) - 1, 0x89, 0);
	__asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
	allowed("bitmap: base beyond the limit", u_inb, FREE_PORT, 0, false);
	/* changes are seen at once */
	t->iomap = (ulong)map8 - (ulong)t;
	allowed("bitmap: base moved in memory", u_inb, FREE_PORT, 0, true);
	map8[FREE_PORT / 8] = 0xff;
	allowed("bitmap: closed again in memory", u_inb, FREE_PORT, 0, false);
	/* page fault of the bitmap itself is not tried: the TSS holds RSP0, too */
	TRY("inb %w0, %%al", ::"d"(FREE_PORT) : "rax");
	expect_none("CPL 0 does not look at the bitmap");
	t->iomap = sizeof(*t);
}

int main(void)
{
	sizes();
	strings();
	permissions();
	return 0;
}
