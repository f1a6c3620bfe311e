/* SPDX-License-Identifier: Apache-2.0 */
/* A third fault while #DF is delivered shuts the CPU down: the machine ends as crashed. */
#include "rt.h"

int main(void)
{
	struct dtable none = { 0, 0 };

	/* nearly there: with #DF in place it is only a double fault */
	idt[V_DF].ist = 1;
	idt[V_GP].type &= ~0x80;
	TRY("mov %0, %%ss", ::"r"(KDS | 3) : "memory");
	expect("double fault is caught", V_DF, 0, ANYWHERE);
	__asm__ volatile("lidt %0; ud2" ::"m"(none) : "memory");
	return 0;
}
