# lib.sh - the checks of all test scripts; source it first: . tests/lib.sh
#
# $t is a directory of the script's own, removed at exit.  A check prints "ok NAME" or "not ok NAME: why"; stdout and
# stderr of the command it ran are in $t/out.txt and $t/err.  Names that begin with _ are this file's, all others the script's.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
set -u
# What the caller has set: messages are compared in English, commands are words of a variable, a job's variables make programs wait
export LC_ALL=C
unset CDPATH RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT
case ${TMPDIR:-} in *[!A-Za-z0-9/._+-]*) TMPDIR=/tmp ;; esac
t=$(mktemp -d) && t=$(cd "$t" && pwd -P) && trap 'rm -rf "$t"' EXIT || exit 1

ok() { echo "ok $1"; }
no() { echo "not ok $1: $2"; }
# same NAME GOT EXPECTED
same() { if [ "$2" = "$3" ]; then ok "$1"; else no "$1" "got '$2', expected '$3'"; fi; }
# alike NAME FILE FILE: the same bytes
alike() { if cmp -s "$2" "$3"; then ok "$1"; else no "$1" "$2 and $3 differ"; fi; }
# works NAME COMMAND...: exit code 0
works() {
	_name=$1
	shift
	if "$@" >"$t/out.txt" 2>"$t/err" </dev/null; then ok "$_name"; else no "$_name" "exit code $?: $(tail -n 3 "$t/out.txt" "$t/err")"; fi
}
# fails NAME CODE TEXT COMMAND...: that exit code, one line on stderr that contains TEXT, and nothing at $t/bad or $t/bad.*
fails() {
	_name=$1 _code=$2 _text=$3
	shift 3
	rm -rf "$t/bad" "$t"/bad.*
	"$@" >"$t/out.txt" 2>"$t/err" </dev/null
	_rc=$?
	if [ $_rc -ne "$_code" ]; then no "$_name" "exit code $_rc, expected $_code: $(cat "$t/err")"
	elif [ "$(wc -l <"$t/err")" -ne 1 ]; then no "$_name" "not one line on stderr: $(cat "$t/err")"
	elif ! grep -q -F -- "$_text" "$t/err"; then no "$_name" "no '$_text' in: $(cat "$t/err")"
	elif [ -n "$(find "$t" -maxdepth 1 -name 'bad' -o -maxdepth 1 -name 'bad.*')" ]; then no "$_name" "left an output behind"
	else ok "$_name"; fi
}

faults=$PWD/tests/fault/preload.c
# shim: builds it once, as $preload; sanitizers let it come before them
shim() {
	[ -z "${preload:-}" ] || return 0
	preload=$t/.preload.so ASAN_OPTIONS="${ASAN_OPTIONS:-}:verify_asan_link_order=0"
	export ASAN_OPTIONS
	# shellcheck disable=SC2086 # CC may be two words
	${CC:-cc} -D_GNU_SOURCE -O1 -Wall -Wextra -shared -fPIC -o "$preload" "$faults" -ldl -pthread || no shim "does not build"
}
# upon CALL NUMBER NAME SIGNAL COMMAND...: the command sends itself SIGNAL (KILL, TERM, USR1, USR2, STOP) as soon as it has
# made its NUMBERth CALL (write, fsync, rename, mkdir, open) of a path that ends with NAME.  No clock decides, so it is the same
# moment on machines of any speed.  -KILL: to a process group that the command gets; kill: in place of the call, of which a
# write is half done.  Exit code of the command, 137 after KILL
upon() {
	shim
	(
		export FAULT_CALL="$1" FAULT_AT="$2" FAULT_NAME="$3" FAULT="$4" LD_PRELOAD="$preload${LD_PRELOAD:+:$LD_PRELOAD}"
		shift 4
		case $FAULT in -*) exec setsid "$@" ;; esac
		"$@"
	) 2>"$t/err" &
	wait $! || { _rc=$? && gone $! && return $_rc; }
}
# gone PID: waits for the other members of its process group, which die a little later (5 s: a zombie may stay for good)
gone() {
	for _ in $(seq 250); do
		kill -s 0 -- "-$1" 2>/dev/null || return 0
		sleep 0.02
	done
}
# patiently COMMAND...: with processes that wait 2 s for each other, 20 where the machine is too slow for that, then 90; until it is true
patiently() {
	for ADZE_COMM_TIMEOUT in 2 20 90; do
		export ADZE_COMM_TIMEOUT
		if "$@"; then return 0; fi
	done
	return 1
}
# within DIR NUMBER FAULT COMMAND...: the same at the NUMBERth change of any kind below DIR; FAULT is also error, a disk full from
# then on, and log, which writes the changes to $t/log
within() {
	shim
	(
		export FAULT_DIR="$1" FAULT_AT="$2" FAULT="$3" FAULT_LOG="$t/log" LD_PRELOAD="$preload${LD_PRELOAD:+:$LD_PRELOAD}"
		shift 3
		"$@"
	) 2>"$t/err"
}
