/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of --debug-exit: firmware configuration and test device. Any
 * sequence of port and memory accesses, saves and loads.
 */
#include "fuzz.h"

#include "../unit/hw_fake.h"
#include "hw/fw_cfg.h"
#include "hw/testdev.h"
#include "vm/mem.h"

static struct fw_cfg *fw;
static struct testdev *dev;

static const uint16_t ports[] = { 0x510, 0x511,	 0x512,	 0xe0,	 0xe3,
				  0xe4,	 0x2000, 0x2005, 0x2017, 0x2018 };

static void load(bool which, const uint8_t *data, size_t len)
{
	struct snap_reader r;
	struct err err;

	snap_reader_init(&r, data, len);
	if (which)
		fw_cfg_load(fw, &r, &err);
	else
		testdev_load(dev, &r, &err);
}

static void save_and_load(bool which, struct fuzz_in *in)
{
	struct snap_writer w;
	unsigned n = (unsigned)fuzz_take(in, 1) & 3;

	snap_writer_init(&w);
	if (which)
		fw_cfg_save(fw, &w);
	else
		testdev_save(dev, &w);
	assert(!w.failed);
	while (n--) {
		size_t at = fuzz_take(in, 1) % w.len;

		w.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	load(which, w.data, w.len);
	snap_writer_done(&w);
}

static void step(struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), size = fuzz_size((uint8_t)(op >> 3));
	uint16_t port = ports[fuzz_take(in, 1) % ARRAY_SIZE(ports)];

	switch (op & 7) {
	case 0:
	case 1:
		bus_write(&fake.pio, port, size & 7 ? size & 7 : 4, fuzz_take(in, size));
		break;
	case 2:
	case 3: /* a whole item, and on behind its end */
		for (unsigned n = (op >> 5) * 64 + 1; n; n--)
			bus_read(&fake.pio, port, size & 7 ? size & 7 : 4);
		break;
	case 4:
		bus_write(&fake.mmio, MMIO_TEST_MEMORY + fuzz_take(in, 2), size,
			  fuzz_take(in, size));
		break;
	case 5:
		bus_read(&fake.mmio, MMIO_TEST_MEMORY + fuzz_take(in, 2), size);
		break;
	case 6:
		save_and_load(op & 8, in);
		break;
	default:
		load(op & 8, in->p, in->left);
		in->left = 0;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct guest_mem mem;

	fake_init();
	assert(!guest_mem_init(&mem, MIB(2), NULL));
	assert(!fw_cfg_new(&fake.pio, &mem, 3, &fw, NULL));
	assert(!testdev_new(&fake.pio, &fake.mmio, &fake.irq, &dev, NULL));
	while (in.left)
		step(&in);
	testdev_free(dev);
	fw_cfg_free(fw);
	guest_mem_done(&mem);
	fake_done();
	return 0;
}
