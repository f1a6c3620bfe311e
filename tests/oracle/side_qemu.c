/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second opinion: the same guest image on qemu-system-x86_64 (TCG), its
 * memory shared with this process. Slow and with mismatches of its own; it
 * is there to test the runner and the comparison, not the product.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define RAM_BYTES (32u << 20)
#define CASE_TIMEOUT_NS 2000000000ll

struct qemu {
	struct guest guest;
	int fd;
	uint8_t *ram;
	pid_t pid;
	char image[64];
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Wait until *word is @value, or is non-zero when @value is 0. */
static bool wait_word(const volatile uint32_t *word, uint32_t value, int64_t timeout_ns)
{
	int64_t end = now_ns() + timeout_ns;

	while (*word != value) {
		for (unsigned i = 0; i < 100 && *word != value; i++)
			__builtin_ia32_pause();
		if (now_ns() > end)
			return false;
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return true;
}

static int start(struct qemu *q)
{
	char object[128];
	int fd = mkstemp(strcpy(q->image, "/tmp/eyot-oracle-XXXXXX"));
	struct guest build;
	uint8_t *ram = calloc(1, GUEST_IMAGE_END);

	if (fd < 0 || !ram) {
		fprintf(stderr, "qemu side: cannot make an image file: %s\n", strerror(errno));
		return -1;
	}
	guest_build(&build, ram, true);
	if (write(fd, ram + GUEST_IMAGE, GUEST_IMAGE_END - GUEST_IMAGE) !=
	    GUEST_IMAGE_END - GUEST_IMAGE)
		return -1;
	close(fd);
	free(ram);
	snprintf(object, sizeof(object),
		 "memory-backend-file,id=m,size=%u,share=on,mem-path=/proc/%d/fd/%d", RAM_BYTES,
		 getpid(), q->fd);
	q->pid = fork();
	if (!q->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("qemu-system-x86_64", "qemu-system-x86_64", "-accel", "tcg", "-cpu",
		       "max,la57=off", "-m", "32M", "-object", object, "-machine",
		       "pc,memory-backend=m", "-display", "none", "-nodefaults", "-no-reboot",
		       "-kernel", q->image, NULL);
		_exit(127);
	}
	return 0;
}

static int qemu_init(void **ret_ctx)
{
	struct qemu *q = calloc(1, sizeof(*q));

	if (!q)
		return -1;
	q->fd = memfd_create("oracle-ram", 0);
	if (q->fd < 0 || ftruncate(q->fd, RAM_BYTES) < 0)
		return -1;
	q->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd, 0);
	if (q->ram == MAP_FAILED || start(q) < 0)
		return -1;
	q->guest.ram = q->ram;
	q->guest.slot = (struct guest_slot *)(q->ram + GUEST_SLOT);
	for (unsigned p = 0; p < PAGE_COUNT; p++)
		if (p != PAGE_LOW || oracle_low_page)
			q->guest.live[p] = q->ram + GUEST_USER + (uint64_t)p * PAGE;
	/* The image is there when the code pages are. */
	if (!wait_word((uint32_t *)q->guest.live[0], 0xcccccccc, 10000000000ll)) {
		fprintf(stderr, "qemu side: does not start\n");
		return -1;
	}
	sleep(1);
	unlink(q->image);
	*ret_ctx = q;
	return 0;
}

static void qemu_run(void *ctx, const struct oracle_case *cases, struct oracle_result *results,
		     unsigned from, unsigned n, volatile unsigned *cur)
{
	struct qemu *q = ctx;

	for (unsigned i = from; i < n; i++) {
		*cur = i;
		if (cases[i].skip)
			continue;
		guest_put(&q->guest, &cases[i]);
		if (!wait_word(&q->guest.slot->done, 1, CASE_TIMEOUT_NS)) {
			if (q->guest.slot->panic)
				fprintf(
				    stderr, "qemu side: the runner faulted: vector %u at %#lx\n",
				    q->guest.slot->panic & 0xff, (unsigned long)q->guest.slot->cr2);
			kill(q->pid, SIGKILL);
			_exit(5); /* another process starts another machine */
		}
		guest_take(&q->guest, &cases[i], &results[i]);
	}
}

const struct oracle_side side_qemu = { "qemu", qemu_init, qemu_run };
