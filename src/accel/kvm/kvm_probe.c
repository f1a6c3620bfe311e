/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether this host's KVM is worth using. That /dev/kvm is there says little:
 * on some cloud machines it is a para-virtual one, which emulates a stock
 * kernel's ring 0 at a few million instructions a second or fails on its rarer
 * instructions. So after permission, version and abilities comes a trial.
 *
 * The caller's limit holds whatever the kernel does: opening the device and
 * asking for numbers does not block, and everything else is in another process.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <grp.h>
#include <time.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/kvm_trial.h"
#include "base/util.h"

#define API_VERSION 12
#define MARGIN_MS 5 /* of the limit, for what comes before and after the trial */

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

static int refuse(struct accel_probe *p, const char *verdict, int errnum, struct err *err)
{
	p->verdict = verdict;
	return err_set(err, errnum, "%s", p->reason);
}

static int open_device(struct accel_probe *p, int *ret_fd, struct err *err)
{
	int fd = kvm_sys_open();
	char buf[1024];
	const char *group;

	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}
	if (fd != -EACCES && fd != -EPERM) {
		snprintf(p->reason, sizeof(p->reason), "/dev/kvm: %s", strerror(-fd));
		return refuse(p, "absent", fd == -ENOENT ? ENOENT : ENODEV, err);
	}
	group = device_group(buf, sizeof(buf));
	if (group)
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm: no permission; members of group '%s' have it: usermod -aG %s "
			 "USER, then log in anew",
			 group, group);
	else
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm: no permission; only its owner has it");
	return refuse(p, "forbidden", EACCES, err);
}

static int check_abilities(int fd, struct accel_probe *p, struct err *err)
{
	int version = kvm_sys_call(fd, KVM_GET_API_VERSION, 0);

	if (version != API_VERSION) {
		snprintf(p->reason, sizeof(p->reason), "/dev/kvm: API version %d, not %d", version,
			 API_VERSION);
		return refuse(p, "old", EOPNOTSUPP, err);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
		if (kvm_sys_call(fd, KVM_CHECK_EXTENSION, needed[i].cap) > 0)
			continue;
		snprintf(p->reason, sizeof(p->reason), "/dev/kvm: the host's kernel lacks %s",
			 needed[i].name);
		return refuse(p, "old", EOPNOTSUPP, err);
	}
	return 0;
}

static int judge(const struct trial *t, unsigned limit_ms, struct accel_probe *p, struct err *err)
{
	uint32_t stage = __atomic_load_n(&t->stage, __ATOMIC_ACQUIRE);

	if (stage == TRIAL_FAILED) {
		p->ring0_mips = t->ring0_mips;
		p->native_mips = t->native_mips;
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm is there but fails: %.120s (plain ring-0 code: %.4g million "
			 "instructions/s)",
			 t->why, t->ring0_mips);
		return refuse(p, "broken", ENODEV, err);
	}
	if (stage < TRIAL_PLAIN) {
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm is there but gave no answer within %u ms", limit_ms);
		return refuse(p, "stuck", ETIMEDOUT, err);
	}
	p->ring0_mips = t->ring0_mips;
	p->native_mips = t->native_mips;
	if (t->ring0_mips < t->native_mips * TRIAL_SHARE_MIN) {
		snprintf(
		    p->reason, sizeof(p->reason),
		    "/dev/kvm is there but crawls: ring-0 code at %.4g million instructions/s, "
		    "%.4g on the host itself",
		    p->ring0_mips, p->native_mips);
		return refuse(p, "slow", ENODEV, err);
	}
	snprintf(p->reason, sizeof(p->reason),
		 "ring-0 code at %.4g million instructions/s, %.4g on the host itself",
		 p->ring0_mips, p->native_mips);
	if (stage < TRIAL_KERNEL || t->rounds_per_ms < TRIAL_ROUNDS_MIN) {
		snprintf(p->reason, sizeof(p->reason),
			 "/dev/kvm is there but crawls on privileged instructions");
		return refuse(p, "slow", ENODEV, err);
	}
	p->exit_ns = stage == TRIAL_DONE ? t->exit_ns : 0;
	if (p->exit_ns) {
		size_t len = strlen(p->reason);

		snprintf(p->reason + len, sizeof(p->reason) - len, ", an exit takes %.3g us",
			 (double)p->exit_ns / 1000);
	}
	p->verdict = "usable";
	return 0;
}

static int try(int fd, unsigned limit_ms, struct accel_probe *p, struct err *err)
{
	struct trial *t =
	    mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t deadline_ns = now_ns() + (limit_ms - MARGIN_MS) * 1000000ull;
	pid_t pid;
	int ret;

	if (t == MAP_FAILED)
		return err_set(err, ENOMEM, "trial: out of memory");
	ret = trial_start(fd, t, &pid);
	if (ret == 0) {
		trial_end(t, pid, deadline_ns);
		ret = judge(t, limit_ms, p, err);
	} else {
		snprintf(p->reason, sizeof(p->reason), "trial: %s", strerror(-ret));
		ret = refuse(p, "broken", -ret, err);
	}
	munmap(t, sizeof(*t));
	return ret;
}

int kvm_probe(struct accel_probe *p, unsigned limit_ms, struct err *err)
{
	int fd = -1, ret;

	*p = (struct accel_probe) { .verdict = "broken" };
	ret = open_device(p, &fd, err);
	if (ret == 0)
		ret = check_abilities(fd, p, err);
	if (ret == 0)
		ret = try(fd, limit_ms, p, err);
	kvm_sys_close(fd);
	return ret;
}
