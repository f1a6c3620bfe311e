/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the loaders (boot*.c) only. */
#ifndef EYOT_VM_BOOT_PRIV_H
#define EYOT_VM_BOOT_PRIV_H

#include <stdbool.h>

#include "vm/boot.h"

/*
 * What the loaders put below 1 MiB, in conventional memory. Kernels are refused
 * there, so nothing overlaps; but for multiboot ones, which may lie where a
 * multiboot loader puts nothing: BOOT_MULTIBOOT_LOW and behind the command line.
 */
#define BOOT_GDT 0x500u
#define BOOT_START_INFO 0x6000u	 /* PVH or multiboot information, one page */
#define BOOT_ZERO_PAGE 0x7000u	 /* Linux boot_params, one page */
#define BOOT_PAGE_TABLES 0x9000u /* PML4, PDPT and four page directories */
#define BOOT_CMDLINE 0x10000u
#define BOOT_CMDLINE_AREA 0x10000u
#define BOOT_CONVENTIONAL_END 0x9fc00u
#define BOOT_KERNEL_MIN 0x100000u
#define BOOT_MULTIBOOT_LOW BOOT_ZERO_PAGE

#define BOOT_SEL_CODE 0x10
#define BOOT_SEL_DATA 0x18
#define BOOT_SEL_TSS 0x20

/* One boot under way. */
struct boot_ctx {
	const struct boot_config *cfg;
	struct guest_mem *mem;
	struct vcpu_state *state;
	struct boot_info info;
	uint64_t low_end; /* end of RAM below 4 GiB */
	bool multiboot;
};

/** boot_read() - exactly @len bytes at @off; -ENOEXEC behind the file's end, -EIO, with a text */
int boot_read(const struct boot_file *file, uint64_t off, void *buf, uint64_t len, struct err *err);

/** boot_ram() - host address of RAM at [@gpa, @gpa+@len) where a kernel may lie; NULL when it is
 * not */
void *boot_ram(const struct boot_ctx *ctx, uint64_t gpa, uint64_t len);

/** boot_put_cmdline() - copy the command line, with @prefix in front; @max: most bytes without the
 * end */
int boot_put_cmdline(struct boot_ctx *ctx, const char *prefix, size_t max, struct err *err);

/**
 * boot_put_initrd() - read the initrd to RAM
 * @lowest: not below; @last: address of the last byte at most
 * @high: as high as possible, else as low as possible
 */
int boot_put_initrd(struct boot_ctx *ctx, uint64_t lowest, uint64_t last, bool high,
		    struct err *err);

/** boot_state_32() - flat protected mode without paging, interrupts off, at @entry */
void boot_state_32(struct boot_ctx *ctx, uint64_t entry);

/** boot_state_64() - long mode with the first 4 GiB mapped to themselves, interrupts off, at @entry
 */
void boot_state_64(struct boot_ctx *ctx, uint64_t entry);

/* ---- ELF (boot_elf.c) ---- */

#define BOOT_ELF_SEGMENTS 64

struct boot_elf_seg {
	uint32_t type;
	uint64_t off, vaddr, paddr, filesz, memsz;
};

struct boot_elf {
	bool is64;
	uint16_t machine;
	uint64_t entry; /* as in the header */
	unsigned seg_count;
	struct boot_elf_seg segs[BOOT_ELF_SEGMENTS];
	bool has_pvh, is_linux; /* by their notes */
	uint64_t pvh_entry;
};

/** boot_elf_parse() - header, segments and notes; -ENOEXEC when it is no x86 ELF executable */
int boot_elf_parse(const struct boot_file *file, struct boot_elf *elf, struct err *err);

/** boot_elf_load() - segments to their physical addresses; fills ctx->info.kernel_* */
int boot_elf_load(struct boot_ctx *ctx, const struct boot_file *file, const struct boot_elf *elf,
		  struct err *err);

/** boot_elf_entry() - the entry as a physical address; -ENOEXEC when it is in no segment */
int boot_elf_entry(const struct boot_file *file, const struct boot_elf *elf, uint64_t *ret_entry,
		   struct err *err);

/* ---- the protocols ---- */

/** boot_linux_bzimage() - -ENOTSUP without text when the file is no bzImage */
int boot_linux_bzimage(struct boot_ctx *ctx, struct err *err);
int boot_linux_elf(struct boot_ctx *ctx, const struct boot_file *file, const struct boot_elf *elf,
		   struct err *err);
int boot_pvh(struct boot_ctx *ctx, const struct boot_file *file, const struct boot_elf *elf,
	     struct err *err);

/** boot_multiboot() - @elf: the file as ELF or NULL; -ENOTSUP without text without a multiboot
 * header */
int boot_multiboot(struct boot_ctx *ctx, const struct boot_elf *elf, struct err *err);

/**
 * boot_decompress() - expand a kernel's payload
 * @in, @len: the compressed bytes, with a kernel's size trailer or other bytes behind
 * @max: most bytes of output
 * @ret_out: the caller frees
 *
 * Return: 0; -ENOTSUP when the format is unknown; -EBADMSG, -EFBIG, -ENOMEM with a text.
 */
int boot_decompress(const uint8_t *in, size_t len, size_t max, uint8_t **ret_out, size_t *ret_len,
		    struct err *err);

#endif
