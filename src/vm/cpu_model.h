/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kind of CPU a guest is shown: its identity and features as CPUID tells them, the choice of
 * them by name, and their saved form.
 *
 * A feature is one bit of a CPUID register. Bits that follow a vCPU's state or the machine's
 * topology (OSXSAVE, OSPKE, more than one CPU) are none and stand in no word.
 */
#ifndef EYOT_VM_CPU_MODEL_H
#define EYOT_VM_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"

/* Registers of CPUID that hold features: leaf, subleaf where there are some, register */
enum cpu_word {
	CPU_1C,
	CPU_1D,
	CPU_7B,
	CPU_7C,
	CPU_7D,
	CPU_71A,
	CPU_71D,
	CPU_72D,
	CPU_D1A,
	CPU_81C,
	CPU_81D,
	CPU_87D,
	CPU_88B,
	CPU_821A,
	CPU_KVM, /* 0x40000001, EAX */
	CPU_WORDS,
};

#define CPU_XSTATE_PARTS 10 /* of extended state, by bit of XCR0 */
#define CPU_MODEL_ITEMS 32  /* features that one choice may add or remove */

/* A CPU as a guest sees it. */
struct cpu_id {
	char vendor[12]; /* not ended by 0 */
	uint32_t signature;
	uint32_t phys_bits; /* of a physical address */
	uint32_t max_leaf, max_ext_leaf;
	uint32_t word[CPU_WORDS];
	uint32_t xstate_offset[CPU_XSTATE_PARTS]; /* in the standard format; 0: none */
};

/* A choice, not yet of a certain host. */
struct cpu_model {
	unsigned base; /* index into the table of models */
	unsigned count;
	struct cpu_model_item {
		uint8_t word, bit;
		bool add;
	} items[CPU_MODEL_ITEMS];
};

/** cpu_word_place() - where CPUID has a word: leaf, subleaf, and register 0 to 3 */
void cpu_word_place(enum cpu_word word, uint32_t *ret_leaf, uint32_t *ret_sub, unsigned *ret_reg);

/** cpu_word_features() - which bits of a word are features at all */
uint32_t cpu_word_features(enum cpu_word word);

/** cpu_feature_name() - name of a bit; in @buf, of at least 32 bytes, when it has none */
const char *cpu_feature_name(enum cpu_word word, unsigned bit, char *buf, size_t size);

/** cpu_model_name() - name of the model at @index, "host" being 0; NULL beyond the last */
const char *cpu_model_name(unsigned index);

/**
 * cpu_model_parse() - read `MODEL[,+FEATURE][,-FEATURE]...`
 *
 * Return: 0; -EINVAL with a text that names what is unknown.
 */
int cpu_model_parse(const char *text, struct cpu_model *ret_model, struct err *err);

/**
 * cpu_model_apply() - the CPU that a model means where @offered is what there can be
 * @model: the choice; NULL: everything that is offered
 * @offered: what the accelerator can show on this host
 * @where: who offers it, for texts
 *
 * Return: 0; -EOPNOTSUPP with a text that names the first feature which is lacking.
 */
int cpu_model_apply(const struct cpu_model *model, const struct cpu_id *offered, const char *where,
		    struct cpu_id *ret_id, struct err *err);

/** cpu_model_lacks() - bits of each word that a model names and @offered lacks; whether any */
bool cpu_model_lacks(unsigned index, const struct cpu_id *offered, uint32_t lacks[CPU_WORDS]);

/**
 * cpu_id_check() - whether a saved guest, which knows @saved, can go on where @offered is offered
 *
 * Return: 0; -EOPNOTSUPP with a text that names what is lacking.
 */
int cpu_id_check(const struct cpu_id *saved, const struct cpu_id *offered, const char *where,
		 struct err *err);

/** cpu_id_xcr0() - what such a CPU lets XCR0 be at most; 1 without XSAVE (Intel SDM 1, 13.3) */
static inline uint64_t cpu_id_xcr0(const struct cpu_id *id)
{
	uint64_t xcr0 = 3;

	if (!(id->word[CPU_1C] & 1u << 26))
		return 1;
	if (id->word[CPU_1C] & 1u << 28)
		xcr0 |= 4;
	if (id->word[CPU_7B] & 1u << 16)
		xcr0 |= 0xe0;
	if (id->word[CPU_7C] & 1u << 3)
		xcr0 |= 0x200;
	return xcr0;
}

void cpu_id_save(const struct cpu_id *id, struct snap_writer *w);

/** cpu_id_load() - -EBADMSG with a text when the section is damaged or of a newer kind */
int cpu_id_load(struct cpu_id *ret_id, struct snap_reader *r, struct err *err);

#endif
