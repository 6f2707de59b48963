# Prepared transactions: committed by a session that never heard of the events,
# perhaps after a crash; and one whose xid a snapshot lists twice.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# max_wal_senders > 0, for synchronous_standby_names to mean anything
my $node = new_server(
	'main',
	init => [ allows_streaming => 1 ],
	conf => "max_prepared_transactions = 10\nfsync = on\neventstore.poll_interval = 200ms");

create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('all', 'notify:all')");

# Emit the events $name.1 to $name.3 and an undone one, and prepare.
sub prepare
{
	my ($name) = @_;

	$node->safe_psql('postgres', qq{
		BEGIN;
		SELECT eventstore.emit('$name.' || i) FROM generate_series(1, 2) i;
		SAVEPOINT s;
		SELECT eventstore.emit('$name.undone');
		ROLLBACK TO s;
		SELECT eventstore.emit('$name.3');
		PREPARE TRANSACTION '$name';
	});
	return;
}

# Types in the feed, in order, that begin with $prefix.
sub feed
{
	my ($prefix) = @_;

	return $node->safe_psql('postgres',
		"SELECT string_agg(type, ' ' ORDER BY position) FROM eventstore.read(0, 1000000) WHERE type LIKE '$prefix%'");
}

# Wait for an event of this type to be notified; nobody wakes the dispatcher.
sub wait_for_event
{
	my ($type) = @_;

	$node->poll_query_until('postgres', qq{
		SELECT s.position = eventstore.head() AND EXISTS (SELECT FROM eventstore.tail(100) t WHERE t.type = '$type')
		FROM eventstore.subscription_status s}) or die "$type is not delivered";
	return;
}

# --- another session, a restart, a crash ---------------------------------------

prepare('plain');
prepare('restart');
prepare('crash');
prepare('rollback');
prepare('rollback_late');
$node->safe_psql('postgres', "SELECT eventstore.emit('other')");
wait_for_event('other');
is(feed(''), 'other', 'prepared is not committed; others pass by');

$node->safe_psql('postgres', "COMMIT PREPARED 'plain'");
wait_for_event('plain.3');
is(feed('plain'), 'plain.1 plain.2 plain.3', 'COMMIT PREPARED from another session');

$node->safe_psql('postgres', "ROLLBACK PREPARED 'rollback'");
$node->restart;
is(feed('restart'), '', 'after a restart it is still prepared');
$node->safe_psql('postgres', "COMMIT PREPARED 'restart'");
wait_for_event('restart.3');
is(feed('restart'), 'restart.1 restart.2 restart.3', 'COMMIT PREPARED after a restart');

$node->safe_psql('postgres', "SELECT eventstore.emit('other')");
kill_server($node);
$node->start;
$node->safe_psql('postgres', "SELECT eventstore.emit('after_crash')");
wait_for_event('after_crash');
is(feed('crash'), '', 'after a crash it is still prepared');
$node->safe_psql('postgres', "COMMIT PREPARED 'crash'; ROLLBACK PREPARED 'rollback_late'");
wait_for_event('crash.3');
is(feed('crash'), 'crash.1 crash.2 crash.3', 'COMMIT PREPARED after a crash');

# A crash after COMMIT PREPARED, before anybody looked.
prepare('unseen');
$node->safe_psql('postgres', "COMMIT PREPARED 'unseen'");
kill_server($node);
$node->start;
wait_for_event('unseen.3');
is(feed('unseen'), 'unseen.1 unseen.2 unseen.3', 'COMMIT PREPARED, then a crash');

$node->safe_psql('postgres', "SELECT eventstore.emit('last')");
wait_for_event('last');
is(feed('rollback'), '', 'ROLLBACK PREPARED, at once and after a crash');
is($node->safe_psql('postgres', 'SELECT delivered = eventstore.head() FROM eventstore.subscription_status'),
	't', 'each event was notified once');
feed_is_sound($node, 'prepared transactions');

# --- an xid that stands in the snapshot twice ------------------------------------

# PREPARE TRANSACTION enters the prepared transaction among the running ones, and
# takes the session out of them only at its very end.  In between it waits for
# the synchronous standby; here for one that does not exist, as long as we
# please.  A sealer that keeps the xid twice in its list of running transactions
# would look for its events twice when it has ended.
#
# The passes are made by hand: the dispatcher would wait for the standby too, as
# it must.
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->restart;
my $head = $node->safe_psql('postgres', 'SELECT eventstore.head()');
my $patience = 'SET synchronous_commit = local';

my @sessions;
for my $i (1 .. 3)
{
	my $session = $node->background_psql('postgres', on_error_stop => 1);

	$session->query_safe("SET application_name = 'preparing'");
	$session->query_until(
		qr/prepare now/, qq{
		BEGIN;
		SELECT eventstore.emit('twice.$i.' || j) FROM generate_series(1, 3) j;
		\\echo prepare now
		PREPARE TRANSACTION 'twice.$i';
	});
	push @sessions, $session;
}
$node->poll_query_until('postgres',
	"SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'preparing' AND wait_event = 'SyncRep'")
  or die 'PREPARE TRANSACTION does not wait';

for my $i (1 .. 3)
{
	$node->safe_psql('postgres', "$patience; SELECT eventstore.emit('meanwhile')");
	is($node->safe_psql('postgres', "$patience; SELECT eventstore.seal()"), '1', "pass $i while PREPARE waits");
}

$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
$node->poll_query_until('postgres', 'SELECT count(*) = 3 FROM pg_prepared_xacts') or die 'PREPARE TRANSACTION does not end';
$node->poll_query_until('postgres',
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'preparing' AND wait_event = 'SyncRep'")
  or die 'PREPARE TRANSACTION does not end';
$_->quit for @sessions;

$node->safe_psql('postgres', "COMMIT PREPARED 'twice.1'");
is($node->safe_psql('postgres', 'SELECT eventstore.seal()'), '3', 'COMMIT PREPARED: its events are sealed, once');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'twice.2'");
$node->safe_psql('postgres', "COMMIT PREPARED 'twice.3'");
is($node->safe_psql('postgres', 'SELECT eventstore.seal()'), '3', 'and so are the next one\'s');
is($node->safe_psql('postgres', 'SELECT eventstore.seal()'), '0', 'nothing is left');
is( $node->safe_psql(
		'postgres', "SELECT string_agg(type, ' ' ORDER BY position) FROM eventstore.read($head, 1000)"),
	'meanwhile meanwhile meanwhile twice.1.1 twice.1.2 twice.1.3 twice.3.1 twice.3.2 twice.3.3',
	'no event is in the feed twice');
feed_is_sound($node, 'an xid that stands in the snapshot twice');

$node->stop;
done_testing();
