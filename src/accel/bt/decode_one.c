/* SPDX-License-Identifier: Apache-2.0 */
/* The one-byte opcodes (Intel SDM volume 2, table A-2), without x87. */
#include "accel/bt/decode_form.h"

/* clang-format off */

/* Six encodings of an arithmetic operation; access to the destination, flags, LOCK */
#define ALU(o, acc, lk, flags)                                                                     \
	[(o)] = FORMS({ ANY, OP_COPY, K_B | RD, K_B | acc, M_1, .fl = flags, .at = OSZ_B | lk }),  \
	[(o) + 1] = FORMS({ ANY, OP_COPY, K_V | RD, K_V | acc, M_V, .fl = flags, .at = lk }),      \
	[(o) + 2] = FORMS({ ANY, OP_COPY, K_B | acc, K_B | RD, M_1, .fl = flags, .at = OSZ_B }),   \
	[(o) + 3] = FORMS({ ANY, OP_COPY, K_V | acc, K_V | RD, M_V, .fl = flags }),                \
	[(o) + 4] = FORMS({ ANY, OP_COPY, .imm = I_B, .fl = flags, .at = OSZ_B,                    \
			    .impl = acc == RD ? G_A_R : G_A_RW }),                                 \
	[(o) + 5] = FORMS({ ANY, OP_COPY, .imm = I_Z, .fl = flags,                                 \
			    .impl = acc == RD ? G_A_R : G_A_RW })

/* The same operations with an immediate: or, and, xor; adc, sbb; cmp; add, sub */
#define ALU_IMM(kind, size, i, a)                                                                  \
	{ SUBS(0x52), OP_COPY, K_EXT, kind | RW, size, .imm = i, .fl = FC_LOGIC, .at = a | A_LOCK }, \
	{ SUBS(0x0c), OP_COPY, K_EXT, kind | RW, size, .imm = i, .fl = FC_ADC, .at = a | A_LOCK }, \
	{ SUBS(0x80), OP_COPY, K_EXT, kind | RD, size, .imm = i, .fl = FC_ADD, .at = a },          \
	{ ANY, OP_COPY, K_EXT, kind | RW, size, .imm = i, .fl = FC_ADD, .at = a | A_LOCK }

#define SHIFT(o, kind, size, i, g, a)                                                              \
	{ SUBS(0x03), o, K_EXT, kind | RW, size, .imm = i, .fl = FC_ROT, .impl = g, .at = a },     \
	{ SUBS(0x0c), o, K_EXT, kind | RW, size, .imm = i, .fl = FC_RC, .impl = g, .at = a },      \
	{ SUBS(0x70), o, K_EXT, kind | RW, size, .imm = i, .fl = FC_SHL, .impl = g, .at = a },     \
	{ SUBS(0x80), o, K_EXT, kind | RW, size, .imm = i, .fl = FC_SAR, .impl = g, .at = a }

#define SEG_PUSH() FORMS({ NOT64, OP_PUSH_SEG, .impl = G_SP })
#define SEG_POP() FORMS({ NOT64, OP_POP_SEG, .impl = G_SP })

#define STRING(o, a, g, f) FORMS({ ANY, o, .impl = g, .fl = f, .at = (a) | A_REP })

const struct insn_form *const insn_map_one[256] = {
	ALU(0x00, RW, A_LOCK, FC_ADD),
	[0x06] = SEG_PUSH(), [0x07] = SEG_POP(),
	ALU(0x08, RW, A_LOCK, FC_LOGIC),
	[0x0e] = SEG_PUSH(),
	ALU(0x10, RW, A_LOCK, FC_ADC),
	[0x16] = SEG_PUSH(), [0x17] = SEG_POP(),
	ALU(0x18, RW, A_LOCK, FC_ADC),
	[0x1e] = SEG_PUSH(), [0x1f] = SEG_POP(),
	ALU(0x20, RW, A_LOCK, FC_LOGIC),
	[0x27] = FORMS({ NOT64, OP_DAA, .fl = FC_DAA, .impl = G_AX_RW, .at = OSZ_B }),
	ALU(0x28, RW, A_LOCK, FC_ADD),
	[0x2f] = FORMS({ NOT64, OP_DAS, .fl = FC_DAA, .impl = G_AX_RW, .at = OSZ_B }),
	ALU(0x30, RW, A_LOCK, FC_LOGIC),
	[0x37] = FORMS({ NOT64, OP_AAA, .fl = FC_AAA, .impl = G_AX_RW, .at = OSZ_B }),
	ALU(0x38, RD, 0, FC_ADD),
	[0x3f] = FORMS({ NOT64, OP_AAS, .fl = FC_AAA, .impl = G_AX_RW, .at = OSZ_B }),
	[0x40 ... 0x4f] = FORMS({ NOT64, OP_COPY, .vv = K_V | RW, .fl = FC_INC, .at = A_OPREG | A_ALIAS }),
	[0x50 ... 0x57] = FORMS({ ANY, OP_PUSH_REG, .vv = K_V | RD, .impl = G_SP, .at = OSZ_D64 | A_OPREG }),
	[0x58 ... 0x5f] = FORMS({ ANY, OP_POP_REG, .vv = K_V | WR, .impl = G_SP, .at = OSZ_D64 | A_OPREG }),

	[0x60] = FORMS({ NOT64, OP_PUSHA, .impl = G_PUSHA }),
	[0x61] = FORMS({ NOT64, OP_POPA, .impl = G_POPA }),
	[0x62] = FORMS({ NOT64 | MEMO, OP_BOUND, K_V | RD, K_V | RD, M_2V }),
	[0x63] = FORMS({ NOT64, OP_ARPL, K_W | RD, K_W | RW, M_2, .fl = FC_ZF },
		       { ANY, OP_COPY, K_V | WR, K_D | RD, M_4 }),
	[0x68] = FORMS({ ANY, OP_PUSH_IMM, .imm = I_Z, .impl = G_SP, .at = OSZ_D64 }),
	[0x69] = FORMS({ ANY, OP_COPY, K_V | WR, K_V | RD, M_V, .imm = I_Z, .fl = FC_MUL }),
	[0x6a] = FORMS({ ANY, OP_PUSH_IMM, .imm = I_B, .impl = G_SP, .at = OSZ_D64 }),
	[0x6b] = FORMS({ ANY, OP_COPY, K_V | WR, K_V | RD, M_V, .imm = I_B, .fl = FC_MUL }),
	[0x6c] = STRING(OP_INS, OSZ_B, G_INS, FC_NONE),
	[0x6d] = STRING(OP_INS, OSZ_Z, G_INS, FC_NONE),
	[0x6e] = STRING(OP_OUTS, OSZ_B, G_OUTS, FC_NONE),
	[0x6f] = STRING(OP_OUTS, OSZ_Z, G_OUTS, FC_NONE),
	[0x70 ... 0x7f] = FORMS({ ANY, OP_JCC, .imm = I_B, .fl = FC_CC, .at = OSZ_F64 }),

	[0x80] = FORMS(ALU_IMM(K_B, M_1, I_B, OSZ_B)),
	[0x81] = FORMS(ALU_IMM(K_V, M_V, I_Z, 0)),
	[0x82] = FORMS({ ONLY64, OP_INVALID, K_EXT, K_EXT },
		       ALU_IMM(K_B, M_1, I_B, OSZ_B | A_ALIAS)),
	[0x83] = FORMS(ALU_IMM(K_V, M_V, I_B, 0)),
	[0x84] = FORMS({ ANY, OP_COPY, K_B | RD, K_B | RD, M_1, .fl = FC_LOGIC, .at = OSZ_B }),
	[0x85] = FORMS({ ANY, OP_COPY, K_V | RD, K_V | RD, M_V, .fl = FC_LOGIC }),
	[0x86] = FORMS({ ANY, OP_XCHG, K_B | RW, K_B | RW, M_1, .at = OSZ_B | A_LOCK }),
	[0x87] = FORMS({ ANY, OP_XCHG, K_V | RW, K_V | RW, M_V, .at = A_LOCK }),
	[0x88] = FORMS({ ANY, OP_COPY, K_B | RD, K_B | WR, M_1, .at = OSZ_B }),
	[0x89] = FORMS({ ANY, OP_COPY, K_V | RD, K_V | WR, M_V }),
	[0x8a] = FORMS({ ANY, OP_COPY, K_B | WR, K_B | RD, M_1, .at = OSZ_B }),
	[0x8b] = FORMS({ ANY, OP_COPY, K_V | WR, K_V | RD, M_V }),
	[0x8c] = FORMS({ SUBS(0x3f), OP_MOV_FROM_SEG, K_SEG | RD, K_V | WR, M_2 }),
	[0x8d] = FORMS({ MEMO, OP_LEA, K_V | WR, K_EXT }),
	[0x8e] = FORMS({ SUBS(0x3d), OP_MOV_TO_SEG, K_SEG | WR, K_W | RD, M_2 }),
	[0x8f] = FORMS({ SUB(0), OP_POP_RM, K_EXT, K_V | WR, M_V, .impl = G_SP, .at = OSZ_D64 }),

	[0x90 ... 0x97] = FORMS({ ANY, OP_XCHG, .vv = K_V | RW, .impl = G_A_RW, .at = A_OPREG }),
	[0x98] = FORMS({ ANY, OP_CBW, .impl = G_A_RW }),
	[0x99] = FORMS({ ANY, OP_CWD, .impl = G_CWD }),
	[0x9a] = FORMS({ NOT64, OP_CALL_FAR, .imm = I_FAR, .impl = G_SP }),
	[0x9b] = FORMS({ ANY, OP_COPY, .unit = UNIT_FWAIT }),
	[0x9c] = FORMS({ ANY, OP_PUSHF, .fl = FC_READ_ALL, .impl = G_SP, .at = OSZ_D64 }),
	[0x9d] = FORMS({ ANY, OP_POPF, .fl = FC_ALL, .impl = G_SP, .at = OSZ_D64 }),
	[0x9e] = FORMS({ ANY, OP_SAHF, .fl = FC_SAHF, .impl = G_A_R, .at = OSZ_B }),
	[0x9f] = FORMS({ ANY, OP_LAHF, .fl = FC_LAHF, .impl = G_AX_RW, .at = OSZ_B }),

	[0xa0] = FORMS({ ANY, OP_MOV_MOFFS_LOAD, .imm = I_MOFFS, .mem = M_1, .impl = G_A_W, .at = OSZ_B }),
	[0xa1] = FORMS({ ANY, OP_MOV_MOFFS_LOAD, .imm = I_MOFFS, .mem = M_V, .impl = G_A_W }),
	[0xa2] = FORMS({ ANY, OP_MOV_MOFFS_STORE, .imm = I_MOFFS, .mem = M_1, .impl = G_A_R, .at = OSZ_B }),
	[0xa3] = FORMS({ ANY, OP_MOV_MOFFS_STORE, .imm = I_MOFFS, .mem = M_V, .impl = G_A_R }),
	[0xa4] = STRING(OP_MOVS, OSZ_B, G_MOVS, FC_NONE),
	[0xa5] = STRING(OP_MOVS, OSZ_V, G_MOVS, FC_NONE),
	[0xa6] = STRING(OP_CMPS, OSZ_B, G_MOVS, FC_ADD),
	[0xa7] = STRING(OP_CMPS, OSZ_V, G_MOVS, FC_ADD),
	[0xa8] = FORMS({ ANY, OP_COPY, .imm = I_B, .fl = FC_LOGIC, .impl = G_A_R, .at = OSZ_B }),
	[0xa9] = FORMS({ ANY, OP_COPY, .imm = I_Z, .fl = FC_LOGIC, .impl = G_A_R }),
	[0xaa] = STRING(OP_STOS, OSZ_B, G_STOS, FC_NONE),
	[0xab] = STRING(OP_STOS, OSZ_V, G_STOS, FC_NONE),
	[0xac] = STRING(OP_LODS, OSZ_B, G_LODS, FC_NONE),
	[0xad] = STRING(OP_LODS, OSZ_V, G_LODS, FC_NONE),
	[0xae] = STRING(OP_SCAS, OSZ_B, G_SCAS, FC_ADD),
	[0xaf] = STRING(OP_SCAS, OSZ_V, G_SCAS, FC_ADD),

	[0xb0 ... 0xb7] = FORMS({ ANY, OP_COPY, .vv = K_B | WR, .imm = I_B, .at = OSZ_B | A_OPREG }),
	[0xb8 ... 0xbf] = FORMS({ ANY, OP_COPY, .vv = K_V | WR, .imm = I_V, .at = A_OPREG }),

	[0xc0] = FORMS(SHIFT(OP_COPY, K_B, M_1, I_UB, G_NONE, OSZ_B | A_SHIFT)),
	[0xc1] = FORMS(SHIFT(OP_COPY, K_V, M_V, I_UB, G_NONE, A_SHIFT)),
	[0xc2] = FORMS({ ANY, OP_RET, .imm = I_W, .impl = G_SP, .at = OSZ_F64 }),
	[0xc3] = FORMS({ ANY, OP_RET, .impl = G_SP, .at = OSZ_F64 }),
	[0xc4] = FORMS({ NOT64 | MEMO, OP_LSEG, K_V | WR, K_V | RD, M_P }),
	[0xc5] = FORMS({ NOT64 | MEMO, OP_LSEG, K_V | WR, K_V | RD, M_P }),
	[0xc6] = FORMS({ SUB(0), OP_COPY, K_EXT, K_B | WR, M_1, .imm = I_B, .at = OSZ_B }),
	[0xc7] = FORMS({ SUB(0), OP_COPY, K_EXT, K_V | WR, M_V, .imm = I_Z }),
	[0xc8] = FORMS({ ANY, OP_ENTER, .imm = I_ENTER, .impl = G_FRAME, .at = OSZ_D64 }),
	[0xc9] = FORMS({ ANY, OP_LEAVE, .impl = G_FRAME, .at = OSZ_D64 }),
	[0xca] = FORMS({ ANY, OP_RET_FAR, .imm = I_W, .impl = G_SP }),
	[0xcb] = FORMS({ ANY, OP_RET_FAR, .impl = G_SP }),
	[0xcc] = FORMS({ ANY, OP_INT3, .fl = FC_READ_ALL }),
	[0xcd] = FORMS({ ANY, OP_INT, .imm = I_UB, .fl = FC_READ_ALL }),
	[0xce] = FORMS({ NOT64, OP_INTO, .fl = FC_READ_ALL }),
	[0xcf] = FORMS({ ANY, OP_IRET, .fl = FC_ALL, .impl = G_SP }),

	[0xd0] = FORMS(SHIFT(OP_COPY, K_B, M_1, I_NONE, G_NONE, OSZ_B | A_ONE)),
	[0xd1] = FORMS(SHIFT(OP_COPY, K_V, M_V, I_NONE, G_NONE, A_ONE)),
	[0xd2] = FORMS(SHIFT(OP_SHIFT_CL, K_B, M_1, I_NONE, G_C_R, OSZ_B | A_CL)),
	[0xd3] = FORMS(SHIFT(OP_SHIFT_CL, K_V, M_V, I_NONE, G_C_R, A_CL)),
	[0xd4] = FORMS({ NOT64, OP_AAM, .imm = I_UB, .fl = FC_AAM, .impl = G_AX_RW, .at = OSZ_B }),
	[0xd5] = FORMS({ NOT64, OP_AAD, .imm = I_UB, .fl = FC_AAM, .impl = G_AX_RW, .at = OSZ_B }),
	[0xd6] = FORMS({ NOT64, OP_SALC, .fl = FC_READ_CF, .impl = G_A_W, .at = OSZ_B }),
	[0xd7] = FORMS({ ANY, OP_XLAT, .impl = G_XLAT, .at = OSZ_B }),
	[0xd8] = insn_x87_d8, [0xd9] = insn_x87_d9, [0xda] = insn_x87_da, [0xdb] = insn_x87_db,
	[0xdc] = insn_x87_dc, [0xdd] = insn_x87_dd, [0xde] = insn_x87_de, [0xdf] = insn_x87_df,

	[0xe0] = FORMS({ ANY, OP_LOOPNE, .imm = I_B, .fl = FC_READ_ZF, .impl = G_C_RW, .at = OSZ_F64 }),
	[0xe1] = FORMS({ ANY, OP_LOOPE, .imm = I_B, .fl = FC_READ_ZF, .impl = G_C_RW, .at = OSZ_F64 }),
	[0xe2] = FORMS({ ANY, OP_LOOP, .imm = I_B, .impl = G_C_RW, .at = OSZ_F64 }),
	[0xe3] = FORMS({ ANY, OP_JCXZ, .imm = I_B, .impl = G_C_R, .at = OSZ_F64 }),
	[0xe4] = FORMS({ ANY, OP_IN, .imm = I_UB, .impl = G_A_W, .at = OSZ_B }),
	[0xe5] = FORMS({ ANY, OP_IN, .imm = I_UB, .impl = G_A_W, .at = OSZ_Z }),
	[0xe6] = FORMS({ ANY, OP_OUT, .imm = I_UB, .impl = G_A_R, .at = OSZ_B }),
	[0xe7] = FORMS({ ANY, OP_OUT, .imm = I_UB, .impl = G_A_R, .at = OSZ_Z }),
	[0xe8] = FORMS({ ANY, OP_CALL, .imm = I_Z, .impl = G_SP, .at = OSZ_F64 }),
	[0xe9] = FORMS({ ANY, OP_JMP, .imm = I_Z, .at = OSZ_F64 }),
	[0xea] = FORMS({ NOT64, OP_JMP_FAR, .imm = I_FAR }),
	[0xeb] = FORMS({ ANY, OP_JMP, .imm = I_B, .at = OSZ_F64 }),
	[0xec] = FORMS({ ANY, OP_IN, .impl = G_IN_DX, .at = OSZ_B }),
	[0xed] = FORMS({ ANY, OP_IN, .impl = G_IN_DX, .at = OSZ_Z }),
	[0xee] = FORMS({ ANY, OP_OUT, .impl = G_AD_R, .at = OSZ_B }),
	[0xef] = FORMS({ ANY, OP_OUT, .impl = G_AD_R, .at = OSZ_Z }),

	[0xf1] = FORMS({ ANY, OP_INT1, .fl = FC_READ_ALL }),
	[0xf4] = FORMS({ ANY, OP_HLT }),
	[0xf5] = FORMS({ ANY, OP_CMC, .fl = FC_CMC }),
	[0xf6] = FORMS({ SUBS(0x03), OP_COPY, K_EXT, K_B | RD, M_1, .imm = I_B, .fl = FC_LOGIC, .at = OSZ_B },
		       { SUB(2), OP_COPY, K_EXT, K_B | RW, M_1, .at = OSZ_B | A_LOCK },
		       { SUB(3), OP_COPY, K_EXT, K_B | RW, M_1, .fl = FC_ADD, .at = OSZ_B | A_LOCK },
		       { SUB(4), OP_MUL, K_EXT, K_B | RD, M_1, .fl = FC_MUL, .impl = G_AX_RW, .at = OSZ_B },
		       { SUB(5), OP_IMUL1, K_EXT, K_B | RD, M_1, .fl = FC_MUL, .impl = G_AX_RW, .at = OSZ_B },
		       { SUB(6), OP_DIV, K_EXT, K_B | RD, M_1, .fl = FC_DIV, .impl = G_AX_RW, .at = OSZ_B },
		       { SUB(7), OP_IDIV, K_EXT, K_B | RD, M_1, .fl = FC_DIV, .impl = G_AX_RW, .at = OSZ_B }),
	[0xf7] = FORMS({ SUBS(0x03), OP_COPY, K_EXT, K_V | RD, M_V, .imm = I_Z, .fl = FC_LOGIC },
		       { SUB(2), OP_COPY, K_EXT, K_V | RW, M_V, .at = A_LOCK },
		       { SUB(3), OP_COPY, K_EXT, K_V | RW, M_V, .fl = FC_ADD, .at = A_LOCK },
		       { SUB(4), OP_MUL, K_EXT, K_V | RD, M_V, .fl = FC_MUL, .impl = G_AD_W },
		       { SUB(5), OP_IMUL1, K_EXT, K_V | RD, M_V, .fl = FC_MUL, .impl = G_AD_W },
		       { SUB(6), OP_DIV, K_EXT, K_V | RD, M_V, .fl = FC_DIV, .impl = G_AD_RW },
		       { SUB(7), OP_IDIV, K_EXT, K_V | RD, M_V, .fl = FC_DIV, .impl = G_AD_RW }),
	[0xf8] = FORMS({ ANY, OP_CLC, .fl = FC_WRITE_CF }),
	[0xf9] = FORMS({ ANY, OP_STC, .fl = FC_WRITE_CF }),
	[0xfa] = FORMS({ ANY, OP_CLI }),
	[0xfb] = FORMS({ ANY, OP_STI }),
	[0xfc] = FORMS({ ANY, OP_CLD }),
	[0xfd] = FORMS({ ANY, OP_STD }),
	[0xfe] = FORMS({ SUBS(0x03), OP_COPY, K_EXT, K_B | RW, M_1, .fl = FC_INC, .at = OSZ_B | A_LOCK }),
	[0xff] = FORMS({ SUBS(0x03), OP_COPY, K_EXT, K_V | RW, M_V, .fl = FC_INC, .at = A_LOCK },
		       { SUB(2), OP_CALL_RM, K_EXT, K_V | RD, M_V, .impl = G_SP, .at = OSZ_F64 },
		       { SUB(3) | MEMO, OP_CALL_FAR_MEM, K_EXT, K_V | RD, M_P, .impl = G_SP },
		       { SUB(4), OP_JMP_RM, K_EXT, K_V | RD, M_V, .at = OSZ_F64 },
		       { SUB(5) | MEMO, OP_JMP_FAR_MEM, K_EXT, K_V | RD, M_P },
		       { SUB(6), OP_PUSH_RM, K_EXT, K_V | RD, M_V, .impl = G_SP, .at = OSZ_D64 }),
};
