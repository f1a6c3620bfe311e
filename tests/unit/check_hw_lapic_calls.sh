#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: check_hw_lapic_calls.sh LIBRARY
# lapic.c runs while guest vector registers are live in the host's: it may call nothing outside itself,
# and no instruction in it may name such a register.
set -eu
dir=$(dirname "$1")
obj=$(find "$dir" -name 'lapic.c.o' -path '*eyot-lapic*' | head -n 1)
[ -n "$obj" ] || { echo "no object of lapic.c beside $1"; exit 1; }
calls=$(nm -u "$obj" | awk '$2 != "_GLOBAL_OFFSET_TABLE_" { print $2 }')
[ -z "$calls" ] || { echo "lapic.c calls:" $calls; exit 1; }
objdump -d --no-show-raw-insn "$obj" | grep -E '%([xyz]mm|mm|st)' && { echo "lapic.c uses vector registers"; exit 1; }
exit 0
