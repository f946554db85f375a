# SPDX-License-Identifier: GPL-2.0
#
# The one list of commands. The work is done by the scripts in scripts/, which can be called by themselves; what is built for the
# kernel is said in Kbuild.

# Everything downloaded and built lies here.
HPKV_BUILD ?= $(CURDIR)/build
override HPKV_BUILD := $(abspath $(HPKV_BUILD))
export HPKV_BUILD

# What kernel builders expect to be able to say; handed on only where it is said, since an empty ARCH is not the same as none.
$(foreach name,KDIR KREL LLVM CROSS_COMPILE ARCH V VMTESTS INSTALL_MOD_PATH DESTDIR PREFIX,$(if $($(name)),$(eval export $(name))))

SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
cargo_out = $(HPKV_BUILD)/cargo/$(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')/release

.PHONY: modules
modules:
	@scripts/build-module

.PHONY: help
help:
	@echo "In a virtual machine (needs nothing of the running kernel; Debian 12 or newer):"
	@echo "  make demo           the main job as a transcript: load, store, switch, unload, load again"
	@echo "  make vm             an interactive shell with the module loaded; Ctrl-D powers off"
	@echo "  make test           all tests: on the host, then in the virtual machine"
	@echo "  make test-host      only the tests on the host"
	@echo "  make test-vm        only the end-to-end tests; TESTS=\"words\" selects by name, VMTESTS=--full runs them in full"
	@echo
	@echo "On this machine (kernel 7.2 or later with CONFIG_RUST):"
	@echo "  make                builds hpkv.ko against the running kernel (KDIR=, KREL=, LLVM=, CROSS_COMPILE=)"
	@echo "  make kernel-tree    prepares the Rust metadata of the running kernel (Debian)"
	@echo "  make install        installs the module, and hpkvctl; then: modprobe hpkv"
	@echo "  make uninstall      removes them"
	@echo "  make unload         unloads the module"
	@echo "  make tools          builds hpkvctl"
	@echo
	@echo "For work on it:"
	@echo "  make lint           formats, clippy, layers, SAFETY comments, generated ABI types"
	@echo "  make format         formats the source"
	@echo "  make vm-module      builds hpkv.ko for the virtual machine's kernel"
	@echo "  make rust-analyzer  writes rust-project.json"
	@echo "  make build-root     the Debian root with the kernel's toolchain; made when needed"
	@echo "  make clean          removes the module and the tools that were built"
	@echo "  make distclean      removes everything that was downloaded and built"
	@echo
	@echo "HPKV_BUILD=$(HPKV_BUILD)"

.PHONY: tools
tools:
	@scripts/build-tools

.PHONY: kernel-tree
kernel-tree:
	@scripts/kernel-tree

.PHONY: host-packages build-root demo
host-packages build-root demo:
	@scripts/$@

.PHONY: vm
vm:
	@scripts/vm-shell

.PHONY: vm-module
vm-module:
	@scripts/build-module --vm

.PHONY: vm-kernel-tree
vm-kernel-tree: build-root
	@scripts/kernel-tree --vm

.PHONY: test
test:
	@scripts/test $(TESTS)

.PHONY: test-host
test-host:
	@scripts/test --host-only

.PHONY: test-vm
test-vm:
	@scripts/test --vm-only $(TESTS)

.PHONY: lint
lint:
	@scripts/lint

.PHONY: format
format:
	@scripts/format

.PHONY: rust-analyzer
rust-analyzer:
	@scripts/rust-analyzer

.PHONY: install
install: modules
	@scripts/install module
	@if [ -x "$(cargo_out)/hpkvctl" ]; then scripts/install tools "$(cargo_out)/hpkvctl"; \
	else echo "hpkv: hpkvctl is not built ('make tools'), so only the module was installed"; fi

.PHONY: uninstall
uninstall:
	@scripts/install remove

.PHONY: unload
unload:
	@if [ -d /sys/module/hpkv ]; then $(SUDO) rmmod hpkv && echo "hpkv: unloaded"; else echo "hpkv: not loaded"; fi

.PHONY: clean
clean:
	rm -rf $(HPKV_BUILD)/module $(HPKV_BUILD)/module-vm $(HPKV_BUILD)/payload $(HPKV_BUILD)/cargo $(HPKV_BUILD)/cargo-lint rust-project.json

.PHONY: distclean
distclean:
	@scripts/distclean
