# What the TAP tests share: servers that preload the extension, and the checker
# that compares a feed with what was committed.

package EventstoreTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  new_server
  create_extension
  dispatcher_pid
  wait_for_dispatcher
  wait_for_no_dispatcher
  wait_until_sealed
  feed_is_sound
  log_lines
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

# Lines of the server's log from an offset that match.
sub log_lines
{
	my ($node, $pattern, $offset) = @_;

	return grep { $_ =~ $pattern } split /\n/, slurp_file($node->logfile, $offset // 0);
}

1;
