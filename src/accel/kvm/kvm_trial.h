/* SPDX-License-Identifier: Apache-2.0 */
/* A few milliseconds of guest code, to see whether a host's KVM is worth using. */
#ifndef EYOT_ACCEL_KVM_TRIAL_H
#define EYOT_ACCEL_KVM_TRIAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define TRIAL_SHARE_MIN 0.2 /* of the native rate, for ring 0 */

/*
 * Rounds of privileged instructions in a millisecond: hardware does thousands, and about a hundred
 * where each instruction leaves the guest.
 */
#define TRIAL_ROUNDS_MIN 5.0

/* What is known, as bits that are added one by one. */
enum trial_known {
	TRIAL_PLAIN = 1,  /* ring0_mips and native_mips */
	TRIAL_KERNEL = 2, /* rounds_per_ms */
	TRIAL_EXIT = 4,	  /* exit_ns */
	TRIAL_FAILED =
	    8,		/* why says what, verdict and errnum what that means; nothing will follow */
	TRIAL_END = 16, /* nothing will follow */
};

/* Shared between the process that tries and the one that waits for it. */
struct trial {
	bool brief;	/* what is dear and decides nothing is left out */
	uint32_t known; /* enum trial_known; atomic, added to last; a futex */
	double ring0_mips, native_mips;
	double rounds_per_ms;	    /* of privileged instructions, a handful a round */
	uint64_t exit_ns, until_ns; /* until_ns: when trying anew must end (CLOCK_MONOTONIC) */
	const char *verdict;
	int errnum;
	char why[256];
};

/** trial_add() - make something known; in the process that tries */
void trial_add(struct trial *t, uint32_t bits);

/** trial_run() - try; in the process of trial_start() */
void trial_run(int kvm_fd, struct trial *t);

/** trial_start() - call @try in a process of its own, which may hang or die of it; 0 or -errno
 * @t: shared memory */
int trial_start(void (*try)(struct trial *t), struct trial *t, pid_t *ret_pid);

/** trial_wait() - until nothing follows or @deadline_ns (CLOCK_MONOTONIC); what is known then */
uint32_t trial_wait(struct trial *t, uint64_t deadline_ns);

/** trial_end() - end the process; returns at once */
void trial_end(pid_t pid);

#endif
