/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI transport of virtio (virtio 1.2, 4.1), modern only.
 *
 * BAR 0 holds the four structures, a page each: common configuration, ISR
 * status, device configuration, notifications (4 bytes a queue). BAR 1 is
 * MSI-X. The fifth capability gives access to BAR 0 through configuration
 * space (4.1.4.9); those accesses run under the PCI host's lock.
 *
 * Registers are accessed with their own width (4.1.3.1); 64-bit fields also
 * by halves. Reads of other shapes get the bytes, writes are ignored.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "base/util.h"
#include "virtio/virtio.h"

#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_DEVICE_BASE 0x1040

#define BAR_REGS 0
#define BAR_MSIX 1
#define OFF_COMMON 0x0000u
#define OFF_ISR 0x1000u
#define OFF_DEVICE 0x2000u
#define OFF_NOTIFY 0x3000u
#define REGION_SIZE 0x1000u
#define BAR_SIZE 0x4000u
#define NOTIFY_MULTIPLIER 4
#define COMMON_LEN 0x38 /* up to and with queue_device */

/* Within the access capability, as in struct virtio_pci_cfg_cap */
#define CFG_CAP_BAR 4
#define CFG_CAP_OFFSET 8
#define CFG_CAP_LENGTH 12
#define CFG_CAP_DATA 16

static struct virtq *selected(struct virtio_dev *dev)
{
	return dev->queue_select < dev->queue_count ? &dev->queues[dev->queue_select] : NULL;
}

/* All registers as they read now; device lock held. */
static void common_image(struct virtio_dev *dev, uint8_t *regs)
{
	const struct virtq *vq = selected(dev);

	memset(regs, 0, COMMON_LEN);
	put_le32(regs + VIRTIO_PCI_COMMON_DFSELECT, dev->feature_select);
	if (dev->feature_select < 2)
		put_le32(regs + VIRTIO_PCI_COMMON_DF,
			 (uint32_t)(dev->offered >> 32 * dev->feature_select));
	put_le32(regs + VIRTIO_PCI_COMMON_GFSELECT, dev->driver_feature_select);
	if (dev->driver_feature_select < 2)
		put_le32(regs + VIRTIO_PCI_COMMON_GF,
			 (uint32_t)(dev->accepted >> 32 * dev->driver_feature_select));
	put_le16(regs + VIRTIO_PCI_COMMON_MSIX, atomic_load(&dev->config_vector));
	put_le16(regs + VIRTIO_PCI_COMMON_NUMQ, (uint16_t)dev->queue_count);
	regs[VIRTIO_PCI_COMMON_STATUS] = (uint8_t)atomic_load(&dev->status);
	regs[VIRTIO_PCI_COMMON_CFGGENERATION] = dev->config_generation;
	put_le16(regs + VIRTIO_PCI_COMMON_Q_SELECT, dev->queue_select);
	if (!vq)
		return; /* size 0: no such queue */
	put_le16(regs + VIRTIO_PCI_COMMON_Q_SIZE, vq->size);
	put_le16(regs + VIRTIO_PCI_COMMON_Q_MSIX, atomic_load(&vq->vector));
	put_le16(regs + VIRTIO_PCI_COMMON_Q_ENABLE, vq->enabled);
	put_le16(regs + VIRTIO_PCI_COMMON_Q_NOFF, (uint16_t)vq->index);
	put_le64(regs + VIRTIO_PCI_COMMON_Q_DESCLO, vq->desc_gpa);
	put_le64(regs + VIRTIO_PCI_COMMON_Q_AVAILLO, vq->avail_gpa);
	put_le64(regs + VIRTIO_PCI_COMMON_Q_USEDLO, vq->used_gpa);
}

static uint64_t common_read(struct virtio_dev *dev, unsigned off, unsigned size)
{
	uint8_t regs[COMMON_LEN];
	uint64_t val = 0;

	if (off + size > COMMON_LEN)
		return 0;
	pthread_mutex_lock(&dev->lock);
	common_image(dev, regs);
	pthread_mutex_unlock(&dev->lock);
	memcpy(&val, regs + off, size);
	return val;
}

static uint16_t checked_vector(struct virtio_dev *dev, uint64_t vector)
{
	/* Reading back 0xffff tells the driver that the vector could not be had. */
	return vector < dev->pci.msix.count ? (uint16_t)vector : VIRTQ_NO_VECTOR;
}

/* Size and addresses are fixed once the queue is enabled. */
static void queue_write(struct virtio_dev *dev, struct virtq *vq, unsigned off, uint32_t val)
{
	uint64_t *gpa;
	bool high;

	switch (off) {
	case VIRTIO_PCI_COMMON_Q_MSIX:
		atomic_store(&vq->vector, checked_vector(dev, val));
		return;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (val == 1 && !vq->enabled)
			virtio_queue_enable(dev, vq);
		return;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (!vq->enabled)
			vq->size = (uint16_t)val; /* checked when the queue starts */
		return;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		gpa = &vq->desc_gpa;
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		gpa = &vq->avail_gpa;
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		gpa = &vq->used_gpa;
		break;
	default:
		return;
	}
	high = off & 4;
	if (!vq->enabled)
		*gpa = high ? (uint32_t)*gpa | (uint64_t)val << 32 : (*gpa & ~0xffffffffull) | val;
}

static unsigned width_of(unsigned off)
{
	switch (off) {
	case VIRTIO_PCI_COMMON_STATUS:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return 2;
	default:
		return 4;
	}
}

static void common_write(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t val)
{
	if (size == 8 && off >= VIRTIO_PCI_COMMON_Q_DESCLO && off % 8 == 0) {
		common_write(dev, off, 4, (uint32_t)val);
		common_write(dev, off + 4, 4, val >> 32);
		return;
	}
	if (size != width_of(off))
		return;
	pthread_mutex_lock(&dev->lock);
	if (dev->resetting)
		goto out;
	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		dev->feature_select = (uint32_t)val;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		dev->driver_feature_select = (uint32_t)val;
		break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_set_feature_word(dev, dev->driver_feature_select, (uint32_t)val);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		atomic_store(&dev->config_vector, checked_vector(dev, val));
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_set_status(dev, (uint8_t)val);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		dev->queue_select = (uint16_t)val;
		break;
	default:
		if (selected(dev))
			queue_write(dev, selected(dev), off, (uint32_t)val);
		break;
	}
out:
	pthread_mutex_unlock(&dev->lock);
}

static uint64_t device_read(struct virtio_dev *dev, unsigned off, unsigned size)
{
	uint64_t val = 0;

	if (!dev->ops->config_read || off + size > dev->config_len)
		return 0;
	pthread_mutex_lock(&dev->lock);
	dev->ops->config_read(dev, off, &val, size);
	pthread_mutex_unlock(&dev->lock);
	return val;
}

static void device_write(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t val)
{
	if (!dev->ops->config_write || off + size > dev->config_len)
		return;
	pthread_mutex_lock(&dev->lock);
	dev->ops->config_write(dev, off, &val, size);
	pthread_mutex_unlock(&dev->lock);
}

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
	struct virtio_dev *dev = opaque;
	unsigned reg = (unsigned)off % REGION_SIZE;

	switch (off - reg) {
	case OFF_COMMON:
		return common_read(dev, reg, size);
	case OFF_ISR:
		return reg == 0 ? virtio_isr_take(dev) : 0;
	case OFF_DEVICE:
		return device_read(dev, reg, size);
	default:
		return 0;
	}
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
	struct virtio_dev *dev = opaque;
	unsigned reg = (unsigned)off % REGION_SIZE;

	switch (off - reg) {
	case OFF_COMMON:
		common_write(dev, reg, size, val);
		break;
	case OFF_DEVICE:
		device_write(dev, reg, size, val);
		break;
	case OFF_NOTIFY:
		if (reg % NOTIFY_MULTIPLIER == 0 && reg / NOTIFY_MULTIPLIER < dev->queue_count)
			virtio_queue_notify(dev, reg / NOTIFY_MULTIPLIER);
		break;
	}
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

/* Where the access capability points; false when it is nonsense. */
static bool cfg_target(struct virtio_dev *dev, uint32_t *ret_off, unsigned *ret_size)
{
	const uint8_t *cap = dev->pci.config + dev->pci_cfg_cap;
	uint32_t off = get_le32(cap + CFG_CAP_OFFSET), len = get_le32(cap + CFG_CAP_LENGTH);

	if (cap[CFG_CAP_BAR] != BAR_REGS || (len != 1 && len != 2 && len != 4))
		return false;
	if (off % len || off > BAR_SIZE - len)
		return false;
	*ret_off = off;
	*ret_size = len;
	return true;
}

static bool touches_data(struct virtio_dev *dev, unsigned off, unsigned size)
{
	unsigned data = dev->pci_cfg_cap + CFG_CAP_DATA;

	return dev->pci_cfg_cap && off < data + 4 && off + size > data;
}

static void config_read(struct pci_dev *pci, unsigned off, unsigned size)
{
	struct virtio_dev *dev = container_of(pci, struct virtio_dev, pci);
	uint32_t target;
	unsigned len;

	if (touches_data(dev, off, size) && cfg_target(dev, &target, &len))
		put_le32(pci->config + dev->pci_cfg_cap + CFG_CAP_DATA,
			 (uint32_t)bar_read(dev, target, len));
}

static void config_written(struct pci_dev *pci, unsigned off, unsigned size)
{
	struct virtio_dev *dev = container_of(pci, struct virtio_dev, pci);
	uint32_t target;
	unsigned len;

	if (touches_data(dev, off, size) && cfg_target(dev, &target, &len))
		bar_write(dev, target, len,
			  get_le32(pci->config + dev->pci_cfg_cap + CFG_CAP_DATA) &
			      (len == 4 ? ~0u : (1u << 8 * len) - 1));
}

/* Where the accelerator cannot, notifications reach bar_write() as all other writes do. */
static void bar_moved(struct pci_dev *pci, unsigned idx, struct bus *bus, uint64_t addr,
		      bool mapped)
{
	struct virtio_dev *dev = container_of(pci, struct virtio_dev, pci);

	for (unsigned i = 0; idx == BAR_REGS && i < dev->queue_count; i++)
		if (dev->queues[i].doorbell_fd >= 0)
			bus_doorbell(bus, addr + OFF_NOTIFY + i * NOTIFY_MULTIPLIER,
				     dev->queues[i].doorbell_fd, mapped);
}

static const struct pci_dev_ops pci_ops = {
	.bar_moved = bar_moved,
	.config_read = config_read,
	.config_written = config_written,
};

/* struct virtio_pci_cap after its first two bytes, with room for the longest kind */
static int add_cap(struct virtio_dev *dev, uint8_t type, uint32_t off, uint32_t len, uint32_t extra,
		   unsigned extra_len, const uint8_t *wmask)
{
	uint8_t cap[18] = { 0 };

	cap[0] = (uint8_t)(sizeof(struct virtio_pci_cap) + extra_len);
	cap[1] = type;
	cap[2] = BAR_REGS;
	put_le32(cap + 6, off);
	put_le32(cap + 10, len);
	put_le32(cap + 14, extra);
	return pci_add_cap(&dev->pci, PCI_CAP_ID_VENDOR, cap, 14 + extra_len, wmask);
}

static int add_caps(struct virtio_dev *dev)
{
	uint8_t cfg_wmask[18] = { 0 };
	int ret;

	ret = add_cap(dev, VIRTIO_PCI_CAP_COMMON_CFG, OFF_COMMON, COMMON_LEN, 0, 0, NULL);
	if (ret >= 0)
		ret = add_cap(dev, VIRTIO_PCI_CAP_ISR_CFG, OFF_ISR, 1, 0, 0, NULL);
	if (ret >= 0 && dev->config_len)
		ret = add_cap(dev, VIRTIO_PCI_CAP_DEVICE_CFG, OFF_DEVICE, dev->config_len, 0, 0,
			      NULL);
	if (ret >= 0)
		ret = add_cap(dev, VIRTIO_PCI_CAP_NOTIFY_CFG, OFF_NOTIFY,
			      dev->queue_count * NOTIFY_MULTIPLIER, NOTIFY_MULTIPLIER, 4, NULL);
	if (ret < 0)
		return ret;
	cfg_wmask[CFG_CAP_BAR - 2] = 0xff;
	memset(cfg_wmask + CFG_CAP_OFFSET - 2, 0xff, 12); /* offset, length, data */
	ret = add_cap(dev, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 4, cfg_wmask);
	if (ret < 0)
		return ret;
	dev->pci_cfg_cap = (unsigned)ret;
	return 0;
}

int virtio_pci_init(struct virtio_dev *dev, unsigned slot, struct err *err)
{
	struct pci_ids ids = {
		.vendor = PCI_VENDOR_VIRTIO,
		.device = PCI_DEVICE_BASE + dev->ops->device_id,
		.subsys_vendor = PCI_VENDOR_VIRTIO,
		.subsys_device = PCI_DEVICE_BASE + dev->ops->device_id,
		.class_code = dev->ops->class_code,
		.revision = 1,
	};
	int ret;

	ret = pci_dev_init(&dev->pci, dev->env.pci, slot, dev->ops->name, &ids, &pci_ops, err);
	if (ret < 0)
		return ret;
	ret = pci_add_bar(&dev->pci, BAR_REGS, BAR_SIZE, PCI_BAR_MEM32, &bar_ops, dev);
	if (ret >= 0)
		ret = pci_msix_init(&dev->pci, BAR_MSIX, dev->queue_count + 1);
	if (ret >= 0)
		ret = add_caps(dev);
	if (ret < 0) {
		pci_dev_done(&dev->pci);
		return err_set(err, -ret, "slot %u: no room for its registers", slot);
	}
	return 0;
}
