/* SPDX-License-Identifier: Apache-2.0 */
#include "accel/accel.h"

#include <stddef.h>

/* In the order in which "auto" tries them. */
const struct accel_ops *const accel_list[] = {
	&accel_kvm,
#ifdef EYOT_ACCEL_BT
	&accel_bt,
#endif
	NULL,
};
