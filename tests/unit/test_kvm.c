/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel/kvm on a kernel of our own: this file has the functions of kvm_sys.h. The kernel
 * keeps what it is told and gives it back, counts what is open and mapped, and can fail
 * any call by its number. So each call of making, resetting, running, saving and loading
 * a machine fails once; nothing may crash or be left open then (run it with sanitizers).
 * State also crosses from one accelerator to the other here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/mman.h>

#include <cpuid.h>
#include <linux/kvm.h>

#include "accel/accel.h"
#include "accel/kvm/kvm_sys.h"
#include "base/util.h"
#include "hw/ioapic.h"
#include "hw/lapic.h"
#include "vm/vm.h"

#define RUN_SIZE 0x3000
#define MSRS_MAX 128
#define CPUS 2

/* ---- the kernel ---- */

enum { FD_DEVICE = 1000, FD_VM, FD_VCPU }; /* vCPUs: from FD_VCPU on */

struct fake_cpu {
	struct kvm_run *run;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct kvm_msr_entry msrs[MSRS_MAX];
	unsigned msr_count;
};

static struct {
	unsigned calls, fail_at; /* 0: never */
	int fail_errno;
	int open, mapped;
	struct fake_cpu cpu[CPUS];
	struct kvm_irqchip chip[3];
	struct kvm_clock_data clock;
	uint32_t lines, mem_flags;
	uint32_t exit_reason; /* of the next KVM_RUN; 0: EINTR when it shall exit at once */
	uint32_t suberror;
	struct kvm_msi msi;
	unsigned doorbells;
} k;

static bool fails(void)
{
	return ++k.calls == k.fail_at;
}

int kvm_sys_open(void)
{
	if (fails())
		return -k.fail_errno;
	k.open++;
	return FD_DEVICE;
}

void *kvm_sys_map(int fd, size_t size)
{
	struct fake_cpu *cpu = &k.cpu[fd - FD_VCPU];

	if (fails()) {
		errno = k.fail_errno;
		return NULL;
	}
	k.mapped++;
	cpu->run = calloc(1, size);
	return cpu->run;
}

void kvm_sys_unmap(void *area, size_t size)
{
	if (!area)
		return;
	k.mapped--;
	free(area);
}

void kvm_sys_close(int fd)
{
	if (fd < 0)
		return;
	assert_true(fd >= FD_DEVICE);
	k.open--;
}

static void host_cpuid(struct kvm_cpuid2 *list)
{
	static const struct {
		uint32_t leaf, sub;
	} leaves[] = { { 0, 0 },	  { 1, 0 },	     { 4, 0 },	       { 7, 0 },
		       { 0xb, 0 },	  { 0xd, 0 },	     { 0xd, 1 },       { 0xd, 2 },
		       { 0x40000000, 0 }, { 0x40000001, 0 }, { 0xa, 0 },       { 0xd, 17 },
		       { 0x80000000, 0 }, { 0x80000001, 0 }, { 0x80000008, 0 } };

	list->nent = ARRAY_SIZE(leaves);
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		*e = (struct kvm_cpuid_entry2) { .function = leaves[i].leaf,
						 .index = leaves[i].sub };
		if (e->function >> 28 == 4)
			e->eax = e->function & 1 ? 0x01007efb : 0x40000001;
		else
			__cpuid_count(e->function, e->index, e->eax, e->ebx, e->ecx, e->edx);
	}
}

static int get_msrs(struct fake_cpu *cpu, struct kvm_msrs *list)
{
	for (unsigned i = 0; i < list->nmsrs; i++) {
		list->entries[i].data = 0;
		for (unsigned m = 0; m < cpu->msr_count; m++)
			if (cpu->msrs[m].index == list->entries[i].index)
				list->entries[i].data = cpu->msrs[m].data;
	}
	return (int)list->nmsrs;
}

static int set_msrs(struct fake_cpu *cpu, const struct kvm_msrs *list)
{
	for (unsigned i = 0; i < list->nmsrs; i++) {
		unsigned m = 0;

		while (m < cpu->msr_count && cpu->msrs[m].index != list->entries[i].index)
			m++;
		assert_true(m < MSRS_MAX);
		cpu->msrs[m] = list->entries[i];
		if (m == cpu->msr_count)
			cpu->msr_count++;
	}
	return (int)list->nmsrs;
}

static int run(struct fake_cpu *cpu)
{
	uint32_t reason = k.exit_reason;

	/* A kick that has come ends it before anything else. */
	if (!reason || cpu->run->immediate_exit)
		return -EINTR;
	k.exit_reason = 0;
	cpu->run->exit_reason = reason;
	cpu->run->internal.suberror = k.suberror;
	return 0;
}

static int device_call(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return 12;
	case KVM_CHECK_EXTENSION:
		return 1;
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_SIZE;
	case KVM_CREATE_VM:
		k.open++;
		return FD_VM;
	case KVM_GET_SUPPORTED_CPUID:
		host_cpuid(arg);
		return 0;
	}
	fail();
	return -ENOTTY;
}

static int vm_call(unsigned long request, void *arg)
{
	struct kvm_irqchip *chip = arg;

	switch (request) {
	case KVM_CREATE_VCPU: {
		struct fake_cpu *cpu = &k.cpu[(uintptr_t)arg];

		*cpu = (struct fake_cpu) { .sregs.apic_base = 0xfee00900,
					   .sregs.cr0 = 0x60000010,
					   .xcrs = { .nr_xcrs = 1, .xcrs[0].value = 1 },
					   .regs.rip = 0xfff0,
					   .regs.rflags = 2 };
		put_le32((uint8_t *)cpu->xsave.region + 24, 0x1f80);
		k.open++;
		return FD_VCPU + (int)(uintptr_t)arg;
	}
	case KVM_GET_IRQCHIP:
		chip->chip = k.chip[chip->chip_id].chip;
		return 0;
	case KVM_SET_IRQCHIP:
		k.chip[chip->chip_id].chip = chip->chip;
		return 0;
	case KVM_IRQ_LINE: {
		const struct kvm_irq_level *line = arg;

		k.lines = (k.lines & ~(1u << line->irq)) | line->level << line->irq;
		return 0;
	}
	case KVM_SET_USER_MEMORY_REGION:
		k.mem_flags = ((const struct kvm_userspace_memory_region *)arg)->flags;
		return 0;
	case KVM_GET_DIRTY_LOG: {
		const struct kvm_dirty_log *log = arg;

		memset(log->dirty_bitmap, 0, MIB(2) / PAGE_SIZE / 8);
		((uint8_t *)log->dirty_bitmap)[3] = 0x10;
		return 0;
	}
	case KVM_SIGNAL_MSI:
		k.msi = *(const struct kvm_msi *)arg;
		return 1;
	case KVM_IOEVENTFD:
		k.doorbells++;
		return 0;
	case KVM_GET_CLOCK:
		*(struct kvm_clock_data *)arg = k.clock;
		return 0;
	case KVM_SET_CLOCK:
		k.clock = *(const struct kvm_clock_data *)arg;
		return 0;
	}
	return 0; /* all else is taken */
}

#define KEEP(GET, SET, member)                                                                     \
	case GET:                                                                                  \
		memcpy(arg, &cpu->member, sizeof(cpu->member));                                    \
		return 0;                                                                          \
	case SET:                                                                                  \
		memcpy(&cpu->member, arg, sizeof(cpu->member));                                    \
		return 0

static int vcpu_call(struct fake_cpu *cpu, unsigned long request, void *arg)
{
	switch (request) {
		KEEP(KVM_GET_REGS, KVM_SET_REGS, regs);
		KEEP(KVM_GET_SREGS, KVM_SET_SREGS, sregs);
		KEEP(KVM_GET_XSAVE, KVM_SET_XSAVE, xsave);
		KEEP(KVM_GET_XCRS, KVM_SET_XCRS, xcrs);
		KEEP(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debug);
		KEEP(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events);
		KEEP(KVM_GET_MP_STATE, KVM_SET_MP_STATE, mp);
		KEEP(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic);
	case KVM_GET_MSRS:
		return get_msrs(cpu, arg);
	case KVM_SET_MSRS:
		return set_msrs(cpu, arg);
	case KVM_GET_TSC_KHZ:
		return 2000000;
	case KVM_RUN:
		return run(cpu);
	}
	return 0;
}

int kvm_sys_call(int fd, unsigned long request, uintptr_t arg)
{
	if (fails())
		return -k.fail_errno;
	if (fd == FD_DEVICE)
		return device_call(request, (void *)arg);
	if (fd == FD_VM)
		return vm_call(request, (void *)arg);
	return vcpu_call(&k.cpu[fd - FD_VCPU], request, (void *)arg);
}

/* ---- a machine of buses, memory and the accelerator ---- */

struct rig {
	const struct accel_ops *ops;
	struct guest_mem mem;
	struct bus pio, mmio;
	struct irq_sink irq;
	struct accel_vm *vm;
	struct accel_vcpu *cpu[CPUS];
};

static int rig_make(struct rig *r, const struct accel_ops *ops, struct err *err)
{
	struct accel_config cfg = {
		.mem = &r->mem, .pio = &r->pio, .mmio = &r->mmio, .vcpu_count = CPUS
	};
	int ret;

	*r = (struct rig) { .ops = ops };
	bus_init(&r->pio);
	bus_init(&r->mmio);
	assert_int_equal(guest_mem_init(&r->mem, MIB(2), err), 0);
	ret = ops->vm_new(&cfg, &r->vm, &r->irq, err);
	for (unsigned i = 0; i < CPUS && ret == 0; i++)
		ret = ops->vcpu_new(r->vm, i, &r->cpu[i], err);
	return ret;
}

static void rig_free(struct rig *r)
{
	for (unsigned i = 0; i < CPUS; i++)
		r->ops->vcpu_free(r->cpu[i]);
	r->ops->vm_free(r->vm);
	guest_mem_done(&r->mem);
	bus_done(&r->pio);
	bus_done(&r->mmio);
}

static int rig_save(struct rig *r, struct snap_writer *w, struct err *err)
{
	struct vcpu_state st;
	int ret = 0;

	for (unsigned i = 0; i < CPUS && ret == 0; i++) {
		ret = r->ops->vcpu_get_state(r->cpu[i], &st, err);
		if (ret == 0)
			vcpu_state_save(&st, w);
	}
	return ret < 0 ? ret : r->ops->save(r->vm, w, err);
}

static int rig_load(struct rig *r, const struct snap_writer *w, struct err *err)
{
	struct vcpu_state st[CPUS];
	struct snap_reader in;
	int ret = 0;

	snap_reader_init(&in, w->data, w->len);
	for (unsigned i = 0; i < CPUS && ret == 0; i++)
		ret = vcpu_state_load(&st[i], &in, err);
	if (ret == 0)
		ret = r->ops->load(r->vm, &in, err);
	for (unsigned i = 0; i < CPUS && ret == 0; i++)
		ret = r->ops->vcpu_set_state(r->cpu[i], &st[i], err);
	return ret;
}

static int setup(void **state)
{
	memset(&k, 0, sizeof(k));
	return 0;
}

/* ---- tests ---- */

/* Everything once; 0, or the error of the call that failed. */
static int whole_life(struct err *err)
{
	struct vcpu_exit ex = { .reason = VCPU_EXIT_KICKED };
	struct snap_writer w;
	struct rig r;
	int ret;

	snap_writer_init(&w);
	ret = rig_make(&r, &accel_kvm, err);
	if (ret == 0)
		ret = accel_kvm.reset(r.vm, err);
	if (ret == 0) {
		irq_line(&r.irq, 4, true);
		irq_msi(&r.irq, 0xfee00000, 0x4041);
		k.exit_reason = KVM_EXIT_MMIO;
		k.cpu[0].run->mmio.len = 4;
		accel_kvm.vcpu_kick(r.cpu[0]);
		accel_kvm.vcpu_run(r.cpu[0], &ex);
		ret = ex.reason == VCPU_EXIT_ERROR ? -EIO : 0;
	}
	if (ret == 0)
		ret = rig_save(&r, &w, err);
	if (ret == 0)
		ret = rig_load(&r, &w, err);
	rig_free(&r);
	snap_writer_done(&w);
	return ret;
}

static void test_each_call_fails(void **state)
{
	struct err err;
	unsigned total, failed = 0;

	assert_int_equal(whole_life(&err), 0);
	total = k.calls;
	assert_true(total > 100);
	for (unsigned i = 1; i <= total; i++) {
		memset(&k, 0, sizeof(k));
		k.fail_at = i;
		k.fail_errno = ENXIO;
		err.text[0] = 0;
		if (whole_life(&err) < 0) {
			failed++;
			assert_true(err.text[0] || k.calls > 0);
		}
		assert_int_equal(k.open, 0);
		assert_int_equal(k.mapped, 0);
	}
	/* Those that may fail: which MSRs there are, lines, messages, the clock's rate */
	assert_true(failed > total / 3);
}

static void test_exits(void **state)
{
	struct vcpu_exit ex;
	struct rig r;
	struct err err;

	assert_int_equal(rig_make(&r, &accel_kvm, &err), 0);
	k.exit_reason = KVM_EXIT_SHUTDOWN;
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_int_equal(ex.reason, VCPU_EXIT_TRIPLE_FAULT);
	k.exit_reason = KVM_EXIT_INTERNAL_ERROR;
	k.suberror = KVM_INTERNAL_ERROR_EMULATION;
	k.cpu[0].regs.rip = 0x1234;
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_int_equal(ex.reason, VCPU_EXIT_ERROR);
	assert_int_equal(ex.rip, 0x1234);
	assert_non_null(strstr(ex.text, "suberror 1"));
	k.exit_reason = KVM_EXIT_FAIL_ENTRY;
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_int_equal(ex.reason, VCPU_EXIT_ERROR);
	k.exit_reason = 99;
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_non_null(strstr(ex.text, "unknown exit 99"));
	/* A kick before the run is remembered, and only once. */
	accel_kvm.vcpu_kick(r.cpu[0]);
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_int_equal(ex.reason, VCPU_EXIT_KICKED);
	k.exit_reason = KVM_EXIT_SHUTDOWN;
	accel_kvm.vcpu_run(r.cpu[0], &ex);
	assert_int_equal(ex.reason, VCPU_EXIT_TRIPLE_FAULT);
	rig_free(&r);
}

static void test_lines(void **state)
{
	struct rig r;
	struct err err;

	assert_int_equal(rig_make(&r, &accel_kvm, &err), 0);
	irq_line(&r.irq, 9, true);
	assert_int_equal(k.lines, 1u << 9);
	k.lines = 0;
	irq_line(&r.irq, 9, true); /* no change: not told again */
	assert_int_equal(k.lines, 0);
	irq_msi(&r.irq, 0xfee01000, 0x31);
	assert_int_equal(k.msi.address_lo, 0xfee01000);
	assert_int_equal(k.msi.data, 0x31);
	assert_int_equal(bus_doorbell(&r.mmio, 0xc0003000, 5, true), 0);
	assert_int_equal(k.doorbells, 1);
	rig_free(&r);
}

static void test_dirty_log(void **state)
{
	uint64_t bitmap[MIB(2) / PAGE_SIZE / 64];
	struct rig r;
	struct err err;

	assert_int_equal(rig_make(&r, &accel_kvm, &err), 0);
	assert_int_equal(k.mem_flags, 0);
	assert_int_equal(accel_kvm.dirty_log_set(r.vm, true, &err), 0);
	assert_int_equal(k.mem_flags, KVM_MEM_LOG_DIRTY_PAGES);
	memset(bitmap, 0xff, sizeof(bitmap));
	assert_int_equal(accel_kvm.dirty_log_fetch(r.vm, bitmap, &err), 0);
	assert_int_equal(bitmap[0], 1ull << 28);
	for (unsigned i = 1; i < ARRAY_SIZE(bitmap); i++)
		assert_int_equal(bitmap[i], 0);
	assert_int_equal(accel_kvm.dirty_log_set(r.vm, false, &err), 0);
	assert_int_equal(k.mem_flags, 0);
	rig_free(&r);
}

/* A state that says something in every field that has to cross */
static void fill_state(struct vcpu_state *st)
{
	for (unsigned i = 0; i < 16; i++)
		st->regs[i] = 0x1111111111111111ull * i;
	st->rip = 0xffffffff81000123;
	st->rflags = 0x246;
	st->cr2 = 0x7000;
	st->cr3 = 0x5000;
	st->cr8 = 3;
	st->msr_lstar = 0xffffffff81800000;
	st->msr_kernel_gs_base = 0xffff888000000000;
	st->msr_pat = 0x0407050600070106;
	st->msr_kvm_steal_time = 0x3001;
	st->msr_mtrr_def = 0xc06;
	st->exception_pending = st->exception_has_error = 1;
	st->exception_vector = 14;
	st->exception_error = 2;
	st->interrupt_pending = 1;
	st->interrupt_vector = 0x31;
	st->nmi_pending = 1;
	st->xcr0 = 3;
	put_le64(st->xsave + 512, 3);
	put_le32(st->xsave + 24, 0x1f80);
	memset(st->xsave + 160, 0x5a, 64);
}

static void check_state(const struct vcpu_state *a, const struct vcpu_state *b)
{
	assert_memory_equal(a->regs, b->regs, sizeof(a->regs));
	assert_int_equal(a->rip, b->rip);
	assert_int_equal(a->rflags, b->rflags);
	assert_int_equal(a->cr2, b->cr2);
	assert_int_equal(a->cr3, b->cr3);
	assert_int_equal(a->cr8, b->cr8);
	assert_int_equal(a->msr_lstar, b->msr_lstar);
	assert_int_equal(a->msr_kernel_gs_base, b->msr_kernel_gs_base);
	assert_int_equal(a->msr_pat, b->msr_pat);
	assert_int_equal(a->msr_kvm_steal_time, b->msr_kvm_steal_time);
	assert_int_equal(a->msr_mtrr_def, b->msr_mtrr_def);
	assert_int_equal(a->exception_pending, b->exception_pending);
	assert_int_equal(a->exception_vector, b->exception_vector);
	assert_int_equal(a->exception_error, b->exception_error);
	assert_int_equal(a->interrupt_pending, b->interrupt_pending);
	assert_int_equal(a->interrupt_vector, b->interrupt_vector);
	assert_int_equal(a->nmi_pending, b->nmi_pending);
	assert_int_equal(a->run_state, b->run_state);
	assert_memory_equal(a->xsave, b->xsave, 576);
	assert_memory_equal(a->segs, b->segs, sizeof(a->segs));
}

/* The saved interrupt controllers: what comes after the vCPUs and before the clock */
static size_t controllers(const struct snap_writer *w, const uint8_t **ret)
{
	struct vcpu_state st;
	struct snap_reader in;
	struct err err;

	snap_reader_init(&in, w->data, w->len);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(vcpu_state_load(&st, &in, &err), 0);
	*ret = w->data + in.pos;
	/* name and its length, version, length, time and rate */
	return w->len - in.pos - (1 + 5 + 4 + 4 + 12);
}

/* bt's rate is measured: the fake kernel's must be the same for a move. */
static void set_rate(struct snap_writer *w, uint32_t khz)
{
	put_le32(w->data + w->len - 4, khz);
}

static void test_moves(void **state)
{
	struct snap_writer first, second, third;
	struct vcpu_state st, back;
	struct rig bt, kvm;
	const uint8_t *a, *b;
	uint32_t bt_khz;
	size_t len;
	struct err err;

	snap_writer_init(&first);
	snap_writer_init(&second);
	snap_writer_init(&third);
	assert_int_equal(rig_make(&bt, &accel_bt, &err), 0);
	assert_int_equal(rig_make(&kvm, &accel_kvm, &err), 0);
	irq_line(&bt.irq, 17, true);
	irq_line(&bt.irq, 4, true);
	assert_int_equal(accel_bt.vcpu_get_state(bt.cpu[1], &st, &err), 0);
	fill_state(&st);
	st.run_state = VCPU_HALTED;
	assert_int_equal(accel_bt.vcpu_set_state(bt.cpu[1], &st, &err), 0);

	assert_int_equal(rig_save(&bt, &first, &err), 0);
	bt_khz = get_le32(first.data + first.len - 4);
	set_rate(&first, 2000000);
	assert_int_equal(rig_load(&kvm, &first, &err), 0);
	assert_int_equal(accel_kvm.vcpu_get_state(kvm.cpu[1], &back, &err), 0);
	check_state(&st, &back);
	assert_int_equal(k.lines, 1u << 17 | 1u << 4);

	/* and from there the same bytes, and back onto bt */
	assert_int_equal(rig_save(&kvm, &second, &err), 0);
	len = controllers(&first, &a);
	assert_int_equal(controllers(&second, &b), len);
	assert_memory_equal(a, b, len);
	set_rate(&second, bt_khz);
	assert_int_equal(rig_load(&bt, &second, &err), 0);
	assert_int_equal(accel_bt.vcpu_get_state(bt.cpu[1], &back, &err), 0);
	check_state(&st, &back);
	assert_int_equal(rig_save(&bt, &third, &err), 0);
	assert_int_equal(controllers(&third, &b), len);
	assert_memory_equal(a, b, len);

	snap_writer_done(&first);
	snap_writer_done(&second);
	snap_writer_done(&third);
	rig_free(&bt);
	rig_free(&kvm);
}

static void test_refusals(void **state)
{
	struct snap_writer w;
	struct vcpu_state st;
	struct rig bt, kvm;
	struct err err;

	snap_writer_init(&w);
	assert_int_equal(rig_make(&bt, &accel_bt, &err), 0);
	assert_int_equal(rig_make(&kvm, &accel_kvm, &err), 0);
	assert_int_equal(accel_bt.vcpu_get_state(bt.cpu[0], &st, &err), 0);
	st.xcr0 = 0xe7; /* AVX-512 */
	assert_int_equal(accel_bt.vcpu_set_state(bt.cpu[0], &st, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "0xe0"));
	st.xcr0 = 1ull << 18; /* AMX */
	assert_int_equal(accel_kvm.vcpu_set_state(kvm.cpu[0], &st, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "0x40000"));
	assert_int_equal(rig_save(&kvm, &w, &err), 0);
	set_rate(&w, 123456);
	assert_int_equal(rig_load(&bt, &w, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "123456 kHz"));
	snap_writer_done(&w);
	rig_free(&bt);
	rig_free(&kvm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_each_call_fails, setup),
		cmocka_unit_test_setup(test_exits, setup),
		cmocka_unit_test_setup(test_lines, setup),
		cmocka_unit_test_setup(test_dirty_log, setup),
		cmocka_unit_test_setup(test_moves, setup),
		cmocka_unit_test_setup(test_refusals, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
