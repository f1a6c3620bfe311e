# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share."""
import json
import os
import re
import statistics


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


def io_options(parser, source):
    """what bench/disk, bench/net and bench/share have in common"""
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--on', default='eyot,qemu')
    parser.add_argument('--json')
    parser.add_argument('--build', default=os.path.join(source, 'build'))


def io_rows(figures):
    """figures {(name, unit): {machine: [samples]}} as rows, medians and by how much eyot is better among them"""
    rows = []
    for (name, unit), values in figures.items():
        eyot, qemu = (statistics.median(values[w]) if w in values else None for w in ('eyot', 'qemu'))
        better = (qemu / eyot if unit == 'us' else eyot / qemu) if eyot and qemu else None
        rows.append({'name': name, 'unit': unit, 'eyot': eyot, 'qemu': qemu, 'better': better, 'samples': values})
    return rows


def io_table(rows):
    width = max([len(r['name']) for r in rows] + [8])
    print(f'{"":{width}} {"":8} {"eyot":>9} {"qemu":>9}   better by')
    for r in rows:
        cells = [f'{r[w]:9.0f}' if r[w] else f'{"-":>9}' for w in ('eyot', 'qemu')]
        better = f'{r["better"]:.2f}' if r['better'] else '-'
        print(f'{r["name"]:{width}} {r["unit"]:8} {cells[0]} {cells[1]}   {better:>9}')


def io_report(figures, path):
    rows = io_rows(figures)
    if path:
        with open(path, 'w', encoding='utf-8') as f:
            json.dump(rows, f, indent=1)
    io_table(rows)
