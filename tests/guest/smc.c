/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes under the CPU. On one CPU a store is seen by every later instruction
 * (P6 and later even by the next one in a straight line, which x86 systems rely on); code
 * changed through another linear address or by another CPU needs a serialising
 * instruction (Intel SDM 3A, "Handling Self- and Cross-Modifying Code").
 */
#include "rt.h"

#define VA 0x10000000000ul
typedef u32 fn0(void);

static u8 *page; /* two pages, mapped one to one */

static inline void serialise(void)
{
	u32 a = 0, b, c = 0, d;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

/* mov $v, %eax; ret */
static void put_mov_ret(u8 *p, u32 v)
{
	p[0] = 0xb8;
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

static void rewrite(void)
{
	bool good = true;

	for (u32 i = 0; i < 1000; i++) {
		put_mov_ret(page, i);
		good &= ((fn0 *)page)() == i;
	}
	check(good, "rewritten function, called at once", "stale code ran");
	/* only the immediate, by stores of every size */
	static const unsigned sizes[] = { 1, 2, 4, 8 };
	for (unsigned k = 0; k < 4; k++) {
		good = true;
		put_mov_ret(page, 0);
		memset(page + 6, 0x90, 10);
		for (u32 i = 1; i < 100; i++) {
			if (sizes[k] == 1)
				*(volatile u8 *)(page + 1) = i;
			else if (sizes[k] == 2)
				*(volatile u16 *)(page + 1) = i;
			else if (sizes[k] == 4)
				*(volatile u32 *)(page + 1) = i;
			else
				*(volatile u64 *)page = 0x9090c300000000b8 | (u64)i << 8;
			good &= ((fn0 *)page)() == i;
		}
		static const char *const name[] = { "immediate rewritten by a byte",
						    "immediate rewritten by 2 bytes",
						    "immediate rewritten by 4 bytes",
						    "function rewritten by 8 bytes" };
		check(good, name[k], "stale code ran");
	}
	/* at the end of the page and across it */
	good = true;
	for (unsigned off = 4088; off < 4098; off++)
		for (u32 i = 1; i < 20; i++) {
			put_mov_ret(page + off, i * 3);
			good &= ((fn0 *)(page + off))() == i * 3;
		}
	check(good, "function across two pages", "stale code ran");
	/* only the part on the second page changes */
	good = true;
	put_mov_ret(page + 4094, 0);
	(void)((fn0 *)(page + 4094))();
	for (u32 i = 1; i < 100; i++) {
		page[4096] = i; /* second byte of the immediate */
		good &= ((fn0 *)(page + 4094))() == i << 8;
	}
	check(good, "instruction across pages, its second page changes", "stale code ran");
	/* a store across the two pages that changes code on both */
	good = true;
	for (u32 i = 0; i < 50; i++) {
		put_mov_ret(page + 4093, 0);
		*(volatile u32 *)(page + 4094) = i * 0x01010101;
		good &= ((fn0 *)(page + 4093))() == i * 0x01010101;
	}
	check(good, "store across pages changes code on both", "stale code ran");
}

/* The store changes an instruction of the block it is in. */
static void same_block(void)
{
	/* movb %dil, 5(next); ...; code:  c6 05 rel32 imm8 = movb $imm, rel(%rip) */
	static const u8 code[] = {
		0x40, 0x88, 0x3d, 0x01, 0, 0, 0, /* mov %dil, 1(%rip): the immediate below */
		0xb8, 0,    0,	  0,	0,	 /* mov $0, %eax */
		0xc3,
	};
	bool good = true;

	memcpy(page, code, sizeof(code));
	for (u32 i = 1; i < 200; i++)
		good &= ((u32(*)(u32))page)(i & 0xff) == (i & 0xff);
	check(good, "next instruction of the same block", "stale instruction ran");
	/* the store makes the next instruction another: nop into ret */
	static const u8 code2[] = {
		0x31, 0xc0,			 /* xor %eax, %eax */
		0xc6, 0x05, 0x02, 0, 0, 0, 0xc3, /* movb $0xc3, 2(%rip) */
		0x90, 0x90, 0x90,		 /* the third becomes ret */
		0xff, 0xc0, 0xc3,		 /* inc %eax; ret */
	};
	memcpy(page, code2, sizeof(code2));
	check_eq("nop becomes ret, two instructions ahead", ((fn0 *)page)(), 0);
	memcpy(page, code2, sizeof(code2));
	check_eq("and again", ((fn0 *)page)(), 0);
	/* a loop that rewrites its own body each round: eax += imm; imm++ */
	static const u8 code3[] = {
		0x31, 0xc0,			    /* xor %eax, %eax */
		0xb9, 10,   0,	  0,	0,	    /* mov $10, %ecx */
		0x83, 0xc0, 0x01,		    /* add $1, %eax    <- imm at 9 */
		0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, /* incb -7(%rip) -> 16-7 = 9 */
		0xff, 0xc9,			    /* dec %ecx */
		0x75, 0xf3,			    /* jnz 7 */
		0xc3,
	};
	memcpy(page, code3, sizeof(code3));
	check_eq("loop that changes its own immediate", ((fn0 *)page)(), 55);
	memcpy(page + 4096 - 9, code3, sizeof(code3));
	check_eq("the same across a page end", ((fn0 *)(page + 4096 - 9))(), 55);
	/* push/pop, call and string stores into code */
	good = true;
	for (u32 i = 0; i < 50; i++) {
		put_mov_ret(page, 0);
		__asm__ volatile(
		    "movq %%rsp, %%rbx; leaq 9(%0), %%rsp; pushq %1; movq %%rbx, %%rsp" ::"r"(page),
		    "r"(0x909090c300000000ul | i)
		    : "rbx", "memory");
		good &= ((fn0 *)page)() == i;
	}
	check(good, "push into code", "stale code ran");
	good = true;
	for (u32 i = 0; i < 50; i++) {
		u8 src[6];
		put_mov_ret(src, i);
		ulong c = 6, s = (ulong)src, d = (ulong)page;
		__asm__ volatile("cld; rep movsb" : "+c"(c), "+S"(s), "+D"(d)::"memory");
		good &= ((fn0 *)page)() == i;
	}
	check(good, "rep movsb into code", "stale code ran");
	/* rep movsb that overwrites itself is not tried: the result is not defined; stosb of the
	 * code behind is */
	static const u8 code4[] = {
		0x31, 0xc0, 0xb9, 4,	0, 0,	 0, /* xor %eax, %eax; mov $4, %ecx */
		0x48, 0x8d, 0x3d, 0x05, 0, 0,	 0, /* lea 5(%rip), %rdi: the immediate */
		0xb0, 0x07, 0xf3, 0xaa,		    /* mov $7, %al; rep stosb */
		0xb8, 0,    0,	  0,	0, 0xc3,    /* mov $0, %eax; ret */
	};
	memcpy(page, code4, sizeof(code4));
	check_eq("rep stosb over the next instruction", ((fn0 *)page)(), 0x07070707);
	good = true;
	for (u32 i = 0; i < 50; i++) {
		put_mov_ret(page, 0);
		u32 v = i;
		__asm__ volatile("movd %1, %%xmm0; movd %%xmm0, 1(%0)" ::"r"(page), "r"(v)
				 : "memory");
		good &= ((fn0 *)page)() == i;
		__asm__ volatile("lock incl 1(%0)" ::"r"(page) : "memory", "cc");
		good &= ((fn0 *)page)() == i + 1;
	}
	check(good, "SSE and locked stores into code", "stale code ran");
	/* jump over the changed code: then back into it */
	static const u8 code5[] = {
		0xc6, 0x05, 0x04, 0, 0, 0,    0x2a, /* movb $42, 4(%rip) -> 11 */
		0xeb, 0x06,			    /* jmp +6 -> 15 */
		0xb8, 0,    0,	  0, 0, 0xc3,	    /* 9: mov; ret; */
		0xeb, 0xf8,			    /* 15: jmp 9 */
	};
	memcpy(page, code5, sizeof(code5));
	page[10] = 0;
	check_eq("jump over the changed code and back", ((fn0 *)page)() & 0xffff, 0x2a00);
}

/* Code and its change at different linear addresses of one page. */
static void alias(void)
{
	u64 pa = (ulong)page;
	bool good = true, good2 = true, good3 = true;

	map(VA, pa, PTE_P | PTE_W);
	for (u32 i = 0; i < 200; i++) {
		put_mov_ret((u8 *)VA, i);
		serialise();
		good &= ((fn0 *)page)() == i;
		put_mov_ret(page, i + 1);
		serialise();
		good2 &= ((fn0 *)VA)() == i + 1;
	}
	check(good, "changed through an alias", "stale code ran");
	check(good2, "run through an alias", "stale code ran");
	/* writable alias, executable read-only mapping */
	map(VA + PAGE, pa, PTE_P);
	for (u32 i = 0; i < 200; i++) {
		put_mov_ret((u8 *)VA, i * 5);
		serialise();
		good3 &= ((fn0 *)(VA + PAGE))() == i * 5;
	}
	check(good3, "read-only code, writable alias", "stale code ran");
	/* a relative jump runs to another target per address */
	static const u8 jmp[] = { 0xe8, 0, 0, 0, 0, 0x58, 0xc3 }; /* call next; pop %rax; ret */
	memcpy(page + 64, jmp, sizeof(jmp));
	ulong a = ((ulong(*)(void))(page + 64))(), b = ((ulong(*)(void))(VA + 64))(),
	      c = ((ulong(*)(void))(VA + PAGE + 64))();
	check(a == (ulong)page + 69 && b == VA + 69 && c == VA + PAGE + 69,
	      "one page at three addresses: RIP is each one's own", "%#lx %#lx %#lx", a, b, c);
	map(VA, 0, 0);
	map(VA + PAGE, 0, 0);
}

/* Breakpoint patching as kernels do: int3, tail, first byte; with hits in between. */
static volatile unsigned bp_hits;
static void on_int3(struct frame *f)
{
	bp_hits++;
	f->ip += 4; /* over the rest of the five bytes */
}

static void int3(void)
{
	on_vector(V_BP, on_int3);
	bool good = true;
	for (u32 i = 0; i < 100; i++) {
		static const u8 nop5[] = { 0x0f, 0x1f, 0x44, 0, 0 };

		page[0] = 0x31, page[1] = 0xc0; /* xor %eax, %eax */
		memcpy(page + 2, nop5, 5);
		page[7] = 0xc3;
		good &= ((fn0 *)page)() == 0;
		page[2] = 0xcc;
		bp_hits = 0;
		good &= ((fn0 *)page)() == 0 && bp_hits == 1;
		memcpy(page + 3, &i, 4);
		good &= ((fn0 *)page)() == 0 && bp_hits == 2;
		page[2] = 0xb8; /* mov $i, %eax */
		serialise();
		good &= ((fn0 *)page)() == i && bp_hits == 2;
	}
	check(good, "int3 patching of a five-byte nop", "hits %u", bp_hits);
	on_vector(V_BP, NULL);
	/* code made from data that was looked at before, and data read from code */
	put_mov_ret(page, 1);
	(void)((fn0 *)page)();
	check_eq("code read as data", *(u32 *)(page + 1), 1);
	__asm__ volatile("lock orl $0x100, (%0)" ::"r"(page + 1) : "memory", "cc");
	check_eq("locked or into code", ((fn0 *)page)(), 0x101);
}

static void stack_code(void)
{
	bool good = true;

	for (u32 i = 0; i < 100; i++) {
		u8 tramp[16] __attribute__((aligned(16)));
		put_mov_ret(tramp, i);
		barrier();
		good &= ((fn0 *)tramp)() == i;
		/* the stack is written near the code by calls */
		good &= ((fn0 *)tramp)() == i;
	}
	check(good, "trampolines on the stack", "stale code ran");
	/* data right behind code, written often */
	put_mov_ret(page, 77);
	volatile u32 *data = (volatile u32 *)(page + 128);
	u32 sum = 0;
	for (u32 i = 0; i < 20000; i++) {
		*data = i;
		sum += ((fn0 *)page)() == 77 && *data == i;
	}
	check_eq("data beside code, written 20000 times", sum, 20000);
	/* many different functions in one page, one of them changed each round */
	good = true;
	for (unsigned k = 0; k < 64; k++)
		put_mov_ret(page + k * 16, k);
	for (u32 i = 0; i < 500; i++) {
		put_mov_ret(page + (i % 64) * 16, i + 1000);
		for (unsigned k = 0; k < 64; k += 9) {
			u32 want = k <= i % 64 ? i - i % 64 + k + 1000
				   : i < 64    ? k
					       : i - i % 64 - 64 + k + 1000;
			good &= ((fn0 *)(page + k * 16))() == want;
		}
	}
	check(good, "64 functions in a page, one changed each round", "stale code ran");
	/* page freed and filled with other code: 16 pages round and round */
	good = true;
	u8 *pages = pages_alloc(16, PAGE);
	for (u32 i = 0; i < 200; i++) {
		u8 *p = pages + (i % 16) * PAGE;
		memset(p, 0xcc, 256);
		put_mov_ret(p + i % 200, i);
		good &= ((fn0 *)(p + i % 200))() == i;
	}
	check(good, "pages filled again with other code", "stale code ran");
}

/* ---- another CPU changes the code ---- */
static volatile u32 go, seen, acked, stop;
static u8 *cross;
static void on_sync(struct frame *f)
{
	(void)f;
	serialise();
	acked++;
	apic_eoi();
}
static void runner(void *arg)
{
	(void)arg;
	sti();
	while (!stop) {
		u32 v = ((fn0 *)cross)();
		seen = v;
	}
	cli();
}

static void other_cpu(void)
{
	if (cpu_count < 2) {
		skip("code changed by another CPU", "one CPU");
		return;
	}
	if (!check_eq("start of the other CPU", smp_start() > 1, 1))
		return;
	cross = page_alloc();
	put_mov_ret(cross, 0);
	on_vector(0x90, on_sync);
	smp_run(1, runner, NULL);
	bool good = true;
	for (u32 i = 1; i <= 200 && good; i++) {
		u32 before = acked;
		*(volatile u32 *)(cross + 1) =
		    i * 4; /* aligned to 1: a single store within a cache line */
		apic_icr(1, 0x4090);
		good &= wait_for(acked != before);
		/* after the acknowledged interrupt, only the new value may be returned: */
		u32 first = seen;
		(void)first;
		good &= wait_for(seen == i * 4);
	}
	check(good, "immediate changed by another CPU, serialised by an IPI",
	      "saw %u, acknowledged %u", seen, acked);
	/* handshake through memory: the runner serialises itself */
	stop = 1;
	smp_wait(1);
}
static void handshaker(void *arg)
{
	u32 bad = 0;
	for (u32 i = 1; i <= 300; i++) {
		while (go != i)
			pause();
		serialise();
		if (((fn0 *)cross)() != i * 7)
			bad++;
		barrier();
		acked = i;
	}
	*(volatile u32 *)arg = bad;
}
static void handshake(void)
{
	static volatile u32 bad = 99;
	bool good = true;

	if (cpu_count < 2)
		return;
	acked = go = 0;
	smp_run(1, handshaker, (void *)&bad);
	for (u32 i = 1; i <= 300 && good; i++) {
		put_mov_ret(cross, i * 7);
		barrier();
		go = i;
		good &= wait_for(acked == i);
	}
	check(good && smp_wait(1) && bad == 0,
	      "code changed by another CPU, hand-shake through memory", "wrong %u times", bad);
}

int main(void)
{
	page = pages_alloc(2, PAGE);
	fpu_on();
	rewrite();
	same_block();
	alias();
	int3();
	stack_code();
	other_cpu();
	handshake();
	return 0;
}
