/* SPDX-License-Identifier: Apache-2.0 */
/* What is left out of the comparison, and why. Everything else is compared. */
#include <string.h>

#include "oracle.h"

const struct oracle_rule rules_excluded[] = {
	{ "syscall", "enters the host's kernel" },
	{ "sysenter", "enters the host's kernel where the host allows it" },
	{ "sysret", "returns nowhere without a system call" },
	{ "sysexit", "returns nowhere without a system call" },
	{ "iret*", "loads a selector from memory: depends on the host's descriptor tables" },
	{ "jmp far", "depends on the host's descriptor tables" },
	{ "call far", "depends on the host's descriptor tables" },
	{ "ret far", "depends on the host's descriptor tables" },
	{ "lds", "loads a selector from memory" },
	{ "les", "loads a selector from memory" },
	{ "lss", "loads a selector from memory" },
	{ "lfs", "loads a selector from memory" },
	{ "lgs", "loads a selector from memory" },
	{ "lar", "depends on the host's descriptor tables" },
	{ "lsl", "depends on the host's descriptor tables" },
	{ "verr", "depends on the host's descriptor tables" },
	{ "verw", "depends on the host's descriptor tables; also flushes CPU buffers" },
	{ "sgdt", "UMIP: the host's kernel emulates it" },
	{ "sidt", "UMIP: the host's kernel emulates it" },
	{ "smsw", "UMIP: the host's kernel emulates it" },
	{ "sldt", "UMIP: the host's kernel emulates it" },
	{ "str", "UMIP: the host's kernel emulates it" },
	{ "rdtsc", "the value is time" },
	{ "rdtscp", "the value is time" },
	{ "rdpmc", "depends on the host's performance counters" },
	{ "rdpru", "the value is time" },
	{ "rdpid", "the value is a CPU number" },
	{ "rdrand", "random by purpose" },
	{ "rdseed", "random by purpose" },
	{ "cpuid", "the guest is shown another CPU" },
	{ "xgetbv", "the guest has other state components" },
	{ "xsetbv", "the guest has other state components" },
	{ "xsave*", "the guest has other state components; which are in use is the CPU's choice" },
	{ "xrstor*", "the guest has other state components" },
	{ "monitor*", "the host may trap it" },
	{ "mwait*", "the host may trap it" },
	{ "vmcall", "leaves the host for its own hypervisor" },
	{ "vmmcall", "leaves the host for its own hypervisor" },
	{ "rdpkru", "depends on what the host's kernel enabled" },
	{ "wrpkru", "depends on what the host's kernel enabled; shuts memory off" },
	{ "xbegin", "transactions end as the CPU likes" },
	{ "xabort", "transactions end as the CPU likes" },
	{ "0f 0d reg",
	  "a register as operand of prefetch: nop or undefined, by the maker of the CPU" },
	{ "66 branch", "operand-size prefix on a near branch in 64-bit code: heeded or not, by the "
		       "maker of the CPU" },
	{ "rep loopcc",
	  "a repeat prefix before loope or loopne: some CPUs take the condition from it" },
	{ "null+rpl", "null selectors with an RPL: an interrupt on the host may clear it" },
	{ "offset", "offsets that are not canonical where offset and segment base give a canonical "
		    "address: #GP on AMD only" },
	{ "ud0, ud1",
	  "whether the operand's bytes are fetched, at the end of mapped code: the CPU's choice" },
	{ "fault flags", "arithmetic flags in the frame of a fault, but with --exact-flags: the "
			 "translator lets them go stale "
			 "where the code sets them again before it reads them" },
	{ "wrote code", "code that wrote instructions over itself which leave flags undefined" },
	{ "#AC", "alignment checks, but with --alignment-check: docs/quirks.md" },
	{ "edge", "undefined instructions at the end of mapped code: whether the rest is fetched "
		  "is the CPU's choice" },
	{ "straddle", "accesses across the canonical boundary or, in parts, across 4 GiB: which "
		      "fault comes first is the CPU's choice" },
	{ "fsave #PF",
	  "x87 and FXSAVE images on bad pages: which byte is touched first is the CPU's choice" },
	{ "maskmov #PF",
	  "masked stores with an empty mask: whether a bad page faults is the CPU's choice" },
	{ "gather #DB", "single steps of gathers: some CPUs trap between the elements" },
	{ "gather #PF", "lower bits of the mask after a fault within a gather: the CPU's choice" },
	{ "67 rep movs", "overlapping moves with 16-bit addresses: AMD's family 26 looks for the "
			 "overlap in whole registers and moves wrongly when their upper halves "
			 "differ" },
	{ "int1", "virtual machines of some hosts report it at the wrong address" },
	{ "llwpcb", "depends on what the host's kernel enabled" },
	{ "slwpcb", "depends on what the host's kernel enabled" },
	{ NULL, NULL },
};

static const char *const isa_may_hide[] = {
	"AVX512*",  "AMD3DNOW",	 "AMD",	       "AMD_INVLPGB", "AMX*",	  "AVX_GFNI", "GFNI",
	"AVX_VNNI", "VAES",	 "VPCLMULQDQ", "CET",	      "CLDEMOTE", "CLZERO",   "ENQCMD",
	"FMA4",	    "HRESET",	 "INVPCID",    "KEYLOCKER*",  "KNC*",	  "LWP",      "MCOMMIT",
	"MOVDIR",   "MPX",	 "PADLOCK*",   "PCONFIG",     "PKU",	  "PT",	      "RDPRU",
	"RTM",	    "SERIALIZE", "SGX*",       "SMX",	      "SNP",	  "SSE4A",    "SVM",
	"TBM",	    "TDX",	 "TSX_LDTRK",  "UINTR",	      "VMFUNC",	  "VTX",      "WAITPKG",
	"XOP",	    "XSAVES",	 "CLWB",       "CLFLUSHOPT",  "SMAP",	  NULL,
};

static bool name_match(const char *pattern, const char *name)
{
	size_t n = strlen(pattern);

	if (n && pattern[n - 1] == '*')
		return !strncmp(pattern, name, n - 1);
	return !strcmp(pattern, name);
}

const char *rules_excluded_why(const char *mnemonic)
{
	for (const struct oracle_rule *r = rules_excluded; r->mnemonic; r++)
		if (name_match(r->mnemonic, mnemonic))
			return r->why;
	return NULL;
}

bool rules_isa_may_hide(const char *isa_set)
{
	for (const char *const *p = isa_may_hide; *p; p++)
		if (name_match(*p, isa_set))
			return true;
	return false;
}
