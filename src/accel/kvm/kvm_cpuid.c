/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID of the guest: what the kernel says that it supports, less what saved
 * state does not carry, plus topology (Intel SDM volume 2, CPUID; AMD APM
 * volume 3, appendix E; the KVM leaves as Linux documents them).
 *
 * That is what can be offered, vm->cpuid_offered; vm->cpuid is what is shown of it, with the
 * features that the choice of a CPU (vm/cpu_model.h) leaves.
 *
 * Hidden because their state is in no saved vCPU: AMX, MPX, CET, protection
 * keys for supervisors, performance counters, processor trace, SGX, last
 * branch records, user waits, asynchronous page faults, and virtualisation itself.
 */
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/kvm.h"
#include "base/util.h"

#define BIT(n) (1u << (n))

enum reg { EAX, EBX, ECX, EDX };

/* x87, SSE, AVX, three of AVX-512, protection keys */
#define XCR0_CARRIED 0x2e7ull

/* Bits that are hidden, and bits that are set whatever the kernel says. */
static const struct edit {
	uint32_t leaf, sub;
	enum reg reg;
	uint32_t hide, set;
} edits[] = {
	/* MONITOR, debug store, VMX, perf capabilities; OSXSAVE follows CR4 */
	{ 1, 0, ECX, BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(15) | BIT(27), BIT(31) },
	{ 1, 0, EDX, BIT(21) | BIT(28), 0 },
	{ 6, 0, EAX, ~BIT(2), 0 },
	{ 6, 0, EBX, ~0u, 0 },
	{ 6, 0, ECX, ~0u, 0 },
	{ 7, 0, EBX, BIT(2) | BIT(14) | BIT(25), 0 }, /* SGX, MPX, processor trace */
	/* WAITPKG, shadow stacks, bus lock detection, SGX, supervisor keys; OSPKE follows CR4 */
	{ 7, 0, ECX, BIT(4) | BIT(5) | BIT(7) | BIT(24) | BIT(30) | BIT(31), 0 },
	/* user interrupts, last branches, branch tracking, AMX */
	{ 7, 0, EDX, BIT(5) | BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25), 0 },
	{ 7, 1, EAX, BIT(17) | BIT(21), 0 },	      /* FRED, AMX */
	{ 7, 1, EDX, BIT(8) | BIT(18) | BIT(19), 0 }, /* AMX, CET, AVX10 */
	{ 0xd, 0, EAX, (uint32_t)~XCR0_CARRIED, 0 },
	{ 0xd, 0, EDX, ~0u, 0 },
	{ 0xd, 1, ECX, ~0u, 0 }, /* no supervisor states */
	{ 0xd, 1, EDX, ~0u, 0 },
	/* SVM, instruction sampling, SKINIT, LWP, performance counters */
	{ 0x80000001, 0, ECX,
	  BIT(1) | BIT(2) | BIT(10) | BIT(12) | BIT(15) | BIT(23) | BIT(24) | BIT(28), 0 },
	{ 0x80000008, 0, EBX, BIT(25), 0 }, /* an MSR for hypervisors */
	{ 0x80000021, 0, EAX, BIT(20) | BIT(21), 0 },
	/* old MMU calls, asynchronous page faults, migration control, long MSI destinations */
	{ 0x40000001, 0, EAX, BIT(2) | BIT(4) | BIT(10) | BIT(14) | BIT(15) | BIT(16) | BIT(17),
	  0 },
};

/* Leaves of which nothing is shown, or which are made anew: PMU, SGX, trace, AMX, topology, ... */
static bool is_dropped(const struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 5: /* MONITOR */
	case 0xa:
	case 0xb:
	case 0xf:
	case 0x10:
	case 0x12:
	case 0x14:
	case 0x1b ... 0x24:
	case 0x8000000a:
	case 0x8000001b:
	case 0x8000001c:
	case 0x8000001f ... 0x80000020:
	case 0x80000022 ... 0x80000026:
	case 0x40000010:
		return true;
	case 0xd:
		return e->index > 1 && (e->index > 63 || !(XCR0_CARRIED >> e->index & 1));
	}
	return e->function >= 0xc0000000; /* Centaur */
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	switch (reg) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *list, uint32_t leaf, uint32_t sub)
{
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == leaf && list->entries[i].index == sub)
			return &list->entries[i];
	return NULL;
}

/* The list has room: kvm_cpuid_init() asked for fewer than it allocated. */
static struct kvm_cpuid_entry2 *add(struct kvm_cpuid2 *list, uint32_t leaf, uint32_t sub,
				    uint32_t flags)
{
	struct kvm_cpuid_entry2 *e = &list->entries[list->nent++];

	*e = (struct kvm_cpuid_entry2) { .function = leaf, .index = sub, .flags = flags };
	return e;
}

#define ENTRIES_ADDED 4

static void drop(struct kvm_cpuid2 *list)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < list->nent; i++)
		if (!is_dropped(&list->entries[i]))
			list->entries[kept++] = list->entries[i];
	list->nent = kept;
}

static unsigned id_bits(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

/* Caches of levels 1 and 2 belong to one vCPU, level 3 is shared by all. */
static void edit_cache(struct kvm_cpuid_entry2 *e, unsigned count)
{
	if (!(e->eax & 0x1f))
		return;
	e->eax &= 0x3fff;
	if ((e->eax >> 5 & 7) >= 3)
		e->eax |= (count - 1) << 14;
	if (e->function == 4)
		e->eax |= ((1u << id_bits(count)) - 1) << 26;
}

/* What depends on the number of vCPUs, not on which one it is. */
static void edit_topology(struct kvm_vm *vm, bool amd)
{
	unsigned count = vm->count;

	for (unsigned i = 0; i < vm->cpuid_offered->nent; i++) {
		struct kvm_cpuid_entry2 *e = &vm->cpuid_offered->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0xff00) | (1u << id_bits(count)) << 16;
			e->edx |= count > 1 ? BIT(28) : 0;
			break;
		case 4:
		case 0x8000001d:
			edit_cache(e, count);
			break;
		case 0x80000001:
			e->ecx |= amd && count > 1 ? BIT(1) : 0;
			break;
		case 0x80000008:
			e->ecx = amd ? (count - 1) | id_bits(count) << 12 : 0;
			break;
		}
	}
	/* Threads, then cores; the IDs follow in kvm_cpuid_set(). */
	for (unsigned sub = 0; sub < 3; sub++) {
		struct kvm_cpuid_entry2 *e =
		    add(vm->cpuid_offered, 0xb, sub, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

		e->eax = sub == 1 ? id_bits(count) : 0;
		e->ebx = sub == 0 ? 1 : sub == 1 ? count : 0;
		e->ecx = sub | (sub < 2 ? (sub + 1) << 8 : 0);
	}
}

/* The parts of the extended state that a guest with @xcr0 at most can use. */
static void show_xstate(struct kvm_vm *vm, uint64_t xcr0)
{
	struct kvm_cpuid_entry2 *e = find(vm->cpuid, 0xd, 0);
	uint32_t size = 576;

	vm->xcr0_max = xcr0 | 3; /* x87 and SSE are in use without XSAVE, too */
	if (!e)
		return;
	e->eax = xcr0 == 1 ? 0 : (uint32_t)xcr0;
	for (unsigned i = 2; i < CPU_XSTATE_PARTS; i++) {
		struct kvm_cpuid_entry2 *part = find(vm->cpuid, 0xd, i);

		if (!part)
			continue;
		if (!(xcr0 >> i & 1))
			part->eax = part->ebx = part->ecx = part->edx = 0;
		else if (part->ebx + part->eax > size)
			size = part->ebx + part->eax;
	}
	e->ecx = e->eax ? size : 0;
	e->ebx = e->eax ? 576 : 0;
}

static void apply(struct kvm_cpuid2 *list, const struct edit *table, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct kvm_cpuid_entry2 *e = find(list, table[i].leaf, table[i].sub);
		uint32_t *r = e ? reg_of(e, table[i].reg) : NULL;

		if (r)
			*r = (*r & ~table[i].hide) | table[i].set;
	}
}

static void edit(struct kvm_vm *vm)
{
	struct kvm_cpuid2 *list = vm->cpuid_offered;
	struct kvm_cpuid_entry2 *e = find(list, 0, 0);
	bool amd = e && (e->ebx == 0x68747541 /* Auth */ || e->ebx == 0x6f677948 /* Hygo */);

	drop(list);
	apply(list, edits, ARRAY_SIZE(edits));
	/* Not in the list although the kernel has it: the list knows no in-kernel local APIC. */
	e = find(list, 1, 0);
	if (e && kvm_sys_call(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		e->ecx |= BIT(24);
	e = find(list, 0, 0);
	if (e && e->eax > 0x1a)
		e->eax = 0x1a;
	edit_topology(vm, amd);
}

static struct kvm_cpuid2 *new_list(void)
{
	return calloc(1, sizeof(struct kvm_cpuid2) +
			     KVM_CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
}

int kvm_cpuid_init(struct kvm_vm *vm, struct err *err)
{
	struct cpu_id id;
	int ret;

	vm->cpuid = new_list();
	vm->cpuid_offered = new_list();
	if (!vm->cpuid || !vm->cpuid_offered)
		return err_set(err, ENOMEM, "CPUID: out of memory");
	vm->cpuid_offered->nent = KVM_CPUID_ENTRIES - ENTRIES_ADDED;
	ret = KVM_CALL(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid_offered, err);
	if (ret < 0)
		return ret;
	if (vm->cpuid_offered->nent > KVM_CPUID_ENTRIES - ENTRIES_ADDED)
		return err_set(err, EINVAL, "CPUID: the kernel has too many leaves");
	edit(vm);
	kvm_cpuid_offer(vm, &id);
	for (unsigned i = 0; i < CPU_XSTATE_PARTS; i++)
		vm->xstate_offset[i] = id.xstate_offset[i];
	kvm_cpuid_show(vm, &id);
	return 0;
}

static uint32_t value(struct kvm_cpuid2 *list, uint32_t leaf, uint32_t sub, enum reg reg)
{
	struct kvm_cpuid_entry2 *e = find(list, leaf, sub);

	return e ? *reg_of(e, reg) : 0;
}

void kvm_cpuid_offer(struct kvm_vm *vm, struct cpu_id *ret_id)
{
	struct kvm_cpuid2 *list = vm->cpuid_offered;
	uint32_t vendor[3] = { value(list, 0, 0, EBX), value(list, 0, 0, EDX),
			       value(list, 0, 0, ECX) };
	uint32_t bits = value(list, 0x80000008, 0, EAX) & 0xff;

	*ret_id = (struct cpu_id) { .signature = value(list, 1, 0, EAX),
				    .phys_bits = bits ? bits : 36,
				    .max_leaf = value(list, 0, 0, EAX),
				    .max_ext_leaf = value(list, 0x80000000, 0, EAX) };
	memcpy(ret_id->vendor, vendor, sizeof(vendor));
	for (unsigned i = 0; i < CPU_WORDS; i++) {
		uint32_t leaf, sub;
		unsigned reg;

		cpu_word_place(i, &leaf, &sub, &reg);
		ret_id->word[i] = value(list, leaf, sub, reg) & cpu_word_features(i);
	}
	for (unsigned i = 2; i < CPU_XSTATE_PARTS; i++)
		ret_id->xstate_offset[i] = value(list, 0xd, i, EBX);
}

static void show_words(struct kvm_cpuid2 *list, const struct cpu_id *id)
{
	for (unsigned i = 0; i < CPU_WORDS; i++) {
		struct kvm_cpuid_entry2 *e;
		uint32_t leaf, sub, *r;
		unsigned reg;

		cpu_word_place(i, &leaf, &sub, &reg);
		e = find(list, leaf, sub);
		r = e ? reg_of(e, reg) : NULL;
		if (r)
			*r = (*r & ~cpu_word_features(i)) | id->word[i];
	}
}

static bool is_beyond(uint32_t leaf, const struct cpu_id *id)
{
	return (leaf > id->max_leaf && leaf < 0x40000000) || leaf > id->max_ext_leaf;
}

/* Its limits, and nothing beyond them: the kernel shows every leaf that is in the list. */
static void show_limits(struct kvm_cpuid2 *list, const struct cpu_id *id)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		switch (e->function) {
		case 0:
			e->eax = id->max_leaf;
			break;
		case 1:
			e->eax = id->signature;
			break;
		case 0x80000000:
			e->eax = id->max_ext_leaf;
			break;
		case 0x80000001:
			e->eax = e->eax ? id->signature : 0;
			break;
		case 0x80000008:
			e->eax = (e->eax & ~0xffu) | id->phys_bits;
			break;
		}
		if (!is_beyond(e->function, id))
			list->entries[kept++] = *e;
	}
	list->nent = kept;
}

void kvm_cpuid_show(struct kvm_vm *vm, const struct cpu_id *id)
{
	memcpy(vm->cpuid, vm->cpuid_offered,
	       sizeof(*vm->cpuid) + vm->cpuid_offered->nent * sizeof(struct kvm_cpuid_entry2));
	show_words(vm->cpuid, id);
	show_limits(vm->cpuid, id);
	show_xstate(vm, cpu_id_xcr0(id));
	vm->cpu = *id;
}

/* Rates of TSC and APIC timer, where hypervisors tell them */
void kvm_cpuid_set_rates(struct kvm_vm *vm)
{
	struct kvm_cpuid_entry2 *e = find(vm->cpuid_offered, 0x40000000, 0);
	struct cpu_id id;

	if (!e || !vm->tsc_khz)
		return;
	e->eax = 0x40000010;
	e = add(vm->cpuid_offered, 0x40000010, 0, 0);
	e->eax = vm->tsc_khz;
	e->ebx = 1000000;
	id = vm->cpu;
	kvm_cpuid_show(vm, &id);
}

int kvm_cpuid_set(struct kvm_vcpu *cpu, struct err *err)
{
	struct kvm_cpuid2 *list = cpu->vm->cpuid;

	/* The one list serves all vCPUs, one after the other. */
	for (unsigned i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0xffffff) | cpu->index << 24;
			break;
		case 0xb:
			e->edx = cpu->index;
			break;
		case 0x8000001e:
			e->eax = e->ebx = cpu->index;
			e->ecx = 0;
			break;
		}
	}
	return KVM_CALL(cpu->fd, KVM_SET_CPUID2, list, err);
}
