/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear addresses: page walks (Intel SDM 3A, chapter 4), the software TLB,
 * and memory access for C code and for the slow paths of translated code.
 *
 * A write tag is put into the TLB only for RAM without translated code. Order
 * against a vCPU that puts code on the page: the tag is stored before code_map
 * is read here; there code_map is set before tags are searched. One of the two
 * sees the other.
 */
#include "accel/bt/cache.h"

enum { ACC_READ = 0, ACC_WRITE = 1, ACC_FETCH = 2, ACC_LOOK = 3 /* a read that sets nothing */ };

/* Set accessed (and dirty) in an entry, unless it changed meanwhile; false: walk again. */
static bool set_bits(struct bt_cpu *cpu, uint64_t gpa, unsigned size, uint64_t old, uint64_t bits)
{
	void *p;

	if ((old & bits) == bits)
		return true;
	p = guest_mem_ptr(cpu->vm->mem, gpa, size);
	if (!p)
		return true;

	bool ok;

	if (size == 8) {
		ok = __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	} else {
		uint32_t old32 = old;

		ok = __atomic_compare_exchange_n((uint32_t *)p, &old32, old32 | (uint32_t)bits,
						 false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	return ok;
}

static uint64_t read_entry(struct bt_cpu *cpu, uint64_t gpa, unsigned size)
{
	void *p = guest_mem_ptr(cpu->vm->mem, gpa, size);

	if (!p)
		return 0; /* no memory there: not present */
	return size == 8 ? __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED)
			 : __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED);
}

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#define PHYS_MASK ((1ull << MEM_PHYS_BITS) - 1)

/*
 * Walk for one access. Return 0, or the #PF error code | 1 << 31.
 * @user: access by CPL 3; @ac: supervisor data access to user pages is allowed
 */
static uint32_t walk(struct bt_cpu *cpu, uint64_t la, unsigned acc, bool user, bool ac,
		     struct bt_walk *w)
{
	uint64_t cr0 = cpu->st.cr0, cr4 = cpu->st.cr4;
	bool nxe = cpu->st.efer & EFER_NXE;
	uint32_t code =
	    (acc == ACC_WRITE ? PF_ERR_W : 0) | (user ? PF_ERR_U : 0) |
	    (acc == ACC_FETCH && ((nxe && (cr4 & CR4_PAE)) || (cr4 & CR4_SMEP)) ? PF_ERR_I : 0) |
	    1u << 31;

	if (!(cr0 & CR0_PG)) {
		*w = (struct bt_walk) { .gpa = (uint32_t)la,
					.write = true,
					.may_write = true,
					.page_size = PAGE_SIZE };
		return 0;
	}

	bool pae = cr4 & CR4_PAE, lma = cpu->st.efer & EFER_LMA;
	unsigned levels = lma ? 4 : pae ? 3 : 2, entry_size = pae ? 8 : 4;
	uint64_t addr_mask = pae ? (PHYS_MASK & ~0xfffull) : 0xfffff000ull;
	uint64_t rsvd = pae ? (((1ull << 52) - 1) & ~PHYS_MASK) | (nxe ? 0 : PTE_NX) |
				  (lma ? 0 : 0x7ff0000000000000ull)
			    : 0;

again:;
	uint64_t table = lma   ? cpu->st.cr3 & addr_mask
			 : pae ? cpu->st.cr3 & 0xffffffe0ull
			       : cpu->st.cr3 & 0xfffff000ull;
	uint64_t may_write = PTE_W, may_user = PTE_U, nx = 0;
	struct {
		uint64_t gpa, val;
	} seen[4];
	unsigned count = 0;

	for (unsigned level = levels; level >= 1; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * (pae ? 9 : 10);
		unsigned index =
		    pae ? (la >> shift) & (level == 3 && !lma ? 3 : 511) : (la >> shift) & 1023;
		uint64_t gpa = table + index * entry_size;
		uint64_t e = read_entry(cpu, gpa, entry_size);

		if (!(e & PTE_P))
			return code;
		if (pae && !lma && level == 3) { /* PDPTE: no permission bits */
			if (e & (rsvd | 0x1e6ull | PTE_NX))
				return code | PF_ERR_P | PF_ERR_RSVD;
			table = e & addr_mask;
			continue;
		}
		if (e & rsvd)
			return code | PF_ERR_P | PF_ERR_RSVD;
		may_write &= e;
		may_user &= e;
		nx |= pae ? e & PTE_NX : 0;
		seen[count].gpa = gpa;
		seen[count++].val = e;

		bool large = level > 1 && (e & PTE_PS) && (level <= 3) && (pae || (cr4 & CR4_PSE));

		if (level == 4 && (e & PTE_PS))
			return code | PF_ERR_P | PF_ERR_RSVD;
		if (level > 1 && !large) {
			table = e & addr_mask;
			continue;
		}

		uint64_t size = 1ull << shift, base;

		if (large && !pae) { /* PSE, with PSE-36 address bits 32-39 in 13-20 */
			base = (e & 0xffc00000ull) | (e >> 13 & 0xff) << 32;
			if (e & (1ull << 21) || base >> MEM_PHYS_BITS)
				return code | PF_ERR_P | PF_ERR_RSVD;
		} else {
			base = e & addr_mask & ~(size - 1);
			if (large && (e & addr_mask & (size - 1) & ~0x1000ull))
				return code | PF_ERR_P | PF_ERR_RSVD;
		}

		bool ok, wp = cr0 & CR0_WP;

		if (acc == ACC_FETCH)
			ok = !nx && (user ? may_user : !(may_user && (cr4 & CR4_SMEP)));
		else if (user)
			ok = may_user && (acc != ACC_WRITE || may_write);
		else
			ok = (!may_user || ac) && (acc != ACC_WRITE || may_write || !wp);
		if (!ok)
			return code | PF_ERR_P;

		if (acc == ACC_LOOK) {
			for (unsigned i = 0; i < count; i++)
				if (!(seen[i].val & PTE_A))
					return code;
			goto found;
		}
		for (unsigned i = 0; i + 1 < count; i++)
			if (!set_bits(cpu, seen[i].gpa, entry_size, seen[i].val, PTE_A))
				goto again;
		if (!set_bits(cpu, gpa, entry_size, e, PTE_A | (acc == ACC_WRITE ? PTE_D : 0)))
			goto again;

	found:
		w->gpa = base | (la & (size - 1));
		w->may_write = may_write || (!user && !wp);
		w->write = (acc == ACC_WRITE || (e & PTE_D)) && w->may_write;
		w->global = (e & PTE_G) && (cr4 & CR4_PGE);
		w->page_size = size;
		return 0;
	}
	return code;
}

uint32_t bt_walk_user(struct bt_cpu *cpu, uint64_t la, bool write, struct bt_walk *w)
{
	return walk(cpu, la, write ? ACC_WRITE : ACC_READ, true, false, w);
}

uint32_t bt_walk_look(struct bt_cpu *cpu, uint64_t la, struct bt_walk *w)
{
	return walk(cpu, la, ACC_LOOK, true, false, w);
}

static bool canonical(uint64_t la)
{
	return (uint64_t)((int64_t)(la << 16) >> 16) == la;
}

uint8_t *bt_ram_host(struct bt_cpu *cpu, uint64_t gpa)
{
	return guest_mem_ptr(cpu->vm->mem, gpa & ~0xfffull, PAGE_SIZE);
}

bool bt_is_code(struct bt_cpu *cpu, uint64_t gpa)
{
	int64_t page = ram_page(cpu->vm->mem, gpa);

	return page >= 0 && __atomic_load_n(&cpu->vm->mem->code_map[page], __ATOMIC_SEQ_CST);
}

static bool apic_page(struct bt_cpu *cpu, uint64_t gpa)
{
	uint64_t base = lapic_base(cpu->lapic);

	return (base & 0xc00) == 0x800 && (gpa & ~0xfffull) == (base & PHYS_MASK & ~0xfffull);
}

bool bt_has_ram(struct bt_cpu *cpu, uint64_t gpa)
{
	return bt_ram_host(cpu, gpa) && !apic_page(cpu, gpa);
}

/* Widen the range of large pages in use by the one at @la. */
static void note_large(uint64_t *lo, uint64_t *hi, uint64_t la, uint64_t page_size)
{
	uint64_t start = la & ~(page_size - 1), end = start + page_size;

	if (page_size == PAGE_SIZE)
		return;
	if (*lo >= *hi) {
		*lo = start;
		*hi = end;
	} else {
		*lo = min_u64(*lo, start);
		*hi = max_u64(*hi, end);
	}
}

/* Translate one page for an access, raising faults; enters it into the TLB when it is plain. */
uint64_t bt_page_in(struct bt_cpu *cpu, uint64_t la, bool write, enum bt_kind kind)
{
	unsigned class = bt_tlb_class(cpu, kind);
	bool user = class == TLB_USER;
	struct bt_walk w;
	uint32_t pf = walk(cpu, la, write ? ACC_WRITE : ACC_READ, user, class == TLB_KERNEL_AC, &w);

	if (pf)
		bt_raise_pf(cpu, la, pf & ~(1u << 31));
	cpu->stat_tlb_fills++;

	uint8_t *host = bt_has_ram(cpu, w.gpa) ? bt_ram_host(cpu, w.gpa) : NULL;

	if (host) {
		struct bt_tlb *t = &cpu->tlb[class];
		unsigned i = la >> PAGE_SHIFT & (TLB_SIZE - 1);
		uint64_t page = la & ~0xfffull;

		if (t->at[i].read != page)
			t->at[i].write = ~page; /* other index bits: invalid */
		t->at[i].host = (uintptr_t)host;
		t->at[i].global = w.global;
		if (user || !w.global) {
			if (t->fresh_count < TLB_FRESH)
				t->fresh[t->fresh_count] = i;
			t->fresh_count++;
		}
		t->at[i].read = page;
		if (w.write) {
			/* the other side, own_page(), makes the CPU keep this order */
			__atomic_store_n(&t->at[i].write, page, __ATOMIC_RELAXED);
			__atomic_signal_fence(__ATOMIC_SEQ_CST);
			if (bt_is_code(cpu, w.gpa))
				t->at[i].write = ~page;
		}
		note_large(&t->large_lo, &t->large_hi, la, w.page_size);
	}
	return w.gpa;
}

void bt_check_canonical(struct bt_cpu *cpu, uint64_t la, unsigned size, bool stack)
{
	if (bt_long_mode(cpu) && (!canonical(la) || !canonical(la + size - 1)))
		bt_raise_err(cpu, stack ? VEC_SS : VEC_GP, 0);
}

/* ---- physical memory ---- */

static uint64_t mmio_read(struct bt_cpu *cpu, uint64_t gpa, unsigned size)
{
	cpu->stat_mmio++;
	if (apic_page(cpu, gpa)) {
		uint64_t v = lapic_mmio_read(cpu->lapic, gpa & 0xffc);

		return v >> (8 * (gpa & 3));
	}
	bt_fpu_park(cpu);
	return bus_read(cpu->vm->mmio, gpa, size);
}

static void mmio_write(struct bt_cpu *cpu, uint64_t gpa, unsigned size, uint64_t val)
{
	cpu->stat_mmio++;
	if (apic_page(cpu, gpa)) {
		if (!(gpa & 3) && size == 4)
			lapic_mmio_write(cpu->lapic, gpa & 0xfff, val);
		if (lapic_pending(cpu->lapic) >= 0)
			atomic_fetch_or(&cpu->pending, PENDING_EVENT);
		return;
	}
	bt_fpu_park(cpu);
	bus_write(cpu->vm->mmio, gpa, size, val);
}

uint64_t bt_phys_ld(struct bt_cpu *cpu, uint64_t gpa, unsigned size)
{
	uint64_t v = 0;
	void *p = guest_mem_ptr(cpu->vm->mem, gpa, size);

	if (p) {
		switch (size) {
		case 1:
			return *(volatile uint8_t *)p;
		case 2:
			return *(volatile uint16_t *)p;
		case 4:
			return *(volatile uint32_t *)p;
		case 8:
			return *(volatile uint64_t *)p;
		}
		bt_copy(&v, p, size);
		return v;
	}
	return ~0ull >> (64 - 8 * size);
}

void bt_phys_st(struct bt_cpu *cpu, uint64_t gpa, unsigned size, uint64_t val)
{
	void *p = guest_mem_ptr(cpu->vm->mem, gpa, size);

	if (!p)
		return;
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = val;
		break;
	case 2:
		*(volatile uint16_t *)p = val;
		break;
	case 4:
		*(volatile uint32_t *)p = val;
		break;
	case 8:
		*(volatile uint64_t *)p = val;
		break;
	default:
		bt_copy(p, &val, size);
	}
	if (bt_is_code(cpu, gpa) || bt_is_code(cpu, gpa + size - 1))
		bt_cache_written(cpu->vm, gpa, size);
}

/* Move @len bytes inside one page between @buf and guest physical memory, RAM or registers. */
void bt_phys_move(struct bt_cpu *cpu, uint64_t gpa, uint8_t *buf, unsigned len, bool write)
{
	if (bt_has_ram(cpu, gpa)) {
		uint8_t *p = bt_ram_host(cpu, gpa) + (gpa & 0xfff);

		if (!write) {
			bt_copy(buf, p, len);
			return;
		}
		bt_copy(p, buf, len);
		if (bt_is_code(cpu, gpa))
			bt_cache_written(cpu->vm, gpa, len);
		return;
	}
	while (len) {
		unsigned n = len >= 8 && !(gpa & 7)   ? 8
			     : len >= 4 && !(gpa & 3) ? 4
			     : len >= 2 && !(gpa & 1) ? 2
						      : 1;

		if (write) {
			uint64_t v = 0;

			bt_copy(&v, buf, n);
			mmio_write(cpu, gpa, n, v);
		} else {
			uint64_t v = mmio_read(cpu, gpa, n);

			bt_copy(buf, &v, n);
		}
		gpa += n;
		buf += n;
		len -= n;
	}
}

/* ---- C code's access ---- */

static uint8_t *tlb_hit(struct bt_cpu *cpu, uint64_t la, unsigned size, bool write,
			enum bt_kind kind)
{
	struct bt_tlb *t = &cpu->tlb[bt_tlb_class(cpu, kind)];
	unsigned i = la >> PAGE_SHIFT & (TLB_SIZE - 1);
	uint64_t off = la ^ (write ? t->at[i].write : t->at[i].read);

	return off <= PAGE_SIZE - size ? (uint8_t *)t->at[i].host + off : NULL;
}

static void move(struct bt_cpu *cpu, uint64_t la, uint8_t *buf, unsigned len, bool write,
		 enum bt_kind kind)
{
	unsigned first = min_u64(len, PAGE_SIZE - (la & 0xfff));
	uint64_t la2 = bt_64bit(cpu) || bt_long_mode(cpu) ? la + first : (uint32_t)(la + first);
	uint64_t g1, g2 = 0;

	bt_check_canonical(cpu, la, len, false);
	g1 = bt_page_in(cpu, la, write, kind);
	if (first < len)
		g2 = bt_page_in(cpu, la2, write, kind);
	bt_phys_move(cpu, g1, buf, first, write);
	if (first < len)
		bt_phys_move(cpu, g2, buf + first, len - first, write);
}

uint64_t bt_ld(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	uint8_t *p = tlb_hit(cpu, la, size, false, kind);
	uint64_t v = 0;

	if (p) {
		switch (size) {
		case 1:
			return *(volatile uint8_t *)p;
		case 2:
			return *(volatile uint16_t *)p;
		case 4:
			return *(volatile uint32_t *)p;
		case 8:
			return *(volatile uint64_t *)p;
		}
	}
	move(cpu, la, (uint8_t *)&v, size, false, kind);
	return v;
}

void bt_st(struct bt_cpu *cpu, uint64_t la, unsigned size, uint64_t val, enum bt_kind kind)
{
	uint8_t *p = tlb_hit(cpu, la, size, true, kind);

	if (p) {
		switch (size) {
		case 1:
			*(volatile uint8_t *)p = val;
			return;
		case 2:
			*(volatile uint16_t *)p = val;
			return;
		case 4:
			*(volatile uint32_t *)p = val;
			return;
		case 8:
			*(volatile uint64_t *)p = val;
			return;
		}
	}
	move(cpu, la, (uint8_t *)&val, size, true, kind);
}

static void probe(struct bt_cpu *cpu, uint64_t la, unsigned size, bool write, enum bt_kind kind)
{
	unsigned first = min_u64(size, PAGE_SIZE - (la & 0xfff));

	if (tlb_hit(cpu, la, size, write, kind))
		return;
	bt_check_canonical(cpu, la, size, false);
	bt_page_in(cpu, la, write, kind);
	if (first < size)
		bt_page_in(cpu, bt_long_mode(cpu) ? la + first : (uint32_t)(la + first), write,
			   kind);
}

void bt_probe_read(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	probe(cpu, la, size, false, kind);
}

void bt_probe_write(struct bt_cpu *cpu, uint64_t la, unsigned size, enum bt_kind kind)
{
	probe(cpu, la, size, true, kind);
}

void bt_ld_bytes(struct bt_cpu *cpu, uint64_t la, void *dst, unsigned len, enum bt_kind kind)
{
	if (len)
		move(cpu, la, dst, len, false, kind);
}

void bt_st_bytes(struct bt_cpu *cpu, uint64_t la, const void *src, unsigned len, enum bt_kind kind)
{
	if (len)
		move(cpu, la, (uint8_t *)src, len, true, kind);
}

void *bt_host_ptr(struct bt_cpu *cpu, uint64_t la, bool write, enum bt_kind kind)
{
	uint8_t *p = tlb_hit(cpu, la, 1, write, kind);
	uint64_t gpa;

	if (p)
		return p;
	bt_check_canonical(cpu, la, 1, false);
	gpa = bt_page_in(cpu, la, write, kind);
	if (!bt_has_ram(cpu, gpa))
		return NULL;
	if (write && bt_is_code(cpu, gpa)) {
		bt_cache_written(cpu->vm, gpa & ~0xfffull, PAGE_SIZE);
		bt_page_in(cpu, la, write, kind); /* now the write tag may stand */
		return tlb_hit(cpu, la, 1, write, kind);
	}
	return bt_ram_host(cpu, gpa) + (gpa & 0xfff);
}

uint64_t bt_seg_linear(struct bt_cpu *cpu, unsigned seg, uint64_t off, unsigned size, bool write)
{
	const struct vcpu_seg *s = &cpu->st.segs[seg];
	unsigned fault = seg == SEG_SS ? VEC_SS : VEC_GP;

	if (bt_64bit(cpu)) {
		uint64_t la = off + (seg == SEG_FS || seg == SEG_GS ? s->base : 0);

		bt_check_canonical(cpu, la, size ? size : 1, seg == SEG_SS);
		return la;
	}

	unsigned type = s->attr & 15;
	uint64_t last = off + (size ? size - 1 : 0);

	if (cpu->st.cr0 & CR0_PE && !(cpu->st.rflags & FL_VM)) {
		if (s->attr & SEG_ATTR_UNUSABLE)
			bt_raise_err(cpu, fault, 0);
		if (type & 8 ? write || !(type & 2)
			     : write && !(type & 2)) /* code: no writes, maybe no reads */
			bt_raise_err(cpu, VEC_GP, 0);
	}
	if ((type & 12) == 4) { /* expand-down data */
		uint64_t top = s->attr & SEG_ATTR_DB ? 0xffffffffull : 0xffff;

		if (off <= s->limit || last > top)
			bt_raise_err(cpu, fault, 0);
	} else if (last > s->limit &&
		   !(s->limit == 0xffffffffu && last >> 32 && off <= 0xffffffffu)) {
		bt_raise_err(cpu, fault, 0);
	}
	return (uint32_t)(s->base + off);
}

uint64_t bt_effective(struct bt_cpu *cpu, const struct insn *in)
{
	uint64_t ea = in->disp;

	if (in->base == INSN_RIP_REL)
		ea += cpu->st.rip + in->len;
	else if (in->base != INSN_NO_REG)
		ea += cpu->st.regs[in->base];
	if (in->index != INSN_NO_REG)
		ea += cpu->st.regs[in->index] * in->scale;
	return in->addrsize == 8 ? ea : in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

uint64_t bt_operand(struct bt_cpu *cpu, const struct insn *in, unsigned size, bool write)
{
	return bt_seg_linear(cpu, in->seg, bt_effective(cpu, in), size, write);
}

/* ---- instruction fetch ---- */

bool bt_fetch_page(struct bt_cpu *cpu, uint64_t la, bool quiet, struct bt_fetch *f)
{
	bool user = cpu->cpl == 3;
	uint64_t page = la & ~0xfffull;
	struct bt_itlb *t = &cpu->itlb[user][la >> PAGE_SHIFT & (ITLB_SIZE - 1)];
	struct bt_walk w;

	if (t->la != page) {
		if (bt_long_mode(cpu) && !canonical(la)) {
			if (quiet)
				return false;
			bt_raise_err(cpu, VEC_GP, 0);
		}

		uint32_t pf = walk(cpu, page, ACC_FETCH, user, false, &w);

		if (pf && quiet)
			return false;
		if (pf)
			bt_raise_pf(cpu, la, pf & ~(1u << 31));
		t->la = page;
		t->gpa = w.gpa;
		t->host = bt_ram_host(cpu, w.gpa);
		t->global = w.global;
		t->writable = w.may_write;
		note_large(&cpu->itlb_large_lo, &cpu->itlb_large_hi, la, w.page_size);
	}
	f->gpa = t->gpa;
	f->host = t->host;
	f->global = t->global;
	f->writable = t->writable;
	return true;
}
