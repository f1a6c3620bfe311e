/* SPDX-License-Identifier: Apache-2.0 */
/* The file system device, driven through its PCI registers; what requests do is in test_share.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/stat.h>

#include "virtio_driver.h"

#define V1 (1ull << VIRTIO_F_VERSION_1)
#define HIPRIO 0
#define REQUESTS 1

struct fixture {
	struct machine m;
	struct virtio_dev *dev;
	struct driver d;
	uint64_t in, out;
	char dir[64];
};

static void plug(struct fixture *f)
{
	struct virtio_env env = machine_env(&f->m);
	struct err err = { "" };

	if (virtio_fs_new(&env, DRV_SLOT, "a-tag", f->dir, false, &f->dev, &err) < 0 ||
	    virtio_fs_start(f->dev, &err) < 0)
		fail_msg("%s", err.text);
}

static void start(struct fixture *f)
{
	drv_probe(&f->d, &f->m, DRV_SLOT);
	assert_true(drv_negotiate(&f->d, V1));
	drv_queue(&f->d, HIPRIO, 16, false);
	drv_queue(&f->d, REQUESTS, 16, false);
	drv_ready(&f->d);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[96];
	FILE *file;

	machine_init(&f->m);
	strcpy(f->dir, "/tmp/eyot-fs-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(path, sizeof(path), "%s/file", f->dir);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs("content", file);
	fclose(file);
	f->in = guest_alloc(&f->m, KIB(64), 4096);
	f->out = guest_alloc(&f->m, KIB(64), 4096);
	plug(f);
	start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[96];

	virtio_dev_free(f->dev);
	machine_done(&f->m);
	snprintf(command, sizeof(command), "rm -r %s", f->dir);
	free(f);
	return system(command);
}

static void offer(struct fixture *f, unsigned queue, unsigned op, uint64_t node, const void *arg,
		  uint32_t len, uint32_t room)
{
	struct fuse_in_header head = {
		.len = (uint32_t)sizeof(head) + len, .opcode = op, .nodeid = node, .unique = 5
	};
	struct drv_buf bufs[] = { { f->in, sizeof(head), false },
				  { f->in + sizeof(head), len, false },
				  { f->out, 16, true },
				  { f->out + 16, room, true } };

	memcpy(guest(&f->m, f->in, sizeof(head)), &head, sizeof(head));
	memcpy(guest(&f->m, f->in + sizeof(head), len + 1), arg, len);
	memset(guest(&f->m, f->out, KIB(4)), 0xee, KIB(4));
	q_add(&f->d, &f->d.q[queue], bufs, room ? 4 : 2);
	q_kick(&f->d, queue);
}

/* Do a request; the client's errno */
static int ask(struct fixture *f, unsigned op, uint64_t node, const void *arg, uint32_t len)
{
	const struct fuse_out_header *head = guest(&f->m, f->out, sizeof(*head));
	uint32_t written;

	offer(f, REQUESTS, op, node, arg, len, KIB(4));
	assert_true(q_wait(&f->d, &f->d.q[REQUESTS], NULL, &written));
	assert_int_equal(written, head->len);
	assert_int_equal(head->unique, 5);
	return head->error;
}

static uint64_t find_and_open(struct fixture *f, uint64_t *ret_fh)
{
	const uint8_t *body = guest(&f->m, f->out + 16, 256);
	struct fuse_open_in in = { .flags = O_RDONLY };
	uint64_t node;

	assert_int_equal(ask(f, FUSE_LOOKUP, FUSE_ROOT_ID, "file", 5), 0);
	node = ((const struct fuse_entry_out *)body)->nodeid;
	assert_int_equal(ask(f, FUSE_OPEN, node, &in, sizeof(in)), 0);
	*ret_fh = ((const struct fuse_open_out *)body)->fh;
	return node;
}

static void check_read(struct fixture *f, uint64_t node, uint64_t fh)
{
	struct fuse_read_in in = { .fh = fh, .size = 4000 };

	assert_int_equal(ask(f, FUSE_READ, node, &in, sizeof(in)), 0);
	assert_memory_equal(guest(&f->m, f->out + 16, 8), "content\xee", 8);
}

static void test_requests(void **state)
{
	struct fixture *f = *state;
	struct fuse_forget_in forget = { .nlookup = 1 };
	uint64_t fh = 0, node;
	uint32_t written;

	for (unsigned i = 0; i < 36; i++)
		assert_int_equal(bus_read(&f->m.mmio, f->d.device + i, 1), i < 5 ? "a-tag"[i] : 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 36, 4), 1);
	node = find_and_open(f, &fh);
	check_read(f, node, fh);
	assert_int_equal(ask(f, 999, node, "", 0), -ENOSYS);
	offer(f, HIPRIO, FUSE_FORGET, node, &forget, sizeof(forget), 0); /* has no reply */
	assert_true(q_wait(&f->d, &f->d.q[HIPRIO], NULL, &written));
	assert_int_equal(written, 0);
	check_read(f, node, fh); /* an open file stays */
}

static void test_malformed(void **state)
{
	struct fixture *f = *state;
	static const uint32_t lengths[] = { 39, 40 };
	uint64_t fh = 0, node;

	for (unsigned i = 0; i < 2; i++) {
		/* A header that is cut; one that says more than there is */
		memset(guest(&f->m, f->in, 64), 0x11, 64);
		q_add(&f->d, &f->d.q[REQUESTS], &(struct drv_buf) { f->in, lengths[i], false }, 1);
		q_kick(&f->d, REQUESTS);
		for (unsigned k = 0; k < 500 && !(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		     k++)
			machine_run(&f->m, 2);
		assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		start(f);
	}
	offer(f, REQUESTS, FUSE_GETATTR, FUSE_ROOT_ID, "", 0, 0); /* no room for the reply */
	for (unsigned k = 0; k < 500 && !(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET); k++)
		machine_run(&f->m, 2);
	assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	start(f);
	node = find_and_open(f, &fh);
	check_read(f, node, fh);
}

/* A reset, with requests on their way, closes what was open. */
static void test_reset(void **state)
{
	struct fixture *f = *state;
	struct fuse_read_in in = { .size = 100 };
	uint64_t node = find_and_open(f, &in.fh);

	for (unsigned i = 0; i < 50; i++) {
		offer(f, REQUESTS, FUSE_GETATTR, FUSE_ROOT_ID, "", 0, 200);
		drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		for (unsigned k = 0; k < 500 && drv_status(&f->d); k++)
			machine_run(&f->m, 1);
		assert_int_equal(drv_status(&f->d), 0);
		f->m.brk = f->out + KIB(64);
		start(f);
	}
	assert_int_equal(ask(f, FUSE_READ, node, &in, sizeof(in)), -ESTALE);
}

static void test_save_load(void **state)
{
	struct fixture *f = *state;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };
	uint64_t fh = 0, node = find_and_open(f, &fh);

	offer(f, REQUESTS, FUSE_GETATTR, node, "", 0, 200); /* under way: done before the save */
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	virtio_dev_free(f->dev);
	plug(f);
	snap_reader_init(&r, w.data, w.len);
	if (virtio_dev_load(f->dev, &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(q_wait(&f->d, &f->d.q[REQUESTS], NULL, NULL));
	check_read(f, node, fh);
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
		T(test_requests),
		T(test_malformed),
		T(test_reset),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
