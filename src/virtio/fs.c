/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio file system device (virtio 1.2, 5.11): carries FUSE requests between the guest's
 * queues and a shared folder (src/share). Queue 0 is for requests that must not wait behind others
 * (FORGET, INTERRUPT), queue 1 for all else; there is no DAX window.
 *
 * A thread of the device's own does the requests, one after another. A file system may
 * block for long, and neither a vCPU nor the loop thread may; and of all threads it alone has to
 * open, make and remove files. A chain is out while its request is done, so a reset waits for it as
 * for any other.
 *
 * The share is used by that thread while a chain is out, and by others only when none is.
 */
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

#include "base/util.h"
#include "loop/loop.h"
#include "share/share.h"
#include "virtio/virtio.h"

#define PCI_CLASS_OTHER 0x00ff00
#define QUEUES 2

struct fs {
	struct virtio_dev dev;
	struct loop *loop;
	struct share *share;
	struct virtio_fs_config config;
	struct virtq_chain chain; /* the worker's */
	pthread_t worker;
	bool has_worker;

	pthread_mutex_t lock; /* guards what follows; innermost */
	pthread_cond_t wake, idle;
	bool work, busy, ending;
};

static struct fs *fs_of(struct virtio_dev *dev)
{
	return container_of(dev, struct fs, dev);
}

/* Take one request of @vq and do it; false: there is none. */
static bool do_one(struct fs *fs, struct virtq *vq)
{
	struct virtq_chain *c = &fs->chain;
	ssize_t n;

	virtq_lock(vq);
	virtq_kick_disable(vq);
	while (!pci_bus_master(&fs->dev.pci) || virtq_pop(vq, c) <= 0) {
		if (!pci_bus_master(&fs->dev.pci) || !virtq_kick_enable(vq)) {
			virtq_unlock_done(vq);
			return false;
		}
	}
	pthread_mutex_unlock(&vq->lock);
	n = share_request(fs->share, c->iov, c->out_count, c->iov + c->out_count, c->in_count);
	virtq_lock(vq);
	if (n < 0) {
		virtq_drop(vq);
		virtq_break(vq, "not a FUSE request");
	} else {
		virtq_push(vq, c, (uint32_t)n);
		virtq_signal(vq);
	}
	virtq_unlock_done(vq);
	return n >= 0;
}

static void *worker(void *arg)
{
	struct fs *fs = arg;

	pthread_setname_np(pthread_self(), "share");
	if (loop_thread_begin(fs->loop, LOOP_THREAD_SHARE) < 0)
		abort(); /* as for workers of disks */
	pthread_mutex_lock(&fs->lock);
	for (;;) {
		while (!fs->work && !fs->ending)
			pthread_cond_wait(&fs->wake, &fs->lock);
		if (fs->ending)
			break;
		fs->work = false;
		fs->busy = true;
		pthread_mutex_unlock(&fs->lock);
		do
			while (do_one(fs, &fs->dev.queues[0]))
				;
		while (do_one(fs, &fs->dev.queues[1]));
		pthread_mutex_lock(&fs->lock);
		fs->busy = false;
		pthread_cond_broadcast(&fs->idle);
	}
	pthread_mutex_unlock(&fs->lock);
	return NULL;
}

static void fs_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct fs *fs = fs_of(dev);

	virtq_kick_disable(vq);
	pthread_mutex_lock(&fs->lock);
	fs->work = true;
	pthread_cond_signal(&fs->wake);
	pthread_mutex_unlock(&fs->lock);
}

static void fs_drain(struct virtio_dev *dev)
{
	struct fs *fs = fs_of(dev);

	pthread_mutex_lock(&fs->lock);
	while (fs->work || fs->busy)
		pthread_cond_wait(&fs->idle, &fs->lock);
	pthread_mutex_unlock(&fs->lock);
}

static void fs_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	memcpy(buf, (const uint8_t *)&fs_of(dev)->config + off, len);
}

static void fs_reset(struct virtio_dev *dev)
{
	share_reset(fs_of(dev)->share);
}

static void fs_save(struct virtio_dev *dev, struct snap_writer *w)
{
	share_save(fs_of(dev)->share, w);
}

static int fs_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	return share_load(fs_of(dev)->share, r, err);
}

static void free_parts(struct fs *fs)
{
	if (fs->has_worker) {
		pthread_mutex_lock(&fs->lock);
		fs->ending = true;
		pthread_cond_signal(&fs->wake);
		pthread_mutex_unlock(&fs->lock);
		pthread_join(fs->worker, NULL);
	}
	share_free(fs->share);
	pthread_cond_destroy(&fs->wake);
	pthread_cond_destroy(&fs->idle);
	pthread_mutex_destroy(&fs->lock);
}

static void fs_free(struct virtio_dev *dev)
{
	struct fs *fs = fs_of(dev);

	free_parts(fs); /* the worker uses the queues to its end */
	virtio_dev_done(dev);
	free(fs);
}

static const struct virtio_dev_ops fs_ops = {
	.name = "virtio-fs",
	.device_id = VIRTIO_ID_FS,
	.class_code = PCI_CLASS_OTHER,
	.notify = fs_notify,
	.config_read = fs_config_read,
	.drain = fs_drain,
	.reset = fs_reset,
	.save = fs_save,
	.load = fs_load,
	.free = fs_free,
};

int virtio_fs_new(const struct virtio_env *env, unsigned slot, const char *tag, const char *path,
		  bool readonly, struct virtio_dev **ret_dev, struct err *err)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	int ret;

	if (!fs)
		return err_set(err, ENOMEM, "virtio-fs: out of memory");
	memcpy(fs->config.tag, tag, min_u64(strlen(tag), sizeof(fs->config.tag)));
	fs->config.num_request_queues = 1;
	pthread_mutex_init(&fs->lock, NULL);
	pthread_cond_init(&fs->wake, NULL);
	pthread_cond_init(&fs->idle, NULL);
	ret = share_new(path, readonly, &fs->share, err);
	if (ret < 0)
		err_prefix(err, ret, "share '%s'", tag);
	else
		ret = virtio_dev_init(&fs->dev, &fs_ops, env, slot, 0, QUEUES, sizeof(fs->config),
				      err);
	if (ret < 0)
		goto fail;
	fs->loop = env->loop;
	*ret_dev = &fs->dev;
	return 0;
fail:
	free_parts(fs);
	free(fs);
	return ret;
}

int virtio_fs_start(struct virtio_dev *dev, struct err *err)
{
	struct fs *fs = fs_of(dev);
	int ret = pthread_create(&fs->worker, NULL, worker, fs);

	if (ret)
		return err_set(err, ret, "share '%.*s': start its thread: %s",
			       (int)sizeof(fs->config.tag), fs->config.tag, strerror(ret));
	fs->has_worker = true;
	return 0;
}
