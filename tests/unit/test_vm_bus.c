/* SPDX-License-Identifier: Apache-2.0 */
/* vm: buses and guest memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "base/util.h"
#include "vm/bus.h"
#include "vm/mem.h"

struct dev {
	uint8_t id;
	uint64_t off, val;
	unsigned size, reads, writes;
};

static uint64_t dev_read(void *opaque, uint64_t off, unsigned size)
{
	struct dev *d = opaque;

	d->off = off;
	d->size = size;
	d->reads++;
	return 0xffffffffffffff00ull | d->id;
}

static void dev_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct dev *d = opaque;

	d->off = off;
	d->size = size;
	d->val = val;
	d->writes++;
}

static const struct bus_ops ops = { dev_read, dev_write };

static void test_claims(void **state)
{
	struct dev a = { .id = 0xa }, b = { .id = 0xb };
	struct bus bus;

	assert_int_equal(bus_init(&bus), 0);
	assert_int_equal(bus_add(&bus, 0x100, 8, &ops, &a), 0);
	assert_int_equal(bus_add(&bus, 0x108, 8, &ops, &b), 0);
	assert_int_equal(bus_add(&bus, 0x107, 1, &ops, &b), -EEXIST);
	assert_int_equal(bus_add(&bus, 0xf8, 9, &ops, &b), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x0, 0x1000, &ops, &b), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x200, 0, &ops, &b), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX - 1, 4, &ops, &b), -EINVAL);
	assert_int_equal(bus_add(&bus, UINT64_MAX - 3, 4, &ops, &b), 0); /* up to the very end */

	assert_int_equal(bus_read(&bus, 0x101, 1), 0x0a);
	assert_int_equal(a.off, 1);
	assert_int_equal(bus_read(&bus, 0x10c, 4), 0xffffff0b);
	assert_int_equal(b.off, 4);
	assert_int_equal(bus_read(&bus, 0x110, 2), 0xffff);
	assert_true(bus_read(&bus, 0xf0, 8) == UINT64_MAX);
	bus_write(&bus, 0x104, 2, 0x12345678);
	assert_int_equal(a.val, 0x5678);
	bus_write(&bus, 0x900, 4, 1); /* to nobody */

	bus_del(&bus, 0x100, &b); /* not its owner */
	assert_int_equal(bus_read(&bus, 0x100, 1), 0x0a);
	bus_del(&bus, 0x100, &a);
	assert_int_equal(bus_read(&bus, 0x100, 1), 0xff);
	assert_int_equal(bus_read(&bus, 0x108, 1), 0x0b);
	bus_done(&bus);
}

/* An access that crosses ranges goes byte by byte, each to its own claimant. */
static void test_crossing(void **state)
{
	struct dev a = { .id = 0xa }, b = { .id = 0xb };
	struct bus bus;

	assert_int_equal(bus_init(&bus), 0);
	assert_int_equal(bus_add(&bus, 0x100, 4, &ops, &a), 0);
	assert_int_equal(bus_add(&bus, 0x105, 4, &ops, &b), 0);
	assert_int_equal(bus_read(&bus, 0x102, 4), 0x0bff0a0a);
	assert_int_equal(a.reads, 2);
	assert_int_equal(a.size, 1);
	bus_write(&bus, 0xfe, 4, 0x44332211);
	assert_int_equal(a.writes, 2);
	assert_int_equal(a.val, 0x44);
	assert_int_equal(b.writes, 0);
	bus_done(&bus);
}

static void test_many_ranges(void **state)
{
	static struct dev devs[200];
	struct bus bus;

	assert_int_equal(bus_init(&bus), 0);
	for (unsigned i = 0; i < 200; i++) {
		unsigned k = i * 77 % 200; /* every slot once, out of order */

		devs[k].id = (uint8_t)k;
		assert_int_equal(bus_add(&bus, 0x1000 + k * 16, 16, &ops, &devs[k]), 0);
	}
	for (unsigned k = 0; k < 200; k++)
		assert_int_equal(bus_read(&bus, 0x1000 + k * 16 + 5, 1), k);
	for (unsigned k = 0; k < 200; k += 2)
		bus_del(&bus, 0x1000 + k * 16, &devs[k]);
	for (unsigned k = 0; k < 200; k++)
		assert_int_equal(bus_read(&bus, 0x1000 + k * 16, 1), k % 2 ? k : 0xff);
	bus_done(&bus);
}

static void test_memory(void **state)
{
	struct guest_mem mem;
	struct err err;
	struct stat st;
	uint8_t *p;

	assert_int_equal(guest_mem_init(&mem, 4096 + 1, &err), -EINVAL);
	assert_int_equal(guest_mem_init(&mem, KIB(512), &err), -EINVAL);
	assert_int_equal(guest_mem_init(&mem, GIB(65), &err), -EINVAL);

	assert_int_equal(guest_mem_init(&mem, MIB(16), &err), 0);
	assert_int_equal(mem.slot_count, 1);
	assert_int_equal(fstat(mem.fd, &st), 0);
	assert_int_equal(st.st_size, MIB(16));
	assert_int_equal(ftruncate(mem.fd, 0), -1); /* sealed */
	assert_int_equal((uintptr_t)mem.slots[0].hva % MIB(2), 0);
	p = guest_mem_ptr(&mem, MIB(16) - 1, 1);
	assert_non_null(p);
	*p = 5;
	assert_int_equal(pread(mem.fd, &st, 1, MIB(16) - 1), 1);
	assert_int_equal(*(uint8_t *)&st, 5);
	assert_null(guest_mem_ptr(&mem, MIB(16) - 1, 2));
	assert_null(guest_mem_ptr(&mem, MIB(16), 0));
	assert_null(guest_mem_ptr(&mem, UINT64_MAX, 2));
	assert_null(guest_mem_ptr(&mem, 0, UINT64_MAX));
	guest_mem_done(&mem);
}

static void test_memory_huge(void **state)
{
	struct guest_mem mem;
	struct err err;
	uint8_t *p;

	assert_int_equal(guest_mem_init_huge(&mem, 4096 + 1, &err), -EINVAL);
	for (unsigned shared = 0; shared < 2; shared++) {
		assert_int_equal(
		    (shared ? guest_mem_init : guest_mem_init_huge)(&mem, MIB(16), &err), 0);
		assert_int_equal((uintptr_t)mem.slots[0].hva % MIB(2), 0);
		p = guest_mem_ptr(&mem, MIB(5), 1);
		*p = 5;
		assert_int_equal(guest_mem_clear(&mem), 0);
		assert_int_equal(*p, 0);
		guest_mem_done(&mem);
	}
}

static void test_memory_above_4g(void **state)
{
	struct guest_mem mem;
	struct err err;

	assert_int_equal(guest_mem_init(&mem, GIB(3) + MIB(4), &err), 0);
	assert_int_equal(mem.slot_count, 2);
	assert_non_null(guest_mem_ptr(&mem, MEM_LOW_MAX - 8, 8));
	assert_null(guest_mem_ptr(&mem, MEM_LOW_MAX - 8, 9)); /* never across the hole */
	assert_null(guest_mem_ptr(&mem, MEM_PCI32_BASE, 1));
	assert_non_null(guest_mem_ptr(&mem, MEM_HIGH_BASE, MIB(4)));
	assert_null(guest_mem_ptr(&mem, MEM_HIGH_BASE + MIB(4), 1));
	*(uint64_t *)guest_mem_ptr(&mem, MEM_HIGH_BASE, 8) = 0x1122334455667788;
	assert_true(*(uint64_t *)(mem.slots[0].hva + GIB(3)) == 0x1122334455667788);
	guest_mem_done(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claims),	    cmocka_unit_test(test_crossing),
		cmocka_unit_test(test_many_ranges), cmocka_unit_test(test_memory),
		cmocka_unit_test(test_memory_huge), cmocka_unit_test(test_memory_above_4g),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
