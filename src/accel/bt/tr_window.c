/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operands in the window (window.h): checked once for each base register of a block, for the part
 * of the window where they are expected, and used as they are. What fails the check goes on in the
 * block's plain variant, which looks into both parts for each access, and then into the TLB. What
 * passes and is not mapped faults at a site that the signal handler knows. Nothing the guest can
 * see has changed until the operand's access is done, so that either can start the instruction
 * anew.
 */
#include "accel/bt/tr.h"
#include "accel/bt/window.h"

/* Return the field of a jump that is taken when host register @reg is not an address in @part. */
uint8_t *tr_window_check(struct tr *t, unsigned reg, enum host_part part)
{
	struct out *o = &t->hot;

	if (part == PART_HIGH) { /* andn T1, reg, [window_mask] */
		enc_emit(o, &(struct enc) { .vex = true,
					    .w = true,
					    .map = 2,
					    .opcode = 0xf2,
					    .reg = T1,
					    .vvvv = reg,
					    .kind = RM_CPU,
					    .disp = CPU_OFF(window_mask) });
	} else { /* test T1, bits above those of an address there, up to bit 47 */
		e_rorx_i(o, T1, reg, WINDOW_LOW_BITS);
		enc_emit(o, &(struct enc) { .opcode = 0xf6,
					    .kind = RM_REG,
					    .rm = T1,
					    .imm = (1 << (47 - WINDOW_LOW_BITS)) - 1,
					    .imm_size = 1 });
	}
	return e_jcc_patchable(o, 5);
}

/* Leave for the plain variant, at this instruction, unless @reg is in @part. */
static void check(struct tr *t, unsigned reg, enum host_part part)
{
	uint8_t *field = tr_window_check(t, reg, part);
	struct bt_exit *e = tr_new_exit(t, EXIT_DIRECT);

	e->key_bits = KEY_PLAIN;
	e->target_off = t->offs[t->cur];
	tr_emit_linkable(t, field, e);
}

/* The address in T0, expected in @part. */
static struct host_at at_t0(struct tr *t, enum host_part part)
{
	tr_clobber_flags(t, t->live[t->cur]);
	check(t, T0, part);
	if (part == PART_HIGH)
		return (struct host_at) { .base = T0, .part = PART_HIGH };
	e_rcpu(&t->hot, true, 0x03, T0, CPU_OFF(window_low));
	return (struct host_at) { .base = T0, .part = PART_LOW_T0 };
}

struct host_at tr_window_at_t0(struct tr *t)
{
	return at_t0(t, PART_HIGH);
}

/* Where an address is expected to lie: as what is known of it now. */
static enum host_part expected(const struct tr *t, uint64_t la)
{
	return la >> WINDOW_LOW_BITS ? PART_HIGH : PART_LOW;
}

static enum host_part expected_of(const struct tr *t, unsigned greg)
{
	if (greg == BASE_RIP)
		return expected(t, t->cpu->st.rip);
	if (greg < 16 && (t->known & 1u << greg))
		return expected(t, t->cpu->st.regs[greg]);

	uint64_t bit,
	    *hint =
		bt_window_hint(t->cache, (t->b->gpa & ~(PAGE_SIZE - 1ull)) + t->offs[t->cur], &bit);

	return *hint & bit ? PART_LOW : PART_HIGH;
}

/* @disp from guest register @greg (or BASE_RIP), whose value is in @host. */
static struct host_at behind(struct tr *t, unsigned greg, unsigned host, int64_t disp)
{
	struct out *o = &t->hot;
	uint32_t bit = 1u << greg;

	if (!(t->checked & bit)) {
		enum host_part part = greg == REG_RSP ? PART_HIGH : expected_of(t, greg);

		tr_clobber_flags(t, t->live[t->cur]);
		check(t, host, part);
		t->checked |= bit;
		t->low = (t->low & ~bit) | (part == PART_LOW ? bit : 0);
		t->drift[greg] = 0;
	}
	if (!(t->low & bit))
		return (struct host_at) { .base = host, .part = PART_HIGH, .disp = disp };
	if (host != T0) {
		e_load(o, T0, CPU_OFF(window_low));
		return (struct host_at) { .base = host, .part = PART_LOW, .disp = disp };
	}
	e_load(o, T1, CPU_OFF(window_low));
	e_lea_sib(o, true, T0, T0, T1, 1, 0);
	return (struct host_at) { .base = T0, .part = PART_LOW_T0, .disp = disp };
}

/* Whether @disp from a register that was looked at @drift ago stays within reach. */
static bool in_reach(const struct tr *t, unsigned greg, int64_t disp)
{
	int64_t off = disp + (t->checked & 1u << greg ? t->drift[greg] : 0);

	return disp == (int32_t)disp && off >= -GROUP_REACH && off <= GROUP_REACH;
}

struct host_at tr_window_stack(struct tr *t, unsigned greg, int32_t disp)
{
	if (!in_reach(t, greg, disp))
		t->checked &= ~(1u << greg);
	return behind(t, greg, reg_map[greg], disp);
}

/* Where @in's memory operand is; emits what finds it. Uses T0 and T1. */
struct host_at tr_window_operand(struct tr *t, const struct insn *in)
{
	bool rip = in->base == INSN_RIP_REL, plain = in->seg != SEG_FS && in->seg != SEG_GS;
	unsigned greg = rip ? BASE_RIP : in->base;
	int64_t disp = rip ? in->disp + t->offs[t->cur + 1] : in->disp;
	enum host_part part;

	if (plain && greg <= BASE_RIP && in->index == INSN_NO_REG && in->addrsize == 8 &&
	    in_reach(t, greg, disp)) {
		unsigned host = T0;

		if (rip)
			e_load(&t->hot, T0, CPU_OFF(vbase));
		else
			host = tr_use_reg(&t->hot, greg, T0);
		return behind(t, greg, host, disp);
	}
	if (!plain)
		part = expected(t, t->cpu->st.segs[in->seg].base);
	else if (in->index == INSN_NO_REG && greg > BASE_RIP)
		part = expected(t, in->disp);
	else if (in->index != INSN_NO_REG && (greg > BASE_RIP || in->disp > 0x10000))
		part = expected(t, in->disp); /* a table at a fixed address */
	else
		part = expected_of(t, greg);
	tr_clobber_flags(t, t->live[t->cur]);
	tr_emit_linear(t, in, NULL);
	return at_t0(t, part);
}

/* @in has been emitted: what is still known of the registers. */
void tr_window_after(struct tr *t, const struct insn *in)
{
	t->checked &= ~(uint32_t)tr_moves(in, t->drift);
	t->known &= ~(uint32_t)in->gpr_write;
	for (unsigned r = 0; r < 16; r++)
		if (t->drift[r] < -GROUP_REACH || t->drift[r] > GROUP_REACH)
			t->checked &= ~(1u << r);
}
