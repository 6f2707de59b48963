TITLE = "a history that lost its tail is another epoch: nothing is issued again, who saw the tail is told"


def check(history):
    for store in history.stores[:-1]:
        yield from check_fork(history, store, history.final())
    for subscriber in history.subscribers:
        yield from check_told(history, subscriber)


def fork(history):
    """Where the last history left the one before; None where there is one only."""
    old = history.stores[0].epochs
    added = [e for e in history.final().epochs if e not in old]
    return added[0] if len(history.stores) > 1 and added else None


def check_fork(history, old, new):
    begun = fork(history)
    if begun is None:
        if new.feed and new.feed != old.feed[:len(new.feed)]:
            yield "the new primary began no epoch"
        return
    first, end = begun
    if first <= max((e.position for e in old.feed), default=0):
        yield "the new epoch begins at %d, within the old history" % first

    before = [e for e in new.feed if e.position < first]
    if [(e.position, e.id, e.tag) for e in before] != [(e.position, e.id, e.tag) for e in old.feed[:len(before)]]:
        yield "the new primary's feed does not begin like the old one's"
    if (before[-1].position if before else 0) != end:
        yield "history is said to have ended at %d, but its last position is %d" % (
            end, before[-1].position if before else 0)

    old_ids = {e.id: e.tag for e in old.feed}
    for event in new.feed:
        if event.id in old_ids and event.tag != old_ids[event.id]:
            yield "id %d was %s and is %s" % (event.id, old_ids[event.id], event.tag)
    for event in new.feed[len(before):]:
        if event.id < first and event.tag[0] in history.transactions and max(
                e.at for e in history.transactions[event.tag[0]].events) > promoted_at(history):
            yield "id %d was issued after the promotion, below %d" % (event.id, first)


def promoted_at(history):
    return max((f["ended_at"] for f in history.faults if f["kind"] == "promote the standby"), default=float("inf"))


def check_told(history, subscriber):
    begun = fork(history)
    position = 0
    for record in subscriber.records:
        if record["op"] == "history":
            if begun is None or record["position"] != begun[1]:
                yield "%s was told that history ended at %d, which it did not" % (subscriber.name, record["position"])
            elif record["from"] <= record["position"]:
                yield "%s stood at %d and was told of another history" % (subscriber.name, record["from"])
        elif record["op"] in ("event", "again", "at") and begun is not None:
            if begun[1] < position < begun[0] <= record["position"]:
                yield "%s went from %d to %d and was not told of another history" % (
                    subscriber.name, position, record["position"])
        if record["op"] in ("event", "again", "at", "history"):
            position = record["position"]
