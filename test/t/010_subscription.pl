# Subscriptions while a dispatcher serves them: what the filter lets through,
# when a change takes effect, and what the status view says.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'eventstore'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION eventstore');

# Emit events and wait until every subscription that is not paused has come to
# the head, as the view tells.
sub emit
{
	my @payloads = @_;
	$node->safe_psql('postgres', "SELECT eventstore.emit('x', \$\$$_\$\$)") for @payloads;
	caught_up();
}

sub caught_up
{
	$node->poll_query_until('postgres', q{
		SELECT (SELECT count(*) FROM eventstore.event) = eventstore.head()
			AND NOT EXISTS (SELECT FROM eventstore.subscription_status WHERE state <> 'paused' AND lag_events > 0)
	}) or die 'not caught up';
}

sub delivered
{
	my ($name) = @_;
	return $node->safe_psql('postgres',
		"SELECT delivered FROM eventstore.subscription_status WHERE name = '$name'");
}

# Filters.  Each is given all payloads; a path that finds nothing, false or null
# lets none through, and so does one that fails on a payload.
my @payloads = (
	'{"amount": 50}', '{"amount": 150, "rush": true}', '{"amount": "much"}', '[{"amount": 200}]',
	'{"rush": false}', '{"rush": null}', '7', '"text"', '{"day": "2020-01-01"}', '{}');
my %filters = (
	'predicate' => [ '$.amount > 100', 2 ],
	'expression' => [ '$ ? (@.amount > 100)', 2 ],
	'strict' => [ 'strict $.amount > 100', 1 ],
	'member' => [ '$.rush', 1 ],
	'there' => [ 'exists($.rush)', 3 ],
	'whole payload' => [ '$ ? (@ == 7)', 1 ],
	'text' => [ '$ starts with "te"', 1 ],
	'with a time zone' => [ '$.day.datetime() < "2020-01-02T00:00:00+01:00".datetime()', 1 ],
	'with a bad template' => [ '$.day.datetime("YYYY@MM") < "2020-01-02".datetime()', 0 ],
	'division by zero' => [ '1 / ($.amount - $.amount) == 1', 0 ],
	'everything' => [ '1 == 1', 10 ]);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('$_', 'notify:x', filter => \$\$$filters{$_}[0]\$\$)")
  for sort keys %filters;
$node->safe_psql('postgres', "SELECT eventstore.subscribe('none', 'notify:x')");
$node->safe_psql('postgres', "SELECT eventstore.subscribe('other types', 'notify:x', '{y}')");
emit(@payloads);
is(delivered($_), $filters{$_}[1], "filter: $_") for sort keys %filters;
is(delivered('none'), scalar @payloads, 'no filter');
is(delivered('other types'), 0, 'types and no filter');

# An event whose payload is nested as deeply as can be does not stop anybody.
$node->safe_psql('postgres', q{SELECT eventstore.subscribe('deep', 'notify:x', filter => '$.**.z == 1')});
emit('[' x 5000 . ']' x 5000, '{"a": {"z": 1}}');
is(delivered('deep'), 1, 'filter: goes on behind a deep payload');

# A change holds for what is sealed after its commit.
$node->safe_psql('postgres', q{SELECT eventstore.alter_subscription('member', '{"filter": null}')});
emit('{}');
is(delivered('member'), 2, 'alter_subscription takes effect');
$node->safe_psql('postgres', q{SELECT eventstore.pause('none', 'test')});
my $before = delivered('none');
emit('1', '2', '3');
is(delivered('none'), $before, 'nothing is delivered while paused');
is($node->safe_psql('postgres', q{
		SELECT state, state_reason, lag_events, lag > '0' FROM eventstore.subscription_status WHERE name = 'none'}),
	'paused|test|3|t', 'status: paused');
$node->safe_psql('postgres', q{SELECT eventstore.resume('none')});
caught_up();
is(delivered('none'), $before + 3, 'resume delivers what came meanwhile');
is($node->safe_psql('postgres', q{
		SELECT state, state_reason, lag_events, lag, last_success_at <= now(), last_error
		FROM eventstore.subscription_status WHERE name = 'none'}),
	'active||0|00:00:00|t|', 'status: active');

# A subscription begins where it is told, whatever is running.
$node->safe_psql('postgres', q{SELECT eventstore.subscribe('history', 'notify:x', start_after => 2)});
caught_up();
is(delivered('history'), $node->safe_psql('postgres', 'SELECT eventstore.head() - 2'), 'history from start_after');

# Delivery fails: the view says so, and why, and that it is over.
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM SET eventstore.debug_fail_notify = on', 'SELECT pg_reload_conf()';
$node->safe_psql('postgres', q{SELECT eventstore.pause('deep')});
# The dispatcher may be slow to read its configuration, so emit until it fails.
$node->poll_query_until('postgres', q{
		SELECT eventstore.emit('x') > 0 AND state = 'stalled' AND last_error_at IS NOT NULL
		FROM eventstore.subscription_status WHERE name = 'none'}) or die;
is($node->safe_psql('postgres', q{SELECT state_reason, last_error FROM eventstore.subscription_status WHERE name = 'none'}),
	'delivery fails|notifications fail because eventstore.debug_fail_notify is set', 'status: stalled');
is($node->safe_psql('postgres', q{
		SELECT state, state_reason, last_error FROM eventstore.subscription_status WHERE name = 'deep'}),
	'paused||', 'status: paused while others are stalled');
$node->safe_psql('postgres', $_) for 'ALTER SYSTEM RESET eventstore.debug_fail_notify', 'SELECT pg_reload_conf()';
caught_up();
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM eventstore.subscription_status WHERE state = 'stalled' OR last_error IS NOT NULL}),
	'0', 'status: no longer stalled');
is(delivered('everything'), $node->safe_psql('postgres', 'SELECT eventstore.head()'), 'nothing was lost');

# Reading the subscriptions fails: nobody is served until that is over, and the
# view says so all the while.
sub is_stalled
{
	return $node->poll_query_until('postgres', q{
		SELECT bool_and(state = 'stalled' AND last_error LIKE 'unknown endpoint scheme%')
		FROM eventstore.subscription_status WHERE state <> 'paused'});
}
$node->safe_psql('postgres', q{UPDATE eventstore.subscription SET endpoint = 'bogus:x' WHERE name = 'whole payload'});
$node->safe_psql('postgres', q{SELECT eventstore.emit('x')});
ok(is_stalled(), 'status: a subscription is unreadable');
my $failures = q{SELECT max(last_error_at) FROM eventstore.subscription_status};
my $failed_at = $node->safe_psql('postgres', $failures);
$node->poll_query_until('postgres', "SELECT ($failures) > '$failed_at'") or die 'not tried again';
ok(is_stalled(), 'status: it still is when it is tried again');
$node->safe_psql('postgres', q{UPDATE eventstore.subscription SET endpoint = 'notify:x' WHERE name = 'whole payload'});
caught_up();
is(delivered('everything'), $node->safe_psql('postgres', 'SELECT eventstore.head()'), 'nothing was lost');

# Many long notifications: not all of them in one transaction, which would hold
# them in memory.
my $step = q{SELECT max(step) FROM eventstore_internal.progress
	WHERE subscription = (SELECT id FROM eventstore.subscription WHERE name = 'everything')};
my $steps = $node->safe_psql('postgres', $step);
$node->safe_psql('postgres', q{
	SELECT count(eventstore.emit('x', to_jsonb(repeat('y', 7000)))) FROM generate_series(1, 400)});
caught_up();
cmp_ok($node->safe_psql('postgres', $step) - $steps, '>=', 3, 'a transaction sends so many bytes');

# A subscription that has lost its progress does not begin anew when the progress
# table is rewritten, which it is when it has grown.
$node->safe_psql('postgres', q{
	DELETE FROM eventstore_internal.progress
	WHERE subscription = (SELECT id FROM eventstore.subscription WHERE name = 'history');
	INSERT INTO eventstore_internal.progress SELECT 0, i, 0, 0, 0, now() FROM generate_series(1, 150000) i});
$node->poll_query_until('postgres', q{
	SELECT count(*) = 0 FROM eventstore_internal.progress WHERE subscription = 0}) or die 'not rewritten';
is($node->safe_psql('postgres', q{
		SELECT state, state_reason, position FROM eventstore.subscription_status WHERE name = 'history'}),
	'stalled|its progress is lost|', 'status: progress is lost');
is(delivered('everything'), $node->safe_psql('postgres', 'SELECT eventstore.head()'), 'others go on');
$node->safe_psql('postgres', q{SELECT eventstore.unsubscribe('history')});

# A restart goes on where it was.
$node->safe_psql('postgres', q{SELECT eventstore.emit('x') FROM generate_series(1, 100)});
$node->restart;
$node->poll_query_until('postgres', q{
		SELECT count(*) = 0 FROM eventstore.subscription_status WHERE state = 'stalled'}) or die;
caught_up();
is(delivered('everything'), $node->safe_psql('postgres', 'SELECT eventstore.head()'), 'all delivered after a restart');

$node->stop;
done_testing();
