# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: the guest disk, a monitor with its console, results."""
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

SOURCE = os.environ.get('EYOT_SOURCE') or os.path.realpath(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
BUILD = os.environ.get('EYOT_BUILD') or os.path.join(SOURCE, 'build')
VMM = os.path.realpath(os.environ.get('EYOT_VMM') or os.path.join(BUILD, 'src/monitor/eyot-vmm'))
TMP = os.environ.get('TEST_TMP') or os.path.join(BUILD, 'test-tmp', 'by-hand')
IS_EYOT = os.path.basename(VMM) == 'eyot-vmm'
PROMPT = 'root@eyot:'

# What no healthy guest has in its kernel log.
BAD_LOG = re.compile(r'WARNING:|BUG:|Oops|soft lockup|hard LOCKUP|hung_task|blocked for more than|'
                     r'rcu.*(stall|detected)|Call Trace|general protection|segfault|trap .* ip:|'
                     r'unchecked MSR|nobody cared|I/O error|EXT4-fs error|EXT4-fs warning|'
                     r'Kernel panic|ACPI (BIOS )?Error|ACPI (BIOS )?Warning|Firmware Bug|'
                     r'\[Firmware Bug\]|clocksource: .*unstable|Marking clocksource|'
                     r'failed to .*calibrate|mce: |Spurious|out of memory|Out of memory')

os.makedirs(TMP, exist_ok=True)
failed = 0


def passed(name):
    print(f'PASS {name}', flush=True)


def fail(name, why):
    global failed
    failed += 1
    print(f'FAIL {name}: {why}', flush=True)


def skip(name, why):
    print(f'SKIP {name}: {why}', flush=True)


def check(name, good, why):
    if good:
        passed(name)
    else:
        fail(name, why)
    return good


def end():
    sys.exit(1 if failed else 0)


if not os.access(VMM, os.X_OK):
    fail('monitor', f'{VMM}: no such program; run make first')
    sys.exit(1)


def guest_folder(flavour='test'):
    made = subprocess.run([os.path.join(SOURCE, 'tools/guest-image'), '--flavour', flavour],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        print(f'FAIL guest disk: tools/guest-image left with status {made.returncode}', flush=True)
        sys.exit(1)
    return made.stdout.strip()


def make_initrd(folder, kernel='cloud', name='initrd', **files):
    """the small initial RAM disk; files: NAME=path, found in the guest as /run/eyot/NAME"""
    path = os.path.join(TMP, name)
    subprocess.run([os.path.join(SOURCE, 'tools/guest-initrd'), path,
                    os.path.join(folder, 'modules-' + kernel),
                    os.path.join(BUILD, 'tools/guest/eyot-init'),
                    *(f'{k}={v}' for k, v in files.items())], check=True)
    return path


def copy_disk(source, name):
    path = os.path.join(TMP, name)
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', source, path], check=True)
    return path


def scratch_disk(name, size):
    path = os.path.join(TMP, name)
    with open(path, 'wb') as f:
        f.truncate(size)
    return path


class Ended(Exception):
    """the monitor ended, or time was up, before what was waited for"""


class Monitor:
    """a running eyot-vmm and its console"""

    def __init__(self, *argv, log='console.log'):
        self.text = ''
        self.errors_path = os.path.join(TMP, log + '.err')
        self.log = open(os.path.join(TMP, log), 'wb')
        with open(self.errors_path, 'wb') as errors:
            self.proc = subprocess.Popen([VMM, *argv], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def errors(self):
        with open(self.errors_path, encoding='utf-8', errors='replace') as f:
            return f.read()

    def read(self, deadline):
        left = deadline - time.monotonic()
        fd = self.proc.stdout.fileno()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        data = os.read(fd, 65536)
        self.log.write(data)
        self.log.flush()
        self.text += data.decode('utf-8', 'replace').replace('\r', '')
        return data

    def expect(self, pattern, timeout):
        """wait for a regular expression on the console; returns its match, drops what is before"""
        deadline = time.monotonic() + timeout
        while True:
            m = re.search(pattern, self.text)
            if m:
                self.text = self.text[m.end():]
                return m
            data = self.read(deadline)
            if data is None:
                raise Ended(f'no /{pattern}/ within {timeout} s; the console ends with '
                            f'{self.text[-300:]!r}')
            if not data:
                self.proc.wait()
                raise Ended(f'the monitor ended (status {self.proc.returncode}, '
                            f'{self.errors().strip()[-300:]!r}) before /{pattern}/; the console '
                            f'ends with {self.text[-300:]!r}')

    def send(self, line):
        self.proc.stdin.write(line.encode() + b'\n')
        self.proc.stdin.flush()

    def login(self, timeout):
        """wait for the shell that logs in by itself; keep the kernel and line editing quiet"""
        self.expect(PROMPT, timeout)
        self.send('dmesg -n 1; exec bash --noediting')
        self.expect('--noediting', 20)
        self.expect(PROMPT, 20)

    def command(self, line, timeout=60):
        """run a line in the guest's shell at its prompt: (status, output)"""
        self.send(f"{line}; printf 'end''-of-command %d\\n' $?")
        m = self.expect(r'(?s)^(.*?)end-of-command (\d+)\n', timeout)
        output = m.group(1)
        self.expect(PROMPT, 20)
        at = output.find('$?\n')
        return int(m.group(2)), output[at + 3:] if at >= 0 else output

    def wait_end(self, timeout):
        """read the console to its end; the monitor's exit status, None when time was up"""
        deadline = time.monotonic() + timeout
        while True:
            data = self.read(deadline)
            if data is None:
                return None
            if not data:
                break
        try:
            return self.proc.wait(max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None

    def kill(self, sig=signal.SIGKILL):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
            self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.log.close()
        refused = re.findall(r'sandbox: refused.*', self.errors())
        if refused: # a call without annotation, see tools/sandbox-lists
            fail('no system call of the monitor is refused', refused[0])


def ctl(path, *words, timeout=120):
    """`eyot-vmm ctl` at a control socket: (status, output, errors)"""
    p = subprocess.run([VMM, 'ctl', path, *words], stdin=subprocess.DEVNULL, timeout=timeout,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return p.returncode, p.stdout, p.stderr


def wait_for(line):
    """a line for the guest's shell that waits until another one succeeds, once"""
    return f'for i in $(seq 100); do {line} && break; sleep 0.1; false; done'


def vsock_dial(path, port):
    """a connection to the guest's port; None: refused"""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    s.sendall(b'CONNECT %d\n' % port)
    line = b''
    while not line.endswith(b'\n'):
        data = s.recv(1)
        if not data:
            s.close()
            return None
        line += data
    return s if line.startswith(b'OK ') else None


def vsock_echo(path, port, data):
    """whether the guest sends @data back, whole, and then closes"""
    s = vsock_dial(path, port)
    if not s:
        return False

    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    digest = hashlib.sha256()
    while True:
        got = s.recv(1 << 16)
        if not got:
            break
        digest.update(got)
    sender.join()
    s.close()
    return digest.digest() == hashlib.sha256(data).digest()


def machine_pid(pid):
    """the process with the guest in it: below the one that was started when there is a sandbox"""
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        return int((f.read().split() or [pid])[0])


def bad_lines(log, ignore=()):
    return [line for line in log.splitlines()
            if BAD_LOG.search(line) and not any(re.search(i, line) for i in ignore)]


def tidy(*paths):
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.exists(path):
            os.remove(path)
