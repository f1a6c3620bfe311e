/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI Express root bus: configuration space and address decoding.
 *
 * Invariants
 * 1. A guest write changes only bits in wmask; w1cmask bits can only be
 *    cleared. Everything else follows from the resulting configuration.
 * 2. A BAR is on a bus exactly when its space is enabled, its address lies
 *    within the bridge's window for its kind and nothing else stands there.
 *    When something moves away, BARs that had to wait are tried again.
 * 3. Side effects (decode, MSI-X, INTx, hooks) run once per access, after all
 *    its bytes are in place.
 *
 * Limits: bus 0 only, function 0 only, no bridges, no extended capabilities;
 * BARs do not reach outside the windows of vm/mem.h.
 */
#include "hw/pci_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "vm/mem.h"

#define REG_VENDOR 0x00
#define REG_DEVICE 0x02
#define REG_REVISION 0x08
#define REG_CACHE_LINE 0x0c
#define REG_SUBSYS_VENDOR 0x2c
#define REG_SUBSYS_DEVICE 0x2e

#define COMMAND_WRITABLE 0x0547
#define STATUS_INTERRUPT 0x08
#define STATUS_CAP_LIST 0x10
#define CAP_FIRST 0x40

#define BAR_IO_MASK 0xfffffffcu
#define BAR_MEM_MASK 0xfffffff0u

#define RESET_CPU 0x04 /* port 0xcf9: a rise of this bit resets */

#define SNAP_HOST "pci-host"
#define SNAP_DEV "pci-dev"
#define SNAP_VERSION 1

/* --- address decoding; host lock held --- */

static struct bus *bar_bus(const struct pci_dev *dev, const struct pci_bar *bar)
{
	return bar->flags & PCI_BAR_IO ? dev->host->pio : dev->host->mmio;
}

static uint64_t bar_address(const struct pci_dev *dev, unsigned idx)
{
	const struct pci_bar *bar = &dev->bars[idx];
	uint64_t addr = get_le32(dev->config + PCI_REG_BAR0 + 4 * idx);

	if (bar->flags & PCI_BAR_IO)
		return addr & BAR_IO_MASK;
	addr &= BAR_MEM_MASK;
	if (bar->flags & PCI_BAR_MEM64)
		addr |= (uint64_t)get_le32(dev->config + PCI_REG_BAR0 + 4 * (idx + 1)) << 32;
	return addr;
}

static bool within(uint64_t addr, uint64_t size, uint64_t base, uint64_t len)
{
	return addr >= base && addr - base < len && size <= len - (addr - base);
}

/* Where the BAR should stand; false: nowhere */
static bool bar_wanted(const struct pci_dev *dev, unsigned idx, uint64_t *ret_addr)
{
	const struct pci_bar *bar = &dev->bars[idx];
	uint16_t command = get_le16(dev->config + PCI_REG_COMMAND);
	uint64_t addr;

	if (!bar->size)
		return false;
	if (!(command & (bar->flags & PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return false;
	addr = bar_address(dev, idx);
	*ret_addr = addr;
	if (bar->flags & PCI_BAR_IO)
		return within(addr, bar->size, PCI_IO_BASE, PCI_IO_SIZE);
	return within(addr, bar->size, MEM_PCI32_BASE, MEM_PCI32_SIZE) ||
	       within(addr, bar->size, MEM_PCI64_BASE, MEM_PCI64_SIZE);
}

static void tell_bar(struct pci_dev *dev, const struct pci_bar *bar, bool mapped)
{
	if (dev->ops && dev->ops->bar_moved)
		dev->ops->bar_moved(dev, (unsigned)(bar - dev->bars), bar_bus(dev, bar),
				    bar->mapped, mapped);
}

static void unmap_bar(struct pci_dev *dev, struct pci_bar *bar)
{
	if (!bar->is_mapped)
		return;
	tell_bar(dev, bar, false);
	bus_del(bar_bus(dev, bar), bar->mapped, bar->opaque);
	bar->is_mapped = false;
}

static void map_bars(struct pci_dev *dev)
{
	for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
		struct pci_bar *bar = &dev->bars[i];
		uint64_t addr;

		if (bar->is_mapped || !bar_wanted(dev, i, &addr))
			continue;
		if (!bus_add(bar_bus(dev, bar), addr, bar->size, bar->ops, bar->opaque)) {
			bar->mapped = addr;
			bar->is_mapped = true;
			tell_bar(dev, bar, true);
		}
	}
}

static void update_mappings(struct pci_dev *dev)
{
	bool moved = false;

	for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
		struct pci_bar *bar = &dev->bars[i];
		uint64_t addr;

		if (bar->is_mapped && !(bar_wanted(dev, i, &addr) && addr == bar->mapped)) {
			unmap_bar(dev, bar);
			moved = true;
		}
	}
	map_bars(dev);
	for (unsigned i = 0; moved && i < PCI_SLOT_COUNT; i++)
		if (dev->host->devs[i])
			map_bars(dev->host->devs[i]);
}

/* All that follows from the configuration */
static void config_changed(struct pci_dev *dev)
{
	uint16_t command = get_le16(dev->config + PCI_REG_COMMAND);

	atomic_store_explicit(&dev->master, (command & PCI_COMMAND_MASTER) != 0,
			      memory_order_release);
	update_mappings(dev);
	pci_msix_update(dev);
	pci_intx_update(dev);
}

/* --- configuration accesses --- */

static uint32_t read_locked(struct pci_host *host, unsigned slot, unsigned off, unsigned size)
{
	struct pci_dev *dev = slot < PCI_SLOT_COUNT ? host->devs[slot] : NULL;
	uint32_t val = 0;

	if (!dev || dev->hidden || size > 4 || off >= PCI_CONFIG_SIZE ||
	    size > PCI_CONFIG_SIZE - off)
		return 0xffffffffu >> (32 - 8 * min_u64(size, 4));
	if (dev->ops && dev->ops->config_read)
		dev->ops->config_read(dev, off, size);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = dev->config[off + i];

		if (off + i == PCI_REG_STATUS &&
		    __atomic_load_n(&dev->intx_level, __ATOMIC_RELAXED))
			byte |= STATUS_INTERRUPT;
		val |= (uint32_t)byte << (8 * i);
	}
	return val;
}

static void write_locked(struct pci_host *host, unsigned slot, unsigned off, unsigned size,
			 uint32_t val)
{
	struct pci_dev *dev = slot < PCI_SLOT_COUNT ? host->devs[slot] : NULL;
	bool changed = false;

	if (!dev || dev->hidden || size > 4 || off >= PCI_CONFIG_SIZE ||
	    size > PCI_CONFIG_SIZE - off)
		return;
	for (unsigned i = 0; i < size; i++) {
		uint8_t *byte = &dev->config[off + i], in = (uint8_t)(val >> (8 * i));
		uint8_t mask = dev->wmask[off + i], new;

		new = (*byte & ~mask) | (in & mask);
		new &= ~(in & dev->w1cmask[off + i]);
		changed |= new != *byte;
		*byte = new;
	}
	if (changed)
		config_changed(dev);
	if (dev->ops && dev->ops->config_written)
		dev->ops->config_written(dev, off, size);
}

uint32_t pci_config_read(struct pci_host *host, unsigned slot, unsigned off, unsigned size)
{
	uint32_t val;

	pthread_mutex_lock(&host->lock);
	val = read_locked(host, slot, off, size);
	pthread_mutex_unlock(&host->lock);
	return val;
}

void pci_config_write(struct pci_host *host, unsigned slot, unsigned off, unsigned size,
		      uint32_t val)
{
	pthread_mutex_lock(&host->lock);
	write_locked(host, slot, off, size, val);
	pthread_mutex_unlock(&host->lock);
}

/* --- ways in: ports 0xcf8-0xcff and ECAM --- */

static uint64_t address_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_host *host = opaque;
	uint64_t val = ~0ull;

	pthread_mutex_lock(&host->lock);
	if (off == 0 && size == 4)
		val = host->address;
	else if (off == 1 && size == 1)
		val = host->reset_control;
	pthread_mutex_unlock(&host->lock);
	return val;
}

static void address_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_host *host = opaque;
	bool reset = false;

	pthread_mutex_lock(&host->lock);
	if (off == 0 && size == 4) {
		host->address = (uint32_t)val & 0x80fffffc;
	} else if (off == 1 && size == 1) {
		reset = val & RESET_CPU && !(host->reset_control & RESET_CPU);
		host->reset_control = val & 0x0e;
	}
	pthread_mutex_unlock(&host->lock);
	if (reset && host->platform && host->platform->reset)
		host->platform->reset(host->platform->opaque);
}

/* Slot that the address register selects; PCI_SLOT_COUNT: none */
static unsigned address_slot(const struct pci_host *host)
{
	if (!(host->address & 0x80000000) || host->address & 0x00ff0700)
		return PCI_SLOT_COUNT;
	return host->address >> 11 & 31;
}

static uint64_t data_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_host *host = opaque;
	uint32_t val;

	pthread_mutex_lock(&host->lock);
	val = read_locked(host, address_slot(host), (host->address & 0xfc) + (unsigned)off, size);
	pthread_mutex_unlock(&host->lock);
	return val;
}

static void data_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_host *host = opaque;

	pthread_mutex_lock(&host->lock);
	write_locked(host, address_slot(host), (host->address & 0xfc) + (unsigned)off, size,
		     (uint32_t)val);
	pthread_mutex_unlock(&host->lock);
}

/* Bits 12-14 of an ECAM offset are the function, 15-19 the device, 20-27 the bus. */
static unsigned ecam_slot(uint64_t off)
{
	return off >> 20 || off >> 12 & 7 ? PCI_SLOT_COUNT : (unsigned)(off >> 15 & 31);
}

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_host *host = opaque;
	unsigned reg = (unsigned)off & 0xfff;

	if (size == 8)
		return pci_config_read(host, ecam_slot(off), reg, 4) |
		       (uint64_t)pci_config_read(host, ecam_slot(off), reg + 4, 4) << 32;
	return pci_config_read(host, ecam_slot(off), reg, size);
}

static void ecam_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_host *host = opaque;
	unsigned reg = (unsigned)off & 0xfff;

	if (size == 8) {
		pci_config_write(host, ecam_slot(off), reg, 4, (uint32_t)val);
		pci_config_write(host, ecam_slot(off), reg + 4, 4, (uint32_t)(val >> 32));
		return;
	}
	pci_config_write(host, ecam_slot(off), reg, size, (uint32_t)val);
}

static const struct bus_ops address_ops = { address_read, address_write };
static const struct bus_ops data_ops = { data_read, data_write };
static const struct bus_ops ecam_ops = { ecam_read, ecam_write };

/* --- devices --- */

static void dev_init(struct pci_dev *dev, struct pci_host *host, unsigned slot, const char *name,
		     const struct pci_ids *ids, const struct pci_dev_ops *ops)
{
	memset(dev, 0, sizeof(*dev));
	dev->host = host;
	dev->name = name;
	dev->slot = slot;
	dev->ops = ops;
	dev->cap_end = CAP_FIRST;
	pthread_mutex_init(&dev->msix.lock, NULL);
	put_le16(dev->config + REG_VENDOR, ids->vendor);
	put_le16(dev->config + REG_DEVICE, ids->device);
	put_le32(dev->config + REG_REVISION, ids->class_code << 8 | ids->revision);
	put_le16(dev->config + REG_SUBSYS_VENDOR, ids->subsys_vendor);
	put_le16(dev->config + REG_SUBSYS_DEVICE, ids->subsys_device);
	put_le16(dev->wmask + PCI_REG_COMMAND, COMMAND_WRITABLE);
	dev->wmask[REG_CACHE_LINE] = 0xff;
	if (slot) {
		dev->config[PCI_REG_INT_PIN] = 1;
		dev->wmask[PCI_REG_INT_LINE] = 0xff;
		dev->config[PCI_REG_INT_LINE] = (uint8_t)pci_intx_gsi(slot, 1);
		dev->initial[PCI_REG_INT_LINE] = dev->config[PCI_REG_INT_LINE];
	}
	host->devs[slot] = dev;
}

int pci_dev_init(struct pci_dev *dev, struct pci_host *host, unsigned slot, const char *name,
		 const struct pci_ids *ids, const struct pci_dev_ops *ops, struct err *err)
{
	int ret = 0;

	if (!slot || slot >= PCI_SLOT_COUNT)
		return err_set(err, EINVAL, "PCI device '%s': slot %u is not 1 to %u", name, slot,
			       PCI_SLOT_COUNT - 1);
	pthread_mutex_lock(&host->lock);
	if (host->devs[slot])
		ret = err_set(err, EBUSY, "PCI device '%s': slot %u is taken by '%s'", name, slot,
			      host->devs[slot]->name);
	else
		dev_init(dev, host, slot, name, ids, ops);
	pthread_mutex_unlock(&host->lock);
	return ret;
}

void pci_dev_done(struct pci_dev *dev)
{
	struct pci_host *host = dev->host;

	if (!host)
		return;
	pci_intx_set(dev, false);
	pthread_mutex_lock(&host->lock);
	for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
		unmap_bar(dev, &dev->bars[i]);
	host->devs[dev->slot] = NULL;
	pthread_mutex_unlock(&host->lock);
	pci_msix_done(dev);
	dev->host = NULL;
}

bool pci_hide(struct pci_host *host, unsigned slot)
{
	struct pci_dev *dev;
	bool was;

	pthread_mutex_lock(&host->lock);
	dev = slot && slot < PCI_SLOT_COUNT ? host->devs[slot] : NULL;
	was = dev && !dev->hidden;
	if (was) {
		put_le16(dev->config + PCI_REG_COMMAND, PCI_COMMAND_INTX_DISABLE);
		config_changed(dev);
		dev->hidden = true;
	}
	pthread_mutex_unlock(&host->lock);
	return was;
}

/*
 * Whether a BAR was given an address in [@addr, @addr+@size); the end of that one's share then.
 * Memory BARs never share a page.
 */
static bool bar_taken(const struct pci_host *host, unsigned io, uint64_t addr, uint64_t size,
		      uint64_t *ret_end)
{
	for (unsigned slot = 0; slot < PCI_SLOT_COUNT; slot++) {
		for (unsigned i = 0; host->devs[slot] && i < PCI_BAR_COUNT; i++) {
			const struct pci_bar *bar = &host->devs[slot]->bars[i];
			uint64_t len = io ? bar->size : align_up(bar->size, PAGE_SIZE);

			if (!bar->size || (bar->flags & PCI_BAR_IO) != io)
				continue;
			if (bar->initial < addr + size && addr < bar->initial + len) {
				*ret_end = bar->initial + len;
				return true;
			}
		}
	}
	return false;
}

/* The lowest free address of a window, naturally aligned: devices come and go. */
static int bar_place(const struct pci_host *host, unsigned io, uint64_t base, uint64_t len,
		     uint64_t size, uint64_t *ret_addr)
{
	uint64_t step = io ? size : max_u64(size, PAGE_SIZE), addr = align_up(base, step);

	while (bar_taken(host, io, addr, step, &addr))
		addr = align_up(addr, step);
	if (addr - base > len || step > len - (addr - base))
		return -ENOSPC;
	*ret_addr = addr;
	return 0;
}

static bool bar_args_valid(const struct pci_dev *dev, unsigned idx, uint64_t size, unsigned flags)
{
	unsigned last = flags & PCI_BAR_MEM64 ? idx + 1 : idx;

	if (last >= PCI_BAR_COUNT || !size || size & (size - 1) || dev->bars[idx].size)
		return false;
	if (idx && dev->bars[idx - 1].size && dev->bars[idx - 1].flags & PCI_BAR_MEM64)
		return false;
	if (last != idx && dev->bars[last].size)
		return false;
	if (flags & PCI_BAR_IO)
		return flags == PCI_BAR_IO && size >= 4 && size <= 256;
	return !(flags & ~(PCI_BAR_MEM64 | PCI_BAR_PREFETCH)) && size >= 16;
}

int pci_add_bar(struct pci_dev *dev, unsigned idx, uint64_t size, unsigned flags,
		const struct bus_ops *ops, void *opaque)
{
	struct pci_host *host = dev->host;
	unsigned reg = PCI_REG_BAR0 + 4 * idx;
	struct pci_bar *bar;
	uint64_t addr, mask;
	int ret;

	if (!bar_args_valid(dev, idx, size, flags))
		return -EINVAL;
	pthread_mutex_lock(&host->lock);
	if (flags & PCI_BAR_IO)
		ret = bar_place(host, PCI_BAR_IO, PCI_IO_BASE, PCI_IO_SIZE, size, &addr);
	else if (flags & PCI_BAR_MEM64)
		ret = bar_place(host, 0, MEM_PCI64_BASE, MEM_PCI64_SIZE, size, &addr);
	else
		ret = bar_place(host, 0, MEM_PCI32_BASE, MEM_PCI32_SIZE, size, &addr);
	if (ret < 0)
		goto out;
	bar = &dev->bars[idx];
	*bar = (struct pci_bar) {
		.size = size, .initial = addr, .flags = flags, .ops = ops, .opaque = opaque
	};
	mask = ~(size - 1);
	put_le32(dev->wmask + reg, (uint32_t)mask);
	put_le32(dev->config + reg, (uint32_t)addr | flags);
	put_le32(dev->initial + reg, (uint32_t)addr | flags);
	if (flags & PCI_BAR_MEM64) {
		put_le32(dev->wmask + reg + 4, (uint32_t)(mask >> 32));
		put_le32(dev->config + reg + 4, (uint32_t)(addr >> 32));
		put_le32(dev->initial + reg + 4, (uint32_t)(addr >> 32));
	}
out:
	pthread_mutex_unlock(&host->lock);
	return ret;
}

int pci_add_cap(struct pci_dev *dev, uint8_t id, const void *bytes, unsigned len, const void *wmask)
{
	struct pci_host *host = dev->host;
	unsigned off;
	int ret = -ENOSPC;

	pthread_mutex_lock(&host->lock);
	off = dev->cap_end;
	if (len > PCI_CONFIG_SIZE - 2 || off + 2 + len > PCI_CONFIG_SIZE)
		goto out;
	dev->config[off] = id;
	if (bytes)
		memcpy(dev->config + off + 2, bytes, len);
	if (wmask)
		memcpy(dev->wmask + off + 2, wmask, len);
	memcpy(dev->initial + off, dev->config + off, len + 2);
	dev->config[dev->cap_last ? dev->cap_last + 1 : PCI_REG_CAP_PTR] = (uint8_t)off;
	dev->config[PCI_REG_STATUS] |= STATUS_CAP_LIST;
	dev->cap_last = off;
	dev->cap_end = (unsigned)align_up(off + 2 + len, 4);
	ret = (int)off;
out:
	pthread_mutex_unlock(&host->lock);
	return ret;
}

static void dev_reset_locked(struct pci_dev *dev)
{
	for (unsigned i = 0; i < sizeof(dev->initial); i++)
		dev->config[i] =
		    (dev->config[i] & ~dev->wmask[i]) | (dev->initial[i] & dev->wmask[i]);
	pci_msix_reset(dev);
	config_changed(dev);
}

void pci_dev_reset(struct pci_dev *dev)
{
	pci_intx_set(dev, false);
	pthread_mutex_lock(&dev->host->lock);
	dev_reset_locked(dev);
	pthread_mutex_unlock(&dev->host->lock);
}

void pci_dev_save(struct pci_dev *dev, struct snap_writer *w)
{
	pthread_mutex_lock(&dev->host->lock);
	snap_begin(w, SNAP_DEV, SNAP_VERSION);
	snap_put_u8(w, (uint8_t)dev->slot);
	snap_put_bytes(w, dev->config, sizeof(dev->config));
	snap_put_u8(w, dev->intx_level);
	pci_msix_save(dev, w);
	snap_close(w);
	pthread_mutex_unlock(&dev->host->lock);
}

/* Identity: vendor, device, class, header type, subsystem, capability list */
static bool same_device(const uint8_t *a, const uint8_t *b)
{
	return !memcmp(a, b, 4) && !memcmp(a + REG_REVISION, b + REG_REVISION, 4) &&
	       a[0x0e] == b[0x0e] && !memcmp(a + REG_SUBSYS_VENDOR, b + REG_SUBSYS_VENDOR, 4) &&
	       a[PCI_REG_CAP_PTR] == b[PCI_REG_CAP_PTR];
}

int pci_dev_load(struct pci_dev *dev, struct snap_reader *r, struct err *err)
{
	uint8_t config[PCI_CONFIG_SIZE];
	uint32_t version;
	bool valid, intx;
	int ret = snap_open(r, SNAP_DEV, SNAP_VERSION, &version, err);

	if (ret < 0)
		return err_prefix(err, ret, "PCI device '%s'", dev->name);
	valid = snap_get_u8(r) == dev->slot;
	snap_get_bytes(r, config, sizeof(config));
	valid = same_device(config, dev->config) && valid;
	intx = snap_get_u8(r);
	pthread_mutex_lock(&dev->host->lock);
	valid = pci_msix_load(dev, r) && valid;
	ret = snap_end(r, err);
	if (!ret && !valid)
		ret = err_set(err, EBADMSG, "saved state is of another device");
	if (!ret)
		for (unsigned i = 0; i < sizeof(config); i++)
			dev->config[i] =
			    (dev->config[i] & ~dev->wmask[i]) | (config[i] & dev->wmask[i]);
	else
		dev_reset_locked(dev);
	config_changed(dev);
	pthread_mutex_unlock(&dev->host->lock);
	if (ret < 0)
		return err_prefix(err, ret, "PCI device '%s'", dev->name);
	pci_intx_set(dev, intx);
	return 0;
}

/* --- the host --- */

int pci_host_new(struct bus *pio, struct bus *mmio, const struct irq_sink *irq,
		 const struct platform_ops *platform, struct pci_host **ret_host, struct err *err)
{
	static const struct pci_ids bridge_ids = { .vendor = 0x1b36,
						   .device = 0x0008,
						   .class_code = 0x060000 };
	struct pci_host *host = calloc(1, sizeof(*host));
	int ret;

	if (!host)
		return err_set(err, ENOMEM, "PCI host: out of memory");
	pthread_mutex_init(&host->lock, NULL);
	pthread_mutex_init(&host->intx_lock, NULL);
	host->pio = pio;
	host->mmio = mmio;
	host->irq = irq;
	host->platform = platform;
	dev_init(&host->bridge, host, 0, "host bridge", &bridge_ids, NULL);
	ret = bus_add(pio, PORT_PCI_ADDRESS, 4, &address_ops, host);
	if (!ret)
		ret = bus_add(pio, PORT_PCI_DATA, 4, &data_ops, host);
	if (!ret)
		ret = bus_add(mmio, MEM_ECAM_BASE, MEM_ECAM_SIZE, &ecam_ops, host);
	if (ret < 0) {
		pci_host_free(host);
		return err_set(err, -ret, "PCI host: cannot claim its registers: %s",
			       strerror(-ret));
	}
	*ret_host = host;
	return 0;
}

void pci_host_free(struct pci_host *host)
{
	if (!host)
		return;
	pci_dev_done(&host->bridge);
	bus_del(host->pio, PORT_PCI_ADDRESS, host);
	bus_del(host->pio, PORT_PCI_DATA, host);
	bus_del(host->mmio, MEM_ECAM_BASE, host);
	pthread_mutex_destroy(&host->intx_lock);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

void pci_host_reset(struct pci_host *host)
{
	pci_dev_reset(&host->bridge);
	pthread_mutex_lock(&host->lock);
	host->address = 0;
	host->reset_control = 0;
	pthread_mutex_unlock(&host->lock);
}

void pci_host_save(struct pci_host *host, struct snap_writer *w)
{
	snap_begin(w, SNAP_HOST, SNAP_VERSION);
	snap_put_u32(w, host->address);
	snap_put_u8(w, host->reset_control);
	snap_close(w);
	pci_dev_save(&host->bridge, w);
}

int pci_host_load(struct pci_host *host, struct snap_reader *r, struct err *err)
{
	uint32_t version, address;
	uint8_t reset_control;
	int ret = snap_open(r, SNAP_HOST, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	address = snap_get_u32(r);
	reset_control = snap_get_u8(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&host->lock);
	host->address = address & 0x80fffffc;
	host->reset_control = reset_control & 0x0e;
	pthread_mutex_unlock(&host->lock);
	return pci_dev_load(&host->bridge, r, err);
}
