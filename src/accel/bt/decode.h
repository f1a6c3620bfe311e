/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction decoder: bytes to struct insn, for 16-, 32- and 64-bit code
 * (Intel SDM volume 2, chapter 2 and appendix A).
 *
 * It tells the translator all it needs to copy an instruction with other
 * registers and another address: where each general register stands, what
 * memory is accessed and how, which flags are read and written, and which
 * family handles it when it cannot be copied. Table-driven; no allocation,
 * no state; reads at most INSN_MAX bytes.
 */
#ifndef EYOT_ACCEL_BT_DECODE_H
#define EYOT_ACCEL_BT_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INSN_MAX 15

/* clang-format off */

enum insn_mode { MODE_16, MODE_32, MODE_64 }; /* by CS.L and CS.D */

/*
 * What to do with an instruction. COPY covers everything that only touches
 * general/x87/MMX/SSE/AVX registers, arithmetic flags and at most one memory
 * operand addressed by ModRM: re-encoded with mapped registers. All others have an identity of their own.
 * COPY can always be encoded in 64-bit code: inc and dec (40+r) are given as
 * FF /0 and /1 with the register in rm, 82 as 80, and W is clear where 16- and
 * 32-bit code ignores it.
 */
enum insn_op {
	OP_INVALID, /* undefined here: #UD */
	OP_COPY,
	/* data movement handled by the translator */
	OP_NOP,         /* nop, multi-byte nop (0F 1F, 0F 0D prefetch, 0F 18..1E hints incl. endbr), pause is OP_PAUSE */
	OP_PAUSE,
	OP_LEA,
	OP_MOV_MOFFS_LOAD, OP_MOV_MOFFS_STORE, /* A0-A3; mem operand has neither base nor index, disp is the offset */
	OP_PUSH_REG, OP_PUSH_IMM, OP_PUSH_RM, OP_POP_REG, OP_POP_RM, /* register in .opreg, or rm/mem, or imm */
	OP_PUSH_SEG, OP_POP_SEG,                /* .reg: SEG_* */
	OP_PUSHA, OP_POPA, OP_PUSHF, OP_POPF,
	OP_XCHG,       /* xchg r, r/m and xchg rax, r: with memory it is locked */
	OP_CMPXCHG, OP_CMPXCHG8B, OP_CMPXCHG16B, OP_XADD,
	OP_BITTEST_MEM_REG, /* bt/bts/btr/btc m, r: bit offset may leave the operand (AB, A3, B3, BB with memory) */
	OP_ENTER, OP_LEAVE, OP_XLAT,
	OP_DIV, OP_IDIV, OP_MUL, OP_IMUL1, /* F6/F7 /4../7 */
	OP_CBW, OP_CWD, /* 98, 99 at each size */
	OP_SHIFT_CL,   /* D2/D3 and shld/shrd by cl: reads flags too (count 0 keeps them) */
	OP_LAHF, OP_SAHF, OP_SALC,
	OP_CLC, OP_STC, OP_CMC, OP_CLD, OP_STD, OP_CLI, OP_STI, OP_CLAC, OP_STAC,
	OP_DAA, OP_DAS, OP_AAA, OP_AAS, OP_AAM, OP_AAD, OP_BOUND, OP_ARPL,
	OP_MOVS, OP_STOS, OP_LODS, OP_SCAS, OP_CMPS, OP_INS, OP_OUTS, /* .rep: 0, 0xf2, 0xf3 */
	OP_MASKMOV,    /* maskmovq, maskmovdqu, vmaskmovdqu: implicit [rdi] */
	OP_VMASKMOV,   /* vmaskmovps/pd, vpmaskmovd/q: masked memory access, only enabled elements fault */
	OP_GATHER,     /* AVX2 gathers (VSIB): .index is the vector register */
	/* control transfer */
	OP_JCC, OP_JMP, OP_CALL,        /* relative; imm is the displacement; .cc for OP_JCC */
	OP_JMP_RM, OP_CALL_RM,          /* near indirect */
	OP_RET,                         /* near; imm is the number of bytes to release */
	OP_LOOP, OP_LOOPE, OP_LOOPNE, OP_JCXZ,
	OP_JMP_FAR, OP_CALL_FAR,        /* immediate: imm is the offset, .far_sel the selector */
	OP_JMP_FAR_MEM, OP_CALL_FAR_MEM, OP_RET_FAR, OP_IRET,
	OP_INT, OP_INT3, OP_INTO, OP_INT1, OP_UD, /* OP_UD: ud0, ud1, ud2 */
	OP_SYSCALL, OP_SYSRET, OP_SYSENTER, OP_SYSEXIT,
	/* system */
	OP_IN, OP_OUT,                  /* imm port when .imm_size is 1, else dx */
	OP_HLT, OP_MOV_CR, OP_MOV_DR,   /* .reg: the control/debug register, .rm: the general one, .opcode bit 1: write */
	OP_MOV_FROM_SEG, OP_MOV_TO_SEG, /* .reg: SEG_* */
	OP_LSEG,                        /* les lds lss lfs lgs: .seg_reg */
	OP_SGDT, OP_SIDT, OP_LGDT, OP_LIDT, OP_SLDT, OP_STR, OP_LLDT, OP_LTR, OP_VERR, OP_VERW,
	OP_LAR, OP_LSL, OP_SMSW, OP_LMSW, OP_CLTS, OP_INVLPG, OP_INVPCID, OP_SWAPGS,
	OP_RDTSC, OP_RDTSCP, OP_RDPMC, OP_RDPID, OP_RDMSR, OP_WRMSR, OP_CPUID,
	OP_INVD, OP_WBINVD, OP_CLFLUSH, /* also clflushopt, clwb, clzero is OP_CLZERO */
	OP_CLZERO, OP_MONITOR, OP_MWAIT, OP_RDFSBASE, OP_RDGSBASE, OP_WRFSBASE, OP_WRGSBASE,
	OP_XSAVE, OP_XSAVEC, OP_XSAVEOPT, OP_XRSTOR, OP_XSAVES, OP_XRSTORS, OP_XGETBV, OP_XSETBV,
	OP_FXSAVE, OP_FXRSTOR,
	OP_FSAVE, OP_FRSTOR, OP_FSTENV, OP_FLDENV, /* state images with code pointers; waiting form: fwait comes as its own insn */
	OP_RDRAND, OP_RDSEED,           /* copied when the host has them; own name so that they can be hidden */
	OP_VMCALL, OP_VMMCALL, OP_RSM, OP_GETSEC, OP_VMX_SVM, /* the rest of VMX/SVM: #UD */
	OP_COUNT
};

/* Which unit must be usable, for #NM/#UD by CR0.EM/TS/MP, CR4.OSFXSR/OSXSAVE and XCR0 */
enum insn_unit { UNIT_GPR, UNIT_X87, UNIT_FWAIT, UNIT_MMX, UNIT_SSE, UNIT_AVX };

/* CPUID features an instruction needs; the caller compares with what the guest is shown */
enum insn_feature {
	FEAT_BASE, FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42, FEAT_POPCNT, FEAT_AES, FEAT_PCLMUL,
	FEAT_AVX, FEAT_F16C, FEAT_FMA, FEAT_AVX2, FEAT_BMI1, FEAT_BMI2, FEAT_LZCNT, FEAT_MOVBE,
	FEAT_ADX, FEAT_SHA, FEAT_RDRAND, FEAT_RDSEED, FEAT_CX16, FEAT_FSGSBASE, FEAT_RDTSCP, FEAT_RDPID,
	FEAT_XSAVE, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_CLFLUSHOPT, FEAT_CLWB, FEAT_CLZERO, FEAT_INVPCID, FEAT_SMAP,
	FEAT_VAES, FEAT_VPCLMUL, FEAT_GFNI, FEAT_AVX_VNNI, FEAT_SSE4A, FEAT_PREFETCHW,
	FEAT_COUNT /* at most 64 */
};

/* Arithmetic flags, as bits of EFLAGS */
#define FL_CF 0x001u
#define FL_PF 0x004u
#define FL_AF 0x010u
#define FL_ZF 0x040u
#define FL_SF 0x080u
#define FL_OF 0x800u
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

enum insn_mem_access { MEM_NONE, MEM_READ = 1, MEM_WRITE = 2, MEM_RW = 3 };

#define INSN_NO_REG 0xff
#define INSN_RIP_REL 0xfe /* as .base */

/* What stands in a register field of the encoding */
enum insn_field { FIELD_NONE, FIELD_GPR, FIELD_GPR8, /* 8-bit: without REX 4..7 are ah ch dh bh */
		  FIELD_VEC /* x87, MMX, XMM/YMM: copied as it is */, FIELD_EXT /* opcode extension */, FIELD_SEG, FIELD_CR, FIELD_DR };

struct insn {
	uint8_t len;          /* bytes, 1..15 */
	uint8_t op;           /* enum insn_op */
	uint8_t unit;         /* enum insn_unit */
	uint8_t feature;      /* enum insn_feature */

	/* encoding, enough to emit it again */
	uint8_t map;          /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A; also for VEX */
	uint8_t opcode;
	uint8_t prefix;       /* mandatory or rep prefix kept when copying: 0, 0x66, 0xf2, 0xf3 */
	bool opsize_prefix;   /* 66 present and acting as operand-size prefix (may stand beside f2/f3); what it
				 means depends on the mode, so emit by .opsize */
	bool lock;            /* valid lock prefix (an invalid one gives OP_INVALID) */
	bool vex;
	uint8_t vex_l, vex_pp, vvvv; /* vvvv: 0..15, decoded (not inverted); 0 when unused */
	bool rex;             /* a REX prefix acts (spl.. instead of ah..) */
	bool w;               /* REX.W or VEX.W */
	bool has_modrm;
	uint8_t mod, reg, rm; /* reg and rm with their REX bits: 0..15; rm is meaningless when .mem */
	uint8_t opreg;        /* register in the opcode byte (50+r, B8+r, C8+r...) with REX.B, else INSN_NO_REG */
	uint8_t reg_field, rm_field, vvvv_field, opreg_field; /* enum insn_field */

	uint8_t opsize;       /* operand size of general-register operations in bytes: 1, 2, 4, 8 */
	uint8_t addrsize;     /* 2, 4, 8 */
	uint8_t rep;          /* 0xf2, 0xf3 or 0, whatever its meaning */
	uint8_t cc;           /* condition of jcc, setcc, cmovcc: low 4 bits of the opcode */

	/* memory operand by ModRM or moffs */
	bool mem;
	uint8_t base, index, scale; /* registers 0..15, INSN_NO_REG, base also INSN_RIP_REL; scale 1, 2, 4, 8 */
	uint8_t seg;          /* SEG_*: after overrides and the rsp/rbp default; in 64-bit code only FS and GS matter;
				 DS or the override without memory operand (strings, xlat) */
	bool seg_override;
	int64_t disp;
	uint16_t mem_size;    /* bytes accessed at the effective address; 0: none (lea, nop, invlpg, prefetch) */
	uint8_t mem_access;   /* enum insn_mem_access */

	int64_t imm;          /* sign-extended as the instruction does */
	uint8_t imm_size;     /* bytes of immediate in the encoding: 0, 1, 2, 4, 8 */
	uint8_t imm2;         /* enter's second immediate; is4 (vblendv) and both bytes of extrq stay in imm */
	uint16_t far_sel;
	uint8_t seg_reg;      /* SEG_* for OP_LSEG, OP_PUSH_SEG, OP_POP_SEG, OP_MOV_*_SEG */

	/* data flow, explicit and implicit operands, address registers included in gpr_read */
	uint16_t gpr_read, gpr_write; /* bit per register 0..15; partial writes (8/16 bit) count as read and write */
	uint32_t flags_read;    /* FL_* */
	uint32_t flags_written; /* FL_*: set to a defined value or undefined by the instruction */
	uint32_t flags_undef;   /* FL_*: part of flags_written whose value the manuals leave undefined */
};

/* clang-format on */

/**
 * insn_decode() - decode one instruction
 * @mode: code size
 * @bytes: the code; @avail: how many bytes may be read, 1 to 15
 * @in: filled wholly (also with OP_INVALID)
 *
 * Return: 0 with in->len set, also for undefined instructions (op OP_INVALID);
 * -EAGAIN when @avail bytes are not enough to tell; -E2BIG when the
 * instruction is longer than 15 bytes (#GP).
 */
int insn_decode(enum insn_mode mode, const uint8_t *bytes, size_t avail, struct insn *in);

#endif
