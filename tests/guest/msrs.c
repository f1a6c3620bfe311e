/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Model-specific registers: those that operating systems touch, what can be written to
 * them, and #GP for the rest.
 */
#include "rt.h"

static void keeps(const char *name, u32 msr, const u64 *values, unsigned n)
{
	u64 old = try_rdmsr(msr);

	if (trap.hit) {
		fail(name, "rdmsr %#x raised vector %u", msr, trap.vector);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		try_wrmsr(msr, values[i]);
		if (trap.hit) {
			fail(name, "writing %#llx raised vector %u", (unsigned long long)values[i],
			     trap.vector);
			return;
		}
		u64 now = rdmsr(msr);
		if (now != values[i]) {
			fail(name, "wrote %#llx, reads %#llx", (unsigned long long)values[i],
			     (unsigned long long)now);
			wrmsr(msr, old);
			return;
		}
	}
	wrmsr(msr, old);
	ok(name);
}
#define KEEPS(name, msr, ...)                                                                      \
	do {                                                                                       \
		static const u64 v_[] = { __VA_ARGS__ };                                           \
		keeps(name, msr, v_, ARRAY_LEN(v_));                                               \
	} while (0)

static void refuses(const char *name, u32 msr, u64 v)
{
	try_wrmsr(msr, v);
	expect(name, V_GP, 0, AT_INSN);
}

static void bases(void)
{
	u64 top = 0xffff800000000000;

	KEEPS("FS_BASE", MSR_FS_BASE, 0, 0x12345678, 0x7fffffffffff, 0xffff800000000000);
	KEEPS("GS_BASE", MSR_GS_BASE, 0, 0x12345678, 0x7fffffffffff, 0xffff800000000000);
	KEEPS("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0, 0x12345678, 0x7fffffffffff,
	      0xffff800000000000);
	refuses("FS_BASE: not canonical is #GP", MSR_FS_BASE, 0x800000000000);
	refuses("GS_BASE: not canonical is #GP", MSR_GS_BASE, 0x800000000000);
	refuses("KERNEL_GS_BASE: not canonical is #GP", MSR_KERNEL_GS_BASE, 0x8000000000000000);
	KEEPS("STAR", MSR_STAR, 0, 0x0018000800000000, 0x0023001012345678);
	KEEPS("LSTAR", MSR_LSTAR, 0, 0xffff800000001000);
	KEEPS("CSTAR", MSR_CSTAR, 0, 0xffff800000001000);
	KEEPS("SFMASK", MSR_SFMASK, 0, 0x47700, 0xffffffff);
	KEEPS("SYSENTER_CS", MSR_SYSENTER_CS, 0, 0x10);
	KEEPS("SYSENTER_ESP", MSR_SYSENTER_ESP, 0, 0x12345678);
	KEEPS("SYSENTER_EIP", MSR_SYSENTER_EIP, 0, 0x12345678);
	if (cpuid_has(0x80000001, 0, 'd', 27)) {
		KEEPS("TSC_AUX", MSR_TSC_AUX, 0, 5, 0xffffffff);
		if (cpuid(0, 0).b == 0x756e6547)
			refuses("TSC_AUX: upper half is #GP", MSR_TSC_AUX, 1ull << 32);
	}
	/* the bases are used */
	static u64 data[2] = { 11, 22 };
	u64 a, b;
	wrmsr(MSR_FS_BASE, (ulong)data);
	wrmsr(MSR_GS_BASE, (ulong)data + 8);
	__asm__ volatile("movq %%fs:0, %0; movq %%gs:0, %1" : "=r"(a), "=r"(b));
	check(a == 11 && b == 22, "FS and GS bases are used", "%llu %llu", (unsigned long long)a,
	      (unsigned long long)b);
	wrmsr(MSR_KERNEL_GS_BASE, (ulong)data);
	__asm__ volatile("swapgs; movq %%gs:0, %0; swapgs; movq %%gs:0, %1" : "=r"(a), "=r"(b));
	check(a == 11 && b == 22, "swapgs", "%llu %llu", (unsigned long long)a,
	      (unsigned long long)b);
	__asm__ volatile("swapgs" ::: "memory");
	check(rdmsr(MSR_GS_BASE) == (ulong)data && rdmsr(MSR_KERNEL_GS_BASE) == (ulong)data + 8,
	      "swapgs exchanges the MSRs", "no");
	__asm__ volatile("swapgs" ::: "memory");
	/* effective address wraps at 64 bits */
	wrmsr(MSR_GS_BASE, (ulong)data + 0x1000);
	__asm__ volatile("movq %%gs:(%1), %0" : "=r"(a) : "r"(-0x1000l));
	check_eq("GS base with a negative displacement", a, 11);
	/* 32-bit addressing adds the full base afterwards */
	wrmsr(MSR_GS_BASE, (ulong)data - 0xffffff00ul);
	__asm__ volatile("movq %%gs:(%k1), %0" : "=r"(a) : "r"(0xffffffffffffff00ul));
	check_eq("GS base with a 32-bit address", a, 11);
	if (cpuid_has(7, 0, 'b', 0)) {
		TRY("rdfsbase %%rax", ::: "rax");
		expect("rdfsbase: #UD without CR4.FSGSBASE", V_UD, 0, AT_INSN);
		write_cr4(read_cr4() | CR4_FSGSBASE);
		__asm__ volatile("wrfsbase %1; rdfsbase %0" : "=r"(a) : "r"((ulong)data));
		check(a == (ulong)data && rdmsr(MSR_FS_BASE) == a, "wrfsbase and rdfsbase", "%#llx",
		      (unsigned long long)a);
		__asm__ volatile("wrgsbase %1; rdgsbase %0; movq %%gs:8, %0"
				 : "=&r"(a)
				 : "r"((ulong)data));
		check_eq("wrgsbase takes effect at once", a, 22);
		__asm__ volatile("wrfsbase %k1; rdfsbase %0" : "=r"(a) : "r"(0xdeadbeef12345678ul));
		check_eq("wrfsbase of 32 bits clears the upper half", a, 0x12345678);
		TRY("wrfsbase %0", ::"r"(0x800000000000ul));
		expect("wrfsbase: not canonical is #GP", V_GP, 0, AT_INSN);
		TRY("wrgsbase %0", ::"r"(0x8000000000000000ul));
		expect("wrgsbase: not canonical is #GP", V_GP, 0, AT_INSN);
		write_cr4(read_cr4() & ~CR4_FSGSBASE);
	}
	/* loading a selector replaces the base */
	wrmsr(MSR_FS_BASE, top);
	__asm__ volatile("mov %0, %%fs" ::"r"(KDS));
	check_eq("FS: loading a selector loads its base", rdmsr(MSR_FS_BASE), 0);
	gdt_set(0, FREE_SEL, 0x12345678, 0xfffff, 0x93, 0xc);
	__asm__ volatile("mov %0, %%fs" ::"r"(FREE_SEL));
	check_eq("FS: 32-bit base from a descriptor", rdmsr(MSR_FS_BASE), 0x12345678);
	__asm__ volatile("mov %0, %%fs; mov %0, %%gs" ::"r"(0));
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
}

static void memory_types(void)
{
	if (cpuid_has(1, 0, 'd', 16)) {
		KEEPS("PAT", MSR_PAT, 0x0007040600070406, 0x0407050600070106, 0x0606060606060606);
		refuses("PAT: type 2 is #GP", MSR_PAT, 0x0007040600070402);
		refuses("PAT: type 3 is #GP", MSR_PAT, 0x0307040600070406);
		refuses("PAT: type 8 is #GP", MSR_PAT, 0x0007040800070406);
	} else {
		fail("PAT", "not in CPUID");
	}
	if (!cpuid_has(1, 0, 'd', 12)) {
		skip("MTRR", "not in CPUID");
		return;
	}
	u64 cap = try_rdmsr(0xfe);
	expect_none("MTRRcap");
	refuses("MTRRcap: read-only", 0xfe, cap);
	KEEPS("MTRR default type", 0x2ff, 0, 0x806, 0xc06, 0x800);
	refuses("MTRR default type: type 2 is #GP", 0x2ff, 0x802);
	refuses("MTRR default type: reserved bit is #GP", 0x2ff, 1ull << 20);
	static const u32 fixed[] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
				     0x26b, 0x26c, 0x26d, 0x26e, 0x26f };
	bool good = true;
	if (cap & 0x100) {
		for (unsigned i = 0; i < ARRAY_LEN(fixed); i++) {
			u64 old = rdmsr(fixed[i]);
			try_wrmsr(fixed[i], 0x0601050406000106);
			good &= !trap.hit && rdmsr(fixed[i]) == 0x0601050406000106;
			wrmsr(fixed[i], old);
		}
		check(good, "MTRR fixed ranges", "one does not keep its value");
		refuses("MTRR fixed range: type 7 is #GP", 0x250, 7);
	}
	good = true;
	for (unsigned i = 0; i < (cap & 0xff); i++) {
		u64 base = rdmsr(0x200 + 2 * i), mask = rdmsr(0x201 + 2 * i);
		try_wrmsr(0x200 + 2 * i, 0xc0000000 | 1);
		good &= !trap.hit && rdmsr(0x200 + 2 * i) == (0xc0000000 | 1);
		try_wrmsr(0x201 + 2 * i, 0xfc0000800);
		good &= !trap.hit && rdmsr(0x201 + 2 * i) == 0xfc0000800;
		wrmsr(0x201 + 2 * i, mask);
		wrmsr(0x200 + 2 * i, base);
	}
	check(good, "MTRR variable ranges", "one does not keep its value");
}

static void others(void)
{
	u64 efer = rdmsr(MSR_EFER);
	check((efer & 0xd01) == 0xd01, "EFER: SCE LME LMA NXE", "%#llx", (unsigned long long)efer);
	u64 base = rdmsr(MSR_APIC_BASE);
	check((base & 0x900) == 0x900 && (base & 0xfffff000) == 0xfee00000, "APIC_BASE", "%#llx",
	      (unsigned long long)base);
	refuses("APIC_BASE: reserved bit is #GP", MSR_APIC_BASE, base | 1);

	static const struct {
		const char *name;
		u32 msr;
	} reads[] = {
		{ "microcode revision 0x8b", 0x8b },
		{ "MCG_CAP", 0x179 },
		{ "MCG_STATUS", 0x17a },
		{ "DEBUGCTL", 0x1d9 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(reads); i++) {
		(void)try_rdmsr(reads[i].msr);
		check(!trap.hit, reads[i].name, "rdmsr raised vector %u", trap.vector);
	}
	if (cpuid_has(1, 0, 'd', 14)) {
		unsigned banks = rdmsr(0x179) & 0xff;
		bool good = true;
		for (unsigned b = 0; b < banks && b < 32; b++) {
			(void)try_rdmsr(0x400 + 4 * b);
			good &= !trap.hit;
			(void)try_rdmsr(0x401 + 4 * b);
			good &= !trap.hit;
			try_wrmsr(0x401 + 4 * b, 0);
			good &= !trap.hit;
		}
		check(good, "machine check banks", "one raises #GP");
	}
	if (cpuid(0, 0).b == 0x756e6547) {
		(void)try_rdmsr(0x1a0);
		expect_none("MISC_ENABLE");
		check(rdmsr(0x1a0) & 1, "MISC_ENABLE: fast strings", "off");
	} else {
		static const struct {
			const char *name;
			u32 msr;
		} amd[] = { { "HWCR", 0xc0010015 }, { "SYSCFG", 0xc0010010 } };
		for (unsigned i = 0; i < ARRAY_LEN(amd); i++) {
			(void)try_rdmsr(amd[i].msr);
			check(!trap.hit, amd[i].name, "rdmsr raised vector %u", trap.vector);
		}
	}
	if (cpuid_has(7, 0, 'd', 29)) {
		(void)try_rdmsr(0x10a);
		expect_none("ARCH_CAPABILITIES");
		refuses("ARCH_CAPABILITIES: read-only", 0x10a, 0);
	}
	if (cpuid_has(7, 0, 'd', 26) || cpuid_has(0x80000008, 0, 'b', 14)) {
		KEEPS("SPEC_CTRL", 0x48, 0, 1);
		refuses("SPEC_CTRL: reserved bit is #GP", 0x48, 1ull << 40);
	}
	if (cpuid_has(7, 0, 'd', 26) || cpuid_has(0x80000008, 0, 'b', 12)) {
		try_wrmsr(0x49, 1);
		expect_none("PRED_CMD");
		(void)try_rdmsr(0x49);
		expect("PRED_CMD: write-only", V_GP, 0, AT_INSN);
	}
	static const struct {
		const char *name;
		u32 msr;
	} none[] = { { "unknown MSR 0x12345678 is #GP", 0x12345678 },
		     { "unknown MSR 0xc0001234 is #GP", 0xc0001234 },
		     { "unknown MSR 0xffffffff is #GP", 0xffffffff },
		     { "unknown MSR 0x4b564dff is #GP", 0x4b564dff },
		     { "unknown MSR 0x40000fff is #GP", 0x40000fff } };
	for (unsigned i = 0; i < ARRAY_LEN(none); i++) {
		(void)try_rdmsr(none[i].msr);
		bool r = trap.hit && trap.vector == V_GP;
		try_wrmsr(none[i].msr, 0);
		check(r && trap.hit && trap.vector == V_GP, none[i].name, "read %d, write %d", r,
		      trap.hit);
	}
	/* upper halves of the registers do not matter; rdmsr clears them */
	u64 a = ~0ul, c = 0xffffffff00000000ul | MSR_EFER, d = ~0ul;
	__asm__ volatile("rdmsr" : "+a"(a), "+d"(d) : "c"(c));
	check(a == (u32)efer && d == efer >> 32, "rdmsr clears the upper halves", "%#llx %#llx",
	      (unsigned long long)a, (unsigned long long)d);
}

/* ---- KVM's clock ---- */
struct pv_time {
	volatile u32 version, pad;
	volatile u64 tsc, system;
	volatile u32 mul;
	volatile int8_t shift;
	volatile u8 flags, pad2[2];
} __attribute__((packed));
struct pv_wall {
	volatile u32 version, sec, nsec;
};

static u64 pv_now(const struct pv_time *t)
{
	for (;;) {
		u32 v = t->version;
		barrier();
		u64 delta = rdtsc() - t->tsc;
		if (t->shift < 0)
			delta >>= -t->shift;
		else
			delta <<= t->shift;
		u64 ns = t->system + (u64)((unsigned __int128)delta * t->mul >> 32);
		barrier();
		if (!(v & 1) && v == t->version)
			return ns;
	}
}

static void kvm_clock(void)
{
	struct cpuid c = cpuid(0x40000000, 0);

	if (!cpuid_has(1, 0, 'c', 31) || c.b != 0x4b4d564b || c.c != 0x564b4d56 || c.d != 0x4d) {
		skip("kvm-clock", "no KVM leaf");
		return;
	}
	u32 f = cpuid(0x40000001, 0).a;
	if (!(f & 8)) {
		skip("kvm-clock", "not offered");
		return;
	}
	struct pv_time *t = page_alloc();
	struct pv_wall *w = (void *)((u8 *)t + 2048);
	memset(t, 0xff, 64);
	t->version = 0;
	try_wrmsr(0x4b564d01, (ulong)t | 1);
	expect_none("kvm-clock: system time MSR");
	check(!(t->version & 1) && t->mul && t->mul != 0xffffffff, "kvm-clock: page filled",
	      "version %u mul %#x", t->version, t->mul);
	check_eq("kvm-clock: MSR reads back", rdmsr(0x4b564d01), (ulong)t | 1);
	u64 a = pv_now(t), back = 0, last = a;
	for (unsigned i = 0; i < 10000; i++) {
		u64 n = pv_now(t);
		back += n < last;
		last = n;
	}
	check(last > a && !back, "kvm-clock: moves and never goes back", "%llu to %llu",
	      (unsigned long long)a, (unsigned long long)last);
	/* 55 ms of the PIT are 55 ms or more */
	outb(0x61, (inb(0x61) & ~3));
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0xff);
	a = pv_now(t);
	outb(0x61, (inb(0x61) & ~2) | 1);
	(void)wait_for(inb(0x61) & 0x20);
	u64 ns = pv_now(t) - a;
	check(ns > 53000000 && ns < 20ull * 54925000, "kvm-clock: 55 ms of the PIT", "%llu ns",
	      (unsigned long long)ns);
	try_wrmsr(0x4b564d00, (ulong)w);
	expect_none("kvm-clock: wall clock MSR");
	check(!(w->version & 1) && w->sec > 1600000000 && w->nsec < 1000000000,
	      "kvm-clock: wall clock", "version %u sec %u", w->version, w->sec);
	wrmsr(0x4b564d01, 0);
	u32 v = t->version;
	for (u64 k = rdtsc(); rdtsc() - k < 50000000;)
		pause();
	check_eq("kvm-clock: off, the page is left alone", t->version, v);
}

int main(void)
{
	bases();
	memory_types();
	others();
	kvm_clock();
	return 0;
}
