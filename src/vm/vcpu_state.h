/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of one virtual CPU, the same on every accelerator: what is saved,
 * restored and handed over between accelerators.
 */
#ifndef EYOT_VM_VCPU_STATE_H
#define EYOT_VM_VCPU_STATE_H

#include <stdint.h>

enum {
	REG_RAX,
	REG_RCX,
	REG_RDX,
	REG_RBX,
	REG_RSP,
	REG_RBP,
	REG_RSI,
	REG_RDI,
	REG_R8,
	REG_R9,
	REG_R10,
	REG_R11,
	REG_R12,
	REG_R13,
	REG_R14,
	REG_R15
};

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDT, SEG_TR, SEG_COUNT };

/* Attributes as in VMX access rights: bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G,
 * 16 unusable. */
#define SEG_ATTR_S (1u << 4)
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P (1u << 7)
#define SEG_ATTR_L (1u << 13)
#define SEG_ATTR_DB (1u << 14)
#define SEG_ATTR_G (1u << 15)
#define SEG_ATTR_UNUSABLE (1u << 16)

struct vcpu_seg {
	uint16_t selector;
	uint32_t attr;
	uint32_t limit; /* in bytes, expanded by G */
	uint64_t base;
};

struct vcpu_dtable {
	uint64_t base;
	uint16_t limit;
};

/*
 * Extended state in the standard format with the offsets of Intel's processors, whatever the
 * host's: legacy 512, header 64, then the parts of vcpu_xstate_parts.
 */
#define VCPU_XSAVE_SIZE 2752
#define VCPU_XSTATE_PARTS 5

struct vcpu_xstate_part {
	uint16_t bit;	       /* in XCR0 */
	uint16_t offset, size; /* bytes */
};

/* AVX; of AVX-512 the masks, upper halves and upper registers; protection keys */
extern const struct vcpu_xstate_part vcpu_xstate_parts[VCPU_XSTATE_PARTS];

enum vcpu_run_state { VCPU_RUNNING, VCPU_HALTED, VCPU_WAIT_SIPI };

struct vcpu_state {
	uint64_t regs[16]; /* REG_* */
	uint64_t rip, rflags;
	struct vcpu_seg segs[SEG_COUNT];
	struct vcpu_dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
	uint64_t dr[4], dr6, dr7;
	uint64_t msr_star, msr_lstar, msr_cstar, msr_sfmask, msr_kernel_gs_base;
	uint64_t msr_sysenter_cs, msr_sysenter_esp, msr_sysenter_eip;
	uint64_t msr_pat, msr_tsc_aux, msr_apic_base, msr_misc_enable, msr_spec_ctrl;
	uint64_t msr_mtrr_def, msr_mtrr_fixed[11], msr_mtrr_var[16];
	uint64_t msr_tsc_adjust, msr_debugctl;
	uint64_t msr_kvm_wall_clock, msr_kvm_system_time, msr_kvm_poll_control;
	uint64_t msr_kvm_steal_time, msr_kvm_pv_eoi;
	uint64_t tsc; /* value of the counter at the moment of saving; 0 to vcpu_set_state(): leave
			 it running */
	uint32_t run_state; /* enum vcpu_run_state */
	uint8_t nmi_masked, nmi_pending, interrupt_shadow;
	uint8_t exception_pending, exception_vector, exception_has_error;
	uint32_t exception_error;
	/* An interrupt that the local APIC or 8259 counts as taken and the CPU has yet to deliver
	 */
	uint8_t interrupt_pending, interrupt_vector;
	uint8_t xsave[VCPU_XSAVE_SIZE] __attribute__((aligned(64)));
};

#endif
