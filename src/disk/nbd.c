/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Remote disks: an export of an NBD server
 *
 *   guest -- this driver ==socket, shared memory== eyot-nbd == TCP, TLS == server
 *
 * The NBD client is a process of its own (src/nbd). A machine inside its
 * sandbox can make no connection, and whoever takes over the client by what a server
 * sends finds neither guest memory nor other disks there. It costs one copy
 * of the data and one change of processes a batch.
 *
 * Data goes through slots of memory shared with the client. A request is cut into parts of
 * a slot each, which run side by side; what finds no free slot waits in order.
 * Messages are collected until disk_kick() and sent with one system call: with
 * NBD_SLOTS of them at most they always fit into the socket's buffer.
 *
 * Invariants
 * 1. A slot is free, or its part is with the client and slots[].req its request.
 * 2. op.stage of a request counts its parts that are with the client, op.left
 *    is what has no part yet; it is in the list exactly while op.left > 0 or it is a flush
 *    without part.
 * 3. Nothing that comes from the client is used before it is held against these.
 *    When it breaks them, or ends, every request fails with EIO, now and later.
 *
 * Locks: nbd.lock guards all but what is constant; completions run without it.
 */
#include "disk/nbd_priv.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"

#define END_TRIES 100
#define END_WAIT_NS 10000000

static uint8_t *slot_data(struct nbd *n, uint32_t slot)
{
	return n->memory + (size_t)slot * NBD_SLOT_BYTES;
}

/* ---- requests to the client; under the lock ---- */

static void fill(struct nbd *n, struct disk_req *req, uint32_t slot, struct nbd_request *m)
{
	struct file_op *op = &req->fop;
	bool bulk = (req->op == DISK_DISCARD && n->server.can_trim) ||
		    (req->op == DISK_WRITE_ZEROES && n->server.can_zero);
	struct nbd_slot *s = &n->slots[slot];

	*m = (struct nbd_request) { .slot = slot, .off = op->off };
	m->len = (uint32_t)min_u64(op->left, bulk ? NBD_ZERO_MAX : n->chunk);
	switch (req->op) {
	case DISK_READ:
		m->op = NBD_READ;
		break;
	case DISK_WRITE:
		m->op = NBD_WRITE;
		req_copy(req, slot_data(n, slot), m->len);
		break;
	case DISK_FLUSH:
		m->op = NBD_FLUSH;
		break;
	case DISK_DISCARD:
		m->op = NBD_TRIM;
		break;
	case DISK_WRITE_ZEROES:
		m->op = bulk ? NBD_ZERO : NBD_WRITE;
		m->flags = bulk && !(req->flags & DISK_REQ_UNMAP) ? NBD_NO_HOLE : 0;
		if (!bulk)
			memset(slot_data(n, slot), 0, m->len);
		break;
	}
	if (n->fua && (m->op == NBD_WRITE || m->op == NBD_ZERO || m->op == NBD_TRIM))
		m->flags |= NBD_FUA;
	*s = (struct nbd_slot) { .req = req, .pos = op->pos, .len = m->len };
	op->off += m->len;
	op->pos += m->len;
	op->left -= m->len;
	op->stage++;
}

static void feed(struct nbd *n)
{
	while (n->waiting.head && n->free_count) {
		struct disk_req *req = n->waiting.head;

		fill(n, req, n->free[--n->free_count], &n->out[n->out_count++]);
		if (!req->fop.left)
			req_list_pop(&n->waiting);
	}
}

/* The client is gone or not to be trusted: all that is with it ends with the next event. */
static void give_up(struct nbd *n, const char *why)
{
	if (n->dead)
		return;
	log_error("disk '%s': its client process %s: requests fail", n->name, why);
	n->dead = true;
	n->out_count = 0;
	/* sandbox: loop vcpu: shutdown */
	shutdown(n->fd, SHUT_RDWR);
}

void nbd_kick(void *arg)
{
	struct nbd *n = arg;
	size_t len;

	pthread_mutex_lock(&n->lock);
	len = n->out_count * sizeof(n->out[0]);
	/* sandbox: loop vcpu: sendto */
	if (len && send(n->fd, n->out, len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len)
		give_up(n, "takes no requests");
	n->out_count = 0;
	pthread_mutex_unlock(&n->lock);
}

void nbd_hurry(void *arg)
{
	struct nbd_request m = { .op = NBD_HURRY };
	struct nbd *n = arg;

	nbd_kick(n);
	pthread_mutex_lock(&n->lock);
	if (!n->dead && send(n->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(m))
		give_up(n, "takes no requests");
	pthread_mutex_unlock(&n->lock);
}

static void nop_done(struct aio_op *aio, int res)
{
	struct disk_req *req = container_of(aio, struct disk_req, aio);

	req->fop.done(req, req->fop.error);
}

/* End a request that no client is asked for, on the loop thread. */
static void end_soon(struct nbd *n, struct disk_req *req, int error)
{
	req->fop.error = error;
	req->aio.code = AIO_NOP;
	req->aio.done = nop_done;
	aio_queue(n->disk->aio, &req->aio);
}

void nbd_begin(struct nbd *n, struct disk_req *req, uint64_t off, uint64_t len,
	       void (*done)(struct disk_req *req, int ret))
{
	bool nothing = (!len && req->op != DISK_FLUSH) ||
		       (req->op == DISK_DISCARD && !n->server.can_trim) ||
		       (req->op == DISK_FLUSH && (n->unsafe || !n->server.can_flush));

	req->fop = (struct file_op) { .off = off, .left = len, .done = done };
	req->cut = NULL;
	pthread_mutex_lock(&n->lock);
	if (nothing || n->dead) {
		end_soon(n, req, n->dead ? -EIO : 0);
	} else {
		req_list_push(&n->waiting, req);
		feed(n);
	}
	pthread_mutex_unlock(&n->lock);
}

/* ---- answers ---- */

static void told(struct nbd *n, const struct nbd_answer *a)
{
	const char *why = a->ret < 0 && a->ret > -4096 ? strerror(-a->ret) : "";

	switch (a->slot) {
	case NBD_EVENT_LOST:
		log_warn("disk '%s': connection lost: %s", n->name, why);
		break;
	case NBD_EVENT_BACK:
		log_info("disk '%s': connected again", n->name);
		break;
	case NBD_EVENT_GAVE_UP:
		log_error("disk '%s': not connected again in time: requests fail until it is",
			  n->name);
		break;
	case NBD_EVENT_CHANGED:
		log_error("disk '%s': the export is another one since the connection was lost: "
			  "requests fail",
			  n->name);
		break;
	}
}

/* Bytes of a part into the request's list, which stays as it is. */
static void scatter(const struct disk_req *req, uint64_t pos, const uint8_t *from, size_t len)
{
	for (const struct iovec *v = req->iov; len; v++) {
		size_t n;

		if (pos >= v->iov_len) {
			pos -= v->iov_len;
			continue;
		}
		n = min_u64(v->iov_len - pos, len);
		memcpy((uint8_t *)v->iov_base + pos, from, n);
		from += n;
		len -= n;
		pos = 0;
	}
}

/* A part is over; under the lock. Requests that end go to @ended. */
static void part_done(struct nbd *n, uint32_t slot, int ret, struct req_list *ended)
{
	struct nbd_slot *s = &n->slots[slot];
	struct disk_req *req = s->req;
	struct file_op *op = &req->fop;

	if (ret == 0 && req->op == DISK_READ)
		scatter(req, s->pos, slot_data(n, slot), s->len);
	s->req = NULL;
	n->free[n->free_count++] = slot;
	op->stage--;
	if (ret < 0) {
		op->error = ret;
		/* One with parts to come is the first that waits: none overtakes it. */
		if (op->left)
			req_list_pop(&n->waiting);
		op->left = 0;
	}
	if (!op->left && !op->stage)
		req_list_push(ended, req);
}

static bool is_good(const struct nbd *n, const struct nbd_answer *a)
{
	return a->slot < NBD_SLOTS && n->slots[a->slot].req && a->ret <= 0 && a->ret > -4096;
}

static void fail_all(struct nbd *n, struct req_list *ended)
{
	struct disk_req *req;

	for (uint32_t i = 0; i < NBD_SLOTS; i++)
		if (n->slots[i].req)
			part_done(n, i, -EIO, ended);
	while ((req = req_list_pop(&n->waiting))) {
		req->fop.error = -EIO;
		req_list_push(ended, req);
	}
}

static void end_all(struct req_list *ended)
{
	struct disk_req *req;

	while ((req = req_list_pop(ended))) {
		if (req->op == DISK_READ && !req->fop.error)
			req_skip(req, req->fop.pos);
		req->fop.done(req, req->fop.error);
	}
}

/* What the socket has; false: nothing. */
static bool take_answers(struct nbd *n)
{
	struct req_list ended;
	struct nbd_answer a;
	size_t at = 0;
	/* sandbox: loop: recvfrom */
	ssize_t len = recv(n->fd, n->in + n->in_len, sizeof(n->in) - n->in_len, MSG_DONTWAIT);

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	req_list_init(&ended);
	pthread_mutex_lock(&n->lock);
	n->in_len += len > 0 ? (size_t)len : 0;
	if (len <= 0)
		give_up(n, "ended");
	for (; !n->dead && n->in_len - at >= sizeof(a); at += sizeof(a)) {
		memcpy(&a, n->in + at, sizeof(a));
		if (a.slot & NBD_EVENT)
			told(n, &a);
		else if (is_good(n, &a))
			part_done(n, a.slot, a.ret, &ended);
		else
			give_up(n, "makes no sense");
	}
	n->in_len -= at;
	memmove(n->in, n->in + at, n->in_len);
	if (n->dead)
		fail_all(n, &ended);
	feed(n);
	pthread_mutex_unlock(&n->lock);
	end_all(&ended);
	return len > 0;
}

void nbd_ready(void *arg)
{
	struct nbd *n = arg;

	/* One message a slot and round at most: the loop is not held for ever. */
	for (unsigned i = 0; i < NBD_SLOTS / NBD_ANSWERS && take_answers(n); i++)
		;
	if (n->dead && n->source) {
		loop_fd_del(n->source);
		n->source = NULL;
	}
	aio_kick(n->disk->aio);
}

/* ---- the driver ---- */

static void nbd_start(struct disk *disk, struct disk_req *req)
{
	nbd_begin(disk->priv, req, req->off, req->len, disk_complete);
}

static int nbd_read_now(void *priv, const struct disk_req *req)
{
	return -EAGAIN;
}

static void nbd_read(void *priv, struct disk_req *req, uint64_t off, uint64_t len,
		     void (*done)(struct disk_req *req, int ret))
{
	nbd_begin(priv, req, off, len, done);
}

static int nbd_next_data(struct disk *disk, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	*ret_start = off;
	*ret_end = disk->size;
	return off < disk->size ? 0 : -ENXIO;
}

void nbd_free(struct nbd *n)
{
	if (n->source)
		loop_fd_del(n->source);
	aio_set_extra(n->disk->aio, NULL);
	if (n->fd >= 0)
		close(n->fd);
	if (n->memory)
		munmap(n->memory, (size_t)NBD_SLOTS * NBD_SLOT_BYTES);
	/* It ends when the socket does; one that has lost its mind shall not hold us. */
	for (unsigned i = 0; n->pid > 0 && i < END_TRIES; i++) {
		/* sandbox: loop: wait4 */
		if (waitpid(n->pid, NULL, WNOHANG) != 0)
			break;
		/* sandbox: loop: clock_nanosleep */
		nanosleep(&(struct timespec) { .tv_nsec = END_WAIT_NS }, NULL);
	}
	pthread_mutex_destroy(&n->lock);
	free(n->name);
	free(n);
}

static int nbd_close(struct disk *disk, struct err *err)
{
	nbd_free(disk->priv);
	return 0;
}

const struct disk_driver nbd_driver = {
	.start = nbd_start,
	.read_now = nbd_read_now,
	.read = nbd_read,
	.next_data = nbd_next_data,
	.close = nbd_close,
};
