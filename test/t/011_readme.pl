# The README's SQL runs as it is written, in its order, and does what the text
# around it says: what the first screen promises, above all.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my @blocks = $readme =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar @blocks, '>=', 8, 'the README has SQL');

my $node = new_server('main');

# What the README takes for granted: a table, and the roles it grants to.
$node->safe_psql('postgres', q{
	CREATE TABLE orders (id int PRIMARY KEY, state text, amount numeric);
	INSERT INTO orders VALUES (41, 'placed', 10), (42, 'placed', 99);
	CREATE ROLE app; CREATE ROLE reader; CREATE ROLE operator;
});

# One session for all, as a reader would try them, since SET LOCAL, LISTEN and
# the names of one block are used in the next.
my ($stdout, $stderr);
my $status = $node->psql('postgres', join("\n", @blocks),
	stdout => \$stdout, stderr => \$stderr, on_error_stop => 1);
is($status, 0, 'all of it runs without an error') or diag($stderr);
unlike($stderr, qr/WARNING/, 'and without a warning');

# The first screen: an order is canceled, and who listens hears of it.
wait_for_dispatcher($node);
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN refunds');
$node->safe_psql('postgres', "UPDATE orders SET state = 'canceled' WHERE id = 41");
wait_until_sealed($node);
my $heard = '';
for (1 .. 600)
{
	$heard .= $listener->query('SELECT 1');
	last if $heard =~ /Asynchronous notification "refunds"/;
	usleep(100_000);
}
like($heard, qr/"type":"order\.canceled","key":"orders-41"/, 'a canceled order is heard of');
$listener->quit;

# The grants are enough for what the text says, and for no more.
for my $try (
	[ 'app', q{SELECT eventstore.emit('a.b')}, 1 ],
	[ 'app', 'SELECT * FROM eventstore.read()', 0 ],
	[ 'reader', 'SELECT * FROM eventstore.read()', 1 ],
	[ 'reader', q{SELECT eventstore.emit('a.b')}, 0 ],
	[ 'operator', 'SELECT * FROM eventstore.subscription_status', 1 ],
	[ 'operator', q{SELECT eventstore.emit('a.b')}, 0 ])
{
	my ($role, $sql, $may) = @$try;
	my $result = $node->psql('postgres', "SET ROLE $role; $sql", stderr => \$stderr);
	is($result == 0 ? 1 : 0, $may, "$role " . ($may ? 'may' : 'may not') . ": $sql");
}

$node->stop;
done_testing();
