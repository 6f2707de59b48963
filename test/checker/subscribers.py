"""The subscribers: readers and LISTEN clients.  Each is a process of its own, to be killed at any time.

	subscribers.py DIRECTORY NAME

What there is to do stands in subscribers.json.  The file NAME.jsonl is both what
the subscriber has done and its position: a handled event is a line, and the
position is that of the last line, so that effect and progress are one write.

	{"op": "start"}                        a new life, or a new connection
	{"op": "event", "position", "id", "t", "i", "key", "n", "how"}   handled
	{"op": "again", "position", "id"}      not handled: the same id was, in the history that was lost
	{"op": "at", "position"}               nothing wanted up to here
	{"op": "history", "from", "position"}  told (ES001) that history ended at `position`
	{"op": "notified", "position", "previous", "truncated"}    a notification came
	{"op": "error", "code", "message"}
"""

import json
import os
import random
import re
import select
import sys
import time

import psycopg2

from cluster import connect
from history import Log, now, read_log
from load import current_primary

PAGE = """
SELECT position, id, coalesce(payload->>'t', payload->'new'->>'t'),
       coalesce(payload->>'i', payload->'new'->>'i')::int, key, (payload->>'n')::bigint, (payload->>'w')::int
FROM eventstore.read(%s, %s, %s, %s)
"""

# Seconds without a notification after which a LISTEN client reads.
SILENCE = 5


class Subscriber:
    def __init__(self, directory, name):
        self.directory = directory
        with open(os.path.join(directory, "subscribers.json")) as f:
            self.spec = json.load(f)[name]
        self.types = self.spec["types"] or ["*"]
        self.rng = random.Random(name)
        path = os.path.join(directory, name + ".jsonl")
        self.position = 0
        self.lost_ids = set()    # handled in a history that was lost
        self.log = Log(path)     # cuts off what is half-written
        handled = []
        for record in read_log(path):
            if record["op"] == "event":
                handled.append(record)
            if record["op"] == "history":
                self.forget(record["position"], handled)
            if record["op"] in ("event", "again", "at", "history"):
                self.position = record["position"]

    def forget(self, end, handled):
        """History ended at `end`: what was handled beyond may come again, at another position."""
        self.lost_ids |= {r["id"] for r in handled if r["position"] > end}

    def connect(self):
        self.connection = connect(self.spec["port"] or current_primary(self.directory))
        self.cursor = self.connection.cursor()
        self.log.write({"op": "start", "at": now()})

    def wants(self, w):
        """The part of a filter that read() does not know."""
        return self.spec.get("max_w") is None or (w is not None and w < self.spec["max_w"])

    def records(self, rows, how):
        for position, id, t, i, key, n, w in rows:
            if id in self.lost_ids:
                yield {"op": "again", "position": position, "id": id}
            elif self.wants(w):
                yield {"op": "event", "position": position, "id": id, "t": t, "i": i, "key": key, "n": n, "how": how}

    def handle(self, rows, how, upto):
        """Handle events, and be at `upto` then."""
        records = list(self.records(rows, how))
        if upto > (records[-1]["position"] if records else self.position):
            records.append({"op": "at", "position": upto})
        if records:
            self.log.write(*records)
            self.position = upto

    def read_page(self, upto):
        """Read and handle one page; was it the last?"""
        self.cursor.execute(PAGE, (self.position, self.spec["page"], self.types, upto))
        rows = self.cursor.fetchall()
        last = len(rows) < self.spec["page"]
        reached = rows[-1][0] if rows else self.position
        self.handle(rows, "page", max(reached, upto) if last and upto is not None else reached)
        return last

    def read_upto_head(self):
        self.cursor.execute("SELECT eventstore.head()")
        upto = self.cursor.fetchone()[0]
        while not self.read_page(upto):
            pass

    def told_of_another_history(self, error):
        end = int(re.search(r"ended at (\d+)", error.diag.message_detail).group(1))
        self.forget(end, [r for r in read_log(os.path.join(self.directory, self.spec["name"] + ".jsonl"))
                          if r["op"] == "event"])
        self.log.write({"op": "history", "from": self.position, "position": end})
        self.position = end

    def run(self):
        while True:
            try:
                self.connect()
                self.loop()
            except psycopg2.Error as error:
                if error.pgcode == "ES001":
                    self.told_of_another_history(error)
                elif error.pgcode is not None:
                    self.log.write({"op": "error", "code": error.pgcode, "message": str(error)[:500], "at": now()})
                time.sleep(0.1)


class Reader(Subscriber):
    def loop(self):
        while True:
            # Only who filters must know how far a short page reached.
            if self.spec["types"]:
                self.read_upto_head()
                time.sleep(self.rng.uniform(0, 0.1))
            elif self.read_page(None):
                time.sleep(self.rng.uniform(0, 0.05))


class Listener(Subscriber):
    def loop(self):
        self.cursor.execute("LISTEN " + self.spec["channel"])
        self.read_upto_head()
        heard_at = now()
        while True:
            select.select([self.connection], [], [], 0.5)
            self.connection.poll()
            while self.connection.notifies:
                self.notified(json.loads(self.connection.notifies.pop(0).payload))
                heard_at = now()
            if now() - heard_at > SILENCE:
                self.read_upto_head()
                heard_at = now()

    def notified(self, n):
        self.log.write({"op": "notified", "position": n["position"], "previous": n["previous"],
                        "truncated": n.get("truncated", False)})
        if n["position"] <= self.position:
            return
        if n["previous"] <= self.position and not n.get("truncated"):
            row = n["payload"].get("new", n["payload"])
            self.handle([(n["position"], n["id"], row["t"], row["i"], n["key"], row.get("n"),
                          n["payload"].get("w"))], "notification", n["position"])
        else:
            self.read_upto_head()


def main(directory, name):
    kind = Listener if name.startswith("listener") else Reader
    kind(directory, name).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
