TITLE = "every event of every committed transaction is in the feed"


def check(history):
    for store in history.stores:
        in_feed = {}
        for event in store.feed:
            in_feed[event.tag] = event
        for id in store.unsealed:
            yield "%s: event %d is committed and has no position" % (store.name, id)
        for name in store.ledger:
            transaction = history.transactions.get(name)
            if transaction is None:
                yield "%s: transaction %s is there, and no client knows of it" % (store.name, name)
                continue
            for event in transaction.wanted():
                recorded = in_feed.get(event.tag)
                if recorded is None:
                    yield "%s: event %s of a committed transaction is not in the feed" % (store.name, event.tag)
                elif ((event.id is not None and event.id != recorded.id) or
                      (event.key, event.type, event.n) != (recorded.key, recorded.type, recorded.n)):
                    yield "%s: %s stands in the feed as %s" % (store.name, event, recorded)
