/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x87 escapes D8 to DF (Intel SDM volume 2, tables ). The
 * memory forms differ by size and direction, the register forms mostly by
 * their validity.
 */
#include "accel/bt/decode_form.h"

/* clang-format off */

#define X87_LD(sub, size) { MEMO | SUBS(sub), OP_COPY, K_EXT, K_MM | RD, size, .unit = UNIT_X87 }
#define X87_ST(sub, size) { MEMO | SUBS(sub), OP_COPY, K_EXT, K_MM | WR, size, .unit = UNIT_X87 }
#define X87_FISTTP(size) { MEMO | SUB(1), OP_COPY, K_EXT, K_MM | WR, size, .unit = UNIT_X87, .feat = FEAT_SSE3 }
#define X87_IMAGE(o, sub, access, size) { MEMO | SUB(sub), o, K_EXT, K_MM | access, size, .unit = UNIT_X87 }
/* ST(i) operands */
#define X87_ST_I(sub) { REGO | SUBS(sub), OP_COPY, K_EXT, K_MM, .unit = UNIT_X87 }
#define X87_FL(sub, flags) { REGO | SUBS(sub), OP_COPY, K_EXT, K_MM, .fl = flags, .unit = UNIT_X87 }
/* no operand: rm extends the opcode */
#define X87_OP(sub, rms) { REGO | SUB(sub) | RMS(rms), OP_COPY, K_EXT, K_EXT, .unit = UNIT_X87 }
#define X87_END { .op = OP_INVALID }

const struct insn_form insn_x87_d8[] = {
	X87_LD(0xff, M_4), X87_ST_I(0xff), X87_END
};

const struct insn_form insn_x87_d9[] = {
	X87_LD(0x01, M_4), X87_ST(0x0c, M_4),
	X87_IMAGE(OP_FLDENV, 4, RD, M_ENV), X87_LD(0x20, M_2),
	X87_IMAGE(OP_FSTENV, 6, WR, M_ENV), X87_ST(0x80, M_2),
	X87_ST_I(0x03), X87_OP(2, 0x01), /* fld, fxch; fnop */
	X87_ST_I(0x08),                  /* fstp, an alias */
	X87_OP(4, 0x33), X87_OP(5, 0x7f), X87_OP(6, 0xff), X87_OP(7, 0xff),
	X87_END
};

const struct insn_form insn_x87_da[] = {
	X87_LD(0xff, M_4),
	X87_FL(0x01, FC_READ_CF), X87_FL(0x02, FC_READ_ZF), X87_FL(0x04, FC_READ_CF_ZF),
	X87_FL(0x08, FC_READ_PF),
	X87_OP(5, 0x02), /* fucompp */
	X87_END
};

const struct insn_form insn_x87_db[] = {
	X87_LD(0x01, M_4), X87_FISTTP(M_4), X87_ST(0x0c, M_4), X87_LD(0x20, M_10), X87_ST(0x80, M_10),
	X87_FL(0x01, FC_READ_CF), X87_FL(0x02, FC_READ_ZF), X87_FL(0x04, FC_READ_CF_ZF),
	X87_FL(0x08, FC_READ_PF),
	X87_OP(4, 0x1f), /* feni, fdisi, fnclex, fninit, fsetpm */
	X87_FL(0x60, FC_ALL),
	X87_END
};

const struct insn_form insn_x87_dc[] = {
	X87_LD(0xff, M_8), X87_ST_I(0xff), X87_END
};

const struct insn_form insn_x87_dd[] = {
	X87_LD(0x01, M_8), X87_FISTTP(M_8), X87_ST(0x0c, M_8),
	X87_IMAGE(OP_FRSTOR, 4, RD, M_FSAVE), X87_IMAGE(OP_FSAVE, 6, WR, M_FSAVE), X87_ST(0x80, M_2),
	X87_ST_I(0x3f),
	X87_END
};

const struct insn_form insn_x87_de[] = {
	X87_LD(0xff, M_2), X87_OP(3, 0x02), /* fcompp */ X87_ST_I(0xf7), X87_END
};

const struct insn_form insn_x87_df[] = {
	X87_LD(0x01, M_2), X87_FISTTP(M_2), X87_ST(0x0c, M_2), X87_LD(0x10, M_10), X87_LD(0x20, M_8),
	X87_ST(0x40, M_10), X87_ST(0x80, M_8),
	X87_ST_I(0x0f),
	{ REGO | SUB(4) | RM(0), OP_COPY, K_EXT, K_EXT, .impl = G_AX_RW, .unit = UNIT_X87 }, /* fnstsw ax */
	X87_FL(0x60, FC_ALL),
	X87_END
};
