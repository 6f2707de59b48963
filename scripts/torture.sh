#!/bin/bash
#
# torture.sh - load a primary and a standby, break them, and check what came
# out.  See usage() below and test/checker/.

set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SECONDS_OF_LOAD=60
SEED=$((RANDOM * 32768 + RANDOM))
SELF_TEST=0
FAULTS=

usage()
{
	cat <<USAGE
usage: scripts/torture.sh [OPTION]...

Builds the extension, starts a primary and a streaming standby, and for some
time emits, reads and listens while servers and workers are killed, restarted
and promoted. Then everything heals, and the histories that all clients wrote
are held against what the README guarantees. As root, installs the packages
that are missing.

  --seconds N  how long faults and load go on (default $SECONDS_OF_LOAD)
  --seed S     which faults, and when; printed, to be repeated
  --faults KIND,KIND  only these kinds of faults, such as "lock storm"
  --self-test  test the checker instead: it must catch every planted fault
  --keep       keep the histories and servers' logs, and say where they are
  -h, --help   this

Environment: COPT (more compiler flags), PG_MAJOR or PG_CONFIG (which
PostgreSQL), TMPDIR.

The last line is "N passed, N failed".
USAGE
}

while [ $# -gt 0 ]; do
	case $1 in
		--seconds)
			SECONDS_OF_LOAD=${2:-}
			[[ $SECONDS_OF_LOAD =~ ^[1-9][0-9]*$ ]] || fail "--seconds takes a number"
			shift
			;;
		--seed)
			SEED=${2:-}
			[[ $SEED =~ ^[0-9]+$ ]] || fail "--seed takes a number"
			shift
			;;
		--faults)
			FAULTS=${2:-}
			[ -n "$FAULTS" ] || fail "--faults takes kinds of faults"
			shift
			;;
		--self-test) SELF_TEST=1 ;;
		--keep) KEEP_WORK=1 ;;
		-h | --help)
			usage
			exit 0
			;;
		*) fail "unknown argument $1 (see --help)" ;;
	esac
	shift
done

ensure_packages "${CHECKER_PACKAGES[@]}"
make_work_dir torture
if [ "$KEEP_WORK" -eq 1 ]; then
	say "histories and logs will be in $WORK"
fi
if [ "$SELF_TEST" -eq 1 ]; then
	COPT="-DES_PLANTED_FAULTS${COPT:+ $COPT}"
	program=selftest.py
	arguments=()
else
	program=torture.py
	arguments=(--seconds "$SECONDS_OF_LOAD" --seed "$SEED" ${FAULTS:+--faults "$FAULTS"})
fi
say "$PG_VERSION${COPT:+, COPT=$COPT}"
build_extension || fail "the extension does not compile"
server_settings >"$WORK/settings"
run_child /usr/bin/python3 "$BUILD_DIR/test/checker/$program" \
	--directory "$WORK" --settings "$WORK/settings" "${arguments[@]}"
