/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder's subtle points, one by one; test_decode_zydis.c has the breadth. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "accel/bt/decode.h"
#include "base/util.h"
#include "vm/vcpu_state.h"

#define A (1u << REG_RAX)
#define C (1u << REG_RCX)
#define D (1u << REG_RDX)
#define B (1u << REG_RBX)
#define SP (1u << REG_RSP)
#define BP (1u << REG_RBP)
#define SI (1u << REG_RSI)
#define DI (1u << REG_RDI)
#define R(n) (1u << (n))
#define NOT_CF (FL_ARITH & ~FL_CF)
#define ROT (FL_CF | FL_OF)

/* Bytes from text such as "66 0f 10 c0". Return: their number. */
static size_t parse(const char *hex, uint8_t *bytes)
{
	size_t n = 0;
	unsigned int v;

	memset(bytes, 0x90, INSN_MAX + 1);
	for (; sscanf(hex, "%2x", &v) == 1; hex += hex[2] ? 3 : 2)
		bytes[n++] = v;
	return n;
}

/* Decode text that must be one whole instruction. */
static struct insn decode(enum insn_mode mode, const char *hex)
{
	uint8_t bytes[INSN_MAX + 1];
	size_t n = parse(hex, bytes);
	struct insn in;

	if (insn_decode(mode, bytes, INSN_MAX, &in) != 0 || (in.op != OP_INVALID && in.len != n))
		fail_msg("%d-bit '%s': length %u of %zu", 16 << mode, hex, in.len, n);
	return in;
}

/* What an instruction reads, writes and accesses */
struct flow {
	uint8_t mode;
	const char *hex;
	uint8_t op, opsize;
	uint16_t mem_size;
	uint8_t mem_access;
	uint16_t gpr_read, gpr_write;
	uint16_t flags_read, flags_written, flags_undef;
};

/* clang-format off */
static const struct flow flows[] = {
	/* widths: 8 and 16 bits keep the rest of the register, 32 bits do not */
	{ MODE_64, "00 e1", OP_COPY, 1, 0, 0, C | A, C, 0, FL_ARITH, 0 },            /* add cl, ah */
	{ MODE_64, "40 00 e1", OP_COPY, 1, 0, 0, C | SP, C, 0, FL_ARITH, 0 },        /* add cl, spl */
	{ MODE_64, "89 d8", OP_COPY, 4, 0, 0, B, A, 0, 0, 0 },
	{ MODE_64, "66 89 d8", OP_COPY, 2, 0, 0, A | B, A, 0, 0, 0 },
	{ MODE_64, "66 48 89 d8", OP_COPY, 8, 0, 0, B, A, 0, 0, 0 },                 /* W wins */
	{ MODE_64, "48 66 89 d8", OP_COPY, 2, 0, 0, A | B, A, 0, 0, 0 },             /* REX not last */
	{ MODE_64, "b8 01 00 00 00", OP_COPY, 4, 0, 0, 0, A, 0, 0, 0 },
	{ MODE_64, "49 b8 01 02 03 04 05 06 07 08", OP_COPY, 8, 0, 0, 0, R(8), 0, 0, 0 },
	{ MODE_64, "b4 01", OP_COPY, 1, 0, 0, A, A, 0, 0, 0 },                       /* mov ah, 1 */
	{ MODE_64, "0f 94 c0", OP_COPY, 1, 0, 0, A, A, FL_ZF, 0, 0 },
	{ MODE_64, "0f 45 c1", OP_COPY, 4, 0, 0, A | C, A, FL_ZF, 0, 0 },
	{ MODE_64, "0f b6 c4", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "48 63 01", OP_COPY, 8, 4, MEM_READ, C, A, 0, 0, 0 },             /* movsxd */
	{ MODE_32, "63 01", OP_ARPL, 4, 2, MEM_RW, A | C, 0, 0, FL_ZF, 0 },
	{ MODE_64, "0f c8", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },                       /* bswap */
	/* arithmetic */
	{ MODE_64, "f0 48 01 03", OP_COPY, 8, 8, MEM_RW, A | B, 0, 0, FL_ARITH, 0 },
	{ MODE_64, "83 13 01", OP_COPY, 4, 4, MEM_RW, B, 0, FL_CF, FL_ARITH, 0 },    /* adc */
	{ MODE_64, "83 3b 01", OP_COPY, 4, 4, MEM_READ, B, 0, 0, FL_ARITH, 0 },      /* cmp */
	{ MODE_64, "3d 01 00 00 00", OP_COPY, 4, 0, 0, A, 0, 0, FL_ARITH, 0 },
	{ MODE_64, "05 01 00 00 00", OP_COPY, 4, 0, 0, A, A, 0, FL_ARITH, 0 },
	{ MODE_64, "21 d8", OP_COPY, 4, 0, 0, A | B, A, 0, FL_ARITH, FL_AF },
	{ MODE_64, "ff c0", OP_COPY, 4, 0, 0, A, A, 0, NOT_CF, 0 },
	{ MODE_32, "40", OP_COPY, 4, 0, 0, A, A, 0, NOT_CF, 0 },
	{ MODE_64, "f7 d0", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },                       /* not */
	{ MODE_64, "f7 d8", OP_COPY, 4, 0, 0, A, A, 0, FL_ARITH, 0 },
	{ MODE_64, "f7 e3", OP_MUL, 4, 0, 0, A | B, A | D, 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	{ MODE_64, "66 f7 e3", OP_MUL, 2, 0, 0, A | B | D, A | D, 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	{ MODE_64, "f6 e3", OP_MUL, 1, 0, 0, A | B, A, 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	{ MODE_64, "48 f7 f9", OP_IDIV, 8, 0, 0, A | C | D, A | D, 0, FL_ARITH, FL_ARITH },
	{ MODE_64, "0f af c3", OP_COPY, 4, 0, 0, A | B, A, 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	{ MODE_64, "6b c3 05", OP_COPY, 4, 0, 0, B, A, 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	{ MODE_64, "98", OP_CBW, 4, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "99", OP_CWD, 4, 0, 0, A, D, 0, 0, 0 },
	{ MODE_64, "66 99", OP_CWD, 2, 0, 0, A | D, D, 0, 0, 0 },
	/* shifts: the count decides */
	{ MODE_64, "c1 e0 00", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "c1 e0 20", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "48 c1 e0 20", OP_COPY, 8, 0, 0, A, A, 0, FL_ARITH, FL_AF | FL_OF },
	{ MODE_64, "48 c1 e0 40", OP_COPY, 8, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "c1 e0 01", OP_COPY, 4, 0, 0, A, A, 0, FL_ARITH, FL_AF },
	{ MODE_64, "d1 e0", OP_COPY, 4, 0, 0, A, A, 0, FL_ARITH, FL_AF },
	{ MODE_64, "c0 e0 08", OP_COPY, 1, 0, 0, A, A, 0, FL_ARITH, FL_AF | FL_OF | FL_CF },
	{ MODE_64, "d3 e0", OP_SHIFT_CL, 4, 0, 0, A | C, A, FL_ARITH, FL_ARITH, FL_AF | FL_OF },
	{ MODE_64, "c1 c0 05", OP_COPY, 4, 0, 0, A, A, 0, ROT, FL_OF },
	{ MODE_64, "d1 d0", OP_COPY, 4, 0, 0, A, A, FL_CF, ROT, 0 },
	{ MODE_64, "c1 d0 00", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },
	{ MODE_64, "d3 c0", OP_SHIFT_CL, 4, 0, 0, A | C, A, ROT, ROT, FL_OF },
	{ MODE_64, "0f a4 d8 05", OP_COPY, 4, 0, 0, A | B, A, 0, FL_ARITH, FL_AF | FL_OF },
	{ MODE_64, "0f a5 d8", OP_SHIFT_CL, 4, 0, 0, A | B | C, A, FL_ARITH, FL_ARITH, FL_AF | FL_OF },
	/* bits */
	{ MODE_64, "0f bc c3", OP_COPY, 4, 0, 0, A | B, A, 0, FL_ARITH, FL_ARITH & ~FL_ZF },
	{ MODE_64, "f3 0f bc c3", OP_COPY, 4, 0, 0, B, A, 0, FL_ARITH, FL_OF | FL_SF | FL_AF | FL_PF },
	{ MODE_64, "66 f3 0f b8 c3", OP_COPY, 2, 0, 0, A | B, A, 0, FL_ARITH, 0 },   /* popcnt ax, bx */
	{ MODE_64, "0f a3 03", OP_BITTEST_MEM_REG, 4, 4, MEM_READ, A | B, 0, 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	{ MODE_64, "f0 0f ab 03", OP_BITTEST_MEM_REG, 4, 4, MEM_RW, A | B, 0, 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	{ MODE_64, "0f ab c3", OP_COPY, 4, 0, 0, A | B, B, 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	{ MODE_64, "f0 0f ba 2b 05", OP_COPY, 4, 4, MEM_RW, B, 0, 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	{ MODE_64, "66 0f 38 f6 c3", OP_COPY, 4, 0, 0, A | B, A, FL_CF, FL_CF, 0 },  /* adcx */
	{ MODE_64, "f3 0f 38 f6 c3", OP_COPY, 4, 0, 0, A | B, A, FL_OF, FL_OF, 0 },  /* adox */
	{ MODE_64, "c4 e2 63 f6 c1", OP_COPY, 4, 0, 0, C | D, A | B, 0, 0, 0 },      /* mulx eax, ebx, ecx */
	{ MODE_64, "c4 e2 60 f2 c1", OP_COPY, 4, 0, 0, B | C, A, 0, FL_ARITH, FL_AF | FL_PF }, /* andn */
	{ MODE_64, "c4 e2 78 f3 c9", OP_COPY, 4, 0, 0, C, A, 0, FL_ARITH, FL_AF | FL_PF },     /* blsr eax, ecx */
	{ MODE_64, "c4 e3 fb f0 c1 05", OP_COPY, 8, 0, 0, C, A, 0, 0, 0 },           /* rorx */
	{ MODE_32, "c4 e3 fb f0 c1 05", OP_COPY, 4, 0, 0, C, A, 0, 0, 0 },           /* no 64 bits there */
	{ MODE_64, "f2 0f 38 f0 c4", OP_COPY, 1, 0, 0, A, A, 0, 0, 0 },              /* crc32 eax, ah */
	{ MODE_64, "66 0f 38 f0 03", OP_COPY, 2, 2, MEM_READ, A | B, A, 0, 0, 0 },   /* movbe */
	/* locked and exchanging */
	{ MODE_64, "87 03", OP_XCHG, 4, 4, MEM_RW, A | B, A, 0, 0, 0 },
	{ MODE_64, "93", OP_XCHG, 4, 0, 0, A | B, A | B, 0, 0, 0 },
	{ MODE_64, "41 90", OP_XCHG, 4, 0, 0, A | R(8), A | R(8), 0, 0, 0 },
	{ MODE_64, "f3 41 90", OP_XCHG, 4, 0, 0, A | R(8), A | R(8), 0, 0, 0 },
	{ MODE_64, "90", OP_NOP, 4, 0, 0, 0, 0, 0, 0, 0 },
	{ MODE_64, "48 90", OP_NOP, 8, 0, 0, 0, 0, 0, 0, 0 },
	{ MODE_64, "f3 90", OP_PAUSE, 4, 0, 0, 0, 0, 0, 0, 0 },
	{ MODE_64, "f0 0f b1 0b", OP_CMPXCHG, 4, 4, MEM_RW, A | B | C, A, 0, FL_ARITH, 0 },
	{ MODE_64, "f0 0f c7 0e", OP_CMPXCHG8B, 4, 8, MEM_RW, A | B | C | D | SI, A | D, 0, FL_ZF, 0 },
	{ MODE_64, "f0 48 0f c7 0e", OP_CMPXCHG16B, 8, 16, MEM_RW, A | B | C | D | SI, A | D, 0, FL_ZF, 0 },
	{ MODE_64, "f0 0f c1 03", OP_XADD, 4, 4, MEM_RW, A | B, A, 0, FL_ARITH, 0 },
	/* stack: 64 bits by default, near branches always */
	{ MODE_64, "50", OP_PUSH_REG, 8, 0, 0, A | SP, SP, 0, 0, 0 },
	{ MODE_64, "66 41 50", OP_PUSH_REG, 2, 0, 0, R(8) | SP, SP, 0, 0, 0 },
	{ MODE_64, "5c", OP_POP_REG, 8, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_64, "68 00 00 00 80", OP_PUSH_IMM, 8, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_64, "66 68 00 80", OP_PUSH_IMM, 2, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_64, "ff 33", OP_PUSH_RM, 8, 8, MEM_READ, B | SP, SP, 0, 0, 0 },
	{ MODE_64, "8f 03", OP_POP_RM, 8, 8, MEM_WRITE, B | SP, SP, 0, 0, 0 },
	{ MODE_64, "66 ff 13", OP_CALL_RM, 8, 8, MEM_READ, B | SP, SP, 0, 0, 0 },
	{ MODE_64, "ff 2b", OP_JMP_FAR_MEM, 4, 6, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "66 e8 01 00 00 00", OP_CALL, 8, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_32, "66 e8 01 00", OP_CALL, 2, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_64, "66 c3", OP_RET, 8, 0, 0, SP, SP, 0, 0, 0 },
	{ MODE_64, "c9", OP_LEAVE, 8, 0, 0, SP | BP, SP | BP, 0, 0, 0 },
	{ MODE_64, "48 cf", OP_IRET, 8, 0, 0, SP, SP, 0, FL_ARITH, 0 },
	{ MODE_64, "7c 05", OP_JCC, 8, 0, 0, 0, 0, FL_SF | FL_OF, 0, 0 },
	{ MODE_64, "67 e3 05", OP_JCXZ, 8, 0, 0, C, 0, 0, 0, 0 },
	/* strings */
	{ MODE_64, "48 a5", OP_MOVS, 8, 0, 0, SI | DI, SI | DI, 0, 0, 0 },
	{ MODE_64, "f3 48 a5", OP_MOVS, 8, 0, 0, SI | DI | C, SI | DI | C, 0, 0, 0 },
	{ MODE_64, "f2 ae", OP_SCAS, 1, 0, 0, A | DI | C, DI | C, FL_ARITH, FL_ARITH, 0 },
	{ MODE_64, "ad", OP_LODS, 4, 0, 0, SI, A | SI, 0, 0, 0 },
	{ MODE_64, "f3 ad", OP_LODS, 4, 0, 0, SI | A | C, A | SI | C, 0, 0, 0 },
	{ MODE_64, "ac", OP_LODS, 1, 0, 0, SI | A, A | SI, 0, 0, 0 },
	{ MODE_64, "48 6f", OP_OUTS, 4, 0, 0, D | SI, SI, 0, 0, 0 },
	/* memory sizes */
	{ MODE_64, "f2 0f 10 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "66 f2 0f 10 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },       /* F2 beats 66 */
	{ MODE_64, "f3 f2 0f 10 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },       /* the last one */
	{ MODE_64, "f2 f3 0f 10 03", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "f2 0f 12 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },          /* movddup */
	{ MODE_64, "c5 ff 12 03", OP_COPY, 4, 32, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "f3 0f e6 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },          /* cvtdq2pd */
	{ MODE_64, "66 0f 38 30 03", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },       /* pmovzxbw */
	{ MODE_64, "66 0f 38 32 03", OP_COPY, 4, 2, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "c4 e2 7d 32 03", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "66 0f 3a 20 03 01", OP_COPY, 4, 1, MEM_READ, B, 0, 0, 0, 0 },    /* pinsrb */
	{ MODE_64, "66 0f 3a 21 03 01", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },    /* insertps */
	{ MODE_64, "66 0f 3a 17 03 01", OP_COPY, 4, 4, MEM_WRITE, B, 0, 0, 0, 0 },   /* extractps */
	{ MODE_64, "66 0f 3a 16 c3 01", OP_COPY, 4, 0, 0, 0, B, 0, 0, 0 },           /* pextrd */
	{ MODE_64, "66 0f 3a 15 c3 01", OP_COPY, 4, 0, 0, 0, B, 0, 0, 0 },           /* pextrw zero-extends */
	{ MODE_64, "0f 60 03", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },             /* punpcklbw mm, m32 */
	{ MODE_64, "db 2b", OP_COPY, 4, 10, MEM_READ, B, 0, 0, 0, 0 },               /* fld tbyte */
	{ MODE_64, "df 23", OP_COPY, 4, 10, MEM_READ, B, 0, 0, 0, 0 },               /* fbld */
	{ MODE_64, "df e0", OP_COPY, 4, 0, 0, A, A, 0, 0, 0 },                       /* fnstsw ax */
	{ MODE_64, "66 d9 33", OP_FSTENV, 2, 14, MEM_WRITE, B, 0, 0, 0, 0 },
	{ MODE_64, "dd 33", OP_FSAVE, 4, 108, MEM_WRITE, B, 0, 0, 0, 0 },
	{ MODE_64, "0f ae 13", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },             /* ldmxcsr */
	{ MODE_64, "48 0f ae 03", OP_FXSAVE, 8, 512, MEM_WRITE, B, 0, 0, 0, 0 },
	{ MODE_64, "0f ae 23", OP_XSAVE, 4, 0, 0, A | D | B, 0, 0, 0, 0 },
	{ MODE_64, "c4 e2 79 18 03", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },       /* vbroadcastss */
	{ MODE_64, "c4 e3 7d 39 03 01", OP_COPY, 4, 16, MEM_WRITE, B, 0, 0, 0, 0 },  /* vextracti128 */
	{ MODE_64, "66 0f 38 2a 03", OP_COPY, 4, 16, MEM_READ, B, 0, 0, 0, 0 },      /* movntdqa */
	{ MODE_64, "c4 e3 79 1d 03 00", OP_COPY, 4, 8, MEM_WRITE, B, 0, 0, 0, 0 },   /* vcvtps2ph */
	{ MODE_64, "c4 e2 7d 13 03", OP_COPY, 4, 16, MEM_READ, B, 0, 0, 0, 0 },      /* vcvtph2ps ymm */
	{ MODE_64, "f2 0f c2 03 01", OP_COPY, 4, 8, MEM_READ, B, 0, 0, 0, 0 },       /* cmpsd */
	{ MODE_64, "66 0f 3a 0a 03 01", OP_COPY, 4, 4, MEM_READ, B, 0, 0, 0, 0 },    /* roundss */
	{ MODE_64, "66 0f 3a 44 03 01", OP_COPY, 4, 16, MEM_READ, B, 0, 0, 0, 0 },   /* pclmulqdq */
	{ MODE_64, "c4 e2 75 90 04 1b", OP_GATHER, 4, 4, MEM_READ, B, 0, 0, 0, 0 },  /* the index is a vector */
	{ MODE_64, "c4 e2 71 2c 03", OP_VMASKMOV, 4, 16, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_64, "66 0f f7 c1", OP_MASKMOV, 4, 0, 0, DI, 0, 0, 0, 0 },
	{ MODE_64, "0f 01 13", OP_LGDT, 4, 10, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_32, "0f 01 13", OP_LGDT, 4, 6, MEM_READ, B, 0, 0, 0, 0 },
	{ MODE_32, "62 03", OP_BOUND, 4, 8, MEM_READ, A | B, 0, 0, 0, 0 },
	{ MODE_32, "c4 03", OP_LSEG, 4, 6, MEM_READ, B, A, 0, 0, 0 },
	{ MODE_16, "c5 06 34 12", OP_LSEG, 2, 4, MEM_READ, A, A, 0, 0, 0 },
	{ MODE_64, "8d 04 1b", OP_LEA, 4, 0, 0, B, A, 0, 0, 0 },
	{ MODE_64, "0f 1f 44 00 00", OP_NOP, 4, 0, 0, 0, 0, 0, 0, 0 },
	{ MODE_64, "f3 0f 1e fa", OP_NOP, 4, 0, 0, 0, 0, 0, 0, 0 },                  /* endbr64 */
	/* implicit registers */
	{ MODE_64, "66 0f 3a 61 c1 00", OP_COPY, 4, 0, 0, A | D, C, 0, FL_ARITH, 0 }, /* pcmpestri */
	{ MODE_64, "66 0f 3a 63 c1 00", OP_COPY, 4, 0, 0, 0, C, 0, FL_ARITH, 0 },
	{ MODE_64, "66 0f 50 c1", OP_COPY, 4, 0, 0, 0, A, 0, 0, 0 },                 /* movmskpd */
	{ MODE_64, "0f a2", OP_CPUID, 4, 0, 0, A | C, A | B | C | D, 0, 0, 0 },
	{ MODE_64, "0f 31", OP_RDTSC, 4, 0, 0, 0, A | D, 0, 0, 0 },
	{ MODE_64, "66 0f 2f c1", OP_COPY, 4, 0, 0, 0, 0, 0, FL_ARITH, 0 },          /* comisd */
	{ MODE_64, "da c1", OP_COPY, 4, 0, 0, 0, 0, FL_CF, 0, 0 },                   /* fcmovb */
	{ MODE_32, "d6", OP_SALC, 1, 0, 0, A, A, FL_CF, 0, 0 },
	{ MODE_32, "27", OP_DAA, 1, 0, 0, A, A, FL_CF | FL_AF, FL_ARITH, FL_OF },
	{ MODE_32, "61", OP_POPA, 4, 0, 0, SP, 0xff, 0, 0, 0 },
};

/* clang-format on */

static void test_flow(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(flows); i++) {
		const struct flow *f = &flows[i];
		struct insn in = decode(f->mode, f->hex);

		if (in.op != f->op || in.opsize != f->opsize || in.mem_size != f->mem_size ||
		    in.mem_access != f->mem_access || in.gpr_read != f->gpr_read ||
		    in.gpr_write != f->gpr_write || in.flags_read != f->flags_read ||
		    in.flags_written != f->flags_written || in.flags_undef != f->flags_undef)
			fail_msg("%d-bit '%s': op %d opsize %d memory %d/%d registers %04x/%04x "
				 "flags %03x/%03x/%03x",
				 16 << f->mode, f->hex, in.op, in.opsize, in.mem_size,
				 in.mem_access, in.gpr_read, in.gpr_write, in.flags_read,
				 in.flags_written, in.flags_undef);
	}
}

static void test_undefined(void **state)
{
	static const struct {
		uint8_t mode;
		const char *hex;
	} cases[] = {
		{ MODE_64, "06" },
		{ MODE_64, "27" },
		{ MODE_64, "60" },
		{ MODE_64, "62 f1 7c 48 28 00" },
		{ MODE_32, "62 f1 7c 48 28 00" },
		{ MODE_64, "82 c0 01" },
		{ MODE_64, "9a" },
		{ MODE_64, "d6" },
		{ MODE_64, "d4 0a" },
		{ MODE_64, "ce" },
		{ MODE_64, "ea" },
		{ MODE_64, "0f 04" },
		{ MODE_64, "0f 0f c0 bf" },
		{ MODE_64, "8f e8 78 c2 ec 0e" },
		{ MODE_64, "0f 38 ff c0" },
		{ MODE_64, "fe d0" },
		{ MODE_64, "ff f8" },
		{ MODE_64, "ff d8" },
		/* LOCK: needs a memory destination of an instruction that takes it */
		{ MODE_64, "f0 01 d8" },
		{ MODE_64, "f0 8b 03" },
		{ MODE_64, "f0 3b 03" },
		{ MODE_64, "f0 39 03" },
		{ MODE_64, "f0 90" },
		{ MODE_64, "f0 0f ba 23 05" },
		{ MODE_64, "f0 0f a3 03" },
		{ MODE_64, "f0 c1 23 05" },
		{ MODE_64, "f0 03 03" },
		/* VEX: no other prefixes, unused vvvv, L */
		{ MODE_64, "66 c5 f8 28 c0" },
		{ MODE_64, "f3 c5 f8 28 c0" },
		{ MODE_64, "f0 c5 f8 28 00" },
		{ MODE_64, "40 c5 f8 28 c0" },
		{ MODE_64, "c5 f0 28 c0" },
		{ MODE_64, "c5 fd 6e c0" },
		{ MODE_64, "c4 e4 79 00 c0" },
		{ MODE_64, "c4 e2 7c f2 c1" },
		{ MODE_32, "c4 e1 3c 10 c1" },
		{ MODE_32, "c4 e3 f9 16 c0 00" },
		{ MODE_64, "c5 f8 41 c0" },
		/* gathers: destination, index and mask differ */
		{ MODE_64, "c4 e2 75 90 04 0b" },
		{ MODE_64, "c4 e2 7d 90 04 1b" },
		{ MODE_64, "c4 e2 75 90 03" },
		{ MODE_64, "0f 20 c8" },
		{ MODE_64, "44 0f 21 c0" },
		{ MODE_64, "8e c8" },
		{ MODE_64, "8c f0" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t bytes[INSN_MAX + 1];
		struct insn in;

		parse(cases[i].hex, bytes);
		if (insn_decode(cases[i].mode, bytes, INSN_MAX, &in) != 0 || in.op != OP_INVALID)
			fail_msg("%d-bit '%s' is op %d", 16 << cases[i].mode, cases[i].hex, in.op);
	}
}

static void test_length(void **state)
{
	uint8_t bytes[INSN_MAX + 1];
	struct insn in;

	/* 15 bytes are the most */
	parse("66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", bytes);
	assert_int_equal(insn_decode(MODE_64, bytes, INSN_MAX, &in), 0);
	assert_int_equal(in.len, 15);
	parse("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66", bytes);
	assert_int_equal(insn_decode(MODE_64, bytes, INSN_MAX, &in), -E2BIG);
	assert_int_equal(insn_decode(MODE_64, bytes, 14, &in), -EAGAIN);
	parse("2e 2e 2e 2e 2e 48 81 84 18 01 02 03 04 05 06", bytes);
	assert_int_equal(insn_decode(MODE_64, bytes, INSN_MAX, &in), -E2BIG);
	/* every cut of an instruction asks for more */
	parse("66 48 81 84 18 01 02 03 04 05 06 07 08", bytes);
	for (size_t n = 0; n < 13; n++)
		assert_int_equal(insn_decode(MODE_64, bytes, n, &in), -EAGAIN);
	assert_int_equal(insn_decode(MODE_64, bytes, 13, &in), 0);
	assert_int_equal(in.len, 13);
	parse("c4 e3 7d 39 44 98 10 01", bytes);
	for (size_t n = 0; n < 8; n++)
		assert_int_equal(insn_decode(MODE_64, bytes, n, &in), -EAGAIN);
	assert_int_equal(insn_decode(MODE_64, bytes, 8, &in), 0);
	/* an undefined instruction tells so without its tail */
	parse("06", bytes);
	assert_int_equal(insn_decode(MODE_64, bytes, 1, &in), 0);
	assert_int_equal(in.op, OP_INVALID);
	assert_int_equal(in.len, 1);
}

struct address {
	uint8_t mode;
	const char *hex;
	uint8_t base, index, scale, seg, addrsize;
	int64_t disp;
};

/* clang-format off */
static const struct address addresses[] = {
	{ MODE_64, "8b 03", REG_RBX, INSN_NO_REG, 1, SEG_DS, 8, 0 },
	{ MODE_64, "8b 45 f8", REG_RBP, INSN_NO_REG, 1, SEG_SS, 8, -8 },
	{ MODE_64, "8b 04 24", REG_RSP, INSN_NO_REG, 1, SEG_SS, 8, 0 },
	{ MODE_64, "41 8b 04 24", REG_R12, INSN_NO_REG, 1, SEG_DS, 8, 0 },
	{ MODE_64, "41 8b 45 00", REG_R13, INSN_NO_REG, 1, SEG_DS, 8, 0 },
	{ MODE_64, "42 8b 04 e3", REG_RBX, REG_R12, 8, SEG_DS, 8, 0 },
	{ MODE_64, "8b 05 00 00 00 80", INSN_RIP_REL, INSN_NO_REG, 1, SEG_DS, 8, INT32_MIN },
	{ MODE_64, "67 8b 05 01 00 00 00", INSN_RIP_REL, INSN_NO_REG, 1, SEG_DS, 4, 1 },
	{ MODE_64, "8b 04 25 01 00 00 00", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 8, 1 },
	{ MODE_64, "49 8b 04 25 01 00 00 00", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 8, 1 },
	{ MODE_64, "8b 04 4d 01 00 00 00", INSN_NO_REG, REG_RCX, 2, SEG_DS, 8, 1 },
	{ MODE_64, "64 26 8b 03", REG_RBX, INSN_NO_REG, 1, SEG_FS, 8, 0 }, /* es is ignored */
	{ MODE_64, "64 65 8b 03", REG_RBX, INSN_NO_REG, 1, SEG_GS, 8, 0 },
	{ MODE_64, "2e 8b 45 00", REG_RBP, INSN_NO_REG, 1, SEG_SS, 8, 0 },
	{ MODE_32, "64 26 8b 03", REG_RBX, INSN_NO_REG, 1, SEG_ES, 4, 0 },
	{ MODE_32, "8b 05 01 00 00 00", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 4, 1 },
	{ MODE_32, "3e 8b 45 00", REG_RBP, INSN_NO_REG, 1, SEG_DS, 4, 0 },
	{ MODE_32, "67 8b 42 10", REG_RBP, REG_RSI, 1, SEG_SS, 2, 16 },
	{ MODE_16, "8b 06 34 92", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 2, (int16_t)0x9234 },
	{ MODE_16, "8b 46 00", REG_RBP, INSN_NO_REG, 1, SEG_SS, 2, 0 },
	{ MODE_16, "8b 00", REG_RBX, REG_RSI, 1, SEG_DS, 2, 0 },
	{ MODE_16, "67 8b 04 58", REG_RAX, REG_RBX, 2, SEG_DS, 4, 0 },
	{ MODE_64, "a1 88 77 66 55 44 33 22 91", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 8, (int64_t)0x9122334455667788 },
	{ MODE_64, "67 a1 88 77 66 95", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 4, 0x95667788 },
	{ MODE_16, "a3 88 97", INSN_NO_REG, INSN_NO_REG, 1, SEG_DS, 2, 0x9788 },
};

/* clang-format on */

static void test_address(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		const struct address *a = &addresses[i];
		struct insn in = decode(a->mode, a->hex);

		if (!in.mem || in.base != a->base || in.index != a->index || in.scale != a->scale ||
		    in.seg != a->seg || in.addrsize != a->addrsize || in.disp != a->disp)
			fail_msg("%d-bit '%s': base %d index %d scale %d seg %d address size %d "
				 "disp %#lx",
				 16 << a->mode, a->hex, in.base, in.index, in.scale, in.seg,
				 in.addrsize, (long)in.disp);
	}
}

static void test_fields(void **state)
{
	struct insn in = decode(MODE_64, "66 4d 0f 6e c1"); /* movq xmm8, r9 */

	assert_int_equal(in.reg_field, FIELD_VEC);
	assert_int_equal(in.reg, 8);
	assert_int_equal(in.rm_field, FIELD_GPR);
	assert_int_equal(in.rm, 9);
	assert_int_equal(in.prefix, 0x66);
	assert_false(in.opsize_prefix);
	assert_true(in.w);

	in = decode(MODE_64, "66 f2 41 0f 38 f1 c7"); /* crc32 eax, r15w */
	assert_int_equal(in.prefix, 0xf2);
	assert_true(in.opsize_prefix);
	assert_int_equal(in.opsize, 2);
	assert_int_equal(in.rm, 15);

	in = decode(MODE_64, "4d 0f 7f c1"); /* movq mm1, mm0: REX.R and B mean nothing */
	assert_int_equal(in.reg, 0);
	assert_int_equal(in.rm, 1);
	assert_int_equal(in.unit, UNIT_MMX);

	in = decode(MODE_64, "c4 42 39 f7 c1"); /* shlx r8d, r9d, r8d */
	assert_int_equal(in.vvvv_field, FIELD_GPR);
	assert_int_equal(in.vvvv, 8);
	assert_int_equal(in.vex_pp, 1);
	assert_int_equal(in.unit, UNIT_GPR);
	assert_int_equal(in.feature, FEAT_BMI2);

	in = decode(MODE_64, "c5 f5 fe c2"); /* vpaddd ymm */
	assert_int_equal(in.vvvv_field, FIELD_VEC);
	assert_int_equal(in.vvvv, 1);
	assert_int_equal(in.feature, FEAT_AVX2);
	assert_int_equal(decode(MODE_64, "c5 f1 fe c2").feature, FEAT_AVX);

	in = decode(MODE_64, "41 0f c8"); /* bswap r8d */
	assert_int_equal(in.opreg_field, FIELD_GPR);
	assert_int_equal(in.opreg, 8);
	in = decode(MODE_64, "b4 7f"); /* mov ah, 127 */
	assert_int_equal(in.opreg_field, FIELD_GPR8);
	assert_int_equal(in.opreg, 4);

	/* 40+r and 82 come in the encoding that 64-bit code has */
	in = decode(MODE_32, "4b"); /* dec ebx */
	assert_int_equal(in.opcode, 0xff);
	assert_true(in.has_modrm);
	assert_int_equal(in.mod, 3);
	assert_int_equal(in.reg, 1);
	assert_int_equal(in.rm, REG_RBX);
	assert_int_equal(in.rm_field, FIELD_GPR);
	assert_int_equal(in.reg_field, FIELD_EXT);
	assert_int_equal(in.opreg, INSN_NO_REG);
	assert_int_equal(decode(MODE_32, "82 c0 01").opcode, 0x80);

	/* registers 8 to 15 are not there outside 64-bit code */
	in = decode(MODE_32, "c4 c3 31 4a c2 b0"); /* vblendvps, B clear, vvvv 9, is4 11 */
	assert_int_equal(in.rm, 2);
	assert_int_equal(in.vvvv, 1);
	assert_int_equal(in.imm, 0x30);

	in = decode(MODE_64, "44 0f 22 c0"); /* mov cr8, rax */
	assert_int_equal(in.op, OP_MOV_CR);
	assert_int_equal(in.reg, 8);
	assert_int_equal(in.reg_field, FIELD_CR);
	in = decode(MODE_64, "0f 22 18"); /* mod is ignored */
	assert_int_equal(in.mod, 3);
	assert_false(in.mem);

	assert_int_equal(decode(MODE_64, "0f a8").seg_reg, SEG_GS);
	assert_int_equal(decode(MODE_32, "16").seg_reg, SEG_SS);
	assert_int_equal(decode(MODE_32, "c5 03").seg_reg, SEG_DS);
	assert_int_equal(decode(MODE_64, "0f b2 03").seg_reg, SEG_SS);
	assert_int_equal(decode(MODE_64, "8e e0").seg_reg, SEG_FS);
	assert_int_equal(decode(MODE_64, "0f 4c c1").cc, 0xc);
	assert_int_equal(decode(MODE_64, "f3 a4").prefix, 0xf3);
	assert_int_equal(decode(MODE_64, "f3 c3").prefix, 0);
	assert_int_equal(decode(MODE_64, "f3 c3").rep, 0xf3);
	assert_int_equal(decode(MODE_16, "66 01 c0").opsize, 4);
	assert_int_equal(decode(MODE_16, "01 c0").opsize, 2);
}

static void test_immediates(void **state)
{
	struct insn in = decode(MODE_32, "ea 78 56 34 82 cd ab");

	assert_int_equal(in.op, OP_JMP_FAR);
	assert_int_equal(in.imm, 0x82345678);
	assert_int_equal(in.far_sel, 0xabcd);
	in = decode(MODE_64, "c8 00 80 05");
	assert_int_equal(in.op, OP_ENTER);
	assert_int_equal(in.imm, 0x8000);
	assert_int_equal(in.imm2, 5);
	assert_int_equal(decode(MODE_64, "c2 00 80").imm, 0x8000);
	assert_int_equal(decode(MODE_64, "48 c7 c0 ff ff ff ff").imm, -1);
	assert_int_equal(decode(MODE_64, "6a 80").imm, -128);
	assert_int_equal(decode(MODE_64, "cd 80").imm, 0x80);
	assert_int_equal(decode(MODE_64, "e4 80").imm, 0x80);
	assert_int_equal(decode(MODE_64, "e4 80").imm_size, 1);
	assert_int_equal(decode(MODE_64, "ec").imm_size, 0);
	assert_int_equal(decode(MODE_64, "0f 8f 00 00 00 80").imm, INT32_MIN);
	in = decode(MODE_64, "48 b8 88 77 66 55 44 33 22 91");
	assert_int_equal(in.imm, (int64_t)0x9122334455667788);
	assert_int_equal(in.imm_size, 8);
	in = decode(MODE_64, "66 0f 78 c0 9a 3b"); /* extrq: both bytes */
	assert_int_equal(in.imm, 0x3b9a);
	assert_int_equal(in.imm_size, 2);
}

/* Random strings before a page that is not there: never a byte more is read, nothing else is said.
 */
static void test_cut(void **state)
{
	uint8_t *page =
	    mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *end = page + PAGE_SIZE;
	uint64_t r = 0x2545f4914f6cdd1d;

	assert_ptr_not_equal(page, MAP_FAILED);
	assert_int_equal(munmap(end, PAGE_SIZE), 0);
	for (int i = 0; i < 200000; i++) {
		enum insn_mode mode = i % 3;
		uint8_t bytes[INSN_MAX];
		struct insn whole, in;
		int ret;

		for (int k = 0; k < INSN_MAX; k++) {
			r = r * 6364136223846793005u + 1442695040888963407u;
			bytes[k] = r >> 56;
		}
		if (i & 4)
			bytes[0] = 0x0f;
		if (i & 8)
			bytes[0] = 0xc4 + (i >> 4 & 1);
		memset(&whole, 0xa5, sizeof(whole));
		ret = insn_decode(mode, bytes, INSN_MAX, &whole);
		for (size_t n = 1; n < INSN_MAX; n++) {
			memcpy(end - n, bytes, n);
			memset(&in, 0x5a, sizeof(in));
			if (ret == 0 && n >= whole.len) {
				assert_int_equal(insn_decode(mode, end - n, n, &in), 0);
				assert_memory_equal(&in, &whole, sizeof(in));
			} else {
				assert_int_equal(insn_decode(mode, end - n, n, &in), -EAGAIN);
			}
		}
	}
	munmap(page, PAGE_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flow),   cmocka_unit_test(test_undefined),
		cmocka_unit_test(test_length), cmocka_unit_test(test_address),
		cmocka_unit_test(test_fields), cmocka_unit_test(test_immediates),
		cmocka_unit_test(test_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
