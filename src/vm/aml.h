/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes of ACPI tables: a bounded buffer, and the few AML terms and resource
 * descriptors that the DSDT uses (ACPI 6.4, 20.2 and 6.4.2-6.4.3).
 *
 * Running out of room sets overflow and drops what comes later; the caller
 * checks once at the end.
 */
#ifndef EYOT_VM_AML_H
#define EYOT_VM_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *data;
	size_t len, cap;
	bool overflow;
};

void aml_bytes(struct aml *a, const void *bytes, size_t len);
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);

/* Terms. Names are paths of four-letter segments as they stand in ASL, e.g. "\\_SB" or "PCI0". */
void aml_name(struct aml *a, const char *path); /* a name string alone */
void aml_int(struct aml *a, uint64_t v);	/* the shortest constant */
void aml_string(struct aml *a, const char *text);
void aml_eisaid(struct aml *a, const char *id);	  /* "PNP0A08" as a constant */
void aml_define(struct aml *a, const char *name); /* Name (name, ...): the object follows */

/* Code */
#define AML_LOCAL0 0x60
#define AML_ARG0 0x68
void aml_store(struct aml *a);				   /* Store (source, target): both follow */
void aml_and(struct aml *a, uint8_t local, uint64_t mask); /* And (local, mask), as a value */
void aml_notify(struct aml *a, const char *path, unsigned value);
/* OperationRegion (name, SystemIO, base, len) and its fields of 32 bits each */
void aml_io_region(struct aml *a, const char *name, uint16_t base, uint8_t len,
		   const char *const *fields, unsigned count);

/* Blocks with a length: begin returns what end needs. */
size_t aml_scope_begin(struct aml *a, const char *path);
size_t aml_device_begin(struct aml *a, const char *name);
size_t aml_package_begin(struct aml *a, uint8_t count);
size_t aml_method_begin(struct aml *a, const char *name, unsigned args); /* serialized */
size_t aml_if_begin(struct aml *a);					 /* the condition follows */
void aml_block_end(struct aml *a, size_t block);

/* A resource template: a buffer that ends with its end tag. */
size_t aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, size_t block);
void aml_res_io(struct aml *a, uint16_t base, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq);
void aml_res_level_gsi(struct aml *a, uint32_t gsi); /* active high, not shared */
void aml_res_memory32(struct aml *a, uint32_t base, uint32_t len);
/* Windows that a bridge hands on; [@min, @max] */
void aml_res_bus_window(struct aml *a, uint16_t min, uint16_t max);
void aml_res_io_window(struct aml *a, uint16_t min, uint16_t max);
void aml_res_memory32_window(struct aml *a, uint32_t min, uint32_t max);
void aml_res_memory64_window(struct aml *a, uint64_t min, uint64_t max);

#endif
