/* SPDX-License-Identifier: Apache-2.0 */
/* net/offload: checksums and segments, of good headers and bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"
#include "net_frames.h"

/* The plain sum of RFC 1071, as slow and sure as it gets */
static uint16_t slow_sum(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void check_packet(const uint8_t *f, size_t len, size_t l3, bool v6)
{
	size_t l4 = l3 + (v6 ? 40 : 24);
	uint32_t pseudo = slow_sum(f + l3 + (v6 ? 8 : 12), v6 ? 32 : 8, 6 + (uint32_t)(len - l4));

	if (v6) {
		assert_int_equal(f[l3 + 4] << 8 | f[l3 + 5], len - l4);
	} else {
		assert_int_equal(f[l3 + 2] << 8 | f[l3 + 3], len - l3);
		assert_int_equal(slow_sum(f + l3, 24, 0), 0xffff);
	}
	assert_int_equal(slow_sum(f + l4, len - l4, pseudo), 0xffff);
}

static void test_segments(void **state)
{
	static uint8_t f[NET_FRAME_MAX], out[NET_FRAME_MAX];

	for (unsigned kind = 0; kind < 4; kind++) {
		bool v6 = kind & 1, vlan = kind & 2;
		struct virtio_net_hdr_v1 hdr = { .flags = 1,
						 .gso_type = v6 ? VIRTIO_NET_HDR_GSO_TCPV6
								: VIRTIO_NET_HDR_GSO_TCPV4,
						 .gso_size = 1001 };
		size_t len = tcp_frame(f, v6, vlan, 5500), l3 = ETH + (vlan ? 4 : 0);
		size_t l4 = l3 + (v6 ? 40 : 24), done = 0;
		struct net_gso gso;

		assert_int_equal(net_gso_plan(f, len, &hdr, &gso), 0);
		assert_int_equal(gso.segments, 6);
		for (unsigned i = 0; i < 6; i++) {
			size_t n = net_gso_segment(&gso, i, out), part = n - gso.head;

			assert_int_equal(part, i < 5 ? 1001 : 495);
			check_packet(out, n, l3, v6);
			assert_memory_equal(out + gso.head, f + gso.head + done, part);
			assert_int_equal(ntohl(get_le32(out + l4 + 4)),
					 0xffffff00u + (uint32_t)done);
			assert_int_equal(out[l4 + 13],
					 0x10 | (i == 0 ? 0x80 : 0) | (i == 5 ? 0x09 : 0));
			if (!v6)
				assert_int_equal(out[l3 + 4] << 8 | out[l3 + 5], 0xff + i);
			done += part;
		}
		assert_int_equal(done, 5500);
		assert_int_equal(net_gso_whole(&gso, f), 0);
		check_packet(f, len, l3, v6);
	}
}

static void test_bad_segments(void **state)
{
	static uint8_t f[NET_FRAME_MAX];
	struct virtio_net_hdr_v1 v4 = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000 };
	struct virtio_net_hdr_v1 v6 = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV6, .gso_size = 1000 };
	size_t len = tcp_frame(f, false, false, 3000);
	struct net_gso gso;

#define BAD(at, value, hdr)                                                                        \
	do {                                                                                       \
		uint8_t was = f[at];                                                               \
		f[at] = value;                                                                     \
		assert_int_equal(net_gso_plan(f, len, hdr, &gso), -EINVAL);                        \
		f[at] = was;                                                                       \
		assert_int_equal(net_gso_plan(f, len, &v4, &gso), 0);                              \
	} while (0)
	BAD(0, 0, &v6);
	BAD(ETH, 0x44, &v4); /* header too short */
	BAD(ETH, 0x66, &v4);
	BAD(ETH + 9, 17, &v4);
	BAD(12, 9, &v4);
	BAD(ETH + 24 + 12, 4 << 4, &v4);
#undef BAD
	/* Every length: never a read beyond it (a sanitizer sees it), never nothing to cut. */
	for (size_t n = 0; n < 100; n++) {
		uint8_t *copy = malloc(n ? n : 1);

		memcpy(copy, f, n);
		assert_int_equal(net_gso_plan(copy, n, &v4, &gso), n > ETH + 48 ? 0 : -EINVAL);
		assert_int_equal(net_gso_plan(copy, n, &v6, &gso), -EINVAL);
		free(copy);
	}
	v4.gso_size = 1;
	assert_int_equal(net_gso_plan(f, len, &v4, &gso), -EINVAL);
}

static void test_checksum(void **state)
{
	uint8_t f[300], g[300];

	for (size_t len = 60; len < 300; len += 7) {
		for (size_t i = 0; i < len; i++)
			f[i] = (uint8_t)(i * i + len);
		memcpy(g, f, len);
		net_csum_complete(f, len, 34, 16);
		assert_int_equal(f[50] << 8 | f[51], (uint16_t)~slow_sum(g + 34, len - 34, 0));
	}
	memset(f, 0, 60);
	f[59] = f[58] = 0xff; /* sums to zero, which UDP writes as ones */
	net_csum_complete(f, 60, 34, 6);
	assert_int_equal(get_le16(f + 40), 0xffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_bad_segments),
		cmocka_unit_test(test_checksum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
