/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel loader. Input: a byte of choices (bit 0: PVH preferred, bit 1: an
 * initrd, bits 2-3: RAM size), then the kernel file.
 *
 * Checked beside memory safety: a kernel that loads lies inside RAM at or above
 * 1 MiB with its entry, apart from its initrd, and what is refused says why.
 */
#include "base/util.h"
#include "vm/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest_mem ram[3];

static void setup(void)
{
	static const uint64_t sizes[] = { MIB(2), MIB(20), MIB(24) };
	struct err err;

	for (unsigned i = 0; i < ARRAY_SIZE(ram); i++)
		if (guest_mem_init(&ram[i], sizes[i], &err) < 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t initrd_bytes[5000] = { 1 };
	static struct vcpu_state state;
	struct boot_file kernel = { .what = "kernel", .path = "k", .fd = -1 };
	struct boot_file initrd = { .what = "initrd",
				    .path = "i",
				    .fd = -1,
				    .bytes = initrd_bytes,
				    .size = sizeof(initrd_bytes) };
	struct boot_config cfg = { .kernel = &kernel, .cmdline = "a b", .rsdp_gpa = 0xe0000 };
	struct boot_info info = { 0 };
	struct err err = { .text = "" };
	struct guest_mem *mem;
	int ret;

	if (!ram[0].size)
		setup();
	if (size < 2)
		return 0;
	mem = &ram[(data[0] >> 2) % ARRAY_SIZE(ram)];
	cfg.prefer = data[0] & 1 ? BOOT_PREFER_PVH : BOOT_PREFER_LINUX;
	cfg.initrd = data[0] & 2 ? &initrd : NULL;
	kernel.bytes = data + 1;
	kernel.size = size - 1;
	ret = boot_load(&cfg, mem, &state, &info, &err);
	if (ret < 0) {
		if (!err.text[0])
			abort();
		return 0;
	}
	if (info.kernel_start < MIB(1) || info.kernel_end > mem->size ||
	    info.kernel_end <= info.kernel_start)
		abort();
	if (!guest_mem_ptr(mem, info.entry, 1) || state.rip != info.entry || info.entry < MIB(1))
		abort();
	if (cfg.initrd &&
	    (info.initrd_size != sizeof(initrd_bytes) || info.initrd_start < info.kernel_end ||
	     memcmp(guest_mem_ptr(mem, info.initrd_start, sizeof(initrd_bytes)), initrd_bytes,
		    sizeof(initrd_bytes))))
		abort();
	return 0;
}
