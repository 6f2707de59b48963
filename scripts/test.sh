#!/bin/bash
#
# test.sh - build the extension and run its tests.  See usage() below.
#
# A test of a suite is one file: test/sql/NAME.sql and test/specs/NAME.spec run
# on one throw-away server that does not preload the library, each in a new
# database that has the extension; test/t/NAME.pl starts its own servers.  The
# checker (test/checker, scripts/torture.sh) is two tests: a short run of it,
# and whether it notices what it is there for.

set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# How much of a failed test's output is shown, and how long one may take.
SHOWN_LINES=150
TEST_TIMEOUT=${TEST_TIMEOUT:-1800}

STRICT_COPT='-Werror -DUSE_ASSERT_CHECKING'

SUITE=
NAMES=()
ACCEPT=0
PASSED=0
FAILED=()

usage()
{
	cat <<USAGE
usage: scripts/test.sh [OPTION]... [TEST]...

Builds the extension and runs all its tests, or those named (emit, 003_crash,
test/t/003_crash.pl, short_run). As root, installs the packages that are missing.

  --suite SUITE  only sql (regression), specs (isolation), tap, checker or symbols
  --strict       compile with $STRICT_COPT
  --keep         keep the logs and say where they are
  --accept       take what the sql and specs tests print now as expected/
  -h, --help     this

Environment: COPT (more compiler flags), PG_MAJOR or PG_CONFIG (which
PostgreSQL; default 15, else the newest one here), TMPDIR, TEST_TIMEOUT
(seconds for one test, default $TEST_TIMEOUT).

The last line is "N passed, N failed".
USAGE
}

parse_arguments()
{
	while [ $# -gt 0 ]; do
		case $1 in
			--suite)
				SUITE=${2:-}
				case $SUITE in
					sql | specs | tap | checker | symbols) ;;
					*) fail "--suite takes sql, specs, tap, checker or symbols" ;;
				esac
				shift
				;;
			--strict) COPT="$STRICT_COPT${COPT:+ $COPT}" ;;
			--keep) KEEP_WORK=1 ;;
			--accept) ACCEPT=1 ;;
			-h | --help)
				usage
				exit 0
				;;
			-*) fail "unknown option $1 (see --help)" ;;
			*)
				# test/t/003_crash.pl is 003_crash
				set -- "${1##*/}" "${@:2}"
				NAMES+=("${1%.*}")
				;;
		esac
		shift
	done
}

# wanted SUITE NAME: has the caller asked for this test?
wanted()
{
	local name

	[ -z "$SUITE" ] || [ "$SUITE" = "$1" ] || return 1
	[ "${#NAMES[@]}" -gt 0 ] || return 0
	for name in "${NAMES[@]}"; do
		[ "$name" != "$2" ] || return 0
	done
	return 1
}

# A name that is no test is a slip of the caller's, not a test that passed.
check_names()
{
	local name

	for name in "${NAMES[@]}"; do
		[[ $name =~ ^(exported_symbols|short_run|self_test)$ ]] ||
			[ -f "$SOURCE_DIR/test/sql/$name.sql" ] ||
			[ -f "$SOURCE_DIR/test/specs/$name.spec" ] ||
			[ -f "$SOURCE_DIR/test/t/$name.pl" ] || fail "there is no test $name"
	done
}

# list_tests SUITE DIRECTORY EXTENSION: the wanted ones of a folder, by name.
list_tests()
{
	local file name

	for file in "$BUILD_DIR/$2"/*."$3"; do
		name=$(basename "$file" ".$3")
		if [ -f "$file" ] && wanted "$1" "$name"; then
			printf '%s\n' "$name"
		fi
	done
}

# run_test SUITE NAME COMMAND...: run it, print one line, count it.
run_test()
{
	local suite=$1 name=$2 started=$EPOCHREALTIME status=0 result=ok
	shift 2

	"$@" || status=$?
	if [ "$status" -eq 0 ]; then
		PASSED=$((PASSED + 1))
	else
		FAILED+=("$suite $name")
		result=FAILED
	fi
	printf '%-8s%-8s%-42s%8.1f s\n' "$result" "$suite" "$name" \
		"$(((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}) / 100000))e-1"
	return "$status"
}

# --- regression and isolation -----------------------------------------------

# One server for both, and the inputs as pg_regress wants them: 15 looks for
# expected/ beside sql/ and specs/, later ones are told.
prepare_server()
{
	local data=$WORK/server

	as_postgres mkdir "$WORK/input" "$WORK/output"
	as_postgres ln -s "$BUILD_DIR/test/sql" "$BUILD_DIR/test/specs" "$BUILD_DIR/expected" "$WORK/input"
	init_cluster "$data"
	{
		server_settings
		say "fsync = off"
		say "max_prepared_transactions = 10"
	} >>"$data/postgresql.conf"
	start_cluster "$data" || fail "the server does not start"
}

# A server in which a test has crashed recovers first.
wait_for_server()
{
	local tries

	for tries in {1..300}; do
		if as_postgres pg_isready --quiet; then
			return 0
		fi
		sleep 0.1
	done
	say "the server does not answer after $tries tries" >&2
	return 1
}

# regress PROGRAM NAME: run one test by pg_regress or pg_isolation_regress.
regress()
{
	local program=$1 name=$2 output=$WORK/output/$2 status=0
	local options=(--inputdir="$WORK/input" --outputdir="$output" --bindir="$PG_BINDIR"
		--host="$PGHOST" --port="$PGPORT" --user="$PGUSER")

	if "$program" --help | grep -q -e --expecteddir; then
		options+=(--expecteddir="$WORK/input")
	fi
	as_postgres mkdir "$output"
	wait_for_server || return 1
	run_child timeout --kill-after=30 "$TEST_TIMEOUT" \
		"$program" "${options[@]}" "$name" >"$output/log" 2>&1 || status=$?
	if [ "$status" -ne 0 ] && [ "$ACCEPT" -eq 1 ]; then
		accept_output "$name" && return 0
	fi
	if [ "$status" -ne 0 ]; then
		show_regress_failure "$name"
	fi
	return "$status"
}

# --accept: the new output goes into the source tree and belongs to whom the
# test itself does.
accept_output()
{
	local result=$WORK/output/$1/results/$1.out expected=$SOURCE_DIR/expected/$1.out

	[ -f "$result" ] && ! server_crashed || return 1
	mkdir -p "$SOURCE_DIR/expected"
	cp "$result" "$expected"
	chown --reference="$SOURCE_DIR/test" "$expected" 2>/dev/null || true
	say "accepted expected/$1.out"
}

server_crashed()
{
	grep -q -E 'TRAP:|PANIC:|terminated by signal' "$WORK/server.log"
}

show_regress_failure()
{
	local output=$WORK/output/$1

	say "--- $1"
	if [ -s "$output/regression.diffs" ]; then
		head -n "$SHOWN_LINES" "$output/regression.diffs"
	else
		# awk ends the last line, which later pg_regress leave open
		tail -n 30 "$output/log" | awk 1
	fi
	if server_crashed; then
		say "--- the server's log"
		grep -E -B 3 -A 15 'TRAP:|PANIC:|terminated by signal' "$WORK/server.log" | tail -n 40
	fi
	say "---"
}

run_regress_suites()
{
	local sql specs name

	mapfile -t sql < <(list_tests sql test/sql sql)
	mapfile -t specs < <(list_tests specs test/specs spec)
	if [ $((${#sql[@]} + ${#specs[@]})) -eq 0 ]; then
		return
	fi
	prepare_server
	for name in "${sql[@]}"; do
		run_test sql "$name" regress "$PG_SRC/test/regress/pg_regress" "$name" || true
	done
	for name in "${specs[@]}"; do
		run_test specs "$name" regress "$PG_SRC/test/isolation/pg_isolation_regress" "$name" || true
	done
	stop_cluster "$WORK/server" fast
}

# --- TAP --------------------------------------------------------------------

# tap NAME: run test/t/NAME.pl. Its output goes to output.log, PostgreSQL::Test's
# notes to tmp_check/log/regress_log_NAME, servers' logs beside that.
tap()
{
	local name=$1 dir=$WORK/tap/$1 status=0

	as_postgres mkdir -p "$dir/tmp_check/log"
	# TESTDIR is for 15, the two others are for later ones
	run_child timeout --kill-after=30 "$TEST_TIMEOUT" \
		env --chdir="$BUILD_DIR/test" -u PGHOST -u PGPORT -u PGUSER \
		TESTDIR="$dir" TESTDATADIR="$dir/tmp_check" TESTLOGDIR="$dir/tmp_check/log" \
		PG_TEST_PORT_DIR="$dir" PG_REGRESS="$PG_SRC/test/regress/pg_regress" \
		TEMP_CONFIG="$WORK/tap.conf" \
		prove --verbose -I "$PG_SRC/test/perl" -I t "t/$name.pl" \
		>"$dir/output.log" 2>&1 || status=$?
	if [ "$status" -ne 0 ]; then
		show_tap_failure "$name" "$status"
	fi
	return "$status"
}

show_tap_failure()
{
	local name=$1 dir=$WORK/tap/$1 log

	say "--- $name"
	if [ "$2" -eq 124 ]; then
		say "ended after $TEST_TIMEOUT seconds"
	fi
	grep -v '^ok ' "$dir/output.log" | tail -n 60
	log=$dir/tmp_check/log/regress_log_$name
	if [ -f "$log" ]; then
		say "--- regress_log_$name"
		tail -n $((SHOWN_LINES - 60)) "$log"
	fi
	for log in "$dir"/tmp_check/log/*.log; do
		if [ -f "$log" ] && grep -q -E 'TRAP:|PANIC:|terminated by signal' "$log"; then
			say "--- $(basename "$log")"
			grep -E -B 3 -A 15 'TRAP:|PANIC:|terminated by signal' "$log" | tail -n 40
		fi
	done
	say "---"
}

run_tap_suite()
{
	local names name

	mapfile -t names < <(list_tests tap test/t pl)
	if [ "${#names[@]}" -eq 0 ]; then
		return
	fi
	destdir_settings >"$WORK/tap.conf"
	for name in "${names[@]}"; do
		run_test tap "$name" tap "$name" || true
	done
}

# --- the checker ------------------------------------------------------------

# checker NAME PROGRAM ARGUMENT...: run a program of test/checker.
checker()
{
	local name=$1 program=$2 log=$WORK/checker/$1.log status=0
	shift 2

	as_postgres mkdir -p "$WORK/checker"
	server_settings >"$WORK/checker/$name.settings"
	run_child timeout --kill-after=30 "$TEST_TIMEOUT" \
		/usr/bin/python3 "$BUILD_DIR/test/checker/$program" --directory "$WORK/checker" \
		--settings "$WORK/checker/$name.settings" "$@" >"$log" 2>&1 || status=$?
	if [ "$status" -ne 0 ]; then
		say "--- $name"
		tail -n "$SHOWN_LINES" "$log"
		say "---"
	fi
	return "$status"
}

# A run with other faults each time; its seed is shown if it fails.
short_run()
{
	checker short_run torture.py --seconds 20 --seed "$((RANDOM * 32768 + RANDOM))"
}

# On a library of its own, that has the faults to be planted in it.
self_test()
{
	local BUILD_DIR DESTDIR BUILD_SUFFIX=_with_faults history=()
	local COPT="-DES_PLANTED_FAULTS${COPT:+ $COPT}"

	build_extension || return 1
	if [ -f "$WORK/checker/round-1/new.json" ]; then
		history=(--history "$WORK/checker/round-1")
	fi
	checker self_test selftest.py "${history[@]}"
}

run_checker_suite()
{
	local name

	for name in short_run self_test; do
		if wanted checker "$name"; then
			run_test checker "$name" "$name" || true
		fi
	done
}

# --- exported symbols -------------------------------------------------------

# PostgreSQL 15 exports every symbol that is not static, into a process with
# other people's libraries: ours begin with es_.
exported_symbols()
{
	local strangers

	strangers=$(nm --dynamic --defined-only --format=posix "$DESTDIR$PG_PKGLIBDIR/eventstore.so" |
		awk '$1 !~ /^(es_|pg_finfo_es_|Pg_magic_func$|_PG_init$|_PG_fini$)/ { print $1 }')
	if [ -n "$strangers" ]; then
		say "eventstore.so exports symbols that do not begin with es_:"
		say "$strangers" | head -n "$SHOWN_LINES"
		return 1
	fi
}

# ----------------------------------------------------------------------------

# The summary; the status is that of the whole run.
finish()
{
	local failure

	if [ "$KEEP_WORK" -eq 1 ]; then
		say "logs are in $WORK"
	fi
	for failure in "${FAILED[@]}"; do
		say "failed: $failure"
	done
	if [ $((PASSED + ${#FAILED[@]})) -eq 0 ]; then
		say "no test ran" >&2
	fi
	say "$PASSED passed, ${#FAILED[@]} failed"
	[ "$PASSED" -gt 0 ] && [ "${#FAILED[@]}" -eq 0 ]
}

parse_arguments "$@"
check_names
ensure_packages "${CHECKER_PACKAGES[@]}"
make_work_dir test
say "$PG_VERSION${COPT:+, COPT=$COPT}"
if build_extension; then
	if wanted symbols exported_symbols; then
		run_test symbols exported_symbols exported_symbols || true
	fi
	run_regress_suites
	run_tap_suite
	run_checker_suite
else
	FAILED+=(build)
fi
finish
