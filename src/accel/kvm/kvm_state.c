/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's state to and from the kernel, in the order that it needs.
 *
 * Reading: the run state first, because that makes the kernel act on pending
 * INIT and start-up messages; then events, which may settle CR2 and DR6.
 * Writing: system registers (modes) before general registers (which clear
 * events), XCR0 before the state it enables, MSRs before events and the run
 * state; the TSC deadline after the TSC.
 *
 * Extended state has one layout in struct vcpu_state, that of Intel's processors;
 * the kernel uses the host's, which is another one on AMD.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/kvm.h"
#include "base/util.h"

#define MSR_TSC_DEADLINE 0x6e0

static const struct {
	uint32_t msr, offset;
} msrs[] = {
#define M(number, member)                                                                          \
	{                                                                                          \
		number, offsetof(struct vcpu_state, member)                                        \
	}
	M(0xc0000081, msr_star),
	M(0xc0000082, msr_lstar),
	M(0xc0000083, msr_cstar),
	M(0xc0000084, msr_sfmask),
	M(0xc0000102, msr_kernel_gs_base),
	M(0xc0000103, msr_tsc_aux),
	M(0x174, msr_sysenter_cs),
	M(0x175, msr_sysenter_esp),
	M(0x176, msr_sysenter_eip),
	M(0x277, msr_pat),
	M(0x1a0, msr_misc_enable),
	M(0x48, msr_spec_ctrl),
	M(0x3b, msr_tsc_adjust),
	M(0x1d9, msr_debugctl),
	M(0x4b564d00, msr_kvm_wall_clock),
	M(0x4b564d01, msr_kvm_system_time),
	M(0x4b564d03, msr_kvm_steal_time),
	M(0x4b564d04, msr_kvm_pv_eoi),
	M(0x4b564d05, msr_kvm_poll_control),
	M(0x250, msr_mtrr_fixed[0]),
	M(0x258, msr_mtrr_fixed[1]),
	M(0x259, msr_mtrr_fixed[2]),
	M(0x268, msr_mtrr_fixed[3]),
	M(0x269, msr_mtrr_fixed[4]),
	M(0x26a, msr_mtrr_fixed[5]),
	M(0x26b, msr_mtrr_fixed[6]),
	M(0x26c, msr_mtrr_fixed[7]),
	M(0x26d, msr_mtrr_fixed[8]),
	M(0x26e, msr_mtrr_fixed[9]),
	M(0x26f, msr_mtrr_fixed[10]),
	M(0x200, msr_mtrr_var[0]),
	M(0x201, msr_mtrr_var[1]),
	M(0x202, msr_mtrr_var[2]),
	M(0x203, msr_mtrr_var[3]),
	M(0x204, msr_mtrr_var[4]),
	M(0x205, msr_mtrr_var[5]),
	M(0x206, msr_mtrr_var[6]),
	M(0x207, msr_mtrr_var[7]),
	M(0x208, msr_mtrr_var[8]),
	M(0x209, msr_mtrr_var[9]),
	M(0x20a, msr_mtrr_var[10]),
	M(0x20b, msr_mtrr_var[11]),
	M(0x20c, msr_mtrr_var[12]),
	M(0x20d, msr_mtrr_var[13]),
	M(0x20e, msr_mtrr_var[14]),
	M(0x20f, msr_mtrr_var[15]),
	M(0x2ff, msr_mtrr_def),
	M(0x10, tsc),
#undef M
};

#define MSR_TSC 0x10

_Static_assert(ARRAY_SIZE(msrs) <= KVM_MSRS_MAX, "room for each MSR and one more");

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[KVM_MSRS_MAX];
};

static uint64_t *member(struct vcpu_state *st, unsigned i)
{
	return (uint64_t *)((char *)st + msrs[i].offset);
}

int kvm_get_msr(struct kvm_vcpu *cpu, uint32_t msr, uint64_t *ret_val, struct err *err)
{
	struct msr_list list = { .head.nmsrs = 1 };
	int ret;

	list.entries[0].index = msr;
	/* sandbox: loop: ioctl(*, each KVM_CALL) */
	ret = KVM_CALL(cpu->fd, KVM_GET_MSRS, &list, err);
	if (ret < 0)
		return ret;
	if (ret != 1)
		return err_set(err, EINVAL, "KVM_GET_MSRS: MSR %#x cannot be read", msr);
	*ret_val = list.entries[0].data;
	return 0;
}

int kvm_set_msr(struct kvm_vcpu *cpu, uint32_t msr, uint64_t val, struct err *err)
{
	struct msr_list list = { .head.nmsrs = 1 };
	int ret;

	list.entries[0] = (struct kvm_msr_entry) { .index = msr, .data = val };
	ret = KVM_CALL(cpu->fd, KVM_SET_MSRS, &list, err);
	if (ret < 0)
		return ret;
	if (ret != 1)
		return err_set(err, EINVAL, "KVM_SET_MSRS: MSR %#x cannot be %#llx", msr,
			       (unsigned long long)val);
	return 0;
}

static int get_msrs(struct kvm_vcpu *cpu, struct vcpu_state *st, struct err *err)
{
	struct kvm_vm *vm = cpu->vm;
	struct msr_list list = { .head.nmsrs = vm->msr_count };
	int ret;

	for (unsigned i = 0; i < vm->msr_count; i++)
		list.entries[i].index = msrs[vm->msrs[i]].msr;
	ret = KVM_CALL(cpu->fd, KVM_GET_MSRS, &list, err);
	if (ret < 0)
		return ret;
	if (ret != (int)vm->msr_count)
		return err_set(err, EINVAL, "KVM_GET_MSRS: MSR %#x cannot be read",
			       list.entries[ret].index);
	for (unsigned i = 0; i < vm->msr_count; i++)
		*member(st, vm->msrs[i]) = list.entries[i].data;
	return 0;
}

static bool has_msr(const struct kvm_vm *vm, unsigned i)
{
	for (unsigned k = 0; k < vm->msr_count; k++)
		if (vm->msrs[k] == i)
			return true;
	return false;
}

/* Only what changes: some MSRs of the host's abilities can be zero and not be set to it. */
static int set_msrs(struct kvm_vcpu *cpu, const struct vcpu_state *st, struct err *err)
{
	struct msr_list list = { 0 };
	struct vcpu_state now = { 0 };
	int ret = get_msrs(cpu, &now, err);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		uint64_t want = *member((struct vcpu_state *)st, i);

		if (want == *member(&now, i) || (msrs[i].msr == MSR_TSC && !want))
			continue;
		if (!has_msr(cpu->vm, i))
			return err_set(err, EOPNOTSUPP, "MSR %#x is %#llx; this host has none",
				       msrs[i].msr, (unsigned long long)want);
		list.entries[list.head.nmsrs++] =
		    (struct kvm_msr_entry) { .index = msrs[i].msr, .data = want };
	}
	if (cpu->tsc_deadline)
		list.entries[list.head.nmsrs++] =
		    (struct kvm_msr_entry) { .index = MSR_TSC_DEADLINE, .data = cpu->tsc_deadline };
	cpu->tsc_deadline = 0;
	if (!list.head.nmsrs)
		return 0;
	ret = KVM_CALL(cpu->fd, KVM_SET_MSRS, &list, err);
	if (ret >= 0 && ret != (int)list.head.nmsrs)
		return err_set(err, EINVAL, "KVM_SET_MSRS: MSR %#x cannot be %#llx",
			       list.entries[ret].index, (unsigned long long)list.entries[ret].data);
	return ret < 0 ? ret : 0;
}

/* ---- registers ---- */

static void get_seg(struct vcpu_seg *to, const struct kvm_segment *from)
{
	*to = (struct vcpu_seg) {
		.selector = from->selector,
		.base = from->base,
		.limit = from->limit,
		.attr = (uint32_t)from->type | (uint32_t)from->s << 4 |
			(uint32_t)from->dpl << SEG_ATTR_DPL_SHIFT | (uint32_t)from->present << 7 |
			(uint32_t)from->avl << 12 | (uint32_t)from->l << 13 |
			(uint32_t)from->db << 14 | (uint32_t)from->g << 15 |
			(uint32_t)from->unusable << 16,
	};
}

static void put_seg(struct kvm_segment *to, const struct vcpu_seg *from)
{
	*to = (struct kvm_segment) {
		.selector = from->selector,
		.base = from->base,
		.limit = from->limit,
		.type = from->attr & 0xf,
		.s = from->attr >> 4 & 1,
		.dpl = from->attr >> SEG_ATTR_DPL_SHIFT & 3,
		.present = from->attr >> 7 & 1,
		.avl = from->attr >> 12 & 1,
		.l = from->attr >> 13 & 1,
		.db = from->attr >> 14 & 1,
		.g = from->attr >> 15 & 1,
		.unusable = from->attr >> 16 & 1,
	};
}

static void get_sregs(struct vcpu_state *st, const struct kvm_sregs *s)
{
	get_seg(&st->segs[SEG_ES], &s->es);
	get_seg(&st->segs[SEG_CS], &s->cs);
	get_seg(&st->segs[SEG_SS], &s->ss);
	get_seg(&st->segs[SEG_DS], &s->ds);
	get_seg(&st->segs[SEG_FS], &s->fs);
	get_seg(&st->segs[SEG_GS], &s->gs);
	get_seg(&st->segs[SEG_LDT], &s->ldt);
	get_seg(&st->segs[SEG_TR], &s->tr);
	st->gdt = (struct vcpu_dtable) { s->gdt.base, s->gdt.limit };
	st->idt = (struct vcpu_dtable) { s->idt.base, s->idt.limit };
	st->cr0 = s->cr0;
	st->cr2 = s->cr2;
	st->cr3 = s->cr3;
	st->cr4 = s->cr4;
	st->cr8 = s->cr8;
	st->efer = s->efer;
	st->msr_apic_base = s->apic_base;
}

/* The APIC's base and a pending interrupt stay: they come with the local APIC and the events. */
static void put_sregs(struct kvm_sregs *s, const struct vcpu_state *st)
{
	put_seg(&s->es, &st->segs[SEG_ES]);
	put_seg(&s->cs, &st->segs[SEG_CS]);
	put_seg(&s->ss, &st->segs[SEG_SS]);
	put_seg(&s->ds, &st->segs[SEG_DS]);
	put_seg(&s->fs, &st->segs[SEG_FS]);
	put_seg(&s->gs, &st->segs[SEG_GS]);
	put_seg(&s->ldt, &st->segs[SEG_LDT]);
	put_seg(&s->tr, &st->segs[SEG_TR]);
	s->gdt = (struct kvm_dtable) { .base = st->gdt.base, .limit = st->gdt.limit };
	s->idt = (struct kvm_dtable) { .base = st->idt.base, .limit = st->idt.limit };
	s->cr0 = st->cr0;
	s->cr2 = st->cr2;
	s->cr3 = st->cr3;
	s->cr4 = st->cr4;
	s->cr8 = st->cr8;
	s->efer = st->efer;
}

static void get_regs(struct vcpu_state *st, const struct kvm_regs *r)
{
	const uint64_t regs[16] = {
		r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8,	r->r9,	r->r10, r->r11, r->r12, r->r13, r->r14, r->r15
	};

	memcpy(st->regs, regs, sizeof(regs));
	st->rip = r->rip;
	st->rflags = r->rflags;
}

static void put_regs(struct kvm_regs *r, const struct vcpu_state *st)
{
	const uint64_t *g = st->regs;

	*r = (struct kvm_regs) { .rax = g[REG_RAX],
				 .rcx = g[REG_RCX],
				 .rdx = g[REG_RDX],
				 .rbx = g[REG_RBX],
				 .rsp = g[REG_RSP],
				 .rbp = g[REG_RBP],
				 .rsi = g[REG_RSI],
				 .rdi = g[REG_RDI],
				 .r8 = g[REG_R8],
				 .r9 = g[REG_R9],
				 .r10 = g[REG_R10],
				 .r11 = g[REG_R11],
				 .r12 = g[REG_R12],
				 .r13 = g[REG_R13],
				 .r14 = g[REG_R14],
				 .r15 = g[REG_R15],
				 .rip = st->rip,
				 .rflags = st->rflags };
}

/* ---- extended state ---- */

#define XSTATE_BV 512 /* in the header */
#define XSTATE_KEYS (1ull << 9)

/*
 * The kernel always has protection keys among what is in use. Zero is their initial value, so
 * then they need not be carried, which other accelerators might be unable to.
 */
static void drop_unused_keys(struct vcpu_state *st)
{
	const uint8_t *keys = st->xsave + vcpu_xstate_parts[VCPU_XSTATE_PARTS - 1].offset;

	if (!get_le32(keys))
		put_le64(st->xsave + XSTATE_BV, get_le64(st->xsave + XSTATE_BV) & ~XSTATE_KEYS);
}

static int get_xsave(struct kvm_vcpu *cpu, struct vcpu_state *st, struct err *err)
{
	struct kvm_xsave area = { 0 };
	struct kvm_xcrs xcrs = { 0 };
	const uint8_t *from = (const uint8_t *)area.region;
	int ret = KVM_CALL(cpu->fd, KVM_GET_XSAVE, &area, err);

	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_XCRS, &xcrs, err);
	if (ret < 0)
		return ret;
	st->xcr0 = xcrs.nr_xcrs && !xcrs.xcrs[0].xcr ? xcrs.xcrs[0].value : 1;
	memcpy(st->xsave, from, XSTATE_BV);
	put_le64(st->xsave + XSTATE_BV, get_le64(from + XSTATE_BV) & cpu->vm->xcr0_max);
	for (unsigned i = 0; i < VCPU_XSTATE_PARTS; i++) {
		const struct vcpu_xstate_part *p = &vcpu_xstate_parts[i];
		unsigned off = cpu->vm->xstate_offset[p->bit];

		if (off && off + p->size <= sizeof(area.region))
			memcpy(st->xsave + p->offset, from + off, p->size);
	}
	drop_unused_keys(st);
	return 0;
}

static int set_xsave(struct kvm_vcpu *cpu, const struct vcpu_state *st, struct err *err)
{
	struct kvm_xsave area = { 0 };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = st->xcr0 };
	uint8_t *to = (uint8_t *)area.region;
	uint64_t used = get_le64(st->xsave + XSTATE_BV) | st->xcr0;
	int ret;

	if (used & ~cpu->vm->xcr0_max)
		return err_set(err, EOPNOTSUPP,
			       "extended state %#llx (as in XCR0) is not on this host",
			       (unsigned long long)(used & ~cpu->vm->xcr0_max));
	ret = KVM_CALL(cpu->fd, KVM_SET_XCRS, &xcrs, err);
	if (ret < 0)
		return ret;
	memcpy(to, st->xsave, XSTATE_BV + 8);
	for (unsigned i = 0; i < VCPU_XSTATE_PARTS; i++) {
		const struct vcpu_xstate_part *p = &vcpu_xstate_parts[i];
		unsigned off = cpu->vm->xstate_offset[p->bit];

		if (off && off + p->size <= sizeof(area.region))
			memcpy(to + off, st->xsave + p->offset, p->size);
	}
	return KVM_CALL(cpu->fd, KVM_SET_XSAVE, &area, err);
}

static int get_debug(struct kvm_vcpu *cpu, struct vcpu_state *st, struct err *err)
{
	struct kvm_debugregs d = { 0 };
	int ret = KVM_CALL(cpu->fd, KVM_GET_DEBUGREGS, &d, err);

	for (unsigned i = 0; i < 4; i++)
		st->dr[i] = d.db[i];
	st->dr6 = d.dr6;
	st->dr7 = d.dr7;
	return ret;
}

static int set_debug(struct kvm_vcpu *cpu, const struct vcpu_state *st, struct err *err)
{
	struct kvm_debugregs d = { .dr6 = st->dr6, .dr7 = st->dr7 };

	for (unsigned i = 0; i < 4; i++)
		d.db[i] = st->dr[i];
	return KVM_CALL(cpu->fd, KVM_SET_DEBUGREGS, &d, err);
}

/* ---- events ---- */

#define VECTOR_BP 3
#define VECTOR_OF 4

/*
 * What instructions raise on purpose (INT n, INT3, INTO) is dropped: rip is still at the
 * instruction, which then does it again.
 */
static void get_events(struct vcpu_state *st, const struct kvm_vcpu_events *e)
{
	bool soft = e->exception.nr == VECTOR_BP || e->exception.nr == VECTOR_OF;

	st->exception_pending = (e->exception.injected || e->exception.pending) && !soft;
	if (st->exception_pending) {
		st->exception_vector = e->exception.nr;
		st->exception_has_error = !!e->exception.has_error_code;
		st->exception_error = e->exception.has_error_code ? e->exception.error_code : 0;
	}
	st->interrupt_pending = e->interrupt.injected && !e->interrupt.soft;
	st->interrupt_vector = st->interrupt_pending ? e->interrupt.nr : 0;
	st->interrupt_shadow = !!e->interrupt.shadow;
	st->nmi_pending = e->nmi.pending || e->nmi.injected;
	st->nmi_masked = e->nmi.masked && !e->nmi.injected;
}

static int set_events(struct kvm_vcpu *cpu, const struct vcpu_state *st, struct err *err)
{
	struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING |
					      KVM_VCPUEVENT_VALID_SHADOW };

	e.exception.injected = st->exception_pending;
	e.exception.nr = st->exception_vector;
	e.exception.has_error_code = st->exception_has_error;
	e.exception.error_code = st->exception_error;
	e.interrupt.injected = st->interrupt_pending;
	e.interrupt.nr = st->interrupt_vector;
	/* Interrupts that are off cannot be held back by STI: processors refuse to be entered so.
	 */
	if (st->interrupt_shadow)
		e.interrupt.shadow =
		    st->rflags & 0x200 ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
	e.nmi.pending = (uint8_t)(st->nmi_pending + cpu->extra_nmis);
	e.nmi.masked = st->nmi_masked;
	cpu->extra_nmis = 0;
	return KVM_CALL(cpu->fd, KVM_SET_VCPU_EVENTS, &e, err);
}

/* ---- the whole ---- */

int kvm_get_state(struct accel_vcpu *v, struct vcpu_state *st, struct err *err)
{
	struct kvm_vcpu *cpu = (struct kvm_vcpu *)v;
	struct kvm_mp_state mp = { 0 };
	struct kvm_vcpu_events events = { 0 };
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };
	int ret = KVM_CALL(cpu->fd, KVM_GET_MP_STATE, &mp, err);

	memset(st, 0, sizeof(*st));
	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_VCPU_EVENTS, &events, err);
	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_REGS, &regs, err);
	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_SREGS, &sregs, err);
	if (ret == 0)
		ret = get_xsave(cpu, st, err);
	if (ret == 0)
		ret = get_debug(cpu, st, err);
	if (ret == 0)
		ret = get_msrs(cpu, st, err);
	if (ret < 0)
		return ret;
	get_regs(st, &regs);
	get_sregs(st, &sregs);
	get_events(st, &events);
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		st->run_state = VCPU_WAIT_SIPI;
		break;
	case KVM_MP_STATE_HALTED:
		st->run_state = VCPU_HALTED;
		break;
	default:
		st->run_state = VCPU_RUNNING;
		break;
	}
	return 0;
}

static int set_run_state(struct kvm_vcpu *cpu, uint32_t run_state, struct err *err)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (run_state == VCPU_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	else if (run_state == VCPU_WAIT_SIPI)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return KVM_CALL(cpu->fd, KVM_SET_MP_STATE, &mp, err);
}

int kvm_set_state(struct accel_vcpu *v, const struct vcpu_state *st, struct err *err)
{
	struct kvm_vcpu *cpu = (struct kvm_vcpu *)v;
	struct kvm_sregs sregs = { 0 };
	struct kvm_regs regs;
	int ret;

	if (st->cr8 > 15)
		return err_set(err, EINVAL, "cr8 %#llx is out of range",
			       (unsigned long long)st->cr8);
	ret = KVM_CALL(cpu->fd, KVM_GET_SREGS, &sregs, err);
	if (ret < 0)
		return ret;
	put_sregs(&sregs, st);
	put_regs(&regs, st);
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	ret = KVM_CALL(cpu->fd, KVM_SET_SREGS, &sregs, err);
	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_SET_REGS, &regs, err);
	if (ret == 0)
		ret = set_xsave(cpu, st, err);
	if (ret == 0)
		ret = set_debug(cpu, st, err);
	if (ret == 0)
		ret = set_msrs(cpu, st, err);
	if (ret == 0)
		ret = set_events(cpu, st, err);
	if (ret == 0)
		ret = set_run_state(cpu, st->run_state, err);
	return ret;
}

/* Which MSRs this kernel has: by trying, as its lists leave some out. */
static void find_msrs(struct kvm_vcpu *cpu)
{
	struct kvm_vm *vm = cpu->vm;
	uint64_t val;

	vm->msr_count = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		if (kvm_get_msr(cpu, msrs[i].msr, &val, NULL) == 0)
			vm->msrs[vm->msr_count++] = (uint8_t)i;
}

int kvm_state_init(struct kvm_vcpu *cpu, struct err *err)
{
	if (cpu->vm->power_on)
		return 0;
	cpu->vm->power_on = calloc(1, sizeof(*cpu->vm->power_on));
	if (!cpu->vm->power_on)
		return err_set(err, ENOMEM, "out of memory");
	find_msrs(cpu);
	return kvm_get_state((struct accel_vcpu *)cpu, cpu->vm->power_on, err);
}
