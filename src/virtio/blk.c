/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio block device (virtio 1.2, 5.2)
 *
 * A notification takes chains off the queue on the vCPU's own thread (on KVM, whose
 * doorbells spare the guest the trip to us, on the loop thread) and hands them to the block layer
 * at once, with one system call for all of them: on a machine with few cores a change of threads
 * costs more than the submission. Completions come on the loop thread. Small reads that the host's
 * page cache can answer are not even submitted: they are copied and completed on the spot
 * (measured: 4 KiB in 1 us instead of 16 us, and no other thread wakes up).
 *
 * Each queue has a pool of as many requests as a ring has entries. The pool is
 * used from its hot end, so only as much of it is ever touched as requests
 * are in flight. When it runs dry (a driver that offers chains twice), the
 * queue waits for a completion.
 *
 * Invariants
 * 1. A request's chain is `out` in its queue from virtq_pop() to virtq_push();
 *    finish() is the only place that pushes.
 * 2. The status byte is written before the chain is pushed.
 * 3. A driver that did not take the FLUSH feature gets write-through: its
 *    writes are flushed before they complete (5.2.6.2).
 * 4. What a request asks for is copied out of guest memory once, then checked.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "base/util.h"
#include "disk/disk.h"
#include "virtio/virtio.h"

#define PCI_CLASS_STORAGE_OTHER 0x018000
#define SEG_MAX (VIRTQ_MAX_CHAIN - 2) /* one each for header and status */
#define SIZE_MAX_BYTES MIB(1)
#define DISCARD_MAX_BYTES GIB(1)
#define ZEROES_MAX_BYTES MIB(128)
#define SERIAL_LEN VIRTIO_BLK_ID_BYTES
/* Chains taken in one go; a driver that refills as fast as we take must not hold the queue for
 * ever. */
#define BATCH_MAX (2 * VIRTQ_MAX_SIZE)
/* Bytes that one notification copies on the spot: it holds the queue and the vCPU meanwhile. */
#define NOW_MAX_BYTES KIB(256)

struct blk_req {
	struct disk_req disk;
	struct blk_queue *bq;
	uint8_t *status;
	uint32_t written; /* bytes, when the request succeeds */
	bool sync_after;  /* flush when the write is done */
	struct blk_req *next_free;
	struct virtq_chain chain;
	struct iovec data[VIRTQ_MAX_CHAIN]; /* the block layer's copy */
};

struct blk_queue {
	struct blk *blk;
	struct virtq *vq;
	struct blk_req *pool, *free_list;
	unsigned pool_used; /* entries of the pool that were ever handed out */
	uint64_t now_left;  /* bytes the present notification may still copy on the spot */
};

struct blk {
	struct virtio_dev dev;
	struct disk *disk;
	struct virtio_blk_config config;
	char serial[SERIAL_LEN];
	struct blk_queue *queues;
};

static struct blk_req *req_get(struct blk_queue *bq)
{
	struct blk_req *req = bq->free_list;

	if (req)
		bq->free_list = req->next_free;
	else if (bq->pool_used < VIRTQ_MAX_SIZE)
		req = &bq->pool[bq->pool_used++];
	return req;
}

static void req_put(struct blk_req *req)
{
	req->next_free = req->bq->free_list;
	req->bq->free_list = req;
}

/* Queue lock held. */
static void finish(struct blk_req *req, uint8_t status)
{
	*req->status = status;
	/* Of a failed read nobody can say which bytes are there. */
	virtq_push(req->bq->vq, &req->chain, status == VIRTIO_BLK_S_OK ? req->written : 0);
	req_put(req);
}

static bool process(struct blk_queue *bq);

static void disk_done(struct disk_req *disk_req, int ret)
{
	struct blk_req *req = container_of(disk_req, struct blk_req, disk);
	struct blk_queue *bq = req->bq;
	bool submitted = false;

	virtq_lock(bq->vq);
	if (ret == 0 && req->sync_after) {
		req->sync_after = false;
		req->disk = (struct disk_req) { .op = DISK_FLUSH, .done = disk_done };
		disk_queue(bq->blk->disk, &req->disk);
		submitted = true;
	} else {
		bool was_dry = !bq->free_list && bq->pool_used == VIRTQ_MAX_SIZE;

		finish(req, ret == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
		virtq_signal(bq->vq);
		if (was_dry)
			submitted = process(bq);
	}
	virtq_unlock_done(bq->vq);
	if (submitted)
		disk_kick(bq->blk->disk);
}

static void fill_disk_req(struct blk_req *req, enum disk_op op, unsigned flags, uint64_t off,
			  uint64_t len)
{
	req->disk.op = op;
	req->disk.flags = flags;
	req->disk.off = off;
	req->disk.len = len;
	req->disk.iov = req->data;
	req->disk.done = disk_done;
}

static void submit(struct blk_req *req, enum disk_op op, unsigned flags, uint64_t off, uint64_t len)
{
	fill_disk_req(req, op, flags, off, len);
	disk_queue(req->bq->blk->disk, &req->disk);
}

/* Returns the status of what ends at once; -1 when the block layer has it. */
static int start_rw(struct blk_req *req, bool write, uint64_t sector)
{
	struct blk *blk = req->bq->blk;
	struct virtq_chain *c = &req->chain;
	uint64_t sectors = disk_size(blk->disk) / DISK_SECTOR, len;

	if (write) {
		len = c->out_len - sizeof(struct virtio_blk_outhdr);
		req->disk.iov_count = iov_slice(req->data, c->iov, c->out_count,
						sizeof(struct virtio_blk_outhdr), len);
	} else {
		len = c->in_len - 1;
		req->disk.iov_count =
		    iov_slice(req->data, c->iov + c->out_count, c->in_count, 0, len);
	}
	if (len % DISK_SECTOR || len > UINT32_MAX - 1 || sector > sectors ||
	    len / DISK_SECTOR > sectors - sector)
		return VIRTIO_BLK_S_IOERR;
	if (write && disk_readonly(blk->disk))
		return VIRTIO_BLK_S_IOERR;
	req->written = write ? 1 : (uint32_t)len + 1;
	req->sync_after = write && !virtio_has(&blk->dev, VIRTIO_BLK_F_FLUSH);
	fill_disk_req(req, write ? DISK_WRITE : DISK_READ, 0, sector * DISK_SECTOR, len);
	if (!write && len <= req->bq->now_left && disk_read_now(blk->disk, &req->disk) == 0) {
		req->bq->now_left -= len;
		return VIRTIO_BLK_S_OK;
	}
	disk_queue(blk->disk, &req->disk);
	return -1;
}

static int start_flush(struct blk_req *req)
{
	req->disk.iov_count = 0;
	submit(req, DISK_FLUSH, 0, 0, 0);
	return -1;
}

static int start_range(struct blk_req *req, bool discard)
{
	struct blk *blk = req->bq->blk;
	struct virtq_chain *c = &req->chain;
	struct virtio_blk_discard_write_zeroes range;
	uint64_t sectors = disk_size(blk->disk) / DISK_SECTOR, max;
	uint64_t len = c->out_len - sizeof(struct virtio_blk_outhdr);

	if (!virtio_has(&blk->dev, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
		return VIRTIO_BLK_S_UNSUPP;
	if (len != sizeof(range)) /* one segment, as the configuration says */
		return VIRTIO_BLK_S_IOERR;
	iov_copy_from(c->iov, c->out_count, sizeof(struct virtio_blk_outhdr), &range,
		      sizeof(range));
	if (range.flags & (discard ? ~0u : ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	max = (discard ? DISCARD_MAX_BYTES : ZEROES_MAX_BYTES) / DISK_SECTOR;
	if (range.num_sectors > max || range.sector > sectors ||
	    range.num_sectors > sectors - range.sector || disk_readonly(blk->disk))
		return VIRTIO_BLK_S_IOERR;
	req->disk.iov_count = 0;
	req->sync_after = !discard && !virtio_has(&blk->dev, VIRTIO_BLK_F_FLUSH);
	submit(req, discard ? DISK_DISCARD : DISK_WRITE_ZEROES,
	       range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? DISK_REQ_UNMAP : 0,
	       range.sector * DISK_SECTOR, (uint64_t)range.num_sectors * DISK_SECTOR);
	return -1;
}

static int get_id(struct blk_req *req)
{
	struct virtq_chain *c = &req->chain;
	size_t room = min_u64(c->in_len - 1, SERIAL_LEN);

	iov_copy_to(c->iov + c->out_count, c->in_count, 0, req->bq->blk->serial, room);
	req->written = (uint32_t)room + 1;
	return VIRTIO_BLK_S_OK;
}

/* Returns whether the block layer was given something; -EINVAL: the chain makes no sense. */
static int start(struct blk_req *req)
{
	struct virtq_chain *c = &req->chain;
	const struct iovec *last;
	struct virtio_blk_outhdr hdr;
	int status;

	if (c->out_len < sizeof(hdr) || !c->in_count) {
		virtq_drop(req->bq->vq);
		req_put(req);
		return virtq_break(req->bq->vq, "a block request without header or status");
	}
	iov_copy_from(c->iov, c->out_count, 0, &hdr, sizeof(hdr));
	last = &c->iov[c->out_count + c->in_count - 1];
	req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	req->written = 1;
	req->sync_after = false;
	switch (hdr.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		status = start_rw(req, hdr.type == VIRTIO_BLK_T_OUT, hdr.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		status = start_flush(req);
		break;
	case VIRTIO_BLK_T_GET_ID:
		status = get_id(req);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		status = start_range(req, hdr.type == VIRTIO_BLK_T_DISCARD);
		break;
	default:
		status = VIRTIO_BLK_S_UNSUPP;
		break;
	}
	if (status < 0)
		return 1;
	finish(req, (uint8_t)status);
	return 0;
}

/* Take what the driver offers; queue lock held. Returns whether the block layer must be kicked. */
static bool process(struct blk_queue *bq)
{
	bool submitted = false;
	unsigned taken = 0;

	bq->now_left = NOW_MAX_BYTES;
	do {
		virtq_kick_disable(bq->vq);
		for (;;) {
			struct blk_req *req;
			int ret;

			if (taken == BATCH_MAX) {
				virtio_resume_soon(&bq->blk->dev);
				goto out;
			}
			req = req_get(bq);
			if (!req)
				goto out; /* a completion goes on */
			req->bq = bq;
			ret = virtq_pop(bq->vq, &req->chain);
			if (ret <= 0) {
				req_put(req);
				if (ret < 0)
					goto out;
				break;
			}
			taken++;
			ret = start(req);
			if (ret < 0)
				goto out;
			submitted |= ret;
		}
	} while (virtq_kick_enable(bq->vq));
out:
	virtq_signal(bq->vq);
	return submitted;
}

static void blk_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	if (process(&blk->queues[vq->index]))
		disk_kick(blk->disk);
}

static void blk_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	memcpy(buf, (const uint8_t *)&blk->config + off, len);
}

void virtio_blk_resized(struct virtio_dev *dev)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	pthread_mutex_lock(&dev->lock);
	blk->config.capacity = disk_size(blk->disk) / DISK_SECTOR;
	pthread_mutex_unlock(&dev->lock);
	virtio_config_changed(dev);
}

static void blk_drain(struct virtio_dev *dev)
{
	disk_drain(container_of(dev, struct blk, dev)->disk);
}

static void blk_free_parts(struct blk *blk, unsigned queue_count)
{
	if (blk->queues)
		for (unsigned i = 0; i < queue_count; i++)
			free(blk->queues[i].pool);
	free(blk->queues);
	free(blk);
}

static void blk_free(struct virtio_dev *dev)
{
	struct blk *blk = container_of(dev, struct blk, dev);

	virtio_dev_done(dev);
	blk_free_parts(blk, dev->queue_count);
}

static const struct virtio_dev_ops blk_ops = {
	.name = "virtio-blk",
	.device_id = VIRTIO_ID_BLOCK,
	.class_code = PCI_CLASS_STORAGE_OTHER,
	.notify = blk_notify,
	.config_read = blk_config_read,
	.drain = blk_drain,
	.free = blk_free,
};

static void fill_config(struct blk *blk, unsigned queue_count)
{
	uint32_t block_sectors = disk_block_size(blk->disk) / DISK_SECTOR;
	uint32_t blocks = disk_block_size(blk->disk) / disk_sector(blk->disk); /* logical ones */

	blk->config = (struct virtio_blk_config) {
		.capacity = disk_size(blk->disk) / DISK_SECTOR,
		.size_max = SIZE_MAX_BYTES,
		.seg_max = SEG_MAX,
		.blk_size = disk_sector(blk->disk),
		.physical_block_exp = (uint8_t)__builtin_ctz(blocks),
		.min_io_size = (uint16_t)blocks,
		.num_queues = (uint16_t)queue_count,
		.max_discard_sectors = DISCARD_MAX_BYTES / DISK_SECTOR,
		.max_discard_seg = 1,
		.discard_sector_alignment = block_sectors,
		.max_write_zeroes_sectors = ZEROES_MAX_BYTES / DISK_SECTOR,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
}

int virtio_blk_new(const struct virtio_env *env, unsigned slot, struct disk *disk,
		   const char *serial, unsigned queue_count, struct virtio_dev **ret_dev,
		   struct err *err)
{
	uint64_t features = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
			    1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
			    1ull << VIRTIO_BLK_F_FLUSH;
	struct blk *blk = calloc(1, sizeof(*blk));
	int ret;

	if (!blk)
		return err_set(err, ENOMEM, "virtio-blk: out of memory");
	if (disk_readonly(disk))
		features |= 1ull << VIRTIO_BLK_F_RO;
	else
		features |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	if (!disk_readonly(disk) && disk_discards(disk))
		features |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (queue_count > 1)
		features |= 1ull << VIRTIO_BLK_F_MQ;
	blk->disk = disk;
	if (serial)
		memcpy(blk->serial, serial, min_u64(strlen(serial), SERIAL_LEN));
	fill_config(blk, queue_count);

	/* The pools first: from virtio_dev_init() on, registers can be accessed. */
	ret = err_set(err, ENOMEM, "virtio-blk: out of memory");
	if (queue_count && queue_count <= VIRTIO_MAX_QUEUES) {
		blk->queues = calloc(queue_count, sizeof(*blk->queues));
		if (!blk->queues)
			goto fail;
		for (unsigned i = 0; i < queue_count; i++) {
			blk->queues[i].blk = blk;
			blk->queues[i].pool = calloc(VIRTQ_MAX_SIZE, sizeof(struct blk_req));
			if (!blk->queues[i].pool)
				goto fail;
		}
	}
	ret = virtio_dev_init(&blk->dev, &blk_ops, env, slot, features, queue_count,
			      sizeof(blk->config), err);
	if (ret < 0)
		goto fail;
	for (unsigned i = 0; i < queue_count; i++)
		blk->queues[i].vq = &blk->dev.queues[i];
	*ret_dev = &blk->dev;
	return 0;
fail:
	blk_free_parts(blk, queue_count);
	return ret;
}
