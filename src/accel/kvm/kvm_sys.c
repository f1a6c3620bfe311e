/* SPDX-License-Identifier: Apache-2.0 */
#include "accel/kvm/kvm_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int kvm_sys_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int kvm_sys_call(int fd, unsigned long request, uintptr_t arg)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? -errno : ret;
}

void *kvm_sys_map(int fd, size_t size)
{
	void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return area == MAP_FAILED ? NULL : area;
}

void kvm_sys_unmap(void *area, size_t size)
{
	if (area)
		munmap(area, size);
}

void kvm_sys_close(int fd)
{
	if (fd >= 0)
		close(fd);
}
