/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether this host's KVM is worth using. That /dev/kvm is there says little:
 * on some cloud machines it is a para-virtual one, which emulates a stock
 * kernel's ring 0 at a few million instructions a second or fails on its rarer
 * instructions. So after permission, version and abilities comes a trial.
 *
 * The caller's limit holds whatever the kernel does, opening the device included (which may load a
 * module): all of that is in a process of its own, which can hang in the kernel, be killed, or take
 * its time to tear a VM down. The caller waits for what it tells; when the time is over it decides
 * by what is known, and says so.
 *
 * So what a probe takes is bounded, but for one thing: on a host whose processors are all busy the
 * caller's thread, which has 0.3 ms of work, runs when the host lets it. That it tells (waited_us).
 * Shorter slices (sched_setattr()) did not change it, nor did real-time priority while waiting: the
 * wait then came when the thread went back to the ordinary ones.
 */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/kvm_trial.h"
#include "base/util.h"

#define API_VERSION 12

/*
 * Of the limit: until a thread of a busy host that has slept runs again, and what comes after. A
 * verdict comes much sooner anyway, where the device answers at all.
 */
#define MARGIN_MS 25
#define TELL_PERCENT 30 /* of it, for the trial to tell what was found and try what comes after */

static const struct {
	unsigned cap;
	const char *name;
} needed[] = {
#define N(cap)                                                                                     \
	{                                                                                          \
		KVM_CAP_##cap, #cap                                                                \
	}
	N(IRQCHIP),    N(USER_MEMORY),	N(SET_TSS_ADDR),   N(SET_IDENTITY_MAP_ADDR),
	N(EXT_CPUID),  N(MP_STATE),	N(IRQ_ROUTING),	   N(IOEVENTFD),
	N(SIGNAL_MSI), N(ADJUST_CLOCK), N(VCPU_EVENTS),	   N(DEBUGREGS),
	N(XSAVE),      N(XCRS),		N(IMMEDIATE_EXIT),
#undef N
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The group that may open the device; NULL when there is none to be advised. */
static const char *device_group(char *buf, size_t size)
{
	struct group entry, *found = NULL;
	struct stat st;

	if (stat("/dev/kvm", &st) < 0 || (st.st_mode & 060) != 060 || st.st_gid == 0)
		return NULL;
	if (getgrgid_r(st.st_gid, &entry, buf, size, &found) || !found)
		return NULL;
	return found->gr_name;
}

/* A verdict, in the process that tries. */
static void refuse(struct trial *t, const char *verdict, int errnum)
{
	t->verdict = verdict;
	t->errnum = errnum;
	trial_add(t, TRIAL_FAILED | TRIAL_END);
}

static void refuse_open(struct trial *t, int errnum)
{
	char buf[1024];
	const char *group;

	if (errnum != EACCES && errnum != EPERM) {
		snprintf(t->why, sizeof(t->why), "/dev/kvm: %s", strerror(errnum));
		refuse(t, "absent", errnum == ENOENT ? ENOENT : ENODEV);
		return;
	}
	group = device_group(buf, sizeof(buf));
	if (group)
		snprintf(t->why, sizeof(t->why),
			 "/dev/kvm: no permission; members of group '%s' have it: usermod -aG %s "
			 "USER, then log in anew",
			 group, group);
	else
		snprintf(t->why, sizeof(t->why), "/dev/kvm: no permission; only its owner has it");
	refuse(t, "forbidden", EACCES);
}

static bool has_abilities(int fd, struct trial *t)
{
	int version = kvm_sys_call(fd, KVM_GET_API_VERSION, 0);

	if (version != API_VERSION) {
		snprintf(t->why, sizeof(t->why), "/dev/kvm: API version %d, not %d", version,
			 API_VERSION);
		refuse(t, "old", EOPNOTSUPP);
		return false;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
		if (kvm_sys_call(fd, KVM_CHECK_EXTENSION, needed[i].cap) > 0)
			continue;
		snprintf(t->why, sizeof(t->why), "/dev/kvm: the host's kernel lacks %s",
			 needed[i].name);
		refuse(t, "old", EOPNOTSUPP);
		return false;
	}
	return true;
}

static void try(struct trial *t)
{
	int fd = kvm_sys_open();

	if (fd < 0)
		refuse_open(t, -fd);
	else if (has_abilities(fd, t))
		trial_run(fd, t);
}

static int verdict(struct accel_probe *p, const char *word, int errnum, struct err *err)
{
	p->verdict = word;
	return errnum ? err_set(err, errnum, "%s", p->reason) : 0;
}

static void add_text(struct accel_probe *p, const char *fmt, double val)
{
	size_t len = strlen(p->reason);

	snprintf(p->reason + len, sizeof(p->reason) - len, fmt, val);
}

/* @known: what was known after @waited_ms; more may come any moment */
static int judge(const struct trial *t, uint32_t known, unsigned waited_ms, struct accel_probe *p,
		 struct err *err)
{
	if (known & TRIAL_PLAIN) {
		p->ring0_mips = t->ring0_mips;
		p->native_mips = t->native_mips;
	}
	if (known & TRIAL_FAILED) {
		snprintf(p->reason, sizeof(p->reason), "%s", t->why);
		return verdict(p, t->verdict, t->errnum, err);
	}
	if ((known & TRIAL_PLAIN) && t->ring0_mips < t->native_mips * TRIAL_SHARE_MIN) {
		snprintf(
		    p->reason, sizeof(p->reason),
		    "/dev/kvm is there but crawls: ring-0 code at %.4g million instructions/s, "
		    "%.4g on the host itself",
		    p->ring0_mips, p->native_mips);
		return verdict(p, "slow", ENODEV, err);
	}
	if (!(known & TRIAL_KERNEL)) {
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm is there but gave no answer within %u ms", waited_ms);
		return verdict(p, "stuck", ETIMEDOUT, err);
	}
	if (t->rounds_per_ms < TRIAL_ROUNDS_MIN) {
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm is there but crawls on privileged instructions");
		return verdict(p, "slow", ENODEV, err);
	}
	if (known & TRIAL_PLAIN) {
		add_text(p, "ring-0 code at %.4g million instructions/s", p->ring0_mips);
		add_text(p, ", %.4g on the host itself", p->native_mips);
	} else {
		add_text(p,
			 "privileged instructions are quick; the rest was not tried within %.0f ms",
			 waited_ms);
	}
	p->exit_ns = known & TRIAL_EXIT ? t->exit_ns : 0;
	if (p->exit_ns)
		add_text(p, ", an exit takes %.3g us", (double)p->exit_ns / 1000);
	return verdict(p, "usable", 0, err);
}

/* Nanoseconds that this thread has been ready to run and did not; 0 where the kernel does not count
 * them (Documentation/scheduler/sched-stats.rst). */
static uint64_t kept_waiting_ns(void)
{
	FILE *f = fopen("/proc/thread-self/schedstat", "re");
	unsigned long long ns = 0;

	if (f && fscanf(f, "%*u %llu", &ns) != 1)
		ns = 0;
	if (f)
		fclose(f);
	return ns;
}

int kvm_probe(struct accel_probe *p, unsigned limit_ms, struct err *err)
{
	uint64_t begun_ns = now_ns(), waited_ns = kept_waiting_ns();
	uint64_t deadline_ns = begun_ns + (limit_ms - MARGIN_MS) * 1000000ull;
	struct trial *t =
	    mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;
	int ret;

	*p = (struct accel_probe) { .verdict = "broken" };
	if (t == MAP_FAILED)
		return err_set(err, ENOMEM, "trial: out of memory");
	t->brief = limit_ms < PROBE_FIGURES_MS;
	t->until_ns = deadline_ns - limit_ms * (TELL_PERCENT * 10000ull);
	ret = trial_start(try, t, &pid);
	if (ret == 0) {
		uint32_t known = trial_wait(t, deadline_ns);

		ret = judge(t, known, limit_ms - MARGIN_MS, p, err);
		trial_end(pid);
	} else {
		snprintf(p->reason, sizeof(p->reason), "trial: %s", strerror(-ret));
		ret = verdict(p, "broken", -ret, err);
	}
	munmap(t, sizeof(*t));
	p->waited_us = (uint32_t)((kept_waiting_ns() - waited_ns) / 1000);
	p->took_us = (uint32_t)((now_ns() - begun_ns) / 1000);
	return ret;
}
