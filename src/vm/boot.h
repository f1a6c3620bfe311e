/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct kernel boot: what a boot loader would have done, done by the host.
 * Loop thread, with the vCPUs stopped. Kernel and initrd are files of unknown
 * origin: everything read from them is checked before it is used.
 */
#ifndef EYOT_VM_BOOT_H
#define EYOT_VM_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vm/mem.h"
#include "vm/vcpu_state.h"

/* A file that is read at boot and again at each reset: a descriptor, or bytes in memory. */
struct boot_file {
	const char *what; /* "kernel", "initrd": for errors; borrowed */
	const char *path; /* borrowed */
	int fd;		  /* -1: none */
	const uint8_t *bytes;
	uint64_t size;
};

/* Which way in is taken where a kernel offers several. */
enum boot_prefer {
	BOOT_PREFER_LINUX, /* the Linux 64-bit entry for Linux kernels, PVH for others */
	BOOT_PREFER_PVH,   /* the PVH entry wherever there is one */
};

enum boot_protocol {
	BOOT_LINUX_64,	    /* decompressed on the host, entered at the kernel proper */
	BOOT_LINUX_BZIMAGE, /* entered at the bzImage's own code, which does the rest */
	BOOT_PVH,
	BOOT_MULTIBOOT,
};

struct boot_config {
	const struct boot_file *kernel;
	const struct boot_file *initrd; /* NULL: none */
	const char *cmdline;		/* "" for none */
	enum boot_prefer prefer;
	uint64_t rsdp_gpa; /* 0: no ACPI tables */
};

struct boot_info {
	enum boot_protocol protocol;
	uint64_t entry;
	uint64_t kernel_start, kernel_end; /* guest physical, [start, end) */
	uint64_t initrd_start, initrd_size;
};

/**
 * boot_file_open() - open a regular file for reading
 * @what, @path: borrowed by @ret_file
 * @ret_file: on success to be ended by boot_file_close()
 *
 * Return: 0 or -errno with a text.
 */
int boot_file_open(const char *what, const char *path, struct boot_file *ret_file, struct err *err);
void boot_file_close(struct boot_file *file);

/**
 * boot_load() - put kernel, initrd, command line and their description into RAM
 * @mem: guest RAM, reading zero
 * @state: vCPU 0 in its power-on state; changed into the one the kernel expects
 * @ret_info: what was done; may be NULL
 *
 * Return: 0; -EINVAL, -ENOEXEC (no kernel or none for this machine), -EFBIG
 * (does not fit), -EIO with a text that names the file.
 */
int boot_load(const struct boot_config *cfg, struct guest_mem *mem, struct vcpu_state *state,
	      struct boot_info *ret_info, struct err *err);

/** boot_protocol_name() - for people */
const char *boot_protocol_name(enum boot_protocol protocol);

/* One range of the physical memory map as told to kernels; types of ACPI's address ranges. */
#define BOOT_RANGE_RAM 1u
#define BOOT_RANGE_RESERVED 2u
#define BOOT_RANGE_MAX 8

struct boot_range {
	uint64_t addr, size;
	uint32_t type;
};

/** boot_memory_map() - the map, sorted; at most BOOT_RANGE_MAX ranges. Return: how many */
unsigned boot_memory_map(const struct guest_mem *mem, struct boot_range *ranges);

#endif
