/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bt: decoding and translating blocks of any bytes. Nothing is run; a block must keep within the
 * room that the code cache holds free for one, and be found again by its addresses.
 *
 * Input: key (2 bytes), offset in the page (2), options (1), then code, which is
 * repeated to the end of the page and in the page after it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/bt/cache.h"
#include "fuzz.h"

#define PAGES 16
#define CODE_GPA (4 * PAGE_SIZE)
#define KEYS                                                                                       \
	(KEY_USER | KEY_AC | KEY_SS32 | KEY_SEGS | KEY_CS | KEY_FPU | KEY_ONE | KEY_INNER |        \
	 KEY_PLAIN | KEY_ALIGN)

static struct bt_vm *vm;
static struct guest_mem mem;
static struct bt_cpu *cpu;

static void require(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "bt_translate: %s\n", what);
	abort();
}

static void start(void)
{
	struct err err = { 0 };
	void *p;

	mem.size = PAGES * PAGE_SIZE;
	mem.slot_count = 1;
	require(!posix_memalign(&p, PAGE_SIZE, mem.size), "out of memory");
	mem.slots[0] = (struct mem_slot) { .size = mem.size, .hva = p };
	vm = calloc(1, sizeof(*vm));
	require(vm && !posix_memalign(&p, PAGE_SIZE, sizeof(*cpu)), "out of memory");
	cpu = p;
	memset(cpu, 0, sizeof(*cpu));
	vm->mem = &mem;
	vm->count = 1;
	vm->cpus[0] = cpu;
	pthread_mutex_init(&vm->lock, NULL);
	cpu->vm = vm;
	cpu->translator = calloc(1, bt_translator_size());
	require(cpu->translator && !bt_cpuid_init(&err) && !bt_cache_new(vm, MIB(1), &err),
		"no code cache");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = { data, size };
	uint32_t key, mode;
	unsigned off, options, fill;
	struct bt_cache *c;
	struct bt_block *b;
	uint8_t *code, *hot, *cold;
	size_t arena;

	if (!vm)
		start();
	c = vm->cache;
	key = fuzz_take(&in, 2);
	mode = key % 3;
	key = (key & KEYS) | mode;
	off = fuzz_take(&in, 2) & (PAGE_SIZE - 1);
	options = fuzz_take(&in, 1);
	vm->opt_exact_flags = options & 1;
	vm->opt_nogroup = options & 2;
	code = mem.slots[0].hva + CODE_GPA;
	memset(code, 0x90, 2 * PAGE_SIZE);
	for (fill = off; fill < 2 * PAGE_SIZE && in.left; fill += in.left)
		memcpy(code + fill, in.p,
		       in.left < 2 * PAGE_SIZE - fill ? in.left : 2 * PAGE_SIZE - fill);

	if (!bt_cache_room(c))
		bt_cache_flush(vm);
	require(bt_cache_room(c), "no room in an empty cache");
	hot = c->hot;
	cold = c->cold;
	arena = c->arena_used;
	/* the last page of a guest's memory has none behind it */
	b = bt_translate(cpu, key, CODE_GPA + off, code + off, PAGE_SIZE - off,
			 options & 4 ? NULL : code + PAGE_SIZE,
			 options & 4 ? 0 : CODE_GPA + PAGE_SIZE);
	require(b && c->hot - hot <= HOT_MAX / 2, "too much host code");
	require(c->cold - cold <= COLD_MAX / 2, "too much host code in slow paths");
	require(c->arena_used - arena <= ARENA_MAX / 2, "too many records");
	require(b->size && off + b->size <= PAGE_SIZE + INSN_MAX + 1, "size");
	require(b->entry[FLAGS_HW] >= (size_t)(hot - c->base) && b->entry[FLAGS_HW] < b->hot_end,
		"entry");
	if (b->valid || bt_cache_find(vm, b->gpa, b->gpa2, key))
		return 0;
	bt_cache_insert(vm, b);
	require(bt_cache_find(vm, CODE_GPA + off, b->gpa2, key) == b, "not found by its address");
	require(bt_cache_block_at(c, c->base + b->entry[FLAGS_HW]) == b,
		"not found by its host address");
	bt_cache_written(vm, CODE_GPA + off, 1);
	require(!b->valid && !bt_cache_find(vm, CODE_GPA + off, b->gpa2, key),
		"still there after a write");
	return 0;
}
