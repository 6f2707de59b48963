TITLE = "within one LISTEN session notifications come in feed order and leave nothing out"


def check(history):
    for subscriber in history.subscribers:
        wanted = {}
        for store in history.stores:    # positions of both histories agree, or are not in both: epochs.py
            wanted.update((e.position, e.id) for e in store.feed if subscriber.wants(e))
        last = None
        for record in subscriber.records:
            if record["op"] == "start":
                last = None
            if record["op"] != "notified":
                continue
            if record["position"] not in wanted:
                yield "%s was notified of position %d, which it did not want" % (subscriber.name, record["position"])
            if last is not None and record["previous"] != last:
                yield "%s was notified of position %d, previous %d, but the one before was %d" % (
                    subscriber.name, record["position"], record["previous"], last)
            if record["previous"] >= record["position"]:
                yield "%s was notified of position %d, previous %d" % (
                    subscriber.name, record["position"], record["previous"])
            last = record["position"]
