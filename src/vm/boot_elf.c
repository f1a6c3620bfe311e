/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF kernels: both classes are read into one form and checked there.
 * Segments go to their physical addresses; what the file does not fill stays
 * zero, because RAM reads zero when a kernel is loaded.
 */
#include <elf.h>

#include "base/util.h"
#include "vm/boot_priv.h"

#define NOTES_MAX MIB(1)
#define NOTE_PVH 18u /* XEN_ELFNOTE_PHYS32_ENTRY, owner "Xen" */

static int bad(const struct boot_file *f, struct err *err, const char *why)
{
	return err_set(err, ENOEXEC, "%s '%s': bad ELF file: %s", f->what, f->path, why);
}

static void parse_notes(const uint8_t *p, uint64_t len, struct boot_elf *elf)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		uint32_t namesz = get_le32(p), descsz = get_le32(p + 4), type = get_le32(p + 8);
		uint64_t name_room = align_up(namesz, 4), desc_room = align_up(descsz, 4);
		const uint8_t *name = p + sizeof(Elf64_Nhdr);

		len -= sizeof(Elf64_Nhdr);
		if (name_room > len || descsz > len - name_room)
			return;
		if (namesz == 4 && !memcmp(name, "Xen", 4) && type == NOTE_PVH &&
		    (descsz == 4 || descsz == 8)) {
			elf->has_pvh = true;
			elf->pvh_entry =
			    descsz == 8 ? get_le64(name + name_room) : get_le32(name + name_room);
		}
		if (namesz == 6 && !memcmp(name, "Linux", 6))
			elf->is_linux = true;
		if (desc_room > len - name_room)
			return;
		p = name + name_room + desc_room;
		len -= name_room + desc_room;
	}
}

static int read_notes(const struct boot_file *f, struct boot_elf *elf, struct err *err)
{
	for (unsigned i = 0; i < elf->seg_count; i++) {
		const struct boot_elf_seg *s = &elf->segs[i];
		_cleanup_free_ uint8_t *buf = NULL;
		int ret;

		if (s->type != PT_NOTE || s->filesz == 0)
			continue;
		if (s->filesz > NOTES_MAX)
			return bad(f, err, "more than 1 MiB of notes");
		buf = malloc(s->filesz);
		if (!buf)
			return err_set(err, ENOMEM, "%s '%s': out of memory", f->what, f->path);
		ret = boot_read(f, s->off, buf, s->filesz, err);
		if (ret < 0)
			return ret;
		parse_notes(buf, s->filesz, elf);
	}
	return 0;
}

static void take_segment(const uint8_t *ph, bool is64, struct boot_elf_seg *s)
{
	if (is64) {
		Elf64_Phdr h;

		memcpy(&h, ph, sizeof(h));
		*s = (struct boot_elf_seg) { h.p_type,	h.p_offset, h.p_vaddr,
					     h.p_paddr, h.p_filesz, h.p_memsz };
	} else {
		Elf32_Phdr h;

		memcpy(&h, ph, sizeof(h));
		*s = (struct boot_elf_seg) { h.p_type,	h.p_offset, h.p_vaddr,
					     h.p_paddr, h.p_filesz, h.p_memsz };
	}
}

int boot_elf_parse(const struct boot_file *f, struct boot_elf *elf, struct err *err)
{
	uint8_t table[BOOT_ELF_SEGMENTS * sizeof(Elf64_Phdr)];
	union {
		unsigned char ident[EI_NIDENT];
		Elf32_Ehdr h32;
		Elf64_Ehdr h64;
	} h;
	uint64_t phoff;
	unsigned phnum, phentsize, type;
	int ret;

	memset(elf, 0, sizeof(*elf));
	memset(&h, 0, sizeof(h));
	ret = boot_read(f, 0, &h, min_u64(f->size, sizeof(h)), err);
	if (ret < 0)
		return ret;
	if (h.ident[EI_DATA] != ELFDATA2LSB ||
	    (h.ident[EI_CLASS] != ELFCLASS32 && h.ident[EI_CLASS] != ELFCLASS64))
		return bad(f, err, "neither 32 nor 64 bit little-endian");
	elf->is64 = h.ident[EI_CLASS] == ELFCLASS64;
	if (f->size < (elf->is64 ? sizeof(h.h64) : sizeof(h.h32)))
		return bad(f, err, "truncated in its header");
	elf->machine = elf->is64 ? h.h64.e_machine : h.h32.e_machine;
	type = elf->is64 ? h.h64.e_type : h.h32.e_type;
	elf->entry = elf->is64 ? h.h64.e_entry : h.h32.e_entry;
	phoff = elf->is64 ? h.h64.e_phoff : h.h32.e_phoff;
	phnum = elf->is64 ? h.h64.e_phnum : h.h32.e_phnum;
	phentsize = elf->is64 ? h.h64.e_phentsize : h.h32.e_phentsize;
	/* Multiboot kernels may be x86-64 code in 32-bit files, so either machine goes with either
	 * class. */
	if (elf->machine != EM_X86_64 && elf->machine != EM_386)
		return err_set(
		    err, ENOEXEC,
		    "%s '%s': built for another architecture (ELF machine %u), not x86-64", f->what,
		    f->path, elf->machine);
	if (type != ET_EXEC && type != ET_DYN)
		return bad(f, err, "not an executable");
	if (phnum < 1 || phnum > BOOT_ELF_SEGMENTS)
		return bad(f, err, "no segments, or more than 64");
	if (phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return bad(f, err, "wrong size of a segment header");
	ret = boot_read(f, phoff, table, (uint64_t)phnum * phentsize, err);
	if (ret < 0)
		return ret;
	elf->seg_count = phnum;
	for (unsigned i = 0; i < phnum; i++) {
		struct boot_elf_seg *s = &elf->segs[i];

		take_segment(table + i * phentsize, elf->is64, s);
		if (s->type != PT_LOAD && s->type != PT_NOTE)
			continue;
		if (s->filesz && (s->off > f->size || s->filesz > f->size - s->off))
			return err_set(err, ENOEXEC,
				       "%s '%s': truncated: segment %u ends behind the file's end",
				       f->what, f->path, i);
		if (s->type == PT_LOAD && (s->filesz > s->memsz || s->paddr + s->memsz < s->paddr ||
					   s->vaddr + s->memsz < s->vaddr))
			return bad(f, err, "a segment's size makes no sense");
	}
	return read_notes(f, elf, err);
}

int boot_elf_load(struct boot_ctx *ctx, const struct boot_file *f, const struct boot_elf *elf,
		  struct err *err)
{
	uint64_t start = UINT64_MAX, end = 0;

	for (unsigned i = 0; i < elf->seg_count; i++) {
		const struct boot_elf_seg *s = &elf->segs[i];
		void *p;
		int ret;

		if (s->type != PT_LOAD || s->memsz == 0)
			continue;
		p = boot_ram(ctx, s->paddr, s->memsz);
		if (!p)
			return err_set(err, EFBIG,
				       "%s '%s': needs memory at %#llx-%#llx; the machine has "
				       "0x%x-%#llx for kernels",
				       f->what, f->path, (unsigned long long)s->paddr,
				       (unsigned long long)(s->paddr + s->memsz - 1),
				       BOOT_KERNEL_MIN, (unsigned long long)(ctx->low_end - 1));
		ret = boot_read(f, s->off, p, s->filesz, err);
		if (ret < 0)
			return ret;
		start = min_u64(start, s->paddr);
		end = max_u64(end, s->paddr + s->memsz);
	}
	if (!end)
		return bad(f, err, "nothing to load");
	ctx->info.kernel_start = start;
	ctx->info.kernel_end = end;
	return 0;
}

int boot_elf_entry(const struct boot_file *f, const struct boot_elf *elf, uint64_t *ret_entry,
		   struct err *err)
{
	/* Linux gives a physical address, most others a virtual one; try the likely one first. */
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < elf->seg_count; i++) {
			const struct boot_elf_seg *s = &elf->segs[i];
			uint64_t base = (pass == 0) == elf->is_linux ? s->paddr : s->vaddr;

			if (s->type == PT_LOAD && elf->entry >= base &&
			    elf->entry - base < s->memsz) {
				*ret_entry = s->paddr + (elf->entry - base);
				return 0;
			}
		}
	}
	return bad(f, err, "its entry is in no segment");
}
