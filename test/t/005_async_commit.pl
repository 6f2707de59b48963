# Transactions that commit without waiting for the disk (synchronous_commit =
# off) can be lost in a crash.  Nobody may have been told of their events.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

# Nothing but our own passes makes WAL durable: the WAL writer sleeps, and
# nobody vacuums.
my $node = new_server('main', conf => <<'CONF');
fsync = on
synchronous_commit = off
wal_writer_delay = 10s
autovacuum = off
CONF

create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('all', 'notify:all')");

my $dir = PostgreSQL::Test::Utils::tempdir();
my %seen;    # id by position, as read and as notified
my %notified;

# --- what was delivered is durable ------------------------------------------------

for my $crash (1 .. 3)
{
	my $head = $node->safe_psql('postgres', 'SELECT eventstore.head()');
	my $watched = "$dir/watched.$crash";
	my $reader = IPC::Run::start(
		[ 'yes', 'SELECT position, id FROM pg_sleep(0.01), eventstore.tail(100);' ], '2>', '/dev/null',
		'|',
		[
			'psql', '--no-psqlrc', '--tuples-only', '--no-align', '--quiet',
			'--dbname', $node->connstr('postgres'),
			'--command', 'LISTEN "all"', '--file', '-'
		],
		'>', $watched, '2>', '/dev/null');
	$node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT position, id%'}) or die 'nobody watches';

	my $last = (split /\n/, $node->safe_psql('postgres',
			join '', map { "SELECT eventstore.emit('async.$crash.$_');\n" } 1 .. 20))[-1];
	my $deadline = 100 * $PostgreSQL::Test::Utils::timeout_default;
	until (slurp_file($watched) =~ /"id":$last\b/ && slurp_file($watched) =~ /^\d+\|$last$/m)
	{
		die 'events are not delivered' if --$deadline < 0;
		Time::HiRes::usleep(10_000);
	}
	kill_server($node);
	eval { $reader->finish };

	for (split /\n/, slurp_file($watched))
	{
		if (/^(\d+)\|(\d+)$/) { $seen{$1} = $2; }
		elsif (/"position":(\d+),.*"id":(\d+)/) { $notified{$1} = $2; }
	}
	$node->start;
	wait_for_dispatcher($node);

	my %feed = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT position, id FROM eventstore.read(0, 1000000)');
	for my $told (\%seen, \%notified)
	{
		cmp_ok(scalar(keys %$told), '>=', 20 * $crash,
			"crash $crash: events were " . ($told == \%seen ? 'read' : 'notified'));
		is(join(' ', grep { ($feed{$_} // 0) != $told->{$_} } sort { $a <=> $b } keys %$told),
			'', "crash $crash: and are there after it");
	}
	feed_is_sound($node, "crash $crash");
}

# --- and what was not, is not -------------------------------------------------------

# So that the above means something: without a pass, such a commit is lost.
my $pid = dispatcher_pid($node);
kill 'STOP', $pid;
my $lost = $node->safe_psql('postgres', "SELECT eventstore.emit('lost')");
is($node->safe_psql('postgres', "SELECT count(*) FROM eventstore.event WHERE type = 'lost'"), '1', 'committed');
kill_server($node, $pid);
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) FROM eventstore.event WHERE type = 'lost'"),
	'0', 'and lost in a crash, while no pass made it durable');

$node->safe_psql('postgres', "SELECT eventstore.emit('next')");
wait_until_sealed($node);
is($node->safe_psql('postgres', "SELECT count(*) FROM eventstore.read(0, 1000000) WHERE type IN ('lost', 'next')"),
	'1', 'nobody hears of it');
feed_is_sound($node, 'in the end');

# --- a pass by hand is durable too --------------------------------------------------

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
my $by_hand = $node->safe_psql('postgres', "SELECT eventstore.emit('by_hand')");
is($node->safe_psql('postgres', 'SELECT eventstore.seal()'), '1', 'seal() under synchronous_commit = off');
is($node->safe_psql('postgres', 'SELECT id FROM eventstore.tail(1)'), $by_hand, 'it is read');
kill_server($node);
$node->start;
is($node->safe_psql('postgres', 'SELECT id FROM eventstore.tail(1)'), $by_hand, 'and read again after a crash');

$node->stop;
done_testing();
