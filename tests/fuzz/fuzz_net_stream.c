/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The framing of a switch's ports: any bytes in any pieces. Input: pieces, each
 * after its length, one byte.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "net/net.h"
#include "net/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct net_stream s;
	const uint8_t *frame;
	int fds[2], ret = 0;
	ssize_t n = 0;

	ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds);
	assert(!ret);
	ret = net_stream_init(&s, fds[0], 1 << 17);
	assert(!ret);
	while (in.left && ret == 0 && n >= 0) {
		size_t len = fuzz_take(&in, 1);

		if (len > in.left)
			len = in.left;
		if (len && write(fds[1], in.p, len) != (ssize_t)len)
			abort();
		in.p += len;
		in.left -= len;
		ret = net_stream_read(&s);
		assert(ret == (len ? 0 : -EAGAIN));
		ret = 0;
		while ((n = net_stream_take(&s, &frame)) > 0) {
			struct iovec iov[] = { { (void *)frame, 10 },
					       { (void *)(frame + 10), n - 10 } };

			assert(n >= NET_FRAME_MIN && n <= NET_FRAME_MAX);
			if (net_stream_put(&s, iov, 2, (size_t)n) == -ENOBUFS)
				net_stream_flush(&s);
		}
		assert(n == 0 || n == -EBADMSG);
	}
	net_stream_flush(&s);
	net_stream_done(&s);
	close(fds[1]);
	return 0;
}
