/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16-bit write to the first port selects an item, byte reads of the second
 * yield it from its start; behind its end, and for items that are not there,
 * zeros. Items are made once, in one buffer, and never change.
 */
#include "hw/fw_cfg.h"

#include <pthread.h>

#include "base/util.h"
#include "hw/platform.h"

#define ITEM_SIGNATURE 0x00
#define ITEM_ID 0x01
#define ITEM_RAM_SIZE 0x03
#define ITEM_NB_CPUS 0x05
#define ITEM_MAX_CPUS 0x0f
#define ITEM_FILE_DIR 0x19
#define ITEM_FILE_E820 0x20 /* the first of the files */

#define ID_TRADITIONAL 1u
#define FILE_NAME_LEN 56
#define E820_RAM 1
#define ITEM_MAX 8
#define DATA_MAX 256

struct item {
	uint16_t key, start, len;
};

struct fw_cfg {
	pthread_mutex_t lock; /* selected, offset */
	uint16_t selected;
	uint32_t offset;
	struct bus *pio;
	struct item items[ITEM_MAX];
	unsigned count;
	uint8_t data[DATA_MAX];
	unsigned used;
};

static const struct item *find_item(const struct fw_cfg *fw, uint16_t key)
{
	for (unsigned i = 0; i < fw->count; i++) {
		if (fw->items[i].key == key)
			return &fw->items[i];
	}
	return NULL;
}

static uint64_t fw_read(void *dev, uint64_t off, unsigned size)
{
	struct fw_cfg *fw = dev;
	const struct item *item;
	uint8_t val = 0;

	if (off != 1 || size != 1)
		return 0;
	pthread_mutex_lock(&fw->lock);
	item = find_item(fw, fw->selected);
	if (item && fw->offset < item->len)
		val = fw->data[item->start + fw->offset++];
	pthread_mutex_unlock(&fw->lock);
	return val;
}

static void fw_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
	struct fw_cfg *fw = dev;

	if (off != 0 || size != 2)
		return;
	pthread_mutex_lock(&fw->lock);
	fw->selected = (uint16_t)val;
	fw->offset = 0;
	pthread_mutex_unlock(&fw->lock);
}

static const struct bus_ops fw_ops = { fw_read, fw_write };

static void add_item(struct fw_cfg *fw, uint16_t key, const void *data, unsigned len)
{
	fw->items[fw->count++] = (struct item) { key, (uint16_t)fw->used, (uint16_t)len };
	memcpy(fw->data + fw->used, data, len);
	fw->used += len;
}

/* The memory map, RAM only, and the directory that names it (whose numbers are big-endian). */
static void add_files(struct fw_cfg *fw, const struct guest_mem *mem)
{
	struct {
		uint64_t addr, len;
		uint32_t type;
	} __attribute__((packed)) map[ARRAY_SIZE(mem->slots)];
	struct {
		uint32_t count, size;
		uint16_t select, reserved;
		char name[FILE_NAME_LEN];
	} dir = { .count = __builtin_bswap32(1),
		  .size = __builtin_bswap32(mem->slot_count * (uint32_t)sizeof(map[0])),
		  .select = __builtin_bswap16(ITEM_FILE_E820),
		  .name = "etc/e820" };

	for (unsigned i = 0; i < mem->slot_count; i++) {
		map[i].addr = mem->slots[i].gpa;
		map[i].len = mem->slots[i].size;
		map[i].type = E820_RAM;
	}
	add_item(fw, ITEM_FILE_DIR, &dir, sizeof(dir));
	add_item(fw, ITEM_FILE_E820, map, mem->slot_count * (unsigned)sizeof(map[0]));
}

int fw_cfg_new(struct bus *pio, const struct guest_mem *mem, unsigned cpu_count,
	       struct fw_cfg **ret_fw, struct err *err)
{
	struct fw_cfg *fw = calloc(1, sizeof(*fw));
	uint32_t id = ID_TRADITIONAL;
	uint16_t cpus = (uint16_t)cpu_count;
	int ret;

	if (!fw)
		return err_set(err, ENOMEM, "firmware configuration: out of memory");
	pthread_mutex_init(&fw->lock, NULL);
	add_item(fw, ITEM_SIGNATURE, "QEMU", 4);
	add_item(fw, ITEM_ID, &id, sizeof(id));
	add_item(fw, ITEM_RAM_SIZE, &mem->size, sizeof(mem->size));
	add_item(fw, ITEM_NB_CPUS, &cpus, sizeof(cpus));
	add_item(fw, ITEM_MAX_CPUS, &cpus, sizeof(cpus));
	add_files(fw, mem);
	ret = bus_add(pio, PORT_FW_CFG, 2, &fw_ops, fw);
	if (ret < 0) {
		fw_cfg_free(fw);
		return err_set(err, -ret, "firmware configuration: cannot claim port %#x: %s",
			       PORT_FW_CFG, strerror(-ret));
	}
	fw->pio = pio;
	*ret_fw = fw;
	return 0;
}

void fw_cfg_free(struct fw_cfg *fw)
{
	if (!fw)
		return;
	if (fw->pio)
		bus_del(fw->pio, PORT_FW_CFG, fw);
	pthread_mutex_destroy(&fw->lock);
	free(fw);
}

void fw_cfg_reset(struct fw_cfg *fw)
{
	pthread_mutex_lock(&fw->lock);
	fw->selected = 0;
	fw->offset = 0;
	pthread_mutex_unlock(&fw->lock);
}

#define SNAP_NAME "fw_cfg"
#define SNAP_VERSION 1

void fw_cfg_save(struct fw_cfg *fw, struct snap_writer *w)
{
	snap_begin(w, SNAP_NAME, SNAP_VERSION);
	snap_put_u16(w, fw->selected);
	snap_put_u32(w, fw->offset);
	snap_close(w);
}

int fw_cfg_load(struct fw_cfg *fw, struct snap_reader *r, struct err *err)
{
	uint16_t selected;
	uint32_t version, offset;
	int ret = snap_open(r, SNAP_NAME, SNAP_VERSION, &version, err);

	if (ret < 0)
		return ret;
	selected = snap_get_u16(r);
	offset = snap_get_u32(r);
	ret = snap_end(r, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&fw->lock);
	fw->selected = selected;
	fw->offset = offset;
	pthread_mutex_unlock(&fw->lock);
	return 0;
}
