# What the TAP tests share: servers that preload the extension, and the checker
# that compares a feed with what was committed.

package EventstoreTest;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  new_server
  create_extension
  dispatcher_pid
  wait_for_dispatcher
  wait_for_no_dispatcher
  wait_until_sealed
  feed_is_sound
  kill_server
  log_lines
  build_listener
  create_load_tables
  start_load
  stop_load
  feed_is_what_was_committed
);

# Start a server that preloads the library.  Options: conf (more lines for
# postgresql.conf), init (arguments for init()), start (0: not yet).
sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@{ $options{init} // [] });
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'eventstore'
max_worker_processes = 16
log_statement = none
restart_after_crash = on
CONF
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start if $options{start} // 1;
	return $node;
}

# Have the extension, and its dispatcher, in a database (default: postgres).
sub create_extension
{
	my ($node, $dbname) = @_;

	$node->safe_psql($dbname // 'postgres', 'CREATE EXTENSION eventstore');
	wait_for_dispatcher($node, $dbname);
	return;
}

# Process id of a database's dispatcher, or ''.
sub dispatcher_pid
{
	my ($node, $dbname) = @_;

	$dbname //= 'postgres';
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'eventstore dispatcher' AND datname = '$dbname'"
	);
}

# Wait until a database has a dispatcher that is not $old_pid (default: any).
sub wait_for_dispatcher
{
	my ($node, $dbname, $old_pid) = @_;

	$dbname //= 'postgres';
	$old_pid //= 0;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'eventstore dispatcher'"
		  . " AND datname = '$dbname' AND application_name = 'eventstore dispatcher' AND pid <> $old_pid")
	  or die "no dispatcher in database $dbname";
	return;
}

sub wait_for_no_dispatcher
{
	my ($node, $dbname) = @_;

	$dbname //= 'postgres';
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'eventstore dispatcher' AND datname = '$dbname'"
	) or die "there is still a dispatcher in database $dbname";
	return;
}

# Wait until every event has a position.  Counting is done once per look: more
# positions than events are a fault that feed_is_sound() reports.
sub wait_until_sealed
{
	my ($node, $dbname) = @_;

	$node->poll_query_until($dbname // 'postgres', <<'SQL') or die 'events stay unsealed';
SELECT (SELECT count(*) FROM eventstore.event) <=
	(SELECT coalesce(sum(event_count), 0) FROM eventstore_internal.segment)
SQL
	return;
}

# Check what holds for every feed at every moment: each position is there once,
# within an epoch without gaps; no id has two positions; each position has its
# event; the events of a transaction are all there or none, and in the order in
# which they were emitted.
sub feed_is_sound
{
	my ($node, $name, $dbname) = @_;

	is($node->safe_psql($dbname // 'postgres', <<'SQL'), '', "$name: the feed is sound");
CREATE TEMP TABLE feed AS
	SELECT s.first_position + i AS position, s.first_id + i AS id
	FROM eventstore_internal.segment s, generate_series(0, s.event_count - 1) i;
CREATE TEMP TABLE run AS
	SELECT first_position AS first,
		   coalesce(lead(previous_head) OVER w, (SELECT max(position) FROM feed)) AS last
	FROM eventstore_internal.epoch WINDOW w AS (ORDER BY first_position);
ANALYZE feed;

SELECT 'position ' || position || ' twice' FROM feed GROUP BY position HAVING count(*) > 1 LIMIT 5;
SELECT 'id ' || id || ' twice' FROM feed GROUP BY id HAVING count(*) > 1 LIMIT 5;
SELECT 'positions between ' || first || ' and ' || last || ': ' || n
	FROM run, LATERAL (SELECT count(*) n FROM feed WHERE position BETWEEN first AND last) r
	WHERE n <> greatest(last - first + 1, 0) LIMIT 5;
SELECT 'position ' || position || ' is outside all epochs'
	FROM feed WHERE NOT EXISTS (SELECT FROM run WHERE position BETWEEN first AND last) LIMIT 5;
SELECT 'position ' || position || ' has no event'
	FROM feed LEFT JOIN eventstore.event USING (id) WHERE event.id IS NULL LIMIT 5;
SELECT 'transaction ' || xid || ' has ' || count(id) || ' of ' || count(*) || ' events in the feed'
	FROM eventstore.event LEFT JOIN feed USING (id) WHERE xid IS NOT NULL
	GROUP BY xid HAVING count(position) NOT IN (0, count(*)) LIMIT 5;
SELECT 'event ' || id || ' stands before one emitted earlier by its transaction'
	FROM (SELECT id, position < lag(position) OVER (PARTITION BY xid ORDER BY id) AS wrong
		  FROM eventstore.event JOIN feed USING (id) WHERE xid IS NOT NULL) e
	WHERE wrong LIMIT 5;
SELECT 'read() returns ' || n || ' events of ' || (SELECT count(*) FROM feed)
	FROM (SELECT count(*) n FROM eventstore.read(
			(SELECT coalesce(min(position) - 1, 0) FROM feed), 2147483647)) r
	WHERE n <> (SELECT count(*) FROM feed);
SQL
	return;
}

# Kill the postmaster, and wait until the processes that it leaves behind have
# noticed, and until init has collected the postmaster: the next one does not
# start before.  A server works in its data directory.  A process that was sent
# SIGSTOP is killed too.
sub kill_server
{
	my ($node, $stopped) = @_;
	my $data_dir = $node->data_dir;
	my ($pid) = split /\n/, slurp_file("$data_dir/postmaster.pid");

	$node->kill9;
	kill 'KILL', $stopped if $stopped;
	for my $tries (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return unless -e "/proc/$pid" || grep { (readlink "$_/cwd" // '') eq $data_dir } glob '/proc/[0-9]*';
		usleep(100_000);
	}
	die 'processes outlive their postmaster';
}

# Lines of the server's log from an offset that match.
sub log_lines
{
	my ($node, $pattern, $offset) = @_;

	return grep { $_ =~ $pattern } split /\n/, slurp_file($node->logfile, $offset // 0);
}

# Build demo/listener.c and make its tables; returns the program.
sub build_listener
{
	my ($node) = @_;
	my $demo = "$FindBin::RealBin/../../demo";
	my $dir = PostgreSQL::Test::Utils::tempdir();

	system_or_bail('make', '--silent', '--always-make', "--directory=$dir", "--file=$demo/Makefile", "VPATH=$demo", 'listener');
	$node->safe_psql('postgres', slurp_file("$demo/listener.sql"));
	return "$dir/listener";
}

# --- load: clients whose committed work is known --------------------------------

# What the load's transactions write beside their events.
sub create_load_tables
{
	my ($node) = @_;

	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE ledger (id bigint, client int, n int, i int);
CREATE TABLE counter (c int PRIMARY KEY, v int);
INSERT INTO counter SELECT c, 0 FROM generate_series(1, 20) c;
SQL
	return;
}

# A transaction emits up to four events and notes them in the ledger, some of
# them within a savepoint that is rolled back; it then draws from one of twenty
# counters and emits what it got, under the counter's row lock.  One in five
# rolls back.
my $load_script = <<'PGBENCH';
\set n :n + 1
\set events random(1, 4)
\set c random(1, 20)
\set verdict random(1, 100)
\set savepoint random(1, 100)
BEGIN;
WITH e AS MATERIALIZED (
	SELECT eventstore.emit('load', jsonb_build_object('client', :client_id, 'n', :n, 'i', i), key => 'client-' || :client_id) AS id, i
	FROM generate_series(1, :events) i)
INSERT INTO ledger SELECT id, :client_id, :n, i FROM e;
\if :savepoint <= 10
SAVEPOINT s;
SELECT eventstore.emit('load.undone');
ROLLBACK TO s;
\endif
WITH u AS MATERIALIZED (
	UPDATE counter SET v = v + 1 WHERE c = :c RETURNING v),
e AS MATERIALIZED (
	SELECT eventstore.emit('counter', to_jsonb(v), key => 'counter-' || :c) AS id FROM u)
INSERT INTO ledger SELECT id, :client_id, :n, 5 FROM e;
\if :verdict <= 20
ROLLBACK;
\else
COMMIT;
\endif
PGBENCH

# Start pgbench with 16 clients for $seconds at most; further arguments are
# pgbench options.  $first numbers the clients' transactions, so that several
# loads follow each other in order.  Returns a handle for stop_load().
sub start_load
{
	my ($node, $seconds, $first, @options) = @_;
	my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';

	append_to_file($script, $load_script);
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGAPPNAME} = 'load';
	my $output = '';
	return IPC::Run::start(
		[
			'pgbench', '--no-vacuum', '--client=16', "--time=$seconds", "--define=n=$first",
			"--file=$script", @options, 'postgres'
		],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

# End the load, and wait until its last transactions are over.
sub stop_load
{
	my ($node, $load) = @_;

	$load->signal('TERM');
	eval { $load->finish };
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'load'")
	  or die 'the load does not end';
	return;
}

# The feed has the events of the ledger, no less and no more, and in the order
# that it promises: each client's as it emitted them, since its commits returned
# in between; each counter's by value, since each was emitted under the row lock.
sub feed_is_what_was_committed
{
	my ($node, $name) = @_;

	is($node->safe_psql('postgres', <<'SQL'), '', "$name: the feed is what was committed, in order");
CREATE TEMP TABLE feed AS SELECT * FROM eventstore.read(0, 2147483647);
CREATE INDEX ON feed (id);
ANALYZE feed;

SELECT 'committed and not in the feed: ' || count(*)
	FROM ledger LEFT JOIN feed USING (id) WHERE feed.id IS NULL HAVING count(*) > 0;
SELECT 'in the feed and not committed: ' || count(*)
	FROM feed LEFT JOIN ledger USING (id) WHERE ledger.id IS NULL HAVING count(*) > 0;
SELECT 'client ' || client || ' transaction ' || n || ' at position ' || position || ' is out of order'
	FROM (SELECT client, n, position, (n, i) < lag((n, i)) OVER (PARTITION BY client ORDER BY position) AS wrong
		  FROM feed JOIN ledger USING (id)) e
	WHERE wrong LIMIT 5;
SELECT key || ': ' || v || ' at position ' || position || ' follows ' || previous
	FROM (SELECT key, payload::int AS v, position,
				 lag(payload::int, 1, 0) OVER (PARTITION BY key ORDER BY position) AS previous
		  FROM feed WHERE type = 'counter') e
	WHERE v <> previous + 1 LIMIT 5;
SELECT 'counter ' || c || ' is ' || v || ', with ' || (SELECT count(*) FROM feed WHERE key = 'counter-' || c) || ' events'
	FROM counter WHERE v <> (SELECT count(*) FROM feed WHERE key = 'counter-' || c) LIMIT 5;
SQL
	return;
}

1;
