/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder's tables: what one encoding form of an instruction looks like.
 *
 * Each opcode of each map has a short list of forms. The decoder turns what
 * it knows after ModRM (mandatory prefix, W, L, register or memory, mode, the
 * reg and rm fields) into one set of context bits, with one bit of each kind,
 * and takes the first form none of whose denied bits is set. A list ends with
 * a form that denies nothing and is OP_INVALID. The forms of one opcode agree
 * on having a ModRM byte or not.
 */
#ifndef EYOT_ACCEL_BT_DECODE_FORM_H
#define EYOT_ACCEL_BT_DECODE_FORM_H

#include "accel/bt/decode.h"

/* The macros of frequent forms give defaults that their last arguments override. */
#pragma GCC diagnostic ignored "-Woverride-init"

/* clang-format off */

/* Context bits */
#define C_NP (1u << 0) /* no 66, F2 or F3 */
#define C_66 (1u << 1) /* 66 and neither F2 nor F3 */
#define C_F3 (1u << 2)
#define C_F2 (1u << 3)
#define C_W0 (1u << 4)
#define C_W1 (1u << 5)
#define C_L0 (1u << 6)
#define C_L1 (1u << 7)
#define C_REG (1u << 8) /* ModRM.mod is 3 */
#define C_MEM (1u << 9)
#define C_M16 (1u << 10) /* enum insn_mode */
#define C_M32 (1u << 11)
#define C_M64 (1u << 12)
#define C_SUB_SHIFT 13 /* ModRM.reg, eight bits */
#define C_RM_SHIFT 21  /* ModRM.rm, eight bits */

/* What a form asks for, as bits it denies */
#define ANY 0
#define NP (C_66 | C_F3 | C_F2)
#define P66 (C_NP | C_F3 | C_F2)
#define PF3 (C_NP | C_66 | C_F2)
#define PF2 (C_NP | C_66 | C_F3)
#define NOREP (C_F3 | C_F2) /* 66 is an operand-size prefix here */
#define W0 C_W1
#define W1 C_W0
#define L0 C_L1
#define L1 C_L0
#define REGO C_MEM /* register form only */
#define MEMO C_REG /* memory form only */
#define ONLY64 (C_M16 | C_M32)
#define NOT64 C_M64
#define SUBS(set) ((~(uint32_t)(set) & 0xff) << C_SUB_SHIFT)
#define SUB(n) SUBS(1u << (n))
#define RMS(set) ((~(uint32_t)(set) & 0xff) << C_RM_SHIFT)
#define RM(n) RMS(1u << (n))

/* An operand: its kind, and how it is accessed */
enum form_kind {
	K_NONE,
	K_EXT, /* extends the opcode, or means nothing */
	K_B,   /* 8-bit general register */
	K_W,   /* 16-bit general register */
	K_D,   /* 32-bit general register */
	K_V,   /* general register of the operand size */
	K_Y,   /* 32- or 64-bit general register, by W */
	K_N,   /* 64-bit in 64-bit code, else 32-bit */
	K_VEC, /* XMM, YMM */
	K_MM,  /* MMX, x87: three bits of register number */
	K_SEG,
	K_CR,
	K_DR,
};
#define K_MASK 0x0f
#define RD 0x10
#define WR 0x20
#define RW (RD | WR)

/* Sizes of memory operands */
enum form_mem {
	M_NONE,
	M_1, M_2, M_4, M_8, M_10, M_16, M_32, M_512,
	M_V,     /* operand size */
	M_Y,     /* 4 or 8 by W */
	M_P,     /* far pointer: operand size + 2 */
	M_2V,    /* two of the operand size */
	M_DT,    /* descriptor table register: 10 in 64-bit code, else 6 */
	M_X,     /* 16 or 32 by L, */
	M_HX,    /* a half, */
	M_QX,    /* a quarter, */
	M_OX,    /* an eighth of it */
	M_DUP,   /* movddup: 8, 32 by L */
	M_ENV,   /* x87 environment: 14 or 28 by the operand size */
	M_FSAVE, /* x87 state: 94 or 108 */
};

/* Immediates */
enum form_imm {
	I_NONE,
	I_B,     /* byte, sign-extended */
	I_UB,    /* byte, zero-extended */
	I_W,     /* 16 bits, zero-extended */
	I_Z,     /* 16 or 32 bits by the operand size, sign-extended */
	I_V,     /* 16, 32 or 64 bits by the operand size */
	I_ENTER, /* 16 bits and a byte */
	I_FAR,   /* far pointer: offset and selector */
	I_MOFFS, /* offset of the address size */
	I_IS4,   /* register in bits 7:4 */
};

/* What happens to the arithmetic flags: see flag_classes in decode_flow.c */
enum form_flags {
	FC_NONE,
	FC_ADD, FC_ADC, FC_LOGIC, FC_INC, FC_MUL, FC_DIV,
	FC_SHL, FC_SAR, FC_SHLD, FC_ROT, FC_RC, FC_BT, FC_BSF, FC_TZCNT,
	FC_ALL,      /* all written and defined */
	FC_READ_ALL,
	FC_ANDN, FC_BEXTR,
	FC_ADCX, FC_ADOX,
	FC_ZF,       /* ZF written */
	FC_DAA, FC_AAA, FC_AAM,
	FC_SAHF, FC_LAHF, FC_WRITE_CF, FC_READ_CF, FC_CMC,
	FC_READ_ZF, FC_READ_OF, FC_READ_PF, FC_READ_CF_ZF,
	FC_CC,       /* read by condition code */
	FC_COUNT
};

/* General registers used without being in the encoding: see implicit_sets in decode_flow.c */
enum form_implicit {
	G_NONE,
	G_A_R, G_A_W, G_A_RW, /* accumulator of the operand size */
	G_AX_RW,              /* AX or AL whatever the operand size */
	G_C_R, G_C_RW,
	G_SP,                 /* stack pointer, read and written */
	G_FRAME,              /* enter, leave */
	G_PUSHA, G_POPA,
	G_AD_W, G_AD_RW,      /* rax and rdx, of the operand size */
	G_CWD,
	G_D_R, G_AD_R, G_AD_R_C_W, G_C_W,
	G_MOVS, G_STOS, G_LODS, G_SCAS, G_INS, G_OUTS, G_XLAT, G_DI_R,
	G_CX8, G_CPUID, G_ACD_R, G_AC_R, G_C_R_AD_W, G_ACD_W, G_TSC_W, G_IN_DX,
	G_SYSCALL, G_SYSRET, G_SYSENTER, G_SYSEXIT,
	G_COUNT
};

/* Attributes; the low three bits say how the operand size is found */
#define OSZ_V 0   /* 66 and W */
#define OSZ_B 1   /* bytes */
#define OSZ_D64 2 /* as V, but 64-bit by default in 64-bit code */
#define OSZ_F64 3 /* always 64-bit in 64-bit code */
#define OSZ_Z 4   /* as V, at most 4 */
#define OSZ_Y 5   /* 4, or 8 by W; 66 is not an operand-size prefix */
#define OSZ_N 6   /* 8 in 64-bit code, else 4 */
#define OSZ_MASK 7
#define A_LOCK 0x008  /* LOCK may stand before the memory form */
#define A_SHIFT 0x010 /* flags depend on the immediate count */
#define A_ONE 0x020   /* shift by one */
#define A_CL 0x040    /* shift by CL: a zero count keeps the flags */
#define A_REP 0x080   /* string instruction: rep prefixes act */
#define A_L2 0x100    /* the 256-bit form needs AVX2 (VAES, VPCLMUL: by the feature) */
#define A_VSIB 0x200
#define A_ALIAS 0x400 /* reported as the encoding 64-bit code has (40+r, 82) */
#define A_OPREG 0x800 /* .vv is the register in the opcode byte */

struct insn_form {
	uint32_t deny; /* context bits it does not go with */
	uint8_t op;    /* enum insn_op */
	uint8_t reg;   /* ModRM.reg: kind and access */
	uint8_t rm;    /* ModRM.rm: kind when a register, access also when memory */
	uint8_t mem;   /* enum form_mem */
	uint8_t vv;    /* VEX.vvvv, or opcode register with A_OPREG */
	uint8_t imm, fl, impl, feat, unit;
	uint16_t at;
};

#define FORMS(...) ((const struct insn_form[]){ __VA_ARGS__, { .op = OP_INVALID } })

/* Frequent forms: vector register, and vector register or memory */
#define MMX(cond, size, ...) \
	{ cond, OP_COPY, K_MM, K_MM | RD, size, .unit = UNIT_MMX, .at = OSZ_Y, ##__VA_ARGS__ }
#define SSE(cond, size, ...) \
	{ cond, OP_COPY, K_VEC, K_VEC | RD, size, .unit = UNIT_SSE, .at = OSZ_Y, ##__VA_ARGS__ }
#define SSE_ST(cond, size, ...) \
	{ cond, OP_COPY, K_VEC, K_VEC | WR, size, .unit = UNIT_SSE, .at = OSZ_Y, ##__VA_ARGS__ }

/* clang-format on */

/** insn_form_flow() - fill @in's registers, register fields and flags; all else is filled already
 */
void insn_form_flow(const struct insn_form *f, struct insn *in);

extern const struct insn_form *const insn_map_one[256];
extern const struct insn_form insn_x87_d8[], insn_x87_d9[], insn_x87_da[], insn_x87_db[];
extern const struct insn_form insn_x87_dc[], insn_x87_dd[], insn_x87_de[], insn_x87_df[];
extern const struct insn_form *const insn_map_0f[256];
extern const struct insn_form *const insn_map_0f38[256];
extern const struct insn_form *const insn_map_0f3a[256];
extern const struct insn_form *const insn_vex_0f[256];
extern const struct insn_form *const insn_vex_0f38[256];
extern const struct insn_form *const insn_vex_0f3a[256];

#endif
