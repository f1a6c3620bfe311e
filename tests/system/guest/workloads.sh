#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs inside the guest: Debian's own programs do their work and its results are checked.
cd "$(mktemp -d)" || exit 1

# try NAME COMMAND: the command's last line of output is the reason when it fails
try() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "PASS $name"
	else
		echo "FAIL $name: status $?: $(echo "$output" | tail -n 3 | tr '\n' '|')"
	fi
}

deb() {
	apt-get install -y -q /opt/debs/hello_*.deb && [ "$(hello)" = 'Hello, world!' ] &&
		dpkg -s hello | grep -q 'Status: install ok installed' && apt-get remove -y -q hello &&
		! command -v hello
}

compile() {
	cat > a.c <<'EOF'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
static long count; static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *add(void *arg)
{
	for (int i = 0; i < 100000; i++) {
		pthread_mutex_lock(&lock); count++; pthread_mutex_unlock(&lock);
		__atomic_fetch_add((long *)arg, 2, __ATOMIC_SEQ_CST);
	}
	return NULL;
}
int main(int argc, char **argv)
{
	pthread_t t[4]; long other = 0; double s = 0; long double l = 1;
	for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, add, &other);
	for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
	for (int i = 1; i < 1000; i++) { s += sqrt(i) * sin(i); l = l * 1.001L + cosl(i); }
	printf("%ld %ld %.9f %.12Lf %zu\n", count, other, s, l, sizeof(void *));
	return 0;
}
EOF
	for options in '-O0 -m64' '-O2 -m64' '-O3 -march=native -m64' '-O2 -m64 -static'; do
		gcc $options -o a a.c -lm -lpthread && ./a || return 1
	done > out
	[ "$(cut -d' ' -f1,2,5 out | sort | uniq -c | tr -s ' ')" = ' 4 400000 800000 8' ] || { cat out; return 1; }
}

i386() {
	for options in '-O2 -m32' '-O2 -m32 -static' '-O2 -m32 -msse2 -mfpmath=sse' '-O2 -m32 -march=i686 -mfpmath=387'; do
		gcc $options -o b a.c -lm -lpthread && ./b || return 1
	done > out32
	file b | grep -q 'ELF 32-bit' || { file b; return 1; }
	[ "$(cut -d' ' -f1,2,5 out32 | sort | uniq -c | tr -s ' ')" = ' 4 400000 800000 4' ] || { cat out32; return 1; }
}

# the same sums by the x87 and by SSE, 64 and 32 bits, differ in the last digits at most
same_sums() {
	cut -d' ' -f3 out out32 | awk '
		NR == 1 { first = $1 }
		{ d = $1 - first; if (d < 0) d = -d; if (d > 1e-6) { print; bad = 1 } }
		END { exit bad || NR != 8 }'
}

python() {
	cat > p.py <<'EOF'
import decimal, hashlib, json, math, multiprocessing, random, re, subprocess, threading, zlib
def square(n):
    return n * n
if __name__ == '__main__':
    assert 3 ** 1000 % 1000007 == pow(3, 1000, 1000007)
    assert math.factorial(200) % 199 == 0 and math.isclose(math.gamma(5.5), 52.34277778455352)
    decimal.getcontext().prec = 60
    assert str(decimal.Decimal(2).sqrt()).startswith('1.4142135623730950488016887242096980785696')
    assert hashlib.sha256(b'a' * 1000000).hexdigest() == \
        'cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0'
    data = random.Random(7).randbytes(500000)
    assert zlib.decompress(zlib.compress(data)) == data
    assert sorted(random.Random(1).sample(range(10**6), 50000))[0] >= 0
    with multiprocessing.Pool(4) as pool:
        assert sum(pool.map(square, range(1000))) == 332833500
    assert json.loads(json.dumps({'x': [1.5, None, 'é']})) == {'x': [1.5, None, 'é']}
    assert re.sub(r'(a+)b', r'<\1>', 'aaabab') == '<aaa><a>'
    assert subprocess.run(['true']).returncode == 0
EOF
	python3 p.py
}

ssl() {
	head -c 3000000 /dev/zero > z
	# published digests of a million 'a' and of nothing (FIPS 180-2, RFC 1321)
	[ "$(head -c 1000000 /dev/zero | tr '\0' a | openssl dgst -sha512 -r | cut -c1-32)" = \
		e718483d0ce769644e2e42c7bc15b463 ] || { echo sha512; return 1; }
	[ "$(openssl dgst -sha256 -r < /dev/null | cut -c1-16)" = e3b0c44298fc1c14 ] || { echo sha256; return 1; }
	[ "$(openssl dgst -md5 -r < /dev/null | cut -c1-32)" = d41d8cd98f00b204e9800998ecf8427e ] || { echo md5; return 1; }
	# with the CPU's AES and carry-less product and without: the same bytes
	for cipher in aes-256-cbc aes-128-ctr chacha20; do
		with=$(openssl enc -$cipher -pbkdf2 -S 0011223344556677 -k k -in z | sha256sum)
		without=$(OPENSSL_ia32cap=0 openssl enc -$cipher -pbkdf2 -S 0011223344556677 -k k -in z | sha256sum)
		[ "$with" = "$without" ] || { echo "$cipher differs"; return 1; }
	done
	openssl ecparam -name prime256v1 -genkey -noout -out key && openssl ec -in key -pubout -out pub &&
		openssl dgst -sha256 -sign key -out sig z && openssl dgst -sha256 -verify pub -signature sig z &&
		openssl genrsa -out rsa 2048 && openssl rsa -in rsa -check -noout
}

pack() {
	find /usr/lib/python3* /usr/bin -type f -size -300k | head -n 400 | tar -cf t.tar -T - 2> /dev/null
	for tool in 'gzip -6' 'xz -1' 'zstd -q -3' 'bzip2 -5'; do
		$tool -c t.tar > t.packed && ${tool%% *} -dc t.packed | cmp - t.tar || { echo "$tool"; return 1; }
	done
}

database() {
	[ "$(sqlite3 s.db 'pragma journal_mode=wal; create table t (a, b);
		with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
		insert into t select i, hex(i * 7) from n; create index i on t (b);
		select count(distinct b) from t; pragma integrity_check;' | tr '\n' ' ')" = 'wal 20000 ok ' ]
}

files() {
	fio --name=f --rw=randrw --bs=4k --size=16m --verify=crc32c --ioengine=psync --fsync=32 \
		--directory=/var/tmp --verify_fatal=1 --minimal > fio.log || { tail -n 2 fio.log; return 1; }
	rm -f /var/tmp/f.*
}

try 'apt-get install of a .deb' deb
try 'gcc compiles and the programs run' compile
try 'i386 programs' i386
try 'floating point agrees' same_sums
try 'python3' python
try 'openssl' ssl
try 'compressors' pack
try 'sqlite3' database
try 'fio with verification' files
for stressor in 'cpu' 'vecmath' 'matrix' 'fork' 'mmap' 'futex' 'pipe' 'switch' 'sigsegv' 'timer' \
	'memrate' 'hdd' 'crypt' 'shm' 'atomic' 'vm' 'fault' 'mremap' 'wcs' 'tsc'; do
	extra=
	case $stressor in
	vm) extra='--vm-bytes 48M' ;;
	mmap) extra='--mmap-bytes 32M' ;;
	hdd) extra='--hdd-bytes 16M' ;;
	memrate) extra='--memrate-bytes 16M' ;;
	esac
	try "stress-ng $stressor" stress-ng --quiet --verify --timeout "${STRESS_S:-2}" --temp-path /var/tmp \
		"--$stressor" 2 $extra
done
bad=$(dmesg | grep -E "$BAD_LOG")
[ -z "$bad" ] && echo 'PASS kernel log' || echo "FAIL kernel log: $(echo "$bad" | head -n 4 | tr '\n' '|')"
