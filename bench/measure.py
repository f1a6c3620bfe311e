# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share."""
import os
import re


def mib(size):
    units = {'K': 1 / 1024, 'M': 1, 'G': 1024}
    return float(size[:-1]) * units[size[-1].upper()]


def children(pid):
    out = []
    try:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/children', encoding='ascii') as f:
                out += [int(c) for c in f.read().split()]
    except OSError:
        pass
    return out


def tree(pid):
    """a process and all below it: eyot-vmm is several"""
    return [pid] + [p for child in children(pid) for p in tree(child)]


def monitor_memory(pid, guest_mib):
    """memory_of() the processes of a monitor; None when it cannot be seen"""
    parts = [memory_of(p, guest_mib) for p in tree(pid)]
    return None if None in parts else sum(parts)


def memory_of(pid, guest_mib):
    """Pss in MiB of what is not guest memory: no memfd, no mapping about as large as it"""
    total = 0
    keep = True
    try:
        with open(f'/proc/{pid}/smaps', encoding='utf-8', errors='replace') as f:
            for line in f:
                m = re.match(r'([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)', line)
                if m:
                    size = (int(m.group(2), 16) - int(m.group(1), 16)) / 2**20
                    keep = not (m.group(3).startswith('/memfd:') or
                                (not m.group(3) and size >= guest_mib * 0.9))
                elif keep and line.startswith('Pss:'):
                    total += int(line.split()[1]) / 1024
    except OSError:
        return None
    return total
