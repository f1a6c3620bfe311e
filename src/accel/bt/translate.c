/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translation of one block. Longer than other files: the emission of every
 * inline instruction family shares one small set of private helpers.
 *
 * A block starts at some byte of a guest page and ends at a control transfer,
 * at an instruction that needs C, at the page's end, or at BLOCK_INSNS. An
 * instruction that crosses the page's end is a block of its own.
 *
 * Code is position independent in guest terms: it knows its offset in the
 * page, and finds the page's rip in cpu->vbase; so one translation serves all
 * processes that map the page, wherever.
 *
 * Flags: inside a block the arithmetic flags are in one of three places (enum
 * flags_at). A TLB check destroys EFLAGS, so before it they are set aside in
 * flag_slot when anything later reads them (liveness runs backwards over the
 * block, and looks a few instructions into successors of the same page).
 * A block is entered directly with its live flags in EFLAGS; through the jump cache
 * with them in the slot.
 *
 * Groups: accesses of one block through the same unmodified base register (known
 * constants added to it included) whose offsets lie near each other share one
 * check. The first of a group checks the whole range and keeps the host
 * address in group[]; the others use it, without touching flags. When the
 * check fails, for whatever reason, the block goes on in its KEY_PLAIN variant, which
 * has no groups: only that one raises faults and fills the TLB, so groups are never seen by the guest.
 * A host address stays good to the end of a block: what could take it away (a TLB
 * flush, code put on the page) happens between blocks.
 *
 * Memory access: hot code holds the check and the instruction; the cold part
 * holds, per access, a call to bt_slow_access() and a second copy of the
 * instruction, then bt_slow_commit() when it writes.
 */
#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

#define BLOCK_INSNS 48
#define COLD_ENTRIES (BLOCK_INSNS * 2)
#define FAULT_ENTRIES (BLOCK_INSNS * 2)
#define GROUP_SPAN 1024 /* bytes that one group covers at most */
#define GROUPS 16       /* looked at in one block; BT_GROUP_SLOTS of them are used */
#define BASE_RIP 16     /* pseudo register: rip-relative */

enum flags_at { FLAGS_HW, FLAGS_SLOT, FLAGS_DEAD };

/* The operation at the end of a memory access; T0 holds the host address. */
enum mop {
	MOP_COPY,        /* the instruction itself */
	MOP_BITTEST,     /* the instruction with its bit offset, reduced to the operand, in spill[1] */
	MOP_LOAD_T0,     /* T0 <- [T0] */
	/* pushes: rsp goes down after the store, before a commit may leave the block */
	MOP_PUSH_REG,    /* [T0] <- guest register .arg */
	MOP_PUSH_IMM,    /* [T0] <- sign-extended .arg */
	MOP_PUSH_RIP,    /* [T0] <- rip of page offset .arg */
	MOP_PUSH_SPILL,  /* [T0] <- spill[1] */
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
	int32_t off;  /* from the group's lo */
	int32_t to_lo; /* what to add to the operand's displacement to get lo */
};

struct cold_entry {
	uint8_t *jump; /* rel32 field in hot code */
	uint8_t *back;
	const struct insn *in;
	struct bt_access *access;
	int64_t arg;
	int32_t disp;
	uint8_t mop, size;
	bool restore, write;
	bool flags_in_slot; /* before the operation, for fault sites */
	uint32_t tag_off;
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
	bool wide;           /* 64-bit code */
	bool stack_inline;   /* push, pop, call, ret are translated */
	bool near_inline;    /* near control transfer is translated */
	bool unlinked;       /* KEY_ONE: every way out leads to C */
	bool cross;          /* its instruction crosses the page's end: no direct links */

	struct insn insns[BLOCK_INSNS];
	int16_t offs[BLOCK_INSNS + 1]; /* page offset of each instruction and of the end */
	uint16_t live[BLOCK_INSNS + 1]; /* live before instruction i; [n]: at the end */
	unsigned count;

	struct group groups[GROUPS];
	unsigned group_count, slots;
	struct member members[BLOCK_INSNS][2];
	unsigned access_no; /* within the current instruction */

	enum flags_at fs;
	unsigned cur;
	struct cold_entry colds[COLD_ENTRIES];
	unsigned cold_count;
	struct bt_fault_site faults[FAULT_ENTRIES];
	unsigned fault_count;
};

/* ---- what is inline ---- */

enum place { IN_BODY, IN_END, IN_SYS };

static enum place place_of(const struct tr *t, const struct insn *in)
{
	bool stack = t->stack_inline && in->opsize == (t->wide ? 8 : 4);
	bool near = t->near_inline && (t->wide || in->opsize == 4);
	bool kernel = t->wide && !(t->key & (KEY_USER | KEY_INNER | KEY_ONE));

	switch (in->op) {
	case OP_COPY: case OP_NOP: case OP_PAUSE: case OP_LEA: case OP_MOV_MOFFS_LOAD: case OP_MOV_MOFFS_STORE:
	case OP_XCHG: case OP_CMPXCHG: case OP_CMPXCHG8B: case OP_CMPXCHG16B: case OP_XADD: case OP_MUL: case OP_IMUL1:
	case OP_DIV: case OP_IDIV: case OP_CBW: case OP_CWD: case OP_SHIFT_CL: case OP_LAHF: case OP_SAHF:
	case OP_CLC: case OP_STC: case OP_CMC: case OP_RDRAND: case OP_RDSEED: case OP_CLD: case OP_STD: case OP_RDTSC:
		return IN_BODY;
	case OP_PUSH_REG: case OP_PUSH_IMM: case OP_PUSH_RM: case OP_POP_REG: case OP_LEAVE:
		return stack ? IN_BODY : IN_SYS;
	case OP_POP_RM:
		return stack && !in->mem ? IN_BODY : IN_SYS;
	case OP_RDTSCP:
		return IN_BODY;
	case OP_CLI: case OP_STI: case OP_SWAPGS:
		return kernel ? IN_BODY : IN_SYS;
	case OP_STAC: case OP_CLAC:
		return kernel ? IN_END : IN_SYS;
	case OP_PUSHF:
		return t->wide && in->opsize == 8 && !(t->key & KEY_ONE) ? IN_BODY : IN_SYS;
	case OP_MOV_FROM_SEG:
		return !in->mem && in->opsize >= 4 ? IN_BODY : IN_SYS;
	case OP_BITTEST_MEM_REG:
		return t->wide && in->opsize >= 4 ? IN_BODY : IN_SYS;
	case OP_JCC: case OP_JMP:
		return near ? IN_END : IN_SYS;
	case OP_LOOP: case OP_LOOPE: case OP_LOOPNE: case OP_JCXZ:
		return near && in->addrsize >= 4 ? IN_END : IN_SYS;
	case OP_JMP_RM:
		return near && in->opsize == (t->wide ? 8 : 4) ? IN_END : IN_SYS;
	case OP_CALL: case OP_CALL_RM: case OP_RET:
		return near && stack ? IN_END : IN_SYS;
	default:
		return IN_SYS;
	}
}

/* ---- decoding and liveness ---- */

static int decode_at(struct tr *t, unsigned off, const uint8_t *code2, struct insn *in, bool *ret_cross)
{
	uint8_t bytes[INSN_MAX];
	unsigned avail = PAGE_SIZE - off;
	int r;

	*ret_cross = false;
	if (avail >= INSN_MAX)
		return insn_decode(t->mode, t->code + off, INSN_MAX, in);
	r = insn_decode(t->mode, t->code + off, avail, in);
	if (r != -EAGAIN)
		return r;
	*ret_cross = true;
	if (!code2)
		return -EAGAIN;
	bt_copy(bytes, t->code + off, avail);
	bt_copy(bytes + avail, code2, INSN_MAX - avail);
	return insn_decode(t->mode, bytes, INSN_MAX, in);
}

/* Flags that code at page offset @off may read; looks a few instructions ahead. */
static unsigned peek_live(struct tr *t, int off)
{
	unsigned live = 0, killed = 0;

	if (off < 0 || t->unlinked || t->cross || t->vm->opt_exact_flags)
		return FL_ARITH;
	for (unsigned i = 0; i < 6; i++) {
		struct insn in;
		bool cross;

		if (off >= (int)PAGE_SIZE || decode_at(t, off, NULL, &in, &cross) || in.op == OP_INVALID)
			break;

		enum place p = place_of(t, &in);

		if (p == IN_SYS)
			break;
		live |= in.flags_read & ~killed;
		killed |= in.flags_written;
		if ((killed & FL_ARITH) == FL_ARITH)
			return live;
		if (p == IN_END)
			break;
		off += in.len;
	}
	return live | (FL_ARITH & ~killed);
}

static int target_off(const struct tr *t, unsigned i)
{
	return t->offs[i + 1] + (int32_t)t->insns[i].imm;
}

static void analyse(struct tr *t)
{
	unsigned n = t->count, last = n - 1, live;
	const struct insn *in = &t->insns[last];
	enum place p = place_of(t, in);

	if (p == IN_SYS)
		live = FL_ARITH;
	else if (p == IN_BODY)
		live = peek_live(t, t->offs[n]);
	else if (in->op == OP_JCC || in->op == OP_LOOP || in->op == OP_LOOPE || in->op == OP_LOOPNE || in->op == OP_JCXZ)
		live = peek_live(t, target_off(t, last)) | peek_live(t, t->offs[n]);
	else if (in->op == OP_STAC || in->op == OP_CLAC)
		live = peek_live(t, t->offs[n]);
	else if (in->op == OP_JMP || in->op == OP_CALL)
		live = peek_live(t, target_off(t, last));
	else
		live = FL_ARITH;
	t->live[n] = live;
	for (int i = last; i >= 0; i--) {
		in = &t->insns[i];
		if (place_of(t, in) == IN_SYS || t->vm->opt_exact_flags)
			live = FL_ARITH;
		else
			live = (live & ~in->flags_written) | (in->flags_read & FL_ARITH);
		t->live[i] = live;
	}
}

/* ---- groups ---- */

static void add_member(struct tr *t, unsigned i, unsigned no, unsigned base, unsigned version, int64_t off, unsigned size,
		       bool write)
{
	struct group *g = NULL;

	if (off != (int32_t)off)
		return;
	for (int k = t->group_count - 1; k >= 0 && !g; k--) {
		struct group *c = &t->groups[k];
		int64_t lo = off < c->lo ? off : c->lo, hi = off + size > c->hi ? off + size : c->hi;

		if (c->base == base && c->version == version && hi - lo <= GROUP_SPAN) {
			g = c;
			g->lo = lo;
			g->hi = hi;
		}
	}
	if (!g) {
		if (t->group_count == GROUPS)
			return;
		g = &t->groups[t->group_count++];
		*g = (struct group){ .base = base, .version = version, .lo = off, .hi = off + size, .slot = -1 };
	}
	g->write |= write;
	t->members[i][no] = (struct member){ .group = g - t->groups, .first = g->count == 0, .off = off };
	g->count++;
}

/* What an instruction adds to a register, when it is a constant. */
static bool constant_step(const struct insn *in, unsigned *reg, int64_t *step)
{
	if (in->op == OP_LEA && in->opsize == 8 && in->addrsize == 8 && in->base == in->reg && in->index == INSN_NO_REG) {
		*reg = in->reg;
		*step = in->disp;
		return true;
	}
	if (in->op != OP_COPY || in->mem || in->map || in->opsize != 8 || in->vex || !in->has_modrm)
		return false;
	*reg = in->rm;
	if ((in->opcode == 0x83 || in->opcode == 0x81) && ((in->reg & 7) == 0 || (in->reg & 7) == 5)) {
		*step = (in->reg & 7) == 0 ? in->imm : -in->imm;
		return true;
	}
	if (in->opcode == 0xff && (in->reg & 7) <= 1) {
		*step = (in->reg & 7) == 0 ? 1 : -1;
		return true;
	}
	return false;
}

static void find_groups(struct tr *t)
{
	unsigned version[17] = { 0 };
	int64_t delta[17] = { 0 };

	t->group_count = t->slots = 0;
	for (unsigned i = 0; i < t->count; i++)
		t->members[i][0].group = t->members[i][1].group = -1;
	if (!t->wide || t->cross || t->vm->opt_nogroup || (t->key & (KEY_PLAIN | KEY_ONE | KEY_ALIGN)))
		return;
	for (unsigned i = 0; i < t->count; i++) {
		const struct insn *in = &t->insns[i];
		unsigned no = 0, reg;
		uint16_t written = in->gpr_write;
		int64_t step;

		if (place_of(t, in) == IN_SYS)
			break;
		if (in->mem && in->mem_size && in->op != OP_LEA && in->op != OP_NOP && in->op != OP_BITTEST_MEM_REG) {
			unsigned base = in->base == INSN_RIP_REL ? BASE_RIP : in->base;
			int64_t disp = in->base == INSN_RIP_REL ? in->disp + t->offs[i + 1] : in->disp;

			if (base <= BASE_RIP && in->index == INSN_NO_REG && in->addrsize == 8 && in->seg != SEG_FS &&
			    in->seg != SEG_GS && in->mem_size <= 64)
				add_member(t, i, 0, base, version[base], delta[base] + disp, in->mem_size,
					   in->mem_access & MEM_WRITE);
			no = 1;
		}
		switch (in->op) {
		case OP_PUSH_REG: case OP_PUSH_IMM: case OP_PUSH_RM: case OP_PUSHF: case OP_CALL: case OP_CALL_RM:
			add_member(t, i, no, REG_RSP, version[REG_RSP], delta[REG_RSP] - 8, 8, true);
			delta[REG_RSP] -= 8;
			written &= ~(1u << REG_RSP);
			break;
		case OP_POP_REG: case OP_POP_RM: case OP_RET:
			add_member(t, i, no, REG_RSP, version[REG_RSP], delta[REG_RSP], 8, false);
			delta[REG_RSP] += 8;
			if ((in->op == OP_POP_REG ? in->opreg : in->op == OP_POP_RM ? in->rm : 0) != REG_RSP)
				written &= ~(1u << REG_RSP);
			break;
		case OP_LEAVE:
			add_member(t, i, no, REG_RBP, version[REG_RBP], delta[REG_RBP], 8, false);
			break;
		default:
			if (constant_step(in, &reg, &step)) {
				delta[reg] += step;
				written &= ~(1u << reg);
			}
		}
		for (unsigned r = 0; r < 16; r++) {
			if (written & 1u << r) {
				version[r]++;
				delta[r] = 0;
			}
		}
	}
	for (unsigned k = 0; k < t->group_count; k++)
		if (t->groups[k].count > 1 && t->slots < BT_GROUP_SLOTS)
			t->groups[k].slot = t->slots++;
	for (unsigned i = 0; i < t->count; i++) {
		for (unsigned no = 0; no < 2; no++) {
			struct member *m = &t->members[i][no];

			if (m->group < 0)
				continue;
			m->to_lo = t->groups[m->group].lo - m->off;
			m->off -= t->groups[m->group].lo;
			if (t->groups[m->group].slot < 0)
				m->group = -1;
		}
	}
}

/* ---- flags ---- */

static void save_flags(struct tr *t)
{
	struct out *o = &t->hot;

	e_mov_rr(o, T1, 0);
	out8(o, 0x9f);                                    /* lahf */
	out8(o, 0x0f), out8(o, 0x90), out8(o, 0xc0);      /* seto al */
	e_rgs(o, false, 0x89, 0, CPU_OFF(flag_slot));
	e_mov_rr(o, 0, T1);
}

static void restore_flags(struct out *o)
{
	e_mov_rr(o, T1, 0);
	e_rgs(o, false, 0x8b, 0, CPU_OFF(flag_slot));
	out8(o, 0x04), out8(o, 0x7f); /* add al, 0x7f */
	out8(o, 0x9e);                /* sahf */
	e_mov_rr(o, 0, T1);
}

/* EFLAGS are about to be destroyed by our own code, before instruction cur's operation (or after it). */
static void clobber_flags(struct tr *t, unsigned live)
{
	if (t->fs != FLAGS_HW)
		return;
	if (live) {
		save_flags(t);
		t->fs = FLAGS_SLOT;
	} else {
		t->fs = FLAGS_DEAD;
	}
}

static void want_flags_hw(struct tr *t, unsigned live)
{
	if (t->fs == FLAGS_SLOT && live) {
		restore_flags(&t->hot);
		t->fs = FLAGS_HW;
	}
}

static void want_flags_slot(struct tr *t, unsigned live)
{
	if (t->fs == FLAGS_HW && live) {
		save_flags(t);
		t->fs = FLAGS_SLOT;
	}
}

static unsigned live_after(const struct tr *t)
{
	return t->live[t->cur + 1];
}

static bool must_restore(const struct tr *t, const struct insn *in)
{
	return t->fs == FLAGS_SLOT &&
	       ((in->flags_read & FL_ARITH) || ((in->flags_written & FL_ARITH) && (live_after(t) & ~in->flags_written)));
}

/* ---- registers and addresses ---- */

static unsigned use_reg(struct out *o, unsigned greg, unsigned scratch)
{
	if (reg_map[greg] != HOMED)
		return reg_map[greg];
	e_load_gs(o, scratch, REG_OFF(greg));
	return scratch;
}

static void add_imm64(struct tr *t, unsigned reg, int64_t v)
{
	if (v == (int32_t)v) {
		e_lea(&t->hot, true, reg, reg, v);
		return;
	}
	e_mov_ri64(&t->hot, T1, v);
	e_lea_sib(&t->hot, true, reg, reg, T1, 1, 0);
}

/* @dst (T0, or a pinned register's host) <- effective address; keeps flags; uses T0 and T1 */
static void emit_effective(struct tr *t, const struct insn *in, unsigned dst)
{
	struct out *o = &t->hot;
	bool w = in->addrsize == 8;

	if (in->base == INSN_RIP_REL) {
		e_load_gs(o, T0, CPU_OFF(vbase));
		add_imm64(t, T0, t->offs[t->cur + 1] + in->disp);
		if (!w)
			e_rr(o, false, 0x8b, dst, T0);
		else if (dst != T0)
			e_mov_rr(o, dst, T0);
		return;
	}
	if (in->base == INSN_NO_REG && in->index == INSN_NO_REG) {
		e_mov_ri64(o, dst, w ? (uint64_t)in->disp : in->addrsize == 4 ? (uint32_t)in->disp : (uint16_t)in->disp);
		return;
	}

	int base = in->base != INSN_NO_REG ? (int)use_reg(o, in->base, T0) : -1;
	int index = in->index != INSN_NO_REG ? (int)use_reg(o, in->index, T1) : -1;

	if (index < 0 && !in->disp && in->addrsize >= 4) {
		if (base != (int)dst || !w)
			e_rr(o, w, 0x8b, dst, base);
	} else {
		e_lea_sib(o, w, dst, base, index, in->scale, in->disp);
	}
	if (in->addrsize == 2)
		enc_emit(o, &(struct enc){ .map = 1, .opcode = 0xb7, .reg = dst, .kind = RM_REG, .rm = dst });
}

static struct bt_access *new_access(struct tr *t, const struct insn *in, unsigned size, unsigned access, unsigned seg)
{
	struct bt_access *a = bt_cache_alloc(t->cache, sizeof(*a));

	a->block = t->b;
	a->insn = in;
	a->size = size;
	a->write = access;
	a->seg = seg;
	a->guest_off = t->offs[t->cur];
	a->next_off = t->offs[t->cur + 1];
	a->flags_in_slot = t->fs == FLAGS_SLOT;
	return a;
}

static bool seg_needs_check(const struct tr *t, unsigned seg)
{
	if (t->wide)
		return false;
	if (seg == SEG_CS || seg == SEG_FS || seg == SEG_GS)
		return true;
	return t->key & KEY_SEGS;
}

/* T0 <- linear address of @in's memory operand; flags are already safe */
static void emit_linear(struct tr *t, const struct insn *in, struct bt_access *a)
{
	struct out *o = &t->hot;

	emit_effective(t, in, T0);
	if (t->wide) {
		if (in->seg == SEG_FS || in->seg == SEG_GS)
			e_rgs(o, true, 0x03, T0, in->seg == SEG_FS ? CPU_OFF(st.segs[SEG_FS].base) : CPU_OFF(st.segs[SEG_GS].base));
	} else if (seg_needs_check(t, in->seg)) {
		e_mov_ri64(o, T1, (uintptr_t)a);
		e_call(o, t->cache->stubs.seg);
	}
}

/* ---- copying ---- */

static void fault_site(struct tr *t, struct out *o, bool flags_in_slot)
{
	if (t->fault_count < FAULT_ENTRIES)
		t->faults[t->fault_count++] = (struct bt_fault_site){
			.host_off = o->p - t->cache->base, .guest_off = t->offs[t->cur], .flags_in_slot = flags_in_slot };
}

static bool may_fault(const struct insn *in)
{
	return in->unit != UNIT_GPR || in->op == OP_DIV || in->op == OP_IDIV || in->op == OP_CMPXCHG16B;
}

static bool is_gpr(unsigned field)
{
	return field == FIELD_GPR || field == FIELD_GPR8;
}

static bool is_high8(const struct insn *in, unsigned field, unsigned reg)
{
	return field == FIELD_GPR8 && !in->rex && !in->vex && reg >= 4 && reg <= 7;
}

/* Map a register field; homed ones are loaded into @scratch when read. */
static unsigned map_field(struct out *o, const struct insn *in, unsigned field, unsigned reg, unsigned scratch, struct enc *e)
{
	if (!is_gpr(field) || is_high8(in, field, reg))
		return reg;
	if (reg_map[reg] == HOMED) {
		if (in->gpr_read & 1u << reg)
			e_load_gs(o, scratch, REG_OFF(reg));
		return scratch;
	}
	if (field == FIELD_GPR8 && reg_map[reg] >= 4 && reg_map[reg] <= 7)
		e->force_rex = true;
	return reg_map[reg];
}

static void store_homed(struct out *o, const struct insn *in, unsigned field, unsigned reg, unsigned host)
{
	if (is_gpr(field) && !is_high8(in, field, reg) && reg_map[reg] == HOMED && (in->gpr_write & 1u << reg))
		e_store_gs(o, host, REG_OFF(reg));
}

/* The instruction with mapped registers; its memory operand, if any, at [T0 + disp]. */
static void emit_copy(struct tr *t, struct out *o, const struct insn *in, int32_t disp, bool flags_in_slot)
{
	struct enc e = { .lock = in->lock, .map = in->map, .opcode = in->opcode, .vex = in->vex, .vex_l = in->vex_l,
			 .vex_pp = in->vex_pp, .w = in->w, .imm = in->imm, .imm_size = in->imm_size };
	unsigned reg = in->reg, rm = in->rm, reg_field = in->reg_field, rm_field = in->rm_field;
	int borrow = -1, third = -1;

	if (in->prefix == 0xf2 || in->prefix == 0xf3)
		e.rep = in->prefix;
	e.prefix66 = in->prefix == 0x66 || (in->unit == UNIT_GPR && in->opsize == 2 && !in->vex);
	if (!t->wide && in->vex && (is_gpr(reg_field) || is_gpr(rm_field) || is_gpr(in->vvvv_field)))
		e.w = false;

	if (in->op == OP_MOV_MOFFS_LOAD || in->op == OP_MOV_MOFFS_STORE) {
		e.opcode = in->op == OP_MOV_MOFFS_LOAD ? in->opsize == 1 ? 0x8a : 0x8b : in->opsize == 1 ? 0x88 : 0x89;
		e.imm_size = 0;
		e.w = in->opsize == 8;
		e.kind = RM_BASE;
		e.base = T0;
		e.disp = disp;
		enc_emit(o, &e);
		return;
	}
	if (in->op == OP_XCHG && in->opreg != INSN_NO_REG) { /* 90+r: as 87 /r */
		e.opcode = 0x87;
		reg = REG_RAX;
		rm = in->opreg;
		reg_field = rm_field = FIELD_GPR;
	} else if (in->opreg != INSN_NO_REG) {
		unsigned h = map_field(o, in, in->opreg_field, in->opreg, T1, &e);

		e.plus_reg = true;
		e.kind = RM_NONE;
		e.rm = h;
		if (is_high8(in, in->opreg_field, in->opreg))
			e.force_rex = false;
		enc_emit(o, &e);
		store_homed(o, in, in->opreg_field, in->opreg, h);
		return;
	} else if (!in->has_modrm && !in->mem) {
		e.kind = RM_NONE;
		if (may_fault(in))
			fault_site(t, o, flags_in_slot);
		enc_emit(o, &e);
		return;
	}

	bool high = (is_high8(in, reg_field, reg)) || (!in->mem && is_high8(in, rm_field, rm));

	e.reg = map_field(o, in, reg_field, reg, T1, &e);
	if (in->mem) {
		e.kind = RM_BASE;
		e.base = T0;
		e.disp = disp;
		if (high) { /* ah.. forbids REX, which r10 needs: borrow rsi as the base */
			borrow = REG_RSI;
			e_store_gs(o, borrow, CPU_OFF(spill[0]));
			e_mov_rr(o, borrow, T0);
			e.base = borrow;
		}
	} else {
		e.kind = RM_REG;
		if (is_gpr(reg_field) && is_gpr(rm_field) && reg == rm && reg_map[reg] == HOMED)
			e.rm = e.reg; /* one register: one copy of it */
		else
			e.rm = map_field(o, in, rm_field, rm, T0, &e);
		if (is_high8(in, rm_field, rm) && (e.reg & 8)) { /* movzx r15d(rsp), ah: through memory */
			e_store_gs(o, rm - 4, CPU_OFF(spill[0]));
			e.kind = RM_GS;
			e.disp = CPU_OFF(spill[0]) + 1;
		}
	}
	if (in->vex) {
		e.vvvv = in->vvvv;
		if (in->vvvv_field == FIELD_GPR) {
			bool t1_free = e.reg != T1, t0_free = !in->mem && e.rm != T0;

			if (reg_map[in->vvvv] != HOMED) {
				e.vvvv = reg_map[in->vvvv];
			} else if (is_gpr(reg_field) && in->vvvv == reg) {
				e.vvvv = e.reg;
			} else if (!in->mem && is_gpr(rm_field) && in->vvvv == rm) {
				e.vvvv = e.rm;
			} else if (t1_free || t0_free) {
				e.vvvv = map_field(o, in, FIELD_GPR, in->vvvv, t1_free ? T1 : T0, &e);
			} else { /* all three homed: borrow a register that is not used */
				third = REG_RBP;
				for (unsigned r = 0; r < 16; r++)
					if (reg_map[r] == (int)r && !((in->gpr_read | in->gpr_write) & 1u << r))
						third = r;
				e_store_gs(o, third, CPU_OFF(spill[0]));
				e.vvvv = map_field(o, in, FIELD_GPR, in->vvvv, third, &e);
			}
		}
	}
	if (may_fault(in))
		fault_site(t, o, flags_in_slot);
	enc_emit(o, &e);
	store_homed(o, in, reg_field, reg, e.reg);
	if (!in->mem)
		store_homed(o, in, rm_field, rm, e.rm);
	if (in->vex && in->vvvv_field == FIELD_GPR)
		store_homed(o, in, FIELD_GPR, in->vvvv, e.vvvv);
	if (borrow >= 0)
		e_load_gs(o, borrow, CPU_OFF(spill[0]));
	if (third >= 0)
		e_load_gs(o, third, CPU_OFF(spill[0]));
}

/* ---- memory access ---- */

static void emit_mop(struct tr *t, struct out *o, const struct cold_entry *c)
{
	bool w = c->size == 8;

	if (c->restore)
		restore_flags(o);
	switch ((enum mop)c->mop) {
	case MOP_COPY:
		emit_copy(t, o, c->in, c->disp, c->flags_in_slot);
		break;
	case MOP_BITTEST:
		e_load_gs(o, T1, CPU_OFF(spill[1]));
		enc_emit(o, &(struct enc){ .lock = c->in->lock, .w = c->in->opsize == 8, .map = 1, .opcode = c->in->opcode, .reg = T1,
					   .kind = RM_BASE, .base = T0 });
		break;
	case MOP_LOAD_T0:
		e_rm(o, w, 0x8b, T0, T0, c->disp);
		break;
	case MOP_PUSH_REG:
		e_rm(o, w, 0x89, use_reg(o, c->arg, T1), T0, c->disp);
		break;
	case MOP_PUSH_IMM:
		enc_emit(o, &(struct enc){ .w = w, .opcode = 0xc7, .kind = RM_BASE, 
				    .base = T0, .disp = c->disp, .imm = c->arg, .imm_size = 4 });
		break;
	case MOP_PUSH_RIP:
		e_load_gs(o, T1, CPU_OFF(vbase));
		e_lea(o, w, T1, T1, c->arg);
		e_rm(o, w, 0x89, T1, T0, c->disp);
		break;
	case MOP_PUSH_SPILL:
		e_load_gs(o, T1, CPU_OFF(spill[1]));
		e_rm(o, w, 0x89, T1, T0, c->disp);
		break;
	}
	if (c->mop >= MOP_PUSH_REG)
		e_lea(o, w, HOST_GUEST_RSP, HOST_GUEST_RSP, -(int)c->size);
}

/* T1 <- slot of T0 (linear address), T0 <- offset in its page if the TLB has it; then the compare. Returns the tag's place. */
static uint32_t emit_check(struct tr *t, unsigned size, bool write)
{
	struct out *o = &t->hot;
	uint32_t base = offsetof(struct bt_cpu, tlb) + bt_key_tlb(t->key) * sizeof(struct bt_tlb);
	uint32_t tag = base + (write ? offsetof(struct bt_tlb, write) : offsetof(struct bt_tlb, read));

	e_mov_rr(o, T1, T0);
	e_shift_i(o, true, 5, T1, PAGE_SHIFT);
	e_ri(o, false, 4, T1, TLB_SIZE - 1);
	e_rgs8(o, true, 0x33, T0, T1, tag); /* xor T0, gs:[T1*8 + tag] */
	if (t->key & KEY_ALIGN) {
		out8(o, 0xe9);
	} else {
		enc_emit(o, &(struct enc){ .w = true, .opcode = 0x81, .reg = 7, .kind = RM_REG, .rm = T0,
					   .imm = PAGE_SIZE - size, .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x87); /* ja */
	}
	o->p += 4;
	return tag;
}

static void emit_add_host(struct tr *t)
{
	e_rgs8(&t->hot, true, 0x03, T0, T1, offsetof(struct bt_cpu, tlb) + bt_key_tlb(t->key) * sizeof(struct bt_tlb) +
						offsetof(struct bt_tlb, host));
}

/*
 * Check T0 (linear address) and do the operation. Flags have been saved or
 * are dead. @restore: put the flags back before the operation.
 */
static void emit_access(struct tr *t, const struct insn *in, struct bt_access *a, enum mop mop, int64_t arg, bool restore)
{
	bool write = a->write & MEM_WRITE;
	struct cold_entry *c = &t->colds[t->cold_count++];
	uint32_t tag = emit_check(t, a->size, write);

	*c = (struct cold_entry){ .jump = t->hot.p - 4, .in = in, .access = a, .arg = arg, .mop = mop, .restore = restore,
				  .write = write, .tag_off = tag, .flags_in_slot = t->fs == FLAGS_SLOT && !restore };
	c->size = t->wide ? 8 : 4;
	emit_add_host(t);
	emit_mop(t, &t->hot, c);
	c->back = t->hot.p;
}

static void emit_colds(struct tr *t)
{
	struct out *o = &t->cold;

	for (unsigned i = 0; i < t->cold_count; i++) {
		struct cold_entry *c = &t->colds[i];

		patch_rel32(c->jump, o->p);
		e_rgs8(o, true, 0x33, T0, T1, c->tag_off);
		e_mov_ri64(o, T1, (uintptr_t)c->access);
		e_call(o, t->cache->stubs.slow);
		for (t->cur = 0; t->offs[t->cur] != c->access->guest_off;)
			t->cur++;
		emit_mop(t, o, c);
		if (c->write) {
			e_mov_ri64(o, T1, (uintptr_t)c->access);
			e_call(o, t->cache->stubs.commit);
		}
		e_jmp(o, c->back);
	}
}

/*
 * The next access of the current instruction, if it is in a group: T0 and the operation's
 * displacement for it. @in (or NULL: @base_host + @disp) is the operand.
 */
static struct member *grouped(struct tr *t)
{
	struct member *m = &t->members[t->cur][t->access_no++];

	return m->group >= 0 ? m : NULL;
}

static struct bt_exit *new_exit(struct tr *t, unsigned kind);
static void emit_linkable(struct tr *t, struct out *o, struct bt_exit *e);

static void emit_grouped(struct tr *t, const struct member *m, const struct insn *in, unsigned base_host, int32_t disp,
			 enum mop mop, int64_t arg, bool write)
{
	struct out *o = &t->hot;
	struct group *g = &t->groups[m->group];
	int32_t slot = CPU_OFF(group) + 8 * g->slot;
	bool restore;

	if (m->first) {
		clobber_flags(t, t->live[t->cur]);
		if (in) {
			struct insn at = *in;

			at.disp += m->to_lo;
			emit_effective(t, &at, T0);
		} else {
			e_lea(o, true, T0, base_host, disp + m->to_lo);
		}
		emit_check(t, g->hi - g->lo, g->write);

		/* fails: go on in the variant without groups */
		uint8_t *field = o->p - 4;
		struct bt_exit *e = new_exit(t, EXIT_DIRECT);
		enum flags_at fs = t->fs;

		patch_rel32(field, t->cold.p);
		if (fs == FLAGS_SLOT && t->live[t->cur]) {
			restore_flags(&t->cold);
			t->fs = FLAGS_HW;
		}
		e->key_bits = KEY_PLAIN;
		e->target_off = t->offs[t->cur];
		emit_linkable(t, &t->cold, e);
		t->fs = fs;

		emit_add_host(t);
		e_store_gs(o, T0, slot);
	} else {
		e_load_gs(o, T0, slot);
	}
	restore = in && mop == MOP_COPY && must_restore(t, in);

	struct cold_entry c = { .in = in, .arg = arg, .mop = mop, .disp = m->off, .size = 8, .restore = restore,
				.flags_in_slot = t->fs == FLAGS_SLOT && !restore };

	emit_mop(t, o, &c);
	if (in && mop == MOP_COPY && (restore || (in->flags_written & FL_ARITH)))
		t->fs = FLAGS_HW;
}

/* A whole instruction with a memory operand, copied. */
static void emit_mem_copy(struct tr *t, const struct insn *in)
{
	struct member *m = grouped(t);
	bool restore;

	if (m) {
		emit_grouped(t, m, in, 0, 0, MOP_COPY, 0, in->mem_access & MEM_WRITE);
		return;
	}

	clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = new_access(t, NULL, in->mem_size, in->mem_access, in->seg);

	restore = must_restore(t, in);
	emit_linear(t, in, a);
	emit_access(t, in, a, MOP_COPY, 0, restore);
	if (restore || (in->flags_written & FL_ARITH))
		t->fs = FLAGS_HW;
	a->next_flags_in_slot = t->fs == FLAGS_SLOT;
}

/* bt, bts, btr, btc with a bit offset in a register: the operand is the one that the offset selects. */
static void emit_bittest(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	unsigned size = in->opsize, bits = size * 8;
	bool restore;

	clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = new_access(t, NULL, size, in->mem_access, in->seg);

	restore = must_restore(t, in);
	e_rr(o, false, 0x8b, T1, use_reg(o, in->reg, T1));
	e_ri(o, false, 4, T1, bits - 1);
	e_store_gs(o, T1, CPU_OFF(spill[1]));
	emit_linear(t, in, a);
	e_rr(o, true, size == 8 ? 0x8b : 0x63, T1, use_reg(o, in->reg, T1)); /* mov or movsxd */
	e_shift_i(o, true, 7, T1, size == 8 ? 6 : 5);
	e_lea_sib(o, true, T0, T0, T1, size, 0);
	emit_access(t, in, a, MOP_BITTEST, 0, restore);
	t->fs = FLAGS_HW;
	a->next_flags_in_slot = false;
}

/* T0 <- memory operand of the stack operand size */
static void emit_mem_load(struct tr *t, const struct insn *in)
{
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, in, 0, 0, MOP_LOAD_T0, 0, false);
		return;
	}
	clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = new_access(t, NULL, t->wide ? 8 : 4, MEM_READ, in->seg);

	emit_linear(t, in, a);
	emit_access(t, in, a, MOP_LOAD_T0, 0, false);
}

/* @last: a control transfer follows, which must not be cut off when the store hits this block */
static void emit_push(struct tr *t, enum mop mop, int64_t arg, bool last)
{
	unsigned size = t->wide ? 8 : 4;
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, NULL, HOST_GUEST_RSP, -8, mop, arg, true);
		return;
	}
	clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = new_access(t, NULL, size, MEM_WRITE, SEG_SS);

	a->next_flags_in_slot = t->fs == FLAGS_SLOT;
	a->to_end = last;
	e_lea(&t->hot, t->wide, T0, HOST_GUEST_RSP, -(int)size);
	emit_access(t, NULL, a, mop, arg, false);
}

/* T0 <- top of the stack; rsp is not changed */
static void emit_pop_load(struct tr *t, unsigned from)
{
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, NULL, from, 0, MOP_LOAD_T0, 0, false);
		return;
	}
	clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = new_access(t, NULL, t->wide ? 8 : 4, MEM_READ, SEG_SS);

	e_rr(&t->hot, t->wide, 0x8b, T0, from);
	emit_access(t, NULL, a, MOP_LOAD_T0, 0, false);
}

static void set_reg(struct tr *t, unsigned greg, unsigned host)
{
	if (reg_map[greg] == HOMED)
		e_store_gs(&t->hot, host, REG_OFF(greg));
	else
		e_mov_rr(&t->hot, reg_map[greg], host);
}

/* ---- exits ---- */

static struct bt_exit *new_exit(struct tr *t, unsigned kind)
{
	struct bt_exit *e = bt_cache_alloc(t->cache, sizeof(*e));

	e->kind = kind;
	e->from = t->b;
	e->guest_off = t->offs[t->cur];
	return e;
}

static void emit_exit(struct tr *t, struct out *o, struct bt_exit *e)
{
	e->flags_in_slot = t->fs != FLAGS_HW;
	e_mov_ri64(o, T1, (uintptr_t)e);
	e_jmp(o, t->fs == FLAGS_HW ? t->cache->stubs.exit_hw : t->cache->stubs.exit_slot);
}

/* A jump at @o that leads to C through a stub in the cold part until it is linked to its target. */
static void emit_linkable(struct tr *t, struct out *o, struct bt_exit *e)
{
	uint8_t *field = e_jmp_patchable(o);

	e->next_out = t->b->outs;
	t->b->outs = e;
	e->patch = field - t->cache->base;
	e->stub = t->cold.p - t->cache->base;
	patch_rel32(field, t->cold.p);
	emit_exit(t, &t->cold, e);
}

static void emit_sys(struct tr *t, const struct insn *in)
{
	struct bt_exit *e = new_exit(t, EXIT_SYS);
	struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

	bt_copy(copy, in, sizeof(*copy));
	e->insn = copy;
	emit_exit(t, &t->hot, e);
}

/* Leave for bt_sys_insn() from a forward jump that was just emitted (its rel32 is at hot.p - 4). */
static void emit_sys_aside(struct tr *t, const struct insn *in)
{
	struct bt_exit *e = new_exit(t, EXIT_SYS);
	struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

	bt_copy(copy, in, sizeof(*copy));
	e->insn = copy;
	patch_rel32(t->hot.p - 4, t->cold.p);
	emit_exit(t, &t->cold, e);
}

static void emit_rdtsc(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	clobber_flags(t, t->live[t->cur]);
	if (t->key & KEY_USER) { /* test dword gs:[cr4], TSD; jnz */
		enc_emit(o, &(struct enc){ .opcode = 0xf7, .kind = RM_GS, .disp = CPU_OFF(st.cr4), .imm = CR4_TSD, .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x85);
		o->p += 4;
		emit_sys_aside(t, in);
	}
	out8(o, 0x0f), out8(o, 0x31);
	e_shift_i(o, true, 4, REG_RDX, 32);
	e_rr(o, true, 0x0b, REG_RAX, REG_RDX);
	e_rgs(o, true, 0x03, REG_RAX, CPU_OFF(tsc_offset));
	e_mov_rr(o, REG_RDX, REG_RAX);
	e_shift_i(o, true, 5, REG_RDX, 32);
	e_rr(o, false, 0x8b, REG_RAX, REG_RAX);
	if (in->op == OP_RDTSCP)
		e_rgs(o, false, 0x8b, REG_RCX, CPU_OFF(st.msr_tsc_aux));
}

/* Bits of rflags that are not arithmetic: @ext 1 or, 4 and */
static void emit_rflags(struct out *o, unsigned ext, uint32_t imm)
{
	enc_emit(o, &(struct enc){ .opcode = 0x81, .reg = ext, .kind = RM_GS, .disp = CPU_OFF(st.rflags), .imm = imm, .imm_size = 4 });
}

/* spill[1] <- the image of rflags that PUSHF stores; then the push */
static void emit_pushf(struct tr *t)
{
	struct out *o = &t->hot;

	want_flags_slot(t, FL_ARITH);
	e_rgs(o, false, 0x8b, T0, CPU_OFF(flag_slot));
	e_rr(o, false, 0x8b, T1, T0);
	e_ri(o, false, 4, T0, 1);
	e_shift_i(o, false, 4, T0, 11); /* OF */
	e_shift_i(o, false, 5, T1, 8);
	e_ri(o, false, 4, T1, 0xd5);
	e_rr(o, false, 0x0b, T0, T1);
	e_rgs(o, false, 0x8b, T1, CPU_OFF(st.rflags));
	e_ri(o, false, 4, T1, (int32_t)~(FL_ARITH | FL_RF | FL_VM));
	e_rr(o, false, 0x0b, T0, T1);
	e_store_gs(o, T0, CPU_OFF(spill[1]));
	emit_push(t, MOP_PUSH_SPILL, 0, false);
}

static void emit_sti(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	clobber_flags(t, t->live[t->cur]);
	/*
	 * Nothing waits: the shadow would protect from nothing, as the next instruction is in this
	 * block and polls stand between blocks.
	 */
	enc_emit(o, &(struct enc){ .opcode = 0x83, .reg = 7, .kind = RM_GS, .disp = CPU_OFF(irq_waiting), .imm_size = 1 });
	out8(o, 0x0f), out8(o, 0x85);
	o->p += 4;
	emit_sys_aside(t, in);
	emit_rflags(o, 1, FL_IF);
}

/* stac, clac: the key changes, and with it the TLB class */
static void emit_ac(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	unsigned live = t->live[t->cur + 1];
	bool set = in->op == OP_STAC;
	struct bt_exit *e;

	if (t->offs[t->cur + 1] >= (int)PAGE_SIZE || t->cross) {
		emit_sys(t, in);
		return;
	}
	clobber_flags(t, live);
	if (!set && (t->key & KEY_AC)) { /* AC matters only under SMAP: test dword gs:[cr4], SMAP; jz */
		enc_emit(o, &(struct enc){ .opcode = 0xf7, .kind = RM_GS, .disp = CPU_OFF(st.cr4), .imm = CR4_SMAP, .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x84);
		o->p += 4;
		emit_sys_aside(t, in);
	}
	emit_rflags(o, set ? 1 : 4, set ? FL_AC : ~FL_AC);
	if (set != !!(t->key & KEY_AC))
		enc_emit(o, &(struct enc){ .opcode = 0x83, .reg = set ? 1 : 4, .kind = RM_GS, .disp = CPU_OFF(key),
					   .imm = set ? (int)KEY_AC : ~(int)KEY_AC, .imm_size = 1 });
	want_flags_hw(t, live);
	if (t->fs == FLAGS_SLOT)
		t->fs = FLAGS_DEAD;
	e = new_exit(t, EXIT_DIRECT);
	e->target_off = t->offs[t->cur + 1];
	emit_linkable(t, o, e);
}

/* Jump through the jump cache to the guest rip in T0; flags are in the slot or dead. */
static void emit_jc_jump(struct tr *t)
{
	struct out *o = &t->hot;
	uint32_t jc = offsetof(struct bt_cpu, jc) + bt_jc_class(t->key) * sizeof(struct bt_jc);

	if (t->key & KEY_ONE) {
		e_jmp(o, t->cache->stubs.jc_miss);
		return;
	}
	e_mov_rr(o, T1, T0);
	e_shift_i(o, true, 5, T1, JC_BITS);
	e_rr(o, false, 0x33, T1, T0);
	e_ri(o, false, 4, T1, JC_SIZE - 1);
	e_jmp_gs8(o, T1, jc + offsetof(struct bt_jc, code));
}

/* Go on at page offset @off, which may be outside the page. */
static void emit_goto(struct tr *t, int off)
{
	struct out *o = &t->hot;
	enum flags_at fs = t->fs;
	unsigned live = peek_live(t, off);

	if (t->unlinked) {
		struct bt_exit *e = new_exit(t, EXIT_NEXT);

		e->target_off = off;
		emit_exit(t, o, e);
		return;
	}
	if (t->cross || off < 0 || off >= (int)PAGE_SIZE) {
		want_flags_slot(t, FL_ARITH);
		e_load_gs(o, T0, CPU_OFF(vbase));
		e_lea(o, t->wide, T0, T0, off);
		emit_jc_jump(t);
		t->fs = fs;
		return;
	}

	bool backward = off <= t->offs[t->cur];

	if (backward) {
		/* poll; destroys EFLAGS */
		struct bt_exit *e = new_exit(t, EXIT_POLL);

		want_flags_slot(t, live);
		if (t->fs == FLAGS_HW)
			t->fs = FLAGS_DEAD;
		e->target_off = off;
		enc_emit(o, &(struct enc){ .opcode = 0x83, .reg = 7, .kind = RM_GS, .disp = CPU_OFF(pending), .imm_size = 1 });
		out8(o, 0x0f), out8(o, 0x85);
		o->p += 4;
		patch_rel32(o->p - 4, t->cold.p);
		emit_exit(t, &t->cold, e);
	}
	want_flags_hw(t, live);

	struct bt_exit *e = new_exit(t, EXIT_DIRECT);

	e->target_off = off;
	/* EFLAGS hold the live flags (or none are live) */
	t->fs = t->fs == FLAGS_SLOT ? FLAGS_DEAD : t->fs;
	emit_linkable(t, o, e);
	t->fs = fs;
}

/* Forward jump over the code that follows; to be bound by bind_short(). */
static uint8_t *jcc_forward(struct tr *t, unsigned cc)
{
	out8(&t->hot, 0x0f);
	out8(&t->hot, 0x80 | cc);
	t->hot.p += 4;
	return t->hot.p - 4;
}

static void emit_loop(struct tr *t, const struct insn *in, int taken)
{
	struct out *o = &t->hot;
	bool w = in->addrsize == 8;
	uint8_t *skip_z = NULL, *to_taken, *to_fall;

	want_flags_hw(t, t->live[t->cur]);
	if (in->op != OP_JCXZ)
		e_lea(o, w, REG_RCX, REG_RCX, -1);
	/* jrcxz over a jump; jecxz with an address-size prefix */
	if (!w)
		out8(o, 0x67);
	out8(o, 0xe3);
	out8(o, 0);
	to_taken = o->p; /* rcx is zero */
	if (in->op == OP_LOOPE)
		skip_z = jcc_forward(t, 5);
	else if (in->op == OP_LOOPNE)
		skip_z = jcc_forward(t, 4);
	if (in->op == OP_JCXZ) {
		/* not zero: fall */
		out8(o, 0xe9);
		o->p += 4;
		to_fall = o->p - 4;
		to_taken[-1] = o->p - to_taken;
		emit_goto(t, taken);
		patch_rel32(to_fall, o->p);
		emit_goto(t, t->offs[t->cur + 1]);
		return;
	}
	out8(o, 0xe9);
	o->p += 4;
	to_fall = o->p - 4; /* here: the jump to the taken part */
	to_taken[-1] = o->p - to_taken;
	if (skip_z)
		patch_rel32(skip_z, o->p);
	emit_goto(t, t->offs[t->cur + 1]);
	patch_rel32(to_fall, o->p);
	emit_goto(t, taken);
}

static void emit_end(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	int next = t->offs[t->cur + 1], taken = next + (int32_t)in->imm;
	uint8_t *over;

	switch (in->op) {
	case OP_STAC: case OP_CLAC:
		emit_ac(t, in);
		break;
	case OP_JCC:
		want_flags_hw(t, FL_ARITH);
		over = jcc_forward(t, in->cc ^ 1);
		emit_goto(t, taken);
		patch_rel32(over, o->p);
		emit_goto(t, next);
		break;
	case OP_JMP:
		emit_goto(t, taken);
		break;
	case OP_LOOP: case OP_LOOPE: case OP_LOOPNE: case OP_JCXZ:
		emit_loop(t, in, taken);
		break;
	case OP_CALL:
		emit_push(t, MOP_PUSH_RIP, next, true);
		emit_goto(t, taken);
		break;
	case OP_JMP_RM: case OP_CALL_RM:
		if (in->mem)
			emit_mem_load(t, in);
		else
			e_rr(o, t->wide, 0x8b, T0, use_reg(o, in->rm, T0));
		if (in->op == OP_CALL_RM) {
			e_store_gs(o, T0, CPU_OFF(spill[1]));
			emit_push(t, MOP_PUSH_RIP, next, true);
			e_load_gs(o, T0, CPU_OFF(spill[1]));
		}
		want_flags_slot(t, FL_ARITH);
		emit_jc_jump(t);
		break;
	case OP_RET:
		emit_pop_load(t, HOST_GUEST_RSP);
		e_lea(o, t->wide, HOST_GUEST_RSP, HOST_GUEST_RSP, (t->wide ? 8 : 4) + (uint16_t)in->imm);
		want_flags_slot(t, FL_ARITH);
		emit_jc_jump(t);
		break;
	}
}

/* ---- one instruction that stays in the block ---- */

static void emit_body(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	if ((t->key & KEY_FPU) && in->unit != UNIT_GPR) {
		struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

		bt_copy(copy, in, sizeof(*copy));
		clobber_flags(t, t->live[t->cur]);
		e_mov_ri64(o, T1, (uintptr_t)new_access(t, copy, 0, 0, 0));
		e_call(o, t->cache->stubs.check);
	}

	switch (in->op) {
	case OP_NOP:
		return;
	case OP_CLD: case OP_STD: /* and, or dword gs:[rflags], imm32 */
		clobber_flags(t, t->live[t->cur]);
		enc_emit(o, &(struct enc){ .opcode = 0x81, .reg = in->op == OP_CLD ? 4 : 1, .kind = RM_GS, .disp = CPU_OFF(st.rflags),
					   .imm = in->op == OP_CLD ? ~FL_DF : FL_DF, .imm_size = 4 });
		return;
	case OP_RDTSC: case OP_RDTSCP:
		emit_rdtsc(t, in);
		return;
	case OP_PUSHF:
		emit_pushf(t);
		return;
	case OP_CLI:
		clobber_flags(t, t->live[t->cur]);
		emit_rflags(o, 4, ~FL_IF);
		return;
	case OP_STI:
		emit_sti(t, in);
		return;
	case OP_SWAPGS:
		e_load_gs(o, T0, CPU_OFF(st.segs[SEG_GS].base));
		e_load_gs(o, T1, CPU_OFF(st.msr_kernel_gs_base));
		e_store_gs(o, T0, CPU_OFF(st.msr_kernel_gs_base));
		e_store_gs(o, T1, CPU_OFF(st.segs[SEG_GS].base));
		return;
	case OP_MOV_FROM_SEG: /* movzx T0d, word gs:[selector] */
		enc_emit(o, &(struct enc){ .map = 1, .opcode = 0xb7, .reg = T0, .kind = RM_GS,
					   .disp = CPU_OFF(st.segs) + in->seg_reg * (int)sizeof(struct vcpu_seg) +
						   (int)offsetof(struct vcpu_seg, selector) });
		set_reg(t, in->rm, T0);
		return;
	case OP_PAUSE:
		out8(o, 0xf3), out8(o, 0x90);
		return;
	case OP_LEA:
		if (in->opsize == 2) {
			emit_effective(t, in, T0);
			if (reg_map[in->reg] == HOMED) {
				enc_emit(o, &(struct enc){ .prefix66 = 1, .opcode = 0x89, .reg = T0, .kind = RM_GS, .disp = REG_OFF(in->reg) });
			} else {
				enc_emit(o, &(struct enc){ .prefix66 = 1, .opcode = 0x89, .reg = T0, .kind = RM_REG, .rm = reg_map[in->reg] });
			}
		} else if (reg_map[in->reg] == HOMED || in->opsize != in->addrsize) {
			emit_effective(t, in, T0);
			if (in->opsize == 4)
				e_rr(o, false, 0x8b, T0, T0);
			set_reg(t, in->reg, T0);
		} else {
			emit_effective(t, in, reg_map[in->reg]);
		}
		return;
	case OP_PUSH_REG:
		emit_push(t, MOP_PUSH_REG, in->opreg, false);
		return;
	case OP_PUSH_IMM:
		emit_push(t, MOP_PUSH_IMM, in->imm, false);
		return;
	case OP_PUSH_RM:
		if (!in->mem) {
			emit_push(t, MOP_PUSH_REG, in->rm, false);
			return;
		}
		emit_mem_load(t, in);
		e_store_gs(o, T0, CPU_OFF(spill[1]));
		emit_push(t, MOP_PUSH_SPILL, 0, false);
		return;
	case OP_POP_REG: case OP_POP_RM:
		emit_pop_load(t, HOST_GUEST_RSP);
		e_lea(o, t->wide, HOST_GUEST_RSP, HOST_GUEST_RSP, t->wide ? 8 : 4);
		set_reg(t, in->op == OP_POP_REG ? in->opreg : in->rm, T0);
		return;
	case OP_LEAVE:
		emit_pop_load(t, REG_RBP);
		e_lea(o, t->wide, HOST_GUEST_RSP, REG_RBP, t->wide ? 8 : 4);
		e_mov_rr(o, REG_RBP, T0);
		return;
	case OP_BITTEST_MEM_REG:
		emit_bittest(t, in);
		return;
	default:
		break;
	}
	if (in->mem) {
		emit_mem_copy(t, in);
		return;
	}
	if (must_restore(t, in)) {
		restore_flags(o);
		t->fs = FLAGS_HW;
	}
	emit_copy(t, o, in, 0, t->fs == FLAGS_SLOT);
	if (in->flags_written & FL_ARITH)
		t->fs = FLAGS_HW;
}

/* ---- the block ---- */

static void decode_block(struct tr *t, unsigned off, const uint8_t *code2)
{
	unsigned max = t->key & KEY_ONE ? 1 : BLOCK_INSNS;

	t->count = 0;
	t->offs[0] = off;
	while (t->count < max && off < PAGE_SIZE) {
		struct insn *in = &t->insns[t->count];
		bool cross;
		int r = decode_at(t, off, t->count ? NULL : code2, in, &cross);

		if (r == -EAGAIN && t->count)
			break; /* crosses the page's end: the next block's */
		if (r) { /* too long; or (first) cut off by the end of memory */
			in->op = OP_INVALID;
			in->len = in->len ? in->len : 1;
		}
		if (in->op != OP_INVALID && bt_insn_hidden(t->vm, in))
			in->op = OP_INVALID;
		if (in->op == OP_INVALID) {
			in->flags_read = in->flags_written = 0;
			if (r == -E2BIG)
				in->len = INSN_MAX + 1; /* bt_sys_insn: #GP */
		}
		off += in->len;
		t->offs[++t->count] = off;
		if (cross)
			t->cross = true;
		if (place_of(t, in) != IN_BODY)
			break;
	}
}

/*
 * Where direct jumps enter a block whose instruction crosses the page's end: through the
 * jump cache, since the next page may be another by now.
 */
static void emit_cross_entry(struct tr *t)
{
	struct out *o = &t->hot;

	t->b->entry = o->p - t->cache->base;
	t->fs = FLAGS_HW;
	want_flags_slot(t, t->live[0]);
	e_load_gs(o, T0, CPU_OFF(vbase));
	e_lea(o, t->wide, T0, T0, t->offs[0]);
	emit_jc_jump(t);
}

static void emit_jc_entry(struct tr *t)
{
	struct out *o = &t->hot;
	uint32_t jc = offsetof(struct bt_cpu, jc) + bt_jc_class(t->key) * sizeof(struct bt_jc);
	bool cross = t->b->gpa2 && !(t->key & (KEY_ONE | KEY_PLAIN));

	if (cross)
		emit_cross_entry(t);
	while ((uintptr_t)o->p & 15)
		out8(o, 0xcc);
	t->b->jc_entry = o->p - t->cache->base;
	e_rgs8(o, true, 0x3b, T0, T1, jc + offsetof(struct bt_jc, rip));
	e_jcc(o, 5, t->cache->stubs.jc_miss);
	enc_emit(o, &(struct enc){ .opcode = 0x83, .reg = 7, .kind = RM_GS, .disp = CPU_OFF(pending), .imm_size = 1 });
	e_jcc(o, 5, t->cache->stubs.jc_miss);
	e_lea(o, true, T0, T0, -t->offs[0]);
	e_store_gs(o, T0, CPU_OFF(vbase));
	if (t->live[0])
		restore_flags(o);
	if (!cross)
		t->b->entry = o->p - t->cache->base;
}

struct bt_block *bt_translate(struct bt_cpu *cpu, uint32_t key, uint64_t gpa, const uint8_t *code, unsigned avail,
			      const uint8_t *code2, uint64_t gpa2)
{
	struct bt_cache *c = cpu->vm->cache;
	struct tr *t = cpu->translator;

	t->cpu = cpu;
	t->vm = cpu->vm;
	t->cache = c;
	t->key = key;
	t->mode = key & KEY_MODE_MASK;
	t->wide = t->mode == MODE_64;
	t->near_inline = t->wide || (t->mode == MODE_32 && !(t->key & KEY_CS));
	t->stack_inline = t->wide || (t->mode == MODE_32 && (t->key & KEY_SS32) && !(t->key & KEY_SEGS));
	t->unlinked = t->key & KEY_ONE;
	t->cross = false;
	t->code = code - (PAGE_SIZE - avail);
	t->cold_count = t->fault_count = 0;
	t->hot.p = c->hot;
	t->cold.p = c->cold;

	struct bt_block *b = t->b = bt_cache_alloc(c, sizeof(*b));

	b->gpa = gpa;
	b->key = t->key;
	b->page_off = PAGE_SIZE - avail;
	decode_block(t, b->page_off, code2);
	b->size = t->offs[t->count] - t->offs[0];
	if (t->offs[t->count] > (int)PAGE_SIZE && t->insns[0].op != OP_INVALID)
		b->gpa2 = gpa2;
	analyse(t);
	find_groups(t);
	emit_jc_entry(t);
	t->fs = FLAGS_HW;
	for (t->cur = 0; t->cur < t->count; t->cur++) {
		const struct insn *in = &t->insns[t->cur];

		t->access_no = 0;
		if (in->op == OP_STI && t->cur + 1 == t->count && place_of(t, in) == IN_BODY) {
			emit_sys(t, in); /* its shadow reaches into another block */
			continue;
		}
		switch (place_of(t, in)) {
		case IN_BODY:
			emit_body(t, in);
			break;
		case IN_END:
			emit_end(t, in);
			break;
		case IN_SYS:
			emit_sys(t, in);
			break;
		}
	}
	if (place_of(t, &t->insns[t->count - 1]) == IN_BODY && t->insns[t->count - 1].op != OP_STI) {
		t->cur = t->count - 1;
		emit_goto(t, t->offs[t->count]);
	}
	emit_colds(t);
	b->faults = bt_cache_alloc(c, t->fault_count * sizeof(*b->faults));
	b->fault_count = t->fault_count;
	bt_copy(b->faults, t->faults, t->fault_count * sizeof(*b->faults));
	b->hot_end = t->hot.p - c->base;
	b->cold_end = t->cold.p - c->base;
	c->hot = t->hot.p;
	c->cold = t->cold.p;
	return b;
}

size_t bt_translator_size(void)
{
	return sizeof(struct tr);
}
