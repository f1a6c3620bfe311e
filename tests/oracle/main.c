/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eyot-oracle: compares the emulated CPU with the host's, case by case.
 *
 * Three processes: this one makes cases and compares results, one runs them
 * natively, one on the guest. While the guest side runs a batch, the native
 * side runs the next one. A mismatch is made smaller by simplifying its state
 * as long as it stays one, and is reported once per class (instruction and
 * what differs).
 *
 * Exit status: 0 all the same, 1 mismatches, 2 wrong usage, 77 this host cannot do it.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "oracle.h"

#define MAX_CLASSES 512
#define MINIMISE_BUDGET 400

struct mismatch_class {
	char name[ORACLE_NAME_MAX];
	unsigned kinds;
	uint64_t count;
};

struct app {
	struct gen_opts gen;
	uint64_t seed, count, first;
	unsigned time_s, max_reports;
	const char *report_dir;
	bool verbose, coverage;
	const struct oracle_side *guest_side;
	struct worker *native, *guest;
	struct batch *batches[2], *single;

	uint64_t passed, failed, skipped, hidden, known[32];
	struct mismatch_class classes[MAX_CLASSES];
	unsigned class_count, minimised, reported;
};

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Run one case on both sides. */
static enum verdict try_case_verdict(struct app *a, const struct oracle_case *c,
				     unsigned *ret_kinds)
{
	*ret_kinds = 0;
	a->single->n = 1;
	a->single->cases[0] = *c;
	worker_submit(a->native, a->single);
	worker_wait(a->native);
	if (a->single->results[0][0].status != RES_OK)
		return SKIPPED;
	worker_submit(a->guest, a->single);
	worker_wait(a->guest);
	return oracle_compare(&a->single->cases[0], &a->single->results[0][0],
			      &a->single->results[1][0], NULL, ret_kinds);
}

/* The diff_kind bits of a mismatch, else 0. */
static unsigned try_case(struct app *a, const struct oracle_case *c)
{
	unsigned kinds;

	return try_case_verdict(a, c, &kinds) == DIFFERENT ? kinds : 0;
}

/* Keep @next when it still shows the same kind of mismatch. */
static bool adopt(struct app *a, struct oracle_case *c, const struct oracle_case *next,
		  unsigned kinds)
{
	if (!memcmp(c, next, sizeof(*c)) || !(try_case(a, next) & kinds))
		return false;
	*c = *next;
	return true;
}

static void drop_insns(struct app *a, struct oracle_case *c, unsigned kinds)
{
	for (unsigned i = c->insn_count; c->insn_count > 1 && i-- > 0;) {
		struct oracle_case next = *c;
		unsigned from = c->insn_off[i],
			 to = i + 1 < c->insn_count ? c->insn_off[i + 1] : c->code_len;

		memmove(next.code + from, next.code + to, c->code_len - to);
		next.code_len -= to - from;
		if (gen_describe(&next) < 0)
			continue;
		adopt(a, c, &next, kinds);
	}
}

static void simplify_state(struct app *a, struct oracle_case *c, unsigned kinds)
{
	struct oracle_case next = *c;

	next.data_seed = 0;
	adopt(a, c, &next, kinds);
	next = *c;
	memset(next.in.xsave + XS_ST, 0, XS_XMM - XS_ST);
	adopt(a, c, &next, kinds);
	next = *c;
	memset(next.in.xsave + XS_XMM, 0, 256);
	memset(next.in.xsave + XS_YMMH, 0, 256);
	adopt(a, c, &next, kinds);
	next = *c;
	memcpy(next.in.xsave, (uint8_t[]) { 0x7f, 3, 0, 0, 0 }, 5);
	adopt(a, c, &next, kinds);
	next = *c;
	memcpy(next.in.xsave + XS_MXCSR, (uint8_t[]) { 0x80, 0x1f, 0, 0 }, 4);
	adopt(a, c, &next, kinds);
	next = *c;
	next.in.rflags = 0x202;
	adopt(a, c, &next, kinds);
	next = *c;
	next.in.fs_base = next.in.gs_base = 0;
	adopt(a, c, &next, kinds);
	for (unsigned i = 0; i < 16; i++) {
		next = *c;
		next.in.gpr[i] = 0;
		adopt(a, c, &next, kinds);
	}
	for (unsigned i = 0; i < 16; i++) {
		next = *c;
		memset(next.in.xsave + XS_XMM + i * 16, 0, 16);
		adopt(a, c, &next, kinds);
		next = *c;
		memset(next.in.xsave + XS_YMMH + i * 16, 0, 16);
		adopt(a, c, &next, kinds);
	}
}

/* The class of a mismatch; NULL when the table is full. */
static struct mismatch_class *find_class(struct app *a, const char *name, unsigned kinds)
{
	for (unsigned i = 0; i < a->class_count; i++)
		if (a->classes[i].kinds == kinds && !strcmp(a->classes[i].name, name))
			return &a->classes[i];
	if (a->class_count == MAX_CLASSES)
		return NULL;
	a->classes[a->class_count] = (struct mismatch_class) { .kinds = kinds };
	snprintf(a->classes[a->class_count].name, ORACLE_NAME_MAX, "%s", name);
	return &a->classes[a->class_count++];
}

static void write_report(struct app *a, const struct oracle_case *c, const char *name,
			 unsigned kinds)
{
	char path[512], comment[160];
	FILE *f;

	if (!a->report_dir)
		return;
	snprintf(path, sizeof(path), "%s/%s-%s-%x-%" PRIu64 ".case", a->report_dir,
		 c->mode == ORACLE_64 ? "64" : "32", name, kinds, c->number);
	snprintf(comment, sizeof(comment), "%s, seed %" PRIu64 " case %" PRIu64, name, a->seed,
		 c->number);
	if (case_write(c, path, comment) < 0)
		fprintf(stderr, "eyot-oracle: cannot write '%s'\n", path);
	snprintf(path, sizeof(path), "%s/%s-%s-%x-%" PRIu64 ".txt", a->report_dir,
		 c->mode == ORACLE_64 ? "64" : "32", name, kinds, c->number);
	f = fopen(path, "w");
	if (!f)
		return;
	report_mismatch(c, &a->single->results[0][0], &a->single->results[1][0], f);
	fclose(f);
}

/* Code that writes itself can come upon instructions that are left out for being random. */
static bool native_agrees(struct app *a, const struct oracle_case *c)
{
	unsigned kinds;

	a->single->n = 1;
	a->single->cases[0] = *c;
	worker_submit(a->native, a->single);
	worker_wait(a->native);
	a->single->results[1][0] = a->single->results[0][0];
	worker_submit(a->native, a->single);
	worker_wait(a->native);
	return oracle_compare(c, &a->single->results[0][0], &a->single->results[1][0], NULL,
			      &kinds) == SAME;
}

static void on_mismatch(struct app *a, const struct oracle_case *orig, unsigned kinds)
{
	struct oracle_case c = *orig;
	struct mismatch_class *cl;

	if (!native_agrees(a, orig)) {
		a->skipped++;
		return;
	}
	a->failed++;
	if (c.insn_count > 1 && a->minimised < MINIMISE_BUDGET) {
		a->minimised++;
		drop_insns(a, &c, kinds);
		kinds = try_case(a, &c);
		if (!kinds) {
			printf("case %" PRIu64 ": a mismatch that does not come again\n",
			       orig->number);
			c = *orig;
		}
	}
	cl = find_class(a, c.insn_count > 1 ? "(sequence)" : c.name, kinds);
	if (!cl || cl->count++ || a->reported >= a->max_reports)
		return;
	a->reported++;
	if (kinds)
		simplify_state(a, &c, kinds);
	try_case(a, &c);
	report_mismatch(&c, &a->single->results[0][0], &a->single->results[1][0], stdout);
	write_report(a, &c, c.insn_count > 1 ? "sequence" : c.name, kinds);
	fflush(stdout);
}

static void note_known(struct app *a, const struct oracle_case *c,
		       const struct oracle_result *native, const struct oracle_result *guest,
		       unsigned kinds)
{
	a->known[known_match(c, native, guest, kinds) - known_differences]++;
	a->skipped++;
}

static void check_batch(struct app *a, struct batch *b)
{
	for (unsigned i = 0; i < b->n; i++) {
		unsigned kinds;

		switch (oracle_compare(&b->cases[i], &b->results[0][i], &b->results[1][i], NULL,
				       &kinds)) {
		case SAME:
			a->passed++;
			break;
		case SKIPPED:
			a->skipped++;
			break;
		case HIDDEN:
			a->hidden++;
			a->skipped++;
			break;
		case KNOWN:
			note_known(a, &b->cases[i], &b->results[0][i], &b->results[1][i], kinds);
			break;
		case DIFFERENT:
			on_mismatch(a, &b->cases[i], kinds);
			break;
		}
	}
}

static uint64_t make_batch(struct app *a, struct batch *b, uint64_t number)
{
	b->n = 0;
	while (b->n < BATCH && (!a->count || number < a->first + a->count))
		gen_case(&b->cases[b->n++], &a->gen, a->seed, number++);
	return number;
}

static void progress(struct app *a, double start, double *last)
{
	double t = now_s();

	if (!a->verbose || t - *last < 10)
		return;
	*last = t;
	fprintf(stderr,
		"%.0f s: %" PRIu64 " passed, %" PRIu64 " failed, %" PRIu64
		" skipped, %.0f cases/s\n",
		t - start, a->passed, a->failed, a->skipped,
		(a->passed + a->failed + a->skipped) / (t - start));
}

static void run_random(struct app *a)
{
	double start = now_s(), last = start;
	uint64_t number = a->first;
	unsigned k = 0;

	number = make_batch(a, a->batches[0], number);
	worker_submit(a->native, a->batches[0]);
	worker_wait(a->native);
	while (a->batches[k]->n) {
		struct batch *b = a->batches[k], *next = a->batches[!k];
		bool more = !a->time_s || now_s() - start < a->time_s;

		for (unsigned i = 0; i < b->n; i++)
			b->cases[i].skip = b->results[0][i].status != RES_OK;
		worker_submit(a->guest, b);
		next->n = 0;
		if (more)
			number = make_batch(a, next, number);
		if (next->n)
			worker_submit(a->native, next);
		worker_wait(a->guest);
		if (next->n)
			worker_wait(a->native); /* on_mismatch() needs it free */
		check_batch(a, b);
		progress(a, start, &last);
		k = !k;
	}
}

static void run_file(struct app *a, const char *path)
{
	struct oracle_case c;
	enum verdict v;
	unsigned kinds;

	if (case_read(&c, path) < 0) {
		a->failed++;
		return;
	}
	v = try_case_verdict(a, &c, &kinds);
	if (v == KNOWN) {
		note_known(a, &c, &a->single->results[0][0], &a->single->results[1][0], kinds);
	} else if (v == SKIPPED || v == HIDDEN) {
		printf("case '%s': skipped: nothing to compare here\n", path);
		a->skipped++;
	} else if (v == DIFFERENT) {
		printf("case '%s':\n", path);
		report_mismatch(&c, &a->single->results[0][0], &a->single->results[1][0], stdout);
		a->failed++;
	} else {
		if (a->verbose)
			report_mismatch(&c, &a->single->results[0][0], &a->single->results[1][0],
					stdout);
		a->passed++;
	}
}

static int by_name(const void *x, const void *y)
{
	return strcmp(*(char *const *)x, *(char *const *)y);
}

static int run_directory(struct app *a, const char *dir)
{
	char path[1024], *names[4096];
	struct dirent *e;
	unsigned n = 0;
	DIR *d = opendir(dir);

	if (!d) {
		fprintf(stderr, "eyot-oracle: cases '%s': %s\n", dir, strerror(errno));
		return -errno;
	}
	while ((e = readdir(d)) && n < 4096) {
		size_t len = strlen(e->d_name);

		if (len > 5 && !strcmp(e->d_name + len - 5, ".case"))
			names[n++] = strdup(e->d_name);
	}
	closedir(d);
	qsort(names, n, sizeof(names[0]), by_name);
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		run_file(a, path);
		free(names[i]);
	}
	printf("%u case files\n", n);
	return 0;
}

static void usage(void)
{
	fputs("usage: eyot-oracle [--seed N] [--count N] [--first N] [--time S] [--mode 64|32] "
	      "[--length 1..8]\n"
	      "                   [--filter MNEMONIC|ISA-SET|CATEGORY] [--guest bt|qemu|native] "
	      "[--replay FILE]...\n"
	      "                   [--cases DIR] [--report DIR] [--max-reports N] [--coverage] "
	      "[--rules] [--alignment-check]\n"
	      "                   [--exact-flags] [--accel-debug TEXT] [--strict] [--verbose]\n",
	      stderr);
	exit(2);
}

static uint64_t number_arg(const char *name, uint64_t min, uint64_t max)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(optarg, &end, 0);
	if (errno || *end || end == optarg || v < min || v > max) {
		fprintf(stderr,
			"eyot-oracle: --%s '%s': not a number from %" PRIu64 " to %" PRIu64 "\n",
			name, optarg, min, max);
		exit(2);
	}
	return v;
}

static const struct oracle_side *side_arg(const char *name)
{
	static const struct oracle_side *const sides[] = {
#ifdef ORACLE_HAVE_BT
		&side_bt,
#endif
		&side_qemu,
		&side_native,
	};

	for (unsigned i = 0; i < sizeof(sides) / sizeof(sides[0]); i++)
		if (!strcmp(sides[i]->name, name))
			return sides[i];
	fprintf(stderr, "eyot-oracle: --guest '%s': there is no such side\n", name);
	exit(2);
}

static void print_rules(void)
{
	for (const struct oracle_rule *r = rules_excluded; r->mnemonic; r++)
		printf("%-10s %s\n", r->mnemonic, r->why);
	exit(0);
}

static void summary(struct app *a)
{
	for (unsigned i = 0; i < a->class_count; i++)
		printf("class: %s kinds %#x: %" PRIu64 "\n", a->classes[i].name,
		       a->classes[i].kinds, a->classes[i].count);
	if (a->hidden)
		printf("%" PRIu64 " cases use features that the guest's CPU does not show\n",
		       a->hidden);
	for (const struct oracle_known *k = known_differences; k->name; k++)
		if (a->known[k - known_differences])
			printf("known difference %s: %" PRIu64 " (%s)\n", k->name,
			       a->known[k - known_differences], k->what);
	if (gen_coverage(NULL))
		printf("%u instruction forms\n", gen_coverage(a->coverage ? stdout : NULL));
	printf("%" PRIu64 " passed, %" PRIu64 " failed, %" PRIu64 " skipped\n", a->passed,
	       a->failed, a->skipped);
}

enum opt {
	OPT_SEED = 256,
	OPT_COUNT,
	OPT_FIRST,
	OPT_TIME,
	OPT_MODE,
	OPT_LENGTH,
	OPT_FILTER,
	OPT_GUEST,
	OPT_REPLAY,
	OPT_CASES,
	OPT_REPORT,
	OPT_MAX,
	OPT_COVERAGE,
	OPT_RULES,
	OPT_VERBOSE,
	OPT_AC,
	OPT_EXACT,
	OPT_DEBUG,
	OPT_STRICT
};

/* clang-format off */
static const struct option options[] = {
	{ "seed", 1, NULL, OPT_SEED },
	{ "count", 1, NULL, OPT_COUNT },
	{ "first", 1, NULL, OPT_FIRST },
	{ "time", 1, NULL, OPT_TIME },
	{ "mode", 1, NULL, OPT_MODE },
	{ "length", 1, NULL, OPT_LENGTH },
	{ "filter", 1, NULL, OPT_FILTER },
	{ "guest", 1, NULL, OPT_GUEST },
	{ "replay", 1, NULL, OPT_REPLAY },
	{ "cases", 1, NULL, OPT_CASES },
	{ "report", 1, NULL, OPT_REPORT },
	{ "max-reports", 1, NULL, OPT_MAX },
	{ "coverage", 0, NULL, OPT_COVERAGE },
	{ "rules", 0, NULL, OPT_RULES },
	{ "alignment-check", 0, NULL, OPT_AC },
	{ "exact-flags", 0, NULL, OPT_EXACT },
	{ "accel-debug", 1, NULL, OPT_DEBUG },
	{ "strict", 0, NULL, OPT_STRICT },
	{ "verbose", 0, NULL, OPT_VERBOSE },
	{ NULL, 0, NULL, 0 },
};
/* clang-format on */

struct files {
	const char *paths[64];
	unsigned count;
	const char *dir;
};

static void parse(struct app *a, struct files *f, int argc, char **argv)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case OPT_SEED:
			a->seed = number_arg("seed", 0, UINT32_MAX);
			break;
		case OPT_COUNT:
			a->count = number_arg("count", 1, UINT32_MAX);
			break;
		case OPT_FIRST:
			a->first = number_arg("first", 0, UINT32_MAX);
			break;
		case OPT_TIME:
			a->time_s = number_arg("time", 1, 1000000);
			break;
		case OPT_MODE:
			a->gen.mode = number_arg("mode", 32, 64) == 64 ? ORACLE_64 : ORACLE_32;
			break;
		case OPT_LENGTH:
			a->gen.max_len = number_arg("length", 1, ORACLE_INSN_MAX);
			break;
		case OPT_FILTER:
			a->gen.filter = optarg;
			break;
		case OPT_GUEST:
			a->guest_side = side_arg(optarg);
			break;
		case OPT_REPLAY:
			if (f->count < 64)
				f->paths[f->count++] = optarg;
			break;
		case OPT_CASES:
			f->dir = optarg;
			break;
		case OPT_REPORT:
			a->report_dir = optarg;
			break;
		case OPT_MAX:
			a->max_reports = number_arg("max-reports", 0, MAX_CLASSES);
			break;
		case OPT_COVERAGE:
			a->coverage = true;
			break;
		case OPT_RULES:
			print_rules();
			break;
		case OPT_STRICT:
			known_strict();
			break;
		case OPT_EXACT:
			oracle_exact_flags = true;
			break;
		case OPT_DEBUG:
			oracle_accel_debug = optarg;
			break;
		case OPT_AC:
			a->gen.alignment_check = true;
			break;
		case OPT_VERBOSE:
			a->verbose = true;
			break;
		default:
			usage();
		}
	}
	if (optind != argc)
		usage();
}

int main(int argc, char **argv)
{
	static struct app app = { .gen = { .mode = ORACLE_64, .max_len = 4 }, .max_reports = 40 };
	struct files f = { .count = 0 };
	struct app *a = &app;
	bool random;

#ifdef ORACLE_HAVE_BT
	a->guest_side = &side_bt;
#else
	a->guest_side = &side_native;
#endif
	a->seed = (uint32_t)(time(NULL) * 2654435761u);
	parse(a, &f, argc, argv);
	signal(SIGPIPE, SIG_IGN);
	random = a->count || a->time_s || (!f.count && !f.dir);
	if (random && !a->count && !a->time_s)
		a->count = 10000;
	a->batches[0] = batch_new();
	a->batches[1] = batch_new();
	a->single = batch_new();
	image_probe();
	a->native = worker_start(&side_native, 0);
	a->guest = worker_start(a->guest_side, 1);
	for (unsigned i = 0; i < f.count; i++)
		run_file(a, f.paths[i]);
	if (f.dir && run_directory(a, f.dir) < 0)
		return 2;
	if (random) {
		printf("%s mode, seed %" PRIu64 ", up to %u instructions, guest side %s\n",
		       a->gen.mode == ORACLE_64 ? "64-bit" : "32-bit", a->seed, a->gen.max_len,
		       a->guest_side->name);
		fflush(stdout);
		run_random(a);
	}
	worker_stop(a->native);
	worker_stop(a->guest);
	summary(a);
	return a->failed ? 1 : 0;
}
