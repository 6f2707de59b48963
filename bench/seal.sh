# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# seal.sh - how fast a backlog is sealed: a million events of 16 concurrent
# sessions, a fifth of the transactions rolled back, in one pass of
# eventstore.seal() on a server without a dispatcher.

bench_seal()
{
	local rounds events round sealed MILLISECONDS wal segments before=0 rates=() bytes=() lengths=() cpu_rates=() CPU

	rounds=$(choose "$ROUNDS" 5 2)
	events=$(choose "$EVENTS" 1000000 200000)
	new_server
	sql_file load.sql

	for round in $(seq 1 "$rounds"); do
		load_events "$events" 0
		wal=$(wal_position)
		measure "SELECT eventstore.seal()"
		wal=$(compute "$(wal_position) - $wal" 0)
		sealed=$(($(sql "SELECT eventstore.head()") - before))
		segments=$(sql "SELECT count(*) FROM eventstore_internal.segment WHERE first_position > $before")
		before=$((before + sealed))
		rates+=("$(compute "$sealed / $MILLISECONDS * 1000" 0)")
		cpu_rates+=("$(compute "$sealed / $CPU * 1000" 0)")
		bytes+=("$(compute "$wal / $sealed" 1)")
		lengths+=("$(compute "$sealed / $segments" 1)")
		say "  round $round: $(thousands "$sealed") events in $MILLISECONDS ms, ${lengths[-1]} a segment:" \
			"$(thousands "${rates[-1]}") events/s (by processor time $(thousands "${cpu_rates[-1]}")), ${bytes[-1]} WAL bytes an event"
	done

	note "events a segment" "$(median "${lengths[@]}")"
	note "WAL bytes an event" "$(median "${bytes[@]}")"
	note "events sealed a second of processor time" "$(thousands "$(median "${cpu_rates[@]}")")"
	verdict "events sealed a second" "$(median "${rates[@]}")" ">=" 300000
}
