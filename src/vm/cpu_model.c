/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice of a CPU.
 *
 * `host` is everything that the accelerator offers. The numbered models are the levels of the
 * x86-64 ABI, with what operating systems need beside them that every CPU of the level has:
 * constants, the same on all hosts and both accelerators, so that a guest can move between them.
 * `portable` is the highest of these that the host has, without AVX-512, which translation does not
 * carry.
 *
 * 1. What a guest is shown is always part of what is offered.
 * 2. A feature without what it needs (AVX without XSAVE) is not shown.
 * 3. A saved guest goes on only where all that it was shown is offered, and is shown just that
 * again.
 *
 * Any thread; nothing is kept.
 */
#include "vm/cpu_model.h"

#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "vm/cpu_names.h"
#include "vm/mem.h"

#define BIT(n) (1u << (n))
#define SECTION "cpu"
#define SECTION_VERSION 1
#define MODEL_LEAVES 0xdu
#define MODEL_EXT_LEAVES 0x80000008u

static uint32_t least(uint64_t a, uint64_t b)
{
	return (uint32_t)(a < b ? a : b);
}

/* Of CPU_1D, what AMD repeats in CPU_81D */
#define REPEATED 0x0183f3ffu

static const struct {
	uint32_t leaf, sub;
	unsigned reg;
	uint32_t not_features; /* they follow the vCPU's state or the topology */
} words[CPU_WORDS] = {
	[CPU_1C] = { 1, 0, 2, BIT(27) },     [CPU_1D] = { 1, 0, 3, BIT(28) },
	[CPU_7B] = { 7, 0, 1, 0 },	     [CPU_7C] = { 7, 0, 2, BIT(4) },
	[CPU_7D] = { 7, 0, 3, 0 },	     [CPU_71A] = { 7, 1, 0, 0 },
	[CPU_71D] = { 7, 1, 3, 0 },	     [CPU_72D] = { 7, 2, 3, 0 },
	[CPU_D1A] = { 0xd, 1, 0, 0 },	     [CPU_81C] = { 0x80000001, 0, 2, BIT(1) },
	[CPU_81D] = { 0x80000001, 0, 3, 0 }, [CPU_87D] = { 0x80000007, 0, 3, 0 },
	[CPU_88B] = { 0x80000008, 0, 1, 0 }, [CPU_821A] = { 0x80000021, 0, 0, 0 },
	[CPU_KVM] = { 0x40000001, 0, 0, 0 },
};

/* ---- models ---- */

#define MODEL_PORTABLE 1
#define MODEL_V1 2
#define MODEL_V3 4
#define MODEL_V4 5

#define V1_1C (BIT(21) | BIT(24) | BIT(31))
#define V2_1C (V1_1C | BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))
#define V3_1C (V2_1C | BIT(1) | BIT(12) | BIT(22) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30))
#define V1_1D 0x078bfbfdu /* all of a Pentium 4's that long mode needs, without vme */
#define V3_7B (BIT(0) | BIT(3) | BIT(5) | BIT(7) | BIT(8))
#define V4_7B (V3_7B | BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31))
#define V1_81D (BIT(11) | BIT(20) | BIT(29))
#define V2_81D (V1_81D | BIT(27))
#define V3_81D (V2_81D | BIT(26))
#define V1_KVM (BIT(0) | BIT(1) | BIT(3) | BIT(11) | BIT(24))

static const struct {
	const char *name;
	uint32_t word[CPU_WORDS];
} models[] = {
	{ "host", { 0 } },
	{ "portable", { 0 } },
	{ "x86-64-v1",
	  { [CPU_1C] = V1_1C, [CPU_1D] = V1_1D, [CPU_81D] = V1_81D, [CPU_KVM] = V1_KVM } },
	{ "x86-64-v2",
	  { [CPU_1C] = V2_1C,
	    [CPU_1D] = V1_1D,
	    [CPU_81C] = BIT(0),
	    [CPU_81D] = V2_81D,
	    [CPU_KVM] = V1_KVM } },
	{ "x86-64-v3",
	  { [CPU_1C] = V3_1C,
	    [CPU_1D] = V1_1D,
	    [CPU_7B] = V3_7B,
	    [CPU_D1A] = BIT(0),
	    [CPU_81C] = BIT(0) | BIT(5),
	    [CPU_81D] = V3_81D,
	    [CPU_KVM] = V1_KVM } },
	{ "x86-64-v4",
	  { [CPU_1C] = V3_1C,
	    [CPU_1D] = V1_1D,
	    [CPU_7B] = V4_7B,
	    [CPU_D1A] = BIT(0),
	    [CPU_81C] = BIT(0) | BIT(5),
	    [CPU_81D] = V3_81D,
	    [CPU_KVM] = V1_KVM } },
};

/* What needs what, those that are needed first (Intel SDM 1, 13 to 15) */
static const struct {
	uint8_t word, bit;
	uint32_t need_it[CPU_WORDS];
} needs[] = {
	{ CPU_1C, 26 /* xsave */, { [CPU_1C] = BIT(28), [CPU_7C] = BIT(3), [CPU_D1A] = ~0u } },
	{ CPU_1C,
	  28 /* avx */,
	  { [CPU_1C] = BIT(12) | BIT(29),
	    [CPU_7B] = BIT(5) | BIT(16),
	    [CPU_7C] = BIT(9) | BIT(10),
	    [CPU_71A] = BIT(4) | BIT(23),
	    [CPU_71D] = BIT(4) | BIT(5),
	    [CPU_81C] = BIT(11) | BIT(16) } },
	{ CPU_7B,
	  16 /* avx512f */,
	  { [CPU_7B] = BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31),
	    [CPU_7C] = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14),
	    [CPU_7D] = BIT(2) | BIT(3) | BIT(8) | BIT(23),
	    [CPU_71A] = BIT(5) } },
};

void cpu_word_place(enum cpu_word word, uint32_t *ret_leaf, uint32_t *ret_sub, unsigned *ret_reg)
{
	*ret_leaf = words[word].leaf;
	*ret_sub = words[word].sub;
	*ret_reg = words[word].reg;
}

uint32_t cpu_word_features(enum cpu_word word)
{
	return ~words[word].not_features;
}

const char *cpu_feature_name(enum cpu_word word, unsigned bit, char *buf, size_t size)
{
	static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };

	if (names[word][bit])
		return names[word][bit];
	snprintf(buf, size, "cpuid-%x.%x-%s-%u", words[word].leaf, words[word].sub,
		 regs[words[word].reg], bit);
	return buf;
}

const char *cpu_model_name(unsigned index)
{
	return index < ARRAY_SIZE(models) ? models[index].name : NULL;
}

/* ---- reading a choice ---- */

static bool find_feature(const char *name, size_t len, struct cpu_model_item *item)
{
	char buf[32];

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		for (unsigned b = 0; b < 32; b++) {
			const char *known = cpu_feature_name(w, b, buf, sizeof(buf));

			if (strlen(known) != len || memcmp(known, name, len))
				continue;
			item->word = (uint8_t)w;
			item->bit = (uint8_t)b;
			return true;
		}
	}
	return false;
}

static int parse_item(const char *item, size_t len, const char *text, struct cpu_model *model,
		      struct err *err)
{
	struct cpu_model_item *to = &model->items[model->count];

	if (len < 2 || (*item != '+' && *item != '-'))
		return err_set(err, EINVAL, "cpu '%.100s': '%.*s' is neither +FEATURE nor -FEATURE",
			       text, (int)least(len, 40), item);
	if (model->count == CPU_MODEL_ITEMS)
		return err_set(err, EINVAL, "cpu '%.100s': more than %u features", text,
			       CPU_MODEL_ITEMS);
	if (!find_feature(item + 1, len - 1, to))
		return err_set(err, EINVAL, "cpu '%.100s': unknown feature '%.*s'", text,
			       (int)least(len - 1, 40), item + 1);
	to->add = *item == '+';
	model->count++;
	return 0;
}

int cpu_model_parse(const char *text, struct cpu_model *ret_model, struct err *err)
{
	struct cpu_model model = { 0 };
	size_t len = strcspn(text, ",");
	const char *p = text + len;

	while (model.base < ARRAY_SIZE(models) && (strlen(models[model.base].name) != len ||
						   memcmp(models[model.base].name, text, len)))
		model.base++;
	if (model.base == ARRAY_SIZE(models))
		return err_set(err, EINVAL,
			       "cpu '%.100s': unknown model '%.*s'; there are host, portable, "
			       "x86-64-v1 to x86-64-v4",
			       text, (int)least(len, 40), text);
	while (*p) {
		int ret;

		len = strcspn(++p, ",");
		ret = parse_item(p, len, text, &model, err);
		if (ret < 0)
			return ret;
		p += len;
	}
	*ret_model = model;
	return 0;
}

/* ---- what it means on a host ---- */

static bool is_amd(const struct cpu_id *id)
{
	return !memcmp(id->vendor, "AuthenticAMD", 12) || !memcmp(id->vendor, "HygonGenuine", 12);
}

bool cpu_model_lacks(unsigned index, const struct cpu_id *offered, uint32_t lacks[CPU_WORDS])
{
	bool any = false;

	for (unsigned w = 0; w < CPU_WORDS; w++) {
		lacks[w] = models[index].word[w] & ~offered->word[w];
		any |= lacks[w] != 0;
	}
	return any;
}

static unsigned best_portable(const struct cpu_id *offered)
{
	uint32_t lacks[CPU_WORDS];
	unsigned index = MODEL_V3;

	while (index > MODEL_V1 && cpu_model_lacks(index, offered, lacks))
		index--;
	return index;
}

static int lacking(const char *name, const uint32_t lacks[CPU_WORDS], const char *where,
		   struct err *err)
{
	char buf[32];

	for (unsigned w = 0; w < CPU_WORDS; w++)
		if (lacks[w])
			return err_set(err, EOPNOTSUPP,
				       "cpu '%s': %s, which it needs, is not offered by %s", name,
				       cpu_feature_name(w, (unsigned)__builtin_ctz(lacks[w]), buf,
							sizeof(buf)),
				       where);
	return 0;
}

static bool has(const struct cpu_id *id, unsigned word, unsigned bit)
{
	return id->word[word] >> bit & 1;
}

/* Drop what lacks its base; what was asked for by name must not be dropped. */
static int settle(const struct cpu_model *model, struct cpu_id *id, struct err *err)
{
	char one[32], other[32];

	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
		if (has(id, needs[i].word, needs[i].bit))
			continue;
		for (unsigned k = 0; k < model->count; k++) {
			const struct cpu_model_item *it = &model->items[k];

			if (it->add && has(id, it->word, it->bit) &&
			    needs[i].need_it[it->word] >> it->bit & 1)
				return err_set(
				    err, EOPNOTSUPP, "cpu: feature %s needs %s",
				    cpu_feature_name(it->word, it->bit, one, sizeof(one)),
				    cpu_feature_name(needs[i].word, needs[i].bit, other,
						     sizeof(other)));
		}
		for (unsigned w = 0; w < CPU_WORDS; w++)
			id->word[w] &= ~needs[i].need_it[w];
	}
	return 0;
}

static int take_items(const struct cpu_model *model, const struct cpu_id *offered,
		      const char *where, struct cpu_id *id, struct err *err)
{
	char buf[32];

	for (unsigned i = 0; i < model->count; i++) {
		const struct cpu_model_item *it = &model->items[i];

		if (it->add && !has(offered, it->word, it->bit))
			return err_set(err, EOPNOTSUPP, "cpu: feature %s is not offered by %s",
				       cpu_feature_name(it->word, it->bit, buf, sizeof(buf)),
				       where);
		if (it->add)
			id->word[it->word] |= BIT(it->bit);
		else
			id->word[it->word] &= ~BIT(it->bit);
	}
	return settle(model, id, err);
}

int cpu_model_apply(const struct cpu_model *model, const struct cpu_id *offered, const char *where,
		    struct cpu_id *ret_id, struct err *err)
{
	struct cpu_model everything = { 0 };
	struct cpu_id id = *offered;
	uint32_t lacks[CPU_WORDS];
	unsigned base;
	int ret;

	model = model ? model : &everything;
	base = model->base == MODEL_PORTABLE ? best_portable(offered) : model->base;
	if (base) {
		if (cpu_model_lacks(base, offered, lacks))
			return lacking(models[base].name, lacks, where, err);
		memcpy(id.word, models[base].word, sizeof(id.word));
		id.phys_bits = least(offered->phys_bits, MEM_PHYS_BITS);
		id.max_leaf = least(offered->max_leaf, MODEL_LEAVES);
		id.max_ext_leaf = least(offered->max_ext_leaf, MODEL_EXT_LEAVES);
	}
	ret = take_items(model, offered, where, &id, err);
	if (ret < 0)
		return ret;
	if (is_amd(offered))
		id.word[CPU_81D] = (id.word[CPU_81D] & ~REPEATED) | (id.word[CPU_1D] & REPEATED);
	for (unsigned i = 0; i < CPU_XSTATE_PARTS; i++)
		if (!(cpu_id_xcr0(&id) >> i & 1))
			id.xstate_offset[i] = 0;
	*ret_id = id;
	return 0;
}

/* ---- saved state ---- */

static int check_xstate(const struct cpu_id *saved, const struct cpu_id *offered, const char *where,
			struct err *err)
{
	uint64_t xcr0 = cpu_id_xcr0(saved);

	for (unsigned i = 2; i < CPU_XSTATE_PARTS; i++)
		if (xcr0 >> i & 1 && saved->xstate_offset[i] != offered->xstate_offset[i])
			return err_set(
			    err, EOPNOTSUPP,
			    "saved state: its CPU keeps part %u of the extended state at "
			    "%u, %s at %u",
			    i, saved->xstate_offset[i], where, offered->xstate_offset[i]);
	return 0;
}

int cpu_id_check(const struct cpu_id *saved, const struct cpu_id *offered, const char *where,
		 struct err *err)
{
	char buf[32];

	if (memcmp(saved->vendor, offered->vendor, 12))
		return err_set(err, EOPNOTSUPP,
			       "saved state: its CPU is of %.12s, not of %.12s as here",
			       saved->vendor, offered->vendor);
	for (unsigned w = 0; w < CPU_WORDS; w++) {
		uint32_t lacks = saved->word[w] & ~offered->word[w];

		if (lacks)
			return err_set(
			    err, EOPNOTSUPP,
			    "saved state: its CPU has %s, which is not offered by %s; a "
			    "guest started with '--cpu portable' can move",
			    cpu_feature_name(w, (unsigned)__builtin_ctz(lacks), buf, sizeof(buf)),
			    where);
	}
	if (saved->phys_bits > offered->phys_bits)
		return err_set(err, EOPNOTSUPP,
			       "saved state: its CPU has addresses of %u bits, %s of %u; a guest "
			       "started with '--cpu portable' can move",
			       saved->phys_bits, where, offered->phys_bits);
	return check_xstate(saved, offered, where, err);
}

void cpu_id_save(const struct cpu_id *id, struct snap_writer *w)
{
	snap_begin(w, SECTION, SECTION_VERSION);
	snap_put_bytes(w, id->vendor, sizeof(id->vendor));
	snap_put_u32(w, id->signature);
	snap_put_u32(w, id->phys_bits);
	snap_put_u32(w, id->max_leaf);
	snap_put_u32(w, id->max_ext_leaf);
	for (unsigned i = 0; i < CPU_WORDS; i++)
		snap_put_u32(w, id->word[i]);
	for (unsigned i = 0; i < CPU_XSTATE_PARTS; i++)
		snap_put_u32(w, id->xstate_offset[i]);
	snap_close(w);
}

int cpu_id_load(struct cpu_id *ret_id, struct snap_reader *r, struct err *err)
{
	struct cpu_id id;
	uint32_t version;
	int ret = snap_open(r, SECTION, SECTION_VERSION, &version, err);

	if (ret < 0)
		return ret;
	snap_get_bytes(r, id.vendor, sizeof(id.vendor));
	id.signature = snap_get_u32(r);
	id.phys_bits = snap_get_u32(r);
	id.max_leaf = snap_get_u32(r);
	id.max_ext_leaf = snap_get_u32(r);
	for (unsigned i = 0; i < CPU_WORDS; i++)
		id.word[i] = snap_get_u32(r);
	for (unsigned i = 0; i < CPU_XSTATE_PARTS; i++)
		id.xstate_offset[i] = snap_get_u32(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < sizeof(id.vendor); i++)
		if (id.vendor[i] < ' ' || id.vendor[i] > '~')
			return err_set(err, EBADMSG, "saved state: CPU: vendor is no text");
	/* Bits that are no features would be set behind the vCPU's back. */
	for (unsigned i = 0; i < CPU_WORDS; i++)
		if (id.word[i] & ~cpu_word_features(i))
			return err_set(err, EBADMSG, "saved state: CPU: a bit that is no feature");
	if (id.phys_bits < 32 || id.phys_bits > 52 || id.max_leaf > 0xff ||
	    id.max_ext_leaf < 0x80000001 || id.max_ext_leaf > 0x800000ff)
		return err_set(err, EBADMSG, "saved state: CPU: a value is out of range");
	*ret_id = id;
	return 0;
}
