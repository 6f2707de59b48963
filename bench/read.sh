# shellcheck shell=bash disable=SC2034,SC2153,SC2154
#
# read.sh - how fast the feed is read: five million events of 16 concurrent
# sessions, a fifth of the transactions rolled back, sealed by the dispatcher
# while they came; a thousand events a statement, from the first to the last.

# read_pages FILE: read the feed by pages.  The microseconds of each page, in
# order, in $WORK/pages; events per second in RATE; time of the last twentieth
# of the pages / of the first in SLOPE.
read_pages()
{
	local pages=$((HEAD / 1000)) first last

	rm -f "$WORK"/pages.*
	pgbench_run "$1" --client=1 --transactions="$pages" --define=after=0 --define=upto="$HEAD" \
		--log --log-prefix="$WORK/pages" >/dev/null
	cat "$WORK"/pages.* | awk '{ print $3 }' >"$WORK/pages"
	[ "$(wc -l <"$WORK/pages")" -eq "$pages" ] || fail "not every page was read"
	RATE=$(awk '{ t += $1 } END { printf "%.0f", NR * 1000 / (t / 1e6) }' "$WORK/pages")
	# shellcheck disable=SC2046
	first=$(median $(head -n $((pages / 20)) "$WORK/pages"))
	# shellcheck disable=SC2046
	last=$(median $(tail -n $((pages / 20)) "$WORK/pages"))
	SLOPE=$(compute "$last / $first" 3)
}

# toast_blocks: blocks of TOAST that were looked at so far.
toast_blocks()
{
	sql "SELECT sum(toast_blks_hit + toast_blks_read + tidx_blks_hit + tidx_blks_read)::bigint
		FROM pg_statio_user_tables WHERE schemaname = 'eventstore_internal'"
}

bench_read()
{
	local rounds events round started before blocks RATE SLOPE HEAD tail MILLISECONDS CPU found
	local rates=() row_rates=() slopes=() ratios=() filtered=()

	rounds=$(choose "$ROUNDS" 5 3)
	events=$(choose "$EVENTS" 5000000 500000)
	new_server "$PRELOAD"
	sql_file load.sql
	started=$EPOCHREALTIME
	load_events "$events" 100000
	wait_sealed
	HEAD=$(sql "SELECT eventstore.head()")
	say "  loaded and sealed in $(compute "$EPOCHREALTIME - $started" 0) s"
	note "events" "$(thousands "$HEAD")"
	note "events a segment" "$(sql "SELECT round(sum(event_count)::numeric / count(*), 1) FROM eventstore_internal.segment")"
	note "median length of a segment" "$(sql "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY event_count) FROM eventstore_internal.segment")"

	for round in $(seq 0 "$rounds"); do
		read_pages read_page.sql
		measure "SELECT count(*) FROM eventstore.read(0, 1000000, '{order.lost}', $HEAD)"
		if [ "$round" -eq 0 ]; then
			continue			# to warm up
		fi
		rates+=("$RATE")
		slopes+=("$SLOPE")
		filtered+=("$(compute "$HEAD / $MILLISECONDS * 1000" 0)")
		ratios+=("$(compute "$MILLISECONDS / 1000 / ($HEAD / $RATE)" 3)")
		read_pages read_rows.sql
		row_rates+=("$RATE")
		say "  round $round: $(thousands "${rates[-1]}") events/s, last pages / first pages $SLOPE;" \
			"with all rows sent to the client $(thousands "${row_rates[-1]}") events/s; by a rare type $(thousands "${filtered[-1]}") events/s"
	done
	found=$(sql "SELECT count(*) FROM eventstore.read(0, 1000000, '{order.lost}', $HEAD)")

	# Large payloads, and events without among them.
	tail=$HEAD
	sql "SELECT count(eventstore.emit('order.scanned', jsonb_build_object('image',
			(SELECT string_agg(md5(random()::text || i || part), '') FROM generate_series(1, 300) part))))
		FROM generate_series(1, 5000) i" "SELECT eventstore.emit('order.lost')" >/dev/null
	wait_sealed
	before=$(toast_blocks)
	sql "SELECT count(*), max(length(payload::text)) FROM eventstore.read($tail, 10000, '{order.lost}', $((tail + 5001)))" >"$WORK/filtered"
	blocks=$(($(toast_blocks) - before))
	[ "$(cat "$WORK/filtered")" = '1|2' ] || fail "the rare event behind large ones was not found"
	before=$(toast_blocks)
	sql "SELECT count(*), max(length(payload::text)) FROM eventstore.read($tail, 10000, '{*}', $((tail + 5001)))" >/dev/null

	note "all rows sent to a client, events/s" "$(thousands "$(median "${row_rates[@]}")")"
	note "by a rare type, events/s passed" "$(thousands "$(median "${filtered[@]}")")"
	note "TOAST blocks read with 5,000 large payloads" "$(thousands "$(($(toast_blocks) - before))")"
	verdict "events read a second, page by page" "$(median "${rates[@]}")" ">=" 300000
	verdict "time of the last pages / of the first" "$(median "${slopes[@]}")" "<=" 1.1
	verdict "time by a type of 1 in 100,000 ($found found) / of all" "$(median "${ratios[@]}")" "<=" 1
	verdict "TOAST blocks read by type among 5,000 large payloads" "$blocks" "<=" 0
}
