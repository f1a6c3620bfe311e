/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio transport: any sequence of accesses to BARs and configuration
 * space, changes of guest memory, time passing, resets, saves and loads. The
 * first byte chooses the device; each step is an operation byte with operands.
 */
#include "virtio_fuzz.h"

static void set_up(struct target *t, struct fuzz_in *in)
{
	uint64_t features = fuzz_take(in, 1) & 1 ? drv_offered(&t->d) : 1ull << VIRTIO_F_VERSION_1;
	uint16_t size = (uint16_t)(1u << fuzz_take(in, 1) % 9);

	if (t->m.brk > DRV_RAM / 2 || !drv_negotiate(&t->d, features))
		return;
	drv_msix(&t->d);
	for (unsigned i = 0; i < t->d.queue_count && i < ARRAY_SIZE(t->d.q); i++)
		drv_queue(&t->d, i, size, true);
	drv_ready(&t->d);
}

static void step(struct target *t, struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), size = fuzz_size(op >> 4);
	uint64_t at;
	uint8_t *p;

	switch (op & 15) {
	case 0: /* registers, mostly the common ones */
	case 1:
	case 2:
		at = t->d.common + (fuzz_take(in, 1) & 0x3f & ~(size - 1));
		bus_write(&t->m.mmio, at, size, fuzz_take(in, size));
		break;
	case 3:
		bus_read(&t->m.mmio, t->d.common + (fuzz_take(in, 1) & 0x3f & ~(size - 1)), size);
		break;
	case 4:
		at = t->d.common + (fuzz_take(in, 2) & 0x3fff & ~(size - 1));
		bus_write(&t->m.mmio, at, size, fuzz_take(in, size));
		break;
	case 5:
		bus_read(&t->m.mmio, t->d.common + (fuzz_take(in, 2) & 0x3fff & ~(size - 1)), size);
		break;
	case 6: /* configuration space */
		at = fuzz_take(in, 1) & ~(size - 1);
		drv_config_write(&t->d, (unsigned)at, size & 7 ? size & 7 : 4,
				 (uint32_t)fuzz_take(in, 4));
		break;
	case 7:
		drv_config(&t->d, (unsigned)(fuzz_take(in, 1) & ~(size - 1)),
			   size & 7 ? size & 7 : 4);
		break;
	case 8: /* the access capability */
		drv_config_write(&t->d, t->d.cfg_cap + 8, 4, (uint32_t)fuzz_take(in, 2));
		drv_config_write(&t->d, t->d.cfg_cap + 12, 4, size & 7 ? size & 7 : 4);
		if (op & 64)
			drv_config_write(&t->d, t->d.cfg_cap + 16, 4, (uint32_t)fuzz_take(in, 4));
		else
			drv_config(&t->d, t->d.cfg_cap + 16, 4);
		break;
	case 9: /* guest memory near the rings */
	case 10:
		at = 0x10000 + fuzz_take(in, 2);
		p = guest(&t->m, at, 8);
		put_le64(p, fuzz_take(in, size));
		break;
	case 11:
		q_kick(&t->d, (unsigned)fuzz_take(in, 1) & 3);
		break;
	case 12:
		if (op & 16)
			machine_run(&t->m, 0);
		else
			target_drain(t);
		break;
	case 13:
		if (op & 16)
			step_save_and_load(t->dev, &t->d, t->d.queue_count, in);
		else
			virtio_dev_reset(t->dev);
		break;
	case 14:
		set_up(t, in);
		break;
	default:
		if (t->kind == TARGET_CONSOLE)
			virtio_console_receive(t->dev, in->p, min_u64(in->left, 64));
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct target t;

	target_init(&t, (unsigned)fuzz_take(&in, 1));
	for (unsigned i = 0; i < 400 && in.left; i++)
		step(&t, &in);
	target_done(&t);
	return 0;
}
