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

struct vmm_sandbox;

/** vmm_sandbox_start() - the keeper, before anything is open; only the machine's process returns */
int vmm_sandbox_start(struct config *cfg, struct vmm_sandbox **ret_sb, struct err *err);
void vmm_sandbox_free(struct vmm_sandbox *sb);

/** vmm_sandbox_socket() - a socket that is the keeper's to remove, at @path, which is freed; NULL:
 * there is none. The one function here that wants a sandbox */
void vmm_sandbox_socket(struct vmm_sandbox *sb, char *path);

/** vmm_sandbox_close() - all is open, no guest runs yet: give up the rest of the host */
int vmm_sandbox_close(struct vmm_sandbox *sb, struct loop *loop, struct err *err);

/** vmm_sandbox_filter_loop() - the vCPUs have their threads: the loop thread's own filter */
int vmm_sandbox_filter_loop(struct vmm_sandbox *sb, struct err *err);

#endif
