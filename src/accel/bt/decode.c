/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction decoder: prefixes, opcode, ModRM, then one form from the
 * tables (decode_form.h), which says what every field of the encoding is.
 *
 * It runs in the translator's front end with the guest's vector registers
 * live: no library calls, not even the compiler's own memset or memcpy.
 */
#include <errno.h>

#include "accel/bt/decode_form.h"
#include "vm/vcpu_state.h"

/* Legacy prefixes and REX; anything else is an opcode */
enum prefix_kind { PFX_NONE, PFX_REX, PFX_OPSIZE, PFX_ADDRSIZE, PFX_LOCK, PFX_REP, PFX_SEG };

static const uint8_t prefix_kinds[256] = {
	[0x26] = PFX_SEG, [0x2e] = PFX_SEG, [0x36] = PFX_SEG, [0x3e] = PFX_SEG,
	[0x64] = PFX_SEG, [0x65] = PFX_SEG,
	[0x66] = PFX_OPSIZE, [0x67] = PFX_ADDRSIZE,
	[0xf0] = PFX_LOCK, [0xf2] = PFX_REP, [0xf3] = PFX_REP,
	[0x40 ... 0x4f] = PFX_REX,
};

#define FL_NOT_CF (FL_ARITH & ~FL_CF)
#define FL_ROT (FL_CF | FL_OF)
#define FL_LOW (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF)

struct flag_class {
	uint16_t read, written, undef;
};

static const struct flag_class flag_classes[FC_COUNT] = {
	[FC_ADD] = { 0, FL_ARITH, 0 },
	[FC_ADC] = { FL_CF, FL_ARITH, 0 },
	[FC_LOGIC] = { 0, FL_ARITH, FL_AF },
	[FC_INC] = { 0, FL_NOT_CF, 0 },
	[FC_MUL] = { 0, FL_ARITH, FL_SF | FL_ZF | FL_AF | FL_PF },
	[FC_DIV] = { 0, FL_ARITH, FL_ARITH },
	/* shifts: of an unknown count; see shift_flags() */
	[FC_SHL] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_SAR] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_SHLD] = { 0, FL_ARITH, FL_AF | FL_OF },
	[FC_ROT] = { 0, FL_ROT, FL_OF },
	[FC_RC] = { FL_CF, FL_ROT, FL_OF },
	[FC_BT] = { 0, FL_ARITH & ~FL_ZF, FL_OF | FL_SF | FL_AF | FL_PF },
	[FC_BSF] = { 0, FL_ARITH, FL_ARITH & ~FL_ZF },
	[FC_TZCNT] = { 0, FL_ARITH, FL_OF | FL_SF | FL_AF | FL_PF },
	[FC_ALL] = { 0, FL_ARITH, 0 },
	[FC_READ_ALL] = { FL_ARITH, 0, 0 },
	[FC_ANDN] = { 0, FL_ARITH, FL_AF | FL_PF },
	[FC_BEXTR] = { 0, FL_ARITH, FL_SF | FL_AF | FL_PF },
	[FC_ADCX] = { FL_CF, FL_CF, 0 },
	[FC_ADOX] = { FL_OF, FL_OF, 0 },
	[FC_ZF] = { 0, FL_ZF, 0 },
	[FC_DAA] = { FL_CF | FL_AF, FL_ARITH, FL_OF },
	[FC_AAA] = { FL_AF, FL_ARITH, FL_OF | FL_SF | FL_ZF | FL_PF },
	[FC_AAM] = { 0, FL_ARITH, FL_OF | FL_AF | FL_CF },
	[FC_SAHF] = { 0, FL_LOW, 0 },
	[FC_LAHF] = { FL_LOW, 0, 0 },
	[FC_WRITE_CF] = { 0, FL_CF, 0 },
	[FC_READ_CF] = { FL_CF, 0, 0 },
	[FC_CMC] = { FL_CF, FL_CF, 0 },
	[FC_READ_ZF] = { FL_ZF, 0, 0 },
	[FC_READ_OF] = { FL_OF, 0, 0 },
	[FC_READ_PF] = { FL_PF, 0, 0 },
	[FC_READ_CF_ZF] = { FL_CF | FL_ZF, 0, 0 },
};

/* Flags of the conditions, by cc / 2 */
static const uint16_t cc_flags[8] = {
	FL_OF, FL_CF, FL_ZF, FL_CF | FL_ZF, FL_SF, FL_PF, FL_SF | FL_OF, FL_ZF | FL_SF | FL_OF,
};

#define A (1u << REG_RAX)
#define C (1u << REG_RCX)
#define D (1u << REG_RDX)
#define B (1u << REG_RBX)
#define SP (1u << REG_RSP)
#define BP (1u << REG_RBP)
#define SI (1u << REG_RSI)
#define DI (1u << REG_RDI)

struct implicit_set {
	uint16_t read, write;
};

/* Writes count as reads too when the operand size is below 4. */
static const struct implicit_set implicit_sets[G_COUNT] = {
	[G_A_R] = { A, 0 }, [G_A_W] = { 0, A }, [G_A_RW] = { A, A }, [G_AX_RW] = { A, A },
	[G_C_R] = { C, 0 }, [G_C_RW] = { C, C }, [G_C_W] = { 0, C },
	[G_SP] = { SP, SP }, [G_FRAME] = { SP | BP, SP | BP },
	[G_PUSHA] = { 0xff, SP }, [G_POPA] = { SP, 0xff },
	[G_AD_W] = { A, A | D }, [G_AD_RW] = { A | D, A | D },
	[G_CWD] = { A, D },
	[G_D_R] = { D, 0 }, [G_AD_R] = { A | D, 0 }, [G_AD_R_C_W] = { A | D, C },
	[G_MOVS] = { SI | DI, SI | DI }, [G_STOS] = { A | DI, DI }, [G_LODS] = { SI, A | SI },
	[G_SCAS] = { A | DI, DI }, [G_INS] = { D | DI, DI }, [G_OUTS] = { D | SI, SI },
	[G_XLAT] = { A | B, A }, [G_DI_R] = { DI, 0 },
	[G_CX8] = { A | B | C | D, A | D },
	[G_CPUID] = { A | C, A | B | C | D },
	[G_ACD_R] = { A | C | D, 0 }, [G_AC_R] = { A | C, 0 },
	[G_C_R_AD_W] = { C, A | D }, [G_ACD_W] = { 0, A | C | D }, [G_TSC_W] = { 0, A | D },
	[G_IN_DX] = { D, A },
	[G_SYSCALL] = { 0, C | 1u << REG_R11 }, [G_SYSRET] = { C | 1u << REG_R11, 0 },
	[G_SYSENTER] = { 0, SP }, [G_SYSEXIT] = { C | D, SP },
};

#undef A
#undef C
#undef D
#undef B
#undef SP
#undef BP
#undef SI
#undef DI

static const uint8_t field_of_kind[16] = {
	[K_NONE] = FIELD_NONE, [K_EXT] = FIELD_EXT, [K_B] = FIELD_GPR8, [K_W] = FIELD_GPR,
	[K_D] = FIELD_GPR, [K_V] = FIELD_GPR, [K_Y] = FIELD_GPR, [K_N] = FIELD_GPR,
	[K_VEC] = FIELD_VEC, [K_MM] = FIELD_VEC, [K_SEG] = FIELD_SEG, [K_CR] = FIELD_CR,
	[K_DR] = FIELD_DR,
};

/* The bytes, and what the prefixes said */
struct cursor {
	const uint8_t *p, *end;
	enum insn_mode mode;
	bool p66, p67;
	uint8_t rex; /* the prefix byte, or made from VEX: W R X B in the low bits */
	uint8_t modrm;
};

/* Not memset: the compiler must not make it a call. */
static inline void insn_clear(struct insn *in)
{
	uint64_t *p = (uint64_t *)in;
	uint64_t *end = p + sizeof(*in) / 8;

	_Static_assert(sizeof(*in) % 8 == 0, "struct insn is cleared in words of 8 bytes");
	do {
		*p++ = 0;
		__asm__("" : "+r"(p));
	} while (p != end);
}

/* Little-endian, @n is 1, 2, 4 or 8; false when the bytes end. */
static inline bool fetch(struct cursor *c, unsigned int n, bool sign, int64_t *v)
{
	const uint8_t *p = c->p;

	if ((size_t)(c->end - p) < n)
		return false;
	c->p += n;
	switch (n) {
	case 1:
		*v = sign ? (int64_t)(int8_t)p[0] : p[0];
		break;
	case 2: {
		uint16_t w;

		__builtin_memcpy(&w, p, 2);
		*v = sign ? (int64_t)(int16_t)w : w;
		break;
	}
	case 4: {
		uint32_t d;

		__builtin_memcpy(&d, p, 4);
		*v = sign ? (int64_t)(int32_t)d : d;
		break;
	}
	default:
		__builtin_memcpy(v, p, 8);
		break;
	}
	return true;
}

/* Prefixes up to the first opcode byte, which is returned; negative when the bytes end. */
static int read_prefixes(struct cursor *c, struct insn *in)
{
	while (c->p != c->end) {
		uint8_t b = *c->p++;
		uint8_t kind = prefix_kinds[b];

		if (kind == PFX_NONE)
			return b;
		if (kind == PFX_REX) {
			if (c->mode != MODE_64)
				return b;
			c->rex = b;
			continue;
		}
		c->rex = 0; /* acts only right before the opcode */
		switch (kind) {
		case PFX_OPSIZE:
			c->p66 = true;
			break;
		case PFX_ADDRSIZE:
			c->p67 = true;
			break;
		case PFX_LOCK:
			in->lock = true;
			break;
		case PFX_REP:
			in->rep = b;
			break;
		default:
			/* 64-bit code ignores es, cs, ss and ds: an earlier fs or gs stays */
			if (b >= 0x64)
				in->seg = SEG_FS + (b & 1);
			else if (c->mode != MODE_64)
				in->seg = (b >> 3) & 3;
			else
				break;
			in->seg_override = true;
			break;
		}
	}
	return -1;
}

/* The rest of a VEX prefix and its opcode. Return: false when the bytes end. */
static bool read_vex(struct cursor *c, struct insn *in, uint8_t first)
{
	unsigned int n = first == 0xc5 ? 2 : 3;
	uint8_t b;

	if (c->end - c->p < n)
		return false;
	b = *c->p++;
	in->vex = true;
	in->map = 1;
	c->rex = ~b >> 5 & 4;
	if (first == 0xc4) {
		in->map = b & 0x1f;
		c->rex = ~b >> 5 & 7;
		b = *c->p++;
		in->w = b >> 7;
	}
	in->vvvv = ~b >> 3 & 15;
	in->vex_l = b >> 2 & 1;
	in->vex_pp = b & 3;
	if (c->mode != MODE_64)
		c->rex = 0;
	in->opcode = *c->p++;
	return true;
}

/*
 * Everything up to the opcode. Return: the forms of the opcode, NULL when it
 * is undefined; *@more is set when the bytes end.
 */
static const struct insn_form *read_opcode(struct cursor *c, struct insn *in, bool *more)
{
	int b = read_prefixes(c, in);

	*more = true;
	if (b < 0)
		return NULL;
	in->opcode = b;
	if (b == 0x0f) {
		if (c->p == c->end)
			return NULL;
		in->map = 1;
		in->opcode = *c->p++;
		if (in->opcode == 0x38 || in->opcode == 0x3a) {
			in->map = in->opcode == 0x38 ? 2 : 3;
			if (c->p == c->end)
				return NULL;
			in->opcode = *c->p++;
		}
	} else if (b == 0xc4 || b == 0xc5 || b == 0x62) {
		bool legacy;

		if (c->mode != MODE_64 && c->p == c->end)
			return NULL;
		legacy = c->mode != MODE_64 && *c->p < 0xc0;
		if (!legacy && b == 0x62) {
			*more = false; /* EVEX */
			return NULL;
		}
		if (!legacy) {
			bool bad = in->lock || in->rep || c->p66 || c->rex;

			if (!read_vex(c, in, b))
				return NULL;
			*more = false;
			switch (bad ? 0 : in->map) {
			case 1:
				return insn_vex_0f[in->opcode];
			case 2:
				return insn_vex_0f38[in->opcode];
			case 3:
				return insn_vex_0f3a[in->opcode];
			default:
				return NULL;
			}
		}
	}
	*more = false;
	in->rex = c->rex != 0;
	in->w = c->rex >> 3 & 1;
	switch (in->map) {
	case 0:
		return insn_map_one[in->opcode];
	case 1:
		return insn_map_0f[in->opcode];
	case 2:
		return insn_map_0f38[in->opcode];
	default:
		return insn_map_0f3a[in->opcode];
	}
}

static unsigned int context_bits(const struct cursor *c, const struct insn *in)
{
	static const uint8_t vex_pp[4] = { C_NP, C_66, C_F3, C_F2 };
	unsigned int ctx;

	if (in->vex)
		ctx = vex_pp[in->vex_pp] | (in->vex_l ? C_L1 : C_L0);
	else if (in->rep)
		ctx = in->rep == 0xf3 ? C_F3 : C_F2;
	else
		ctx = c->p66 ? C_66 : C_NP;
	ctx |= in->w ? C_W1 : C_W0;
	ctx |= C_M16 << c->mode;
	if (in->has_modrm)
		ctx |= (in->mod == 3 ? C_REG : C_MEM) | 1u << (C_SUB_SHIFT + (c->modrm >> 3 & 7)) |
		       1u << (C_RM_SHIFT + (c->modrm & 7));
	return ctx;
}

static void set_opsize(const struct cursor *c, struct insn *in, unsigned int rule)
{
	bool long_mode = c->mode == MODE_64;
	bool acts = c->p66 && !in->w;
	uint8_t size = in->w ? 8 : (c->mode == MODE_16) != c->p66 ? 2 : 4;

	switch (rule) {
	case OSZ_B:
		size = 1;
		acts = false;
		break;
	case OSZ_D64:
		if (long_mode)
			size = acts ? 2 : 8;
		break;
	case OSZ_F64:
		if (long_mode) {
			size = 8;
			acts = false;
		}
		break;
	case OSZ_Z:
		/* W makes it 64-bit, which these do not have */
		if (size == 8)
			size = 4;
		break;
	case OSZ_Y:
		size = in->w ? 8 : 4;
		acts = false;
		break;
	case OSZ_N:
		size = long_mode ? 8 : 4;
		acts = false;
		break;
	default:
		break;
	}
	in->opsize = size;
	in->opsize_prefix = acts;
}

/* 16-bit ModRM addressing. Return: false when the bytes end. */
static bool read_mem16(struct cursor *c, struct insn *in)
{
	static const uint8_t bases[8] = { REG_RBX, REG_RBX, REG_RBP, REG_RBP,
					  REG_RSI, REG_RDI, REG_RBP, REG_RBX };
	static const uint8_t indexes[8] = { REG_RSI, REG_RDI, REG_RSI, REG_RDI,
					    INSN_NO_REG, INSN_NO_REG, INSN_NO_REG, INSN_NO_REG };
	uint8_t rm = c->modrm & 7;

	if (in->mod == 0 && rm == 6)
		return fetch(c, 2, true, &in->disp);
	in->base = bases[rm];
	in->index = indexes[rm];
	if (in->base == REG_RBP && !in->seg_override)
		in->seg = SEG_SS;
	return in->mod == 0 || fetch(c, in->mod, true, &in->disp);
}

/* ModRM addressing with its SIB byte and displacement. Return: false when the bytes end. */
static bool read_mem(struct cursor *c, struct insn *in, bool vsib)
{
	uint8_t base = c->modrm & 7;

	in->mem = true;
	in->base = in->index = INSN_NO_REG;
	in->scale = 1;
	if (in->addrsize == 2)
		return read_mem16(c, in);
	if (base == 4) {
		uint8_t sib;

		if (c->p == c->end)
			return false;
		sib = *c->p++;
		in->scale = 1 << (sib >> 6);
		in->index = (sib >> 3 & 7) | (c->rex << 2 & 8);
		if (in->index == 4 && !vsib) {
			in->index = INSN_NO_REG;
			in->scale = 1;
		}
		base = sib & 7;
		if (base == 5 && in->mod == 0)
			return fetch(c, 4, true, &in->disp);
	} else if (base == 5 && in->mod == 0) {
		if (c->mode == MODE_64)
			in->base = INSN_RIP_REL;
		return fetch(c, 4, true, &in->disp);
	}
	if ((base == REG_RSP || base == REG_RBP) && !(c->rex & 1) && !in->seg_override)
		in->seg = SEG_SS;
	in->base = base | (c->rex << 3 & 8);
	if (in->mod == 0)
		return true;
	return fetch(c, in->mod == 1 ? 1 : 4, true, &in->disp);
}

/* Account for a register operand: @kind has the access. */
static inline void use_register(struct insn *in, uint8_t kind, uint8_t reg)
{
	unsigned int bit;
	bool partial = false;

	switch (kind & K_MASK) {
	case K_B:
		if (!in->rex)
			reg &= 3;
		partial = true;
		break;
	case K_W:
		partial = true;
		break;
	case K_V:
		partial = in->opsize == 2;
		break;
	case K_D:
	case K_Y:
	case K_N:
		break;
	default:
		return;
	}
	bit = 1u << reg;
	if (kind & WR)
		in->gpr_write |= bit;
	if ((kind & RD) || partial)
		in->gpr_read |= bit;
}

/* ah, ch, dh and bh are numbers 4 to 7 without REX, of registers 0 to 3 */
static void use_operands(const struct cursor *c, struct insn *in, const struct insn_form *f)
{
	if (in->has_modrm) {
		in->reg_field = field_of_kind[f->reg & K_MASK];
		use_register(in, f->reg, in->reg);
		if (!in->mem) {
			in->rm_field = field_of_kind[f->rm & K_MASK];
			use_register(in, f->rm, in->rm);
		} else if (in->op != OP_NOP) {
			if (in->base < 16)
				in->gpr_read |= 1u << in->base;
			if (in->index < 16 && !(f->at & A_VSIB))
				in->gpr_read |= 1u << in->index;
		}
	}
	if (f->at & A_OPREG) {
		in->opreg = (in->opcode & 7) | (c->rex << 3 & 8);
		in->opreg_field = field_of_kind[f->vv & K_MASK];
		use_register(in, f->vv, in->opreg);
	} else if (f->vv) {
		in->vvvv_field = field_of_kind[f->vv & K_MASK];
		use_register(in, f->vv, in->vvvv);
	}
}

static void use_implicit(struct insn *in, const struct insn_form *f)
{
	const struct implicit_set *g = &implicit_sets[f->impl];

	in->gpr_read |= g->read;
	in->gpr_write |= g->write;
	if (in->opsize < 4)
		in->gpr_read |= g->write;
	if ((f->at & A_REP) && in->rep) {
		/* a zero count keeps everything */
		in->prefix = in->rep;
		in->gpr_read |= g->write | 1u << REG_RCX;
		in->gpr_write |= 1u << REG_RCX;
		if (f->fl)
			in->flags_read = FL_ARITH;
	}
}

static uint16_t mem_bytes(const struct cursor *c, const struct insn *in, uint8_t code)
{
	static const uint16_t fixed[] = { [M_1] = 1, [M_2] = 2, [M_4] = 4, [M_8] = 8, [M_10] = 10,
					  [M_16] = 16, [M_32] = 32, [M_512] = 512 };

	switch (code) {
	case M_V:
		return in->opsize;
	case M_Y:
		return in->w ? 8 : 4;
	case M_P:
		return in->opsize + 2;
	case M_2V:
		return in->opsize * 2;
	case M_DT:
		return c->mode == MODE_64 ? 10 : 6;
	case M_X:
		return 16 << in->vex_l;
	case M_HX:
		return 8 << in->vex_l;
	case M_QX:
		return 4 << in->vex_l;
	case M_OX:
		return 2 << in->vex_l;
	case M_DUP:
		return in->vex_l ? 32 : 8;
	case M_ENV:
		return in->opsize == 2 ? 14 : 28;
	case M_FSAVE:
		return in->opsize == 2 ? 94 : 108;
	default:
		return fixed[code];
	}
}

/* Return: false when the bytes end. */
static bool read_imm(struct cursor *c, struct insn *in, uint8_t kind)
{
	unsigned int z = in->opsize == 2 ? 2 : 4;
	int64_t v;

	switch (kind) {
	case I_NONE:
		return true;
	case I_B:
		in->imm_size = 1;
		return fetch(c, 1, true, &in->imm);
	case I_UB:
	case I_IS4:
		in->imm_size = 1;
		if (!fetch(c, 1, false, &in->imm))
			return false;
		if (kind == I_IS4 && c->mode != MODE_64)
			in->imm &= 0x7f; /* registers 8 to 15 are not there */
		return true;
	case I_W:
		in->imm_size = 2;
		return fetch(c, 2, false, &in->imm);
	case I_Z:
		in->imm_size = z;
		return fetch(c, z, true, &in->imm);
	case I_V:
		in->imm_size = in->opsize;
		return fetch(c, in->opsize, true, &in->imm);
	case I_ENTER:
		in->imm_size = 2;
		if (!fetch(c, 2, false, &in->imm) || !fetch(c, 1, false, &v))
			return false;
		in->imm2 = v;
		return true;
	case I_FAR:
		in->imm_size = z;
		if (!fetch(c, z, false, &in->imm) || !fetch(c, 2, false, &v))
			return false;
		in->far_sel = v;
		return true;
	default: /* I_MOFFS */
		in->mem = true;
		in->base = in->index = INSN_NO_REG;
		in->scale = 1;
		return fetch(c, in->addrsize, false, &in->disp);
	}
}

/* Flags of a shift whose count is known: a masked count of zero changes none. */
static void shift_flags(struct insn *in, const struct insn_form *f)
{
	unsigned int count = f->at & A_ONE ? 1 : in->imm & (in->opsize == 8 ? 63 : 31);

	if (count == 0) {
		in->flags_read = in->flags_written = in->flags_undef = 0;
		return;
	}
	if (count == 1)
		in->flags_undef &= ~FL_OF;
	if (f->fl == FC_SHL && count >= in->opsize * 8)
		in->flags_undef |= FL_CF;
	if (f->fl == FC_SHLD && count > in->opsize * 8)
		in->flags_undef = FL_ARITH;
}

static void use_flags(struct insn *in, const struct insn_form *f)
{
	const struct flag_class *fc = &flag_classes[f->fl];

	if (f->fl == FC_CC) {
		in->cc = in->opcode & 15;
		in->flags_read = cc_flags[in->cc >> 1];
		return;
	}
	in->flags_read = fc->read;
	in->flags_written = fc->written;
	in->flags_undef = fc->undef;
	if (!(f->at & (A_SHIFT | A_ONE | A_CL)))
		return;
	if (!(f->at & A_CL)) {
		shift_flags(in, f);
		return;
	}
	in->flags_read |= fc->written; /* a zero count keeps them */
	if (f->fl == FC_SHL && in->opsize < 4)
		in->flags_undef |= FL_CF;
	if (f->fl == FC_SHLD && in->opsize == 2)
		in->flags_undef = FL_ARITH;
}

/* Segment operands, control registers, nop and pause, and encodings that 64-bit code lacks. */
static void finish_special(struct cursor *c, struct insn *in, const struct insn_form *f)
{
	static const uint8_t lseg[8] = { SEG_ES, 0, SEG_SS, 0, SEG_FS, SEG_GS, 0, 0 };

	switch (in->op) {
	case OP_XCHG:
		if (in->opcode == 0x90 && in->opreg == REG_RAX) {
			in->op = in->rep == 0xf3 ? OP_PAUSE : OP_NOP;
			in->gpr_read = in->gpr_write = 0;
		}
		break;
	case OP_PUSH_SEG:
	case OP_POP_SEG:
		in->seg_reg = in->opcode >> 3 & 7;
		break;
	case OP_LSEG:
		in->seg_reg = in->map == 0 && in->opcode == 0xc5 ? SEG_DS : lseg[in->map == 0 ? 0 : in->opcode & 7];
		break;
	case OP_MOV_FROM_SEG:
	case OP_MOV_TO_SEG:
		in->seg_reg = in->reg &= 7;
		break;
	case OP_MOV_CR:
		if (in->reg > 8 || !(0x11d >> in->reg & 1))
			in->op = OP_INVALID;
		break;
	case OP_MOV_DR:
		if (in->reg > 7)
			in->op = OP_INVALID;
		break;
	case OP_GATHER:
		/* destination, index and mask must differ */
		if (in->reg == in->index || in->reg == in->vvvv || in->index == in->vvvv)
			in->op = OP_INVALID;
		break;
	case OP_COPY:
		if (!(f->at & A_ALIAS))
			break;
		if (in->opcode == 0x82) {
			in->opcode = 0x80;
			break;
		}
		in->has_modrm = true;
		in->mod = 3;
		in->reg = in->opcode >> 3 & 1;
		in->rm = in->opreg;
		in->reg_field = FIELD_EXT;
		in->rm_field = FIELD_GPR;
		in->opreg = INSN_NO_REG;
		in->opreg_field = FIELD_NONE;
		in->opcode = 0xff;
		break;
	default:
		break;
	}
}

static void set_feature(struct insn *in, const struct insn_form *f)
{
	in->unit = f->unit;
	in->feature = f->feat;
	if (!(f->at & A_L2) || !in->vex_l)
		return;
	switch (f->feat) {
	case FEAT_AES:
		in->feature = FEAT_VAES;
		break;
	case FEAT_PCLMUL:
		in->feature = FEAT_VPCLMUL;
		break;
	default:
		in->feature = FEAT_AVX2;
		break;
	}
}

int insn_decode(enum insn_mode mode, const uint8_t *bytes, size_t avail, struct insn *in)
{
	size_t limit = avail < INSN_MAX ? avail : INSN_MAX;
	struct cursor c = { .p = bytes, .end = bytes + limit, .mode = mode };
	const struct insn_form *f;
	unsigned int ctx;
	bool more;

	insn_clear(in);
	in->opreg = INSN_NO_REG;
	in->seg = SEG_DS;
	f = read_opcode(&c, in, &more);
	if (more)
		goto short_of_bytes;
	if (!f)
		goto done;
	if (f->reg | f->rm) {
		if (c.p == c.end)
			goto short_of_bytes;
		c.modrm = *c.p++;
		in->has_modrm = true;
		in->mod = c.modrm >> 6;
		in->reg = (c.modrm >> 3 & 7) | (c.rex << 1 & 8);
		in->rm = (c.modrm & 7) | (c.rex << 3 & 8);
	}
	ctx = context_bits(&c, in);
	while (f->deny & ctx)
		f++;
	if (f->op == OP_INVALID)
		goto done;
	in->op = f->op;

	set_opsize(&c, in, f->at & OSZ_MASK);
	in->addrsize = mode == MODE_64 ? (c.p67 ? 4 : 8) : (mode == MODE_16) != c.p67 ? 2 : 4;
	if (in->vex && in->vvvv && !f->vv)
		in->op = OP_INVALID;
	if (in->vex && mode != MODE_64) {
		in->vvvv &= 7;
		/* W chooses among instructions there, but never 64-bit registers */
		if (K_Y == (f->reg & K_MASK) || K_Y == (f->rm & K_MASK))
			in->w = false, in->opsize = 4;
	}
	if (!in->vex && (f->deny & C_NP))
		in->prefix = ctx & C_66 ? 0x66 : in->rep;
	if (in->has_modrm) {
		uint8_t kind = f->reg & K_MASK;

		if (kind == K_MM || kind == K_EXT || kind == K_SEG)
			in->reg &= 7;
		kind = f->rm & K_MASK;
		if (kind == K_MM || kind == K_EXT)
			in->rm &= 7;
		if (kind == K_N)
			in->mod = 3; /* moves to and from control registers ignore it */
		if (in->mod != 3 && !read_mem(&c, in, f->at & A_VSIB))
			goto short_of_bytes;
	}
	if (!read_imm(&c, in, f->imm))
		goto short_of_bytes;
	if (in->mem && f->mem) {
		in->mem_size = mem_bytes(&c, in, f->mem);
		in->mem_access = f->imm != I_MOFFS ? f->rm >> 4 :
				 f->op == OP_MOV_MOFFS_LOAD ? MEM_READ : MEM_WRITE;
	}
	use_flags(in, f);
	use_operands(&c, in, f);
	use_implicit(in, f);
	set_feature(in, f);
	finish_special(&c, in, f);

	if (in->lock && !((f->at & A_LOCK) && in->mem))
		in->op = OP_INVALID;
	if ((f->at & A_VSIB) && ((c.modrm & 7) != 4 || in->addrsize == 2))
		in->op = OP_INVALID;
done:
	in->len = c.p - bytes;
	return 0;

short_of_bytes:
	in->op = OP_INVALID;
	in->len = limit;
	return limit == INSN_MAX ? -E2BIG : -EAGAIN;
}
