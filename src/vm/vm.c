/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread per vCPU alternates between the accelerator and a gate.
 *
 * 1. A thread passes the gate only while nobody paused the machine and no
 *    request waits; whoever closes the gate kicks every vCPU afterwards. A kick
 *    is remembered by the accelerator, so none is lost between gate and run.
 * 2. Requests are noted under the lock and handled once, on the loop thread,
 *    with all vCPUs parked. While one waits the guest does not run on.
 * 3. Only the loop thread touches devices, accelerator state and RAM content
 *    for reset, save and load, and only with all vCPUs parked.
 *
 * A reset is a power cycle: guest RAM reads zero afterwards, and its host
 * memory is given back before the kernel is loaded again.
 */
#include "vm/vm.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "loop/loop.h"

#define PARK_TIMEOUT_S 20
#define VM_VERSION 2 /* of saved state as a whole; the first one did not tell the CPU */

static bool gate_closed(const struct vm *vm)
{
	return vm->pause_depth || vm->request.kind != VM_NONE;
}

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpu_count; i++)
		if (vm->cpus[i].vcpu)
			vm->accel->vcpu_kick(vm->cpus[i].vcpu);
}

/* Pass the gate; false when the thread shall end. */
static bool pass_gate(struct vm_cpu *cpu)
{
	struct vm *vm = cpu->vm;
	bool go;

	pthread_mutex_lock(&vm->lock);
	while (gate_closed(vm) && !vm->ending) {
		if (!cpu->parked) {
			cpu->parked = true;
			vm->parked_count++;
			pthread_cond_broadcast(&vm->parked_cond);
		}
		pthread_cond_wait(&vm->run_cond, &vm->lock);
	}
	if (cpu->parked) {
		cpu->parked = false;
		vm->parked_count--;
	}
	go = !vm->ending;
	pthread_mutex_unlock(&vm->lock);
	return go;
}

static void *vcpu_thread(void *arg)
{
	struct vm_cpu *cpu = arg;
	struct vm *vm = cpu->vm;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", cpu->index);
	pthread_setname_np(pthread_self(), name);
	if (loop_thread_begin(vm->loop, LOOP_THREAD_VCPU) < 0)
		vm_request(vm, VM_FAIL, 0, "vCPU %u: its thread cannot be confined", cpu->index);
	while (pass_gate(cpu)) {
		struct vcpu_exit ex = { .reason = VCPU_EXIT_KICKED };

		vm->accel->vcpu_run(cpu->vcpu, &ex);
		atomic_fetch_add_explicit(&cpu->returns, 1, memory_order_relaxed);
		switch (ex.reason) {
		case VCPU_EXIT_KICKED:
			break;
		case VCPU_EXIT_TRIPLE_FAULT:
			vm_request(vm, VM_CRASH, 0, "triple fault on vCPU %u at rip %#llx%s%.*s",
				   cpu->index, (unsigned long long)ex.rip, ex.text[0] ? ": " : "",
				   (int)sizeof(ex.text), ex.text);
			break;
		case VCPU_EXIT_RESET:
			vm_request(vm, VM_RESET, 0, "reset by vCPU %u", cpu->index);
			break;
		case VCPU_EXIT_ERROR:
			vm_request(vm, VM_FAIL, 0, "vCPU %u at rip %#llx: %.*s", cpu->index,
				   (unsigned long long)ex.rip, (int)sizeof(ex.text), ex.text);
			break;
		}
	}
	return NULL;
}

void vm_request(struct vm *vm, enum vm_request_kind kind, uint32_t code, const char *fmt, ...)
{
	uint64_t one = 1;
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	if (kind > vm->request.kind) {
		vm->request.kind = kind;
		vm->request.code = code;
		va_start(ap, fmt);
		vsnprintf(vm->request.text, sizeof(vm->request.text), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&vm->lock);
	kick_all(vm);
	/* sandbox: loop vcpu: write */
	while (write(vm->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Wait until every vCPU thread is parked; the gate is closed. Lock held. */
static int wait_parked(struct vm *vm)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += PARK_TIMEOUT_S;
	while (vm->parked_count < vm->thread_count) {
		if (pthread_cond_clockwait(&vm->parked_cond, &vm->lock, CLOCK_MONOTONIC, &until) ==
		    ETIMEDOUT) {
			vm->stuck = true;
			return -ETIMEDOUT;
		}
	}
	return 0;
}

int vm_park(struct vm *vm, struct err *err)
{
	int ret;

	pthread_mutex_lock(&vm->lock);
	vm->pause_depth++;
	pthread_mutex_unlock(&vm->lock);
	kick_all(vm);
	pthread_mutex_lock(&vm->lock);
	ret = wait_parked(vm);
	pthread_mutex_unlock(&vm->lock);
	if (ret < 0)
		return err_set(err, -ret, "pause: a vCPU did not stop within %d s", PARK_TIMEOUT_S);
	return 0;
}

static void stop_time(struct vm *vm, bool stopped)
{
	if (vm->accel->stop_time)
		vm->accel->stop_time(vm->accel_vm, stopped);
	if (vm->ops->stop_time)
		vm->ops->stop_time(vm->opaque, stopped);
}

int vm_pause(struct vm *vm, struct err *err)
{
	int ret = vm_park(vm, err);

	if (ret < 0)
		return ret;
	if (!vm->frozen)
		stop_time(vm, true);
	vm->frozen = true;
	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i].freeze)
			vm->devices[i].freeze(vm->devices[i].dev);
	return 0;
}

void vm_resume(struct vm *vm)
{
	/* Before the vCPUs run: a frozen device does not hear them. */
	if (vm->frozen && vm->pause_depth == 1) {
		for (unsigned i = 0; i < vm->device_count; i++)
			if (vm->devices[i].thaw)
				vm->devices[i].thaw(vm->devices[i].dev);
		stop_time(vm, false);
		vm->frozen = false;
	}
	pthread_mutex_lock(&vm->lock);
	if (vm->pause_depth)
		vm->pause_depth--;
	pthread_cond_broadcast(&vm->run_cond);
	pthread_mutex_unlock(&vm->lock);
}

/* Power-on state for everything and the kernel in RAM; vCPUs parked or not yet started. */
static int power_on(struct vm *vm, struct err *err)
{
	struct vcpu_state *state;
	uint64_t mtrr_def;
	int ret;

	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i].reset)
			vm->devices[i].reset(vm->devices[i].dev);
	ret = vm->started ? guest_mem_clear(&vm->mem) : 0;
	if (ret < 0)
		return err_set(err, -ret, "guest memory: clear for reset: %s", strerror(-ret));
	state = calloc(1, sizeof(*state));
	if (!state)
		return err_set(err, ENOMEM, "reset: out of memory");
	/* Before RAM is filled: a translator forgets here what it knew about RAM's content. */
	ret = vm->accel->reset(vm->accel_vm, err);
	if (ret == 0)
		ret = vm->accel->vcpu_get_state(vm->cpus[0].vcpu, state, err);
	if (ret == 0 && !vm->skip_boot)
		ret = vm->ops->boot(vm->opaque, state, err);
	/* The counters run on meanwhile, in step on all processors: leave them alone. */
	state->tsc = 0;
	if (ret == 0)
		ret = vm->accel->vcpu_set_state(vm->cpus[0].vcpu, state, err);
	/* Memory types must be alike on all processors. */
	mtrr_def = state->msr_mtrr_def;
	for (unsigned i = 1; i < vm->cpu_count && ret == 0; i++) {
		ret = vm->accel->vcpu_get_state(vm->cpus[i].vcpu, state, err);
		state->msr_mtrr_def = mtrr_def;
		state->tsc = 0;
		if (ret == 0)
			ret = vm->accel->vcpu_set_state(vm->cpus[i].vcpu, state, err);
	}
	free(state);
	return ret;
}

static void handle_request(void *arg, uint32_t events)
{
	struct vm *vm = arg;
	struct vm_request req;
	struct err err;
	uint64_t count;

	/* sandbox: loop: read */
	if (read(vm->wake_fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&vm->lock);
	if (vm->request.kind != VM_NONE && wait_parked(vm) < 0 && vm->request.kind < VM_QUIT) {
		vm->request.kind = VM_FAIL;
		snprintf(vm->request.text, sizeof(vm->request.text),
			 "a vCPU did not stop within %d s", PARK_TIMEOUT_S);
	}
	req = vm->request;
	pthread_mutex_unlock(&vm->lock);

	if (req.kind == VM_NONE || vm->stopped)
		return;
	if (req.kind == VM_RESET && !vm->no_reboot) {
		int ret = power_on(vm, &err);

		if (ret == 0) {
			if (vm->ops->was_reset)
				vm->ops->was_reset(vm->opaque);
			/* A weightier request that came meanwhile has woken the loop again. */
			pthread_mutex_lock(&vm->lock);
			if (vm->request.kind == VM_RESET)
				vm->request.kind = VM_NONE;
			pthread_cond_broadcast(&vm->run_cond);
			pthread_mutex_unlock(&vm->lock);
			return;
		}
		req.kind = VM_FAIL;
		snprintf(req.text, sizeof(req.text), "%.*s", (int)sizeof(req.text) - 1, err.text);
	}
	/* The request stays noted: the gate is closed for good. */
	vm->stopped = true;
	vm->ops->stopped(vm->opaque, &req);
}

void vm_set_devices(struct vm *vm, const struct vm_device *table, unsigned count)
{
	vm->devices = table;
	vm->device_count = count;
}

static void where_offered(const struct vm *vm, char *buf, size_t size)
{
	snprintf(buf, size, "accelerator '%s' on this host", vm->accel->name);
}

static int choose_cpu(struct vm *vm, const struct cpu_model *model, struct err *err)
{
	struct cpu_id offered;
	char where[80];
	int ret = vm->accel->cpu_offer(vm->accel_vm, &offered, err);

	where_offered(vm, where, sizeof(where));
	if (ret == 0)
		ret = cpu_model_apply(model, &offered, where, &vm->cpu, err);
	return ret < 0 ? ret : vm->accel->cpu_show(vm->accel_vm, &vm->cpu, err);
}

int vm_new(const struct vm_config *cfg, struct vm **ret_vm, struct err *err)
{
	struct accel_config ac;
	struct vm *vm;
	int ret;

	if (cfg->cpu_count < 1 || cfg->cpu_count > VM_CPUS_MAX)
		return err_set(err, EINVAL, "cpus '%u': not from 1 to %u", cfg->cpu_count,
			       VM_CPUS_MAX);
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(err, ENOMEM, "machine: out of memory");
	vm->mem.fd = -1;
	vm->wake_fd = -1;
	vm->loop = cfg->loop;
	vm->accel = cfg->accel;
	vm->cpu_count = cfg->cpu_count;
	vm->no_reboot = cfg->no_reboot;
	vm->ops = cfg->ops;
	vm->opaque = cfg->opaque;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->parked_cond, NULL);
	pthread_cond_init(&vm->run_cond, NULL);
	bus_init(&vm->pio);
	bus_init(&vm->mmio);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		vm->cpus[i] = (struct vm_cpu) { .vm = vm, .index = i };

	ret = (vm->accel->huge_pages ? guest_mem_init_huge
				     : guest_mem_init)(&vm->mem, cfg->memory_bytes, err);
	if (ret < 0)
		goto fail;
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->wake_fd < 0) {
		ret = err_set(err, errno, "machine: eventfd: %s", strerror(errno));
		goto fail;
	}
	ret = loop_fd_add(vm->loop, vm->wake_fd, EPOLLIN, handle_request, vm, &vm->wake_source);
	if (ret < 0) {
		err_set(err, -ret, "machine: event loop: %s", strerror(-ret));
		goto fail;
	}
	ac = (struct accel_config) { .mem = &vm->mem,
				     .pio = &vm->pio,
				     .mmio = &vm->mmio,
				     .vcpu_count = vm->cpu_count,
				     .code_cache_bytes = cfg->code_cache_bytes,
				     .debug = cfg->accel_debug };
	ret = vm->accel->vm_new(&ac, &vm->accel_vm, &vm->irq, err);
	if (ret < 0) {
		err_prefix(err, ret, "accelerator '%s'", vm->accel->name);
		goto fail;
	}
	ret = choose_cpu(vm, cfg->cpu, err);
	if (ret < 0)
		goto fail;
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		ret = vm->accel->vcpu_new(vm->accel_vm, i, &vm->cpus[i].vcpu, err);
		if (ret < 0) {
			err_prefix(err, ret, "accelerator '%s': vCPU %u", vm->accel->name, i);
			goto fail;
		}
	}
	*ret_vm = vm;
	return 0;
fail:
	vm_free(vm);
	return ret;
}

int vm_start(struct vm *vm, struct err *err)
{
	int ret = power_on(vm, err);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		ret = pthread_create(&vm->cpus[i].thread, NULL, vcpu_thread, &vm->cpus[i]);
		if (ret)
			return err_set(err, ret, "vCPU %u: start its thread: %s", i, strerror(ret));
		vm->cpus[i].has_thread = true;
		pthread_mutex_lock(&vm->lock);
		vm->thread_count++;
		pthread_mutex_unlock(&vm->lock);
	}
	vm->started = true;
	return 0;
}

int vm_start_to_load(struct vm *vm, struct err *err)
{
	int ret = vm_pause(vm, err);

	vm->skip_boot = true;
	if (ret == 0)
		ret = vm_start(vm, err);
	vm->skip_boot = false;
	return ret;
}

int vm_stop(struct vm *vm)
{
	int ret = 0;

	if (!vm)
		return 0;
	pthread_mutex_lock(&vm->lock);
	vm->pause_depth++;
	pthread_mutex_unlock(&vm->lock);
	kick_all(vm);
	pthread_mutex_lock(&vm->lock);
	if (!vm->stuck)
		ret = wait_parked(vm);
	if (vm->stuck) {
		pthread_mutex_unlock(&vm->lock);
		return -ETIMEDOUT;
	}
	vm->ending = true;
	pthread_cond_broadcast(&vm->run_cond);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		if (vm->cpus[i].has_thread)
			pthread_join(vm->cpus[i].thread, NULL);
		vm->cpus[i].has_thread = false;
	}
	return ret;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	for (unsigned i = 0; i < vm->cpu_count; i++)
		if (vm->cpus[i].vcpu)
			vm->accel->vcpu_free(vm->cpus[i].vcpu);
	if (vm->accel_vm)
		vm->accel->vm_free(vm->accel_vm);
	loop_fd_del(vm->wake_source);
	if (vm->wake_fd >= 0)
		close(vm->wake_fd);
	guest_mem_done(&vm->mem);
	bus_done(&vm->pio);
	bus_done(&vm->mmio);
	pthread_cond_destroy(&vm->parked_cond);
	pthread_cond_destroy(&vm->run_cond);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

int vm_save(struct vm *vm, struct snap_writer *w, struct err *err)
{
	struct vcpu_state *state;
	int ret = 0;

	if (!vm->pause_depth)
		return err_set(err, EINVAL, "save: the machine is not paused");
	state = calloc(1, sizeof(*state));
	if (!state)
		return err_set(err, ENOMEM, "save: out of memory");
	snap_begin(w, "vm", VM_VERSION);
	snap_put_u32(w, vm->cpu_count);
	snap_put_u64(w, vm->mem.size);
	snap_close(w);
	cpu_id_save(&vm->cpu, w);
	for (unsigned i = 0; i < vm->cpu_count && ret == 0; i++) {
		ret = vm->accel->vcpu_get_state(vm->cpus[i].vcpu, state, err);
		vcpu_state_save(state, w);
	}
	free(state);
	if (ret == 0)
		ret = vm->accel->save(vm->accel_vm, w, err);
	if (ret < 0)
		return err_prefix(err, ret, "save: accelerator '%s'", vm->accel->name);
	for (unsigned i = 0; i < vm->device_count; i++)
		if (vm->devices[i].save)
			vm->devices[i].save(vm->devices[i].dev, w);
	if (w->failed)
		return err_set(err, ENOMEM, "save: out of memory");
	return 0;
}

static int load_machine(struct vm *vm, struct snap_reader *r, struct err *err)
{
	uint32_t version, cpus;
	uint64_t ram;
	int ret = snap_open(r, "vm", VM_VERSION, &version, err);

	if (ret < 0)
		return ret;
	if (version != VM_VERSION)
		return err_set(err, EBADMSG,
			       "saved state: of version %u, which does not tell its CPU", version);
	cpus = snap_get_u32(r);
	ram = snap_get_u64(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	if (cpus != vm->cpu_count || ram != vm->mem.size)
		return err_set(
		    err, EINVAL,
		    "saved state: of a machine with %u CPUs and %llu MiB; this one has %u and %llu",
		    cpus, (unsigned long long)(ram >> 20), vm->cpu_count,
		    (unsigned long long)(vm->mem.size >> 20));
	return 0;
}

/* The guest goes on with the CPU that it knows, where that is offered. */
static int load_cpu(struct vm *vm, struct snap_reader *r, struct err *err)
{
	struct cpu_id saved, offered;
	char where[80];
	int ret = cpu_id_load(&saved, r, err);

	if (ret == 0)
		ret = vm->accel->cpu_offer(vm->accel_vm, &offered, err);
	where_offered(vm, where, sizeof(where));
	if (ret == 0)
		ret = cpu_id_check(&saved, &offered, where, err);
	if (ret == 0)
		ret = vm->accel->cpu_show(vm->accel_vm, &saved, err);
	if (ret == 0)
		vm->cpu = saved;
	return ret;
}

int vm_load(struct vm *vm, struct snap_reader *r, struct err *err)
{
	struct vcpu_state *state;
	int ret;

	if (!vm->pause_depth)
		return err_set(err, EINVAL, "load: the machine is not paused");
	ret = load_machine(vm, r, err);
	if (ret == 0)
		ret = load_cpu(vm, r, err);
	if (ret < 0)
		return ret;
	state = calloc(vm->cpu_count, sizeof(*state));
	if (!state)
		return err_set(err, ENOMEM, "load: out of memory");
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		ret = vcpu_state_load(&state[i], r, err);
		if (ret < 0) {
			err_prefix(err, ret, "vCPU %u", i);
			goto out;
		}
	}
	/* Clocks first: a vCPU's counters and timers are set against them. */
	ret = vm->accel->load(vm->accel_vm, r, err);
	if (ret < 0)
		goto out;
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		ret = vm->accel->vcpu_set_state(vm->cpus[i].vcpu, &state[i], err);
		if (ret < 0) {
			err_prefix(err, ret, "vCPU %u", i);
			goto out;
		}
	}
	for (unsigned i = 0; i < vm->device_count; i++) {
		if (!vm->devices[i].load)
			continue;
		ret = vm->devices[i].load(vm->devices[i].dev, r, err);
		if (ret < 0) {
			err_prefix(err, ret, "device '%s'", vm->devices[i].name);
			goto out;
		}
	}
out:
	free(state);
	return ret;
}
