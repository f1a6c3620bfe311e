/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing host instructions.
 *
 * Register map: guest rax rcx rdx rbx rbp rsi rdi r8 r9 r12 r13 r14 live in the
 * host registers of the same name, guest rsp in host r15. Guest r10, r11 and
 * r15 have their home in memory (home[]): by measurement and by the compilers'
 * allocation order the least used. Host r10 and r11 are scratch (T0, T1). Host rsp
 * and gs point to struct bt_cpu. What stands in its first 128 bytes is reached by rsp: that is
 * shorter, and processors forward what was stored by way of the stack pointer at no cost. The
 * rest is reached by gs: by rsp with a long displacement or an index it took twice as long (AMD,
 * family 26). Below the struct is room for return addresses of the stubs, and for the frames of
 * host signals.
 */
#ifndef EYOT_ACCEL_BT_EMIT_H
#define EYOT_ACCEL_BT_EMIT_H

#include <stddef.h>

#include "accel/bt/bt.h"

#define T0 10
#define T1 11
#define HOST_GUEST_RSP 15
#define HOMED (-1)

static const int8_t reg_map[16] = { 0,	   1,  2,  3,  HOST_GUEST_RSP, 5, 6, 7, 8, 9, HOMED,
				    HOMED, 12, 13, 14, HOMED };

#define CPU_OFF(member) ((int32_t)offsetof(struct bt_cpu, member))
#define REG_OFF(greg) (CPU_OFF(st.regs) + 8 * (int32_t)(greg))
/* of a register that is HOMED: r10, r11, r15 */
#define HOME_INDEX(greg) ((int32_t)(greg) == REG_R15 ? 2 : (int32_t)(greg)-REG_R10)
#define HOME_OFF(greg) (CPU_OFF(home) + 8 * HOME_INDEX(greg))

enum enc_rm {
	RM_REG,
	RM_BASE /* [base + disp] */,
	RM_SIB /* [base + index * scale + disp] */,
	RM_CPU /* the vCPU's, at disp */,
	RM_CPU_INDEX8 /* the vCPU's, at index * 8 + disp */,
	RM_NONE
};

/* One host instruction to be encoded. */
struct enc {
	uint8_t lock, prefix66, rep; /* rep: 0xf2, 0xf3 or 0 */
	bool w, force_rex, vex;
	uint8_t vex_l, vex_pp, vvvv;
	uint8_t map, opcode;
	bool plus_reg; /* register in the opcode byte: rm */
	uint8_t reg;   /* register or opcode extension */
	uint8_t kind;  /* enum enc_rm */
	bool fs;       /* a prefix: the operand is in the window */
	uint8_t rm, base, index, scale;
	int32_t disp;
	uint8_t imm_size;
	int64_t imm;
};

struct out {
	uint8_t *p;
	int32_t depth; /* rsp is this far below struct bt_cpu */
};

static inline void out8(struct out *o, uint8_t v)
{
	*o->p++ = v;
}

static inline void out32(struct out *o, uint32_t v)
{
	__builtin_memcpy(o->p, &v, 4);
	o->p += 4;
}

static inline void out64(struct out *o, uint64_t v)
{
	__builtin_memcpy(o->p, &v, 8);
	o->p += 8;
}

/*
 * Where an operand of guest memory is for the host: at [base + disp], in a window (window.h) behind
 * fs or, in its lower part, with T0 as an index.
 */
enum host_part { PART_NONE, PART_HIGH, PART_LOW, PART_LOW_T0 /* T0 is the host's address */ };
struct host_at {
	uint8_t base, part;
	int32_t disp;
};

/* Its fields of struct enc */
#define ENC_AT(at)                                                                                 \
	.kind = (at).part == PART_LOW ? RM_SIB : RM_BASE, .fs = (at).part == PART_HIGH,            \
	.base = (at).base, .index = T0, .scale = 1, .disp = (at).disp

/** enc_emit() - encode @e at @o->p; at most 24 bytes */
void enc_emit(struct out *o, const struct enc *e);

/* Frequent forms. @w: 64-bit operands. Opcodes of map 0. */
void e_rr(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned rm);
void e_rm(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned base, int32_t disp);
void e_at(struct out *o, bool w, uint8_t opcode, unsigned reg, struct host_at at);
void e_rcpu(struct out *o, bool w, uint8_t opcode, unsigned reg, int32_t off);
void e_rcpu8(struct out *o, bool w, uint8_t opcode, unsigned reg, unsigned index, int32_t off);
void e_ri(struct out *o, bool w, unsigned ext, unsigned rm,
	  int32_t imm); /* group 1: add or adc sbb and sub xor cmp */
void e_mov_ri64(struct out *o, unsigned reg, uint64_t imm);
void e_store_imm32(struct out *o, int32_t off, uint32_t imm); /* mov dword [cpu + off], imm */
void e_lea(struct out *o, bool w, unsigned dst, unsigned base, int32_t disp);
void e_lea_sib(struct out *o, bool w, unsigned dst, int base, int index, unsigned scale,
	       int32_t disp);
void e_shift_i(struct out *o, bool w, unsigned ext, unsigned rm, uint8_t n); /* 4 shl, 5 shr */
void e_rorx_i(struct out *o, unsigned dst, unsigned src, uint8_t n);	     /* BMI2; keeps flags */
void e_wrfsbase(struct out *o, unsigned reg);
void e_jmp_cpu8(struct out *o, unsigned index, int32_t off); /* jmp [cpu + index * 8 + off] */
void e_jmp(struct out *o, const void *target);
void e_call(struct out *o, const void *target);
void e_jcc(struct out *o, unsigned cc, const void *target); /* rel32 */

/* rel32 that may be patched while other threads run it: its four bytes never cross an 8-byte
 * boundary */
uint8_t *e_jmp_patchable(struct out *o);
uint8_t *e_jcc_patchable(struct out *o, unsigned cc);

static inline void patch_rel32(uint8_t *field, const void *target)
{
	__atomic_store_n((int32_t *)field, (int32_t)((const uint8_t *)target - (field + 4)),
			 __ATOMIC_RELEASE);
}

static inline void e_mov_rr(struct out *o, unsigned dst, unsigned src)
{
	e_rr(o, true, 0x8b, dst, src);
}

static inline void e_load(struct out *o, unsigned reg, int32_t off)
{
	e_rcpu(o, true, 0x8b, reg, off);
}

static inline void e_store(struct out *o, unsigned reg, int32_t off)
{
	e_rcpu(o, true, 0x89, reg, off);
}

#endif
