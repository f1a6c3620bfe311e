/* SPDX-License-Identifier: Apache-2.0 */
/* Runtime of the guest programs: output, caught exceptions, memory, descriptors. See rt.h. */
#include "rt.h"

struct boot_info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline;
};

u32 boot_info, boot_magic;
u64 mem_top;
unsigned cpu_count = 1;
u64 random_seed;
static bool tcg;
bool on_kvm;
static u64 mem_next = 16ul << 20;
static unsigned passed, failed, skipped;

/* ---- output ---- */
static void put(char c)
{
	if (c == '\n')
		put('\r');
	for (unsigned i = 0; i < 1000000 && !(inb(0x3fd) & 0x20); i++)
		pause();
	outb(0x3f8, c);
}

static void put_number(u64 v, unsigned base, unsigned width, char pad)
{
	char buf[24];
	unsigned n = 0;

	do {
#ifdef __x86_64__
		unsigned digit = v % base;
		v /= base;
#else
		/* no 64-bit division without a library: hexadecimal, else 32 bits */
		unsigned digit = base == 16 ? v & 15 : (u32)v % base;
		v = base == 16 ? v >> 4 : (u32)v / base;
#endif
		buf[n++] = "0123456789abcdef"[digit];
	} while (v && n < sizeof(buf));
	while (width > n) {
		put(pad);
		width--;
	}
	while (n)
		put(buf[--n]);
}

static void vprint(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		unsigned longs = 0, width = 0;
		char pad = ' ';

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == '#')
			fmt++, put('0'), put('x');
		if (*fmt == '0')
			pad = '0';
		for (; *fmt >= '0' && *fmt <= '9'; fmt++)
			width = width * 10 + *fmt - '0';
		for (; *fmt == 'l'; fmt++)
			longs++;
		if (*fmt == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		} else if (*fmt == 'c') {
			put(va_arg(ap, int));
		} else if (*fmt == 'd') {
			long v = longs ? va_arg(ap, long) : va_arg(ap, int);
			if (v < 0)
				put('-');
			put_number(v < 0 ? -v : v, 10, width, pad);
		} else if (*fmt == 'x' || *fmt == 'u') {
			u64 v = longs > 1 ? va_arg(ap, unsigned long long)
				: longs	  ? va_arg(ap, ulong)
					  : va_arg(ap, unsigned);
			put_number(v, *fmt == 'x' ? 16 : 10, width, pad);
		} else {
			put(*fmt);
		}
	}
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
}

void ok(const char *name)
{
	passed++;
	print("ok %s\n", name);
}

static void vfail(const char *name, const char *fmt, va_list ap)
{
	failed++;
	print("FAIL %s: ", name);
	vprint(fmt, ap);
	print("\n");
}

void fail(const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfail(name, fmt, ap);
	va_end(ap);
}

void skip(const char *name, const char *why)
{
	skipped++;
	print("skip %s: %s\n", name, why);
}

bool hostile(const char *name)
{
	if (tcg)
		skip(name, "ends QEMU's emulator");
	return tcg;
}

bool check(bool cond, const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (cond)
		ok(name);
	else
		vfail(name, fmt, ap);
	va_end(ap);
	return cond;
}

bool check_eq(const char *name, u64 got, u64 want)
{
	return check(got == want, name, "got %#llx, want %#llx", (unsigned long long)got,
		     (unsigned long long)want);
}

void guest_exit(u32 status)
{
	outl(0xf4, status);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* ---- memory ---- */
void *memset(void *p, int c, size_t n)
{
	void *d = p;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	void *d = dst;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n)::"memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] < y[i] ? -1 : 1;
	return 0;
}

void *pages_alloc(unsigned count, ulong align)
{
	u64 p = (mem_next + align - 1) & ~(u64)(align - 1);

	if (p + count * PAGE > mem_top) {
		fail("memory", "out of memory");
		guest_exit(2);
	}
	mem_next = p + count * PAGE;
	return memset((void *)(ulong)p, 0, count * PAGE);
}

void *page_alloc(void)
{
	return pages_alloc(1, PAGE);
}

/* ---- exceptions ---- */
struct trap trap;
volatile ulong trap_insn, trap_recover, trap_recover_sp;
static trap_fn *handlers[256];
struct percpu cpus[CPU_MAX];
struct gate idt[256] __attribute__((aligned(16)));
extern u8 trap_stubs[];
extern u8 cpu0_stack_top[];
__asm__(".globl cpu0_stack_top\n.set cpu0_stack_top, boot_stack + 8192");
u8 boot_stack[8192] __attribute__((aligned(16), used));

trap_fn *on_vector(unsigned vector, trap_fn *fn)
{
	trap_fn *old = handlers[vector];

	handlers[vector] = fn;
	return old;
}

void trap_begin(void)
{
	trap.hit = false;
	trap.vector = 999;
	trap.error = trap.ip = trap.cr2 = 0;
}

void trap_dispatch(struct frame *f);
void trap_dispatch(struct frame *f)
{
	ulong cr2 = read_cr2();

	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return;
	}
	if (!trap_recover) {
		print("FAIL unexpected exception: vector %lu error %#lx ip %#lx cs %#lx flags %#lx "
		      "sp %#lx "
		      "cr2 %#lx cpu %u\n",
		      f->vector, f->error, f->ip, f->cs, f->flags,
		      (f->cs & 3) ? f->sp : (ulong)(f + 1), cr2, cpu_id());
		guest_exit(3);
	}
	trap.hit = true;
	trap.vector = f->vector;
	trap.error = f->error;
	trap.ip = f->ip;
	trap.cs = f->cs;
	trap.flags = f->flags;
	trap.cr2 = cr2;
	trap.next = trap_recover;
	trap.regs = *f;
#ifdef __x86_64__
	trap.sp = f->sp;
	trap.ss = f->ss;
	f->ss = KDS;
	f->sp = trap_recover_sp;
#else
	bool outer = f->cs & 3 || f->flags & FL_VM;
	trap.sp = outer ? f->sp : (ulong)&f->sp;
	trap.ss = outer ? f->ss : 0;
#endif
	f->ip = trap_recover;
	f->cs = KCS;
	f->flags &=
	    ~(FL_TF | FL_DF | FL_NT | FL_RF | FL_VM | FL_AC | (f->cs & 3 ? FL_IF : 0) | 0x3000);
#ifndef __x86_64__
	extern void trap_resume(struct frame * f, ulong sp) __attribute__((noreturn));
	f->ds = f->es = KDS;
	f->fs = f->gs = 0;
	trap_resume(f, trap_recover_sp);
#endif
}

static bool where_ok(enum where where)
{
	return where == ANYWHERE || trap.ip == (where == AT_INSN ? trap_insn : trap.next);
}

bool expect(const char *name, unsigned vector, ulong error, enum where where)
{
	if (!trap.hit)
		return check(false, name, "no exception, want vector %u", vector);
	return check(trap.vector == vector && trap.error == error && where_ok(where), name,
		     "vector %u error %#lx at insn%s%#lx, want %u, %#lx %s", trap.vector,
		     trap.error, trap.ip < trap_insn ? "-" : "+",
		     trap.ip < trap_insn ? trap_insn - trap.ip : trap.ip - trap_insn, vector, error,
		     where == AT_INSN	   ? "at it"
		     : where == AFTER_INSN ? "after it"
					   : "");
}

bool expect_pf(const char *name, ulong error, ulong cr2, enum where where)
{
	if (!trap.hit)
		return check(false, name, "no exception, want #PF");
	return check(trap.vector == V_PF && trap.error == error && trap.cr2 == cr2 &&
			 where_ok(where),
		     name, "vector %u error %#lx cr2 %#lx at insn%s%#lx, want #PF %#lx cr2 %#lx%s",
		     trap.vector, trap.error, trap.cr2, trap.ip < trap_insn ? "-" : "+",
		     trap.ip < trap_insn ? trap_insn - trap.ip : trap.ip - trap_insn, error, cr2,
		     where == AT_INSN ? " at it" : "");
}

bool expect_none(const char *name)
{
	return check(!trap.hit, name, "vector %u error %#lx at %#lx cr2 %#lx", trap.vector,
		     trap.error, trap.ip, trap.cr2);
}

/* ---- descriptors ---- */
unsigned cpu_id(void)
{
	return (cpuid(1, 0).b >> 24) % CPU_MAX;
}

void idt_set(unsigned vector, void *fn, unsigned dpl, unsigned ist)
{
	ulong p = (ulong)fn;
	struct gate g = {
		.off0 = p, .sel = KCS, .ist = ist, .type = 0x8e | dpl << 5, .off1 = p >> 16
	};

#ifdef __x86_64__
	g.off2 = p >> 32;
#endif
	idt[vector] = g;
}

void idt_default(unsigned vector)
{
	idt_set(vector, trap_stubs + vector * 16,
		vector == V_BP || vector == V_OF || vector == V_USER_RET ? 3 : 0, 0);
}

#ifdef __x86_64__
void trap_ist(bool on)
{
	for (unsigned v = 0; v < 32; v++)
		idt[v].ist = on;
}
#endif

void gdt_set(unsigned cpu, unsigned sel, u32 base, u32 limit, u8 access, u8 flags)
{
	cpus[cpu].gdt[sel / 8] = (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
				 (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
				 (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

void cpu_tables_load(unsigned cpu)
{
	struct percpu *c = &cpus[cpu];
	struct dtable g = { sizeof(c->gdt) - 1, (ulong)c->gdt },
		      i = { sizeof(idt) - 1, (ulong)idt };
	extern const u64 boot_gdt[];

	for (unsigned n = 0; n < TSS_SEL / 8; n++)
		c->gdt[n] = boot_gdt[n];
	memset(&c->tss, 0, sizeof(c->tss));
	memset(c->tss.bitmap, 0xff, sizeof(c->tss.bitmap));
	c->tss.iomap = sizeof(c->tss); /* beyond the limit: no bitmap */
#ifdef __x86_64__
	c->tss.rsp[0] = (ulong)c->trap_stack + STACK_SIZE;
	c->tss.ist[0] = (ulong)c->ist_stack[0] + 4096;
	c->tss.ist[1] = (ulong)c->ist_stack[1] + 4096;
	c->gdt[TSS_SEL / 8 + 1] = (u64)(ulong)&c->tss >> 32;
#else
	c->tss.ss0 = KDS;
	c->tss.sp0 = (ulong)c->trap_stack + STACK_SIZE;
#endif
	gdt_set(cpu, TSS_SEL, (ulong)&c->tss, sizeof(c->tss) - 1, 0x89, 0);
	__asm__ volatile("lgdt %0; lidt %1; ltr %w2" ::"m"(g), "m"(i), "r"(TSS_SEL) : "memory");
}

void rt_start(void) __attribute__((noreturn));
void rt_start(void)
{
	struct boot_info *bi = (struct boot_info *)(ulong)boot_info;

	if (boot_magic != 0x2badb002 || !(bi->flags & 1)) {
		print("FAIL start: no multiboot information (magic %#x)\n", boot_magic);
		guest_exit(4);
	}
	mem_top = (1ul << 20) + (u64)bi->mem_upper * 1024;
	if (mem_top > 1ull << 30)
		mem_top = 1ull << 30;
	if (bi->flags & 4) {
		for (const char *c = (const char *)(ulong)bi->cmdline; *c; c++)
			if (!memcmp(c, "cpus=", 5) && c[5] >= '1' && c[5] <= '0' + CPU_MAX)
				cpu_count = c[5] - '0';
			else if (!memcmp(c, "tcg", 3))
				tcg = true;
			else if (!memcmp(c, "kvm", 3))
				on_kvm = true;
			else if (!memcmp(c, "seed=", 5))
				for (const char *d = c + 5; *d >= '0' && *d <= '9'; d++)
					random_seed = random_seed * 10 + (*d - '0');
	}
	for (unsigned v = 0; v < 256; v++)
		idt_default(v);
	cpu_tables_load(0);
	pic_mask_all();
	main();
	print("end: %u passed, %u failed, %u skipped\n", passed, failed, skipped);
	guest_exit(failed || !passed ? 1 : 0);
}

#ifdef __x86_64__
/* ---- page tables ---- */
u64 *pte_of(u64 *root, u64 va, unsigned level)
{
	u64 *t = root;

	for (unsigned l = 4; l > level; l--) {
		u64 *e = &t[va >> (12 + 9 * (l - 1)) & 511];

		if (!(*e & PTE_P))
			*e = (ulong)page_alloc() | PTE_P | PTE_W | PTE_U;
		t = (u64 *)(*e & PTE_ADDR);
	}
	return &t[va >> (12 + 9 * (level - 1)) & 511];
}

u64 *map(u64 va, u64 pa, u64 flags)
{
	u64 *e = pte_of((u64 *)(read_cr3() & PTE_ADDR), va, 1);

	*(volatile u64 *)e = pa | flags;
	invlpg(va);
	return e;
}

u64 *pml4_clone(void)
{
	return memcpy(page_alloc(), boot_pml4, PAGE);
}

static ulong user_run_cs(const void *fn, ulong a, ulong b, ulong flags, ulong cs)
{
	extern ulong user_enter(const void *fn, ulong a, ulong b, ulong flags, ulong stack,
				ulong cs);

	trap_begin();
	user_enter(fn, a, b, flags | 2, (ulong)user_stack + USTACK_SIZE - 64, cs);
	return trap.regs.ax;
}

ulong user_run_flags(const void *fn, ulong a, ulong b, ulong flags)
{
	return user_run_cs(fn, a, b, flags, UCS);
}

ulong user32_run(const void *fn, ulong a, ulong b, ulong flags)
{
	return user_run_cs(fn, a, b, flags, UCS32);
}

ulong user_run(const void *fn, ulong a, ulong b)
{
	return user_run_flags(fn, a, b, 0);
}
#else
ulong user_run_flags(const void *fn, ulong a, ulong b, ulong flags)
{
	extern void user_enter(const void *fn, ulong a, ulong b, ulong flags, ulong stack);

	trap_begin();
	user_enter(fn, a, b, flags | 2, (ulong)user_stack + USTACK_SIZE - 64);
	return trap.regs.ax;
}

ulong user_run(const void *fn, ulong a, ulong b)
{
	return user_run_flags(fn, a, b, 0);
}
#endif

void fpu_on(void)
{
	ulong cr4 = read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT;

	if (!cpuid_has(1, 0, 'c', 26)) {
		write_cr4(cr4);
		return;
	}
	write_cr4(cr4 | CR4_OSXSAVE);
	__asm__ volatile("xsetbv" ::"c"(0), "a"(cpuid(0xd, 0).a & 7), "d"(0));
}
