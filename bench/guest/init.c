/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first program of the guests of bench/kvm: tells that it was reached by asking
 * CPUID for a leaf of its own, which any program may and which always leaves the guest,
 * so the host's KVM sees it to the microsecond; then leaves the machine idle to be looked at.
 */
#include <cpuid.h>
#include <unistd.h>

#define INIT_LEAF 0x45594f54 /* bench/kvm looks for it */

int main(void)
{
	unsigned a, b, c, d;

	__cpuid(INIT_LEAF, a, b, c, d);
	for (;;)
		pause();
}
