/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket device: packets of any kind from the guest, clients of the host that
 * come, talk, stop and go, receive buffers of any shape, resets, saves and loads.
 *
 * Input: steps, an operation byte with its operands. Ports are few, so that packets
 * meet connections; a connection that a client asked for is named by its place.
 */
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio_fuzz.h"

#define SIZE 16
#define CLIENTS 4
#define HDR sizeof(struct virtio_vsock_hdr)

struct world {
	struct target t;
	uint64_t area;
	int service, clients[CLIENTS];
	uint32_t asked; /* the port of the latest request for the guest */
};

static void hang_up(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void dial(struct world *w, int *fd, unsigned port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char line[32];

	hang_up(fd);
	strcpy(addr.sun_path, w->t.path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connect(*fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		(void)!send(*fd, line, (size_t)sprintf(line, "CONNECT %u\n", port), MSG_NOSIGNAL);
}

static void packet(struct world *w, struct fuzz_in *in)
{
	unsigned how = (unsigned)fuzz_take(in, 1);
	struct virtio_vsock_hdr hdr = { .src_cid = FUZZ_CID, .dst_cid = 2, .type = 1 };
	uint32_t len = (uint32_t)fuzz_take(in, how & 8 ? 2 : 1);

	hdr.op = (uint16_t)(fuzz_take(in, 1) % 9);
	hdr.src_port = how & 3;
	hdr.dst_port = how & 4 ? w->asked : 7 + (how >> 6);
	hdr.flags = (uint32_t)fuzz_take(in, 1);
	hdr.buf_alloc = (uint32_t)fuzz_take(in, 2) << 4;
	hdr.fwd_cnt = (uint32_t)fuzz_take(in, 2);
	hdr.len = len + (how >> 4 & 3) / 3;
	if (how == 0xff)
		hdr.dst_cid = hdr.type = 2;
	memcpy(guest(&w->t.m, w->area, HDR), &hdr, HDR);
	q_add(&w->t.d, &w->t.d.q[1],
	      (struct drv_buf[2]) { { w->area, HDR - (how == 0xfe), false },
				    { w->area + 64, len, false } },
	      2);
	q_kick(&w->t.d, 1);
}

static void buffers(struct world *w, struct fuzz_in *in)
{
	unsigned n = (unsigned)fuzz_take(in, 1) % SIZE;

	while (n--) {
		uint32_t len = (uint32_t)fuzz_take(in, 1) * 32;

		q_add(&w->t.d, &w->t.d.q[0],
		      (struct drv_buf[2]) { { w->area + KIB(64), HDR - (len & 32 ? 1 : 0), true },
					    { w->area + KIB(64) + 64, len, true } },
		      2);
	}
	q_kick(&w->t.d, 0);
}

/* The latest header that the guest got: a request names a port. */
static void look(struct world *w)
{
	const struct virtio_vsock_hdr *hdr = guest(&w->t.m, w->area + KIB(64), HDR);

	if (hdr->op == VIRTIO_VSOCK_OP_REQUEST)
		w->asked = hdr->src_port;
}

static void host_step(struct world *w, unsigned op, struct fuzz_in *in)
{
	static const uint8_t bytes[32768];
	static uint8_t sink[65536];
	int *fd = &w->clients[op >> 4 & 3];

	switch (op >> 6) {
	case 0:
		dial(w, fd, (unsigned)fuzz_take(in, 1) & 3);
		break;
	case 1:
		if (*fd >= 0)
			(void)!send(*fd, bytes, fuzz_take(in, 2) & 0x7fff, MSG_NOSIGNAL);
		break;
	case 2:
		if (*fd >= 0)
			(void)!recv(*fd, sink, sizeof(sink), 0);
		else
			*fd = accept4(w->service, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		break;
	default:
		if (fuzz_take(in, 1) & 1)
			shutdown(*fd, SHUT_WR);
		else
			hang_up(fd);
		break;
	}
}

static void step(struct world *w, struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1);

	switch (op & 7) {
	case 0:
	case 1:
		packet(w, in);
		break;
	case 2:
		buffers(w, in);
		break;
	case 3:
	case 4:
	case 5:
		host_step(w, op, in);
		break;
	case 6:
		if (op == 0xfe)
			step_save_and_load(w->t.dev, &w->t.d, w->t.d.queue_count, in);
		else if (op == 0xf6)
			drv_set(&w->t.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		break;
	default:
		look(w);
		break;
	}
	machine_run(&w->t.m, 0);
	target_drain(&w->t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	static struct world w;

	memset(&w, 0, sizeof(w));
	target_init(&w.t, TARGET_VSOCK);
	w.area = guest_alloc(&w.t.m, KIB(256), 4096);
	memset(w.clients, 0xff, sizeof(w.clients));
	w.service = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_7", w.t.path);
	unlink(addr.sun_path);
	assert(!bind(w.service, (struct sockaddr *)&addr, sizeof(addr)) && !listen(w.service, 8));
	for (unsigned i = 0; i < 300 && in.left && w.t.m.brk < DRV_RAM / 2; i++) {
		target_start(&w.t, 1ull << VIRTIO_F_VERSION_1, SIZE);
		step(&w, &in);
	}
	target_done(&w.t);
	for (unsigned i = 0; i < CLIENTS; i++)
		hang_up(&w.clients[i]);
	close(w.service);
	unlink(addr.sun_path);
	return 0;
}
