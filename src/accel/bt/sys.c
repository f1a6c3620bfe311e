/* SPDX-License-Identifier: Apache-2.0 */
/* The table of instructions that run in C: from enum insn_op to their handlers. */
#include "accel/bt/sys.h"

#include <stdio.h>

#include "accel/bt/cache.h"
#include "base/log.h"

static sys_fn *const handlers[OP_COUNT] = {
	[OP_NOP] = sys_nop,
	[OP_PAUSE] = sys_nop,
	[OP_LEA] = sys_lea,
	[OP_MOV_MOFFS_LOAD] = sys_moffs_load,
	[OP_MOV_MOFFS_STORE] = sys_moffs_store,
	[OP_PUSH_REG] = sys_push_reg,
	[OP_PUSH_IMM] = sys_push_imm,
	[OP_PUSH_RM] = sys_push_rm,
	[OP_POP_REG] = sys_pop_reg,
	[OP_POP_RM] = sys_pop_rm,
	[OP_PUSH_SEG] = sys_push_seg,
	[OP_POP_SEG] = sys_pop_seg,
	[OP_PUSHA] = sys_pusha,
	[OP_POPA] = sys_popa,
	[OP_PUSHF] = sys_pushf,
	[OP_POPF] = sys_popf,
	[OP_XCHG] = sys_xchg,
	[OP_CMPXCHG] = sys_cmpxchg,
	[OP_CMPXCHG8B] = sys_cmpxchg8b,
	[OP_CMPXCHG16B] = sys_cmpxchg8b,
	[OP_XADD] = sys_xadd,
	[OP_BITTEST_MEM_REG] = sys_bittest,
	[OP_ENTER] = sys_enter,
	[OP_LEAVE] = sys_leave,
	[OP_XLAT] = sys_xlat,
	[OP_DIV] = sys_div,
	[OP_IDIV] = sys_idiv,
	[OP_MUL] = sys_mul,
	[OP_IMUL1] = sys_mul,
	[OP_CBW] = sys_cbw,
	[OP_CWD] = sys_cwd,
	[OP_LAHF] = sys_lahf,
	[OP_SAHF] = sys_sahf,
	[OP_SALC] = sys_salc,
	[OP_CLC] = sys_clc,
	[OP_STC] = sys_stc,
	[OP_CMC] = sys_cmc,
	[OP_CLD] = sys_cld,
	[OP_STD] = sys_std,
	[OP_CLI] = sys_cli,
	[OP_STI] = sys_sti,
	[OP_CLAC] = sys_clac,
	[OP_STAC] = sys_stac,
	[OP_DAA] = sys_daa,
	[OP_DAS] = sys_das,
	[OP_AAA] = sys_aaa,
	[OP_AAS] = sys_aas,
	[OP_AAM] = sys_aam,
	[OP_AAD] = sys_aad,
	[OP_BOUND] = sys_bound,
	[OP_ARPL] = sys_arpl,
	[OP_MOVS] = sys_movs,
	[OP_STOS] = sys_stos,
	[OP_LODS] = sys_lods,
	[OP_SCAS] = sys_scas,
	[OP_CMPS] = sys_cmps,
	[OP_INS] = sys_ins,
	[OP_OUTS] = sys_outs,
	[OP_MASKMOV] = sys_maskmov,
	[OP_VMASKMOV] = sys_vmaskmov,
	[OP_GATHER] = sys_gather,
	[OP_JCC] = sys_jcc,
	[OP_JMP] = sys_jmp,
	[OP_CALL] = sys_call,
	[OP_JMP_RM] = sys_jmp_rm,
	[OP_CALL_RM] = sys_call_rm,
	[OP_RET] = sys_ret,
	[OP_LOOP] = sys_loop,
	[OP_LOOPE] = sys_loop,
	[OP_LOOPNE] = sys_loop,
	[OP_JCXZ] = sys_jcxz,
	[OP_JMP_FAR] = sys_jmp_far,
	[OP_CALL_FAR] = sys_call_far,
	[OP_JMP_FAR_MEM] = sys_jmp_far_mem,
	[OP_CALL_FAR_MEM] = sys_call_far_mem,
	[OP_RET_FAR] = sys_ret_far,
	[OP_IRET] = sys_iret,
	[OP_INT] = sys_int,
	[OP_INT3] = sys_int3,
	[OP_INTO] = sys_into,
	[OP_INT1] = sys_int1,
	[OP_SYSCALL] = sys_syscall,
	[OP_SYSRET] = sys_sysret,
	[OP_SYSENTER] = sys_sysenter,
	[OP_SYSEXIT] = sys_sysexit,
	[OP_IN] = sys_in,
	[OP_OUT] = sys_out,
	[OP_HLT] = sys_hlt,
	[OP_MOV_CR] = sys_mov_cr,
	[OP_MOV_DR] = sys_mov_dr,
	[OP_MOV_FROM_SEG] = sys_mov_from_seg,
	[OP_MOV_TO_SEG] = sys_mov_to_seg,
	[OP_LSEG] = sys_lseg,
	[OP_SGDT] = sys_sgdt,
	[OP_SIDT] = sys_sidt,
	[OP_LGDT] = sys_lgdt,
	[OP_LIDT] = sys_lidt,
	[OP_SLDT] = sys_sldt,
	[OP_STR] = sys_str,
	[OP_LLDT] = sys_lldt,
	[OP_LTR] = sys_ltr,
	[OP_VERR] = sys_verr,
	[OP_VERW] = sys_verw,
	[OP_LAR] = sys_lar,
	[OP_LSL] = sys_lsl,
	[OP_SMSW] = sys_smsw,
	[OP_LMSW] = sys_lmsw,
	[OP_CLTS] = sys_clts,
	[OP_INVLPG] = sys_invlpg,
	[OP_INVPCID] = sys_invpcid,
	[OP_SWAPGS] = sys_swapgs,
	[OP_RDTSC] = sys_rdtsc,
	[OP_RDTSCP] = sys_rdtscp,
	[OP_RDPMC] = sys_rdpmc,
	[OP_RDPID] = sys_rdpid,
	[OP_RDMSR] = sys_rdmsr,
	[OP_WRMSR] = sys_wrmsr,
	[OP_CPUID] = sys_cpuid,
	[OP_VMCALL] = sys_hypercall,
	[OP_VMMCALL] = sys_hypercall,
	[OP_INVD] = sys_wbinvd,
	[OP_WBINVD] = sys_wbinvd,
	[OP_CLFLUSH] = sys_clflush,
	[OP_CLZERO] = sys_clzero,
	[OP_RDFSBASE] = sys_rdfsbase,
	[OP_RDGSBASE] = sys_rdgsbase,
	[OP_WRFSBASE] = sys_wrfsbase,
	[OP_WRGSBASE] = sys_wrgsbase,
	[OP_XSAVE] = sys_xsave,
	[OP_XSAVEC] = sys_xsavec,
	[OP_XSAVEOPT] = sys_xsave,
	[OP_XRSTOR] = sys_xrstor,
	[OP_XGETBV] = sys_xgetbv,
	[OP_XSETBV] = sys_xsetbv,
	[OP_FXSAVE] = sys_fxsave,
	[OP_FXRSTOR] = sys_fxrstor,
	[OP_FSAVE] = sys_fsave,
	[OP_FRSTOR] = sys_frstor,
	[OP_FSTENV] = sys_fstenv,
	[OP_FLDENV] = sys_fldenv,
};

/*
 * Tell of an instruction that the guest gets #UD for, though it did not ask for it by UD2 and the
 * like. A guest may do that all day: after some lines only every power of two is told.
 */
static void note_unsupported(struct bt_cpu *cpu, const struct insn *in)
{
	unsigned n = atomic_fetch_add(&cpu->vm->unsupported, 1) + 1, len = 0;
	uint64_t la = cpu->st.rip + (bt_64bit(cpu) ? 0 : cpu->st.segs[SEG_CS].base);
	char text[3 * INSN_MAX + 1] = "";
	struct bt_fetch f;

	if (n > 8 && (n & (n - 1)))
		return;
	bt_fpu_park(cpu);
	for (unsigned i = 0; i < in->len && i < INSN_MAX; i++) {
		uint64_t at = bt_64bit(cpu) ? la + i : (uint32_t)(la + i);

		if (!bt_fetch_page(cpu, at, true, &f) || !f.host)
			break;
		len +=
		    snprintf(text + len, sizeof(text) - len, " %02x", f.host[at & (PAGE_SIZE - 1)]);
	}
	log_warn("vCPU %u: unsupported instruction%s at rip %#llx, CPL %u: the guest gets #UD%s",
		 cpu->index, text, (unsigned long long)cpu->st.rip, cpu->cpl,
		 n >= 8 ? "; told from now on only now and then" : "");
}

/* MONITOR, MWAIT, XSAVES, XRSTORS, RSM, GETSEC, VMX, SVM and whatever is undefined have no handler:
 * #UD. */
void bt_sys_insn(struct bt_cpu *cpu, const struct insn *in)
{
	sys_fn *fn = in->op < OP_COUNT ? handlers[in->op] : NULL;

	if (in->len > INSN_MAX)
		sys_gp(cpu, 0);
	if (!fn || bt_insn_hidden(cpu->vm, in)) {
		if (in->op != OP_UD)
			note_unsupported(cpu, in);
		sys_ud(cpu);
	}
	if (in->unit != UNIT_GPR && (cpu->key & KEY_FPU))
		bt_fpu_check(cpu, in);
	cpu->st.rip = fn(cpu, in, bt_next_rip(cpu, in));
}
