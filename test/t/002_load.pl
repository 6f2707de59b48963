# Sixteen clients emit, one in five transactions rolls back; meanwhile the
# dispatcher seals and notifies, and a listener is killed and started again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Least number of transactions, and of times that the listener is killed.
my $transactions = 8_000;
my $kills = 10;

# A small partition_size, so that leaves are made under load; but large enough
# for the dispatcher to be ahead.
my $node = new_server('main', conf => 'eventstore.partition_size = 20000');

create_load_tables($node);
create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('load', 'notify:load')");
my $program = build_listener($node);

sub start_listener
{
	return IPC::Run::start([ $program, '-c', 'load', $node->connstr('postgres') ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

my $load = start_load($node, 300, 0);
my $listener = start_listener();
my $handled = 0;

for my $kill (1 .. $kills)
{
	$node->poll_query_until('postgres', "SELECT max(position) > $handled + 500 FROM handled")
	  or die 'the listener handles nothing';
	$listener->signal('KILL');
	eval { $listener->finish };
	$handled = $node->safe_psql('postgres', 'SELECT max(position) FROM handled');

	# leave something behind for it to catch up with
	$node->poll_query_until('postgres', "SELECT eventstore.head() > $handled + 200") or die 'nothing is sealed';
	$listener = start_listener();
}
$node->poll_query_until('postgres', "SELECT count(*) > 3 * $transactions FROM ledger") or die 'no load';
stop_load($node, $load);

wait_until_sealed($node);
feed_is_sound($node, 'load');
feed_is_what_was_committed($node, 'load');

$node->poll_query_until('postgres',
	"SELECT position = eventstore.head() FROM listener")
  or die 'the listener does not get to the end';
my $behind = $node->safe_psql('postgres', 'SELECT max(position) FROM handled');

# Slowly enough for the listener to be at the head: it takes notifications.
$load = start_load($node, 300, 1_000_000, '--rate=100');
$node->poll_query_until('postgres', "SELECT max(position) > $behind + 500 FROM handled")
  or die 'the listener handles nothing';
stop_load($node, $load);
wait_until_sealed($node);
$node->poll_query_until('postgres',
	"SELECT position = eventstore.head() FROM listener")
  or die 'the listener does not get to the end';
$listener->signal('TERM');
eval { $listener->finish };
feed_is_what_was_committed($node, 'with the listener at the head');

is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger l WHERE NOT EXISTS (SELECT FROM handled h WHERE h.id = l.id)'),
	'0', 'the listener missed none');
is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT id) FROM handled'), '0', 'it handled none twice');
is($node->safe_psql('postgres', 'SELECT count(*) FROM handled h WHERE NOT EXISTS (SELECT FROM ledger l WHERE h.id = l.id)'),
	'0', 'it handled nothing that was rolled back');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM handled h JOIN eventstore.read(0, 2147483647) r USING (position) WHERE h.id <> r.id OR h.payload <> r.payload'),
	'0', 'it handled what is in the feed');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM handled WHERE notified AND position > $behind"),
	'>', 450, 'it took notifications');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM handled WHERE NOT notified AND position <= $behind"),
	'>', 450, 'and read what it had missed');

# Not a fault of ours if these were not so, but then little was tested.
cmp_ok($node->safe_psql('postgres', 'SELECT last_value - (SELECT count(*) FROM eventstore.event) FROM eventstore_internal.event_id'),
	'>', $transactions / 10, 'ids of transactions that rolled back');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM eventstore_internal.segment'),
	'>', 100, 'segments');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'eventstore.event'::regclass}),
	'>', 2, 'leaves');
is(join("\n", log_lines($node, qr/(ERROR|PANIC|TRAP|terminated by signal)/)), '', 'no error in the log');

note $node->safe_psql('postgres',
	"SELECT 'events ' || (SELECT count(*) FROM eventstore.event) || ', segments ' || (SELECT count(*) FROM eventstore_internal.segment)"
	  . " || ', passes ' || (SELECT max(pass) FROM eventstore_internal.pass)"
	  . " || ', notified ' || count(*) FILTER (WHERE notified) || ', read ' || count(*) FILTER (WHERE NOT notified) FROM handled");
$node->stop;
done_testing();
