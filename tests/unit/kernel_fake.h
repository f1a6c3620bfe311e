/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up kernels for the loader's tests: ELF files and bzImages, right unless a test breaks them.
 */
#ifndef EYOT_TESTS_KERNEL_FAKE_H
#define EYOT_TESTS_KERNEL_FAKE_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/util.h"

#define FAKE_BASE 0x1000000u /* physical address of the ELF kernels' segment */
#define FAKE_ENTRY (FAKE_BASE + 0x40)
#define FAKE_PVH (FAKE_BASE + 0x80)
#define FAKE_VIRT 0xffffffff81000000ull
#define FAKE_FILE 8192u
#define FAKE_CODE_OFF 4096u
#define FAKE_CODE_LEN 2048u
#define FAKE_BSS 65536u

static inline uint8_t fake_byte(unsigned i)
{
	return (uint8_t)(i * 31 + 7);
}

/* A note at @p; its length. */
static inline size_t fake_note(uint8_t *p, const char *owner, uint32_t type, uint32_t desc)
{
	uint32_t namesz = (uint32_t)strlen(owner) + 1;

	put_le32(p, namesz);
	put_le32(p + 4, 4);
	put_le32(p + 8, type);
	memcpy(p + 12, owner, namesz);
	put_le32(p + 12 + align_up(namesz, 4), desc);
	return 16 + align_up(namesz, 4);
}

/* An ELF64 file of FAKE_FILE bytes: one segment of code, one of notes. */
static inline void fake_elf64(uint8_t *f, bool linux_note, bool pvh_note)
{
	Elf64_Ehdr *h = (Elf64_Ehdr *)f;
	Elf64_Phdr *ph = (Elf64_Phdr *)(f + sizeof(*h));
	size_t notes = 0;

	memset(f, 0, FAKE_FILE);
	memcpy(h->e_ident, ELFMAG, SELFMAG);
	h->e_ident[EI_CLASS] = ELFCLASS64;
	h->e_ident[EI_DATA] = ELFDATA2LSB;
	h->e_ident[EI_VERSION] = EV_CURRENT;
	h->e_type = ET_EXEC;
	h->e_machine = EM_X86_64;
	h->e_version = EV_CURRENT;
	h->e_entry = FAKE_ENTRY;
	h->e_phoff = sizeof(*h);
	h->e_phentsize = sizeof(*ph);
	h->e_phnum = 2;
	if (pvh_note)
		notes += fake_note(f + 1024 + notes, "Xen", 18, FAKE_PVH);
	if (linux_note)
		notes += fake_note(f + 1024 + notes, "Linux", 0x100, 1);
	ph[0] = (Elf64_Phdr) { .p_type = PT_LOAD,
			       .p_offset = FAKE_CODE_OFF,
			       .p_vaddr = FAKE_VIRT,
			       .p_paddr = FAKE_BASE,
			       .p_filesz = FAKE_CODE_LEN,
			       .p_memsz = FAKE_CODE_LEN + FAKE_BSS };
	ph[1] = (Elf64_Phdr) {
		.p_type = PT_NOTE, .p_offset = 1024, .p_filesz = notes, .p_memsz = notes
	};
	for (unsigned i = 0; i < FAKE_CODE_LEN; i++)
		f[FAKE_CODE_OFF + i] = fake_byte(i);
}

/* The same as ELF32, with a multiboot header at 512 when @multiboot. */
static inline void fake_elf32(uint8_t *f, bool multiboot)
{
	Elf32_Ehdr *h = (Elf32_Ehdr *)f;
	Elf32_Phdr *ph = (Elf32_Phdr *)(f + sizeof(*h));

	memset(f, 0, FAKE_FILE);
	memcpy(h->e_ident, ELFMAG, SELFMAG);
	h->e_ident[EI_CLASS] = ELFCLASS32;
	h->e_ident[EI_DATA] = ELFDATA2LSB;
	h->e_type = ET_EXEC;
	h->e_machine = EM_386;
	h->e_entry = FAKE_ENTRY;
	h->e_phoff = sizeof(*h);
	h->e_phentsize = sizeof(*ph);
	h->e_phnum = 1;
	ph[0] = (Elf32_Phdr) { .p_type = PT_LOAD,
			       .p_offset = FAKE_CODE_OFF,
			       .p_vaddr = FAKE_BASE,
			       .p_paddr = FAKE_BASE,
			       .p_filesz = FAKE_CODE_LEN,
			       .p_memsz = FAKE_CODE_LEN + FAKE_BSS };
	for (unsigned i = 0; i < FAKE_CODE_LEN; i++)
		f[FAKE_CODE_OFF + i] = fake_byte(i);
	if (multiboot) {
		put_le32(f + 512, 0x1badb002);
		put_le32(f + 516, 3);
		put_le32(f + 520, -(0x1badb002u + 3));
	}
}

#define FAKE_SETUP 1024u /* boot sector and one sector of setup */

/* A bzImage around @payload; its length. @f has room for FAKE_SETUP + 1024 + @len + 16 bytes. */
static inline size_t fake_bzimage(uint8_t *f, const uint8_t *payload, size_t len)
{
	size_t prot = align_up(1024 + len, 16);

	memset(f, 0, FAKE_SETUP + prot);
	f[0x1f1] = 1;
	put_le32(f + 0x1f4, (uint32_t)(prot / 16));
	put_le16(f + 0x1fe, 0xaa55);
	f[0x200] = 0xeb;
	f[0x201] = 0x66;
	memcpy(f + 0x202, "HdrS", 4);
	put_le16(f + 0x206, 0x20f);
	f[0x211] = 1;			 /* loaded high */
	put_le32(f + 0x214, 0x100000);	 /* code32_start */
	put_le32(f + 0x22c, 0x7fffffff); /* initrd_addr_max */
	put_le32(f + 0x230, 0x200000);	 /* kernel_alignment */
	f[0x234] = 1;			 /* relocatable */
	put_le16(f + 0x236, 1);		 /* has a 64-bit entry */
	put_le32(f + 0x238, 2047);	 /* cmdline_size */
	put_le32(f + 0x248, 1024);	 /* payload_offset */
	put_le32(f + 0x24c, (uint32_t)len);
	put_le64(f + 0x258, FAKE_BASE); /* pref_address */
	put_le32(f + 0x260, 0x200000);	/* init_size */
	for (unsigned i = 0; i < 1024; i++)
		f[FAKE_SETUP + i] = fake_byte(i + 3);
	memcpy(f + FAKE_SETUP + 1024, payload, len);
	return FAKE_SETUP + prot;
}

#endif
