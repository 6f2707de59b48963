# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# emit.sh - one statement that emits many events, against one that inserts the
# same rows into an ordinary table.

bench_emit()
{
	local rounds events round ratio side sides wal
	local ratios=() cpu_ratios=() emits=() inserts=() MILLISECONDS CPU
	local row="'order.canceled', jsonb_build_object('order', i, 'reason', 'customer asked', 'total', 99.95), 'orders-' || i"
	local -A statement=() time=() cpu=() bytes=()

	rounds=$(choose "$ROUNDS" 15 3)
	events=$(choose "$EVENTS" 200000 100000)
	statement[emit]="SELECT count(eventstore.emit(${row})) FROM generate_series(1, $events) i"
	statement[insert]="INSERT INTO plain (type, payload, key, headers)
		SELECT ${row}, '{}' FROM generate_series(1, $events) i"

	new_server "$PRELOAD"
	sql_file emit.sql
	for round in $(seq 0 "$rounds"); do
		# a partition has a million rows at most
		if [ $((round * events % 1000000)) -lt "$events" ]; then
			sql "TRUNCATE plain"
		fi
		sides=(emit insert)
		if [ $((round % 2)) -eq 1 ]; then
			sides=(insert emit)
		fi
		for side in "${sides[@]}"; do
			wal=$(wal_position)
			measure "${statement[$side]}"
			time[$side]=$MILLISECONDS
			cpu[$side]=$CPU
			bytes[$side]=$(compute "($(wal_position) - $wal) / $events" 0)
			wait_sealed
		done
		if [ "$round" -eq 0 ]; then
			continue			# to warm up
		fi
		ratio=$(compute "${time[emit]} / ${time[insert]}" 3)
		ratios+=("$ratio")
		cpu_ratios+=("$(compute "${cpu[emit]} / ${cpu[insert]}" 3)")
		emits+=("${time[emit]}")
		inserts+=("${time[insert]}")
		say "  round $round: emit ${time[emit]} ms, insert ${time[insert]} ms, ratio $ratio (of processor time ${cpu_ratios[-1]})"
	done

	note "emit, microseconds an event" "$(compute "$(median "${emits[@]}") * 1000 / $events")"
	note "insert, microseconds a row" "$(compute "$(median "${inserts[@]}") * 1000 / $events")"
	note "WAL bytes an event: emit" "${bytes[emit]}"
	note "WAL bytes a row: insert" "${bytes[insert]}"
	note "processor time of emit / of INSERT ... SELECT" "$(median "${cpu_ratios[@]}")"
	verdict "time of emit / time of INSERT ... SELECT" "$(median "${ratios[@]}")" "<=" 1.1
}
