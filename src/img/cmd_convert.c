/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-img convert [-f FORMAT] [-O FORMAT] [-c] [--snapshot NAME] FROM TO
 *
 * The source is read ahead a chunk at a time, several at once; threads compress chunks
 * when that is asked for; this thread stores them in order. What is zeros is
 * not stored: neither what the source says is a hole, nor what is found to be.
 *
 * Formats of others (VMDK, VHDX, VDI, VHD) are left to qemu-img when it is there. They
 * are never guessed: -f has to name them.
 */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/util.h"
#include "img/img.h"

#define CHUNKS 16
#define THREADS_MAX 8
#define RAW_UNIT 4096 /* zeros are left out of raw files in such units */

enum chunk_state { CHUNK_FREE, CHUNK_READING, CHUNK_PACKING, CHUNK_READY };

struct chunk {
	struct disk_req req;
	struct iovec iov;
	struct convert *c;
	enum chunk_state state;
	uint64_t off, len;
	uint8_t *buf, *packed;
	size_t *packed_len; /* of each cluster; 0: not shorter */
	int ret;
	struct chunk *next; /* that waits for a thread */
};

struct convert {
	/* arguments */
	const char *from, *to, *internal, *foreign;
	enum disk_format from_format;
	struct img_new n;
	bool compress;
	/* work */
	struct disk *src;
	struct file dst;
	struct qcow2_writer *writer; /* NULL: raw */
	uint64_t size, next, unit, chunk_len, cluster;
	struct chunk chunks[CHUNKS];
	pthread_t threads[THREADS_MAX];
	unsigned thread_count;
	pthread_mutex_t lock; /* guards what follows, and the states of chunks that are packed */
	pthread_cond_t work, packed;
	struct chunk *head, **tail;
	bool stop;
};

/* ---- compression ---- */

static void pack(struct convert *c, struct chunk *k)
{
	for (uint64_t at = 0; at < k->len; at += c->cluster) {
		bool whole = k->len - at >= c->cluster;

		k->packed_len[at / c->cluster] =
		    whole && !img_is_zero(k->buf + at, c->cluster)
			? qcow2_compress(c->n.q.compression, k->buf + at, c->cluster,
					 k->packed + at)
			: 0;
	}
}

static void *pack_thread(void *arg)
{
	struct convert *c = arg;

	pthread_mutex_lock(&c->lock);
	for (;;) {
		struct chunk *k;

		while (!c->head && !c->stop)
			pthread_cond_wait(&c->work, &c->lock);
		k = c->head;
		if (!k)
			break;
		c->head = k->next;
		if (!c->head)
			c->tail = &c->head;
		pthread_mutex_unlock(&c->lock);
		pack(c, k);
		pthread_mutex_lock(&c->lock);
		k->state = CHUNK_READY;
		pthread_cond_signal(&c->packed);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static void threads_start(struct convert *c)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (long i = 0; c->compress && i < cpus && i < THREADS_MAX; i++)
		if (pthread_create(&c->threads[c->thread_count], NULL, pack_thread, c) == 0)
			c->thread_count++;
}

static void threads_stop(struct convert *c)
{
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->thread_count; i++)
		pthread_join(c->threads[i], NULL);
}

/* ---- reading ---- */

static void chunk_read(struct disk_req *req, int ret)
{
	struct chunk *k = container_of(req, struct chunk, req);
	struct convert *c = k->c;

	k->ret = ret;
	/* The last cluster of a disk may be a part of one. */
	memset(k->buf + k->len, 0, align_up(k->len, c->cluster) - k->len);
	k->len = align_up(k->len, c->cluster);
	pthread_mutex_lock(&c->lock);
	if (ret == 0 && c->thread_count) {
		k->state = CHUNK_PACKING;
		k->next = NULL;
		*c->tail = k;
		c->tail = &k->next;
		pthread_cond_signal(&c->work);
	} else {
		k->state = CHUNK_READY;
	}
	pthread_mutex_unlock(&c->lock);
}

/* Start reading the next chunk with data; 0: there is none */
static int read_ahead(struct convert *c, struct chunk *k)
{
	uint64_t start = c->next, end = c->size;
	int ret = disk_next_data(c->src, c->next, &start, &end);

	if (ret == -ENXIO) {
		c->next = c->size;
		return 0;
	}
	if (ret == 0)
		c->next = max_u64(c->next, align_down(start, c->cluster));
	k->c = c;
	k->off = c->next;
	k->len = min_u64(c->chunk_len, c->size - k->off);
	k->state = CHUNK_READING;
	k->iov = (struct iovec) { k->buf, k->len };
	k->req = (struct disk_req) { .op = DISK_READ,
				     .off = k->off,
				     .len = k->len,
				     .iov = &k->iov,
				     .iov_count = 1,
				     .done = chunk_read };
	c->next += k->len;
	disk_queue(c->src, &k->req);
	disk_kick(c->src);
	return 1;
}

static void chunk_wait(struct convert *c, struct chunk *k)
{
	pthread_mutex_lock(&c->lock);
	while (k->state == CHUNK_READING) {
		pthread_mutex_unlock(&c->lock);
		aio_wait(c->src->aio);
		pthread_mutex_lock(&c->lock);
	}
	if (k->state == CHUNK_PACKING && !c->thread_count)
		pack(c, k);
	while (k->state == CHUNK_PACKING && c->thread_count)
		pthread_cond_wait(&c->packed, &c->lock);
	pthread_mutex_unlock(&c->lock);
}

/* ---- storing ---- */

static int store_raw(struct convert *c, struct chunk *k)
{
	uint64_t len = min_u64(k->len, c->size - k->off), at = 0;

	while (at < len) {
		uint64_t end = at;

		while (end < len && !img_is_zero(k->buf + end, min_u64(RAW_UNIT, len - end)))
			end += min_u64(RAW_UNIT, len - end);
		if (end > at) {
			int ret = file_rw_now(&c->dst, true, k->buf + at, end - at, k->off + at);

			if (ret < 0)
				return ret;
			at = end;
		} else {
			at += min_u64(RAW_UNIT, len - at);
		}
	}
	return 0;
}

static int store_qcow2(struct convert *c, struct chunk *k)
{
	int ret = 0;

	for (uint64_t at = 0; at < k->len && ret == 0; at += c->cluster) {
		size_t packed = c->compress ? k->packed_len[at / c->cluster] : 0;

		if (packed || !img_is_zero(k->buf + at, c->cluster))
			ret = qcow2_writer_put(c->writer, k->off + at, k->buf + at,
					       packed ? k->packed + at : NULL, packed);
	}
	return ret;
}

static int copy(struct convert *c, struct err *err)
{
	unsigned first = 0, count = 0;

	for (;;) {
		struct chunk *k = &c->chunks[first];
		int ret;

		while (count < CHUNKS && c->next < c->size &&
		       read_ahead(c, &c->chunks[(first + count) % CHUNKS]))
			count++;
		if (!count)
			break;
		chunk_wait(c, k);
		if (k->ret < 0)
			return err_set(err, -k->ret, "disk '%s': reading at %llu: %s", c->from,
				       (unsigned long long)k->off, strerror(-k->ret));
		ret = c->writer ? store_qcow2(c, k) : store_raw(c, k);
		if (ret < 0)
			return err_set(err, -ret, "file '%s': %s", c->to, strerror(-ret));
		img_progress("convert", min_u64(k->off + k->len, c->size - 1), c->size);
		k->state = CHUNK_FREE;
		first = (first + 1) % CHUNKS;
		count--;
	}
	return 0;
}

static int finish(struct convert *c, struct err *err)
{
	int ret = 0;

	if (c->writer)
		ret = qcow2_writer_finish(c->writer);
	else if (ftruncate(c->dst.fd, (off_t)c->size) < 0)
		ret = errno == EINVAL ? 0 : -errno;
	if (ret == 0)
		ret = file_sync_now(&c->dst);
	if (ret < 0)
		return err_set(err, -ret, "file '%s': %s", c->to, strerror(-ret));
	img_progress("convert", c->size, c->size);
	return 0;
}

/* ---- all of it ---- */

static int make_chunks(struct convert *c, struct err *err)
{
	c->cluster = c->writer ? 1ull << c->n.q.cluster_bits : RAW_UNIT;
	c->chunk_len = max_u64(MIB(1), c->cluster);
	for (unsigned i = 0; i < CHUNKS; i++) {
		struct chunk *k = &c->chunks[i];

		k->buf = aligned_alloc(PAGE_SIZE, c->chunk_len);
		k->packed = c->compress ? malloc(c->chunk_len) : NULL;
		k->packed_len = calloc(c->chunk_len / c->cluster, sizeof(size_t));
		if (!k->buf || !k->packed_len || (c->compress && !k->packed))
			return err_set(err, ENOMEM, "out of memory");
	}
	return 0;
}

static int convert(struct convert *c, struct loop *loop, struct err *err)
{
	struct disk_options opt = { .readonly = true,
				    .format = c->from_format,
				    .internal = c->internal };
	char what[300];
	bool made = false;
	int ret = disk_open(loop, c->from, &opt, &c->src, err);

	if (ret < 0)
		return ret;
	c->size = c->n.q.size = disk_size(c->src);
	ret = img_new_file(c->to, c->n.force, &c->dst, &made, err);
	if (ret < 0)
		return ret;
	if (c->dst.eof && !made && c->n.format != DISK_FORMAT_QCOW2 &&
	    lseek(c->dst.fd, 0, SEEK_END))
		ret = err_set(err, ENOTSUP,
			      "file '%s': a block device: raw data is not written there, its old "
			      "content would show where the image has zeros",
			      c->to);
	snprintf(what, sizeof(what), "file '%.280s'", c->to);
	if (ret == 0 && c->n.format == DISK_FORMAT_QCOW2)
		ret = qcow2_writer_new(&c->dst, what, &c->n.q, &c->writer, err);
	if (ret == 0)
		ret = make_chunks(c, err);
	if (ret == 0) {
		threads_start(c);
		ret = copy(c, err);
		threads_stop(c);
	}
	if (ret == 0)
		ret = finish(c, err);
	if (ret < 0 && made)
		unlink(c->to);
	return ret;
}

/* Another program does it: its messages go where ours go. */
static int convert_foreign(const struct convert *c, struct err *err)
{
	const char *zstd = c->n.q.compression == QCOW2_ZSTD ? "compression_type=zstd" : NULL;
	const char *argv[16] = { "qemu-img", "convert", "-f",
				 c->foreign, "-O",	img_format_name(c->n.format) };
	unsigned n = 6;
	int status;
	pid_t pid;

	if (c->compress)
		argv[n++] = "-c";
	if (zstd) {
		argv[n++] = "-o";
		argv[n++] = zstd;
	}
	if (isatty(STDERR_FILENO))
		argv[n++] = "-p";
	argv[n++] = "--";
	argv[n++] = c->from;
	argv[n++] = c->to;
	if (access(c->to, F_OK) == 0 && !c->n.force)
		return err_set(err, EEXIST, "file '%s': exists; --force overwrites it", c->to);
	pid = fork();
	if (pid == 0) {
		execvp("qemu-img", (char *const *)argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return err_set(err, errno, "qemu-img: %s", strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(
		    err, ENOENT,
		    "disk '%s': format %s needs qemu-img, which is not installed (package "
		    "qemu-utils)",
		    c->from, c->foreign);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(err, EIO, "disk '%s': qemu-img could not convert it", c->from);
	return 0;
}

static int take(void *arg, int letter, const char *value, struct err *err)
{
	static const char *const foreign[] = { "vmdk", "vhdx", "vdi", "vpc" };
	struct convert *c = arg;

	switch (letter) {
	case 'f':
		for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++)
			if (!strcmp(value, foreign[i]))
				c->foreign = foreign[i];
		if (c->foreign)
			return 0;
		if (strcmp(value, "raw") && strcmp(value, "qcow2"))
			return img_usage(
			    err, "format '%s': not one of raw, qcow2, vmdk, vhdx, vdi, vpc", value);
		return img_format(value, &c->from_format, err);
	case 'O':
		return img_format(value, &c->n.format, err);
	case 'c':
		c->compress = true;
		return 0;
	case 's':
		c->internal = value;
		return 0;
	default:
		if (letter == 'Z')
			c->compress = true;
		return img_new_option(&c->n, letter, value, err);
	}
}

int cmd_convert(int argc, char **argv, struct err *err)
{
	static const struct option options[] = { { "format", required_argument, NULL, 'f' },
						 { "output", required_argument, NULL, 'O' },
						 { "compress", no_argument, NULL, 'c' },
						 { "snapshot", required_argument, NULL, 's' },
						 IMG_NEW_OPTIONS,
						 { 0 } };
	struct convert c = { .n = IMG_NEW_DEFAULTS, .dst = { .fd = -1 } };
	struct loop *loop = NULL;
	int at, ret = img_options(argc, argv, "f:O:c", options, take, &c, &at, err);

	if (ret < 0)
		return ret;
	if (argc - at != 2)
		return img_usage(err, "convert: wants a file to read and a file to write");
	c.from = argv[at];
	c.to = argv[at + 1];
	if (c.n.format == DISK_FORMAT_AUTO)
		c.n.format = img_by_name(c.to);
	if (c.compress && c.n.format != DISK_FORMAT_QCOW2)
		return img_usage(err, "convert: a raw image cannot be compressed");
	if (c.foreign)
		return convert_foreign(&c, err);
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.work, NULL);
	pthread_cond_init(&c.packed, NULL);
	c.tail = &c.head;
	ret = loop_new(&loop, err);
	if (ret == 0)
		ret = convert(&c, loop, err);
	disk_close(c.src);
	qcow2_writer_free(c.writer);
	if (c.dst.fd >= 0)
		close(c.dst.fd);
	for (unsigned i = 0; i < CHUNKS; i++) {
		free(c.chunks[i].buf);
		free(c.chunks[i].packed);
		free(c.chunks[i].packed_len);
	}
	loop_free(loop);
	return ret;
}
