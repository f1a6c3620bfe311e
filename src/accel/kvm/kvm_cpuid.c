/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID of the guest: what the kernel says that it supports, less what saved
 * state does not carry, plus topology (Intel SDM volume 2, CPUID; AMD APM
 * volume 3, appendix E; the KVM leaves as Linux documents them).
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

/*
 * The debug option no-xsave: XSAVE and what needs it. For QEMU's emulation of SVM (7.2), which does
 * not stop at XSETBV: KVM never learns what the guest enabled, and takes it away at the next entry.
 */
static const struct edit no_xsave[] = {
	{ 1, 0, ECX, BIT(12) | BIT(26) | BIT(28) | BIT(29), 0 },
	{ 7, 0, EBX,
	  BIT(5) | BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31),
	  0 },
	{ 7, 0, ECX, BIT(1) | BIT(3) | BIT(6) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14), 0 },
	{ 7, 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(23), 0 },
	{ 7, 1, EAX, BIT(4) | BIT(5) | BIT(23), 0 },
	{ 0xd, 0, EAX, ~0u, 0 },
	{ 0xd, 0, EBX, ~0u, 0 },
	{ 0xd, 0, ECX, ~0u, 0 },
	{ 0xd, 1, EAX, ~0u, 0 },
	{ 0x80000001, 0, ECX, BIT(11) | BIT(16), 0 },
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

	for (unsigned i = 0; i < vm->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &vm->cpuid->entries[i];

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
		    add(vm->cpuid, 0xb, sub, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

		e->eax = sub == 1 ? id_bits(count) : 0;
		e->ebx = sub == 0 ? 1 : sub == 1 ? count : 0;
		e->ecx = sub | (sub < 2 ? (sub + 1) << 8 : 0);
	}
}

/* Where the parts of the extended state lie on this host, and how much there is of it. */
static void learn_xstate(struct kvm_vm *vm)
{
	struct kvm_cpuid_entry2 *e = find(vm->cpuid, 0xd, 0);
	uint32_t size = 576;

	vm->xcr0_max = 3;
	/* without XSAVE the leaf may be there, all zero */
	if (!e || !e->eax)
		return;
	vm->xcr0_max = e->eax;
	for (unsigned i = 2; i < 32; i++) {
		struct kvm_cpuid_entry2 *part = find(vm->cpuid, 0xd, i);

		if (!(vm->xcr0_max >> i & 1) || !part)
			continue;
		vm->xstate_offset[i] = part->ebx;
		if (part->ebx + part->eax > size)
			size = part->ebx + part->eax;
	}
	e->ecx = size;
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
	struct kvm_cpuid2 *list = vm->cpuid;
	struct kvm_cpuid_entry2 *e = find(list, 0, 0);
	bool amd = e && (e->ebx == 0x68747541 /* Auth */ || e->ebx == 0x6f677948 /* Hygo */);

	drop(list);
	apply(list, edits, ARRAY_SIZE(edits));
	if (vm->opt_no_xsave)
		apply(list, no_xsave, ARRAY_SIZE(no_xsave));
	/* Not in the list although the kernel has it: the list knows no in-kernel local APIC. */
	e = find(list, 1, 0);
	if (e && kvm_sys_call(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		e->ecx |= BIT(24);
	e = find(list, 0, 0);
	if (e && e->eax > 0x1a)
		e->eax = 0x1a;
	/* Rates of TSC and APIC timer, where hypervisors tell them */
	e = find(list, 0x40000000, 0);
	if (e && vm->tsc_khz) {
		e->eax = 0x40000010;
		e = add(list, 0x40000010, 0, 0);
		e->eax = vm->tsc_khz;
		e->ebx = 1000000;
	}
	edit_topology(vm, amd);
	learn_xstate(vm);
}

int kvm_cpuid_init(struct kvm_vm *vm, struct err *err)
{
	int ret;

	vm->cpuid =
	    calloc(1, sizeof(*vm->cpuid) + KVM_CPUID_ENTRIES * sizeof(vm->cpuid->entries[0]));
	if (!vm->cpuid)
		return err_set(err, ENOMEM, "CPUID: out of memory");
	vm->cpuid->nent = KVM_CPUID_ENTRIES - ENTRIES_ADDED;
	ret = KVM_CALL(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid, err);
	if (ret < 0)
		return ret;
	if (vm->cpuid->nent > KVM_CPUID_ENTRIES - ENTRIES_ADDED)
		return err_set(err, EINVAL, "CPUID: the kernel has too many leaves");
	edit(vm);
	return 0;
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
