/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder against the processor: random 64-bit instructions that touch
 * only registers and one memory operand are run natively, and what the
 * decoder says of them must hold:
 *
 * 1. Registers, flags and memory outside of what is listed as written stay.
 * 2. Other values in registers and flags that are not listed as read change
 *    no result, undefined flags aside.
 * 3. The access ends where mem_size says: an operand right before a page that
 *    is not there works, one byte further it faults.
 * 4. A page that cannot be written makes it fault if and only if it writes.
 *
 * The instruction runs between generated code that loads and stores the whole
 * state, with every general register the guest's, rsp too; signals come on a
 * stack of their own. What this processor does not have is left out.
 *
 * EYOT_DECODE_SEED and EYOT_DECODE_CASES repeat or lengthen a run.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "accel/bt/decode.h"
#include "base/util.h"

/* Of enum SEG_*: its header's register names clash with those of signal.h */
#define FIRST_SEG_OVERRIDE 4

struct state {
	uint64_t gpr[16];
	uint64_t flags, unused;
	uint8_t fx[512]; /* fxsave image */
	uint8_t ymm[16][32];
};

/* All at addresses below 2 GiB, for 32-bit absolute addressing */
struct bench {
	struct state in, out;
	uint64_t host_rsp;
};

static struct bench *bench;
static uint8_t *code, *emit_at;
static uint8_t *page; /* under test; one before it, a hole behind */
static sigjmp_buf escape;
static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static void on_signal(int sig)
{
	siglongjmp(escape, sig);
}

static void emit(const char *bytes, size_t n)
{
	memcpy(emit_at, bytes, n);
	emit_at += n;
}

/* @bytes with /@reg and the absolute address @p */
static void emit_abs(const char *bytes, size_t n, int reg, const void *p)
{
	uint32_t address = (uintptr_t)p;

	emit(bytes, n);
	*emit_at++ = (reg & 7) << 3 | 4;
	*emit_at++ = 0x25;
	memcpy(emit_at, &address, 4);
	emit_at += 4;
}

static void emit_gpr(uint8_t opcode, int reg, const void *p)
{
	char bytes[2] = { reg < 8 ? 0x48 : 0x4c, opcode };

	emit_abs(bytes, 2, reg, p);
}

static void emit_ymm(uint8_t opcode, int reg, const void *p)
{
	char bytes[3] = { 0xc5, reg < 8 ? 0xfc : 0x7c, opcode };

	emit_abs(bytes, 3, reg, p);
}

static void build(const uint8_t *insn, size_t len)
{
	emit_at = code;
	emit("\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57", 10); /* push what the caller keeps */
	emit_gpr(0x89, 4, &bench->host_rsp);
	emit_abs("\x48\x0f\xae", 3, 1, bench->in.fx); /* fxrstor */
	for (int i = 0; i < 16; i++)
		emit_ymm(0x10, i, bench->in.ymm[i]);
	emit_abs("\xff", 1, 6, &bench->in.flags); /* push, popf */
	emit("\x9d", 1);
	for (int i = 0; i < 16; i++)
		if (i != 4)
			emit_gpr(0x8b, i, &bench->in.gpr[i]);
	emit_gpr(0x8b, 4, &bench->in.gpr[4]);
	emit((const char *)insn, len);
	for (int i = 0; i < 16; i++)
		emit_gpr(0x89, i, &bench->out.gpr[i]);
	emit_gpr(0x8b, 4, &bench->host_rsp);
	emit("\x9c", 1); /* pushf, pop */
	emit_abs("\x8f", 1, 0, &bench->out.flags);
	emit_abs("\x48\x0f\xae", 3, 0, bench->out.fx);
	for (int i = 0; i < 16; i++)
		emit_ymm(0x11, i, bench->out.ymm[i]);
	emit("\xfc\x0f\x77\xc5\xf8\x77", 6); /* cld, emms, vzeroupper */
	emit("\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 11);
}

/* Run what is built from @in. Return: 0, or the signal it raised. */
static int run(const struct state *in)
{
	int sig;

	bench->in = *in;
	bench->in.flags = (in->flags & FL_ARITH) | 0x202;
	sig = sigsetjmp(escape, 0);
	if (sig == 0)
		((void (*)(void))code)();
	return sig;
}

static void random_state(struct state *s, bool x87)
{
	static const uint16_t fcw = 0x37f;
	static const uint32_t mxcsr = 0x1f80;

	for (int i = 0; i < 16; i++) {
		uint64_t r = rng();

		/* any value, or small, zero at times; 32 bits with and without sign */
		if (r % 4 == 1)
			r = r >> 32 & (r >> 4 & 3 ? 0xff : 0);
		else if (r % 4 == 2)
			r = (int32_t)r;
		else if (r % 4 == 3)
			r = (uint32_t)r;
		s->gpr[i] = r;
	}
	s->flags = rng() & FL_ARITH;
	memset(s->fx, 0, sizeof(s->fx));
	memcpy(s->fx, &fcw, 2);
	memcpy(s->fx + 24, &mxcsr, 4);
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 32; k += 8) {
			uint64_t r = rng();

			memcpy(s->ymm[i] + k, &r, 8);
		}
	s->fx[4] = x87 ? rng() : 0xff;
	for (int i = 0; i < 8; i++) {
		uint64_t r = rng();
		long double v = (double)(int64_t)r / 1e9;

		memcpy(s->fx + 32 + 16 * i, &v, 10);
		if (!x87) {
			memcpy(s->fx + 32 + 16 * i, &r, 8);
			memset(s->fx + 40 + 16 * i, 0xff, 2);
		}
	}
	if (x87)
		s->fx[3] = (rng() & 7) << 3; /* top of the stack */
}

/* Vector and x87 results but for the x87 instruction and data pointers */
static bool same_vectors(const struct state *a, const struct state *b)
{
	if (memcmp(a->ymm, b->ymm, sizeof(a->ymm)) || memcmp(a->fx, b->fx, 5) ||
	    memcmp(a->fx + 24, b->fx + 24, 4))
		return false;
	for (int i = 0; i < 8; i++)
		if (memcmp(a->fx + 32 + 16 * i, b->fx + 32 + 16 * i, 10))
			return false;
	return true;
}

static bool is_candidate(const struct insn *in)
{
	switch (in->op) {
	case OP_COPY:
	case OP_NOP:
	case OP_PAUSE:
	case OP_LEA:
	case OP_XCHG:
	case OP_CMPXCHG:
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
	case OP_XADD:
	case OP_SHIFT_CL:
	case OP_MUL:
	case OP_IMUL1:
	case OP_DIV:
	case OP_IDIV:
	case OP_CBW:
	case OP_CWD:
	case OP_LAHF:
	case OP_SAHF:
	case OP_CLC:
	case OP_STC:
	case OP_CMC:
		break;
	default:
		return false;
	}
	if (!in->mem)
		return true;
	/* the address must be ours to choose */
	if (in->seg >= FIRST_SEG_OVERRIDE || in->base > 15 || in->base == in->index)
		return false;
	/* ldmxcsr, fldcw: would unmask exceptions */
	return !(in->map == 1 && in->opcode == 0xae) &&
	       !(in->map == 0 && in->opcode == 0xd9 && (in->reg == 5 || in->reg == 4));
}

/* Choose the base and index registers so that the operand is at @target. */
static void aim(const struct insn *in, struct state *s, const uint8_t *target)
{
	uint64_t base = (uintptr_t)target - in->disp;

	if (in->index < 16) {
		s->gpr[in->index] = 0x100 + in->index * 8;
		base -= s->gpr[in->index] * in->scale;
	}
	s->gpr[in->base] = in->addrsize == 4 ? (uint32_t)base : base;
}

static void fail_case(const char *what, const uint8_t *bytes, const struct insn *in)
{
	char text[3 * INSN_MAX + 1] = "";

	for (int i = 0; i < in->len; i++)
		snprintf(text + 3 * i, 4, " %02x", bytes[i]);
	fail_msg("%s:%s (registers %04x/%04x flags %03x/%03x/%03x memory %d/%d)", what, text,
		 in->gpr_read, in->gpr_write, in->flags_read, in->flags_written, in->flags_undef,
		 in->mem_size, in->mem_access);
}

static void check_writes(const uint8_t *bytes, const struct insn *in, const struct state *before,
			 const uint8_t *mem, const uint8_t *target)
{
	const struct state *after = &bench->out;

	for (int i = 0; i < 16; i++)
		if (!(in->gpr_write >> i & 1) && after->gpr[i] != before->gpr[i])
			fail_case("writes an unlisted register", bytes, in);
	if ((after->flags ^ before->flags) & FL_ARITH & ~in->flags_written)
		fail_case("writes an unlisted flag", bytes, in);
	for (int i = 0; i < (int)PAGE_SIZE; i++)
		if (page[i] != mem[i] && (!(in->mem_access & MEM_WRITE) || page + i < target ||
					  page + i >= target + in->mem_size))
			fail_case("writes unlisted memory", bytes, in);
}

/* Run once more with other values in what is not read. */
static void check_reads(const uint8_t *bytes, const struct insn *in, const struct state *before,
			const uint8_t *mem)
{
	struct state first = bench->out, other = *before;
	uint8_t result[PAGE_SIZE];

	memcpy(result, page, PAGE_SIZE);
	for (int i = 0; i < 16; i++)
		if (!(in->gpr_read >> i & 1))
			other.gpr[i] = rng();
	other.flags = (before->flags & in->flags_read) | (rng() & ~(uint64_t)in->flags_read);
	memcpy(page, mem, PAGE_SIZE);
	if (run(&other))
		fail_case("faults by an unlisted input", bytes, in);
	for (int i = 0; i < 16; i++)
		if ((in->gpr_write >> i & 1) && bench->out.gpr[i] != first.gpr[i])
			fail_case("a register depends on an unlisted input", bytes, in);
	if ((bench->out.flags ^ first.flags) & in->flags_written & ~in->flags_undef)
		fail_case("a flag depends on an unlisted input", bytes, in);
	if (!same_vectors(&bench->out, &first) || memcmp(page, result, PAGE_SIZE))
		fail_case("a vector or memory depends on an unlisted input", bytes, in);
}

static void check_access(const uint8_t *bytes, const struct insn *in, const struct state *before,
			 const uint8_t *target)
{
	struct state further = *before;
	int sig;

	aim(in, &further, target + 1);
	if (!run(&further))
		fail_case("accesses less memory", bytes, in);
	assert_int_equal(mprotect(page, PAGE_SIZE, PROT_READ), 0);
	sig = run(before);
	assert_int_equal(mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	if (!sig != !(in->mem_access & MEM_WRITE))
		fail_case(sig ? "writes memory" : "does not write memory", bytes, in);
}

/* Return: whether the instruction ran. */
static bool check_one(const uint8_t *bytes, const struct insn *in)
{
	const uint8_t *target = page + PAGE_SIZE - (in->mem_size ? in->mem_size : 64);
	struct state before;
	uint8_t mem[PAGE_SIZE];
	int sig;

	build(bytes, in->len);
	random_state(&before, in->unit == UNIT_X87);
	for (size_t i = 0; i < PAGE_SIZE; i += 8) {
		uint64_t r = rng();

		memcpy(mem + i, &r, 8);
	}
	if (in->mem)
		aim(in, &before, target);
	memcpy(page, mem, PAGE_SIZE);
	sig = run(&before);
	if (sig == SIGILL || (sig == SIGFPE && (in->op == OP_DIV || in->op == OP_IDIV)))
		return false; /* not on this processor, or divided by zero */
	if (sig)
		fail_case("faults", bytes, in);
	check_writes(bytes, in, &before, mem, target);
	check_reads(bytes, in, &before, mem);
	if (in->mem && in->mem_size)
		check_access(bytes, in, &before, target);
	return true;
}

static void make_string(uint8_t *bytes)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x66, 0xf2, 0xf3 };
	uint64_t r = rng();
	uint8_t *p = bytes;

	for (int i = 0; i < INSN_MAX; i++)
		bytes[i] = rng() >> 24;
	if (r % 3 == 0) { /* VEX */
		if (r >> 8 & 1) {
			*p++ = 0xc5;
			*p++ = rng() >> 16 | (r >> 9 & 1 ? 0x78 : 0);
		} else {
			*p++ = 0xc4;
			*p++ = (rng() & 0xe0) | (1 + (r >> 16) % 3);
			*p++ = rng() >> 16 | (r >> 9 & 1 ? 0x78 : 0);
		}
	} else {
		for (unsigned int n = (r >> 8) % 3; n; n--)
			*p++ = prefixes[rng() % ARRAY_SIZE(prefixes)];
		if (r >> 16 & 1)
			*p++ = 0x40 | (r >> 20 & 15);
		if (r >> 17 & 3)
			*p++ = 0x0f;
		if (r >> 24 & 1 && p > bytes && p[-1] == 0x0f)
			*p++ = r >> 25 & 1 ? 0x38 : 0x3a;
	}
}

static uint64_t env_number(const char *name, uint64_t value)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : value;
}

static void set_up(void)
{
	static uint8_t stack[65536];
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER };
	const int signals[] = { SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP };
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;

	bench = mmap(NULL, sizeof(*bench), PROT_READ | PROT_WRITE, flags, -1, 0);
	code = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
	page = mmap(NULL, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	assert_true((void *)bench != MAP_FAILED && code != MAP_FAILED && page != MAP_FAILED);
	page += PAGE_SIZE;
	assert_int_equal(mprotect(page + PAGE_SIZE, PAGE_SIZE, PROT_NONE), 0);
	assert_int_equal(sigaltstack(&alt, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		assert_int_equal(sigaction(signals[i], &sa, NULL), 0);
}

static void test_against_host(void **state)
{
	uint64_t seed = env_number("EYOT_DECODE_SEED", 0x2545f4914f6cdd1d);
	uint64_t cases = env_number("EYOT_DECODE_CASES", 500000);
	unsigned long ran = 0;

	if (!__builtin_cpu_supports("avx"))
		skip();
	set_up();
	print_message("seed %#lx, %lu strings\n", (unsigned long)seed, (unsigned long)cases);
	rng_state = seed;
	for (uint64_t i = 0; i < cases; i++) {
		uint8_t bytes[INSN_MAX];
		struct insn in;

		make_string(bytes);
		if (insn_decode(MODE_64, bytes, INSN_MAX, &in) == 0 && is_candidate(&in))
			ran += check_one(bytes, &in);
	}
	print_message("%lu ran\n", ran);
	assert_true(ran > cases / 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_against_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
