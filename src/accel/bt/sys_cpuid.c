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
 * The table of host leaves is filled once by bt_cpuid_init() and constant
 * afterwards; CPUID itself is slow where the host is virtual.
 */
#include "accel/bt/sys.h"

#include "base/util.h"
#include "vm/mem.h"

enum { A, B, C, D };

enum word { W_1C, W_1D, W_7B, W_7C, W_7D, W_71A, W_D1A, W_81C, W_81D, W_88B, W_821A, W_COUNT };

#define CACHE_LEAVES 6

static struct {
	bool ready, amd;
	uint32_t word[W_COUNT]; /* as the guest sees them, but for bits that depend on its state */
	uint64_t features;	/* enum insn_feature */
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
} masks[W_COUNT] = {
	[W_1C] = { .pass = BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) |
			   BIT(22) | BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30),
		   .always = BIT(17) /* PCID */ | BIT(21) /* x2APIC */ |
			     BIT(24) /* TSC deadline */ | BIT(31) /* hypervisor */ },
	[W_1D] = { .pass =
		       BIT(0) | BIT(8) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26),
		   .always = BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) |
			     BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(16) | BIT(17) },
	[W_7B] = { .pass = BIT(3) | BIT(5) | BIT(8) | BIT(9) | BIT(18) | BIT(19) | BIT(23) |
			   BIT(24) | BIT(29),
		   .always = BIT(0) /* FSGSBASE */ | BIT(7) /* SMEP */ | BIT(10) /* INVPCID */ |
			     BIT(20) /* SMAP */ },
	[W_7C] = { .pass = BIT(8) | BIT(9) | BIT(10),
		   .always = BIT(2) /* UMIP */ | BIT(22) /* RDPID */ },
	[W_7D] = { .pass = BIT(4) /* FSRM */ },
	[W_71A] = { .pass = BIT(4) /* AVX-VNNI */ },
	[W_D1A] = { .pass = BIT(0) | BIT(1), .always = BIT(2) },
	/* PREFETCHW does nothing here, and Linux takes every AMD CPU with long mode to have it. */
	[W_81C] = { .pass = BIT(0) | BIT(5) | BIT(6) | BIT(7) | BIT(22),
		    .always = BIT(8) /* PREFETCHW */ },
	[W_81D] = { .pass = BIT(22), .always = BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29) },
	[W_88B] = { .pass = BIT(0) /* CLZERO */ },
	[W_821A] = { .pass = BIT(0) | BIT(2) | BIT(6) },
};

static const struct {
	uint8_t word, bit;
} feature_bits[FEAT_COUNT] = {
	[FEAT_SSE3] = { W_1C, 0 },	  [FEAT_SSSE3] = { W_1C, 9 },
	[FEAT_SSE41] = { W_1C, 19 },	  [FEAT_SSE42] = { W_1C, 20 },
	[FEAT_POPCNT] = { W_1C, 23 },	  [FEAT_AES] = { W_1C, 25 },
	[FEAT_PCLMUL] = { W_1C, 1 },	  [FEAT_AVX] = { W_1C, 28 },
	[FEAT_F16C] = { W_1C, 29 },	  [FEAT_FMA] = { W_1C, 12 },
	[FEAT_AVX2] = { W_7B, 5 },	  [FEAT_BMI1] = { W_7B, 3 },
	[FEAT_BMI2] = { W_7B, 8 },	  [FEAT_LZCNT] = { W_81C, 5 },
	[FEAT_MOVBE] = { W_1C, 22 },	  [FEAT_ADX] = { W_7B, 19 },
	[FEAT_SHA] = { W_7B, 29 },	  [FEAT_RDRAND] = { W_1C, 30 },
	[FEAT_RDSEED] = { W_7B, 18 },	  [FEAT_CX16] = { W_1C, 13 },
	[FEAT_FSGSBASE] = { W_7B, 0 },	  [FEAT_RDTSCP] = { W_81D, 27 },
	[FEAT_RDPID] = { W_7C, 22 },	  [FEAT_XSAVE] = { W_1C, 26 },
	[FEAT_XSAVEOPT] = { W_D1A, 0 },	  [FEAT_XSAVEC] = { W_D1A, 1 },
	[FEAT_CLFLUSHOPT] = { W_7B, 23 }, [FEAT_CLWB] = { W_7B, 24 },
	[FEAT_CLZERO] = { W_88B, 0 },	  [FEAT_INVPCID] = { W_7B, 10 },
	[FEAT_SMAP] = { W_7B, 20 },	  [FEAT_VAES] = { W_7C, 9 },
	[FEAT_VPCLMUL] = { W_7C, 10 },	  [FEAT_GFNI] = { W_7C, 8 },
	[FEAT_AVX_VNNI] = { W_71A, 4 },	  [FEAT_SSE4A] = { W_81C, 6 },
	[FEAT_PREFETCHW] = { W_81C, 8 },
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
	word[W_1C] &= ~(BIT(12) | BIT(28) | BIT(29));
	word[W_7B] &= ~BIT(5);
	word[W_7C] &= ~(BIT(9) | BIT(10));
	word[W_71A] &= ~BIT(4);
}

int bt_cpuid_init(struct err *err)
{
	uint32_t out[4], max, max_ext, word[W_COUNT] = { 0 };

	if (host.ready)
		return 0;
	cpuid(0, 0, host.leaf0);
	max = host.leaf0[A];
	host.amd = host.leaf0[B] == 0x68747541 /* Auth */ || host.leaf0[B] == 0x6f677948 /* Hygo */;
	cpuid(0x80000000, 0, out);
	max_ext = out[A];
	cpuid(1, 0, out);
	host.signature = out[A];
	word[W_1C] = out[C];
	word[W_1D] = out[D];
	if (!(out[C] & BIT(27)) || max < 0xd)
		return err_set(err, EOPNOTSUPP,
			       "the host CPU has no XSAVE, which the bt accelerator needs");
	if (max >= 7) {
		cpuid(7, 0, out);
		word[W_7B] = out[B];
		word[W_7C] = out[C];
		word[W_7D] = out[D];
		if (out[A] >= 1) {
			cpuid(7, 1, out);
			word[W_71A] = out[A];
		}
	}
	cpuid(0xd, 1, out);
	word[W_D1A] = out[A];
	if (max_ext >= 0x80000001) {
		cpuid(0x80000001, 0, out);
		word[W_81C] = out[C];
		word[W_81D] = out[D];
	}
	for (unsigned i = 0; i < 3 && max_ext >= 0x80000004; i++)
		cpuid(0x80000002 + i, 0, host.brand + i * 4);
	if (max_ext >= 0x80000006) {
		cpuid(0x80000005, 0, host.l1);
		cpuid(0x80000006, 0, host.l2);
	}
	if (max_ext >= 0x80000008) {
		cpuid(0x80000008, 0, out);
		word[W_88B] = out[B];
	}
	if (max_ext >= 0x80000021) {
		cpuid(0x80000021, 0, out);
		word[W_821A] = out[A];
	}
	if (!host.amd)
		cpuid(2, 0, host.leaf2);
	for (unsigned i = 0; i < CACHE_LEAVES; i++) {
		if (host.amd && (word[W_81C] & BIT(22)))
			cpuid(0x8000001d, i, host.cache[i]);
		else if (!host.amd)
			cpuid(4, i, host.cache[i]);
		if (!(host.cache[i][A] & 0x1f))
			break;
	}
	if ((read_xcr0() & 7) != 7)
		drop_avx(word);
	for (unsigned i = 0; i < W_COUNT; i++)
		host.word[i] = (word[i] & masks[i].pass) | masks[i].always;
	if (host.amd)
		host.word[W_81D] |= host.word[W_1D] & 0x0183f3ff; /* AMD repeats these here */
	else
		host.word[W_7D] |= BIT(29); /* ARCH_CAPABILITIES */
	host.features = 1;		    /* FEAT_BASE */
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
	bool avx = sys_guest_has(FEAT_AVX);

	switch (sub) {
	case 0:
		out[A] = avx ? 7 : 3;
		out[B] = xsave_size(cpu->st.xcr0);
		out[C] = avx ? 832 : 576;
		break;
	case 1:
		out[A] = host.word[W_D1A];
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
		out[A] = host.amd ? 0x80000021 : 0x80000008;
		if (host.amd) {
			out[B] = host.leaf0[B];
			out[C] = host.leaf0[C];
			out[D] = host.leaf0[D];
		}
		break;
	case 0x80000001:
		if (host.amd)
			out[A] = host.signature;
		out[C] = host.word[W_81C] | (host.amd && count > 1 ? BIT(1) : 0);
		out[D] = host.word[W_81D];
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
		out[D] = BIT(8); /* invariant TSC */
		break;
	case 0x80000008:
		out[A] = MEM_PHYS_BITS | 48 << 8;
		out[B] = host.word[W_88B];
		if (host.amd)
			out[C] = (count - 1) | id_bits(count) << 12;
		break;
	case 0x8000001d:
		if (host.amd)
			cache_leaf(cpu, sub, out);
		break;
	case 0x8000001e:
		if (host.amd && (host.word[W_81C] & BIT(22))) {
			out[A] = cpu->index;
			out[B] = cpu->index;
		}
		break;
	case 0x80000021:
		if (host.amd)
			out[A] = host.word[W_821A];
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
		/* both generations of kvm-clock, no delay for port I/O, IPIs to many; the clock is
		 * stable across vCPUs */
		out[A] = BIT(0) | BIT(1) | BIT(3) | BIT(11) | BIT(24);
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
		out[A] = 0xd;
		out[B] = host.leaf0[B];
		out[C] = host.leaf0[C];
		out[D] = host.leaf0[D];
		break;
	case 1:
		out[A] = host.signature;
		out[B] = cpu->index << 24 | (1u << id_bits(count)) << 16 | 8 << 8;
		out[C] = host.word[W_1C] | (cpu->st.cr4 & CR4_OSXSAVE ? BIT(27) : 0);
		out[D] = host.word[W_1D] | (count > 1 ? BIT(28) : 0);
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
			out[B] = host.word[W_7B];
			out[C] = host.word[W_7C];
			out[D] = host.word[W_7D];
		} else if (sub == 1) {
			out[A] = host.word[W_71A];
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
