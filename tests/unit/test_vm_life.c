/* SPDX-License-Identifier: Apache-2.0 */
/* vm: life cycle, pause, save and load, on an accelerator that only counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>

#include "base/util.h"
#include "loop/loop.h"
#include "vm/vm.h"

struct accel_vm {
	unsigned resets;
	uint32_t chip;
};

struct accel_vcpu {
	struct accel_vm *vm;
	unsigned index;
	struct vcpu_state state;
	atomic_bool kicked;
	atomic_bool inside;
	atomic_uint rounds;
	atomic_int exit_next; /* an exit reason plus 1, once */
};

static struct accel_vcpu *cpus[VM_CPUS_MAX];

static int fake_probe(struct accel_probe *probe, unsigned limit_ms, struct err *err)
{
	return 0;
}

static int fake_vm_new(const struct accel_config *cfg, struct accel_vm **ret_vm,
		       struct irq_sink *irq, struct err *err)
{
	*ret_vm = calloc(1, sizeof(**ret_vm));
	return *ret_vm ? 0 : -ENOMEM;
}

static void fake_vm_free(struct accel_vm *vm)
{
	free(vm);
}

static int fake_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			 struct err *err)
{
	struct accel_vcpu *c = aligned_alloc(64, align_up(sizeof(*c), 64));

	memset(c, 0, sizeof(*c));
	c->vm = vm;
	c->index = index;
	cpus[index] = *ret = c;
	return 0;
}

static void fake_vcpu_free(struct accel_vcpu *c)
{
	free(c);
}

static void fake_run(struct accel_vcpu *c, struct vcpu_exit *ex)
{
	int next;

	atomic_store(&c->inside, true);
	for (;;) {
		atomic_fetch_add(&c->rounds, 1);
		next = atomic_exchange(&c->exit_next, 0);
		if (next) {
			ex->reason = (enum vcpu_exit_reason)(next - 1);
			ex->rip = 0x1234;
			snprintf(ex->text, sizeof(ex->text), "as told");
			break;
		}
		if (atomic_exchange(&c->kicked, false)) {
			ex->reason = VCPU_EXIT_KICKED;
			break;
		}
		usleep(200);
	}
	atomic_store(&c->inside, false);
}

static void fake_kick(struct accel_vcpu *c)
{
	atomic_store(&c->kicked, true);
}

static int fake_get(struct accel_vcpu *c, struct vcpu_state *s, struct err *err)
{
	assert_false(atomic_load(&c->inside));
	*s = c->state;
	return 0;
}

static int fake_set(struct accel_vcpu *c, const struct vcpu_state *s, struct err *err)
{
	assert_false(atomic_load(&c->inside));
	c->state = *s;
	return 0;
}

static int fake_save(struct accel_vm *vm, struct snap_writer *w, struct err *err)
{
	snap_begin(w, "chip", 1);
	snap_put_u32(w, vm->chip);
	snap_close(w);
	return 0;
}

static int fake_load(struct accel_vm *vm, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, "chip", 1, &version, err);

	if (ret < 0)
		return ret;
	vm->chip = snap_get_u32(r);
	return snap_end(r, err);
}

static int fake_reset(struct accel_vm *vm, struct err *err)
{
	for (unsigned i = 0; cpus[i] && i < 2; i++)
		assert_false(atomic_load(&cpus[i]->inside));
	vm->resets++;
	return 0;
}

static struct cpu_id fake_offered = { .vendor = "AuthenticAMD",
				      .phys_bits = 40,
				      .max_leaf = 0xd,
				      .max_ext_leaf = 0x80000008,
				      .word = { [CPU_1C] = 7 } };

static int fake_offer(struct accel_vm *vm, struct cpu_id *ret_id, struct err *err)
{
	*ret_id = fake_offered;
	return 0;
}

static struct cpu_id fake_shown;

static int fake_show(struct accel_vm *vm, const struct cpu_id *id, struct err *err)
{
	fake_shown = *id;
	return 0;
}

static const struct accel_ops fake = {
	.name = "fake",
	.probe = fake_probe,
	.vm_new = fake_vm_new,
	.vm_free = fake_vm_free,
	.cpu_offer = fake_offer,
	.cpu_show = fake_show,
	.vcpu_new = fake_vcpu_new,
	.vcpu_free = fake_vcpu_free,
	.vcpu_run = fake_run,
	.vcpu_kick = fake_kick,
	.vcpu_get_state = fake_get,
	.vcpu_set_state = fake_set,
	.save = fake_save,
	.load = fake_load,
	.reset = fake_reset,
};

struct fixture {
	struct loop *loop;
	struct loop_timer *timer;
	struct vm *vm;
	unsigned boots, device_resets;
	uint32_t device;
	struct vm_request end;
	void (*then)(struct fixture *f);
	struct vm_device row;
};

static int on_boot(void *opaque, struct vcpu_state *state, struct err *err)
{
	struct fixture *f = opaque;
	uint8_t *ram = guest_mem_ptr(&f->vm->mem, 0x1000, 1);

	assert_int_equal(*ram, 0); /* power-on: RAM reads zero */
	*ram = 0x77;
	f->boots++;
	state->rip = 0x100000 + f->boots;
	return 0;
}

static void on_stopped(void *opaque, const struct vm_request *req)
{
	struct fixture *f = opaque;

	for (unsigned i = 0; i < f->vm->cpu_count; i++)
		assert_false(atomic_load(&cpus[i]->inside));
	f->end = *req;
	loop_quit(f->loop, 0);
}

static const struct vm_ops vm_ops = { on_boot, on_stopped };

static void dev_reset(void *dev)
{
	((struct fixture *)dev)->device_resets++;
	((struct fixture *)dev)->device = 0;
}

static void dev_save(void *dev, struct snap_writer *w)
{
	snap_begin(w, "dev", 1);
	snap_put_u32(w, ((struct fixture *)dev)->device);
	snap_close(w);
}

static int dev_load(void *dev, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, "dev", 1, &version, err);

	if (ret < 0)
		return ret;
	((struct fixture *)dev)->device = snap_get_u32(r);
	return snap_end(r, err);
}

static void on_timer(void *arg)
{
	struct fixture *f = arg;

	f->then(f);
}

static void make(struct fixture *f, bool no_reboot)
{
	struct vm_config cfg = { .accel = &fake,
				 .memory_bytes = MIB(4),
				 .cpu_count = 2,
				 .no_reboot = no_reboot,
				 .loop = f->loop,
				 .ops = &vm_ops,
				 .opaque = f };
	struct err err;

	assert_int_equal(vm_new(&cfg, &f->vm, &err), 0);
	f->row = (struct vm_device) {
		.name = "dev", .dev = f, .reset = dev_reset, .save = dev_save, .load = dev_load
	};
	vm_set_devices(f->vm, &f->row, 1);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	*state = f;
	memset(cpus, 0, sizeof(cpus));
	return loop_new(&f->loop, &err) || loop_timer_add(f->loop, on_timer, f, &f->timer);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->vm) {
		assert_int_equal(vm_stop(f->vm), 0);
		vm_free(f->vm);
	}
	loop_timer_del(f->timer);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void start_and_run(struct fixture *f, void (*then)(struct fixture *f))
{
	struct err err;

	f->then = then;
	loop_timer_arm(f->timer, clock_now_ns() + 10000000);
	assert_int_equal(vm_start(f->vm, &err), 0);
	loop_run(f->loop);
}

static void ask_power_off(struct fixture *f)
{
	vm_request(f->vm, VM_POWEROFF, 0, "bye");
}

static void test_power_off(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, ask_power_off);
	assert_int_equal(f->end.kind, VM_POWEROFF);
	assert_string_equal(f->end.text, "bye");
	assert_int_equal(f->boots, 1);
	assert_int_equal(f->device_resets, 1);
	assert_true(cpus[0]->state.rip == 0x100001);
	assert_true(atomic_load(&cpus[1]->rounds) > 0);
}

static void ask_reset(struct fixture *f)
{
	if (f->boots < 3) {
		f->device = 9;
		vm_request(f->vm, VM_RESET, 0, "again");
		loop_timer_arm(f->timer, clock_now_ns() + 10000000);
	} else {
		vm_request(f->vm, VM_DEBUG_EXIT, 0x21, "%s", "");
	}
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, ask_reset);
	assert_int_equal(f->end.kind, VM_DEBUG_EXIT);
	assert_int_equal(f->end.code, 0x21);
	assert_int_equal(f->boots, 3);
	assert_int_equal(f->device_resets, 3);
	assert_int_equal(f->device, 0);
	assert_int_equal(f->vm->accel_vm->resets, 3);
	assert_true(cpus[0]->state.rip == 0x100003);
}

static void test_no_reboot(void **state)
{
	struct fixture *f = *state;

	make(f, true);
	start_and_run(f, ask_reset);
	assert_int_equal(f->end.kind, VM_RESET);
	assert_int_equal(f->boots, 1);
}

static void fault_cpu_1(struct fixture *f)
{
	atomic_store(&cpus[1]->exit_next, VCPU_EXIT_TRIPLE_FAULT + 1);
}

static void test_triple_fault(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, fault_cpu_1);
	assert_int_equal(f->end.kind, VM_CRASH);
	assert_string_equal(f->end.text, "triple fault on vCPU 1 at rip 0x1234: as told");
}

static void break_cpu_0(struct fixture *f)
{
	atomic_store(&cpus[0]->exit_next, VCPU_EXIT_ERROR + 1);
}

static void test_accelerator_error(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, break_cpu_0);
	assert_int_equal(f->end.kind, VM_FAIL);
	assert_string_equal(f->end.text, "vCPU 0 at rip 0x1234: as told");
}

/* The weightiest of several requests counts, in whichever order they come. */
static void ask_several(struct fixture *f)
{
	vm_request(f->vm, VM_RESET, 0, "r");
	vm_request(f->vm, VM_CRASH, 0, "c");
	vm_request(f->vm, VM_POWEROFF, 0, "p");
}

static void test_several_requests(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, ask_several);
	assert_int_equal(f->end.kind, VM_CRASH);
	assert_int_equal(f->boots, 1);
}

static void pause_and_look(struct fixture *f)
{
	unsigned before[2];
	struct err err;

	assert_int_equal(vm_pause(f->vm, &err), 0);
	assert_int_equal(vm_pause(f->vm, &err), 0);
	vm_resume(f->vm); /* nests: still paused */
	for (unsigned i = 0; i < 2; i++)
		before[i] = atomic_load(&cpus[i]->rounds);
	usleep(5000);
	for (unsigned i = 0; i < 2; i++) {
		assert_false(atomic_load(&cpus[i]->inside));
		assert_int_equal(atomic_load(&cpus[i]->rounds), before[i]);
	}
	vm_resume(f->vm);
	for (unsigned i = 0; i < 2; i++)
		while (atomic_load(&cpus[i]->rounds) == before[i])
			usleep(200);
	vm_request(f->vm, VM_QUIT, 0, "done");
}

static void test_pause(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, pause_and_look);
	assert_int_equal(f->end.kind, VM_QUIT);
}

static void save_change_load(struct fixture *f)
{
	struct snap_writer w;
	struct snap_reader r;
	struct vcpu_state was;
	struct err err;

	snap_writer_init(&w);
	assert_int_equal(vm_save(f->vm, &w, &err), -EINVAL); /* not paused */
	snap_writer_done(&w);
	assert_int_equal(vm_pause(f->vm, &err), 0);
	/* Bytes that differ everywhere, so that a field left out is seen; padding stays zero. */
	memset(&cpus[1]->state, 0, sizeof(was));
	for (unsigned i = 0; i < 16; i++)
		cpus[1]->state.regs[i] = i * 0x1111111111111111ull;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpus[1]->state.segs[i] =
		    (struct vcpu_seg) { (uint16_t)(i + 1), i + 2, i + 3, i + 4 };
	cpus[1]->state.cr3 = 0x5000;
	cpus[1]->state.msr_kvm_poll_control = 77;
	cpus[1]->state.tsc = 1234567890123;
	cpus[1]->state.run_state = VCPU_HALTED;
	cpus[1]->state.exception_error = 0x55;
	cpus[1]->state.gdt = (struct vcpu_dtable) { 0x1000, 0x7f };
	memset(cpus[1]->state.xsave, 0xa5, sizeof(was.xsave));
	was = cpus[1]->state;
	f->device = 0x1111;
	f->vm->accel_vm->chip = 0x2222;

	snap_writer_init(&w);
	assert_int_equal(vm_save(f->vm, &w, &err), 0);
	memset(&cpus[1]->state, 0, sizeof(was));
	f->device = 0;
	f->vm->accel_vm->chip = 0;
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(vm_load(f->vm, &r, &err), 0);
	assert_int_equal(r.pos, r.len);
	assert_memory_equal(&cpus[1]->state, &was, sizeof(was));
	assert_int_equal(f->device, 0x1111);
	assert_int_equal(f->vm->accel_vm->chip, 0x2222);
	/* Cut anywhere, it is refused. */
	for (size_t len = 0; len < w.len; len += 97) {
		snap_reader_init(&r, w.data, len);
		assert_int_equal(vm_load(f->vm, &r, &err), -EBADMSG);
	}
	/* A host with more shows what the guest knows, one with less is refused before anything
	 * changes. */
	fake_offered.word[CPU_1C] = 0xf;
	memset(&fake_shown, 0, sizeof(fake_shown));
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(vm_load(f->vm, &r, &err), 0);
	assert_int_equal(fake_shown.word[CPU_1C], 7);
	fake_offered.word[CPU_1C] = 3;
	f->device = 0;
	memset(&cpus[1]->state, 0, sizeof(was));
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(vm_load(f->vm, &r, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "dtes64"));
	assert_non_null(strstr(err.text, "'fake'"));
	assert_int_equal(f->device, 0);
	assert_int_equal(cpus[1]->state.cr3, 0);
	fake_offered.word[CPU_1C] = 7;
	snap_writer_done(&w);
	vm_request(f->vm, VM_QUIT, 0, "done");
}

static void test_save_load(void **state)
{
	struct fixture *f = *state;

	make(f, false);
	start_and_run(f, save_change_load);
	assert_int_equal(f->end.kind, VM_QUIT);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_power_off),
		T(test_reset),
		T(test_no_reboot),
		T(test_triple_fault),
		T(test_accelerator_error),
		T(test_several_requests),
		T(test_pause),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
