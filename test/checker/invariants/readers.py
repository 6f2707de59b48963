TITLE = "what each reader and listener got, put together, is the feed, to its end"


def stretches(records):
    """What was got, divided where the subscriber was told of another history: (told, records)."""
    told, stretch = None, []
    for record in records:
        if record["op"] == "history":
            yield told, stretch
            told, stretch = record, []
        elif record["op"] in ("event", "again"):
            stretch.append((record["position"], record["id"]))
    yield told, stretch


def check(history):
    for subscriber in history.subscribers:
        parts = list(stretches(subscriber.records))
        if len(parts) > len(history.stores):
            yield "%s was told of another history %d times" % (subscriber.name, len(parts) - 1)
            continue
        # Who was told nothing saw the last history only.
        stores = history.stores[-len(parts):]
        for store, (told, got) in zip(stores, parts):
            begin = told["position"] if told else 0
            wanted = [(e.position, e.id) for e in store.feed if e.position > begin and subscriber.wants(e)]
            if got == wanted:
                continue
            at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
            if at < len(got):
                yield "%s got %s as number %d after %d, the feed of %s has %s" % (
                    subscriber.name, got[at], at + 1, begin, store.name, wanted[at] if at < len(wanted) else "no more")
            elif store is history.final():
                yield "%s did not get %d events from %s" % (subscriber.name, len(wanted) - at, wanted[at])
