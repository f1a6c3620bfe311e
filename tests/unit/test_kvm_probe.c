/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel/kvm: what the probe says of hosts that are not as they should be. The system calls are this
 * file's; who makes them is the process that the probe starts. Where a verdict is expected there is
 * more time than auto gives: a busy host shall not change it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"

#define AT_DATA 0x5000 /* where the trial's guest counts its rounds */
#define FD 77
#define BUSY_THREADS 12
#define BUSY_PROBES 60

/* What the host does. */
static struct {
	int open; /* what opening the device gives */
	bool open_hangs;
	int version;
	unsigned lacks;	  /* an ability */
	unsigned hangs;	  /* the nth run does not end, whatever comes; 0: none */
	unsigned crashes; /* the nth run ends in a triple fault */
	bool exits;	  /* from the third run on there are port writes */
	uint64_t rounds;  /* that the guest does in a run */
} host;

static unsigned runs;
static uint8_t *ram;
static union {
	struct kvm_run run;
	char room[8192];
} shared;

static void hang(void)
{
	for (;;)
		pause();
}

int kvm_sys_open(void)
{
	if (host.open_hangs)
		hang();
	return host.open;
}

static int run(void)
{
	uint64_t count = host.rounds;

	runs++;
	if (runs == host.hangs)
		hang();
	shared.run.exit_reason = KVM_EXIT_SHUTDOWN;
	if (runs == host.crashes)
		return 0;
	memcpy(ram + AT_DATA, &count, sizeof(count));
	if (host.exits && runs > 2) { /* port writes */
		shared.run.exit_reason = KVM_EXIT_IO;
		return 0;
	}
	while (!__atomic_load_n(&shared.run.immediate_exit, __ATOMIC_SEQ_CST))
		;
	return -EINTR;
}

int kvm_sys_call(int fd, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return host.version;
	case KVM_CHECK_EXTENSION:
		return arg != host.lacks;
	case KVM_GET_VCPU_MMAP_SIZE:
		return sizeof(shared);
	case KVM_SET_USER_MEMORY_REGION:
		ram = (uint8_t *)(uintptr_t)((struct kvm_userspace_memory_region *)arg)
			  ->userspace_addr;
		return 0;
	case KVM_RUN:
		return run();
	default:
		return 0;
	}
}

void *kvm_sys_map(int fd, size_t size)
{
	return &shared;
}

void kvm_sys_unmap(void *area, size_t size)
{
}

void kvm_sys_close(int fd)
{
}

static int setup(void **state)
{
	memset(&host, 0, sizeof(host));
	host.open = FD;
	host.version = 12;
	host.lacks = ~0u;
	host.rounds = 1000000;
	return 0;
}

static void expect(unsigned limit_ms, int code, const char *verdict, const char *text)
{
	struct err err = { "" };
	struct accel_probe p;
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(kvm_probe(&p, limit_ms, &err), code);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_string_equal(p.verdict, verdict);
	if (!strstr(p.reason, text))
		fail_msg("'%s' does not say '%s'", p.reason, text);
	if (code)
		assert_string_equal(err.text, p.reason);
	/* Not a measurement: it returned although the other process did not end. */
	assert_in_range(b.tv_sec - a.tv_sec, 0, 20);
}

static void test_not_there(void **state)
{
	host.open = -ENOENT;
	expect(PROBE_ASKED_MS, -ENOENT, "absent", "No such file");
	host.open = -ENODEV;
	expect(PROBE_ASKED_MS, -ENODEV, "absent", "No such device");
	host.open = -EACCES;
	expect(PROBE_ASKED_MS, -EACCES, "forbidden", "no permission");
}

static void test_too_old(void **state)
{
	host.version = 11;
	expect(PROBE_ASKED_MS, -EOPNOTSUPP, "old", "API version 11");
	host.version = 12;
	host.lacks = KVM_CAP_XCRS;
	expect(PROBE_ASKED_MS, -EOPNOTSUPP, "old", "lacks XCRS");
}

static void test_hangs(void **state)
{
	host.open_hangs = true;
	expect(PROBE_MS, -ETIMEDOUT, "stuck", "within 25 ms");
	host.open_hangs = false;
	host.hangs = 1;
	expect(PROBE_ASKED_MS, -ETIMEDOUT, "stuck", "within 1975 ms");
}

/* What is known when the time is over decides. */
static void test_hangs_late(void **state)
{
	host.hangs = 2;
	expect(PROBE_ASKED_MS, 0, "usable", "the rest was not tried within 1975 ms");
	host.hangs = 3; /* the exit is measured last */
	expect(PROBE_FIGURES_MS, 0, "usable", "on the host itself");
}

static void test_fails(void **state)
{
	host.crashes = 1;
	expect(PROBE_ASKED_MS, -ENODEV, "broken", "privileged code ends in a triple fault");
	host.crashes = 2;
	expect(PROBE_FIGURES_MS, -ENODEV, "broken", "(plain ring-0 code: ");
}

static void test_crawls(void **state)
{
	host.rounds = 0;
	expect(PROBE_ASKED_MS, -ENODEV, "slow", "crawls on privileged instructions");
	expect(PROBE_FIGURES_MS, -ENODEV, "slow", "on the host itself");
}

static void test_usable(void **state)
{
	expect(PROBE_ASKED_MS, 0, "usable", "on the host itself");
	host.exits = true;
	expect(PROBE_FIGURES_MS, 0, "usable", "an exit takes");
}

static void *keep_busy(void *end)
{
	while (!atomic_load((atomic_bool *)end))
		;
	return NULL;
}

/*
 * Whatever the host's processors do meanwhile, what the probe itself takes is within its limit: all
 * but the time that its thread was ready and others ran.
 */
static void test_busy(void **state)
{
	pthread_t busy[BUSY_THREADS];
	atomic_bool end = false;
	struct err err = { "" };
	struct accel_probe p;
	uint32_t longest_us = 0;

	host.open_hangs = true;
	for (unsigned i = 0; i < BUSY_THREADS; i++)
		assert_int_equal(pthread_create(&busy[i], NULL, keep_busy, &end), 0);
	for (unsigned i = 0; i < BUSY_PROBES; i++) {
		assert_int_equal(kvm_probe(&p, PROBE_MS, &err), -ETIMEDOUT);
		longest_us = p.took_us > longest_us ? p.took_us : longest_us;
		if (p.took_us - p.waited_us > PROBE_MS * 1000 || p.took_us < p.waited_us)
			break;
	}
	end = true;
	for (unsigned i = 0; i < BUSY_THREADS; i++)
		pthread_join(busy[i], NULL);
	print_message("the longest of %u: %u us\n", BUSY_PROBES, longest_us);
	assert_true(p.took_us >= p.waited_us);
	assert_in_range(p.took_us - p.waited_us, 1, PROBE_MS * 1000);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup(name, setup)
	const struct CMUnitTest tests[] = {
		T(test_not_there), T(test_too_old), T(test_hangs),  T(test_hangs_late),
		T(test_fails),	   T(test_crawls),  T(test_usable), T(test_busy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
