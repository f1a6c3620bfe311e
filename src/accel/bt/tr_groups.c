/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: which memory accesses of a block share one TLB check; see translate.c. */
#include "accel/bt/tr.h"

static void add_member(struct tr *t, unsigned i, unsigned no, unsigned base, unsigned version,
		       int64_t off, unsigned size, bool write)
{
	struct group *g = NULL;

	if (off < -GROUP_REACH || off > GROUP_REACH)
		return;
	for (int k = t->group_count - 1; k >= 0 && !g; k--) {
		struct group *c = &t->groups[k];
		int64_t lo = off < c->lo ? off : c->lo,
			hi = off + size > c->hi ? off + size : c->hi;

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
		*g = (struct group) {
			.base = base, .version = version, .lo = off, .hi = off + size, .slot = -1
		};
	}
	g->write |= write;
	t->members[i][no] =
	    (struct member) { .group = g - t->groups, .first = g->count == 0, .off = off };
	g->count++;
}

/* What an instruction adds to a register, when it is a constant. */
static bool constant_step(const struct insn *in, unsigned *reg, int64_t *step)
{
	if (in->op == OP_LEA && in->opsize == 8 && in->addrsize == 8 && in->base == in->reg &&
	    in->index == INSN_NO_REG) {
		*reg = in->reg;
		*step = in->disp;
		return true;
	}
	if (in->op != OP_COPY || in->mem || in->map || in->opsize != 8 || in->vex || !in->has_modrm)
		return false;
	*reg = in->rm;
	if ((in->opcode == 0x83 || in->opcode == 0x81) &&
	    ((in->reg & 7) == 0 || (in->reg & 7) == 5)) {
		*step = (in->reg & 7) == 0 ? in->imm : -in->imm;
		return true;
	}
	if (in->opcode == 0xff && (in->reg & 7) <= 1) {
		*step = (in->reg & 7) == 0 ? 1 : -1;
		return true;
	}
	return false;
}

/* What a push or pop adds to the stack pointer; 0: it is neither. */
static int stack_step(const struct insn *in)
{
	switch (in->op) {
	case OP_PUSH_REG:
	case OP_PUSH_IMM:
	case OP_PUSH_RM:
	case OP_PUSHF:
	case OP_CALL:
	case OP_CALL_RM:
		return -8;
	case OP_POP_REG:
	case OP_POP_RM:
	case OP_RET:
		return 8;
	default:
		return 0;
	}
}

/*
 * What @in does to the registers: adds to @delta[] where that is a constant. Return: a bit for each
 * that it changes in another way.
 */
uint16_t tr_moves(const struct insn *in, int64_t *delta)
{
	unsigned reg = REG_RSP;
	int64_t step = stack_step(in);

	if (!step && !constant_step(in, &reg, &step))
		return in->gpr_write;
	delta[reg] += step;
	if ((in->op == OP_POP_REG && in->opreg == REG_RSP) ||
	    (in->op == OP_POP_RM && in->rm == REG_RSP))
		return in->gpr_write; /* what is popped is anything */
	return in->gpr_write & ~(1u << reg);
}

void tr_find_groups(struct tr *t)
{
	unsigned version[17] = { 0 };
	int64_t delta[17] = { 0 };

	t->group_count = t->slots = 0;
	for (unsigned i = 0; i < t->count; i++)
		t->members[i][0].group = t->members[i][1].group = -1;
	if (!t->wide || t->cross || t->vm->opt_nogroup || t->window ||
	    (t->key & (KEY_PLAIN | KEY_ONE | KEY_ALIGN)))
		return;
	for (unsigned i = 0; i < t->count; i++) {
		const struct insn *in = &t->insns[i];
		unsigned no = 0;
		uint16_t written;

		if (tr_place_of(t, in) == IN_SYS)
			break;
		if (in->mem && in->mem_size && in->op != OP_LEA && in->op != OP_NOP &&
		    in->op != OP_BITTEST_MEM_REG) {
			unsigned base = in->base == INSN_RIP_REL ? BASE_RIP : in->base;
			int64_t disp =
			    in->base == INSN_RIP_REL ? in->disp + t->offs[i + 1] : in->disp;

			if (base <= BASE_RIP && in->index == INSN_NO_REG && in->addrsize == 8 &&
			    in->seg != SEG_FS && in->seg != SEG_GS && in->mem_size <= 64 &&
			    in->disp >= -GROUP_REACH && in->disp <= GROUP_REACH)
				add_member(t, i, 0, base, version[base], delta[base] + disp,
					   in->mem_size, in->mem_access & MEM_WRITE);
			no = 1;
		}
		int step = stack_step(in);

		if (step)
			add_member(t, i, no, REG_RSP, version[REG_RSP],
				   delta[REG_RSP] + (step < 0 ? step : 0), 8, step < 0);
		else if (in->op == OP_LEAVE)
			add_member(t, i, no, REG_RBP, version[REG_RBP], delta[REG_RBP], 8, false);
		written = tr_moves(in, delta);
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
