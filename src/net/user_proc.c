/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A user network in a process of its own, so that the one that runs guest and
 * devices needs no socket of the host's, and the one that has them knows
 * neither guest memory nor disks.
 *
 *   card -- port (net_port_pair) ==socket pair== bridge -- user network -- host
 *
 * The bridge is what a card is elsewhere: it pulls frames while its stream has
 * room, so a guest that takes none holds back the host's senders as it does
 * within one process. Both sides check what the other one sends: the headers
 * of frames come from a process that a guest may have taken over.
 *
 * The process ends when the socket does, and is killed with its parent.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "net/net.h"
#include "net/offload.h"
#include "net/stream.h"

#define RING_SIZE MIB(1)
#define WHOLE_MAX (NET_STREAM_HEAD + NET_HDR_LEN + NET_FRAME_MAX)

struct bridge {
	struct loop *loop;
	struct net_backend *be;
	struct net_stream stream;
	struct loop_fd *source;
	bool waits; /* for room in the socket */
	uint8_t frame[NET_FRAME_MAX];
};

/* What the new process says before the first frame */
struct start {
	int ret;
	struct err err;
};

/* Frames of the network towards the guest, as many as there is room for. */
static void pull(struct bridge *b)
{
	struct virtio_net_hdr_v1 hdr;
	struct iovec iov[2] = { { &hdr, sizeof(hdr) }, { b->frame, sizeof(b->frame) } };
	bool waits;
	ssize_t n;

	do {
		n = 0;
		while (net_stream_room(&b->stream) >= WHOLE_MAX &&
		       (n = b->be->ops->receive(b->be, 0, iov, 2)) >= 0)
			net_stream_put(&b->stream, iov, 2, sizeof(hdr) + (size_t)n);
		waits = net_stream_flush(&b->stream) == -EAGAIN;
	} while (n >= 0 && !waits);
	if (waits != b->waits) {
		b->waits = waits;
		loop_fd_modify(b->source, EPOLLIN | (waits ? EPOLLOUT : 0u));
	}
}

static void push(struct bridge *b, const uint8_t *bytes, size_t len)
{
	struct virtio_net_hdr_v1 hdr;
	struct iovec iov[2] = { { &hdr, sizeof(hdr) },
				{ (uint8_t *)bytes + sizeof(hdr), len - sizeof(hdr) } };

	memcpy(&hdr, bytes, sizeof(hdr));
	if (net_hdr_check(&hdr, iov[1].iov_len, true, true, true, true) == 0)
		b->be->ops->send(b->be, 0, iov, 2, iov[1].iov_len);
}

static void socket_event(void *arg, uint32_t events)
{
	struct bridge *b = arg;
	const uint8_t *bytes;
	ssize_t n = 0;
	int ret = 0;

	if (events & ~(uint32_t)EPOLLOUT) {
		ret = net_stream_read(&b->stream);
		while (ret == 0 && (n = net_stream_take(&b->stream, &bytes)) > 0)
			push(b, bytes, (size_t)n);
		b->be->ops->flush(b->be, 0);
	}
	if ((ret < 0 && ret != -EAGAIN) || n < 0)
		loop_quit(b->loop, 0);
	else
		pull(b);
}

static void on_readable(void *opaque, unsigned queue)
{
	pull(opaque);
}

static void on_writable(void *opaque)
{
}

static void on_link(void *opaque, bool up)
{
}

static const struct net_nic_ops bridge_ops = { on_readable, on_writable, on_link };

static int start(struct bridge *b, int fd, const struct net_config *cfg, struct err *err)
{
	int ret = loop_new(&b->loop, err);

	if (ret == 0)
		ret = net_user_open(b->loop, cfg, &b->be, err);
	if (ret == 0) {
		ret = net_stream_init(&b->stream, fd, RING_SIZE);
		b->stream.extra = NET_HDR_LEN;
		if (ret == 0)
			ret = loop_fd_add(b->loop, fd, EPOLLIN, socket_event, b, &b->source);
		if (ret < 0)
			err_set(err, -ret, "%s", strerror(-ret));
	}
	return ret < 0 ? ret : cfg->confine(err);
}

static _Noreturn void run(int fd, const struct net_config *cfg)
{
	struct bridge *b = calloc(1, sizeof(*b));
	struct start st = { .ret = -ENOMEM, .err.text = "out of memory" };
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* All that the machine has open, its console included, stays with the machine. */
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(fd, 3) != 3 || syscall(SYS_close_range, 4u, ~0u, 0u) < 0)
		_exit(1);
	fcntl(3, F_SETFL, O_NONBLOCK);
	if (b)
		st.ret = start(b, 3, cfg, &st.err);
	if (send(3, &st, sizeof(st), MSG_NOSIGNAL) != sizeof(st) || st.ret < 0)
		_exit(1);
	net_attach(b->be, &bridge_ops, b);
	loop_run(b->loop);
	_exit(0);
}

int net_user_own_process(struct loop *loop, const struct net_config *cfg,
			 struct net_backend **ret_be, struct err *err)
{
	struct start st;
	int fds[2], ret;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, errno, "%s", strerror(errno));
	pid = fork();
	if (pid == 0)
		run(fds[1], cfg);
	ret = pid < 0 ? err_set(err, errno, "a process for it: %s", strerror(errno)) : 0;
	close(fds[1]);
	if (ret == 0 && recv(fds[0], &st, sizeof(st), MSG_WAITALL) != sizeof(st))
		ret = err_set(err, EIO, "its process ended at once");
	if (ret == 0 && st.ret < 0) {
		st.err.text[sizeof(st.err.text) - 1] = '\0';
		ret = err_set(err, -st.ret, "%s", st.err.text);
	}
	if (ret < 0) {
		close(fds[0]);
		return ret;
	}
	return net_port_pair(loop, fds[0], cfg->mtu, ret_be, err);
}
