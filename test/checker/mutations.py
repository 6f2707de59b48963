"""Faults planted in a recorded history: what a wrong event store would have left behind.

Where the feed is wrong, the subscribers get the wrong feed: that they got another one
than the tables hold would give every fault away.
"""

import collections
import copy
import itertools


class CannotPlant(Exception):
    pass


def renumber(history, events):
    """Make `events`, in this order, the feed; all subscribers read just that."""
    store = history.stores[-1]
    history.stores = [store]
    store.epochs = [[1, 0]]
    store.feed = [e._replace(position=i) for i, e in enumerate(events, 1)]
    for subscriber in history.subscribers:
        subscriber.records = [record(e) for e in store.feed if subscriber.wants(e)]


def record(event):
    return {"op": "event", "position": event.position, "id": event.id, "t": event.tag[0], "i": event.tag[1],
            "key": event.key, "n": event.n, "how": "page"}


def sound(history):
    """Not a fault: the feed of the new primary without what was before.  For comparison."""
    renumber(history, history.final().feed)


def order_by_xid(history):
    renumber(history, sorted(history.final().feed, key=lambda e: (e.xid, e.id)))


def id_after_last(history):
    """`WHERE id > last`, asked after each pass: what has a lower id is never seen again."""
    kept, last = [], 0
    for _, sealed_at_once in itertools.groupby(history.final().feed, key=lambda e: e.sealed_at):
        seen = [e for e in sealed_at_once if e.id > last]
        kept += seen
        last = max([last] + [e.id for e in seen])
    renumber(history, kept)


def drop_one(history):
    feed = history.final().feed
    renumber(history, feed[:len(feed) // 2] + feed[len(feed) // 2 + 1:])


def double_one(history):
    feed = history.final().feed
    renumber(history, feed[:len(feed) // 2] + feed[len(feed) // 2 - 1:])


def swap_two(history):
    """Two events of one key change places."""
    feed = list(history.final().feed)
    at = {}
    for i, event in enumerate(feed):
        if event.n is not None and event.key in at and feed[at[event.key]].tag[0] != event.tag[0]:
            j = at[event.key]
            feed[i], feed[j] = feed[j], feed[i]
            renumber(history, feed)
            return
        at[event.key] = i
    raise CannotPlant("no key has two events")


def leave_a_gap(history):
    renumber(history, history.final().feed)
    history.stores[0].feed = [e._replace(position=e.position + (e.position > 10)) for e in history.stores[0].feed]
    for subscriber in history.subscribers:
        subscriber.records = [record(e) for e in history.stores[0].feed if subscriber.wants(e)]


def notify_aborted(history):
    """An event that was rolled back is in the feed."""
    feed = history.final().feed
    transaction = next((t for t in history.transactions.values() if t.outcome == "fail" and t.wanted()), None)
    if transaction is None:
        raise CannotPlant("nothing was rolled back")
    e = transaction.wanted()[0]
    event = feed[-1]._replace(id=feed[-1].id + 1, tag=e.tag, key=e.key, n=e.n, w=e.w, type=e.type)
    renumber(history, feed + [event])


def notify_before_commit(history):
    """A LISTEN client alone hears of an event that was rolled back."""
    renumber(history, history.final().feed)
    listener = history.subscribers[-1]
    t = next(t for t in history.transactions.values() if t.outcome == "fail" and t.wanted())
    listener.records.append(dict(listener.records[-1], t=t.name, i=t.wanted()[0].tag[1],
                                 position=listener.records[-1]["position"] + 1))


def one_of_two(feed):
    """Where an event stands whose transaction has others in the feed."""
    events = collections.Counter(e.tag[0] for e in feed)
    at = next((i for i in range(len(feed) - 1, 0, -1) if events[feed[i].tag[0]] > 1), None)
    if at is None:
        raise CannotPlant("no transaction has two events")
    return at


def half_a_transaction(history):
    feed = history.final().feed
    at = one_of_two(feed)
    renumber(history, feed[:at] + feed[at + 1:])


def seal_in_two_passes(history):
    """A transaction's events become readable one after the other."""
    feed = list(history.final().feed)
    at = one_of_two(feed)
    feed[at] = feed[at]._replace(sealed_at=feed[at].sealed_at + 1)
    renumber(history, feed)


def acknowledge_before_handling(history):
    """A subscriber stores its position, is killed, and handles what comes after.

    What comes after is of the same history: the end of one that was lost need not be read.
    """
    records = history.subscribers[0].records
    handled = [i for i, r in enumerate(records) if r["op"] in ("event", "history")]
    at = next((i for i, after in reversed(list(zip(handled, handled[1:])))
               if records[i]["op"] == "event" and records[after]["op"] == "event" and
               any(r["op"] == "start" for r in records[i:after])), None)
    if at is None:              # it was not killed in the right place: say it was
        at = next(i for i, after in reversed(list(zip(handled, handled[1:])))
                  if records[i]["op"] == records[after]["op"] == "event")
    del records[at]


def handle_before_storing(history):
    """A subscriber handles, is killed, and has not stored its position."""
    records = history.subscribers[0].records
    i = max(i for i, r in enumerate(records) if r["op"] == "event")
    records.insert(i, records[i])


def swap_at_a_reader(history):
    records = history.subscribers[1].records
    i, j = [i for i, r in enumerate(records) if r["op"] == "event"][-2:]
    records[i], records[j] = records[j], records[i]


def end_early(history):
    """A subscriber stops before the end of the feed."""
    records = history.subscribers[2].records
    del records[max(i for i, r in enumerate(records) if r["op"] == "event"):]


def lose_a_notification(history):
    """One is not sent; the client's loop makes up for it."""
    records = history.subscribers[-2].records
    for i in range(2, len(records)):
        if [r["op"] for r in records[i - 2:i + 1] if r["op"] != "event"] == ["notified"] * 3 or (
                records[i]["op"] == "event" and records[i - 1]["op"] == "notified" and
                any(r["op"] == "notified" for r in records[i + 1:i + 3])):
            at = next(j for j in range(i, -1, -1) if records[j]["op"] == "notified")
            if any(r["op"] == "notified" for r in records[max(0, at - 3):at]):
                del records[at]
                return
    raise CannotPlant("no three notifications in a row")


def lose_acknowledged(history):
    name = next(t.name for t in history.transactions.values()
                if t.outcome == "ok" and not t.is_async and t.port == history.final().port)
    del history.final().ledger[name]
    history.final().feed = [e for e in history.final().feed if e.tag[0] != name]
    renumber(history, history.final().feed)


def begun(history):
    """(first position of the new epoch, end of the old history, what was lost of it)."""
    if len(history.stores) < 2 or len(history.final().epochs) < 2:
        raise CannotPlant("the round had no promotion")
    first, end = history.final().epochs[-1]
    tail = [e for e in history.stores[0].feed if e.position > end]
    if not tail or not [e for e in history.final().feed if e.position >= first]:
        raise CannotPlant("the promotion lost nothing")
    return first, end, tail


def silent_failover(history):
    """A reader that saw the lost tail goes on in the new history."""
    first, _, _ = begun(history)
    reader = history.subscribers[0]
    reader.records = ([record(e) for e in history.stores[0].feed if reader.wants(e)] +
                      [record(e) for e in history.final().feed if e.position >= first and reader.wants(e)])


def issue_again(history):
    """The new primary uses the positions of the lost tail again."""
    first, end, _ = begun(history)
    new = history.final()
    new.epochs = new.epochs[:-1]
    new.feed = [e._replace(position=e.position - first + end + 1) if e.position >= first else e for e in new.feed]
    reader = history.subscribers[0]
    reader.records = [record(e) for e in new.feed if reader.wants(e)]


def issue_an_id_again(history):
    first, _, tail = begun(history)
    old_ids = {e.id for e in tail}
    new = history.final()
    at = next(i for i, e in enumerate(new.feed) if e.position >= first and e.id not in old_ids)
    taken = next((e for e in tail if e.tag != new.feed[at].tag and e.id not in {f.id for f in new.feed}), None)
    if taken is None:
        raise CannotPlant("all of the tail was sealed again")
    new.feed[at] = new.feed[at]._replace(id=taken.id)
    for subscriber in history.subscribers:
        for i, r in enumerate(subscriber.records):
            if r["op"] in ("event", "again") and r["position"] == new.feed[at].position:
                subscriber.records[i] = dict(r, id=taken.id)


# What is planted, and the invariants of which at least one must see it.
ALL = {
    order_by_xid: {"keys", "real_time"},
    id_after_last: {"lost"},
    drop_one: {"lost"},
    double_one: {"positions"},
    swap_two: {"keys"},
    leave_a_gap: {"positions"},
    notify_aborted: {"aborted"},
    notify_before_commit: {"aborted"},
    half_a_transaction: {"atomic"},
    seal_in_two_passes: {"atomic"},
    acknowledge_before_handling: {"readers"},
    handle_before_storing: {"twice"},
    swap_at_a_reader: {"readers"},
    end_early: {"readers"},
    lose_a_notification: {"notifications"},
    lose_acknowledged: {"acknowledged"},
    silent_failover: {"epochs"},
    issue_again: {"epochs"},
    issue_an_id_again: {"epochs"},
}


def plant(mutation, history):
    """A copy of a history with a fault in it."""
    planted = copy.copy(history)
    planted.transactions = dict(history.transactions)
    planted.stores = [copy.copy(s) for s in history.stores]
    for store in planted.stores:
        store.feed = list(store.feed)
        store.ledger = dict(store.ledger)
    planted.subscribers = [copy.copy(s) for s in history.subscribers]
    for subscriber in planted.subscribers:
        subscriber.records = list(subscriber.records)
    mutation(planted)
    return planted
