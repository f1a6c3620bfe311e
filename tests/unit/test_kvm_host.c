/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel/kvm: the host's own /dev/kvm, as far as it goes. Even one that emulates ring 0 at a crawl
 * has the interface and runs real mode and ring 3; and the accelerator makes a whole VM of it.
 * Without a device that may be opened the test is skipped, with the reason.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "base/util.h"

#define RAM_SIZE 0x10000u
#define AT_CODE 0x1000u
#define AT_PML4 0x2000u
#define AT_PDPT 0x3000u
#define AT_PD 0x4000u
#define PORT 0xf4
#define TURNS 1000000u
#define LIMIT_S 20 /* a hang, which ends the test */

struct guest {
	int kvm, vm, fd;
	size_t run_size;
	struct kvm_run *run;
	uint8_t *ram;
};

static int need(int fd, unsigned long request, const char *name, void *arg)
{
	int ret = kvm_sys_call(fd, request, (uintptr_t)arg);

	if (ret < 0)
		fail_msg("%s: %s", name, strerror(-ret));
	return ret;
}
#define NEED(fd, request, arg) need(fd, request, #request, arg)

static void make(struct guest *g, const void *code, size_t len)
{
	struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };

	g->kvm = kvm_sys_open();
	assert_true(g->kvm >= 0);
	g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g->ram != MAP_FAILED);
	memcpy(g->ram + AT_CODE, code, len);
	g->vm = NEED(g->kvm, KVM_CREATE_VM, NULL);
	region.userspace_addr = (uintptr_t)g->ram;
	NEED(g->vm, KVM_SET_TSS_ADDR, (void *)0xfeffd000ul);
	NEED(g->vm, KVM_SET_USER_MEMORY_REGION, &region);
	g->fd = NEED(g->vm, KVM_CREATE_VCPU, NULL);
	g->run_size = (size_t)NEED(g->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	g->run = kvm_sys_map(g->fd, g->run_size);
	assert_non_null(g->run);
}

static void done(struct guest *g)
{
	kvm_sys_unmap(g->run, g->run_size);
	kvm_sys_close(g->fd);
	kvm_sys_close(g->vm);
	kvm_sys_close(g->kvm);
	munmap(g->ram, RAM_SIZE);
}

/* To the port write, and what it wrote. */
static uint32_t run(struct guest *g)
{
	int ret;

	alarm(LIMIT_S);
	ret = kvm_sys_call(g->fd, KVM_RUN, 0);
	alarm(0);
	if (ret < 0)
		fail_msg("KVM_RUN: %s", strerror(-ret));
	if (g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != PORT)
		fail_msg("exit %u instead of a port write", g->run->exit_reason);
	assert_int_equal(g->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(g->run->io.size, 4);
	return get_le32((uint8_t *)g->run + g->run->io.data_offset);
}

/* What the accelerator asks of every host, whatever its speed. */
static void test_interface(void **state)
{
	int kvm = kvm_sys_open();

	assert_int_equal(NEED(kvm, KVM_GET_API_VERSION, NULL), 12);
	assert_true(NEED(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IMMEDIATE_EXIT) > 0);
	assert_true(NEED(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_VCPUS) > 0);
	assert_true((size_t)NEED(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL) >= sizeof(struct kvm_run));
	kvm_sys_close(kvm);
}

static void test_real_mode(void **state)
{
	/* mov ecx, TURNS; xor eax, eax; 1: add eax, 3; dec ecx; jnz 1b; out PORT, eax */
	static const uint8_t code[] = {
		0x66, 0xb9, 0x40, 0x42, 0x0f, 0x00, 0x66, 0x31, 0xc0, 0x66,
		0x83, 0xc0, 0x03, 0x66, 0x49, 0x75, 0xf8, 0x66, 0xe7, PORT
	};
	struct kvm_regs regs = { .rip = AT_CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	struct guest g;

	make(&g, code, sizeof(code));
	NEED(g.fd, KVM_GET_SREGS, &sregs);
	sregs.cs.base = sregs.cs.selector = 0;
	NEED(g.fd, KVM_SET_SREGS, &sregs);
	NEED(g.fd, KVM_SET_REGS, &regs);
	assert_int_equal(run(&g), 3 * TURNS);
	done(&g);
}

static void set_ring3(struct guest *g)
{
	struct kvm_segment code = { .type = 11,
				    .present = 1,
				    .s = 1,
				    .l = 1,
				    .g = 1,
				    .dpl = 3,
				    .limit = 0xffffffff,
				    .selector = 0x1b };
	struct kvm_segment data = { .type = 3,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1,
				    .dpl = 3,
				    .limit = 0xffffffff,
				    .selector = 0x23 };
	struct kvm_regs regs = { .rip = AT_CODE, .rsp = 0x8000, .rflags = 2 | 3 << 12 /* IOPL */ };
	struct kvm_sregs s;

	put_le64(g->ram + AT_PML4, AT_PDPT | 7);
	put_le64(g->ram + AT_PDPT, AT_PD | 7);
	put_le64(g->ram + AT_PD, 0x87);
	NEED(g->fd, KVM_GET_SREGS, &s);
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.cr3 = AT_PML4;
	s.cr4 = 1u << 5;
	s.cr0 = 1u | 1u << 4 | 1u << 5 | 1u << 31;
	s.efer = 1u << 8 | 1u << 10;
	NEED(g->fd, KVM_SET_SREGS, &s);
	NEED(g->fd, KVM_SET_REGS, &regs);
}

static void test_ring3(void **state)
{
	/* mov ecx, TURNS; xor eax, eax; 1: push rax; pop rdx; lea eax, [rdx+3]; dec ecx; jnz 1b;
	 * out */
	static const uint8_t code[] = { 0xb9, 0x40, 0x42, 0x0f, 0x00, 0x31, 0xc0, 0x50, 0x5a,
					0x8d, 0x42, 0x03, 0xff, 0xc9, 0x75, 0xf7, 0xe7, PORT };
	struct kvm_regs regs;
	struct guest g;

	make(&g, code, sizeof(code));
	set_ring3(&g);
	assert_int_equal(run(&g), 3 * TURNS);
	NEED(g.fd, KVM_GET_REGS, &regs);
	assert_int_equal(regs.rcx, 0);
	assert_int_equal(regs.rsp, 0x8000);
	done(&g);
}

/* The accelerator's own way: two vCPUs, their state and all controllers there and back. */
static void test_machine_state(void **state)
{
	struct accel_config cfg = { .vcpu_count = 2 };
	struct accel_vcpu *cpus[2] = { NULL, NULL };
	struct guest_mem mem;
	struct bus pio, mmio;
	struct irq_sink irq;
	struct accel_vm *vm;
	struct vcpu_state st;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };

	assert_int_equal(guest_mem_init(&mem, MIB(4), &err), 0);
	bus_init(&pio);
	bus_init(&mmio);
	cfg.mem = &mem;
	cfg.pio = &pio;
	cfg.mmio = &mmio;
	if (accel_kvm.vm_new(&cfg, &vm, &irq, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < 2; i++)
		if (accel_kvm.vcpu_new(vm, i, &cpus[i], &err) < 0)
			fail_msg("%s", err.text);
	snap_writer_init(&w);
	if (accel_kvm.reset(vm, &err) < 0 || accel_kvm.save(vm, &w, &err) < 0 ||
	    accel_kvm.vcpu_get_state(cpus[0], &st, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(st.rip, 0xfff0);
	st.regs[REG_RBX] = 0x1122334455667788;
	snap_reader_init(&r, w.data, w.len);
	if (accel_kvm.load(vm, &r, &err) < 0 || accel_kvm.vcpu_set_state(cpus[0], &st, &err) < 0 ||
	    accel_kvm.vcpu_get_state(cpus[0], &st, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(st.regs[REG_RBX] == 0x1122334455667788);
	snap_writer_done(&w);
	for (unsigned i = 0; i < 2; i++)
		accel_kvm.vcpu_free(cpus[i]);
	accel_kvm.vm_free(vm);
	guest_mem_done(&mem);
	bus_done(&pio);
	bus_done(&mmio);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interface),
		cmocka_unit_test(test_real_mode),
		cmocka_unit_test(test_ring3),
		cmocka_unit_test(test_machine_state),
	};
	int fd = kvm_sys_open();

	if (fd < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(-fd));
		return 77;
	}
	kvm_sys_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
