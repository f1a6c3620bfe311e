# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share."""
import re


def mib(size):
    units = {'K': 1 / 1024, 'M': 1, 'G': 1024}
    return float(size[:-1]) * units[size[-1].upper()]


def monitor_memory(pid, guest_mib):
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
