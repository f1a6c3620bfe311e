/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/aml.h"

#include "base/util.h"

#define PKG_LENGTH_BYTES 3  /* always this form: blocks up to 1 MiB, patched when they end */
#define BUFFER_SIZE_BYTES 3 /* WordPrefix and the size */

void aml_bytes(struct aml *a, const void *bytes, size_t len)
{
	if (a->overflow || len > a->cap - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->data + a->len, bytes, len);
	a->len += len;
}

void aml_u8(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u16(struct aml *a, uint16_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u32(struct aml *a, uint32_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u64(struct aml *a, uint64_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_name(struct aml *a, const char *path)
{
	unsigned segments;

	if (*path == '\\') {
		aml_u8(a, '\\');
		path++;
	}
	segments = (unsigned)(strlen(path) + 1) / 5; /* "AAAA.BBBB" */
	if (segments == 2) {
		aml_u8(a, 0x2e);
	} else if (segments > 2) {
		aml_u8(a, 0x2f);
		aml_u8(a, (uint8_t)segments);
	}
	for (unsigned i = 0; i < segments; i++)
		aml_bytes(a, path + i * 5, 4);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		aml_u8(a, (uint8_t)v); /* ZeroOp, OneOp */
	} else if (v <= UINT8_MAX) {
		aml_u8(a, 0x0a);
		aml_u8(a, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, 0x0b);
		aml_u16(a, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, 0x0c);
		aml_u32(a, (uint32_t)v);
	} else {
		aml_u8(a, 0x0e);
		aml_u64(a, v);
	}
}

void aml_string(struct aml *a, const char *text)
{
	aml_u8(a, 0x0d);
	aml_bytes(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

void aml_eisaid(struct aml *a, const char *id)
{
	unsigned c0 = (unsigned)id[0] & 0x1f, c1 = (unsigned)id[1] & 0x1f,
		 c2 = (unsigned)id[2] & 0x1f;

	aml_u8(a, 0x0c);
	aml_u8(a, (uint8_t)(c0 << 2 | c1 >> 3));
	aml_u8(a, (uint8_t)((c1 & 7) << 5 | c2));
	aml_u8(a, (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])));
	aml_u8(a, (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])));
}

void aml_define(struct aml *a, const char *name)
{
	aml_u8(a, 0x08);
	aml_name(a, name);
}

static size_t block_begin(struct aml *a)
{
	size_t at = a->len;

	for (unsigned i = 0; i < PKG_LENGTH_BYTES; i++)
		aml_u8(a, 0);
	return at;
}

void aml_block_end(struct aml *a, size_t block)
{
	size_t len = a->len - block;

	if (a->overflow)
		return;
	/* Bits 7-6: two bytes follow; bits 3-0: the lowest bits of the length, itself included. */
	a->data[block] = (uint8_t)(2u << 6 | (len & 0xf));
	a->data[block + 1] = (uint8_t)(len >> 4);
	a->data[block + 2] = (uint8_t)(len >> 12);
}

size_t aml_scope_begin(struct aml *a, const char *path)
{
	size_t block;

	aml_u8(a, 0x10);
	block = block_begin(a);
	aml_name(a, path);
	return block;
}

size_t aml_device_begin(struct aml *a, const char *name)
{
	size_t block;

	aml_u8(a, 0x5b);
	aml_u8(a, 0x82);
	block = block_begin(a);
	aml_name(a, name);
	return block;
}

size_t aml_method_begin(struct aml *a, const char *name, unsigned args)
{
	size_t block;

	aml_u8(a, 0x14);
	block = block_begin(a);
	aml_name(a, name);
	aml_u8(a, (uint8_t)(args | 8)); /* bit 3: serialized */
	return block;
}

size_t aml_if_begin(struct aml *a)
{
	aml_u8(a, 0xa0);
	return block_begin(a);
}

void aml_store(struct aml *a)
{
	aml_u8(a, 0x70);
}

void aml_and(struct aml *a, uint8_t local, uint64_t mask)
{
	aml_u8(a, 0x7b);
	aml_u8(a, local);
	aml_int(a, mask);
	aml_u8(a, 0); /* no target */
}

void aml_notify(struct aml *a, const char *path, unsigned value)
{
	aml_u8(a, 0x86);
	aml_name(a, path);
	aml_int(a, value);
}

void aml_io_region(struct aml *a, const char *name, uint16_t base, uint8_t len,
		   const char *const *fields, unsigned count)
{
	size_t block;

	aml_u8(a, 0x5b);
	aml_u8(a, 0x80);
	aml_name(a, name);
	aml_u8(a, 1); /* SystemIO */
	aml_int(a, base);
	aml_int(a, len);
	aml_u8(a, 0x5b);
	aml_u8(a, 0x81);
	block = block_begin(a);
	aml_name(a, name);
	aml_u8(a, 3); /* DWordAcc, NoLock, Preserve */
	for (unsigned i = 0; i < count; i++) {
		aml_name(a, fields[i]);
		aml_u8(a, 32); /* bits */
	}
	aml_block_end(a, block);
}

size_t aml_package_begin(struct aml *a, uint8_t count)
{
	size_t block;

	aml_u8(a, 0x12);
	block = block_begin(a);
	aml_u8(a, count);
	return block;
}

size_t aml_resources_begin(struct aml *a)
{
	size_t block;

	aml_define(a, "_CRS");
	aml_u8(a, 0x11);
	block = block_begin(a);
	aml_u8(a, 0x0b);
	aml_u16(a, 0);
	return block;
}

void aml_resources_end(struct aml *a, size_t block)
{
	size_t size_at = block + PKG_LENGTH_BYTES + 1;

	aml_u8(a, 0x79);
	aml_u8(a, 0); /* checksum not used */
	if (a->overflow)
		return;
	put_le16(a->data + size_at,
		 (uint16_t)(a->len - (block + PKG_LENGTH_BYTES + BUFFER_SIZE_BYTES)));
	aml_block_end(a, block);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t len)
{
	aml_u8(a, 0x47);
	aml_u8(a, 1); /* decodes 16 bits */
	aml_u16(a, base);
	aml_u16(a, base);
	aml_u8(a, 1); /* alignment */
	aml_u8(a, len);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	aml_u8(a, 0x22); /* edge, active high */
	aml_u16(a, (uint16_t)(1u << irq));
}

void aml_res_level_gsi(struct aml *a, uint32_t gsi)
{
	aml_u8(a, 0x89);
	aml_u16(a, 6);
	aml_u8(a, 1); /* consumer */
	aml_u8(a, 1); /* one */
	aml_u32(a, gsi);
}

void aml_res_memory32(struct aml *a, uint32_t base, uint32_t len)
{
	aml_u8(a, 0x86);
	aml_u16(a, 9);
	aml_u8(a, 1); /* writable */
	aml_u32(a, base);
	aml_u32(a, len);
}

enum { WINDOW_MEMORY, WINDOW_IO, WINDOW_BUS };

static void window_head(struct aml *a, uint8_t tag, uint16_t len, uint8_t kind)
{
	static const uint8_t flags[] = {
		[WINDOW_MEMORY] = 1 /* writable */, [WINDOW_IO] = 3 /* all */, [WINDOW_BUS] = 0
	};

	aml_u8(a, tag);
	aml_u16(a, len);
	aml_u8(a, kind);
	aml_u8(a, 0x0c); /* minimum and maximum are fixed; producer; positive decode */
	aml_u8(a, flags[kind]);
}

static void window16(struct aml *a, uint8_t kind, uint16_t min, uint16_t max)
{
	window_head(a, 0x88, 13, kind);
	aml_u16(a, 0); /* granularity */
	aml_u16(a, min);
	aml_u16(a, max);
	aml_u16(a, 0); /* translation */
	aml_u16(a, (uint16_t)(max - min + 1));
}

void aml_res_bus_window(struct aml *a, uint16_t min, uint16_t max)
{
	window16(a, WINDOW_BUS, min, max);
}

void aml_res_io_window(struct aml *a, uint16_t min, uint16_t max)
{
	window16(a, WINDOW_IO, min, max);
}

void aml_res_memory32_window(struct aml *a, uint32_t min, uint32_t max)
{
	window_head(a, 0x87, 23, WINDOW_MEMORY);
	aml_u32(a, 0);
	aml_u32(a, min);
	aml_u32(a, max);
	aml_u32(a, 0);
	aml_u32(a, max - min + 1);
}

void aml_res_memory64_window(struct aml *a, uint64_t min, uint64_t max)
{
	window_head(a, 0x8a, 43, WINDOW_MEMORY);
	aml_u64(a, 0);
	aml_u64(a, min);
	aml_u64(a, max);
	aml_u64(a, 0);
	aml_u64(a, max - min + 1);
}
