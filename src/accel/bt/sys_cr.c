/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control and debug registers, translation invalidation, XCR0, and the reset
 * state of a CPU (Intel SDM 3A, 2.5, 4.10, 10.1; 3B, chapter 18).
 *
 * The software TLB holds one address space, so a CR3 write flushes non-global
 * entries whatever PCID says, except when nothing changes and the guest asks
 * for no flush. The jump caches hold several (tlb.c).
 */
#include "accel/bt/sys.h"
#include "vm/mem.h"

#define CR0_WRITABLE                                                                               \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR4_VALID                                                                                  \
	(CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR |         \
	 CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP)
#define CR3_NOFLUSH (1ull << 63)
#define DR6_FIXED 0xffff0ff0ull
#define DR6_WRITABLE 0xe00full
#define DR7_FIXED 0x400ull
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD (1ull << 13)

/*
 * In PAE paging outside long mode the four pointer entries are loaded with CR3; the walker reads
 * them each time, but reserved bits show here.
 */
static void check_pdptes(struct bt_cpu *cpu, uint64_t cr0, uint64_t cr4, uint64_t cr3)
{
	uint64_t reserved = 0x1e6 | ~((1ull << MEM_PHYS_BITS) - 1);

	if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || (cpu->st.efer & EFER_LME))
		return;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t e = bt_phys_ld(cpu, (cr3 & 0xffffffe0) + i * 8, 8);

		if ((e & 1) && (e & reserved))
			sys_gp(cpu, 0);
	}
}

static void write_cr0(struct bt_cpu *cpu, uint64_t val)
{
	struct vcpu_state *st = &cpu->st;
	uint64_t old = st->cr0, diff;

	if (val >> 32)
		sys_gp(cpu, 0);
	val = (val & CR0_WRITABLE) | CR0_ET;
	if (((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
		sys_gp(cpu, 0);
	diff = old ^ val;
	if (diff & (CR0_PG | CR0_CD | CR0_NW))
		check_pdptes(cpu, val, st->cr4, st->cr3);
	if (diff & CR0_PG) {
		if (val & CR0_PG) {
			unsigned tr_type = st->segs[SEG_TR].attr & SEG_TYPE_MASK;

			if ((st->efer & EFER_LME) &&
			    (!(st->cr4 & CR4_PAE) || (st->segs[SEG_CS].attr & SEG_ATTR_L) ||
			     tr_type == DESC_TSS16_BUSY))
				sys_gp(cpu, 0);
			if (st->efer & EFER_LME)
				st->efer |= EFER_LMA;
		} else {
			if (bt_64bit(cpu) || (st->cr4 & CR4_PCIDE))
				sys_gp(cpu, 0);
			st->efer &= ~EFER_LMA;
		}
	}
	st->cr0 = val;
	if (diff & CR0_PE)
		cpu->cpl = 0;
	if (diff & (CR0_PG | CR0_WP | CR0_PE))
		bt_tlb_flush_all(cpu);
	bt_update_key(cpu);
}

static void write_cr3(struct bt_cpu *cpu, uint64_t val)
{
	bool keep = (cpu->st.cr4 & CR4_PCIDE) && (val & CR3_NOFLUSH);

	if (cpu->st.cr4 & CR4_PCIDE)
		val &= ~CR3_NOFLUSH;
	if (bt_long_mode(cpu)) {
		if (val >> MEM_PHYS_BITS)
			sys_gp(cpu, 0);
	} else {
		val = (uint32_t)val;
		check_pdptes(cpu, cpu->st.cr0, cpu->st.cr4, val);
	}
	bt_set_cr3(cpu, val, keep);
}

/* Bits of CR4 whose feature CPUID does not show: they cannot be set. */
static uint64_t unshown_cr4(const struct cpu_id *id)
{
	static const struct {
		uint32_t cr4;
		uint8_t word, bit;
	} bits[] = {
		{ CR4_OSXSAVE, CPU_1C, 26 }, { CR4_PCIDE, CPU_1C, 17 }, { CR4_FSGSBASE, CPU_7B, 0 },
		{ CR4_SMEP, CPU_7B, 7 },     { CR4_SMAP, CPU_7B, 20 },	{ CR4_UMIP, CPU_7C, 2 },
	};
	uint64_t unshown = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		if (!(id->word[bits[i].word] >> bits[i].bit & 1))
			unshown |= bits[i].cr4;
	return unshown;
}

static void write_cr4(struct bt_cpu *cpu, uint64_t val)
{
	struct vcpu_state *st = &cpu->st;
	uint64_t diff = st->cr4 ^ val;

	if ((val & ~CR4_VALID) || (bt_long_mode(cpu) && !(val & CR4_PAE)))
		sys_gp(cpu, 0);
	if (val & ~st->cr4 & unshown_cr4(&cpu->vm->cpu))
		sys_gp(cpu, 0);
	if ((diff & val & CR4_PCIDE) && (!bt_long_mode(cpu) || (st->cr3 & 0xfff)))
		sys_gp(cpu, 0);
	if (diff & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP))
		check_pdptes(cpu, st->cr0, val, st->cr3);
	st->cr4 = val;
	if (diff & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_SMEP | CR4_SMAP | CR4_PCIDE))
		bt_tlb_flush_all(cpu);
	bt_update_key(cpu);
}

static void write_cr8(struct bt_cpu *cpu, uint64_t val)
{
	if (val > 15)
		sys_gp(cpu, 0);
	cpu->st.cr8 = val;
	lapic_set_cr8(cpu->lapic, val);
}

uint64_t sys_mov_cr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = bt_64bit(cpu) ? 8 : 4;
	uint64_t val;

	if (in->reg > 8 || in->reg == 1 || (in->reg >= 5 && in->reg <= 7))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	if (in->opcode & 2) {
		val = sys_gpr(cpu, in->rm, size);
		switch (in->reg) {
		case 0:
			write_cr0(cpu, val);
			break;
		case 2:
			cpu->st.cr2 = val;
			break;
		case 3:
			write_cr3(cpu, val);
			break;
		case 4:
			write_cr4(cpu, val);
			break;
		case 8:
			write_cr8(cpu, val);
			break;
		}
		return next;
	}
	switch (in->reg) {
	case 0:
		val = cpu->st.cr0;
		break;
	case 2:
		val = cpu->st.cr2;
		break;
	case 3:
		val = cpu->st.cr3;
		break;
	case 4:
		val = cpu->st.cr4;
		break;
	default:
		val = lapic_get_cr8(cpu->lapic);
		break;
	}
	sys_set_gpr(cpu, in->rm, size, val);
	return next;
}

uint64_t sys_mov_dr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = bt_64bit(cpu) ? 8 : 4, dr = in->reg;
	uint64_t val;

	if (dr > 7)
		sys_ud(cpu);
	if (dr == 4 || dr == 5) {
		if (cpu->st.cr4 & CR4_DE)
			sys_ud(cpu);
		dr += 2;
	}
	sys_need_cpl0(cpu);
	if (cpu->st.dr7 & DR7_GD)
		sys_raise_db(cpu, 1u << 13);
	if (!(in->opcode & 2)) {
		val = dr < 4 ? cpu->st.dr[dr] : dr == 6 ? cpu->st.dr6 : cpu->st.dr7;
		sys_set_gpr(cpu, in->rm, size, val);
		return next;
	}
	val = sys_gpr(cpu, in->rm, size);
	if (dr >= 6 && val >> 32)
		sys_gp(cpu, 0);
	if (dr < 4)
		cpu->st.dr[dr] = val;
	else if (dr == 6)
		cpu->st.dr6 = (val & DR6_WRITABLE) | DR6_FIXED;
	else
		cpu->st.dr7 = (val & DR7_WRITABLE) | DR7_FIXED;
	bt_update_key(cpu);
	return next;
}

uint64_t sys_smsw(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_need_umip(cpu);
	if (in->mem)
		sys_rm_set(cpu, in, 2, cpu->st.cr0);
	else
		sys_set_gpr(cpu, in->rm, in->opsize, cpu->st.cr0);
	return next;
}

/* LMSW sets PE but cannot clear it. */
uint64_t sys_lmsw(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t val;

	sys_need_cpl0(cpu);
	val = sys_rm_get(cpu, in, 2) & 0xf;
	write_cr0(cpu, (cpu->st.cr0 & ~0xeull) | val);
	return next;
}

uint64_t sys_clts(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	sys_need_cpl0(cpu);
	cpu->st.cr0 &= ~CR0_TS;
	bt_update_key(cpu);
	return next;
}

/* ---- invalidation ---- */

uint64_t sys_invlpg(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t la;

	sys_need_cpl0(cpu);
	la = bt_effective(cpu, in);
	if (!bt_64bit(cpu))
		la = (uint32_t)(la + cpu->st.segs[in->seg].base);
	else if (in->seg == SEG_FS || in->seg == SEG_GS)
		la += cpu->st.segs[in->seg].base;
	if (sys_canonical(la))
		bt_tlb_flush_page(cpu, la);
	return next;
}

uint64_t sys_invpcid(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t type, la, desc, addr;

	if (sys_real_mode(cpu))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	type = sys_gpr(cpu, in->reg, bt_64bit(cpu) ? 8 : 4);
	la = bt_operand(cpu, in, 16, false);
	desc = bt_ld(cpu, la, 8, BT_CPL);
	addr = bt_ld(cpu, la + 8, 8, BT_CPL);
	if (type > 3 || desc >> 12)
		sys_gp(cpu, 0);
	if (!(cpu->st.cr4 & CR4_PCIDE) && type < 2 && desc)
		sys_gp(cpu, 0);
	switch (type) {
	case 0:
		if (!sys_canonical(addr))
			sys_gp(cpu, 0);
		if ((desc ^ cpu->st.cr3) & 0xfff && cpu->st.cr4 & CR4_PCIDE)
			bt_forget_space(cpu, (unsigned)desc);
		bt_tlb_flush_page(cpu, addr);
		break;
	case 2:
		bt_tlb_flush_all(cpu);
		break;
	default:
		bt_tlb_flush_nonglobal(cpu);
		break;
	}
	return next;
}

/* ---- XCR0 ---- */

uint64_t sys_xgetbv(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint32_t which = cpu->st.regs[REG_RCX];
	uint64_t val;

	if (!(cpu->st.cr4 & CR4_OSXSAVE))
		sys_ud(cpu);
	if (which > 1)
		sys_gp(cpu, 0);
	/* 1 asks which components are in use: all that are enabled may be */
	val = cpu->st.xcr0;
	sys_set_gpr(cpu, REG_RAX, 4, val);
	sys_set_gpr(cpu, REG_RDX, 4, val >> 32);
	return next;
}

uint64_t sys_xsetbv(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t val = (uint32_t)cpu->st.regs[REG_RAX] | cpu->st.regs[REG_RDX] << 32;

	if (!(cpu->st.cr4 & CR4_OSXSAVE))
		sys_ud(cpu);
	sys_need_cpl0(cpu);
	if ((uint32_t)cpu->st.regs[REG_RCX] || (val & ~cpu_id_xcr0(&cpu->vm->cpu)) || !(val & 1) ||
	    (val & 6) == 4)
		sys_gp(cpu, 0);
	cpu->st.xcr0 = val;
	bt_update_key(cpu);
	return next;
}

/* ---- reset ---- */

static void reset_segments(struct vcpu_state *st)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		st->segs[i] = (struct vcpu_seg) { .attr = 0x93, .limit = 0xffff };
	st->segs[SEG_CS].selector = 0xf000;
	st->segs[SEG_CS].base = 0xffff0000;
	st->segs[SEG_CS].attr = 0x9b;
	st->segs[SEG_LDT].attr = SEG_ATTR_P | DESC_LDT;
	st->segs[SEG_TR].attr = SEG_ATTR_P | DESC_TSS32_BUSY;
	st->gdt = st->idt = (struct vcpu_dtable) { .limit = 0xffff };
}

/* What INIT leaves alone. */
static void reset_msrs(struct vcpu_state *st)
{
	st->xcr0 = 1;
	st->msr_pat = 0x0007040600070406ull;
	st->msr_misc_enable = 1;
	st->msr_star = st->msr_lstar = st->msr_cstar = st->msr_sfmask = st->msr_kernel_gs_base = 0;
	st->msr_sysenter_cs = st->msr_sysenter_esp = st->msr_sysenter_eip = 0;
	st->msr_tsc_aux = st->msr_spec_ctrl = 0;
	st->msr_kvm_wall_clock = st->msr_kvm_system_time = st->msr_kvm_poll_control = 0;
	st->msr_mtrr_def = 0;
	bt_fill(st->msr_mtrr_fixed, 0, sizeof(st->msr_mtrr_fixed));
	bt_fill(st->msr_mtrr_var, 0, sizeof(st->msr_mtrr_var));
}

void bt_cpu_reset(struct bt_cpu *cpu, bool init)
{
	struct vcpu_state *st = &cpu->st;

	cpu->resume = NULL;
	bt_fill(st->regs, 0, sizeof(st->regs));
	st->regs[REG_RDX] = sys_signature();
	st->rip = 0xfff0;
	st->rflags = FL_FIXED;
	reset_segments(st);
	st->cr0 = (init ? st->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW) | CR0_ET;
	st->cr2 = st->cr3 = st->cr4 = st->cr8 = st->efer = 0;
	for (unsigned i = 0; i < 4; i++)
		st->dr[i] = 0;
	st->dr6 = DR6_FIXED;
	st->dr7 = DR7_FIXED;
	if (!init) {
		reset_msrs(st);
		sys_fpu_reset(cpu);
	}
	cpu->cpl = 0;
	cpu->int_shadow = cpu->halted = cpu->nmi_masked = false;
	cpu->no_step = cpu->watch_hits = cpu->watch_held = 0;
	cpu->exc.valid = false;
	cpu->taken = -1;
	cpu->delivering = -1;
	cpu->wait_sipi = cpu->index != 0;
	lapic_reset(cpu->lapic, init);
	bt_tlb_flush_all(cpu);
	bt_update_key(cpu);
}

void bt_cpu_sipi(struct bt_cpu *cpu, uint8_t vector)
{
	if (!cpu->wait_sipi)
		return;
	cpu->st.segs[SEG_CS].selector = (uint16_t)vector << 8;
	cpu->st.segs[SEG_CS].base = (uint32_t)vector << 12;
	cpu->st.rip = 0;
	cpu->wait_sipi = false;
	bt_update_key(cpu);
}
