/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes cases: picks bytes (gen_bytes.c) that decode to an instruction the
 * rules allow, sets a state (gen_state.c) and aims the operands (gen_aim.c).
 * Case N of a seed is always the same.
 *
 * Zydis decodes here, not the translator's own decoder: a wrong table there
 * must show as a mismatch, not as a case that is never made.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "gen.h"

#define TRIES 4000000u
#define COVERAGE_SLOTS 65536u

struct form {
	uint16_t mnemonic;
	uint8_t encoding, map, opcode, width,
	    flags; /* flags: 1 memory, 2 VEX.L, 4 lock, 8 rep, 16 used */
};

static struct form coverage[COVERAGE_SLOTS];
static unsigned coverage_count;

ZydisDecoder *gen_decoder(enum oracle_mode mode)
{
	static ZydisDecoder dec[2];
	static bool ready;

	if (!ready) {
		ZydisDecoderInit(&dec[ORACLE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		ZydisDecoderInit(&dec[ORACLE_32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
				 ZYDIS_STACK_WIDTH_32);
		ready = true;
	}
	return &dec[mode];
}

static bool decode(enum oracle_mode mode, const uint8_t *bytes, unsigned len, struct gen_insn *in)
{
	in->valid =
	    ZYAN_SUCCESS(ZydisDecoderDecodeFull(gen_decoder(mode), bytes, len, &in->z, in->ops));
	in->len = in->valid ? in->z.length : len;
	return in->valid;
}

static const char *isa_name(const struct gen_insn *in)
{
	return ZydisISASetGetString(in->z.meta.isa_set);
}

static void cover(const struct gen_insn *in)
{
	struct form f = { .mnemonic = in->z.mnemonic,
			  .encoding = in->z.encoding,
			  .map = in->z.opcode_map,
			  .opcode = in->z.opcode,
			  .width = in->z.operand_width,
			  .flags = 16 };
	unsigned h;

	for (unsigned i = 0; i < in->z.operand_count_visible; i++)
		if (in->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			f.flags |= 1;
	if (in->z.avx.vector_length == 256)
		f.flags |= 2;
	if (in->z.attributes & ZYDIS_ATTRIB_HAS_LOCK)
		f.flags |= 4;
	if (in->z.attributes &
	    (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		f.flags |= 8;
	h = (f.mnemonic * 31u + f.opcode * 7919u + f.map * 257u + f.width * 17u + f.flags * 131u) %
	    COVERAGE_SLOTS;
	while (coverage[h].flags) {
		if (!memcmp(&coverage[h], &f, sizeof(f)))
			return;
		h = (h + 1) % COVERAGE_SLOTS;
	}
	if (coverage_count < COVERAGE_SLOTS - 1) {
		coverage[h] = f;
		coverage_count++;
	}
}

unsigned gen_coverage(FILE *list)
{
	for (unsigned i = 0; list && i < COVERAGE_SLOTS; i++)
		if (coverage[i].flags)
			fprintf(list, "%s map %u opcode %02x width %u%s%s%s%s\n",
				ZydisMnemonicGetString(coverage[i].mnemonic), coverage[i].map,
				coverage[i].opcode, coverage[i].width,
				coverage[i].flags & 1 ? " mem" : "",
				coverage[i].flags & 2 ? " L1" : "",
				coverage[i].flags & 4 ? " lock" : "",
				coverage[i].flags & 8 ? " rep" : "");
	return coverage_count;
}

static bool filter_match(const struct gen *g, const struct gen_insn *in)
{
	const char *f = g->o->filter;

	if (!f)
		return true;
	return !strcasecmp(f, ZydisMnemonicGetString(in->z.mnemonic)) ||
	       !strcasecmp(f, isa_name(in)) ||
	       !strcasecmp(f, ZydisCategoryGetString(in->z.meta.category));
}

static bool reads_selector(const struct gen_insn *in)
{
	for (unsigned i = 0; i < in->z.operand_count; i++)
		if (in->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (in->ops[i].actions & ZYDIS_OPERAND_ACTION_WRITE) &&
		    ZydisRegisterGetClass(in->ops[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

static bool saves_pointers(const struct gen_insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return true;
	default:
		return false;
	}
}

static bool old_encoding(const struct gen_insn *in)
{
	return in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	       in->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

/* Zydis notes F2 and F3 only where they mean something. */
static bool has_rep(const struct gen_insn *in)
{
	for (unsigned i = 0; i < in->z.raw.prefix_count; i++)
		if (in->z.raw.prefixes[i].value == 0xf2 || in->z.raw.prefixes[i].value == 0xf3)
			return true;
	return false;
}

/* Whether the rules let an instruction be compared at all */
static bool comparable(const struct gen_insn *in)
{
	if (rules_excluded_why(ZydisMnemonicGetString(in->z.mnemonic)))
		return false;
	if (in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return false;
	if (in->z.mnemonic == ZYDIS_MNEMONIC_INT && in->z.raw.imm[0].value.u == 0x80)
		return false;
	if (in->z.opcode_map == ZYDIS_OPCODE_MAP_0F && in->z.opcode == 0x0d &&
	    in->z.raw.modrm.mod == 3)
		return false;
	if ((in->z.mnemonic == ZYDIS_MNEMONIC_LOOPE || in->z.mnemonic == ZYDIS_MNEMONIC_LOOPNE) &&
	    has_rep(in))
		return false;
	/* near branches whose operand size the CPU's makers disagree about */
	if (in->z.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 &&
	    (in->z.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) &&
	    in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	return !reads_selector(in) || (in->z.mnemonic == ZYDIS_MNEMONIC_MOV &&
				       in->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER);
}

/* Whether a decoded instruction can stand in this case */
static bool allowed(struct gen *g, const struct gen_insn *in)
{
	bool hideable = rules_isa_may_hide(isa_name(in)) || !old_encoding(in);

	if (!comparable(in) || !filter_match(g, in))
		return false;
	if (g->insns > 1 && (hideable || saves_pointers(in) || reads_selector(in)))
		return false;
	if (hideable && !g->o->filter && !rng_pct(&g->r, 15))
		return false;
	/* flags that nobody defines must not be read: not here, and not where a branch leads */
	if (g->insns > 1 && g->undef_live && in->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	if (g->insns > 1 && in->z.cpu_flags && (in->z.cpu_flags->tested & g->undef_live))
		return false;
	return true;
}

static void aim_selector(struct gen *g, const struct gen_insn *in)
{
	static const uint16_t sels[] = { 0,
					 SEL_USER_DS,
					 0x28,
					 SEL_USER32_CS,
					 SEL_USER64_CS,
					 SEL_KERNEL_CS,
					 SEL_KERNEL_DS,
					 SEL_TSS,
					 0xfff8,
					 0x2f };
	int reg = ZydisRegisterGetId(in->ops[1].reg.value);

	g->c->in.gpr[reg & 15] = sels[rng_below(&g->r, sizeof(sels) / 2)];
	g->fixed |= 1u << (reg & 15);
}

/* One more instruction behind those there are; false when none was found */
static bool add_insn(struct gen *g)
{
	struct oracle_case *c = g->c;
	struct gen_insn in;

	for (unsigned i = 0; i < TRIES; i++) {
		gen_bytes(g, in.bytes);
		if (!decode(c->mode, in.bytes, 15, &in)) {
			if (g->insns > 1 || g->o->filter || !rng_pct(&g->r, 1) ||
			    !rng_pct(&g->r, 40))
				continue;
			c->invalid = true;
		} else if (!allowed(g, &in)) {
			continue;
		} else {
			if (reads_selector(&in))
				aim_selector(g, &in);
			else
				gen_aim(g, &in, c->in.rip + c->code_len);
			cover(&in);
			if (in.z.cpu_flags) {
				const ZydisAccessedFlags *f = in.z.cpu_flags;

				/* a count of zero leaves flags as they are */
				if (in.z.meta.category != ZYDIS_CATEGORY_SHIFT &&
				    in.z.meta.category != ZYDIS_CATEGORY_ROTATE)
					g->undef_live &= ~(f->modified | f->set_0 | f->set_1);
				g->undef_live |= f->undefined;
			}
		}
		memcpy(c->code + c->code_len, in.bytes, in.len);
		c->code_len += in.len;
		return true;
	}
	return false;
}

/* Close the sequence to a loop of a few rounds */
static void add_loop(struct gen *g)
{
	struct oracle_case *c = g->c;

	c->in.gpr[1] = 1 + rng_below(&g->r, 5);
	if (rng_pct(&g->r, 50)) { /* dec ecx; jnz */
		if (c->mode == ORACLE_32)
			c->code[c->code_len++] = 0x49;
		else
			c->code[c->code_len++] = 0xff, c->code[c->code_len++] = 0xc9;
		c->code[c->code_len++] = 0x75;
	} else {
		c->code[c->code_len++] = 0xe2;
	}
	c->code[c->code_len] = (uint8_t) - (c->code_len + 1);
	c->code_len++;
}

static uint64_t pick_rip(struct rng *r)
{
	unsigned x = rng_below(r, 100);

	if (x < 82)
		return CODE_BASE + 0x100 + rng_below(r, 0x800);
	if (x < 92)
		return CODE_BASE + PAGE - 1 - rng_below(r, 24);
	if (x < 97)
		return CODE_BASE + PAGE + rng_below(r, 0x800);
	return CODE_BASE + 2 * PAGE - 1 - rng_below(r, 20);
}

/* The code as the CPU sees it: int3 behind it */
static void pad_code(const struct oracle_case *c, uint8_t bytes[ORACLE_CODE_MAX + 16])
{
	memset(bytes, 0xcc, ORACLE_CODE_MAX + 16);
	memcpy(bytes, c->code, c->code_len);
}

/* A branch can land within an instruction: flags undefined by what is found there count too. */
static uint32_t undefined_within(const struct oracle_case *c)
{
	uint8_t bytes[ORACLE_CODE_MAX + 16];
	struct gen_insn in;
	uint32_t undef = 0;

	pad_code(c, bytes);
	for (unsigned off = 0; off < c->code_len; off++)
		if (decode(c->mode, bytes + off, 15, &in) && in.z.cpu_flags)
			undef |= in.z.cpu_flags->undefined;
	return undef;
}

/*
 * Relative branches go to the start of an instruction most of the time. False when one of them
 * still lands within an instruction and flags that are undefined there could be read.
 */
static bool snap_branches(struct gen *g)
{
	struct oracle_case *c = g->c;
	struct gen_insn in;
	bool within = false;

	for (unsigned i = 0; i < c->insn_count; i++) {
		unsigned off = c->insn_off[i], end, to;
		int64_t target;

		if (!decode(c->mode, c->code + off, c->code_len - off, &in) ||
		    !in.z.raw.imm[0].is_relative)
			continue;
		end = off + in.len;
		target = (int64_t)end + in.z.raw.imm[0].value.s;
		if (target <= 0 || target >= c->code_len)
			continue;
		for (to = 0; to < c->insn_count && c->insn_off[to] < target; to++)
			;
		if (to < c->insn_count && c->insn_off[to] == target)
			continue;
		if (rng_pct(&g->r, 5)) {
			within = true;
			continue;
		}
		target = (to < c->insn_count ? c->insn_off[to] : c->code_len) - (int64_t)end;
		memcpy(c->code + off + in.z.raw.imm[0].offset, &target, in.z.raw.imm[0].size / 8);
	}
	return !within || !undefined_within(c);
}

/* Whether a branch into the middle of an instruction could find one that is left out */
static bool hides_excluded(const struct oracle_case *c)
{
	uint8_t bytes[ORACLE_CODE_MAX + 16];
	struct gen_insn in;

	pad_code(c, bytes);
	for (unsigned off = 1, k = 1; off < c->code_len; off++) {
		if (k < c->insn_count && c->insn_off[k] == off) {
			k++;
			continue;
		}
		if (decode(c->mode, bytes + off, 15, &in) && !comparable(&in))
			return true;
	}
	return false;
}

static bool make_case(struct oracle_case *c, const struct gen_opts *o, struct rng rng)
{
	struct gen g = { .r = rng, .o = o, .c = c, .base = -1 };

	g.insns = o->max_len > 1 && !rng_pct(&g.r, 45) ? 2 + rng_below(&g.r, o->max_len - 1) : 1;
	gen_state(&g);
	c->in.rip = pick_rip(&g.r);
	for (unsigned i = 0; i < g.insns; i++)
		if (!add_insn(&g))
			break;
	if (g.insns > 1 && c->code_len < 100 && !g.undef_live && rng_pct(&g.r, 6))
		add_loop(&g);
	if (!c->code_len) {
		fprintf(stderr, "eyot-oracle: nothing matches the filter '%s'\n",
			o->filter ? o->filter : "");
		exit(2);
	}
	gen_describe(c);
	if (g.insns > 1 && !snap_branches(&g))
		return false;
	gen_describe(c);
	return !hides_excluded(c);
}

void gen_case(struct oracle_case *c, const struct gen_opts *o, uint64_t seed, uint64_t number)
{
	for (unsigned attempt = 0;; attempt++) {
		memset(c, 0, sizeof(*c));
		c->number = number;
		c->mode = o->mode;
		c->alignment_check = o->alignment_check;
		c->data_seed = 1 + (seed << 32) + (number >> 8);
		if (make_case(c, o, rng_for(seed + ((uint64_t)attempt << 32), number)))
			return;
	}
}

/* Where the first instruction's memory operand lies */
static uint64_t mem_address(const struct oracle_case *c, const struct gen_insn *in,
			    const ZydisDecodedOperand *op)
{
	uint64_t ea = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
	uint64_t base = 0;

	if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
		ea += c->in.rip + in->z.length;
	else if (op->mem.base != ZYDIS_REGISTER_NONE)
		ea += c->in.gpr[ZydisRegisterGetId(op->mem.base) & 15];
	if (op->mem.index != ZYDIS_REGISTER_NONE)
		ea += c->in.gpr[ZydisRegisterGetId(op->mem.index) & 15] * op->mem.scale;
	if (in->z.address_width < 64)
		ea &= (1ull << in->z.address_width) - 1;
	if (op->mem.segment == ZYDIS_REGISTER_FS)
		base = c->in.fs_base;
	else if (op->mem.segment == ZYDIS_REGISTER_GS)
		base = c->in.gs_base;
	ea += base;
	return c->mode == ORACLE_64 ? ea : (uint32_t)ea;
}

/* The code and data pointers of x87 instructions belong to whoever executes them. */
static void add_holes(struct oracle_case *c, const struct gen_insn *in)
{
	uint64_t va = mem_address(c, in, &in->ops[0]);

	if (!saves_pointers(in))
		return;
	c->hole_count = 1;
	if (in->z.mnemonic == ZYDIS_MNEMONIC_FXSAVE || in->z.mnemonic == ZYDIS_MNEMONIC_FXSAVE64)
		c->holes[0] = (struct oracle_hole) { va + 6, 18 };
	else if (in->z.operand_width == 16)
		c->holes[0] = (struct oracle_hole) { va + 6, 8 };
	else
		c->holes[0] = (struct oracle_hole) { va + 12, 16 };
}

static bool has_segment_base(const struct gen_insn *in)
{
	for (unsigned i = 0; i < in->z.operand_count; i++)
		if (in->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (in->ops[i].mem.segment == ZYDIS_REGISTER_FS ||
		     in->ops[i].mem.segment == ZYDIS_REGISTER_GS))
			return true;
	return false;
}

static void note_special(struct oracle_case *c, const struct gen_insn *in)
{
	if (c->mode == ORACLE_64 && has_segment_base(in))
		c->special |= SPECIAL_SEGMENT;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		c->special |= SPECIAL_FSAVE;
		break;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		c->special |= SPECIAL_MASKMOV;
		break;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		c->special |= SPECIAL_POPA;
		break;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
		c->special |= SPECIAL_UD;
		break;
	default:
		if (in->z.meta.category == ZYDIS_CATEGORY_AVX2GATHER)
			c->special |= SPECIAL_GATHER;
		else if (in->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
			c->special |= SPECIAL_STRING;
		break;
	}
}

int gen_describe(struct oracle_case *c)
{
	struct gen_insn in;
	unsigned off = 0;
	bool branches = false;

	c->insn_count = 0;
	c->flags_undef = 0;
	c->hole_count = 0;
	c->special = 0;
	c->invalid = false;
	while (off < c->code_len && c->insn_count < ORACLE_INSN_MAX) {
		bool ok = decode(c->mode, c->code + off, c->code_len - off, &in);

		if (!c->insn_count) {
			c->invalid = !ok;
			c->may_hide =
			    !ok || rules_isa_may_hide(isa_name(&in)) || !old_encoding(&in);
			snprintf(c->name, sizeof(c->name), "%s",
				 ok ? ZydisMnemonicGetString(in.z.mnemonic) : "(undefined)");
		}
		c->insn_off[c->insn_count++] = off;
		if (!ok)
			break;
		if (in.z.cpu_flags)
			c->flags_undef |= in.z.cpu_flags->undefined;
		note_special(c, &in);
		branches |= in.z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
		off += in.z.length;
		if (c->insn_count == 1 && off == c->code_len)
			add_holes(c, &in);
	}
	if (branches)
		c->flags_undef |= undefined_within(c);
	return off == c->code_len ? 0 : -1;
}

bool gen_incomparable_at(const struct oracle_case *c, const uint8_t *bytes, unsigned len)
{
	struct gen_insn in;

	return !decode(c->mode, bytes, len > 15 ? 15 : len, &in) || !comparable(&in) ||
	       rules_isa_may_hide(isa_name(&in)) || !old_encoding(&in);
}

bool gen_undefined_near(const struct oracle_case *c, const uint8_t *was, const uint8_t *is,
			unsigned len)
{
	struct gen_insn in;

	for (unsigned i = 0; i < len; i++) {
		if (was[i] == is[i])
			continue;
		/* those that hold the byte, and those behind it that begin elsewhere than before */
		for (unsigned from = i > 14 ? i - 14 : 0; from <= i + 15 && from + 15 <= len;
		     from++)
			if (decode(c->mode, is + from, 15, &in) &&
			    (saves_pointers(&in) || !comparable(&in) ||
			     (in.z.cpu_flags && (in.z.cpu_flags->undefined & ~ZYDIS_CPUFLAG_AF))))
				return true;
	}
	return false;
}

void gen_disasm(const struct oracle_case *c, FILE *out)
{
	ZydisFormatter fmt;
	struct gen_insn in;
	char text[128];
	unsigned off = 0;

	ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
	while (off < c->code_len) {
		if (!decode(c->mode, c->code + off, c->code_len - off, &in)) {
			snprintf(text, sizeof(text), "(undefined)");
			in.len = c->code_len - off;
		} else {
			ZydisFormatterFormatInstruction(&fmt, &in.z, in.ops,
							in.z.operand_count_visible, text,
							sizeof(text), c->in.rip + off, NULL);
		}
		fprintf(out, "  %#lx ", (unsigned long)c->in.rip + off);
		for (unsigned i = 0; i < in.len; i++)
			fprintf(out, " %02x", c->code[off + i]);
		fprintf(out, "   %s", text);
		if (in.valid)
			fprintf(out, "  [%s]", isa_name(&in));
		fputc('\n', out);
		off += in.len;
	}
}
