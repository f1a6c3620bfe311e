/* SPDX-License-Identifier: Apache-2.0 */
/* What the generator's files share. */
#ifndef EYOT_ORACLE_GEN_H
#define EYOT_ORACLE_GEN_H

#include <Zydis/Zydis.h>

#include "oracle.h"
#include "rng.h"

struct gen {
	struct rng r;
	const struct gen_opts *o;
	struct oracle_case *c;
	uint32_t fixed;	     /* bit per general register whose value an instruction relies on */
	uint32_t undef_live; /* EFLAGS bits whose value is undefined at this point */
	unsigned insns;	     /* wanted */
	int base;	     /* low register that addressed memory last, -1: none */
};

struct gen_insn {
	uint8_t bytes[16];
	unsigned len;
	bool valid;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* gen_state.c */
void gen_state(struct gen *g);
uint64_t gen_value(struct rng *r);
uint64_t gen_data_pointer(struct rng *r);

/* gen_bytes.c: random bytes shaped like an instruction; no promise that it is one */
unsigned gen_bytes(struct gen *g, uint8_t bytes[16]);

/* gen_aim.c: make the operands of an instruction that stands at @va hit something */
void gen_aim(struct gen *g, struct gen_insn *in, uint64_t va);

/* gen.c */
ZydisDecoder *gen_decoder(enum oracle_mode mode);

#endif
