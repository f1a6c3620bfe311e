/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts: controllers, priorities, when they are taken and when not (Intel SDM 3A,
 * chapters "Interrupt and Exception Handling" and "Advanced Programmable Interrupt
 * Controller"). Waits are bounded and no case depends on speed. At the end the local
 * APIC goes to x2APIC mode and part of the cases runs again, which is why they all are in
 * this one long file.
 */
#include "rt.h"

static volatile unsigned count; /* interrupts taken since reset_log() */
static volatile u8 log_vector[64];
static volatile ulong log_ip[64];
static volatile bool no_eoi, log_isr;

static void record(struct frame *f)
{
	unsigned i = count % 64;

	log_vector[i] = f->vector;
	log_ip[i] = f->ip;
	log_isr = apic_bit(APIC_ISR, f->vector);
	count++;
	if (!no_eoi)
		apic_eoi();
}

static void reset_log(void)
{
	count = 0;
	log_vector[0] = 0;
	log_ip[0] = 0;
}

#define SELF 0x44000 /* ICR: to itself, assert, fixed */
static void self(unsigned vector)
{
	apic_icr(0, SELF | vector);
}

static void use(unsigned vector)
{
	on_vector(vector, record);
}

static char name_buf[80];
static const char *mode_name = "";
static const char *n(const char *s)
{
	char *p = name_buf;

	for (const char *t = mode_name; *t;)
		*p++ = *t++;
	while (*s)
		*p++ = *s++;
	*p = 0;
	return name_buf;
}

/* ---- self IPIs, IRR and ISR ---- */
static void self_ipi(void)
{
	use(0x61);
	use(0x81);
	use(0x60);
	cli();
	reset_log();
	self(0x61);
	check(wait_for(apic_bit(APIC_IRR, 0x61)), n("self IPI: in IRR with IF clear"),
	      "IRR bit clear");
	check_eq(n("self IPI: not taken with IF clear"), count, 0);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check(wait_for(count == 1) && log_vector[0] == 0x61, n("self IPI: taken after sti"),
	      "count %u", count);
	check(log_isr, n("self IPI: in ISR during the handler"), "ISR bit clear");
	check(!apic_bit(APIC_ISR, 0x61) && !apic_bit(APIC_IRR, 0x61), n("self IPI: gone after EOI"),
	      "still there");
	/* twice the same: one */
	reset_log();
	self(0x61);
	self(0x61);
	(void)wait_for(apic_bit(APIC_IRR, 0x61));
	__asm__ volatile("sti; nop; nop; nop; cli" ::: "memory");
	check_eq(n("self IPI: two of one vector are one"), count, 1);
	/* priority among pending */
	reset_log();
	self(0x61);
	self(0x81);
	self(0x60);
	(void)wait_for(apic_bit(APIC_IRR, 0x60));
	__asm__ volatile("sti; nop; nop; nop; nop; cli" ::: "memory");
	check(count == 3 && log_vector[0] == 0x81 && log_vector[1] == 0x61 && log_vector[2] == 0x60,
	      n("self IPI: highest vector first"), "%u: %#x %#x %#x", count, log_vector[0],
	      log_vector[1], log_vector[2]);
	reset_log();
	no_eoi = true;
	self(0x61);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check_eq(n("PPR: class of the vector in service"), apic_read(APIC_PPR) & 0xf0, 0x60);
	self(0x61);
	check(apic_bit(APIC_ISR, 0x61) && wait_for(apic_bit(APIC_IRR, 0x61)),
	      n("self IPI: pending again while in service"), "no");
	self(0x60);
	__asm__ volatile("sti; nop; nop; nop; cli" ::: "memory");
	check_eq(n("self IPI: same class waits for EOI"), count, 1);
	self(0x81);
	(void)wait_for(count == 2 || apic_bit(APIC_IRR, 0x81));
	__asm__ volatile("sti; nop; nop; nop; cli" ::: "memory");
	check(count == 2 && log_vector[1] == 0x81, n("self IPI: higher class interrupts"),
	      "count %u", count);
	no_eoi = false;
	apic_eoi(); /* ends 0x81 */
	check(!apic_bit(APIC_ISR, 0x81) && apic_bit(APIC_ISR, 0x61),
	      n("EOI: ends the highest in service"), "wrong");
	apic_eoi();
	__asm__ volatile("sti; nop; nop; nop; nop; cli" ::: "memory");
	check(count == 4 && log_vector[2] == 0x61 && log_vector[3] == 0x60,
	      n("EOI: waiting ones follow"), "count %u", count);
	apic_eoi(); /* without any in service: nothing happens */
	reset_log();
	self(0x61);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check_eq(n("EOI: one too many does no harm"), count, 1);
}

/* ---- TPR, CR8 ---- */
static void priorities(void)
{
	use(0x61);
	use(0x91);
	cli();
	reset_log();
	apic_write(APIC_TPR, 0x60);
	check_eq(n("TPR: reads back"), apic_read(APIC_TPR), 0x60);
	check_eq(n("CR8: upper four bits of TPR"), read_cr8(), 6);
	self(0x61);
	__asm__ volatile("sti; nop; nop; nop" ::: "memory");
	check_eq(n("TPR: same class is held"), count, 0);
	self(0x91);
	check(wait_for(count == 1) && log_vector[0] == 0x91, n("TPR: higher class comes through"),
	      "count %u", count);
	write_cr8(7);
	check_eq(n("CR8: to TPR"), apic_read(APIC_TPR), 0x70);
	check_eq(n("PPR: follows TPR"), apic_read(APIC_PPR), 0x70);
	__asm__ volatile("nop; nop");
	check_eq(n("CR8: still held"), count, 1);
	ulong after;
	__asm__ volatile("mov %1, %%cr8; 1: lea 1b(%%rip), %0; nop; nop"
			 : "=r"(after)
			 : "r"(5ul)
			 : "memory");
	check(count == 2 && log_vector[1] == 0x61, n("CR8: lowering it releases at once"),
	      "count %u", count);
	check_eq(n("CR8: taken right after the mov"), log_ip[1], after);
	cli();
	apic_write(APIC_TPR, 0x7f);
	check_eq(n("CR8: low bits of TPR do not show"), read_cr8(), 7);
	check_eq(n("TPR: all eight bits"), apic_read(APIC_TPR), 0x7f);
	TRY_WRITE_CR(8, 16);
	expect(n("CR8: more than 15 is #GP"), V_GP, 0, AT_INSN);
	write_cr8(0);
	reset_log();
	write_cr8(15);
	self(0x91);
	__asm__ volatile("sti; nop; nop; nop; cli" ::: "memory");
	check_eq(n("CR8: 15 holds everything"), count, 0);
	write_cr8(0);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check_eq(n("CR8: 0 lets everything through"), count, 1);
}

/* ---- when an interrupt is taken ---- */
static void windows(void)
{
	ulong want;

	use(0x61);
	cli();
#define PENDING() (reset_log(), self(0x61), (void)wait_for(apic_bit(APIC_IRR, 0x61)))
	PENDING();
	__asm__ volatile("sti; nop; 1: nop; cli; lea 1b(%%rip), %0" : "=r"(want)::"memory");
	check(count == 1 && log_ip[0] == want, n("sti: one instruction runs first"),
	      "count %u at %ld", count, log_ip[0] - want);
	PENDING();
	__asm__ volatile("sti; cli; nop; nop" ::: "memory");
	check_eq(n("sti: followed by cli, nothing is taken"), count, 0);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	PENDING();
	__asm__ volatile("sti; sti; 1: nop; nop; cli; lea 1b(%%rip), %0" : "=r"(want)::"memory");
	check(count == 1 && log_ip[0] == want, n("sti: a second one casts no shadow"),
	      "count %u at %ld", count, log_ip[0] - want);
	PENDING();
	__asm__ volatile("pushfq; orq $0x200, (%%rsp); popfq; 1: nop; nop; cli; lea 1b(%%rip), %0"
			 : "=r"(want)::"memory", "cc");
	check(count == 1 && log_ip[0] == want, n("popf: taken right after it"), "count %u at %ld",
	      count, log_ip[0] - want);
	PENDING();
	__asm__ volatile("sti; jmp 1f; ud2; 1: nop; nop; cli; lea 1b(%%rip), %0"
			 : "=r"(want)::"memory");
	check(count == 1 && log_ip[0] == want, n("sti: the jump runs, taken at its target"),
	      "count %u at %ld", count, log_ip[0] - want);
	PENDING();
	__asm__ volatile("mov %%rsp, %%rax; pushq %1; pushq %%rax; pushq $0x202; pushq %2; lea "
			 "1f(%%rip), %%rax; push %%rax; iretq; 1: nop; cli;"
			 "lea 1b(%%rip), %0"
			 : "=r"(want)
			 : "r"((ulong)KDS), "r"((ulong)KCS)
			 : "rax", "memory", "cc");
	check(count == 1 && log_ip[0] == want, n("iret: taken before the first instruction"),
	      "count %u at %ld", count, log_ip[0] - want);
	PENDING();
	ulong ss;
	__asm__ volatile("mov %%ss, %1; sti; mov %1, %%ss; 1: nop; nop; cli; lea 1b(%%rip), %0"
			 : "=r"(want), "=r"(ss)::"memory");
	check(count == 1 && (log_ip[0] == want || log_ip[0] == want + 1),
	      n("sti, mov ss: taken after it or one later"), "count %u at %ld", count,
	      log_ip[0] - want);
	PENDING();
	__asm__ volatile("sti; hlt; 1: cli; lea 1b(%%rip), %0" : "=r"(want)::"memory");
	check(count == 1 && log_ip[0] == want, n("sti, hlt: wakes, saved RIP after the hlt"),
	      "count %u at %ld", count, log_ip[0] - want);
	/* in a loop without any other instruction */
	PENDING();
	__asm__ volatile("sti; xor %%eax, %%eax; 1: inc %%eax; cmpl $0, %0; je 1b; cli" ::"m"(count)
			 : "rax", "memory", "cc");
	check_eq(n("loop: taken in a tight loop"), count, 1);
	/* registers and flags survive */
	PENDING();
	ulong bad;
	__asm__ volatile("mov $0x1111, %%rax; mov $0x2222, %%rcx; mov $0x3333, %%rdx; mov $0x4444, "
			 "%%rsi; mov $0x5555, %%r8; mov $0x6666, %%r15;"
			 "stc; sti; nop; nop; setnc %%bl; cli; movzbl %%bl, %%ebx; cmp $0x1111, "
			 "%%rax; setne %%al; or %%al, %%bl; cmp $0x2222, %%rcx;"
			 "setne %%al; or %%al, %%bl; cmp $0x3333, %%rdx; setne %%al; or %%al, "
			 "%%bl; cmp $0x4444, %%rsi; setne %%al; or %%al, %%bl;"
			 "cmp $0x5555, %%r8; setne %%al; or %%al, %%bl; cmp $0x6666, %%r15; setne "
			 "%%al; or %%al, %%bl; mov %%rbx, %0"
			 : "=m"(bad)::"rax", "rbx", "rcx", "rdx", "rsi", "r8", "r15", "memory",
			   "cc");
	check(!bad && count == 1, n("registers and flags survive an interrupt"), "changed");
}

/* ---- NMI ---- */
static volatile unsigned nmis, nmi_depth, nmi_max_depth;
static volatile int nmi_mode;
static void send_nmi(void)
{
	apic_icr(cpu_id(), 0x4400);
}
static void on_bp(struct frame *f)
{
	(void)f;
}
static void on_nmi(struct frame *f)
{
	unsigned k = nmis++;

	(void)f;
	if (++nmi_depth > nmi_max_depth)
		nmi_max_depth = nmi_depth;
	if (k == 0 && nmi_mode >= 1) {
		send_nmi();
		send_nmi(); /* the third is lost: one is remembered */
		for (volatile unsigned i = 0; i < 10000; i++)
			;
		if (nmi_mode == 2)
			__asm__ volatile("int3"); /* its IRET ends the masking */
	}
	nmi_depth--;
}

static void nmi(void)
{
	on_vector(V_NMI, on_nmi);
	on_vector(V_BP, on_bp);
	cli();
	nmis = nmi_max_depth = 0, nmi_mode = 0;
	send_nmi();
	check(wait_for(nmis == 1), n("NMI: taken with IF clear"), "count %u", nmis);
	nmis = nmi_max_depth = 0, nmi_mode = 1;
	send_nmi();
	check(wait_for(nmis == 2) && nmi_max_depth == 1,
	      n("NMI: masked until IRET, one remembered"), "count %u depth %u", nmis,
	      nmi_max_depth);
	nmis = nmi_max_depth = 0, nmi_mode = 2;
	send_nmi();
	check(wait_for(nmis == 2) && nmi_max_depth == 2,
	      n("NMI: an IRET of another handler unmasks"), "count %u depth %u", nmis,
	      nmi_max_depth);
	check(wait_for(nmis == 2), n("NMI: no third"), "count %u", nmis);
	nmis = 0, nmi_mode = 0;
	use(0x61);
	reset_log();
	self(0x61);
	(void)wait_for(apic_bit(APIC_IRR, 0x61));
	send_nmi();
	(void)wait_for(nmis == 1);
	check(nmis == 1 && count == 0, n("NMI: does not let a masked interrupt in"),
	      "nmis %u count %u", nmis, count);
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check_eq(n("NMI: the interrupt comes after sti"), count, 1);
	on_vector(V_BP, NULL);
	on_vector(V_NMI, NULL);
}

/* ---- LAPIC timer ---- */
#define V_TIMER 0x70
static void timer(void)
{
	use(V_TIMER);
	cli();
	reset_log();
	apic_write(APIC_TDCR, 0xb); /* divide by 1 */
	apic_write(APIC_LVT_TIMER, V_TIMER);
	apic_write(APIC_TMICT, 100000);
	u32 a = apic_read(APIC_TMCCT);
	check(a <= 100000, n("timer: current count not above the initial one"), "%u", a);
	sti();
	check(wait_for(count == 1), n("timer: one-shot fires"), "count %u", count);
	check_eq(n("timer: one-shot ends at 0"), apic_read(APIC_TMCCT), 0);
	for (u64 t = rdtsc(); rdtsc() - t < 20000000;)
		pause();
	check_eq(n("timer: one-shot fires once"), count, 1);
	cli();
	apic_write(APIC_TMICT, 1000000000);
	a = apic_read(APIC_TMCCT);
	check(wait_for(apic_read(APIC_TMCCT) < a), n("timer: counts down"), "stays %u", a);
	apic_write(APIC_TMICT, 0);
	check_eq(n("timer: 0 stops it"), apic_read(APIC_TMCCT), 0);
	/* hlt ended by the timer */
	reset_log();
	ulong want;
	apic_write(APIC_TMICT, 2000000);
	__asm__ volatile("sti; hlt; 1: cli; lea 1b(%%rip), %0" : "=r"(want)::"memory");
	check(count == 1, n("timer: ends hlt"), "count %u", count);
	/* masked: counts, but no interrupt */
	reset_log();
	apic_write(APIC_LVT_TIMER, 0x10000 | V_TIMER);
	apic_write(APIC_TMICT, 10000);
	sti();
	check(wait_for(apic_read(APIC_TMCCT) == 0), n("timer: masked one counts down"), "%u",
	      apic_read(APIC_TMCCT));
	for (unsigned i = 0; i < 1000; i++)
		pause();
	check_eq(n("timer: masked one does not fire"), count, 0);
	/* periodic */
	apic_write(APIC_LVT_TIMER, 0x20000 | V_TIMER);
	apic_write(APIC_TMICT, 500000);
	check(wait_for(count >= 5), n("timer: periodic"), "count %u", count);
	unsigned seen = 0;
	for (unsigned i = 0; i < 3; i++) {
		unsigned before = count;
		__asm__ volatile("sti; hlt");
		seen += count > before;
	}
	check_eq(n("timer: periodic ends hlt each time"), seen, 3);
	apic_write(APIC_TMICT, 0);
	(void)apic_read(APIC_TMCCT);
	for (unsigned i = 0; i < 100000; i++)
		pause();
	unsigned c = count;
	for (u64 t = rdtsc(); rdtsc() - t < 20000000;)
		pause();
	check_eq(n("timer: periodic stopped"), count, c);
	/* divider */
	cli();
	apic_write(APIC_LVT_TIMER, 0x10000);
	apic_write(APIC_TDCR, 0xa); /* 128 */
	check_eq(n("timer: divide register"), apic_read(APIC_TDCR), 0xa);
	apic_write(APIC_TMICT, ~0u);
	u32 slow0 = apic_read(APIC_TMCCT);
	u64 t0 = rdtsc();
	while (rdtsc() - t0 < 50000000)
		pause();
	u32 slow = slow0 - apic_read(APIC_TMCCT);
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_TMICT, ~0u);
	u32 fast0 = apic_read(APIC_TMCCT);
	t0 = rdtsc();
	while (rdtsc() - t0 < 50000000)
		pause();
	u32 fast = fast0 - apic_read(APIC_TMCCT);
	apic_write(APIC_TMICT, 0);
	/* wide: the host may stop us between the reads */
	check(fast / 4 > slow, n("timer: dividing by 128 is slower"), "fast %u slow %u", fast,
	      slow);

	if (!cpuid_has(1, 0, 'c', 24)) {
		skip(n("timer: TSC deadline"), "not in CPUID");
		return;
	}
	cli();
	reset_log();
	apic_write(APIC_LVT_TIMER, 0x40000 | V_TIMER);
	__asm__ volatile("mfence" ::: "memory");
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
	sti();
	check(wait_for(count == 1), n("deadline: fires"), "count %u", count);
	check_eq(n("deadline: reads 0 after it"), rdmsr(MSR_TSC_DEADLINE), 0);
	wrmsr(MSR_TSC_DEADLINE, 1);
	check(wait_for(count == 2), n("deadline: in the past fires at once"), "count %u", count);
	u64 far = rdtsc() + (1ull << 50);
	wrmsr(MSR_TSC_DEADLINE, far);
	check_eq(n("deadline: reads back"), rdmsr(MSR_TSC_DEADLINE), far);
	apic_write(APIC_TMICT, 1000);
	for (unsigned i = 0; i < 10000; i++)
		pause();
	check_eq(n("deadline: initial count is ignored"), count, 2);
	check_eq(n("deadline: current count is 0"), apic_read(APIC_TMCCT), 0);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 300000000);
	wrmsr(MSR_TSC_DEADLINE, 0);
	for (u64 t = rdtsc(); rdtsc() - t < 400000000;)
		pause();
	check_eq(n("deadline: 0 disarms"), count, 2);
	cli();
	reset_log();
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
	u64 due = rdmsr(MSR_TSC_DEADLINE);
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	u64 now = rdtsc();
	check(count == 1 && (due == 0 || now >= due), n("deadline: never early"),
	      "due %#llx now %#llx", (unsigned long long)due, (unsigned long long)now);
	wrmsr(MSR_TSC_DEADLINE, far);
	apic_write(APIC_LVT_TIMER, V_TIMER);
	check_eq(n("deadline: disarmed by leaving the mode"), rdmsr(MSR_TSC_DEADLINE), 0);
	apic_write(APIC_LVT_TIMER, 0x10000);
}

/* ---- PIT through the IOAPIC ---- */
#define V_PIT 0x51
static void pit_mode(u8 mode, u16 value)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, value & 0xff);
	outb(0x40, value >> 8);
}

static void pit(void)
{
	use(V_PIT);
	cli();
	reset_log();
	ioapic_set(2, 0x10000, 0);
	pit_mode(2, 1193);
	sti();
	for (u64 t = rdtsc(); rdtsc() - t < 30000000;)
		pause();
	check_eq(n("PIT: nothing while PIC and IOAPIC are masked"), count, 0);
	ioapic_set(2, V_PIT, cpu_id());
	check(wait_for(count >= 5), n("PIT: rate generator through the IOAPIC"), "count %u", count);
	unsigned before = count;
	__asm__ volatile("sti; hlt; hlt" ::: "memory");
	check(count >= before + 2, n("PIT: ends hlt"), "count %u", count - before);
	ioapic_set(2, 0x10000 | V_PIT, cpu_id());
	for (unsigned i = 0; i < 100000; i++)
		pause();
	unsigned c = count;
	for (u64 t = rdtsc(); rdtsc() - t < 30000000;)
		pause();
	check_eq(n("PIT: masked again"), count, c);
	/* mode 0: one */
	cli();
	pit_mode(0, 0xffff);
	ioapic_set(2, V_PIT, cpu_id());
	reset_log();
	pit_mode(0, 2000);
	sti();
	check(wait_for(count >= 1), n("PIT: mode 0 fires"), "count %u", count);
	for (u64 t = rdtsc(); rdtsc() - t < 50000000;)
		pause();
	check_eq(n("PIT: mode 0 fires once"), count, 1);
	cli();
	ioapic_set(2, 0x10000, 0);
}

/* ---- IOAPIC, level-triggered: the UART's "transmitter empty" on pin 4 ---- */
#define V_UART 0x52
static volatile unsigned uart_clear_at;
static void on_uart(struct frame *f)
{
	record(f);
	(void)f;
}
static void on_uart_eoi(struct frame *f)
{
	count++;
	log_vector[0] = f->vector;
	if (count >= uart_clear_at)
		outb(0x3f9, 0);
	apic_eoi();
}

static void ioapic(void)
{
	u32 ver = ioapic_read(1);

	check((ver & 0xff) >= 0x11 && (ver >> 16 & 0xff) == 23, n("IOAPIC: version, 24 pins"),
	      "%#x", ver);
	ioapic_set(20, 0x1f0a5, 0x0);
	check_eq(n("IOAPIC: entry reads back, status bits are read-only"), ioapic_read(0x10 + 40),
		 0x1a0a5);
	ioapic_write(0x11 + 40, 0xab000000);
	check_eq(n("IOAPIC: destination reads back"), ioapic_read(0x11 + 40), 0xab000000);
	ioapic_set(20, 0x10000, 0);

	cli();
	while (!(inb(0x3fd) & 0x40))
		pause();
	outb(0x3fc, inb(0x3fc) | 8); /* OUT2 lets the interrupt out */
	/* the line stays high until the enable bit goes: each EOI brings it again */
	on_vector(V_UART, on_uart_eoi);
	uart_clear_at = 3;
	reset_log();
	ioapic_set(4, 0x8000 | V_UART, cpu_id());
	outb(0x3f9, 2);
	sti();
	bool got = wait_for(count >= 3);
	for (unsigned i = 0; i < 100000; i++)
		pause();
	unsigned c = count;
	cli();
	outb(0x3f9, 0);
	check(got && c == 3, n("IOAPIC: level comes again after EOI until the line falls"),
	      "count %u", c);
	/* remote IRR while in service */
	on_vector(V_UART, on_uart);
	no_eoi = true;
	reset_log();
	outb(0x3f9, 2);
	sti();
	got = wait_for(count == 1);
	u32 e = ioapic_read(0x18);
	bool tmr = apic_bit(APIC_TMR, V_UART);
	for (unsigned i = 0; i < 10000; i++)
		pause();
	cli();
	c = count;
	outb(0x3f9, 0);
	no_eoi = false;
	apic_eoi();
	u32 e2 = ioapic_read(0x18);
	check(got && c == 1, n("IOAPIC: level is not sent again before EOI"), "count %u", c);
	check(e & 0x4000, n("IOAPIC: remote IRR set while in service"), "%#x", e);
	check(tmr, n("IOAPIC: TMR bit of a level interrupt"), "clear");
	check(!(e2 & 0x4000), n("IOAPIC: remote IRR cleared by EOI"), "%#x", e2);
	__asm__ volatile("sti; nop; nop; cli");
	check_eq(n("IOAPIC: nothing after the line fell"), count, 1);
	/* edge: once per rising edge */
	ioapic_set(4, V_UART, cpu_id());
	reset_log();
	outb(0x3f9, 2);
	sti();
	got = wait_for(count == 1);
	for (unsigned i = 0; i < 10000; i++)
		pause();
	c = count;
	outb(0x3f9, 0);
	outb(0x3f9, 2);
	/* no output here: each character makes an edge */
	bool next = wait_for(count == 2);
	outb(0x3f9, 0);
	check(got && c == 1, n("IOAPIC: edge comes once though the line stays high"), "count %u",
	      c);
	check(next, n("IOAPIC: next edge"), "count %u", count);
	cli();
	check(!apic_bit(APIC_TMR, V_UART), n("IOAPIC: TMR bit of an edge interrupt"), "set");
	outb(0x3f9, 0);
	(void)inb(0x3fa);
	/* logical destination */
	if (!*mode_name) {
		apic_write(APIC_DFR, 0xffffffff);
		apic_write(APIC_LDR, 0x02000000);
		ioapic_set(4, 0x800 | V_UART, 0x02);
		reset_log();
		outb(0x3f9, 2);
		sti();
		check(wait_for(count == 1), n("IOAPIC: logical destination"), "count %u", count);
		cli();
		outb(0x3f9, 0);
		(void)inb(0x3fa);
		ioapic_set(4, 0x800 | V_UART, 0x04);
		reset_log();
		outb(0x3f9, 2);
		sti();
		for (unsigned i = 0; i < 100000; i++)
			pause();
		check_eq(n("IOAPIC: logical destination of others"), count, 0);
		cli();
		outb(0x3f9, 0);
		ioapic_set(4, 0x900 | V_UART, 0x02);
		reset_log();
		outb(0x3f9, 2);
		sti();
		check(wait_for(count == 1), n("IOAPIC: lowest priority"), "count %u", count);
		cli();
		outb(0x3f9, 0);
	}
	ioapic_set(4, 0x10000, 0);
}

/* ---- registers ---- */
static void registers(void)
{
	u32 v = apic_read(APIC_VERSION);

	check((v & 0xf0) == 0x10 && (v >> 16 & 0xff) >= 4, n("APIC: version"), "%#x", v);
	if (!*mode_name)
		check_eq(n("APIC: ID register fits CPUID"), apic_read(APIC_ID) >> 24,
			 cpuid(1, 0).b >> 24);
	check(rdmsr(MSR_APIC_BASE) & 0x100, n("APIC: BSP bit"), "%#llx",
	      (unsigned long long)rdmsr(MSR_APIC_BASE));
	check_eq(n("APIC: base address"), rdmsr(MSR_APIC_BASE) & 0xfffff000, 0xfee00000);
	apic_write(APIC_LVT_LINT1, 0x10400);
	check_eq(n("APIC: LVT reads back"), apic_read(APIC_LVT_LINT1), 0x10400);
	/* software disable masks every LVT entry */
	apic_write(APIC_LVT_TIMER, V_TIMER);
	apic_write(APIC_SVR, 0xff);
	check(apic_read(APIC_LVT_TIMER) & 0x10000, n("APIC: software disable masks the LVT"), "%#x",
	      apic_read(APIC_LVT_TIMER));
	apic_write(APIC_SVR, 0x1ff);
	check(apic_read(APIC_LVT_TIMER) & 0x10000, n("APIC: LVT stays masked"), "%#x",
	      apic_read(APIC_LVT_TIMER));
	/* illegal vector */
	use(0x6f);
	use(0x05); /* must not come */
	reset_log();
	apic_write(APIC_ESR, 0);
	apic_write(APIC_LVT_ERROR, 0x6f);
	sti();
	self(0x05);
	bool got = wait_for(count == 1) && log_vector[0] == 0x6f;
	apic_write(APIC_ESR, 0);
	u32 esr = apic_read(APIC_ESR);
	on_vector(0x05, NULL);
	check(got && (esr & 0x60), n("APIC: illegal vector raises the error interrupt"),
	      "count %u ESR %#x", count, esr);
	cli();
	apic_write(APIC_ESR, 0);
	apic_write(APIC_ESR, 0);
	check_eq(n("APIC: error status cleared"), apic_read(APIC_ESR), 0);
	apic_write(APIC_LVT_ERROR, 0x10000);
	/* shorthands on one CPU */
	use(0x62);
	reset_log();
	apic_icr(0, 0x80000 | 0x4000 | 0x62); /* all with self */
	sti();
	check(wait_for(count == 1), n("IPI: all including self"), "count %u", count);
	apic_icr(0, 0xc0000 | 0x4000 | 0x62); /* all but self */
	for (unsigned i = 0; i < 100000; i++)
		pause();
	check_eq(n("IPI: all excluding self"), count, 1);
	apic_icr(cpu_id(), 0x4000 | 0x62);
	check(wait_for(count == 2), n("IPI: physical destination"), "count %u", count);
	apic_icr(*mode_name ? 0xffffffff : 0xff, 0x4000 | 0x62);
	check(wait_for(count == 3), n("IPI: broadcast destination"), "count %u", count);
	apic_icr(77, 0x4000 | 0x62);
	for (unsigned i = 0; i < 100000; i++)
		pause();
	check_eq(n("IPI: absent destination"), count, 3);
	cli();
}

static void x2apic(void)
{
	if (!cpuid_has(1, 0, 'c', 21)) {
		skip("x2APIC", "not in CPUID");
		return;
	}
	(void)try_rdmsr(0x802);
	expect("x2APIC: MSRs in xAPIC mode are #GP", V_GP, 0, AT_INSN);
	u64 base = rdmsr(MSR_APIC_BASE);
	try_wrmsr(MSR_APIC_BASE, (base & ~0x800ull) | 0x400);
	expect("x2APIC: EXTD without EN is #GP", V_GP, 0, AT_INSN);
	apic_x2();
	mode_name = "x2APIC: ";
	check_eq("x2APIC: mode bits", rdmsr(MSR_APIC_BASE) & 0xc00, 0xc00);
	try_wrmsr(MSR_APIC_BASE, base);
	expect("x2APIC: back to xAPIC is #GP", V_GP, 0, AT_INSN);
	check_eq("x2APIC: ID is the full 32 bits", rdmsr(0x802), cpuid(1, 0).b >> 24);
	u32 id = rdmsr(0x802);
	check_eq("x2APIC: LDR is derived", rdmsr(0x80d), (id >> 4) << 16 | 1u << (id & 15));
	apic_write(APIC_SVR, 0x1ff);
	static const struct {
		const char *name;
		u32 msr;
		u64 val;
		bool write;
	} gp[] = {
		{ "x2APIC: DFR read is #GP", 0x80e, 0, 0 },
		{ "x2APIC: ICR high read is #GP", 0x831, 0, 0 },
		{ "x2APIC: EOI read is #GP", 0x80b, 0, 0 },
		{ "x2APIC: self IPI read is #GP", 0x83f, 0, 0 },
		{ "x2APIC: EOI of 1 is #GP", 0x80b, 1, 1 },
		{ "x2APIC: ESR of 1 is #GP", 0x828, 1, 1 },
		{ "x2APIC: ID write is #GP", 0x802, 0, 1 },
		{ "x2APIC: LDR write is #GP", 0x80d, 0, 1 },
		{ "x2APIC: PPR write is #GP", 0x80a, 0, 1 },
		{ "x2APIC: version write is #GP", 0x803, 0, 1 },
		{ "x2APIC: TPR of 256 is #GP", 0x808, 0x100, 1 },
		{ "x2APIC: IRR write is #GP", 0x820, 0, 1 },
		{ "x2APIC: current count write is #GP", 0x839, 0, 1 },
		{ "x2APIC: SVR reserved bit is #GP", 0x80f, 1ull << 20, 1 },
		{ "x2APIC: timer LVT reserved bit is #GP", 0x832, 1ull << 20, 1 },
		{ "x2APIC: register 0x840 is #GP", 0x840, 0, 0 },
		{ "x2APIC: register 0x8ff is #GP", 0x8ff, 0, 0 },
		{ "x2APIC: register 0x800 is #GP", 0x800, 0, 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(gp); i++) {
		if (gp[i].write)
			try_wrmsr(gp[i].msr, gp[i].val);
		else
			(void)try_rdmsr(gp[i].msr);
		expect(gp[i].name, V_GP, 0, AT_INSN);
	}
	use(0x63);
	reset_log();
	cli();
	wrmsr(0x83f, 0x63);
	check(wait_for(apic_bit(APIC_IRR, 0x63)), "x2APIC: self IPI register", "not pending");
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	check_eq("x2APIC: self IPI taken", count, 1);
	wrmsr(0x830, 0x4000 | 0x63 | 0x40000);
	check(!(rdmsr(0x830) & 0x1000), "x2APIC: no delivery status", "set");
	__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	registers();
	self_ipi();
	priorities();
	windows();
	nmi();
	timer();
	ioapic();
}

int main(void)
{
	apic_on();
	registers();
	self_ipi();
	priorities();
	windows();
	nmi();
	timer();
	pit();
	ioapic();
	x2apic();
	return 0;
}
