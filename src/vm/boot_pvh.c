/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PVH entry: 32-bit flat protected mode, paging off, EBX pointing at
 * struct hvm_start_info (Xen's public headers: arch-x86/hvm/start_info.h).
 */
#include "base/util.h"
#include "vm/boot_priv.h"

#define START_MAGIC 0x336ec578u

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
	uint64_t memmap_paddr; /* from version 1 on */
	uint32_t memmap_entries, reserved;
};

struct modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

/* How they stand in the information page */
struct pvh_page {
	struct start_info info;
	struct modlist_entry module;
	struct memmap_entry map[BOOT_RANGE_MAX];
};

int boot_pvh(struct boot_ctx *ctx, const struct boot_file *file, const struct boot_elf *elf,
	     struct err *err)
{
	struct boot_range ranges[BOOT_RANGE_MAX];
	struct pvh_page page = { 0 };
	int ret;

	if (elf->pvh_entry > UINT32_MAX || !boot_ram(ctx, elf->pvh_entry, 1))
		return err_set(err, ENOEXEC, "kernel '%s': its PVH entry %#llx is not in memory",
			       file->path, (unsigned long long)elf->pvh_entry);
	ret = boot_elf_load(ctx, file, elf, err);
	if (ret == 0)
		ret = boot_put_cmdline(ctx, "", BOOT_CMDLINE_AREA - 1, err);
	if (ret == 0)
		ret = boot_put_initrd(ctx, ctx->info.kernel_end, UINT32_MAX, true, err);
	if (ret < 0)
		return ret;

	page.info.magic = START_MAGIC;
	page.info.version = 1;
	page.info.cmdline_paddr = BOOT_CMDLINE;
	page.info.rsdp_paddr = ctx->cfg->rsdp_gpa;
	if (ctx->cfg->initrd) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = BOOT_START_INFO + offsetof(struct pvh_page, module);
		page.module.paddr = ctx->info.initrd_start;
		page.module.size = ctx->info.initrd_size;
	}
	page.info.memmap_paddr = BOOT_START_INFO + offsetof(struct pvh_page, map);
	page.info.memmap_entries = boot_memory_map(ctx->mem, ranges);
	for (unsigned i = 0; i < page.info.memmap_entries; i++)
		page.map[i] =
		    (struct memmap_entry) { ranges[i].addr, ranges[i].size, ranges[i].type, 0 };
	memcpy(guest_mem_ptr(ctx->mem, BOOT_START_INFO, sizeof(page)), &page, sizeof(page));

	boot_state_32(ctx, elf->pvh_entry);
	ctx->state->regs[REG_RBX] = BOOT_START_INFO;
	ctx->info.protocol = BOOT_PVH;
	return 0;
}
