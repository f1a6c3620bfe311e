/* SPDX-License-Identifier: Apache-2.0 */
/* The block device, driven through its PCI registers, on real files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "disk/driver.h"
#include "virtio_driver.h"

#define IMAGE_SIZE MIB(2)
#define F(bit) (1ull << (bit))
#define BASE_FEATURES (F(VIRTIO_F_VERSION_1) | F(VIRTIO_BLK_F_FLUSH))

struct fixture {
	struct machine m;
	struct disk *disk;
	struct virtio_dev *dev;
	struct driver d;
	char path[64];
	uint64_t hdr, status, data;
};

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static void make_image(struct fixture *f)
{
	uint8_t *buf = malloc(IMAGE_SIZE);
	int fd;

	snprintf(f->path, sizeof(f->path), "blk-test-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < IMAGE_SIZE; i++)
		buf[i] = pattern(i);
	assert_int_equal(write(fd, buf, IMAGE_SIZE), IMAGE_SIZE);
	close(fd);
	free(buf);
}

static void plug(struct fixture *f, bool readonly, unsigned queues)
{
	struct disk_options opt = { .readonly = readonly };
	struct virtio_env env = machine_env(&f->m);
	struct err err = { "" };

	if (disk_open(f->m.loop, f->path, &opt, &f->disk, &err) ||
	    virtio_blk_new(&env, DRV_SLOT, f->disk, "serial-0123456789abcdef", queues, &f->dev,
			   &err))
		fail_msg("%s", err.text);
	drv_probe(&f->d, &f->m, DRV_SLOT);
}

static void unplug(struct fixture *f)
{
	virtio_dev_free(f->dev);
	disk_close(f->disk);
	f->dev = NULL;
	f->disk = NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	machine_init(&f->m);
	make_image(f);
	f->hdr = guest_alloc(&f->m, 16, 16);
	f->status = guest_alloc(&f->m, 1, 1);
	f->data = guest_alloc(&f->m, MIB(1), 4096);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unplug(f);
	machine_done(&f->m);
	unlink(f->path);
	free(f);
	return 0;
}

static void start(struct fixture *f, uint64_t features, unsigned queues, uint16_t size)
{
	assert_true(drv_negotiate(&f->d, features));
	drv_msix(&f->d);
	for (unsigned i = 0; i < queues; i++)
		drv_queue(&f->d, i, size, true);
	drv_ready(&f->d);
}

static void set_header(struct fixture *f, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *hdr = guest(&f->m, f->hdr, 16);

	*hdr = (struct virtio_blk_outhdr) { .type = type, .sector = sector };
	*(uint8_t *)guest(&f->m, f->status, 1) = 0xee;
}

/* One request on queue 0; returns the status byte. */
static int request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct drv_buf bufs[3] = { { f->hdr, 16, false },
				   { f->data, len, in },
				   { f->status, 1, true } };
	uint32_t head, got;
	uint16_t want;

	set_header(f, type, sector);
	if (!len)
		bufs[1] = bufs[2];
	want = q_add(&f->d, &f->d.q[0], bufs, len ? 3 : 2);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], &head, &got));
	assert_int_equal(head, want);
	if (*(uint8_t *)guest(&f->m, f->status, 1) == VIRTIO_BLK_S_OK)
		assert_int_equal(got, in ? len + 1 : 1);
	return *(uint8_t *)guest(&f->m, f->status, 1);
}

static void check_image(struct fixture *f, uint64_t off, uint64_t len)
{
	const uint8_t *p = guest(&f->m, f->data, len);

	for (uint64_t i = 0; i < len; i++)
		if (p[i] != pattern(off + i))
			fail_msg("byte %llu differs", (unsigned long long)(off + i));
}

static void file_read(struct fixture *f, uint64_t off, void *buf, size_t len)
{
	int fd = open(f->path, O_RDONLY);

	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	close(fd);
}

static void test_identity(void **state)
{
	struct fixture *f = *state;

	plug(f, false, 2);
	assert_int_equal(drv_config(&f->d, 0, 4), 0x10421af4);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_NUMQ, 2), 2);
	assert_int_equal(drv_status(&f->d), 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device, 8), IMAGE_SIZE / 512);
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + 34, 2), 2);
	drv_set(&f->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
	assert_int_equal(drv_get(&f->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	assert_true(drv_offered(&f->d) & F(VIRTIO_BLK_F_MQ));
	assert_false(drv_offered(&f->d) & F(VIRTIO_BLK_F_RO));
	/* Beyond the configuration: nothing. */
	assert_int_equal(bus_read(&f->m.mmio, f->d.device + f->d.device_len, 4), 0);
}

static void test_features(void **state)
{
	struct fixture *f = *state;

	plug(f, false, 1);
	assert_false(drv_negotiate(&f->d, F(VIRTIO_BLK_F_FLUSH)));		  /* not 1.x */
	assert_false(drv_negotiate(&f->d, BASE_FEATURES | F(VIRTIO_BLK_F_SCSI))); /* not offered */
	assert_false(drv_negotiate(&f->d, BASE_FEATURES | F(VIRTIO_F_RING_PACKED)));
	assert_true(drv_negotiate(&f->d, drv_offered(&f->d)));
	/* DRIVER_OK without FEATURES_OK is not accepted. */
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 7);
	assert_int_equal(drv_status(&f->d), 3);
}

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[8192];

	plug(f, false, 1);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 3, 65536), VIRTIO_BLK_S_OK);
	check_image(f, 3 * 512, 65536);
	memset(guest(&f->m, f->data, 8192), 0x5a, 8192);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 100, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	file_read(f, 100 * 512, buf, sizeof(buf));
	assert_memory_equal(buf, guest(&f->m, f->data, 8192), 8192);
	assert_int_equal(f->m.msi[0x41], 3);
	assert_int_equal(f->m.msi[0x40], 0);
}

static void test_write_through(void **state)
{
	struct fixture *f = *state;

	struct file *file;

	/* Without FLUSH each write is followed by one, whose failure is the write's. */
	plug(f, false, 1);
	file = f->disk->priv;
	memset(guest(&f->m, f->data, 512), 0x11, 512);
	start(f, F(VIRTIO_F_VERSION_1), 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	atomic_store(&file->flush_error, -EIO);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_IOERR);
}

static void test_get_id(void **state)
{
	struct fixture *f = *state;

	plug(f, false, 1);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	assert_memory_equal(guest(&f->m, f->data, 20), "serial-0123456789abc", 20);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	uint64_t sectors = IMAGE_SIZE / 512;

	plug(f, false, 1);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, sectors, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, sectors - 1, 1024), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, ~0ull, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 1ull << 55, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 100), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 16),
			 VIRTIO_BLK_S_UNSUPP); /* not negotiated */
	/* The host takes the image away. */
	assert_int_equal(truncate(f->path, 4096), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 100, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void test_readonly(void **state)
{
	struct fixture *f = *state;

	plug(f, true, 1);
	assert_true(drv_offered(&f->d) & F(VIRTIO_BLK_F_RO));
	assert_false(drv_offered(&f->d) & F(VIRTIO_BLK_F_DISCARD));
	start(f, BASE_FEATURES | F(VIRTIO_BLK_F_RO), 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	check_image(f, 0, 512);
}

static int range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t count,
			 uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *r = guest(&f->m, f->data, sizeof(*r));

	*r = (struct virtio_blk_discard_write_zeroes) { sector, count, flags };
	return request(f, type, 0, sizeof(*r));
}

static void test_discard_zeroes(void **state)
{
	struct fixture *f = *state;
	static const uint8_t zeros[8192];
	uint8_t buf[8192 + 1024];

	plug(f, false, 1);
	start(f, BASE_FEATURES | F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES), 1, 64);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 17, 16, 0), VIRTIO_BLK_S_OK);
	file_read(f, 16 * 512, buf, sizeof(buf));
	assert_memory_equal(buf + 512, zeros, 8192);
	assert_int_equal(buf[511], pattern(17 * 512 - 1));
	assert_int_equal(buf[512 + 8192], pattern(33 * 512));
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 64, 64, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 64, 64, 2),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 128, 64, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 128, 64, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, IMAGE_SIZE / 512 - 1, 2, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, ~0ull, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_IOERR);
}

/* Header and status split over several buffers, data in odd pieces, indirect after direct
 * descriptors. */
static void test_framing(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->d.q[0];
	uint64_t table = guest_alloc(&f->m, 64, 16);
	uint32_t len;

	plug(f, false, 1);
	start(f, BASE_FEATURES | F(VIRTIO_RING_F_INDIRECT_DESC), 1, 64);
	set_header(f, VIRTIO_BLK_T_IN, 8);
	q_desc(&f->d, q->desc, 0, f->hdr, 7, VRING_DESC_F_NEXT, 5);
	q_desc(&f->d, q->desc, 5, table, 64, VRING_DESC_F_INDIRECT, 0);
	q_desc(&f->d, table, 0, f->hdr + 7, 9, VRING_DESC_F_NEXT, 2);
	q_desc(&f->d, table, 2, f->data, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	q_desc(&f->d, table, 1, f->data + 1, 510, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
	q_desc(&f->d, table, 3, f->data + 511, 2, VRING_DESC_F_WRITE, 0); /* last byte: status */
	q_offer(&f->d, q, 0);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, q, NULL, &len));
	assert_int_equal(len, 513);
	check_image(f, 8 * 512, 512);
	assert_int_equal(*(uint8_t *)guest(&f->m, f->data + 512, 1), VIRTIO_BLK_S_OK);
}

static void test_queues_and_event_idx(void **state)
{
	struct fixture *f = *state;
	unsigned total = 0;

	plug(f, false, 4);
	start(f,
	      BASE_FEATURES | F(VIRTIO_BLK_F_MQ) | F(VIRTIO_RING_F_INDIRECT_DESC) |
		  F(VIRTIO_RING_F_EVENT_IDX),
	      4, 128);
	set_header(f, VIRTIO_BLK_T_IN, 0);
	for (unsigned i = 0; i < 4; i++) {
		struct drv_queue *q = &f->d.q[i];

		/* An interrupt only when all 100 are done. */
		*(uint16_t *)guest(&f->m, q->avail + 4 + 2 * q->size, 2) = 99;
		for (unsigned k = 0; k < 100; k++) {
			struct drv_buf bufs[] = { { f->hdr, 16, false },
						  { f->data + 4096 * (i * 16), 4096, true },
						  { f->status, 1, true } };

			q_add_indirect(&f->d, q, bufs, 3);
		}
		q_kick(&f->d, i);
	}
	for (unsigned i = 0; i < 4; i++)
		while (f->d.q[i].last_used < 100 && q_wait(&f->d, &f->d.q[i], NULL, NULL))
			total++;
	assert_int_equal(total, 400);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(f->m.msi[0x41 + i], 1);
	check_image(f, 0, 4096);
}

static void test_reset_in_flight(void **state)
{
	struct fixture *f = *state;
	struct drv_buf bufs[] = { { f->hdr, 16, false },
				  { f->data, 65536, false },
				  { f->status, 1, true } };
	struct drv_queue old;

	plug(f, false, 1);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 65536), VIRTIO_BLK_S_OK);
	f->m.msi[0x41] = 0;
	start(f, BASE_FEATURES, 1, 64);
	set_header(f, VIRTIO_BLK_T_OUT, 0); /* what is there already */
	for (unsigned i = 0; i < 10; i++)
		q_add(&f->d, &f->d.q[0], bufs, 3);
	q_kick(&f->d, 0);
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	/* The loop has not run: requests are out, and the driver must see that. */
	assert_int_not_equal(drv_status(&f->d), 0);
	/* Registers do not change meanwhile. */
	drv_set(&f->d, VIRTIO_PCI_COMMON_STATUS, 1, 1);
	for (unsigned i = 0; i < 1000 && drv_status(&f->d); i++)
		machine_run(&f->m, 1);
	assert_int_equal(drv_status(&f->d), 0);
	old = f->d.q[0];
	assert_int_equal(q_used_idx(&f->d, &old), 0); /* nothing came back to the old driver */
	assert_int_equal(f->m.msi[0x41], 0);
	start(f, BASE_FEATURES, 1, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	check_image(f, 0, 4096);

	/* Reset of the whole machine, requests out */
	q_add(&f->d, &f->d.q[0], bufs, 3);
	q_kick(&f->d, 0);
	virtio_dev_reset(f->dev);
	drv_probe(&f->d, &f->m, DRV_SLOT);
	assert_int_equal(drv_status(&f->d), 0);
}

static void test_bad_request_needs_reset(void **state)
{
	struct fixture *f = *state;
	struct drv_buf no_status[] = { { f->hdr, 16, false } };
	struct drv_buf short_header[] = { { f->hdr, 15, false }, { f->status, 1, true } };
	struct drv_buf bad_address[] = { { f->hdr, 16, false },
					 { DRV_RAM - 256, 512, true },
					 { f->status, 1, true } };
	const struct {
		const struct drv_buf *bufs;
		unsigned n;
	} cases[] = { { no_status, 1 }, { short_header, 2 }, { bad_address, 3 } };

	plug(f, false, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned config_irqs = f->m.msi[0x40];

		start(f, BASE_FEATURES, 1, 64);
		set_header(f, VIRTIO_BLK_T_IN, 0);
		q_add(&f->d, &f->d.q[0], cases[i].bufs, cases[i].n);
		q_kick(&f->d, 0);
		assert_true(drv_status(&f->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_int_equal(f->m.msi[0x40], config_irqs + 1);
		/* Nothing works until the reset, everything after it. */
		q_kick(&f->d, 0);
		machine_run(&f->m, 2);
		assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 0);
		start(f, BASE_FEATURES, 1, 64);
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	}
}

static void test_intx(void **state)
{
	struct fixture *f = *state;
	struct drv_buf bufs[] = { { f->hdr, 16, false },
				  { f->data, 512, true },
				  { f->status, 1, true } };
	unsigned gsi = pci_intx_gsi(DRV_SLOT, 1);

	plug(f, false, 1);
	assert_true(drv_negotiate(&f->d, BASE_FEATURES));
	drv_queue(&f->d, 0, 16, false);
	drv_ready(&f->d);
	set_header(f, VIRTIO_BLK_T_IN, 0);
	q_add(&f->d, &f->d.q[0], bufs, 3);
	q_kick(&f->d, 0);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
	assert_int_equal(f->m.line[gsi], 1);
	assert_int_equal(bus_read(&f->m.mmio, f->d.isr, 1), 1);
	assert_int_equal(f->m.line[gsi], 0);
	assert_int_equal(bus_read(&f->m.mmio, f->d.isr, 1), 0);
}

static void test_config_access_cap(void **state)
{
	struct fixture *f = *state;
	unsigned cap;

	plug(f, false, 1);
	cap = f->d.cfg_cap;
	drv_config_write(&f->d, cap + 4, 1, 0);
	drv_config_write(&f->d, cap + 8, 4, VIRTIO_PCI_COMMON_STATUS);
	drv_config_write(&f->d, cap + 12, 4, 1);
	drv_config_write(&f->d, cap + 16, 4, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(drv_status(&f->d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(drv_config(&f->d, cap + 16, 1), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	/* Nonsense does nothing. */
	drv_config_write(&f->d, cap + 8, 4, 0xffffffff);
	drv_config(&f->d, cap + 16, 4);
	drv_config_write(&f->d, cap + 12, 4, 3);
	drv_config_write(&f->d, cap + 16, 4, 0);
	assert_int_equal(drv_status(&f->d), VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

static void test_save_load(void **state)
{
	struct fixture *f = *state;
	struct snap_writer w;
	struct snap_reader r;
	struct driver d;
	struct err err = { "" };
	struct drv_buf bufs[] = { { f->hdr, 16, false },
				  { f->data, 4096, true },
				  { f->status, 1, true } };

	plug(f, false, 2);
	start(f, BASE_FEATURES | F(VIRTIO_BLK_F_MQ) | F(VIRTIO_RING_F_EVENT_IDX), 2, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	set_header(f, VIRTIO_BLK_T_IN, 1);
	q_add(&f->d, &f->d.q[0], bufs, 3);
	q_kick(&f->d, 0);
	q_add(&f->d, &f->d.q[0], bufs, 3); /* offered, not notified */
	snap_writer_init(&w);
	virtio_dev_save(f->dev, &w);
	assert_false(w.failed);
	assert_int_equal(q_used_idx(&f->d, &f->d.q[0]), 2); /* what was in flight is done */
	unplug(f);

	d = f->d;
	plug(f, false, 2);
	f->d = d; /* the driver notices nothing */
	snap_reader_init(&r, w.data, w.len);
	if (virtio_dev_load(f->dev, &r, &err))
		fail_msg("%s", err.text);
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL));
	assert_true(q_wait(&f->d, &f->d.q[0], NULL, NULL)); /* the kick is not lost */
	check_image(f, 512, 4096);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);

	/* Cut short, and with each byte changed: an error or a sane device. */
	for (size_t i = 0; i < w.len; i++) {
		snap_reader_init(&r, w.data, i);
		assert_int_equal(virtio_dev_load(f->dev, &r, &err), -EBADMSG);
	}
	for (size_t i = 0; i < w.len; i++) {
		w.data[i] ^= 0x81;
		snap_reader_init(&r, w.data, w.len);
		(void)virtio_dev_load(f->dev, &r, &err);
		machine_run(&f->m, 0);
		w.data[i] ^= 0x81;
	}
	snap_writer_done(&w);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_identity),
		T(test_features),
		T(test_read_write),
		T(test_write_through),
		T(test_get_id),
		T(test_errors),
		T(test_readonly),
		T(test_discard_zeroes),
		T(test_framing),
		T(test_queues_and_event_idx),
		T(test_reset_in_flight),
		T(test_bad_request_needs_reset),
		T(test_intx),
		T(test_config_access_cap),
		T(test_save_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
