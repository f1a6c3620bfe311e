/* SPDX-License-Identifier: Apache-2.0 */
/* Ways out of a block: exits to C, jumps through the jump cache, control transfers; see
 * translate.c. */
#include "accel/bt/tr.h"

/* ---- exits ---- */

struct bt_exit *tr_new_exit(struct tr *t, unsigned kind)
{
	struct bt_exit *e = bt_cache_alloc(t->cache, sizeof(*e));

	e->kind = kind;
	e->from = t->b;
	e->guest_off = t->offs[t->cur];
	return e;
}

static void emit_exit(struct tr *t, struct out *o, struct bt_exit *e)
{
	e->flags = t->fs;
	e_mov_ri64(o, T1, (uintptr_t)e);
	e_jmp(o, t->fs == FLAGS_HW ? t->ways->exit_hw : t->ways->exit_slot);
}

/*
 * The jump with the patchable @field leads to C through a stub in the cold part until it is linked
 * to its target, to the entry for where the flags are.
 */
void tr_emit_linkable(struct tr *t, uint8_t *field, struct bt_exit *e)
{
	e->next_out = t->b->outs;
	t->b->outs = e;
	e->patch = field - t->cache->base;
	e->stub = t->cold.p - t->cache->base;
	patch_rel32(field, t->cold.p);
	emit_exit(t, &t->cold, e);
}

void tr_emit_sys(struct tr *t, const struct insn *in)
{
	struct bt_exit *e = tr_new_exit(t, EXIT_SYS);
	struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

	bt_copy(copy, in, sizeof(*copy));
	e->insn = copy;
	emit_exit(t, &t->hot, e);
}

/* Leave for bt_sys_insn() from the jumps in @a, all with the flags where they are now. */
void tr_emit_aside(struct tr *t, const struct insn *in, const struct aside *a)
{
	struct bt_exit *e = tr_new_exit(t, EXIT_SYS);
	struct insn *copy = bt_cache_alloc(t->cache, sizeof(*copy));

	bt_copy(copy, in, sizeof(*copy));
	e->insn = copy;
	for (unsigned i = 0; i < a->count; i++)
		patch_rel32(a->fields[i], t->cold.p);
	emit_exit(t, &t->cold, e);
}

/* The same from the jump that was just emitted (its rel32 is at hot.p - 4). */
void tr_emit_sys_aside(struct tr *t, const struct insn *in)
{
	tr_emit_aside(t, in, &(struct aside) { { t->hot.p - 4 }, 1 });
}

/* Jump through the jump cache to the guest rip in T0; flags are in the slot or dead. */
void tr_emit_jc_jump(struct tr *t)
{
	struct out *o = &t->hot;
	unsigned class = bt_jc_class(t->key);
	uint32_t jc = offsetof(struct bt_cpu, jc) + class * sizeof(struct bt_jc);

	if (t->key & KEY_ONE) {
		e_jmp(o, t->ways->jc_exit);
		return;
	}
	tr_emit_shifted(t, o, JC_BITS);
	e_lea_sib(o, false, T1, T1, T0, 1, 0);
	e_rcpu(o, false, 0x03, T1, CPU_OFF(jc_gen) + 4 * (int)class);
	e_ri(o, false, 4, T1, JC_MASK);
	e_jmp_cpu8(o, T1, jc + offsetof(struct bt_jc, at[0].code));
}

/* Go on at page offset @off, which may be outside the page. */
void tr_emit_goto(struct tr *t, int64_t off)
{
	struct out *o = &t->hot;
	enum flags_at fs = t->fs;
	unsigned live = tr_peek_live(t, off);

	if (t->unlinked && off == (int32_t)off) {
		struct bt_exit *e = tr_new_exit(t, EXIT_NEXT);

		e->target_off = off;
		emit_exit(t, o, e);
		return;
	}
	if (t->unlinked || t->cross || off < 0 || off >= (int)PAGE_SIZE) {
		tr_want_flags_slot(t, FL_ARITH);
		e_load(o, T0, CPU_OFF(vbase));
		if (t->wide)
			tr_add_imm64(t, T0, off);
		else
			e_lea(o, false, T0, T0, (int32_t)off);
		tr_emit_jc_jump(t);
		t->fs = fs;
		return;
	}

	bool backward = off <= t->offs[t->cur];

	if (backward) {
		/* poll; destroys EFLAGS */
		struct bt_exit *e = tr_new_exit(t, EXIT_POLL);

		tr_want_flags_slot(t, live);
		if (t->fs == FLAGS_HW)
			t->fs = FLAGS_DEAD;
		e->target_off = off;
		enc_emit(o, &(struct enc) { .opcode = 0x83,
					    .reg = 7,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(pending),
					    .imm_size = 1 });
		out8(o, 0x0f), out8(o, 0x85);
		o->p += 4;
		patch_rel32(o->p - 4, t->cold.p);
		emit_exit(t, &t->cold, e);
	}
	if (!live)
		t->fs = FLAGS_DEAD;

	struct bt_exit *e = tr_new_exit(t, EXIT_DIRECT);

	e->target_off = off;
	tr_emit_linkable(t, e_jmp_patchable(o), e);
	t->fs = fs;
}

/*
 * A conditional jump to page offset @off, flags in EFLAGS. Return: whether that is a forward one in
 * the page, which needs no code of its own where it leads.
 */
static bool emit_jcc_goto(struct tr *t, unsigned cc, int64_t off)
{
	struct bt_exit *e;

	if (t->unlinked || t->cross || off <= t->offs[t->cur] || off >= (int)PAGE_SIZE)
		return false;
	e = tr_new_exit(t, EXIT_DIRECT);
	e->target_off = off;
	if (!tr_peek_live(t, off))
		t->fs = FLAGS_DEAD;
	tr_emit_linkable(t, e_jcc_patchable(&t->hot, cc), e);
	t->fs = FLAGS_HW;
	return true;
}

/* Forward jump over the code that follows; to be bound by bind_short(). */
static uint8_t *jcc_forward(struct tr *t, unsigned cc)
{
	out8(&t->hot, 0x0f);
	out8(&t->hot, 0x80 | cc);
	t->hot.p += 4;
	return t->hot.p - 4;
}

/* A conditional jump that the block goes on behind. */
void tr_emit_side(struct tr *t, const struct insn *in)
{
	tr_want_flags_hw(t, FL_ARITH);
	if (emit_jcc_goto(t, in->cc, tr_target_off(t, t->cur)))
		return;
	t->sides[t->side_count++] =
	    (struct side) { .field = jcc_forward(t, in->cc), .index = t->cur };
}

void tr_emit_sides(struct tr *t)
{
	for (unsigned i = 0; i < t->side_count; i++) {
		patch_rel32(t->sides[i].field, t->hot.p);
		t->cur = t->sides[i].index;
		t->fs = FLAGS_HW;
		tr_emit_goto(t, tr_target_off(t, t->cur));
	}
}

static void emit_loop(struct tr *t, const struct insn *in, int64_t taken)
{
	struct out *o = &t->hot;
	bool w = in->addrsize == 8;
	uint8_t *skip_z = NULL, *to_taken, *to_fall;

	tr_want_flags_hw(t, t->live[t->cur]);
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
		tr_emit_goto(t, taken);
		patch_rel32(to_fall, o->p);
		tr_emit_goto(t, t->offs[t->cur + 1]);
		return;
	}
	out8(o, 0xe9);
	o->p += 4;
	to_fall = o->p - 4; /* here: the jump to the taken part */
	to_taken[-1] = o->p - to_taken;
	if (skip_z)
		patch_rel32(skip_z, o->p);
	tr_emit_goto(t, t->offs[t->cur + 1]);
	patch_rel32(to_fall, o->p);
	tr_emit_goto(t, taken);
}

void tr_emit_end(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	int next = t->offs[t->cur + 1];
	int64_t taken = tr_target_off(t, t->cur);
	uint8_t *over;

	switch (in->op) {
	case OP_STAC:
	case OP_CLAC:
		tr_emit_ac(t, in);
		break;
	case OP_JCC:
		tr_want_flags_hw(t, FL_ARITH);
		if (!emit_jcc_goto(t, in->cc, taken)) {
			over = jcc_forward(t, in->cc ^ 1);
			tr_emit_goto(t, taken);
			patch_rel32(over, o->p);
		}
		tr_emit_goto(t, next);
		break;
	case OP_JMP:
		tr_emit_goto(t, taken);
		break;
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
	case OP_JCXZ:
		emit_loop(t, in, taken);
		break;
	case OP_CALL:
		tr_emit_push(t, MOP_PUSH_RIP, next, true);
		tr_emit_goto(t, taken);
		break;
	case OP_JMP_RM:
	case OP_CALL_RM:
		if (in->mem)
			tr_emit_mem_load(t, in);
		else
			e_rr(o, t->wide, 0x8b, T0, tr_use_reg(o, in->rm, T0));
		if (in->op == OP_CALL_RM) {
			e_store(o, T0, CPU_OFF(spill[1]));
			tr_emit_push(t, MOP_PUSH_RIP, next, true);
			e_load(o, T0, CPU_OFF(spill[1]));
		}
		tr_want_flags_slot(t, FL_ARITH);
		tr_emit_jc_jump(t);
		break;
	case OP_RET:
		tr_emit_pop_load(t, HOST_GUEST_RSP);
		e_lea(o, t->wide, HOST_GUEST_RSP, HOST_GUEST_RSP,
		      (t->wide ? 8 : 4) + (uint16_t)in->imm);
		tr_want_flags_slot(t, FL_ARITH);
		tr_emit_jc_jump(t);
		break;
	}
}
