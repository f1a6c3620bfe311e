/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writer: appends to one heap buffer; the first failed allocation sets
 * w->failed and later puts do nothing, so callers check once, at the end.
 * Reader: every get is bounded by the open section; see snap.h.
 */
#include "base/snap.h"

#include "base/util.h"

#define SNAP_NAME_MAX 63

void snap_writer_init(struct snap_writer *w)
{
	memset(w, 0, sizeof(*w));
}

void snap_writer_done(struct snap_writer *w)
{
	free(w->data);
	memset(w, 0, sizeof(*w));
}

void snap_put_bytes(struct snap_writer *w, const void *data, size_t len)
{
	if (w->failed)
		return;
	if (len > w->cap - w->len) {
		size_t cap = w->cap ? w->cap : 4096;
		uint8_t *p;

		while (cap - w->len < len) {
			if (cap > SIZE_MAX / 2) {
				w->failed = true;
				return;
			}
			cap *= 2;
		}
		p = realloc(w->data, cap);
		if (!p) {
			w->failed = true;
			return;
		}
		w->data = p;
		w->cap = cap;
	}
	if (len)
		memcpy(w->data + w->len, data, len);
	w->len += len;
}

void snap_put_u8(struct snap_writer *w, uint8_t v)
{
	snap_put_bytes(w, &v, 1);
}

void snap_put_u16(struct snap_writer *w, uint16_t v)
{
	snap_put_bytes(w, &v, 2);
}

void snap_put_u32(struct snap_writer *w, uint32_t v)
{
	snap_put_bytes(w, &v, 4);
}

void snap_put_u64(struct snap_writer *w, uint64_t v)
{
	snap_put_bytes(w, &v, 8);
}

void snap_begin(struct snap_writer *w, const char *name, uint32_t version)
{
	size_t len = strlen(name);

	if (w->section || len > SNAP_NAME_MAX) {
		w->failed = true; /* our own mistake: sections do not nest */
		return;
	}
	snap_put_u8(w, (uint8_t)len);
	snap_put_bytes(w, name, len);
	snap_put_u32(w, version);
	w->section = w->len;
	snap_put_u32(w, 0);
}

void snap_close(struct snap_writer *w)
{
	size_t payload;

	if (w->failed)
		return;
	if (!w->section) {
		w->failed = true;
		return;
	}
	payload = w->len - w->section - 4;
	if (payload > UINT32_MAX)
		w->failed = true;
	else
		put_le32(w->data + w->section, (uint32_t)payload);
	w->section = 0;
}

void snap_reader_init(struct snap_reader *r, const void *data, size_t len)
{
	memset(r, 0, sizeof(*r));
	r->data = data;
	r->len = len;
}

void snap_get_bytes(struct snap_reader *r, void *data, size_t len)
{
	if (r->bad || len > r->end - r->pos) {
		r->bad = true;
		memset(data, 0, len);
		return;
	}
	if (len)
		memcpy(data, r->data + r->pos, len);
	r->pos += len;
}

uint8_t snap_get_u8(struct snap_reader *r)
{
	uint8_t v;

	snap_get_bytes(r, &v, sizeof(v));
	return v;
}

uint16_t snap_get_u16(struct snap_reader *r)
{
	uint16_t v;

	snap_get_bytes(r, &v, sizeof(v));
	return v;
}

uint32_t snap_get_u32(struct snap_reader *r)
{
	uint32_t v;

	snap_get_bytes(r, &v, sizeof(v));
	return v;
}

uint64_t snap_get_u64(struct snap_reader *r)
{
	uint64_t v;

	snap_get_bytes(r, &v, sizeof(v));
	return v;
}

int snap_open(struct snap_reader *r, const char *name, uint32_t max_version, uint32_t *ret_version,
	      struct err *err)
{
	char found[SNAP_NAME_MAX + 1] = "";
	uint32_t version, payload;
	uint8_t name_len;

	if (r->bad)
		return err_set(err, EBADMSG, "saved state: section '%s': an earlier section is bad",
			       name);
	r->end = r->len;
	name_len = snap_get_u8(r);
	if (name_len > SNAP_NAME_MAX)
		r->bad = true;
	else
		snap_get_bytes(r, found, name_len);
	version = snap_get_u32(r);
	payload = snap_get_u32(r);
	if (r->bad || payload > r->len - r->pos) {
		r->bad = true;
		return err_set(err, EBADMSG, "saved state: section '%s': cut short", name);
	}
	if (strlen(found) != name_len || strcmp(found, name)) {
		r->bad = true;
		return err_set(err, EBADMSG,
			       "saved state: section '%s' expected, another one found", name);
	}
	if (version > max_version) {
		r->bad = true;
		return err_set(err, EBADMSG,
			       "saved state: section '%s': version %u is newer than %u", name,
			       version, max_version);
	}
	r->end = r->pos + payload;
	*ret_version = version;
	return 0;
}

int snap_end(struct snap_reader *r, struct err *err)
{
	if (r->bad)
		return err_set(err, EBADMSG, "saved state: a section is shorter than its content");
	if (r->pos != r->end) {
		r->bad = true;
		return err_set(err, EBADMSG, "saved state: a section is longer than its content");
	}
	r->end = r->pos;
	return 0;
}
