/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A multiboot kernel for the tests of eyot-vmm's command line: it does what its
 * command line says, word by word, and prints on COM1. 32-bit, polling, no interrupts.
 *
 *   say:TEXT  args  module  off  exit:N  triple  panic  reset  kbc  hang  spin
 *   count:N   reset until this is boot number N (kept in CMOS memory), print each
 *   bad:N     execute N instructions that bt does not have (encls), going on after each
 *   ram       fail unless the memory at 3 MiB reads zero, then fill it
 *   echo      print what comes in, up to and with a 'q'
 *   button    wait for the power button
 *   flood     print for ever
 *   numbers   print 1, 2, 3 ... for ever
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define COM1 0x3f8
#define PM1_STS 0x600
#define PM1_EN 0x602
#define PM1_CNT 0x604

__asm__(".section .multiboot, \"a\"\n"
	".align 4\n"
	".long 0x1badb002, 3, -(0x1badb002 + 3)\n"
	".text\n"
	".globl _start\n"
	"_start:\n"
	"mov $stack_end, %esp\n"
	"push %ebx\n"
	"push %eax\n"
	"call kmain\n"
	"1: cli\n"
	"hlt\n"
	"jmp 1b\n"
	".bss\n"
	".align 16\n"
	".skip 16384\n"
	"stack_end:\n"
	".text\n");

static u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static u16 inw(u16 port)
{
	u16 v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static void put(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (u8)c);
}

static void print(const char *s)
{
	while (*s)
		put(*s++);
}

static void number(u32 v)
{
	char buf[12], *p = buf + 11;

	*p = 0;
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	print(p);
}

static u32 parse(const char *s)
{
	u32 v = 0;

	while (*s >= '0' && *s <= '9')
		v = v * 10 + (u32)(*s++ - '0');
	return v;
}

/* Whether @word is @name, or begins with it when it ends with a colon. */
static int is(const char *word, const char *name)
{
	while (*name && *word == *name) {
		if (*name == ':')
			return 1;
		word++;
		name++;
	}
	return !*name && (!*word || *word == ' ');
}

static void reset(void)
{
	outb(0xcf9, 6);
	for (;;)
		__asm__ volatile("hlt");
}

static void count(u32 until)
{
	u32 n;

	outb(0x70, 0x60);
	n = inb(0x71) + 1u;
	outb(0x70, 0x60);
	outb(0x71, (u8)n);
	print("boot ");
	number(n);
	print("\n");
	if (n < until)
		reset();
}

static void ram(void)
{
	volatile u32 *p = (volatile u32 *)0x300000;

	for (u32 i = 0; i < 65536; i++) {
		if (p[i]) {
			print("dirty memory\n");
			return;
		}
		p[i] = 0x55aa55aa;
	}
	print("clean memory\n");
}

static void echo(void)
{
	char c;

	print("ready\n");
	do {
		while (!(inb(COM1 + 5) & 1))
			;
		c = (char)inb(COM1);
		put(c);
	} while (c != 'q');
}

static void button(void)
{
	outw(PM1_STS, 0x100);
	outw(PM1_EN, 0x100);
	print("waiting\n");
	while (!(inw(PM1_STS) & 0x100))
		__asm__ volatile("pause");
	print("button\n");
}

/* The handler of #UD steps over the three bytes of the instruction. */
static void bad(u32 n)
{
	static struct {
		u16 low, sel, type, high;
	} idt[7];
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (u32)idt };
	u32 handler;
	u16 cs;

	__asm__ volatile("mov %%cs, %1\n"
			 "mov $1f, %0\n"
			 "jmp 2f\n"
			 "1: addl $3, (%%esp)\n"
			 "iret\n"
			 "2:"
			 : "=r"(handler), "=r"(cs));
	idt[6].low = (u16)handler;
	idt[6].high = (u16)(handler >> 16);
	idt[6].sel = cs;
	idt[6].type = 0x8e00;
	__asm__ volatile("lidt %0" : : "m"(idtr));
	while (n--)
		__asm__ volatile(".byte 0x0f, 0x01, 0xcf");
}

static void do_word(const char *w, const char *all, const u32 *info)
{
	static const struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) no_idt;

	if (is(w, "say:")) {
		for (w += 4; *w && *w != ' '; w++)
			put(*w);
		put('\n');
	} else if (is(w, "args")) {
		print(all);
		put('\n');
	} else if (is(w, "module")) {
		const u32 *mod = (const u32 *)info[6];

		for (u32 at = mod[0]; info[5] && at < mod[1]; at++)
			put(*(const char *)at);
	} else if (is(w, "off")) {
		outw(PM1_CNT, 5 << 10 | 1 << 13);
	} else if (is(w, "exit:")) {
		outl(0xf4, parse(w + 5));
	} else if (is(w, "triple")) {
		__asm__ volatile("lidt %0\n int3" : : "m"(no_idt));
	} else if (is(w, "panic")) {
		outb(0x505, 1);
	} else if (is(w, "reset")) {
		reset();
	} else if (is(w, "kbc")) {
		outb(0x64, 0xfe);
	} else if (is(w, "count:")) {
		count(parse(w + 6));
	} else if (is(w, "bad:")) {
		bad(parse(w + 4));
	} else if (is(w, "ram")) {
		ram();
	} else if (is(w, "echo")) {
		echo();
	} else if (is(w, "button")) {
		button();
	} else if (is(w, "hang")) {
		for (;;)
			__asm__ volatile("cli\n hlt");
	} else if (is(w, "spin")) {
		for (;;)
			;
	} else if (is(w, "flood")) {
		for (;;)
			print("flood flood flood flood flood flood flood flood flood flood\n");
	} else if (is(w, "numbers")) {
		for (u32 n = 1;; n++) {
			number(n);
			put('\n');
		}
	} else {
		print("unknown word\n");
	}
}

void kmain(u32 magic, const u32 *info)
{
	const char *all = (const char *)info[4], *w = all;

	if (magic != 0x2badb002) {
		print("no multiboot loader\n");
		return;
	}
	while (*w && *w != ' ')
		w++; /* the kernel's name */
	while (*w) {
		while (*w == ' ')
			w++;
		if (*w)
			do_word(w, all, info);
		while (*w && *w != ' ')
			w++;
	}
}
