/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel is asked for all day: small system calls, page faults, process switches. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define SYSCALLS 1000000
#define FAULT_BYTES (32u << 20)
#define FAULT_ROUNDS 16
#define PAGE 4096u
#define SWITCHES 40000

double bench_syscalls(void)
{
	long sum = 0;

	for (int i = 0; i < SYSCALLS; i++)
		sum += syscall(SYS_getppid);
	return (double)sum;
}

double bench_faults(void)
{
	double sum = 0;

	for (int round = 0; round < FAULT_ROUNDS; round++) {
		volatile char *p = mmap(NULL, FAULT_BYTES, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			abort();
		madvise((void *)p, FAULT_BYTES, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < FAULT_BYTES; at += PAGE)
			p[at] = 1;
		sum += p[FAULT_BYTES / 2];
		munmap((void *)p, FAULT_BYTES);
	}
	return sum;
}

/* Two processes on one CPU hand a byte to and fro. */
double bench_switches(void)
{
	int there[2], back[2];
	cpu_set_t one;
	char byte = 0;
	pid_t pid;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	if (pipe(there) || pipe(back))
		abort();
	pid = fork();
	if (pid < 0)
		abort();
	if (!pid) {
		for (int i = 0; i < SWITCHES; i++)
			if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (int i = 0; i < SWITCHES; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			abort();
	waitpid(pid, NULL, 0);
	return byte;
}
