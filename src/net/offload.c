/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation follows what the Linux kernel does for such frames: the first
 * segment keeps CWR, the last one FIN and PSH, the IPv4 identification counts
 * up (RFC 6864 would let it be). Checksums are computed from scratch: what the
 * guest put into the field, pseudo header or not, is not trusted.
 */
#include "net/offload.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

#define ETH_LEN 14
#define ETH_P_VLAN 0x8100
#define ETH_P_V4 0x0800
#define ETH_P_V6 0x86dd
#define PROTO_TCP 6
#define TCP_FLAGS 13
#define TCP_CSUM 16
#define TCP_FIN_PSH 0x09
#define TCP_CWR 0x80
#define UDP_CSUM 6
/* The smallest maximum segment Linux sends; a smaller one would only make work. */
#define SEGMENT_MIN 48

int net_hdr_check(const struct virtio_net_hdr_v1 *hdr, size_t len, bool csum, bool tso4, bool tso6,
		  bool ecn)
{
	bool needs_csum = hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	uint8_t type = hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	if (needs_csum && (!csum || (size_t)hdr->csum_start + hdr->csum_offset + 2 > len))
		return -EINVAL;
	if (hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return 0;
	if (!(type == VIRTIO_NET_HDR_GSO_TCPV4 && tso4) &&
	    !(type == VIRTIO_NET_HDR_GSO_TCPV6 && tso6))
		return -EINVAL;
	if (hdr->gso_type & VIRTIO_NET_HDR_GSO_ECN && !ecn)
		return -EINVAL;
	/* hdr_len is a hint (5.1.6.2) and is looked at by nobody; a size there must be. */
	if (!needs_csum || hdr->gso_size < SEGMENT_MIN)
		return -EINVAL;
	return 0;
}

/* One's complement sum in the order of memory; folds only at the end. */
static uint64_t sum_bytes(const uint8_t *p, size_t len, uint64_t sum)
{
	uint64_t a = 0, b = 0;

	for (; len >= 32; p += 32, len -= 32) {
		a += (uint64_t)get_le32(p) + get_le32(p + 4) + get_le32(p + 8) + get_le32(p + 12);
		b += (uint64_t)get_le32(p + 16) + get_le32(p + 20) + get_le32(p + 24) +
		     get_le32(p + 28);
	}
	for (; len >= 2; p += 2, len -= 2)
		a += get_le16(p);
	if (len)
		a += *p;
	return sum + a + b;
}

/* The checksum field's two bytes, as a value of put_le16() */
static uint16_t sum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void net_csum_complete(uint8_t *frame, size_t len, size_t start, size_t offset)
{
	uint16_t sum = sum_fold(sum_bytes(frame + start, len - start, 0));

	/* For UDP zero means that there is none. */
	if (!sum && offset == UDP_CSUM)
		sum = 0xffff;
	put_le16(frame + start + offset, sum);
}

int net_gso_plan(const uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr,
		 struct net_gso *gso)
{
	bool v6 = (hdr->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV6;
	size_t l3 = ETH_LEN, l4, head;

	if (len >= ETH_LEN + 4 && get_be16(frame + 12) == ETH_P_VLAN)
		l3 += 4;
	if (len < l3 + (v6 ? 40u : 20u) || get_be16(frame + l3 - 2) != (v6 ? ETH_P_V6 : ETH_P_V4))
		return -EINVAL;
	if (v6) {
		/* Extension headers would have to be walked; no guest sends them with TCP. */
		if (frame[l3] >> 4 != 6 || frame[l3 + 6] != PROTO_TCP)
			return -EINVAL;
		l4 = l3 + 40;
	} else {
		if (frame[l3] >> 4 != 4 || (frame[l3] & 15) < 5 || frame[l3 + 9] != PROTO_TCP)
			return -EINVAL;
		l4 = l3 + 4u * (frame[l3] & 15);
	}
	if (len < l4 + 20 || frame[l4 + 12] >> 4 < 5)
		return -EINVAL;
	head = l4 + 4u * (frame[l4 + 12] >> 4);
	if (len <= head || hdr->gso_size < SEGMENT_MIN || len - l3 > 65535 + (v6 ? 40u : 0u))
		return -EINVAL;
	*gso = (struct net_gso) { .frame = frame,
				  .l3 = l3,
				  .l4 = l4,
				  .head = head,
				  .payload = len - head,
				  .size = hdr->gso_size,
				  .v6 = v6 };
	gso->segments = (unsigned)((gso->payload + gso->size - 1) / gso->size);
	return 0;
}

/* Lengths and checksums of a TCP packet of @len bytes at @out that has the planned headers */
static void finish_tcp(const struct net_gso *gso, uint8_t *out, size_t len)
{
	uint8_t *ip = out + gso->l3, *tcp = out + gso->l4;
	size_t tcp_len = len - gso->l4;
	uint64_t sum;

	if (gso->v6) {
		put_be16(ip + 4, (unsigned)tcp_len);
		sum = sum_bytes(ip + 8, 32, 0);
	} else {
		put_be16(ip + 2, (unsigned)(len - gso->l3));
		put_le16(ip + 10, 0);
		put_le16(ip + 10, sum_fold(sum_bytes(ip, gso->l4 - gso->l3, 0)));
		sum = sum_bytes(ip + 12, 8, 0);
	}
	/* The rest of the pseudo header: protocol and length, big-endian words */
	sum += (uint64_t)PROTO_TCP << 8;
	sum += __builtin_bswap16((uint16_t)tcp_len);
	put_le16(tcp + TCP_CSUM, 0);
	put_le16(tcp + TCP_CSUM, sum_fold(sum_bytes(tcp, tcp_len, sum)));
}

size_t net_gso_segment(const struct net_gso *gso, unsigned i, uint8_t *out)
{
	size_t off = i * gso->size, part = min_u64(gso->payload - off, gso->size);
	uint8_t *tcp = out + gso->l4;

	memcpy(out, gso->frame, gso->head);
	memcpy(out + gso->head, gso->frame + gso->head + off, part);
	if (!gso->v6)
		put_be16(out + gso->l3 + 4, get_be16(gso->frame + gso->l3 + 4) + i);
	put_be32(tcp + 4, get_be32(gso->frame + gso->l4 + 4) + (uint32_t)off);
	if (i)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
	if (i + 1 < gso->segments)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_FIN_PSH;
	finish_tcp(gso, out, gso->head + part);
	return gso->head + part;
}

int net_gso_whole(const struct net_gso *gso, uint8_t *frame)
{
	size_t len = gso->head + gso->payload;

	if (len - (gso->v6 ? gso->l4 : gso->l3) > 65535)
		return -EINVAL;
	finish_tcp(gso, frame, len);
	return 0;
}

size_t net_gather(uint8_t *to, size_t size, const struct iovec *iov, unsigned count)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < size; i++) {
		size_t n = min_u64(iov[i].iov_len, size - done);

		memcpy(to + done, iov[i].iov_base, n);
		done += n;
	}
	return done;
}

size_t net_scatter(const struct iovec *iov, unsigned count, const uint8_t *from, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n = min_u64(iov[i].iov_len, len - done);

		memcpy(iov[i].iov_base, from + done, n);
		done += n;
	}
	return done;
}
