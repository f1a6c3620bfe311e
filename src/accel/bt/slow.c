/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slow paths of translated code: what stubs.c calls in the middle of a block.
 * They find the guest registers in st (saved by the stub), and set st.rip
 * from the access's record, so that they can raise exceptions.
 */
#include "accel/bt/cache.h"

/* Take over the state that the translated code left: where it is, and its flags. */
static void enter_slow(struct bt_cpu *cpu, const struct bt_access *a)
{
	cpu->st.rip = cpu->vbase + a->guest_off;
	if (!bt_64bit(cpu))
		cpu->st.rip = (uint32_t)cpu->st.rip;
	if (a->flags_in_slot)
		cpu->st.rflags = (cpu->st.rflags & ~(uint64_t)FL_ARITH) |
				 (cpu->flag_slot >> 8 & 0xd5) | (cpu->flag_slot & 1) << 11;
}

/* An unmasked x87 exception waits for the next waiting instruction (FSW.ES). */
static bool x87_pending(struct bt_cpu *cpu)
{
	uint16_t fsw;

	if (!(cpu->st.cr0 & CR0_NE))
		return false;
	if (cpu->fpu_parked)
		return cpu->st.xsave[2] & 0x80;
	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	return fsw & 0x80;
}

uint64_t bt_slow_access(struct bt_cpu *cpu, uint64_t la, const struct bt_access *a)
{
	unsigned size = a->size, first = min_u64(size, PAGE_SIZE - (la & 0xfff));
	uint64_t g1, g2 = 0;

	enter_slow(cpu, a);
	cpu->slow.bounced = cpu->slow.code = false;
	if (a->waits && x87_pending(cpu))
		bt_raise(cpu, VEC_MF);
	if (a->aligned && (la & (size - 1)))
		bt_raise_err(cpu, VEC_GP, 0);
	if (!bt_64bit(cpu) && !(cpu->key & KEY_SEGS) && a->seg <= SEG_DS && la + size > 1ull << 32)
		bt_raise_err(cpu, a->seg == SEG_SS ? VEC_SS : VEC_GP,
			     0); /* beyond the flat segment's limit */
	bt_check_canonical(cpu, la, size, a->seg == SEG_SS);
	if ((cpu->key & KEY_ALIGN) && (la & (size - 1)) && !(size & (size - 1)) && size <= 8)
		bt_raise_err(cpu, VEC_AC, 0);
	g1 = bt_page_in(cpu, la, a->write & MEM_WRITE, BT_CPL);
	if (first == size && bt_has_ram(cpu, g1)) {
		cpu->slow.code = (a->write & MEM_WRITE) && bt_is_code(cpu, g1);
		cpu->slow.la = g1;
		return (uintptr_t)(bt_ram_host(cpu, g1) + (g1 & 0xfff));
	}
	if (first < size)
		g2 = bt_page_in(cpu, bt_long_mode(cpu) ? la + first : (uint32_t)(la + first),
				a->write & MEM_WRITE, BT_CPL);

	uint8_t *buf = cpu->bounce + (la & 63);

	cpu->slow.bounced = true;
	cpu->slow.la = g1;
	cpu->slow.la2 = g2;
	cpu->slow.first = first;
	if (a->write & MEM_READ) {
		bt_phys_move(cpu, g1, buf, first, false);
		if (first < size)
			bt_phys_move(cpu, g2, buf + first, size - first, false);
		bt_fpu_unpark(cpu);
	}
	return (uintptr_t)buf;
}

uint64_t bt_slow_commit(struct bt_cpu *cpu, const struct bt_access *a)
{
	unsigned size = a->size, first = cpu->slow.first;

	if (cpu->slow.bounced) {
		uint8_t *buf = cpu->bounce + (cpu->slow.la & 63);

		bt_phys_move(cpu, cpu->slow.la, buf, first, true);
		if (first < size)
			bt_phys_move(cpu, cpu->slow.la2, buf + first, size - first, true);
		bt_fpu_unpark(cpu);
	} else if (cpu->slow.code) {
		bt_cache_written(cpu->vm, cpu->slow.la, size);
	}
	if (a->block->valid || a->to_end)
		return 0;

	/* The running block was overwritten: leave after this instruction. */
	struct bt_exit *e = cpu->commit_exit;

	e->kind = EXIT_NEXT;
	e->target_off = a->next_off;
	if (!a->next_flags_in_slot)
		cpu->flag_slot = cpu->spill[3];
	return (uintptr_t)e;
}

uint64_t bt_slow_seg(struct bt_cpu *cpu, uint64_t off, const struct bt_access *a)
{
	enter_slow(cpu, a);
	return bt_seg_linear(cpu, a->seg, off, a->size, a->write & MEM_WRITE);
}

uint64_t bt_slow_check(struct bt_cpu *cpu, uint64_t unused, const struct bt_access *a)
{
	enter_slow(cpu, a);
	bt_fpu_check(cpu, a->insn);
	return 0;
}
