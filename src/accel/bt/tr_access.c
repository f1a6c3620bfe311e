/* SPDX-License-Identifier: Apache-2.0 */
/* Memory access: the check, its slow path, grouped accesses, stack operations; see translate.c. */
#include "accel/bt/tr.h"

/* an operand whose address may be anything */
static const struct insn no_operand = { .base = INSN_NO_REG, .index = INSN_NO_REG };

static void site(struct tr *t, struct out *o, const struct cold_entry *c)
{
	if (c->at.part)
		tr_fault_site(t, o, c->flags_in_slot, true);
}

/* The operation of an access whose operand is at c->at. */
void tr_emit_mop(struct tr *t, struct out *o, const struct cold_entry *c)
{
	bool w = c->size == 8;
	unsigned reg;

	if (c->restore)
		tr_restore_flags(o);
	switch ((enum mop)c->mop) {
	case MOP_COPY:
		tr_emit_copy(t, o, c->in, c->at, c->flags_in_slot);
		break;
	case MOP_BITTEST:
		e_load(o, T1, CPU_OFF(spill[1]));
		site(t, o, c);
		enc_emit(o, &(struct enc) { .lock = c->in->lock,
					    .w = c->in->opsize == 8,
					    .map = 1,
					    .opcode = c->in->opcode,
					    .reg = T1,
					    ENC_AT(c->at) });
		break;
	case MOP_LOAD_T0:
		site(t, o, c);
		e_at(o, w, 0x8b, T0, c->at);
		break;
	case MOP_PUSH_REG:
		reg = tr_use_reg(o, c->arg, T1);
		site(t, o, c);
		e_at(o, w, 0x89, reg, c->at);
		break;
	case MOP_PUSH_IMM:
		site(t, o, c);
		enc_emit(o,
			 &(struct enc) {
			     .w = w, .opcode = 0xc7, ENC_AT(c->at), .imm = c->arg, .imm_size = 4 });
		break;
	case MOP_PUSH_RIP:
		e_load(o, T1, CPU_OFF(vbase));
		e_lea(o, w, T1, T1, c->arg);
		site(t, o, c);
		e_at(o, w, 0x89, T1, c->at);
		break;
	case MOP_PUSH_SPILL:
		e_load(o, T1, CPU_OFF(spill[1]));
		site(t, o, c);
		e_at(o, w, 0x89, T1, c->at);
		break;
	}
	if (c->mop >= MOP_PUSH_REG)
		e_lea(o, w, HOST_GUEST_RSP, HOST_GUEST_RSP, -(int)c->size);
}

/* ---- finding the page ---- */

static int32_t tlb_off(const struct tr *t)
{
	return offsetof(struct bt_cpu, tlb) + bt_key_tlb(t->key) * sizeof(struct bt_tlb);
}

#define TLB_OFF(t, member) (tlb_off(t) + (int32_t)offsetof(struct bt_tlb, member))

static int32_t tag_off(const struct tr *t, const struct probe *p)
{
	return p->write ? TLB_OFF(t, at[0].write) : TLB_OFF(t, at[0].read);
}

static int32_t static_off(const struct tr *t, const struct probe *p, bool host)
{
	return (host ? TLB_OFF(t, static_host) : TLB_OFF(t, static_la)) +
	       8 * (p->write * TLB_STATICS + p->entry);
}

static uint8_t *jcc_field(struct out *o, unsigned cc)
{
	out8(o, 0x0f), out8(o, 0x80 | cc);
	o->p += 4;
	return o->p - 4;
}

/* T0: linear address; becomes the host address. Returns the field of the jump that is taken when
 * the TLB does not have it: then T1 is the slot, and T0 what emit_undo() turns back. */
uint8_t *tr_emit_tlb(struct tr *t, struct out *o, const struct probe *p)
{
	uint8_t *miss;

	tr_emit_shifted(t, o, TLB_INDEX_SHIFT);
	e_ri(o, false, 4, T1, (TLB_SIZE - 1) << (PAGE_SHIFT - TLB_INDEX_SHIFT));
	e_rcpu8(o, true, 0x33, T0, T1, tag_off(t, p)); /* xor T0, [cpu + T1*8 + tag] */
	if (t->key & KEY_ALIGN) {
		out8(o, 0xe9);
		o->p += 4;
		miss = o->p - 4;
	} else {
		enc_emit(o, &(struct enc) { .w = true,
					    .opcode = 0x81,
					    .reg = 7,
					    .kind = RM_REG,
					    .rm = T0,
					    .imm = PAGE_SIZE - p->size,
					    .imm_size = 4 });
		miss = jcc_field(o, 7);
	}
	e_rcpu8(o, true, 0x03, T0, T1, TLB_OFF(t, at[0].host));
	return miss;
}

static void emit_undo(struct tr *t, struct out *o, const struct probe *p)
{
	e_rcpu8(o, true, 0x33, T0, T1, tag_off(t, p));
}

static bool wants_static(const struct tr *t, const struct insn *in, unsigned size)
{
	int64_t off = t->offs[t->cur + 1] + in->disp;

	if (!in->mem || in->index != INSN_NO_REG || in->addrsize != 8 || size > TLB_STATIC_BYTES)
		return false;
	if (in->base == INSN_RIP_REL)
		return off == (int32_t)off;
	return in->base == INSN_NO_REG && in->op != OP_MOV_MOFFS_LOAD &&
	       in->op != OP_MOV_MOFFS_STORE && in->disp == (int32_t)in->disp;
}

/* By address, so that all that look at one variable share an entry: where code is linear in memory,
 * as kernels are, what is relative to rip is as good as an address. */
static unsigned static_entry(const struct tr *t, const struct insn *in)
{
	uint64_t at = in->disp;

	if (in->base == INSN_RIP_REL)
		at += (t->b->gpa & ~(uint64_t)(PAGE_SIZE - 1)) + t->offs[t->cur + 1];
	return (at >> 3 ^ at >> PAGE_SHIFT) % TLB_STATICS;
}

/* How to find the page of a @size bytes access: of @in's operand, or (NULL) of a push or pop. */
static struct probe choose_probe(struct tr *t, const struct insn *in, unsigned size, bool write)
{
	struct probe p = { .kind = PROBE_TLB, .write = write, .size = size };

	if (!t->wide || t->vm->opt_nofast || (t->key & (KEY_ALIGN | KEY_ONE)))
		return p;
	if (!in || (in->base == REG_RSP && in->index == INSN_NO_REG && in->addrsize == 8 &&
		    in->seg != SEG_FS && in->seg != SEG_GS)) {
		while (p.limit < TLB_STACK_SIZES && size > 64u << 2 * p.limit)
			p.limit++;
		if (p.limit < TLB_STACK_SIZES)
			p.kind = PROBE_STACK;
	} else if (wants_static(t, in, size)) {
		p.kind = PROBE_STATIC;
		p.entry = static_entry(t, in);
	}
	return p;
}

/* T0: linear address; becomes the host address, or hot code is left at p->jump. */
static void emit_probe(struct tr *t, struct probe *p)
{
	struct out *o = &t->hot;

	switch ((enum probe_kind)p->kind) {
	case PROBE_TLB:
		p->jump = tr_emit_tlb(t, o, p);
		break;
	case PROBE_STACK:
		e_rcpu(o, true, 0x33, T0, TLB_OFF(t, stack_tag));
		e_rcpu(o, true, 0x3b, T0, TLB_OFF(t, stack_limit) + 8 * p->limit);
		p->jump = jcc_field(o, 3);
		e_rcpu(o, true, 0x03, T0, TLB_OFF(t, stack_host));
		break;
	case PROBE_STATIC:
		e_rcpu(o, true, 0x3b, T0, static_off(t, p, false));
		p->jump = jcc_field(o, 5);
		e_load(o, T0, static_off(t, p, true));
		break;
	}
	p->found = o->p;
}

/* Enter what was found into the instruction's own entry; T0: host address. */
static void emit_static_fill(struct tr *t, struct out *o, const struct probe *p,
			     const struct insn *in)
{
	e_rr(o, false, 0x8b, T1, T0);
	e_ri(o, false, 4, T1, PAGE_SIZE - 1);
	e_ri(o, false, 7, T1, PAGE_SIZE - TLB_STATIC_BYTES);
	e_jcc(o, 7, p->found);
	if (in->base == INSN_RIP_REL) {
		e_load(o, T1, CPU_OFF(vbase));
		e_lea(o, true, T1, T1, t->offs[t->cur + 1] + (int32_t)in->disp);
	} else {
		e_mov_ri64(o, T1, in->disp);
	}
	if (in->seg == SEG_FS || in->seg == SEG_GS)
		e_rcpu(o, true, 0x03, T1,
		       in->seg == SEG_FS ? CPU_OFF(st.segs[SEG_FS].base)
					 : CPU_OFF(st.segs[SEG_GS].base));
	e_store(o, T1, static_off(t, p, false));
	e_store(o, T0, static_off(t, p, true));
	e_store_imm32(o, TLB_OFF(t, static_used), 1);
	e_rr(o, true, 0x85, T1, T1); /* test */
	e_jcc(o, 8, p->found);	     /* js */
	e_store_imm32(o, TLB_OFF(t, static_low), 1);
}

/*
 * The cold side of a probe, up to where C must help: the linear address is in T0 there. Only the
 * kinds that look elsewhere first have the TLB here.
 */
static void emit_probe_cold(struct tr *t, struct out *o, const struct probe *p,
			    const struct insn *in)
{
	uint8_t *miss;

	patch_rel32(p->jump, o->p);
	if (p->kind != PROBE_TLB) {
		if (p->kind == PROBE_STACK)
			e_rcpu(o, true, 0x33, T0, TLB_OFF(t, stack_tag));
		miss = tr_emit_tlb(t, o, p);
		if (p->kind == PROBE_STATIC)
			emit_static_fill(t, o, p, in);
		else if (p->write)
			e_call(o, t->cache->stubs.stack_page[bt_key_tlb(t->key)]);
		e_jmp(o, p->found);
		patch_rel32(miss, o->p);
	}
	emit_undo(t, o, p);
}

/* The operation @mop of @in, or of a stack operation (NULL), at @at in the window. */
static void emit_in_window(struct tr *t, const struct insn *in, struct host_at at, enum mop mop,
			   int64_t arg)
{
	bool whole = mop == MOP_COPY || mop == MOP_BITTEST;
	bool restore = whole && tr_must_restore(t, in);
	struct cold_entry c = { .in = in,
				.arg = arg,
				.mop = mop,
				.at = at,
				.size = 8,
				.restore = restore,
				.flags_in_slot = t->fs == FLAGS_SLOT && !restore };

	tr_emit_mop(t, &t->hot, &c);
	if (whole && (restore || (in->flags_written & FL_ARITH)))
		t->fs = FLAGS_HW;
}

/*
 * In the plain variant of a block with KEY_WINDOW: T0 (linear address) may be in either part of the
 * window; each try does the operation and jumps to its end, from the fields in @ret_done.
 */
static void try_window(struct tr *t, const struct insn *in, enum mop mop, int64_t arg,
		       struct aside *ret_done)
{
	struct out *o = &t->hot;
	enum flags_at fs = t->fs;

	if (mop == MOP_COPY && tr_copy_borrows(in))
		return;
	for (enum host_part part = PART_HIGH; part <= PART_LOW; part++) {
		uint8_t *other = tr_window_check(t, T0, part);

		if (part == PART_LOW)
			e_rcpu(o, true, 0x03, T0, CPU_OFF(window_low));
		emit_in_window(
		    t, in,
		    (struct host_at) { .base = T0, .part = part == PART_LOW ? PART_LOW_T0 : part },
		    mop, arg);
		t->fs = fs;
		out8(o, 0xe9);
		o->p += 4;
		ret_done->fields[ret_done->count++] = o->p - 4;
		patch_rel32(other, o->p);
	}
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

	struct aside tried = { .count = 0 };

	if (t->window_plain)
		try_window(t, in, mop, arg, &tried);

	*c = (struct cold_entry) { .probe = choose_probe(t, mop == MOP_BITTEST ? &no_operand : in,
							 a->size, write),
				   .in = in,
				   .at = { .base = T0 },
				   .access = a,
				   .arg = arg,
				   .mop = mop,
				   .restore = restore,
				   .write = write,
				   .flags_in_slot = t->fs == FLAGS_SLOT && !restore };
	c->size = t->wide ? 8 : 4;
	emit_probe(t, &c->probe);
	tr_emit_mop(t, &t->hot, c);
	c->back = t->hot.p;
	for (unsigned i = 0; i < tried.count; i++)
		patch_rel32(tried.fields[i], c->back);
}

void tr_emit_colds(struct tr *t)
{
	struct out *o = &t->cold;

	for (unsigned i = 0; i < t->cold_count; i++) {
		struct cold_entry *c = &t->colds[i];

		for (t->cur = 0; t->offs[t->cur] != c->access->guest_off;)
			t->cur++;
		emit_probe_cold(t, o, &c->probe, c->in);
		e_mov_ri64(o, T1, (uintptr_t)c->access);
		e_call(o, t->ways->slow);
		tr_emit_mop(t, o, c);
		if (c->write) {
			e_mov_ri64(o, T1, (uintptr_t)c->access);
			e_call(o, t->ways->commit);
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

		struct probe p = choose_probe(t, g->base == REG_RSP ? NULL : &no_operand,
					      g->hi - g->lo, g->write);

		emit_probe(t, &p);
		e_store(o, T0, slot);

		/* not found: go on in the variant without groups */
		struct bt_exit *e = tr_new_exit(t, EXIT_DIRECT);

		e->key_bits = KEY_PLAIN;
		e->target_off = t->offs[t->cur];
		emit_probe_cold(t, &t->cold, &p, NULL);
		tr_emit_linkable(t, e_jmp_patchable(&t->cold), e);
	} else {
		e_load(o, T0, slot);
	}
	restore = in && mop == MOP_COPY && tr_must_restore(t, in);

	struct cold_entry c = { .in = in,
				.arg = arg,
				.mop = mop,
				.at = { .base = T0, .disp = m->off },
				.size = 8,
				.restore = restore,
				.flags_in_slot = t->fs == FLAGS_SLOT && !restore };

	tr_emit_mop(t, o, &c);
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

	if (t->window && !tr_copy_borrows(in)) {
		emit_in_window(t, in, tr_window_operand(t, in), MOP_COPY, 0);
		return;
	}
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
	e_store(o, T1, CPU_OFF(spill[1]));
	tr_emit_linear(t, in, a);
	e_rr(o, true, size == 8 ? 0x8b : 0x63, T1, tr_use_reg(o, in->reg, T1)); /* mov or movsxd */
	e_shift_i(o, true, 7, T1, size == 8 ? 6 : 5);
	e_lea_sib(o, true, T0, T0, T1, size, 0);
	if (t->window)
		emit_in_window(t, in, tr_window_at_t0(t), MOP_BITTEST, 0);
	else
		emit_access(t, in, a, MOP_BITTEST, 0, restore);
	t->fs = FLAGS_HW;
	a->next_flags_in_slot = false;
}

/* T0 <- memory operand of the stack operand size */
void tr_emit_mem_load(struct tr *t, const struct insn *in)
{
	struct member *m = grouped(t);

	if (t->window) {
		emit_in_window(t, in, tr_window_operand(t, in), MOP_LOAD_T0, 0);
		return;
	}
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

	if (t->window) {
		emit_in_window(t, NULL, tr_window_stack(t, REG_RSP, -8), mop, arg);
		return;
	}
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

	if (t->window) {
		emit_in_window(t, NULL,
			       tr_window_stack(t, from == HOST_GUEST_RSP ? REG_RSP : REG_RBP, 0),
			       MOP_LOAD_T0, 0);
		return;
	}
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
		e_store(&t->hot, host, HOME_OFF(greg));
	else
		e_mov_rr(&t->hot, reg_map[greg], host);
}
