/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's report (--report fd:N): an open file that whoever started it gave along.
 *
 * The starter locks it (flock) and begins it with a line of its own; the lock is the open
 * file's, so it is held for as long as the machine's process lives and no longer, whatever
 * happens to the starter. When the machine ends, one line is added that says how:
 *
 *   {"reason": "powered-off", "text": "", "status": 0}
 *
 * No such line, and no lock: the process was killed. Loop thread.
 */
#ifndef EYOT_MONITOR_REPORT_H
#define EYOT_MONITOR_REPORT_H

#include "monitor/config.h"
#include "vm/vm.h"

/** config_report_parse() - take the option; -EINVAL: not "fd:N" of a file open for writing */
int config_report_parse(struct config *cfg, const char *text, struct err *err);

/** report_reason() - the word for how a machine ended */
const char *report_reason(enum vm_request_kind kind);

/**
 * report_end() - write down how it ended; the first time counts
 * @text: of the reason, one line
 * @status: what eyot-vmm exits with
 */
void report_end(struct config *cfg, enum vm_request_kind kind, const char *text, int status);

#endif
