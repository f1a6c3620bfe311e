/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's interrupt controllers: how devices reach them, and their state
 * in the saved form that hw/ defines.
 *
 * Lines keep hw/'s numbering: GSI n is pin n of the I/O APIC, and of the 8259
 * pair, where the timer's GSI 2 is IRQ 0. A line is told to the kernel only
 * when it changes; the kernel takes a repeated rise for a new edge while
 * state is being loaded.
 *
 * Loading goes from the vCPUs outwards. The I/O APIC is last, and twice: lines
 * rise while all pins are masked, so that no edge is seen again; then the real
 * entries make asserted level-triggered pins pending.
 */
#include <string.h>

#include "accel/kvm/kvm.h"
#include "base/util.h"
#include "hw/ioapic.h"
#include "hw/pic.h"
#include "vm/mem.h"

#define GSI_TIMER 2
#define ROUTES_MAX (IOAPIC_PINS + 15)

/* Registers of the xAPIC page */
enum {
	REG_ID = 0x20,
	REG_TPR = 0x80,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SVR = 0xf0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR2 = 0x310,
	REG_LVT = 0x320,
	REG_COUNT_INITIAL = 0x380,
	REG_COUNT_CURRENT = 0x390,
	REG_DIVIDE = 0x3e0,
};

#define BASE_X2APIC (3ull << 10) /* enabled, extended */
#define LVT_MODE_DEADLINE (2u << 17)
#define LVT_MODE_MASK (3u << 17)
#define MSR_TSC_DEADLINE 0x6e0

/* ---- from devices ---- */

static void set_line(void *chip, unsigned gsi, bool level)
{
	struct kvm_vm *vm = chip;
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	if (gsi >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&vm->lock);
	if ((vm->lines >> gsi & 1) != level) {
		vm->lines ^= 1u << gsi;
		/* sandbox: loop vcpu: ioctl(*, KVM_IRQ_LINE) */
		kvm_sys_call(vm->fd, KVM_IRQ_LINE, (uintptr_t)&irq);
	}
	pthread_mutex_unlock(&vm->lock);
}

/*
 * A message costs one system call whether it goes by KVM_SIGNAL_MSI or through an irqfd, and only
 * the latter needs a route for each vector: irqfds are for senders in the kernel.
 */
static void send_msi(void *chip, uint64_t addr, uint32_t data)
{
	struct kvm_vm *vm = chip;
	struct kvm_msi msi = { .address_lo = (uint32_t)addr,
			       .address_hi = (uint32_t)(addr >> 32),
			       .data = data };

	/* sandbox: loop vcpu: ioctl(*, KVM_SIGNAL_MSI) */
	kvm_sys_call(vm->fd, KVM_SIGNAL_MSI, (uintptr_t)&msi);
}

/* A write to @addr, of any width, becomes a count in @fd; the bus's hook. */
static int set_doorbell(void *arg, uint64_t addr, int fd, bool on)
{
	struct kvm_vm *vm = arg;
	struct kvm_ioeventfd bell = { .addr = addr,
				      .fd = fd,
				      .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN };

	/* sandbox: loop vcpu: ioctl(*, KVM_IOEVENTFD) */
	return kvm_sys_call(vm->fd, KVM_IOEVENTFD, (uintptr_t)&bell);
}

static unsigned add_route(struct kvm_irq_routing *table, unsigned gsi, unsigned chip, unsigned pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry) {
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
	return table->nr;
}

static int set_routes(struct kvm_vm *vm, struct err *err)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry room[ROUTES_MAX];
	} table = { 0 };

	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		unsigned irq = gsi == GSI_TIMER ? 0 : gsi;

		add_route(&table.head, gsi, KVM_IRQCHIP_IOAPIC, gsi);
		if (gsi && irq < 16)
			add_route(&table.head, gsi,
				  irq < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				  irq & 7);
	}
	/* sandbox: loop: ioctl(*, each KVM_CALL) */
	return KVM_CALL(vm->fd, KVM_SET_GSI_ROUTING, &table, err);
}

int kvm_irq_init(struct kvm_vm *vm, struct irq_sink *ret_irq, struct err *err)
{
	int ret = KVM_CALL(vm->fd, KVM_CREATE_IRQCHIP, NULL, err);

	if (ret == 0)
		ret = set_routes(vm, err);
	if (ret < 0)
		return ret;
	*ret_irq = (struct irq_sink) { .line = set_line, .msi = send_msi, .chip = vm };
	vm->mmio->doorbell = set_doorbell;
	vm->mmio->doorbell_arg = vm;
	return 0;
}

/* ---- the 8259 pair ---- */

static int get_pic(struct kvm_vm *vm, struct pic_chip_state chip[2], struct err *err)
{
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_irqchip k = { .chip_id =
					     i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER };
		const struct kvm_pic_state *p = &k.chip.pic;
		int ret = KVM_CALL(vm->fd, KVM_GET_IRQCHIP, &k, err);

		if (ret < 0)
			return ret;
		chip[i] = (struct pic_chip_state) {
			.irr = p->irr,
			.imr = p->imr,
			.isr = p->isr,
			.elcr = p->elcr & (i ? PIC_ELCR_SLAVE : PIC_ELCR_MASTER),
			.lines = p->last_irr,
			.base = p->irq_base & 0xf8,
			.first = p->priority_add & 7,
			.init = p->init_state ? p->init_state + 1 : 0,
			.expect_icw4 = p->init4,
			.auto_eoi = p->auto_eoi,
			.rotate_aeoi = p->rotate_on_auto_eoi,
			.special_mask = p->special_mask,
			.nested = p->special_fully_nested_mode,
			.read_isr = p->read_reg_select,
			.poll = p->poll,
		};
	}
	return 0;
}

static int set_pic(struct kvm_vm *vm, const struct pic_chip_state chip[2], struct err *err)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct pic_chip_state *c = &chip[i];
		struct kvm_irqchip k = { .chip_id =
					     i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER };
		int ret;

		k.chip.pic = (struct kvm_pic_state) {
			.last_irr = c->lines,
			.irr = c->irr,
			.imr = c->imr,
			.isr = c->isr,
			.priority_add = c->first,
			.irq_base = c->base,
			.read_reg_select = c->read_isr,
			.poll = c->poll,
			.special_mask = c->special_mask,
			.init_state = c->init ? c->init - 1 : 0,
			.auto_eoi = c->auto_eoi,
			.rotate_on_auto_eoi = c->rotate_aeoi,
			.special_fully_nested_mode = c->nested,
			.init4 = c->expect_icw4,
			.elcr = c->elcr,
			.elcr_mask = i ? PIC_ELCR_SLAVE : PIC_ELCR_MASTER,
		};
		ret = KVM_CALL(vm->fd, KVM_SET_IRQCHIP, &k, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* ---- the I/O APIC ---- */

static int get_ioapic(struct kvm_vm *vm, struct ioapic_state *st, struct err *err)
{
	struct kvm_irqchip k = { .chip_id = KVM_IRQCHIP_IOAPIC };
	int ret = KVM_CALL(vm->fd, KVM_GET_IRQCHIP, &k, err);

	if (ret < 0)
		return ret;
	*st = (struct ioapic_state) { .select = (uint8_t)k.chip.ioapic.ioregsel,
				      .id = k.chip.ioapic.id & 0xf,
				      .lines = vm->lines };
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t rte = k.chip.ioapic.redirtbl[pin].bits;

		st->rte[pin] = rte & (IOAPIC_RTE_WRITABLE |
				      (ioapic_rte_is_level(rte) ? IOAPIC_RTE_REMOTE_IRR : 0));
	}
	return 0;
}

static int set_ioapic_entries(struct kvm_vm *vm, const struct ioapic_state *st, bool masked,
			      struct err *err)
{
	struct kvm_irqchip k = { .chip_id = KVM_IRQCHIP_IOAPIC };

	k.chip.ioapic.base_address = MEM_IOAPIC_BASE;
	k.chip.ioapic.ioregsel = st->select;
	k.chip.ioapic.id = st->id;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		k.chip.ioapic.redirtbl[pin].bits = masked ? IOAPIC_RTE_MASKED : st->rte[pin];
		if (!masked && ioapic_rte_is_level(st->rte[pin]))
			k.chip.ioapic.irr |= st->lines & 1u << pin;
	}
	return KVM_CALL(vm->fd, KVM_SET_IRQCHIP, &k, err);
}

static int set_ioapic(struct kvm_vm *vm, const struct ioapic_state *st,
		      const struct pic_chip_state pic[2], struct err *err)
{
	int ret = set_ioapic_entries(vm, st, true, err);

	for (unsigned gsi = 0; gsi < IOAPIC_PINS && ret == 0; gsi++)
		set_line(vm, gsi, st->lines >> gsi & 1);
	/* After the lines, whose edges it would latch */
	if (ret == 0)
		ret = set_pic(vm, pic, err);
	return ret < 0 ? ret : set_ioapic_entries(vm, st, false, err);
}

/* ---- local APICs ---- */

static uint32_t reg(const struct kvm_lapic_state *page, unsigned off)
{
	return get_le32(page->regs + off);
}

static void put_reg(struct kvm_lapic_state *page, unsigned off, uint32_t val)
{
	put_le32(page->regs + off, val);
}

/* 256 bits in eight registers */
static void get_bits(const struct kvm_lapic_state *page, unsigned off, uint64_t bits[4])
{
	for (unsigned i = 0; i < 8; i++)
		bits[i / 2] |= (uint64_t)reg(page, off + i * 16) << (i & 1) * 32;
}

static void put_bits(struct kvm_lapic_state *page, unsigned off, const uint64_t bits[4])
{
	for (unsigned i = 0; i < 8; i++)
		put_reg(page, off + i * 16, (uint32_t)(bits[i / 2] >> (i & 1) * 32));
}

static unsigned timer_unit_ns(uint32_t divide)
{
	unsigned code = (divide & 3) | (divide >> 1 & 4);

	return 1u << ((code + 1) & 7);
}

/* The kernel's timer counts nanoseconds before division, as hw/'s does. */
static void get_timer(const struct kvm_lapic_state *page, struct lapic_state *st)
{
	uint8_t vector = (uint8_t)st->lvt[0];
	bool seen;

	if ((st->lvt[0] & LVT_MODE_MASK) == LVT_MODE_DEADLINE) {
		st->timer_initial = 0;
		return;
	}
	if (!st->timer_initial)
		return;
	st->timer_left_ns = (uint64_t)reg(page, REG_COUNT_CURRENT) * timer_unit_ns(st->divide);
	/*
	 * A one-shot timer at zero may have run out a moment ago, with its interrupt not yet in the
	 * page. One too many does less harm than a lost one.
	 */
	seen = (st->irr[vector / 64] | st->isr[vector / 64]) >> vector % 64 & 1;
	if (!st->timer_left_ns && !seen)
		st->timer_left_ns = 1;
}

static int get_lapic(struct kvm_vcpu *cpu, struct lapic_state *st, struct err *err)
{
	struct kvm_vcpu_events events = { 0 };
	struct kvm_lapic_state page = { 0 };
	struct kvm_sregs sregs = { 0 };
	int ret = KVM_CALL(cpu->fd, KVM_GET_SREGS, &sregs, err);

	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_LAPIC, &page, err);
	if (ret == 0)
		ret = KVM_CALL(cpu->fd, KVM_GET_VCPU_EVENTS, &events, err);
	if (ret < 0)
		return ret;
	*st = (struct lapic_state) {
		.id = cpu->index,
		.base = sregs.apic_base,
		.esr = reg(&page, REG_ESR) & 0xef,
		.tpr = reg(&page, REG_TPR) & 0xff,
		.svr = reg(&page, REG_SVR) & 0x3ff,
		.ldr = (sregs.apic_base & BASE_X2APIC) == BASE_X2APIC
			   ? 0
			   : reg(&page, REG_LDR) & 0xff000000,
		.dfr = reg(&page, REG_DFR) | 0x0fffffff,
		.icr = reg(&page, REG_ICR) & 0xccfff,
		.icr2 = reg(&page, REG_ICR2),
		.divide = reg(&page, REG_DIVIDE) & 0xb,
		.timer_initial = reg(&page, REG_COUNT_INITIAL),
	};
	/* Of NMIs one waits in the vCPU's own state, another one here. */
	if (events.nmi.pending + events.nmi.injected > 1)
		st->events = LAPIC_EV_NMI;
	get_bits(&page, REG_ISR, st->isr);
	get_bits(&page, REG_TMR, st->tmr);
	get_bits(&page, REG_IRR, st->irr);
	st->isr[0] &= ~0xffffull;
	st->irr[0] &= ~0xffffull;
	for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
		st->lvt[i] = reg(&page, REG_LVT + i * 16) & lapic_lvt_mask(i);
	get_timer(&page, st);
	if ((st->lvt[0] & LVT_MODE_MASK) == LVT_MODE_DEADLINE)
		ret = kvm_get_msr(cpu, MSR_TSC_DEADLINE, &st->tsc_deadline, err);
	return ret;
}

static int set_base(struct kvm_vcpu *cpu, uint64_t base, struct err *err)
{
	struct kvm_sregs sregs = { 0 };
	int ret = KVM_CALL(cpu->fd, KVM_GET_SREGS, &sregs, err);

	if (ret < 0 || sregs.apic_base == base)
		return ret;
	sregs.apic_base = base;
	return KVM_CALL(cpu->fd, KVM_SET_SREGS, &sregs, err);
}

static void put_timer(struct kvm_lapic_state *page, const struct lapic_state *st)
{
	unsigned unit = timer_unit_ns(st->divide);
	uint64_t count = (st->timer_left_ns + unit - 1) / unit;

	put_reg(page, REG_DIVIDE, st->divide);
	/* The kernel lets a stopped one-shot timer with a count fire again: it has none, then. */
	if (!st->timer_left_ns)
		return;
	put_reg(page, REG_COUNT_INITIAL, st->timer_initial);
	put_reg(page, REG_COUNT_CURRENT,
		count > st->timer_initial ? st->timer_initial : (uint32_t)count);
}

static int set_lapic(struct kvm_vcpu *cpu, const struct lapic_state *st, struct err *err)
{
	struct kvm_lapic_state page = { 0 };
	int ret;

	/*
	 * A vCPU takes INIT and start-up messages before its state is read, and what is left of
	 * them in another accelerator's state was sent to a vCPU that was about to take them.
	 */
	if (st->events & (LAPIC_EV_INIT | LAPIC_EV_SIPI | LAPIC_EV_SMI))
		return err_set(err, EOPNOTSUPP,
			       "local APIC %u: a pending INIT, start-up or SMI message cannot be "
			       "carried over",
			       cpu->index);
	ret = set_base(cpu, st->base, err);
	if (ret == 0) /* its version, and what else is constant */
		ret = KVM_CALL(cpu->fd, KVM_GET_LAPIC, &page, err);
	if (ret < 0)
		return ret;
	memset(page.regs + REG_TPR, 0, sizeof(page.regs) - REG_TPR);
	put_reg(&page, REG_ID, st->id << 24);
	put_reg(&page, REG_TPR, st->tpr);
	put_reg(&page, REG_LDR, st->ldr);
	put_reg(&page, REG_DFR, st->dfr);
	put_reg(&page, REG_SVR, st->svr);
	put_reg(&page, REG_ESR, st->esr | st->esr_pending);
	put_reg(&page, REG_ICR, st->icr);
	put_reg(&page, REG_ICR2, st->icr2);
	put_bits(&page, REG_ISR, st->isr);
	put_bits(&page, REG_TMR, st->tmr);
	put_bits(&page, REG_IRR, st->irr);
	for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
		put_reg(&page, REG_LVT + i * 16, st->lvt[i]);
	put_timer(&page, st);
	ret = KVM_CALL(cpu->fd, KVM_SET_LAPIC, &page, err);
	cpu->tsc_deadline = st->tsc_deadline;
	cpu->extra_nmis = !!(st->events & LAPIC_EV_NMI) + !!(st->events & LAPIC_EV_SECOND_NMI);
	return ret;
}

/* ---- all together ---- */

int kvm_irq_save(struct kvm_vm *vm, struct snap_writer *w, struct err *err)
{
	struct pic_chip_state pic[2];
	struct ioapic_state io;
	struct lapic_state lapic;
	int ret = get_pic(vm, pic, err);

	if (ret == 0)
		ret = get_ioapic(vm, &io, err);
	if (ret < 0)
		return ret;
	pic_state_save(pic, w);
	ioapic_state_save(&io, w);
	for (unsigned i = 0; i < vm->count; i++) {
		ret = get_lapic(vm->cpus[i], &lapic, err);
		if (ret < 0)
			return ret;
		lapic_state_save(&lapic, w);
	}
	return 0;
}

int kvm_irq_load(struct kvm_vm *vm, struct snap_reader *r, struct err *err)
{
	struct pic_chip_state pic[2];
	struct ioapic_state io;
	struct lapic_state lapic;
	int ret = pic_state_load(pic, r, err);

	if (ret == 0)
		ret = ioapic_state_load(&io, r, err);
	for (unsigned i = 0; i < vm->count && ret == 0; i++) {
		ret = lapic_state_load(&lapic, i, r, err);
		if (ret == 0)
			ret = set_lapic(vm->cpus[i], &lapic, err);
	}
	return ret < 0 ? ret : set_ioapic(vm, &io, pic, err);
}

int kvm_irq_reset(struct kvm_vm *vm, struct err *err)
{
	struct ioapic_state io = { .lines = vm->lines }; /* levels stay what devices say */
	struct pic_chip_state pic[2];
	struct lapic_state lapic;
	int ret = 0;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io.rte[pin] = IOAPIC_RTE_MASKED;
	pic_state_reset(pic);
	for (unsigned i = 0; i < vm->count && ret == 0; i++) {
		lapic_state_reset(&lapic, i);
		ret = set_lapic(vm->cpus[i], &lapic, err);
	}
	return ret < 0 ? ret : set_ioapic(vm, &io, pic, err);
}
