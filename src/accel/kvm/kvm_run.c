/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a vCPU: exits of the kernel become accesses to the buses, or the
 * few exits that the monitor decides.
 *
 * Kicks: the kicker sets `kicked`, then `immediate_exit`, then looks at
 * `inside` and sends a signal. The vCPU's thread clears immediate_exit before
 * it takes `kicked`. So a kick that comes
 *  - before KVM_RUN makes it return at once (immediate_exit);
 *  - during KVM_RUN ends it (signal);
 *  - between the clearing and the taking makes the next KVM_RUN return at once.
 * The signal is never blocked in vCPU threads; its handler does nothing.
 *
 * After a register access the kernel finishes the instruction at the next
 * KVM_RUN, and with immediate_exit does only that. So a kick ends the loop
 * after KVM_RUN has returned, never between an access and its completion: the
 * vCPU's state is whole then.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/kvm_kick.h"
#include "base/util.h"

static void set_immediate_exit(struct kvm_vcpu *cpu, uint8_t val)
{
	__atomic_store_n(&cpu->run->immediate_exit, val, __ATOMIC_SEQ_CST);
}

void kvm_vcpu_kick(struct accel_vcpu *v)
{
	struct kvm_vcpu *cpu = (struct kvm_vcpu *)v;

	atomic_store(&cpu->kicked, true);
	set_immediate_exit(cpu, 1);
	if (atomic_load(&cpu->inside))
		kvm_kick_thread(cpu->tid);
}

static void do_io(struct kvm_vcpu *cpu)
{
	struct kvm_run *run = cpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size;

	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint64_t val = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&val, data, size);
			bus_write(cpu->vm->pio, run->io.port, size, val);
		} else {
			val = bus_read(cpu->vm->pio, run->io.port, size);
			memcpy(data, &val, size);
		}
	}
}

/* An access of another length than the buses know goes byte by byte. */
static void do_mmio(struct kvm_vcpu *cpu)
{
	struct kvm_run *run = cpu->run;
	unsigned len = run->mmio.len, size = len & (len - 1) ? 1 : len;

	for (unsigned off = 0; off < len; off += size) {
		uint64_t val = 0;

		if (run->mmio.is_write) {
			memcpy(&val, run->mmio.data + off, size);
			bus_write(cpu->vm->mmio, run->mmio.phys_addr + off, size, val);
		} else {
			val = bus_read(cpu->vm->mmio, run->mmio.phys_addr + off, size);
			memcpy(run->mmio.data + off, &val, size);
		}
	}
}

static uint64_t rip_of(struct kvm_vcpu *cpu)
{
	struct kvm_regs regs = { 0 };

	/* sandbox: vcpu: ioctl(*, KVM_GET_REGS) */
	kvm_sys_call(cpu->fd, KVM_GET_REGS, (uintptr_t)&regs);
	return regs.rip;
}

/* The bytes at rip, when the kernel can tell where they are; "" otherwise. */
static void code_text(struct kvm_vcpu *cpu, uint64_t rip, char *text, size_t size)
{
	struct kvm_sregs sregs = { 0 };
	struct kvm_translation tr = { 0 };
	const uint8_t *code;
	size_t at = 0;

	text[0] = 0;
	/* sandbox: vcpu: ioctl(*, KVM_GET_SREGS), ioctl(*, KVM_TRANSLATE) */
	if (kvm_sys_call(cpu->fd, KVM_GET_SREGS, (uintptr_t)&sregs) < 0)
		return;
	tr.linear_address = sregs.cs.base + rip;
	if (kvm_sys_call(cpu->fd, KVM_TRANSLATE, (uintptr_t)&tr) < 0 || !tr.valid)
		return;
	code = guest_mem_ptr(cpu->vm->mem, tr.physical_address, 15);
	for (unsigned i = 0; code && i < 15 && at < size; i++)
		at += (size_t)snprintf(text + at, size - at, " %02x", code[i]);
}

static void fail(struct kvm_vcpu *cpu, struct vcpu_exit *exit, const char *what, uint64_t detail)
{
	char code[64];

	exit->reason = VCPU_EXIT_ERROR;
	exit->rip = rip_of(cpu);
	code_text(cpu, exit->rip, code, sizeof(code));
	snprintf(exit->text, sizeof(exit->text), "KVM: %s %llu%s%s", what,
		 (unsigned long long)detail, code[0] ? ", code" : "", code);
}

static void internal_error(struct kvm_vcpu *cpu, struct vcpu_exit *exit)
{
	static const char *const names[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "cannot emulate an instruction: suberror",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "two exceptions at once: suberror",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "an event cannot be delivered: suberror",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "unexpected exit: suberror",
	};
	uint32_t sub = cpu->run->internal.suberror;
	const char *name = sub < ARRAY_SIZE(names) ? names[sub] : NULL;

	fail(cpu, exit, name ? name : "internal error: suberror", sub);
}

static void system_event(struct kvm_vcpu *cpu, struct vcpu_exit *exit)
{
	if (cpu->run->system_event.type == KVM_SYSTEM_EVENT_RESET) {
		exit->reason = VCPU_EXIT_RESET;
		exit->rip = rip_of(cpu);
		return;
	}
	fail(cpu, exit, "system event", cpu->run->system_event.type);
}

/* One return of KVM_RUN without an error; true when the monitor has to decide. */
static bool handle(struct kvm_vcpu *cpu, struct vcpu_exit *exit)
{
	switch (cpu->run->exit_reason) {
	case KVM_EXIT_IO:
		cpu->stat_exits[EXIT_IO]++;
		do_io(cpu);
		return false;
	case KVM_EXIT_MMIO:
		cpu->stat_exits[EXIT_MMIO]++;
		do_mmio(cpu);
		return false;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		cpu->stat_exits[EXIT_OTHER]++;
		return false;
	case KVM_EXIT_SHUTDOWN:
		exit->reason = VCPU_EXIT_TRIPLE_FAULT;
		exit->rip = rip_of(cpu);
		return true;
	case KVM_EXIT_SYSTEM_EVENT:
		system_event(cpu, exit);
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		internal_error(cpu, exit);
		return true;
	case KVM_EXIT_FAIL_ENTRY:
		fail(cpu, exit, "the processor refuses the state: reason",
		     cpu->run->fail_entry.hardware_entry_failure_reason);
		return true;
	default:
		fail(cpu, exit, "unknown exit", cpu->run->exit_reason);
		return true;
	}
}

/* KVM_RUN failed with @errnum; true when the monitor has to decide. */
static bool handle_failure(struct kvm_vcpu *cpu, int errnum, struct vcpu_exit *exit)
{
	if (errnum == EAGAIN) /* a vCPU that waits for its start */
		return false;
	if (errnum == EINTR) {
		cpu->stat_exits[EXIT_SIGNAL]++;
		set_immediate_exit(cpu, 0);
		if (!atomic_exchange(&cpu->kicked, false))
			return false;
		exit->reason = VCPU_EXIT_KICKED;
		return true;
	}
	fail(cpu, exit, strerrorname_np(errnum), (uint64_t)errnum);
	return true;
}

void kvm_vcpu_run(struct accel_vcpu *v, struct vcpu_exit *exit)
{
	struct kvm_vcpu *cpu = (struct kvm_vcpu *)v;
	bool done = false;

	exit->text[0] = 0;
	cpu->tid = (pid_t)syscall(SYS_gettid);
	atomic_store(&cpu->inside, true);
	while (!done) {
		/* sandbox: vcpu: ioctl(*, KVM_RUN) */
		int ret = kvm_sys_call(cpu->fd, KVM_RUN, 0);

		done = ret < 0 ? handle_failure(cpu, -ret, exit) : handle(cpu, exit);
	}
	atomic_store(&cpu->inside, false);
}
