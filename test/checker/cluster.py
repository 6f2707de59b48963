"""The PostgreSQL servers under test: a primary and its streaming standby.

Everything runs on unix sockets in one directory; a server is a port there.
"""

import os
import signal
import subprocess
import time

import psycopg2

PRIMARY_PORT = 5432
STANDBY_PORT = 5433

SETTINGS = """
shared_preload_libraries = 'eventstore'
max_connections = 100
max_prepared_transactions = 50
max_wal_senders = 5
wal_keep_size = '1GB'
max_wal_size = '2GB'
shared_buffers = '64MB'
checkpoint_timeout = '30s'
max_standby_streaming_delay = '1s'
restart_after_crash = on
log_min_messages = warning
deadlock_timeout = '200ms'
"""


def connect(port, **options):
    """A connection in autocommit mode: transactions are begun and ended by statements."""
    connection = psycopg2.connect(host=os.environ["PGHOST"], port=port, user="postgres",
                                  dbname="postgres", connect_timeout=10, **options)
    connection.autocommit = True
    return connection


def query(port, sql, *args, timeout=30):
    """Run one statement in a session of its own; returns its rows."""
    connection = connect(port, options="-c statement_timeout=%ds" % timeout)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def wait_until(what, condition, timeout):
    """Wait for a condition; an unreachable server counts as "not yet"."""
    deadline = time.monotonic() + timeout
    error = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
            error = None
        except psycopg2.Error as e:
            error = e
        time.sleep(0.05)
    raise TimeoutError("%s: not within %s s%s" % (what, timeout, ": %s" % error if error else ""))


def parent_of(pid):
    """The parent of a process; None if there is no such process, or only what is left of one."""
    try:
        with open("/proc/%s/stat" % pid) as f:
            fields = f.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[1])


def kill_if_there(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Server:
    def __init__(self, directory, port, settings):
        self.directory = directory
        self.port = port
        self.settings = settings
        self.process = None

    def run(self, *command):
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise RuntimeError("%s: %s" % (" ".join(command), result.stdout))

    def pg_ctl(self, *arguments):
        self.run("pg_ctl", "--pgdata", self.directory, "--timeout", "120", "--wait", "--silent", *arguments)

    def configure(self, text):
        with open(os.path.join(self.directory, "postgresql.conf"), "a") as f:
            f.write(text)

    def create(self, extra_settings):
        self.run("initdb", "--no-sync", "--encoding=UTF8", "--no-locale", "--auth=trust",
                 "--username=postgres", "--pgdata=" + self.directory)
        self.configure(self.settings + SETTINGS + extra_settings + "port = %d\n" % self.port)

    def create_standby_of(self, primary):
        self.run("pg_basebackup", "--host=" + os.environ["PGHOST"], "--port=%d" % primary.port,
                 "--username=postgres", "--checkpoint=fast", "--no-sync", "--write-recovery-conf",
                 "--pgdata=" + self.directory)
        self.configure("port = %d\n" % self.port)

    def start(self):
        """Start it as our own child: a postmaster that was killed must be reaped, or it seems to run."""
        with open(self.directory + ".log", "a") as log:
            self.process = subprocess.Popen(["postgres", "-D", self.directory], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        self.wait_ready()

    def stop(self, mode="fast"):
        """Stop it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
            self.process.wait(timeout=120)

    def promote(self):
        self.pg_ctl("promote")

    def reload(self):
        self.pg_ctl("reload")

    def kill(self, with_children):
        """kill -9 the postmaster, and all its children or not; returns when all are gone.

        A child that is not killed goes on to the end of its statement, and may
        still commit, before it notices.
        """
        children = [int(p) for p in os.listdir("/proc") if p.isdigit() and parent_of(p) == self.process.pid]
        self.process.kill()
        self.process.wait()
        # Whoever sits in a long statement is not our subject.
        deadline = time.monotonic() + (0 if with_children else 20)
        while any(parent_of(p) is not None for p in children):
            if time.monotonic() >= deadline:
                for child in children:
                    kill_if_there(child)
            time.sleep(0.01)

    def workers(self):
        """The pids of our workers, by kind: {"dispatcher": 123, "launcher": 124}."""
        rows = query(self.port, "SELECT backend_type, pid FROM pg_stat_activity"
                                " WHERE backend_type LIKE 'eventstore %'")
        return {kind.split()[1]: pid for kind, pid in rows}

    def wait_ready(self, timeout=120):
        def answers():
            if self.process.poll() is not None:
                raise RuntimeError("the server in %s ended by itself" % self.directory)
            return query(self.port, "SELECT 1") == [(1,)]

        wait_until("the server in %s answers" % self.directory, answers, timeout)
