/* SPDX-License-Identifier: Apache-2.0 */
/* The VEX-encoded instructions: AVX, AVX2, FMA, F16C, BMI (Intel SDM volume 2, table ).
 */
#include "accel/bt/decode_form.h"

/* clang-format off */

/* Two and three operands, loads and stores; an attribute A_L2 makes 256 bits AVX2 */
#define V2(cond, size, ...)                                                                        \
	{ cond, OP_COPY, K_VEC, K_VEC | RD, size, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y, ##__VA_ARGS__ }
#define V3(cond, size, ...)                                                                        \
	{ cond, OP_COPY, K_VEC, K_VEC | RD, size, .vv = K_VEC, .unit = UNIT_AVX, .feat = FEAT_AVX, \
	  .at = OSZ_Y, ##__VA_ARGS__ }
#define VST(cond, size, ...)                                                                       \
	{ cond, OP_COPY, K_VEC, K_VEC | WR, size, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y, ##__VA_ARGS__ }
#define INT2 .at = OSZ_Y | A_L2
#define AVX2 .feat = FEAT_AVX2

#define V3_INT FORMS(V3(P66, M_X, INT2))
#define V3_COUNT FORMS(V3(P66, M_16, INT2)) /* shift counts: always 128 bits */
#define V2_INT(size) FORMS(V2(P66, size, INT2))
#define V3_PS_PD FORMS(V3(NP, M_X), V3(P66, M_X))
#define V3_PS_PD_SS_SD(...)                                                                        \
	FORMS(V3(NP, M_X, ##__VA_ARGS__), V3(P66, M_X, ##__VA_ARGS__),                             \
	      V3(PF3, M_4, ##__VA_ARGS__), V3(PF2, M_8, ##__VA_ARGS__))
#define V_RCP FORMS(V2(NP, M_X), V3(PF3, M_4))
#define VSHIFT(subs)                                                                               \
	FORMS({ P66 | REGO | SUBS(subs), OP_COPY, K_EXT, K_VEC, .vv = K_VEC, .imm = I_UB,          \
		.unit = UNIT_AVX, .feat = FEAT_AVX, INT2 })
#define TO_GPR(cond, kind, size, ...)                                                              \
	{ cond, OP_COPY, kind | WR, K_VEC | RD, size, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y, ##__VA_ARGS__ }
#define FROM_GPR3(cond, kind, size, ...)                                                           \
	{ cond, OP_COPY, K_VEC, kind | RD, size, .vv = K_VEC, .unit = UNIT_AVX, .feat = FEAT_AVX,  \
	  .at = OSZ_Y, ##__VA_ARGS__ }
#define PEXTR(cond, kind, size)                                                                    \
	{ (cond) | P66 | L0, OP_COPY, K_VEC, kind | WR, size, .imm = I_UB, .unit = UNIT_AVX,       \
	  .feat = FEAT_AVX, .at = OSZ_Y }
/* integer instructions in general registers */
#define BMI(cond, reg_acc, rm_acc, vv_acc, f, ...)                                                 \
	{ (cond) | L0, OP_COPY, reg_acc, K_Y | rm_acc, M_Y, .vv = vv_acc, .feat = f, .at = OSZ_Y, ##__VA_ARGS__ }

const struct insn_form *const insn_vex_0f[256] = {
	[0x10] = FORMS(V2(NP, M_X), V2(P66, M_X), V2(PF3 | MEMO, M_4), V3(PF3 | REGO, M_NONE),
		       V2(PF2 | MEMO, M_8), V3(PF2 | REGO, M_NONE)),
	[0x11] = FORMS(VST(NP, M_X), VST(P66, M_X), VST(PF3 | MEMO, M_4), V3(PF3 | REGO, M_NONE),
		       VST(PF2 | MEMO, M_8), V3(PF2 | REGO, M_NONE)),
	[0x12] = FORMS(V3(NP | L0, M_8), V3(P66 | L0 | MEMO, M_8), V2(PF3, M_X), V2(PF2, M_DUP)),
	[0x13] = FORMS(VST(NP | L0 | MEMO, M_8), VST(P66 | L0 | MEMO, M_8)),
	[0x14 ... 0x15] = V3_PS_PD,
	[0x16] = FORMS(V3(NP | L0, M_8), V3(P66 | L0 | MEMO, M_8), V2(PF3, M_X)),
	[0x17] = FORMS(VST(NP | L0 | MEMO, M_8), VST(P66 | L0 | MEMO, M_8)),
	[0x28] = FORMS(V2(NP, M_X), V2(P66, M_X)),
	[0x29] = FORMS(VST(NP, M_X), VST(P66, M_X)),
	[0x2a] = FORMS(FROM_GPR3(C_NP | C_66, K_Y, M_Y)),
	[0x2b] = FORMS(VST(NP | MEMO, M_X), VST(P66 | MEMO, M_X)),
	[0x2c ... 0x2d] = FORMS(TO_GPR(PF3, K_Y, M_4), TO_GPR(PF2, K_Y, M_8)),
	[0x2e ... 0x2f] = FORMS(V2(NP, M_4, .fl = FC_ALL), V2(P66, M_8, .fl = FC_ALL)),
	[0x50] = FORMS(TO_GPR(NP | REGO, K_D, M_NONE), TO_GPR(P66 | REGO, K_D, M_NONE)),
	[0x51] = FORMS(V2(NP, M_X), V2(P66, M_X), V3(PF3, M_4), V3(PF2, M_8)),
	[0x52 ... 0x53] = V_RCP,
	[0x54 ... 0x57] = V3_PS_PD,
	[0x58 ... 0x59] = V3_PS_PD_SS_SD(),
	[0x5a] = FORMS(V2(NP, M_HX), V2(P66, M_X), V3(PF3, M_4), V3(PF2, M_8)),
	[0x5b] = FORMS(V2(NP, M_X), V2(P66, M_X), V2(PF3, M_X)),
	[0x5c ... 0x5f] = V3_PS_PD_SS_SD(),
	[0x60 ... 0x6d] = V3_INT,
	[0x6e] = FORMS({ P66 | L0, OP_COPY, K_VEC, K_Y | RD, M_Y, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y }),
	[0x6f] = FORMS(V2(P66, M_X), V2(PF3, M_X)),
	[0x70] = FORMS(V2(C_NP, M_X, .imm = I_UB, INT2)),
	[0x71 ... 0x72] = VSHIFT(0x54), [0x73] = VSHIFT(0xcc),
	[0x74 ... 0x76] = V3_INT,
	[0x77] = FORMS({ NP, OP_COPY, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y }),
	[0x7c ... 0x7d] = FORMS(V3(P66, M_X), V3(PF2, M_X)),
	[0x7e] = FORMS({ P66 | L0, OP_COPY, K_VEC, K_Y | WR, M_Y, .unit = UNIT_AVX, .feat = FEAT_AVX, .at = OSZ_Y },
		       V2(PF3 | L0, M_8)),
	[0x7f] = FORMS(VST(P66, M_X), VST(PF3, M_X)),
	[0xae] = FORMS({ NP | L0 | MEMO | SUB(2), OP_COPY, K_EXT, K_EXT | RD, M_4, .unit = UNIT_AVX,
			 .feat = FEAT_AVX, .at = OSZ_Y },
		       { NP | L0 | MEMO | SUB(3), OP_COPY, K_EXT, K_EXT | WR, M_4, .unit = UNIT_AVX,
			 .feat = FEAT_AVX, .at = OSZ_Y }),
	[0xc2] = V3_PS_PD_SS_SD(.imm = I_UB),
	[0xc4] = FORMS(FROM_GPR3(P66 | L0, K_D, M_2, .imm = I_UB)),
	[0xc5] = FORMS(TO_GPR(P66 | L0 | REGO, K_D, M_NONE, .imm = I_UB)),
	[0xc6] = FORMS(V3(NP, M_X, .imm = I_UB), V3(P66, M_X, .imm = I_UB)),
	[0xd0] = FORMS(V3(P66, M_X), V3(PF2, M_X)),
	[0xd1 ... 0xd3] = V3_COUNT, [0xd4 ... 0xd5] = V3_INT,
	[0xd6] = FORMS(VST(P66 | L0, M_8)),
	[0xd7] = FORMS(TO_GPR(P66 | REGO, K_D, M_NONE, INT2)),
	[0xd8 ... 0xe0] = V3_INT, [0xe1 ... 0xe2] = V3_COUNT, [0xe3 ... 0xe5] = V3_INT,
	[0xe6] = FORMS(V2(PF3, M_HX), V2(PF2, M_X), V2(P66, M_X)),
	[0xe7] = FORMS(VST(P66 | MEMO, M_X)),
	[0xe8 ... 0xef] = V3_INT,
	[0xf0] = FORMS(V2(PF2 | MEMO, M_X)),
	[0xf1 ... 0xf3] = V3_COUNT, [0xf4 ... 0xf6] = V3_INT,
	[0xf7] = FORMS({ P66 | L0 | REGO, OP_MASKMOV, K_VEC, K_VEC, .impl = G_DI_R, .unit = UNIT_AVX,
			 .feat = FEAT_AVX, .at = OSZ_Y }),
	[0xf8 ... 0xfe] = V3_INT,
};

#define MASK_LD(cond, f)                                                                           \
	{ (cond) | P66 | MEMO, OP_VMASKMOV, K_VEC, K_VEC | RD, M_X, .vv = K_VEC, .unit = UNIT_AVX, \
	  .feat = f, .at = OSZ_Y }
#define MASK_ST(cond, f)                                                                           \
	{ (cond) | P66 | MEMO, OP_VMASKMOV, K_VEC, K_VEC | WR, M_X, .vv = K_VEC, .unit = UNIT_AVX, \
	  .feat = f, .at = OSZ_Y }
#define GATHER(cond, size)                                                                         \
	{ (cond) | P66 | MEMO, OP_GATHER, K_VEC, K_VEC | RD, size, .vv = K_VEC, .unit = UNIT_AVX,  \
	  AVX2, .at = OSZ_Y | A_VSIB }
#define FMA_P FORMS(V3(P66, M_X, .feat = FEAT_FMA))
#define FMA_S FORMS(V3(P66 | W0, M_4, .feat = FEAT_FMA), V3(P66 | W1, M_8, .feat = FEAT_FMA))
#define AES_R FORMS(V3(P66, M_X, .feat = FEAT_AES, INT2))

const struct insn_form *const insn_vex_0f38[256] = {
	[0x00 ... 0x0b] = V3_INT,
	[0x0c ... 0x0d] = FORMS(V3(P66 | W0, M_X)),
	[0x0e ... 0x0f] = FORMS(V2(P66 | W0, M_X, .fl = FC_ALL)),
	[0x13] = FORMS(V2(P66 | W0, M_HX, .feat = FEAT_F16C)),
	[0x16] = FORMS(V3(P66 | W0 | L1, M_32, AVX2)),
	[0x17] = FORMS(V2(P66, M_X, .fl = FC_ALL)),
	[0x18] = FORMS(V2(P66 | W0 | MEMO, M_4), V2(P66 | W0 | REGO, M_NONE, AVX2)),
	[0x19] = FORMS(V2(P66 | W0 | L1 | MEMO, M_8), V2(P66 | W0 | L1 | REGO, M_NONE, AVX2)),
	[0x1a] = FORMS(V2(P66 | W0 | L1 | MEMO, M_16)),
	[0x1c ... 0x1e] = V2_INT(M_X),
	[0x20] = V2_INT(M_HX), [0x21] = V2_INT(M_QX), [0x22] = V2_INT(M_OX),
	[0x23] = V2_INT(M_HX), [0x24] = V2_INT(M_QX), [0x25] = V2_INT(M_HX),
	[0x28 ... 0x29] = V3_INT,
	[0x2a] = FORMS(V2(P66 | MEMO, M_X, INT2)),
	[0x2b] = V3_INT,
	[0x2c ... 0x2d] = FORMS(MASK_LD(W0, FEAT_AVX)),
	[0x2e ... 0x2f] = FORMS(MASK_ST(W0, FEAT_AVX)),
	[0x30] = V2_INT(M_HX), [0x31] = V2_INT(M_QX), [0x32] = V2_INT(M_OX),
	[0x33] = V2_INT(M_HX), [0x34] = V2_INT(M_QX), [0x35] = V2_INT(M_HX),
	[0x36] = FORMS(V3(P66 | W0 | L1, M_32, AVX2)),
	[0x37 ... 0x40] = V3_INT,
	[0x41] = FORMS(V2(P66 | L0, M_16)),
	[0x45] = FORMS(V3(P66, M_X, AVX2)),
	[0x46] = FORMS(V3(P66 | W0, M_X, AVX2)),
	[0x47] = FORMS(V3(P66, M_X, AVX2)),
	[0x50 ... 0x53] = FORMS(V3(P66 | W0, M_X, .feat = FEAT_AVX_VNNI)),
	[0x58] = FORMS(V2(P66 | W0, M_4, AVX2)), [0x59] = FORMS(V2(P66 | W0, M_8, AVX2)),
	[0x5a] = FORMS(V2(P66 | W0 | L1 | MEMO, M_16, AVX2)),
	[0x78] = FORMS(V2(P66 | W0, M_1, AVX2)), [0x79] = FORMS(V2(P66 | W0, M_2, AVX2)),
	[0x8c] = FORMS(MASK_LD(ANY, FEAT_AVX2)), [0x8e] = FORMS(MASK_ST(ANY, FEAT_AVX2)),
	[0x90 ... 0x93] = FORMS(GATHER(W0, M_4), GATHER(W1, M_8)),
	[0x96 ... 0x98] = FMA_P, [0x99] = FMA_S, [0x9a] = FMA_P, [0x9b] = FMA_S,
	[0x9c] = FMA_P, [0x9d] = FMA_S, [0x9e] = FMA_P, [0x9f] = FMA_S,
	[0xa6 ... 0xa8] = FMA_P, [0xa9] = FMA_S, [0xaa] = FMA_P, [0xab] = FMA_S,
	[0xac] = FMA_P, [0xad] = FMA_S, [0xae] = FMA_P, [0xaf] = FMA_S,
	[0xb6 ... 0xb8] = FMA_P, [0xb9] = FMA_S, [0xba] = FMA_P, [0xbb] = FMA_S,
	[0xbc] = FMA_P, [0xbd] = FMA_S, [0xbe] = FMA_P, [0xbf] = FMA_S,
	[0xcf] = FORMS(V3(P66 | W0, M_X, .feat = FEAT_GFNI)),
	[0xdb] = FORMS(V2(P66 | L0, M_16, .feat = FEAT_AES)),
	[0xdc ... 0xdf] = AES_R,
	[0xf2] = FORMS(BMI(NP, K_Y | WR, RD, K_Y | RD, FEAT_BMI1, .fl = FC_ANDN)),
	[0xf3] = FORMS(BMI(NP | SUBS(0x0e), K_EXT, RD, K_Y | WR, FEAT_BMI1, .fl = FC_ANDN)),
	[0xf5] = FORMS(BMI(NP, K_Y | WR, RD, K_Y | RD, FEAT_BMI2, .fl = FC_ANDN),
		       BMI(C_NP | C_66, K_Y | WR, RD, K_Y | RD, FEAT_BMI2)),
	[0xf6] = FORMS(BMI(PF2, K_Y | WR, RD, K_Y | WR, FEAT_BMI2, .impl = G_D_R)),
	[0xf7] = FORMS(BMI(NP, K_Y | WR, RD, K_Y | RD, FEAT_BMI1, .fl = FC_BEXTR),
		       BMI(C_NP, K_Y | WR, RD, K_Y | RD, FEAT_BMI2)),
};

const struct insn_form *const insn_vex_0f3a[256] = {
	[0x00 ... 0x01] = FORMS(V2(P66 | W1 | L1, M_32, .imm = I_UB, AVX2)),
	[0x02] = FORMS(V3(P66 | W0, M_X, .imm = I_UB, AVX2)),
	[0x04 ... 0x05] = FORMS(V2(P66 | W0, M_X, .imm = I_UB)),
	[0x06] = FORMS(V3(P66 | W0 | L1, M_32, .imm = I_UB)),
	[0x08 ... 0x09] = FORMS(V2(P66, M_X, .imm = I_UB)),
	[0x0a] = FORMS(V3(P66, M_4, .imm = I_UB)), [0x0b] = FORMS(V3(P66, M_8, .imm = I_UB)),
	[0x0c ... 0x0d] = FORMS(V3(P66, M_X, .imm = I_UB)),
	[0x0e ... 0x0f] = FORMS(V3(P66, M_X, .imm = I_UB, INT2)),
	[0x14] = FORMS(PEXTR(ANY, K_D, M_1)), [0x15] = FORMS(PEXTR(ANY, K_D, M_2)),
	/* W1 outside 64-bit code is undefined, unlike with vmovd */
	[0x16] = FORMS(PEXTR(W0, K_Y, M_Y), PEXTR(ONLY64, K_Y, M_Y)),
	[0x17] = FORMS(PEXTR(ANY, K_D, M_4)),
	[0x18] = FORMS(V3(P66 | W0 | L1, M_16, .imm = I_UB)),
	[0x19] = FORMS(VST(P66 | W0 | L1, M_16, .imm = I_UB)),
	[0x1d] = FORMS(VST(P66 | W0, M_HX, .imm = I_UB, .feat = FEAT_F16C)),
	[0x20] = FORMS(FROM_GPR3(P66 | L0, K_D, M_1, .imm = I_UB)),
	[0x21] = FORMS(V3(P66 | L0, M_4, .imm = I_UB)),
	[0x22] = FORMS(FROM_GPR3(P66 | L0 | W0, K_Y, M_Y, .imm = I_UB),
		       FROM_GPR3(P66 | L0 | ONLY64, K_Y, M_Y, .imm = I_UB)),
	[0x38] = FORMS(V3(P66 | W0 | L1, M_16, .imm = I_UB, AVX2)),
	[0x39] = FORMS(VST(P66 | W0 | L1, M_16, .imm = I_UB, AVX2)),
	[0x40] = FORMS(V3(P66, M_X, .imm = I_UB)),
	[0x41] = FORMS(V3(P66 | L0, M_16, .imm = I_UB)),
	[0x42] = FORMS(V3(P66, M_X, .imm = I_UB, INT2)),
	[0x44] = FORMS(V3(P66, M_X, .imm = I_UB, .feat = FEAT_PCLMUL, INT2)),
	[0x46] = FORMS(V3(P66 | W0 | L1, M_32, .imm = I_UB, AVX2)),
	[0x4a ... 0x4b] = FORMS(V3(P66 | W0, M_X, .imm = I_IS4)),
	[0x4c] = FORMS(V3(P66 | W0, M_X, .imm = I_IS4, INT2)),
	[0x60] = FORMS(V2(P66 | L0, M_16, .imm = I_UB, .fl = FC_ALL, .impl = G_AD_R)),
	[0x61] = FORMS(V2(P66 | L0, M_16, .imm = I_UB, .fl = FC_ALL, .impl = G_AD_R_C_W)),
	[0x62] = FORMS(V2(P66 | L0, M_16, .imm = I_UB, .fl = FC_ALL)),
	[0x63] = FORMS(V2(P66 | L0, M_16, .imm = I_UB, .fl = FC_ALL, .impl = G_C_W)),
	[0xce ... 0xcf] = FORMS(V3(P66 | W1, M_X, .imm = I_UB, .feat = FEAT_GFNI)),
	[0xdf] = FORMS(V2(P66 | L0, M_16, .imm = I_UB, .feat = FEAT_AES)),
	[0xf0] = FORMS(BMI(PF2, K_Y | WR, RD, K_NONE, FEAT_BMI2, .imm = I_UB)),
};
