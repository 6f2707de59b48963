# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# commit.sh - what a transaction pays for telling somebody: 16 clients, each
# transaction an UPDATE of one row of many, and
#
#	eventstore	emit(), a notify: subscription, and a listener
#	notify		pg_notify(), and a listener
#	outbox		an INSERT into an outbox table that nobody reads
#	update		nothing

bench_commit()
{
	local rounds round side sides=(eventstore notify outbox update) started behind cpu
	local -A all=() now=() cost=()

	rounds=$(choose "$ROUNDS" 7 2)
	new_server "$PRELOAD"
	sql_file commit.sql
	sql "SELECT eventstore.subscribe('bench', 'notify:bench', '{account.*}')" >/dev/null
	compile listener
	start_listener bench
	start_listener raw

	for round in $(seq 0 "$rounds"); do
		behind=
		for side in "${sides[@]}"; do
			cpu=$(cluster_cpu)
			now[$side]=$(pgbench_tps "commit_$side.sql")
			if [ "$side" = eventstore ]; then
				# events that were committed and not yet notified when the clients stopped
				started=$EPOCHREALTIME
				behind=$(sql "SELECT pg_sequence_last_value('eventstore_internal.event_id') - eventstore.head()
						+ lag_events FROM eventstore.subscription_status")
				wait_sealed
				behind+=" events, caught up within $(compute "($EPOCHREALTIME - $started) * 1000" 0) ms"
			fi
			cost[$side]=$(compute "($(cluster_cpu) - $cpu) / (${now[$side]} * $SECONDS_PER_ROUND)" 0)
		done
		if [ "$round" -eq 0 ]; then
			continue			# to warm up
		fi
		for side in "${sides[@]}"; do
			all[$side]+=" ${now[$side]}"
			all[cost_$side]+=" ${cost[$side]}"
		done
		all[by_notify]+=" $(compute "${now[eventstore]} / ${now[notify]}" 3)"
		all[by_outbox]+=" $(compute "${now[eventstore]} / ${now[outbox]}" 3)"
		say "  round $round, tx/s: $(for side in "${sides[@]}"; do
			printf '%s %s  ' "$side" "$(thousands "${now[$side]}")"
		done); behind at the end: $behind"
	done
	stop_listeners

	for side in "${sides[@]}"; do
		# shellcheck disable=SC2086
		note "$side: tx/s" "$(thousands "$(median ${all[$side]})")"
		# shellcheck disable=SC2086
		note "$side: microseconds of the server's processors a transaction" "$(median ${all[cost_$side]})"
	done
	note "sealed together (events a segment)" "$(sql "SELECT round(sum(event_count)::numeric / count(*), 1)
		FROM eventstore_internal.segment")"
	note "notified / emitted" "$LISTENED / $(sql "SELECT eventstore.head()")"
	# shellcheck disable=SC2086
	verdict "tx/s of eventstore / of pg_notify" "$(median ${all[by_notify]})" ">=" 1.7
	# shellcheck disable=SC2086
	verdict "tx/s of eventstore / of an outbox nobody reads" "$(median ${all[by_outbox]})" ">=" 0.95
}
