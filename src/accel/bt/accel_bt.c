/* SPDX-License-Identifier: Apache-2.0 */
/* The translator as an accelerator: accel.h's interface, the local APICs' callbacks, time. */
#include <linux/membarrier.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "accel/bt/cache.h"
#include "accel/bt/sys.h"
#include "accel/bt/window.h"
#include "accel/clock.h"
#include "base/log.h"
#include "hw/ioapic.h"
#include "hw/pic.h"

#define CACHE_DEFAULT MIB(64)
#define CACHE_SMALL MIB(1) /* debug option small-cache: starts anew all the time */

/* ---- time ---- */

static uint64_t host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

static uint64_t rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* The host's clocks, which seem to stand while the guest's do. */
static uint64_t seen_tsc(const struct bt_vm *vm)
{
	return vm->stopped_tsc ? vm->stopped_tsc : rdtsc();
}

static uint64_t seen_ns(const struct bt_vm *vm)
{
	return vm->stopped_ns ? vm->stopped_ns : host_ns();
}

uint64_t bt_guest_tsc(struct bt_cpu *cpu)
{
	return seen_tsc(cpu->vm) + cpu->tsc_offset;
}

static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	return (unsigned __int128)a * b / c;
}

static uint64_t raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

/* Both clocks at one moment: of some tries the one that took least time. */
static void read_clocks(uint64_t *ret_ns, uint64_t *ret_tsc)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 5; i++) {
		uint64_t before = rdtsc(), ns = raw_ns(), took = rdtsc() - before;

		if (took >= best)
			continue;
		best = took;
		*ret_ns = ns;
		*ret_tsc = before + took / 2;
	}
}

/*
 * Host TSC frequency, over about 4 ms: against CLOCK_MONOTONIC_RAW, which runs at the rate that the
 * host's kernel takes the TSC for, so that this is the rate its KVM goes by, too.
 */
static uint64_t measure_tsc_khz(void)
{
	uint64_t n0 = 0, t0 = 0, n1 = 0, t1 = 0;

	read_clocks(&n0, &t0);
	do
		read_clocks(&n1, &t1);
	while (n1 - n0 < 4000000);
	return mul_div(t1 - t0, 1000000, n1 - n0);
}

/* ---- local APIC callbacks ---- */

static void op_kick(void *opaque)
{
	bt_wake(opaque, PENDING_EVENT);
}

static void op_timer_arm(void *opaque, uint64_t deadline_ns)
{
	struct bt_cpu *cpu = opaque;
	struct itimerspec its = { .it_value = { deadline_ns / 1000000000u,
						deadline_ns % 1000000000u } };

	cpu->timer_deadline_ns = deadline_ns;
	if (cpu->timer_made)
		/* sandbox: loop vcpu: timer_settime */
		syscall(SYS_timer_settime, (long)(intptr_t)cpu->timer, TIMER_ABSTIME, &its, NULL);
}

static uint64_t op_now_ns(void *opaque)
{
	return seen_ns(((struct bt_cpu *)opaque)->vm);
}

static uint64_t op_guest_tsc(void *opaque)
{
	return bt_guest_tsc(opaque);
}

static uint64_t op_tsc_to_ns(void *opaque, uint64_t tsc)
{
	struct bt_cpu *cpu = opaque;
	uint64_t now = bt_guest_tsc(cpu), ns = seen_ns(cpu->vm);

	if ((int64_t)(tsc - now) <= 0)
		return ns;
	if (tsc - now > (uint64_t)cpu->vm->tsc_khz * 1000 * 86400 * 365)
		return ns + 86400ull * 365 * 1000000000;
	return ns + mul_div(tsc - now, 1000000, cpu->vm->tsc_khz);
}

static void op_eoi(void *opaque, uint8_t vector)
{
	struct bt_cpu *cpu = opaque;

	ioapic_eoi(cpu->vm->ioapic, vector);
}

static const struct lapic_ops lapic_ops = {
	.kick = op_kick,
	.timer_arm = op_timer_arm,
	.now_ns = op_now_ns,
	.guest_tsc = op_guest_tsc,
	.tsc_to_ns = op_tsc_to_ns,
	.eoi = op_eoi,
};

/* ---- the accelerator's interface ---- */

static int bt_probe(struct accel_probe *probe, unsigned limit_ms, struct err *err)
{
	int ret = bt_cpuid_init(err);

	*probe = (struct accel_probe) { .verdict = ret == 0 ? "usable" : "no-xsave" };
	snprintf(probe->reason, sizeof(probe->reason), "translates; needs nothing of the host");
	return ret;
}

static void msi(void *chip, uint64_t addr, uint32_t data)
{
	lapic_deliver_msi(chip, addr, data);
}

static void irq_line_set(void *chip, unsigned gsi, bool level)
{
	struct bt_vm *vm = chip;

	ioapic_set_line(vm->ioapic, gsi, level);
	pic_set_gsi(vm->pic, gsi, level);
}

static void irq_msi_send(void *chip, uint64_t addr, uint32_t data)
{
	struct bt_vm *vm = chip;

	msi(vm->lapics, addr, data);
}

/* The 8259 pair's output is wired to vCPU 0. */
static void pic_kick(void *opaque)
{
	struct bt_vm *vm = opaque;

	if (vm->cpus[0])
		bt_wake(vm->cpus[0], PENDING_EVENT);
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; p && (p = strstr(p, word)); p += n)
		if ((p == list || p[-1] == ',') && (p[n] == 0 || p[n] == ','))
			return true;
	return false;
}

static void bt_stats(struct accel_vm *avm, char *buf, unsigned size)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	struct bt_cache *c = vm->cache;
	uint64_t exits[EXIT_KINDS] = { 0 }, fills = 0, mmio = 0, jc_clears = 0, flushes = 0,
		 windows[4] = { 0 };

	for (unsigned i = 0; i < vm->count; i++) {
		if (!vm->cpus[i])
			continue;
		for (unsigned k = 0; k < EXIT_KINDS; k++)
			exits[k] += vm->cpus[i]->stat_exits[k];
		fills += vm->cpus[i]->stat_tlb_fills;
		mmio += vm->cpus[i]->stat_mmio;
		jc_clears += vm->cpus[i]->stat_jc_clears;
		flushes += vm->cpus[i]->stat_tlb_flushes;
		windows[0] += vm->cpus[i]->stat_windows;
		windows[1] += vm->cpus[i]->stat_window_maps;
		windows[2] += vm->cpus[i]->stat_window_drops;
		windows[3] += vm->cpus[i]->stat_window_steps;
	}
	snprintf(buf, size,
		 "blocks %llu\nblocks_invalidated %llu\ncache_flushes %llu\nguest_code_bytes "
		 "%llu\nhot_bytes %zu\n"
		 "windows %llu\nwindow_maps %llu\nwindow_drops %llu\nwindow_steps %llu\ncold_bytes "
		 "%zu\nrecord_bytes %zu\nexits_direct %llu\nexits_indirect "
		 "%llu\nexits_sys %llu\n"
		 "exits_next %llu\nexits_poll %llu\ntlb_fills %llu\ntlb_flushes "
		 "%llu\njump_cache_clears %llu\nmmio %llu\n",
		 (unsigned long long)c->stat_blocks, (unsigned long long)c->stat_invalidated,
		 (unsigned long long)c->stat_flushes, (unsigned long long)c->stat_guest_bytes,
		 (size_t)(c->hot - c->hot_start), (unsigned long long)windows[0],
		 (unsigned long long)windows[1], (unsigned long long)windows[2],
		 (unsigned long long)windows[3], (size_t)(c->cold - c->cold_start), c->arena_used,
		 (unsigned long long)exits[EXIT_DIRECT], (unsigned long long)exits[EXIT_INDIRECT],
		 (unsigned long long)exits[EXIT_SYS], (unsigned long long)exits[EXIT_NEXT],
		 (unsigned long long)exits[EXIT_POLL], (unsigned long long)fills,
		 (unsigned long long)flushes, (unsigned long long)jc_clears,
		 (unsigned long long)mmio);
}

static void bt_vm_free(struct accel_vm *avm)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	if (!vm)
		return;
	pic_free(vm->pic);
	ioapic_free(vm->ioapic);
	lapic_set_free(vm->lapics);
	bt_windows_free(vm);
	bt_cache_free(vm);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->exclusive);
	free(vm);
}

static int bt_vm_new(const struct accel_config *cfg, struct accel_vm **ret_vm,
		     struct irq_sink *ret_irq, struct err *err)
{
	struct bt_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return err_set(err, ENOMEM, "bt: out of memory");
	vm->mem = cfg->mem;
	vm->pio = cfg->pio;
	vm->mmio = cfg->mmio;
	vm->count = cfg->vcpu_count;
	vm->opt_exact_flags = has_word(cfg->debug, "exact-flags");
	vm->opt_nolink = has_word(cfg->debug, "nolink");
	vm->opt_nogroup = has_word(cfg->debug, "nogroup");
	vm->opt_noside = has_word(cfg->debug, "noside");
	vm->opt_nofast = has_word(cfg->debug, "nofast");
	vm->opt_window = has_word(cfg->debug, "window");
	vm->opt_nowindow = has_word(cfg->debug, "nowindow");
	vm->opt_stats = has_word(cfg->debug, "stats");
	vm->membarrier =
	    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->exclusive, NULL);
	r = bt_cpuid_init(err);
	if (!r) {
		bt_cpu_offer(&vm->cpu);
		bt_cpu_show(vm, &vm->cpu);
		vm->tsc_khz = measure_tsc_khz();
		r = bt_cache_new(vm,
				 has_word(cfg->debug, "small-cache") ? CACHE_SMALL
				 : cfg->code_cache_bytes	     ? cfg->code_cache_bytes
								     : CACHE_DEFAULT,
				 err);
	}
	if (!r)
		bt_windows_new(vm);
	if (!r && (r = lapic_set_new(vm->count, &vm->lapics)))
		err_set(err, -r, "bt: cannot make the local APICs");
	if (!r)
		r = ioapic_new(cfg->mmio, vm->lapics, &vm->ioapic, err);
	if (!r)
		r = pic_new(cfg->pio, pic_kick, vm, &vm->pic, err);
	if (r) {
		bt_vm_free((struct accel_vm *)vm);
		return r;
	}
	bt_install_signals();
	*ret_irq = (struct irq_sink) { .line = irq_line_set, .msi = irq_msi_send, .chip = vm };
	*ret_vm = (struct accel_vm *)vm;
	return 0;
}

/*
 * Below struct bt_cpu: the stack of translated code, which holds a return address and the frames
 * of host signals. Its lowest page is a guard. The struct itself has megabytes of tables that
 * translated code reads at random, so it lies on huge pages.
 */
#define CPU_STACK (64u << 10)
#define CPU_ALIGN (2ul << 20)
#define CPU_BYTES ((sizeof(struct bt_cpu) + CPU_ALIGN - 1) & ~(CPU_ALIGN - 1))

static struct bt_cpu *cpu_map(void)
{
	size_t size = CPU_ALIGN + CPU_BYTES;
	uint8_t *room = mmap(NULL, size + CPU_ALIGN, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)(((uintptr_t)room + CPU_ALIGN - 1) & ~(CPU_ALIGN - 1));

	if (room == MAP_FAILED)
		return NULL;
	if (start > room)
		munmap(room, start - room);
	munmap(start + size, room + CPU_ALIGN - start);

	struct bt_cpu *cpu = (struct bt_cpu *)(start + CPU_ALIGN);

	if (mprotect((uint8_t *)cpu - CPU_STACK, CPU_STACK + CPU_BYTES, PROT_READ | PROT_WRITE)) {
		munmap(start, size);
		return NULL;
	}
	madvise(cpu, CPU_BYTES, MADV_HUGEPAGE);
	/* The process of a user network would keep a copy of what is written here later. */
	madvise(cpu, CPU_BYTES, MADV_DONTFORK);
	return cpu;
}

static void cpu_unmap(struct bt_cpu *cpu)
{
	munmap((uint8_t *)cpu - CPU_ALIGN, CPU_ALIGN + CPU_BYTES);
}

static int bt_offer(struct accel_vm *avm, struct cpu_id *ret_id, struct err *err)
{
	int ret = bt_cpuid_init(err);

	if (ret == 0)
		bt_cpu_offer(ret_id);
	return ret;
}

static int bt_show(struct accel_vm *avm, const struct cpu_id *id, struct err *err)
{
	bt_cpu_show((struct bt_vm *)avm, id);
	return 0;
}

static int bt_vcpu_new(struct accel_vm *avm, unsigned index, struct accel_vcpu **ret_vcpu,
		       struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	struct bt_cpu *cpu = cpu_map();

	if (!cpu)
		return err_set(err, ENOMEM, "bt: out of memory for vCPU %u", index);
	cpu->vm = vm;
	cpu->index = index;
	cpu->delivering = -1;
	cpu->taken = -1;
	cpu->lapic_ops = &lapic_ops;
	cpu->commit_exit = calloc(1, sizeof(struct bt_exit));
	cpu->translator = calloc(1, bt_translator_size());
	if (!cpu->commit_exit || !cpu->translator) {
		free(cpu->commit_exit);
		free(cpu->translator);
		cpu_unmap(cpu);
		return err_set(err, ENOMEM, "bt: out of memory for vCPU %u", index);
	}
	cpu->window_mask = WINDOW_MASK;
	bt_jc_forget(cpu);
	bt_tlb_flush_all(cpu);
	cpu->lapic = lapic_set_init(vm->lapics, index, &lapic_ops, cpu);
	cpu->fpu_parked = true;
	bt_cpu_reset(cpu, false);
	vm->cpus[index] = cpu;
	*ret_vcpu = (struct accel_vcpu *)cpu;
	return 0;
}

static void bt_vcpu_free(struct accel_vcpu *v)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;
	char text[1024];

	if (!cpu)
		return;
	if (cpu->vm->opt_stats && cpu->index == 0) {
		bt_stats((struct accel_vm *)cpu->vm, text, sizeof(text));
		for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
			log_info("bt: %.*s", (int)(end - line), line);
	}
	if (cpu->timer_made)
		/* sandbox: loop: timer_delete */
		timer_delete(cpu->timer);
	cpu->vm->cpus[cpu->index] = NULL;
	free(cpu->commit_exit);
	free(cpu->translator);
	cpu_unmap(cpu);
}

static void bt_vcpu_run(struct accel_vcpu *v, struct vcpu_exit *exit)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	if (bt_self != cpu)
		bt_bind_thread(cpu);
	cpu->exit = exit;
	cpu->exit_wanted = false;
	bt_run_loop(cpu);
	bt_fpu_park(cpu);
	cpu->exit = NULL;
}

static void bt_vcpu_kick(struct accel_vcpu *v)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	atomic_store(&cpu->kicked, true);
	bt_wake(cpu, PENDING_EVENT);
}

/* x87 and SSE even where the guest has no XSAVE: they are in use without it. */
static uint64_t xcr0_carried(const struct bt_cpu *cpu)
{
	return cpu->vm->xcr0_max | 3;
}

static int bt_get_state(struct accel_vcpu *v, struct vcpu_state *st, struct err *err)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	/* So that INIT and start-up messages never have to be carried over. */
	bt_take_messages(cpu);
	*st = cpu->st;
	/* What the host has in use beyond the guest's CPU is not the guest's. */
	put_le64(st->xsave + 512, get_le64(st->xsave + 512) & xcr0_carried(cpu));
	st->interrupt_pending = cpu->taken >= 0;
	st->interrupt_vector = cpu->taken >= 0 ? cpu->taken : 0;
	st->cr8 = lapic_get_cr8(cpu->lapic);
	st->msr_apic_base = lapic_base(cpu->lapic);
	st->tsc = bt_guest_tsc(cpu);
	st->run_state = cpu->wait_sipi ? VCPU_WAIT_SIPI : cpu->halted ? VCPU_HALTED : VCPU_RUNNING;
	st->nmi_masked = cpu->nmi_masked;
	st->nmi_pending = cpu->nmi_pending;
	st->interrupt_shadow = cpu->int_shadow;
	st->exception_pending = cpu->exc.valid;
	st->exception_vector = cpu->exc.vector;
	st->exception_has_error = cpu->exc.has_error;
	st->exception_error = cpu->exc.error;
	return 0;
}

/*
 * The state has no time of its own, so between saving and setting some ticks pass, others on each
 * vCPU. What lies within a second of vCPU 0 (or of the present) is meant to be the same; KVM takes
 * it so.
 */
static void set_tsc(struct bt_cpu *cpu, uint64_t tsc)
{
	uint64_t near =
	    cpu->index && cpu->vm->cpus[0] ? cpu->vm->cpus[0]->tsc_offset : cpu->tsc_offset;
	int64_t off = (int64_t)(tsc - seen_tsc(cpu->vm) - near),
		second = (int64_t)cpu->vm->tsc_khz * 1000;

	if (tsc && (off > second || off < -second))
		cpu->tsc_offset = near + off;
	else if (tsc)
		cpu->tsc_offset = near;
}

static int bt_set_state(struct accel_vcpu *v, const struct vcpu_state *st, struct err *err)
{
	struct bt_cpu *cpu = (struct bt_cpu *)v;

	if (st->cr8 > 15)
		return err_set(err, EINVAL, "vCPU %u: cr8 %#llx is out of range", cpu->index,
			       (unsigned long long)st->cr8);
	if ((get_le64(st->xsave + 512) | st->xcr0) & ~xcr0_carried(cpu))
		return err_set(err, EOPNOTSUPP,
			       "vCPU %u: extended state %#llx (as in XCR0) is more than bt carries",
			       cpu->index,
			       (unsigned long long)((get_le64(st->xsave + 512) | st->xcr0) &
						    ~xcr0_carried(cpu)));
	if (st->interrupt_pending && st->interrupt_vector < 16)
		return err_set(err, EINVAL, "vCPU %u: pending interrupt %u is out of range",
			       cpu->index, st->interrupt_vector);
	if (get_le64(st->xsave + 520) || get_le64(st->xsave + 528) ||
	    (get_le32(st->xsave + 24) & ~sys_mxcsr_mask()))
		return err_set(err, EINVAL, "vCPU %u: the FPU image is not valid", cpu->index);
	cpu->st = *st;
	cpu->resume = NULL;
	cpu->fpu_parked = true;
	lapic_set_cr8(cpu->lapic, st->cr8);
	set_tsc(cpu, st->tsc);
	if (cpu->index == 0 && cpu->vm->clock_loaded) {
		cpu->vm->clock_tsc = bt_guest_tsc(cpu);
		cpu->vm->clock_loaded = false;
	}
	bt_clock_loaded(cpu);
	cpu->wait_sipi = st->run_state == VCPU_WAIT_SIPI;
	cpu->halted = st->run_state == VCPU_HALTED;
	cpu->nmi_masked = st->nmi_masked;
	cpu->nmi_pending = st->nmi_pending;
	cpu->int_shadow = st->interrupt_shadow;
	cpu->exc.valid = st->exception_pending;
	cpu->exc.vector = st->exception_vector;
	cpu->exc.has_error = st->exception_has_error;
	cpu->exc.error = st->exception_error;
	cpu->exc.cr2 = st->cr2;
	cpu->exc.soft = false;
	cpu->taken = st->interrupt_pending ? st->interrupt_vector : -1;
	cpu->delivering = -1;
	cpu->cpl = st->segs[SEG_SS].attr >> SEG_ATTR_DPL_SHIFT & 3;
	bt_tlb_flush_all(cpu);
	bt_update_key(cpu);
	atomic_fetch_or(&cpu->pending, PENDING_EVENT);
	return 0;
}

static int bt_save(struct accel_vm *avm, struct snap_writer *w, struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	pic_save(vm->pic, w);
	ioapic_save(vm->ioapic, w);
	for (unsigned i = 0; i < vm->count; i++)
		lapic_save(vm->cpus[i]->lapic, w);
	accel_clock_save(w, bt_clock_ns(vm->cpus[0]), (uint32_t)vm->tsc_khz);
	return 0;
}

static int load_clock(struct bt_vm *vm, struct snap_reader *r, struct err *err)
{
	uint32_t khz;
	uint64_t ns;
	int ret = accel_clock_load(r, &ns, &khz, err);

	if (ret)
		return ret;
	if (!accel_same_khz(khz, vm->tsc_khz))
		return err_set(err, EOPNOTSUPP,
			       "TSC of %u kHz; this host's is %llu and bt does not scale it", khz,
			       (unsigned long long)vm->tsc_khz);
	vm->clock_ns = ns;
	vm->clock_loaded = true;
	return 0;
}

static int bt_load(struct accel_vm *avm, struct snap_reader *r, struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	int ret = pic_load(vm->pic, r, err);

	if (!ret)
		ret = ioapic_load(vm->ioapic, r, err);

	for (unsigned i = 0; i < vm->count && !ret; i++)
		ret = lapic_load(vm->cpus[i]->lapic, r, err);
	if (!ret)
		ret = load_clock(vm, r, err);

	/* guest memory was replaced under the translations */
	pthread_mutex_lock(&vm->lock);
	bt_cache_flush(vm);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

static void bt_stop_time(struct accel_vm *avm, bool stopped)
{
	struct bt_vm *vm = (struct bt_vm *)avm;
	uint64_t tsc = rdtsc(), ns = host_ns();

	if (stopped) {
		vm->stopped_tsc = tsc;
		vm->stopped_ns = ns;
		return;
	}
	for (unsigned i = 0; i < vm->count; i++)
		vm->cpus[i]->tsc_offset -= tsc - vm->stopped_tsc;
	ns -= vm->stopped_ns;
	vm->stopped_tsc = vm->stopped_ns = 0;
	for (unsigned i = 0; i < vm->count; i++)
		lapic_timer_shift(vm->cpus[i]->lapic, ns);
}

static int bt_reset(struct accel_vm *avm, struct err *err)
{
	struct bt_vm *vm = (struct bt_vm *)avm;

	pthread_mutex_lock(&vm->lock);
	bt_cache_flush(vm);
	pthread_mutex_unlock(&vm->lock);
	pic_reset(vm->pic);
	ioapic_reset(vm->ioapic);
	for (unsigned i = 0; i < vm->count; i++) {
		vm->cpus[i]->exc.valid = vm->cpus[i]->nmi_pending = false;
		vm->cpus[i]->delivering = -1;
		bt_cpu_reset(vm->cpus[i], false);
		bt_tlb_flush_all(vm->cpus[i]);
	}
	return 0;
}

const struct accel_ops accel_bt = {
	.name = "bt",
	.probe = bt_probe,
	.vm_new = bt_vm_new,
	.vm_free = bt_vm_free,
	.cpu_offer = bt_offer,
	.cpu_show = bt_show,
	.vcpu_new = bt_vcpu_new,
	.vcpu_free = bt_vcpu_free,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_get_state = bt_get_state,
	.vcpu_set_state = bt_set_state,
	.save = bt_save,
	.load = bt_load,
	.stop_time = bt_stop_time,
	.reset = bt_reset,
	.stats = bt_stats,
};
