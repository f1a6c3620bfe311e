/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The emulated side: the guest image on an accelerator, through accel.h only.
 *
 * The runner's out instruction calls slot_write() on the vCPU's thread, which
 * takes the result and puts the next case, so a whole batch runs without an
 * exit. At the end of a batch the vCPU is kicked; the runner asks again when
 * it goes on. A second thread kicks it when a case does not end.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/err.h"
#include "base/log.h"
#include "guest.h"
#include "vm/bus.h"
#include "vm/mem.h"

#define RAM_BYTES (16u << 20)
#define HANG_MS 2000

struct bt {
	struct guest guest;
	struct guest_mem mem;
	struct bus pio, mmio;
	struct accel_vm *vm;
	struct accel_vcpu *vcpu;
	struct irq_sink irq;
	struct vcpu_state start; /* at the runner's first instruction */

	const struct oracle_case *cases;
	struct oracle_result *results;
	unsigned next, n;
	volatile unsigned *cur;
	bool taken; /* case next-1 is with the guest, its result not yet here */
	atomic_uint seq;
	atomic_bool active, hung;
};

static const struct accel_ops *const ops = &accel_bt;

static void slot_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct bt *b = dev;

	if (b->guest.slot->panic) {
		ops->vcpu_kick(b->vcpu);
		return;
	}
	if (b->taken && b->guest.slot->done) {
		guest_take(&b->guest, &b->cases[b->next - 1], &b->results[b->next - 1]);
		b->taken = false;
	}
	atomic_fetch_add(&b->seq, 1);
	if (b->taken)
		return;
	while (b->next < b->n && b->cases[b->next].skip)
		b->next++;
	if (b->next >= b->n) {
		ops->vcpu_kick(b->vcpu);
		return;
	}
	*b->cur = b->next;
	guest_put(&b->guest, &b->cases[b->next++]);
	b->taken = true;
}

static uint64_t slot_read(void *dev, uint64_t off, unsigned size)
{
	return ~0ull;
}

static void *watch(void *arg)
{
	struct bt *b = arg;
	unsigned last = 0, idle_ms = 0;

	for (;;) {
		unsigned seq = atomic_load(&b->seq);

		usleep(50000);
		idle_ms = atomic_load(&b->active) && seq == last ? idle_ms + 50 : 0;
		last = seq;
		if (idle_ms >= HANG_MS) {
			atomic_store(&b->hung, true);
			ops->vcpu_kick(b->vcpu);
			idle_ms = 0;
		}
	}
	return NULL;
}

static void flat_seg(struct vcpu_seg *s, uint16_t sel, uint32_t attr)
{
	*s = (struct vcpu_seg) { .selector = sel, .attr = attr, .limit = 0xffffffff };
}

static void start_state(struct vcpu_state *s)
{
	flat_seg(&s->segs[SEG_CS], SEL_KERNEL_CS,
		 0xb | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_L | SEG_ATTR_G);
	flat_seg(&s->segs[SEG_SS], SEL_KERNEL_DS,
		 0x3 | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB | SEG_ATTR_G);
	s->segs[SEG_DS] = s->segs[SEG_ES] = s->segs[SEG_FS] = s->segs[SEG_GS] = s->segs[SEG_SS];
	s->segs[SEG_TR] = (struct vcpu_seg) { .selector = SEL_TSS,
					      .attr = 0xb | SEG_ATTR_P,
					      .limit = 0x67,
					      .base = GUEST_KVA + GUEST_TSS };
	s->segs[SEG_LDT] = (struct vcpu_seg) { .attr = 0x2 | SEG_ATTR_UNUSABLE };
	s->gdt = (struct vcpu_dtable) { GUEST_KVA + GUEST_GDT, 0x7f };
	s->idt = (struct vcpu_dtable) { GUEST_KVA + GUEST_IDT, 0xfff };
	s->cr0 = 0x80050033;
	s->cr3 = GUEST_TABLES;
	s->cr4 = (1u << 5) | (1u << 7) | (1u << 9) | (1u << 10) | (1u << 16) | (1u << 18);
	s->efer = 0xd01; /* SCE, LME, LMA, NXE */
	s->xcr0 = 7;
	s->rip = GUEST_KVA + GUEST_RUNNER;
	s->rflags = 2;
	s->run_state = VCPU_RUNNING;
}

static int fail(const char *what, const struct err *e)
{
	fprintf(stderr, "bt side: %s: %s\n", what, e->text);
	return -1;
}

static int bt_init(void **ret_ctx)
{
	static const struct bus_ops slot_ops = { slot_read, slot_write };
	struct bt *b = calloc(1, sizeof(*b));
	char debug[128];
	struct accel_config cfg = { .vcpu_count = 1, .debug = debug };
	struct err e = { "" };
	pthread_t thread;

	if (!b)
		return -1;
	snprintf(debug, sizeof(debug), "%s,%s", oracle_exact_flags ? "exact-flags" : "",
		 oracle_accel_debug ? oracle_accel_debug : "");
	log_init("eyot-oracle", LOG_ERROR); /* not every instruction that is undefined on purpose */
	if (guest_mem_init(&b->mem, RAM_BYTES, &e) < 0)
		return fail("no guest memory", &e);
	if (bus_init(&b->pio) < 0 || bus_init(&b->mmio) < 0)
		return fail("no bus", &e);
	cfg.mem = &b->mem;
	cfg.pio = &b->pio;
	cfg.mmio = &b->mmio;
	if (ops->vm_new(&cfg, &b->vm, &b->irq, &e) < 0)
		return fail("no VM", &e);
	if (ops->vcpu_new(b->vm, 0, &b->vcpu, &e) < 0)
		return fail("no vCPU", &e);
	if (bus_add(&b->pio, GUEST_PORT, 1, &slot_ops, b) < 0)
		return fail("no port", &e);
	guest_build(&b->guest, guest_mem_ptr(&b->mem, 0, RAM_BYTES), false);
	ops->vcpu_get_state(b->vcpu, &b->start, NULL);
	start_state(&b->start);
	if (ops->vcpu_set_state(b->vcpu, &b->start, &e) < 0)
		return fail("state refused", &e);
	if (pthread_create(&thread, NULL, watch, b))
		return fail("no thread", &e);
	*ret_ctx = b;
	return 0;
}

/* The case that was running will not end: note why and put the CPU back to the runner's start. */
static void give_up(struct bt *b, uint32_t status, const char *text, const struct vcpu_exit *exit)
{
	struct oracle_result *res = &b->results[b->next - 1];
	struct vcpu_state st;
	struct err e;

	ops->vcpu_get_state(b->vcpu, &st, NULL);
	if (b->taken) {
		memset(res, 0, offsetof(struct oracle_result, pages));
		res->status = status;
		snprintf(res->text, sizeof(res->text), "%s at rip %#lx %.60s", text,
			 (unsigned long)st.rip, exit->text);
		guest_abandon(&b->guest, &b->cases[b->next - 1]);
		b->taken = false;
	}
	b->guest.slot->panic = 0;
	b->guest.slot->cmd = SLOT_CMD_WAIT;
	if (ops->vcpu_set_state(b->vcpu, &b->start, &e) < 0) {
		fail("state refused", &e);
		_exit(6);
	}
}

static void bt_run(void *ctx, const struct oracle_case *cases, struct oracle_result *results,
		   unsigned from, unsigned n, volatile unsigned *cur)
{
	struct bt *b = ctx;

	b->cases = cases;
	b->results = results;
	b->next = from;
	b->n = n;
	b->cur = cur;
	b->taken = false;
	atomic_store(&b->active, true);
	while (b->next < n || b->taken) {
		struct vcpu_exit exit = { .reason = VCPU_EXIT_ERROR };

		ops->vcpu_run(b->vcpu, &exit);
		if (b->guest.slot->panic) {
			char text[80];

			snprintf(text, sizeof(text), "the runner faulted: vector %u at %#lx;",
				 b->guest.slot->panic & 0xff, (unsigned long)b->guest.slot->cr2);
			give_up(b, RES_ERROR, text, &exit);
		} else if (exit.reason != VCPU_EXIT_KICKED) {
			give_up(b, RES_ERROR,
				exit.reason == VCPU_EXIT_TRIPLE_FAULT ? "triple fault" : "error",
				&exit);
		} else if (atomic_exchange(&b->hung, false) && b->taken) {
			give_up(b, RES_TIMEOUT, "does not end,", &exit);
		}
	}
	atomic_store(&b->active, false);
}

const struct oracle_side side_bt = { "bt", bt_init, bt_run };
