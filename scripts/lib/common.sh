# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the shell scripts beside this folder: where things lie, how they speak to the person waiting, and how they
# become root. Messages go to stderr, so that a script's stdout is its result and nothing else.

set -euo pipefail

HPKV_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
HPKV_BUILD=${HPKV_BUILD:-$HPKV_SRC/build}
mkdir -p "$HPKV_BUILD/logs" "$HPKV_BUILD/tmp"
HPKV_BUILD=$(cd "$HPKV_BUILD" && pwd -P)
export HPKV_SRC HPKV_BUILD
# Where make is our caller, its flags and job server are not meant for the kernel's build below us.
unset MAKEFLAGS MFLAGS MAKELEVEL

# The oldest kernel whose Rust interfaces the module is written for.
KERNEL_MIN=7.2

JOBS=${JOBS:-$(nproc)}

say() { printf 'hpkv: %s\n' "$*" >&2; }
warn() { printf 'hpkv: warning: %s\n' "$*" >&2; }
die() { printf 'hpkv: error: %s\n' "$*" >&2; exit 1; }

# as_root COMMAND...: runs it as root, by sudo where we are not root already. The environment that the network needs goes along.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo --preserve-env=http_proxy,https_proxy,no_proxy,HPKV_BUILD,HPKV_MIRROR,HPKV_SUITE -- "$@"
	else
		die "this needs root ('$1'), and there is no sudo: run it as root"
	fi
}

# ask_for_root: lets sudo ask for its password now, while the person can see it, and not behind a log file.
ask_for_root() { as_root true; }

# run_logged NAME COMMAND...: output goes to logs/NAME.log; every ten seconds a line tells how far it is; a failure shows
# the end of the log. The command is a child that ends with us.
run_logged() {
	local name=$1 log=$HPKV_BUILD/logs/$1.log start=$SECONDS next=10 child status=0
	shift
	"$@" >"$log" 2>&1 </dev/null &
	child=$!
	trap 'kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; exit 130' INT TERM
	while kill -0 "$child" 2>/dev/null; do
		sleep 0.2
		if [ $((SECONDS - start)) -ge "$next" ]; then
			say "  $name: $((SECONDS - start)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c 1-90)"
			next=$((next + 10))
		fi
	done
	wait "$child" || status=$?
	trap - INT TERM
	if [ "$status" != 0 ]; then
		tail -n 40 "$log" >&2
		die "$name failed with status $status after $((SECONDS - start)) s; the whole log: $log"
	fi
	say "  $name: done in $((SECONDS - start)) s"
}

# run_child COMMAND...: like calling it, but a signal that ends us ends it too, at once.
run_child() {
	local child status=0
	"$@" <&0 &
	child=$!
	trap 'kill "$child" 2>/dev/null; wait "$child"; exit 143' INT TERM HUP
	wait "$child" || status=$?
	trap - INT TERM HUP
	return "$status"
}

# version_at_least HAVE WANT: compares as dpkg and sort -V do.
version_at_least() {
	[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# with_lock NAME: from here to the end of the script no other one holds the lock of that name.
with_lock() {
	exec 9>"$HPKV_BUILD/$1.lock"
	if ! flock --nonblock 9; then
		say "waiting for another run that holds $HPKV_BUILD/$1.lock"
		flock 9
	fi
}

# apt_release_expired DIR: tells whether some Release file in the host's apt lists is past its Valid-Until.
apt_release_expired() {
	local file until
	for file in "$1"/*Release; do
		[ -f "$file" ] || continue
		until=$(sed -n 's/^Valid-Until: //p' "$file" | head -n 1)
		[ -n "$until" ] || continue
		[ "$(date -d "$until" +%s)" -ge "$(date +%s)" ] || return 0
	done
	return 1
}

# build_root_release: the kernel release in the build root.
build_root_release() {
	cat "$HPKV_BUILD/root.release" 2>/dev/null || die "there is no build root in $HPKV_BUILD: run 'make build-root'"
}
