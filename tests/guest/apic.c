/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt controllers and the start of other CPUs, for the guest programs. */
#include "rt.h"

static volatile bool x2;

u32 apic_read(u32 reg)
{
	if (x2)
		return rdmsr(0x800 + reg / 16);
	return *(volatile u32 *)(ulong)(0xfee00000 + reg);
}

void apic_write(u32 reg, u32 v)
{
	if (x2)
		wrmsr(0x800 + reg / 16, v);
	else
		*(volatile u32 *)(ulong)(0xfee00000 + reg) = v;
}

void apic_icr(u32 dest, u32 low)
{
	if (x2) {
		barrier();
		__asm__ volatile("mfence; lfence" ::: "memory");
		wrmsr(0x830, (u64)dest << 32 | low);
		return;
	}
	apic_write(APIC_ICR2, dest << 24);
	apic_write(APIC_ICR, low);
	(void)wait_for(!(apic_read(APIC_ICR) & 0x1000));
}

void apic_on(void)
{
	apic_write(APIC_TPR, 0);
	apic_write(APIC_LVT_TIMER, 0x10000);
	apic_write(APIC_LVT_LINT0, 0x10000);
	apic_write(APIC_LVT_LINT1, 0x10000);
	apic_write(APIC_LVT_ERROR, 0x10000);
	apic_write(APIC_SVR, 0x1ff);
}

void apic_x2(void)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
	x2 = true;
}

u32 ioapic_read(u32 reg)
{
	*(volatile u32 *)0xfec00000ul = reg;
	return *(volatile u32 *)0xfec00010ul;
}

void ioapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)0xfec00000ul = reg;
	*(volatile u32 *)0xfec00010ul = v;
}

void ioapic_set(unsigned pin, u32 low, u32 dest)
{
	ioapic_write(0x10 + pin * 2, low | 0x10000);
	ioapic_write(0x11 + pin * 2, dest << 24);
	ioapic_write(0x10 + pin * 2, low);
}

void pic_mask_all(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

#ifdef __x86_64__
u64 ap_stack;

static void wake(struct frame *f)
{
	(void)f;
	cpus[cpu_id()].wakes++;
	apic_eoi();
}

void rt_ap_start(void) __attribute__((noreturn));
void rt_ap_start(void)
{
	struct percpu *c = &cpus[cpu_id()];

	cpu_tables_load(cpu_id());
	apic_on();
	c->online = true;
	for (;;) {
		cli();
		if (c->job) {
			c->job(c->arg);
			barrier();
			c->job = NULL;
		}
		__asm__ volatile("cli" ::: "memory");
		if (c->job)
			continue;
		/* no wake-up is lost: STI holds interrupts off until HLT has begun */
		__asm__ volatile("sti; hlt" ::: "memory");
	}
}

unsigned smp_start(void)
{
	unsigned count = 1;

	apic_on();
	on_vector(V_WAKE, wake);
	cpus[0].online = true;
	for (unsigned i = 1; i < cpu_count; i++) {
		ap_stack = (ulong)cpus[i].stack + STACK_SIZE;
		barrier();
		apic_icr(i, 0x4500); /* INIT */
		for (u64 t = rdtsc(); rdtsc() - t < 1000000;)
			pause();
		apic_icr(i, 0x4601); /* start-up at 0x1000 */
		if (!wait_for(cpus[i].online))
			break;
		count++;
	}
	return count;
}

void smp_run(unsigned cpu, void (*fn)(void *arg), void *arg)
{
	cpus[cpu].arg = arg;
	barrier();
	cpus[cpu].job = fn;
	apic_icr(cpu, 0x4000 | V_WAKE);
}

bool smp_wait(unsigned cpu)
{
	u64 t0 = rdtsc();

	while (cpus[cpu].job && rdtsc() - t0 < 20 * WAIT_CYCLES)
		pause();
	return !cpus[cpu].job;
}
#endif
