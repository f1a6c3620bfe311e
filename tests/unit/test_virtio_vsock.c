/* SPDX-License-Identifier: Apache-2.0 */
/* The socket device, driven through its PCI registers, with real sockets on the host's side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio_driver.h"

#define F(bit) (1ull << (bit))
#define RX 0
#define TX 1
#define EVENT 2
#define CID 42
#define HDR sizeof(struct virtio_vsock_hdr)
#define BUF (HDR + 4096)
#define SIZE 32
#define OP(name) VIRTIO_VSOCK_OP_##name
#define ALLOC KIB(256)

struct fixture {
	struct machine m;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t rx, tx, event;
	char dir[64], path[96];
	struct virtio_vsock_hdr hdr; /* of the latest packet received */
	const uint8_t *data;
	uint32_t guest_port;
};

static void plug(struct fixture *f)
{
	struct virtio_env env = machine_env(&f->m);
	struct err err = { "" };

	if (virtio_vsock_new(&env, DRV_SLOT, CID, f->path, &f->dev, &err) < 0)
		fail_msg("%s", err.text);
}

static void offer(struct fixture *f, unsigned n)
{
	static const unsigned split = HDR; /* as Linux does */

	for (unsigned i = 0; i < n; i++) {
		uint64_t at = f->rx + f->d.q[RX].free_desc / 2 * BUF;
		struct drv_buf bufs[2] = { { at, split, true }, { at + split, BUF - split, true } };

		q_add(&f->d, &f->d.q[RX], bufs, 2);
	}
	q_kick(&f->d, RX);
}

static void start(struct fixture *f)
{
	drv_probe(&f->d, &f->m, DRV_SLOT);
	assert_true(drv_negotiate(&f->d, F(VIRTIO_F_VERSION_1)));
	for (unsigned i = 0; i < 3; i++)
		drv_queue(&f->d, i, SIZE, false);
	drv_ready(&f->d);
	q_add(&f->d, &f->d.q[EVENT], &(struct drv_buf) { f->event, 4, true }, 1);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	machine_init(&f->m);
	strcpy(f->dir, "/tmp/eyot-vsock-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	f->rx = guest_alloc(&f->m, SIZE * BUF, 4096);
	f->tx = guest_alloc(&f->m, KIB(256), 4096);
	f->event = guest_alloc(&f->m, 4, 4);
	plug(f);
	start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char service[128];

	virtio_dev_free(f->dev);
	machine_done(&f->m);
	assert_int_equal(access(f->path, F_OK), -1); /* the name is gone with the device */
	snprintf(service, sizeof(service), "%s_7", f->path);
	unlink(service);
	rmdir(f->dir);
	free(f);
	return 0;
}

/* A packet of the guest's; @data: bytes of 'x' */
static void send_raw(struct fixture *f, const struct virtio_vsock_hdr *hdr, uint32_t data)
{
	memcpy(guest(&f->m, f->tx, HDR), hdr, HDR);
	memset(guest(&f->m, f->tx + HDR, data + 1), 'x', data);
	q_add(&f->d, &f->d.q[TX],
	      (struct drv_buf[2]) { { f->tx, HDR, false }, { f->tx + HDR, data, false } },
	      data ? 2 : 1);
	q_kick(&f->d, TX);
}

static void send_op(struct fixture *f, unsigned op, uint32_t host_port, uint32_t flags,
		    uint32_t len)
{
	struct virtio_vsock_hdr hdr = { .src_cid = CID,
					.dst_cid = 2,
					.src_port = f->guest_port,
					.dst_port = host_port,
					.type = VIRTIO_VSOCK_TYPE_STREAM,
					.op = (uint16_t)op,
					.flags = flags,
					.len = len,
					.buf_alloc = ALLOC };

	send_raw(f, &hdr, len);
	assert_true(q_wait(&f->d, &f->d.q[TX], NULL, NULL));
}

/* The next packet for the guest, which must be @op */
static void expect(struct fixture *f, unsigned op)
{
	uint32_t head, len;

	if (!q_wait(&f->d, &f->d.q[RX], &head, &len))
		fail_msg("no packet; %u was expected", op);
	memcpy(&f->hdr, guest(&f->m, f->rx + head / 2 * BUF, HDR), HDR);
	f->data = guest(&f->m, f->rx + head / 2 * BUF + HDR, 4096);
	assert_int_equal(f->hdr.op, op);
	assert_int_equal(len, HDR + f->hdr.len);
	assert_int_equal(f->hdr.dst_cid, CID);
}

static void expect_nothing(struct fixture *f)
{
	machine_run(&f->m, 20);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[RX]), f->d.q[RX].last_used);
}

static int dial(struct fixture *f, const char *line)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(send(fd, line, strlen(line), MSG_NOSIGNAL), strlen(line));
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

/* What comes on @fd within a moment; -1: nothing, 0: its end */
static ssize_t get(struct fixture *f, int fd, void *buf, size_t len)
{
	for (unsigned i = 0; i < 200; i++) {
		ssize_t n = recv(fd, buf, len, 0);

		if (n >= 0 || errno != EAGAIN)
			return n < 0 ? 0 : n;
		machine_run(&f->m, 2);
	}
	return -1;
}

/* A connection that a client of the host asked for */
static int connected(struct fixture *f, uint32_t *ret_port)
{
	char want[32], got[64] = "";
	int fd = dial(f, "CONNECT 1234\nearly");

	expect(f, OP(REQUEST));
	assert_int_equal(f->hdr.dst_port, 1234);
	assert_int_equal(f->hdr.src_cid, 2);
	assert_int_equal(f->hdr.type, VIRTIO_VSOCK_TYPE_STREAM);
	f->guest_port = 1234;
	*ret_port = f->hdr.src_port;
	send_op(f, OP(RESPONSE), *ret_port, 0, 0);
	snprintf(want, sizeof(want), "OK %u\n", *ret_port);
	assert_int_equal(get(f, fd, got, sizeof(got)), strlen(want));
	assert_string_equal(got, want);
	expect(f, OP(RW));
	assert_int_equal(f->hdr.len, 5);
	assert_memory_equal(f->data, "early", 5);
	return fd;
}

static int listener(struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_7", f->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 5), 0);
	return fd;
}

static void test_host_connects(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	char buf[64];
	int fd;

	offer(f, 8);
	fd = connected(f, &port);
	send_op(f, OP(RW), port, 0, 10);
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 10);
	assert_memory_equal(buf, "xxxxxxxxxx", 10);
	/* The end of the host's data, then that of the guest's */
	shutdown(fd, SHUT_WR);
	expect(f, OP(SHUTDOWN));
	assert_int_equal(f->hdr.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_op(f, OP(RW), port, 0, 3);
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 3);
	send_op(f, OP(SHUTDOWN), port, VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
	expect(f, OP(RST));
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
}

static void test_guest_connects(void **state)
{
	struct fixture *f = *state;
	int at = listener(f), fd;
	char buf[64];

	offer(f, 8);
	f->guest_port = 99;
	send_op(f, OP(REQUEST), 8, 0, 0);
	expect(f, OP(RST)); /* nobody listens there */
	send_op(f, OP(REQUEST), 7, 0, 0);
	expect(f, OP(RESPONSE));
	assert_int_equal(f->hdr.src_port, 7);
	assert_int_equal(f->hdr.dst_port, 99);
	fd = accept4(at, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	/* The guest's half ends; the host goes on and then closes. */
	send_op(f, OP(RW), 7, 0, 4);
	send_op(f, OP(SHUTDOWN), 7, VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 4);
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	assert_int_equal(send(fd, "answer", 6, MSG_NOSIGNAL), 6);
	close(fd);
	expect(f, OP(RW));
	assert_memory_equal(f->data, "answer", 6);
	expect(f, OP(SHUTDOWN));
	while (f->hdr.flags != 3)
		expect(f, OP(SHUTDOWN));
	send_op(f, OP(RST), 7, 0, 0);
	expect_nothing(f);
	/* More after its end: refused */
	send_op(f, OP(REQUEST), 7, 0, 0);
	expect(f, OP(RESPONSE));
	send_op(f, OP(SHUTDOWN), 7, VIRTIO_VSOCK_SHUTDOWN_SEND, 0);
	send_op(f, OP(RW), 7, 0, 1);
	expect(f, OP(RST));
	close(at);
}

static void test_refusals(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr = { .src_cid = CID,
					.dst_cid = 2,
					.src_port = 5,
					.dst_port = 6,
					.type = VIRTIO_VSOCK_TYPE_STREAM };
	uint32_t port;
	char buf[8];
	int fd;

	offer(f, 16);
	for (hdr.op = 0; hdr.op < 12; hdr.op++) {
		send_raw(f, &hdr, 0);
		if (hdr.op == OP(RST)) { /* never answered */
			expect_nothing(f);
			continue;
		}
		expect(f, OP(RST));
		assert_int_equal(f->hdr.src_port, 6);
		assert_int_equal(f->hdr.dst_port, 5);
	}
	offer(f, 8);
	hdr.op = OP(REQUEST);
	hdr.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_raw(f, &hdr, 0);
	expect(f, OP(RST));
	hdr.type = VIRTIO_VSOCK_TYPE_STREAM;
	hdr.dst_cid = 77;
	send_raw(f, &hdr, 0);
	expect(f, OP(RST));
	hdr.src_cid = 77;
	send_raw(f, &hdr, 0);
	expect_nothing(f);
	/* A connection that does not follow the rules is over. */
	fd = connected(f, &port);
	send_op(f, OP(RESPONSE), port, 0, 0);
	expect(f, OP(RST));
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
	fd = dial(f, "CONNECT x\n");
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
	fd = dial(f, "CONNECT 4294967295\n");
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
	fd = dial(f, "a line that is too long for a port's number");
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
	fd = dial(f, "CONNECT 9\n"); /* the guest says no */
	expect(f, OP(REQUEST));
	f->guest_port = 9;
	send_op(f, OP(RST), f->hdr.src_port, 0, 0);
	assert_int_equal(get(f, fd, buf, sizeof(buf)), 0);
	close(fd);
}

/* The guest gets as much as it has room for, and not a byte more. */
static void test_credit_of_the_guest(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	static uint8_t bytes[30000];
	uint32_t port, got = 5;
	int fd;

	offer(f, 16);
	fd = connected(f, &port);
	hdr = (struct virtio_vsock_hdr) { .src_cid = CID,
					  .dst_cid = 2,
					  .src_port = 1234,
					  .dst_port = port,
					  .type = VIRTIO_VSOCK_TYPE_STREAM,
					  .op = OP(CREDIT_UPDATE),
					  .buf_alloc = 10000 };
	send_raw(f, &hdr, 0);
	machine_run(&f->m, 5);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
	while (got < 10000) {
		expect(f, OP(RW));
		assert_memory_equal(f->data, bytes + got - 5, f->hdr.len);
		got += f->hdr.len;
	}
	assert_int_equal(got, 10000);
	expect_nothing(f);
	hdr.fwd_cnt = 7000; /* it has read so many: 3000 of 10000 are still there */
	send_raw(f, &hdr, 0);
	while (got < 17000) {
		expect(f, OP(RW));
		assert_memory_equal(f->data, bytes + got - 5, f->hdr.len);
		got += f->hdr.len;
	}
	assert_int_equal(got, 17000);
	expect_nothing(f);
	hdr.fwd_cnt = 17001; /* more than there were: nonsense, and no room */
	hdr.buf_alloc = 4000;
	send_raw(f, &hdr, 0);
	expect_nothing(f);
	close(fd);
}

/* The host does not read: so much waits, then the guest is told when there is room again. */
static void test_credit_of_the_host(void **state)
{
	struct fixture *f = *state;
	static uint8_t buf[65536];
	uint32_t port, sent = 0, fwd = 0, alloc;
	uint64_t got = 0;
	ssize_t n;
	int fd;

	offer(f, 16);
	fd = connected(f, &port);
	alloc = f->hdr.buf_alloc;
	assert_in_range(alloc, KIB(64), MIB(1));
	for (;;) {
		send_op(f, OP(CREDIT_REQUEST), port, 0, 0);
		expect(f, OP(CREDIT_UPDATE));
		offer(f, 1);
		fwd = f->hdr.fwd_cnt;
		if (sent - fwd == alloc)
			break;
		n = (ssize_t)min_u64(10000, alloc - (sent - fwd));
		send_op(f, OP(RW), port, 0, (uint32_t)n);
		sent += (uint32_t)n;
		if (q_used_idx(&f->d, &f->d.q[RX]) != f->d.q[RX].last_used) {
			expect(f, OP(CREDIT_UPDATE));
			offer(f, 1);
		}
		assert_in_range(sent, 1, MIB(8));
	}
	while (got < sent && (n = get(f, fd, buf, sizeof(buf))) > 0)
		got += (uint64_t)n;
	assert_int_equal(got, sent);
	expect(f, OP(CREDIT_UPDATE));
	while (f->hdr.fwd_cnt - fwd < alloc / 2)
		expect(f, OP(CREDIT_UPDATE));
	/* A guest that sends more than it may */
	for (unsigned i = 0; i < 40; i++)
		send_op(f, OP(RW), port, 0, 65536 - 1000);
	while (f->hdr.op == OP(CREDIT_UPDATE)) {
		offer(f, 1);
		assert_true(q_wait(&f->d, &f->d.q[RX], &fwd, NULL));
		memcpy(&f->hdr, guest(&f->m, f->rx + fwd / 2 * BUF, HDR), HDR);
	}
	assert_int_equal(f->hdr.op, OP(RST));
	close(fd);
}

/* Nobody takes the refusals: the device does not collect them without end. */
static void test_no_receive_buffers(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr = { .src_cid = CID, .dst_cid = 2, .type = 1, .op = OP(RW) };
	unsigned done = 0;

	for (unsigned i = 0; i < 100; i++) {
		if (i < 64) {
			send_raw(f, &hdr, 0);
			assert_true(q_wait(&f->d, &f->d.q[TX], NULL, NULL));
		} else if (i < 64 + SIZE) {
			q_add(&f->d, &f->d.q[TX], &(struct drv_buf) { f->tx, HDR, false }, 1);
		}
	}
	q_kick(&f->d, TX);
	machine_run(&f->m, 20);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[TX]), 64);
	while (done < 64 + SIZE) {
		offer(f, 8);
		for (unsigned i = 0; i < 8; i++, done++)
			expect(f, OP(RST));
	}
	assert_int_equal(q_used_idx(&f->d, &f->d.q[TX]), 64 + SIZE);
}

static void test_many_connections(void **state)
{
	struct fixture *f = *state;
	static int fds[300];
	unsigned asked = 0;

	for (unsigned i = 0; i < 300; i++) {
		fds[i] = dial(f, "CONNECT 1\n");
		machine_run(&f->m, 0);
	}
	for (; asked < 256; asked++) {
		offer(f, 1);
		expect(f, OP(REQUEST));
	}
	offer(f, 1);
	expect_nothing(f);
	assert_int_equal(get(f, fds[299], fds, 1), 0); /* closed: there are too many */
	for (unsigned i = 0; i < 300; i++)
		close(fds[i]);
}

static void broken(struct fixture *f)
{
	machine_run(&f->m, 5);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	start(f);
	assert_false(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void test_malformed(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr = {
		.src_cid = CID, .dst_cid = 2, .type = 1, .op = 5, .len = 9
	};
	uint32_t port;
	char byte;
	int fd;

	q_add(&f->d, &f->d.q[TX], &(struct drv_buf) { f->tx, HDR - 1, false }, 1);
	q_kick(&f->d, TX);
	broken(f);
	send_raw(f, &hdr, 8); /* shorter than it says */
	broken(f);
	offer(f, 2);
	fd = connected(f, &port);
	/* A receive buffer that holds a header and nothing else */
	q_add(&f->d, &f->d.q[RX], &(struct drv_buf) { f->rx, HDR, true }, 1);
	q_kick(&f->d, RX);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
	broken(f);
	assert_int_equal(get(f, fd, &byte, 1), 0); /* a reset ends all connections */
	close(fd);
}

static void test_save_load(void **state)
{
	struct fixture *f = *state;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };
	uint32_t port;
	uint8_t byte;
	int fd;

	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 8), CID);
	offer(f, 4);
	fd = connected(f, &port);
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	virtio_dev_free(f->dev);
	assert_int_equal(get(f, fd, &byte, 1), 0);
	close(fd);
	memset(guest(&f->m, f->event, 4), 0xff, 4);
	plug(f);
	snap_reader_init(&r, w.data, w.len);
	if (virtio_dev_load(f->dev, &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(q_wait(&f->d, &f->d.q[EVENT], NULL, NULL));
	assert_int_equal(get_le32(guest(&f->m, f->event, 4)), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	send_op(f, OP(RW), port, 0, 1); /* what the guest still believes in */
	expect(f, OP(RST));
	offer(f, 4);
	close(connected(f, &port));
	for (size_t i = 0; i < w.len; i += 7) {
		snap_reader_init(&r, w.data, i);
		assert_int_equal(virtio_dev_load(f->dev, &r, &err), -EBADMSG);
	}
	snap_writer_done(&w);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_host_connects),	     T(test_guest_connects),	 T(test_refusals),
		T(test_credit_of_the_guest), T(test_credit_of_the_host), T(test_no_receive_buffers),
		T(test_many_connections),    T(test_malformed),		 T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
