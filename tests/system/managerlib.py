# SPDX-License-Identifier: Apache-2.0
"""What the tests of eyotd share: a daemon in a folder of its own, requests whose answers are held against
docs/api/openapi.yaml, commands through the guest's agent."""
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse

import guestlib as g

try:
    import jsonschema
    import yaml
except ImportError as e:
    g.skip('manager', f'python3-{e.name} is not installed')
    sys.exit(77)

EYOTD = os.path.join(g.BUILD, 'src/manager/eyotd')
DOCUMENT = os.path.join(g.SOURCE, 'docs/api/openapi.yaml')


class Document:
    """the OpenAPI document: which operation a request is, and whether an answer is one of its"""

    def __init__(self):
        with open(DOCUMENT, encoding='utf-8') as f:
            self.doc = yaml.safe_load(f)
        self.operations = {}
        for path, item in self.doc['paths'].items():
            pattern = re.sub(r'\\\{image\\\}', '(.+)', re.escape(path))
            pattern = re.compile(re.sub(r'\\\{[a-z]+\\\}', '([^/]+)', pattern) + r'\Z', re.S)
            for method in ('get', 'post', 'patch', 'delete'):
                if method in item:
                    self.operations[method.upper(), path] = (pattern, item[method])
        self.seen = set()  # (operationId, status)

    def resolve(self, node):
        while '$ref' in node:
            target = self.doc
            for part in node['$ref'][2:].split('/'):
                target = target[part]
            node = target
        return node

    def find(self, method, path):
        path = urllib.parse.unquote(path)
        return next((op for (m, _), (pattern, op) in self.operations.items()
                     if m == method and pattern.match(path)), None)

    def schema(self, schema):
        return dict(schema, components=self.doc['components'])

    def check(self, method, path, status, kind, body):
        """what is wrong with an answer; None: nothing"""
        op = self.find(method, path)
        if op is None:
            return None if status in (404, 405) else f'{method} {path} is in no document'
        self.seen.add((op['operationId'], status))
        answer = op['responses'].get(str(status)) or op['responses'].get('default')
        if str(status) not in op['responses'] and status < 400:
            return f'status {status} is not in the document'
        content = self.resolve(answer).get('content')
        if content is None:
            return 'a body where none is documented' if body else None
        media = (kind or '').split(';')[0]
        if media not in content:
            return f'content type {kind!r} is not in the document'
        if media.endswith('json'):
            try:
                jsonschema.Draft202012Validator(self.schema(content[media]['schema'])).validate(json.loads(body))
            except (jsonschema.ValidationError, ValueError) as e:
                return f'{str(e).splitlines()[0]} at {list(getattr(e, "absolute_path", []))}'
        return None


document = Document()
wrong = []  # answers that are not as documented


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=120):
        super().__init__('eyot', timeout=timeout)
        self.unix_path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Answer:
    def __init__(self, status, headers, data):
        self.status, self.headers, self.data = status, headers, data
        try:
            self.json = json.loads(data)
        except ValueError:
            self.json = None

    @property
    def code(self):
        return self.json.get('code') if isinstance(self.json, dict) else None

    def __repr__(self):
        return f'{self.status} {self.data[:400]!r}'


class Daemon:
    """an eyotd of a test's own"""

    def __init__(self, *options, name='eyotd'):
        self.data = os.path.join(g.TMP, name + '-data')
        # a socket's path has little room
        self.run = f'/tmp/eyot-test-{os.getpid()}-{name}'
        self.socket = os.path.join(self.run, 'eyotd.sock')
        self.options = options
        self.log = open(os.path.join(g.TMP, name + '.log'), 'ab')
        self.proc = None
        self.connection = None
        self.pids = set()

    def start(self, wait=20):
        ready, end = os.pipe()
        self.proc = subprocess.Popen([EYOTD, '--data', self.data, '--run', self.run, '--ready-fd', str(end),
                                      *self.options], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     pass_fds=[end])
        os.close(end)
        with os.fdopen(ready) as f:
            f.read()
        if not os.path.exists(self.socket):
            raise g.Ended(f'eyotd ended with status {self.proc.wait(wait)}')
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        """machines first: what a test leaves is ended"""
        try:
            if self.proc.poll() is not None:
                self.start()
            for inst in self.call('GET', '/v1/instances').json['items']:
                self.call('DELETE', f"/v1/instances/{inst['id']}?force=true&wait=20&project={inst['project']}")
        except (OSError, g.Ended, http.client.HTTPException) as e:
            g.fail('tidy up', repr(e))
        self.stop()
        self.log.close()
        subprocess.run(['rm', '-rf', self.run])

    def stop(self, sig=signal.SIGTERM):
        self.drop()
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        return self.proc.wait(20)

    def drop(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def call(self, method, path, body=None, headers=None, raw=None):
        """one request; its answer is held against the document"""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        for again in (True, False):
            try:
                if not self.connection:
                    self.connection = Connection(self.socket)
                self.connection.request(method, path, data, headers or {})
                response = self.connection.getresponse()
                answer = Answer(response.status, response.headers, response.read())
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.drop()
                if not again:
                    raise
        problem = document.check(method, path.split('?')[0], answer.status, answer.headers['Content-Type'],
                                 answer.data)
        if problem:
            wrong.append(f'{method} {path}: {answer.status}: {problem}')
        return answer

    def get(self, path):
        return self.call('GET', path).json

    def job(self, method, path, body=None, wait=60):
        """a request whose job is waited for; the job"""
        mark = '&' if '?' in path else '?'
        answer = self.call(method, f'{path}{mark}wait={wait}', body)
        if answer.status not in (200, 202):
            raise g.Ended(f'{method} {path}: {answer!r}')
        return answer.json

    def done(self, name, method, path, body=None, wait=60):
        """a job that ends well; its result"""
        job = self.job(method, path, body, wait)
        g.check(name, job['state'] == 'done', job)
        return job['result']

    def instance(self, name):
        return self.get('/v1/instances/' + name)

    def wait_state(self, name, *states, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            inst = self.instance(name)
            if inst.get('state') in states:
                return inst
            time.sleep(0.05)
        raise g.Ended(f"instance {name} is {inst.get('state')}, not {'/'.join(states)}, after {timeout} s")

    # ---- the guest's agent ----

    def agent(self, name, timeout=60):
        """a connection to it, as soon as it listens"""
        ends = self.get(f'/v1/instances/{name}/endpoints')
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(timeout)
            try:
                s.connect(ends['vsock'])
                s.sendall(b'CONNECT %d\n' % ends['agent_port'])
                line = b''
                while not line.endswith(b'\n'):
                    byte = s.recv(1)
                    if not byte:
                        raise OSError('closed')
                    line += byte
                if line.startswith(b'OK '):
                    return s
            except OSError:
                pass
            s.close()
            time.sleep(0.1)
        raise g.Ended(f'no agent in {name} after {timeout} s')

    def exec(self, name, *argv, stdin=b'', user='', folder='', env=(), flags=0, timeout=60):
        """run a command: (status, output, errors)"""
        with self.agent(name, timeout) as s:
            words = lambda list_: struct.pack('<H', len(list_)) + b''.join(w.encode() + b'\0' for w in list_)
            send_frame(s, b'x', struct.pack('<BBHH', 1, flags, 24, 80) + user.encode() + b'\0' +
                       folder.encode() + b'\0' + words(list(env)) + words(list(argv)))
            out, errors = b'', b''
            room = 65536
            while True:
                while stdin is not None and room and (stdin or room == 65536):
                    part, stdin = stdin[:min(room, 32768)], stdin[min(room, 32768):]
                    send_frame(s, b'i', part)
                    room -= len(part)
                    if not part:
                        stdin = None
                kind, data = receive_frame(s)
                if kind == b'o':
                    out += data
                elif kind == b'e':
                    errors += data
                elif kind == b'a':
                    room += struct.unpack('<I', data)[0]
                elif kind == b's':
                    return data[0], out.decode(), errors.decode()
                elif kind == b'E':
                    return data[0], '', data[1:].decode()


def send_frame(s, kind, data):
    s.sendall(kind + struct.pack('<I', len(data)) + data)


def receive_exact(s, n):
    data = b''
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise g.Ended('the agent has closed the connection')
        data += more
    return data


def receive_frame(s):
    head = receive_exact(s, 5)
    return head[:1], receive_exact(s, struct.unpack('<I', head[1:])[0])


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def machines(run):
    """processes of eyot-vmm whose sockets are below a folder"""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                if f'path={run}/i/'.encode() in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found
