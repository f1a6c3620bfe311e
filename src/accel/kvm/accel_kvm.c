/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's kernel as an accelerator: making a VM and its vCPUs.
 *
 * Local APICs, I/O APIC and the 8259 pair are the kernel's, since they take
 * part in every interrupt; all other devices stay ours. Nothing is allocated
 * here that grows with guest memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/clock.h"
#include "accel/kvm/kvm.h"
#include "accel/kvm/kvm_kick.h"
#include "base/log.h"
#include "base/util.h"

#define API_VERSION 12

/* Pages that the kernel needs on processors which cannot run real mode; in no one's way */
#define IDENTITY_PAGE 0xfeffc000ull
#define TSS_PAGES 0xfeffd000ull

int kvm_call(int fd, unsigned long request, const char *name, void *arg, struct err *err)
{
	int ret = kvm_sys_call(fd, request, (uintptr_t)arg);

	return ret < 0 ? err_set(err, -ret, "%s: %s", name, strerror(-ret)) : ret;
}

/* ---- figures ---- */

static void kvm_stats(struct accel_vm *avm, char *buf, unsigned size)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	uint64_t sum[EXIT_KINDS] = { 0 };

	for (unsigned i = 0; i < vm->count; i++)
		for (unsigned k = 0; vm->cpus[i] && k < EXIT_KINDS; k++)
			sum[k] += vm->cpus[i]->stat_exits[k];
	snprintf(buf, size, "exits_io %llu\nexits_mmio %llu\nexits_other %llu\nexits_signal %llu\n",
		 (unsigned long long)sum[EXIT_IO], (unsigned long long)sum[EXIT_MMIO],
		 (unsigned long long)sum[EXIT_OTHER], (unsigned long long)sum[EXIT_SIGNAL]);
}

static void log_stats(struct kvm_vm *vm)
{
	char text[512];

	kvm_stats((struct accel_vm *)vm, text, sizeof(text));
	for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
		log_info("kvm: %.*s", (int)(end - line), line);
}

/* ---- the VM ---- */

static void kvm_vm_free(struct accel_vm *avm)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;

	if (!vm)
		return;
	if (vm->mmio->doorbell_arg == vm)
		vm->mmio->doorbell = NULL;
	kvm_sys_close(vm->fd);
	kvm_sys_close(vm->kvm_fd);
	free(vm->cpuid);
	free(vm->cpuid_offered);
	free(vm->power_on);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* @flags: KVM_MEM_* of all slots; the kernel takes a known slot with other flags for a change. */
static int map_memory(struct kvm_vm *vm, uint32_t flags, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < vm->mem->slot_count && ret == 0; i++) {
		const struct mem_slot *s = &vm->mem->slots[i];
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = s->gpa,
			.memory_size = s->size,
			.userspace_addr = (uintptr_t)s->hva,
		};

		/* sandbox: loop: ioctl(*, each KVM_CALL) */
		ret = KVM_CALL(vm->fd, KVM_SET_USER_MEMORY_REGION, &region, err);
	}
	return ret;
}

/*
 * The bitmap, not the ring: a ring is memory of each vCPU for the VM's whole life, and its gain is
 * with guests so large that scanning the bitmap (2 KiB for 64 MiB) counts.
 */
static int kvm_dirty_log_set(struct accel_vm *avm, bool on, struct err *err)
{
	return map_memory((struct kvm_vm *)avm, on ? KVM_MEM_LOG_DIRTY_PAGES : 0, err);
}

static int kvm_dirty_log_fetch(struct accel_vm *avm, uint64_t *bitmap, struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	int ret = 0;

	for (unsigned i = 0; i < vm->mem->slot_count && ret == 0; i++) {
		/* Slots begin at multiples of 64 pages of the file. */
		struct kvm_dirty_log log = {
			.slot = i,
			.dirty_bitmap = bitmap + (vm->mem->slots[i].fd_offset >> PAGE_SHIFT) / 64,
		};

		ret = KVM_CALL(vm->fd, KVM_GET_DIRTY_LOG, &log, err);
	}
	return ret;
}

static int open_vm(struct kvm_vm *vm, struct err *err)
{
	int ret;

	vm->kvm_fd = kvm_sys_open();
	if (vm->kvm_fd < 0)
		return err_set(err, -vm->kvm_fd, "/dev/kvm: %s", strerror(-vm->kvm_fd));
	ret = KVM_CALL(vm->kvm_fd, KVM_GET_API_VERSION, NULL, err);
	if (ret >= 0 && ret != API_VERSION)
		ret =
		    err_set(err, EOPNOTSUPP, "/dev/kvm: API version %d, not %d", ret, API_VERSION);
	if (ret < 0)
		return ret;
	ret = KVM_CALL(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL, err);
	if (ret < 0)
		return ret;
	if ((size_t)ret < sizeof(struct kvm_run))
		return err_set(err, EINVAL, "KVM_GET_VCPU_MMAP_SIZE: %d bytes are too few", ret);
	vm->run_size = (size_t)ret;
	do /* making a VM is long enough for a signal to come in between */
		vm->fd = kvm_sys_call(vm->kvm_fd, KVM_CREATE_VM, 0);
	while (vm->fd == -EINTR);
	if (vm->fd < 0)
		return err_set(err, -vm->fd, "KVM_CREATE_VM: %s", strerror(-vm->fd));
	return 0;
}

static int set_special_pages(struct kvm_vm *vm, struct err *err)
{
	uint64_t identity = IDENTITY_PAGE;
	int ret = KVM_CALL(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, err);

	return ret < 0 ? ret : KVM_CALL(vm->fd, KVM_SET_TSS_ADDR, (void *)TSS_PAGES, err);
}

static int kvm_vm_new(const struct accel_config *cfg, struct accel_vm **ret_vm,
		      struct irq_sink *ret_irq, struct err *err)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm)
		return err_set(err, ENOMEM, "out of memory");
	vm->kvm_fd = vm->fd = -1;
	vm->mem = cfg->mem;
	vm->pio = cfg->pio;
	vm->mmio = cfg->mmio;
	vm->count = cfg->vcpu_count;
	vm->opt_stats = cfg->debug && strstr(cfg->debug, "stats");
	pthread_mutex_init(&vm->lock, NULL);
	ret = open_vm(vm, err);
	if (ret == 0)
		ret = set_special_pages(vm, err);
	if (ret == 0)
		ret = kvm_cpuid_init(vm, err);
	if (ret == 0)
		ret = kvm_irq_init(vm, ret_irq, err);
	if (ret == 0)
		ret = map_memory(vm, 0, err);
	if (ret < 0) {
		kvm_vm_free((struct accel_vm *)vm);
		return ret;
	}
	kvm_kick_init();
	*ret_vm = (struct accel_vm *)vm;
	return 0;
}

/* ---- the guest's CPU ---- */

/* Of a host without a VM: what one here would be offered. */
static int offer_of_host(struct cpu_id *ret_id, struct err *err)
{
	struct kvm_vm vm = { .kvm_fd = kvm_sys_open(), .count = 1 };
	int ret = vm.kvm_fd < 0 ? err_set(err, -vm.kvm_fd, "/dev/kvm: %s", strerror(-vm.kvm_fd))
				: kvm_cpuid_init(&vm, err);

	if (ret == 0)
		kvm_cpuid_offer(&vm, ret_id);
	free(vm.cpuid);
	free(vm.cpuid_offered);
	kvm_sys_close(vm.kvm_fd);
	return ret;
}

static int kvm_offer(struct accel_vm *avm, struct cpu_id *ret_id, struct err *err)
{
	if (!avm)
		return offer_of_host(ret_id, err);
	kvm_cpuid_offer((struct kvm_vm *)avm, ret_id);
	return 0;
}

static int kvm_show(struct accel_vm *avm, const struct cpu_id *id, struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	int ret = 0;

	if (!memcmp(id, &vm->cpu, sizeof(*id)))
		return 0;
	kvm_cpuid_show(vm, id);
	/* The kernel refuses another CPU once a vCPU has run. */
	for (unsigned i = 0; i < vm->count && vm->cpus[i] && ret == 0; i++)
		ret = kvm_cpuid_set(vm->cpus[i], err);
	return ret < 0 ? err_prefix(err, ret, "another CPU for a machine that has run") : 0;
}

/* ---- vCPUs ---- */

static void kvm_vcpu_free(struct accel_vcpu *v)
{
	struct kvm_vcpu *cpu = (struct kvm_vcpu *)v;

	if (!cpu)
		return;
	if (cpu->vm->opt_stats && cpu->index == 0 && cpu->vm->cpus[0] == cpu)
		log_stats(cpu->vm);
	cpu->vm->cpus[cpu->index] = NULL;
	kvm_sys_unmap(cpu->run, cpu->vm->run_size);
	kvm_sys_close(cpu->fd);
	free(cpu);
}

static int make_vcpu(struct kvm_vcpu *cpu, struct err *err)
{
	struct kvm_vm *vm = cpu->vm;
	int ret;

	cpu->fd = kvm_sys_call(vm->fd, KVM_CREATE_VCPU, cpu->index);
	if (cpu->fd < 0)
		return err_set(err, -cpu->fd, "KVM_CREATE_VCPU: %s", strerror(-cpu->fd));
	cpu->run = kvm_sys_map(cpu->fd, vm->run_size);
	if (!cpu->run)
		return err_set(err, errno, "its shared page: %s", strerror(errno));
	/* The rate is known to vCPUs, CPUID needs it before any runs. */
	if (!vm->tsc_khz) {
		ret = kvm_sys_call(cpu->fd, KVM_GET_TSC_KHZ, 0);
		vm->tsc_khz = ret > 0 ? (unsigned)ret : 0;
		kvm_cpuid_set_rates(vm);
	}
	ret = kvm_cpuid_set(cpu, err);
	return ret < 0 ? ret : kvm_state_init(cpu, err);
}

static int kvm_vcpu_new(struct accel_vm *avm, unsigned index, struct accel_vcpu **ret_vcpu,
			struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	struct kvm_vcpu *cpu = calloc(1, sizeof(*cpu));
	int ret;

	if (!cpu)
		return err_set(err, ENOMEM, "out of memory");
	cpu->vm = vm;
	cpu->index = index;
	cpu->fd = -1;
	ret = make_vcpu(cpu, err);
	if (ret < 0) {
		kvm_vcpu_free((struct accel_vcpu *)cpu);
		return ret;
	}
	vm->cpus[index] = cpu;
	*ret_vcpu = (struct accel_vcpu *)cpu;
	return 0;
}

/* ---- state ---- */

static int save_clock(struct kvm_vm *vm, struct snap_writer *w, struct err *err)
{
	struct kvm_clock_data clock = { 0 };
	int ret = KVM_CALL(vm->fd, KVM_GET_CLOCK, &clock, err);

	if (ret < 0)
		return ret;
	accel_clock_save(w, vm->stopped && vm->stopped_tsc ? vm->stopped_ns : clock.clock,
			 vm->tsc_khz);
	return 0;
}

static int load_clock(struct kvm_vm *vm, struct snap_reader *r, struct err *err)
{
	struct kvm_clock_data clock = { 0 };
	uint64_t ns;
	uint32_t khz;
	int ret = accel_clock_load(r, &ns, &khz, err);

	if (ret < 0)
		return ret;
	clock.clock = ns;
	/* Rates that are measured differ in the last digits; guests correct more than that. */
	if (khz && !accel_same_khz(khz, vm->tsc_khz)) {
		for (unsigned i = 0; i < vm->count && ret == 0; i++)
			ret = kvm_sys_call(vm->cpus[i]->fd, KVM_SET_TSC_KHZ, khz);
		if (ret < 0)
			return err_set(err, EOPNOTSUPP,
				       "TSC of %u kHz; this host's is %u and cannot be scaled", khz,
				       vm->tsc_khz);
		vm->tsc_khz = khz;
	}
	vm->stopped_tsc = 0; /* it goes on from here */
	return KVM_CALL(vm->fd, KVM_SET_CLOCK, &clock, err);
}

/*
 * Kernels before 5.16 have no such attribute: there the TSC goes on while kvm-clock, by which
 * guests tell the time, stands. A timer that runs out meanwhile strikes at the end, early.
 */
static void shift_tsc(struct kvm_vcpu *cpu, uint64_t ticks)
{
	uint64_t offset = 0;
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)&offset };
	struct err err;

	/* sandbox: loop: ioctl(*, each KVM_CALL) */
	if (KVM_CALL(cpu->fd, KVM_GET_DEVICE_ATTR, &attr, &err) < 0)
		return;
	offset -= ticks;
	KVM_CALL(cpu->fd, KVM_SET_DEVICE_ATTR, &attr, &err);
}

static void kvm_stop_time(struct accel_vm *avm, bool stopped)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	struct kvm_clock_data clock = { 0 };
	struct err err;

	if (stopped) {
		vm->stopped = KVM_CALL(vm->fd, KVM_GET_CLOCK, &clock, &err) == 0;
		vm->stopped_ns = clock.clock;
		vm->stopped_tsc = __builtin_ia32_rdtsc();
		return;
	}
	if (!vm->stopped)
		return;
	vm->stopped = false;
	if (!vm->stopped_tsc)
		return;
	for (unsigned i = 0; i < vm->count; i++)
		shift_tsc(vm->cpus[i], __builtin_ia32_rdtsc() - vm->stopped_tsc);
	clock = (struct kvm_clock_data) { .clock = vm->stopped_ns };
	KVM_CALL(vm->fd, KVM_SET_CLOCK, &clock, &err);
}

static int kvm_save(struct accel_vm *avm, struct snap_writer *w, struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	int ret = kvm_irq_save(vm, w, err);

	return ret < 0 ? ret : save_clock(vm, w, err);
}

static int kvm_load(struct accel_vm *avm, struct snap_reader *r, struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	int ret = kvm_irq_load(vm, r, err);

	return ret < 0 ? ret : load_clock(vm, r, err);
}

static int kvm_reset(struct accel_vm *avm, struct err *err)
{
	struct kvm_vm *vm = (struct kvm_vm *)avm;
	struct vcpu_state *st = vm->power_on;
	int ret = kvm_irq_reset(vm, err);

	st->tsc = 0; /* goes on, in step on all vCPUs */
	for (unsigned i = 0; i < vm->count && ret == 0; i++) {
		st->run_state = i ? VCPU_WAIT_SIPI : VCPU_RUNNING;
		ret = kvm_set_state((struct accel_vcpu *)vm->cpus[i], st, err);
		if (ret < 0)
			err_prefix(err, ret, "vCPU %u", i);
	}
	return ret;
}

const struct accel_ops accel_kvm = {
	.name = "kvm",
	.huge_pages = true,
	.probe = kvm_probe,
	.vm_new = kvm_vm_new,
	.vm_free = kvm_vm_free,
	.cpu_offer = kvm_offer,
	.cpu_show = kvm_show,
	.vcpu_new = kvm_vcpu_new,
	.vcpu_free = kvm_vcpu_free,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_get_state = kvm_get_state,
	.vcpu_set_state = kvm_set_state,
	.save = kvm_save,
	.load = kvm_load,
	.stop_time = kvm_stop_time,
	.reset = kvm_reset,
	.dirty_log_set = kvm_dirty_log_set,
	.dirty_log_fetch = kvm_dirty_log_fetch,
	.stats = kvm_stats,
};
