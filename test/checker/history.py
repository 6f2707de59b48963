"""What happened: files that the clients append to, and their contents in memory.

Each client has a file of its own, one JSON object per line.  A line is appended
by one write(), so what a killed client did is known up to its last whole line.
Times are CLOCK_MONOTONIC, the same clock in all processes.

	load-*.jsonl      emitters: {"op": "invoke", "t", "xid", "async", "kind", "events": [...]}, then
	                  {"op": "ok" | "fail" | "info" | "prepared", "t", "at", "port"}
	reader-*.jsonl, listener-*.jsonl
	                  subscribers: see subscribers.py
	faults.jsonl      what was done to the servers
	subscribers.json  which subscribers there were, and what they wanted
	STORE.json        at the end: what is in a server's tables (STORE is "new" or, for a primary
	                  that was given up, "old")
"""

import collections
import glob
import json
import os
import time

# An event as the load meant it.  `tag` = (transaction name, number in it).  `at`:
# the time before emit() was called.  `n`: the key's counter, or None.  `undone`:
# rolled back to a savepoint.  `id`: as emit() returned it, or None.
Emitted = collections.namedtuple("Emitted", "tag key n id at undone w type")

# An event as the feed has it; `tag` is None where the row is missing.
Recorded = collections.namedtuple("Recorded", "position id tag key n w type xid sealed_at")


def now():
    return time.monotonic()


class Log:
    """A file to append to; what a killed predecessor left half-written is cut off."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self.fd).st_size
        with open(path, "rb") as f:
            f.seek(max(0, size - 1000000))
            end = f.read().rfind(b"\n") + 1 + max(0, size - 1000000)
        os.ftruncate(self.fd, end if size else 0)

    def write(self, *records):
        data = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in records).encode()
        while data:
            data = data[os.write(self.fd, data):]


def read_log(path):
    if not os.path.exists(path):
        return
    with open(path) as f:
        for line in f:
            if line.endswith("\n"):
                yield json.loads(line)


class Transaction:
    """One transaction of the load, and what its client heard of it."""

    def __init__(self, record):
        self.name = record["t"]
        self.xid = record["xid"]
        self.kind = record["kind"]
        self.is_async = record["async"]
        self.events = [Emitted((self.name, e["i"]), e["key"], e["n"], e["id"], e["at"], e["undone"],
                               e["w"], e["type"]) for e in record["events"]]
        self.outcome = "info"
        self.acknowledged_at = None    # when the client had the answer "committed"
        self.port = None               # from which server

    def hear(self, record):
        if record["op"] == "ok" or self.outcome != "ok":
            self.outcome = record["op"]
        if record["op"] == "ok":
            self.acknowledged_at = record["at"]
            self.port = record["port"]

    def wanted(self):
        """The events it emits if it commits."""
        return [e for e in self.events if not e.undone]


class Store:
    """The tables of one server, as they were at the end."""

    def __init__(self, name, port, ledger, status, feed, epochs, unsealed):
        self.name = name
        self.port = port
        self.ledger = ledger        # transaction name: xid, of all that committed
        self.status = status        # transaction name: pg_xact_status(), of those with an unanswered commit
        self.feed = [Recorded(*r[:2], tuple(r[2]) if r[2] else None, *r[3:]) for r in feed]    # by position
        self.epochs = epochs        # [first position, head of the one before]
        self.unsealed = unsealed    # ids of events in the outbox that have no position

    @classmethod
    def load(cls, path):
        with open(path) as f:
            return cls(**json.load(f))

    def save(self, path):
        with open(path, "w") as f:
            json.dump(vars(self), f)

    def epoch_of(self, position):
        return max((first for first, _ in self.epochs if first <= position), default=1)


def matches(pattern, type):
    """Does a type pattern match a type?"""
    return pattern in ("*", type) or (pattern.endswith(".*") and type.startswith(pattern[:-1]))


class Subscriber:
    """What a reader or listener did, over all its lives."""

    def __init__(self, name, spec, records):
        self.name = name
        self.types = spec["types"]         # None: all
        self.max_w = spec.get("max_w")     # a listener's filter, None: none
        self.records = records

    def wants(self, event):
        return ((self.types is None or any(matches(p, event.type) for p in self.types)) and
                (self.max_w is None or (event.w is not None and event.w < self.max_w)))

    def handled(self):
        return [r for r in self.records if r["op"] == "event"]


class History:
    def __init__(self, transactions, stores, subscribers, faults):
        self.transactions = transactions    # by name
        self.stores = stores                # the last one is where the subscribers ended
        self.subscribers = subscribers
        self.faults = faults

    @classmethod
    def load(cls, directory):
        def path(name):
            return os.path.join(directory, name)

        transactions = {}
        heard = []
        for file in sorted(glob.glob(path("load-*.jsonl"))):
            for record in read_log(file):
                if record["op"] == "invoke":
                    transactions[record["t"]] = Transaction(record)
                else:
                    heard.append(record)
        for record in heard:
            if record["t"] in transactions:
                transactions[record["t"]].hear(record)

        with open(path("subscribers.json")) as f:
            specs = json.load(f)
        subscribers = [Subscriber(name, spec, list(read_log(path(name + ".jsonl"))))
                       for name, spec in specs.items()]
        stores = [Store.load(path(name + ".json")) for name in ("old", "new")
                  if os.path.exists(path(name + ".json"))]
        return cls(transactions, stores, subscribers, list(read_log(path("faults.jsonl"))))

    def final(self):
        return self.stores[-1]
