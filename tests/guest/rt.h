/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runtime of the guest test programs.
 *
 * A program is a multiboot-1 ELF file without any library below it. start64.S (or
 * start32.S) brings the boot processor to flat 64-bit (32-bit) code with every
 * exception caught, calls main() and leaves through the debug-exit port.
 *
 * Memory map of a 64-bit program:
 *   0x1000-0x7fff      low code: AP trampoline, mode switches, 16-bit tests (section .low)
 *   0x10000-0x7ffff    scratch for real mode
 *   4 MiB              program, supervisor only
 *   8 MiB-10 MiB       code and data of CPL 3 (sections .user.text, .user.data), a user page
 *   16 MiB-            page_alloc()
 *   0x8000000000-      virtual, nothing there: free for tests
 * The first 4 GiB are mapped one to one with 2 MiB pages, writable and executable.
 *
 * Caught exceptions: TRY() runs an instruction; when it raises an exception,
 * execution goes on after the TRY and `trap` says what happened. A handler set with
 * on_vector() comes first and returns to the place of the event.
 */
#ifndef EYOT_GUEST_RT_H
#define EYOT_GUEST_RT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sel.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long ulong;

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define USER_TEXT __attribute__((section(".user.text"), noinline, used))
#define USER_DATA __attribute__((section(".user.data"), used))
#define barrier() __asm__ volatile("" ::: "memory")

/* ---- reporting ---- */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void ok(const char *name);
void fail(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void skip(const char *name, const char *why);
bool check(bool cond, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/** check_eq() - @got must equal @want */
bool check_eq(const char *name, u64 got, u64 want);
/**
 * hostile() - skip what QEMU's emulator does not survive
 * Return: true, after a skip line, when `tcg` is in the command line.
 */
bool hostile(const char *name);
void guest_exit(u32 status) __attribute__((noreturn));
int main(void);

/* `kvm` is in the command line: the CPU is a processor's own virtualisation. */
extern bool on_kvm;

/* ---- caught exceptions ---- */
enum {
	V_DE,
	V_DB,
	V_NMI,
	V_BP,
	V_OF,
	V_BR,
	V_UD,
	V_NM,
	V_DF,
	V_CSO,
	V_TS,
	V_NP,
	V_SS,
	V_GP,
	V_PF,
	V_MF = 16,
	V_AC,
	V_MC,
	V_XM
};

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#ifdef __x86_64__
struct frame {
	ulong r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
	ulong vector, error;
	ulong ip, cs, flags, sp, ss;
};
#else
struct frame {
	ulong gs, fs, es, ds;
	ulong di, si, bp, sp_saved, bx, dx, cx, ax;
	ulong vector, error;
	ulong ip, cs, flags, sp, ss; /* sp and ss only when the privilege level changed */
};
#endif

struct trap {
	bool hit;
	unsigned vector;
	ulong error, ip, cs, flags, sp, ss, cr2;
	ulong next;	   /* the place after the TRY */
	struct frame regs; /* everything else at the moment of the exception */
};

extern struct trap trap;
/* Set by TRY(): first byte of the instruction, the place after it, its stack */
extern volatile ulong trap_insn, trap_recover, trap_recover_sp;

typedef void trap_fn(struct frame *f);
/** on_vector() - call @fn for @vector from now on; NULL: back to the default */
trap_fn *on_vector(unsigned vector, trap_fn *fn);
void trap_begin(void);

#ifdef __x86_64__
#define TRY_MOV "movq "
#define TRY_SP "%%rsp"
#else
#define TRY_MOV "movl "
#define TRY_SP "%%esp"
#endif
/* TRY("insn", : outputs : inputs : clobbers) */
#define TRY(insn, ...)                                                                             \
	do {                                                                                       \
		trap_begin();                                                                      \
		__asm__ volatile(TRY_MOV "$777f, trap_recover\n\t" TRY_MOV TRY_SP                  \
					 ", trap_recover_sp\n\t" TRY_MOV "$776f, trap_insn\n\t"    \
					 "776: " insn "\n"                                         \
					 "777: " TRY_MOV "$0, trap_recover\n\t" __VA_ARGS__);      \
	} while (0)

enum where { AT_INSN, AFTER_INSN, ANYWHERE };
/** expect() - the last TRY must have raised @vector with @error, saved IP @where; cr2 for V_PF */
bool expect(const char *name, unsigned vector, ulong error, enum where where);
bool expect_pf(const char *name, ulong error, ulong cr2, enum where where);
bool expect_none(const char *name);

/* ---- memory and page tables ---- */
#define PAGE 4096ul
#define LARGE (2ul << 20)
#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_PWT 8ull
#define PTE_PCD 16ull
#define PTE_A 32ull
#define PTE_D 64ull
#define PTE_PS 128ull
#define PTE_G 256ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

void *page_alloc(void);				/* zeroed */
void *pages_alloc(unsigned count, ulong align); /* zeroed, physically contiguous */
extern u64 mem_top;				/* end of RAM, from the boot information */
extern unsigned cpu_count;			/* from `cpus=N` in the command line, else 1 */
extern u64 random_seed;				/* from `seed=N` in the command line, else 0 */

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#ifdef __x86_64__
extern u64 boot_pml4[512];
/**
 * pte_of() - entry of level @level (1: 4K page table ... 4: PML4) that translates @va
 * in the tables at @root; missing tables are made, with P|W|U.
 */
u64 *pte_of(u64 *root, u64 va, unsigned level);
/** map() - map a 4 KiB page in the current tables and invalidate it */
u64 *map(u64 va, u64 pa, u64 flags);
u64 *pml4_clone(void); /* a new root with the mappings of boot_pml4 */
#endif

/* ---- CPU ---- */
static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u16 inw(u16 port)
{
	u16 v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u32 inl(u16 port)
{
	u32 v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

#define DEF_CR(n)                                                                                  \
	static inline ulong read_cr##n(void)                                                       \
	{                                                                                          \
		ulong v;                                                                           \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory");                        \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_cr##n(ulong v)                                                    \
	{                                                                                          \
		__asm__ volatile("mov %0, %%cr" #n ::"r"(v) : "memory");                           \
	}
DEF_CR(0)
DEF_CR(2)
DEF_CR(3)
DEF_CR(4)
#ifdef __x86_64__
DEF_CR(8)
#endif
#define DEF_DR(n)                                                                                  \
	static inline ulong read_dr##n(void)                                                       \
	{                                                                                          \
		ulong v;                                                                           \
		__asm__ volatile("mov %%dr" #n ", %0" : "=r"(v)::"memory");                        \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_dr##n(ulong v)                                                    \
	{                                                                                          \
		__asm__ volatile("mov %0, %%dr" #n ::"r"(v) : "memory");                           \
	}
DEF_DR(0)
DEF_DR(1)
DEF_DR(2)
DEF_DR(3)
DEF_DR(6)
DEF_DR(7)

#define CR0_PE 1ul
#define CR0_MP 2ul
#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_NE 32ul
#define CR0_WP (1ul << 16)
#define CR0_AM (1ul << 18)
#define CR0_NW (1ul << 29)
#define CR0_CD (1ul << 30)
#define CR0_PG (1ul << 31)
#define CR4_TSD 4ul
#define CR4_DE 8ul
#define CR4_PSE 16ul
#define CR4_PAE 32ul
#define CR4_PGE 128ul
#define CR4_OSFXSR 512ul
#define CR4_OSXMMEXCPT 1024ul
#define CR4_UMIP 2048ul
#define CR4_FSGSBASE (1ul << 16)
#define CR4_PCIDE (1ul << 17)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

#define FL_CF 1ul
#define FL_TF 0x100ul
#define FL_IF 0x200ul
#define FL_DF 0x400ul
#define FL_NT (1ul << 14)
#define FL_RF (1ul << 16)
#define FL_VM (1ul << 17)
#define FL_AC (1ul << 18)

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_ADJUST 0x3b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103
#define EFER_SCE 1u
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
/* The same, caught: look at trap. */
static inline u64 try_rdmsr(u32 msr)
{
	u32 lo = 0, hi = 0;
	TRY("rdmsr", : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");
	return (u64)hi << 32 | lo;
}
static inline void try_wrmsr(u32 msr, u64 v)
{
	TRY("wrmsr", ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#define TRY_WRITE_CR(n, v) TRY("mov %0, %%cr" #n, ::"r"((ulong)(v)) : "memory")

struct cpuid {
	u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;
	__asm__ volatile("cpuid"
			 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
			 : "a"(leaf), "c"(sub));
	return r;
}
/* False for leaves beyond the maximum, too. */
static inline bool cpuid_has(u32 leaf, u32 sub, char reg, unsigned bit)
{
	if (cpuid(leaf & 0x80000000u, 0).a < leaf)
		return false;
	struct cpuid r = cpuid(leaf, sub);
	u32 v = reg == 'a' ? r.a : reg == 'b' ? r.b : reg == 'c' ? r.c : r.d;
	return v >> bit & 1;
}
static inline u64 rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return (u64)hi << 32 | lo;
}
static inline void pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}
static inline void cli(void)
{
	__asm__ volatile("cli" ::: "memory");
}
static inline void sti(void)
{
	__asm__ volatile("sti" ::: "memory");
}
static inline ulong read_flags(void)
{
	ulong f;
	__asm__ volatile("pushf; pop %0" : "=r"(f)::"memory");
	return f;
}
static inline void write_flags(ulong f)
{
	__asm__ volatile("push %0; popf" ::"r"(f) : "memory", "cc");
}
static inline void invlpg(ulong va)
{
	__asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
}

/* Wait for @cond, about a second or two on any CPU; its last value. */
#define WAIT_CYCLES 4000000000ull
#define wait_for(cond)                                                                             \
	({                                                                                         \
		u64 t0_ = rdtsc();                                                                 \
		bool c_;                                                                           \
		while (!(c_ = (cond)) && rdtsc() - t0_ < WAIT_CYCLES)                              \
			pause();                                                                   \
		c_;                                                                                \
	})

/* ---- descriptors ---- */

#ifdef __x86_64__
struct tss {
	u32 reserved0;
	u64 rsp[3];
	u64 reserved1;
	u64 ist[7]; /* ist[0] is IST1 */
	u64 reserved2;
	u16 reserved3, iomap;
	u8 bitmap[8192 + 1]; /* all ones: no port allowed */
} __attribute__((packed));
#else
struct tss {
	u32 link, sp0, ss0, sp1, ss1, sp2, ss2, cr3, ip, flags, ax, cx, dx, bx, sp, bp, si, di;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, iomap;
	u8 bitmap[8192 + 1];
} __attribute__((packed));
#endif

struct dtable {
	u16 limit;
	ulong base;
} __attribute__((packed));

/* operand of a far jump or call with a 32-bit offset */
struct far {
	u32 off;
	u16 sel;
} __attribute__((packed));

struct gate {
	u16 off0, sel;
	u8 ist, type;
	u16 off1;
#ifdef __x86_64__
	u32 off2, reserved;
#endif
};

#define CPU_MAX 8
#define STACK_SIZE 16384
struct percpu {
	u64 gdt[GDT_LEN];
	struct tss tss;
	u8 stack[STACK_SIZE] __attribute__((aligned(16)));
	u8 trap_stack[STACK_SIZE] __attribute__((aligned(16))); /* from CPL 3 */
	u8 ist_stack[2][4096] __attribute__((aligned(16)));
	/* work for an AP */
	void (*volatile job)(void *arg);
	void *volatile arg;
	volatile bool online;
	volatile unsigned wakes;
};

extern struct percpu cpus[CPU_MAX];
extern struct gate idt[256];

unsigned cpu_id(void);		    /* APIC ID, which is the index in cpus[] */
void cpu_tables_load(unsigned cpu); /* GDT, IDT, TSS */
/** gdt_set() - descriptor for selector @sel; @access: P..type byte, @flags: G D/B L AVL nibble */
void gdt_set(unsigned cpu, unsigned sel, u32 base, u32 limit, u8 access, u8 flags);
void idt_set(unsigned vector, void *fn, unsigned dpl, unsigned ist);
/** idt_default() - restore the runtime's gate */
void idt_default(unsigned vector);
#ifdef __x86_64__
/** trap_ist() - exceptions on a stack of their own (IST1), for tests with a bad RSP */
void trap_ist(bool on);
#endif

/** fpu_on() - enable SSE and all states of XCR0 up to AVX that there are, as kernels do, on this
 * CPU */
void fpu_on(void);

/**
 * user_run() - run @fn at CPL 3 (code in .user.text) with @a, @b in rdi, rsi (edi, esi) and
 * the flags @flags until any exception or `int V_USER_RET`; trap says which.
 * Return: rax at that moment.
 */
ulong user_run(const void *fn, ulong a, ulong b);
ulong user_run_flags(const void *fn, ulong a, ulong b, ulong flags);
#define USTACK_SIZE 8192
extern u8 user_stack[USTACK_SIZE];
#ifdef __x86_64__
/** user32_run() - the same with 32-bit code in a 64-bit program */
ulong user32_run(const void *fn, ulong a, ulong b, ulong flags);
/** real_call() - run the 16-bit code at @fn (in .low, CS = DS = ES = SS = 0) in real mode; it ends
 * with retl */
void real_call(const void *fn);
#endif

/* ---- local APIC ---- */
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3e0

u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 v);
void apic_icr(u32 dest, u32 low); /* waits for delivery in xAPIC mode */
void apic_on(void);		  /* software enable, spurious vector 0xff, all LVT masked */
void apic_x2(void);		  /* to x2APIC mode (no way back without a reset) */
static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}
/** apic_bit() - bit of @vector in the 256-bit register at @reg */
static inline bool apic_bit(u32 reg, unsigned vector)
{
	return apic_read(reg + vector / 32 * 16) >> (vector % 32) & 1;
}

u32 ioapic_read(u32 reg);
void ioapic_write(u32 reg, u32 v);
/** ioapic_set() - redirection entry of @pin: low word @low, to APIC ID @dest */
void ioapic_set(unsigned pin, u32 low, u32 dest);
void pic_mask_all(void);

/* ---- several CPUs ---- */
#define V_WAKE 0xf0
/** smp_start() - start the other cpu_count - 1 CPUs; Return: how many run, with this one */
unsigned smp_start(void);
/** smp_run() - run @fn on @cpu; returns at once, smp_wait() waits (false: it never ended) */
void smp_run(unsigned cpu, void (*fn)(void *arg), void *arg);
bool smp_wait(unsigned cpu);

#endif
