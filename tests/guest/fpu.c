/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87, SSE and AVX state as systems handle it: initial values, save images, XCR0, lazy
 * switching with CR0.TS, and that nothing of it is lost over exceptions, interrupts and
 * CPL changes. Arithmetic itself is compared with the host CPU elsewhere.
 */
#include "rt.h"

#define VA 0x10000000000ul
static u8 img[4096] __attribute__((aligned(64))), img2[4096] __attribute__((aligned(64)));

static void x87(void)
{
	u16 cw = 0, sw = 0xffff;
	static struct {
		u16 cw, r0, sw, r1, tw, r2;
		u32 ip, cs_op, dp, ds;
	} __attribute__((packed)) env;

	__asm__ volatile("fld1; fninit; fnstcw %0; fnstsw %1; fnstenv %2"
			 : "=m"(cw), "=m"(sw), "=m"(env));
	check_eq("fninit: control word", cw, 0x37f);
	check_eq("fninit: status word", sw, 0);
	check_eq("fninit: tag word", env.tw, 0xffff);
	__asm__ volatile("fninit; fld1; fldz; fnstenv %0; fnstsw %1" : "=m"(env), "=m"(sw));
	check_eq("tag word: valid and zero", env.tw, 0x1fff);
	check_eq("top of stack", sw >> 11 & 7, 6);
	/* fnstenv masks all exceptions */
	cw = 0x37b;
	__asm__ volatile("fldcw %1; fnstenv %0; fnstcw %1; fninit" : "=m"(env), "+m"(cw));
	check_eq("fnstenv masks exceptions", cw, 0x37f);
	check_eq("fnstenv saved the old word", env.cw, 0x37b);
	/* stack overflow and underflow */
	__asm__ volatile(
	    "fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fnstsw %0; fninit"
	    : "=m"(sw));
	check_eq("stack overflow: IE, SF and C1", sw & 0x241, 0x241);
	__asm__ volatile("fninit; fstp %%st(0); fnstsw %0; fninit" : "=m"(sw));
	check_eq("stack underflow: IE and SF without C1", sw & 0x241, 0x41);
	/* 80-bit values survive fxsave, fnsave */
	static u8 v[10] = { 1, 2, 3, 4, 5, 6, 7, 0x88, 0x12, 0x40 }, w[10];
	__asm__ volatile("fninit; fldt %1; fnsave %0; frstor %0; fstpt %2; fninit"
			 : "=m"(img), "+m"(v), "=m"(w));
	check(!memcmp(v, w, 10), "fnsave and frstor", "value changed");
	__asm__ volatile("fninit; fldt %1; fxsave64 %0; fninit; fxrstor64 %0; fstpt %2; fninit"
			 : "=m"(img), "+m"(v), "=m"(w));
	check(!memcmp(v, w, 10), "fxsave and fxrstor", "value changed");
	__asm__ volatile("fninit; fldt %1; fxsave64 %0; fninit" : "=m"(img), "+m"(v));
	check(*(u16 *)img == 0x37f && img[4] == 0x80 && !memcmp(img + 32, v, 10) &&
		  (*(u16 *)(img + 2) >> 11 & 7) == 7,
	      "fxsave: image", "cw %#x sw %#x tag %#x", *(u16 *)img, *(u16 *)(img + 2), img[4]);
	/* last instruction pointer */
	u64 ip;
	__asm__ volatile("fninit; 1: fld1; fxsave64 %1; lea 1b(%%rip), %0; fninit"
			 : "=r"(ip), "=m"(img));
	u64 fip = *(u64 *)(img + 8);
	check(fip == ip || fip == 0,
	      "fxsave: instruction pointer (0 where errors are pending only)", "%#llx want %#llx",
	      (unsigned long long)fip, (unsigned long long)ip);
	/* mmx and x87 share registers; emms */
	__asm__ volatile("fninit; movq %1, %%mm3; fxsave64 %0; emms" : "=m"(img) : "m"(*(u64 *)v));
	check(img[4] == 0xff && *(u16 *)(img + 32 + 3 * 16 + 8) == 0xffff,
	      "MMX write makes all tags valid, sets the exponent", "tags %#x exponent %#x", img[4],
	      *(u16 *)(img + 32 + 3 * 16 + 8));
	__asm__ volatile("fnstenv %0; fninit" : "=m"(env));
	check_eq("emms empties all tags", env.tw, 0xffff);
	/* rounding control */
	static double third;
	static float fl[2];
	u16 down = 0x77f, up = 0xb7f;
	(void)third;
	__asm__ volatile("fninit; fldcw %2; fld1; fldl2t; fdivrp; fstps %0; fninit; fldcw %3; "
			 "fld1; fldl2t; fdivrp; fstps %1; fninit"
			 : "=m"(fl[0]), "=m"(fl[1])
			 : "m"(down), "m"(up));
	check(*(u32 *)&fl[0] + 1 == *(u32 *)&fl[1], "rounding down and up differ by one unit",
	      "%#x %#x", *(u32 *)&fl[0], *(u32 *)&fl[1]);
}

static void sse(void)
{
	u32 m = 0, one = 0x3f800000, den = 1, r = 0, big = 0x7f7fffff;

	memset(img, 0, 512);
	__asm__ volatile("fxsave64 %0" : "=m"(img));
	check((*(u32 *)(img + 28) & 0xffff) == 0xffff, "fxsave: MXCSR mask with DAZ", "%#x",
	      *(u32 *)(img + 28));
	m = 0x1f80;
	__asm__ volatile("ldmxcsr %0" ::"m"(m));
	/* denormal operand flag and result */
	__asm__ volatile("movss %2, %%xmm0; mulss %3, %%xmm0; movss %%xmm0, %0; stmxcsr %1"
			 : "=m"(r), "=m"(m)
			 : "m"(den), "m"(one));
	check(r == 1 && (m & 2), "denormal: kept, DE set", "%#x mxcsr %#x", r, m);
	m = 0x1fc0; /* DAZ */
	__asm__ volatile("ldmxcsr %0; movss %2, %%xmm0; mulss %3, %%xmm0; movss %%xmm0, %1"
			 : "+m"(m), "=m"(r)
			 : "m"(den), "m"(one));
	check_eq("denormal: zero with DAZ", r, 0);
	m = 0x9f80; /* FTZ */
	u32 tiny = 0x00800000, half = 0x3f000000;
	__asm__ volatile("ldmxcsr %0; movss %2, %%xmm0; mulss %3, %%xmm0; movss %%xmm0, %1"
			 : "+m"(m), "=m"(r)
			 : "m"(tiny), "m"(half));
	check_eq("denormal result: zero with FTZ", r, 0);
	m = 0x1f80;
	__asm__ volatile(
	    "ldmxcsr %0; movss %2, %%xmm0; mulss %2, %%xmm0; movss %%xmm0, %1; stmxcsr %0"
	    : "+m"(m), "=m"(r)
	    : "m"(big));
	check(r == 0x7f800000 && (m & 0x28) == 0x28, "overflow: infinity, OE and PE",
	      "%#x mxcsr %#x", r, m);
	/* rounding modes of cvtss2si */
	u32 v = 0x40200000; /* 2.5 */
	static const u32 mode[] = { 0x1f80, 0x3f80, 0x5f80, 0x7f80 };
	static const int want[] = { 2, 2, 3, 2 };
	bool good = true;
	for (unsigned i = 0; i < 4; i++) {
		int n;
		__asm__ volatile("ldmxcsr %1; cvtss2si %2, %0" : "=r"(n) : "m"(mode[i]), "m"(v));
		good &= n == want[i];
	}
	check(good, "rounding modes", "wrong");
	m = 0x1f80;
	__asm__ volatile("ldmxcsr %0" ::"m"(m));
	/* each unmasked exception is #XM */
	static const struct {
		const char *name;
		u32 unmask, a, b;
		bool mul;
	} x[] = { { "#XM: invalid", 0x80, 0x7f800000, 0, true },
		  { "#XM: denormal", 0x100, 1, 0x3f800000, true },
		  { "#XM: overflow", 0x400, 0x7f7fffff, 0x7f7fffff, true },
		  { "#XM: underflow", 0x800, 0x00800000, 0x3effffff, true },
		  { "#XM: precision", 0x1000, 0x3f800001, 0x3f800001, true },
		  { "#XM: divide by zero", 0x200, 0x3f800000, 0, false } };
	for (unsigned i = 0; i < ARRAY_LEN(x); i++) {
		u32 c = 0x1f80 & ~x[i].unmask, after = 0;
		__asm__ volatile("ldmxcsr %0; movss %1, %%xmm0; movss %2, %%xmm1" ::"m"(c),
				 "m"(x[i].a), "m"(x[i].b));
		if (x[i].mul)
			TRY("mulss %%xmm1, %%xmm0", ::: "memory");
		else
			TRY("divss %%xmm1, %%xmm0", ::: "memory");
		__asm__ volatile("movss %%xmm0, %0; ldmxcsr %1" : "=m"(after) : "m"(m));
		check(trap.hit && trap.vector == V_XM && trap.error == 0 && trap.ip == trap_insn &&
			  after == x[i].a,
		      x[i].name, "hit %d vector %u result %#x", trap.hit, trap.vector, after);
	}
	/* packed: no lane is written when one faults */
	static u32 a4[4]
	    __attribute__((aligned(16))) = { 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000 };
	static u32 b4[4] __attribute__((aligned(16))) = { 0x3f800000, 0x40000000, 0, 0x40000000 },
			 r4[4];
	u32 c = 0x1f80 & ~0x200u;
	__asm__ volatile("ldmxcsr %0; movaps %1, %%xmm0" ::"m"(c), "m"(a4));
	TRY("divps %0, %%xmm0", ::"m"(b4) : "memory");
	__asm__ volatile("movups %%xmm0, %0; ldmxcsr %1" : "=m"(r4) : "m"(m));
	check(trap.hit && trap.vector == V_XM && !memcmp(r4, a4, 16),
	      "#XM: packed, no lane written", "vector %u", trap.vector);
}

static u32 xcr0_max;
static void xsave(void)
{
	if (!cpuid_has(1, 0, 'c', 26)) {
		skip("xsave", "not in CPUID");
		return;
	}
	TRY("xgetbv", ::"c"(0) : "rax", "rdx");
	expect("xgetbv: #UD without OSXSAVE", V_UD, 0, AT_INSN);
	TRY("xsave64 %0", : "=m"(img) : "a"(7), "d"(0) : "memory");
	expect("xsave: #UD without OSXSAVE", V_UD, 0, AT_INSN);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	u32 lo, hi;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	check_eq("XCR0: 1 at first", lo | (u64)hi << 32, 1);
	xcr0_max = cpuid(0xd, 0).a;
#define XSETBV(c, v) TRY("xsetbv", ::"c"(c), "a"((u32)(v)), "d"((u32)((u64)(v) >> 32)) : "memory")
	XSETBV(0, 2);
	expect("XCR0: without x87 is #GP", V_GP, 0, AT_INSN);
	XSETBV(0, 5);
	expect("XCR0: AVX without SSE is #GP", V_GP, 0, AT_INSN);
	XSETBV(0, 3 | 1ull << 62);
	expect("XCR0: unknown component is #GP", V_GP, 0, AT_INSN);
	XSETBV(1, 3);
	expect("XCR1: #GP", V_GP, 0, AT_INSN);
	TRY("xgetbv", ::"c"(5) : "rax", "rdx");
	expect("xgetbv 5: #GP", V_GP, 0, AT_INSN);
	XSETBV(0, xcr0_max & 7);
	expect_none("XCR0: all components");
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	check_eq("XCR0: reads back", lo, xcr0_max & 7);

	/* image: only what RFBM asks for is written; XSTATE_BV */
	memset(img, 0xee, sizeof(img));
	memset(img + 512, 0, 64);
	__asm__ volatile("fninit; fld1; pcmpeqd %%xmm5, %%xmm5; xsave64 %0"
			 : "+m"(img)
			 : "a"(2), "d"(0)
			 : "memory");
	check(img[32] == 0xee && img[160 + 5 * 16] == 0xff && (*(u64 *)(img + 512) & 2),
	      "xsave: SSE alone", "x87 %#x xmm5 %#x bv %#llx", img[32], img[160 + 80],
	      (unsigned long long)*(u64 *)(img + 512));
	memset(img, 0, sizeof(img));
	__asm__ volatile("xsave64 %0" : "+m"(img) : "a"(~0u), "d"(~0u) : "memory");
	u64 bv = *(u64 *)(img + 512);
	check((bv & 3) == 3 && !(bv & ~(u64)xcr0_max), "xsave: XSTATE_BV", "%#llx",
	      (unsigned long long)bv);
	/* xrstor with a clear bit: initial state */
	u8 x5 = 1;
	u16 cw = 0;
	memcpy(img2, img, sizeof(img));
	*(u64 *)(img2 + 512) = 1;
	__asm__ volatile("xrstor64 %1; movd %%xmm5, %%eax; movb %%al, %0; fnstcw %2"
			 : "=m"(x5), "+m"(img2), "=m"(cw)
			 : "a"(7), "d"(0)
			 : "memory");
	check_eq("xrstor: component not in XSTATE_BV becomes initial", x5, 0);
	*(u64 *)(img2 + 512) = 3;
	__asm__ volatile("xrstor64 %1; movd %%xmm5, %%eax; movb %%al, %0; fninit"
			 : "=m"(x5), "+m"(img2)
			 : "a"(7), "d"(0)
			 : "memory");
	check_eq("xrstor: SSE", x5, 0xff);
	*(u64 *)(img2 + 512) = 1ull << 62;
	TRY("xrstor64 %0", ::"m"(img2), "a"(7), "d"(0) : "memory");
	expect("xrstor: unknown component is #GP", V_GP, 0, AT_INSN);
	*(u64 *)(img2 + 512) = 3;
	img2[512 + 16] = 1;
	TRY("xrstor64 %0", ::"m"(img2), "a"(7), "d"(0) : "memory");
	expect("xrstor: reserved header byte is #GP", V_GP, 0, AT_INSN);
	img2[512 + 16] = 0;
	*(u32 *)(img2 + 24) = 0x11f80;
	TRY("xrstor64 %0", ::"m"(img2), "a"(7), "d"(0) : "memory");
	expect("xrstor: reserved MXCSR bit is #GP", V_GP, 0, AT_INSN);
	*(u32 *)(img2 + 24) = 0x1f80;
	TRY("xsave64 8(%0)", ::"r"(img), "a"(7), "d"(0) : "memory");
	expect("xsave: misaligned is #GP", V_GP, 0, AT_INSN);
	TRY("xsave64 (%0)", ::"r"(VA), "a"(7), "d"(0) : "memory");
	check(trap.hit && trap.vector == V_PF && trap.error == PF_W && trap.cr2 >> 12 == VA >> 12,
	      "xsave: page fault", "vector %u error %#lx", trap.vector, trap.error);
	write_cr0(read_cr0() | CR0_TS);
	TRY("xsave64 (%0)", ::"r"(img), "a"(7), "d"(0) : "memory");
	expect("xsave: #NM with TS", V_NM, 0, AT_INSN);
	TRY("xgetbv", ::"c"(0) : "rax", "rdx");
	expect_none("xgetbv: no #NM with TS");
	write_cr0(read_cr0() & ~CR0_TS);

	if (cpuid_has(0xd, 1, 'a', 1)) {
		memset(img, 0, sizeof(img));
		__asm__ volatile("pcmpeqd %%xmm7, %%xmm7; xsavec64 %0"
				 : "+m"(img)
				 : "a"(7), "d"(0)
				 : "memory");
		check((*(u64 *)(img + 520) >> 63) && (*(u64 *)(img + 512) & 2) &&
			  img[160 + 7 * 16] == 0xff,
		      "xsavec: compacted image", "bv %#llx comp %#llx",
		      (unsigned long long)*(u64 *)(img + 512),
		      (unsigned long long)*(u64 *)(img + 520));
		u32 x7 = 0;
		__asm__ volatile(
		    "pxor %%xmm7, %%xmm7; xrstor64 %1; movd %%xmm7, %%eax; movl %%eax, %0"
		    : "=m"(x7), "+m"(img)
		    : "a"(7), "d"(0)
		    : "memory");
		check_eq("xrstor: compacted image", x7, 0xffffffff);
	} else {
		skip("xsavec", "not in CPUID");
	}
	if (cpuid_has(0xd, 1, 'a', 0)) {
		memset(img, 0, sizeof(img));
		__asm__ volatile("pcmpeqd %%xmm7, %%xmm7; xsaveopt64 %0"
				 : "+m"(img)
				 : "a"(7), "d"(0)
				 : "memory");
		check(img[160 + 7 * 16] == 0xff && (*(u64 *)(img + 512) & 2), "xsaveopt",
		      "bv %#llx", (unsigned long long)*(u64 *)(img + 512));
	} else {
		skip("xsaveopt", "not in CPUID");
	}
	if (cpuid_has(0xd, 1, 'a', 2)) {
		memset(img, 0, sizeof(img));
		__asm__ volatile("fninit; pxor %%xmm0, %%xmm0; xgetbv"
				 : "=a"(lo), "=d"(hi)
				 : "c"(1));
		check(!(lo & ~xcr0_max) && !hi, "xgetbv 1: components in use", "%#x", lo);
	}
}

static void load_all(u8 seed)
{
	static u8 v[16][32] __attribute__((aligned(32)));

	for (unsigned i = 0; i < 16; i++)
		for (unsigned j = 0; j < 32; j++)
			v[i][j] = seed + i * 32 + j * 3;
	__asm__ volatile("vmovdqu %0, %%ymm0; vmovdqu 32+%0, %%ymm1; vmovdqu 64+%0, %%ymm2; "
			 "vmovdqu 96+%0, %%ymm3; vmovdqu 128+%0, %%ymm4;"
			 "vmovdqu 160+%0, %%ymm5; vmovdqu 192+%0, %%ymm6; vmovdqu 224+%0, %%ymm7; "
			 "vmovdqu 256+%0, %%ymm8; vmovdqu 288+%0, %%ymm9;"
			 "vmovdqu 320+%0, %%ymm10; vmovdqu 352+%0, %%ymm11; vmovdqu 384+%0, "
			 "%%ymm12; vmovdqu 416+%0, %%ymm13; vmovdqu 448+%0, %%ymm14;"
			 "vmovdqu 480+%0, %%ymm15" ::"m"(v));
}
static bool same_all(u8 seed)
{
	static u8 v[16][32] __attribute__((aligned(32)));
	bool good = true;

	__asm__ volatile("vmovdqu %%ymm0, %0; vmovdqu %%ymm1, 32+%0; vmovdqu %%ymm2, 64+%0; "
			 "vmovdqu %%ymm3, 96+%0; vmovdqu %%ymm4, 128+%0;"
			 "vmovdqu %%ymm5, 160+%0; vmovdqu %%ymm6, 192+%0; vmovdqu %%ymm7, 224+%0; "
			 "vmovdqu %%ymm8, 256+%0; vmovdqu %%ymm9, 288+%0;"
			 "vmovdqu %%ymm10, 320+%0; vmovdqu %%ymm11, 352+%0; vmovdqu %%ymm12, "
			 "384+%0; vmovdqu %%ymm13, 416+%0; vmovdqu %%ymm14, 448+%0;"
			 "vmovdqu %%ymm15, 480+%0"
			 : "=m"(v));
	for (unsigned i = 0; i < 16; i++)
		for (unsigned j = 0; j < 32; j++)
			good &= v[i][j] == (u8)(seed + i * 32 + j * 3);
	return good;
}

static volatile unsigned ticks, nm_hits;
static void on_timer(struct frame *f)
{
	(void)f;
	ticks++;
	apic_eoi();
}
static void on_pf(struct frame *f)
{
	(void)f;
	map(read_cr2() & ~(PAGE - 1), (ulong)page_alloc(), PTE_P | PTE_W);
}
/* a handler that uses the FPU itself and restores it, as lazy switching does */
static void on_nm(struct frame *f)
{
	(void)f;
	__asm__ volatile("clts");
	nm_hits++;
	__asm__ volatile("xsave64 %0" : "+m"(img) : "a"(7), "d"(0) : "memory");
	__asm__ volatile("vzeroall; fninit; fldpi; pcmpeqd %%xmm3, %%xmm3" ::: "memory");
	__asm__ volatile("xrstor64 %0" ::"m"(img), "a"(7), "d"(0) : "memory");
}
USER_TEXT __attribute__((naked)) static void u_xmm(void)
{
	__asm__("vextractf128 $1, %ymm9, %xmm0; vmovd %xmm0, %eax; int $0x40");
}

static void preserved(void)
{
	if ((xcr0_max & 7) != 7) {
		skip("AVX state", "no AVX");
		return;
	}
	load_all(7);
	check(same_all(7), "AVX: all registers hold their values", "no");
	load_all(31);
	TRY("ud2", ::: "memory");
	check(same_all(31), "AVX: over an exception", "changed");
	/* page faults, cpuid, system instructions */
	load_all(44);
	on_vector(V_PF, on_pf);
	for (unsigned i = 0; i < 8; i++)
		*(volatile u8 *)(VA + i * PAGE) = i;
	on_vector(V_PF, NULL);
	(void)cpuid(1, 0);
	write_cr3(read_cr3());
	invlpg(VA);
	(void)rdmsr(MSR_EFER);
	(void)inb(0x3fd);
	check(same_all(44), "AVX: over page faults and system instructions", "changed");
	/* timer interrupts while it is held and used */
	on_vector(0x70, on_timer);
	apic_on();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVT_TIMER, 0x20070);
	apic_write(APIC_TMICT, 200000);
	bool good = true;
	u32 one = 0x3f800000;
	static double acc;
	__asm__ volatile("fninit; fld1; fldz");
	load_all(99);
	sti();
	for (u64 t0 = rdtsc(); ticks < 50 && rdtsc() - t0 < WAIT_CYCLES;)
		good &= same_all(99);
	cli();
	apic_write(APIC_TMICT, 0);
	u16 sw;
	__asm__ volatile("fnstsw %0; fadd %%st(1), %%st(0); fstpl %1; fninit"
			 : "=m"(sw), "=m"(acc)::"memory");
	u64 bits;
	memcpy(&bits, &acc, 8);
	(void)one;
	check(good && ticks >= 5, "AVX: over timer interrupts", "%u ticks, %s", ticks,
	      good ? "kept" : "changed");
	check((sw >> 11 & 7) == 6 && bits == 0x3ff0000000000000, "x87: over timer interrupts",
	      "sw %#x value %#llx", sw, (unsigned long long)bits);
	/* lazy switching */
	on_vector(V_NM, on_nm);
	good = true;
	for (u8 i = 0; i < 50; i++) {
		load_all(i);
		write_cr0(read_cr0() | CR0_TS);
		good &= same_all(i);
	}
	check(good && nm_hits == 50, "AVX: lazy switching with TS", "%u #NM, %s", nm_hits,
	      good ? "kept" : "changed");
	on_vector(V_NM, NULL);
	/* CPL 3 */
	load_all(5);
	ulong r = user_run(u_xmm, 0, 0);
	u32 want = (u8)(5 + 9 * 32 + 48) | (u8)(5 + 9 * 32 + 51) << 8 |
		   (u8)(5 + 9 * 32 + 54) << 16 | (u32)(u8)(5 + 9 * 32 + 57) << 24;
	check_eq("AVX: seen by CPL 3", (u32)r, want);
	/* legacy SSE keeps the upper halves, VEX clears them */
	load_all(5);
	__asm__ volatile("paddd %%xmm1, %%xmm2; vextractf128 $1, %%ymm2, %%xmm3; vmovd %%xmm3, %0"
			 : "=r"(want));
	check_eq("SSE keeps the upper half", want,
		 (u8)(5 + 2 * 32 + 48) | (u8)(5 + 64 + 51) << 8 | (u8)(5 + 64 + 54) << 16 |
		     (u32)(u8)(5 + 64 + 57) << 24);
	__asm__ volatile(
	    "vpaddd %%xmm1, %%xmm2, %%xmm2; vextractf128 $1, %%ymm2, %%xmm3; vmovd %%xmm3, %0"
	    : "=r"(want));
	check_eq("VEX.128 clears the upper half", want, 0);
	/* switching contexts: two images */
	static u8 ctx[2][1024] __attribute__((aligned(64)));
	good = true;
	for (unsigned i = 0; i < 2; i++) {
		load_all(i * 100);
		__asm__ volatile("xsave64 (%0)" ::"r"(ctx[i]), "a"(7), "d"(0) : "memory");
	}
	for (unsigned i = 0; i < 100; i++) {
		__asm__ volatile("xrstor64 (%0)" ::"r"(ctx[i & 1]), "a"(7), "d"(0) : "memory");
		good &= same_all((i & 1) * 100);
		__asm__ volatile("xsave64 (%0)" ::"r"(ctx[i & 1]), "a"(7), "d"(0) : "memory");
	}
	check(good, "AVX: 100 switches between two contexts", "changed");
	/* AVX off in XCR0: #UD, state kept */
	load_all(66);
	__asm__ volatile("xsetbv" ::"c"(0), "a"(3), "d"(0));
	TRY("vaddps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
	expect("AVX: #UD without XCR0 bit 2", V_UD, 0, AT_INSN);
	TRY("vaddps %%xmm0, %%xmm0, %%xmm0", ::: "memory");
	expect("AVX: #UD of the 128-bit form, too", V_UD, 0, AT_INSN);
	TRY("addps %%xmm0, %%xmm0", ::: "memory");
	expect_none("SSE without XCR0 bit 2");
	__asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	TRY("vaddps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
	expect("AVX: #UD without OSXSAVE", V_UD, 0, AT_INSN);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	write_cr0(read_cr0() | CR0_TS);
	TRY("vaddps %%ymm0, %%ymm0, %%ymm0", ::: "memory");
	expect("AVX: #NM with TS", V_NM, 0, AT_INSN);
	TRY("vmovups (%0), %%ymm0", ::"r"(VA + 0x100000) : "memory");
	expect("AVX: #NM before a page fault", V_NM, 0, AT_INSN);
	write_cr0(read_cr0() & ~CR0_TS);
	TRY("vmovups (%0), %%ymm0", ::"r"(VA + 0x100000) : "memory");
	expect_pf("AVX: page fault", 0, VA + 0x100000, AT_INSN);
	TRY("vmovaps (%0), %%ymm0", ::"r"(img + 16) : "memory");
	expect("AVX: misaligned vmovaps is #GP", V_GP, 0, AT_INSN);
}

int main(void)
{
	x87();
	sse();
	xsave();
	preserved();
	return 0;
}
