# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# latency.sh - how long after a commit a LISTEN client hears of it, by a
# notify: subscription and by pg_notify(): on an idle server, and beside 16
# clients that do the same as fast as they can (commit_*.sql), with a listener
# of their own.
#
# The time begins when COMMIT is sent, so it contains the transaction's own
# flush, for both.  The time since COMMIT was answered is shown too.

# probe MODE...: percentiles in microseconds, as p50[MODE] and so on.
probe()
{
	local output=$WORK/latency.out mode

	run_child "$WORK/latency" "$SECONDS_PER_ROUND" 10 "$@" >"$output" 2>&1 || fail "$(cat "$output")"
	while read -r mode columns; do
		read -r "samples[$mode]" "p50[$mode]" "p90[$mode]" "p99[$mode]" "worst[$mode]" \
			"answered50[$mode]" _ "answered99[$mode]" _ <<<"$columns"
	done <"$output"
}

# probe_loaded MODE: the same beside 16 clients; their rate as load[MODE].
probe_loaded()
{
	local load_pid

	pgbench_run "commit_$1.sql" --client=16 --jobs=2 --time=$((SECONDS_PER_ROUND + 3)) \
		>"$WORK/load.out" &
	load_pid=$!
	sleep 1.5
	probe "$1"
	wait "$load_pid" || fail "the load failed"
	load[$1]=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$WORK/load.out")
}

# show_mode TITLE MODE
show_mode()
{
	say "  $1: $2 p50 ${p50[$2]}, p90 ${p90[$2]}, p99 ${p99[$2]}, worst ${worst[$2]} us;" \
		"since the answer p50 ${answered50[$2]}, p99 ${answered99[$2]}; ${samples[$2]} samples${3:-}"
}

bench_latency()
{
	local rounds round mode columns modes=(eventstore notify)
	local -A samples=() p50=() p90=() p99=() worst=() answered50=() answered99=() load=() all=()

	rounds=$(choose "$ROUNDS" 5 1)
	new_server "$PRELOAD"
	sql_file commit.sql
	sql "SELECT eventstore.subscribe('bench', 'notify:bench', '{account.*}')" \
		"SELECT eventstore.subscribe('probe', 'notify:probe', '{probe.*}')" >/dev/null
	compile latency
	compile listener
	start_listener bench
	start_listener raw

	for round in $(seq 1 "$rounds"); do
		probe "${modes[@]}"
		for mode in "${modes[@]}"; do
			all[idle_$mode]+=" ${p50[$mode]}"
			show_mode "round $round, idle" "$mode"
		done
		all[idle_ratio]+=" $(compute "${p50[eventstore]} / ${p50[notify]}" 3)"

		for mode in "${modes[@]}"; do
			probe_loaded "$mode"
			wait_sealed
			all[loaded_$mode]+=" ${p99[$mode]}"
			all[load_$mode]+=" ${load[$mode]}"
			show_mode "round $round, 16 clients" "$mode" ", load of $(thousands "${load[$mode]}") tx/s"
		done
		all[loaded_ratio]+=" $(compute "${p99[eventstore]} / ${p99[notify]}" 3)"
	done
	stop_listeners

	# shellcheck disable=SC2086
	{
		note "idle, p50 of pg_notify, ms" "$(compute "$(median ${all[idle_notify]}) / 1000")"
		verdict "idle, p50, ms" "$(compute "$(median ${all[idle_eventstore]}) / 1000")" "<" 2
		verdict "idle, p50 / p50 of pg_notify" "$(median ${all[idle_ratio]})" "<=" 5
		note "16 clients, load by pg_notify, tx/s" "$(thousands "$(median ${all[load_notify]})")"
		note "16 clients, load by eventstore, tx/s" "$(thousands "$(median ${all[load_eventstore]})")"
		note "16 clients, p99 of pg_notify, ms" "$(compute "$(median ${all[loaded_notify]}) / 1000")"
		note "16 clients, p99 of eventstore, ms" "$(compute "$(median ${all[loaded_eventstore]}) / 1000")"
		verdict "16 clients, p99 / p99 of pg_notify" "$(median ${all[loaded_ratio]})" "<=" 1
	}
}
