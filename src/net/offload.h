/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums and segmentation: what a guest leaves to its card (virtio 1.2,
 * 5.1.6.2). Pure functions over private copies; all input is a guest's.
 */
#ifndef EYOT_NET_OFFLOAD_H
#define EYOT_NET_OFFLOAD_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/**
 * net_hdr_check() - whether a header makes sense for its frame
 * @hdr: a private copy
 * @len: bytes of the frame
 * @csum, @tso4, @tso6, @ecn: what the sender may ask for
 * Return: 0 or -EINVAL; then the frame is to be dropped.
 */
int net_hdr_check(const struct virtio_net_hdr_v1 *hdr, size_t len, bool csum, bool tso4, bool tso6,
		  bool ecn);

/** net_csum_complete() - sum [@start, @len) and store it at @start + @offset; both are in range */
void net_csum_complete(uint8_t *frame, size_t len, size_t start, size_t offset);

/* A frame to be cut into segments */
struct net_gso {
	const uint8_t *frame;
	size_t l3, l4, head;  /* offsets of the IP and TCP headers and of the payload */
	size_t payload, size; /* bytes in all, and a segment */
	bool v6;
	unsigned segments;
};

/**
 * net_gso_plan() - look at a frame whose header asks for segmentation
 * @frame: borrowed until the segments are made
 * Return: 0; -EINVAL when it is not the TCP over IP that the header promises.
 */
int net_gso_plan(const uint8_t *frame, size_t len, const struct virtio_net_hdr_v1 *hdr,
		 struct net_gso *gso);

/** net_gso_segment() - write segment @i with right lengths and checksums to @out; returns its
 * bytes */
size_t net_gso_segment(const struct net_gso *gso, unsigned i, uint8_t *out);

/** net_gso_whole() - give the unsegmented @frame, the one planned, right lengths and checksums */
int net_gso_whole(const struct net_gso *gso, uint8_t *frame);

/** net_gather() - copy a list of buffers into @to, at most @size bytes; returns how many */
size_t net_gather(uint8_t *to, size_t size, const struct iovec *iov, unsigned count);

/** net_scatter() - copy @len bytes into a list of buffers; returns how many went in */
size_t net_scatter(const struct iovec *iov, unsigned count, const uint8_t *from, size_t len);

#endif
