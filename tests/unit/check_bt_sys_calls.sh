#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: check_bt_sys_calls.sh LIBRARY
# The system part of bt runs while guest vector registers are live in the host's: it may call nothing
# but the translator and the local APIC (and clock_gettime, with the registers parked), and no
# instruction in it may name such a register.
set -eu
dir=$(dirname "$1")
objs=$(find "$dir" -path '*eyot-bt.*' -name 'sys*.c.o')
[ "$(echo "$objs" | wc -l)" -ge 15 ] || { echo "objects of sys*.c not found beside $1"; exit 1; }
calls=$(nm $objs | awk '
	$1 == "U" && $2 !~ /^(_GLOBAL_OFFSET_TABLE_|(bt|sys|lapic|insn)_.*|clock_gettime|err_set)$/ { used[$2] = 1 }
	END { for (s in used) print s }')
[ -z "$calls" ] || { echo "the system part of bt calls:" $calls; exit 1; }
if objdump -d --no-show-raw-insn $objs | grep -E '%([xyz]mm|mm[0-7]|st\b)'; then
	echo "the system part of bt uses vector registers"
	exit 1
fi
