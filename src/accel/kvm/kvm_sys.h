/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every call of the kernel's KVM, and nothing else. A test that links its own
 * version of these functions sees all calls and can make any of them fail.
 */
#ifndef EYOT_ACCEL_KVM_SYS_H
#define EYOT_ACCEL_KVM_SYS_H

#include <stddef.h>
#include <stdint.h>

/** kvm_sys_open() - open /dev/kvm; the descriptor or -errno */
int kvm_sys_open(void);

/**
 * kvm_sys_call() - an ioctl on /dev/kvm, a VM or a vCPU
 * @arg: as the request wants it, a number or a pointer
 *
 * Not repeated when a signal interrupts it: that is how a vCPU is stopped.
 * Return: what the call returned, or -errno.
 */
int kvm_sys_call(int fd, unsigned long request, uintptr_t arg);

/** kvm_sys_map() - map @size bytes shared with the kernel; NULL on failure, errno says why */
void *kvm_sys_map(int fd, size_t size);
void kvm_sys_unmap(void *area, size_t size);

/** kvm_sys_close() - close a descriptor of these calls; negative ones are fine */
void kvm_sys_close(int fd);

#endif
