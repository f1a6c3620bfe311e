/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the system part (sys*.c) share: instructions that are not
 * translated inline, exceptions, segments, control registers, MSRs and CPUID.
 *
 * A handler gets the instruction and the address after it, and returns the
 * rip to go on at. It raises exceptions before it commits anything to st (but
 * for finished iterations of REP), so that a restart sees the state from before.
 */
#ifndef EYOT_ACCEL_BT_SYS_H
#define EYOT_ACCEL_BT_SYS_H

#include "accel/bt/bt.h"

typedef uint64_t sys_fn(struct bt_cpu *cpu, const struct insn *in, uint64_t next);

/* cpu->delivering: which kind of event, besides its vector */
#define DELIVER_SOFT 0x100	/* INT n, INT3, INTO, INT1 */
#define DELIVER_INTERRUPT 0x200 /* external interrupt or NMI */

#define SEG_TYPE_MASK 0xfu
#define SEG_TYPE_A 1u
#define SEG_TYPE_W 2u /* data: writable */
#define SEG_TYPE_R 2u /* code: readable */
#define SEG_TYPE_E 4u /* data: expands down */
#define SEG_TYPE_C 4u /* code: conforming */
#define SEG_TYPE_CODE 8u

enum {
	DESC_TSS16 = 1,
	DESC_LDT,
	DESC_TSS16_BUSY,
	DESC_CALL16,
	DESC_TASK,
	DESC_INT16,
	DESC_TRAP16,
	DESC_TSS32 = 9,
	DESC_TSS32_BUSY = 11,
	DESC_CALL32,
	DESC_INT32 = 14,
	DESC_TRAP32
};

/* A descriptor as fetched, with where it stands (for accessed and busy bits). */
struct sys_desc {
	uint64_t raw;
	uint64_t la;
};

static inline unsigned desc_type(const struct sys_desc *d)
{
	return d->raw >> 40 & 0xf;
}

static inline bool desc_is_system(const struct sys_desc *d)
{
	return !(d->raw >> 44 & 1);
}

static inline bool desc_is_code(const struct sys_desc *d)
{
	return (d->raw >> 40 & 0x18) == 0x18;
}

static inline bool desc_is_conforming(const struct sys_desc *d)
{
	return (d->raw >> 40 & 0x1c) == 0x1c;
}

static inline bool desc_is_writable_data(const struct sys_desc *d)
{
	return (d->raw >> 40 & 0x1a) == 0x12;
}

static inline unsigned desc_dpl(const struct sys_desc *d)
{
	return d->raw >> 45 & 3;
}

static inline bool desc_present(const struct sys_desc *d)
{
	return d->raw >> 47 & 1;
}

static inline bool desc_l(const struct sys_desc *d)
{
	return d->raw >> 53 & 1;
}

static inline bool desc_db(const struct sys_desc *d)
{
	return d->raw >> 54 & 1;
}

static inline uint32_t desc_base(const struct sys_desc *d)
{
	return (d->raw >> 16 & 0xffffff) | (uint32_t)(d->raw >> 56) << 24;
}

static inline uint32_t desc_limit(const struct sys_desc *d)
{
	uint32_t limit = (d->raw & 0xffff) | (d->raw >> 32 & 0xf0000);

	return d->raw >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

static inline struct vcpu_seg desc_seg(const struct sys_desc *d, uint16_t sel)
{
	return (struct vcpu_seg) {
		.selector = sel,
		.attr = (d->raw >> 40 & 0xff) | (d->raw >> 40 & 0xf000),
		.limit = desc_limit(d),
		.base = desc_base(d),
	};
}

static inline unsigned seg_dpl(const struct vcpu_seg *s)
{
	return s->attr >> SEG_ATTR_DPL_SHIFT & 3;
}

static inline bool sys_canonical(uint64_t la)
{
	return (uint64_t)((int64_t)(la << 16) >> 16) == la;
}

static inline bool sys_real_mode(const struct bt_cpu *cpu)
{
	return !(cpu->st.cr0 & CR0_PE);
}

static inline bool sys_vm86(const struct bt_cpu *cpu)
{
	return cpu->st.rflags & FL_VM;
}

/* Segments are plain numbers: real mode and virtual-8086 mode */
static inline bool sys_real_segments(const struct bt_cpu *cpu)
{
	return sys_real_mode(cpu) || sys_vm86(cpu);
}

static inline uint64_t sys_size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << size * 8) - 1;
}

static inline unsigned sys_iopl(const struct bt_cpu *cpu)
{
	return cpu->st.rflags >> 12 & 3;
}

_Noreturn static inline void sys_ud(struct bt_cpu *cpu)
{
	bt_raise(cpu, VEC_UD);
}

_Noreturn static inline void sys_gp(struct bt_cpu *cpu, uint32_t error);

/* In virtual-8086 mode these instructions trap unless IOPL is 3. */
static inline void sys_check_vm86(struct bt_cpu *cpu)
{
	if (sys_vm86(cpu) && sys_iopl(cpu) < 3)
		sys_gp(cpu, 0);
}

_Noreturn static inline void sys_gp(struct bt_cpu *cpu, uint32_t error)
{
	bt_raise_err(cpu, VEC_GP, error);
}

static inline void sys_need_cpl0(struct bt_cpu *cpu)
{
	if (cpu->cpl)
		sys_gp(cpu, 0);
}

/* UMIP: sgdt, sidt, sldt, smsw and str are for the supervisor */
static inline void sys_need_umip(struct bt_cpu *cpu)
{
	if (cpu->cpl && (cpu->st.cr4 & CR4_UMIP))
		sys_gp(cpu, 0);
}

/* General registers by operand size; 32-bit results clear the upper half. */
static inline uint64_t sys_gpr(const struct bt_cpu *cpu, unsigned reg, unsigned size)
{
	return cpu->st.regs[reg] & sys_size_mask(size);
}

static inline void sys_set_gpr(struct bt_cpu *cpu, unsigned reg, unsigned size, uint64_t val)
{
	uint64_t *r = &cpu->st.regs[reg];

	if (size == 8)
		*r = val;
	else if (size == 4)
		*r = (uint32_t)val;
	else
		*r = (*r & ~sys_size_mask(size)) | (val & sys_size_mask(size));
}

/* The same for a register named by ModRM or the opcode: ah, ch, dh, bh without REX. */
uint64_t sys_reg_get(const struct bt_cpu *cpu, const struct insn *in, unsigned reg, unsigned size);
void sys_reg_set(struct bt_cpu *cpu, const struct insn *in, unsigned reg, unsigned size,
		 uint64_t val);

/** sys_rm_get() - read the register or memory operand named by ModRM */
uint64_t sys_rm_get(struct bt_cpu *cpu, const struct insn *in, unsigned size);
void sys_rm_set(struct bt_cpu *cpu, const struct insn *in, unsigned size, uint64_t val);

/* ---- sys_stack.c ---- */

/* A stack being pushed to or popped from; nothing is committed until sys_stack_commit(). */
struct sys_stack {
	struct vcpu_seg ss;
	uint64_t sp, mask; /* mask: which bits of rsp count */
	uint32_t error;	   /* error code of #SS */
	enum bt_kind kind;
	bool flat; /* 64-bit mode: no segment */
};

void sys_stack_current(struct bt_cpu *cpu, struct sys_stack *s);
void sys_push(struct bt_cpu *cpu, struct sys_stack *s, unsigned size, uint64_t val);
uint64_t sys_pop(struct bt_cpu *cpu, struct sys_stack *s, unsigned size);
/** sys_stack_range() - check [@off, @off+@size) and return its linear address */
uint64_t sys_stack_range(struct bt_cpu *cpu, const struct sys_stack *s, uint64_t off, unsigned size,
			 bool write);
void sys_stack_commit(struct bt_cpu *cpu, const struct sys_stack *s); /* rsp only */

/** sys_near_target() - truncate a near branch target and check it: #GP(0) beyond the limit or not
 * canonical */
uint64_t sys_near_target(struct bt_cpu *cpu, unsigned opsize, uint64_t target);
unsigned sys_branch_size(const struct bt_cpu *cpu, const struct insn *in);

sys_fn sys_push_reg, sys_push_imm, sys_push_rm, sys_pop_reg, sys_pop_rm, sys_push_seg, sys_pop_seg,
    sys_pusha, sys_popa, sys_pushf, sys_popf, sys_enter, sys_leave, sys_call, sys_call_rm, sys_jmp,
    sys_jmp_rm, sys_ret, sys_jcc, sys_loop, sys_jcxz;

/* ---- sys_seg.c ---- */

/**
 * sys_desc_read() - fetch the descriptor of @sel from the GDT or LDT
 * Return: false when it is beyond the table's limit. Null selectors are the caller's business.
 */
bool sys_desc_read(struct bt_cpu *cpu, uint16_t sel, struct sys_desc *d);
/** sys_desc_high() - base bits 63:32 of a system descriptor in long mode; false: beyond the limit
 * or malformed */
bool sys_desc_high(struct bt_cpu *cpu, uint16_t sel, const struct sys_desc *d, uint32_t *ret_high);
void sys_desc_set_accessed(struct bt_cpu *cpu, struct sys_desc *d);

/** sys_load_seg() - load ES, SS, DS, FS or GS as MOV does, with all checks */
void sys_load_seg(struct bt_cpu *cpu, unsigned seg, uint16_t sel);
/** sys_check_data() - the checks of loading a data segment with @cpl; the result is not committed
 */
void sys_check_data(struct bt_cpu *cpu, uint16_t sel, unsigned cpl, unsigned vec_bad,
		    struct vcpu_seg *ret_seg);
/** sys_check_stack_seg() - the checks of loading SS for privilege @cpl; @vec_bad is #TS or #GP */
void sys_check_stack_seg(struct bt_cpu *cpu, uint16_t sel, unsigned cpl, unsigned vec_bad,
			 unsigned ext, struct vcpu_seg *ret_seg);
void sys_null_seg(struct vcpu_seg *s, uint16_t sel, unsigned dpl);
void sys_real_seg(struct vcpu_seg *s, uint16_t sel);
void sys_vm86_seg(struct vcpu_seg *s, uint16_t sel);
/** sys_set_cs() - commit CS from a descriptor and the privilege that goes with it */
void sys_set_cs(struct bt_cpu *cpu, const struct vcpu_seg *cs, unsigned cpl);
void sys_set_flat(struct vcpu_seg *s, uint16_t sel, uint32_t attr);

sys_fn sys_mov_from_seg, sys_mov_to_seg, sys_lseg, sys_sgdt, sys_sidt, sys_lgdt, sys_lidt, sys_sldt,
    sys_str, sys_lldt, sys_ltr, sys_verr, sys_verw, sys_lar, sys_lsl, sys_arpl, sys_swapgs,
    sys_rdfsbase, sys_rdgsbase, sys_wrfsbase, sys_wrgsbase;

/* ---- sys_cr.c ---- */

sys_fn sys_mov_cr, sys_mov_dr, sys_smsw, sys_lmsw, sys_clts, sys_invlpg, sys_invpcid, sys_xgetbv,
    sys_xsetbv;
/* Also for the task switch: #GP checks are the caller's. */

/* ---- sys_debug.c ---- */

/* cpu->no_step: the instruction entered a handler, so TF no longer counts; or it loaded SS, which
 * delays traps */
enum { NO_STEP_HANDLER = 1, NO_STEP_SS = 2 };

_Noreturn void sys_raise_db(struct bt_cpu *cpu, uint64_t dr6_bits);

static inline bool sys_debugging(const struct bt_cpu *cpu)
{
	return (cpu->st.rflags & FL_TF) || (cpu->st.dr7 & 0xff);
}

/* ---- sys_exc.c ---- */

/**
 * sys_deliver() - through the IDT
 * @error: error code, or -1 for none
 * @ext: bit 0 of error codes of faults on the way (0 for software interrupts)
 * @rip: what to push
 */
void sys_deliver(struct bt_cpu *cpu, unsigned vector, bool soft, int64_t error, unsigned ext,
		 uint64_t rip);
sys_fn sys_int, sys_int3, sys_into, sys_int1;

/* TSS: stack of an inner privilege level (protected mode) */
void sys_tss_stack(struct bt_cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ret_ss,
		   uint32_t *ret_esp);
uint64_t sys_tss_stack64(struct bt_cpu *cpu, unsigned slot_offset, unsigned ext);

/* ---- sys_far.c, sys_ret.c, sys_fast.c ---- */

sys_fn sys_jmp_far, sys_call_far, sys_jmp_far_mem, sys_call_far_mem, sys_ret_far, sys_iret;
sys_fn sys_syscall, sys_sysret, sys_sysenter, sys_sysexit;

/* ---- sys_task.c ---- */

enum sys_task_how { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INT };
/**
 * sys_task_switch() - hardware task switch to TSS @sel
 * @error: error code to push on the new stack, or -1
 * Return: the new rip (also committed).
 */
uint64_t sys_task_switch(struct bt_cpu *cpu, uint16_t sel, enum sys_task_how how, int64_t error,
			 unsigned ext, uint64_t next_rip);

/* ---- sys_gpr.c: plain instructions, where the translator leaves them to C ---- */

uint32_t sys_flags_sub(uint64_t a, uint64_t b, unsigned size);
uint32_t sys_flags_add(uint64_t a, uint64_t b, unsigned size);
uint32_t sys_flags_szp(uint64_t val, unsigned size);
void sys_set_flags(struct bt_cpu *cpu, uint32_t mask, uint32_t flags);
bool sys_cond(unsigned cc, uint64_t rflags);

sys_fn sys_nop, sys_lea, sys_moffs_load, sys_moffs_store, sys_xlat, sys_div, sys_idiv, sys_mul,
    sys_cbw, sys_cwd, sys_lahf, sys_sahf, sys_salc, sys_clc, sys_stc, sys_cmc, sys_cld, sys_std,
    sys_daa, sys_das, sys_aaa, sys_aas, sys_aam, sys_aad, sys_bound;

/* ---- sys_atomic.c ---- */

sys_fn sys_xchg, sys_cmpxchg, sys_cmpxchg8b, sys_xadd, sys_bittest;

/* ---- sys_string.c ---- */

sys_fn sys_movs, sys_stos, sys_lods, sys_scas, sys_cmps, sys_ins, sys_outs;

/* ---- sys_misc.c ---- */

void sys_io_check(struct bt_cpu *cpu, uint16_t port, unsigned size);
sys_fn sys_in, sys_out, sys_hlt, sys_cli, sys_sti, sys_clac, sys_stac, sys_rdtsc, sys_rdtscp,
    sys_rdpmc, sys_rdpid, sys_cpuid, sys_hypercall, sys_wbinvd, sys_clflush, sys_clzero;

/* ---- sys_msr.c ---- */

sys_fn sys_rdmsr, sys_wrmsr;

/* ---- sys_fpu.c ---- */

/** sys_fpu_image() - park the FPU state and make every component of the image explicit */
uint8_t *sys_fpu_image(struct bt_cpu *cpu);
void sys_fpu_reset(struct bt_cpu *cpu);
sys_fn sys_xsave, sys_xsavec, sys_xrstor, sys_fxsave, sys_fxrstor, sys_fsave, sys_frstor,
    sys_fstenv, sys_fldenv;

/* ---- sys_vec.c ---- */

sys_fn sys_maskmov, sys_vmaskmov, sys_gather;

/* ---- sys_cpuid.c ---- */

bool sys_host_amd(void);
bool sys_guest_has(enum insn_feature feature);
uint32_t sys_mxcsr_mask(void);
uint32_t sys_xcr0_max(void);  /* what XCR0 may be at most: 7, or 3 without AVX */
uint32_t sys_signature(void); /* CPUID.1:EAX */

#endif
