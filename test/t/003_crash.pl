# The postmaster is killed under load, again and again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $crashes = 10;

my $node = new_server('main', conf => "fsync = on\neventstore.partition_size = 20000");

create_load_tables($node);
create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('load', 'notify:load')");
my $program = build_listener($node);

# It connects again by itself, and lives through all of it.
my $listener = IPC::Run::start([ $program, '-c', 'load', $node->connstr('postgres') ],
	'<', \undef, '>', '/dev/null', '2>', '/dev/null');

my $dir = PostgreSQL::Test::Utils::tempdir();
my $watch = "$dir/watch.sql";
append_to_file($watch, "SELECT position, id FROM eventstore.tail(300)\n\\watch 0.01\n");
my %seen;    # what anybody was told: id by position

for my $crash (1 .. $crashes)
{
	my $head = $node->safe_psql('postgres', 'SELECT eventstore.head()');
	my $load = start_load($node, 300, $crash * 1_000_000);

	# Somebody outside who writes down what he reads, up to the last moment.
	my $watched = "$dir/watched.$crash";
	my $reader = IPC::Run::start(
		[
			'psql', '--no-psqlrc', '--tuples-only', '--no-align', '--quiet',
			'--dbname', $node->connstr('postgres')
		],
		'<', $watch,
		'>', $watched, '2>', '/dev/null');

	# let the load's transactions make some way, not always the same
	my $more = 100 + 80 * $crash;
	$node->poll_query_until('postgres', "SELECT eventstore.head() > $head + $more") or die 'nothing is sealed';
	kill_server($node);
	eval { $reader->finish };
	eval { $load->finish };

	$node->start;

	my $lines = 0;
	for (split /\n/, slurp_file($watched))
	{
		next unless /^(\d+)\|(\d+)$/;
		$lines++;
		die "crash $crash: position $1 was event $2 and event $seen{$1}" if exists $seen{$1} && $seen{$1} != $2;
		$seen{$1} = $2;
	}

	wait_for_dispatcher($node);
	wait_until_sealed($node);
	cmp_ok($lines, '>', 0, "crash $crash: something had been read");
	feed_is_sound($node, "crash $crash");
}

feed_is_what_was_committed($node, 'in the end');

my %feed = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT position, id FROM eventstore.read(0, 2147483647)');
my @gone = grep { !exists $feed{$_} || $feed{$_} != $seen{$_} } sort { $a <=> $b } keys %seen;
is("@gone", '', 'what was read before a crash is there after it');
note scalar(keys %seen) . ' positions had been read before a crash';

$node->poll_query_until('postgres', "SELECT position = eventstore.head() FROM listener")
  or die 'the listener does not get to the end';
$listener->signal('TERM');
eval { $listener->finish };
is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger l WHERE NOT EXISTS (SELECT FROM handled h WHERE h.id = l.id)'),
	'0', 'the listener missed none');
is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT id) FROM handled'), '0', 'it handled none twice');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM handled h LEFT JOIN eventstore.read(0, 2147483647) r USING (position) WHERE h.id IS DISTINCT FROM r.id'),
	'0', 'it handled what is in the feed');
is(join("\n", log_lines($node, qr/(ERROR|PANIC|TRAP|terminated by signal)/)), '', 'no error in the log');

$node->stop;
done_testing();
