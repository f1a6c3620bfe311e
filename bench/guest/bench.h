/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads that are C code of their own; each returns a number that depends on its work. */
#ifndef EYOT_BENCH_H
#define EYOT_BENCH_H

double bench_matrix(void);
double bench_fft(void);
double bench_syscalls(void);
double bench_faults(void);
double bench_switches(void);

#endif
