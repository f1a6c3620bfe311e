/* SPDX-License-Identifier: Apache-2.0 */
/* A few milliseconds of guest code, to see whether a host's KVM is worth using. */
#ifndef EYOT_ACCEL_KVM_TRIAL_H
#define EYOT_ACCEL_KVM_TRIAL_H

#include <stdint.h>
#include <sys/types.h>

#define TRIAL_SHARE_MIN 0.2 /* of the native rate, for ring 0 */

/*
 * Rounds of privileged instructions in a millisecond: hardware does thousands, and about a hundred
 * where each instruction leaves the guest.
 */
#define TRIAL_ROUNDS_MIN 5.0

enum trial_stage {
	TRIAL_BEGUN,
	TRIAL_PLAIN,  /* ring0_mips and native_mips are known */
	TRIAL_KERNEL, /* rounds_per_ms is known */
	TRIAL_DONE,   /* exit_ns, too */
	TRIAL_FAILED, /* why says what */
};

/* Shared between the process that tries and the one that waits for it. */
struct trial {
	uint32_t stage; /* enum trial_stage; atomic, written last */
	double ring0_mips, native_mips;
	double rounds_per_ms; /* of privileged instructions, a handful a round */
	uint64_t exit_ns;
	char why[128];
};

/** trial_start() - run the trial in another process; @t is shared memory; 0 or -errno */
int trial_start(int kvm_fd, struct trial *t, pid_t *ret_pid);

/** trial_end() - wait until it is done or @deadline_ns (CLOCK_MONOTONIC), and end it; up to 4 ms
 * more */
void trial_end(const struct trial *t, pid_t pid, uint64_t deadline_ns);

#endif
