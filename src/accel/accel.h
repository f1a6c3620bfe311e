/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interface of an accelerator: what runs vCPUs. Device accesses of a
 * running vCPU go straight to the machine's buses on the vCPU's own thread;
 * vcpu_run() returns only for what the monitor decides.
 */
#ifndef EYOT_ACCEL_ACCEL_H
#define EYOT_ACCEL_ACCEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/snap.h"
#include "vm/bus.h"
#include "vm/cpu_model.h"
#include "vm/irq.h"
#include "vm/mem.h"
#include "vm/vcpu_state.h"

struct accel_vm;
struct accel_vcpu;

enum vcpu_exit_reason {
	VCPU_EXIT_KICKED,	/* vcpu_kick() was called: look at what the monitor wants */
	VCPU_EXIT_TRIPLE_FAULT, /* shutdown */
	VCPU_EXIT_RESET, /* the guest asked for a reset through its CPU (not through a device) */
	VCPU_EXIT_ERROR, /* the accelerator cannot go on; text says why */
};

struct vcpu_exit {
	enum vcpu_exit_reason reason;
	uint64_t rip;
	char text[160]; /* for VCPU_EXIT_ERROR and VCPU_EXIT_TRIPLE_FAULT */
};

/* What an accelerator is given; all borrowed, outliving the accelerator's VM. */
struct accel_config {
	struct guest_mem *mem;
	struct bus *pio, *mmio;
	unsigned vcpu_count;	   /* 1 to 64; APIC IDs 0 .. count-1 */
	uint64_t code_cache_bytes; /* bt: bound on translated code; 0: default */
	const char *debug;	   /* bt: comma-separated debug options, or NULL */
};

/*
 * Limits of a probe: when there is a choice, when somebody asked for this accelerator, and when the
 * figures are what is asked for; with less time, what decides nothing is not measured.
 */
#define PROBE_MS 50
#define PROBE_ASKED_MS 2000
#define PROBE_FIGURES_MS 2500

/* What a probe found, for people and programs. */
struct accel_probe {
	const char *verdict; /* "usable", or in one word why not */
	char reason[256];    /* one line, also when usable */
	double ring0_mips;   /* rate of ring-0 code, million instructions per second; 0: unknown */
	double native_mips;  /* the same code as a process of the host */
	uint64_t exit_ns;    /* a guest's port access and back; 0: unknown */
};

struct accel_ops {
	const char *name;

	/* A small page of guest RAM costs an exit when it is first touched. */
	bool huge_pages;

	/*
	 * 0 when usable here; -errno with one line why not. Never takes longer than @limit_ms, at
	 * least PROBE_MS; what is not known by then counts as unusable.
	 * -ENOENT, -EACCES, -EOPNOTSUPP: not there, not allowed, too old; others: it does not do.
	 */
	int (*probe)(struct accel_probe *ret_probe, unsigned limit_ms, struct err *err);

	/*
	 * Make the VM: CPUs, local APICs and the I/O interrupt controller (which claims
	 * its own MMIO). @ret_irq is filled with where devices send interrupts.
	 */
	int (*vm_new)(const struct accel_config *cfg, struct accel_vm **ret_vm,
		      struct irq_sink *ret_irq, struct err *err);
	void (*vm_free)(struct accel_vm *vm);

	/*
	 * The most that a guest's CPU can be; of this host when @vm is NULL. cpu_show() makes it
	 * @id, part of what is offered: before the first vCPU, and when state is loaded.
	 */
	int (*cpu_offer)(struct accel_vm *vm, struct cpu_id *ret_id, struct err *err);
	int (*cpu_show)(struct accel_vm *vm, const struct cpu_id *id, struct err *err);

	/* vCPU @index; vCPU 0 is the boot processor, the others wait for SIPI. */
	int (*vcpu_new)(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret_vcpu,
			struct err *err);
	void (*vcpu_free)(struct accel_vcpu *vcpu);

	/* Run on the calling thread (always the same for a vCPU) until an exit. */
	void (*vcpu_run)(struct accel_vcpu *vcpu, struct vcpu_exit *exit);

	/* Make vcpu_run() return VCPU_EXIT_KICKED soon; any thread; remembered when not running. */
	void (*vcpu_kick)(struct accel_vcpu *vcpu);

	/* Only while the vCPU is not in vcpu_run(). */
	int (*vcpu_get_state)(struct accel_vcpu *vcpu, struct vcpu_state *state, struct err *err);
	int (*vcpu_set_state)(struct accel_vcpu *vcpu, const struct vcpu_state *state,
			      struct err *err);

	/* Interrupt controllers, clocks and per-vCPU APICs; all vCPUs stopped. */
	int (*save)(struct accel_vm *vm, struct snap_writer *w, struct err *err);
	int (*load)(struct accel_vm *vm, struct snap_reader *r, struct err *err);

	/* All CPUs, APICs and the interrupt controller to their power-on state; all vCPUs stopped.
	 */
	int (*reset)(struct accel_vm *vm, struct err *err);

	/*
	 * The guest's time (TSC, kvm-clock, timers of the local APICs) stands still from @stopped
	 * to !@stopped; all vCPUs stopped. State may be saved and loaded in between. Loop thread.
	 */
	void (*stop_time)(struct accel_vm *vm, bool stopped);

	/*
	 * Optional, NULL when vCPU writes are not tracked. dirty_log_set() begins or ends tracking;
	 * dirty_log_fetch() stores a bit per page of RAM, by memfd offset, that vCPUs wrote since
	 * the last fetch, into whole words of @bitmap. Any thread; vCPUs may run. What devices
	 * write is not in it.
	 */
	int (*dirty_log_set)(struct accel_vm *vm, bool on, struct err *err);
	int (*dirty_log_fetch)(struct accel_vm *vm, uint64_t *bitmap, struct err *err);

	/* Figures for people and tests, e.g. translated blocks; "name value\n" lines into @buf. */
	void (*stats)(struct accel_vm *vm, char *buf, unsigned size);
};

extern const struct accel_ops accel_bt;
extern const struct accel_ops accel_kvm;

/* Those linked into this program, best first, ended by NULL (accel.c). */
extern const struct accel_ops *const accel_list[];

#endif
