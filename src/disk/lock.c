/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image locking
 *
 * Byte-range locks on the open file description, in the places where QEMU's
 * raw driver has its own, so that both programs exclude each other. Each
 * permission has a number; a user holds a shared lock
 *  - at 100 + number for what it does, and
 *  - at 200 + number for what it does not let others do,
 * and then looks whether anybody else's locks contradict: somebody does what
 * it does not allow, or forbids what it does. Locks first, looks second: of
 * two that start at once both may be refused, but never are both let in.
 *
 * A writer reads and writes; a reader reads. Neither lets others write or
 * resize, so that there is one writer or any number of readers. Locks vanish
 * with the descriptor, however the process ends.
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "disk/driver.h"

enum { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

#define DOES_BASE 100
#define FORBIDS_BASE 200
#define LOCK_TRIES 40 /* of 10 to 16 ms */

static int lock_byte(int fd, off_t off)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = off, .l_len = 1 };

	/* sandbox: loop: fcntl(*, F_OFD_SETLK) */
	return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

/* Whether another open file description holds the byte: 0 or 1, or -errno. */
static int test_byte(int fd, off_t off)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = off, .l_len = 1 };

	/* sandbox: loop: fcntl(*, F_OFD_GETLK) */
	if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
		return -errno;
	return fl.l_type != F_UNLCK;
}

static int try_lock(int fd, const char *path, bool writable, struct err *err)
{
	static const struct {
		int perm;
		bool writer_only;
		const char *why;
	} does[] = {
		{ PERM_READ, false, "another process uses it exclusively" },
		{ PERM_WRITE, true, "another process uses it and allows no writer" },
	};
	static const struct {
		int perm;
		const char *why;
	} forbids[] = {
		{ PERM_WRITE, "another process has it open for writing" },
		{ PERM_RESIZE, "another process is going to resize it" },
	};
	int ret = 0;

	for (unsigned i = 0; i < sizeof(does) / sizeof(does[0]) && !ret; i++)
		if (writable || !does[i].writer_only)
			ret = lock_byte(fd, DOES_BASE + does[i].perm);
	for (unsigned i = 0; i < sizeof(forbids) / sizeof(forbids[0]) && !ret; i++)
		ret = lock_byte(fd, FORBIDS_BASE + forbids[i].perm);
	if (ret == -EAGAIN || ret == -EACCES)
		return err_set(err, EAGAIN, "disk '%s': another process has it locked", path);
	if (ret)
		return err_set(err, -ret, "disk '%s': cannot lock it: %s", path, strerror(-ret));

	for (unsigned i = 0; i < sizeof(forbids) / sizeof(forbids[0]); i++) {
		ret = test_byte(fd, DOES_BASE + forbids[i].perm);
		if (ret > 0)
			return err_set(err, EAGAIN, "disk '%s': %s", path, forbids[i].why);
		if (ret < 0)
			return err_set(err, -ret, "disk '%s': cannot test its locks: %s", path,
				       strerror(-ret));
	}
	for (unsigned i = 0; i < sizeof(does) / sizeof(does[0]); i++) {
		if (does[i].writer_only && !writable)
			continue;
		ret = test_byte(fd, FORBIDS_BASE + does[i].perm);
		if (ret > 0)
			return err_set(err, EAGAIN, "disk '%s': %s", path, does[i].why);
		if (ret < 0)
			return err_set(err, -ret, "disk '%s': cannot test its locks: %s", path,
				       strerror(-ret));
	}
	return 0;
}

int image_lock(int fd, const char *path, bool writable, struct err *err)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	int ret = try_lock(fd, path, writable, err);

	/*
	 * The kernel gives up the files of a killed process's io_uring a moment after the process
	 * is gone: whoever starts the machine again at once shall not be told that another one has
	 * the image.
	 */
	for (unsigned i = 0; ret == -EAGAIN && i < LOCK_TRIES; i++) {
		struct timespec wait = { .tv_nsec = (10 + getpid() % 7) * 1000000 };

		fcntl(fd, F_OFD_SETLK, &all); /* of two that wait for each other, one shall win */
		/* sandbox: loop: clock_nanosleep */
		nanosleep(&wait, NULL);
		ret = try_lock(fd, path, writable, err);
	}
	return ret;
}
