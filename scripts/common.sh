# shellcheck shell=bash disable=SC2034
# (2034: most variables set here are for the scripts that source this file)
#
# common.sh - what test.sh, the demo and the benchmarks share: packages, a
# build, throw-away servers.  To be sourced, after "set -euo pipefail".
#
# The usual order is
#
#	ensure_packages            # sets PG_MAJOR, PG_CONFIG, PG_BINDIR, ...
#	make_work_dir demo         # sets WORK; all of it goes when we exit
#	build_extension            # sets DESTDIR
#	init_cluster "$WORK/data"
#	server_settings >>"$WORK/data/postgresql.conf"
#	start_cluster "$WORK/data"
#	as_postgres psql ...       # PGHOST, PGPORT, PGUSER are set
#
# PostgreSQL does not run as root.  Called by root, everything from the
# compiler onwards runs as the user postgres, in a directory of its own, and
# so the source tree is only read; called by anyone else, it runs as that user.
#
# Nothing is installed below /usr: "make install" goes into a temporary
# DESTDIR, and server_settings tells a server to look there.  extension_destdir
# is a patch of Debian's packages; they are needed.

# The tree that this file is in.
SOURCE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# 1: make_work_dir's directory is left in place at exit, and its servers stopped.
KEEP_WORK=${KEEP_WORK:-0}
# 1: its servers are left running too (the demo's --keep).
KEEP_SERVERS=${KEEP_SERVERS:-0}

WORK=
CHILD_PID=

say()
{
	printf '%s\n' "$*"
}

fail()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

is_root()
{
	[ "$(id -u)" -eq 0 ]
}

# as_postgres COMMAND...: run it as the user who owns the servers.
as_postgres()
{
	if is_root; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# run_child COMMAND...: like as_postgres, but a signal to this script ends the
# command at once; bash would otherwise wait for it before it runs a trap.
run_child()
{
	local status=0

	# not as_postgres: CHILD_PID would be a subshell's
	if is_root; then
		runuser -u postgres -- "$@" </dev/null &
	else
		"$@" </dev/null &
	fi
	CHILD_PID=$!
	wait "$CHILD_PID" || status=$?
	CHILD_PID=
	return "$status"
}

# --- packages ---------------------------------------------------------------

# Choose the PostgreSQL: PG_CONFIG if set, else PG_MAJOR if set, else 15, else
# the newest one here.
choose_postgres()
{
	local dir

	if [ -n "${PG_CONFIG:-}" ]; then
		PG_CONFIG=$(command -v "$PG_CONFIG") || fail "PG_CONFIG is not a program"
		PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
		return
	fi
	if [ -z "${PG_MAJOR:-}" ]; then
		PG_MAJOR=15
		if [ ! -x /usr/lib/postgresql/15/bin/postgres ]; then
			for dir in $(printf '%s\n' /usr/lib/postgresql/*/ | sort -V); do
				if [ -x "$dir/bin/postgres" ]; then
					PG_MAJOR=$(basename "$dir")
				fi
			done
		fi
	fi
	PG_CONFIG=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
}

# missing_packages PACKAGE...: print those that are not installed.
missing_packages()
{
	local package

	for package in "$@"; do
		if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
			printf '%s\n' "$package"
		fi
	done
}

# install_packages PACKAGE...: as root, without questions.  Debian's server
# package makes a cluster "main" and starts it when it is installed; a file in
# createcluster.d that is there only meanwhile says not to.
install_packages()
{
	local etc=/etc/postgresql-common/createcluster.d
	local conf=$etc/eventstore-no-main-cluster.conf
	local log status=0

	log=$(mktemp)
	mkdir -p "$etc"
	echo 'create_main_cluster = false' >"$conf"
	say "installing $*"
	{
		apt-get update &&
			DEBIAN_FRONTEND=noninteractive apt-get install --yes \
				--no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
	} >"$log" 2>&1 </dev/null || status=$?
	rm -f "$conf"
	rmdir --ignore-fail-on-non-empty "$etc"
	if [ "$status" -ne 0 ]; then
		tail -n 40 "$log" >&2
		rm -f "$log"
		fail "apt-get could not install $*"
	fi
	rm -f "$log"
}

# What it takes to build and test with PostgreSQL $1.
needed_packages()
{
	printf '%s\n' "postgresql-$1" "postgresql-server-dev-$1" gcc libc6-dev make perl libipc-run-perl
}

# What the checker (test/checker) needs besides.
CHECKER_PACKAGES=(python3 python3-psycopg2)

# ensure_packages [PACKAGE...]: have what is needed to build and run the
# extension, and the named packages too.
ensure_packages()
{
	local packages missing

	choose_postgres
	mapfile -t packages < <(needed_packages "$PG_MAJOR")
	mapfile -t missing < <(missing_packages "${packages[@]}" "$@")
	if [ "${#missing[@]}" -gt 0 ]; then
		if ! is_root; then
			say "missing packages: ${missing[*]}" >&2
			say "as root: apt-get update && apt-get install ${missing[*]}" >&2
			exit 1
		fi
		install_packages "${missing[@]}"
	fi
	PG_BINDIR=$("$PG_CONFIG" --bindir)
	PG_VERSION=$("$PG_CONFIG" --version)
	PG_PKGLIBDIR=$("$PG_CONFIG" --pkglibdir)
	# src/ of an installed PostgreSQL: pg_regress, the modules for TAP tests
	PG_SRC=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/.." && pwd)
}

# --- the work directory -----------------------------------------------------

# make_work_dir NAME: sets WORK to a new directory that is private to the user
# who runs the servers, moves there, and has it removed at exit.
make_work_dir()
{
	local var

	# The caller's own server, passwords and files are none of our business.
	for var in $(compgen -e PG); do
		case $var in
			PG_MAJOR | PG_CONFIG | PG_TEST_*) ;;
			*) unset "$var" ;;
		esac
	done
	unset LC_ALL LANGUAGE
	export LANG=C.UTF-8
	umask 022
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/eventstore-$1.XXXXXX")
	trap clean_up EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	if is_root; then
		chown postgres: "$WORK"
	fi
	as_postgres test -x "$WORK" || fail "the user postgres cannot reach $WORK: set TMPDIR"
	cd "$WORK" || exit 1
	as_postgres mkdir socket tmp
	export HOME=$WORK TMPDIR=$WORK/tmp
	export PATH=$PG_BINDIR:$PATH
	export PGHOST=$WORK/socket PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	# A socket's name may have 107 bytes, and TAP tests add a directory.
	[ "${#WORK}" -le 60 ] || fail "the path $WORK is too long for a socket: set TMPDIR"
}

# stop_servers: end every server whose data lies in WORK, those that a TAP test
# left behind included.  A pid file may be older than its process's end, hence
# the look at /proc: a server works in its data directory.
stop_servers()
{
	local pid_file data

	while IFS= read -r pid_file; do
		data=$(dirname "$pid_file")
		if [ "$(readlink "/proc/$(head -n 1 "$pid_file")/cwd")" = "$data" ]; then
			stop_cluster "$data" immediate || true
		fi
	done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
}

# The EXIT trap.
clean_up()
{
	local status=$?

	trap '' HUP INT TERM
	if [ -n "$CHILD_PID" ]; then
		kill "$CHILD_PID" 2>/dev/null || true
		wait "$CHILD_PID" || true
	fi
	if [ "$KEEP_SERVERS" -eq 0 ]; then
		stop_servers
		if [ "$KEEP_WORK" -eq 0 ]; then
			cd /
			rm -rf "$WORK"
		fi
	fi
	exit "$status"
}

# --- build ------------------------------------------------------------------

# copy_source DIR: copy the tree without what a build or an earlier run left in
# it, so that neither two runs nor two sets of flags get mixed up.
copy_source()
{
	as_postgres mkdir "$1"
	tar --create --directory="$SOURCE_DIR" --exclude=./.git --exclude='*.o' --exclude='*.bc' \
		--exclude='*.so' --exclude=./demo/listener --exclude=./results --exclude=./tmp_check --exclude=./log . |
		as_postgres tar --extract --directory="$1"
}

# build_extension: build a copy of the tree with the caller's COPT and install
# it into DESTDIR; false if that fails, with the compiler's complaints.  Sets
# BUILD_DIR (the copy) and DESTDIR, whose names end in BUILD_SUFFIX if that is set.
build_extension()
{
	local suffix=${BUILD_SUFFIX:-} status=0
	local log=$WORK/build$suffix.log

	BUILD_DIR=$WORK/build$suffix
	DESTDIR=$WORK/install$suffix
	copy_source "$BUILD_DIR"
	run_child make --directory="$BUILD_DIR" --jobs="$(nproc)" PG_CONFIG="$PG_CONFIG" \
		COPT="${COPT:-}" all >"$log" 2>&1 &&
		run_child make --directory="$BUILD_DIR" PG_CONFIG="$PG_CONFIG" \
			COPT="${COPT:-}" DESTDIR="$DESTDIR" install >>"$log" 2>&1 || status=$?
	# what the compilers said, without the commands that called them
	if [ "$status" -ne 0 ]; then
		grep -v -E '^([^ ]*/)?(gcc|clang)(-[0-9]+)? ' "$log" | head -n 100 >&2 || true
	else
		grep -E -A 5 'warning:' "$log" | head -n 100 >&2 || true
	fi
	return "$status"
}

# --- servers ----------------------------------------------------------------

# The lines of postgresql.conf that make a server find the extension.
destdir_settings()
{
	say "extension_destdir = '$DESTDIR'"
	say "dynamic_library_path = '$DESTDIR$PG_PKGLIBDIR:\$libdir'"
}

# The lines that a throw-away server needs: those, and a private socket.
server_settings()
{
	destdir_settings
	say "listen_addresses = ''"
	say "unix_socket_directories = '$PGHOST'"
	say "port = $PGPORT"
	say "log_line_prefix = '%m [%p] %a '"
}

# init_cluster DATA-DIRECTORY: UTF8, C locale, superuser postgres.  Anyone who
# reaches the socket is let in; it is in a private directory.
init_cluster()
{
	as_postgres initdb --no-sync --encoding=UTF8 --no-locale --auth=trust \
		--username=postgres --pgdata="$1" >"$WORK/initdb.log" 2>&1 || {
		tail -n 20 "$WORK/initdb.log" >&2
		fail "initdb failed"
	}
}

# start_cluster DATA-DIRECTORY: returns when it answers.  Its log is beside it.
start_cluster()
{
	if ! as_postgres pg_ctl --pgdata="$1" --log="$1.log" --wait --silent start \
		>"$1.start" 2>&1 </dev/null; then
		cat "$1.start" >&2
		tail -n 20 "$1.log" >&2
		return 1
	fi
}

# stop_cluster DATA-DIRECTORY [fast|smart|immediate]
stop_cluster()
{
	as_postgres pg_ctl --pgdata="$1" --mode="${2:-fast}" --wait --silent stop
}
