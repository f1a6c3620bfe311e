/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memfd is sealed against resizing before it is mapped, so nobody who is
 * handed the descriptor can make the monitor fault by truncating it. The
 * mapping is 2 MiB aligned; huge pages are asked for and not relied on.
 */
#include "vm/mem.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

static int map_aligned(struct guest_mem *mem, uint8_t **ret_base, struct err *err)
{
	uint64_t room = mem->size + MIB(2);
	uint8_t *area, *base;

	area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return err_set(err, errno, "guest memory: %llu MiB of address space: %s",
			       (unsigned long long)(mem->size >> 20), strerror(errno));
	base = (uint8_t *)align_up((uintptr_t)area, MIB(2));
	if (mmap(base, mem->size, PROT_READ | PROT_WRITE,
		 (mem->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_NORESERVE |
		     MAP_FIXED,
		 mem->fd, 0) == MAP_FAILED) {
		int ret = err_set(err, errno, "guest memory: map %llu MiB: %s",
				  (unsigned long long)(mem->size >> 20), strerror(errno));

		munmap(area, room);
		return ret;
	}
	if (base > area)
		munmap(area, (size_t)(base - area));
	if (area + room > base + mem->size)
		munmap(base + mem->size, (size_t)(area + room - (base + mem->size)));
	*ret_base = base;
	return 0;
}

static int make_memfd(struct guest_mem *mem, struct err *err)
{
	mem->fd = memfd_create("eyot-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (mem->fd < 0)
		return err_set(err, errno, "guest memory: memfd: %s", strerror(errno));
	if (ftruncate(mem->fd, (off_t)mem->size) < 0 ||
	    fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return err_set(err, errno, "guest memory: %llu MiB: %s",
			       (unsigned long long)(mem->size >> 20), strerror(errno));
	return 0;
}

/* Whether @file, of the kernel's settings of huge pages, has one of the choices in @words in force.
 */
static bool huge_pages_are(const char *file, const char *const words[])
{
	char path[128], text[128], chosen[32];
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	for (unsigned i = 0; words[i]; i++) {
		snprintf(chosen, sizeof(chosen), "[%s]", words[i]);
		if (strstr(text, chosen))
			return true;
	}
	return false;
}

static int init(struct guest_mem *mem, uint64_t size, bool private, struct err *err)
{
	uint8_t *base = NULL;
	int ret;

	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
	if (size % PAGE_SIZE || size < MIB(1) || size > GIB(64))
		return err_set(err, EINVAL,
			       "guest memory '%llu bytes': not a multiple of 4K from 1M to 64G",
			       (unsigned long long)size);
	mem->size = size;
	ret = private ? 0 : make_memfd(mem, err);
	if (ret < 0)
		goto fail;
	ret = map_aligned(mem, &base, err);
	if (ret < 0)
		goto fail;
	/* These only advise: kernels without huge pages in shared memory refuse the first. */
	madvise(base, size, MADV_HUGEPAGE);
	madvise(base, size, MADV_DONTDUMP);
	madvise(base, size, MADV_DONTFORK); /* the process of a user network has no need of it */

	mem->slots[0] =
	    (struct mem_slot) { .gpa = 0, .size = min_u64(size, MEM_LOW_MAX), .hva = base };
	mem->slot_count = 1;
	if (size > MEM_LOW_MAX) {
		mem->slots[1] = (struct mem_slot) { .gpa = MEM_HIGH_BASE,
						    .size = size - MEM_LOW_MAX,
						    .hva = base + MEM_LOW_MAX,
						    .fd_offset = MEM_LOW_MAX };
		mem->slot_count = 2;
	}
	return 0;
fail:
	if (mem->fd >= 0)
		close(mem->fd);
	mem->fd = -1;
	return ret;
}

int guest_mem_init(struct guest_mem *mem, uint64_t size, struct err *err)
{
	return init(mem, size, false, err);
}

int guest_mem_init_huge(struct guest_mem *mem, uint64_t size, struct err *err)
{
	static const char *const shared[] = { "always", "within_size", "advise", "force", NULL };
	static const char *const any[] = { "always", "madvise", NULL };

	return init(mem, size,
		    !huge_pages_are("shmem_enabled", shared) && huge_pages_are("enabled", any),
		    err);
}

int guest_mem_discard(const struct guest_mem *mem, void *hva, uint64_t len)
{
	uint64_t first = align_up((uintptr_t)hva, PAGE_SIZE);
	uint64_t end = align_down((uintptr_t)hva + len, PAGE_SIZE);

	if (end <= first)
		return 0;
	return madvise((void *)(uintptr_t)first, end - first,
		       mem->fd < 0 ? MADV_DONTNEED : MADV_REMOVE) < 0
		   ? -errno
		   : 0;
}

int guest_mem_clear(struct guest_mem *mem)
{
	return guest_mem_discard(mem, mem->slots[0].hva, mem->size);
}

void guest_mem_done(struct guest_mem *mem)
{
	if (mem->slot_count)
		munmap(mem->slots[0].hva, mem->size);
	if (mem->fd >= 0)
		close(mem->fd);
	memset(mem, 0, sizeof(*mem));
	mem->fd = -1;
}
