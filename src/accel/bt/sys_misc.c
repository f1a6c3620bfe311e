/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O, interrupt flag, halt, time stamps, caches: small system instructions without a family
 * of their own. */
#include "accel/bt/cache.h"
#include "accel/bt/sys.h"

#include "base/util.h"

/* Intel SDM volume 1, 19.5.2: the I/O permission bitmap of the TSS */
void sys_io_check(struct bt_cpu *cpu, uint16_t port, unsigned size)
{
	const struct vcpu_seg *tr = &cpu->st.segs[SEG_TR];
	uint32_t map, off;
	uint16_t bits;

	if (sys_real_mode(cpu) || (cpu->cpl <= sys_iopl(cpu) && !sys_vm86(cpu)))
		return;
	if ((tr->attr & SEG_ATTR_UNUSABLE) || (tr->attr & 9) != 9 || tr->limit < 103)
		sys_gp(cpu, 0);
	map = bt_ld(cpu, tr->base + 102, 2, BT_SUPER);
	off = map + port / 8;
	if (off + 1 > tr->limit)
		sys_gp(cpu, 0);
	bits = bt_ld(cpu, tr->base + off, 2, BT_SUPER);
	if (bits >> (port & 7) & ((1u << size) - 1))
		sys_gp(cpu, 0);
}

static uint16_t io_port(const struct bt_cpu *cpu, const struct insn *in)
{
	return in->imm_size == 1 ? (uint8_t)in->imm : (uint16_t)cpu->st.regs[REG_RDX];
}

uint64_t sys_in(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t port = io_port(cpu, in);

	sys_io_check(cpu, port, in->opsize);
	sys_set_gpr(cpu, REG_RAX, in->opsize, bt_pio_read(cpu, port, in->opsize));
	return next;
}

uint64_t sys_out(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t port = io_port(cpu, in);

	sys_io_check(cpu, port, in->opsize);
	bt_pio_write(cpu, port, in->opsize, sys_gpr(cpu, REG_RAX, in->opsize));
	return next;
}

uint64_t sys_hlt(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_need_cpl0(cpu);
	cpu->halted = true;
	return next;
}

uint64_t sys_cli(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	if (cpu->cpl > sys_iopl(cpu))
		sys_gp(cpu, 0);
	cpu->st.rflags &= ~(uint64_t)FL_IF;
	return next;
}

uint64_t sys_sti(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	if (cpu->cpl > sys_iopl(cpu))
		sys_gp(cpu, 0);
	if (!(cpu->st.rflags & FL_IF)) {
		cpu->st.rflags |= FL_IF;
		cpu->int_shadow = true;
		bt_update_key(cpu);
	}
	return next;
}

static uint64_t set_ac(struct bt_cpu *cpu, uint64_t ac, uint64_t next)
{
	if (cpu->cpl)
		sys_ud(cpu);
	if ((cpu->st.rflags & FL_AC) != ac) {
		cpu->st.rflags ^= FL_AC;
		bt_update_key(cpu);
	}
	return next;
}

uint64_t sys_clac(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return set_ac(cpu, 0, next);
}

uint64_t sys_stac(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	return set_ac(cpu, FL_AC, next);
}

static void read_tsc(struct bt_cpu *cpu)
{
	uint64_t tsc;

	if ((cpu->st.cr4 & CR4_TSD) && cpu->cpl)
		sys_gp(cpu, 0);
	tsc = bt_guest_tsc(cpu);
	sys_set_gpr(cpu, REG_RAX, 4, tsc);
	sys_set_gpr(cpu, REG_RDX, 4, tsc >> 32);
}

uint64_t sys_rdtsc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	read_tsc(cpu);
	return next;
}

uint64_t sys_rdtscp(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	read_tsc(cpu);
	sys_set_gpr(cpu, REG_RCX, 4, cpu->st.msr_tsc_aux);
	return next;
}

/* No counters are there beyond the four that AMD's families always have; those stand still. */
uint64_t sys_rdpmc(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	if (cpu->cpl && !(cpu->st.cr4 & CR4_PCE))
		sys_gp(cpu, 0);
	if (!sys_host_amd() || (uint32_t)cpu->st.regs[REG_RCX] > 3)
		sys_gp(cpu, 0);
	sys_set_gpr(cpu, REG_RAX, 4, 0);
	sys_set_gpr(cpu, REG_RDX, 4, 0);
	return next;
}

uint64_t sys_rdpid(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_set_gpr(cpu, in->rm, bt_64bit(cpu) ? 8 : 4, cpu->st.msr_tsc_aux);
	return next;
}

uint64_t sys_cpuid(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint32_t out[4];

	bt_cpuid(cpu, cpu->st.regs[REG_RAX], cpu->st.regs[REG_RCX], out);
	sys_set_gpr(cpu, REG_RAX, 4, out[0]);
	sys_set_gpr(cpu, REG_RBX, 4, out[1]);
	sys_set_gpr(cpu, REG_RCX, 4, out[2]);
	sys_set_gpr(cpu, REG_RDX, 4, out[3]);
	return next;
}

/*
 * KVM's hypercalls, by either vendor's instruction: the oldest, which does nothing,
 * inter-processor interrupts to many at once, and what a guest that comes from KVM may use: to end
 * another vCPU's halt, and to give way, which there is no need for.
 */
#define KVM_HC_VAPIC_POLL_IRQ 1
#define KVM_HC_KICK_CPU 5
#define KVM_HC_SEND_IPI 10
#define KVM_HC_SCHED_YIELD 11
#define KVM_ENOSYS 1000

/*
 * rbx, rcx: bitmap of APIC IDs from rdx on (as many bits each as a register has); rsi: as ICR.
 * Returns how many were sent to.
 */
static int64_t send_ipi(struct bt_cpu *cpu, unsigned size)
{
	uint64_t low = sys_gpr(cpu, REG_RBX, size), high = sys_gpr(cpu, REG_RCX, size);
	uint64_t first = sys_gpr(cpu, REG_RDX, size), icr = sys_gpr(cpu, REG_RSI, size);
	unsigned mode = icr >> 8 & 7, bits = size * 8;
	int64_t sent = 0;

	if ((icr & 0x800) || (mode != 0 && mode != 4))
		return -EINVAL;
	for (uint64_t i = 0; i < bits * 2; i++) {
		bool wanted = i < bits ? low >> i & 1 : high >> (i - bits) & 1;

		if (!wanted || first + i >= cpu->vm->count)
			continue;
		lapic_deliver(cpu->vm->lapics, first + i, false, mode, icr, false);
		sent++;
	}
	return sent;
}

/* rcx: APIC ID of a vCPU that halts, or is about to, until it gets a lock. */
static int64_t kick_cpu(struct bt_cpu *cpu, uint64_t id)
{
	if (id < cpu->vm->count) {
		atomic_store(&cpu->vm->cpus[id]->unhalt, true);
		bt_wake(cpu->vm->cpus[id], PENDING_EVENT);
	}
	return 0;
}

uint64_t sys_hypercall(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = bt_64bit(cpu) ? 8 : 4;
	int64_t ret = -KVM_ENOSYS;

	if (cpu->cpl)
		ret = -EPERM;
	else if (sys_gpr(cpu, REG_RAX, size) == KVM_HC_VAPIC_POLL_IRQ)
		ret = 0;
	else if (sys_gpr(cpu, REG_RAX, size) == KVM_HC_SEND_IPI)
		ret = send_ipi(cpu, size);
	else if (sys_gpr(cpu, REG_RAX, size) == KVM_HC_KICK_CPU)
		ret = kick_cpu(cpu, sys_gpr(cpu, REG_RCX, size));
	else if (sys_gpr(cpu, REG_RAX, size) == KVM_HC_SCHED_YIELD)
		ret = 0;
	sys_set_gpr(cpu, REG_RAX, size, ret);
	return next;
}

/* INVD and WBINVD: guest memory is coherent. */
uint64_t sys_wbinvd(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_need_cpl0(cpu);
	return next;
}

uint64_t sys_clflush(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	bt_probe_read(cpu, bt_operand(cpu, in, 1, false), 1, BT_CPL);
	return next;
}

uint64_t sys_clzero(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t off = cpu->st.regs[REG_RAX] & sys_size_mask(in->addrsize) & ~63ull;
	unsigned seg = in->seg_override ? in->seg : SEG_DS;
	uint64_t la = bt_seg_linear(cpu, seg, off, 64, true);

	bt_probe_write(cpu, la, 64, BT_CPL);
	for (unsigned i = 0; i < 64; i += 8)
		bt_st(cpu, la + i, 8, 0, BT_CPL);
	return next;
}
