/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved state: a growing byte buffer of named, versioned sections.
 *
 * A section is: name length (u8), name, version (u32), payload length (u32),
 * payload. Fields inside a section stand in the order they were put, without
 * tags; a changed order or meaning is a new section version. A saved file is
 * hostile until read: a reader that runs off the end of its section turns
 * bad, returns zeros from then on, and snap_end() reports -EBADMSG.
 *
 * Not thread-safe; one thread saves or loads a machine while it is paused.
 */
#ifndef EYOT_BASE_SNAP_H
#define EYOT_BASE_SNAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct snap_writer {
	uint8_t *data;
	size_t len, cap;
	size_t section; /* offset of the open section's payload length, 0: none open */
	bool failed;	/* out of memory; snap_writer_done reports it */
};

void snap_writer_init(struct snap_writer *w);
void snap_begin(struct snap_writer *w, const char *name, uint32_t version);
void snap_put_u8(struct snap_writer *w, uint8_t v);
void snap_put_u16(struct snap_writer *w, uint16_t v);
void snap_put_u32(struct snap_writer *w, uint32_t v);
void snap_put_u64(struct snap_writer *w, uint64_t v);
void snap_put_bytes(struct snap_writer *w, const void *data, size_t len);
void snap_close(struct snap_writer *w);

/** snap_writer_done() - free the buffer; the caller may take @w->data before by setting it to NULL
 */
void snap_writer_done(struct snap_writer *w);

struct snap_reader {
	const uint8_t *data;
	size_t len, pos;
	size_t end; /* of the open section */
	bool bad;
};

void snap_reader_init(struct snap_reader *r, const void *data, size_t len);

/**
 * snap_open() - enter the next section, which must have the name
 * @r: the reader
 * @name: expected section name
 * @max_version: newest version the caller understands
 * @ret_version: the version found
 *
 * Return: 0; -EBADMSG with a text when the section is another, is newer than
 * @max_version or is cut short.
 */
int snap_open(struct snap_reader *r, const char *name, uint32_t max_version, uint32_t *ret_version,
	      struct err *err);
uint8_t snap_get_u8(struct snap_reader *r);
uint16_t snap_get_u16(struct snap_reader *r);
uint32_t snap_get_u32(struct snap_reader *r);
uint64_t snap_get_u64(struct snap_reader *r);
void snap_get_bytes(struct snap_reader *r, void *data, size_t len);

/** snap_end() - leave the section; -EBADMSG when it was read past its end or not to its end */
int snap_end(struct snap_reader *r, struct err *err);

#endif
