/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID against what the CPU does: an instruction whose feature bit is set must run, one
 * whose bit is clear should be #UD where its encoding means nothing else; sizes and
 * topology must fit each other.
 */
#include "rt.h"

static u8 *code, *area;

static void try_code(const u8 *c, unsigned len)
{
	memcpy(code, c, len);
	code[len] = 0xc3;
	memset(area, 0, PAGE);
	TRY("call *%0", ::"r"(code), "D"(area), "S"(area + 1024), "c"(0ul), "a"(0ul), "d"(0ul)
	    : "rbx", "r8", "memory", "cc");
}

static void features(void)
{
	static const struct {
		const char *name;
		u32 leaf;
		u8 sub;
		char reg;
		u8 bit, strict, len, c[12]; /* strict: #UD when the bit is clear */
	} list[] = {
		{ "tsc", 1, 0, 'd', 4, 0, 2, { 0x0f, 0x31 } },
		{ "cx8", 1, 0, 'd', 8, 1, 4, { 0xf0, 0x0f, 0xc7, 0x0f } },
		{ "cmov", 1, 0, 'd', 15, 1, 3, { 0x0f, 0x44, 0xc0 } },
		{ "clflush", 1, 0, 'd', 19, 0, 3, { 0x0f, 0xae, 0x3f } },
		{ "mmx", 1, 0, 'd', 23, 1, 5, { 0x0f, 0xef, 0xc0, 0x0f, 0x77 } },
		{ "fxsr", 1, 0, 'd', 24, 1, 3, { 0x0f, 0xae, 0x07 } },
		{ "sse", 1, 0, 'd', 25, 1, 3, { 0x0f, 0x58, 0xc0 } },
		{ "sse2", 1, 0, 'd', 26, 1, 4, { 0x66, 0x0f, 0x58, 0xc0 } },
		{ "sse3", 1, 0, 'c', 0, 1, 4, { 0xf2, 0x0f, 0x7c, 0xc0 } },
		{ "pclmulqdq", 1, 0, 'c', 1, 1, 6, { 0x66, 0x0f, 0x3a, 0x44, 0xc0, 0 } },
		{ "monitor", 1, 0, 'c', 3, 1, 3, { 0x0f, 0x01, 0xc8 } },
		{ "ssse3", 1, 0, 'c', 9, 1, 5, { 0x66, 0x0f, 0x38, 0x00, 0xc0 } },
		{ "cx16", 1, 0, 'c', 13, 1, 5, { 0xf0, 0x48, 0x0f, 0xc7, 0x0f } },
		{ "sse4.1", 1, 0, 'c', 19, 1, 5, { 0x66, 0x0f, 0x38, 0x40, 0xc0 } },
		{ "sse4.2", 1, 0, 'c', 20, 1, 6, { 0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc0 } },
		{ "movbe", 1, 0, 'c', 22, 1, 4, { 0x0f, 0x38, 0xf0, 0x07 } },
		{ "popcnt", 1, 0, 'c', 23, 1, 4, { 0xf3, 0x0f, 0xb8, 0xc0 } },
		{ "aes", 1, 0, 'c', 25, 1, 5, { 0x66, 0x0f, 0x38, 0xdc, 0xc0 } },
		{ "xsave", 1, 0, 'c', 26, 1, 3, { 0x0f, 0x01, 0xd0 } },
		{ "avx", 1, 0, 'c', 28, 1, 4, { 0xc5, 0xfc, 0x58, 0xc0 } },
		{ "f16c", 1, 0, 'c', 29, 1, 5, { 0xc4, 0xe2, 0x7d, 0x13, 0xc0 } },
		{ "fma", 1, 0, 'c', 12, 1, 5, { 0xc4, 0xe2, 0x7d, 0x98, 0xc0 } },
		{ "rdrand", 1, 0, 'c', 30, 1, 3, { 0x0f, 0xc7, 0xf0 } },
		{ "fsgsbase", 7, 0, 'b', 0, 1, 5, { 0xf3, 0x48, 0x0f, 0xae, 0xc0 } },
		{ "bmi1 andn", 7, 0, 'b', 3, 1, 5, { 0xc4, 0xe2, 0x78, 0xf2, 0xc0 } },
		{ "avx2", 7, 0, 'b', 5, 1, 4, { 0xc5, 0xfd, 0xfe, 0xc0 } },
		{ "bmi2 pext", 7, 0, 'b', 8, 1, 5, { 0xc4, 0xe2, 0x7a, 0xf5, 0xc0 } },
		{ "rtm xtest", 7, 0, 'b', 11, 0, 3, { 0x0f, 0x01, 0xd6 } },
		{ "avx512f", 7, 0, 'b', 16, 1, 6, { 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0 } },
		{ "rdseed", 7, 0, 'b', 18, 1, 3, { 0x0f, 0xc7, 0xf8 } },
		{ "adx", 7, 0, 'b', 19, 1, 5, { 0x66, 0x0f, 0x38, 0xf6, 0xc0 } },
		{ "smap clac", 7, 0, 'b', 20, 1, 3, { 0x0f, 0x01, 0xca } },
		{ "clflushopt", 7, 0, 'b', 23, 1, 4, { 0x66, 0x0f, 0xae, 0x3f } },
		{ "clwb", 7, 0, 'b', 24, 1, 4, { 0x66, 0x0f, 0xae, 0x37 } },
		{ "sha", 7, 0, 'b', 29, 1, 4, { 0x0f, 0x38, 0xc8, 0xc0 } },
		{ "gfni", 7, 0, 'c', 8, 1, 5, { 0x66, 0x0f, 0x38, 0xcf, 0xc0 } },
		{ "vaes", 7, 0, 'c', 9, 1, 5, { 0xc4, 0xe2, 0x7d, 0xdc, 0xc0 } },
		{ "vpclmulqdq", 7, 0, 'c', 10, 1, 6, { 0xc4, 0xe3, 0x7d, 0x44, 0xc0, 0 } },
		{ "rdpid", 7, 0, 'c', 22, 1, 4, { 0xf3, 0x0f, 0xc7, 0xf8 } },
		{ "movdiri", 7, 0, 'c', 27, 1, 4, { 0x0f, 0x38, 0xf9, 0x07 } },
		{ "serialize", 7, 0, 'd', 14, 1, 3, { 0x0f, 0x01, 0xe8 } },
		{ "waitpkg tpause", 7, 0, 'c', 5, 1, 4, { 0x66, 0x0f, 0xae, 0xf1 } },
		{ "lahf in 64-bit mode", 0x80000001, 0, 'c', 0, 1, 1, { 0x9f } },
		{ "sse4a", 0x80000001, 0, 'c', 6, 1, 5, { 0x66, 0x0f, 0x79, 0xc0, 0x90 } },
		{ "prefetchw", 0x80000001, 0, 'c', 8, 0, 3, { 0x0f, 0x0d, 0x0f } },
		{ "xop", 0x80000001, 0, 'c', 11, 0, 5, { 0x8f, 0xe9, 0x78, 0x81, 0xc0 } },
		{ "fma4", 0x80000001, 0, 'c', 16, 1, 6, { 0xc4, 0xe3, 0x79, 0x68, 0xc0, 0 } },
		{ "tbm", 0x80000001, 0, 'c', 21, 0, 5, { 0x8f, 0xe9, 0x78, 0x01, 0xc8 } },
		{ "3dnow", 0x80000001, 0, 'd', 31, 1, 4, { 0x0f, 0x0f, 0xc0, 0x9e } },
		{ "rdtscp", 0x80000001, 0, 'd', 27, 1, 3, { 0x0f, 0x01, 0xf9 } },
		{ "xsaveopt", 0xd, 1, 'a', 0, 1, 3, { 0x0f, 0xae, 0x37 } },
		{ "xsavec", 0xd, 1, 'a', 1, 1, 3, { 0x0f, 0xc7, 0x27 } },
		{ "clzero", 0x80000008, 0, 'b', 0, 1, 3, { 0x0f, 0x01, 0xfc } },
	};
	ulong cr4 = read_cr4();

	if (cpuid_has(1, 0, 'c', 26)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		u32 allowed = cpuid(0xd, 0).a;
		__asm__ volatile("xsetbv" ::"c"(0), "a"(allowed & 7), "d"(0));
	}
	if (cpuid_has(7, 0, 'b', 0))
		write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
		bool has = cpuid_has(list[i].leaf, list[i].sub, list[i].reg, list[i].bit);
		char name[48] = "feature: ";
		unsigned n = 9;

		for (const char *s = list[i].name; *s; s++)
			name[n++] = *s;
		if (!has && !list[i].strict)
			continue;
		try_code(list[i].c, list[i].len);
		if (has)
			check(!trap.hit, name, "in CPUID, but vector %u", trap.vector);
		else
			/* no error: a virtual CPU cannot always hide what the real one has */
			if (trap.hit && trap.vector == V_UD)
				ok(name);
			else
				print("# %s: not in CPUID, but it runs\n", name);
	}
	write_cr4(cr4);
	/* lzcnt and tzcnt run as bsr and bsf when absent */
	u64 r = 0;
	__asm__ volatile("lzcnt %1, %0" : "=r"(r) : "r"(0x1000ul));
	check_eq("feature: lzcnt, else bsr", r, cpuid_has(0x80000001, 0, 'c', 5) ? 51 : 12);
	__asm__ volatile(
	    "xor %%eax, %%eax; tzcntl %%eax, %%eax; setc %%al; movzbl %%al, %%eax; mov %%rax, %0"
	    : "=r"(r)::"rax", "cc");
	check_eq("feature: tzcnt of 0 sets the carry, bsf does not", r, cpuid_has(7, 0, 'b', 3));
	/* control register bits of absent features cannot be set */
	static const struct {
		const char *name;
		u32 leaf;
		char reg;
		u8 bit, cr4;
	} bits[] = {
		{ "CR4.PCIDE", 1, 'c', 17, 17 },   { "CR4.SMEP", 7, 'b', 7, 20 },
		{ "CR4.SMAP", 7, 'b', 20, 21 },	   { "CR4.FSGSBASE", 7, 'b', 0, 16 },
		{ "CR4.OSXSAVE", 1, 'c', 26, 18 }, { "CR4.UMIP", 7, 'c', 2, 11 },
		{ "CR4.PKE", 7, 'c', 3, 22 },	   { "CR4.PGE", 1, 'd', 13, 7 },
		{ "CR4.DE", 1, 'd', 2, 3 },	   { "CR4.VMXE", 1, 'c', 5, 13 },
		{ "CR4.SMXE", 1, 'c', 6, 14 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(bits); i++) {
		bool has = cpuid_has(bits[i].leaf, 0, bits[i].reg, bits[i].bit);
		if (!has && hostile(bits[i].name))
			continue;
		TRY_WRITE_CR(4, cr4 | 1ul << bits[i].cr4);
		bool set = read_cr4() >> bits[i].cr4 & 1;
		write_cr4(cr4);
		if (has)
			check(!trap.hit && set, bits[i].name, "in CPUID, but vector %u, set %d",
			      trap.vector, set);
		else
			check(trap.hit && trap.vector == V_GP, bits[i].name,
			      "not in CPUID, but it can be set");
	}
}

static bool printable(const char *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (s[i] && (s[i] < 32 || s[i] > 126))
			return false;
	return true;
}

static void general(void)
{
	struct cpuid c = cpuid(0, 0);
	char v[13] = { 0 };

	memcpy(v, &c.b, 4);
	memcpy(v + 4, &c.d, 4);
	memcpy(v + 8, &c.c, 4);
	check(c.a >= 7 && printable(v, 12) && v[0], "vendor and maximum leaf", "max %u", c.a);
	print("# vendor %s, max leaf %#x, leaf 1 %#x\n", v, c.a, cpuid(1, 0).a);
	u64 a, b, cc, d;
	__asm__ volatile("cpuid"
			 : "=a"(a), "=b"(b), "=c"(cc), "=d"(d)
			 : "a"(0xdeadbeef00000000ul), "c"(~0ul));
	check(a == c.a && b == c.b && cc == c.c && d == c.d, "upper halves are ignored and cleared",
	      "%#lx %#lx", (ulong)a, (ulong)b);
	c = cpuid(0x80000000, 0);
	check(c.a >= 0x80000008, "extended leaves", "max %#x", c.a);
	char brand[49] = { 0 };
	for (unsigned i = 0; i < 3; i++) {
		struct cpuid x = cpuid(0x80000002 + i, 0);
		memcpy(brand + i * 16, &x, 16);
	}
	check(printable(brand, 48), "brand string", "%s", brand);
	c = cpuid(0x80000008, 0);
	check((c.a & 0xff) >= 36 && (c.a & 0xff) <= 52 &&
		  ((c.a >> 8 & 0xff) == 48 || (c.a >> 8 & 0xff) == 57),
	      "address sizes", "%#x", c.a);
	check(cpuid_has(0x80000001, 0, 'd', 29) && cpuid_has(0x80000001, 0, 'd', 20) &&
		  cpuid_has(0x80000001, 0, 'd', 11),
	      "long mode, NX and syscall", "missing");
	c = cpuid(7, 1000);
	check(!(c.a | c.b | c.c | c.d), "leaf 7: sub-leaves beyond the last are zero", "%#x", c.a);
	check_eq("leaf 1: OSXSAVE follows CR4 (clear)", cpuid(1, 0).c >> 27 & 1, 0);
	if (cpuid_has(1, 0, 'c', 26)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		check_eq("leaf 1: OSXSAVE follows CR4 (set)", cpuid(1, 0).c >> 27 & 1, 1);
		write_cr4(read_cr4() & ~CR4_OSXSAVE);
	}
	u32 id = cpuid(1, 0).a;
	check((id >> 8 & 15) >= 5, "leaf 1: family", "%#x", id);
	/* dependencies */
	bool dep = true;
	const char *what = "";
#define NEEDS(l1, r1, b1, l2, r2, b2, text)                                                        \
	if (cpuid_has(l1, 0, r1, b1) && !cpuid_has(l2, 0, r2, b2))                                 \
		dep = false, what = text;
	NEEDS(1, 'c', 28, 1, 'c', 26, "AVX without XSAVE");
	NEEDS(7, 'b', 5, 1, 'c', 28, "AVX2 without AVX");
	NEEDS(1, 'c', 12, 1, 'c', 28, "FMA without AVX");
	NEEDS(1, 'c', 29, 1, 'c', 28, "F16C without AVX");
	NEEDS(7, 'b', 16, 7, 'b', 5, "AVX512F without AVX2");
	NEEDS(7, 'c', 9, 1, 'c', 28, "VAES without AVX");
	NEEDS(7, 'c', 9, 1, 'c', 25, "VAES without AES");
	NEEDS(1, 'c', 20, 1, 'c', 19, "SSE4.2 without SSE4.1");
	NEEDS(7, 'b', 10, 1, 'c', 17, "INVPCID without PCID");
	check(dep, "features do not lack what they need", "%s", what);
}

static void xsave_leaf(void)
{
	if (!cpuid_has(1, 0, 'c', 26)) {
		skip("leaf 0xd", "no XSAVE");
		return;
	}
	write_cr4(read_cr4() | CR4_OSXSAVE);
	struct cpuid c = cpuid(0xd, 0);
	u32 mask = c.a;
	check((mask & 3) == 3, "leaf 0xd: x87 and SSE", "%#x", mask);
	u32 want = 576;
	bool good = true;
	for (unsigned i = 2; i < 32; i++) {
		struct cpuid s = cpuid(0xd, i);
		if (mask >> i & 1) {
			good &= s.a > 0 && s.b >= 576 && !(s.c & 1);
			if (s.b + s.a > want)
				want = s.b + s.a;
		}
	}
	check(good, "leaf 0xd: components have places", "no");
	check_eq("leaf 0xd: size of all components", c.c, want);
	for (u32 x = 1; x <= mask && x <= 7; x = x * 2 + 1) {
		if (x & ~mask)
			break;
		__asm__ volatile("xsetbv" ::"c"(0), "a"(x), "d"(0));
		u32 size = cpuid(0xd, 0).b, w = x & 4 ? cpuid(0xd, 2).a + cpuid(0xd, 2).b : 576;
		static const char *const name[] = { "", "leaf 0xd: size with XCR0 1",
						    "", "leaf 0xd: size with XCR0 3",
						    "", "",
						    "", "leaf 0xd: size with XCR0 7" };
		check_eq(name[x], size, w);
		memset(area, 0, PAGE);
		memset(area + size, 0x5a, 64);
		__asm__ volatile("xsave64 (%0)" ::"r"(area), "a"(~0u), "d"(~0u) : "memory");
		bool over = false;
		for (unsigned i = 0; i < 64; i++)
			over |= area[size + i] != 0x5a;
		check(!over, "leaf 0xd: xsave stays within its size", "it wrote beyond %u", size);
	}
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
}

static volatile u32 leaf1[CPU_MAX][4], leafb[CPU_MAX];
static void see(void *arg)
{
	ulong i = (ulong)arg;
	struct cpuid c = cpuid(1, 0);

	leaf1[i][0] = c.a, leaf1[i][1] = c.b, leaf1[i][2] = c.c, leaf1[i][3] = c.d;
	leafb[i] = cpuid(0xb, 0).d;
}

static void topology(void)
{
	unsigned n = smp_start();

	check_eq("topology: CPUs", n, cpu_count);
	see((void *)0);
	bool ids = true, same = true;
	for (ulong i = 1; i < n; i++) {
		smp_run(i, see, (void *)i);
		(void)smp_wait(i);
		ids &= leaf1[i][1] >> 24 == i;
		same &= leaf1[i][0] == leaf1[0][0] && leaf1[i][2] == leaf1[0][2] &&
			leaf1[i][3] == leaf1[0][3];
	}
	check(ids && leaf1[0][1] >> 24 == 0, "topology: initial APIC IDs", "differ");
	check(same, "all CPUs have the same features", "differ");
	u32 logical = cpuid(1, 0).b >> 16 & 0xff;
	bool htt = cpuid_has(1, 0, 'd', 28);
	check(n == 1 || !htt || logical >= 1, "topology: leaf 1", "%u logical CPUs", logical);
	if (cpuid(0, 0).a >= 0xb && cpuid(0xb, 0).b) {
		bool order = true, b_ids = true;
		u32 last_shift = 0, last_count = 0, levels = 0;
		for (u32 l = 0; l < 8; l++) {
			struct cpuid c = cpuid(0xb, l);
			if (!(c.c >> 8 & 0xff))
				break;
			levels++;
			order &= (c.c & 0xff) == l && (c.a & 31) >= last_shift &&
				 (c.b & 0xffff) >= last_count;
			last_shift = c.a & 31;
			last_count = c.b & 0xffff;
		}
		check(order && levels >= 1, "topology: leaf 0xb: levels grow", "%u levels", levels);
		check(last_count <= 1u << last_shift,
		      "topology: leaf 0xb: shift has room for the CPUs", "%u in %u bits",
		      last_count, last_shift);
		for (unsigned i = 0; i < n; i++)
			b_ids &= leafb[i] == i;
		check(b_ids, "topology: leaf 0xb: x2APIC IDs", "%u on the last", leafb[n - 1]);
	} else {
		skip("topology: leaf 0xb", "not there");
	}
	/* caches: the list ends */
	u32 caches = 0;
	for (u32 l = 0; l < 20 && cpuid(4, l).a & 31; l++)
		caches++;
	check(caches < 20, "leaf 4: the list of caches ends", "%u", caches);
	if (cpuid_has(1, 0, 'c', 31)) {
		struct cpuid c = cpuid(0x40000000, 0);
		char sig[13] = { 0 };
		memcpy(sig, &c.b, 12);
		print("# hypervisor %s, max leaf %#x\n", sig, c.a);
		check(printable(sig, 12), "hypervisor leaf", "not text");
		if (!memcmp(sig, "KVMKVMKVM\0\0\0", 12))
			check(c.a == 0 || c.a >= 0x40000001, "KVM leaf: maximum", "%#x", c.a);
	}
}

int main(void)
{
	code = page_alloc();
	area = page_alloc();
	general();
	features();
	xsave_leaf();
	topology();
	return 0;
}
