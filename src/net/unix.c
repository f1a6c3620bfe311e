/* SPDX-License-Identifier: Apache-2.0 */
#include "net/unix.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/util.h"

int net_unix_address(const char *path, struct sockaddr_un *addr, struct err *err)
{
	*addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return err_set(err, EINVAL, "'%s': a socket's path has at most %zu characters",
			       path, sizeof(addr->sun_path) - 1);
	strcpy(addr->sun_path, path);
	return 0;
}

int net_unix_connect(const struct sockaddr_un *addr)
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

/* A socket that a program left behind when it died may be taken over. */
static bool nobody_listens(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd;

	/* A file of another kind refuses connections as well. */
	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = net_unix_connect(addr);
	if (fd >= 0)
		close(fd);
	return fd == -ECONNREFUSED;
}

int net_unix_listen(const struct sockaddr_un *addr, int backlog)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;
	mode_t mask;

	if (fd < 0)
		return -errno;
	mask = umask(0077);
	ret = bind(fd, (const struct sockaddr *)addr, sizeof(*addr));
	if (ret < 0 && errno == EADDRINUSE && nobody_listens(addr) && unlink(addr->sun_path) == 0)
		ret = bind(fd, (const struct sockaddr *)addr, sizeof(*addr));
	ret = ret < 0 ? -errno : 0;
	umask(mask);
	if (ret == 0 && listen(fd, backlog) < 0) {
		ret = -errno;
		unlink(addr->sun_path);
	}
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}
