/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bt, the same-ISA binary translator: what its files share.
 *
 * Theory of operation
 *
 * Guest code runs as translated blocks on the vCPU's own host thread. While a
 * block runs, guest general registers live in host registers (see the map in
 * emit.h), arithmetic flags in EFLAGS, x87/SSE/AVX state in the host's, and rsp
 * and gs point to struct bt_cpu. Register-only instructions are copied, memory
 * operands go through a software TLB whose hit path is inline. Everything
 * else leaves the block for C: bt_run() in run.c calls the handler and finds
 * the next block.
 *
 * Invariants
 * 1. Outside translated code st.regs, st.rip and st.rflags are complete.
 * 2. C code of this folder never touches vector or x87 registers (it is built
 *    with -mgeneral-regs-only and calls no libc function that might) unless it
 *    called bt_fpu_park() before. What is called outside (devices, the
 *    log) is called with the state parked.
 * 3. An exception raised by bt_raise() finds st as it was before the
 *    instruction: handlers commit registers only after their last access that can fault.
 * 4. key is a function of st; whoever changes a control register, a segment,
 *    CPL, AC or TF in st calls bt_update_key() before the next block.
 *
 * Threads: a struct bt_cpu belongs to its vCPU's thread, but for `pending`
 * and what the comments name. The code cache is shared under vm->lock.
 */
#ifndef EYOT_ACCEL_BT_BT_H
#define EYOT_ACCEL_BT_BT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "accel/accel.h"
#include "accel/bt/decode.h"
#include "hw/lapic.h"
#include "vm/vcpu_state.h"

/* ---- architectural constants ---- */

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_TS (1ull << 3)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_AM (1ull << 18)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)

#define CR4_VME (1ull << 0)
#define CR4_PVI (1ull << 1)
#define CR4_TSD (1ull << 2)
#define CR4_DE (1ull << 3)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_PCE (1ull << 8)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_UMIP (1ull << 11)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_PCIDE (1ull << 17)
#define CR4_OSXSAVE (1ull << 18)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)

#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define FL_FIXED 0x2u
#define FL_TF (1u << 8)
#define FL_IF (1u << 9)
#define FL_DF (1u << 10)
#define FL_IOPL (3u << 12)
#define FL_NT (1u << 14)
#define FL_RF (1u << 16)
#define FL_VM (1u << 17)
#define FL_AC (1u << 18)
#define FL_VIF (1u << 19)
#define FL_VIP (1u << 20)
#define FL_ID (1u << 21)

enum {
	VEC_DE = 0,
	VEC_DB,
	VEC_NMI,
	VEC_BP,
	VEC_OF,
	VEC_BR,
	VEC_UD,
	VEC_NM,
	VEC_DF,
	VEC_TS = 10,
	VEC_NP,
	VEC_SS,
	VEC_GP,
	VEC_PF,
	VEC_MF = 16,
	VEC_AC,
	VEC_MC,
	VEC_XM
};

#define PF_ERR_P 1u
#define PF_ERR_W 2u
#define PF_ERR_U 4u
#define PF_ERR_RSVD 8u
#define PF_ERR_I 16u

/* ---- mode key: what a block's translation depends on besides its bytes ---- */

#define KEY_MODE_MASK 3u     /* enum insn_mode */
#define KEY_USER (1u << 2)   /* CPL 3 */
#define KEY_AC (1u << 3)     /* supervisor may touch user pages (SMAP off or EFLAGS.AC) */
#define KEY_SS32 (1u << 4)   /* stack size 32 (outside 64-bit mode) */
#define KEY_SEGS (1u << 5)   /* es, ss or ds is not flat (outside 64-bit mode) */
#define KEY_CS (1u << 6)     /* cs is not flat (outside 64-bit mode) */
#define KEY_FPU (1u << 7)    /* FPU/SSE/AVX not plainly usable: check each such instruction */
#define KEY_ONE (1u << 8)    /* one instruction a block: single step, interrupt shadow */
#define KEY_INNER (1u << 11) /* CPL 1 or 2 */
#define KEY_EXACT                                                                                  \
	(1u << 12) /* exact flags, as code that may overwrite itself needs; never in cpu->key */
#define KEY_PLAIN                                                                                  \
	(1u << 10) /* variant of a block without groups; never in cpu->key (see translate.c) */
#define KEY_WINDOW                                                                                 \
	(1u << 13) /* the address space has a window, see window.h; only with MODE_64 | KEY_USER   \
		    */
#define KEY_ALIGN (1u << 9) /* alignment checking is on: every access takes the slow path */

/* ---- software TLB ---- */

#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_INDEX_SHIFT                                                                            \
	(PAGE_SHIFT - 2) /* an index in translated code is four times the entry's number */
#define TLB_FRESH 256
#define TLB_STATICS 512
#define TLB_STATIC_BYTES 64
#define TLB_STATIC_NONE 0x8000000000000001ull
#define TLB_STACK_SIZES 3 /* of accesses: up to 64, 256 and 1024 bytes */
enum { TLB_USER, TLB_KERNEL, TLB_KERNEL_AC, TLB_CLASSES };

/*
 * An entry hits when (address ^ tag) <= 4096 - size: same page, not crossing
 * its end; then host[] + (address ^ tag) is the host address. An invalid tag
 * has other index bits than its slot, so it can never match.
 */
struct bt_tlb {
	struct bt_tlb_entry {
		uint64_t read;	 /* page-aligned linear address */
		uint64_t write;	 /* only when writable, dirty, RAM and without translated code */
		uint64_t host;	 /* host address of the page */
		uint64_t global; /* C only */
	} at[TLB_SIZE] __attribute__((aligned(64))); /* so that one touches one cache line */
	/*
	 * The page that the stack pointer pointed to lately, if its write tag stands: an access of
	 * up to N bytes is there when (address ^ stack_tag) < stack_limit[] of the size that N fits
	 * in. All limits are 0 when there is no such page.
	 */
	uint64_t stack_tag, stack_host;
	uint64_t stack_limit[TLB_STACK_SIZES];
	/*
	 * Addresses that an instruction has for itself (relative to rip, or a constant from fs or
	 * gs), for reads and for writes: host[] is good for TLB_STATIC_BYTES from the address on.
	 * TLB_STATIC_NONE in empty ones, which no such address can be.
	 */
	uint64_t static_la[2][TLB_STATICS], static_host[2][TLB_STATICS];
	uint32_t static_used, static_low; /* some are not empty; some in the lower half */
	uint64_t large_lo,
	    large_hi; /* C only: all large pages that entries were made of lie in [lo, hi) */
	/*
	 * C only: slots filled since the last flush whose entries MOV CR3 drops; when they are more
	 * than fit, all slots are looked at.
	 */
	unsigned fresh_count;
	uint16_t fresh[TLB_FRESH];
};

/*
 * ---- jump cache: guest rip to translated block, one table per class of key ----
 *
 * Two-way: an entry stands in its place or, when a newer one took that, in the place beside it
 * (the other of a pair), never in both. Jumps look at the place, the miss stub at its neighbour.
 *
 * The place depends on the class's generation: rip's hash plus jc_gen. So entries of another
 * generation are never found, as long as the two differ modulo the table's size, and a table is
 * emptied by counting the generation up; only when that comes round is it really emptied.
 */

#define JC_BITS 15
#define JC_SIZE (1u << JC_BITS)
#define JC_MASK                                                                                    \
	(2 * JC_SIZE -                                                                             \
	 2)		/* of an index: twice the number of the place, as the scale of 8 needs it */
#define JC_GENERATION 4 /* keeps pairs together */
#define JC_PAGES 32768
#define FIND_SIZE 32768
enum { JC_KERNEL, JC_KERNEL_AC, JC_USER64, JC_USER32, JC_WINDOW, JC_OTHER, JC_CLASSES };
#define JC_USER_CLASSES (1u << JC_USER64 | 1u << JC_USER32 | 1u << JC_WINDOW)

/* Which virtual pages entries stand on, hashed to one bit each, so that dropping a page of data
 * costs them nothing. */
struct bt_jc_pages {
	uint64_t bits[JC_PAGES / 64];
};

#define SPACES 8 /* Linux uses six PCIDs */
#define SPACE_NONE (~0ull)

struct bt_jc {
	struct {
		void *code; /* entry that checks rip; empty places go to the miss stub */
		uint64_t rip;
	} at[JC_SIZE];
};

/* Instruction translations of C code, indexed by page. */
#define ITLB_SIZE 64
struct bt_itlb {
	uint64_t la, gpa; /* pages; la of an empty entry is ~0 */
	const uint8_t *host;
	bool global, writable;
};

struct bt_block;
struct bt_vm;
struct bt_window;

#define EXIT_KINDS 5 /* of enum bt_exit_kind */

#define BT_GROUP_SLOTS 6
#define BT_WINDOWS 4 /* of a VM */

struct bt_cpu {
	/* What translated code needs most, in its 128 bytes; see emit.h. */
	uint64_t home[3];   /* r10, r11, r15 while translated code runs; else in st.regs */
	uint64_t vbase;	    /* rip of the start of the page being executed */
	uint64_t flag_slot; /* arithmetic flags set aside: lahf in bits 8-15, OF in bit 0 */
	atomic_uint
	    pending; /* PENDING_*: leave translated code at the next poll; any thread sets */
	uint32_t irq_waiting;		/* an interrupt waits for IF */
	uint64_t group[BT_GROUP_SLOTS]; /* host addresses of access groups, within one block */
	uint64_t spill[4];

	struct vcpu_state st;
	uint64_t arg[4]; /* operands of slow paths */
	uint32_t key;
	uint64_t tsc_offset; /* guest TSC = host TSC + offset */
	uint64_t host_rsp;
	uint64_t host_fs;     /* fs base of C code on this thread */
	uint64_t window_base; /* fs base of translated code with KEY_WINDOW */
	uint64_t window_mask; /* WINDOW_MASK */
	uint64_t window_low;  /* what to add to addresses in the window's lower part */
	uint64_t exit_info;   /* why and where translated code was left */
	uint8_t bounce[8192] __attribute__((
	    aligned(4096))); /* stands in for memory that has no plain host address */
	struct bt_tlb tlb[TLB_CLASSES];
	struct bt_jc jc[JC_CLASSES];
	uint32_t jc_gen[JC_CLASSES];

	/* C only */
	struct bt_itlb itlb[2][ITLB_SIZE];     /* by CPL 3 or not */
	uint64_t itlb_large_lo, itlb_large_hi; /* as in struct bt_tlb */
	/*
	 * Address spaces whose user entries in the jump caches are still good: what MOV CR3 with
	 * PCID and without flushing goes back to. The present one's generations are in jc_gen[];
	 * jc_last is the newest.
	 */
	struct bt_space {
		uint64_t cr3;		  /* with the PCID; SPACE_NONE in free ones */
		uint32_t gen[JC_CLASSES]; /* of the user classes, while it is not the present one */
		struct bt_jc_pages pages;
		struct bt_window *window;	  /* or NULL */
		uint64_t window_base, window_low; /* its parts' distances */
		bool window_on;			  /* it is in use */
		bool window_stale;		  /* and must be looked at before */
		struct bt_heat {
			int credit;	  /* what its window may cost now */
			unsigned flushes; /* since the last look */
		} heat;
	} spaces[SPACES];
	unsigned space, space_next; /* the present one; the next to be given up */
	uint32_t jc_last[JC_CLASSES];
	bool jc_user_global; /* some user entry stands on a global page */
	bool jc_kernel_low;  /* some other entry stands in the lower half */
	struct bt_jc_pages jc_kernel_pages;
	struct bt_find {
		uint64_t gpa_key; /* gpa << 16 | key */
		struct bt_block *block;
	} find[FIND_SIZE]; /* blocks lately looked up; emptied when the code cache starts anew */
	unsigned jc_used,
	    jc_nonglobal; /* bit per class: has entries, has some of pages that are not global */
	uint32_t jc_other_key; /* the key whose entries JC_OTHER holds */
	atomic_bool in_code;   /* not at a safe point: an exclusive section waits */
	struct bt_vm *vm;
	unsigned index;
	struct lapic *lapic;
	uint32_t cpl;	 /* = st.segs[SEG_SS] DPL; always up to date */
	bool fpu_parked; /* FPU state is in st.xsave, not in the hardware */
	bool int_shadow; /* sti or mov ss came just before: one instruction without interrupts */
	bool halted, wait_sipi, nmi_masked, nmi_pending;
	int16_t
	    taken; /* an interrupt that came taken with loaded state, to be delivered; -1: none */
	atomic_bool unhalt; /* another vCPU's hypercall ends the halt, or the next one */
	uint8_t no_step;    /* NO_STEP_*: why no debug trap follows this instruction */
	uint8_t watch_hits; /* data breakpoints that the instruction about to run will hit */
	uint8_t watch_held; /* and those of a load of SS before it */

	/* exception in flight, see bt_raise() */
	struct {
		bool valid, has_error, soft; /* soft: INT n, INT3, INTO, INT1: checks the gate's
						DPL, pushes next rip */
		uint8_t vector;
		uint32_t error;
		uint64_t next_rip; /* soft: rip to push */
		uint64_t cr2, dr6; /* #PF, #DB: committed when delivered */
	} exc;
	int delivering; /* vector being delivered: a fault meanwhile may become #DF; -1: none */
	void *jmp[5];	/* __builtin_setjmp buffer of bt_run() */

	struct vcpu_exit *exit;
	bool exit_wanted; /* leave bt_run() with *exit filled */
	atomic_bool kicked, asleep;

	/* sleeping and timer */
	atomic_uint futex;
	timer_t timer;
	bool timer_made;
	uint64_t timer_deadline_ns; /* armed LAPIC deadline, CLOCK_MONOTONIC; 0: none */

	/* slow memory path in progress: what commit has to write back */
	struct {
		uint64_t la, la2; /* guest physical addresses of the first and, across a page end,
				     the second part */
		uint32_t first;	  /* bytes of the first part */
		bool bounced, code;
	} slow;
	void *translator;		     /* scratch memory of bt_translate() */
	struct bt_block *resume;	     /* enter this one next, not what the jump cache says */
	uint64_t resume_flushes, resume_rip; /* valid while no flush came, at this rip */
	const struct lapic_ops *lapic_ops;
	unsigned signal_vector;	     /* exception that a host signal stands for */
	struct bt_exit *commit_exit; /* scratch: how bt_slow_commit() leaves an overwritten block */

	uint64_t stat_exits[EXIT_KINDS], stat_tlb_fills, stat_tlb_flushes, stat_jc_clears,
	    stat_mmio, stat_window_maps, stat_window_steps, stat_window_drops, stat_windows;
	uint64_t window_tick; /* CLOCK_MONOTONIC at the last look at the heat */
	struct {
		uint64_t pc, page[2];
		unsigned count;
	} window_turns;	     /* the last faults of one host instruction */
	bool step, stepping; /* the next instruction, this one, runs without it */
	struct {
		uint64_t la, cr3; /* la 0: none */
		uint32_t error;
		bool write;
	} window_pf; /* the last that an access to the window led to, until it has been mapped */
};

enum {
	PENDING_EVENT = 1, /* look at the local APIC, kicks and timers */
	PENDING_TIMER = 2, /* the timer signal came */
	PENDING_FLUSH = 4, /* code cache was flushed: jump caches are stale */
	PENDING_TLB = 8	   /* another vCPU put code on a page: write tags are stale */
};

struct bt_cache;
struct ioapic;
struct pic;

struct bt_vm {
	struct guest_mem *mem;
	struct bus *pio, *mmio;
	unsigned count;
	struct cpu_id cpu;	       /* what the guest is shown; by bt_cpu_show() */
	uint64_t xcr0_max, cr4_vector; /* XCR0, and bits of CR4, with all vector units of that on */
	struct bt_cpu *cpus[64];
	struct lapic_set *lapics;
	struct ioapic *ioapic;
	struct pic *pic;
	pthread_mutex_t lock;	   /* code cache and block tables */
	pthread_mutex_t exclusive; /* held by the vCPU that made all others stop; before lock */
	atomic_bool stopping;
	struct bt_cache *cache;
	atomic_uint unsupported; /* instructions met that have no handler, for the log */
	uint64_t tsc_khz;
	uint64_t stopped_tsc, stopped_ns; /* the host's, since when guest time stands; 0: it runs */
	uint64_t clock_tsc,
	    clock_ns;	      /* kvm-clock showed clock_ns when the guest's TSC was clock_tsc */
	bool clock_loaded;    /* clock_ns came with loaded state and waits for its TSC */
	bool opt_exact_flags; /* debug: flags are kept exact even where they are dead */
	bool opt_nolink, opt_nogroup, opt_noside, opt_nofast, opt_stats;
	bool opt_window, opt_nowindow; /* windows for all address spaces at once, for none */
	struct bt_window *windows[BT_WINDOWS];
	bool membarrier; /* the host has it, see own_page() */
};

/* ---- run.c ---- */

/**
 * bt_raise() - raise an exception at the current instruction (st.rip)
 * Does not return; unwinds to bt_run(), which delivers it.
 */
_Noreturn void bt_raise(struct bt_cpu *cpu, unsigned vector);
_Noreturn void bt_raise_err(struct bt_cpu *cpu, unsigned vector, uint32_t error);
_Noreturn void bt_raise_pf(struct bt_cpu *cpu, uint64_t la, uint32_t error);

/** bt_fail() - the accelerator cannot go on (VCPU_EXIT_ERROR, or triple fault with @reason given);
 * does not return */
_Noreturn void bt_fail(struct bt_cpu *cpu, enum vcpu_exit_reason reason, const char *text);

/* Move the FPU/SSE/AVX state out of the hardware (C code may use it), or back. Cheap when already
 * there. */
void bt_fpu_park(struct bt_cpu *cpu);
void bt_fpu_unpark(struct bt_cpu *cpu);

/* Port I/O and TSC for handlers: park the FPU and call the bus. */
uint64_t bt_pio_read(struct bt_cpu *cpu, uint16_t port, unsigned size);
void bt_pio_write(struct bt_cpu *cpu, uint16_t port, unsigned size, uint64_t val);
uint64_t bt_guest_tsc(struct bt_cpu *cpu);
uint64_t bt_clock_ns(struct bt_cpu *cpu); /* kvm-clock now */
void bt_clock_loaded(
    struct bt_cpu *cpu); /* its state was set: bring what guest memory holds of it up to date */

/* ---- mmu.c: linear and physical memory for C code ---- */

enum bt_kind {
	BT_CPL,	  /* as the current privilege level */
	BT_SUPER, /* implicit supervisor access (descriptor tables, TSS, interrupt stacks of CPL
		     0..2) */
};

/*
 * Read or write 1, 2, 4 or 8 bytes at a linear address; raises #PF (or #GP(0) when
 * not canonical; bt_ld_seg picks #SS for stack). Handles page crossing, MMIO and code pages.
 */
uint64_t bt_ld(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind);
void bt_st(struct bt_cpu *cpu, uint64_t la, unsigned size, uint64_t val, enum bt_kind kind);

/* Raise what a read or write of [@la, @la+@size) would raise (size up to 4096), without accessing
 * it. */
void bt_probe_read(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind);
void bt_probe_write(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind);

/* Any length; all-or-nothing: the whole range is probed before a byte moves. */
void bt_ld_bytes(struct bt_cpu *cpu, uint64_t la, void *dst, unsigned len, enum bt_kind kind);
void bt_st_bytes(struct bt_cpu *cpu, uint64_t la, const void *src, unsigned len, enum bt_kind kind);

/**
 * bt_host_ptr() - plain host address for string operations
 * @write: for writing; pages with translated code are left to bt_st()
 * Return: host address valid to the end of @la's page, or NULL (MMIO, code page). Raises like
 * bt_ld.
 */
void *bt_host_ptr(struct bt_cpu *cpu, uint64_t la, bool write, enum bt_kind kind);

/*
 * Segmented access: limit, type and canonical checks, raising #GP(0)/#SS(0), then the linear
 * address (wrapped to 32 bits outside 64-bit mode). @write for the type check.
 */
uint64_t bt_seg_linear(struct bt_cpu *cpu, unsigned seg, uint64_t off, unsigned size, bool write);

/* Effective address of @in's memory operand (offset within its segment, truncated to the address
 * size). */
uint64_t bt_effective(struct bt_cpu *cpu, const struct insn *in);

/* Both: linear address of @in's memory operand, checked for @size bytes. */
uint64_t bt_operand(struct bt_cpu *cpu, const struct insn *in, unsigned size, bool write);

/* Flushes, as the architecture names them. */
void bt_tlb_flush_all(struct bt_cpu *cpu); /* global pages too */
void bt_tlb_flush_nonglobal(
    struct bt_cpu *cpu); /* INVPCID of types 1 and 3, as if for all spaces */

/** bt_set_cr3() - MOV CR3: change st.cr3; @keep: with PCID and bit 63, which keeps what was cached
 */
void bt_set_cr3(struct bt_cpu *cpu, uint64_t cr3, bool keep);
void bt_forget_space(struct bt_cpu *cpu, unsigned pcid); /* INVPCID of another space */
void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la);

/* Guest physical memory for C code; MMIO and holes read as all ones. */
uint64_t bt_phys_ld(struct bt_cpu *cpu, uint64_t gpa, unsigned size);
void bt_phys_st(struct bt_cpu *cpu, uint64_t gpa, unsigned size,
		uint64_t val); /* keeps code coherent */

/** bt_jc_clear() - empty the jump caches of the classes in @mask (bit per JC_*) */
void bt_jc_clear(struct bt_cpu *cpu, unsigned mask);
void bt_jc_forget(struct bt_cpu *cpu); /* all of them, pointers into the code cache included */

/* ---- sys*.c: system instructions, exceptions, segments, MSRs, CPUID ---- */

/**
 * bt_sys_insn() - execute an instruction that is not translated inline
 * On entry st.rip is the instruction's address. On return st.rip is the next to execute and key
 * is up to date. Raises exceptions with nothing committed (but for REP's completed iterations).
 */
void bt_sys_insn(struct bt_cpu *cpu, const struct insn *in);

/** bt_fpu_check() - raise #UD/#NM when @in's unit is not usable now (for KEY_FPU) */
void bt_fpu_check(struct bt_cpu *cpu, const struct insn *in);

/** bt_insn_hidden() - whether the guest's CPUID hides the feature @in needs (then it is #UD) */
bool bt_insn_hidden(const struct bt_vm *vm, const struct insn *in);

/** bt_host_has() - whether the host has a feature (FEAT_*) and the guest may see it; after
 * bt_cpuid_init() */
bool bt_host_has(unsigned feature);

/** bt_deliver() - deliver cpu->exc (already taken by the caller into its fields) through the IDT;
 * may raise again */
void bt_deliver_exception(struct bt_cpu *cpu);
void bt_deliver_interrupt(struct bt_cpu *cpu, unsigned vector); /* external interrupt or NMI */

/** bt_debug_check() - after an instruction with TF set or breakpoints armed: raise #DB as needed */
void bt_debug_after(struct bt_cpu *cpu, bool tf_before);
bool bt_debug_code(struct bt_cpu *cpu,
		   uint64_t la); /* instruction breakpoint at la: raises #DB (honours RF) */

void bt_cpu_reset(struct bt_cpu *cpu, bool init); /* power-on or INIT state; also the local APIC */
void bt_cpu_sipi(struct bt_cpu *cpu, uint8_t vector);
void bt_take_messages(struct bt_cpu *cpu); /* act on INIT, start-up and NMI messages */
void bt_update_key(struct bt_cpu *cpu);
void bt_cpuid(struct bt_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
int bt_cpuid_init(struct err *err); /* once: what the host has */

/** bt_cpu_offer() - the most that a guest can be shown; after bt_cpuid_init() */
void bt_cpu_offer(struct cpu_id *ret_id);

/** bt_cpu_show() - make it the guest's CPU; no vCPU runs */
void bt_cpu_show(struct bt_vm *vm, const struct cpu_id *id);

static inline unsigned bt_tlb_class(const struct bt_cpu *cpu, enum bt_kind kind)
{
	if (kind == BT_CPL && cpu->cpl == 3)
		return TLB_USER;
	if (kind == BT_SUPER)
		return (cpu->st.cr4 & CR4_SMAP) ? TLB_KERNEL : TLB_KERNEL_AC;
	return (cpu->key & KEY_AC) ? TLB_KERNEL_AC : TLB_KERNEL;
}

static inline bool bt_long_mode(const struct bt_cpu *cpu)
{
	return cpu->st.efer & EFER_LMA;
}

static inline bool bt_64bit(const struct bt_cpu *cpu)
{
	return (cpu->st.efer & EFER_LMA) && (cpu->st.segs[SEG_CS].attr & SEG_ATTR_L);
}

/** bt_next_rip() - address after @in, wrapped to the code size */
static inline uint64_t bt_next_rip(const struct bt_cpu *cpu, const struct insn *in)
{
	uint64_t rip = cpu->st.rip + in->len;

	if (bt_64bit(cpu))
		return rip;
	return (cpu->st.segs[SEG_CS].attr & SEG_ATTR_DB) ? (uint32_t)rip : (uint16_t)rip;
}

/* Memory routines that leave vector registers alone. */
static inline void bt_copy(void *dst, const void *src, uint64_t len)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static inline void bt_fill(void *dst, uint8_t byte, uint64_t len)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(byte) : "memory");
}

#endif
