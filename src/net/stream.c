/* SPDX-License-Identifier: Apache-2.0 */
#include "net/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "net/net.h"

#define IN_SIZE KIB(128) /* more than one frame: a read brings many small ones */

int net_stream_init(struct net_stream *s, int fd, size_t out_size)
{
	*s = (struct net_stream) { .fd = -1, .out_size = out_size };
	s->in = malloc(IN_SIZE);
	s->out = malloc(out_size);
	if (!s->in || !s->out) {
		net_stream_done(s);
		return -ENOMEM;
	}
	s->fd = fd;
	return 0;
}

void net_stream_done(struct net_stream *s)
{
	if (s->fd >= 0)
		close(s->fd);
	free(s->in);
	free(s->out);
	*s = (struct net_stream) { .fd = -1 };
}

int net_stream_read(struct net_stream *s)
{
	ssize_t n;

	memmove(s->in, s->in + s->in_pos, s->in_len - s->in_pos);
	s->in_len -= s->in_pos;
	s->in_pos = 0;
	do
		/* sandbox: loop net: recvfrom */
		n = recv(s->fd, s->in + s->in_len, IN_SIZE - s->in_len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return -EPIPE;
	if (n < 0)
		return -errno;
	s->in_len += (size_t)n;
	return 0;
}

ssize_t net_stream_take(struct net_stream *s, const uint8_t **ret_frame)
{
	for (;;) {
		size_t have = s->in_len - s->in_pos, len;

		if (have < NET_STREAM_HEAD)
			return 0;
		len = __builtin_bswap32(get_le32(s->in + s->in_pos));
		if (len > s->extra + NET_FRAME_MAX)
			return -EBADMSG;
		if (have - NET_STREAM_HEAD < len)
			return 0;
		*ret_frame = s->in + s->in_pos + NET_STREAM_HEAD;
		s->in_pos += NET_STREAM_HEAD + len;
		/* What is too short for a frame is skipped, as a network card does. */
		if (len >= s->extra + NET_FRAME_MIN)
			return (ssize_t)len;
	}
}

static void ring_write(struct net_stream *s, const void *bytes, size_t len)
{
	while (len) {
		size_t at = s->out_head & (s->out_size - 1), n = min_u64(len, s->out_size - at);

		memcpy(s->out + at, bytes, n);
		s->out_head += n;
		bytes = (const uint8_t *)bytes + n;
		len -= n;
	}
}

int net_stream_put(struct net_stream *s, const struct iovec *iov, unsigned count, size_t len)
{
	uint32_t head = __builtin_bswap32((uint32_t)len);

	if (net_stream_room(s) < NET_STREAM_HEAD + len)
		return -ENOBUFS;
	ring_write(s, &head, sizeof(head));
	for (unsigned i = 0; i < count && len; i++) {
		size_t n = min_u64(iov[i].iov_len, len);

		ring_write(s, iov[i].iov_base, n);
		len -= n;
	}
	return 0;
}

int net_stream_flush(struct net_stream *s)
{
	while (s->out_tail != s->out_head) {
		size_t at = s->out_tail & (s->out_size - 1), len = s->out_head - s->out_tail;
		struct iovec iov[2] = { { s->out + at, min_u64(len, s->out_size - at) },
					{ s->out, 0 } };
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n;

		iov[1].iov_len = len - iov[0].iov_len;
		/* sandbox: loop vcpu net: sendmsg */
		n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EWOULDBLOCK ? -EAGAIN : -errno;
		s->out_tail += (size_t)n;
	}
	s->out_head = s->out_tail = 0; /* the same few pages again, warm in the cache */
	return 0;
}
