/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle: the host CPU says what an instruction does, the emulated CPU
 * must say the same.
 *
 * A case is a machine state of user mode, a few instructions and the seed of
 * the memory's content. Each side (native, guest) runs the case at the same
 * virtual addresses until an exception ends it (int3 fills the code pages),
 * and hands back the whole state, the exception and the pages that changed.
 */
#ifndef EYOT_ORACLE_ORACLE_H
#define EYOT_ORACLE_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "layout.h"

#define PAGE 4096u

enum oracle_mode { ORACLE_64, ORACLE_32 };

/*
 * The memory that user code sees. Unmapped pages stand before and behind each
 * group. LOW is there for 16-bit addresses, HIGH lies above 4 GiB.
 */
enum oracle_page {
	PAGE_CODE0,
	PAGE_CODE1, /* read, write, execute */
	PAGE_DATA0,
	PAGE_DATA1,
	PAGE_DATA2, /* read, write */
	PAGE_RO,    /* read; follows DATA2 */
	PAGE_HIGH,
	PAGE_LOW, /* read, write */
	PAGE_COUNT
};

#define CODE_BASE 0x10000000ull
#define DATA_BASE 0x10010000ull
#define HIGH_BASE 0x5e3456789000ull
#define LOW_BASE 0x6000ull

extern const uint64_t oracle_page_va[PAGE_COUNT];

/* Where a memory image holds pointers, so that ret and indirect jumps find code */
#define PTR_CODE_VA (DATA_BASE + 0x1800) /* 2 KiB of pointers into the code pages */
#define PTR_DATA_VA (DATA_BASE + 0x2000) /* 1 KiB of pointers into the data pages */

#define XSAVE_BYTES 832 /* legacy area, header, upper halves of YMM */

struct oracle_state {
	uint64_t gpr[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
	uint64_t rip, rflags;
	uint64_t fs_base, gs_base;
	uint16_t ds, es, fs, gs, cs, ss;
	uint8_t pad[20];
	uint8_t xsave[XSAVE_BYTES];
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct oracle_state) == ST_SIZE, "layout.h disagrees");
_Static_assert(offsetof(struct oracle_state, xsave) == ST_XSAVE, "layout.h disagrees");
_Static_assert(offsetof(struct oracle_state, ss) == ST_SS, "layout.h disagrees");

/* Offsets in the XSAVE area */
#define XS_FCW 0
#define XS_FSW 2
#define XS_FTW 4
#define XS_MXCSR 24
#define XS_ST 32
#define XS_XMM 160
#define XS_BV 512
#define XS_YMMH 576

#define ORACLE_CODE_MAX 128
#define ORACLE_INSN_MAX 8
#define ORACLE_NAME_MAX 48

/* A range of memory that comparison leaves out, and why it is there: see rules.c */
struct oracle_hole {
	uint64_t va;
	uint32_t len;
};

#define ORACLE_HOLES 2

#define SPECIAL_FSAVE 1u   /* x87 and FXSAVE images */
#define SPECIAL_MASKMOV 2u /* maskmovq and the like */
#define SPECIAL_GATHER 4u
#define SPECIAL_UD 8u /* ud0, ud1 */
#define SPECIAL_POPA 64u
#define SPECIAL_STRING 128u
#define SPECIAL_SEGMENT 256u /* an operand with FS or GS base in 64-bit code */

struct oracle_case {
	struct oracle_state in;
	uint64_t data_seed; /* content of the data pages; 0: zeros */
	uint64_t number;    /* of the run, for reports */
	uint32_t mode;	    /* enum oracle_mode */
	uint32_t code_len;
	uint32_t insn_count;
	uint32_t flags_undef; /* EFLAGS bits that comparison leaves out */
	uint32_t hole_count;
	uint32_t special;     /* SPECIAL_*: instructions for which comparison makes allowances */
	bool invalid;	      /* the bytes are no instruction that the generator knows */
	bool alignment_check; /* compare #AC too */
	bool skip;	      /* the native side did not finish it: not worth the guest's time */
	bool may_hide;	      /* the guest's CPU need not have it: #UD is right too */
	struct oracle_hole holes[ORACLE_HOLES];
	uint8_t insn_off[ORACLE_INSN_MAX];
	char name[ORACLE_NAME_MAX];    /* mnemonic of the first instruction */
	uint8_t code[ORACLE_CODE_MAX]; /* stands at in.rip */
};

enum oracle_status {
	RES_NONE,    /* not run */
	RES_OK,	     /* ended by an exception */
	RES_TIMEOUT, /* did not end by itself */
	RES_SYSCALL, /* native only: a system call was stopped */
	RES_CRASH,   /* the process that ran it died */
	RES_ERROR,   /* the accelerator could not go on: text */
};

struct oracle_result {
	uint32_t status; /* enum oracle_status */
	uint32_t vector, error;
	uint32_t changed; /* bit per page that differs from its initial content */
	uint64_t cr2;
	char text[160];
	struct oracle_state out;
	uint8_t pages[PAGE_COUNT][PAGE]; /* only where the bit in .changed is set */
};

/* image.c: the initial memory of a case */

struct oracle_image {
	uint64_t seed;
	bool valid;
	uint8_t pages[PAGE_COUNT][PAGE];
};

/** image_set() - make the data pages of @seed, if they are not there already, and the code of @c */
void image_set(struct oracle_image *im, const struct oracle_case *c);

/** image_unset() - take the code of @c out of the code pages again */
void image_unset(struct oracle_image *im, const struct oracle_case *c);

/**
 * image_collect() - keep the pages that a case changed and put them back
 * @im: the initial content; @live: the pages as they are now
 * @from: first page to put back (code pages may need another way)
 */
void image_collect(const struct oracle_image *im, uint8_t *const live[PAGE_COUNT],
		   struct oracle_result *res, unsigned from);

/* The translator runs with exact flags: they are compared in every exception frame. */
extern bool oracle_exact_flags;
extern const char *oracle_accel_debug; /* options of the accelerator, or NULL */

/*
 * Whether the page for 16-bit addresses is there: the host may keep ordinary users from
 * mapping it (vm.mmap_min_addr). Set before the sides start.
 */
extern bool oracle_low_page;

/** image_probe() - find out what of the layout this host allows */
void image_probe(void);

/* One side: a way to run cases. Each runs in a process of its own, see worker.c. */
struct oracle_side {
	const char *name;
	/* 0; -1 with a line on stderr; -2 when this host cannot do it, with a line too */
	int (*init)(void **ret_ctx);
	/* Run cases [from, n); *cur tells which one is running, should the process die. */
	void (*run)(void *ctx, const struct oracle_case *cases, struct oracle_result *results,
		    unsigned from, unsigned n, volatile unsigned *cur);
};

extern const struct oracle_side side_native;
extern const struct oracle_side side_bt;
extern const struct oracle_side side_qemu;

/* worker.c */

#define BATCH 256

struct batch {
	unsigned n;
	volatile unsigned cur[2];
	struct oracle_case cases[BATCH];
	struct oracle_result results[2][BATCH];
};

struct worker;

/** batch_new() - memory shared with workers that start later; ends the program when there is none
 */
struct batch *batch_new(void);

/** worker_start() - run a side in a child process; @which: the half of results[] it fills */
struct worker *worker_start(const struct oracle_side *side, unsigned which);

/** worker_submit() - begin to run a batch; one at a time */
void worker_submit(struct worker *w, struct batch *b);

/** worker_wait() - until the batch is done; restarts the process and goes on when a case killed it
 */
void worker_wait(struct worker *w);

void worker_stop(struct worker *w);

/* compare.c */

enum diff_kind {
	DIFF_STATUS = 1,
	DIFF_VECTOR = 2,
	DIFF_ERROR = 4,
	DIFF_CR2 = 8,
	DIFF_GPR = 16,
	DIFF_RIP = 32,
	DIFF_FLAGS = 64,
	DIFF_VEC = 128,
	DIFF_MXCSR = 256,
	DIFF_X87 = 512,
	DIFF_MEM = 1024,
	DIFF_SEG = 2048,
};

enum verdict { SAME, DIFFERENT, SKIPPED, HIDDEN, KNOWN };

/**
 * oracle_compare() - hold the guest's result against the native one
 * @out: lines for people go there when not NULL
 * @ret_kinds: enum diff_kind bits
 */
enum verdict oracle_compare(const struct oracle_case *c, const struct oracle_result *native,
			    const struct oracle_result *guest, FILE *out, unsigned *ret_kinds);

/* known.c: what the translator is known to do differently; docs/quirks.md has the list */

struct oracle_known {
	const char *name, *what;
	bool (*match)(const struct oracle_case *c, const struct oracle_result *native,
		      const struct oracle_result *guest, unsigned kinds);
};

extern const struct oracle_known known_differences[];

/** known_match() - the entry that explains a mismatch, or NULL; NULL always after known_strict() */
const struct oracle_known *known_match(const struct oracle_case *c,
				       const struct oracle_result *native,
				       const struct oracle_result *guest, unsigned kinds);
void known_strict(void);

/* gen.c */

struct gen_opts {
	enum oracle_mode mode;
	unsigned max_len;     /* instructions, 1..8 */
	const char *filter;   /* only this mnemonic, ISA set or category; or NULL */
	bool alignment_check; /* half of the cases with EFLAGS.AC set */
};

/** gen_case() - make case @number of @seed; always the same for the same options */
void gen_case(struct oracle_case *c, const struct gen_opts *o, uint64_t seed, uint64_t number);

/** gen_describe() - fill what follows from the bytes (name, instruction offsets, undefined flags,
 * holes) */
int gen_describe(struct oracle_case *c);

/** gen_incomparable_at() - whether bytes that code wrote are no instruction, or one that rules
 * leave out */
bool gen_incomparable_at(const struct oracle_case *c, const uint8_t *bytes, unsigned len);

/** gen_undefined_near() - whether bytes that code wrote into code may be instructions with
 * undefined flags */
bool gen_undefined_near(const struct oracle_case *c, const uint8_t *was, const uint8_t *is,
			unsigned len);

/** gen_disasm() - print the instructions of a case */
void gen_disasm(const struct oracle_case *c, FILE *out);

/** gen_coverage() - how many encoding forms were made, and the list of them when @list is not NULL
 */
unsigned gen_coverage(FILE *list);

/* rules.c: what is left out, and why */

struct oracle_rule {
	const char *mnemonic; /* as Zydis prints it; a trailing * matches any rest */
	const char *why;
};

extern const struct oracle_rule rules_excluded[];

/** rules_excluded_why() - NULL when an instruction of that mnemonic may be compared */
const char *rules_excluded_why(const char *mnemonic);

/** rules_isa_may_hide() - whether a guest may be told that this ISA set is not there */
bool rules_isa_may_hide(const char *isa_set);

/* report.c */

/** report_mismatch() - a full report of one case; @file: also write the replay file there */
void report_mismatch(const struct oracle_case *c, const struct oracle_result *native,
		     const struct oracle_result *guest, FILE *out);
int case_write(const struct oracle_case *c, const char *path, const char *comment);
int case_read(struct oracle_case *c, const char *path);

#endif
