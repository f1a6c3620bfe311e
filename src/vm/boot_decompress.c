/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel payloads: one growing, bounded output buffer and one function per
 * format that fills it. The kernel's build appends the expanded size, four
 * little-endian bytes, to most formats; it is only a hint for the first
 * allocation.
 */
#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "vm/boot_priv.h"

#define LZ4_BLOCK ((size_t)8 << 20) /* output of a block of the legacy format at most */
#define LZMA_MEMORY MIB(256)	    /* a decoder may ask for */

struct out {
	uint8_t *data;
	size_t len, cap, max;
};

/* Make room for @want bytes more, or as many as the bound allows; -EFBIG when that is none. */
static int out_room(struct out *o, size_t want, struct err *err)
{
	size_t cap;
	uint8_t *p;

	if (o->cap - o->len >= want)
		return 0;
	if (o->len == o->max)
		return err_set(err, EFBIG, "expands to more than %zu MiB", o->max >> 20);
	cap = o->cap * 2;
	if (cap < o->len + want)
		cap = o->len + want;
	if (cap > o->max)
		cap = o->max;
	if (cap == o->cap)
		return 0;
	p = realloc(o->data, cap);
	if (!p)
		return err_set(err, ENOMEM, "out of memory for %zu bytes", cap);
	o->data = p;
	o->cap = cap;
	return 0;
}

static int corrupt(struct err *err, const char *format)
{
	return err_set(err, EBADMSG, "corrupt or truncated %s data", format);
}

static int expand_gzip(const uint8_t *in, size_t len, struct out *o, struct err *err)
{
	z_stream z = { .next_in = (Bytef *)in, .avail_in = (uInt)len };
	int ret, code = Z_OK;

	if (inflateInit2(&z, 15 + 16) != Z_OK)
		return err_set(err, ENOMEM, "out of memory");
	do {
		size_t room;

		ret = out_room(o, 1, err);
		if (ret < 0)
			break;
		room = min_u64(o->cap - o->len, UINT32_MAX);
		z.next_out = o->data + o->len;
		z.avail_out = (uInt)room;
		code = inflate(&z, Z_NO_FLUSH);
		o->len += room - z.avail_out;
		/* Without room left Z_BUF_ERROR only asks for more; with room the input has ended.
		 */
		if (code != Z_OK && code != Z_STREAM_END &&
		    !(code == Z_BUF_ERROR && z.avail_out == 0))
			ret = corrupt(err, "gzip");
	} while (ret == 0 && code != Z_STREAM_END);
	inflateEnd(&z);
	return ret;
}

static int expand_bzip2(const uint8_t *in, size_t len, struct out *o, struct err *err)
{
	bz_stream b = { .next_in = (char *)in, .avail_in = (unsigned)len };
	int ret, code = BZ_OK;

	if (BZ2_bzDecompressInit(&b, 0, 0) != BZ_OK)
		return err_set(err, ENOMEM, "out of memory");
	do {
		size_t room;

		ret = out_room(o, 1, err);
		if (ret < 0)
			break;
		room = min_u64(o->cap - o->len, UINT32_MAX);
		b.next_out = (char *)o->data + o->len;
		b.avail_out = (unsigned)room;
		code = BZ2_bzDecompress(&b);
		o->len += room - b.avail_out;
		if ((code != BZ_OK && code != BZ_STREAM_END) ||
		    (code == BZ_OK && b.avail_in == 0 && b.avail_out != 0))
			ret = corrupt(err, "bzip2");
	} while (ret == 0 && code != BZ_STREAM_END);
	BZ2_bzDecompressEnd(&b);
	return ret;
}

static int expand_lzma(const uint8_t *in, size_t len, bool xz, struct out *o, struct err *err)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret code =
	    xz ? lzma_stream_decoder(&s, LZMA_MEMORY, 0) : lzma_alone_decoder(&s, LZMA_MEMORY);
	int ret;

	if (code != LZMA_OK)
		return err_set(err, ENOMEM, "out of memory");
	s.next_in = in;
	s.avail_in = len;
	do {
		size_t room;

		ret = out_room(o, 1, err);
		if (ret < 0)
			break;
		room = o->cap - o->len;
		s.next_out = o->data + o->len;
		s.avail_out = room;
		code = lzma_code(&s, LZMA_RUN);
		o->len += room - s.avail_out;
		if (code == LZMA_MEMLIMIT_ERROR)
			ret = err_set(err, EFBIG, "its dictionary is larger than %llu MiB",
				      (unsigned long long)(LZMA_MEMORY >> 20));
		else if ((code != LZMA_OK && code != LZMA_STREAM_END) ||
			 (code == LZMA_OK && s.avail_in == 0 && s.avail_out != 0))
			ret = corrupt(err, xz ? "xz" : "lzma");
	} while (ret == 0 && code != LZMA_STREAM_END);
	lzma_end(&s);
	return ret;
}

static int expand_zstd(const uint8_t *in, size_t len, struct out *o, struct err *err)
{
	ZSTD_DStream *z = ZSTD_createDStream();
	ZSTD_inBuffer zi = { in, len, 0 };
	size_t code = 1;
	int ret;

	if (!z)
		return err_set(err, ENOMEM, "out of memory");
	do {
		ZSTD_outBuffer zo;

		ret = out_room(o, 1, err);
		if (ret < 0)
			break;
		zo = (ZSTD_outBuffer) { o->data + o->len, o->cap - o->len, 0 };
		code = ZSTD_decompressStream(z, &zo, &zi);
		o->len += zo.pos;
		if (ZSTD_isError(code) || (code != 0 && zi.pos == zi.size && zo.pos != zo.size))
			ret = corrupt(err, "zstd");
	} while (ret == 0 && code != 0);
	ZSTD_freeDStream(z);
	return ret;
}

/* The legacy frame: magic, then blocks with their compressed size in front. */
static int expand_lz4(const uint8_t *in, size_t len, struct out *o, struct err *err)
{
	size_t pos = 4;
	int ret;

	while (len - pos >= 4) {
		uint32_t size = get_le32(in + pos);
		size_t room;
		int n;

		pos += 4;
		/* Behind the last block: the kernel's size trailer and nothing else. */
		if (pos == len)
			break;
		if (size == 0 || size > len - pos || size > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK))
			return corrupt(err, "lz4");
		ret = out_room(o, LZ4_BLOCK, err);
		if (ret < 0)
			return ret;
		room = min_u64(o->cap - o->len, LZ4_BLOCK);
		n = LZ4_decompress_safe((const char *)in + pos, (char *)o->data + o->len, (int)size,
					(int)room);
		if (n < 0)
			return room < LZ4_BLOCK
				   ? err_set(err, EFBIG,
					     "expands to more than %zu MiB, or is corrupt",
					     o->max >> 20)
				   : corrupt(err, "lz4");
		o->len += (size_t)n;
		pos += size;
	}
	return o->len ? 0 : corrupt(err, "lz4");
}

int boot_decompress(const uint8_t *in, size_t len, size_t max, uint8_t **ret_out, size_t *ret_len,
		    struct err *err)
{
	struct out o = { .max = max };
	size_t hint;
	int ret;

	if (len < 8 || len > UINT32_MAX)
		return -ENOTSUP;
	/* One byte more, so that a stream decoder can tell its end without growing. */
	hint = (size_t)get_le32(in + len - 4) + 1;
	if (hint <= max && hint / 64 <= len) {
		o.data = malloc(hint);
		if (!o.data)
			return err_set(err, ENOMEM, "out of memory for %zu bytes", hint);
		o.cap = hint;
	} else {
		ret = out_room(&o, 65536, err);
		if (ret < 0)
			return ret;
	}
	if (in[0] == 0x1f && in[1] == 0x8b)
		ret = expand_gzip(in, len, &o, err);
	else if (!memcmp(in, "BZh", 3))
		ret = expand_bzip2(in, len, &o, err);
	else if (!memcmp(in,
			 "\xfd"
			 "7zXZ",
			 6))
		ret = expand_lzma(in, len, true, &o, err);
	else if (!memcmp(in, "\x5d\0\0", 3))
		ret = expand_lzma(in, len, false, &o, err);
	else if (!memcmp(in, "\x28\xb5\x2f\xfd", 4))
		ret = expand_zstd(in, len, &o, err);
	else if (!memcmp(in, "\x02\x21\x4c\x18", 4))
		ret = expand_lz4(in, len, &o, err);
	else
		ret = -ENOTSUP;
	if (ret < 0) {
		free(o.data);
		return ret;
	}
	*ret_out = o.data;
	*ret_len = o.len;
	return 0;
}
