#!/bin/bash
#
# demo.sh - what eventstore does, on one screen.  See usage() below.
#
# Every figure on the screen is measured in this run, and every claim checked:
# the status is non-zero if one does not hold.

set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Seconds after which something that should happen is said not to.
PATIENCE=60

# The load under which the server is killed: clients, and commits until then.
LOAD_CLIENTS=8
LOAD_COMMITS=5000

# What the transaction pays: clients, seconds a round, rounds.
PRICE_CLIENTS=16
PRICE_SECONDS=1
PRICE_ROUNDS=5

# The two statements that it takes, run and shown as they stand here.
TRIGGER="CREATE TRIGGER order_changed AFTER UPDATE ON orders
  FOR EACH ROW WHEN (old.state <> new.state)
  EXECUTE FUNCTION eventstore.capture('type=order.{state}', 'key=order-{id}');"
SUBSCRIBE="SELECT eventstore.subscribe('orders', 'notify:orders', types => '{order.*}');"

SPAWNED=        # process id of the client started last
LISTENER_PID=   # of demo/listener
PLAIN_PID=      # of a client that only does LISTEN
BROKEN=()       # claims that do not hold

BOLD=
NORMAL=
if [ -t 1 ]; then
	BOLD=$'\033[1m'
	NORMAL=$'\033[0m'
fi

usage()
{
	cat <<USAGE
usage: scripts/demo.sh [--keep]

Builds the extension, starts a throw-away server and shows on one screen what
eventstore does, in about a minute. As root, installs the packages that are
missing.

  --keep      leave the server up, and say how to connect
  -h, --help  this

Environment: PG_MAJOR or PG_CONFIG (which PostgreSQL; default 15, else the
newest one here), TMPDIR.
USAGE
}

parse_arguments()
{
	while [ $# -gt 0 ]; do
		case $1 in
			--keep) KEEP_SERVERS=1 ;;
			-h | --help)
				usage
				exit 0
				;;
			*) fail "unknown argument $1 (see --help)" ;;
		esac
		shift
	done
}

# --- tools ------------------------------------------------------------------

# title NUMBER TEXT
title()
{
	note ""
	printf '\n%s%s  %s%s\n' "$BOLD" "$1" "$2" "$NORMAL"
}

# note TEXT: say what we are at, on a line that the next one overwrites.
note()
{
	if [ -t 1 ]; then
		printf '\r\033[K%s' "${1:+$1 ...}"
	fi
}

# claim TEXT COMMAND...: the command must succeed.
claim()
{
	local text=$1
	shift

	if ! "$@"; then
		BROKEN+=("$text")
	fi
}

# sql STATEMENT [VARIABLE=VALUE]...: run it, print rows without decoration.
sql()
{
	local statement=$1 setting options=()
	shift

	for setting in "$@"; do
		options+=(-v "$setting")
	done
	# from standard input: variables are not replaced in -c
	as_postgres psql -qXAt -v ON_ERROR_STOP=1 "${options[@]}" <<<"$statement"
}

# wait_until WHAT COMMAND...: until the command succeeds.
wait_until()
{
	local what=$1 deadline=$((SECONDS + PATIENCE))
	shift

	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || fail "$what: still not so after $PATIENCE seconds"
		sleep 0.05
	done
}

# is_true EXPRESSION: what SQL says.
is_true()
{
	[ "$(sql "SELECT ($1)::text")" = true ]
}

handled()
{
	is_true "EXISTS (SELECT FROM handled WHERE $1)"
}

# spawn COMMAND...: start a client in background, as the user of the server.
# setpriv becomes the command, so that the process id is the client's own;
# runuser would stay as its parent.
spawn()
{
	if is_root; then
		set -- setpriv --reuid=postgres --regid=postgres --init-groups "$@"
	fi
	# bash gives a background command /dev/null unless told otherwise
	"$@" <&0 &
	SPAWNED=$!
}

# end SIGNAL PID: and wait for it, without bash's word on that.
end()
{
	kill -s "$1" "$2" 2>/dev/null || true
	{ wait "$2" || true; } 2>/dev/null
}

# The EXIT trap: our clients, then what common.sh does.
end_clients()
{
	local status=$? pid

	set +e
	trap '' HUP INT TERM
	note ""
	for pid in $(jobs -pr); do
		end TERM "$pid"
	done
	return "$status"
}

start_listener()
{
	spawn "$BUILD_DIR/demo/listener" -c orders -t '{order.*}' \
		>"$WORK/listener.out" 2>>"$WORK/listener.log" </dev/null
	LISTENER_PID=$SPAWNED
	wait_until "the listener listens" grep -q listening "$WORK/listener.out"
}

# start_plain CHANNEL: a client that does LISTEN and nothing else; its output is
# CHANNEL.out.  psql looks for notifications when it has run a statement.
start_plain()
{
	local out=$WORK/$1.out

	spawn psql -qXAt >"$out" 2>&1 < <(
		say "LISTEN $1; SELECT 'listening';"
		while sleep 0.1; do
			say "SELECT;"
		done 2>/dev/null
	)
	PLAIN_PID=$SPAWNED
	wait_until "psql listens" grep -q listening "$out"
}

# ask_session STATEMENTS: to the coprocess SESSION, a psql; prints one line of
# its answer.
ask_session()
{
	local answer

	say "$1" >&"${SESSION[1]}"
	read -r -t "$PATIENCE" answer <&"${SESSION[0]}" || fail "psql does not answer to $1"
	say "$answer"
}

# change ORDER STATE: in a transaction of its own; prints when it had committed.
change()
{
	sql "BEGIN;
		UPDATE orders SET state = :'state' WHERE id = :id;
		COMMIT \; SELECT clock_timestamp();" id="$1" state="$2"
}

# story_line WHAT-IS-DONE WHAT-IS-HEARD
story_line()
{
	printf '   %-34s%s\n' "$1" "$2" | sed 's/ *$//'
}

# heard ORDER COMMITTED-AT: its event, and how much later it was received; "at
# once" if that was before the client could ask for the time.
heard()
{
	sql "SELECT format('%8s  %2s  %-14s  %s', position, id, type, key) ||
			CASE WHEN ms < 0 THEN '   at once' ELSE to_char(ms, '99990.0 \"ms\"') END
		FROM handled, LATERAL (SELECT 1000 * extract(epoch FROM received_at - :'at'::timestamptz)) AS d (ms)
		WHERE key = 'order-' || :id" id="$1" at="$2"
}

# heard_soon ORDER COMMITTED-AT: not only when the dispatcher looked by itself.
heard_soon()
{
	is_true "(SELECT received_at - '$2' < interval '500 ms' FROM handled WHERE key = 'order-$1')"
}

# try_start DATA-DIRECTORY: in vain while a process of the killed server lives.
try_start()
{
	start_cluster "$1" >/dev/null 2>&1
}

# clients_count SCRIPT: transactions that pgbench knows to have succeeded.
clients_count()
{
	sed -n "/^SQL script .*\/$1\$/,/transactions/s/^ - \([0-9]*\) transactions.*/\1/p" "$WORK/load.log"
}

# median FILE: of an odd number of lines.
median()
{
	sort -n "$1" | sed -n "$(((PRICE_ROUNDS + 1) / 2))p"
}

ratio()
{
	awk "BEGIN { print $1 / $2 }"
}

# --- the story --------------------------------------------------------------

set_up()
{
	local data=$WORK/data

	note "building"
	build_extension || fail "the extension does not build"
	run_child make --directory="$BUILD_DIR/demo" PG_CONFIG="$PG_CONFIG" >"$WORK/listener-build.log" 2>&1 || {
		cat "$WORK/listener-build.log" >&2
		fail "demo/listener does not build"
	}
	note "starting a server"
	init_cluster "$data"
	{
		server_settings
		say "shared_preload_libraries = 'eventstore'"
	} >>"$data/postgresql.conf"
	start_cluster "$data" || fail "the server does not start"
	as_postgres createdb shop
	export PGDATABASE=shop
	as_postgres psql -qX -v ON_ERROR_STOP=1 -f "$BUILD_DIR/demo/shop.sql" >/dev/null
	# What was written so far shall not wait in the way of what we measure.
	sql "CHECKPOINT;"
	as_postgres sync --file-system "$data"
	note ""
}

show_statements()
{
	say "eventstore on ${PG_VERSION%% (*}: a transaction writes its events with its data; once it has"
	say "committed, every listener gets them, once each and in order, whoever crashes in between"
	title 1 "Two statements, and whoever does LISTEN orders hears of every change of an order's state"
	sql "$TRIGGER" >/dev/null
	sql "$SUBSCRIBE" >/dev/null
	say "$TRIGGER" | sed 's/^/   /'
	say "$SUBSCRIBE" | sed 's/^/   /'
}

show_transactions()
{
	local a b d

	title 2 "Four transactions: A takes its event's id first and commits last, C rolls back"
	start_listener

	coproc SESSION { as_postgres psql -qXAt -v ON_ERROR_STOP=1; }
	ask_session "BEGIN; UPDATE orders SET state = 'canceled' WHERE id = 1; SELECT 'open';" >/dev/null
	b=$(change 2 canceled)
	sql "BEGIN; UPDATE orders SET state = 'canceled' WHERE id = 3; ROLLBACK;"
	d=$(change 4 shipped)
	wait_until "order 4 is handled" handled "key = 'order-4'"
	a=$(ask_session "COMMIT \\; SELECT clock_timestamp();")
	wait_until "order 1 is handled" handled "key = 'order-1'"
	say '\q' >&"${SESSION[1]}"

	story_line "" "position  id  type            key      after COMMIT"
	story_line "A  begins, cancels order 1 ..." ""
	story_line "B  cancels order 2, commits" "$(heard 2 "$b")"
	story_line "C  cancels order 3, rolls back" "       -"
	story_line "D  ships order 4, commits" "$(heard 4 "$d")"
	story_line "A  ... commits" "$(heard 1 "$a")"
	claim "B was heard when it committed" heard_soon 2 "$b"
	claim "D was heard when it committed" heard_soon 4 "$d"
	claim "A was heard when it committed" heard_soon 1 "$a"
	claim "A's event has the first id" \
		is_true "(SELECT id FROM handled WHERE key = 'order-1') < ALL (SELECT id FROM handled WHERE key <> 'order-1')"
	claim "the listener heard B, D and A in this order, each by a notification" \
		is_true "(SELECT string_agg(key, ' ' ORDER BY position) FILTER (WHERE notified) FROM handled) = 'order-2 order-4 order-1'"
	claim "nothing else was heard, and nothing of C" is_true "(SELECT count(*) FROM handled) = 3"
}

show_away()
{
	local started received missed twice milliseconds plain
	local format='   %-18s received %4d   missed %4d%s\n'

	title 3 "The listener is killed (-9), 1000 orders are canceled, it comes back, 1 more is canceled"
	sql "CREATE TRIGGER plain AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION plain_notify();"
	start_plain plain
	end KILL "$LISTENER_PID"
	end KILL "$PLAIN_PID"
	sql "UPDATE orders SET state = 'canceled' WHERE id BETWEEN 1001 AND 2000;"
	started=$(date +%s.%N)
	start_listener
	start_plain plain
	change 2001 canceled >/dev/null
	wait_until "order 2001 is handled" handled "key = 'order-2001'"
	wait_until "psql hears of order 2001" grep -q '"id": 2001' "$WORK/plain.out"
	end TERM "$PLAIN_PID"
	sql "DROP TRIGGER plain ON orders;"

	IFS='|' read -r received missed twice milliseconds < <(sql "
		SELECT count(h.id), count(*) FILTER (WHERE h.id IS NULL), count(h.id) - count(DISTINCT h.key),
			round(1000 * (max(extract(epoch FROM h.received_at)) FILTER (WHERE o.id <= 2000) - :started))
		FROM generate_series(1001, 2001) AS o (id) LEFT JOIN handled h ON h.key = 'order-' || o.id" \
		started="$started")
	plain=$(grep -c 'Asynchronous notification' "$WORK/plain.out")

	# shellcheck disable=SC2059
	{
		printf "$format" "with eventstore" "$received" "$missed" \
			"   handled twice $twice   (caught up in $milliseconds ms)"
		printf "$format" "with pg_notify" "$plain" "$((1001 - plain))" ""
	}
	claim "the listener received 1001" [ "$received" -eq 1001 ]
	claim "the listener missed none" [ "$missed" -eq 0 ]
	claim "the listener handled none twice" [ "$twice" -eq 0 ]
	claim "a plain listener misses 1000" [ "$plain" -eq 1 ]
}

show_crash()
{
	local data=$WORK/data load_pid killed seconds
	local told rolled_back committed received missed twice invented

	title 4 "The server is killed (-9) under $LOAD_CLIENTS clients, recovers, and nobody touches the listener"
	spawn pgbench -n -c "$LOAD_CLIENTS" -j 2 -T "$PATIENCE" \
		-f "$BUILD_DIR/demo/load.sql@4" -f "$BUILD_DIR/demo/load_rollback.sql@1" >"$WORK/load.log" 2>&1 </dev/null
	load_pid=$SPAWNED
	wait_until "$LOAD_COMMITS transactions have committed" \
		is_true "(SELECT count(*) FROM ledger) >= $LOAD_COMMITS"
	killed=$(date +%s.%N)
	kill -KILL "$(head -n 1 "$data/postmaster.pid")"
	{ wait "$load_pid" || true; } 2>/dev/null
	# Not before its last process has ended.
	wait_until "the server starts again" try_start "$data"
	# What comes after all others in the feed is handled after them.
	sql "SELECT eventstore.emit('order.last')" >/dev/null
	wait_until "the last event is handled" handled "type = 'order.last'"

	told=$(clients_count load.sql)
	rolled_back=$(clients_count load_rollback.sql)
	IFS='|' read -r committed received missed twice invented seconds < <(sql "
		WITH heard AS (
			SELECT (payload->'new'->>'id')::integer AS id, (payload->'new'->>'version')::integer AS version, position
			FROM handled WHERE type IN ('order.paid', 'order.packed', 'order.lost'))
		SELECT (SELECT count(*) FROM ledger),
			(SELECT count(*) FROM heard),
			(SELECT count(*) FROM (TABLE ledger EXCEPT ALL SELECT id, version FROM heard) x),
			(SELECT count(*) - count(DISTINCT position) FROM heard),
			(SELECT count(*) FROM (SELECT id, version FROM heard EXCEPT TABLE ledger) x),
			(SELECT round(extract(epoch FROM received_at) - :killed, 1) FROM handled WHERE type = 'order.last')" \
		killed="$killed")
	printf '   committed %5d   rolled back %5d   (clients had been told of %d commits)\n' \
		"$committed" "$rolled_back" "$told"
	printf '   received  %5d   missed %d   handled twice %d   from rolled back %d   (back in %s s)\n' \
		"$received" "$missed" "$twice" "$invented" "$seconds"
	claim "what clients know to be committed is" [ "$told" -le "$committed" ]
	claim "received is what was committed" [ "$received" -eq "$committed" ]
	claim "the listener missed nothing in the crash" [ "$missed" -eq 0 ]
	claim "the listener handled nothing twice in the crash" [ "$twice" -eq 0 ]
	claim "the listener received nothing that rolled back" [ "$invented" -eq 0 ]
	claim "some transactions rolled back" [ "$rolled_back" -gt 0 ]
}

show_price()
{
	local kind round alone eventstore notify format='   %-34s%6.0f tx/s   %4.2f\n'

	title 5 "What the transaction pays: $PRICE_CLIENTS clients update a row each, median of $PRICE_ROUNDS rounds"
	as_postgres psql -qX -v ON_ERROR_STOP=1 -f "$BUILD_DIR/demo/price.sql" >/dev/null
	start_plain price
	start_plain plain
	for kind in alone eventstore notify; do
		as_postgres tee "$WORK/price_$kind.sql" >/dev/null <<SQL
\\set id random(1, 10000)
UPDATE price_$kind SET state = CASE state WHEN 'paid' THEN 'packed' ELSE 'paid' END WHERE id = :id;
SQL
	done
	for ((round = 1; round <= PRICE_ROUNDS; round++)); do
		note "round $round of $PRICE_ROUNDS"
		for kind in alone eventstore notify; do
			run_child pgbench -n -M prepared -c "$PRICE_CLIENTS" -j 2 -T "$PRICE_SECONDS" \
				-f "$WORK/price_$kind.sql" >"$WORK/price.log" 2>&1 || {
				cat "$WORK/price.log" >&2
				fail "pgbench failed"
			}
			sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$WORK/price.log" >>"$WORK/price_$kind.tps"
		done
	done
	note ""
	alone=$(median "$WORK/price_alone.tps")
	eventstore=$(median "$WORK/price_eventstore.tps")
	notify=$(median "$WORK/price_notify.tps")
	# shellcheck disable=SC2059
	{
		printf "$format" "UPDATE alone" "$alone" 1
		printf "$format" "with eventstore and its listener" "$eventstore" "$(ratio "$eventstore" "$alone")"
		printf "$format" "with pg_notify and its listener" "$notify" "$(ratio "$notify" "$alone")"
	}
	claim "eventstore costs a transaction less than pg_notify" [ "${eventstore%.*}" -gt "${notify%.*}" ]
	wait_until "all of this is delivered" is_true "
		(SELECT delivered FROM eventstore.subscription_status WHERE name = 'price') =
		(SELECT count(*) FROM eventstore.event WHERE type LIKE 'price.%')"
}

show_status()
{
	local columns="name, endpoint, state, position, lag_events, delivered"

	title 6 "SELECT $columns FROM eventstore.subscription_status"
	wait_until "no subscription lags" is_true "
		(SELECT bool_and(state = 'active' AND lag_events = 0 AND last_error IS NULL)
		FROM eventstore.subscription_status)"
	as_postgres psql -X -P footer=off -c "SELECT $columns FROM eventstore.subscription_status" |
		sed -e '/^$/d' -e 's/^/   /' -e 's/ *$//'
}

# What broke, or how to go on.
finish()
{
	local claim

	for claim in "${BROKEN[@]}"; do
		say "DOES NOT HOLD: $claim" >&2
	done
	if [ "$KEEP_SERVERS" -eq 1 ]; then
		say
		say "The server stays up:  psql -h $PGHOST -U $PGUSER $PGDATABASE"
		say "A listener:           $BUILD_DIR/demo/listener -v -t '{order.*}' 'host=$PGHOST user=$PGUSER dbname=$PGDATABASE'"
		say "To end it:            $(is_root && printf 'runuser -u postgres -- ')$PG_BINDIR/pg_ctl -D $WORK/data stop && rm -r $WORK"
	fi
	[ "${#BROKEN[@]}" -eq 0 ]
}

parse_arguments "$@"
ensure_packages libpq-dev
make_work_dir demo
trap 'end_clients; clean_up' EXIT
set_up
show_statements
show_transactions
show_away
show_crash
show_price
show_status
finish
