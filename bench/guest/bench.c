/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs workloads and prints how long each took, by CLOCK_MONOTONIC.
 *
 * usage: bench setup | bench list | bench run [NAME]...
 *
 * `setup` makes the input files in DIR (on a tmpfs) and brings the programs into the page
 * cache, so that the disk is not what is measured. `run` prints for each workload
 *   > NAME
 *   NAME SECONDS CPU-SECONDS
 * the first line when it starts, so that a reader on the other side can hold its own clock
 * against this one. Each workload runs in a process of its own; one that fails prints
 * `NAME failed STATUS`. All are sized to 0.1 to 0.3 s on a host CPU of 2023.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define DIR "/dev/shm/bench"
#define TEXT_BYTES (8u << 20)
#define BLOB_BYTES (32u << 20)
#define SOURCE_FUNCTIONS 40

static const struct workload {
	const char *name;
	double (*function)(void);
	const char *command; /* for sh -c when there is no function */
} workloads[] = {
	{ "shell", NULL, "i=0; while [ $i -lt 250000 ]; do i=$((i+1)); done" },
	{ "fork-exec", NULL, "i=0; while [ $i -lt 250 ]; do /bin/true; i=$((i+1)); done" },
	{ "gzip", NULL, "gzip -6 -c text > /dev/null" },
	{ "xz", NULL, "head -c 1000000 text | xz -6 -T1 -c > /dev/null" },
	{ "zstd", NULL, "zstd -q -9 --single-thread -c text > /dev/null" },
	{ "sha512", NULL, "openssl dgst -sha512 blob blob blob > /dev/null" },
	{ "aes", NULL,
	  "for i in 1 2 3 4; do openssl enc -aes-256-cbc -K 00 -iv 00 -in blob -out /dev/null "
	  "2> /dev/null; done" },
	{ "python", NULL, "python3 work.py > /dev/null" },
	{ "sqlite", NULL, "sqlite3 :memory: < work.sql > /dev/null" },
	{ "matrix", bench_matrix, NULL },
	{ "fft", bench_fft, NULL },
	{ "syscalls", bench_syscalls, NULL },
	{ "page-faults", bench_faults, NULL },
	{ "switches", bench_switches, NULL },
	{ "find", NULL, "find / -xdev -printf '%s %p\\n' > /dev/null 2>&1 || true" },
	{ "compile", NULL, "gcc -O2 -c -o /dev/null work.c" },
};
#define WORKLOADS (sizeof(workloads) / sizeof(workloads[0]))

static const char python_text[] =
    "import json\n"
    "def sieve(n):\n"
    "    flags = bytearray([1]) * (n + 1)\n"
    "    for i in range(2, int(n ** 0.5) + 1):\n"
    "        if flags[i]:\n"
    "            for j in range(i * i, n + 1, i):\n"
    "                flags[j] = 0\n"
    "    return sum(flags) - 2\n"
    "class Node:\n"
    "    def __init__(self, key):\n"
    "        self.key, self.left, self.right = key, None, None\n"
    "def insert(root, key):\n"
    "    while True:\n"
    "        side = 'left' if key < root.key else 'right'\n"
    "        below = getattr(root, side)\n"
    "        if below is None:\n"
    "            setattr(root, side, Node(key))\n"
    "            return\n"
    "        root = below\n"
    "print(sieve(300000))\n"
    "root, x = Node(500000), 1\n"
    "for i in range(12000):\n"
    "    x = x * 1103515245 + 12345 & 0x7fffffff\n"
    "    insert(root, x % 1000000)\n"
    "words = {}\n"
    "for line in open('text', encoding='ascii').readlines()[:12000]:\n"
    "    for word in line.split():\n"
    "        words[word] = words.get(word, 0) + 1\n"
    "print(len(json.loads(json.dumps(words))))\n";

static const char sql_text[] =
    "create table t (id integer primary key, k integer, name text);\n"
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 90000)\n"
    "insert into t select i, (i * 7919) % 10007, 'name ' || (i % 977) from n;\n"
    "create index t_k on t (k);\n"
    "select name, count(*), sum(k) from t group by name order by 2, 1 limit 5;\n"
    "select count(*) from t a join t b on b.k = a.k where a.id < 4000;\n"
    "update t set name = upper(name) where k % 3 = 0;\n"
    "delete from t where k % 5 = 0;\n"
    "select count(*), max(name) from t;\n";

static void die(const char *what)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static FILE *create(const char *name)
{
	FILE *f = fopen(name, "w");

	if (!f)
		die(name);
	return f;
}

static void finish(FILE *f, const char *name)
{
	if (fclose(f))
		die(name);
}

/* Words of few letters with a skewed choice: compresses like prose. */
static void make_text(void)
{
	static char words[4096][12];
	uint32_t r = 2463534242u;
	FILE *f = create("text");
	size_t done = 0;
	int column = 0;

	for (int i = 0; i < 4096; i++) {
		int n = 2 + (int)(next_random(&r) % 9);

		for (int k = 0; k < n; k++)
			words[i][k] = "etaoinshrdlucmfwypvbgkqjxz"[(next_random(&r) % 26) *
								   (next_random(&r) % 26) / 26];
		words[i][n] = '\0';
	}
	while (done < TEXT_BYTES) {
		uint32_t a = next_random(&r) % 4096, b = next_random(&r) % 4096;
		int n = fprintf(f, "%s%c", words[a * b / 4096], column > 60 ? '\n' : ' ');

		column = column > 60 ? 0 : column + n;
		done += (size_t)n;
	}
	finish(f, "text");
}

static void make_blob(void)
{
	static uint32_t block[16384];
	uint32_t r = 88172645u;
	FILE *f = create("blob");

	for (size_t i = 0; i < sizeof(block) / sizeof(block[0]); i++)
		block[i] = next_random(&r);
	for (size_t done = 0; done < BLOB_BYTES; done += sizeof(block))
		if (fwrite(block, sizeof(block), 1, f) != 1)
			die("blob");
	finish(f, "blob");
}

static void make_source(void)
{
	FILE *f = create("work.c");

	fprintf(f, "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
		   "struct item { int key, n; char name[16]; struct item *next; };\n");
	for (int i = 0; i < SOURCE_FUNCTIONS; i++)
		fprintf(
		    f,
		    "int work_%d(struct item *list, int n)\n{\n\tint sum = %d;\n"
		    "\tfor (struct item *p = list; p; p = p->next) {\n"
		    "\t\tswitch ((p->key + n) %% 7) {\n\t\tcase 0: sum += p->n * %d; break;\n"
		    "\t\tcase 1: sum ^= p->key << %d; break;\n"
		    "\t\tcase 3: sum -= (int)strlen(p->name); break;\n"
		    "\t\tdefault: sum += sum %% %d; }\n"
		    "\t\tif (sum > n && !strcmp(p->name, \"x%d\")) sum = work_%d(p->next, n - 1);\n"
		    "\t}\n\treturn sum;\n}\n",
		    i, i, i + 3, i % 11, i + 2, i, i);
	finish(f, "work.c");
}

static void setup(void)
{
	FILE *f;

	make_text();
	make_blob();
	make_source();
	f = create("work.py");
	fputs(python_text, f);
	finish(f, "work.py");
	f = create("work.sql");
	fputs(sql_text, f);
	finish(f, "work.sql");
	/* one light use of each program brings it into memory */
	if (system("for i in gzip xz 'zstd -q'; do echo | $i -c; done > /dev/null;"
		   "echo | openssl dgst -sha512 > /dev/null; python3 -c 'import json';"
		   "echo 'select 1;' | sqlite3 > /dev/null;"
		   "echo '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>' |"
		   "gcc -O2 -x c -c -o /dev/null -;"
		   "find / -xdev -printf '%s' > /dev/null 2>&1; true"))
		die("setup");
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(const struct timeval *t)
{
	return (double)t->tv_sec + (double)t->tv_usec * 1e-6;
}

static void run(const struct workload *w)
{
	struct rusage usage;
	double start, end;
	int status;
	pid_t pid;

	printf("> %s\n", w->name);
	fflush(stdout);
	start = now();
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		if (w->function) {
			volatile double result = w->function();

			(void)result;
			_exit(0);
		}
		execl("/bin/sh", "sh", "-c", w->command, (char *)NULL);
		_exit(127);
	}
	wait4(pid, &status, 0, &usage);
	end = now();
	if (status)
		printf("%s failed %d\n", w->name, status);
	else
		printf("%s %.6f %.6f\n", w->name, end - start,
		       seconds(&usage.ru_utime) + seconds(&usage.ru_stime));
	fflush(stdout);
}

static int named(const char *name, char **names)
{
	if (!*names)
		return 1;
	for (; *names; names++)
		if (!strcmp(name, *names))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: bench setup | bench list | bench run [NAME]...\n");
		return 2;
	}
	if (!strcmp(argv[1], "list")) {
		for (size_t i = 0; i < WORKLOADS; i++)
			puts(workloads[i].name);
		return 0;
	}
	if ((mkdir(DIR, 0777) && errno != EEXIST) || chdir(DIR))
		die(DIR);
	if (!strcmp(argv[1], "setup")) {
		setup();
		return 0;
	}
	for (size_t i = 0; i < WORKLOADS; i++)
		if (named(workloads[i].name, argv + 2))
			run(&workloads[i]);
	return 0;
}
