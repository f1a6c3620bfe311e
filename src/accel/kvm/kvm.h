/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of this accelerator share.
 *
 * Threads: a vCPU's run area and descriptor belong to its thread while that is
 * in vcpu_run(), else to the loop thread. `lines` is under its lock, which is
 * held across the call that tells the kernel, so that levels arrive in order.
 */
#ifndef EYOT_ACCEL_KVM_KVM_H
#define EYOT_ACCEL_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "accel/accel.h"
#include "accel/kvm/kvm_sys.h"
#include "hw/lapic.h"

#define KVM_CPUS_MAX 64
#define KVM_CPUID_ENTRIES 256
#define KVM_MSRS_MAX 72

enum kvm_exit_kind { EXIT_IO, EXIT_MMIO, EXIT_OTHER, EXIT_SIGNAL, EXIT_KINDS };

struct kvm_vcpu {
	struct kvm_vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with the kernel */
	atomic_bool kicked;
	atomic_bool inside; /* in vcpu_run(): a kick needs a signal */
	pid_t tid;	    /* of the thread in vcpu_run() */
	uint64_t stat_exits[EXIT_KINDS];
	/* From loaded state, until vcpu_set_state() applies them: they need counters and events set
	 */
	uint64_t tsc_deadline;
	unsigned extra_nmis;
};

struct kvm_vm {
	int kvm_fd, fd;
	struct guest_mem *mem;
	struct bus *pio, *mmio;
	unsigned count;
	size_t run_size;
	unsigned tsc_khz;
	/* While guest time stands: kvm-clock, and the host's TSC; 0: state was loaded meanwhile */
	bool stopped;
	uint64_t stopped_ns, stopped_tsc;
	bool opt_stats;
	struct kvm_cpuid2 *cpuid_offered, *cpuid; /* the latter as vCPU 0 sees it, but for IDs */
	struct cpu_id cpu;
	uint64_t xcr0_max;	    /* what of the extended state guests may use */
	unsigned xstate_offset[64]; /* in the host's standard format */
	unsigned msr_count;	    /* of the table in kvm_state.c, those that this kernel has */
	uint8_t msrs[KVM_MSRS_MAX];
	pthread_mutex_t lock;
	uint32_t lines; /* asserted interrupt lines */
	struct kvm_vcpu *cpus[KVM_CPUS_MAX];
	struct vcpu_state *power_on; /* as the kernel makes a vCPU */
};

/** kvm_call() - kvm_sys_call() with a text that names the request on failure */
int kvm_call(int fd, unsigned long request, const char *name, void *arg, struct err *err);
#define KVM_CALL(fd, request, arg, err) kvm_call(fd, request, #request, arg, err)

/* kvm_cpuid.c; what is shown is what is offered until kvm_cpuid_show() */
int kvm_cpuid_init(struct kvm_vm *vm, struct err *err);
void kvm_cpuid_set_rates(struct kvm_vm *vm);
void kvm_cpuid_offer(struct kvm_vm *vm, struct cpu_id *ret_id);
void kvm_cpuid_show(struct kvm_vm *vm, const struct cpu_id *id);
int kvm_cpuid_set(struct kvm_vcpu *cpu, struct err *err);

/* kvm_state.c: accel_ops.vcpu_get_state, vcpu_set_state */
int kvm_state_init(struct kvm_vcpu *cpu, struct err *err);
int kvm_get_state(struct accel_vcpu *v, struct vcpu_state *st, struct err *err);
int kvm_set_state(struct accel_vcpu *v, const struct vcpu_state *st, struct err *err);
int kvm_get_msr(struct kvm_vcpu *cpu, uint32_t msr, uint64_t *ret_val, struct err *err);
int kvm_set_msr(struct kvm_vcpu *cpu, uint32_t msr, uint64_t val, struct err *err);

/* kvm_irq.c */
int kvm_irq_init(struct kvm_vm *vm, struct irq_sink *ret_irq, struct err *err);
int kvm_irq_save(struct kvm_vm *vm, struct snap_writer *w, struct err *err);
int kvm_irq_load(struct kvm_vm *vm, struct snap_reader *r, struct err *err);
int kvm_irq_reset(struct kvm_vm *vm, struct err *err);

/* kvm_run.c */
void kvm_vcpu_run(struct accel_vcpu *v, struct vcpu_exit *exit);
void kvm_vcpu_kick(struct accel_vcpu *v);

/* kvm_probe.c */
int kvm_probe(struct accel_probe *ret_probe, unsigned limit_ms, struct err *err);

#endif
