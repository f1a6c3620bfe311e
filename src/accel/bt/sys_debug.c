/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Breakpoints and single step (Intel SDM 3B, chapter 18).
 *
 * While TF is set or a breakpoint is enabled, instructions run one by one
 * (KEY_ONE). Data and I/O breakpoints are found beforehand: the instruction is
 * decoded and what it is about to access compared with DR0..DR3; if it then
 * completes, bt_debug_after() raises the trap. Accesses that an instruction
 * makes on the side (descriptors, page tables, frames of interrupts) are not seen.
 */
#include "accel/bt/cache.h"
#include "accel/bt/sys.h"

enum { BP_EXEC, BP_WRITE, BP_IO, BP_RW };

_Noreturn void sys_raise_db(struct bt_cpu *cpu, uint64_t dr6_bits)
{
	cpu->st.dr6 = (cpu->st.dr6 & ~0xfull) | dr6_bits;
	bt_raise(cpu, VEC_DB);
}

static bool bp_enabled(const struct bt_cpu *cpu, unsigned i)
{
	return cpu->st.dr7 >> i * 2 & 3;
}

static unsigned bp_type(const struct bt_cpu *cpu, unsigned i)
{
	return cpu->st.dr7 >> (16 + i * 4) & 3;
}

static unsigned bp_length(const struct bt_cpu *cpu, unsigned i)
{
	static const uint8_t lengths[] = { 1, 2, 8, 4 };

	return lengths[cpu->st.dr7 >> (18 + i * 4) & 3];
}

static void look(struct bt_cpu *cpu, uint64_t addr, unsigned size, bool write, bool io)
{
	for (unsigned i = 0; i < 4; i++) {
		unsigned length = bp_length(cpu, i), type = bp_type(cpu, i);
		uint64_t start = cpu->st.dr[i] & ~(uint64_t)(length - 1);

		if (!bp_enabled(cpu, i) || type == BP_EXEC || (type == BP_IO) != io ||
		    (type == BP_WRITE && !write))
			continue;
		if (addr < start + length && start < addr + size)
			cpu->watch_hits |= 1u << i;
	}
}

static uint64_t linear(const struct bt_cpu *cpu, unsigned seg, uint64_t off)
{
	if (bt_64bit(cpu))
		return seg == SEG_FS || seg == SEG_GS ? cpu->st.segs[seg].base + off : off;
	return (uint32_t)(cpu->st.segs[seg].base + off);
}

static void look_stack(struct bt_cpu *cpu, uint64_t sp, unsigned size, bool write)
{
	struct sys_stack s;

	sys_stack_current(cpu, &s);
	look(cpu, linear(cpu, SEG_SS, (write ? sp - size : sp) & s.mask), size, write, false);
}

static void look_string(struct bt_cpu *cpu, const struct insn *in)
{
	uint64_t mask = sys_size_mask(in->addrsize);

	if (in->rep && !(cpu->st.regs[REG_RCX] & mask))
		return;
	if (in->op == OP_MOVS || in->op == OP_LODS || in->op == OP_CMPS || in->op == OP_OUTS)
		look(cpu, linear(cpu, in->seg, cpu->st.regs[REG_RSI] & mask), in->opsize, false,
		     false);
	if (in->op != OP_LODS && in->op != OP_OUTS)
		look(cpu, linear(cpu, SEG_ES, cpu->st.regs[REG_RDI] & mask), in->opsize,
		     in->op != OP_SCAS && in->op != OP_CMPS, false);
	if (in->op == OP_INS || in->op == OP_OUTS)
		look(cpu, (uint16_t)cpu->st.regs[REG_RDX], in->opsize, in->op == OP_OUTS, true);
}

static void look_insn(struct bt_cpu *cpu, const struct insn *in)
{
	uint64_t rsp = cpu->st.regs[REG_RSP];
	unsigned branch = sys_branch_size(cpu, in);

	switch (in->op) {
	case OP_MOVS:
	case OP_STOS:
	case OP_LODS:
	case OP_SCAS:
	case OP_CMPS:
	case OP_INS:
	case OP_OUTS:
		look_string(cpu, in);
		return;
	case OP_IN:
	case OP_OUT:
		look(cpu, in->imm_size == 1 ? (uint8_t)in->imm : (uint16_t)cpu->st.regs[REG_RDX],
		     in->opsize, in->op == OP_OUT, true);
		return;
	case OP_PUSH_REG:
	case OP_PUSH_IMM:
	case OP_PUSH_RM:
	case OP_PUSH_SEG:
	case OP_PUSHF:
	case OP_ENTER:
		look_stack(cpu, rsp, in->opsize, true);
		break;
	case OP_POP_REG:
	case OP_POP_RM:
	case OP_POP_SEG:
	case OP_POPF:
		look_stack(cpu, rsp, in->opsize, false);
		break;
	case OP_PUSHA:
		look_stack(cpu, rsp, in->opsize * 8, true);
		break;
	case OP_POPA:
		look_stack(cpu, rsp, in->opsize * 8, false);
		break;
	case OP_LEAVE:
		look_stack(cpu, cpu->st.regs[REG_RBP], in->opsize, false);
		break;
	case OP_CALL:
	case OP_CALL_RM:
		look_stack(cpu, rsp, branch, true);
		break;
	case OP_RET:
		look_stack(cpu, rsp, branch, false);
		break;
	default:
		break;
	}
	if (!in->mem || !in->mem_size || in->op == OP_GATHER)
		return;
	if (in->mem_access & MEM_READ)
		look(cpu, linear(cpu, in->seg, bt_effective(cpu, in)), in->mem_size, false, false);
	if (in->mem_access & MEM_WRITE)
		look(cpu, linear(cpu, in->seg, bt_effective(cpu, in)), in->mem_size, true, false);
}

/* The instruction at @la; false when it cannot be decoded (then executing it faults by itself). */
static bool fetch(struct bt_cpu *cpu, uint64_t la, struct insn *in)
{
	uint8_t bytes[INSN_MAX];
	unsigned first = 0x1000 - (la & 0xfff), len = first < INSN_MAX ? first : INSN_MAX;
	struct bt_fetch f;

	if (!bt_fetch_page(cpu, la, true, &f) || !f.host)
		return false;
	bt_copy(bytes, f.host + (la & 0xfff), len);
	if (len < INSN_MAX) {
		uint64_t second = bt_long_mode(cpu) ? la + len : (uint32_t)(la + len);

		if (bt_fetch_page(cpu, second, true, &f) && f.host) {
			bt_copy(bytes + len, f.host, INSN_MAX - len);
			len = INSN_MAX;
		}
	}
	return insn_decode(cpu->key & KEY_MODE_MASK, bytes, len, in) == 0;
}

bool bt_debug_code(struct bt_cpu *cpu, uint64_t la)
{
	bool resume = cpu->st.rflags & FL_RF, data = false;
	uint64_t hits = 0;
	struct insn in;

	cpu->watch_hits = 0;
	cpu->st.rflags &= ~(uint64_t)FL_RF;
	for (unsigned i = 0; i < 4; i++) {
		if (!bp_enabled(cpu, i))
			continue;
		if (bp_type(cpu, i) != BP_EXEC)
			data = true;
		else if (cpu->st.dr[i] == la && !resume)
			hits |= 1ull << i;
	}
	if (hits)
		sys_raise_db(cpu, hits);
	if (data && fetch(cpu, la, &in))
		look_insn(cpu, &in);
	return false;
}

void bt_debug_after(struct bt_cpu *cpu, bool tf_before)
{
	uint64_t bits = cpu->watch_hits | cpu->watch_held;
	unsigned no_step = cpu->no_step;

	cpu->watch_held = no_step == NO_STEP_SS ? bits : 0;
	cpu->watch_hits = 0;
	cpu->no_step = 0;
	if (no_step == NO_STEP_SS)
		return;
	if (tf_before && no_step != NO_STEP_HANDLER)
		bits |= 1u << 14;
	if (bits)
		sys_raise_db(cpu, bits);
}
