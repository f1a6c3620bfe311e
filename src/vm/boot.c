/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds out what a kernel file is and hands it to the loader of its protocol;
 * holds what the loaders share.
 *
 * Order of the tests: a bzImage is told by its setup header; an ELF file that
 * is a 64-bit Linux kernel (by its notes) takes the Linux 64-bit entry; other
 * ELF files take PVH, then multiboot, by what they offer - 32-bit ones multiboot
 * first -; an ELF64 file that offers neither is taken for a Linux-like kernel.
 * A file that is no ELF at all may still carry a multiboot header with addresses.
 */
#include "vm/boot.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/util.h"
#include "vm/boot_priv.h"

int boot_file_open(const char *what, const char *path, struct boot_file *ret_file, struct err *err)
{
	struct stat st;
	int fd, ret;

	/* O_NONBLOCK: a FIFO must not make us wait before we refuse it. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set(err, errno, "%s '%s': %s", what, path, strerror(errno));
	if (fstat(fd, &st) < 0)
		ret = err_set(err, errno, "%s '%s': %s", what, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		ret = err_set(err, EINVAL, "%s '%s': not a regular file", what, path);
	else if (st.st_size == 0)
		ret = err_set(err, EINVAL, "%s '%s': the file is empty", what, path);
	else
		ret = 0;
	if (ret < 0) {
		close(fd);
		return ret;
	}
	*ret_file = (struct boot_file) {
		.what = what, .path = path, .fd = fd, .size = (uint64_t)st.st_size
	};
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

int boot_read(const struct boot_file *file, uint64_t off, void *buf, uint64_t len, struct err *err)
{
	uint8_t *p = buf;

	if (off > file->size || len > file->size - off)
		return err_set(
		    err, ENOEXEC, "%s '%s': truncated: %llu bytes at offset %llu are missing",
		    file->what, file->path, (unsigned long long)len, (unsigned long long)off);
	if (file->bytes) {
		memcpy(buf, file->bytes + off, len);
		return 0;
	}
	while (len) {
		/* sandbox: loop: pread64 */
		ssize_t n = pread(file->fd, p, min_u64(len, MIB(64)), (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, EIO, "%s '%s': read: %s", file->what, file->path,
				       strerror(errno));
		if (n == 0)
			return err_set(err, EIO,
				       "%s '%s': the file became shorter while it was read",
				       file->what, file->path);
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

void *boot_ram(const struct boot_ctx *ctx, uint64_t gpa, uint64_t len)
{
	if (gpa < BOOT_KERNEL_MIN) {
		uint64_t start = BOOT_MULTIBOOT_LOW, end = BOOT_CMDLINE;

		if (gpa >= BOOT_CMDLINE) {
			start = BOOT_CMDLINE + BOOT_CMDLINE_AREA;
			end = BOOT_CONVENTIONAL_END;
		}
		if (!ctx->multiboot || gpa < start || gpa >= end || len > end - gpa)
			return NULL;
	}
	return guest_mem_ptr(ctx->mem, gpa, len);
}

unsigned boot_memory_map(const struct guest_mem *mem, struct boot_range *r)
{
	unsigned n = 0;

	r[n++] = (struct boot_range) { 0, BOOT_CONVENTIONAL_END, BOOT_RANGE_RAM };
	/* Upper memory: where a PC has its BIOS area, video memory and ROMs; the ACPI tables are
	 * here. */
	r[n++] = (struct boot_range) { BOOT_CONVENTIONAL_END, MIB(1) - BOOT_CONVENTIONAL_END,
				       BOOT_RANGE_RESERVED };
	if (mem->slots[0].size > MIB(1))
		r[n++] =
		    (struct boot_range) { MIB(1), mem->slots[0].size - MIB(1), BOOT_RANGE_RAM };
	r[n++] = (struct boot_range) { MEM_ECAM_BASE, MEM_ECAM_SIZE, BOOT_RANGE_RESERVED };
	if (mem->slot_count > 1)
		r[n++] =
		    (struct boot_range) { mem->slots[1].gpa, mem->slots[1].size, BOOT_RANGE_RAM };
	return n;
}

int boot_put_cmdline(struct boot_ctx *ctx, const char *prefix, size_t max, struct err *err)
{
	char *area = guest_mem_ptr(ctx->mem, BOOT_CMDLINE, BOOT_CMDLINE_AREA);
	size_t prefix_len = strlen(prefix), len = prefix_len + strlen(ctx->cfg->cmdline);

	if (max > BOOT_CMDLINE_AREA - 1)
		max = BOOT_CMDLINE_AREA - 1;
	if (len > max)
		return err_set(err, EINVAL,
			       "command line: %zu bytes; kernel '%s' takes at most %zu", len,
			       ctx->cfg->kernel->path, max);
	memcpy(area, prefix, prefix_len);
	memcpy(area + prefix_len, ctx->cfg->cmdline, len - prefix_len);
	area[len] = '\0';
	return 0;
}

int boot_put_initrd(struct boot_ctx *ctx, uint64_t lowest, uint64_t last, bool high,
		    struct err *err)
{
	const struct boot_file *f = ctx->cfg->initrd;
	uint64_t end, start;
	void *p;

	if (!f)
		return 0;
	end = min_u64(ctx->low_end, last + 1);
	lowest = align_up(lowest, PAGE_SIZE);
	if (lowest >= end || f->size > end - lowest)
		return err_set(err, EFBIG,
			       "initrd '%s': its %llu KiB do not fit beside the kernel into %llu "
			       "MiB of memory",
			       f->path, (unsigned long long)((f->size + 1023) >> 10),
			       (unsigned long long)(ctx->mem->size >> 20));
	start = high ? align_down(end - f->size, PAGE_SIZE) : lowest;
	p = boot_ram(ctx, start, f->size);
	if (start < lowest || !p)
		return err_set(err, EFBIG, "initrd '%s': no room for it at %#llx", f->path,
			       (unsigned long long)start);
	ctx->info.initrd_start = start;
	ctx->info.initrd_size = f->size;
	return boot_read(f, 0, p, f->size, err);
}

/* ---- initial CPU state ---- */

#define MTRR_ENABLE 0x800u
#define MTRR_TYPE_WB 6u

static struct vcpu_seg flat_segment(uint16_t selector, uint32_t attr)
{
	return (
	    struct vcpu_seg) { .selector = selector, .attr = attr, .limit = 0xffffffff, .base = 0 };
}

static void state_common(struct boot_ctx *ctx, uint64_t entry, bool long_mode)
{
	/* Descriptors that say what the hidden parts below say, for kernels that reload a segment.
	 */
	const uint64_t gdt[] = {
		0,
		0,
		long_mode ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull,
		0x00cf93000000ffffull,
		0x00008b0000000067ull,
		0,
	};
	struct vcpu_state *s = ctx->state;
	uint8_t *p = guest_mem_ptr(ctx->mem, BOOT_GDT, sizeof(gdt));
	/* Type 11: code, execute and read, accessed; type 3: data, read and write, accessed */
	uint32_t code = 0xb | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G;
	uint32_t data = 0x3 | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G | SEG_ATTR_DB;

	memcpy(p, gdt, sizeof(gdt));
	s->gdt = (struct vcpu_dtable) { .base = BOOT_GDT, .limit = sizeof(gdt) - 1 };
	s->idt = (struct vcpu_dtable) { .base = 0, .limit = 0 };
	s->segs[SEG_CS] =
	    flat_segment(BOOT_SEL_CODE, code | (long_mode ? SEG_ATTR_L : SEG_ATTR_DB));
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		if (i != SEG_CS)
			s->segs[i] = flat_segment(BOOT_SEL_DATA, data);
	s->segs[SEG_TR] =
	    (struct vcpu_seg) { .selector = BOOT_SEL_TSS, .attr = 0xb | SEG_ATTR_P, .limit = 0x67 };
	s->segs[SEG_LDT] = (struct vcpu_seg) { .attr = SEG_ATTR_UNUSABLE };
	memset(s->regs, 0, sizeof(s->regs));
	s->rip = entry;
	s->rflags = 2;
	s->run_state = VCPU_RUNNING;
	/* What firmware would have left: memory types on, all write-back; devices are told by page
	 * tables. */
	s->msr_mtrr_def = MTRR_ENABLE | MTRR_TYPE_WB;
	ctx->info.entry = entry;
}

#define CR0_PE 0x1u
#define CR0_ET 0x10u
#define CR0_PG 0x80000000u
#define CR4_PAE 0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define PTE_P_RW 0x3u
#define PTE_PS 0x80u

void boot_state_32(struct boot_ctx *ctx, uint64_t entry)
{
	state_common(ctx, entry, false);
	ctx->state->cr0 = CR0_PE | CR0_ET;
	ctx->state->cr3 = 0;
	ctx->state->cr4 = 0;
	ctx->state->efer = 0;
}

void boot_state_64(struct boot_ctx *ctx, uint64_t entry)
{
	uint8_t *tables = guest_mem_ptr(ctx->mem, BOOT_PAGE_TABLES, 6 * PAGE_SIZE);
	uint8_t *pdpt = tables + PAGE_SIZE, *pd = tables + 2 * PAGE_SIZE;

	memset(tables, 0, 6 * PAGE_SIZE);
	put_le64(tables, (BOOT_PAGE_TABLES + PAGE_SIZE) | PTE_P_RW);
	for (unsigned i = 0; i < 4; i++)
		put_le64(pdpt + i * 8, (BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | PTE_P_RW);
	for (unsigned i = 0; i < 4 * 512; i++)
		put_le64(pd + i * 8, ((uint64_t)i << 21) | PTE_PS | PTE_P_RW);
	state_common(ctx, entry, true);
	ctx->state->cr3 = BOOT_PAGE_TABLES;
	ctx->state->cr4 = CR4_PAE;
	ctx->state->efer = EFER_LME | EFER_LMA;
	ctx->state->cr0 = CR0_PE | CR0_ET | CR0_PG;
}

/* ---- what is it? ---- */

/* What else people hand over by mistake gets a name. */
static int refuse(const struct boot_file *f, struct err *err)
{
	uint8_t head[64] = { 0 };
	const char *is = "neither bzImage nor ELF nor multiboot";

	if (boot_read(f, 0, head, min_u64(sizeof(head), f->size), err) < 0)
		return -EIO;
	if (!memcmp(head + 0x38, "ARM\x64", 4))
		is = "an arm64 kernel; this machine is x86-64";
	else if (!memcmp(head + 0x38, "RSC\x05", 4))
		is = "a RISC-V kernel; this machine is x86-64";
	else if (!memcmp(head, "\x1f\x8b", 2) ||
		 !memcmp(head,
			 "\xfd"
			 "7zXZ",
			 5) ||
		 !memcmp(head, "\x28\xb5\x2f\xfd", 4))
		is = "a compressed file and no bzImage; expand it first";
	return err_set(err, ENOEXEC, "kernel '%s': not a kernel: %s", f->path, is);
}

static int load_elf(struct boot_ctx *ctx, struct err *err)
{
	const struct boot_file *f = ctx->cfg->kernel;
	struct boot_elf elf;
	int ret = boot_elf_parse(f, &elf, err);

	if (ret < 0)
		return ret;
	if (!elf.is64) {
		ret = boot_multiboot(ctx, &elf, err);
		if (ret != -ENOTSUP)
			return ret;
	}
	if (elf.has_pvh && (!elf.is_linux || !elf.is64 || ctx->cfg->prefer == BOOT_PREFER_PVH))
		return boot_pvh(ctx, f, &elf, err);
	if (!elf.is64)
		return err_set(
		    err, ENOEXEC,
		    "kernel '%s': a 32-bit ELF file without multiboot header or PVH note", f->path);
	if (!elf.is_linux) {
		ret = boot_multiboot(ctx, &elf, err);
		if (ret != -ENOTSUP)
			return ret;
	}
	return boot_linux_elf(ctx, f, &elf, err);
}

int boot_load(const struct boot_config *cfg, struct guest_mem *mem, struct vcpu_state *state,
	      struct boot_info *ret_info, struct err *err)
{
	struct boot_ctx ctx = {
		.cfg = cfg, .mem = mem, .state = state, .low_end = mem->slots[0].size
	};
	uint8_t magic[4] = { 0 };
	int ret;

	if (ctx.low_end < MIB(2))
		return err_set(err, EINVAL,
			       "memory: %llu KiB are too few to boot a kernel; 2M at least",
			       (unsigned long long)(mem->size >> 10));
	ret = boot_read(cfg->kernel, 0, magic, min_u64(sizeof(magic), cfg->kernel->size), err);
	if (ret < 0)
		return ret;
	if (!memcmp(magic,
		    "\x7f"
		    "ELF",
		    4)) {
		ret = load_elf(&ctx, err);
	} else {
		ret = boot_linux_bzimage(&ctx, err);
		if (ret == -ENOTSUP)
			ret = boot_multiboot(&ctx, NULL, err);
		if (ret == -ENOTSUP)
			ret = refuse(cfg->kernel, err);
	}
	if (ret == 0 && ret_info)
		*ret_info = ctx.info;
	return ret;
}

const char *boot_protocol_name(enum boot_protocol protocol)
{
	static const char *const names[] = {
		[BOOT_LINUX_64] = "Linux 64-bit entry",
		[BOOT_LINUX_BZIMAGE] = "Linux boot protocol",
		[BOOT_PVH] = "PVH",
		[BOOT_MULTIBOOT] = "multiboot",
	};

	return names[protocol];
}
