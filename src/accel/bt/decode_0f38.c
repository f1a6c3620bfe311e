/* SPDX-License-Identifier: Apache-2.0 */
/* The three-byte opcodes 0F 38 xx and 0F 3A xx without VEX (Intel SDM volume 2, tables ).
 */
#include "accel/bt/decode_form.h"

/* clang-format off */

#define SSSE3 FORMS(MMX(NP, M_8, .feat = FEAT_SSSE3), SSE(P66, M_16, .feat = FEAT_SSSE3))
#define SSE41(size) FORMS(SSE(P66, size, .feat = FEAT_SSE41))
#define SSE41_I(size) FORMS(SSE(P66, size, .imm = I_UB, .feat = FEAT_SSE41))
#define SHA FORMS(SSE(NP, M_16, .feat = FEAT_SHA))
#define AES FORMS(SSE(P66, M_16, .feat = FEAT_AES))
/* vector element to general register or memory, and back */
#define PEXTR(kind, size)                                                                          \
	FORMS({ P66, OP_COPY, K_VEC, kind | WR, size, .imm = I_UB, .unit = UNIT_SSE,               \
		.feat = FEAT_SSE41, .at = OSZ_Y })
#define PINSR(kind, size)                                                                          \
	FORMS({ P66, OP_COPY, K_VEC, kind | RD, size, .imm = I_UB, .unit = UNIT_SSE,               \
		.feat = FEAT_SSE41, .at = OSZ_Y })
#define PCMPSTR(g) FORMS(SSE(P66, M_16, .imm = I_UB, .fl = FC_ALL, .impl = g, .feat = FEAT_SSE42))

const struct insn_form *const insn_map_0f38[256] = {
	[0x00 ... 0x0b] = SSSE3,
	[0x10] = SSE41(M_16), [0x14 ... 0x15] = SSE41(M_16),
	[0x17] = FORMS(SSE(P66, M_16, .fl = FC_ALL, .feat = FEAT_SSE41)),
	[0x1c ... 0x1e] = SSSE3,
	[0x20] = SSE41(M_8), [0x21] = SSE41(M_4), [0x22] = SSE41(M_2),
	[0x23] = SSE41(M_8), [0x24] = SSE41(M_4), [0x25] = SSE41(M_8),
	[0x28 ... 0x29] = SSE41(M_16),
	[0x2a] = FORMS(SSE(P66 | MEMO, M_16, .feat = FEAT_SSE41)),
	[0x2b] = SSE41(M_16),
	[0x30] = SSE41(M_8), [0x31] = SSE41(M_4), [0x32] = SSE41(M_2),
	[0x33] = SSE41(M_8), [0x34] = SSE41(M_4), [0x35] = SSE41(M_8),
	[0x37] = FORMS(SSE(P66, M_16, .feat = FEAT_SSE42)),
	[0x38 ... 0x41] = SSE41(M_16),
	[0x82] = FORMS({ P66 | MEMO, OP_INVPCID, K_N | RD, K_EXT | RD, M_16, .feat = FEAT_INVPCID, .at = OSZ_N }),
	[0xc8 ... 0xcd] = SHA,
	[0xcf] = FORMS(SSE(P66, M_16, .feat = FEAT_GFNI)),
	[0xdb ... 0xdf] = AES,
	[0xf0] = FORMS({ NOREP | MEMO, OP_COPY, K_V | WR, K_V | RD, M_V, .feat = FEAT_MOVBE },
		       { PF2, OP_COPY, K_Y | RW, K_B | RD, M_1, .feat = FEAT_SSE42, .at = OSZ_B }),
	[0xf1] = FORMS({ NOREP | MEMO, OP_COPY, K_V | RD, K_V | WR, M_V, .feat = FEAT_MOVBE },
		       { PF2, OP_COPY, K_Y | RW, K_V | RD, M_V, .feat = FEAT_SSE42 }),
	[0xf6] = FORMS({ P66, OP_COPY, K_Y | RW, K_Y | RD, M_Y, .fl = FC_ADCX, .feat = FEAT_ADX, .at = OSZ_Y },
		       { PF3, OP_COPY, K_Y | RW, K_Y | RD, M_Y, .fl = FC_ADOX, .feat = FEAT_ADX, .at = OSZ_Y }),
};

const struct insn_form *const insn_map_0f3a[256] = {
	[0x08 ... 0x09] = SSE41_I(M_16), [0x0a] = SSE41_I(M_4), [0x0b] = SSE41_I(M_8),
	[0x0c ... 0x0e] = SSE41_I(M_16),
	[0x0f] = FORMS(MMX(NP, M_8, .imm = I_UB, .feat = FEAT_SSSE3),
		       SSE(P66, M_16, .imm = I_UB, .feat = FEAT_SSSE3)),
	[0x14] = PEXTR(K_D, M_1), [0x15] = PEXTR(K_D, M_2), [0x16] = PEXTR(K_Y, M_Y),
	[0x17] = PEXTR(K_D, M_4),
	[0x20] = PINSR(K_D, M_1), [0x21] = SSE41_I(M_4), [0x22] = PINSR(K_Y, M_Y),
	[0x40 ... 0x42] = SSE41_I(M_16),
	[0x44] = FORMS(SSE(P66, M_16, .imm = I_UB, .feat = FEAT_PCLMUL)),
	[0x60] = PCMPSTR(G_AD_R), [0x61] = PCMPSTR(G_AD_R_C_W),
	[0x62] = PCMPSTR(G_NONE), [0x63] = PCMPSTR(G_C_W),
	[0xcc] = FORMS(SSE(NP, M_16, .imm = I_UB, .feat = FEAT_SHA)),
	[0xce ... 0xcf] = FORMS(SSE(P66, M_16, .imm = I_UB, .feat = FEAT_GFNI)),
	[0xdf] = FORMS(SSE(P66, M_16, .imm = I_UB, .feat = FEAT_AES)),
};
