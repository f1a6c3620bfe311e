/* SPDX-License-Identifier: Apache-2.0 */
/* The code cache; see cache.h for its theory of operation. */
#include <sys/mman.h>

#include "accel/bt/cache.h"
#include "accel/bt/emit.h"

static void note_write(void *opaque, uint64_t gpa, uint64_t len)
{
	bt_cache_written(opaque, gpa, len);
}

static void *map(size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int bt_cache_new(struct bt_vm *vm, size_t bytes, struct err *err)
{
	struct bt_cache *c = map(sizeof(*c), PROT_READ | PROT_WRITE);

	if (!c)
		return err_set(err, ENOMEM, "code cache: out of memory");
	vm->cache = c;
	c->size = bytes;
	c->hot_size = bytes / 8 * 5; /* what the two parts take of a boot and a compiler */
	c->base = map(c->size, PROT_READ | PROT_WRITE | PROT_EXEC);
	c->arena_size = bytes;
	c->arena = map(c->arena_size, PROT_READ | PROT_WRITE);
	c->page_count = vm->mem->size >> PAGE_SHIFT;
	c->page_blocks = map(c->page_count * sizeof(*c->page_blocks), PROT_READ | PROT_WRITE);
	vm->mem->code_map = map(c->page_count, PROT_READ | PROT_WRITE);
	c->block_cap = c->arena_size / sizeof(struct bt_block);
	c->blocks = map(c->block_cap * sizeof(*c->blocks), PROT_READ | PROT_WRITE);
	if (!c->base || !c->arena || !c->page_blocks || !vm->mem->code_map || !c->blocks) {
		bt_cache_free(vm);
		return err_set(err, ENOMEM, "code cache: cannot map %zu bytes of executable memory",
			       bytes);
	}
	vm->mem->written = note_write;
	vm->mem->written_arg = vm;
	c->hot = c->base;
	c->rorx = bt_host_has(FEAT_BMI2);
	bt_stubs_make(vm);
	c->hot_start = c->hot;
	c->cold_start = c->cold = c->base + c->hot_size;
	return 0;
}

void bt_cache_free(struct bt_vm *vm)
{
	struct bt_cache *c = vm->cache;

	if (!c)
		return;
	if (c->base)
		munmap(c->base, c->size);
	if (c->arena)
		munmap(c->arena, c->arena_size);
	if (c->page_blocks)
		munmap(c->page_blocks, c->page_count * sizeof(*c->page_blocks));
	if (c->blocks)
		munmap(c->blocks, c->block_cap * sizeof(*c->blocks));
	if (vm->mem->code_map)
		munmap(vm->mem->code_map, c->page_count);
	vm->mem->written = NULL;
	vm->mem->code_map = NULL;
	munmap(c, sizeof(*c));
	vm->cache = NULL;
}

void *bt_cache_alloc(struct bt_cache *c, size_t size)
{
	void *p = c->arena + c->arena_used;

	size = (size + 7) & ~7ull;
	c->arena_used += size;
	bt_fill(p, 0, size);
	return p;
}

bool bt_cache_room(const struct bt_cache *c)
{
	return c->hot + HOT_MAX <= c->base + c->hot_size &&
	       c->cold + COLD_MAX <= c->base + c->size &&
	       c->arena_used + ARENA_MAX <= c->arena_size && c->block_count < c->block_cap;
}

static unsigned hash(uint64_t gpa, uint32_t key)
{
	return (uint32_t)((uint32_t)(gpa ^ gpa >> 16 ^ key * 0x9e5u) * 0x9e3779b1u) >>
	       (32 - BT_HASH_BITS);
}

struct bt_block *bt_cache_find(struct bt_vm *vm, uint64_t gpa, uint64_t gpa2, uint32_t key)
{
	for (struct bt_block *b = vm->cache->hash[hash(gpa, key)]; b; b = b->hash_next)
		if (b->gpa == gpa && b->key == key && (!b->gpa2 || b->gpa2 == gpa2))
			return b;
	return NULL;
}

/* The list of blocks that touch RAM page @page goes through page_next or, for a second page,
 * page2_next. */
static struct bt_block **list_next(const struct bt_vm *vm, struct bt_block *b, int64_t page)
{
	return ram_page(vm->mem, b->gpa) == page ? &b->page_next : &b->page2_next;
}

static void list_add(struct bt_vm *vm, struct bt_block *b, int64_t page)
{
	if (page < 0)
		return;
	*list_next(vm, b, page) = vm->cache->page_blocks[page];
	vm->cache->page_blocks[page] = b;
	__atomic_store_n(&vm->mem->code_map[page], 1, __ATOMIC_SEQ_CST);
}

static void list_del(struct bt_vm *vm, struct bt_block *b, int64_t page)
{
	if (page < 0)
		return;

	struct bt_block **at = &vm->cache->page_blocks[page];

	while (*at && *at != b)
		at = list_next(vm, *at, page);
	if (*at)
		*at = *list_next(vm, b, page);
	if (!vm->cache->page_blocks[page])
		__atomic_store_n(&vm->mem->code_map[page], 0, __ATOMIC_SEQ_CST);
}

void bt_cache_insert(struct bt_vm *vm, struct bt_block *b)
{
	struct bt_cache *c = vm->cache;
	unsigned h = hash(b->gpa, b->key);

	/* signal handlers search without the lock: first the place, then the count */
	c->blocks[c->block_count] = b;
	__atomic_store_n(&c->block_count, c->block_count + 1, __ATOMIC_RELEASE);
	c->stat_blocks++;
	c->stat_guest_bytes += b->size;
	b->hash_next = c->hash[h];
	c->hash[h] = b;
	list_add(vm, b, ram_page(vm->mem, b->gpa));
	if (b->gpa2 && ram_page(vm->mem, b->gpa2) != ram_page(vm->mem, b->gpa))
		list_add(vm, b, ram_page(vm->mem, b->gpa2));
	b->valid = true;
}

void bt_cache_link(struct bt_cache *c, struct bt_exit *e, struct bt_block *target)
{
	if (!e->patch || e->target || !e->from->valid || !target->valid)
		return;
	/* the guest may have put another page in the place of the one being run: such a link would
	 * outlive that */
	if ((e->from->gpa ^ target->gpa) >> PAGE_SHIFT)
		return;
	e->target = target;
	e->next_in = target->in;
	target->in = e;
	patch_rel32(c->base + e->patch, c->base + target->entry[e->flags]);
}

static void unlink_out(struct bt_cache *c, struct bt_exit *e)
{
	if (!e->target)
		return;
	for (struct bt_exit **at = &e->target->in; *at; at = &(*at)->next_in) {
		if (*at == e) {
			*at = e->next_in;
			break;
		}
	}
	e->target = NULL;
	patch_rel32(c->base + e->patch, c->base + e->stub);
}

void bt_cache_drop(struct bt_vm *vm, struct bt_block *b)
{
	struct bt_cache *c = vm->cache;

	if (!b->valid)
		return;
	b->valid = false;
	c->stat_invalidated++;
	for (struct bt_block **p = &c->hash[hash(b->gpa, b->key)]; *p; p = &(*p)->hash_next) {
		if (*p == b) {
			*p = b->hash_next;
			break;
		}
	}
	while (b->in)
		unlink_out(c, b->in);
	for (struct bt_exit *e = b->outs; e; e = e->next_out)
		unlink_out(c, e);
	list_del(vm, b, ram_page(vm->mem, b->gpa));
	if (b->gpa2 && ram_page(vm->mem, b->gpa2) != ram_page(vm->mem, b->gpa))
		list_del(vm, b, ram_page(vm->mem, b->gpa2));

	/* What stands in jump caches leads here: make it miss. One aligned 8-byte store. */
	uint64_t word;
	uint8_t *at = c->base + b->jc_entry;
	int32_t rel = (int32_t)(c->stubs.jc_miss[bt_jc_class(b->key)] - (at + 5));

	__builtin_memcpy(&word, at, 8);
	word = (word & ~0xffffffffffull) | 0xe9 | (uint64_t)(uint32_t)rel << 8;
	__atomic_store_n((uint64_t *)at, word, __ATOMIC_RELEASE);
}

static bool overlaps(const struct bt_block *b, uint64_t gpa, uint64_t len)
{
	if (!b->gpa2)
		return b->gpa < gpa + len && gpa < b->gpa + b->size;

	uint64_t first = PAGE_SIZE - (b->gpa & (PAGE_SIZE - 1));

	return (b->gpa < gpa + len && gpa < b->gpa + first) ||
	       (b->gpa2 < gpa + len && gpa < b->gpa2 + (b->size - first));
}

void bt_cache_written(struct bt_vm *vm, uint64_t gpa, uint64_t len)
{
	pthread_mutex_lock(&vm->lock);
	for (uint64_t at = gpa & ~(uint64_t)(PAGE_SIZE - 1); at < gpa + len; at += PAGE_SIZE) {
		int64_t page = ram_page(vm->mem, at);

		if (page < 0)
			continue;
		for (struct bt_block *b = vm->cache->page_blocks[page], *next; b; b = next) {
			next = *list_next(vm, b, page);
			if (overlaps(b, gpa, len))
				bt_cache_drop(vm, b);
		}
		/* so marked for a block that then did not come to stand there */
		if (!vm->cache->page_blocks[page])
			__atomic_store_n(&vm->mem->code_map[page], 0, __ATOMIC_SEQ_CST);
	}
	pthread_mutex_unlock(&vm->lock);
}

void bt_cache_flush(struct bt_vm *vm)
{
	struct bt_cache *c = vm->cache;

	for (unsigned i = 0; i < c->block_count; i++) {
		struct bt_block *b = c->blocks[i];

		if (!b->valid)
			continue;

		int64_t pages[2] = { ram_page(vm->mem, b->gpa),
				     b->gpa2 ? ram_page(vm->mem, b->gpa2) : -1 };

		for (unsigned k = 0; k < 2; k++) {
			if (pages[k] >= 0) {
				c->page_blocks[pages[k]] = NULL;
				vm->mem->code_map[pages[k]] = 0;
			}
		}
	}
	bt_fill(c->hash, 0, sizeof(c->hash));
	c->block_count = 0;
	c->arena_used = 0;
	c->hot = c->hot_start;
	c->cold = c->cold_start;
	c->stat_flushes++;
	for (unsigned i = 0; i < vm->count; i++) {
		if (vm->cpus[i])
			bt_jc_forget(vm->cpus[i]);
	}
}

struct bt_block *bt_cache_block_at(struct bt_cache *c, const uint8_t *pc)
{
	bool hot = pc < c->cold_start;
	unsigned lo = 0, hi = __atomic_load_n(&c->block_count, __ATOMIC_ACQUIRE);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		struct bt_block *b = c->blocks[mid];

		if (c->base + (hot ? b->hot_end : b->cold_end) <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->block_count ? c->blocks[lo] : NULL;
}

const struct bt_fault_site *bt_cache_fault_site(struct bt_cache *c, const struct bt_block *b,
						const uint8_t *pc)
{
	for (uint32_t i = 0; i < b->fault_count; i++)
		if (c->base + b->faults[i].host_off == pc)
			return &b->faults[i];
	return NULL;
}
