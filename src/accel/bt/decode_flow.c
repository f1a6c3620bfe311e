/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an instruction reads and writes: general registers, explicit and
 * implicit, and the arithmetic flags.
 */
#include "accel/bt/decode_form.h"
#include "vm/vcpu_state.h"

#define FL_NOT_CF (FL_ARITH & ~FL_CF)
#define FL_ROT (FL_CF | FL_OF)
#define FL_LOW (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF)

struct flag_class {
	uint16_t read, written, undef;
};

static const struct flag_class flag_classes[FC_COUNT] = {
	[FC_ADD] = { 0, FL_ARITH, 0 },
	[FC_ADC] = { FL_CF, FL_ARITH, 0 },
	[FC_LOGIC] = { 0, FL_ARITH, FL_AF },
	[FC_INC] = { 0, FL_NOT_CF, 0 },
	[FC_MUL] = { 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	[FC_DIV] = { 0, FL_ARITH, FL_ARITH },
	/* shifts: of an unknown count; see shift_flags() */
	[FC_SHL] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_SAR] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_SHLD] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_ROT] = { 0, FL_ROT, FL_OF },
	[FC_RC] = { FL_CF, FL_ROT, FL_OF },
	[FC_BT] = { 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	[FC_BSF] = { 0, FL_ARITH, FL_ARITH & ~FL_ZF },
	[FC_TZCNT] = { 0, FL_ARITH, FL_OF | FL_SF | FL_AF | FL_PF },
	[FC_ALL] = { 0, FL_ARITH, 0 },
	[FC_READ_ALL] = { FL_ARITH, 0, 0 },
	[FC_ANDN] = { 0, FL_ARITH, FL_AF | FL_PF },
	[FC_BEXTR] = { 0, FL_ARITH, FL_SF | FL_AF | FL_PF },
	[FC_ADCX] = { FL_CF, FL_CF, 0 },
	[FC_ADOX] = { FL_OF, FL_OF, 0 },
	[FC_ZF] = { 0, FL_ZF, 0 },
	[FC_DAA] = { FL_CF | FL_AF, FL_ARITH, FL_OF },
	[FC_AAA] = { FL_AF, FL_ARITH, FL_OF | FL_SF | FL_ZF | FL_PF },
	[FC_AAM] = { 0, FL_ARITH, FL_OF | FL_AF | FL_CF },
	[FC_SAHF] = { 0, FL_LOW, 0 },
	[FC_LAHF] = { FL_LOW, 0, 0 },
	[FC_WRITE_CF] = { 0, FL_CF, 0 },
	[FC_READ_CF] = { FL_CF, 0, 0 },
	[FC_CMC] = { FL_CF, FL_CF, 0 },
	[FC_READ_ZF] = { FL_ZF, 0, 0 },
	[FC_READ_OF] = { FL_OF, 0, 0 },
	[FC_READ_PF] = { FL_PF, 0, 0 },
	[FC_READ_CF_ZF] = { FL_CF | FL_ZF, 0, 0 },
};

/* Flags of the conditions, by cc / 2 */
static const uint16_t cc_flags[8] = {
	FL_OF, FL_CF, FL_ZF, FL_CF | FL_ZF, FL_SF, FL_PF, FL_SF | FL_OF, FL_ZF | FL_SF | FL_OF,
};

/* clang-format off */
#define A (1u << REG_RAX)
#define C (1u << REG_RCX)
#define D (1u << REG_RDX)
#define B (1u << REG_RBX)
#define SP (1u << REG_RSP)
#define BP (1u << REG_RBP)
#define SI (1u << REG_RSI)
#define DI (1u << REG_RDI)

struct implicit_set {
	uint16_t read, write;
};

/* Writes count as reads too when the operand size is below 4. */
static const struct implicit_set implicit_sets[G_COUNT] = {
	[G_A_R] = { A, 0 }, [G_A_W] = { 0, A }, [G_A_RW] = { A, A }, [G_AX_RW] = { A, A },
	[G_C_R] = { C, 0 }, [G_C_RW] = { C, C }, [G_C_W] = { 0, C },
	[G_SP] = { SP, SP }, [G_FRAME] = { SP | BP, SP | BP },
	[G_PUSHA] = { 0xff, SP }, [G_POPA] = { SP, 0xff },
	[G_AD_W] = { A, A | D }, [G_AD_RW] = { A | D, A | D },
	[G_CWD] = { A, D },
	[G_D_R] = { D, 0 }, [G_AD_R] = { A | D, 0 }, [G_AD_R_C_W] = { A | D, C },
	[G_MOVS] = { SI | DI, SI | DI }, [G_STOS] = { A | DI, DI }, [G_LODS] = { SI, A | SI },
	[G_SCAS] = { A | DI, DI }, [G_INS] = { D | DI, DI }, [G_OUTS] = { D | SI, SI },
	[G_XLAT] = { A | B, A }, [G_DI_R] = { DI, 0 },
	[G_CX8] = { A | B | C | D, A | D },
	[G_CPUID] = { A | C, A | B | C | D },
	[G_ACD_R] = { A | C | D, 0 }, [G_AC_R] = { A | C, 0 },
	[G_C_R_AD_W] = { C, A | D }, [G_ACD_W] = { 0, A | C | D }, [G_TSC_W] = { 0, A | D },
	[G_IN_DX] = { D, A },
	[G_SYSCALL] = { 0, C | 1u << REG_R11 }, [G_SYSRET] = { C | 1u << REG_R11, 0 },
	[G_SYSENTER] = { 0, SP }, [G_SYSEXIT] = { C | D, SP },
};

/* clang-format on */
#undef A
#undef C
#undef D
#undef B
#undef SP
#undef BP
#undef SI
#undef DI

static const uint8_t field_of_kind[16] = {
	[K_NONE] = FIELD_NONE, [K_EXT] = FIELD_EXT, [K_B] = FIELD_GPR8,	 [K_W] = FIELD_GPR,
	[K_D] = FIELD_GPR,     [K_V] = FIELD_GPR,   [K_Y] = FIELD_GPR,	 [K_N] = FIELD_GPR,
	[K_VEC] = FIELD_VEC,   [K_MM] = FIELD_VEC,  [K_SEG] = FIELD_SEG, [K_CR] = FIELD_CR,
	[K_DR] = FIELD_DR,
};

/* Account for a register operand: @kind has the access. */
static inline void use_register(struct insn *in, uint8_t kind, uint8_t reg)
{
	unsigned int bit;
	bool partial = false;

	switch (kind & K_MASK) {
	case K_B:
		if (!in->rex)
			reg &= 3; /* 4 to 7 are ah, ch, dh and bh */
		partial = true;
		break;
	case K_W:
		partial = true;
		break;
	case K_V:
		partial = in->opsize == 2;
		break;
	case K_D:
	case K_Y:
	case K_N:
		break;
	default:
		return;
	}
	bit = 1u << reg;
	if (kind & WR)
		in->gpr_write |= bit;
	if ((kind & RD) || partial)
		in->gpr_read |= bit;
}

static void use_operands(struct insn *in, const struct insn_form *f)
{
	if (in->has_modrm) {
		in->reg_field = field_of_kind[f->reg & K_MASK];
		use_register(in, f->reg, in->reg);
		if (!in->mem) {
			in->rm_field = field_of_kind[f->rm & K_MASK];
			use_register(in, f->rm, in->rm);
		} else if (in->op != OP_NOP) {
			if (in->base < 16)
				in->gpr_read |= 1u << in->base;
			if (in->index < 16 && !(f->at & A_VSIB))
				in->gpr_read |= 1u << in->index;
		}
	}
	if (f->at & A_OPREG) {
		in->opreg_field = field_of_kind[f->vv & K_MASK];
		use_register(in, f->vv, in->opreg);
	} else if (f->vv) {
		in->vvvv_field = field_of_kind[f->vv & K_MASK];
		use_register(in, f->vv, in->vvvv);
	}
}

static void use_implicit(struct insn *in, const struct insn_form *f)
{
	const struct implicit_set *g = &implicit_sets[f->impl];

	in->gpr_read |= g->read;
	in->gpr_write |= g->write;
	if (in->opsize < 4)
		in->gpr_read |= g->write;
	if ((f->at & A_REP) && in->rep) {
		/* a zero count keeps everything */
		in->prefix = in->rep;
		in->gpr_read |= g->write | 1u << REG_RCX;
		in->gpr_write |= 1u << REG_RCX;
		if (f->fl)
			in->flags_read = FL_ARITH;
	}
}

/* Flags of a shift whose count is known: a masked count of zero changes none. */
static void shift_flags(struct insn *in, const struct insn_form *f)
{
	unsigned int count = f->at & A_ONE ? 1 : in->imm & (in->opsize == 8 ? 63 : 31);

	if (count == 0) {
		in->flags_read = in->flags_written = in->flags_undef = 0;
		return;
	}
	if (count == 1)
		in->flags_undef &= ~FL_OF;
	if (f->fl == FC_SHL && count >= in->opsize * 8)
		in->flags_undef |= FL_CF;
	if (f->fl == FC_SHLD && count > in->opsize * 8)
		in->flags_undef = FL_ARITH;
}

static void use_flags(struct insn *in, const struct insn_form *f)
{
	const struct flag_class *fc = &flag_classes[f->fl];

	if (f->fl == FC_CC) {
		in->cc = in->opcode & 15;
		in->flags_read = cc_flags[in->cc >> 1];
		return;
	}
	in->flags_read = fc->read;
	in->flags_written = fc->written;
	in->flags_undef = fc->undef;
	if (!(f->at & (A_SHIFT | A_ONE | A_CL)))
		return;
	if (!(f->at & A_CL)) {
		shift_flags(in, f);
		return;
	}
	in->flags_read |= fc->written; /* a zero count keeps them */
	if (f->fl == FC_SHL && in->opsize < 4)
		in->flags_undef |= FL_CF;
	if (f->fl == FC_SHLD && in->opsize == 2)
		in->flags_undef = FL_ARITH;
}

void insn_form_flow(const struct insn_form *f, struct insn *in)
{
	use_flags(in, f);
	use_operands(in, f);
	use_implicit(in, f);
}
