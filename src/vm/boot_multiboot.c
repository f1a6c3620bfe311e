/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot specification 0.6.96 ("multiboot 1"): header search, loading by
 * ELF segments or by the header's own addresses, and the information page.
 * The initrd becomes the only module, page-aligned, right behind the kernel
 * or from 1 MiB on.
 */
#include "base/util.h"
#include "vm/boot_priv.h"

#define MB_SEARCH 8192u
#define MB_HEADER_MAGIC 0x1badb002u
#define MB_LOADER_MAGIC 0x2badb002u
#define MB_NEED_PAGE_ALIGN (1u << 0)
#define MB_NEED_MEMORY (1u << 1)
#define MB_HAS_ADDRESSES (1u << 16)
#define MB_MUST_KNOW 0xffffu

#define MB_INFO_MEMORY (1u << 0)
#define MB_INFO_CMDLINE (1u << 2)
#define MB_INFO_MODULES (1u << 3)
#define MB_INFO_MMAP (1u << 6)
#define MB_INFO_LOADER (1u << 9)

struct mb_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr, config_table, boot_loader_name, apm_table;
};

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct mb_mmap {
	uint32_t size; /* of what follows */
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

struct mb_page {
	struct mb_info info;
	struct mb_module module;
	struct mb_mmap map[BOOT_RANGE_MAX];
	char loader[16];
	char module_name[64];
};

/* Find the header; its offset in the file, or -ENOTSUP. */
static int64_t find_header(const struct boot_file *f, struct mb_header *h, struct err *err)
{
	uint8_t buf[MB_SEARCH];
	uint64_t len = min_u64(f->size, sizeof(buf));
	int ret = boot_read(f, 0, buf, len, err);

	if (ret < 0)
		return ret;
	for (uint64_t off = 0; off + 12 <= len; off += 4) {
		if (get_le32(buf + off) != MB_HEADER_MAGIC ||
		    get_le32(buf + off) + get_le32(buf + off + 4) + get_le32(buf + off + 8) != 0)
			continue;
		memset(h, 0, sizeof(*h));
		memcpy(h, buf + off, min_u64(sizeof(*h), len - off));
		if ((h->flags & MB_HAS_ADDRESSES) && len - off < sizeof(*h))
			continue;
		return (int64_t)off;
	}
	return -ENOTSUP;
}

/* Load by the addresses in the header, for files of any format. */
static int load_raw(struct boot_ctx *ctx, const struct mb_header *h, uint64_t header_off,
		    struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	uint64_t before, file_off, file_len, mem_len;
	void *p;

	if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > header_off)
		return err_set(err, ENOEXEC,
			       "kernel '%s': multiboot load address lies before the file's start",
			       f->path);
	before = h->header_addr - h->load_addr;
	file_off = header_off - before;
	file_len = f->size - file_off;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr || h->load_end_addr - h->load_addr > file_len)
			return err_set(
			    err, ENOEXEC,
			    "kernel '%s': truncated: multiboot load end %#x lies behind its end",
			    f->path, h->load_end_addr);
		file_len = h->load_end_addr - h->load_addr;
	}
	mem_len = file_len;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr || h->bss_end_addr - h->load_addr < file_len)
			return err_set(err, ENOEXEC,
				       "kernel '%s': multiboot bss end %#x lies inside its data",
				       f->path, h->bss_end_addr);
		mem_len = h->bss_end_addr - h->load_addr;
	}
	if (h->entry_addr < h->load_addr || h->entry_addr - h->load_addr >= mem_len)
		return err_set(err, ENOEXEC, "kernel '%s': multiboot entry %#x lies outside of it",
			       f->path, h->entry_addr);
	p = boot_ram(ctx, h->load_addr, mem_len);
	if (!p)
		return err_set(
		    err, EFBIG, "kernel '%s': needs memory at %#x-%#llx, which the machine has not",
		    f->path, h->load_addr, (unsigned long long)(h->load_addr + mem_len - 1));
	ctx->info.kernel_start = h->load_addr;
	ctx->info.kernel_end = h->load_addr + mem_len;
	ctx->info.entry = h->entry_addr;
	return boot_read(f, file_off, p, file_len, err);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

static void put_info(struct boot_ctx *ctx)
{
	struct boot_range ranges[BOOT_RANGE_MAX];
	struct mb_page page = { 0 };
	unsigned n = boot_memory_map(ctx->mem, ranges);

	page.info.flags =
	    MB_INFO_MEMORY | MB_INFO_CMDLINE | MB_INFO_MODULES | MB_INFO_MMAP | MB_INFO_LOADER;
	page.info.mem_lower = BOOT_CONVENTIONAL_END >> 10;
	page.info.mem_upper = (uint32_t)((ctx->low_end - MIB(1)) >> 10);
	page.info.cmdline = BOOT_CMDLINE;
	page.info.mods_addr = BOOT_START_INFO + offsetof(struct mb_page, module);
	if (ctx->cfg->initrd) {
		page.info.mods_count = 1;
		page.module.start = (uint32_t)ctx->info.initrd_start;
		page.module.end = (uint32_t)(ctx->info.initrd_start + ctx->info.initrd_size);
		page.module.string = BOOT_START_INFO + offsetof(struct mb_page, module_name);
		strncpy(page.module_name, base_name(ctx->cfg->initrd->path),
			sizeof(page.module_name) - 1);
	}
	for (unsigned i = 0; i < n; i++)
		page.map[i] = (struct mb_mmap) { sizeof(struct mb_mmap) - 4, ranges[i].addr,
						 ranges[i].size, ranges[i].type };
	page.info.mmap_addr = BOOT_START_INFO + offsetof(struct mb_page, map);
	page.info.mmap_length = n * (uint32_t)sizeof(struct mb_mmap);
	page.info.boot_loader_name = BOOT_START_INFO + offsetof(struct mb_page, loader);
	strcpy(page.loader, "eyot");
	memcpy(guest_mem_ptr(ctx->mem, BOOT_START_INFO, sizeof(page)), &page, sizeof(page));
}

int boot_multiboot(struct boot_ctx *ctx, const struct boot_elf *elf, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	char prefix[256];
	struct mb_header h;
	uint64_t entry;
	int64_t off = find_header(f, &h, err);
	int ret;

	if (off < 0)
		return (int)off;
	if (h.flags & MB_MUST_KNOW & ~(MB_NEED_PAGE_ALIGN | MB_NEED_MEMORY))
		return err_set(
		    err, ENOEXEC,
		    "kernel '%s': multiboot header asks for what is not offered (flags %#x)",
		    f->path, h.flags);
	ctx->multiboot = true;
	if (h.flags & MB_HAS_ADDRESSES) {
		ret = load_raw(ctx, &h, (uint64_t)off, err);
		entry = ctx->info.entry;
	} else if (elf) {
		ret = boot_elf_entry(f, elf, &entry, err);
		if (ret == 0)
			ret = boot_elf_load(ctx, f, elf, err);
	} else {
		ret = err_set(err, ENOEXEC,
			      "kernel '%s': a multiboot header without addresses, and no ELF file",
			      f->path);
	}
	if (ret < 0)
		return ret;
	if (ctx->info.kernel_end > UINT32_MAX || entry > UINT32_MAX)
		return err_set(err, EFBIG, "kernel '%s': a multiboot kernel must be below 4 GiB",
			       f->path);
	/* By custom the command line starts with the kernel's name. */
	strncpy(prefix, base_name(f->path), sizeof(prefix) - 2);
	prefix[sizeof(prefix) - 2] = '\0';
	if (ctx->cfg->cmdline[0])
		strcat(prefix, " ");
	ret = boot_put_cmdline(ctx, prefix, BOOT_CMDLINE_AREA - 1, err);
	if (ret == 0)
		ret = boot_put_initrd(ctx, max_u64(ctx->info.kernel_end, BOOT_KERNEL_MIN),
				      UINT32_MAX, false, err);
	if (ret < 0)
		return ret;
	put_info(ctx);
	boot_state_32(ctx, entry);
	ctx->state->regs[REG_RAX] = MB_LOADER_MAGIC;
	ctx->state->regs[REG_RBX] = BOOT_START_INFO;
	ctx->info.protocol = BOOT_MULTIBOOT;
	return 0;
}
