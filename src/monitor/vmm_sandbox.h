/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox (sandbox/sandbox.h) as eyot-vmm uses it: which step comes when. Every
 * function takes NULL for a machine without sandbox and does nothing then. Loop thread.
 */
#ifndef EYOT_MONITOR_VMM_SANDBOX_H
#define EYOT_MONITOR_VMM_SANDBOX_H

#include "monitor/config.h"
#include "monitor/console.h"
#include "sandbox/sandbox.h"

struct commander;
struct vmm_sandbox;

/** vmm_sandbox_start() - the keeper, before anything is open; only the machine's process returns */
int vmm_sandbox_start(struct config *cfg, struct vmm_sandbox **ret_sb, struct err *err);
void vmm_sandbox_free(struct vmm_sandbox *sb);

/** vmm_sandbox_console() - the console is open: its socket is the keeper's to remove */
void vmm_sandbox_console(struct vmm_sandbox *sb, struct console *con);

/** vmm_sandbox_control() - the same for the control socket */
void vmm_sandbox_control(struct vmm_sandbox *sb, struct commander *cmd);

/** vmm_sandbox_close() - all is open, no guest runs yet: give up the rest of the host */
int vmm_sandbox_close(struct vmm_sandbox *sb, struct loop *loop, struct err *err);

/** vmm_sandbox_filter_loop() - the vCPUs have their threads: the loop thread's own filter */
int vmm_sandbox_filter_loop(struct vmm_sandbox *sb, struct err *err);

/*
 * Run on every confined thread; a program for tests has one, that tries what an attacker would.
 */
void sandbox_test_hook(enum sandbox_role role) __attribute__((weak));

#endif
