/* SPDX-License-Identifier: Apache-2.0 */
/* Windows; see window.h for their theory of operation. */
#include "accel/bt/window.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "accel/bt/cache.h"
#include "base/log.h"

#define CLUSTER (1ull << WINDOW_CLUSTER)
#define GUARD (4ull << 30) /* more than any displacement reaches */
#define LARGE_SHIFT 21

/* Costs are counted in mappings of one page, which take about 8 us with the signal. */
#define COST_NS 8000
#define COST_SHARE 8  /* one in so many parts of its time may go to mapping */
#define COST_LARGE 16 /* of a large page */
#define CREDIT_ON 300 /* with so much a space has its window: after 20 ms */
#define CREDIT_MAX 8000
#define TICK_MAX_NS 10000000ull
#define FLUSHES_MANY 3 /* between two looks */
#define GONE_FEW 64    /* so many are always unmapped by themselves */
/* Mappings of one window, each up to two of the host's areas: all windows stay below its limit of
 * 65530 (vm.max_map_count). */
#define PIECES_MAX 7000
#define TURNS_MAX 16 /* faults of one instruction in a row */
#define RUN_MAX 16   /* pages mapped at once */

static const uint8_t moves[BT_WINDOWS] = { 1, 5, 0x11, 0x15 };
static const uint8_t lows[BT_WINDOWS] = { 0x13, 0x11, 0xf, 0xd }; /* clusters of the lower parts */

#define PARTS 5
#define LOW 4

#define SETS 8192 /* of pages by linear address, as in a TLB */
#define WAYS 4
#define LARGES 512

/* Flags of where[], beside a linear address */
#define LISTED 1u /* in pages[] */
#define MAPPED 2u /* there is an address */
#define WRITABLE 4u
#define IN_LARGE 8u

/* A page, or large page, that is mapped. */
struct slot {
	uint64_t la; /* and MAPPED; 0: free */
	uint32_t page;
};

struct bt_window {
	uint64_t base, low; /* host address minus linear address, above and in the lower part */
	bool used;
	unsigned pieces;	       /* of the host's areas, about */
	uint64_t lo[PARTS], hi[PARTS]; /* of what is mapped: linear addresses */
	struct slot small[SETS][WAYS], large[LARGES];
	uint64_t split[64]; /* large pages of the guest that are not mapped as such, hashed */
	uint32_t *pages;    /* RAM pages with LISTED */
	unsigned page_count;
	uint64_t *where; /* by RAM page: the one place where it is mapped, and flags */
};

/* Which part of a window has an address: its clusters, the lower part; PARTS: none. */
static unsigned part_of(uint64_t la)
{
	unsigned cluster = la >> WINDOW_CLUSTER; /* 0x15, 0x17, 0x1d, 0x1f */

	if (!(la >> WINDOW_LOW_BITS))
		return LOW;
	if (la >> 47 || (la & WINDOW_MASK) != WINDOW_MASK)
		return PARTS;
	return (cluster >> 1 & 1) | (cluster >> 2 & 2);
}

static void *host_of(const struct bt_window *w, uint64_t la)
{
	return (void *)(la + (part_of(la) == LOW ? w->low : w->base));
}

static uint64_t page_of(uint64_t la)
{
	return la & ~(PAGE_SIZE - 1ull);
}

/* ---- the reserved room ---- */

static const struct {
	uint64_t start, end;
} room[] = {
	{ GUARD, 0x15 * CLUSTER + GUARD },
	{ 0x16 * CLUSTER - GUARD, 0x1f * CLUSTER + GUARD },
};

/* By syscall(): the guest's vector registers are live (see bt.h). Return: whether it is done. */
static bool map_at(void *at, uint64_t size, int prot, int flags, int fd, uint64_t offset)
{
	return syscall(SYS_mmap, at, size, prot, flags, (long)fd, offset) == (long)(uintptr_t)at;
}

static bool reserve(void *start, uint64_t size, int how)
{
	return map_at(start, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how, -1,
		      0);
}

static size_t window_bytes(const struct bt_vm *vm)
{
	return sizeof(struct bt_window) +
	       (vm->mem->size >> PAGE_SHIFT) * (sizeof(uint64_t) + sizeof(uint32_t));
}

static const char *unusable(const struct bt_vm *vm)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return "built with sanitizers, which have fs and the addresses for themselves";
#endif
	if (vm->opt_nowindow)
		return "switched off";
	if (vm->mem->fd < 0)
		return "guest memory is private";
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
		return "the host has no FSGSBASE";
	if (!bt_host_has(FEAT_BMI1))
		return "the host has no BMI1";
	return NULL;
}

void bt_windows_new(struct bt_vm *vm)
{
	const char *why = unusable(vm);
	for (unsigned i = 0; i < ARRAY_SIZE(room) && !why; i++) {
		if (reserve((void *)room[i].start, room[i].end - room[i].start,
			    MAP_FIXED_NOREPLACE))
			continue;
		why = "the addresses are taken";
		if (i)
			munmap((void *)room[0].start, room[0].end - room[0].start);
	}
	if (why) {
		log_info("bt: no windows: %s", why);
		return;
	}
	for (unsigned i = 0; i < BT_WINDOWS; i++) {
		struct bt_window *w = mmap(NULL, window_bytes(vm), PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (w == MAP_FAILED)
			break;
		w->base = -(moves[i] * CLUSTER);
		w->low = lows[i] * CLUSTER + CLUSTER / 2;
		w->where = (uint64_t *)(w + 1);
		w->pages = (uint32_t *)(w->where + (vm->mem->size >> PAGE_SHIFT));
		vm->windows[i] = w;
	}
}

void bt_windows_free(struct bt_vm *vm)
{
	if (!vm->windows[0])
		return;
	for (unsigned i = 0; i < BT_WINDOWS && vm->windows[i]; i++) {
		munmap(vm->windows[i], window_bytes(vm));
		vm->windows[i] = NULL;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(room); i++)
		munmap((void *)room[i].start, room[i].end - room[i].start);
}

/* ---- taking out ---- */

static void set_where(struct bt_window *w, uint32_t page, uint64_t to)
{
	__atomic_store_n(&w->where[page], to, __ATOMIC_RELAXED);
}

static void close_parts(struct bt_window *w)
{
	for (unsigned i = 0; i < PARTS; i++) {
		void *at = host_of(w, w->lo[i]);
		uint64_t size = w->hi[i] - w->lo[i];

		if (w->hi[i] <= w->lo[i] || reserve(at, size, MAP_FIXED))
			continue;
		/* more areas than the host allows, so that it must have fewer first */
		syscall(SYS_munmap, at, size);
		if (!reserve(at, size, MAP_FIXED))
			__builtin_trap(); /* what the guest took away would stay in its reach */
	}
}

/* The host may have no room for one area more: then without what is around it. */
static void unmap(struct bt_window *w, uint64_t la, uint64_t size)
{
	w->pieces++;
	if (!reserve(host_of(w, la), size, MAP_FIXED))
		close_parts(w);
}

static void drop(struct bt_cpu *cpu, struct bt_window *w)
{
	if (!w->pieces)
		return;
	cpu->stat_window_drops++;
	for (unsigned i = 0; i < w->page_count; i++) {
		uint64_t set = w->where[w->pages[i]] >> PAGE_SHIFT;

		bt_fill(w->small[set % SETS], 0, sizeof(w->small[0]));
		set_where(w, w->pages[i], 0);
	}
	close_parts(w);
	bt_fill(w->lo, 0, sizeof(w->lo));
	bt_fill(w->hi, 0, sizeof(w->hi));
	bt_fill(w->large, 0, sizeof(w->large));
	bt_fill(w->split, 0, sizeof(w->split));
	w->pieces = w->page_count = 0;
}

static struct slot *find_small(struct bt_window *w, uint64_t la)
{
	struct slot *set = w->small[(la >> PAGE_SHIFT) % SETS];

	for (unsigned i = 0; i < WAYS; i++)
		if (set[i].la == (page_of(la) | MAPPED))
			return &set[i];
	return NULL;
}

static struct slot *large_slot(struct bt_window *w, uint64_t la)
{
	return &w->large[(la >> LARGE_SHIFT) % LARGES];
}

/* What is at @s is mapped no more: the records of it. */
static void forget_small(struct bt_window *w, struct slot *s)
{
	if (page_of(w->where[s->page]) == page_of(s->la))
		set_where(w, s->page, LISTED);
	s->la = 0;
}

static void remove_small(struct bt_window *w, struct slot *s)
{
	unmap(w, page_of(s->la), PAGE_SIZE);
	forget_small(w, s);
}

static void remove_large(struct bt_window *w, struct slot *s)
{
	unmap(w, page_of(s->la), 1ull << LARGE_SHIFT);
	for (unsigned i = 0; i < 512; i++)
		if (w->where[s->page + i] & IN_LARGE)
			set_where(w, s->page + i, LISTED);
	s->la = 0;
}

/* Take RAM page @page from where it is mapped. */
static void remove_page(struct bt_window *w, uint32_t page)
{
	uint64_t at = w->where[page];
	struct slot *s;

	if (!(at & MAPPED))
		return;
	s = at & IN_LARGE ? large_slot(w, at) : find_small(w, at);
	if (s && (at & IN_LARGE))
		remove_large(w, s);
	else if (s)
		remove_small(w, s);
}

void bt_window_drop_page(struct bt_cpu *cpu, uint64_t la)
{
	struct bt_window *w = cpu->spaces[cpu->space].window;
	uint64_t large = la >> LARGE_SHIFT;
	struct slot *s;

	if (!w || !w->pieces || part_of(la) == PARTS)
		return;
	if (w->split[large % 4096 / 64] >> (large & 63) &
	    1) { /* any part of a page stands for all */
		drop(cpu, w);
		return;
	}
	s = large_slot(w, la);
	if (s->la && s->la >> LARGE_SHIFT == large)
		remove_large(w, s);
	s = find_small(w, la);
	if (s)
		remove_small(w, s);
}

bool bt_window_owned(struct bt_cpu *cpu, int64_t page, bool only_look)
{
	bool found = false;

	for (unsigned i = 0; i < SPACES; i++) {
		struct bt_window *w = __atomic_load_n(&cpu->spaces[i].window, __ATOMIC_RELAXED);

		if (!w || !(__atomic_load_n(&w->where[page], __ATOMIC_RELAXED) & WRITABLE))
			continue;
		found = true;
		if (!only_look)
			remove_page(w, page);
	}
	return found;
}

/* ---- flushes of all ---- */

void bt_window_flush(struct bt_cpu *cpu, struct bt_space *s)
{
	s->heat.flushes++;
	if (s->window && s->window->pieces)
		s->window_stale = true;
}

/* Whether the tables still have RAM page @page at @at, with its flags. */
static bool still_there(struct bt_cpu *cpu, uint64_t at, uint32_t page)
{
	struct bt_walk found;

	return !bt_walk_look(cpu, page_of(at), &found) && !found.global &&
	       ram_page(cpu->vm->mem, found.gpa) == page && (found.write || !(at & WRITABLE)) &&
	       (!(at & IN_LARGE) || found.page_size >= 1ull << LARGE_SHIFT);
}

/* Return: how many pages are not there any more, up to @limit. */
static unsigned count_gone(struct bt_cpu *cpu, struct bt_window *w, unsigned limit)
{
	unsigned gone = 0;

	for (unsigned i = 0; i < w->page_count && gone < limit; i++) {
		uint64_t at = w->where[w->pages[i]];

		if ((at & (MAPPED | IN_LARGE)) == MAPPED)
			gone += !still_there(cpu, at, w->pages[i]);
	}
	return gone;
}

/*
 * Most of what was mapped is usually there still, and looking at the tables costs a hundredth of
 * mapping it again.
 */
void bt_window_check(struct bt_cpu *cpu)
{
	struct bt_space *s = &cpu->spaces[cpu->space];
	struct bt_window *w = s->window;
	unsigned few = GONE_FEW + w->page_count / 4;

	s->window_stale = false;
	s->heat.credit -= w->page_count / 128;
	if (count_gone(cpu, w, few) == few) {
		drop(cpu, w);
		return;
	}
	for (unsigned i = 0; i < LARGES; i++)
		if (w->large[i].la &&
		    !still_there(cpu, w->where[w->large[i].page], w->large[i].page))
			remove_large(w, &w->large[i]);
	for (unsigned i = 0; i < w->page_count;) {
		uint64_t la = page_of(w->where[w->pages[i]]), end = la;

		/* neighbours in one go: they often stand in this order */
		for (; i < w->page_count; i++) {
			uint64_t at = w->where[w->pages[i]];
			struct slot *slot;

			if ((at & (MAPPED | IN_LARGE)) != MAPPED || page_of(at) != end ||
			    still_there(cpu, at, w->pages[i]))
				break;
			slot = find_small(w, at);
			if (slot)
				forget_small(w, slot);
			end += PAGE_SIZE;
		}
		if (end > la)
			unmap(w, la, end - la);
		else
			i++;
	}
}

/* ---- putting in ---- */

static void enter_small(struct bt_window *w, uint64_t la, uint32_t page)
{
	struct slot *set = w->small[(la >> PAGE_SHIFT) % SETS], *s = find_small(w, la);

	for (unsigned i = 0; i < WAYS && !s; i++)
		if (!set[i].la)
			s = &set[i];
	if (!s) {
		s = &set[page % WAYS];
		remove_small(w, s);
	} else if (s->la && s->page != page) {
		forget_small(w, s); /* what was there before is covered */
	}
	*s = (struct slot) { .la = la | MAPPED, .page = page };
}

/*
 * Enter @count pages of RAM from @page on, at @la, as mapped; false when some may not be written
 * although @flags say so. Order as in bt_page_in(): first the mark, then a look for code.
 */
static bool enter(struct bt_cpu *cpu, struct bt_window *w, uint64_t la, uint32_t page,
		  unsigned count, unsigned flags)
{
	bool code = false;

	for (unsigned i = 0; i < count; i++) {
		uint64_t was = w->where[page + i], now = la + ((uint64_t)i << PAGE_SHIFT);

		if (!(was & LISTED))
			w->pages[w->page_count++] = page + i;
		if ((was & MAPPED) && (page_of(was) != now || (was ^ flags) & IN_LARGE))
			remove_page(w, page + i);
		if (!(flags & IN_LARGE))
			enter_small(w, now, page + i);
		set_where(w, page + i, now | LISTED | MAPPED | flags);
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < count && (flags & WRITABLE); i++)
		code |= __atomic_load_n(&cpu->vm->mem->code_map[page + i], __ATOMIC_SEQ_CST);
	return !code;
}

static bool map_pages(struct bt_cpu *cpu, struct bt_window *w, uint64_t la, uint32_t page,
		      unsigned count, bool write)
{
	uint64_t size = (uint64_t)count << PAGE_SHIFT;
	unsigned k = part_of(la);
	void *at = host_of(w, la);

	if (w->lo[k] >= w->hi[k]) {
		w->lo[k] = la;
		w->hi[k] = la + size;
	} else {
		w->lo[k] = min_u64(w->lo[k], la);
		w->hi[k] = max_u64(w->hi[k], la + size);
	}
	w->pieces++;
	cpu->stat_window_maps++;
	if (!map_at(at, size, write ? PROT_READ | PROT_WRITE : PROT_READ,
		    MAP_SHARED | MAP_FIXED | MAP_POPULATE, cpu->vm->mem->fd,
		    (uint64_t)page << PAGE_SHIFT)) {
		drop(cpu, w); /* no room for one area more */
		return false;
	}
	/* A process that a back end makes has no need of it. */
	syscall(SYS_madvise, at, size, MADV_DONTFORK);
	return true;
}

/* How many pages from the one at @la on go on in RAM where it does, with the same rights. */
static unsigned run_length(struct bt_cpu *cpu, uint64_t la, int64_t page, bool write)
{
	unsigned n = 1;

	for (; n < RUN_MAX; n++) {
		uint64_t next = la + ((uint64_t)n << PAGE_SHIFT);
		struct bt_walk w;

		if (!(next & ((RUN_MAX << PAGE_SHIFT) - 1)) || bt_walk_look(cpu, next, &w) ||
		    w.global || w.page_size > PAGE_SIZE || w.write != write ||
		    !bt_has_ram(cpu, w.gpa) || ram_page(cpu->vm->mem, w.gpa) != page + n ||
		    (write && bt_is_code(cpu, w.gpa)))
			break;
	}
	return n;
}

/* Map a whole large page, unless it is not all plain memory. */
static bool map_large(struct bt_cpu *cpu, struct bt_window *w, uint64_t la,
		      const struct bt_walk *found)
{
	uint64_t size = 1ull << LARGE_SHIFT;
	int64_t first = ram_page(cpu->vm->mem, found->gpa & ~(size - 1));
	struct slot *s = large_slot(w, la);

	la &= ~(size - 1);
	if (first < 0 || first + 511 != ram_page(cpu->vm->mem, found->gpa | (size - 1)) ||
	    !((lapic_base(cpu->lapic) ^ found->gpa) >> LARGE_SHIFT))
		return false;
	if (s->la)
		remove_large(w, s);
	*s = (struct slot) { .la = la | MAPPED, .page = first };
	if (!enter(cpu, w, la, first, 512, IN_LARGE | (found->write ? WRITABLE : 0))) {
		remove_large(w, s);
		return false;
	}
	cpu->spaces[cpu->space].heat.credit -= COST_LARGE;
	return map_pages(cpu, w, la, first, 512, found->write);
}

/* Map what is at @la; false: nothing for a window. */
static bool map_in(struct bt_cpu *cpu, struct bt_window *w, uint64_t la, bool write,
		   const struct bt_walk *found)
{
	int64_t page = ram_page(cpu->vm->mem, found->gpa);
	unsigned count = 1;

	if (found->global || !bt_has_ram(cpu, found->gpa))
		return false;

	bool may_write = found->write && !bt_is_code(cpu, found->gpa);

	if (write && !may_write)
		return false;
	if (w->pieces >= PIECES_MAX)
		drop(cpu, w);
	if (found->page_size > PAGE_SIZE) {
		uint64_t large = la >> LARGE_SHIFT;

		if (map_large(cpu, w, la, found))
			return true;
		w->split[large % 4096 / 64] |= 1ull << (large & 63);
	} else {
		count = run_length(cpu, la, page, may_write);
	}
	if (!enter(cpu, w, la, page, count, may_write ? WRITABLE : 0)) {
		may_write = false; /* code came meanwhile */
		enter(cpu, w, la, page, count, 0);
	}
	return map_pages(cpu, w, la, page, count, may_write) && !(write && !may_write);
}

/*
 * Whether an instruction needs pages at once that are never mapped at once: both sides of a page's
 * end may be one page of RAM, and what gathers may want more of a set than it holds.
 */
static bool takes_turns(struct bt_cpu *cpu, uint64_t pc, uint64_t page)
{
	bool back = cpu->window_turns.pc == pc && cpu->window_turns.page[1] == page;

	if (cpu->window_turns.pc != pc || back || ++cpu->window_turns.count > TURNS_MAX)
		cpu->window_turns.count = 0;
	cpu->window_turns.page[1] = cpu->window_turns.page[0];
	cpu->window_turns.page[0] = page;
	if (cpu->window_turns.pc == pc && !cpu->window_turns.count) {
		cpu->window_turns.pc = 0;
		return true;
	}
	cpu->window_turns.pc = pc;
	return false;
}

enum window_answer bt_window_fault(struct bt_cpu *cpu, uint64_t pc, uint64_t host, bool write)
{
	struct bt_space *s = &cpu->spaces[cpu->space];
	struct bt_window *w = s->window;
	struct bt_walk found;

	if (!w)
		return WINDOW_STEP;

	uint64_t la = host - w->low;

	if (la >> WINDOW_LOW_BITS) {
		la = host - w->base;
		if (!(la >> WINDOW_LOW_BITS))
			return WINDOW_STEP;
	}
	if (part_of(la) == PARTS || takes_turns(cpu, pc, page_of(la)))
		return WINDOW_STEP;
	if (--s->heat.credit <= 0)
		atomic_fetch_or(&cpu->pending, PENDING_EVENT);
	cpu->window_pf.error = bt_walk_user(cpu, la, write, &found);
	if (!cpu->window_pf.error)
		return map_in(cpu, w, la & ~0xfffull, write, &found) ? WINDOW_AGAIN : WINDOW_STEP;
	cpu->window_pf.la = la;
	cpu->window_pf.cr3 = cpu->st.cr3;
	cpu->window_pf.write = write;
	return WINDOW_RAISE;
}

void bt_window_after_pf(struct bt_cpu *cpu)
{
	struct bt_space *s = &cpu->spaces[cpu->space];
	uint64_t la = cpu->window_pf.la;
	bool write = cpu->window_pf.write;
	struct bt_walk found;

	cpu->window_pf.la = 0;
	if (s->window && cpu->window_pf.cr3 == cpu->st.cr3 && !bt_walk_user(cpu, la, write, &found))
		map_in(cpu, s->window, la & ~0xfffull, write, &found);
}

/* ---- who has one ---- */

void bt_window_detach(struct bt_cpu *cpu, struct bt_space *s)
{
	struct bt_window *w = s->window;

	if (!w)
		return;
	drop(cpu, w);
	s->window_on = s->window_stale = false;
	__atomic_store_n(&s->window, NULL, __ATOMIC_RELAXED);
	w->used = false;
}

/* Each vCPU has its share of the pool, so that none waits for another. */
static bool attach(struct bt_cpu *cpu, struct bt_space *s)
{
	struct bt_vm *vm = cpu->vm;
	unsigned share = vm->count < BT_WINDOWS ? BT_WINDOWS / vm->count : 1;
	unsigned first = cpu->index * share;
	struct bt_window *w = NULL;

	if (first + share > BT_WINDOWS || !vm->windows[BT_WINDOWS - 1])
		return false;
	for (unsigned i = first; i < first + share && !w; i++)
		if (!vm->windows[i]->used)
			w = vm->windows[i];
	for (unsigned i = 0; i < SPACES && !w; i++) { /* of one that does not run */
		w = cpu->spaces[i].window;
		bt_window_detach(cpu, &cpu->spaces[i]);
	}
	w->used = true;
	__atomic_store_n(&s->window, w, __ATOMIC_RELAXED);
	s->window_base = w->base;
	s->window_low = w->low;
	cpu->stat_windows++;
	return true;
}

void bt_window_attach(struct bt_cpu *cpu)
{
	struct bt_space *s = &cpu->spaces[cpu->space];

	s->window_on = s->window || attach(cpu, s);
	bt_update_key(cpu);
}

void bt_window_heat(struct bt_cpu *cpu)
{
	struct bt_space *s = &cpu->spaces[cpu->space];
	struct timespec ts;
	uint64_t now, ns;

	if (!cpu->vm->windows[0] || (cpu->key & ~KEY_WINDOW) != (MODE_64 | KEY_USER))
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = ts.tv_sec * 1000000000ull + ts.tv_nsec;
	ns = min_u64(now - cpu->window_tick, TICK_MAX_NS);
	cpu->window_tick = now;

	/* one whose tables change all the time, as when it forks, has no use for one */
	if (s->heat.flushes >= FLUSHES_MANY)
		s->heat.credit = 0;
	else
		s->heat.credit += ns / COST_NS / COST_SHARE;
	s->heat.flushes = 0;
	if (s->heat.credit > CREDIT_MAX)
		s->heat.credit = CREDIT_MAX;
	if (s->window_on ? s->heat.credit > 0 : s->heat.credit < CREDIT_ON)
		return;
	if (!s->window_on) {
		bt_window_attach(cpu);
	} else if (!cpu->vm->opt_window) {
		s->window_on = false; /* what is mapped stays for the next time */
		bt_update_key(cpu);
	}
}
