# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# capture.sh - what capturing adds to an UPDATE of many rows: by a row trigger,
# and by a statement trigger.

bench_capture()
{
	local rounds rows round side sides=(bare by_row by_statement) MILLISECONDS CPU
	local -A time=() cpu=() all=()

	rounds=$(choose "$ROUNDS" 15 3)
	rows=$(choose 0 100000 50000)
	new_server "$PRELOAD"
	sql_file capture.sql --set=rows="$rows"

	for round in $(seq 0 "$rounds"); do
		for side in "${sides[@]}"; do
			sql "VACUUM ANALYZE $side" "CHECKPOINT"
			measure "UPDATE $side SET state = 'shipped', total = total + 1"
			time[$side]=$MILLISECONDS
			cpu[$side]=$CPU
			wait_sealed
		done
		if [ "$round" -eq 0 ]; then
			continue			# to warm up
		fi
		for side in "${sides[@]}"; do
			all[$side]+=" ${time[$side]}"
		done
		all[ratio]+=" $(compute "(${time[by_statement]} - ${time[bare]}) / (${time[by_row]} - ${time[bare]})" 3)"
		all[cpu_ratio]+=" $(compute "(${cpu[by_statement]} - ${cpu[bare]}) / (${cpu[by_row]} - ${cpu[bare]})" 3)"
		say "  round $round: bare ${time[bare]} ms, by row ${time[by_row]} ms, by statement ${time[by_statement]} ms," \
			"ratio ${all[ratio]##* } (of processor time ${all[cpu_ratio]##* })"
	done

	# shellcheck disable=SC2086
	{
		for side in "${sides[@]}"; do
			note "UPDATE of $(thousands "$rows") rows, $side, ms" "$(median ${all[$side]})"
		done
		note "processor time added by statement / by row" "$(median ${all[cpu_ratio]})"
		verdict "time added by statement / by row" "$(median ${all[ratio]})" "<=" 0.5
	}
}
