/* SPDX-License-Identifier: Apache-2.0 */
/* vm: kernel loaders, with made-up kernels and with the distribution's where it is installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bzlib.h>
#include <glob.h>
#include <lz4.h>
#include <lz4hc.h>
#include <lzma.h>
#include <stdio.h>
#include <zlib.h>
#include <zstd.h>

#include "kernel_fake.h"
#include "vm/boot.h"

struct fixture {
	struct guest_mem mem;
	struct vcpu_state state;
	struct boot_info info;
	struct err err;
	struct boot_file kernel, initrd;
	struct boot_config cfg;
	uint8_t image[65536], initrd_bytes[5000];
};

static int setup(void **state)
{
	struct fixture *f = aligned_alloc(64, align_up(sizeof(*f), 64));

	memset(f, 0, sizeof(*f));
	*state = f;
	f->kernel =
	    (struct boot_file) { .what = "kernel", .path = "dir/k", .fd = -1, .bytes = f->image };
	for (unsigned i = 0; i < sizeof(f->initrd_bytes); i++)
		f->initrd_bytes[i] = (uint8_t)(i * 13);
	f->initrd = (struct boot_file) { .what = "initrd",
					 .path = "dir/i",
					 .fd = -1,
					 .bytes = f->initrd_bytes,
					 .size = sizeof(f->initrd_bytes) };
	f->cfg =
	    (struct boot_config) { .kernel = &f->kernel, .cmdline = "a=b", .rsdp_gpa = 0xe0000 };
	return guest_mem_init(&f->mem, MIB(64), &f->err);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_mem_done(&f->mem);
	free(f);
	return 0;
}

static int load(struct fixture *f, size_t size)
{
	f->kernel.size = size;
	memset(f->err.text, 0, sizeof(f->err.text));
	return boot_load(&f->cfg, &f->mem, &f->state, &f->info, &f->err);
}

static void *at(struct fixture *f, uint64_t gpa)
{
	return guest_mem_ptr(&f->mem, gpa, 1);
}

static void check_code(struct fixture *f)
{
	const uint8_t *p = at(f, FAKE_BASE);

	for (unsigned i = 0; i < FAKE_CODE_LEN; i++)
		assert_int_equal(p[i], fake_byte(i));
	for (unsigned i = 0; i < FAKE_BSS; i++)
		assert_int_equal(p[FAKE_CODE_LEN + i], 0);
}

static void check_long_mode(struct fixture *f, uint64_t entry)
{
	struct vcpu_state *s = &f->state;
	uint8_t *pml4 = at(f, s->cr3);

	assert_true(s->rip == entry);
	assert_int_equal(s->rflags, 2);
	assert_true(s->cr0 == 0x80000011);
	assert_int_equal(s->cr4, 0x20);
	assert_int_equal(s->efer, 0x500);
	assert_int_equal(s->segs[SEG_CS].selector, 0x10);
	assert_true(s->segs[SEG_CS].attr & SEG_ATTR_L);
	assert_false(s->segs[SEG_CS].attr & SEG_ATTR_DB);
	/* Every 2 MiB page below 4 GiB is mapped to itself. */
	for (uint64_t gpa = 0; gpa < GIB(4); gpa += MIB(2)) {
		uint8_t *pdpt = at(f, get_le64(pml4) & ~0xfffull);
		uint8_t *pd = at(f, get_le64(pdpt + (gpa >> 30) * 8) & ~0xfffull);

		assert_true(get_le64(pd + (gpa >> 21) % 512 * 8) == (gpa | 0x83));
	}
}

static void check_flat(struct fixture *f, uint64_t entry)
{
	struct vcpu_state *s = &f->state;

	assert_true(s->rip == entry);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(s->cr0, 0x11);
	assert_int_equal(s->cr4, 0);
	assert_int_equal(s->efer, 0);
	assert_true(s->segs[SEG_CS].attr & SEG_ATTR_DB);
	assert_int_equal(s->segs[SEG_DS].limit, 0xffffffff);
}

/* The zero page that Linux's entries get. */
static uint8_t *check_zero_page(struct fixture *f)
{
	uint8_t *zp = at(f, f->state.regs[REG_RSI]);
	uint64_t ram = 0;

	assert_true(get_le64(zp + 0x70) == 0xe0000);
	assert_int_equal(get_le16(zp + 0x1fe), 0xaa55);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_int_equal(zp[0x1ef], 0); /* sentinel */
	assert_string_equal((char *)at(f, get_le32(zp + 0x228)), "a=b");
	assert_in_range(zp[0x1e8], 3, 128);
	for (unsigned i = 0; i < zp[0x1e8]; i++) {
		uint8_t *e = zp + 0x2d0 + i * 20;

		if (get_le32(e + 16) == 1) {
			ram += get_le64(e + 8);
			assert_true(get_le64(e) + get_le64(e + 8) <= 0xa0000 ||
				    get_le64(e) >= 0x100000);
		}
	}
	assert_true(ram == MIB(64) - MIB(1) + 0x9fc00);
	return zp;
}

static void check_initrd(struct fixture *f, uint64_t start, uint64_t size)
{
	assert_int_equal(size, sizeof(f->initrd_bytes));
	assert_int_equal(start % 4096, 0);
	assert_memory_equal(at(f, start), f->initrd_bytes, sizeof(f->initrd_bytes));
}

static void test_elf_linux(void **state)
{
	struct fixture *f = *state;
	uint8_t *zp;

	fake_elf64(f->image, true, true);
	f->cfg.initrd = &f->initrd;
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_int_equal(f->info.protocol, BOOT_LINUX_64);
	check_code(f);
	check_long_mode(f, FAKE_ENTRY);
	zp = check_zero_page(f);
	check_initrd(f, get_le32(zp + 0x218), get_le32(zp + 0x21c));
	assert_true(get_le32(zp + 0x218) == MIB(64) - 8192);
	/* A virtual entry is the same place. */
	put_le64(f->image + 24, FAKE_VIRT + 0x40);
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_true(f->state.rip == FAKE_ENTRY);
}

static void test_elf_pvh(void **state)
{
	struct fixture *f = *state;
	uint8_t *info, *map;

	fake_elf64(f->image, false, true);
	f->cfg.initrd = &f->initrd;
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_int_equal(f->info.protocol, BOOT_PVH);
	check_code(f);
	check_flat(f, FAKE_PVH);
	info = at(f, f->state.regs[REG_RBX]);
	assert_int_equal(get_le32(info), 0x336ec578);
	assert_int_equal(get_le32(info + 4), 1);
	assert_int_equal(get_le32(info + 12), 1);
	assert_string_equal((char *)at(f, get_le64(info + 24)), "a=b");
	assert_true(get_le64(info + 32) == 0xe0000);
	check_initrd(f, get_le64((uint8_t *)at(f, get_le64(info + 16))),
		     get_le64((uint8_t *)at(f, get_le64(info + 16) + 8)));
	map = at(f, get_le64(info + 40));
	assert_int_equal(get_le64(map), 0);
	assert_int_equal(get_le64(map + 8), 0x9fc00);
	assert_int_equal(get_le32(map + 16), 1);
	assert_true(get_le64(map + 2 * 24) == MIB(1));

	/* Linux prefers its own entry, unless told otherwise. */
	fake_elf64(f->image, true, true);
	f->cfg.prefer = BOOT_PREFER_PVH;
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_int_equal(f->info.protocol, BOOT_PVH);
}

static void test_multiboot(void **state)
{
	struct fixture *f = *state;
	uint8_t *info, *mod;
	unsigned ram = 0;

	fake_elf32(f->image, true);
	f->cfg.initrd = &f->initrd;
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_int_equal(f->info.protocol, BOOT_MULTIBOOT);
	check_code(f);
	check_flat(f, FAKE_ENTRY);
	assert_int_equal(f->state.regs[REG_RAX], 0x2badb002);
	info = at(f, f->state.regs[REG_RBX]);
	assert_int_equal(get_le32(info) & 0x4d, 0x4d);
	assert_int_equal(get_le32(info + 4), 639);
	assert_int_equal(get_le32(info + 8), 63 * 1024);
	assert_string_equal((char *)at(f, get_le32(info + 16)), "k a=b");
	assert_int_equal(get_le32(info + 20), 1);
	mod = at(f, get_le32(info + 24));
	check_initrd(f, get_le32(mod), get_le32(mod + 4) - get_le32(mod));
	assert_true(get_le32(mod) >= FAKE_BASE + FAKE_CODE_LEN + FAKE_BSS);
	assert_string_equal((char *)at(f, get_le32(mod + 8)), "i");
	for (unsigned off = 0; off < get_le32(info + 44);) {
		uint8_t *e = at(f, get_le32(info + 48) + off);

		ram += get_le32(e + 20) == 1;
		off += get_le32(e) + 4;
	}
	assert_int_equal(ram, 2);

	put_le32(f->image + 516, 0x40); /* a feature that nobody knows */
	put_le32(f->image + 520, -(0x1badb002u + 0x40));
	assert_int_equal(load(f, FAKE_FILE), -ENOEXEC);
	fake_elf32(f->image, false);
	assert_int_equal(load(f, FAKE_FILE), -ENOEXEC);
}

static void put_raw_multiboot(uint8_t *f, uint32_t load, uint32_t load_end, uint32_t bss_end,
			      uint32_t entry)
{
	const uint32_t h[] = { 0x1badb002, 0x10003, -(0x1badb002u + 0x10003),
			       load + 64,  load,    load_end,
			       bss_end,	   entry };

	memcpy(f + 128, h, sizeof(h)); /* loaded from file offset 64 on */
}

static void test_multiboot_addresses(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4096; i++)
		f->image[i] = fake_byte(i);
	put_raw_multiboot(f->image, 0x200000, 0x200000 + 2000, 0x200000 + 9000, 0x200000 + 100);
	assert_int_equal(load(f, 4096), 0);
	assert_int_equal(f->info.protocol, BOOT_MULTIBOOT);
	check_flat(f, 0x200064);
	assert_int_equal(*(uint8_t *)at(f, 0x200000), fake_byte(64));
	assert_int_equal(*(uint8_t *)at(f, 0x200000 + 1999), fake_byte(64 + 1999));
	assert_int_equal(*(uint8_t *)at(f, 0x200000 + 2000), 0);
	assert_int_equal(f->info.kernel_end, 0x200000 + 9000);
	put_raw_multiboot(f->image, 0x200000, 0, 0, 0x200000 + 100);
	assert_int_equal(load(f, 4096), 0);
	assert_int_equal(f->info.kernel_end, 0x200000 + 4096 - 64);

	put_raw_multiboot(f->image, 0x200000, 0x200000 + 5000, 0,
			  0x200000 + 100); /* more than the file */
	assert_int_equal(load(f, 4096), -ENOEXEC);
	put_raw_multiboot(f->image, 0x200000, 0x200000 + 2000, 0x200000 + 100, 0x200000 + 100);
	assert_int_equal(load(f, 4096), -ENOEXEC);
	put_raw_multiboot(f->image, 0x200000, 0, 0, 0x100000);
	assert_int_equal(load(f, 4096), -ENOEXEC);
	put_raw_multiboot(f->image, 0x1000, 0, 0, 0x1000); /* over our own data */
	assert_int_equal(load(f, 4096), -EFBIG);
	put_raw_multiboot(f->image, 0xf800, 0, 0, 0xf800); /* into the command line */
	assert_int_equal(load(f, 4096), -EFBIG);
	put_raw_multiboot(f->image, 0x9f000, 0, 0, 0x9f000); /* behind conventional memory */
	assert_int_equal(load(f, 4096), -EFBIG);
	put_raw_multiboot(f->image, 0x8000, 0x8000 + 2000, 0, 0x8000 + 100);
	f->cfg.initrd = &f->initrd;
	assert_int_equal(load(f, 4096), 0);
	check_flat(f, 0x8064);
	assert_int_equal(*(uint8_t *)at(f, 0x8000 + 1999), fake_byte(64 + 1999));
	assert_int_equal(f->info.initrd_start, 0x100000);
	f->cfg.initrd = NULL;
	put_raw_multiboot(f->image, 0xfffff000, 0, 0, 0xfffff000);
	assert_int_equal(load(f, 4096), -EFBIG);
	put_raw_multiboot(f->image, 0x200000, 0, 0x10000000, 0x200000);
	assert_int_equal(load(f, 4096), -EFBIG);
}

/* ---- bzImage payloads ---- */

static size_t pack_gzip(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	z_stream z = { .next_in = (Bytef *)in,
		       .avail_in = (uInt)len,
		       .next_out = out,
		       .avail_out = (uInt)cap };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return cap - z.avail_out; /* ends with the size by itself */
}

static size_t put_size(uint8_t *out, size_t packed, size_t len)
{
	put_le32(out + packed, (uint32_t)len);
	return packed + 4;
}

static size_t pack_bzip2(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	unsigned n = (unsigned)cap;

	assert_int_equal(
	    BZ2_bzBuffToBuffCompress((char *)out, &n, (char *)in, (unsigned)len, 9, 0, 0), BZ_OK);
	return put_size(out, n, len);
}

static size_t pack_xz(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	lzma_options_lzma opt;
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL },
				  { LZMA_FILTER_LZMA2, &opt },
				  { LZMA_VLI_UNKNOWN, NULL } };
	size_t n = 0;

	lzma_lzma_preset(&opt, 6);
	assert_int_equal(
	    lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in, len, out, &n, cap),
	    LZMA_OK);
	return put_size(out, n, len);
}

static size_t pack_lzma(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_options_lzma opt;
	size_t n;

	lzma_lzma_preset(&opt, 6);
	assert_int_equal(lzma_alone_encoder(&s, &opt), LZMA_OK);
	s.next_in = in;
	s.avail_in = len;
	s.next_out = out;
	s.avail_out = cap;
	assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
	n = cap - s.avail_out;
	lzma_end(&s);
	return put_size(out, n, len);
}

static size_t pack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	size_t n = ZSTD_compress(out, cap, in, len, 19);

	assert_false(ZSTD_isError(n));
	return put_size(out, n, len);
}

static size_t pack_lz4(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
	int n = LZ4_compress_HC((const char *)in, (char *)out + 8, (int)len, (int)cap - 8, 9);

	assert_true(n > 0);
	put_le32(out, 0x184c2102);
	put_le32(out + 4, (uint32_t)n);
	return put_size(out, 8 + (size_t)n, len);
}

static const struct {
	const char *name;
	size_t (*pack)(const uint8_t *in, size_t len, uint8_t *out, size_t cap);
} packers[] = {
	{ "gzip", pack_gzip }, { "bzip2", pack_bzip2 }, { "xz", pack_xz },
	{ "lzma", pack_lzma }, { "zstd", pack_zstd },	{ "lz4", pack_lz4 },
};

static void test_bzimage_payloads(void **state)
{
	struct fixture *f = *state;
	uint8_t elf[FAKE_FILE], packed[16384];

	fake_elf64(elf, false, true); /* known to be Linux by the bzImage around it */
	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		size_t len = packers[i].pack(elf, sizeof(elf), packed, sizeof(packed));
		size_t size = fake_bzimage(f->image, packed, len);
		uint8_t *zp;

		memset(at(f, FAKE_BASE), 0, FAKE_CODE_LEN);
		f->cfg.initrd = &f->initrd;
		if (load(f, size) != 0)
			fail_msg("%s: %s", packers[i].name, f->err.text);
		assert_int_equal(f->info.protocol, BOOT_LINUX_64);
		check_code(f);
		check_long_mode(f, FAKE_ENTRY);
		zp = check_zero_page(f);
		assert_int_equal(get_le16(zp + 0x206), 0x20f);
		check_initrd(f, get_le32(zp + 0x218), get_le32(zp + 0x21c));

		/* Damage in the middle of the data is an error, never a boot of something else. */
		f->image[FAKE_SETUP + 1024 + len / 2] ^= 0x55;
		f->image[FAKE_SETUP + 1024 + len / 2 + 1] ^= 0x55;
		if (load(f, size) == 0)
			assert_memory_not_equal(at(f, FAKE_BASE), elf + FAKE_CODE_OFF,
						FAKE_CODE_LEN);
		/* So is a payload cut short. */
		fake_bzimage(f->image, packed, len);
		put_le32(f->image + 0x24c, (uint32_t)len / 2);
		assert_int_not_equal(load(f, size), 0);
		assert_non_null(strstr(f->err.text, "dir/k"));
	}
}

static void test_bzimage_bomb(void **state)
{
	struct fixture *f = *state;
	size_t len = MIB(128);
	uint8_t *zeros = calloc(1, len), *packed = malloc(MIB(1));

	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		size_t n;

		if (packers[i].pack == pack_lz4 || packers[i].pack == pack_xz ||
		    packers[i].pack == pack_lzma)
			continue; /* no small bomb, or too slow to make */
		n = packers[i].pack(zeros, len, packed, MIB(1));
		if (n > sizeof(f->image) - 4096)
			continue;
		assert_int_equal(load(f, fake_bzimage(f->image, packed, n)), -EFBIG);
		assert_non_null(strstr(f->err.text, "does not fit"));
	}
	free(zeros);
	free(packed);
}

/* No payload that the host can expand: loaded as a boot loader does it. */
static void test_bzimage_as_loader(void **state)
{
	struct fixture *f = *state;
	uint8_t payload[2000];
	size_t size;

	memset(payload, 0x33, sizeof(payload));
	size = fake_bzimage(f->image, payload, sizeof(payload));
	put_le32(f->image + 0x248, 0); /* no payload at all */
	assert_int_equal(load(f, size), 0);
	assert_int_equal(f->info.protocol, BOOT_LINUX_BZIMAGE);
	check_long_mode(f, FAKE_BASE + 0x200);
	check_zero_page(f);
	assert_int_equal(*(uint8_t *)at(f, FAKE_BASE + 17), fake_byte(17 + 3));

	put_le16(f->image + 0x236, 0); /* no 64-bit entry; not relocatable */
	f->image[0x234] = 0;
	assert_int_equal(load(f, size), 0);
	check_flat(f, 0x100000);
	assert_int_equal(get_le32(check_zero_page(f) + 0x214), 0x100000);
	assert_int_equal(*(uint8_t *)at(f, 0x100000 + 17), fake_byte(17 + 3));
}

static void test_bzimage_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t payload[2000] = { 0 };
	size_t size = fake_bzimage(f->image, payload, sizeof(payload));

	assert_int_equal(load(f, size - 512), -ENOEXEC);
	assert_non_null(strstr(f->err.text, "truncated"));
	put_le16(f->image + 0x206, 0x205);
	assert_int_equal(load(f, size), -ENOEXEC);
	fake_bzimage(f->image, payload, sizeof(payload));
	f->image[0x211] = 0; /* zImage */
	assert_int_equal(load(f, size), -ENOEXEC);
	fake_bzimage(f->image, payload, sizeof(payload));
	f->image[0x201] = 0xff; /* header reaches beyond the zero page's place for it */
	assert_int_equal(load(f, size), -ENOEXEC);
	fake_bzimage(f->image, payload, sizeof(payload));
	put_le32(f->image + 0x248, 0x10000000);
	assert_int_equal(load(f, size), -ENOEXEC);
	fake_bzimage(f->image, payload, sizeof(payload));
	put_le32(f->image + 0x260, 0x10000000); /* needs more memory than there is */
	assert_int_equal(load(f, size), -EFBIG);
	fake_bzimage(f->image, payload, sizeof(payload));
	put_le32(f->image + 0x238, 2);
	assert_int_equal(load(f, size), -EINVAL);
	assert_non_null(strstr(f->err.text, "command line"));
}

static void test_elf_refused(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *h = (Elf64_Ehdr *)f->image;
	Elf64_Phdr *ph = (Elf64_Phdr *)(f->image + sizeof(*h));

#define BROKEN(change, code, word)                                                                 \
	do {                                                                                       \
		fake_elf64(f->image, true, true);                                                  \
		change;                                                                            \
		assert_int_equal(load(f, FAKE_FILE), code);                                        \
		if (!strstr(f->err.text, word))                                                    \
			fail_msg("'%s' does not say '%s'", f->err.text, word);                     \
	} while (0)
	BROKEN(h->e_machine = EM_AARCH64, -ENOEXEC, "another architecture");
	BROKEN(h->e_ident[EI_DATA] = ELFDATA2MSB, -ENOEXEC, "little-endian");
	BROKEN(h->e_type = ET_REL, -ENOEXEC, "executable");
	BROKEN(h->e_phnum = 0, -ENOEXEC, "segments");
	BROKEN(h->e_phnum = 65, -ENOEXEC, "segments");
	BROKEN(h->e_phentsize = 32, -ENOEXEC, "size");
	BROKEN(h->e_phoff = FAKE_FILE - 8, -ENOEXEC, "truncated");
	BROKEN(h->e_phoff = UINT64_MAX, -ENOEXEC, "truncated");
	BROKEN(h->e_entry = 0x10, -ENOEXEC, "entry");
	BROKEN(ph[0].p_filesz = FAKE_FILE, -ENOEXEC, "truncated");
	BROKEN(ph[0].p_offset = UINT64_MAX, -ENOEXEC, "truncated");
	BROKEN(ph[0].p_memsz = 16, -ENOEXEC, "size");
	BROKEN(ph[0].p_paddr = UINT64_MAX - 4096, -ENOEXEC, "size");
	BROKEN((ph[0].p_paddr = 0x7000, h->e_entry = FAKE_VIRT), -EFBIG, "needs memory");
	BROKEN((ph[0].p_paddr = MIB(64) - 4096, h->e_entry = FAKE_VIRT), -EFBIG, "needs memory");
	BROKEN((ph[0].p_paddr = GIB(5), h->e_entry = FAKE_VIRT), -EFBIG, "needs memory");
	BROKEN((ph[1].p_filesz = ph[1].p_memsz = MIB(2), ph[1].p_offset = 0), -ENOEXEC,
	       "truncated");
	BROKEN((ph[1].p_type = PT_NULL, ph[0].p_type = PT_NULL), -ENOEXEC, "entry");
#undef BROKEN
	/* Notes that lie about their sizes are not followed. */
	fake_elf64(f->image, false, true);
	put_le32(f->image + 1024, 0xfffffff0);
	assert_int_equal(load(f, FAKE_FILE), 0);
	assert_int_equal(f->info.protocol, BOOT_LINUX_64);
	fake_elf64(f->image, false, true);
	put_le32(f->image + 1024 + 16, 0x5000000); /* a PVH entry outside of RAM */
	assert_int_equal(load(f, FAKE_FILE), -ENOEXEC);
	/* Cut anywhere, it is refused. */
	fake_elf64(f->image, true, true);
	for (size_t len = 1; len < FAKE_CODE_OFF + FAKE_CODE_LEN; len += 61)
		assert_int_not_equal(load(f, len), 0);
}

static void test_other_files(void **state)
{
	struct fixture *f = *state;

	memset(f->image, 'x', 4096);
	assert_int_equal(load(f, 4096), -ENOEXEC);
	assert_non_null(strstr(f->err.text, "not a kernel"));
	memset(f->image, 0, 4096);
	memcpy(f->image + 0x38, "ARM\x64", 4);
	assert_int_equal(load(f, 4096), -ENOEXEC);
	assert_non_null(strstr(f->err.text, "arm64"));
	assert_int_equal(load(f, 1), -ENOEXEC);

	assert_int_equal(boot_file_open("kernel", "/nonexistent/k", &f->kernel, &f->err), -ENOENT);
	assert_string_equal(f->err.text, "kernel '/nonexistent/k': No such file or directory");
	assert_int_equal(boot_file_open("kernel", "/tmp", &f->kernel, &f->err), -EINVAL);
	assert_int_equal(boot_file_open("kernel", "/dev/null", &f->kernel, &f->err), -EINVAL);
}

static void test_initrd_too_big(void **state)
{
	struct fixture *f = *state;

	fake_elf64(f->image, true, false);
	f->cfg.initrd = &f->initrd;
	f->initrd.size = MIB(64);
	assert_int_equal(load(f, FAKE_FILE), -EFBIG);
	assert_string_equal(
	    f->err.text,
	    "initrd 'dir/i': its 65536 KiB do not fit beside the kernel into 64 MiB of memory");
	f->initrd.size = UINT64_MAX - 100;
	assert_int_equal(load(f, FAKE_FILE), -EFBIG);
}

/* The distribution's own kernels. */
static void test_real_kernels(void **state)
{
	struct fixture *f = *state;
	char pattern[4096];
	unsigned tried = 0;
	glob_t g = { 0 };

	guest_mem_done(&f->mem);
	assert_int_equal(guest_mem_init(&f->mem, MIB(256), &f->err), 0);
	glob("/boot/vmlinuz-*", 0, NULL, &g);
	glob("/boot/memtest86+*.bin", GLOB_APPEND, NULL, &g);
	if (getenv("EYOT_CACHE") || getenv("HOME")) {
		const char *cache = getenv("EYOT_CACHE");

		/* Those of the guest disks, when they have been made. */
		snprintf(pattern, sizeof(pattern), "%s%s/guest/*/vmlinuz-*",
			 cache ? cache : getenv("HOME"), cache ? "" : "/.cache/eyot");
		glob(pattern, GLOB_APPEND, NULL, &g);
	}
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct boot_file file;

		if (boot_file_open("kernel", g.gl_pathv[i], &file, &f->err) < 0)
			continue;
		f->cfg.kernel = &file;
		if (boot_load(&f->cfg, &f->mem, &f->state, &f->info, &f->err) != 0)
			fail_msg("%s", f->err.text);
		assert_int_equal(f->info.protocol, strstr(g.gl_pathv[i], "vmlinuz")
						       ? BOOT_LINUX_64
						       : BOOT_LINUX_BZIMAGE);
		if (f->info.protocol == BOOT_LINUX_64) {
			/* Debian's kernels have both ways in, to the same code. */
			f->cfg.prefer = BOOT_PREFER_PVH;
			assert_int_equal(boot_load(&f->cfg, &f->mem, &f->state, &f->info, &f->err),
					 0);
			assert_int_equal(f->info.protocol, BOOT_PVH);
			f->cfg.prefer = BOOT_PREFER_LINUX;
		}
		boot_file_close(&file);
		tried++;
	}
	globfree(&g);
	if (!tried)
		skip();
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_elf_linux),	     T(test_elf_pvh),	       T(test_multiboot),
		T(test_multiboot_addresses), T(test_bzimage_payloads), T(test_bzimage_bomb),
		T(test_bzimage_as_loader),   T(test_bzimage_refused),  T(test_elf_refused),
		T(test_other_files),	     T(test_initrd_too_big),   T(test_real_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
