/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the block translator share; translate.c tells the theory. */
#ifndef EYOT_ACCEL_BT_TR_H
#define EYOT_ACCEL_BT_TR_H

#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

#define BLOCK_INSNS 48
#define BLOCK_SIDES 4
#define COLD_ENTRIES (BLOCK_INSNS * 2)
#define FAULT_ENTRIES (BLOCK_INSNS * 5)
#define GROUP_SPAN 1024 /* bytes that one group covers at most */
#define GROUP_REACH                                                                                \
	(1 << 30)   /* furthest displacement, so that sums of two and a span fit 32 bits */
#define GROUPS 16   /* looked at in one block; BT_GROUP_SLOTS of them are used */
#define BASE_RIP 16 /* pseudo register: rip-relative */

enum place { IN_BODY, IN_END, IN_SYS };

/* The operation at the end of a memory access; T0 holds the host address. */
enum mop {
	MOP_COPY,    /* the instruction itself */
	MOP_BITTEST, /* the instruction with its bit offset, reduced to the operand, in spill[1] */
	MOP_LOAD_T0, /* T0 <- [T0] */
	/* pushes: rsp goes down after the store, before a commit may leave the block */
	MOP_PUSH_REG,	/* [T0] <- guest register .arg */
	MOP_PUSH_IMM,	/* [T0] <- sign-extended .arg */
	MOP_PUSH_RIP,	/* [T0] <- rip of page offset .arg */
	MOP_PUSH_SPILL, /* [T0] <- spill[1] */
};

struct group {
	uint8_t base;
	bool write;
	int8_t slot; /* of cpu->group[]; -1: not worth it */
	unsigned version, count;
	int32_t lo, hi; /* from the base's value at its version's start */
};

/* An access as part of a group; up to two per instruction, in order of execution. */
struct member {
	int8_t group; /* -1: none */
	bool first;
	int32_t off;   /* from the group's lo */
	int32_t to_lo; /* what to add to the operand's displacement to get lo */
};

/* A conditional jump in the middle of a block, whose way out stands behind the block's code. */
struct side {
	uint8_t *field; /* rel32 of the jump */
	unsigned index; /* of the instruction */
};

/*
 * How an access finds its page: in the TLB or, before that, in a place that needs no index: the
 * page of the stack pointer, or an entry of the instruction's own when its address is always the
 * same.
 */
enum probe_kind { PROBE_TLB, PROBE_STACK, PROBE_STATIC };

struct probe {
	uint8_t kind;  /* enum probe_kind */
	uint8_t limit; /* PROBE_STACK: of stack_limit[] */
	bool write;
	uint16_t size;
	uint16_t entry; /* PROBE_STATIC: of static_la[] */
	uint8_t *jump;	/* rel32 field in hot code: not found */
	uint8_t *found; /* in hot code: T0 holds the host address */
};

/* Jumps of one instruction that leave for bt_sys_insn(); see tr_emit_aside(). */
struct aside {
	uint8_t *fields[8]; /* rel32 */
	unsigned count;
};

struct cold_entry {
	struct probe probe;
	uint8_t *back;
	const struct insn *in;
	struct bt_access *access;
	int64_t arg;
	struct host_at at;
	uint8_t mop, size;
	bool restore, write;
	bool flags_in_slot; /* before the operation, for fault sites */
};

struct tr {
	struct out hot, cold;
	struct bt_cpu *cpu;
	struct bt_vm *vm;
	struct bt_cache *cache;
	struct bt_block *b;
	uint32_t key;
	enum insn_mode mode;
	const uint8_t *code; /* of the page */
	bool wide;	     /* 64-bit code */
	bool stack_inline;   /* push, pop, call, ret are translated */
	bool near_inline;    /* near control transfer is translated */
	bool unlinked;	     /* KEY_ONE: every way out leads to C */
	bool exact;	     /* arithmetic flags are live everywhere */
	bool cross;	     /* its instruction crosses the page's end: no direct links */
	bool window;	     /* memory operands go through the window, one check for each base */
	bool window_plain;   /* they try it first */
	const struct bt_ways *ways;

	struct insn insns[BLOCK_INSNS];
	int16_t offs[BLOCK_INSNS + 1];	/* page offset of each instruction and of the end */
	uint16_t live[BLOCK_INSNS + 1]; /* live before instruction i; [n]: at the end */
	unsigned count;
	bool mid[BLOCK_INSNS]; /* a conditional jump that the block goes on behind */
	struct side sides[BLOCK_SIDES];
	unsigned side_count;

	struct group groups[GROUPS];
	unsigned group_count, slots;
	struct member members[BLOCK_INSNS][2];
	unsigned access_no; /* within the current instruction */

	uint32_t checked;  /* in a window: base registers (and BASE_RIP) that were looked at */
	uint32_t low;	   /* those of them that are in the lower part */
	int64_t drift[17]; /* and what has been added to them since then */
	uint32_t known;	   /* registers that still have the value in the vCPU's state */

	enum flags_at fs;
	unsigned cur;
	struct cold_entry colds[COLD_ENTRIES];
	unsigned cold_count;
	struct bt_fault_site faults[FAULT_ENTRIES];
	unsigned fault_count;
};

/* translate.c */
enum place tr_place_of(const struct tr *t, const struct insn *in);
unsigned tr_peek_live(struct tr *t, int64_t off);
int64_t tr_target_off(const struct tr *t,
		      unsigned i); /* of a relative branch, from the page's start */

/* tr_groups.c */
void tr_find_groups(struct tr *t);
uint16_t tr_moves(const struct insn *in, int64_t *delta);

/* tr_copy.c */
void tr_save_flags(struct out *o);
void tr_restore_flags(struct out *o);
void tr_clobber_flags(struct tr *t, unsigned live);
void tr_want_flags_hw(struct tr *t, unsigned live);
void tr_want_flags_slot(struct tr *t, unsigned live);
bool tr_must_restore(const struct tr *t, const struct insn *in);
void tr_emit_shifted(struct tr *t, struct out *o, uint8_t n);
unsigned tr_use_reg(struct out *o, unsigned greg, unsigned scratch);
void tr_add_imm64(struct tr *t, unsigned reg, int64_t v); /* keeps flags; uses T1 */
void tr_emit_effective(struct tr *t, const struct insn *in, unsigned dst);
struct bt_access *tr_new_access(struct tr *t, const struct insn *in, unsigned size, unsigned access,
				unsigned seg);
void tr_emit_linear(struct tr *t, const struct insn *in, struct bt_access *a);
void tr_emit_copy(struct tr *t, struct out *o, const struct insn *in, struct host_at at,
		  bool flags_in_slot);
void tr_fault_site(struct tr *t, struct out *o, bool flags_in_slot, bool window);
bool tr_copy_borrows(const struct insn *in);

/* tr_string.c */
bool tr_string_inline(const struct tr *t, const struct insn *in);
void tr_emit_string(struct tr *t, const struct insn *in);

/* tr_access.c */
uint8_t *tr_emit_tlb(struct tr *t, struct out *o, const struct probe *p);
void tr_emit_colds(struct tr *t);
void tr_emit_mem_copy(struct tr *t, const struct insn *in);
void tr_emit_bittest(struct tr *t, const struct insn *in);
void tr_emit_mem_load(struct tr *t, const struct insn *in);
void tr_emit_push(struct tr *t, enum mop mop, int64_t arg, bool last);
void tr_emit_pop_load(struct tr *t, unsigned from);
void tr_set_reg(struct tr *t, unsigned greg, unsigned host);

void tr_emit_mop(struct tr *t, struct out *o, const struct cold_entry *c);

/* tr_window.c */
struct host_at tr_window_operand(struct tr *t, const struct insn *in);
struct host_at tr_window_stack(struct tr *t, unsigned greg, int32_t disp);
struct host_at tr_window_at_t0(struct tr *t);
uint8_t *tr_window_check(struct tr *t, unsigned reg, enum host_part part);
void tr_window_after(struct tr *t, const struct insn *in);

/* tr_exits.c */
struct bt_exit *tr_new_exit(struct tr *t, unsigned kind);
void tr_emit_linkable(struct tr *t, uint8_t *field, struct bt_exit *e);
void tr_emit_sys(struct tr *t, const struct insn *in);
void tr_emit_aside(struct tr *t, const struct insn *in, const struct aside *a);
void tr_emit_sys_aside(struct tr *t, const struct insn *in);
void tr_emit_jc_jump(struct tr *t);
void tr_emit_goto(struct tr *t, int64_t off);
void tr_emit_side(struct tr *t, const struct insn *in);
void tr_emit_sides(struct tr *t);
void tr_emit_end(struct tr *t, const struct insn *in);

/* tr_system.c */
void tr_emit_rdtsc(struct tr *t, const struct insn *in);
void tr_emit_rflags(struct out *o, unsigned ext, uint32_t imm);
void tr_emit_pushf(struct tr *t);
void tr_emit_sti(struct tr *t, const struct insn *in);
void tr_emit_ac(struct tr *t, const struct insn *in);
void tr_emit_from_cr(struct tr *t, const struct insn *in);
void tr_emit_fsgsbase(struct tr *t, const struct insn *in);

#endif
