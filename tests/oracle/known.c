/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Differences that are known and wait for the translator to change. They are
 * counted apart; with --strict they are mismatches. An entry goes when the
 * difference does.
 */
#include "oracle.h"

#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_MF 16
#define VEC_XM 19
#define ALLOWED(kinds, ...) (!((kinds) & ~(unsigned)(__VA_ARGS__)))

static bool strict;

static bool same_rip(const struct oracle_result *a, const struct oracle_result *b)
{
	return a->out.rip == b->out.rip;
}

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static bool branch_target(const struct oracle_case *c, const struct oracle_result *a,
			  const struct oracle_result *b, unsigned kinds)
{
	return a->vector == VEC_GP && canonical(a->out.rip) && !canonical(b->out.rip);
}

static bool x87_order(const struct oracle_case *c, const struct oracle_result *a,
		      const struct oracle_result *b, unsigned kinds)
{
	return a->vector == VEC_MF &&
	       (b->vector == VEC_PF || b->vector == VEC_GP || b->vector == VEC_SS) &&
	       same_rip(a, b) && ALLOWED(kinds, DIFF_VECTOR | DIFF_FLAGS);
}

static bool popa(const struct oracle_case *c, const struct oracle_result *a,
		 const struct oracle_result *b, unsigned kinds)
{
	return (c->special & SPECIAL_POPA) && a->vector == VEC_PF && same_rip(a, b) &&
	       ALLOWED(kinds, DIFF_GPR);
}

static bool wrap(const struct oracle_case *c, const struct oracle_result *a,
		 const struct oracle_result *b, unsigned kinds)
{
	return c->mode == ORACLE_32 && (a->vector == VEC_SS || a->vector == VEC_GP) &&
	       b->vector == VEC_PF && same_rip(a, b) && ALLOWED(kinds, DIFF_VECTOR);
}

static bool string_order(const struct oracle_case *c, const struct oracle_result *a,
			 const struct oracle_result *b, unsigned kinds)
{
	bool wrote = a->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1);

	return ((c->special & SPECIAL_STRING) || wrote) && a->vector == VEC_PF &&
	       b->vector == VEC_GP && same_rip(a, b) && ALLOWED(kinds, DIFF_VECTOR);
}

static bool maskmov_pending(const struct oracle_case *c, const struct oracle_result *a,
			    const struct oracle_result *b, unsigned kinds)
{
	return (c->special & SPECIAL_MASKMOV) && a->vector == VEC_MF;
}

const struct oracle_known known_differences[] = {
	{ "branch-target",
	  "near branch to a non-canonical address: #GP at the target, not at the branch",
	  branch_target },
	{ "x87-order", "a pending x87 exception gives way to a fault of the memory operand",
	  x87_order },
	{ "wrap", "32-bit code: x87 operands across 4 GiB give #PF instead of #SS or #GP", wrap },
	{ "popa", "popa that faults has changed registers already", popa },
	{ "string-order", "movs, cmps: the destination is checked before the source is read",
	  string_order },
	{ "maskmov-pending", "maskmovq does not look for a pending x87 exception",
	  maskmov_pending },
	{ NULL, NULL, NULL },
};

void known_strict(void)
{
	strict = true;
}

const struct oracle_known *known_match(const struct oracle_case *c,
				       const struct oracle_result *native,
				       const struct oracle_result *guest, unsigned kinds)
{
	if (strict || guest->status != RES_OK)
		return NULL;
	for (const struct oracle_known *k = known_differences; k->name; k++)
		if (k->match(c, native, guest, kinds))
			return k;
	return NULL;
}
