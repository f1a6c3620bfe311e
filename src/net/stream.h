/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ethernet frames over a stream socket: each is preceded by its length, 4
 * bytes, big-endian, as QEMU's `-netdev stream` and passt do it.
 *
 * A stream keeps at most one buffer of what came and one ring of what is to
 * go; neither ever blocks.
 */
#ifndef EYOT_NET_STREAM_H
#define EYOT_NET_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct net_stream {
	int fd;
	size_t extra; /* what stands before each frame, not counted in a frame's limits */
	uint8_t *in;
	size_t in_pos, in_len; /* [in_pos, in_len) is yet to be taken */
	uint8_t *out;
	size_t out_size;	     /* a power of two */
	uint64_t out_head, out_tail; /* bytes ever put and sent */
};

/**
 * net_stream_init() - begin on a connected socket, which it owns then
 * @out_size: bytes of the ring, a power of two
 * Return: 0; -ENOMEM: the socket is still the caller's.
 */
int net_stream_init(struct net_stream *s, int fd, size_t out_size);

/** net_stream_done() - close it; an all-zero stream with fd -1 is fine */
void net_stream_done(struct net_stream *s);

/**
 * net_stream_read() - one system call's worth of input; only after all whole frames were taken
 * Return: 0; -EAGAIN: nothing is there; -EPIPE: the other side is gone; -errno.
 */
int net_stream_read(struct net_stream *s);

/**
 * net_stream_take() - the next whole frame of what was read
 * @ret_frame: valid until the next read
 * Return: its bytes; 0: there is no whole one; -EBADMSG: the other side does not speak this.
 */
ssize_t net_stream_take(struct net_stream *s, const uint8_t **ret_frame);

/** net_stream_room() - bytes that can be put, heads included */
static inline size_t net_stream_room(const struct net_stream *s)
{
	return s->out_size - (size_t)(s->out_head - s->out_tail);
}

#define NET_STREAM_HEAD 4

/** net_stream_put() - queue a frame; -ENOBUFS: no room for it, nothing is queued */
int net_stream_put(struct net_stream *s, const struct iovec *iov, unsigned count, size_t len);

/** net_stream_flush() - send what is queued; 0: all gone; -EAGAIN: wait for the socket; -errno */
int net_stream_flush(struct net_stream *s);

#endif
