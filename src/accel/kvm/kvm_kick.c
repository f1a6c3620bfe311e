/* SPDX-License-Identifier: Apache-2.0 */
#include "accel/kvm/kvm_kick.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KICK_SIGNAL (SIGRTMIN + 2)

static void on_kick(int signo)
{
}

void kvm_kick_init(void)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigemptyset(&sa.sa_mask);
	sigaction(KICK_SIGNAL, &sa, NULL);
}

void kvm_kick_thread(pid_t tid)
{
	/* sandbox: loop vcpu: tgkill(PID) */
	syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}
