/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio memory balloon (virtio 1.2, 5.5): pages that the guest gives up, or tells
 * that they are free, go back to the host at once, on the thread that notifies.
 * They read zero when they are used again, and need nothing for that.
 *
 * Inflation names single pages; those of one request are sorted, so that
 * neighbours cost one system call. Free pages (REPORTING) come as large buffers.
 * Discarded RAM has changed: translated code of it is dropped like code that was
 * overwritten. A driver can only harm its own RAM with all this.
 *
 * Statistics. The driver leaves a buffer with them in the queue and brings a new one
 * when it is given back (5.5.6.3). The buffer is read where it lies and goes back only
 * when somebody asks for news; so no chain is ever out between two calls.
 *
 * Queues: inflate, deflate, then those whose features were accepted: statistics,
 * reporting. The standard gives reporting index 4; Linux counts only queues
 * in use. Every queue behind the statistics takes reports, so both are right.
 *
 * Locks: page lists and chain are their queue's; config values the device's,
 * statistics and sums `info_lock`, innermost.
 */
#include <linux/virtio_balloon.h>

#include "base/log.h"
#include "base/util.h"
#include "virtio/virtio.h"

#define PCI_CLASS_OTHER 0x00ff00
#define QUEUE_INFLATE 0
#define QUEUE_DEFLATE 1
#define QUEUE_STATS 2
#define QUEUES 5
#define PFNS_MAX 4096 /* of one request; Linux has 256 */
#define BATCH_MAX 16  /* requests that one call obeys */
#define STATS_MAX_BYTES 1024
#define F(bit) (1ull << VIRTIO_BALLOON_F_##bit)

struct balloon {
	struct virtio_dev dev;
	struct loop_timer *config_timer; /* tells the driver of a new target */

	/* Under the device's lock */
	uint32_t num_pages; /* what shall be in the balloon */
	uint32_t actual;    /* what is, as the driver says */

	struct virtq_chain chains[QUEUES]; /* each under its queue's lock */
	uint32_t pfns[PFNS_MAX];	   /* under the inflate queue's */

	pthread_mutex_t info_lock;
	uint64_t reported_bytes;
	uint32_t known;
	uint64_t stats[BALLOON_STATS];
	uint64_t stats_ns;
};

static struct balloon *balloon_of(struct virtio_dev *dev)
{
	return container_of(dev, struct balloon, dev);
}

const char *virtio_balloon_stat_name(unsigned stat)
{
	static const char *const names[BALLOON_STATS] = {
		"swap-in",	    "swap-out",	    "major-faults",
		"minor-faults",	    "free-memory",  "total-memory",
		"available-memory", "disk-caches",  "hugetlb-allocations",
		"hugetlb-failures", "oom-kills",    "allocation-stalls",
		"async-scans",	    "direct-scans", "async-reclaims",
		"direct-reclaims",
	};

	return names[stat];
}

static uint64_t ram_pages(const struct balloon *b)
{
	return b->dev.env.mem->size / PAGE_SIZE;
}

/* ---- pages ---- */

static int compare_pfns(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* [@gpa, @gpa+@len) goes back to the host; what is no RAM is passed over. */
static void discard(struct balloon *b, uint64_t gpa, uint64_t len)
{
	const struct guest_mem *mem = b->dev.env.mem;
	uint8_t *hva = guest_mem_ptr(mem, gpa, len);

	if (hva && guest_mem_discard(mem, hva, len) == 0) {
		guest_mem_note_write(mem, gpa, len);
		return;
	}
	for (uint64_t at = 0; !hva && len > PAGE_SIZE && at < len; at += PAGE_SIZE)
		discard(b, gpa + at, PAGE_SIZE);
}

/* The request in the queue's chain. Returns 0, or -EINVAL: the queue is broken. */
static int inflate(struct balloon *b, struct virtq *vq)
{
	struct virtq_chain *c = &b->chains[QUEUE_INFLATE];
	unsigned count = (unsigned)(c->out_len / sizeof(uint32_t)), first = 0;

	if (c->out_len > sizeof(b->pfns) || c->out_len % sizeof(uint32_t)) {
		virtq_drop(vq);
		return virtq_break(vq, "a list of pages of bad length");
	}
	iov_copy_from(c->iov, c->out_count, 0, b->pfns, c->out_len);
	/* It asks how much memory there is before it takes some. sandbox: libc loop vcpu: sysinfo
	 */
	qsort(b->pfns, count, sizeof(b->pfns[0]), compare_pfns);
	for (unsigned i = 1; i <= count; i++) {
		if (i < count && b->pfns[i] - b->pfns[i - 1] <= 1)
			continue;
		discard(b, (uint64_t)b->pfns[first] << VIRTIO_BALLOON_PFN_SHIFT,
			((uint64_t)b->pfns[i - 1] - b->pfns[first] + 1)
			    << VIRTIO_BALLOON_PFN_SHIFT);
		first = i;
	}
	return 0;
}

/* The buffers of the chain are free pages; virtq_push() tells that they have changed. */
static void report(struct balloon *b, const struct virtq_chain *c)
{
	uint64_t bytes = 0;

	for (unsigned i = c->out_count; i < c->out_count + c->in_count; i++)
		if (guest_mem_discard(b->dev.env.mem, c->iov[i].iov_base, c->iov[i].iov_len) == 0)
			bytes += c->iov[i].iov_len;
	pthread_mutex_lock(&b->info_lock);
	b->reported_bytes += bytes;
	pthread_mutex_unlock(&b->info_lock);
}

/* Queue lock held */
static void take_pages(struct balloon *b, struct virtq *vq)
{
	struct virtq_chain *chain = &b->chains[vq->index];
	unsigned taken = 0;

	do {
		virtq_kick_disable(vq);
		while (virtq_pop(vq, chain) > 0) {
			if (vq->index == QUEUE_INFLATE && inflate(b, vq) < 0)
				return;
			if (vq->index >= QUEUE_STATS)
				report(b, chain);
			virtq_push(vq, chain, 0);
			if (++taken == BATCH_MAX) {
				virtio_resume_soon(&b->dev);
				virtq_signal(vq);
				return;
			}
		}
	} while (virtq_kick_enable(vq));
	virtq_signal(vq);
}

/* ---- statistics ---- */

/* Read the buffer that lies in the queue; queue lock held. */
static void read_stats(struct balloon *b, struct virtq *vq)
{
	struct virtq_chain *c = &b->chains[QUEUE_STATS];
	struct virtio_balloon_stat_entry {
		uint16_t tag;
		uint64_t val;
	} __attribute__((packed)) s;

	if (virtq_pop(vq, c) <= 0)
		return;
	pthread_mutex_lock(&b->info_lock);
	b->known = 0;
	for (uint64_t at = 0; at + sizeof(s) <= min_u64(c->out_len, STATS_MAX_BYTES);
	     at += sizeof(s)) {
		iov_copy_from(c->iov, c->out_count, at, &s, sizeof(s));
		if (s.tag >= BALLOON_STATS)
			continue; /* of a later standard */
		b->known |= 1u << s.tag;
		b->stats[s.tag] = s.val;
	}
	b->stats_ns = clock_now_ns();
	pthread_mutex_unlock(&b->info_lock);
	virtq_unpop(vq);
}

void virtio_balloon_ask_stats(struct virtio_dev *dev)
{
	struct balloon *b = balloon_of(dev);
	struct virtq *vq = &dev->queues[QUEUE_STATS];

	virtq_lock(vq);
	if (virtio_has(dev, VIRTIO_BALLOON_F_STATS_VQ) && pci_bus_master(&dev->pci) &&
	    virtq_pop(vq, &b->chains[QUEUE_STATS]) > 0) {
		virtq_push(vq, &b->chains[QUEUE_STATS], 0);
		if (virtq_kick_enable(vq)) /* a driver with two buffers there */
			read_stats(b, vq);
		virtq_signal(vq);
	}
	virtq_unlock_done(vq);
}

void virtio_balloon_get_info(struct virtio_dev *dev, struct virtio_balloon_info *info)
{
	struct balloon *b = balloon_of(dev);

	memset(info, 0, sizeof(*info));
	pthread_mutex_lock(&dev->lock);
	info->target_bytes = (ram_pages(b) - b->num_pages) * PAGE_SIZE;
	info->actual_bytes = (ram_pages(b) - min_u64(b->actual, ram_pages(b))) * PAGE_SIZE;
	pthread_mutex_unlock(&dev->lock);
	pthread_mutex_lock(&b->info_lock);
	info->reported_bytes = b->reported_bytes;
	info->known = b->known;
	memcpy(info->stats, b->stats, sizeof(info->stats));
	info->stats_ns = b->stats_ns;
	pthread_mutex_unlock(&b->info_lock);
}

/* ---- device ---- */

static void balloon_notify(struct virtio_dev *dev, struct virtq *vq)
{
	struct balloon *b = balloon_of(dev);

	if (vq->index != QUEUE_STATS || !virtio_has(dev, VIRTIO_BALLOON_F_STATS_VQ))
		take_pages(b, vq);
	else
		read_stats(b, vq);
}

static void balloon_config_read(struct virtio_dev *dev, unsigned off, void *buf, unsigned len)
{
	struct balloon *b = balloon_of(dev);
	struct virtio_balloon_config config = { .num_pages = b->num_pages, .actual = b->actual };

	memcpy(buf, (const uint8_t *)&config + off, len);
}

static void balloon_config_write(struct virtio_dev *dev, unsigned off, const void *buf,
				 unsigned len)
{
	struct balloon *b = balloon_of(dev);

	if (off != offsetof(struct virtio_balloon_config, actual) || len != sizeof(b->actual))
		return;
	b->actual = get_le32(buf);
	log_debug("balloon: %u of %u MiB are in it", b->actual >> 8, b->num_pages >> 8);
}

int virtio_balloon_set_target(struct virtio_dev *dev, uint64_t target_bytes)
{
	struct balloon *b = balloon_of(dev);

	if (target_bytes > b->dev.env.mem->size)
		return -EINVAL;
	pthread_mutex_lock(&dev->lock);
	b->num_pages = (uint32_t)(ram_pages(b) - target_bytes / PAGE_SIZE);
	pthread_mutex_unlock(&dev->lock);
	loop_timer_arm(b->config_timer, 1);
	return 0;
}

static void config_fired(void *arg)
{
	virtio_config_changed(&((struct balloon *)arg)->dev);
}

static void forget_stats(struct balloon *b)
{
	pthread_mutex_lock(&b->info_lock);
	b->known = 0;
	pthread_mutex_unlock(&b->info_lock);
}

/* The target stays: it is the host's wish. */
static void balloon_reset(struct virtio_dev *dev)
{
	struct balloon *b = balloon_of(dev);

	b->actual = 0;
	forget_stats(b);
}

static void balloon_save(struct virtio_dev *dev, struct snap_writer *w)
{
	struct balloon *b = balloon_of(dev);

	snap_put_u32(w, b->num_pages);
	snap_put_u32(w, b->actual);
}

static int balloon_load(struct virtio_dev *dev, struct snap_reader *r, struct err *err)
{
	struct balloon *b = balloon_of(dev);
	uint32_t num_pages = snap_get_u32(r), actual = snap_get_u32(r);

	if (num_pages > ram_pages(b))
		return err_set(err, EBADMSG, "saved balloon of %u pages, RAM has %llu", num_pages,
			       (unsigned long long)ram_pages(b));
	b->num_pages = num_pages;
	b->actual = actual;
	return 0;
}

static void free_parts(struct balloon *b)
{
	loop_timer_del(b->config_timer);
	pthread_mutex_destroy(&b->info_lock);
	free(b);
}

static void balloon_free(struct virtio_dev *dev)
{
	virtio_dev_done(dev);
	free_parts(balloon_of(dev));
}

static const struct virtio_dev_ops balloon_ops = {
	.name = "virtio-balloon",
	.device_id = VIRTIO_ID_BALLOON,
	.class_code = PCI_CLASS_OTHER,
	.notify = balloon_notify,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.reset = balloon_reset,
	.save = balloon_save,
	.load = balloon_load,
	.free = balloon_free,
};

int virtio_balloon_new(const struct virtio_env *env, unsigned slot, uint64_t target_bytes,
		       struct virtio_dev **ret_dev, struct err *err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(err, ENOMEM, "virtio-balloon: out of memory");
	pthread_mutex_init(&b->info_lock, NULL);
	b->num_pages =
	    (uint32_t)((env->mem->size - min_u64(target_bytes, env->mem->size)) / PAGE_SIZE);
	ret = loop_timer_add(env->loop, config_fired, b, &b->config_timer);
	if (ret < 0)
		err_set(err, -ret, "virtio-balloon: timer: %s", strerror(-ret));
	else
		ret = virtio_dev_init(&b->dev, &balloon_ops, env, slot,
				      F(STATS_VQ) | F(DEFLATE_ON_OOM) | F(REPORTING), QUEUES,
				      offsetof(struct virtio_balloon_config, free_page_hint_cmd_id),
				      err);
	if (ret < 0) {
		free_parts(b);
		return ret;
	}
	*ret_dev = &b->dev;
	return 0;
}
