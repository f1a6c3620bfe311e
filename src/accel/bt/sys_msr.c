/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers (Intel SDM volume 4; AMD APM volume 2, appendix A;
 * the KVM ones as Linux documents them).
 *
 * Registers that describe hardware which is not there read as zero and ignore
 * writes where operating systems touch them without a net; all others raise
 * #GP. kvm-clock is written once, when the guest turns it on: the clock is
 * the TSC scaled, from one zero for all vCPUs.
 */
#include "accel/bt/sys.h"

#include "vm/mem.h"

#define MSR_TSC 0x10u
#define MSR_KVM_WALL_CLOCK 0x11u
#define MSR_KVM_SYSTEM_TIME 0x12u
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u
#define MSR_KVM_STEAL_TIME 0x4b564d03u
#define MSR_KVM_PV_EOI 0x4b564d04u
#define MSR_KVM_POLL_CONTROL 0x4b564d05u
#define MSR_APIC_BASE 0x1bu
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_BIOS_UPDATE 0x79u
#define MSR_BIOS_SIGN 0x8bu
#define MSR_PLATFORM_INFO 0xceu
#define MSR_MTRR_CAP 0xfeu
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_MCG_CAP 0x179u
#define MSR_MCG_STATUS 0x17au
#define MSR_MISC_ENABLE 0x1a0u
#define MSR_DEBUGCTL 0x1d9u
#define MSR_MTRR_VAR 0x200u
#define MSR_PAT 0x277u
#define MSR_MTRR_DEF 0x2ffu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_PATCH_LOADER 0xc0010020u
#define MSR_AMD_DE_CFG 0xc0011029u

/* 8 variable ranges, fixed ranges, write combining */
#define MTRR_CAP_VALUE 0x508u
#define MTRR_VAR_COUNT 16u

#define EFER_VALID (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

/*
 * Meltdown, L1TF, MDS, TAA, page-size-change and the like need a guest that runs
 * on the hardware's own privilege checks; under the translator every guest
 * access is checked by code. RDCL_NO, SKIP_L1DFL_VMENTRY, MDS_NO, PSCHANGE_MC_NO,
 * TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, RFDS_NO.
 */
#define ARCH_CAPABILITIES_VALUE                                                                    \
	(1ull << 0 | 1ull << 3 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 |     \
	 1ull << 15 | 1ull << 27)

static bool is_fixed_mtrr(uint32_t msr)
{
	return msr == 0x250 || msr == 0x258 || msr == 0x259 || (msr >= 0x268 && msr <= 0x26f);
}

static unsigned fixed_mtrr_index(uint32_t msr)
{
	return msr == 0x250 ? 0 : msr < 0x260 ? msr - 0x258 + 1 : msr - 0x268 + 3;
}

/* AMD registers that read as zero and ignore writes. */
static bool is_amd_void(uint32_t msr)
{
	if (!sys_host_amd())
		return false;
	switch (msr) {
	case 0xc0010010:		/* SYSCFG */
	case 0xc0010016 ... 0xc001001a: /* IORR, TOP_MEM */
	case 0xc001001d:		/* TOP_MEM2 */
	case 0xc001001f:		/* NB_CFG */
	case 0xc0010055:		/* interrupt pending */
	case 0xc0010058:		/* MMIO configuration */
	case 0xc0010061 ... 0xc001006b: /* P-states */
	case 0xc0010071:
	case 0xc0010112: /* TSEG */
	case 0xc0010113:
	case 0xc0010114: /* VM_CR */
	case 0xc0010117:
	case 0xc0010140: /* OSVW */
	case 0xc0010141:
	case 0xc0010000 ... 0xc0010007: /* performance counters */
	case 0xc0011020 ... 0xc0011028: /* unit configurations */
	case 0xc001102a ... 0xc001102f:
		return true;
	}
	return false;
}

/* ---- kvm-clock ---- */

/* ns = (tsc << shift, or >> -shift) * mul >> 32 */
static void clock_scale(uint64_t tsc_khz, uint32_t *ret_mul, int8_t *ret_shift)
{
	uint64_t rate = tsc_khz * 1000, ns = 1000000000ull;
	int8_t shift = 0;

	while (rate > ns * 2) {
		rate >>= 1;
		shift--;
	}
	while (rate <= ns) {
		rate <<= 1;
		shift++;
	}
	*ret_mul = (ns << 32) / rate;
	*ret_shift = shift;
}

static uint64_t tsc_to_ns(uint64_t tsc, uint32_t mul, int8_t shift)
{
	tsc = shift < 0 ? tsc >> -shift : tsc << shift;
	return (uint64_t)((unsigned __int128)tsc * mul >> 32);
}

static void write_system_time(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t gpa = val & ~1ull;
	uint32_t mul, version;
	int8_t shift;

	cpu->st.msr_kvm_system_time = val;
	if (!(val & 1) || !cpu->vm->tsc_khz)
		return;
	clock_scale(cpu->vm->tsc_khz, &mul, &shift);
	version = bt_phys_ld(cpu, gpa, 4) & ~1u;
	bt_phys_st(cpu, gpa, 4, version + 1);
	bt_phys_st(cpu, gpa + 8, 8, cpu->vm->clock_tsc); /* tsc_timestamp */
	bt_phys_st(cpu, gpa + 16, 8, cpu->vm->clock_ns); /* system_time */
	bt_phys_st(cpu, gpa + 24, 4, mul);
	bt_phys_st(cpu, gpa + 28, 1, (uint8_t)shift);
	bt_phys_st(cpu, gpa + 29, 1, 1); /* flags: stable across vCPUs */
	bt_phys_st(cpu, gpa, 4, version + 2);
}

uint64_t bt_clock_ns(struct bt_cpu *cpu)
{
	uint32_t mul;
	int8_t shift;

	if (!cpu->vm->tsc_khz)
		return 0;
	clock_scale(cpu->vm->tsc_khz, &mul, &shift);
	return cpu->vm->clock_ns + tsc_to_ns(bt_guest_tsc(cpu) - cpu->vm->clock_tsc, mul, shift);
}

/*
 * What other accelerators keep up to date in guest memory: the clock's page gets our scale, and the
 * vCPU is not preempted, or others would wait with TLB flushes until somebody says that it is back.
 */
void bt_clock_loaded(struct bt_cpu *cpu)
{
	uint64_t clock = cpu->st.msr_kvm_system_time, steal = cpu->st.msr_kvm_steal_time;
	uint8_t *page = guest_mem_ptr(cpu->vm->mem, clock & ~1ull, 32);
	uint8_t *preempted = guest_mem_ptr(cpu->vm->mem, (steal & ~63ull) + 16, 1);
	uint32_t mul, version;
	int8_t shift;

	if (steal & 1 && preempted)
		*preempted = 0;
	if (!(clock & 1) || !page || !cpu->vm->tsc_khz)
		return;
	clock_scale(cpu->vm->tsc_khz, &mul, &shift);
	version = get_le32(page) & ~1u;
	put_le64(page + 8, cpu->vm->clock_tsc);
	put_le64(page + 16, cpu->vm->clock_ns);
	put_le32(page + 24, mul);
	page[28] = (uint8_t)shift;
	page[29] = 1;
	put_le32(page, version + 2);
}

static void write_wall_clock(struct bt_cpu *cpu, uint64_t gpa)
{
	struct timespec now;
	uint64_t wall;
	uint32_t version;

	cpu->st.msr_kvm_wall_clock = gpa;
	if (!gpa || !cpu->vm->tsc_khz)
		return;
	bt_fpu_park(cpu);
	clock_gettime(CLOCK_REALTIME, &now);
	wall = (uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec - bt_clock_ns(cpu);
	version = bt_phys_ld(cpu, gpa, 4) & ~1u;
	bt_phys_st(cpu, gpa, 4, version + 1);
	bt_phys_st(cpu, gpa + 4, 4, wall / 1000000000ull);
	bt_phys_st(cpu, gpa + 8, 4, wall % 1000000000ull);
	bt_phys_st(cpu, gpa, 4, version + 2);
}

/* ---- reading ---- */

static bool read_amd(struct bt_cpu *cpu, uint32_t msr, uint64_t *val)
{
	if (!sys_host_amd())
		return false;
	switch (msr) {
	case MSR_AMD_HWCR:
		*val = 1ull << 24; /* the TSC counts at the nominal rate */
		return true;
	case MSR_AMD_DE_CFG:
		*val = 1ull << 1; /* LFENCE serialises */
		return true;
	}
	*val = 0;
	return is_amd_void(msr);
}

static bool read_intel(struct bt_cpu *cpu, uint32_t msr, uint64_t *val)
{
	if (sys_host_amd())
		return false;
	switch (msr) {
	case MSR_FEATURE_CONTROL:
		*val = 1; /* locked */
		return true;
	case MSR_ARCH_CAPABILITIES:
		*val = ARCH_CAPABILITIES_VALUE;
		return true;
	case MSR_PLATFORM_INFO:
	case 0x17:  /* platform ID */
	case 0x2a:  /* power-on configuration */
	case 0x198: /* performance status */
	case 0x199:
	case 0x19a ... 0x19c: /* thermal */
	case 0x1b0:	      /* energy bias */
		*val = 0;
		return true;
	}
	return false;
}

static bool read_msr(struct bt_cpu *cpu, uint32_t msr, uint64_t *val)
{
	struct vcpu_state *st = &cpu->st;

	switch (msr) {
	case MSR_TSC:
		*val = bt_guest_tsc(cpu);
		return true;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*val = st->msr_kvm_wall_clock;
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*val = st->msr_kvm_system_time;
		return true;
	case MSR_KVM_POLL_CONTROL:
		*val = st->msr_kvm_poll_control;
		return true;
	/* Not offered; a guest that comes from KVM may use them. Nothing is ever stolen or skipped.
	 */
	case MSR_KVM_STEAL_TIME:
		*val = st->msr_kvm_steal_time;
		return true;
	case MSR_KVM_PV_EOI:
		*val = st->msr_kvm_pv_eoi;
		return true;
	case MSR_BIOS_SIGN:
		*val = sys_host_amd() ? 0x01000065 : 0x100000000ull;
		return true;
	case MSR_MTRR_CAP:
		*val = MTRR_CAP_VALUE;
		return true;
	case MSR_SYSENTER_CS:
		*val = st->msr_sysenter_cs;
		return true;
	case MSR_SYSENTER_ESP:
		*val = st->msr_sysenter_esp;
		return true;
	case MSR_SYSENTER_EIP:
		*val = st->msr_sysenter_eip;
		return true;
	case MSR_MISC_ENABLE:
		*val = st->msr_misc_enable;
		return true;
	case MSR_PAT:
		*val = st->msr_pat;
		return true;
	case MSR_MTRR_DEF:
		*val = st->msr_mtrr_def;
		return true;
	case MSR_EFER:
		*val = st->efer;
		return true;
	case MSR_STAR:
		*val = st->msr_star;
		return true;
	case MSR_LSTAR:
		*val = st->msr_lstar;
		return true;
	case MSR_CSTAR:
		*val = st->msr_cstar;
		return true;
	case MSR_SFMASK:
		*val = st->msr_sfmask;
		return true;
	case MSR_FS_BASE:
		*val = st->segs[SEG_FS].base;
		return true;
	case MSR_GS_BASE:
		*val = st->segs[SEG_GS].base;
		return true;
	case MSR_KERNEL_GS_BASE:
		*val = st->msr_kernel_gs_base;
		return true;
	case MSR_TSC_AUX:
		*val = st->msr_tsc_aux;
		return true;
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
	case 0x0: /* P5 machine check */
	case 0x1:
	case 0x1db ... 0x1de: /* last branch */
		*val = 0;
		return true;
	}
	if (msr >= MSR_MTRR_VAR && msr < MSR_MTRR_VAR + MTRR_VAR_COUNT) {
		*val = st->msr_mtrr_var[msr - MSR_MTRR_VAR];
		return true;
	}
	if (is_fixed_mtrr(msr)) {
		*val = st->msr_mtrr_fixed[fixed_mtrr_index(msr)];
		return true;
	}
	if (msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= 0x800 && msr <= 0x8ff))
		return lapic_msr_read(cpu->lapic, msr, val);
	return read_amd(cpu, msr, val) || read_intel(cpu, msr, val);
}

uint64_t sys_rdmsr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t val;

	sys_need_cpl0(cpu);
	if (!read_msr(cpu, cpu->st.regs[REG_RCX], &val))
		sys_gp(cpu, 0);
	sys_set_gpr(cpu, REG_RAX, 4, val);
	sys_set_gpr(cpu, REG_RDX, 4, val >> 32);
	return next;
}

/* ---- writing ---- */

static bool write_efer(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t old = cpu->st.efer;

	if (val & ~EFER_VALID)
		return false;
	if (((old ^ val) & EFER_LME) && (cpu->st.cr0 & CR0_PG))
		return false;
	cpu->st.efer = (val & ~EFER_LMA) | (old & EFER_LMA);
	if ((old ^ val) & EFER_NXE)
		bt_tlb_flush_all(cpu);
	return true;
}

/* Memory types of PAT and MTRR: @reserved has a bit per invalid type. */
static bool types_ok(uint64_t val, unsigned reserved)
{
	for (unsigned i = 0; i < 8; i++, val >>= 8) {
		if ((val & 0xff) > 7 || (reserved >> (val & 7) & 1))
			return false;
	}
	return true;
}

#define PAT_RESERVED (1u << 2 | 1u << 3)
#define MTRR_RESERVED (1u << 2 | 1u << 3 | 1u << 7)

static bool write_canonical(uint64_t *reg, uint64_t val)
{
	if (!sys_canonical(val))
		return false;
	*reg = val;
	return true;
}

static bool write_mtrr(struct bt_cpu *cpu, uint32_t msr, uint64_t val)
{
	struct vcpu_state *st = &cpu->st;

	if (msr == MSR_MTRR_DEF) {
		if ((val & ~0xcffull) || (val & 0xff) > 7 || (MTRR_RESERVED >> (val & 7) & 1))
			return false;
		st->msr_mtrr_def = val;
		return true;
	}
	if (is_fixed_mtrr(msr)) {
		if (!types_ok(val, MTRR_RESERVED))
			return false;
		st->msr_mtrr_fixed[fixed_mtrr_index(msr)] = val;
		return true;
	}
	if (val >> MEM_PHYS_BITS)
		return false;
	if (msr & 1 ? val & 0x7ff
		    : (val & 0xf00) || (val & 0xff) > 7 || (MTRR_RESERVED >> (val & 7) & 1))
		return false;
	st->msr_mtrr_var[msr - MSR_MTRR_VAR] = val;
	return true;
}

static bool write_msr(struct bt_cpu *cpu, uint32_t msr, uint64_t val)
{
	struct vcpu_state *st = &cpu->st;

	switch (msr) {
	case MSR_FS_BASE:
		return write_canonical(&st->segs[SEG_FS].base, val);
	case MSR_GS_BASE:
		return write_canonical(&st->segs[SEG_GS].base, val);
	case MSR_KERNEL_GS_BASE:
		return write_canonical(&st->msr_kernel_gs_base, val);
	case MSR_LSTAR:
		return write_canonical(&st->msr_lstar, val);
	case MSR_CSTAR:
		return write_canonical(&st->msr_cstar, val);
	case MSR_SYSENTER_ESP:
		return write_canonical(&st->msr_sysenter_esp, val);
	case MSR_SYSENTER_EIP:
		return write_canonical(&st->msr_sysenter_eip, val);
	case MSR_TSC:
		cpu->tsc_offset += val - bt_guest_tsc(cpu);
		return true;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		write_wall_clock(cpu, val);
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		write_system_time(cpu, val);
		return true;
	case MSR_KVM_POLL_CONTROL:
		if (val & ~1ull)
			return false;
		st->msr_kvm_poll_control = val;
		return true;
	case MSR_KVM_STEAL_TIME:
		if (val & 0x3e)
			return false;
		st->msr_kvm_steal_time = val;
		return true;
	case MSR_KVM_PV_EOI:
		if (val & 2)
			return false;
		st->msr_kvm_pv_eoi = val;
		return true;
	case MSR_SYSENTER_CS:
		st->msr_sysenter_cs = (uint32_t)val;
		return true;
	case MSR_MISC_ENABLE:
		st->msr_misc_enable = val;
		return true;
	case MSR_PAT:
		if (!types_ok(val, PAT_RESERVED))
			return false;
		st->msr_pat = val;
		return true;
	case MSR_EFER:
		return write_efer(cpu, val);
	case MSR_STAR:
		st->msr_star = val;
		return true;
	case MSR_SFMASK:
		st->msr_sfmask = (uint32_t)val;
		return true;
	case MSR_TSC_AUX:
		if (val >> 32)
			return false;
		st->msr_tsc_aux = val;
		return true;
	case MSR_BIOS_UPDATE:
	case MSR_BIOS_SIGN:
	case MSR_MCG_STATUS:
	case 0x0:
	case 0x1:
		return true;
	case MSR_DEBUGCTL:
		return !(val & ~3ull);
	case MSR_AMD_HWCR:
	case MSR_AMD_PATCH_LOADER:
	case MSR_AMD_DE_CFG:
		return sys_host_amd();
	case 0x199:
	case 0x19a ... 0x19c:
	case 0x1b0:
		return !sys_host_amd();
	}
	if ((msr >= MSR_MTRR_VAR && msr < MSR_MTRR_VAR + MTRR_VAR_COUNT) || is_fixed_mtrr(msr) ||
	    msr == MSR_MTRR_DEF)
		return write_mtrr(cpu, msr, val);
	if (msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= 0x800 && msr <= 0x8ff))
		return lapic_msr_write(cpu->lapic, msr, val);
	return is_amd_void(msr);
}

uint64_t sys_wrmsr(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	uint64_t val = (uint32_t)cpu->st.regs[REG_RAX] | cpu->st.regs[REG_RDX] << 32;

	sys_need_cpl0(cpu);
	if (!write_msr(cpu, cpu->st.regs[REG_RCX], val))
		sys_gp(cpu, 0);
	bt_update_key(cpu);
	return next;
}
