/* SPDX-License-Identifier: Apache-2.0 */
/* Small codings of the qcow2 format: refcounts of any width, compressed clusters. */
#include <zlib.h>
#include <zstd.h>

#include "base/util.h"
#include "disk/qcow2_format.h"

uint64_t qcow2_refcount(const void *block, unsigned order, uint64_t index)
{
	const uint8_t *p = block;

	switch (order) {
	case 3:
		return p[index];
	case 4:
		return get_be16(p + index * 2);
	case 5:
		return get_be32(p + index * 4);
	case 6:
		return get_be64(p + index * 8);
	default: /* bit 0 is the least significant one ("Refcount block entry") */
		index <<= order;
		return p[index / 8] >> (index % 8) & ((1u << (1u << order)) - 1);
	}
}

void qcow2_refcount_set(void *block, unsigned order, uint64_t index, uint64_t value)
{
	uint8_t *p = block, mask;

	switch (order) {
	case 3:
		p[index] = (uint8_t)value;
		break;
	case 4:
		put_be16(p + index * 2, (uint16_t)value);
		break;
	case 5:
		put_be32(p + index * 4, (uint32_t)value);
		break;
	case 6:
		put_be64(p + index * 8, value);
		break;
	default:
		index <<= order;
		mask = (uint8_t)(((1u << (1u << order)) - 1) << (index % 8));
		p[index / 8] = (uint8_t)((p[index / 8] & ~mask) | (value << (index % 8) & mask));
		break;
	}
}

/* "Compressed Clusters Descriptor" */
bool qcow2_compressed_place(uint64_t entry, unsigned cluster_bits, uint64_t *ret_off,
			    uint32_t *ret_len)
{
	unsigned x = 62 - (cluster_bits - 8);
	uint64_t off = entry & ((1ull << x) - 1);
	uint64_t sectors = ((entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> x) + 1;

	*ret_off = off;
	*ret_len = (uint32_t)(sectors * 512 - off % 512);
	return off && off < 1ull << 56;
}

/* Raw deflate data; QEMU's window is 4 KiB, others may take more. */
static int inflate_cluster(const void *in, size_t in_len, void *out, size_t out_len)
{
	z_stream z = { .next_in = (void *)in,
		       .avail_in = (uInt)in_len,
		       .next_out = out,
		       .avail_out = (uInt)out_len };
	int ret;

	if (inflateInit2(&z, -15) != Z_OK)
		return -EIO;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(const void *in, size_t in_len, void *out, size_t out_len)
{
	ZSTD_inBuffer ib = { in, in_len, 0 };
	ZSTD_outBuffer ob = { out, out_len, 0 };
	ZSTD_DStream *z = ZSTD_createDStream();
	size_t ret = 1;

	if (!z)
		return -EIO;
	while (ob.pos < ob.size) {
		size_t in_before = ib.pos, out_before = ob.pos;

		ret = ZSTD_decompressStream(z, &ob, &ib);
		if (ZSTD_isError(ret) || (ib.pos == in_before && ob.pos == out_before))
			break;
	}
	ZSTD_freeDStream(z);
	return ob.pos == ob.size && !ZSTD_isError(ret) ? 0 : -EIO;
}

int qcow2_decompress(enum qcow2_compression kind, const void *in, size_t in_len, void *out,
		     size_t out_len)
{
	return kind == QCOW2_ZSTD ? unzstd_cluster(in, in_len, out, out_len)
				  : inflate_cluster(in, in_len, out, out_len);
}
