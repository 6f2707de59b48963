# Old snapshots, running and aborted bulk loads, and transactions that span
# leaves: what passes have to look at does not grow with them.
#
# Nothing here is timed.  What a pass looks at is what the server's statistics
# count: index entries read, blocks touched, and the size of our tables.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server(
	'main',
	conf => <<'CONF');
shared_preload_libraries = ''
autovacuum = off
eventstore.partition_size = 1000000
CONF
$node->safe_psql('postgres', 'SET client_min_messages = error; CREATE EXTENSION eventstore');

# One session that makes passes, so that its statistics are flushed when we say.
my $sealer = $node->background_psql('postgres', on_error_stop => 1);
$sealer->query_safe(q{
CREATE PROCEDURE passes(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		PERFORM eventstore.emit('small');
		COMMIT;
		IF eventstore.seal() <> 1 THEN
			RAISE EXCEPTION 'pass % did not seal one event', i;
		END IF;
		COMMIT;
	END LOOP;
END $$});

# Blocks of our tables and index entries of the leaves that something touches.
sub cost_of
{
	my ($sql) = @_;
	my $flush = 'SELECT pg_stat_force_next_flush()';
	my $counters = q{SELECT
		(SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read) FROM pg_statio_all_tables
		 WHERE schemaname = 'eventstore_internal') || ' ' ||
		(SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE schemaname = 'eventstore_internal' AND relname LIKE 'event_%')};

	$sealer->query_safe($flush);
	my ($blocks, $entries) = split / /, $node->safe_psql('postgres', $counters);
	$sealer->query_safe($sql);
	$sealer->query_safe($flush);
	my ($blocks_after, $entries_after) = split / /, $node->safe_psql('postgres', $counters);
	return ($blocks_after - $blocks, $entries_after - $entries);
}

# --- an old snapshot, over many passes ------------------------------------------------

# A row updated in place, or a table that is never emptied, would show here: each
# pass would walk through what the ones before it left.  The pass table is begun
# anew every 10,000 passes.
my $old = $node->background_psql('postgres', on_error_stop => 1);
$sealer->query_safe('CALL passes(100)');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT eventstore.head()');
my ($early) = cost_of('CALL passes(1000)');
$sealer->query_safe('CALL passes(100000)');
my ($late) = cost_of('CALL passes(1000)');
note "blocks touched by 1000 passes: $early early, $late late";
cmp_ok($late, '<', 2 * $early, 'passes touch as much after 100,000 passes beside an old snapshot');
my $size = $node->safe_psql('postgres', "SELECT pg_relation_size('eventstore_internal.pass')");
cmp_ok($size, '<', 12_000 * 150, 'the pass table does not grow beyond 10,000 passes');
is($old->query_safe('SELECT eventstore.head()'), '100', 'the old snapshot sees what it saw');
is($old->query_safe('SET client_min_messages = warning; SELECT count(*) FROM eventstore.read(0, 1000000)'), '100', 'and can read it');
$old->query_safe('COMMIT');
feed_is_sound($node, 'beside an old snapshot');

# --- a running bulk load -----------------------------------------------------------------

my ($blocks_alone, $entries_alone) = cost_of('CALL passes(100)');
my $bulk = $node->background_psql('postgres', on_error_stop => 1);
my $rows = 50_000;

# One statement writes one run; a loop writes as many as it has rounds.
my $load = "DO \$\$ BEGIN FOR i IN 1..$rows LOOP PERFORM eventstore.emit('bulk'); END LOOP; END \$\$";
$bulk->query_safe("BEGIN; $load");
my ($blocks, $entries) = cost_of('CALL passes(100)');
note "100 passes alone: $blocks_alone blocks, $entries_alone entries; beside a bulk load: $blocks, $entries";
cmp_ok($entries, '<', $entries_alone + 100, 'the index entries of a running bulk load are not read');
cmp_ok($blocks, '<', 2 * $blocks_alone, 'nor its rows');

# It aborts: known by its xid, which was running at the last pass.
$bulk->query_safe('ROLLBACK');
($blocks, $entries) = cost_of('CALL passes(10)');
cmp_ok($entries, '<', 200, 'nor those of one that aborted');

# To be sure that it would have been seen: one that commits.
$bulk->query_safe("BEGIN; $load");
$sealer->query_safe('CALL passes(1)');
$bulk->query_safe('COMMIT');
($blocks, $entries) = cost_of('SELECT eventstore.seal()');
cmp_ok($entries, '>=', $rows, 'those of one that committed are');
feed_is_sound($node, 'bulk loads');

# --- leaves and their floor --------------------------------------------------------------

# How often the (xid) index of a leaf was looked into.
sub looks
{
	my ($leaf) = @_;

	return $node->safe_psql('postgres', qq{
		SELECT sum(idx_scan) FROM pg_stat_all_indexes
		WHERE relname = '$leaf' AND indexrelname LIKE '%xid%'});
}

# From here on leaves are small.  The sequence goes forward to the next one, as
# if events had filled the leaf.
my $next = 2_000_000;
$node->append_conf('postgresql.conf', 'eventstore.partition_size = 1000');
$node->reload;
sub next_leaf
{
	$node->safe_psql('postgres', "SELECT setval('eventstore_internal.event_id', $next)");
	$node->safe_psql('postgres', "SELECT eventstore.emit('first.in.leaf')");
	$sealer->query_safe('SELECT eventstore.seal()');
	$next += 1000;
	return;
}

# A transaction has its xid, and writes into each leaf.
next_leaf();
my $spanning = $node->background_psql('postgres', on_error_stop => 1);
$spanning->query_safe('BEGIN; SELECT pg_current_xact_id()');
for my $leaf (1 .. 4)
{
	$spanning->query_safe("SELECT eventstore.emit('spanning')");
	$sealer->query_safe('CALL passes(3)');
	next_leaf();
}

# Another one that got its xid early and writes late, into the last leaf alone.
my $late_writer = $node->background_psql('postgres', on_error_stop => 1);
$late_writer->query_safe('BEGIN; SELECT pg_current_xact_id()');
next_leaf();
$late_writer->query_safe("SELECT eventstore.emit('late')");
$sealer->query_safe('CALL passes(3)');
$late_writer->query_safe('COMMIT');
is($sealer->query_safe('SELECT eventstore.seal()'), '1', 'an event written late is found in the newest leaf');

$spanning->query_safe('COMMIT');
is($sealer->query_safe('SELECT eventstore.seal()'), '4', 'events in four leaves are found when their transaction commits');
is( $node->safe_psql('postgres', "SELECT count(DISTINCT e.tableoid) FROM eventstore.event e JOIN eventstore.read(0, 1000000, '{spanning}') r USING (id)"),
	'4', 'each in a leaf of its own');
feed_is_sound($node, 'leaves');

# Nobody is left who could have written into the first leaves.
next_leaf();
$sealer->query_safe('CALL passes(3)');
$sealer->query_safe('SELECT pg_stat_force_next_flush()');
my @before = map { looks($_) } qw(event_0 event_2000000 event_2001000);
$sealer->query_safe('CALL passes(100)');
$sealer->query_safe('SELECT pg_stat_force_next_flush()');
is_deeply([ map { looks($_) } qw(event_0 event_2000000 event_2001000) ],
	\@before, 'old leaves are not looked into any more');
cmp_ok(looks('event_' . ($next - 1000)), '>=', 100, 'the newest is');
cmp_ok($node->safe_psql('postgres', 'SELECT cardinality(floor_xid) FROM eventstore_internal.pass ORDER BY pass DESC LIMIT 1'),
	'<=', 2, 'floors that nobody needs are forgotten');

$_->quit for $bulk, $spanning, $late_writer, $old, $sealer;
$node->stop;

# --- deliveries beside an old snapshot -------------------------------------------------------

# Progress is a row per subscription and transaction; many subscriptions make
# many rows of few events.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'eventstore'\neventstore.partition_size = 1000000");
$node->start;
wait_for_dispatcher($node);
$old = $node->background_psql('postgres', on_error_stop => 1);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT eventstore.head()');
my ($subscriptions, $events) = (2000, 75);
$node->safe_psql('postgres', "SELECT count(eventstore.subscribe('s' || i, 'notify:many')) FROM generate_series(1, $subscriptions) i");
my $head = $node->safe_psql('postgres', 'SELECT eventstore.head()');
for my $event (1 .. $events)
{
	my $position = $head + $event;

	$node->safe_psql('postgres', "SELECT eventstore.emit('one')");
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM eventstore_internal.progress WHERE position = $position")
	  or die 'not delivered';
}
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = $subscriptions FROM eventstore.subscription_status WHERE delivered = $events AND position = eventstore.head()"),
	'each event was delivered to each subscription, once');

# The dispatcher rewrites the table when it has 1024 blocks; at its next poll.
ok( $node->poll_query_until('postgres', "SELECT pg_relation_size('eventstore_internal.progress') < 1200 * 8192"),
	'the table of progress is bounded');
cmp_ok($node->safe_psql('postgres', 'SELECT max(step) FROM eventstore_internal.progress') * $subscriptions * 60,
	'>', 1024 * 8192, 'though more was written than it may hold');
is($old->query_safe('SELECT eventstore.head()'), $head, 'beside an old snapshot');
$old->quit;

$node->stop;
done_testing();
