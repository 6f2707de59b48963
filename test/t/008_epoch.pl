# Standbys, promotions that lose a tail, and copies of a database: no id and no
# position is issued twice, and whoever saw what was lost is told.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $epoch_size = 1_000_000_000_000;

# The SQLSTATE that a statement fails with, and its message and detail.
sub failure
{
	my ($server, $sql, $dbname) = @_;
	my ($ret, $stdout, $stderr) = $server->psql($dbname // 'postgres', "\\set VERBOSITY verbose\n$sql");

	my ($state, $message) = $stderr =~ /ERROR:\s+(\w{5}): (.*)/ or return 'no error';
	my ($detail) = $stderr =~ /DETAIL:\s+(.*)/;
	return "$state $message" . (defined $detail ? " $detail" : '');
}

# Positions, ids and types behind a position.
sub feed
{
	my ($server, $after, $dbname) = @_;

	return $server->safe_psql($dbname // 'postgres',
		"SELECT string_agg(position || '=' || id || ':' || type, ' ' ORDER BY position) FROM eventstore.read($after)");
}

sub emit
{
	my ($server, $dbname, @types) = @_;

	return map { $server->safe_psql($dbname, "SELECT eventstore.emit('$_')") } @types;
}

# --- a standby ------------------------------------------------------------------

my $primary = new_server('primary', init => [ allows_streaming => 1 ]);
create_extension($primary);
emit($primary, 'postgres', 'a', 'b', 'c');
wait_until_sealed($primary);

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

emit($primary, 'postgres', 'd');
wait_until_sealed($primary);
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is(feed($standby, 0), '1=1:a 2=2:b 3=3:c 4=4:d', 'read() on a standby');
is($standby->safe_psql('postgres', 'SELECT eventstore.head()'), '4', 'head() on a standby');
is($standby->safe_psql('postgres', 'SELECT type FROM eventstore.tail(1)'), 'd', 'tail() on a standby');
like(failure($standby, "SELECT eventstore.emit('x')"), qr/^25006 cannot execute eventstore.emit/, 'emit() is refused');
like(failure($standby, 'SELECT eventstore.seal()'), qr/^25006 cannot execute eventstore.seal/, 'seal() is refused');
like(failure($standby, "SELECT eventstore.subscribe('x', 'notify:x')"), qr/^25006 /, 'subscribe() is refused');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'eventstore%'"),
	'0', 'no workers on a standby');

# A reader that was at the primary is ahead of the standby.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
emit($primary, 'postgres', 'e');
wait_until_sealed($primary);
is( failure($standby, 'SELECT * FROM eventstore.read(after => 5)'),
	'40001 position 5 has not been replayed on this standby yet It has replayed up to 4.',
	'a standby that lags behind: try again');
is( failure($standby, 'SELECT * FROM eventstore.read(after => 3, upto => 5)'),
	'40001 position 5 has not been replayed on this standby yet It has replayed up to 4.',
	'likewise a page up to where the primary is: it would be short, and look complete');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is(feed($standby, 5), '', 'then it goes on');

# --- promotion without the tail -----------------------------------------------------

# The standby hears no more; the primary goes on, readers follow it, and it dies.
# One event was replicated and not sealed: the dispatcher is kept from it.
my $pid = dispatcher_pid($primary);
kill 'STOP', $pid;
emit($primary, 'postgres', 'unsealed');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$standby->stop;
kill 'CONT', $pid;
emit($primary, 'postgres', 'lost.1', 'lost.2', 'lost.3');
wait_until_sealed($primary);
is(feed($primary, 5), '6=6:unsealed 7=7:lost.1 8=8:lost.2 9=9:lost.3', 'a tail that will be lost');
kill_server($primary);

# No workers at first, to see what emitting does by itself.
$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\nprimary_conninfo = ''");
$standby->start;

# Two standbys behind each other: the second one will not hear all of the first.
$standby->promote;
$standby->backup('backup');
my $second = PostgreSQL::Test::Cluster->new('second');
$second->init_from_backup($standby, 'backup', has_streaming => 1);

my ($id) = emit($standby, 'postgres', 'after.1');
is($id, $epoch_size + 1, 'emitted before the first pass: the id is of the new epoch');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM eventstore_internal.epoch'), '1', 'which has no row yet');
is(feed($standby, 5), '', 'a reader at the end of the old history finds nothing yet');

$standby->safe_psql('postgres', 'SELECT eventstore.seal()');
my ($p1, $p2) = ($epoch_size + 1, $epoch_size + 2);
is(feed($standby, 5), "$p1=6:unsealed $p2=$id:after.1",
	'it goes on into the new epoch; the event that was not sealed is there too');
is( failure($standby, 'SELECT * FROM eventstore.read(after => 8)'),
	'ES001 position 8 is of another history This history ended at 5.',
	'a reader that saw the lost tail is told');
is( failure($standby, 'SELECT * FROM eventstore.read(after => 6)'),
	'ES001 position 6 is of another history This history ended at 5.',
	'also one that saw only an event that came again at another place');
is( failure($standby, "SELECT eventstore.subscribe('x', 'notify:x', start_after => 8)"),
	'ES001 position 8 is of another history This history ended at 5.',
	'so is one that subscribes');
is(feed($standby, $epoch_size), "$p1=6:unsealed $p2=$id:after.1", 'one may begin at the new epoch');

emit($standby, 'postgres', map { "after.$_" } 2 .. 10);
is($standby->safe_psql('postgres', 'SELECT eventstore.seal()'), '9', 'more events than were lost');
like(failure($standby, 'SELECT * FROM eventstore.read(after => 8)'), qr/^ES001 /, 'it is told for ever');
like(failure($standby, 'SELECT * FROM eventstore.read(after => ' . ($epoch_size + 20) . ')'),
	qr/^ES001 .*This history ended at ${\($epoch_size + 11)}\./, 'a position that never was is of another history too');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM eventstore.read(4)'), '12', 'pages go over the jump');
feed_is_sound($standby, 'promotion');

# --- restart ------------------------------------------------------------------------

$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'eventstore'");
$standby->restart;
wait_for_dispatcher($standby);
$standby->safe_psql('postgres', "SELECT eventstore.subscribe('all', 'notify:all')");
($id) = emit($standby, 'postgres', 'restarted');
wait_until_sealed($standby);
is($id - $epoch_size, 11, 'after a restart ids go on') or note $id;
is($standby->safe_psql('postgres', "SELECT eventstore.head() - $epoch_size"), '12', 'and positions');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM eventstore_internal.epoch'), '2', 'no new epoch');
ok( $standby->poll_query_until('postgres', 'SELECT position = eventstore.head() AND delivered = 1 FROM eventstore.subscription_status'),
	'subscriptions are served');
kill_server($standby);

# --- a promotion after one that never made a pass --------------------------------------

# The second standby was taken before anything was written on timeline 2.
$second->append_conf('postgresql.conf', "shared_preload_libraries = ''\nprimary_conninfo = ''");
$second->start;
$second->promote;
is($second->safe_psql('postgres', "SELECT timeline_id FROM pg_control_checkpoint()"), '3', 'timeline 3');
is($second->safe_psql('postgres', 'SELECT max(timeline) FROM eventstore_internal.epoch'), '1', 'of 2 it knows nothing');
($id) = emit($second, 'postgres', 'third');
is($id, 2 * $epoch_size + 1, 'ids of both timelines differ');
is($second->safe_psql('postgres', 'SELECT eventstore.seal()'), '2', 'a pass');
is(feed($second, 5), join(' ', 2 * $epoch_size + 1 . '=6:unsealed', 2 * $epoch_size + 2 . "=$id:third"), 'and positions');
is( failure($second, "SELECT * FROM eventstore.read(after => $p1)"),
	"ES001 position $p1 is of another history This history ended at 5.",
	'a reader that followed timeline 2 is told');
feed_is_sound($second, 'two promotions');

# --- an epoch that begins without events ------------------------------------------------

$second->append_conf('postgresql.conf', "shared_preload_libraries = 'eventstore'");
$second->restart;
wait_for_dispatcher($second);
$second->backup('backup');
my $fourth = PostgreSQL::Test::Cluster->new('fourth');
$fourth->init_from_backup($second, 'backup', has_streaming => 1);
$fourth->start;
my $head = $second->safe_psql('postgres', 'SELECT eventstore.head()');
$second->wait_for_catchup($fourth, 'replay', $second->lsn('insert'));
$second->stop;
$fourth->promote;
wait_for_dispatcher($fourth);
$fourth->poll_query_until('postgres', 'SELECT max(timeline) = 4 FROM eventstore_internal.epoch') or die 'no new epoch';
pass('workers start on promotion and begin an epoch');
is(feed($fourth, $head), '', 'a reader at the end of the history finds nothing');
is($fourth->safe_psql('postgres', 'SELECT eventstore.head()'), $head, 'the head is where it was');
emit($fourth, 'postgres', 'fourth');
wait_until_sealed($fourth);
is(feed($fourth, $head), 3 * $epoch_size + 1 . '=' . (3 * $epoch_size + 1) . ':fourth', 'and goes on when there is more');
feed_is_sound($fourth, 'an epoch that began without events');
$fourth->stop;

# --- copies of a database ----------------------------------------------------------------

my $origin = new_server('origin', conf => "shared_preload_libraries = ''");
$origin->safe_psql('postgres', 'CREATE DATABASE store');
$origin->safe_psql('store', 'SET client_min_messages = error; CREATE EXTENSION eventstore');
emit($origin, 'store', 'one', 'two');
$origin->safe_psql('store', 'SELECT eventstore.seal()');
emit($origin, 'store', 'three', 'four');
$origin->safe_psql('store', "BEGIN; SELECT eventstore.emit('undone'); ROLLBACK");

$origin->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE store');
is($origin->safe_psql('copy', 'SELECT eventstore.seal()'), '2', 'CREATE DATABASE ... TEMPLATE: what waited is sealed');
is(feed($origin, 2, 'copy'), "$p1=3:three $p2=4:four", 'in a new epoch');
($id) = emit($origin, 'copy', 'in_copy');
is($id, $epoch_size + 1, 'which its ids are of');
is($origin->safe_psql('copy', 'SELECT eventstore.seal()'), '1', 'nothing comes twice');
feed_is_sound($origin, 'the copy', 'copy');

($id) = emit($origin, 'store', 'in_original');
is($id, 6, 'the original goes on');
is($origin->safe_psql('store', 'SELECT eventstore.seal()'), '3', 'with what waited there');
is(feed($origin, 0, 'store'), '1=1:one 2=2:two 3=3:three 4=4:four 5=6:in_original', 'in its own epoch');
feed_is_sound($origin, 'the original', 'store');

# Emitted in the copy before its first pass.
$origin->safe_psql('postgres', 'CREATE DATABASE copy2 TEMPLATE store');
($id) = emit($origin, 'copy2', 'early');
is($id, $epoch_size + 1, 'emitted in a copy before its first pass: the id is of the new epoch');
is($origin->safe_psql('copy2', 'SELECT eventstore.seal()'), '1', 'it is sealed');
is($origin->safe_psql('copy2', 'SELECT eventstore.seal()'), '0', 'once');
is(feed($origin, 5, 'copy2'), "$p1=$id:early", 'in the new epoch');
feed_is_sound($origin, 'another copy', 'copy2');

# --- dump and restore --------------------------------------------------------------------

# Into the same cluster: whether an xid of the dump is one of this database
# cannot be told, so none is trusted.
$origin->safe_psql('store', q{
	SELECT eventstore.emit_once('request-1', 'once');
	SELECT eventstore.subscribe('gone', 'notify:x');
	SELECT eventstore.unsubscribe('gone');
	SELECT eventstore.subscribe('kept', 'notify:x', types => '{a.*}', filter => '$.a > 1', start_after => 2);
	BEGIN; SELECT count(eventstore.emit('many')) FROM generate_series(1, 1000); COMMIT;
});
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$origin->command_ok([ 'pg_dump', '--format=custom', "--file=$dump", '--dbname', $origin->connstr('store') ], 'pg_dump');

# A dispatcher must not see half of a restore.
$origin->append_conf('postgresql.conf', "shared_preload_libraries = 'eventstore'");
$origin->restart;
$origin->safe_psql('postgres', 'CREATE DATABASE restored');
$origin->command_ok(
	[ 'pg_restore', '--exit-on-error', '--single-transaction', '--dbname', $origin->connstr('restored'), $dump ],
	'pg_restore');
wait_for_dispatcher($origin, 'restored');
wait_until_sealed($origin, 'restored');
is($origin->safe_psql('restored', 'SELECT count(*), count(xid) FROM eventstore.event'),
	'1006|0', 'all events are there, and none has an xid');
is(feed($origin, '0, 5', 'restored'), feed($origin, '0, 5', 'store'), 'what was sealed is where it was');
is( feed($origin, '5, 2', 'restored'), "$p1=7:once $p2=8:many",
	'what waited is sealed, in a new epoch');
is($origin->safe_psql('restored', 'SELECT eventstore.head()'), $epoch_size + 1001, 'once');
is( $origin->safe_psql('restored', 'SELECT name, endpoint, types, filter, state FROM eventstore.subscription'),
	'kept|notify:x|{a.*}|($."a" > 1)|active',
	'subscriptions');
ok( $origin->poll_query_until('restored',
		"SELECT position = eventstore.head() AND delivered = 0 FROM eventstore.subscription_status"),
	'and their progress');
is($origin->safe_psql('restored', "SELECT eventstore.emit_once('request-1', 'once')"), '7', 'idempotency keys');
$origin->safe_psql('restored', "SELECT eventstore.subscribe('new', 'notify:x')");
is($origin->safe_psql('restored', 'SELECT count(DISTINCT id), count(*) FROM eventstore.subscription'),
	'2|2', 'a new subscription has an id of its own');
($id) = emit($origin, 'restored', 'after');
cmp_ok($id, '>', $epoch_size, 'new events are of the new epoch');
wait_until_sealed($origin, 'restored');
is($origin->safe_psql('restored', 'SELECT eventstore.head()'), $epoch_size + 1002, 'and nothing is sealed twice');
feed_is_sound($origin, 'the restored database', 'restored');

is( $origin->safe_psql('restored', 'SELECT md5(string_agg(e::text, NULL ORDER BY id)) FROM (SELECT id, emitted_at, type, key, payload, headers FROM eventstore.event WHERE id < 2000) e'),
	$origin->safe_psql('store', 'SELECT md5(string_agg(e::text, NULL ORDER BY id)) FROM (SELECT id, emitted_at, type, key, payload, headers FROM eventstore.event WHERE id < 2000) e'),
	'events are the same');

$origin->stop;
done_testing();
