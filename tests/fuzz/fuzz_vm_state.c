/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's saved state from anybody, taken by the translator: refused with a text, or
 * loaded, run for a moment and saved again. Such a state is a file or came over a network.
 *
 * The first byte tells whether the rest is the stream itself or changes to a good one.
 */
#include <assert.h>
#include <string.h>

#include "accel/accel.h"
#include "base/snap.h"
#include "base/util.h"
#include "fuzz.h"
#include "vm/vm.h"

static struct guest_mem mem;
static struct bus pio, mmio;
static struct accel_vm *vm;
static struct accel_vcpu *vcpu;
static struct vcpu_state state, power_on;

static void end(void)
{
	accel_bt.vcpu_free(vcpu);
	accel_bt.vm_free(vm);
}

static void start(void)
{
	struct accel_config cfg = { .mem = &mem, .pio = &pio, .mmio = &mmio, .vcpu_count = 1 };
	struct irq_sink irq;
	struct err err;

	bus_init(&pio);
	bus_init(&mmio);
	assert(!guest_mem_init(&mem, MIB(2), &err));
	cfg.code_cache_bytes = MIB(4);
	assert(!accel_bt.vm_new(&cfg, &vm, &irq, &err));
	assert(!accel_bt.vcpu_new(vm, 0, &vcpu, &err));
	assert(!accel_bt.vcpu_get_state(vcpu, &power_on, &err));
	atexit(end);
}

/* Change some bytes of a good stream. */
static void change(struct fuzz_in *in, struct snap_writer *w)
{
	vcpu_state_save(&power_on, w);
	assert(!w->failed);
	while (in->left) {
		size_t at = fuzz_take(in, 2) % w->len;

		w->data[at] = (uint8_t)fuzz_take(in, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct vcpu_exit ex = { .reason = VCPU_EXIT_KICKED };
	struct snap_reader r;
	struct snap_writer w;
	struct err err = { .text = "" };

	if (!vm)
		start();
	snap_writer_init(&w);
	if (fuzz_take(&in, 1) & 1) {
		snap_reader_init(&r, in.p, in.left);
	} else {
		change(&in, &w);
		snap_reader_init(&r, w.data, w.len);
	}
	if (vcpu_state_load(&state, &r, &err) == 0 &&
	    accel_bt.vcpu_set_state(vcpu, &state, &err) == 0) {
		accel_bt.vcpu_kick(vcpu);
		accel_bt.vcpu_run(vcpu, &ex);
		assert(!accel_bt.vcpu_get_state(vcpu, &state, &err));
	} else {
		assert(err.text[0]);
	}
	snap_writer_done(&w);
	assert(!accel_bt.reset(vm, &err));
	assert(!accel_bt.vcpu_set_state(vcpu, &power_on, &err));
	return 0;
}
