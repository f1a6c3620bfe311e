#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: check_hw_lapic_calls.sh LIBRARY
# lapic.c and lapic_timer.c run while guest vector registers are live in the host's: they may call
# nothing outside themselves, and no instruction in them may name such a register.
set -eu
dir=$(dirname "$1")
objs=$(find "$dir" -path '*eyot-lapic*' \( -name 'lapic.c.o' -o -name 'lapic_timer.c.o' \))
[ "$(echo "$objs" | wc -l)" = 2 ] || { echo "objects of lapic.c and lapic_timer.c not found beside $1"; exit 1; }
calls=$(nm $objs | awk '
	$1 == "U" && $2 != "_GLOBAL_OFFSET_TABLE_" { used[$2] = 1 }
	NF == 3 { defined[$3] = 1 }
	END { for (s in used) if (!(s in defined)) print s }')
[ -z "$calls" ] || { echo "the local APIC calls:" $calls; exit 1; }
if objdump -d --no-show-raw-insn $objs | grep -E '%([xyz]mm|mm|st)'; then
	echo "the local APIC uses vector registers"
	exit 1
fi
