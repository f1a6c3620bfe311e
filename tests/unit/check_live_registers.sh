#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: check_live_registers.sh BT-LIBRARY LAPIC-LIBRARY
# The translator and the interrupt controllers run while guest vector registers are live in the
# host's. They may call each other, and of all else only what is named here: what leaves
# such registers alone, and what is called with the guest's state parked or before and after guests
# run. No instruction in them may name such a register.
set -eu
bt=$(find "$(dirname "$1")" -path '*eyot-bt.*' -name '*.c.o')
lapic=$(find "$(dirname "$2")" -path '*eyot-lapic.*' -name '*.c.o')
[ "$(echo "$bt" | wc -l)" -ge 30 ] || { echo "objects of bt not found beside $1"; exit 1; }
[ "$(echo "$lapic" | wc -l)" -ge 5 ] || { echo "objects of the local APIC not found beside $2"; exit 1; }

# any time: system calls, locks and the clock of glibc, 128-bit division of libgcc. The linker turns
# __tls_get_addr() into an address in a program.
live='syscall|sched_yield|pthread_mutex_(lock|unlock)|clock_gettime|__u?divti3|__tls_get_addr'
for obj in $bt $lapic; do
	case ${obj##*/} in
	# set-up and end, the log, devices: all with the state parked
	accel_bt.c.o) parked='calloc|free|mmap64|munmap|mprotect|madvise|strlen|strstr|strchr|snprintf|log_msg|err_set
		|pthread_mutex_(init|destroy)|timer_delete|snap_.*' ;;
	signals.c.o) parked='getauxval|pthread_sigmask|sigaction|signal|sigemptyset|sigaddset|__libc_current_sigrtmin
		|timer_(create|delete)' ;;
	run.c.o | mmu.c.o) parked='bus_(read|write)' ;;
	window.c.o) parked='mmap64|munmap|getauxval|log_msg' ;;
	cache.c.o) parked='mmap64|munmap|err_set' ;;
	sys.c.o) parked='log_msg|snprintf' ;; # the log of unsupported instructions
	sys_cpuid.c.o) parked='err_set' ;;
	lapic_state.c.o) parked='.*' ;; # saving and loading alone
	ioapic.c.o | pic.c.o) parked='calloc|free|memset|err_set|bus_(add|del)|snap_.*|pthread_mutex_(init|destroy)' ;;
	*) parked='-' ;;
	esac
	nm "$obj" | awk -v obj="${obj##*/}" -v ok="^($live|$(echo "$parked" | tr -d '\n\t')|_GLOBAL_OFFSET_TABLE_)\$" '
		$1 == "U" && $2 !~ ok { print "U", $2, obj }
		NF == 3 { print "D", $3, obj }'
done | awk '
	$1 == "D" { defined[$2] = 1 }
	$1 == "U" { by[$2] = by[$2] " " $3; count++ }
	END {
		if (!count) { print "nothing is called: nm failed"; exit 1 }
		for (s in by) if (!(s in defined)) { print "call of " s " by" by[s]; bad = 1 }
		exit bad
	}'
if objdump -d --no-show-raw-insn $bt $lapic | grep -E '%([xyz]mm|mm[0-7]|st\b)'; then
	echo "vector registers are used"
	exit 1
fi
