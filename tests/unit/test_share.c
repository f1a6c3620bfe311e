/* SPDX-License-Identifier: Apache-2.0 */
/* A shared folder, before a client that says what it likes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/util.h"
#include "share/share.h"

#define ROOT FUSE_ROOT_ID

static struct share *s;
static char top[64], shared[96];
static uint8_t out[16384];
static const void *const body = out + sizeof(struct fuse_out_header);

static char *path_of(const char *name)
{
	static char paths[2][512];
	static unsigned turn;
	char *path = paths[turn++ % 2];

	snprintf(path, sizeof(paths[0]), "%s/%s", shared, name);
	return path;
}

static void put_file(const char *name, const char *text)
{
	FILE *f = fopen(path_of(name), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void open_share(bool readonly)
{
	struct err err = { "" };

	if (share_new(shared, readonly, &s, &err) < 0)
		fail_msg("%s", err.text);
}

static int setup(void **state)
{
	strcpy(top, "/tmp/eyot-share-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(shared, sizeof(shared), "%s/shared", top);
	assert_int_equal(mkdir(shared, 0755), 0);
	open_share(false);
	put_file("../secret", "secret");
	put_file("file", "content");
	assert_int_equal(mkdir(path_of("dir"), 0755), 0);
	put_file("dir/inner", "inner");
	assert_int_equal(symlink("..", path_of("up")), 0);
	assert_int_equal(symlink(path_of("../secret"), path_of("out")), 0);
	assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	share_free(s);
	s = NULL;
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

/* A request of @len bytes in two buffers; the client's errno, 0, or 1: no reply. */
static int ask(unsigned op, uint64_t node, const void *arg, size_t len)
{
	struct fuse_in_header in = {
		.len = (uint32_t)(sizeof(in) + len), .opcode = op, .unique = 7, .nodeid = node
	};
	struct iovec iov[2] = { { &in, sizeof(in) }, { (void *)arg, len } };
	struct iovec reply[2] = { { out, 16 }, { out + 16, sizeof(out) - 16 } };
	const struct fuse_out_header *head = (const void *)out;
	ssize_t n;

	memset(out, 0xee, sizeof(out));
	n = share_request(s, iov, len ? 2 : 1, reply, 2);
	if (n <= 0)
		return n < 0 ? -1000 : 1;
	assert_int_equal(head->len, n);
	assert_int_equal(head->unique, 7);
	return head->error;
}

/* A request whose argument is @arg and then a name, or two with a zero between */
static int ask_name(unsigned op, uint64_t node, const void *arg, size_t len, const char *name,
		    const char *second)
{
	uint8_t bytes[8192];
	size_t n = len;

	memcpy(bytes, arg, len);
	strcpy((char *)bytes + n, name);
	n += strlen(name) + 1;
	if (second) {
		strcpy((char *)bytes + n, second);
		n += strlen(second) + 1;
	}
	return ask(op, node, bytes, n);
}

static int lookup(uint64_t dir, const char *name, uint64_t *ret_node)
{
	int ret = ask_name(FUSE_LOOKUP, dir, "", 0, name, NULL);

	if (ret == 0)
		*ret_node = ((const struct fuse_entry_out *)body)->nodeid;
	return ret;
}

static uint64_t must_find(uint64_t dir, const char *name)
{
	uint64_t node = 0;

	assert_int_equal(lookup(dir, name, &node), 0);
	return node;
}

static int open_file(uint64_t node, uint32_t flags, uint64_t *ret_fh)
{
	struct fuse_open_in in = { .flags = flags };
	int ret = ask(FUSE_OPEN, node, &in, sizeof(in));

	if (ret == 0)
		*ret_fh = ((const struct fuse_open_out *)body)->fh;
	return ret;
}

static int read_file(uint64_t node, uint64_t fh, char *text)
{
	struct fuse_read_in in = { .fh = fh, .size = 4096 };
	int ret = ask(FUSE_READ, node, &in, sizeof(in));

	if (ret == 0) {
		size_t n = ((const struct fuse_out_header *)out)->len - 16;

		memcpy(text, body, n);
		text[n] = '\0';
	}
	return ret;
}

static void test_names(void **state)
{
	static const char *const bad[] = { "", ".", "..", "dir/inner", "/", "../secret", "dir/" };
	struct fuse_mkdir_in dir = { .mode = 0755 };
	struct fuse_rename2_in rename = { .newdir = ROOT };
	struct fuse_create_in create = { .flags = O_WRONLY, .mode = 0644 };
	char name[300];
	uint64_t node;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(lookup(ROOT, bad[i], &node), -EINVAL);
		assert_int_equal(ask_name(FUSE_MKDIR, ROOT, &dir, sizeof(dir), bad[i], NULL),
				 -EINVAL);
		assert_int_equal(ask_name(FUSE_CREATE, ROOT, &create, sizeof(create), bad[i], NULL),
				 -EINVAL);
		assert_int_equal(ask_name(FUSE_UNLINK, ROOT, "", 0, bad[i], NULL), -EINVAL);
		assert_int_equal(ask_name(FUSE_SYMLINK, ROOT, "", 0, bad[i], "x"), -EINVAL);
		assert_int_equal(
		    ask_name(FUSE_RENAME2, ROOT, &rename, sizeof(rename), "file", bad[i]), -EINVAL);
		assert_int_equal(ask_name(FUSE_RENAME2, ROOT, &rename, sizeof(rename), bad[i], "x"),
				 -EINVAL);
	}
	assert_int_equal(ask(FUSE_LOOKUP, ROOT, "file", 4), -EINVAL); /* it does not end */
	memset(name, 'n', 256);
	name[256] = '\0';
	assert_int_equal(lookup(ROOT, name, &node), -ENAMETOOLONG);
	assert_int_equal(lookup(ROOT, "none", &node), -ENOENT);
	assert_int_equal(lookup(12345, "file", &node), -ESTALE);
}

/* Links lead nowhere, whatever is asked of them; nor do folders that become links. */
static void test_links(void **state)
{
	uint64_t up = must_find(ROOT, "up"), escape = must_find(ROOT, "out"), node, fh = 0;
	struct fuse_create_in create = { .flags = O_WRONLY, .mode = 0644 };
	struct fuse_setattr_in set = { .valid = FATTR_SIZE };
	uint64_t dir = must_find(ROOT, "dir");

	assert_int_equal(ask(FUSE_READLINK, up, NULL, 0), 0);
	assert_memory_equal(body, "..", 2);
	assert_int_equal(lookup(up, "secret", &node), -ENOTDIR);
	assert_int_equal(open_file(escape, O_RDONLY, &fh), -EPERM);
	assert_int_equal(ask(FUSE_OPENDIR, up, "\0\0\0\0\0\0\0", 8), -EPERM);
	assert_int_equal(ask_name(FUSE_CREATE, up, &create, sizeof(create), "x", NULL), -ENOTDIR);
	/* Through the link's name: what it points to is not opened, and not cut. */
	assert_int_not_equal(ask_name(FUSE_CREATE, ROOT, &create, sizeof(create), "out", NULL), 0);
	assert_int_not_equal(ask(FUSE_SETATTR, escape, &set, sizeof(set)), 0);
	/* A folder that the client knows is replaced by a link */
	assert_int_equal(lookup(dir, "inner", &node), 0);
	assert_int_equal(rename(path_of("dir"), "/tmp/eyot-share-moved"), 0);
	assert_int_equal(symlink("..", path_of("dir")), 0);
	share_reset(s); /* no descriptor is left of before */
	dir = must_find(ROOT, "dir");
	assert_int_equal(lookup(dir, "secret", &node), -ENOTDIR);
	assert_int_equal(unlink(path_of("dir")), 0);
	assert_int_equal(rename("/tmp/eyot-share-moved", path_of("dir")), 0);
}

static void test_other_kinds(void **state)
{
	uint64_t pipe = must_find(ROOT, "pipe"), file = must_find(ROOT, "file"), fh = 0;
	struct fuse_mknod_in in = { .mode = S_IFCHR | 0600, .rdev = 0x103 };
	struct fuse_create_in create = { .flags = O_WRONLY, .mode = 06755 };
	struct fuse_setattr_in set = { .valid = FATTR_MODE, .mode = S_IFREG | 06711 };
	struct stat st;

	assert_int_equal(open_file(pipe, O_RDONLY, &fh), -EPERM);
	assert_int_equal(ask_name(FUSE_CREATE, ROOT, &create, sizeof(create), "pipe", NULL),
			 -EEXIST);
	assert_int_equal(ask_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "dev", NULL), -EPERM);
	in.mode = S_IFBLK;
	assert_int_equal(ask_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "dev", NULL), -EPERM);
	in.mode = S_IFIFO | 0600;
	assert_int_equal(ask_name(FUSE_MKNOD, ROOT, &in, sizeof(in), "fifo", NULL), 0);
	/* Nobody on the host gets this user's rights by a file of the guest's. */
	assert_int_equal(ask_name(FUSE_CREATE, ROOT, &create, sizeof(create), "suid", NULL), 0);
	assert_int_equal(stat(path_of("suid"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(ask(FUSE_SETATTR, file, &set, sizeof(set)), 0);
	assert_int_equal(stat(path_of("file"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0711);
}

static void test_files(void **state)
{
	uint64_t file = must_find(ROOT, "file"), dir = must_find(ROOT, "dir"), other, fh = 0,
		 second = 0;
	struct fuse_rename2_in rename = { .newdir = dir };
	struct fuse_link_in link = { .oldnodeid = file };
	struct fuse_release_in release = { 0 };
	struct {
		struct fuse_write_in in;
		char data[8];
	} write = { .in = { .size = 3, .offset = 2 }, .data = "XYZ" };
	char text[5000];

	assert_int_equal(open_file(file, O_RDWR, &fh), 0);
	write.in.fh = fh;
	assert_int_equal(ask(FUSE_WRITE, file, &write, sizeof(write.in) + 3), 0);
	assert_int_equal(read_file(file, fh, text), 0);
	assert_string_equal(text, "coXYZnt");
	write.in.size = 4; /* more than there is */
	assert_int_equal(ask(FUSE_WRITE, file, &write, sizeof(write.in) + 3), -EINVAL);
	assert_int_equal(read_file(dir, fh, text), -EBADF); /* another's */
	assert_int_equal(read_file(file, fh + 1, text), -EBADF);
	assert_int_equal(read_file(file, fh ^ 1ull << 32, text), -EBADF);
	/* Two names, one file */
	assert_int_equal(ask_name(FUSE_LINK, dir, &link, sizeof(link), "second", NULL), 0);
	assert_int_equal(((const struct fuse_entry_out *)body)->nodeid, file);
	assert_int_equal(((const struct fuse_entry_out *)body)->attr.nlink, 2);
	assert_int_equal(ask_name(FUSE_UNLINK, ROOT, "", 0, "file", NULL), 0);
	other = must_find(dir, "second");
	assert_int_equal(other, file);
	assert_int_equal(open_file(file, O_RDONLY, &second), 0);
	/* Moved, then without a name, then replaced: the open one goes on. */
	assert_int_equal(ask_name(FUSE_RENAME2, dir, &rename, sizeof(rename), "second", "third"),
			 0);
	assert_int_equal(ask(FUSE_GETATTR, file, "", 0), 0);
	put_file("dir/new", "new");
	other = must_find(dir, "new");
	assert_int_equal(ask_name(FUSE_RENAME2, dir, &rename, sizeof(rename), "new", "third"), 0);
	assert_int_equal(ask(FUSE_GETATTR, file, "", 0), 0);
	assert_int_equal(((const struct fuse_attr_out *)body)->attr.nlink, 0);
	assert_int_equal(read_file(file, fh, text), 0);
	assert_string_equal(text, "coXYZnt");
	assert_int_equal(must_find(dir, "third"), other);
	release.fh = fh;
	assert_int_equal(ask(FUSE_RELEASE, file, &release, sizeof(release)), 0);
	assert_int_equal(ask(FUSE_RELEASE, file, &release, sizeof(release)), -EBADF);
	assert_int_equal(read_file(file, second, text), 0);
}

static void test_readonly(void **state)
{
	static const unsigned writing[] = { FUSE_SETATTR, FUSE_SYMLINK,	 FUSE_MKNOD,
					    FUSE_MKDIR,	  FUSE_UNLINK,	 FUSE_RMDIR,
					    FUSE_RENAME,  FUSE_LINK,	 FUSE_WRITE,
					    FUSE_CREATE,  FUSE_SETXATTR, FUSE_REMOVEXATTR,
					    FUSE_RENAME2, FUSE_FALLOCATE };
	uint64_t file, fh = 0;
	char text[5000];

	share_free(s);
	open_share(true);
	file = must_find(ROOT, "file");
	for (unsigned i = 0; i < ARRAY_SIZE(writing); i++)
		assert_int_equal(ask(writing[i], ROOT, "file\0x", 7), -EROFS);
	assert_int_equal(open_file(file, O_RDWR, &fh), -EROFS);
	assert_int_equal(open_file(file, O_WRONLY, &fh), -EROFS);
	assert_int_equal(open_file(file, O_RDONLY | O_TRUNC, &fh), -EROFS);
	assert_int_equal(open_file(file, O_RDONLY, &fh), 0);
	assert_int_equal(read_file(file, fh, text), 0);
	assert_string_equal(text, "content");
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* With few descriptors files are opened again and again; the process's exit status */
static int few_descriptors(void)
{
	struct rlimit small = { 64, 64 };
	uint64_t dir = must_find(ROOT, "dir"), inner = must_find(dir, "inner"), node, fh = 0;
	char name[32], text[5000];

	share_free(s);
	if (setrlimit(RLIMIT_NOFILE, &small) < 0)
		return 1;
	open_share(false);
	dir = must_find(ROOT, "dir");
	inner = must_find(dir, "inner");
	for (unsigned i = 0; i < 200; i++) {
		sprintf(name, "f%u", i);
		if (lookup(ROOT, name, &node) < 0)
			return 2;
	}
	if (open_fds() > 50)
		return 3;
	if (ask(FUSE_GETATTR, inner, "", 0) || open_file(inner, O_RDONLY, &fh) ||
	    read_file(inner, fh, text) || strcmp(text, "inner"))
		return 4;
	for (unsigned i = 0; i < 100; i++)
		open_file(inner, O_RDONLY, &fh);
	return open_fds() > 60 ? 5 : 0;
}

/* Descriptors, handles and nodes stay within bounds, and nothing is lost by it. */
static void test_bounds(void **state)
{
	struct rlimit limit, small = { 64, 64 };
	uint64_t nodes[400], dir = ROOT, fh = 0;
	struct fuse_forget_in forget = { .nlookup = UINT64_MAX };
	unsigned before, opened = 0;
	int status;
	pid_t child;
	char name[32];

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	small.rlim_max = limit.rlim_max;
	share_free(s);
	for (unsigned i = 0; i < 400; i++) {
		sprintf(name, "f%u", i);
		put_file(name, "x");
	}
	child = fork();
	if (child == 0) {
		open_share(false);
		_exit(few_descriptors());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	/* The soft limit would be raised: so low is the hard one of some. */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
	before = open_fds();
	open_share(false);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &small), 0);
	assert_true(small.rlim_cur > 64 || small.rlim_cur == small.rlim_max);
	for (unsigned i = 0; i < 400; i++) {
		sprintf(name, "f%u", i);
		nodes[i] = must_find(ROOT, name);
	}
	assert_in_range(open_fds(), before, before + 4200);
	while (opened < 5000 && open_file(nodes[opened % 400], O_RDONLY, &fh) == 0)
		opened++;
	assert_in_range(opened, 16, 4096);
	share_reset(s);
	for (unsigned i = 0; i < 400; i++) {
		sprintf(name, "d%u", i);
		assert_int_equal(ask_name(FUSE_MKDIR, dir, &(struct fuse_mkdir_in) { .mode = 0755 },
					  sizeof(struct fuse_mkdir_in), name, NULL),
				 0);
		dir = ((const struct fuse_entry_out *)body)->nodeid;
	}
	assert_int_equal(ask(FUSE_GETATTR, dir, "", 0), 0);
	ask(FUSE_FORGET, dir, &forget, sizeof(forget));
	assert_int_equal(ask(FUSE_GETATTR, dir, "", 0), -ESTALE);
	ask(FUSE_FORGET, ROOT, &forget, sizeof(forget));
	assert_int_equal(ask(FUSE_GETATTR, ROOT, "", 0), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	share_reset(s);
	assert_int_equal(open_fds(), before + 1);
}

static void test_readdir(void **state)
{
	struct fuse_open_in in = { 0 };
	struct fuse_read_in read = { .size = 1000 };
	uint8_t seen[3000] = { 0 };
	unsigned ops[] = { FUSE_READDIR, FUSE_READDIRPLUS }, found;
	uint64_t dir = must_find(ROOT, "dir");
	char name[32];

	for (unsigned i = 0; i < sizeof(seen); i++) {
		sprintf(name, "dir/n%u", i);
		put_file(name, "");
	}
	for (unsigned k = 0; k < 2; k++) {
		memset(seen, 0, sizeof(seen));
		found = 0;
		read.offset = 0;
		assert_int_equal(ask(FUSE_OPENDIR, dir, &in, sizeof(in)), 0);
		read.fh = ((const struct fuse_open_out *)body)->fh;
		for (;;) {
			size_t at = 0, len;

			assert_int_equal(ask(ops[k], dir, &read, sizeof(read)), 0);
			len = ((const struct fuse_out_header *)out)->len - 16;
			if (!len)
				break;
			assert_in_range(len, 1, read.size);
			while (at < len) {
				const struct fuse_direntplus *p =
				    (const void *)((const uint8_t *)body + at);
				const struct fuse_dirent *d = k ? &p->dirent : (const void *)p;
				unsigned number;

				snprintf(name, sizeof(name), "%.*s", (int)d->namelen, d->name);
				if (sscanf(name, "n%u", &number) == 1) {
					assert_int_equal(seen[number]++, 0);
					found++;
					assert_true(!k || p->entry_out.nodeid);
				} else if (name[0] == '.') {
					assert_true(!k || !p->entry_out.nodeid);
				}
				read.offset = d->off;
				at +=
				    align_up((k ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET) +
						 d->namelen,
					     8);
			}
		}
		assert_int_equal(found, sizeof(seen));
	}
	read.size = 8; /* no room for any */
	read.offset = 0;
	assert_int_equal(ask(FUSE_READDIR, dir, &read, sizeof(read)), -EINVAL);
}

static void test_xattrs(void **state)
{
	uint64_t file = must_find(ROOT, "file");
	uint32_t set[2] = { 3, 0 }, get[2] = { 100, 0 };
	uint8_t arg[64];
	int ret;

	memcpy(arg, set, 8);
	memcpy(arg + 8, "user.a\0val", 10);
	ret = ask(FUSE_SETXATTR, file, arg, 18);
	if (ret == -EOPNOTSUPP)
		skip(); /* the host's file system has none */
	assert_int_equal(ret, 0);
	assert_int_equal(ask_name(FUSE_GETXATTR, file, get, 8, "user.a", NULL), 0);
	assert_memory_equal(body, "val", 3);
	get[0] = 2;
	assert_int_equal(ask_name(FUSE_GETXATTR, file, get, 8, "user.a", NULL), -ERANGE);
	assert_int_equal(ask_name(FUSE_GETXATTR, file, get, 8, "security.capability", NULL),
			 -ENODATA);
	memcpy(arg + 8, "trusted.a\0val", 13);
	assert_int_equal(ask(FUSE_SETXATTR, file, arg, 21), -EOPNOTSUPP);
	set[0] = 1 << 20;
	memcpy(arg, set, 8);
	memcpy(arg + 8, "user.b\0val", 10);
	assert_int_equal(ask(FUSE_SETXATTR, file, arg, 18), -E2BIG);
}

static void test_save_load(void **state)
{
	uint64_t dir = must_find(ROOT, "dir"), inner = must_find(dir, "inner");
	uint64_t file = must_find(ROOT, "file"), fh = 0;
	struct snap_writer w;
	struct snap_reader r;
	struct err err = { "" };
	char text[5000];
	uint32_t version;

	assert_int_equal(open_file(inner, O_RDONLY, &fh), 0);
	snap_writer_init(&w);
	snap_begin(&w, "share", 1);
	share_save(s, &w);
	snap_close(&w);
	share_free(s);
	assert_int_equal(unlink(path_of("file")), 0);
	put_file("another", "");
	put_file("file", "another");
	open_share(false);
	snap_reader_init(&r, w.data, w.len);
	assert_int_equal(snap_open(&r, "share", 1, &version, &err), 0);
	if (share_load(s, &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(snap_end(&r, &err), 0);
	assert_int_equal(read_file(inner, fh, text), 0);
	assert_string_equal(text, "inner");
	assert_int_equal(ask(FUSE_GETATTR, file, "", 0), -ESTALE);
	assert_int_equal(must_find(dir, "inner"), inner);
	/* Nonsense is refused and leaves a share that works. */
	for (size_t i = 14; i < w.len; i++) {
		uint8_t was = w.data[i];

		w.data[i] ^= (uint8_t)(1u << i % 8);
		snap_reader_init(&r, w.data, w.len);
		assert_int_equal(snap_open(&r, "share", 1, &version, &err), 0);
		(void)share_load(s, &r, &err);
		must_find(ROOT, "file");
		w.data[i] = was;
	}
	snap_writer_done(&w);
}

static void test_malformed(void **state)
{
	struct fuse_in_header in = { .len = sizeof(in), .opcode = FUSE_GETATTR, .nodeid = ROOT };
	struct iovec iov = { &in, sizeof(in) }, reply = { out, sizeof(out) };

	iov.iov_len = sizeof(in) - 1;
	assert_int_equal(share_request(s, &iov, 1, &reply, 1), -EINVAL);
	iov.iov_len = sizeof(in);
	in.len = sizeof(in) + 1;
	assert_int_equal(share_request(s, &iov, 1, &reply, 1), -EINVAL);
	in.len = sizeof(in) - 1;
	assert_int_equal(share_request(s, &iov, 1, &reply, 1), -EINVAL);
	in.len = sizeof(in);
	reply.iov_len = 15;
	assert_int_equal(share_request(s, &iov, 1, &reply, 1), -EINVAL);
	reply.iov_len = 16; /* room for the header alone */
	assert_int_equal(share_request(s, &iov, 1, &reply, 1), -EINVAL);
	for (unsigned op = 0; op < 5000; op++)
		ask(op, ROOT, "", 0);
	assert_int_equal(ask(FUSE_POLL, ROOT, "", 0), -ENOSYS);
	assert_int_equal(ask(4096, ROOT, "", 0), -ENOSYS);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_names),	   T(test_links),     T(test_other_kinds), T(test_files),
		T(test_readonly),  T(test_bounds),    T(test_readdir),	   T(test_xattrs),
		T(test_save_load), T(test_malformed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
