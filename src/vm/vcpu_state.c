/* SPDX-License-Identifier: Apache-2.0 */
/* struct vcpu_state as a saved section. What it means for a CPU is checked by the accelerator. */
#include "vm/vcpu_state.h"

#include "base/util.h"
#include "vm/vm.h"

#define SECTION "vcpu"
#define VERSION 2

const struct vcpu_xstate_part vcpu_xstate_parts[VCPU_XSTATE_PARTS] = {
	{ 2, 576, 256 }, { 5, 1088, 64 }, { 6, 1152, 512 }, { 7, 1664, 1024 }, { 9, 2688, 8 },
};

/* Members of 64 bits, in the order of the section; arrays follow them. */
static const size_t words[] = {
#define W(member) offsetof(struct vcpu_state, member)
	W(rip),
	W(rflags),
	W(cr0),
	W(cr2),
	W(cr3),
	W(cr4),
	W(cr8),
	W(efer),
	W(xcr0),
	W(dr6),
	W(dr7),
	W(msr_star),
	W(msr_lstar),
	W(msr_cstar),
	W(msr_sfmask),
	W(msr_kernel_gs_base),
	W(msr_sysenter_cs),
	W(msr_sysenter_esp),
	W(msr_sysenter_eip),
	W(msr_pat),
	W(msr_tsc_aux),
	W(msr_apic_base),
	W(msr_misc_enable),
	W(msr_spec_ctrl),
	W(msr_mtrr_def),
	W(msr_tsc_adjust),
	W(msr_debugctl),
	W(msr_kvm_wall_clock),
	W(msr_kvm_system_time),
	W(msr_kvm_poll_control),
	W(msr_kvm_steal_time),
	W(msr_kvm_pv_eoi),
	W(tsc),
#undef W
};

static void put_array(struct snap_writer *w, const uint64_t *v, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		snap_put_u64(w, v[i]);
}

static void get_array(struct snap_reader *r, uint64_t *v, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		v[i] = snap_get_u64(r);
}

void vcpu_state_save(const struct vcpu_state *s, struct snap_writer *w)
{
	snap_begin(w, SECTION, VERSION);
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		snap_put_u64(w, *(const uint64_t *)((const char *)s + words[i]));
	put_array(w, s->regs, ARRAY_SIZE(s->regs));
	put_array(w, s->dr, ARRAY_SIZE(s->dr));
	put_array(w, s->msr_mtrr_fixed, ARRAY_SIZE(s->msr_mtrr_fixed));
	put_array(w, s->msr_mtrr_var, ARRAY_SIZE(s->msr_mtrr_var));
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		snap_put_u16(w, s->segs[i].selector);
		snap_put_u32(w, s->segs[i].attr);
		snap_put_u32(w, s->segs[i].limit);
		snap_put_u64(w, s->segs[i].base);
	}
	snap_put_u64(w, s->gdt.base);
	snap_put_u16(w, s->gdt.limit);
	snap_put_u64(w, s->idt.base);
	snap_put_u16(w, s->idt.limit);
	snap_put_u32(w, s->run_state);
	snap_put_u8(w, s->nmi_masked);
	snap_put_u8(w, s->nmi_pending);
	snap_put_u8(w, s->interrupt_shadow);
	snap_put_u8(w, s->exception_pending);
	snap_put_u8(w, s->exception_vector);
	snap_put_u8(w, s->exception_has_error);
	snap_put_u32(w, s->exception_error);
	snap_put_u8(w, s->interrupt_pending);
	snap_put_u8(w, s->interrupt_vector);
	snap_put_bytes(w, s->xsave, sizeof(s->xsave));
	snap_close(w);
}

int vcpu_state_load(struct vcpu_state *s, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret;

	memset(s, 0, sizeof(*s));
	ret = snap_open(r, SECTION, VERSION, &version, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		*(uint64_t *)((char *)s + words[i]) = snap_get_u64(r);
	get_array(r, s->regs, ARRAY_SIZE(s->regs));
	get_array(r, s->dr, ARRAY_SIZE(s->dr));
	get_array(r, s->msr_mtrr_fixed, ARRAY_SIZE(s->msr_mtrr_fixed));
	get_array(r, s->msr_mtrr_var, ARRAY_SIZE(s->msr_mtrr_var));
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		s->segs[i].selector = snap_get_u16(r);
		s->segs[i].attr = snap_get_u32(r);
		s->segs[i].limit = snap_get_u32(r);
		s->segs[i].base = snap_get_u64(r);
	}
	s->gdt.base = snap_get_u64(r);
	s->gdt.limit = snap_get_u16(r);
	s->idt.base = snap_get_u64(r);
	s->idt.limit = snap_get_u16(r);
	s->run_state = snap_get_u32(r);
	s->nmi_masked = snap_get_u8(r);
	s->nmi_pending = snap_get_u8(r);
	s->interrupt_shadow = snap_get_u8(r);
	s->exception_pending = snap_get_u8(r);
	s->exception_vector = snap_get_u8(r);
	s->exception_has_error = snap_get_u8(r);
	s->exception_error = snap_get_u32(r);
	s->interrupt_pending = snap_get_u8(r);
	s->interrupt_vector = snap_get_u8(r);
	snap_get_bytes(r, s->xsave, sizeof(s->xsave));
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (version != VERSION)
		return err_set(err, EBADMSG, "saved state: vCPU state of version %u is too old",
			       version);
	if (s->run_state > VCPU_WAIT_SIPI)
		return err_set(err, EBADMSG, "saved state: vCPU run state %u is unknown",
			       s->run_state);
	return 0;
}
