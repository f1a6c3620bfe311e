/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux/x86 boot protocol (Linux: Documentation/arch/x86/boot.rst).
 *
 * A bzImage whose payload the host can expand to an x86-64 ELF kernel is
 * entered at the kernel proper: that spares the guest its own decompressor.
 * Any other is loaded as a boot loader does it, setup header and protected-mode
 * part, and entered at its 64-bit entry when it has one, else its 32-bit one.
 */
#include <elf.h>

#include "base/util.h"
#include "vm/boot_priv.h"

/* Offsets in the setup header, which are those in the zero page, too */
#define HDR_START 0x1f1
#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE 0x1f4
#define HDR_VID_MODE 0x1fa
#define HDR_BOOT_FLAG 0x1fe
#define HDR_JUMP_LEN 0x201
#define HDR_MAGIC 0x202
#define HDR_VERSION 0x206
#define HDR_TYPE_OF_LOADER 0x210
#define HDR_LOADFLAGS 0x211
#define HDR_CODE32_START 0x214
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE 0x21c
#define HDR_CMD_LINE_PTR 0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_KERNEL_ALIGNMENT 0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS 0x236
#define HDR_CMDLINE_SIZE 0x238
#define HDR_PAYLOAD_OFFSET 0x248
#define HDR_PAYLOAD_LENGTH 0x24c
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE 0x260
#define HDR_END_MAX 0x290

/* Other fields of the zero page */
#define ZP_ACPI_RSDP 0x070
#define ZP_ALT_MEM_K 0x1e0
#define ZP_E820_COUNT 0x1e8
#define ZP_E820 0x2d0

#define LOADED_HIGH 0x01
#define XLF_KERNEL_64 0x01
#define LOADER_UNDEFINED 0xff
#define VID_MODE_NORMAL 0xffff
#define LINUX_CMDLINE_MAX 2047 /* of kernels that do not say */

struct bzimage {
	uint8_t hdr[HDR_END_MAX]; /* the file's start; what a shorter header lacks is zero */
	unsigned hdr_end;
	unsigned version;
	uint64_t prot_off, prot_len; /* protected-mode part in the file */
	uint64_t load, init_size;    /* where it goes, and how much it uses there */
	uint64_t initrd_last;
	unsigned cmdline_max;
};

static int bad(const struct boot_file *f, struct err *err, const char *why)
{
	return err_set(err, ENOEXEC, "kernel '%s': bzImage: %s", f->path, why);
}

/* The zero page, but for what depends on the kernel's own header. */
static uint8_t *put_zero_page(struct boot_ctx *ctx)
{
	uint8_t *zp = guest_mem_ptr(ctx->mem, BOOT_ZERO_PAGE, PAGE_SIZE);
	struct boot_range ranges[BOOT_RANGE_MAX];
	unsigned n = boot_memory_map(ctx->mem, ranges);

	memset(zp, 0, PAGE_SIZE);
	put_le64(zp + ZP_ACPI_RSDP, ctx->cfg->rsdp_gpa);
	put_le32(zp + ZP_ALT_MEM_K, (uint32_t)((ctx->low_end - MIB(1)) >> 10));
	zp[ZP_E820_COUNT] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		put_le64(zp + ZP_E820 + i * 20, ranges[i].addr);
		put_le64(zp + ZP_E820 + i * 20 + 8, ranges[i].size);
		put_le32(zp + ZP_E820 + i * 20 + 16, ranges[i].type);
	}
	return zp;
}

/* Command line and initrd, and what the header says of them; kernel_end is known. */
static int put_rest(struct boot_ctx *ctx, uint8_t *zp, unsigned cmdline_max, uint64_t initrd_last,
		    struct err *err)
{
	int ret = boot_put_cmdline(ctx, "", cmdline_max, err);

	if (ret == 0)
		ret = boot_put_initrd(ctx, ctx->info.kernel_end, initrd_last, true, err);
	if (ret < 0)
		return ret;
	zp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	put_le16(zp + HDR_VID_MODE, VID_MODE_NORMAL);
	put_le32(zp + HDR_CMD_LINE_PTR, BOOT_CMDLINE);
	put_le32(zp + HDR_RAMDISK_IMAGE, (uint32_t)ctx->info.initrd_start);
	put_le32(zp + HDR_RAMDISK_SIZE, (uint32_t)ctx->info.initrd_size);
	return 0;
}

static void enter_64(struct boot_ctx *ctx, uint64_t entry)
{
	boot_state_64(ctx, entry);
	ctx->state->regs[REG_RSI] = BOOT_ZERO_PAGE;
}

/* ---- bzImage ---- */

static int parse_bzimage(const struct boot_file *f, struct bzimage *bz, struct err *err)
{
	uint64_t len = min_u64(f->size, sizeof(bz->hdr));
	unsigned setup_sects;
	int ret;

	memset(bz, 0, sizeof(*bz));
	ret = boot_read(f, 0, bz->hdr, len, err);
	if (ret < 0)
		return ret;
	if (len < HDR_LOADFLAGS + 1u || get_le16(bz->hdr + HDR_BOOT_FLAG) != 0xaa55 ||
	    memcmp(bz->hdr + HDR_MAGIC, "HdrS", 4))
		return -ENOTSUP;
	bz->version = get_le16(bz->hdr + HDR_VERSION);
	if (bz->version < 0x206)
		return err_set(err, ENOEXEC,
			       "kernel '%s': bzImage: boot protocol %u.%02u is older than 2.06",
			       f->path, bz->version >> 8, bz->version & 0xff);
	if (!(bz->hdr[HDR_LOADFLAGS] & LOADED_HIGH))
		return bad(f, err, "a zImage, which loads below 1 MiB, is not supported");
	bz->hdr_end = HDR_MAGIC + bz->hdr[HDR_JUMP_LEN];
	if (bz->hdr_end < HDR_CMDLINE_SIZE + 4u || bz->hdr_end > HDR_END_MAX || bz->hdr_end > len)
		return bad(f, err, "its setup header has a wrong length");
	memset(bz->hdr + bz->hdr_end, 0, sizeof(bz->hdr) - bz->hdr_end);

	setup_sects = bz->hdr[HDR_SETUP_SECTS] ? bz->hdr[HDR_SETUP_SECTS] : 4;
	bz->prot_off = (setup_sects + 1u) * 512u;
	bz->prot_len = (uint64_t)get_le32(bz->hdr + HDR_SYSSIZE) * 16;
	if (bz->prot_len == 0)
		return bad(f, err, "its setup header has no size");
	/* The size counts whole paragraphs; the last may be cut. */
	if (bz->prot_off >= f->size || bz->prot_len > f->size - bz->prot_off + 15)
		return err_set(err, ENOEXEC,
			       "kernel '%s': bzImage: truncated: %llu bytes; its header says %llu",
			       f->path, (unsigned long long)f->size,
			       (unsigned long long)(bz->prot_off + bz->prot_len));
	bz->prot_len = min_u64(bz->prot_len, f->size - bz->prot_off);
	bz->initrd_last = get_le32(bz->hdr + HDR_INITRD_ADDR_MAX);
	bz->cmdline_max = get_le32(bz->hdr + HDR_CMDLINE_SIZE);
	if (bz->cmdline_max == 0)
		bz->cmdline_max = 255;
	return 0;
}

/* Where the protected-mode part goes and how much memory it needs there. */
static int place_bzimage(struct boot_ctx *ctx, struct bzimage *bz, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	uint64_t align = get_le32(bz->hdr + HDR_KERNEL_ALIGNMENT);

	bz->load = get_le32(bz->hdr + HDR_CODE32_START);
	bz->init_size = bz->prot_len;
	if (bz->version >= 0x20a) {
		uint64_t pref = get_le64(bz->hdr + HDR_PREF_ADDRESS);

		bz->init_size = max_u64(bz->init_size, get_le32(bz->hdr + HDR_INIT_SIZE));
		if (bz->hdr[HDR_RELOCATABLE] && pref && pref <= UINT32_MAX &&
		    boot_ram(ctx, pref, bz->init_size))
			bz->load = pref;
	}
	if (bz->hdr[HDR_RELOCATABLE] && align && (align & (align - 1)) == 0)
		bz->load = align_up(bz->load, align);
	if (bz->load > UINT32_MAX || !boot_ram(ctx, bz->load, bz->init_size))
		return err_set(
		    err, EFBIG,
		    "kernel '%s': needs %llu KiB of memory at %#llx; the machine has %llu MiB",
		    f->path, (unsigned long long)(bz->init_size >> 10),
		    (unsigned long long)bz->load, (unsigned long long)(ctx->mem->size >> 20));
	return 0;
}

static int load_as_loader(struct boot_ctx *ctx, struct bzimage *bz, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	bool has_64 = bz->version >= 0x20c && (get_le16(bz->hdr + HDR_XLOADFLAGS) & XLF_KERNEL_64);
	uint8_t *zp;
	int ret;

	ret = place_bzimage(ctx, bz, err);
	if (ret < 0)
		return ret;
	if (has_64 && bz->prot_len <= 0x200)
		return bad(f, err, "too short for its 64-bit entry");
	ret = boot_read(f, bz->prot_off, boot_ram(ctx, bz->load, bz->prot_len), bz->prot_len, err);
	if (ret < 0)
		return ret;
	ctx->info.kernel_start = bz->load;
	ctx->info.kernel_end = bz->load + bz->init_size;
	zp = put_zero_page(ctx);
	memcpy(zp + HDR_START, bz->hdr + HDR_START, bz->hdr_end - HDR_START);
	put_le32(zp + HDR_CODE32_START, (uint32_t)bz->load);
	ret = put_rest(ctx, zp, bz->cmdline_max, bz->initrd_last, err);
	if (ret < 0)
		return ret;
	if (has_64) {
		enter_64(ctx, bz->load + 0x200);
	} else {
		boot_state_32(ctx, bz->load);
		ctx->state->regs[REG_RSI] = BOOT_ZERO_PAGE;
	}
	ctx->info.protocol = BOOT_LINUX_BZIMAGE;
	return 0;
}

/* Expand the payload to an ELF file in memory; -ENOTSUP when there is none we can read. */
static int expand(struct boot_ctx *ctx, const struct bzimage *bz, uint8_t **ret_elf,
		  size_t *ret_len, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	_cleanup_free_ uint8_t *packed = NULL;
	uint64_t off, len;
	int ret;

	if (bz->version < 0x208)
		return -ENOTSUP;
	off = get_le32(bz->hdr + HDR_PAYLOAD_OFFSET);
	len = get_le32(bz->hdr + HDR_PAYLOAD_LENGTH);
	if (off == 0 || len == 0)
		return -ENOTSUP;
	if (off > bz->prot_len || len > bz->prot_len - off)
		return bad(f, err, "its payload lies outside of it");
	packed = malloc(len);
	if (!packed)
		return err_set(err, ENOMEM, "kernel '%s': out of memory", f->path);
	ret = boot_read(f, bz->prot_off + off, packed, len, err);
	if (ret < 0)
		return ret;
	/* An ELF kernel that fits into RAM is hardly larger than RAM, with its tables. */
	ret = boot_decompress(packed, len, min_u64(ctx->low_end + MIB(16), GIB(1)), ret_elf,
			      ret_len, err);
	if (ret == -EFBIG)
		return err_set(err, EFBIG,
			       "kernel '%s': its payload does not fit into %llu MiB of memory",
			       f->path, (unsigned long long)(ctx->mem->size >> 20));
	if (ret < 0 && ret != -ENOTSUP)
		return err_prefix(err, ret, "kernel '%s': bzImage payload", f->path);
	return ret;
}

int boot_linux_bzimage(struct boot_ctx *ctx, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	_cleanup_free_ uint8_t *bytes = NULL;
	struct boot_file inner = { .what = f->what, .path = f->path, .fd = -1 };
	struct boot_elf elf;
	struct bzimage bz;
	uint64_t entry;
	uint8_t *zp;
	size_t len;
	int ret;

	ret = parse_bzimage(f, &bz, err);
	if (ret < 0)
		return ret;
	ret = expand(ctx, &bz, &bytes, &len, err);
	if (ret == -ENOTSUP)
		return load_as_loader(ctx, &bz, err);
	if (ret < 0)
		return ret;
	inner.bytes = bytes;
	inner.size = len;
	if (len < EI_NIDENT || memcmp(bytes, ELFMAG, SELFMAG) || bytes[EI_CLASS] != ELFCLASS64)
		return load_as_loader(ctx, &bz, err);
	ret = boot_elf_parse(&inner, &elf, err);
	if (ret < 0)
		return ret;
	elf.is_linux = true;
	if (ctx->cfg->prefer == BOOT_PREFER_PVH && elf.has_pvh)
		return boot_pvh(ctx, &inner, &elf, err);
	ret = boot_elf_entry(&inner, &elf, &entry, err);
	if (ret == 0)
		ret = boot_elf_load(ctx, &inner, &elf, err);
	if (ret < 0)
		return ret;
	zp = put_zero_page(ctx);
	memcpy(zp + HDR_START, bz.hdr + HDR_START, bz.hdr_end - HDR_START);
	ret = put_rest(ctx, zp, bz.cmdline_max, bz.initrd_last, err);
	if (ret < 0)
		return ret;
	enter_64(ctx, entry);
	ctx->info.protocol = BOOT_LINUX_64;
	return 0;
}

/* ---- a bare vmlinux ---- */

int boot_linux_elf(struct boot_ctx *ctx, const struct boot_file *file, const struct boot_elf *elf,
		   struct err *err)
{
	uint64_t entry;
	uint8_t *zp;
	int ret;

	if (elf->machine != EM_X86_64)
		return err_set(err, ENOEXEC, "kernel '%s': a 64-bit ELF file of 32-bit code",
			       file->path);
	ret = boot_elf_entry(file, elf, &entry, err);
	if (ret == 0)
		ret = boot_elf_load(ctx, file, elf, err);
	if (ret < 0)
		return ret;
	/* No setup header came with it: give the kernel one that says what a loader would have
	 * left. */
	zp = put_zero_page(ctx);
	put_le16(zp + HDR_BOOT_FLAG, 0xaa55);
	memcpy(zp + HDR_MAGIC, "HdrS", 4);
	put_le16(zp + HDR_VERSION, 0x20f);
	zp[HDR_LOADFLAGS] = LOADED_HIGH;
	put_le32(zp + HDR_KERNEL_ALIGNMENT, (uint32_t)MIB(16));
	put_le32(zp + HDR_CMDLINE_SIZE, LINUX_CMDLINE_MAX);
	ret = put_rest(ctx, zp, LINUX_CMDLINE_MAX, INT32_MAX, err);
	if (ret < 0)
		return ret;
	enter_64(ctx, entry);
	ctx->info.protocol = BOOT_LINUX_64;
	return 0;
}
