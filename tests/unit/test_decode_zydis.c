/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder against Zydis: byte strings made from every opcode of every map,
 * with prefixes, ModRM and the rest at random, in all three code sizes. What
 * differs on purpose stands in decode_known.h, with the reason.
 *
 * EYOT_DECODE_SEED and EYOT_DECODE_ROUNDS (strings per opcode and mode) repeat
 * or lengthen a run; EYOT_DECODE_TIME=1 prints nanoseconds per instruction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include <Zydis/Zydis.h>

#include "accel/bt/decode.h"
#include "base/util.h"
#include "vm/vcpu_state.h"
#include "decode_known.h"

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

/* Number of a general register with its width in bits; -1: another register */
static int gpr_number(ZydisMachineMode mode, ZydisRegister reg, unsigned int *width)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		*width = ZydisRegisterGetWidth(mode, reg);
		return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(mode, reg));
	default:
		return -1;
	}
}

/* What Zydis says, and how it differs */
struct facts {
	uint16_t gpr_read, gpr_write;
	unsigned int flags_read, flags_written, flags_undef;
	unsigned int diffs;
};

static uint8_t zydis_reg(ZydisMachineMode mode, ZydisRegister reg)
{
	unsigned int width;

	if (reg == ZYDIS_REGISTER_NONE)
		return INSN_NO_REG;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return INSN_RIP_REL;
	if (gpr_number(mode, reg, &width) >= 0)
		return gpr_number(mode, reg, &width);
	return ZydisRegisterGetId(reg);
}

static unsigned int compare_mem(ZydisMachineMode mode, const struct insn *in,
				const ZydisDecodedOperand *op)
{
	unsigned int diffs = 0, access = 0;
	ZydisRegister seg =
	    op->mem.type == ZYDIS_MEMOP_TYPE_AGEN ? ZYDIS_REGISTER_NONE : op->mem.segment;
	bool moffs = in->op == OP_MOV_MOFFS_LOAD || in->op == OP_MOV_MOFFS_STORE;
	int64_t disp = op->mem.disp.value;

	if (moffs && in->addrsize < 8)
		disp &= in->addrsize == 2 ? 0xffff : 0xffffffff;
	if (!in->mem || zydis_reg(mode, op->mem.base) != in->base ||
	    zydis_reg(mode, op->mem.index) != in->index || disp != in->disp ||
	    (in->index != INSN_NO_REG && op->mem.scale != in->scale))
		diffs |= DIFF_MEM;
	if (mode != ZYDIS_MACHINE_MODE_LONG_64 || seg == ZYDIS_REGISTER_FS ||
	    seg == ZYDIS_REGISTER_GS) {
		if (op->mem.type != ZYDIS_MEMOP_TYPE_AGEN && in->op != OP_NOP &&
		    ZydisRegisterGetId(seg) != in->seg)
			diffs |= DIFF_MEM;
	} else if (in->seg >= SEG_FS && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
		diffs |= DIFF_MEM;
	}
	if (op->mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
		access |= op->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? MEM_READ : 0;
		access |= op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? MEM_WRITE : 0;
	}
	if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN ? in->mem_size != 0
						  : op->size != in->mem_size * 8)
		diffs |= DIFF_MEM_SIZE;
	if (access != in->mem_access)
		diffs |= DIFF_MEM_ACCESS;
	return diffs;
}

/* One register operand of the encoding against the field that holds it */
static bool field_agrees(ZydisMachineMode mode, const struct insn *in, ZydisRegister reg,
			 uint8_t field, uint8_t number)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
		if (field != FIELD_GPR8)
			return false;
		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
			return !in->rex && number == reg - ZYDIS_REGISTER_AH + 4;
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		if (field != FIELD_GPR)
			return false;
		break;
	case ZYDIS_REGCLASS_X87:
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		if (field != FIELD_VEC)
			return false;
		break;
	case ZYDIS_REGCLASS_SEGMENT:
		return field == FIELD_SEG && number == ZydisRegisterGetId(reg);
	case ZYDIS_REGCLASS_CONTROL:
		return field == FIELD_CR && number == ZydisRegisterGetId(reg);
	case ZYDIS_REGCLASS_DEBUG:
		return field == FIELD_DR && number == ZydisRegisterGetId(reg);
	default:
		return false;
	}
	return zydis_reg(mode, reg) == number;
}

static void compare_register(ZydisMachineMode mode, const struct insn *in,
			     const ZydisDecodedOperand *op, struct facts *facts)
{
	unsigned int width;
	int n = gpr_number(mode, op->reg.value, &width);
	bool ok = true;

	if (n >= 0) {
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			facts->gpr_write |= 1u << n;
		if (op->actions &
			(ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE) ||
		    width < 32)
			facts->gpr_read |= 1u << n;
	}
	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		ok = field_agrees(mode, in, op->reg.value, in->reg_field, in->reg);
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		ok = !in->mem && field_agrees(mode, in, op->reg.value, in->rm_field, in->rm);
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		ok = field_agrees(mode, in, op->reg.value, in->vvvv_field, in->vvvv);
		break;
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		if (op->reg.value >= ZYDIS_REGISTER_ES && op->reg.value <= ZYDIS_REGISTER_GS)
			break;
		ok = field_agrees(mode, in, op->reg.value, in->opreg_field, in->opreg) ||
		     field_agrees(mode, in, op->reg.value, in->rm_field, in->rm);
		break;
	default:
		break;
	}
	if (!ok)
		facts->diffs |= DIFF_FIELD;
}

static void compare_operands(ZydisMachineMode mode, const struct insn *in,
			     const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			     struct facts *facts)
{
	bool mem_seen = false;

	for (int i = 0; i < zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];
		unsigned int width;
		int n;

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
			compare_register(mode, in, op, facts);
		if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
		    op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
		    in->imm != op->imm.value.s && in->imm2 != op->imm.value.u) {
			/* the sign matters where the operand is wider than the immediate */
			uint64_t mask = in->imm_size >= 8 ? ~0ull : (1ull << in->imm_size * 8) - 1;

			if (((in->imm ^ op->imm.value.s) & mask) || op->imm.is_signed)
				facts->diffs |= DIFF_IMM;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (op->encoding != ZYDIS_OPERAND_ENCODING_NONE) {
			mem_seen = true;
			facts->diffs |= compare_mem(mode, in, op);
		}
		n = gpr_number(mode, op->mem.base, &width);
		if (n >= 0)
			facts->gpr_read |= 1u << n;
		n = gpr_number(mode, op->mem.index, &width);
		if (n >= 0)
			facts->gpr_read |= 1u << n;
	}
	if (mem_seen != in->mem)
		facts->diffs |= DIFF_MEM;
	if (facts->gpr_read != in->gpr_read)
		facts->diffs |= DIFF_GPR_READ;
	if (facts->gpr_write != in->gpr_write)
		facts->diffs |= DIFF_GPR_WRITE;
}

static void compare_flags(const struct insn *in, const ZydisDecodedInstruction *zi,
			  struct facts *facts)
{
	const ZydisAccessedFlags *fl = zi->cpu_flags;

	if (fl) {
		facts->flags_read = fl->tested & FL_ARITH;
		facts->flags_written =
		    (fl->modified | fl->set_0 | fl->set_1 | fl->undefined) & FL_ARITH;
		facts->flags_undef = fl->undefined & FL_ARITH;
	}
	if (facts->flags_read != in->flags_read)
		facts->diffs |= DIFF_FLAGS_READ;
	if (facts->flags_written != in->flags_written)
		facts->diffs |= DIFF_FLAGS_WRITTEN;
	if (facts->flags_undef != in->flags_undef)
		facts->diffs |= DIFF_FLAGS_UNDEF;
}

/* The unit that the registers tell of */
static uint8_t expected_unit(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	uint8_t unit = UNIT_GPR;

	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_X87:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_FCMOV:
		return zi->mnemonic == ZYDIS_MNEMONIC_FWAIT ? UNIT_FWAIT : UNIT_X87;
	case ZYDIS_ISA_SET_FXSAVE: /* #UD by CR0.EM, #NM by CR0.TS */
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_PENTIUMMMX:
		return UNIT_MMX;
	case ZYDIS_ISA_SET_SSEMXCSR:
		return UNIT_SSE;
	default:
		break;
	}
	if (zi->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || zi->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR ||
	    zi->mnemonic == ZYDIS_MNEMONIC_VZEROALL || zi->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER)
		return UNIT_AVX;
	for (int i = 0; i < zi->operand_count; i++) {
		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(ops[i].reg.value)) {
		case ZYDIS_REGCLASS_X87:
			return UNIT_X87;
		case ZYDIS_REGCLASS_MMX:
			if (unit == UNIT_GPR)
				unit = UNIT_MMX;
			break;
		case ZYDIS_REGCLASS_XMM:
		case ZYDIS_REGCLASS_YMM:
			unit = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? UNIT_AVX : UNIT_SSE;
			break;
		default:
			break;
		}
	}
	return unit;
}

/* May these operands be copied with other registers and another address? */
static bool copyable(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	if (zi->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return false;
	for (int i = 0; i < zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &ops[i];

		if (op->type == ZYDIS_OPERAND_TYPE_POINTER)
			return false;
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return false;
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(op->reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
		case ZYDIS_REGCLASS_CONTROL:
		case ZYDIS_REGCLASS_DEBUG:
		case ZYDIS_REGCLASS_IP:
			return false;
		default:
			break;
		}
	}
	return true;
}

static void compare_class(const struct insn *in, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *ops, struct facts *facts)
{
	if (features[zi->meta.isa_set] != in->feature)
		facts->diffs |= DIFF_FEATURE;
	if (expected_unit(zi, ops) != in->unit)
		facts->diffs |= DIFF_UNIT;
	if (in->op == OP_COPY && !copyable(zi, ops))
		facts->diffs |= DIFF_COPY;
	/* two immediates: enter, extrq, insertq, far pointers */
	if (in->imm_size * 8 != zi->raw.imm[0].size && !zi->raw.imm[1].size && !in->far_sel)
		facts->diffs |= DIFF_IMM;
}

struct tally {
	unsigned long cases, valid;
	unsigned int shown;
	uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1][DIFF_COUNT];
};

static unsigned int explain(ZydisMnemonic mnemonic, unsigned int diffs)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].mnemonic == mnemonic)
			diffs &= ~known[i].diffs;
	return diffs;
}

static void show(int mode, const uint8_t *bytes, const struct insn *in,
		 const ZydisDecodedInstruction *zi, const struct facts *z, unsigned int diffs,
		 struct tally *t)
{
	for (int i = 0; i < DIFF_COUNT; i++) {
		if (!(diffs >> i & 1) || t->seen[zi->mnemonic][i])
			continue;
		t->seen[zi->mnemonic][i] = 1;
		if (t->shown++ >= 200)
			continue;
		print_message("%d-bit %s: %s:", 16 << mode, ZydisMnemonicGetString(zi->mnemonic),
			      diff_names[i]);
		for (int k = 0; k < (zi->length ? zi->length : INSN_MAX); k++)
			print_message(" %02x", bytes[k]);
		print_message("\n  ours:  op %d len %d registers %04x/%04x flags %03x/%03x/%03x "
			      "memory %d/%d unit %d feature %d\n",
			      in->op, in->len, in->gpr_read, in->gpr_write, in->flags_read,
			      in->flags_written, in->flags_undef, in->mem_size, in->mem_access,
			      in->unit, in->feature);
		print_message("  Zydis: len %d registers %04x/%04x flags %03x/%03x/%03x\n",
			      zi->length, z->gpr_read, z->gpr_write, z->flags_read,
			      z->flags_written, z->flags_undef);
	}
}

/* Differences that are not of one mnemonic */
static bool zydis_is_wrong(int mode, const struct insn *in, const ZydisDecodedInstruction *zi)
{
	bool rex_b = zi->raw.rex.B || zi->raw.vex.B;

	/* xchg rax, r8 with F3 is not pause: seen on the processor */
	if (zi->mnemonic == ZYDIS_MNEMONIC_PAUSE && rex_b)
		return in->op == OP_XCHG;
	/* no base register whatever REX.B is: Zydis forgets it for 32-bit addresses */
	if (mode == MODE_64 && in->addrsize == 4 && rex_b && zi->raw.modrm.mod == 0 &&
	    zi->raw.modrm.rm == 4 && zi->raw.sib.base == 5)
		return in->base == INSN_NO_REG;
	return false;
}

static void compare_one(const ZydisDecoder *d, int mode, const uint8_t *bytes, struct tally *t)
{
	ZydisDecodedInstruction zi = { 0 };
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct facts facts = { 0 };
	struct insn in;
	int ret = insn_decode(mode, bytes, INSN_MAX, &in);
	bool ours = ret == 0 && in.op != OP_INVALID;
	bool theirs = ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, bytes, INSN_MAX, &zi, ops));
	unsigned int diffs;

	t->cases++;
	if (!theirs) {
		zi.mnemonic = ZYDIS_MNEMONIC_INVALID;
		zi.length = 0;
	}
	if (ours != theirs) {
		if (theirs && left_out(&zi))
			return;
		facts.diffs = ours ? DIFF_VALID : DIFF_INVALID;
	} else if (ours) {
		t->valid++;
		if (in.len != zi.length)
			facts.diffs |= DIFF_LEN;
		compare_operands(d->machine_mode, &in, &zi, ops, &facts);
		compare_flags(&in, &zi, &facts);
		compare_class(&in, &zi, ops, &facts);
	}
	if (!facts.diffs || zydis_is_wrong(mode, &in, &zi))
		return;
	diffs = explain(zi.mnemonic, facts.diffs);
	if (diffs)
		show(mode, bytes, &in, &zi, &facts, diffs, t);
}

/* A string for @opcode of @map (4 to 6: the VEX maps 1 to 3) */
static void make_string(int mode, int map, int opcode, uint8_t *bytes)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x2e, 0x36, 0x3e, 0x26,
					    0x64, 0x65, 0x66, 0xf2, 0xf3, 0x66, 0xf2, 0xf3 };
	uint8_t *p = bytes;
	uint64_t r = rng();
	int n = r % 8 < 3 ? 0 : r % 8 < 6 ? 1 : r % 8 < 7 ? 2 : 3;

	for (int i = 0; i < INSN_MAX; i++)
		bytes[i] = rng() >> 24;
	r = rng();
	if (map >= 4 && n > 0 &&
	    r % 8) /* rarely beside VEX: always invalid but for 67 and segments */
		*p++ = r % 16 < 8 ? 0x67 : prefixes[5 + r / 16 % 6];
	else
		for (int i = 0; i < n; i++)
			*p++ = prefixes[rng() % ARRAY_SIZE(prefixes)];
	r = rng();
	if (mode == MODE_64 && (map < 4 ? r % 2 : r % 64 == 0))
		*p++ = 0x40 | (r >> 8 & 15);
	r = rng();
	if (map >= 4) {
		uint8_t b = r >> 8, b2 = r >> 16;

		if (mode != MODE_64)
			b |= 0xc0;
		if (r % 4)
			b2 |= 0x78; /* vvvv unused */
		if (map == 4 && r % 8 < 4) {
			*p++ = 0xc5;
			*p++ = mode == MODE_64 ? b2 : b2 | 0xc0;
		} else {
			*p++ = 0xc4;
			*p++ = (b & 0xe0) | (map - 3);
			*p++ = b2;
		}
	} else if (map >= 1) {
		*p++ = 0x0f;
		if (map >= 2)
			*p++ = map == 2 ? 0x38 : 0x3a;
	}
	*p++ = opcode;
	if (rng() % 2 && p < bytes + INSN_MAX)
		*p |= 0xc0;
}

static uint64_t env_number(const char *name, uint64_t value)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : value;
}

static void test_against_zydis(void **state)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} modes[3] = {
		[MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	static struct tally t;
	uint64_t seed = env_number("EYOT_DECODE_SEED", 0x9e3779b97f4a7c15);
	uint64_t rounds = env_number("EYOT_DECODE_ROUNDS", 2000);

	print_message("seed %#lx, %lu strings per opcode and mode\n", (unsigned long)seed,
		      (unsigned long)rounds);
	rng_state = seed;
	for (int mode = MODE_16; mode <= MODE_64; mode++) {
		ZydisDecoder d;

		ZydisDecoderInit(&d, modes[mode].mode, modes[mode].stack);
		ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		for (int map = 0; map < 7; map++)
			for (int opcode = 0; opcode < 256; opcode++)
				for (uint64_t i = 0; i < rounds; i++) {
					uint8_t bytes[INSN_MAX];

					make_string(mode, map, opcode, bytes);
					compare_one(&d, mode, bytes, &t);
				}
	}
	print_message("%lu strings, %lu valid\n", t.cases, t.valid);
	assert_int_equal(t.shown, 0);
	/* the generator must reach real instructions */
	assert_true(t.valid > t.cases / 8);
}

/* Nanoseconds per valid instruction of a string of them, without a bound: for those who ask */
static void test_time(void **state)
{
	enum { COUNT = 4096, ROUNDS = 500 };
	static uint8_t bytes[COUNT][INSN_MAX];
	struct timespec start, end;
	unsigned long done = 0;
	struct insn in;
	double ns;

	if (!getenv("EYOT_DECODE_TIME"))
		skip();
	for (int i = 0; i < COUNT; i++) {
		do {
			make_string(MODE_64, rng() % 2, rng() & 255, bytes[i]);
		} while (insn_decode(MODE_64, bytes[i], INSN_MAX, &in) != 0 || in.op == OP_INVALID);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < COUNT; i++) {
			insn_decode(MODE_64, bytes[i], INSN_MAX, &in);
			done += in.len != 0;
		}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	ns = (end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec);
	print_message("%.1f ns an instruction, in random order\n", ns / done);
	assert_int_equal(done, COUNT * ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_zydis),
		cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
