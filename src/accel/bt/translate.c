/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Translation of one block.
 *
 * A block starts at some byte of a guest page and ends at a control transfer,
 * at an instruction that needs C, at the page's end, or at BLOCK_INSNS. It goes
 * on behind a few forward conditional jumps, which are taken to be rarer than
 * not. An instruction that crosses the page's end is a block of its own.
 *
 * Code is position independent in guest terms: it knows its offset in the
 * page, and finds the page's rip in cpu->vbase; so one translation serves all
 * processes that map the page, wherever.
 *
 * Flags: inside a block the arithmetic flags are in one of three places (enum
 * flags_at). A TLB check destroys EFLAGS, so before it they are set aside in
 * flag_slot when anything later reads them (liveness runs backwards over the
 * block, and looks a few instructions into successors of the same page).
 * A block has an entry for each place, and takes them to where its code wants them first; a direct
 * jump is linked to the entry for the place that its block left them in. The jump cache's have them
 * in the slot.
 *
 * Groups: accesses of one block through the same unmodified base register (known
 * constants added to it included) whose offsets lie near each other share one
 * check. The first of a group checks the whole range and keeps the host
 * address in group[]; the others use it, without touching flags. When the
 * check fails, for whatever reason, the block goes on in its KEY_PLAIN variant, which
 * has no groups: only that one raises faults and fills the TLB, so groups are never seen by the
 * guest. A host address stays good to the end of a block: what could take it away (a TLB flush,
 * code put on the page) happens between blocks.
 *
 * In a block with KEY_WINDOW there are no groups; its accesses go through the window
 * (tr_window.c, window.h).
 *
 * Memory access: hot code holds the check and the instruction; the cold part
 * holds, per access, a call to bt_slow_access() and a second copy of the
 * instruction, then bt_slow_commit() when it writes.
 */
#include "accel/bt/tr.h"

/* ---- what is inline ---- */

enum place tr_place_of(const struct tr *t, const struct insn *in)
{
	bool stack = t->stack_inline && in->opsize == (t->wide ? 8 : 4);
	bool near = t->near_inline && (t->wide || in->opsize == 4);
	bool kernel = t->wide && !(t->key & (KEY_USER | KEY_INNER | KEY_ONE));

	switch (in->op) {
	case OP_COPY:
	case OP_NOP:
	case OP_PAUSE:
	case OP_LEA:
	case OP_MOV_MOFFS_LOAD:
	case OP_MOV_MOFFS_STORE:
	case OP_XCHG:
	case OP_CMPXCHG:
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
	case OP_XADD:
	case OP_MUL:
	case OP_IMUL1:
	case OP_DIV:
	case OP_IDIV:
	case OP_CBW:
	case OP_CWD:
	case OP_SHIFT_CL:
	case OP_LAHF:
	case OP_SAHF:
	case OP_CLC:
	case OP_STC:
	case OP_CMC:
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_CLD:
	case OP_STD:
	case OP_RDTSC:
		return IN_BODY;
	case OP_PUSH_REG:
	case OP_PUSH_IMM:
	case OP_PUSH_RM:
	case OP_POP_REG:
	case OP_LEAVE:
		return stack ? IN_BODY : IN_SYS;
	case OP_POP_RM:
		return stack && !in->mem ? IN_BODY : IN_SYS;
	case OP_RDTSCP:
		return IN_BODY;
	case OP_STOS:
	case OP_MOVS:
		return tr_string_inline(t, in) ? IN_BODY : IN_SYS;
	case OP_MOV_CR:
		return kernel && !(in->opcode & 2) && in->reg <= 4 && in->reg != 1 ? IN_BODY
										   : IN_SYS;
	case OP_RDFSBASE:
	case OP_RDGSBASE:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
		return t->key & KEY_ONE ? IN_SYS : IN_BODY;
	case OP_CLI:
	case OP_STI:
	case OP_SWAPGS:
		return kernel ? IN_BODY : IN_SYS;
	case OP_STAC:
	case OP_CLAC:
		return kernel ? IN_END : IN_SYS;
	case OP_PUSHF:
		return t->wide && in->opsize == 8 && !(t->key & KEY_ONE) ? IN_BODY : IN_SYS;
	case OP_MOV_FROM_SEG:
		return !in->mem && in->opsize >= 4 ? IN_BODY : IN_SYS;
	case OP_BITTEST_MEM_REG:
		return t->wide && in->opsize >= 4 && in->addrsize == 8 ? IN_BODY : IN_SYS;
	case OP_JCC:
	case OP_JMP:
		return near ? IN_END : IN_SYS;
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
	case OP_JCXZ:
		return near && in->addrsize >= 4 ? IN_END : IN_SYS;
	case OP_JMP_RM:
		return near && in->opsize == (t->wide ? 8 : 4) ? IN_END : IN_SYS;
	case OP_CALL:
	case OP_CALL_RM:
	case OP_RET:
		return near && stack ? IN_END : IN_SYS;
	default:
		return IN_SYS;
	}
}

/* ---- decoding and liveness ---- */

static int decode_at(struct tr *t, unsigned off, const uint8_t *code2, struct insn *in,
		     bool *ret_cross)
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
unsigned tr_peek_live(struct tr *t, int64_t off)
{
	unsigned live = 0, killed = 0;

	if (off < 0 || t->unlinked || t->cross || t->exact)
		return FL_ARITH;
	for (unsigned i = 0; i < 6; i++) {
		struct insn in;
		bool cross;

		if (off >= (int)PAGE_SIZE || decode_at(t, off, NULL, &in, &cross) ||
		    in.op == OP_INVALID)
			break;

		enum place p = tr_place_of(t, &in);

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

int64_t tr_target_off(const struct tr *t, unsigned i)
{
	return t->offs[i + 1] + (int64_t)(int32_t)t->insns[i].imm;
}

static void analyse(struct tr *t)
{
	unsigned n = t->count, last = n - 1, live;
	const struct insn *in = &t->insns[last];
	enum place p = tr_place_of(t, in);

	if (p == IN_SYS)
		live = FL_ARITH;
	else if (p == IN_BODY)
		live = tr_peek_live(t, t->offs[n]);
	else if (in->op == OP_JCC || in->op == OP_LOOP || in->op == OP_LOOPE ||
		 in->op == OP_LOOPNE || in->op == OP_JCXZ)
		live = tr_peek_live(t, tr_target_off(t, last)) | tr_peek_live(t, t->offs[n]);
	else if (in->op == OP_STAC || in->op == OP_CLAC)
		live = tr_peek_live(t, t->offs[n]);
	else if (in->op == OP_JMP || in->op == OP_CALL)
		live = tr_peek_live(t, tr_target_off(t, last));
	else
		live = FL_ARITH;
	t->live[n] = live;
	for (int i = last; i >= 0; i--) {
		in = &t->insns[i];
		if (tr_place_of(t, in) == IN_SYS || t->exact)
			live = FL_ARITH;
		else if (t->mid[i])
			live |= tr_peek_live(t, tr_target_off(t, i)) | (in->flags_read & FL_ARITH);
		else
			live = (live & ~in->flags_written) | (in->flags_read & FL_ARITH);
		t->live[i] = live;
	}
}

/* ---- one instruction that stays in the block ---- */

static void emit_body(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;

	if ((t->key & KEY_FPU) && in->unit != UNIT_GPR) {
		struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

		bt_copy(copy, in, sizeof(*copy));
		tr_clobber_flags(t, t->live[t->cur]);
		e_mov_ri64(o, T1, (uintptr_t)tr_new_access(t, copy, 0, 0, 0));
		e_call(o, t->ways->check);
	}

	switch (in->op) {
	case OP_NOP:
		return;
	case OP_CLD:
	case OP_STD: /* and, or dword [rflags], imm32 */
		tr_clobber_flags(t, t->live[t->cur]);
		enc_emit(o, &(struct enc) { .opcode = 0x81,
					    .reg = in->op == OP_CLD ? 4 : 1,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(st.rflags),
					    .imm = in->op == OP_CLD ? ~FL_DF : FL_DF,
					    .imm_size = 4 });
		return;
	case OP_RDTSC:
	case OP_RDTSCP:
		tr_emit_rdtsc(t, in);
		return;
	case OP_PUSHF:
		tr_emit_pushf(t);
		return;
	case OP_CLI:
		tr_clobber_flags(t, t->live[t->cur]);
		tr_emit_rflags(o, 4, ~FL_IF);
		return;
	case OP_STI:
		tr_emit_sti(t, in);
		return;
	case OP_SWAPGS:
		e_load(o, T0, CPU_OFF(st.segs[SEG_GS].base));
		e_load(o, T1, CPU_OFF(st.msr_kernel_gs_base));
		e_store(o, T0, CPU_OFF(st.msr_kernel_gs_base));
		e_store(o, T1, CPU_OFF(st.segs[SEG_GS].base));
		return;
	case OP_MOV_FROM_SEG: /* movzx T0d, word [selector] */
		enc_emit(o, &(struct enc) { .map = 1,
					    .opcode = 0xb7,
					    .reg = T0,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(st.segs) +
						    in->seg_reg * (int)sizeof(struct vcpu_seg) +
						    (int)offsetof(struct vcpu_seg, selector) });
		tr_set_reg(t, in->rm, T0);
		return;
	case OP_PAUSE:
		out8(o, 0xf3), out8(o, 0x90);
		return;
	case OP_LEA:
		if (in->opsize == 2) {
			tr_emit_effective(t, in, T0);
			if (reg_map[in->reg] == HOMED) {
				enc_emit(o, &(struct enc) { .prefix66 = 1,
							    .opcode = 0x89,
							    .reg = T0,
							    .kind = RM_CPU,
							    .disp = HOME_OFF(in->reg) });
			} else {
				enc_emit(o, &(struct enc) { .prefix66 = 1,
							    .opcode = 0x89,
							    .reg = T0,
							    .kind = RM_REG,
							    .rm = reg_map[in->reg] });
			}
		} else if (reg_map[in->reg] == HOMED || in->opsize != in->addrsize) {
			tr_emit_effective(t, in, T0);
			if (in->opsize == 4)
				e_rr(o, false, 0x8b, T0, T0);
			tr_set_reg(t, in->reg, T0);
		} else {
			tr_emit_effective(t, in, reg_map[in->reg]);
		}
		return;
	case OP_PUSH_REG:
		tr_emit_push(t, MOP_PUSH_REG, in->opreg, false);
		return;
	case OP_PUSH_IMM:
		tr_emit_push(t, MOP_PUSH_IMM, in->imm, false);
		return;
	case OP_PUSH_RM:
		if (!in->mem) {
			tr_emit_push(t, MOP_PUSH_REG, in->rm, false);
			return;
		}
		tr_emit_mem_load(t, in);
		e_store(o, T0, CPU_OFF(spill[1]));
		tr_emit_push(t, MOP_PUSH_SPILL, 0, false);
		return;
	case OP_POP_REG:
	case OP_POP_RM:
		tr_emit_pop_load(t, HOST_GUEST_RSP);
		e_lea(o, t->wide, HOST_GUEST_RSP, HOST_GUEST_RSP, t->wide ? 8 : 4);
		tr_set_reg(t, in->op == OP_POP_REG ? in->opreg : in->rm, T0);
		return;
	case OP_LEAVE:
		tr_emit_pop_load(t, REG_RBP);
		e_lea(o, t->wide, HOST_GUEST_RSP, REG_RBP, t->wide ? 8 : 4);
		e_mov_rr(o, REG_RBP, T0);
		return;
	case OP_BITTEST_MEM_REG:
		tr_emit_bittest(t, in);
		return;
	case OP_STOS:
	case OP_MOVS:
		tr_emit_string(t, in);
		return;
	case OP_MOV_CR:
		tr_emit_from_cr(t, in);
		return;
	case OP_RDFSBASE:
	case OP_RDGSBASE:
	case OP_WRFSBASE:
	case OP_WRGSBASE:
		tr_emit_fsgsbase(t, in);
		return;
	default:
		break;
	}
	if (in->mem) {
		tr_emit_mem_copy(t, in);
		return;
	}
	if (tr_must_restore(t, in)) {
		tr_restore_flags(o);
		t->fs = FLAGS_HW;
	}
	tr_emit_copy(t, o, in, (struct host_at) { 0 }, t->fs == FLAGS_SLOT);
	if (in->flags_written & FL_ARITH)
		t->fs = FLAGS_HW;
}

/* ---- the block ---- */

static void decode_block(struct tr *t, unsigned off, const uint8_t *code2)
{
	unsigned max = t->key & KEY_ONE ? 1 : BLOCK_INSNS, sides = 0;

	t->count = 0;
	t->offs[0] = off;
	while (t->count < max && off < PAGE_SIZE) {
		struct insn *in = &t->insns[t->count];
		bool cross;
		int r = decode_at(t, off, t->count ? NULL : code2, in, &cross);

		if (r == -EAGAIN && t->count)
			break; /* crosses the page's end: the next block's */
		if (r) {       /* too long; or (first) cut off by the end of memory */
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
		t->mid[t->count - 1] = false;
		if (in->op == OP_JCC && in->imm > 0 && sides < BLOCK_SIDES && !cross &&
		    !t->vm->opt_noside && tr_place_of(t, in) == IN_END) {
			t->mid[t->count - 1] = true;
			sides++;
		} else if (tr_place_of(t, in) != IN_BODY) {
			break;
		}
	}
	t->mid[t->count - 1] = false; /* the last one ends the block */
}

/* Where the block's code wants the flags at its start: what it does first with live ones. */
static enum flags_at wanted_flags(const struct tr *t)
{
	if (!t->live[0])
		return FLAGS_DEAD;
	for (unsigned i = 0; i < t->count; i++) {
		const struct insn *in = &t->insns[i];
		enum place p = tr_place_of(t, in);

		if (p == IN_SYS)
			return FLAGS_SLOT;
		if ((in->flags_read | in->flags_written) & FL_ARITH)
			return in->mem && in->op != OP_LEA ? FLAGS_SLOT : FLAGS_HW;
		if (p == IN_END)
			return in->op == OP_JMP && in->imm > 0 ? FLAGS_HW : FLAGS_SLOT;
		if ((in->mem && in->op != OP_LEA && in->op != OP_NOP) || in->op == OP_PUSH_REG ||
		    in->op == OP_PUSH_IMM || in->op == OP_PUSH_RM || in->op == OP_POP_REG ||
		    in->op == OP_POP_RM || in->op == OP_LEAVE || in->op == OP_PUSHF ||
		    in->op == OP_STOS || in->op == OP_MOVS)
			return FLAGS_SLOT;
	}
	return t->offs[t->count] >= (int)PAGE_SIZE ? FLAGS_SLOT : FLAGS_HW;
}

/*
 * Where direct jumps enter a block whose instruction crosses the page's end: through the
 * jump cache, since the next page may be another by now.
 */
static void emit_cross_entry(struct tr *t)
{
	struct out *o = &t->hot;

	t->b->entry[FLAGS_HW] = o->p - t->cache->base;
	t->fs = FLAGS_HW;
	tr_want_flags_slot(t, t->live[0]);
	t->b->entry[FLAGS_SLOT] = t->b->entry[FLAGS_DEAD] = o->p - t->cache->base;
	e_load(o, T0, CPU_OFF(vbase));
	e_lea(o, t->wide, T0, T0, t->offs[0]);
	tr_emit_jc_jump(t);
}

static void emit_entries(struct tr *t)
{
	struct out *o = &t->hot;
	uint32_t jc = offsetof(struct bt_cpu, jc) + bt_jc_class(t->key) * sizeof(struct bt_jc);
	bool cross = t->b->gpa2 && !(t->key & (KEY_ONE | KEY_PLAIN));
	enum flags_at wanted = cross && t->live[0] ? FLAGS_HW : wanted_flags(t);
	uint32_t *entry = t->b->entry;
	uint8_t *body = NULL;

	if (cross) {
		emit_cross_entry(t);
	} else if (wanted == FLAGS_SLOT) {
		entry[FLAGS_HW] = o->p - t->cache->base;
		tr_save_flags(o);
		out8(o, 0xe9);
		o->p += 4;
		body = o->p - 4;
	}
	while ((uintptr_t)o->p & 15)
		out8(o, 0xcc);
	t->b->jc_entry = o->p - t->cache->base;
	e_rcpu8(o, true, 0x3b, T0, T1, jc + offsetof(struct bt_jc, at[0].rip));
	e_jcc(o, 5, t->cache->stubs.jc_miss[bt_jc_class(t->key)]);
	enc_emit(o, &(struct enc) { .opcode = 0x83,
				    .reg = 7,
				    .kind = RM_CPU,
				    .disp = CPU_OFF(pending),
				    .imm_size = 1 });
	e_jcc(o, 5, t->cache->stubs.jc_miss[bt_jc_class(t->key)]);
	e_lea(o, true, T0, T0, -t->offs[0]);
	e_store(o, T0, CPU_OFF(vbase));
	t->fs = wanted == FLAGS_SLOT ? FLAGS_SLOT : FLAGS_HW;
	if (!cross)
		entry[FLAGS_SLOT] = o->p - t->cache->base;
	if (body)
		patch_rel32(body, o->p);
	if (wanted == FLAGS_HW)
		tr_restore_flags(o);
	if (!cross) {
		entry[FLAGS_DEAD] = o->p - t->cache->base;
		if (wanted != FLAGS_SLOT)
			entry[FLAGS_HW] = entry[FLAGS_DEAD];
	}
}

struct bt_block *bt_translate(struct bt_cpu *cpu, uint32_t key, uint64_t gpa, const uint8_t *code,
			      unsigned avail, const uint8_t *code2, uint64_t gpa2)
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
	t->stack_inline =
	    t->wide || (t->mode == MODE_32 && (t->key & KEY_SS32) && !(t->key & KEY_SEGS));
	t->unlinked = t->key & KEY_ONE;
	t->exact = (t->key & KEY_EXACT) || t->vm->opt_exact_flags;
	t->cross = false;
	t->checked = 0;
	t->known = 0xffff;
	t->ways = &c->stubs.ways[!!(key & KEY_WINDOW)];
	t->code = code - (PAGE_SIZE - avail);
	t->cold_count = t->fault_count = t->side_count = 0;
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
	t->window = (key & (KEY_WINDOW | KEY_PLAIN)) == KEY_WINDOW && !t->cross;
	t->window_plain = (key & KEY_WINDOW) && !t->window && !t->cross;
	analyse(t);
	tr_find_groups(t);
	emit_entries(t);
	for (t->cur = 0; t->cur < t->count; t->cur++) {
		const struct insn *in = &t->insns[t->cur];

		t->access_no = 0;
		if (in->op == OP_STI && t->cur + 1 == t->count && tr_place_of(t, in) == IN_BODY) {
			tr_emit_sys(t, in); /* its shadow reaches into another block */
			continue;
		}
		switch (tr_place_of(t, in)) {
		case IN_BODY:
			emit_body(t, in);
			break;
		case IN_END:
			if (t->mid[t->cur])
				tr_emit_side(t, in);
			else
				tr_emit_end(t, in);
			break;
		case IN_SYS:
			tr_emit_sys(t, in);
			break;
		}
		if (t->window)
			tr_window_after(t, in);
	}
	if (tr_place_of(t, &t->insns[t->count - 1]) == IN_BODY &&
	    t->insns[t->count - 1].op != OP_STI) {
		t->cur = t->count - 1;
		tr_emit_goto(t, t->offs[t->count]);
	}
	tr_emit_sides(t);
	tr_emit_colds(t);
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
