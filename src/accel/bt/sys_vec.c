/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masked moves and gathers: vector instructions whose elements access memory
 * one by one, and only where their mask says so. They work on the parked image
 * of the vector registers.
 */
#include "accel/bt/sys.h"

#include "base/util.h"

#define OFF_FSW 2
#define OFF_FTW 4
#define OFF_ST 32
#define OFF_XMM 160
#define OFF_YMMH 576

/* @off bytes into ymm @reg */
static uint8_t *ymm(uint8_t *img, unsigned reg, unsigned off)
{
	return off < 16 ? img + OFF_XMM + reg * 16 + off : img + OFF_YMMH + reg * 16 + off - 16;
}

static uint64_t element_get(uint8_t *img, unsigned reg, unsigned i, unsigned size)
{
	const uint8_t *p = ymm(img, reg, i * size);

	return size == 8 ? get_le64(p) : get_le32(p);
}

static void element_set(uint8_t *img, unsigned reg, unsigned i, unsigned size, uint64_t val)
{
	uint8_t *p = ymm(img, reg, i * size);

	if (size == 8)
		put_le64(p, val);
	else
		put_le32(p, val);
}

static bool enabled(uint8_t *img, unsigned mask_reg, unsigned i, unsigned size)
{
	return element_get(img, mask_reg, i, size) >> (size * 8 - 1) & 1;
}

/* Clear ymm @reg from byte @from on. */
static void clear_from(uint8_t *img, unsigned reg, unsigned from)
{
	for (; from < 32; from += 4)
		put_le32(ymm(img, reg, from), 0);
}

/* MMX registers are the physical x87 ones; the image has them in stack order. Using one sets TOP to
 * 0. */
static void mmx_normalise(uint8_t *img)
{
	uint16_t sw = get_le16(img + OFF_FSW);
	unsigned top = sw >> 11 & 7;
	uint8_t old[128];

	img[OFF_FTW] = 0xff;
	if (!top)
		return;
	bt_copy(old, img + OFF_ST, sizeof(old));
	for (unsigned r = 0; r < 8; r++)
		bt_copy(img + OFF_ST + r * 16, old + ((r - top) & 7) * 16, 16);
	put_le16(img + OFF_FSW, sw & ~(7u << 11));
}

/* Bytes of a vector to [rdi] where the mask's top bits are set. */
uint64_t sys_maskmov(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	bool mmx = in->unit == UNIT_MMX;
	unsigned count = mmx ? 8 : 16, seg = in->seg_override ? in->seg : SEG_DS;
	uint64_t off = cpu->st.regs[REG_RDI], la[16];
	uint8_t *img = sys_fpu_image(cpu), *data, *mask;

	if (mmx) {
		mmx_normalise(img);
		data = img + OFF_ST + (in->reg & 7) * 16;
		mask = img + OFF_ST + (in->rm & 7) * 16;
	} else {
		data = img + OFF_XMM + in->reg * 16;
		mask = img + OFF_XMM + in->rm * 16;
	}
	for (unsigned i = 0; i < count; i++) {
		if (!(mask[i] & 0x80))
			continue;
		la[i] = bt_seg_linear(cpu, seg, (off + i) & sys_size_mask(in->addrsize), 1, true);
		bt_probe_write(cpu, la[i], 1, BT_CPL);
	}
	for (unsigned i = 0; i < count; i++) {
		if (mask[i] & 0x80)
			bt_st(cpu, la[i], 1, data[i], BT_CPL);
	}
	return next;
}

uint64_t sys_vmaskmov(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned length = in->vex_l ? 32 : 16, size, count;
	bool store = in->opcode == 0x2e || in->opcode == 0x2f || in->opcode == 0x8e;
	uint64_t off, la[8], val[8];
	uint8_t *img;

	if (in->opcode >= 0x8c)
		size = in->w ? 8 : 4;
	else
		size = in->opcode & 1 ? 8 : 4;
	count = length / size;
	img = sys_fpu_image(cpu);
	off = bt_effective(cpu, in);
	for (unsigned i = 0; i < count; i++) {
		val[i] = 0;
		if (!enabled(img, in->vvvv, i, size))
			continue;
		la[i] = bt_seg_linear(cpu, in->seg, (off + i * size) & sys_size_mask(in->addrsize),
				      size, store);
		if (store)
			bt_probe_write(cpu, la[i], size, BT_CPL);
		else
			val[i] = bt_ld(cpu, la[i], size, BT_CPL);
	}
	for (unsigned i = 0; i < count; i++) {
		if (!store)
			element_set(img, in->reg, i, size, val[i]);
		else if (enabled(img, in->vvvv, i, size))
			bt_st(cpu, la[i], size, element_get(img, in->reg, i, size), BT_CPL);
	}
	if (!store)
		clear_from(img, in->reg, length);
	return next;
}

/* A fault leaves what was gathered before it, with those mask elements cleared. */
uint64_t sys_gather(struct bt_cpu *cpu, const struct insn *in, uint64_t next)
{
	unsigned length = in->vex_l ? 32 : 16, size = in->w ? 8 : 4,
		 index_size = in->opcode & 1 ? 8 : 4;
	unsigned count = length / (size > index_size ? size : index_size);
	uint64_t base = in->disp;
	uint8_t *img;

	if (in->reg == in->vvvv || in->reg == in->index || in->vvvv == in->index)
		sys_ud(cpu);
	if (in->base < 16)
		base += cpu->st.regs[in->base];
	img = sys_fpu_image(cpu);
	/* all of an element's bits follow its sign bit from here on */
	for (unsigned i = 0; i < count; i++)
		element_set(img, in->vvvv, i, size, enabled(img, in->vvvv, i, size) ? ~0ull : 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t index, off;

		if (!enabled(img, in->vvvv, i, size))
			continue;
		index = element_get(img, in->index, i, index_size);
		if (index_size == 4)
			index = (int64_t)(int32_t)index;
		off = (base + index * in->scale) & sys_size_mask(in->addrsize);
		element_set(
		    img, in->reg, i, size,
		    bt_ld(cpu, bt_seg_linear(cpu, in->seg, off, size, false), size, BT_CPL));
		element_set(img, in->vvvv, i, size, 0);
	}
	clear_from(img, in->reg, count * size);
	clear_from(img, in->vvvv, 0);
	return next;
}
