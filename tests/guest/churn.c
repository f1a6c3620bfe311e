/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random sequences of what a kernel does to page tables and code, checked against a
 * model after every step: pages are remapped and change their permissions in several
 * address spaces (with PCIDs and global pages where there are any), code is rewritten
 * through another address, control bits are toggled, spaces are switched with and
 * without a flush. Each change is followed by the invalidation the architecture asks for,
 * so exactly one outcome is right: value, code that runs, or fault with its error code.
 *
 * The seed is printed; `run --seed N` repeats a sequence. Other CPUs do the same with tables
 * and pages of their own, without the steps that fault.
 */
#include "rt.h"

#define VA 0x10000000000ul
#define SPACES 10 /* more than an implementation may keep at once */
#define PAGES 24  /* per space */
#define GLOBALS 8 /* the same in all spaces */
#define FRAMES 32
#define BIG (64ul << 20) /* distance of the 2M page from VA */

struct entry {
	unsigned frame;
	u64 bits; /* P W U NX */
};

struct world {
	u64 rng;
	u64 *root[SPACES];
	struct entry page[SPACES][PAGES], global[GLOBALS];
	bool stale[SPACES]; /* changed while another space was current: flush at the switch */
	u64 frame[FRAMES];
	u32 id[FRAMES];
	u64 data[FRAMES];
	unsigned now;
	bool pcid, pge, wp, smep, smap, nxe, may_fault;
	unsigned big; /* frame of the 2M mapping: 0 none, 1 small table, 2 large page */
	u64 steps, checks;
	volatile bool bad;
};

static struct world worlds[CPU_MAX];

static u32 rnd(struct world *w, u32 n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (u32)(w->rng >> 11) % n;
}

static void serialise(void)
{
	(void)cpuid(0, 0);
}

USER_TEXT __attribute__((naked)) static void u_read(void)
{
	__asm__("movq 64(%rdi), %rax; int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_write(void)
{
	__asm__("movq %rsi, 64(%rdi); int $0x40");
}
USER_TEXT __attribute__((naked)) static void u_exec(void)
{
	__asm__("call *%rdi; int $0x40");
}

static void set_code(struct world *w, unsigned f)
{
	u8 *p = (u8 *)w->frame[f];

	w->id[f] = rnd(w, 1u << 30);
	p[0] = 0xb8;
	memcpy(p + 1, &w->id[f], 4);
	p[5] = 0xc3;
	serialise();
}

static struct entry *entry_of(struct world *w, unsigned space, unsigned i)
{
	return i < PAGES ? &w->page[space][i] : &w->global[i - PAGES];
}
static u64 va_of(unsigned i)
{
	return VA + i * PAGE;
}

static void write_pte(struct world *w, unsigned space, unsigned i)
{
	struct entry *e = entry_of(w, space, i);

	*(volatile u64 *)pte_of(w->root[space], va_of(i), 1) =
	    w->frame[e->frame] | e->bits | (i >= PAGES ? PTE_G : 0);
}

static void invpcid(ulong type, u64 pcid, u64 va)
{
	struct {
		u64 pcid, addr;
	} d = { pcid, va };

	__asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

/* Every invalidation that does for one page of the current space. */
static void invalidate(struct world *w, u64 va, bool global)
{
	switch (rnd(w, global ? 2 : 4)) {
	case 0:
		if (cpuid_has(7, 0, 'b', 10)) {
			invpcid(global ? 2 : rnd(w, 3), w->pcid ? w->now + 1 : 0, va);
			break;
		}
		/* fall through */
	case 1:
		invlpg(va);
		break;
	case 2:
		write_cr3((ulong)w->root[w->now] | (w->pcid ? w->now + 1 : 0));
		break;
	default:
		invlpg(va + rnd(w, PAGE));
		break;
	}
}

static void control(struct world *w)
{
	ulong cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP | CR4_PGE);

	cr4 |= (w->smep ? CR4_SMEP : 0) | (w->smap ? CR4_SMAP : 0) | (w->pge ? CR4_PGE : 0);
	write_cr4(cr4);
	write_cr0((read_cr0() & ~CR0_WP) | (w->wp ? CR0_WP : 0));
}

static u64 *tables[CPU_MAX];
static u64 *small_table(struct world *w)
{
	u64 *t = tables[w - worlds];

	for (unsigned i = 0; i < FRAMES; i++)
		t[i] = w->frame[i] | PTE_P | PTE_W;
	return t;
}

/* Global pages and the 2M region are changed in all spaces alike. */
static void spread(struct world *w)
{
	for (unsigned s = 1; s < SPACES; s++) {
		for (unsigned i = 0; i < GLOBALS; i++)
			write_pte(w, s, PAGES + i);
		*(volatile u64 *)pte_of(w->root[s], VA + BIG, 2) =
		    *(volatile u64 *)pte_of(w->root[0], VA + BIG, 2) & ~(PTE_A | PTE_D);
	}
}

static void step(struct world *w)
{
	unsigned i, s;
	struct entry *e;

	switch (rnd(w, 12)) {
	case 0:
	case 1:
	case 2: /* remap a page of the current space */
	case 3:
		i = rnd(w, PAGES);
		e = &w->page[w->now][i];
		if (rnd(w, 3))
			e->frame = rnd(w, FRAMES);
		if (rnd(w, 2))
			e->bits = (rnd(w, 8) ? PTE_P : 0) | (rnd(w, 2) ? PTE_W : 0) |
				  (rnd(w, 2) ? PTE_U : 0) | (rnd(w, 4) ? 0 : PTE_NX);
		write_pte(w, w->now, i);
		invalidate(w, va_of(i), false);
		break;
	case 4: /* of another space */
		s = rnd(w, SPACES);
		i = rnd(w, PAGES);
		w->page[s][i].frame = rnd(w, FRAMES);
		write_pte(w, s, i);
		if (s == w->now)
			invalidate(w, va_of(i), false);
		else if (w->pcid && rnd(w, 2) && cpuid_has(7, 0, 'b', 10))
			invpcid(rnd(w, 2), s + 1, va_of(i));
		else
			w->stale[s] = true;
		break;
	case 5: /* a global page, in all spaces alike */
		i = PAGES + rnd(w, GLOBALS);
		e = entry_of(w, 0, i);
		e->frame = rnd(w, FRAMES);
		e->bits = PTE_P | (rnd(w, 2) ? PTE_W : 0) | (rnd(w, 2) ? PTE_U : 0);
		write_pte(w, 0, i);
		spread(w);
		invalidate(w, va_of(i), true);
		/* where the page is not global (PGE clear), other PCIDs may hold it, too */
		for (s = 0; s < SPACES; s++)
			w->stale[s] |= s != w->now && !w->pge;
		break;
	case 6:
	case 7: /* switch */
		w->now = rnd(w, SPACES);
		write_cr3((ulong)w->root[w->now] |
			  (w->pcid ? (w->now + 1) | (!w->stale[w->now] && rnd(w, 2) ? 1ul << 63 : 0)
				   : 0));
		w->stale[w->now] = false;
		break;
	case 8: /* rewrite code */
	case 9:
		set_code(w, rnd(w, FRAMES));
		break;
	case 10: /* control bits */
		if (!rnd(w, 4)) {
			/* no entry of one setting of PGE may serve the other */
			w->pge = !w->pge;
			for (s = 0; s < SPACES; s++)
				w->stale[s] = s != w->now;
		}
		w->wp = rnd(w, 4);
		w->smep = rnd(w, 2) && cpuid_has(7, 0, 'b', 7);
		w->smap = rnd(w, 2) && cpuid_has(7, 0, 'b', 20);
		control(w);
		break;
	default: { /* the 2M region: large page or table */
		volatile u64 *pde = pte_of(w->root[0], VA + BIG, 2);

		w->big = 1 + rnd(w, 2);
		/* both views show the frames in the same order: frame k at page k */
		*pde = w->big == 2 ? w->frame[0] | PTE_P | PTE_W | PTE_PS
				   : (ulong)small_table(w) | PTE_P | PTE_W;
		spread(w);
		invlpg(VA + BIG);
		for (i = 0; i < FRAMES; i++)
			invlpg(VA + BIG + i * PAGE);
		for (s = 0; s < SPACES; s++)
			w->stale[s] |= s != w->now;
		break;
	}
	}
	w->steps++;
}

static void probe(struct world *w)
{
	unsigned i = rnd(w, PAGES + GLOBALS + 4), access = rnd(w, 3);
	u64 value = rnd(w, 1u << 30), got = 0, want;

	w->checks++;
	if (i >= PAGES + GLOBALS) { /* the 2M region: no faults there */
		unsigned f = rnd(w, FRAMES);
		u64 va = VA + BIG + f * PAGE;

		if (!w->big)
			return;
		if (access == 0) {
			got = *(volatile u64 *)(va + 64), want = w->data[f];
		} else if (access == 1) {
			*(volatile u64 *)(va + 64) = w->data[f] = value;
			got = *(volatile u64 *)(w->frame[f] + 64), want = value;
		} else {
			got = ((u32(*)(void))va)(), want = w->id[f];
		}
		if (got != want) {
			w->bad = true;
			print("# 2M region (%u), frame %u, access %u: got %#llx, want %#llx\n",
			      w->big, f, access, (unsigned long long)got, (unsigned long long)want);
		}
		return;
	}
	struct entry *e = entry_of(w, w->now, i);
	bool user = w->may_fault && rnd(w, 2);
	u64 va = va_of(i), b = e->bits;
	bool fault = !(b & PTE_P) || (user && !(b & PTE_U)) ||
		     (access == 1 && !(b & PTE_W) && (user || w->wp)) ||
		     (access == 2 && (b & PTE_NX)) ||
		     (!user && (b & PTE_U) && (access == 2 ? w->smep : w->smap));
	ulong error = (b & PTE_P ? PF_P : 0) | (access == 1 ? PF_W : 0) | (user ? PF_U : 0) |
		      (access == 2 ? PF_I : 0);
	if (!w->may_fault) {
		if (fault)
			return;
		if (access == 0)
			got = *(volatile u64 *)(va + 64);
		else if (access == 1)
			*(volatile u64 *)(va + 64) = value;
		else
			got = ((u32(*)(void))va)();
	} else if (user) {
		static const void *const fn[] = { u_read, u_write, u_exec };
		got = user_run(fn[access], va, value);
		if (access == 2)
			got = (u32)got;
	} else if (access == 0) {
		TRY("movq 64(%1), %0", : "=r"(got) : "r"(va) : "memory");
	} else if (access == 1) {
		TRY("movq %1, 64(%0)", ::"r"(va), "r"(value) : "memory");
	} else {
		u32 r = 0;
		TRY("call *%1", : "+a"(r) : "r"(va) : "memory", "cc");
		got = r;
	}
	bool hit = w->may_fault && trap.hit && !(user && trap.vector == V_USER_RET);
	want = access == 2 ? w->id[e->frame] : w->data[e->frame];
	if (!fault && !hit && access == 1) {
		w->data[e->frame] = value;
		got = *(volatile u64 *)(w->frame[e->frame] + 64);
		want = value;
	}
	if (hit != fault ||
	    (hit && (trap.vector != V_PF || trap.error != error || trap.cr2 >> 12 != va >> 12)) ||
	    (!hit && got != want)) {
		w->bad = true;
		print("# step %llu: page %u of space %u, frame %u bits %#llx, %s by CPL %u, wp %u "
		      "smep %u "
		      "smap %u pge %u: ",
		      (unsigned long long)w->steps, i, w->now, e->frame, (unsigned long long)b,
		      access == 0   ? "read"
		      : access == 1 ? "write"
				    : "exec",
		      user ? 3 : 0, w->wp, w->smep, w->smap, w->pge);
		print("got %s %#lx cr2 %#lx value %#llx, want %s %#lx value %#llx\n",
		      hit ? "fault" : "none", hit ? trap.error : 0, hit ? trap.cr2 : 0,
		      (unsigned long long)got, fault ? "fault" : "none", fault ? error : 0,
		      (unsigned long long)want);
	}
}

static void prepare(unsigned cpu, bool may_fault)
{
	struct world *w = &worlds[cpu];
	u8 *frames = pages_alloc(512, LARGE);

	w->rng = random_seed * 0x9e3779b97f4a7c15 + cpu * 77 + 1;
	w->may_fault = may_fault;
	w->wp = w->nxe = true;
	tables[cpu] = page_alloc();
	for (unsigned f = 0; f < FRAMES; f++) {
		w->frame[f] = (ulong)frames + f * PAGE;
		w->data[f] = *(u64 *)(w->frame[f] + 64) = f * 1000003;
		set_code(w, f);
	}
	for (unsigned s = 0; s < SPACES; s++)
		w->root[s] = pml4_clone();
	for (unsigned s = 0; s < SPACES; s++) {
		w->root[s][VA >> 39 & 511] = 0;
		for (unsigned i = 0; i < PAGES; i++) {
			w->page[s][i] = (struct entry) { rnd(w, FRAMES), PTE_P | PTE_W };
			write_pte(w, s, i);
		}
	}
	for (unsigned i = 0; i < GLOBALS; i++)
		w->global[i] = (struct entry) { rnd(w, FRAMES), PTE_P | PTE_W };
	for (unsigned s = 0; s < SPACES; s++)
		for (unsigned i = 0; i < GLOBALS; i++)
			write_pte(w, s, PAGES + i);
}

static volatile bool done[CPU_MAX];
static u64 rounds;
static void run(void *arg)
{
	ulong cpu = (ulong)arg;
	struct world *w = &worlds[cpu];
	ulong cr4;

	fpu_on();
	cr4 = read_cr4();
	if (cpuid_has(1, 0, 'c', 17)) {
		w->pcid = true;
		write_cr4(cr4 | CR4_PCIDE);
	}
	write_cr3((ulong)w->root[0] | w->pcid);
	for (u64 k = 0; k < rounds && !w->bad; k++) {
		step(w);
		for (unsigned n = 0; n < 3 && !w->bad; n++)
			probe(w);
	}
	w->pge = w->smep = w->smap = false;
	w->wp = true;
	control(w);
	write_cr3((ulong)boot_pml4);
	write_cr4(cr4);
	done[cpu] = true;
}

int main(void)
{
	bool good = true;

	if (!random_seed)
		random_seed = rdtsc() % 1000000007;
	print("# seed %llu\n", (unsigned long long)random_seed);
	rounds = 60000;
	prepare(0, cpu_count == 1);
	if (cpu_count == 1) {
		run((void *)0);
		check(!worlds[0].bad && done[0], "random page table and code changes",
		      "step %llu of seed %llu", (unsigned long long)worlds[0].steps,
		      (unsigned long long)random_seed);
		return 0;
	}
	unsigned n = smp_start();
	for (ulong i = 1; i < n; i++) {
		prepare(i, false);
		smp_run(i, run, (void *)i);
	}
	run((void *)0);
	for (unsigned i = 0; i < n; i++) {
		good &= (!i || smp_wait(i)) && done[i] && !worlds[i].bad;
	}
	check(good && n == cpu_count, "random page table and code changes on all CPUs", "seed %llu",
	      (unsigned long long)random_seed);
	return 0;
}
