# Launcher and dispatchers come, go and come back, whatever happens to them and
# to their databases.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');

sub launcher_pid
{
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'eventstore launcher'");
}

sub wait_for_launcher
{
	my ($old_pid) = @_;

	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'eventstore launcher'"
		  . " AND pid <> $old_pid")
	  or die 'no launcher';
	return;
}

# An event emitted now is sealed, by nobody but the dispatcher.
sub seals
{
	my ($dbname, $name) = @_;
	my $id = $node->safe_psql($dbname, "SELECT eventstore.emit('test')");

	ok( $node->poll_query_until(
			$dbname, "SELECT max(id) = $id FROM eventstore.tail(1)"),
		"$name: an event is sealed");
	return;
}

# --- they appear ----------------------------------------------------------

wait_for_launcher(0);
is(dispatcher_pid($node), '', 'no dispatcher where the extension is missing');

create_extension($node);
seals('postgres', 'CREATE EXTENSION in a running server');

is( $node->safe_psql(
		'postgres',
		"SELECT backend_type, application_name, datname FROM pg_stat_activity"
		  . " WHERE backend_type LIKE 'eventstore%' ORDER BY 1"),
	"eventstore dispatcher|eventstore dispatcher|postgres\neventstore launcher|eventstore launcher|",
	'names in pg_stat_activity');
ok( $node->poll_query_until(
		'postgres',
		"SELECT query_start > backend_start + interval '1.5 s' FROM pg_stat_activity"
		  . " WHERE backend_type = 'eventstore dispatcher'"),
	'query_start there is that of the last pass, not of the process');

# They wait for something that says whose wait it is; 17 can name it.
my $wait_event = $node->pg_version < 17 ? 'Extension' : 'Eventstore\w*Main';
for my $worker ('launcher', 'dispatcher')
{
	ok( $node->poll_query_until(
			'postgres',
			"SELECT wait_event_type = 'Extension' AND wait_event ~ '^$wait_event\$'"
			  . " FROM pg_stat_activity WHERE backend_type = 'eventstore $worker'"),
		"wait event of the $worker");
}

$node->safe_psql('postgres', 'CREATE DATABASE second');
create_extension($node, 'second');
seals('second', 'a second database');
is($node->safe_psql('second', 'SELECT eventstore.head()'), '1', 'it has a feed of its own');

# --- transactions that do not commit ---------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE undecided');
my $offset = -s $node->logfile;
$node->safe_psql('undecided', 'BEGIN; CREATE EXTENSION eventstore; SELECT eventstore.emit($$e$$); ROLLBACK');
create_extension($node, 'undecided');
seals('undecided', 'CREATE EXTENSION, ROLLBACK, CREATE EXTENSION');

{
	my $pid = dispatcher_pid($node, 'undecided');
	my $session = $node->background_psql('undecided', on_error_stop => 1);

	$session->query_safe('BEGIN; DROP EXTENSION eventstore CASCADE');

	# the poll comes round, finds it locked and waits
	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid")
	  or die 'the dispatcher does not wait';
	$session->query_safe('ROLLBACK');
	$session->quit;
	seals('undecided', 'DROP EXTENSION, ROLLBACK');
	is(dispatcher_pid($node, 'undecided'), $pid, 'the dispatcher outlived it');
}

# --- the extension is dropped, and made again --------------------------------

my $pid = dispatcher_pid($node);
my $second_pid = dispatcher_pid($node, 'second');
$node->safe_psql('undecided', 'DROP EXTENSION eventstore CASCADE');
wait_for_no_dispatcher($node, 'undecided');
create_extension($node, 'undecided');
seals('undecided', 'DROP EXTENSION, CREATE EXTENSION');
$node->safe_psql('undecided', 'DROP EXTENSION eventstore CASCADE; CREATE EXTENSION eventstore');
seals('undecided', 'the same at once');
is(dispatcher_pid($node), $pid, 'the others stayed');
is(dispatcher_pid($node, 'second'), $second_pid, 'all of them');
is(join("\n", log_lines($node, qr/(ERROR|FATAL|PANIC)/, $offset)), '', 'and no error in the log');

# --- signals ---------------------------------------------------------------

my $launcher = launcher_pid();
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'eventstore%'")
  for 1 .. 5;
seals('postgres', 'pg_cancel_backend');
is(dispatcher_pid($node), $pid, 'pg_cancel_backend does nothing to a dispatcher');
is(launcher_pid(), $launcher, 'nor to the launcher');

for my $round (1 .. 2)
{
	$pid = dispatcher_pid($node);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_for_dispatcher($node, 'postgres', $pid);
	seals('postgres', "pg_terminate_backend of the dispatcher, round $round");
}

# The dispatchers go on, and the next launcher finds them there.
$pid = dispatcher_pid($node);
$offset = -s $node->logfile;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
wait_for_launcher($launcher);
seals('postgres', 'pg_terminate_backend of the launcher');
seals('second', 'in the other database');
$node->safe_psql('postgres', 'CREATE DATABASE third');
create_extension($node, 'third');
seals('third', 'the new launcher starts dispatchers');
is( $node->safe_psql(
		'postgres',
		"SELECT datname, count(*) FROM pg_stat_activity WHERE backend_type = 'eventstore dispatcher' GROUP BY 1 ORDER BY 1"
	),
	"postgres|1\nsecond|1\nthird|1\nundecided|1",
	'one dispatcher for each database');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'eventstore launcher'"),
	'1', 'one launcher');
$pid = dispatcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_for_dispatcher($node, 'postgres', $pid);
seals('postgres', 'the new launcher restarts a dispatcher it did not start');
is(join("\n", log_lines($node, qr/(TRAP|PANIC|ERROR|terminated by signal)/, $offset)),
	'', 'and no error in the log');

# --- reload ----------------------------------------------------------------

$pid = dispatcher_pid($node);
$offset = -s $node->logfile;
$node->append_conf('postgresql.conf', 'log_min_messages = debug1');
$node->reload;
ok( $node->poll_query_until(
		'postgres', "SELECT eventstore.emit('test') > 0 AND pg_read_file('" . $node->logfile . "', $offset, 100000000) ~ 'pass [0-9]+ sealed'"),
	'the dispatcher reads the configuration again');
is(dispatcher_pid($node), $pid, 'and stays');
$node->append_conf('postgresql.conf', 'log_min_messages = warning');
$node->reload;

# --- kill -9, and restart ----------------------------------------------------

$pid = dispatcher_pid($node);
kill 'KILL', $pid;
$node->poll_query_until('postgres', 'SELECT pg_postmaster_start_time() IS NOT NULL') or die 'no recovery';
wait_for_dispatcher($node, 'postgres', $pid);
seals('postgres', 'kill -9 of a dispatcher');
wait_for_dispatcher($node, 'second', $second_pid);
seals('second', 'in the other database too');
feed_is_sound($node, 'kill -9 of a dispatcher');

$node->restart;
wait_for_dispatcher($node, $_) for ('postgres', 'second', 'third', 'undecided');
seals($_, "restart, in database $_") for ('postgres', 'third');

# --- commands that want a database for themselves ----------------------------

$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE second');
seals('copy', 'CREATE DATABASE ... TEMPLATE');
wait_for_dispatcher($node, 'second');
seals('second', 'its template');

$node->safe_psql('postgres', 'ALTER DATABASE third RENAME TO renamed');
$node->safe_psql('postgres', 'DROP DATABASE undecided');
pass('DROP DATABASE');
wait_for_dispatcher($node, 'renamed');
seals('renamed', 'ALTER DATABASE ... RENAME');

$node->safe_psql('postgres', 'DROP DATABASE copy WITH (FORCE)');
is( $node->safe_psql(
		'postgres',
		"SELECT string_agg(DISTINCT datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'eventstore dispatcher'"
	),
	'postgres renamed second',
	'dispatchers at the end');

# --- schemas of somebody else ------------------------------------------------

$node->safe_psql('postgres', 'CREATE ROLE stranger');
$node->safe_psql('postgres', 'CREATE DATABASE foreign_schema');
$node->safe_psql(
	'foreign_schema', q{
	CREATE SCHEMA eventstore AUTHORIZATION stranger;
	CREATE TABLE eventstore.event (id int);
	CREATE FUNCTION eventstore.emit(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1';
	SELECT eventstore.emit('not ours');
});
my ($ret, $stdout, $stderr) = $node->psql('foreign_schema', 'CREATE EXTENSION eventstore');
isnt($ret, 0, 'CREATE EXTENSION refuses a schema of another owner');
like($stderr, qr/schema "eventstore" exists already and belongs to another role/, 'and says so');

# the launcher looks into each database when it starts
my $oid = $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'foreign_schema'");
$node->stop;
$offset = -s $node->logfile;
$node->append_conf('postgresql.conf', 'log_min_messages = debug1');
$node->start;
ok( $node->poll_query_until(
		'postgres',
		"SELECT pg_read_file('" . $node->logfile . "', $offset, 100000000)"
		  . " ~ 'starting background worker process \"eventstore dispatcher for database $oid\"'"),
	'the launcher looks into a database with a foreign schema named eventstore');
wait_for_no_dispatcher($node, 'foreign_schema');
wait_for_dispatcher($node, 'renamed');
is(join("\n", log_lines($node, qr/(ERROR|FATAL|PANIC|exited with exit code [^0])/, $offset)),
	'', 'and leaves it alone');

$node->stop;

# --- without preload ---------------------------------------------------------

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->start;
($ret, $stdout, $stderr) = $plain->psql('postgres', 'CREATE EXTENSION eventstore');
is($ret, 0, 'CREATE EXTENSION without preload');
like($stderr, qr/WARNING:.*not preloaded.*\nHINT:.*shared_preload_libraries/, 'warns, with a hint');
is($plain->safe_psql('postgres', "SELECT eventstore.emit('test')"), '1', 'emit without preload');
($ret, $stdout, $stderr) = $plain->psql('postgres', 'SELECT * FROM eventstore.read()');
is($stdout, '', 'nothing to read');
like($stderr, qr/NOTICE:.*no dispatcher runs.*\nHINT:.*shared_preload_libraries/, 'and a NOTICE says why');
is($plain->safe_psql('postgres', 'SELECT eventstore.seal()'), '1', 'seal by hand');
($ret, $stdout, $stderr) = $plain->psql('postgres', 'SELECT id FROM eventstore.read()');
is("$stdout$stderr", '1', 'then it is read, without a NOTICE');
$plain->stop;

done_testing();
