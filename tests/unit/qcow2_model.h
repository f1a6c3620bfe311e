/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random requests on a disk, several in flight, against a flat model of what it
 * must contain. Requests in flight have no sector in common, but clusters.
 * A discarded sector may show old data or zeros: the model asks the disk and
 * takes either.
 */
#ifndef EYOT_TESTS_QCOW2_MODEL_H
#define EYOT_TESTS_QCOW2_MODEL_H

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/util.h"
#include "disk/disk.h"
#include "disk/driver.h"

#define MODEL_FLIGHT 24

struct model_req {
	struct disk_req req;
	struct model *m;
	struct iovec iov[3];
	uint8_t *buf;
	uint64_t off, len;
	bool busy;
	uint64_t stamp;
};

struct model {
	struct disk *disk;
	uint8_t *image;
	uint64_t size, max_len;
	uint32_t seed;
	unsigned errors, ops;
	bool may_fail; /* host errors are expected: a failed write leaves either */
	bool no_discard;
	uint8_t *unsure;			/* per sector: a write failed there */
	void (*submitted)(struct model_req *r); /* may be NULL */
	void (*completed)(struct model_req *r, int ret);
	uint64_t stamp;
	struct model_req r[MODEL_FLIGHT];
};

static inline uint32_t model_rng(struct model *m)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 17;
	m->seed ^= m->seed << 5;
	return m->seed;
}

static inline void model_init(struct model *m, uint64_t size, uint64_t max_len, uint32_t seed)
{
	memset(m, 0, sizeof(*m));
	m->size = size;
	m->max_len = max_len;
	m->seed = seed * 2654435761u | 1;
	m->image = calloc(1, size);
	m->unsure = calloc(1, size / DISK_SECTOR);
	for (unsigned i = 0; i < MODEL_FLIGHT; i++) {
		m->r[i].m = m;
		m->r[i].buf = aligned_alloc(4096, align_up(max_len, 4096));
	}
}

static inline void model_done(struct model *m)
{
	for (unsigned i = 0; i < MODEL_FLIGHT; i++)
		free(m->r[i].buf);
	free(m->image);
	free(m->unsure);
}

static inline void model_fail(struct model *m, const char *what, uint64_t off, int ret)
{
	if (m->errors++ < 5)
		print_message("request %u: %s at %#llx: %d\n", m->ops, what,
			      (unsigned long long)off, ret);
}

static inline void model_check_read(struct model *m, const struct model_req *r)
{
	for (uint64_t s = 0; s < r->len; s += DISK_SECTOR) {
		if (m->unsure[(r->off + s) / DISK_SECTOR]) {
			memcpy(m->image + r->off + s, r->buf + s, DISK_SECTOR);
			m->unsure[(r->off + s) / DISK_SECTOR] = 0;
		} else if (memcmp(m->image + r->off + s, r->buf + s, DISK_SECTOR)) {
			model_fail(m, "wrong data", r->off + s, r->buf[s]);
			return;
		}
	}
}

static inline void model_req_done(struct disk_req *req, int ret)
{
	struct model_req *r = container_of(req, struct model_req, req);
	struct model *m = r->m;

	r->busy = false;
	if (ret < 0 && !m->may_fail)
		model_fail(m, "failed", r->off, ret);
	if (ret < 0 && req->op != DISK_READ && req->op != DISK_FLUSH)
		memset(m->unsure + r->off / DISK_SECTOR, 1, r->len / DISK_SECTOR);
	if (ret == 0 && req->op == DISK_READ)
		model_check_read(m, r);
	if (m->completed)
		m->completed(r, ret);
}

/* A part of the disk that no request in flight has a sector of; 0: none was found */
static inline uint64_t model_place(struct model *m, uint64_t *ret_off, uint64_t want)
{
	for (unsigned tries = 0; tries < 20; tries++) {
		uint64_t off = model_rng(m) % (m->size / DISK_SECTOR) * DISK_SECTOR;
		uint64_t len = min_u64(want, m->size - off);
		bool clash = false;

		for (unsigned i = 0; i < MODEL_FLIGHT; i++)
			clash |= m->r[i].busy && off < m->r[i].off + m->r[i].len &&
				 m->r[i].off < off + len;
		if (!clash) {
			*ret_off = off;
			return len;
		}
	}
	return 0;
}

static inline void model_submit(struct model *m, struct model_req *r, enum disk_op op)
{
	uint32_t x = model_rng(m);
	uint64_t want = x % 4 == 0   ? m->max_len
			: x % 4 == 1 ? 4096
				     : DISK_SECTOR * (1 + x / 4 % 64);
	uint64_t a, b;

	want = min_u64(1 + model_rng(m) % want, m->max_len);
	want = align_up(want, DISK_SECTOR);
	r->len = op == DISK_FLUSH ? 0 : model_place(m, &r->off, want);
	if (!r->len && op != DISK_FLUSH)
		return;
	if (op == DISK_FLUSH)
		r->off = 0;
	memset(&r->req, 0, sizeof(r->req));
	r->stamp = ++m->stamp;
	if (op == DISK_WRITE) {
		for (uint64_t i = 0; i < r->len; i += 8)
			put_le64(r->buf + i, r->stamp * 0x9e3779b97f4a7c15ull + i);
		memcpy(m->image + r->off, r->buf, r->len);
	}
	if (op == DISK_WRITE_ZEROES)
		memset(m->image + r->off, 0, r->len);
	if (op == DISK_DISCARD || op == DISK_WRITE || op == DISK_WRITE_ZEROES)
		memset(m->unsure + r->off / DISK_SECTOR, op == DISK_DISCARD, r->len / DISK_SECTOR);
	a = model_rng(m) % (r->len + 1);
	b = a + (r->len > a ? model_rng(m) % (r->len - a + 1) : 0);
	if (m->disk && m->seed % 2) {
		a = align_up(a, DISK_SECTOR);
		b = max_u64(a, align_up(b, DISK_SECTOR));
	}
	r->iov[0] = (struct iovec) { r->buf, a };
	r->iov[1] = (struct iovec) { r->buf + a, b - a };
	r->iov[2] = (struct iovec) { r->buf + b, r->len - b };
	r->req = (struct disk_req) {
		.op = op,
		.flags = op == DISK_WRITE_ZEROES && x % 3 ? DISK_REQ_UNMAP : 0,
		.off = r->off,
		.len = r->len,
		.iov = r->iov,
		.iov_count = 3,
		.done = model_req_done,
	};
	r->busy = true;
	m->ops++;
	if (m->submitted)
		m->submitted(r);
	disk_queue(m->disk, &r->req);
	if (model_rng(m) % 4 == 0)
		disk_kick(m->disk);
}

static inline void model_run(struct model *m, unsigned count, struct aio *aio)
{
	for (unsigned i = 0; i < count && !m->errors; i++) {
		struct model_req *r = &m->r[model_rng(m) % MODEL_FLIGHT];
		unsigned kind = model_rng(m) % 100;

		if (r->busy) {
			aio_wait(aio);
			continue;
		}
		if (kind < 45)
			model_submit(m, r, DISK_WRITE);
		else if (kind < 75)
			model_submit(m, r, DISK_READ);
		else if (kind < 84)
			model_submit(m, r, DISK_WRITE_ZEROES);
		else if (kind < 93)
			model_submit(m, r, m->no_discard ? DISK_READ : DISK_DISCARD);
		else
			model_submit(m, r, DISK_FLUSH);
	}
	disk_kick(m->disk);
	disk_drain(m->disk);
}

/* Everything, once; settles what is unsure. */
static inline void model_check_all(struct model *m)
{
	struct model_req *r = &m->r[0];

	for (uint64_t off = 0; off < m->size; off += m->max_len) {
		memset(&r->req, 0, sizeof(r->req));
		r->off = off;
		r->len = min_u64(m->max_len, m->size - off);
		r->iov[0] = (struct iovec) { r->buf, r->len };
		r->req = (struct disk_req) { .op = DISK_READ,
					     .off = off,
					     .len = r->len,
					     .iov = r->iov,
					     .iov_count = 1,
					     .done = model_req_done };
		r->busy = true;
		disk_queue(m->disk, &r->req);
		disk_kick(m->disk);
		disk_drain(m->disk);
	}
}

/* A raw file has what the model has. */
static inline bool model_same_file(const struct model *m, const char *path)
{
	uint8_t *buf = malloc(m->size);
	int fd = open(path, O_RDONLY);
	bool same = fd >= 0 && pread(fd, buf, m->size, 0) == (ssize_t)m->size;

	for (uint64_t i = 0; same && i < m->size; i += DISK_SECTOR) {
		if (memcmp(buf + i, m->image + i, DISK_SECTOR)) {
			print_message("the file differs at %#llx\n", (unsigned long long)i);
			same = false;
		}
	}
	if (fd >= 0)
		close(fd);
	free(buf);
	return same;
}

static inline int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int shell(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	status = system(cmd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* Work in a new folder made from the template @folder; needs the outside judge. */
static inline int enter_folder(char *folder, struct loop **ret_loop)
{
	struct err err;

	if (shell("command -v qemu-img qemu-io >/dev/null") != 0) {
		print_message("no qemu-img here: not tested\n");
		exit(77);
	}
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chdir(folder), 0);
	return loop_new(ret_loop, &err);
}

static inline int leave_folder(const char *folder, struct loop *loop)
{
	loop_free(loop);
	return chdir("..") || shell("rm -rf %s", folder);
}

#endif
