# SPDX-License-Identifier: Apache-2.0
# The short way in; meson does the work. Every target installs the Debian packages it
# misses (packages.txt). V=1 shows the commands of the build.

BUILD ?= build
MESON_FLAGS ?=
PYTHON := /usr/bin/python3

.PHONY: all build run test test-kvm bench bench-kvm bench-api check-style asan clean distclean help

all: build

help:
	@echo 'make             build'
	@echo "make run         boot a Debian virtual machine; CMD='uname -a' runs that command in it"
	@echo 'make test        every test; TESTS="unit guest fuzz system" selects'
	@echo 'make test-kvm    all that is tested of KVM, on an emulated host that has it; make test does most of it'
	@echo 'make bench       compare with QEMU TCG and with the host; BENCH="--quick" and other options'
	@echo 'make bench-kvm   compare with QEMU on KVM; BENCH="--rounds 5" and other options'
	@echo 'make bench-api   the manager with 20 000 stored instances'
	@echo 'make asan        the tests with sanitizers alone (address, undefined behaviour, threads)'
	@echo 'make check-style formatting and the folder rule'
	@echo 'make clean       remove the build; make distclean: the cached guest disks as well'

$(BUILD)/build.ninja:
	@tools/install-packages build
	@meson setup $(BUILD) $(MESON_FLAGS) >&2

build: $(BUILD)/build.ninja
	@tools/install-packages build
	@ninja -C $(BUILD) $(if $(V),-v)

# With CMD or with a standard input that is no terminal, standard output holds what the
# command prints and nothing else: so the build reports on standard error. Status 10: the
# user left the shell by the key for it.
run: $(BUILD)/build.ninja
	@tools/install-packages build
	@ninja -C $(BUILD) src/monitor/eyot-vmm tools/guest/eyot-init tools/guest/eyot-agent >&2
	@tools/install-packages run
	@tools/run --build $(BUILD) $(if $(CMD),-- sh -c "$$CMD") || { status=$$?; \
		[ $$status -eq 10 ] && [ -z "$$CMD" ] && [ -t 0 ] && echo >&2 || exit $$status; }
export CMD

test: build
	@tools/install-packages run test
	-@tools/guest-image --flavour run >/dev/null && tools/guest-image --flavour test >/dev/null
	@tests/run --build $(BUILD) $(TESTS)

bench: build
	@tools/install-packages run bench
	@bench/run --build $(BUILD) $(BENCH)

# On any machine: QEMU emulates one that has hardware virtualisation (tools/nested-host).
test-kvm: build
	@tools/install-packages run test
	@KVM_CASES=all tests/run --build $(BUILD) system kvm

bench-kvm: build
	@tools/install-packages run bench
	@bench/kvm --build $(BUILD) $(BENCH)

bench-api: build
	@bench/api --build $(BUILD) --json $(BUILD)/bench-api.json

check-style:
	@tools/install-packages style
	@tools/check-includes
	@tools/check-style

# The builds with sanitizers and what is run with them; part of `make test`.
asan: build
	@tools/install-packages run test
	@tests/run --build $(BUILD) sanitizers

clean:
	@rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan

distclean: clean
	@tools/guest-image --forget
