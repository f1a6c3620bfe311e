/* SPDX-License-Identifier: Apache-2.0 */
/* Captures in the classic libpcap format, for tcpdump and Wireshark. Any thread. */
#ifndef EYOT_NET_PCAP_H
#define EYOT_NET_PCAP_H

#include <stddef.h>
#include <sys/uio.h>

#include "base/err.h"

struct net_pcap;

/** net_pcap_open() - begin the capture @path, emptied first */
int net_pcap_open(const char *path, struct net_pcap **ret_pcap, struct err *err);

/** net_pcap_write() - add a frame of @len bytes, the first of @iov; NULL: do nothing */
void net_pcap_write(struct net_pcap *pcap, const struct iovec *iov, unsigned count, size_t len);

void net_pcap_close(struct net_pcap *pcap);

#endif
