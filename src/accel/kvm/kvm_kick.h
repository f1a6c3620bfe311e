/* SPDX-License-Identifier: Apache-2.0 */
/* The signal that ends KVM_RUN; apart because <signal.h> has names of registers of its own. */
#ifndef EYOT_ACCEL_KVM_KICK_H
#define EYOT_ACCEL_KVM_KICK_H

#include <sys/types.h>

/** kvm_kick_init() - the signal's handler, which does nothing; once a process is enough */
void kvm_kick_init(void);

/** kvm_kick_thread() - send it; a thread that is gone does no harm */
void kvm_kick_thread(pid_t tid);

#endif
