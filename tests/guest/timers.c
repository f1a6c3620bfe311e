/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks: TSC, PIT, RTC and the ACPI power management timer. They are compared
 * with each other within wide bounds only: the host may stop the guest at any moment.
 */
#include "rt.h"

/* ---- TSC ---- */
static volatile u64 tsc_turn, tsc_bad;
static volatile u64 tsc_shared, tsc_behind;
static void tsc_ping(void *arg)
{
	ulong me = (ulong)arg;

	for (u32 i = 0; i < 2000; i++) {
		while ((tsc_turn & 1) != me)
			pause();
		u64 now;
		u32 lo, hi;
		__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
		now = (u64)hi << 32 | lo;
		/* never behind what the other CPU read before */
		if (now + 10000 < tsc_shared) {
			tsc_bad++;
			tsc_behind = tsc_shared - now;
		}
		tsc_shared = now;
		barrier();
		tsc_turn++;
	}
}

static void tsc(void)
{
	u64 last = rdtsc();
	unsigned back = 0, same = 0;

	for (unsigned i = 0; i < 100000; i++) {
		u64 t = rdtsc();
		back += t < last;
		same += t == last;
		last = t;
	}
	check_eq("TSC: never goes back", back, 0);
	check(same < 100000, "TSC: moves", "stands still");
	if (cpuid_has(0x80000001, 0, 'd', 27)) {
		u32 lo, hi, aux;
		wrmsr(MSR_TSC_AUX, 0x1234);
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		check(((u64)hi << 32 | lo) >= last && aux == 0x1234, "TSC: rdtscp with TSC_AUX",
		      "aux %#x", aux);
		if (cpuid_has(7, 0, 'c', 22)) {
			u64 v = 0;
			__asm__ volatile("rdpid %0" : "=r"(v));
			check_eq("rdpid", v, 0x1234);
		}
		wrmsr(MSR_TSC_AUX, 0);
	} else {
		skip("TSC: rdtscp", "not in CPUID");
	}
	u64 a = rdmsr(0x10), b = rdtsc(), c = rdmsr(0x10);
	check(a <= b && b <= c, "TSC: the MSR is the same counter", "%#llx %#llx %#llx",
	      (unsigned long long)a, (unsigned long long)b, (unsigned long long)c);
	if (cpu_count > 1)
		return; /* the CPUs are compared below: their counters stay alone */
	a = rdtsc();
	wrmsr(0x10, a + (1ull << 40));
	b = rdtsc();
	check(b - a >= 1ull << 40 && b - a < 1ull << 41, "TSC: can be written", "moved by %#llx",
	      (unsigned long long)(b - a));
	if (cpuid_has(7, 0, 'b', 1)) {
		u64 adj = rdmsr(MSR_TSC_ADJUST);
		check(adj >= 1ull << 39, "TSC: writing it moves TSC_ADJUST", "%#llx",
		      (unsigned long long)adj);
		a = rdtsc();
		wrmsr(MSR_TSC_ADJUST, adj + (1ull << 41));
		b = rdtsc();
		check(b - a >= 1ull << 41 && b - a < 1ull << 42, "TSC: TSC_ADJUST moves it",
		      "moved by %#llx", (unsigned long long)(b - a));
		check_eq("TSC: TSC_ADJUST reads back", rdmsr(MSR_TSC_ADJUST), adj + (1ull << 41));
	} else {
		skip("TSC: TSC_ADJUST", "not in CPUID");
	}
}
USER_TEXT __attribute__((naked)) static void u_rdtsc(void)
{
	__asm__("rdtsc; int $0x40");
}
static void tsd(void)
{
	user_run(u_rdtsc, 0, 0);
	check_eq("TSC: rdtsc at CPL 3", trap.vector, V_USER_RET);
	write_cr4(read_cr4() | CR4_TSD);
	user_run(u_rdtsc, 0, 0);
	expect("TSC: rdtsc at CPL 3 with TSD is #GP", V_GP, 0, AT_INSN);
	TRY("rdtsc", ::: "rax", "rdx");
	expect_none("TSC: TSD does not matter at CPL 0");
	write_cr4(read_cr4() & ~CR4_TSD);
}

/* ---- PIT ---- */
static u16 pit_read(unsigned ch)
{
	outb(0x43, ch << 6); /* latch */
	u16 v = inb(0x40 + ch);
	return v | inb(0x40 + ch) << 8;
}

static void pit(void)
{
	outb(0x43, 0x34); /* channel 0, mode 2 */
	outb(0x40, 0xff);
	outb(0x40, 0xff);
	u16 a = pit_read(0);
	check(wait_for(pit_read(0) != a), "PIT: counts", "stays %u", a);
	outb(0x43, 0xe2); /* read-back: status of channel 0 */
	u8 st = inb(0x40);
	check_eq("PIT: read-back status", st & 0x3f, 0x34);
	/* a latched count does not move */
	outb(0x43, 0);
	u8 lo = inb(0x40);
	for (u64 t = rdtsc(); rdtsc() - t < 10000000;)
		pause();
	outb(0x43, 0); /* ignored: the first latch is not read yet */
	u8 hi = inb(0x40);
	u16 latched = lo | hi << 8, later = pit_read(0);
	check(latched != later, "PIT: a latched count stands while the counter runs", "%u %u",
	      latched, later);
	/* channel 2 with its gate: mode 0 counts while the gate is high and raises its output */
	outb(0x61, inb(0x61) & ~3);
	outb(0x43, 0xb0);
	outb(0x42, 0x00);
	outb(0x42, 0x20);
	check_eq("PIT: output of channel 2 low while waiting", inb(0x61) & 0x20, 0);
	u16 v1 = pit_read(2);
	for (u64 t = rdtsc(); rdtsc() - t < 10000000;)
		pause();
	u16 v2 = pit_read(2);
	check(v1 == v2, "PIT: gate low stops channel 2", "%u %u", v1, v2);
	outb(0x61, (inb(0x61) & ~2) | 1);
	check(wait_for(inb(0x61) & 0x20), "PIT: channel 2 raises its output", "no");
	outb(0x61, inb(0x61) & ~3);
	/* frequency against the TSC: 1193182 Hz; only that it is between 50 MHz and 50 GHz of TSC
	 */
	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0xff);
	u64 t0 = rdtsc();
	(void)wait_for(inb(0x61) & 0x20);
	u64 hz = (rdtsc() - t0) * 1193182 / 65535;
	check(hz > 50000000 && hz < 50000000000, "PIT: 55 ms are a sensible number of TSC cycles",
	      "TSC %llu Hz", (unsigned long long)hz);
	print("# TSC about %llu MHz by the PIT\n", (unsigned long long)hz / 1000000);
}

/* ---- RTC ---- */
static u8 cmos(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}
static u8 bcd(u8 v, bool binary)
{
	return binary ? v : (v >> 4) * 10 + (v & 15);
}

static volatile unsigned rtc_irqs;
static volatile u8 rtc_c;
static void on_rtc(struct frame *f)
{
	(void)f;
	rtc_c = cmos(0x0c);
	rtc_irqs++;
	apic_eoi();
}

static void rtc(void)
{
	u8 b = cmos(0x0b);
	bool bin = b & 4;
	u8 sec = 0, min = 0, hour = 0, day = 0, mon = 0, year = 0;

	for (unsigned i = 0; i < 10; i++) {
		(void)wait_for(!(cmos(0x0a) & 0x80));
		sec = bcd(cmos(0), bin);
		min = bcd(cmos(2), bin);
		hour = bcd(cmos(4) & 0x7f, bin);
		day = bcd(cmos(7), bin);
		mon = bcd(cmos(8), bin);
		year = bcd(cmos(9), bin);
		if (sec == bcd(cmos(0), bin))
			break;
	}
	check(sec < 60 && min < 60 && hour < 24 && day >= 1 && day <= 31 && mon >= 1 && mon <= 12 &&
		  year < 100,
	      "RTC: a possible time", "%u:%u:%u %u.%u.%u", hour, min, sec, day, mon, year);
	check(cmos(0x0d) & 0x80, "RTC: time is valid", "%#x", cmos(0x0d));
	/* the second changes within two seconds of any clock: wait in pieces */
	u8 s0 = cmos(0);
	bool moved = false;
	for (unsigned i = 0; i < 5 && !moved; i++)
		moved = wait_for(cmos(0) != s0);
	check(moved, "RTC: seconds move", "stays %#x", s0);
	/* CMOS memory */
	u8 old = cmos(0x50);
	outb(0x70, 0x50);
	outb(0x71, 0xa5);
	check_eq("RTC: CMOS memory", cmos(0x50), 0xa5);
	outb(0x70, 0x50);
	outb(0x71, old);
	/* periodic interrupt on pin 8 */
	on_vector(0x58, on_rtc);
	(void)cmos(0x0c);
	ioapic_set(8, 0x58, cpu_id());
	outb(0x70, 0x0a);
	outb(0x71, 0x26); /* 1024 Hz */
	outb(0x70, 0x0b);
	outb(0x71, b | 0x40);
	sti();
	bool got = wait_for(rtc_irqs >= 3);
	cli();
	outb(0x70, 0x0b);
	outb(0x71, b & ~0x70);
	(void)cmos(0x0c);
	check(got && (rtc_c & 0xc0) == 0xc0, "RTC: periodic interrupt", "%u, register C %#x",
	      rtc_irqs, rtc_c);
	/* One that came between cli and the write is taken here, not for an update. */
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	outb(0x70, 0x0b);
	outb(0x71, (b & ~0x70) | 0x10);
	sti();
	unsigned before = rtc_irqs;
	got = false;
	for (unsigned i = 0; i < 5 && !got; i++)
		got = wait_for(rtc_irqs > before);
	cli();
	outb(0x70, 0x0b);
	outb(0x71, b & ~0x70);
	(void)cmos(0x0c);
	check(got && (rtc_c & 0x90) == 0x90, "RTC: update interrupt", "register C %#x", rtc_c);
	ioapic_set(8, 0x10000, 0);
}

/* ---- ACPI PM timer ---- */
static bool sum0(const u8 *p, u32 n)
{
	u8 s = 0;
	while (n--)
		s += *p++;
	return s == 0;
}

static void pm_timer(void)
{
	const u8 *rsdp = NULL;

	for (const u8 *p = (const u8 *)0xe0000; p < (const u8 *)0x100000; p += 16)
		if (!memcmp(p, "RSD PTR ", 8) && sum0(p, 20))
			rsdp = p;
	if (!rsdp) {
		skip("PM timer", "no ACPI tables");
		return;
	}
	bool x = rsdp[15] >= 2 && *(u64 *)(rsdp + 24);
	const u8 *sdt = (const u8 *)(x ? *(u64 *)(rsdp + 24) : *(u32 *)(rsdp + 16)), *fadt = NULL;
	u32 len = *(u32 *)(sdt + 4);
	bool sums = sum0(sdt, len);
	for (u32 o = 36; o < len; o += x ? 8 : 4) {
		const u8 *t = (const u8 *)(ulong)(x ? *(u64 *)(sdt + o) : *(u32 *)(sdt + o));
		sums &= sum0(t, *(u32 *)(t + 4));
		if (!memcmp(t, "FACP", 4))
			fadt = t;
	}
	check(sums, "ACPI: checksums of the tables", "wrong");
	if (!check(fadt != NULL, "ACPI: FADT", "none"))
		return;
	u16 port = *(u32 *)(fadt + 76);
	if (!port) {
		skip("PM timer", "none in the FADT");
		return;
	}
	bool wide = *(u32 *)(fadt + 112) & 0x100;
	u32 mask = wide ? 0xffffffff : 0xffffff;
	u32 a = inl(port) & mask, back = 0, last = a;
	for (unsigned i = 0; i < 1000; i++) {
		u32 v = inl(port) & mask;
		back += ((v - last) & mask) > mask / 2;
		last = v;
	}
	check_eq("PM timer: never goes back", back, 0);
	check(wait_for((inl(port) & mask) != a), "PM timer: moves", "stays %#x", a);
	/* 3579545 Hz against the PIT over its 55 ms */
	outb(0x61, (inb(0x61) & ~3));
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0xff);
	u32 p0 = inl(port) & mask;
	outb(0x61, (inb(0x61) & ~2) | 1);
	(void)wait_for(inb(0x61) & 0x20);
	u32 ticks = ((inl(port) & mask) - p0) & mask;
	outb(0x61, inb(0x61) & ~3);
	/* 65535 / 1193182 s are 196605 ticks; stops of the guest only make it more */
	check(ticks > 190000, "PM timer: not slower than the PIT", "%u ticks in 55 ms", ticks);
	check(ticks < 20 * 196605, "PM timer: within 20 times the PIT", "%u ticks in 55 ms", ticks);
}

int main(void)
{
	apic_on();
	tsc();
	tsd();
	pit();
	rtc();
	pm_timer();
	if (cpu_count > 1 && smp_start() > 1) {
		tsc_shared = 0;
		smp_run(1, tsc_ping, (void *)1);
		tsc_ping((void *)0);
		check(smp_wait(1), "TSC: ping-pong ends", "no");
		check(!tsc_bad, "TSC: the same on two CPUs", "%llu times behind, by %llu",
		      (unsigned long long)tsc_bad, (unsigned long long)tsc_behind);
	}
	return 0;
}
