#!/bin/bash
# shellcheck disable=SC2034
#
# run.sh - run benchmarks.  See usage() below, and README.md for what each
# measures and how to read it.
# (2034: variables set here are for the benchmarks)

set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$SOURCE_DIR/bench/lib.sh"

ALL=(emit capture commit latency seal read)

# 0: the benchmark's own choice
ROUNDS=0
EVENTS=0
SECONDS_PER_ROUND=8
QUICK=0
NAMES=()

usage()
{
	cat <<USAGE
usage: bench/run.sh [OPTION]... NAME...

Builds the extension as users do (-O2, no assertions) and runs benchmarks on
throw-away servers. NAME is ${ALL[*]} or all.
As root, installs the packages that are missing.

  --quick        fewer rounds and events: is it about right?
  --rounds N     rounds of each comparison (the figure is their median)
  --events N     events of emit (in a round), seal (in a round) and read
  --seconds N    length of a round of commit and latency (default 8)
  --keep         keep the directory with the servers' logs
  -h, --help     this

Environment: COPT (more compiler flags), PG_MAJOR or PG_CONFIG (which
PostgreSQL), TMPDIR (where the servers' data goes).

The last line is "N passed, N missed"; the status tells whether all passed.
USAGE
}

# number OPTION VALUE: a positive whole one.
number()
{
	[[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "$1 takes a positive number"
	printf '%s\n' "$2"
}

parse_arguments()
{
	while [ $# -gt 0 ]; do
		case $1 in
			--quick) QUICK=1 ;;
			--rounds) ROUNDS=$(number "$@"); shift ;;
			--events) EVENTS=$(number "$@"); shift ;;
			--seconds) SECONDS_PER_ROUND=$(number "$@"); shift ;;
			--keep) KEEP_WORK=1 ;;
			-h | --help)
				usage
				exit 0
				;;
			-*) fail "unknown option $1 (see --help)" ;;
			all) NAMES=("${ALL[@]}") ;;
			*)
				[[ " ${ALL[*]} " == *" $1 "* ]] || fail "there is no benchmark $1 (see --help)"
				NAMES+=("$1")
				;;
		esac
		shift
	done
	[ "${#NAMES[@]}" -gt 0 ] || fail "which benchmark? (see --help)"
}

parse_arguments "$@"
ensure_packages libpq-dev
make_work_dir bench
say "$PG_VERSION, $(nproc) cores, load $(cut -d ' ' -f 1 /proc/loadavg)${COPT:+, COPT=$COPT}"
build_extension || fail "the extension does not build"
for name in "${NAMES[@]}"; do
	say
	say "$name"
	# shellcheck source=/dev/null
	. "$BENCH_DIR/$name.sh"
	"bench_$name"
	drop_server
done
finish
