/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID: what the host has, cut down to what the translator carries, plus
 * what it emulates on any host (Intel SDM volume 2, CPUID; AMD APM volume 3,
 * appendix E; the KVM leaves as Linux documents them).
 *
 * The vendor is the host's, since copied instructions behave as the host's
 * do. Hidden on purpose: AVX-512, XSAVES, MPX, PKU, CET, TSX, LA57, MONITOR,
 * VMX, SVM, virtual-8086 extensions, performance counters, and the speculation
 * controls (IBRS, STIBP, IBPB, SSBD), which would not reach translated code.
 *
 * What a VM shows of that is in vm->cpu (vm/cpu_model.h). As on a processor under KVM, an
 * instruction whose feature is there but not shown still works; what the guest must enable first,
 * it cannot.
 *
 * The table of host leaves is filled once by bt_cpuid_init() and constant
 * afterwards; CPUID itself is slow where the host is virtual.
 */
#include "accel/bt/sys.h"

#include "base/util.h"
#include "vm/mem.h"

enum { A, B, C, D };

#define CACHE_LEAVES 6

static struct {
	bool ready, amd;
	uint32_t word[CPU_WORDS]; /* what a guest may see at most */
	uint64_t features;	  /* enum insn_feature */
	uint32_t mxcsr_mask, signature;
	uint32_t leaf0[4], leaf2[4], brand[12], l1[4], l2[4];
	uint32_t cache[CACHE_LEAVES][4]; /* leaf 4, or 0x8000001d */
} host;

static void cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(out[A]), "=b"(out[B]), "=c"(out[C]), "=d"(out[D])
			 : "0"(leaf), "2"(sub));
}

#define BIT(n) (1u << (n))

/* Per word: what is passed from the host, and what is there on any host because it is emulated. */
static const struct {
	uint32_t pass, always;
} masks[CPU_WORDS] = {
	[CPU_1C] = { .pass = BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) |
			     BIT(22) | BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30),
		     .always = BIT(17) /* PCID */ | BIT(21) /* x2APIC */ |
			       BIT(24) /* TSC deadline */ | BIT(31) /* hypervisor */ },
	[CPU_1D] = { .pass = BIT(0) | BIT(8) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) |
			     BIT(26),
		     .always = BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) |
			       BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17) },
	[CPU_7B] = { .pass = BIT(3) | BIT(5) | BIT(8) | BIT(9) | BIT(18) | BIT(19) | BIT(23) |
			     BIT(24) | BIT(29),
		     .always = BIT(0) /* FSGSBASE */ | BIT(7) /* SMEP */ | BIT(10) /* INVPCID */ |
			       BIT(20) /* SMAP */ },
	[CPU_7C] = { .pass = BIT(8) | BIT(9) | BIT(10),
		     .always = BIT(2) /* UMIP */ | BIT(22) /* RDPID */ },
	[CPU_7D] = { .pass = BIT(4) /* FSRM */ },
	[CPU_71A] = { .pass = BIT(4) /* AVX-VNNI */ },
	[CPU_D1A] = { .pass = BIT(0) | BIT(1), .always = BIT(2) },
	/* PREFETCHW does nothing here, and Linux takes every AMD CPU with long mode to have it. */
	[CPU_81C] = { .pass = BIT(0) | BIT(5) | BIT(6) | BIT(7) | BIT(22),
		      .always = BIT(8) /* PREFETCHW */ },
	[CPU_81D] = { .pass = BIT(22), .always = BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29) },
	[CPU_87D] = { .always = BIT(8) /* invariant TSC */ },
	[CPU_88B] = { .pass = BIT(0) /* CLZERO */ },
	[CPU_821A] = { .pass = BIT(0) | BIT(2) | BIT(6) },
	/* both generations of kvm-clock, no delay for port I/O, IPIs to many; the clock is stable
	 * across vCPUs */
	[CPU_KVM] = { .always = BIT(0) | BIT(1) | BIT(3) | BIT(11) | BIT(24) },
};

static const struct {
	uint8_t word, bit;
} feature_bits[FEAT_COUNT] = {
	[FEAT_SSE3] = { CPU_1C, 0 },	    [FEAT_SSSE3] = { CPU_1C, 9 },
	[FEAT_SSE41] = { CPU_1C, 19 },	    [FEAT_SSE42] = { CPU_1C, 20 },
	[FEAT_POPCNT] = { CPU_1C, 23 },	    [FEAT_AES] = { CPU_1C, 25 },
	[FEAT_PCLMUL] = { CPU_1C, 1 },	    [FEAT_AVX] = { CPU_1C, 28 },
	[FEAT_F16C] = { CPU_1C, 29 },	    [FEAT_FMA] = { CPU_1C, 12 },
	[FEAT_AVX2] = { CPU_7B, 5 },	    [FEAT_BMI1] = { CPU_7B, 3 },
	[FEAT_BMI2] = { CPU_7B, 8 },	    [FEAT_LZCNT] = { CPU_81C, 5 },
	[FEAT_MOVBE] = { CPU_1C, 22 },	    [FEAT_ADX] = { CPU_7B, 19 },
	[FEAT_SHA] = { CPU_7B, 29 },	    [FEAT_RDRAND] = { CPU_1C, 30 },
	[FEAT_RDSEED] = { CPU_7B, 18 },	    [FEAT_CX16] = { CPU_1C, 13 },
	[FEAT_FSGSBASE] = { CPU_7B, 0 },    [FEAT_RDTSCP] = { CPU_81D, 27 },
	[FEAT_RDPID] = { CPU_7C, 22 },	    [FEAT_XSAVE] = { CPU_1C, 26 },
	[FEAT_XSAVEOPT] = { CPU_D1A, 0 },   [FEAT_XSAVEC] = { CPU_D1A, 1 },
	[FEAT_CLFLUSHOPT] = { CPU_7B, 23 }, [FEAT_CLWB] = { CPU_7B, 24 },
	[FEAT_CLZERO] = { CPU_88B, 0 },	    [FEAT_INVPCID] = { CPU_7B, 10 },
	[FEAT_SMAP] = { CPU_7B, 20 },	    [FEAT_VAES] = { CPU_7C, 9 },
	[FEAT_VPCLMUL] = { CPU_7C, 10 },    [FEAT_GFNI] = { CPU_7C, 8 },
	[FEAT_AVX_VNNI] = { CPU_71A, 4 },   [FEAT_SSE4A] = { CPU_81C, 6 },
	[FEAT_PREFETCHW] = { CPU_81C, 8 },
};

static uint32_t read_mxcsr_mask(void)
{
	struct {
		uint8_t b[512] __attribute__((aligned(64)));
	} img;

	bt_fill(&img, 0, sizeof(img));
	__asm__ volatile("fxsave64 %0" : "+m"(img));
	return get_le32(img.b + 28) ? get_le32(img.b + 28) : 0xffbf;
}

static uint64_t read_xcr0(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

/* Drop what cannot be used: AVX and its followers where the host's kernel does not enable them. */
static void drop_avx(uint32_t *word)
{
	word[CPU_1C] &= ~(BIT(12) | BIT(28) | BIT(29));
	word[CPU_7B] &= ~BIT(5);
	word[CPU_7C] &= ~(BIT(9) | BIT(10));
	word[CPU_71A] &= ~BIT(4);
}

int bt_cpuid_init(struct err *err)
{
	uint32_t out[4], max, max_ext, word[CPU_WORDS] = { 0 };

	if (host.ready)
		return 0;
	cpuid(0, 0, host.leaf0);
	max = host.leaf0[A];
	host.amd = host.leaf0[B] == 0x68747541 /* Auth */ || host.leaf0[B] == 0x6f677948 /* Hygo */;
	cpuid(0x80000000, 0, out);
	max_ext = out[A];
	cpuid(1, 0, out);
	host.signature = out[A];
	word[CPU_1C] = out[C];
	word[CPU_1D] = out[D];
	if (!(out[C] & BIT(27)) || max < 0xd)
		return err_set(err, EOPNOTSUPP,
			       "the host CPU has no XSAVE, which the bt accelerator needs");
	if (max >= 7) {
		cpuid(7, 0, out);
		word[CPU_7B] = out[B];
		word[CPU_7C] = out[C];
		word[CPU_7D] = out[D];
		if (out[A] >= 1) {
			cpuid(7, 1, out);
			word[CPU_71A] = out[A];
		}
	}
	cpuid(0xd, 1, out);
	word[CPU_D1A] = out[A];
	if (max_ext >= 0x80000001) {
		cpuid(0x80000001, 0, out);
		word[CPU_81C] = out[C];
		word[CPU_81D] = out[D];
	}
	for (unsigned i = 0; i < 3 && max_ext >= 0x80000004; i++)
		cpuid(0x80000002 + i, 0, host.brand + i * 4);
	if (max_ext >= 0x80000006) {
		cpuid(0x80000005, 0, host.l1);
		cpuid(0x80000006, 0, host.l2);
	}
	if (max_ext >= 0x80000008) {
		cpuid(0x80000008, 0, out);
		word[CPU_88B] = out[B];
	}
	if (max_ext >= 0x80000021) {
		cpuid(0x80000021, 0, out);
		word[CPU_821A] = out[A];
	}
	if (!host.amd)
		cpuid(2, 0, host.leaf2);
	for (unsigned i = 0; i < CACHE_LEAVES; i++) {
		if (host.amd && (word[CPU_81C] & BIT(22)))
			cpuid(0x8000001d, i, host.cache[i]);
		else if (!host.amd)
			cpuid(4, i, host.cache[i]);
		if (!(host.cache[i][A] & 0x1f))
			break;
	}
	if ((read_xcr0() & 7) != 7)
		drop_avx(word);
	for (unsigned i = 0; i < CPU_WORDS; i++)
		host.word[i] = (word[i] & masks[i].pass) | masks[i].always;
	if (host.amd)
		host.word[CPU_81D] |= host.word[CPU_1D] & 0x0183f3ff; /* AMD repeats these here */
	else
		host.word[CPU_7D] |= BIT(29); /* ARCH_CAPABILITIES */
	host.features = 1;		      /* FEAT_BASE */
	for (unsigned i = 1; i < FEAT_COUNT; i++) {
		if (host.word[feature_bits[i].word] >> feature_bits[i].bit & 1)
			host.features |= 1ull << i;
	}
	host.mxcsr_mask = read_mxcsr_mask();
	host.ready = true;
	return 0;
}

bool sys_host_amd(void)
{
	return host.amd;
}

bool sys_guest_has(enum insn_feature feature)
{
	return host.features >> feature & 1;
}

uint32_t sys_xcr0_max(void)
{
	return host.features >> FEAT_AVX & 1 ? 7 : 3;
}

uint32_t sys_mxcsr_mask(void)
{
	return host.mxcsr_mask;
}

uint32_t sys_signature(void)
{
	return host.signature;
}

bool bt_host_has(unsigned feature)
{
	return host.features >> feature & 1;
}

bool bt_insn_hidden(const struct bt_vm *vm, const struct insn *in)
{
	return !(host.features >> in->feature & 1);
}

void bt_cpu_offer(struct cpu_id *ret)
{
	*ret = (struct cpu_id) { .signature = host.signature,
				 .phys_bits = MEM_PHYS_BITS,
				 .max_leaf = 0xd,
				 .max_ext_leaf = host.amd ? 0x80000021 : 0x80000008 };
	memcpy(ret->vendor, &host.leaf0[B], 4);
	memcpy(ret->vendor + 4, &host.leaf0[D], 4);
	memcpy(ret->vendor + 8, &host.leaf0[C], 4);
	for (unsigned i = 0; i < CPU_WORDS; i++)
		ret->word[i] = host.word[i];
	ret->xstate_offset[2] = sys_guest_has(FEAT_AVX) ? 576 : 0;
}

/* ---- leaves ---- */

static unsigned id_bits(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

static unsigned xsave_size(uint64_t xcr0)
{
	return xcr0 & 4 ? 832 : 576;
}

/* Caches of levels 1 and 2 belong to one vCPU, level 3 is shared by all. */
static void cache_leaf(const struct bt_cpu *cpu, uint32_t sub, uint32_t out[4])
{
	unsigned count = cpu->vm->count, level;

	if (sub >= CACHE_LEAVES || !(host.cache[sub][A] & 0x1f))
		return;
	for (unsigned i = 0; i < 4; i++)
		out[i] = host.cache[sub][i];
	level = out[A] >> 5 & 7;
	out[A] &= 0x3fff;
	if (level >= 3)
		out[A] |= (count - 1) << 14;
	if (!host.amd)
		out[A] |= ((1u << id_bits(count)) - 1) << 26;
}

static void topology_leaf(const struct bt_cpu *cpu, uint32_t sub, uint32_t out[4])
{
	unsigned count = cpu->vm->count;

	out[C] = sub;
	out[D] = cpu->index;
	if (sub == 0) {
		out[B] = 1;
		out[C] |= 1 << 8;
	} else if (sub == 1) {
		out[A] = id_bits(count);
		out[B] = count;
		out[C] |= 2 << 8;
	}
}

static void xstate_leaf(const struct bt_cpu *cpu, uint32_t sub, uint32_t out[4])
{
	bool avx = cpu_id_xcr0(&cpu->vm->cpu) & 4;

	if (!(cpu->vm->cpu.word[CPU_1C] & BIT(26)))
		return;
	switch (sub) {
	case 0:
		out[A] = avx ? 7 : 3;
		out[B] = xsave_size(cpu->st.xcr0);
		out[C] = avx ? 832 : 576;
		break;
	case 1:
		out[A] = cpu->vm->cpu.word[CPU_D1A];
		out[B] = xsave_size(cpu->st.xcr0);
		break;
	case 2:
		if (avx) {
			out[A] = 256;
			out[B] = 576;
		}
		break;
	}
}

static void extended(struct bt_cpu *cpu, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	unsigned count = cpu->vm->count;

	switch (leaf) {
	case 0x80000000:
		out[A] = cpu->vm->cpu.max_ext_leaf;
		if (host.amd) {
			out[B] = host.leaf0[B];
			out[C] = host.leaf0[C];
			out[D] = host.leaf0[D];
		}
		break;
	case 0x80000001:
		if (host.amd)
			out[A] = cpu->vm->cpu.signature;
		out[C] = cpu->vm->cpu.word[CPU_81C] | (host.amd && count > 1 ? BIT(1) : 0);
		out[D] = cpu->vm->cpu.word[CPU_81D];
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		for (unsigned i = 0; i < 4; i++)
			out[i] = host.brand[(leaf - 0x80000002) * 4 + i];
		break;
	case 0x80000005:
		for (unsigned i = 0; i < 4; i++)
			out[i] = host.l1[i];
		break;
	case 0x80000006:
		for (unsigned i = 0; i < 4; i++)
			out[i] = host.l2[i];
		break;
	case 0x80000007:
		out[D] = cpu->vm->cpu.word[CPU_87D];
		break;
	case 0x80000008:
		out[A] = cpu->vm->cpu.phys_bits | 48 << 8;
		out[B] = cpu->vm->cpu.word[CPU_88B];
		if (host.amd)
			out[C] = (count - 1) | id_bits(count) << 12;
		break;
	case 0x8000001d:
		if (host.amd)
			cache_leaf(cpu, sub, out);
		break;
	case 0x8000001e:
		if (host.amd && (cpu->vm->cpu.word[CPU_81C] & BIT(22))) {
			out[A] = cpu->index;
			out[B] = cpu->index;
		}
		break;
	case 0x80000021:
		if (host.amd)
			out[A] = cpu->vm->cpu.word[CPU_821A];
		break;
	}
}

static void hypervisor(struct bt_cpu *cpu, uint32_t leaf, uint32_t out[4])
{
	switch (leaf) {
	case 0x40000000:
		out[A] = 0x40000010;
		out[B] = 0x4b4d564b; /* KVMKVMKVM */
		out[C] = 0x564b4d56;
		out[D] = 0x4d;
		break;
	case 0x40000001:
		out[A] = cpu->vm->cpu.word[CPU_KVM];
		break;
	case 0x40000010:
		out[A] = cpu->vm->tsc_khz;
		out[B] = 1000000; /* the local APIC's timer counts at 1 GHz */
		break;
	}
}

void bt_cpuid(struct bt_cpu *cpu, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
	unsigned count = cpu->vm->count;

	out[A] = out[B] = out[C] = out[D] = 0;
	if (leaf >= 0x80000000 && leaf <= 0x80ffffff) {
		extended(cpu, leaf, sub, out);
		return;
	}
	if (leaf >= 0x40000000 && leaf <= 0x400000ff) {
		hypervisor(cpu, leaf, out);
		return;
	}
	switch (leaf) {
	case 0:
		out[A] = cpu->vm->cpu.max_leaf;
		out[B] = host.leaf0[B];
		out[C] = host.leaf0[C];
		out[D] = host.leaf0[D];
		break;
	case 1:
		out[A] = cpu->vm->cpu.signature;
		out[B] = cpu->index << 24 | (1u << id_bits(count)) << 16 | 8 << 8;
		out[C] = cpu->vm->cpu.word[CPU_1C] | (cpu->st.cr4 & CR4_OSXSAVE ? BIT(27) : 0);
		out[D] = cpu->vm->cpu.word[CPU_1D] | (count > 1 ? BIT(28) : 0);
		if (!(lapic_base(cpu->lapic) & 1u << 11))
			out[D] &= ~BIT(9);
		break;
	case 2:
		for (unsigned i = 0; i < 4; i++)
			out[i] = host.leaf2[i];
		break;
	case 4:
		if (!host.amd)
			cache_leaf(cpu, sub, out);
		break;
	case 6:
		out[A] = BIT(2); /* the APIC timer never stops */
		break;
	case 7:
		if (sub == 0) {
			out[A] = 1;
			out[B] = cpu->vm->cpu.word[CPU_7B];
			out[C] = cpu->vm->cpu.word[CPU_7C];
			out[D] = cpu->vm->cpu.word[CPU_7D];
		} else if (sub == 1) {
			out[A] = cpu->vm->cpu.word[CPU_71A];
		}
		break;
	case 0xb:
		topology_leaf(cpu, sub, out);
		break;
	case 0xd:
		xstate_leaf(cpu, sub, out);
		break;
	}
}
