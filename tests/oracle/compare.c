/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds one result against the other. Left out: the last-instruction pointers
 * of the x87 unit, flags that an instruction leaves undefined, registers that
 * 32-bit code cannot see, the fault address of faults that have none.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "oracle.h"

#define VEC_DB 1
#define VEC_BP 3
#define VEC_UD 6
#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_AC 17
#define PF_PRESENT 1u
#define PF_FETCH 16u
#define LINUX_USER_END 0x7ffffffff000ull
#define CANONICAL_END 0x800000000000ull
#define FLAGS_ARITH 0x8d5ull
#define FLAG_RF 0x10000u
#define FLAGS_COMPARED 0x277fd5u /* CF..OF, IOPL, NT, RF, AC, ID */

bool oracle_exact_flags;
const char *oracle_accel_debug;

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",	 "r10", "r11", "r12", "r13", "r14", "r15" };

struct diff {
	const struct oracle_case *c;
	const struct oracle_result *a, *b; /* native, guest */
	FILE *out;
	unsigned kinds;
};

static void differ(struct diff *d, enum diff_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void differ(struct diff *d, enum diff_kind kind, const char *fmt, ...)
{
	va_list ap;

	d->kinds |= kind;
	if (!d->out)
		return;
	fputs("  ", d->out);
	va_start(ap, fmt);
	vfprintf(d->out, fmt, ap);
	va_end(ap);
	fputc('\n', d->out);
}

static void hex(const uint8_t *p, unsigned n, char *buf)
{
	for (unsigned i = 0; i < n; i++)
		sprintf(buf + i * 2, "%02x", p[n - 1 - i]);
}

static void bytes_differ(struct diff *d, enum diff_kind kind, const char *name, unsigned index,
			 unsigned off, unsigned n)
{
	const uint8_t *p = d->a->out.xsave + off, *q = d->b->out.xsave + off;
	char hp[80], hq[80];

	if (!memcmp(p, q, n))
		return;
	hex(p, n, hp);
	hex(q, n, hq);
	differ(d, kind, "%s%u: native %s, guest %s", name, index, hp, hq);
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void compare_fault(struct diff *d)
{
	const struct oracle_result *a = d->a, *b = d->b;
	uint32_t ea = a->error, eb = b->error;

	if (a->vector != b->vector) {
		differ(d, DIFF_VECTOR,
		       "vector: native %u (error %#x, cr2 %#" PRIx64
		       "), guest %u (error %#x, cr2 %#" PRIx64 ")",
		       a->vector, a->error, a->cr2, b->vector, b->error, b->cr2);
		return;
	}
	if (a->vector == VEC_PF && a->cr2 >= LINUX_USER_END) {
		/* Linux says "present" for every address of its own half */
		ea &= ~PF_PRESENT;
		eb &= ~PF_PRESENT;
	}
	if (a->vector == VEC_PF && (d->c->special & SPECIAL_FSAVE) && a->cr2 != b->cr2) {
		ea &= ~PF_PRESENT; /* another of two bad pages */
		eb &= ~PF_PRESENT;
	}
	if (has_error_code(a->vector) && ea != eb)
		differ(d, DIFF_ERROR, "error code of vector %u: native %#x, guest %#x", a->vector,
		       ea, eb);
	if (a->vector == VEC_PF && a->cr2 != b->cr2 &&
	    !(a->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1)) &&
	    !((d->c->special & SPECIAL_FSAVE) && a->cr2 - b->cr2 + 512 < 1024))
		differ(d, DIFF_CR2, "cr2: native %#" PRIx64 ", guest %#" PRIx64, a->cr2, b->cr2);
}

/* A null selector with an RPL: the host's kernel may return it as 0 */
static uint16_t sel(uint16_t s)
{
	return s & ~3 ? s : 0;
}

static void compare_regs(struct diff *d)
{
	const struct oracle_state *a = &d->a->out, *b = &d->b->out;
	uint64_t mask = d->c->mode == ORACLE_64 ? ~0ull : 0xffffffff;
	uint64_t flags = FLAGS_COMPARED & ~(uint64_t)d->c->flags_undef;

	/* Code that wrote itself: who knows what was executed */
	if (d->a->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1))
		flags &= ~FLAGS_ARITH;
	/* Flags that are set again before anything reads them may be stale when the instruction
	 * faults. */
	if (!oracle_exact_flags && (a->rflags & FLAG_RF))
		flags &= ~FLAGS_ARITH;

	for (unsigned i = 0; i < (d->c->mode == ORACLE_64 ? 16 : 8); i++)
		if ((a->gpr[i] ^ b->gpr[i]) & mask)
			differ(d, DIFF_GPR, "%s: native %016" PRIx64 ", guest %016" PRIx64,
			       gpr_names[i], a->gpr[i], b->gpr[i]);
	if ((a->rip ^ b->rip) & mask)
		differ(d, DIFF_RIP, "rip: native %#" PRIx64 ", guest %#" PRIx64, a->rip, b->rip);
	if ((a->rflags ^ b->rflags) & flags)
		differ(d, DIFF_FLAGS,
		       "rflags: native %#" PRIx64 ", guest %#" PRIx64 " (differ in %#" PRIx64 ")",
		       a->rflags, b->rflags, (a->rflags ^ b->rflags) & flags);
	if (sel(a->ds) != sel(b->ds) || sel(a->es) != sel(b->es) || sel(a->fs) != sel(b->fs) ||
	    sel(a->gs) != sel(b->gs) || a->cs != b->cs || a->ss != b->ss)
		differ(d, DIFF_SEG,
		       "ds es fs gs cs ss: native %x %x %x %x %x %x, guest %x %x %x %x %x %x",
		       a->ds, a->es, a->fs, a->gs, a->cs, a->ss, b->ds, b->es, b->fs, b->gs, b->cs,
		       b->ss);
	if (a->fs_base != b->fs_base || a->gs_base != b->gs_base)
		differ(d, DIFF_SEG,
		       "fs, gs base: native %#" PRIx64 " %#" PRIx64 ", guest %#" PRIx64
		       " %#" PRIx64,
		       a->fs_base, a->gs_base, b->fs_base, b->gs_base);
}

/* A gather that faults leaves a mask whose lower bits are the CPU's choice. */
static bool same_signs(const struct diff *d, unsigned reg)
{
	for (unsigned i = 7; i < 16; i += 8) {
		unsigned lo = XS_XMM + reg * 16 + i, hi = XS_YMMH + reg * 16 + i;

		if (((d->a->out.xsave[lo] ^ d->b->out.xsave[lo]) |
		     (d->a->out.xsave[hi] ^ d->b->out.xsave[hi])) &
		    0x80)
			return false;
	}
	return true;
}

static void compare_xsave(struct diff *d)
{
	const uint8_t *a = d->a->out.xsave, *b = d->b->out.xsave;
	unsigned regs = d->c->mode == ORACLE_64 ? 16 : 8;
	uint32_t ma, mb;

	for (unsigned i = 0; i < regs; i++) {
		if ((d->c->special & SPECIAL_GATHER) && d->a->vector != VEC_BP && same_signs(d, i))
			continue;
		bytes_differ(d, DIFF_VEC, "xmm", i, XS_XMM + i * 16, 16);
		bytes_differ(d, DIFF_VEC, "upper half of ymm", i, XS_YMMH + i * 16, 16);
	}
	memcpy(&ma, a + XS_MXCSR, 4);
	memcpy(&mb, b + XS_MXCSR, 4);
	if (ma != mb)
		differ(d, DIFF_MXCSR, "mxcsr: native %#x, guest %#x", ma, mb);
	if (memcmp(a, b, 5))
		differ(d, DIFF_X87,
		       "x87 control, status, tags: native %02x%02x %02x%02x %02x, guest %02x%02x "
		       "%02x%02x %02x",
		       a[1], a[0], a[3], a[2], a[4], b[1], b[0], b[3], b[2], b[4]);
	for (unsigned i = 0; i < 8; i++)
		bytes_differ(d, DIFF_X87, "st", i, XS_ST + i * 16, 10);
}

static bool in_hole(const struct oracle_case *c, uint64_t va)
{
	for (unsigned i = 0; i < c->hole_count; i++)
		if (va - c->holes[i].va < c->holes[i].len)
			return true;
	return false;
}

static void compare_page(struct diff *d, unsigned page, const uint8_t *a, const uint8_t *b)
{
	unsigned shown = 0;

	for (unsigned i = 0; i < PAGE; i++) {
		uint64_t va = oracle_page_va[page] + i;

		if (a[i] == b[i] || in_hole(d->c, va))
			continue;
		if (shown++ < 8)
			differ(d, DIFF_MEM, "memory %#" PRIx64 ": native %02x, guest %02x", va,
			       a[i], b[i]);
	}
	if (shown > 8)
		differ(d, DIFF_MEM, "and %u more bytes of this page", shown - 8);
}

static void compare_memory(struct diff *d)
{
	static struct oracle_image initial;
	uint32_t either = d->a->changed | d->b->changed;

	if (!either)
		return;
	image_set(&initial, d->c);
	for (unsigned p = 0; p < PAGE_COUNT; p++) {
		if (either >> p & 1)
			compare_page(d, p,
				     d->a->changed >> p & 1 ? d->a->pages[p] : initial.pages[p],
				     d->b->changed >> p & 1 ? d->b->pages[p] : initial.pages[p]);
	}
	image_unset(&initial, d->c);
}

static const char *status_name(uint32_t status)
{
	static const char *const names[] = { "not run",	    "ok",    "does not end",
					     "system call", "crash", "error" };

	return status < sizeof(names) / sizeof(names[0]) ? names[status] : "?";
}

/* Outcomes that another CPU of the same kind may not share: see rules.c */
static bool choice_of_cpu(const struct oracle_case *c, const struct oracle_result *native)
{
	if ((c->special & SPECIAL_MASKMOV) &&
	    (native->vector == VEC_PF || native->vector == VEC_GP))
		return true;
	if (native->vector == VEC_UD && (c->special & SPECIAL_UD) &&
	    c->in.rip + c->code_len > CODE_BASE + 2 * PAGE)
		return true;
	/* 32-bit code that wrote a syscall instruction: the host's kernel returns elsewhere */
	if (c->mode == ORACLE_32 && native->out.rip >> 32)
		return true;
	if ((c->special & SPECIAL_GATHER) && native->vector == VEC_DB)
		return true;
	if (native->vector == VEC_AC && !c->alignment_check)
		return true;
	/* code that wrote a branch with an operand-size prefix over itself */
	if (native->out.rip < 0x10000 && (native->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1)))
		return true;
	/* an image with the instruction's own address in it, written over the code */
	return c->hole_count && (native->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1));
}

/* Faults that CPUs decide on differently: see "offset" and "edge" in rules.c */
static bool other_fault(const struct oracle_case *c, const struct oracle_result *native,
			const struct oracle_result *guest)
{
	if ((c->special & SPECIAL_SEGMENT) && native->vector == VEC_GP &&
	    (guest->vector != VEC_GP || guest->out.rip != native->out.rip))
		return true;
	if (c->mode == ORACLE_32 && native->vector == VEC_PF &&
	    (uint32_t)native->cr2 >= 0xffffff00 &&
	    (guest->vector == VEC_GP || guest->vector == VEC_SS) &&
	    native->out.rip == guest->out.rip)
		return true;
	/* an image whose first part is on a bad page, and whose last is not canonical: "straddle"
	 */
	if (c->mode == ORACLE_64 && (c->special & SPECIAL_FSAVE) && native->vector == VEC_PF &&
	    native->cr2 >= CANONICAL_END - 512 && native->cr2 < CANONICAL_END &&
	    (guest->vector == VEC_GP || guest->vector == VEC_SS) &&
	    native->out.rip == guest->out.rip)
		return true;
	return native->vector == VEC_PF && (native->error & PF_FETCH) && guest->vector == VEC_UD &&
	       native->out.rip == guest->out.rip;
}

/*
 * An overlapping move with 16-bit addresses, which the host's CPU does wrong when the registers'
 * upper halves differ: see "67 rep movs" in rules.c.
 */
static bool host_moved_wrong(const struct oracle_case *c, const struct oracle_result *native,
			     unsigned kinds)
{
	enum { RSI = 6, RDI = 7 };
	const uint64_t *in = c->in.gpr, *out = native->out.gpr;

	return c->mode == ORACLE_32 && (c->special & SPECIAL_STRING) && kinds == DIFF_MEM &&
	       memchr(c->code, 0x67, c->code_len) &&
	       ((in[RSI] ^ in[RDI]) >> 16 || (out[RSI] ^ out[RDI]) >> 16);
}

/* Code that wrote instructions over itself which leave flags undefined: what follows may depend on
 * them. */
static bool wrote_unknown(const struct oracle_case *c, const struct oracle_result *native,
			  const struct oracle_result *guest)
{
	static struct oracle_image initial;
	static uint8_t code[2 * PAGE];
	const uint64_t ends[2] = { native->out.rip - CODE_BASE, guest->out.rip - CODE_BASE };
	bool found = native->vector == VEC_DB; /* int1 */

	if (!(native->changed & (1u << PAGE_CODE0 | 1u << PAGE_CODE1)))
		return false;
	image_set(&initial, c);
	memcpy(code, initial.pages[PAGE_CODE0], sizeof(code));
	for (unsigned p = PAGE_CODE0; p <= PAGE_CODE1; p++)
		if (native->changed >> p & 1)
			memcpy(code + p * PAGE, native->pages[p], PAGE);
	found |= gen_undefined_near(c, initial.pages[PAGE_CODE0], code, sizeof(code));
	for (unsigned i = 0; i < 2; i++)
		if (ends[i] < sizeof(code))
			found |= gen_incomparable_at(c, code + ends[i], sizeof(code) - ends[i]);
	image_unset(&initial, c);
	return found;
}

enum verdict oracle_compare(const struct oracle_case *c, const struct oracle_result *native,
			    const struct oracle_result *guest, FILE *out, unsigned *ret_kinds)
{
	struct diff d = { .c = c, .a = native, .b = guest, .out = out };

	*ret_kinds = 0;
	if (native->status != RES_OK || choice_of_cpu(c, native))
		return SKIPPED;
	if (guest->status != RES_OK) {
		if (guest->status == RES_TIMEOUT && wrote_unknown(c, native, guest))
			return SKIPPED;
		differ(&d, DIFF_STATUS, "guest: %s: %s", status_name(guest->status), guest->text);
		*ret_kinds = d.kinds;
		return DIFFERENT;
	}
	/* A feature the guest does not have must be undefined there, whatever the host does. */
	if (guest->vector == VEC_UD && (native->vector != VEC_UD || native->out.rip != c->in.rip) &&
	    c->insn_count == 1 && guest->out.rip == c->in.rip && c->may_hide && !guest->changed &&
	    !memcmp(guest->out.gpr, c->in.gpr, sizeof(c->in.gpr)))
		return HIDDEN;
	compare_fault(&d);
	compare_regs(&d);
	compare_xsave(&d);
	compare_memory(&d);
	*ret_kinds = d.kinds;
	if (!d.kinds)
		return SAME;
	if (wrote_unknown(c, native, guest) || other_fault(c, native, guest) ||
	    host_moved_wrong(c, native, d.kinds))
		return SKIPPED;
	return known_match(c, native, guest, d.kinds) ? KNOWN : DIFFERENT;
}
