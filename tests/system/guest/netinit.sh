#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A guest's whole system for the network test: one card with the address of the kernel command
# line's word net.address, and either a shell or, with net.ping, one answer and power-off.
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /root
hostname eyot
for word in $(cat /proc/cmdline); do
	case $word in
	net.address=*) address=${word#*=} ;;
	net.ping=*) ping=${word#*=} ;;
	esac
done
ip link set lo up
ip link set eth0 up
ip address add "$address" dev eth0
if [ "$ping" ]; then
	ping -c 5 -i 0.2 -w 10 -q "$ping" && echo "ping"ed "$ping"
	/run/eyot/netpeer talk "$ping" 4000 2000000
	echo o > /proc/sysrq-trigger
	sleep 10
fi
export HOME=/root USER=root PATH=/usr/sbin:/usr/bin
cd /root
exec setsid -c bash --noediting < /dev/ttyS0 > /dev/ttyS0 2>&1
