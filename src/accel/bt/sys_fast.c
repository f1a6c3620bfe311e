/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel SDM volume 2; AMD APM volume 3).
 *
 * The vendors differ, and the guest is shown the host's: SYSCALL outside
 * 64-bit mode is AMD's, SYSENTER in long mode Intel's. SYSRET gives SS its
 * usual attributes, as Intel does; AMD keeps the old ones.
 */
#include "accel/bt/sys.h"

#define CS64_ATTR 0xa09bu /* code, 64-bit, DPL 0 */
#define CS32_ATTR 0xc09bu
#define SS_ATTR 0xc093u
#define DPL3 0x60u

static void enter_kernel(struct bt_cpu *cpu, uint16_t cs, uint32_t cs_attr)
{
	sys_set_flat(&cpu->st.segs[SEG_CS], cs, cs_attr);
	sys_set_flat(&cpu->st.segs[SEG_SS], cs + 8, SS_ATTR);
	cpu->cpl = 0;
}

uint64_t sys_syscall(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t cs = cpu->st.msr_star >> 32 & 0xfffc;
	bool step = cpu->st.rflags & FL_TF;
	uint64_t target;

	if (!(cpu->st.efer & EFER_SCE) || sys_real_mode(cpu) || (!bt_64bit(cpu) && !sys_host_amd()))
		sys_ud(cpu);
	cpu->st.regs[REG_RCX] = next;
	if (bt_long_mode(cpu)) {
		target = bt_64bit(cpu) ? cpu->st.msr_lstar : cpu->st.msr_cstar;
		cpu->st.regs[REG_R11] = cpu->st.rflags & ~(uint64_t)FL_RF;
		cpu->st.rflags &= ~(cpu->st.msr_sfmask | FL_RF);
		cpu->st.rflags |= FL_FIXED;
		enter_kernel(cpu, cs, CS64_ATTR);
	} else {
		target = (uint32_t)cpu->st.msr_star;
		cpu->st.rflags &= ~(uint64_t)(FL_IF | FL_VM | FL_RF);
		enter_kernel(cpu, cs, CS32_ATTR);
	}
	/* TF counts as SYSCALL leaves it */
	cpu->no_step = step && !(cpu->st.rflags & FL_TF) ? NO_STEP_HANDLER : 0;
	bt_update_key(cpu);
	return target;
}

uint64_t sys_sysret(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t sel = cpu->st.msr_star >> 48;
	uint64_t rcx = cpu->st.regs[REG_RCX];
	bool to_64 = in->opsize == 8;

	if (!(cpu->st.efer & EFER_SCE) || sys_real_mode(cpu) || (!bt_64bit(cpu) && !sys_host_amd()))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	if (to_64 && !sys_canonical(rcx))
		sys_gp(cpu, 0);
	if (bt_long_mode(cpu))
		cpu->st.rflags =
		    (cpu->st.regs[REG_R11] & 0x3c7fd7 & ~(uint64_t)(FL_RF | FL_VM)) | FL_FIXED;
	else
		cpu->st.rflags |= FL_IF;
	if (to_64)
		sys_set_flat(&cpu->st.segs[SEG_CS], (sel + 16) | 3, CS64_ATTR | DPL3);
	else
		sys_set_flat(&cpu->st.segs[SEG_CS], sel | 3, CS32_ATTR | DPL3);
	sys_set_flat(&cpu->st.segs[SEG_SS], (sel + 8) | 3, SS_ATTR | DPL3);
	cpu->cpl = 3;
	bt_update_key(cpu);
	if (!to_64)
		rcx = (uint32_t)rcx;
	if (cpu->st.rflags & FL_TF) {
		/* TF as SYSRET loads it traps right after it */
		cpu->st.rip = rcx;
		sys_raise_db(cpu, 1u << 14);
	}
	return rcx;
}

uint64_t sys_sysenter(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t cs = cpu->st.msr_sysenter_cs & 0xfffc;
	bool step = cpu->st.rflags & FL_TF, lm = bt_long_mode(cpu);

	if (lm && sys_host_amd())
		sys_ud(cpu);
	if (sys_real_mode(cpu) || !cs)
		sys_gp(cpu, 0);
	cpu->st.rflags &= ~(uint64_t)(FL_IF | FL_VM | FL_RF);
	enter_kernel(cpu, cs, lm ? CS64_ATTR : CS32_ATTR);
	cpu->st.regs[REG_RSP] = lm ? cpu->st.msr_sysenter_esp : (uint32_t)cpu->st.msr_sysenter_esp;
	cpu->no_step = step ? NO_STEP_HANDLER : 0;
	bt_update_key(cpu);
	return lm ? cpu->st.msr_sysenter_eip : (uint32_t)cpu->st.msr_sysenter_eip;
}

uint64_t sys_sysexit(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint16_t cs = cpu->st.msr_sysenter_cs & 0xfffc;
	uint64_t rip = cpu->st.regs[REG_RDX], rsp = cpu->st.regs[REG_RCX];
	bool to_64 = in->opsize == 8;

	if (bt_long_mode(cpu) && sys_host_amd())
		sys_ud(cpu);
	if (sys_real_mode(cpu) || !cs)
		sys_gp(cpu, 0);
	sys_need_cpl0(cpu);
	if (to_64) {
		if (!sys_canonical(rip) || !sys_canonical(rsp))
			sys_gp(cpu, 0);
		sys_set_flat(&cpu->st.segs[SEG_CS], (cs + 32) | 3, CS64_ATTR | DPL3);
		sys_set_flat(&cpu->st.segs[SEG_SS], (cs + 40) | 3, SS_ATTR | DPL3);
	} else {
		rip = (uint32_t)rip;
		rsp = (uint32_t)rsp;
		sys_set_flat(&cpu->st.segs[SEG_CS], (cs + 16) | 3, CS32_ATTR | DPL3);
		sys_set_flat(&cpu->st.segs[SEG_SS], (cs + 24) | 3, SS_ATTR | DPL3);
	}
	cpu->cpl = 3;
	cpu->st.regs[REG_RSP] = rsp;
	bt_update_key(cpu);
	return rip;
}
