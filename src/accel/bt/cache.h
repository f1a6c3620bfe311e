/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code cache: translated blocks, found by guest physical address and mode key.
 *
 * Memory: one executable region, its first part hot code, its last part cold
 * code (slow paths and exits), and one arena of records. All grow only; when
 * one is full everything is thrown away (bt_cache_flush), with all vCPUs out
 * of translated code. An invalidated block keeps its memory until then, so a
 * vCPU that is inside runs on to its end; nothing leads into it any more.
 *
 * Coherence: guest_mem.code_map has a byte per guest page, nonzero while
 * blocks stand on it. Whoever writes guest memory either knows that the byte
 * is zero by a write tag in its TLB (cleared before the byte is set, see
 * bt_cache_own_page) or calls bt_cache_written() after the write.
 *
 * Locking: everything here under vm->lock, but for what run.c and translated
 * code read: an entry's code, and the patched jumps, which change by single aligned stores.
 */
#ifndef EYOT_ACCEL_BT_CACHE_H
#define EYOT_ACCEL_BT_CACHE_H

#include "accel/bt/bt.h"

enum bt_exit_kind {
	EXIT_DIRECT,   /* to .target_off in the same page; its jump can be patched */
	EXIT_INDIRECT, /* arg[0] holds the guest rip */
	EXIT_SYS,      /* .insn at .guest_off needs bt_sys_insn() */
	EXIT_NEXT,     /* go on at .target_off, never linked (KEY_ONE) */
	EXIT_POLL,     /* as EXIT_NEXT, left because something is pending */
};

/* Where the arithmetic flags are, at some point of translated code. */
enum flags_at {
	FLAGS_HW,   /* EFLAGS */
	FLAGS_SLOT, /* cpu->flag_slot */
	FLAGS_DEAD, /* nothing reads them before they are set again */
	FLAGS_PLACES
};

/* A way out of a block; translated code hands its address to C. */
struct bt_exit {
	uint8_t kind;
	uint8_t flags;	   /* enum flags_at */
	int16_t guest_off; /* of the instruction, from the start of the block's page */
	int32_t target_off;
	uint32_t key_bits; /* EXIT_DIRECT: added to the key to find the target */
	uint32_t patch;	   /* rel32 field, as an offset in the cache; 0: not linkable */
	uint32_t stub;	   /* where the field points while unlinked */
	union {
		struct bt_block *target; /* linked to */
		const struct insn *insn; /* EXIT_SYS */
	};
	struct bt_block *from;
	struct bt_exit *next_in;  /* of target's incoming list */
	struct bt_exit *next_out; /* of from's linkable exits */
};

/* A memory access of a block, for its slow path. */
struct bt_access {
	struct bt_block *block;
	const struct insn *insn; /* for FPU checks; else NULL */
	uint16_t size;
	int16_t guest_off,
	    next_off; /* of the instruction and the one after, from the start of the page */
	uint8_t write : 2, seg : 3;
	bool flags_in_slot : 1, next_flags_in_slot : 1;
	bool aligned : 1; /* raises #GP when not aligned to its size */
	bool waits : 1;	  /* a pending x87 exception comes first */
	bool to_end : 1;  /* even if the block was overwritten: its end is next */
};

/* A host instruction that may raise a signal, by its address. */
struct bt_fault_site {
	uint32_t host_off; /* from the cache's start */
	int16_t guest_off;
	bool flags_in_slot;
	bool window; /* an access to the window */
};

/* Host addresses are offsets from the cache's start. */
struct bt_block {
	uint64_t gpa,
	    gpa2; /* start; page of the second part of a page-crossing instruction, else 0 */
	uint32_t entry[FLAGS_PLACES]; /* by where the flags are */
	uint32_t
	    jc_entry; /* rip in T0, jump cache index in T1, flags in the slot; 8-byte aligned */
	uint32_t hot_end, cold_end;
	uint16_t key, size, page_off;
	bool valid;
	uint8_t fault_count;
	struct bt_exit *outs; /* linkable exits */
	struct bt_exit *in;   /* exits linked to this block */
	struct bt_block *hash_next, *page_next, *page2_next;
	struct bt_fault_site *faults;
};

/* Ways between C and translated code. */
struct bt_ways {
	/* C calls these */
	const struct bt_exit *(*enter_jc)(struct bt_cpu *cpu, const void *code, uint64_t index);
	const struct bt_exit *(*enter_at)(struct bt_cpu *cpu, const void *code);
	/* translated code jumps or calls these */
	const uint8_t *exit_hw, *exit_slot; /* T1: struct bt_exit */
	const uint8_t *jc_exit;		    /* T0: guest rip; flags in the slot */
	const uint8_t *slow, *commit;	    /* called; T0: address, T1: struct bt_access */
	const uint8_t *seg, *check;
};

struct bt_stubs {
	struct bt_ways ways[2];		    /* [1]: for code with KEY_WINDOW; they change fs, too */
	const uint8_t *jc_miss[JC_CLASSES]; /* T0: guest rip, T1: index that missed; looks beside
					       it, then leaves */
	const uint8_t
	    *stack_page[TLB_CLASSES]; /* called; T1: TLB index of a write tag that hit; keeps T0 */
	const uint8_t *landing;	      /* where the signal handler sends a faulting thread */
};

/* Bounds of one block: host code, slow paths, records. tests/fuzz/fuzz_bt_translate.c holds them.
 */
#define HOT_MAX (64u << 10)
#define COLD_MAX (64u << 10)
#define ARENA_MAX (32u << 10)

#define BT_HASH_BITS 18

struct bt_cache {
	uint8_t *base;
	size_t size, hot_size;
	uint8_t *hot, *cold; /* next free */
	uint8_t *hot_start, *cold_start;
	uint8_t *arena;
	size_t arena_size, arena_used;
	struct bt_block **blocks; /* in order of creation: hot and cold addresses ascend */
	unsigned block_count, block_cap;
	struct bt_block *hash[1 << BT_HASH_BITS];
	struct bt_block **page_blocks; /* first block on each guest page, by RAM page number */
	size_t page_count;
	struct bt_stubs stubs;
	struct bt_exit miss_exit;
	bool rorx;		   /* the host has BMI2 */
	uint64_t window_low[1024]; /* instructions whose address was in a window's lower part,
				      hashed to a bit each: a guess for translation */
	uint64_t stat_blocks, stat_flushes, stat_invalidated, stat_guest_bytes;
};

int bt_cache_new(struct bt_vm *vm, size_t bytes, struct err *err);
void bt_cache_free(struct bt_vm *vm);

/** bt_cache_alloc() - zeroed record memory, 8-byte aligned; the caller made sure there is room */
void *bt_cache_alloc(struct bt_cache *c, size_t size);

/** bt_cache_room() - whether the largest possible block still fits */
bool bt_cache_room(const struct bt_cache *c);

struct bt_block *bt_cache_find(struct bt_vm *vm, uint64_t gpa, uint64_t gpa2, uint32_t key);
void bt_cache_insert(struct bt_vm *vm, struct bt_block *b);
void bt_cache_link(struct bt_cache *c, struct bt_exit *e, struct bt_block *target);

/** bt_cache_drop() - drop one block; under vm->lock */
void bt_cache_drop(struct bt_vm *vm, struct bt_block *b);

/** bt_cache_flush() - drop all blocks; only inside bt_exclusive_begin/end, with vm->lock */
void bt_cache_flush(struct bt_vm *vm);

/** bt_cache_written() - guest memory was written: drop the blocks on [@gpa, @gpa+@len); takes
 * vm->lock */
void bt_cache_written(struct bt_vm *vm, uint64_t gpa, uint64_t len);

/** bt_window_hint() - the bit of window_low[] for an instruction */
static inline uint64_t *bt_window_hint(struct bt_cache *c, uint64_t gpa, uint64_t *ret_bit)
{
	uint64_t n = gpa ^ gpa >> 16;

	*ret_bit = 1ull << (n & 63);
	return &c->window_low[n / 64 % 1024];
}

struct bt_block *bt_cache_block_at(struct bt_cache *c, const uint8_t *host_pc);
const struct bt_fault_site *bt_cache_fault_site(struct bt_cache *c, const struct bt_block *b,
						const uint8_t *host_pc);

/** ram_page() - RAM page number of @gpa for page_blocks and code_map; -1 when not RAM */
static inline int64_t ram_page(const struct guest_mem *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < mem->slot_count; i++) {
		const struct mem_slot *s = &mem->slots[i];

		if (gpa - s->gpa < s->size)
			return (s->fd_offset + (gpa - s->gpa)) >> PAGE_SHIFT;
	}
	return -1;
}

/* stubs.c */
void bt_stubs_make(struct bt_vm *vm);

/* translate.c */
/**
 * bt_translate() - translate the block at st.rip
 * @key: cpu->key, perhaps with KEY_PLAIN and KEY_EXACT
 * @gpa: physical address of the first byte; @code: its host bytes to the page's end (@avail of
 * them)
 * @code2, @gpa2: the following page, NULL/0 when it is not mapped
 *
 * vm->lock is held and there is room. Return: the block, not yet inserted.
 */
struct bt_block *bt_translate(struct bt_cpu *cpu, uint32_t key, uint64_t gpa, const uint8_t *code,
			      unsigned avail, const uint8_t *code2, uint64_t gpa2);

size_t bt_translator_size(void); /* of a vCPU's scratch memory for it */

/* mmu.c, for slow.c and tlb.c */
uint8_t *bt_ram_host(struct bt_cpu *cpu, uint64_t gpa);
bool bt_is_code(struct bt_cpu *cpu, uint64_t gpa);
bool bt_has_ram(struct bt_cpu *cpu, uint64_t gpa);
uint64_t bt_page_in(struct bt_cpu *cpu, uint64_t la, bool write, enum bt_kind kind);
void bt_check_canonical(struct bt_cpu *cpu, uint64_t la, unsigned size, bool stack);
void bt_phys_move(struct bt_cpu *cpu, uint64_t gpa, uint8_t *buf, unsigned len, bool write);

/* What a walk of the page tables finds; mmu.c */
struct bt_walk {
	uint64_t gpa;	/* of the byte */
	bool write;	/* a write would be allowed and D is set */
	bool may_write; /* the tables would allow one */
	bool global;
	uint64_t page_size;
};
/** bt_walk_user() - walk for an access of CPL 3, and set A and D; returns 0, or #PF's error code
 * and bit 31 */
uint32_t bt_walk_user(struct bt_cpu *cpu, uint64_t la, bool write, struct bt_walk *w);
/** bt_walk_look() - the same for a read, but nonzero, too, where A is not set yet; sets nothing */
uint32_t bt_walk_look(struct bt_cpu *cpu, uint64_t la, struct bt_walk *w);

/* slow.c: called by translated code */
uint64_t bt_slow_access(struct bt_cpu *cpu, uint64_t la, const struct bt_access *a);
uint64_t bt_slow_commit(struct bt_cpu *cpu, const struct bt_access *a);
uint64_t bt_slow_seg(struct bt_cpu *cpu, uint64_t off, const struct bt_access *a);
uint64_t bt_slow_check(struct bt_cpu *cpu, uint64_t unused, const struct bt_access *a);

/* mmu.c: instruction fetch */
struct bt_fetch {
	uint64_t gpa;
	const uint8_t *host; /* NULL: not RAM */
	bool global;
	bool writable; /* through the same address */
};
/** bt_fetch_page() - translate @la for execution; raises #PF unless @quiet, then returns false */
bool bt_fetch_page(struct bt_cpu *cpu, uint64_t la, bool quiet, struct bt_fetch *f);

/* run.c, signals.c */
extern __thread struct bt_cpu *bt_self; /* the vCPU of this thread; NULL on others */
void bt_wake(struct bt_cpu *cpu, unsigned bits);
void bt_flags_from_slot(struct bt_cpu *cpu);
uint64_t bt_page_rip(struct bt_cpu *cpu, int32_t off);
void bt_run_loop(struct bt_cpu *cpu);
void bt_install_signals(void);
void bt_bind_thread(struct bt_cpu *cpu);
void bt_landing(void);
_Noreturn void bt_run_step(struct bt_cpu *cpu); /* the instruction at st.rip without a window */
void bt_exclusive_begin(struct bt_vm *vm, struct bt_cpu *self);
void bt_exclusive_end(struct bt_vm *vm);

static inline unsigned bt_jc_class(uint32_t key)
{
	switch (key & ~(KEY_PLAIN | KEY_EXACT)) {
	case MODE_64:
		return JC_KERNEL;
	case MODE_64 | KEY_AC:
		return JC_KERNEL_AC;
	case MODE_64 | KEY_USER:
		return JC_USER64;
	case MODE_64 | KEY_USER | KEY_WINDOW:
		return JC_WINDOW;
	case MODE_32 | KEY_USER | KEY_SS32:
		return JC_USER32;
	default:
		return JC_OTHER;
	}
}

/** bt_jc_pages() - of the user classes in the present space, or of the @others */
static inline struct bt_jc_pages *bt_jc_pages(struct bt_cpu *cpu, bool others)
{
	return others ? &cpu->jc_kernel_pages : &cpu->spaces[cpu->space].pages;
}

/** bt_jc_index() - twice the number of @rip's place; the same in tr_emit_jc_jump() */
static inline unsigned bt_jc_index(const struct bt_cpu *cpu, unsigned class, uint64_t rip)
{
	return ((uint32_t)rip + (uint32_t)(rip >> JC_BITS) + cpu->jc_gen[class]) & JC_MASK;
}

static inline unsigned bt_key_tlb(uint32_t key)
{
	return key & KEY_USER ? TLB_USER : key & KEY_AC ? TLB_KERNEL_AC : TLB_KERNEL;
}

#endif
