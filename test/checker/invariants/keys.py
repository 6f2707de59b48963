TITLE = "each key's events keep their true order, in the feed and at each receiver"


def check(history):
    for store in history.stores:
        last = {}
        for event in store.feed:
            if event.n is None:
                continue
            # The row lock makes the counters of what committed 1, 2, 3 ...
            if event.n != last.get(event.key, 0) + 1:
                yield "%s: position %d: %s has %d after %d" % (
                    store.name, event.position, event.key, event.n, last.get(event.key, 0))
            last[event.key] = event.n

    for subscriber in history.subscribers:
        last = {}
        for record in subscriber.records:
            if record["op"] == "history":
                last = {}    # counters went back with the history; "again" is not handled
            if record["op"] != "event" or record["n"] is None:
                continue
            if record["n"] <= last.get(record["key"], 0):
                yield "%s: %s has %d after %d" % (
                    subscriber.name, record["key"], record["n"], last[record["key"]])
            last[record["key"]] = record["n"]
