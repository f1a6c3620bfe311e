/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI: any sequence of configuration and BAR accesses, interrupts, resets,
 * saves and loads. Each step: an operation byte, then its operands.
 */
#include "fuzz.h"

#include "../unit/hw_fake.h"
#include "hw/pci.h"
#include "vm/mem.h"

static struct pci_dev devs[2];

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
	assert(opaque == &devs[0] || opaque == &devs[1]);
	return off;
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	pci_intx_set(opaque, val & 1);
	pci_msix_fire(opaque, (unsigned)val >> 1);
}

static const struct bus_ops bar_ops = { bar_read, bar_write };

static void build(struct pci_host *host)
{
	static const struct pci_ids ids = { 0x1af4, 0x1042, 0x1af4, 2, 0x018000, 1 };
	static const uint8_t mask[] = { 0xff, 0xf0 };

	assert(!pci_dev_init(&devs[0], host, 1, "a", &ids, NULL, NULL));
	assert(!pci_add_bar(&devs[0], 0, 0x4000, PCI_BAR_MEM64, &bar_ops, &devs[0]));
	assert(!pci_add_bar(&devs[0], 2, 0x20, PCI_BAR_IO, &bar_ops, &devs[0]));
	assert(pci_add_cap(&devs[0], PCI_CAP_ID_VENDOR, NULL, 2, mask) > 0);
	assert(!pci_msix_init(&devs[0], 3, 3));
	assert(!pci_dev_init(&devs[1], host, 5, "b", &ids, NULL, NULL));
	assert(!pci_add_bar(&devs[1], 0, 0x1000, PCI_BAR_MEM32, &bar_ops, &devs[1]));
	assert(!pci_add_bar(&devs[1], 1, 0x100, PCI_BAR_IO, &bar_ops, &devs[1]));
	assert(!pci_msix_init(&devs[1], 5, PCI_MSIX_MAX));
}

/* Only BARs within their windows are on the buses, and none twice. */
static void check(void)
{
	unsigned pio = 2, mmio = 1;

	for (unsigned d = 0; d < 2; d++) {
		for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
			const struct pci_bar *bar = &devs[d].bars[i];

			if (!bar->is_mapped)
				continue;
			if (bar->flags & PCI_BAR_IO) {
				assert(bar->mapped >= PCI_IO_BASE &&
				       bar->mapped + bar->size <= PCI_IO_BASE + PCI_IO_SIZE);
				pio++;
			} else {
				assert(
				    (bar->mapped >= MEM_PCI32_BASE &&
				     bar->mapped + bar->size <= MEM_PCI32_BASE + MEM_PCI32_SIZE) ||
				    (bar->mapped >= MEM_PCI64_BASE &&
				     bar->mapped + bar->size <= MEM_PCI64_BASE + MEM_PCI64_SIZE));
				mmio++;
			}
		}
	}
	assert(fake.pio.count == pio && fake.mmio.count == mmio);
	assert(fake.line[GSI_PCI_FIRST + 1] == (devs[0].intx_asserted || devs[1].intx_asserted));
}

static void load_all(struct pci_host *host, const uint8_t *data, size_t len)
{
	struct snap_reader r;
	struct err err;

	snap_reader_init(&r, data, len);
	if (!pci_host_load(host, &r, &err) && !pci_dev_load(&devs[0], &r, &err))
		pci_dev_load(&devs[1], &r, &err);
}

static void save_and_load(struct pci_host *host, struct fuzz_in *in)
{
	struct snap_writer w;
	size_t at;

	snap_writer_init(&w);
	pci_host_save(host, &w);
	pci_dev_save(&devs[0], &w);
	pci_dev_save(&devs[1], &w);
	assert(!w.failed);
	for (unsigned n = (unsigned)fuzz_take(in, 1) & 3; n; n--) {
		at = fuzz_take(in, 2) % w.len;
		w.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	load_all(host, w.data, w.len);
	snap_writer_done(&w);
}

static void step(struct pci_host *host, struct fuzz_in *in)
{
	unsigned op = (unsigned)fuzz_take(in, 1), d = op >> 7, size = fuzz_size(op >> 4);
	const struct pci_bar *bar;
	uint64_t addr;

	switch (op & 15) {
	case 0: /* ports */
		addr = 0xcf8 + (fuzz_take(in, 1) & 7);
		bus_write(&fake.pio, addr, size & 7 ? size & 7 : 4, fuzz_take(in, 4));
		break;
	case 1:
		addr = 0xcf8 + (fuzz_take(in, 1) & 7);
		bus_read(&fake.pio, addr, size & 7 ? size & 7 : 4);
		break;
	case 2: /* ECAM */
		addr = MEM_ECAM_BASE + fuzz_take(in, 3) % MEM_ECAM_SIZE;
		bus_write(&fake.mmio, addr, size, fuzz_take(in, size));
		break;
	case 3:
		addr = MEM_ECAM_BASE + fuzz_take(in, 3) % MEM_ECAM_SIZE;
		bus_read(&fake.mmio, addr, size);
		break;
	case 4: /* the devices' own headers: most of the action */
	case 5:
	case 6:
		addr = fuzz_take(in, 1);
		pci_config_write(host, d ? 5 : 1, (unsigned)addr, size & 7 ? size & 7 : 4,
				 (uint32_t)fuzz_take(in, size));
		break;
	case 7:
		pci_config_read(host, d ? 5 : 1, (unsigned)fuzz_take(in, 2),
				size & 7 ? size & 7 : 4);
		break;
	case 8: /* BARs, where they stand */
	case 9:
		bar = &devs[d].bars[fuzz_take(in, 1) % PCI_BAR_COUNT];
		addr = fuzz_take(in, 2);
		if (!bar->is_mapped)
			break;
		addr = bar->mapped + addr % bar->size;
		if (op & 1)
			bus_read(bar->flags & PCI_BAR_IO ? &fake.pio : &fake.mmio, addr, size);
		else
			bus_write(bar->flags & PCI_BAR_IO ? &fake.pio : &fake.mmio, addr, size,
				  fuzz_take(in, size));
		break;
	case 10:
		pci_msix_fire(&devs[d], (unsigned)fuzz_take(in, 2));
		break;
	case 11:
		pci_intx_set(&devs[d], op & 16);
		break;
	case 12:
		pci_dev_reset(&devs[d]);
		break;
	case 13:
		save_and_load(host, in);
		break;
	case 14: /* the rest of the input as a saved state */
		load_all(host, in->p, in->left);
		in->left = 0;
		break;
	default:
		pci_host_reset(host);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	struct pci_host *host;

	fake_init();
	assert(!pci_host_new(&fake.pio, &fake.mmio, &fake.irq, &fake.platform, &host, NULL));
	build(host);
	while (in.left) {
		step(host, &in);
		check();
	}
	pci_dev_done(&devs[1]);
	pci_dev_done(&devs[0]);
	assert(!fake.line[GSI_PCI_FIRST + 1]);
	pci_host_free(host);
	fake_done();
	return 0;
}
