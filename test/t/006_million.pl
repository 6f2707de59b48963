# A million events in one transaction: the others go on, and the dispatcher
# needs no more memory for it than for a thousand.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $million = 1_000_000;

# Small buffers, for they count as memory of whoever touched them.
my $node = new_server(
	'main', conf => <<'CONF');
shared_buffers = 16MB
maintenance_work_mem = 16MB
max_wal_size = 4GB
autovacuum = off
CONF

# The most memory that the dispatcher has ever had, in kB.
sub peak_memory
{
	my ($pid) = @_;

	slurp_file("/proc/$pid/status") =~ /^VmHWM:\s*(\d+) kB/m or die 'no VmHWM';
	return $1;
}

create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('small', 'notify:small', types => '{small.*}')");

# What is ordinary work for it.
$node->safe_psql('postgres', "SELECT count(eventstore.emit('small.first')) FROM generate_series(1, 1000)");
wait_until_sealed($node);
my $pid = dispatcher_pid($node);
my $before = peak_memory($pid);

my $bulk = $node->background_psql('postgres', on_error_stop => 1);
$bulk->query_until(qr/begun/, "\\echo begun\nBEGIN; SELECT count(eventstore.emit('bulk', to_jsonb(i))) FROM generate_series(1, $million) i;\n");
$node->poll_query_until('postgres', "SELECT last_value > 100000 FROM eventstore_internal.event_id") or die 'no bulk load';
$node->safe_psql('postgres', "SELECT eventstore.emit('small.meanwhile')");
ok( $node->poll_query_until('postgres', "SELECT position = 1001 AND delivered = 1001 FROM eventstore.subscription_status"),
	'while it emits, an event of another transaction is delivered');
$bulk->query_safe('SELECT 1');
is($node->safe_psql('postgres', "SELECT count(*) FROM eventstore.event WHERE type = 'bulk'"), '0', 'it is not committed yet');
$node->safe_psql('postgres', "SELECT eventstore.emit('small.before_commit')");
ok( $node->poll_query_until('postgres', "SELECT position = 1002 AND delivered = 1002 FROM eventstore.subscription_status"),
	'nor does it hold up others when it has emitted');

$bulk->query_safe('COMMIT');
$bulk->quit;
$node->safe_psql('postgres', "SELECT eventstore.emit('small.after')");
my $head = $million + 1003;
ok($node->poll_query_until('postgres', "SELECT eventstore.head() = $head"), 'it is sealed');
ok( $node->poll_query_until('postgres', "SELECT position = $head AND delivered = 1003 FROM eventstore.subscription_status"),
	'and an event behind it is delivered');

# All of it stands in the feed, in the order of emission.
is( $node->safe_psql(
		'postgres', qq{
		SELECT count(*), min(n), max(n), count(*) FILTER (WHERE n <> previous + 1)
		FROM (SELECT n, lag(n, 1, 0) OVER (ORDER BY position) AS previous
			  FROM (SELECT position, payload::int AS n FROM eventstore.read(0, 2147483647, '{bulk}')) r) r}),
	"$million|1|$million|0",
	'it arrived whole and in order');
is($node->safe_psql('postgres', 'SELECT count(*) < 10 FROM eventstore_internal.segment WHERE first_position > 1001'),
	't', 'in a few segments');

# Somebody who wants all of it, and somebody who does not wait for that.
$node->safe_psql('postgres', "SELECT eventstore.subscribe('everything', 'notify:everything', start_after => 0)");
$node->poll_query_until('postgres', "SELECT position > 10000 FROM eventstore.subscription_status WHERE name = 'everything'")
  or die 'no delivery';
$node->safe_psql('postgres', "SELECT eventstore.emit('small.meanwhile')");
is( $node->poll_query_until('postgres', "SELECT position = $head + 1 FROM eventstore.subscription_status WHERE name = 'small'"),
	1, 'an event is delivered while another subscription catches up');
cmp_ok($node->safe_psql('postgres', "SELECT lag_events FROM eventstore.subscription_status WHERE name = 'everything'"),
	'>', 1000, 'which it does');
ok( $node->poll_query_until('postgres', "SELECT delivered = $head + 1 FROM eventstore.subscription_status WHERE name = 'everything'"),
	'a million notifications');

my $after = peak_memory($pid);
is(dispatcher_pid($node), $pid, 'by the same dispatcher');
note "peak memory of the dispatcher: $before kB before, $after kB after";
cmp_ok($after - $before, '<', 64 * 1024, 'its memory is bounded');

$node->stop;
done_testing();
