/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sock.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/util.h"

int unix_address(const char *path, struct sockaddr_un *addr, struct err *err)
{
	*addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return err_set(err, EINVAL, "'%s': a socket's path has at most %zu characters",
			       path, sizeof(addr->sun_path) - 1);
	strcpy(addr->sun_path, path);
	return 0;
}

int unix_connect(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

static bool nobody_listens(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd;

	/* A file of another kind refuses connections as well. */
	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = unix_connect(addr);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED;
}

int unix_listen(const char *path, int backlog, struct err *err)
{
	struct sockaddr_un addr;
	mode_t mask;
	int ret, fd;

	ret = unix_address(path, &addr, err);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, errno, "'%s': %s", path, strerror(errno));
	mask = umask(0177);
	ret = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	if (ret < 0 && errno == EADDRINUSE && nobody_listens(&addr) && unlink(path) == 0)
		ret = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	ret = ret < 0 ? -errno : 0;
	umask(mask);
	if (ret == 0 && listen(fd, backlog) < 0) {
		ret = -errno;
		unlink(path);
	}
	if (ret < 0) {
		close(fd);
		return err_set(err, -ret, "'%s': %s", path, strerror(-ret));
	}
	return fd;
}
