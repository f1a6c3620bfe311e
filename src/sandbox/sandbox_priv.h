/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EYOT_SANDBOX_SANDBOX_PRIV_H
#define EYOT_SANDBOX_SANDBOX_PRIV_H

#include <stdbool.h>
#include <sys/types.h>

/* In a new user namespace: @uid and @gid, as they are outside; 0 or -errno */
int sandbox_map_ids(uid_t uid, gid_t gid);

bool sandbox_has_cap(unsigned cap);
bool sandbox_has_any_cap(void);

#endif
