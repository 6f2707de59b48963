"""The load: emitters, and others who get in their way.  A process of its own, ended by SIGTERM.

	load.py DIRECTORY SEED

16 emitters make transactions of many kinds.  Each transaction writes its name into
the table `ledger`, which tells in the end, independently of the event store, what
has committed.  An event's payload carries the transaction's name `t` and the
event's number `i` in it.  Events of contended keys carry `n`, a counter that the
same transaction incremented under a row lock: the true order of the key.
"""

import json
import os
import queue
import random
import signal
import sys
import threading
import time
import zlib

import psycopg2

from cluster import connect
from history import Log, now

EMITTERS = 16
KEYS = ["order-%d" % i for i in range(20)]

SCHEMA = """
CREATE TABLE ledger (t text PRIMARY KEY, xid xid8 NOT NULL);
CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE item (t text, i integer);
CREATE TABLE elsewhere (note text);
CREATE FUNCTION emit_and_fail(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM eventstore.emit('order.undone', payload, 'undone');
	RAISE EXCEPTION 'take it back';
EXCEPTION WHEN raise_exception THEN
END $$;
INSERT INTO counter SELECT unnest(%s), 0;
CREATE TRIGGER captured AFTER INSERT ON item REFERENCING NEW TABLE AS inserted
	FOR EACH STATEMENT EXECUTE FUNCTION eventstore.capture('type=bulk.inserted', 'key=bulk-{i}');
"""

stop = threading.Event()


def current_primary(directory):
    with open(os.path.join(directory, "primary")) as f:
        return int(f.read())


def is_unknown(error):
    """Was the connection lost, so that nobody can say what became of a COMMIT?"""
    return error.pgcode is None or error.pgcode.startswith(("57P", "08"))


class Client(threading.Thread):
    """Calls step() with a connection to the primary, again and again, reconnecting as needed."""

    def __init__(self, directory, name, seed):
        super().__init__(name=name)
        self.directory = directory
        self.rng = random.Random("%s %s" % (seed, name))
        self.connection = None

    def done(self):
        return stop.is_set()

    def execute(self, sql, *args):
        self.cursor.execute(sql, args or None)
        return self.cursor.fetchall() if self.cursor.description else []

    def pause(self, low, high):
        """Sleep, unless it is time to stop."""
        stop.wait(self.rng.uniform(low, high))

    def run(self):
        while not self.done():
            try:
                if self.connection is None:
                    self.port = current_primary(self.directory)
                    self.connection = connect(self.port, options="-c lock_timeout=1s")
                    self.cursor = self.connection.cursor()
                self.step()
            except psycopg2.Error as error:
                if self.connection is not None and not self.connection.closed and not is_unknown(error):
                    try:
                        self.execute("ROLLBACK")
                        continue
                    except psycopg2.Error:
                        pass
                if self.connection is not None:
                    self.connection.close()
                self.connection = None
                time.sleep(0.1)

    def step(self):
        raise NotImplementedError


class Emitter(Client):
    KINDS = {"counted": 8, "free": 5, "savepoint": 3, "prepared": 2, "batch": 1, "bulk": 1, "long": 0.2}

    def __init__(self, directory, number, seed, finisher):
        super().__init__(directory, "emitter-%d" % number, seed)
        self.log = Log(os.path.join(directory, "load-%d.jsonl" % number))
        self.number = number
        self.finisher = finisher
        self.count = 0

    def step(self):
        self.count += 1
        self.tx = {"op": "invoke", "t": "%d.%d" % (self.number, self.count), "xid": None, "events": [],
                   "kind": self.rng.choices(list(self.KINDS), self.KINDS.values())[0],
                   "async": self.rng.random() < 0.2}
        try:
            self.work()
        except psycopg2.Error:
            self.log.write(self.tx, {"op": "fail", "t": self.tx["t"], "at": now(), "port": self.port})
            raise
        self.log.write(self.tx)
        self.end()
        self.pause(0, 0.03)

    def work(self):
        """All of the transaction but its end."""
        register_early = self.rng.random() < 0.5    # the xid taken before the row locks
        self.execute("BEGIN")
        if self.tx["async"]:
            self.execute("SET LOCAL synchronous_commit = off")
        if register_early:
            self.register()
        getattr(self, self.tx["kind"])()
        if not register_early:
            self.register()

    def register(self):
        self.tx["xid"] = self.execute("INSERT INTO ledger VALUES (%s, pg_current_xact_id())"
                                      " RETURNING xid::text", self.tx["t"])[0][0]

    def end(self):
        if self.rng.random() < 0.2:
            outcome, statement = "fail", "ROLLBACK"
        elif self.tx["kind"] == "prepared":
            outcome, statement = "prepared", "PREPARE TRANSACTION '%s'" % self.tx["t"]
        else:
            outcome, statement = "ok", "COMMIT"
        try:
            self.execute(statement)
        except psycopg2.Error as error:
            if outcome != "fail":
                outcome = "info" if is_unknown(error) else "fail"
            self.log.write({"op": outcome, "t": self.tx["t"], "at": now(), "port": self.port})
            raise
        self.log.write({"op": outcome, "t": self.tx["t"], "at": now(), "port": self.port})
        if outcome == "prepared":
            self.finisher.take(self.tx["t"], now() + self.rng.choice([0, 0, 0.05, 0.3, 2]))

    def expect(self, type, key, n=None, w=None):
        """Note an event that is about to be emitted; returns it."""
        event = {"i": len(self.tx["events"]), "type": type, "key": key, "n": n, "w": w,
                 "id": None, "at": now(), "undone": False}
        self.tx["events"].append(event)
        return event

    def payload(self, event):
        payload = {"t": self.tx["t"], "i": event["i"], "n": event["n"], "w": event["w"]}
        if self.rng.random() < 0.01:
            payload["pad"] = "%x" % self.rng.getrandbits(40000)    # too long for NOTIFY
        return payload

    def emit(self, type, key, n=None):
        event = self.expect(type, key, n, self.number)
        event["id"] = self.execute("SELECT eventstore.emit(%s, %s::jsonb, %s)", type,
                                   json.dumps(self.payload(event)), key)[0][0]
        return event

    def count_and_emit(self):
        key = self.rng.choice(KEYS)
        n = self.execute("UPDATE counter SET n = n + 1 WHERE key = %s RETURNING n", key)[0][0]
        return self.emit("order.counted", key, n)

    # The kinds of transactions.

    def counted(self):
        for _ in range(self.rng.choice([1, 1, 1, 1, 1, 2])):
            self.count_and_emit()

    def free(self):
        for _ in range(self.rng.randint(1, 5)):
            self.emit("free.thing", self.rng.choice([None, "free-%d" % self.rng.randint(1, 9)]))

    def savepoint(self):
        if self.rng.random() < 0.5:
            self.emit("order.kept", "kept")
        self.execute("SAVEPOINT a")
        undone = [self.count_and_emit()]
        if self.rng.random() < 0.5:
            self.execute("SAVEPOINT b")
            undone.append(self.emit("order.undone", "undone"))
        self.execute("ROLLBACK TO a")
        event = self.expect("order.undone", "undone", w=self.number)
        undone.append(event)
        self.execute("SELECT emit_and_fail(%s::jsonb)", json.dumps(self.payload(event)))
        for event in undone:
            event["undone"] = True
        self.emit("order.kept", "kept")

    def prepared(self):
        self.counted()

    def batch(self):
        events = [self.expect("batch.thing", "batch-%d" % i, w=self.number) for i in range(self.rng.randint(2, 20))]
        batch = [{"type": e["type"], "key": e["key"], "payload": self.payload(e)} for e in events]
        ids = self.execute("SELECT eventstore.emit_batch(%s::jsonb)", json.dumps(batch))
        for event, row in zip(events, ids):
            event["id"] = row[0]

    def bulk(self):
        count = self.rng.choice([1, 10, 100, 500])
        for i in range(count):
            self.expect("bulk.inserted", "bulk-%d" % i)
        self.execute("INSERT INTO item SELECT %s, i FROM generate_series(0, %s) i", self.tx["t"], count - 1)

    def long(self):
        self.emit("free.thing", None)
        self.pause(0.5, 4)
        self.emit("free.thing", None)


class Finisher(Client):
    """Ends prepared transactions, in a session that did not prepare them; all of them in the end."""

    def __init__(self, directory, seed):
        super().__init__(directory, "finisher", seed)
        self.log = Log(os.path.join(directory, "load-finisher.jsonl"))
        self.queue = queue.Queue()
        self.due = {}
        self.emitters_done = threading.Event()
        self.none_left = False
        self.last_look = 0

    def take(self, name, due):
        self.queue.put((name, due))

    def done(self):
        return self.none_left

    def step(self):
        time.sleep(0.02)
        while not self.queue.empty():
            name, due = self.queue.get()
            self.due[name] = due
        for name in [n for n, due in self.due.items() if due <= now() or stop.is_set()]:
            self.finish(name)
        # Those whose PREPARE or COMMIT PREPARED got no answer.
        if now() - self.last_look > 0.5 or self.emitters_done.is_set():
            self.last_look = now()
            emitters_done = self.emitters_done.is_set()
            left = self.execute("SELECT gid FROM pg_prepared_xacts"
                                " WHERE %s OR prepared < now() - interval '1 s'", emitters_done)
            for (name,) in left:
                if name not in self.due:
                    self.finish(name)
            self.none_left = emitters_done and not left

    def finish(self, name):
        how = "ROLLBACK" if zlib.crc32(name.encode()) % 5 == 0 else "COMMIT"
        try:
            self.execute("%s PREPARED '%s'" % (how, name))
        except psycopg2.Error as error:
            self.due.pop(name, None)
            if error.pgcode == "55000":    # busy: its session has not quite left it
                return
            self.log.write({"op": "info", "t": name, "at": now(), "port": self.port})
            if error.pgcode != "42704":    # it is not there: another life ended it, or a crash took it
                raise
        else:
            self.due.pop(name, None)
            self.log.write({"op": "ok" if how == "COMMIT" else "fail", "t": name, "at": now(), "port": self.port})


class LongWriter(Client):
    """Holds an xid for seconds and writes elsewhere."""

    def step(self):
        self.execute("BEGIN")
        self.execute("INSERT INTO elsewhere VALUES ('a long transaction')")
        self.pause(2, 8)
        self.execute(self.rng.choice(["COMMIT", "ROLLBACK"]))


class SnapshotHolder(Client):
    """Keeps an old snapshot."""

    def step(self):
        self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        self.execute("SELECT count(*) FROM counter")
        self.pause(5, 15)
        self.execute("COMMIT")


class HandSealer(Client):
    """Competes with the dispatcher."""

    def step(self):
        self.pause(0.1, 1)
        self.execute("SELECT eventstore.seal()")


def main(directory, seed):
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    finisher = Finisher(directory, seed)
    emitters = [Emitter(directory, i, seed, finisher) for i in range(EMITTERS)]
    others = [LongWriter(directory, "long-writer-%d" % i, seed) for i in range(2)]
    others += [SnapshotHolder(directory, "snapshot-holder", seed), HandSealer(directory, "hand-sealer", seed)]
    for thread in [finisher] + emitters + others:
        thread.daemon = True
        thread.start()
    stop.wait()
    for thread in emitters + others:
        thread.join()
    finisher.emitters_done.set()
    finisher.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
