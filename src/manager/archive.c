/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/archive.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/util.h"

#define FILE_LIMIT MIB(64)
#define ARCHIVE_ALIGN 512

static void pad(struct text *t, size_t align)
{
	static const char zeros[ARCHIVE_ALIGN];

	text_add(t, zeros, -t->len & (align - 1));
}

static void head(struct text *t, const char *name, unsigned mode, size_t len)
{
	static const unsigned magic = 0x070701;

	/* magic, inode, mode, uid, gid, links, time, size, device numbers, length of the name, sum
	 */
	text_printf(t, "%06x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", magic, 0u, mode,
		    0u, 0u, 1u, 0u, (unsigned)len, 0u, 0u, 0u, 0u, (unsigned)strlen(name) + 1, 0u);
	text_add(t, name, strlen(name) + 1);
	pad(t, 4);
}

void archive_folder(struct text *t, const char *name)
{
	head(t, name, S_IFDIR | 0755, 0);
}

void archive_bytes(struct text *t, const char *name, bool program, const void *bytes, size_t len)
{
	head(t, name, S_IFREG | (program ? 0755u : 0644u), len);
	text_add(t, bytes, len);
	pad(t, 4);
}

int archive_file(struct text *t, const char *name, bool program, const char *path, struct err *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *bytes = NULL;
	struct stat st;
	size_t done = 0;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	if (st.st_size > (off_t)FILE_LIMIT)
		return err_set(err, EFBIG, "'%s': larger than 64 MiB", path);
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return err_set(err, ENOMEM, "out of memory");
	while (done < (size_t)st.st_size) {
		n = read(fd, bytes + done, (size_t)st.st_size - done);
		if (n <= 0)
			return err_set(err, EIO, "'%s': cannot be read", path);
		done += (size_t)n;
	}
	archive_bytes(t, name, program, bytes, done);
	return 0;
}

void archive_end(struct text *t)
{
	head(t, "TRAILER!!!", 0, 0);
	pad(t, ARCHIVE_ALIGN);
}
