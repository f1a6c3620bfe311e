/* SPDX-License-Identifier: Apache-2.0 */
/* Memory access: the check, its slow path, grouped accesses, stack operations; see translate.c. */
#include "accel/bt/tr.h"

static void emit_mop(struct tr *t, struct out *o, const struct cold_entry *c)
{
	bool w = c->size == 8;

	if (c->restore)
		tr_restore_flags(o);
	switch ((enum mop)c->mop) {
	case MOP_COPY:
		tr_emit_copy(t, o, c->in, c->disp, c->flags_in_slot);
		break;
	case MOP_BITTEST:
		e_load_gs(o, T1, CPU_OFF(spill[1]));
		enc_emit(o, &(struct enc) { .lock = c->in->lock,
					    .w = c->in->opsize == 8,
					    .map = 1,
					    .opcode = c->in->opcode,
					    .reg = T1,
					    .kind = RM_BASE,
					    .base = T0 });
		break;
	case MOP_LOAD_T0:
		e_rm(o, w, 0x8b, T0, T0, c->disp);
		break;
	case MOP_PUSH_REG:
		e_rm(o, w, 0x89, tr_use_reg(o, c->arg, T1), T0, c->disp);
		break;
	case MOP_PUSH_IMM:
		enc_emit(o, &(struct enc) { .w = w,
					    .opcode = 0xc7,
					    .kind = RM_BASE,
					    .base = T0,
					    .disp = c->disp,
					    .imm = c->arg,
					    .imm_size = 4 });
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

/* T1 <- slot of T0 (linear address), T0 <- offset in its page if the TLB has it; then the compare.
 * Returns the tag's place. */
static uint32_t emit_check(struct tr *t, unsigned size, bool write)
{
	struct out *o = &t->hot;
	uint32_t base = offsetof(struct bt_cpu, tlb) + bt_key_tlb(t->key) * sizeof(struct bt_tlb);
	uint32_t tag =
	    base + (write ? offsetof(struct bt_tlb, write) : offsetof(struct bt_tlb, read));

	e_mov_rr(o, T1, T0);
	e_shift_i(o, true, 5, T1, PAGE_SHIFT);
	e_ri(o, false, 4, T1, TLB_SIZE - 1);
	e_rgs8(o, true, 0x33, T0, T1, tag); /* xor T0, gs:[T1*8 + tag] */
	if (t->key & KEY_ALIGN) {
		out8(o, 0xe9);
	} else {
		enc_emit(o, &(struct enc) { .w = true,
					    .opcode = 0x81,
					    .reg = 7,
					    .kind = RM_REG,
					    .rm = T0,
					    .imm = PAGE_SIZE - size,
					    .imm_size = 4 });
		out8(o, 0x0f), out8(o, 0x87); /* ja */
	}
	o->p += 4;
	return tag;
}

static void emit_add_host(struct tr *t)
{
	e_rgs8(&t->hot, true, 0x03, T0, T1,
	       offsetof(struct bt_cpu, tlb) + bt_key_tlb(t->key) * sizeof(struct bt_tlb) +
		   offsetof(struct bt_tlb, host));
}

/*
 * Check T0 (linear address) and do the operation. Flags have been saved or
 * are dead. @restore: put the flags back before the operation.
 */
static void emit_access(struct tr *t, const struct insn *in, struct bt_access *a, enum mop mop,
			int64_t arg, bool restore)
{
	bool write = a->write & MEM_WRITE;
	struct cold_entry *c = &t->colds[t->cold_count++];
	uint32_t tag = emit_check(t, a->size, write);

	*c = (struct cold_entry) { .jump = t->hot.p - 4,
				   .in = in,
				   .access = a,
				   .arg = arg,
				   .mop = mop,
				   .restore = restore,
				   .write = write,
				   .tag_off = tag,
				   .flags_in_slot = t->fs == FLAGS_SLOT && !restore };
	c->size = t->wide ? 8 : 4;
	emit_add_host(t);
	emit_mop(t, &t->hot, c);
	c->back = t->hot.p;
}

void tr_emit_colds(struct tr *t)
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

static void emit_grouped(struct tr *t, const struct member *m, const struct insn *in,
			 unsigned base_host, int32_t disp, enum mop mop, int64_t arg, bool write)
{
	struct out *o = &t->hot;
	struct group *g = &t->groups[m->group];
	int32_t slot = CPU_OFF(group) + 8 * g->slot;
	bool restore;

	if (m->first) {
		tr_clobber_flags(t, t->live[t->cur]);
		if (in) {
			struct insn at = *in;

			at.disp += m->to_lo;
			tr_emit_effective(t, &at, T0);
		} else {
			e_lea(o, true, T0, base_host, disp + m->to_lo);
		}
		emit_check(t, g->hi - g->lo, g->write);

		/* fails: go on in the variant without groups */
		uint8_t *field = o->p - 4;
		struct bt_exit *e = tr_new_exit(t, EXIT_DIRECT);

		e->key_bits = KEY_PLAIN;
		e->target_off = t->offs[t->cur];
		patch_rel32(field, t->cold.p);
		tr_emit_linkable(t, e_jmp_patchable(&t->cold), e);

		emit_add_host(t);
		e_store_gs(o, T0, slot);
	} else {
		e_load_gs(o, T0, slot);
	}
	restore = in && mop == MOP_COPY && tr_must_restore(t, in);

	struct cold_entry c = { .in = in,
				.arg = arg,
				.mop = mop,
				.disp = m->off,
				.size = 8,
				.restore = restore,
				.flags_in_slot = t->fs == FLAGS_SLOT && !restore };

	emit_mop(t, o, &c);
	if (in && mop == MOP_COPY && (restore || (in->flags_written & FL_ARITH)))
		t->fs = FLAGS_HW;
}

/* Operands that raise #GP when they are not aligned (Intel SDM 2, 2.4 "exception types 1 and 4 of
 * legacy SSE"). */
static bool wants_alignment(const struct insn *in)
{
	if (in->op == OP_CMPXCHG16B)
		return true;
	if (in->vex)
		return (in->map == 1 &&
			(in->opcode == 0x28 || in->opcode == 0x29 || in->opcode == 0x2b ||
			 (in->vex_pp == 1 &&
			  (in->opcode == 0x6f || in->opcode == 0x7f || in->opcode == 0xe7)))) ||
		       (in->map == 2 && in->opcode == 0x2a && in->vex_pp == 1);
	if (in->unit != UNIT_SSE || in->mem_size != 16)
		return false;
	if (in->map == 1)
		return !(in->opcode == 0x10 || in->opcode == 0x11 || in->opcode == 0xf0 ||
			 (in->prefix == 0xf3 && (in->opcode == 0x6f || in->opcode == 0x7f)));
	/* not string comparison; SHA only on some hosts, where the copy itself faults */
	return !(in->map == 3 && in->opcode >= 0x60 && in->opcode <= 0x63) &&
	       in->feature != FEAT_SHA;
}

/* A whole instruction with a memory operand, copied. */
void tr_emit_mem_copy(struct tr *t, const struct insn *in)
{
	struct member *m = grouped(t);
	bool restore;

	if (m) {
		emit_grouped(t, m, in, 0, 0, MOP_COPY, 0, in->mem_access & MEM_WRITE);
		return;
	}

	tr_clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = tr_new_access(t, NULL, in->mem_size, in->mem_access, in->seg);

	a->aligned = wants_alignment(in);
	a->waits = in->unit == UNIT_MMX ||
		   (in->unit == UNIT_X87 &&
		    !(in->mod != 3 && (in->opcode & 0xfb) == 0xd9 && (in->reg & 7) == 7));
	if (in->unit ==
	    UNIT_X87) /* a store that an unmasked exception suppresses must find what was there */
		a->write |= MEM_READ;
	restore = tr_must_restore(t, in);
	tr_emit_linear(t, in, a);
	emit_access(t, in, a, MOP_COPY, 0, restore);
	if (restore || (in->flags_written & FL_ARITH))
		t->fs = FLAGS_HW;
	a->next_flags_in_slot = t->fs == FLAGS_SLOT;
}

/* bt, bts, btr, btc with a bit offset in a register: the operand is the one that the offset
 * selects. */
void tr_emit_bittest(struct tr *t, const struct insn *in)
{
	struct out *o = &t->hot;
	unsigned size = in->opsize, bits = size * 8;
	bool restore;

	tr_clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = tr_new_access(t, NULL, size, in->mem_access, in->seg);

	restore = tr_must_restore(t, in);
	e_rr(o, false, 0x8b, T1, tr_use_reg(o, in->reg, T1));
	e_ri(o, false, 4, T1, bits - 1);
	e_store_gs(o, T1, CPU_OFF(spill[1]));
	tr_emit_linear(t, in, a);
	e_rr(o, true, size == 8 ? 0x8b : 0x63, T1, tr_use_reg(o, in->reg, T1)); /* mov or movsxd */
	e_shift_i(o, true, 7, T1, size == 8 ? 6 : 5);
	e_lea_sib(o, true, T0, T0, T1, size, 0);
	emit_access(t, in, a, MOP_BITTEST, 0, restore);
	t->fs = FLAGS_HW;
	a->next_flags_in_slot = false;
}

/* T0 <- memory operand of the stack operand size */
void tr_emit_mem_load(struct tr *t, const struct insn *in)
{
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, in, 0, 0, MOP_LOAD_T0, 0, false);
		return;
	}
	tr_clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = tr_new_access(t, NULL, t->wide ? 8 : 4, MEM_READ, in->seg);

	tr_emit_linear(t, in, a);
	emit_access(t, in, a, MOP_LOAD_T0, 0, false);
}

/* @last: a control transfer follows, which must not be cut off when the store hits this block */
void tr_emit_push(struct tr *t, enum mop mop, int64_t arg, bool last)
{
	unsigned size = t->wide ? 8 : 4;
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, NULL, HOST_GUEST_RSP, -8, mop, arg, true);
		return;
	}
	tr_clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = tr_new_access(t, NULL, size, MEM_WRITE, SEG_SS);

	a->next_flags_in_slot = t->fs == FLAGS_SLOT;
	a->to_end = last;
	e_lea(&t->hot, t->wide, T0, HOST_GUEST_RSP, -(int)size);
	emit_access(t, NULL, a, mop, arg, false);
}

/* T0 <- top of the stack; rsp is not changed */
void tr_emit_pop_load(struct tr *t, unsigned from)
{
	struct member *m = grouped(t);

	if (m) {
		emit_grouped(t, m, NULL, from, 0, MOP_LOAD_T0, 0, false);
		return;
	}
	tr_clobber_flags(t, t->live[t->cur]);

	struct bt_access *a = tr_new_access(t, NULL, t->wide ? 8 : 4, MEM_READ, SEG_SS);

	e_rr(&t->hot, t->wide, 0x8b, T0, from);
	emit_access(t, NULL, a, MOP_LOAD_T0, 0, false);
}

void tr_set_reg(struct tr *t, unsigned greg, unsigned host)
{
	if (reg_map[greg] == HOMED)
		e_store_gs(&t->hot, host, REG_OFF(greg));
	else
		e_mov_rr(&t->hot, reg_map[greg], host);
}
