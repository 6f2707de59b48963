"""What is done to the servers.  The schedule follows from the seed alone."""

import os
import random
import signal
import threading
import time

import psycopg2

from cluster import connect, query, wait_until
from history import now

TABLES = ["eventstore.subscription"] + ["eventstore_internal." + t for t in (
    "segment", "pass", "epoch", "progress", "idempotency")]

# Rewrites that are not MVCC-safe: for whoever has an older snapshot, the table is empty.
REWRITES = [
    "ALTER TABLE eventstore.event ALTER headers TYPE jsonb USING headers || '{}'",
    "ALTER TABLE eventstore.subscription ALTER state_reason TYPE text USING state_reason || ''",
    "ALTER TABLE eventstore_internal.segment ALTER event_count TYPE integer USING event_count + 0",
    "ALTER TABLE eventstore_internal.pass ALTER next_position TYPE bigint USING next_position + 0",
    "ALTER TABLE eventstore_internal.epoch ALTER previous_head TYPE bigint USING previous_head + 0",
    "ALTER TABLE eventstore_internal.progress ALTER delivered TYPE bigint USING delivered + 0",
]

# Share of each kind in a schedule.
KINDS = {
    "kill postmaster": 2,               # kill -9, its children notice by and by
    "kill all processes": 2,            # kill -9, as a power cut but for the disk cache
    "kill dispatcher": 1,               # kill -9; the server reinitialises
    "kill launcher": 1,
    "restart fast": 1,
    "restart immediate": 1,
    "cancel and terminate workers": 2,  # again and again for a second
    "lock storm": 3,
    "kill a listener": 3,
    "kill a reader": 2,
    "kill standby": 1,
    "fail notifications": 1,
    "freeze dispatcher": 1,
    "pause and resume": 1,
}

PROMOTION = "promote the standby"


def schedule(seed, seconds, kinds=None):
    """[(seconds from the start, kind, seed of its own)], in this order; one at a time.

    `kinds`: only these.
    """
    rng = random.Random(seed)
    kinds = kinds or [*KINDS, PROMOTION]
    promotion = [(round(seconds * rng.uniform(0.5, 0.7), 1), PROMOTION, rng.randrange(1 << 30))]
    bag = []
    plan = []
    at = rng.uniform(0.5, 2)
    while at < seconds - 1:
        if not bag:
            bag = [kind for kind, share in KINDS.items() for _ in range(share) if kind in kinds]
            if not bag:
                break
            rng.shuffle(bag)
        plan.append((round(at, 1), bag.pop(), rng.randrange(1 << 30)))
        at += rng.uniform(1, 4)
    return sorted(plan + (promotion if PROMOTION in kinds else []))


class Faults:
    """Carries a schedule out.  `group` has what there is to break, see round.py."""

    def __init__(self, group, log):
        self.group = group
        self.log = log

    def run(self, plan, started):
        for at, kind, seed in plan:
            time.sleep(max(0, started + at - now()))
            self.rng = random.Random(seed)
            begun = now()
            result = getattr(self, kind.replace(" ", "_"))()
            self.log.write({"kind": kind, "planned": at, "begun": begun - started, "took": now() - begun,
                            "ended_at": now(), "result": result or "done"})

    def primary(self):
        return self.group.primary

    def signal_worker(self, kind, number):
        """Send a signal to a worker, waiting for it if it is being restarted."""
        wait_until(kind + " runs", lambda: kind in self.primary().workers(), 30)
        os.kill(self.primary().workers()[kind], number)

    def kill_postmaster(self):
        self.primary().kill(with_children=False)
        time.sleep(self.rng.uniform(0, 0.5))
        self.primary().start()

    def kill_all_processes(self):
        self.primary().kill(with_children=True)
        time.sleep(self.rng.uniform(0, 0.5))
        self.primary().start()

    def kill_dispatcher(self):
        self.signal_worker("dispatcher", signal.SIGKILL)
        time.sleep(0.1)
        self.primary().wait_ready()

    def kill_launcher(self):
        self.signal_worker("launcher", signal.SIGKILL)
        time.sleep(0.1)
        self.primary().wait_ready()

    def restart_fast(self):
        self.primary().stop("fast")
        self.primary().start()

    def restart_immediate(self):
        self.primary().stop("immediate")
        self.primary().start()

    def cancel_and_terminate_workers(self):
        until = now() + self.rng.uniform(0.5, 1.5)
        terminated = 0
        connection = connect(self.primary().port)
        cursor = connection.cursor()
        while now() < until:
            cursor.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'eventstore %'")
            time.sleep(0.01)
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'eventstore %'")
            terminated += cursor.rowcount
            time.sleep(0.01)
        connection.close()
        return "%d terminated" % terminated

    def lock_storm(self):
        """For two seconds, two sessions take the strongest locks on our tables and rewrite them."""
        until = now() + 2
        counts = {"done": 0, "refused": 0}

        def storm(rng):
            connection = connect(self.primary().port)
            cursor = connection.cursor()
            cursor.execute("SET lock_timeout = '1s'")
            cursor.execute("SET statement_timeout = '5s'")
            while now() < until:
                cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits"
                               " WHERE inhparent = 'eventstore.event'::regclass ORDER BY inhrelid DESC LIMIT 3")
                table = rng.choice(TABLES + [row[0] for row in cursor.fetchall()] * 2)
                try:
                    for statement in self.disturbance(rng, table):
                        cursor.execute(statement)
                    counts["done"] += 1
                except psycopg2.Error as error:
                    if error.pgcode is None or error.pgcode.startswith("57P"):
                        raise
                    cursor.execute("ROLLBACK")
                    counts["refused"] += 1
            connection.close()

        threads = [threading.Thread(target=storm, args=(random.Random(self.rng.random()),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.drop_stray_indexes()
        return "%(done)d commands done, %(refused)d refused" % counts

    def drop_stray_indexes(self):
        """What interrupted commands left; each REINDEX CONCURRENTLY would double them."""
        port = self.primary().port
        strays = query(port, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'i'"
                             " AND relname ~ '(_cc(new|old)[0-9]*|^checker_index)$'")
        for (index,) in strays:
            query(port, "DROP INDEX IF EXISTS " + index)

    @staticmethod
    def disturbance(rng, table):
        return rng.choice([
            ["VACUUM FULL " + table],
            ["VACUUM (FREEZE) " + table],
            ["REINDEX TABLE CONCURRENTLY " + table],
            ["BEGIN", "LOCK TABLE %s IN ACCESS EXCLUSIVE MODE" % table,
             "SELECT pg_sleep(%f)" % rng.uniform(0, 0.4), "COMMIT"],
            ["BEGIN", "LOCK TABLE %s IN SHARE MODE" % table,
             "SELECT pg_sleep(%f)" % rng.uniform(0, 0.4), "ROLLBACK"],
            ["DROP INDEX CONCURRENTLY IF EXISTS eventstore_internal.checker_index",
             "CREATE INDEX CONCURRENTLY checker_index ON %s ((1))" % table],
            [rng.choice(REWRITES)],
        ])

    def kill_a_listener(self):
        return self.group.kill_subscriber(self.rng.choice([s for s in self.group.subscribers if "listener" in s]))

    def kill_a_reader(self):
        return self.group.kill_subscriber(self.rng.choice([s for s in self.group.subscribers if "reader" in s]))

    def kill_standby(self):
        if self.group.standby is None:
            return "there is none any more"
        self.group.standby.kill(with_children=True)
        self.group.standby.start()

    def fail_notifications(self):
        """As a full NOTIFY queue does."""
        query(self.primary().port, "ALTER SYSTEM SET eventstore.debug_fail_notify = on")
        self.primary().reload()
        time.sleep(self.rng.uniform(0.2, 1.5))
        query(self.primary().port, "ALTER SYSTEM RESET eventstore.debug_fail_notify")
        self.primary().reload()

    def freeze_dispatcher(self):
        wait_until("dispatcher runs", lambda: "dispatcher" in self.primary().workers(), 30)
        pid = self.primary().workers()["dispatcher"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 2))
        os.kill(pid, signal.SIGCONT)

    def pause_and_resume(self):
        name = self.rng.choice(["all", "some"])
        query(self.primary().port, "SELECT eventstore.pause(%s, 'the checker')", name)
        time.sleep(self.rng.uniform(0.2, 1.5))
        query(self.primary().port, "SELECT eventstore.resume(%s)", name)

    def promote_the_standby(self):
        """The standby is cut off, the primary works on for a while and is killed: the tail is lost."""
        standby = self.group.standby
        query(standby.port, "ALTER SYSTEM SET primary_conninfo = ''")
        standby.reload()
        wait_until("the standby is cut off",
                   lambda: query(standby.port, "SELECT FROM pg_stat_wal_receiver") == [], 30)
        tail = self.rng.uniform(0.2, 2)
        time.sleep(tail)
        self.primary().kill(with_children=True)
        standby.promote()
        self.group.failover()
        return "after %.1f s that are lost" % tail
