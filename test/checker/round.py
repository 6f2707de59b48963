"""One round: a primary and a standby are made, loaded, broken, healed and looked at."""

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psycopg2

from cluster import PRIMARY_PORT, STANDBY_PORT, Server, connect, query, wait_until
from faults import Faults, schedule
from history import History, Log, Store, now
from load import KEYS, SCHEMA

PR_SET_PDEATHSIG = 1    # of linux/prctl.h

HERE = os.path.dirname(os.path.abspath(__file__))

SUBSCRIBERS = {
    "reader-1": {"page": 7, "types": None, "port": None},
    "reader-2": {"page": 1000, "types": ["order.*"], "port": None},
    "reader-3": {"page": 100, "types": None, "port": STANDBY_PORT},
    "listener-1": {"page": 100, "types": None, "port": None, "channel": "everything"},
    "listener-2": {"page": 50, "types": ["order.*", "free.thing"], "port": None, "channel": "something", "max_w": 8},
}

SUBSCRIBE = """
SELECT eventstore.subscribe('all', 'notify:everything');
SELECT eventstore.subscribe('some', 'notify:something', types => '{order.*,free.thing}', filter => '$.w < 8');
"""


def die_with_parent():
    """In a client: do not outlive a checker that was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Round:
    def __init__(self, directory, seed, seconds, settings, kinds=None):
        self.directory = directory
        self.seed = seed
        self.seconds = seconds
        self.plan = schedule(seed, seconds, kinds)
        self.rng = random.Random("settings %d" % seed)
        os.makedirs(directory)
        self.primary = Server(os.path.join(directory, "primary.data"), PRIMARY_PORT, settings)
        self.standby = Server(os.path.join(directory, "standby.data"), STANDBY_PORT, settings)
        self.given_up = None    # the old primary, after the promotion
        self.subscribers = {}   # name: process
        self.load = None

    def run(self):
        """Returns the history, or raises if the servers cannot be brought to rest."""
        try:
            self.set_up()
            self.start_load()
            Faults(self, Log(self.path("faults.jsonl"))).run(self.plan, self.started)
            time.sleep(max(0, self.started + self.seconds - now()))
            self.heal()
            self.record(self.primary, "new")
            if self.given_up is not None:
                self.primary.stop()
                self.given_up.start()
                self.settle(self.given_up)
                self.record(self.given_up, "old")
            return History.load(self.directory)
        except Exception:
            self.describe()
            raise
        finally:
            self.end()

    def path(self, name):
        return os.path.join(self.directory, name)

    # Servers

    def set_up(self):
        """What differs from round to round differs with the seed."""
        self.primary.create("eventstore.partition_size = %d\neventstore.poll_interval = %d\nfsync = %s\n" % (
            self.rng.choice([1000, 10000, 1000000]), self.rng.choice([50, 200, 1000]),
            self.rng.choice(["on", "off"])))
        self.primary.start()
        connection = connect(self.primary.port)
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION eventstore")
            cursor.execute(SCHEMA, (KEYS,))
            cursor.execute(SUBSCRIBE)
        connection.close()
        self.standby.create_standby_of(self.primary)
        self.standby.start()
        self.point_to(self.primary)

    def point_to(self, server):
        """Tell the clients where the primary is."""
        with open(self.path("primary.tmp"), "w") as f:
            f.write(str(server.port))
        os.replace(self.path("primary.tmp"), self.path("primary"))

    def failover(self):
        self.given_up, self.primary, self.standby = self.primary, self.standby, None
        self.point_to(self.primary)

    # Clients

    def start(self, program, *arguments):
        name = arguments[-1] if program == "subscribers.py" else program
        with open(self.path(name + ".err"), "a") as err:
            return subprocess.Popen([sys.executable, os.path.join(HERE, program), self.directory, *arguments],
                                    stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                    preexec_fn=die_with_parent)

    def start_load(self):
        with open(self.path("subscribers.json"), "w") as f:
            json.dump({name: dict(spec, name=name) for name, spec in SUBSCRIBERS.items()}, f)
        for name in SUBSCRIBERS:
            self.subscribers[name] = self.start("subscribers.py", name)
        self.load = self.start("load.py", str(self.seed))
        self.started = now()

    def kill_subscriber(self, name):
        self.subscribers[name].kill()
        self.subscribers[name].wait()
        self.subscribers[name] = self.start("subscribers.py", name)
        return name

    # The end

    def heal(self):
        """End the load, let everything catch up."""
        self.primary.wait_ready()
        self.load.send_signal(signal.SIGTERM)
        self.load.wait(timeout=60)
        self.settle(self.primary)
        head = query(self.primary.port, "SELECT eventstore.head()")[0][0]
        for name, process in self.subscribers.items():
            if process.poll() is not None:
                raise RuntimeError("%s ended by itself: see %s" % (name, self.path(name + ".err")))
        self.unsettled = [name for name in self.subscribers if not self.catches_up(name, head)]
        for process in self.subscribers.values():
            process.kill()
            process.wait()

    def catches_up(self, name, head):
        """Does a subscriber come to its end within time?  What is missing, the verdict says."""
        wanted = "WITH feed AS (SELECT position, type, (payload->>'w')::int w FROM eventstore.read(%s, 1000000, %s))" \
                 " SELECT count(*) FROM feed WHERE %s IS NULL OR w < %s"
        spec = SUBSCRIBERS[name]

        def done():
            position = last_position(self.path(name + ".jsonl"))
            return position >= head or query(self.primary.port, wanted, position, spec["types"] or ["*"],
                                             spec.get("max_w"), spec.get("max_w")) == [(0,)]

        try:
            wait_until(name + " is at the head", done, 30)
        except TimeoutError:
            return False
        return True

    @staticmethod
    def settle(server):
        """Wait until every committed event has its position, for a while."""
        server.wait_ready()
        try:
            wait_until("all events are sealed", lambda: query(
                server.port, "SELECT (SELECT count(*) FROM eventstore.event)"
                             " <= (SELECT coalesce(sum(event_count), 0) FROM eventstore_internal.segment)"
            ) == [(True,)], 40)
        except TimeoutError:
            pass    # the verdict says what is missing

    def record(self, server, name):
        """Keep what is in a server's tables."""
        unknown = {t.name: t.xid for t in History.load(self.directory).transactions.values() if t.outcome == "info"}
        read_store(server.port, name, unknown).save(self.path(name + ".json"))

    def describe(self):
        """Something did not come to its end: write down who waits for whom."""
        with open(self.path("activity.txt"), "w") as f:
            for sql in ("SELECT pid, backend_type, state, xact_start, query_start, wait_event,"
                        " pg_blocking_pids(pid), left(query, 200) FROM pg_stat_activity",
                        "SELECT gid, transaction, prepared FROM pg_prepared_xacts",
                        "SELECT pid, virtualtransaction, locktype, relation::regclass::text, transactionid::text,"
                        " mode, granted FROM pg_locks ORDER BY pid, granted"):
                try:
                    for row in query(self.primary.port, sql):
                        f.write("  ".join(map(str, row)) + "\n")
                except psycopg2.Error as error:
                    f.write(str(error))
                f.write("\n")

    def end(self):
        """Let nothing run on."""
        for process in [self.load, *self.subscribers.values()]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for server in [self.primary, self.standby, self.given_up]:
            if server is not None:
                server.stop("immediate")


    def remove_data(self):
        """Keep histories and logs only."""
        for server in [self.primary, self.given_up]:
            if server is not None:
                shutil.rmtree(server.directory)


def last_position(path):
    """The position of a subscriber, from the end of its file."""
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - 100000))
        for line in reversed(f.read().split(b"\n")[:-1]):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["op"] in ("event", "again", "at", "history"):
                return record["position"]
    return 0


def read_store(port, name, unknown=None):
    """Read the tables by plain SQL: segments and rows are put together here, not by read()."""
    segments = query(port, "SELECT first_position, first_id, event_count, extract(epoch FROM sealed_at)::float8"
                           " FROM eventstore_internal.segment ORDER BY 1", timeout=300)
    rows = query(port, "SELECT id, coalesce(payload->>'t', payload->'new'->>'t'),"
                       " coalesce(payload->>'i', payload->'new'->>'i')::int, key, (payload->>'n')::bigint,"
                       " (payload->>'w')::int, type, xid::text::bigint FROM eventstore.event", timeout=300)
    events = {row[0]: row[1:] for row in rows}
    feed = []
    sealed = set()
    for first_position, first_id, count, sealed_at in segments:
        for i in range(count):
            id = first_id + i
            sealed.add(id)
            if id in events:
                t, number, key, n, w, type, xid = events[id]
                feed.append([first_position + i, id, [t, number], key, n, w, type, xid, sealed_at])
            else:
                feed.append([first_position + i, id, None, None, None, None, None, None, sealed_at])
    status = {}
    for t, xid in (unknown or {}).items():
        if xid is not None:
            status[t] = xact_status(port, xid)
    return Store(name=name, port=port, status=status, feed=feed,
                 ledger=dict(query(port, "SELECT t, xid::text FROM ledger")),
                 epochs=query(port, "SELECT first_position, previous_head FROM eventstore_internal.epoch ORDER BY 1"),
                 unsealed=sorted(set(events) - sealed))


def xact_status(port, xid):
    """pg_xact_status(); None for an xid that was never, or long ago, assigned."""
    rows = query(port, "SELECT CASE WHEN %s::xid8 < pg_snapshot_xmax(pg_current_snapshot())"
                       " THEN pg_xact_status(%s::xid8) END", xid, xid)
    return rows[0][0]
