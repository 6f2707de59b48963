"""Faults planted in the code (eventstore.debug_fault), each with the story that brings it out.

Every story is told twice, without and with its fault, on a server without workers,
where seal() makes the passes.
"""

import json
import os
import threading

from cluster import connect, query, wait_until
from history import History, Log, Subscriber, Transaction, now, read_log
from round import read_store
from subscribers import Reader

SETTINGS = """
shared_preload_libraries = ''
eventstore.partition_size = 1000
synchronous_commit = local
wal_writer_delay = 10s
"""


class Tx:
    """A transaction that is recorded as the load records its own."""

    def __init__(self, stage, name, *settings):
        self.stage = stage
        self.connection = connect(stage.server.port)
        self.cursor = self.connection.cursor()
        self.record = {"op": "invoke", "t": name, "xid": None, "kind": "story", "async": bool(settings), "events": []}
        self.execute("BEGIN")
        for setting in settings:
            self.execute("SET LOCAL " + setting)
        self.execute("INSERT INTO ledger VALUES (%s, pg_current_xact_id())", name)

    def execute(self, sql, *args):
        self.cursor.execute(sql, args or None)

    def emit(self, count=1, undone=False):
        first = len(self.record["events"])
        self.record["events"] += [
            {"i": i, "type": "story", "key": None, "n": None, "w": None, "id": None, "at": now(), "undone": undone}
            for i in range(first, first + count)]
        self.execute("SELECT count(eventstore.emit('story', jsonb_build_object('t', %s::text, 'i', i)))"
                     " FROM generate_series(%s, %s) i", self.record["t"], first, first + count - 1)

    def end(self, statement="COMMIT", outcome="ok"):
        self.execute(statement)
        transaction = Transaction(self.record)
        transaction.hear({"op": outcome, "at": now(), "port": self.stage.server.port})
        self.stage.transactions[transaction.name] = transaction
        self.connection.close()


class Stage:
    """A fresh event store, one reader, and what happened."""

    def __init__(self, server, directory, fault):
        self.server = server
        self.fault = fault
        self.transactions = {}
        self.directory = directory
        os.makedirs(directory)
        self.spec = {"name": "reader-1", "page": 100, "types": None, "port": server.port}
        with open(os.path.join(directory, "subscribers.json"), "w") as f:
            json.dump({"reader-1": self.spec}, f)
        for statement in ("SET client_min_messages = error; DROP EXTENSION IF EXISTS eventstore CASCADE",
                          "SET client_min_messages = error; CREATE EXTENSION eventstore",
                          "DROP TABLE IF EXISTS ledger",
                          "CREATE TABLE ledger (t text PRIMARY KEY, xid xid8 NOT NULL)"):
            query(server.port, statement)
        # Makes the first partition, which others would have to wait for.
        first = Tx(self, "first")
        first.emit()
        first.end()

    def seal(self, synchronous_commit="local"):
        connection = connect(self.server.port)
        with connection.cursor() as cursor:
            cursor.execute("SET eventstore.debug_fault = " + self.fault)
            cursor.execute("SET synchronous_commit = " + synchronous_commit)
            cursor.execute("SELECT eventstore.seal()")
        connection.close()

    def read(self):
        """The reader reads what there is; it stops at the error that a broken feed gives it."""
        reader = Reader(self.directory, "reader-1")
        reader.connect()
        try:
            reader.read_upto_head()
        except reader.connection.Error as error:
            reader.log.write({"op": "error", "code": error.pgcode, "message": str(error)})
        reader.connection.close()

    def history(self):
        self.seal()
        self.read()
        records = list(read_log(os.path.join(self.directory, "reader-1.jsonl")))
        return History(self.transactions, [read_store(self.server.port, "story")],
                       [Subscriber("reader-1", self.spec, records)], [])


def doubled_xid(stage):
    """While PREPARE waits for a synchronous standby, its xid stands in two places."""
    server = stage.server
    stage.seal()
    query(server.port, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.reload()
    wait_until("synchronous replication is on", lambda: query(
        server.port, "SHOW synchronous_standby_names") == [("nobody",)], 30)

    prepared = Tx(stage, "prepared", "synchronous_commit = on")
    prepared.emit(3)
    thread = threading.Thread(target=prepared.end, args=("PREPARE TRANSACTION 'story'", "prepared"), daemon=True)
    thread.start()
    wait_until("PREPARE waits", lambda: query(
        server.port, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(1,)], 30)
    other = Tx(stage, "other")
    other.emit()
    other.end()
    stage.seal()

    query(server.port, "ALTER SYSTEM RESET synchronous_standby_names")
    server.reload()
    thread.join()
    query(server.port, "COMMIT PREPARED 'story'")
    stage.transactions["prepared"].hear({"op": "ok", "at": now(), "port": server.port})


def floor_at_xmax(stage):
    """The newest xid is running and above the snapshot's xmax; its event lies in a leaf that others have left."""
    filler = Tx(stage, "filler")
    late = Tx(stage, "late")
    late.emit()
    filler.emit(1500)
    filler.end()
    stage.seal()
    late.emit()
    late.end()


def rows_unseen(stage):
    """A committed transaction has rows that were rolled back to a savepoint, another aborted."""
    tx = Tx(stage, "savepoint")
    tx.emit()
    tx.execute("SAVEPOINT a")
    tx.emit(undone=True)
    tx.execute("ROLLBACK TO a")
    tx.emit()
    aborted = Tx(stage, "aborted")
    aborted.emit()
    aborted.end("ROLLBACK", "fail")
    tx.end()


def unflushed_pass(stage):
    """An event was committed with synchronous_commit = off, sealed and read; then the power went."""
    query(stage.server.port, "CHECKPOINT")
    tx = Tx(stage, "unflushed", "synchronous_commit = off")
    tx.emit()
    tx.end()
    stage.seal("off")
    stage.read()
    stage.server.kill(with_children=True)
    stage.server.start()


# The story of each fault, and the invariants of which at least one must see it.
ALL = {
    doubled_xid: {"positions"},
    floor_at_xmax: {"lost"},
    rows_unseen: {"positions", "aborted"},
    unflushed_pass: {"aborted"},
}
