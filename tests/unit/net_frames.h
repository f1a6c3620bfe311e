/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that tests send. */
#ifndef EYOT_TESTS_NET_FRAMES_H
#define EYOT_TESTS_NET_FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/util.h"

#define ETH 14

/* A TCP segment with its Ethernet and IP headers in @f. Return: its length in bytes. */
static inline size_t tcp_frame(uint8_t *f, bool v6, bool vlan, size_t payload)
{
	size_t l3 = ETH + (vlan ? 4 : 0), l4 = l3 + (v6 ? 40 : 24), head = l4 + 24;

	memset(f, 0, head);
	for (size_t i = 0; i < payload; i++)
		f[head + i] = (uint8_t)(i * 5 + i / 251);
	if (vlan) {
		f[12] = 0x81;
		f[15] = 5;
	}
	f[l3 - 2] = v6 ? 0x86 : 0x08;
	f[l3 - 1] = v6 ? 0xdd : 0x00;
	f[l3] = v6 ? 0x60 : 0x46; /* IPv4 with options */
	if (v6) {
		f[l3 + 6] = 6;
		f[l3 + 8] = 0xfe;
		f[l3 + 39] = 7;
	} else {
		f[l3 + 5] = 0xff; /* identification: one before it wraps in its low byte */
		f[l3 + 8] = 64;
		f[l3 + 9] = 6;
		f[l3 + 12] = 10;
		f[l3 + 19] = 9;
	}
	f[l4 + 4] = f[l4 + 5] = f[l4 + 6] = 0xff; /* sequence number: wraps */
	f[l4 + 12] = 6 << 4;
	f[l4 + 13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR, ACK, PSH, FIN */
	f[l4 + 16] = 0xab;			/* a checksum that is nothing */
	return head + payload;
}

#endif
