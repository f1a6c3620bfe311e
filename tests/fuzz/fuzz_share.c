/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A shared folder: requests of any kind with names of few letters and nodes and handles of those
 * that were given out, changes on the host meanwhile, saves and loads. Beside the folder stands
 * a file that must never change.
 *
 * Input: steps, an operation byte with its operands.
 */
#include <assert.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "fuzz.h"
#include "share/share.h"

#define KEPT 8

static char top[64];
static uint64_t nodes[KEPT], handles[KEPT];

static const char *name_of(unsigned i)
{
	static const char *const names[] = { "a", "b", "c", "d/a", "..", ".", "l", "" };

	return names[i & 7];
}

static void host_step(struct fuzz_in *in)
{
	unsigned how = (unsigned)fuzz_take(in, 1);
	char path[2][128];

	snprintf(path[0], sizeof(path[0]), "%s/s/%c", top, 'a' + (how & 3));
	snprintf(path[1], sizeof(path[1]), "%s/s/%c", top, 'a' + (how >> 2 & 3));
	switch (how >> 4 & 7) {
	case 0:
		(void)!unlink(path[0]);
		break;
	case 1:
		(void)!rename(path[0], path[1]);
		break;
	case 2:
		(void)!symlink("../outside", path[0]);
		break;
	case 3:
		(void)!mkdir(path[0], 0755);
		break;
	case 4:
		(void)!symlink("..", path[0]);
		break;
	default:
		close(open(path[0], O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644));
		break;
	}
}

static void request(struct share *s, unsigned op, struct fuzz_in *in)
{
	static _Alignas(8) uint8_t buf[4096], out[8192];
	struct fuse_in_header *head = (void *)buf;
	unsigned how = (unsigned)fuzz_take(in, 1), len = (unsigned)fuzz_take(in, 1) & 127, at;
	uint8_t *arg = buf + sizeof(*head);
	const struct fuse_out_header *reply = (const void *)out;
	struct iovec iov[2] = { { buf, sizeof(*head) - (how == 0xff) }, { arg, 0 } };
	struct iovec riov = { out, how & 8 ? sizeof(out) : 16 + fuzz_take(in, 1) };

	memset(buf, 0, sizeof(buf));
	memset(out, 0, sizeof(out));
	head->opcode = op;
	head->nodeid = nodes[how & 7];
	for (at = 0; at < len; at++)
		arg[at] = (uint8_t)fuzz_take(in, 1);
	if (how & 16) /* most arguments begin with a handle or a node */
		put_le64(arg, op == FUSE_RENAME2 || op == FUSE_LINK ? nodes[how >> 5]
								    : handles[how >> 5]);
	at = len;
	for (unsigned i = 0; i < 2; i++)
		at +=
		    (unsigned)sprintf((char *)arg + at, "%s", name_of((unsigned)fuzz_take(in, 1))) +
		    1;
	iov[1].iov_len = at;
	head->len = (uint32_t)(sizeof(*head) + at);
	if (share_request(s, iov, 2, &riov, 1) < 16 || reply->error)
		return;
	switch (op) {
	case FUSE_LOOKUP:
	case FUSE_MKDIR:
	case FUSE_CREATE:
	case FUSE_LINK:
		nodes[1 + (how >> 5) % 7] = get_le64(out + 16);
		if (op == FUSE_CREATE)
			handles[how >> 5] = get_le64(out + 16 + sizeof(struct fuse_entry_out));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		handles[how >> 5] = get_le64(out + 16);
		break;
	}
}

static void save_and_load(struct share *s, struct fuzz_in *in)
{
	struct snap_writer w;
	struct snap_reader r;
	uint32_t version;

	snap_writer_init(&w);
	snap_begin(&w, "s", 1);
	share_save(s, &w);
	snap_close(&w);
	for (unsigned n = (unsigned)fuzz_take(in, 1) & 3; n; n--) {
		size_t at = fuzz_take(in, 2) % (w.len - 10);

		w.data[10 + at] = (uint8_t)fuzz_take(in, 1);
	}
	snap_reader_init(&r, w.data, w.len);
	if (snap_open(&r, "s", 1, &version, NULL) == 0)
		(void)share_load(s, &r, NULL);
	snap_writer_done(&w);
}

static void tidy(void)
{
	char command[160];

	snprintf(command, sizeof(command), "rm -rf %s", top);
	assert(system(command) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t common[] = { FUSE_LOOKUP,	FUSE_CREATE,	 FUSE_MKDIR,  FUSE_OPEN,
					  FUSE_READ,	FUSE_WRITE,	 FUSE_UNLINK, FUSE_RENAME2,
					  FUSE_OPENDIR, FUSE_READDIRPLUS };
	struct fuzz_in in = { data, size };
	char path[128], text[16] = "";
	struct share *s = NULL;
	struct stat st;
	int fd, ret;

	snprintf(top, sizeof(top), "/tmp/eyot-fuzz-share-%d", getpid());
	tidy();
	assert(!mkdir(top, 0755));
	snprintf(path, sizeof(path), "%s/outside", top);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0640);
	assert(fd >= 0 && write(fd, "keep", 4) == 4);
	snprintf(path, sizeof(path), "%s/s", top);
	assert(!mkdir(path, 0755));
	ret = share_new(path, size && data[size - 1] & 1, &s, NULL);
	assert(!ret);
	for (unsigned i = 0; i < KEPT; i++) {
		nodes[i] = FUSE_ROOT_ID;
		handles[i] = i;
	}
	for (unsigned i = 0; i < 200 && in.left; i++) {
		unsigned op = (unsigned)fuzz_take(&in, 1);

		if (op < 64)
			request(s, op, &in);
		else if (op < 224)
			request(s, common[op % sizeof(common)], &in);
		else if (op < 250)
			host_step(&in);
		else
			save_and_load(s, &in);
	}
	share_free(s);
	assert(pread(fd, text, sizeof(text), 0) == 4 && !strcmp(text, "keep"));
	assert(!fstat(fd, &st) && st.st_nlink == 1 && (st.st_mode & 07777) == 0640);
	close(fd);
	tidy();
	return 0;
}
