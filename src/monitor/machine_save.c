/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine in a file, and back.
 *
 *   header (a page) | state (base/snap.h) | zeros up to 2 MiB | RAM, as large as it is
 *
 * RAM that is zero is a hole in the file. The header is written when all else is on
 * stable storage, so a file that was not finished has none.
 *
 * Saving. vCPUs are parked and devices frozen; the state is taken at once, RAM is
 * written by threads of a block engine of its own while the loop goes on, and only then may the
 * machine run on. What the loop does meanwhile (console input, changes by the control socket)
 * touches neither RAM nor the state that was taken. A reset would, so it is refused.
 *
 * Loading happens at start, before the loop thread has its list of system calls: shares open
 * their files again. The machine must be built alike: its list of devices stands before
 * their states, so that what is different can be told by name.
 *
 * A file is hostile: every number is held against the file's size and this
 * machine before it is used, the state against its checksum, and then by its readers.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <zlib.h>

#include "base/util.h"
#include "disk/aio.h"
#include "monitor/machine_priv.h"

#define MAGIC "EYOTSAVE"
#define FILE_VERSION 1
#define HEADER_BYTES PAGE_SIZE
#define STATE_MAX MIB(512)
#define RAM_ALIGN MIB(2)
#define SECTION "machine"
#define SECTION_VERSION 1
#define NAME_MAX_LEN 64
#define CHUNK MIB(1)
#define LANES 4
#define LOOK_MAX MIB(128) /* bytes of RAM that one turn of the loop may look at */
#define PROGRESS_STEP 5	  /* per cent */

struct lane {
	struct saver *s;
	struct aio_op op;
	struct iovec iov;
	bool busy;
};

enum phase { PHASE_RAM, PHASE_STATE, PHASE_SYNC, PHASE_HEADER, PHASE_SYNC_HEADER, PHASE_DONE };

struct saver {
	struct machine *m;
	struct machine_save_ops ops;
	struct aio *aio;
	int fd;
	enum phase phase;
	struct snap_writer state;
	uint64_t ram_off, at; /* of RAM in the file; what of RAM was looked at */
	uint64_t written;     /* bytes of RAM that were not zero */
	unsigned told;	      /* per cent */
	int error;
	struct loop_timer *later; /* the engine is not freed from within its completions */
	struct lane lanes[LANES];
	uint8_t header[HEADER_BYTES];
};

static uint8_t *ram(const struct machine *m)
{
	return m->vm->mem.slots[0].hva; /* the slots follow each other */
}

/* ---- the list of devices ---- */

static struct virtio_dev *device_in(const struct machine *m, unsigned slot)
{
	if (slot == SLOT_RNG)
		return m->rng;
	if (slot == SLOT_CONSOLE)
		return m->vcon;
	if (slot == SLOT_VSOCK)
		return m->vsock;
	if (slot == SLOT_BALLOON)
		return m->balloon;
	if (slot >= SLOT_SHARES)
		return slot < SLOT_SHARES + CONFIG_SHARES_MAX ? m->shares[slot - SLOT_SHARES]
							      : NULL;
	if (slot >= SLOT_NETS)
		return m->nets[slot - SLOT_NETS];
	return slot >= SLOT_DISKS ? m->blks[slot - SLOT_DISKS] : NULL;
}

static uint64_t size_of(const struct machine *m, unsigned slot)
{
	return slot >= SLOT_DISKS && slot < SLOT_NETS ? disk_size(m->disks[slot - SLOT_DISKS]) : 0;
}

/* For people: "disk 2", "card 0" */
static const char *place_name(unsigned slot, char *buf, size_t size)
{
	if (slot >= SLOT_DISKS && slot < SLOT_NETS)
		snprintf(buf, size, "disk %u", slot - SLOT_DISKS);
	else if (slot >= SLOT_NETS && slot < SLOT_VSOCK)
		snprintf(buf, size, "network card %u", slot - SLOT_NETS);
	else if (slot >= SLOT_SHARES)
		snprintf(buf, size, "share %u", slot - SLOT_SHARES);
	else
		snprintf(buf, size, "%s",
			 slot == SLOT_VSOCK	? "socket device"
			 : slot == SLOT_BALLOON ? "balloon"
			 : slot == SLOT_CONSOLE ? "virtio console"
						: "entropy source");
	return buf;
}

static void save_devices(const struct machine *m, struct snap_writer *w)
{
	snap_begin(w, SECTION, SECTION_VERSION);
	for (unsigned slot = 1; slot < PCI_SLOT_COUNT; slot++) {
		const struct virtio_dev *dev = device_in(m, slot);
		const char *name = dev ? dev->ops->name : "";

		snap_put_u8(w, (uint8_t)strlen(name));
		snap_put_bytes(w, name, strlen(name));
		if (dev)
			snap_put_u64(w, size_of(m, slot));
	}
	snap_close(w);
}

/* One slot of the saved machine against this one. */
static int check_device(const struct machine *m, unsigned slot, struct snap_reader *r,
			struct err *err)
{
	const struct virtio_dev *dev = device_in(m, slot);
	char name[NAME_MAX_LEN + 1] = "", place[32];
	unsigned len = snap_get_u8(r);
	uint64_t size;

	place_name(slot, place, sizeof(place));
	if (len > NAME_MAX_LEN)
		return err_set(err, EBADMSG, "saved state: slot %u: a name of %u bytes", slot, len);
	snap_get_bytes(r, name, len);
	size = len ? snap_get_u64(r) : 0;
	if (r->bad)
		return err_set(err, EBADMSG, "saved state: the list of devices is cut short");
	if (!len && !dev)
		return 0;
	if (!len || !dev)
		return err_set(err, EINVAL, "saved state: of a machine %s %s; this one has %s",
			       len ? "with" : "without", place, len ? "none" : "it");
	if (strcmp(name, dev->ops->name))
		return err_set(err, EINVAL, "saved state: %s is another kind of device", place);
	if (size != size_of(m, slot))
		return err_set(err, EINVAL,
			       "saved state: %s ('%s') had %llu bytes, it has %llu now", place,
			       m->disk_cfg[slot - SLOT_DISKS]->path, (unsigned long long)size,
			       (unsigned long long)size_of(m, slot));
	return 0;
}

static int check_devices(const struct machine *m, struct snap_reader *r, struct err *err)
{
	uint32_t version;
	int ret = snap_open(r, SECTION, SECTION_VERSION, &version, err);

	for (unsigned slot = 1; slot < PCI_SLOT_COUNT && ret == 0; slot++)
		ret = check_device(m, slot, r, err);
	return ret < 0 ? ret : snap_end(r, err);
}

/* ---- saving ---- */

static void go_on(struct saver *s);

static void fill_header(struct saver *s)
{
	uint8_t *h = s->header;

	memcpy(h, MAGIC, 8);
	put_le32(h + 8, FILE_VERSION);
	put_le32(h + 12, (uint32_t)crc32_z(0, s->state.data, s->state.len));
	put_le64(h + 16, s->state.len);
	put_le64(h + 24, s->ram_off);
	put_le64(h + 32, s->m->vm->mem.size);
}

static void free_saver(struct saver *s)
{
	s->m->saver = NULL;
	if (s->later)
		loop_timer_del(s->later);
	aio_free(s->aio);
	close(s->fd);
	snap_writer_done(&s->state);
	free(s);
}

static unsigned busy_lanes(const struct saver *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < LANES; i++)
		n += s->lanes[i].busy;
	return n;
}

static void lane_done(struct aio_op *op, int res)
{
	struct lane *l = container_of(op, struct lane, op);
	struct saver *s = l->s;

	if (op->code == AIO_WRITEV && res > 0 && (size_t)res < l->iov.iov_len) {
		l->iov.iov_base = (uint8_t *)l->iov.iov_base + res;
		l->iov.iov_len -= (size_t)res;
		op->off += (uint64_t)res;
		aio_queue(s->aio, op);
		return;
	}
	if (res == -EINTR || res == -EAGAIN) {
		aio_queue(s->aio, op);
		return;
	}
	l->busy = false;
	if (res < 0 || (op->code == AIO_WRITEV && !res))
		s->error = res < 0 ? res : -ENOSPC;
	go_on(s);
}

static void lane_start(struct lane *l, enum aio_code code, const void *data, uint64_t len,
		       uint64_t off)
{
	l->busy = true;
	l->iov = (struct iovec) { (void *)data, len };
	l->op = (struct aio_op) { .code = code,
				  .fd = l->s->fd,
				  .iov = &l->iov,
				  .iov_count = 1,
				  .off = off,
				  .done = lane_done };
	aio_queue(l->s->aio, &l->op);
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* The next part of RAM that is not zero; false: none, for now or at all (at is its end). */
static bool next_part(struct saver *s, uint64_t *ret_off, uint64_t *ret_len, uint64_t *budget)
{
	const struct guest_mem *mem = &s->m->vm->mem;

	while (s->at < mem->size && *budget) {
		uint64_t off = s->at, len;

		if (mem->fd >= 0) {
			/* What was never touched stays so: reading it would make it. */
			/* sandbox: loop: lseek */
			off_t data = lseek(mem->fd, (off_t)off, SEEK_DATA);

			if (data < 0 && errno == ENXIO) {
				s->at = mem->size;
				return false;
			}
			off = data < 0 ? off : align_down((uint64_t)data, PAGE_SIZE);
		}
		len = min_u64(CHUNK - off % CHUNK, mem->size - off);
		s->at = off + len;
		*budget -= min_u64(*budget, len);
		if (is_zero(ram(s->m) + off, len))
			continue;
		*ret_off = off;
		*ret_len = len;
		return true;
	}
	return false;
}

static void tell_progress(struct saver *s)
{
	unsigned percent = machine_save_percent(s->m);

	if (percent < s->told + PROGRESS_STEP)
		return;
	s->told = percent;
	s->ops.progress(s->ops.arg, percent);
}

static void feed_ram(struct saver *s)
{
	uint64_t off, len, budget = LOOK_MAX;

	for (unsigned i = 0; i < LANES && !s->error; i++) {
		if (s->lanes[i].busy)
			continue;
		if (!next_part(s, &off, &len, &budget))
			break;
		s->written += len;
		lane_start(&s->lanes[i], AIO_WRITEV, ram(s->m) + off, len, s->ram_off + off);
	}
	if (!budget && !busy_lanes(s))
		loop_timer_arm(s->later, 1);
	tell_progress(s);
}

static void finish(struct saver *s)
{
	struct machine_save_ops ops = s->ops;
	struct machine *m = s->m;
	uint64_t bytes = s->written + s->state.len;
	int ret = s->error;

	free_saver(s);
	vm_resume(m->vm); /* unless it was paused before as well */
	ops.done(ops.arg, ret, bytes);
}

/* After whatever is over: what comes next. */
static void go_on(struct saver *s)
{
	if (s->error) {
		s->phase = PHASE_DONE;
		if (!busy_lanes(s))
			loop_timer_arm(s->later, 1);
		return;
	}
	if (s->phase == PHASE_RAM) {
		feed_ram(s);
		if (s->at < s->m->vm->mem.size || busy_lanes(s))
			return;
		s->phase = PHASE_STATE;
		lane_start(&s->lanes[0], AIO_WRITEV, s->state.data, s->state.len, HEADER_BYTES);
		return;
	}
	switch (++s->phase) {
	case PHASE_SYNC:
	case PHASE_SYNC_HEADER:
		lane_start(&s->lanes[0], AIO_FDATASYNC, NULL, 0, 0);
		break;
	case PHASE_HEADER:
		fill_header(s);
		lane_start(&s->lanes[0], AIO_WRITEV, s->header, sizeof(s->header), 0);
		break;
	default:
		loop_timer_arm(s->later, 1);
		break;
	}
}

static void later_fired(void *arg)
{
	struct saver *s = arg;

	if (s->phase == PHASE_DONE && !busy_lanes(s))
		finish(s);
	else if (s->phase != PHASE_DONE)
		go_on(s);
}

/* What goes with this process cannot be gone on with. */
static int check_disks(const struct machine *m, struct err *err)
{
	char id[MACHINE_ID_SIZE];

	for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++)
		if (m->disks[i] && m->disk_cfg[i]->o.snapshot)
			return err_set(err, EINVAL,
				       "save: disk '%s' is a snapshot, which ends with this "
				       "program; an overlay (eyot-img overlay) stays",
				       machine_disk_id(m, i, id));
	return 0;
}

static int check_target(struct saver *s, struct err *err)
{
	struct stat st;
	int flags;

	/* sandbox: loop: newfstatat(*, *, *, AT_EMPTY_PATH), fcntl(*, F_GETFL) */
	if (fstat(s->fd, &st) < 0 || (flags = fcntl(s->fd, F_GETFL)) < 0)
		return err_set(err, errno, "save: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size || (flags & O_ACCMODE) == O_RDONLY)
		return err_set(err, EINVAL,
			       "save: the descriptor is not of an empty file to write");
	/* sandbox: loop: ftruncate */
	if (ftruncate(s->fd, (off_t)(s->ram_off + s->m->vm->mem.size)) < 0)
		return err_set(err, errno, "save: %s", strerror(errno));
	return 0;
}

int machine_save(struct machine *m, int fd, const struct machine_save_ops *ops, struct err *err)
{
	struct saver *s;
	int ret;

	if (m->saver) {
		close(fd);
		return err_set(err, EBUSY, "save: the machine is being saved already");
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		close(fd);
		return err_set(err, ENOMEM, "save: out of memory");
	}
	m->saver = s;
	s->m = m;
	s->fd = fd;
	s->ops = *ops;
	for (unsigned i = 0; i < LANES; i++)
		s->lanes[i].s = s;
	snap_writer_init(&s->state);
	/* In a sandbox there can be no new ring; for a few large writes threads do as well. */
	ret = aio_new(m->vm->loop, AIO_THREADS, &s->aio, err);
	if (ret == 0) {
		ret = loop_timer_add(m->vm->loop, later_fired, s, &s->later);
		if (ret < 0)
			err_set(err, -ret, "save: timer: %s", strerror(-ret));
	}
	if (ret == 0)
		ret = vm_pause(m->vm, err);
	if (ret < 0) {
		free_saver(s);
		return ret;
	}
	if (m->vm->request.kind != VM_NONE)
		ret = err_set(err, EBUSY, "save: the machine is just being reset, or ends");
	if (ret == 0)
		ret = check_disks(m, err);
	save_devices(m, &s->state);
	if (ret == 0)
		ret = vm_save(m->vm, &s->state, err);
	s->ram_off = align_up(HEADER_BYTES + s->state.len, RAM_ALIGN);
	if (ret == 0)
		ret = check_target(s, err);
	if (ret < 0) {
		free_saver(s);
		vm_resume(m->vm);
		return ret;
	}
	go_on(s);
	return 0;
}

bool machine_saving(const struct machine *m)
{
	return m->saver;
}

unsigned machine_save_percent(const struct machine *m)
{
	return m->saver ? (unsigned)(m->saver->at * 100 / m->vm->mem.size) : 0;
}

void machine_save_abort(struct machine *m)
{
	struct saver *s = m ? m->saver : NULL;

	if (!s)
		return;
	s->error = -ECANCELED;
	while (busy_lanes(s))
		aio_wait(s->aio);
	finish(s);
}

/* ---- loading ---- */

static int read_at(int fd, void *buf, uint64_t len, uint64_t off, struct err *err)
{
	for (uint64_t done = 0; done < len;) {
		ssize_t n = pread(fd, (uint8_t *)buf + done, min_u64(len - done, MIB(64)),
				  (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(err, n < 0 ? errno : EBADMSG, "%s",
				       n < 0 ? strerror(errno) : "it is cut short");
		done += (uint64_t)n;
	}
	return 0;
}

struct saved {
	uint8_t *state;
	uint64_t state_len, ram_off;
};

static int read_header(struct machine *m, struct saved *f, uint32_t *ret_crc, struct err *err)
{
	uint64_t ram_size, size;
	uint8_t h[HEADER_BYTES];
	struct stat st;
	int ret;

	if (fstat(m->load_fd, &st) < 0)
		return err_set(err, errno, "%s", strerror(errno));
	size = (uint64_t)st.st_size;
	if (!S_ISREG(st.st_mode) || size < sizeof(h))
		return err_set(err, EBADMSG, "is no saved machine");
	ret = read_at(m->load_fd, h, sizeof(h), 0, err);
	if (ret < 0)
		return ret;
	if (memcmp(h, MAGIC, 8))
		return err_set(err, EBADMSG, "is no saved machine, or was not finished");
	if (get_le32(h + 8) != FILE_VERSION)
		return err_set(err, EBADMSG, "is of version %u; this program knows %u",
			       get_le32(h + 8), FILE_VERSION);
	*ret_crc = get_le32(h + 12);
	f->state_len = get_le64(h + 16);
	f->ram_off = get_le64(h + 24);
	ram_size = get_le64(h + 32);
	if (f->state_len > STATE_MAX || f->ram_off % PAGE_SIZE || f->ram_off > size ||
	    f->ram_off < HEADER_BYTES + f->state_len)
		return err_set(err, EBADMSG, "its header makes no sense");
	if (ram_size != m->vm->mem.size)
		return err_set(err, EINVAL, "of a machine with %llu MiB; this one has %llu",
			       (unsigned long long)(ram_size >> 20),
			       (unsigned long long)(m->vm->mem.size >> 20));
	if (size - f->ram_off != ram_size)
		return err_set(err, EBADMSG, "it is cut short");
	return 0;
}

static int read_state(struct machine *m, struct saved *f, struct err *err)
{
	uint32_t crc;
	int ret = read_header(m, f, &crc, err);

	if (ret < 0)
		return ret;
	f->state = malloc(f->state_len ? f->state_len : 1);
	if (!f->state)
		return err_set(err, ENOMEM, "out of memory");
	ret = read_at(m->load_fd, f->state, f->state_len, HEADER_BYTES, err);
	if (ret == 0 && crc != (uint32_t)crc32_z(0, f->state, f->state_len))
		ret = err_set(err, EBADMSG, "its checksum is wrong");
	return ret;
}

/* RAM reads zero already: what is a hole in the file stays one. */
static int read_ram(struct machine *m, const struct saved *f, struct err *err)
{
	uint64_t at = 0, size = m->vm->mem.size;
	int ret = 0;

	while (at < size && ret == 0) {
		off_t data = lseek(m->load_fd, (off_t)(f->ram_off + at), SEEK_DATA), hole;
		uint64_t end = size;

		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(m->load_fd, data, SEEK_HOLE);
		if (data >= 0)
			at = align_down((uint64_t)data - f->ram_off, PAGE_SIZE);
		if (hole >= 0)
			end = min_u64(size, align_up((uint64_t)hole - f->ram_off, PAGE_SIZE));
		ret = read_at(m->load_fd, ram(m) + at, end - at, f->ram_off + at, err);
		at = end;
	}
	return ret;
}

int machine_load(struct machine *m, struct err *err)
{
	struct saved f = { 0 };
	struct snap_reader r;
	int ret = read_state(m, &f, err);

	snap_reader_init(&r, f.state, f.state_len);
	if (ret == 0)
		ret = check_devices(m, &r, err);
	if (ret == 0)
		ret = read_ram(m, &f, err);
	if (ret == 0)
		ret = vm_load(m->vm, &r, err);
	if (ret == 0 && r.pos != r.len)
		ret = err_set(err, EBADMSG, "more state than this machine has parts");
	free(f.state);
	close(m->load_fd);
	m->load_fd = -1;
	return ret < 0 ? err_prefix(err, ret, "load '%s'", m->cfg->load) : 0;
}
