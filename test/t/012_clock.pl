# The server's clock jumps by a day, back and ahead: nothing stalls, and nothing
# runs wild.  The server gets the time from a library of ours, which adds what
# stands in a file.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use EventstoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $day = 86400;

append_to_file("$dir/clock.c", <<"C");
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	char		offset[32] = "";
	int			file = open("$dir/offset", O_RDONLY);
	long		result = syscall(SYS_gettimeofday, now, zone);

	if (file >= 0 && read(file, offset, sizeof(offset) - 1) > 0)
		now->tv_sec += atol(offset);
	close(file);
	return result;
}
C
system_or_bail('cc', '-D_GNU_SOURCE', '-shared', '-fPIC', '-o', "$dir/clock.so", "$dir/clock.c");

my $node = new_server('main', start => 0);
{
	local $ENV{LD_PRELOAD} = "$dir/clock.so";
	$node->start;
}
create_extension($node);
$node->safe_psql('postgres', "SELECT eventstore.subscribe('s', 'notify:s')");

# Set the clock, relative to the true one.
sub set_clock
{
	my ($offset) = @_;

	unlink "$dir/offset";
	append_to_file("$dir/offset", $offset);
	return;
}

# An event is sealed and delivered; returns how long that took, at most.
my $emitted = 0;

sub emit_and_wait
{
	my $start = time;

	$emitted++;
	$node->safe_psql('postgres', "SELECT eventstore.emit('x')");
	$node->poll_query_until('postgres', "SELECT delivered FROM eventstore.subscription_status", $emitted)
	  or die 'not delivered';
	return time - $start;
}

emit_and_wait();
for my $jump (-$day, $day, 0)
{
	my $old_pid = dispatcher_pid($node);

	set_clock($jump);
	is($node->safe_psql('postgres', "SELECT round(extract(epoch FROM clock_timestamp()) / 3600)") -
		sprintf('%.0f', time / 3600), $jump / 3600, "the clock jumps to $jump s from the true time");
	cmp_ok(emit_and_wait(), '<', 10, 'an event is delivered');
	is(dispatcher_pid($node), $old_pid, 'by the same dispatcher');

	# One that ends, when the last start was a day ago, or will be in a day.
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($old_pid)");
	wait_for_dispatcher($node, 'postgres', $old_pid);
	cmp_ok(emit_and_wait(), '<', 10, 'and by another one');
}

feed_is_sound($node, 'after all jumps');
$node->stop;
done_testing();
