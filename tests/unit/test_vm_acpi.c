/* SPDX-License-Identifier: Apache-2.0 */
/* vm: the ACPI tables, by their own structure and as ACPICA's disassembler reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "base/util.h"
#include "hw/platform.h"
#include "vm/acpi.h"

static uint8_t area[ACPI_AREA_SIZE];

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

static uint8_t *at(uint64_t gpa)
{
	assert_in_range(gpa, ACPI_AREA_BASE, ACPI_AREA_BASE + ACPI_AREA_SIZE - 1);
	return area + (gpa - ACPI_AREA_BASE);
}

static uint8_t *build(unsigned cpus)
{
	struct acpi_config cfg = { .cpu_count = cpus,
				   .hotplug_slots = 0x07fffff8,
				   .has_genid = true };
	struct err err;
	uint64_t rsdp;

	memset(area, 0xcc, sizeof(area));
	assert_int_equal(acpi_build(&cfg, area, &rsdp, &err), 0);
	assert_int_equal(rsdp % 16, 0);
	return at(rsdp);
}

/* The table with a signature, from the XSDT; DSDT and FACS through the FADT. */
static uint8_t *find(uint8_t *rsdp, const char *signature)
{
	uint8_t *xsdt = at(get_le64(rsdp + 24)), *found = NULL;

	if (!strcmp(signature, "XSDT"))
		return xsdt;
	for (uint32_t off = 36; off < get_le32(xsdt + 4); off += 8) {
		uint8_t *t = at(get_le64(xsdt + off));

		if (!memcmp(t, signature, 4))
			found = t;
		if (!memcmp(t, "FACP", 4) && !strcmp(signature, "DSDT"))
			found = at(get_le64(t + 140));
	}
	assert_non_null(found);
	return found;
}

static const char *const signatures[] = { "XSDT", "FACP", "APIC", "MCFG", "DSDT" };

static void test_structure(void **state)
{
	static const unsigned counts[] = { 1, 2, 63, 64 };

	for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
		uint8_t *rsdp = build(counts[c]), *madt, *fadt;
		unsigned lapics = 0, ioapics = 0, overrides = 0;

		assert_memory_equal(rsdp, "RSD PTR ", 8);
		assert_int_equal(sum(rsdp, 20), 0);
		assert_int_equal(sum(rsdp, 36), 0);
		for (unsigned i = 0; i < ARRAY_SIZE(signatures); i++) {
			uint8_t *t = find(rsdp, signatures[i]);

			assert_memory_equal(t, signatures[i], 4);
			assert_int_equal(sum(t, get_le32(t + 4)), 0);
			at((uint64_t)(t - area) + ACPI_AREA_BASE + get_le32(t + 4) - 1);
		}
		madt = find(rsdp, "APIC");
		for (uint32_t off = 44; off < get_le32(madt + 4); off += madt[off + 1]) {
			assert_true(madt[off + 1] >= 2);
			if (madt[off] == 0) {
				assert_int_equal(madt[off + 3], lapics); /* APIC ID */
				assert_int_equal(get_le32(madt + off + 4), 1);
				lapics++;
			} else if (madt[off] == 1) {
				assert_int_equal(get_le32(madt + off + 4), MEM_IOAPIC_BASE);
				ioapics++;
			} else if (madt[off] == 2) {
				overrides |= 1u << madt[off + 3];
			}
		}
		assert_int_equal(lapics, counts[c]);
		assert_int_equal(ioapics, 1);
		assert_int_equal(overrides, 1u << 0 | 1u << 9);
		fadt = find(rsdp, "FACP");
		assert_int_equal(get_le32(fadt + 56), PORT_PM1A_EVT);
		assert_int_equal(get_le32(fadt + 64), PORT_PM1A_CNT);
		assert_int_equal(get_le32(fadt + 76), PORT_PM_TMR);
		assert_int_equal(get_le32(fadt + 80), PORT_PM_GPE0);
		assert_int_equal(fadt[92], 4);
		assert_int_equal(get_le32(fadt + 112) >> 20 & 1, 1); /* hardware-reduced */
		assert_int_equal(get_le64(fadt + 248), PORT_PM1A_CNT + 1);
		assert_int_equal(get_le64(fadt + 260), PORT_PM1A_EVT + 1);
		assert_int_equal(get_le32(fadt + 40), get_le64(fadt + 140));
		assert_memory_equal(at(get_le32(fadt + 36)), "FACS", 4);
		assert_int_equal(get_le32(fadt + 36) % 64, 0);
	}
}

static bool has_iasl(void)
{
	return system("command -v iasl >/dev/null 2>&1") == 0;
}

/* Disassemble, and for the DSDT compile again: ACPICA then checks names, lengths and resources. */
static void test_iasl(void **state)
{
	char dir[] = "/tmp/eyot-acpi-XXXXXX", command[512], path[128];
	uint8_t *rsdp = build(64);

	if (!has_iasl())
		skip();
	assert_non_null(mkdtemp(dir));
	for (unsigned i = 0; i < ARRAY_SIZE(signatures); i++) {
		uint8_t *t = find(rsdp, signatures[i]);
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s.dat", dir, signatures[i]);
		f = fopen(path, "w");
		assert_non_null(f);
		assert_int_equal(fwrite(t, 1, get_le32(t + 4), f), get_le32(t + 4));
		fclose(f);
		snprintf(command, sizeof(command),
			 "cd %s && iasl -d %s.dat >out 2>&1 && ! grep -Ei "
			 "'error|warning|invalid|checksum (is|should)' out",
			 dir, signatures[i]);
		if (system(command) != 0)
			fail_msg("iasl -d %s", signatures[i]);
	}
	snprintf(command, sizeof(command),
		 "cd %s && iasl DSDT.dsl >out 2>&1 && grep -q ' 0 Errors, 0 Warnings' out", dir);
	if (system(command) != 0)
		fail_msg("the disassembled DSDT does not compile cleanly");
	/* What guests look for is there. */
	snprintf(command, sizeof(command),
		 "cd %s && for w in PNP0A08 PNP0501 PNP0B00 QEMU0001 PNP0C02 VM_Gen_Counter "
		 "ACPI0013 _EVT PNP0C0C _S5 _PRT 'Device "
		 "(C03F)'; do "
		 "grep -qF \"$w\" DSDT.dsl || exit 1; done",
		 dir);
	assert_int_equal(system(command), 0);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_structure),
		cmocka_unit_test(test_iasl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
