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
	[0x26] = PFX_SEG,  [0x2e] = PFX_SEG, [0x36] = PFX_SEG,	  [0x3e] = PFX_SEG,
	[0x64] = PFX_SEG,  [0x65] = PFX_SEG, [0x66] = PFX_OPSIZE, [0x67] = PFX_ADDRSIZE,
	[0xf0] = PFX_LOCK, [0xf2] = PFX_REP, [0xf3] = PFX_REP,	  [0x40 ... 0x4f] = PFX_REX,
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
			*more = false; /* EVEX; the byte that told so counts */
			c->p += c->mode != MODE_64;
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
	static const uint8_t indexes[8] = { REG_RSI,	 REG_RDI,     REG_RSI,	   REG_RDI,
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

static uint16_t mem_bytes(const struct cursor *c, const struct insn *in, uint8_t code)
{
	static const uint16_t fixed[] = { [M_1] = 1,   [M_2] = 2,   [M_4] = 4,	 [M_8] = 8,
					  [M_10] = 10, [M_16] = 16, [M_32] = 32, [M_512] = 512 };

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

/* Segment operands, control registers, nop and pause, and encodings that 64-bit code lacks. */
static void finish_special(struct cursor *c, struct insn *in, const struct insn_form *f)
{
	static const uint8_t lseg[8] = { [2] = SEG_SS, [4] = SEG_FS, [5] = SEG_GS };

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
		if (in->map == 0)
			in->seg_reg = in->opcode == 0xc5 ? SEG_DS : SEG_ES;
		else
			in->seg_reg = lseg[in->opcode & 7];
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

	if (in->vex && in->vvvv && !f->vv)
		in->op = OP_INVALID;
	if (in->vex && mode != MODE_64) {
		in->vvvv &= 7;
		/* W chooses among instructions there, but never 64-bit registers */
		if (K_Y == (f->reg & K_MASK) || K_Y == (f->rm & K_MASK))
			in->w = false;
	}
	set_opsize(&c, in, f->at & OSZ_MASK);
	if (mode == MODE_64)
		in->addrsize = c.p67 ? 4 : 8;
	else
		in->addrsize = (mode == MODE_16) != c.p67 ? 2 : 4;
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
		if (f->op == OP_MOV_MOFFS_LOAD)
			in->mem_access = MEM_READ;
		else if (f->op == OP_MOV_MOFFS_STORE)
			in->mem_access = MEM_WRITE;
		else
			in->mem_access = f->rm / RD;
	}
	if (f->at & A_OPREG)
		in->opreg = (in->opcode & 7) | (c.rex << 3 & 8);
	insn_form_flow(f, in);
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
