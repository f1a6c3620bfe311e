/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (ACPI 6.4, chapter 5): RSDP, XSDT, FADT, FACS, MADT, MCFG
 * and a DSDT that names what a guest cannot discover: the PCI root bridge with
 * its windows, interrupt routing and hot plug, CPUs, COM1, RTC, pvpanic and \_S5.
 *
 * The fixed hardware is that of hw/platform.h: PM1a blocks, PM timer, reset
 * register, power button as a fixed feature. There is no SMI command port: the
 * platform is in ACPI mode from the start.
 */
#include "vm/acpi.h"

#include <stdio.h>

#include "base/util.h"
#include "hw/pci.h"
#include "hw/platform.h"
#include "vm/aml.h"

#define OEM_ID "EYOT  "
#define OEM_TABLE_ID "EYOTVMM "
#define CREATOR_ID "EYOT"

#define HEADER_SIZE 36
#define HEADER_LENGTH 4	  /* offset of the length */
#define HEADER_CHECKSUM 9 /* offset of the checksum */
#define RSDP_SIZE 36
#define FACS_OFFSET 64 /* in the area; a FACS is 64-byte aligned */
#define FACS_SIZE 64
#define TABLES_OFFSET (FACS_OFFSET + FACS_SIZE)

#define RTC_CENTURY_INDEX 0x32

/* FADT */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_PWR_BUTTON (1u << 4) /* set: the power button is a device, not a fixed feature */
#define FADT_SLP_BUTTON (1u << 5) /* set: no fixed sleep button */
#define FADT_FIX_RTC (1u << 6)	  /* set: RTC wake status is not in the fixed registers */
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HW_REDUCED (1u << 20)
#define BOOT_ARCH_LEGACY_DEVICES (1u << 0)
#define BOOT_ARCH_NO_VGA (1u << 2)
#define BOOT_ARCH_NO_ASPM (1u << 4)

/* MADT flags of an interrupt source */
#define MPS_ACTIVE_HIGH 0x1u
#define MPS_LEVEL 0xcu

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return (uint8_t)-sum;
}

/* Tables are aligned, so that what follows a DSDT of odd length is, too. */
static size_t table_begin(struct aml *a, const char *signature, uint8_t revision)
{
	size_t at;

	while (a->len % 16 && !a->overflow)
		aml_u8(a, 0);
	at = a->len;
	aml_bytes(a, signature, 4);
	aml_u32(a, 0); /* length */
	aml_u8(a, revision);
	aml_u8(a, 0); /* checksum */
	aml_bytes(a, OEM_ID, 6);
	aml_bytes(a, OEM_TABLE_ID, 8);
	aml_u32(a, 1); /* OEM revision */
	aml_bytes(a, CREATOR_ID, 4);
	aml_u32(a, 1); /* creator revision */
	return at;
}

/* Ends the table; its guest address. */
static uint64_t table_end(struct aml *a, size_t at)
{
	size_t len = a->len - at;

	if (a->overflow)
		return 0;
	put_le32(a->data + at + HEADER_LENGTH, (uint32_t)len);
	a->data[at + HEADER_CHECKSUM] = checksum(a->data + at, len);
	return ACPI_AREA_BASE + at;
}

/* ---- DSDT ---- */

static void dsdt_hid_uid(struct aml *a, const char *eisaid, unsigned uid)
{
	aml_define(a, "_HID");
	aml_eisaid(a, eisaid);
	aml_define(a, "_UID");
	aml_int(a, uid);
}

static void dsdt_pci_routing(struct aml *a)
{
	size_t table, row;

	aml_define(a, "_PRT");
	table = aml_package_begin(a, (PCI_SLOT_COUNT - 1) * 4);
	for (unsigned slot = 1; slot < PCI_SLOT_COUNT; slot++) {
		for (unsigned pin = 1; pin <= 4; pin++) {
			row = aml_package_begin(a, 4);
			aml_int(a, (uint64_t)slot << 16 | 0xffff); /* any function */
			aml_int(a, pin - 1);
			aml_int(a, 0); /* no link device: the next is a GSI */
			aml_int(a, pci_intx_gsi(slot, pin));
			aml_block_end(a, row);
		}
	}
	aml_block_end(a, table);
}

static void slot_name(char *name, unsigned slot)
{
	snprintf(name, 8, "S%03X", slot & 0xfff);
}

/* Tell the devices whose bits are set in a register. */
static void hotplug_notify(struct aml *a, uint32_t slots, const char *reg, unsigned value)
{
	aml_store(a);
	aml_name(a, reg);
	aml_u8(a, AML_LOCAL0);
	for (unsigned slot = 0; slot < PCI_SLOT_COUNT; slot++) {
		char name[8];
		size_t block;

		if (!(slots & 1u << slot))
			continue;
		slot_name(name, slot);
		block = aml_if_begin(a);
		aml_and(a, AML_LOCAL0, 1u << slot);
		aml_notify(a, name, value);
		aml_block_end(a, block);
	}
}

/* The registers of hw/hotplug.c, a device for each slot that can change, and what the event runs.
 */
static void dsdt_hotplug(struct aml *a, uint32_t slots)
{
	static const char *const fields[] = { "HPUP", "HPDN", "HPEJ" };
	size_t dev, method;

	aml_io_region(a, "HPRG", PORT_HOTPLUG, PORT_HOTPLUG_SIZE, fields, ARRAY_SIZE(fields));
	for (unsigned slot = 0; slot < PCI_SLOT_COUNT; slot++) {
		char name[8];

		if (!(slots & 1u << slot))
			continue;
		slot_name(name, slot);
		dev = aml_device_begin(a, name);
		aml_define(a, "_ADR");
		aml_int(a, (uint64_t)slot << 16);
		aml_define(a, "_SUN");
		aml_int(a, slot);
		method = aml_method_begin(a, "_EJ0", 1);
		aml_store(a);
		aml_int(a, 1u << slot);
		aml_name(a, "HPEJ");
		aml_block_end(a, method);
		aml_block_end(a, dev);
	}
	method = aml_method_begin(a, "HPNT", 0);
	hotplug_notify(a, slots, "HPUP", 1); /* device check */
	hotplug_notify(a, slots, "HPDN", 3); /* eject request */
	aml_block_end(a, method);
}

static void dsdt_pci(struct aml *a, uint32_t hotplug_slots)
{
	size_t dev = aml_device_begin(a, "PCI0");
	size_t res;

	dsdt_hid_uid(a, "PNP0A08", 0);
	aml_define(a, "_CID");
	aml_eisaid(a, "PNP0A03");
	aml_define(a, "_SEG");
	aml_int(a, 0);
	aml_define(a, "_BBN");
	aml_int(a, 0);
	res = aml_resources_begin(a);
	aml_res_bus_window(a, 0, 0);
	aml_res_io(a, PORT_PCI_ADDRESS, 8);
	aml_res_io_window(a, 0, PORT_PCI_ADDRESS - 1);
	aml_res_io_window(a, PORT_PCI_ADDRESS + 8, 0xffff);
	aml_res_memory32_window(a, MEM_PCI32_BASE, MEM_PCI32_BASE + MEM_PCI32_SIZE - 1);
	aml_res_memory64_window(a, MEM_PCI64_BASE, MEM_PCI64_BASE + MEM_PCI64_SIZE - 1);
	aml_resources_end(a, res);
	dsdt_pci_routing(a);
	dsdt_hotplug(a, hotplug_slots);
	aml_block_end(a, dev);
}

/* What is taken by the board itself: guests trust ECAM only when something reserves it. */
static void dsdt_board(struct aml *a)
{
	size_t dev = aml_device_begin(a, "MBRD");
	size_t res;

	dsdt_hid_uid(a, "PNP0C02", 0);
	res = aml_resources_begin(a);
	aml_res_memory32(a, MEM_ECAM_BASE, MEM_ECAM_SIZE);
	aml_res_io(a, PORT_PM_BASE, PORT_PM_SIZE);
	aml_res_io(a, PORT_HOTPLUG, PORT_HOTPLUG_SIZE);
	aml_resources_end(a, res);
	aml_block_end(a, dev);
}

static void dsdt_isa(struct aml *a, const char *name, const char *eisaid, uint16_t port,
		     uint8_t ports, unsigned irq)
{
	size_t dev = aml_device_begin(a, name);
	size_t res;

	dsdt_hid_uid(a, eisaid, 1);
	res = aml_resources_begin(a);
	aml_res_io(a, port, ports);
	aml_res_irq(a, irq);
	aml_resources_end(a, res);
	aml_block_end(a, dev);
}

static void dsdt_pvpanic(struct aml *a)
{
	size_t dev = aml_device_begin(a, "PEVT");
	size_t res;

	aml_define(a, "_HID");
	aml_string(a, "QEMU0001");
	aml_define(a, "_STA");
	aml_int(a, 0xf);
	res = aml_resources_begin(a);
	aml_res_io(a, PORT_PVPANIC, 1);
	aml_resources_end(a, res);
	aml_block_end(a, dev);
}

/* Guests know it by its _CID, old ones by _DDN. */
static void dsdt_genid(struct aml *a)
{
	size_t dev = aml_device_begin(a, "VGEN");
	size_t addr;

	aml_define(a, "_HID");
	aml_string(a, "EYOT0001");
	aml_define(a, "_CID");
	aml_string(a, "VM_Gen_Counter");
	aml_define(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	aml_define(a, "ADDR");
	addr = aml_package_begin(a, 2);
	aml_int(a, ACPI_GENID_GPA);
	aml_int(a, 0); /* the upper half */
	aml_block_end(a, addr);
	aml_block_end(a, dev);
}

static void dsdt_button(struct aml *a)
{
	size_t dev = aml_device_begin(a, "PWRB");

	aml_define(a, "_HID");
	aml_eisaid(a, "PNP0C0C");
	aml_block_end(a, dev);
}

/* Local0 = @reg; @reg = Local0: status bits are cleared by writing them, enable bits stay. */
static void events_take(struct aml *a, const char *reg)
{
	aml_store(a);
	aml_name(a, reg);
	aml_u8(a, AML_LOCAL0);
	aml_store(a);
	aml_u8(a, AML_LOCAL0);
	aml_name(a, reg);
}

/* The event device: the registers of hw/pm.c, a status and an enable half each. */
static void dsdt_events(struct aml *a, const struct acpi_config *cfg)
{
	static const char *const fields[] = { "PMEV", "PMCN", "PMTM", "PMGP" };
	size_t dev = aml_device_begin(a, "GED_"), block, method;

	aml_define(a, "_HID");
	aml_string(a, "ACPI0013");
	block = aml_resources_begin(a);
	aml_res_level_gsi(a, GSI_SCI);
	aml_resources_end(a, block);
	aml_io_region(a, "PMRG", PORT_PM_BASE, PORT_PM_SIZE, fields, ARRAY_SIZE(fields));

	method = aml_method_begin(a, "_INI", 0);
	aml_store(a);
	aml_int(a, (uint32_t)PM_STS_POWER_BUTTON << 16);
	aml_name(a, "PMEV");
	aml_store(a);
	aml_int(a, (1u << PM_GPE_HOTPLUG | 1u << PM_GPE_GENID) << 16);
	aml_name(a, "PMGP");
	aml_block_end(a, method);

	method = aml_method_begin(a, "_EVT", 1); /* its argument can only be the SCI */
	events_take(a, "PMEV");
	block = aml_if_begin(a);
	aml_and(a, AML_LOCAL0, PM_STS_POWER_BUTTON);
	aml_notify(a, "\\_SB_.PWRB", 0x80);
	aml_block_end(a, block);
	events_take(a, "PMGP");
	block = aml_if_begin(a);
	aml_and(a, AML_LOCAL0, 1u << PM_GPE_HOTPLUG);
	aml_name(a, "\\_SB_.PCI0.HPNT");
	aml_block_end(a, block);
	if (cfg->has_genid) {
		block = aml_if_begin(a);
		aml_and(a, AML_LOCAL0, 1u << PM_GPE_GENID);
		aml_notify(a, "\\_SB_.VGEN", 0x80);
		aml_block_end(a, block);
	}
	aml_block_end(a, method);
	aml_block_end(a, dev);
}

static void dsdt_cpus(struct aml *a, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[8];
		size_t dev;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		dev = aml_device_begin(a, name);
		aml_define(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_define(a, "_UID");
		aml_int(a, i);
		aml_block_end(a, dev);
	}
}

static uint64_t put_dsdt(struct aml *a, const struct acpi_config *cfg)
{
	size_t at = table_begin(a, "DSDT", 2);
	size_t block;

	aml_define(a, "\\_S5_");
	block = aml_package_begin(a, 4);
	aml_int(a, PM_SLP_TYP_S5);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_block_end(a, block);

	block = aml_scope_begin(a, "\\_SB_");
	if (cfg->has_genid)
		dsdt_genid(a);
	dsdt_cpus(a, cfg->cpu_count);
	dsdt_board(a);
	dsdt_pci(a, cfg->hotplug_slots);
	dsdt_isa(a, "COM1", "PNP0501", PORT_COM1, 8, GSI_COM1);
	dsdt_isa(a, "RTC_", "PNP0B00", PORT_RTC, 2, GSI_RTC);
	dsdt_pvpanic(a);
	dsdt_button(a);
	dsdt_events(a, cfg);
	aml_block_end(a, block);
	return table_end(a, at);
}

/* ---- the tables with fixed layouts ---- */

/* A generic address in I/O space */
static void put_gas_io(uint8_t *p, uint16_t port, uint8_t bits, uint8_t access)
{
	p[0] = 1; /* system I/O */
	p[1] = bits;
	p[2] = 0;
	p[3] = access; /* 1: byte, 2: word, 3: dword */
	put_le64(p + 4, port);
}

static uint64_t put_fadt(struct aml *a, uint64_t facs, uint64_t dsdt)
{
	uint8_t t[276] = {
		0
	}; /* revision 6; with room for the header, so that offsets are the specification's */
	size_t at = table_begin(a, "FACP", 6);

	put_le32(t + 36, (uint32_t)facs);
	put_le32(t + 40, (uint32_t)dsdt);
	put_le16(t + 46, GSI_SCI);
	put_le32(t + 56, PORT_PM1A_EVT);
	put_le32(t + 64, PORT_PM1A_CNT);
	put_le32(t + 76, PORT_PM_TMR);
	put_le32(t + 80, PORT_PM_GPE0);
	t[92] = 4;
	t[88] = 4; /* lengths of the blocks in bytes */
	t[89] = 2;
	t[91] = 4;
	put_le16(t + 96, 0xfff); /* C2 and C3 latencies that say: not supported */
	put_le16(t + 98, 0xfff);
	t[108] = RTC_CENTURY_INDEX;
	put_le16(t + 109, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM);
	put_le32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON |
			      FADT_FIX_RTC | FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP |
			      FADT_HW_REDUCED);
	put_gas_io(t + 116, PORT_RESET_CONTROL, 8, 1);
	t[128] = PM_RESET_VALUE;
	t[131] = 4; /* minor version: 6.4 */
	put_le64(t + 140, dsdt);
	put_gas_io(t + 244, PORT_PM1A_CNT + 1, 8, 1); /* SLEEP_CONTROL_REG */
	put_gas_io(t + 256, PORT_PM1A_EVT + 1, 8, 1); /* SLEEP_STATUS_REG */
	aml_bytes(a, t + HEADER_SIZE, sizeof(t) - HEADER_SIZE);
	return table_end(a, at);
}

static void madt_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	aml_u8(a, 2);
	aml_u8(a, 10);
	aml_u8(a, 0); /* ISA */
	aml_u8(a, irq);
	aml_u32(a, gsi);
	aml_u16(a, flags);
}

static uint64_t put_madt(struct aml *a, const struct acpi_config *cfg)
{
	size_t at = table_begin(a, "APIC", 5);

	aml_u32(a, (uint32_t)MEM_LAPIC_BASE);
	aml_u32(a, 1); /* PCAT_COMPAT: 8259s answer, to be masked */
	for (unsigned i = 0; i < cfg->cpu_count; i++) {
		aml_u8(a, 0); /* processor local APIC */
		aml_u8(a, 8);
		aml_u8(a, (uint8_t)i); /* UID as in the DSDT */
		aml_u8(a, (uint8_t)i); /* APIC ID */
		aml_u32(a, 1);	       /* enabled */
	}
	aml_u8(a, 1); /* I/O APIC */
	aml_u8(a, 12);
	aml_u8(a, 0); /* ID */
	aml_u8(a, 0);
	aml_u32(a, (uint32_t)MEM_IOAPIC_BASE);
	aml_u32(a, 0); /* first GSI */
	madt_override(a, 0, GSI_PIT, 0);
	madt_override(a, GSI_SCI, GSI_SCI, MPS_ACTIVE_HIGH | MPS_LEVEL);
	aml_u8(a, 4); /* local APIC NMI */
	aml_u8(a, 6);
	aml_u8(a, 0xff); /* all */
	aml_u16(a, 0);
	aml_u8(a, 1); /* LINT1 */
	return table_end(a, at);
}

static uint64_t put_mcfg(struct aml *a)
{
	size_t at = table_begin(a, "MCFG", 1);

	aml_u64(a, 0); /* reserved */
	aml_u64(a, MEM_ECAM_BASE);
	aml_u16(a, 0); /* segment */
	aml_u8(a, 0);  /* buses 0 .. 0 */
	aml_u8(a, 0);
	aml_u32(a, 0);
	return table_end(a, at);
}

static void put_facs(uint8_t *p)
{
	memcpy(p, "FACS", 4);
	put_le32(p + 4, FACS_SIZE);
	p[32] = 2; /* version */
}

static void put_rsdp(uint8_t *p, uint64_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2; /* revision; the 32-bit RSDT pointer stays 0 */
	put_le32(p + 20, RSDP_SIZE);
	put_le64(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_SIZE);
}

/*
 * Where a PC's processor starts, and where a hardware-reduced Linux goes to reboot when there is no
 * EFI to ask: code that uses the reset register. Its bit must rise.
 */
static void put_reset_vector(uint8_t *p)
{
	static const uint8_t code[] = {
		0xba,
		PORT_RESET_CONTROL & 0xff,
		PORT_RESET_CONTROL >> 8, /* mov dx, port */
		0xb0,
		PM_RESET_VALUE & 2, /* mov al, 2 */
		0xee,		    /* out dx, al */
		0xb0,
		PM_RESET_VALUE, /* mov al, 6 */
		0xee,		/* out dx, al */
		0xf4,		/* hlt */
		0xeb,
		0xfd, /* jmp to it */
	};

	_Static_assert(sizeof(code) <= 16, "it ends with the first MiB");
	memcpy(p, code, sizeof(code));
}

int acpi_build(const struct acpi_config *cfg, uint8_t *area, uint64_t *ret_rsdp_gpa,
	       struct err *err)
{
	struct aml a = { .data = area, .len = TABLES_OFFSET, .cap = ACPI_AREA_SIZE - PAGE_SIZE };
	uint64_t tables[3], dsdt, xsdt;
	size_t at;

	memset(area, 0, ACPI_AREA_SIZE);
	put_facs(area + FACS_OFFSET);
	dsdt = put_dsdt(&a, cfg);
	tables[0] = put_fadt(&a, ACPI_AREA_BASE + FACS_OFFSET, dsdt);
	tables[1] = put_madt(&a, cfg);
	tables[2] = put_mcfg(&a);
	at = table_begin(&a, "XSDT", 1);
	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++)
		aml_u64(&a, tables[i]);
	xsdt = table_end(&a, at);
	if (a.overflow)
		return err_set(err, ENOSPC, "ACPI tables: more than %u KiB for %u CPUs",
			       ACPI_AREA_SIZE >> 10, cfg->cpu_count);
	put_rsdp(area, xsdt);
	put_reset_vector(area + ACPI_AREA_SIZE - 16);
	*ret_rsdp_gpa = ACPI_AREA_BASE;
	return 0;
}
