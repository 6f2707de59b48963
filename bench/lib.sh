# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# lib.sh - what the benchmarks share: servers, timing, medians, the verdict.
# To be sourced by run.sh, after common.sh.

BENCH_DIR=$SOURCE_DIR/bench

SERVER=
PASSED=0
MISSED=()

# --- options ----------------------------------------------------------------

# choose ASKED FULL QUICK: what the caller asked for, else what suits the mode.
choose()
{
	if [ "$1" -gt 0 ]; then
		printf '%s\n' "$1"
	elif [ "$QUICK" -eq 1 ]; then
		printf '%s\n' "$3"
	else
		printf '%s\n' "$2"
	fi
}

# --- servers ----------------------------------------------------------------

# new_server [SETTING]...: a new cluster that runs with the extension created
# in database postgres.  Durable, as in earnest, and large enough not to
# checkpoint in the middle of everything.
new_server()
{
	local setting

	drop_server
	SERVER=$WORK/server
	init_cluster "$SERVER"
	{
		server_settings
		say "shared_buffers = 512MB"
		say "max_wal_size = 8GB"
		say "checkpoint_timeout = 30min"
		for setting in "$@"; do
			say "$setting"
		done
	} >>"$SERVER/postgresql.conf"
	start_cluster "$SERVER" || fail "the server does not start"
	sql "SET client_min_messages = error; CREATE EXTENSION eventstore"
}

PRELOAD="shared_preload_libraries = 'eventstore'"

drop_server()
{
	if [ -n "$SERVER" ]; then
		stop_cluster "$SERVER" fast
		if [ "$KEEP_WORK" -eq 0 ]; then
			rm -rf "$SERVER"
		else
			mv "$SERVER.log" "$SERVER.$name.log"
			rm -rf "$SERVER"
		fi
		SERVER=
	fi
}

# sql COMMAND...: run SQL, print what it returns, bare.
sql()
{
	local command arguments=()

	for command in "$@"; do
		arguments+=(--command="$command")
	done
	as_postgres psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 \
		"${arguments[@]}" </dev/null
}

# sql_file FILE [psql option]...
sql_file()
{
	local file=$1
	shift

	as_postgres psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 \
		--file="$BUILD_DIR/bench/$file" "$@" </dev/null
}

# measure COMMAND: how long one SQL command takes, its commit included, in
# MILLISECONDS; and how long its session had a processor meanwhile, in CPU,
# which other load on the machine changes less.
measure()
{
	local cpu="SELECT 'cpu', split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)" output

	output=$(sql "$cpu" '\timing on' "$1" '\timing off' "$cpu")
	MILLISECONDS=$(sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' <<<"$output")
	CPU=$(awk -F '|' '/^cpu/ { t = $2 - t } END { printf "%.3f", t / 1e6 }' <<<"$output")
}

# cluster_cpu: microseconds of processor that all processes of the server have
# had, those that have ended included.
cluster_cpu()
{
	local postmaster child files=()

	postmaster=$(as_postgres head -n 1 "$SERVER/postmaster.pid")
	for child in "$postmaster" $(cat "/proc/$postmaster/task/$postmaster/children"); do
		files+=("/proc/$child/stat")
	done
	# a child's own children are the postmaster's affair only when they have ended
	{ cat "${files[@]}" 2>/dev/null || true; } |
		awk -v tick="$(getconf CLK_TCK)" '{ t += $14 + $15; if (NR == 1) t += $16 + $17 }
			END { printf "%.0f\n", t * 1e6 / tick }'
}

# wal_position: bytes of WAL written so far.
wal_position()
{
	sql "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
}

# wait_sealed: until every committed event has its place in the feed, so that
# the dispatcher's work for one measurement does not fall into the next.
wait_sealed()
{
	local before=-1 now tries

	for tries in {1..6000}; do
		now=$(sql "SELECT eventstore.head()")
		if [ "$now" = "$before" ] && dispatcher_idle; then
			return 0
		fi
		before=$now
		sleep 0.1
	done
	fail "the dispatcher does not come to an end after $tries tries"
}

dispatcher_idle()
{
	[ "$(sql "SELECT state FROM pg_stat_activity
		WHERE backend_type = 'eventstore dispatcher'")" = idle ]
}

# --- pgbench ----------------------------------------------------------------

# pgbench_tps FILE [pgbench option]...: transactions per second of 16 clients.
pgbench_tps()
{
	local file=$1
	shift

	pgbench_run "$file" --client=16 --jobs=2 --time="$SECONDS_PER_ROUND" "$@" |
		sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

pgbench_run()
{
	local file=$1
	shift

	as_postgres pgbench --no-vacuum --protocol=prepared \
		--file="$BUILD_DIR/bench/$file" "$@" 2>>"$WORK/pgbench.log" </dev/null || {
		tail -n 20 "$WORK/pgbench.log" >&2
		fail "pgbench failed"
	}
}

# load_events N RARE-EVERY: 16 sessions emit about N events that commit (load.sql);
# one in RARE-EVERY is of the type order.lost.
load_events()
{
	PGOPTIONS='-c synchronous_commit=off' pgbench_run load_pgbench.sql --protocol=simple \
		--client=16 --jobs=2 --transactions=1 --define=n=$((($1 + 15) / 16)) \
		--define=rare_every="$2" >/dev/null
}

# --- programs of our own -----------------------------------------------------

# compile NAME: bench/NAME.c into $WORK/NAME.
compile()
{
	run_child gcc -O2 -Wall -Werror -I"$("$PG_CONFIG" --includedir)" -o "$WORK/$1" "$BUILD_DIR/bench/$1.c" \
		-L"$("$PG_CONFIG" --libdir)" -lpq || fail "$1.c does not compile"
}

LISTENERS=()
LISTENED=

# start_listener CHANNEL: it runs until stop_listeners.
start_listener()
{
	local output=$WORK/listener.$1 tries

	# not as_postgres: the pid would be a subshell's
	if is_root; then
		runuser -u postgres -- "$WORK/listener" "$1" >"$output" 2>"$output.err" </dev/null &
	else
		"$WORK/listener" "$1" >"$output" 2>"$output.err" </dev/null &
	fi
	LISTENERS+=("$!:$1")
	for tries in {1..100}; do
		if grep -q -s listening "$output"; then
			return 0
		fi
		sleep 0.1
	done
	fail "the listener on $1 does not start ($tries tries): $(cat "$output.err")"
}

# stop_listeners: LISTENED is how many notifications the first one got.
stop_listeners()
{
	local listener

	for listener in "${LISTENERS[@]}"; do
		# runuser, if any, passes the signal on
		kill -TERM "${listener%%:*}" 2>/dev/null || true
		wait "${listener%%:*}" || true
	done
	LISTENED=$(tail -n 1 "$WORK/listener.${LISTENERS[0]#*:}")
	LISTENERS=()
}

# --- figures ----------------------------------------------------------------

# median NUMBER...
median()
{
	printf '%s\n' "$@" | sort -g |
		awk '{ v[NR] = $1 } END { printf "%g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# compute EXPRESSION [DECIMALS]
compute()
{
	awk "BEGIN { printf \"%.${2:-2}f\\n\", $1 }"
}

# thousands NUMBER: 1234567.8 as 1,234,568
thousands()
{
	LC_ALL=C.UTF-8 awk -v n="$1" 'BEGIN {
		s = sprintf("%.0f", n)
		while (match(s, /[0-9][0-9][0-9][0-9]+/)) {
			end = RSTART + RLENGTH - 1
			s = substr(s, 1, end - 3) "," substr(s, end - 2)
		}
		print s
	}'
}

# verdict WHAT VALUE OPERATOR BAR [UNIT]: print a figure beside its bar; count it.
verdict()
{
	local result=pass

	if [ "$(compute "($2 $3 $4)" 0)" -eq 1 ]; then
		PASSED=$((PASSED + 1))
	else
		result=MISSED
		MISSED+=("$name: $1")
	fi
	printf '  %-58s%12s   %-2s %-10s %s\n' "$1" "$(show "$2")${5:-}" "$3" "$(show "$4")${5:-}" "$result"
}

# note WHAT VALUE: a figure without a bar.
note()
{
	printf '  %-58s%12s\n' "$1" "$2"
}

show()
{
	if [ "$(compute "($1 >= 1000)" 0)" -eq 1 ]; then
		thousands "$1"
	else
		compute "$1"
	fi
}

# The summary; the status is that of the whole run.
finish()
{
	local miss

	say
	if [ "$KEEP_WORK" -eq 1 ]; then
		say "logs are in $WORK"
	fi
	for miss in "${MISSED[@]}"; do
		say "missed: $miss"
	done
	say "$PASSED passed, ${#MISSED[@]} missed"
	[ "${#MISSED[@]}" -eq 0 ]
}
