#include "accel/kvm/kvm.h"
#include <stdio.h>
int kvm_probe(struct accel_probe *p, struct err *err)
{
	*p = (struct accel_probe) { .verdict = "usable" };
	snprintf(p->reason, sizeof p->reason, "stub");
	return 0;
}
