/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's frame: guest memory, buses, the accelerator with its vCPU
 * threads, and the life cycle. Devices hang on it through one table.
 *
 * Threads: vm_request() may be called from any thread; everything else runs on
 * the loop thread. A vCPU thread never waits for the loop thread, so the loop
 * thread may wait for vCPUs to park.
 */
#ifndef EYOT_VM_VM_H
#define EYOT_VM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "base/err.h"
#include "base/snap.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/mem.h"

#define VM_CPUS_MAX 64

struct loop;
struct loop_fd;
struct vm;

/* What somebody asks of the machine; later ones weigh more when several come at once. */
enum vm_request_kind {
	VM_NONE,
	VM_RESET,      /* the guest asked for a reset */
	VM_POWEROFF,   /* the guest switched itself off */
	VM_CRASH,      /* triple fault or panic; text says which */
	VM_DEBUG_EXIT, /* the guest wrote code to the debug exit port */
	VM_QUIT,       /* from outside: end now; text says who */
	VM_FAIL,       /* the machine cannot go on for a reason of the host's; text says why */
};

struct vm_request {
	enum vm_request_kind kind;
	uint32_t code;
	char text[512];
};

struct vm_ops {
	/*
	 * Fill guest RAM (which reads zero) and change vCPU 0's power-on state into the one to
	 * start with. Loop thread, vCPUs parked; at start and after each reset.
	 */
	int (*boot)(void *opaque, struct vcpu_state *state, struct err *err);
	/* The machine has stopped for good because of @req; vCPUs are parked. Loop thread. */
	void (*stopped)(void *opaque, const struct vm_request *req);
	/* The devices' time stands still from @stopped to !@stopped. Loop thread; may be NULL. */
	void (*stop_time)(void *opaque, bool stopped);
	/* The machine was reset and is about to run. Loop thread; may be NULL. */
	void (*was_reset)(void *opaque);
};

/* One row per device, in the order of reset, save and load. Members but the name may be NULL. */
struct vm_device {
	const char *name;
	void *dev;
	void (*reset)(void *dev);
	/* Finish what is in flight, and leave RAM alone from then on; vCPUs are parked */
	void (*freeze)(void *dev);
	void (*thaw)(void *dev);
	void (*save)(void *dev, struct snap_writer *w);
	int (*load)(void *dev, struct snap_reader *r, struct err *err);
};

struct vm_config {
	const struct accel_ops *accel;
	const char *accel_debug; /* may be NULL */
	uint64_t memory_bytes;
	uint64_t code_cache_bytes; /* 0: default */
	unsigned cpu_count;
	const struct cpu_model *cpu; /* NULL: all that the accelerator offers */
	bool no_reboot;		     /* a reset stops the machine */
	struct loop *loop;
	const struct vm_ops *ops;
	void *opaque; /* of ops */
};

struct vm_cpu {
	struct vm *vm;
	unsigned index;
	struct accel_vcpu *vcpu;
	pthread_t thread;
	bool has_thread;
	bool parked;		  /* under vm->lock */
	_Atomic uint64_t returns; /* times that vcpu_run() returned */
};

struct vm {
	struct guest_mem mem;
	struct bus pio, mmio;
	struct irq_sink irq;
	struct loop *loop;
	const struct accel_ops *accel;
	struct accel_vm *accel_vm;
	unsigned cpu_count;
	struct cpu_id cpu; /* what the guest is shown */
	bool no_reboot;
	const struct vm_ops *ops;
	void *opaque;
	const struct vm_device *devices;
	unsigned device_count;

	int wake_fd; /* eventfd: a request waits */
	struct loop_fd *wake_source;
	bool skip_boot; /* the next power-on leaves RAM as it is: state will be loaded */
	bool frozen;	/* the devices */
	bool started;	/* RAM has been used */
	bool stopped;	/* ops->stopped() was called */

	pthread_mutex_t lock; /* guards what follows and vm_cpu.parked */
	pthread_cond_t parked_cond, run_cond;
	struct vm_request request;
	unsigned pause_depth;
	bool ending;
	bool stuck; /* a vCPU did not park in time: threads are left to the process's end */
	unsigned thread_count, parked_count;
	struct vm_cpu cpus[VM_CPUS_MAX];
};

/** vm_new() - make RAM, buses, accelerator and vCPUs; devices come next */
int vm_new(const struct vm_config *cfg, struct vm **ret_vm, struct err *err);

/**
 * vm_stop() - end the vCPU threads for good, so that devices may be freed; NULL is fine
 * Return: 0; -ETIMEDOUT when a vCPU does not stop: nothing may be freed then.
 */
int vm_stop(struct vm *vm);

/** vm_free() - after vm_stop() and after the devices; NULL is fine */
void vm_free(struct vm *vm);

/** vm_set_devices() - the device table, borrowed; before vm_start() */
void vm_set_devices(struct vm *vm, const struct vm_device *table, unsigned count);

/** vm_start() - boot and start the vCPU threads (paused when vm_pause() came before) */
int vm_start(struct vm *vm, struct err *err);

/** vm_start_to_load() - the same without a kernel, for vm_load(); paused */
int vm_start_to_load(struct vm *vm, struct err *err);

/**
 * vm_request() - ask for a change of the machine's life; any thread
 * @code: for VM_DEBUG_EXIT
 * @fmt: printf format of the text, may be ""
 *
 * vCPUs park at once; the loop thread handles the weightiest request once.
 */
void vm_request(struct vm *vm, enum vm_request_kind kind, uint32_t code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/** vm_pause() - park all vCPUs, freeze the devices, stop the guest's time; nests. Return: 0;
 * -ETIMEDOUT when one does not stop */
int vm_pause(struct vm *vm, struct err *err);
void vm_resume(struct vm *vm);

/**
 * vm_park() - as vm_pause(), but devices go on with what is in flight
 * For changes of the machine that no vCPU may be in the middle of.
 */
int vm_park(struct vm *vm, struct err *err);

/**
 * vm_save() - all state but RAM's content into @w; the machine is paused
 * Return: 0; -ENOMEM; -EINVAL when it is not paused.
 */
int vm_save(struct vm *vm, struct snap_writer *w, struct err *err);

/** vm_load() - the counterpart; the machine is paused and built alike; on failure it must not run
 * on */
int vm_load(struct vm *vm, struct snap_reader *r, struct err *err);

/* One vCPU's state as a section "vcpu" (vcpu_state.c). */
void vcpu_state_save(const struct vcpu_state *s, struct snap_writer *w);
int vcpu_state_load(struct vcpu_state *s, struct snap_reader *r, struct err *err);

#endif
