/* SPDX-License-Identifier: Apache-2.0 */
/* Far returns and IRET, to the same and to outer privilege levels (Intel SDM volume 2, RET and
 * IRET). */
#include "accel/bt/sys.h"

/* What a return pops. */
struct ret_frame {
	uint64_t rip, rflags, rsp;
	uint16_t cs, ss;
	bool has_ss;
};

/* Returning outwards must not leave segments behind that the outer level may not use. */
static void drop_segments(struct bt_cpu *cpu, unsigned cpl)
{
	static const uint8_t regs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < 4; i++) {
		struct vcpu_seg *s = &cpu->st.segs[regs[i]];
		bool conforming =
		    (s->attr & (SEG_TYPE_CODE | SEG_TYPE_C)) == (SEG_TYPE_CODE | SEG_TYPE_C);

		/* the base stays: in 64-bit mode an MSR write made it */
		if (!(s->attr & SEG_ATTR_UNUSABLE) && seg_dpl(s) < cpl && !conforming) {
			s->selector = 0;
			s->attr = SEG_ATTR_UNUSABLE;
			s->limit = 0;
		}
	}
}

static void check_cs(struct bt_cpu *cpu, uint16_t sel, struct sys_desc *d)
{
	uint32_t error = sel & 0xfffc;

	if (!error)
		sys_gp(cpu, 0);
	if (!sys_desc_read(cpu, sel, d) || !desc_is_code(d) || (sel & 3) < cpu->cpl ||
	    (desc_is_conforming(d) ? desc_dpl(d) > (sel & 3) : desc_dpl(d) != (sel & 3)) ||
	    (bt_long_mode(cpu) && desc_l(d) && desc_db(d)))
		sys_gp(cpu, error);
	if (!desc_present(d))
		bt_raise_err(cpu, VEC_NP, error);
}

/* The stack segment of the level returned to. */
static void check_ss(struct bt_cpu *cpu, const struct ret_frame *f, bool to_64,
		     struct vcpu_seg *ret_seg)
{
	unsigned cpl = f->cs & 3;

	if (!(f->ss & 0xfffc)) {
		if (!to_64 || cpl == 3 || (f->ss & 3) != cpl)
			sys_gp(cpu, 0);
		sys_null_seg(ret_seg, f->ss, cpl);
		return;
	}
	sys_check_stack_seg(cpu, f->ss, cpl, VEC_GP, 0, ret_seg);
}

/* Common end of far return and IRET: checks, then everything is committed. @s: the stack after the
 * pops. */
static uint64_t return_to(struct bt_cpu *cpu, const struct ret_frame *f, struct sys_stack *s,
			  unsigned release)
{
	unsigned cpl = f->cs & 3, old_cpl = cpu->cpl;
	struct vcpu_seg cs, ss = cpu->st.segs[SEG_SS];
	struct sys_desc d;
	bool to_64;

	check_cs(cpu, f->cs, &d);
	to_64 = bt_long_mode(cpu) && desc_l(&d);
	if (f->has_ss)
		check_ss(cpu, f, to_64, &ss);
	if (to_64 ? !sys_canonical(f->rip) : f->rip > desc_limit(&d))
		sys_gp(cpu, 0);
	sys_desc_set_accessed(cpu, &d);

	cs = desc_seg(&d, f->cs);
	sys_set_cs(cpu, &cs, cpl);
	if (f->has_ss) {
		uint64_t mask = to_64 ? ~0ull : ss.attr & SEG_ATTR_DB ? 0xffffffff : 0xffff;
		uint64_t rsp = f->rsp + release;

		cpu->st.segs[SEG_SS] = ss;
		if (mask == 0xffff)
			cpu->st.regs[REG_RSP] = (cpu->st.regs[REG_RSP] & ~mask) | (rsp & mask);
		else
			cpu->st.regs[REG_RSP] = rsp & mask;
	} else {
		s->sp = (s->sp & ~s->mask) | ((s->sp + release) & s->mask);
		sys_stack_commit(cpu, s);
	}
	if (cpl > old_cpl)
		drop_segments(cpu, cpl);
	return f->rip;
}

uint64_t sys_ret_far(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize, release = (uint16_t)in->imm;
	struct ret_frame f = { 0 };
	struct sys_stack s;
	uint64_t rip;

	sys_stack_current(cpu, &s);
	f.rip = sys_pop(cpu, &s, size);
	f.cs = sys_pop(cpu, &s, size);
	if (sys_real_segments(cpu)) {
		if (f.rip > cpu->st.segs[SEG_CS].limit)
			sys_gp(cpu, 0);
		s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask);
		sys_stack_commit(cpu, &s);
		sys_real_seg(&cpu->st.segs[SEG_CS], f.cs);
		bt_update_key(cpu);
		return f.rip;
	}
	if ((f.cs & 3) > cpu->cpl) {
		s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask);
		f.rsp = sys_pop(cpu, &s, size);
		f.ss = sys_pop(cpu, &s, size);
		f.has_ss = true;
	}
	rip = return_to(cpu, &f, &s, release);
	bt_update_key(cpu);
	return rip;
}

/* EFLAGS of an IRET by the privilege it ran at. */
static void set_flags(struct bt_cpu *cpu, uint64_t val, unsigned size, unsigned old_cpl,
		      unsigned iopl)
{
	uint64_t change = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID | FL_RF;
	uint64_t old = cpu->st.rflags;

	if (old_cpl <= iopl)
		change |= FL_IF;
	if (old_cpl == 0)
		change |= FL_IOPL | FL_VIF | FL_VIP;
	if (size == 2)
		change &= 0xffff;
	/* RF only matters while breakpoints are armed; nobody would clear it otherwise. */
	if (!(cpu->key & KEY_ONE) && !(cpu->st.dr7 & 0xff))
		val &= ~(uint64_t)FL_RF;
	cpu->st.rflags = (old & ~change) | (val & change) | FL_FIXED;
	cpu->nmi_masked = false;
	bt_update_key(cpu);
}

static uint64_t iret_real(struct bt_cpu *cpu, unsigned size)
{
	struct sys_stack s;
	uint64_t rip, flags;
	uint16_t cs;

	sys_stack_current(cpu, &s);
	rip = sys_pop(cpu, &s, size);
	cs = sys_pop(cpu, &s, size);
	flags = sys_pop(cpu, &s, size);
	if (rip > cpu->st.segs[SEG_CS].limit)
		sys_gp(cpu, 0);
	sys_stack_commit(cpu, &s);
	sys_real_seg(&cpu->st.segs[SEG_CS], cs);
	/* VM, VIF and VIP stay as they are */
	cpu->st.rflags &= ~(uint64_t)FL_RF;
	set_flags(cpu,
		  (flags & ~(uint64_t)(FL_VIF | FL_VIP)) | (cpu->st.rflags & (FL_VIF | FL_VIP)),
		  size, 0, 0);
	return rip;
}

/* From the supervisor into virtual-8086 mode: eip, cs and eflags are popped already. */
static uint64_t iret_to_vm86(struct bt_cpu *cpu, const struct ret_frame *f, struct sys_stack *s)
{
	static const uint8_t data[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint32_t esp = sys_pop(cpu, s, 4);
	uint16_t sels[5];

	for (unsigned i = 0; i < 5; i++)
		sels[i] = sys_pop(cpu, s, 4);
	cpu->st.regs[REG_RSP] = esp;
	sys_vm86_seg(&cpu->st.segs[SEG_CS], f->cs);
	for (unsigned i = 0; i < 5; i++)
		sys_vm86_seg(&cpu->st.segs[data[i]], sels[i]);
	cpu->cpl = 3;
	cpu->st.rflags |= FL_VM;
	set_flags(cpu, f->rflags, 4, 0, 0);
	return f->rip & 0xffff;
}

/* Within it: like real mode, but IOPL stays. */
static uint64_t iret_in_vm86(struct bt_cpu *cpu, unsigned size)
{
	struct sys_stack s;
	uint64_t rip, flags;
	uint16_t cs;

	sys_check_vm86(cpu);
	sys_stack_current(cpu, &s);
	rip = sys_pop(cpu, &s, size);
	cs = sys_pop(cpu, &s, size);
	flags = sys_pop(cpu, &s, size);
	if (rip > cpu->st.segs[SEG_CS].limit)
		sys_gp(cpu, 0);
	sys_stack_commit(cpu, &s);
	sys_vm86_seg(&cpu->st.segs[SEG_CS], cs);
	set_flags(cpu, flags, size, 3, 3);
	return rip;
}

uint64_t sys_iret(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned size = in->opsize, old_cpl = cpu->cpl, iopl = sys_iopl(cpu);
	struct ret_frame f = { 0 };
	struct sys_stack s;
	uint64_t rip;

	if (sys_real_mode(cpu))
		return iret_real(cpu, size);
	if (sys_vm86(cpu))
		return iret_in_vm86(cpu, size);
	if (cpu->st.rflags & FL_NT) {
		uint16_t back;

		if (bt_long_mode(cpu))
			sys_gp(cpu, 0);
		back = bt_ld(cpu, (uint32_t)cpu->st.segs[SEG_TR].base, 2, BT_SUPER);
		rip = sys_task_switch(cpu, back, TASK_IRET, -1, 0, next);
		cpu->nmi_masked = false;
		return rip;
	}
	sys_stack_current(cpu, &s);
	if (s.flat && size == 8) {
		uint64_t frame[5];

		sys_stack_range(cpu, &s, s.sp, sizeof(frame), false);
		bt_ld_bytes(cpu, s.sp, frame, sizeof(frame), BT_CPL);
		f = (struct ret_frame) { .rip = frame[0],
					 .cs = frame[1],
					 .rflags = frame[2],
					 .rsp = frame[3],
					 .ss = frame[4],
					 .has_ss = true };
	} else {
		f.rip = sys_pop(cpu, &s, size);
		f.cs = sys_pop(cpu, &s, size);
		f.rflags = sys_pop(cpu, &s, size);
		if (!bt_long_mode(cpu) && old_cpl == 0 && size == 4 && (f.rflags & FL_VM))
			return iret_to_vm86(cpu, &f, &s);
		if (s.flat || (f.cs & 3) > cpu->cpl) {
			f.rsp = sys_pop(cpu, &s, size);
			f.ss = sys_pop(cpu, &s, size);
			f.has_ss = true;
		}
	}
	rip = return_to(cpu, &f, &s, 0);
	set_flags(cpu, f.rflags, size, old_cpl, iopl);
	return rip;
}
